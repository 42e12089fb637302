"""Minute plans after overage month after month, for every store: proposed or added, charged, ended (R4)."""

import contextlib
from datetime import UTC, datetime
from typing import Any

import pytest

from fairdial.console.operations import Operations
from fairdial.console.statements import csv_beginning
from fairdial.cycles import Cycles
from fairdial.ledger.contract import Charge, Ledger, NotNow
from fairdial.policy.account import Options, Standing
from fairdial.policy.document import Policy
from fairdial.policy.outcomes import Reason
from fairdial.policy.periods import zone_named
from fairdial.policy.requests import RequestState
from fairdial.policy.sizing import GrantRules
from fairdial.policy.terms import Clause, Mode
from tests.charges import UNIT, Counter, priced_plan
from tests.contract.conftest import Store

PLANS = """
[[plans]]
name = "more"
allowance = "voice"
adds_s = 60
price = "5.00"
added = "{added}"
clause = "R4"
[[ladder]]
name = "minute-plan"
measure = "overage_months_in_a_row"
threshold = 3
window = "month"
step = "notice"
plan = "more"
clause = "R4"
"""
WHOLE = GrantRules(useful_s=10_000, slice_s=10_000)


def plan(added: str = "by_itself", **changes: Any) -> Policy:
    """100 seconds a month, then charged; after three such months 60 seconds more for 5.00 EUR a month."""
    return priced_plan(100, more=PLANS.format(added=added), **changes)


def month_ms(month: int, day: int = 1) -> int:
    """A day of a month of 2026, or of 2027 from 13 on; midnight UTC."""
    year, index = divmod(month - 1, 12)
    return int(datetime(2026 + year, index + 1, day, tzinfo=UTC).timestamp()) * 1000


class Account:
    """An account whose clock goes from month to month, and the rounds that look at it."""

    def __init__(self, ledger: Ledger, *policies: Policy) -> None:
        self.ledger = ledger
        self.counter = Counter(ledger, *policies, rules=WHOLE)
        self.operations = Operations(self.counter.desk)
        self.cycles = Cycles(ledger, lambda: self.counter.desk.policies, self.counter.clock)

    async def talk(self, month: int, used_s: int = 130, line: str = "alice", day: int = 10) -> None:
        """A call of `used_s` in that month."""
        self.counter.at(month_ms(month, day))
        await self.counter.talk(f"{line}-{month}-{day}", used_s, line=line)

    async def look(self, month: int, day: int = 1) -> None:
        """A round on that day."""
        self.counter.at(month_ms(month, day))
        await self.cycles.make()

    async def months(self, *months: int, used_s: int = 130) -> None:
        """Talk in each of them, with a round at the end of each."""
        for month in months:
            await self.talk(month, used_s)
            await self.look(month + 1)

    async def plans(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = await self.operations.call("request_list", {"account": "acme"})
        return [row for row in rows if row["plan"] is not None]

    async def prices(self) -> list[Charge]:
        """What plans cost, the first first."""
        charges = (await self.ledger.sheet("acme")).charges
        return sorted(
            (charge for charge in charges if charge.mode is Mode.PLAN), key=lambda charge: charge.at_ms
        )


@pytest.fixture
async def account(ledger: Ledger) -> Account:
    account = Account(ledger, plan())
    await account.counter.open_account("alice", "bob")
    return account


@pytest.mark.clause("R4", "free")
async def test_two_months_in_a_row_lead_to_nothing(account: Account) -> None:
    await account.months(1, 2)
    await account.months(3, used_s=100)
    await account.months(4, 5)
    assert await account.plans() == []
    assert await account.prices() == []


@pytest.mark.clause("R4", "charged")
async def test_three_months_in_a_row_add_the_plan_from_the_next_month_on(account: Account) -> None:
    await account.months(1, 2, 3)
    [added] = await account.plans()
    assert (added["state"], added["rule"], added["adds"], added["price"]) == (
        "approved",
        "allowances.voice",
        60,
        "5",
    )
    # Looked at on 1 April: April has begun, May is the next.
    assert (added["from_ms"], added["until_ms"]) == (month_ms(5), None)
    assert await account.prices() == []
    await account.look(5)
    account.counter.at(month_ms(5, 2))
    allow = await account.counter.allow("within")
    assert allow.reason is Reason.WITHIN_ALLOWANCE
    await account.counter.settle("within", 160)
    assert "within" not in await account.counter.charges()
    [price] = await account.prices()
    assert (price.call_id, price.request, price.at_ms) == (None, added["request"], month_ms(5))
    assert (price.amount_micros, price.currency, price.charged_units) == (5 * UNIT, "EUR", 60)
    assert (price.rate, price.clause) == ("plans.more", Clause("plan", "1", "R4"))
    period = {"account": "acme", "from_ms": month_ms(5), "until_ms": month_ms(6)}
    told = await account.operations.call("statement", period)
    assert told["adds_up"] is True
    assert [(each["request"], each["amount"], each["rate"]) for each in told["plan_charges"]] == [
        (added["request"], "5", "plans.more")
    ]
    assert told["owed"] == {"EUR": "5"}
    assert "plan" in csv_beginning(told["plan_charges"], zone_named("UTC"))
    before = await account.operations.call(
        "statement", {**period, "from_ms": month_ms(4), "until_ms": month_ms(5)}
    )
    assert before["plan_charges"] == []


@pytest.mark.clause("R4", "charged")
async def test_the_price_is_charged_once_for_each_month_however_often_it_is_looked_at(
    account: Account,
) -> None:
    await account.months(1, 2, 3)
    for month, day in ((5, 1), (5, 1), (5, 20), (6, 1), (6, 30), (7, 2)):
        await account.look(month, day)
    assert [price.at_ms for price in await account.prices()] == [month_ms(5), month_ms(6), month_ms(7)]


async def test_it_is_shown_in_usage_with_its_clause(account: Account) -> None:
    await account.months(1, 2, 3)
    [added] = await account.plans()
    await account.talk(5, 120)
    await account.cycles.make()
    shown = await account.operations.call("usage", {"account": "acme"})
    [price] = [charge for charge in shown["charges"] if charge["mode"] == "plan"]
    assert (price["call"], price["request"], price["amount"]) == (None, added["request"], "5")
    assert price["clause"]["id"] == "R4"
    usage = shown["usage"][0]
    assert (usage["limit_units"], usage["policy_units"], usage["requests"]) == (160, 100, [added["request"]])


@pytest.mark.clause("R4", "free")
async def test_a_plan_that_is_proposed_waits_for_an_answer(account: Account) -> None:
    account.counter.use(plan("when_accepted"))
    await account.months(1, 2, 3, 4, 5, 6)
    [proposed] = await account.plans()
    assert proposed["state"] == "open"
    assert await account.prices() == []
    answer = {"request": proposed["request"], "accept": True, "by": "Ann"}
    accepted = await account.operations.call("plan_answer", answer)
    assert (accepted["state"], accepted["from_ms"]) == ("approved", month_ms(8))
    await account.look(9, 2)
    assert [price.at_ms for price in await account.prices()] == [month_ms(8), month_ms(9)]


async def test_a_plan_that_was_declined_comes_again_after_three_further_months(account: Account) -> None:
    account.counter.use(plan("when_accepted"))
    await account.months(1, 2, 3)
    [proposed] = await account.plans()
    answer = {"request": proposed["request"], "accept": False, "by": "Ann"}
    assert (await account.operations.call("plan_answer", answer))["state"] == "declined"
    await account.months(4, 5)
    assert len(await account.plans()) == 1
    await account.months(6)
    assert [row["state"] for row in await account.plans()] == ["open", "declined"]


async def test_a_request_for_a_limit_is_no_plan_to_be_answered(account: Account) -> None:
    asked = {"account": "acme", "rule": "allowances.voice", "limit": 200, "why": "w", "by": "Ann"}
    request = (await account.operations.call("request_add", asked))["request"]
    with pytest.raises(ValueError, match="no plan that was proposed"):
        await account.operations.call("plan_answer", {"request": request, "accept": True, "by": "Ann"})


async def test_a_plan_that_holds_is_not_added_twice(account: Account) -> None:
    await account.months(1, 2, 3)
    await account.months(4, 5, 6, 7, used_s=500)
    assert len(await account.plans()) == 1


async def test_a_month_without_a_call_ends_the_row(account: Account) -> None:
    await account.months(1, 2)
    await account.months(4, 5)
    assert await account.plans() == []
    await account.months(6)
    assert len(await account.plans()) == 1


async def test_it_is_made_good_for_when_nobody_looked_for_months(account: Account) -> None:
    for month in (1, 2, 3, 4):
        await account.talk(month)
    await account.look(8, 5)
    [added] = await account.plans()
    assert added["from_ms"] == month_ms(9)
    await account.look(12, 5)
    assert [price.at_ms for price in await account.prices()] == [month_ms(month) for month in (9, 10, 11, 12)]


async def test_with_a_restart_in_between_it_is_added_and_charged_once(store: Store) -> None:
    for month in (1, 2, 3):
        async with _opened(store) as account:
            await account.talk(month)
            await account.look(month + 1)
    for day in (1, 2, 3):
        async with _opened(store) as account:
            await account.look(5, day)
            assert len(await account.plans()) == 1
            assert len(await account.prices()) == 1


@contextlib.asynccontextmanager
async def _opened(store: Store) -> Any:
    ledger = await store.open()
    try:
        account = Account(ledger, plan())
        await account.counter.open_account()
        yield account
    finally:
        await ledger.close()


async def test_a_round_that_broke_off_before_the_price_is_made_good_for(account: Account) -> None:
    await account.months(1, 2, 3)
    account.counter.at(month_ms(5, 3))
    assert (await account.ledger.charge_plans(month_ms(5, 3)))[0] == 1
    assert (await account.ledger.charge_plans(month_ms(5, 3)))[0] == 0
    await account.cycles.make()
    assert len(await account.prices()) == 1


async def test_each_line_has_its_own_where_the_allowance_is_each_lines(account: Account) -> None:
    account.counter.use(plan(scope="line"))
    for month in (1, 2, 3):
        await account.talk(month, line="alice")
        await account.talk(month, 20, line="bob")
    await account.look(4)
    [added] = await account.plans()
    assert added["rule"] == "allowances.voice/alice"
    account.counter.at(month_ms(5, 2))
    await account.counter.talk("a", 160, line="alice")
    await account.counter.talk("b", 101, line="bob")
    assert {"a", "b"} & (await account.counter.charges()).keys() == {"b"}


@pytest.mark.parametrize("begun", [True, False])
async def test_a_plan_that_is_revoked_ends_with_the_month_that_is_paid(account: Account, begun: bool) -> None:
    await account.months(1, 2, 3)
    [added] = await account.plans()
    await account.look(5 if begun else 4, 10)
    told = {"request": added["request"], "by": "Olga", "note": "not wanted"}
    revoked = await account.operations.call("request_revoke", told)
    assert (revoked["state"], revoked["until_ms"]) == ("revoked", month_ms(6 if begun else 5))
    await account.look(9)
    assert [price.at_ms for price in await account.prices()] == ([month_ms(5)] if begun else [])
    account.counter.at(month_ms(5, 20))
    await account.counter.talk("may", 160)
    assert ("may" in await account.counter.charges()) is not begun
    with pytest.raises(NotNow):
        await account.operations.call("request_revoke", told)


async def test_a_month_that_had_begun_is_owed_though_nobody_had_looked(account: Account) -> None:
    await account.months(1, 2, 3)
    [added] = await account.plans()
    account.counter.at(month_ms(5, 20))
    told = {"request": added["request"], "by": "Olga", "note": "not wanted"}
    await account.operations.call("request_revoke", told)
    await account.look(7)
    assert [price.at_ms for price in await account.prices()] == [month_ms(5)]


async def test_a_plan_for_two_months_is_charged_for_two_however_late_they_are_looked_at(
    account: Account,
) -> None:
    account.counter.use(plan("when_accepted"))
    await account.months(1, 2, 3)
    [proposed] = await account.plans()
    given = {"request": proposed["request"], "by": "Olga", "note": "asked for", "cycles": 2}
    approved = await account.operations.call("request_approve", given)
    assert (approved["from_ms"], approved["until_ms"]) == (month_ms(5), month_ms(7))
    await account.look(11)
    assert [price.at_ms for price in await account.prices()] == [month_ms(5), month_ms(6)]
    assert (await account.plans())[0]["state"] == "expired"


@pytest.mark.parametrize("why", ["terminated", "other policy"])
async def test_who_has_left_pays_no_more(account: Account, ledger: Ledger, why: str) -> None:
    account.counter.use(plan(), plan(name="other"))
    await account.months(1, 2, 3)
    await account.look(5)
    if why == "terminated":
        await ledger.set_standing("acme", Standing.TERMINATED, month_ms(5, 9))
    else:
        await ledger.subscribe("acme", "other", Options())
    await account.look(8)
    assert len(await account.prices()) == 1
    assert [request.state for request in await ledger.requests("acme")] == [RequestState.REVOKED]


@pytest.mark.clause("R4", "charged")
async def test_prepaid_credit_pays_for_no_plan(account: Account) -> None:
    await account.counter.pay_in(UNIT)
    await account.months(1, 2, 3)
    await account.look(6)
    assert len(await account.prices()) == 2
    assert await account.counter.credit() == (UNIT, 0)


async def test_a_cycle_of_the_account_counts_where_the_allowance_has_one(ledger: Ledger) -> None:
    account = Account(ledger, plan(period="cycle"))
    await account.counter.open_account(options=Options(cycle_day=15))
    for month in (1, 2, 3):
        await account.talk(month, day=20)
    await account.look(4, 14)
    assert await account.plans() == []
    await account.look(4, 15)
    [added] = await account.plans()
    assert added["from_ms"] == month_ms(5, 15)


async def test_many_accounts_are_looked_at_in_pieces(ledger: Ledger) -> None:
    account = Account(ledger, plan())
    await account.counter.open_account(*(f"line-{number:03}" for number in range(120)))
    account.counter.use(plan(scope="line"))
    for month in (1, 2, 3):
        for number in range(120):
            await account.talk(month, line=f"line-{number:03}")
    judged, followed = await ledger.plans_due(month_ms(4), lambda *_: None, 1, 100)
    assert (judged, followed) == (100, ())
    await account.look(4)
    # The hundred that were judged without a plan are of January.
    assert len(await ledger.requests("acme", limit=1_000)) == 120


async def test_what_is_judged_is_not_judged_again(account: Account, ledger: Ledger) -> None:
    await account.months(1)
    assert await ledger.plans_due(month_ms(2), lambda *_: None, 1) == (0, ())
    assert await ledger.plans_due(month_ms(2), lambda *_: None, 1) == (0, ())
