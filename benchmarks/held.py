"""How many calls a second are held without a message being sent again: through FairDial, beside the bare switch.

A rate is held when calls of one second come at it for some seconds, all are answered, and the phones send no message
twice; a rate that is not gets two more chances. The highest is sought by doubling and then by halving what lies
between, on all paths in turn: `Dial()` alone, the question over ARI, by AGI; `ConfBridge()` alone and rooms of
FairDial's, a hundred with an account each, which a call or two at a time opens and closes. Phones, carrier, switch and
FairDial share the cores. Status 1 where a path holds no rate at all.
"""

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks import conferences
from benchmarks.measure import (
    BARE,
    BARE_DIALPLAN,
    Outcome,
    Sheet,
    Site,
    failures,
    parser,
    program,
    progress,
    site,
)
from benchmarks.setup_time import AGI_DIALPLAN, LINES, NUMBER, PATHS, QUIET, TALK_S, customers
from testbed.installation import TestbedError
from testbed.sipp import LoadOutcome, place_calls

BUDGETS = {"ARI": "held-ari", "AGI": "held-agi"}
ROOMS = 100
RESOLUTION = 0.05
"""The highest rate that is held and the lowest that is not lie no further apart than this share."""
KNOWN = 0.15
"""What lies further apart is no figure for a budget."""
TRIES = 3
KEPT_PACE = 0.9
"""A phone that placed calls at less than this share of the rate has not shown that it is held."""
PATIENCE_S = 8.0
"""A call that takes longer is lost."""
LEFT_AFTER_S = 5.0
OVER_WITHIN_S = 20.0


@dataclass
class Search:
    """The highest rate that is held: the next to try, by what was found. Rates are whole calls a second."""

    first: int
    resolution: float = RESOLUTION
    held: int = 0
    missed: int | None = None

    @property
    def is_known(self) -> bool:
        """Whether the rate is known well enough to be compared, also where the time was over before the end."""
        return bool(self.held) and self.missed is not None and self.missed - self.held <= KNOWN * self.held

    @property
    def next_rate(self) -> int | None:
        """What to try; None where it is known well enough."""
        if self.missed is None:
            return 2 * self.held or self.first
        if not self.held:
            return self.missed // 2 or None
        if self.missed - self.held <= max(1, self.resolution * self.held):
            return None
        return (self.held + self.missed) // 2

    def found(self, rate: int, is_held: bool) -> None:
        """What came of a try."""
        if is_held:
            self.held = max(self.held, rate)
        else:
            self.missed = rate if self.missed is None else min(self.missed, rate)


def is_held(load: LoadOutcome, rate_per_s: float) -> bool:
    """Whether all were answered at that pace, and nothing was sent again."""
    if failures(load) or load.retransmissions or len(load.calls) < 2:
        return False
    invited = sorted(call.invited_at for call in load.calls)
    return (len(invited) - 1) / max(invited[-1] - invited[0], 1e-9) >= KEPT_PACE * rate_per_s


async def seek(
    searches: Mapping[str, Search],
    probe: Callable[[str, int], Awaitable[bool]],
    is_over: Callable[[], bool],
) -> None:
    """A step of each search in turn, until each is done, or all had as many and the time is over."""
    while left := [path for path, search in searches.items() if search.next_rate is not None]:
        for path in left:
            rate = searches[path].next_rate
            assert rate is not None
            searches[path].found(rate, await probe(path, rate))
        if is_over():
            return


async def measure(first: int, seconds: float, minutes: float) -> Outcome:
    """Seek on all paths."""
    lines = (*LINES, *conferences.lines(ROOMS))
    dialled = {path: ([line], [NUMBER]) for path, line in PATHS.items()}
    dialled |= {
        path: (conferences.callers(path, ROOMS), conferences.rooms(ROOMS)) for path in conferences.PATHS
    }
    extra = BARE_DIALPLAN + AGI_DIALPLAN + conferences.DIALPLAN
    async with site(extra, lines=lines, settings=QUIET) as at:
        await customers(at.server)
        await conferences.customers(at.server, ROOMS)

        async def load(path: str, rate: int, lasts_s: float) -> LoadOutcome:
            line, number = dialled[path]
            outcome = await place_calls(
                at.switch,
                line=line,
                number=number,
                count=max(2, round(rate * lasts_s)),
                rate_per_s=rate,
                hang_up_after_s=TALK_S,
                timeout_s=PATIENCE_S,
            )
            await _over(at)
            return outcome

        async def probe(path: str, rate: int) -> bool:
            for _ in range(TRIES):
                outcome = await load(path, rate, seconds)
                good = is_held(outcome, rate)
                progress(
                    f"{path}: {rate} calls/s {'held' if good else 'not held'}"
                    f" ({failures(outcome)} failed, {outcome.retransmissions} sent again)"
                )
                if good:
                    return True
            return False

        for path in dialled:
            await load(path, first, 1)  # warm
        until_s = time.monotonic() + minutes * 60
        searches = {path: Search(first) for path in dialled}
        await seek(searches, probe, lambda: time.monotonic() > until_s)
        return report(searches, seconds, at.versions)


async def _over(at: Site) -> None:
    """Nothing of one try is to be left when the next begins; what a phone gave up would stay for long."""
    if await at.switch.no_channels(LEFT_AFTER_S):
        await at.switch.cli("channel request hangup all")
        await at.switch.no_channels(OVER_WITHIN_S)
    with contextlib.suppress(TestbedError):  # a machine that has too much to do lets the next try bear it
        await at.server.idle(OVER_WITHIN_S)


def report(searches: Mapping[str, Search], seconds: float, versions: dict[str, str]) -> Outcome:
    """The table of a run; shares are of the path's bare one."""
    outcome = Outcome(versions=versions)
    rows: list[Sequence[str]] = []
    for path, search in searches.items():
        beside = searches[conferences.BARE if path in conferences.PATHS else BARE]
        share = 100 * search.held / beside.held if beside.held else 0.0
        missed = "-" if search.missed is None else str(search.missed)
        rows.append((path, str(search.held), missed, f"{share:.0f} %" if beside.held else "-"))
        if not search.held:
            outcome.wrong.append(f"{path}: no rate was held, down to {missed} calls/s")
        elif path in BUDGETS and search.is_known and beside.is_known:
            outcome.budgets[BUDGETS[path]] = share
    columns = ("path", "calls/s held", "not held", "of the bare one")
    title = f"Calls a second for {seconds:g} s, each of {TALK_S:g} s, without a message sent again"
    left = [path for path, search in searches.items() if search.next_rate is not None]
    caption = f"the time was over before more was known of: {', '.join(left)}" if left else ""
    outcome.sheets.append(Sheet(title, columns, rows, caption=caption))
    return outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status."""
    options = parser(__doc__)
    options.add_argument("--first", type=int, default=80, help="the rate that is tried first (80)")
    options.add_argument("--seconds", type=float, default=3, help="of each try (3)")
    options.add_argument("--minutes", type=float, default=8, help="for all of it, at most about so long (8)")

    def run(given: argparse.Namespace) -> Outcome:
        return asyncio.run(measure(given.first, given.seconds, given.minutes))

    return program("held", options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
