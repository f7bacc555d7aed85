"""Feed a great many arbitrary and mutated frames and pages to every exchange's language, and judge what comes of it.

Run by `make fuzz`, or `python -m tests.fuzz.venues --count 1000000 --seed 7`. The inputs of a batch depend on the
seed, the batch and its venue alone, so a failure is repeated by the command that it prints.
"""

import argparse
import os
import random
import secrets
import sys
import time
from collections import Counter
from pathlib import Path

from producers.venues.protocol import venues
from tests.support.venue_fuzz import SessionJudge, frames_of, judge_page, mutated, pages_of

BATCH = 10_000
PAGES = 0.2
"""Share of inputs that are pages over REST; the others are frames."""
TALKS = 0.002
"""Share of frames before which the session's own subscriptions change."""


def run_batch(
    venue: str, *, seed: int, batch: int, size: int, counts: Counter[str], recordings: Path | None
) -> str | None:
    """Judge one batch; return what went wrong, or None."""
    chance = random.Random(f"{seed}:{batch}:{venue}")
    frames, pages = frames_of(venue, recordings), pages_of(venue)
    shown = b""
    try:
        judge = SessionJudge(venue, counts)
        for _ in range(size):
            if chance.random() < PAGES:
                shown = mutated(chance, pages)
                judge_page(venue, shown, counts)
                continue
            if chance.random() < TALKS:
                judge.talk(chance)
            shown = mutated(chance, frames)
            judge.hear(shown if chance.random() < 0.5 else shown.decode("utf-8", "surrogateescape"))
        judge.judge_growth()
    except Exception as error:  # noqa: BLE001 - whatever is raised is what this looks for
        return f"{type(error).__name__}: {error}\n  input: {shown[:2_000]!r}"
    return None


def main(arguments: list[str] | None = None) -> int:
    """Run all batches, show progress, print the counts; return 0 if nothing went wrong."""
    options = _options(arguments)
    names = options.venue or venues()
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    batches = [options.batch] if options.batch is not None else range(-(-options.count // BATCH))
    started, done = time.monotonic(), 0
    print(f"seed {options.seed}, {options.count} inputs, recordings: {options.recordings or 'none'}", flush=True)
    for batch in batches:
        venue = names[batch % len(names)]
        size = min(BATCH, options.count - batch * BATCH) if options.batch is None else BATCH
        failure = run_batch(
            venue,
            seed=options.seed,
            batch=batch,
            size=size,
            counts=counts[venue],
            recordings=options.recordings,
        )
        done += size
        if failure is not None:
            again = f"python -m tests.fuzz.venues --seed {options.seed} --batch {batch}"
            print(f"\nFAILED: {venue}: {failure}\n  again: {again}", file=sys.stderr)
            return 1
        _show_progress(done, options.count, time.monotonic() - started)
    _show_counts(counts, done, options.seed, time.monotonic() - started)
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = os.environ.get("PULSESTREAM_SHARED")
    parser.add_argument("--count", type=int, default=1_000_000, help="inputs in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32), help="default: a new one")
    parser.add_argument("--batch", type=int, help="run this batch alone")
    parser.add_argument("--venue", action="append", choices=venues(), help="default: all")
    parser.add_argument(
        "--recordings",
        type=Path,
        default=Path(shared) / "data" if shared else None,
        help="folder of recorded frames (default: that of PULSESTREAM_SHARED)",
    )
    return parser.parse_args(arguments)


def _show_progress(done: int, count: int, seconds: float) -> None:
    end = "\r" if sys.stdout.isatty() else "\n"
    if sys.stdout.isatty() or done % (10 * BATCH) == 0:
        print(f"{done:>9,} of {count:,} inputs, {done / seconds:,.0f}/s", end=end, flush=True)


def _show_counts(counts: dict[str, Counter[str]], done: int, seed: int, seconds: float) -> None:
    for venue, found in counts.items():
        print(f"{venue}: " + ", ".join(f"{number:,} {name}" for name, number in found.most_common()))
    print(f"{done:,} inputs in {seconds:.0f} s, seed {seed}: nothing raised, nothing unsound was yielded, nothing grew")


if __name__ == "__main__":
    sys.exit(main())
