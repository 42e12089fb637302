"""How exactly the switch ends leased calls: seconds past the grant, by the clocks of both phones.

Status 1 if a leg lived for more than a second past its grant.
"""

import argparse
import asyncio
import statistics
import sys
from collections.abc import Sequence

from benchmarks.measure import Outcome, Sheet, parser, program, site
from testbed.configuration import Line
from testbed.sipp import RINGS_2_S, RINGS_4_S, place_calls

GRANTED_S = 3
NUMBERS = ("02079460100", f"020794601{RINGS_2_S}", f"020794601{RINGS_4_S}")
ALLOWED_S = 1.0


async def measure(calls: int) -> Outcome:
    """So many leased calls, and how long their legs lived past the grant."""
    async with site(lines=[Line("alice", context="phones")], logged=True) as at:
        await at.server.account("bench", "short", "alice")
        load = await place_calls(
            at.switch, line="alice", number=NUMBERS, count=calls, rate_per_s=10, timeout_s=30
        )
        await at.switch.no_channels()
        called = [
            call.ended_at - call.answered_at
            for call in at.carrier.calls()
            if call.answered_at and call.ended_at
        ]
        await at.server.idle()
    past_s = {
        "caller": [call.talk_s - GRANTED_S for call in load.calls],
        "called": [talk_s - GRANTED_S for talk_s in called],
    }
    rows: list[Sequence[str]] = []
    wrong = []
    for leg, values in past_s.items():
        figures = (min(values), statistics.median(values), max(values))
        rows.append((leg, str(len(values)), *(f"{value * 1000:.0f}" for value in figures)))
        if len(values) != calls:
            wrong.append(f"{leg}: {len(values)} of {calls} legs were answered and ended")
        if max(values) > ALLOWED_S:
            wrong.append(f"{leg}: a leg lived {max(values):.2f} s past its grant")
    title = f"Milliseconds past a grant of {GRANTED_S} s, ended by the switch"
    return Outcome(
        [Sheet(title, ("leg", "calls", "least", "median", "most"), rows)], wrong=wrong, versions=at.versions
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status."""
    options = parser(__doc__)
    options.add_argument("--calls", type=int, default=30, help="leased calls (30)")

    def run(given: argparse.Namespace) -> Outcome:
        return asyncio.run(measure(given.calls))

    return program("cut_off", options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
