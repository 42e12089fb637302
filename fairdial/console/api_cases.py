"""Cases over HTTP: suspected abuse and what became of it, complaints, and sources whose calls are turned away.

Who did something is the name of the token.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from fairdial.console.api_accounts import AccountId, Clause
from fairdial.console.callers import ListViewer, Needs, OfAccount, tied
from fairdial.console.http import (
    Acts,
    Body,
    Instant,
    Key,
    Limit,
    Note,
    Operator,
    Page,
    Text,
    Viewer,
    located,
)
from fairdial.console.once import Once
from fairdial.console.operations import Operations
from fairdial.ledger.contract import CaseState, Role, Token
from fairdial.policy.account import Kind
from fairdial.policy.document import Step

_ID_MAX = 2**53
CaseId = Annotated[int, Path(ge=1, le=_ID_MAX, description="Number of the case.", examples=[1])]
InState = Annotated[CaseState | None, Query(description="In this state alone.")]
AfterCase = Annotated[
    int | None, Query(ge=1, le=_ID_MAX, description="`next` of the page before; left out for the first.")
]
CaseViewer = Annotated[Token, Depends(Needs(Role.VIEWER, tied("case")))]
Source = Annotated[str, Path(max_length=80, description="IP address.", examples=["192.0.2.1"])]


class FlagRequest(Body):
    """Something that a person found."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"account": "acme", "note": "sells minutes to others"}]}
    )

    account: Text
    note: Note = Field(description="What was found.")
    step: Step | None = Field(None, description="What is to follow at once, besides the ladder.")
    fraud: bool = Field(False, description="Terminate for fraud: credit is forfeited, charges stay owed.")


class JudgementRequest(Body):
    """Why, and what follows."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"note": "talked to them", "undo": True}]})

    note: Note = ""
    undo: bool = Field(False, description="Take back what was done for it to the account.")


class ClosureRequest(JudgementRequest):
    """Why, what follows, and what the customer agreed to."""

    agreed_by: Text | None = Field(
        None, description="Who agreed for the customer to pay the surcharge.", examples=["Ann Lee"]
    )


class DeadlineRequest(Body):
    """Until when the customer may answer; past it, the ladder's next step follows."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"deadline_ms": 1_900_000_000_000}]})

    deadline_ms: Instant = Field(description="UTC milliseconds.")


class ComplaintRequest(Body):
    """A complaint."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"note": "unwanted calls, Mr Low"}]})

    note: Note = Field(description="Who complained, and of what.")


class BlockRequest(Body):
    """For how long, and why."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"seconds": 3600, "why": "guesses passwords"}]})

    seconds: int = Field(3_600, ge=60, le=2_592_000)
    why: Text = "by hand"


class Case(BaseModel):
    """A case. found: in words; calls: the latest of its evidence; deadline_ms: until when it may be answered."""

    case: int
    account: str
    detector: str
    clause: Clause
    state: CaseState
    shadow: bool = Field(description="It was only written down; nothing is done.")
    opened_ms: int
    seen_ms: int
    closed_ms: int | None
    value: float
    threshold: float
    hits: int
    found: str
    calls: list[str]
    services: list[Kind]
    step: str = Field(description='The hardest that was reached; "" for none.')
    deadline_ms: int | None


class CaseEntry(BaseModel):
    """Something that was done about a case."""

    at_ms: int
    what: str
    by: str
    enforced: bool
    rule: str
    clause: str
    services: list[Kind]
    note: str


class WholeCase(Case):
    """A case with all that was done about it, the earliest first."""

    entries: list[CaseEntry]


class Complaints(BaseModel):
    """How many there are now within the policy's window, and the cases that they led to."""

    account: str
    complaints: int
    cases: list[Case]


class Block(BaseModel):
    """A source whose calls are turned away for a while, emergency calls excepted. Instants: UTC milliseconds."""

    source: str
    since_ms: int
    until_ms: int
    why: str


def routes(operations: Operations, once: Once) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["cases"])
    acts = Acts(operations, once)

    @router.get("/cases", summary="Cases, the newest first")
    async def cases(
        _by: ListViewer,
        account: OfAccount,
        state: InState = None,
        limit: Limit = 100,
        after: AfterCase = None,
    ) -> Page[Case]:
        return await acts.page(Case, "case", limit, "case_list", account=account, state=state, after=after)

    @router.post("/cases", summary="Open a case by hand; the ladder answers it as any other", status_code=201)
    async def flag(by: Operator, asked: FlagRequest, response: Response, key: Key = None) -> Case:
        made = Case(**await acts.change(by, key, "case_flag", by=by.name, **asked.model_dump()))
        response.headers["Location"] = located("cases", str(made.case))
        return made

    @router.get("/cases/{case}", summary="A case with all that was done about it")
    async def whole(_by: CaseViewer, case: CaseId) -> WholeCase:
        return WholeCase(**await acts.look("case_show", case=case))

    @router.post("/cases/{case}/close", summary="It was true, and is done with")
    async def close(by: Operator, case: CaseId, asked: ClosureRequest, key: Key = None) -> WholeCase:
        given = {"case": case, "by": by.name, **asked.model_dump()}
        return WholeCase(**await acts.change(by, key, "case_close", **given))

    @router.post("/cases/{case}/dismiss", summary="It was none; the same evidence opens no other")
    async def dismiss(by: Operator, case: CaseId, asked: JudgementRequest, key: Key = None) -> WholeCase:
        given = {"case": case, "by": by.name, "dismiss": True, **asked.model_dump()}
        return WholeCase(**await acts.change(by, key, "case_close", **given))

    @router.put("/cases/{case}/deadline", summary="Until when the customer may answer an open case")
    async def deadline(by: Operator, case: CaseId, asked: DeadlineRequest) -> Case:
        return Case(
            **await acts.change(
                by, None, "case_deadline", case=case, by=by.name, deadline_ms=asked.deadline_ms
            )
        )

    @router.post("/accounts/{account}/complaints", summary="Take down a complaint")
    async def complain(
        by: Operator, account: AccountId, asked: ComplaintRequest, key: Key = None
    ) -> Complaints:
        given = {"account": account, "note": asked.note, "by": by.name}
        return Complaints(**await acts.change(by, key, "complaint_add", **given))

    @router.get("/blocks", summary="Sources whose calls are turned away now")
    async def blocks(_by: Viewer) -> list[Block]:
        return [Block(**row) for row in await acts.look("block_list")]

    @router.put("/blocks/{source}", summary="Turn calls from an address away")
    async def block(by: Operator, source: Source, asked: BlockRequest) -> Block:
        return Block(**await acts.change(by, None, "block_add", source=source, **asked.model_dump()))

    @router.delete("/blocks/{source}", summary="Let calls from it in again", status_code=204)
    async def unblock(by: Operator, source: Source) -> None:
        await acts.change(by, None, "block_remove", source=source)

    return router
