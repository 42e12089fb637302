"""The clock of a conference room, which runs once for all who are in it (K5).

Each who is in a room, or is called into it, has a grant of its own; those of one session are in it at the same time
and share what is held for the room's clock, whoever of them holds it. What a settlement adds is how much longer the
room was in use, seen with this stay, than without it: in whatever order stays are settled, it adds up to the time in
which at least one was there. While a number rings it uses nothing of the clock.
"""

from collections.abc import Sequence

from fairdial.ledger import notices
from fairdial.ledger.contract import Grant, GrantState
from fairdial.ledger.database import Database, Row
from fairdial.policy.periods import MS_PER_S, Window, covered_ms, most_in_window_s

_Stretch = tuple[int, int]
"""From and until, in UTC milliseconds."""


def enter(db: Database, call_id: str, room: str) -> None:
    """Somebody is in the room from now on; the first one opens a session, to which all belong who are called.

    What was held for those who ring stays held only as far as it lasts longer than what is held for the first one.
    """
    inside = db.execute(
        "SELECT 1 FROM grants WHERE room = ? AND state = 'talking' AND call_id <> ? LIMIT 1", (room, call_id)
    ).fetchone()
    if inside is not None:
        return
    db.execute(
        "UPDATE grants SET room = ? WHERE room = ? AND (state = 'ringing' OR call_id = ?)",
        (call_id, room, call_id),
    )
    live = _live(db, call_id)
    for row in _held(db, call_id):
        rest_units = _needed_units(row["hold_units"], live, [], _window(row))
        _release(db, row, row["hold_units"] - rest_units)
        _hand_over(db, call_id, call_id, rest_units, row)


def meter(db: Database, grant: Grant, stay: _Stretch, at_ms: int) -> None:
    """Count the stay of a grant that is settled at `at_ms`; what the room still needs goes to who stays."""
    room = str(grant.room)
    before = _stays(db, room)
    others = [row for row in _live(db, room) if row["call_id"] != grant.call_id]
    # Also where the note of its answer was lost.
    was_in = grant.state is GrantState.TALKING or stay[0] < stay[1]
    last = was_in and all(other["state"] == GrantState.RINGING for other in others)
    for row in _held(db, room):
        window = _window(row)
        clock_s = _clock_s([*before, stay], window)
        more_units = clock_s - _clock_s(before, window)
        if row["limit_units"] is not None:
            more_units = min(more_units, row["hold_units"])
        left_units = max(0, row["hold_units"] - more_units)
        rest_units = _needed_units(left_units, others, [*before, stay], window)
        _release(db, row, row["hold_units"] - rest_units)
        used = db.execute(
            "UPDATE meters SET used_units = used_units + ?, calls = calls + ?"
            " WHERE account_id = ? AND allowance = ? AND start_ms = ? AND end_ms = ? RETURNING *",
            (more_units, int(last and clock_s > 0), *_key(row)),
        ).fetchone()
        notices.of_meter(
            db, used, (used["used_units"] - more_units, used["over_units"]), at_ms, grant.line_id
        )
        if more_units:
            _note_use(db, grant.call_id, row, more_units)
        _hand_over(db, room, others[0]["call_id"] if others else None, rest_units, row)
    if was_in and grant.answered_ms is None:
        db.execute("UPDATE grants SET answered_ms = ? WHERE call_id = ?", (stay[0], grant.call_id))


def _note_use(db: Database, call_id: str, row: Row, used_units: int) -> None:
    """Write down what this stay added to the clock, so that the meter is the sum of what stands at its calls."""
    db.execute(
        "INSERT INTO holds (call_id, account_id, allowance, start_ms, end_ms, hold_units, used_units, room)"
        " VALUES (?, ?, ?, ?, ?, 0, ?, 1) ON CONFLICT (call_id, allowance, start_ms, end_ms)"
        " DO UPDATE SET used_units = excluded.used_units",
        (call_id, *_key(row), used_units),
    )


def _live(db: Database, room: str) -> list[Row]:
    """Grants of who is in the room or is called into it, oldest first."""
    return db.execute(
        "SELECT call_id, state, authorised_ms, ring_s, answered_ms, granted_s FROM grants"
        " WHERE room = ? AND state <> 'settled' ORDER BY authorised_ms, call_id",
        (room,),
    ).fetchall()


def _stays(db: Database, room: str) -> list[_Stretch]:
    rows = db.execute(
        "SELECT answered_ms, used_s FROM grants WHERE room = ? AND state = 'settled' AND used_s > 0", (room,)
    )
    return [(row["answered_ms"], row["answered_ms"] + row["used_s"] * MS_PER_S) for row in rows]


def _held(db: Database, room: str) -> list[Row]:
    """What the live grants of a room hold of each meter together; meters of those that left are among them."""
    return db.execute(
        "SELECT h.account_id, h.allowance, h.start_ms, h.end_ms, m.limit_units,"
        " sum(CASE WHEN g.state = 'settled' THEN 0 ELSE h.hold_units END) AS hold_units"
        " FROM holds h JOIN grants g USING (call_id) JOIN meters m ON m.account_id = h.account_id"
        " AND m.allowance = h.allowance AND m.start_ms = h.start_ms AND m.end_ms = h.end_ms"
        " WHERE g.room = ? AND h.room = 1"
        " GROUP BY h.account_id, h.allowance, h.start_ms, h.end_ms, m.limit_units"
        " ORDER BY h.allowance, h.start_ms",
        (room,),
    ).fetchall()


def _window(row: Row) -> Window:
    return Window(row["start_ms"], row["end_ms"])


def _key(row: Row) -> tuple[str, str, int, int]:
    return row["account_id"], row["allowance"], row["start_ms"], row["end_ms"]


def _clock_s(stays: Sequence[_Stretch], window: Window) -> int:
    return (covered_ms(stays, window) + MS_PER_S // 2) // MS_PER_S


def _needed_units(held_units: int, live: Sequence[Row], settled: Sequence[_Stretch], window: Window) -> int:
    """How much of what is held the live grants can still use in the window, beside the stays that are settled.

    They are in the room from their answers to the end of the longest of them; who is called can need more where
    it can stay longer.
    """
    if any(row["granted_s"] is None for row in live):
        return held_units
    inside = [row for row in live if row["state"] == GrantState.TALKING]
    until_ms = max((row["answered_ms"] + row["granted_s"] * MS_PER_S for row in inside), default=0)
    stays = [*settled, *((row["answered_ms"], until_ms) for row in inside)]
    needed_s = -(-(covered_ms(stays, window) - covered_ms(settled, window)) // MS_PER_S)
    needed_s += sum(
        most_in_window_s(window, row["authorised_ms"], row["ring_s"], row["granted_s"])
        for row in live
        if row["state"] == GrantState.RINGING
        and row["authorised_ms"] + (row["ring_s"] + row["granted_s"]) * MS_PER_S > until_ms
    )
    return min(held_units, needed_s)


def _release(db: Database, row: Row, units: int) -> None:
    db.execute(
        "UPDATE meters SET reserved_units = reserved_units - ?"
        " WHERE account_id = ? AND allowance = ? AND start_ms = ? AND end_ms = ?",
        (units, *_key(row)),
    )


def _hand_over(db: Database, room: str, heir: str | None, rest_units: int, row: Row) -> None:
    """From now on one of them holds all that the room holds in the window; None: nobody is left."""
    db.execute(
        "UPDATE holds SET hold_units = 0 WHERE room = 1 AND account_id = ? AND allowance = ? AND start_ms = ?"
        " AND end_ms = ? AND call_id IN (SELECT call_id FROM grants WHERE room = ? AND state <> 'settled')",
        (*_key(row), room),
    )
    if heir is not None:
        db.execute(
            "INSERT INTO holds (call_id, account_id, allowance, start_ms, end_ms, hold_units, room)"
            " VALUES (?, ?, ?, ?, ?, ?, 1) ON CONFLICT (call_id, allowance, start_ms, end_ms)"
            " DO UPDATE SET hold_units = excluded.hold_units",
            (heir, *_key(row), rest_units),
        )
