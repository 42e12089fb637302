"""Messages over HTTP: a gateway for SMS, MMS, WhatsApp or chat asks before it sends.

Its `Idempotency-Key` is the ledger's own, so that a request which is repeated, also after a restart, counts once.
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query
from pydantic import BaseModel, ConfigDict, Field

from fairdial.console.api_accounts import Clause
from fairdial.console.api_calls import LineBodyOperator
from fairdial.console.callers import ListViewer, OfAccount
from fairdial.console.http import Acts, Body, Limit, Page, Text
from fairdial.console.once import Once
from fairdial.console.operations import Operations
from fairdial.policy.account import Medium

TEXT_MAX = 20_000
"""Characters: more than any medium carries."""

MessageKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=100,
        description="Your own name for this message: repeated, at any time, it gets the first answer and counts once.",
        examples=["sms-4711"],
    ),
]


AfterMessage = Annotated[
    str | None,
    Query(max_length=200, description="`next` of the page before; left out for the first."),
]


class MessageRequest(Body):
    """A message that is about to be sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"line": "alice", "to": "07912345678", "kind": "sms", "text": "See you at eight"}]
        }
    )

    line: Text = Field(description="Line that sends, and whose account pays.", examples=["alice"])
    to: Text = Field(
        description="The number, as the line dials it; an extension for a chat.", examples=["07700900123"]
    )
    kind: Medium = Field(description="How it goes; chat: within the switch.", examples=["sms"])
    text: str | None = Field(
        None,
        max_length=TEXT_MAX,
        description="What it says, by which the same text to many is found; it is neither kept nor logged.",
    )
    sender: Text | None = Field(
        None, alias="from", description="The number that it shows, where it shows one."
    )


class MessageCharge(BaseModel):
    """What it costs. mode: included, overage or free; amount: decimal text."""

    mode: str
    currency: str | None
    amount: str


class MessageDecision(BaseModel):
    """Whether it may be sent. number: to send it to; sender: to show instead, null where its own may be shown.

    repeated: this is the answer to an earlier request of that key: send it once.
    """

    decision: Literal["allow", "refuse"]
    reason: str
    text: str
    clause: Clause
    charge: MessageCharge
    number: str
    sender: str | None
    repeated: bool
    id: str


class SentMessage(BaseModel):
    """A message that was decided; what it said is not known."""

    id: str
    at_ms: int
    account: str | None
    line: str
    to: str
    number: str | None
    kind: str
    decision: str
    reason: str
    clause: Clause


def routes(operations: Operations, once: Once) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["messages"])
    acts = Acts(operations, once)

    @router.post(
        "/messages", summary="Ask before a message is sent: it is counted, and charged past the allowance"
    )
    async def message(by: LineBodyOperator, asked: MessageRequest, key: MessageKey) -> MessageDecision:
        given: dict[str, Any] = {
            "line": asked.line,
            "to": asked.to,
            "medium": str(asked.kind),
            "text": asked.text or "",
            "sender": asked.sender or "",
        }
        # No change that a log needs to have: the ledger has it.
        return MessageDecision(**await acts.look("message", **given, key=key, by=by.name))

    @router.get("/messages", summary="Messages, the newest first, without what they say")
    async def messages(
        _by: ListViewer, account: OfAccount, limit: Limit = 100, after: AfterMessage = None
    ) -> Page[SentMessage]:
        return await acts.page(SentMessage, "id", limit, "message_list", account=account, after=after)

    return router
