"""Set-up time (INVITE to 200, on the caller's clock) through FairDial beside bare `Dial()`.

One switch and one FairDial serve all paths, in turn, so that noise of the machine falls on each alike:
`Dial()` alone, the question over ARI (Stasis), the question by AGI. The calls last one second.
Status 1 if a call failed or a message had to be sent again on an enforced path.
"""

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from functools import partial

from benchmarks.measure import (
    BARE,
    BARE_DIALPLAN,
    Outcome,
    Sheet,
    failures,
    in_turn,
    parser,
    program,
    site,
    together,
)
from testbed.asterisk import Switch
from testbed.configuration import Line
from testbed.server import Server
from testbed.sipp import LoadOutcome, place_calls

NUMBER = "02079460100"
TALK_S = 1.0
BUDGET_RATE_PER_S = 100
PATHS = {BARE: "bare", "ARI": "ari", "AGI": "agi"}
"""The line that calls on each path."""
BUDGETS = {"ARI": ("setup-mean-ari", "setup-p99-ari"), "AGI": ("setup-mean-agi", "setup-p99-agi")}

AGI_DIALPLAN = """
[bench-agi]
exten => _X.,1,Set(FAIRDIAL_AGI=127.0.0.1:${FAIRDIAL_AGI_PORT})
 same => n,Goto(phones,${EXTEN},1)
"""
LINES = (
    Line("bare", accountcode="bare", context="bench-bare"),
    Line("ari", accountcode="ari", context="phones"),
    Line("agi", accountcode="agi", context="bench-agi"),
)
QUIET = {"logs.level": "error"}


async def customers(server: Server) -> None:
    """Who calls on the enforced paths: an account with all the rules of a published policy."""
    await server.account("bench", "kryptotel-in-shadow", "ari", "agi", countries=("GB",))


async def measure(rate_per_s: int, seconds: int, rounds: int) -> Outcome:
    """Run all paths, `rounds` times in turn, `seconds` in all for each."""
    async with site(BARE_DIALPLAN + AGI_DIALPLAN, lines=LINES, settings=QUIET) as at:
        await customers(at.server)
        count = max(1, rate_per_s * seconds // rounds)
        works = {path: partial(load, at.switch, line, count, rate_per_s) for path, line in PATHS.items()}
        for line in PATHS.values():
            await load(at.switch, line, rate_per_s, rate_per_s)  # warm
        done = await in_turn(rounds, works)
        await at.server.idle(timeout_s=30)
        found = {path: together(outcomes) for path, outcomes in done.items()}
        return report(found, rate_per_s, seconds, at.versions)


async def load(switch: Switch, line: str, count: int, rate_per_s: int) -> LoadOutcome:
    """One load of one line."""
    return await place_calls(
        switch,
        line=line,
        number=NUMBER,
        count=count,
        rate_per_s=rate_per_s,
        hang_up_after_s=TALK_S,
        timeout_s=30,
    )


def report(
    found: Mapping[str, LoadOutcome], rate_per_s: int, seconds: int, versions: dict[str, str]
) -> Outcome:
    """The table of a run; "added" is against the first path."""
    bare = found[BARE]
    rows: list[Sequence[str]] = []
    outcome = Outcome(versions=versions)
    for path, load in found.items():
        added_ms = (load.setup_mean_ms - bare.setup_mean_ms, load.setup_p99_ms - bare.setup_p99_ms)
        took_ms = (load.setup_mean_ms, load.setup_p50_ms, load.setup_p99_ms, *added_ms)
        counts = (len(load.calls) + load.lost, failures(load), load.retransmissions)
        rows.append((path, *map(str, counts), *(f"{value:.1f}" for value in took_ms)))
        if path == BARE:
            continue
        if failures(load) or load.retransmissions:
            outcome.wrong.append(
                f"{path}: {failures(load)} calls failed, {load.retransmissions} messages were sent again"
            )
        if rate_per_s == BUDGET_RATE_PER_S:
            outcome.budgets |= dict(zip(BUDGETS[path], added_ms, strict=True))
    title = f"Set-up time in ms at {rate_per_s} calls/s for {seconds} s, SQLite, synchronous=FULL"
    columns = ("path", "calls", "failed", "sent again", "mean", "median", "p99", "mean added", "p99 added")
    outcome.sheets.append(Sheet(title, columns, rows))
    return outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status."""
    options = parser(__doc__)
    options.add_argument(
        "--rate", type=int, default=BUDGET_RATE_PER_S, help=f"calls a second ({BUDGET_RATE_PER_S})"
    )
    options.add_argument("--seconds", type=int, default=30, help="seconds of load on each path (30)")
    options.add_argument("--rounds", type=int, default=3, help="turns among the paths (3)")

    def run(given: argparse.Namespace) -> Outcome:
        return asyncio.run(measure(given.rate, given.seconds, given.rounds))

    return program("setup_time", options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
