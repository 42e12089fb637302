"""Plain dials: the dialplan asks, keeps the call and its `Dial()`; FairDial follows it to its end.

Each dial that holds a grant is one `DialCall`, owned by its call's queue. This module answers the question, follows
the call's channels, and settles once when the last answered leg or the caller is gone. The state itself is
`fairdial/policy/call.py`; leases are set and renewed by `leases.py`, which is told where the dialplan left the
`U()` option out. What was not seen is `unseen.py`'s, who is followed again `adoption.py`'s.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product

import structlog

from ari_handlers import events
from ari_handlers.client import Client
from ari_handlers.followed import DialCall, FollowedCalls
from ari_handlers.followed import bridge_of as bridge_of
from ari_handlers.followed import call_of_bridge as call_of_bridge
from ari_handlers.followed import call_of_second_leg as call_of_second_leg
from ari_handlers.followed import own_call_of as own_call_of
from ari_handlers.followed import placed_here as placed_here
from ari_handlers.followed import second_leg_of as second_leg_of
from ari_handlers.leases import LeaseRules, Leases, SetLease
from ari_handlers.queues import CallQueue
from ari_handlers.resources import AriError, AriRefused, AriTimeout, Channel
from ari_handlers.unseen import Bridges, Unseen
from fairdial.answer import CONTEXT, Answer, MalformedRequest, answer_to, asked_from, failed
from fairdial.clock import Clock, Moment
from fairdial.desk import Asked, Desk, Failed
from fairdial.policy.account import Kind
from fairdial.policy.call import (
    Answered,
    CallerEnded,
    Ended,
    LegEnded,
    LegReplaced,
    Ringing,
)
from fairdial.policy.decide import Allow, Verdict
from fairdial.policy.outcomes import Reason
from fairdial.policy.periods import MS_PER_S
from fairdial.tallies import Spread

log = structlog.get_logger(__name__)

ANSWER_SUBROUTINE = "fairdial-answered"
_DIALLED_AS = re.compile(rf"{ANSWER_SUBROUTINE}\^[0-9]*\^([^\^),&]+)")
"""The call id that the dialplan dials with (`FAIRDIAL_DIAL`); one that was written by hand may have none."""

HOLD_AGAIN_S = 0.3
"""The dialplan sets or lifts the lease of a channel that asked; so long after, what held before is set again."""
CUT_CAUSE = 21
"""Q.850, call rejected: what the leg that is hung up first is told; the other may hear a normal end."""
CATCH_UP_WITHIN_S = 0.4
"""For the switch to show that all events of before were told, while a dialplan waits for its answer."""
NO_CIRCUIT_CAUSE = 34
"""Q.850: no circuit available."""


GATES = ("stasis", "agi", "message")
"""Ways by which the dialplan asks."""
RESULTS = ("allow", "refuse", "failed", "undelivered")


@dataclass(frozen=True, slots=True)
class DialRules:
    """The rules of leases."""

    leases: LeaseRules = field(default_factory=LeaseRules)


StasisHandler = Callable[[events.ChannelInfo, tuple[str, ...], CallQueue, Moment], Awaitable[None]]
"""Takes a channel that came with a word of its own, and the arguments after that word."""
GoneHandler = Callable[[str, int], None]
"""Hears the id of a channel and the Q.850 cause."""
AdoptedHandler = Callable[[DialCall], None]
GapHandler = Callable[[], None]


def _log_decision(asked: Asked, answer: Answer, outcome: Verdict | Failed) -> None:
    if answer.reason == Reason.DIALS_TOO_FAST:
        return  # told of once a second, added up: a flood must not fill the log
    clause = outcome.decision.clause if isinstance(outcome, Verdict) else None
    log.info(
        "decided",
        call=asked.call_id,
        line=asked.line_id,
        kind=asked.kind,
        result=answer.result,
        reason=answer.reason,
        clause=None if clause is None else f"{clause.policy}/{clause.version}/{clause.id}",
        limit_s=answer.limit_s,
        sip_call_id=asked.sip_call_id,
    )


class Dials:
    """All dials of one switch that hold a grant, whoever places them.

    answers: how long the dialplan waited for its answer, by gate and result ("undelivered": it did not get it).
    """

    def __init__(
        self, client: Client, desk: Desk, set_lease: SetLease, clock: Clock, rules: DialRules | None = None
    ) -> None:
        self._client = client
        self._desk = desk
        self._clock = clock
        self._rules = rules or DialRules()
        self._set_lease = set_lease
        self.leases = Leases(desk, self._set_lease_within, clock, self._rules.leases)
        self.followed = FollowedCalls(client.queues)
        self._bridges = Bridges(client, clock)
        self.unseen = Unseen(desk, self.followed, self._bridges)
        self._stopping = False
        self._others: dict[str, StasisHandler] = {}
        self._on_gone: list[GoneHandler] = []
        self._on_adopted: list[AdoptedHandler] = []
        self._on_gap: list[GapHandler] = []
        self._held: set[CallQueue] = set()
        self.answers = Spread(known=product(GATES, RESULTS))
        client.on_channel_event("StasisStart", self._on_stasis_start)
        client.on_channel_event("Dial", self._on_dial)
        client.on_channel_event("ChannelDestroyed", self._on_channel_destroyed)
        client.on_disconnected(self._on_disconnected)

    @property
    def calls(self) -> Mapping[str, DialCall]:
        """Live dials by call id."""
        return self.followed.by_id

    def on_stasis(self, word: str, handler: StasisHandler) -> None:
        """Hand channels that come with `word` as their first argument to `handler`, on their call's queue.

        Raises ValueError for the name of a kind, with which the dialplan's questions begin.
        """
        if word in frozenset(Kind):
            raise ValueError(f"{word!r} is a kind of call; choose another word")
        self._others[word] = handler

    def on_gone(self, handler: GoneHandler) -> None:
        """Tell `handler` of each channel of a call here that is gone, on that call's queue."""
        self._on_gone.append(handler)

    def on_adopted(self, handler: AdoptedHandler) -> None:
        """Tell `handler` of each call that is followed again after a restart."""
        self._on_adopted.append(handler)

    def on_gap(self, handler: GapHandler) -> None:
        """Tell `handler` that events were missed: at the start and after each new connection."""
        self._on_gap.append(handler)

    def tell_adopted(self, call: DialCall) -> None:
        """A call is followed again."""
        for told in self._on_adopted:
            told(call)

    def tell_gap(self) -> None:
        """Events were missed, and all calls are about to be looked at."""
        for told in self._on_gap:
            told()

    def hold(self, queue: CallQueue) -> None:
        """Keep the queue of a channel that holds no grant yet, until `let_go`."""
        self._held.add(queue)

    def let_go(self, queue: CallQueue) -> None:
        """From now on only a grant keeps the queue."""
        self._held.discard(queue)
        self._close_if_idle(queue)

    def stop_granting(self) -> None:
        """From now on each dial is answered by its failure rule. Calls in progress are followed on."""
        self._stopping = True

    def stop_timers(self) -> None:
        """Renew nothing any more: the switch keeps the leases, the ledger the grants."""
        self.leases.stopped = True
        for call in self.followed.by_id.values():
            self.leases.disarm(call)

    # --- the dial --------------------------------------------------------------------------------

    async def _on_stasis_start(self, channel: Channel, event: events.CallEvent, moment: Moment) -> None:
        assert isinstance(event, events.StasisStart)
        info = event.channel
        queue = self._client.queues.find(info.id)
        assert queue is not None
        try:
            other = self._others.get(event.args[0]) if event.args else None
            if other is not None:
                await other(info, event.args[1:], queue, moment)
            else:
                await self._answer_question(channel, info, event.args, queue, moment)
        finally:
            self._hold_again(info.id)
            # Nothing more comes for a channel that holds no grant: it is not followed.
            self._close_if_idle(queue)

    async def _answer_question(
        self,
        channel: Channel,
        info: events.ChannelInfo,
        args: tuple[str, ...],
        queue: CallQueue,
        moment: Moment,
    ) -> None:
        call: DialCall | None = None
        try:
            asked = self._asked(info, args)
            answer, call, _ = await self.ask(asked, queue, info.name, moment)
        except MalformedRequest as error:
            log.error("request_malformed", channel=info.name, error=str(error))
            answer = failed(Reason.REQUEST_MALFORMED)
        result = "undelivered"
        try:
            await channel.continue_in_dialplan(CONTEXT, answer.packed())
            result = answer.result.lower()
            if call is not None:
                self.admit(call)
        except AriRefused as error:
            # The channel is gone, or the switch lost patience and its failure rule decided.
            log.warning("answer_not_delivered", channel=info.name, error=str(error))
            if call is not None:
                await self._end(call, self._clock.now())
        except AriError as error:
            # The link broke, and what the switch got is unknown: a grant stays until it is reconciled.
            log.warning("answer_not_delivered", channel=info.name, error=str(error))
        finally:
            self.answers.add((self._clock.now().mono_ms - moment.mono_ms) / MS_PER_S, "stasis", result)

    async def begin(self, asked: Asked, channel_name: str) -> Answer:
        """Decide about a dial that did not come through Stasis. Used by AGI."""
        if not self._client.connected:
            # Nobody would hear of its answer and its end.
            return failed(Reason.CALL_NOT_FOLLOWED)
        queue = self._client.queues.open(asked.channel, asked.sip_call_id)
        if queue is None:
            return failed(Reason.STOPPING)
        call: DialCall | None = None
        # An earlier dial of the channel may end meanwhile: the queue is needed on.
        self.hold(queue)
        try:
            await self._catch_up(asked, queue)
            answer, call, _ = await self.ask(asked, queue, channel_name, self._clock.now())
            if call is not None:
                # A question that waited (we were held up) may be of a caller who is gone, whose end was
                # told before there was a call to end.
                await self._client.channels.get(asked.channel).exists()
                self.admit(call)
        except (AriError, asyncio.CancelledError) as error:
            if call is not None:
                self._drop(call)
                self._desk.take_back(call.call_id)
            if isinstance(error, asyncio.CancelledError):
                raise
            log.warning("call_not_followed", call=asked.call_id, error=str(error))
            return failed(Reason.CALL_NOT_FOLLOWED)
        finally:
            self._hold_again(asked.channel)
            self.let_go(queue)
        return answer

    async def _catch_up(self, asked: Asked, queue: CallQueue) -> None:
        """Before an earlier dial is ended by a question that came past the event socket: hear what was told of it.

        Raises AriError where that does not come in time: on a link of which nobody has noticed yet that it is broken.
        """
        if not any(isinstance(call.state, Ringing) for call in self._earlier_dials(asked)):
            return
        heard = asyncio.Event()

        async def hear() -> None:
            heard.set()

        try:
            async with asyncio.timeout(CATCH_UP_WITHIN_S):
                await self._client.asterisk.ping()
                if queue.put(hear):
                    await heard.wait()
        except TimeoutError:
            raise AriTimeout(f"events of {asked.channel}: not told within {CATCH_UP_WITHIN_S} s") from None

    def _asked(self, info: events.ChannelInfo, args: tuple[str, ...]) -> Asked:
        if not 3 <= len(args) <= 10:
            raise MalformedRequest(
                f"Stasis() got {len(args)} arguments; use Gosub(fairdial,s,1(kind,number)), which passes the right ones"
            )
        kind, number, attempt, ring_s, line, encrypted, source, verified, video, codec = (
            *args,
            *("",) * 7,
        )[:10]
        return asked_from(
            channel_id=info.id,
            endpoint=info.endpoint,
            kind=kind,
            number=number,
            attempt=attempt,
            ring_s=ring_s,
            line=line,
            caller=info.caller.number,
            sip_call_id=info.protocol_id,
            encrypted=encrypted,
            source=source,
            verified=verified,
            video=video,
            codec=codec,
        )

    async def ask(
        self, asked: Asked, queue: CallQueue, channel_name: str, moment: Moment
    ) -> tuple[Answer, DialCall | None, Verdict | Failed]:
        """Authorise a dial and, if it holds a grant, follow it on `queue`; None: there is nothing to follow."""
        await self._finish_earlier_dials(asked)
        if self._stopping or self._client.fenced.is_set():
            stopping = Failed(Reason.STOPPING)
            return answer_to(asked, stopping), None, stopping
        outcome = await self._desk.authorise(asked)
        answer = answer_to(asked, outcome)
        _log_decision(asked, answer, outcome)
        if isinstance(outcome, Failed) or not isinstance(outcome.decision, Allow):
            return answer, None, outcome
        if outcome.decision.account_id is None:
            return answer, None, outcome  # an emergency call: nothing to follow, nothing to end
        call = self.followed.by_id.get(asked.call_id)
        if call is None:
            call = DialCall(
                asked.call_id,
                asked.channel,
                queue,
                Ringing(outcome.decision.granted_s),
                asked.kind,
                outcome.decision.account_id,
                asked.line_id,
                asked.dialled,
                moment,
                outcome.decision.limit_s,
                outcome.decision.bound_by,
                {} if self.followed.with_leg(asked.channel) else {asked.channel: channel_name},
                # Until the switch was asked to tell of all channels, nobody hears what becomes of it.
                gap=not self._client.connected,
            )
            self.followed.take(call)
        return answer, call, outcome

    async def bridged(self, call: DialCall, leg: events.ChannelInfo, moment: Moment) -> None:
        """Both legs of a call are up in a bridge of ours: it is answered. Both get their lease."""
        if not call.advance(Answered(leg.id, moment.mono_ms)):
            return
        call.bridged = True
        call.names[leg.id] = leg.name
        await self.leases.hold(call)
        await self._note_answer(call, leg.id, moment)
        self.leases.arm(call)

    def abandon(self, call: DialCall) -> None:
        """A call that never came to be: its grant goes back, and it is no longer followed."""
        if isinstance(call.state, Ringing) and call.call_id in self.followed.by_id:
            self.leases.disarm(call)
            self._drop(call)
            self._desk.take_back(call.call_id)

    def admit(self, call: DialCall) -> bool:
        """Who was let into a conference is in it from that moment; the caller's own channel is the leg.

        False where it is over already.
        """
        if call.kind is Kind.CONFERENCE and isinstance(call.state, Ringing):
            call.advance(Answered(call.channel, call.since.mono_ms))
            self.leases.arm(call)
        return call.call_id in self.followed.by_id

    async def seated(self, call: DialCall, moment: Moment) -> bool:
        """A number that was called into a conference answered: from `moment` on it is in it.

        False where it is over already, or where the ledger could not be told: nobody gets in who is not counted.
        """
        if not isinstance(call.state, Ringing) or call.call_id not in self.followed.by_id:
            return False
        call.advance(Answered(call.channel, moment.mono_ms))
        call.since = moment
        self.leases.arm(call)
        return await self._note_answer(call, call.channel, moment) and call.call_id in self.followed.by_id

    async def _finish_earlier_dials(self, asked: Asked) -> None:
        """A caller whose dialplan asks again has finished with the dial of before; its leg may live on."""
        for call in self._earlier_dials(asked):
            if call.legs <= {call.channel}:
                await self._end(call, self._clock.now())
            else:
                await self._caller_ended(call, self._clock.now())

    def _earlier_dials(self, asked: Asked) -> list[DialCall]:
        return [call for call in self.followed.dialled_from(asked.channel) if call.call_id != asked.call_id]

    # --- legs that two dials hold ----------------------------------------------------------------

    def _hold_again(self, channel_id: str) -> None:
        """A called party that was transferred asks for a dial of its own: the grant that it was dialled on holds."""
        for call in self.followed.with_leg(channel_id):
            asyncio.get_running_loop().call_later(
                HOLD_AGAIN_S, call.queue.put, partial(self.leases.hold, call)
            )

    async def _set_lease_within(self, channel_name: str, lease_ms: int) -> None:
        """Set a lease, but not past the end of another dial on the same leg; those are known by their ids alone."""
        end_ms = self.followed.end_ms(channel_name)
        if end_ms is not None:
            lease_ms = max(1, min(lease_ms, end_ms - self._clock.now().mono_ms))
        await self._set_lease(channel_name, lease_ms)

    async def _take_over(self, call: DialCall, leg: str) -> bool:
        """Asterisk took a Local channel out of the call: follow the leg that stands in its place.

        False where there is none. The new leg may be followed for the dial that the Local channel made, too.
        """
        if not call.names.get(leg, "").startswith("Local/") or call.legs != {leg} or not call.caller_up:
            return False
        try:
            for successor in await self._bridges.with_channel(call.channel) - {leg}:
                call.advance(LegReplaced(leg, successor))
                self.followed.share(call, successor)
                # Its end may have been told before it was known here.
                await self._client.channels.get(successor).exists()
                await self.leases.hold(call)
                return True
        except AriError as error:
            log.warning("local_leg_lost", call=call.call_id, leg=leg, error=str(error))
        return False

    # --- the call --------------------------------------------------------------------------------

    async def _on_dial(self, _channel: Channel, event: events.CallEvent, moment: Moment) -> None:
        assert isinstance(event, events.Dial)
        if event.dialstatus != "ANSWER" or event.caller is None:
            return
        dialled = _DIALLED_AS.search(event.caller.dialplan.app_data)
        for call in self.followed.dialled_from(event.caller.id):
            # Where the one before ended unseen, the next that the failure rule let through is not its answer.
            mine = dialled is None or f"{call.call_id}-".startswith(f"{dialled[1]}-")
            if call.caller_up and mine:
                await self._answer(call, event, moment)

    async def _answer(self, call: DialCall, event: events.Dial, moment: Moment) -> None:
        leg = event.peer
        again = not isinstance(call.state, Ringing)
        if not call.advance(Answered(leg.id, moment.mono_ms)):
            return
        call.names[leg.id] = leg.name
        if event.caller is not None:
            call.names[call.channel] = event.caller.name
        if again or ANSWER_SUBROUTINE not in (event.caller.dialplan.app_data if event.caller else ""):
            await self.leases.hold(call)
        # The way to the other side's trace: that leg is a SIP dialog of its own.
        log.info("answered", call=call.call_id, channel=leg.name, leg_sip_call_id=leg.protocol_id)
        await self._note_answer(call, leg.id, moment)
        self.leases.arm(call)

    async def _note_answer(self, call: DialCall, leg: str, moment: Moment) -> bool:
        """False where the ledger could not be told yet."""
        return await self._desk.note_answer(call.call_id, leg, moment)

    def _on_disconnected(self) -> None:
        for call in self.followed.by_id.values():
            call.gap = True

    async def _on_channel_destroyed(self, _channel: Channel, event: events.CallEvent, moment: Moment) -> None:
        assert isinstance(event, events.ChannelDestroyed)
        await self.channel_gone(event.channel.id, moment, event.cause)

    async def channel_gone(self, channel_id: str, moment: Moment, cause: int = 0) -> None:
        """A channel is gone: advance its calls. Runs on the call's queue. cause: Q.850, 0 where nobody saw."""
        for told in self._on_gone:
            told(channel_id, cause)
        for call in self.followed.touching(channel_id):
            if call.bridged and channel_id in call.ends_together:
                await self.end_other_legs(call, channel_id)
            if channel_id in call.legs:
                await self._leg_ended(call, channel_id, moment)
            if channel_id == call.channel:
                await self._caller_ended(call, moment)
        for call in self.followed.unshare(channel_id):
            call.queue.put(partial(self._leg_ended, call, channel_id, moment))
        queue = self._client.queues.find(channel_id)
        if queue is not None:
            self._close_if_idle(queue)

    async def end_other_legs(self, call: DialCall, gone: str) -> None:
        """Who is left alone in our bridge hears nothing more, and waits for nobody."""
        for channel in call.ends_together - {gone}:
            await self.hang_up_leg(call.call_id, channel)
        try:
            await self._client.bridges.get(bridge_of(call.call_id)).destroy()
        except AriError as error:
            log.warning("bridge_not_destroyed", call=call.call_id, error=str(error))

    async def hang_up_leg(self, call_id: str, channel: str, cause: int = 16) -> None:
        try:
            await self._client.channels.get(channel).hangup(cause)
        except AriError as error:
            log.warning("leg_not_hung_up", call=call_id, channel=channel, error=str(error))

    async def _leg_ended(self, call: DialCall, leg: str, moment: Moment) -> None:
        if leg not in call.legs or await self._take_over(call, leg):
            return
        # Where the leg that took over is gone again already, that is the one.
        leg = leg if leg in call.legs else next(iter(call.legs))
        if call.advance(LegEnded(leg, moment.mono_ms)):
            self.leases.arm(call)
            await self._settle_if_ended(call, moment)

    async def _caller_ended(self, call: DialCall, moment: Moment) -> None:
        if self.unseen.may_have_talked(call):
            await self._end(call, moment)
            return
        if call.advance(CallerEnded(moment.mono_ms)):
            await self._settle_if_ended(call, moment)

    async def _end(self, call: DialCall, moment: Moment) -> None:
        """End a dial whose channels are gone or are done with it."""
        if self.unseen.may_have_talked(call):
            await self.unseen.answered(call, None)
        for leg in call.legs:
            call.advance(LegEnded(leg, moment.mono_ms))
        if not isinstance(call.state, Ended):
            call.advance(CallerEnded(moment.mono_ms))
        await self._settle_if_ended(call, moment)

    async def _settle_if_ended(self, call: DialCall, moment: Moment) -> None:
        if isinstance(call.state, Ended):
            await self._settle(call, call.state.used_s, moment)

    async def _settle(self, call: DialCall, used_s: int, moment: Moment) -> None:
        self.leases.disarm(call)
        if self.unseen.leave(call, used_s, moment):
            self._drop(call)
            return
        await self._desk.note_end(call.call_id, used_s, moment, estimated=call.estimated)
        # Written or kept by the desk, there is nothing more to follow.
        self._drop(call)

    # --- operators ------------------------------------------------------------

    async def hangup(self, call_id: str, cause: int = 16) -> bool:
        """End a live call on all its legs; False where it is not live. Raises AriError."""
        call = self.followed.by_id.get(call_id)
        if call is None:
            return False
        channels = call.channels
        await asyncio.gather(*(self._client.channels.get(channel).hangup(cause) for channel in channels))
        return True

    async def cut(
        self, account_id: str | None, line_id: str | None, kinds: Collection[Kind] | None = None
    ) -> int:
        """End the live calls of an account or a line (K12), kinds: of these alone; how many were told to.

        Raises AriError.
        """
        calls = [
            call
            for call in self.followed.by_id.values()
            if (account_id == call.account_id or line_id == call.line_id)
            and (kinds is None or call.kind in kinds)
        ]
        await asyncio.gather(*(self.hangup(call.call_id, CUT_CAUSE) for call in calls))
        return len(calls)

    def ask_again(self, account_id: str) -> int:
        """Ask at once for more for those live calls of an account that got no more before; how many."""
        calls = [call for call in self.followed.by_id.values() if call.account_id == account_id]
        return sum(self.leases.ask_again(call) for call in calls)

    def places(self, call_id: str) -> bool:
        """Whether FairDial itself places that call, so that nobody answers it unseen."""
        return placed_here(call_id)

    def follows(self, call_id: str) -> bool:
        """Whether that dial is live here."""
        return call_id in self.followed.by_id

    async def channels(self) -> Mapping[str, events.ChannelInfo]:
        """All channels of the switch by id. Raises AriError."""
        return {info.id: info for info in await self._client.channels.list()}

    def _drop(self, call: DialCall) -> None:
        self.followed.drop(call)
        self._close_if_idle(call.queue)

    def _close_if_idle(self, queue: CallQueue) -> None:
        if not self.followed.on(queue) and queue not in self._held:
            queue.close()
