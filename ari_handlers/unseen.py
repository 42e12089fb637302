"""Calls of which not all was seen: what counts of them until the switch's own records, or nothing better, decide.

Events are lost while a link is broken or FairDial is dead. A call that is seen up then talks since it was dialled, for
all that is known; one that ends so is left to reconciliation (`fairdial/evidence.py`), with what was seen of it.
"""

from collections.abc import Callable

import structlog

from ari_handlers.client import Client
from ari_handlers.events import BridgeInfo
from ari_handlers.followed import DialCall, FollowedCalls, placed_here
from ari_handlers.resources import AriError
from fairdial.clock import Clock, Moment
from fairdial.desk import Desk
from fairdial.evidence import Use
from fairdial.policy.call import Answered, Ringing

log = structlog.get_logger(__name__)

BRIDGES_KEPT_MS = 1_000
"""So long a listing of bridges serves all calls that are looked at after a gap."""


class Bridges:
    """Who talks with whom on the switch."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._listed: tuple[int, tuple[BridgeInfo, ...]] | None = None

    async def with_channel(self, channel_id: str, *, kept_ms: int = 0) -> set[str]:
        """The other channels in its bridge, by a listing that is no older. Raises AriError."""
        now_ms = self._clock.now().mono_ms
        if self._listed is None or now_ms - self._listed[0] > kept_ms:
            self._listed = (now_ms, tuple(await self._client.bridges.list()))
        inside = next((set(each.channels) for each in self._listed[1] if channel_id in each.channels), set())
        return inside - {channel_id}


class Unseen:
    """What is known of such calls."""

    def __init__(self, desk: Desk, calls: FollowedCalls, bridges: Bridges) -> None:
        self._desk = desk
        self._calls = calls
        self._bridges = bridges
        self._on_unseen: list[Callable[[], None]] = []
        self._seen: dict[str, Use] = {}
        self._assumed_answer_ms: dict[str, int] = {}

    def on_unseen(self, handler: Callable[[], None]) -> None:
        """Tell `handler` that a call ended of which not all was seen: its grant is left to be reconciled."""
        self._on_unseen.append(handler)

    def may_have_talked(self, call: DialCall) -> bool:
        """Whether it may have been answered while nobody listened; that was not looked for yet."""
        return call.gap and isinstance(call.state, Ringing) and not placed_here(call.call_id)

    async def answered(self, call: DialCall, up: str | None) -> None:
        """It talks since it was dialled, for all that is known. up: the caller's channel, if it is up."""
        leg = call.channel
        call.estimated = True
        if up is not None:
            leg = await self._bridged_with(up) or leg
        call.advance(Answered(leg, call.since.mono_ms))
        self._assumed_answer_ms[call.call_id] = call.since.wall_ms
        await self._desk.note_assumed(call.call_id, call.since.wall_ms)
        if leg != call.channel:
            # Transferred away, it lives on without the caller.
            self._calls.share(call, leg)

    async def _bridged_with(self, channel_id: str) -> str | None:
        """The one channel that this one talks with; None where there is none, or more. Never raises AriError."""
        try:
            others = await self._bridges.with_channel(channel_id, kept_ms=BRIDGES_KEPT_MS)
        except AriError as error:
            log.warning("bridges_not_listed", error=str(error))
            return None
        return others.pop() if len(others) == 1 else None

    def leave(self, call: DialCall, used_s: int, moment: Moment) -> bool:
        """Leave a call that is over to reconciliation; false where all of it was seen, or nobody reconciles."""
        if not call.estimated or not self._on_unseen:
            return False
        if not call.end_unseen:
            self._seen[call.call_id] = Use(used_s, moment.wall_ms, estimated=True)
        for told in self._on_unseen:
            told()
        return True

    def seen(self, call_id: str) -> Use | None:
        """What was seen of a call that is no longer followed, though not all of it; None: nothing."""
        return self._seen.get(call_id)

    def forget(self, call_id: str) -> None:
        """The call is settled."""
        self._seen.pop(call_id, None)
        self._assumed_answer_ms.pop(call_id, None)

    def answered_ms(self, call_id: str) -> int | None:
        """When a call was answered (UTC) that the ledger knows as ringing, for all that was seen; None: it was not."""
        return self._assumed_answer_ms.get(call_id)
