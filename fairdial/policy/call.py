"""The life of one dial after it was granted: legal moves, metered time, next deadline.

States are types. A call rings, talks, may pause (the called leg is gone while the caller's dialplan
goes on and may dial again), and ends once. Events carry monotonic milliseconds from the caller of
this module. `MOVES` is the table of legal moves; any other move raises IllegalMove and changes
nothing. Time is metered from answer to the end of the answered leg: ring time never counts, and a
leg that was transferred away counts until it ends.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from fairdial.policy.periods import MS_PER_S, whole_seconds


@dataclass(frozen=True, slots=True)
class Ringing:
    """Granted, not answered. granted_s None: no end is held."""

    granted_s: int | None


@dataclass(frozen=True, slots=True)
class Talking:
    """At least one answered leg is up. `talked_ms` is what earlier answers of this dial used."""

    granted_s: int | None
    legs: frozenset[str]
    since_ms: int
    talked_ms: int = 0
    caller_up: bool = True


@dataclass(frozen=True, slots=True)
class Paused:
    """No answered leg is up, the caller still is."""

    granted_s: int | None
    talked_ms: int


@dataclass(frozen=True, slots=True)
class Ended:
    """Over. used_s is 0 for a dial that was never answered, else at least 1 and at most the grant."""

    used_s: int


State = Ringing | Talking | Paused | Ended


@dataclass(frozen=True, slots=True)
class Answered:
    """`leg` answered."""

    leg: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class LegEnded:
    """An answered leg is gone."""

    leg: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class LegReplaced:
    """`leg` is gone and `by` stands in its place, as where a switch takes its own channels out of a call."""

    leg: str
    by: str


@dataclass(frozen=True, slots=True)
class CallerEnded:
    """The caller's channel is gone, or done with this dial. Answered legs may live on: a transfer."""

    at_ms: int


@dataclass(frozen=True, slots=True)
class Renewed:
    """The grant is now `granted_s` in all."""

    granted_s: int


Event = Answered | LegEnded | LegReplaced | CallerEnded | Renewed


class IllegalMove(Exception):
    """An event that cannot happen in this state; the state is unchanged."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(
            f"{type(event).__name__} cannot happen to a call that is {type(state).__name__}: {state}"
        )


def _ended(talked_ms: int, granted_s: int | None) -> Ended:
    used_s = whole_seconds(talked_ms)
    return Ended(used_s if granted_s is None else min(used_s, granted_s))


def _first_answer(state: Ringing, event: Answered) -> State:
    return Talking(state.granted_s, frozenset({event.leg}), event.at_ms)


def _further_answer(state: Talking, event: Answered) -> State:
    return replace(state, legs=state.legs | {event.leg})


def _answer_again(state: Paused, event: Answered) -> State:
    return Talking(state.granted_s, frozenset({event.leg}), event.at_ms, state.talked_ms)


def _leg_gone(state: Talking, event: LegEnded) -> State:
    if event.leg not in state.legs:
        raise IllegalMove(state, event)
    legs = state.legs - {event.leg}
    if legs:
        return replace(state, legs=legs)
    # An end that is told with an earlier time than the answer (a listing from before it) adds nothing.
    talked_ms = state.talked_ms + max(0, event.at_ms - state.since_ms)
    return Paused(state.granted_s, talked_ms) if state.caller_up else _ended(talked_ms, state.granted_s)


def _leg_replaced(state: Talking, event: LegReplaced) -> State:
    if event.leg not in state.legs:
        raise IllegalMove(state, event)
    return replace(state, legs=state.legs - {event.leg} | {event.by})


def _renewed(state: Ringing | Talking | Paused, event: Renewed) -> State:
    if state.granted_s is None or event.granted_s < state.granted_s:
        raise IllegalMove(state, event)
    return replace(state, granted_s=event.granted_s)


MOVES: dict[tuple[type[State], type[Event]], Callable[[Any, Any], State]] = {
    (Ringing, Answered): _first_answer,
    (Ringing, CallerEnded): lambda _state, _event: Ended(0),
    (Ringing, Renewed): _renewed,
    (Talking, Answered): _further_answer,
    (Talking, LegEnded): _leg_gone,
    (Talking, LegReplaced): _leg_replaced,
    (Talking, CallerEnded): lambda state, _event: replace(state, caller_up=False),
    (Talking, Renewed): _renewed,
    (Paused, Answered): _answer_again,
    (Paused, CallerEnded): lambda state, _event: _ended(state.talked_ms, state.granted_s),
    (Paused, Renewed): _renewed,
}


def advance(state: State, event: Event) -> State:
    """The state after `event`. Raises IllegalMove where the table has no such move."""
    move = MOVES.get((type(state), type(event)))
    if move is None:
        raise IllegalMove(state, event)
    return move(state, event)


def lease_end_ms(state: State) -> int | None:
    """Monotonic time at which the grant of a talking call is used up; None where nothing is running out."""
    match state:
        case Talking(granted_s=int(granted_s), since_ms=since_ms, talked_ms=talked_ms):
            return since_ms + granted_s * MS_PER_S - talked_ms
        case _:
            return None


def renew_at_ms(state: State, lead_s: int) -> int | None:
    """Next deadline: when to ask for more, `lead_s` before the lease ends, or at half of a short grant."""
    end_ms = lease_end_ms(state)
    if end_ms is None or not isinstance(state, Talking) or state.granted_s is None:
        return None
    return end_ms - min(lead_s, max(1, state.granted_s // 2)) * MS_PER_S
