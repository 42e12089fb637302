"""What dialled strings are: emergency first, then refusals, then the table over libphonenumber."""

import csv
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import phonenumbers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairdial.policy import numbers
from fairdial.policy.numbers import (
    MAX_DIALLED,
    Habit,
    Numbering,
    emergency_numbers,
    is_emergency,
    strip_separators,
)
from fairdial.policy.prefixes import NumberClass, PrefixTable, TableError

SHIPPED = Path(numbers.__file__).parent / "data" / "prefixes.csv"
HEADER = "prefix,class,country,risk,note,source,date\n"
TABLE = PrefixTable.parse(SHIPPED.read_text("utf-8"))
NUMBERING = Numbering(TABLE)
BARE = Numbering(PrefixTable.parse(HEADER))

GB, US, DE, FR = Habit("GB"), Habit("US"), Habit("DE"), Habit("FR")
AU, JP, KE, BR = Habit("AU"), Habit("JP"), Habit("KE"), Habit("BR")
PBX_GB = Habit("GB", carrier_prefixes=("9",), internal="_1XX,_*9X")
PBX_US = Habit("US", carrier_prefixes=("9", "1010288"), internal="_[2-4]XX")
ABROAD = Habit("GB", international_prefixes=("011", "00"), national_prefix="8")

# dialled, habit, E.164, class, country
CASES: list[tuple[str, Habit, str | None, str, str | None]] = [
    # United Kingdom and its neighbours under +44
    ("02079460123", GB, "+442079460123", "geographic", "GB"),
    ("2079460123", GB, "+442079460123", "geographic", "GB"),
    ("442079460123", GB, "+442079460123", "geographic", "GB"),
    ("+442079460123", GB, "+442079460123", "geographic", "GB"),
    ("+44-20-7946-0123", GB, "+442079460123", "geographic", "GB"),
    ("020.7946.0123", GB, "+442079460123", "geographic", "GB"),
    ("00442079460123", GB, "+442079460123", "geographic", "GB"),
    ("+4402079460123", GB, "+442079460123", "geographic", "GB"),
    ("07400123456", GB, "+447400123456", "mobile", "GB"),
    ("07911123456", GB, "+447911123456", "mobile", "GG"),
    ("07911223456", GB, "+447911223456", "mobile", "GB"),
    ("07911823456", GB, "+447911823456", "mobile", "GB"),
    ("07781123456", GB, "+447781123456", "mobile", "GG"),
    ("07797123456", GB, "+447797123456", "mobile", "JE"),
    ("07624123456", GB, "+447624123456", "mobile", "IM"),
    ("01481256789", GB, "+441481256789", "geographic", "GG"),
    ("01534456789", GB, "+441534456789", "geographic", "JE"),
    ("01624756789", GB, "+441624756789", "geographic", "IM"),
    ("03001234567", GB, "+443001234567", "uan", "GB"),
    ("05512345678", GB, "+445512345678", "uan", "GB"),
    ("05612345678", GB, "+445612345678", "voip", "GB"),
    ("07012345678", GB, "+447012345678", "personal", "GB"),
    ("07640123456", GB, "+447640123456", "pager", "GB"),
    ("08001234567", GB, "+448001234567", "toll_free", "GB"),
    ("0800123456", GB, "+44800123456", "toll_free", "GB"),
    ("08001111", GB, "+448001111", "toll_free", "GB"),
    ("08451234567", GB, "+448451234567", "shared_cost", "GB"),
    ("08701234567", GB, "+448701234567", "shared_cost", "GB"),
    ("08731234567", GB, "+448731234567", "shared_cost", "GB"),
    ("09012345678", GB, "+449012345678", "premium_rate", "GB"),
    ("09112345678", GB, "+449112345678", "premium_rate", "GB"),
    ("0845123456", GB, None, "invalid", None),
    ("0207946012", GB, None, "invalid", None),
    ("020794601234", GB, None, "invalid", None),
    ("79460123", GB, None, "invalid", None),
    ("04112345678", GB, None, "invalid", None),
    ("101", GB, None, "short_code", "GB"),
    ("105", GB, None, "short_code", "GB"),
    ("111", GB, None, "short_code", "GB"),
    ("123", GB, None, "short_code", "GB"),
    ("116123", GB, None, "toll_free", "GB"),
    ("118500", GB, None, "premium_rate", "GB"),
    ("11850", GB, None, "invalid", None),
    ("1185001", GB, None, "invalid", None),
    # The North American plan
    ("2015550123", US, "+12015550123", "geographic_or_mobile", "US"),
    ("12015550123", US, "+12015550123", "geographic_or_mobile", "US"),
    ("+12015550123", US, "+12015550123", "geographic_or_mobile", "US"),
    ("0112015550123", US, "+2015550123", "geographic", "EG"),
    ("5550123", US, None, "invalid", None),
    ("12425550123", US, None, "invalid", None),
    ("12423456789", US, "+12423456789", "geographic", "BS"),
    ("12462501234", US, "+12462501234", "mobile", "BB"),
    ("12684641234", US, "+12684641234", "mobile", "AG"),
    ("13403442345", US, "+13403442345", "geographic_or_mobile", "VI"),
    ("14413701234", US, "+14413701234", "mobile", "BM"),
    ("16582345678", US, "+16582345678", "mobile", "JM"),
    ("18765230123", US, "+18765230123", "geographic_or_mobile", "JM"),
    ("18092345678", US, "+18092345678", "geographic_or_mobile", "DO"),
    ("17872345678", US, "+17872345678", "geographic_or_mobile", "PR"),
    ("15062345678", US, "+15062345678", "geographic_or_mobile", "CA"),
    ("12502345678", US, "+12502345678", "geographic_or_mobile", "CA"),
    ("18005551234", US, "+18005551234", "toll_free", "US"),
    ("18885551234", US, "+18885551234", "toll_free", "US"),
    ("19005551234", US, "+19005551234", "premium_rate", "US"),
    ("15002345678", US, "+15002345678", "personal", "US"),
    ("15222345678", US, "+15222345678", "personal", "US"),
    ("15882345678", US, "+15882345678", "personal", "US"),
    ("16222345678", US, "+16222345678", "personal", "CA"),
    ("17005554141", US, "+17005554141", "uan", "US"),
    ("1700555414", US, None, "invalid", None),
    ("01144207946 0123".replace(" ", ""), US, "+442079460123", "geographic", "GB"),
    ("411", US, None, "premium_rate", "US"),
    ("211", US, None, "short_code", "US"),
    ("988", US, None, "short_code", "US"),
    # Germany
    ("030123456", DE, "+4930123456", "geographic", "DE"),
    ("015123456789", DE, "+4915123456789", "mobile", "DE"),
    ("08001234567", DE, "+498001234567", "toll_free", "DE"),
    ("09001234567", DE, "+499001234567", "premium_rate", "DE"),
    ("018012345", DE, "+4918012345", "shared_cost", "DE"),
    ("11833", DE, None, "premium_rate", "DE"),
    ("116117", DE, None, "toll_free", "DE"),
    ("115", DE, None, "short_code", "DE"),
    ("0044790012345", DE, None, "invalid", None),
    ("00442079460123", DE, "+442079460123", "geographic", "GB"),
    # France
    ("0123456789", FR, "+33123456789", "geographic", "FR"),
    ("0612345678", FR, "+33612345678", "mobile", "FR"),
    ("0801234567", FR, "+33801234567", "toll_free", "FR"),
    ("0891123456", FR, "+33891123456", "premium_rate", "FR"),
    ("118712", FR, None, "premium_rate", "FR"),
    ("00493012345678", FR, "+493012345678", "geographic", "DE"),
    ("061234567", FR, None, "invalid", None),
    # Australia
    ("0212345678", AU, "+61212345678", "geographic", "AU"),
    ("0412345678", AU, "+61412345678", "mobile", "AU"),
    ("1300123456", AU, "+611300123456", "shared_cost", "AU"),
    ("131234", AU, "+61131234", "shared_cost", "AU"),
    ("1800123456", AU, "+611800123456", "toll_free", "AU"),
    ("1900123456", AU, "+611900123456", "premium_rate", "AU"),
    ("0011442079460123", AU, "+442079460123", "geographic", "GB"),
    ("00442079460123", AU, None, "invalid", None),
    # Japan
    ("0312345678", JP, "+81312345678", "geographic", "JP"),
    ("09012345678", JP, "+819012345678", "mobile", "JP"),
    ("0120123456", JP, "+81120123456", "toll_free", "JP"),
    ("05012345678", JP, "+815012345678", "voip", "JP"),
    ("010442079460123", JP, "+442079460123", "geographic", "GB"),
    ("0990123456", JP, "+81990123456", "premium_rate", "JP"),
    # Kenya
    ("0202012345", KE, "+254202012345", "geographic", "KE"),
    ("0712123456", KE, "+254712123456", "mobile", "KE"),
    ("0800223456", KE, "+254800223456", "toll_free", "KE"),
    ("0900223456", KE, "+254900223456", "premium_rate", "KE"),
    ("000442079460123", KE, "+442079460123", "geographic", "GB"),
    # Brazil: the carrier's two digits stand between the prefix and the number
    ("01123456789", BR, "+551123456789", "geographic", "BR"),
    ("0211123456789", BR, "+551123456789", "geographic", "BR"),
    ("02111961234567", BR, "+5511961234567", "mobile", "BR"),
    ("11961234567", BR, "+5511961234567", "mobile", "BR"),
    ("0021442079460123", BR, "+442079460123", "geographic", "GB"),
    ("00442079460123", BR, None, "invalid", None),
    ("08001234567", BR, "+558001234567", "toll_free", "BR"),
    # The leading zero of Italy is part of the number
    ("+390612345678", GB, "+390612345678", "geographic", "IT"),
    # Satellite and services without a country, which libphonenumber calls mobile, voip or nothing
    ("+870773100100", GB, "+870773100100", "satellite", None),
    ("+8816123456789", GB, "+8816123456789", "satellite", None),
    ("00881712345678", GB, "+881712345678", "satellite", None),
    ("+881812345678", GB, "+881812345678", "satellite", None),
    ("+88216543210", GB, "+88216543210", "satellite", None),
    ("+88213123456", GB, "+88213123456", "satellite", None),
    ("+882981234567", GB, "+882981234567", "global_service", None),
    ("+883510012345", GB, "+883510012345", "global_service", None),
    ("+878101234567890", GB, "+878101234567890", "personal", None),
    ("+88812345678901", GB, "+88812345678901", "global_service", None),
    ("+80012345678", GB, "+80012345678", "toll_free", None),
    ("+80812345678", GB, "+80812345678", "shared_cost", None),
    ("+979123456789", GB, "+979123456789", "premium_rate", None),
    ("+870773", GB, None, "invalid", None),
    ("+999123456789", GB, None, "invalid", None),
    # A private exchange: outside line, internal numbers, feature codes
    ("902079460123", PBX_GB, "+442079460123", "geographic", "GB"),
    ("900442079460123", PBX_GB, "+442079460123", "geographic", "GB"),
    ("9+442079460123", PBX_GB, None, "invalid", None),
    ("9101", PBX_GB, None, "short_code", "GB"),
    ("101", PBX_GB, None, "internal", None),
    ("1011", PBX_GB, None, "invalid", None),
    ("*97", PBX_GB, None, "internal", None),
    ("*87", PBX_GB, None, "invalid", None),
    ("*97", GB, None, "invalid", None),
    ("9", PBX_GB, None, "invalid", None),
    ("9*97", PBX_GB, None, "invalid", None),
    ("912015550123", PBX_US, "+12015550123", "geographic_or_mobile", "US"),
    ("9101028812015550123", PBX_US, "+12015550123", "geographic_or_mobile", "US"),
    ("1010288011442079460123", PBX_US, "+442079460123", "geographic", "GB"),
    ("9912015550123", PBX_US, None, "invalid", None),
    ("234", PBX_US, None, "internal", None),
    ("534", PBX_US, None, "invalid", None),
    # A habit of its own: 011 or 00 abroad, 8 before a national number
    ("82079460123", ABROAD, "+442079460123", "geographic", "GB"),
    ("01112015550123", ABROAD, "+12015550123", "geographic_or_mobile", "US"),
    ("0012015550123", ABROAD, "+12015550123", "geographic_or_mobile", "US"),
    ("+12015550123", ABROAD, "+12015550123", "geographic_or_mobile", "US"),
    ("00442079460123", replace(ABROAD, international_prefixes=("011",)), None, "invalid", None),
]


@pytest.mark.parametrize(("dialled", "habit", "e164", "number_class", "country"), CASES)
def test_a_dialled_string_becomes_a_number_of_a_class_in_a_country(
    dialled: str, habit: Habit, e164: str | None, number_class: str, country: str | None
) -> None:
    number = NUMBERING.classify(dialled, habit)
    assert (number.e164, number.number_class, number.country) == (e164, number_class, country)
    assert number.dialled == dialled
    # An invalid number says what is wrong; the others name what decided.
    assert bool(number.problem) is (number_class == "invalid")
    assert number_class == "invalid" or number.source


def test_there_are_enough_cases_and_none_twice() -> None:
    assert len(CASES) >= 120
    assert len({(dialled, habit) for dialled, habit, *_ in CASES}) == len(CASES)


# --- Emergency

EMERGENCY_PAIRS = [
    ("GB", "999", "9991234"),
    ("GB", "112", "101"),
    ("GB", "18000", "18001"),
    ("US", "911", "9111"),
    ("US", "112", "211"),
    ("CA", "911", "9110"),
    ("DE", "110", "1100"),
    ("DE", "112", "1121"),
    ("FR", "15", "151"),
    ("FR", "17", "117"),
    ("FR", "112", "1122"),
    ("AU", "000", "0000"),
    ("AU", "112", "1121"),
    ("JP", "110", "1100"),
    ("JP", "119", "1190"),
    ("KE", "999", "9990"),
    ("BR", "190", "1900"),
    ("BR", "193", "1930"),
    ("ZA", "10111", "101111"),
    ("NZ", "111", "1111"),
    ("IN", "112", "1129"),
    ("IT", "113", "1133"),
    ("CL", "133", "1333"),
    ("GA", "1300", "13000"),
    ("GG", "999", "9999"),
    ("TK", "112", "999"),
]


@pytest.mark.parametrize(("region", "exact", "look_alike"), EMERGENCY_PAIRS)
def test_emergency_is_exact_per_region(region: str, exact: str, look_alike: str) -> None:
    number = NUMBERING.classify(exact, Habit(region))
    assert (number.number_class, number.country, number.e164) == (NumberClass.EMERGENCY, region, None)
    assert NUMBERING.classify(look_alike, Habit(region)).number_class is not NumberClass.EMERGENCY


@pytest.mark.parametrize(("region", "exact", "_"), [pair for pair in EMERGENCY_PAIRS if pair[1] != "18000"])
def test_emergency_needs_no_table(region: str, exact: str, _: str) -> None:
    assert BARE.classify(exact, Habit(region)).number_class is NumberClass.EMERGENCY


@pytest.mark.parametrize(
    ("dialled", "habit"),
    [
        ("999", Habit("GB", internal="_XXX")),
        ("112", Habit("GB", internal="112")),
        ("999", Habit("GB", carrier_prefixes=("9",))),
        ("9999", Habit("GB", carrier_prefixes=("9",))),
        ("911", Habit("US", carrier_prefixes=("9", "91"))),
        ("9911", Habit("US", carrier_prefixes=("9",))),
        ("91010288911", PBX_US),
        ("1010288911", PBX_US),
        ("0112", Habit("DE", carrier_prefixes=("0",))),
        ("+112", GB),
        ("00112", GB),
        ("011911", US),
        ("0011000", AU),
        ("900999", Habit("GB", carrier_prefixes=("9",))),
        ("00112", Habit("GB", international_prefixes=("001", "00"))),
        ("9-1-1", US),
        ("9 9 9", GB),
        ("(999)", GB),
    ],
)
def test_emergency_wins_over_every_prefix_pattern_and_separator(dialled: str, habit: Habit) -> None:
    for numbering in (NUMBERING, BARE):
        assert numbering.classify(dialled, habit).number_class is NumberClass.EMERGENCY


@pytest.mark.parametrize(
    ("dialled", "habit"),
    [
        ("9999", GB),
        ("99999", Habit("GB", carrier_prefixes=("9",))),
        ("+9991234", GB),
        ("99&9", GB),
        ("999,", GB),
        ("٩٩٩", GB),
        ("911", GB),
        ("999#", GB),
        ("13٠٠", Habit("GA")),
    ],
)
def test_what_only_resembles_an_emergency_number_is_none(dialled: str, habit: Habit) -> None:
    assert NUMBERING.classify(dialled, habit).number_class is not NumberClass.EMERGENCY


def test_a_table_row_adds_an_emergency_number_and_takes_none_away() -> None:
    assert BARE.classify("18000", GB).number_class is NumberClass.SHORT_CODE
    rows = "GB:18000,emergency,,,,test,2026-11-21\nGB:999,premium_rate,,,,test,2026-11-21\n"
    numbering = Numbering(PrefixTable.parse(HEADER + rows))
    assert numbering.classify("18000", GB).number_class is NumberClass.EMERGENCY
    assert numbering.classify("999", GB).number_class is NumberClass.EMERGENCY
    assert numbering.classify("18000", US).number_class is not NumberClass.EMERGENCY


def test_the_written_out_emergency_numbers_are_those_that_match() -> None:
    assert emergency_numbers("GB") == {"112", "999"}
    assert emergency_numbers("US") == {"112", "911"}
    assert "000" in emergency_numbers("AU")
    assert emergency_numbers("TK") == {"112", "911"}
    assert "10111" in emergency_numbers("ZA")
    with pytest.raises(ValueError, match="'XX' is not a region"):
        emergency_numbers("XX")


@pytest.mark.parametrize("region", sorted({region for region, *_ in EMERGENCY_PAIRS} - {"TK"}))
def test_the_exact_test_agrees_with_libphonenumber(region: str) -> None:
    every = [f"{n:0{width}d}" for width in (2, 3) for n in range(10**width)]
    ours = {digits for digits in every if is_emergency(digits, region)}
    assert ours == {digits for digits in every if phonenumbers.is_emergency_number(digits, region)}
    assert ours


# --- Hostile strings


@pytest.mark.parametrize(
    ("dialled", "says"),
    [
        ("", "nothing was dialled"),
        ("+", "nothing was dialled"),
        ("-", "nothing was dialled"),
        ("02079460123&PJSIP/evil", "'&' (U+0026)"),
        ("PJSIP/02079460123", "'P' (U+0050)"),
        ("02079460123@evil", "'@'"),
        ("02079460123,60,L(9)", "','"),
        ("1^2", "'^'"),
        ("1|2", "'|'"),
        ("${EXTEN}", "'$'"),
        ("{1}", "'{'"),
        ("(020)79460123", "'('"),
        ("020 7946 0123", "U+0020"),
        ("02079460123\n", "U+000A"),
        ("02079460123\r\nAction: Logoff", "U+000D"),
        ("02079460123\x00", "U+0000"),
        ("0207946012a", "'a'"),
        ("٠٢٠٧٩٤٦٠١٢٣", "U+0660"),
        ("０２０７９４６０１２３", "U+FF10"),
        ("²", "U+00B2"),
        ("\ud800", "U+D800"),
        ("＋442079460123", "U+FF0B"),
        ("++442079460123", "+ after the first"),
        ("0+2079460123", "+ after the first"),
        ("tel:+442079460123", "'t'"),
        ("+442079460123;ext=5", "';'"),
        ("*21*02079460123#", "feature code"),
        ("0" * (MAX_DIALLED + 1), "41 characters"),
        ("1" * 1_000_000, "1000000 characters"),
        ("+123456789012345678901234567890", "too long"),
        ("00", "too few digits"),
        ("00020", "no country has this code"),
        ("0", "too few digits"),
    ],
)
def test_hostile_strings_are_refused_in_words(dialled: str, says: str) -> None:
    number = NUMBERING.classify(dialled, GB)
    assert number.number_class is NumberClass.INVALID
    assert (number.e164, number.country) == (None, None)
    assert says in (number.problem or "")
    # What is kept can be printed, sent as JSON and stored by any database.
    assert number.dialled.isascii()
    assert number.dialled.isprintable() or not dialled
    assert len(number.dialled) <= 8 * MAX_DIALLED


def test_an_escaped_string_still_shows_what_was_dialled() -> None:
    assert NUMBERING.classify("12\x00é", GB).dialled == "12\\u0000\\u00e9"


def test_people_may_write_separators_where_a_program_takes_them_off() -> None:
    assert strip_separators("+44 (20) 7946-01.23") == "+4420794601" + "23"
    assert NUMBERING.classify(strip_separators("020 7946 0123"), GB).e164 == "+442079460123"


# --- The table


def _table(*rows: str) -> PrefixTable:
    return PrefixTable.parse(HEADER + "\n".join(rows))


def test_the_longest_prefix_speaks_and_empty_fields_come_from_the_shorter_one() -> None:
    table = _table(
        "+2526,mobile,,,,long,2026-11-21",
        "+252,,SO,irsf,whole country,short,2026-11-20",
        "+25261,,,none,,cleared,2026-11-21",
    )
    row = table.lookup("+252612345678")
    assert row is not None
    assert (row.prefix, row.number_class, row.country, row.high_risk) == ("+25261", "mobile", "SO", False)
    row = table.lookup("+252632345678")
    assert row is not None
    assert (row.prefix, row.high_risk, row.source, row.date) == ("+2526", True, "long", date(2026, 11, 21))
    row = table.lookup("+252112345678")
    assert row is not None
    assert (row.prefix, row.number_class, row.note) == ("+252", None, "whole country")
    assert table.lookup("+253112345678") is None
    assert len(table) == 3


def test_the_table_overrules_libphonenumber_and_says_so() -> None:
    numbering = Numbering(_table("+4420,premium_rate,IM,irsf,,our carrier,2026-11-21"))
    number = numbering.classify("02079460123", GB)
    assert (number.number_class, number.country, number.high_risk) == ("premium_rate", "IM", True)
    assert number.source == "+4420 (our carrier, 2026-11-21)"
    number = BARE.classify("02079460123", GB)
    assert (number.number_class, number.country, number.high_risk) == ("geographic", "GB", False)
    assert number.source == "libphonenumber"


def test_a_row_without_a_class_leaves_class_and_validity_to_libphonenumber() -> None:
    numbering = Numbering(_table("+44,,,irsf,,test,2026-11-21"))
    number = numbering.classify("02079460123", GB)
    assert (number.number_class, number.country, number.high_risk) == ("geographic", "GB", True)
    assert number.source == "+44 (test, 2026-11-21); class: libphonenumber"
    # An unassigned number in a marked range is a sign of a hijack: the mark stays.
    number = numbering.classify("04112345678", GB)
    assert (number.number_class, number.high_risk) == ("invalid", True)


NEW_RANGES = ("+4441XXXXXXXX,uan,GB,,,new range,2026-11-21", "+999,global_service,-,,,test,2026-11-21")


def test_a_row_that_states_the_length_admits_a_range_that_libphonenumber_does_not_know() -> None:
    numbering = Numbering(_table(*NEW_RANGES))
    number = numbering.classify("04112345678", GB)
    assert (number.e164, number.number_class, number.country) == ("+444112345678", "uan", "GB")
    assert number.source == "+4441 (new range, 2026-11-21)"
    assert BARE.classify("04112345678", GB).number_class is NumberClass.INVALID


def test_a_row_without_a_length_does_not_make_an_unassigned_number_valid() -> None:
    numbering = Numbering(_table("+44,mobile,GB,,,all of it,2026-11-21"))
    assert numbering.classify("02079460123", GB).number_class is NumberClass.MOBILE
    number = numbering.classify("04112345678", GB)
    assert number.problem == "+444112345678 is in no range that is in use"


def test_a_country_code_that_only_the_table_knows() -> None:
    number = Numbering(_table(*NEW_RANGES)).classify("00999123456", GB)
    assert (number.e164, number.number_class, number.country) == ("+999123456", "global_service", None)
    assert BARE.classify("00999123456", GB).number_class is NumberClass.INVALID


@pytest.mark.parametrize(
    ("dialled", "says"),
    [
        ("+44411234567", "the prefix table has numbers of 12 digits under +4441"),
        ("0411234567890", "the prefix table has numbers of 12 digits under +4441"),
        ("+999123", "7 to 15 digits"),
        ("+9991234567890123", "7 to 15 digits"),
    ],
)
def test_a_row_does_not_admit_an_impossible_length(dialled: str, says: str) -> None:
    number = Numbering(_table(*NEW_RANGES)).classify(dialled, GB)
    assert number.number_class is NumberClass.INVALID
    assert says in (number.problem or "")


def test_class_invalid_closes_a_range_and_a_short_code() -> None:
    rows = ("+4470,invalid,,,fraud,test,2026-11-21", "GB:123,invalid,,,,test,2026-11-21")
    numbering = Numbering(_table(*rows))
    assert numbering.classify("07012345678", GB).problem == "the prefix table closes +4470: fraud"
    assert numbering.classify("123", GB).problem == "the prefix table closes GB:123"
    assert BARE.classify("07012345678", GB).number_class is NumberClass.PERSONAL
    assert BARE.classify("123", GB).number_class is NumberClass.SHORT_CODE


def test_short_codes_are_exact_and_belong_to_their_region() -> None:
    numbering = Numbering(
        _table("GB:4XXX,uan,,,,test,2026-11-21", "GB:42XX,voicemail,IM,irsf,,test,2026-11-21")
    )
    number = numbering.classify("4123", GB)
    assert (number.number_class, number.country, number.high_risk) == ("uan", "GB", False)
    number = numbering.classify("4223", GB)
    assert (number.number_class, number.country, number.high_risk) == ("voicemail", "IM", True)
    for dialled, habit in [("41234", GB), ("412", GB), ("4123", FR), ("+4123", GB)]:
        assert numbering.classify(dialled, habit).number_class not in ("uan", "voicemail")


def test_risk_marks_without_changing_the_class() -> None:
    number = NUMBERING.classify("+252612345678", GB)
    assert (number.number_class, number.country, number.high_risk) == ("mobile", "SO", True)
    assert NUMBERING.classify("+254712123456", GB).high_risk is False


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            "8816,satellite,-,,,s,2026-11-21",
            "column prefix: '8816' is not a prefix: write + and 1 to 15",
        ),
        ("+0,satellite,-,,,s,2026-11-21", "column prefix: '+0' is not a prefix"),
        ("+1234567890123456,uan,-,,,s,2026-11-21", "is not a prefix"),
        ("+٣,uan,-,,,s,2026-11-21", "is not a prefix"),
        ("+1942X9,uan,CA,,,s,2026-11-21", "is not a prefix"),
        ("+1942XXXXXXXXXXXX,uan,CA,,,s,2026-11-21", "is not a prefix"),
        ("+1942XXXXXXX,,CA,,,s,2026-11-21", "column class: a row that states the length needs a class"),
        ("GB:1X1,uan,,,,s,2026-11-21", "column prefix: 'GB:1X1' is not a prefix"),
        ("UK:101,uan,,,,s,2026-11-21", "column prefix: libphonenumber knows no region 'UK'"),
        ("+881,sattelite,-,,,s,2026-11-21", "column class: 'sattelite' is unknown: write one of emergency,"),
        ("+881,emergency,-,,,s,2026-11-21", "column class: emergency is for numbers dialled from a region"),
        ("+881,short_code,-,,,s,2026-11-21", "column class: short_code is for numbers dialled from a region"),
        ("GB:101,,,,,s,2026-11-21", "column class: a short code needs a class"),
        ("GB:101,internal,,,,s,2026-11-21", "column class: internal is a habit of a line"),
        ("+44,,UK,,,s,2026-11-21", "column country: 'UK' is not an ISO 3166-1 alpha-2 code"),
        ("+44,,gb,,,s,2026-11-21", "column country: 'gb' is not"),
        ("+44,,GB,high,,s,2026-11-21", "column risk: 'high' is unknown: write irsf, none, or nothing"),
        ("+44,,,,only a note,s,2026-11-21", "column class: the row says nothing"),
        ("+44,uan,GB,,,,2026-11-21", "column source: empty: name where the row comes from"),
        ("+44,uan,GB,,,s,", "column date: '' is not a date"),
        ("+44,uan,GB,,,s,21/11/2026", "column date: '21/11/2026' is not a date"),
        ("+44,uan,GB,,,s,20261121", "column date: '20261121' is not a date"),
        ("+44,uan,GB,,,s,2026-02-30", "column date: '2026-02-30' is not a date"),
        ("+44,uan,GB", "3 fields where 7 are wanted"),
        ("+44,uan,GB,,a, b,s,2026-11-21", "8 fields where 7 are wanted"),
        ('+44,uan,GB,,"a,s,2026-11-21', "close every quote on the line it begins"),
    ],
)
def test_a_faulty_row_is_refused_with_file_line_column_and_cure(row: str, says: str) -> None:
    good = "+45,uan,DK,,,s,2026-11-21\n"
    with pytest.raises(TableError) as caught:
        PrefixTable.parse(HEADER + good + row, where="mine.csv")
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith("mine.csv, line 3")
    assert says in str(caught.value)


def test_all_faults_are_named_in_one_go() -> None:
    text = HEADER + "+44,nope,UK,,,,never\n+45,uan,DK,,,s,2026-11-21\n\n+45,uan,DK,,,s,2026-11-21\n"
    with pytest.raises(TableError) as caught:
        PrefixTable.parse(text)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "prefixes.csv, line 2, column class",
        "prefixes.csv, line 2, column country",
        "prefixes.csv, line 2, column source",
        "prefixes.csv, line 2, column date",
        "prefixes.csv, line 5, column prefix",
    ]
    assert "stands on line 3 already" in caught.value.problems[-1]


def test_a_thousand_faults_do_not_make_a_thousand_lines() -> None:
    with pytest.raises(TableError) as caught:
        PrefixTable.parse(HEADER + "bad,uan,,,,s,2026-11-21\n" * 1000)
    assert len(caught.value.problems) == 1000
    assert str(caught.value).endswith("... and 950 more")
    assert len(str(caught.value).splitlines()) == 51


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: the table is empty: begin with the header prefix,class,"),
        ("# nothing\n", "the table is empty"),
        ("+44,uan,GB,,,s,2026-11-21\n", "line 1: the header must be prefix,class,country"),
    ],
)
def test_a_table_without_its_header_is_refused(text: str, says: str) -> None:
    with pytest.raises(TableError, match=says):
        PrefixTable.parse(text)


def test_what_spreadsheets_write_is_read() -> None:
    text = "\ufeff" + HEADER.replace("\n", "\r\n") + '# comment\r\n+44 ,uan,GB,,"a, b",s,2026-11-21\r\n'
    row = PrefixTable.parse(text).lookup("+4420")
    assert row is not None
    assert (row.prefix, row.note) == ("+44", "a, b")


def test_forty_thousand_rows_are_read() -> None:
    rows = "".join(f"+{n},mobile,GB,,,carrier,2026-11-21\n" for n in range(1_000_000, 1_040_000))
    table = PrefixTable.parse(HEADER + rows)
    assert len(table) == 40_000


# --- The shipped table


def test_each_shipped_area_code_of_north_america_agrees_with_libphonenumber() -> None:
    rows = csv.reader(line for line in SHIPPED.read_text("utf-8").splitlines() if line.startswith("+1"))
    areas = {prefix: country for prefix, _, country, *_ in rows if len(prefix) == 5}
    assert len(areas) > 70
    for prefix, country in areas.items():
        parsed = (phonenumbers.parse(f"{prefix}{exchange}5678") for exchange in range(200, 1000))
        known = {phonenumbers.region_code_for_number(number) for number in parsed} - {None}
        assert known == {country}, prefix


def test_the_caribbean_is_not_the_united_states() -> None:
    regions = phonenumbers.region_codes_for_country_code(1)
    assert len(regions) == 25
    for region in set(regions) - {"US"}:
        example = phonenumbers.example_number(region)
        assert example is not None
        number = NUMBERING.classify(f"1{example.national_number}", US)
        assert number.country == region
        assert number.number_class in ("geographic", "mobile", "geographic_or_mobile")


# --- Habits


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"region": "UK"}, "'UK' is not a region that libphonenumber knows"),
        ({"region": "gb"}, "in capitals, such as GB or US"),
        ({"region": "001"}, "'001' is not a region"),
        ({"international_prefixes": ("+",)}, "international_prefixes: '\\+' is not a prefix"),
        ({"international_prefixes": ("",)}, "international_prefixes: '' is not a prefix"),
        ({"carrier_prefixes": ("9a",)}, "carrier_prefixes: '9a' is not a prefix"),
        (
            {"carrier_prefixes": tuple(map(str, range(17)))},
            "has 17 entries: give at most 16",
        ),
        ({"national_prefix": "x"}, "national_prefix: 'x' is not a prefix"),
        ({"internal": ""}, "internal: an entry is empty"),
        ({"internal": "_"}, "internal: an entry is empty"),
        ({"internal": "100,,101"}, "internal: an entry is empty"),
        ({"internal": "_X."}, "'_X.' is open-ended and could swallow outside numbers"),
        ({"internal": "_1!"}, "'_1!' is open-ended"),
        ({"internal": "1XX"}, "'1XX' is not an extension"),
        ({"internal": "_1[2"}, "is not an extension"),
        ({"internal": "_[9-1]X"}, "has a range that runs backwards"),
        ({"internal": "_" + "X" * 41}, "longer than 40 characters"),
    ],
)
def test_a_habit_that_cannot_be_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Habit(**fields)


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [
        ("100", "100", "1000"),
        ("_1XX", "199", "1999"),
        ("_ZNX", "120", "110"),
        ("_[2-4]X", "45", "55"),
        ("_[257]X", "75", "35"),
        ("_[*#]9", "#9", "09"),
        ("*97", "*97", "*98"),
        ("_1XX, _2XXX", "2000", "200"),
        ("_nx", "20", "10"),
    ],
)
def test_an_internal_pattern_matches_whole_numbers_only(pattern: str, inside: str, outside: str) -> None:
    habit = Habit("GB", internal=pattern)
    assert NUMBERING.classify(inside, habit).number_class is NumberClass.INTERNAL
    assert NUMBERING.classify(outside, habit).number_class is not NumberClass.INTERNAL


# --- Properties

HABITS = [GB, US, DE, FR, AU, JP, KE, BR, PBX_GB, PBX_US, ABROAD, Habit("IT"), Habit("AR"), Habit("RU")]


@given(dialled=st.text(max_size=60), habit=st.sampled_from(HABITS))
@settings(max_examples=400, deadline=None)
def test_no_text_raises(dialled: str, habit: Habit) -> None:
    number = NUMBERING.classify(dialled, habit)
    assert bool(number.problem) is (number.number_class is NumberClass.INVALID)
    assert number.dialled.encode("ascii").decode() == number.dialled


@given(dialled=st.text("0123456789+*#-. ", max_size=45), habit=st.sampled_from(HABITS))
@settings(max_examples=1000, deadline=None)
def test_nothing_that_looks_dialled_raises(dialled: str, habit: Habit) -> None:
    number = NUMBERING.classify(dialled, habit)
    assert bool(number.problem) is (number.number_class is NumberClass.INVALID)


CODES = sorted(phonenumbers.COUNTRY_CODE_TO_REGION_CODE)


@given(code=st.sampled_from(CODES), rest=st.text("0123456789", min_size=4, max_size=12))
@settings(max_examples=1500, deadline=None)
def test_an_e164_number_is_its_own_reading_in_every_habit(code: int, rest: str) -> None:
    first = NUMBERING.classify(f"+{code}{rest}", GB)
    if first.e164 is None:
        return
    assert first.e164[1:].isdigit()
    assert len(first.e164) <= 16
    for habit in HABITS:
        again = NUMBERING.classify(first.e164, habit)
        assert replace(again, dialled=first.dialled) == first


@pytest.mark.parametrize("region", sorted(phonenumbers.SUPPORTED_REGIONS))
def test_the_example_numbers_of_each_region_keep_their_class_in_every_habit(region: str) -> None:
    seen = 0
    for kind in phonenumbers.PhoneNumberType.values():
        example = phonenumbers.example_number_for_type(region, kind)
        if example is None:
            continue
        e164 = phonenumbers.format_number(example, phonenumbers.PhoneNumberFormat.E164)
        first = NUMBERING.classify(e164, GB)
        assert first.e164 == e164
        assert NUMBERING.classify(e164, US) == first
        seen += 1
    assert seen


# --- The cache


def test_the_cache_is_bounded_and_does_not_change_answers() -> None:
    numbering = Numbering(TABLE, cache_size=8)
    for n in range(100):
        numbering.classify(f"0207946{n:04d}", GB)
    assert numbering.cache_entries == 8
    assert numbering.classify("02079460000", GB) == NUMBERING.classify("02079460000", GB)
    numbering.classify("9" * 1000, GB)
    assert numbering.cache_entries == 8


def test_the_same_digits_in_another_habit_are_another_number() -> None:
    numbering = Numbering(TABLE)
    assert numbering.classify("0612345678", FR).e164 == "+33612345678"
    assert numbering.classify("0612345678", DE).e164 != "+33612345678"
    assert numbering.cache_entries == 2


def test_warming_changes_no_answer_and_fills_no_cache() -> None:
    numbering = Numbering(TABLE)
    before = numbering.classify("02079460123", GB)
    numbering.warm(["GB", "US"])
    assert numbering.cache_entries == 1
    assert Numbering(TABLE).classify("02079460123", GB) == before
    with pytest.raises(ValueError, match="'XX' is not a region"):
        numbering.warm(["XX"])
