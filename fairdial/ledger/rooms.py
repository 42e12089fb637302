"""The clock of a conference room, which runs once for all who are in it (K5).

Each who is in a room, or is called into it, has a grant of its own; those of one session are in it at the same time
and share what is held for the room's clock, whoever of them holds it. What a settlement adds is how much longer the
room was in use, seen with this stay, than without it: in whatever order stays are settled, it adds up to the time in
which at least one was there. While a number rings it uses nothing of the clock.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from fairdial.ledger import notices
from fairdial.ledger.contract import Grant, GrantState
from fairdial.ledger.database import Database, Write
from fairdial.ledger.metering import USE
from fairdial.ledger.notice import NoticeRules
from fairdial.ledger.notices import Draft
from fairdial.ledger.reading import STATES, Held, Used
from fairdial.policy.periods import MS_PER_S, Window, covered_ms, most_in_window_s
from fairdial.policy.sizing import Hold

_Stretch = tuple[int, int]
"""From and until, in UTC milliseconds."""

_MOVE: Final = "UPDATE grants SET room = ? WHERE room = ? AND (state = 'ringing' OR call_id = ?)"
_LET_GO: Final = (
    "UPDATE holds SET hold_units = 0 WHERE room = 1 AND account_id = ? AND allowance = ? AND start_ms = ?"
    " AND end_ms = ? AND call_id IN (SELECT call_id FROM grants WHERE room = ? AND state <> 'settled')"
)
_HAND_OVER: Final = (
    "INSERT INTO holds (call_id, account_id, allowance, start_ms, end_ms, hold_units, room)"
    " VALUES (?, ?, ?, ?, ?, ?, 1) ON CONFLICT (call_id, allowance, start_ms, end_ms)"
    " DO UPDATE SET hold_units = excluded.hold_units"
)
_NOTE_USE: Final = (
    "INSERT INTO holds (call_id, account_id, allowance, start_ms, end_ms, hold_units, used_units, room)"
    " VALUES (?, ?, ?, ?, ?, 0, ?, 1) ON CONFLICT (call_id, allowance, start_ms, end_ms)"
    " DO UPDATE SET used_units = excluded.used_units"
)


@dataclass(frozen=True, slots=True)
class Seat:
    """A live grant of who is in the room or is called into it."""

    call_id: str
    state: GrantState
    authorised_ms: int
    ring_s: int
    answered_ms: int | None
    granted_s: int | None


@dataclass(frozen=True, slots=True)
class Clock:
    """What the live grants of a room hold of a meter together. live: one of them has a hold there, be it of nothing."""

    live: bool
    held: Held


@dataclass(frozen=True, slots=True)
class Session:
    """Of a room: who is in it or called into it, oldest first, the stays that are over, and what it holds."""

    room: str
    account_id: str
    seats: tuple[Seat, ...]
    stays: tuple[_Stretch, ...]
    clocks: tuple[Clock, ...]

    def with_seat(self, seat: Seat, holds: Iterable[Hold] = ()) -> "Session":
        """The session with that grant as it is now; holds: what it reserves besides."""
        others = [other for other in self.seats if other.call_id != seat.call_id]
        seats = sorted([*others, seat], key=lambda each: (each.authorised_ms, each.call_id))
        clocks = {(clock.held.allowance, clock.held.window): clock.held for clock in self.clocks}
        live = {key for key, clock in zip(clocks, self.clocks, strict=True) if clock.live}
        for hold in holds:
            if hold.room:
                key = hold.allowance, hold.window
                held = clocks.get(key) or _nothing(hold)
                clocks[key] = held._replace(hold_units=held.hold_units + hold.hold_units)
                live.add(key)
        return replace(
            self,
            seats=tuple(seats),
            clocks=tuple([Clock(key in live, held) for key, held in clocks.items()]),
        )

    def key(self, held: Held) -> tuple[str, str, int, int]:
        """Of the meter of which that is held."""
        return self.account_id, held.allowance, held.start_ms, held.end_ms


def _nothing(hold: Hold) -> Held:
    """What is held where that hold is the first."""
    window = hold.window
    return Held(
        *(hold.allowance, window.start_ms, window.end_ms, 0, int(hold.over), hold.weight, 1),
        *(hold.limit_units, 0, 0, 0),
    )


def session_of(db: Database, room: str, account_id: str) -> Session:
    """A session as it stands."""
    rows = db.execute(
        "SELECT call_id, state, authorised_ms, ring_s, answered_ms, granted_s, used_s FROM grants"
        " WHERE room = ? ORDER BY authorised_ms, call_id",
        (room,),
    ).fetchall()
    seats = [Seat(row[0], STATES[row[1]], *tuple(row)[2:6]) for row in rows if row[1] != "settled"]
    stays = [
        (answered_ms, answered_ms + used_s * MS_PER_S)
        for _, _, _, _, answered_ms, _, used_s in rows
        if used_s
    ]
    # Meters of those that left are among them.
    clocks = db.execute(
        "SELECT max(CASE WHEN g.state = 'settled' THEN 0 ELSE 1 END), h.allowance, h.start_ms, h.end_ms,"
        " sum(CASE WHEN g.state = 'settled' THEN 0 ELSE h.hold_units END), max(h.over), max(h.weight), 1,"
        " m.limit_units, m.used_units, m.reserved_units, m.over_units"
        " FROM holds h JOIN grants g ON g.call_id = h.call_id JOIN meters m ON m.account_id = h.account_id"
        " AND m.allowance = h.allowance AND m.start_ms = h.start_ms AND m.end_ms = h.end_ms"
        " WHERE g.room = ? AND h.room = 1"
        " GROUP BY h.allowance, h.start_ms, h.end_ms,"
        " m.limit_units, m.used_units, m.reserved_units, m.over_units"
        " ORDER BY h.allowance, h.start_ms",
        (room,),
    ).fetchall()
    return Session(
        room,
        account_id,
        tuple(seats),
        tuple(stays),
        tuple([Clock(bool(live), Held(*held)) for live, *held in clocks]),
    )


def enter(session: Session, call_id: str) -> tuple[Session, list[Write]]:
    """That seat is in the room from now on; the first one opens a session, to which all belong who are called.

    What was held for those who ring stays held only as far as it lasts longer than what is held for the first one.
    session: as it is with that seat in it. Returns what becomes of it, and what is to be written.
    """
    if any(seat.state is GrantState.TALKING and seat.call_id != call_id for seat in session.seats):
        return session, []
    writes: list[Write] = [(_MOVE, (call_id, session.room, call_id))]
    clocks = []
    # What only those hold who left stays with their session.
    for clock in (each for each in session.clocks if each.live):
        held = clock.held
        rest_units = _needed_units(held.hold_units, session.seats, [], held.window)
        freed_units = held.hold_units - rest_units
        writes.append((USE, (freed_units, 0, 0, 0, None, *session.key(held))))
        writes += _handed_over(session.key(held), call_id, call_id, rest_units)
        reserved_units = held.reserved_units - freed_units
        clocks.append(Clock(True, held._replace(hold_units=rest_units, reserved_units=reserved_units)))
    return replace(session, room=call_id, stays=(), clocks=tuple(clocks)), writes


def meter(
    session: Session, grant: Grant, stay: _Stretch, at_ms: int, rules: NoticeRules | None
) -> tuple[list[Write], list[Draft]]:
    """Count the stay of a grant that is settled at `at_ms`; what the room still needs goes to who stays.

    Returns what is to be written, and what to be told of.
    """
    before = session.stays
    others = [seat for seat in session.seats if seat.call_id != grant.call_id]
    # Also where the note of its answer was lost.
    was_in = grant.state is GrantState.TALKING or stay[0] < stay[1]
    last = was_in and all(other.state is GrantState.RINGING for other in others)
    writes: list[Write] = []
    drafts: list[Draft] = []
    for clock in session.clocks:
        held, window, key = clock.held, clock.held.window, session.key(clock.held)
        clock_s = _clock_s([*before, stay], window)
        more_units = clock_s - _clock_s(before, window)
        if held.limit_units is not None:
            more_units = min(more_units, held.hold_units)
        left_units = max(0, held.hold_units - more_units)
        rest_units = _needed_units(left_units, others, [*before, stay], window)
        calls = int(last and clock_s > 0)
        writes.append((USE, (held.hold_units - rest_units, more_units, 0, calls, None, *key)))
        drafts += notices.of_meter(rules, grant.account_id, held, Used(more_units), at_ms, grant.line_id)
        if more_units:
            # What this stay added to the clock, so that the meter is the sum of what stands at its calls.
            writes.append((_NOTE_USE, (grant.call_id, *key, more_units)))
        writes += _handed_over(key, session.room, others[0].call_id if others else None, rest_units)
    return writes, drafts


def _handed_over(
    key: tuple[str, str, int, int], room: str, heir: str | None, rest_units: int
) -> Iterator[Write]:
    """From now on one of them holds all that the room holds in the window; None: nobody is left."""
    yield _LET_GO, (*key, room)
    if heir is not None:
        yield _HAND_OVER, (heir, *key, rest_units)


def _clock_s(stays: Sequence[_Stretch], window: Window) -> int:
    return (covered_ms(stays, window) + MS_PER_S // 2) // MS_PER_S


def _needed_units(held_units: int, live: Sequence[Seat], settled: Sequence[_Stretch], window: Window) -> int:
    """How much of what is held the live grants can still use in the window, beside the stays that are settled.

    They are in the room from their answers to the end of the longest of them; who is called can need more where
    it can stay longer.
    """
    inside, until_ms, ringing_s = [], 0, []
    for seat in live:
        if seat.granted_s is None:
            return held_units
        if seat.answered_ms is not None and seat.state is GrantState.TALKING:
            inside.append(seat.answered_ms)
            until_ms = max(until_ms, seat.answered_ms + seat.granted_s * MS_PER_S)
    for seat in live:
        if seat.state is not GrantState.RINGING or seat.granted_s is None:
            continue
        if seat.authorised_ms + (seat.ring_s + seat.granted_s) * MS_PER_S > until_ms:
            ringing_s.append(most_in_window_s(window, seat.authorised_ms, seat.ring_s, seat.granted_s))
    stays = [*settled, *((answered_ms, until_ms) for answered_ms in inside)]
    needed_s = -(-(covered_ms(stays, window) - covered_ms(settled, window)) // MS_PER_S)
    return min(held_units, needed_s + sum(ringing_s))
