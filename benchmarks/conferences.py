"""How long it takes to be in a conference when many begin at once: INVITE to being in the room's bridge.

Rooms of four, fifty of them by default: the switch's own `ConfBridge()`, and rooms of FairDial's, where each is
decided about, in turn. When somebody dialled is the phone's clock, when they are in the bridge the switch's log, by the
same clock of the machine. Status 1 where somebody was not let in.
"""

import argparse
import asyncio
import re
import statistics
import sys
from collections.abc import Sequence
from functools import partial

from benchmarks.measure import Outcome, Sheet, in_turn, parser, percentile, program, site
from testbed.asterisk import Switch
from testbed.configuration import Line
from testbed.server import Server
from testbed.sipp import CallOutcome, place_calls

PARTIES = 4
STAY_S = 5.0
BARE = "ConfBridge() alone"
GATED = "a room of FairDial's"
PATHS = (BARE, GATED)
# Answered at once on both paths: else Answer() waits half a second for media.
DIALPLAN = """
[bench-bare-rooms]
exten => _7XXX,1,NoOp(sip=${CHANNEL(pjsip,call-id)})
 same => n,Answer(,i)
 same => n,Set(CONFBRIDGE(user,quiet)=yes)
 same => n,ConfBridge(bench-${EXTEN})
 same => n,Hangup()
[bench-rooms]
exten => _7XXX,1,NoOp(sip=${CHANNEL(pjsip,call-id)})
 same => n,Goto(fairdial-rooms,${EXTEN},1)
"""
# Unix time, and who joins what.
LOGGED = {
    "logger.conf": "[general]\ndateformat=%s.%3q\n[logfiles]\nmessages => notice,warning,error,verbose(5)\n"
}
_DIALLED = re.compile(r'NoOp\("(PJSIP/[^"]+)", "sip=([^"]+)"\)')
_JOINED = re.compile(r"^\[(\d+\.\d+)\].* Channel (PJSIP/\S+) joined ", re.MULTILINE)


def joined_at(log: str) -> dict[str, float]:
    """When each call was in its bridge, as Unix time, by SIP Call-ID."""
    at: dict[str, float] = {}
    for moment, channel in _JOINED.findall(log):
        at.setdefault(channel, float(moment))
    return {call_id: at[channel] for channel, call_id in _DIALLED.findall(log) if channel in at}


def rooms(count: int) -> list[str]:
    """So many numbers that lead into a room each."""
    return [f"7{number:03}" for number in range(count)]


def callers(path: str, count: int) -> list[str]:
    """The lines that call so many rooms on a path, one for each room."""
    return [f"{'bare' if path == BARE else 'gated'}-{number}" for number in rooms(count)]


def lines(count: int) -> list[Line]:
    """Those lines, as the switch has them."""
    contexts = {BARE: "bench-bare-rooms", GATED: "bench-rooms"}
    return [Line(name, context=contexts[path]) for path in PATHS for name in callers(path, count)]


async def customers(server: Server, count: int) -> None:
    """An account for each room of FairDial's: nobody shares a plan's hours with all others."""
    for name in callers(GATED, count):
        await server.account(name, "kryptotel-in-shadow", name)


async def join(switch: Switch, path: str, conferences: int, rate_per_s: float) -> Sequence[CallOutcome]:
    """So many conferences on a path; all who called."""
    load = await place_calls(
        switch,
        line=callers(path, conferences),
        number=rooms(conferences),
        count=conferences * PARTIES,
        rate_per_s=rate_per_s,
        hang_up_after_s=STAY_S,
    )
    await switch.no_channels()
    return load.calls


async def measure(conferences: int, rate_per_s: float, rounds: int) -> Outcome:
    """Both paths in turn."""
    async with site(DIALPLAN, lines=lines(conferences), files=LOGGED) as at:
        await customers(at.server, conferences)
        works = {path: partial(join, at.switch, path, conferences, rate_per_s) for path in PATHS}
        done = await in_turn(rounds, works)
        await at.server.idle(timeout_s=30)
        joins = joined_at(at.switch.log_path.read_text(errors="replace"))
    took_ms = {
        path: [
            (joins[call.call_id] - call.invited_at) * 1000
            for calls in rounds_of
            for call in calls
            if call.call_id in joins
        ]
        for path, rounds_of in done.items()
    }
    return report(took_ms, conferences, rate_per_s, rounds, at.versions)


def report(
    took_ms: dict[str, list[float]],
    conferences: int,
    rate_per_s: float,
    rounds: int,
    versions: dict[str, str],
) -> Outcome:
    """The table of a run; "added" is against the switch's own."""
    outcome = Outcome(versions=versions)
    wanted = conferences * PARTIES * rounds
    rows: list[Sequence[str]] = []
    for path, values in took_ms.items():
        if len(values) < wanted:
            outcome.wrong.append(f"{path}: {wanted - len(values)} of {wanted} were not let in")
        if not values:
            continue
        added = statistics.fmean(values) - statistics.fmean(took_ms[BARE] or values)
        figures = (statistics.fmean(values), *(percentile(values, share) for share in (50, 99, 100)), added)
        rows.append((path, str(wanted), str(len(values)), *(f"{value:.1f}" for value in figures)))
    title = f"{conferences} conferences of {PARTIES}, {rate_per_s:g} joins a second: ms until in the bridge"
    columns = ("path", "calls", "joined", "mean", "median", "p99", "most", "mean added")
    outcome.sheets.append(Sheet(title, columns, rows))
    return outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status."""
    options = parser(__doc__)
    options.add_argument("--conferences", type=int, default=50, help="at once, at most 999 (50)")
    options.add_argument("--rate", type=float, default=100, help="joins a second (100)")
    options.add_argument("--rounds", type=int, default=2, help="turns among the paths (2)")

    def run(given: argparse.Namespace) -> Outcome:
        return asyncio.run(measure(given.conferences, given.rate, given.rounds))

    return program("conferences", options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
