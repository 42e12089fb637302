"""What the dialplan asks and what it is told, in one form for Stasis and for AGI.

The answer is one extension of the context `fairdial-told`, to which the channel is sent and which unpacks it
into the variables that engineers see (dialplan/README.md). A variable set over ARI would do the same, but
Asterisk 22 then refuses functions such as DB() to the rest of that call's dialplan.
"""

from dataclasses import dataclass

from fairdial.call_log import SIP_CALL_ID_MAX
from fairdial.desk import Asked, Failed
from fairdial.policy.account import Encrypted, Kind, Verified
from fairdial.policy.decide import Allow, Verdict
from fairdial.policy.outcomes import OUTCOMES, Reason

RING_S = 120
RING_MAX_S = 600
_DIALLED_MAX = 80
_LINE_MAX = 80
_CODEC_MAX = 20
_SOURCE_MAX = 60
"""An IPv6 address with its zone has 55 characters at most."""
EXTENSION_CHARS_MAX = 79
"""AST_MAX_EXTENSION of Asterisk, less the closing zero."""
CONTEXT = "fairdial-told"


class MalformedRequest(ValueError):
    """The dialplan asked in a form that is not understood; the text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Answer:
    """result: ALLOW, REFUSE or FAILED. number: what to dial, "" where that is what was asked for.
    limit_s None: no end is held; lease_s is for the caller's leg before answer: ring time + limit. caller:
    the number to show instead of the caller's own, "" where it shows its own.
    """

    result: str
    reason: str
    cause: int
    number: str = ""
    limit_s: int | None = None
    lease_s: int | None = None
    prompt: str = ""
    caller: str = ""

    def packed(self) -> str:
        """The extension in `fairdial-told`: fields in the order in which it is unpacked.

        At most EXTENSION_CHARS_MAX long; Asterisk would cut the rest off.
        """
        fields = (
            self.result,
            self.reason,
            self.cause,
            self.number,
            self.limit_s,
            self.lease_s,
            self.prompt,
            self.caller,
        )
        return "*".join("" if field is None else str(field) for field in fields)


def endpoint_of(channel_name: str) -> str:
    """Name of the endpoint: "alice" of "PJSIP/alice-00000001"; "" where the name has no such form."""
    technology, slash, rest = channel_name.partition("/")
    endpoint, dash, _serial = rest.rpartition("-")
    return endpoint if technology and slash and dash else ""


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
    encrypted: str = "",
    source: str = "",
    verified: str = "",
    video: str = "",
    codec: str = "",
) -> Asked:
    """A request out of the words that the dialplan passed. Raises MalformedRequest.

    `line` is what the dialplan set in FAIRDIAL_LINE, or else the authenticated endpoint counts; the
    caller's number never does. `attempt` counts the dials of one channel. `encrypted` is two digits, 1 for yes:
    signalling, media; "" where the channel is of a kind that does not say. `source` is the address and port that
    the dial came from, likewise; the endpoint then stands for it. `verified` is what the dialplan set in
    FAIRDIAL_VERIFIED: whether the network vouches for the caller's number. `video`: "1" where the caller's leg
    offers a picture. `codec`: what its voice is sent in.
    """
    try:
        known_kind = Kind(kind)
    except ValueError:
        known = ", ".join(Kind)
        raise MalformedRequest(f"kind {kind[:40]!r} is unknown; write one of {known}") from None
    if not attempt.isascii() or not attempt.isdigit() or len(attempt) > 6:
        raise MalformedRequest(f"attempt {attempt[:40]!r} is not a count")
    if ring_s and not _is_ring_time(ring_s):
        raise MalformedRequest(f"FAIRDIAL_RING {ring_s[:40]!r} is not 1 to {RING_MAX_S} seconds")
    if not channel_id or len(channel_id) > 150:
        raise MalformedRequest("the channel has no usable id")
    if len(line or endpoint) > _LINE_MAX:
        raise MalformedRequest(f"line {(line or endpoint)[:40]!r}... is longer than {_LINE_MAX} characters")
    return Asked(
        call_id=f"{channel_id}-{attempt}",
        kind=known_kind,
        # Cut, not refused: the classification says what is wrong with it, and it must be recorded.
        dialled=number[:_DIALLED_MAX],
        line_id=line or endpoint,
        channel=channel_id,
        ring_s=_ring_s(known_kind, ring_s),
        caller=caller[:80],
        sip_call_id=sip_call_id[:SIP_CALL_ID_MAX],
        encrypted=encrypted_from(encrypted),
        source=_address(source) or endpoint[:_LINE_MAX],
        verified=_verified(verified),
        video=video == "1",
        codec=codec[:_CODEC_MAX],
    )


def _verified(word: str) -> Verified:
    known: dict[str, Verified] = {"passed": "passed", "failed": "failed", "": ""}
    if word not in known:
        raise MalformedRequest(f"FAIRDIAL_VERIFIED {word[:40]!r} is neither passed nor failed")
    return known[word]


def encrypted_from(digits: str) -> Encrypted | None:
    """Two digits, 1 for yes: signalling, media; "" where the channel does not say. Raises MalformedRequest."""
    if digits not in _ENCRYPTED:
        raise MalformedRequest(f"encryption {digits[:40]!r} is neither empty nor two digits of 0 and 1")
    return _ENCRYPTED[digits]


_ENCRYPTED = {
    "": None,
    **{
        f"{int(signalling)}{int(media)}": Encrypted(signalling, media)
        for signalling in (False, True)
        for media in (False, True)
    },
}


def _address(source: str) -> str:
    """192.0.2.7 of "192.0.2.7:5060", 2001:db8::7 of "[2001:db8::7]:5060": each call may come from another port."""
    with_port = source.startswith("[") or source.count(":") == 1
    address = source.rpartition(":")[0] if with_port else source
    return address.strip("[]")[:_SOURCE_MAX]


def _ring_s(kind: Kind, ring_s: str) -> int:
    if kind is Kind.CONFERENCE:
        return 0  # nobody rings: who is let in is in
    return int(ring_s) if ring_s else RING_S


def _is_ring_time(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= RING_MAX_S


def failed(reason: Reason) -> Answer:
    """The answer that leaves a dial to the dialplan's failure rule."""
    return Answer("FAILED", reason, OUTCOMES[reason].cause)


def refused(reason: Reason) -> Answer:
    """The answer that refuses a dial for that reason."""
    told = OUTCOMES[reason]
    return Answer("REFUSE", reason, told.cause, prompt=told.prompt)


def answer_to(asked: Asked, outcome: Verdict | Failed) -> Answer:
    """The answer that tells the dialplan of a verdict."""
    if isinstance(outcome, Failed):
        return failed(outcome.reason)
    decision = outcome.decision
    told = OUTCOMES[decision.reason]
    number = outcome.number.e164 or ""
    if isinstance(decision, Allow):
        lease_s = None if decision.granted_s is None else asked.ring_s + decision.granted_s
        return Answer(
            "ALLOW",
            decision.reason,
            told.cause,
            number,
            decision.granted_s,
            lease_s,
            caller=decision.caller or "",
        )
    return Answer("REFUSE", decision.reason, told.cause, number, prompt=told.prompt)
