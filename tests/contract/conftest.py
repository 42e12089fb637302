"""The stores that the contract suite runs against. Adding one means one class here, and a line in STORES."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest

from fairdial.ledger import granting
from fairdial.ledger.contract import Ledger
from fairdial.ledger.postgres import PostgresLedger
from fairdial.ledger.sqlite import SqliteLedger
from testbed.postgres import Cluster, Spread, shared_cluster
from tests.contract.reads_first import STEPS, watched


class Store(Protocol):
    """Where a ledger keeps its data; opened again, it holds what was committed before."""

    async def open(self) -> Ledger: ...


class SqliteStore:
    """A file in the test's own folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.sqlite"

    async def open(self) -> Ledger:
        return await SqliteLedger.open(self.path)


def cut_all(store: "PostgresStore") -> int:
    """End all connections to where it is kept; how many there were."""
    return sum(
        len(
            cluster.admin(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %(name)s",
                name=database,
            )
        )
        for cluster, database in store.databases
    )


class PostgresStore:
    """A database of the tests' own server."""

    def __init__(self, cluster: Cluster, database: str) -> None:
        self.cluster = cluster
        self.database = database

    @property
    def url(self) -> str:
        return self.cluster.url(self.database)

    def connected(self) -> "psycopg.Connection[Any]":
        """A connection beside the ledger's, on which transactions are begun and ended by word."""
        return psycopg.connect(self.url, autocommit=True)

    @property
    def databases(self) -> list[tuple[Cluster, str]]:
        """Where it is kept."""
        return [(self.cluster, self.database)]

    async def open(self) -> PostgresLedger:
        # Patient: who shares a machine with other tests waits longer than a call would.
        return await PostgresLedger.open(self.url, connections=4, locked_ms=2_000)


@contextmanager
def _sqlite(folder: Path) -> Iterator[Store]:
    yield SqliteStore(folder)


@contextmanager
def _postgres(_folder: Path) -> Iterator[Store]:
    cluster = shared_cluster()
    with cluster.database() as name:
        yield PostgresStore(cluster, name)


class ShardStore(PostgresStore):
    """Two shards of the tests' own server, and the database before them."""

    def __init__(self, spread: Spread) -> None:
        super().__init__(spread.proxy, spread.name)
        self.spread = spread

    @property
    def databases(self) -> list[tuple[Cluster, str]]:
        return [*super().databases, *self.spread.shards]


@contextmanager
def _shards(_folder: Path) -> Iterator[Store]:
    with shared_cluster().spread() as spread:
        yield ShardStore(spread)


STORES: dict[str, Callable[[Path], AbstractContextManager[Store]]] = {
    "sqlite": _sqlite,
    "postgres": _postgres,
    "shards": _shards,
}
"""An empty store of each kind, for as long as it is wanted; its files are in that folder, if it has any."""


SEEDS = {"postgres": 4, "shards": 1}
"""Of tests that walk at random with many seeds: each step takes a server milliseconds, and the steps are the same."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Walk few seeds on a server; and mark what runs on shards, so that it can be run alone."""
    items[:] = [item for item in items if not _is_one_seed_more(item)]
    for item in items:
        if "shards" in _given(item).values() or "shards" in item.name:
            item.add_marker("shards")


def _given(item: pytest.Item) -> dict[str, Any]:
    params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return params


def _is_one_seed_more(item: pytest.Item) -> bool:
    given = _given(item)
    seeds = SEEDS.get(given.get("store", ""))
    return seeds is not None and given.get("seed", 0) >= seeds


@pytest.fixture(autouse=True)
def steps_read_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here has a call's step read after it wrote."""
    for name in STEPS:
        monkeypatch.setattr(granting, name, watched(getattr(granting, name)))


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    with STORES[request.param](tmp_path) as empty:
        yield empty


@pytest.fixture
async def ledger(store: Store) -> AsyncIterator[Ledger]:
    """An open ledger on an empty store."""
    opened = await store.open()
    yield opened
    await opened.close()
