"""What all commands of the command line share: the way to an operation, tables and JSON, errors.

An operation goes to the running FairDial over its control socket; where none runs, it works on the ledger
itself. Exit status: 0 done, FOUND for refused or found something, BAD_INPUT for bad usage or input.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, Protocol

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fairdial.config import DEFAULT_FILE, Config, ConfigError, load
from fairdial.console.control import NotRunning, ask
from fairdial.console.operations import OperationError, Operations
from fairdial.desk import Desk
from fairdial.doctor import Finding
from fairdial.ledger.contract import LedgerError
from fairdial.policy.numbers import Numbering
from fairdial.replay.result import Outcome
from fairdial.replay.run import Result, Wanted
from fairdial.replay.source import Progress

BAD_INPUT = 2
FOUND = 1

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


class Parts(Protocol):
    """What the composition root gives the command line."""

    def open_desk(self, config: Config) -> AbstractAsyncContextManager[Desk]: ...
    def numbering(self, config: Config) -> Numbering: ...
    def serve(self, config: Config) -> Awaitable[int]: ...
    def doctor(self, config: Config) -> Awaitable[list[Finding]]: ...
    def back_up(self, config: Config, file: Path) -> Mapping[str, Any]: ...
    def restore(self, config: Config, file: Path) -> Mapping[str, Any]: ...
    def init_shards(self, config: Config, shards: Sequence[str]) -> Sequence[Mapping[str, Any]]: ...
    def move_slots(self, config: Config, to: str, slots: Sequence[int]) -> Mapping[str, Any]: ...
    def replay(
        self, config: Config, wanted: Wanted, progress: Progress, told: Callable[[Outcome], None] | None
    ) -> Coroutine[Any, Any, Result]: ...


class Session:
    """One run of the command line."""

    def __init__(self, parts: Parts, config_path: Path | None) -> None:
        self.parts = parts
        self._config_path = config_path

    @property
    def config_path(self) -> Path:
        """The configuration file, whether it is there or not."""
        return self._config_path or DEFAULT_FILE

    @property
    def config(self) -> Config:
        """The configuration; ends the command where it is faulty."""
        try:
            named = self._config_path is not None or DEFAULT_FILE.exists()
            return load(self.config_path if named else None)
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


def show(value: Any, as_json: bool, shown: Callable[[], Table]) -> None:
    """Print a result."""
    if as_json:
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    else:
        # Off a terminal nothing is cut off to a guessed width: somebody may be searching in it.
        Console(width=None if sys.stdout.isatty() else 200).print(shown())


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table of anything that has a text; None is empty."""
    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        # As Text: what is shown may hold brackets, which rich would read as markup.
        drawn.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    return drawn


def table_of(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Table:
    """A table of rows by key."""
    return table(columns, ([row[key] for key in columns] for row in rows))


def instant_ms(text: str | None, option: str = "--at") -> int | None:
    """The instant in an option's text, ISO 8601 with its zone; ends the command where it is none."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        fail(f"{option} {text!r} is not an ISO 8601 time; write it like 2026-03-29T01:30:00Z")
    if moment.tzinfo is None:
        fail(f"{option} {text!r} has no time zone; add Z or an offset such as +01:00")
    return int(moment.timestamp() * 1000)


def instant_text(at_ms: int | None, timespec: str = "seconds") -> str | None:
    """An instant as people and `instant_ms` read it, in UTC. timespec: how exactly, as `datetime.isoformat` has it."""
    return None if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec=timespec)


def read_text(file: Path) -> str:
    """The text of an operator's file; ends the command where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file}: cannot be read as UTF-8 text ({error})")
