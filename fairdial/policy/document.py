"""The policy file: what an operator writes, checked key by key.

A policy is a TOML document; every rule in it names the clause that it comes from. Errors say which
file, which key, what is wrong and how to mend it, all of them at once. Reading the file is left to
the caller: this module sees text.
"""

import json
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from fairdial.policy.account import Kind
from fairdial.policy.periods import Period
from fairdial.policy.prefixes import COUNTRIES, NumberClass

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]
ClauseId = Annotated[str, Field(min_length=1, max_length=40)]


def _known_country(code: str) -> str:
    if code not in COUNTRIES:
        raise ValueError("not an ISO 3166-1 alpha-2 code; write it like GB or DE")
    return code


Country = Annotated[str, AfterValidator(_known_country)]


class PolicyError(ValueError):
    """A policy document cannot be used. The text has one line per fault: file, key, fault, cure."""

    def __init__(self, where: str, faults: list[str]) -> None:
        self.where = where
        self.faults = tuple(faults)
        super().__init__("\n".join(f"{where}: {fault}" for fault in faults))


class _Rule(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ClassRule(_Rule):
    """Which classes of number the plan covers."""

    allow: frozenset[NumberClass]
    clause: ClauseId


class CountryRule(_Rule):
    """Which countries the plan covers: a list of ISO 3166-1 codes, or "any"."""

    allow: frozenset[Country] | Literal["any"]
    clause: ClauseId


class KindRule(_Rule):
    """Which kinds of call exist on this plan."""

    allow: frozenset[Kind]
    clause: ClauseId


class LongestCallRule(_Rule):
    """The longest call by kind, in seconds. A kind that is not named has no limit of its own."""

    clause: ClauseId
    seconds: Mapping[Kind, Annotated[int, Field(ge=1, le=86_400)]]


class Allowance(_Rule):
    """Seconds of talk included in each period. Without `limit_s` the meter only counts."""

    name: Name
    limit_s: Annotated[int, Field(ge=0)] | None = None
    period: Period
    counts: frozenset[Kind]
    clause: ClauseId


class Policy(_Rule):
    """A versioned document of clauses, as `decide` uses it."""

    name: Name
    version: Annotated[str, Field(min_length=1, max_length=40)]
    title: str
    kinds: KindRule
    classes: ClassRule
    countries: CountryRule
    longest_call: LongestCallRule
    allowances: tuple[Allowance, ...] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Policy":
        names = [allowance.name for allowance in self.allowances]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"allowance {twice[0]!r} stands twice; give each its own name")
        return self

    def meters_for(self, kind: Kind) -> tuple[Allowance, ...]:
        """Allowances in which a call of `kind` counts, limited ones first as written."""
        return tuple(allowance for allowance in self.allowances if kind in allowance.counts)

    def longest_call_s(self, kind: Kind) -> int | None:
        """Longest call of `kind` in seconds, or None."""
        return self.longest_call.seconds.get(kind)


def parse_policy(text: str, where: str) -> Policy:
    """The policy in a TOML text; `where` names the file in errors. Raises PolicyError."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(where, [f"not TOML: {error}"]) from error
    try:
        # Through JSON: TOML knows neither sets nor enums, which strict validation takes from JSON's lists
        # and strings alone; and without strictness `limit_s = true` would be one second.
        return Policy.model_validate_json(json.dumps(document, default=str))
    except ValidationError as error:
        raise PolicyError(where, [_fault(fault) for fault in error.errors() if _tells(fault)]) from error


def _tells(fault: Mapping[str, Any]) -> bool:
    # Where a list or a word may stand, a faulty list fails as a word as well.
    return not (fault["type"] == "literal_error" and isinstance(fault["input"], list))


def _fault(fault: Mapping[str, Any]) -> str:
    # Parts such as "frozenset[...]" and "[key]" are pydantic's, not the operator's.
    key = ".".join(str(part) for part in fault["loc"] if "[" not in str(part)) or "document"
    match fault["type"]:
        case "missing":
            return f"{key}: missing; write it"
        case "extra_forbidden":
            return f"{key}: no such key; remove it or correct its spelling"
        case "value_error":
            return f"{key}: {fault['ctx']['error']}"
        case _:
            return f"{key}: {fault['msg'].removeprefix('Value error, ')} (found {fault['input']!r:.80})"
