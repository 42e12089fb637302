"""The commands about requests for higher limits, and about minute plans that were proposed or added."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from fairdial.console.cli_accounts import AccountId
from fairdial.console.cli_cases import By, by_whom
from fairdial.console.session import AsJson, Session, fail, instant_ms, instant_text, show, table
from fairdial.policy.requests import CYCLES_MAX, RequestState

requests = typer.Typer(help="Requests for higher limits, and minute plans.", no_args_is_help=True)

RequestId = Annotated[int, typer.Argument(help="Number of the request, as `request list` shows it.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it stays on record.")]

COLUMNS = ("request", "account", "state", "raises", "clause", "why", "asked by", "asked", "from", "until")

_IN_S = {"s": 1, "min": 60, "h": 3600}


def _amount(text: str) -> tuple[int, str | None]:
    """A limit, and the unit in which it was written: seconds "s", "" for a plain number."""
    found = re.fullmatch(r"([0-9]{1,12})(s|min|h)?", text)
    if found is None:
        fail(f"--to {text!r} is no limit; write 3000min, 50h or 180000s for talk, 5 for a number")
    digits, unit = found[1], found[2]
    # Messages and numbers of something are both written plainly.
    return (int(digits) * _IN_S[unit], "s") if unit else (int(digits), None)


def _size(units: int, unit: str) -> str:
    if unit != "s":
        return f"{units:,} {unit}".strip()
    return f"{units // 60:,} min" if units % 60 == 0 else f"{units:,} s"


def _raises(row: Mapping[str, Any]) -> str:
    if row["plan"] is None:
        return f"{row['rule']} to {_size(row['limit'], row['unit'])}"
    price = f"{row['price']} {row['currency']} a {row['period']}"
    return f"{row['rule']} by {_size(row['adds'], row['unit'])}: plan {row['plan']}, {price}"


def _row(row: Mapping[str, Any]) -> tuple[object, ...]:
    begun = row["from_ms"] is not None
    return (
        row["request"],
        row["account"],
        row["state"],
        _raises(row),
        f"{row['clause']['policy']} {row['clause']['id']}",
        row["why"],
        row["asked_by"],
        instant_text(row["asked_ms"]),
        instant_text(row["from_ms"]),
        instant_text(row["until_ms"] if begun else row["asked_until_ms"]),
    )


def _shown(row: Mapping[str, Any]) -> Table:
    rows: list[tuple[object, object]] = list(zip(COLUMNS, _row(row), strict=True))
    for entry in row.get("entries", ()):
        words = f"{entry['what']} by {entry['by']}" + (f": {entry['note']}" if entry["note"] else "")
        rows.append((instant_text(entry["at_ms"]), words))
    return table(("what", "is"), rows)


@requests.command("open")
@requests.command("add", hidden=True)  # its name before
def request_open(
    context: typer.Context,
    account: AccountId,
    limit: Annotated[str, typer.Argument(help="Key in the policy file: allowances.voice, caps.lines, ...")],
    to: Annotated[
        str, typer.Option(help="The limit wanted: 3000min, 50h or 180000s for talk, else a number.")
    ],
    why: Annotated[str, typer.Option(help="What it is for.")],
    line: Annotated[str | None, typer.Option(help="For this line alone, where each has its own.")] = None,
    until: Annotated[str | None, typer.Option(help="How long it is wanted, ISO 8601 with zone.")] = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Take down that a customer asks for a higher limit. It changes nothing until it is approved."""
    session: Session = context.obj
    units, unit = _amount(to)
    row = session.run(
        "request_add",
        account=account,
        rule=limit,
        limit=units,
        plain=unit is None,
        why=why,
        by=by_whom(by),
        line=line,
        until_ms=instant_ms(until, "--until"),
    )
    show(row, as_json, lambda: table(COLUMNS, [_row(row)]))


@requests.command("list")
def request_list(
    context: typer.Context,
    account: Annotated[str | None, typer.Option(help="Of this account alone.")] = None,
    state: Annotated[RequestState | None, typer.Option(help="In this state alone.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The latest so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List requests and minute plans, the newest first."""
    session: Session = context.obj
    wanted = None if state is None else str(state)
    rows = session.run("request_list", account=account, state=wanted, limit=limit)
    show(rows, as_json, lambda: table(COLUMNS, (_row(row) for row in rows)))


@requests.command("show")
def request_show(context: typer.Context, request: RequestId, as_json: AsJson = False) -> None:
    """Show a request, and all that was done about it."""
    session: Session = context.obj
    row = session.run("request_show", request=request)
    show(row, as_json, lambda: _shown(row))


@requests.command("approve")
def request_approve(
    context: typer.Context,
    request: RequestId,
    reason: Reason,
    next_cycle: Annotated[
        bool, typer.Option("--next-cycle", help="From the next billing cycle on; a plan always.")
    ] = False,
    until: Annotated[
        str | None, typer.Option(help="Its end, ISO 8601 with zone; as asked if left out.")
    ] = None,
    cycles: Annotated[
        int | None, typer.Option(min=1, max=CYCLES_MAX, help="For so many billing cycles, the first counted.")
    ] = None,
    endless: Annotated[bool, typer.Option("--endless", help="Without end, whatever was asked.")] = False,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Raise the limit, or add the plan. Calls in progress that would be cut at the old limit go on."""
    session: Session = context.obj
    row = session.run(
        "request_approve",
        request=request,
        by=by_whom(by),
        note=reason,
        starts="next_cycle" if next_cycle else "at_once",
        until_ms=instant_ms(until, "--until"),
        cycles=cycles,
        endless=endless,
    )
    show(row, as_json, lambda: _shown(row))


@requests.command("decline")
def request_decline(
    context: typer.Context, request: RequestId, reason: Reason, by: By = None, as_json: AsJson = False
) -> None:
    """Decline a request or a plan that is open."""
    _rule(context, "request_decline", request, reason, by, as_json)


@requests.command("withdraw")
def request_withdraw(
    context: typer.Context,
    request: RequestId,
    reason: Annotated[str, typer.Option("--reason", help="Why.")] = "",
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Take a request back that nobody has answered yet."""
    _rule(context, "request_withdraw", request, reason, by, as_json)


@requests.command("revoke")
def request_revoke(
    context: typer.Context, request: RequestId, reason: Reason, by: By = None, as_json: AsJson = False
) -> None:
    """End what was approved: a raise at once, a plan with the period that has begun."""
    _rule(context, "request_revoke", request, reason, by, as_json)


def _rule(
    context: typer.Context, operation: str, request: int, reason: str, by: str | None, as_json: bool
) -> None:
    session: Session = context.obj
    row = session.run(operation, request=request, by=by_whom(by), note=reason)
    show(row, as_json, lambda: _shown(row))
