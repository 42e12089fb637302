"""The command line. Reads arguments, asks for an operation, prints; decides nothing itself.

Exit status: 0 done, 1 refused or found something, 2 bad usage or input. Every reading command has
`--json`. A command goes to the running FairDial over its control socket; where none runs, it opens the
ledger itself.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, Protocol

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fairdial import logs
from fairdial.config import Config, ConfigError, Logs, load
from fairdial.console.control import NotRunning, ask
from fairdial.console.operations import OperationError, Operations, number_json
from fairdial.desk import Desk
from fairdial.doctor import Finding
from fairdial.ledger.contract import LedgerError
from fairdial.policy.account import Kind
from fairdial.policy.cards import COLUMNS as RATE_COLUMNS
from fairdial.policy.difference import difference
from fairdial.policy.document import Policy, PolicyError, parse_policy
from fairdial.policy.lint import Severity, lint
from fairdial.policy.numbers import Habit, Numbering
from fairdial.policy.periods import zone_named
from fairdial.policy.show import show as policy_rows

BAD_INPUT = 2
FOUND = 1


class Parts(Protocol):
    """What the composition root gives the command line."""

    def open_desk(self, config: Config) -> AbstractAsyncContextManager[Desk]: ...
    def numbering(self, config: Config) -> Numbering: ...
    def serve(self, config: Config) -> Awaitable[int]: ...
    def doctor(self, config: Config) -> Awaitable[list[Finding]]: ...


app = typer.Typer(
    help="Keeps a VoIP provider's fair-use policy in the call path of an Asterisk switch.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
credits_app = typer.Typer(help="Prepaid credit.", no_args_is_help=True)
rates = typer.Typer(help="Rate cards: what a minute to a number costs.", no_args_is_help=True)
policies = typer.Typer(help="Policy files: check, read, compare.", no_args_is_help=True)
accounts = typer.Typer(help="Accounts: who pays.", no_args_is_help=True)
lines = typer.Typer(help="Lines: endpoints of the switch that belong to an account.", no_args_is_help=True)
app.add_typer(accounts, name="account")
app.add_typer(lines, name="line")
app.add_typer(credits_app, name="credit")
app.add_typer(rates, name="rates")
app.add_typer(policies, name="policy")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="FAIRDIAL_CONFIG", help="Configuration file (fairdial.toml)."),
]


@app.callback()
def _settings(context: typer.Context, config: ConfigFile = None) -> None:
    logs.set_up(Logs(level="error", format="console"))
    context.obj = Session(context.obj, config)


class Session:
    """One run of the command line."""

    def __init__(self, parts: Parts, config_path: Path | None) -> None:
        self.parts = parts
        self._config_path = config_path

    @property
    def config(self) -> Config:
        """The configuration; ends the command where it is faulty."""
        try:
            return load(self._config_path)
        except ConfigError as error:
            fail(str(error))

    def run(self, operation: str, **arguments: Any) -> Any:
        """Run an operation at the running FairDial, or on the ledger where none runs."""
        config = self.config
        given = {key: value for key, value in arguments.items() if value is not None}
        try:
            try:
                return ask(config.control, operation, given)
            except NotRunning:
                return asyncio.run(self._run_here(config, operation, given))
        except (OperationError, LedgerError, ValueError, OSError) as error:
            fail(str(error))

    async def _run_here(self, config: Config, operation: str, arguments: Mapping[str, Any]) -> Any:
        async with self.parts.open_desk(config) as desk:
            return await Operations(desk).call(operation, arguments)


def fail(text: str, status: int = BAD_INPUT) -> NoReturn:
    """Say what is wrong and end."""
    sys.stderr.write(f"fairdial: {text}\n")
    raise typer.Exit(status)


def show(value: Any, as_json: bool, table: Callable[[], Table]) -> None:
    """Print a result."""
    if as_json:
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    else:
        # Off a terminal nothing is cut off to a guessed width: somebody may be searching in it.
        Console(width=None if sys.stdout.isatty() else 200).print(table())


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # As Text: what is shown may hold brackets, which rich would read as markup.
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    return table


@app.command()
def serve(context: typer.Context) -> None:
    """Run FairDial until SIGTERM or Ctrl-C."""
    session: Session = context.obj
    raise typer.Exit(asyncio.run(_awaited(session.parts.serve(session.config))))


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work


@app.command()
def doctor(context: typer.Context, as_json: AsJson = False) -> None:
    """Say what is missing for FairDial to work here, and how to mend it."""
    session: Session = context.obj
    findings: list[Finding] = asyncio.run(_awaited(session.parts.doctor(session.config)))
    show(
        [asdict(finding) for finding in findings],
        as_json,
        lambda: _table(
            ("part", "", "found", "cure"),
            ((each.part, "ok" if each.well else "FAULT", each.text, each.cure) for each in findings),
        ),
    )
    if not all(finding.well for finding in findings):
        raise typer.Exit(FOUND)


@app.command()
def classify(
    context: typer.Context,
    number: Annotated[str, typer.Argument(help="Digits as a phone dials them.")],
    region: Annotated[str | None, typer.Option(help="Country in whose habit they are dialled.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a dialled number is: E.164, class, country. Status 1 if it is invalid."""
    session: Session = context.obj
    config = session.config
    try:
        found = session.parts.numbering(config).classify(number, Habit(region=region or config.desk.region))
    except (ValueError, OSError) as error:
        fail(str(error))
    value = number_json(found)
    show(value, as_json, lambda: _table(("what", "is"), value.items()))
    if found.problem is not None:
        raise typer.Exit(FOUND)


@app.command()
def check(
    context: typer.Context,
    number: Annotated[str, typer.Argument(help="Digits as the line dials them.")],
    account: Annotated[str | None, typer.Option(help="Account; its first line dials.")] = None,
    line: Annotated[str | None, typer.Option(help="Line that dials.")] = None,
    kind: Annotated[Kind, typer.Option(help="Kind of call.")] = Kind.OUTBOUND,
    caller: Annotated[str, typer.Option("--from", help="Caller number that the line shows.")] = "",
    at: Annotated[str | None, typer.Option(help="Time, ISO 8601 with zone: 2026-03-29T01:30:00Z.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the decision that a dial would get, without a call. Status 1 if it is refused."""
    session: Session = context.obj
    value = session.run(
        "check",
        number=number,
        account=account,
        line=line,
        kind=str(kind),
        caller=caller,
        at_ms=_instant_ms(at),
    )
    clause = value["clause"]
    rows = (
        ("decision", value["decision"]),
        ("reason", value["reason"]),
        ("clause", f"{clause['policy']} {clause['version']} {clause['id']}"),
        ("number", value["number"]["e164"] or value["number"]["dialled"]),
        ("class", value["number"]["class"]),
        ("country", value["number"]["country"]),
        ("limit (s)", value["limit_s"]),
        ("cause", value["cause"]),
    )
    show(value, as_json, lambda: _table(("what", "is"), rows))
    if value["decision"] == "refuse":
        raise typer.Exit(FOUND)


def _instant_ms(text: str | None, option: str = "--at") -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        fail(f"{option} {text!r} is not an ISO 8601 time; write it like 2026-03-29T01:30:00Z")
    if moment.tzinfo is None:
        fail(f"{option} {text!r} has no time zone; add Z or an offset such as +01:00")
    return int(moment.timestamp() * 1000)


CALL_COLUMNS = ("call", "line", "kind", "dialled", "state", "granted_s", "up_s", "left_s")


@app.command()
def calls(context: typer.Context, as_json: AsJson = False) -> None:
    """List the calls in progress that hold a grant."""
    session: Session = context.obj
    rows = session.run("calls")
    show(rows, as_json, lambda: _table(CALL_COLUMNS, ([row[key] for key in CALL_COLUMNS] for row in rows)))


@app.command()
def hangup(
    context: typer.Context, call: Annotated[str, typer.Argument(help="Call id, as `calls` shows it.")]
) -> None:
    """End a call in progress, on all its legs."""
    session: Session = context.obj
    session.run("hangup", call=call)


DECISION_COLUMNS = (
    "at",
    "call_id",
    "line_id",
    "kind",
    "dialled",
    "number_class",
    "decision",
    "reason",
    "clause_id",
)


@app.command()
def decisions(
    context: typer.Context,
    account: Annotated[str | None, typer.Argument(help="Account; all if left out.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 20,
    as_json: AsJson = False,
) -> None:
    """List the latest decisions, newest first: why calls were allowed or refused."""
    session: Session = context.obj
    rows = session.run("decisions", account=account, limit=limit)
    for row in rows:
        row["at"] = datetime.fromtimestamp(row["at_ms"] / 1000, UTC).isoformat(timespec="milliseconds")
    show(
        rows,
        as_json,
        lambda: _table(DECISION_COLUMNS, ([row[key] for key in DECISION_COLUMNS] for row in rows)),
    )


@app.command()
def usage(
    context: typer.Context,
    account: Annotated[str, typer.Argument(help="Account.")],
    as_json: AsJson = False,
) -> None:
    """Show what an account used, what its live calls hold, and what is left."""
    session: Session = context.obj
    sheet = session.run("usage", account=account)
    show(sheet, as_json, lambda: _usage_table(sheet))
    if not as_json and sheet["credit"] is not None:
        show(sheet["credit"], False, lambda: _table(("credit", ""), sheet["credit"].items()))
    if not as_json and sheet["charges"]:
        show(sheet["charges"], False, lambda: _charge_table(sheet["charges"]))


CHARGE_COLUMNS = ("call", "mode", "charged_s", "amount", "currency", "rate")


def _charge_table(charges: Iterable[Mapping[str, Any]]) -> Table:
    return _table(CHARGE_COLUMNS, ([row[key] for key in CHARGE_COLUMNS] for row in charges))


def _usage_table(sheet: Mapping[str, Any]) -> Table:
    zone = zone_named(sheet["zone"])

    def local(instant_ms: int) -> str:
        return datetime.fromtimestamp(instant_ms / 1000, zone).isoformat(timespec="minutes")

    def left_s(entry: Mapping[str, Any]) -> int | None:
        return None if entry["limit_s"] is None else entry["limit_s"] - entry["used_s"] - entry["reserved_s"]

    return _table(
        ("allowance", "from", "to", "limit_s", "used_s", "reserved_s", "left_s", "over_s", "calls"),
        (
            (
                entry["allowance"],
                local(entry["start_ms"]),
                local(entry["end_ms"]),
                entry["limit_s"],
                entry["used_s"],
                entry["reserved_s"],
                left_s(entry),
                entry["over_s"],
                entry["calls"],
            )
            for entry in sheet["usage"]
        ),
    )


ACCOUNT_COLUMNS = ("account", "name", "policy", "zone", "standing")


def _account_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    return _table(ACCOUNT_COLUMNS, ([row[key] for key in ACCOUNT_COLUMNS] for row in rows))


@accounts.command("add")
def account_add(
    context: typer.Context,
    account: Annotated[str, typer.Argument(help="Id, as in accountcode.")],
    policy: Annotated[str, typer.Option(help="Name of a loaded policy.")],
    zone: Annotated[str, typer.Option(help="IANA time zone in whose midnight its periods begin.")] = "UTC",
    name: Annotated[str, typer.Option(help="For people.")] = "",
    as_json: AsJson = False,
) -> None:
    """Add an account. Repeating it with the same contents changes nothing."""
    session: Session = context.obj
    row = session.run("account_add", account=account, policy=policy, zone=zone, name=name)
    show(row, as_json, lambda: _account_table([row]))


@accounts.command("list")
def account_list(context: typer.Context, as_json: AsJson = False) -> None:
    """List all accounts."""
    session: Session = context.obj
    rows = session.run("account_list")
    show(rows, as_json, lambda: _account_table(rows))


@accounts.command("show")
def account_show(
    context: typer.Context, account: Annotated[str, typer.Argument()], as_json: AsJson = False
) -> None:
    """Show one account with its lines."""
    session: Session = context.obj
    sheet = session.run("account_show", account=account)

    def table() -> Table:
        rows = [(key, sheet[key]) for key in ACCOUNT_COLUMNS]
        return _table(("what", "is"), [*rows, ("lines", ", ".join(line["line"] for line in sheet["lines"]))])

    show(sheet, as_json, table)


def _standing_command(name: str, standing: str, text: str) -> None:
    def command(
        context: typer.Context, account: Annotated[str, typer.Argument()], as_json: AsJson = False
    ) -> None:
        session: Session = context.obj
        row = session.run("account_standing", account=account, standing=standing)
        show(row, as_json, lambda: _account_table([row]))

    accounts.command(name, help=text)(command)


_standing_command("suspend", "suspended", "Suspend an account: its next dials are refused.")
_standing_command("restore", "active", "Make a suspended or terminated account active again.")
_standing_command("terminate", "terminated", "Terminate an account: its next dials are refused.")


@app.command()
def subscribe(
    context: typer.Context,
    account: Annotated[str, typer.Argument(help="Account.")],
    policy: Annotated[str, typer.Option(help="Name of a loaded policy.")],
    country: Annotated[
        list[str] | None, typer.Option(help="Country that was bought, such as GB; may be repeated.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="End of the period bought, ISO 8601 with zone.")] = None,
    cycle_day: Annotated[int, typer.Option(min=1, max=31, help="First day of the billing cycle.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Put an account on a policy, with what was bought. Calls in progress keep their terms."""
    session: Session = context.obj
    row = session.run(
        "subscribe",
        account=account,
        policy=policy,
        countries=country or [],
        until_ms=_instant_ms(until, "--until"),
        cycle_day=cycle_day,
    )
    show(row, as_json, lambda: _table(("what", "is"), row.items()))


@credits_app.command("add")
def credit_add(
    context: typer.Context,
    account: Annotated[str, typer.Argument(help="Account.")],
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
    show(row, as_json, lambda: _table(("what", "is"), row.items()))


CARD_COLUMNS = ("card", "currency", "rates", "version")


@rates.command("load")
def rates_load(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="CSV: " + ",".join(RATE_COLUMNS))],
    card: Annotated[str, typer.Option(help="Name of the card, as policies call it.")],
    currency: Annotated[str, typer.Option(help="ISO 4217 code of its prices.")],
    as_json: AsJson = False,
) -> None:
    """Load a rate card, all of it or nothing; one of the same name is replaced."""
    session: Session = context.obj
    row = session.run("rates_load", card=card, currency=currency, text=_read_text(file), where=str(file))
    show(row, as_json, lambda: _table(CARD_COLUMNS, [[row[key] for key in CARD_COLUMNS]]))


@rates.command("list")
def rates_list(context: typer.Context, as_json: AsJson = False) -> None:
    """List the loaded rate cards."""
    session: Session = context.obj
    rows = session.run("rates_list")
    show(rows, as_json, lambda: _table(CARD_COLUMNS, ([row[key] for key in CARD_COLUMNS] for row in rows)))


PolicyFile = Annotated[Path, typer.Argument(help="Policy file (TOML).")]
FINDING_COLUMNS = ("file", "line", "severity", "key", "words", "cure")


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file}: cannot be read as UTF-8 text ({error})")


def _read_policy(file: Path) -> Policy:
    try:
        return parse_policy(_read_text(file), str(file))
    except PolicyError as error:
        fail(str(error))


@policies.command("lint")
def policy_lint(
    files: Annotated[list[Path], typer.Argument(help="Policy files (TOML).")], as_json: AsJson = False
) -> None:
    """Find what is wrong or does not make sense. Status 1 if there is an error, 0 for warnings alone."""
    found = [finding for file in files for finding in lint(_read_text(file), str(file))]
    rows = [asdict(finding) for finding in found]
    show(
        rows,
        as_json,
        lambda: _table(FINDING_COLUMNS, ([row[key] for key in FINDING_COLUMNS] for row in rows)),
    )
    if any(finding.severity is Severity.ERROR for finding in found):
        raise typer.Exit(FOUND)


@policies.command("show")
def policy_show(file: PolicyFile, as_json: AsJson = False) -> None:
    """Say in words what a policy means."""
    rows = [asdict(row) for row in policy_rows(_read_policy(file))]
    show(rows, as_json, lambda: _table(list(rows[0]), (list(row.values()) for row in rows)))


@policies.command("diff")
def policy_diff(
    old: PolicyFile,
    new: Annotated[Path, typer.Argument(help="The newer version.")],
    as_json: AsJson = False,
) -> None:
    """Say in plain words what changes for a customer. Status 1 if anything does."""
    sentences = list(difference(_read_policy(old), _read_policy(new)))
    show(sentences, as_json, lambda: _table(("what changes",), ([sentence] for sentence in sentences)))
    if sentences:
        raise typer.Exit(FOUND)


LINE_COLUMNS = ("line", "account", "standing", "region")


def _line_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    return _table(
        LINE_COLUMNS,
        ((row["line"], row["account"], row["standing"], row["habit"]["region"]) for row in rows),
    )


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
