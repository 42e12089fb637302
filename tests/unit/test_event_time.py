"""Events keep the distance in time that they had at the switch, however late they are read."""

from datetime import UTC, datetime

from ari_handlers.event_time import BUCKET_MS, EventTime
from fairdial.clock import Moment

NOON_MS = int(datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp() * 1000)


def stamp(after_ms: int, skew_ms: int = 0) -> str:
    at = datetime.fromtimestamp((NOON_MS + after_ms + skew_ms) / 1000, UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}+0000"


def read(after_ms: int, clock_set_ms: int = 0) -> Moment:
    return Moment(NOON_MS + after_ms + clock_set_ms, 5_000 + after_ms)


def test_events_read_at_once_happened_when_they_were_read() -> None:
    times = EventTime(read(0))
    assert times.happened(stamp(0), read(0)) == read(0)
    assert times.happened(stamp(3_000), read(3_000)) == read(3_000)


def test_events_read_late_keep_their_distance() -> None:
    times = EventTime(read(0))
    times.happened(stamp(0), read(0))
    answered = times.happened(stamp(1_000), read(9_000))
    ended = times.happened(stamp(4_000), read(9_000))
    assert (answered.mono_ms, ended.mono_ms) == (read(1_000).mono_ms, read(4_000).mono_ms)
    assert ended.wall_ms - answered.wall_ms == 3_000


def test_a_clock_that_is_set_in_mid_call_changes_no_length() -> None:
    times = EventTime(read(0))
    answered = times.happened(stamp(0), read(0))
    ended = times.happened(stamp(10_000, skew_ms=-3_600_000), read(10_000, clock_set_ms=-3_600_000))
    assert ended.mono_ms - answered.mono_ms == 10_000


def test_a_switch_whose_clock_is_ahead_or_behind_is_read_right() -> None:
    for skew_ms in (-90_000, 90_000):
        times = EventTime(read(0))
        times.happened(stamp(0, skew_ms), read(0))
        late = times.happened(stamp(1_000, skew_ms), read(3_000))
        assert late == read(1_000)


def test_clocks_that_drift_apart_are_followed() -> None:
    times = EventTime(read(0))
    for minute in range(60):
        # The switch loses 20 ms a minute; nothing is delayed.
        at_ms, skew_ms = minute * BUCKET_MS, -20 * minute
        times.happened(stamp(at_ms, skew_ms), read(at_ms), read(at_ms))
        seen = times.happened(stamp(at_ms, skew_ms), read(at_ms))
        assert 0 <= read(at_ms).mono_ms - seen.mono_ms <= 40


def test_what_is_no_timestamp_counts_as_now() -> None:
    times = EventTime(read(0))
    assert times.happened("", read(7)) == read(7)
    assert times.happened("yesterday", read(8)) == read(8)


def test_a_connection_that_begins_with_events_that_waited_dates_them_right() -> None:
    """The process was held up for 4 s: what it reads first is as old as all that it reads."""
    times = EventTime(read(0))
    answered = times.happened(stamp(500), read(4_000))
    greeting = times.happened(stamp(510), read(4_000), read(10))
    ended = times.happened(stamp(2_500), read(4_000))
    assert [each.mono_ms for each in (answered, greeting, ended)] == [
        read(after_ms).mono_ms for after_ms in (500, 510, 2_500)
    ]
    assert times.happened(stamp(5_000), read(5_000)) == read(5_000)


def test_clocks_that_cannot_be_one_are_not_taken_for_one() -> None:
    """A switch that is 10 s behind or ahead, and no delay: what is read was just now."""
    for skew_ms in (-10_000, 10_000):
        times = EventTime(read(0))
        assert times.happened(stamp(20, skew_ms), read(20), read(10)) == read(20)
        assert times.happened(stamp(900, skew_ms), read(3_900)) == read(900)


def test_after_a_clock_was_set_only_an_answer_says_that_the_clocks_are_one() -> None:
    times = EventTime(read(0))
    times.happened(stamp(0), read(0), read(0))
    # An hour on, the switch's clock is set back by ten minutes: the connection is older than that.
    hour_ms = 3_600_000
    times.happened(stamp(hour_ms), read(hour_ms), read(hour_ms - 5))
    for after_ms in (2_000, 4_000):
        at_ms = hour_ms + after_ms
        assert times.happened(stamp(at_ms, skew_ms=-600_000), read(at_ms)) == read(at_ms)
    late = times.happened(stamp(hour_ms + 5_000, skew_ms=-600_000), read(hour_ms + 7_000))
    assert late == read(hour_ms + 5_000)
