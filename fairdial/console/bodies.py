"""How much of a request is read, and for how long it is waited for, whoever sends it.

A body is read when a route asks for it: so much as fits into BODY_BYTES_MAX, within BODY_WITHIN_S. A route that takes
files allows more of both once it knows who sends them (`allow_file`), and one that writes them to disk as they come
still more (`allow_stream`). Where an answer is given before the body was read, the connection is closed behind it,
since what still comes is no request: after a moment, in which it is read and dropped, as who is cut off while it sends
does not get the answer. Who does not even send the head of a request in time is not waited for either,
nor who does not take the answer (`Protocol`).
"""

import asyncio
import contextlib
import sys
from typing import Any

from fastapi import HTTPException
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

BODY_BYTES_MAX = 64 * 1024
BODY_WITHIN_S = 10.0

FILE_BYTES_MAX = 8 * 1024 * 1024
"""A rate card of 40,000 rows is about 2 MB. Only who may load one has so much read of what it sends."""
FILE_WITHIN_S = 60.0

STREAM_PIECE_WITHIN_S = 20.0
"""For the next piece of a body that is written to disk as it comes."""
STREAM_WITHIN_S = 1_800.0
"""For all of it: 64 MB over 300 kbit/s."""

LINGER_S = 1.0
"""For who still sends when its answer is given."""

TAKEN_WITHIN_S = 30.0
"""For the next piece of an answer to be taken."""

HEAD_WITHIN_S = 5.0
"""From the connection, or from the first byte of a further request on it."""

_INTAKE = "fairdial.intake"


class _Intake:
    """The body of one request."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        headers = dict(scope["headers"])
        announced = headers.get(b"content-length", b"0")
        # h11 lets no other texts through; what is longer than this is too large for any route.
        self._announced = int(announced) if announced.isdigit() and len(announced) < 20 else sys.maxsize
        self._receive = receive
        self._waits_for_leave = b"expect" in headers
        self._read = 0
        self._until_s: float | None = None
        self.whole = not self._announced and b"transfer-encoding" not in headers
        self.bytes_max = BODY_BYTES_MAX
        self.within_s = BODY_WITHIN_S
        self.piece_within_s = STREAM_WITHIN_S

    async def next_message(self) -> Message:
        """The next piece. Raises HTTPException."""
        if self.whole:
            return await self._receive()
        self._measure(self._announced)
        now_s = asyncio.get_running_loop().time()
        if self._until_s is None:
            self._until_s = now_s + self.within_s
        stalled_s = now_s + self.piece_within_s
        try:
            async with asyncio.timeout_at(min(self._until_s, stalled_s)):
                message = await self._receive()
        except TimeoutError:
            told = f"stalled for {self.piece_within_s:g} s" if stalled_s < self._until_s else ""
            told = told or f"did not come within {self.within_s:g} s"
            raise HTTPException(408, f"the body {told}; send it again") from None
        if message["type"] == "http.request":
            self._read += len(message.get("body", b""))
            self._measure(self._read)
            self.whole = not message.get("more_body", False)
        return message

    async def drop_rest(self) -> None:
        """Read what still comes, for LINGER_S."""
        if self._waits_for_leave:
            return  # nothing was sent yet
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                more = True
                while more:
                    message = await self._receive()
                    more = message["type"] == "http.request" and message.get("more_body", False)

    def _measure(self, size: int) -> None:
        if size > self.bytes_max:
            raise HTTPException(413, f"a request has at most {self.bytes_max} bytes here")


class Bounded:
    """Reads of no request more than it may have, and for no longer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        intake = _Intake(scope, receive)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and not intake.whole:
                MutableHeaders(scope=message)["Connection"] = "close"
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if last and not intake.whole:
                await send({**message, "more_body": True})
                await intake.drop_rest()
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        scope[_INTAKE] = intake
        await self._app(scope, intake.next_message, answer)


def allow_file(scope: Scope) -> None:
    """As much as a file has may be read of that request: only for who was let in, before anything is read."""
    intake = scope[_INTAKE]
    assert isinstance(intake, _Intake)
    intake.bytes_max, intake.within_s = FILE_BYTES_MAX, FILE_WITHIN_S


def allow_stream(scope: Scope, bytes_max: int) -> None:
    """As `allow_file`, for a body that is not held in memory: it may take long, but not stall."""
    intake = scope[_INTAKE]
    assert isinstance(intake, _Intake)
    intake.bytes_max, intake.within_s = bytes_max, STREAM_WITHIN_S
    intake.piece_within_s = STREAM_PIECE_WITHIN_S


class Protocol(H11Protocol):
    """HTTP/1.1 as uvicorn has it, on connections that are closed where nothing moves: there are few of them."""

    _too_late: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(TAKEN_WITHIN_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # Between requests uvicorn waits by itself, for `timeout_keep_alive`, until the first byte.
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._stop_waiting()
        elif self._too_late is None:
            self._wait_for_head()

    def _wait_for_head(self) -> None:
        self._too_late = self.loop.call_later(HEAD_WITHIN_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._too_late is not None:
            self._too_late.cancel()
            self._too_late = None
