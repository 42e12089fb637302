"""Lines and numbers over HTTP: the endpoints of the switch that belong to an account, and what they may show."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from fairdial.console.callers import ListViewer, Needs, OfAccount, of_provider_alone, tied
from fairdial.console.http import (
    Acts,
    Admin,
    After,
    Body,
    Key,
    Limit,
    Page,
    Text,
    located,
)
from fairdial.console.once import Once
from fairdial.console.operations import Operations
from fairdial.ledger.contract import Role, Token
from fairdial.policy.account import Standing

LineId = Annotated[str, Path(max_length=80, description="The line's id.", examples=["alice"])]
E164 = Annotated[
    str, Path(max_length=20, description="Number in E.164, with its +.", examples=["+442079460000"])
]

LineViewer = Annotated[Token, Depends(Needs(Role.VIEWER, tied("line")))]
LineOperator = Annotated[Token, Depends(Needs(Role.OPERATOR, tied("line")))]
NumberViewer = Annotated[Token, Depends(Needs(Role.VIEWER, tied("number")))]

_Prefix = Annotated[str, Field(max_length=20)]


class HabitRequest(Body):
    """How a line dials, where it differs from its region."""

    region: str | None = Field(
        None, pattern="^[A-Z]{2}$", description="Country in whose habit it dials; FairDial's own if left out."
    )
    international_prefixes: list[_Prefix] = Field(
        default_factory=list, max_length=20, description="Dialled before a country code; empty: the region's."
    )
    national_prefix: str | None = Field(
        None, max_length=20, description='Dialled before a national number; null: the region\'s, "": none.'
    )
    carrier_prefixes: list[_Prefix] = Field(
        default_factory=list, max_length=20, description="Dialled before the number and taken off, such as 9."
    )
    internal: str | None = Field(
        None, max_length=200, description="Extensions that never leave the switch, such as _1XX."
    )


class LineRequest(Body):
    """A line."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"line": "bob", "account": "acme", "habit": {"internal": "_1XX"}}]}
    )

    line: Text = Field(description="Id: the endpoint's name at the switch.")
    account: Text = Field(description="Account that pays.")
    habit: HabitRequest | None = None


class LineStandingRequest(Body):
    """Whether it may place calls."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"standing": "suspended"}]})

    standing: Standing


class OwnNumberRequest(Body):
    """Whose a number is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"account": "acme", "line": "alice"}]})

    account: Text = Field(description="Account that it belongs to.")
    line: Text | None = Field(None, description="Line whose number it is; null: of any of the account's.")


class Habit(BaseModel):
    """How a line dials."""

    region: str
    international_prefixes: list[str]
    national_prefix: str | None
    carrier_prefixes: list[str]
    internal: str | None


class Line(BaseModel):
    """A line as it stands."""

    line: str
    account: str
    standing: Standing
    habit: Habit


class LineChange(Line):
    """A line, and how many calls in progress were told to end by what was done."""

    calls_cut: int


class OwnNumber(BaseModel):
    """A number of an account. line: null for the account as a whole."""

    number: str
    account: str
    line: str | None


def standing_of(by: Token, standing: Standing) -> dict[str, object]:
    """A standing as it is set: customers may suspend themselves, and take nothing back. Raises HTTPException."""
    if standing is Standing.ACTIVE:
        of_provider_alone(by, "set a standing to active")
    return {"standing": standing, "harder": bool(by.accounts) or None}


def routes(operations: Operations, once: Once) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["lines"])
    acts = Acts(operations, once)

    @router.post("/lines", summary="Add a line to an account", status_code=201)
    async def add(by: Admin, asked: LineRequest, response: Response, key: Key = None) -> Line:
        habit = None if asked.habit is None else asked.habit.model_dump(exclude_none=True)
        added = await acts.change(by, key, "line_add", line=asked.line, account=asked.account, habit=habit)
        response.headers["Location"] = located("lines", asked.line)
        return Line(**added)

    @router.get("/lines", summary="Lines by id")
    async def lines(
        _by: ListViewer, account: OfAccount, limit: Limit = 100, after: After = None
    ) -> Page[Line]:
        return await acts.page(Line, "line", limit, "line_list", account=account, after=after)

    @router.get("/lines/{line}", summary="A line")
    async def line_shown(_by: LineViewer, line: LineId) -> Line:
        return Line(**await acts.look("line_show", line=line))

    @router.put("/lines/{line}/standing", summary="Suspend, restore or terminate it at once")
    async def standing(by: LineOperator, line: LineId, asked: LineStandingRequest) -> LineChange:
        given = {"line": line, **standing_of(by, asked.standing)}
        return LineChange(**await acts.change(by, None, "line_standing", **given))

    @router.get("/numbers", summary="Numbers of accounts, by number")
    async def numbers(
        _by: ListViewer, account: OfAccount, limit: Limit = 100, after: After = None
    ) -> Page[OwnNumber]:
        return await acts.page(OwnNumber, "number", limit, "number_list", account=account, after=after)

    @router.get("/numbers/{number}", summary="Whose a number is")
    async def number_shown(_by: NumberViewer, number: E164) -> OwnNumber:
        return OwnNumber(**await acts.look("number_show", number=number))

    @router.put("/numbers/{number}", summary="Give it to an account, or to another of its lines")
    async def give(by: Admin, number: E164, asked: OwnNumberRequest) -> OwnNumber:
        return OwnNumber(**await acts.change(by, None, "number_add", number=number, **asked.model_dump()))

    @router.delete("/numbers/{number}", summary="Take it from its account", status_code=204)
    async def take(by: Admin, number: E164) -> None:
        await acts.change(by, None, "number_remove", number=number)

    return router
