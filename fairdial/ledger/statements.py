"""What a statement is made of, read from SQLite: the settled calls of an account page by page, and the books that they
must add up to. Nothing here writes; what is a statement's and what adds up is `fairdial/statements.py`'s.
"""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final

import msgspec

from fairdial.ledger import reading
from fairdial.ledger.contract import Books, Charge, CreditMoves, Part, PeriodOf, SettledCall, SettledPage
from fairdial.ledger.database import Database
from fairdial.policy.periods import Window
from fairdial.policy.terms import Clause, Mode

_DAY_MS: Final = 86_400_000
"""That of the index grants_longer_than_a_day (schema/0012_statements.sql)."""


def books(db: Database, account_id: str, period_of: PeriodOf) -> Books:
    account = reading.need_account(db, account_id)
    period = period_of(account)
    meters = db.execute(
        "SELECT * FROM meters WHERE account_id = ? AND start_ms < ? AND end_ms > ?"
        " ORDER BY allowance, start_ms, end_ms",
        (account_id, period.end_ms, period.start_ms),
    )
    charges = db.execute(
        "SELECT mode, currency, count(*) AS n, sum(charged_units) AS units, sum(amount_micros) AS micros FROM charges"
        " WHERE account_id = ? AND at_ms >= ? AND at_ms < ? GROUP BY mode, currency ORDER BY mode, currency",
        (account_id, period.start_ms, period.end_ms),
    )
    in_it = "c.account_id = ? AND c.start_ms >= ? AND c.start_ms < ? ORDER BY c.start_ms, c.request_id"
    plans = reading.plan_charges_where(db, in_it, (account_id, period.start_ms, period.end_ms))
    (live_calls,) = db.execute(
        "SELECT count(*) FROM grants WHERE account_id = ? AND state <> 'settled'", (account_id,)
    ).fetchone()
    return Books(
        account,
        period,
        tuple(reading.to_meter(row) for row in meters),
        {(Mode(row["mode"]), row["currency"]): (row["n"], row["units"], row["micros"]) for row in charges},
        _credit_moves(db, account_id, period),
        live_calls,
        plans,
    )


def _credit_moves(db: Database, account_id: str, period: Window) -> CreditMoves | None:
    credit = reading.credit_of(db, account_id)
    if credit is None:
        return None
    # By when each change counts, not by the order of writing: a call may be settled late.
    row = db.execute(
        "SELECT coalesce(sum(amount_micros) FILTER (WHERE at_ms < ?1), 0) AS opening,"
        " coalesce(sum(amount_micros) FILTER (WHERE during AND origin = 'added'), 0) AS added,"
        " coalesce(sum(amount_micros) FILTER (WHERE during AND origin = 'call'), 0) AS calls,"
        " coalesce(sum(amount_micros) FILTER (WHERE during AND origin = 'forfeited'), 0) AS forfeited,"
        " coalesce(sum(amount_micros) FILTER (WHERE at_ms >= ?2), 0) AS later"
        " FROM (SELECT *, at_ms >= ?1 AND at_ms < ?2 AS during FROM credit_entries WHERE account_id = ?3) moves",
        (period.start_ms, period.end_ms, account_id),
    ).fetchone()
    return CreditMoves(
        credit.currency,
        row["opening"],
        row["added"],
        row["calls"],
        row["forfeited"],
        row["later"],
        credit.balance_micros,
    )


def settled_calls(
    db: Database, account_id: str, period: Window, after: tuple[int, str] | None, limit: int
) -> SettledPage:
    reading.need_account(db, account_id)
    after_ms, after_id = after or (-(2**63), "")
    day_before_ms = period.start_ms - _DAY_MS
    # Refused dials among them, so that a page is bounded whatever was dialled.
    dials = db.execute(
        "SELECT at_ms, call_id FROM decisions"
        " WHERE account_id = ?1 AND at_ms >= max(?2, ?4) AND at_ms < ?3 AND (at_ms, call_id) > (?4, ?5)"
        " UNION ALL"
        " SELECT authorised_ms, call_id FROM grants"
        " WHERE account_id = ?1 AND state = 'settled' AND ended_ms - authorised_ms > 86400000 AND ended_ms >= ?6"
        "   AND authorised_ms < ?2 AND (authorised_ms, call_id) > (?4, ?5)"
        " ORDER BY 1, 2 LIMIT ?7",
        (account_id, day_before_ms, period.end_ms, after_ms, after_id, period.start_ms, limit),
    ).fetchall()
    if not dials:
        return SettledPage((), None)
    last = dials[-1]["at_ms"], dials[-1]["call_id"]
    return SettledPage(_calls(db, [row["call_id"] for row in dials]), last if len(dials) == limit else None)


def _calls(db: Database, call_ids: Sequence[str]) -> tuple[SettledCall, ...]:
    ids = msgspec.json.encode(call_ids).decode()
    parts = _parts(db, ids)
    charges = _charges(db, ids)
    grants = reading.grants_where(
        db,
        "call_id IN (SELECT value FROM json_each(?)) AND g.state = 'settled' ORDER BY g.authorised_ms, call_id",
        (ids,),
    )
    decided = {
        row["call_id"]: (
            row["reason"],
            Clause(row["clause_policy"], row["clause_version"], row["clause_id"]),
        )
        for row in db.execute(
            "SELECT call_id, reason, clause_policy, clause_version, clause_id FROM decisions"
            " WHERE call_id IN (SELECT value FROM json_each(?))",
            (ids,),
        )
    }
    paid = {
        row["reference"]: -row["amount_micros"]
        for row in db.execute(
            "SELECT e.reference, e.amount_micros FROM json_each(?) wanted JOIN grants g ON g.call_id = wanted.value"
            " JOIN credit_entries e"
            "   ON e.account_id = g.account_id AND e.origin = 'call' AND e.reference = g.call_id",
            (ids,),
        )
    }
    return tuple(
        SettledCall(
            grant,
            *decided[grant.call_id],
            parts.get(grant.call_id, ()),
            charges.get(grant.call_id, ()),
            paid.get(grant.call_id, 0),
        )
        for grant in grants
    )


def _parts(db: Database, ids: str) -> dict[str, tuple[Part, ...]]:
    rows = db.execute(
        "SELECT call_id, allowance, start_ms, end_ms, used_units, over_units, weight, room, past FROM holds"
        " WHERE call_id IN (SELECT value FROM json_each(?)) AND (used_units > 0 OR over_units > 0)"
        " ORDER BY call_id, allowance, start_ms, end_ms",
        (ids,),
    )
    return {
        call_id: tuple(
            Part(
                row["allowance"],
                Window(row["start_ms"], row["end_ms"]),
                row["used_units"] or 0,
                row["over_units"] or 0,
                row["weight"],
                bool(row["room"]),
                None
                if row["past"] is None
                else msgspec.json.decode(row["past"], type=tuple[tuple[int, int], ...]),
            )
            for row in same
        )
        for call_id, same in groupby(rows, key=itemgetter("call_id"))
    }


def _charges(db: Database, ids: str) -> dict[str, tuple[Charge, ...]]:
    rows = db.execute(
        "SELECT * FROM charges WHERE call_id IN (SELECT value FROM json_each(?)) ORDER BY call_id, mode",
        (ids,),
    )
    return {
        call_id: tuple(reading.to_charge(row) for row in same)
        for call_id, same in groupby(rows, key=itemgetter("call_id"))
    }
