"""The commands about accounts on several database servers: shards init, shards move (docs/scale.md)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from fairdial.console.session import AsJson, Session, fail, show, table_of
from fairdial.ledger.contract import LedgerError

shards = typer.Typer(help="Accounts on several PostgreSQL servers.", no_args_is_help=True)

SHARD_COLUMNS = ("name", "slots")
MOVED_COLUMNS = ("slots", "owners", "rows")
SLOTS_MAX = 1024


@shards.command("init")
def shards_init(
    context: typer.Context,
    shard: Annotated[
        list[str] | None,
        typer.Option(
            help="Address of a shard's database, without user and password; again for each further one."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set up the database at `store.url` and its shards, or bring them up to date. Repeating changes nothing."""
    session: Session = context.obj
    rows: Sequence[Mapping[str, Any]] = _done(lambda: session.parts.init_shards(session.config, shard or []))
    show(rows, as_json, lambda: table_of(SHARD_COLUMNS, rows))


@shards.command("move")
def shards_move(
    context: typer.Context,
    slots: Annotated[str, typer.Argument(help="Slots, such as 17 or 0-63; there are 1024, 0 to 1023.")],
    to: Annotated[
        str, typer.Option(help="Address of the shard that is to have them, as `init` was told it.")
    ],
    as_json: AsJson = False,
) -> None:
    """Move slots of accounts to another shard while calls go on. One that breaks off is repeated."""
    session: Session = context.obj
    first, _, last = slots.partition("-")
    if (
        not first.isdigit()
        or not (last or first).isdigit()
        or not int(first) <= int(last or first) < SLOTS_MAX
    ):
        fail(f"{slots!r} names no slots; write one such as 17, or some such as 0-63, below {SLOTS_MAX}")
    wanted = range(int(first), int(last or first) + 1)
    row: Mapping[str, Any] = _done(lambda: session.parts.move_slots(session.config, to, wanted))
    show(row, as_json, lambda: table_of(MOVED_COLUMNS, [row]))


def _done(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (LedgerError, ValueError) as error:
        fail(str(error))
