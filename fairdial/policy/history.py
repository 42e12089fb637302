"""What happens to an account's calls, as the detectors are told of it, and which of its calls are in progress.

Values alone; `measures.py` says what they amount to. Instants are UTC milliseconds.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from fairdial.policy.account import Kind
from fairdial.policy.prefixes import NumberClass

LIVE_MAX: Final = 2_000
"""Calls of an account that are followed at once; further ones are counted as attempts alone."""

OUTGOING: Final = frozenset({Kind.OUTBOUND, Kind.CALLBACK, Kind.COLLECT})
INCOMING: Final = frozenset({Kind.INBOUND})
MESSAGES: Final = frozenset({Kind.MESSAGE})
CALLS: Final = frozenset(Kind) - MESSAGES - {Kind.EMERGENCY}


class Attempt(msgspec.Struct, frozen=True):
    """A dial was decided. callee: in E.164 where it is a number of the public network, else as dialled; caller: as
    the switch has it. allowed: it holds a grant, so that its end will be told. video: it offers a picture;
    codec: of its voice, "" where nobody said. text: the fingerprint of a message (`texts.py`), "" without one.
    """

    call_id: str
    at_ms: int
    account_id: str
    line_id: str
    kind: Kind
    callee: str
    caller: str
    country: str | None
    number_class: NumberClass
    allowed: bool
    video: bool = False
    codec: str = ""
    text: str = ""


class Answer(msgspec.Struct, frozen=True):
    """A call was answered."""

    call_id: str
    at_ms: int
    account_id: str


class End(msgspec.Struct, frozen=True):
    """A call is over. used_s: of talk, 0 where it was not answered; cost_micros: what was charged for it."""

    call_id: str
    at_ms: int
    account_id: str
    used_s: int
    cost_micros: int = 0


class Noted(msgspec.Struct, frozen=True):
    """Something else came up about an account: `measure` says what, `key` what is told apart, such as a network;
    of: whose it is where each line is looked at by itself.
    """

    measure: str
    at_ms: int
    account_id: str
    key: str
    of: str = ""


Event = Attempt | Answer | End | Noted


@dataclass(slots=True)
class Live:
    """A call in progress."""

    attempt: Attempt
    answered_ms: int | None = None


@dataclass(slots=True)
class Calls:
    """The calls of an account that are in progress, by call id."""

    live: dict[str, Live] = field(default_factory=dict)

    def take(self, event: Event) -> Live | None:
        """Note the event; the call that it belongs to, the one that has just ended included."""
        match event:
            case Attempt(call_id=call_id, allowed=True) if event.kind in CALLS:
                if len(self.live) < LIVE_MAX:
                    return self.live.setdefault(call_id, Live(event))
            case Answer(call_id=call_id):
                call = self.live.get(call_id)
                if call is None or call.answered_ms is not None:
                    return None  # told twice
                call.answered_ms = event.at_ms
                return call
            case End(call_id=call_id):
                return self.live.pop(call_id, None)
        return None


class InOrder:
    """Puts what happened to calls into the order of time, where it is known call by call, in the order of the dials."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, Event]] = []
        self._count = 0

    def take(self, dial: Sequence[Event]) -> Iterator[Event]:
        """A dial and all that became of it; what happened up to then, and the dial."""
        attempt, *later = dial
        while self._waiting and self._waiting[0][0] <= attempt.at_ms:
            yield heapq.heappop(self._waiting)[2]
        yield attempt
        for event in later:
            self._count += 1
            heapq.heappush(self._waiting, (event.at_ms, self._count, event))

    def rest(self) -> Iterator[Event]:
        """What happened after the last dial."""
        while self._waiting:
            yield heapq.heappop(self._waiting)[2]
