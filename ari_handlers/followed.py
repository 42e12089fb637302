"""Calls that are followed: their ids, channels, state and timers, and which calls a channel belongs to.

One owner each: the queue of its call. What is done with them is `dial.py`'s.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from ari_handlers import events
from ari_handlers.queues import CallQueue, CallQueues
from fairdial.clock import Moment
from fairdial.ledger.contract import Grant, GrantState
from fairdial.policy.account import Kind
from fairdial.policy.call import (
    Answered,
    CallerEnded,
    Ended,
    Event,
    IllegalMove,
    Ringing,
    State,
    Talking,
    advance,
    lease_end_ms,
)

log = structlog.get_logger(__name__)

# Dials of the dialplan end in the count of its questions.
_PLACED_HERE = "-own"
_BRIDGE, _SECOND_LEG = "own-pair-", "-second"


def own_call_of(channel_id: str) -> str:
    """Id of the call that FairDial itself places; its first leg, or its only one, is that channel."""
    return f"{channel_id}{_PLACED_HERE}"


def placed_here(call_id: str) -> bool:
    """Whether FairDial itself places that call: it brings its two legs together, or its one leg into a conference."""
    return call_id.endswith(_PLACED_HERE)


def bridge_of(call_id: str) -> str:
    """Id of the bridge in which FairDial holds the two legs of a call."""
    return f"{_BRIDGE}{call_id}"


def second_leg_of(call_id: str) -> str:
    """Id of the leg that FairDial rings for a call's first leg; known from the call, also after a restart."""
    return f"{call_id}{_SECOND_LEG}"


def call_of_bridge(bridge_id: str) -> str | None:
    """The call whose bridge that is; None: none of these."""
    call_id = bridge_id.removeprefix(_BRIDGE)
    return call_id if bridge_id.startswith(_BRIDGE) and placed_here(call_id) else None


def call_of_second_leg(channel_id: str) -> str | None:
    """The call whose second leg that is; None: none of these."""
    call_id = channel_id.removesuffix(_SECOND_LEG)
    return call_id if channel_id.endswith(_SECOND_LEG) and placed_here(call_id) else None


def _nobody(_call: "DialCall") -> None:
    """Hears of a call that is not followed."""


@dataclass(slots=True, eq=False)
class DialCall:
    """One dial that holds a grant.

    since: when it was dialled; of one in a conference, when it came in. limit_s: the longest that it may last,
    None: any length. bridged: FairDial holds its two legs in a bridge; they end together. last: there is no more
    to be had after the present lease. warned: the warnings that were given, by how many seconds before the end.
    bound_by: the rule of the policy at which the present lease ends. estimated: not all of it was seen; end_unseen: not
    how it ended. gap: events may have been missed since it was last compared with the switch. legs_since: when each leg
    answered (monotonic). moved: hears of each move.
    """

    call_id: str
    channel: str
    queue: CallQueue
    state: State
    kind: Kind
    account_id: str
    line_id: str
    dialled: str
    since: Moment
    limit_s: int | None
    bound_by: str = ""
    names: dict[str, str] = field(default_factory=dict)
    estimated: bool = False
    end_unseen: bool = False
    gap: bool = False
    legs_since: dict[str, int] = field(default_factory=dict)
    missing: bool = False
    bridged: bool = False
    last: bool = False
    warned: set[int] = field(default_factory=set)
    timer: asyncio.TimerHandle | None = None
    warning: asyncio.TimerHandle | None = None
    moved: "Callable[[DialCall], None]" = _nobody

    @property
    def legs(self) -> frozenset[str]:
        """Answered legs that are up."""
        return self.state.legs if isinstance(self.state, Talking) else frozenset()

    @property
    def caller_up(self) -> bool:
        """Whether the caller's channel still belongs to this dial."""
        return self.state.caller_up if isinstance(self.state, Talking) else not isinstance(self.state, Ended)

    @property
    def channels(self) -> frozenset[str]:
        """The answered legs, and the caller's channel while it belongs to this dial."""
        return self.legs | {self.channel} if self.caller_up else self.legs

    @property
    def ends_together(self) -> frozenset[str]:
        """Channels that end together where FairDial itself holds them in a bridge."""
        return self.channels | {second_leg_of(self.call_id)}

    def advance(self, event: Event) -> bool:
        """Move on; False where the event cannot happen now, which changes nothing."""
        try:
            self.state = advance(self.state, event)
        except IllegalMove as error:
            log.warning("event_out_of_place", call=self.call_id, error=str(error))
            return False
        if isinstance(event, Answered):
            self.legs_since[event.leg] = event.at_ms
        self.moved(self)
        return True

    @classmethod
    def of_grant(
        cls, grant: Grant, queue: CallQueue, up: Mapping[str, events.ChannelInfo], now: Moment
    ) -> "DialCall":
        """The call of a live grant, some of whose channels are `up`, followed from now on."""
        since_ms = grant.authorised_ms
        if grant.kind is Kind.CONFERENCE and grant.answered_ms is not None:
            since_ms = grant.answered_ms
        call = cls(
            grant.call_id,
            grant.channel,
            queue,
            Ringing(grant.granted_s),
            grant.kind,
            grant.account_id,
            grant.line_id,
            grant.dialled,
            Moment(since_ms, now.mono_ms - (now.wall_ms - since_ms)),
            grant.longest_s,
            grant.bound_by,
            {info.id: info.name for info in up.values()},
        )
        leg = _leg_of(grant, up)
        if leg is not None:
            start_ms = grant.answered_ms if grant.answered_ms is not None else grant.authorised_ms
            call.estimated = leg != grant.leg
            call.advance(Answered(leg, now.mono_ms - (now.wall_ms - start_ms)))
        if grant.channel not in up and leg is not None:
            call.advance(CallerEnded(now.mono_ms))
        return call


def _leg_of(grant: Grant, up: Mapping[str, events.ChannelInfo]) -> str | None:
    if grant.state is GrantState.TALKING:
        return grant.leg if grant.leg in up else grant.channel
    # It may have been answered while nobody watched: `Dials.refresh` looks for it.
    return None


class FollowedCalls:
    """All calls that are followed, by id and by channel. Bounded by the queues."""

    def __init__(self, queues: CallQueues) -> None:
        self._queues = queues
        self.by_id: dict[str, DialCall] = {}
        self._by_queue: dict[CallQueue, list[DialCall]] = {}
        # Legs whose events come on the queue of another dial, until they or the dial are gone.
        self._shared: dict[str, list[DialCall]] = {}
        self._on_move: list[Callable[[DialCall], None]] = []
        self._on_drop: list[Callable[[DialCall], None]] = []

    def on_change(self, moved: Callable[[DialCall], None], dropped: Callable[[DialCall], None]) -> None:
        """Tell `moved` of each call that is taken or moves on, `dropped` of each that is followed no longer."""
        self._on_move.append(moved)
        self._on_drop.append(dropped)

    def _moved(self, call: DialCall) -> None:
        for told in self._on_move:
            told(call)

    def take(self, call: DialCall) -> None:
        """Follow a call; its queue stays open for it."""
        self.by_id[call.call_id] = call
        self._by_queue.setdefault(call.queue, []).append(call)
        call.queue.reopen()
        call.moved = self._moved
        self._moved(call)

    def drop(self, call: DialCall) -> None:
        """Follow it no longer."""
        followed = self.by_id.pop(call.call_id, None)
        call.moved = _nobody
        for told in self._on_drop if followed is not None else ():
            told(call)
        calls = self._by_queue.get(call.queue, [])
        if call in calls:
            calls.remove(call)
        if not calls:
            self._by_queue.pop(call.queue, None)
        for leg in [leg for leg, calls in self._shared.items() if call in calls]:
            self._shared[leg].remove(call)
            if not self._shared[leg]:
                del self._shared[leg]

    def on(self, queue: CallQueue) -> Sequence[DialCall]:
        """Calls of a queue."""
        return tuple(self._by_queue.get(queue, ()))

    def touching(self, channel_id: str) -> Sequence[DialCall]:
        """Calls on the queue of that channel."""
        queue = self._queues.find(channel_id)
        return () if queue is None else self.on(queue)

    def dialled_from(self, channel_id: str) -> list[DialCall]:
        """Calls that the channel placed."""
        return [call for call in self.touching(channel_id) if call.channel == channel_id]

    def with_leg(self, channel_id: str) -> list[DialCall]:
        """Calls of which the channel is an answered leg, rung by another."""
        calls = (*self.touching(channel_id), *self._shared.get(channel_id, ()))
        return [call for call in calls if channel_id in call.legs and call.channel != channel_id]

    def share(self, call: DialCall, leg: str) -> None:
        """`leg` belongs to `call` from now on, and to the dial that rang it. Both know it by its id alone."""
        if self._queues.find(leg) in (None, call.queue):
            self._queues.join(call.queue, leg)
        else:
            self._shared.setdefault(leg, []).append(call)
        for other in self.with_leg(leg):
            other.names.pop(leg, None)

    def unshare(self, leg: str) -> Sequence[DialCall]:
        """A channel is gone: the calls that must still be told, each on its own queue."""
        return self._shared.pop(leg, ())

    def end_ms(self, leg: str) -> int | None:
        """Monotonic time of the earliest end among the grants on which a leg is up."""
        ends_ms = (lease_end_ms(call.state) for call in self.with_leg(leg))
        return min((end_ms for end_ms in ends_ms if end_ms is not None), default=None)
