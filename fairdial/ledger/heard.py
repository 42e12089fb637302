"""Connections that do not wait for ever for a server that fell silent, and of several servers the one that leads.

A server is silent where its processes hang, its machine or the way there is gone, or where it was told to commit on a
synchronous standby that does not answer: its kernel goes on acknowledging what is sent, so TCP alone tells nothing.
Each wait of a connection has a bound from the last that was heard; once one has found the server silent, none that was
made before is waited on or used again (`Doubts`).

Where `store.url` names several hosts, a standby may have been promoted while the one that led before still takes
writes, such as one that hung and woke: of two that can be written, the one on the later timeline leads, as each
promotion begins a new one. What was once on a timeline never goes back to an earlier (`Servers`). What such an old
primary was told meanwhile it cannot commit, where its standby is synchronous (docs/postgresql.md).
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import psycopg
import structlog
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from fairdial.ledger.contract import LedgerUnavailable

log = structlog.get_logger(__name__)

T = TypeVar("T")
Row = TypeVar("Row", covariant=True)

INTERVAL_S: Final = 0.1
"""How often a wait looks whether it has been too long."""
PAUSE_S: Final = 0.2
"""After a connection could not be made, until the next is tried."""

_TIMELINE: Final = (
    "SELECT CASE WHEN pg_is_in_recovery() THEN ''"
    " ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END AS timeline"
)
"""The first eight digits of a WAL file's name are its timeline (PostgreSQL, "WAL Internals")."""
_NO_TIMELINE: Final = (
    *(psycopg.ProgrammingError, psycopg.NotSupportedError, psycopg.InternalError),
    psycopg.errors.ObjectNotInPrerequisiteState,
)
_HUNG: Final = (
    "SELECT count(*) FROM pg_stat_activity WHERE usename = current_user AND state = 'active' AND query = 'COMMIT'"
    " AND query_start < clock_timestamp() - interval '1 s'"
)
"""COMMITs that wait in vain for a disk or a synchronous standby; everybody sees those of their own user."""

HUNG_CURE: Final = (
    "see that a standby named in synchronous_standby_names runs and follows, and to the server's disk; where another"
    " server was promoted, stop this one"
)
STALE: Final = (
    "stop the old primary, or let it follow the new one; where an older copy was put in place on purpose,"
    " restart FairDial"
)


class Silent(psycopg.OperationalError):
    """The server said nothing for as long as it is waited for, so the connection was closed."""


@dataclass(slots=True)
class Doubts:
    """Shared by the connections of a pool. silent_s: when the server was last found silent, by the monotonic clock;
    timeline: the latest that was seen, 0: none.
    """

    silent_s: float = -math.inf
    timeline: int = 0


class HeardConnection(psycopg.Connection[Row]):
    """A connection whose waits end with `Silent` when nothing was heard for `patience_s`; None: they have no end."""

    patience_s: float | None = None
    doubts: Doubts | None = None
    made_s: float = 0.0
    timeline: int = 0
    """0: unknown."""

    @property
    def doubted(self) -> bool:
        """Whether the server was found silent since this connection was made, or another was promoted."""
        doubts = self.doubts
        return doubts is not None and (self.made_s < doubts.silent_s or self.timeline < doubts.timeline)

    def wait(self, gen: PQGen[T], interval: float = INTERVAL_S, timeout: float | None = None) -> T:
        """As psycopg's, with this connection's patience."""
        if self.patience_s is not None:
            return super().wait(self._heard(gen, self.patience_s), INTERVAL_S)
        return super().wait(gen, interval) if timeout is None else super().wait(gen, interval, timeout)

    def _heard(self, gen: PQGen[T], patience_s: float) -> PQGen[T]:
        """`gen`, as long as the server says something now and then."""
        until_s = time.monotonic() + patience_s
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready:
                    until_s = time.monotonic() + patience_s
                elif self.doubted or time.monotonic() > until_s:
                    self.pgconn.finish()
                    raise Silent(f"the server said nothing for {patience_s:g} s")
                wanted = gen.send(ready)
        except StopIteration as done:
            result: T = done.value
            return result


class Trouble:
    """Whether a new connection is tried at all: while there is none to be had one at a time is, others hear why.

    Else each would wait for itself. Used by several threads; times are of the monotonic clock.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._why: LedgerUnavailable | None = None
        self._until_s = 0.0
        self._tried = False

    def admit(self, now_s: float) -> bool:
        """Whether the caller tries for all; `over` or `found` is due then. Raises LedgerUnavailable to the others."""
        with self._lock:
            why = self._why
            if why is not None:
                if self._tried or now_s < self._until_s:
                    raise type(why)(why.found, why.cure)
                self._tried = True
            return why is not None

    def over(self) -> None:
        """There is one."""
        with self._lock:
            self._why, self._tried = None, False

    def found(self, why: LedgerUnavailable, now_s: float) -> None:
        """There is none, and this is what others hear."""
        with self._lock:
            self._why, self._tried = why, False
            self._until_s = now_s + PAUSE_S


Connect = Callable[[str], "HeardConnection[Any]"]


class Servers:
    """The server at `url`, or of several hosts there the one that leads. Used by several threads.

    where: for people. connect: raises psycopg.Error.
    """

    def __init__(self, url: str, where: str, connect: Connect, doubts: Doubts) -> None:
        self._each = each_host(url)
        self._url = url if len(self._each) == 1 else _read_write(url)
        self._where = where
        self._raw_connect = connect
        self._doubts = doubts

    def connect(self, *, doubted: bool) -> "HeardConnection[Any]":
        """A new connection. doubted: the server fell silent, so all hosts are looked at, and whether it commits again.

        Raises psycopg.Error or LedgerUnavailable.
        """
        # Who has just started knows of no promotion either.
        if len(self._each) > 1 and (doubted or not self._doubts.timeline):
            found = self._newest()
        else:
            found = self._connect(self._url)
            if found.timeline < self._doubts.timeline and len(self._each) > 1:
                found.close()
                found = self._newest()
        try:
            self._approve(found, doubted)
        except BaseException:
            found.close()
            raise
        return found

    def _approve(self, found: "HeardConnection[Any]", doubted: bool) -> None:
        newest = self._doubts.timeline
        if found.timeline < newest:
            raise LedgerUnavailable(
                f"{self._where}: the server is an old primary, on timeline {found.timeline} where the ledger went on"
                f" on timeline {newest}",
                STALE,
            )
        if doubted and (hung := _number(found, _HUNG)):
            raise LedgerUnavailable(
                f"{self._where}: {hung} COMMITs hang there",
                HUNG_CURE,
            )
        if found.timeline > newest:
            if newest:
                log.warning("ledger_failed_over", store=self._where, timeline=found.timeline)
            self._doubts.timeline = found.timeline

    def _newest(self) -> "HeardConnection[Any]":
        """Of the hosts that can be written the one on the latest timeline."""
        best: HeardConnection[Any] | None = None
        failure: psycopg.Error | None = None
        for url in self._each:
            try:
                found = self._connect(url)
            except psycopg.Error as error:
                failure = error
                continue
            older = found if best is not None and best.timeline >= found.timeline else best
            best = best if older is found else found
            if older is not None:
                older.close()
        if best is None:
            assert failure is not None
            raise failure
        return best

    def _connect(self, url: str) -> "HeardConnection[Any]":
        connection = self._raw_connect(url)
        connection.doubts, connection.made_s = self._doubts, time.monotonic()
        # What stands in for a server may have no WAL.
        with contextlib.suppress(*_NO_TIMELINE):
            connection.timeline = _number(connection, _TIMELINE, base=16)
        return connection


def _number(connection: "HeardConnection[Any]", sql: str, base: int = 10) -> int:
    [found] = connection.execute(sql.encode()).fetchone() or ("",)
    return found if isinstance(found, int) else int(found or "0", base)


def _read_write(url: str) -> str:
    """With several hosts, the one is meant that can be written, unless something else is said."""
    return make_conninfo(url, **({"target_session_attrs": "read-write"} | _settings(url)))


def each_host(url: str) -> list[str]:
    """Of a connection string with several hosts one for each of them (libpq, "Specifying Multiple Hosts")."""
    given = _settings(url)
    lists = {
        key: str(given[key]).split(",") for key in ("host", "hostaddr", "port") if given.get(key) is not None
    }
    count = max((len(values) for key, values in lists.items() if key != "port"), default=1)
    if count == 1:
        return [url]
    return [
        make_conninfo(
            **(
                {"target_session_attrs": "read-write"}
                | given
                # One port may stand for all of them.
                | {key: values[place if len(values) > 1 else 0] for key, values in lists.items()}
            )
        )
        for place in range(count)
    ]


def _settings(url: str) -> dict[str, Any]:
    return dict(conninfo_to_dict(url))
