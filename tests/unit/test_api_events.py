"""Events over HTTP: what is told of calls, cases, accounts and parts; how a stream is resumed, bounded and ended."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fairdial.cases import Cases
from fairdial.clock import SystemClock
from fairdial.console import api, api_events, control
from fairdial.console.access import Gate
from fairdial.console.api import HttpServer, create_app
from fairdial.console.events import _OPERATIONS, Pulse, Reporter
from fairdial.console.operations import CallRow, Operations
from fairdial.desk import Asked, Desk
from fairdial.doctor import Finding
from fairdial.ledger.contract import NotFound
from fairdial.news import WAIT_S_MAX, WAITING_MAX, News
from fairdial.policy.account import Kind
from tests.unit.test_readiness import desk as desk
from tests.unit.test_readiness import path as path

PROJECT = Path(__file__).parents[2]
LONDON = "02079460100"
CALL = CallRow("call-1", "alice", "outbound", LONDON, "talking", 60, 3, 57)
WITHIN_S = 5.0


@dataclass
class Told:
    """A running server, and what it tells of."""

    server: HttpServer
    operations: Operations
    news: News
    desk: Desk
    token: str

    @asynccontextmanager
    async def stream(self, query: str = "", **headers: str) -> AsyncIterator["Stream"]:
        """An open stream: its first block was read."""
        sent = {"Authorization": f"Bearer {self.token}", **headers}
        url = f"http://127.0.0.1:{self.server.port}/v1/events{query}"
        async with aiohttp.ClientSession(headers=sent) as session, session.get(url) as answer:
            stream = Stream(answer)
            if answer.status == 200:
                stream.opened = await stream.block()
            yield stream

    async def none_waits(self) -> None:
        """Return when nobody waits for anything any more."""
        async with asyncio.timeout(WITHIN_S):
            while self.news.waiting:
                await asyncio.sleep(0)


class Stream:
    """What a client reads."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self.opened: dict[str, str] = {}

    async def block(self) -> dict[str, str]:
        """The fields of the next block; a comment is the field "". Raises EOFError at the end."""
        async with asyncio.timeout(WITHIN_S):
            text = await self.answer.content.readuntil(b"\n\n")
        if not text.endswith(b"\n\n"):
            raise EOFError
        lines = (line.partition(":") for line in text.decode().splitlines() if line)
        return {name: value.strip() for name, _, value in lines}

    async def rest(self) -> None:
        """Read to the end. Raises EOFError there."""
        while True:
            await self.block()

    async def event(self) -> dict[str, Any]:
        """The next event, with its name and number as the stream has them."""
        block = await self.block()
        told: dict[str, Any] = json.loads(block["data"])
        assert (block["event"], int(block["id"])) == (told["event"], told["id"])
        return told


@pytest.fixture
async def told(desk: Desk) -> AsyncIterator[Told]:
    news = News(desk.now_ms, 16)
    reporter = Reporter(news)
    desk.onlookers.append(reporter)
    cases = Cases(desk.ledger, lambda: desk.policies, changed=reporter.case_changed)
    operations = Operations(desk, calls=lambda: [CALL], news=news, cases=cases)
    server = HttpServer(create_app(operations, Gate(desk.ledger, SystemClock())), "127.0.0.1", 0)
    token = (await operations.call("token_add", {"name": "page", "role": "viewer"}))["token"]
    await server.start()
    yield Told(server, operations, news, desk, token)
    await server.stop()


def asked(call_id: str, line: str = "alice") -> Asked:
    return Asked(call_id, Kind.OUTBOUND, LONDON, line, f"channel-{call_id}", 30)


# --- what is told ------------------------------------------------------------------------------------


async def test_a_call_is_told_from_its_decision_to_its_end(told: Told) -> None:
    desk = told.desk
    async with told.stream() as stream:
        await desk.authorise(asked("call-1"))
        decision = await stream.event()
        assert (decision["event"], decision["decision"], decision["account"]) == ("decision", "allow", "acme")
        assert (decision["call"], decision["line"], decision["dialled"]) == ("call-1", "alice", LONDON)
        assert decision["clause"]["policy"] == "plan"
        assert decision["limit_s"] > 0
        answered = SystemClock().now()
        await desk.answered("call-1", "leg", answered)
        told_so = await stream.event()
        assert (told_so["event"], told_so["answered_ms"]) == ("answered", answered.wall_ms)
        await desk.settle("call-1", 2, SystemClock().now())
        settled = await stream.event()
        assert (settled["event"], settled["used_s"], settled["cut_by"]) == ("settled", 2, None)


async def test_a_call_that_used_all_of_its_grant_was_cut_by_its_rule(told: Told) -> None:
    async with told.stream() as stream:
        await told.desk.authorise(asked("call-1"))
        granted_s = (await stream.event())["limit_s"]
        await told.desk.answered("call-1", "leg", SystemClock().now())
        await stream.event()
        await told.desk.settle("call-1", granted_s, SystemClock().now())
        settled = await stream.event()
        assert settled["used_s"] == granted_s
        assert settled["cut_by"]


async def test_a_refusal_is_told_with_its_reason_and_a_repeated_question_once(told: Told) -> None:
    async with told.stream() as stream:
        await told.desk.authorise(asked("call-1", "nobody"))
        await told.desk.authorise(asked("call-1", "nobody"))
        await told.desk.authorise(asked("call-2"))
        first, second = await stream.event(), await stream.event()
        assert (first["decision"], first["reason"], first["account"]) == ("refuse", "line_unknown", None)
        assert (second["call"], second["decision"]) == ("call-2", "allow")


async def test_what_people_do_to_accounts_and_cases_is_told(told: Told) -> None:
    async with told.stream() as stream:
        await told.operations.call("account_list", {})  # which changes nothing
        await told.operations.call("account_standing", {"account": "acme", "standing": "suspended"})
        standing = await stream.event()
        assert (standing["event"], standing["account"], standing["standing"]) == (
            "standing",
            "acme",
            "suspended",
        )
        flagged = await told.operations.call("case_flag", {"account": "acme", "note": "resells", "by": "ann"})
        case = await stream.event()
        assert (case["event"], case["case"], case["opened"]) == ("case", flagged["case"], True)
        await told.operations.call("case_close", {"case": flagged["case"], "by": "ann"})
        assert (await stream.event())["state"] == "closed"


async def test_lines_policies_and_deadlines_are_told_too(told: Told) -> None:
    text = (PROJECT / "policies" / "voxdirect.toml").read_text()
    text = re.sub(r"(?m)^effective = .*$", "effective = 2099-01-01", text)
    async with told.stream() as stream:
        await told.operations.call("line_standing", {"line": "alice", "standing": "suspended"})
        line = await stream.event()
        assert (line["account"], line["line"], line["standing"]) == ("acme", "alice", "suspended")
        published = await told.operations.call("policy_publish", {"text": text, "where": "voxdirect.toml"})
        policy = await stream.event()
        assert (policy["event"], policy["policy"], policy["version"]) == (
            "policy",
            "voxdirect",
            published["version"],
        )
        case = (await told.operations.call("case_flag", {"account": "acme", "note": "x", "by": "ann"}))[
            "case"
        ]
        await stream.event()
        later = {"case": case, "deadline_ms": 1_900_000_000_000, "by": "ann"}
        await told.operations.call("case_deadline", later)
        assert (await stream.event())["deadline_ms"] == later["deadline_ms"]


async def test_an_operation_that_is_refused_is_no_event(told: Told) -> None:
    since = told.news.last
    with pytest.raises(NotFound):
        await told.operations.call("account_standing", {"account": "nobody", "standing": "suspended"})
    assert told.news.last == since


def test_the_bounds_leave_room_for_those_who_do_not_listen() -> None:
    assert api_events.STREAMS_MAX <= api.PEERS_MAX // 2
    assert api_events.STREAMS_MAX < WAITING_MAX < control.PEERS_MAX
    assert api_events.HEARTBEAT_S <= WAIT_S_MAX < control.REPLY_WITHIN_S


async def test_a_part_that_is_lost_and_one_that_is_back_is_told_and_one_that_stays_is_not(told: Told) -> None:
    well, lost = Finding("ami", True, "connected"), Finding("ami", False, "not connected", "see to it")
    parts = [well]
    pulse = Pulse(told.news, lambda: parts)
    since = told.news.last
    pulse.look()
    pulse.look()
    assert told.news.last == since
    parts[0] = lost
    pulse.look()
    pulse.look()
    parts[0] = well
    pulse.look()
    piece = await told.news.read(since)
    assert [item.told["well"] for item in piece.items] == [False, True]


async def test_a_stream_of_one_account_tells_of_no_other(told: Told) -> None:
    async with told.stream("?account=acme") as stream:
        told.news.tell("standing", "other")
        told.news.tell("part")
        told.news.tell("standing", "acme")
        assert (await stream.event())["account"] == "acme"


def test_the_page_has_each_event_and_no_other() -> None:
    sources = [*(PROJECT / "fairdial").rglob("*.py"), *(PROJECT / "ari_handlers").rglob("*.py")]
    told = {name for file in sources for name in re.findall(r'ews\.tell\(\s*"(\w+)"', file.read_text())}
    by_people = {name for name, _ in _OPERATIONS.values()}
    page = (
        (PROJECT / "docs" / "api.md")
        .read_text()
        .partition("| event | when | tells |")[2]
        .partition("\n\n")[0]
    )
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == told | by_people | {"missed"}
    assert {"decision", "call", "call_gone", "settled", "part"} <= told


# --- resuming ----------------------------------------------------------------------------------------


async def test_a_stream_goes_on_where_it_was_lost(told: Told) -> None:
    async with told.stream() as stream:
        since = int(stream.opened["id"])
        told.news.tell("first")
        read = (await stream.event())["id"]
    told.news.tell("second")
    async with told.stream(**{"Last-Event-ID": str(read)}) as stream:
        assert (await stream.event())["event"] == "second"
    # Who lost it before the first event has a number to come back with, too.
    async with told.stream(f"?after={since}") as stream:
        assert [(await stream.event())["event"] for _ in range(2)] == ["first", "second"]


async def test_who_was_away_for_too_long_is_told_so_and_goes_on(told: Told) -> None:
    since = told.news.last
    for n in range(20):
        told.news.tell(f"n{n}")
    async with told.stream(**{"Last-Event-ID": str(since)}) as stream:
        assert (await stream.block())["event"] == "missed"
        assert (await stream.event())["event"] == "n4"


async def test_the_list_of_calls_says_after_which_event_it_was_made(told: Told) -> None:
    url = f"http://127.0.0.1:{told.server.port}/v1/calls"
    headers = {"Authorization": f"Bearer {told.token}"}
    told.news.tell("before")
    async with aiohttp.ClientSession(headers=headers) as session, session.get(url) as answer:
        since = answer.headers["Event-Id"]
        assert [row["call"] for row in await answer.json()] == ["call-1"]
    told.news.tell("call_gone", "acme", call="call-1")
    async with told.stream(f"?after={since}") as stream:
        assert (await stream.event())["event"] == "call_gone"


@pytest.mark.parametrize("given", ["x", "-1", str(2**60)])
async def test_a_number_that_is_none_is_refused(told: Told, given: str) -> None:
    for query, headers in ((f"?after={given}", {}), ("", {"Last-Event-ID": given})):
        async with told.stream(query, **headers) as stream:
            assert stream.answer.status == 422


# --- bounds and ends -----------------------------------------------------------------------------------


async def test_a_stream_in_which_nothing_happens_says_that_it_is_there(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_events, "HEARTBEAT_S", 0.02)
    async with told.stream() as stream:
        for _ in range(2):
            assert (await stream.block())[""] == "nothing happened"
        told.news.tell("something")
        while "event" not in (block := await stream.block()):
            pass
        assert block["event"] == "something"


async def test_a_stream_whose_token_is_removed_ends(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_events, "HEARTBEAT_S", 0.02)
    async with told.stream() as stream:
        await stream.block()
        await told.operations.call("token_remove", {"name": "page"})
        with pytest.raises(EOFError):
            await stream.rest()


async def test_so_many_streams_are_open_and_no_more_and_one_that_is_closed_makes_room(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_events, "STREAMS_MAX", 2)
    async with told.stream(), told.stream() as second:
        async with told.stream() as third:
            assert third.answer.status == 503
            assert third.answer.headers["Retry-After"] == "2"
            assert "2 streams are open" in (await third.answer.json(content_type=None))["detail"]
        second.answer.close()
        async with asyncio.timeout(WITHIN_S):
            while True:
                async with told.stream() as third:
                    if third.answer.status == 200:
                        break
                await asyncio.sleep(0)
    await told.none_waits()


async def test_who_goes_away_frees_its_place_at_once(told: Told) -> None:
    async with told.stream() as stream:
        async with asyncio.timeout(WITHIN_S):
            while not told.news.waiting:
                await asyncio.sleep(0)
        stream.answer.close()
        await told.none_waits()


@pytest.mark.parametrize("by", ["news", "server"])
async def test_stopping_ends_the_streams(told: Told, by: str) -> None:
    loop = asyncio.get_running_loop()
    async with told.stream() as stream:
        began_s = loop.time()
        if by == "news":
            told.news.close()
        await told.server.stop()
        # A stream that is waited for would go on for ever; a busy machine takes some seconds to log its end.
        assert loop.time() - began_s < 15
        with pytest.raises((EOFError, aiohttp.ClientError)):
            await stream.rest()
    assert told.news.waiting == 0
