"""The commands about messages."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from fairdial.console.session import AsJson, Session, show, table_of

messages = typer.Typer(help="Messages: what was sent, or refused, and how.", no_args_is_help=True)

COLUMNS = ("at", "id", "line", "kind", "to", "number", "decision", "reason", "clause")


@messages.command("list")
def message_list(
    context: typer.Context,
    account: Annotated[str | None, typer.Argument(help="Account; all if left out.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The latest so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the latest messages, newest first. What they say is not known to FairDial."""
    session: Session = context.obj
    rows = session.run("message_list", account=account, limit=limit)
    told = [
        row
        | {
            "at": datetime.fromtimestamp(row["at_ms"] / 1000, UTC).isoformat(timespec="seconds"),
            "clause": f"{row['clause']['policy']} {row['clause']['id']}",
        }
        for row in rows
    ]
    show(rows, as_json, lambda: table_of(COLUMNS, told))
