"""Runs steps on a PostgreSQL server that several FairDials share: each a transaction, on a connection of its thread.

What SQLite's one writer gives for nothing is held here by locks on rows: a step locks the account that it changes
before it looks (database.py), so that steps of one account come one after the other, whichever process they are of,
and steps of different accounts at the same time. That is why READ COMMITTED is enough: each statement after the lock
sees all that was committed before. What no such lock covers, as a call id that two nodes use at once, meets a unique
key, and the step is run again: it then finds what the other wrote. So a step may run twice, as in `writer.py`.

Nothing is kept in a session but prepared statements, and those only where the server itself is at the other end, not a
pooler that gives each transaction another connection. A connection that is lost is made again by the next step that
needs it. Lost before COMMIT, nothing was changed; in COMMIT, nobody knows, and that is what is said. A server that
falls silent is not waited for longer than it may take (heard.py).
"""

import asyncio
import contextlib
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Final, TypeVar

import psycopg
import structlog
from psycopg import errors
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.numeric import Int8Dumper

from fairdial.ledger import together
from fairdial.ledger.contract import (
    Fenced,
    LedgerBusy,
    LedgerError,
    LedgerSlow,
    LedgerUnavailable,
    Traffic,
)
from fairdial.ledger.database import Cursor, Of, OfOne, SharedDatabase, Unstorable, Write
from fairdial.ledger.dialect import chunked, joined, translated
from fairdial.ledger.heard import Doubts, HeardConnection, Servers, Silent, Trouble, each_host
from fairdial.ledger.stepped import Step
from fairdial.tallies import Tally

T = TypeVar("T")

log = structlog.get_logger(__name__)

CONNECT_WITHIN_S: Final = 2
LOCKED_MS: Final = 250
"""How long an account is waited for that another step has: less than a dial has, so that it hears what is wrong."""
STATEMENT_MS: Final = 2_000
IDLE_MS: Final = 5_000
"""After which the server takes back the transaction of a FairDial that froze in it, and its locks."""
READING_MS: Final = 10_000
ANSWER_MS: Final = 1_000
"""So much longer than the longest statement a server may be silent: it ends that itself, unless it hangs."""
RUNS_MAX: Final = 5
"""Of one step, where others were in its way or its connection was lost."""
AGAIN_AFTER_S: Final = 0.01
PREPARED_MAX: Final = 512
"""Statements that a connection keeps prepared; there are some two hundred."""
SERVER_MIN: Final = 150_000
"""PostgreSQL 15, which the tests run on."""

BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED"
BEGIN_READING: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_LIMITS: Final = (
    "SELECT set_config('lock_timeout', $1, true), set_config('statement_timeout', $2, true),"
    " set_config('idle_in_transaction_session_timeout', $3, true)"
)
"""Of this transaction alone, in milliseconds."""

_ALONE: Final = 0x46616972
"""The advisory lock of steps at more than one account."""

_LOCKS: Final = {
    of: f"SELECT 1 FROM accounts WHERE id = {which} FOR NO KEY UPDATE"  # noqa: S608
    for of, which in {
        Of.ACCOUNT: "$1",
        Of.LINE: "(SELECT account_id FROM lines WHERE id = $1)",
        Of.NUMBER: "(SELECT account_id FROM numbers WHERE number = $1)",
        Of.CALL: "(SELECT account_id FROM grants WHERE call_id = $1)",
        Of.REQUEST: "(SELECT account_id FROM requests WHERE id = $1)",
        Of.CASE: "(SELECT account_id FROM cases WHERE id = $1)",
    }.items()
}

_AGAIN: Final = (errors.UniqueViolation, errors.SerializationFailure, errors.DeadlockDetected)
"""Another step was in the way, or was faster: run again, a step sees what it did."""

_LOST: Final = (
    *(errors.AdminShutdown, errors.CrashShutdown, errors.IdleInTransactionSessionTimeout),
    # The schema got new columns while the statement was prepared.
    errors.FeatureNotSupported,
)
"""After these a new connection may do."""

_CURES: Final[dict[type[psycopg.Error], str]] = {
    Silent: "see whether the server hangs, or the way to it, or the standby without which it commits nothing",
    errors.LockNotAvailable: "another step holds the account, such as an import; repeat it",
    errors.QueryCanceled: "see what keeps the server busy (pg_stat_activity)",
    errors.ReadOnlySqlTransaction: "`store.url` leads to a standby or a server that only reads; name the primary,"
    " or several hosts with target_session_attrs=read-write",
    errors.DiskFull: "make room on the server's disk",
    errors.InsufficientPrivilege: "let the user in `store.url` own the database and its tables",
}

_UNKNOWN_CURE: Final = "it may have been done; repeat it to know"
_DOWN_CURE: Final = (
    "see that the server runs; and that host, user, password and database in [store] are right"
)


class NamedRow(tuple[Any, ...]):
    """As sqlite3.Row: by name, by number, in order."""

    __slots__ = ()
    places: ClassVar[dict[str, int]]

    def __getitem__(self, column: Any) -> Any:
        return tuple.__getitem__(self, self.places[column] if type(column) is str else column)


@lru_cache(maxsize=512)
def row_type(columns: tuple[bytes | str | None, ...]) -> Callable[[Any], NamedRow]:
    """What makes a row of columns of these names."""
    # The first of several of the same name.
    named = [(place, name) for place, name in enumerate(columns) if name is not None]
    places = {name if isinstance(name, str) else name.decode(): place for place, name in reversed(named)}
    return type("NamedRow", (NamedRow,), {"__slots__": (), "places": places})


def _rows(cursor: Any) -> Callable[[Any], NamedRow]:
    # Each result comes by here, and `description` takes a microsecond for each column.
    found = cursor.pgresult
    return row_type(() if found is None else tuple([found.fname(place) for place in range(found.nfields)]))


class _NumberLoader(Loader):
    """Sums of whole numbers, which PostgreSQL makes `numeric`, are whole numbers again, of any size."""

    def load(self, data: Buffer) -> int | float:
        text = bytes(data).decode()
        return float(text) if "." in text else int(text)


_UNSTORABLE: Final = (errors.IntegrityError, errors.DataError)


def _unstorable(error: psycopg.Error) -> Unstorable:
    return Unstorable(error.diag.message_primary or str(error))


class PostgresDatabase(SharedDatabase):
    """What a step is given: a connection inside a transaction."""

    def __init__(self, raw: "psycopg.Connection[NamedRow]", pipeline: psycopg.Pipeline | None = None) -> None:
        self._raw = raw
        self._pipeline = pipeline
        self._locked: set[tuple[Of, str | int]] = set()
        self.written = 0

    def execute(self, sql: str, parameters: Any = (), /) -> Cursor:
        self.written += not sql.lstrip().startswith("SELECT")
        return self._raw.execute(translated(sql), parameters)

    def write(self, writes: Iterable[Write]) -> None:
        # Each statement costs its way through the client and the server, whatever it does.
        for piece in chunked(writes):
            self.written += len(piece)
            sql = joined(tuple([sql for sql, _ in piece]))
            self._raw.execute(sql, [value for _, parameters in piece for value in parameters])

    def hold(self, locked: Iterable[tuple[Of, str]]) -> None:
        self._locked.update(locked)

    def lock(self, of: Of, key: str | int) -> None:
        # A step that is made of others locks the same once.
        if (of, key) not in self._locked:
            self._raw.execute(_LOCKS[of], (key,))
            self._locked.add((of, key))

    def alone(self) -> None:
        self._raw.execute("SELECT pg_advisory_xact_lock($1)", (_ALONE,))

    def _sync(self) -> None:
        """Wait until all was done that was sent; after an error, so that what is sent next is done again."""
        if self._pipeline is not None:
            self._pipeline.sync()

    def apart(self, work: Callable[[], T]) -> T:
        # What is prepared after an error is not, and its name would be taken for prepared.
        prepares, self._raw.prepare_threshold = self._raw.prepare_threshold, None
        try:
            return self._apart(work)
        finally:
            self._raw.prepare_threshold = prepares

    def _apart(self, work: Callable[[], T]) -> T:
        self._raw.execute("SAVEPOINT apart")
        try:
            result = work()
            # What was sent is to fail here, and not later.
            self._sync()
        except LedgerError:
            self._raw.execute("ROLLBACK TO apart")
            raise
        except _UNSTORABLE as error:
            self._sync()
            self._raw.execute("ROLLBACK TO apart")
            raise _unstorable(error) from error
        self._raw.execute("RELEASE apart")
        return result


class _Again(Exception):
    """The step has changed nothing, and may do in another run. error: for who hears of it after the last."""

    def __init__(self, error: Exception, *, at_once: bool) -> None:
        self.error = error
        self.at_once = at_once


def connect(url: str, password: str | None) -> "HeardConnection[NamedRow]":
    """A connection on which transactions are begun and ended by word. Raises psycopg.Error."""
    connection: HeardConnection[NamedRow] = HeardConnection.connect(
        url,
        password=password,
        autocommit=True,
        row_factory=_rows,
        cursor_factory=psycopg.RawCursor,
        connect_timeout=CONNECT_WITHIN_S,
        fallback_application_name="fairdial",
        # A server that vanished is noticed before calls wait for ever.
        keepalives_idle=10,
        keepalives_interval=2,
        keepalives_count=3,
        tcp_user_timeout=5_000,
    )
    try:
        connection.patience_s = (STATEMENT_MS + ANSWER_MS) / 1000
        connection.adapters.register_loader("numeric", _NumberLoader)
        # One type for all whole numbers: psycopg's own choice, by size, prepares each statement many times over.
        connection.adapters.register_dumper(int, Int8Dumper)
        [backend] = connection.execute("SELECT pg_backend_pid()").fetchone() or (None,)
        # A pooler has a number of its own: each transaction may be on another connection to the server, where a name
        # of ours stands for another statement.
        connection.prepare_threshold = 1 if backend == connection.info.backend_pid else None
        connection.prepared_max = PREPARED_MAX
    except BaseException:
        connection.close()
        raise
    return connection


@dataclass(frozen=True, slots=True)
class Way:
    """How transactions of a kind are run. limits: `_LIMITS`. patience_s: for a server that says nothing."""

    begin: str
    limits: tuple[str, str, str]
    patience_s: float
    trouble: Trouble = field(default_factory=Trouble)


def told(where: str, error: Exception) -> LedgerUnavailable:
    """An error of the server or its client, for people."""
    said = str(error).strip().replace("\n", " ")
    for kind, cure in _CURES.items():
        if isinstance(error, kind):
            return LedgerUnavailable(f"{where}: {said}", cure)
    down = isinstance(error, errors.OperationalError) and not error.sqlstate
    return LedgerUnavailable(f"{where}: {said}", _DOWN_CURE if down else "")


class Pool:
    """Runs steps on the server at `url`, which has no password in it. `open` before use, `close` after; both once.

    password: None: libpq finds one, or none is needed. connections: for steps; readings have half as many of their
    own, so that a long listing stands in no dial's way. waiting_max, reading_max: that may wait, those under way among
    them; more are refused with LedgerBusy. within_s: the longest wait for a step or a reading.
    """

    shares: ClassVar[bool] = True
    """Whether steps of several accounts can be one transaction."""

    def __init__(
        self,
        url: str,
        password: str | None = None,
        *,
        connections: int = 8,
        waiting_max: int = 10_000,
        reading_max: int = 256,
        within_s: float = 10.0,
        locked_ms: int = LOCKED_MS,
    ) -> None:
        patience_s = (STATEMENT_MS + ANSWER_MS) / 1000
        self._writing = Way(BEGIN, (str(locked_ms), str(STATEMENT_MS), str(IDLE_MS)), patience_s)
        reading_ms = str(READING_MS)
        self._looking = Way(BEGIN_READING, (reading_ms,) * 3, (READING_MS + ANSWER_MS) / 1000)
        self.where = shown(url)
        self._doubts = Doubts()
        self._servers = Servers(url, self.where, lambda each: connect(each, password), self._doubts)
        self._waiting_max = waiting_max
        self._reading_max = reading_max
        self._within_s = within_s
        self.traffic = Traffic()
        self._writers = ThreadPoolExecutor(connections, "ledger-write")
        self._readers = ThreadPoolExecutor(max(1, connections // 2), "ledger-read")
        self._counting = threading.Lock()
        self._mine = threading.local()
        self._all: set[HeardConnection[NamedRow]] = set()
        self._closing: asyncio.Task[None] | None = None
        # Steps that may share a transaction, and how many threads are to look for them.
        self._sharing: deque[together.Waiting] = deque()
        self._takers, self._takers_max = 0, connections

    async def open(self, prepare: Callable[["psycopg.Connection[NamedRow]"], None]) -> None:
        """Connect, and let `prepare` see to the schema. Raises LedgerUnavailable that says which server and why."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._writers, self._prepared, prepare)
        except BaseException:
            await self.close()
            raise

    def _prepared(self, prepare: Callable[["psycopg.Connection[NamedRow]"], None]) -> None:
        connection = self._connection(self._writing)
        try:
            if connection.info.server_version < SERVER_MIN:
                raise LedgerUnavailable(
                    f"{self.where}: the server is PostgreSQL {connection.info.server_version // 10_000}",
                    "FairDial needs 15 or later",
                )
            if connection.info.parameter_status("server_encoding") != "UTF8":
                raise LedgerUnavailable(
                    f"{self.where}: the database is not in UTF-8", "make one with `createdb --encoding=UTF8`"
                )
            # It may make an index on a large table.
            connection.patience_s = None
            prepare(connection)
        except psycopg.Error as error:
            raise told(self.where, error) from error

    async def do(self, step: Step[T]) -> T:
        """Run `step` in a transaction; its result is returned after the commit.

        Cancelled while it waits, the step is not run. Cancelled later, it may have been committed: the caller undoes it
        with a further step. Raises what the step raises, or LedgerUnavailable; LedgerSlow where it may have been done.
        """
        self._need_open()
        if self.traffic.steps_waiting >= self._waiting_max:
            self.traffic.steps.add("failed")
            raise LedgerBusy(f"{self.where}: {self._waiting_max} steps wait already")
        self.traffic.steps_waiting += 1
        try:
            if self.shares and isinstance(step, OfOne) and together.may_share(step):
                return await self._wait(self._share(step), self.traffic.steps, "written")
            return await self._wait(
                self._in_thread(self._writers, self._step, step), self.traffic.steps, "written"
            )
        finally:
            self.traffic.steps_waiting -= 1

    async def read(self, step: Step[T]) -> T:
        """Run a `step` that only reads, on what is committed now. Raises what it raises, or LedgerUnavailable."""
        self._need_open()
        if self.traffic.reads_waiting >= self._reading_max:
            self.traffic.reads.add("failed")
            raise LedgerBusy(f"{self.where}: {self._reading_max} readings wait already")
        self.traffic.reads_waiting += 1
        try:
            return await self._wait(
                self._in_thread(self._readers, self._reading, step), self.traffic.reads, "read"
            )
        finally:
            self.traffic.reads_waiting -= 1

    def _in_thread(
        self, threads: ThreadPoolExecutor, run: Callable[[Step[T]], T], step: Step[T]
    ) -> "asyncio.Future[T]":
        return asyncio.wrap_future(threads.submit(run, step))

    def _share(self, step: OfOne[T]) -> "asyncio.Future[T]":
        """Let a thread run it, with others that wait then."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._sharing.append(together.Waiting(step, done))
        with self._counting:
            if self._takers < self._takers_max:
                self._takers += 1
                self._writers.submit(self._take, asyncio.get_running_loop())
        return done

    async def _wait(self, done: "asyncio.Future[T]", tally: Tally, what: str) -> T:
        outcome = "ok"
        try:
            async with asyncio.timeout(self._within_s):
                return await done
        except TimeoutError:
            outcome = "failed"
            raise LedgerSlow(
                f"{self.where}: not {what} within {self._within_s} s", _CURES[errors.QueryCanceled]
            ) from None
        except LedgerUnavailable:
            outcome = "failed"
            raise
        finally:
            tally.add(outcome)

    async def probe(self) -> None:
        """Write a row as it is. Raises LedgerUnavailable."""
        await self.do(lambda db: db.execute("UPDATE schema_version SET name = name WHERE version = 1"))

    async def close(self) -> None:
        """Do what waits, then close all connections. May be called again, also after being cancelled."""
        if self._closing is None:
            self._closing = asyncio.create_task(asyncio.to_thread(self._shut), name="ledger-close")
        # Cancelling who waits for it must not leave it half closed.
        await asyncio.shield(self._closing)

    def _shut(self) -> None:
        for threads in (self._writers, self._readers):
            threads.shutdown(wait=True)
        for connection in list(self._all):
            self._drop(connection)

    def _need_open(self) -> None:
        if self._closing is not None:
            raise LedgerUnavailable(f"{self.where}: the ledger is closed")

    # In the threads.

    def _take(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run what waits to share a transaction; then stand behind the other steps in the queue of the threads."""
        group = self._next_group()
        results = self._together(group)
        # Once for all: it wakes the loop.
        loop.call_soon_threadsafe(_tell, group, results)
        for waiting, result in zip(group, results, strict=True):
            if isinstance(result, together.Alone):
                self._hand(self._take_alone, waiting, loop)
        with self._counting:
            if not self._sharing:
                self._takers -= 1
                return
        self._hand(self._take, loop)

    def _take_alone(self, waiting: together.Waiting, loop: asyncio.AbstractEventLoop) -> None:
        if waiting.done.done():
            return
        try:
            result: Any = self._step(waiting.step)
        except Exception as error:  # its caller raises it
            result = error
        loop.call_soon_threadsafe(_tell, [waiting], [result])

    def _hand(self, work: Callable[..., None], *given: Any) -> None:
        """Let a thread do it, after what waits before it; this one, where the pool closes."""
        try:
            self._writers.submit(work, *given)
        except RuntimeError:
            work(*given)

    def _next_group(self) -> list[together.Waiting]:
        group: list[together.Waiting] = []
        with contextlib.suppress(IndexError):  # another thread was faster
            while len(group) < together.GROUP_MAX:
                waiting = self._sharing.popleft()
                if not waiting.done.done():
                    group.append(waiting)
        return group

    def _together(self, group: Sequence[together.Waiting]) -> list[Any]:
        """What became of each step: its result, the exception to raise, or that it is to run alone."""
        if len(group) < together.GROUP_MIN:
            return [together.Alone() for _ in group]
        began_s, outcome = time.monotonic(), "ok"
        try:
            results = self._run(lambda db: together.run(db, group), self._writing)
        except LedgerSlow as error:
            # Committed or not, nobody knows of any of them.
            outcome = "failed"
            results = [LedgerSlow(error.found, error.cure) for _ in group]
        except Exception as error:  # each runs alone, and whose fault it is hears of it
            log.info("ledger_group_spoilt", steps=len(group), error=repr(error))
            return [together.Alone() for _ in group]
        with self._counting:
            self.traffic.commits.add(time.monotonic() - began_s, outcome)
        return results

    def _step(self, step: Step[T]) -> T:
        began_s, outcome = time.monotonic(), "ok"
        try:
            return self._repeatedly(step, self._writing)
        except LedgerUnavailable:
            outcome = "failed"
            raise
        finally:
            # Its dictionaries are no thread's own; what is told of it is read between two of these.
            with self._counting:
                self.traffic.commits.add(time.monotonic() - began_s, outcome)

    def _reading(self, step: Step[T]) -> T:
        return self._repeatedly(step, self._looking)

    def _repeatedly(self, step: Step[T], way: Way) -> T:
        for run in range(1, RUNS_MAX + 1):
            try:
                return self._run(step, way)
            except _Again as again:
                if run == RUNS_MAX:
                    raise again.error from again.error.__cause__
                if not again.at_once:
                    # Two that were in each other's way are not to meet again.
                    time.sleep(AGAIN_AFTER_S * run * random.random())  # noqa: S311
        raise AssertionError("the last run ends the loop")

    def _run(self, step: Step[T], way: Way) -> T:
        connection = self._connection(way)
        connection.patience_s = way.patience_s
        committing = False
        try:
            # What is sent waits for no answer until the step reads one: five or six round trips to a call's step, not
            # one for each of its statements.
            with connection.pipeline() as pipeline:
                connection.execute(way.begin.encode())
                connection.execute(_LIMITS, way.limits)
                result = step(PostgresDatabase(connection, pipeline))
                committing = True
                ending = connection.execute("COMMIT")
        except psycopg.Error as error:
            lost = connection.closed
            if isinstance(error, Silent):
                self._fell_silent(way, connection, error)
            # With its transaction. What was sent after the error was passed over, PREPARE too, of which the client does
            # not know; and after a change of the schema none of its prepared statements does any more.
            self._drop(connection)
            if committing and lost:
                how = "fell silent" if isinstance(error, Silent) else "was lost"
                raise LedgerSlow(
                    f"{self.where}: the connection {how} while it committed", _UNKNOWN_CURE
                ) from error
            raise self._after(error) from error
        except BaseException:
            self._roll_back(connection)
            raise
        if ending.statusmessage != "COMMIT":
            # The step went on after an error, which leaves nothing to commit.
            raise LedgerUnavailable(f"{self.where}: the server answered {ending.statusmessage} to COMMIT")
        return result

    def _after(self, error: psycopg.Error) -> Exception:
        """What is to be raised of an error after which nothing was changed."""
        if isinstance(error, errors.DivisionByZero):
            return Fenced()  # nodes.py: nothing else divides
        found = _unstorable(error) if isinstance(error, _UNSTORABLE) else told(self.where, error)
        if isinstance(error, _AGAIN):
            return _Again(found, at_once=False)
        if isinstance(error, Silent):
            return found
        lost = isinstance(error, _LOST) or (isinstance(error, errors.OperationalError) and not error.sqlstate)
        return _Again(found, at_once=True) if lost else found

    def _fell_silent(self, way: Way, connection: "HeardConnection[NamedRow]", error: Silent) -> None:
        """No connection that was made before is used again, nor waited on."""
        way.trouble.found(told(self.where, error), time.monotonic())
        if not connection.doubted:
            self._doubts.silent_s = time.monotonic()
            log.error("ledger_silent", store=self.where, error=str(error))

    def _connection(self, way: Way) -> "HeardConnection[NamedRow]":
        """This thread's, made anew where it has none, or none that is relied on. Raises LedgerUnavailable."""
        connection: HeardConnection[NamedRow] | None = getattr(self._mine, "connection", None)
        if connection is not None and not connection.closed:
            if not connection.doubted:
                return connection
            self._drop(connection)
        doubted = way.trouble.admit(time.monotonic())
        try:
            connection = self._servers.connect(doubted=doubted)
        except psycopg.Error as error:
            if isinstance(error, (errors.ConnectionTimeout, Silent)):
                self._doubts.silent_s = time.monotonic()
            why = told(self.where, error)
            way.trouble.found(why, time.monotonic())
            raise why from error
        except LedgerUnavailable as why:
            way.trouble.found(why, time.monotonic())
            raise
        except BaseException:
            # Whatever it was: the next may try.
            way.trouble.over()
            raise
        way.trouble.over()
        self._mine.connection = connection
        self._all.add(connection)
        return connection

    def _roll_back(self, connection: "HeardConnection[NamedRow]") -> None:
        if connection.closed:
            self._all.discard(connection)
            return
        try:
            connection.execute("ROLLBACK")
        except psycopg.Error:
            self._drop(connection)

    def _drop(self, connection: "HeardConnection[NamedRow]") -> None:
        self._all.discard(connection)
        with contextlib.suppress(psycopg.Error):
            connection.close()


def _tell(group: Sequence[together.Waiting], results: Sequence[Any]) -> None:
    for waiting, result in zip(group, results, strict=True):
        if waiting.done.done() or isinstance(result, together.Alone):
            continue  # its caller was cancelled meanwhile and undoes the step itself; or it hears later
        if isinstance(result, BaseException):
            waiting.done.set_exception(result)
        else:
            waiting.done.set_result(result)


def shown(url: str) -> str:
    """Which server and database, for people. Raises ValueError."""
    try:
        given = [conninfo_to_dict(each) for each in each_host(url)]
    except psycopg.Error as error:
        raise ValueError(f"no PostgreSQL address: {str(error).strip()}") from None
    hosts = (f"{each.get('host', 'localhost')}{_port(each.get('port'))}" for each in given)
    return f"postgresql://{','.join(hosts)}/{given[0].get('dbname', '')}"


def _port(port: object) -> str:
    return f":{port}" if port else ""
