"""The rounds over billing cycles run by themselves, at once after the start, and outlive a store in trouble."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fairdial.cycles import Cycles
from fairdial.ledger.contract import LedgerUnavailable
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.account import Account
from fairdial.policy.book import PolicyBook
from fairdial.policy.requests import Asked, Request, RequestKind, RequestState
from fairdial.policy.terms import Clause
from tests.samples import NOON_MS, SetClock, plan


class Failing(SqliteLedger):
    """The real ledger, whose first looks fail as often as it is set."""

    failures = 0
    looks = 0
    looked = asyncio.Event()

    async def end_requests(self, now_ms: int, limit: int = 100) -> tuple[Request, ...]:
        self.looks += 1
        if self.looks <= self.failures:
            raise LedgerUnavailable("disk full")
        ended = await super().end_requests(now_ms, limit)
        self.looked.set()
        return ended


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Failing]:
    opened = await Failing.open(tmp_path / "ledger.sqlite")
    assert isinstance(opened, Failing)
    opened.looked = asyncio.Event()
    await opened.add_account(Account("acme", "plan"))
    yield opened
    await opened.close()


@pytest.mark.parametrize("failures", [0, 2])
async def test_what_is_over_is_found_by_itself(ledger: Failing, failures: int) -> None:
    clause = Clause("plan", "1", "R5")
    asked = Asked(
        "acme",
        RequestKind.LIMIT,
        "plan",
        "allowances.voice",
        clause,
        "w",
        "Ann",
        NOON_MS - 2,
        limit=9_000,
        until_ms=NOON_MS - 1,
    )
    request = await ledger.ask(asked)
    ledger.failures = failures
    cycles = Cycles(ledger, lambda: PolicyBook([plan()]), SetClock(), every_s=0.01)
    await cycles.start()
    async with asyncio.timeout(10):
        await ledger.looked.wait()
    await cycles.stop()
    assert (await ledger.request(request.id))[0].state is RequestState.EXPIRED
    assert ledger.looks >= failures + 1


async def test_stopped_it_looks_no_more(ledger: Failing) -> None:
    cycles = Cycles(ledger, lambda: PolicyBook([plan()]), SetClock(), every_s=0.01)
    await cycles.stop()
    await cycles.start()
    async with asyncio.timeout(10):
        await ledger.looked.wait()
    await cycles.stop()
    before = ledger.looks
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "cycles"]
    assert ledger.looks == before
