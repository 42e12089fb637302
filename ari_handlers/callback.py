"""Callback: FairDial rings the line, or a number in its place, then the number that it wants, and joins the two.

One grant holds the whole call: both numbers are checked before the first ring, and what is used counts as the
policy says for a callback (V6: twice, for its two legs). Asked for by an operator (`fairdial callback`) or by
dialling a code and being hung up (dialplan/samples/callback.conf). A leg that is busy, does not answer or hangs up
ends the other, and nothing is metered before both talk. Leases, renewal and the end of a call that talks are
`dial.py`'s.
"""

import asyncio
from dataclasses import dataclass

import structlog

from ari_handlers import events
from ari_handlers.dial import own_call_of, second_leg_of
from ari_handlers.followed import DialCall
from ari_handlers.owned import ANSWER_SLACK_S, LegNotAnswered, OwnCalls, new_id, rings, talk_s
from ari_handlers.queues import CallQueue
from fairdial import call_log
from fairdial.answer import encrypted_from
from fairdial.clock import Moment
from fairdial.desk import Asked, Desk, Failed
from fairdial.ledger.contract import LedgerError
from fairdial.policy.account import Kind
from fairdial.policy.decide import Allow, Refuse, Verdict, is_emergency
from fairdial.policy.outcomes import OUTCOMES, Reason

log = structlog.get_logger(__name__)

CALLBACK = "place-callback"
"""First argument of `Stasis()` for a channel that asks to be called back, before NUMBER and LINE."""

BUSY_CAUSE = 17
"""Q.850: user busy. What the phone of somebody who will be called back gets: it does not try again."""

NO_CALLBACK_TO_EMERGENCY = "emergency_not_called_back"

_DIALLED_MAX = 80


@dataclass(frozen=True, slots=True)
class CallbackStarted:
    """The first leg is being rung. The call is followed under this id like any other."""

    call_id: str


@dataclass(frozen=True, slots=True)
class CallbackRefused:
    """Nothing rings. reason: slug; cause: Q.850; text: one sentence for an operator."""

    reason: str
    cause: int
    text: str

    @classmethod
    def of(cls, reason: Reason, about: str = "") -> "CallbackRefused":
        """A refusal for one of the known reasons; about: what it is said of."""
        told = OUTCOMES[reason]
        return cls(reason, told.cause, f"{about}: {told.text}" if about else told.text)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is rung, and which number both legs show; "" leaves that to the endpoint. own_first: the line itself."""

    first: str
    second: str
    shown: str
    own_first: bool


class Callbacks:
    """All callbacks of one switch. after_s: between the hang-up of who dialled the code and the call back."""

    def __init__(self, own: OwnCalls, desk: Desk, after_s: float = 2.0) -> None:
        self._own = own
        self._desk = desk
        self._after_s = after_s
        own.dials.on_stasis(CALLBACK, self._asked_for)

    @property
    def _wait_s(self) -> int:
        """The longest that it takes until a leg answered or is known not to."""
        return self._own.rules.ring_s + round(ANSWER_SLACK_S)

    # --- asked for -------------------------------------------------------------------------------

    async def check(self, line_id: str, number: str) -> Verdict | CallbackRefused:
        """What would become of a callback to `number`, on the line's account, without one."""
        asked = Asked("check", Kind.CALLBACK, number[:_DIALLED_MAX], line_id, "check", self._own.rules.ring_s)
        try:
            verdict = await self._desk.check(asked)
        except LedgerError as error:
            log.error("callback_not_checked", line=line_id, error=str(error))
            return CallbackRefused.of(Reason.STORE_UNAVAILABLE)
        if is_emergency(Kind.CALLBACK, verdict.number):
            # Who needs help dials it: the call then goes through at once and shows where it comes from.
            return CallbackRefused(
                NO_CALLBACK_TO_EMERGENCY, 21, f"{number}: emergency numbers are dialled, not called back."
            )
        if isinstance(verdict.decision, Refuse):
            return CallbackRefused.of(verdict.decision.reason, number)
        if verdict.number.e164 is None:
            return CallbackRefused.of(Reason.NUMBER_INVALID, f"{number} is no number of the public network")
        return verdict

    async def place(
        self, line_id: str, number: str, *, first: str | None = None, sip_call_id: str = ""
    ) -> CallbackStarted | CallbackRefused:
        """Ring `first`, a number of the public network, or else the line itself; once it answers, `number`.

        Both as the line dials them. sip_call_id: of the call that asked for it, where one did. Returns when both were
        checked and `number` is granted; the rest goes on by itself.
        """
        rung = self._own.rules.endpoints.of_line(line_id)
        if first is not None:
            checked = await self.check(line_id, first)
            if isinstance(checked, CallbackRefused):
                return checked
            rung = self._own.rules.endpoints.of_number(checked.number.e164 or "")
        checked = await self.check(line_id, number)
        if isinstance(checked, CallbackRefused):
            return checked
        if not self._own.client.connected:
            return CallbackRefused.of(Reason.CALL_NOT_FOLLOWED)
        return await self._grant(line_id, number[:_DIALLED_MAX], rung, sip_call_id)

    async def _grant(
        self, line_id: str, number: str, first: str, sip_call_id: str
    ) -> CallbackStarted | CallbackRefused:
        channel_id = new_id(self._own.rules.switch)
        queue = self._own.client.queues.open(channel_id, sip_call_id)
        if queue is None:
            return CallbackRefused.of(Reason.STOPPING)
        call: DialCall | None = None
        started = False
        try:
            ring_s = 2 * self._wait_s
            call_id = own_call_of(channel_id)
            asked = Asked(
                call_id, Kind.CALLBACK, number, line_id, channel_id, ring_s, sip_call_id=queue.sip_call_id
            )
            now = self._own.clock.now()
            _, call, outcome = await self._own.dials.ask(asked, queue, channel_id, now)
            if isinstance(outcome, Failed):
                return CallbackRefused.of(outcome.reason)
            if call is None or not isinstance(outcome.decision, Allow):
                return CallbackRefused.of(outcome.decision.reason, number)
            second = self._own.rules.endpoints.of_number(outcome.number.e164 or "")
            shown = outcome.decision.caller or await self._own_number(call)
            own_first = first == self._own.rules.endpoints.of_line(line_id)
            plan = _Plan(first, second, shown, own_first)
            with call_log.spoken_of(queue.facts):
                started = self._own.start(f"callback-{call.call_id}", self._connect(call, plan))
        finally:
            # Also where who asked has gone meanwhile.
            if call is None:
                queue.close()
            elif not started:
                self._own.dials.abandon(call)
        return CallbackStarted(call.call_id) if started else CallbackRefused.of(Reason.STOPPING)

    async def _own_number(self, call: DialCall) -> str:
        """The line's own number, else one of its account's; "" where it has none."""
        try:
            numbers = (await self._desk.ledger.sheet(call.account_id)).numbers
        except LedgerError as error:
            log.warning("own_number_not_read", call=call.call_id, error=str(error))
            return ""
        usable = [each for each in numbers if each.line_id in (None, call.line_id)]
        usable.sort(key=lambda each: (each.line_id is None, each.number))
        return usable[0].number if usable else ""

    # --- asked for by dialling a code ------------------------------------------------------------

    async def _asked_for(
        self, info: events.ChannelInfo, args: tuple[str, ...], _queue: CallQueue, _moment: Moment
    ) -> None:
        number, line_id = (*args, "", "")[:2]
        line_id = line_id or info.endpoint
        checked = await self.check(line_id, number)
        cause = checked.cause if isinstance(checked, CallbackRefused) else BUSY_CAUSE
        if isinstance(checked, CallbackRefused):
            log.info("callback_refused", line=line_id, dialled=number, reason=checked.reason)
        elif not self._own.start(
            f"callback-to-{line_id}", self._call_back(line_id, number, info.protocol_id)
        ):
            cause = OUTCOMES[Reason.STOPPING].cause
        await self._own.legs.hang_up(info.id, cause)

    async def _call_back(self, line_id: str, number: str, sip_call_id: str) -> None:
        # Until the phone is on the hook and takes calls again.
        await asyncio.sleep(self._after_s)
        placed = await self.place(line_id, number, sip_call_id=sip_call_id)
        if isinstance(placed, CallbackRefused):
            log.info("callback_refused", line=line_id, dialled=number, reason=placed.reason)

    # --- the two legs ----------------------------------------------------------------------------

    async def _connect(self, call: DialCall, plan: _Plan) -> None:
        try:
            await self._ring_both(call, plan)
        except LegNotAnswered as error:
            log.info("callback_not_connected", call=call.call_id, cause=error.cause)
        finally:
            self._own.legs.forget(call.channel)
            if not call.bridged:
                await self._own.give_up(call)

    async def _ring_both(self, call: DialCall, plan: _Plan) -> None:
        """Raises LegNotAnswered, AriError."""
        legs, ring_s = self._own.legs, self._own.rules.ring_s
        if not rings(call):
            return
        # Until they talk, each leg may live as long as it can take until then, and the talk after it.
        lease_s = self._wait_s + talk_s(call)
        first = await legs.ring(
            call.queue,
            call.channel,
            plan.first,
            ring_s=ring_s,
            lease_s=self._wait_s + lease_s,
            caller_id=plan.shown,
            call=call,
        )
        call.names[first.id] = first.name
        if plan.own_first and await self._refuses(call, first):
            return
        waiting = self._own.client.channels.get(first.id)
        await waiting.ring()
        if not rings(call):
            return
        second = await legs.ring(
            call.queue,
            second_leg_of(call.call_id),
            plan.second,
            ring_s=ring_s,
            lease_s=lease_s,
            caller_id=plan.shown,
            originator=first.id,
            waiter=first.id,
        )
        await waiting.stop_ringing()
        if await self._own.join(call, second, self._own.clock.now()):
            log.info("callback_connected", call=call.call_id)

    async def _refuses(self, call: DialCall, leg: events.ChannelInfo) -> bool:
        """Whether the plan wants the line's leg encrypted, and it is not (A7). Raises AriError."""
        try:
            encrypted = encrypted_from(await self._own.legs.encryption(leg))
            refused = await self._desk.refuses_leg(call.line_id, Kind.CALLBACK, encrypted)
        except LedgerError as error:
            log.error("encryption_not_checked", call=call.call_id, error=str(error))
            refused = True
        if refused:
            log.info("callback_refused", call=call.call_id, reason=Reason.NOT_ENCRYPTED)
        return refused
