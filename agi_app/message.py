"""The `message` route: the dialplan asks whether a SIP MESSAGE (RFC 3428) may be sent on.

`AGI(agi://host:4573/message?line=…&number=…&medium=…)` sets FAIRDIAL_ANSWER, which the dialplan unpacks, and
FAIRDIAL_DECISION. What comes from the sender (text, From, Call-ID) is read from the channel here: all messages of a
switch share one channel, so its id names none, and a header can stand for any variable that the switch sets itself
(`PJSIP_ENDPOINT`, `PJSIP_RECVADDR`), so neither the line nor the address is taken from there.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import structlog

from agi_app.fastagi import AgiError, AgiSession, Route
from agi_app.telling import Teller
from fairdial import call_log
from fairdial.answer import Answer, MalformedRequest, answer_to, asked_from, failed, refused
from fairdial.desk import Asked, Failed, Sending
from fairdial.policy.account import Kind, Medium, Message
from fairdial.policy.outcomes import Reason
from fairdial.tallies import Spread

log = structlog.get_logger(__name__)

_USER: Final = re.compile(r"<?sips?:([^@;>]*)@")
"""The user part of a From header (RFC 3261 19.1.1); where there is none, the sender shows no number."""

Ask = Callable[[Asked], Awaitable[Sending]]
"""Decides about a message; allowed, it is counted."""
NotSent = Callable[[Sending], None]
"""Takes back what was counted of a message that was not sent."""
Fingerprint = Callable[[str], str]
"""What is kept of a text."""


def message_route(ask: Ask, not_sent: NotSent, fingerprint: Fingerprint, answers: Spread) -> Route:
    """The route. answers: where is counted how long the dialplan waits for one."""

    async def message(session: AgiSession) -> None:
        teller = Teller(session, "message", answers)
        sip_call_id = await session.get_on_one_line("MESSAGE_DATA(Call-ID)") or ""
        call_log.speak_of(session.request.uniqueid, sip_call_id)
        text = await session.get_on_one_line("MESSAGE(body)") or ""
        if not text.strip():
            # Asterisk drops a text of more than 1,023 bytes, and would send on an empty one.
            log.info("message_unreadable", line=session.request.query.get("line", "")[:80])
            await teller.tell(refused(Reason.MESSAGE_UNREADABLE))
            return
        try:
            asked = await _asked(session, fingerprint(text), sip_call_id)
        except MalformedRequest as error:
            log.error("request_malformed", channel=session.request.channel[:80], error=str(error))
            await teller.tell(failed(Reason.REQUEST_MALFORMED))
            return
        call_log.speak_of(asked.call_id, sip_call_id)
        sending = await ask(asked)
        try:
            await session.set_variable("FAIRDIAL_DECISION", asked.call_id)
            await teller.tell(_told(asked, sending))
        except AgiError:
            not_sent(sending)
            raise
        if session.hung_up:
            # The switch waited no longer: its failure rule has decided.
            not_sent(sending)

    return message


async def _asked(session: AgiSession, text: str, sip_call_id: str) -> Asked:
    """The question out of what the dialplan and the sender's headers say. Raises MalformedRequest."""
    query = session.request.query
    sent_from = await session.get_on_one_line("MESSAGE_DATA(From)") or ""
    try:
        medium = Medium(query.get("medium", "sms"))
    except ValueError:
        known = ", ".join(Medium)
        raise MalformedRequest(
            f"medium {query.get('medium', '')[:40]!r} is unknown; write one of {known}"
        ) from None
    line, number = query.get("line", ""), query.get("number", "")
    sequence = await session.get_on_one_line("MESSAGE_DATA(CSeq)") or ""
    user = _USER.search(sent_from)
    asked = asked_from(
        # With all that makes a message another: a sender who uses a Call-ID again sends nothing for free by it.
        channel_id=f"msg-{_digest(line, number, medium, text, sent_from, sip_call_id, sequence)}",
        endpoint=line,
        kind=Kind.MESSAGE,
        number=number,
        caller=user[1] if user else "",
        sip_call_id=sip_call_id,
    )
    return replace(asked, message=Message(medium, text))


def _digest(*parts: str) -> str:
    whole = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _told(asked: Asked, sending: Sending) -> Answer:
    answer = answer_to(asked, sending.outcome)
    if isinstance(sending.outcome, Failed) or answer.result != "ALLOW":
        return answer
    if sending.outcome.repeated:
        return refused(Reason.MESSAGE_REPEATED)
    # Always named, so that the From header of the sender goes no further.
    return Answer(answer.result, answer.reason, answer.cause, answer.number, caller=sending.shown)
