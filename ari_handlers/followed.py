"""A call that is followed: its channels, its state, its timers. One owner: the queue of its call."""

import asyncio
from dataclasses import dataclass, field

import structlog

from ari_handlers.queues import CallQueue
from fairdial.clock import Moment
from fairdial.policy.account import Kind
from fairdial.policy.call import Event, IllegalMove, State, Talking, advance

log = structlog.get_logger(__name__)


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
    def channels(self) -> frozenset[str]:
        """The caller's channel and the answered legs."""
        return self.legs | {self.channel}

    def advance(self, event: Event) -> bool:
        """Move on; False where the event cannot happen now, which changes nothing."""
        try:
            self.state = advance(self.state, event)
        except IllegalMove as error:
            log.warning("event_out_of_place", call=self.call_id, error=str(error))
            return False
        return True
