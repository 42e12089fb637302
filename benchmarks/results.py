"""RESULTS.md from what the benchmarks recorded: budgets with their figures at the top, then each benchmark's tables.

`--record FOLDER` of a benchmark writes FOLDER/NAME.json; `python -m benchmarks.results` puts all of a folder together,
with the reasons of budgets that were missed (`benchmarks/reasons/`). Status 1 where a budget has no figure, a missed
one no reason, or a benchmark failed. Nothing here is typed by hand: measure again, and write it anew.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.budgets import BUDGETS, Budget

HERE = Path(__file__).parent
RESULTS = HERE / "results"
REASONS = HERE / "reasons"
PAGE = HERE / "RESULTS.md"
LAST_WORDS = 3_000
"""So many characters of what a benchmark printed are kept where it recorded nothing by itself."""

HEAD = """# What FairDial costs

Written by `python -m benchmarks.results` from what the benchmarks measured; nothing here is typed by hand. `make bench`
measures all of it anew. How to read it: [docs/benchmarks.md](../docs/benchmarks.md).
"""

Record = Mapping[str, Any]


def read(folder: Path) -> list[Record]:
    """The records of a folder, by name. Raises ValueError naming a file that is none."""
    records: list[Record] = []
    for path in sorted(folder.glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{path}: no record of a benchmark ({error}); remove it or measure again"
            ) from None
        if not isinstance(record, dict) or "benchmark" not in record or "command" not in record:
            raise ValueError(f"{path}: no record of a benchmark; remove it or measure again")
        records.append(record)
    return records


def reasons(folder: Path = REASONS) -> dict[str, str]:
    """Why a budget is missed, by the name that `Budget.reason` gives."""
    return {path.stem: path.read_text(encoding="utf-8").strip() for path in sorted(folder.glob("*.md"))}


def figures(records: Sequence[Record]) -> dict[str, tuple[float, Record]]:
    """The measured figure of each budget, and the record that has it."""
    return {name: (value, record) for record in records for name, value in record.get("budgets", {}).items()}


def failures(records: Sequence[Record]) -> list[str]:
    """What went wrong, a line each."""
    wrong = [
        f"{record['benchmark']} failed: {record['failed'].splitlines()[0]}"
        for record in records
        if record.get("failed")
    ]
    return wrong + [
        f"{record['benchmark']}: {each}" for record in records for each in record.get("wrong", ())
    ]


def gaps(records: Sequence[Record], why: Mapping[str, str]) -> list[str]:
    """Budgets without a figure, and missed ones without a reason, a line each."""
    found = figures(records)
    wrong = [f"no figure for {each.name} ({each.what})" for each in BUDGETS if each.name not in found]
    return wrong + [
        f"{each.name} is missed: say why in benchmarks/reasons/{each.reason}.md"
        for each in _open(found)
        if each.name in found and not why.get(each.reason)
    ]


def _open(found: Mapping[str, tuple[float, Record]]) -> list[Budget]:
    """Budgets that are not shown to be kept."""
    return [each for each in BUDGETS if each.name not in found or not each.is_kept(found[each.name][0])]


def page(records: Sequence[Record], why: Mapping[str, str]) -> str:
    """RESULTS.md."""
    found = figures(records)
    parts = [HEAD, _machines(records), "## Budgets\n", _budgets(found)]
    told = dict.fromkeys(each.reason for each in _open(found) if why.get(each.reason))
    parts += [f"### Not kept: {reason.replace('-', ' ')}\n\n{why[reason]}\n" for reason in told]
    parts += [_section(record) for record in records]
    return "\n".join(parts)


def _budgets(found: Mapping[str, tuple[float, Record]]) -> str:
    rows = []
    for budget in BUDGETS:
        limit = f"{'at least' if budget.is_least else 'at most'} {_figure(budget.limit)} {budget.unit}"
        if budget.name not in found:
            rows.append((budget.what, limit, "not measured", "", "", ""))
            continue
        value, record = found[budget.name]
        verdict = "kept" if budget.is_kept(value) else "**missed**"
        measured = f"{_figure(value)} {budget.unit}"
        rows.append((budget.what, limit, measured, _ratio(budget, value), verdict, f"`{record['command']}`"))
    return _table(("what", "budget", "measured", "ratio", "", "command"), rows, words=1, wide=True)


def _ratio(budget: Budget, value: float) -> str:
    """Measured by budget: above 1 is worse where it is a most, better where it is a least."""
    return f"{value / budget.limit:.2f}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.2f}"


def _machines(records: Sequence[Record]) -> str:
    """What was measured on, once for each machine and its versions."""
    by_machine: dict[str, dict[str, str]] = {}
    for record in records:
        if "machine" in record:
            known = by_machine.setdefault(json.dumps(record["machine"], sort_keys=True), {})
            known.update({**record["machine"], **record.get("versions", {})})
    lines = [", ".join(f"{name} {value}" for name, value in each.items()) for each in by_machine.values()]
    days = sorted({record["at"] for record in records if "at" in record})
    when = f"Measured from {days[0]} to {days[-1]}.\n" if days else ""
    return "\n".join([*(f"- {line}" for line in lines), "", when])


def _section(record: Record) -> str:
    lines = [f"## {record['benchmark']}\n", f"`{record['command']}`"]
    if "took_s" in record:
        lines[-1] += f", {record['at']}, {record['took_s']:.0f} s"
    lines[-1] += "\n"
    if record.get("failed"):
        lines.append(f"**Failed:** {record['failed'].splitlines()[0]}\n")
        lines.append(f"```\n{record['failed']}\n```\n")
    if record.get("printed"):
        lines.append(f"```\n{record['printed']}\n```\n")
    for sheet in record.get("sheets", ()):
        lines.append(f"{sheet['title']}\n")
        lines.append(_table(sheet["columns"], sheet["rows"], words=sheet["words"]))
        if sheet["caption"]:
            lines.append(f"{sheet['caption']}\n")
    lines += [f"**Wrong:** {each}\n" for each in record.get("wrong", ())]
    return "\n".join(lines)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: int, wide: bool = False) -> str:
    """A table in Markdown. The first `words` columns, and the last of a wide one, stand left."""
    rule = [
        "---" if index < words or (wide and index == len(columns) - 1) else "---:"
        for index in range(len(columns))
    ]
    lines = [columns, rule, *rows]
    text = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines)
    return "".join(f"| {line} |\n" for line in text)


def put_together(folder: Path, path: Path, *, whole: bool = True) -> list[str]:
    """Write RESULTS.md; what went wrong. whole: budgets are to have their figures, too. Raises ValueError."""
    records, why = read(folder), reasons()
    if not records:
        raise ValueError(f"{folder}: no records; measure with `make bench` first")
    path.write_text(page(records, why), encoding="utf-8")
    return failures(records) + (gaps(records, why) if whole else [])


def main(arguments: Sequence[str] | None = None) -> int:
    """Put a folder's records together; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder of the records (benchmarks/results)"
    )
    parser.add_argument("--page", type=Path, default=PAGE, help="what to write (benchmarks/RESULTS.md)")
    options = parser.parse_args(arguments)
    try:
        wrong = put_together(options.results, options.page)
        print(options.page)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    for each in wrong:
        print(f"wrong: {each}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
