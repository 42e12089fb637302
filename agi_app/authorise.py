"""The `authorise` route: a dialplan that prefers AGI asks the same question as one that uses Stasis.

`AGI(agi://host:4573/authorise?kind=outbound&number=…)` sets FAIRDIAL_ANSWER, which `fairdial.conf` unpacks.
Deciding and following the call is handed in: it is the same code for both ways.
"""

from collections.abc import Awaitable, Callable

import structlog

from agi_app.fastagi import AgiSession, Route
from agi_app.telling import Teller
from fairdial import call_log
from fairdial.answer import Answer, MalformedRequest, asked_from, endpoint_of, failed
from fairdial.desk import Asked
from fairdial.policy.outcomes import Reason
from fairdial.tallies import Spread

log = structlog.get_logger(__name__)

Begin = Callable[[Asked, str], Awaitable[Answer]]
"""Decides about a dial of the channel of that name, and follows it."""


def authorise_route(begin: Begin, answers: Spread) -> Route:
    """The route. answers: where is counted how long the dialplan waits for one."""

    async def authorise(session: AgiSession) -> None:
        request, teller = session.request, Teller(session, "agi", answers)
        sip_call_id = request.query.get("sip", "")
        call_log.speak_of(request.uniqueid, sip_call_id)
        try:
            asked = asked_from(
                channel_id=request.uniqueid,
                endpoint=endpoint_of(request.channel),
                kind=request.query.get("kind", "outbound"),
                number=request.query.get("number", "") or request.extension,
                attempt=request.query.get("attempt", "") or "1",
                ring_s=request.query.get("ring", ""),
                line=request.query.get("line", ""),
                caller=request.callerid,
                sip_call_id=sip_call_id,
                encrypted=request.query.get("encrypted", ""),
                source=request.query.get("source", ""),
                verified=request.query.get("verified", ""),
                video=request.query.get("video", ""),
                codec=request.query.get("codec", ""),
            )
        except MalformedRequest as error:
            log.error("request_malformed", channel=request.channel[:80], error=str(error))
            answer = failed(Reason.REQUEST_MALFORMED)
        else:
            answer = await begin(asked, request.channel)
        await teller.tell(answer)

    return authorise
