"""Periods in an account's time zone, and what a stretch of talk uses of each.

Instants are integer milliseconds since the epoch (UTC); amounts are whole seconds. Days, months and
billing cycles begin at local midnight (CLAUSES.md, reading rules), so a day has 23, 24 or 25 hours. Minutes
and hours are those of the local clock. Leaves to others which meters exist and what they limit.
"""

import calendar
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

MS_PER_S = 1000


class Period(StrEnum):
    """Length of the window in which an allowance counts. CYCLE: a month from the account's anchor day."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    CYCLE = "cycle"


_CLOCK_MS = {Period.MINUTE: 60 * MS_PER_S, Period.HOUR: 3600 * MS_PER_S}


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """One period on the time line: [start_ms, end_ms)."""

    start_ms: int
    end_ms: int

    def __post_init__(self) -> None:
        if self.end_ms <= self.start_ms:
            raise ValueError(f"window ends at {self.end_ms}, not after its start {self.start_ms}")


def zone_named(name: str) -> ZoneInfo:
    """The IANA zone of that name. Raises ValueError that says what is wrong and how to mend it."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"time zone {name!r} is unknown; use an IANA name such as Europe/London") from error


def window_at(period: Period, zone: ZoneInfo, at_ms: int, anchor_day: int = 1) -> Window:
    """The window of `period` that holds the instant `at_ms`, in local time of `zone`.

    anchor_day: the day of the month, 1 to 31, on which billing cycles begin; in shorter months their last
    day. Of no meaning to other periods. Raises ValueError for another day.
    """
    anchor_day = _checked_anchor(anchor_day) if period is Period.CYCLE else 1
    key = period, zone, anchor_day
    # Every dial asks for the windows of now, so the one found last is nearly always the one that is wanted.
    found = _found_last.get(key)
    if found is None or not found.start_ms <= at_ms < found.end_ms:
        found = _window_at(period, zone, at_ms, anchor_day)
        if len(_found_last) < _FOUND_MAX or key in _found_last:
            _found_last[key] = found
    return found


_FOUND_MAX = 4096
_found_last: dict[tuple[Period, ZoneInfo, int], Window] = {}


def _window_at(period: Period, zone: ZoneInfo, at_ms: int, anchor_day: int) -> Window:
    if period in _CLOCK_MS:
        return _clock_window(_CLOCK_MS[period], zone, at_ms)
    first = _first_day(period, _local(zone, at_ms).date(), anchor_day)
    while at_ms < midnight_ms(first, zone):
        first = _first_day(period, first - timedelta(days=1), anchor_day)
    end_ms = midnight_ms(_following(period, first, anchor_day), zone)
    # Clocks that go back across midnight (00:01 to 23:01) show a date again that has ended already, and
    # days that a zone skips have no length: both belong to the period after.
    while at_ms >= end_ms:
        first = _following(period, first, anchor_day)
        end_ms = midnight_ms(_following(period, first, anchor_day), zone)
    return Window(midnight_ms(first, zone), end_ms)


def _local(zone: ZoneInfo, at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms // MS_PER_S, tz=UTC).astimezone(zone)


def hour_of_day(zone: ZoneInfo, at_ms: int) -> int:
    """The hour that the clock shows in `zone`, 0 to 23."""
    return _local(zone, at_ms).hour


def _checked_anchor(anchor_day: int) -> int:
    if not 1 <= anchor_day <= 31:
        raise ValueError(f"anchor day {anchor_day} is no day of a month; use 1 to 31")
    return anchor_day


def _first_day(period: Period, day: date, anchor_day: int) -> date:
    if period is Period.DAY:
        return day
    anchor = _anchor_in(day, anchor_day)
    return anchor if anchor <= day else _anchor_in(day.replace(day=1) - timedelta(days=1), anchor_day)


def _following(period: Period, first: date, anchor_day: int) -> date:
    if period is Period.DAY:
        return first + timedelta(days=1)
    return _anchor_in(first.replace(day=1) + timedelta(days=32), anchor_day)


def _anchor_in(month: date, anchor_day: int) -> date:
    return month.replace(day=min(anchor_day, calendar.monthrange(month.year, month.month)[1]))


def _clock_window(length_ms: int, zone: ZoneInfo, at_ms: int) -> Window:
    # An hour that the clock shows twice is two windows; where it is changed in mid-hour (Lord Howe, by half
    # an hour), a window ends and another begins at the change: none is longer than its name.
    offset_ms = _offset_ms(zone, at_ms)
    start_ms = at_ms - (at_ms + offset_ms) % length_ms
    end_ms = start_ms + length_ms
    if _offset_ms(zone, start_ms) != offset_ms:
        start_ms = _change_ms(zone, start_ms, at_ms)
    if _offset_ms(zone, end_ms - MS_PER_S) != offset_ms:
        end_ms = _change_ms(zone, at_ms, end_ms - MS_PER_S)
    return Window(start_ms, end_ms)


def _offset_ms(zone: ZoneInfo, at_ms: int) -> int:
    return int((_local(zone, at_ms).utcoffset() or timedelta()).total_seconds()) * MS_PER_S


def _change_ms(zone: ZoneInfo, before_ms: int, after_ms: int) -> int:
    """The first instant in (before, after] with the offset of `after`; clocks change on whole seconds."""
    low_s, high_s = before_ms // MS_PER_S, after_ms // MS_PER_S
    offset_ms = _offset_ms(zone, after_ms)
    while high_s - low_s > 1:
        middle_s = (low_s + high_s) // 2
        if _offset_ms(zone, middle_s * MS_PER_S) == offset_ms:
            high_s = middle_s
        else:
            low_s = middle_s
    return high_s * MS_PER_S


_CYCLE = re.compile(r"(20[0-9]{2}|21[0-9]{2})-([0-9]{2})(?:-([0-9]{2}))?")


def cycle_named(name: str, zone: ZoneInfo, now_ms: int, anchor_day: int = 1) -> Window:
    """The billing cycle of that name: "current"; "last", the one before; "2026-11", the one that begins in that month;
    "2026-11-27", the one that holds that day. `anchor_day` as in `window_at`. Raises ValueError with the cure.
    """
    current = window_at(Period.CYCLE, zone, now_ms, anchor_day)
    if name == "current":
        return current
    if name == "last":
        return window_at(Period.CYCLE, zone, current.start_ms - 1, anchor_day)
    match = _CYCLE.fullmatch(name)
    try:
        if match is None:
            raise ValueError(name)
        day = date(int(match[1]), int(match[2]), int(match[3] or 1))
    except ValueError:
        raise ValueError(
            f"period {name[:40]!r} is none; write current, last, a month such as 2026-11 or a day such as 2026-11-27"
        ) from None
    if match[3] is not None:
        return window_at(Period.CYCLE, zone, midnight_ms(day, zone), anchor_day)
    return window_at(Period.CYCLE, zone, midnight_ms(_following(Period.MONTH, day, 1), zone) - 1, anchor_day)


@lru_cache(maxsize=4096)  # a few days for each zone in use: every dial asks for them
def midnight_ms(day: date, zone: ZoneInfo) -> int:
    """The instant at which the local date `day` begins in `zone`."""
    # A midnight that the clocks skip (DST at 00:00) maps to the instant of the jump; one that happens
    # twice maps to the first: both are where that local date begins.
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) * MS_PER_S


def windows_over(
    period: Period, zone: ZoneInfo, start_ms: int, end_ms: int, anchor_day: int = 1
) -> tuple[Window, ...]:
    """All windows that [start_ms, end_ms] touches, in order; at least one. `anchor_day` as in `window_at`."""
    windows = [window_at(period, zone, start_ms, anchor_day)]
    while windows[-1].end_ms <= end_ms:
        windows.append(window_at(period, zone, windows[-1].end_ms, anchor_day))
    return tuple(windows)


def whole_seconds(talked_ms: int) -> int:
    """Metered seconds of an answered call: the nearest second, at least one.

    The nearest, because leases end calls some milliseconds late and that must not cost a second; at
    least one, because nothing answered goes unmetered.
    """
    return max(1, (talked_ms + MS_PER_S // 2) // MS_PER_S)


def split_s(start_ms: int, used_s: int, windows: Sequence[Window]) -> tuple[int, ...]:
    """Seconds of a talk of `used_s` from `start_ms` that fall into each window; they add up to `used_s`.

    A boundary is rounded to the nearest second of the talk. Whatever lies past the last window counts
    there, so that nothing is lost where windows were planned for a shorter call.
    """
    if not windows:
        raise ValueError("no windows to split a call over")
    parts: list[int] = []
    counted_s = 0
    for window in windows[:-1]:
        until_s = max(0, (window.end_ms - start_ms + MS_PER_S // 2) // MS_PER_S)
        part_s = max(0, min(used_s, until_s) - counted_s)
        parts.append(part_s)
        counted_s += part_s
    parts.append(used_s - counted_s)
    return tuple(parts)


def covered_ms(stretches: Iterable[tuple[int, int]], window: Window) -> int:
    """Milliseconds of the window that at least one of the stretches [from, until) covers: a room's clock."""
    total_ms, counted_until_ms = 0, window.start_ms
    for start_ms, end_ms in sorted(stretches):
        begin_ms, until_ms = max(start_ms, counted_until_ms), min(end_ms, window.end_ms)
        if until_ms > begin_ms:
            total_ms += until_ms - begin_ms
            counted_until_ms = until_ms
    return total_ms


def fit_s(parts: Sequence[int], bounds: Sequence[int | None]) -> tuple[int, ...]:
    """`parts` so that none exceeds its bound (None: there is none); the excess goes to the earliest with room.

    For a call that falls otherwise than foreseen, such as one answered later than it may ring: it counts
    where seconds were reserved for it, and no second is lost while the bounds have room for all.
    """
    fitted = [part if bound is None else min(part, bound) for part, bound in zip(parts, bounds, strict=True)]
    excess_s = sum(parts) - sum(fitted)
    for index, bound in enumerate(bounds):
        moved_s = excess_s if bound is None else min(excess_s, bound - fitted[index])
        fitted[index] += moved_s
        excess_s -= moved_s
    return tuple(fitted)


def most_in_window_s(window: Window, now_ms: int, ring_s: int, grant_s: int) -> int:
    """The most that a call of `grant_s`, answered at any time from now to `ring_s` later, can use in `window`.

    This is what must be reserved there: the time of the answer is not known when the dial is authorised.
    """
    latest_end_ms = now_ms + (ring_s + grant_s) * MS_PER_S
    first_ms = max(window.start_ms, now_ms)
    last_ms = min(window.end_ms, latest_end_ms)
    if last_ms <= first_ms:
        return 0
    # Rounded up: a boundary inside a second may give that second to either side.
    return min(grant_s, -(-(last_ms - first_ms) // MS_PER_S))


def largest_grant_s(window: Window, now_ms: int, ring_s: int, room_s: int, wanted_s: int) -> int:
    """The longest grant up to `wanted_s` whose need in `window` fits into `room_s` (0 if none does)."""
    first_ms = max(window.start_ms, now_ms)
    # Rounded up, as in `most_in_window_s`: what the window can take of any call.
    whole_s = -(-(window.end_ms - first_ms) // MS_PER_S)
    if room_s >= min(whole_s, wanted_s):
        return wanted_s
    # Where the call reaches into the window only with its end, that is all of it that needs room there.
    return max(0, min(wanted_s, max(room_s, room_s - ring_s + (first_ms - now_ms) // MS_PER_S)))
