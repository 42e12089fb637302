"""The command line. Reads arguments, asks for an operation, prints; decides nothing itself.

Exit status: 0 done, 1 refused or found something, 2 bad usage or input. Every reading command has
`--json`. Here stand the commands about the server, calls and decisions, and `import`; those about accounts, about
policies, about the store and `replay` have modules of their own.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from fairdial import logs
from fairdial.config import Logs
from fairdial.console import (
    cli_accounts,
    cli_audit,
    cli_cases,
    cli_init,
    cli_live,
    cli_messages,
    cli_notices,
    cli_policies,
    cli_replay,
    cli_requests,
    cli_shards,
    cli_statement,
    cli_store,
    cli_why,
)
from fairdial.console.looking_up import DAYS_MAX
from fairdial.console.session import (
    FOUND,
    AsJson,
    Session,
    fail,
    instant_ms,
    read_text,
    show,
    table,
    table_of,
)
from fairdial.console.shapes import number_json
from fairdial.doctor import Finding, Severity
from fairdial.policy.account import Kind
from fairdial.policy.numbers import Habit
from fairdial.policy.periods import zone_named

app = typer.Typer(
    help="Keeps a VoIP provider's fair-use policy in the call path of an Asterisk switch.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_accounts.accounts, name="account")
app.add_typer(cli_accounts.lines, name="line")
app.add_typer(cli_accounts.numbers, name="number")
app.add_typer(cli_accounts.credits_app, name="credit")
app.add_typer(cli_accounts.agreements, name="agreement")
app.add_typer(cli_cases.cases, name="case")
app.add_typer(cli_cases.complaints, name="complaint")
app.add_typer(cli_cases.blocks, name="block")
app.add_typer(cli_notices.notices, name="notice")
app.add_typer(cli_notices.contacts, name="contact")
app.add_typer(cli_requests.requests, name="request")
app.add_typer(cli_messages.messages, name="message")
app.add_typer(cli_policies.rates, name="rates")
app.add_typer(cli_policies.policies, name="policy")
app.add_typer(cli_store.tokens, name="token")
app.add_typer(cli_shards.shards, name="shards")
app.command()(cli_accounts.subscribe)
app.command()(cli_statement.statement)
app.command()(cli_audit.audit)
app.command()(cli_init.init)
app.command()(cli_live.top)
app.command()(cli_store.ready)
app.command()(cli_store.reload)
app.command()(cli_store.backup)
app.command()(cli_store.restore)
app.command()(cli_replay.replay)

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="FAIRDIAL_CONFIG", help="Configuration file (fairdial.toml)."),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fairdial {version('fairdial')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
]


@app.callback()
def _settings(context: typer.Context, config: ConfigFile = None, version: Version = False) -> None:
    logs.set_up(Logs(level="error", format="console"))
    context.obj = Session(context.obj, config)


@app.command()
def serve(context: typer.Context) -> None:
    """Run FairDial until SIGTERM or Ctrl-C."""
    session: Session = context.obj
    raise typer.Exit(asyncio.run(_awaited(session.parts.serve(session.config))))


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work


@app.command()
def doctor(
    context: typer.Context,
    asterisk_etc: Annotated[
        Path | None,
        typer.Option("--asterisk-etc", help="Folder of the switch's files; `asterisk_etc` if left out."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is missing for FairDial to work here, and what stands open. Status 1 on failures, not on warnings."""
    session: Session = context.obj
    config = session.config
    if asterisk_etc is not None:
        config = config.model_copy(update={"asterisk_etc": asterisk_etc.absolute()})
    findings: list[Finding] = asyncio.run(_awaited(session.parts.doctor(config)))
    show(
        [_finding_json(finding) for finding in findings],
        as_json,
        lambda: table(("part", "", "found", "cure"), (_finding_row(finding) for finding in findings)),
    )
    if any(finding.severity is Severity.FAILURE for finding in findings):
        raise typer.Exit(FOUND)


def _finding_json(finding: Finding) -> dict[str, object]:
    return {
        "part": finding.part,
        "severity": str(finding.severity),
        "well": finding.well,
        "text": finding.text,
        "where": finding.where,
        "cure": finding.cure,
    }


_SHOWN = {Severity.OK: "ok", Severity.WARNING: "warning", Severity.FAILURE: "FAULT"}


def _finding_row(finding: Finding) -> tuple[str, str, str, str]:
    found = f"{finding.where}: {finding.text}" if finding.where else finding.text
    return finding.part, _SHOWN[finding.severity], found, finding.cure


@app.command("import")
def import_file(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Accounts, lines, numbers, credit, ... as CSV or TOML.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all of it, and keep nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Provision what a file lists, all of it or nothing. Repeating it changes nothing."""
    session: Session = context.obj
    value = session.run(
        "import",
        text=read_text(file),
        where=str(file),
        region=session.config.desk.region,
        dry_run=dry_run,
    )
    columns = ("new", "there already", "kept")
    row = (value["new"], value["there_already"], "no, a dry run" if value["dry_run"] else "yes")
    show(value, as_json, lambda: table(columns, [row]))


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
    show(value, as_json, lambda: table(("what", "is"), value.items()))
    if found.problem is not None:
        raise typer.Exit(FOUND)


RULE_COLUMNS = ("rule", "clause", "saw", "result")


@app.command()
def check(
    context: typer.Context,
    number: Annotated[str, typer.Argument(help="Digits as the line dials them.")],
    account: Annotated[str | None, typer.Option(help="Account; its first line dials.")] = None,
    line: Annotated[str | None, typer.Option(help="Line that dials.")] = None,
    kind: Annotated[Kind, typer.Option(help="Kind of call.")] = Kind.OUTBOUND,
    caller: Annotated[str, typer.Option("--from", help="Caller number that the line shows.")] = "",
    at: Annotated[str | None, typer.Option(help="Time, ISO 8601 with zone: 2026-03-29T01:30:00Z.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show each rule that was looked at.")] = False,
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
        at_ms=instant_ms(at),
        explain=explain or None,
    )
    show(value, as_json, lambda: table(("what", "is"), _decision_rows(value)))
    if not as_json and "rules" in value:
        show(value, False, lambda: table_of(RULE_COLUMNS, value["rules"]))
    if value["decision"] == "refuse":
        raise typer.Exit(FOUND)


def _decision_rows(value: Mapping[str, Any]) -> list[tuple[str, object]]:
    clause = value["clause"]
    return [
        ("decision", value["decision"]),
        ("reason", value["reason"]),
        ("clause", f"{clause['policy']} {clause['version']} {clause['id']}"),
        ("number", value["number"]["e164"] or value["number"]["dialled"]),
        ("class", value["number"]["class"]),
        ("country", value["number"]["country"]),
        ("limit (s)", value["limit_s"]),
        ("cause", value["cause"]),
    ]


CALL_COLUMNS = ("call", "line", "kind", "dialled", "state", "granted_s", "up_s", "left_s")


@app.command()
def calls(
    context: typer.Context,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on until Ctrl-C; with --json an event a line.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the calls in progress that hold a grant."""
    session: Session = context.obj
    if watch:
        cli_live.watch_calls(session, as_json)
        return
    rows = session.run("calls")
    show(rows, as_json, lambda: table_of(CALL_COLUMNS, rows))


NODE_COLUMNS = ("switch", "state", "looked_after_by", "left_s", "epoch", "calls", "skew_ms", "place")


@app.command()
def nodes(
    context: typer.Context,
    forget: Annotated[
        str | None, typer.Option(metavar="SWITCH", help="A switch that is no more: look after it no longer.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the FairDials that share this ledger: who looks after which switch, and for how long."""
    session: Session = context.obj
    if forget is not None:
        session.run("node_forget", switch=forget)
    rows = session.run("node_list")
    show(rows, as_json, lambda: table_of(NODE_COLUMNS, rows))


@app.command()
def hangup(
    context: typer.Context, call: Annotated[str, typer.Argument(help="Call id, as `calls` shows it.")]
) -> None:
    """End a call in progress, on all its legs."""
    session: Session = context.obj
    session.run("hangup", call=call)


@app.command()
def callback(
    context: typer.Context,
    number: Annotated[str, typer.Argument(help="The number wanted, as the line dials it.")],
    line: Annotated[str, typer.Option(help="Line that is rung first, and whose account pays.")],
    first: Annotated[str | None, typer.Option(help="Number to ring first instead of the line.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ring a line, or --first, then the number, and join the two. Prints the call id. Status 1 if it is refused."""
    session: Session = context.obj
    value = session.run("callback", number=number, line=line, first=first)
    show(value, as_json, lambda: table(("what", "is"), value.items()))
    if value["decision"] == "refuse":
        raise typer.Exit(FOUND)


conferences = typer.Typer(help="Conferences whose bridge FairDial holds.", no_args_is_help=True)
app.add_typer(conferences, name="conference")
ROOM_COLUMNS = ("account", "room", "since", "seats", "line", "channel", "host")


@conferences.command("add")
def conference_add(
    context: typer.Context,
    room: Annotated[str, typer.Argument(help="Name of the room, as the dialplan calls it.")],
    number: Annotated[str, typer.Argument(help="Number to call into it, as the line dials it.")],
    line: Annotated[str, typer.Option(help="Line whose account owns the room and pays.")],
    as_json: AsJson = False,
) -> None:
    """Call a number into a conference; it rings when this returns."""
    session: Session = context.obj
    value = session.run("conference_add", room=room, number=number, line=line)
    show(value, as_json, lambda: table(("what", "is"), value.items()))


@conferences.command("list")
def conference_list(context: typer.Context, as_json: AsJson = False) -> None:
    """List the rooms in which somebody is, with who is there."""
    session: Session = context.obj
    rooms = session.run("conference_list")
    rows = [
        {**room, **member, "since": _utc(member["since_ms"])} for room in rooms for member in room["members"]
    ]
    show(rooms, as_json, lambda: table_of(ROOM_COLUMNS, rows))


def _utc(instant_ms: int) -> str:
    return datetime.fromtimestamp(instant_ms / 1000, UTC).isoformat(timespec="milliseconds")


app.command()(cli_why.decisions)
app.command()(cli_why.why)


DIFFERENCE_COLUMNS = ("at", "call_id", "kind", "ours_s", "theirs_s", "done")


@app.command()
def differences(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 20,
    as_json: AsJson = False,
) -> None:
    """List where switch and ledger disagreed, newest first, and what became of it. Exit 1 where there is any."""
    session: Session = context.obj
    rows = session.run("differences", limit=limit)
    for row in rows:
        row["at"] = _utc(row["at_ms"])
    show(rows, as_json, lambda: table_of(DIFFERENCE_COLUMNS, rows))
    if rows:
        raise typer.Exit(1)


@app.command()
def usage(
    context: typer.Context,
    account: Annotated[str, typer.Argument(help="Account.")],
    days: Annotated[
        int | None, typer.Option(min=1, max=DAYS_MAX, help="What it used day by day instead, today the last.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what an account used, what its live calls hold, and what is left."""
    session: Session = context.obj
    if days is not None:
        by_day = session.run("account_days", account=account, days=days)
        show(by_day, as_json, lambda: cli_why.days_table(by_day))
        return
    sheet = session.run("usage", account=account)
    show(sheet, as_json, lambda: _usage_table(sheet))
    if not as_json and sheet["credit"] is not None:
        show(sheet["credit"], False, lambda: table(("credit", ""), sheet["credit"].items()))
    if not as_json and sheet["charges"]:
        show(sheet["charges"], False, lambda: _charge_table(sheet["charges"]))


CHARGE_COLUMNS = ("call", "mode", "charged_units", "amount", "currency", "rate")


def _charge_table(charges: Iterable[Mapping[str, Any]]) -> Table:
    # A minute plan is of no call; what it is charged for is the period that began then.
    shown = (
        row if row["call"] is not None else {**row, "call": f"request {row['request']}, {_utc(row['at_ms'])}"}
        for row in charges
    )
    return table(
        ("call", "mode", "charged", "amount", "currency", "rate", "clause"),
        ([*(row[key] for key in CHARGE_COLUMNS), row["clause"]["id"]] for row in shown),
    )


USAGE_COLUMNS = (
    "allowance",
    "from",
    "to",
    "limit_units",
    "used_units",
    "reserved_units",
    "left_units",
    "over_units",
    "unit",
    "calls",
    "limit of",
)


def _usage_table(sheet: Mapping[str, Any]) -> Table:
    zone = zone_named(sheet["zone"])

    def local(at_ms: int) -> str:
        return datetime.fromtimestamp(at_ms / 1000, zone).isoformat(timespec="minutes")

    def limit_of(row: Mapping[str, Any]) -> str:
        numbers = ", ".join(str(number) for number in row["requests"])
        return f"request {numbers} (policy: {row['policy_units']})" if numbers else "policy"

    rows = (
        {**row, "from": local(row["start_ms"]), "to": local(row["end_ms"]), "limit of": limit_of(row)}
        for row in sheet["usage"]
    )
    return table(
        tuple(column.removesuffix("_units") for column in USAGE_COLUMNS),
        ([row[key] for key in USAGE_COLUMNS] for row in rows),
    )
