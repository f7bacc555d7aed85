"""How long a producer may speak for its shards without hearing from the broker."""

from producers.lease import LEASE, RENEW_EVERY, Lease
from producers.shards import SESSION


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def proved(time: Time) -> Lease:
    lease = Lease(time)
    lease.asked()
    lease.answered(confirmed=True)
    return lease


def test_without_a_proof_there_is_no_lease() -> None:
    lease = Lease(Time())
    assert not lease.holds()

    lease.asked()
    lease.answered(confirmed=False)

    assert not lease.holds()


def test_a_lease_ends_before_the_broker_gives_the_shards_to_others() -> None:
    time = Time()
    lease = proved(time)

    time.now += LEASE - 0.1
    assert lease.holds()
    time.now += 0.1

    assert not lease.holds()
    assert LEASE < SESSION


def test_an_answer_that_was_read_late_proves_nothing_about_now() -> None:
    time = Time()
    lease = Lease(time)
    lease.asked()

    time.now += 20.0
    lease.answered(confirmed=True)

    assert not lease.holds()


def test_one_question_is_open_at_a_time_and_the_next_comes_a_second_after_it() -> None:
    time = Time()
    lease = Lease(time)
    assert lease.is_due()
    lease.asked()

    time.now += 10 * RENEW_EVERY
    assert not lease.is_due()
    lease.answered(confirmed=False)
    assert lease.is_due()
    lease.asked()
    lease.answered(confirmed=True)
    assert not lease.is_due()
    lease.hasten()

    assert lease.is_due()


def test_a_lost_membership_is_not_proved_by_an_answer_to_an_older_question() -> None:
    time = Time()
    lease = proved(time)
    lease.asked()

    lease.void()
    assert not lease.holds()
    lease.answered(confirmed=True)
    assert not lease.holds()
    lease.asked()
    lease.answered(confirmed=True)

    assert lease.holds()
