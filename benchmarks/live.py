"""What calls cost that are up: memory and CPU a call, FairDial's and Asterisk's, beside the bare switch with as many.

For each number of calls, 1,000 and 5,000 by default: a bare switch with as many, then a switch with a FairDial (asked
over ARI, a shipped policy, SQLite, logs as they are by default). FairDial is then killed and started again, and the
time taken from its start until its log has the last of the calls followed and leased again. The phones send no media.
A machine that does not let a switch open enough files carries fewer calls, which is said. Status 1 where fewer are up
than were wanted and could be, or one is not followed again.
"""

import argparse
import asyncio
import contextlib
import json
import re
import resource
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.measure import (
    BARE_DIALPLAN,
    Outcome,
    Process,
    Sheet,
    Site,
    going_on,
    parser,
    program,
    progress,
    site,
)
from testbed.configuration import Line
from testbed.installation import TestbedError
from testbed.sipp import place_calls

NUMBER = "02079460100"
LINES = (
    Line("bare", accountcode="bare", context="bench-bare"),
    Line("gated", accountcode="gated", context="phones"),
)
WARM = 20
"""Calls before, for what is made once."""
FILES_A_CALL = 10
"""That Asterisk opens: for each leg RTP, RTCP, a timer and what wakes its thread."""
FILES_BESIDE = 400
UP_SHARE = 0.98
"""So many of the calls must have come up, or figures by the call say little."""
MEASURES_S = 60.0
"""So long calls stay up after they were waited for: time for what is looked at, and for a restart."""
POLL_S = 0.1
COUNT_EVERY_S = 0.5
"""Asking costs the switch something too."""
BUDGET_CALLS = 1_000
# The testbed's usual range has ports for 2,500 calls of two legs.
RTP = "[general]\nrtpstart=33000\nrtpend=65533\nstrictrtp=no\n"


@dataclass(frozen=True)
class Taken:
    """What a process took: KB of memory and open files a call, CPU ms for the set-up of a call, and while all were up
    the percent of a core.
    """

    memory_kb: float
    files: float
    setup_cpu_ms: float
    up_percent: float

    @classmethod
    def between(cls, before: Process, up: Process, later: Process, calls: int, lasted_s: float) -> "Taken":
        """before the calls, when all were up, and `lasted_s` later."""
        return cls(
            (up.rss_kib - before.rss_kib) * 1.024 / calls,
            (up.files - before.files) / calls,
            (up.cpu_s - before.cpu_s) * 1000 / calls,
            (later.cpu_s - up.cpu_s) * 100 / lasted_s,
        )


@dataclass(frozen=True)
class Restart:
    """Of FairDial with calls up, seconds from its start. left: calls that were not followed again."""

    links_s: float
    first_s: float
    last_s: float
    left: int


@dataclass(frozen=True)
class Held:
    """One switch with calls on it."""

    wanted: int
    calls: int
    switch: Taken
    fairdial: Taken | None = None
    restart: Restart | None = None


def allowed(wanted: int) -> int:
    """How many calls this machine lets a switch carry. What is started from now on may open as many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted * FILES_A_CALL + FILES_BESIDE
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(needed, soft), max(needed, hard)))
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return min(wanted, (hard - FILES_BESIDE) // FILES_A_CALL)
    return wanted


@asynccontextmanager
async def calls_up(at: Site, line: str, count: int, rate_per_s: float) -> AsyncIterator[int]:
    """So many calls of a line, as long as the block lasts; how many there are."""
    within_s = 2 * count / rate_per_s + 30
    stays_s = within_s + MEASURES_S
    load = place_calls(
        at.switch,
        line=line,
        number=NUMBER,
        count=count,
        rate_per_s=rate_per_s,
        hang_up_after_s=stays_s,
        timeout_s=stays_s + 30,
    )
    async with going_on(load):
        yield await _all_up(at, count, within_s)


async def _all_up(at: Site, count: int, within_s: float) -> int:
    """Wait until the switch has that many calls, each with two channels; how many it has after `within_s`."""
    up, deadline = 0, time.monotonic() + within_s
    while up < count and time.monotonic() < deadline:
        await asyncio.sleep(COUNT_EVERY_S)
        with contextlib.suppress(TestbedError):  # it is busy, and asked again
            up = await _bridged(at)
    return up


async def _bridged(at: Site) -> int:
    listed = await at.switch.cli("core show channels count")
    found = re.search(r"^(\d+) active channel", listed, re.MULTILINE)
    return int(found[1]) // 2 if found else 0


async def bare(wanted: int, count: int, rate_per_s: float, seconds: float) -> tuple[Held, Site]:
    """A switch without FairDial."""
    async with site(BARE_DIALPLAN, lines=LINES, files={"rtp.conf": RTP}, launch=False) as at:
        await _warm(at, "bare")
        before = Process.of(at.switch.pid)
        async with calls_up(at, "bare", count, rate_per_s) as calls:
            up = Process.of(at.switch.pid)
            later, lasted_s = await _while_up(seconds, at.switch.pid)
            return Held(wanted, calls, Taken.between(before, up, later[0], max(1, calls), lasted_s)), at


async def gated(wanted: int, count: int, rate_per_s: float, seconds: float) -> Held:
    """A switch with FairDial, which is then started again."""
    async with site(BARE_DIALPLAN, lines=LINES, files={"rtp.conf": RTP}) as at:
        await at.server.account("bench", "kryptotel-in-shadow", "gated", countries=("GB",))
        await _warm(at, "gated")
        await at.server.idle()
        pids = at.switch.pid, at.server.pid
        before = [Process.of(pid) for pid in pids]
        async with calls_up(at, "gated", count, rate_per_s) as calls:
            up = [Process.of(pid) for pid in pids]
            later, lasted_s = await _while_up(seconds, *pids)
            switch, fairdial = (
                Taken.between(*each, max(1, calls), lasted_s) for each in zip(before, up, later, strict=True)
            )
            return Held(wanted, calls, switch, fairdial, await _started_again(at))


async def _warm(at: Site, line: str) -> None:
    await place_calls(
        at.switch, line=line, number=NUMBER, count=WARM, rate_per_s=WARM, hang_up_after_s=1, timeout_s=20
    )
    await at.switch.no_channels()


async def _while_up(seconds: float, *pids: int) -> tuple[list[Process], float]:
    began_s = time.monotonic()
    await asyncio.sleep(seconds)
    return [Process.of(pid) for pid in pids], time.monotonic() - began_s


async def _started_again(at: Site) -> Restart:
    calls = await _followed(at)
    await at.server.kill()
    seen = at.server.log_path.stat().st_size
    began_at, began_s = time.time(), time.monotonic()
    await at.server.launch()
    links_s = time.monotonic() - began_s
    deadline = time.monotonic() + MEASURES_S / 2
    adopted: list[float] = []
    while len(adopted) < calls and time.monotonic() < deadline:
        await asyncio.sleep(POLL_S)
        adopted = _adopted(at.server.log_path, seen)
    if not adopted:
        raise TestbedError(f"no call was followed again:\n{at.server.last_words()}")
    left = max(0, calls - await _followed(at))
    return Restart(links_s, min(adopted) - began_at, max(adopted) - began_at, left)


async def _followed(at: Site) -> int:
    """Calls that are followed, metered and held by a lease."""
    rows = await at.server.ask("calls")
    return sum(row["state"] == "talking" and row["left_s"] is not None for row in rows)


def _adopted(log: Path, seen: int) -> list[float]:
    """When each call was followed and leased again, as Unix time, by the log after its first `seen` bytes."""
    with log.open("rb") as file:
        file.seek(seen)
        lines = file.read().splitlines()
    entries = (json.loads(line) for line in lines if b'"call_adopted"' in line and line.endswith(b"}"))
    return [datetime.fromisoformat(entry["timestamp"]).timestamp() for entry in entries]


async def measure(sizes: Sequence[int], rate_per_s: float, seconds: float) -> Outcome:
    """Both switches with each number of calls."""
    outcome = Outcome()
    found: list[tuple[str, Held]] = []
    for wanted in sizes:
        count = allowed(wanted)
        progress(f"{count:,} calls at once, on the bare switch and with FairDial")
        held, at = await bare(wanted, count, rate_per_s, seconds)
        outcome.versions |= at.versions
        found.append(("Dial() alone", held))
        held = await gated(wanted, count, rate_per_s, seconds)
        found.append(("FairDial", held))
        few = [(path, each) for path, each in found[-2:] if each.calls < count * UP_SHARE]
        outcome.wrong += [f"{path}: {each.calls:,} of {count:,} calls came up" for path, each in few]
        if held.restart and held.restart.left:
            outcome.wrong.append(f"{held.restart.left} of {held.calls:,} calls were not followed again")
        if wanted == count == BUDGET_CALLS and not few and held.fairdial and held.restart:
            outcome.budgets |= {"memory-1000": held.fairdial.memory_kb, "restart-1000": held.restart.last_s}
    outcome.sheets += report(found)
    return outcome


def report(found: Sequence[tuple[str, Held]]) -> list[Sheet]:
    """What the calls took, and the restarts."""
    taken: list[Sequence[str]] = []
    restarts: list[Sequence[str]] = []
    for path, held in found:
        shown = f"{held.calls:,}" + (f" of {held.wanted:,}" if held.calls < held.wanted else "")
        for name, each in (("Asterisk", held.switch), ("FairDial", held.fairdial)):
            if each is not None:
                figures = (each.memory_kb, each.files, each.setup_cpu_ms, each.up_percent)
                taken.append((path, name, shown, *(f"{value:,.1f}" for value in figures)))
        if (again := held.restart) is not None:
            times = (again.links_s, again.first_s, again.last_s)
            restarts.append((shown, *(f"{value:.2f}" for value in times), str(again.left)))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = (
        f"this machine lets a process open {hard:,} files, and a call takes {FILES_A_CALL} of the switch's"
    )
    return [
        Sheet(
            "Calls that are up, without media",
            (
                "path",
                "process",
                "calls",
                "KB a call",
                "files a call",
                "CPU ms a set-up",
                "% of a core while up",
            ),
            taken,
            words=2,
            caption=limit,
        ),
        Sheet(
            "FairDial killed and started again: seconds from its start",
            ("calls", "ARI and AMI up", "first call followed and leased", "last", "not followed"),
            restarts,
            words=0,
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status."""
    options = parser(__doc__)
    options.add_argument("--calls", type=int, nargs="+", default=[1_000, 5_000], help="at once (1000 5000)")
    options.add_argument("--rate", type=float, default=50, help="calls a second while they are set up (50)")
    options.add_argument("--seconds", type=float, default=5, help="of looking on while all are up (5)")

    def run(given: argparse.Namespace) -> Outcome:
        return asyncio.run(measure(given.calls, given.rate, given.seconds))

    return program("live", options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
