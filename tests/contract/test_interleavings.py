"""Any interleaving of what happens to calls keeps the books: nothing overspent, lost or counted twice.

Seeded, so that a failure repeats. A crash is a store that is closed and opened with its grants unsettled.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from fairdial.ledger.contract import Extend, Grant, IdempotencyConflict, Ledger
from fairdial.policy.account import Account, Dial, MeterWindow
from fairdial.policy.decide import Allow, Verdict, meters_at
from fairdial.policy.document import Policy
from fairdial.policy.sizing import size_grant
from tests.contract.conftest import Store
from tests.samples import MONTH_END_MS, RULES, authorise, outbound, plan, provision

ROUNDS, AT_ONCE = 50, 12
LINES = {"acme": ("alice", "anna"), "other": ("bob",)}
PLANS = (
    plan(limit_s=900, longest_s=300, day_limit_s=500),
    plan(limit_s=700, longest_s=300, day_limit_s=500),
    plan(limit_s=900, longest_s=None, day_limit_s=500),
)


@dataclass(slots=True)
class Scene:
    """What one run knows: the dials that were made, and the first settlement of each."""

    ledger: Ledger
    chance: random.Random
    now_ms: int = MONTH_END_MS - 400_000
    policy: Policy = PLANS[0]
    dials: dict[str, Dial] = field(default_factory=dict)
    allowed: set[str] = field(default_factory=set)
    settled: dict[str, Grant] = field(default_factory=dict)

    def any_call(self) -> str:
        return self.chance.choice(sorted(self.dials))

    async def dial(self) -> None:
        call_id = f"call-{len(self.dials)}"
        line = self.chance.choice(("alice", "anna", "bob"))
        dial = outbound(call_id, line_id=line, at_ms=self.now_ms, ring_s=self.chance.choice((0, 30, 120)))
        self.dials[call_id] = dial
        await self.ask(dial)

    async def repeat(self) -> None:
        if self.dials:
            await self.ask(self.dials[self.any_call()])

    async def ask(self, dial: Dial) -> None:
        try:
            verdict = await authorise(self.ledger, dial, self.policy)
        except IdempotencyConflict:
            grant = await self.ledger.grant(dial.call_id)
            assert grant is not None
            assert not grant.live
            return
        if isinstance(verdict.decision, Allow):
            self.allowed.add(dial.call_id)

    async def answer(self) -> None:
        if self.allowed:
            call_id = self.chance.choice(sorted(self.allowed))
            await self.ledger.answered(call_id, f"leg-{self.chance.random()}", self.now_ms)

    async def renew(self) -> None:
        if not self.allowed:
            return
        call_id, end_ms = self.chance.choice(sorted(self.allowed)), self.now_ms + 5_000
        rest = outbound(at_ms=end_ms, ring_s=0)

        def planned(_grant: Grant, account: Account) -> tuple[MeterWindow, ...]:
            return meters_at(account, self.policy, rest)

        extend: Extend = lambda _grant, payer: size_grant(end_ms, 0, 60, payer.meters, RULES)  # noqa: E731
        await self.ledger.renew(call_id, planned, extend)

    async def settle(self) -> None:
        if self.allowed:
            call_id = self.chance.choice(sorted(self.allowed))
            used_s = self.chance.choice((0, 1, 40, 200, 5_000))
            grant = await self.ledger.settle(
                call_id, used_s, self.now_ms, estimated=self.chance.random() < 0.2
            )
            assert self.settled.setdefault(call_id, grant) == grant

    async def release(self) -> None:
        if self.allowed:
            await self.ledger.release(self.chance.choice(sorted(self.allowed)))

    async def round(self) -> None:
        """Several steps at the same time."""
        doing = (
            self.dial,
            self.dial,
            self.dial,
            self.repeat,
            self.answer,
            self.renew,
            self.settle,
            self.release,
        )
        await asyncio.gather(*(self.chance.choice(doing)() for _ in range(AT_ONCE)))
        self.now_ms += self.chance.randrange(30_000)
        self.policy = self.chance.choice(PLANS)

    async def check(self) -> None:
        """The books of every account."""
        for account in LINES:
            used: dict[str, int] = defaultdict(int)
            reserved: dict[str, int] = defaultdict(int)
            for entry in (await self.ledger.sheet(account)).usage:
                meter = entry.meter
                assert meter.limit_units is not None
                assert meter.used_units + meter.reserved_units <= meter.limit_units
                used[meter.allowance] += meter.used_units
                reserved[meter.allowance] += meter.reserved_units
            assert reserved == await self._held(account)
            settled_s = await self._settled_s(account)
            assert set(used.values()) <= {settled_s}

    async def _held(self, account: str) -> dict[str, int]:
        held: dict[str, int] = defaultdict(int)
        for grant in await self.ledger.live_grants():
            if grant.account_id == account:
                # A repeated dial shows what its grant holds now.
                verdict: Verdict = await authorise(self.ledger, self.dials[grant.call_id], self.policy)
                assert isinstance(verdict.decision, Allow)
                for hold in verdict.decision.holds:
                    held[hold.allowance] += hold.hold_units
        if not held and (await self.ledger.sheet(account)).usage:
            return {"voice": 0, "daily": 0}
        return held

    async def _settled_s(self, account: str) -> int:
        total_s = 0
        for call_id in self.allowed:
            grant = await self.ledger.grant(call_id)
            assert grant is not None
            if grant.account_id == account and not grant.live:
                assert grant.used_s is not None
                assert grant.granted_s is not None
                assert grant.used_s <= grant.granted_s
                total_s += grant.used_s
        return total_s


@pytest.fixture
async def scene(store: Store, seed: int) -> AsyncIterator[Scene]:
    scene = Scene(await store.open(), random.Random(seed))
    for account, lines in LINES.items():
        await provision(scene.ledger, account, *lines)
    yield scene
    await scene.ledger.close()


@pytest.mark.parametrize("seed", range(20))
async def test_the_books_are_kept_whatever_happens(store: Store, scene: Scene) -> None:
    for turn in range(ROUNDS):
        await scene.round()
        if turn % 10 == 9:
            await scene.ledger.close()
            scene.ledger = await store.open()
            await scene.check()
    live = await scene.ledger.live_grants()
    await asyncio.gather(*(scene.ledger.settle(grant.call_id, 1, scene.now_ms) for grant in live))
    await scene.check()
    assert await scene.ledger.live_grants() == ()
    assert scene.allowed, "a run in which nothing was allowed shows nothing"
    assert set(scene.dials) - scene.allowed, "a run in which nothing was refused shows nothing"
