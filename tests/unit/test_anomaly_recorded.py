"""The rules that docs/anomalies.md recommends, through the backtest: recorded days as they are, and with anomalies."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from benchmarks.anomaly import ABOVE, ABOVE_RATIO, JUMP, MAX_FALSE, RECALL, SPIKE
from pulsestream.cli import app
from pulsestream.core.clock import format_rfc3339, parse_rfc3339
from streams.engine.anomaly import MAD_SCALE

DAYS = [f"{product}-minute-{day}-trade.csv" for product in ("btcusd", "ethusd") for day in ("20170903", "20170904")]
DOC = (Path(__file__).parents[2] / "docs" / "anomalies.md").read_text("utf-8")
RULES: list[dict[str, Any]] = yaml.safe_load(DOC.split("```yaml\n")[1].split("```")[0])["rules"]
JUMPS, SPIKES = ("jump", "volume-spike")


def test_the_rules_have_the_thresholds_that_were_measured() -> None:
    conditions = {rule["name"]: rule["condition"] for rule in RULES}

    assert conditions[JUMPS]["above"] == ABOVE
    assert conditions[SPIKES]["above_ratio"] == ABOVE_RATIO


def firings(folder: Path, bars: Path, rules: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return when each rule fires over a file of bars."""
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump({"rules": rules}))
    done = CliRunner().invoke(app, ["backtest", str(path), str(bars), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, list[str]] = {rule["name"]: [] for rule in rules}
    for line in map(json.loads, done.stdout.splitlines()):
        if line["state"] == "firing":
            found[line["rule"]].append(line["at"])
    return found


def disturb(source: Path, target: Path) -> list[str]:
    """Write a day with a jump and a volume spike in every other hour, and return the ends of their minutes."""
    table = np.array([[float(cell) for cell in row] for row in csv.reader(source.read_text().splitlines())])
    moves, volumes = np.diff(np.log(table[:, 4]), prepend=math.nan), table[:, 5].copy()
    generator = np.random.default_rng(len(source.name))
    chosen = [int(hour * 60 + generator.integers(60)) for hour in range(2, 23, 2)]
    for number, row in enumerate(chosen):
        sizes = np.abs(moves[row - 60 : row])
        jump = JUMP * MAD_SCALE * float(np.median(sizes[sizes > 0]))
        table[row:, 1:5] *= math.exp(jump if number % 2 else -jump)
        table[row, 5] += SPIKE * volumes[row - 60 : row].mean()
    target.write_text("\n".join(f"{int(row[0])},{','.join(f'{cell:.15g}' for cell in row[1:])}" for row in table))
    day = source.name.split("-")[2]
    midnight = parse_rfc3339(f"{day[:4]}-{day[4:6]}-{day[6:]}T00:00:00Z")
    return [format_rfc3339(midnight + int(table[row, 0]) * 1_000 + 60_000_000) for row in chosen]


@pytest.mark.parametrize("name", DAYS)
def test_a_recorded_day_has_few_alarms(shared_data: Path, tmp_path: Path, name: str) -> None:
    found = firings(tmp_path, shared_data / "coinbase" / name, RULES)

    assert all(len(times) <= MAX_FALSE for times in found.values())


def test_jumps_and_spikes_put_into_recorded_days_are_found(shared_data: Path, tmp_path: Path) -> None:
    rules = [rule | {"cooldown": "0s"} for rule in RULES]
    found, wanted = {JUMPS: 0, SPIKES: 0}, 0
    for name in DAYS:
        times = disturb(shared_data / "coinbase" / name, tmp_path / name)
        wanted += len(times)
        for rule, fired in firings(tmp_path, tmp_path / name, rules).items():
            found[rule] += len({*times} & {*fired})

    assert wanted == 44
    assert min(found.values()) >= RECALL * wanted
