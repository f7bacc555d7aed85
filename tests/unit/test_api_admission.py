"""What is under way is bounded, and what was held is given back."""

import pytest

from api.admission import Admission
from api.errors import Problem


def test_requests_beyond_the_bound_are_refused_until_one_ends() -> None:
    admission = Admission(max_requests=2)
    held = [admission.admit() for _ in range(2)]

    with pytest.raises(Problem) as raised:
        admission.admit()
    held[0].release()

    assert (raised.value.status, raised.value.code, raised.value.headers["Retry-After"]) == (503, "overloaded", "1")
    admission.admit()
    assert admission.requests == 2


def test_bytes_beyond_the_bound_are_refused_and_those_held_are_given_back() -> None:
    admission = Admission(max_bytes=100)
    one, other = admission.admit(), admission.admit()
    one.take(60)

    with pytest.raises(Problem, match="60 bytes"):
        other.take(41)
    other.take(40)
    one.release()
    other.release()

    assert (admission.requests, admission.bytes) == (0, 0)
