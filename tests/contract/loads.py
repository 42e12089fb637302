"""Calls on a ledger that fails: many callers, each step counted by whether it was acknowledged.

Held against what is in the ledger afterwards.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

from fairdial.ledger.contract import Ledger, LedgerSlow, LedgerUnavailable
from fairdial.policy.account import Dial
from fairdial.policy.decide import Allow
from tests.samples import NOON_MS, authorise, outbound, plan

T = TypeVar("T")

USED_S = 10
LIMIT_S = 1_000_000
PLAN = plan(limit_s=LIMIT_S, longest_s=600)


async def repeated(
    step: Callable[[], Awaitable[T]], within_s: float = 30.0, failed: Callable[[], None] = lambda: None
) -> T:
    """What a step answers in the end, repeated as the desk repeats it. failed: called whenever it was not done."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                return await step()
            except LedgerUnavailable:
                failed()
                await asyncio.sleep(0.02)


@dataclass
class Load:
    """Callers on several nodes, until `stop` is set.

    settled: calls whose every step was acknowledged; abandoned: whose dial was not, and was not asked again; slow:
    whose dial may have been written, said the store, and was repeated; acknowledged_s: when anything was, by the
    monotonic clock.
    """

    nodes: list[Ledger]
    callers: int = 12
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    settled: list[str] = field(default_factory=list)
    abandoned: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    failures: int = 0
    acknowledged_s: list[float] = field(default_factory=list)

    async def run(self) -> None:
        """Until `stop`; each call that was begun is brought to its end."""
        async with asyncio.TaskGroup() as group:
            for number in range(self.callers):
                group.create_task(self._calls(f"caller{number}", self.nodes[number % len(self.nodes)]))

    async def until(self, acknowledged: int, within_s: float = 20.0) -> None:
        """Wait until so many more steps were acknowledged."""
        wanted = len(self.acknowledged_s) + acknowledged
        async with asyncio.timeout(within_s):
            while len(self.acknowledged_s) < wanted:
                await asyncio.sleep(0.01)

    @property
    def longest_gap_s(self) -> float:
        """For how long nothing was acknowledged."""
        times = self.acknowledged_s
        return max(after - before for before, after in pairwise(times))

    async def _calls(self, name: str, ledger: Ledger) -> None:
        count = 0
        while not self.stop.is_set():
            count += 1
            dial = outbound(f"{name}-{count}")
            if await self._dialled(ledger, dial):
                await self._repeated(lambda dial=dial: ledger.settle(dial.call_id, USED_S, NOON_MS + 10_000))  # type: ignore[misc]
                self._note()
                self.settled.append(dial.call_id)

    async def _dialled(self, ledger: Ledger, dial: Dial) -> bool:
        try:
            verdict = await authorise(ledger, dial, PLAN)
        except LedgerUnavailable as error:
            self._failed()
            if not isinstance(error, LedgerSlow):
                # As a caller does who hears that it failed.
                self.abandoned.append(dial.call_id)
                await asyncio.sleep(0.05)
                return False
            self.slow.append(dial.call_id)
            verdict = await self._repeated(lambda: authorise(ledger, dial, PLAN))
        assert isinstance(verdict.decision, Allow)
        again = await self._repeated(lambda: authorise(ledger, dial, PLAN))
        assert (again.repeated, again.decision) == (True, verdict.decision)
        self._note()
        return True

    async def _repeated(self, step: Callable[[], Awaitable[T]]) -> T:
        return await repeated(step, failed=self._failed)

    def _failed(self) -> None:
        self.failures += 1

    def _note(self) -> None:
        self.acknowledged_s.append(time.monotonic())


async def hold_against(ledger: Ledger, load: Load) -> None:
    """All that was acknowledged is there once, what was not is there once or not at all, and nothing is held for it."""
    calls = len(load.settled)
    for call_id in load.settled:
        grant = await ledger.grant(call_id)
        assert grant is not None
        assert (grant.live, grant.used_s) == (False, USED_S), call_id
    for grant in await ledger.live_grants():
        assert grant.call_id in load.abandoned
        await ledger.release(grant.call_id)
    [usage] = (await ledger.sheet("acme")).usage
    assert (usage.meter.used_units, usage.meter.reserved_units, usage.calls) == (USED_S * calls, 0, calls)
    known = [record.call_id for record in await ledger.decisions(limit=100_000)]
    assert len(known) == len(set(known))
    assert set(load.settled) <= set(known) <= {*load.settled, *load.abandoned}
