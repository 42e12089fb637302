"""The steps of a call on SQLite: authorise, answered, renew, settle, release.

Each is one transaction of the writer. What each promises stands at the method of its name in contract.py.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter

import msgspec

from fairdial.ledger import reading
from fairdial.ledger.contract import (
    ConstraintViolated,
    Extend,
    Grant,
    GrantState,
    IdempotencyConflict,
    Judge,
    Plan,
    PlanMore,
)
from fairdial.policy.account import (
    Dial,
)
from fairdial.policy.decide import Allow, Decision, Hold, Refuse, Sized, Verdict
from fairdial.policy.numbers import Number
from fairdial.policy.outcomes import UNDECIDED, Reason
from fairdial.policy.periods import MS_PER_S, Window, fit_s, split_s
from fairdial.policy.prefixes import NumberClass
from fairdial.policy.terms import Clause, Mode, credit_micros, overage_micros, seconds_past

_Stretch = tuple[int, int]
"""Seconds of a talk, counted from its answer: [from, until)."""


def authorise(db: sqlite3.Connection, dial: Dial, plan: Plan, judge: Judge) -> Verdict:
    earlier = db.execute("SELECT * FROM decisions WHERE call_id = ?", (dial.call_id,)).fetchone()
    if earlier is not None:
        return _repeat(db, earlier, dial)
    verdict = judge(reading.snapshot(db, dial.line_id, plan))
    _write_decision(db, dial, verdict)
    # An emergency call holds nothing, so it has no grant that could be lost or end it.
    if isinstance(verdict.decision, Allow) and verdict.decision.account_id is not None:
        _write_grant(db, dial, verdict.decision)
    return verdict


def keep_record(db: sqlite3.Connection, dial: Dial, verdict: Verdict) -> None:
    if db.execute("SELECT 1 FROM decisions WHERE call_id = ?", (dial.call_id,)).fetchone() is None:
        _write_decision(db, dial, verdict)


def _repeat(db: sqlite3.Connection, row: sqlite3.Row, dial: Dial) -> Verdict:
    if (row["line_id"], row["kind"], row["dialled"]) != (dial.line_id, dial.kind, dial.dialled):
        raise IdempotencyConflict(
            f"call {dial.call_id} was decided for {row['line_id']} dialling {row['dialled']!r} as {row['kind']};"
            " a new dial needs a new call id"
        )
    number = Number(row["dialled"], row["e164"], NumberClass(row["number_class"]), row["country"])
    clause = Clause(row["clause_policy"], row["clause_version"], row["clause_id"])
    if row["decision"] != "allow":
        return Verdict(number, Refuse(Reason(row["reason"]), clause, row["account_id"]))
    grant = reading.need_grant(db, dial.call_id) if row["account_id"] is not None else None
    if grant is not None and not grant.live:
        # Nothing is held for it any more, so it cannot be allowed once again.
        raise IdempotencyConflict(f"call {dial.call_id} is over; a new dial needs a new call id")
    allow = Allow(
        Reason(row["reason"]),
        clause,
        row["account_id"],
        row["granted_s"],
        row["limit_s"],
        tuple(
            Hold(
                hold["allowance"],
                Window(hold["start_ms"], hold["end_ms"]),
                hold["limit_s"],
                hold["hold_s"],
                bool(hold["over"]),
            )
            for hold in reading.holds_of(db, dial.call_id)
        ),
        grant.terms if grant else None,
        grant.credit_hold_micros if grant else 0,
    )
    return Verdict(number, allow)


def _write_decision(db: sqlite3.Connection, dial: Dial, verdict: Verdict) -> None:
    number, decision = verdict.number, verdict.decision
    db.execute(
        "INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            dial.call_id,
            dial.at_ms,
            dial.kind,
            dial.line_id,
            decision.account_id,
            dial.dialled,
            number.e164,
            number.number_class,
            number.country,
            dial.caller,
            dial.sip_call_id,
            _word(decision),
            decision.reason,
            decision.clause.policy,
            decision.clause.version,
            decision.clause.id,
            decision.granted_s if isinstance(decision, Allow) else None,
            decision.limit_s if isinstance(decision, Allow) else None,
        ),
    )


def _word(decision: Decision) -> str:
    if isinstance(decision, Allow):
        return "allow"
    return "undecided" if decision.reason in UNDECIDED else "refuse"


def _write_grant(db: sqlite3.Connection, dial: Dial, allow: Allow) -> None:
    db.execute(
        "INSERT INTO grants (call_id, account_id, channel, ring_s, state, granted_s, authorised_ms, terms,"
        " credit_hold_micros) VALUES (?, ?, ?, ?, 'ringing', ?, ?, ?, ?)",
        (
            dial.call_id,
            allow.account_id,
            dial.channel,
            dial.ring_s,
            allow.granted_s,
            dial.at_ms,
            None if allow.terms is None else msgspec.json.encode(allow.terms).decode(),
            allow.credit_hold_micros,
        ),
    )
    _reserve_credit(db, str(allow.account_id), allow.credit_hold_micros)
    _reserve(db, dial.call_id, str(allow.account_id), allow.holds)


def _reserve_credit(db: sqlite3.Connection, account_id: str, hold_micros: int) -> None:
    if hold_micros:
        db.execute(
            "UPDATE credits SET reserved_micros = reserved_micros + ? WHERE account_id = ?",
            (hold_micros, account_id),
        )


def _reserve(db: sqlite3.Connection, call_id: str, account_id: str, holds: Sequence[Hold]) -> None:
    for hold in holds:
        # Nothing is held where a newer policy lowered the limit below what is used or held already, so
        # the limit stored is always that of the policy, and the check of the table holds it. Only a call
        # that goes on past the limit comes there too: it finds what is used as the limit, and no room.
        db.execute(
            "INSERT INTO meters (account_id, allowance, start_ms, end_ms, limit_s, reserved_s)"
            " VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET reserved_s = reserved_s + excluded.reserved_s,"
            " limit_s = CASE WHEN ? THEN max(excluded.limit_s, used_s + reserved_s) ELSE excluded.limit_s END",
            (
                account_id,
                hold.allowance,
                hold.window.start_ms,
                hold.window.end_ms,
                hold.limit_s,
                hold.hold_s,
                int(hold.over),
            ),
        )
        db.execute(
            "INSERT INTO holds (call_id, account_id, allowance, start_ms, end_ms, hold_s, over)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET hold_s = hold_s + excluded.hold_s,"
            " over = max(over, excluded.over)",
            (
                call_id,
                account_id,
                hold.allowance,
                hold.window.start_ms,
                hold.window.end_ms,
                hold.hold_s,
                int(hold.over),
            ),
        )


def answered(db: sqlite3.Connection, call_id: str, leg: str, at_ms: int) -> Grant:
    db.execute(
        "UPDATE grants SET state = 'talking', leg = ?, answered_ms = coalesce(answered_ms, ?)"
        " WHERE call_id = ? AND state <> 'settled'",
        (leg, at_ms, call_id),
    )
    return reading.need_grant(db, call_id)


def renew(db: sqlite3.Connection, call_id: str, plan: PlanMore, extend: Extend) -> Grant:
    grant = reading.need_grant(db, call_id)
    if not grant.live or grant.granted_s is None:
        return grant
    account = reading.need_account(db, grant.account_id)
    sized = extend(
        grant,
        account,
        reading.filled(db, account.id, plan(grant, account)),
        reading.credit_of(db, account.id),
    )
    if not isinstance(sized, Sized) or not sized.granted_s:
        return grant
    _reserve(db, call_id, account.id, sized.holds)
    _reserve_credit(db, account.id, sized.credit_hold_micros)
    db.execute(
        "UPDATE grants SET granted_s = granted_s + ?, credit_hold_micros = credit_hold_micros + ?"
        " WHERE call_id = ?",
        (sized.granted_s, sized.credit_hold_micros, call_id),
    )
    return reading.need_grant(db, call_id)


def settle(db: sqlite3.Connection, call_id: str, used_s: int, ended_ms: int, estimated: bool) -> Grant:
    grant = reading.need_grant(db, call_id)
    if not grant.live:
        return grant
    if used_s < 0:
        raise ConstraintViolated(f"call {call_id} cannot have used {used_s} s; seconds begin at 0")
    if grant.granted_s is not None:
        used_s = min(used_s, grant.granted_s)
    start_ms = _talk_began_ms(grant, used_s, ended_ms, estimated)
    endless = grant.granted_s is None
    past: list[_Stretch] = []
    for _, same in groupby(reading.holds_of(db, call_id), key=itemgetter("allowance")):
        holds = list(same)
        windows = [Window(hold["start_ms"], hold["end_ms"]) for hold in holds]
        parts = split_s(start_ms, used_s, windows)
        if any(hold["over"] for hold in holds):
            past += _use_past(db, holds, parts)
            continue
        bounds = [None if endless or hold["limit_s"] is None else hold["hold_s"] for hold in holds]
        for hold, part_s in zip(holds, fit_s(parts, bounds), strict=True):
            _use(db, hold, part_s, endless)
    _charge(db, grant, used_s, past, ended_ms)
    db.execute(
        "UPDATE grants SET state = 'settled', used_s = ?, ended_ms = ?, estimated = ? WHERE call_id = ?",
        (used_s, ended_ms, int(estimated), call_id),
    )
    return replace(grant, state=GrantState.SETTLED, used_s=used_s, ended_ms=ended_ms, estimated=estimated)


def _talk_began_ms(grant: Grant, used_s: int, ended_ms: int, estimated: bool) -> int:
    if grant.answered_ms is not None:
        return grant.answered_ms
    if estimated:
        return grant.authorised_ms
    # The note of the answer was lost; the end was seen.
    return max(grant.authorised_ms, ended_ms - used_s * MS_PER_S)


def _use(db: sqlite3.Connection, hold: sqlite3.Row, used_s: int, endless: bool) -> None:
    key = (hold["account_id"], hold["allowance"], hold["start_ms"], hold["end_ms"])
    if endless:
        # Granted without an end while the meter had no limit. If it has got one since, what was
        # talked is stored as that limit: nothing more is granted, and the check stays true.
        db.execute(
            "UPDATE meters SET limit_s = max(limit_s, used_s + reserved_s + ?)"
            " WHERE account_id = ? AND allowance = ? AND start_ms = ? AND end_ms = ?",
            (used_s, *key),
        )
    db.execute(
        "UPDATE meters SET reserved_s = reserved_s - ?, used_s = used_s + ?, calls = calls + ?"
        " WHERE account_id = ? AND allowance = ? AND start_ms = ? AND end_ms = ?",
        (hold["hold_s"], used_s, 1 if used_s else 0, *key),
    )
    db.execute(
        "UPDATE holds SET used_s = ? WHERE call_id = ? AND allowance = ? AND start_ms = ? AND end_ms = ?",
        (used_s, hold["call_id"], *key[1:]),
    )


def _use_past(db: sqlite3.Connection, holds: Sequence[sqlite3.Row], parts: Sequence[int]) -> list[_Stretch]:
    """Use an allowance past which calls go on; returns the stretches of the talk that lie past it."""
    begin_s, past = 0, []
    for hold, part_s in zip(holds, parts, strict=True):
        included_s = part_s
        if hold["limit_s"] is not None:
            # Something is held here where the allowance began to be charged while the call was up.
            others_s = hold["meter_reserved_s"] - hold["hold_s"]
            included_s = min(part_s, max(0, hold["limit_s"] - hold["meter_used_s"] - others_s))
        over_s = part_s - included_s
        key = (hold["account_id"], hold["allowance"], hold["start_ms"], hold["end_ms"])
        db.execute(
            "UPDATE meters SET reserved_s = reserved_s - ?, used_s = used_s + ?, over_s = over_s + ?,"
            " calls = calls + ?"
            " WHERE account_id = ? AND allowance = ? AND start_ms = ? AND end_ms = ?",
            (hold["hold_s"], included_s, over_s, 1 if part_s else 0, *key),
        )
        db.execute(
            "UPDATE holds SET used_s = ?, over_s = ?"
            " WHERE call_id = ? AND allowance = ? AND start_ms = ? AND end_ms = ?",
            (included_s, over_s, hold["call_id"], *key[1:]),
        )
        if over_s:
            past.append((begin_s + included_s, begin_s + part_s))
        begin_s += part_s
    return past


def _charge(db: sqlite3.Connection, grant: Grant, used_s: int, past: Sequence[_Stretch], at_ms: int) -> None:
    terms = grant.terms
    if terms is None:
        return
    if terms.mode is Mode.CREDIT:
        charged_s, amount_micros = used_s, credit_micros(terms, used_s)
        _pay_from_credit(db, grant, amount_micros, at_ms)
    else:
        charged_s, began_included = seconds_past(past)
        amount_micros = overage_micros(terms, used_s, charged_s, began_included=began_included)
    if charged_s:
        db.execute(
            "INSERT INTO charges VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                grant.call_id,
                terms.mode,
                grant.account_id,
                at_ms,
                charged_s,
                amount_micros,
                terms.currency,
                terms.rate,
                terms.clause.policy,
                terms.clause.version,
                terms.clause.id,
            ),
        )


def _pay_from_credit(db: sqlite3.Connection, grant: Grant, amount_micros: int, at_ms: int) -> None:
    db.execute(
        "UPDATE credits SET reserved_micros = reserved_micros - ?, balance_micros = balance_micros - ?"
        " WHERE account_id = ?",
        (grant.credit_hold_micros, amount_micros, grant.account_id),
    )
    if amount_micros:
        note_credit(db, grant.account_id, "call", grant.call_id, -amount_micros, at_ms, "")


def note_credit(
    db: sqlite3.Connection,
    account_id: str,
    origin: str,
    reference: str,
    amount_micros: int,
    at_ms: int,
    note: str,
) -> None:
    db.execute(
        "INSERT INTO credit_entries (account_id, origin, reference, at_ms, amount_micros, balance_micros, note)"
        " SELECT account_id, ?, ?, ?, ?, balance_micros, ? FROM credits WHERE account_id = ?",
        (origin, reference, at_ms, amount_micros, note, account_id),
    )


def release(db: sqlite3.Connection, call_id: str) -> None:
    grant = reading.find_grant(db, call_id)
    if grant is not None and grant.state is GrantState.RINGING:
        settle(db, call_id, 0, grant.authorised_ms, False)
