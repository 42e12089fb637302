"""Account, line, and the snapshot that a decision sees.

An account pays; it holds lines. A line is an authenticated endpoint of the switch. The snapshot is
what the ledger knows at the moment of the dial, read in the same transaction that writes the grant.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from fairdial.policy.numbers import Habit
from fairdial.policy.periods import Window, zone_named


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
class Account:
    """Who pays. `zone` is the IANA zone in whose local midnight its periods begin."""

    id: str
    policy: str
    zone: str = "UTC"
    name: str = ""
    standing: Standing = Standing.ACTIVE

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
    """One allowance in one window, as the ledger has it. limit_s None: metered, not limited."""

    allowance: str
    window: Window
    limit_s: int | None
    used_s: int = 0
    reserved_s: int = 0

    @property
    def room_s(self) -> int | None:
        """Unreserved seconds; None where there is no limit."""
        return None if self.limit_s is None else max(0, self.limit_s - self.used_s - self.reserved_s)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the ledger knows about the payer of a dial."""

    line: Line | None
    account: Account | None
    meters: tuple[MeterWindow, ...] = ()
