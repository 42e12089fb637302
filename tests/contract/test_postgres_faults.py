"""A PostgreSQL server fails in the middle of many calls: restarted, frozen, full, behind a pooler, in another's place.

Whatever fails, each step that was acknowledged is in the ledger once, one that was not once or not at all, and who
repeats one that may have been written gets the same answer.
"""

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from fairdial.ledger.contract import Ledger, LedgerSlow, LedgerUnavailable
from fairdial.ledger.postgres import PostgresLedger, examine
from testbed.postgres import Cluster, obtain_postgres
from tests.contract.loads import PLAN, USED_S, Load, hold_against, repeated
from tests.samples import NOON_MS, authorise, outbound, provision

log = logging.getLogger(__name__)

CONNECTIONS = 4
PATIENCE_S = 3.0
"""So long a server is waited for that says nothing (pool.py)."""


@contextmanager
def running(**how: int) -> Iterator[Cluster]:
    """A server, until the block ends."""
    own = Cluster(obtain_postgres(), **how)  # type: ignore[arg-type]
    try:
        own.start()
        yield own
    finally:
        own.remove()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A server that each test leaves well."""
    with running() as own:
        yield own


@pytest.fixture
def pair() -> Iterator[tuple[Cluster, Cluster]]:
    """A server, and the standby without which it commits nothing."""
    with running() as leading:
        standby = leading.standby()
        try:
            yield leading, standby
        finally:
            standby.remove()


@asynccontextmanager
async def under_load(url: str) -> AsyncIterator[Load]:
    """Three nodes with callers on each; the books are held against them when the block has ended."""
    nodes: list[Ledger] = [
        await PostgresLedger.open(url, connections=CONNECTIONS, locked_ms=2_000) for _ in range(3)
    ]
    try:
        await provision(nodes[0])
        load = Load(nodes)
        running = asyncio.create_task(load.run())
        try:
            await load.until(40)
            yield load
            await load.until(40)
        finally:
            load.stop.set()
            await running
        log.info(
            "%d calls, %d failures, %d repeated; nothing acknowledged for %.1f s",
            *(len(load.settled), load.failures, len(load.slow), load.longest_gap_s),
        )
        await hold_against(nodes[0], load)
    finally:
        for node in nodes:
            await node.close()


async def told(step: Callable[[], Awaitable[object]], within_s: float = 20.0) -> str:
    """What is said of a step that cannot be done, once it is not only that it may have been."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                await step()
            except LedgerSlow:
                pass
            except LedgerUnavailable as error:
                return str(error)


async def test_a_server_that_is_restarted_and_one_that_crashes(cluster: Cluster) -> None:
    with cluster.database() as name:
        async with under_load(cluster.url(name)) as load:
            for how in (signal.SIGINT, signal.SIGQUIT):
                failures = load.failures
                await asyncio.to_thread(cluster.stop, how)
                began_s = time.monotonic()
                assert "see that the server runs" in await told(load.nodes[1].probe)
                assert time.monotonic() - began_s < 1
                await asyncio.to_thread(cluster.start)
                await load.until(40)
                assert load.failures > failures


async def test_a_server_that_hangs_is_waited_for_by_none_for_long(cluster: Cluster) -> None:
    with cluster.database() as name:
        async with under_load(cluster.url(name)) as load:
            cluster.freeze()
            try:
                began_s = time.monotonic()
                steps: list[Callable[[], Awaitable[object]]] = [load.nodes[0].probe, load.nodes[0].accounts]
                told = await asyncio.gather(*(step() for step in steps), return_exceptions=True)
                assert {isinstance(each, LedgerUnavailable) for each in told} == {True}
                # A reading has ten seconds of its own, and ends with the others: none is heard.
                assert time.monotonic() - began_s < PATIENCE_S + 2
                began_s = time.monotonic()
                with pytest.raises(LedgerUnavailable):
                    await load.nodes[0].probe()
                assert time.monotonic() - began_s < PATIENCE_S
            finally:
                cluster.thaw()
            assert await repeated(load.nodes[0].accounts)


async def test_a_disk_without_room() -> None:
    with running(disk_mb=96) as own, own.database() as name:
        async with under_load(own.url(name)) as load:
            with own.full():
                async with asyncio.timeout(20):
                    while "make room on the server's disk" not in await told(load.nodes[0].probe):
                        pass
            await repeated(load.nodes[0].probe)


async def test_a_pooler_that_is_restarted(cluster: Cluster) -> None:
    with cluster.database() as name, cluster.pooler() as pooler:
        async with under_load(pooler.url(name)) as load:
            await asyncio.to_thread(pooler.stop)
            assert "see that the server runs" in await told(load.nodes[1].probe)
            await asyncio.to_thread(pooler.start)


async def test_a_standby_that_takes_the_place_of_a_server_that_is_gone(pair: tuple[Cluster, Cluster]) -> None:
    before, after = pair
    async with under_load(before.with_standby_url(after, before.made())):
        await asyncio.to_thread(before.stop, signal.SIGQUIT)
        await asyncio.to_thread(after.promote)


async def test_an_old_primary_that_wakes_gets_nothing_more(pair: tuple[Cluster, Cluster]) -> None:
    before, after = pair
    name = before.made()
    url = before.with_standby_url(after, name)
    async with under_load(url) as load:
        before.freeze()
        await asyncio.to_thread(after.promote)
        await load.until(40)
        before.thaw()
        # Who starts now is not led astray by the order of the hosts.
        late = await PostgresLedger.open(url, connections=2)
        try:
            await repeated(lambda: authorise(late, outbound("late"), PLAN))
            await repeated(lambda: late.settle("late", USED_S, NOON_MS + 10_000))
        finally:
            await late.close()
        load.settled.append("late")
        await load.until(40)
        assert before.admin("SELECT count(*) FROM decisions WHERE call_id = 'late'", name) == [(0,)]
    # And who was led by the new one is not led back.
    ledger = await PostgresLedger.open(url, connections=1)
    try:
        await asyncio.to_thread(after.stop, signal.SIGQUIT)
        said = await told(ledger.probe)
        assert "is an old primary, on timeline 1 where the ledger went on on timeline 2" in said
    finally:
        await ledger.close()


@pytest.mark.parametrize(
    ("setting", "said"), [("on", ""), ("off", "synchronous_commit is off"), ("local", "")]
)
def test_settings_by_which_a_server_forgets_are_named(cluster: Cluster, setting: str, said: str) -> None:
    with cluster.database() as name:
        cluster.admin(f"ALTER DATABASE {name} SET synchronous_commit = {setting}")
        try:
            found = examine(cluster.url(name))
        finally:
            cluster.admin(f"ALTER DATABASE {name} RESET synchronous_commit")
    # The testbed's own server keeps what it is told from processes that die, and from nothing else.
    assert found.faults == ("fsync is off", "full_page_writes is off", *([said] if said else []))
    assert (found.alone, found.standbys) == (True, "it commits alone, without a synchronous standby")


async def test_without_its_standby_a_server_acknowledges_nothing_and_is_not_flooded_with_connections(
    pair: tuple[Cluster, Cluster],
) -> None:
    leading, standby = pair
    with leading.database() as name:
        found = examine(leading.url(name))
        assert (found.alone, found.standbys) == (
            False,
            "it commits with follower; following it: follower (sync, streaming)",
        )
        # As a provider's own user sees it, who owns nothing but the database.
        leading.admin("CREATE ROLE plain LOGIN")
        seen = examine(leading.url(name, user="plain"))
        assert (seen.alone, "follower (seen by pg_monitor only" in seen.standbys) == (False, True)
        leading.admin(f"ALTER DATABASE {name} SET synchronous_commit = local")
        assert "does not wait for its standbys" in examine(leading.url(name)).standbys
        leading.admin(f"ALTER DATABASE {name} RESET synchronous_commit")
        async with under_load(leading.url(name)) as load:
            standby.freeze()
            try:
                acknowledged = len(load.acknowledged_s)
                async with asyncio.timeout(20):
                    while "COMMITs hang there; see that a standby" not in await told(load.nodes[0].probe):
                        await asyncio.sleep(0.05)
                for _ in range(20):
                    assert "COMMITs hang there" in await told(load.nodes[0].probe)
                    await asyncio.sleep(0.1)
                # What was on its way when the standby froze.
                assert len(load.acknowledged_s) - acknowledged < 2 * load.callers
                hung = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = 'COMMIT'"
                [(backends,)] = leading.admin(hung)
                assert 1 <= backends <= CONNECTIONS * len(load.nodes)
            finally:
                standby.thaw()
