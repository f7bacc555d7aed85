"""The garbage collector of a service: seldom, but it comes."""

import gc
import time
import weakref

from pulsestream.core.collector import calm_collector


class Knot:
    """An object that keeps itself alive."""

    def __init__(self) -> None:
        self.own = self


def test_no_amount_of_new_objects_makes_a_service_look_at_its_old_ones() -> None:
    with calm_collector():
        full = gc.get_stats()[2]["collections"]
        kept = [[number] for number in range(300_000)]
        assert gc.get_stats()[2]["collections"] == full
    assert len(kept) == 300_000


def test_cycles_of_young_objects_are_collected() -> None:
    with calm_collector(young=100):
        knot = weakref.ref(Knot())
        kept = [[number] for number in range(10_000)]
        assert knot() is None
    assert len(kept) == 10_000


def test_cycles_of_old_objects_are_collected_in_time() -> None:
    knot = Knot()
    gc.collect()  # it is old now
    gone = weakref.ref(knot)
    with calm_collector(every=0.01):
        del knot
        deadline = time.monotonic() + 60
        while gone() is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert gone() is None


def test_afterwards_the_collector_is_what_it_was() -> None:
    before = gc.get_threshold()
    with calm_collector():
        assert gc.get_threshold() != before
    assert gc.get_threshold() == before
