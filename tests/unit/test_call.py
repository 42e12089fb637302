"""The life of a dial: what it may do, what it may not, what it used."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairdial.policy.call import (
    MOVES,
    Answered,
    CallerEnded,
    Ended,
    Event,
    IllegalMove,
    LegEnded,
    LegReplaced,
    Paused,
    Renewed,
    Ringing,
    State,
    Talking,
    advance,
    lease_end_ms,
    renew_at_ms,
)

ONE, TWO = frozenset({"one"}), frozenset({"one", "two"})
TALKING = Talking(60, ONE, since_ms=10_000)


@pytest.mark.parametrize(
    ("state", "event", "after"),
    [
        (Ringing(60), Answered("one", 10_000), TALKING),
        (Ringing(60), CallerEnded(9_000), Ended(0)),
        (Ringing(60), Renewed(90), Ringing(90)),
        (TALKING, Answered("two", 12_000), Talking(60, TWO, 10_000)),
        (TALKING, Renewed(90), Talking(90, ONE, 10_000)),
        (TALKING, LegEnded("one", 14_000), Paused(60, 4_000)),
        (TALKING, CallerEnded(14_000), Talking(60, ONE, 10_000, caller_up=False)),
        (Talking(60, ONE, 10_000, 0, False), LegEnded("one", 15_000), Ended(5)),
        (Talking(60, TWO, 10_000), LegEnded("two", 15_000), Talking(60, ONE, 10_000)),
        # A switch takes its own channel out of the call: the talk goes on, on the leg that stands in its place.
        (TALKING, LegReplaced("one", "two"), Talking(60, frozenset({"two"}), 10_000)),
        (Talking(60, TWO, 10_000), LegReplaced("one", "two"), Talking(60, frozenset({"two"}), 10_000)),
        (Paused(60, 4_000), Answered("two", 20_000), Talking(60, frozenset({"two"}), 20_000, 4_000)),
        (Paused(60, 4_000), CallerEnded(30_000), Ended(4)),
        (Paused(60, 4_000), Renewed(70), Paused(70, 4_000)),
        # Never more than was granted, never nothing for what was answered.
        (Paused(60, 61_200), CallerEnded(99_000), Ended(60)),
        (Paused(None, 61_200), CallerEnded(99_000), Ended(61)),
        (Paused(60, 0), CallerEnded(99_000), Ended(1)),
        # A listing from before the answer says that the leg is not there: time does not run backwards.
        (TALKING, LegEnded("one", 9_000), Paused(60, 0)),
        # Told twice, as a listing repeats what an event said.
        (Talking(60, ONE, 10_000, 0, False), CallerEnded(15_000), Talking(60, ONE, 10_000, 0, False)),
    ],
)
def test_a_legal_move(state: State, event: Event, after: State) -> None:
    assert advance(state, event) == after


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (Ringing(60), LegEnded("one", 1)),
        (TALKING, LegEnded("other", 1)),
        (TALKING, LegReplaced("other", "two")),
        (Ringing(60), LegReplaced("one", "two")),
        (Paused(60, 1), LegReplaced("one", "two")),
        (Ended(5), LegReplaced("one", "two")),
        (Paused(60, 1), LegEnded("one", 1)),
        (Ended(5), Answered("one", 1)),
        (Ended(5), LegEnded("one", 1)),
        (Ended(5), CallerEnded(1)),
        (Ended(5), Renewed(90)),
        (TALKING, Renewed(59)),
        (Ringing(None), Renewed(90)),
    ],
)
def test_an_illegal_move_is_told_with_state_and_event(state: State, event: Event) -> None:
    with pytest.raises(IllegalMove, match=f"{type(event).__name__} cannot happen .* {type(state).__name__}"):
        advance(state, event)


def test_nothing_follows_the_end() -> None:
    assert not [state for state, _ in MOVES if state is Ended]


def test_talk_over_two_answers_is_added_up() -> None:
    state: State = Ringing(60)
    for event in (
        Answered("one", 1_000),
        LegEnded("one", 4_000),
        Answered("two", 100_000),
        CallerEnded(102_000),
        LegEnded("two", 107_000),
    ):
        state = advance(state, event)
    assert state == Ended(10)


def test_a_lease_ends_when_the_grant_is_used_up() -> None:
    assert lease_end_ms(TALKING) == 70_000
    assert lease_end_ms(Talking(60, ONE, 20_000, talked_ms=4_000)) == 76_000
    for state in (Ringing(60), Paused(60, 1), Ended(1), Talking(None, ONE, 10_000)):
        assert lease_end_ms(state) is None


@pytest.mark.parametrize(("granted_s", "due_ms"), [(60, 65_000), (10, 15_000), (4, 12_000), (1, 10_000)])
def test_more_is_asked_for_before_the_lease_ends(granted_s: int, due_ms: int) -> None:
    assert renew_at_ms(Talking(granted_s, ONE, 10_000), lead_s=5) == due_ms


def test_where_nothing_runs_out_nothing_is_asked_for() -> None:
    for state in (Ringing(60), Paused(60, 1), Ended(1), Talking(None, ONE, 10_000)):
        assert renew_at_ms(state, lead_s=5) is None


EVENTS = st.one_of(
    st.builds(Answered, st.sampled_from(["one", "two"]), st.integers(0, 100_000)),
    st.builds(LegEnded, st.sampled_from(["one", "two"]), st.integers(0, 100_000)),
    st.builds(LegReplaced, st.sampled_from(["one", "two"]), st.sampled_from(["one", "two"])),
    st.builds(CallerEnded, st.integers(0, 100_000)),
    st.builds(Renewed, st.integers(1, 100)),
)


@given(st.one_of(st.none(), st.integers(1, 60)), st.lists(EVENTS, max_size=12))
def test_no_order_of_events_uses_more_than_was_granted(granted_s: int | None, events: list[Event]) -> None:
    state: State = Ringing(granted_s)
    answered, most_s = False, granted_s
    for event in events:
        try:
            state = advance(state, event)
        except IllegalMove:
            continue
        answered = answered or isinstance(event, Answered)
        if isinstance(event, Renewed):
            most_s = event.granted_s
    if isinstance(state, Ended):
        assert (state.used_s > 0) == answered
        assert most_s is None or state.used_s <= most_s
    elif isinstance(state, Paused):
        assert state.talked_ms >= 0
