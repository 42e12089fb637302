"""A bounded queue for each call, with one consumer: order within a call, independence between calls.

A call is opened by the event that brings a channel into the application, or by hand for a call that
came another way. Further channels join it. Work for a channel that belongs to no call is dropped: its
call is over. Nothing here waits, so that the reader of the event socket can put at any time.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from fairdial import call_log

log = structlog.get_logger(__name__)

CANCEL_TIMEOUT_S: Final = 0.2
"""For a consumer that was told to end; past it, it is left behind."""

Work = Callable[[], Awaitable[None]]


class CallQueue:
    """The queue of one call. Opened and closed by `CallQueues`."""

    __slots__ = ("_wake", "_work", "channels", "closed", "depth_max", "key", "lost", "sip_call_id", "task")

    def __init__(self, key: str, depth_max: int, sip_call_id: str = "") -> None:
        self.key = key
        self.sip_call_id = sip_call_id[: call_log.SIP_CALL_ID_MAX]
        self.channels: set[str] = set()
        self.depth_max = depth_max
        self.lost = 0
        self.closed = False
        self.task: asyncio.Task[None] | None = None
        self._work: deque[Work] = deque()
        self._wake: asyncio.Future[None] | None = None

    @property
    def ended(self) -> bool:
        """Whether the consumer is gone, so that nothing put here would ever run."""
        return self.task is not None and self.task.done()

    def put(self, work: Work) -> bool:
        """Queue work; False where it was dropped: the bound is reached, or the consumer has ended."""
        if self.ended or len(self._work) >= self.depth_max:
            self.lost += 1
            return False
        self._work.append(work)
        self._stir()
        return True

    @property
    def facts(self) -> call_log.Facts:
        """What the log says of this call."""
        return {"call": self.key, "sip_call_id": self.sip_call_id}

    def heard_of(self, sip_call_id: str) -> None:
        """The SIP Call-ID of a channel of this call; the first one is the call's."""
        self.sip_call_id = self.sip_call_id or sip_call_id[: call_log.SIP_CALL_ID_MAX]

    def close(self) -> None:
        """Let the consumer end as soon as nothing is queued."""
        self.closed = True
        self._stir()

    def reopen(self) -> None:
        """Keep the consumer; for a call that begins before it has ended."""
        self.closed = False

    def _stir(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def consume(self) -> None:
        """Run queued work in order until closed."""
        while True:
            while self._work:
                if not await self._run(self._work.popleft()):
                    return
            if self.closed:
                return
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake

    async def _run(self, work: Work) -> bool:
        """False where the consumer itself was told to end. One event's fault must not end it: later ones settle."""
        consumer = asyncio.current_task()
        assert consumer is not None
        # Each time: the Call-ID may have become known meanwhile.
        call_log.speak_of(self.key, self.sip_call_id)
        try:
            await work()
        except asyncio.CancelledError:
            if consumer.cancelling():
                raise
            log.error("call_event_failed", call=self.key, error="what it waited for was cancelled")
        except Exception:
            log.exception("call_event_failed", call=self.key)
        return not consumer.cancelling()


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

    def open(self, channel_id: str, sip_call_id: str = "") -> CallQueue | None:
        """The queue of that channel's call, made if need be; None past the bound or while stopping.

        One that was closed but has not ended yet is opened again. sip_call_id: the channel's, where it has one.
        """
        queue = self._by_channel.get(channel_id)
        if queue is not None:
            queue.heard_of(sip_call_id)
            if not self._stopping:
                queue.reopen()
            return queue
        if self._stopping or len(self._open) >= self._calls_max:
            log.error(
                "call_not_taken",
                call=channel_id,
                sip_call_id=sip_call_id[: call_log.SIP_CALL_ID_MAX],
                calls=len(self._open),
                stopping=self._stopping,
            )
            return None
        queue = CallQueue(channel_id, self._depth_max, sip_call_id)
        self._open.add(queue)
        self.join(queue, channel_id)
        queue.task = asyncio.create_task(self._consume(queue), name=f"call-{channel_id}")
        return queue

    def find(self, channel_id: str) -> CallQueue | None:
        """The queue of the call that a channel belongs to."""
        return self._by_channel.get(channel_id)

    def join(self, queue: CallQueue, channel_id: str) -> None:
        """Events of that channel belong to this call from now on; nothing happens where the call is over."""
        if queue.ended:
            return
        self._by_channel[channel_id] = queue
        queue.channels.add(channel_id)

    def put(self, channel_ids: Sequence[str], work: Work, *, opens: bool, sip_call_id: str = "") -> bool:
        """Queue work at the call of the first channel that has one; `opens`: make one for the first, whose Call-ID
        is `sip_call_id`.

        The other channels join that call. False where the work was dropped.
        """
        for channel_id in channel_ids:
            queue = self._by_channel.get(channel_id)
            if queue is not None:
                queue.heard_of(sip_call_id)
                break
        else:
            queue = self.open(channel_ids[0], sip_call_id) if opens else None
        if queue is None:
            return False
        # At once, not when the work is done: the next event may speak of the other channel alone.
        for channel_id in channel_ids:
            self._by_channel.setdefault(channel_id, queue)
            queue.channels.add(channel_id)
        if not queue.put(work):
            self.dropped += 1
            log.error("call_event_dropped", waiting=queue.depth_max, **queue.facts)
            return False
        return True

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
            _ended, stuck = await asyncio.wait(late, timeout=CANCEL_TIMEOUT_S)
            if stuck:
                log.critical("calls_do_not_end", calls=[task.get_name() for task in stuck])
