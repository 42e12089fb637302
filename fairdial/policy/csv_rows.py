"""The lines of an operator's CSV file, with an error for every one that cannot be read.

Responsible for comments, quotes, blank lines, the byte order mark and line ends of spreadsheets, and for rows
that are too long or too short. Leaves to `cards.py`, `prefixes.py` and whoever reads another list which columns
there are and what they mean, and to the caller to read the file: this module sees text.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence

Row = tuple[int, list[str]]
"""The number of a line, from 1, and its fields without the blanks around them."""


def lines(text: str, where: str, problems: list[str]) -> Iterator[Row]:
    """All lines that are neither empty nor a comment (``#``), the header too. Faults join `problems`."""
    # Line by line, so that a quote left open spoils its own line alone and line numbers stay true.
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            fields = next(csv.reader((line.rstrip("\r"),), strict=True))
        except csv.Error as error:
            problems.append(f"{where}, line {number}: {error}: close every quote on the line it begins")
        else:
            yield number, [field.strip() for field in fields]


def as_wide_as(columns: Sequence[str], rows: Iterable[Row], where: str, problems: list[str]) -> Iterator[Row]:
    """The rows that have a field for each column; the others join `problems`."""
    for number, fields in rows:
        if len(fields) == len(columns):
            yield number, fields
        else:
            problems.append(
                f"{where}, line {number}: {len(fields)} fields where {len(columns)} are wanted: "
                f"write {','.join(columns)}, and put a field that holds a comma in quotes"
            )
