"""How exactly the switch ends leased calls: seconds past the grant, by the clocks of both phones.

Status 1 if a leg lived for more than a second past its grant.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from testbed.asterisk import Switch
from testbed.configuration import Line
from testbed.installation import obtain
from testbed.server import Server, dialplan
from testbed.sipp import RINGS_2_S, RINGS_4_S, Carrier, place_calls

GRANTED_S = 3
NUMBERS = ("02079460100", f"020794601{RINGS_2_S}", f"020794601{RINGS_4_S}")
ALLOWED_S = 1.0


async def measure(calls: int) -> dict[str, list[float]]:
    """Seconds past the grant of each leg, by leg."""
    installation = obtain(progress=lambda text: print(text, file=sys.stderr))
    extensions, files = dialplan()
    with tempfile.TemporaryDirectory() as directory:
        async with (
            Switch.start(
                installation, extensions, files=files, lines=[Line("alice", context="phones")]
            ) as switch,
            Carrier.start(switch) as carrier,
            Server.start(switch, Path(directory)) as server,
        ):
            await server.account("bench", "short", "alice")
            load = await place_calls(
                switch, line="alice", number=NUMBERS, count=calls, rate_per_s=10, timeout_s=30
            )
            await switch.no_channels()
            called = [
                call.ended_at - call.answered_at
                for call in carrier.calls()
                if call.answered_at and call.ended_at
            ]
            await server.idle()
    return {
        "caller": [call.talk_s - GRANTED_S for call in load.calls],
        "called": [talk_s - GRANTED_S for talk_s in called],
    }


def report(past_s: dict[str, Sequence[float]]) -> Table:
    """The table of a run."""
    table = Table(title=f"Milliseconds past a grant of {GRANTED_S} s, ended by the switch")
    for column in ("leg", "calls", "least", "median", "most"):
        table.add_column(column, justify="left" if column == "leg" else "right")
    for leg, values in past_s.items():
        figures = (min(values), statistics.median(values), max(values))
        table.add_row(leg, str(len(values)), *(f"{value * 1000:.0f}" for value in figures))
    return table


def main() -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=30, help="leased calls (30)")
    options = parser.parse_args()
    past_s = asyncio.run(measure(options.calls))
    Console(width=None if sys.stdout.isatty() else 140).print(report(dict(past_s)))
    complete = all(len(values) == options.calls for values in past_s.values())
    return int(not complete or max(max(values) for values in past_s.values()) > ALLOWED_S)


if __name__ == "__main__":
    sys.exit(main())
