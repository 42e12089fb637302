"""Accounts over HTTP: who pays, what was bought, what was used, standing, services, credit and agreements."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from fairdial.console.api_lines import Line, OwnNumber, standing_of
from fairdial.console.callers import (
    AccountOperator,
    AccountViewer,
    ListViewer,
    Needs,
    of_provider_alone,
    tied,
)
from fairdial.console.http import (
    Acts,
    Admin,
    After,
    Body,
    Instant,
    Key,
    Limit,
    Note,
    Operator,
    Page,
    Text,
    located,
)
from fairdial.console.looking_up import DAYS_MAX
from fairdial.console.once import Once
from fairdial.console.operations import Operations
from fairdial.ledger.contract import Role, Token
from fairdial.policy.account import Consent, Kind, Standing

AccountId = Annotated[str, Path(max_length=80, description="The account's id.", examples=["acme"])]
Service = Annotated[
    Kind, Path(description="Kind of call; emergency calls are never taken away.", examples=["conference"])
]
ConsentName = Annotated[Consent, Path(description="What was agreed to.", examples=["surcharge"])]
AgreementOperator = Annotated[Token, Depends(Needs(Role.OPERATOR, tied("account", body=("case", "request"))))]
Starts = Annotated[str | None, Query(max_length=80, description="Those alone whose id begins so.")]
Days = Annotated[int, Query(ge=1, le=DAYS_MAX, description="So many, today the last.")]
Withdrawn = Annotated[bool, Query(description="Those that were withdrawn too, the latest first.")]
Country = Annotated[str, Field(pattern="^[A-Z]{2}$")]
CurrencyCode = Annotated[str, Field(pattern="^[A-Z]{3}$", description="ISO 4217 code.")]


class Bought(Body):
    """What was bought with a subscription, beside the policy itself."""

    countries: list[Country] = Field(
        default_factory=list,
        max_length=300,
        description="Countries that were bought, where the policy leaves them to the subscription.",
    )
    until_ms: Instant | None = Field(None, description="End of the period bought, UTC; null: it runs on.")
    cycle_day: int = Field(1, ge=1, le=31, description="First day of the billing cycle.")
    plan: str = Field("", max_length=80, description="Your name for what was sold.")
    currency: CurrencyCode | None = Field(None, description="In which a policy that names none charges.")
    estimate_s: int | None = Field(
        None, ge=0, le=100_000_000, description="Seconds a month that the customer expects to talk."
    )


class AccountRequest(Bought):
    """An account."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "account": "globex",
                    "policy": "kryptotel",
                    "zone": "Europe/London",
                    "name": "Globex Ltd",
                    "countries": ["GB", "DE"],
                }
            ]
        }
    )

    account: Text = Field(description="Id, as in the switch's accountcode.")
    policy: Text = Field(description="Name of a policy that is known.")
    zone: Text = Field("UTC", description="IANA time zone in whose midnight its periods begin.")
    name: str = Field("", max_length=200, description="For people.")


class SubscriptionRequest(Bought):
    """What an account is subscribed to from now on. What is left out is not bought."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"policy": "voxdirect", "plan": "office", "cycle_day": 15}]}
    )

    policy: Text = Field(description="Name of a policy that is known.")


class StandingRequest(Body):
    """Whether it may place calls."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"standing": "suspended"}]})

    standing: Standing
    fraud: bool = Field(False, description="With `terminated`: credit is forfeited, charges stay owed.")


class CreditRequest(Body):
    """A payment."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"amount": "20.00", "currency": "EUR", "reference": "invoice-4711"}]}
    )

    amount: str = Field(
        max_length=20, description="Decimal text such as 12.50; below zero takes back what no call reserves."
    )
    currency: CurrencyCode
    reference: Text = Field(description="Your own key for this payment: it is added once for each.")
    note: Note = ""


class AgreementRequest(Body):
    """Who agreed for the customer, and about what."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"agreed_by": "Ann Lee", "note": "by telephone"}]}
    )

    agreed_by: Text
    note: Note = ""
    case: int | None = Field(None, ge=1, le=2**53, description="The case that it answers.")
    request: int | None = Field(None, ge=1, le=2**53, description="The request that it answers.")


class Account(BaseModel):
    """An account as it stands."""

    account: str
    name: str
    policy: str
    zone: str
    standing: Standing
    countries: list[str]
    until_ms: int | None
    cycle_day: int
    plan: str
    currency: str | None
    estimate_s: int | None
    fraud: bool = Field(description="Terminated for fraud: its credit is forfeited.")
    restricted: list[Kind] = Field(description="Services that it may not use for now.")


class AccountChange(Account):
    """An account, and how many calls in progress were told to end by what was done."""

    calls_cut: int


class Agreement(BaseModel):
    """An agreement. at_ms: since when, UTC; about: the case or request that it answers; withdrawn_ms null: it holds."""

    account: str
    consent: Consent
    agreed_by: str
    at_ms: int
    note: str
    about: str
    recorded_by: str
    withdrawn_ms: int | None
    withdrawn_by: str


class Usage(BaseModel):
    """What was used of one allowance in one window (UTC milliseconds). Units: seconds of talk, or messages."""

    allowance: str
    start_ms: int
    end_ms: int
    limit_units: int | None
    used_units: int
    reserved_units: int = Field(description="Held by calls in progress.")
    left_units: int | None
    over_units: int = Field(description="Used past the limit, and charged.")
    unit: str
    calls: int
    policy_units: int | None = Field(description="The policy's own limit.")
    requests: list[int] = Field(description="By which the limit is higher than that.")


class Credit(BaseModel):
    """Prepaid credit; amounts are decimal texts."""

    currency: str
    balance: str
    reserved: str = Field(description="Held by calls in progress; a part of the balance.")
    free: str


class Clause(BaseModel):
    """What a rule rests on: policy, its version, and the clause's id."""

    policy: str
    version: str
    id: str


class Charge(BaseModel):
    """What a call or a message cost, or a period of the minute plan of a request. charged_units: seconds of talk, or
    messages; amount: decimal text.
    """

    call: str | None
    request: int | None
    mode: str
    at_ms: int
    charged_units: int
    amount: str
    currency: str
    rate: str
    clause: Clause


class UsageSheet(BaseModel):
    """What an account used: the newest windows first, and the latest 1,000 charges."""

    usage: list[Usage]
    credit: Credit | None
    charges: list[Charge]


class KindUse(BaseModel):
    """Calls or messages of a kind that began on a day, and seconds of talk on it."""

    calls: int
    seconds: int


class Day(BaseModel):
    """A day. kinds: what was used, by kind; charged: decimal texts by currency, for what ended then; refused: dials."""

    date: str
    kinds: dict[str, KindUse]
    charged: dict[str, str]
    refused: int


class DaysShown(BaseModel):
    """Days of an account's time zone, the oldest first, those without use too; the last is today."""

    zone: str
    days: list[Day]


class AccountSheet(Account, UsageSheet):
    """An account with all that it holds."""

    lines: list[Line]
    numbers: list[OwnNumber]
    agreements: list[Agreement]


def routes(operations: Operations, once: Once) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["accounts"])
    acts = Acts(operations, once)

    @router.post("/accounts", summary="Add an account", status_code=201)
    async def add(by: Admin, asked: AccountRequest, response: Response, key: Key = None) -> Account:
        made = Account(**await acts.change(by, key, "account_add", **asked.model_dump()))
        response.headers["Location"] = located("accounts", made.account)
        return made

    @router.get("/accounts", summary="Accounts by id")
    async def accounts(
        by: ListViewer, starts: Starts = None, limit: Limit = 100, after: After = None
    ) -> Page[Account]:
        given = {"after": after, "starts": starts, "accounts": list(by.accounts) or None}
        return await acts.page(Account, "account", limit, "account_list", **given)

    @router.get("/accounts/{account}", summary="An account with all that it holds")
    async def account_sheet(_by: AccountViewer, account: AccountId) -> AccountSheet:
        return AccountSheet(**await acts.look("account_show", account=account))

    @router.get("/accounts/{account}/usage", summary="What it used, what calls hold, what it cost")
    async def usage(_by: AccountViewer, account: AccountId) -> UsageSheet:
        return UsageSheet(**await acts.look("usage", account=account))

    @router.get("/accounts/{account}/days", summary="What it did day by day, in its own time zone")
    async def days(_by: AccountViewer, account: AccountId, days: Days = 31) -> DaysShown:
        return DaysShown(**await acts.look("account_days", account=account, days=days))

    @router.put("/accounts/{account}/standing", summary="Suspend, restore or terminate it at once")
    async def standing(by: AccountOperator, account: AccountId, asked: StandingRequest) -> AccountChange:
        if asked.fraud:
            of_provider_alone(by, "say that it was fraud")
        given = {"account": account, "fraud": asked.fraud, **standing_of(by, asked.standing)}
        return AccountChange(**await acts.change(by, None, "account_standing", **given))

    @router.put("/accounts/{account}/restrictions/{service}", summary="Take a service from it for now")
    async def restrict(by: AccountOperator, account: AccountId, service: Service) -> AccountChange:
        return AccountChange(
            **await acts.change(by, None, "account_restrict", account=account, services=[str(service)])
        )

    @router.delete("/accounts/{account}/restrictions/{service}", summary="Give a service back")
    async def lift(by: Operator, account: AccountId, service: Service) -> AccountChange:
        return AccountChange(
            **await acts.change(
                by, None, "account_restrict", account=account, services=[str(service)], lift=True
            )
        )

    @router.put("/accounts/{account}/subscription", summary="Put it on a policy, with what was bought")
    async def subscribe(by: Admin, account: AccountId, asked: SubscriptionRequest) -> Account:
        return Account(**await acts.change(by, None, "subscribe", account=account, **asked.model_dump()))

    @router.post("/accounts/{account}/credit", summary="Add prepaid credit, once for each reference")
    async def credit(by: Admin, account: AccountId, asked: CreditRequest) -> Credit:
        return Credit(**await acts.change(by, None, "credit_add", account=account, **asked.model_dump()))

    @router.get("/accounts/{account}/agreements", summary="What the customer has agreed to")
    async def agreements(
        _by: AccountViewer, account: AccountId, withdrawn: Withdrawn = False
    ) -> list[Agreement]:
        found = await acts.look("agreement_list", account=account, withdrawn=withdrawn)
        return [Agreement(**row) for row in found]

    @router.put("/accounts/{account}/agreements/{consent}", summary="Record an agreement")
    async def agree(
        by: AgreementOperator, account: AccountId, consent: ConsentName, asked: AgreementRequest
    ) -> Agreement:
        given = {"account": account, "consent": consent, **asked.model_dump()}
        [held] = await acts.change(by, None, "agreement_add", **given, by=by.name)
        return Agreement(**held)

    @router.delete(
        "/accounts/{account}/agreements/{consent}",
        summary="End an agreement from now on; it stays on record",
        status_code=204,
    )
    async def withdraw(by: AccountOperator, account: AccountId, consent: ConsentName) -> None:
        await acts.change(by, None, "agreement_withdraw", account=account, consent=consent, by=by.name)

    return router
