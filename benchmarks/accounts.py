"""What a call costs a ledger of a thousand accounts, and one of a million: both in one run, in turns.

Each call is an authorisation and a settlement of an account taken at random, by 256 callers at once. Every account has
a line and a meter of the month. Target: with a million at most 1.2 times the cost of a call with a thousand.
"""

import argparse
import asyncio
import contextlib
import itertools
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.ledger_steps import AT_MS, LONDON, POLICY, call
from benchmarks.measure import Outcome, Sheet, parser, program
from fairdial.ledger.contract import Ledger
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.account import Account, Dial, Kind
from fairdial.policy.decide import meters_at
from fairdial.policy.document import Policy, parse_policy

CALLERS = 256
SIZES = (1_000, 1_000_000)
TARGET = 1.2

_NUMBERED = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?) INSERT INTO "
FILL = (
    _NUMBERED + "accounts (id, name, policy, zone, standing)"
    " SELECT 'account-' || i, 'Customer ' || i, 'bench', 'UTC', 'active' FROM n",
    _NUMBERED + "lines (id, account_id, standing, habit)"
    " SELECT 'line-' || i, 'account-' || i, 'active', '{}' FROM n",
    _NUMBERED + "meters (account_id, allowance, start_ms, end_ms, limit_units, used_units, calls)"
    " SELECT 'account-' || i, 'voice', ?, ?, ?, 600, 10 FROM n",
)
"""As the ledger would write them; the number of accounts, then the meter's window and limit."""


@dataclass(slots=True)
class Size:
    """A ledger of so many accounts. costs: microseconds of a call, on the clock and of this process, one a round."""

    accounts: int
    path: Path
    filled_s: float = 0.0
    opened_ms: float = 0.0
    first_ms: float = 0.0
    bytes_kept: int = 0
    wall_us: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)


def fill(path: Path, accounts: int, policy: Policy) -> None:
    """Write at once so many accounts into the empty ledger at `path`."""
    dial = Dial("c", Kind.OUTBOUND, LONDON.dialled, "line-0", "c", AT_MS, 60)
    [meter] = meters_at(Account("account-0", "bench", "UTC"), policy, dial)
    window = meter.window
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN")
        for statement in FILL:
            given = (accounts, window.start_ms, window.end_ms, meter.limit_units)
            db.execute(statement, given[: statement.count("?")])
        db.execute("COMMIT")


async def prepared(size: Size, policy: Policy) -> Ledger:
    """The ledger, filled, closed and opened again, after its first call."""
    await (await SqliteLedger.open(size.path)).close()
    began_s = time.perf_counter()
    await asyncio.to_thread(fill, size.path, size.accounts, policy)
    size.filled_s = time.perf_counter() - began_s
    began_s = time.perf_counter()
    ledger = await SqliteLedger.open(size.path)
    size.opened_ms = 1000 * (time.perf_counter() - began_s)
    began_s = time.perf_counter()
    await call(ledger, policy, "line-7", f"first-{size.accounts}")
    size.first_ms = 1000 * (time.perf_counter() - began_s)
    return ledger


async def measure(size: Size, ledger: Ledger, policy: Policy, calls: Iterator[int], count: int) -> None:
    """One round of so many calls."""
    chance = random.Random(next(calls))

    async def dials() -> None:
        for _ in range(count // CALLERS):
            await call(ledger, policy, f"line-{chance.randrange(size.accounts)}", f"call-{next(calls)}")

    began_s, used_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*(dials() for _ in range(CALLERS)))
    made = count // CALLERS * CALLERS
    size.wall_us.append(1e6 * (time.perf_counter() - began_s) / made)
    size.cpu_us.append(1e6 * (time.process_time() - used_s) / made)


async def figures(rounds: int, count: int, sizes: tuple[int, ...]) -> list[Size]:
    """All sizes, in turns."""
    policy = parse_policy(POLICY, "bench.toml")
    calls = itertools.count()
    with tempfile.TemporaryDirectory() as folder:
        found = [Size(accounts, Path(folder) / f"{accounts}.sqlite") for accounts in sizes]
        ledgers = [await prepared(size, policy) for size in found]
        try:
            for _ in range(rounds):
                for size, ledger in zip(found, ledgers, strict=True):
                    await measure(size, ledger, policy, calls, count)
        finally:
            for ledger in ledgers:
                await ledger.close()
        for size in found:
            size.bytes_kept = size.path.stat().st_size
    return found


def report(found: Sequence[Size]) -> Outcome:
    """The table of a run. The budget is on the clock, as what waits for the disk counts too."""
    rows: list[Sequence[str]] = [
        (
            f"{size.accounts:,}",
            f"{statistics.median(size.wall_us):.0f}",
            f"{statistics.median(size.cpu_us):.0f}",
            f"{size.bytes_kept / 1e6:.0f}",
            f"{size.filled_s:.1f}",
            f"{size.opened_ms:.0f}",
            f"{size.first_ms:.1f}",
        )
        for size in found
    ]
    few, many = found
    on_the_clock = statistics.median(many.wall_us) / statistics.median(few.wall_us)
    of_process = statistics.median(many.cpu_us) / statistics.median(few.cpu_us)
    columns = ("accounts", "us a call", "of this process", "MB", "filled s", "opened ms", "first call ms")
    caption = (
        f"times the cost: {on_the_clock:.2f} on the clock, {of_process:.2f} of this process (target {TARGET})"
    )
    sheet = Sheet("What a call costs, by the accounts that the ledger has", columns, rows, caption=caption)
    return Outcome([sheet], {"accounts": on_the_clock} if many.accounts >= SIZES[1] else {})


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=9, help="of each size (9)")
    options.add_argument("--calls", type=int, default=5_120, help="in a round (5120)")
    options.add_argument("--accounts", type=int, default=SIZES[1], help="of the larger (1000000)")

    def run(given: argparse.Namespace) -> Outcome:
        sizes = (SIZES[0], given.accounts)
        return report(asyncio.run(figures(given.rounds, given.calls, sizes)))

    return program("accounts", options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
