"""Any interleaving of calls, renewals, payments and restarts keeps the money: nothing overspent, lost or charged twice.

Seeded, so that a failure repeats. The store is closed and opened with its grants unsettled.
"""

import asyncio
import random

import pytest

from fairdial.ledger.contract import ConstraintViolated
from fairdial.policy.decide import Allow
from fairdial.policy.terms import Mode, whole_micros
from tests.charges import LONDON, PARIS, PER_S, PREMIUM, UNIT, Counter, priced_plan
from tests.contract.conftest import Store

ROUNDS, AT_ONCE = 40, 12
PLANS = (
    priced_plan(600, countries='["GB"]', longest_s=300),
    priced_plan(400, countries='["GB"]', longest_s=300),
    priced_plan(500, "refuse", countries='["GB"]', longest_s=300),
    priced_plan(500, "credit", countries='["GB"]', longest_s=300),
)


class Scene:
    """One account under random steps, and what it was paid."""

    def __init__(self, counter: Counter, chance: random.Random) -> None:
        self.counter, self.chance = counter, chance
        self.dials: list[tuple[str, str]] = []
        self.allowed: set[str] = set()
        self.paid_micros = 0
        self.payments = 0

    async def dial(self) -> None:
        number = self.chance.choice((LONDON, PARIS, PREMIUM))
        self.dials.append((f"call-{len(self.dials)}", number))
        await self.ask(*self.dials[-1])

    async def repeat(self) -> None:
        if self.dials:
            await self.ask(*self.chance.choice(self.dials))

    async def ask(self, call_id: str, number: str) -> None:
        grant = await self.counter.ledger.grant(call_id)
        if grant is not None and not grant.live:
            return
        try:
            verdict = await self.counter.dial(call_id, number)
        except AssertionError:
            # It was settled meanwhile, by a step at the same time.
            grant = await self.counter.ledger.grant(call_id)
            assert grant is not None
            assert not grant.live
            return
        if isinstance(verdict.decision, Allow):
            self.allowed.add(call_id)

    def any_allowed(self) -> str | None:
        return self.chance.choice(sorted(self.allowed)) if self.allowed else None

    async def answer(self) -> None:
        if call_id := self.any_allowed():
            await self.counter.desk.answered(call_id, "leg", self.counter.clock.now())

    async def renew(self) -> None:
        if call_id := self.any_allowed():
            await self.counter.desk.renew(call_id, 5_000)

    async def settle(self) -> None:
        if call_id := self.any_allowed():
            await self.counter.settle(call_id, self.chance.choice((0, 1, 40, 200, 5_000)))

    async def release(self) -> None:
        if call_id := self.any_allowed():
            await self.counter.ledger.release(call_id)

    async def pay(self) -> None:
        amount_micros = self.chance.choice((UNIT, 3 * UNIT, -UNIT, -50 * UNIT))
        self.payments += 1
        try:
            await self.counter.pay_in(amount_micros, f"further-payment-{self.payments}")
        except ConstraintViolated:
            assert amount_micros < 0
            return
        self.paid_micros += amount_micros

    async def round(self) -> None:
        """Several steps at the same time."""
        doing = (
            self.dial,
            self.dial,
            self.repeat,
            self.answer,
            self.renew,
            self.settle,
            self.release,
            self.pay,
        )
        await asyncio.gather(*(self.chance.choice(doing)() for _ in range(AT_ONCE)))
        self.counter.clock.forward(self.chance.randrange(30_000))
        self.counter.use(self.chance.choice(PLANS))

    async def check(self) -> None:
        """Balance, reserve, meters and charges against the grants."""
        ledger = self.counter.ledger
        sheet = await ledger.sheet("acme")
        assert sheet.credit is not None
        grants = [await ledger.grant(call_id) for call_id in sorted(self.allowed)]
        held = sum(grant.credit_hold_micros for grant in grants if grant is not None and grant.live)
        assert 0 <= sheet.credit.reserved_micros == held <= sheet.credit.balance_micros
        charges = {charge.call_id: charge for charge in sheet.charges}
        spent = sum(charge.amount_micros for charge in sheet.charges if charge.mode is Mode.CREDIT)
        assert sheet.credit.balance_micros == self.paid_micros - spent
        past_s = 0
        for grant in grants:
            assert grant is not None
            charge = charges.pop(grant.call_id, None)
            if grant.credit_terms is not None and grant.used_s:
                assert charge is not None
                assert (charge.charged_units, charge.amount_micros) == (
                    grant.used_s,
                    whole_micros(grant.credit_terms, grant.used_s),
                )
                assert charge.amount_micros <= grant.credit_hold_micros
            elif charge is not None:
                assert charge.mode is Mode.OVERAGE
                assert charge.charged_units <= (grant.used_s or 0)
                assert charge.amount_micros == charge.charged_units * PER_S
                past_s += charge.charged_units
        assert charges == {}
        for usage in sheet.usage:
            meter = usage.meter
            assert meter.limit_units is None or meter.used_units + meter.reserved_units <= meter.limit_units
        assert past_s <= sum(usage.meter.over_units for usage in sheet.usage)


@pytest.mark.parametrize("seed", range(10))
async def test_the_money_is_kept_whatever_happens(store: Store, seed: int) -> None:
    ledger = await store.open()
    counter = Counter(ledger, PLANS[0])
    await counter.open_account()
    scene = Scene(counter, random.Random(seed))
    await counter.pay_in(20 * UNIT)
    scene.paid_micros = 20 * UNIT
    try:
        for turn in range(ROUNDS):
            await scene.round()
            if turn % 8 == 7:
                await counter.ledger.close()
                counter.ledger = counter.desk.ledger = await store.open()
                await scene.check()
        live = await counter.ledger.live_grants()
        await asyncio.gather(*(counter.settle(grant.call_id, 1) for grant in live))
        await scene.check()
        assert (await counter.credit())[1] == 0
        assert all(usage.meter.reserved_units == 0 for usage in (await counter.ledger.sheet("acme")).usage)
        modes = {charge.mode for charge in (await counter.ledger.sheet("acme")).charges}
        assert modes == {Mode.CREDIT, Mode.OVERAGE}, "a run without both ways of paying shows little"
    finally:
        await counter.ledger.close()
