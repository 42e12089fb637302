"""Steps of several accounts in one transaction of a server: what SQLite's group commit is on a file.

Beginning, committing, waiting for the disk and for each answer cost as much as a step's own statements. What waits at
the same time shares them: three round trips for all. Whoever has an account in use is not waited for: such a step runs
alone afterwards, so a group waits for no lock, none waits in a circle, and nobody for another's account. A step that
the database refuses spoils its group, of which nothing is kept then; each is run alone, and hears of its own fault.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fairdial.ledger.contract import LedgerError
from fairdial.ledger.database import Cursor, Database, Of, OfOne, Reads, SharedDatabase

GROUP_MIN: Final = 2
GROUP_MAX: Final = 32
"""Steps of one transaction: they run one after the other, and the first hears when the last is done."""

_FREE: Final = {
    Of.LINE: "SELECT l.id, a.id FROM lines l JOIN accounts a ON a.id = l.account_id WHERE l.id = ANY(?)"
    " FOR NO KEY UPDATE OF a SKIP LOCKED",
    Of.CALL: "SELECT g.call_id, a.id FROM grants g JOIN accounts a ON a.id = g.account_id WHERE g.call_id = ANY(?)"
    " FOR NO KEY UPDATE OF a SKIP LOCKED",
}
"""Locks the accounts that nobody has in use; the keys of these, with the account."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A step, and who waits for it."""

    step: OfOne[Any]
    done: "asyncio.Future[Any]"


@dataclass(frozen=True, slots=True)
class Alone:
    """Stands for the result of a step that is to be run by itself."""


class Spoilt(Exception):
    """A step failed after it had written."""


def may_share(step: object) -> bool:
    """Whether a step can be one of a group."""
    return isinstance(step, OfOne) and step.of in _FREE


def run(db: Database, group: Sequence[Waiting]) -> list[Any]:
    """Run steps in the transaction that `db` is in; the result of each, an exception for itself, or Alone.

    Raises Spoilt, or what the database raises: then the transaction is to be rolled back.
    """
    assert isinstance(db, SharedDatabase)
    locking = [
        (of, db.execute(sql, (keys,)))
        for of, sql in _FREE.items()
        if (keys := [each.step.key for each in group if each.step.of is of])
    ]
    # Not waited for: what is locked is told together with what is read, and that of others is not looked at.
    reads = [each.step.reads() for each in group]
    asked = [db.execute(*next(each)) for each in reads]
    accounts = {(of, key): account for of, found in locking for key, account in found.fetchall()}
    db.hold(accounts)
    known = _find_out(db, group, reads, asked, accounts)
    results: list[Any] = []
    for place, each in enumerate(group):
        if (each.step.of, each.step.key) not in accounts:
            results.append(Alone())
            continue
        found = known.get(place, ())
        written = db.written
        try:
            if isinstance(found, LedgerError):
                raise found
            results.append(each.step.work(db, *found))
        except LedgerError as error:
            # A call's steps refuse before they write, so what they refuse has changed nothing.
            if db.written != written:
                raise Spoilt from error
            results.append(error)
    return results


def _find_out(
    db: SharedDatabase,
    group: Sequence[Waiting],
    reads: Sequence[Reads[Any]],
    asked: Sequence[Cursor],
    accounts: Mapping[tuple[Of, str], str],
) -> dict[int, tuple[Any] | LedgerError]:
    """What each step needs to know, by its place. asked: its first reading, which was sent. Of several steps of an
    account only the first: what that writes the next one must see, and reads itself.
    """
    first: set[str] = set()
    known: dict[int, tuple[Any] | LedgerError] = {}
    under_way: dict[int, Cursor] = {}
    for place, each in enumerate(group):
        account = accounts.get((each.step.of, each.step.key))
        if account is not None and account not in first:
            first.add(account)
            under_way[place] = asked[place]
    while under_way:
        following: dict[int, Cursor] = {}
        for place, cursor in under_way.items():
            try:
                following[place] = db.execute(*reads[place].send(cursor.fetchall()))
            except StopIteration as done:
                known[place] = (done.value,)
            except LedgerError as error:
                known[place] = error
        under_way = following
    return known
