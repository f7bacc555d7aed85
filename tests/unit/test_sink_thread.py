"""The database's thread: one thing after the other, whatever becomes of each."""

import threading
from collections.abc import Iterator

import pytest

from sinks.thread import Thread


@pytest.fixture
def thread() -> Iterator[Thread]:
    made = Thread("tested")
    yield made
    made.close()


def test_tasks_are_done_in_order_in_one_thread_that_is_not_ours(thread: Thread) -> None:
    done: list[int] = []

    started = [thread.start(lambda number=number: done.append(number)) for number in range(20)]
    name = thread.run(lambda: threading.current_thread().name)

    assert done == list(range(20))
    assert all(each.done() for each in started)
    assert name == "tested"


def test_what_a_task_raises_is_raised_where_its_result_is_asked_for_and_the_next_one_is_done(thread: Thread) -> None:
    failed = thread.start(lambda: 1 / 0)

    assert thread.run(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        failed.result()


def test_it_is_idle_when_nothing_is_left_and_finish_waits_for_that_whatever_came_of_it(thread: Thread) -> None:
    idle_before = thread.is_idle()
    go_on = threading.Event()

    def fail() -> None:
        go_on.wait(10)
        raise OSError

    thread.start(fail)
    busy = not thread.is_idle()
    threading.Timer(0.05, go_on.set).start()
    thread.finish()

    assert (idle_before, busy, thread.is_idle()) == (True, True, True)


def test_closing_it_does_what_was_started() -> None:
    thread = Thread("tested")
    done: list[int] = []
    for number in range(5):
        thread.start(lambda number=number: done.append(number))

    thread.close()

    assert done == list(range(5))
