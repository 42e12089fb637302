"""The command `replay`: recorded calls once more, through the same decision, meters and rating."""

import asyncio
import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from fairdial.config import Config
from fairdial.console.session import FOUND, AsJson, Session, fail, read_text, show, table
from fairdial.policy.account import Options
from fairdial.policy.cards import RateCard
from fairdial.policy.numbers import Habit
from fairdial.policy.periods import zone_named
from fairdial.policy.rating import parse_micros
from fairdial.replay.layout import Layout, MappingError, parse_layout
from fairdial.replay.page import page
from fairdial.replay.prepare import Assumed, Grounds, ReplayRefused
from fairdial.replay.report import most_found, report
from fairdial.replay.run import Result, Wanted
from fairdial.replay.source import Progress as Tell
from fairdial.replay.source import SourceUnreadable
from fairdial.replay.written import CallsFile

ACCOUNTS_SHOWN: Final = 40
EXAMPLES_SHOWN: Final = 20
NAMED_MAX: Final = 5
FIGURES: Final = ("calls", "allowed", "refused", "undecided", "cut", "talk_s", "metered_s", "charges")


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
    csv: Annotated[Path | None, typer.Option(help="Write the calls there, one line each.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report there as one page.")] = None,
    mask: Annotated[bool, typer.Option("--mask", help="Hide digits of telephone numbers.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what recorded calls would have met: refused, cut, charged. Status 1 if any would be, 0 if none."""
    session: Session = context.obj
    config = session.config
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
    )
    result = _run(session, config, wanted, csv, mask=mask, quiet=as_json)
    found = report(result, mask=mask)
    if html is not None:
        try:
            html.write_text(page(found), encoding="utf-8")
        except OSError as error:
            fail(f"{html}: {error.strerror}; name a file that can be written")
    if as_json:
        show(found, True, lambda: table((), ()))
    else:
        _print(found)
    if not result.calls:
        named = ", ".join(name["name"] for name in found["unknown"]["names"][:NAMED_MAX])
        fail(
            f"none of the {result.strangers.calls} calls belongs to a known line; they name {named}: add these with"
            " `fairdial line add`, or give --accounts FILE or --assume-account"
        )
    if result.found:
        raise typer.Exit(FOUND)


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


def _micros(text: str) -> int:
    try:
        return parse_micros(text)
    except ValueError as error:
        fail(f"--credit: {error}")


def _run(
    session: Session, config: Config, wanted: Wanted, csv: Path | None, *, mask: bool, quiet: bool
) -> Result:
    try:
        with contextlib.ExitStack() as open_now:
            tell = open_now.enter_context(_progress(quiet))
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


def _print(found: Mapping[str, Any]) -> None:
    def part(title: str, columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
        if rows:
            drawn = table(columns, rows)
            sys.stdout.write(f"{title}\n")
            show(None, False, lambda: drawn)
            sys.stdout.write("\n")

    heads = tuple(name.replace("talk_s", "recorded s").replace("metered_s", "metered s") for name in FIGURES)
    part("Replay", ("what", "is"), list(_summary(found)))
    part("By reason", ("reason", *heads), [(row["reason"], *_figures(row)) for row in found["reasons"]])
    part("By clause", ("clause", *heads), [(_clause(row), *_figures(row)) for row in found["clauses"]])
    shown = most_found(found["accounts"])[:ACCOUNTS_SHOWN]
    accounts = [(row["account"] or "(none)", *_figures(row)) for row in shown]
    left = len(found["accounts"]) - len(accounts)
    part(f"By account, {left} more in --json" if left else "By account", ("account", *heads), accounts)
    part(
        "Flagged",
        ("account", "detector", "clause", "at", "value", "threshold", "step"),
        [
            (
                row["account"],
                row["detector"],
                _clause(row),
                row["at"],
                row["value"],
                row["threshold"],
                row["step"],
            )
            for row in found["flagged"]
        ],
    )
    if found["differences"] is not None:
        _print_differences(found, heads, part)
    part("Rows that could not be read", ("row",), [(fault,) for fault in found["faults"]])
    part(
        "Of no known line",
        ("account code or endpoint", "calls"),
        [(row["name"], row["calls"]) for row in found["unknown"]["names"][:EXAMPLES_SHOWN]],
    )
    part("What call records cannot tell", ("",), [(note,) for note in found["notes"]])


def _print_differences(found: Mapping[str, Any], heads: tuple[str, ...], part: Any) -> None:
    differ = found["differences"]
    totals = [(found["policy"], found["totals"]), (found["against"], differ["second"]["totals"])]
    part("Both", ("decided by", *heads), [(label, *_figures(row)) for label, row in totals])
    part(
        "Calls that differ",
        ("in", "calls"),
        [(what, differ[what]) for what in ("calls", "decisions", "cuts", "charges")],
    )
    part(
        "By clause",
        ("decided by", "against", "calls that differ"),
        [(_clause(row["first"]), _clause(row["second"]), row["calls"]) for row in differ["clauses"]],
    )
    part(
        "By account",
        ("account", "calls that differ", "refused", "cut", "metered s", "charges"),
        [
            (row["account"] or "(none)", row["calls"], *_both(row))
            for row in differ["accounts"][:ACCOUNTS_SHOWN]
        ],
    )
    part(
        "The first of them",
        ("call", "at", "account", "dialled", "recorded s", "first", "second"),
        [
            (
                *(row[key] for key in ("call_id", "at", "account", "dialled", "talk_s")),
                _side(row["first"]),
                _side(row["second"]),
            )
            for row in differ["examples"][:EXAMPLES_SHOWN]
        ],
    )


def _summary(found: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    yield "files", ", ".join(found["files"])
    yield "decided by", found["policy"]
    if found["against"] is not None:
        yield "against", found["against"]
    yield "from, to (UTC)", f"{found['from'] or ''} {found['to'] or ''}"
    yield "rows read", found["rows"]
    for key, words in (
        ("malformed", "rows malformed"),
        ("went_on", "rows of legs that went on"),
        ("set_up", "calls that FairDial set up"),
        ("repeated", "calls with the id of another"),
    ):
        if found[key]:
            yield words, found[key]
    yield "calls of no known line", found["unknown"]["calls"]
    totals = found["totals"]
    for key in FIGURES[:-1]:
        yield key.replace("talk_s", "recorded s").replace("metered_s", "metered s"), totals[key]
    yield "charges", _money(totals["charges"])
    yield "flagged", len(found["flagged"])


def _figures(row: Mapping[str, Any]) -> tuple[object, ...]:
    return (*(row[key] for key in FIGURES[:-1]), _money(row["charges"]))


def _both(row: Mapping[str, Any]) -> Iterator[str]:
    """An account's figures under one policy and under the other, where they are not the same."""
    first, second = _figures_of_differences(row["first"]), _figures_of_differences(row["second"])
    for one, other in zip(first, second, strict=True):
        yield one if one == other else f"{one} -> {other}"


def _figures_of_differences(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (str(row["refused"]), str(row["cut"]), str(row["metered_s"]), _money(row["charges"]) or "0")


def _money(charges: Mapping[str, str]) -> str:
    return ", ".join(f"{amount} {currency}" for currency, amount in charges.items())


def _clause(row: Mapping[str, Any]) -> str:
    return f"{row['policy']} {row['version']} {row['clause']}"


def _side(side: Mapping[str, Any]) -> str:
    cut = f", cut at {side['metered_s']} s by {side['cut_clause']}" if side["cut_clause"] else ""
    return f"{side['decision']}, {side['reason']} {side['clause']}{cut} {_money(side['charges'])}".rstrip()
