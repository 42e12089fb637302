"""What happens as billing cycles and validities end: requests that are over, minute plans that are due and their price.

Every rule is in the ledger's steps, each once for what it is about, so that it does not matter how late or how often
they are taken: after FairDial was down over a cycle's end, the first round makes good for it. No call waits for any of
this: a limit rises and falls by itself, at its moment.
"""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from fairdial.clock import Clock
from fairdial.ledger.contract import Ledger, LedgerError
from fairdial.policy.account import Account, MeterWindow
from fairdial.policy.book import PolicyBook
from fairdial.policy.periods import zone_named
from fairdial.policy.requests import Asked, plan_due, streak_max

log = structlog.get_logger(__name__)

EVERY_S = 60.0
PIECE = 100
"""Of each kind in one step of the ledger, which keeps dials waiting for some milliseconds."""
PIECES_MAX = 1_000
"""Steps of each kind in a round; what is left has the next one."""


class Cycles:
    """Rounds over all accounts. `start` before use, `stop` after; or `make` one round."""

    def __init__(
        self, ledger: Ledger, policies: Callable[[], PolicyBook], clock: Clock, *, every_s: float = EVERY_S
    ) -> None:
        self._ledger = ledger
        self._policies = policies
        self._clock = clock
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin, with a round at once, in the background."""
        self._task = asyncio.create_task(self._make_periodically(), name="cycles")

    async def stop(self) -> None:
        """End. What was not done is done in the next round."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def make(self) -> None:
        """One round. Raises LedgerError."""
        now_ms = self._clock.now().wall_ms
        # First what is over: a plan that is added now is not to end for what ended before.
        for step in (self._end, self._propose, self._charge):
            for _ in range(PIECES_MAX):
                if not await step(now_ms):
                    break

    async def _end(self, now_ms: int) -> int:
        ended = await self._ledger.end_requests(now_ms, PIECE)
        for request in ended:
            log.info(
                "request_over", request=request.id, account=request.asked.account_id, state=request.state
            )
        return len(ended)

    async def _propose(self, now_ms: int) -> int:
        policies = self._policies()

        def due(
            account: Account, meter: MeterWindow, earlier: Sequence[MeterWindow], since_ms: int
        ) -> Asked | None:
            # The version in force when the cycle ended, however late that is looked at.
            policy = policies.at(account.policy, zone_named(account.zone), meter.window.end_ms - 1)
            return None if policy is None else plan_due(account, policy, meter, earlier, since_ms, now_ms)

        versions = (version for name in policies.names for version in policies.versions(name))
        windows_max = max((streak_max(version) for version in versions), default=1)
        judged, followed = await self._ledger.plans_due(now_ms, due, windows_max, PIECE)
        for request in followed:
            log.warning(
                "minute_plan_due",
                request=request.id,
                account=request.asked.account_id,
                state=request.state,
                why=request.asked.why,
            )
        return judged

    async def _charge(self, now_ms: int) -> int:
        looked_at, charged = await self._ledger.charge_plans(now_ms, PIECE)
        for charge in charged:
            log.info("minute_plan_charged", request=charge.request, amount_micros=charge.amount_micros)
        return looked_at

    async def _make_periodically(self) -> None:
        while True:
            await self._round()
            await asyncio.sleep(self._every_s)

    async def _round(self) -> None:
        try:
            await self.make()
        except LedgerError as error:
            log.error("cycles_not_looked_at", error=str(error))
        except Exception as error:
            # Whatever it is, the next round is made.
            log.error("cycles_not_looked_at", error=repr(error), exc_info=error)
