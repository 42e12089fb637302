"""What the dialplan asks and what it is told, in one form for Stasis and for AGI.

`dialplan/fairdial.conf` reads the answer from one variable, `FAIRDIAL_ANSWER`, and unpacks it into the
variables that engineers see (dialplan/README.md). One variable, because each costs a request.
"""

from dataclasses import dataclass

from fairdial.desk import Asked, Failed
from fairdial.policy.account import Kind
from fairdial.policy.decide import Allow, Verdict
from fairdial.policy.outcomes import OUTCOMES

RING_S = 120
RING_MAX_S = 600
_DIALLED_MAX = 80


class MalformedRequest(ValueError):
    """The dialplan asked in a form that is not understood; the text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Answer:
    """result: ALLOW, REFUSE or FAILED. limit_s None: no end is held; lease_s is for the caller's leg
    before answer: ring time + limit.
    """

    result: str
    reason: str
    cause: int
    number: str = ""
    limit_s: int | None = None
    lease_s: int | None = None
    prompt: str = ""
    decision: str = ""

    def packed(self) -> str:
        """The value of FAIRDIAL_ANSWER: fields in the order in which `fairdial.conf` unpacks them."""
        fields = (
            self.result,
            self.reason,
            self.cause,
            self.number,
            self.limit_s,
            self.lease_s,
            self.prompt,
            self.decision,
        )
        return ",".join("" if field is None else str(field) for field in fields)


def asked_from(
    *,
    channel_id: str,
    endpoint: str,
    kind: str,
    number: str,
    attempt: str = "1",
    ring_s: str = "",
    line: str = "",
    caller: str = "",
    sip_call_id: str = "",
    switch: str = "",
) -> Asked:
    """A request out of the words that the dialplan passed. Raises MalformedRequest.

    `line` is what the dialplan set in FAIRDIAL_LINE, or else the authenticated endpoint counts; the
    caller's number never does. `attempt` counts the dials of one channel.
    """
    try:
        known_kind = Kind(kind)
    except ValueError:
        known = ", ".join(Kind)
        raise MalformedRequest(f"kind {kind[:40]!r} is unknown; write one of {known}") from None
    if not attempt.isascii() or not attempt.isdigit() or len(attempt) > 6:
        raise MalformedRequest(f"attempt {attempt[:40]!r} is not a count")
    if ring_s and not (ring_s.isascii() and ring_s.isdigit() and 1 <= int(ring_s[:9]) <= RING_MAX_S):
        raise MalformedRequest(f"FAIRDIAL_RING {ring_s[:40]!r} is not 1 to {RING_MAX_S} seconds")
    if not channel_id or len(channel_id) > 150:
        raise MalformedRequest("the channel has no usable id")
    prefix = f"{switch}:" if switch else ""
    return Asked(
        call_id=f"{prefix}{channel_id}-{attempt}",
        kind=known_kind,
        # Cut, not refused: the classification says what is wrong with it, and it must be recorded.
        dialled=number[:_DIALLED_MAX],
        line_id=(line or endpoint)[:80],
        channel=channel_id,
        ring_s=int(ring_s) if ring_s else RING_S,
        caller=caller[:80],
        sip_call_id=sip_call_id[:200],
    )


def answer_to(asked: Asked, outcome: Verdict | Failed) -> Answer:
    """The answer that tells the dialplan of a verdict."""
    if isinstance(outcome, Failed):
        told = OUTCOMES[outcome.reason]
        return Answer("FAILED", outcome.reason, told.cause, decision=asked.call_id)
    decision = outcome.decision
    told = OUTCOMES[decision.reason]
    number = outcome.number.e164 or asked.dialled
    if isinstance(decision, Allow):
        lease_s = None if decision.granted_s is None else asked.ring_s + decision.granted_s
        return Answer(
            "ALLOW", decision.reason, 0, number, decision.granted_s, lease_s, decision=asked.call_id
        )
    # What was dialled may hold anything; a refused dial is not told a number that it could dial.
    safe = outcome.number.e164 or ""
    return Answer("REFUSE", decision.reason, told.cause, safe, None, None, told.prompt, asked.call_id)
