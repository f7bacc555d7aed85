"""State entries as this version writes them, kept in a file for the versions to come.

`python -m tests.support.golden_state FILE` writes them. Do so only when entries have got fields or kinds that the file
does not show, into a new file, and keep the old one: a later version has to read what any released one wrote.
"""

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from streams.engine.rules import ActiveRule, parse_rule
from tests.support.sharding import EXCHANGE, World
from tests.support.streaming import make_tick
from tests.support.trading import make_trade

SECOND = 1_000_000
BEGIN = 1_700_000_000_000_000


def story() -> World:
    """Return a shard with every kind of entry: panes of both lengths, machines, an alert to send, bases, exchanges."""
    world = World(now=BEGIN)
    for rule in _rules():
        world.put_rule(rule, rule.rule_id, 1)
    for number in range(1, 120):
        price = 100.0 + number % 7 + (8 if number > 118 else 0)
        for exchange in (EXCHANGE, "kraken"):
            world.append("acme", [make_tick(exchange, "BTC-USD", number, price, at=world.now)])
        world.append_trades("zeta", [make_trade("ETH-USD", number, world.now, EXCHANGE, world.now)])
        world.now += SECOND
    world.fold("acme")
    world.fold("zeta", dataset="trades")
    world.checkpoint()
    world.tick(3 * SECOND)  # an alert by the clock waits for its checkpoint, and is not acknowledged
    world.checkpoint()
    return world


def _rules() -> Iterator[ActiveRule]:
    conditions = {
        "level": {"type": "price", "above": 105},
        "fall": {"type": "change", "window": "1m", "below_pct": -1},
        "apart": {"type": "divergence", "exchanges": [EXCHANGE, "kraken"], "above_bps": 50},
    }
    for name, condition in conditions.items():
        definition = {"name": name, "product": "*", "condition": condition, "for": "2s"}
        yield ActiveRule("acme", name, 1, parse_rule(json.dumps(definition)), BEGIN)


def written(entries: dict[str, bytes]) -> str:
    """Return entries as lines: name, a tab, the value in base64."""
    return "".join(f"{name}\t{base64.b64encode(value).decode()}\n" for name, value in sorted(entries.items()))


def read(file: Path) -> dict[str, bytes]:
    """Return the entries in a file."""
    pairs = (line.split("\t") for line in file.read_text().splitlines())
    return {name: base64.b64decode(value) for name, value in pairs}


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(written(story().committed))
