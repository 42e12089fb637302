"""Who looks on at the real switch: a call appears with what is left of it and vanishes, and stopping ends it all."""

import asyncio
import json
import re
import signal
from typing import Any

import aiohttp

from tests.switch.conftest import Spine
from tests.terminal import on_terminal

LONDON, PREMIUM = "02079460100", "09098790000"
WITHIN_S = 15.0
LEFT = re.compile(rf"alice +outbound +{LONDON} +talking +\d+:\d\d +\d+:\d\d")


async def test_top_shows_a_call_with_what_is_left_of_it_until_it_is_over(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", "alice", countries=["GB"])
    async with on_terminal(spine.server.config_path, "top") as terminal:
        await terminal.shows("calls 0")
        stay = asyncio.create_task(spine.call("alice", LONDON, hang_up_after_s=20))
        row = await spine.server.talking("alice")
        await terminal.shows("talking")
        assert LEFT.search(terminal.written)
        # The decision stands there with its reason and clause.
        await terminal.shows("allowed 1")
        await spine.server.ask("hangup", call=row["call"])
        await stay
        await terminal.shows("calls 0", after=terminal.written.rfind("talking"))
        terminal.process.send_signal(signal.SIGINT)
        assert await terminal.ended() == 0


class Page:
    """A page that keeps its table by a list of calls and the events after it."""

    def __init__(self, answer: aiohttp.ClientResponse, calls: list[dict[str, Any]]) -> None:
        self._answer = answer
        self.table = {row["call"]: row for row in calls}
        self.heard: list[dict[str, Any]] = []

    async def until(self, name: str) -> dict[str, Any]:
        """Read on to the next event of that name, and keep the table."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                block = (await self._answer.content.readuntil(b"\n\n")).decode()
                assert block, "the stream ended"
                fields = dict(line.split(": ", 1) for line in block.splitlines() if line and line[0] != ":")
                if "data" not in fields:
                    continue
                event: dict[str, Any] = json.loads(fields["data"])
                self.heard.append(event)
                if event["event"] == "call":
                    self.table[event["call"]] = event
                elif event["event"] == "call_gone":
                    self.table.pop(event["call"], None)
                if event["event"] == name:
                    return event


async def test_a_page_keeps_its_table_by_events_and_stopping_ends_its_stream(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", "alice", countries=["GB"])
    made = await spine.server.command("token", "add", "page", "--json")
    headers = {"Authorization": f"Bearer {made.json['token']}"}
    url = f"{spine.server.http_url}/v1"
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.get(f"{url}/calls") as listed:
            calls, since = await listed.json(), listed.headers["Event-Id"]
        assert calls == []
        async with session.get(f"{url}/events", params={"after": since, "account": "acme"}) as answer:
            page = Page(answer, calls)
            stay = asyncio.create_task(spine.call("alice", LONDON, hang_up_after_s=20))
            decision = await page.until("decision")
            assert (decision["decision"], decision["line"], decision["dialled"]) == ("allow", "alice", LONDON)
            answered = await page.until("answered")
            [row] = page.table.values()
            assert (row["call"], row["state"], row["kind"]) == (answered["call"], "talking", "outbound")
            assert row["left_s"] > 0
            await spine.server.ask("hangup", call=row["call"])
            settled = await page.until("settled")
            await stay
            assert (settled["call"], settled["cut_by"]) == (row["call"], None)
            if page.table:
                await page.until("call_gone")
            assert page.table == {}
            await spine.call("alice", PREMIUM)
            refused = await page.until("decision")
            assert (refused["decision"], refused["reason"]) == ("refuse", "class_not_covered")
            assert page.table == {}
            ids = [event["id"] for event in page.heard]
            assert ids == sorted(set(ids))
            await spine.server.idle()
            assert await spine.server.stop() < 2.0
            async with asyncio.timeout(WITHIN_S):
                assert await answer.content.read() == b""
