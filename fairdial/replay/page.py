"""The result of a replay as one page that needs nothing else: HTML with its style and charts in it.

Every text is escaped by the template (page.html); the charts are bars in SVG, whose lengths are reckoned here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, StrictUndefined

from fairdial.replay.report import most_found

ROWS_SHOWN: Final = 200
"""Rows of a table; the whole is in --json."""
BARS_SHOWN: Final = 24
NO_ACCOUNT: Final = "(no account)"
_HOURS_MAX: Final = 72
"""Above that a bar is a day."""
_DAY_LENGTH: Final = len("2026-11-22")
_MINUTE_LENGTH: Final = len("2026-11-22T09:00")
CHART_WIDTH: Final = 350
"""Of the longest bar, in units of the drawing."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a bar. name: what it counts, which is also its class in the style sheet."""

    name: str
    begin: float
    width: float
    value: int


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of a chart."""

    label: str
    parts: tuple[Part, ...]
    said: str


def bars(
    rows: Iterable[tuple[str, Mapping[str, int]]], names: Sequence[str], width: float = CHART_WIDTH
) -> tuple[Bar, ...]:
    """Bars of stacked parts; the longest is `width` long."""
    given = [(label, [max(0, values.get(name, 0)) for name in names]) for label, values in rows]
    longest = max((sum(values) for _, values in given), default=0)
    scale = width / longest if longest else 0.0
    drawn = []
    for label, values in given:
        begin, parts = 0.0, []
        for name, value in zip(names, values, strict=True):
            if value:
                parts.append(Part(name, round(begin, 2), round(value * scale, 2), value))
                begin += value * scale
        said = ", ".join(f"{part.value} {part.name}" for part in parts)
        drawn.append(Bar(label, tuple(parts), said or "none"))
    return tuple(drawn)


_SPLIT: Final = ("allowed", "cut", "refused", "undecided")


def _split(row: Mapping[str, Any]) -> dict[str, int]:
    """Calls by what became of them; one that was cut was allowed before."""
    return {**{name: row[name] for name in _SPLIT}, "allowed": row["allowed"] - row["cut"]}


def _over_time(hours: Sequence[Mapping[str, Any]]) -> tuple[Bar, ...]:
    length = _MINUTE_LENGTH if len(hours) <= _HOURS_MAX else _DAY_LENGTH
    sums: dict[str, dict[str, int]] = {}
    for row in hours:
        kept = sums.setdefault(row["from"][:length].replace("T", " "), {})
        for name, value in _split(row).items():
            kept[name] = kept.get(name, 0) + value
    return bars(sums.items(), _SPLIT)


def page(found: Mapping[str, Any]) -> str:
    """The page of a report (report.py)."""
    template = resources.files("fairdial.replay").joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["grouped"] = lambda number: f"{number:,}"
    accounts = most_found(found["accounts"])
    return environment.from_string(template).render(
        found=found,
        over_time=_over_time(found["hours"]),
        by_reason=bars(((row["reason"], {"calls": row["calls"]}) for row in found["reasons"]), ("calls",)),
        by_account=bars(
            ((row["account"] or NO_ACCOUNT, _split(row)) for row in accounts[:BARS_SHOWN]), _SPLIT
        ),
        accounts=accounts,
        rows_shown=ROWS_SHOWN,
        chart_width=CHART_WIDTH,
    )
