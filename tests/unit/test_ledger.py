"""The fault tests' own ledger: each of its invariants is seen to be broken where it is."""

import pytest

from tests.support.ledger import Held, Ledger, assert_kept, violations, within


@pytest.fixture
def ledger() -> Ledger:
    """Ids a, b and c of one key, accepted; r rejected; u unknown."""
    made = Ledger()
    for place, name in enumerate("abcru"):
        made.send(name, "key")
        if name in "abc":
            made.accept(name, ("topic", 0, place))
    made.reject("r")
    return made


WHOLE = Held({"a": 1, "b": 1}, letters={"c"}, places={"a": (0, 1), "b": (0, 2)})


@pytest.mark.parametrize("unknown", [{}, {"u": 1}], ids=["lost", "stored"])
def test_what_is_accepted_is_there_once_and_what_is_unknown_may_be(ledger: Ledger, unknown: dict[str, int]) -> None:
    assert_kept(ledger, Held({**WHOLE.rows, **unknown}, WHOLE.letters, places=WHOLE.places))


@pytest.mark.parametrize(
    ("held", "broken", "names"),
    [
        (Held({"a": 1, "b": 1}), "accepted, and neither a row nor a dead letter nor told of", ["c"]),
        (Held({"a": 1, "b": 1, "c": 1, "r": 1}), "rejected, and there", ["r"]),
        (Held({"a": 1, "b": 1, "c": 1}, letters={"r"}), "rejected, and there", ["r"]),
        (Held({"a": 2, "b": 1, "c": 1}), "there more than once", ["a"]),
        (Held({"a": 1, "b": 1, "c": 1, "u": 2}), "there more than once", ["u"]),
        (Held({"a": 1, "b": 1, "c": 1}, letters={"c"}), "there more than once", ["c"]),
        (Held({"a": 1, "b": 1, "c": 1, "x": 1}), "there, and never sent", ["x"]),
        (Held({"a": 1, "b": 1, "c": 1}, places={"a": (0, 2), "b": (0, 1)}), "out of its key's order", ["b"]),
    ],
)
def test_what_is_not_as_it_was_told_is_found(ledger: Ledger, held: Held, broken: str, names: list[str]) -> None:
    assert violations(ledger, held) == {broken: names}


def test_positions_are_compared_within_a_lane_and_a_key(ledger: Ledger) -> None:
    ledger.send("other", "another key")
    ledger.accept("other")
    everything = {"a": 1, "b": 1, "c": 1, "other": 1}

    assert_kept(ledger, Held(everything, places={"a": (0, 9), "b": (1, 1), "other": (0, 0)}))


def test_no_order_is_claimed_among_ids_that_were_sent_again_together_or_under_another_key(ledger: Ledger) -> None:
    ledger.blur(["a", "b"])
    ledger.send("c", "another key")
    everything = {"a": 1, "b": 1, "c": 1}

    assert_kept(ledger, Held(everything, places={"a": (0, 2), "b": (0, 1), "c": (0, 0)}))


def test_what_lies_in_a_gap_that_was_told_of_is_not_lost(ledger: Ledger) -> None:
    told = within(ledger, [("topic", 0, 1, 3), ("topic", 1, 0, 9)])

    assert told == {"b", "c"}
    assert_kept(ledger, Held({"a": 1}, told=told))


def test_an_id_that_was_rejected_cannot_be_accepted(ledger: Ledger) -> None:
    with pytest.raises(AssertionError, match="r was rejected and is accepted now"):
        ledger.accept("r")
