"""The streams: windows against the peers, alerts' latency, what tenants and workers cost, how much a core takes.

- `tumbling_vs_quix`, `_faust_table`, `_bytewax`, `_kafka_streams`: ticks a second of a program on our lane against the
  peer's: 60 s windows from Avro, state that survives, closed windows on a topic; `..._cpu`: the same of CPU a tick
- `hopping_vs_quix`: the same with a window each 10 s
- `alert_p99_ms`, `alert_over_bare_p99_ms`: a tick's produce() to its alert on the topic, at 10,000 ticks a second; and
  what that is above a bare record of the same clients; `alert_1000_tenants_p99_ms`: beside 1,000 tenants' topics
- `tenants_200_cost_ratio`: CPU a record for 200 tenants against one; `..._live_...`: at 2,000 ticks a second
- `two_workers_cpu_ratio`: CPU a record of two workers that share the partitions, against one
- `rules_10000_cost_ratio`: CPU a record of a tenant that has 10,000 rules on other products, against none
- `new_topic_s`, `rule_in_force_s`: seconds until a new tenant's first record is folded, and a new rule is evaluated
- `recovery_100k_s`: seconds until 100,000 keys of state on the broker can be folded
- `hot_tenant_delay_p99_ms`, `hot_tenant_over_alone_p99_ms`: a quiet tenant's tick to its alert beside a backlog of
  another's, and what that is above the same without the backlog
- `record_cost_us`, `key_second_cost_us`: what a record and an active second of a product take of a core
"""

from typing import Final

from benchmarks import (
    streams_alerts,
    streams_capacity,
    streams_changes,
    streams_fairness,
    streams_recovery,
    streams_windows,
)
from benchmarks.broker import running_broker
from benchmarks.choice import Choice, Figures

GROUPS: Final = (streams_alerts, streams_capacity, streams_changes, streams_recovery, streams_fairness)
PARTS: Final = (*streams_windows.ENTRANTS, *(part for group in GROUPS for part in group.PARTS))


def run(quick: bool, choice: Choice) -> Figures:  # noqa: FBT001 - what the command line says
    """Measure, print tables, and return the figures; exits with a message for a part that is none."""
    unknown = set(choice.only) - set(PARTS)
    if unknown:
        raise SystemExit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    parts = [part for part in PARTS if not choice.only or part in choice.only]
    figures: Figures = {}
    with running_broker() as broker:
        figures |= streams_windows.run(broker, parts, choice, quick=quick)
        for group in GROUPS:
            figures |= group.run(broker, parts, choice.repetitions, quick=quick)
    return figures
