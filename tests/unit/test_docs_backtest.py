"""docs/backtest.md says what the code does: every command that it shows is run, and prints what it shows."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "backtest.md").read_text("utf-8")
BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run(script: str, folder: Path) -> str:
    """Return what a shell prints that finds the installed commands."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-eu", "-c", script],
        cwd=folder,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(DOCS.parent)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    return done.stdout


def examples() -> Iterator[tuple[str, str | None]]:
    """Give each script that is shown, and what is shown of its output."""
    blocks = [(match[1], match[2]) for match in BLOCK.finditer(TEXT)]
    for (kind, script), (after, output) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if kind == "sh":
            yield script, output if after == "text" else None


def test_every_command_prints_what_is_shown_below_it(tmp_path: Path) -> None:
    shown = list(examples())

    printed = [(script, run(script, tmp_path)) for script, _ in shown]

    told = [(script, output) for script, output in shown if output is not None]
    assert {script: output for script, output in printed if script in dict(told)} == dict(told)
    assert len(told) >= 2
    assert (tmp_path / "stats.jsonl").read_text().count("\n") > 50


def test_the_readme_leads_to_the_document() -> None:
    assert "docs/backtest.md" in (DOCS.parent / "README.md").read_text("utf-8")
