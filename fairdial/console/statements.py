"""A statement as JSON and as CSV; the command line and the HTTP API write the same.

JSON as in `shapes.py`: amounts are decimal texts, instants UTC milliseconds; where a column or key says `from`, `to`
or names a moment without `_ms`, it is ISO 8601 with the offset of the account's zone. Its lines come page by page, so
that a long statement is never in memory as a whole.

CSV as RFC 4180 has it, in UTF-8 with a header. What a minute plan costs for a period has a row `plan`. A call has one
row `call`, one `usage` for each allowance and window that it counted on, one `charge` for each charge; a column that
can be summed is filled in rows of one sort alone. Cells that look like a formula get an apostrophe in front
(`csv_cells.py`).
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from fairdial.console.shapes import Json, charge_json
from fairdial.csv_cells import cell
from fairdial.ledger.contract import Charge, CreditMoves, Part, SettledCall
from fairdial.logs import escaped, masked
from fairdial.policy.account import Kind
from fairdial.policy.book import PolicyBook
from fairdial.policy.periods import Window, zone_named
from fairdial.policy.rating import decimal_text
from fairdial.policy.terms import Mode
from fairdial.statements import Line, Statement, line_of

CSV_COLUMNS: Final = (
    *("record", "call", "kind", "line", "number", "dialled", "answered", "ended"),
    *("calls", "duration_s", "talk_s", "estimated"),
    *("allowance", "window_from", "window_to", "used_units", "over_units", "unit"),
    *("mode", "charged_units", "amount", "currency", "rate", "rate_per_min", "connect_fee"),
    *("policy", "version", "clause", "reason"),
)

MESSAGES, SECONDS = "messages", "s"


def local_text(at_ms: int | None, zone: ZoneInfo) -> str | None:
    """An instant as a clock in `zone` shows it, ISO 8601 with its offset."""
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms // 1000, UTC).astimezone(zone).isoformat()


def statement_json(found: Statement) -> Json:
    """A statement without its lines. owed: what is not paid from credit; here_…: what of a window is in the period."""
    sums, books = found.sums, found.books
    account, period = books.account, books.period
    zone = zone_named(account.zone)
    return {
        "account": account.id,
        "name": account.name,
        "zone": account.zone,
        "cycle_day": account.options.cycle_day,
        "from": local_text(period.start_ms, zone),
        "to": local_text(period.end_ms, zone),
        "from_ms": period.start_ms,
        "until_ms": period.end_ms,
        "in_progress": books.live_calls,
        "plans": [
            {"policy": policy, "version": version, "first_ms": plan.first_ms, "last_ms": plan.last_ms}
            | {"calls": plan.calls}
            for (policy, version), plan in sorted(sums.plans.items(), key=lambda each: each[1].first_ms)
        ],
        "kinds": [
            {
                "kind": str(kind),
                "calls": each.calls,
                "talk_s": each.talk_s,
                "charged": _by_currency(each.micros),
            }
            for kind, each in sorted(sums.kinds.items())
        ],
        "allowances": [
            {
                "allowance": meter.allowance,
                "start_ms": meter.window.start_ms,
                "end_ms": meter.window.end_ms,
                "unit": MESSAGES if window.messages else SECONDS,
                "limit_units": meter.limit_units,
                "used_units": window.used_units,
                "over_units": window.over_units,
                "reserved_units": meter.reserved_units,
                "here_used_units": window.here_used_units,
                "here_over_units": window.here_over_units,
            }
            for meter, window in found.meters
        ],
        "charges": [
            {"mode": str(mode), "currency": currency, "charges": each.charges}
            | {"seconds": each.seconds, "messages": each.messages, "amount": decimal_text(each.micros)}
            for (mode, currency), each in sorted(found.charges.items())
        ],
        "plan_charges": [charge_json(plan) for plan in books.plans],
        "owed": _by_currency(_owed(found)),
        "credit": None if books.credit is None else _credit_json(books.credit),
        "count": sums.lines,
        "adds_up": found.adds_up,
        "differences": [
            {"what": each.what, "statement": each.statement, "ledger": each.ledger}
            for each in sums.differences
        ],
    }


def _owed(found: Statement) -> dict[str, int]:
    owed: dict[str, int] = {}
    for (mode, currency), each in found.charges.items():
        if mode is not Mode.CREDIT:
            owed[currency] = owed.get(currency, 0) + each.micros
    return owed


def _by_currency(micros: Mapping[str, int]) -> dict[str, str]:
    return {currency: decimal_text(amount) for currency, amount in sorted(micros.items())}


def _credit_json(moves: CreditMoves) -> Json:
    return {
        "currency": moves.currency,
        "opening": decimal_text(moves.opening_micros),
        "added": decimal_text(moves.added_micros),
        "used": decimal_text(-moves.calls_micros),
        "forfeited": decimal_text(-moves.forfeited_micros),
        "closing": decimal_text(moves.closing_micros),
    }


def line_json(line: Line, policies: PolicyBook, *, full_numbers: bool) -> Json:
    """One call or message. counted: among the calls of this period; duration_s: of it all; talk_s: in the period."""
    grant, clause = line.call.grant, line.call.clause
    number = grant.e164 or grant.dialled
    policy = policies.version(clause.policy, clause.version)
    kind = grant.kind

    def part_json(part: Part) -> Json:
        rule = None if policy is None else policy.rule_clause(f"allowances.{part.rule}", kind)
        return {
            "allowance": part.allowance,
            "start_ms": part.window.start_ms,
            "end_ms": part.window.end_ms,
            "used_units": part.used_units,
            "over_units": part.over_units,
            "unit": MESSAGES if kind is Kind.MESSAGE else SECONDS,
            "clause": {"policy": clause.policy, "version": clause.version, "id": rule},
        }

    def priced_json(charge: Charge) -> Json:
        tariff = next((each.tariff for each in grant.terms if each.mode is charge.mode), None)
        return charge_json(charge) | {
            "rate_per_min": None if tariff is None else decimal_text(tariff.rate_per_min_micros),
            "connect_fee": None if tariff is None else decimal_text(tariff.connect_fee_micros),
        }

    return {
        "call": grant.call_id,
        "kind": str(kind),
        "line": grant.line_id,
        "number": number if full_numbers else masked(number),
        "dialled_ms": grant.authorised_ms,
        "answered_ms": grant.answered_ms,
        "ended_ms": grant.ended_ms,
        "duration_s": grant.used_s,
        "talk_s": line.talk_s,
        "counted": line.began,
        "estimated": grant.estimated,
        "reason": line.call.reason,
        "clause": {"policy": clause.policy, "version": clause.version, "id": clause.id},
        "parts": [part_json(part) for part in line.parts],
        "charges": [priced_json(charge) for charge in line.charges],
    }


def lines_json(
    calls: Iterable[SettledCall], period: Window, policies: PolicyBook, *, full_numbers: bool
) -> list[Json]:
    """What of these calls belongs to the period."""
    lines = (line_of(call, period) for call in calls)
    return [line_json(line, policies, full_numbers=full_numbers) for line in lines if line is not None]


def json_texts(statement: Json, pages: Iterable[Sequence[Json]]) -> Iterator[str]:
    """A statement with its lines as one JSON text, piece by piece: first the beginning, then a piece for each page."""
    yield json_beginning(statement)
    first = True
    for page in pages:
        yield json_page(page, first=first)
        first = first and not page
    yield JSON_END


JSON_END: Final = "]}\n"


def json_beginning(statement: Json) -> str:
    """All but the lines."""
    return json.dumps(statement, ensure_ascii=False)[:-1] + ', "lines": ['


def json_page(lines: Sequence[Json], *, first: bool) -> str:
    """Some of the lines."""
    texts = ",\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    return texts if first or not texts else f",\n{texts}"


def csv_beginning(plan_charges: Sequence[Json] = (), zone: ZoneInfo | None = None) -> str:
    """The header, and what minute plans cost; zone: the account's, where there are any."""
    plans = (
        {
            "record": "plan",
            **_clause_cells(plan["clause"]),
            **{key: plan[key] for key in ("mode", "amount", "currency", "rate")},
            "window_from": None if zone is None else local_text(plan["at_ms"], zone),
        }
        for plan in plan_charges
    )
    return _rows([CSV_COLUMNS, *(_row(plan) for plan in plans)])


def csv_page(lines: Sequence[Json], zone: ZoneInfo) -> str:
    """Some of the lines as rows."""
    return _rows(_row(cells) for line in lines for cells in _records(line, zone))


def _rows(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _row(cells: Mapping[str, object]) -> list[object]:
    found = (cells.get(column) for column in CSV_COLUMNS)
    return [cell(escaped(each)) if isinstance(each, str) else each for each in found]


def _records(line: Json, zone: ZoneInfo) -> Iterator[dict[str, object]]:
    call = {
        **{key: line[key] for key in ("call", "kind", "line", "number")},
        "dialled": local_text(line["dialled_ms"], zone),
        "answered": local_text(line["answered_ms"], zone),
        "ended": local_text(line["ended_ms"], zone),
    }
    yield {
        "record": "call",
        **call,
        **_clause_cells(line["clause"]),
        "reason": line["reason"],
        "calls": int(line["counted"]),
        "duration_s": line["duration_s"],
        "talk_s": line["talk_s"],
        "estimated": int(line["estimated"]),
    }
    for part in line["parts"]:
        yield {
            "record": "usage",
            **call,
            **_clause_cells(part["clause"]),
            **{key: part[key] for key in ("allowance", "used_units", "over_units", "unit")},
            "window_from": local_text(part["start_ms"], zone),
            "window_to": local_text(part["end_ms"], zone),
        }
    for charge in line["charges"]:
        yield {
            "record": "charge",
            **call,
            **_clause_cells(charge["clause"]),
            **{key: charge[key] for key in ("mode", "charged_units", "amount", "currency", "rate")},
            **{key: charge[key] for key in ("rate_per_min", "connect_fee")},
            "unit": MESSAGES if line["kind"] == Kind.MESSAGE else SECONDS,
        }


def _clause_cells(clause: Mapping[str, Any]) -> dict[str, object]:
    return {"policy": clause["policy"], "version": clause["version"], "clause": clause["id"]}
