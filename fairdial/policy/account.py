"""Account, line, and the snapshot that a decision sees.

An account pays; it holds lines. A line is an authenticated endpoint of the switch. The snapshot is
what the ledger knows at the moment of the dial, read in the same transaction that writes the grant.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from fairdial.policy.numbers import Habit
from fairdial.policy.periods import Window, zone_named
from fairdial.policy.prefixes import COUNTRIES


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
    1 to 31, the last day of shorter months.
    """

    countries: frozenset[str] = frozenset()
    until_ms: int | None = None
    cycle_day: int = 1

    def __post_init__(self) -> None:
        unknown = sorted(self.countries - COUNTRIES)
        if unknown:
            raise ValueError(
                f"country {unknown[0]!r} is not an ISO 3166-1 alpha-2 code; write it like GB or DE"
            )
        if not 1 <= self.cycle_day <= 31:
            raise ValueError(f"cycle day {self.cycle_day} is not a day of a month; write 1 to 31")


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
    """Who pays. `zone` is the IANA zone in whose local midnight its periods begin."""

    id: str
    policy: str
    zone: str = "UTC"
    name: str = ""
    standing: Standing = Standing.ACTIVE
    options: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        _identifier("account", self.id)
        zone_named(self.zone)


@dataclass(frozen=True, slots=True)
class Line:
    """An endpoint of the switch that belongs to an account. `id` is the endpoint's name."""

    id: str
    account_id: str
    habit: Habit = field(default_factory=Habit)
    standing: Standing = Standing.ACTIVE

    def __post_init__(self) -> None:
        _identifier("line", self.id)


def _identifier(what: str, value: str) -> None:
    plain = value.isascii() and value.isprintable() and " " not in value and '"' not in value
    if not plain or not 1 <= len(value) <= 80:
        raise ValueError(
            f"{what} id {value!r} must be 1 to 80 printable ASCII characters without spaces or quotes"
        )


@dataclass(frozen=True, slots=True)
class Dial:
    """One dial as the desk asks about it. `call_id` is the idempotency key: one per dial, not per channel."""

    call_id: str
    kind: Kind
    dialled: str
    line_id: str
    channel: str
    at_ms: int
    ring_s: int
    caller: str = ""
    sip_call_id: str = ""


@dataclass(frozen=True, slots=True)
class MeterWindow:
    """One allowance in one window, as the ledger has it. limit_s None: metered, not limited.

    allowance: the rule's name; "name/line" where each line has its own (R1).
    over: use past the limit goes on and is charged (R3, V2); `over_s` is how much that was.
    """

    allowance: str
    window: Window
    limit_s: int | None
    used_s: int = 0
    reserved_s: int = 0
    over_s: int = 0
    over: bool = False

    @property
    def rule(self) -> str:
        """Name of the rule in the policy."""
        return self.allowance.partition("/")[0]

    @property
    def room_s(self) -> int | None:
        """Unreserved seconds; None where there is no limit."""
        return None if self.limit_s is None else max(0, self.limit_s - self.used_s - self.reserved_s)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the ledger knows about the payer of a dial. live_calls: dials of the account that hold a grant."""

    line: Line | None
    account: Account | None
    meters: tuple[MeterWindow, ...] = ()
    credit: Credit | None = None
    live_calls: int = 0
