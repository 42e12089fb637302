"""A bounded queue for each call, with one consumer: order within a call, independence between calls.

A call is opened by the event that brings a channel into the application, or by hand for a call that
came another way. Further channels join it. Work for a channel that belongs to no call is dropped: its
call is over. Nothing here waits, so that the reader of the event socket can put at any time.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

log = structlog.get_logger(__name__)

Work = Callable[[], Awaitable[None]]


class CallQueue:
    """The queue of one call. Opened and closed by `CallQueues`."""

    __slots__ = ("_wake", "_work", "channels", "closed", "depth_max", "key", "lost", "task")

    def __init__(self, key: str, depth_max: int) -> None:
        self.key = key
        self.channels: set[str] = set()
        self.depth_max = depth_max
        self.lost = 0
        self.closed = False
        self.task: asyncio.Task[None] | None = None
        self._work: list[Work] = []
        self._wake: asyncio.Future[None] | None = None

    def put(self, work: Work) -> bool:
        """Queue work; False where the bound is reached and it was dropped."""
        if len(self._work) >= self.depth_max:
            self.lost += 1
            return False
        self._work.append(work)
        self._stir()
        return True

    def close(self) -> None:
        """Nothing more is taken; the consumer ends after what is queued."""
        self.closed = True
        self._stir()

    def reopen(self) -> None:
        """Take work again; for a call that begins while the consumer has not ended yet."""
        self.closed = False

    def _stir(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def consume(self) -> None:
        """Run queued work in order until closed."""
        while True:
            while self._work:
                work = self._work.pop(0)
                try:
                    await work()
                except Exception:
                    # One event's fault must not end the call's consumer: later events settle the call.
                    log.exception("call_event_failed", call=self.key)
            if self.closed:
                return
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake


class CallQueues:
    """All calls. calls_max and depth_max bound what can be held."""

    def __init__(self, *, calls_max: int = 20_000, depth_max: int = 64) -> None:
        self._by_channel: dict[str, CallQueue] = {}
        self._calls_max = calls_max
        self._depth_max = depth_max
        self._open: set[CallQueue] = set()
        self._stopping = False
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._open)

    def open(self, channel_id: str) -> CallQueue | None:
        """The queue of that channel's call, made if need be; None past the bound or while stopping."""
        queue = self._by_channel.get(channel_id)
        if queue is not None:
            return queue
        if self._stopping or len(self._open) >= self._calls_max:
            log.error("call_not_taken", channel=channel_id, calls=len(self._open), stopping=self._stopping)
            return None
        queue = CallQueue(channel_id, self._depth_max)
        self._open.add(queue)
        self.join(queue, channel_id)
        queue.task = asyncio.create_task(self._consume(queue), name=f"call-{channel_id}")
        return queue

    def find(self, channel_id: str) -> CallQueue | None:
        """The queue of the call that a channel belongs to."""
        return self._by_channel.get(channel_id)

    def join(self, queue: CallQueue, channel_id: str) -> None:
        """Events of that channel belong to this call from now on."""
        self._by_channel[channel_id] = queue
        queue.channels.add(channel_id)

    def put(self, channel_ids: Sequence[str], work: Work, *, opens: bool) -> None:
        """Queue work at the call of the first channel that has one; `opens`: make one for the first."""
        for channel_id in channel_ids:
            queue = self._by_channel.get(channel_id)
            if queue is not None:
                break
        else:
            queue = self.open(channel_ids[0]) if opens else None
        if queue is not None and not queue.put(work):
            self.dropped += 1
            log.error("call_event_dropped", call=queue.key, waiting=queue.depth_max)

    async def _consume(self, queue: CallQueue) -> None:
        try:
            await queue.consume()
        finally:
            self._open.discard(queue)
            for channel_id in queue.channels:
                if self._by_channel.get(channel_id) is queue:
                    del self._by_channel[channel_id]

    async def stop(self, timeout_s: float) -> None:
        """Take no further calls; give the consumers so long to finish what is queued, then end them."""
        self._stopping = True
        tasks = [queue.task for queue in self._open if queue.task is not None]
        for queue in self._open:
            queue.close()
        if not tasks:
            return
        _done, late = await asyncio.wait(tasks, timeout=timeout_s)
        for task in late:
            task.cancel()
        if late:
            log.error("calls_not_finished", calls=len(late))
            await asyncio.gather(*late, return_exceptions=True)
