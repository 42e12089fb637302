"""Nodes over HTTP: which FairDial of a shared ledger looks after which switch."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from fairdial.console.http import Acts, Admin, Viewer
from fairdial.console.once import Once
from fairdial.console.operations import Operations

Switch = Annotated[str, Path(max_length=128, description="Systemname of the switch.", examples=["west"])]


class NodeRow(BaseModel):
    """Who looks after the calls of a switch."""

    switch: str
    place: str = Field(description="Host and process of the FairDial that served it last.")
    state: Literal["serves", "lapsed", "taken over"]
    epoch: int = Field(description="Counts who has looked after it; steps by an earlier one are refused.")
    until_ms: int = Field(description="Until when its lease holds, by the store's clock.")
    left_s: int = Field(description="How long that is from now.")
    looked_after_by: str | None = Field(description="Switch of the node that does, where its own is gone.")
    skew_ms: int = Field(description="By how much its clock was ahead of the store's.")
    calls: int = Field(description="Calls of it that are not settled.")


def routes(operations: Operations, once: Once) -> APIRouter:
    """The routes."""
    acts = Acts(operations, once)
    router = APIRouter(tags=["nodes"])

    @router.get("/nodes", summary="Which FairDial looks after which switch; none where the ledger is a file")
    async def nodes(_by: Viewer) -> list[NodeRow]:
        return [NodeRow(**row) for row in await acts.look("node_list")]

    @router.delete("/nodes/{switch}", summary="Forget a switch that is no more", status_code=204)
    async def forget(by: Admin, switch: Switch) -> None:
        await acts.change(by, None, "node_forget", switch=switch)

    return router
