"""Rate cards: every fault told at once, and the row in force for a number at an instant."""

import time
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairdial.policy.cards import Rate, RateCard, RateCardError
from fairdial.policy.rating import Increment, Tariff, charge_micros

HEADER = "prefix,destination,rate_per_min,connect_fee,increment,minimum,effective\n"
CARD = (
    HEADER
    + """# the United Kingdom
+44,United Kingdom,0.01,,,,2026-01-01
+447,"United Kingdom, mobile",0.06,0.05,30/6,0.02,2026-01-01
+447,"United Kingdom, mobile",0.08,0.05,30/6,0.02,2026-11-01T06:00+01:00
+44762,Pagers,0.50,,60/60,,2026-12-01T00:00:00Z
+1,North America,0,,,,2020-01-01
"""
)
MOBILE = "+447911123456"
PAGER = "+447624123456"


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1000


NOON_MS = at("2026-11-21T12:00:00+00:00")


def card(text: str = CARD) -> RateCard:
    return RateCard.parse(text, "standard", "EUR", "mine.csv")


def rate_of(e164: str, at_ms: int = NOON_MS, text: str = CARD) -> Rate:
    rate = card(text).lookup(e164, at_ms)
    assert rate is not None
    return rate


def faults(text: str) -> tuple[str, ...]:
    with pytest.raises(RateCardError) as caught:
        card(text)
    return caught.value.problems


def row(**columns: str) -> str:
    fields = {
        "prefix": "+44",
        "destination": "UK",
        "rate_per_min": "0.01",
        "connect_fee": "",
        "increment": "",
        "minimum": "",
        "effective": "2026-01-01",
    }
    assert columns.keys() <= fields.keys()
    return HEADER + ",".join((fields | columns).values()) + "\n"


# What a card says


def test_a_row_says_what_a_call_costs() -> None:
    rate = rate_of(MOBILE)
    assert rate.tariff == Tariff(80_000, 50_000, Increment(30, 6), 20_000)
    assert (rate.prefix, rate.destination, rate.line) == ("+447", "United Kingdom, mobile", 5)
    assert charge_micros(rate.tariff, 31) == 98_000


def test_empty_columns_are_no_fee_no_minimum_and_seconds() -> None:
    assert rate_of("+442079460123").tariff == Tariff(10_000, 0, Increment(1, 1), 0)
    assert rate_of("+12125550123").tariff == Tariff(0)


def test_rows_that_share_a_price_or_a_day_keep_their_own() -> None:
    text = HEADER + "".join(
        f"+{prefix},x,{price},,,,2026-01-0{day}\n"
        for prefix, price, day in [(31, 1, 1), (32, 2, 2), (33, 2, 1), (34, 1, 2)]
    )
    days = [at("2026-01-01T00:00:00+00:00"), at("2026-01-02T00:00:00+00:00")]
    assert [(rate.tariff.rate_per_min_micros, days.index(rate.effective_ms)) for rate in card(text)] == [
        (1_000_000, 0),
        (2_000_000, 1),
        (2_000_000, 0),
        (1_000_000, 1),
    ]


def test_a_decision_can_name_the_card_and_the_row() -> None:
    priced = card()
    assert rate_of(MOBILE).label == "+447 (United Kingdom, mobile, line 5, from 2026-11-01T05:00Z)"
    assert priced.label == f"standard {priced.version} (EUR)"
    assert (priced.name, priced.currency) == ("standard", "EUR")


def test_another_text_or_currency_is_another_version() -> None:
    first = card()
    assert card().digest == first.digest
    assert first.digest.startswith(first.version)
    assert card(CARD.replace("0.08", "0.09")).version != first.version
    assert RateCard.parse(CARD, "standard", "USD").version != first.version


def test_a_card_lists_its_rows_as_written() -> None:
    assert [rate.line for rate in card()] == [3, 4, 5, 6, 7]
    assert len(card()) == 5
    assert len(card(HEADER)) == 0
    assert card(HEADER).lookup(MOBILE, NOON_MS) is None


def test_a_card_from_a_spreadsheet_is_read() -> None:
    assert rate_of(MOBILE, text="\ufeff" + CARD.replace("\n", "\r\n")).tariff == rate_of(MOBILE).tariff


# Which row is in force


@pytest.mark.parametrize(
    ("e164", "line"),
    [("+442079460123", 3), (MOBILE, 5), (PAGER, 5), ("+44", 3), ("+447", 5), ("+12125550123", 7)],
)
def test_the_longest_prefix_in_force_wins(e164: str, line: int) -> None:
    assert rate_of(e164).line == line


@pytest.mark.parametrize("e164", ["+33123456789", "+4", "+", "", "447911123456", "02079460123"])
def test_a_number_without_a_price_has_none(e164: str) -> None:
    assert card().lookup(e164, NOON_MS) is None


def test_a_price_holds_from_its_instant_on() -> None:
    change_ms = at("2026-11-01T05:00:00+00:00")
    assert rate_of(MOBILE, change_ms - 1).tariff.rate_per_min_micros == 60_000
    assert rate_of(MOBILE, change_ms).tariff.rate_per_min_micros == 80_000


def test_a_day_begins_at_midnight_utc() -> None:
    midnight_ms = at("2026-01-01T00:00:00+00:00")
    assert card().lookup(MOBILE, midnight_ms - 1) is None
    assert rate_of(MOBILE, midnight_ms).line == 4


def test_the_zone_of_the_machine_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    here = [rate.effective_ms for rate in card()]
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        there = [rate.effective_ms for rate in card()]
    time.tzset()
    assert there == here


def test_a_longer_prefix_not_yet_in_force_leaves_the_shorter_one() -> None:
    change_ms = at("2026-12-01T00:00:00+00:00")
    assert rate_of(PAGER, change_ms - 1).destination == "United Kingdom, mobile"
    assert rate_of(PAGER, change_ms).destination == "Pagers"


def test_the_order_of_rows_does_not_matter() -> None:
    header, *rows = CARD.splitlines()
    upside_down = "\n".join([header, *reversed(rows)])
    for e164 in (MOBILE, PAGER, "+442079460123"):
        assert rate_of(e164, text=upside_down).tariff == rate_of(e164).tariff


DIGITS = st.text("12", min_size=1, max_size=5)


@given(
    st.dictionaries(st.tuples(DIGITS, st.integers(1, 28)), st.integers(0, 99), max_size=30),
    DIGITS,
    st.integers(1, 28),
)
def test_lookup_is_the_search_that_the_rule_describes(
    prices: dict[tuple[str, int], int], number: str, day: int
) -> None:
    text = HEADER + "".join(
        f"+{prefix},x,{price},,,,2026-01-{since:02}\n" for (prefix, since), price in prices.items()
    )
    in_force = [key for key in prices if number.startswith(key[0]) and key[1] <= day]
    rate = card(text).lookup(f"+{number}", at(f"2026-01-{day:02}T23:59:59+00:00"))
    if not in_force:
        assert rate is None
    else:
        best = max(in_force, key=lambda key: (len(key[0]), key[1]))
        assert rate is not None
        assert rate.tariff.rate_per_min_micros == prices[best] * 1_000_000


# Faults


def test_every_fault_is_told_with_its_place() -> None:
    text = HEADER + (
        "44,,0.1234567,-1,60,1e3,01.11.2026\n"  # line 2: all seven columns
        "# a comment\n"
        "+44,UK,0.01\n"  # line 4: too few fields
        '+44,"UK,0.01,,,,2026-01-01\n'  # line 5: a quote left open
        "+44,UK,0.01,,,,2026-01-01\n"
        "+49,Germany,0.01,,,,2026-02-30\n"
    )
    problems = faults(text)
    columns = ["prefix", "destination", "rate_per_min", "connect_fee", "increment", "minimum", "effective"]
    assert [problem.split(": ")[0] for problem in problems] == [
        *(f"mine.csv, line 2, column {column}" for column in columns),
        "mine.csv, line 4",
        "mine.csv, line 5",
        "mine.csv, line 7, column effective",
    ]
    assert all(problem.count(": ") >= 2 for problem in problems)


@pytest.mark.parametrize(
    ("column", "text", "says"),
    [
        ("prefix", "", "'' is not a prefix: write + and 1 to 15 digits"),
        ("prefix", "+", "'+' is not a prefix"),
        ("prefix", "+044", "'+044' is not a prefix"),
        ("prefix", "0044", "'0044' is not a prefix"),
        ("prefix", "+44 20", "'+44 20' is not a prefix"),
        ("prefix", "+1234567890123456", "is not a prefix: write + and 1 to 15 digits"),
        ("destination", "", "'': name the place or network"),
        ("destination", "\x1b[2J", "'\\x1b[2J': name the place or network in plain text"),
        ("rate_per_min", "", "'' is not an amount: write plain digits"),
        ("rate_per_min", "-0.01", "'-0.01' is not an amount"),
        ("rate_per_min", "0.0000001", "has 7 decimals: write 6 at most"),
        ("rate_per_min", "1000000001", "is too large: write 1000000000 at most"),
        ("connect_fee", "free", "'free' is not an amount"),
        ("increment", "60", "'60' is not an increment: write the first and the next seconds"),
        ("increment", "0/1", "out of range: write 1 to 3600 seconds"),
        ("minimum", "1.", "'1.' is not an amount"),
        ("effective", "", "'' is not a day or an instant"),
        ("effective", "2026-13-01", "'2026-13-01' does not exist (month must be in 1..12): correct it"),
        ("effective", "2026-11-01T06:00", "write 2026-11-01 (from 00:00 UTC), or a time with its zone"),
        ("effective", "20261101", "is not a day or an instant from 1970 to 2099"),
        ("effective", "0206-11-01", "is not a day or an instant from 1970 to 2099"),
        ("effective", "2026-11-01T06:00+25:00", "does not exist"),
    ],
)
def test_a_faulty_field_is_refused_with_its_cure(column: str, text: str, says: str) -> None:
    (problem,) = faults(row(**{column: text}))
    assert problem.startswith(f"mine.csv, line 2, column {column}: ")
    assert says in problem


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("prefix", "+1"),
        ("prefix", "+123456789012345"),
        ("destination", "Österreich"),
        ("rate_per_min", "0"),
        ("connect_fee", "0.000001"),
        ("increment", "3600/1"),
        ("minimum", "1"),
        ("effective", "1970-01-01"),
        ("effective", "2026-11-01 06:00Z"),
        ("effective", "2026-11-01T06:00:00-05:30"),
    ],
)
def test_a_good_field_is_read(column: str, text: str) -> None:
    assert len(card(row(**{column: text}))) == 1


def test_a_price_twice_from_one_instant_is_refused() -> None:
    text = row() + "+44,UK again,0.02,,,,2026-01-01T01:00+01:00\n"
    assert faults(text) == (
        "mine.csv, line 3, column effective: line 2 has a rate for +44 from the same instant: keep one of the two",
    )
    assert len(card(text.replace("T01:00+01:00", "T02:00+01:00"))) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "mine.csv, line 1: the header must be prefix,destination,"),
        ("# nothing yet\n", "mine.csv, line 1: the header must be prefix,destination,"),
        ("\n+44,UK,0.01,,,,2026-01-01\n", "mine.csv, line 2: the header must be prefix,destination,"),
        (HEADER.replace("minimum", "min"), "mine.csv, line 1: the header must be prefix,destination,"),
    ],
)
def test_a_card_begins_with_its_header(text: str, says: str) -> None:
    (problem,) = faults(text)
    assert problem.startswith(says)


def test_a_faulty_row_is_told_once() -> None:
    assert len(faults(row(prefix="44") + "44,UK,0.01,,,,2026-01-01\n")) == 2


@pytest.mark.parametrize("name", ["", "gold card", "gold!", "-gold", "g" * 41])
def test_a_name_that_no_command_could_take_is_refused(name: str) -> None:
    with pytest.raises(RateCardError, match=r"rates.csv: card name .* write 1 to 40 of a-z"):
        RateCard.parse(CARD, name, "EUR")
    assert RateCard.parse(CARD, "gold-2026_b", "EUR").name == "gold-2026_b"


def test_name_and_currency_are_checked_with_the_rows() -> None:
    with pytest.raises(RateCardError) as caught:
        RateCard.parse(row(prefix="44"), "My card", "EURO", "mine.csv")
    name, currency, prefix = caught.value.problems
    assert name.startswith("mine.csv: card name 'My card': write 1 to 40 of a-z")
    assert currency.startswith("mine.csv: currency 'EURO' is not an ISO 4217 code")
    assert prefix.startswith("mine.csv, line 2, column prefix")


def test_a_carriers_whole_card_is_read_and_searched() -> None:
    text = HEADER + "".join(
        f"+{10_000 + number // 2},Place {number % 300},0.{number:06},0.05,30/6,,2026-0{1 + number % 2}-01\n"
        for number in range(40_000)
    )
    whole = card(text)
    assert len(whole) == 40_000
    numbers = [f"+{10_000 + number}555123" for number in range(20_000)]
    found = [whole.lookup(number, NOON_MS) for number in numbers]
    assert [rate.line for rate in found if rate] == list(range(3, 40_003, 2))
