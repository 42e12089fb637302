"""What a dialled number is: the digits a line sends, read in that line's habit -> E.164, class and country.

Responsible for: refusing anything that is not a number, finding emergency numbers before anything else, the
reading of prefixes (outside line, carrier, international, national), and the class of what is left. The
operator's longest-prefix table speaks first; libphonenumber is the ground below it.

Leaves to others: reading the table from disk (its text is handed in), prices, whether the call is allowed,
and the dialling itself. A dialplan that acts on a decision should dial the E.164 number which the decision
names, not what the handset sent: where the two could be read differently, only the first was checked.

Order of the reading, first match wins:
1. emergency (exact, per region), whatever prefix stands before it, also with an empty table;
2. characters that are no part of a number: invalid;
3. the line's internal pattern;
4. carrier prefixes are taken off;
5. short codes of the region: the table's, then libphonenumber's;
6. the number in full, international or national.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import phonenumbers
from phonenumbers import (
    NumberParseException,
    PhoneMetadata,
    PhoneNumber,
    PhoneNumberType,
    ShortNumberCost,
    ValidationResult,
)

from fairdial.policy.prefixes import E164_DIGITS_MAX, NO_COUNTRY, NumberClass, PrefixRow, PrefixTable

MAX_DIALLED = 40
"""Longest string that is looked at: E.164 has 15 digits; the rest is for prefixes and separators."""

DEFAULT_CACHE_SIZE = 8192
"""Classified numbers kept; each costs well under a kilobyte."""

MAX_PREFIXES = 16
"""International or carrier prefixes that one habit may have."""


_CLASS_OF_TYPE = {
    PhoneNumberType.FIXED_LINE: NumberClass.GEOGRAPHIC,
    PhoneNumberType.MOBILE: NumberClass.MOBILE,
    PhoneNumberType.FIXED_LINE_OR_MOBILE: NumberClass.GEOGRAPHIC_OR_MOBILE,
    PhoneNumberType.TOLL_FREE: NumberClass.TOLL_FREE,
    PhoneNumberType.SHARED_COST: NumberClass.SHARED_COST,
    PhoneNumberType.PREMIUM_RATE: NumberClass.PREMIUM_RATE,
    PhoneNumberType.UAN: NumberClass.UAN,
    PhoneNumberType.PERSONAL_NUMBER: NumberClass.PERSONAL,
    PhoneNumberType.PAGER: NumberClass.PAGER,
    PhoneNumberType.VOIP: NumberClass.VOIP,
    PhoneNumberType.VOICEMAIL: NumberClass.VOICEMAIL,
}

LIBRARY = "libphonenumber"


@dataclass(frozen=True, slots=True)
class Number:
    """A dialled string, classified.

    dialled: what was dialled, safe to print and store: characters outside printable ASCII are written as
    ``\\uXXXX``, and only the first MAX_DIALLED characters are kept.
    e164: ``+`` and up to 15 digits; None for internal, emergency, short codes and invalid.
    country: ISO 3166-1 alpha-2 (AC, TA and XK as libphonenumber uses them); None where there is none.
    high_risk: in a range known for international revenue-share fraud; also set on an invalid number in it,
    as unassigned ranges are hijacked for that.
    source: the table row or "libphonenumber", whichever decided. problem: for INVALID, what is wrong.
    """

    dialled: str
    e164: str | None
    number_class: NumberClass
    country: str | None
    high_risk: bool = False
    source: str | None = None
    problem: str | None = None


# --- How a line dials


@dataclass(frozen=True, slots=True)
class Habit:
    """How a line dials.

    region: ISO 3166-1 alpha-2 in capitals, one that libphonenumber knows.
    international_prefixes: dialled before a country code; empty means the region's own. ``+`` always works.
    national_prefix: dialled before a national number, may be left out; None means the region's own, "" none.
    carrier_prefixes: dialled before the number and taken off, each at most once, the longest first: a
    carrier's code ("1010288") or the digit for an outside line ("9"). A line that has one is taken to dial
    it: whatever begins with it loses it.
    internal: extensions and feature codes that never leave the switch: literals ("100", "*97") and Asterisk
    patterns of fixed length ("_1XX", "_[2-4]XXX", "_*9X"), separated by commas. The open-ended "." and "!"
    are refused, as "_X." would make every number in the world internal.

    Raises ValueError, naming the field and the cure, for anything else.
    """

    region: str = "GB"
    international_prefixes: tuple[str, ...] = ()
    national_prefix: str | None = None
    carrier_prefixes: tuple[str, ...] = ()
    internal: str | None = None

    def __post_init__(self) -> None:
        _require_region(self.region)
        _require_prefixes("international_prefixes", self.international_prefixes, "0123456789")
        _require_prefixes("carrier_prefixes", self.carrier_prefixes, "0123456789*#")
        if self.national_prefix:
            _require_prefixes("national_prefix", (self.national_prefix,), "0123456789")
        if self.internal is not None:
            _internal_pattern(self.internal)


def _require_region(region: str) -> None:
    if region in phonenumbers.SUPPORTED_REGIONS:
        return
    raise ValueError(
        f"region {region!r} is not a region that libphonenumber knows: "
        "give an ISO 3166-1 alpha-2 code in capitals, such as GB or US"
    )


def _require_prefixes(field: str, prefixes: tuple[str, ...], allowed: str) -> None:
    if len(prefixes) > MAX_PREFIXES:
        raise ValueError(f"{field} has {len(prefixes)} entries: give at most {MAX_PREFIXES}")
    for prefix in prefixes:
        if not 1 <= len(prefix) <= 16 or prefix.strip(allowed):
            raise ValueError(f"{field}: {prefix!r} is not a prefix: give 1 to 16 of the characters {allowed}")


_PATTERN_TOKEN = re.compile(r"\[((?:[0-9]-[0-9]|[0-9*#])+)\]|([XZN])|([0-9*#])")
_PATTERN_LETTERS = {"X": "[0-9]", "Z": "[1-9]", "N": "[2-9]"}
_INTERNAL_CURE = "give digits (100, *97) or an Asterisk pattern of fixed length (_1XX, _[2-4]XX)"


@lru_cache(maxsize=1024)
def _internal_pattern(text: str) -> re.Pattern[str]:
    return re.compile("|".join(_internal_alternative(part.strip()) for part in text.split(",")))


def _internal_alternative(part: str) -> str:
    body = part.removeprefix("_").upper()
    if not body:
        raise ValueError(f"internal: an entry is empty: {_INTERNAL_CURE}")
    if len(body) > MAX_DIALLED:
        raise ValueError(f"internal: {part[:20]!r}... is longer than {MAX_DIALLED} characters: shorten it")
    if part.startswith("_") and body.endswith((".", "!")):
        raise ValueError(
            f"internal: {part!r} is open-ended and could swallow outside numbers: "
            "write one pattern for each length, such as _1XX,_1XXX"
        )
    regex, at = "", 0
    while at < len(body):
        token = _PATTERN_TOKEN.match(body, at)
        if token is None or not (token[3] or part.startswith("_")):
            raise ValueError(f"internal: {part!r} is not an extension: {_INTERNAL_CURE}")
        choice, letter, digit = token.groups()
        regex += f"[{choice}]" if choice else _PATTERN_LETTERS[letter] if letter else re.escape(digit)
        at = token.end()
    try:
        re.compile(regex)
    except re.error:
        raise ValueError(f"internal: {part!r} has a range that runs backwards: write it as [2-4]") from None
    return regex


# --- Emergency numbers

# Every handset knows these two without being told (3GPP TS 22.101, emergency calls).
_HANDSET_EMERGENCY = "112|911"


@lru_cache(maxsize=512)
def _emergency_pattern(region: str) -> re.Pattern[str]:
    metadata = PhoneMetadata.short_metadata_for_region(region, None)
    known = metadata.emergency.national_number_pattern if metadata and metadata.emergency else None
    return re.compile(known or _HANDSET_EMERGENCY, re.ASCII)


def is_emergency(digits: str, region: str) -> bool:
    """Whether these digits are exactly an emergency number of the region: 999 in GB is, 9991234 is not.

    libphonenumber's emergency numbers; for the few regions where it has none, 112 and 911.
    """
    return _emergency_pattern(region).fullmatch(digits) is not None


@lru_cache(maxsize=512)
def emergency_numbers(region: str) -> frozenset[str]:
    """The region's emergency numbers, written out, for dialplans and pages. Raises ValueError for no region.

    Tries every number of a possible length: up to a second where six digits are possible, so not for a call.
    """
    _require_region(region)
    metadata = PhoneMetadata.short_metadata_for_region(region, None)
    known = metadata.emergency if metadata else None
    lengths = known.possible_length if known and known.national_number_pattern else (3,)
    return frozenset(
        digits
        for length in lengths
        for digits in map(f"{{:0{length}d}}".format, range(10**length))
        if is_emergency(digits, region)
    )


# --- Reading a dialled string

# RFC 3966, section 5.1.1, lets a receiver ignore "-", "." and parentheses. The first two are dropped here; no
# telephone sends the others, and parentheses are syntax to the switch, so they are refused like a blank.
_DROPPED = str.maketrans("", "", "-.")
_ANY_SEPARATOR = str.maketrans("", "", "-.() \t")
_SHAPE = re.compile(r"\+?[0-9*#]+")
_LONGEST_SHORT_CODE = 8


def strip_separators(text: str) -> str:
    """Without blanks and the visual separators of RFC 3966: for what people type (command line, pages).

    Not for what a line dialled: there, ``Numbering.classify`` decides which of them are let through.
    """
    return text.translate(_ANY_SEPARATOR)


def _printable(text: str) -> str:
    return "".join(c if " " <= c <= "~" else f"\\u{ord(c):04x}" for c in text[:MAX_DIALLED])


def _character_problem(text: str) -> str | None:
    """What in a dialled string (separators already dropped) is no part of a number."""
    if _SHAPE.fullmatch(text):
        return None
    if not text or text == "+":
        return "nothing was dialled: give at least one digit"
    for at, character in enumerate(text):
        if character == "+" and at:
            return "a + after the first place: an international number has one + in front"
        if character not in "+0123456789*#":
            shown = f"{character!r} " if " " < character <= "~" else ""
            return f"the character {shown}(U+{ord(character):04X}) is no part of a number: dial digits only"
    return "a + before a feature code: dial either"


def _without_carrier(text: str, habit: Habit) -> str:
    left = sorted(habit.carrier_prefixes, key=len, reverse=True)
    while left:
        found = next((prefix for prefix in left if text.startswith(prefix)), None)
        if found is None:
            break
        left.remove(found)
        text = text[len(found) :]
    return text


@lru_cache(maxsize=1024)
def _international_pattern(habit: Habit) -> re.Pattern[str]:
    if habit.international_prefixes:
        longest_first = sorted(habit.international_prefixes, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)))
    metadata = PhoneMetadata.metadata_for_region(habit.region, None)
    known = metadata.international_prefix if metadata else None
    return re.compile(known or "00")


def _without_international(text: str, habit: Habit) -> str | None:
    """What follows the + or the international prefix; None for a number that has neither."""
    if text.startswith("+"):
        return text[1:]
    prefix = _international_pattern(habit).match(text)
    return text[prefix.end() :] if prefix else None


def _emergency_readings(text: str, habit: Habit) -> Iterator[str]:
    """Every way in which the string may be an emergency number with something in front of it.

    ``+112`` and ``00112`` count. No network asks for that form, but no telephone number is that short, and an
    emergency call refused is worse than one let through in vain.
    """
    starts = {text, _without_carrier(text, habit)}
    starts.update(text[len(prefix) :] for prefix in habit.carrier_prefixes if text.startswith(prefix))
    for start in starts:
        yield start
        international = _without_international(start, habit)
        if international is not None:
            yield international
    if habit.international_prefixes:
        yield from (text[len(p) :] for p in habit.international_prefixes if text.startswith(p))


_PARSE_PROBLEMS = {
    NumberParseException.INVALID_COUNTRY_CODE: "no country has this code",
    NumberParseException.NOT_A_NUMBER: "too few digits to be a number",
    NumberParseException.TOO_SHORT_AFTER_IDD: "too short: nothing but a prefix was dialled",
    NumberParseException.TOO_SHORT_NSN: "too short to be a number",
    NumberParseException.TOO_LONG: "too long to be a number",
}
_LENGTH_PROBLEMS = {
    ValidationResult.TOO_SHORT: "too short",
    ValidationResult.TOO_LONG: "too long",
    ValidationResult.INVALID_LENGTH: "of a length that does not occur",
    ValidationResult.IS_POSSIBLE_LOCAL_ONLY: "complete only with its area code",
    ValidationResult.INVALID_COUNTRY_CODE: "under a code that no country has",
}


def _length_problem(parsed: PhoneNumber) -> str | None:
    reason = _LENGTH_PROBLEMS.get(phonenumbers.is_possible_number_with_reason(parsed))
    return f"the number is {reason} for country code +{parsed.country_code}" if reason else None


def _range_problem(e164: str, parsed: PhoneNumber, row: PrefixRow) -> str | None:
    """Why a number cannot have the class that a row gives it."""
    if row.digits is not None:
        return _stated_length_problem(e164, row)
    if parsed.country_code in phonenumbers.COUNTRY_CODES_FOR_NON_GEO_REGIONS:
        return _length_problem(parsed)
    if phonenumbers.is_valid_number(parsed):
        return None
    return _length_problem(parsed) or _not_in_use(e164)


def _stated_length_problem(e164: str, row: PrefixRow) -> str | None:
    if row.digits is None or len(e164) - 1 == row.digits:
        return None
    return f"the prefix table has numbers of {row.digits} digits under {row.prefix}"


def _not_in_use(e164: str) -> str:
    return f"{e164} is in no range that is in use"


def example_number(region: str) -> str:
    """A number that may exist, as one dials it in that country; the emergency number of many where none is known."""
    example = phonenumbers.example_number(region)
    if example is None:
        return "112"
    national = phonenumbers.format_number(example, phonenumbers.PhoneNumberFormat.NATIONAL)
    return "".join(filter(str.isdecimal, national))


class Numbering:
    """Classifies dialled numbers against one prefix table. Safe to share between threads and tasks."""

    def __init__(self, table: PrefixTable, cache_size: int = DEFAULT_CACHE_SIZE) -> None:
        self._table = table
        self._cached = lru_cache(maxsize=cache_size)(self._classify)

    @property
    def digest(self) -> str:
        """Of the table's text, SHA-256 in hexadecimal."""
        return self._table.digest

    @property
    def cache_entries(self) -> int:
        """Numbers held in the cache now."""
        return self._cached.cache_info().currsize

    def classify(self, dialled: str, habit: Habit) -> Number:
        """Read a dialled string in a line's habit. Never raises: what cannot be read is INVALID.

        Digits, one leading ``+``, and ``-`` and ``.`` as separators are read; ``*`` and ``#`` only where the
        habit's internal pattern or a carrier prefix has them. Digits without any prefix are read as
        libphonenumber reads them: a national number without its trunk prefix, or one with its country code
        where only that is valid.
        """
        if len(dialled) > MAX_DIALLED:
            # Before the cache, so that it never holds a long string.
            return _invalid(dialled, f"{len(dialled)} characters: {MAX_DIALLED} are the most")
        return self._cached(dialled, habit)

    def is_emergency(self, dialled: str, habit: Habit) -> bool:
        """Whether `classify` would say EMERGENCY, in a tenth of the time that a number not seen before takes it."""
        return len(dialled) <= MAX_DIALLED and self._emergency(dialled, habit) is not None

    def warm(self, regions: Iterable[str] = ()) -> None:
        """Load what the first calls would wait for: libphonenumber's metadata for all destinations, and the
        emergency numbers and short codes of these regions. A fraction of a second, before serving.

        Turns on libphonenumber's pattern cache for the process: without it a mix of destinations outgrows the
        cache of ``re``, and numbers cost milliseconds each.
        """
        phonenumbers.enable_pattern_cache()
        for region in sorted(phonenumbers.SUPPORTED_REGIONS):
            example = phonenumbers.example_number(region)
            if example is not None:
                self._in_full("", example)
        for region in regions:
            habit = Habit(region=region)
            self._classify("1", habit)
            self._classify("118118", habit)

    def _classify(self, dialled: str, habit: Habit) -> Number:
        emergency = self._emergency(dialled, habit)
        if emergency is not None:
            return emergency
        text = dialled.translate(_DROPPED)
        problem = _character_problem(text)
        if problem is not None:
            return _invalid(dialled, problem)
        if habit.internal is not None and _internal_pattern(habit.internal).fullmatch(text):
            return Number(_printable(dialled), None, NumberClass.INTERNAL, None, source="the line's habit")
        text = _without_carrier(text, habit)
        if "*" in text or "#" in text:
            return _invalid(dialled, "a feature code that is not among the line's internal patterns")
        if not text:
            return _invalid(dialled, "nothing was dialled after the carrier prefix")
        return self._short_code(dialled, text, habit) or self._outside(dialled, text, habit)

    def _emergency(self, dialled: str, habit: Habit) -> Number | None:
        text = dialled.translate(_ANY_SEPARATOR)
        for digits in _emergency_readings(text, habit):
            row = self._table.short_code(habit.region, digits)
            if row is not None and row.number_class is NumberClass.EMERGENCY:
                source = row.label
            elif is_emergency(digits, habit.region):
                source = LIBRARY
            else:
                continue
            return Number(_printable(dialled), None, NumberClass.EMERGENCY, habit.region, source=source)
        return None

    def _short_code(self, dialled: str, text: str, habit: Habit) -> Number | None:
        row = self._table.short_code(habit.region, text)
        if row is not None and row.number_class is not None:
            if row.number_class is NumberClass.INVALID:
                return _invalid(dialled, _closed(row), row)
            country = _stated_country(row) if row.country else habit.region
            return Number(_printable(dialled), None, row.number_class, country, row.high_risk, row.label)
        if len(text) > _LONGEST_SHORT_CODE or not text.isdigit():
            return None
        zeros = len(text) - len(text.lstrip("0"))
        code = PhoneNumber(
            country_code=phonenumbers.country_code_for_region(habit.region),
            national_number=int(text),
            italian_leading_zero=zeros > 0 or None,
            number_of_leading_zeros=zeros or None,
        )
        if not phonenumbers.is_valid_short_number_for_region(code, habit.region):
            return None
        cost = phonenumbers.expected_cost_for_region(code, habit.region)
        premium = cost == ShortNumberCost.PREMIUM_RATE
        kind = NumberClass.PREMIUM_RATE if premium else NumberClass.SHORT_CODE
        return Number(_printable(dialled), None, kind, habit.region, source=LIBRARY)

    def _outside(self, dialled: str, text: str, habit: Habit) -> Number:
        international = _without_international(text, habit)
        try:
            if international is not None:
                parsed = phonenumbers.parse(f"+{international}")
            elif habit.national_prefix is None:
                parsed = phonenumbers.parse(text, habit.region)
            else:
                code = phonenumbers.country_code_for_region(habit.region)
                parsed = phonenumbers.parse(f"+{code}{text.removeprefix(habit.national_prefix)}")
        except NumberParseException as error:
            if international is not None:
                return self._unknown_to_library(dialled, f"+{international}", error)
            return _invalid(dialled, _PARSE_PROBLEMS[error.error_type], source=LIBRARY)
        return self._in_full(dialled, parsed)

    def _unknown_to_library(self, dialled: str, e164: str, error: NumberParseException) -> Number:
        """A country code that libphonenumber does not have: the table may."""
        row = self._table.lookup(e164)
        if row is None or row.number_class is None or error.error_type != error.INVALID_COUNTRY_CODE:
            return _invalid(dialled, _PARSE_PROBLEMS[error.error_type], row, LIBRARY)
        problem = _stated_length_problem(e164, row)
        if problem is None and not 7 <= len(e164) - 1 <= E164_DIGITS_MAX:
            problem = f"an international number has 7 to {E164_DIGITS_MAX} digits"
        if problem is not None:
            return _invalid(dialled, problem, row)
        return _by_row(dialled, e164, row, None)

    def _in_full(self, dialled: str, parsed: PhoneNumber) -> Number:
        e164 = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)
        if len(e164) - 1 > E164_DIGITS_MAX:
            # libphonenumber takes up to 17 digits after the country code; ITU-T E.164 (6.2.1) has 15 in all.
            too_long = f"{len(e164) - 1} digits with the country code: {E164_DIGITS_MAX} are the most"
            return _invalid(dialled, too_long, source=LIBRARY)
        row = self._table.lookup(e164)
        if row is not None and row.number_class is not None:
            problem = _range_problem(e164, parsed, row)
            if problem is not None:
                return _invalid(dialled, problem, row)
            return _by_row(dialled, e164, row, parsed)
        kind = _CLASS_OF_TYPE.get(phonenumbers.number_type(parsed))
        if kind is None:
            problem = _length_problem(parsed) or _not_in_use(e164)
            return _invalid(dialled, problem, row, LIBRARY)
        if row is None:
            return Number(_printable(dialled), e164, kind, _library_country(parsed), source=LIBRARY)
        country = _stated_country(row) if row.country else _library_country(parsed)
        source = f"{row.label}; class: {LIBRARY}"
        return Number(_printable(dialled), e164, kind, country, row.high_risk, source)


def _by_row(dialled: str, e164: str, row: PrefixRow, parsed: PhoneNumber | None) -> Number:
    if row.number_class is None or row.number_class is NumberClass.INVALID:
        return _invalid(dialled, _closed(row), row)
    library_country = _library_country(parsed) if parsed is not None else None
    country = _stated_country(row) if row.country else library_country
    return Number(_printable(dialled), e164, row.number_class, country, row.high_risk, row.label)


def _closed(row: PrefixRow) -> str:
    return f"the prefix table closes {row.prefix}" + (f": {row.note}" if row.note else "")


def _stated_country(row: PrefixRow) -> str | None:
    return None if row.country == NO_COUNTRY else row.country


def _library_country(parsed: PhoneNumber) -> str | None:
    region = phonenumbers.region_code_for_number(parsed)
    # "001" is libphonenumber's word for the whole world.
    return None if region == "001" else region


def _invalid(dialled: str, problem: str, row: PrefixRow | None = None, source: str | None = None) -> Number:
    return Number(
        _printable(dialled),
        None,
        NumberClass.INVALID,
        None,
        high_risk=row is not None and row.high_risk,
        source=row.label if row is not None else source,
        problem=problem,
    )
