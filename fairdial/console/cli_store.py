"""The commands about the store and the state of the server: ready, backup, restore."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fairdial.console.control import NotRunning, ask
from fairdial.console.health import not_serving
from fairdial.console.operations import OperationError
from fairdial.console.session import FOUND, AsJson, Session, fail, show, table, table_of
from fairdial.ledger.contract import LedgerError

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


def _show(work: Any, columns: tuple[str, ...], as_json: bool) -> None:
    try:
        value = work()
    except LedgerError as error:
        fail(str(error))
    show(value, as_json, lambda: table_of(columns, [value]))
