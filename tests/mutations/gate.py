"""The mutation gate: disables each guard in a copy of the tree, and asks whether a test sees it.

`make mutations ARGS="offset-fence gap-told"` tries some of them, `--list` names them, `--check` only says whether
each change still applies. First all the tests run on an unchanged copy: what fails there proves nothing. A guard is
killed when each of its tests fails without it, and survives when one of them passes. The exit code is 1 when a guard
survives, when a change does not apply to exactly one place, and when the tests cannot be run.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tests.conftest import SHARED
from tests.mutations.declared import MUTATIONS, Mutation

REPOSITORY: Final = Path(__file__).parents[2]
LIMIT: Final = 900.0
"""Seconds that the tests of one guard may take."""
_PASSED, _FAILED = 0, 1
"""pytest's exit codes for all tests passed, and some failed; others say that it could not run them."""

Verdict = Literal["killed", "survived", "does not apply", "cannot be run"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a guard, the seconds that it took, and what pytest said at the end."""

    mutation: Mutation
    verdict: Verdict
    seconds: float
    said: str = ""


class DoesNotApplyError(Exception):
    """The text that a mutation replaces does not stand in its file exactly once."""


def mutated(text: str, mutation: Mutation) -> str:
    """Return a file's text with a guard disabled; raises DoesNotApplyError."""
    found = text.count(mutation.old)
    if found != 1:
        raise DoesNotApplyError(f"{mutation.name}: what it replaces stands {found} times in {mutation.file}")
    return text.replace(mutation.old, mutation.new)


def unfit(mutations: Sequence[Mutation]) -> list[str]:
    """Return why mutations do not apply to this tree, or name tests that are not there."""
    said = []
    for mutation in mutations:
        try:
            mutated((REPOSITORY / mutation.file).read_text("utf-8"), mutation)
        except (DoesNotApplyError, OSError) as error:
            said.append(str(error))
        for test in mutation.tests:
            path, _, name = test.partition("::")
            if f"def {name}(" not in (REPOSITORY / path).read_text("utf-8") and name:
                said.append(f"{mutation.name}: {path} has no test {name}")
    return said


@contextmanager
def copy_of_tree() -> Iterator[Path]:
    """Give a copy of every file that is, or would be, under version control."""
    listed = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0")
    with tempfile.TemporaryDirectory(prefix="pulsestream-mutation-") as folder:
        for name in filter(None, names):
            if (REPOSITORY / name).is_file():
                target = Path(folder) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(REPOSITORY / name, target)
        yield Path(folder)


def run_tests(tree: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Run tests in a tree; return pytest's exit code and what it said in the end."""
    command = [sys.executable, "-m", "pytest", "--heavy", "-q", "-p", "no:cacheprovider", "-rN", *tests]
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.setdefault("PULSESTREAM_SHARED", str(SHARED))  # the copy has nothing beside it
    try:
        done = subprocess.run(
            command,
            cwd=tree,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return -1, f"not done within {LIMIT:.0f} s"
    return done.returncode, last_words(done.stdout) if done.returncode in {_PASSED, _FAILED} else done.stdout[-2000:]


def last_words(said: str) -> str:
    """Return pytest's summary and, where a test failed, the error that it failed with."""
    lines = said.splitlines()
    summary = [line.strip("= ") for line in lines if re.match(r"[= ]*\d+ (passed|failed|error).* in \d", line)]
    errors = [line[1:].strip() for line in lines if line.startswith("E  ")]
    return "; ".join([*summary[-1:], *errors[:1]])


def attempt(mutation: Mutation) -> Outcome:
    """Disable one guard in a copy and run its tests."""
    began = time.monotonic()
    with copy_of_tree() as tree:
        path = tree / mutation.file
        try:
            path.write_text(mutated(path.read_text("utf-8"), mutation), "utf-8")
        except (DoesNotApplyError, OSError) as error:
            return Outcome(mutation, "does not apply", time.monotonic() - began, str(error))
        for test in mutation.tests:
            code, said = run_tests(tree, [test])
            verdict = verdict_of(code, said)
            if verdict != "killed":
                break
    return Outcome(mutation, verdict, time.monotonic() - began, said)


def verdict_of(code: int, said: str) -> Verdict:
    """Return what a run of tests says of the guard that is disabled: an error outside of a test says nothing."""
    if code == _FAILED and re.match(r"\d+ failed", said):
        return "killed"
    return "survived" if code == _PASSED else "cannot be run"


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as a table in Markdown."""
    lines = ["| guard | disabled | verdict | seen by |", "|---|---|---|---|"]
    for one in outcomes:
        tests = ", ".join(f"`{test.rpartition('::')[2].rpartition('/')[2]}`" for test in one.mutation.tests)
        lines.append(f"| {one.mutation.guard} | `{one.mutation.name}` | {one.verdict} | {tests} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Try the guards that are named, or all of them; return the exit code."""
    parser = argparse.ArgumentParser(prog="make mutations", description=__doc__)
    parser.add_argument("names", nargs="*", help="guards to try; none: every one")
    parser.add_argument("--list", action="store_true", help="name the guards")
    parser.add_argument("--check", action="store_true", help="only say whether each change applies")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests on an unchanged copy first")
    given = parser.parse_args(arguments)
    known = {mutation.name: mutation for mutation in MUTATIONS}
    unknown = [name for name in given.names if name not in known]
    if unknown:
        parser.error(f"no such guard: {', '.join(unknown)}; there are {', '.join(known)}")
    chosen = [known[name] for name in given.names] or [*MUTATIONS]
    if given.list:
        print("\n".join(f"{mutation.name:32} {mutation.guard}" for mutation in chosen))
        return 0
    problems = unfit(chosen)
    if problems or given.check:
        print("\n".join(problems) or f"{len(chosen)} changes apply")
        return 1 if problems else 0
    return _try(chosen, baseline=not given.no_baseline)


def _try(chosen: Sequence[Mutation], *, baseline: bool) -> int:
    if baseline:
        tests = list(dict.fromkeys(test for mutation in chosen for test in mutation.tests))
        with copy_of_tree() as tree:
            code, said = run_tests(tree, tests)
        print(f"unchanged: {said}", flush=True)
        if code != _PASSED:
            return 1
    outcomes = []
    for mutation in chosen:
        outcomes.append(attempt(mutation))
        last = outcomes[-1]
        print(f"{last.verdict:16} {mutation.name:32} {last.seconds:5.0f} s  {last.said}", flush=True)
    print(table(outcomes))
    return 0 if all(one.verdict == "killed" for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
