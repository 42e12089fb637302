"""The words in which a policy's rules are told to people: amounts, kinds, classes, periods.

One place, so that a listing and a notice say the same of a rule. Leaves to `show.py` and
`difference.py` what is told.
"""

from collections.abc import Iterable

from fairdial.policy.account import Kind
from fairdial.policy.document import (
    Allowance,
    ChargeKey,
    Charges,
    Detector,
    EncryptionRule,
    IdentityRule,
    Meter,
    MinutePlan,
    Pay,
    Policy,
    RequestRule,
    Rung,
    Scope,
    Step,
    Trigger,
)
from fairdial.policy.measures import LADDER_MEASURES, MEASURES
from fairdial.policy.periods import Period
from fairdial.policy.prefixes import NumberClass
from fairdial.policy.rating import decimal_text, parse_micros

KINDS: dict[Kind, str] = {
    Kind.OUTBOUND: "outbound calls",
    Kind.INBOUND: "inbound calls",
    Kind.INTERNAL: "internal calls",
    Kind.CONFERENCE: "conferences",
    Kind.CALLBACK: "callback calls",
    Kind.COLLECT: "reverse-charge calls",
    Kind.VOICEMAIL: "voicemail retrieval",
    Kind.EMERGENCY: "emergency calls",
    Kind.MESSAGE: "messages",
}

CLASSES: dict[NumberClass, str] = {
    NumberClass.GEOGRAPHIC: "geographic",
    NumberClass.MOBILE: "mobile",
    NumberClass.GEOGRAPHIC_OR_MOBILE: "geographic or mobile",
    NumberClass.TOLL_FREE: "toll-free",
    NumberClass.SHARED_COST: "shared-cost",
    NumberClass.PREMIUM_RATE: "premium rate",
    NumberClass.UAN: "universal access",
    NumberClass.PERSONAL: "personal",
    NumberClass.PAGER: "pager",
    NumberClass.VOIP: "VoIP",
    NumberClass.VOICEMAIL: "voicemail",
    NumberClass.SATELLITE: "satellite",
    NumberClass.GLOBAL_SERVICE: "global service",
    NumberClass.SHORT_CODE: "short-code",
    NumberClass.EMERGENCY: "emergency",
    NumberClass.INTERNAL: "internal",
    NumberClass.INVALID: "invalid",
}

PERIODS: dict[Period, str] = {
    Period.MINUTE: "a minute",
    Period.HOUR: "an hour",
    Period.DAY: "a day",
    Period.MONTH: "a month",
    Period.CYCLE: "a billing cycle",
}

_ADJECTIVES: dict[Period, str] = {
    Period.MINUTE: "per-minute",
    Period.HOUR: "hourly",
    Period.DAY: "daily",
    Period.MONTH: "monthly",
    Period.CYCLE: "billing-cycle",
}

METERS: dict[Meter, str] = {
    Meter.VOICE: "voice",
    Meter.CONFERENCE: "conference",
    Meter.MESSAGES: "message",
    Meter.CHATS: "chat",
}

SCOPES: dict[Scope, str] = {
    Scope.LINE: "each line",
    Scope.ACCOUNT: "the account",
    Scope.PLAN: "the whole plan",
}

PAYS: dict[Pay, str] = {
    Pay.REFUSE: "refused",
    Pay.OVERAGE: "charged as overage",
    Pay.CREDIT: "paid from credit",
}

STEPS: dict[Step, str] = {
    Step.NOTICE: "a notice",
    Step.MODERATE: "a request to moderate the use",
    Step.AGREE_TO_PAY: "a request to pay for the use",
    Step.RESTRICT: "a restriction of the service",
    Step.SUSPEND: "suspension",
    Step.TERMINATE: "termination",
}


def duration(seconds: int) -> str:
    """A length as people say it: "4 hours", "90 minutes", "1 hour", "15 seconds"."""
    if seconds and seconds % 3600 == 0:
        return counted(seconds // 3600, "hour")
    if seconds and seconds % 60 == 0:
        return counted(seconds // 60, "minute")
    return counted(seconds, "second")


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 minute", "2,400 minutes"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def joined(words: Iterable[str], last: str = "and") -> str:
    """Words in order: "a, b and c"."""
    *most, final = sorted(words) or [""]
    return f"{', '.join(most)} {last} {final}" if most else final


def sentence(words: str) -> str:
    """The words with a capital and a full stop."""
    return f"{words[:1].upper()}{words[1:]}."


def amounts(allowance: Allowance, *limits: int) -> tuple[tuple[str, ...], str]:
    """Limits of an allowance in its unit, and that unit: talk in minutes, or seconds where minutes do not do.

    A conference's are in hours where all are whole hours.
    """
    unit, size = "second", 1
    if not allowance.measures_talk:
        unit = "message" if allowance.meter is Meter.MESSAGES else "chat"
    elif allowance.meter is Meter.CONFERENCE and all(limit % 3600 == 0 for limit in limits):
        unit, size = "hour", 3600
    elif all(limit % 60 == 0 for limit in limits):
        unit, size = "minute", 60
    shown = tuple(f"{limit // size:,}" for limit in limits)
    return shown, unit if shown[-1] == "1" else f"{unit}s"


def size(allowance: Allowance) -> str:
    """How much an allowance holds: "2,400 minutes", "no limit"."""
    if allowance.limit_units is None:
        return "no limit"
    (shown,), unit = amounts(allowance, allowance.limit_units)
    return f"{shown} {unit}"


def titled(allowance: Allowance) -> str:
    """An allowance in a sentence, without article: "monthly allowance of each line"."""
    meter = "" if allowance.meter is Meter.VOICE else f"{METERS[allowance.meter]} "
    scope = "" if allowance.scope is Scope.ACCOUNT else f" of {SCOPES[allowance.scope]}"
    return f"{_ADJECTIVES[allowance.period]} {meter}allowance{scope}"


def kinds_counted(allowance: Allowance) -> str:
    """The kinds of call in an allowance: "inbound calls and outbound calls"."""
    return joined(KINDS[kind] for kind in allowance.counts)


def times(allowance: Allowance, kind: Kind) -> str:
    """How often a kind counts: "once", "twice", "3 times", "once for each party"."""
    if allowance.counts_parties(kind):
        return "once for each party"
    weight = allowance.weight(kind)
    return {1: "once", 2: "twice"}.get(weight, f"{weight} times")


def price(charges: Charges | None, key: ChargeKey) -> str | None:
    """A price with its currency, or the name of the card; None where it is not set."""
    value: str | None = None if charges is None else getattr(charges, key)
    if value is None or charges is None or key == "card":
        return value
    amount = decimal_text(parse_micros(value))
    return amount if charges.currency is None else f"{amount} {charges.currency}"


PRICES: dict[ChargeKey, str] = {
    "card": "prices by destination are those of the rate card",
    "overage_per_min": "a minute past the allowance costs",
    "overage_per_message": "a message past the allowance costs",
    "connect_fee": "the connection of a charged call costs",
    "minimum": "a charged call costs at least",
    "surcharge_per_min": "the surcharge on each minute is",
}

CAPS: dict[str, str] = {
    "participants": "participants in a conference",
    "simultaneous_calls": "calls of an account at once",
    "simultaneous_inbound": "inbound calls of a line at once",
    "lines": "lines of an account",
    "attempts_per_s": "dials of a line in a second",
    "callees_per_day": "numbers called by an account in 24 hours, besides those it has called before",
}


def unverified_callers(rule: IdentityRule | None) -> str:
    """What becomes of a call that comes in without a verified number."""
    match rule.unverified if rule is not None else "any":
        case "refuse":
            return "calls that come in and whose number the network does not vouch for are refused"
        case "flag":
            return "calls that come in and whose number the network does not vouch for are flagged"
        case _:
            return "calls that come in need no number that the network vouches for"


def caller_numbers(rule: IdentityRule | None) -> str:
    """What becomes of a caller number that is not the account's own."""
    match rule.caller_number if rule is not None else "any":
        case "own":
            return "calls that show a number which is not the account's own are refused"
        case "replace":
            return "calls that show a number which is not the account's own show its own instead"
        case _:
            return "calls may show any caller number"


def encryption(rule: EncryptionRule | None) -> str:
    """What is asked of a call's encryption."""
    parts = () if rule is None else (("signalling", rule.signalling), ("media", rule.media))
    required = [part for part, wanted in parts if wanted == "required"]
    if rule is None or not required:
        return "calls need no encryption"
    done = "refused" if rule.otherwise == "refuse" else "flagged"
    return f"calls without encrypted {joined(required)} are {done}"


STANDING = "accounts may be suspended or terminated at once"
FRAUD = "accounts terminated for fraud forfeit their credit and still owe their charges"


def trigger(rule: Trigger) -> str:
    """What leads to a step: "where different numbers called reach 30 in an hour, a notice follows"."""
    measure, window = _what(rule), PERIODS[rule.window]
    if isinstance(rule, Rung) and rule.plan is not None:
        return f"where {measure} reach {rule.threshold:g}, the plan {rule.plan} follows, with a notice"
    verb = "fall to" if isinstance(rule, Detector) and rule.below else "reach"
    follows = f"{STEPS[rule.step]} follows"
    if rule.services:
        follows += f" for {joined(KINDS[kind] for kind in sorted(rule.services))}"
    if rule.deadline_days is not None:
        follows += f", with {rule.deadline_days} days to answer it"
    if rule.fraud:
        follows += ", for fraud"
    if rule.shadow:
        follows = follows.replace(" follows", " is written down, not done", 1)
    return f"where {measure} {verb} {rule.threshold:g} in {window}, {follows}"


def minute_plan(policy: Policy, plan: MinutePlan) -> str:
    """What a plan adds, and how: "adds 600 minutes a month to voice for 20 USD, once it is accepted"."""
    allowance = next((one for one in policy.allowances if one.name == plan.allowance), None)
    much = f"{plan.units:,}"
    if allowance is not None:
        (shown,), unit = amounts(allowance, plan.units)
        much = f"{shown} {unit} {PERIODS[allowance.period]}"
    currency = policy.charges.currency if policy.charges is not None else None
    price = f"{decimal_text(parse_micros(plan.price))}{'' if currency is None else f' {currency}'}"
    how = "by itself, with a notice" if plan.added == "by_itself" else "once it is accepted"
    return f"adds {much} to {plan.allowance} for {price}, {how}"


def requests(rule: RequestRule | None) -> str:
    """What becomes of requests for higher limits."""
    hard = joined(rule.hard) if rule is not None else ""
    return "a higher limit may be asked for, and is approved or declined" + (
        f"; never of {hard}" if hard else ""
    )


def measured(detector: Detector, value: float) -> str:
    """What a detector found: "41 different numbers called in an hour; 30 is a case"."""
    return f"{value:.4g} {_what(detector)} in {PERIODS[detector.window]}; {detector.threshold:g} is a case"


def _what(rule: Trigger) -> str:
    known = MEASURES.get(rule.measure)
    return known.what if known is not None else LADDER_MEASURES.get(rule.measure, rule.measure)


def countries_covered(allow: frozenset[str] | str) -> str:
    """The countries of a rule: "any country", "the subscription's countries" or codes."""
    if isinstance(allow, frozenset):
        return joined(allow) or "none"
    return "any country" if allow == "any" else "the subscription's countries"
