"""Decisions over HTTP: why calls were allowed or refused, what a dial would get, what calls hold, what disagreed."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from fairdial.console.api_accounts import Clause
from fairdial.console.api_calls import Call, CallId
from fairdial.console.callers import AnyViewer, ListViewer, Needs, OfAccount, tied
from fairdial.console.http import Acts, After, Body, Instant, Limit, Page, Text, Viewer
from fairdial.console.once import Once
from fairdial.console.operations import Operations
from fairdial.ledger.contract import Role, Token
from fairdial.policy.account import Kind


class CheckRequest(Body):
    """A dial that nobody makes. Either a line, or an account, whose first line dials."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"number": "02079460100", "line": "alice", "explain": True}]}
    )

    number: Text = Field(description="Digits as the line dials them.")
    line: Text | None = Field(None, description="Line that dials.")
    account: Text | None = Field(None, description="Account of the line.")
    kind: Kind = Kind.OUTBOUND
    caller: str = Field("", max_length=80, description="Number that the line shows.")
    at_ms: Instant | None = Field(None, description="When, UTC milliseconds; now if left out.")
    explain: bool = Field(False, description="Tell each rule that was looked at.")


class ClassifyRequest(Body):
    """A number."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"number": "02079460100", "region": "GB"}]})

    number: Text = Field(description="Digits as a phone dials them.")
    region: str | None = Field(
        None, pattern="^[A-Z]{2}$", description="Country in whose habit; FairDial's own if left out."
    )


class Dialled(BaseModel):
    """A dialled number: E.164, class and country, where it has them."""

    model_config = ConfigDict(populate_by_name=True)

    dialled: str
    e164: str | None
    number_class: str = Field(alias="class")
    country: str | None


class Classified(Dialled):
    """A number as it was read. problem: why it is none, null where it is."""

    high_risk: bool
    source: str
    problem: str | None


class Price(BaseModel):
    """What a call costs from its first second. mode: included, overage, credit or free; amounts are decimal texts."""

    mode: str
    currency: str | None
    connect_fee: str
    rate_per_min: str
    surcharge_per_min: str


class Looked(BaseModel):
    """A rule that was looked at."""

    rule: str
    clause: str
    saw: str
    result: str


class Verdict(BaseModel):
    """The decision. limit_s: what the call would get, null for no end; cause: Q.850."""

    decision: Literal["allow", "refuse"]
    reason: str
    clause: Clause
    number: Dialled
    limit_s: int | None
    charge: Price
    cause: int
    id: str
    rules: list[Looked] | None = Field(None, description="Where it was to be explained.")


class Decision(BaseModel):
    """A decision as it was made. decision: allow, refuse, or undecided (the failure rule applied)."""

    call_id: str
    at_ms: int
    kind: Kind
    line_id: str
    account_id: str | None
    dialled: str
    e164: str | None
    number_class: str
    country: str | None
    decision: str
    reason: str
    clause_policy: str
    clause_version: str
    clause_id: str
    granted_s: int | None
    limit_s: int | None
    flag: str
    used_s: int | None
    cut_by: str | None = Field(description="Rule that ended it; null where people did.")
    verified: str
    medium: str = Field(description='How a message went, such as "sms"; "" for a call.')
    caller: str = Field(description="The number that the call came with.")
    shown: str | None = Field(description="The number that it showed instead.")
    sip_call_id: str = Field(description='SIP Call-ID of its first leg; "" where it is unknown.')
    cut_clause: str | None


class Rule(BaseModel):
    """A rule of the policy version that decided. section: table of its file; says: in words."""

    section: str
    rule: str
    says: str


class DecisionSheet(Decision):
    """A decision with all that is known of it in words. cause: Q.850. answered_ms, ended_ms: of the call, UTC."""

    kind_text: str
    class_text: str
    text: str = Field(description="What the reason means.")
    cause: int
    cure: str | None = Field(description="What an operator can do about it; null where it was allowed.")
    rules: list[Rule] = Field(description="What the policy says under the clause, in its version of then.")
    cut_rules: list[Rule] = Field(description="The same of the clause by which the call was cut.")
    answered_ms: int | None
    ended_ms: int | None


class Grant(BaseModel):
    """What a call holds or held. used_s: null until it is settled; estimated: nobody saw its end."""

    call_id: str
    account_id: str
    line_id: str
    kind: Kind
    dialled: str
    e164: str | None
    state: str
    granted_s: int | None
    authorised_ms: int
    answered_ms: int | None
    ended_ms: int | None
    used_s: int | None
    estimated: bool
    policy: str
    policy_version: str
    bound_by: str
    room: str | None


class Disagreement(BaseModel):
    """Switch and ledger disagreed about a call. Seconds of talk; null where that side knows of none."""

    call_id: str
    kind: str
    at_ms: int
    ours_s: int | None
    theirs_s: int | None
    done: str


DecisionId = Annotated[
    str, Path(max_length=200, description="Its `call_id`, as listed.", examples=["1795262400.17"])
]
OfLine = Annotated[str | None, Query(max_length=80, description="Of this line alone.")]
OfNumber = Annotated[
    str | None,
    Query(
        max_length=80,
        description="Of this number alone: E.164, or as `line` or FairDial's own region dials it.",
    ),
]
OfCall = Annotated[
    str | None, Query(max_length=200, description="Of this call alone: its id, or its SIP Call-ID.")
]
What = Annotated[
    str,
    Query(max_length=200, description="A call's id, its SIP Call-ID, or a number.", examples=["02079460123"]),
]
CheckViewer = Annotated[Token, Depends(Needs(Role.VIEWER, tied(body=("account", "line"))))]
DecisionViewer = Annotated[Token, Depends(Needs(Role.VIEWER, tied("decision")))]
CallViewer = Annotated[Token, Depends(Needs(Role.VIEWER, tied("call")))]
Latest = Annotated[int, Query(ge=1, le=1_000, description="The latest so many.")]


def routes(operations: Operations, once: Once) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["decisions"])
    acts = Acts(operations, once)

    @router.post(
        "/check",
        summary="The decision that a dial would get, without a call",
        response_model_exclude_unset=True,
    )
    async def check(_by: CheckViewer, asked: CheckRequest) -> Verdict:
        return Verdict(**await acts.look("check", **asked.model_dump()))

    @router.post("/classify", summary="What a dialled number is")
    async def classify(_by: AnyViewer, asked: ClassifyRequest) -> Classified:
        return Classified(**await acts.look("classify", **asked.model_dump()))

    @router.get("/decisions", summary="Decisions, newest first: why calls were allowed or refused")
    async def decisions(
        _by: ListViewer,
        account: OfAccount,
        line: OfLine = None,
        number: OfNumber = None,
        call: OfCall = None,
        limit: Limit = 100,
        after: After = None,
    ) -> Page[Decision]:
        sought = {"account": account, "line": line, "number": number, "call": call, "after": after}
        return await acts.page(Decision, "call_id", limit, "decisions", **sought)

    @router.get("/decisions/{decision}", summary="A decision with all that is known of it, in words")
    async def decision_sheet(_by: DecisionViewer, decision: DecisionId) -> DecisionSheet:
        return DecisionSheet(**await acts.look("decision_show", decision=decision))

    @router.get(
        "/why", summary="The latest refusal of a call or a number, in words; else the latest decision"
    )
    async def why(_by: ListViewer, what: What, account: OfAccount) -> DecisionSheet:
        return DecisionSheet(**await acts.look("why", what=what, account=account))

    @router.get("/differences", summary="Where switch and ledger disagreed, newest first")
    async def differences(_by: Viewer, limit: Latest = 100) -> list[Disagreement]:
        return [Disagreement(**row) for row in await acts.look("differences", limit=limit)]

    @router.get("/grants", summary="Grants that are live in the ledger, oldest first")
    async def grants(_by: ListViewer, account: OfAccount) -> list[Call]:
        return [Call(**row) for row in await acts.look("grants", account=account)]

    @router.get("/grants/{call}", summary="What a call holds, or held")
    async def grant(_by: CallViewer, call: CallId) -> Grant:
        return Grant(**await acts.look("grant", call=call))

    return router
