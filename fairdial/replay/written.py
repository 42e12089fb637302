"""The calls of a replay as CSV, one line each as it is over, for spreadsheets and other programs."""

import csv
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from fairdial.csv_cells import cell
from fairdial.logs import escaped
from fairdial.policy.rating import decimal_text
from fairdial.replay.report import as_shown, instant
from fairdial.replay.result import Outcome

COLUMNS: Final = (
    *("call_id", "at", "account", "line", "kind", "dialled", "decision", "reason"),
    *("policy", "version", "clause", "talk_s", "metered_s", "cut", "cut_clause", "charges", "currency"),
)


class CallsFile:
    """The file, while the replay runs. Raises OSError where it cannot be written."""

    def __init__(self, file: Path, *, mask: bool) -> None:
        self._file = file.open("w", encoding="utf-8", newline="")
        self._rows = csv.writer(self._file)
        self._rows.writerow(COLUMNS)
        self._show = as_shown(mask)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, outcome: Outcome) -> None:
        """One call. A call is charged in one currency, that of its account."""
        owed = dict(outcome.owed)
        currency = next(iter(owed), "")
        self._rows.writerow(
            (
                cell(escaped(outcome.call_id)),
                instant(outcome.at_ms),
                cell(outcome.account_id or ""),
                cell(outcome.line_id),
                outcome.kind,
                cell(self._show(outcome.dialled)),
                outcome.decision,
                outcome.reason,
                cell(outcome.clause.policy),
                cell(outcome.clause.version),
                cell(outcome.clause.id),
                outcome.talk_s,
                outcome.metered_s,
                int(outcome.cut is not None),
                "" if outcome.cut is None else cell(outcome.cut.id),
                decimal_text(owed.get(currency, 0)),
                currency,
            )
        )
