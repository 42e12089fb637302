"""The one writer of an SQLite file: steps from many tasks, committed in groups.

SQLite lets one connection write at a time, and each commit with `synchronous=FULL` waits for the disk.
So steps queue here; all that wait are run in one transaction, and learn of their result only after the
commit. Where a step fails, the group is run again with a savepoint for each, so that it spoils no other:
a step may run twice, and must change nothing but the file.
A lock file keeps a second process out: SQLite before 3.51.3 can corrupt a WAL that two write. What only
reads has a connection of its own, which never writes or checkpoints, and waits for no step.
"""

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast

import aiosqlite
import structlog

from fairdial.ledger.contract import ConstraintViolated, LedgerBusy, LedgerSlow, LedgerUnavailable

T = TypeVar("T")
Step = Callable[[sqlite3.Connection], T]

log = structlog.get_logger(__name__)

STOP_WITHIN_S = 5.0
"""For the thread of a connection that could not be opened."""


# Primary result codes (sqlite.org/rescode.html) that are the statement's own fault. All others are the
# file's: locked, full, unreadable, damaged.
_OWN_FAULTS = frozenset(
    {
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_MISUSE,
        sqlite3.SQLITE_RANGE,
    }
)


class _Connection(aiosqlite.Connection):
    """aiosqlite's connection, with a way to run many statements in one visit to its thread.

    Statement by statement, each would cost two thread switches; a group of steps costs two in all.
    """

    async def run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        return cast(T, await self._execute(job, self._conn))  # type: ignore[no-untyped-call]

    def wait_stopped(self, within_s: float) -> None:
        """Wait for its thread, which was told to stop."""
        self._thread.join(within_s)


@dataclass(slots=True)
class _Waiting:
    step: Step[Any]
    done: "asyncio.Future[Any]"


class Writer:
    """Runs steps on the file at `path`. `open` before use, `close` after; both once.

    waiting_max: steps that may wait; more are refused with LedgerBusy.
    group_max: steps of one transaction, so that a flood does not delay its first step without bound.
    reading_max: readings that may wait. within_s: the longest wait for a step or a reading.
    """

    def __init__(
        self,
        path: Path,
        *,
        waiting_max: int = 10_000,
        group_max: int = 256,
        reading_max: int = 256,
        within_s: float = 10.0,
    ) -> None:
        self._path = path
        self._group_max = group_max
        self._reading_max = reading_max
        self._within_s = within_s
        self._reading = 0
        self._queue: asyncio.Queue[_Waiting | None] = asyncio.Queue(waiting_max)
        self._closing: asyncio.Task[None] | None = None
        self._lock_fd = -1
        self._connection: _Connection | None = None
        self._reader: _Connection | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Lock, connect and migrate. Raises LedgerUnavailable that says which file and why."""
        self._lock_fd = _lock(self._path)
        try:
            connection = self._connection = await _opened(self._connect)
            await connection.run(migrate)
            self._reader = await _opened(self._connect_reader)
        except (sqlite3.Error, LedgerUnavailable) as error:
            await self._shut()
            raise LedgerUnavailable(f"{self._path}: cannot be opened as a ledger: {error}") from error
        except BaseException:
            await self._shut()
            raise
        self._task = asyncio.create_task(self._run(connection), name="ledger-writer")

    def _connect(self) -> sqlite3.Connection:
        # 32 MB of pages: the meters and lines of a busy hour, not the whole of a large file.
        return _connect(
            self._path,
            (
                "journal_mode=WAL",
                "synchronous=FULL",
                "foreign_keys=ON",
                "temp_store=MEMORY",
                "cache_size=-32000",
            ),
        )

    def _connect_reader(self) -> sqlite3.Connection:
        return _connect(self._path, ("query_only=ON", "wal_autocheckpoint=0", "temp_store=MEMORY"))

    async def do(self, step: Step[T]) -> T:
        """Run `step` in a transaction; its result is returned after the commit.

        Cancelled while it waits, the step is not run. Cancelled later, it may have been committed: the
        caller undoes it with a further step. Raises what the step raises, or LedgerUnavailable.
        """
        if self._closing is not None or self._task is None:
            raise LedgerUnavailable(f"{self._path}: the ledger is closed")
        waiting = _Waiting(step, asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(waiting)
        except asyncio.QueueFull:
            raise LedgerBusy(f"{self._path}: {self._queue.maxsize} steps wait already") from None
        try:
            async with asyncio.timeout(self._within_s):
                result: T = await waiting.done
        except TimeoutError:
            raise LedgerSlow(f"{self._path}: not written within {self._within_s} s") from None
        return result

    async def read(self, step: Step[T]) -> T:
        """Run a `step` that only reads, on what is committed now. Raises what it raises, or LedgerUnavailable."""
        if self._closing is not None or self._reader is None:
            raise LedgerUnavailable(f"{self._path}: the ledger is closed")
        if self._reading >= self._reading_max:
            raise LedgerBusy(f"{self._path}: {self._reading_max} readings wait already")
        self._reading += 1
        try:
            async with asyncio.timeout(self._within_s):
                return await self._reader.run(lambda raw: _read(raw, step))
        except TimeoutError:
            raise LedgerSlow(f"{self._path}: not read within {self._within_s} s") from None
        except sqlite3.Error as error:
            raise LedgerUnavailable(f"{self._path}: {error}") from error
        finally:
            self._reading -= 1

    async def close(self) -> None:
        """Commit what waits, then close the file. May be called again, also after being cancelled."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._finish(), name="ledger-close")
        # Cancelling who waits for it must not leave the file half closed.
        await asyncio.shield(self._closing)

    async def _finish(self) -> None:
        if self._task is not None:
            await self._queue.put(None)
            await self._task
        await self._shut()

    async def _shut(self) -> None:
        # The reader first: whoever closes last checkpoints, and that is the writer's work.
        if self._reader is not None:
            await self._reader.close()
            self._reader = None
        if self._connection is not None:
            await self._connection.close()
            self._connection = None
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    async def _run(self, connection: _Connection) -> None:
        while (first := await self._queue.get()) is not None:
            group = [first]
            last = False
            while len(group) < self._group_max and not self._queue.empty():
                following = self._queue.get_nowait()
                if following is None:
                    last = True
                    break
                group.append(following)
            wanted = [waiting for waiting in group if not waiting.done.done()]
            if wanted:
                await self._commit(connection, wanted)
            if last:
                return

    async def _commit(self, connection: _Connection, group: list[_Waiting]) -> None:
        steps = [waiting.step for waiting in group]
        try:
            results = await connection.run(lambda raw: _transact(raw, steps))
        except Exception as error:  # whatever it is, the writer goes on and the callers learn of it
            log.error("ledger_commit_failed", path=str(self._path), steps=len(group), error=str(error))
            results = [LedgerUnavailable(f"{self._path}: {error}") for _ in group]
        for waiting, result in zip(group, results, strict=True):
            if waiting.done.done():
                continue  # its caller was cancelled meanwhile and undoes the step itself
            if isinstance(result, BaseException):
                waiting.done.set_exception(result)
            else:
                waiting.done.set_result(result)


async def _opened(connect: Callable[[], sqlite3.Connection]) -> _Connection:
    connection = _Connection(connect, iter_chunk_size=64)
    try:
        await connection
    except BaseException:
        # aiosqlite tells its thread to stop but does not wait: it would speak to a loop that has gone.
        await asyncio.to_thread(connection.wait_stopped, STOP_WITHIN_S)
        raise
    return connection


def _connect(path: Path, pragmas: tuple[str, ...]) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=1.0, cached_statements=256)
    try:
        connection.row_factory = sqlite3.Row
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def _read(connection: sqlite3.Connection, step: Step[T]) -> T:
    connection.execute("BEGIN")
    try:
        return step(connection)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _transact(connection: sqlite3.Connection, steps: list[Step[Any]]) -> list[Any]:
    """Run the steps in one transaction. A result that is an exception belongs to that step alone."""
    try:
        return _in_transaction(connection, lambda: [step(connection) for step in steps])
    except Exception as error:
        if _is_the_files(error):
            raise
    # Savepoints cost as much as a write each, so only a group that one of its steps spoilt has them.
    return _in_transaction(connection, lambda: [_apart(connection, step) for step in steps])


def _in_transaction(connection: sqlite3.Connection, work: Callable[[], T]) -> T:
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work()
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


def _apart(connection: sqlite3.Connection, step: Step[Any]) -> Any:
    connection.execute("SAVEPOINT step")
    try:
        result = step(connection)
    except Exception as error:
        if _is_the_files(error):
            raise
        connection.execute("ROLLBACK TO step")
        result = _as_ledger_error(error)
    connection.execute("RELEASE step")
    return result


def _is_the_files(error: Exception) -> bool:
    """Whether the file, not the step, is in trouble: then nothing of the group is kept."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF not in _OWN_FAULTS


def _as_ledger_error(error: Exception) -> Exception:
    if isinstance(error, sqlite3.IntegrityError):
        return ConstraintViolated(str(error))
    return error


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to the newest schema: numbered SQL files, each applied once, in order.

    Raises LedgerUnavailable if the file was written by a newer FairDial.
    """
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_version"
        " (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at TEXT NOT NULL) STRICT"
    )
    applied = {int(row[0]) for row in connection.execute("SELECT version FROM schema_version")}
    files = {int(file.name[:4]): file for file in _schema_files()}
    unknown = applied - files.keys()
    if unknown:
        raise LedgerUnavailable(
            f"schema version {max(unknown)} was written by a newer FairDial; this one knows up to {max(files)}"
        )
    for version in sorted(files.keys() - applied):
        script = files[version].read_text(encoding="utf-8")
        # executescript commits what is open, so the transaction stands inside the script itself.
        note = f"INSERT INTO schema_version VALUES ({version}, '{files[version].name}', datetime('now'));"  # noqa: S608
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\n{note}\nCOMMIT;")


def _schema_files() -> list[Any]:
    folder = resources.files("fairdial.ledger").joinpath("schema")
    return [file for file in folder.iterdir() if file.name.endswith(".sql")]


def _lock(path: Path) -> int:
    lock_path = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(lock_path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LedgerUnavailable(
            f"{lock_path}: {error.strerror}; put the ledger into a folder that FairDial can write"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise LedgerUnavailable(
            f"{path}: another FairDial writes this ledger; stop it, or let it do the work"
        ) from error
    except OSError as error:
        os.close(fd)
        raise LedgerUnavailable(f"{lock_path}: cannot be locked: {error.strerror}") from error
    return fd
