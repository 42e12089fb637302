"""The ledger on a PostgreSQL server, which several FairDials share: one truth for several switches.

Each names its switch (`switch` in fairdial.toml), with which its calls begin, and looks after those alone.
"""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
import structlog

from fairdial.ledger import nodes, notices
from fairdial.ledger.contract import LedgerError, LedgerUnavailable, PlanDue
from fairdial.ledger.database import Database
from fairdial.ledger.dialect import translated_schema
from fairdial.ledger.durability import Durability, durability
from fairdial.ledger.heard import Doubts, HeardConnection, Servers
from fairdial.ledger.notice import Channel, Delivery
from fairdial.ledger.pool import BEGIN_READING, LOCKED_MS, Pool, PostgresDatabase, connect, shown, told
from fairdial.ledger.schema import files
from fairdial.ledger.shards import SHARDS_CURE, Directory, ShardDatabase, ShardPool, leads_to_shards
from fairdial.ledger.stepped import SteppedLedger, Steps
from fairdial.policy.requests import Request

log = structlog.get_logger(__name__)

DURABLE_CURE: Final = "what was answered is lost if the server crashes: switch it on in postgresql.conf"
ASIDE_WITHIN_S: Final = 3.0
"""For what nodes ask of each other: on two connections of their own, which no call waits for."""
AT_ONCE: Final = 5
"""Of what is due, in a step on shards: what it has written is done again there for each of its later looks."""
_MIGRATION: Final = 0x44_69_61_6C
"""The advisory lock of who brings the schema up to date."""
MIGRATION_LOCKED_MS: Final = 3_000
"""How long a migration waits for steps of other nodes to leave a table, which theirs wait behind."""


class PostgresLedger(SteppedLedger):
    """`Ledger` (contract.py) on a database of a PostgreSQL server."""

    @classmethod
    async def open(
        cls, url: str, password: str | None = None, *, connections: int = 8, locked_ms: int = LOCKED_MS
    ) -> "PostgresLedger":
        """Connect and bring the schema up to date. Raises LedgerUnavailable.

        locked_ms: how long an account is waited for that another step has.
        """
        pool = Pool(url, password, connections=connections, locked_ms=locked_ms)
        spread: list[bool] = []

        def prepare(raw: "psycopg.Connection[Any]") -> None:
            spread.append(leads_to_shards(raw))
            if not spread[0]:
                migrate(raw)
            for fault in durability(raw).faults:
                log.warning("ledger_may_forget", store=pool.where, found=fault, cure=DURABLE_CURE)

        await pool.open(prepare)
        ledger = cls(pool)
        if any(spread):
            await pool.close()
            shards = ShardPool(url, password, connections=connections, locked_ms=locked_ms)
            await shards.open(need_migrated)
            ledger = cls(shards, at_once=AT_ONCE)
        # What nodes ask of each other is before the shards too.
        ledger._aside = Pool(url, password, connections=1, within_s=ASIDE_WITHIN_S)
        return ledger

    def __init__(self, steps: Steps, *, at_once: int | None = None) -> None:
        """at_once: what a step at many accounts takes at most, the rest is another's."""
        super().__init__(steps)
        self._at_once = at_once

    async def end_requests(self, now_ms: int, limit: int = 100) -> tuple[Request, ...]:
        ended = list[Request]()
        for piece in self._pieces(limit):
            found = await super().end_requests(now_ms, piece)
            ended += found
            if len(found) < piece:
                break
        return tuple(ended)

    async def plans_due(
        self, now_ms: int, due: PlanDue, windows_max: int, limit: int = 100
    ) -> tuple[int, tuple[Request, ...]]:
        judged, followed = 0, list[Request]()
        for piece in self._pieces(limit):
            count, found = await super().plans_due(now_ms, due, windows_max, piece)
            judged += count
            followed += found
            if count < piece:
                break
        return judged, tuple(followed)

    def _pieces(self, limit: int) -> Iterator[int]:
        at_once = limit if self._at_once is None else self._at_once
        for begin in range(0, limit, at_once):
            yield min(at_once, limit - begin)

    async def due_notices(self, channel: Channel, now_ms: int, limit: int) -> tuple[Delivery, ...]:
        """As the contract has it, but for one node at a time, lest each tells all: while one asks again and again, the
        others hear of nothing.
        """
        if not await super().due_notices(channel, now_ms, 1):
            return ()
        return await self._steps.do(
            lambda db: notices.due(db, channel, now_ms, limit) if nodes.leads(db, channel, self._name) else ()
        )

    async def close(self) -> None:
        with contextlib.suppress(LedgerError):
            await self._steps.do(lambda db: db.execute("DELETE FROM leases WHERE holder = ?", (self._name,)))
        await self._aside.close()
        await super().close()


def examine(url: str, password: str | None = None) -> Durability:
    """What the server may lose of what it acknowledged. Raises LedgerUnavailable."""
    with _connected(url, password) as connection:
        return durability(connection)


@contextmanager
def reading(url: str, password: str | None = None) -> Iterator[Database]:
    """One moment of the database, for who copies from it. Raises LedgerUnavailable."""
    with _connected(url, password) as connection:
        # A million accounts take a while.
        connection.patience_s = None
        if leads_to_shards(connection):
            # Of each table it is one moment.
            directory = Directory()
            directory.load(connection)
            yield ShardDatabase(connection, directory, shown(url), writing=False)
        else:
            connection.execute(BEGIN_READING.encode())
            yield PostgresDatabase(connection)


@contextmanager
def _connected(url: str, password: str | None) -> "Iterator[HeardConnection[Any]]":
    """A connection of its own. Errors on it are told as LedgerUnavailable."""
    where = shown(url)
    try:
        servers = Servers(url, where, lambda each: connect(each, password), Doubts())
        with contextlib.closing(servers.connect(doubted=False)) as connection:
            yield connection
    except psycopg.Error as error:
        raise told(where, error) from error


def migrate(connection: "psycopg.Connection[Any]") -> None:
    """Bring the database to the newest schema: the files of schema/, each applied once, in order, all or none.

    Nodes that start at once do it one after the other, and the later find it done. A node of before runs on meanwhile:
    files only add tables and columns. Raises LedgerUnavailable if a newer FairDial was here; psycopg.Error.
    """
    if not _due(connection):
        return
    with connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout = {MIGRATION_LOCKED_MS}")
        connection.execute("SELECT pg_advisory_xact_lock($1)", (_MIGRATION,))
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_version"
            " (version BIGINT PRIMARY KEY, name TEXT NOT NULL, applied_at TEXT NOT NULL)"
        )
        connection.execute(
            "CREATE TABLE IF NOT EXISTS leases"
            " (task TEXT PRIMARY KEY, holder TEXT NOT NULL, until_ms BIGINT NOT NULL)"
        )
        for version in _due(connection):
            file = files()[version]
            connection.execute(translated_schema(file.read_text(encoding="utf-8")).encode())
            connection.execute(
                "INSERT INTO schema_version VALUES"
                " ($1, $2, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'))",
                (version, file.name),
            )


def need_migrated(connection: "psycopg.Connection[Any]") -> None:
    """A database before shards is not brought up to date by a node that starts. Raises LedgerUnavailable."""
    if _due(connection):
        raise LedgerUnavailable("the database before the shards has older tables", SHARDS_CURE)


def _due(connection: "psycopg.Connection[Any]") -> list[int]:
    [there] = connection.execute("SELECT to_regclass('schema_version') IS NOT NULL").fetchone() or (False,)
    applied = {row[0] for row in connection.execute("SELECT version FROM schema_version")} if there else set()
    unknown = applied - files().keys()
    if unknown:
        raise LedgerUnavailable(
            f"schema version {max(unknown)} was written by a newer FairDial; this one knows up to {max(files())}"
        )
    return sorted(files().keys() - applied)
