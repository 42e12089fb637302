"""Changes of prepaid credit on SQLite that both calls and provisioning make."""

from collections.abc import Iterator
from typing import Final

from fairdial.ledger.database import Database, Write, write
from fairdial.policy.account import Credit

_NOTE: Final = (
    "INSERT INTO credit_entries (account_id, origin, reference, at_ms, amount_micros, balance_micros, note)"
    " SELECT account_id, ?, ?, ?, ?, balance_micros, ? FROM credits WHERE account_id = ?"
)


def note_credit(
    db: Database,
    account_id: str,
    origin: str,
    reference: str,
    amount_micros: int,
    at_ms: int,
    note: str,
) -> None:
    """Write down a change of a balance, after it was made."""
    db.execute(_NOTE, (origin, reference, at_ms, amount_micros, note, account_id))


def paid(account_id: str, call_id: str, hold_micros: int, amount_micros: int, at_ms: int) -> Iterator[Write]:
    """What is written when a call pays from what it reserved."""
    yield (
        "UPDATE credits SET reserved_micros = reserved_micros - ?, balance_micros = balance_micros - ?"
        " WHERE account_id = ?",
        (hold_micros, amount_micros, account_id),
    )
    if amount_micros:
        yield _NOTE, ("call", call_id, at_ms, -amount_micros, "", account_id)


def forfeit(db: Database, account_id: str, at_ms: int) -> None:
    """Take the credit that no call reserves, where the account was terminated for fraud (V8).

    To be repeated after each settlement: what a call reserved is taken when it ends.
    """
    row = db.execute(
        "SELECT c.currency, c.balance_micros, c.reserved_micros FROM credits c JOIN accounts a ON a.id = c.account_id"
        " WHERE a.id = ? AND a.fraud = 1",
        (account_id,),
    ).fetchone()
    if row is not None:
        write(db, forfeited(db, account_id, Credit(*row), at_ms))


def forfeited(db: Database, account_id: str, credit: Credit, at_ms: int) -> list[Write]:
    """What is written to take what of that credit no call reserves. Reads, and writes nothing."""
    free_micros = credit.balance_micros - credit.reserved_micros
    if not free_micros:
        return []
    [earlier] = db.execute(
        "SELECT count(*) FROM credit_entries WHERE account_id = ? AND origin = 'forfeited'", (account_id,)
    ).fetchone()
    # Numbered: two calls may end in the same millisecond.
    reference = f"fraud-{earlier + 1}"
    return [
        ("UPDATE credits SET balance_micros = reserved_micros WHERE account_id = ?", (account_id,)),
        (_NOTE, ("forfeited", reference, at_ms, -free_micros, "", account_id)),
    ]
