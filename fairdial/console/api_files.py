"""Files over HTTP: rate cards, and imports of accounts and what they hold. Both may have many thousand rows.

A file is sent as it is, CSV or TOML, and taken as a whole or not at all.
"""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query, Request
from pydantic import BaseModel

from fairdial.console.http import Acts, Admin, FileText, Key, Viewer, error_answer, text_body
from fairdial.console.once import Once
from fairdial.console.operations import Operations

CardName = Annotated[
    str, Path(max_length=80, description="Name, as policies call it.", examples=["standard"])
]
CardCurrency = Annotated[
    str, Query(max_length=3, description="ISO 4217 code of its prices.", examples=["EUR"])
]
DryRun = Annotated[bool, Query(description="Check all of it, and keep nothing.")]
Region = Annotated[
    str | None,
    Query(pattern="^[A-Z]{2}$", description="In whose habit lines dial that name none.", examples=["GB"]),
]

_SUFFIXES = {"text/csv": ".csv", "application/toml": ".toml"}
_RATES = text_body(
    {
        "text/csv": "prefix,destination,rate_per_min,connect_fee,increment,minimum,effective\n"
        "+33,France,0.02,0.05,60/60,,2026-01-01\n"
    }
)
_ENTRIES = text_body(
    {
        "text/csv": "account,policy,zone\nglobex,voxdirect,Europe/London\n",
        "application/toml": '[[line]]\nline = "carol"\naccount = "acme"\n',
    }
)


class Card(BaseModel):
    """A rate card. rates: its rows; version: of its text, as charges name it."""

    card: str
    currency: str
    rates: int
    version: str


class Imported(BaseModel):
    """What became of a file: entries that are new, and entries that were there already."""

    new: int
    there_already: int
    dry_run: bool


def routes(operations: Operations, once: Once) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["files"])
    acts = Acts(operations, once)

    @router.get("/rates", summary="Rate cards")
    async def cards(_by: Viewer) -> list[Card]:
        return [Card(**row) for row in await acts.look("rates_list")]

    @router.put(
        "/rates/{card}", summary="Load a rate card; one of that name is replaced", openapi_extra=_RATES
    )
    async def load(by: Admin, card: CardName, currency: CardCurrency, text: FileText) -> Card:
        given = {"card": card, "currency": currency, "text": text, "where": f"{card}.csv"}
        return Card(**await acts.change(by, None, "rates_load", **given))

    @router.post(
        "/imports",
        summary="Provision what a file lists, all of it or nothing",
        openapi_extra=_ENTRIES,
        responses={415: error_answer("Neither CSV nor TOML")},
    )
    async def provision(
        by: Admin,
        request: Request,
        text: FileText,
        dry_run: DryRun = False,
        region: Region = None,
        key: Key = None,
    ) -> Imported:
        sent = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if sent not in _SUFFIXES:
            raise HTTPException(415, f"Content-Type {sent!r:.80} is neither text/csv nor application/toml")
        where = f"import{_SUFFIXES[sent]}"
        return Imported(
            **await acts.change(by, key, "import", text=text, where=where, region=region, dry_run=dry_run)
        )

    return router
