"""Changes of prepaid credit on SQLite that both calls and provisioning make."""

from fairdial.ledger.database import Database


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
    db.execute(
        "INSERT INTO credit_entries (account_id, origin, reference, at_ms, amount_micros, balance_micros, note)"
        " SELECT account_id, ?, ?, ?, ?, balance_micros, ? FROM credits WHERE account_id = ?",
        (origin, reference, at_ms, amount_micros, note, account_id),
    )


def forfeit(db: Database, account_id: str, at_ms: int) -> None:
    """Take the credit that no call reserves, where the account was terminated for fraud (V8).

    To be repeated after each settlement: what a call reserved is taken when it ends.
    """
    row = db.execute(
        "SELECT c.balance_micros - c.reserved_micros AS free_micros,"
        " (SELECT count(*) FROM credit_entries e"
        "   WHERE e.account_id = c.account_id AND e.origin = 'forfeited') AS earlier"
        " FROM credits c JOIN accounts a ON a.id = c.account_id WHERE a.id = ? AND a.fraud = 1",
        (account_id,),
    ).fetchone()
    if row is None or not row["free_micros"]:
        return
    db.execute(
        "UPDATE credits SET balance_micros = reserved_micros WHERE account_id = ?",
        (account_id,),
    )
    # Numbered: two calls may end in the same millisecond.
    reference = f"fraud-{row['earlier'] + 1}"
    note_credit(db, account_id, "forfeited", reference, -row["free_micros"], at_ms, "")
