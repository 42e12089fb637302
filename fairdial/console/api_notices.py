"""Notices over HTTP: what customers were told, dead letters, and where an account is told."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from fairdial.console.api_accounts import AccountId, Clause
from fairdial.console.callers import AccountViewer, ListViewer, Needs, OfAccount, tied
from fairdial.console.http import Acts, Body, Key, Limit, Page, Text
from fairdial.console.once import Once
from fairdial.console.operations import Operations
from fairdial.ledger.contract import Role, Token
from fairdial.ledger.notice import Channel, DeliveryState, Topic

_ID_MAX = 2**53
NoticeId = Annotated[int, Path(ge=1, le=_ID_MAX, description="Number of the notice.", examples=[1])]
NoticeViewer = Annotated[Token, Depends(Needs(Role.VIEWER, tied("notice")))]
NoticeOperator = Annotated[Token, Depends(Needs(Role.OPERATOR, tied("notice")))]
AccountAdmin = Annotated[Token, Depends(Needs(Role.ADMIN, tied("account")))]
InState = Annotated[DeliveryState | None, Query(description="Those with a delivery in this state alone.")]
AfterNotice = Annotated[
    int | None, Query(ge=1, le=_ID_MAX, description="`next` of the page before; left out for the first.")
]


class ContactRequest(Body):
    """Where an account is told; what is left out stays as it is, "" takes it away."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"language": "de", "email": "ann@example.com", "line": "alice"}]}
    )

    language: Text | None = Field(None, description="Of the templates.")
    email: Annotated[str, Field(max_length=320)] | None = Field(None, description="For mail.")
    line: Annotated[str, Field(max_length=80)] | None = Field(
        None, description='To which the switch sends messages; "": the one that a notice is about.'
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
    clause: Clause | None
    facts: dict[str, Any]
    deliveries: list[DeliveryAnswer]
    language: str | None = None
    subject: str | None = None
    text: str | None = None
    fault: str | None = None


def routes(operations: Operations, once: Once) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["notices"])
    acts = Acts(operations, once)

    @router.get("/notices", summary="What customers are told, the newest first")
    async def notices(
        _by: ListViewer,
        account: OfAccount,
        state: InState = None,
        limit: Limit = 100,
        after: AfterNotice = None,
    ) -> Page[NoticeAnswer]:
        given = {"account": account, "state": None if state is None else str(state), "after": after}
        return await acts.page(NoticeAnswer, "notice", limit, "notice_list", **given)

    @router.get("/notices/{notice}", summary="A notice, as its customer reads it")
    async def one(_by: NoticeViewer, notice: NoticeId) -> NoticeAnswer:
        return NoticeAnswer(**await acts.look("notice_show", notice=notice))

    @router.post("/notices/{notice}/retry", summary="Try again what was given up")
    async def retry(by: NoticeOperator, notice: NoticeId, key: Key = None) -> NoticeAnswer:
        return NoticeAnswer(**await acts.change(by, key, "notice_retry", notice=notice))

    @router.get("/accounts/{account}/contact", summary="Where an account is told")
    async def contact(_by: AccountViewer, account: AccountId) -> ContactAnswer:
        return ContactAnswer(**await acts.look("contact_show", account=account))

    @router.put("/accounts/{account}/contact", summary="Say where an account is told")
    async def set_contact(by: AccountAdmin, account: AccountId, asked: ContactRequest) -> ContactAnswer:
        return ContactAnswer(
            **await acts.change(by, None, "contact_set", account=account, **asked.model_dump())
        )

    return router
