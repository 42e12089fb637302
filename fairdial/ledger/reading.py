"""What SQLite holds, read into the values of contract.py. Nothing here writes."""

import sqlite3
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from fairdial.ledger.contract import (
    AccountSheet,
    Charge,
    DecisionRecord,
    Grant,
    GrantState,
    NotFound,
    Plan,
    Usage,
)
from fairdial.policy.account import (
    Account,
    Credit,
    Kind,
    Line,
    MeterWindow,
    Options,
    Snapshot,
    Standing,
)
from fairdial.policy.numbers import Habit
from fairdial.policy.periods import Window
from fairdial.policy.terms import Clause, Mode, Terms

# The columns are the fields of Grant, in order.
_GRANT = """
    SELECT g.call_id, g.account_id, d.line_id, d.kind, d.dialled, d.e164, g.channel, g.state, g.granted_s,
           d.limit_s, g.ring_s, g.authorised_ms, g.answered_ms, g.leg, g.ended_ms, g.used_s, g.estimated,
           g.terms, g.credit_hold_micros, d.clause_policy, d.clause_version
      FROM grants g JOIN decisions d USING (call_id)
"""

CHARGES_SHOWN = 1000
"""The latest charges that a sheet has."""

# Those of DecisionRecord.
_DECISION = """
    SELECT call_id, at_ms, kind, line_id, account_id, dialled, e164, number_class, country, decision,
           reason, clause_policy, clause_version, clause_id, granted_s, limit_s
      FROM decisions
"""


def snapshot(db: sqlite3.Connection, line_id: str, plan: Plan) -> Snapshot:
    row = db.execute(
        "SELECT l.id AS line_id, l.standing AS line_standing, l.habit, a.*,"
        " c.currency, c.balance_micros, c.reserved_micros, (SELECT count(*) FROM grants g"
        "   WHERE g.account_id = a.id AND g.state <> 'settled') AS live_calls"
        " FROM lines l JOIN accounts a ON a.id = l.account_id LEFT JOIN credits c ON c.account_id = a.id"
        " WHERE l.id = ?",
        (line_id,),
    ).fetchone()
    if row is None:
        return Snapshot(None, None)
    account = to_account(row)
    line = Line(row["line_id"], account.id, to_habit(row["habit"]), Standing(row["line_standing"]))
    meters = filled(db, account.id, plan(account))
    return Snapshot(line, account, meters, _to_credit(row), row["live_calls"])


def filled(db: sqlite3.Connection, account_id: str, meters: Sequence[MeterWindow]) -> tuple[MeterWindow, ...]:
    filled = []
    for meter in meters:
        row = db.execute(
            "SELECT used_s, reserved_s, over_s FROM meters"
            " WHERE account_id = ? AND allowance = ? AND start_ms = ? AND end_ms = ?",
            (account_id, meter.allowance, meter.window.start_ms, meter.window.end_ms),
        ).fetchone()
        filled.append(
            meter
            if row is None
            else replace(meter, used_s=row["used_s"], reserved_s=row["reserved_s"], over_s=row["over_s"])
        )
    return tuple(filled)


def holds_of(db: sqlite3.Connection, call_id: str) -> list[sqlite3.Row]:
    return db.execute(
        "SELECT h.*, m.limit_s, m.used_s AS meter_used_s, m.reserved_s AS meter_reserved_s"
        " FROM holds h JOIN meters m USING (account_id, allowance, start_ms, end_ms)"
        " WHERE call_id = ? ORDER BY allowance, start_ms, end_ms",
        (call_id,),
    ).fetchall()


def live_grants(db: sqlite3.Connection) -> tuple[Grant, ...]:
    rows = db.execute(f"{_GRANT} WHERE g.state <> 'settled' ORDER BY g.authorised_ms, g.call_id")
    return tuple(_to_grant(row) for row in rows)


def find_grant(db: sqlite3.Connection, call_id: str) -> Grant | None:
    row = db.execute(f"{_GRANT} WHERE call_id = ?", (call_id,)).fetchone()
    return None if row is None else _to_grant(row)


def need_grant(db: sqlite3.Connection, call_id: str) -> Grant:
    grant = find_grant(db, call_id)
    if grant is None:
        raise NotFound(f"no grant for call {call_id}")
    return grant


def need_account(db: sqlite3.Connection, account_id: str) -> Account:
    row = db.execute("SELECT * FROM accounts WHERE id = ?", (account_id,)).fetchone()
    if row is None:
        raise NotFound(f"no account {account_id!r}; `fairdial account list` shows all")
    return to_account(row)


def latest_decisions(
    db: sqlite3.Connection, account_id: str | None, limit: int
) -> tuple[DecisionRecord, ...]:
    # Two statements, so that each runs along an index and stops at the limit.
    newest_first = "ORDER BY at_ms DESC, call_id DESC LIMIT ?"
    if account_id is None:
        rows = db.execute(f"{_DECISION} {newest_first}", (limit,))
    else:
        rows = db.execute(f"{_DECISION} WHERE account_id = ? {newest_first}", (account_id, limit))
    return tuple(
        DecisionRecord(call_id, at_ms, Kind(kind), *others) for call_id, at_ms, kind, *others in rows
    )


def lines_of(db: sqlite3.Connection, account_id: str | None) -> tuple[Line, ...]:
    if account_id is None:
        rows = db.execute("SELECT * FROM lines ORDER BY id")
    else:
        need_account(db, account_id)
        rows = db.execute("SELECT * FROM lines WHERE account_id = ? ORDER BY id", (account_id,))
    return tuple(
        Line(row["id"], row["account_id"], to_habit(row["habit"]), Standing(row["standing"])) for row in rows
    )


def sheet_of(db: sqlite3.Connection, account_id: str) -> AccountSheet:
    account = need_account(db, account_id)
    rows = db.execute(
        "SELECT * FROM meters WHERE account_id = ? ORDER BY start_ms DESC, allowance", (account_id,)
    )
    usage = tuple(
        Usage(
            MeterWindow(
                row["allowance"],
                Window(row["start_ms"], row["end_ms"]),
                row["limit_s"],
                row["used_s"],
                row["reserved_s"],
                row["over_s"],
            ),
            row["calls"],
        )
        for row in rows
    )
    charges = db.execute(
        "SELECT * FROM charges WHERE account_id = ? ORDER BY at_ms DESC, call_id LIMIT ?",
        (account_id, CHARGES_SHOWN),
    )
    return AccountSheet(
        account,
        lines_of(db, account_id),
        usage,
        credit_of(db, account_id),
        tuple(_to_charge(row) for row in charges),
    )


def credit_of(db: sqlite3.Connection, account_id: str) -> Credit | None:
    row = db.execute("SELECT * FROM credits WHERE account_id = ?", (account_id,)).fetchone()
    return None if row is None else _to_credit(row)


def to_account(row: sqlite3.Row) -> Account:
    return Account(
        row["id"],
        row["policy"],
        row["zone"],
        row["name"],
        Standing(row["standing"]),
        msgspec.json.decode(row["options"], type=Options),
    )


def from_options(options: Options) -> str:
    return msgspec.json.encode(options, order="sorted").decode()


def _to_credit(row: sqlite3.Row) -> Credit | None:
    if row["currency"] is None:
        return None
    return Credit(row["currency"], row["balance_micros"], row["reserved_micros"])


def _to_terms(text: str | None) -> Terms | None:
    return None if text is None else msgspec.json.decode(text, type=Terms)


def _to_charge(row: sqlite3.Row) -> Charge:
    return Charge(
        row["call_id"],
        Mode(row["mode"]),
        row["at_ms"],
        row["charged_s"],
        row["amount_micros"],
        row["currency"],
        row["rate"],
        Clause(row["clause_policy"], row["clause_version"], row["clause_id"]),
    )


def to_habit(text: str) -> Habit:
    return msgspec.json.decode(text, type=Habit)


def _to_grant(row: sqlite3.Row) -> Grant:
    fields = list(row)
    fields[3], fields[7], fields[16] = Kind(row["kind"]), GrantState(row["state"]), bool(row["estimated"])
    fields[17] = _to_terms(row["terms"])
    return Grant(*fields)
