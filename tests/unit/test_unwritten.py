"""What calls owe the ledger while it cannot be written: kept in order, within a bound, written when it is back."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import structlog

from fairdial import desk as desk_module
from fairdial import unwritten as unwritten_module
from fairdial.clock import Moment
from fairdial.desk import Desk, DeskRules, Failed
from fairdial.ledger.contract import Grant, GrantState, LedgerSlow, LedgerUnavailable, LimitsOf, NotFound
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.book import PolicyBook
from fairdial.unwritten import Unwritten
from tests.samples import NOON_MS, SetClock, authorise, outbound, plan, provision
from tests.unit.test_desk import NUMBERING, Store, asked


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits seconds for a second try here."""
    monkeypatch.setattr(unwritten_module, "RETRY_S", 0.01)
    monkeypatch.setattr(unwritten_module, "RETRY_MAX_S", 0.02)
    monkeypatch.setattr(unwritten_module, "WRITE_WITHIN_S", 0.05)
    monkeypatch.setattr(unwritten_module, "LAST_TRY_S", 0.05)


class Book:
    """Takes steps, or not: while `down` it is unavailable, while `stuck` it does not answer."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.down = False
        self.stuck: asyncio.Event | None = None
        self.tried = asyncio.Event()

    async def take(self, text: str) -> None:
        self.tried.set()
        if self.stuck is not None:
            await self.stuck.wait()
        if self.down:
            raise LedgerUnavailable("disk full")
        self.written.append(text)


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture
async def unwritten() -> AsyncIterator[Unwritten]:
    kept = Unwritten()
    yield kept
    await kept.close()


async def drained(unwritten: Unwritten) -> None:
    async with asyncio.timeout(5):
        while len(unwritten):
            await asyncio.sleep(0.005)


async def test_what_the_store_takes_is_written_at_once_and_not_kept(unwritten: Unwritten, book: Book) -> None:
    assert await unwritten.write("call-1", "end", partial(book.take, "end"))
    assert (book.written, len(unwritten), unwritten.awaits("call-1")) == (["end"], 0, False)


async def test_what_the_store_does_not_take_is_written_in_order_when_it_is_back(
    unwritten: Unwritten, book: Book
) -> None:
    book.down = True
    for call in ("a", "b"):
        for what in ("answer", "end"):
            assert not await unwritten.write(call, what, partial(book.take, f"{call} {what}"))
    assert (len(unwritten), unwritten.awaits("a"), unwritten.awaits("c")) == (4, True, False)
    book.down = False
    await drained(unwritten)
    assert sorted(book.written) == ["a answer", "a end", "b answer", "b end"]
    for call in ("a", "b"):
        assert book.written.index(f"{call} answer") < book.written.index(f"{call} end")
    assert await unwritten.write("a", "more", partial(book.take, "a more"))
    assert book.written[-1] == "a more"


async def test_a_store_that_does_not_answer_holds_no_call_up(unwritten: Unwritten, book: Book) -> None:
    book.stuck = asyncio.Event()
    async with asyncio.timeout(1):
        assert not await unwritten.write("call-1", "answer", partial(book.take, "answer"))
        assert not await unwritten.write("call-1", "end", partial(book.take, "end"))
    book.stuck.set()
    await drained(unwritten)
    assert book.written == ["answer", "end"]


async def test_a_step_whose_caller_is_cancelled_is_not_lost(unwritten: Unwritten, book: Book) -> None:
    book.stuck = asyncio.Event()
    writing = asyncio.create_task(unwritten.write("call-1", "end", partial(book.take, "end")))
    await book.tried.wait()
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    assert writing.cancelled()
    assert unwritten.awaits("call-1")
    book.stuck.set()
    await drained(unwritten)
    assert book.written == ["end"]


async def test_a_step_that_the_store_refuses_is_given_up_aloud_and_stops_no_other(
    unwritten: Unwritten, book: Book
) -> None:
    async def refused() -> None:
        raise NotFound("no grant for call a")

    with structlog.testing.capture_logs() as logs:
        assert not await unwritten.write("a", "answer", refused)
        assert await unwritten.write("a", "end", partial(book.take, "a end"))
    assert (book.written, len(unwritten), unwritten.given_up) == (["a end"], 0, 1)
    [told] = [entry for entry in logs if entry["log_level"] == "critical"]
    assert (told["event"], told["call"], told["what"]) == ("given_up_unwritten", "a", "answer")
    assert "no grant for call a" in told["error"]


async def test_past_the_bound_the_oldest_call_is_given_up_aloud(
    unwritten: Unwritten, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unwritten_module, "UNWRITTEN_MAX", 4)
    book.down = True
    steps = [("a", "answer"), ("b", "answer"), ("a", "end"), ("b", "end")]
    with structlog.testing.capture_logs() as logs:
        for call, what in steps:
            await unwritten.write(call, what, partial(book.take, f"{call} {what}"))
        assert not [entry for entry in logs if entry["log_level"] == "critical"]
        await unwritten.write("c", "end", partial(book.take, "c end"))
        [told] = [entry for entry in logs if entry["log_level"] == "critical"]
    assert (told["event"], told["call"], told["what"]) == ("given_up_unwritten", "a", ["answer", "end"])
    assert [unwritten.awaits(call) for call in "abc"] == [False, True, True]
    assert (len(unwritten), unwritten.given_up) == (3, 2)
    book.down = False
    await drained(unwritten)
    assert sorted(book.written) == ["b answer", "b end", "c end"]


async def test_tries_become_rarer_but_never_stop(
    unwritten: Unwritten, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[float] = []
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(unwritten_module, "RETRY_MAX_S", 0.08)

    async def failing() -> None:
        tries.append(loop.time())
        if len(tries) < 7:
            raise LedgerUnavailable("locked")

    await unwritten.write("a", "end", failing)
    await drained(unwritten)
    waits = [after - before for before, after in pairwise(tries)]
    assert len(waits) == 6
    for wait_s, least_s in zip(waits, (0.01, 0.02, 0.04, 0.08, 0.08, 0.08), strict=True):
        assert wait_s >= least_s * 0.9


async def test_closing_tries_once_more_and_tells_what_is_left(book: Book) -> None:
    for down, left in ((False, 0), (True, 2)):
        kept = Unwritten()
        book.down = True
        for what in ("answer", "end"):
            await kept.write("a", what, partial(book.take, f"{what} {left}"))
        book.down = down
        with structlog.testing.capture_logs() as logs:
            await kept.close()
        told = [entry for entry in logs if entry["event"] == "given_up_unwritten"]
        assert [(entry["calls"], entry["steps"]) for entry in told] == ([(1, left)] if left else [])
        assert (len(kept), kept.given_up) == (0, left)
    assert book.written == ["answer 0", "end 0"]
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "unwritten"]


async def test_closing_does_not_wait_for_a_store_that_does_not_answer(book: Book) -> None:
    kept = Unwritten()
    book.stuck = asyncio.Event()
    await kept.write("a", "end", partial(book.take, "end"))
    async with asyncio.timeout(1):
        await kept.close()
    assert book.written == []


# --- through the desk ----------------------------------------------------------------------------


class Failing(Store):
    """The real ledger, whose steps of a call fail while `error` is set."""

    async def answered(self, call_id: str, leg: str, at_ms: int) -> Grant:
        self.fail()
        return await super().answered(call_id, leg, at_ms)

    async def settle(
        self,
        call_id: str,
        used_s: int,
        ended_ms: int,
        *,
        estimated: bool = False,
        answered_ms: int | None = None,
        limits: LimitsOf | None = None,
    ) -> Grant:
        self.fail()
        return await super().settle(
            call_id, used_s, ended_ms, estimated=estimated, answered_ms=answered_ms, limits=limits
        )

    async def release(self, call_id: str) -> None:
        self.fail()
        await super().release(call_id)

    async def renew(self, call_id: str, plan: Any, extend: Any) -> Grant:
        if self.before is not None:
            await self.before.wait()
        return await super().renew(call_id, plan, extend)

    def fail(self) -> None:
        if self.error is not None:
            raise self.error


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Failing]:
    ledger = await Failing.open(tmp_path / "ledger.sqlite")
    assert isinstance(ledger, Failing)
    await provision(ledger)
    yield ledger
    await ledger.close()


@pytest.fixture
async def desk(store: Failing) -> AsyncIterator[Desk]:
    desk = Desk(store, PolicyBook([plan()]), NUMBERING, SetClock(), DeskRules())
    yield desk
    await desk.close()


async def grant_of(ledger: SqliteLedger, call_id: str = "call-1") -> Grant:
    grant = await ledger.grant(call_id)
    assert grant is not None
    return grant


async def written(desk: Desk) -> None:
    async with asyncio.timeout(5):
        while desk.unwritten:
            await asyncio.sleep(0.005)


async def test_a_call_that_ends_while_the_store_is_down_is_settled_with_its_real_time(
    desk: Desk, store: Failing
) -> None:
    await authorise(store, outbound())
    store.error = LedgerUnavailable("disk full")
    assert not await desk.note_answer("call-1", "leg", Moment(NOON_MS + 4_000, 0))
    assert not await desk.note_end("call-1", 30, Moment(NOON_MS + 34_000, 0))
    assert desk.awaits("call-1")
    assert (await grant_of(store)).state is GrantState.RINGING
    store.error = None
    await written(desk)
    settled = await grant_of(store)
    assert (settled.used_s, settled.answered_ms, settled.ended_ms) == (30, NOON_MS + 4_000, NOON_MS + 34_000)
    assert (settled.leg, settled.estimated) == ("leg", False)
    assert not desk.awaits("call-1")


async def test_a_call_that_ends_while_the_store_is_up_is_settled_at_once(desk: Desk, store: Failing) -> None:
    await authorise(store, outbound())
    assert await desk.note_answer("call-1", "leg", Moment(NOON_MS, 0))
    assert await desk.note_end("call-1", 30, Moment(NOON_MS + 30_000, 0), estimated=True)
    settled = await grant_of(store)
    assert (settled.used_s, settled.estimated, desk.unwritten) == (30, True, 0)


async def test_what_is_taken_back_while_the_store_is_down_is_released_when_it_is_back(
    desk: Desk, store: Failing
) -> None:
    await authorise(store, outbound())
    store.error = LedgerSlow("not written within 10 s")
    desk.take_back("call-1")
    async with asyncio.timeout(5):
        while not desk.awaits("call-1"):
            await asyncio.sleep(0.005)
    assert (await grant_of(store)).live
    store.error = None
    await written(desk)
    assert (await grant_of(store)).used_s == 0


async def test_an_emergency_call_of_a_time_without_the_store_is_recorded_later(
    desk: Desk, store: Failing
) -> None:
    store.error = LedgerUnavailable("disk full")
    assert not isinstance(await desk.authorise(asked(number="999")), Failed)
    async with asyncio.timeout(5):
        while not desk.unwritten:
            await asyncio.sleep(0.005)
    assert await store.decisions() == ()
    store.error = None
    await written(desk)
    [record] = await store.decisions()
    assert (record.decision, record.dialled) == ("allow", "999")


async def test_more_seconds_are_had_in_time_or_asked_for_again(
    desk: Desk, store: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    await authorise(store, outbound())
    monkeypatch.setattr(desk_module, "RENEW_WITHIN_S", 0.05)
    store.before = asyncio.Event()
    with pytest.raises(LedgerSlow, match=r"call call-1: not renewed within 0\.05 s"):
        await desk.renew("call-1", 5_000)
    store.before = None
    assert ((await desk.renew("call-1", 5_000)).granted_s or 0) > 375
