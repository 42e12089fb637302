"""A request that a client repeats because it does not know what became of it is carried out once.

The client names a request with a key of its own (the header `Idempotency-Key`). What was answered is remembered
for as long as anybody would repeat it, in memory: what this is for, ringing somebody, ends with the process too.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

KEPT_MAX = 1_000
KEPT_S = 3_600.0


class OtherRequest(ValueError):
    """The key was used before, for another request."""


@dataclass(frozen=True, slots=True)
class _Kept:
    asked: object
    since_s: float
    answer: "asyncio.Future[Any]"


class Once:
    """What was carried out in the last hour, by its key; the oldest go first where there is too much."""

    def __init__(self) -> None:
        self._kept: OrderedDict[object, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    async def do(self, key: object, asked: object, work: Callable[[], Awaitable[Any]]) -> Any:
        """What `work` answers to `asked`, or answered before. Raises OtherRequest, and what `work` raises.

        A request that failed was not carried out, and may be repeated. Who gives up ends nothing.
        """
        now_s = asyncio.get_running_loop().time()
        self._forget(now_s - KEPT_S)
        kept = self._kept.get(key)
        if kept is None:
            while len(self._kept) >= KEPT_MAX:
                self._kept.popitem(last=False)
            task = asyncio.ensure_future(work())
            kept = self._kept[key] = _Kept(asked, now_s, task)
            task.add_done_callback(lambda done: self._drop_failed(key, done))
        elif kept.asked != asked:
            raise OtherRequest("this Idempotency-Key was used for another request; use a new one")
        return await asyncio.shield(kept.answer)

    async def do_for(
        self, who: str, key: str | None, asked: object, work: Callable[[], Awaitable[Any]]
    ) -> Any:
        """`do` for a key that is one client's own; without one, `work` is carried out each time."""
        return await work() if key is None else await self.do((who, key), asked, work)

    def _drop_failed(self, key: object, done: "asyncio.Future[Any]") -> None:
        kept = self._kept.get(key)
        if kept is not None and kept.answer is done and (done.cancelled() or done.exception() is not None):
            del self._kept[key]

    def _forget(self, before_s: float) -> None:
        while self._kept:
            key, oldest = next(iter(self._kept.items()))
            if oldest.since_s > before_s:
                return
            del self._kept[key]
