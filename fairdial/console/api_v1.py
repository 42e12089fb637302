"""The HTTP API under `/v1`: what a billing system, a portal or a dialler asks of a running FairDial.

Here stands what HTTP adds: who may ask, what a request looks like, how an error is told (RFC 9457). What is asked is
an operation, the same as on the command line. Calls that somebody asks for twice with one `Idempotency-Key` are
placed once.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Path, Request, Response, status
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as WebError

from fairdial.console.access import WAIT_S, Gate, may
from fairdial.console.once import Once, OtherRequest
from fairdial.console.operations import OperationError, Operations
from fairdial.ledger.contract import LedgerError, LedgerUnavailable, NotFound, Role, Token

log = structlog.get_logger(__name__)

PROBLEM = "application/problem+json"

Text = Annotated[str, Field(min_length=1, max_length=80)]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=100,
        description="Your own name for this request: repeated within an hour, it is not carried out again.",
    ),
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class CallbackRequest(_Body):
    """A callback."""

    line: Text = Field(description="Line that is rung first, and whose account pays.", examples=["alice"])
    number: Text = Field(description="The number wanted, as the line dials it.", examples=["02079460100"])
    first: Text | None = Field(None, description="Number to ring first instead of the line.")


class ParticipantRequest(_Body):
    """Somebody to be called into a conference."""

    line: Text = Field(description="Line whose account owns the room and pays.", examples=["alice"])
    number: Text = Field(description="Number to call, as the line dials it.", examples=["02079460123"])


class Callback(BaseModel):
    """What became of the request. call: its id, null where nothing rings; reason, cause (Q.850), text: why not."""

    decision: Literal["allow", "refuse"]
    call: str | None = None
    reason: str | None = None
    cause: int | None = None
    text: str | None = None


class Participant(BaseModel):
    """Somebody who is rung: the call's id, and the room."""

    model_config = ConfigDict(extra="allow")

    call: str


class Member(BaseModel):
    """Somebody in a conference. since_ms: UTC."""

    call: str
    line: str
    channel: str
    host: bool
    since_ms: int


class Room(BaseModel):
    """A conference in which somebody is. seats: taken, also by who is still rung."""

    account: str
    room: str
    since_ms: int
    seats: int
    members: list[Member]


class Call(BaseModel):
    """A call in progress that holds a grant. left_s: null where it has no end."""

    call: str
    line: str
    kind: str
    dialled: str
    state: str
    granted_s: int | None
    up_s: int | None
    left_s: int | None


class Problem(BaseModel):
    """What is wrong, where, and how to mend it (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


def problem(code: int, title: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as RFC 9457 has it."""
    body = Problem(title=title, status=code, detail=detail).model_dump()
    return JSONResponse(body, code, headers, media_type=PROBLEM)


_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"description": text, "content": {PROBLEM: {"schema": Problem.model_json_schema()}}}
    for code, text in (
        (400, "The body cannot be read"),
        (401, "No token, or one that nobody holds"),
        (403, "The token's role may not do this"),
        (404, "There is no such thing"),
        (413, "The request is too large"),
        (422, "The request cannot be carried out as it is"),
        (429, "Too many wrong tokens"),
        (503, "The ledger or the switch does not answer"),
    )
}

_TITLES = {
    400: "Not readable",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not there",
    405: "Not possible here",
}

_bearer = HTTPBearer(auto_error=False, description="A token that `fairdial token add` printed.")


class _Needs:
    """Lets in who holds a token of a role or of a higher one; the application's state has the gate."""

    def __init__(self, role: Role) -> None:
        self._role = role

    async def __call__(
        self, request: Request, sent: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> Token:
        gate: Gate = request.app.state.gate
        held = await gate.holder(None if sent is None else sent.credentials)
        if held is None:
            if gate.too_often(request.client.host if request.client else ""):
                wait = {"Retry-After": str(WAIT_S)}
                raise HTTPException(429, "too many wrong tokens; wait and send the right one", wait)
            detail = "send `Authorization: Bearer TOKEN` with one that `fairdial token add` made"
            raise HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})
        if not may(held.role, self._role):
            raise HTTPException(403, f"token {held.name!r} has role {held.role}; this needs {self._role}")
        return held


Viewer = Annotated[Token, Depends(_Needs(Role.VIEWER))]
Operator = Annotated[Token, Depends(_Needs(Role.OPERATOR))]


def mount(app: FastAPI, operations: Operations, gate: Gate) -> None:
    """Serve `/v1` on `app`, and tell all its errors as problems."""
    app.state.gate = gate
    app.include_router(_router(operations))
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(WebError, _web_error)
    for kind in (OperationError, LedgerError, ValueError):
        app.add_exception_handler(kind, _not_done)
    app.add_exception_handler(Exception, _mistake)


def _router(operations: Operations) -> APIRouter:
    router = APIRouter(prefix="/v1", responses=_ERRORS)
    once = Once()

    async def done_once(key: str | None, by: Token, asked: object, work: Callable[[], Awaitable[Any]]) -> Any:
        return await work() if key is None else await once.do((by.name, key), asked, work)

    @router.get("/calls", summary="Calls in progress that hold a grant")
    async def calls(_by: Viewer) -> list[Call]:
        return [Call(**row) for row in await operations.call("calls", {})]

    @router.delete("/calls/{call}", summary="End a call on all its legs", status_code=204)
    async def hang_up(_by: Operator, call: Annotated[str, Path(max_length=200)]) -> None:
        await operations.call("hangup", {"call": call})

    @router.post(
        "/callbacks",
        summary="Ring a line, or `first`, then the number, and join the two",
        status_code=202,
        responses={
            202: {"description": "It rings"},
            200: {"model": Callback, "description": "Refused: nothing rings"},
        },
    )
    async def callback(by: Operator, asked: CallbackRequest, response: Response, key: Key = None) -> Callback:
        given = asked.model_dump(exclude_none=True)
        placed = await done_once(key, by, ("callback", given), lambda: operations.call("callback", given))
        if placed["decision"] == "refuse":
            response.status_code = status.HTTP_200_OK
        return Callback(**placed)

    @router.get("/conferences", summary="Rooms in which somebody is, with who is there")
    async def conferences(_by: Viewer) -> list[Room]:
        return [Room(**row) for row in await operations.call("conference_list", {})]

    @router.post(
        "/conferences/{room}/participants",
        summary="Call a number into a room; it rings when this is answered",
        status_code=202,
    )
    async def add_participant(
        by: Operator,
        room: Annotated[str, Path(max_length=40)],
        asked: ParticipantRequest,
        key: Key = None,
    ) -> Participant:
        given = {"room": room, **asked.model_dump()}
        added = await done_once(
            key, by, ("participant", given), lambda: operations.call("conference_add", given)
        )
        return Participant(**added)

    return router


async def _malformed(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = (
        f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors()[:20]
    )
    return problem(422, "The request is malformed", "; ".join(faults))


async def _web_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, WebError)
    titles = {
        400: "Not readable",
        401: "Not authenticated",
        403: "Not allowed",
        404: "Not there",
        405: "Not possible here",
    }
    title = titles.get(error.status_code, "Not done")
    return problem(error.status_code, title, str(error.detail), dict(error.headers or {}))


async def _not_done(_request: Request, error: Exception) -> Response:
    if isinstance(error, LedgerUnavailable):
        return problem(503, "The ledger does not answer", str(error))
    if isinstance(error, NotFound):
        return problem(404, "Not there", str(error))
    if isinstance(error, OtherRequest):
        return problem(422, "The key was used before", str(error))
    return problem(422, "Not done", str(error))


async def _mistake(request: Request, error: Exception) -> Response:
    log.error("http_request_failed", method=request.method, error=type(error).__name__)
    return problem(500, "FairDial made a mistake", "its log has the details")
