"""What calls cost: figures worked out by hand, and the laws that every tariff keeps."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fairdial.policy.rating import (
    LONGEST_INCREMENT_S,
    MOST_MICROS,
    Increment,
    Tariff,
    affordable_s,
    charge_micros,
    currency_digits,
    decimal_text,
    format_micros,
    overage_charge_micros,
    parse_micros,
    reserve_micros,
)

FOUR_HOURS_S = 4 * 3600


def tariff(
    rate: str, fee: str = "0", increment: str = "1/1", minimum: str = "0", surcharge: str = "0"
) -> Tariff:
    return Tariff(
        parse_micros(rate),
        parse_micros(fee),
        Increment.parse(increment),
        parse_micros(minimum),
        parse_micros(surcharge),
    )


def micros(amount: str) -> int:
    return parse_micros(amount)


INCREMENTS = st.builds(Increment, st.integers(1, 180), st.integers(1, 180))
# Small amounts meet the rounding, large ones the limits.
AMOUNTS = st.one_of(st.integers(0, 200), st.integers(0, 2_000_000), st.integers(0, MOST_MICROS))
TARIFFS = st.builds(Tariff, AMOUNTS, AMOUNTS, INCREMENTS, AMOUNTS, AMOUNTS)
SECONDS = st.integers(0, 20_000)


# Increments


@pytest.mark.parametrize(
    ("increment", "used_s", "billed_s"),
    [
        ("60/60", 0, 0),
        ("60/60", 1, 60),
        ("60/60", 60, 60),
        ("60/60", 61, 120),
        ("30/6", 29, 30),
        ("30/6", 30, 30),
        ("30/6", 31, 36),
        ("30/6", 36, 36),
        ("30/6", 37, 42),
        ("1/1", 1, 1),
        ("1/1", 7261, 7261),
        ("1/60", 1, 1),
        ("1/60", 2, 61),
    ],
)
def test_seconds_are_billed_by_increments(increment: str, used_s: int, billed_s: int) -> None:
    assert Increment.parse(increment).billed_s(used_s) == billed_s


@given(INCREMENTS, SECONDS)
def test_billed_seconds_cover_the_used_ones_with_the_fewest_steps(increment: Increment, used_s: int) -> None:
    billed_s = increment.billed_s(used_s)
    assert billed_s >= used_s
    assert increment.billed_s(billed_s) == billed_s
    if used_s > increment.first_s:
        assert (billed_s - increment.first_s) % increment.next_s == 0
        assert billed_s - used_s < increment.next_s
    else:
        assert billed_s == (increment.first_s if used_s else 0)


@given(INCREMENTS)
def test_an_increment_is_read_back_as_written(increment: Increment) -> None:
    assert Increment.parse(str(increment)) == increment


@pytest.mark.parametrize(
    "text", ["", "60", "60/", "/6", "60/60/60", "a/b", "-1/1", "1.5/1", "60 / 60", "٦٠/٦٠"]
)
def test_what_is_no_increment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an increment: write the first and the next seconds"):
        Increment.parse(text)


@pytest.mark.parametrize(
    "text", ["0/1", "1/0", f"{LONGEST_INCREMENT_S + 1}/1", f"1/{LONGEST_INCREMENT_S + 1}"]
)
def test_an_increment_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"out of range: write 1 to {LONGEST_INCREMENT_S} seconds"):
        Increment.parse(text)


def test_the_longest_increment_is_allowed() -> None:
    assert Increment(LONGEST_INCREMENT_S, LONGEST_INCREMENT_S).billed_s(1) == LONGEST_INCREMENT_S


# Charges, by hand


@pytest.mark.parametrize(
    ("price", "used_s", "charge"),
    [
        (tariff("0.10", increment="60/60"), 1, "0.10"),
        (tariff("0.10", increment="60/60"), 60, "0.10"),
        (tariff("0.10", increment="60/60"), 61, "0.20"),
        (tariff("0.06", increment="30/6"), 30, "0.03"),
        (tariff("0.06", increment="30/6"), 31, "0.036"),
        (tariff("0.06"), 31, "0.031"),
        # 0.01 a minute: a second is 166.67 micros, rounded up once for the call and not for each second.
        (tariff("0.01"), 1, "0.000167"),
        (tariff("0.01"), 2, "0.000334"),
        (tariff("0.01"), 3, "0.0005"),
        (tariff("0.01"), 59, "0.009834"),
        (tariff("0.000001"), 1, "0.000001"),
        (tariff("0.000001"), 61, "0.000002"),
        # Connection fee.
        (tariff("0.01", "0.05"), 1, "0.050167"),
        (tariff("0", "0.05"), 3600, "0.05"),
        (tariff("0.01", "0.05"), 0, "0"),
        # Minimum, over fee and rate together.
        (tariff("0.06", minimum="0.02"), 5, "0.02"),
        (tariff("0.06", minimum="0.02"), 20, "0.02"),
        (tariff("0.06", minimum="0.02"), 21, "0.021"),
        (tariff("0.06", "0.05", minimum="0.06"), 5, "0.06"),
        (tariff("0.06", "0.05", minimum="0.06"), 11, "0.061"),
        (tariff("0.06", minimum="0.02"), 0, "0"),
        # Surcharge: on metered seconds, not on increments, and on top of the minimum (S5).
        (tariff("0.10", increment="60/60", surcharge="0.03"), 61, "0.2305"),
        (tariff("0.06", minimum="0.02", surcharge="0.06"), 5, "0.025"),
        (tariff("0.01", surcharge="0.02"), 1, "0.0005"),  # one rounding: not 167 and 334 micros
        (tariff("0"), 86_400, "0"),
    ],
)
def test_an_answered_call_costs(price: Tariff, used_s: int, charge: str) -> None:
    assert charge_micros(price, used_s) == micros(charge)


def test_each_redial_after_the_cut_pays_the_connection_fee_again() -> None:
    """K4: two calls of four hours at 0.01 a minute, cut and dialled again, at 0.05 each to connect."""
    price = tariff("0.01", "0.05")
    assert charge_micros(price, FOUR_HOURS_S) == micros("2.45")
    assert 2 * charge_micros(price, FOUR_HOURS_S) == micros("4.90")
    assert charge_micros(price, 2 * FOUR_HOURS_S) == micros("4.85")


def test_overage_pays_the_rate_from_the_second_that_passed_the_allowance() -> None:
    """R3: ten minutes, the last 31 s of them past the allowance: no fee, no minimum."""
    price = tariff("0.06", "0.05", "30/6", minimum="1")
    assert overage_charge_micros(price, 31, used_s=600, began_included=True) == micros("0.036")
    assert overage_charge_micros(price, 0, used_s=600, began_included=True) == 0


def test_a_call_dialled_past_the_allowance_pays_the_connection_fee_too() -> None:
    price = tariff("0.06", "0.05", "30/6")
    assert overage_charge_micros(price, 31, used_s=31, began_included=False) == micros("0.086")
    assert overage_charge_micros(price, 31, used_s=31, began_included=False) == charge_micros(price, 31)
    # The rest of it fell into a new month, whose allowance covers it.
    assert overage_charge_micros(price, 31, used_s=600, began_included=False) == micros("0.086")
    assert overage_charge_micros(price, 31, used_s=600, began_included=True) == micros("0.036")


def test_the_surcharge_counts_the_seconds_inside_the_allowance_too() -> None:
    price = tariff("0.06", "0.05", "30/6", surcharge="0.01")
    assert overage_charge_micros(price, 0, used_s=600, began_included=True) == micros("0.1")
    assert overage_charge_micros(price, 31, used_s=600, began_included=True) == micros("0.136")


def test_a_call_that_was_never_answered_costs_nothing() -> None:
    price = tariff("1", "1", "60/60", "1", "1")
    assert charge_micros(price, 0) == 0
    assert overage_charge_micros(price, 0, used_s=0, began_included=True) == 0
    assert overage_charge_micros(price, 0, used_s=0, began_included=False) == 0
    assert charge_micros(price, 1) == micros("2.016667")


@pytest.mark.parametrize(
    ("overage_s", "used_s", "began_included"),
    [(11, 10, False), (-1, 10, True), (10, 10, True), (0, 10, False), (0, -1, True)],
)
def test_contradictory_seconds_are_refused(overage_s: int, used_s: int, began_included: bool) -> None:
    with pytest.raises(ValueError, match=f"{overage_s} s of overage cannot be in a call of {used_s} s"):
        overage_charge_micros(tariff("0.1"), overage_s, used_s=used_s, began_included=began_included)


def test_negative_seconds_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot have used -1 s"):
        charge_micros(tariff("0.1"), -1)
    with pytest.raises(ValueError, match="cannot have used -1 s"):
        reserve_micros(tariff("0.1"), -1)


TARIFF_WITH: dict[str, Callable[[int], Tariff]] = {
    "rate_per_min_micros": lambda amount: Tariff(amount),
    "connect_fee_micros": lambda amount: Tariff(0, connect_fee_micros=amount),
    "minimum_micros": lambda amount: Tariff(0, minimum_micros=amount),
    "surcharge_per_min_micros": lambda amount: Tariff(0, surcharge_per_min_micros=amount),
}


@pytest.mark.parametrize("name", TARIFF_WITH)
def test_a_tariff_out_of_range_cannot_be_made(name: str) -> None:
    for amount in (-1, MOST_MICROS + 1):
        with pytest.raises(ValueError, match=f"{name} {amount} must be at least 0 and at most {MOST_MICROS}"):
            TARIFF_WITH[name](amount)
    assert charge_micros(TARIFF_WITH[name](MOST_MICROS), 60) == MOST_MICROS


def test_a_day_at_the_highest_tariff_fits_64_bits() -> None:
    highest = Tariff(
        MOST_MICROS,
        MOST_MICROS,
        Increment(LONGEST_INCREMENT_S, LONGEST_INCREMENT_S),
        MOST_MICROS,
        MOST_MICROS,
    )
    assert 0 < charge_micros(highest, 86_400) < 2**63


# Charges, by law


@given(TARIFFS, SECONDS, st.integers(1, 200))
def test_a_longer_call_never_costs_less(price: Tariff, used_s: int, more_s: int) -> None:
    assert 0 <= charge_micros(price, used_s) <= charge_micros(price, used_s + more_s)


@given(TARIFFS, SECONDS.filter(bool))
def test_the_charge_is_the_exact_price_rounded_up_once(price: Tariff, used_s: int) -> None:
    exact = max(
        Fraction(price.minimum_micros),
        price.connect_fee_micros + Fraction(price.rate_per_min_micros * price.increment.billed_s(used_s), 60),
    ) + Fraction(price.surcharge_per_min_micros * used_s, 60)
    assert exact <= charge_micros(price, used_s) < exact + 1


@given(TARIFFS, st.lists(st.integers(1, 300), min_size=1, max_size=60))
def test_a_charge_knows_nothing_of_slices(price: Tariff, slices_s: list[int]) -> None:
    """A grant renewed slice by slice reserves, in the end, what one grant of the whole would have."""
    reserved_micros = granted_s = 0
    for slice_s in slices_s:
        more_micros = reserve_micros(price, granted_s + slice_s) - reserve_micros(price, granted_s)
        assert more_micros >= 0
        reserved_micros += more_micros
        granted_s += slice_s
    assert reserved_micros == reserve_micros(price, sum(slices_s)) == charge_micros(price, sum(slices_s))


@given(TARIFFS, SECONDS, SECONDS, st.booleans())
def test_an_allowance_never_makes_a_call_dearer(
    price: Tariff, overage_s: int, covered_s: int, began_included: bool
) -> None:
    assume(covered_s if began_included else overage_s)
    used_s = overage_s + covered_s
    charge = overage_charge_micros(price, overage_s, used_s=used_s, began_included=began_included)
    assert 0 <= charge <= charge_micros(price, used_s)


# Reserves and what a credit affords


@given(TARIFFS, st.integers(1, 2000), st.integers(0, 2500), st.data())
def test_no_end_within_the_grant_costs_more_than_its_reserve(
    price: Tariff, granted_s: int, included_s: int, data: st.DataObject
) -> None:
    used_s = data.draw(st.integers(0, granted_s))
    overage_s = max(0, used_s - included_s)
    assert charge_micros(price, used_s) <= reserve_micros(price, granted_s)
    cost = overage_charge_micros(
        price, overage_s, used_s=used_s, began_included=included_s > 0 or used_s == 0
    )
    assert cost <= reserve_micros(price, granted_s, included_s=included_s) <= reserve_micros(price, granted_s)


def test_included_seconds_reserve_only_their_surcharge() -> None:
    price = tariff("0.06", "0.05", "30/6")
    assert reserve_micros(price, 600) == micros("0.65")
    assert reserve_micros(price, 600, included_s=569) == micros("0.036")
    assert reserve_micros(price, 600, included_s=600) == 0
    assert reserve_micros(replace(price, surcharge_per_min_micros=10_000), 600, included_s=600) == micros(
        "0.1"
    )
    assert reserve_micros(price, 0) == reserve_micros(price, 0, included_s=5) == 0


@pytest.mark.parametrize(
    ("price", "credit", "longest_s", "seconds"),
    [
        (tariff("0.10", increment="60/60"), "0.09", 14_400, 0),
        (tariff("0.10", increment="60/60"), "0.10", 14_400, 60),
        (tariff("0.10", increment="60/60"), "0.199999", 14_400, 60),
        (tariff("0.10", increment="60/60"), "0.20", 14_400, 120),
        (tariff("0.10", increment="60/60"), "0.20", 90, 90),
        (tariff("0.06", "0.05", "30/6"), "0.079999", 14_400, 0),
        (tariff("0.06", "0.05", "30/6"), "0.08", 14_400, 30),
        (tariff("0.06", "0.05", "30/6"), "0.086", 14_400, 36),
        (tariff("0.06", minimum="0.02"), "0.019999", 14_400, 0),
        (tariff("0.06", minimum="0.02"), "0.02", 14_400, 20),
        (tariff("0.01", "0.05"), "2.45", 86_400, FOUR_HOURS_S),
        (tariff("0.01", "0.05"), "100", FOUR_HOURS_S, FOUR_HOURS_S),
        (tariff("0"), "0", 14_400, 14_400),
        (tariff("0.01"), "0", 14_400, 0),
        (tariff("0"), "1", 0, 0),
    ],
)
def test_a_credit_affords(price: Tariff, credit: str, longest_s: int, seconds: int) -> None:
    assert affordable_s(price, micros(credit), longest_s) == seconds


def test_included_seconds_need_no_credit() -> None:
    price = tariff("0.06", "0.05")
    assert affordable_s(price, 0, 14_400, included_s=600) == 600
    assert affordable_s(price, micros("0.01"), 14_400, included_s=600) == 610
    surcharged = tariff("0.06", "0.05", surcharge="0.06")
    assert affordable_s(surcharged, micros("0.01"), 14_400, included_s=600) == 10


def test_a_debt_affords_only_what_costs_nothing() -> None:
    assert affordable_s(tariff("0.01"), -1, 14_400) == 0
    assert affordable_s(tariff("0.01"), -1, 14_400, included_s=60) == 60
    assert affordable_s(tariff("0"), -1, 14_400) == 14_400


@given(
    TARIFFS,
    st.integers(0, 5_000_000) | st.integers(0, MOST_MICROS * 100),
    st.integers(0, 1500),
    st.integers(0, 200),
)
def test_what_a_credit_affords_is_the_true_most(
    price: Tariff, credit_micros: int, longest_s: int, included_s: int
) -> None:
    def reserve(used_s: int) -> int:
        return reserve_micros(price, used_s, included_s=included_s)

    seconds = affordable_s(price, credit_micros, longest_s, included_s=included_s)
    assert 0 <= seconds <= longest_s
    assert reserve(seconds) <= credit_micros
    assert all(reserve(longer_s) > credit_micros for longer_s in range(seconds + 1, longest_s + 1))


# Amounts as text


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("12", 12_000_000),
        ("0.1", 100_000),
        ("0.0125", 12_500),
        ("0.000001", 1),
        ("1.234567", 1_234_567),
        ("007.50", 7_500_000),
        ("1000000000", MOST_MICROS),
        ("00000000000001", 1_000_000),
    ],
)
def test_an_amount_is_read_exactly(text: str, amount: int) -> None:
    assert parse_micros(text) == amount


@pytest.mark.parametrize(
    "text", ["", " 1", "+1", "-1", "1e3", "1E-3", ".5", "5.", "1,5", "1 000", "€1", "٣", "nan"]
)
def test_what_is_no_plain_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an amount: write plain digits with a point") as caught:
        parse_micros(text)
    assert repr(text) in str(caught.value)


def test_more_than_six_decimals_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'0\.1234567' has 7 decimals: write 6 at most"):
        parse_micros("0.1234567")
    assert parse_micros("0.123456") == 123_456


@pytest.mark.parametrize("text", ["1000000000.000001", "1000000001", "9" * 11, "9" * 100_000])
def test_an_amount_too_large_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is too large: write 1000000000 at most") as caught:
        parse_micros(text)
    assert len(str(caught.value)) < 120


@given(st.integers(0, MOST_MICROS))
def test_decimal_text_is_read_back(amount: int) -> None:
    assert parse_micros(decimal_text(amount)) == amount


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0"),
        (12_500, "0.0125"),
        (12_000_000, "12"),
        (-500_000, "-0.5"),
        (1, "0.000001"),
        (-1, "-0.000001"),
    ],
)
def test_decimal_text_is_exact(amount: int, text: str) -> None:
    assert decimal_text(amount) == text


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        ("12.345", "EUR", "12.35 EUR"),
        ("12.344999", "EUR", "12.34 EUR"),
        ("0.005", "EUR", "0.01 EUR"),
        ("0.004999", "EUR", "0.00 EUR"),
        ("0.995", "EUR", "1.00 EUR"),
        ("7", "GBP", "7.00 GBP"),
        ("0.5", "JPY", "1 JPY"),
        ("0.499999", "JPY", "0 JPY"),
        ("1234", "JPY", "1234 JPY"),
        ("1.2345", "KWD", "1.235 KWD"),
    ],
)
def test_people_read_an_amount_in_the_currencys_own_digits(amount: str, currency: str, text: str) -> None:
    assert format_micros(micros(amount), currency) == text


def test_a_debt_is_shown_with_its_sign() -> None:
    assert format_micros(-500_000, "EUR") == "-0.50 EUR"
    assert format_micros(-5_000, "EUR") == "-0.01 EUR"
    assert format_micros(-4_999, "EUR") == "0.00 EUR"
    assert format_micros(-1_500_000, "JPY") == "-2 JPY"


@pytest.mark.parametrize("currency", ["", "eur", "EURO", "XXX", "XAU", "ZZZ"])
def test_an_unknown_currency_is_refused(currency: str) -> None:
    with pytest.raises(ValueError, match="is not an ISO 4217 code in use: write it like EUR"):
        format_micros(0, currency)


def test_currencies_have_their_own_digits() -> None:
    assert [currency_digits(code) for code in ("EUR", "USD", "JPY", "KRW", "KWD", "TND")] == [
        2,
        2,
        0,
        0,
        3,
        3,
    ]
