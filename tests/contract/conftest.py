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
from testbed.postgres import Cluster, shared_cluster
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


STORES: dict[str, Callable[[Path], AbstractContextManager[Store]]] = {
    "sqlite": _sqlite,
    "postgres": _postgres,
}
"""An empty store of each kind, for as long as it is wanted; its files are in that folder, if it has any."""


SEEDS_ON_A_SERVER = 4
"""Of tests that walk at random with many seeds: each step takes a server milliseconds, and the steps are the same."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Walk few seeds on a server."""
    items[:] = [item for item in items if not _is_one_seed_more(item)]


def _is_one_seed_more(item: pytest.Item) -> bool:
    given: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return given.get("store") == "postgres" and given.get("seed", 0) >= SEEDS_ON_A_SERVER


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
