"""News: who listens hears all in order, or is told that it missed some; who publishes waits for nobody."""

import asyncio
from collections.abc import Awaitable

import pytest

from fairdial.news import WAITING_MAX, News, Piece, TooManyListen
from tests.samples import NOON_MS

SMALL = 4


@pytest.fixture
def news() -> News:
    return News(lambda: NOON_MS, SMALL)


def names(piece: Piece) -> list[str]:
    return [item.name for item in piece.items]


async def within(work: Awaitable[Piece]) -> Piece:
    async with asyncio.timeout(5):
        return await work


async def waiting(news: News, count: int) -> None:
    async with asyncio.timeout(5):
        while news.waiting < count:
            await asyncio.sleep(0)


async def test_what_came_after_a_number_is_read_in_order_and_what_came_before_is_not(news: News) -> None:
    news.tell("first")
    since = news.last
    assert await news.read(since) == Piece((), since, False, False)
    news.tell("second", "acme", call="1")
    news.tell("third")
    piece = await news.read(since)
    assert names(piece) == ["second", "third"]
    assert (piece.items[0].account, piece.items[0].told, piece.items[0].at_ms) == (
        "acme",
        {"call": "1"},
        NOON_MS,
    )
    assert [item.id for item in piece.items] == [since + 1, since + 2]
    assert (piece.last, piece.missed) == (news.last, False)
    assert await news.read() == Piece((), news.last, False, False)


async def test_who_waits_is_woken_by_the_next_and_not_by_another_accounts(news: News) -> None:
    hearing = asyncio.create_task(news.read(account="acme", wait_s=5))
    await waiting(news, 1)
    news.tell("theirs", "other")
    await waiting(news, 1)
    assert not hearing.done()
    news.tell("ours", "acme")
    piece = await within(hearing)
    assert (names(piece), news.waiting) == (["ours"], 0)


async def test_where_nothing_comes_the_wait_ends_and_leaves_nothing_behind(news: News) -> None:
    piece = await within(news.read(wait_s=0.01))
    assert (piece.items, piece.closed, news.waiting) == ((), False, 0)


async def test_who_is_gone_waits_no_longer(news: News) -> None:
    hearing = asyncio.create_task(news.read(wait_s=5))
    await waiting(news, 1)
    hearing.cancel()
    await asyncio.gather(hearing, return_exceptions=True)
    assert news.waiting == 0


async def test_who_is_too_slow_is_told_and_reads_on_from_the_oldest_that_is_left(news: News) -> None:
    since = news.last
    for n in range(SMALL):
        news.tell(f"n{n}")
    assert not (await news.read(since)).missed
    news.tell("n4")
    piece = await news.read(since)
    assert (piece.missed, names(piece)) == (True, ["n1", "n2", "n3", "n4"])
    assert not (await news.read(piece.last)).missed


async def test_a_number_of_an_earlier_process_is_not_taken_for_one_of_this(news: News) -> None:
    news.tell("now")
    before = News(lambda: NOON_MS - 1, SMALL)
    before.tell("then")
    assert (await news.read(before.last)).missed
    assert (await news.read(news.last + 1)).missed
    assert not (await news.read(news.last)).missed


async def test_a_piece_has_an_end_and_the_next_begins_there(news: News) -> None:
    since = news.last
    for n in range(3):
        news.tell(f"n{n}")
    first = await news.read(since, limit=2)
    assert names(first) == ["n0", "n1"]
    assert names(await news.read(first.last, limit=2)) == ["n2"]


async def test_so_many_may_wait_and_no_more(news: News) -> None:
    hearing = [asyncio.create_task(news.read(wait_s=5)) for _ in range(WAITING_MAX)]
    await waiting(news, WAITING_MAX)
    with pytest.raises(TooManyListen, match="wait for events already"):
        await news.read(wait_s=5)
    # Who does not wait is served all the same.
    assert (await news.read()).items == ()
    news.tell("end")
    assert [names(piece) for piece in await asyncio.gather(*hearing)] == [["end"]] * WAITING_MAX


async def test_closing_sends_home_who_waits_and_who_comes_then(news: News) -> None:
    hearing = asyncio.create_task(news.read(wait_s=5))
    await waiting(news, 1)
    news.close()
    assert (await within(hearing)).closed
    assert (await within(news.read(wait_s=5))).closed
