"""Calls that are followed again: after a restart of FairDial, and after a gap in the events.

The switch's listing says which channels are up; what it does not have is over. `Adoption` is what reconciliation
(`fairdial/reconcile.py`) has of the dials of one switch; following them on is `dial.py`'s.
"""

from collections.abc import Collection, Mapping, Set
from functools import partial

from ari_handlers import events
from ari_handlers.client import Client
from ari_handlers.dial import NO_CIRCUIT_CAUSE, Dials
from ari_handlers.followed import DialCall, bridge_of, placed_here, second_leg_of
from fairdial import call_log
from fairdial.clock import Clock, Moment
from fairdial.desk import Desk
from fairdial.evidence import Use
from fairdial.ledger.contract import Grant, GrantState
from fairdial.policy.account import Kind
from fairdial.policy.call import Ringing


class Adoption:
    """Takes calls up again, and looks at them after a gap."""

    def __init__(self, dials: Dials, client: Client, desk: Desk, clock: Clock) -> None:
        self._dials = dials
        self._client = client
        self._desk = desk
        self._clock = clock

    def follows(self, call_id: str) -> bool:
        """Whether that dial is live here."""
        return self._dials.follows(call_id)

    def places(self, call_id: str) -> bool:
        """Whether FairDial itself places that call, so that nobody answers it unseen."""
        return self._dials.places(call_id)

    def seen(self, call_id: str) -> Use | None:
        """What was seen of a call that is no longer followed, though not all of it; None: nothing."""
        return self._dials.unseen.seen(call_id)

    def answered_ms(self, call_id: str) -> int | None:
        """When a call was answered (UTC) that the ledger knows as ringing, for all that was seen; None: it was not."""
        return self._dials.unseen.answered_ms(call_id)

    def forget(self, call_id: str) -> None:
        """The call is settled."""
        self._dials.unseen.forget(call_id)

    async def channels(self) -> Mapping[str, events.ChannelInfo]:
        """All channels of the switch by id. Raises AriError."""
        return await self._dials.channels()

    async def adopt(self, grant: Grant, up: Mapping[str, events.ChannelInfo]) -> bool:
        """Follow again a call of a live grant, some of whose channels are `up`; the task speaks of that call from then
        on. Raises AriError.

        False: the caller's channel is up for another dial, and this one is over.
        """
        if await self._has_dialled_again(grant, up):
            up = {channel: info for channel, info in up.items() if channel != grant.channel}
            if not up:
                return False
        bridged = await self._holds(grant)
        if placed_here(grant.call_id) and not bridged and grant.state is GrantState.RINGING:
            # Nobody goes on setting it up.
            await self._dials.hang_up_leg(grant.call_id, grant.channel, NO_CIRCUIT_CAUSE)
            await self._dials.hang_up_leg(grant.call_id, second_leg_of(grant.call_id))
            self._desk.take_back(grant.call_id)
            return True
        caller = up.get(grant.channel)
        queue = self._client.queues.open(grant.channel, "" if caller is None else caller.protocol_id)
        if queue is None:
            return True
        call_log.speak_of(queue.key, queue.sip_call_id)
        call = DialCall.of_grant(grant, queue, up, self._clock.now())
        # A leg that was transferred may have a dial, and so a queue, of its own.
        apart = {leg for leg in call.legs if self._client.queues.find(leg) not in (None, queue)}
        for leg in call.legs - apart:
            self._client.queues.join(queue, leg)
        call.bridged = bridged
        # Until it is looked at again: what happened since the listing was told to nobody.
        call.gap = True
        if bridged:
            self._client.queues.join(queue, second_leg_of(call.call_id))
        self._dials.followed.take(call)
        for leg in apart:
            self._dials.followed.share(call, leg)
        await self._dials.leases.hold(call)
        self._dials.leases.arm(call)
        self._dials.tell_adopted(call)
        gone = {grant.channel, grant.leg or grant.channel} - up.keys()
        if bridged and gone:
            await self._dials.end_other_legs(call, gone.pop())
        return True

    async def _has_dialled_again(self, grant: Grant, up: Mapping[str, events.ChannelInfo]) -> bool:
        """Whether the dialplan has asked for another dial of the same channel. Raises AriError."""
        if placed_here(grant.call_id) or grant.kind is Kind.CONFERENCE or grant.channel not in up:
            return False
        newest = await self._client.channels.get(grant.channel).variable("FAIRDIAL_DECISION")
        return bool(newest) and not grant.call_id.startswith(newest or "")

    async def _holds(self, grant: Grant) -> bool:
        """Whether FairDial holds the two legs of that call together, or did. Raises AriError."""
        if not placed_here(grant.call_id) or grant.kind is Kind.CONFERENCE:
            return False
        # An answer is noted when they are together already.
        talking = grant.state is GrantState.TALKING
        return talking or await self._client.bridges.get(bridge_of(grant.call_id)).exists()

    async def refresh(
        self,
        up: Mapping[str, events.ChannelInfo],
        listed: Moment,
        *,
        after_gap: bool,
        only: Collection[str] | None = None,
    ) -> None:
        """Bring the dials into line with a listing: end what is not up. only: these calls, None: all.

        Where no events were missed, those that tell of an end may still be under way: a channel is taken
        for gone only when two listings in a row do not have it.
        """
        if after_gap and only is None:
            self._dials.tell_gap()
        for call in tuple(self._dials.followed.by_id.values()):
            if only is not None and call.call_id not in only:
                continue
            if call.since.mono_ms > listed.mono_ms:
                continue  # younger than the listing, which says nothing about it
            # In order with the events of before the gap, which may still wait in the queue.
            gone = {
                channel
                for channel in call.channels - up.keys()
                # One that answered since says nothing by not being in it.
                if call.legs_since.get(channel, listed.mono_ms) <= listed.mono_ms
            }
            missing_before, call.missing = call.missing, bool(gone)
            if not after_gap and not (gone and missing_before):
                continue
            call.queue.put(partial(self._after_gap, call, gone, up.get(call.channel), listed))

    async def _after_gap(
        self, call: DialCall, gone: Set[str], caller: events.ChannelInfo | None, listed: Moment
    ) -> None:
        """`gone`: channels of the call that the listing did not have; a leg that answered since is not judged."""
        if call.call_id not in self._dials.followed.by_id:
            return
        call.gap = False
        unseen = caller is None or caller.state == "Up"
        # What FairDial places itself is answered when it brings the legs together, never unseen.
        missed = isinstance(call.state, Ringing) and unseen and not placed_here(call.call_id)
        if missed:
            # It may have been answered unseen, and nothing answered goes unmetered.
            await self._dials.unseen.answered(call, None if caller is None else call.channel)
        by_itself = call.channel in call.legs and call.kind is not Kind.CONFERENCE
        call.estimated = call.estimated or bool(gone) or by_itself
        call.end_unseen = bool(gone)
        for channel in sorted(gone):
            await self._dials.channel_gone(channel, listed)
        if missed:
            await self._dials.leases.hold(call)
        self._dials.leases.arm(call)
