"""Steps of calls that the store could not take yet: kept in memory within a bound, and written when it can.

So the metering of a call outlives a store that is locked, full or away. What the steps are is the desk's.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from fairdial import call_log
from fairdial.ledger.contract import LedgerUnavailable

log = structlog.get_logger(__name__)

UNWRITTEN_MAX = 20_000
"""Steps that are kept for a store that cannot take them: about 10 MB."""

UNWRITTEN_AT_ONCE = 256
"""Calls whose steps are written together when the store is back."""

WRITE_WITHIN_S = 0.5
"""So long a call waits for its step to be written; then the step is kept, and the call goes on."""

RETRY_S, RETRY_MAX_S = 0.2, 5.0
"""Between two tries to write what is kept: at first, and at most."""

LAST_TRY_S = 0.5
"""For what is still kept when FairDial stops."""


@dataclass(frozen=True, slots=True)
class _Owed:
    """A step that the ledger must still take; repeating it changes nothing. facts: what the log says of its call."""

    what: str
    write: Callable[[], Awaitable[object]]
    facts: call_log.Facts


class Unwritten:
    """Steps of calls on their way into the ledger, in order for each call, and oldest call first.

    A step is kept before it is first tried, so that neither an error nor a cancellation loses it. One task, woken
    by time, tries again what could not be written; while it has work, new steps wait behind. Past UNWRITTEN_MAX
    the oldest call's steps are given up: its grant stays for reconciliation.
    """

    def __init__(self) -> None:
        self._by_call: dict[str, deque[_Owed]] = {}
        self._under_way: set[str] = set()
        self._steps = 0
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self.given_up = 0
        """Steps that were never written."""

    def __len__(self) -> int:
        return self._steps

    def awaits(self, call_id: str) -> bool:
        """Whether a step of that call is still to be written."""
        return call_id in self._by_call

    async def write(self, call_id: str, what: str, write: Callable[[], Awaitable[object]]) -> bool:
        """Write a step now, or keep it until the store can; whether it is written."""
        behind = self._task is not None or call_id in self._by_call
        self._keep(call_id, _Owed(what, write, call_log.facts()))
        if behind and not self._closing:
            self._go_on()
            return False
        try:
            async with asyncio.timeout(WRITE_WITHIN_S):
                return await self._write_call(call_id)
        except TimeoutError:
            log.error("not_written_yet", call=call_id, what=what, error=f"not within {WRITE_WITHIN_S} s")
            return False
        finally:
            if call_id in self._by_call and not self._closing:
                self._go_on()

    async def close(self) -> None:
        """Try once more, within LAST_TRY_S; what is left is told, and stays for reconciliation."""
        self._closing = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(LAST_TRY_S):
                while self._by_call and await self._write_oldest():
                    pass
        except TimeoutError:
            pass
        if self._by_call:
            log.critical("given_up_unwritten", calls=len(self._by_call), steps=self._steps)
            self.given_up += self._steps
            self._by_call.clear()
            self._steps = 0

    def _keep(self, call_id: str, owed: _Owed) -> None:
        if self._steps >= UNWRITTEN_MAX:
            self._give_up_oldest()
        self._by_call.setdefault(call_id, deque()).append(owed)
        self._steps += 1

    def _give_up_oldest(self) -> None:
        oldest = next((call_id for call_id in self._by_call if call_id not in self._under_way), None)
        if oldest is not None:
            lost = self._by_call.pop(oldest)
            self._steps -= len(lost)
            self.given_up += len(lost)
            with call_log.spoken_of(lost[0].facts):
                log.critical("given_up_unwritten", call=oldest, what=[owed.what for owed in lost])

    def _go_on(self) -> None:
        if self._task is None:
            # It writes for all calls, whichever starts it.
            self._task = asyncio.create_task(
                self._write_behind(), name="unwritten", context=call_log.nobody()
            )

    async def _write_behind(self) -> None:
        wait_s = RETRY_S
        try:
            while self._by_call:
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, RETRY_MAX_S)
                while self._by_call and await self._write_oldest():
                    wait_s = RETRY_S
        finally:
            self._task = None
        log.info("all_written")

    async def _write_oldest(self) -> bool:
        """Write the steps of the oldest calls; False where nothing could be."""
        calls = [call_id for call_id in self._by_call if call_id not in self._under_way]
        results = await asyncio.gather(*(self._write_call(call_id) for call_id in calls[:UNWRITTEN_AT_ONCE]))
        return any(results)

    async def _write_call(self, call_id: str) -> bool:
        """Write what is kept of one call; whether all of it is written."""
        with call_log.spoken_of(self._by_call[call_id][0].facts):
            return await self._write_steps(call_id)

    async def _write_steps(self, call_id: str) -> bool:
        owed, written = self._by_call[call_id], True
        self._under_way.add(call_id)
        try:
            while owed:
                try:
                    await owed[0].write()
                except LedgerUnavailable as error:
                    log.error("not_written_yet", call=call_id, what=owed[0].what, error=str(error))
                    return False
                except Exception as error:
                    # The store can take steps, and this one it refuses: it would refuse it for ever.
                    log.critical("given_up_unwritten", call=call_id, what=owed[0].what, error=repr(error))
                    written = False
                    self.given_up += 1
                owed.popleft()
                self._steps -= 1
        finally:
            self._under_way.discard(call_id)
            if not owed:
                self._by_call.pop(call_id, None)
        return written
