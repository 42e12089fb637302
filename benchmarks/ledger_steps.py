"""How many calls a second a ledger authorises and settles, each step on the disk: SQLite and PostgreSQL in one run.

Callers each have an account of their own and dial one call after the other. A call is two steps: authorise and settle.
The PostgreSQL server is one of its own on this machine and takes its part of the same cores. Targets: 20,000 steps a
second on SQLite, 4,000 on PostgreSQL.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Outcome, Sheet, parser, percentile, postgres_version, program
from fairdial.ledger.contract import Ledger
from fairdial.ledger.postgres import PostgresLedger
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.account import Account, Dial, Kind, Line, Needs
from fairdial.policy.decide import Allow, Verdict, decide, meters_at
from fairdial.policy.document import Policy, parse_policy
from fairdial.policy.numbers import Number
from fairdial.policy.prefixes import NumberClass
from fairdial.policy.sizing import GrantRules
from testbed.postgres import Cluster, obtain_postgres

CALLERS = (1, 16, 256)
TARGETS_PER_S = {"SQLite": 20_000, "PostgreSQL": 4_000}
BUDGETS = {"SQLite": "steps-sqlite", "PostgreSQL": "steps-postgresql"}
AT_MS = 1_795_262_400_000
"""2026-11-21 12:00:00 UTC."""
LONDON = Number("02079460123", "+442079460123", NumberClass.GEOGRAPHIC, "GB")
RULES = GrantRules()
POLICY = """
name = "bench"
version = "1"
title = "A minute plan"
kinds = { allow = ["outbound"], clause = "B1" }
classes = { allow = ["geographic"], clause = "B2" }
countries = { allow = ["GB"], clause = "B3" }
longest_call = { clause = "B4", seconds = { outbound = 600 } }
[[allowances]]
name = "voice"
limit_s = 100000000
period = "month"
counts = ["outbound"]
clause = "B5"
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """Of a store with so many callers. took_ms: of each authorisation."""

    store: str
    callers: int
    calls: int
    lasted_s: float
    took_ms: tuple[float, ...]

    @property
    def steps_per_s(self) -> float:
        """Two to a call."""
        return 2 * self.calls / self.lasted_s


async def call(ledger: Ledger, policy: Policy, line: str, call_id: str) -> float:
    """One call; the seconds that its authorisation took."""
    dial = Dial(call_id, Kind.OUTBOUND, LONDON.dialled, line, f"channel-{call_id}", AT_MS, 60)
    began_s = time.perf_counter()
    verdict = await ledger.authorise(
        dial,
        lambda _line, account: Needs(meters_at(account, policy, dial)),
        lambda snapshot: Verdict(LONDON, decide(dial, LONDON, snapshot, policy, RULES)),
    )
    took_s = time.perf_counter() - began_s
    if not isinstance(verdict.decision, Allow):
        raise SystemExit(f"{call_id} was refused: {verdict.decision.reason}")
    await ledger.settle(call_id, 60, AT_MS + 60_000)
    return took_s


async def measure(name: str, ledger: Ledger, callers: int, seconds: float, who: str = "") -> Figure:
    """Let so many callers dial for so long. who: in their names, where others call beside them."""
    policy = parse_policy(POLICY, "bench.toml")
    took: list[float] = []
    for number in range(callers):
        await ledger.add_account(Account(f"account-{who}{number}", "bench", "UTC"))
        await ledger.add_line(Line(f"line-{who}{number}", f"account-{who}{number}"))

    async def dials(number: int, until_s: float) -> None:
        made = 0
        while time.perf_counter() < until_s:
            call_id = f"{who}{callers}-{number}-{made}"
            took.append(await call(ledger, policy, f"line-{who}{number}", call_id))
            made += 1

    await call(ledger, policy, f"line-{who}0", f"{who}{callers}-warm")
    began_s = time.perf_counter()
    await asyncio.gather(*(dials(number, began_s + seconds) for number in range(callers)))
    lasted_s = time.perf_counter() - began_s
    return Figure(name, callers, len(took), lasted_s, tuple(sorted(1000 * each for each in took)))


@asynccontextmanager
async def _sqlite(folder: Path) -> AsyncIterator[Ledger]:
    ledger = await SqliteLedger.open(folder / "ledger.sqlite")
    try:
        yield ledger
    finally:
        await ledger.close()


@asynccontextmanager
async def _postgres(_folder: Path) -> AsyncIterator[Ledger]:
    cluster = Cluster(obtain_postgres(), disk=True)
    try:
        cluster.start()
        with cluster.database() as name:
            ledger = await PostgresLedger.open(cluster.url(name), locked_ms=2_000)
            try:
                yield ledger
            finally:
                await ledger.close()
    finally:
        cluster.remove()


STORES = {"SQLite": _sqlite, "PostgreSQL": _postgres}


async def figures(seconds: float, stores: Sequence[str]) -> list[Figure]:
    """Each store with each number of callers, one after the other."""
    found = []
    for name in stores:
        with tempfile.TemporaryDirectory() as folder:
            async with STORES[name](Path(folder)) as ledger:
                found += [await measure(name, ledger, callers, seconds) for callers in CALLERS]
    return found


def report(found: Sequence[Figure]) -> Outcome:
    """The table of a run. The budget is what a store does at best, with as many callers as it likes."""
    outcome = Outcome()
    rows: list[Sequence[str]] = []
    for figure in found:
        name = BUDGETS[figure.store]
        outcome.budgets[name] = max(outcome.budgets.get(name, 0.0), figure.steps_per_s)
        rows.append(
            (
                figure.store,
                str(figure.callers),
                f"{figure.steps_per_s:,.0f}",
                f"{TARGETS_PER_S[figure.store]:,}",
                f"{statistics.median(figure.took_ms):.1f}",
                f"{percentile(figure.took_ms, 99):.1f}",
            )
        )
    columns = ("store", "callers", "steps/s", "target", "authorise ms, median", "p99")
    outcome.sheets.append(Sheet("Steps of the ledger a second, each on the disk", columns, rows))
    if any(figure.store == "PostgreSQL" for figure in found):
        outcome.versions["PostgreSQL"] = postgres_version(obtain_postgres())
    return outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status."""
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=2.0, help="for each figure (2)")
    options.add_argument("--store", choices=sorted(STORES), action="append", help="only that one")

    def run(given: argparse.Namespace) -> Outcome:
        return report(asyncio.run(figures(given.seconds, given.store or tuple(STORES))))

    return program("ledger_steps", options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
