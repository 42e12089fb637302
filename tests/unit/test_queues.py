"""A queue for each call: order within, independence between, and nothing left behind."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from ari_handlers.queues import CallQueue, CallQueues


@pytest.fixture
async def queues() -> AsyncIterator[CallQueues]:
    calls = CallQueues(calls_max=3, depth_max=3)
    yield calls
    await calls.stop(0.5)


class Script:
    """Work that notes its name when it runs, and work that holds its consumer up until released."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.begun = asyncio.Event()
        self.release = asyncio.Event()

    def work(self, name: str) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            self.ran.append(name)

        return run

    async def hold(self) -> None:
        self.begun.set()
        await self.release.wait()


def opened(queues: CallQueues, channel: str) -> CallQueue:
    queue = queues.open(channel)
    assert queue is not None
    return queue


async def over(queue: CallQueue) -> None:
    """Return once the consumer has ended."""
    assert queue.task is not None
    await asyncio.wait_for(asyncio.shield(queue.task), 1)


async def held(queues: CallQueues, channel: str, script: Script) -> CallQueue:
    """A call whose consumer is busy."""
    queue = opened(queues, channel)
    queue.put(script.hold)
    await asyncio.wait_for(script.begun.wait(), 1)
    return queue


async def test_work_of_a_call_runs_in_order(queues: CallQueues) -> None:
    script = Script()
    for name in ("a", "b", "c"):
        assert queues.put(["1"], script.work(name), opens=True)
    queue = opened(queues, "1")
    queue.close()
    await over(queue)
    assert script.ran == ["a", "b", "c"]


async def test_call_that_is_held_up_holds_up_no_other(queues: CallQueues) -> None:
    script = Script()
    await held(queues, "1", script)
    queues.put(["1"], script.work("one"), opens=False)
    queues.put(["2"], script.work("two"), opens=True)
    other = opened(queues, "2")
    other.close()
    await over(other)
    assert script.ran == ["two"]


async def test_work_for_a_channel_of_no_call_is_dropped(queues: CallQueues) -> None:
    script = Script()
    assert not queues.put(["1"], script.work("a"), opens=False)
    assert len(queues) == 0
    assert queues.put(["1"], script.work("b"), opens=True)
    assert len(queues) == 1
    assert queues.dropped == 0  # only what a call had no room for


async def test_work_past_the_bound_is_dropped_and_counted(queues: CallQueues) -> None:
    script = Script()
    queue = await held(queues, "1", script)
    with capture_logs() as logs:
        taken = [queues.put(["1"], script.work(str(index)), opens=False) for index in range(5)]
    assert taken == [True, True, True, False, False]
    assert (queues.dropped, queue.lost) == (2, 2)
    assert [entry["event"] for entry in logs] == ["call_event_dropped"] * 2
    script.release.set()
    queue.close()
    await over(queue)
    assert script.ran == ["0", "1", "2"]


async def test_what_is_queued_when_a_call_closes_still_runs_and_what_comes_meanwhile_too(
    queues: CallQueues,
) -> None:
    script = Script()
    queue = await held(queues, "1", script)
    queue.put(script.work("before"))
    queue.close()
    assert queue.put(script.work("meanwhile"))
    script.release.set()
    await over(queue)
    assert script.ran == ["before", "meanwhile"]
    assert len(queues) == 0


async def test_work_for_a_call_that_is_over_is_refused(queues: CallQueues) -> None:
    """A timer that still holds the queue must learn that nothing runs there any more."""
    script = Script()
    queue = opened(queues, "1")
    assert queue.put(script.work("in time"))
    queue.close()
    await over(queue)
    assert queue.ended
    assert not queue.put(script.work("late"))
    assert queue.lost == 1
    assert script.ran == ["in time"]


async def test_reopened_call_goes_on(queues: CallQueues) -> None:
    script = Script()
    queue = await held(queues, "1", script)
    queue.close()
    queue.reopen()
    script.release.set()
    await asyncio.sleep(0)
    assert queues.put(["1"], script.work("next dial"), opens=False)
    queue.close()
    await over(queue)
    assert script.ran == ["next dial"]


async def test_call_opened_anew_before_its_queue_has_ended_keeps_it(queues: CallQueues) -> None:
    """One dial of a channel was refused, which closes the queue, and the next one begins in the same moment."""
    script = Script()
    queue = opened(queues, "1")
    await asyncio.sleep(0)
    queue.close()
    assert opened(queues, "1") is queue
    await asyncio.sleep(0)
    assert not queue.ended
    assert queues.put(["1"], script.work("next dial"), opens=False)
    queue.close()
    await over(queue)
    assert opened(queues, "1") is not queue  # and once it has ended, there is a new one
    assert script.ran == ["next dial"]


async def test_second_channel_joins_the_call(queues: CallQueues) -> None:
    script = Script()
    queue = opened(queues, "caller")
    queues.join(queue, "leg")
    assert queues.find("leg") is queue
    assert queues.put(["unknown", "leg"], script.work("leg"), opens=False)
    assert queues.put(["caller", "leg"], script.work("caller"), opens=True)
    assert len(queues) == 1
    queue.close()
    await over(queue)
    assert script.ran == ["leg", "caller"]


async def test_nothing_of_a_call_that_is_over_is_kept(queues: CallQueues) -> None:
    queue = opened(queues, "caller")
    queues.join(queue, "leg")
    queue.close()
    await over(queue)
    queues.join(queue, "late leg")
    assert [queues.find(channel) for channel in ("caller", "leg", "late leg")] == [None, None, None]
    assert len(queues) == 0
    gone = weakref.ref(queue.task) if queue.task is not None else None
    del queue
    gc.collect()
    assert gone is not None
    assert gone() is None


async def test_channel_that_went_over_to_another_call_stays_there_when_the_first_ends(
    queues: CallQueues,
) -> None:
    first, second = opened(queues, "1"), opened(queues, "2")
    queues.join(first, "leg")
    queues.join(second, "leg")
    first.close()
    await over(first)
    assert queues.find("leg") is second


async def test_number_of_calls_is_bounded(queues: CallQueues) -> None:
    script = Script()
    for channel in ("1", "2", "3"):
        opened(queues, channel)
    with capture_logs() as logs:
        assert queues.open("4") is None
        assert not queues.put(["4"], script.work("four"), opens=True)
    assert [entry["event"] for entry in logs] == ["call_not_taken"] * 2
    first = opened(queues, "1")  # known already, so not a further call
    first.close()
    await over(first)
    assert queues.put(["4"], script.work("four"), opens=True)


async def _fails() -> None:
    raise RuntimeError("no such line")


async def _awaits_what_was_cancelled() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


@pytest.mark.parametrize("fault", [_fails, _awaits_what_was_cancelled])
async def test_fault_of_one_event_does_not_end_the_consumer(
    queues: CallQueues, fault: Callable[[], Awaitable[None]]
) -> None:
    script = Script()
    queue = opened(queues, "1")
    with capture_logs() as logs:
        queue.put(fault)
        queue.put(script.work("next"))
        queue.close()
        await over(queue)
    assert script.ran == ["next"]
    assert [(entry["event"], entry["call"]) for entry in logs] == [("call_event_failed", "1")]


async def test_stop_lets_consumers_finish_and_takes_no_further_call() -> None:
    queues, script = CallQueues(), Script()
    await held(queues, "1", script)
    queues.put(["1"], script.work("queued"), opens=False)
    stopping = asyncio.create_task(queues.stop(5))
    await asyncio.sleep(0)
    assert queues.open("2") is None
    assert not queues.put(["2"], script.work("new"), opens=True)
    script.release.set()
    with capture_logs() as logs:
        await asyncio.wait_for(stopping, 1)
    assert script.ran == ["queued"]
    assert len(queues) == 0
    assert logs == []


async def test_stop_without_calls_returns_at_once() -> None:
    await asyncio.wait_for(CallQueues().stop(60), 0.1)


async def _never_ends() -> None:
    await asyncio.Event().wait()


async def _fails_when_cancelled() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        raise RuntimeError("could not roll back")


@pytest.mark.parametrize("stuck", [_never_ends, _fails_when_cancelled])
async def test_stop_ends_a_stuck_consumer(stuck: Callable[[], Awaitable[None]]) -> None:
    queues, script = CallQueues(), Script()
    queue = opened(queues, "1")
    queue.put(stuck)
    queue.put(script.work("never"))
    await asyncio.sleep(0)
    begun_s = asyncio.get_running_loop().time()
    with capture_logs() as logs:
        await queues.stop(0.1)
    assert 0.09 < asyncio.get_running_loop().time() - begun_s < 0.5
    assert queue.ended
    assert len(queues) == 0
    assert queues.find("1") is None
    assert script.ran == []
    assert "calls_not_finished" in [entry["event"] for entry in logs]
    assert "calls_do_not_end" not in [entry["event"] for entry in logs]


async def test_stop_is_bounded_even_where_a_handler_refuses_to_end() -> None:
    queues = CallQueues()
    queue = opened(queues, "1")
    release = asyncio.Event()

    async def refuses() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    queue.put(refuses)
    await asyncio.sleep(0)
    with capture_logs() as logs:
        await asyncio.wait_for(queues.stop(0.1), 1)
    assert [entry["event"] for entry in logs] == ["calls_not_finished", "calls_do_not_end"]
    release.set()
    assert queue.task is not None
    await asyncio.wait([queue.task], timeout=1)
    assert len(queues) == 0
