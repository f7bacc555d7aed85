"""The streams: windows against the peers, alerts' latency, what tenants and workers cost.

- `tumbling_vs_quix`, `_faust_table`, `_bytewax`, `_kafka_streams`: ticks a second of a program on our lane, against the
  peer's: 60 s windows from Avro, state that survives, closed windows on a topic; `..._cpu`: the same of CPU a tick
- `hopping_vs_quix`: the same with a window each 10 s
"""

from dataclasses import replace

from benchmarks import streams_windows
from benchmarks.broker import running_broker
from benchmarks.choice import Choice, Figures
from benchmarks.streams_windows import ENTRANTS, QUICK, WHOLE


def run(quick: bool, choice: Choice) -> Figures:  # noqa: FBT001 - what the command line says
    """Measure, print tables, and return the figures; exits with a message for a name that is none."""
    unknown = set(choice.only) - ENTRANTS.keys()
    if unknown:
        raise SystemExit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(ENTRANTS)}")
    plan = QUICK if quick else WHOLE
    if choice.repetitions is not None:
        plan = replace(plan, rounds=choice.repetitions)
    names = [name for name in ENTRANTS if not choice.only or name in choice.only]
    with running_broker() as broker:
        outcome = streams_windows.measure(broker, plan, names)
    streams_windows.show_turns(outcome)
    return streams_windows.figures(outcome)
