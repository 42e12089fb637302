"""Virtual time, and an event loop that does no I/O and takes what is ready in an order that the seed chooses.

Time moves only when nothing is ready. What is outside FairDial (the switch, the people who call, the network, the
disk) happens as entries of the `Timeline`; FairDial's own tasks run on a `SimulatedLoop`. A loop can be dropped at
any await, as by SIGKILL: none of its code runs again, not even a `finally`.
"""

import asyncio
import heapq
import inspect
import random
from collections import deque
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any

US_PER_S, US_PER_MS = 1_000_000, 1_000
CLOSE_TRIES = 10
"""A coroutine that waits in a `finally` must be closed once for each such wait."""

FOR_EVER = ("ari", "Writer._run", "Server._start", "rounds", "proofs", "Server._answer_agi")
"""Tasks that nobody waits for; none may end with an exception."""


class Timeline:
    """Virtual time in microseconds, and what happens in the world at which moment."""

    def __init__(self) -> None:
        self.now_us = 1_000 * US_PER_S
        self._entries: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()

    def at(self, when_us: int, happen: Callable[[], None]) -> None:
        """Let something happen at a moment; at the same moment, in the order of asking."""
        heapq.heappush(self._entries, (max(when_us, self.now_us), next(self._order), happen))

    def after(self, wait_us: int, happen: Callable[[], None]) -> None:
        """Let something happen later."""
        self.at(self.now_us + wait_us, happen)

    def next_us(self) -> int | None:
        """When the next entry is due."""
        return self._entries[0][0] if self._entries else None

    def happen_next(self) -> bool:
        """Let one entry that is due happen; False where none is."""
        if not self._entries or self._entries[0][0] > self.now_us:
            return False
        heapq.heappop(self._entries)[2]()
        return True


class SimulatedLoop(asyncio.BaseEventLoop):
    """Runs the tasks of one FairDial process. in_order: as asyncio does, first ready, first run."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, timeline: Timeline, chance: random.Random, *, in_order: bool) -> None:
        super().__init__()
        self.timeline = timeline
        self.dead = False
        self.failures: list[str] = []
        self._chance = chance
        self._in_order = in_order
        # Of asyncio's tasks also what they keep to themselves is needed.
        self._tasks: list[Any] = []
        self.set_task_factory(self._make_task)

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, context: Any = None
    ) -> "asyncio.Task[Any]":
        task: asyncio.Task[Any] = asyncio.Task(
            coroutine, loop=loop, name=getattr(coroutine, "__qualname__", None), context=context
        )
        self._tasks.append(task)
        return task

    def time(self) -> float:
        return self.timeline.now_us / US_PER_S

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.dead:
            self.failures.append(f"{context.get('message')}: {context.get('exception')!r}")

    def collect_due(self) -> None:
        """Timers whose moment has come become ready."""
        now_s = self.time() + 1e-9
        while self._scheduled and (self._scheduled[0].cancelled() or self._scheduled[0].when() <= now_s):
            timer = heapq.heappop(self._scheduled)
            if not timer.cancelled():
                self._ready.append(timer)

    def next_us(self) -> int | None:
        """When the next timer is due."""
        while self._scheduled and self._scheduled[0].cancelled():
            heapq.heappop(self._scheduled)
        return -int(-self._scheduled[0].when() * US_PER_S // 1) if self._scheduled else None

    def run_one(self) -> bool:
        """Run one of the handles that are ready; False where none is."""
        ready = self._ready
        if not ready:
            return False
        if not self._in_order and len(ready) > 1:
            ready.rotate(-int(self._chance.random() * len(ready)))
        handle = ready.popleft()
        if not handle.cancelled():
            handle._run()
        return True

    def begin(self, main: Coroutine[Any, Any, None]) -> None:
        """Be the loop that runs, and start with `main`."""
        asyncio._set_running_loop(self)
        self.create_task(main)

    def die(self) -> None:
        """Nothing of this process runs from now on."""
        for task in self._tasks:
            if task.get_name() in FOR_EVER and task.done() and not task.cancelled() and task.exception():
                self.failures.append(f"{task.get_name()} ended with {task.exception()!r}")
        self.dead = True
        self._ready.clear()
        self._scheduled.clear()
        asyncio._set_running_loop(None)

    def bury(self) -> None:
        """Give a dead loop's memory back. Its coroutines' `finally` blocks run now, in a world that is over."""
        assert self.dead
        asyncio._set_running_loop(self)
        try:
            for task in self._tasks:
                if not task.done():
                    task._log_destroy_pending = False
                    _close(task.get_coro())
        finally:
            asyncio._set_running_loop(None)
            self._tasks.clear()
            self.close()


def _close(coroutine: Any) -> None:
    if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED and coroutine.cr_frame is not None:
        # What it was to await was never begun either.
        for value in coroutine.cr_frame.f_locals.values():
            if inspect.iscoroutine(value):
                value.close()
    for _ in range(CLOSE_TRIES):
        try:
            coroutine.close()
        except (Exception, asyncio.CancelledError):
            continue
        return


class Pipe:
    """One direction of a connection: what is sent arrives in order, after a while that the seed chooses."""

    def __init__(self, timeline: Timeline, chance: random.Random, slowest_us: int) -> None:
        self._timeline = timeline
        self._chance = chance
        self._slowest_us = slowest_us
        self._last_us = 0
        self.open = True

    def send(self, arrive: Callable[[], None]) -> None:
        """Let `arrive` happen at the other end, unless the connection breaks before."""
        # Mostly quick, now and then as slow as may be.
        share = self._chance.random() ** 6
        wait_us = 80 + int(share * self._slowest_us)
        self._last_us = max(self._last_us, self._timeline.now_us + wait_us)
        self._timeline.at(self._last_us, lambda: arrive() if self.open else None)
