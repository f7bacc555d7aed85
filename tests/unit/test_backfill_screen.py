"""What a person sees of a backfill."""

import io

from pulsestream.commands.backfill import Bars, Lines, at_exchange
from pulsestream.core.settings import Settings


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_say_how_far_it_is_and_how_long_the_rest_takes_every_few_seconds() -> None:
    now, out = [100.0], io.StringIO()
    with Lines(out, lambda: now[0]) as lines:
        lines.begin("trades", 10_000)
        for done in (1_000, 2_000, 4_000):
            now[0] += 4.0
            lines.advance(done, done)

    assert out.getvalue() == "trades: 2000 of 10000 (2000 records sent), 32 s left\n"


def test_lines_count_long_waits_in_minutes_and_hours() -> None:
    now, out = [0.0], io.StringIO()
    with Lines(out, lambda: now[0]) as lines:
        lines.begin("trades", 1_000)
        now[0] = 10.0
        lines.advance(1, 1)
        now[0] = 20.0
        lines.advance(500, 500)
        now[0] = 900.0
        lines.advance(750, 750)

    assert [line.rpartition(", ")[2] for line in out.getvalue().splitlines()] == [
        "2 h 46 min left",
        "20 s left",
        "5 min 0 s left",
    ]


def test_a_terminal_shows_a_bar_for_each_part_and_lines_above() -> None:
    out = Terminal()
    with Bars(out) as bars:
        bars.begin("trades", 10)
        bars.advance(10, 10)
        bars.begin("candles 1m", 5)
        bars.say("10 trades sent [all]")
        bars.advance(2, 2)

    shown = out.getvalue()
    assert all(part in shown for part in ("trades", "10/10", "candles 1m", "2/5", "10 trades sent [all]"))


def test_another_exchange_is_asked_at_its_own_address() -> None:
    stack = Settings(exchange="simulator", exchange_url="ws://127.0.0.1:1", exchange_rest_url="http://127.0.0.1:1")

    other = at_exchange(stack, "kraken")

    assert (other.exchange, other.exchange_url, other.exchange_rest_url) == ("kraken", "", "")
    assert at_exchange(stack, "simulator") == at_exchange(stack, "") == stack
