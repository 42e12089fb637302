"""What each measure amounts to: against the plain definition over all calls, and where it begins and ends to speak."""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean, median
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from fairdial.policy.account import Kind
from fairdial.policy.history import Answer, Attempt, Calls, End, Event, Noted
from fairdial.policy.measures import MEASURES, Setting
from fairdial.policy.prefixes import NumberClass
from fairdial.policy.sliding import KEPT_MAX

LONDON = ZoneInfo("Europe/London")
HOUR_MS = 3_600_000
NOON_MS = 1_796_040_000_000  # 2026-11-30 12:00 UTC


def attempt(
    number: int,
    at_ms: int,
    callee: str = "+442079460000",
    *,
    kind: Kind = Kind.OUTBOUND,
    line: str = "alice",
    caller: str = "",
    country: str | None = "GB",
    allowed: bool = True,
) -> Attempt:
    return Attempt(
        f"c{number}", at_ms, "acme", line, kind, callee, caller, country, NumberClass.GEOGRAPHIC, allowed
    )


def run(
    measure: str, events: Sequence[Event], now_ms: int, *, window_ms: int = HOUR_MS, **settings: int
) -> float | None:
    """The value after these events."""
    known, calls = MEASURES[measure], Calls()
    assert known.make is not None
    setting = Setting(
        window_ms, settings.get("seconds", known.seconds), settings.get("at_least", known.at_least), LONDON
    )
    taken = known.make(setting)
    for event in events:
        taken.see(event, calls.take(event))
    return taken.value(now_ms)


def whole(
    number: int, at_ms: int, talk_s: int | None, callee: str = "+442079460000", **fields: object
) -> list[Event]:
    """A call from dial to end; talk_s None: not answered."""
    dialled = attempt(number, at_ms, callee, **fields)  # type: ignore[arg-type]
    if talk_s is None:
        return [dialled, End(dialled.call_id, at_ms + 20_000, "acme", 0)]
    answered_ms = at_ms + 5_000
    return [
        dialled,
        Answer(dialled.call_id, answered_ms, "acme"),
        End(dialled.call_id, answered_ms + talk_s * 1000, "acme", talk_s, talk_s * 100),
    ]


histories = st.lists(
    st.tuples(
        st.integers(0, 600_000),  # after the one before
        st.sampled_from([f"+4420794600{n:02}" for n in range(12)]),
        st.one_of(st.none(), st.integers(0, 40)),
    ),
    max_size=60,
)


@given(histories)
def test_what_slides_is_what_a_count_from_the_start_gives(
    history: list[tuple[int, str, int | None]],
) -> None:
    at_ms, calls = NOON_MS, []
    for number, (gap_ms, callee, talk_s) in enumerate(history):
        at_ms += gap_ms
        calls.append((whole(number, at_ms, talk_s, callee), callee, talk_s))
    # One after the other, so that a call's end comes before the next is dialled.
    events: list[Event] = []
    shift_ms = 0
    starts = list[tuple[int, str]]()
    ends = list[tuple[int, int | None]]()
    for made, callee, talk_s in calls:
        for event in made:
            events.append(replace(event, at_ms=event.at_ms + shift_ms))
        starts.append((events[-len(made)].at_ms, callee))
        ends.append((events[-1].at_ms, talk_s))
        shift_ms += made[-1].at_ms - made[0].at_ms
    now_ms = events[-1].at_ms if events else NOON_MS
    inside = [callee for at, callee in starts if at > now_ms - HOUR_MS]
    talks = [talk for at, talk in ends if at > now_ms - HOUR_MS and talk is not None]
    ended = [talk for at, talk in ends if at > now_ms - HOUR_MS]
    assert run("attempts", events, now_ms) == len(inside)
    assert run("distinct_callees", events, now_ms) == len(set(inside))
    assert run("talk_s", events, now_ms) == sum(talks)
    assert run("cost", events, now_ms) == pytest.approx(sum(talks) / 10_000)
    answered = len(talks) / len(ended) if ended else None
    assert run("answer_ratio", events, now_ms, at_least=1) == answered
    short = sum(talk < 10 for talk in talks) / len(talks) if talks else None
    assert run("short_call_ratio", events, now_ms, at_least=1) == short
    assert run("mean_talk_s", events, now_ms, at_least=1) == (fmean(talks) if talks else None)
    assert run("median_talk_s", events, now_ms, at_least=1) == (median(talks) if talks else None)
    hundreds = Counter(number[:-2] for number in set(inside))
    assert run("dense_numbers", events, now_ms) == max(hundreds.values(), default=0)


def test_what_is_older_than_the_window_counts_no_more() -> None:
    events = whole(1, NOON_MS, 30)
    assert run("attempts", events, NOON_MS + HOUR_MS - 1) == 1
    assert run("attempts", events, NOON_MS + HOUR_MS) == 0


def test_a_ratio_says_nothing_of_few_calls() -> None:
    events = [event for n in range(29) for event in whole(n, NOON_MS + n * 60_000, 3)]
    now_ms = events[-1].at_ms
    assert run("short_call_ratio", events, now_ms) is None
    more = [*events, *whole(29, now_ms + 1, 3)]
    assert run("short_call_ratio", more, more[-1].at_ms) == 1.0
    assert run("short_call_ratio", more, more[-1].at_ms, seconds=3) == 0.0


def test_calls_at_once_are_those_that_have_not_ended() -> None:
    dialled = [attempt(n, NOON_MS + n) for n in range(3)]
    assert run("simultaneous_calls", dialled, NOON_MS + 9) == 3
    ended: list[Event] = [*dialled, End("c1", NOON_MS + 10, "acme", 0), End("c1", NOON_MS + 11, "acme", 0)]
    assert run("simultaneous_calls", ended, NOON_MS + 12) == 2
    refused = [attempt(n, NOON_MS + n, allowed=False) for n in range(3)]
    assert run("simultaneous_calls", refused, NOON_MS + 9) == 0


def test_calls_to_one_number_are_told_from_calls_to_several() -> None:
    to_one = [attempt(n, NOON_MS + n, "+442079460001") for n in range(4)]
    to_many = [attempt(n, NOON_MS + n, f"+44207946000{n}") for n in range(4)]
    assert run("simultaneous_to_one", to_one, NOON_MS + 9) == 4
    assert run("simultaneous_to_one", to_many, NOON_MS + 9) == 1


def test_forwarded_calls_come_in_for_a_line_and_go_on_to_one_number() -> None:
    events: list[Event] = []
    for n in range(3):
        events.append(attempt(2 * n, NOON_MS + 10 * n, "+442079460999", kind=Kind.INBOUND))
        events.append(attempt(2 * n + 1, NOON_MS + 10 * n + 1, "+442079461111"))
    assert run("simultaneous_forwarded_calls", events, NOON_MS + 99) == 3
    # The same out and in, but of two lines.
    other = [
        attempt(9, NOON_MS, "+442079461111", line="bob"),
        *[event for event in events if isinstance(event, Attempt) and event.kind is Kind.INBOUND],
    ]
    assert run("simultaneous_forwarded_calls", other, NOON_MS + 99) == 0
    over = [*events, *(End(f"c{n}", NOON_MS + 50, "acme", 1) for n in range(6))]
    assert run("simultaneous_forwarded_calls", over, NOON_MS + 99) == 0


def test_callers_of_one_line_are_counted_by_line() -> None:
    def came_in(line_of: Sequence[str]) -> list[Event]:
        return [
            attempt(n, NOON_MS + n, kind=Kind.INBOUND, line=line, caller=f"+4479000000{n}")
            for n, line in enumerate(line_of)
        ]

    assert run("simultaneous_callers", came_in(["a"] * 5), NOON_MS + 9) == 5
    assert run("simultaneous_callers", came_in(["a", "b", "c", "a", "b"]), NOON_MS + 9) == 2
    assert run("distinct_callers", came_in(["a"] * 5), NOON_MS + 9) == 5
    assert run("distinct_callers", came_in(["a", "b", "c", "d", "e"]), NOON_MS + 9) == 1


def dialled_in_turn(numbers: Sequence[int], gap_ms: int = 7_000) -> list[Event]:
    return [attempt(n, NOON_MS + n * gap_ms, f"+{number}") for n, number in enumerate(numbers)]


@pytest.mark.parametrize(
    ("numbers", "in_sequence"),
    [
        (range(442079460000, 442079460020), 20),
        (range(442079460020, 442079460000, -1), 20),
        (range(442079460000, 442079462000, 100), 20),
        # A gap here and there, and the same number twice.
        ([442079460000, 442079460001, 442079460003, 442079460003, 442079460007, 442079460008], 5),
        # Numbers of friends.
        ([442079460000, 441614960123, 442079460000, 447700900123, 441614960123, 442079460000], 0),
        # A sequence that is broken off begins again.
        ([*range(442079460000, 442079460009), 447700900123, *range(442079460100, 442079460104)], 4),
        # To and fro between neighbours.
        ([442079460000, 442079460001] * 6, 0),
    ],
)
def test_numbers_in_sequence(numbers: Sequence[int], in_sequence: int) -> None:
    events = dialled_in_turn(numbers)
    assert run("sequential_numbers", events, events[-1].at_ms) == in_sequence


def test_a_sequence_that_was_long_ago_is_forgotten() -> None:
    known, calls = MEASURES["sequential_numbers"], Calls()
    assert known.make is not None
    taken = known.make(Setting(HOUR_MS, 0, 0, LONDON))
    for event in dialled_in_turn(range(442079460000, 442079460009)):
        taken.see(event, calls.take(event))
    assert taken.value(NOON_MS + 2 * HOUR_MS) == 0
    taken.see(attempt(99, NOON_MS + 2 * HOUR_MS, "+442079460009"), None)
    assert taken.value(NOON_MS + 2 * HOUR_MS) == 0


def test_numbers_of_one_hundred_count_in_any_order() -> None:
    shuffled = [442079460000 + (n * 37) % 100 for n in range(30)]
    events = dialled_in_turn(shuffled)
    assert run("dense_numbers", events, events[-1].at_ms) == 30
    in_sequence = run("sequential_numbers", events, events[-1].at_ms)
    assert in_sequence is not None
    assert in_sequence < 5
    by_people = dialled_in_turn([442079460000 + n * n * 7919 for n in range(30)])
    assert run("dense_numbers", by_people, by_people[-1].at_ms) == 1


@pytest.mark.parametrize(
    ("gaps_ms", "regular"),
    [
        ([10_000] * 30, 31),
        ([10_000, 10_400, 9_700, 10_200] * 8, 33),
        ([200, 100, 150, 50] * 8, 33),
        ([60_000, 900_000, 45_000, 300_000, 20_000] * 4, 0),
        ([10_000] * 20 + [600_000] + [10_000] * 4, 5),
    ],
)
def test_dials_at_regular_intervals(gaps_ms: Sequence[int], regular: int) -> None:
    at_ms, events = NOON_MS, [attempt(0, NOON_MS)]
    for number, gap_ms in enumerate(gaps_ms, 1):
        at_ms += gap_ms
        events.append(attempt(number, at_ms))
    assert run("regular_attempts", events, at_ms, window_ms=24 * HOUR_MS) == regular


def test_a_first_seen_country_is_told_only_once_the_account_is_known() -> None:
    known = [event for n in range(30) for event in whole(n, NOON_MS + n * 300_000, 60, country="GB")]
    abroad = [attempt(90 + n, known[-1].at_ms + n, country=c) for n, c in enumerate(["LV", "SO", "GB"], 1)]
    assert run("new_countries", [*known, *abroad], known[-1].at_ms + 9) == 2
    # The same in its first hour.
    assert run("new_countries", [*known[:6], *abroad], known[-1].at_ms + 9) == 0
    assert (
        run("new_callees", [*known, attempt(99, known[-1].at_ms + 1, "+37120000000")], known[-1].at_ms + 2)
        == 1
    )


def test_long_calls_to_one_range_are_told_from_short_ones_and_from_others() -> None:
    def to(numbers: Sequence[str], talk_s: int) -> list[Event]:
        return [
            event
            for n, number in enumerate(numbers)
            for event in whole(n, NOON_MS + n * 400_000, talk_s, number)
        ]

    range_of = [f"+25290611{n:04}" for n in (17, 423, 9981, 4)]
    for numbers, talk_s, count in (
        (range_of, 300, 4),
        (range_of, 299, 0),
        ([*range_of[:1], "+3712611111"], 900, 1),
    ):
        events = to(numbers, talk_s)
        assert run("long_calls_to_range", events, events[-1].at_ms) == count


def test_calls_at_hours_at_which_the_account_hardly_calls() -> None:
    workday = [attempt(n, NOON_MS + (n % 60) * 60_000 + (n // 60) * 24 * HOUR_MS) for n in range(240)]
    night_ms = workday[-1].at_ms + 14 * HOUR_MS
    at_night = [attempt(900 + n, night_ms + n * 1000) for n in range(2)]
    assert run("odd_hour_calls", [*workday, *at_night], night_ms + 5000, window_ms=24 * HOUR_MS) == 2
    assert run("odd_hour_calls", workday, workday[-1].at_ms, window_ms=24 * HOUR_MS) == 0


def test_codecs_are_those_of_one_line() -> None:
    codecs = [("alice", "ulaw"), ("alice", "g722"), ("bob", "opus"), ("alice", "ulaw"), ("bob", "")]
    events = [
        replace(attempt(n, NOON_MS + n, line=line), codec=codec) for n, (line, codec) in enumerate(codecs)
    ]
    assert run("codecs_of_a_line", events, NOON_MS + 9) == 2


def test_what_is_noted_counts_by_line() -> None:
    from_networks = [
        Noted("networks_of_a_line", NOON_MS + n, "acme", f"192.0.{n}.0/24", of="alice" if n < 3 else "bob")
        for n in range(5)
    ]
    assert run("networks_of_a_line", from_networks, NOON_MS + 9) == 3
    guesses = [Noted("failed_logins", NOON_MS + n, "acme", "192.0.2.1", of="alice") for n in range(4)]
    assert run("failed_logins", guesses, NOON_MS + 9) == 4
    assert run("failed_logins", from_networks, NOON_MS + 9) == 0


def test_what_is_kept_is_bounded() -> None:
    events = [
        attempt(n, NOON_MS + n, f"+{442000000000 + n * 1009}", allowed=False) for n in range(KEPT_MAX + 500)
    ]
    assert run("attempts", events, events[-1].at_ms) == KEPT_MAX
    assert run("distinct_callees", events, events[-1].at_ms) == KEPT_MAX


def test_emergency_calls_are_no_part_of_any_measure() -> None:
    events: list[Event] = [attempt(n, NOON_MS + n * 1000, "112", kind=Kind.EMERGENCY) for n in range(40)]
    values = {
        name: run(name, events, NOON_MS + 60_000, at_least=1)
        for name, known in MEASURES.items()
        if known.make
    }
    assert {name: value for name, value in values.items() if value} == {}


def texted(number: int, callee: str, text: str, line: str = "alice", at_ms: int = NOON_MS) -> Attempt:
    return replace(attempt(number, at_ms, callee, kind=Kind.MESSAGE, line=line), text=text)


def test_recipients_of_one_text_are_counted_once_each_over_all_lines() -> None:
    sent = [texted(n, f"+4479123456{n % 30:02}", "a", line=f"line-{n % 3}") for n in range(60)]
    others = [texted(100 + n, f"+4479123457{n:02}", f"text-{n}") for n in range(50)]
    bare = [texted(200 + n, f"+4479123458{n:02}", "") for n in range(50)]
    assert run("same_text_recipients", sent + others + bare, NOON_MS) == 30
    assert run("same_text_recipients", bare, NOON_MS) == 0
    assert run("same_text_recipients", sent, NOON_MS + HOUR_MS) == 0


def test_different_recipients_of_a_lines_messages_are_counted_and_calls_are_not() -> None:
    sent: list[Event] = [texted(n, f"+4479123456{n % 20:02}", "") for n in range(40)]
    other: list[Event] = [texted(100 + n, f"+4479123457{n:02}", "", line="bob") for n in range(10)]
    called: list[Event] = [attempt(200 + n, NOON_MS, f"+4479123458{n:02}") for n in range(30)]
    assert run("message_recipients", sent + other + called, NOON_MS) == 20
    assert run("distinct_callees", sent, NOON_MS) == 0


def test_what_is_kept_of_texts_is_bounded() -> None:
    sent = [texted(n, f"+4479{n:08}", f"text-{n}", at_ms=NOON_MS + n) for n in range(KEPT_MAX + 500)]
    assert run("same_text_recipients", sent, NOON_MS + len(sent)) == 1
    blast = [texted(n, f"+4479{n:08}", "a", at_ms=NOON_MS + n) for n in range(KEPT_MAX + 500)]
    assert run("same_text_recipients", blast, NOON_MS + len(blast)) == KEPT_MAX
