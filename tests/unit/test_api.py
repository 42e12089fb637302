"""The HTTP API: who is let in to do what, what is asked twice, what is too much, and how errors are told."""

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fairdial.clock import SystemClock
from fairdial.console import once as once_module
from fairdial.console.access import FAILED_PER_S_MAX, Gate
from fairdial.console.api import HttpServer, create_app
from fairdial.console.bodies import BODY_BYTES_MAX
from fairdial.console.once import Once, OtherRequest
from fairdial.console.operations import CallRow, OperationError, Operations
from fairdial.desk import Desk
from fairdial.ledger.contract import Ledger, LedgerUnavailable
from tests.unit.test_readiness import desk as desk
from tests.unit.test_readiness import path as path

LONDON = "02079460100"
CALL = CallRow("call-1", "alice", "outbound", LONDON, "talking", 60, 3, 57)


@dataclass
class Switch:
    """Stands for what rings: notes what it was asked, and refuses premium numbers."""

    rung: list[tuple[str, ...]] = field(default_factory=list)
    failing: Exception | None = None
    waits: asyncio.Event | None = None

    async def callback(self, line: str, number: str, first: str | None) -> dict[str, object]:
        if self.failing is not None:
            raise self.failing
        if self.waits is not None:
            await self.waits.wait()
        if number.startswith("09"):
            return {
                "call": None,
                "decision": "refuse",
                "reason": "class_not_covered",
                "cause": 21,
                "text": "No.",
            }
        self.rung.append((line, number, first or ""))
        return {"call": f"call-{len(self.rung)}", "decision": "allow"}

    async def add(self, room: str, number: str, line_id: str) -> dict[str, object]:
        if room == "full":
            raise ValueError("room full: no seat is left")
        self.rung.append((room, number, line_id))
        return {"call": "call-9", "room": room, "number": number, "line": line_id, "ringing": True}

    def rows(self) -> list[dict[str, object]]:
        member = {"call": "call-9", "line": "alice", "channel": "PJSIP/1", "host": True, "since_ms": 5}
        return [{"account": "acme", "room": "7001", "since_ms": 5, "seats": 2, "members": [member]}]

    async def hang_up(self, call: str) -> bool:
        return call == "call-1"


@dataclass
class Api:
    """A running server, its operations, and the tokens of a viewer and an operator."""

    server: HttpServer
    operations: Operations
    switch: Switch
    ledger: Ledger
    viewer: str
    operator: str

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = "",
        headers: Mapping[str, str] | None = None,
        data: Any = None,
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, body and headers of an answer. token: the operator's if left out, None for none."""
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token or self.operator}"
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                method, f"http://127.0.0.1:{self.server.port}{path}", json=body, data=data, headers=sent
            ) as answer,
        ):
            if answer.content_type == "text/event-stream":
                # It does not end: its first block says that it is open.
                await answer.content.readuntil(b"\n\n")
                return answer.status, None, answer.headers
            text = await answer.text()
            if answer.content_type == "text/html":
                return answer.status, text, answer.headers
            return answer.status, json.loads(text) if text else None, answer.headers

    async def problem(self, method: str, path: str, body: object = None, **how: Any) -> tuple[int, str]:
        """Status and detail of an answer that must be a problem."""
        status, told, headers = await self.ask(method, path, body, **how)
        assert headers["Content-Type"] == "application/problem+json"
        assert told["status"] == status
        assert told["title"]
        return status, told["detail"]


@pytest.fixture
async def api(desk: Desk) -> AsyncIterator[Api]:
    switch = Switch()
    operations = Operations(
        desk, calls=lambda: [CALL], hang_up=switch.hang_up, callback=switch.callback, rooms=switch
    )
    server = HttpServer(create_app(operations, Gate(desk.ledger, SystemClock())), "127.0.0.1", 0)
    tokens = [
        (await operations.call("token_add", {"name": role, "role": role}))["token"]
        for role in ("viewer", "operator")
    ]
    await server.start()
    yield Api(server, operations, switch, desk.ledger, *tokens)
    await server.stop()


CALLBACK = {"line": "alice", "number": LONDON}
PARTICIPANT = {"line": "alice", "number": LONDON}
MESSAGE = {"line": "alice", "to": LONDON, "kind": "sms"}
KEYED = {"Idempotency-Key": "order-1"}
"""Some requests are not taken without."""
DOORS: list[tuple[str, str, object, int]] = [
    ("GET", "/v1/calls", None, 200),
    ("GET", "/v1/conferences", None, 200),
    ("GET", "/v1/accounts/acme/statement", None, 200),
    ("DELETE", "/v1/calls/call-1", None, 204),
    ("POST", "/v1/callbacks", CALLBACK, 202),
    ("POST", "/v1/conferences/7001/participants", PARTICIPANT, 202),
    ("GET", "/v1/messages", None, 200),
    ("POST", "/v1/messages", MESSAGE, 200),
]
"""What there is, and what it answers to who may."""


# --- who is let in ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "route", "body", "status"), DOORS)
async def test_an_operator_may_do_everything_here(
    api: Api, method: str, route: str, body: object, status: int
) -> None:
    assert (await api.ask(method, route, body, headers=KEYED))[0] == status


@pytest.mark.parametrize(("method", "route", "body", "status"), DOORS)
async def test_without_a_token_and_with_a_wrong_one_nobody_is_let_in(
    api: Api, method: str, route: str, body: object, status: int
) -> None:
    del status
    for token in (None, "wrong", api.operator[:-1]):
        code, told, headers = await api.ask(method, route, body, token=token, headers=KEYED)
        assert (code, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "fairdial token add" in told["detail"]
    assert api.switch.rung == []


@pytest.mark.parametrize(("method", "route", "body", "status"), DOORS)
async def test_a_viewer_looks_and_does_nothing(
    api: Api, method: str, route: str, body: object, status: int
) -> None:
    found = (await api.ask(method, route, body, token=api.viewer, headers=KEYED))[0]
    assert found == (status if method == "GET" else 403)
    assert api.switch.rung == []


async def test_a_token_that_was_removed_lets_nobody_in(api: Api) -> None:
    await api.operations.call("token_remove", {"name": "operator"})
    assert (await api.ask("GET", "/v1/calls"))[0] == 401
    assert (await api.ask("GET", "/v1/calls", token=api.viewer))[0] == 200


async def test_who_guesses_is_told_to_wait_and_who_holds_a_token_is_not(api: Api) -> None:
    async with asyncio.timeout(5):
        codes = [(await api.ask("GET", "/v1/calls", token=f"guess-{n}"))[0] for n in range(30)]
    assert set(codes) == {401, 429}
    assert codes[:FAILED_PER_S_MAX] == [401] * FAILED_PER_S_MAX
    assert (await api.ask("GET", "/v1/calls"))[0] == 200


async def test_the_ledger_has_nothing_that_lets_anybody_in(api: Api, path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as raw:
        kept = [str(value) for row in raw.execute("SELECT * FROM tokens") for value in row]
    for secret in (api.viewer, api.operator):
        assert secret.startswith("fairdial_")
        assert not any(secret.removeprefix("fairdial_") in value for value in kept)
    assert not any("token" in row for row in await api.operations.call("token_list", {}))


# --- what is done ------------------------------------------------------------------------------------


async def test_a_callback_rings_or_is_refused_with_its_reason(api: Api) -> None:
    code, told, _ = await api.ask("POST", "/v1/callbacks", {**CALLBACK, "first": "07400123456"})
    assert (code, told["decision"], told["call"]) == (202, "allow", "call-1")
    assert api.switch.rung == [("alice", LONDON, "07400123456")]
    code, told, _ = await api.ask("POST", "/v1/callbacks", {**CALLBACK, "number": "09098790000"})
    assert (code, told["decision"], told["call"], told["reason"]) == (
        200,
        "refuse",
        None,
        "class_not_covered",
    )
    assert len(api.switch.rung) == 1


async def test_who_is_in_a_conference_is_told_and_somebody_is_called_in_or_not(api: Api) -> None:
    [room] = (await api.ask("GET", "/v1/conferences"))[1]
    assert (room["room"], room["members"][0]["line"]) == ("7001", "alice")
    code, told, _ = await api.ask("POST", "/v1/conferences/7001/participants", PARTICIPANT)
    assert (code, told["call"]) == (202, "call-9")
    refused = await api.problem("POST", "/v1/conferences/full/participants", PARTICIPANT)
    assert refused == (422, "room full: no seat is left")
    assert api.switch.rung == [("7001", LONDON, "alice")]


async def test_calls_are_listed_and_ended(api: Api) -> None:
    [call] = (await api.ask("GET", "/v1/calls"))[1]
    assert (call["call"], call["left_s"]) == ("call-1", 57)
    code, detail = await api.problem("DELETE", "/v1/calls/call-2")
    assert (code, "no live call 'call-2'" in detail) == (422, True)


# --- what is asked twice -----------------------------------------------------------------------------


async def test_the_same_request_with_the_same_key_rings_once(api: Api) -> None:
    api.switch.waits = asyncio.Event()
    key = {"Idempotency-Key": "order-1"}
    first, second = (
        asyncio.create_task(api.ask("POST", "/v1/callbacks", CALLBACK, headers=key)) for _ in range(2)
    )
    await asyncio.sleep(0)
    api.switch.waits.set()
    assert (await first)[:2] == (await second)[:2]
    assert (await api.ask("POST", "/v1/callbacks", CALLBACK, headers=key))[0] == 202
    assert len(api.switch.rung) == 1
    # Without a key, and with another, it is another request.
    await api.ask("POST", "/v1/callbacks", CALLBACK)
    await api.ask("POST", "/v1/callbacks", CALLBACK, headers={"Idempotency-Key": "order-2"})
    assert len(api.switch.rung) == 3


async def test_a_key_stands_for_one_request_of_one_holder(api: Api) -> None:
    key = {"Idempotency-Key": "order-1"}
    await api.ask("POST", "/v1/callbacks", CALLBACK, headers=key)
    other = {**CALLBACK, "number": "02079460101"}
    code, detail = await api.problem("POST", "/v1/callbacks", other, headers=key)
    assert (code, "was used for another request" in detail) == (422, True)
    added = await api.operations.call("token_add", {"name": "another", "role": "admin"})
    assert (await api.ask("POST", "/v1/callbacks", other, headers=key, token=added["token"]))[0] == 202
    assert len(api.switch.rung) == 2


async def test_what_failed_may_be_repeated_with_its_key(api: Api) -> None:
    key = {"Idempotency-Key": "order-1"}
    api.switch.failing = OperationError("the switch did not answer")
    assert (await api.problem("POST", "/v1/callbacks", CALLBACK, headers=key))[0] == 422
    api.switch.failing = LedgerUnavailable("ledger.sqlite: database is locked", "wait")
    code, detail = await api.problem("POST", "/v1/callbacks", CALLBACK, headers=key)
    assert (code, "database is locked" in detail) == (503, True)
    api.switch.failing = None
    assert (await api.ask("POST", "/v1/callbacks", CALLBACK, headers=key))[0] == 202


async def test_what_is_remembered_is_bounded_in_number_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    once, done = Once(), 0

    async def work() -> int:
        nonlocal done
        done += 1
        return done

    monkeypatch.setattr(once_module, "KEPT_MAX", 3)
    assert [await once.do(key, "", work) for key in "abca"] == [1, 2, 3, 1]
    assert await once.do("d", "", work) == 4
    assert len(once) == 3
    assert await once.do("a", "", work) == 5
    monkeypatch.setattr(once_module, "KEPT_S", 0.0)
    assert await once.do("a", "another", work) == 6
    monkeypatch.setattr(once_module, "KEPT_S", 60.0)
    with pytest.raises(OtherRequest):
        await once.do("a", "a third", work)


async def test_who_gives_up_ends_nothing_that_others_wait_for() -> None:
    once, may_end = Once(), asyncio.Event()

    async def work() -> str:
        await may_end.wait()
        return "rung"

    first = asyncio.create_task(once.do("key", "", work))
    await asyncio.sleep(0)
    second = asyncio.create_task(once.do("key", "", work))
    await asyncio.sleep(0)
    first.cancel()
    may_end.set()
    assert await second == "rung"


# --- what is wrong -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "body.line: Field required; body.number: Field required"),
        ({**CALLBACK, "lnie": "bob"}, "body.lnie: Extra inputs are not permitted"),
        ({**CALLBACK, "number": 5}, "body.number: Input should be a valid string"),
        ({**CALLBACK, "number": "5" * 81}, "body.number: String should have at most 80 characters"),
        ([], "body: "),
    ],
)
async def test_a_malformed_request_is_told_with_the_place(api: Api, body: object, words: str) -> None:
    code, detail = await api.problem("POST", "/v1/callbacks", body)
    assert (code, words in detail) == (422, True)
    assert api.switch.rung == []


@pytest.mark.parametrize(
    ("method", "route", "status"), [("GET", "/v1/nothing", 404), ("PUT", "/v1/calls", 405)]
)
async def test_what_is_not_there_is_a_problem_too(api: Api, method: str, route: str, status: int) -> None:
    assert (await api.problem(method, route))[0] == status


async def test_a_request_that_is_too_large_is_refused_whether_announced_or_not(api: Api) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * (BODY_BYTES_MAX // 16)

    for data in (b" " * (BODY_BYTES_MAX + 1), chunks()):
        with contextlib.suppress(aiohttp.ClientError):
            # The server may close before all of it is sent.
            assert (await api.problem("POST", "/v1/callbacks", data=data))[0] == 413
    fitting = json.dumps(CALLBACK).encode().ljust(BODY_BYTES_MAX)
    json_type = {"Content-Type": "application/json"}
    assert (await api.ask("POST", "/v1/callbacks", data=fitting, headers=json_type))[0] == 202
    assert len(api.switch.rung) == 1


async def test_a_mistake_is_told_without_its_inside(api: Api) -> None:
    api.switch.failing = RuntimeError("secret words")
    code, told, _ = await api.ask("POST", "/v1/callbacks", CALLBACK)
    assert (code, told["detail"]) == (500, "its log has the details")


async def test_answers_over_one_connection_do_not_wait_for_each_other(api: Api) -> None:
    loop, took_s = asyncio.get_running_loop(), []
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(connector=connector) as session:
        for _ in range(15):
            began_s = loop.time()
            async with session.get(f"http://127.0.0.1:{api.server.port}/healthz") as answer:
                await answer.read()
            took_s.append(loop.time() - began_s)
    # Where a kernel holds back the second part of an answer until the first is acknowledged, it takes 40 ms.
    assert sorted(took_s)[3] < 0.030
