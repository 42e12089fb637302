"""The one writer of an SQLite file: steps from many tasks, committed in groups.

SQLite lets one connection write at a time, and each commit with `synchronous=FULL` waits for the disk.
So steps queue here; all that wait are run in one transaction, and learn of their result only after the
commit. Where a step fails, the group is run again with a savepoint for each, so that it spoils no other:
a step may run twice, and must change nothing but the file.
A lock file keeps a second process out: SQLite before 3.51.3 can corrupt a WAL that two write. What only
reads has a connection of its own, which never writes or checkpoints, and waits for no step.

While the file is in trouble each step fails, says why, and the next is tried as if nothing had been: locked,
full, read-only or moved away, it is well again by itself. Only a damaged file is never written again.
Who must not lose a step keeps it and repeats it (desk.py).
"""

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import aiosqlite
import structlog

from fairdial.ledger import schema
from fairdial.ledger.contract import (
    ConstraintViolated,
    LedgerBusy,
    LedgerDamaged,
    LedgerSlow,
    LedgerUnavailable,
    Traffic,
)

T = TypeVar("T")
Step = Callable[[sqlite3.Connection], T]

log = structlog.get_logger(__name__)

STOP_WITHIN_S = 5.0
"""For the thread of a connection that could not be opened."""

LOCKED_S = 0.25
"""How long another program's lock is waited for: less than a dial has, so that it hears what the matter is."""

CHECK_WITHIN_S = 0.5
"""For looking through the file when it is opened; what is larger is looked at in part."""

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


_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

QUERY_ONLY = "query_only=ON"

SLOW_CURE = "see to its disk: something keeps it busy"

RESTORE = "stop FairDial and put a backup in its place: `fairdial restore FILE`"

_CURES = {
    sqlite3.SQLITE_BUSY: "another program holds it (`fuser -v` on the file names it); let it finish, or end it",
    sqlite3.SQLITE_LOCKED: "another program holds it (`fuser -v` on the file names it); let it finish, or end it",
    sqlite3.SQLITE_FULL: "make room on its disk",
    sqlite3.SQLITE_READONLY: "let FairDial write the file and its folder; see whether the disk is mounted read-only",
    sqlite3.SQLITE_CANTOPEN: "let FairDial write the file and its folder; see whether the disk is mounted read-only",
    sqlite3.SQLITE_IOERR: "see to its disk: whether it is mounted read-only, and what `dmesg` says of it",
    sqlite3.SQLITE_CORRUPT: RESTORE,
    sqlite3.SQLITE_NOTADB: RESTORE,
}
"""What an operator can do, by the primary result code."""


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
    until_s: float
    """By the loop's clock; then it is told that it is late."""


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
        self.traffic = Traffic()
        self._waiting_max = waiting_max
        # A queue of our own and one timer for all that wait: those of asyncio cost each step as much as a statement.
        self._queue: deque[_Waiting] = deque()
        self._group: list[_Waiting] = []
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None
        self._identity: _Identity | None = None
        self._damage = ""
        self._lock_fd = -1
        self._connection: _Connection | None = None
        self._reader: _Connection | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Lock, connect, look for damage and migrate. Raises LedgerUnavailable that says which file and why.

        A damaged file is opened for reading what can be read; every step fails with LedgerDamaged.
        """
        self._lock_fd = lock(self._path)
        try:
            with contextlib.suppress(OSError):  # where it cannot be made, opening says why
                make_file(self._path)
            connection = self._connection = await _opened(self._connect)
            self._identity = _identity(self._path)
            self._damage = await connection.run(lambda _raw: _damage(self._path, CHECK_WITHIN_S))
            if self._damage:
                log.critical("ledger_damaged", path=str(self._path), found=self._damage, cure=RESTORE)
            else:
                await connection.run(migrate)
            self._reader = await _opened(self._connect_reader)
        except (sqlite3.Error, LedgerUnavailable) as error:
            await self._shut()
            raise LedgerUnavailable(
                f"{self._path}: cannot be opened as a ledger: {error}", _cure(error)
            ) from error
        except BaseException:
            await self._shut()
            raise
        self._task = asyncio.create_task(self._run(connection), name="ledger-writer")

    def _connect(self) -> sqlite3.Connection:
        # 8 MB of pages: with 100,000 accounts steps are as fast as with 32 MB, for the system caches the file too.
        return _connect(
            self._path,
            (
                "journal_mode=WAL",
                "synchronous=FULL",
                "foreign_keys=ON",
                "temp_store=MEMORY",
                "cache_size=-8000",
            ),
        )

    def _connect_reader(self) -> sqlite3.Connection:
        return _connect(self._path, (QUERY_ONLY, "wal_autocheckpoint=0", "temp_store=MEMORY"))

    async def do(self, step: Step[T]) -> T:
        """Run `step` in a transaction; its result is returned after the commit.

        Cancelled while it waits, the step is not run. Cancelled later, it may have been committed: the
        caller undoes it with a further step. Raises what the step raises, or LedgerUnavailable.
        """
        if self._closing is not None or self._task is None:
            raise LedgerUnavailable(f"{self._path}: the ledger is closed")
        if self._damage:
            self.traffic.steps.add("failed")
            raise self._damaged()
        if len(self._queue) >= self._waiting_max:
            self.traffic.steps.add("failed")
            raise LedgerBusy(f"{self._path}: {self._waiting_max} steps wait already")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(step, loop.create_future(), loop.time() + self._within_s)
        self._queue.append(waiting)
        self._wake.set()
        if self._timer is None:
            self._timer = loop.call_at(waiting.until_s, self._tell_late)
        self.traffic.steps_waiting += 1
        try:
            result: T = await waiting.done
        finally:
            self.traffic.steps_waiting -= 1
        return result

    def _tell_late(self) -> None:
        """Whoever waits for too long hears of it, and the timer is set for who waits longest of the others."""
        loop = asyncio.get_running_loop()
        self._timer = None
        for waiting in (*self._group, *self._queue):
            if waiting.done.done():
                continue
            if waiting.until_s > loop.time():
                self._timer = loop.call_at(waiting.until_s, self._tell_late)
                return
            waiting.done.set_exception(
                LedgerSlow(f"{self._path}: not written within {self._within_s} s", SLOW_CURE)
            )

    async def read(self, step: Step[T]) -> T:
        """Run a `step` that only reads, on what is committed now. Raises what it raises, or LedgerUnavailable."""
        if self._closing is not None or self._reader is None:
            raise LedgerUnavailable(f"{self._path}: the ledger is closed")
        if self.traffic.reads_waiting >= self._reading_max:
            self.traffic.reads.add("failed")
            raise LedgerBusy(f"{self._path}: {self._reading_max} readings wait already")
        self.traffic.reads_waiting += 1
        outcome = "ok"
        try:
            async with asyncio.timeout(self._within_s):
                return await self._reader.run(lambda raw: _read(raw, step))
        except TimeoutError:
            outcome = "failed"
            raise LedgerSlow(f"{self._path}: not read within {self._within_s} s", SLOW_CURE) from None
        except sqlite3.Error as error:
            outcome = "failed"
            self._note_damage(error)
            raise self._unavailable(error) from error
        finally:
            self.traffic.reads_waiting -= 1
            self.traffic.reads.add(outcome)

    async def probe(self) -> None:
        """Write a page of the file and change nothing in it. Raises LedgerUnavailable."""
        await self.do(touch)

    async def close(self) -> None:
        """Commit what waits, then close the file. May be called again, also after being cancelled."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._finish(), name="ledger-close")
        # Cancelling who waits for it must not leave the file half closed.
        await asyncio.shield(self._closing)

    async def _finish(self) -> None:
        if self._task is not None:
            self._wake.set()
            await self._task
        if self._timer is not None:
            self._timer.cancel()
        await self._shut()

    async def _shut(self) -> None:
        # The reader first: whoever closes last checkpoints, and that is the writer's work. Into a damaged file
        # nothing more is written, and the reader cannot.
        connections = [self._reader, self._connection]
        for connection in reversed(connections) if self._damage else connections:
            if connection is not None:
                await connection.close()
        self._reader = self._connection = None
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    async def _run(self, connection: _Connection) -> None:
        queue = self._queue
        while queue or self._closing is None:
            await self._wake.wait()
            self._wake.clear()
            while queue:
                taken = [queue.popleft() for _ in range(min(len(queue), self._group_max))]
                self._group = [waiting for waiting in taken if not waiting.done.done()]
                if self._group:
                    await self._commit(connection, self._group)
                self._group = []

    async def _commit(self, connection: _Connection, group: list[_Waiting]) -> None:
        steps = [waiting.step for waiting in group]
        results: list[Any]
        loop = asyncio.get_running_loop()
        began_s, outcome = loop.time(), "ok"
        try:
            if self._damage:
                raise self._damaged()
            results = await connection.run(lambda raw: self._transact(raw, steps))
        except Exception as error:  # whatever it is, the writer goes on and the callers learn of it
            log.error("ledger_commit_failed", path=str(self._path), steps=len(group), error=str(error))
            self._note_damage(error)
            results, outcome = [self._unavailable(error) for _ in group], "failed"
        self.traffic.commits.add(loop.time() - began_s, outcome)
        for waiting, result in zip(group, results, strict=True):
            self.traffic.steps.add(outcome)
            if waiting.done.done():
                continue  # its caller was cancelled meanwhile and undoes the step itself
            if isinstance(result, BaseException):
                waiting.done.set_exception(result)
            else:
                waiting.done.set_result(result)

    def _transact(self, connection: sqlite3.Connection, steps: list[Step[Any]]) -> list[Any]:
        # SQLite goes on writing a file that was unlinked, and all of it is lost at the end.
        if self._identity is not None and _identity(self._path) != self._identity:
            raise LedgerUnavailable(
                f"{self._path}: the file was removed or replaced while FairDial has it open",
                "move the file itself back; where it is gone, stop FairDial and `fairdial restore` a backup",
            )
        return _transact(connection, steps)

    def _note_damage(self, error: Exception) -> None:
        if not self._damage and _primary(error) in _DAMAGED:
            self._damage = str(error)
            log.critical("ledger_damaged", path=str(self._path), found=self._damage, cure=RESTORE)

    def _damaged(self) -> LedgerDamaged:
        return LedgerDamaged(f"{self._path}: the file is damaged (malformed): {self._damage}", RESTORE)

    def _unavailable(self, error: Exception) -> LedgerUnavailable:
        """The error that a caller learns; a new one for each, as each adds its own traceback."""
        if isinstance(error, LedgerUnavailable):
            return type(error)(error.found, error.cure)
        if _primary(error) in _DAMAGED:
            return LedgerDamaged(f"{self._path}: {error}", RESTORE)
        return LedgerUnavailable(f"{self._path}: {error}", _cure(error))


async def _opened(connect: Callable[[], sqlite3.Connection]) -> _Connection:
    connection = _Connection(connect, iter_chunk_size=64)
    try:
        await connection
    except BaseException:
        # aiosqlite tells its thread to stop but does not wait: it would speak to a loop that has gone.
        await asyncio.to_thread(connection.wait_stopped, STOP_WITHIN_S)
        raise
    return connection


_Identity = tuple[int, int]
"""Device and inode of a file."""


def _identity(path: Path) -> _Identity | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _damage(path: Path, within_s: float) -> str:
    """What is wrong in the file, as far as it can be looked through in that time; "" for nothing."""
    # A connection of its own: what it reads must not fill the cache of who writes.
    connection = connect_reading(path)
    until = time.monotonic() + within_s
    connection.set_progress_handler(lambda: time.monotonic() > until, 1_000)
    try:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        if _primary(error) in _DAMAGED:
            return str(error)
        log.info("ledger_checked_in_part", path=str(path), within_s=within_s, error=str(error))
        return ""
    finally:
        connection.close()
    return "" if found == "ok" else str(found).replace("\n", " ")


def connect_reading(path: Path) -> sqlite3.Connection:
    """A connection that cannot write or checkpoint the file. Raises sqlite3.Error."""
    return _connect(path, (QUERY_ONLY, "temp_store=MEMORY"))


def _connect(path: Path, pragmas: tuple[str, ...]) -> sqlite3.Connection:
    """A connection; who may only query opens the file read-only, and so does not checkpoint it either."""
    mode = "ro" if QUERY_ONLY in pragmas else "rwc"
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=LOCKED_S, cached_statements=256)
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


def touch(connection: sqlite3.Connection) -> None:
    """A step that writes a page of the file and changes nothing in it."""
    (stored,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute(f"PRAGMA user_version={int(stored)}")


def _primary(error: BaseException) -> int | None:
    """The primary result code; None where the error is not SQLite's."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _cure(error: BaseException) -> str:
    code = _primary(error)
    return "" if code is None else _CURES.get(code, "")


def _is_the_files(error: Exception) -> bool:
    """Whether the file, not the step, is in trouble: then nothing of the group is kept."""
    code = _primary(error)
    return code is not None and code not in _OWN_FAULTS


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
    files = schema.files()
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


def make_file(path: Path) -> None:
    """Make an empty file that nobody else can read. What root makes belongs to the folder's owner: a command that root
    gives before the first start must not leave a ledger that the service cannot write. Raises FileExistsError, OSError.
    """
    # O_EXCL: no link that the folder's owner laid there decides which file root gives away.
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        if os.geteuid() == 0:
            folder = path.parent.stat()
            os.fchown(fd, folder.st_uid, folder.st_gid)
    finally:
        os.close(fd)


def lock(path: Path) -> int:
    """Keep every other FairDial away from the ledger at `path`, until the descriptor that this returns is closed.

    Raises LedgerUnavailable where another one has it.
    """
    lock_path = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            make_file(lock_path)
        fd = os.open(lock_path, os.O_RDWR | os.O_CLOEXEC)
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
