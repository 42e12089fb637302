"""The policy file: what an operator writes, read into a `Policy`.

A policy is a TOML document; every rule in it (`rules.py`) names the clause that it comes from. Errors
say which file, which key, what is wrong and how to mend it, all of them at once (`faults.py` finds the words).
Leaves to others: reading the file (this module sees text), whether the rules make sense together
(`lint.py`), and what they say to people (`show.py`, `difference.py`).
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, PlainValidator, ValidationError, model_validator

from fairdial.policy.account import Kind
from fairdial.policy.faults import Fault, NotToml, faults_of, toml_json
from fairdial.policy.periods import midnight_ms
from fairdial.policy.prefixes import NumberClass
from fairdial.policy.rules import (
    PARTIES,
    Allowance,
    Cap,
    Caps,
    ChargeKey,
    Charges,
    ClassRule,
    ClauseId,
    CountryRule,
    Detector,
    Elsewhere,
    EncryptionRule,
    IdentityRule,
    KindRule,
    LongestCallRule,
    Meter,
    MinutePlan,
    Name,
    Pay,
    RequestRule,
    Rule,
    Rung,
    Scope,
    StandingRule,
    Step,
    Trigger,
    UncoveredRule,
)

# All that other parts need of a policy file, so that they import it from here.
__all__ = [
    "PARTIES",
    "Allowance",
    "Cap",
    "Caps",
    "ChargeKey",
    "Charges",
    "ClassRule",
    "ClauseId",
    "CountryRule",
    "Detector",
    "Elsewhere",
    "EncryptionRule",
    "IdentityRule",
    "KindRule",
    "LongestCallRule",
    "Meter",
    "MinutePlan",
    "Pay",
    "Policy",
    "PolicyError",
    "RequestRule",
    "Rung",
    "Scope",
    "StandingRule",
    "Step",
    "Trigger",
    "UncoveredRule",
    "parse_policy",
]


def _day(value: object) -> object:
    try:
        # Strings alone: a number would be a day in one way of writing and seconds in another.
        return date.fromisoformat(value if isinstance(value, str) else "")
    except ValueError as error:
        raise ValueError("not a date; write it like 2026-12-01") from error


def _day_or_at_once(value: object) -> object:
    try:
        return value if value == "at_once" else _day(value)
    except ValueError as error:
        raise ValueError('neither a date nor "at_once"; write a date such as 2026-12-01') from error


class PolicyError(ValueError):
    """A policy document cannot be used. The text has one line per fault: file, key, fault, cure.

    faults: the lines without the file; found: the same in their parts.
    """

    def __init__(self, where: str, found: Iterable[Fault]) -> None:
        self.where = where
        self.found = tuple(found)
        self.faults = tuple(str(fault) for fault in self.found)
        super().__init__("\n".join(f"{where}: {fault}" for fault in self.faults))


class Policy(Rule):
    """A versioned document of clauses, as `decide` uses it.

    published: the day it was made known. effective: the local day from whose midnight it decides, in the
    account's zone, or "at_once" (A11). notice_days: the least time between both (R7, V9). changes_clause:
    the clause by which versions change so.
    """

    name: Name
    version: Annotated[str, Field(min_length=1, max_length=40)]
    title: str
    published: Annotated[date, PlainValidator(_day)] | None = None
    effective: Annotated[date | Literal["at_once"], PlainValidator(_day_or_at_once)] = "at_once"
    notice_days: Annotated[int, Field(ge=0, le=366)] = 0
    changes_clause: ClauseId | None = None
    kinds: KindRule
    classes: ClassRule
    countries: CountryRule
    uncovered: UncoveredRule | None = None
    longest_call: LongestCallRule
    allowances: tuple[Allowance, ...] = ()
    caps: Caps = Field(default_factory=Caps)
    charges: Charges | None = None
    identity: IdentityRule | None = None
    encryption: EncryptionRule | None = None
    standing: StandingRule | None = None
    requests: RequestRule | None = None
    plans: tuple[MinutePlan, ...] = ()
    detectors: tuple[Detector, ...] = ()
    ladder: tuple[Rung, ...] = ()
    elsewhere: tuple[Elsewhere, ...] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Policy":
        for what, names in (
            ("allowance", [allowance.name for allowance in self.allowances]),
            ("plan", [plan.name for plan in self.plans]),
            ("detector", [detector.name for detector in self.detectors]),
            ("ladder step", [rung.name for rung in self.ladder]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{what} {twice[0]!r} stands twice; give each its own name")
        return self

    def meters_for(self, kind: Kind) -> tuple[Allowance, ...]:
        """Allowances in which a call of `kind` counts, limited ones first as written."""
        return tuple(allowance for allowance in self.allowances if kind in allowance.counts)

    def longest_call_s(self, kind: Kind) -> int | None:
        """Longest call of `kind` in seconds, or None."""
        return self.longest_call.seconds.get(kind)

    def longest_call_clause(self, kind: Kind) -> str:
        """The clause behind the longest call of `kind`."""
        return self.longest_call.clauses.get(kind, self.longest_call.clause)

    def rule_clause(self, rule: str, kind: Kind) -> str:
        """The clause behind the rule at which a call of `kind` ends: a key such as "allowances.voice"."""
        table, _, name = rule.partition(".")
        if table == "allowances":
            return next((one.clause_for(kind) for one in self.allowances if one.name == name), "")
        if table == "credit":
            return self.uncovered.clause if self.uncovered is not None else ""
        return self.longest_call_clause(kind)

    def limit_rule(self, key: str) -> Allowance | Cap | None:
        """The allowance or cap of a key such as "allowances.voice"; None where there is none, or no limit on it."""
        table, _, name = key.partition(".")
        if table == "caps":
            cap = getattr(self.caps, name) if name in Caps.model_fields else None
            return cap if isinstance(cap, Cap) else None
        named = (one for one in self.allowances if table == "allowances" and one.name == name)
        return next((one for one in named if one.limit_units is not None), None)

    def raise_clause(self, key: str) -> str:
        """The clause by which that limit may be raised (R5): that of changes (A11) where no rule says more."""
        rule = self.limit_rule(key)
        of_limit = "" if rule is None else rule.clause
        return self.requests.clause if self.requests is not None else self.changes_clause or of_limit

    def pays_uncovered(self, number_class: NumberClass) -> Pay:
        """Whether a number of that class outside the plan is refused or paid from credit."""
        rule = self.uncovered
        if rule is None or (rule.classes != "any" and number_class not in rule.classes):
            return Pay.REFUSE
        return rule.pay

    def effective_ms(self, zone: ZoneInfo) -> int | None:
        """The instant from which it decides for an account in `zone`; None: at once."""
        return midnight_ms(self.effective, zone) if isinstance(self.effective, date) else None

    def clause_ids(self) -> frozenset[str]:
        """All clauses that a rule or `[[elsewhere]]` names."""
        return frozenset(_clauses_in(self.model_dump()))


def _clauses_in(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in ("clause", "changes_clause", "fraud_clause"):
                yield from () if inner is None else (inner,)
            elif key == "clauses":
                yield from inner.values()
            else:
                yield from _clauses_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _clauses_in(inner)


def parse_policy(text: str, where: str) -> Policy:
    """The policy in a TOML text; `where` names the file in errors. Raises PolicyError."""
    try:
        document = toml_json(text)
    except NotToml as error:
        raise PolicyError(where, [error.fault]) from error
    try:
        # Strictly: otherwise `limit_s = true` would be one second.
        return Policy.model_validate_json(document)
    except ValidationError as error:
        raise PolicyError(where, faults_of(error, Policy)) from error
