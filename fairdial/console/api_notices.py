"""Notices over HTTP: what customers were told, dead letters, and where an account is told."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from fairdial.console.http import Admin, Body, Operator, Text, Viewer
from fairdial.console.once import Once
from fairdial.console.operations import Operations
from fairdial.ledger.notice import Channel, DeliveryState, Topic

AccountId = Annotated[str, Path(max_length=80)]
NoticeId = Annotated[int, Path(ge=1, le=2**63 - 1)]


class ContactRequest(Body):
    """Where an account is told; what is left out stays as it is, "" takes it away."""

    language: Text | None = Field(None, description="Of the templates.", examples=["en"])
    email: Annotated[str, Field(max_length=320)] | None = Field(None, examples=["alice@example.com"])
    line: Annotated[str, Field(max_length=80)] | None = Field(
        None, description="To which the switch sends messages.", examples=["alice"]
    )


class ContactAnswer(BaseModel):
    """Where an account is told; null for not at all."""

    account: str
    language: str
    email: str | None
    line: str | None


class DeliveryAnswer(BaseModel):
    """One way of telling it. attempts: those that failed; last: what was said of the last one."""

    channel: Channel
    state: DeliveryState
    attempts: int
    next_ms: int | None
    done_ms: int | None
    last: str


class NoticeAnswer(BaseModel):
    """Something that an account is told. Instants are UTC milliseconds; facts depend on the topic (docs/notices.md)."""

    notice: int
    account: str
    topic: Topic
    at_ms: int
    line: str | None
    clause: dict[str, str] | None
    facts: dict[str, Any]
    deliveries: list[DeliveryAnswer]
    language: str | None = None
    subject: str | None = None
    text: str | None = None
    fault: str | None = None


def routes(operations: Operations, _once: Once) -> APIRouter:
    """The routes."""
    router = APIRouter()

    @router.get("/notices", summary="The latest notices, newest first")
    async def notices(
        _by: Viewer,
        account: Annotated[str | None, Query(max_length=80)] = None,
        state: Annotated[DeliveryState | None, Query(description="Those with a delivery in it.")] = None,
        before: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="Those before this one.")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[NoticeAnswer]:
        wanted = None if state is None else str(state)
        asked = {"account": account, "state": wanted, "before": before, "limit": limit}
        return [NoticeAnswer(**row) for row in await operations.call("notice_list", asked)]

    @router.get("/notices/{notice}", summary="One notice, as its customer reads it")
    async def one(_by: Viewer, notice: NoticeId) -> NoticeAnswer:
        return NoticeAnswer(**await operations.call("notice_show", {"notice": notice}))

    @router.post("/notices/{notice}/retry", summary="Try again what was given up")
    async def retry(_by: Operator, notice: NoticeId) -> NoticeAnswer:
        return NoticeAnswer(**await operations.call("notice_retry", {"notice": notice}))

    @router.get("/accounts/{account}/contact", summary="Where an account is told")
    async def contact(_by: Viewer, account: AccountId) -> ContactAnswer:
        return ContactAnswer(**await operations.call("contact_show", {"account": account}))

    @router.put("/accounts/{account}/contact", summary="Say where an account is told")
    async def set_contact(_by: Admin, account: AccountId, asked: ContactRequest) -> ContactAnswer:
        given = {"account": account, **asked.model_dump()}
        return ContactAnswer(**await operations.call("contact_set", given))

    return router
