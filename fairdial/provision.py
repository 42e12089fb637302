"""What an operator's file wants to have provisioned, read into the entries of a batch.

A file is TOML with the tables `[[account]]`, `[[line]]`, `[[number]]`, `[[subscription]]`, `[[credit]]` and
`[[agreement]]`, or CSV with rows of one of these kinds, told by the header. The fields are those of the
classes below; in CSV they stand in any order, optional ones may be left out, and a list has blanks between its
words. In a CSV of subscriptions the column `policy` is headed `subscription`, since accounts have a policy too.

Responsible for an error for every fault of the file at once. Leaves to the ledger what can only be known there
(whether an account exists, whether its plan has room), and to the caller to read the file: this module sees text
and keeps no time.
"""

import json
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches
from itertools import islice
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidationInfo,
)

from fairdial.ledger.contract import Entry, Payment, Provision, Subscribing
from fairdial.policy import csv_rows
from fairdial.policy.account import Account, Agreement, Consent, Line, Options, OwnNumber
from fairdial.policy.faults import Fault, KeyPath, NotToml, faults_of, toml_json
from fairdial.policy.numbers import Habit
from fairdial.policy.periods import zone_named
from fairdial.policy.rating import currency_digits, parse_micros
from fairdial.policy.source import key_lines, line_of

ENTRIES_MAX = 5_000
"""Entries of one file. They are one transaction, of some 0.2 s, in which no call can be decided about."""

_MS_PER_S = 1000


class ProvisionError(ValueError):
    """A file cannot be used. The text has one line for each fault: file, line, column or key, fault, cure."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


@dataclass(frozen=True, slots=True)
class Known:
    """What a file may refer to. policies: names; region: how lines dial that name none; now_ms: the present."""

    policies: Collection[str]
    region: str
    now_ms: int


def _words(value: object) -> object:
    if isinstance(value, str):
        return tuple(value.split())
    return tuple(value) if isinstance(value, list) else value


def _whole(value: object) -> object:
    if isinstance(value, str):
        if not (value.isascii() and value.isdigit() and len(value) <= 12):
            raise ValueError(f"{value!r:.40} is not a whole number; write digits alone, such as 15")
        return int(value)
    return value


def _instant_ms(value: object) -> object:
    try:
        moment = datetime.fromisoformat(value if isinstance(value, str) else "")
    except ValueError as error:
        raise ValueError(
            f"{value!r:.40} is not an ISO 8601 time; write it like 2027-01-01T00:00:00Z"
        ) from error
    if moment.tzinfo is None:
        raise ValueError(f"{value!r} has no time zone; add Z or an offset such as +01:00")
    return int(moment.timestamp() * _MS_PER_S)


def _amount_micros(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('an amount is a text; write it in quotes, such as "12.50"')
    sign, digits = (-1, value[1:]) if value.startswith("-") else (1, value)
    return sign * parse_micros(digits)


def _consent(value: object) -> object:
    try:
        return Consent(str(value))
    except ValueError as error:
        raise ValueError(f"{value!r:.40} cannot be agreed to; write {', '.join(Consent)}") from error


def _policy(name: str, info: ValidationInfo) -> str:
    known = info.context
    assert isinstance(known, Known)
    if name not in known.policies:
        close = get_close_matches(name, known.policies, n=1, cutoff=0.7)
        cure = f"write {close[0]}" if close else f"known are {', '.join(sorted(known.policies))}"
        raise ValueError(f"policy {name!r:.40} is not loaded; {cure}")
    return name


def _reference(text: str) -> None:
    if not text:
        raise ValueError("empty; write your own key for this payment")


def _as_in(check: Callable[[Any], object]) -> AfterValidator:
    """A field that must be as `check` takes it: so each of them is told of, with its name."""

    def checked(value: Any) -> Any:
        check(value)
        return value

    return AfterValidator(checked)


AccountId = Annotated[str, _as_in(lambda text: Account(text, policy=""))]
LineId = Annotated[str, _as_in(lambda text: Line(text, account_id=""))]
PolicyName = Annotated[str, AfterValidator(_policy)]
Zone = Annotated[str, _as_in(zone_named)]
Countries = Annotated[
    tuple[str, ...], BeforeValidator(_words), _as_in(lambda words: Options(countries=frozenset(words)))
]
InstantMs = Annotated[int, BeforeValidator(_instant_ms)]
"""A time with its zone, as text or as TOML has it."""
CycleDay = Annotated[int, BeforeValidator(_whole), _as_in(lambda day: Options(cycle_day=day))]
EstimateS = Annotated[int, BeforeValidator(_whole), _as_in(lambda talk_s: Options(estimate_s=talk_s))]
Currency = Annotated[str, _as_in(currency_digits)]
Region = Annotated[str, _as_in(lambda code: Habit(region=code))]
CarrierPrefixes = Annotated[
    tuple[str, ...], BeforeValidator(_words), _as_in(lambda words: Habit(carrier_prefixes=words))
]
Internal = Annotated[str, _as_in(lambda patterns: Habit(internal=patterns))]
E164 = Annotated[str, _as_in(lambda text: OwnNumber(text, account_id=""))]
AmountMicros = Annotated[int, BeforeValidator(_amount_micros)]
"""Decimal text; below zero takes credit back."""
Reference = Annotated[str, _as_in(_reference)]
ConsentName = Annotated[Consent, BeforeValidator(_consent)]
AgreedBy = Annotated[str, _as_in(lambda name: Agreement("", Consent.SURCHARGE, name, at_ms=0))]


class _Table(BaseModel):
    """What all tables share: no key that is not known, no value that is turned into another."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @abstractmethod
    def provision(self, known: Known) -> Provision:
        """What is to be provisioned. Raises ValueError."""


class _OptionsTable(_Table):
    """What was bought, as accounts and subscriptions have it (`Options`)."""

    countries: Countries = ()
    until: InstantMs | None = None
    cycle_day: CycleDay = 1
    plan: str = ""
    currency: Currency | None = None
    estimate_s: EstimateS | None = None

    def options(self) -> Options:
        """Raises ValueError."""
        return Options(
            frozenset(self.countries), self.until, self.cycle_day, self.plan, self.currency, self.estimate_s
        )


class AccountTable(_OptionsTable):
    """`[[account]]`"""

    account: AccountId
    policy: PolicyName
    zone: Zone = "UTC"
    name: str = ""

    def provision(self, known: Known) -> Account:
        return Account(self.account, self.policy, self.zone, self.name, options=self.options())


class LineTable(_Table):
    """`[[line]]`"""

    line: LineId
    account: str
    region: Region | None = None
    carrier_prefixes: CarrierPrefixes = ()
    internal: Internal | None = None

    def provision(self, known: Known) -> Line:
        habit = Habit(
            region=self.region or known.region,
            carrier_prefixes=self.carrier_prefixes,
            internal=self.internal,
        )
        return Line(self.line, self.account, habit)


class NumberTable(_Table):
    """`[[number]]`"""

    number: E164
    account: str
    line: str | None = None

    def provision(self, known: Known) -> OwnNumber:
        return OwnNumber(self.number, self.account, self.line)


class SubscriptionTable(_OptionsTable):
    """`[[subscription]]`"""

    account: str
    policy: PolicyName

    def provision(self, known: Known) -> Subscribing:
        return Subscribing(self.account, self.policy, self.options())


class CreditTable(_Table):
    """`[[credit]]`"""

    account: str
    amount: AmountMicros
    currency: Currency
    reference: Reference
    note: str = ""

    def provision(self, known: Known) -> Payment:
        return Payment(self.account, self.currency, self.amount, self.reference, self.note)


class AgreementTable(_Table):
    """`[[agreement]]`"""

    account: str
    consent: ConsentName
    agreed_by: AgreedBy
    note: str = ""

    def provision(self, known: Known) -> Agreement:
        return Agreement(self.account, self.consent, self.agreed_by, known.now_ms, self.note)


_TABLES: Mapping[str, type[_Table]] = {
    "account": AccountTable,
    "line": LineTable,
    "number": NumberTable,
    "subscription": SubscriptionTable,
    "credit": CreditTable,
    "agreement": AgreementTable,
}
"""By name; in this order a file is provisioned, since each needs those before it."""

_MARKS = {
    "number": "number",
    "amount": "credit",
    "consent": "agreement",
    "line": "line",
    "subscription": "subscription",
    "policy": "account",
}
"""The column that tells what the rows of a CSV are; the first of them that the header has."""


class _Document(BaseModel):
    """A TOML file as a whole; its tables are looked at one by one."""

    model_config = ConfigDict(extra="forbid", strict=True)

    account: list[dict[str, Any]] = []
    line: list[dict[str, Any]] = []
    number: list[dict[str, Any]] = []
    subscription: list[dict[str, Any]] = []
    credit: list[dict[str, Any]] = []
    agreement: list[dict[str, Any]] = []


def read_entries(text: str, where: str, known: Known) -> tuple[Entry, ...]:
    """The entries of a file called `where`, in the order in which they can be taken.

    `where` ends in .toml or .csv. Raises ProvisionError with every fault.
    """
    faults: list[str] = []
    if where.lower().endswith(".toml"):
        found = _from_toml(text, where, known, faults)
    elif where.lower().endswith(".csv"):
        found = _from_csv(text, where, known, faults)
    else:
        raise ProvisionError([f"{where}: neither .toml nor .csv; name the file after what it holds"])
    entries = tuple(islice(found, ENTRIES_MAX + 1))
    if not entries and not faults:
        faults.append(f"{where}: nothing is in it; write at least one entry")
    if len(entries) > ENTRIES_MAX:
        faults.append(f"{where}: more than {ENTRIES_MAX} entries; split it into files of that many at most")
    if faults:
        raise ProvisionError(faults)
    return entries


def _from_toml(text: str, where: str, known: Known, faults: list[str]) -> Iterator[Entry]:
    text = text.removeprefix("\ufeff")
    try:
        # Through JSON, so that times are texts and what stands in CSV and TOML is read in one way.
        document = json.loads(toml_json(text))
    except NotToml as error:
        faults.append(f"{where}: {error.fault}")
        return
    lines = key_lines(text)

    def place(path: KeyPath) -> str:
        return f"{where}, line {line_of(lines, path)}"

    for fault in _faults_in(document, _Document, known):
        faults.append(f"{place(fault.path)}, {fault}")
    for kind, model in _TABLES.items():
        for index, table in enumerate(_tables_in(document, kind)):
            at = f"[[{kind}]] {index + 1}"
            found = _provision_of(table, model, known)
            if isinstance(found, tuple):
                faults += [f"{place((kind, index, *fault.path))}, {at}, key {fault}" for fault in found]
            else:
                yield Entry(f"{place((kind, index))}, {at}", found)


def _tables_in(document: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    tables = document.get(kind)
    well = isinstance(tables, list) and all(isinstance(table, dict) for table in tables)
    return tables if isinstance(tables, list) and well else []  # a fault of the document, and told of


def _from_csv(text: str, where: str, known: Known, faults: list[str]) -> Iterator[Entry]:
    rows = csv_rows.lines(text, where, faults)
    line, header = next(rows, (1, []))
    kind = _kind_of(header)
    if kind is None:
        faults.append(_no_kind(header, f"{where}, line {line}"))
        return
    model = _TABLES[kind]
    columns = [_key_of(column, kind) for column in header]
    misnamed = list(_header_faults(columns, model, known))
    faults += [f"{where}, line {line}, column {fault}" for fault in misnamed]
    if misnamed:
        return  # each row would tell of it again
    for number, fields in csv_rows.as_wide_as(header, rows, where, faults):
        table = {column: field for column, field in zip(columns, fields, strict=True) if field}
        found = _provision_of(table, model, known)
        if isinstance(found, tuple):
            written = dict(zip(columns, header, strict=True))
            faults += [f"{where}, line {number}, column {_as_written(fault, written)}" for fault in found]
        else:
            yield Entry(f"{where}, line {number}", found)


def _provision_of(
    table: Mapping[str, Any], model: type[_Table], known: Known
) -> Provision | tuple[Fault, ...]:
    try:
        return model.model_validate(table, context=known).provision(known)
    except ValidationError as error:
        return faults_of(error, model)


def _faults_in(value: Any, model: type[BaseModel], known: Known) -> tuple[Fault, ...]:
    try:
        model.model_validate(value, context=known)
    except ValidationError as error:
        return faults_of(error, model)
    return ()


def _kind_of(header: Sequence[str]) -> str | None:
    marks = [mark for mark in _MARKS if mark in header]
    if not marks:
        # The nearest to a column that no list has: then the fault names it, and how to spell it.
        known = {key for model in _TABLES.values() for key in model.model_fields}
        strange = [column for column in header if column not in known]
        marks = [close for column in strange for close in get_close_matches(column, _MARKS, n=1, cutoff=0.7)]
    return _MARKS[marks[0]] if marks else None


def _key_of(column: str, kind: str) -> str:
    return "policy" if (kind, column) == ("subscription", "subscription") else column


def _as_written(fault: Fault, written: Mapping[str, str]) -> Fault:
    """The fault under the name that its column has in the header."""
    key, *rest = fault.path
    return replace(fault, path=(written.get(str(key), key), *rest))


def _no_kind(header: Sequence[str], at: str) -> str:
    if any(";" in column or "\t" in column for column in header):
        return f"{at}: the columns are not separated by commas; save the file as CSV with commas"
    wanted = ", ".join(f"{mark} ({kind})" for mark, kind in _MARKS.items())
    return f"{at}: the header does not tell what the rows are; begin with column names, one of them {wanted}"


def _header_faults(columns: Sequence[str], model: type[_Table], known: Known) -> Iterator[str]:
    for column in sorted({column for column in columns if columns.count(column) > 1}):
        yield f"{column}: stands twice; keep one of the two"
    for fault in _faults_in(dict.fromkeys(columns, ""), model, known):
        if not fault.path:
            yield str(fault)  # a name that is no text at all: half a UTF-16 pair
        elif fault.path[0] not in model.model_fields:
            yield f"{fault.key}: no such column; {fault.cure}"
    for key, field in model.model_fields.items():
        if field.is_required() and key not in columns:
            yield f"{key}: missing; add it"
