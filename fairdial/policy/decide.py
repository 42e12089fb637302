"""The decision about one dial: allow it, with how many seconds, or refuse it, and on which clause.

The order is fixed: emergency; the line and its account; the number; kind, class and country; what is
left of each allowance; the longest call. The first rule that refuses is the reason. Nothing here
reads a clock or a store, so equal inputs give equal decisions.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fairdial.policy.account import Account, Dial, Kind, Line, MeterWindow, Snapshot, Standing
from fairdial.policy.document import Policy
from fairdial.policy.numbers import Number
from fairdial.policy.outcomes import Reason
from fairdial.policy.periods import (
    MS_PER_S,
    Window,
    largest_grant_s,
    most_in_window_s,
    windows_over,
    zone_named,
)
from fairdial.policy.prefixes import NumberClass


@dataclass(frozen=True, slots=True)
class Clause:
    """Where a rule comes from. `policy` is "fairdial" for rules that hold under every policy."""

    policy: str
    version: str
    id: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Seconds reserved in one window of one allowance."""

    allowance: str
    window: Window
    limit_s: int | None
    hold_s: int


@dataclass(frozen=True, slots=True)
class Allow:
    """The dial may go on. granted_s None: no end is held (emergency, kinds without a limit)."""

    reason: Reason
    clause: Clause
    account_id: str | None = None
    granted_s: int | None = None
    limit_s: int | None = None
    holds: tuple[Hold, ...] = ()


@dataclass(frozen=True, slots=True)
class Refuse:
    """The dial ends here."""

    reason: Reason
    clause: Clause
    account_id: str | None = None


Decision = Allow | Refuse


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision with the number as it was understood."""

    number: Number
    decision: Decision


@dataclass(frozen=True, slots=True)
class GrantRules:
    """How the last minutes of an allowance are shared among calls.

    useful_s: no grant is shorter while that much is left; a rest below it goes out whole.
    slice_s: the largest grant while calls share the last minutes, which are LAST_SLICES of these; it is
        renewed during the call.
    """

    useful_s: int = 10
    slice_s: int = 60

    def __post_init__(self) -> None:
        if not 1 <= self.useful_s <= self.slice_s:
            raise ValueError(
                f"useful_s {self.useful_s} must be at least 1 and at most slice_s {self.slice_s}"
            )


LAST_SLICES = 16
"""Where more slices than this are left, a grant is that part of what is left instead of a slice: hours that
remain are not handed out by the minute, as each lease that ends early is a call that a crash would cut."""

ALWAYS = Clause("fairdial", "1", "always")
"""Rules that hold under every policy: emergency, known line, valid number (CLAUSES.md, reading rules)."""

# Kinds whose destination is a number of the public network.
_PUBLIC = frozenset({Kind.OUTBOUND, Kind.CALLBACK, Kind.COLLECT})
# Kinds whose destination is an extension of the switch, whatever number it looks like.
_ON_SWITCH = frozenset({Kind.INTERNAL, Kind.VOICEMAIL, Kind.CONFERENCE})
LONGEST_HORIZON_S = 86_400
"""The longest single grant, for kinds whose calls the policy does not limit; it is renewed."""

# What may stand in an extension or a number that is handed back to the dialplan: whatever could end a
# dial string or a field of the answer is not among it.
_DIALLABLE = re.compile(r"[0-9A-Za-z+*#._-]+")


def is_emergency(kind: Kind, number: Number) -> bool:
    """Whether nothing may stand in the way of this dial."""
    return kind is Kind.EMERGENCY or number.number_class is NumberClass.EMERGENCY


EMERGENCY = Allow(Reason.EMERGENCY, ALWAYS)
"""The decision on every emergency call: needs no account, policy or store."""


def number_for(kind: Kind, classified: Number) -> Number:
    """The number as this kind of call means it: an extension is internal, except that 112 stays 112."""
    if kind in _ON_SWITCH and not is_emergency(kind, classified):
        return Number(classified.dialled, None, NumberClass.INTERNAL, None)
    return classified


def meters_at(account: Account, policy: Policy, dial: Dial) -> tuple[MeterWindow, ...]:
    """The meters, still empty, in whose windows this dial can fall; the ledger fills in what they hold."""
    zone = zone_named(account.zone)
    longest_s = policy.longest_call_s(dial.kind) or LONGEST_HORIZON_S
    until_ms = dial.at_ms + (dial.ring_s + longest_s) * MS_PER_S
    return tuple(
        MeterWindow(allowance.name, window, allowance.limit_s)
        for allowance in policy.meters_for(dial.kind)
        for window in windows_over(allowance.period, zone, dial.at_ms, until_ms)
    )


def decide(
    dial: Dial, number: Number, snapshot: Snapshot, policy: Policy | None, rules: GrantRules
) -> Decision:
    """Allow or refuse a dial of `number`, whose time is `dial.at_ms`, on what `snapshot` and `policy` say.

    `policy` is the one that the snapshot's account names, None where it is not loaded.
    """
    if is_emergency(dial.kind, number):
        return EMERGENCY
    account = snapshot.account
    standing = _standing(snapshot.line, account)
    if standing is not None or account is None:
        return Refuse(standing or Reason.LINE_UNKNOWN, ALWAYS, account.id if account else None)
    if policy is None:
        return Refuse(Reason.POLICY_MISSING, ALWAYS, account.id)
    unreadable = dial.kind in _PUBLIC and number.number_class is NumberClass.INVALID
    if unreadable or not _DIALLABLE.fullmatch(dial.dialled):
        return Refuse(Reason.NUMBER_INVALID, ALWAYS, account.id)
    uncovered = _coverage(dial.kind, number, policy)
    if uncovered is not None:
        return Refuse(uncovered[0], uncovered[1], account.id)
    return _grant(dial, account, snapshot.meters, policy, rules)


def _standing(line: Line | None, account: Account | None) -> Reason | None:
    if line is None or account is None:
        return Reason.LINE_UNKNOWN
    if account.standing is Standing.TERMINATED:
        return Reason.ACCOUNT_TERMINATED
    if account.standing is Standing.SUSPENDED:
        return Reason.ACCOUNT_SUSPENDED
    return None if line.standing is Standing.ACTIVE else Reason.LINE_SUSPENDED


def _coverage(kind: Kind, number: Number, policy: Policy) -> tuple[Reason, Clause] | None:
    if kind not in policy.kinds.allow:
        return Reason.KIND_NOT_COVERED, _clause(policy, policy.kinds.clause)
    if kind not in _PUBLIC or number.number_class is NumberClass.INTERNAL:
        return None
    if number.number_class not in policy.classes.allow:
        return Reason.CLASS_NOT_COVERED, _clause(policy, policy.classes.clause)
    countries = policy.countries.allow
    if countries != "any" and number.country not in countries:
        return Reason.COUNTRY_NOT_COVERED, _clause(policy, policy.countries.clause)
    return None


def _grant(
    dial: Dial, account: Account, meters: Sequence[MeterWindow], policy: Policy, rules: GrantRules
) -> Decision:
    longest_s = policy.longest_call_s(dial.kind)
    sized = size_grant(dial.at_ms, dial.ring_s, longest_s, meters, rules)
    clause_of = {allowance.name: _clause(policy, allowance.clause) for allowance in policy.allowances}
    if isinstance(sized, Short):
        held = sized.meter.used_s < (sized.meter.limit_s or 0)
        reason = Reason.ALLOWANCE_RESERVED if held else Reason.ALLOWANCE_USED_UP
        return Refuse(reason, clause_of[sized.meter.allowance], account.id)
    limited = [meter for meter in meters if meter.limit_s is not None]
    if limited:
        reason, clause = Reason.WITHIN_ALLOWANCE, clause_of[limited[0].allowance]
    elif meters:
        reason, clause = Reason.COVERED, clause_of[meters[0].allowance]
    else:
        reason, clause = Reason.NOT_COUNTED, _clause(policy, policy.kinds.clause)
    return Allow(reason, clause, account.id, sized.granted_s, longest_s, sized.holds)


@dataclass(frozen=True, slots=True)
class Sized:
    """A grant and what it reserves. granted_s None: nothing limits the call."""

    granted_s: int | None
    holds: tuple[Hold, ...]


@dataclass(frozen=True, slots=True)
class Short:
    """No second can be granted: `meter` has no room."""

    meter: MeterWindow


def size_grant(
    now_ms: int, ring_s: int, longest_s: int | None, meters: Sequence[MeterWindow], rules: GrantRules
) -> Sized | Short:
    """The largest grant up to `longest_s` that the meters allow, for a call answered within `ring_s` of now.

    All of it while at least a slice stays free for other calls; a share where calls share what is left
    (`GrantRules`); never a rest that would be too short to be useful to the next call.
    """
    limited = [meter for meter in meters if meter.room_s is not None]
    if longest_s is None and not limited:
        return Sized(None, tuple(Hold(meter.allowance, meter.window, None, 0) for meter in meters))
    wanted_s = longest_s or LONGEST_HORIZON_S
    granted_s = wanted_s
    for meter in limited:
        room_s = meter.room_s or 0
        fits_s = largest_grant_s(meter.window, now_ms, ring_s, _share_s(room_s, wanted_s, rules), wanted_s)
        if fits_s == 0:
            return Short(meter)
        granted_s = min(granted_s, fits_s)
    holds = (_hold(meter, now_ms, ring_s, granted_s) for meter in meters)
    return Sized(granted_s, tuple(hold for hold in holds if hold.hold_s))


def _hold(meter: MeterWindow, now_ms: int, ring_s: int, granted_s: int) -> Hold:
    need_s = most_in_window_s(meter.window, now_ms, ring_s, granted_s)
    return Hold(meter.allowance, meter.window, meter.limit_s, need_s)


def _share_s(room_s: int, wanted_s: int, rules: GrantRules) -> int:
    if room_s - wanted_s >= rules.slice_s:
        return wanted_s
    share_s = max(rules.useful_s, min(room_s // 4, max(rules.slice_s, room_s // LAST_SLICES)))
    return room_s if room_s - share_s < rules.useful_s else share_s


def _clause(policy: Policy, clause_id: str) -> Clause:
    return Clause(policy.name, policy.version, clause_id)
