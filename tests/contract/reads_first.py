"""Watches that a call's steps read first and write last, and read nothing of what their writes answer.

So a step costs a server two or three round trips, however many statements it has.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from fairdial.ledger.database import Cursor, Database

STEPS: Final = ("authorise", "keep_record", "answered", "assume_answered", "renew", "settle", "release")
"""Of granting.py."""


class Unread:
    """What a write answers."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AssertionError(f"a step asks its write for {name}")

    def __iter__(self) -> NoReturn:
        raise AssertionError("a step reads what its write answers")


class Watched:
    """A database that refuses to be read once it was written."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._written = ""

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Cursor:
        """As sqlite3 has it."""
        found = self._db.execute(sql, parameters)
        if sql.split(maxsplit=1)[0] == "SELECT":
            assert not self._written, f"{sql}\nis read after\n{self._written}"
            return found
        assert "RETURNING" not in sql, sql
        self._written = sql
        return Unread()


def watched(step: Callable[..., Any]) -> Callable[..., Any]:
    """That step, as it is on a server, watched where it runs on a file."""
    return lambda db, *given: step(Watched(db) if isinstance(db, sqlite3.Connection) else db, *given)
