"""Several FairDials on one PostgreSQL database: races, faults of the server, and the schema."""

import asyncio
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest

from fairdial.ledger import writer
from fairdial.ledger.contract import (
    AlreadyExists,
    BatchRefused,
    ConstraintViolated,
    Entry,
    IdempotencyConflict,
    Ledger,
    LedgerSlow,
    LedgerUnavailable,
    Payment,
)
from fairdial.ledger.direct import DirectWriter
from fairdial.ledger.notice import Channel, NoticeRules
from fairdial.ledger.pool import Pool
from fairdial.ledger.postgres import PostgresLedger, migrate, reading
from fairdial.ledger.schema import files
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.account import Account, Credit, Kind, Options, OwnNumber, Standing
from fairdial.policy.decide import Allow, Refuse, Verdict
from fairdial.policy.outcomes import Reason
from tests.charges import Counter
from tests.contract.conftest import STORES, PostgresStore, cut_all
from tests.contract.dials import LEFT_S, dial_at_once
from tests.samples import NOON_MS, authorise, outbound, plan, provision
from tests.shipped import POLICIES

T = TypeVar("T")


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PostgresStore]:
    """An empty database; or shards, where the test is of both."""
    with STORES[getattr(request, "param", "postgres")](tmp_path) as empty:
        assert isinstance(empty, PostgresStore)
        yield empty


@pytest.fixture
async def nodes(store: PostgresStore) -> AsyncIterator[list[Ledger]]:
    """Three ledgers on one database, as three FairDials have them."""
    opened: list[Ledger] = [await store.open() for _ in range(3)]
    yield opened
    for each in opened:
        await each.close()


async def repeated(step: Callable[[], Awaitable[T]], within_s: float = 20.0) -> T:
    """What a step answers in the end, repeated as the desk repeats it."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                return await step()
            except LedgerUnavailable:
                await asyncio.sleep(0.02)


ON_SHARDS_TOO = pytest.mark.parametrize("store", ["postgres", "shards"], indirect=True)


# --- races -------------------------------------------------------------------------------------------


@ON_SHARDS_TOO
async def test_three_hundred_dials_of_two_processes_share_the_last_minute(
    store: PostgresStore, nodes: list[Ledger]
) -> None:
    await provision(nodes[0])
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.contract.dials", store.url, "far", "100"),
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
    )
    ours = await asyncio.gather(*(dial_at_once(node, f"near{n}", 100) for n, node in enumerate(nodes[:2])))
    theirs, _ = await other.communicate()
    assert other.returncode == 0
    granted = [*ours[0], *ours[1], *map(int, theirs.split())]
    assert sum(granted) == LEFT_S
    assert 1 < len(granted) <= 6, "none gets less than ten seconds, and one does not get all"
    [usage] = (await nodes[2].sheet("acme")).usage
    assert (usage.meter.used_units, usage.meter.reserved_units) == (0, LEFT_S)


@ON_SHARDS_TOO
async def test_of_twenty_who_join_a_room_through_three_nodes_four_get_a_seat(nodes: list[Ledger]) -> None:
    policy = POLICIES["kryptotel"]
    names = [f"phone-{n}" for n in range(20)]
    counters = [Counter(node, policy) for node in nodes]
    await counters[0].open_account(*names, options=Options(frozenset({"GB"})), policy=policy.name)
    verdicts = await asyncio.gather(
        *(
            counters[n % 3].dial(f"join-{n}", "8000", line=name, kind=Kind.CONFERENCE, ring_s=0)
            for n, name in enumerate(names)
        )
    )
    seated = [verdict for verdict in verdicts if isinstance(verdict.decision, Allow)]
    refused = [verdict.decision for verdict in verdicts if isinstance(verdict.decision, Refuse)]
    assert (len(seated), len(refused)) == (4, 16)
    assert {decision.reason for decision in refused} == {Reason.CONFERENCE_FULL}
    assert len({grant.room for grant in await nodes[0].live_grants()}) == 1


@ON_SHARDS_TOO
@pytest.mark.parametrize(("line", "allowed"), [("alice", 10), ("nobody", 0)])
async def test_a_call_id_at_all_nodes_at_once_is_decided_once(
    nodes: list[Ledger], line: str, allowed: int
) -> None:
    await provision(nodes[0])
    for n in range(10):
        dial = outbound(f"call-{n}", line_id=line)
        verdicts = await asyncio.gather(*(authorise(node, dial) for node in nodes * 2))
        assert sorted(verdict.repeated for verdict in verdicts) == [False] + [True] * 5
        assert len({verdict.decision for verdict in verdicts}) == 1
    assert len(await nodes[0].decisions()) == 10
    grants = await nodes[0].live_grants()
    assert len(grants) == allowed
    reserved_s = sum(each.meter.reserved_units for each in (await nodes[0].sheet("acme")).usage)
    assert reserved_s == sum(grant.granted_s or 0 for grant in grants)


@ON_SHARDS_TOO
async def test_a_call_id_of_two_lines_at_once_is_the_firsts(nodes: list[Ledger]) -> None:
    await provision(nodes[0])
    await provision(nodes[0], "other", "bob")
    for n in range(10):
        dials = [outbound(f"call-{n}"), outbound(f"call-{n}", line_id="bob")]
        found = await asyncio.gather(
            *(authorise(node, dial) for node, dial in zip(nodes, dials, strict=False)), return_exceptions=True
        )
        assert {type(each) for each in found} == {Verdict, IdempotencyConflict}


@ON_SHARDS_TOO
async def test_after_a_refused_statement_the_same_steps_go_on(nodes: list[Ledger]) -> None:
    """Of what a pipeline sent after an error the client believes that it was prepared."""
    ledger = nodes[0]
    await provision(ledger)
    for n in range(4):
        unstorable = Payment("acme", "EUR", 2**70, f"order-{n}")
        with pytest.raises(ConstraintViolated):
            await ledger.add_credit("acme", "EUR", 2**70, f"order-{n}", NOON_MS)
        with pytest.raises(BatchRefused, match="cannot be stored"):
            await ledger.provision(
                [Entry("line 1", unstorable), Entry("line 2", Account(f"new-{n}", "plan"))], NOON_MS
            )
        assert await ledger.provision([Entry("line 1", Account(f"a-{n}", "plan"))], NOON_MS) == (1, 0)
        assert isinstance((await authorise(ledger, outbound(f"call-{n}"))).decision, Allow)
    assert [account.id for account in await ledger.accounts()] == ["a-0", "a-1", "a-2", "a-3", "acme"]


@ON_SHARDS_TOO
async def test_a_call_that_ends_at_two_nodes_at_once_is_counted_once(nodes: list[Ledger]) -> None:
    await provision(nodes[0])
    for n in range(10):
        await authorise(nodes[0], outbound(f"call-{n}"))
        ended = await asyncio.gather(*(node.settle(f"call-{n}", 7, NOON_MS + 7_000) for node in nodes))
        assert sorted(grant.repeated for grant in ended) == [False, True, True]
    [usage] = (await nodes[0].sheet("acme")).usage
    assert (usage.meter.used_units, usage.meter.reserved_units, usage.calls) == (70, 0, 10)


@ON_SHARDS_TOO
async def test_a_number_that_two_accounts_get_at_once_is_one_accounts(nodes: list[Ledger]) -> None:
    await provision(nodes[0])
    await provision(nodes[0], "other", "bob")
    for n in range(10):
        number = f"+4420794600{n:02}"
        found = await asyncio.gather(
            nodes[0].add_number(OwnNumber(number, "acme", "alice")),
            nodes[1].add_number(OwnNumber(number, "other", "bob")),
            return_exceptions=True,
        )
        assert {type(each) for each in found} == {type(None), AlreadyExists}
        kept = await nodes[2].number(number)
        assert (kept.account_id, kept.line_id) in {("acme", "alice"), ("other", "bob")}


@ON_SHARDS_TOO
async def test_credit_is_added_once_for_its_reference_wherever_it_is_asked_for(nodes: list[Ledger]) -> None:
    await provision(nodes[0])
    credits = await asyncio.gather(
        *(node.add_credit("acme", "EUR", 1_000_000, "order-1", NOON_MS) for node in nodes * 4)
    )
    assert {credit.balance_micros for credit in credits} == {1_000_000}


async def test_who_waits_for_an_account_hears_so_in_time_and_the_others_go_on(store: PostgresStore) -> None:
    ledger = await PostgresLedger.open(store.url, connections=4)
    try:
        await provision(ledger)
        await provision(ledger, "other", "bob")
        with psycopg.connect(store.url) as import_of_theirs:
            import_of_theirs.execute("SELECT 1 FROM accounts WHERE id = 'acme' FOR NO KEY UPDATE")
            began_s = time.monotonic()
            with pytest.raises(LedgerUnavailable, match="another step holds the account"):
                await authorise(ledger, outbound("held"))
            assert time.monotonic() - began_s < 2
            assert isinstance((await authorise(ledger, outbound("free", line_id="bob"))).decision, Allow)
        assert isinstance((await authorise(ledger, outbound("held"))).decision, Allow)
    finally:
        await ledger.close()


@ON_SHARDS_TOO
async def test_through_a_pooler_that_gives_each_transaction_another_connection_nothing_is_confused(
    store: PostgresStore,
) -> None:
    with store.cluster.pooler() as pooler:
        url = pooler.url(store.database)
        nodes = [await PostgresLedger.open(url, connections=4, locked_ms=2_000) for _ in range(3)]
        await provision(nodes[0])
        granted = await asyncio.gather(*(dial_at_once(node, f"n{n}", 40) for n, node in enumerate(nodes)))
        assert sum(map(sum, granted)) == LEFT_S
        live = await nodes[1].live_grants()
        await asyncio.gather(*(nodes[2].settle(grant.call_id, 1, NOON_MS + 1_000) for grant in live))
        [usage] = (await nodes[1].sheet("acme")).usage
        assert (usage.meter.used_units, usage.meter.reserved_units) == (len(live), 0)
        for each in nodes:
            await each.close()


@ON_SHARDS_TOO
async def test_a_notice_is_told_by_one_node_and_by_another_where_that_one_is_gone(
    store: PostgresStore, nodes: list[Ledger]
) -> None:
    await provision(nodes[0])
    await nodes[0].set_notice_rules(NoticeRules((), 0, frozenset({Channel.WEBHOOK})))
    await nodes[0].set_standing("acme", Standing.SUSPENDED, NOON_MS)
    found = await asyncio.gather(*(node.due_notices(Channel.WEBHOOK, NOON_MS, 10) for node in nodes))
    assert sorted(len(each) for each in found) == [0, 0, 1]
    [leader] = [node for node, each in zip(nodes, found, strict=True) if each]
    other = nodes[(nodes.index(leader) + 1) % 3]
    assert len(await leader.due_notices(Channel.WEBHOOK, NOON_MS + 1000, 10)) == 1
    assert await other.due_notices(Channel.WEBHOOK, NOON_MS + 1000, 10) == ()
    # By the server's clock, whatever a node's own says: it is heard of no more.
    assert await other.due_notices(Channel.WEBHOOK, NOON_MS + 10_000_000, 10) == ()
    store.cluster.admin("UPDATE leases SET until_ms = 0", store.database)
    assert len(await other.due_notices(Channel.WEBHOOK, NOON_MS + 2000, 10)) == 1
    await other.close()
    assert len(await leader.due_notices(Channel.WEBHOOK, NOON_MS + 2000, 10)) == 1


# --- faults of the server ----------------------------------------------------------------------------


async def _calls(ledgers: list[Ledger], count: int) -> None:
    """So many calls of 10 s on each node, one after the other, each step repeated until it is acknowledged."""

    async def on(name: str, ledger: Ledger) -> None:
        for n in range(count):
            dial = outbound(f"{name}-{n}")
            await repeated(lambda dial=dial: authorise(ledger, dial, plan(limit_s=None)))  # type: ignore[misc]
            await repeated(lambda dial=dial: ledger.settle(dial.call_id, 10, NOON_MS + 10_000))  # type: ignore[misc]

    await asyncio.gather(*(on(f"node{n}", ledger) for n, ledger in enumerate(ledgers)))


async def _all_is_there_once(ledger: Ledger, calls: int) -> None:
    [usage] = (await ledger.sheet("acme")).usage
    assert (usage.meter.used_units, usage.meter.reserved_units, usage.calls) == (10 * calls, 0, calls)
    assert await ledger.live_grants() == ()
    assert len(await ledger.decisions(limit=10_000)) == calls


@ON_SHARDS_TOO
async def test_connections_that_are_cut_under_load_lose_and_double_nothing(
    store: PostgresStore, nodes: list[Ledger]
) -> None:
    await provision(nodes[0])
    load = asyncio.create_task(_calls(nodes, 25))
    cut = 0
    while not load.done():
        cut += await asyncio.to_thread(cut_all, store)
        await asyncio.wait({load}, timeout=0.05)
    await load
    assert cut > 10
    await _all_is_there_once(nodes[0], 75)


@ON_SHARDS_TOO
async def test_a_server_that_is_restarted_under_load_loses_and_doubles_nothing(
    store: PostgresStore, nodes: list[Ledger]
) -> None:
    await provision(nodes[0])
    load = asyncio.create_task(_calls(nodes, 25))
    await asyncio.wait({load}, timeout=0.2)
    await asyncio.to_thread(store.cluster.stop)
    began_s = time.monotonic()
    with pytest.raises(LedgerUnavailable, match=r"see that the server runs"):
        await nodes[2].probe()
    assert time.monotonic() - began_s < 1
    await asyncio.to_thread(store.cluster.start)
    await load
    await repeated(nodes[2].probe)
    await _all_is_there_once(nodes[0], 75)


async def test_a_connection_lost_in_commit_leaves_open_whether_it_was_done_and_a_repeat_tells(
    store: PostgresStore,
) -> None:
    ledger = await store.open()
    await provision(ledger)
    pool = Pool(store.url, connections=1)
    await pool.open(migrate)

    def cut_at_its_end(db: Any) -> None:
        db.execute("UPDATE accounts SET name = 'changed'")
        cut_all(store)
        time.sleep(0.1)  # until the server has ended it: nothing tells a client that does not read

    with pytest.raises(LedgerSlow, match="it may have been done; repeat it to know"):
        await pool.do(cut_at_its_end)
    await pool.close()
    assert (await repeated(lambda: ledger.account("acme"))).name == ""
    await ledger.close()


async def test_a_server_that_only_reads_says_so_and_what_to_do(
    store: PostgresStore, nodes: list[Ledger]
) -> None:
    await provision(nodes[0])
    store.cluster.admin(f"ALTER DATABASE {store.database} SET default_transaction_read_only = on")
    try:
        cut_all(store)
        with pytest.raises(
            LedgerUnavailable, match=r"read-only transaction; `store\.url` leads to a standby"
        ):
            await authorise(nodes[0], outbound())
        with pytest.raises(LedgerUnavailable):
            await nodes[0].probe()
        assert [account.id for account in await nodes[0].accounts()] == ["acme"]
    finally:
        store.cluster.admin(f"ALTER DATABASE {store.database} RESET default_transaction_read_only")
    cut_all(store)
    assert isinstance((await authorise(nodes[0], outbound())).decision, Allow)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"database": "nosuch"}, "database in [store] are right"),
        ({"port": 1}, "see that the server runs"),
    ],
)
async def test_a_server_that_is_not_there_is_told_with_its_cure(
    store: PostgresStore, change: dict[str, Any], said: str
) -> None:
    cluster = store.cluster
    port = change.get("port", cluster.port)
    url = f"postgresql://fairdial@127.0.0.1:{port}/{change.get('database', store.database)}"
    with pytest.raises(LedgerUnavailable) as told:
        await PostgresLedger.open(url)
    assert said in str(told.value)
    assert f"127.0.0.1:{port}" in str(told.value)


async def test_a_rule_of_the_schema_is_kept_whoever_writes(store: PostgresStore, nodes: list[Ledger]) -> None:
    await provision(nodes[0])
    await authorise(nodes[0], outbound(), plan(limit_s=60))
    with psycopg.connect(store.url) as theirs, pytest.raises(psycopg.errors.CheckViolation):
        theirs.execute("UPDATE meters SET reserved_units = reserved_units + 61")


# --- schema ------------------------------------------------------------------------------------------


def _columns_of_sqlite(folder: Path) -> set[tuple[str, str]]:
    with closing(sqlite3.connect(folder / "tables.sqlite", isolation_level=None)) as raw:
        raw.row_factory = sqlite3.Row
        writer.migrate(raw)
        return {
            (table, column["name"])
            for (table,) in raw.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
            for column in raw.execute(f"PRAGMA table_info({table})")
        }


def test_both_stores_have_the_same_tables_columns_and_indexes(store: PostgresStore, tmp_path: Path) -> None:
    with psycopg.connect(store.url) as theirs:
        columns = theirs.execute(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
        ).fetchall()
        indexes = {
            name for (name,) in theirs.execute("SELECT indexname FROM pg_indexes WHERE schemaname = 'public'")
        }
        checks = theirs.execute(
            "SELECT count(*) FROM pg_constraint WHERE contype = 'c' AND connamespace = 'public'::regnamespace"
        ).fetchone()
    # Who does what only one node at a time does.
    leases = {("leases", name) for name in ("task", "holder", "until_ms")}
    assert set(columns) == _columns_of_sqlite(tmp_path) | leases
    with closing(sqlite3.connect(tmp_path / "tables.sqlite")) as raw:
        ours = {
            name
            for (name,) in raw.execute("SELECT name FROM sqlite_schema WHERE type = 'index' AND sql <> ''")
        }
        texts = [text for (text,) in raw.execute("SELECT sql FROM sqlite_schema WHERE type = 'table'")]
    assert ours <= indexes
    assert checks == (sum(text.count("CHECK (") for text in texts),)


async def test_nodes_that_start_at_once_make_the_tables_once(store: PostgresStore) -> None:
    name = f"{store.database}_fresh"
    store.cluster.admin(f"CREATE DATABASE {name}")
    try:
        fresh = PostgresStore(store.cluster, name)
        opened = await asyncio.gather(*(fresh.open() for _ in range(4)))
        await provision(opened[0])
        assert [account.id for account in await opened[3].accounts()] == ["acme"]
        for each in opened:
            await each.close()
        rows = store.cluster.admin("SELECT version FROM schema_version ORDER BY version", name)
        assert [version for (version,) in rows] == sorted(files())
    finally:
        store.cluster.admin(f"DROP DATABASE {name} WITH (FORCE)")


async def test_a_node_runs_on_while_a_newer_one_adds_a_column_and_an_older_one_does_not_start(
    store: PostgresStore, nodes: list[Ledger]
) -> None:
    await provision(nodes[0])
    for n in range(8):
        await authorise(nodes[0], outbound(f"before-{n}"), plan(limit_s=None))
    store.cluster.admin(
        "ALTER TABLE accounts ADD COLUMN later TEXT NOT NULL DEFAULT '';"
        "ALTER TABLE decisions ADD COLUMN later TEXT NOT NULL DEFAULT '';"
        "INSERT INTO schema_version VALUES (9999, 'later', '')",
        store.database,
    )
    try:
        for n in range(8):
            assert (await authorise(nodes[0], outbound(f"after-{n}"), plan(limit_s=None))).repeated is False
        with pytest.raises(LedgerUnavailable, match="version 9999 was written by a newer FairDial"):
            await store.open()
    finally:
        store.cluster.admin(
            "ALTER TABLE accounts DROP COLUMN later; ALTER TABLE decisions DROP COLUMN later;"
            "DELETE FROM schema_version WHERE version = 9999",
            store.database,
        )


async def test_accounts_are_in_the_order_of_their_bytes_whatever_the_databases_is(
    nodes: list[Ledger],
) -> None:
    ids = ["a", "B", "_", "z", "Z"]
    for each in ids:
        await nodes[0].add_account(Account(each, "plan", "UTC"))
    assert [account.id for account in await nodes[0].accounts()] == sorted(ids)
    assert [account.id for account in await nodes[0].accounts(after="Z")] == ["_", "a", "z"]


async def test_a_replay_copies_customers_and_prices_from_the_server(
    store: PostgresStore, nodes: list[Ledger]
) -> None:
    await provision(nodes[0], "acme", "alice", "bob")
    await nodes[0].add_credit("acme", "EUR", 5_000_000, "order-1", NOON_MS)
    await authorise(nodes[0], outbound())
    replayed = DirectWriter()
    with reading(store.url) as source:
        replayed.copy_rows(source)
    copy = SqliteLedger(replayed)
    try:
        assert [account.id for account in await copy.accounts()] == ["acme"]
        assert [line.id for line in await copy.lines()] == ["alice", "bob"]
        sheet = await copy.sheet("acme")
        assert (sheet.credit, sheet.usage) == (Credit("EUR", 5_000_000, 0), ())
        assert await copy.decisions() == ()
    finally:
        await copy.close()
