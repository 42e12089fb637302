"""The stores that the contract suite runs against. Adding one means one class here, and a line in STORES."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

import pytest

from fairdial.ledger.contract import Ledger
from fairdial.ledger.sqlite import SqliteLedger


class Store(Protocol):
    """Where a ledger keeps its data; opened again, it holds what was committed before."""

    async def open(self) -> Ledger: ...


class SqliteStore:
    """A file in the test's own folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.sqlite"

    async def open(self) -> Ledger:
        return await SqliteLedger.open(self.path)


STORES: dict[str, Callable[[Path], Store]] = {"sqlite": SqliteStore}


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store."""
    return STORES[request.param](tmp_path)


@pytest.fixture
async def ledger(store: Store) -> AsyncIterator[Ledger]:
    """An open ledger on an empty store."""
    opened = await store.open()
    yield opened
    await opened.close()
