"""What was seen of a switch, and where its own records disagree with the ledger.

Steps and readings on SQLite; what each promises stands at the method of its name in contract.py.
"""

from collections.abc import Sequence

from fairdial.ledger import reading
from fairdial.ledger.contract import Difference, DifferenceKind, Grant, Seen
from fairdial.ledger.database import Database

DIFFERENCES_KEPT = 100_000
"""The oldest are dropped past it: who never looks at them must not fill the disk."""


def saw(db: Database, switch: str, proven_ms: int) -> None:
    db.execute(
        "INSERT INTO switches (name, proven_ms) VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET proven_ms = max(switches.proven_ms, excluded.proven_ms)",
        (switch, proven_ms),
    )


def seen(db: Database, switch: str) -> Seen | None:
    row = db.execute("SELECT proven_ms, compared_ms FROM switches WHERE name = ?", (switch,)).fetchone()
    return None if row is None else Seen(row["proven_ms"], row["compared_ms"])


def settled_between(db: Database, from_ms: int, until_ms: int, limit: int) -> tuple[Grant, ...]:
    return reading.grants_where(
        db,
        "g.state = 'settled' AND g.ended_ms > ? AND g.ended_ms <= ? ORDER BY g.ended_ms, g.call_id LIMIT ?",
        (from_ms, until_ms, limit),
    )


def compared(db: Database, switch: str, until_ms: int, differences: Sequence[Difference]) -> None:
    db.execute("UPDATE switches SET compared_ms = max(compared_ms, ?) WHERE name = ?", (until_ms, switch))
    for difference in differences:
        differ(db, difference)


def differ(db: Database, difference: Difference) -> None:
    db.execute(
        "INSERT INTO differences VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (
            difference.call_id,
            difference.kind,
            difference.at_ms,
            difference.ours_s,
            difference.theirs_s,
            difference.done,
        ),
    )
    db.execute(
        "DELETE FROM differences WHERE at_ms < (SELECT at_ms FROM differences ORDER BY at_ms DESC"
        " LIMIT 1 OFFSET ?)",
        (DIFFERENCES_KEPT,),
    )


def differences(db: Database, limit: int) -> tuple[Difference, ...]:
    rows = db.execute("SELECT * FROM differences ORDER BY at_ms DESC, call_id LIMIT ?", (limit,))
    return tuple(
        Difference(
            row["call_id"],
            DifferenceKind(row["kind"]),
            row["at_ms"],
            row["ours_s"],
            row["theirs_s"],
            row["done"],
        )
        for row in rows
    )
