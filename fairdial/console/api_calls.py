"""Calls over HTTP: what a portal or a dialler asks of a running FairDial about calls, callbacks and conferences.

Here stands what a request looks like. What is asked is an operation, the same as on the command line. Calls that
somebody asks for twice with one `Idempotency-Key` are placed once.
"""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Response, status
from pydantic import BaseModel, Field

from fairdial.console.callers import ListViewer, Needs, OfAccount, tied
from fairdial.console.http import Acts, Body, Key, Text
from fairdial.console.once import Once
from fairdial.console.operations import Operations
from fairdial.ledger.contract import Role, Token

CallId = Annotated[
    str, Path(max_length=200, description="The call's id, as listed.", examples=["1795262400.17"])
]
CallOperator = Annotated[Token, Depends(Needs(Role.OPERATOR, tied("call")))]
LineBodyOperator = Annotated[Token, Depends(Needs(Role.OPERATOR, tied(body=("line",))))]


class CallbackRequest(Body):
    """A callback."""

    line: Text = Field(description="Line that is rung first, and whose account pays.", examples=["alice"])
    number: Text = Field(description="The number wanted, as the line dials it.", examples=["02079460100"])
    first: Text | None = Field(
        None, description="Number to ring first instead of the line.", examples=["07400123456"]
    )


class ParticipantRequest(Body):
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
    """Somebody who is rung. call: the id of the call; number: as the line dials it."""

    call: str
    room: str
    number: str
    line: str
    ringing: bool


class Member(BaseModel):
    """Somebody in a conference. since_ms: UTC."""

    call: str
    line: str
    channel: str
    host: bool
    since_ms: int


class Room(BaseModel):
    """A conference in which somebody is. seats: taken, also by who is still rung; seats_max: as many as the account may
    have, null for any number.
    """

    account: str
    room: str
    since_ms: int
    seats: int
    seats_max: int | None
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
    account: str | None


EVENT_ID = "Event-Id"
"""Header of the list of calls: the events after this one bring it up to date."""


def routes(operations: Operations, once: Once) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["calls"])
    acts = Acts(operations, once)

    @router.get("/calls", summary="Calls in progress that hold a grant")
    async def calls(_by: ListViewer, response: Response, account: OfAccount) -> list[Call]:
        # Taken before the list: what happens between the two is told again rather than by neither.
        response.headers[EVENT_ID] = str((await acts.look("events"))["last"])
        return [Call(**row) for row in await acts.look("calls", account=account)]

    @router.delete("/calls/{call}", summary="End a call on all its legs", status_code=204)
    async def hang_up(by: CallOperator, call: CallId) -> None:
        await acts.change(by, None, "hangup", call=call)

    @router.post(
        "/callbacks",
        summary="Ring a line, or `first`, then the number, and join the two",
        status_code=202,
        responses={
            202: {"description": "It rings"},
            200: {"model": Callback, "description": "Refused: nothing rings"},
        },
    )
    async def callback(
        by: LineBodyOperator, asked: CallbackRequest, response: Response, key: Key = None
    ) -> Callback:
        placed = await acts.change(by, key, "callback", **asked.model_dump())
        if placed["decision"] == "refuse":
            response.status_code = status.HTTP_200_OK
        return Callback(**placed)

    @router.get("/conferences", summary="Rooms in which somebody is, with who is there")
    async def conferences(_by: ListViewer, account: OfAccount) -> list[Room]:
        return [Room(**row) for row in await acts.look("conference_list", account=account)]

    @router.post(
        "/conferences/{room}/participants",
        summary="Call a number into a room; it rings when this is answered",
        status_code=202,
    )
    async def add_participant(
        by: LineBodyOperator,
        room: Annotated[str, Path(max_length=40, examples=["7001"])],
        asked: ParticipantRequest,
        key: Key = None,
    ) -> Participant:
        added = await acts.change(by, key, "conference_add", room=room, **asked.model_dump())
        return Participant(**added)

    return router
