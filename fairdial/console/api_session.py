"""How a browser is let in: it shows a token once, and has a cookie then, which no script reads.

Not a part of `/v1`: programs send their token with each request. What a cookie may do, and what it needs for it, is
`callers.py`'s.
"""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import BaseModel, Field

from fairdial.console.access import Gate
from fairdial.console.browser import LASTS_MS, Session
from fairdial.console.callers import COOKIE, refuse_foreign, turn_away
from fairdial.console.http import Body
from fairdial.ledger.contract import Role, Token


class LoginRequest(Body):
    """Who wants in."""

    token: Annotated[str, Field(min_length=1, max_length=200)]


class SessionShown(BaseModel):
    """Who is let in. account: whom the token is bound to; null: to none, or to several, all of which `accounts` has.
    csrf: for the header `X-CSRF-Token`.
    """

    name: str
    role: Role
    account: str | None
    accounts: list[str]
    csrf: str


def _shown(held: Token, session: Session) -> SessionShown:
    return SessionShown(
        name=held.name,
        role=held.role,
        account=held.accounts[0] if len(held.accounts) == 1 else None,
        accounts=list(held.accounts),
        csrf=session.csrf,
    )


def routes() -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/session", include_in_schema=False)

    @router.post("")
    async def log_in(request: Request, asked: LoginRequest, response: Response) -> SessionShown:
        refuse_foreign(request)
        gate: Gate = request.app.state.gate
        held = await gate.holder(asked.token.strip())
        if held is None:
            raise turn_away(request, "nobody holds this token; `fairdial token add` makes one")
        # Whoever was logged in here before is not any more.
        gate.log_out(request.cookies.get(COOKIE, ""))
        key, session = gate.log_in(held)
        response.set_cookie(
            COOKIE,
            key,
            max_age=LASTS_MS // 1_000,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        response.headers["Cache-Control"] = "no-store"
        return _shown(held, session)

    @router.get("")
    async def who(request: Request, response: Response) -> SessionShown:
        gate: Gate = request.app.state.gate
        found = await gate.session(request.cookies.get(COOKIE, ""))
        if found is None:
            raise HTTPException(401, "nobody is logged in here, or no more; log in with a token")
        response.headers["Cache-Control"] = "no-store"
        session, held = found
        return _shown(held, session)

    @router.delete("", status_code=204)
    async def log_out(request: Request, response: Response) -> None:
        refuse_foreign(request)
        gate: Gate = request.app.state.gate
        gate.log_out(request.cookies.get(COOKIE, ""))
        response.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=request.url.scheme == "https")

    return router
