"""Where a statement belongs when accounts are spread over shards, and how rows of several shards become one listing.

What is an account's is on the account's shard, found by the slot that its id falls into. What is nobody's in
particular (`GLOBAL`) is in the database before the shards. A statement says by its own words whose it is: by an
account (`account_id = ?`), or by a line, a number or a call, which the directory knows. What says nothing is of the
account that the step has locked, or else of all shards: then listings are merged in their own order.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from fairdial.ledger.database import Of
from fairdial.ledger.dialect import translated

SLOTS: Final = 1024
"""Accounts move between shards in these; a power of two, as PL/Proxy's partitions are. Never to be changed."""

GLOBAL: Final = frozenset(
    {
        *("policies", "cards", "tokens", "secrets", "blocks", "switches", "differences"),
        *("announcements", "notice_rules", "leases", "nodes", "orders", "schema_version"),
    }
)
"""Tables of the database before the shards: small, or of a switch, or of all accounts."""

NUMBERED: Final = frozenset({"requests", "cases", "complaints", "notices"})
"""Tables whose rows have a number, given out by the database before the shards: unique on all, and rising in time."""

NOBODY: Final = "?"
"""Before the line of a dial whose line is nobody's: what is kept of it is where that falls."""


def slot_of(key: str) -> int:
    """The slot that an owner, or a key of the directory, falls into."""
    return int.from_bytes(hashlib.md5(key.encode(), usedforsecurity=False).digest()[:2], "big") % SLOTS


@dataclass(frozen=True, slots=True)
class Key:
    """By what a statement says whose it is; place: of the parameter, from 0."""

    of: Of
    place: int


@dataclass(frozen=True, slots=True)
class Order:
    """How a listing is ordered: columns by name, or by number from 0, and whether each falls."""

    column: str | int
    falls: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Of a parameter, from 0."""

    n: int


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of ours, looked through once. text: as PostgreSQL takes it.

    writes, gives: whether it changes something, whether it has rows. adds, frees: the key that it makes or takes away;
    only: the key of the one row that it reads.
    binds: the account that it names is that of what follows. limit, offset: a number, the place of its parameter, or
    None. sums: its last column is a count of each group. aside: what it asks of a table before the shards
    beside those of the account; the answer is its last parameter.
    """

    text: str
    tables: frozenset[str]
    is_global: bool
    writes: bool
    gives: bool
    keys: tuple[Key, ...]
    only: Key | None = None
    adds: Key | None = None
    frees: Key | None = None
    numbered: str = ""
    binds: bool = False
    orders: tuple[Order, ...] = ()
    limit: int | Place | None = None
    offset: int | Place | None = None
    sums: bool = False
    aside: str = ""


_ASIDE: Final = re.compile(r"\((SELECT \w+ FROM (?:" + "|".join(sorted(GLOBAL)) + r") WHERE [^()$]*)\)")  # noqa: S608
_PARAMETER: Final = re.compile(r"\$(\d+)")
_TABLES: Final = re.compile(r"\b(?:INTO|UPDATE|(?:FROM|JOIN)(?!\s+[a-z_]+\s*\())\s+([a-z_]+)")
_VERB: Final = re.compile(r"\b(INSERT) INTO\b|\b(UPDATE) \w+ SET\b|\b(DELETE) FROM\b")
_INSERT: Final = re.compile(r"\s*INSERT INTO (\w+)(?: \(([^)]*)\))? (?:VALUES \(([^)]*)\))?")
_ACCOUNT: Final = re.compile(
    r"\baccount_id(?: \|\| '')? = \$(\d+)|\b(?:FROM|UPDATE) accounts (?:SET [^()]*? )?WHERE id = \$(\d+)"
    r"|\ba\.id = \$(\d+)"
)
_OF_KEY: Final = (
    (Of.CALL, re.compile(r"\bcall_id = \$(\d+)")),
    (Of.LINE, re.compile(r"\blines (?:SET [^()]*? )?WHERE id = \$(\d+)|\bl\.id = \$(\d+)")),
    (Of.NUMBER, re.compile(r"\bnumber = \$(\d+)")),
)
_POSITIONAL: Final = {"decisions": 4, "charges": 2}
"""Where `account_id` is in a row that names no columns."""
_ADDED: Final = {
    "decisions": (Of.CALL, "call_id"),
    "lines": (Of.LINE, "id"),
    "numbers": (Of.NUMBER, "number"),
}
_FREED: Final = {"decisions": Of.CALL, "numbers": Of.NUMBER}
_ONE: Final = re.compile(
    r"^SELECT [^()]* FROM (?:decisions WHERE call_id|lines WHERE id|numbers WHERE number) = \$1$"
)
_TAIL: Final = re.compile(
    r"\bORDER BY ((?:[^()]|\([^()]*\))+?)(?: LIMIT (\$?\d+))?(?: OFFSET (\$?\d+))?\s*$", re.DOTALL
)
_COUNTS: Final = re.compile(r"\s*SELECT (?:[\w, ]+, )?count\(\*\)(?: AS \w+)? FROM")


@lru_cache(maxsize=1024)
def looked_through(sql: str) -> Statement:
    """What a statement of ours says of where it belongs."""
    text = translated(sql)
    aside = _ASIDE.search(text)
    if aside is not None:
        place = 1 + max(int(number) for number in _PARAMETER.findall(text))
        text = f"{text[: aside.start()]}CAST(${place} AS text){text[aside.end() :]}"
    verb = _VERB.search(text)
    tables = _TABLES.findall(text)
    insert = _INSERT.match(text)
    keys = tuple(_keys(text, insert))
    orders, limit, offset = _tail(text)
    return Statement(
        text,
        frozenset(tables),
        bool(tables) and all(table in GLOBAL for table in tables),
        verb is not None,
        verb is None or "RETURNING" in text,
        keys,
        keys[0] if len(keys) == 1 and len(tables) == 1 and _ONE.search(text) else None,
        None if insert is None else _added(insert),
        _freed(verb, tables, keys),
        insert[1] if insert is not None and insert[1] in NUMBERED else "",
        text == "SELECT * FROM accounts WHERE id = $1",
        orders,
        limit,
        offset,
        _COUNTS.match(text) is not None,
        "" if aside is None else aside[1],
    )


def _keys(text: str, insert: re.Match[str] | None) -> Iterator[Key]:
    if insert is not None:
        yield from _key_of_row(insert)
    for found in _ACCOUNT.finditer(text):
        yield Key(Of.ACCOUNT, _place(found))
    # A call is looked for by its SIP Call-ID as well, of which there may be several.
    if "sip_call_id = " in text:
        return
    for of, pattern in _OF_KEY:
        for found in pattern.finditer(text):
            yield Key(of, _place(found))


def _place(found: re.Match[str]) -> int:
    return int(next(group for group in found.groups() if group)) - 1


def _key_of_row(insert: re.Match[str]) -> Iterator[Key]:
    table, named, values = insert.groups()
    if not values:
        return
    columns = [] if named is None else named.split(", ")
    column = "id" if table == "accounts" else "account_id"
    place = columns.index(column) if column in columns else _POSITIONAL.get(table)
    if place is not None:
        yield Key(Of.ACCOUNT, _nth(values, place))
    # What is kept of a dial whose line is nobody's names no account.
    if "call_id" in columns:
        yield Key(Of.CALL, _nth(values, columns.index("call_id")))


def _nth(values: str, place: int) -> int:
    return int(values.split(", ")[place].removeprefix("$")) - 1


def _added(insert: re.Match[str]) -> Key | None:
    table, named, values = insert.groups()
    if table not in _ADDED or not values:
        return None
    of, column = _ADDED[table]
    return Key(of, _nth(values, 0 if named is None else named.split(", ").index(column)))


def _freed(verb: re.Match[str] | None, tables: Sequence[str], keys: Sequence[Key]) -> Key | None:
    if verb is None or verb[3] is None:
        return None
    return next((key for key in keys if key.of is _FREED.get(tables[0])), None)


def _tail(text: str) -> tuple[tuple[Order, ...], int | Place | None, int | Place | None]:
    found = _TAIL.search(text)
    if found is None:
        return (), None, None
    orders = []
    for term in found[1].split(", "):
        column, _, how = term.strip().partition(" ")
        name = column.rpartition(".")[2]
        orders.append(Order(int(name) - 1 if name.isdigit() else name, how.startswith("DESC")))
    return tuple(orders), _bound(found[2]), _bound(found[3])


def _bound(text: str | None) -> int | Place | None:
    if text is None:
        return None
    return Place(int(text[1:]) - 1) if text.startswith("$") else int(text)


def bound_of(limit: int | Place | None, given: Sequence[Any]) -> int | None:
    """A limit or an offset, as it was given."""
    return int(given[limit.n]) if isinstance(limit, Place) else limit


def merged(statement: Statement, given: Sequence[Any], found: Sequence[Sequence[Any]]) -> list[Any]:
    """Rows of each shard as one listing. Raises ValueError where the order cannot be told from the rows."""
    rows = [row for each in found for row in each]
    if statement.sums:
        counts: dict[tuple[Any, ...], Any] = {}
        for row in rows:
            group = tuple(row)[:-1]
            counts[group] = row if group not in counts else type(row)((*group, counts[group][-1] + row[-1]))
        return list(counts.values())
    for order in reversed(statement.orders):
        try:
            # What is empty comes last where values rise, and first where they fall, as PostgreSQL has it.
            rows.sort(key=lambda row, by=order.column: (row[by] is None, row[by]), reverse=order.falls)  # type: ignore[misc]
        except KeyError:
            raise ValueError(
                f"a listing of all shards has to have its order {order.column!r} in it"
            ) from None
    offset = bound_of(statement.offset, given) or 0
    limit = bound_of(statement.limit, given)
    return rows[offset : None if limit is None else offset + limit]
