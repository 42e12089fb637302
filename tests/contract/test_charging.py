"""What use costs, for every store: past an allowance, on prepaid credit, and what stays free (K1, K4, R1, R3, V2)."""

import asyncio
from dataclasses import replace

import pytest

from fairdial.ledger.contract import AlreadyExists, ConstraintViolated, Ledger, LoadedCard, NotFound
from fairdial.policy.account import Account, Credit, Kind, Line, Options, Standing
from fairdial.policy.decide import Allow
from fairdial.policy.outcomes import Reason
from fairdial.policy.sizing import GrantRules
from fairdial.policy.terms import Clause, Mode
from tests.charges import BERLIN, CARD_TEXT, FEE, LONDON, PARIS, PER_S, PREMIUM, UNIT, Counter, priced_plan
from tests.contract.conftest import Store
from tests.samples import MONTH_END_MS, NOON_MS

ON_CREDIT = priced_plan(countries='["GB"]', longest_s=14_400)
"""London is included; Paris and premium numbers are paid from credit."""


@pytest.fixture
async def counter(ledger: Ledger) -> Counter:
    """An account on a plan of 2,400 minutes past which calls are charged."""
    counter = Counter(ledger, priced_plan())
    await counter.open_account()
    return counter


@pytest.fixture
async def credit(ledger: Ledger) -> Counter:
    """An account without credit, on a plan beyond which calls are paid from credit."""
    counter = Counter(ledger, ON_CREDIT)
    await counter.open_account()
    return counter


# --- past the allowance --------------------------------------------------------------------------


@pytest.mark.clause("R3", "charged")
@pytest.mark.clause("R1", "charged")
async def test_what_fits_into_the_allowance_is_included_and_the_rest_is_charged(counter: Counter) -> None:
    await counter.talk("earlier", 2_399 * 60 + 30)
    assert await counter.charges() == {}
    assert (await counter.allow("last")).reason is Reason.WITHIN_ALLOWANCE
    await counter.settle("last", 90)
    assert await counter.charged() == {"last": (60, 60 * PER_S)}
    assert await counter.meters() == [("voice", 144_000, 0, 60)]


@pytest.mark.clause("R3", "free")
async def test_a_call_to_the_last_second_of_the_allowance_is_free(counter: Counter) -> None:
    await counter.talk("earlier", 143_970)
    await counter.talk("last", 30)
    assert await counter.charges() == {}
    past = await counter.allow("past")
    assert (past.reason, past.clause) == (Reason.PAST_ALLOWANCE, Clause("plan", "1", "C7"))
    await counter.settle("past", 1)
    assert await counter.charged() == {"past": (1, PER_S)}


async def test_a_charge_says_where_it_comes_from(counter: Counter) -> None:
    counter.use(priced_plan(limit_s=0))
    await counter.talk("call-1", 7)
    charge = (await counter.charges())["call-1"]
    assert (charge.mode, charge.currency, charge.at_ms) == (Mode.OVERAGE, "EUR", NOON_MS + 7_000)
    assert (charge.rate, charge.clause) == ("charges.overage_per_min", Clause("plan", "1", "C7"))


async def test_an_unanswered_call_past_the_allowance_is_free(counter: Counter) -> None:
    counter.use(priced_plan(limit_s=0, charges='connect_fee = "0.10"'))
    await counter.allow()
    await counter.settle("call-1", 0)
    assert await counter.charges() == {}


async def test_settling_again_changes_nothing(counter: Counter, ledger: Ledger) -> None:
    counter.use(priced_plan(limit_s=30))
    await counter.talk("call-1", 90)
    before = await ledger.sheet("acme")
    again = await ledger.settle("call-1", 900, NOON_MS + 900_000)
    assert (again.used_s, again.ended_ms) == (90, NOON_MS + 90_000)
    await ledger.release("call-1")
    assert await ledger.sheet("acme") == before
    assert await counter.charged() == {"call-1": (60, 60 * PER_S)}


@pytest.mark.parametrize("first", ["one", "two"])
async def test_two_calls_at_once_on_the_last_seconds_use_each_of_them_once(
    counter: Counter, first: str
) -> None:
    counter.use(priced_plan(limit_s=30))
    for call_id in ("one", "two"):
        assert (await counter.allow(call_id)).reason is Reason.WITHIN_ALLOWANCE
    counter.clock.forward(20_000)
    await counter.settle(first, 20)
    assert await counter.charges() == {}  # ten seconds were left
    second = "two" if first == "one" else "one"
    await counter.settle(second, 20)
    assert await counter.charged() == {second: (10, 10 * PER_S)}
    assert await counter.meters() == [("voice", 30, 0, 10)]


async def test_many_calls_at_once_are_charged_for_no_second_while_one_is_left(counter: Counter) -> None:
    counter.use(priced_plan(limit_s=30))
    calls = [f"call-{number}" for number in range(20)]
    await asyncio.gather(*(counter.allow(call_id) for call_id in calls))
    await asyncio.gather(*(counter.settle(call_id, 4) for call_id in calls))
    assert await counter.meters() == [("voice", 30, 0, 50)]
    assert sum(charged_s for charged_s, _ in (await counter.charged()).values()) == 50


@pytest.mark.clause("R2", "charged")
async def test_a_call_from_a_used_up_month_into_a_new_one_is_charged_for_the_first_part(
    counter: Counter,
) -> None:
    counter.use(priced_plan(limit_s=100, charges='connect_fee = "0.10"'))
    await counter.talk("earlier", 100)
    counter.at(MONTH_END_MS - 20_000)
    assert (await counter.allow("over-the-end")).reason is Reason.PAST_ALLOWANCE
    await counter.desk.answered("over-the-end", "leg", counter.clock.now())
    counter.clock.forward(60_000)
    await counter.settle("over-the-end", 60)
    # It began past the allowance, so it owes the connection fee.
    assert await counter.charged() == {"over-the-end": (20, 20 * PER_S + FEE)}
    assert await counter.meters() == [("voice", 100, 0, 20), ("voice", 40, 0, 0)]


async def test_a_call_that_passes_the_allowance_in_each_month_is_charged_for_both(counter: Counter) -> None:
    counter.use(priced_plan(limit_s=15, charges='connect_fee = "0.10"'))
    counter.at(MONTH_END_MS - 20_000)
    await counter.talk("call-1", 60)
    assert await counter.charged() == {"call-1": (5 + 25, 30 * PER_S)}  # it began included: no fee
    assert await counter.meters() == [("voice", 15, 0, 5), ("voice", 15, 0, 25)]


async def test_a_second_past_two_allowances_is_charged_once_and_one_past_either_is_charged(
    counter: Counter,
) -> None:
    daily = """
[[allowances]]
name = "daily"
limit_s = {limit_s}
period = "day"
counts = ["outbound"]
used_up = "overage"
clause = "C8"
"""
    counter.use(priced_plan(limit_s=10, more=daily.format(limit_s=20)))
    await counter.talk("both", 25)
    assert await counter.charged() == {"both": (15, 15 * PER_S)}
    # The month's last second is past its allowance, and what follows midnight past the new day's.
    counter.use(priced_plan(limit_s=30, more=daily.format(limit_s=20)))
    counter.at(MONTH_END_MS - 21_000)
    await counter.talk("either", 45)
    charged_s, _ = (await counter.charged())["either"]
    # November has 20 s left of the month and the day has 20: second 20 is past both. December: 24 s, past
    # the day's 20 but within the month's 30.
    assert charged_s == 1 + 4


async def test_a_lowered_limit_below_what_is_used_charges_the_next_call_whole(counter: Counter) -> None:
    await counter.talk("earlier", 100)
    counter.use(priced_plan(limit_s=50))
    assert (await counter.allow("next")).reason is Reason.PAST_ALLOWANCE
    await counter.settle("next", 10)
    assert await counter.charged() == {"next": (10, 10 * PER_S)}
    counter.use(priced_plan(limit_s=105))
    await counter.talk("raised", 10)
    assert (await counter.charged())["raised"] == (5, 5 * PER_S)


async def test_an_allowance_that_refused_and_then_charges_frees_what_a_live_call_holds(
    counter: Counter, ledger: Ledger
) -> None:
    counter.use(priced_plan(limit_s=60, used_up="refuse"))
    granted_s = (await counter.allow("call-1")).granted_s
    assert granted_s == 15
    await counter.desk.answered("call-1", "leg", counter.clock.now())
    counter.use(priced_plan(limit_s=60))
    await counter.allow("call-2")
    renewed = await counter.desk.renew("call-1", 5_000)
    assert (renewed.granted_s or 0) > granted_s
    await counter.settle("call-2", 50)
    # 15 of the 60 s were reserved by the call that began under the refusing plan.
    assert await counter.charged() == {"call-2": (5, 5 * PER_S)}
    await counter.settle("call-1", 40)
    # It was never told a price, so it is not charged.
    assert await counter.charged() == {"call-2": (5, 5 * PER_S)}
    assert await counter.meters() == [("voice", 60, 0, 30)]
    assert await ledger.live_grants() == ()


@pytest.mark.clause("R1", "free")
async def test_each_line_has_its_own_allowance_where_the_plan_says_so(counter: Counter) -> None:
    counter.use(priced_plan(limit_s=30, scope="line"))
    await counter.open_account("alice", "anna")
    await counter.talk("alice-1", 30)
    await counter.talk("anna-1", 30, line="anna")
    assert await counter.charges() == {}
    await counter.talk("alice-2", 5)
    assert await counter.charged() == {"alice-2": (5, 5 * PER_S)}
    assert await counter.meters() == [("voice/alice", 30, 0, 5), ("voice/anna", 30, 0, 0)]


@pytest.mark.clause("V1", "charged")
async def test_lines_share_an_allowance_of_the_account(counter: Counter) -> None:
    counter.use(priced_plan(limit_s=30))
    await counter.open_account("alice", "anna")
    await counter.talk("alice-1", 30)
    await counter.talk("anna-1", 30, line="anna")
    assert await counter.charged() == {"anna-1": (30, 30 * PER_S)}


async def test_a_refusing_allowance_beside_a_charged_one_still_ends_calls(counter: Counter) -> None:
    daily = (
        '[[allowances]]\nname = "daily"\nlimit_s = 40\nperiod = "day"\ncounts = ["outbound"]\nclause = "C8"'
    )
    counter.use(priced_plan(limit_s=10, more=daily))
    assert (await counter.allow("call-1")).granted_s == 10
    assert (await counter.desk.renew("call-1", 5_000)).granted_s == 20
    await counter.settle("call-1", 20)
    assert await counter.charged() == {"call-1": (10, 10 * PER_S)}
    await counter.allow("call-2")
    assert (await counter.desk.renew("call-2", 5_000)).granted_s == 20
    await counter.settle("call-2", 99)
    assert (await counter.charged())["call-2"] == (20, 20 * PER_S)
    assert await counter.refuse("call-3") == (Reason.ALLOWANCE_USED_UP, "C8")


async def test_billing_cycles_begin_on_the_day_that_was_bought(ledger: Ledger) -> None:
    counter = Counter(ledger, priced_plan(limit_s=30, period="cycle"))
    await counter.open_account(options=Options(cycle_day=25))
    await counter.talk("before", 30)
    await counter.talk("past", 5)
    counter.at(MONTH_END_MS - 6 * 86_400_000)  # the 25th, 00:00
    await counter.talk("new-cycle", 30)
    counter.at(MONTH_END_MS + 1_000)  # a new month, in the same cycle
    await counter.talk("past-again", 5)
    assert await counter.charged() == {"past": (5, 5 * PER_S), "past-again": (5, 5 * PER_S)}


# --- prepaid credit ------------------------------------------------------------------------------


async def test_credit_is_reserved_settled_and_the_rest_given_back(credit: Counter) -> None:
    await credit.pay_in(200 * UNIT)
    allow = await credit.allow("call-1", PARIS)
    assert (allow.reason, allow.clause.id, allow.granted_s, allow.holds) == (
        Reason.BY_CREDIT,
        "C3",
        14_400,
        (),
    )
    assert await credit.credit() == (200 * UNIT, FEE + 14_400 * PER_S)
    await credit.settle("call-1", 61)
    assert await credit.credit() == (200 * UNIT - FEE - 120 * PER_S, 0)
    charge = (await credit.charges())["call-1"]
    assert (charge.mode, charge.charged_units, charge.amount_micros) == (Mode.CREDIT, 61, FEE + 120 * PER_S)
    assert charge.rate == "+33 (France, line 4, from 2026-01-01T00:00Z)"
    assert charge.clause == Clause("plan", "1", "C3")


@pytest.mark.clause("K4", "free")
async def test_what_the_plan_covers_costs_no_credit(credit: Counter) -> None:
    await credit.pay_in(UNIT)
    await credit.talk("call-1", 60)
    assert await credit.credit() == (UNIT, 0)
    assert await credit.charges() == {}


@pytest.mark.clause("K4", "charged")
async def test_the_connection_fee_is_owed_on_each_redial_and_for_no_unanswered_call(credit: Counter) -> None:
    await credit.pay_in(10 * UNIT)
    for number in range(3):
        await credit.talk(f"call-{number}", 60, PARIS)
    await credit.allow("unanswered", PARIS)
    await credit.settle("unanswered", 0)
    assert await credit.credit() == (10 * UNIT - 3 * (FEE + 60 * PER_S), 0)
    assert set(await credit.charges()) == {"call-0", "call-1", "call-2"}


@pytest.mark.clause("K4", "refused")
async def test_a_call_is_refused_where_credit_pays_for_no_increment(credit: Counter) -> None:
    too_low = (Reason.CREDIT_TOO_LOW, "C3")
    assert await credit.refuse("none", PARIS) == too_low
    await credit.pay_in(FEE + 60 * PER_S - 1)
    assert await credit.refuse("a micro short", PARIS) == too_low
    await credit.pay_in(1, "payment-2")
    # The minute is paid for, so all of it is granted.
    assert (await credit.allow("call-1", PARIS)).granted_s == 60
    assert await credit.refuse("all reserved", PARIS) == too_low
    await credit.settle("call-1", 60)
    assert await credit.credit() == (0, 0)


async def test_a_call_without_a_rate_is_refused(credit: Counter) -> None:
    await credit.pay_in(10 * UNIT)
    assert await credit.refuse("call-1", BERLIN) == (Reason.NO_RATE, "C3")
    credit.desk.cards = {}
    assert await credit.refuse("call-2", PARIS) == (Reason.NO_RATE, "C3")


async def test_credit_in_another_currency_than_the_card_pays_for_nothing(credit: Counter) -> None:
    await credit.pay_in(10 * UNIT, currency="USD")
    assert await credit.refuse("call-1", PARIS) == (Reason.NO_RATE, "C3")
    await credit.allow("call-2", LONDON)


async def test_classes_outside_the_plan_are_paid_from_credit_or_refused(
    credit: Counter, ledger: Ledger
) -> None:
    await credit.pay_in(100 * UNIT)
    await credit.talk("paid", 60, PREMIUM)
    assert await credit.charged() == {"paid": (60, 7 * UNIT)}
    credit.use(priced_plan(countries='["GB"]', classes='["geographic"]'))
    assert await credit.refuse("refused", PREMIUM) == (Reason.CLASS_NOT_COVERED, "C1")
    await credit.allow("abroad", PARIS)
    credit.use(priced_plan(countries='["GB"]', uncovered="refuse"))
    assert await credit.refuse("refused too", PARIS) == (Reason.COUNTRY_NOT_COVERED, "C2")


@pytest.mark.clause("K4", "cut")
async def test_a_renewal_extends_grant_and_hold_and_ends_where_the_credit_does(credit: Counter) -> None:
    await credit.pay_in(2 * UNIT)
    credit.use(priced_plan(countries='["DE"]', longest_s=14_400))
    first = await credit.allow("call-2")
    assert first.granted_s == 47  # a quarter of the 190 s that 1.90 pays for after the fee
    assert await credit.credit() == (2 * UNIT, FEE + 47 * PER_S)
    grants = [47]
    for _ in range(20):
        grant = await credit.desk.renew("call-2", 5_000)
        grants.append(grant.granted_s or 0)
        assert await credit.credit() == (2 * UNIT, FEE + grants[-1] * PER_S)
        assert grant.credit_hold_micros == FEE + grants[-1] * PER_S
    assert sorted(grants) == grants
    assert grants[-1] == 190
    await credit.pay_in(PER_S * 5, "payment-2")
    assert (await credit.desk.renew("call-2", 5_000)).granted_s == 195
    await credit.settle("call-2", 195)
    assert await credit.credit() == (0, 0)


@pytest.mark.clause("K3", "cut")
async def test_a_renewal_never_passes_the_longest_call(credit: Counter) -> None:
    credit.use(priced_plan(countries='["DE"]', longest_s=100))
    await credit.pay_in(FEE + 110 * PER_S)
    await credit.allow("call-1")
    for _ in range(20):
        grant = await credit.desk.renew("call-1", 5_000)
    assert grant.granted_s == 100
    assert await credit.credit() == (FEE + 110 * PER_S, FEE + 100 * PER_S)


@pytest.mark.clause("K12", "cut")
async def test_a_suspended_account_gets_no_renewal(credit: Counter, ledger: Ledger) -> None:
    credit.use(priced_plan(countries='["DE"]'))
    await credit.pay_in(2 * UNIT)
    await credit.allow("call-1")
    await ledger.set_standing("acme", Standing.SUSPENDED, NOON_MS)
    assert (await credit.desk.renew("call-1", 5_000)).granted_s == 47
    await ledger.set_standing("acme", Standing.ACTIVE, NOON_MS)
    assert ((await credit.desk.renew("call-1", 5_000)).granted_s or 0) > 47


@pytest.mark.clause("S4", "cut")
async def test_a_call_of_a_service_that_was_restricted_gets_no_renewal(
    credit: Counter, ledger: Ledger
) -> None:
    credit.use(priced_plan(countries='["DE"]'))
    await credit.pay_in(2 * UNIT)
    await credit.allow("call-1")
    await ledger.restrict("acme", {Kind.OUTBOUND}, NOON_MS)
    assert (await credit.desk.renew("call-1", 5_000)).granted_s == 47
    await ledger.restrict("acme", {Kind.OUTBOUND}, NOON_MS, lift=True)
    assert ((await credit.desk.renew("call-1", 5_000)).granted_s or 0) > 47


async def test_the_charge_never_passes_what_was_reserved(credit: Counter) -> None:
    await credit.pay_in(FEE + 60 * PER_S)
    await credit.allow("call-1", PARIS)
    await credit.settle("call-1", 4_000)  # the end was seen late
    assert await credit.credit() == (0, 0)
    assert await credit.charged() == {"call-1": (60, FEE + 60 * PER_S)}


async def test_an_estimated_settlement_is_charged_like_another_and_marked(
    credit: Counter, ledger: Ledger
) -> None:
    await credit.pay_in(10 * UNIT)
    await credit.allow("call-1", PARIS)
    await credit.desk.settle("call-1", 30, credit.clock.now(), estimated=True)
    grant = await ledger.grant("call-1")
    assert grant is not None
    assert grant.estimated
    assert await credit.charged() == {"call-1": (30, FEE + 60 * PER_S)}
    assert await credit.credit() == (10 * UNIT - FEE - 60 * PER_S, 0)


async def test_a_released_dial_gives_its_hold_back_and_an_answered_one_keeps_it(
    credit: Counter, ledger: Ledger
) -> None:
    await credit.pay_in(FEE * 2 + 120 * PER_S)
    await credit.allow("ringing", PARIS)
    await ledger.release("ringing")
    assert await credit.credit() == (FEE * 2 + 120 * PER_S, 0)
    await credit.allow("talking", PARIS)
    held = await credit.credit()
    await credit.desk.answered("talking", "leg", credit.clock.now())
    await ledger.release("talking")
    assert await credit.credit() == held
    assert await credit.charges() == {}


async def test_a_negative_use_is_refused_and_changes_nothing(credit: Counter, ledger: Ledger) -> None:
    await credit.pay_in(10 * UNIT)
    await credit.allow("call-1", PARIS)
    before = await ledger.sheet("acme")
    with pytest.raises(ConstraintViolated, match="cannot have used -1 s"):
        await credit.settle("call-1", -1)
    assert await ledger.sheet("acme") == before
    assert len(await ledger.live_grants()) == 1


async def test_the_same_dial_again_reserves_once(credit: Counter) -> None:
    await credit.pay_in(10 * UNIT)
    verdicts = await asyncio.gather(*(credit.dial("call-1", PARIS) for _ in range(20)))
    assert all(verdict.decision == verdicts[0].decision for verdict in verdicts)
    assert isinstance(verdicts[0].decision, Allow)
    assert (await credit.credit())[1] == verdicts[0].decision.credit_hold_micros > 0


async def test_a_used_up_allowance_is_followed_by_credit_where_the_plan_says_so(ledger: Ledger) -> None:
    credit = Counter(ledger, priced_plan(limit_s=30, used_up="credit"), rules=GrantRules(30, 30))
    await credit.open_account()
    await credit.pay_in(10 * UNIT)
    first = await credit.allow("call-1")
    assert (first.reason, first.credit_hold_micros) == (Reason.WITHIN_ALLOWANCE, 0)
    await credit.settle("call-1", 30)
    await credit.talk("call-2", 10)
    assert await credit.charged() == {"call-2": (10, FEE + 10 * PER_S)}
    assert (await credit.charges())["call-2"].clause.id == "C5"
    credit.use(priced_plan(limit_s=30, used_up="refuse"))
    assert await credit.refuse("call-3") == (Reason.ALLOWANCE_USED_UP, "C5")


async def test_a_hundred_dials_at_once_share_a_small_credit(credit: Counter, ledger: Ledger) -> None:
    rules = GrantRules(useful_s=10, slice_s=60)
    counter = Counter(ledger, priced_plan(countries='["DE"]', longest_s=3_600), rules=rules)
    balance = 5 * UNIT
    await counter.pay_in(balance)
    verdicts = await asyncio.gather(*(counter.dial(f"call-{number}") for number in range(100)))
    allowed = [verdict.decision for verdict in verdicts if isinstance(verdict.decision, Allow)]
    refused = {verdict.decision.reason for verdict in verdicts if not isinstance(verdict.decision, Allow)}
    held = sum(allow.credit_hold_micros for allow in allowed)
    assert refused == {Reason.CREDIT_TOO_LOW}
    assert await counter.credit() == (balance, held)
    # None is refused while the fee and a second more are free; all but the last get what is useful.
    assert 0 <= balance - held < FEE + PER_S
    assert sorted(allow.granted_s or 0 for allow in allowed)[1] >= rules.useful_s
    assert len(allowed) >= 10
    await asyncio.gather(
        *(counter.settle(grant.call_id, grant.granted_s or 0) for grant in await ledger.live_grants())
    )
    assert await counter.credit() == (balance - held, 0)


# --- adding credit -------------------------------------------------------------------------------


async def test_credit_is_added_once_for_each_reference(credit: Counter, ledger: Ledger) -> None:
    assert await credit.pay_in(UNIT) == Credit("EUR", UNIT)
    assert await credit.pay_in(UNIT) == Credit("EUR", UNIT)
    await asyncio.gather(*(credit.pay_in(UNIT, "payment-2") for _ in range(10)))
    assert await credit.credit() == (2 * UNIT, 0)
    with pytest.raises(AlreadyExists, match="'payment-1' was used for another amount"):
        await credit.pay_in(2 * UNIT)
    assert await credit.credit() == (2 * UNIT, 0)


async def test_a_reference_may_be_that_of_a_call(credit: Counter) -> None:
    await credit.pay_in(10 * UNIT, "call-1")
    await credit.talk("call-1", 60, PARIS)
    charge = FEE + 60 * PER_S
    assert await credit.credit() == (10 * UNIT - charge, 0)
    await credit.talk("call-2", 60, PARIS)
    assert await credit.pay_in(-charge, "call-2") == Credit("EUR", 10 * UNIT - 3 * charge)


async def test_only_what_is_free_can_be_taken_back(credit: Counter) -> None:
    await credit.pay_in(FEE + 60 * PER_S + 5)
    await credit.allow("call-1", PARIS)
    with pytest.raises(ConstraintViolated, match=r"has 0\.000005 EUR that no call reserves"):
        await credit.pay_in(-6, "back-1")
    assert await credit.pay_in(-5, "back-1") == Credit("EUR", FEE + 60 * PER_S, FEE + 60 * PER_S)
    await credit.settle("call-1", 0)
    with pytest.raises(ConstraintViolated):
        await credit.pay_in(-FEE - 60 * PER_S - 1, "back-2")
    assert (await credit.pay_in(-FEE - 60 * PER_S, "back-2")).balance_micros == 0


async def test_credit_cannot_begin_below_zero(credit: Counter, ledger: Ledger) -> None:
    with pytest.raises(ConstraintViolated):
        await credit.pay_in(-1)
    assert (await ledger.sheet("acme")).credit is None


@pytest.mark.parametrize(
    ("currency", "words"),
    [("USD", "holds EUR; give the amount in that, not USD"), ("EURO", "not an ISO 4217")],
)
async def test_another_currency_is_refused(credit: Counter, currency: str, words: str) -> None:
    await credit.pay_in(UNIT)
    with pytest.raises(ValueError, match=words):
        await credit.pay_in(UNIT, "payment-2", currency)
    assert await credit.credit() == (UNIT, 0)


async def test_credit_needs_an_account(ledger: Ledger) -> None:
    with pytest.raises(NotFound, match="no account 'acme'"):
        await ledger.add_credit("acme", "EUR", UNIT, "payment-1", NOON_MS)


async def test_credit_belongs_to_one_account(credit: Counter, ledger: Ledger) -> None:
    await credit.pay_in(UNIT)
    await ledger.add_account(Account("other", "plan"))
    # The same reference of another account is another payment.
    assert await ledger.add_credit("other", "USD", 5, "payment-1", NOON_MS) == Credit("USD", 5)
    assert await credit.credit() == (UNIT, 0)


# --- subscriptions and cards ---------------------------------------------------------------------


async def test_a_call_keeps_its_terms_when_the_subscription_changes(credit: Counter, ledger: Ledger) -> None:
    other = priced_plan(name="other", limit_s=0, charges='connect_fee = "5"')
    credit.use(ON_CREDIT, other)
    await credit.pay_in(10 * UNIT)
    await credit.allow("before", PARIS)
    options = Options(frozenset({"FR"}), MONTH_END_MS, 15)
    account = await ledger.subscribe("acme", "other", options)
    assert (account.policy, account.options) == ("other", options)
    assert await ledger.accounts() == (account,)
    assert (await ledger.sheet("acme")).account == account
    await credit.settle("before", 60)
    await credit.talk("after", 60, PARIS)
    assert {
        call: (charge.mode, charge.amount_micros) for call, charge in (await credit.charges()).items()
    } == {
        "before": (Mode.CREDIT, FEE + 60 * PER_S),
        "after": (Mode.OVERAGE, 5 * UNIT + 60 * PER_S),
    }


async def test_a_call_keeps_its_price_when_a_card_is_replaced(credit: Counter) -> None:
    await credit.pay_in(10 * UNIT)
    await credit.allow("before", PARIS)
    credit.desk.cards = {}
    assert (await credit.desk.renew("before", 5_000)).credit_hold_micros > 0
    await credit.settle("before", 60)
    assert await credit.charged() == {"before": (60, FEE + 60 * PER_S)}
    assert await credit.refuse("after", PARIS) == (Reason.NO_RATE, "C3")


async def test_only_an_account_that_exists_can_subscribe(ledger: Ledger) -> None:
    with pytest.raises(NotFound, match="no account 'acme'"):
        await ledger.subscribe("acme", "plan", Options())


async def test_cards_are_kept_by_name_and_replaced(ledger: Ledger) -> None:
    assert await ledger.cards() == ()
    rates, other = LoadedCard("rates", "EUR", CARD_TEXT), LoadedCard("abroad", "USD", "…")
    await ledger.load_card(rates, NOON_MS)
    await ledger.load_card(other, NOON_MS)
    assert await ledger.cards() == (other, rates)
    newer = replace(rates, currency="GBP", text=CARD_TEXT + "# newer\n")
    await ledger.load_card(newer, NOON_MS + 1)
    assert await ledger.cards() == (other, newer)


# --- the sheet, and durability -------------------------------------------------------------------


async def test_the_sheet_shows_charges_newest_first_and_of_its_account_alone(
    counter: Counter, ledger: Ledger
) -> None:
    counter.use(priced_plan(limit_s=0))
    await ledger.add_account(Account("other", "plan"))
    for call_id in ("one", "two", "three"):
        await counter.talk(call_id, 5)
    sheet = await ledger.sheet("acme")
    assert [charge.call_id for charge in sheet.charges] == ["three", "two", "one"]
    assert sheet.credit is None
    assert (await ledger.sheet("other")).charges == ()


async def test_charges_credit_and_terms_are_there_after_opening_again(store: Store) -> None:
    ledger = await store.open()
    counter = Counter(ledger, ON_CREDIT)
    await counter.open_account(options=Options(frozenset({"GB", "DE"}), NOON_MS, 31))
    await counter.pay_in(10 * UNIT)
    await ledger.load_card(LoadedCard("rates", "EUR", CARD_TEXT), NOON_MS)
    await counter.talk("settled", 60, PARIS)
    await counter.allow("live", PARIS)
    before = (await ledger.sheet("acme"), await ledger.live_grants(), await ledger.cards())
    await ledger.close()
    again = await store.open()
    assert (await again.sheet("acme"), await again.live_grants(), await again.cards()) == before
    reopened = Counter(again, ON_CREDIT)
    await reopened.settle("live", 60)
    assert (await reopened.charged())["live"] == (60, FEE + 60 * PER_S)
    assert await reopened.credit() == (10 * UNIT - 2 * FEE - 120 * PER_S, 0)
    await again.close()


# --- however a call is sliced --------------------------------------------------------------------


DAILY = '[[allowances]]\nname = "day"\nlimit_s = 600\nperiod = "day"\ncounts = ["outbound"]\nclause = "C8"'
SLICED = {
    "credit": priced_plan(countries='["DE"]', longest_s=300),
    "overage": priced_plan(100, charges='increment = "60/6"', more=DAILY),
}


@pytest.mark.parametrize("used_s", [1, 59, 61, 150, 299])
@pytest.mark.parametrize("plan", SLICED)
async def test_a_charge_does_not_depend_on_how_the_call_was_sliced(
    ledger: Ledger, plan: str, used_s: int
) -> None:
    bills, slices = set(), set()
    for rules in (GrantRules(1, 1), GrantRules(5, 7), GrantRules(60, 60), GrantRules(300, 300)):
        name = f"account-{rules.slice_s}"
        counter = Counter(ledger, SLICED[plan], rules=rules)
        await ledger.add_account(Account(name, "plan"))
        await ledger.add_line(Line(name, name))
        await ledger.add_credit(name, "EUR", 3_200_000, "payment", NOON_MS)
        granted_s = (await counter.allow(name, line=name)).granted_s or 0
        slices.add(granted_s)
        for _ in range(300):
            if granted_s >= used_s:
                break
            counter.clock.forward(1_000)
            granted_s = (await counter.desk.renew(name, 0)).granted_s or 0
        await counter.settle(name, used_s)
        sheet = await ledger.sheet(name)
        bills.add(tuple((charge.charged_units, charge.amount_micros) for charge in sheet.charges))
        assert all(usage.meter.reserved_units == 0 for usage in sheet.usage)
        assert sheet.credit is not None
        assert sheet.credit.reserved_micros == 0
    assert len(slices) > 1
    assert len(bills) == 1
