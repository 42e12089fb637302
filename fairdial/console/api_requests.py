"""Requests for higher limits over HTTP: what a portal asks for its customers, and what people decide about it.

A portal holds a token of an operator: for its customers it asks, takes back what nobody has answered, and answers plans
that were proposed. To approve, decline or revoke needs an admin's, so that no portal grants itself what it asked for.
"""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from fairdial.console.api_accounts import Clause
from fairdial.console.callers import ListViewer, Needs, OfAccount, tied
from fairdial.console.http import (
    Acts,
    Admin,
    Body,
    Instant,
    Key,
    Limit,
    Page,
    Text,
    located,
)
from fairdial.console.once import Once
from fairdial.console.operations import Operations
from fairdial.ledger.contract import Role, Token
from fairdial.policy.requests import CYCLES_MAX, LIMIT_MAX, WORDS_MAX, RequestState

_ID_MAX = 2**53
Words = Annotated[str, Field(min_length=1, max_length=WORDS_MAX)]
Number = Annotated[int, Path(ge=1, le=_ID_MAX, description="Number of the request.", examples=[1])]
Approved = Annotated[
    int, Path(ge=1, le=_ID_MAX, description="Number of one that was approved.", examples=[2])
]
Proposed = Annotated[int, Path(ge=1, le=_ID_MAX, description="Number of a plan proposed.", examples=[3])]
AskOperator = Annotated[Token, Depends(Needs(Role.OPERATOR, tied(body=("account", "line"))))]
RequestViewer = Annotated[Token, Depends(Needs(Role.VIEWER, tied("request")))]
RequestOperator = Annotated[Token, Depends(Needs(Role.OPERATOR, tied("request")))]
InState = Annotated[RequestState | None, Query(description="In this state alone.")]
AfterRequest = Annotated[
    int | None, Query(ge=1, le=_ID_MAX, description="`next` of the page before; left out for the first.")
]


class HigherLimit(Body):
    """What a customer asks for."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"account": "acme", "rule": "allowances.voice", "limit": 3_600_000, "why": "a fair in May"}
            ]
        }
    )

    account: Text
    rule: Text = Field(
        description="The limit by its key in the account's policy file.", examples=["allowances.voice"]
    )
    limit: int = Field(ge=1, le=LIMIT_MAX, description="How much: seconds of talk, messages, or a number.")
    why: Words
    line: Text | None = Field(None, description="For this line alone, where each has its own.")
    until_ms: Instant | None = Field(None, description="How long it is wanted, UTC milliseconds.")
    by: Text | None = Field(None, description="Who asks, for people; the token's name is kept besides.")


class Approval(Body):
    """An approval: without an end named it holds until when it was asked for."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "a good customer", "cycles": 2}]})

    reason: Words
    starts: Literal["at_once", "next_cycle"] = "at_once"
    until_ms: Instant | None = None
    cycles: int | None = Field(None, ge=1, le=CYCLES_MAX, description="Billing cycles, the first counted.")
    endless: bool = False


class Decision(Body):
    """Why it is declined or revoked."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "the fair is over"}]})

    reason: Words


class Withdrawal(Body):
    """Who takes it back, and why."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "no more needed", "by": "Ann Lee"}]})

    reason: Annotated[str, Field(max_length=WORDS_MAX)] = ""
    by: Text | None = None


class Answer(Withdrawal):
    """A customer's answer to a minute plan that was proposed."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"accept": True, "by": "Ann Lee"}]})

    accept: bool


class Entry(BaseModel):
    """Something that was done about a request. at_ms: UTC."""

    at_ms: int
    what: str
    by: str
    note: str


class RequestRow(BaseModel):
    """A request. limit or adds: to how much, or by how much, in `unit`: "s", "messages" or "" for a number. from_ms,
    until_ms: for which time it holds, once approved. plan, price, currency, period: of a minute plan.
    """

    request: int
    account: str
    kind: str
    state: RequestState
    policy: str
    rule: str
    limit: int | None
    adds: int | None
    unit: str
    plan: str | None
    price: str | None
    currency: str | None
    period: str | None
    why: str
    asked_by: str
    asked_ms: int
    asked_until_ms: int | None
    clause: Clause
    changed_ms: int
    from_ms: int | None
    until_ms: int | None
    entries: list[Entry] | None = None


def _who(token: Token, person: str | None = None) -> str:
    return f"{person} ({token.name})" if person else token.name


def routes(operations: Operations, once: Once) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["requests"])
    acts = Acts(operations, once)

    @router.post(
        "/requests", summary="Ask for a higher limit; nothing changes until it is approved", status_code=201
    )
    async def ask(by: AskOperator, asked: HigherLimit, response: Response, key: Key = None) -> RequestRow:
        given = asked.model_dump(exclude={"by"}) | {"by": _who(by, asked.by)}
        if key is not None:
            # Kept with the request: repeated after a restart, it is still the same one.
            given["key"] = f"{by.name} {key}"
        made = RequestRow(**await acts.change(by, key, "request_add", **given))
        response.headers["Location"] = located("requests", str(made.request))
        return made

    @router.get("/requests", summary="Requests and minute plans, the newest first")
    async def requests(
        _by: ListViewer,
        account: OfAccount,
        state: InState = None,
        limit: Limit = 100,
        after: AfterRequest = None,
    ) -> Page[RequestRow]:
        given = {"account": account, "state": None if state is None else str(state), "after": after}
        return await acts.page(RequestRow, "request", limit, "request_list", **given)

    @router.get("/requests/{request}", summary="A request with all that was done about it")
    async def request_of(_by: RequestViewer, request: Number) -> RequestRow:
        return RequestRow(**await acts.look("request_show", request=request))

    async def changed(
        by: Token, key: str | None, operation: str, request: int, who: str, note: str, **given: object
    ) -> RequestRow:
        told = {"request": request, "by": who, "note": note, **given}
        return RequestRow(**await acts.change(by, key, operation, **told))

    @router.post("/requests/{request}/approve", summary="Raise the limit, or add the plan")
    async def approve(by: Admin, request: Number, given: Approval, key: Key = None) -> RequestRow:
        wanted = given.model_dump(exclude={"reason"})
        return await changed(by, key, "request_approve", request, _who(by), given.reason, **wanted)

    @router.post("/requests/{request}/decline", summary="Decline what is open")
    async def decline(by: Admin, request: Number, given: Decision, key: Key = None) -> RequestRow:
        return await changed(by, key, "request_decline", request, _who(by), given.reason)

    @router.post("/requests/{request}/revoke", summary="End what was approved")
    async def revoke(by: Admin, request: Approved, given: Decision, key: Key = None) -> RequestRow:
        return await changed(by, key, "request_revoke", request, _who(by), given.reason)

    @router.post("/requests/{request}/withdraw", summary="Take back what nobody has answered")
    async def withdraw(
        by: RequestOperator, request: Number, given: Withdrawal, key: Key = None
    ) -> RequestRow:
        return await changed(by, key, "request_withdraw", request, _who(by, given.by), given.reason)

    @router.post(
        "/requests/{request}/answer", summary="Accept or decline, for the customer, a plan that was proposed"
    )
    async def answer(by: RequestOperator, request: Proposed, given: Answer, key: Key = None) -> RequestRow:
        who = _who(by, given.by)
        return await changed(by, key, "plan_answer", request, who, given.reason, accept=given.accept)

    return router
