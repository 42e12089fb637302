"""How a talk falls onto the meters that its grant holds: what each counts, and what is written of it.

Works on what was read (`reading.follow`) and hands back what is to be written; asks the store for nothing. The clock
of a conference, which its calls share, is `rooms.py`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Final

import msgspec

from fairdial.ledger.database import Write
from fairdial.ledger.reading import Held, Used
from fairdial.policy.periods import MS_PER_S, fit_s, split_s
from fairdial.policy.sizing import Hold
from fairdial.policy.terms import Past

_Stretch = tuple[int, int]
"""Seconds of a talk, counted from its answer: [from, until)."""

Limits = Sequence[tuple[int, int | None]]
"""A limit as it changes: since when (UTC ms), and what it is; None: there is none."""

# Nothing is held where a newer policy lowered the limit below what is used or held already, so the limit stored is
# always that of the policy, and the check of the table holds it. Only a call that goes on past the limit comes there
# too: it finds what is used as the limit, and no room.
_RESERVE: Final = (
    "INSERT INTO meters (account_id, allowance, start_ms, end_ms, limit_units, reserved_units)"
    " VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (account_id, allowance, start_ms, end_ms) DO UPDATE SET"
    " reserved_units = meters.reserved_units + excluded.reserved_units, limit_units ="
    " CASE WHEN ? = 1 AND excluded.limit_units < meters.used_units + meters.reserved_units"
    " THEN meters.used_units + meters.reserved_units ELSE excluded.limit_units END"
)
_HOLD: Final = (
    "INSERT INTO holds (call_id, account_id, allowance, start_ms, end_ms, hold_units, over, weight, room)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (call_id, allowance, start_ms, end_ms) DO UPDATE SET"
    " hold_units = holds.hold_units + excluded.hold_units, over = max(holds.over, excluded.over)"
)
USE: Final = (
    "UPDATE meters SET reserved_units = reserved_units - ?, used_units = used_units + ?,"
    " over_units = over_units + ?, calls = calls + ?, limit_units = coalesce(?, limit_units)"
    " WHERE account_id = ? AND allowance = ? AND start_ms = ? AND end_ms = ?"
)
"""Release, used, over, calls, the new limit or NULL; then the meter's key."""
_USED: Final = (
    "UPDATE holds SET used_units = ?, over_units = ?, past = ?"
    " WHERE call_id = ? AND allowance = ? AND start_ms = ? AND end_ms = ?"
)


def reserved(call_id: str, account_id: str, holds: Iterable[Hold]) -> Iterator[Write]:
    """What is written when a grant gets these."""
    for hold in holds:
        key = (account_id, hold.allowance, hold.window.start_ms, hold.window.end_ms)
        over = int(hold.over)
        yield _RESERVE, (*key, hold.limit_units, hold.hold_units, over)
        yield _HOLD, (call_id, *key, hold.hold_units, over, hold.weight, int(hold.room))


def used(call_id: str, account_id: str, uses: Iterable[tuple[Held, Used]]) -> Iterator[Write]:
    """What is written when a grant's holds turn into use, and the rest of them is released."""
    for held, use in uses:
        key = (held.allowance, held.start_ms, held.end_ms)
        units, over_units = use.used_units, use.over_units
        calls = int(units + over_units > 0)
        yield USE, (held.hold_units, units, over_units, calls, use.limit_units, account_id, *key)
        past = None if use.past is None else msgspec.json.encode(use.past).decode()
        yield _USED, (units, over_units if held.over or over_units else None, past, call_id, *key)


def count(
    holds: Iterable[Held],
    start_ms: int,
    used_s: int,
    *,
    endless: bool,
    limits_of: Callable[[Held], Limits] | None = None,
) -> tuple[list[tuple[Held, Used]], Past]:
    """A talk of `used_s` from `start_ms` on the meters that are held, and what of it lies past them.

    endless: it was granted without an end. limits_of: the limit of one past which calls go on, as it was while the
    call was up; () and None: as it is stored, which is that of the latest dial.
    """
    uses: list[tuple[Held, Used]] = []
    stretches: list[_Stretch] = []
    weight = 1
    own = (held for held in holds if not held.room)
    for _, same in groupby(own, key=attrgetter("allowance")):
        windows = list(same)
        parts = split_s(start_ms, used_s, [held.window for held in windows])
        if any(held.over for held in windows):
            past = _count_past(windows, parts, limits_of, start_ms, uses)
            stretches += past
            weight = max(weight, windows[0].weight) if past else weight
            continue
        bounds = [
            None if endless or held.limit_units is None else held.hold_units // held.weight
            for held in windows
        ]
        for held, part_s in zip(windows, fit_s(parts, bounds), strict=True):
            uses.append((held, _bounded(held, part_s * held.weight, endless)))
    return uses, Past(tuple(stretches), weight)


def _bounded(held: Held, used_units: int, endless: bool) -> Used:
    limit_units = None
    if endless and held.limit_units is not None:
        # Granted without an end while the meter had no limit. If it has got one since, what was
        # talked is stored as that limit: nothing more is granted, and the check stays true.
        needed_units = held.used_units + held.reserved_units + used_units
        limit_units = needed_units if held.limit_units < needed_units else None
    return Used(used_units, 0, limit_units)


def _count_past(
    windows: Sequence[Held],
    parts: Sequence[int],
    limits_of: Callable[[Held], Limits] | None,
    start_ms: int,
    uses: list[tuple[Held, Used]],
) -> list[_Stretch]:
    """Use an allowance past which calls go on; returns the stretches of the talk that lie past it.

    start_ms: of the talk. Each second counts by the limit that held in it.
    """
    begin_s, past = 0, []
    for held, part_s in zip(windows, parts, strict=True):
        stored: Limits = ((held.start_ms, held.limit_units),)
        steps = (limits_of(held) or stored) if limits_of is not None else stored
        weight, included_s, end_s = held.weight, 0, begin_s + part_s
        own: list[_Stretch] = []
        # Something is held here where the allowance began to be charged while the call was up.
        taken_units = held.used_units + held.reserved_units - held.hold_units
        for (_, limit_units), (from_s, until_s) in zip(
            steps, _stretches(steps, start_ms, begin_s, end_s), strict=True
        ):
            fits_s = until_s - from_s
            if limit_units is not None:
                room_units = max(0, limit_units - taken_units - included_s * weight)
                fits_s = min(fits_s, room_units // weight)
            included_s += fits_s
            if from_s + fits_s < until_s:
                own.append((from_s + fits_s, until_s))
        needed_units = taken_units + included_s * weight
        # A limit that was raised after the latest dial is not stored yet.
        raised = held.limit_units is not None and needed_units > held.limit_units
        of_their_own = own not in ([], [(begin_s + included_s, end_s)])
        use = Used(
            included_s * weight,
            (part_s - included_s) * weight,
            needed_units if raised else None,
            tuple(own) if of_their_own else None,
        )
        uses.append((held, use))
        past += own
        begin_s = end_s
    return past


def _stretches(steps: Limits, start_ms: int, begin_s: int, end_s: int) -> list[_Stretch]:
    """The seconds [begin_s, end_s) of a talk, divided where the limit changes; one stretch for each of its steps."""
    # The first limit holds from before the talk on, whenever a rounded boundary lets its part begin.
    starts_s = [begin_s]
    for at_ms, _ in steps[1:]:
        at_s = (at_ms - start_ms + MS_PER_S // 2) // MS_PER_S
        starts_s.append(min(end_s, max(begin_s, at_s)))
    return list(zip(starts_s, [*starts_s[1:], end_s], strict=True))
