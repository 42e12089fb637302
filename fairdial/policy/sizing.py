"""How large a grant is: as large as it can be, and as small as it must be where calls share what is left.

Seconds of talk against meters (an allowance in its window) and against prepaid credit. Leaves to `decide.py`
whether a dial is allowed at all, and to the ledger to hold what was sized: nothing here is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fairdial.policy.account import MeterWindow, Room
from fairdial.policy.periods import MS_PER_S, Window, largest_grant_s, most_in_window_s
from fairdial.policy.rating import affordable_s, reserve_micros
from fairdial.policy.terms import Terms

LAST_SLICES = 16
"""Where more slices than this are left, a grant is that part of what is left instead of a slice: hours that
remain are not handed out by the minute, as each lease that ends early is a call that a crash would cut."""

LONGEST_CALL, CREDIT = "longest_call", "credit"
"""Rules at which a grant ends, beside allowances."""

LONGEST_HORIZON_S = 86_400
"""The longest single grant, for kinds whose calls the policy does not limit; it is renewed."""


@dataclass(frozen=True, slots=True)
class GrantRules:
    """How the last minutes of an allowance are shared among calls.

    useful_s: no grant is shorter while that much is left; a rest below it goes out whole.
    slice_s: the largest grant while calls share the last minutes, which are LAST_SLICES of these; it is
        renewed during the call.
    """

    useful_s: int = 10
    slice_s: int = 60

    def __post_init__(self) -> None:
        if not 1 <= self.useful_s <= self.slice_s:
            raise ValueError(
                f"useful_s {self.useful_s} must be at least 1 and at most slice_s {self.slice_s}"
            )


@dataclass(frozen=True, slots=True)
class Hold:
    """Units reserved in one window of one allowance. over: nothing is; what does not fit is charged.

    weight: units for each second of the call. room: for the room's clock, whoever of those in it holds it.
    """

    allowance: str
    window: Window
    limit_units: int | None
    hold_units: int
    over: bool = False
    weight: int = 1
    room: bool = False


@dataclass(frozen=True, slots=True)
class Sized:
    """A grant and what it reserves. granted_s None: nothing limits the call.

    bound_by: the rule of the policy at which it ends, by its key in the file; "" where it has no end.
    """

    granted_s: int | None
    holds: tuple[Hold, ...]
    credit_hold_micros: int = 0
    bound_by: str = ""


@dataclass(frozen=True, slots=True)
class Short:
    """Nothing can be granted: `meter` has no room."""

    meter: MeterWindow


def size_grant(
    now_ms: int, ring_s: int, longest_s: int | None, meters: Sequence[MeterWindow], rules: GrantRules
) -> Sized | Short:
    """The largest grant up to `longest_s` that the meters allow, for a call answered within `ring_s` of now.

    All of it while at least a slice stays free for other calls; a share where calls share what is left
    (`GrantRules`); never a rest that would be too short to be useful to the next call.
    """
    limited = [meter for meter in meters if meter.limit_units is not None and not meter.over]
    if longest_s is None and not limited:
        return Sized(None, tuple(_hold(meter, now_ms, ring_s, 0) for meter in meters))
    wanted_s = longest_s or LONGEST_HORIZON_S
    granted_s, bound_by = wanted_s, LONGEST_CALL
    for meter in limited:
        fits_s = _fits_s(meter, now_ms, ring_s, wanted_s, rules)
        if fits_s == 0:
            return Short(meter)
        if fits_s < granted_s:
            granted_s, bound_by = fits_s, f"allowances.{meter.rule}"
    holds = (_hold(meter, now_ms, ring_s, granted_s) for meter in meters)
    return Sized(granted_s, tuple(hold for hold in holds if hold.hold_units or hold.over), bound_by=bound_by)


def _fits_s(meter: MeterWindow, now_ms: int, ring_s: int, wanted_s: int, rules: GrantRules) -> int:
    """How much of it the meter allows. What a raised limit alone allows ends with the raise, however late answered."""
    share_s = _share_s(meter.room_s or 0, wanted_s, rules)
    fits_s = largest_grant_s(meter.window, now_ms, ring_s, share_s, wanted_s)
    raised = meter.raised
    if raised is None or raised.lower_units is None or raised.lower_from_ms is None:
        return fits_s
    if raised.lower_from_ms >= meter.window.end_ms:
        # What holds to the end of the window is all that this window knows of.
        return fits_s
    below_s = _share_s(meter.room_below_s(raised.lower_units), wanted_s, rules)
    stays_s = largest_grant_s(meter.window, now_ms, ring_s, below_s, wanted_s)
    until_s = (raised.lower_from_ms - now_ms) // MS_PER_S - ring_s
    return max(stays_s, min(fits_s, max(0, until_s)))


def size_seat(
    room: Room | None,
    from_ms: int,
    ring_s: int,
    longest_s: int | None,
    meters: Sequence[MeterWindow],
    rules: GrantRules,
) -> Sized | Short:
    """The grant of one who is in a conference from `from_ms` on, or within `ring_s` of it. longest_s: of `from_ms`.

    The room's clock runs once for all: up to where somebody in it holds its time already, a further one holds
    none of it, and what is granted ends there however late it is answered; it is renewed like any other.
    """
    if longest_s is not None:
        longest_s = max(1, longest_s - ring_s)
    latest_ms = from_ms + ring_s * MS_PER_S
    if room is None or (room.until_ms is not None and room.until_ms - latest_ms < MS_PER_S):
        return size_grant(from_ms, ring_s, longest_s, meters, rules)
    others = [meter for meter in meters if not meter.room]
    if room.until_ms is None:
        return size_grant(from_ms, ring_s, longest_s, others, rules)
    held_s = (room.until_ms - latest_ms) // MS_PER_S
    wanted_s = held_s if longest_s is None else min(longest_s, held_s)
    sized = size_grant(from_ms, ring_s, wanted_s, others, rules)
    if isinstance(sized, Sized) and sized.granted_s == held_s and held_s != longest_s:
        return replace(sized, bound_by=room.bound_by)
    return sized


def size_message(meters: Sequence[MeterWindow]) -> Sized | Short:
    """One message, on each of its meters."""
    for meter in meters:
        if meter.room_units == 0 and not meter.over:
            return Short(meter)
    return Sized(
        None,
        tuple(
            Hold(meter.allowance, meter.window, meter.limit_units, int(not meter.over), meter.over)
            for meter in meters
        ),
    )


def size_on_credit(
    terms: Terms, free_micros: int, granted_s: int, held_micros: int, rest_s: int, rules: GrantRules
) -> Sized | None:
    """How many seconds more, up to `rest_s`, the free credit pays for a call that has `granted_s` already.

    Shared among calls as an allowance is (`GrantRules`), and never less than what is billed for it anyway.
    None: not another second.
    """
    afford_s = affordable_s(terms.tariff, free_micros + held_micros, granted_s + rest_s + rules.slice_s)
    room_s = afford_s - granted_s
    if room_s <= 0 or rest_s <= 0:
        return None
    share_s = granted_s + min(rest_s, _share_s(room_s, rest_s, rules))
    hold_micros = reserve_micros(terms.tariff, share_s)
    # What that reserves may pay for more, to the end of an increment: no call is cut inside it.
    until_s = affordable_s(terms.tariff, hold_micros, granted_s + rest_s)
    bound_by = LONGEST_CALL if until_s == granted_s + rest_s else CREDIT
    return Sized(until_s - granted_s, (), hold_micros - held_micros, bound_by)


def _hold(meter: MeterWindow, now_ms: int, ring_s: int, granted_s: int) -> Hold:
    # An allowance past which calls go on reserves nothing: what is left of it when a call is settled is
    # what that call had, and the rest is charged. So no second is charged while another call gives some back.
    need_s = 0 if meter.over else most_in_window_s(meter.window, now_ms, ring_s, granted_s)
    return Hold(
        meter.allowance,
        meter.window,
        meter.limit_units,
        need_s * meter.weight,
        meter.over,
        meter.weight,
        meter.room,
    )


def _share_s(room_s: int, wanted_s: int, rules: GrantRules) -> int:
    if room_s - wanted_s >= rules.slice_s:
        return wanted_s
    share_s = max(rules.useful_s, min(room_s // 4, max(rules.slice_s, room_s // LAST_SLICES)))
    return room_s if room_s - share_s < rules.useful_s else share_s
