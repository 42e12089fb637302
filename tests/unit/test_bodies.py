"""What is read of a request, on a real socket: how much, for how long, and not before it is known who sends a file."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from io import BytesIO

import pytest

from fairdial.console import bodies
from fairdial.console.bodies import BODY_BYTES_MAX, FILE_BYTES_MAX
from tests.unit.test_api import CALLBACK, Api
from tests.unit.test_api import api as api
from tests.unit.test_readiness import desk as desk
from tests.unit.test_readiness import path as path

HEADER = "prefix,destination,rate_per_min,connect_fee,increment,minimum,effective\n"
CSV = {"Content-Type": "text/csv"}
CARD = "/v1/rates/standard?currency=EUR"
SOON_S = 0.2


@pytest.fixture
async def admin(api: Api) -> str:
    made = await api.operations.call("token_add", {"name": "admin", "role": "admin"})
    return str(made["token"])


@dataclass
class Line:
    """A connection on which a test sends what it likes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def says(self, text: str) -> None:
        self.writer.write(text.encode())
        await self.writer.drain()

    async def status(self) -> int:
        """Of the answer, whose body is read as well."""
        async with asyncio.timeout(5):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = next(line for line in head.splitlines() if line.startswith("content-length:"))
            await self.reader.readexactly(int(length.partition(":")[2]))
        return int(head.split()[1])

    async def closed(self) -> bool:
        """Whether the server closes it, having said no more."""
        async with asyncio.timeout(5):
            return await self.reader.read() == b""


@pytest.fixture
async def line(api: Api) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    yield Line(reader, writer)
    writer.close()


def head(method: str, target: str, token: str, length: int, *more: str) -> str:
    lines = (f"{method} {target} HTTP/1.1", "Host: fairdial", f"Authorization: Bearer {token}", *more)
    return "\r\n".join((*lines, f"Content-Length: {length}", "", ""))


async def test_a_rate_card_of_forty_thousand_rows_is_loaded(api: Api, admin: str) -> None:
    rows = "".join(f"+33{n:06},France {n},0.0{n % 9 + 1},0,60/60,,2026-01-01\n" for n in range(40_000))
    assert BODY_BYTES_MAX < len(HEADER + rows) < FILE_BYTES_MAX
    sent = (HEADER + rows).encode()
    status, card, _ = await api.ask("PUT", CARD, token=admin, data=BytesIO(sent), headers=CSV)
    assert (status, card["rates"]) == (200, 40_000)
    code, detail = await api.problem(
        "PUT", CARD, token=admin, data=BytesIO(sent + b"+44,x,y,,,,\n"), headers=CSV
    )
    assert (code, "standard.csv, line 40002, column rate_per_min" in detail) == (422, True)
    assert (await api.ask("GET", "/v1/rates"))[1] == [card]


async def test_an_import_of_five_thousand_entries_is_taken_or_tried(api: Api, admin: str) -> None:
    sent = ("line,account\n" + "".join(f"line-of-the-office-{n:05},acme\n" for n in range(5_000))).encode()
    assert len(sent) > BODY_BYTES_MAX
    answers = [
        (await api.ask("POST", f"/v1/imports{query}", token=admin, data=BytesIO(sent), headers=CSV))[1]
        for query in ("?dry_run=true", "", "")
    ]
    assert [(each["new"], each["there_already"], each["dry_run"]) for each in answers] == [
        (5_000, 0, True),
        (5_000, 0, False),
        (0, 5_000, False),
    ]


async def test_a_file_that_is_too_large_is_refused_whether_announced_or_not(
    api: Api, admin: str, line: Line
) -> None:
    await line.says(head("PUT", CARD, admin, FILE_BYTES_MAX + 1))
    assert (await line.status(), await line.closed()) == (413, True)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(9):
            yield b"#" * (FILE_BYTES_MAX // 8)

    assert (await api.problem("PUT", CARD, token=admin, data=chunks(), headers=CSV))[0] == 413
    assert (await api.ask("GET", "/v1/rates"))[1] == []


@pytest.mark.parametrize(("who", "status"), [("nobody", 401), ("viewer", 403), ("operator", 403)])
async def test_of_a_file_nothing_is_read_before_it_is_known_who_sends_it(
    api: Api, line: Line, who: str, status: int
) -> None:
    held = {"nobody": "none", "viewer": api.viewer, "operator": api.operator}[who]
    await line.says(head("PUT", CARD, held, FILE_BYTES_MAX))
    # Not a byte of it was sent, and the answer is there.
    assert (await line.status(), await line.closed()) == (status, True)


async def test_only_a_file_may_be_as_large_as_a_file(api: Api, admin: str, line: Line) -> None:
    await line.says(head("POST", "/v1/policies", admin, BODY_BYTES_MAX + 1))
    assert (await line.status(), await line.closed()) == (413, True)
    rows = HEADER + "+33,France,0.02,0,60/60,,2026-01-01\n"
    fitting = rows.ljust(BODY_BYTES_MAX + 1, "#").encode()
    assert (await api.ask("PUT", CARD, token=admin, data=fitting, headers=CSV))[0] == 200


@pytest.mark.parametrize(
    ("bound", "method", "target"),
    [("BODY_WITHIN_S", "POST", "/v1/callbacks"), ("FILE_WITHIN_S", "PUT", CARD)],
)
async def test_a_body_that_trickles_is_not_waited_for(
    api: Api, admin: str, line: Line, monkeypatch: pytest.MonkeyPatch, bound: str, method: str, target: str
) -> None:
    monkeypatch.setattr(bodies, bound, SOON_S)
    await line.says(head(method, target, admin, 1_000, "Content-Type: application/json"))

    async def trickle() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await line.says(" ")
                await asyncio.sleep(SOON_S / 10)

    trickling = asyncio.create_task(trickle())
    assert await line.status() == 408
    trickling.cancel()
    assert api.switch.rung == []


async def test_a_body_that_comes_in_time_in_pieces_is_a_request(api: Api, admin: str, line: Line) -> None:
    body = '{"line": "alice", "number": "02079460100"}'
    await line.says(head("POST", "/v1/callbacks", admin, len(body), "Content-Type: application/json"))
    for each in (body[:10], body[10:]):
        await line.says(each)
        await asyncio.sleep(0)
    assert await line.status() == 202
    assert len(api.switch.rung) == 1


@pytest.mark.parametrize("began", ["", "GET /v1/calls HTTP/1.1\r\nHost: fair"])
async def test_who_sends_no_request_is_not_waited_for(
    api: Api, monkeypatch: pytest.MonkeyPatch, began: str
) -> None:
    """There are few connections, and nobody may hold them all."""
    monkeypatch.setattr(bodies, "HEAD_WITHIN_S", SOON_S)
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    silent = Line(reader, writer)
    await silent.says(began)
    assert await silent.closed()
    writer.close()
    assert (await api.ask("POST", "/v1/callbacks", CALLBACK))[0] == 202


async def test_who_does_not_take_the_answer_is_not_waited_for(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "TAKEN_WITHIN_S", SOON_S)
    await api.ask("GET", "/openapi.json")
    asking = head("GET", "/openapi.json", api.viewer, 0).encode()
    loop, deaf = asyncio.get_running_loop(), socket.socket()
    deaf.setblocking(False)

    async def ask_on_and_on() -> None:
        # Each answer is 170 KB, and none is read: at the latest when no buffer takes more it is noticed.
        while True:
            await loop.sock_sendall(deaf, asking * 100)
            await asyncio.sleep(SOON_S / 10)

    with deaf:
        await loop.sock_connect(deaf, ("127.0.0.1", api.server.port))
        async with asyncio.timeout(10):
            with pytest.raises(ConnectionError):
                await ask_on_and_on()
    assert (await api.ask("POST", "/v1/callbacks", CALLBACK))[0] == 202


async def test_a_second_request_on_a_connection_is_served_and_a_half_one_is_not(
    api: Api, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "HEAD_WITHIN_S", SOON_S)
    asking = head("GET", "/v1/calls", api.viewer, 0)
    for _ in range(2):
        await line.says(asking)
        assert await line.status() == 200
    await line.says(asking[:20])
    assert await line.closed()


async def test_what_is_not_read_is_no_further_request(api: Api, line: Line) -> None:
    smuggled = head("DELETE", "/v1/calls/call-1", api.operator, 0)
    await line.says(head("GET", "/v1/calls", api.viewer, len(smuggled)) + smuggled)
    assert (await line.status(), await line.closed()) == (200, True)
