"""Texts in CSV files that people open in spreadsheets: what looks like a formula is none."""

import re
from typing import Final

_FORMULA: Final = re.compile(r"[=+\-@\t\r]")
_INTERNATIONAL: Final = re.compile(r"\+[0-9•]+")


def cell(text: str) -> str:
    """A text that no spreadsheet runs as a formula: what begins like one gets an apostrophe in front.

    Not a plain +442079460000: that is a number, whoever reads it.
    """
    harmless = _FORMULA.match(text) is None or _INTERNATIONAL.fullmatch(text) is not None
    return text if harmless else f"'{text}"
