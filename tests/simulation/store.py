"""The ledger's own steps and its own writer on a database in memory, on a disk that may be slow, full or away.

What is committed survives a process that dies; what waits, or is under way, is lost with it.
"""

import asyncio
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from fairdial.ledger.writer import Writer, migrate

T = TypeVar("T")


class Disk:
    """The committed database and its weather.

    fails: the share of commits and readings that end in an error, with nothing done. slow: the share that takes up
    to `slowest_s`. away: everything fails while it is set. on_commit: hears that something was committed.
    """

    def __init__(self, chance: random.Random, image: bytes) -> None:
        self.raw = sqlite3.connect(":memory:", isolation_level=None, cached_statements=256)
        self.raw.row_factory = sqlite3.Row
        self.raw.deserialize(image)
        self.raw.execute("PRAGMA foreign_keys=ON")
        self.chance = chance
        self.fails = 0.0
        self.slow = 0.0
        self.slowest_s = 0.0
        self.away = False
        self.on_commit: Callable[[], None] = lambda: None
        self._touched = False
        self._watch()

    def _watch(self) -> None:
        """Signs of life of the switch are written all the time: only what concerns calls and money is told of."""
        self.raw.create_function("touch", 0, self._touch)
        for table in ("grants", "meters", "credits"):
            for change in ("INSERT", "UPDATE", "DELETE"):
                self.raw.execute(
                    f"CREATE TEMP TRIGGER {table}_{change} AFTER {change} ON {table} BEGIN SELECT touch(); END"
                )

    def _touch(self) -> None:
        self._touched = True

    def committed(self) -> None:
        """A transaction was committed, or given up."""
        if self._touched:
            self._touched = False
            self.on_commit()

    def close(self) -> None:
        """Forget everything."""
        self.raw.close()

    async def wait(self) -> None:
        """As long as the disk takes."""
        if self.chance.random() < self.slow:
            await asyncio.sleep(self.chance.random() * self.slowest_s)
        else:
            await asyncio.sleep(0.0002 + self.chance.random() ** 4 * 0.02)

    def check(self) -> None:
        """Raises where the disk fails now."""
        if self.away or self.chance.random() < self.fails:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = self.chance.choice((sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY))
            raise error


class Connection:
    """Stands where the writer has its connection; the thread of that is a wait."""

    def __init__(self, disk: Disk, *, writes: bool) -> None:
        self._disk = disk
        self._writes = writes
        self.cut = False

    async def run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run a job whole, as aiosqlite's thread does; the one who waits learns of it later."""
        await self._disk.wait()
        if self.cut:
            raise sqlite3.OperationalError("the process is gone")
        self._disk.check()
        result = job(self._disk.raw)
        if self._writes:
            self._disk.committed()
        if self._disk.chance.random() < 0.3:
            await self._disk.wait()
        return result

    async def close(self) -> None:
        """Nothing is held."""
        self.cut = True


class SimulatedWriter(Writer):
    """The ledger's writer, on a simulated disk."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(Path("simulated"))
        self._disk = disk

    async def open(self) -> None:
        writing, reading = Connection(self._disk, writes=True), Connection(self._disk, writes=False)
        self._connection, self._reader = cast(Any, writing), cast(Any, reading)
        self._task = asyncio.create_task(self._run(cast(Any, writing)))

    def cut(self) -> None:
        """The process is gone: whatever still runs of it reaches no disk."""
        for connection in (self._connection, self._reader):
            if connection is not None:
                cast(Connection, cast(object, connection)).cut = True


def image_of(fill: Callable[[sqlite3.Connection], None]) -> bytes:
    """An empty ledger, filled: what each run begins with."""
    raw = sqlite3.connect(":memory:", isolation_level=None)
    raw.row_factory = sqlite3.Row
    try:
        migrate(raw)
        fill(raw)
        return raw.serialize()
    finally:
        raw.close()


SLOWEST_STEP_S = 12.0
"""Longer than the writer waits for a step, so that a step is also done after its caller gave up."""
