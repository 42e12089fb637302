"""Events over HTTP, as Server-Sent Events (WHATWG HTML, "Server-sent events"): what happens, as it happens.

A stream asks the operation `events` again and again and waits for nothing else: what a listener has read up to is all
that there is of it. It ends where its client is gone, where its token is removed or its session over, and where
FairDial stops.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from fairdial.console.callers import Asking, Caller, ListViewer, OfAccount
from fairdial.console.http import Acts, error_answer, problem
from fairdial.console.once import Once
from fairdial.console.operations import OperationError, Operations
from fairdial.ledger.contract import LedgerError

STREAMS_MAX = 32
"""Streams at once; the server has as many connections again for everything else."""
HEARTBEAT_S = 15.0
"""Where nothing happens, a stream says that it is there; and so often asks whether its token holds."""
RETRY_MS = 2_000
"""After which a client that lost its stream is to come again."""

_ID_MAX = 2**53
EventId = Annotated[
    int | None,
    Header(alias="Last-Event-ID", ge=0, le=_ID_MAX, description="The event read last."),
]
AfterEvent = Annotated[
    int | None,
    Query(ge=0, le=_ID_MAX, description="The same, for who sends no header: `Event-Id` of `GET /v1/calls`."),
]


class Places:
    """Counts the streams."""

    def __init__(self) -> None:
        self.taken = 0


EVENT_SCHEMA: Final = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string"},
        "data": {"type": "string", "description": "The event as JSON."},
        "retry": {"type": "integer"},
    },
}
"""One event of the stream, by its fields."""


class EventStream(StreamingResponse):
    """A stream that holds one of STREAMS_MAX places for as long as it is sent, or is answered 503."""

    media_type = "text/event-stream"

    def __init__(self, content: AsyncIterator[str], places: Places) -> None:
        # no-store: it is of now. X-Accel-Buffering: proxies are to pass each event on at once.
        super().__init__(content, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._places = places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._places.taken >= STREAMS_MAX:
            detail = f"{STREAMS_MAX} streams are open; close one of them, or come again later"
            full = problem(503, "Too many streams", detail, {"Retry-After": str(RETRY_MS // 1_000)})
            await full(scope, receive, send)
            return
        self._places.taken += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._places.taken -= 1


def as_text(event: Mapping[str, Any]) -> str:
    """An event as the stream has it."""
    return f"id: {event['id']}\nevent: {event['event']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"


def routes(operations: Operations, once: Once) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["events"])
    acts = Acts(operations, once)
    places = Places()

    async def told(
        caller: Caller, after: int | None, account: str | None, first: Mapping[str, Any]
    ) -> AsyncIterator[str]:
        # An id without data tells of nothing, and is where the client goes on if it loses the stream before more comes.
        yield f"retry: {RETRY_MS}\nid: {first['last'] if after is None else after}\n\n"
        loop = asyncio.get_running_loop()
        look_s = loop.time() + HEARTBEAT_S
        piece: Mapping[str, Any] = first
        while True:
            if piece["missed"]:
                yield f"event: missed\ndata: {json.dumps({'event': 'missed', 'after': after})}\n\n"
            for event in piece["events"]:
                yield as_text(event)
            if piece["closed"]:
                return
            after = piece["last"]
            if loop.time() >= look_s:
                if not await _holds(caller):
                    return
                look_s = loop.time() + HEARTBEAT_S
                if not piece["events"]:
                    yield f": nothing happened\nid: {after}\n\n"
            try:
                left_s = max(0.0, look_s - loop.time())
                piece = await acts.look("events", after=after, account=account, wait_s=left_s)
            except OperationError:
                return  # too many wait: the client comes again

    @router.get(
        "/events",
        summary="What happens, as it happens: Server-Sent Events",
        status_code=200,
        response_class=EventStream,
        responses={
            200: {
                "description": "A stream that does not end by itself",
                "content": {EventStream.media_type: {"schema": EVENT_SCHEMA}},
            },
            503: error_answer("As many streams are open as there may be, or the ledger does not answer"),
        },
    )
    async def events(
        _by: ListViewer,
        caller: Asking,
        account: OfAccount,
        after: AfterEvent = None,
        last_event_id: EventId = None,
    ) -> EventStream:
        since = after if last_event_id is None else last_event_id
        first = await acts.look("events", after=since, account=account)
        return EventStream(told(caller, since, account, first), places)

    return router


async def _holds(caller: Caller) -> bool:
    """Whether who listens would still be let in; where the ledger does not answer, what it said last holds."""
    try:
        return await caller.holds()
    except LedgerError:
        return True
