"""Which messages bring a connection's products to what is wanted."""

from hypothesis import given
from hypothesis import strategies as st

from producers.plan import (
    ASK_AGAIN_AFTER,
    ASK_AGAIN_AT_LAST,
    CONFIRM_WITHIN,
    MAX_PRODUCTS,
    MAX_REPEATED,
    Refusals,
    Request,
    SubscriptionPlan,
)

BTC, ETH, SOL = "BTC-USD", "ETH-USD", "SOL-USD"


def requests(plan: SubscriptionPlan, now: float) -> list[Request]:
    """Everything that is due."""
    return list(iter(lambda: plan.next_request(now), None))


def refused(plan: SubscriptionPlan) -> list[str]:
    return sorted(plan.refusals.held)


def test_a_new_connection_asks_for_everything_once() -> None:
    plan = SubscriptionPlan([ETH, BTC])

    assert requests(plan, 0.0) == [Request(subscribe=True, products=(BTC, ETH))]
    assert requests(plan, 1.0) == []
    assert not plan.settled


def test_the_plan_is_settled_when_everything_is_confirmed() -> None:
    plan = SubscriptionPlan([BTC, ETH])
    requests(plan, 0.0)

    plan.confirm(frozenset({BTC}))
    assert not plan.settled
    plan.confirm(frozenset({BTC, ETH}))

    assert plan.settled


def test_a_change_asks_only_for_the_difference() -> None:
    plan = SubscriptionPlan([BTC, ETH])
    requests(plan, 0.0)
    plan.confirm(frozenset({BTC, ETH}))

    plan.want([ETH, SOL])

    assert requests(plan, 1.0) == [Request(subscribe=False, products=(BTC,)), Request(subscribe=True, products=(SOL,))]


def test_a_product_unwanted_before_its_confirmation_is_unsubscribed() -> None:
    plan = SubscriptionPlan([BTC, ETH])
    requests(plan, 0.0)

    plan.want([BTC])
    assert requests(plan, 0.1) == [Request(subscribe=False, products=(ETH,))]
    plan.confirm(frozenset({BTC, ETH}))

    assert requests(plan, 0.2) == [Request(subscribe=False, products=(ETH,))]


def test_a_product_that_the_exchange_drops_is_asked_for_again() -> None:
    plan = SubscriptionPlan([BTC, ETH])
    requests(plan, 0.0)
    plan.confirm(frozenset({BTC, ETH}))

    plan.confirm(frozenset({BTC}))

    assert requests(plan, 1.0) == [Request(subscribe=True, products=(ETH,))]


def test_many_products_are_split_over_messages() -> None:
    products = [f"P{number:04}-USD" for number in range(2 * MAX_PRODUCTS + 1)]

    asked = requests(SubscriptionPlan(products), 0.0)

    assert [len(request.products) for request in asked] == [MAX_PRODUCTS, MAX_PRODUCTS, 1]
    assert [product for request in asked for product in request.products] == products


def test_a_refused_product_does_not_keep_the_others_away() -> None:
    plan = SubscriptionPlan([BTC, "NO-SUCH"])
    requests(plan, 0.0)

    assert plan.refuse({"NO-SUCH"}, "not valid", 0.1) == ["NO-SUCH"]

    assert requests(plan, 0.1) == [Request(subscribe=True, products=(BTC,))]
    plan.confirm(frozenset({BTC}))
    assert plan.settled
    assert plan.refusals.held["NO-SUCH"].reason == "not valid"


def test_the_same_refusal_for_another_channel_changes_nothing() -> None:
    plan = SubscriptionPlan([BTC, "NO-SUCH"])
    requests(plan, 0.0)
    plan.refuse({"NO-SUCH"}, "not valid", 0.1)
    requests(plan, 0.1)

    assert plan.refuse({"NO-SUCH"}, "not valid", 0.2) == []
    assert requests(plan, 0.2) == []


def test_a_product_that_was_never_wanted_is_not_refused() -> None:
    plan = SubscriptionPlan([BTC])
    requests(plan, 0.0)

    assert plan.refuse({"USD"}, "USD what?", 0.1) == []
    assert refused(plan) == []
    assert requests(plan, 0.1) == []


def test_only_the_request_of_a_refused_product_is_made_again() -> None:
    products = [f"P{number:04}-USD" for number in range(2 * MAX_PRODUCTS)]
    plan = SubscriptionPlan(products)
    requests(plan, 0.0)

    plan.refuse({products[0]}, "not valid", 0.1)

    assert requests(plan, 0.1) == [Request(subscribe=True, products=tuple(products[1:MAX_PRODUCTS]))]


def test_a_product_that_the_exchange_ends_is_refused_and_not_asked_for_at_once() -> None:
    plan = SubscriptionPlan([BTC, ETH])
    requests(plan, 0.0)
    plan.confirm(frozenset({BTC, ETH}))

    assert plan.refuse({BTC}, "delisted", 1.0) == [BTC]

    assert requests(plan, 1.0) == []
    assert plan.settled


def test_a_refusal_outlives_the_connection() -> None:
    refusals = Refusals()
    first = SubscriptionPlan([BTC, "NO-SUCH"], refusals)
    requests(first, 0.0)
    first.refuse({"NO-SUCH"}, "not valid", 0.1)

    second = SubscriptionPlan([BTC, "NO-SUCH"], refusals)

    assert requests(second, 1.0) == [Request(subscribe=True, products=(BTC,))]
    second.confirm(frozenset({BTC}))
    assert second.settled


def test_products_refused_before_are_asked_for_apart_from_the_others_and_few_at_a_time() -> None:
    bogus = [f"NO-{number:02}" for number in range(MAX_REPEATED + 1)]
    refusals = Refusals()
    for product in bogus:
        refusals.add(product, "not valid", 0.0)

    asked = requests(SubscriptionPlan([BTC, *bogus], refusals), ASK_AGAIN_AFTER)

    assert [len(request.products) for request in asked] == [1, MAX_REPEATED, 1]
    assert asked[0].products == (BTC,)


def test_a_product_refused_again_and_again_is_asked_for_ever_more_rarely() -> None:
    refusals = Refusals()
    pauses = []
    for _ in range(10):
        refusals.add(BTC, "not valid", 0.0)
        pauses.append(refusals.held[BTC].again_at)

    assert pauses[:3] == [ASK_AGAIN_AFTER, 2 * ASK_AGAIN_AFTER, 4 * ASK_AGAIN_AFTER]
    assert pauses[-1] == ASK_AGAIN_AT_LAST


def test_a_refusal_of_a_product_that_nobody_wants_is_forgotten() -> None:
    refusals = Refusals()
    refusals.add(BTC, "not valid", 0.0)

    refusals.keep([ETH])

    assert refusals.held == {}


def test_a_refused_product_is_asked_for_again_later() -> None:
    plan = SubscriptionPlan(["NEW-USD"])
    requests(plan, 0.0)
    plan.refuse({"NEW-USD"}, "not valid", 1.0)

    assert requests(plan, ASK_AGAIN_AFTER) == []
    assert requests(plan, ASK_AGAIN_AFTER + 1.0) == [Request(subscribe=True, products=("NEW-USD",))]
    assert plan.settled


def test_a_product_that_is_never_confirmed_is_given_up() -> None:
    plan = SubscriptionPlan([BTC, ETH])
    requests(plan, 0.0)
    plan.confirm(frozenset({BTC}))

    assert plan.expire(CONFIRM_WITHIN - 0.1) == []
    assert plan.expire(CONFIRM_WITHIN) == [ETH]

    assert plan.settled


def test_a_late_confirmation_takes_a_refusal_back() -> None:
    plan = SubscriptionPlan([BTC])
    requests(plan, 0.0)
    plan.expire(CONFIRM_WITHIN)

    plan.confirm(frozenset({BTC}))

    assert refused(plan) == []


_PRODUCTS = st.sets(st.sampled_from([f"P{n}-USD" for n in range(8)]))


@given(st.lists(st.tuples(_PRODUCTS, st.booleans()), min_size=1, max_size=12))
def test_the_exchange_ends_up_with_what_is_wanted_last(steps: list[tuple[set[str], bool]]) -> None:
    plan = SubscriptionPlan()
    subscribed: set[str] = set()
    answers: list[frozenset[str]] = []
    for wanted, answered in [*steps, (steps[-1][0], True), (steps[-1][0], True)]:
        plan.want(wanted)
        for request in requests(plan, 0.0):
            subscribed = subscribed | set(request.products) if request.subscribe else subscribed - set(request.products)
            answers.append(frozenset(subscribed))
        while answered and answers:
            plan.confirm(answers.pop(0))

    assert subscribed == steps[-1][0]
    assert plan.settled
