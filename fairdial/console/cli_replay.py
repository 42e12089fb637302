"""The command `replay`: recorded calls once more, through the same decision, meters and rating.

Reads the options, shows the progress, writes the files. Leaves the tables to `replay_tables`.
"""

import asyncio
import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from fairdial.config import Config
from fairdial.console.replay_tables import tables
from fairdial.console.replays import attend
from fairdial.console.session import FOUND, AsJson, Session, fail, read_text, show, table
from fairdial.policy.account import Kind, Options
from fairdial.policy.cards import RateCard
from fairdial.policy.numbers import Habit
from fairdial.policy.periods import zone_named
from fairdial.policy.rating import parse_micros
from fairdial.replay.layout import Layout, MappingError, parse_layout
from fairdial.replay.page import page
from fairdial.replay.prepare import Assumed, Grounds, ReplayRefused
from fairdial.replay.report import report
from fairdial.replay.run import Result, Wanted
from fairdial.replay.source import Progress as Tell
from fairdial.replay.source import SourceUnreadable
from fairdial.replay.written import CallsFile

NAMED_MAX: Final = 5
KINDS_ASKED: Final = sorted(frozenset(Kind) - {Kind.EMERGENCY, Kind.INBOUND, Kind.MESSAGE})
"""Kinds that a code can ask about."""


def replay(
    context: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(metavar="CDR...", help="Master.csv, one or several, also as .gz.")
    ],
    policy: Annotated[
        str | None,
        typer.Option(help="NAME, NAME@VERSION or FILE.toml for all accounts; each its own if left out."),
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="A second policy, likewise: shows what it decides otherwise.")
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="TOML that says which column is what, for other layouts.")
    ] = None,
    cdr_zone: Annotated[
        str | None, typer.Option(help="Time zone of the records; `cdr.zone` if left out.")
    ] = None,
    accounts: Annotated[
        list[Path] | None,
        typer.Option(help="Accounts and lines from a file of `fairdial import`, not from the ledger."),
    ] = None,
    assume_account: Annotated[
        bool, typer.Option("--assume-account", help="Make an account up for each unknown account code.")
    ] = False,
    zone: Annotated[str, typer.Option(help="Time zone of accounts that are made up.")] = "UTC",
    region: Annotated[
        str | None, typer.Option(help="How their lines dial; `desk.region` if left out.")
    ] = None,
    country: Annotated[
        list[str] | None,
        typer.Option(help="Countries that their plan was bought for; the region if left out."),
    ] = None,
    credit: Annotated[
        str | None, typer.Option(help="Credit of each account to begin with; what it has if left out.")
    ] = None,
    rates: Annotated[
        list[str] | None,
        typer.Option(metavar="CARD:CURRENCY:FILE", help="A rate card in place of the ledger's of that name."),
    ] = None,
    code: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODE=KIND",
            help="What is dialled before a number to ask about a call of that kind, such as *77=callback.",
        ),
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the calls there, one line each.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report there as one page.")] = None,
    mask: Annotated[bool, typer.Option("--mask", help="Hide digits of telephone numbers.")] = False,
    attended: Annotated[
        bool, typer.Option(hidden=True, help="Tell the progress in JSON lines; end with standard input.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what recorded calls would have met: refused, cut, charged. Status 1 if any would be, 0 if none."""
    session: Session = context.obj
    config = session.config
    tell = attend() if attended else None
    _refuse_overwriting((csv, html), (*files, *(accounts or ()), *([mapping] if mapping else ())))
    wanted = Wanted(
        tuple(files),
        _zone(cdr_zone or config.cdr.zone, "--cdr-zone"),
        None if mapping is None else _layout(mapping),
        policy,
        against,
        Grounds(
            tuple(accounts or ()),
            _assumed(config, zone, region, country) if assume_account else None,
            None if credit is None else _micros(credit),
            tuple(_card(text) for text in rates or ()),
        ),
        dict(_code(text) for text in code or ()),
    )
    result = _run(session, config, wanted, csv, tell, mask=mask, quiet=as_json)
    found = report(result, mask=mask)
    if html is not None:
        try:
            html.write_text(page(found), encoding="utf-8")
        except OSError as error:
            fail(f"{html}: {error.strerror}; name a file that can be written")
    if as_json:
        show(found, True, lambda: table((), ()))
    else:
        for title, drawn in tables(found):
            _print(title, drawn)
    if not result.calls:
        named = ", ".join(name["name"] for name in found["unknown"]["names"][:NAMED_MAX])
        fail(
            f"none of the {result.strangers.calls} calls belongs to a known line; they name {named}: add these with"
            " `fairdial line add`, or give --accounts FILE or --assume-account"
        )
    if result.found:
        raise typer.Exit(FOUND)


def _print(title: str, drawn: Table) -> None:
    sys.stdout.write(f"{title}\n")
    show(None, False, lambda: drawn)
    sys.stdout.write("\n")


def _refuse_overwriting(written: Iterable[Path | None], read: Sequence[Path]) -> None:
    """End the command where it would write over a file that it is to read."""
    for out in written:
        for file in read:
            if out is not None and out.exists() and file.exists() and out.samefile(file):
                fail(f"{out}: this file is to be read; write to another")


def _zone(name: str, option: str) -> Any:
    try:
        return zone_named(name)
    except ValueError as error:
        fail(f"{option}: {error}")


def _layout(file: Path) -> Layout:
    try:
        return parse_layout(read_text(file), str(file))
    except MappingError as error:
        fail(str(error))


def _assumed(config: Config, zone: str, region: str | None, countries: list[str] | None) -> Assumed:
    _zone(zone, "--zone")
    try:
        habit = Habit(region or config.desk.region)
        return Assumed(zone, habit.region, Options(frozenset(countries or ())).countries)
    except ValueError as error:
        fail(str(error))


def _card(text: str) -> RateCard:
    name, _, rest = text.partition(":")
    currency, _, file = rest.partition(":")
    if not file:
        fail(f"--rates {text!r}: write CARD:CURRENCY:FILE, such as standard:EUR:rates.csv")
    try:
        return RateCard.parse(read_text(Path(file)), name, currency, file)
    except ValueError as error:
        fail(f"--rates: {error}")


def _code(text: str) -> tuple[str, Kind]:
    code, _, kind = text.partition("=")
    if not code or kind not in KINDS_ASKED:
        fail(f"--code {text!r}: write CODE=KIND, such as *77=callback; kinds are {', '.join(KINDS_ASKED)}")
    return code, Kind(kind)


def _micros(text: str) -> int:
    try:
        return parse_micros(text)
    except ValueError as error:
        fail(f"--credit: {error}")


def _run(
    session: Session,
    config: Config,
    wanted: Wanted,
    csv: Path | None,
    tell: Tell | None,
    *,
    mask: bool,
    quiet: bool,
) -> Result:
    try:
        with contextlib.ExitStack() as open_now:
            tell = tell or open_now.enter_context(_progress(quiet))
            told = None
            if csv is not None:
                told = open_now.enter_context(CallsFile(csv, mask=mask)).write
            return asyncio.run(session.parts.replay(config, wanted, tell, told))
    except (ReplayRefused, SourceUnreadable, MappingError, ValueError, OSError) as error:
        fail(str(error))


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Tell]:
    """A bar for each step on standard error; nothing off a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda _step, _done, _total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        tasks = {step: shown.add_task(step, total=None) for step in ("reading", "replaying")}

        def tell(step: str, done: int, total: int) -> None:
            shown.update(tasks[step], completed=done, total=total)

        yield tell
