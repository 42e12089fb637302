"""The decision about one dial: allow it, with how many seconds, or refuse it, and on which clause.

The order is fixed: emergency; the line and its account; the number; calls at once; kind, class and
country; what is left of each allowance, or of the credit that pays instead; the longest call. The first rule that
refuses is the reason. Nothing here reads a clock or a store, so equal inputs give equal decisions.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from fairdial.policy.account import Account, Dial, Kind, Line, MeterWindow, Snapshot, Standing
from fairdial.policy.cards import RateCard
from fairdial.policy.document import Allowance, Meter, Pay, Policy, Scope
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
from fairdial.policy.rating import affordable_s, reserve_micros
from fairdial.policy.terms import Clause, Terms, credit_terms, overage_terms

NO_CARDS: Mapping[str, RateCard] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Hold:
    """Seconds reserved in one window of one allowance. over: nothing is; what does not fit is charged."""

    allowance: str
    window: Window
    limit_s: int | None
    hold_s: int
    over: bool = False


@dataclass(frozen=True, slots=True)
class Allow:
    """The dial may go on. granted_s None: no end is held (emergency, kinds without a limit).

    terms: what it costs, or what it would cost past the allowance. credit_hold_micros: reserved of the credit.
    """

    reason: Reason
    clause: Clause
    account_id: str | None = None
    granted_s: int | None = None
    limit_s: int | None = None
    holds: tuple[Hold, ...] = ()
    terms: Terms | None = None
    credit_hold_micros: int = 0


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
# Kinds that policies speak of and whose calls this release does not handle: let through as a plain dial,
# they would escape what the policy says of them.
_NOT_HANDLED = frozenset({Kind.CONFERENCE, Kind.CALLBACK, Kind.COLLECT, Kind.MESSAGE})
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
        MeterWindow(
            f"{allowance.name}/{dial.line_id}" if allowance.scope is Scope.LINE else allowance.name,
            window,
            allowance.limit_s,
            over=allowance.used_up is Pay.OVERAGE,
        )
        for allowance in policy.meters_for(dial.kind)
        if allowance.meter is Meter.VOICE
        for window in windows_over(allowance.period, zone, dial.at_ms, until_ms, account.options.cycle_day)
    )


def decide(
    dial: Dial,
    number: Number,
    snapshot: Snapshot,
    policy: Policy | None,
    rules: GrantRules,
    cards: Mapping[str, RateCard] = NO_CARDS,
) -> Decision:
    """Allow or refuse a dial of `number`, whose time is `dial.at_ms`, on what `snapshot` and `policy` say.

    `policy` is the one that the snapshot's account names, None where it is not loaded. `cards`: by name.
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
    simultaneous = policy.caps.simultaneous_calls
    if simultaneous is not None and snapshot.live_calls >= simultaneous.limit:
        return Refuse(Reason.TOO_MANY_CALLS, _clause(policy, simultaneous.clause), account.id)
    uncovered = _coverage(dial, number, account, policy)
    if uncovered is not None:
        if uncovered[0] in _OUTSIDE and policy.uncovered and _credit_pays(policy, number):
            return _by_credit(dial, number, account, snapshot, policy, policy.uncovered.clause, rules, cards)
        return Refuse(uncovered[0], uncovered[1], account.id)
    sized = size_grant(dial.at_ms, dial.ring_s, policy.longest_call_s(dial.kind), snapshot.meters, rules)
    if isinstance(sized, Sized):
        return _included(dial, account, snapshot.meters, policy, sized)
    short, rule = _refusing(dial, sized, snapshot.meters, policy, rules)
    if rule.used_up is Pay.CREDIT:
        return _by_credit(dial, number, account, snapshot, policy, rule.clause, rules, cards)
    held = short.used_s < (short.limit_s or 0)
    reason = Reason.ALLOWANCE_RESERVED if held else Reason.ALLOWANCE_USED_UP
    return Refuse(reason, _clause(policy, rule.clause), account.id)


def _standing(line: Line | None, account: Account | None) -> Reason | None:
    if line is None or account is None:
        return Reason.LINE_UNKNOWN
    if account.standing is Standing.TERMINATED:
        return Reason.ACCOUNT_TERMINATED
    if account.standing is Standing.SUSPENDED:
        return Reason.ACCOUNT_SUSPENDED
    return None if line.standing is Standing.ACTIVE else Reason.LINE_SUSPENDED


def _coverage(dial: Dial, number: Number, account: Account, policy: Policy) -> tuple[Reason, Clause] | None:
    if dial.kind not in policy.kinds.allow or dial.kind in _NOT_HANDLED:
        return Reason.KIND_NOT_COVERED, _clause(policy, policy.kinds.clause)
    if dial.kind not in _PUBLIC or number.number_class is NumberClass.INTERNAL:
        return None
    if number.number_class not in policy.classes.allow:
        return Reason.CLASS_NOT_COVERED, _clause(policy, policy.classes.clause)
    countries = policy.countries.allow
    if countries == "subscription":
        if account.options.until_ms is not None and dial.at_ms >= account.options.until_ms:
            return Reason.SUBSCRIPTION_OVER, _clause(policy, policy.countries.clause)
        countries = account.options.countries
    if countries != "any" and number.country not in countries:
        return Reason.COUNTRY_NOT_COVERED, _clause(policy, policy.countries.clause)
    return None


_OUTSIDE = frozenset({Reason.CLASS_NOT_COVERED, Reason.COUNTRY_NOT_COVERED, Reason.SUBSCRIPTION_OVER})


def _credit_pays(policy: Policy, number: Number) -> bool:
    return policy.pays_uncovered(number.number_class) is Pay.CREDIT


def _refusing(
    dial: Dial, short: "Short", meters: Sequence[MeterWindow], policy: Policy, rules: GrantRules
) -> tuple[MeterWindow, Allowance]:
    """The meter without room that decides: one that refuses before one past which credit pays."""
    rule_of = {allowance.name: allowance for allowance in policy.allowances}
    if rule_of[short.meter.rule].used_up is Pay.CREDIT:
        others = [meter for meter in meters if rule_of[meter.rule].used_up is not Pay.CREDIT]
        sized = size_grant(dial.at_ms, dial.ring_s, policy.longest_call_s(dial.kind), others, rules)
        short = sized if isinstance(sized, Short) else short
    return short.meter, rule_of[short.meter.rule]


def _by_credit(
    dial: Dial,
    number: Number,
    account: Account,
    snapshot: Snapshot,
    policy: Policy,
    clause_id: str,
    rules: GrantRules,
    cards: Mapping[str, RateCard],
) -> Decision:
    clause, credit = _clause(policy, clause_id), snapshot.credit
    card = cards.get(policy.charges.card or "") if policy.charges else None
    rate = card.lookup(number.e164, dial.at_ms) if card and number.e164 else None
    if card is None or rate is None or (credit is not None and credit.currency != card.currency):
        return Refuse(Reason.NO_RATE, clause, account.id)
    terms = credit_terms(policy, clause_id, card.currency, rate)
    longest_s = policy.longest_call_s(dial.kind)
    free_micros = 0 if credit is None else credit.free_micros
    sized = size_on_credit(terms, free_micros, 0, 0, longest_s or LONGEST_HORIZON_S, rules)
    if sized is None:
        return Refuse(Reason.CREDIT_TOO_LOW, clause, account.id)
    return Allow(
        Reason.BY_CREDIT,
        clause,
        account.id,
        sized.granted_s,
        longest_s,
        terms=terms,
        credit_hold_micros=sized.credit_hold_micros,
    )


def size_on_credit(
    terms: Terms, free_micros: int, granted_s: int, held_micros: int, rest_s: int, rules: GrantRules
) -> "Sized | None":
    """How many seconds more, up to `rest_s`, the free credit pays for a call that has `granted_s` already.

    Shared among calls as an allowance is (`GrantRules`), and never less than what is billed for it anyway.
    None: not another second.
    """
    afford_s = affordable_s(terms.tariff, free_micros + held_micros, granted_s + rest_s + rules.slice_s)
    room_s = afford_s - granted_s
    if room_s <= 0 or rest_s <= 0:
        return None
    share_s = granted_s + min(rest_s, _share_s(room_s, rest_s, rules))
    hold_micros = reserve_micros(terms.tariff, share_s)
    # What that reserves may pay for more, to the end of an increment: no call is cut inside it.
    until_s = affordable_s(terms.tariff, hold_micros, granted_s + rest_s)
    return Sized(until_s - granted_s, (), hold_micros - held_micros)


def _included(
    dial: Dial, account: Account, meters: Sequence[MeterWindow], policy: Policy, sized: "Sized"
) -> Allow:
    clause_of = {allowance.name: _clause(policy, allowance.clause) for allowance in policy.allowances}
    terms = overage_terms(policy) if any(meter.over for meter in meters) else None
    # A meter of the period after, into which the call may last, says nothing about its first second.
    current = [meter for meter in meters if meter.window.start_ms <= dial.at_ms]
    limited = [meter for meter in meters if meter.limit_s is not None]
    if terms is not None and any(meter.over and meter.room_s == 0 for meter in current):
        reason, clause = Reason.PAST_ALLOWANCE, terms.clause
    elif limited:
        reason, clause = Reason.WITHIN_ALLOWANCE, clause_of[limited[0].rule]
    elif meters:
        reason, clause = Reason.COVERED, clause_of[meters[0].rule]
    else:
        reason, clause = Reason.NOT_COUNTED, _clause(policy, policy.kinds.clause)
    longest_s = policy.longest_call_s(dial.kind)
    return Allow(reason, clause, account.id, sized.granted_s, longest_s, sized.holds, terms)


@dataclass(frozen=True, slots=True)
class Sized:
    """A grant and what it reserves. granted_s None: nothing limits the call."""

    granted_s: int | None
    holds: tuple[Hold, ...]
    credit_hold_micros: int = 0


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
    limited = [meter for meter in meters if meter.room_s is not None and not meter.over]
    if longest_s is None and not limited:
        return Sized(None, tuple(_hold(meter, now_ms, ring_s, 0) for meter in meters))
    wanted_s = longest_s or LONGEST_HORIZON_S
    granted_s = wanted_s
    for meter in limited:
        room_s = meter.room_s or 0
        fits_s = largest_grant_s(meter.window, now_ms, ring_s, _share_s(room_s, wanted_s, rules), wanted_s)
        if fits_s == 0:
            return Short(meter)
        granted_s = min(granted_s, fits_s)
    holds = (_hold(meter, now_ms, ring_s, granted_s) for meter in meters)
    return Sized(granted_s, tuple(hold for hold in holds if hold.hold_s or hold.over))


def _hold(meter: MeterWindow, now_ms: int, ring_s: int, granted_s: int) -> Hold:
    # An allowance past which calls go on reserves nothing: what is left of it when a call is settled is
    # what that call had, and the rest is charged. So no second is charged while another call gives some back.
    need_s = 0 if meter.over else most_in_window_s(meter.window, now_ms, ring_s, granted_s)
    return Hold(meter.allowance, meter.window, meter.limit_s, need_s, meter.over)


def _share_s(room_s: int, wanted_s: int, rules: GrantRules) -> int:
    if room_s - wanted_s >= rules.slice_s:
        return wanted_s
    share_s = max(rules.useful_s, min(room_s // 4, max(rules.slice_s, room_s // LAST_SLICES)))
    return room_s if room_s - share_s < rules.useful_s else share_s


def _clause(policy: Policy, clause_id: str) -> Clause:
    return Clause(policy.name, policy.version, clause_id)
