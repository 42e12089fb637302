"""What counts how often, and what is charged besides: callback, messages, surcharge."""

import asyncio

import pytest

from fairdial.ledger.contract import Ledger
from fairdial.policy.account import Account, Agreement, Consent, Kind, Line, Options
from fairdial.policy.document import Policy
from fairdial.policy.outcomes import Reason
from fairdial.policy.terms import Mode
from tests.charges import LONDON, PARIS, PREMIUM, Counter, priced_plan
from tests.samples import NOON_MS
from tests.shipped import POLICIES

CENT = 10_000


async def opened(ledger: Ledger, policy: Policy) -> Counter:
    """A desk on that policy, and the account acme with two lines in GB."""
    counter = Counter(ledger, policy)
    options = Options(frozenset({"GB"}))
    await counter.open_account("alice", "bob", options=options, policy=policy.name)
    return counter


def limited(name: str, allowance: str, **update: object) -> Policy:
    """A published policy with another number in one allowance."""
    policy = POLICIES[name]
    allowances = tuple(
        one.model_copy(update=update) if one.name == allowance else one for one in policy.allowances
    )
    return policy.model_copy(update={"allowances": allowances})


# --- callback ------------------------------------------------------------------------------------


@pytest.mark.clause("V6", "allowed")
async def test_a_callback_counts_twice(ledger: Ledger) -> None:
    counter = await opened(ledger, POLICIES["voxdirect"])
    await counter.talk("callback", 90, kind=Kind.CALLBACK)
    await counter.talk("plain", 90)
    assert await counter.meters() == [("voice", 180 + 90, 0, 0)]


@pytest.mark.clause("V6", "charged")
async def test_both_legs_of_a_callback_past_the_allowance_are_charged(ledger: Ledger) -> None:
    counter = await opened(ledger, limited("voxdirect", "voice", limit_s=60))
    await counter.talk("callback", 90, kind=Kind.CALLBACK)
    # 30 s of 90 fit, counting twice; 60 s on two legs, 60/60 at 0.02: 2 x 0.02.
    assert await counter.meters() == [("voice", 60, 0, 120)]
    assert await counter.charged() == {"callback": (120, 4 * CENT)}


async def test_a_callback_holds_twice_its_length_and_ends_where_half_the_rest_is_used(ledger: Ledger) -> None:
    weighs = priced_plan(200, "refuse", more="weights = { callback = 2 }").model_copy()
    kinds = weighs.kinds.model_copy(update={"allow": frozenset({Kind.CALLBACK, Kind.OUTBOUND})})
    counted = frozenset({Kind.CALLBACK, Kind.OUTBOUND})
    allowance = weighs.allowances[0].model_copy(update={"counts": counted})
    counter = Counter(ledger, weighs.model_copy(update={"kinds": kinds, "allowances": (allowance,)}))
    await counter.open_account("alice")
    granted_s = (await counter.allow("call-1", kind=Kind.CALLBACK)).granted_s
    assert granted_s == 25  # a quarter of the 100 s that fit
    assert await counter.meters() == [("voice", 0, 50, 0)]
    while True:
        more_s = (await counter.desk.renew("call-1", 0)).granted_s
        if more_s == granted_s:
            break
        granted_s = more_s
    assert granted_s == 100
    await counter.settle("call-1", 100)
    assert await counter.meters() == [("voice", 200, 0, 0)]
    assert await counter.refuse("call-2", kind=Kind.CALLBACK) == (Reason.ALLOWANCE_USED_UP, "C5")


async def test_one_second_that_is_left_is_none_for_a_callback(ledger: Ledger) -> None:
    counter = await opened(ledger, limited("voxdirect", "voice", limit_s=1, used_up="refuse"))
    assert await counter.refuse("again", kind=Kind.CALLBACK) == (Reason.ALLOWANCE_USED_UP, "V6")
    assert (await counter.allow("plain")).granted_s == 1


# --- messages ------------------------------------------------------------------------------------


@pytest.mark.clause("V1", "allowed")
async def test_a_message_is_counted_at_once_and_holds_nothing(ledger: Ledger) -> None:
    counter = await opened(ledger, POLICIES["voxdirect"])
    allow = await counter.allow("message-1", kind=Kind.MESSAGE)
    assert (allow.reason, allow.granted_s) == (Reason.WITHIN_ALLOWANCE, None)
    assert await counter.meters() == [("messages", 1, 0, 0)]
    assert await ledger.live_grants() == ()


@pytest.mark.clause("V2", "charged")
async def test_the_first_message_past_the_allowance_is_charged(ledger: Ledger) -> None:
    counter = await opened(ledger, limited("voxdirect", "messages", limit=2))
    for number in range(2):
        await counter.allow(f"message-{number}", kind=Kind.MESSAGE)
    assert await counter.charged() == {}
    third = await counter.allow("message-2", kind=Kind.MESSAGE)
    assert (third.reason, third.clause.id) == (Reason.PAST_ALLOWANCE, "V2")
    assert await counter.charged() == {"message-2": (1, 15_000)}
    assert await counter.meters() == [("messages", 2, 0, 1)]


async def test_a_message_that_is_asked_about_again_counts_once(ledger: Ledger) -> None:
    counter = await opened(ledger, limited("voxdirect", "messages", limit=0))
    first = await counter.dial("message-1", kind=Kind.MESSAGE)
    assert (await counter.dial("message-1", kind=Kind.MESSAGE)).decision == first.decision
    assert await counter.charged() == {"message-1": (1, 15_000)}


async def test_a_limit_on_messages_holds_for_many_at_once(ledger: Ledger) -> None:
    counter = await opened(ledger, limited("voxdirect", "messages", limit=10, used_up="refuse"))
    verdicts = await asyncio.gather(*(counter.dial(f"m-{n}", kind=Kind.MESSAGE) for n in range(40)))
    reasons = [verdict.decision.reason for verdict in verdicts]
    assert reasons.count(Reason.WITHIN_ALLOWANCE) == 10
    assert reasons.count(Reason.ALLOWANCE_USED_UP) == 30


@pytest.mark.clause("S1", "allowed")
async def test_calls_messages_and_chats_are_counted_each_on_its_own(ledger: Ledger) -> None:
    counter = Counter(ledger, POLICIES["spokephone"])
    await ledger.add_account(Account("acme", "spokephone", options=Options(frozenset({"GB"}))))
    await ledger.add_line(Line("alice", "acme"))
    await counter.talk("out", 10)
    await counter.talk("in", 20, kind=Kind.INBOUND)
    await counter.talk("within", 30, "101", kind=Kind.INTERNAL)
    await counter.allow("message", kind=Kind.MESSAGE)
    used = {name: used for name, used, _, _ in await counter.meters()}
    assert used == {"outbound/alice": 10, "inbound/alice": 20, "internal/alice": 30, "messages/alice": 1}


@pytest.mark.clause("S8", "refused")
@pytest.mark.parametrize("kind", [Kind.OUTBOUND, Kind.MESSAGE])
async def test_nothing_goes_to_a_premium_number(ledger: Ledger, kind: Kind) -> None:
    counter = await opened(ledger, POLICIES["spokephone"])
    assert await counter.refuse("call-1", PREMIUM, kind=kind) == (Reason.CLASS_NOT_COVERED, "S8")


# --- surcharge -----------------------------------------------------------------------------------


@pytest.mark.clause("S5", "free")
async def test_without_an_agreement_there_is_no_surcharge(ledger: Ledger) -> None:
    counter = await opened(ledger, POLICIES["spokephone"])
    await counter.talk("call-1", 90)
    assert await counter.charged() == {}


@pytest.mark.clause("S5", "charged")
async def test_with_an_agreement_each_minute_in_and_out_costs_the_surcharge(ledger: Ledger) -> None:
    counter = await opened(ledger, POLICIES["spokephone"])
    await ledger.agree(Agreement("acme", Consent.SURCHARGE, "Jo Doe", NOON_MS))
    await counter.talk("out", 90)
    await counter.talk("in", 30, kind=Kind.INBOUND)
    await counter.talk("within", 60, "101", kind=Kind.INTERNAL)
    # 0.01 a minute, by the second: 90 s are 0.015, 30 s are 0.005.
    assert await counter.charged() == {"out": (90, 15_000), "in": (30, 5_000)}
    charge = (await counter.charges())["out"]
    assert (charge.mode, charge.clause.id, charge.rate) == (
        Mode.SURCHARGE,
        "S5",
        "charges.surcharge_per_min",
    )
    await ledger.withdraw("acme", Consent.SURCHARGE, NOON_MS + 1)
    await counter.talk("later", 90)
    assert "later" not in await counter.charged()


async def test_overage_and_surcharge_are_two_charges_of_one_call(ledger: Ledger) -> None:
    charges = 'surcharge_per_min = "0.06"\nsurcharge_needs_agreement = false'
    counter = Counter(ledger, priced_plan(30, charges=charges))
    await counter.open_account("alice")
    await counter.talk("call-1", 90)
    amounts = {charge.mode: charge.amount_micros for charge in (await ledger.sheet("acme")).charges}
    # 60 s past the allowance at 0.60 a minute; 90 s at 0.06.
    assert amounts == {Mode.OVERAGE: 60 * CENT, Mode.SURCHARGE: 9 * CENT}


async def test_credit_pays_the_surcharge_too_and_is_never_overdrawn(ledger: Ledger) -> None:
    charges = 'surcharge_per_min = "0.60"\nsurcharge_needs_agreement = false'
    counter = Counter(ledger, priced_plan(countries='["DE"]', charges=charges))
    await counter.open_account("alice")
    # London: 0.10 to connect, then 0.01 a second and as much surcharge: ten seconds.
    await counter.pay_in(30 * CENT)
    granted_s = (await counter.allow("call-1", LONDON)).granted_s
    assert granted_s == 10
    await counter.settle("call-1", 10)
    assert await counter.credit() == (0, 0)
    assert await counter.refuse("call-2", LONDON) == (Reason.CREDIT_TOO_LOW, "C3")


async def test_a_policy_without_a_currency_charges_in_the_accounts(ledger: Ledger) -> None:
    plan = priced_plan(0)
    assert plan.charges is not None
    counter = Counter(
        ledger, plan.model_copy(update={"charges": plan.charges.model_copy(update={"currency": None})})
    )
    await counter.open_account("alice", options=Options(currency="CHF"))
    await counter.talk("call-1", 60, PARIS)
    assert (await counter.charges())["call-1"].currency == "CHF"
