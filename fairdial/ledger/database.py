"""What a step is given to work on: a database inside a transaction, be it SQLite's or PostgreSQL's.

Steps are written once, in SQL that both understand; the few things that cannot be said in both are translated for
PostgreSQL (dialect.py). How steps are run, and what becomes of their errors, is the stores' (writer.py, pool.py).
"""

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar, cast

from fairdial.ledger.contract import ConstraintViolated

T = TypeVar("T")


class Row(Protocol):
    """A row, read by the names of its columns, by their numbers, or in their order."""

    def __getitem__(self, column: str | int, /) -> Any: ...
    def __iter__(self) -> Iterator[Any]: ...


class Cursor(Protocol):
    """What a statement found; how many rows it changed, RETURNING tells. description: of columns, the name first."""

    @property
    def description(self) -> Any: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...
    def __iter__(self) -> Iterator[Any]: ...


class Database(Protocol):
    """`sqlite3.Connection` is one as it is."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Cursor: ...


Write = tuple[str, Sequence[Any]]
"""A statement that changes something, and its parameters. What it answers is read by nobody."""


Reads = Generator[tuple[str, Sequence[Any]], list[Any], T]
"""Readings of which each may follow from what those before it found: yields statements with their parameters, is sent
their rows, and returns what was found out. Who runs it can do the readings of many at once (together.py).
"""


class Of(StrEnum):
    """By what an account is found whose rows a step is about to change."""

    ACCOUNT = "account"
    LINE = "line"
    NUMBER = "number"
    CALL = "call"
    REQUEST = "request"
    CASE = "case"


class Unstorable(ConstraintViolated):
    """A rule of the schema forbids it."""


@dataclass(frozen=True, slots=True)
class OfOne(Generic[T]):
    """A step at one account, which is found by that key. reads: what it needs to know, to be handed to `work`, which
    reads it itself where it gets nothing.
    """

    of: Of
    key: str
    reads: Callable[[], Reads[Any]]
    work: Callable[..., T]

    def __call__(self, db: Any) -> T:
        return self.work(db)


class SharedDatabase(ABC):
    """A database that other transactions write at the same time. written: how many statements were no reading."""

    written: int

    @abstractmethod
    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Cursor:
        """As Database has it."""

    @abstractmethod
    def write(self, writes: Iterable[Write]) -> None:
        """See `write`."""

    @abstractmethod
    def hold(self, locked: Iterable[tuple[Of, str]]) -> None:
        """These are locked: who locks them again need not."""

    @abstractmethod
    def lock(self, of: Of, key: str | int) -> None:
        """See `lock`."""

    @abstractmethod
    def alone(self) -> None:
        """See `alone`."""

    @abstractmethod
    def apart(self, work: Callable[[], T]) -> T:
        """See `apart`."""


def lock(db: Database, of: Of, key: str | int) -> None:
    """Until this transaction ends, no other step changes what is that account's: meters, grants, credit, cases.

    Comes before the first look, so that what a step reads of the account is so until its end. Where there is no such
    account, nothing is locked. SQLite has one writer and needs nothing.
    """
    if isinstance(db, SharedDatabase):
        db.lock(of, key)


def alone(db: Database) -> None:
    """Until this transaction ends, no other step is at more than one account.

    Comes first in a step that locks several. A step of one account waits for no second one, so none waits for one that
    waits for it.
    """
    if isinstance(db, SharedDatabase):
        db.alone()


def apart(db: Database, work: Callable[[], T]) -> T:
    """Do a part of a step that may be refused while the step goes on. Raises what `work` raises, or Unstorable."""
    if isinstance(db, SharedDatabase):
        return db.apart(work)
    try:
        # SQLite takes back the statement that fails, PostgreSQL the transaction.
        return work()
    except sqlite3.IntegrityError as error:
        raise Unstorable(str(error)) from error


def write(db: Database, writes: Iterable[Write]) -> None:
    """The last act of a call's step: first it reads, then it works out what is to be written, then it writes it.

    So a server is asked twice or three times for a step, not once for each of its statements.
    """
    if isinstance(db, SharedDatabase):
        db.write(writes)
        return
    for sql, parameters in writes:
        db.execute(sql, parameters)


def read(db: Database, reads: Reads[T]) -> T:
    """Do these readings one after the other."""
    try:
        sql, parameters = next(reads)
        while True:
            sql, parameters = reads.send(db.execute(sql, parameters).fetchall())
    except StopIteration as done:
        return cast(T, done.value)
