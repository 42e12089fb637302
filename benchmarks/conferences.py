"""How long it takes to be in a conference when many begin at once: INVITE to being in the room's bridge.

Fifty conferences of four by default, all rooms FairDial's own; by the phones' clock and the server's, which are one.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from testbed.asterisk import Switch
from testbed.configuration import Line
from testbed.installation import obtain
from testbed.server import Server, dialplan
from testbed.sipp import LoadOutcome, place_calls

PARTIES = 4
STAY_S = 5.0
DIALPLAN = """
[conferences]
exten => _7XXX,1,Goto(fairdial-rooms,${EXTEN},1)
"""


def joined_at(log: str) -> dict[str, float]:
    """When each call was in its bridge, as Unix time, by SIP Call-ID."""
    entries = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    sip = {entry["call"]: entry["sip_call_id"] for entry in entries if entry["event"] == "decided"}
    return {
        sip[entry["call"]]: datetime.fromisoformat(entry["timestamp"]).timestamp()
        for entry in entries
        if entry["event"] == "room_joined"
    }


async def measure(conferences: int, rate_per_s: float) -> tuple[LoadOutcome, list[float]]:
    """The load as the phones saw it, and the milliseconds that each join took."""
    installation = obtain(progress=lambda text: print(text, file=sys.stderr))
    extensions, files = dialplan()
    with tempfile.TemporaryDirectory() as directory:
        async with (
            Switch.start(
                installation,
                f"{extensions}{DIALPLAN}",
                files=files,
                lines=[Line("alice", context="conferences")],
            ) as switch,
            Server.start(switch, Path(directory)) as server,
        ):
            await server.account("bench", "kryptotel", "alice")
            load = await place_calls(
                switch,
                line="alice",
                number=[f"7{number:03}" for number in range(conferences)],
                count=conferences * PARTIES,
                rate_per_s=rate_per_s,
                hang_up_after_s=STAY_S,
            )
            await server.idle()
            joins = joined_at(server.log_path.read_text())
    return load, sorted((joins[c.call_id] - c.invited_at) * 1000 for c in load.calls if c.call_id in joins)


def report(load: LoadOutcome, joins_ms: Sequence[float], conferences: int, rate_per_s: float) -> Table:
    """The table of a run."""
    table = Table(title=f"{conferences} conferences of {PARTIES}, {rate_per_s:g} joins a second: ms to be in")
    figures = {
        "calls": len(load.calls),
        "joined": len(joins_ms),
        "mean": round(statistics.fmean(joins_ms), 1),
        "p50": round(statistics.median(joins_ms), 1),
        "p99": round(statistics.quantiles(joins_ms, n=100)[98], 1),
        "most": round(joins_ms[-1], 1),
    }
    for name in figures:
        table.add_column(name, justify="right")
    table.add_row(*map(str, figures.values()))
    return table


def main() -> int:
    """Measure and print; status 1 where somebody was not let in."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--conferences", type=int, default=50, help="at once, at most 999 (50)")
    parser.add_argument("--rate", type=float, default=100, help="joins a second (100)")
    options = parser.parse_args()
    load, joins_ms = asyncio.run(measure(options.conferences, options.rate))
    Console(width=None if sys.stdout.isatty() else 140).print(
        report(load, joins_ms, options.conferences, options.rate)
    )
    return int(len(joins_ms) != options.conferences * PARTIES)


if __name__ == "__main__":
    sys.exit(main())
