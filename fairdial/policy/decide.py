"""The decision about one dial: allow it, with how many seconds, or refuse it, and on which clause.

The order is fixed: emergency; the line and its account; the policy; then CHECKS, one after the other; then what
is left of each allowance, or of the credit that pays instead; the longest call. The first rule that refuses is
the reason. Nothing here reads a clock or a store, so equal inputs give equal decisions. Leaves to `sizing.py` how
large a grant is, to `explain.py` to tell what was looked at.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import msgspec

from fairdial.policy.account import (
    Account,
    Dial,
    Encrypted,
    Kind,
    Line,
    Medium,
    Message,
    MeterWindow,
    Snapshot,
    Standing,
)
from fairdial.policy.cards import RateCard
from fairdial.policy.document import Allowance, Cap, Meter, Pay, Policy, Scope
from fairdial.policy.numbers import Number
from fairdial.policy.outcomes import Reason
from fairdial.policy.periods import MS_PER_S, Window, windows_over, zone_named
from fairdial.policy.prefixes import NumberClass
from fairdial.policy.raises import Limit, Raise, limit_at
from fairdial.policy.sizing import (
    LONGEST_HORIZON_S,
    GrantRules,
    Hold,
    Short,
    Sized,
    size_grant,
    size_message,
    size_on_credit,
    size_seat,
)
from fairdial.policy.terms import Clause, Terms, credit_terms, message_terms, overage_terms, surcharge_terms

NO_CARDS: Mapping[str, RateCard] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Allow:
    """The dial may go on. granted_s None: no end is held (emergency, messages, kinds without a limit).

    terms: what it costs, or what it would cost past the allowance. credit_hold_micros: reserved of the credit.
    caller: the number to show instead of the caller's own (A4). flag: what is noted though it may go on (A7).
    bound_by: the rule at which the grant ends (`Sized`).
    """

    reason: Reason
    clause: Clause
    account_id: str | None = None
    granted_s: int | None = None
    limit_s: int | None = None
    holds: tuple[Hold, ...] = ()
    terms: tuple[Terms, ...] = ()
    credit_hold_micros: int = 0
    caller: str | None = None
    flag: str = ""
    bound_by: str = ""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The dial ends here."""

    reason: Reason
    clause: Clause
    account_id: str | None = None


Decision = Allow | Refuse


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision with the number as it was understood. repeated: it was made before, for the same call id."""

    number: Number
    decision: Decision
    repeated: bool = field(default=False, compare=False)


ALWAYS = Clause("fairdial", "1", "always")
"""Rules that hold under every policy: emergency, known line, valid number (CLAUSES.md, reading rules)."""

# Kinds whose destination is a number of the public network.
PUBLIC = frozenset({Kind.OUTBOUND, Kind.CALLBACK, Kind.COLLECT, Kind.MESSAGE})
# Kinds whose destination is an extension of the switch, whatever number it looks like.
_ON_SWITCH = frozenset({Kind.INTERNAL, Kind.VOICEMAIL, Kind.CONFERENCE})
# Kinds whose asking channel is another's than the line's: nothing is known of the line's own leg.
FROM_OUTSIDE = frozenset({Kind.INBOUND, Kind.COLLECT})
# Kinds in which a line of ours shows a number to the public network.
_SHOWING = PUBLIC - FROM_OUTSIDE
# Minutes in and out, on which a surcharge lies (S5).
_SURCHARGED = PUBLIC - {Kind.MESSAGE} | {Kind.INBOUND, Kind.CONFERENCE}

# Calls to numbers that the account chooses.
_CALLS_OUT = frozenset({Kind.OUTBOUND, Kind.CALLBACK})

CALLEES_MS = 86_400 * MS_PER_S
"""How long a number that was called counts as one of the day."""

UNENCRYPTED = "unencrypted"
UNVERIFIED = "unverified"

# What may stand in an extension or a number that is handed back to the dialplan: whatever could end a
# dial string or a field of the answer is not among it.
_DIALLABLE = re.compile(r"[0-9A-Za-z+*#._-]+")


def is_emergency(kind: Kind, number: Number) -> bool:
    """Whether nothing may stand in the way of this dial."""
    return kind is Kind.EMERGENCY or number.number_class is NumberClass.EMERGENCY


EMERGENCY = Allow(Reason.EMERGENCY, ALWAYS)
"""The decision on every emergency call: needs no account, policy or store."""


def number_for(kind: Kind, classified: Number, message: Message | None = None) -> Number:
    """The number as this kind of call means it: an extension is internal, except that 112 stays 112."""
    on_switch = kind in _ON_SWITCH or (message is not None and message.medium is Medium.CHAT)
    if on_switch and not is_emergency(kind, classified):
        return Number(classified.dialled, None, NumberClass.INTERNAL, None)
    return classified


_TALK = frozenset({Meter.VOICE, Meter.CONFERENCE})
_MESSAGES, _CHATS = frozenset({Meter.MESSAGES}), frozenset({Meter.CHATS})


def meters_at(
    account: Account, policy: Policy, dial: Dial, number_class: NumberClass | None = None
) -> tuple[MeterWindow, ...]:
    """The meters, still empty, in whose windows this dial can fall; the ledger fills in what they hold.

    number_class: a message within the switch is a chat, any other counts as a message (S1).
    """
    zone = zone_named(account.zone)
    if dial.kind is Kind.MESSAGE:
        wanted = _CHATS if number_class is NumberClass.INTERNAL else _MESSAGES
        until_ms = dial.at_ms
    else:
        wanted = _TALK
        until_ms = dial.at_ms + (
            (dial.ring_s + (policy.longest_call_s(dial.kind) or LONGEST_HORIZON_S)) * MS_PER_S
        )
    return tuple(
        _meter_at(account, policy, allowance, dial, window)
        for allowance in policy.meters_for(dial.kind)
        if allowance.meter in wanted
        for window in windows_over(allowance.period, zone, dial.at_ms, until_ms, account.options.cycle_day)
    )


def _meter_at(
    account: Account, policy: Policy, allowance: Allowance, dial: Dial, window: Window
) -> MeterWindow:
    name = f"{allowance.name}/{dial.line_id}" if allowance.scope is Scope.LINE else allowance.name
    units, raised = allowance.limit_units, None
    if account.raises and units is not None:
        # In a window that is still to come, by what holds when it begins.
        limit = allowance_limit(account, policy, name, units, max(dial.at_ms, window.start_ms))
        units, raised = limit.units, limit.raised
    return MeterWindow(
        name,
        window,
        units,
        over=allowance.used_up is Pay.OVERAGE,
        weight=allowance.weight(dial.kind),
        room=allowance.meter is Meter.CONFERENCE,
        raised=raised,
    )


def allowance_limit(account: Account, policy: Policy, name: str, base_units: int, at_ms: int) -> Limit:
    """The limit of a meter of that account; name: of the allowance, "voice/alice" where each line has its own."""
    return limit_at(account.raises, policy.name, f"allowances.{name}", base_units, at_ms)


def cap_limit(account: Account, policy: Policy, name: str, at_ms: int) -> int | None:
    """The cap of that name as it is for the account; None where the policy has none."""
    cap: Cap | None = getattr(policy.caps, name)
    return (
        None if cap is None else limit_at(account.raises, policy.name, f"caps.{name}", cap.limit, at_ms).units
    )


def asks_callees(policy: Policy, kind: Kind, number: Number) -> str | None:
    """The number of which it matters whether the account has called it before; None: it does not matter (K10)."""
    limited = policy.caps.callees_per_day is not None and kind in _CALLS_OUT
    return number.e164 if limited else None


def asks_identity(policy: Policy, kind: Kind) -> bool:
    """Whether it matters which number the caller shows (A4)."""
    rule = policy.identity
    return rule is not None and rule.caller_number != "any" and kind in _SHOWING


class Question(msgspec.Struct, frozen=True):
    """A dial of a known line on a loaded policy: what every check is asked about."""

    dial: Dial
    number: Number
    line: Line
    account: Account
    snapshot: Snapshot
    policy: Policy

    def clause(self, clause_id: str) -> Clause:
        """A clause of the policy."""
        return Clause(self.policy.name, self.policy.version, clause_id)

    def reaches(self, cap: str, count: int) -> bool:
        """Whether so many are as many as that cap allows the account."""
        most = cap_limit(self.account, self.policy, cap, self.dial.at_ms)
        return most is not None and count >= most


@dataclass(frozen=True, slots=True)
class Check:
    """One rule that can refuse a dial. refuses: why, None where it lets the dial pass. saw: the facts, in words.

    clause: behind it; None where the policy has no such rule, which then asks nothing.
    """

    name: str
    clause: Callable[[Question], Clause | None]
    refuses: Callable[[Question], Reason | None]
    saw: Callable[[Question], str]


def _standing(question: Question) -> Reason | None:
    if question.account.standing is Standing.TERMINATED:
        return Reason.ACCOUNT_TERMINATED
    if question.account.standing is Standing.SUSPENDED:
        return Reason.ACCOUNT_SUSPENDED
    return None if question.line.standing is Standing.ACTIVE else Reason.LINE_SUSPENDED


def _standing_clause(question: Question) -> Clause:
    rule = question.policy.standing
    if rule is None:
        return ALWAYS
    return question.clause((question.account.fraud and rule.fraud_clause) or rule.clause)


def _restricted(question: Question) -> Reason | None:
    return Reason.SERVICE_RESTRICTED if question.dial.kind in question.account.restricted else None


def _readable(question: Question) -> Reason | None:
    public = question.dial.kind in PUBLIC
    if public and question.number.number_class is NumberClass.INVALID:
        return Reason.NUMBER_INVALID
    return None if _DIALLABLE.fullmatch(question.dial.dialled) else Reason.NUMBER_INVALID


def _cap_clause(question: Question, cap: Cap | None) -> Clause | None:
    return None if cap is None else question.clause(cap.clause)


def _attempts(question: Question) -> Reason | None:
    # This dial is one of them.
    too_many = question.reaches("attempts_per_s", question.dial.attempts - 1)
    return Reason.TOO_MANY_ATTEMPTS if too_many else None


def _calls_at_once(question: Question) -> Reason | None:
    # A message is over at once.
    full = question.reaches("simultaneous_calls", question.snapshot.live_calls)
    return Reason.TOO_MANY_CALLS if full and question.dial.kind is not Kind.MESSAGE else None


def _inbound_at_once(question: Question) -> Reason | None:
    full = question.reaches("simultaneous_inbound", question.snapshot.live_inbound)
    return Reason.TOO_MANY_INBOUND if full and question.dial.kind is Kind.INBOUND else None


def _callees(question: Question) -> Reason | None:
    callees = question.snapshot.callees
    if callees is None or callees.known or not question.reaches("callees_per_day", callees.count):
        return None
    return Reason.TOO_MANY_NUMBERS


def _callees_saw(question: Question) -> str:
    callees = question.snapshot.callees
    if callees is None:
        return "no number that counts"
    before = "called before" if callees.known else "never called before"
    return f"{callees.callee} was {before}; {callees.count} numbers in 24 hours"


def _kind(question: Question) -> Reason | None:
    kind = question.dial.kind
    return None if kind in question.policy.kinds.allow else Reason.KIND_NOT_COVERED


def _participants(question: Question) -> Reason | None:
    room = question.snapshot.room
    full = room is not None and question.reaches("participants", room.seats)
    return Reason.CONFERENCE_FULL if full and question.dial.kind is Kind.CONFERENCE else None


def _unverified(question: Question) -> bool:
    return question.dial.kind is Kind.INBOUND and question.dial.verified != "passed"


def _verification(question: Question) -> Reason | None:
    rule = question.policy.identity
    refuses = rule is not None and rule.unverified == "refuse" and _unverified(question)
    return Reason.CALLER_NOT_VERIFIED if refuses else None


def _shows_nobody(question: Question) -> bool:
    # The endpoint's own name is what the switch has for a phone that shows no number; it is nobody's.
    return question.dial.caller in ("", "anonymous", question.line.id)


def _identity(question: Question) -> Reason | None:
    rule, known = question.policy.identity, question.snapshot.identity
    if rule is None or not asks_identity(question.policy, question.dial.kind) or _shows_nobody(question):
        return None
    if known is not None and (known.own or (rule.caller_number == "replace" and known.instead)):
        return None
    return Reason.CALLER_NOT_OWN


def _identity_saw(question: Question) -> str:
    known = question.snapshot.identity
    if known is None or _shows_nobody(question):
        return f"shows {question.dial.caller or 'no number'}"
    whose = "a number of the account" if known.own else "no number of the account"
    return f"shows {question.dial.caller}: {whose}; its own is {known.instead or 'none'}"


def _lacks_encryption(question: Question) -> bool:
    dial = question.dial
    # Of a leg that we ring nothing is known before it answers; `refuses_leg` is asked then.
    rung_by_us = dial.kind is Kind.CALLBACK or (dial.kind is Kind.CONFERENCE and dial.ring_s > 0)
    if dial.kind in FROM_OUTSIDE or (rung_by_us and dial.encrypted is None):
        return False
    return _is_less_than_required(question.policy, dial.encrypted, dial.kind)


def _is_less_than_required(policy: Policy, found: Encrypted | None, kind: Kind) -> bool:
    rule = policy.encryption
    if rule is None:
        return False
    signalling = rule.signalling == "required" and (found is None or not found.signalling)
    # A message is all signalling.
    media = rule.media == "required" and kind is not Kind.MESSAGE
    return signalling or (media and (found is None or not found.media))


def refuses_leg(policy: Policy, found: Encrypted | None, kind: Kind) -> bool:
    """Whether the policy refuses a leg of the customer's that is encrypted only so (A7)."""
    refuses = policy.encryption is not None and policy.encryption.otherwise == "refuse"
    return refuses and _is_less_than_required(policy, found, kind)


def _encryption(question: Question) -> Reason | None:
    rule = question.policy.encryption
    lacks = rule is not None and rule.otherwise == "refuse" and _lacks_encryption(question)
    return Reason.NOT_ENCRYPTED if lacks else None


def _encryption_saw(question: Question) -> str:
    found = question.dial.encrypted
    if found is None:
        return "the switch did not say whether the leg is encrypted"
    return f"signalling {'TLS' if found.signalling else 'clear'}, media {'SRTP' if found.media else 'clear'}"


def _goes_outside(question: Question) -> bool:
    return question.dial.kind in PUBLIC and question.number.number_class is not NumberClass.INTERNAL


def _class(question: Question) -> Reason | None:
    covered = question.number.number_class in question.policy.classes.allow
    return None if covered or not _goes_outside(question) else Reason.CLASS_NOT_COVERED


def _period_bought(question: Question) -> Reason | None:
    until_ms = question.account.options.until_ms
    if question.policy.countries.allow != "subscription" or not _goes_outside(question):
        return None
    return Reason.SUBSCRIPTION_OVER if until_ms is not None and question.dial.at_ms >= until_ms else None


def _countries(question: Question) -> frozenset[str] | None:
    """The countries that are covered; None: any."""
    allow = question.policy.countries.allow
    if allow == "any":
        return None
    return question.account.options.countries if allow == "subscription" else frozenset(allow)


def _country(question: Question) -> Reason | None:
    countries = _countries(question)
    if countries is None or not _goes_outside(question) or question.number.country in countries:
        return None
    return Reason.COUNTRY_NOT_COVERED


def _listed(values: Sequence[str] | frozenset[str] | frozenset[Kind] | frozenset[NumberClass]) -> str:
    return ", ".join(sorted(values)) or "none"


CHECKS: tuple[Check, ...] = (
    Check(
        "standing",
        _standing_clause,
        _standing,
        lambda q: f"account {q.account.standing}, line {q.line.standing}",
    ),
    Check(
        "restricted",
        lambda q: _standing_clause(q) if q.account.restricted else None,
        _restricted,
        lambda q: f"{q.dial.kind}; restricted are {_listed(q.account.restricted)}",
    ),
    Check(
        "number",
        lambda _: ALWAYS,
        _readable,
        lambda q: f"{q.number.e164 or q.dial.dialled} is {q.number.number_class}",
    ),
    Check(
        "caps.attempts_per_s",
        lambda q: _cap_clause(q, q.policy.caps.attempts_per_s),
        _attempts,
        lambda q: f"{q.dial.attempts} dials of the line in a second",
    ),
    Check(
        "caps.simultaneous_calls",
        lambda q: _cap_clause(q, q.policy.caps.simultaneous_calls),
        _calls_at_once,
        lambda q: f"{q.snapshot.live_calls} calls of the account hold a grant",
    ),
    Check(
        "kinds",
        lambda q: q.clause(q.policy.kinds.clause),
        _kind,
        lambda q: f"{q.dial.kind}; allowed are {_listed(q.policy.kinds.allow)}",
    ),
    Check(
        "identity",
        lambda q: None if q.policy.identity is None else q.clause(q.policy.identity.clause),
        _identity,
        _identity_saw,
    ),
    Check(
        "identity.unverified",
        lambda q: None if q.policy.identity is None else q.clause(q.policy.identity.clause),
        _verification,
        lambda q: f"the network says {q.dial.verified or 'nothing'} of {q.dial.caller or 'no number'}",
    ),
    Check(
        "encryption",
        lambda q: None if q.policy.encryption is None else q.clause(q.policy.encryption.clause),
        _encryption,
        _encryption_saw,
    ),
    Check(
        "caps.simultaneous_inbound",
        lambda q: _cap_clause(q, q.policy.caps.simultaneous_inbound),
        _inbound_at_once,
        lambda q: f"{q.snapshot.live_inbound} inbound calls of the line",
    ),
    Check(
        "caps.callees_per_day",
        lambda q: _cap_clause(q, q.policy.caps.callees_per_day),
        _callees,
        _callees_saw,
    ),
    Check(
        "caps.participants",
        lambda q: _cap_clause(q, q.policy.caps.participants),
        _participants,
        lambda q: f"{q.snapshot.room.seats if q.snapshot.room else 0} seats of the conference are taken",
    ),
)
"""What can refuse a dial whatever pays for it, in this order."""

COVERAGE: tuple[Check, ...] = (
    Check(
        "classes",
        lambda q: q.clause(q.policy.classes.clause),
        _class,
        lambda q: f"{q.number.number_class}; covered are {_listed(q.policy.classes.allow)}",
    ),
    Check(
        "period bought",
        lambda q: q.clause(q.policy.countries.clause),
        _period_bought,
        lambda q: (
            "runs on" if q.account.options.until_ms is None else f"ends at {q.account.options.until_ms} ms"
        ),
    ),
    Check(
        "countries",
        lambda q: q.clause(q.policy.countries.clause),
        _country,
        lambda q: f"{q.number.country or 'no country'}; covered are {_listed(_countries(q) or ('any',))}",
    ),
)
"""What the plan covers, in this order. Where it does not, prepaid credit may pay instead (K1, K4)."""


def first_refusal(checks: Sequence[Check], question: Question) -> tuple[Check, Reason] | None:
    """The first of the checks that refuses, and why."""
    for check in checks:
        reason = check.refuses(question)
        if reason is not None:
            return check, reason
    return None


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
    account, line = snapshot.account, snapshot.line
    if account is None or line is None:
        return Refuse(Reason.LINE_UNKNOWN, ALWAYS, None)
    if policy is None:
        return Refuse(Reason.POLICY_MISSING, ALWAYS, account.id)
    question = Question(dial, number, line, account, snapshot, policy)
    refused = first_refusal(CHECKS, question)
    if refused is not None:
        check, reason = refused
        return Refuse(reason, check.clause(question) or ALWAYS, account.id)
    refused = first_refusal(COVERAGE, question)
    if refused is not None:
        check, reason = refused
        if pays_outside(question):
            assert policy.uncovered is not None
            return _by_credit(question, policy.uncovered.clause, rules, cards)
        return Refuse(reason, check.clause(question) or ALWAYS, account.id)
    sized = size(question, rules)
    if isinstance(sized, Sized):
        return _included(question, sized)
    short, rule = _refusing(question, sized, rules)
    clause_id = rule.clause_for(dial.kind)
    if rule.used_up is Pay.CREDIT:
        return _by_credit(question, clause_id, rules, cards)
    limit_units = short.limit_units or 0
    if short.raised is not None and short.room_s:
        # The raise is over before a call that it allows could be answered and of use.
        limit_units = short.raised.lower_units or 0
    held = limit_units - short.used_units >= short.weight
    reason = Reason.ALLOWANCE_RESERVED if held else Reason.ALLOWANCE_USED_UP
    return Refuse(reason, question.clause(clause_id), account.id)


def pays_outside(question: Question) -> bool:
    """Whether prepaid credit pays for what the plan does not cover. It pays for talk alone."""
    pays = question.policy.pays_uncovered(question.number.number_class) is Pay.CREDIT
    return pays and question.dial.kind is not Kind.MESSAGE


def size(question: Question, rules: GrantRules, meters: Sequence[MeterWindow] | None = None) -> Sized | Short:
    """What the meters allow, those of the snapshot unless others are given."""
    dial, found = question.dial, question.snapshot.meters if meters is None else meters
    if dial.kind is Kind.MESSAGE:
        return size_message(found)
    if dial.kind is Kind.CONFERENCE:
        room = question.snapshot.room
        return size_seat(room, dial.at_ms, dial.ring_s, longest_s(question), found, rules)
    return size_grant(dial.at_ms, dial.ring_s, longest_s(question), found, rules)


def longest_s(question: Question) -> int | None:
    """The longest that the call may last; a conference's counts from when its room was opened (K5)."""
    most_s, room = question.policy.longest_call_s(question.dial.kind), question.snapshot.room
    if most_s is None or room is None:
        return most_s
    # Rounded so that nobody stays past the end of the room.
    return max(1, most_s - max(0, -((room.opened_ms - question.dial.at_ms) // MS_PER_S)))


def _refusing(question: Question, short: Short, rules: GrantRules) -> tuple[MeterWindow, Allowance]:
    """The meter without room that decides: one that refuses before one past which credit pays."""
    rule_of = {allowance.name: allowance for allowance in question.policy.allowances}
    if rule_of[short.meter.rule].used_up is Pay.CREDIT:
        meters = question.snapshot.meters
        others = [meter for meter in meters if rule_of[meter.rule].used_up is not Pay.CREDIT]
        sized = size(question, rules, others)
        short = sized if isinstance(sized, Short) else short
    return short.meter, rule_of[short.meter.rule]


def _by_credit(
    question: Question, clause_id: str, rules: GrantRules, cards: Mapping[str, RateCard]
) -> Decision:
    policy, dial, number = question.policy, question.dial, question.number
    clause, credit = question.clause(clause_id), question.snapshot.credit
    card = cards.get(policy.charges.card or "") if policy.charges else None
    rate = card.lookup(number.e164, dial.at_ms) if card and number.e164 else None
    if card is None or rate is None or (credit is not None and credit.currency != card.currency):
        return Refuse(Reason.NO_RATE, clause, question.account.id)
    surcharge = _surcharge(question)
    terms = credit_terms(policy, clause_id, card.currency, rate, surcharge)
    most_s = policy.longest_call_s(dial.kind)
    free_micros = 0 if credit is None else credit.free_micros
    sized = size_on_credit(terms, free_micros, 0, 0, most_s or LONGEST_HORIZON_S, rules)
    if sized is None:
        return Refuse(Reason.CREDIT_TOO_LOW, clause, question.account.id)
    return Allow(
        Reason.BY_CREDIT,
        clause,
        question.account.id,
        sized.granted_s,
        most_s,
        terms=(terms,),
        credit_hold_micros=sized.credit_hold_micros,
        caller=_caller_instead(question),
        flag=_flag(question),
        bound_by=sized.bound_by,
    )


def _included(question: Question, sized: Sized) -> Allow:
    policy, dial, meters = question.policy, question.dial, question.snapshot.meters
    over = _overage(question) if any(meter.over for meter in meters) else None
    # A meter of the period after, into which the call may last, says nothing about its first second.
    current = [meter for meter in meters if meter.window.start_ms <= dial.at_ms]
    limited = [meter for meter in meters if meter.limit_units is not None]
    if over is not None and any(meter.over and meter.room_s == 0 for meter in current):
        reason, clause = Reason.PAST_ALLOWANCE, over.clause
    elif limited:
        reason, clause = Reason.WITHIN_ALLOWANCE, _clause_of(question, limited[0])
    elif meters:
        reason, clause = Reason.COVERED, _clause_of(question, meters[0])
    else:
        reason, clause = Reason.NOT_COUNTED, question.clause(policy.kinds.clause)
    if account_raise := None if reason is Reason.PAST_ALLOWANCE else _rests_on(question, current):
        reason, clause = Reason.WITHIN_RAISED_LIMIT, question.clause(account_raise.clause)
    surcharge = _surcharge(question)
    return Allow(
        reason,
        clause,
        question.account.id,
        sized.granted_s,
        longest_s(question),
        sized.holds,
        tuple(terms for terms in (over, surcharge) if terms is not None),
        caller=_caller_instead(question),
        flag=_flag(question),
        bound_by=sized.bound_by,
    )


def _rests_on(question: Question, current: Sequence[MeterWindow]) -> Raise | None:
    """The raise without which the dial would be refused, or charged; None: it needs none."""
    account = question.account
    if not account.raises:
        return None
    bare = first_refusal(CHECKS, msgspec.structs.replace(question, account=replace(account, raises=())))
    if bare is not None:
        return next(
            one
            for one in account.raises
            if (one.policy, one.rule) == (question.policy.name, bare[0].name)
            and one.holds_at(question.dial.at_ms)
        )
    short = (
        meter.raised for meter in current if meter.raised and not meter.room_below_s(meter.raised.base_units)
    )
    return next((raised.by[0] for raised in short), None)


def _clause_of(question: Question, meter: MeterWindow) -> Clause:
    name = meter.rule
    rule = next(rule for rule in question.policy.allowances if rule.name == name)
    return question.clause(rule.clause_for(question.dial.kind))


def _overage(question: Question) -> Terms | None:
    make = message_terms if question.dial.kind is Kind.MESSAGE else overage_terms
    return make(question.policy, question.account.options.currency)


def _surcharge(question: Question) -> Terms | None:
    if question.dial.kind not in _SURCHARGED:
        return None
    return surcharge_terms(question.policy, question.account.options.currency, question.snapshot.agreed)


def _caller_instead(question: Question) -> str | None:
    rule, known = question.policy.identity, question.snapshot.identity
    if rule is None or rule.caller_number != "replace" or known is None or known.own:
        return None
    return known.instead


def _flag(question: Question) -> str:
    rule = question.policy.identity
    if rule is None and question.policy.encryption is None:
        return ""  # of nearly every call
    unverified = rule is not None and rule.unverified == "flag" and _unverified(question)
    noted = ((UNENCRYPTED, _lacks_encryption(question)), (UNVERIFIED, unverified))
    return " ".join(flag for flag, holds in noted if holds)
