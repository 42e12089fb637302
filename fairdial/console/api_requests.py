"""Requests for higher limits over HTTP: what a portal asks for its customers, and what people decide about it.

A portal holds a token of an operator: for its customers it asks, takes back what nobody has answered, and answers plans
that were proposed. To approve, decline or revoke needs an admin's, so that no portal grants itself what it asked for.
"""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from fairdial.console.http import Admin, Body, Key, Operator, Text, Viewer
from fairdial.console.once import Once
from fairdial.console.operations import Operations
from fairdial.ledger.contract import Token
from fairdial.policy.requests import CYCLES_MAX, LIMIT_MAX, WORDS_MAX, RequestState

Words = Annotated[str, Field(min_length=1, max_length=WORDS_MAX)]
Number = Annotated[int, Path(ge=1, le=2**53, description="Number of the request.")]
Instant = Annotated[int, Field(ge=0, le=2**53, description="UTC milliseconds.")]


class HigherLimit(Body):
    """What a customer asks for."""

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

    reason: Words
    starts: Literal["at_once", "next_cycle"] = "at_once"
    until_ms: Instant | None = None
    cycles: int | None = Field(None, ge=1, le=CYCLES_MAX, description="Billing cycles, the first counted.")
    endless: bool = False


class Decision(Body):
    """Why it is declined or revoked."""

    reason: Words


class Withdrawal(Body):
    """Who takes it back, and why."""

    reason: Annotated[str, Field(max_length=WORDS_MAX)] = ""
    by: Text | None = None


class Answer(Withdrawal):
    """A customer's answer to a minute plan that was proposed."""

    accept: bool


class ClauseOf(BaseModel):
    """A clause of a policy."""

    policy: str
    version: str
    id: str


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
    clause: ClauseOf
    changed_ms: int
    from_ms: int | None
    until_ms: int | None
    entries: list[Entry] | None = None


def _who(token: Token, person: str | None = None) -> str:
    return f"{person} ({token.name})" if person else token.name


def routes(operations: Operations, once: Once) -> APIRouter:
    """The routes."""
    router = APIRouter()

    @router.post(
        "/requests", summary="Ask for a higher limit; nothing changes until it is approved", status_code=201
    )
    async def ask(by: Operator, asked: HigherLimit, key: Key = None) -> RequestRow:
        given = asked.model_dump(exclude={"by"}, exclude_none=True) | {"by": _who(by, asked.by)}
        if key is not None:
            # Kept with the request: repeated after a restart, it is still the same one.
            given["key"] = f"{by.name} {key}"
        return RequestRow(
            **await once.do_for(
                by.name, key, ("request", given), lambda: operations.call("request_add", given)
            )
        )

    @router.get("/requests", summary="Requests and minute plans, the newest first")
    async def requests(
        _by: Viewer,
        account: Annotated[str | None, Query(max_length=80)] = None,
        state: RequestState | None = None,
        limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    ) -> list[RequestRow]:
        wanted = {"account": account, "state": None if state is None else str(state), "limit": limit}
        return [RequestRow(**row) for row in await operations.call("request_list", wanted)]

    @router.get("/requests/{request}", summary="A request with all that was done about it")
    async def request_of(_by: Viewer, request: Number) -> RequestRow:
        return RequestRow(**await operations.call("request_show", {"request": request}))

    @router.post("/requests/{request}/approve", summary="Raise the limit, or add the plan")
    async def approve(by: Admin, request: Number, given: Approval) -> RequestRow:
        wanted = given.model_dump(exclude={"reason"}) | {"note": given.reason, "by": _who(by)}
        return RequestRow(**await operations.call("request_approve", {"request": request, **wanted}))

    @router.post("/requests/{request}/decline", summary="Decline what is open")
    async def decline(by: Admin, request: Number, given: Decision) -> RequestRow:
        told = {"request": request, "note": given.reason, "by": _who(by)}
        return RequestRow(**await operations.call("request_decline", told))

    @router.post("/requests/{request}/revoke", summary="End what was approved")
    async def revoke(by: Admin, request: Number, given: Decision) -> RequestRow:
        told = {"request": request, "note": given.reason, "by": _who(by)}
        return RequestRow(**await operations.call("request_revoke", told))

    @router.post("/requests/{request}/withdraw", summary="Take back what nobody has answered")
    async def withdraw(by: Operator, request: Number, given: Withdrawal) -> RequestRow:
        told = {"request": request, "note": given.reason, "by": _who(by, given.by)}
        return RequestRow(**await operations.call("request_withdraw", told))

    @router.post(
        "/requests/{request}/answer", summary="Accept or decline, for the customer, a plan that was proposed"
    )
    async def answer(by: Operator, request: Number, given: Answer) -> RequestRow:
        told = {"request": request, "note": given.reason, "by": _who(by, given.by), "accept": given.accept}
        return RequestRow(**await operations.call("plan_answer", told))

    return router
