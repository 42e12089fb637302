"""Calls that are up on the switch and that the ledger holds no grant for: taken in, or ended.

They are known by what the dialplan wrote on the caller's channel, or on the called leg (fairdial.conf). It happens
after a backup was restored that is older than the call, to calls that the failure rule let through while nobody
answered, to a leg whose caller transferred it away before anybody saw it answered, and where a grant was settled too
early. A call that may go on gets a grant and a lease from then on; what it talked before is
estimated, until the switch's own record tells (`evidence.py`). One that may not is ended.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

import structlog

from ari_handlers import events
from ari_handlers.adoption import Adoption
from ari_handlers.client import Client
from ari_handlers.dial import CUT_CAUSE, Dials
from fairdial import call_log
from fairdial.answer import RING_S, MalformedRequest, asked_from
from fairdial.call_log import SIP_CALL_ID_MAX
from fairdial.clock import Clock, Moment
from fairdial.desk import Asked, Desk
from fairdial.late import cover
from fairdial.ledger.contract import Difference, DifferenceKind
from fairdial.policy.account import Kind
from fairdial.policy.decide import Allow
from fairdial.policy.periods import MS_PER_S

log = structlog.get_logger(__name__)

RENEW_LEAD_S = 10
"""What a call that is taken in has before it at least, where there is so much: time to renew it."""

AT_ONCE = 64
"""Channels that are asked about at the same time."""

_VARIABLES = ("FAIRDIAL_DECISION", "FAIRDIAL_KIND", "FAIRDIAL_ASKED", "FAIRDIAL_LINE")

_LEFT_ALONE = frozenset({Kind.EMERGENCY, Kind.CONFERENCE, Kind.MESSAGE})
"""Emergency calls hold no grant; a seat is found again by its room; a message has no call."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A call without a grant. again: it had one, which is settled. left_ms: of a called leg that lives on without its
    caller, when that was gone (UTC).
    """

    asked: Asked
    info: events.ChannelInfo
    again: bool
    left_ms: int | None = None


def _again(call_id: str) -> str:
    """The id under which a call is granted once more."""
    return f"{call_id}-again"


class Orphans:
    """Looks for them, pass by pass. A channel must be without a grant in two listings in a row."""

    def __init__(self, client: Client, dials: Dials, adoption: Adoption, desk: Desk, clock: Clock) -> None:
        self._client = client
        self._dials = dials
        self._adoption = adoption
        self._desk = desk
        self._clock = clock
        self._suspects: set[str] = set()
        self._cleared: set[str] = set()
        # Called legs whose calls may be over, and are not settled yet.
        self._waiting: dict[str, str] = {}

    async def look(self) -> int:
        """How many were found. Raises AriError, LedgerError."""
        up = await self._dials.channels()
        known = {channel for call in self._dials.calls.values() for channel in (call.channel, *call.legs)}
        loose = {
            channel_id
            for channel_id, info in up.items()
            if info.state == "Up" and channel_id not in known and channel_id not in self._cleared
        }
        twice = sorted(loose & self._suspects)
        self._suspects = loose
        self._cleared &= up.keys()
        found = await self._look_at_waiting(up)
        for first in range(0, len(twice), AT_ONCE):
            batch = twice[first : first + AT_ONCE]
            found += sum(await asyncio.gather(*(self._look_at(up[channel_id]) for channel_id in batch)))
        return found

    async def _look_at(self, info: events.ChannelInfo) -> bool:
        leg_of = await self._client.channels.get(info.id).variable("FAIRDIAL_LEG")
        found = await self._ask(info)
        # Whatever comes of it, it is looked at once.
        self._cleared.add(info.id)
        if leg_of:
            self._waiting[info.id] = leg_of
        return found is not None and await self._take(found)

    async def _look_at_waiting(self, up: Mapping[str, events.ChannelInfo]) -> int:
        """Called legs whose callers are gone: how many of them are followed again, or ended."""
        self._waiting = {leg: call_id for leg, call_id in self._waiting.items() if leg in up}
        legs = {leg for call in self._dials.calls.values() for leg in call.legs}
        found = 0
        for leg, call_id in tuple(self._waiting.items()):
            grant = await self._desk.ledger.grant(call_id)
            # What the failure rule let through has no grant: its record tells.
            if leg in legs or grant is None or self._dials.follows(_again(call_id)):
                del self._waiting[leg]
                continue
            if grant.live or grant.channel in up:
                continue
            del self._waiting[leg]
            if grant.kind not in _LEFT_ALONE:
                asked = Asked(call_id, grant.kind, grant.dialled, grant.line_id, grant.channel, RING_S)
                found += await self._take(_Found(asked, up[leg], again=True, left_ms=grant.ended_ms))
        return found

    async def _take(self, found: _Found) -> bool:
        info = found.info
        with call_log.spoken_of({"call": info.id, "sip_call_id": info.protocol_id[:SIP_CALL_ID_MAX]}):
            done = await self._take_in(found)
            log.error("orphan_channel", channel=info.name, call=found.asked.call_id, done=done)
        now_ms = self._clock.now().wall_ms
        await self._desk.ledger.differ(
            Difference(found.asked.call_id, DifferenceKind.ORPHAN_CHANNEL, now_ms, None, None, done)
        )
        return True

    async def _ask(self, info: events.ChannelInfo) -> _Found | None:
        channel = self._client.channels.get(info.id)
        result, reason = await asyncio.gather(
            channel.variable("FAIRDIAL_RESULT"), channel.variable("FAIRDIAL_REASON")
        )
        if result != "ALLOW" or reason == "emergency":
            return None
        decision, kind, number, line = (
            each or "" for each in await asyncio.gather(*(channel.variable(name) for name in _VARIABLES))
        )
        try:
            asked = asked_from(
                channel_id=info.id,
                endpoint=info.endpoint,
                kind=kind,
                number=number,
                attempt=decision.rpartition("-")[2],
                line=line,
                caller=info.caller.number,
                sip_call_id=info.protocol_id,
            )
        except MalformedRequest as error:
            log.warning("channel_not_understood", channel=info.name, error=str(error))
            return None
        if asked.kind in _LEFT_ALONE:
            return None
        grant = await self._desk.ledger.grant(asked.call_id)
        if grant is not None and grant.live:
            return None
        return _Found(asked, info, again=grant is not None)

    async def _take_in(self, found: _Found) -> str:
        """What became of it. Raises AriError, LedgerError."""
        now_ms = self._clock.now().wall_ms
        asked, since_ms = found.asked, found.info.created_ms or now_ms
        if found.again:
            # What it talked before is in the grant that was settled.
            asked = replace(asked, call_id=_again(asked.call_id))
            since_ms = now_ms if found.left_ms is None else found.left_ms
        elif not asked.call_id.endswith("-1"):
            # The channel is older than this dial of it.
            since_ms = now_ms
        verdict = await self._desk.authorise_late(replace(asked, encrypted=None), since_ms)
        decision = verdict.decision
        if not isinstance(decision, Allow):
            await self._client.channels.get(found.info.id).hangup(CUT_CAUSE)
            return f"hung up: {decision.reason}"
        if found.left_ms is not None:
            await self._desk.answered(asked.call_id, found.info.id, Moment(since_ms, 0))
        grant = await self._desk.ledger.grant(asked.call_id)
        if grant is None:
            return f"left alone: {decision.reason}"
        # It has talked for longer than a slice, maybe: not to be cut for that while there is more.
        grant = await cover(self._desk, grant, since_ms, (now_ms - since_ms) // MS_PER_S + RENEW_LEAD_S)
        up = {found.info.id: found.info}
        await self._adoption.adopt(grant, up)
        await self._adoption.refresh(up, self._clock.now(), after_gap=True, only={grant.call_id})
        return f"followed again with {grant.granted_s} s"
