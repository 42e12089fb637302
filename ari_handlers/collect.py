"""Reverse charge: the called line pays for a call, once whoever answers there has said so by pressing a key.

A caller, from anywhere, reaches `Stasis(fairdial,place-collect,NUMBER,LINE)` (dialplan/samples/collect.conf), where
LINE is the called line. Its policy decides first (K6). Until the key the caller's channel is not answered and nothing
is metered; who accepts hears before who calls, and what it costs where it costs something. How a
caller is asked for a name is `caller_name.py`'s; leases, renewal and the end of a call that talks are `dial.py`'s.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from ari_handlers import events
from ari_handlers.caller_name import ASK_WITHIN_S, CallerNames
from ari_handlers.dial import own_call_of, second_leg_of
from ari_handlers.followed import DialCall
from ari_handlers.owned import ANSWER_SLACK_S, HEAR_WITHIN_S, LegNotAnswered, OwnCalls, rings, talk_s
from ari_handlers.queues import CallQueue
from ari_handlers.resources import AriError, AriRefused, Channel
from fairdial.answer import Answer
from fairdial.clock import Moment
from fairdial.desk import Asked
from fairdial.policy.account import Kind
from fairdial.policy.decide import Allow, Verdict
from fairdial.policy.outcomes import OUTCOMES, Reason
from fairdial.policy.rating import decimal_text
from fairdial.policy.terms import Mode

log = structlog.get_logger(__name__)

COLLECT = "place-collect"
"""First argument of `Stasis()` for a caller who does not pay, before NUMBER and LINE."""

ACCEPT, REFUSE = "1", "2"
TURNS = 3

REJECTED_CAUSE = 21
ABSENT_CAUSE = 20
"""Q.850: subscriber absent. The line has no phone that could ring."""

CALLER, RATE = "{caller}", "{rate}"
"""In the prompt: who calls, and what a minute costs; nothing is said of a call that costs nothing."""

DECLINED = ("sound:im-sorry", "sound:cannot-complete-as-dialed")
"""What a caller hears whose call was not accepted."""

WITHHELD = "sound:vm-unknown-caller"

_NUMBER = re.compile(r"\+?([0-9]{1,20})")


@dataclass(frozen=True, slots=True)
class CollectRules:
    """prompt: sounds that ask the called party, with CALLER and RATE where they belong. key_within_s: for a key, from
    the end of the prompt on, in each of TURNS turns. record_name: ask callers for their names, to be heard as CALLER.
    """

    prompt: tuple[str, ...]
    key_within_s: float = 10.0
    record_name: bool = False


class Collects:
    """All reverse-charge calls of one switch."""

    def __init__(self, own: OwnCalls, rules: CollectRules) -> None:
        self._own = own
        self._rules = rules
        self._names = CallerNames(own)
        own.dials.on_stasis(COLLECT, self._came)

    @property
    def _ask_s(self) -> int:
        """The longest that the called party is asked for."""
        return round(TURNS * (HEAR_WITHIN_S + self._rules.key_within_s))

    @property
    def _wait_s(self) -> int:
        """The longest until the call is accepted or not."""
        name_s = ASK_WITHIN_S if self._rules.record_name else 0
        return name_s + self._own.rules.ring_s + round(ANSWER_SLACK_S) + self._ask_s

    # --- the payer's policy decides --------------------------------------------------------------

    async def _came(
        self, info: events.ChannelInfo, args: tuple[str, ...], queue: CallQueue, moment: Moment
    ) -> None:
        number, line_id = (*args, "", "")[:2]
        if len(args) != 2 or not number or not line_id:
            log.error(
                "request_malformed",
                channel=info.name,
                error=f"Stasis() got {args!r}; write Stasis(fairdial,place-collect,NUMBER,LINE)",
            )
            await self._own.legs.hang_up(info.id, OUTCOMES[Reason.REQUEST_MALFORMED].cause)
            return
        asked = Asked(
            own_call_of(info.id),
            Kind.COLLECT,
            number[:80],
            line_id,
            info.id,
            self._wait_s,
            # Not who calls: that is no number of the line that pays, nor need it be.
            sip_call_id=queue.sip_call_id,
        )
        answer, call, outcome = await self._own.dials.ask(asked, queue, info.name, moment)
        if call is None or not isinstance(outcome, Verdict) or not isinstance(outcome.decision, Allow):
            work = self._refuse(info.id, answer)
        else:
            work = self._connect(call, info, outcome.decision)
        if not self._own.start(f"collect-{info.id}", work):
            if call is not None:
                self._own.dials.abandon(call)
            await self._own.legs.hang_up(info.id, OUTCOMES[Reason.STOPPING].cause)

    async def _refuse(self, channel_id: str, answer: Answer) -> None:
        try:
            await self._tell(channel_id, (f"sound:{answer.prompt}",) if answer.prompt else ())
        finally:
            await self._own.legs.hang_up(channel_id, answer.cause or REJECTED_CAUSE)

    async def _tell(self, channel_id: str, media: Sequence[str]) -> None:
        """Let a caller hear something as early media: nothing is answered. Who is gone already hears nothing."""
        if not media:
            return
        channel = self._own.client.channels.get(channel_id)
        try:
            await _lease(channel, round(HEAR_WITHIN_S + ANSWER_SLACK_S))
            await channel.progress()
        except AriError as error:
            log.info("caller_not_told", channel=channel_id, error=str(error))
        else:
            await self._own.hear(channel, media)

    # --- the called party is asked ---------------------------------------------------------------

    async def _connect(self, call: DialCall, caller: events.ChannelInfo, allow: Allow) -> None:
        cause = OUTCOMES[Reason.STOPPING].cause
        asked = False
        try:
            name = await self._name(call)
            leg = await self._ring(call, caller)
            asked = True
            if await self._accepts(call, leg, prompt_for(self._rules.prompt, caller, allow, name)):
                await self._join(call, leg)
            cause = REJECTED_CAUSE
        except LegNotAnswered as error:
            cause = error.cause or REJECTED_CAUSE
        except AriRefused as error:
            log.warning("collect_not_connected", call=call.call_id, error=str(error))
            cause = REJECTED_CAUSE if asked else ABSENT_CAUSE
        finally:
            self._own.legs.forget(call.channel)
            self._own.keys.forget(second_leg_of(call.call_id))
            if not call.bridged:
                await self._own.give_up(call, keep_first=True)
            if self._rules.record_name:
                await self._names.delete(call)
            if not call.bridged:
                # Nothing where this was told to end: it is not to hold anybody up.
                told = DECLINED if asked and cause == REJECTED_CAUSE else ()
                await self._hang_up_caller(call, told, cause)

    async def _hang_up_caller(self, call: DialCall, told: Sequence[str], cause: int) -> None:
        log.info("collect_not_accepted", call=call.call_id, cause=cause)
        try:
            await self._tell(call.channel, told)
        finally:
            await self._own.legs.hang_up(call.channel, cause)

    async def _name(self, call: DialCall) -> str | None:
        """The recording in which the caller says a name, None: the number is said. Raises AriError."""
        if not self._rules.record_name:
            return None
        await _lease(self._own.client.channels.get(call.channel), self._wait_s + talk_s(call))
        return await self._names.ask(call)

    async def _ring(self, call: DialCall, caller: events.ChannelInfo) -> events.ChannelInfo:
        """The line's phone, once it answered. Raises LegNotAnswered, AriError."""
        lease_s = self._wait_s + talk_s(call)
        channel = self._own.client.channels.get(caller.id)
        await _lease(channel, lease_s)
        await channel.ring()
        leg_id = second_leg_of(call.call_id)
        self._own.keys.listen(leg_id)
        if not rings(call):
            raise LegNotAnswered(caller.id, REJECTED_CAUSE)
        return await self._own.legs.ring(
            call.queue,
            leg_id,
            self._own.rules.endpoints.of_line(call.line_id),
            ring_s=self._own.rules.ring_s,
            lease_s=lease_s,
            caller_id=_number_of(caller),
            waiter=caller.id,
        )

    async def _accepts(self, call: DialCall, leg: events.ChannelInfo, media: Sequence[str]) -> bool:
        """Whether the called party pressed ACCEPT. False too when either party is gone."""
        for _ in range(TURNS):
            key = await self._key(leg.id, media)
            if key == ACCEPT:
                return True
            if key == REFUSE or not self._own.legs.is_up(leg.id) or not rings(call):
                return False
        return False

    async def _key(self, leg_id: str, media: Sequence[str]) -> str | None:
        """One turn: the prompt, which a key ends, and time for a key after it."""
        channel = self._own.client.channels.get(leg_id)
        hearing = asyncio.create_task(self._own.hear(channel, media))
        pressing = asyncio.create_task(self._own.keys.next(leg_id, HEAR_WITHIN_S + self._rules.key_within_s))
        try:
            await asyncio.wait({hearing, pressing}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({pressing}, timeout=self._rules.key_within_s)
            return pressing.result() if pressing.done() else None
        finally:
            for task in (hearing, pressing):
                task.cancel()
            await asyncio.gather(hearing, pressing, return_exceptions=True)

    async def _join(self, call: DialCall, leg: events.ChannelInfo) -> None:
        accepted = self._own.clock.now()
        await self._own.client.channels.get(call.channel).answer()
        if await self._own.join(call, leg, accepted):
            log.info("collect_accepted", call=call.call_id)


async def _lease(channel: Channel, lease_s: int) -> None:
    # The channel is in our application, and its dialplan does nothing more than hang up after it.
    await channel.set_variable("TIMEOUT(absolute)", str(lease_s))


def _number_of(caller: events.ChannelInfo) -> str:
    """The digits that the caller shows, with its plus; "" where it shows none."""
    return caller.caller.number if _NUMBER.fullmatch(caller.caller.number) else ""


def prompt_for(
    prompt: Sequence[str], caller: events.ChannelInfo, allow: Allow, name: str | None = None
) -> tuple[str, ...]:
    """The prompt as media, for who calls and what a minute costs from the first second on. name: a recording of who
    calls, to be heard in place of the number.
    """
    who = _said_of(caller) if name is None else (f"recording:{name}",)
    rate = _rate_micros(allow)
    cost = (*_spelt(decimal_text(rate)), "sound:for", "sound:minute") if rate else ()
    media: list[str] = []
    for sound in prompt:
        media += who if sound == CALLER else cost if sound == RATE else (f"sound:{sound}",)
    return tuple(media)


def _said_of(caller: events.ChannelInfo) -> tuple[str, ...]:
    """The caller's number, digit by digit, or that it is not known."""
    digits = _NUMBER.fullmatch(caller.caller.number)
    return (WITHHELD,) if digits is None else _spelt(digits[1])


def _spelt(text: str) -> tuple[str, ...]:
    """Digits and a dot, sound by sound.

    Asterisk 22.10 cannot stop `digits:` and `characters:` before their end, and until then the channel can be neither
    joined nor hung up.
    """
    return tuple("sound:letters/dot" if mark == "." else f"sound:digits/{mark}" for mark in text)


def _rate_micros(allow: Allow) -> int:
    """A minute's price in micros of the account's currency; 0 where it costs nothing."""
    charged = allow.reason in (Reason.PAST_ALLOWANCE, Reason.BY_CREDIT)
    # Terms of overage are there as well for a call that does not reach it yet.
    due = [each.tariff for each in allow.terms if charged or each.mode is Mode.SURCHARGE]
    return sum(tariff.rate_per_min_micros + tariff.surcharge_per_min_micros for tariff in due)
