"""The classes of numbers, and the operator's table that puts prefixes into them.

Responsible for reading the table with an error for every fault, and for the longest match. Leaves to
`numbers.py` what a dialled string means, and to the caller to read the file: this module sees text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum

import phonenumbers

from fairdial.policy import csv_rows


class NumberClass(StrEnum):
    """What kind of destination a number is; the values are part of the decision's JSON contract."""

    GEOGRAPHIC = "geographic"
    MOBILE = "mobile"
    GEOGRAPHIC_OR_MOBILE = "geographic_or_mobile"
    TOLL_FREE = "toll_free"
    SHARED_COST = "shared_cost"
    PREMIUM_RATE = "premium_rate"
    UAN = "uan"
    PERSONAL = "personal"
    PAGER = "pager"
    VOIP = "voip"
    VOICEMAIL = "voicemail"
    SATELLITE = "satellite"
    GLOBAL_SERVICE = "global_service"
    SHORT_CODE = "short_code"
    EMERGENCY = "emergency"
    INTERNAL = "internal"
    INVALID = "invalid"


NO_COUNTRY = "-"
"""In the table's country column: this range belongs to no country (satellite, global services)."""

COLUMNS = ("prefix", "class", "country", "risk", "note", "source", "date")
_MAX_SHOWN = 50
_E164_PREFIX = re.compile(r"(\+[1-9][0-9]{0,14})(X{0,14})")
E164_DIGITS_MAX = 15
_SHORT_CODE = re.compile(r"([A-Z]{2}):([0-9]{1,10})(X{0,8})")
_ISO_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
# ISO 3166-1 codes of places that have no telephone region of their own in libphonenumber.
COUNTRIES = phonenumbers.SUPPORTED_REGIONS | {"AQ", "BV", "GS", "HM", "PN", "TF", "UM"}
_NOT_FOR_E164 = {NumberClass.INTERNAL, NumberClass.EMERGENCY, NumberClass.SHORT_CODE}


class TableError(ValueError):
    """The prefix table has faults. ``problems``: each as "file, line N, column C: what is wrong: cure"."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        more = len(self.problems) - _MAX_SHOWN
        tail = [f"... and {more} more"] if more > 0 else []
        super().__init__("\n".join([*self.problems[:_MAX_SHOWN], *tail]))


@dataclass(frozen=True, slots=True)
class PrefixRow:
    """A row of the table, with what it leaves empty filled in from the shorter prefixes above it.

    prefix: "+8816", or "GB:118XXX" for a short code. number_class None: libphonenumber decides.
    country None: libphonenumber decides; NO_COUNTRY: there is none. date: when the row was last checked.
    digits: the length of the whole number where the row states it, without the ``+``; None where it does not.
    """

    prefix: str
    number_class: NumberClass | None
    country: str | None
    high_risk: bool
    note: str
    source: str
    date: date
    digits: int | None = None

    @property
    def label(self) -> str:
        """The row as explanations name it."""
        return f"{self.prefix} ({self.source}, {self.date.isoformat()})"


@dataclass(frozen=True, slots=True)
class _Draft:
    """A row as written: an empty field says nothing."""

    line: int
    row: PrefixRow
    risk: str


class PrefixTable:
    """The operator's prefixes, by longest match.

    CSV with the header ``prefix,class,country,risk,note,source,date``; ``#`` begins a comment line.
    ``prefix`` is unique and has one of two forms:

    - ``+`` and digits: every E.164 number that begins so. The row speaks for class, country and risk; what it
      leaves empty is taken from the next shorter prefix in the table, and at last from libphonenumber. The
      number must be valid there, or, under a code of no country (satellite, global services), of a possible
      length. Class ``invalid`` closes a range. With an X for each further digit (``+1942XXXXXXX``) the row
      states the whole length, and admits a range that libphonenumber does not know yet.
    - ``GB:101`` or ``GB:118XXX``: a short code dialled from a region, exact in length, each X any digit. The
      class is obligatory; ``emergency`` adds to libphonenumber's emergency numbers; no row takes one away.

    ``country`` is ISO 3166-1 alpha-2, or ``-`` for none. ``risk`` is ``irsf`` (revenue-share fraud) or
    ``none``, which takes an inherited ``irsf`` back. ``source`` and ``date`` (YYYY-MM-DD) are obligatory.

    digest: SHA-256 of the text, in hexadecimal; "" for a table that was never one.
    """

    def __init__(self, digest: str = "") -> None:
        self.digest = digest
        self._rows: dict[str, PrefixRow] = {}
        self._lengths: tuple[int, ...] = ()
        self._short: dict[tuple[str, int], dict[str, PrefixRow]] = {}

    def __len__(self) -> int:
        return len(self._rows) + sum(len(rows) for rows in self._short.values())

    @classmethod
    def parse(cls, text: str, where: str = "prefixes.csv") -> PrefixTable:
        """Read a table from CSV text, called ``where`` in errors. Raises TableError with every fault."""
        problems: list[str] = []
        drafts: dict[str, _Draft] = {}
        for draft in _read_rows(text, where, problems):
            first = drafts.setdefault(draft.row.prefix, draft)
            if first is not draft:
                problems.append(
                    f"{where}, line {draft.line}, column prefix: {draft.row.prefix} stands on line "
                    f"{first.line} already: keep one of the two"
                )
        if problems:
            raise TableError(problems)
        table = cls(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest())
        # Shorter first: a row is completed from its parent, which is complete by then.
        for draft in sorted(drafts.values(), key=lambda draft: len(draft.row.prefix)):
            table._add(draft)
        return table

    def _add(self, draft: _Draft) -> None:
        row = draft.row
        short = _SHORT_CODE.fullmatch(row.prefix)
        if short:
            region, digits, wild = short.groups()
            self._short.setdefault((region, len(digits) + len(wild)), {})[digits] = row
            return
        parent = self.lookup(row.prefix)
        if parent is not None:
            row = replace(
                row,
                number_class=row.number_class or parent.number_class,
                digits=row.digits if row.number_class else parent.digits,
                country=row.country or parent.country,
                high_risk=row.high_risk or (not draft.risk and parent.high_risk),
            )
        self._rows[row.prefix] = row
        if len(row.prefix) not in self._lengths:
            self._lengths = (len(row.prefix), *self._lengths)

    def lookup(self, e164: str) -> PrefixRow | None:
        """The row with the longest prefix of this E.164 number (with its ``+``), or None."""
        for length in self._lengths:
            row = self._rows.get(e164[:length])
            if row is not None:
                return row
        return None

    def short_code(self, region: str, digits: str) -> PrefixRow | None:
        """The row for a short code dialled from a region, or None; the most digits written out win."""
        rows = self._short.get((region, len(digits)))
        if rows is None:
            return None
        candidates = (rows.get(digits[:length]) for length in range(len(digits), 0, -1))
        return next((row for row in candidates if row is not None), None)


def _read_rows(text: str, where: str, problems: list[str]) -> Iterator[_Draft]:
    lines = csv_rows.lines(text, where, problems)
    header = next(lines, None)
    if header is None:
        problems.append(f"{where}, line 1: the table is empty: begin with the header {','.join(COLUMNS)}")
        return
    if tuple(header[1]) != COLUMNS:
        problems.append(f"{where}, line {header[0]}: the header must be {','.join(COLUMNS)}")
        return
    for number, fields in csv_rows.as_wide_as(COLUMNS, lines, where, problems):
        faults = list(_faults(fields))
        problems += [f"{where}, line {number}, column {fault}" for fault in faults]
        if not faults:
            yield _draft(number, fields)


def _faults(fields: list[str]) -> Iterator[str]:
    prefix, class_, country, risk, _, source, day = fields
    short = _SHORT_CODE.fullmatch(prefix)
    if not short and (not _E164_PREFIX.fullmatch(prefix) or len(prefix) > 1 + E164_DIGITS_MAX):
        yield (
            f"prefix: {prefix!r} is not a prefix: write + and 1 to 15 digits (+8816, +1942XXXXXXX), "
            "or a region and a short code (GB:101, GB:118XXX)"
        )
    elif not short and prefix.endswith("X") and not class_:
        yield "class: a row that states the length needs a class: give one, or leave the X out"
    elif short and short[1] not in phonenumbers.SUPPORTED_REGIONS:
        yield f"prefix: libphonenumber knows no region {short[1]!r}: write an alpha-2 code such as GB"
    yield from _class_faults(class_, short is not None)
    if country and country != NO_COUNTRY and country not in COUNTRIES:
        yield f"country: {country!r} is not an ISO 3166-1 alpha-2 code: write GB, - for none, or nothing"
    if risk not in ("", "irsf", "none"):
        yield f"risk: {risk!r} is unknown: write irsf, none, or nothing"
    if not short and not (class_ or country or risk):
        yield "class: the row says nothing: give a class, a country or a risk, or take it out"
    if not source:
        yield "source: empty: name where the row comes from"
    if not _is_date(day):
        yield f"date: {day!r} is not a date: write the day the row was checked as YYYY-MM-DD"


def _class_faults(class_: str, short: bool) -> Iterator[str]:
    if not class_:
        if short:
            yield "class: a short code needs a class: give one, such as short_code or premium_rate"
        return
    known = {member.value for member in NumberClass}
    if class_ not in known:
        yield f"class: {class_!r} is unknown: write one of {', '.join(sorted(known))}"
    elif short and class_ == NumberClass.INTERNAL:
        yield "class: internal is a habit of a line, not of a region: put the pattern into the line's habit"
    elif not short and class_ in _NOT_FOR_E164:
        yield f"class: {class_} is for numbers dialled from a region: write the prefix as GB:101, not with +"


def _is_date(text: str) -> bool:
    if not _ISO_DATE.fullmatch(text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _draft(line: int, fields: list[str]) -> _Draft:
    prefix, class_, country, risk, note, source, day = fields
    whole_length = prefix.startswith("+") and prefix.endswith("X")
    return _Draft(
        line=line,
        risk=risk,
        row=PrefixRow(
            prefix=prefix.rstrip("X") if whole_length else prefix,
            number_class=NumberClass(class_) if class_ else None,
            country=country or None,
            high_risk=risk == "irsf",
            note=note,
            source=source,
            date=date.fromisoformat(day),
            digits=len(prefix) - 1 if whole_length else None,
        ),
    )
