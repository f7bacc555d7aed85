"""Many tenants: what keys and limits cost, whether 10,000 tenants slow anything down, and the live view's fan-out.

- `auth_overhead_ratio`: wall time a request of acknowledged single events, with keys and limits / without;
  `..._cpu_ratio`: CPU of the API; `..._batch_...`: the same of batches of 100
- `registration_ratio`, `lookup_ratio`, `rule_ratio`: median time at 10,000 tenants with 3 keys each, 300 of them with
  topics, / in an installation that has hardly any, side by side
- `live_p99_ms`: append to receipt of 1,000 ticks a second at each of 500 WebSockets; `live_events_...`: as
  server-sent events; `live_many_...`, `live_bytes_per_client`: of 2,000 on one process, with 10 ticks a second each
"""

from typing import Final

from benchmarks import tenancy_auth, tenancy_live, tenancy_tenants
from benchmarks.choice import Choice, Figures

PARTS: Final = ("auth", "tenants", "live")


def run(quick: bool, choice: Choice) -> Figures:  # noqa: FBT001 - what the command line says
    """Measure, print tables, and return the figures; exits with a message for a part that is none."""
    unknown = set(choice.only) - set(PARTS)
    if unknown:
        raise SystemExit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    parts = [part for part in PARTS if not choice.only or part in choice.only]
    figures: Figures = {}
    for group in (tenancy_auth, tenancy_tenants, tenancy_live):
        figures |= group.run(parts, choice.repetitions, quick=quick, scale=choice.scale)
    return figures
