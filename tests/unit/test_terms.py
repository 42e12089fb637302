"""Who pays for a dial, and on which clause: the plan, its price past an allowance, or credit (K1, K4, R3, V2)."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairdial.policy.account import Account, Credit, Kind, Line, Options, Snapshot, Standing
from fairdial.policy.decide import Allow, Decision, decide, meters_at
from fairdial.policy.document import Policy
from fairdial.policy.numbers import Number
from fairdial.policy.outcomes import Reason
from fairdial.policy.prefixes import NumberClass
from fairdial.policy.terms import Mode, seconds_past
from tests.charges import CARD, PER_S, UNIT, priced_plan
from tests.samples import LONDON, NOON_MS, RULES, outbound

PARIS = Number("0033142685300", "+33142685300", NumberClass.GEOGRAPHIC, "FR")
PREMIUM = Number("09098790000", "+449098790000", NumberClass.PREMIUM_RATE, "GB")
BERLIN = Number("00493012345678", "+493012345678", NumberClass.GEOGRAPHIC, "DE")
FUNDS = Credit("EUR", 100 * UNIT)
BOUGHT = priced_plan(countries='"subscription"', uncovered="refuse")
BOUGHT_OR_CREDIT = priced_plan(countries='"subscription"')
TWO = '[[allowances]]\nname = "{name}"\nlimit_s = 0\nperiod = "day"\ncounts = ["outbound"]\nclause = "C5"'


def decision(
    policy: Policy,
    number: Number = LONDON,
    *,
    options: Options | None = None,
    credit: Credit | None = FUNDS,
    used_s: int = 0,
    standing: Standing = Standing.ACTIVE,
    kind: Kind = Kind.OUTBOUND,
    at_ms: int = NOON_MS,
) -> Decision:
    """The decision on a dial where every meter holds `used_s`."""
    account = Account("acme", "plan", standing=standing, options=options or Options(frozenset({"GB"})))
    dial = outbound(dialled=number.dialled, kind=kind, at_ms=at_ms)
    meters = tuple(replace(meter, used_units=used_s) for meter in meters_at(account, policy, dial))
    snapshot = Snapshot(Line("alice", "acme"), account, meters, credit)
    return decide(dial, number, snapshot, policy, RULES, {CARD.name: CARD})


def told(found: Decision) -> tuple[bool, Reason, str]:
    return isinstance(found, Allow), found.reason, found.clause.id


OVER = Options(frozenset({"GB"}), until_ms=NOON_MS)
RUNNING = Options(frozenset({"GB"}), until_ms=NOON_MS + 1)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        # Countries and period of the subscription (K1).
        (decision(BOUGHT), (True, Reason.WITHIN_ALLOWANCE, "C5")),
        (decision(BOUGHT, PARIS), (False, Reason.COUNTRY_NOT_COVERED, "C2")),
        (decision(BOUGHT, options=Options()), (False, Reason.COUNTRY_NOT_COVERED, "C2")),
        (decision(BOUGHT, options=RUNNING), (True, Reason.WITHIN_ALLOWANCE, "C5")),
        (decision(BOUGHT, options=OVER), (False, Reason.SUBSCRIPTION_OVER, "C2")),
        (decision(BOUGHT, options=OVER, kind=Kind.INBOUND), (True, Reason.WITHIN_ALLOWANCE, "C5")),
        (decision(BOUGHT_OR_CREDIT, options=OVER), (True, Reason.BY_CREDIT, "C3")),
        (decision(BOUGHT_OR_CREDIT, PARIS), (True, Reason.BY_CREDIT, "C3")),
        # Classes outside the plan (K2, K4).
        (decision(BOUGHT_OR_CREDIT, PREMIUM), (True, Reason.BY_CREDIT, "C3")),
        (decision(priced_plan(classes='["geographic"]'), PREMIUM), (False, Reason.CLASS_NOT_COVERED, "C1")),
        # Money.
        (decision(BOUGHT_OR_CREDIT, PARIS, credit=None), (False, Reason.CREDIT_TOO_LOW, "C3")),
        (decision(BOUGHT_OR_CREDIT, PARIS, credit=Credit("USD", UNIT)), (False, Reason.NO_RATE, "C3")),
        (decision(BOUGHT_OR_CREDIT, BERLIN), (False, Reason.NO_RATE, "C3")),
        (decision(BOUGHT_OR_CREDIT, PARIS, at_ms=0), (False, Reason.NO_RATE, "C3")),
        # Past the allowance (R3, V2).
        (decision(priced_plan(), used_s=143_999), (True, Reason.WITHIN_ALLOWANCE, "C5")),
        (decision(priced_plan(), used_s=144_000), (True, Reason.PAST_ALLOWANCE, "C7")),
        (decision(priced_plan(used_up="refuse"), used_s=144_000), (False, Reason.ALLOWANCE_USED_UP, "C5")),
        (decision(priced_plan(used_up="credit"), used_s=144_000), (True, Reason.BY_CREDIT, "C5")),
        # A second allowance that refuses, under the clause of the one that credit pays past.
        (
            decision(priced_plan(used_up="credit", more=TWO.format(name="daily"))),
            (False, Reason.ALLOWANCE_USED_UP, "C5"),
        ),
        (
            decision(priced_plan(0, "credit", more=TWO.format(name="daily"))),
            (False, Reason.ALLOWANCE_USED_UP, "C5"),
        ),
        # The order: the account before the number, kind before class, class before period and country.
        (decision(BOUGHT, PARIS, standing=Standing.SUSPENDED), (False, Reason.ACCOUNT_SUSPENDED, "always")),
        (decision(BOUGHT, PREMIUM, kind=Kind.CALLBACK), (False, Reason.KIND_NOT_COVERED, "C0")),
        (decision(BOUGHT, PREMIUM, options=OVER), (False, Reason.CLASS_NOT_COVERED, "C1")),
        (decision(BOUGHT, PARIS, options=OVER, used_s=144_000), (False, Reason.SUBSCRIPTION_OVER, "C2")),
        (decision(BOUGHT, PARIS, used_s=144_000), (False, Reason.COUNTRY_NOT_COVERED, "C2")),
    ],
)
def test_a_dial_is_paid_on_its_clause(found: Decision, expected: tuple[bool, Reason, str]) -> None:
    assert told(found) == expected


def test_past_an_allowance_nothing_is_reserved_and_the_price_is_known() -> None:
    found = decision(priced_plan(), used_s=144_000)
    assert isinstance(found, Allow)
    [terms] = found.terms
    assert (terms.mode, terms.tariff.rate_per_min_micros) == (Mode.OVERAGE, 60 * PER_S)
    assert [(hold.hold_units, hold.over) for hold in found.holds] == [(0, True)]
    assert (found.granted_s, found.credit_hold_micros) == (None, 0)


@pytest.mark.parametrize(
    ("stretches", "expected"),
    [
        ([], (0, True)),
        ([(5, 9)], (4, True)),
        ([(0, 9)], (9, False)),
        ([(5, 9), (7, 12)], (7, True)),
        ([(7, 9), (0, 20)], (20, False)),
    ],
)
def test_a_second_past_several_allowances_counts_once(
    stretches: list[tuple[int, int]], expected: tuple[int, bool]
) -> None:
    assert seconds_past(stretches) == expected


STRETCH = st.tuples(st.integers(0, 50), st.integers(1, 50)).map(lambda one: (one[0], one[0] + one[1]))


@given(st.lists(STRETCH, max_size=6))
def test_seconds_past_are_those_of_any_stretch(stretches: list[tuple[int, int]]) -> None:
    past = {second for first_s, end_s in stretches for second in range(first_s, end_s)}
    assert seconds_past(stretches) == (len(past), 0 not in past)
