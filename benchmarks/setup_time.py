"""Set-up time (INVITE to 200, on the caller's clock) through FairDial beside bare `Dial()`.

One switch and one FairDial serve all paths, in turn, so that noise of the machine falls on each alike:
`Dial()` alone, the question over Stasis, the question over AGI. The calls last one second.
Status 1 if a call failed or a message had to be sent again on an enforced path.
"""

import argparse
import asyncio
import os
import platform
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from testbed.asterisk import Switch
from testbed.configuration import Line
from testbed.installation import obtain
from testbed.server import Server, dialplan
from testbed.sipp import Carrier, LoadOutcome, place_calls

NUMBER = "02079460100"
TALK_S = 1.0
LINES = {"Dial() alone": "bare", "Stasis": "stasis", "AGI": "agi"}

DIALPLAN = """
[bench-bare]
exten => _X.,1,Dial(PJSIP/+44${EXTEN:1}@carrier,60)
 same => n,Hangup(${HANGUPCAUSE})
[bench-agi]
exten => _X.,1,Set(FAIRDIAL_AGI=127.0.0.1:${FAIRDIAL_AGI_PORT})
 same => n,Goto(phones,${EXTEN},1)
"""


@dataclass
class CallPath:
    """What one path showed over all rounds."""

    name: str
    outcomes: list[LoadOutcome] = field(default_factory=list)

    @property
    def all(self) -> LoadOutcome:
        """All rounds as one."""
        return LoadOutcome(
            tuple(call for outcome in self.outcomes for call in outcome.calls),
            sum(outcome.lost for outcome in self.outcomes),
            sum(outcome.retransmissions for outcome in self.outcomes),
        )


async def measure(rate_per_s: int, seconds: int, rounds: int) -> list[CallPath]:
    """Run all paths, `rounds` times in turn, `seconds` in all for each."""
    installation = obtain(progress=lambda text: print(text, file=sys.stderr))
    extensions, files = dialplan()
    lines = [
        Line("bare", accountcode="bare", context="bench-bare"),
        Line("stasis", accountcode="stasis", context="phones"),
        Line("agi", accountcode="agi", context="bench-agi"),
    ]
    paths = [CallPath(name) for name in LINES]
    with tempfile.TemporaryDirectory() as directory:
        async with (
            Switch.start(installation, extensions + DIALPLAN, files=files, lines=lines) as switch,
            Carrier.start(switch, logged=False),
            Server.start(switch, Path(directory), {"logs.level": "error"}) as server,
        ):
            print(
                f"Asterisk {installation.version}, Python {platform.python_version()}, {os.cpu_count()} cores"
            )
            await server.account("bench", "kryptotel-in-shadow", "stasis", "agi", countries=("GB",))
            for path in paths:  # warm each once
                await load(switch, path.name, rate_per_s, rate_per_s)
            for _ in range(rounds):
                for path in paths:
                    count = rate_per_s * seconds // rounds
                    path.outcomes.append(await load(switch, path.name, count, rate_per_s))
            await server.idle(timeout_s=30)
    return paths


async def load(switch: Switch, path: str, count: int, rate_per_s: int) -> LoadOutcome:
    """One load on one path."""
    return await place_calls(
        switch,
        line=LINES[path],
        number=NUMBER,
        count=count,
        rate_per_s=rate_per_s,
        hang_up_after_s=TALK_S,
        timeout_s=30,
    )


def report(paths: list[CallPath], rate_per_s: int, seconds: int) -> Table:
    """The table of a run; "added" is against the first path."""
    table = Table(
        title=f"Set-up time in ms at {rate_per_s} calls/s for {seconds} s, SQLite, synchronous=FULL"
    )
    for column in (
        "path",
        "calls",
        "failed",
        "sent again",
        "mean",
        "median",
        "p99",
        "mean added",
        "p99 added",
    ):
        table.add_column(column, justify="left" if column == "path" else "right")
    bare = paths[0].all
    for path in paths:
        found = path.all
        failed = found.lost + sum(found.failed.values())
        table.add_row(
            path.name,
            str(len(found.calls) + found.lost),
            str(failed),
            str(found.retransmissions),
            f"{found.setup_mean_ms:.1f}",
            f"{found.setup_p50_ms:.1f}",
            f"{found.setup_p99_ms:.1f}",
            f"{found.setup_mean_ms - bare.setup_mean_ms:.1f}",
            f"{found.setup_p99_ms - bare.setup_p99_ms:.1f}",
        )
    return table


def main() -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=int, default=100, help="calls a second (100)")
    parser.add_argument("--seconds", type=int, default=30, help="seconds of load on each path (30)")
    parser.add_argument("--rounds", type=int, default=1, help="turns among the paths (1)")
    options = parser.parse_args()
    paths = asyncio.run(measure(options.rate, options.seconds, options.rounds))
    Console(width=None if sys.stdout.isatty() else 140).print(report(paths, options.rate, options.seconds))
    enforced = [path.all for path in paths[1:]]
    return int(any(found.lost or found.failed or found.retransmissions for found in enforced))


if __name__ == "__main__":
    sys.exit(main())
