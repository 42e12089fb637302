"""Which call a record of the log speaks of: the one that is worked on, and no other."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from ari_handlers.queues import CallQueues
from fairdial import attempts as attempts_module
from fairdial import call_log, logs
from fairdial import unwritten as unwritten_module
from fairdial.attempts import Refusals
from fairdial.call_log import SIP_CALL_ID_MAX
from fairdial.config import Logs
from fairdial.ledger.contract import LedgerUnavailable
from fairdial.unwritten import Unwritten
from tests.unit.test_logs import libraries_log_as_before as libraries_log_as_before

log = structlog.get_logger("tests")


@pytest.fixture(autouse=True)
def of_nobody() -> Iterator[None]:
    structlog.contextvars.clear_contextvars()
    yield
    structlog.contextvars.clear_contextvars()


def heard() -> Any:
    """What is logged, with all that it says of its call."""
    return capture_logs(processors=[merge_contextvars])


async def test_work_of_a_call_speaks_of_it_and_so_does_what_it_starts() -> None:
    queues = CallQueues()
    done = asyncio.Event()

    async def later() -> None:
        log.info("task")

    async def work() -> None:
        log.info("work")
        asyncio.get_running_loop().call_later(0, lambda: log.info("timer"))
        await asyncio.create_task(later())
        asyncio.get_running_loop().call_later(0.01, done.set)

    with heard() as told:
        for channel in ("1.1", "2.2"):
            queues.put((channel,), work, opens=True, sip_call_id=f"{channel}@phone")
        await done.wait()
        await queues.stop(1)
    said = {(each["call"], each["sip_call_id"], each["event"]) for each in told}
    events = ("work", "task", "timer")
    assert said == {(channel, f"{channel}@phone", event) for channel in ("1.1", "2.2") for event in events}


async def test_a_call_id_that_is_known_later_is_told_from_then_on_and_the_first_one_stays() -> None:
    queues = CallQueues()

    async def work() -> None:
        log.info("work")

    with heard() as told:
        queue = queues.open("own-1")
        assert queue is not None
        queues.put(("own-1",), work, opens=False)
        await asyncio.sleep(0)
        for leg in ("first@phone", "second@carrier"):
            queues.put(("own-1",), work, opens=True, sip_call_id=leg)
        await queues.stop(1)
    assert [each["sip_call_id"] for each in told] == ["", "first@phone", "first@phone"]


async def test_what_is_written_behind_for_all_calls_speaks_of_each_by_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unwritten_module, "RETRY_S", 0.01)
    unwritten, down = Unwritten(), True

    async def call(name: str) -> None:
        call_log.speak_of(name, f"{name}@phone")

        async def write() -> None:
            if down:
                raise LedgerUnavailable("gone", "bring it back")
            log.info("settled")

        await unwritten.write(name, "end", write)

    with heard() as told:
        await asyncio.gather(call("a"), call("b"))
        down = False
        async with asyncio.timeout(5):
            while len(unwritten):
                await asyncio.sleep(0.01)
            while not any(each["event"] == "all_written" for each in told):
                await asyncio.sleep(0.01)
    settled = [(each["call"], each["sip_call_id"]) for each in told if each["event"] == "settled"]
    assert sorted(settled) == [("a", "a@phone"), ("b", "b@phone")]
    # It is of all calls, though one of them began it.
    [written] = [each for each in told if each["event"] == "all_written"]
    assert "call" not in written


async def test_refusals_that_are_added_up_speak_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by a timer, which the first of them starts."""
    monkeypatch.setattr(attempts_module, "TELL_EVERY_S", 0.01)
    told_of = asyncio.Event()

    def tell(_by: str, name: str, count: int) -> None:
        log.warning("dials_too_fast", source=name, refused=count)
        told_of.set()

    with heard() as told:
        call_log.speak_of("a", "a@phone")
        refusals = Refusals(tell)
        refusals.add("source", "192.0.2.1")
        await asyncio.wait_for(told_of.wait(), 5)
    assert [set(each) & {"call", "sip_call_id"} for each in told] == [set()]


@pytest.mark.parametrize("form", ["json", "console"])
async def test_a_hostile_call_id_is_one_line_and_has_a_bound(
    form: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.set_up(Logs(format=form))
    queues = CallQueues()
    hostile = 'x\r\n{"event": "decided"}\x1b[2J\u202e' + "y" * 5_000

    async def work() -> None:
        log.warning("work")

    queues.put(("1.1",), work, opens=True, sip_call_id=hostile)
    await queues.stop(1)
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert len(text) < SIP_CALL_ID_MAX + 250
    assert "\x1b[2J" not in text
    assert "\r" not in text
    if form == "json":
        told = json.loads(text)
        assert (told["call"], told["sip_call_id"]) == ("1.1", hostile[:SIP_CALL_ID_MAX])
