"""The reference of the policy file says what the code does: its keys, defaults, values, examples and sums."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fairdial.policy.account import Kind
from fairdial.policy.cards import COLUMNS, RateCard
from fairdial.policy.decide import CHECKS, COVERAGE
from fairdial.policy.document import Policy
from fairdial.policy.lint import lint
from fairdial.policy.measures import LADDER_MEASURES, MEASURES
from fairdial.policy.outcomes import Reason
from fairdial.policy.periods import Period
from fairdial.policy.prefixes import NumberClass
from fairdial.policy.rating import charge_micros, decimal_text

PAGE = (Path(__file__).parents[2] / "docs/policy.md").read_text(encoding="utf-8")
_DEFINED = {"kind": Kind, "class": NumberClass, "period": Period}
"""Values that the page lists once, by the name under which its tables speak of them."""


def blocks(language: str, page: str = PAGE) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def section(title: str, page: str = PAGE) -> str:
    [found] = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    return str(found)


def rows(text: str, header: str) -> Iterator[list[str]]:
    """The cells of all tables under that header."""
    for table in re.findall(rf"^\| {re.escape(header)} \|\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE):
        for line in table.splitlines():
            yield [cell.strip() for cell in line.strip("|").split("|")]


def coded(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def fields_of(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, FieldInfo]]:
    """Every key of the file under the name that the page gives it."""
    for name, field in model.model_fields.items():
        key = ".".join((*path, name))
        key = re.sub(r"^.+\.clause$", "*.clause", key)
        yield re.sub(r"^caps\..+\.limit$", "caps.*.limit", key), field
        for inner in models_in(field.annotation):
            yield from fields_of(inner, (*path, name))


FIELDS = dict(fields_of(Policy))


def default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default is None:
        return "none"
    if isinstance(default, tuple | frozenset | Mapping | BaseModel):
        return "empty"
    return f'`"{default}"`' if isinstance(default, str) else f"`{str(default).lower()}`"


def written_keys(page: str) -> dict[str, list[str]]:
    """The rows of the tables of keys, by key: type, default, meaning."""
    return {key: row[1:] for row in rows(page, "key | type | default | meaning") for key in coded(row[0])}


def missing(page: str) -> set[str]:
    return FIELDS.keys() - written_keys(page).keys()


def unknown(page: str) -> set[str]:
    """What the page puts as a name of the file or of an outcome, and is none."""
    values = {value for field in FIELDS.values() for value in values_in(field.annotation)}
    values |= {default_of(field).strip('`"') for field in FIELDS.values()}
    names = {*FIELDS, *(part for key in FIELDS for part in key.split(".")), *COLUMNS, *values, *Reason}
    names |= {*MEASURES, *LADDER_MEASURES}
    told = coded(re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE))
    named = {name for name in told if re.fullmatch(r"[a-z_]+(?:\.[a-z_*]+)*", name)}
    tables = {name for name in told if re.fullmatch(r"\[+[a-z_.]+\]+", name)}
    lists = {f"[[{key}]]" for key, field in FIELDS.items() if get_origin(field.annotation) is tuple}
    return (named - names) | (tables - lists - {f"[{key}]" for key in FIELDS if f"[[{key}]]" not in lists})


def values_in(annotation: Any) -> Iterator[str]:
    """The words that a key takes, without those that the page lists once."""
    if get_origin(annotation) is Literal:
        yield from (str(value) for value in get_args(annotation))
    elif isinstance(annotation, type) and issubclass(annotation, StrEnum):
        yield from () if annotation in _DEFINED.values() else (str(value) for value in annotation)
    else:
        for part in get_args(annotation):
            yield from values_in(part)


def test_every_key_of_a_rule_stands_in_the_page_and_no_other() -> None:
    assert missing(PAGE) == set()
    assert unknown(PAGE) == set()
    assert written_keys(PAGE).keys() == FIELDS.keys()


@pytest.mark.parametrize("key", sorted(FIELDS))
def test_a_key_that_is_taken_out_of_the_page_is_missed(key: str) -> None:
    assert missing(PAGE.replace(f"`{key}`", "")) == {key}


@pytest.mark.parametrize(
    "name", ["`allowances.limit_m`", "`caps.line`", "`line_gone`", "`[charge]`", "`[[charges]]`"]
)
def test_a_name_that_does_not_exist_is_found(name: str) -> None:
    assert unknown(f"{PAGE}\nSee {name}.\n") == {name.strip("`")}


@pytest.mark.parametrize("key", sorted(FIELDS))
def test_the_default_of_a_key_is_that_of_the_code(key: str) -> None:
    assert written_keys(PAGE)[key][1] == default_of(FIELDS[key])


@pytest.mark.parametrize("key", sorted(FIELDS))
def test_the_words_that_a_key_takes_stand_beside_it(key: str) -> None:
    written = written_keys(PAGE)[key][0]
    values = set(values_in(FIELDS[key].annotation))
    if not written.startswith("by price"):
        assert {value for value in values if not re.search(rf"\b{value}\b", written)} == set()


@pytest.mark.parametrize(("name", "values"), _DEFINED.items())
def test_kinds_classes_and_periods_are_those_of_the_code(name: str, values: type[StrEnum]) -> None:
    [listed] = re.findall(rf"^- \*\*{name}\*\*: ([a-z_, \n]+)\.", PAGE, re.MULTILINE)
    assert re.split(r",\s+", listed) == [str(value) for value in values]


def test_the_order_of_a_decision_is_that_of_the_code() -> None:
    asked = [check.name for check in (*CHECKS, *COVERAGE)]
    written = [rule.strip("`") for _, rule, _ in rows(PAGE, "what is looked at | rule | refused with")]
    assert [rule for rule in written if rule in asked] == asked


def test_the_examples_of_policies_have_no_findings() -> None:
    examples = blocks("toml")
    assert examples
    for number, example in enumerate(examples):
        assert lint(example, f"example {number}") == ()


def test_the_page_lists_the_measures() -> None:
    listed = [coded(row[0]) for row in rows(section("Measures"), "measure | what it is | calls")]
    assert {name for names in listed for name in names} == MEASURES.keys()
    rungs = [coded(row[0]) for row in rows(section("Measures"), "measure | what it is")]
    assert {name for names in rungs for name in names} == LADDER_MEASURES.keys()


def test_the_rate_card_of_the_page_has_the_columns_that_it_explains() -> None:
    [text] = blocks("csv")
    RateCard.parse(text, "standard", "EUR")
    explained = [coded(row[0])[0] for row in rows(section("Rate cards"), "column | what it holds")]
    assert tuple(explained) == COLUMNS


def test_the_charges_of_the_page_are_those_of_the_code() -> None:
    [text] = blocks("csv")
    card = RateCard.parse(text, "standard", "EUR")
    noon_ms = int(datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()) * 1000
    sums = list(rows(section("Money"), "number | seconds | billed | charge"))
    assert sums
    for number, seconds, billed, charge in sums:
        rate = card.lookup(number, noon_ms)
        assert rate is not None
        assert rate.tariff.increment.billed_s(int(seconds)) == int(billed)
        assert decimal_text(charge_micros(rate.tariff, int(seconds))) == charge
