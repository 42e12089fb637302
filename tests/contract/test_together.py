"""Steps that share a transaction of PostgreSQL: what one meets, the others do not feel."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from fairdial.ledger.contract import (
    ConstraintViolated,
    IdempotencyConflict,
    LedgerUnavailable,
    NotFound,
)
from fairdial.ledger.postgres import PostgresLedger
from fairdial.policy.account import Needs, Snapshot
from fairdial.policy.decide import Allow, Verdict
from testbed.postgres import shared_cluster
from tests.contract.conftest import PostgresStore
from tests.samples import LONDON, NOON_MS, authorise, outbound, provision

LINES = [f"line-{number}" for number in range(12)]


@pytest.fixture
def store() -> Iterator[PostgresStore]:
    """An empty database."""
    cluster = shared_cluster()
    with cluster.database() as name:
        yield PostgresStore(cluster, name)


@pytest.fixture
async def ledger(store: PostgresStore) -> AsyncIterator[PostgresLedger]:
    """One thread that writes, and an account for each line."""
    opened = await PostgresLedger.open(store.url, connections=1, locked_ms=200)
    for line in LINES:
        await provision(opened, f"of-{line}", line)
    yield opened
    await opened.close()


@asynccontextmanager
async def busy(ledger: PostgresLedger) -> AsyncIterator[None]:
    """The thread is held up meanwhile, so that what is asked waits together."""
    begun, let_go = threading.Event(), threading.Event()

    def hold_up(_db: Any) -> None:
        begun.set()
        let_go.wait(10)

    held = asyncio.create_task(ledger._steps.do(hold_up))
    await asyncio.to_thread(begun.wait, 10)
    yield
    await asyncio.sleep(0)
    let_go.set()
    await held


async def all_at_once(ledger: PostgresLedger, steps: Sequence[Awaitable[Any]]) -> list[Any]:
    """What becomes of steps that waited at the same time."""
    async with busy(ledger):
        asked = asyncio.gather(*steps, return_exceptions=True)
    return list(await asked)


async def used_s(ledger: PostgresLedger, line: str) -> list[int]:
    """What the account of a line used, by its meters."""
    return [usage.meter.used_units for usage in (await ledger.sheet(f"of-{line}")).usage]


async def test_steps_that_wait_share_a_transaction_and_each_does_its_own(ledger: PostgresLedger) -> None:
    before = ledger.traffic.commits.of("ok")
    dials = [outbound(f"call-{line}", line_id=line) for line in LINES]
    verdicts = await all_at_once(ledger, [authorise(ledger, dial) for dial in dials])
    assert all(isinstance(verdict.decision, Allow) for verdict in verdicts)
    grants = await all_at_once(
        ledger, [ledger.settle(dial.call_id, place, NOON_MS) for place, dial in enumerate(dials)]
    )
    assert [grant.used_s for grant in grants] == list(range(len(LINES)))
    assert [await used_s(ledger, line) for line in LINES] == [[place] for place in range(len(LINES))]
    # Of either, and what held the thread up before each.
    assert ledger.traffic.commits.of("ok") - before == 4


async def test_steps_of_one_account_that_share_a_transaction_see_each_other(ledger: PostgresLedger) -> None:
    dial = outbound("call", line_id="line-0")
    first, again, settled, late = await all_at_once(
        ledger,
        [
            authorise(ledger, dial),
            authorise(ledger, dial),
            ledger.settle("call", 30, NOON_MS),
            ledger.settle("call", 60, NOON_MS),
        ],
    )
    assert (first.repeated, again.repeated) == (False, True)
    assert first.decision == again.decision
    # Where the grant was not there yet when accounts were locked, the step came after the others.
    assert (settled.used_s, late.used_s, late.repeated) == (30, 30, True)
    assert await used_s(ledger, "line-0") == [30]


async def test_a_step_that_is_refused_spoils_no_other(ledger: PostgresLedger) -> None:
    await authorise(ledger, outbound("taken", line_id="line-0"))
    other = replace(outbound("taken", line_id="line-0"), dialled="02079460999")
    allowed, conflict, unknown, settled = await all_at_once(
        ledger,
        [
            authorise(ledger, outbound("new", line_id="line-1")),
            authorise(ledger, other),
            ledger.settle("nobody's", 5, NOON_MS),
            ledger.settle("taken", 7, NOON_MS),
        ],
    )
    assert isinstance(allowed.decision, Allow)
    assert isinstance(conflict, IdempotencyConflict)
    assert isinstance(unknown, NotFound)
    assert settled.used_s == 7


async def test_what_the_database_refuses_of_one_step_is_kept_of_the_others(ledger: PostgresLedger) -> None:
    allow = (await authorise(ledger, outbound("first", line_id="line-0"))).decision
    assert isinstance(allow, Allow)

    def too_much(_snapshot: Snapshot) -> Verdict:
        hold = replace(allow.holds[0], hold_units=10**9)
        return Verdict(LONDON, replace(allow, account_id="of-line-1", holds=(hold,)))

    bad = ledger.authorise(outbound("bad", line_id="line-1"), lambda _line, _account: Needs(), too_much)
    refused, good, settled = await all_at_once(
        ledger,
        [bad, authorise(ledger, outbound("good", line_id="line-2")), ledger.settle("first", 9, NOON_MS)],
    )
    assert isinstance(refused, ConstraintViolated)
    assert isinstance(good.decision, Allow)
    assert settled.used_s == 9
    assert {grant.call_id for grant in await ledger.live_grants()} == {"good"}


async def test_an_account_that_is_in_use_elsewhere_holds_nobody_else_up(
    store: PostgresStore, ledger: PostgresLedger
) -> None:
    async with await psycopg.AsyncConnection.connect(store.url) as elsewhere:
        await elsewhere.execute("SELECT 1 FROM accounts WHERE id = 'of-line-0' FOR UPDATE")
        async with busy(ledger):
            waits = asyncio.create_task(authorise(ledger, outbound("held", line_id="line-0")))
            goes = asyncio.create_task(authorise(ledger, outbound("free", line_id="line-1")))
            await asyncio.sleep(0)
        done, _ = await asyncio.wait({waits, goes}, return_when=asyncio.FIRST_COMPLETED)
        assert done == {goes}
        with pytest.raises(LedgerUnavailable, match="another step holds the account"):
            await waits
        await elsewhere.rollback()
    assert isinstance((await authorise(ledger, outbound("held", line_id="line-0"))).decision, Allow)


async def test_a_step_whose_caller_has_gone_is_not_run(ledger: PostgresLedger) -> None:
    async with busy(ledger):
        gone = asyncio.create_task(authorise(ledger, outbound("gone", line_id="line-0")))
        stays = asyncio.create_task(authorise(ledger, outbound("stays", line_id="line-1")))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
    assert isinstance((await stays).decision, Allow)
    assert [grant.call_id for grant in await ledger.live_grants()] == ["stays"]
