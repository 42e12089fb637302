"""The command `statement`: what an account used and owes in a period, as tables, JSON or CSV."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, islice
from typing import Annotated, Any, Final, Literal

import typer
from rich.table import Table

from fairdial.console.cli_accounts import AccountId
from fairdial.console.session import FOUND, AsJson, Session, fail, instant_ms, show, table
from fairdial.console.statements import csv_beginning, csv_page, json_texts, local_text
from fairdial.policy.periods import zone_named

LINES_SHOWN: Final = 200
"""In tables; JSON and CSV have all."""

PAGE, PAGE_HERE = 500, 5_000
"""Dials whose lines are asked for at once: of a running FairDial, which has calls to answer, and where none runs."""

Numbers = Annotated[
    Literal["masked", "full"], typer.Option(help="Numbers called: digits hidden, or in full.")
]


def statement(
    context: typer.Context,
    account: AccountId,
    period: Annotated[
        str | None,
        typer.Option(
            help="Billing cycle: current (the default), last, 2026-11 (that begins then), 2026-11-27 (that has it)."
        ),
    ] = None,
    begin: Annotated[
        str | None, typer.Option("--from", help="In place of a cycle: ISO 8601 with zone.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Its end, likewise; now if left out.")] = None,
    numbers: Numbers = "masked",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the lines as CSV.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what an account used and owes in a period, call by call. Status 1 where it does not add up to the ledger."""
    session: Session = context.obj
    if as_csv and as_json:
        fail("give --csv or --json, not both")
    found = session.run(
        "statement",
        account=account,
        period=period,
        from_ms=instant_ms(begin, "--from"),
        until_ms=instant_ms(end, "--to"),
    )
    pages = _pages(session, found, numbers)
    if as_csv:
        zone = zone_named(found["zone"])
        _write(
            chain([csv_beginning(found["plan_charges"], zone)], (csv_page(lines, zone) for lines in pages))
        )
    elif as_json:
        _write(json_texts(found, pages))
    else:
        _show(found, pages)
    if not found["adds_up"]:
        fail(_not_added_up(found), FOUND)


def _write(texts: Iterable[str]) -> None:
    for text in texts:
        sys.stdout.write(text)


def _pages(session: Session, found: Mapping[str, Any], numbers: str) -> Iterator[list[dict[str, Any]]]:
    limit = PAGE if session.run("status")["serving"] else PAGE_HERE
    after: list[Any] | None = None
    while True:
        page = session.run(
            "statement_lines",
            account=found["account"],
            from_ms=found["from_ms"],
            until_ms=found["until_ms"],
            numbers=numbers,
            after=after,
            limit=limit,
        )
        yield page["lines"]
        after = page["after"]
        if after is None:
            return


def _not_added_up(found: Mapping[str, Any]) -> str:
    if found["adds_up"] is None:
        return "calls ended while the statement was added up, so that nothing is known of its sums; ask again"
    told = (
        f"{each['what']}: {each['statement']}; in the ledger {each['ledger']}"
        for each in found["differences"]
    )
    return "the statement does not add up to the ledger; do not send it\n" + "\n".join(told)


LINE_HEADS = ("dialled", "call", "kind", "line", "number", "s", "on the allowance", "charged", "clause")


def _show(found: Mapping[str, Any], pages: Iterable[list[dict[str, Any]]]) -> None:
    show(found, False, lambda: table(("statement", ""), _head(found)))
    shown = list(islice(chain.from_iterable(pages), LINES_SHOWN))
    show(found, False, lambda: _line_table(found, shown))
    if found["count"] > len(shown):
        sys.stdout.write(f"{found['count'] - len(shown)} more with --csv or --json\n")
    for heads, rows in _sums(found):
        if rows:
            show(found, False, partial(table, heads, rows))


def _head(found: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    yield "account", " ".join(part for part in (found["account"], found["name"]) if part)
    yield "from", found["from"]
    yield "to", found["to"]
    yield "time zone", found["zone"]
    zone = zone_named(found["zone"])
    for plan in found["plans"]:
        first, last = local_text(plan["first_ms"], zone), local_text(plan["last_ms"], zone)
        yield "plan", f"{plan['policy']} {plan['version']}: {plan['calls']} calls, {first} to {last}"
    yield "calls and messages", found["count"]
    if found["in_progress"]:
        yield "calls in progress, not in it", found["in_progress"]
    yield "owed", _money(found["owed"]) or "nothing"
    for key, amount in (found["credit"] or {}).items():
        if key != "currency":
            yield f"credit, {key}", f"{amount} {found['credit']['currency']}"
    yield (
        "adds up to the ledger",
        {True: "yes", False: "NO", None: "unknown, calls ended meanwhile"}[found["adds_up"]],
    )


def _money(amounts: Mapping[str, str]) -> str:
    return ", ".join(f"{amount} {currency}" for currency, amount in amounts.items())


def _line_table(found: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> Table:
    zone = zone_named(found["zone"])
    return table(LINE_HEADS, (_line_row(line, local_text(line["dialled_ms"], zone)) for line in lines))


def _line_row(line: Mapping[str, Any], at: str | None) -> tuple[object, ...]:
    parts = (
        f"{part['allowance']} {part['used_units']}"
        + (f"+{part['over_units']} over" if part["over_units"] else "")
        for part in line["parts"]
    )
    charges = (f"{each['amount']} {each['currency']} {each['mode']}" for each in line["charges"])
    clauses = [line["clause"], *(each["clause"] for each in (*line["parts"], *line["charges"]))]
    return (
        at,
        *(line[key] for key in ("call", "kind", "line", "number", "talk_s")),
        ", ".join(parts),
        ", ".join(charges),
        " ".join(dict.fromkeys(clause["id"] for clause in clauses if clause["id"])),
    )


def _sums(found: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], list[tuple[object, ...]]]]:
    zone = zone_named(found["zone"])
    yield (
        ("kind", "calls", "s", "charged"),
        [(row["kind"], row["calls"], row["talk_s"], _money(row["charged"])) for row in found["kinds"]],
    )
    yield (
        ("allowance", "from", "to", "unit", "limit", "used", "over", "used in this period", "over in it"),
        [
            (
                row["allowance"],
                local_text(row["start_ms"], zone),
                local_text(row["end_ms"], zone),
                row["unit"],
                *(row[f"{key}_units"] for key in ("limit", "used", "over", "here_used", "here_over")),
            )
            for row in found["allowances"]
        ],
    )
    yield (
        ("charged by", "charges", "s", "messages", "amount", "currency"),
        [
            tuple(row[key] for key in ("mode", "charges", "seconds", "messages", "amount", "currency"))
            for row in found["charges"]
        ],
    )
