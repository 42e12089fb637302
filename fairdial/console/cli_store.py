"""The commands about the store, the running server and who may use its API: ready, reload, backup, restore, token."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fairdial.console.control import NotRunning, ask
from fairdial.console.health import not_serving
from fairdial.console.operations import OperationError
from fairdial.console.session import FOUND, AsJson, Session, fail, instant_text, show, table, table_of
from fairdial.ledger.contract import LedgerError, Role

READY_WITHIN_S = 5.0

READY_COLUMNS = ("part", "", "found", "cure")


def ready(context: typer.Context, as_json: AsJson = False) -> None:
    """Say whether the running FairDial can decide about calls and, if not, what is wrong. Status 1 if it cannot."""
    session: Session = context.obj
    try:
        value = ask(session.config.control, "ready", {}, reply_within_s=READY_WITHIN_S)
    except (NotRunning, OperationError) as error:
        value = not_serving(str(error))
    rows = (
        (each["part"], "ok" if each["well"] else "FAULT", each["text"], each["cure"])
        for each in value["parts"]
    )
    show(value, as_json, lambda: table(READY_COLUMNS, rows))
    if not value["ready"]:
        raise typer.Exit(FOUND)


RELOAD_WITHIN_S = 60.0
"""Rate cards of some hundred thousand rows are read."""


def reload(context: typer.Context, as_json: AsJson = False) -> None:
    """Have the running FairDial read its files anew; say what changed. Status 2, and no change, where one is bad."""
    session: Session = context.obj
    try:
        value = ask(session.config.control, "reload", {}, reply_within_s=RELOAD_WITHIN_S)
    except NotRunning as error:
        fail(f"{error}; it reads its files when it starts")
    except OperationError as error:
        fail(str(error))
    rows = ((what.replace("_", " "), _changes(found)) for what, found in value.items())
    show(value, as_json, lambda: table(("what", "changed"), rows))


def _changes(found: bool | list[str]) -> str:
    return ("yes" if found else "no") if isinstance(found, bool) else ", ".join(found) or "no"


BACKUP_COLUMNS = ("file", "size_bytes", "schema_version", "live_grants")


def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="File to make; one that exists is not overwritten.")],
    as_json: AsJson = False,
) -> None:
    """Copy the ledger to FILE while calls go on, and look the copy through."""
    session: Session = context.obj
    _show(lambda: session.parts.back_up(session.config, file.absolute()), BACKUP_COLUMNS, as_json)


RESTORE_COLUMNS = ("ledger", "replaced", "schema_version", "live_grants")


def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A file that `fairdial backup` made.")],
    as_json: AsJson = False,
) -> None:
    """Put a backup in the ledger's place, while no FairDial runs; what was there is kept beside it."""
    session: Session = context.obj
    _show(lambda: session.parts.restore(session.config, file.absolute()), RESTORE_COLUMNS, as_json)


tokens = typer.Typer(help="Tokens for the HTTP API.", no_args_is_help=True)
TOKEN_COLUMNS = ("name", "role", "created", "accounts")
TokenName = Annotated[str, typer.Argument(help="Your name for who holds it.")]


@tokens.command("add")
def token_add(
    context: typer.Context,
    name: TokenName,
    role: Annotated[Role, typer.Option(help="What its holder may do.")] = Role.VIEWER,
    account: Annotated[
        list[str] | None,
        typer.Option(help="Account to which it is bound, for a portal; give it again for each further one."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a token and print it: it is shown this once and kept nowhere."""
    session: Session = context.obj
    row = session.run("token_add", name=name, role=str(role), accounts=account or None)
    show(row, as_json, lambda: table_of(("name", "role", "token"), [row]))


@tokens.command("list")
def token_list(context: typer.Context, as_json: AsJson = False) -> None:
    """List who holds a token."""
    session: Session = context.obj
    rows = session.run("token_list")
    shown = [
        {**row, "created": instant_text(row["created_ms"]), "accounts": ", ".join(row["accounts"])}
        for row in rows
    ]
    show(rows, as_json, lambda: table_of(TOKEN_COLUMNS, shown))


@tokens.command("remove")
def token_remove(context: typer.Context, name: TokenName) -> None:
    """Let the holder of a token in no more, from the next request on."""
    session: Session = context.obj
    session.run("token_remove", name=name)


def _show(work: Any, columns: tuple[str, ...], as_json: bool) -> None:
    try:
        value = work()
    except LedgerError as error:
        fail(str(error))
    show(value, as_json, lambda: table_of(columns, [value]))
