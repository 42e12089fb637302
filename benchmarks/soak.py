"""A steady load for minutes or hours: FairDial stays as large as it is, and its books are still those of the phones.

Calls come at a quarter of the rate that the machine holds (`benchmarks.setup_time`), each to a number of its own. Every
few seconds FairDial's memory, file descriptors, tasks, queues and ledger are looked at. Of each a straight line is
fitted, from when the first calls have ended; status 1 where one climbs past its bound, or where a call is lost, doubled
or metered wrongly.

Two may climb, by the call: the ledger, which keeps every decision, and in a short run memory, since the records of the
switch are kept until five minutes after their call was compared (`fairdial/rounds.py`). All else is to be level; a long
run is looked at from when as many records are forgotten as come.
"""

import argparse
import asyncio
import csv
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path

from benchmarks.measure import Outcome, Sheet, parser, program, site
from fairdial.cdr import cdr_of_row, rows
from fairdial.rounds import RECORDS_KEPT_MS
from testbed.asterisk import Switch
from testbed.books import Placed, Plan, open_account, place
from testbed.configuration import Line
from testbed.server import Server

TALK_S = 5.0
BATCH_S = 30
"""So long calls come from one phone process, before the next begins."""
SAMPLE_EVERY_S = 2.0
WARM_UP_S = 15.0
"""Until calls end as often as they begin, and what is made once was made."""
LEVEL_S = RECORDS_KEPT_MS / 1000 + 60
"""Until records are forgotten as fast as they come."""
REFUSED_SHARE = 0.005
"""By the failure rule, where the machine had other things to do for half a second."""
ROUNDED_SHARE = 0.005
"""A call is metered in whole seconds: one that ends late by half a second has one more."""
LINE, ACCOUNT = "alice", "soak"
BYTES = 1024


@dataclass(frozen=True)
class Sample:
    """What was seen at one moment. calls: authorised so far."""

    at_s: float
    calls: float
    rss_kib: float
    descriptors: float
    tasks: float
    queues: float
    unwritten: float
    live: float
    ledger_kib: float


@dataclass(frozen=True)
class Bound:
    """How much more there may be at the end, by the fitted line: so much, a share of the mean, so much a call."""

    what: str
    of: Callable[[Sample], float]
    unit: str
    flat: float = 0.0
    share: float = 0.0
    by_call: float = 0.0


FILLING = Bound("memory (RSS)", lambda sample: sample.rss_kib, "KiB", flat=4 * BYTES, by_call=2.0)
# For a while yet the store's page cache fills (writer.py, 8 MB).
LEVEL = dataclasses.replace(FILLING, flat=16 * BYTES, by_call=0.0)
BOUNDS = (
    Bound("file descriptors", lambda sample: sample.descriptors, "", flat=3),
    Bound("asyncio tasks", lambda sample: sample.tasks, "", flat=20, share=0.1),
    Bound("call queues", lambda sample: sample.queues, "", flat=20, share=0.1),
    Bound("steps not written", lambda sample: sample.unwritten, "", flat=5),
    Bound("live calls", lambda sample: sample.live, "", flat=20, share=0.1),
    Bound("ledger", lambda sample: sample.ledger_kib, "KiB", flat=5 * BYTES, by_call=4.0),
)


@dataclass
class Run:
    """What a soak saw."""

    samples: list[Sample] = field(default_factory=list)
    placed: Placed = field(default_factory=lambda: Placed(()))
    recorded: int = 0
    used_s: int = 0
    reserved_s: int = 0
    left: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)


async def soak(run: Run, minutes: float, rate_per_s: int) -> None:
    """Load a switch with FairDial for so long; `run` is filled in meanwhile."""
    lines = [Line(LINE, accountcode=LINE, context="phones")]
    async with site(lines=lines, settings={"logs.level": "warning"}) as at:
        switch, server = at.switch, at.server
        run.versions = at.versions
        await open_account(server, ACCOUNT, Plan(limit_s=1_000_000_000), LINE)
        sampling = asyncio.create_task(sample(server, run.samples, rate_per_s))
        try:
            run.placed = await load(switch, round(minutes * 60), rate_per_s)
        finally:
            sampling.cancel()
            await asyncio.gather(sampling, return_exceptions=True)
        await server.idle(timeout_s=30)
        run.left = await switch.no_channels()
        usage = await server.usage(ACCOUNT)
        run.used_s, run.reserved_s = usage["used_s"], usage["reserved_s"]
        run.recorded = answered_by_record(switch.cdr_path.read_bytes())


async def load(switch: Switch, seconds: int, rate_per_s: int) -> Placed:
    """Calls at that rate, from one phone process after the other; each begins when the last has no more to begin."""
    loop, placing = asyncio.get_running_loop(), list[asyncio.Task[Placed]]()
    began = loop.time()
    for batch, start_s in enumerate(range(0, seconds, BATCH_S)):
        await asyncio.sleep(max(0.0, began + start_s - loop.time()))
        count = min(BATCH_S, seconds - start_s) * rate_per_s
        first = batch * BATCH_S * rate_per_s * 2
        placing.append(
            asyncio.create_task(
                place(switch, LINE, count, rate_per_s, first=first, hang_up_after_s=TALK_S, timeout_s=60)
            )
        )
    return sum(await asyncio.gather(*placing), Placed(()))


async def sample(server: Server, samples: list[Sample], rate_per_s: int) -> None:
    """Look every SAMPLE_EVERY_S, until cancelled. What does not answer in time is no sample."""
    began = time.monotonic()
    process, ledger = Path(f"/proc/{server.pid}"), server.directory
    while True:
        await asyncio.sleep(SAMPLE_EVERY_S)
        status = await server.ask("status")
        pages = int((process / "statm").read_text().split()[1])
        at_s = time.monotonic() - began
        samples.append(
            Sample(
                at_s,
                at_s * rate_per_s,
                pages * 4,
                len(list((process / "fd").iterdir())),
                status["tasks"],
                status["queues"],
                status["unwritten"],
                status["calls"],
                sum(file.stat().st_size for file in ledger.glob("ledger.sqlite*")) / BYTES,
            )
        )


def write(samples: Sequence[Sample], path: Path) -> None:
    """What was seen, as CSV: also of a run that came to no end."""
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(each.name for each in dataclasses.fields(Sample))
        out.writerows(dataclasses.astuple(each) for each in samples)


def answered_by_record(data: bytes) -> int:
    """Callers of whom the switch recorded a talk."""
    records = (
        cdr_of_row(data[start:stop].decode(), UTC, where="Master.csv")
        for start, stop in rows(data, final=True)
    )
    return len({cdr.unique_id for cdr in records if cdr.answered and cdr.dst_channel})


def climbs(samples: Sequence[Sample], bound: Bound) -> tuple[float, float]:
    """By the fitted line: how much more there is at the end than at the beginning, and how much there may be."""
    calls = [each.calls for each in samples]
    values = [bound.of(each) for each in samples]
    span = calls[-1] - calls[0]
    more = statistics.linear_regression(calls, values).slope * span
    return more, bound.flat + bound.share * statistics.fmean(values) + bound.by_call * span


def report(run: Run, minutes: float, rate_per_s: int) -> Outcome:
    """The table, and what is wrong."""
    is_long = minutes * 60 >= 2 * LEVEL_S
    begin_s, memory = (LEVEL_S, LEVEL) if is_long else (WARM_UP_S, FILLING)
    rows: list[Sequence[str]] = []
    wrong = []
    steady = [each for each in run.samples if begin_s <= each.at_s <= minutes * 60]
    for bound in (memory, *BOUNDS):
        values = [bound.of(each) for each in steady]
        more, most = climbs(steady, bound)
        cells = (*(f"{value:,.0f} {bound.unit}" for value in (values[0], values[-1], max(values))),)
        rows.append((bound.what, *cells, f"{more:+,.1f}", f"{most:,.1f}"))
        if more > most:
            wrong.append(f"{bound.what} climbs by {more:,.1f} {bound.unit}, where {most:,.1f} are allowed")
    talked_s = sum(made.outcome.talk_s for made in run.placed.calls)
    summary = (
        f"{len(run.placed.calls)} calls, {sum(made.outcome.answered for made in run.placed.calls)} answered,"
        f" {run.recorded} in the switch's records; phones {talked_s:.1f} s, metered {run.used_s} s"
    )
    title = f"{minutes:g} minutes at {rate_per_s} calls/s of {TALK_S:g} s, after {begin_s:g} s"
    columns = ("what", "first", "last", "most", "more by the fitted line", "may be")
    sheet = Sheet(title, columns, rows, caption=summary)
    return Outcome([sheet], wrong=wrong + faults(run), versions=run.versions)


def faults(run: Run) -> list[str]:
    """Where the books are not those of the phones."""
    calls = run.placed.calls
    answered = [made.outcome for made in calls if made.outcome.answered]
    talked_s = sum(round(call.talk_s) for call in answered)
    wrong = [f"{name} is still up" for name in run.left]
    refused = len(calls) - len(answered)
    if run.placed.lost:
        wrong.append(f"{run.placed.lost} calls came to no end")
    if refused > len(calls) * REFUSED_SHARE:
        wrong.append(f"{refused} calls were refused")
    if run.recorded != len(answered):
        wrong.append(f"{len(answered)} calls answered, {run.recorded} in the switch's records")
    if abs(run.used_s - talked_s) > talked_s * ROUNDED_SHARE:
        wrong.append(f"phones talked {talked_s} s, metered {run.used_s} s")
    if run.reserved_s:
        wrong.append(f"{run.reserved_s} s are held for no call")
    return wrong


def measure(minutes: float, rate_per_s: int, samples: Path | None) -> Outcome:
    """Soak, and write what was seen to `samples`."""
    run = Run()
    try:
        asyncio.run(soak(run, minutes, rate_per_s))
    finally:
        if samples is not None:
            write(run.samples, samples)
    return report(run, minutes, rate_per_s)


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak and print; the exit status."""
    options = parser(__doc__)
    options.add_argument("--minutes", type=float, default=60, help="how long, at least half a minute (60)")
    options.add_argument("--rate", type=int, default=40, help="calls a second (40)")
    options.add_argument("--samples", type=Path, help="a file to write what was seen to, as CSV")
    minutes = options.parse_args(arguments).minutes
    if minutes < 0.5:
        options.error(f"--minutes {minutes:g}: at least 0.5, for a line through enough samples")

    def run(given: argparse.Namespace) -> Outcome:
        return measure(given.minutes, given.rate, given.samples)

    return program("soak", options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
