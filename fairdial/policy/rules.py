"""The tables of a policy file: what each rule says, and how its keys are checked.

Every rule carries the clause that it comes from. Leaves to `document.py` the policy as a whole, to
`lint.py` whether rules make sense together, and to `rating.py` what amounts mean: they stay text here.
"""

from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    model_validator,
)

from fairdial.policy.account import Kind
from fairdial.policy.measures import LADDER_MEASURES, MEASURES, OVERAGE_MONTHS, PEERS
from fairdial.policy.periods import Period
from fairdial.policy.prefixes import COUNTRIES, NumberClass
from fairdial.policy.rating import Increment, Tariff, currency_digits, parse_micros
from fairdial.policy.sliding import KEPT_MAX


class Meter(StrEnum):
    """What an allowance measures: talk in seconds, a conference room's wall-clock seconds, or a number."""

    VOICE = "voice"
    CONFERENCE = "conference"
    MESSAGES = "messages"
    CHATS = "chats"


class Scope(StrEnum):
    """Who shares an allowance: each line has its own, or all lines of the account, or of the plan, share it.

    A plan is a subscription with all its countries and lines; where an account has one plan, both are one.
    """

    LINE = "line"
    ACCOUNT = "account"
    PLAN = "plan"


class Pay(StrEnum):
    """What happens past a limit or outside the plan; OVERAGE is for allowances alone."""

    REFUSE = "refuse"
    OVERAGE = "overage"
    CREDIT = "credit"


class Step(StrEnum):
    """The steps against an account whose use is not fair, mildest first."""

    NOTICE = "notice"
    MODERATE = "moderate"
    AGREE_TO_PAY = "agree_to_pay"
    RESTRICT = "restrict"
    SUSPEND = "suspend"
    TERMINATE = "terminate"


_WEIGHT_MAX = 100
# Far more than any plan has, and far less than a ledger's integer holds, weights included.
_UNITS_MAX = 10**12
PARTIES: Literal["parties"] = "parties"
"""The weight of a conference that counts once for each party on it (V5)."""


def _known_country(code: str) -> str:
    if code not in COUNTRIES:
        raise ValueError("not an ISO 3166-1 alpha-2 code; write it like GB or DE")
    return code


def _amount(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('an amount is a text; write it in quotes, such as "0.02"')
    parse_micros(value)
    return value


def _increment(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('an increment is a text; write it in quotes, such as "60/60"')
    Increment.parse(value)
    return value


def _known_currency(code: str) -> str:
    currency_digits(code)
    return code


def _weight(value: object) -> object:
    whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _WEIGHT_MAX
    if not whole and value != PARTIES:
        raise ValueError(f'not a weight; write a whole number from 1 to {_WEIGHT_MAX}, or "{PARTIES}"')
    return value


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]
ClauseId = Annotated[str, Field(min_length=1, max_length=40)]
Country = Annotated[str, AfterValidator(_known_country)]
AmountText = Annotated[str, BeforeValidator(_amount)]
"""Money as decimal text, up to 6 decimals, never negative: "0.02"."""
IncrementText = Annotated[str, BeforeValidator(_increment)]
"""Seconds that are charged at least, then the step: "60/60"."""
Currency = Annotated[str, AfterValidator(_known_currency)]
LimitKey = Annotated[str, Field(pattern=r"^(allowances|caps)\.[a-z0-9][a-z0-9_-]{0,39}$")]
"""A limit by its key in the file: "allowances.voice", "caps.lines"."""
Weight = Annotated[int | Literal["parties"], PlainValidator(_weight)]


class Rule(BaseModel):
    """What all tables of a policy share: no key that is not known, no value that is turned into another."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ClassRule(Rule):
    """Which classes of number the plan covers."""

    allow: frozenset[NumberClass]
    clause: ClauseId


class CountryRule(Rule):
    """Which countries the plan covers: ISO 3166-1 codes, "any", or those that the subscription names (K1)."""

    allow: frozenset[Country] | Literal["any", "subscription"]
    clause: ClauseId


class KindRule(Rule):
    """Which kinds of call exist on this plan."""

    allow: frozenset[Kind]
    clause: ClauseId


class UncoveredRule(Rule):
    """What becomes of numbers outside the plan: refused, or paid from prepaid credit (K1, K4).

    classes: with `pay = "credit"`, the classes that credit pays for; "any": all that the card has a rate for.
    """

    pay: Literal[Pay.REFUSE, Pay.CREDIT]
    classes: frozenset[NumberClass] | Literal["any"] = "any"
    clause: ClauseId


class LongestCallRule(Rule):
    """The longest call by kind, in seconds. A kind that is not named has no limit of its own.

    clauses: by kind, where the limit comes from another clause than `clause`.
    """

    clause: ClauseId
    seconds: Mapping[Kind, Annotated[int, Field(ge=1, le=86_400)]]
    clauses: Mapping[Kind, ClauseId] = Field(default_factory=dict)


class Allowance(Rule):
    """What is included in each period: `limit_s` seconds of talk, or `limit` messages or chats.

    Without a limit the meter only counts. weights: by kind, how often a second counts (callback = 2, V6);
    "parties": once for each party of a conference (V5). clauses: by kind, where counting it so comes from
    another clause than `clause`. A message meter counts the kind "message"; chats are messages between
    lines of one account.
    """

    name: Name
    meter: Meter = Meter.VOICE
    limit_s: Annotated[int, Field(ge=0, le=_UNITS_MAX)] | None = None
    limit: Annotated[int, Field(ge=0, le=_UNITS_MAX)] | None = None
    period: Period
    scope: Scope = Scope.ACCOUNT
    counts: frozenset[Kind]
    weights: Mapping[Kind, Weight] = Field(default_factory=dict)
    used_up: Pay = Pay.REFUSE
    clause: ClauseId
    clauses: Mapping[Kind, ClauseId] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _measures_one_thing(self) -> "Allowance":
        if self.measures_talk:
            if self.limit is not None:
                raise ValueError(f"meter {self.meter} has no `limit`; write `limit_s`, in seconds")
            if Kind.MESSAGE in self.counts:
                raise ValueError(f'meter {self.meter} cannot count "message"; give messages their own meter')
            if self.period is Period.MINUTE:
                # A long call would hold seconds in each of its minutes.
                raise ValueError("talk has no allowance by the minute; write hour, day, month or cycle")
        else:
            if self.limit_s is not None:
                raise ValueError(f"meter {self.meter} has no `limit_s`; write `limit`, a number")
            if self.counts != {Kind.MESSAGE}:
                raise ValueError(f'meter {self.meter} counts messages alone; write counts = ["message"]')
        return self

    @property
    def measures_talk(self) -> bool:
        """Whether it is in seconds."""
        return self.meter in (Meter.VOICE, Meter.CONFERENCE)

    @property
    def limit_units(self) -> int | None:
        """The limit in the meter's own unit: seconds, or a number of messages or chats. None: no limit."""
        return self.limit_s if self.measures_talk else self.limit

    def weight(self, kind: Kind) -> int:
        """How often a second (or message) of `kind` counts; for one party where `counts_parties`."""
        weight = self.weights.get(kind, 1)
        return weight if isinstance(weight, int) else 1

    def counts_parties(self, kind: Kind) -> bool:
        """Whether a call of `kind` counts once for each party that is on it (V5)."""
        return self.weights.get(kind) == PARTIES

    def clause_for(self, kind: Kind) -> str:
        """The clause by which a call of `kind` counts here."""
        return self.clauses.get(kind, self.clause)


class Cap(Rule):
    """A number that is never exceeded."""

    limit: Annotated[int, Field(ge=1, le=1_000_000)]
    clause: ClauseId


class Caps(Rule):
    """Numbers at one moment. participants: of a conference; simultaneous_calls: of an account;
    simultaneous_inbound: of a line (A9; a plan for servers leaves it out); lines: of an account (V3);
    attempts_per_s: dials of a line, and of a source (A3). callees_per_day: different numbers that an account calls in
    24 hours, past which only those that it has called before still are (K10).
    """

    participants: Cap | None = None
    simultaneous_calls: Cap | None = None
    simultaneous_inbound: Cap | None = None
    lines: Cap | None = None
    attempts_per_s: Cap | None = None
    callees_per_day: Cap | None = None


ChargeKey = Literal[
    "card", "overage_per_min", "overage_per_message", "connect_fee", "minimum", "surcharge_per_min"
]


class Charges(Rule):
    """Prices, as text. `currency` None: that of the account. clauses: by key, where another than `clause`.

    card: name of the rate card that has the price by destination. overage: past an allowance. connect_fee:
    for each answered call. minimum: the least charge of an answered call. surcharge_per_min: on every minute
    in and out (S5); with `surcharge_needs_agreement` only where the account's agreement is recorded.
    """

    clause: ClauseId
    currency: Currency | None = None
    card: Name | None = None
    overage_per_min: AmountText | None = None
    overage_per_message: AmountText | None = None
    connect_fee: AmountText | None = None
    increment: IncrementText = "1/1"
    minimum: AmountText | None = None
    surcharge_per_min: AmountText | None = None
    surcharge_needs_agreement: bool = True
    clauses: Mapping[ChargeKey, ClauseId] = Field(default_factory=dict)

    # The amounts as money, read once: every dial asks for them.

    @cached_property
    def overage_tariff(self) -> Tariff | None:
        """What talk past an allowance costs; None where no price is named."""
        if self.overage_per_min is None:
            return None
        return Tariff(
            rate_per_min_micros=parse_micros(self.overage_per_min),
            connect_fee_micros=parse_micros(self.connect_fee or "0"),
            increment=Increment.parse(self.increment),
            minimum_micros=parse_micros(self.minimum or "0"),
        )

    @cached_property
    def message_tariff(self) -> Tariff | None:
        """What a message past an allowance costs: a call of no length, which costs its connection."""
        if self.overage_per_message is None:
            return None
        return Tariff(rate_per_min_micros=0, connect_fee_micros=parse_micros(self.overage_per_message))

    @cached_property
    def surcharge_tariff(self) -> Tariff | None:
        """What lies on each minute."""
        if self.surcharge_per_min is None:
            return None
        return Tariff(rate_per_min_micros=parse_micros(self.surcharge_per_min))

    def clause_for(self, key: ChargeKey) -> str:
        """The clause behind one of the prices."""
        return self.clauses.get(key, self.clause)


class IdentityRule(Rule):
    """The caller's number: must be the account's own, is replaced by it, or may be any (A4).

    unverified: what becomes of a call that comes in and whose number the network does not vouch for (STIR/SHAKEN).
    """

    caller_number: Literal["own", "replace", "any"]
    unverified: Literal["refuse", "flag", "any"] = "any"
    clause: ClauseId


class EncryptionRule(Rule):
    """Whether TLS signalling and SRTP media are required, and what becomes of a call without (A7)."""

    signalling: Literal["required", "any"]
    media: Literal["required", "any"]
    otherwise: Literal["refuse", "flag"]
    clause: ClauseId


class StandingRule(Rule):
    """By which clause accounts are suspended or terminated at once (K12), and terminated for fraud (V8).

    For fraud, prepaid credit is forfeited and charges stay owed. Without `fraud_clause` both rest on `clause`.
    """

    clause: ClauseId
    fraud_clause: ClauseId | None = None


class Trigger(Rule):
    """A detector, or a rung of the ladder: from `threshold` of `measure` in `window` on, `step` follows.

    services: what a restriction takes, where empty what the measure is about. deadline_days: how long the customer has
    to moderate or to agree, before the next harder rung follows (S3, S4). fraud: a termination is one for fraud (V8).
    shadow: what would follow is written down, and not done.
    """

    name: Name
    measure: Name
    threshold: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    window: Period
    step: Step
    clause: ClauseId
    services: frozenset[Kind] = frozenset()
    deadline_days: Annotated[int, Field(ge=1, le=366)] | None = None
    fraud: bool = False
    shadow: bool = False

    @model_validator(mode="after")
    def _fits_its_step(self) -> "Trigger":
        if self.services and self.step is not Step.RESTRICT:
            raise ValueError(
                f'services are taken by the step "restrict", not by "{self.step}"; leave them out'
            )
        if Kind.EMERGENCY in self.services:
            raise ValueError("emergency calls cannot be restricted; name other services")
        if self.deadline_days is not None and self.step not in (Step.MODERATE, Step.AGREE_TO_PAY):
            raise ValueError(
                f'a deadline is for "moderate" and "agree_to_pay", not for "{self.step}"; leave deadline_days out'
            )
        if self.fraud and self.step is not Step.TERMINATE:
            raise ValueError(f'fraud terminates an account; write step = "terminate", not "{self.step}"')
        return self


class Detector(Trigger):
    """Watches one measure of each account (`measures.py`; K7 to K11, A1, A2, A6, S2, S6 to S8, V7).

    below: the step follows where the measure has fallen to the threshold, such as an answer ratio. seconds: what is
    short, or long. at_least: fewer calls say nothing. allowance: by which accounts are compared; cohort: with fewer
    accounts on the plan than this nobody is compared (S2).
    """

    below: bool = False
    seconds: Annotated[int, Field(ge=1, le=86_400)] | None = None
    at_least: Annotated[int, Field(ge=1, le=KEPT_MAX)] | None = None
    allowance: Name | None = None
    cohort: Annotated[int, Field(ge=3, le=1_000_000)] | None = None

    @model_validator(mode="after")
    def _fits_its_measure(self) -> "Detector":
        if self.measure not in MEASURES:
            raise ValueError(f"measure {self.measure!r} is unknown; known are {', '.join(sorted(MEASURES))}")
        if (self.measure in PEERS) != (self.allowance is not None):
            raise ValueError(
                f"{self.measure!r} compares accounts by what they used of an allowance; name it in `allowance`"
                if self.measure in PEERS
                else f"{self.measure!r} compares with no other account; leave `allowance` out"
            )
        if self.cohort is not None and self.measure != "times_median_of_cohort":
            raise ValueError(f"{self.measure!r} needs no other accounts; leave `cohort` out")
        return self

    @property
    def restricts(self) -> frozenset[Kind]:
        """What a restriction takes."""
        return self.services or MEASURES[self.measure].services


class Rung(Trigger):
    """A step of the ladder that follows by how much is known of an account (S3, S4, R4, R6, A10).

    plan: what is proposed or added where use went past its allowance for so many periods in a row; the step is then the
    notice of it (R4).
    """

    plan: Name | None = None

    @model_validator(mode="after")
    def _is_known(self) -> "Rung":
        if self.measure not in LADDER_MEASURES:
            known = ", ".join(sorted(LADDER_MEASURES))
            raise ValueError(f"measure {self.measure!r} is none of the ladder's; known are {known}")
        if (self.measure == OVERAGE_MONTHS) != (self.plan is not None):
            raise ValueError(
                f"{self.measure!r} leads to a minute plan; name one of [[plans]] in `plan`"
                if self.measure == OVERAGE_MONTHS
                else f"{self.measure!r} leads to no minute plan; leave `plan` out"
            )
        if self.plan is not None and self.step is not Step.NOTICE:
            raise ValueError(f'a minute plan comes with a notice; write step = "notice", not "{self.step}"')
        if self.plan is not None and self.shadow:
            raise ValueError(
                'a plan that is not to be added is one with added = "when_accepted"; leave shadow out'
            )
        return self


class RequestRule(Rule):
    """Requests for higher limits (R5). hard: limits that no request raises, such as "caps.participants".

    Without this table any allowance and cap may be raised, by the clause of changes, or else that of the limit itself.
    """

    clause: ClauseId
    hard: frozenset[LimitKey] = frozenset()


class MinutePlan(Rule):
    """What is added to an allowance in each of its periods, for a price in each (R4).

    adds_s: of talk, adds: of messages. added: once a customer or an operator accepts it, or by itself where a rung of
    the ladder that names it is reached; from the next period on in both cases.
    """

    name: Name
    allowance: Name
    adds_s: Annotated[int, Field(ge=1, le=_UNITS_MAX)] | None = None
    adds: Annotated[int, Field(ge=1, le=_UNITS_MAX)] | None = None
    price: AmountText
    added: Literal["when_accepted", "by_itself"] = "when_accepted"
    clause: ClauseId

    @model_validator(mode="after")
    def _adds_one_thing(self) -> "MinutePlan":
        if (self.adds_s is None) == (self.adds is None):
            raise ValueError("a plan adds `adds_s` seconds of talk, or `adds` messages; write one of them")
        return self

    @property
    def units(self) -> int:
        """What it adds, in the unit of its allowance."""
        return self.adds_s or self.adds or 0


class Elsewhere(Rule):
    """A clause that the file cannot express, and what sees to it instead."""

    clause: ClauseId
    where: Annotated[str, Field(min_length=1, max_length=400)]
