"""Account, line, and the snapshot that a decision sees.

An account pays; it holds lines and numbers. A line is an authenticated endpoint of the switch. The snapshot
is what the ledger knows at the moment of the dial, read in the same transaction that writes the grant.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from fairdial.policy.numbers import Habit
from fairdial.policy.periods import Window, zone_named
from fairdial.policy.prefixes import COUNTRIES
from fairdial.policy.raises import Raise, Raised
from fairdial.policy.rating import currency_digits


class Kind(StrEnum):
    """Kinds of calls; the failure rules and the policies speak of these."""

    OUTBOUND = "outbound"
    INBOUND = "inbound"
    INTERNAL = "internal"
    CONFERENCE = "conference"
    CALLBACK = "callback"
    COLLECT = "collect"
    VOICEMAIL = "voicemail"
    EMERGENCY = "emergency"
    MESSAGE = "message"


class Medium(StrEnum):
    """How a message goes; chat: to somebody on this switch (S1)."""

    SMS = "sms"
    MMS = "mms"
    WHATSAPP = "whatsapp"
    CHAT = "chat"


Verified = Literal["passed", "failed", ""]
"""What the network says of a caller's number; "" where nobody said."""


class Standing(StrEnum):
    """Whether an account or a line may place calls."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    TERMINATED = "terminated"


@dataclass(frozen=True, slots=True)
class Options:
    """What was bought with a subscription, beside the policy itself.

    countries: those that the plan was bought for, where the policy leaves them to the subscription (K1).
    until_ms: end of the period bought, None where it runs on. cycle_day: first day of the billing cycle,
    1 to 31, the last day of shorter months. plan: the operator's name for what was sold. currency: in which
    a policy that names none charges. estimate_s: talk a month that the customer declared (S2).
    """

    countries: frozenset[str] = frozenset()
    until_ms: int | None = None
    cycle_day: int = 1
    plan: str = ""
    currency: str | None = None
    estimate_s: int | None = None

    def __post_init__(self) -> None:
        unknown = sorted(self.countries - COUNTRIES)
        if unknown:
            raise ValueError(
                f"country {unknown[0]!r} is not an ISO 3166-1 alpha-2 code; write it like GB or DE"
            )
        if not 1 <= self.cycle_day <= 31:
            raise ValueError(f"cycle day {self.cycle_day} is not a day of a month; write 1 to 31")
        if self.currency is not None:
            currency_digits(self.currency)
        if self.estimate_s is not None and self.estimate_s < 0:
            raise ValueError(f"estimate of {self.estimate_s} s is below zero; write seconds a month")


@dataclass(frozen=True, slots=True)
class Credit:
    """Prepaid credit of an account. What live calls reserve is part of the balance."""

    currency: str
    balance_micros: int
    reserved_micros: int = 0

    @property
    def free_micros(self) -> int:
        """What no call has reserved."""
        return self.balance_micros - self.reserved_micros


@dataclass(frozen=True, slots=True)
class Account:
    """Who pays. `zone` is the IANA zone in whose local midnight its periods begin.

    fraud: terminated for fraud, so that what is left of its credit is forfeited (V8). restricted: services that it
    may not use for now (S4); an emergency call is none that can be taken away. raises: limits of its policy that are,
    were lately, or will be higher for it (R5).
    """

    id: str
    policy: str
    zone: str = "UTC"
    name: str = ""
    standing: Standing = Standing.ACTIVE
    options: Options = field(default_factory=Options)
    fraud: bool = False
    restricted: frozenset[Kind] = frozenset()
    raises: tuple[Raise, ...] = ()

    def __post_init__(self) -> None:
        _identifier("account", self.id)
        zone_named(self.zone)
        if Kind.EMERGENCY in self.restricted:
            raise ValueError("emergency calls cannot be restricted; name another service")

    def bars(self, kind: Kind) -> bool:
        """Whether it may not place or go on with calls of that kind at all, whatever its plan covers (K12, S4)."""
        return self.standing is not Standing.ACTIVE or kind in self.restricted


@dataclass(frozen=True, slots=True)
class Line:
    """An endpoint of the switch that belongs to an account. `id` is the endpoint's name."""

    id: str
    account_id: str
    habit: Habit = field(default_factory=Habit)
    standing: Standing = Standing.ACTIVE

    def __post_init__(self) -> None:
        _identifier("line", self.id)


_E164 = re.compile(r"\+[1-9][0-9]{2,14}")


@dataclass(frozen=True, slots=True)
class OwnNumber:
    """A number of the public network that belongs to an account, and may be shown by its lines (A4).

    number: E.164. line_id: the line that it is the number of; None: of the account as a whole.
    """

    number: str
    account_id: str
    line_id: str | None = None

    def __post_init__(self) -> None:
        if not _E164.fullmatch(self.number):
            raise ValueError(f"number {self.number!r} is not in E.164; write it like +442079460000")


class Consent(StrEnum):
    """What a customer can agree to beside the policy; a rule that needs it has no effect without."""

    SURCHARGE = "surcharge"


@dataclass(frozen=True, slots=True)
class Agreement:
    """An agreement: who gave it, when (UTC milliseconds), and what it was about (S5).

    about: the case or request that it answers, such as "case 3"; "" for none. recorded_by: who wrote it down.
    withdrawn_ms, withdrawn_by: when it ended, and by whom; None: it holds.
    """

    account_id: str
    consent: Consent
    agreed_by: str
    at_ms: int
    note: str = ""
    about: str = ""
    recorded_by: str = ""
    withdrawn_ms: int | None = None
    withdrawn_by: str = ""

    def __post_init__(self) -> None:
        if not self.agreed_by.strip():
            raise ValueError("an agreement needs a name: say who gave it")


def _identifier(what: str, value: str) -> None:
    plain = value.isascii() and value.isprintable() and " " not in value and '"' not in value
    if not plain or not 1 <= len(value) <= 80:
        raise ValueError(
            f"{what} id {value!r} must be 1 to 80 printable ASCII characters without spaces or quotes"
        )


@dataclass(frozen=True, slots=True)
class Message:
    """What a dial of kind `message` is besides. text: the fingerprint of what it says (`texts.py`), "" without text."""

    medium: Medium
    text: str = ""


@dataclass(frozen=True, slots=True)
class Dial:
    """One dial as the desk asks about it. `call_id` is the idempotency key: one per dial, not per channel.

    caller: the number that the line shows, as the switch has it; "" where it shows none. encrypted: the
    caller's leg; None where the switch did not say. attempts: dials of the line in the last second, this one
    counted (A3). verified: whether the network vouches for the caller's number (STIR/SHAKEN, RFC 8224).
    video: the caller's leg offers a picture; codec: what its voice is sent in, "" where the switch did not say.
    message: of a message, where it is known.
    """

    call_id: str
    kind: Kind
    dialled: str
    line_id: str
    channel: str
    at_ms: int
    ring_s: int
    caller: str = ""
    sip_call_id: str = ""
    encrypted: "Encrypted | None" = None
    attempts: int = 1
    verified: Verified = ""
    video: bool = False
    codec: str = ""
    message: Message | None = None


@dataclass(frozen=True, slots=True)
class Encrypted:
    """Whether a leg's signalling goes over TLS and its media over SRTP (A7)."""

    signalling: bool
    media: bool


@dataclass(frozen=True, slots=True)
class MeterWindow:
    """One allowance in one window, as the ledger has it. limit_units None: metered, not limited.

    Units are seconds of talk, or messages. allowance: the rule's name; "name/line" where each line has its own
    (R1). over: use past the limit goes on and is charged (R3, V2); `over_units` is how much that was. weight: how
    many units a second of this call counts (V6). room: it counts the room's clock, once for all who are in a
    conference (K5). raised: what made `limit_units` higher than the policy's own (R5).
    """

    allowance: str
    window: Window
    limit_units: int | None
    used_units: int = 0
    reserved_units: int = 0
    over_units: int = 0
    over: bool = False
    weight: int = 1
    room: bool = False
    raised: Raised | None = None

    @property
    def rule(self) -> str:
        """Name of the rule in the policy."""
        return self.allowance.partition("/")[0]

    @property
    def room_units(self) -> int | None:
        """Unreserved units; None where there is no limit."""
        if self.limit_units is None:
            return None
        return max(0, self.limit_units - self.used_units - self.reserved_units)

    @property
    def room_s(self) -> int | None:
        """Seconds of this call that fit into what is unreserved; None where there is no limit."""
        room_units = self.room_units
        return None if room_units is None else room_units // self.weight

    def room_below_s(self, limit_units: int) -> int:
        """Seconds of this call that would fit below another limit."""
        return max(0, limit_units - self.used_units - self.reserved_units) // self.weight


@dataclass(frozen=True, slots=True)
class Needs:
    """What a decision wants to know beside the account: meters, still empty, and whether a number is its own.

    shown: the caller's number in E.164, None where it shows none. identity: whether numbers matter at all.
    room: the conference room of the account that the dial is for. callee: the number, in E.164, of which it matters
    whether the account has called it, and how many it has since `callees_since_ms`.
    """

    meters: tuple[MeterWindow, ...] = ()
    identity: bool = False
    shown: str | None = None
    room: str | None = None
    callee: str | None = None
    callees_since_ms: int = 0


@dataclass(frozen=True, slots=True)
class Room:
    """A conference room in which somebody is, or that somebody is called into.

    id: of its session, the call that opened it. seats: taken, also by who is still rung. until_ms: where the longest
    grant of those in it ends, at the rule bound_by, past while nobody is in; None: one of them has no end. opened_ms:
    while nobody is in, the latest moment at which who is rung can answer.
    """

    id: str
    seats: int
    opened_ms: int
    until_ms: int | None
    bound_by: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """own: the caller shows a number of the account. instead: the line's number, or else one of the account."""

    own: bool
    instead: str | None


@dataclass(frozen=True, slots=True)
class Callees:
    """The numbers that an account calls. callee: the one that is dialled; known: it was called before; count:
    different ones that were called lately.
    """

    callee: str
    known: bool
    count: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the ledger knows about the payer of a dial.

    live_calls: dials of the account that hold a grant. live_inbound: those that came in for this line.
    agreed: the agreements of the account that hold. identity: None where it was not asked for. room: the
    conference that the dial is for, None where nobody is in it. callees: None where they were not asked for.
    """

    line: Line | None
    account: Account | None
    meters: tuple[MeterWindow, ...] = ()
    credit: Credit | None = None
    live_calls: int = 0
    live_inbound: int = 0
    agreed: frozenset[Consent] = frozenset()
    identity: Identity | None = None
    room: Room | None = None
    callees: Callees | None = None
