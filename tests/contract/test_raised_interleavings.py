"""Limits that rise and fall under calls in any order: nobody overspends, and no step breaks on the table's check."""

import contextlib
import random
from typing import Any

import pytest

from fairdial.console.operations import Operations
from fairdial.ledger.contract import Ledger, NotNow
from fairdial.policy.decide import Allow
from fairdial.policy.sizing import GrantRules
from tests.charges import Counter, priced_plan
from tests.samples import NOON_MS

BASE_S, HIGH_S = 300, 900
STEPS = 150


class Play:
    """Calls of one account, while requests are approved, revoked and run out."""

    def __init__(self, ledger: Ledger, used_up: str, seed: int) -> None:
        policy = priced_plan(BASE_S, used_up, uncovered="refuse", longest_s=200)
        self.counter = Counter(ledger, policy, rules=GrantRules(useful_s=5, slice_s=20))
        self.operations = Operations(self.counter.desk)
        self.chance = random.Random(seed)
        self.live: list[str] = []
        self.approved: list[int] = []
        self.calls = 0
        self.ever_raised_to = BASE_S

    async def dial(self) -> None:
        self.calls += 1
        call_id = f"call-{self.calls}"
        verdict = await self.counter.dial(call_id, ring_s=0)
        if isinstance(verdict.decision, Allow):
            self.live.append(call_id)
            await self.counter.desk.answered(call_id, "leg", self.counter.clock.now())

    async def renew(self) -> None:
        if self.live:
            await self.counter.desk.renew(self.chance.choice(self.live), self.chance.choice((0, 5_000)))

    async def settle(self) -> None:
        if self.live:
            call_id = self.live.pop(self.chance.randrange(len(self.live)))
            await self.counter.settle(call_id, self.chance.choice((0, 1, 30, 100, 500)))

    async def approve(self) -> None:
        limit_s = self.chance.choice((400, 600, HIGH_S))
        asked: dict[str, Any] = {"account": "acme", "rule": "allowances.voice", "limit": limit_s}
        try:
            made = await self.operations.call("request_add", {**asked, "why": "w", "by": "Ann"})
        except ValueError:
            return  # it is as high already
        now_ms = self.counter.clock.now().wall_ms
        until_ms = self.chance.choice((None, now_ms + 15_000, now_ms + 90_000))
        given = {"request": made["request"], "by": "Olga", "note": "n", "until_ms": until_ms}
        await self.operations.call("request_approve", given)
        self.approved.append(made["request"])
        self.ever_raised_to = max(self.ever_raised_to, limit_s)

    async def revoke(self) -> None:
        if self.approved:
            request = self.approved.pop(self.chance.randrange(len(self.approved)))
            # Its time may be over, and that written down.
            with contextlib.suppress(NotNow):
                await self.operations.call("request_revoke", {"request": request, "by": "Olga", "note": "n"})

    async def look(self) -> None:
        await self.counter.ledger.end_requests(self.counter.clock.now().wall_ms)

    async def wait(self) -> None:
        self.counter.clock.forward(self.chance.choice((1_000, 7_000, 40_000)))

    async def check(self) -> None:
        for entry in (await self.counter.ledger.sheet("acme")).usage:
            meter = entry.meter
            assert meter.limit_units is not None
            assert meter.used_units + meter.reserved_units <= meter.limit_units <= self.ever_raised_to


@pytest.mark.parametrize("used_up", ["refuse", "overage"])
@pytest.mark.parametrize("seed", range(8))
async def test_nothing_that_rises_or_falls_breaks_a_step_or_lets_anybody_overspend(
    ledger: Ledger, used_up: str, seed: int
) -> None:
    play = Play(ledger, used_up, seed)
    await play.counter.open_account()
    moves = [play.dial, play.dial, play.renew, play.renew, play.settle, play.approve, play.revoke, play.look]
    moves += [play.wait, play.wait]
    for _ in range(STEPS):
        await play.chance.choice(moves)()
        await play.check()
    while play.live:
        await play.settle()
        await play.check()
    assert play.calls > 10
    assert play.counter.clock.now().wall_ms > NOON_MS
    [usage] = (await ledger.sheet("acme")).usage
    assert usage.meter.reserved_units == 0
