"""The commands about what customers are told, and where."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from fairdial.console.cli_accounts import AccountId
from fairdial.console.session import AsJson, Session, instant_text, show, table
from fairdial.ledger.notice import DeliveryState

notices = typer.Typer(help="Notices: what customers are told, and what became of it.", no_args_is_help=True)
contacts = typer.Typer(help="Where an account is told.", no_args_is_help=True)

NoticeId = Annotated[int, typer.Argument(help="Number of the notice, as `notice list` shows it.")]

COLUMNS = ("notice", "account", "topic", "at", "told")


def _row(notice: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        notice["notice"],
        notice["account"],
        notice["topic"],
        instant_text(notice["at_ms"]),
        ", ".join(_told(each) for each in notice["deliveries"]) or "in no way",
    )


def _told(delivery: Mapping[str, Any]) -> str:
    words = f"{delivery['channel']} {delivery['state']}"
    if delivery["state"] == DeliveryState.DELIVERED or not delivery["last"]:
        return words
    return f"{words} after {delivery['attempts']}: {delivery['last']}"


@notices.command("list")
def notice_list(
    context: typer.Context,
    account: Annotated[str | None, typer.Option("--account", help="Those of one account.")] = None,
    state: Annotated[
        DeliveryState | None, typer.Option(help="Those that wait, were delivered, or were given up (dead).")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Show the latest notices, newest first."""
    session: Session = context.obj
    wanted = None if state is None else str(state)
    rows = session.run("notice_list", account=account, state=wanted, limit=limit)
    show(rows, as_json, lambda: table(COLUMNS, [_row(row) for row in rows]))


@notices.command("show")
def notice_show(context: typer.Context, notice: NoticeId, as_json: AsJson = False) -> None:
    """Show a notice as its customer reads it, and what became of each way of telling it."""
    session: Session = context.obj
    found = session.run("notice_show", notice=notice)
    rows = list(zip(COLUMNS, _row(found), strict=True))
    rows += [(key, found[key]) for key in ("language", "subject", "text", "fault") if found.get(key)]
    show(found, as_json, lambda: table(("what", "is"), rows))


@notices.command("retry")
def notice_retry(context: typer.Context, notice: NoticeId, as_json: AsJson = False) -> None:
    """Try again what was given up."""
    session: Session = context.obj
    found = session.run("notice_retry", notice=notice)
    show(found, as_json, lambda: table(COLUMNS, [_row(found)]))


@contacts.command("set")
def contact_set(
    context: typer.Context,
    account: AccountId,
    language: Annotated[str | None, typer.Option(help="Of the templates, such as en or de.")] = None,
    email: Annotated[str | None, typer.Option(help='Address for mail; "" for none.')] = None,
    line: Annotated[
        str | None, typer.Option(help='Line for messages of the switch; "": the one that a notice is about.')
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say where an account is told; what is left out stays as it is."""
    _show(context.obj.run("contact_set", account=account, language=language, email=email, line=line), as_json)


@contacts.command("show")
def contact_show(context: typer.Context, account: AccountId, as_json: AsJson = False) -> None:
    """Show where an account is told."""
    _show(context.obj.run("contact_show", account=account), as_json)


def _show(contact: Mapping[str, Any], as_json: bool) -> None:
    show(contact, as_json, lambda: table(tuple(contact), [tuple(each or "" for each in contact.values())]))
