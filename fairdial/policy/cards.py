"""Rate cards: what a minute to a number costs, from when on, as the operator's CSV says.

Responsible for reading a card with an error for every fault, and for the rate of a number at an instant:
the longest prefix that has a row in force then, and of that prefix the latest row. Leaves to `rating.py` what a
tariff makes of seconds, and to the caller to read the file: this module sees text.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from fairdial.policy import csv_rows
from fairdial.policy.prefixes import E164_DIGITS_MAX, TableError
from fairdial.policy.rating import Increment, Tariff, currency_digits, parse_micros

COLUMNS = ("prefix", "destination", "rate_per_min", "connect_fee", "increment", "minimum", "effective")

_PREFIX = re.compile(rf"\+[1-9][0-9]{{0,{E164_DIGITS_MAX - 1}}}")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
# A year out of this range is a slip of the pen.
_DAY = r"(?:19[7-9][0-9]|20[0-9]{2})-[0-9]{2}-[0-9]{2}"
_EFFECTIVE = re.compile(
    rf"{_DAY}(?:[T ][0-9]{{2}}:[0-9]{{2}}(?::[0-9]{{2}})?(?:Z|[+-][0-9]{{2}}:[0-9]{{2}}))?"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_VERSION_LENGTH = 12
_Value = TypeVar("_Value")


class RateCardError(TableError):
    """A rate card has faults. ``problems``: each as "file, line N, column C: what is wrong: cure"."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A row of a card: the price of calls to numbers under `prefix`, from `effective_ms` on.

    prefix: "+447". effective_ms: milliseconds since the epoch. line: where the row stands in the card's file.
    """

    prefix: str
    destination: str
    tariff: Tariff
    effective_ms: int
    line: int

    @property
    def label(self) -> str:
        """The row as explanations name it: "+447 (United Kingdom mobile, line 12, from 2026-11-01T00:00Z)"."""
        since = f"{_EPOCH + self.effective_ms * _MS:%Y-%m-%dT%H:%MZ}"
        return f"{self.prefix} ({self.destination}, line {self.line}, from {since})"


class RateCard:
    """The prices of one currency, by longest prefix and latest effective row.

    CSV with the header ``prefix,destination,rate_per_min,connect_fee,increment,minimum,effective``; ``#`` begins
    a comment line.

    - ``prefix``: ``+`` and 1 to 15 digits. It may have several rows, of different ``effective``.
    - ``destination``: what people call it; obligatory.
    - ``rate_per_min``: decimal text in the card's currency, six decimals at most; obligatory, ``0`` is free.
    - ``connect_fee``, ``minimum``: likewise; empty is none.
    - ``increment``: first and next seconds, as ``60/60``; empty is ``1/1``.
    - ``effective``: an instant with its zone (``2026-11-01T06:00+01:00``, ``…Z``), or a day, which begins at
      00:00 UTC: one card serves accounts of many zones, and a price must change for all of them at once.

    name: as policies and commands call it. digest: SHA-256 of currency and text, in hexadecimal; with `name`
    and a row's line it says for ever which price was applied. Iterating gives the rows as written.
    """

    def __init__(self, name: str, currency: str, digest: str, rates: Iterable[Rate]) -> None:
        self.name = name
        self.currency = currency
        self.digest = digest
        self._rates = tuple(rates)
        self._latest_first: dict[str, list[Rate]] = {}
        for rate in sorted(self._rates, key=lambda rate: -rate.effective_ms):
            self._latest_first.setdefault(rate.prefix, []).append(rate)
        self._lengths = tuple(sorted({len(prefix) for prefix in self._latest_first}, reverse=True))

    def __len__(self) -> int:
        return len(self._rates)

    def __iter__(self) -> Iterator[Rate]:
        return iter(self._rates)

    @property
    def version(self) -> str:
        """The beginning of the digest, enough to tell cards of one name apart."""
        return self.digest[:_VERSION_LENGTH]

    @property
    def label(self) -> str:
        """The card as explanations name it."""
        return f"{self.name} {self.version} ({self.currency})"

    @classmethod
    def parse(cls, text: str, name: str, currency: str, where: str = "rates.csv") -> "RateCard":
        """Read a card from CSV text, called ``where`` in errors. Raises RateCardError with every fault."""
        problems: list[str] = []
        if not _NAME.fullmatch(name):
            problems.append(
                f"{where}: card name {name!r}: write 1 to 40 of a-z, 0-9, - and _, a letter or digit first"
            )
        _read(currency_digits, currency, f"{where}: ", problems)
        reader = _RowReader(problems)
        rates: dict[tuple[str, int], Rate] = {}
        for line, row in _rows(text, where, problems):
            rate = reader.rate(row, line, f"{where}, line {line}, column ")
            if rate is None:
                continue
            first = rates.setdefault((rate.prefix, rate.effective_ms), rate)
            if first is not rate:
                problems.append(
                    f"{where}, line {line}, column effective: line {first.line} has a rate for {rate.prefix} "
                    "from the same instant: keep one of the two"
                )
        if problems:
            raise RateCardError(problems)
        content = f"{currency}\n{text}".encode("utf-8", "surrogatepass")
        return cls(name, currency, hashlib.sha256(content).hexdigest(), rates.values())

    def lookup(self, e164: str, at_ms: int) -> Rate | None:
        """The rate of this E.164 number (with its ``+``) at an instant, or None: the card has no price for it.

        A prefix whose rows all lie in the future is passed over for the next shorter one.
        """
        for length in self._lengths:
            for rate in self._latest_first.get(e164[:length], ()):
                if rate.effective_ms <= at_ms:
                    return rate
        return None


class _RowReader:
    """Reads rows; columns repeat themselves over a card, so each text is read once."""

    def __init__(self, problems: list[str]) -> None:
        self._problems = problems
        self._tariffs: dict[tuple[str, ...], Tariff] = {}
        self._instants: dict[str, int] = {}

    def rate(self, row: Sequence[str], line: int, column: str) -> Rate | None:
        """The row's rate, or None where it has faults, which join the problems."""
        prefix, destination, *prices, effective = row
        known = len(self._problems)
        if not _PREFIX.fullmatch(prefix):
            self._problems.append(
                f"{column}prefix: {prefix!r} is not a prefix: write + and 1 to {E164_DIGITS_MAX} digits, such as +447"
            )
        if not destination or not destination.isprintable():
            self._problems.append(
                f"{column}destination: {destination!r}: name the place or network in plain text"
            )
        tariff = self._tariff(tuple(prices), column)
        effective_ms = self._instants.get(effective)
        if effective_ms is None:
            effective_ms = _read(_instant_ms, effective, f"{column}effective: ", self._problems)
            if effective_ms is not None:
                self._instants[effective] = effective_ms
        if tariff is None or effective_ms is None or len(self._problems) > known:
            return None
        return Rate(prefix, destination, tariff, effective_ms, line)

    def _tariff(self, prices: tuple[str, ...], column: str) -> Tariff | None:
        if prices in self._tariffs:
            return self._tariffs[prices]
        rate_per_min, connect_fee, increment, minimum = prices
        rate = _read(parse_micros, rate_per_min, f"{column}rate_per_min: ", self._problems)
        fee = _read(parse_micros, connect_fee or "0", f"{column}connect_fee: ", self._problems)
        steps = _read(Increment.parse, increment or "1/1", f"{column}increment: ", self._problems)
        least = _read(parse_micros, minimum or "0", f"{column}minimum: ", self._problems)
        if rate is None or fee is None or steps is None or least is None:
            return None
        self._tariffs[prices] = Tariff(rate, fee, steps, least)
        return self._tariffs[prices]


def _read(parse: Callable[[str], _Value], text: str, place: str, problems: list[str]) -> _Value | None:
    try:
        return parse(text)
    except ValueError as error:
        problems.append(f"{place}{error}")
        return None


def _instant_ms(text: str) -> int:
    if not _EFFECTIVE.fullmatch(text):
        raise ValueError(
            f"{text!r} is not a day or an instant from 1970 to 2099: write 2026-11-01 (from 00:00 UTC), "
            "or a time with its zone, such as 2026-11-01T06:00+01:00"
        )
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} does not exist ({error}): correct it") from error
    # Only a day comes without a zone.
    return ((instant if instant.tzinfo else instant.replace(tzinfo=UTC)) - _EPOCH) // _MS


def _rows(text: str, where: str, problems: list[str]) -> Iterator[csv_rows.Row]:
    """The rows after the header, each with its line number and as many fields as the header has."""
    lines = csv_rows.lines(text, where, problems)
    line, header = next(lines, (1, []))
    if tuple(header) == COLUMNS:
        yield from csv_rows.as_wide_as(COLUMNS, lines, where, problems)
    else:
        problems.append(
            f"{where}, line {line}: the header must be {','.join(COLUMNS)}: begin the card with it"
        )
