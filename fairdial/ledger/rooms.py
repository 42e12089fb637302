"""The clock of a conference room, which runs once for all who are in it (K5).

Each who is in a room has a grant of its own; those of one session share what is held for the room's clock.
What a settlement adds is how much longer the room was in use, seen with this stay, than without it: in whatever
order stays are settled, it adds up to the time in which at least one was there.
"""

import sqlite3

from fairdial.ledger.contract import Grant
from fairdial.policy.periods import MS_PER_S, Window, covered_ms

_Stretch = tuple[int, int]
"""From and until, in UTC milliseconds."""


def meter(db: sqlite3.Connection, grant: Grant, stay: _Stretch) -> None:
    """Count the stay of a grant that is about to be settled; what the room still holds goes to who stays."""
    before = _stays(db, str(grant.room))
    heir = db.execute(
        "SELECT call_id FROM grants WHERE room = ? AND state <> 'settled' AND call_id <> ?"
        " ORDER BY authorised_ms, call_id LIMIT 1",
        (grant.room, grant.call_id),
    ).fetchone()
    for row in _held(db, str(grant.room)):
        window = Window(row["start_ms"], row["end_ms"])
        more_units = _clock_s([*before, stay], window) - _clock_s(before, window)
        if row["limit_units"] is not None:
            more_units = min(more_units, row["hold_units"])
        rest_units = 0 if heir is None else max(0, row["hold_units"] - more_units)
        key = (grant.account_id, row["allowance"], row["start_ms"], row["end_ms"])
        db.execute(
            "UPDATE meters SET reserved_units = reserved_units - ?, used_units = used_units + ?, calls = calls + ?"
            " WHERE account_id = ? AND allowance = ? AND start_ms = ? AND end_ms = ?",
            (row["hold_units"] - rest_units, more_units, int(heir is None), *key),
        )
        _hand_over(db, grant, None if heir is None else heir["call_id"], rest_units, key)


def _stays(db: sqlite3.Connection, room: str) -> list[_Stretch]:
    rows = db.execute(
        "SELECT answered_ms, used_s FROM grants WHERE room = ? AND state = 'settled' AND used_s > 0", (room,)
    )
    return [(row["answered_ms"], row["answered_ms"] + row["used_s"] * MS_PER_S) for row in rows]


def _held(db: sqlite3.Connection, room: str) -> list[sqlite3.Row]:
    """What those in the room hold of each meter together, those included that left."""
    return db.execute(
        "SELECT h.allowance, h.start_ms, h.end_ms, m.limit_units,"
        " sum(CASE WHEN g.state = 'settled' THEN 0 ELSE h.hold_units END) AS hold_units"
        " FROM holds h JOIN grants g USING (call_id)"
        " JOIN meters m USING (account_id, allowance, start_ms, end_ms)"
        " WHERE g.room = ? AND h.room = 1 GROUP BY h.allowance, h.start_ms, h.end_ms, m.limit_units"
        " ORDER BY h.allowance, h.start_ms",
        (room,),
    ).fetchall()


def _clock_s(stays: list[_Stretch], window: Window) -> int:
    return (covered_ms(stays, window) + MS_PER_S // 2) // MS_PER_S


def _hand_over(
    db: sqlite3.Connection, grant: Grant, heir: str | None, rest_units: int, key: tuple[str, str, int, int]
) -> None:
    db.execute(
        "UPDATE holds SET hold_units = 0 WHERE room = 1 AND account_id = ? AND allowance = ? AND start_ms = ?"
        " AND end_ms = ? AND call_id IN (SELECT call_id FROM grants WHERE room = ? AND (state <> 'settled'"
        " OR call_id = ?))",
        (*key, grant.room, grant.call_id),
    )
    if heir is not None:
        db.execute(
            "INSERT INTO holds (call_id, account_id, allowance, start_ms, end_ms, hold_units, room)"
            " VALUES (?, ?, ?, ?, ?, ?, 1) ON CONFLICT DO UPDATE SET hold_units = excluded.hold_units",
            (heir, *key, rest_units),
        )
