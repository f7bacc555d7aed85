"""What docs/feeds.md shows of the recorder and the simulator does what it says, as a shell runs it."""

import os
import re
import subprocess
import sys
from pathlib import Path

from producers.frames import read_frames
from pulsestream.local.process import free_port

TEXT = (Path(__file__).parents[2] / "docs" / "feeds.md").read_text("utf-8")


def test_a_market_is_simulated_recorded_and_played_again_as_shown(tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    shown = [block for block in blocks if "pulsestream record" in block]
    port = str(free_port())
    listens = f"until (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null; do sleep 0.1; done"  # a person is slower
    script = re.sub(r" &$", f" &\n{listens}", "\n".join(shown).replace("9443", port), flags=re.MULTILINE)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    done = subprocess.run(
        ["bash", "-eu", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-2_000:]
    assert len(shown) == 2
    recorded = [frame.text for folder in ("rec", "again") for frame in frames(tmp_path / folder)]
    assert sum('"channel":"trade"' in text for text in recorded) > 20
    faults = (tmp_path / "faults.jsonl").read_text()
    assert all(f'"kind":"{kind}"' in faults for kind in ("drop", "corrupt", "close"))
    assert '"kind":"trade"' in (tmp_path / "truth.jsonl").read_text()


def frames(folder: Path) -> list[object]:
    found = [frame for path in sorted(folder.glob("*.frames.zst")) for frame in read_frames(path)]
    assert found, folder
    return found
