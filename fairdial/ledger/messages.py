"""Messages on SQLite: what is kept of one besides its decision, and how one that was not sent is taken out again.

What each step promises stands at the method of its name in contract.py. Counting and charging is that of any grant
(granting.py).
"""

from typing import Final

from fairdial.ledger.contract import IdempotencyConflict
from fairdial.ledger.database import Database, Of, Write, lock
from fairdial.policy.account import Dial, Kind

FORGOTTEN_AT_ONCE: Final = 5_000
"""Texts that one step forgets, so that no dial waits long for it."""


def kept(dial: Dial, account_id: str | None) -> list[Write]:
    """What is written of a dial as a message, if it says anything of itself as one."""
    if dial.message is None:
        return []
    insert = "INSERT INTO messages (call_id, account_id, at_ms, medium, text) VALUES (?, ?, ?, ?, ?)"
    return [(insert, (dial.call_id, account_id, dial.at_ms, dial.message.medium, dial.message.text))]


def need_same(db: Database, dial: Dial, caller: str) -> None:
    """Raises IdempotencyConflict where the message that was decided under that id was another. caller: that one's."""
    row = db.execute("SELECT medium, text FROM messages WHERE call_id = ?", (dial.call_id,)).fetchone()
    if row is None or dial.message is None:
        return
    # A text that was forgotten cannot be told from another.
    text = dial.message.text if row["text"] is None else row["text"]
    if (row["medium"], text, caller) != (dial.message.medium, dial.message.text, dial.caller):
        raise IdempotencyConflict(
            f"message {dial.call_id} was decided with another text, medium or sender; a new message needs a new id"
        )


def unsend(db: Database, call_id: str, at_ms: int) -> bool:
    lock(db, Of.CALL, call_id)
    counted = db.execute(
        "SELECT 1 FROM decisions WHERE call_id = ? AND kind = ? AND at_ms = ?", (call_id, Kind.MESSAGE, at_ms)
    ).fetchone()
    if counted is None:
        return False
    db.execute(
        "UPDATE meters SET used_units = meters.used_units - h.used_units,"
        " over_units = meters.over_units - coalesce(h.over_units, 0), calls = calls - 1"
        " FROM holds h WHERE h.call_id = ? AND h.account_id = meters.account_id AND h.allowance = meters.allowance"
        " AND h.start_ms = meters.start_ms AND h.end_ms = meters.end_ms",
        (call_id,),
    )
    for table in ("holds", "charges", "grants", "messages", "decisions"):
        db.execute(f"DELETE FROM {table} WHERE call_id = ?", (call_id,))  # noqa: S608
    return True


def forget_texts(db: Database, before_ms: int) -> int:
    forgotten = db.execute(
        "UPDATE messages SET text = NULL WHERE call_id IN"
        " (SELECT call_id FROM messages WHERE text <> '' AND at_ms < ? LIMIT ?) RETURNING call_id",
        (before_ms, FORGOTTEN_AT_ONCE),
    )
    return len(forgotten.fetchall())


def secret(db: Database, name: str, fresh: bytes) -> bytes:
    db.execute("INSERT INTO secrets (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING", (name, fresh))
    return find_secret(db, name) or fresh


def find_secret(db: Database, name: str) -> bytes | None:
    """The key of that name, where there is one."""
    row = db.execute("SELECT value FROM secrets WHERE name = ?", (name,)).fetchone()
    return None if row is None else bytes(row["value"])
