"""What every route of the HTTP API shares: who may ask, how an error is told (RFC 9457), what is asked twice.

Leaves what can be asked to the routes (modules `api_*.py`), and tokens to `access.py`.
"""

from typing import Annotated, Any

import structlog
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as WebError

from fairdial.console.access import WAIT_S, Gate, may
from fairdial.console.once import OtherRequest
from fairdial.console.operations import OperationError
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


class Body(BaseModel):
    """What a request sends: a field that is not known is an error, not a wish that nobody hears."""

    model_config = ConfigDict(extra="forbid")


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


ERRORS: dict[int | str, dict[str, Any]] = {
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
Admin = Annotated[Token, Depends(_Needs(Role.ADMIN))]


def tell_errors(app: FastAPI, gate: Gate) -> None:
    """Tell all errors of `app` as problems, and let in whom `gate` knows."""
    app.state.gate = gate
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(WebError, _web_error)
    for kind in (OperationError, LedgerError, ValueError):
        app.add_exception_handler(kind, _not_done)
    app.add_exception_handler(Exception, _mistake)


async def _malformed(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = (
        f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors()[:20]
    )
    return problem(422, "The request is malformed", "; ".join(faults))


async def _web_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, WebError)
    title = _TITLES.get(error.status_code, "Not done")
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
