"""A call that is followed: its ids, its channels, its state, its timers. One owner: the queue of its call."""

import asyncio
from dataclasses import dataclass, field

import structlog

from ari_handlers.queues import CallQueue
from fairdial.clock import Moment
from fairdial.policy.account import Kind
from fairdial.policy.call import Ended, Event, IllegalMove, State, Talking, advance

log = structlog.get_logger(__name__)

# Dials of the dialplan end in the count of its questions.
_PLACED_HERE = "-own"
_BRIDGE, _SECOND_LEG = "own-pair-", "-second"


def own_call_of(channel_id: str) -> str:
    """Id of the call whose two legs FairDial itself brings together; its first leg is that channel."""
    return f"{channel_id}{_PLACED_HERE}"


def placed_here(call_id: str) -> bool:
    """Whether FairDial itself brings the two legs of that call together."""
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


@dataclass(slots=True, eq=False)
class DialCall:
    """One dial that holds a grant.

    limit_s: the longest that it may last, None: any length. bridged: FairDial holds its two legs in a bridge; they
    end together. last: there is no more to be had after the present lease. warned: the warnings that were given,
    by how many seconds before the end.
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
    names: dict[str, str] = field(default_factory=dict)
    estimated: bool = False
    missing: bool = False
    bridged: bool = False
    last: bool = False
    warned: set[int] = field(default_factory=set)
    timer: asyncio.TimerHandle | None = None
    warning: asyncio.TimerHandle | None = None

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

    def advance(self, event: Event) -> bool:
        """Move on; False where the event cannot happen now, which changes nothing."""
        try:
            self.state = advance(self.state, event)
        except IllegalMove as error:
            log.warning("event_out_of_place", call=self.call_id, error=str(error))
            return False
        return True
