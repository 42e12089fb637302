"""The commands about cases of suspected abuse, about complaints, and about sources of calls that are turned away."""

import getpass
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from fairdial.console.cli_accounts import AccountId
from fairdial.console.session import AsJson, Session, instant_ms, instant_text, show, table
from fairdial.ledger.contract import CaseState
from fairdial.policy.document import Step

cases = typer.Typer(help="Cases: suspected abuse, its evidence, what followed.", no_args_is_help=True)
complaints = typer.Typer(help="Complaints about an account.", no_args_is_help=True)

blocks = typer.Typer(help="Addresses whose calls are turned away for a while.", no_args_is_help=True)

CaseId = Annotated[int, typer.Argument(help="Number of the case, as `case list` shows it.")]
By = Annotated[str | None, typer.Option("--by", help="Who does this; your user name if left out.")]

COLUMNS = ("case", "account", "detector", "clause", "state", "opened", "found", "step", "answer until")


def by_whom(given: str | None) -> str:
    """Who does something, as it stays on record."""
    return given or getpass.getuser()


def _row(case: Mapping[str, Any]) -> tuple[object, ...]:
    clause = case["clause"]
    step = case["step"] or "none"
    return (
        case["case"],
        case["account"],
        case["detector"],
        f"{clause['policy']} {clause['id']}",
        case["state"],
        instant_text(case["opened_ms"]),
        case["found"],
        f"{step} (shadow)" if case["shadow"] else step,
        instant_text(case["deadline_ms"]),
    )


def _shown(case: Mapping[str, Any]) -> Table:
    rows: list[tuple[object, object]] = list(zip(COLUMNS, _row(case), strict=True))
    rows += [("figures", f"{case['value']:g}, threshold {case['threshold']:g}, found {case['hits']} times")]
    rows += [("last found", instant_text(case["seen_ms"]))]
    rows += [("call", call) for call in case["calls"]]
    for entry in case["entries"]:
        done = "" if entry["enforced"] or not entry["rule"] else ", not enforced"
        about = " ".join(part for part in (entry["clause"], *entry["services"], entry["note"]) if part)
        rows.append((instant_text(entry["at_ms"]), f"{entry['what']}{done} by {entry['by']}: {about}"))
    return table(("what", "is"), rows)


@cases.command("list")
def case_list(
    context: typer.Context,
    account: Annotated[str | None, typer.Option(help="Of this account alone.")] = None,
    state: Annotated[CaseState | None, typer.Option(help="In this state alone.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The latest so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List cases, the newest first."""
    session: Session = context.obj
    rows = session.run("case_list", account=account, state=None if state is None else str(state), limit=limit)
    show(rows, as_json, lambda: table(COLUMNS, (_row(case) for case in rows)))


@cases.command("show")
def case_show(context: typer.Context, case: CaseId, as_json: AsJson = False) -> None:
    """Show a case: the figures, the calls, and all that was done about it."""
    session: Session = context.obj
    found = session.run("case_show", case=case)
    show(found, as_json, lambda: _shown(found))


@cases.command("flag")
def case_flag(
    context: typer.Context,
    account: AccountId,
    note: Annotated[str, typer.Option(help="What was found.")],
    step: Annotated[Step | None, typer.Option(help="What is to follow at once, besides the ladder.")] = None,
    fraud: Annotated[
        bool, typer.Option("--fraud", help="Terminate for fraud: credit is forfeited, charges stay owed.")
    ] = False,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Open a case by hand. The ladder of the account's policy answers it as any other."""
    session: Session = context.obj
    found = session.run(
        "case_flag",
        account=account,
        note=note,
        by=by_whom(by),
        step=None if step is None else str(step),
        fraud=fraud,
    )
    show(found, as_json, lambda: table(COLUMNS, [_row(found)]))


@cases.command("close")
def case_close(
    context: typer.Context,
    case: CaseId,
    note: Annotated[str, typer.Option(help="Why.")] = "",
    dismiss: Annotated[
        bool, typer.Option("--dismiss", help="It was none; the same evidence opens no other.")
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Take back what was done for it to the account.")
    ] = False,
    agreed_by: Annotated[
        str | None, typer.Option("--agreed-by", help="Who agreed for the customer to pay the surcharge.")
    ] = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Judge an open case: it is done with, or was none."""
    session: Session = context.obj
    found = session.run(
        "case_close", case=case, by=by_whom(by), note=note, dismiss=dismiss, undo=undo, agreed_by=agreed_by
    )
    show(found, as_json, lambda: _shown(found))


@cases.command("deadline")
def case_deadline(
    context: typer.Context,
    case: CaseId,
    until: Annotated[str, typer.Argument(help="ISO 8601 with zone: 2026-12-01T12:00Z.")],
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Set until when the customer may answer an open case; past it, the ladder's next step follows."""
    session: Session = context.obj
    found = session.run("case_deadline", case=case, deadline_ms=instant_ms(until, "UNTIL"), by=by_whom(by))
    show(found, as_json, lambda: table(COLUMNS, [_row(found)]))


@complaints.command("add")
def complaint_add(
    context: typer.Context,
    account: AccountId,
    note: Annotated[str, typer.Option(help="Who complained, and of what.")],
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Take down a complaint. So many as the policy says open a case."""
    session: Session = context.obj
    value = session.run("complaint_add", account=account, note=note, by=by_whom(by))
    cases = ", ".join(str(case["case"]) for case in value["cases"])
    rows = [("account", value["account"]), ("complaints", value["complaints"]), ("cases", cases or "none")]
    show(value, as_json, lambda: table(("what", "is"), rows))


BLOCK_COLUMNS = ("source", "since", "until", "why")


def _block_row(block: Mapping[str, Any]) -> tuple[object, ...]:
    return block["source"], instant_text(block["since_ms"]), instant_text(block["until_ms"]), block["why"]


@blocks.command("list")
def block_list(context: typer.Context, as_json: AsJson = False) -> None:
    """List the addresses whose calls are turned away now."""
    session: Session = context.obj
    rows = session.run("block_list")
    show(rows, as_json, lambda: table(BLOCK_COLUMNS, (_block_row(row) for row in rows)))


@blocks.command("add")
def block_add(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="IP address.")],
    minutes: Annotated[int, typer.Option(min=1, max=43_200, help="For so long.")] = 60,
    why: Annotated[str, typer.Option(help="For people.")] = "by hand",
    as_json: AsJson = False,
) -> None:
    """Turn calls from an address away, emergency calls excepted."""
    session: Session = context.obj
    row = session.run("block_add", source=source, seconds=minutes * 60, why=why)
    show(row, as_json, lambda: table(BLOCK_COLUMNS, [_block_row(row)]))


@blocks.command("remove")
def block_remove(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="IP address.")],
    as_json: AsJson = False,
) -> None:
    """Let calls from an address in again."""
    session: Session = context.obj
    value = session.run("block_remove", source=source)
    show(value, as_json, lambda: table(("what", "is"), value.items()))
