"""A PostgreSQL server fails under calls on a real Asterisk; the books still agree with the phones.

The calls are held against the phones' own clocks and the switch's records, as in `test_faults.py`. What the ledger
alone does in these faults is in `tests/contract/test_postgres_faults.py`.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.books import Placed, Plan, Rules, open_account, place
from testbed.installation import Installation
from testbed.postgres import Cluster, obtain_postgres
from tests.switch.conftest import running_spine
from tests.switch.test_faults import ACCOUNT, LINE, agree, all_up, help_is_called_at_once

log = logging.getLogger(__name__)

FAULT_S = 4.0
"""Longer than a server that says nothing is waited for."""


@dataclass(frozen=True)
class Stage:
    """A ledger's address, and what happens to its server. later: a while after it was mended."""

    url: str
    fail: Callable[[], object]
    mend: Callable[[], object]
    later: Callable[[], object] = lambda: None


@contextmanager
def server(disk_mb: int = 0) -> Iterator[Cluster]:
    """A server of the test's own."""
    own = Cluster(obtain_postgres(), disk_mb=disk_mb)
    try:
        own.start()
        yield own
    finally:
        own.remove()


@contextmanager
def pair() -> Iterator[tuple[Cluster, Cluster]]:
    """A server, and the standby without which it commits nothing."""
    with server() as leading:
        standby = leading.standby()
        try:
            yield leading, standby
        finally:
            standby.remove()


@contextmanager
def restarted(how: signal.Signals) -> Iterator[Stage]:
    """Stopped, and started again."""
    with server() as own:
        yield Stage(own.url(own.made()), lambda: own.stop(how), own.start)


@contextmanager
def frozen() -> Iterator[Stage]:
    """All its processes hang."""
    with server() as own:
        yield Stage(own.tcp_url(own.made()), own.freeze, own.thaw)


@contextmanager
def full() -> Iterator[Stage]:
    """Its disk has no room."""
    with server(disk_mb=96) as own, ExitStack() as filling:
        yield Stage(own.url(own.made()), lambda: filling.enter_context(own.full()), filling.close)


@contextmanager
def pooled() -> Iterator[Stage]:
    """PgBouncer before it is stopped, and started again."""
    with server() as own, own.pooler() as pooler:
        yield Stage(pooler.url(own.made()), pooler.stop, pooler.start)


@contextmanager
def failed_over() -> Iterator[Stage]:
    """It is gone, and its standby promoted."""
    with pair() as (before, after):
        url = before.with_standby_url(after, before.made())
        yield Stage(url, lambda: before.stop(signal.SIGQUIT), after.promote)


@contextmanager
def woken() -> Iterator[Stage]:
    """It hangs, its standby is promoted, and it wakes, still leading as far as it knows."""
    with pair() as (before, after):
        url = before.with_standby_url(after, before.made())
        yield Stage(url, before.freeze, after.promote, before.thaw)


@contextmanager
def alone() -> Iterator[Stage]:
    """The standby without which it commits nothing hangs."""
    with pair() as (leading, standby):
        yield Stage(leading.url(leading.made()), standby.freeze, standby.thaw)


FAULTS: dict[str, Callable[[], AbstractContextManager[Stage]]] = {
    "crashed": lambda: restarted(signal.SIGQUIT),
    "frozen": frozen,
    "full": full,
    "failed over": failed_over,
    "woken": woken,
    # Of these the ledger's own tests have enough for every run.
    "restarted": lambda: restarted(signal.SIGINT),
    "pooled": pooled,
    "alone": alone,
}
SELDOM = ("restarted", "pooled", "alone")


@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=pytest.mark.soak) if name in SELDOM else name for name in FAULTS]
)
@pytest.mark.timeout(180)
async def test_a_server_that_fails_under_load_costs_no_call(
    installation: Installation, tmp_path: Path, fault: str
) -> None:
    plenty, scarce, short = Plan(), Plan(limit_s=20), Plan(longest_s=6)
    with FAULTS[fault]() as stage:
        settings = {"store.url": stage.url, "reconcile_every_s": 1}
        async with running_spine(installation, tmp_path, settings, name="east") as spine:
            await open_account(spine.server, ACCOUNT, plenty, LINE)
            await open_account(spine.server, "scarce", scarce, "carol")
            await open_account(spine.server, "short", short, "dave")
            load = asyncio.create_task(place(spine.switch, LINE, 40, 40, hang_up_after_s=9))
            # Nobody hangs these up but the switch.
            leased = asyncio.create_task(place(spine.switch, "dave", 10, 10, first=700_000))
            up = await all_up(spine.server, 50)
            during = asyncio.gather(
                place(spine.switch, LINE, 100, 10, first=10_000, hang_up_after_s=1),
                place(spine.switch, "carol", 20, 2, first=500_000, hang_up_after_s=2),
            )
            await asyncio.to_thread(stage.fail)
            failed_at = time.time()
            await help_is_called_at_once(spine)
            await asyncio.sleep(FAULT_S)
            mended_at = time.time()
            await asyncio.to_thread(stage.mend)
            await asyncio.sleep(1)
            await asyncio.to_thread(stage.later)
            many, few = await during
            refused = [made.outcome for made in many.calls if made.outcome.final_status == 503]
            assert refused
            assert all(outcome.invited_at >= failed_at - 2 for outcome in refused)
            tally = await agree(spine, await load + many, Rules(plenty.limit_s))
            await agree(spine, few, Rules(scarce.limit_s), "scarce")
            assert (await agree(spine, await leased, Rules(short.limit_s), "short")).answered
            log.info("%s: %d up, %s", fault, up, again(many, failed_at, mended_at))
            # All that were up, and those that dialled when it was well again.
            assert tally.answered > up - 10


def again(placed: Placed, failed_at: float, mended_at: float) -> str:
    """How dials fared meanwhile, and how long after the server was well the first was let through."""
    meanwhile = [made.outcome for made in placed.calls if failed_at < made.outcome.invited_at < mended_at]
    after_s = [
        made.outcome.answered_at - mended_at
        for made in placed.calls
        if made.outcome.answered_at is not None and made.outcome.invited_at > mended_at
    ]
    answers_ms = sorted(round(outcome.setup_s * 1000) for outcome in meanwhile)
    return (
        f"{len(meanwhile)} dials meanwhile answered in {answers_ms[len(answers_ms) // 2]} ms, at most"
        f" {answers_ms[-1]} ms; the first let through {min(after_s):.2f} s after it was well"
    )
