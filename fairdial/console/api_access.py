"""Who may use the API, over the API: tokens; and the state of the server."""

from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from fairdial.console.http import Acts, Admin, Body, Key, Text, Viewer, located
from fairdial.console.once import Once
from fairdial.console.operations import Operations
from fairdial.ledger.contract import TOKEN_ACCOUNTS_MAX, Role

TokenName = Annotated[str, Path(max_length=80, description="The token's name.", examples=["portal"])]


class TokenRequest(Body):
    """A token."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "billing", "role": "admin"}]})

    name: Text = Field(description="Your name for who holds it; cases and logs say it.")
    role: Role = Role.VIEWER
    accounts: list[Text] = Field(
        default_factory=list,
        max_length=TOKEN_ACCOUNTS_MAX,
        description="Those alone that its holder sees and acts for; left out: it is bound to none.",
    )


class TokenShown(BaseModel):
    """A token, without what only its holder knows. created_ms: UTC."""

    name: str
    role: Role
    created_ms: int
    accounts: list[str]


class TokenMade(TokenShown):
    """A token, with its secret."""

    token: str = Field(description="Told this once: only its digest is kept.")


class Status(BaseModel):
    """The running FairDial: its links to the switch, calls that it follows, and what waits."""

    model_config = ConfigDict(extra="allow")

    serving: bool


class Reloaded(BaseModel):
    """What a reload changed; calls in progress keep the policy version under which they began.

    needs_restart: settings that differ in the file and are not in force.
    """

    policies_added: list[str] = Field(description="Name and version.")
    policies_removed: list[str]
    rates: list[str] = Field(description="Rate cards that differ.")
    numbers: bool = Field(description="Whether the table of numbers differs.")
    templates: bool = Field(description="Whether a template of notices differs.")
    settings: list[str] = Field(description="Settings that are in force now.")
    needs_restart: list[str]


def routes(operations: Operations, once: Once) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["access"])
    acts = Acts(operations, once)

    @router.get("/tokens", summary="Tokens by name")
    async def tokens(_by: Admin) -> list[TokenShown]:
        return [TokenShown(**row) for row in await acts.look("token_list")]

    @router.post("/tokens", summary="Let somebody use the API", status_code=201)
    async def add(by: Admin, asked: TokenRequest, response: Response, key: Key = None) -> TokenMade:
        made = TokenMade(**await acts.change(by, key, "token_add", **asked.model_dump()))
        response.headers["Location"] = located("tokens", made.name)
        response.headers["Cache-Control"] = "no-store"
        return made

    @router.delete("/tokens/{name}", summary="Whoever holds it is let in no more", status_code=204)
    async def remove(by: Admin, name: TokenName) -> None:
        await acts.change(by, None, "token_remove", name=name)

    @router.get("/status", summary="The state of the running server")
    async def status(_by: Viewer) -> Status:
        return Status(**await acts.look("status"))

    @router.post("/reload", summary="Read policies, rates, numbers, templates and settings anew")
    async def reload(by: Admin) -> Reloaded:
        return Reloaded(**await acts.change(by, None, "reload"))

    return router
