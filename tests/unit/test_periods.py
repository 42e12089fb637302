"""Windows in local time, the split of a call over them, and what must be reserved for it."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairdial.policy.periods import (
    Period,
    Window,
    cycle_named,
    fit_s,
    largest_grant_s,
    midnight_ms,
    most_in_window_s,
    split_s,
    whole_seconds,
    window_at,
    windows_over,
    zone_named,
)

LONDON, HAVANA, BEIRUT = ZoneInfo("Europe/London"), ZoneInfo("America/Havana"), ZoneInfo("Asia/Beirut")
ZONES = st.sampled_from(
    [LONDON, HAVANA, BEIRUT]
    + [ZoneInfo(name) for name in ("UTC", "Asia/Kolkata", "Pacific/Apia", "America/St_Johns", "Asia/Gaza")]
    + [ZoneInfo(name) for name in ("Australia/Lord_Howe", "Antarctica/Casey", "America/Asuncion")]
)
INSTANTS = st.integers(0, 4_102_444_800_000)  # 1970 to 2100


def ms(text: str) -> int:
    """Milliseconds of a time in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def utc(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M")


def hours(window: Window) -> float:
    return (window.end_ms - window.start_ms) / 3_600_000


@pytest.mark.parametrize(
    ("period", "zone", "at", "start", "end"),
    [
        (Period.DAY, LONDON, "2026-11-21 12:00", "2026-11-21 00:00", "2026-11-22 00:00"),
        (Period.DAY, LONDON, "2026-07-01 23:30", "2026-07-01 23:00", "2026-07-02 23:00"),
        # Clocks forward at 01:00 on 29 March 2026, back at 02:00 on 25 October.
        (Period.DAY, LONDON, "2026-03-29 12:00", "2026-03-29 00:00", "2026-03-29 23:00"),
        (Period.DAY, LONDON, "2026-10-25 00:30", "2026-10-24 23:00", "2026-10-26 00:00"),
        # Havana goes forward at midnight: the day begins at 01:00; back at 01:00: midnight comes twice.
        (Period.DAY, HAVANA, "2026-03-08 12:00", "2026-03-08 05:00", "2026-03-09 04:00"),
        (Period.DAY, HAVANA, "2026-11-01 05:30", "2026-11-01 04:00", "2026-11-02 05:00"),
        # Beirut goes back at midnight to 23:00: the last hour of Saturday comes twice.
        (Period.DAY, BEIRUT, "2026-10-24 21:30", "2026-10-23 21:00", "2026-10-24 22:00"),
        (Period.DAY, BEIRUT, "2026-03-28 22:00", "2026-03-28 22:00", "2026-03-29 21:00"),
        (Period.MONTH, LONDON, "2026-11-21 12:00", "2026-11-01 00:00", "2026-12-01 00:00"),
        (Period.MONTH, LONDON, "2026-03-31 22:59", "2026-03-01 00:00", "2026-03-31 23:00"),
        (Period.MONTH, LONDON, "2026-03-31 23:00", "2026-03-31 23:00", "2026-04-30 23:00"),
        (Period.MONTH, ZoneInfo("UTC"), "2028-02-29 23:59", "2028-02-01 00:00", "2028-03-01 00:00"),
        (Period.MONTH, ZoneInfo("UTC"), "2026-02-28 23:59", "2026-02-01 00:00", "2026-03-01 00:00"),
        (Period.MONTH, ZoneInfo("UTC"), "2026-12-31 23:59", "2026-12-01 00:00", "2027-01-01 00:00"),
        # Apia had no 30 December 2011.
        (Period.DAY, ZoneInfo("Pacific/Apia"), "2011-12-30 10:00", "2011-12-30 10:00", "2011-12-31 10:00"),
        # Toronto went forward at 23:30 of the day before: until midnight would have come, that day goes on.
        (Period.DAY, ZoneInfo("America/Toronto"), "1919-03-31 04:45", "1919-03-30 05:00", "1919-03-31 05:00"),
        # Newfoundland went back at 00:01: the last minutes of a Saturday came again after it had ended.
        (
            Period.DAY,
            ZoneInfo("America/St_Johns"),
            "1990-10-28 03:00",
            "1990-10-28 02:30",
            "1990-10-29 03:30",
        ),
    ],
)
def test_a_window_begins_and_ends_at_local_midnight(
    period: Period, zone: ZoneInfo, at: str, start: str, end: str
) -> None:
    window = window_at(period, zone, ms(at))
    assert (utc(window.start_ms), utc(window.end_ms)) == (start, end)


@pytest.mark.parametrize(
    ("zone", "at", "length"),
    [
        (LONDON, "2026-03-29 12:00", 23),
        (LONDON, "2026-10-25 12:00", 25),
        (HAVANA, "2026-03-08 12:00", 23),
        (HAVANA, "2026-11-01 12:00", 25),
        (BEIRUT, "2026-03-29 12:00", 23),
        (BEIRUT, "2026-10-24 12:00", 25),
        (ZoneInfo("Australia/Lord_Howe"), "2026-10-03 20:00", 23.5),
    ],
)
def test_a_day_of_a_clock_change_has_its_true_length(zone: ZoneInfo, at: str, length: float) -> None:
    assert hours(window_at(Period.DAY, zone, ms(at))) == length


LORD_HOWE, KOLKATA = ZoneInfo("Australia/Lord_Howe"), ZoneInfo("Asia/Kolkata")


@pytest.mark.parametrize(
    ("period", "zone", "at", "start", "minutes"),
    [
        (Period.HOUR, LONDON, "2026-11-21 12:34", "2026-11-21 12:00", 60),
        (Period.HOUR, LONDON, "2026-11-21 12:00", "2026-11-21 12:00", 60),
        # India's hours begin at the half hour of UTC.
        (Period.HOUR, KOLKATA, "2026-11-21 12:34", "2026-11-21 12:30", 60),
        # London's clock shows 01:00 to 02:00 twice on 25 October 2026: two hours, each of its own.
        (Period.HOUR, LONDON, "2026-10-25 00:30", "2026-10-25 00:00", 60),
        (Period.HOUR, LONDON, "2026-10-25 01:30", "2026-10-25 01:00", 60),
        # Lord Howe goes forward from 02:00 to 02:30, so its third hour is half as long,
        (Period.HOUR, LORD_HOWE, "2026-10-03 15:29", "2026-10-03 14:30", 60),
        (Period.HOUR, LORD_HOWE, "2026-10-03 15:30", "2026-10-03 15:30", 30),
        (Period.HOUR, LORD_HOWE, "2026-10-03 15:59", "2026-10-03 15:30", 30),
        (Period.HOUR, LORD_HOWE, "2026-10-03 16:00", "2026-10-03 16:00", 60),
        # and back from 02:00 to 01:30: the half hour that comes again is a window of its own.
        (Period.HOUR, LORD_HOWE, "2026-04-04 14:45", "2026-04-04 14:00", 60),
        (Period.HOUR, LORD_HOWE, "2026-04-04 15:00", "2026-04-04 15:00", 30),
        (Period.HOUR, LORD_HOWE, "2026-04-04 15:30", "2026-04-04 15:30", 60),
        # Newfoundland's clock went back at 00:01.
        (Period.HOUR, ZoneInfo("America/St_Johns"), "1990-10-28 02:30", "1990-10-28 02:30", 1),
        (Period.HOUR, ZoneInfo("America/St_Johns"), "1990-10-28 02:45", "1990-10-28 02:31", 59),
        (Period.MINUTE, LONDON, "2026-11-21 12:34", "2026-11-21 12:34", 1),
        (Period.MINUTE, LORD_HOWE, "2026-04-04 14:59", "2026-04-04 14:59", 1),
    ],
)
def test_an_hour_and_a_minute_are_those_of_the_local_clock(
    period: Period, zone: ZoneInfo, at: str, start: str, minutes: int
) -> None:
    window = window_at(period, zone, ms(at) + 59_999)
    assert utc(window.start_ms) == start
    assert window.end_ms - window.start_ms == minutes * 60_000


@pytest.mark.parametrize(
    ("anchor_day", "zone", "at", "start", "end"),
    [
        (1, LONDON, "2026-11-21 12:00", "2026-11-01 00:00", "2026-12-01 00:00"),
        (15, LONDON, "2026-11-15 00:00", "2026-11-15 00:00", "2026-12-15 00:00"),
        (15, LONDON, "2026-11-14 23:59", "2026-10-14 23:00", "2026-11-15 00:00"),
        (15, LONDON, "2027-01-01 12:00", "2026-12-15 00:00", "2027-01-15 00:00"),
        # Shorter months begin theirs on the last day, and the day of longer ones comes back.
        (31, LONDON, "2026-02-15 12:00", "2026-01-31 00:00", "2026-02-28 00:00"),
        (31, LONDON, "2026-02-28 00:00", "2026-02-28 00:00", "2026-03-30 23:00"),
        (31, LONDON, "2026-03-30 22:59", "2026-02-28 00:00", "2026-03-30 23:00"),
        (31, LONDON, "2026-03-30 23:00", "2026-03-30 23:00", "2026-04-29 23:00"),
        (30, LONDON, "2028-02-29 12:00", "2028-02-29 00:00", "2028-03-29 23:00"),
        (29, LONDON, "2027-02-28 12:00", "2027-02-28 00:00", "2027-03-28 23:00"),
        # Havana's 8 March 2026 has no midnight: the cycle begins at 01:00.
        (8, HAVANA, "2026-03-08 05:00", "2026-03-08 05:00", "2026-04-08 04:00"),
        (8, HAVANA, "2026-03-08 04:59", "2026-02-08 05:00", "2026-03-08 05:00"),
        # Apia had no 30 December 2011: that cycle begins where the 31st does.
        (30, ZoneInfo("Pacific/Apia"), "2011-12-30 10:00", "2011-12-30 10:00", "2012-01-29 10:00"),
    ],
)
def test_a_billing_cycle_begins_on_its_day_at_local_midnight(
    anchor_day: int, zone: ZoneInfo, at: str, start: str, end: str
) -> None:
    window = window_at(Period.CYCLE, zone, ms(at), anchor_day)
    assert (utc(window.start_ms), utc(window.end_ms)) == (start, end)


def test_the_anchor_day_is_a_day_of_a_month_and_means_nothing_to_a_month() -> None:
    assert window_at(Period.MONTH, LONDON, ms("2026-11-21 12:00"), 15) == window_at(
        Period.MONTH, LONDON, ms("2026-11-21 12:00")
    )
    for day in (0, 32):
        with pytest.raises(ValueError, match=f"anchor day {day} is no day of a month; use 1 to 31"):
            window_at(Period.CYCLE, LONDON, 0, day)


def test_a_stretch_over_cycles_and_hours_is_cut_at_each() -> None:
    cycles = windows_over(Period.CYCLE, LONDON, ms("2026-01-30 12:00"), ms("2026-03-01 12:00"), 31)
    starts = ["2025-12-31 00:00", "2026-01-31 00:00", "2026-02-28 00:00"]
    assert [utc(window.start_ms) for window in cycles] == starts
    hourly = windows_over(Period.HOUR, LORD_HOWE, ms("2026-10-03 14:45"), ms("2026-10-03 16:15"))
    assert [hours(window) for window in hourly] == [1, 0.5, 1]


@given(st.sampled_from(list(Period)), ZONES, INSTANTS, st.integers(1, 31))
def test_windows_tile_time(period: Period, zone: ZoneInfo, at_ms: int, anchor_day: int) -> None:
    window = window_at(period, zone, at_ms, anchor_day)
    assert window.start_ms <= at_ms < window.end_ms
    for inside_ms in (window.start_ms, window.end_ms - 1):
        assert window_at(period, zone, inside_ms, anchor_day) == window
    assert window_at(period, zone, window.end_ms, anchor_day).start_ms == window.end_ms
    assert window_at(period, zone, window.start_ms - 1, anchor_day).end_ms == window.start_ms


@given(ZONES, INSTANTS)
def test_no_hour_or_minute_is_longer_than_its_name(zone: ZoneInfo, at_ms: int) -> None:
    assert 0 < hours(window_at(Period.HOUR, zone, at_ms)) <= 1
    assert 0 < hours(window_at(Period.MINUTE, zone, at_ms)) * 60 <= 1


@given(ZONES, st.dates(date(1970, 1, 2), date(2099, 12, 30)))
def test_a_local_date_begins_where_its_window_does(zone: ZoneInfo, day: date) -> None:
    start_ms = midnight_ms(day, zone)
    assert window_at(Period.DAY, zone, start_ms).start_ms == start_ms
    assert datetime.fromtimestamp((start_ms - 1000) / 1000, tz=zone).date() < day


@pytest.mark.parametrize("zone", ["America/St_Johns", "Antarctica/Casey", "America/Havana", "Asia/Beirut"])
def test_windows_tile_the_hours_around_each_clock_change(zone: str) -> None:
    at = datetime(1989, 1, 1, tzinfo=UTC)
    local = ZoneInfo(zone)
    while at.year < 2030:
        at += timedelta(hours=6)
        if at.astimezone(local).utcoffset() == (at - timedelta(hours=6)).astimezone(local).utcoffset():
            continue
        for minutes in range(-36 * 60, 36 * 60, 30):
            at_ms = int((at + timedelta(minutes=minutes, seconds=17)).timestamp() * 1000)
            for period in (Period.DAY, Period.HOUR):
                window = window_at(period, local, at_ms)
                assert window.start_ms <= at_ms < window.end_ms, (period, at)
                assert window_at(period, local, window.end_ms).start_ms == window.end_ms, (period, at)


@given(ZONES, INSTANTS, st.integers(0, 3 * 86_400_000))
def test_windows_over_a_stretch_touch_all_of_it(zone: ZoneInfo, start_ms: int, length_ms: int) -> None:
    windows = windows_over(Period.DAY, zone, start_ms, start_ms + length_ms)
    assert windows[0].start_ms <= start_ms < windows[0].end_ms
    assert windows[-1].start_ms <= start_ms + length_ms < windows[-1].end_ms
    assert all(one.end_ms == other.start_ms for one, other in pairwise(windows))


def test_a_window_has_a_length() -> None:
    assert Window(1, 2).end_ms == 2
    with pytest.raises(ValueError, match="not after its start"):
        Window(2, 2)


def test_a_zone_that_is_unknown_is_named_with_the_cure() -> None:
    assert zone_named("Europe/London").key == "Europe/London"
    for name in ("London", "", "../etc/passwd", "Europe", "Europe/London\0"):
        with pytest.raises(ValueError, match="use an IANA name such as Europe/London"):
            zone_named(name)


@pytest.mark.parametrize(
    ("talked_ms", "metered_s"), [(0, 1), (1, 1), (499, 1), (1499, 1), (1500, 2), (3_049, 3), (60_000, 60)]
)
def test_seconds_are_metered_to_the_nearest_and_at_least_one(talked_ms: int, metered_s: int) -> None:
    assert whole_seconds(talked_ms) == metered_s


MIDNIGHT = ms("2026-12-01 00:00")
NOVEMBER, DECEMBER = Window(ms("2026-11-01 00:00"), MIDNIGHT), Window(MIDNIGHT, ms("2027-01-01 00:00"))


@pytest.mark.parametrize(
    ("start_ms", "used_s", "parts"),
    [
        (MIDNIGHT - 10_000, 30, (10, 20)),
        (MIDNIGHT - 10_000, 10, (10, 0)),
        (MIDNIGHT - 10_000, 11, (10, 1)),
        (MIDNIGHT - 400, 5, (0, 5)),
        (MIDNIGHT - 500, 5, (1, 4)),
        (MIDNIGHT, 5, (0, 5)),
        (MIDNIGHT + 5_000, 5, (0, 5)),
        (MIDNIGHT - 10_000, 0, (0, 0)),
    ],
)
def test_a_call_over_a_boundary_is_split_there(start_ms: int, used_s: int, parts: tuple[int, int]) -> None:
    assert split_s(start_ms, used_s, (NOVEMBER, DECEMBER)) == parts


def test_what_lies_past_the_last_window_counts_there() -> None:
    assert split_s(MIDNIGHT - 10_000, 30, (NOVEMBER,)) == (30,)
    with pytest.raises(ValueError, match="no windows"):
        split_s(0, 1, ())


@given(ZONES, INSTANTS, st.integers(0, 3 * 86_400))
def test_a_split_adds_up_to_the_call(zone: ZoneInfo, start_ms: int, used_s: int) -> None:
    windows = windows_over(Period.DAY, zone, start_ms, start_ms + used_s * 1000)
    parts = split_s(start_ms, used_s, windows)
    assert sum(parts) == used_s
    assert all(part >= 0 for part in parts)


@given(
    zone=ZONES,
    now_ms=INSTANTS,
    ring_s=st.integers(0, 600),
    grant_s=st.integers(1, 2 * 86_400),
    answered_after_ms=st.integers(0, 600_000),
    used=st.floats(0, 1),
)
def test_no_call_uses_more_of_a_window_than_was_reserved_there(
    zone: ZoneInfo, now_ms: int, ring_s: int, grant_s: int, answered_after_ms: int, used: float
) -> None:
    windows = windows_over(Period.DAY, zone, now_ms, now_ms + (ring_s + grant_s) * 1000)
    reserved = [most_in_window_s(window, now_ms, ring_s, grant_s) for window in windows]
    answered_ms = now_ms + min(answered_after_ms, ring_s * 1000)
    parts = split_s(answered_ms, round(used * grant_s), windows)
    assert all(part <= most for part, most in zip(parts, reserved, strict=True))
    assert sum(reserved) >= grant_s
    assert max(reserved) <= grant_s


WINDOWS = st.builds(
    lambda start_ms, length_ms: Window(start_ms, start_ms + length_ms),
    st.integers(-100_000, 100_000),
    st.integers(1, 200_000),
)


@given(WINDOWS, st.integers(0, 60), st.integers(0, 200), st.integers(0, 50))
def test_the_need_grows_with_the_grant(window: Window, ring_s: int, grant_s: int, more_s: int) -> None:
    need_s = most_in_window_s(window, 0, ring_s, grant_s)
    assert 0 <= need_s <= grant_s
    assert need_s <= most_in_window_s(window, 0, ring_s, grant_s + more_s)


@given(WINDOWS, st.integers(0, 60), st.integers(0, 200), st.integers(0, 200))
def test_the_largest_grant_is_the_largest(window: Window, ring_s: int, room_s: int, wanted_s: int) -> None:
    found_s = largest_grant_s(window, 0, ring_s, room_s, wanted_s)
    fitting = [s for s in range(wanted_s + 1) if most_in_window_s(window, 0, ring_s, s) <= room_s]
    assert found_s == max(fitting)


BOUNDS = st.lists(
    st.tuples(st.integers(0, 100), st.one_of(st.none(), st.integers(0, 100))), min_size=1, max_size=4
)


@given(BOUNDS)
def test_what_does_not_fit_is_moved_and_kept_while_there_is_room(
    entries: list[tuple[int, int | None]],
) -> None:
    parts, bounds = [part for part, _ in entries], [bound for _, bound in entries]
    fitted = fit_s(parts, bounds)
    assert all(bound is None or part <= bound for part, bound in zip(fitted, bounds, strict=True))
    room_s = None if None in bounds else sum(bound for bound in bounds if bound is not None)
    assert sum(fitted) == (sum(parts) if room_s is None else min(sum(parts), room_s))


def test_what_fits_stays_where_it_fell() -> None:
    assert fit_s((10, 20), (10, 20)) == (10, 20)
    assert fit_s((0, 30), (30, 10)) == (20, 10)
    assert fit_s((0, 30), (None, None)) == (0, 30)


@pytest.mark.parametrize(
    ("name", "anchor_day", "start", "end"),
    [
        ("current", 15, "2026-11-15 00:00", "2026-12-15 00:00"),
        ("current", 22, "2026-10-21 23:00", "2026-11-22 00:00"),
        ("last", 15, "2026-10-14 23:00", "2026-11-15 00:00"),
        ("last", 1, "2026-09-30 23:00", "2026-11-01 00:00"),
        # The one that begins in that month, also where the month is shorter than the day.
        ("2026-03", 15, "2026-03-15 00:00", "2026-04-14 23:00"),
        ("2026-02", 31, "2026-02-28 00:00", "2026-03-30 23:00"),
        ("2026-12", 1, "2026-12-01 00:00", "2027-01-01 00:00"),
        # The one that holds that day; its first day is its own.
        ("2026-03-14", 15, "2026-02-15 00:00", "2026-03-15 00:00"),
        ("2026-03-15", 15, "2026-03-15 00:00", "2026-04-14 23:00"),
        ("2028-02-29", 31, "2028-02-29 00:00", "2028-03-30 23:00"),
    ],
)
def test_a_billing_cycle_is_found_by_its_name(name: str, anchor_day: int, start: str, end: str) -> None:
    window = cycle_named(name, LONDON, ms("2026-11-21 12:00"), anchor_day)
    assert (utc(window.start_ms), utc(window.end_ms)) == (start, end)


@pytest.mark.parametrize(
    "name", ["", "next", "2026", "2026-13", "2026-02-30", "1999-01", "2026-1", "2026-01-01T00"]
)
def test_what_names_no_billing_cycle_is_refused_with_the_cure(name: str) -> None:
    with pytest.raises(ValueError, match="write current, last, a month such as 2026-11"):
        cycle_named(name, LONDON, ms("2026-11-21 12:00"))


@given(ZONES, INSTANTS, st.integers(1, 31))
def test_the_last_cycle_ends_where_the_current_one_begins(
    zone: ZoneInfo, now_ms: int, anchor_day: int
) -> None:
    current, last = (cycle_named(name, zone, now_ms, anchor_day) for name in ("current", "last"))
    assert current.start_ms <= now_ms < current.end_ms
    assert last.end_ms == current.start_ms
