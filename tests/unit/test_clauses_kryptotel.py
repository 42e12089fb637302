"""policies/kryptotel.toml, clause by clause: what a dial on it is told, and what it costs."""

import pytest

from fairdial.policy.account import Kind, Options, Standing
from fairdial.policy.numbers import Number
from fairdial.policy.outcomes import Reason
from fairdial.policy.prefixes import NumberClass
from fairdial.policy.terms import Mode, whole_micros
from tests.samples import LONDON, NOON_MS
from tests.shipped import (
    BERLIN,
    COLLEAGUE,
    EITHER,
    GB_AND_DE,
    MOBILE,
    PARIS,
    POLICIES,
    PREMIUM,
    dialled,
    eur,
    number_of_class,
)

KRYPTOTEL = POLICIES["kryptotel"]
RICH = eur(1_000_000_000)
FOUR_HOURS_S = 14_400
MONTH_S = 30 * 86_400
NORMAL = (NumberClass.GEOGRAPHIC, NumberClass.MOBILE, NumberClass.GEOGRAPHIC_OR_MOBILE)
OUTSIDE = [
    NumberClass.PREMIUM_RATE,
    NumberClass.SHARED_COST,
    NumberClass.TOLL_FREE,
    NumberClass.UAN,
    NumberClass.PERSONAL,
    NumberClass.PAGER,
    NumberClass.VOIP,
    NumberClass.VOICEMAIL,
    NumberClass.SATELLITE,
    NumberClass.GLOBAL_SERVICE,
    NumberClass.SHORT_CODE,
]


# --- K1: unlimited in the countries and for the period that were bought --------------------------


@pytest.mark.clause("K1", "allowed")
@pytest.mark.parametrize("number", [LONDON, MOBILE, BERLIN])
@pytest.mark.parametrize("used_s", [0, MONTH_S])
def test_countries_bought_are_covered_however_much_was_used(number: Number, used_s: int) -> None:
    found = dialled(KRYPTOTEL, number, used={"voice": used_s})
    assert found.told == (True, Reason.COVERED, "kryptotel K1")
    assert (found.allow.terms, found.allow.credit_hold_micros) == ((), 0)


@pytest.mark.clause("K1", "refused")
@pytest.mark.clause("K4", "refused")
@pytest.mark.parametrize("number", [PARIS, EITHER])
def test_other_countries_are_refused_without_credit(number: Number) -> None:
    assert dialled(KRYPTOTEL, number).told == (False, Reason.CREDIT_TOO_LOW, "kryptotel K4")


@pytest.mark.clause("K1", "charged")
@pytest.mark.clause("K4", "charged")
@pytest.mark.parametrize("number", [PARIS, EITHER])
def test_other_countries_are_paid_from_credit(number: Number) -> None:
    found = dialled(KRYPTOTEL, number, credit=RICH)
    assert found.told == (True, Reason.BY_CREDIT, "kryptotel K4")
    assert [terms.mode for terms in found.allow.terms] == [Mode.CREDIT]


@pytest.mark.clause("K1", "allowed")
def test_the_period_bought_covers_its_last_millisecond() -> None:
    running = Options(frozenset({"GB"}), until_ms=NOON_MS + 1)
    assert dialled(KRYPTOTEL, LONDON, options=running).told == (True, Reason.COVERED, "kryptotel K1")


@pytest.mark.clause("K1", "refused")
def test_after_the_period_bought_credit_pays_or_nothing_does() -> None:
    over = Options(frozenset({"GB"}), until_ms=NOON_MS)
    assert dialled(KRYPTOTEL, LONDON, options=over, credit=RICH).told == (
        True,
        Reason.BY_CREDIT,
        "kryptotel K4",
    )
    assert dialled(KRYPTOTEL, LONDON, options=over).told == (False, Reason.CREDIT_TOO_LOW, "kryptotel K4")


# --- K2: special numbers -------------------------------------------------------------------------


@pytest.mark.clause("K2", "allowed")
@pytest.mark.parametrize("number_class", NORMAL)
def test_normal_classes_are_covered(number_class: NumberClass) -> None:
    assert dialled(KRYPTOTEL, number_of_class(number_class)).told == (True, Reason.COVERED, "kryptotel K1")


@pytest.mark.clause("K2", "refused")
@pytest.mark.parametrize("number_class", OUTSIDE)
@pytest.mark.parametrize("euros", [0, 1000])
def test_special_classes_are_refused_whatever_the_credit(number_class: NumberClass, euros: int) -> None:
    found = dialled(KRYPTOTEL, number_of_class(number_class), credit=eur(euros * 1_000_000))
    assert found.told == (False, Reason.CLASS_NOT_COVERED, "kryptotel K2")


@pytest.mark.clause("K2", "refused")
def test_a_premium_number_is_refused_though_the_card_has_its_price() -> None:
    assert dialled(KRYPTOTEL, PREMIUM, credit=RICH).told == (
        False,
        Reason.CLASS_NOT_COVERED,
        "kryptotel K2",
    )


# --- K3: four hours ------------------------------------------------------------------------------


@pytest.mark.clause("K3", "cut")
@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (LONDON, Kind.OUTBOUND),
        (PARIS, Kind.OUTBOUND),  # on credit
        (LONDON, Kind.INBOUND),
        (COLLEAGUE, Kind.INTERNAL),
    ],
)
def test_every_call_ends_after_four_hours(number: Number, kind: Kind) -> None:
    found = dialled(KRYPTOTEL, number, kind, credit=RICH)
    assert (found.allow.granted_s, found.allow.limit_s) == (FOUR_HOURS_S, FOUR_HOURS_S)


@pytest.mark.clause("K3", "cut")
def test_the_four_hours_are_told_with_their_clause() -> None:
    rules = [(rule.rule, rule.clause, rule.result) for rule in dialled(KRYPTOTEL, LONDON).explained]
    assert ("longest_call", "K3", "at most 14400 s") in rules


@pytest.mark.clause("K3", "allowed")
def test_after_four_hours_the_number_may_be_dialled_again() -> None:
    again = dialled(KRYPTOTEL, LONDON, used={"voice": FOUR_HOURS_S}, at_ms=NOON_MS + FOUR_HOURS_S * 1000)
    assert again.told == (True, Reason.COVERED, "kryptotel K1")
    assert again.allow.granted_s == FOUR_HOURS_S


# --- K4: credit ----------------------------------------------------------------------------------


@pytest.mark.clause("K4", "charged")
def test_each_dial_owes_the_connection_fee_again() -> None:
    [terms] = dialled(KRYPTOTEL, PARIS, credit=RICH).allow.terms
    # 0.05 to connect + 2 begun minutes of 0.02 = 0.09.
    assert whole_micros(terms, 61) == whole_micros(terms, 120) == 90_000
    # The same two minutes in two calls: 2 x (0.05 + 0.02) = 0.14.
    assert 2 * whole_micros(terms, 60) == 140_000
    # Four hours: 0.05 + 240 x 0.02 = 4.85; a dial that nobody answers: nothing.
    assert (whole_micros(terms, FOUR_HOURS_S), whole_micros(terms, 0)) == (4_850_000, 0)


@pytest.mark.clause("K4", "charged")
def test_what_the_longest_call_can_cost_is_reserved_before_it() -> None:
    # 0.05 + 240 x 0.02 = 4.85; a slice of a minute more must stay free for another call.
    found = dialled(KRYPTOTEL, PARIS, credit=eur(4_870_000))
    assert (found.allow.granted_s, found.allow.credit_hold_micros) == (FOUR_HOURS_S, 4_850_000)


@pytest.mark.clause("K4", "cut")
def test_the_last_minute_that_credit_pays_for_is_granted_whole_and_no_second_more() -> None:
    # 0.05 + 0.02 = 0.07 pays for one begun minute.
    found = dialled(KRYPTOTEL, PARIS, credit=eur(70_000))
    assert (found.allow.granted_s, found.allow.credit_hold_micros) == (60, 70_000)


@pytest.mark.clause("K4", "refused")
def test_a_micro_less_than_the_first_minute_refuses() -> None:
    assert dialled(KRYPTOTEL, PARIS, credit=eur(69_999)).told == (
        False,
        Reason.CREDIT_TOO_LOW,
        "kryptotel K4",
    )


@pytest.mark.clause("K4", "refused")
def test_a_country_without_a_rate_is_refused() -> None:
    nowhere = Options(frozenset())
    assert dialled(KRYPTOTEL, BERLIN, options=nowhere, credit=RICH).told == (
        False,
        Reason.NO_RATE,
        "kryptotel K4",
    )


@pytest.mark.clause("K4", "free")
def test_what_the_subscription_covers_costs_no_credit() -> None:
    found = dialled(KRYPTOTEL, LONDON, credit=RICH, options=GB_AND_DE)
    assert (found.allow.credit_hold_micros, found.allow.terms) == (0, ())


# --- K6: reverse charge --------------------------------------------------------------------------


@pytest.mark.clause("K6", "allowed")
@pytest.mark.clause("K6", "cut")
def test_a_reverse_charge_call_is_granted_an_hour_and_no_more() -> None:
    found = dialled(KRYPTOTEL, LONDON, Kind.COLLECT)
    assert (found.allow.granted_s, found.allow.limit_s) == (3600, 3600)
    rules = [(rule.rule, rule.clause, rule.result) for rule in found.explained]
    assert ("longest_call", "K6", "at most 3600 s") in rules


@pytest.mark.clause("K2", "refused")
def test_a_reverse_charge_call_to_a_premium_number_is_refused() -> None:
    assert dialled(KRYPTOTEL, PREMIUM, Kind.COLLECT).told == (
        False,
        Reason.CLASS_NOT_COVERED,
        "kryptotel K2",
    )


# --- K12: standing -------------------------------------------------------------------------------


@pytest.mark.clause("K12", "refused")
@pytest.mark.parametrize("kind", [Kind.OUTBOUND, Kind.INBOUND, Kind.INTERNAL, Kind.COLLECT])
@pytest.mark.parametrize(
    ("standing", "reason"),
    [
        (Standing.SUSPENDED, Reason.ACCOUNT_SUSPENDED),
        (Standing.TERMINATED, Reason.ACCOUNT_TERMINATED),
    ],
)
def test_suspended_or_terminated_accounts_have_no_calls(
    kind: Kind, standing: Standing, reason: Reason
) -> None:
    found = dialled(KRYPTOTEL, LONDON, kind, standing=standing, credit=RICH)
    assert found.told == (False, reason, "kryptotel K12")


@pytest.mark.clause("K12", "allowed")
@pytest.mark.parametrize("kind", [Kind.OUTBOUND, Kind.INBOUND, Kind.INTERNAL, Kind.COLLECT])
def test_an_account_in_good_standing_has_its_calls(kind: Kind) -> None:
    assert dialled(KRYPTOTEL, LONDON, kind, standing=Standing.ACTIVE).told[0]
