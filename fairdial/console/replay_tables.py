"""The result of a replay as tables for people, out of what `--json` prints (fairdial/replay/report.py)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from rich.table import Table

from fairdial.console.session import table
from fairdial.replay.report import most_found

ACCOUNTS_SHOWN: Final = 40
EXAMPLES_SHOWN: Final = 20
_COUNTED: Final = {
    "calls": "calls",
    "allowed": "allowed",
    "refused": "refused",
    "undecided": "undecided",
    "cut": "cut",
    "talk_s": "recorded s",
    "metered_s": "metered s",
}
"""Figures of every sum, and their headings; charges come after them."""
_HEADS: Final = (*_COUNTED.values(), "charges")

Json = Mapping[str, Any]
Titled = tuple[str, Table]


def tables(found: Json) -> Iterator[Titled]:
    """The tables of a report with their titles; one without rows is left out."""
    yield from _titled("Replay", ("what", "is"), _summary(found))
    yield from _sums("By reason", "reason", ((row["reason"], row) for row in found["reasons"]))
    yield from _sums("By clause", "clause", ((_clause(row), row) for row in found["clauses"]))
    shown = most_found(found["accounts"])[:ACCOUNTS_SHOWN]
    left = len(found["accounts"]) - len(shown)
    title = f"By account, {left} more in --json" if left else "By account"
    yield from _sums(title, "account", ((_account(row), row) for row in shown))
    yield from _flagged(found["flagged"])
    if found["differences"] is not None:
        yield from _differences(found, found["differences"])
    yield from _titled("Rows that could not be read", ("row",), ((fault,) for fault in found["faults"]))
    names = found["unknown"]["names"][:EXAMPLES_SHOWN]
    columns = ("account code or endpoint", "calls")
    yield from _titled("Of no known line", columns, ((row["name"], row["calls"]) for row in names))
    yield from _titled("What call records cannot tell", ("",), ((note,) for note in found["notes"]))


def _titled(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[Titled]:
    given = list(rows)
    if given:
        yield title, table(columns, given)


def _sums(title: str, of: str, rows: Iterable[tuple[str, Json]]) -> Iterator[Titled]:
    yield from _titled(title, (of, *_HEADS), ((name, *_figures(row)) for name, row in rows))


def _summary(found: Json) -> Iterator[tuple[str, object]]:
    yield "files", ", ".join(found["files"])
    yield "decided by", found["policy"]
    if found["against"] is not None:
        yield "against", found["against"]
    yield "from, to (UTC)", f"{found['from'] or ''} {found['to'] or ''}"
    yield "rows read", found["rows"]
    for key, words in (
        ("malformed", "rows malformed"),
        ("went_on", "rows of legs that went on"),
        ("no_calls", "requests for a callback"),
        ("repeated", "calls with the id of another"),
    ):
        if found[key]:
            yield words, found[key]
    yield "calls of no known line", found["unknown"]["calls"]
    yield from zip(_HEADS, _figures(found["totals"]), strict=True)
    yield "flagged", len(found["flagged"])


def _flagged(rows: Sequence[Json]) -> Iterator[Titled]:
    columns = ("account", "detector", "clause", "at", "value", "threshold", "step")
    shown = ([{**row, "clause": _clause(row)}[key] for key in columns] for row in rows)
    yield from _titled("Flagged", columns, shown)


def _differences(found: Json, differ: Json) -> Iterator[Titled]:
    totals = ((found["policy"], found["totals"]), (found["against"], differ["second"]["totals"]))
    yield from _sums("Both", "decided by", totals)
    counted = ((what, differ[what]) for what in ("calls", "decisions", "cuts", "charges"))
    yield from _titled("Calls that differ", ("in", "calls"), counted)
    yield from _titled(
        "By clause",
        ("decided by", "against", "calls that differ"),
        ((_clause(row["first"]), _clause(row["second"]), row["calls"]) for row in differ["clauses"]),
    )
    yield from _titled(
        "By account",
        ("account", "calls that differ", "refused", "cut", "metered s", "charges"),
        ((_account(row), row["calls"], *_both(row)) for row in differ["accounts"][:ACCOUNTS_SHOWN]),
    )
    keys = ("call_id", "at", "account", "dialled", "talk_s")
    yield from _titled(
        "The first of them",
        ("call", "at", "account", "dialled", "recorded s", "first", "second"),
        (
            (*(row[key] for key in keys), _side(row["first"]), _side(row["second"]))
            for row in differ["examples"][:EXAMPLES_SHOWN]
        ),
    )


def _figures(row: Json) -> tuple[object, ...]:
    return (*(row[key] for key in _COUNTED), _money(row["charges"]))


def _both(row: Json) -> Iterator[str]:
    """An account's figures under one policy and under the other, where they are not the same."""
    for key in ("refused", "cut", "metered_s"):
        yield _one_or_both(str(row["first"][key]), str(row["second"][key]))
    yield _one_or_both(_money(row["first"]["charges"]) or "0", _money(row["second"]["charges"]) or "0")


def _one_or_both(first: str, second: str) -> str:
    return first if first == second else f"{first} -> {second}"


def _account(row: Json) -> str:
    return row["account"] or "(none)"


def _clause(row: Json) -> str:
    return f"{row['policy']} {row['version']} {row['clause']}"


def _money(charges: Mapping[str, str]) -> str:
    return ", ".join(f"{amount} {currency}" for currency, amount in charges.items())


def _side(side: Json) -> str:
    cut = f", cut at {side['metered_s']} s by {side['cut_clause']}" if side["cut_clause"] else ""
    return f"{side['decision']}, {side['reason']} {side['clause']}{cut} {_money(side['charges'])}".rstrip()
