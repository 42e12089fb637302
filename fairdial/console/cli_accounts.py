"""The commands about accounts and what they hold: subscription, lines, numbers, credit, agreements."""

import getpass
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.table import Table

from fairdial.console.session import AsJson, Session, instant_ms, instant_text, show, table, table_of
from fairdial.policy.account import Consent, Kind

accounts = typer.Typer(help="Accounts: who pays.", no_args_is_help=True)
lines = typer.Typer(help="Lines: endpoints of the switch that belong to an account.", no_args_is_help=True)
numbers = typer.Typer(help="Numbers of the public network that belong to an account.", no_args_is_help=True)
credits_app = typer.Typer(help="Prepaid credit.", no_args_is_help=True)
agreements = typer.Typer(help="What customers agreed to beside the policy.", no_args_is_help=True)

AccountId = Annotated[str, typer.Argument(help="Account.")]
PolicyName = Annotated[str, typer.Option(help="Name of a loaded policy.")]
Countries = Annotated[
    list[str] | None, typer.Option("--country", help="Country that was bought, such as GB; may be repeated.")
]
Until = Annotated[str | None, typer.Option(help="End of the period bought, ISO 8601 with zone.")]
CycleDay = Annotated[int, typer.Option(min=1, max=31, help="First day of the billing cycle.")]
PlanName = Annotated[str, typer.Option(help="Your name for what was sold.")]
Currency = Annotated[
    str | None, typer.Option(help="ISO 4217 code in which a policy that names none charges.")
]
EstimateMin = Annotated[
    int | None, typer.Option(min=0, help="Minutes a month that the customer expects to talk.")
]

ACCOUNT_COLUMNS = ("account", "name", "policy", "zone", "standing")
OPTION_COLUMNS = ("countries", "until", "cycle_day", "plan", "currency", "estimate_min")


def _account_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    return table_of(ACCOUNT_COLUMNS, rows)


def _options(
    countries: list[str] | None,
    until: str | None,
    cycle_day: int,
    plan: str,
    currency: str | None,
    estimate_min: int | None,
) -> dict[str, Any]:
    """The options of a subscription as operations take them."""
    return {
        "countries": countries or [],
        "until_ms": instant_ms(until, "--until"),
        "cycle_day": cycle_day,
        "plan": plan,
        "currency": currency,
        "estimate_s": None if estimate_min is None else estimate_min * 60,
    }


def _option_rows(row: Mapping[str, Any]) -> list[tuple[str, object]]:
    estimate_s = row["estimate_s"]
    shown = {
        **row,
        "countries": " ".join(row["countries"]),
        "until": instant_text(row["until_ms"]),
        "estimate_min": None if estimate_s is None else estimate_s // 60,
    }
    return [(key, shown[key]) for key in OPTION_COLUMNS]


@accounts.command("add")
def account_add(
    context: typer.Context,
    account: Annotated[str, typer.Argument(help="Id, as in accountcode.")],
    policy: PolicyName,
    zone: Annotated[str, typer.Option(help="IANA time zone in whose midnight its periods begin.")] = "UTC",
    name: Annotated[str, typer.Option(help="For people.")] = "",
    country: Countries = None,
    until: Until = None,
    cycle_day: CycleDay = 1,
    plan: PlanName = "",
    currency: Currency = None,
    estimate_min: EstimateMin = None,
    as_json: AsJson = False,
) -> None:
    """Add an account. Repeating it with the same contents changes nothing."""
    session: Session = context.obj
    options = _options(country, until, cycle_day, plan, currency, estimate_min)
    row = session.run("account_add", account=account, policy=policy, zone=zone, name=name, **options)
    show(row, as_json, lambda: _account_table([row]))


@accounts.command("list")
def account_list(
    context: typer.Context,
    starts: Annotated[str | None, typer.Option(help="Those alone whose id begins so.")] = None,
    as_json: AsJson = False,
) -> None:
    """List all accounts."""
    session: Session = context.obj
    rows = session.run("account_list", starts=starts)
    show(rows, as_json, lambda: _account_table(rows))


@accounts.command("show")
def account_show(context: typer.Context, account: AccountId, as_json: AsJson = False) -> None:
    """Show one account: what was bought, its lines, numbers and agreements."""
    session: Session = context.obj
    sheet = session.run("account_show", account=account)

    def shown() -> Table:
        rows = [(key, sheet[key]) for key in ACCOUNT_COLUMNS]
        rows += [("fraud", "credit is forfeited")] if sheet["fraud"] else []
        rows += [("restricted", " ".join(sheet["restricted"]))] if sheet["restricted"] else []
        rows += _option_rows(sheet)
        rows += [("lines", ", ".join(row["line"] for row in sheet["lines"]))]
        rows += [("number", _number_words(row)) for row in sheet["numbers"]]
        rows += [("agreed to", _agreement_words(row)) for row in sheet["agreements"]]
        return table(("what", "is"), rows)

    show(sheet, as_json, shown)


def _number_words(row: Mapping[str, Any]) -> str:
    return f"{row['number']} of line {row['line']}" if row["line"] else str(row["number"])


def _agreement_words(row: Mapping[str, Any]) -> str:
    note = (
        ": " + ", ".join(part for part in (row["about"], row["note"]) if part)
        if row["about"] or row["note"]
        else ""
    )
    return f"{row['consent']} by {row['agreed_by']}, {instant_text(row['at_ms'])}{note}"


@accounts.command("suspend")
def account_suspend(context: typer.Context, account: AccountId, as_json: AsJson = False) -> None:
    """Suspend an account: its calls in progress are cut, its next dials refused."""
    _set_standing(context, account, "suspended", as_json)


@accounts.command("restore")
def account_restore(context: typer.Context, account: AccountId, as_json: AsJson = False) -> None:
    """Make a suspended or terminated account active again."""
    _set_standing(context, account, "active", as_json)


@accounts.command("terminate")
def account_terminate(
    context: typer.Context,
    account: AccountId,
    fraud: Annotated[bool, typer.Option("--fraud", help="For fraud: its credit is forfeited.")] = False,
    as_json: AsJson = False,
) -> None:
    """Terminate an account: its calls in progress are cut, its next dials refused."""
    _set_standing(context, account, "terminated", as_json, fraud=fraud)


Services = Annotated[list[Kind], typer.Argument(help="Kinds of call, such as conference; one or more.")]
"""Emergency is refused by the operation, which says why."""


@accounts.command("restrict")
def account_restrict(
    context: typer.Context, account: AccountId, service: Services, as_json: AsJson = False
) -> None:
    """Take services from an account: such calls in progress are cut, the next ones refused. The rest goes on."""
    _restrict(context, account, service, as_json, lift=False)


@accounts.command("lift")
def account_lift(
    context: typer.Context, account: AccountId, service: Services, as_json: AsJson = False
) -> None:
    """Give services back to an account that was restricted."""
    _restrict(context, account, service, as_json, lift=True)


def _restrict(
    context: typer.Context, account: str, services: Sequence[Kind], as_json: bool, *, lift: bool
) -> None:
    session: Session = context.obj
    row = session.run(
        "account_restrict", account=account, services=[str(each) for each in services], lift=lift
    )
    shown = {**row, "restricted": " ".join(row["restricted"])}
    show(row, as_json, lambda: table_of((*ACCOUNT_COLUMNS, "restricted", "calls_cut"), [shown]))


def _set_standing(
    context: typer.Context, account: str, standing: str, as_json: bool, *, fraud: bool = False
) -> None:
    session: Session = context.obj
    row = session.run("account_standing", account=account, standing=standing, fraud=fraud)
    show(row, as_json, lambda: table_of((*ACCOUNT_COLUMNS, "calls_cut"), [row]))


def subscribe(
    context: typer.Context,
    account: AccountId,
    policy: PolicyName,
    country: Countries = None,
    until: Until = None,
    cycle_day: CycleDay = 1,
    plan: PlanName = "",
    currency: Currency = None,
    estimate_min: EstimateMin = None,
    as_json: AsJson = False,
) -> None:
    """Put an account on a policy, with what was bought. Calls in progress keep their terms."""
    session: Session = context.obj
    options = _options(country, until, cycle_day, plan, currency, estimate_min)
    row = session.run("subscribe", account=account, policy=policy, **options)
    rows = [*((key, row[key]) for key in ACCOUNT_COLUMNS), *_option_rows(row)]
    show(row, as_json, lambda: table(("what", "is"), rows))


@credits_app.command("add")
def credit_add(
    context: typer.Context,
    account: AccountId,
    amount: Annotated[str, typer.Argument(help="Amount such as 12.50; after -- also below zero.")],
    currency: Annotated[str, typer.Option(help="ISO 4217 code.")],
    reference: Annotated[str, typer.Option(help="Your own key for this payment: it is added once for each.")],
    note: Annotated[str, typer.Option(help="For people.")] = "",
    as_json: AsJson = False,
) -> None:
    """Add prepaid credit. Repeating a reference changes nothing."""
    session: Session = context.obj
    row = session.run(
        "credit_add", account=account, amount=amount, currency=currency, reference=reference, note=note
    )
    show(row, as_json, lambda: table(("what", "is"), row.items()))


LINE_COLUMNS = ("line", "account", "standing", "region")


def _line_table(rows: Iterable[Mapping[str, Any]], *more: str) -> Table:
    return table_of((*LINE_COLUMNS, *more), ({**row, "region": row["habit"]["region"]} for row in rows))


@lines.command("add")
def line_add(
    context: typer.Context,
    line: Annotated[str, typer.Argument(help="Id: the endpoint's name at the switch.")],
    account: Annotated[str, typer.Option(help="Account that pays.")],
    region: Annotated[str | None, typer.Option(help="Country in whose habit it dials.")] = None,
    carrier_prefix: Annotated[
        list[str] | None, typer.Option(help="Digits dialled before the number, such as 9; may be repeated.")
    ] = None,
    internal: Annotated[str | None, typer.Option(help="Pattern of extensions, such as _1XX.")] = None,
    as_json: AsJson = False,
) -> None:
    """Add a line to an account. Repeating it with the same contents changes nothing."""
    session: Session = context.obj
    habit = {
        "region": region or session.config.desk.region,
        "carrier_prefixes": carrier_prefix or [],
        "internal": internal,
    }
    row = session.run("line_add", line=line, account=account, habit=habit)
    show(row, as_json, lambda: _line_table([row]))


@lines.command("list")
def line_list(
    context: typer.Context,
    account: Annotated[str | None, typer.Argument(help="Account; all if left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """List lines."""
    session: Session = context.obj
    rows = session.run("line_list", account=account)
    show(rows, as_json, lambda: _line_table(rows))


LineId = Annotated[str, typer.Argument(help="Line.")]


@lines.command("suspend")
def line_suspend(context: typer.Context, line: LineId, as_json: AsJson = False) -> None:
    """Suspend a line: its calls in progress are cut, its next dials refused."""
    _set_line_standing(context, line, "suspended", as_json)


@lines.command("restore")
def line_restore(context: typer.Context, line: LineId, as_json: AsJson = False) -> None:
    """Make a suspended or terminated line active again."""
    _set_line_standing(context, line, "active", as_json)


@lines.command("terminate")
def line_terminate(context: typer.Context, line: LineId, as_json: AsJson = False) -> None:
    """Terminate a line: its calls in progress are cut, its next dials refused."""
    _set_line_standing(context, line, "terminated", as_json)


def _set_line_standing(context: typer.Context, line: str, standing: str, as_json: bool) -> None:
    session: Session = context.obj
    row = session.run("line_standing", line=line, standing=standing)
    show(row, as_json, lambda: _line_table([row], "calls_cut"))


NUMBER_COLUMNS = ("number", "account", "line")


@numbers.command("add")
def number_add(
    context: typer.Context,
    number: Annotated[str, typer.Argument(help="Number in E.164, such as +442079460000.")],
    account: Annotated[str, typer.Option(help="Account that it belongs to.")],
    line: Annotated[str | None, typer.Option(help="Line whose number it is; any of the account's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Give a number to an account, or to another of its lines: they may show it to those they call."""
    session: Session = context.obj
    row = session.run("number_add", number=number, account=account, line=line)
    show(row, as_json, lambda: table_of(NUMBER_COLUMNS, [row]))


@numbers.command("list")
def number_list(context: typer.Context, account: AccountId, as_json: AsJson = False) -> None:
    """List the numbers of an account."""
    session: Session = context.obj
    rows = session.run("number_list", account=account)
    show(rows, as_json, lambda: table_of(NUMBER_COLUMNS, rows))


@numbers.command("remove")
def number_remove(
    context: typer.Context, number: Annotated[str, typer.Argument(help="Number in E.164.")]
) -> None:
    """Take a number from its account."""
    session: Session = context.obj
    session.run("number_remove", number=number)


ConsentOption = Annotated[Consent, typer.Option(help="What was agreed to.")]
AGREEMENT_COLUMNS = ("account", "consent", "agreed_by", "at", "about", "note", "recorded_by")


def _agreement_table(rows: Iterable[Mapping[str, Any]], *more: str) -> Table:
    shown = (
        {**row, "at": instant_text(row["at_ms"]), "withdrawn": instant_text(row["withdrawn_ms"])}
        for row in rows
    )
    return table_of((*AGREEMENT_COLUMNS, *more), shown)


@agreements.command("add")
def agreement_add(
    context: typer.Context,
    account: AccountId,
    consent: ConsentOption,
    by: Annotated[str, typer.Option(help="Who gave it.")],
    note: Annotated[str, typer.Option(help="What it was about.")] = "",
    case: Annotated[int | None, typer.Option(help="The case that it answers.")] = None,
    request: Annotated[int | None, typer.Option(help="The request that it answers.")] = None,
    as_json: AsJson = False,
) -> None:
    """Record an agreement. One that holds already stays as it is."""
    session: Session = context.obj
    rows = session.run(
        "agreement_add",
        account=account,
        consent=str(consent),
        agreed_by=by,
        note=note,
        by=getpass.getuser(),
        case=case,
        request=request,
    )
    show(rows, as_json, lambda: _agreement_table(rows))


@agreements.command("list")
def agreement_list(
    context: typer.Context,
    account: AccountId,
    withdrawn: Annotated[bool, typer.Option("--all", help="Those that were withdrawn too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the agreements of an account that hold."""
    session: Session = context.obj
    rows = session.run("agreement_list", account=account, withdrawn=withdrawn)
    more = ("withdrawn", "withdrawn_by") if withdrawn else ()
    show(rows, as_json, lambda: _agreement_table(rows, *more))


@agreements.command("withdraw")
def agreement_withdraw(context: typer.Context, account: AccountId, consent: ConsentOption) -> None:
    """End an agreement from now on; it stays on record."""
    session: Session = context.obj
    session.run("agreement_withdraw", account=account, consent=str(consent), by=getpass.getuser())
