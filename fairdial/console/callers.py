"""Who asks over HTTP, and whether for that: by a token or a browser's cookie, by the role, and by the account.

A token may be bound to accounts, for a portal of theirs. Its holder sees and changes what is theirs alone: a route says
how it is tied to an account (a `Tie`), and one that says nothing is not for such tokens. What is another's is answered
as what is not there. Leaves which tokens and sessions there are to `access.py`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from hmac import compare_digest
from typing import Annotated, Any, Final

from fastapi import Depends, HTTPException, Query, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from fairdial.console.access import WAIT_S, Gate, may
from fairdial.console.operations import Operations
from fairdial.ledger.contract import NotFound, Role, Token

COOKIE: Final = "fairdial_session"
CSRF: Final = "X-CSRF-Token"
_READS: Final = frozenset({"GET", "HEAD"})

_bearer = HTTPBearer(auto_error=False, description="A token that `fairdial token add` printed.")


# --- who --------------------------------------------------------------------------------------------------


def turn_away(request: Request, detail: str) -> HTTPException:
    """The error for who shows what nobody holds; who does so too often is to wait."""
    gate: Gate = request.app.state.gate
    if gate.too_often(request.client.host if request.client else ""):
        wait = {"Retry-After": str(WAIT_S)}
        return HTTPException(429, "too many wrong tokens; wait and send the right one", wait)
    return HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})


def refuse_foreign(request: Request) -> None:
    """Refuse what a page of another site has a browser send (Fetch Metadata, W3C). Raises HTTPException."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    if site != "same-origin":
        detail = f"this was sent from elsewhere (Sec-Fetch-Site: {site[:20]}); use FairDial's page"
        raise HTTPException(403, detail)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is. holds: asks whether it still would be let in, now. Raises LedgerError."""

    token: Token
    holds: Callable[[], Awaitable[bool]]


async def _caller(
    request: Request,
    response: Response,
    sent: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Caller:
    """Who asks: by a bearer token, or else by the cookie of a session. Raises HTTPException."""
    gate: Gate = request.app.state.gate
    key = request.cookies.get(COOKIE)
    if sent is None and key is not None:
        found = await gate.session(key)
        if found is None:
            raise HTTPException(401, "this session is over; log in again", {"WWW-Authenticate": "Bearer"})
        session, held = found
        if request.method not in _READS:
            # A browser sends the cookie along with whatever any page has it ask; the page alone knows this.
            refuse_foreign(request)
            if not compare_digest(request.headers.get(CSRF, "").encode(), session.csrf.encode()):
                raise HTTPException(403, f"a change needs the header {CSRF}, with `csrf` of `GET /session`")
        response.headers["Cache-Control"] = "no-store"

        async def runs() -> bool:
            return await gate.session(key) is not None

        return Caller(held, runs)
    by_token = await gate.holder(None if sent is None else sent.credentials)
    if by_token is None:
        raise turn_away(request, "send `Authorization: Bearer TOKEN` with one that `fairdial token add` made")
    return Caller(by_token, partial(gate.knows, by_token.digest))


Asking = Annotated[Caller, Depends(_caller)]
"""Whose request it is, whatever the role."""


# --- of which account ---------------------------------------------------------------------------------------


Tie = Callable[[Request, Token], Awaitable[None]]
"""Looks whether a request of a bound token is about its accounts. Raises HTTPException, NotFound, LedgerError."""

_OWNERS: Final = {
    "line": ("line_show", str, "account"),
    "number": ("number_show", str, "account"),
    "call": ("grant", str, "account_id"),
    "decision": ("decision_show", str, "account_id"),
    "case": ("case_show", int, "account"),
    "request": ("request_show", int, "account"),
    "notice": ("notice_show", int, "account"),
}
"""How the account of a thing is found: the operation that shows it by its id, the id's type, and where it is told."""


def tied(*path: str, body: tuple[str, ...] = ()) -> Tie:
    """About the account, or the account of the thing, that the path names; body: keys of the body that, where they are
    given, name one too.
    """

    async def look(request: Request, held: Token) -> None:
        for name in path:
            await _need_own(request, held, name, request.path_params[name])
        # FastAPI has read it, and keeps what it read: that is what the route gets.
        told: Any = await request.json() if body else None
        for name in body:
            value = told.get(name) if isinstance(told, dict) else None
            if value is not None:
                await _need_own(request, held, name, value)

    return look


async def _need_own(request: Request, held: Token, name: str, value: object) -> None:
    """Raises NotFound, in the same words for what is another's and for what is not there."""
    absent = NotFound(f"no {name} {str(value)[:80]!r} among what token {held.name!r} is for")
    if name == "account":
        if value not in held.accounts:
            raise absent
        return
    operations: Operations = request.app.state.operations
    operation, kind, key = _OWNERS[name]
    try:
        found = await operations.call(operation, {name: kind(value)})
    except (NotFound, ValueError):
        raise absent from None
    if found[key] not in held.accounts:
        raise absent


async def _listed(_request: Request, _held: Token) -> None:
    """`OfAccount` has looked already."""


async def _anybody(_request: Request, _held: Token) -> None:
    """It is about nobody."""


async def _provider(_request: Request, held: Token) -> None:
    raise HTTPException(403, f"token {held.name!r} is bound to accounts; this is for tokens that are not")


def of_provider_alone(held: Token, what: str) -> None:
    """Refuse to a bound token what a customer is not to do for itself. Raises HTTPException."""
    if held.accounts:
        raise HTTPException(403, f"token {held.name!r} is bound to accounts, which may not {what}")


async def _of_account(
    caller: Asking,
    account: Annotated[
        str | None, Query(max_length=80, description="Of this account alone.", examples=["acme"])
    ] = None,
) -> str | None:
    accounts = caller.token.accounts
    if not accounts:
        return account
    if account is None and len(accounts) > 1:
        raise HTTPException(422, f"name one of the token's accounts, such as ?account={accounts[0]}")
    if account is not None and account not in accounts:
        raise NotFound(f"no account {account!r} among what token {caller.token.name!r} is for")
    return account or accounts[0]


OfAccount = Annotated[str | None, Depends(_of_account)]
"""The account to which a list is limited; of a bound token always one of its own."""


# --- with which role ------------------------------------------------------------------------------------------


class Needs:
    """Lets in who holds a token of a role or of a higher one, if it is bound to accounts for what is theirs alone."""

    def __init__(self, role: Role, tie: Tie = _provider) -> None:
        self._role = role
        self._tie = tie

    async def __call__(self, request: Request, caller: Asking) -> Token:
        held = caller.token
        if not may(held.role, self._role):
            raise HTTPException(403, f"token {held.name!r} has role {held.role}; this needs {self._role}")
        if held.accounts:
            await self._tie(request, held)
        return held


Viewer = Annotated[Token, Depends(Needs(Role.VIEWER))]
Operator = Annotated[Token, Depends(Needs(Role.OPERATOR))]
Admin = Annotated[Token, Depends(Needs(Role.ADMIN))]
"""Such a token, bound to no account."""

AnyViewer = Annotated[Token, Depends(Needs(Role.VIEWER, _anybody))]
"""Also bound: what is asked for is about no account."""
ListViewer = Annotated[Token, Depends(Needs(Role.VIEWER, _listed))]
"""Also bound: the list is limited by `OfAccount`, or by `accounts` of the token."""
AccountViewer = Annotated[Token, Depends(Needs(Role.VIEWER, tied("account")))]
AccountOperator = Annotated[Token, Depends(Needs(Role.OPERATOR, tied("account")))]
"""Also bound, to the account that the path names."""
