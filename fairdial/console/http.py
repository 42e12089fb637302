"""What every route of the HTTP API shares: how an error is told (RFC 9457), what is asked twice, what is logged of a
change, and how a long list is read in pages.

Leaves what can be asked to the routes (modules `api_*.py`), who may ask to `callers.py`, and how much is read to
`bodies.py`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import quote

import structlog
from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as WebError
from starlette.requests import ClientDisconnect

from fairdial.console.access import Gate
from fairdial.console.bodies import allow_file

# As routes write them.
from fairdial.console.callers import Admin as Admin
from fairdial.console.callers import Operator as Operator
from fairdial.console.callers import Viewer as Viewer
from fairdial.console.once import Once, OtherRequest
from fairdial.console.operations import OperationError, Operations
from fairdial.console.replays import NoRoom, ReplayBusy, ReplayUnknown
from fairdial.ledger.contract import (
    AlreadyExists,
    ConstraintViolated,
    IdempotencyConflict,
    LedgerError,
    LedgerUnavailable,
    NotFound,
    NotNow,
    NotOpen,
    Token,
    TooMany,
)

log = structlog.get_logger(__name__)

PROBLEM = "application/problem+json"

LIMIT_MAX = 1_000

T = TypeVar("T")

Text = Annotated[str, Field(min_length=1, max_length=80)]
Note = Annotated[str, Field(max_length=1_000)]
Instant = Annotated[int, Field(ge=0, lt=253_402_300_800_000)]
"""UTC milliseconds, up to the year 9999."""
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


class Page(BaseModel, Generic[T]):
    """A piece of a list."""

    items: list[T]
    next: str | None = Field(description="Send it as `after` to read on; null where this was the end.")


Limit = Annotated[int, Query(ge=1, le=LIMIT_MAX, description="At most so many.")]
After = Annotated[
    str | None, Query(max_length=200, description="`next` of the page before; left out for the first.")
]


def located(*path: str) -> str:
    """Where something that was made is found, for the header `Location`."""
    return "/".join(("/v1", *(quote(each, safe="+") for each in path)))


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


def error_answer(description: str) -> dict[str, Any]:
    """How an answer that is a problem is described (OpenAPI); `describe` says what a problem is."""
    return {
        "description": description,
        "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


ANSWERS = "answers.json"
"""Beside this module: an example of each answer, by "METHOD /route"; `tests/api_examples.py` writes it."""


def describe(app: FastAPI) -> dict[str, Any]:
    """The description of the API (OpenAPI), whole. Reads a file, and takes half a second."""
    told = app.openapi()
    told["components"]["schemas"]["Problem"] = Problem.model_json_schema()
    answers = json.loads(resources.files("fairdial.console").joinpath(ANSWERS).read_text("utf-8"))
    for path, operations in told["paths"].items():
        for method, operation in operations.items():
            answer = answers.get(f"{method.upper()} {path}")
            done = next(each for code, each in operation["responses"].items() if code.startswith("2"))
            if answer is not None:
                done["content"]["application/json"]["example"] = answer
    return told


ERRORS: dict[int | str, dict[str, Any]] = {
    code: error_answer(text)
    for code, text in (
        (400, "The body cannot be read"),
        (401, "No token, or one that nobody holds"),
        (403, "The token's role may not do this"),
        (404, "There is no such thing"),
        (408, "The body did not come in time"),
        (409, "It does not go with what is there"),
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
    408: "Too slow",
    413: "Too large",
    415: "Not that type",
}


async def _text(request: Request) -> str:
    try:
        return (await request.body()).decode("utf-8")
    except UnicodeDecodeError as error:
        raise HTTPException(400, f"the body is no UTF-8 text: byte {error.start}; convert it") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the body broke off; send it again") from error


async def _file(request: Request, _by: Admin) -> str:
    # `_by` stands before: who is nobody sends 8 MB into a closed door.
    allow_file(request.scope)
    return await _text(request)


SmallText = Annotated[str, Depends(_text)]
"""A body that is a text, of the size that any body may have."""

FileText = Annotated[str, Depends(_file)]
"""A body that is a text as large as a file of many thousand rows. For admins."""


def text_body(examples: Mapping[str, str]) -> dict[str, Any]:
    """How such a body is described (OpenAPI): an example for each media type that is taken."""
    content = {each: {"schema": {"type": "string"}, "example": example} for each, example in examples.items()}
    return {"requestBody": {"required": True, "content": content}}


class Acts:
    """How routes have operations carried out."""

    def __init__(self, operations: Operations, once: Once) -> None:
        self._operations = operations
        self._once = once

    async def look(self, operation: str, **given: Any) -> Any:
        """What an operation that changes nothing answers; what is None is left out. Raises what it raises."""
        return await self._operations.call(operation, _given(given))

    async def page(
        self, shape: Callable[..., T], key: str, limit: int, operation: str, **given: Any
    ) -> Page[T]:
        """A page of at most `limit` of what an operation lists, each of which is known by `key`."""
        rows = await self.look(operation, limit=limit + 1, **given)
        last = str(rows[limit - 1][key]) if len(rows) > limit else None
        return Page(items=[shape(**row) for row in rows[:limit]], next=last)

    async def change(self, by: Token, key: str | None, operation: str, /, **given: Any) -> Any:
        """What an operation that changes something answers; with a key once for each. The log says who did it."""
        given = _given(given)

        async def work() -> Any:
            done = await self._operations.call(operation, given)
            log.info("changed", by=by.name, operation=operation, **_told(operation, given))
            return done

        # Of a file a digest: a thousand requests are remembered.
        text = given.get("text", "")
        asked = {**given, "text": hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()}
        return await self._once.do_for(by.name, key, (operation, asked), work)


def _given(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


_TOLD = frozenset(
    {"account", "line", "number", "first", "room", "call", "case", "policy", "card", "source"}
    | {"standing", "fraud", "services", "lift", "consent", "role", "step", "dismiss", "undo", "seconds"}
    | {
        "amount",
        "currency",
        "reference",
        "dry_run",
        "deadline_ms",
        "notice",
        "language",
        "request",
        "rule",
        "accept",
        "replay",
        "against",
    }
)
"""What the log has of a change: what was changed, and to what; no names of people, and nothing that they wrote."""


def _told(operation: str, given: Mapping[str, Any]) -> dict[str, Any]:
    of_token = {"of": given["name"]} if operation in ("token_add", "token_remove") else {}
    return of_token | {name: value for name, value in given.items() if name in _TOLD}


def tell_errors(app: FastAPI, gate: Gate, operations: Operations) -> None:
    """Tell all errors of `app` as problems, and let in whom `gate` knows, for what is its own by `operations`."""
    app.state.gate = gate
    app.state.operations = operations
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
    if isinstance(error, NoRoom):
        return problem(503, "There is no room", str(error))
    if isinstance(error, _CONFLICTS):
        return problem(409, "It does not go with what is there", str(error))
    if isinstance(error, NotFound | ReplayUnknown):
        return problem(404, "Not there", str(error))
    if isinstance(error, OtherRequest):
        return problem(422, "The key was used before", str(error))
    return problem(422, "Not done", str(error))


_CONFLICTS = (AlreadyExists, IdempotencyConflict, ConstraintViolated, TooMany, NotOpen, NotNow, ReplayBusy)
"""The request is well, but for what the ledger holds."""


async def _mistake(request: Request, error: Exception) -> Response:
    log.error("http_request_failed", method=request.method, error=type(error).__name__)
    return problem(500, "FairDial made a mistake", "its log has the details")
