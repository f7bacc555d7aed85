"""`python -m benchmarks NAME [--quick]`: run one benchmark; its last line is one JSON object of the figures."""

import argparse
import importlib
import json
from collections.abc import Callable, Sequence
from typing import Final, cast

_NAMES: Final = {
    "feed": "frames of an exchange to acknowledged Kafka records: decoding, encoding, fan-out, latency",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark that the command line names."""
    asked = _parser().parse_args(arguments)
    run = cast(Callable[[bool], dict[str, float]], importlib.import_module(f"benchmarks.{asked.name}").run)
    figures = run(asked.quick)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


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
    return parser


if __name__ == "__main__":
    main()
