"""Statements over HTTP: what an account used and owes in a period, as JSON or as CSV, line by line as they are read.

Here stands what a request looks like, and what is answered; what it means stands in `statements.py` of this package and
in docs/statements.md. Errors come before the first line; where the ledger fails later, the answer breaks off, which a
client sees: its last chunk is missing.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, BaseModel, Field

from fairdial.console.api_accounts import AccountId
from fairdial.console.callers import AccountViewer
from fairdial.console.once import Once
from fairdial.console.operations import Operations
from fairdial.console.shapes import Json
from fairdial.console.statements import JSON_END, csv_beginning, csv_page, json_beginning, json_page
from fairdial.policy.periods import zone_named

PAGE = 250
"""Dials whose lines are read at once."""

CSV = "text/csv"
ADDS_UP = "FairDial-Adds-Up"


class Clause(BaseModel):
    """The rule behind a line. id: null where that version of the policy is no longer at hand."""

    policy: str
    version: str
    id: str | None


class Part(BaseModel):
    """What a call counted on an allowance in a window; over_units past its limit. unit: s or messages."""

    allowance: str
    start_ms: int
    end_ms: int
    used_units: int
    over_units: int
    unit: Literal["s", "messages"]
    clause: Clause


class Charge(BaseModel):
    """What it cost. rate: which row of which card, or which key of the policy, the price comes from."""

    call: str
    mode: Literal["overage", "credit", "surcharge"]
    at_ms: int
    charged_units: int
    amount: str
    currency: str
    rate: str
    rate_per_min: str | None
    connect_fee: str | None
    clause: Clause


class PlanCharge(BaseModel):
    """What a period of a minute plan cost, which a request added. at_ms: its begin; charged_units: what it added."""

    call: None
    request: int
    mode: Literal["plan"]
    at_ms: int
    charged_units: int
    amount: str
    currency: str
    rate: str
    clause: Clause


class Line(BaseModel):
    """A call or message. duration_s: all of it; talk_s: in the period; counted: among the calls of the period."""

    call: str
    kind: str
    line: str
    number: str
    dialled_ms: int
    answered_ms: int | None
    ended_ms: int | None
    duration_s: int | None
    talk_s: int
    counted: bool
    estimated: bool
    reason: str
    clause: Clause
    parts: list[Part]
    charges: list[Charge]


class PlanSum(BaseModel):
    """Calls that a version of a policy let through."""

    policy: str
    version: str
    first_ms: int
    last_ms: int
    calls: int


class KindSum(BaseModel):
    """All calls of a kind; charged: amounts by currency."""

    kind: str
    calls: int
    talk_s: int
    charged: dict[str, str]


class WindowSum(BaseModel):
    """An allowance in a window: all that was used of it, and what of that is in the period (here_…)."""

    allowance: str
    start_ms: int
    end_ms: int
    unit: Literal["s", "messages"]
    limit_units: int | None
    used_units: int
    over_units: int
    reserved_units: int
    here_used_units: int
    here_over_units: int


class ChargeSum(BaseModel):
    """All charges of a mode in a currency."""

    mode: Literal["overage", "credit", "surcharge", "plan"]
    currency: str
    charges: int
    seconds: int
    messages: int
    amount: str


class Credit(BaseModel):
    """Prepaid credit in the period; closing = opening + added - used - forfeited."""

    currency: str
    opening: str
    added: str
    used: str
    forfeited: str
    closing: str


class Difference(BaseModel):
    """Where statement and ledger disagree."""

    what: str
    statement: str
    ledger: str


class Statement(BaseModel):
    """A statement. from, to: in the account's zone; owed: by currency, without what credit paid; count: of the lines.

    adds_up: whether the ledger says the same; null: calls ended while it was added up, ask again.
    """

    account: str
    name: str
    zone: str
    cycle_day: int
    from_: str = Field(alias="from")
    to: str
    from_ms: int
    until_ms: int
    in_progress: int
    plans: list[PlanSum]
    kinds: list[KindSum]
    allowances: list[WindowSum]
    charges: list[ChargeSum]
    plan_charges: list[PlanCharge]
    owed: dict[str, str]
    credit: Credit | None
    count: int
    adds_up: bool | None
    differences: list[Difference]
    lines: list[Line]


Asked = Annotated[
    str | None,
    Query(
        max_length=20,
        description="Billing cycle: `current` (the default), `last`, `2026-11` (the one that begins in that month),"
        " `2026-11-27` (the one that holds that day).",
    ),
]
Begin = Annotated[AwareDatetime | None, Query(alias="from", description="In place of a cycle.")]
End = Annotated[AwareDatetime | None, Query(alias="to", description="Its end; now if left out.")]
Format = Annotated[
    Literal["json", "csv"] | None, Query(alias="format", description="Goes before the header Accept.")
]
Numbers = Annotated[
    Literal["masked", "full"], Query(description="Numbers called: digits hidden, or in full.")
]


def routes(operations: Operations, _once: Once) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["accounts"])

    async def pages(found: Json, numbers: str) -> AsyncIterator[list[Json]]:
        asked = {key: found[key] for key in ("account", "from_ms", "until_ms")}
        how = {"numbers": numbers, "limit": PAGE}
        after: object = None
        while True:
            page = await operations.call("statement_lines", {**asked, **how, "after": after})
            yield page["lines"]
            after = page["after"]
            if after is None:
                return

    @router.get(
        "/accounts/{account}/statement",
        summary="What an account used and owes in a period, line by line",
        response_model=Statement,
        responses={
            200: {
                "content": {CSV: {"schema": {"type": "string"}}},
                "headers": {
                    ADDS_UP: {
                        "description": "Whether it adds up to the ledger: true, false or unknown",
                        "schema": {"type": "string", "enum": ["true", "false", "unknown"]},
                    }
                },
            }
        },
    )
    async def statement(
        _by: AccountViewer,
        account: AccountId,
        period: Asked = None,
        begin: Begin = None,
        end: End = None,
        numbers: Numbers = "masked",
        wanted: Format = None,
        accept: Annotated[str, Header(include_in_schema=False)] = "",
    ) -> Response:
        asked = {"account": account, "period": period}
        found = await operations.call("statement", {**asked, "from_ms": _ms(begin), "until_ms": _ms(end)})
        lines = pages(found, numbers)
        # The first page before the first word: what fails in it is told as an error.
        first = await anext(lines)
        as_csv = wanted == "csv" if wanted is not None else CSV in accept
        return StreamingResponse(
            _csv(found, first, lines) if as_csv else _json(found, first, lines),
            media_type=f"{CSV}; charset=utf-8; header=present" if as_csv else "application/json",
            headers=_headers(found, as_csv=as_csv),
        )

    return router


def _ms(at: AwareDatetime | None) -> int | None:
    return None if at is None else int(at.timestamp() * 1000)


def _headers(found: Mapping[str, Any], *, as_csv: bool) -> dict[str, str]:
    told = {True: "true", False: "false", None: "unknown"}[found["adds_up"]]
    headers = {ADDS_UP: told, "Cache-Control": "no-store", "Vary": "Accept"}
    return headers | ({"Content-Disposition": 'attachment; filename="statement.csv"'} if as_csv else {})


async def _csv(found: Json, first: list[Json], others: AsyncIterator[list[Json]]) -> AsyncIterator[str]:
    zone = zone_named(found["zone"])
    yield csv_beginning(found["plan_charges"], zone) + await asyncio.to_thread(csv_page, first, zone)
    async for page in others:
        yield await asyncio.to_thread(csv_page, page, zone)


async def _json(found: Json, first: list[Json], others: AsyncIterator[list[Json]]) -> AsyncIterator[str]:
    yield json_beginning(found) + await asyncio.to_thread(json_page, first, first=True)
    any_yet = bool(first)
    async for page in others:
        yield await asyncio.to_thread(json_page, page, first=not any_yet)
        any_yet = any_yet or bool(page)
    yield JSON_END
