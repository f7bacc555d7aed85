"""`python -m benchmarks NAME [--quick]`: run one benchmark; its last line is one JSON object of the figures."""

import argparse
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

from benchmarks.choice import Choice, Figures

_NAMES: Final = {
    "feed": "frames of an exchange to acknowledged Kafka records: decoding, encoding, fan-out, latency",
    "streams_decode": "Kafka's record batches to records of the engine: by columns, by rows, of many sources",
    "streams": "ticks to windows and alerts: against Quix Streams, Faust, Bytewax and Kafka Streams",
    "sink": "a topic to committed rows: against psql's binary copy of the same rows and the Debezium JDBC sink",
    "backtest": "a day of bars of 1 s of 100 products, dense and sparse: rules over prices and over windows",
    "latency": "a frame on the exchange's socket to its committed row, at 10,000 frames a second",
    "ingest": "acknowledged events over HTTP: against a FastAPI no-op route, and pydantic + fastavro in batches",
    "search": "latest, time range, contents of events over HTTP: 10,000,000 rows of 50 tenants",
    "tenancy": "what keys and limits cost, 10,000 tenants against hardly any, live fan-out to 500 and 2,000 clients",
    "memory": "what each process of a local stack keeps in memory",
    "forecast": "volatility and price for the next 1, 5, 15 minutes, against the naive baseline, on recorded days",
    "anomaly": "jumps and volume spikes put into recorded days: what z-scores and ratios find of them",
}
_IN_PARTS: Final = frozenset({"streams", "sink", "tenancy"})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark that the command line names."""
    asked = _parser().parse_args(arguments)
    figures = _run(asked.name, Choice(asked.only, asked.repetitions, asked.scale), quick=asked.quick)
    print(json.dumps({name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}))


def _run(name: str, choice: Choice, *, quick: bool) -> Mapping[str, float | str | None]:
    run = importlib.import_module(f"benchmarks.{name}").run
    if name in _IN_PARTS:
        return cast(Callable[[bool, Choice], Figures], run)(quick, choice)
    return cast(Callable[[bool], dict[str, float]], run)(quick)


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:<12} {description}" for name, description in _NAMES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare PulseStream with the obvious alternative; the last line is one JSON object.",
        epilog=f"benchmarks:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=sorted(_NAMES), metavar="NAME", help="one of those listed below")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: a smoke test, not a measurement")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help="these parts (streams, sink, tenancy)")
    parser.add_argument("--repetitions", type=int, metavar="N", help="rounds of each part (streams, sink, tenancy)")
    parser.add_argument("--scale", type=float, default=1.0, metavar="S", help="shorter turns (streams, sink, tenancy)")
    return parser


if __name__ == "__main__":
    main()
