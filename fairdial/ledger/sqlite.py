"""The ledger on SQLite: each step of the contract as one function on the writer's connection."""

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import msgspec

from fairdial.ledger.contract import (
    AccountSheet,
    AlreadyExists,
    Charge,
    ConstraintViolated,
    DecisionRecord,
    Extend,
    Grant,
    GrantState,
    IdempotencyConflict,
    Judge,
    LoadedCard,
    NotFound,
    Plan,
    PlanMore,
    TooMany,
    Usage,
)
from fairdial.ledger.writer import Writer
from fairdial.policy.account import (
    Account,
    Credit,
    Dial,
    Kind,
    Line,
    MeterWindow,
    Options,
    Snapshot,
    Standing,
)
from fairdial.policy.decide import Allow, Decision, Hold, Refuse, Sized, Verdict
from fairdial.policy.numbers import Habit, Number
from fairdial.policy.outcomes import UNDECIDED, Reason
from fairdial.policy.periods import MS_PER_S, Window, fit_s, split_s
from fairdial.policy.prefixes import NumberClass
from fairdial.policy.rating import currency_digits, decimal_text
from fairdial.policy.terms import Clause, Mode, Terms, credit_micros, overage_micros, seconds_past

# The columns are the fields of Grant, in order.
_GRANT = """
    SELECT g.call_id, g.account_id, d.line_id, d.kind, d.dialled, d.e164, g.channel, g.state, g.granted_s,
           d.limit_s, g.ring_s, g.authorised_ms, g.answered_ms, g.leg, g.ended_ms, g.used_s, g.estimated,
           g.terms, g.credit_hold_micros, d.clause_policy, d.clause_version
      FROM grants g JOIN decisions d USING (call_id)
"""
_Stretch = tuple[int, int]
"""Seconds of a talk, counted from its answer: [from, until)."""

CHARGES_SHOWN = 1000
"""The latest charges that a sheet has."""

# Those of DecisionRecord.
_DECISION = """
    SELECT call_id, at_ms, kind, line_id, account_id, dialled, e164, number_class, country, decision,
           reason, clause_policy, clause_version, clause_id, granted_s, limit_s
      FROM decisions
"""


class SqliteLedger:
    """`Ledger` (contract.py) on one SQLite file."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    @classmethod
    async def open(cls, path: Path, *, waiting_max: int = 10_000) -> "SqliteLedger":
        """Open or make the file at `path`. Raises LedgerUnavailable."""
        writer = Writer(path, waiting_max=waiting_max)
        await writer.open()
        return cls(writer)

    async def close(self) -> None:
        await self._writer.close()

    async def authorise(self, dial: Dial, plan: Plan, judge: Judge) -> Verdict:
        return await self._writer.do(lambda db: _authorise(db, dial, plan, judge))

    async def record(self, dial: Dial, verdict: Verdict) -> None:
        await self._writer.do(lambda db: _record(db, dial, verdict))

    async def answered(self, call_id: str, leg: str, at_ms: int) -> Grant:
        return await self._writer.do(lambda db: _answered(db, call_id, leg, at_ms))

    async def renew(self, call_id: str, plan: PlanMore, extend: Extend) -> Grant:
        return await self._writer.do(lambda db: _renew(db, call_id, plan, extend))

    async def settle(self, call_id: str, used_s: int, ended_ms: int, *, estimated: bool = False) -> Grant:
        return await self._writer.do(lambda db: _settle(db, call_id, used_s, ended_ms, estimated))

    async def release(self, call_id: str) -> None:
        await self._writer.do(lambda db: _release(db, call_id))

    # Reading goes past the writer: a long listing must not stand in a dial's way.

    async def live_grants(self) -> tuple[Grant, ...]:
        return await self._writer.read(_live_grants)

    async def grant(self, call_id: str) -> Grant | None:
        return await self._writer.read(lambda db: _find_grant(db, call_id))

    async def decisions(self, account_id: str | None = None, limit: int = 100) -> tuple[DecisionRecord, ...]:
        return await self._writer.read(lambda db: _decisions(db, account_id, limit))

    async def snapshot(self, line_id: str, plan: Plan) -> Snapshot:
        return await self._writer.read(lambda db: _snapshot(db, line_id, plan))

    async def add_account(self, account: Account) -> None:
        await self._writer.do(lambda db: _add_account(db, account))

    async def add_line(self, line: Line, lines_max: int | None = None) -> None:
        await self._writer.do(lambda db: _add_line(db, line, lines_max))

    async def set_standing(self, account_id: str, standing: Standing) -> Account:
        return await self._writer.do(lambda db: _set_standing(db, account_id, standing))

    async def subscribe(self, account_id: str, policy: str, options: Options) -> Account:
        return await self._writer.do(lambda db: _subscribe(db, account_id, policy, options))

    async def add_credit(
        self, account_id: str, currency: str, amount_micros: int, reference: str, at_ms: int, note: str = ""
    ) -> Credit:
        return await self._writer.do(
            lambda db: _add_credit(db, account_id, currency, amount_micros, reference, at_ms, note)
        )

    async def load_card(self, card: LoadedCard, at_ms: int) -> None:
        await self._writer.do(lambda db: _load_card(db, card, at_ms))

    async def cards(self) -> tuple[LoadedCard, ...]:
        return await self._writer.read(
            lambda db: tuple(
                LoadedCard(*row) for row in db.execute("SELECT name, currency, text FROM cards ORDER BY name")
            )
        )

    async def accounts(self) -> tuple[Account, ...]:
        return await self._writer.read(
            lambda db: tuple(_to_account(row) for row in db.execute("SELECT * FROM accounts ORDER BY id"))
        )

    async def lines(self, account_id: str | None = None) -> tuple[Line, ...]:
        return await self._writer.read(lambda db: _lines(db, account_id))

    async def sheet(self, account_id: str) -> AccountSheet:
        return await self._writer.read(lambda db: _sheet(db, account_id))


# --- the hot steps -------------------------------------------------------------------------------


def _authorise(db: sqlite3.Connection, dial: Dial, plan: Plan, judge: Judge) -> Verdict:
    earlier = db.execute("SELECT * FROM decisions WHERE call_id = ?", (dial.call_id,)).fetchone()
    if earlier is not None:
        return _repeat(db, earlier, dial)
    verdict = judge(_snapshot(db, dial.line_id, plan))
    _write_decision(db, dial, verdict)
    # An emergency call holds nothing, so it has no grant that could be lost or end it.
    if isinstance(verdict.decision, Allow) and verdict.decision.account_id is not None:
        _write_grant(db, dial, verdict.decision)
    return verdict


def _record(db: sqlite3.Connection, dial: Dial, verdict: Verdict) -> None:
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
    grant = _need_grant(db, dial.call_id) if row["account_id"] is not None else None
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
            for hold in _holds(db, dial.call_id)
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


def _answered(db: sqlite3.Connection, call_id: str, leg: str, at_ms: int) -> Grant:
    db.execute(
        "UPDATE grants SET state = 'talking', leg = ?, answered_ms = coalesce(answered_ms, ?)"
        " WHERE call_id = ? AND state <> 'settled'",
        (leg, at_ms, call_id),
    )
    return _need_grant(db, call_id)


def _renew(db: sqlite3.Connection, call_id: str, plan: PlanMore, extend: Extend) -> Grant:
    grant = _need_grant(db, call_id)
    if not grant.live or grant.granted_s is None:
        return grant
    account = _need_account(db, grant.account_id)
    sized = extend(grant, account, _filled(db, account.id, plan(grant, account)), _credit(db, account.id))
    if not isinstance(sized, Sized) or not sized.granted_s:
        return grant
    _reserve(db, call_id, account.id, sized.holds)
    _reserve_credit(db, account.id, sized.credit_hold_micros)
    db.execute(
        "UPDATE grants SET granted_s = granted_s + ?, credit_hold_micros = credit_hold_micros + ?"
        " WHERE call_id = ?",
        (sized.granted_s, sized.credit_hold_micros, call_id),
    )
    return _need_grant(db, call_id)


def _settle(db: sqlite3.Connection, call_id: str, used_s: int, ended_ms: int, estimated: bool) -> Grant:
    grant = _need_grant(db, call_id)
    if not grant.live:
        return grant
    if used_s < 0:
        raise ConstraintViolated(f"call {call_id} cannot have used {used_s} s; seconds begin at 0")
    if grant.granted_s is not None:
        used_s = min(used_s, grant.granted_s)
    start_ms = _talk_began_ms(grant, used_s, ended_ms, estimated)
    endless = grant.granted_s is None
    past: list[_Stretch] = []
    for _, same in groupby(_holds(db, call_id), key=itemgetter("allowance")):
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
        _note_credit(db, grant.account_id, "call", grant.call_id, -amount_micros, at_ms, "")


def _note_credit(
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


def _release(db: sqlite3.Connection, call_id: str) -> None:
    grant = _find_grant(db, call_id)
    if grant is not None and grant.state is GrantState.RINGING:
        _settle(db, call_id, 0, grant.authorised_ms, False)


# --- reading -------------------------------------------------------------------------------------


def _snapshot(db: sqlite3.Connection, line_id: str, plan: Plan) -> Snapshot:
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
    account = _to_account(row)
    line = Line(row["line_id"], account.id, _to_habit(row["habit"]), Standing(row["line_standing"]))
    meters = _filled(db, account.id, plan(account))
    return Snapshot(line, account, meters, _to_credit(row), row["live_calls"])


def _filled(
    db: sqlite3.Connection, account_id: str, meters: Sequence[MeterWindow]
) -> tuple[MeterWindow, ...]:
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


def _holds(db: sqlite3.Connection, call_id: str) -> list[sqlite3.Row]:
    return db.execute(
        "SELECT h.*, m.limit_s, m.used_s AS meter_used_s, m.reserved_s AS meter_reserved_s"
        " FROM holds h JOIN meters m USING (account_id, allowance, start_ms, end_ms)"
        " WHERE call_id = ? ORDER BY allowance, start_ms, end_ms",
        (call_id,),
    ).fetchall()


def _live_grants(db: sqlite3.Connection) -> tuple[Grant, ...]:
    rows = db.execute(f"{_GRANT} WHERE g.state <> 'settled' ORDER BY g.authorised_ms, g.call_id")
    return tuple(_to_grant(row) for row in rows)


def _find_grant(db: sqlite3.Connection, call_id: str) -> Grant | None:
    row = db.execute(f"{_GRANT} WHERE call_id = ?", (call_id,)).fetchone()
    return None if row is None else _to_grant(row)


def _need_grant(db: sqlite3.Connection, call_id: str) -> Grant:
    grant = _find_grant(db, call_id)
    if grant is None:
        raise NotFound(f"no grant for call {call_id}")
    return grant


def _need_account(db: sqlite3.Connection, account_id: str) -> Account:
    row = db.execute("SELECT * FROM accounts WHERE id = ?", (account_id,)).fetchone()
    if row is None:
        raise NotFound(f"no account {account_id!r}; `fairdial account list` shows all")
    return _to_account(row)


def _decisions(db: sqlite3.Connection, account_id: str | None, limit: int) -> tuple[DecisionRecord, ...]:
    # Two statements, so that each runs along an index and stops at the limit.
    newest_first = "ORDER BY at_ms DESC, call_id DESC LIMIT ?"
    if account_id is None:
        rows = db.execute(f"{_DECISION} {newest_first}", (limit,))
    else:
        rows = db.execute(f"{_DECISION} WHERE account_id = ? {newest_first}", (account_id, limit))
    return tuple(
        DecisionRecord(call_id, at_ms, Kind(kind), *others) for call_id, at_ms, kind, *others in rows
    )


def _lines(db: sqlite3.Connection, account_id: str | None) -> tuple[Line, ...]:
    if account_id is None:
        rows = db.execute("SELECT * FROM lines ORDER BY id")
    else:
        _need_account(db, account_id)
        rows = db.execute("SELECT * FROM lines WHERE account_id = ? ORDER BY id", (account_id,))
    return tuple(
        Line(row["id"], row["account_id"], _to_habit(row["habit"]), Standing(row["standing"])) for row in rows
    )


def _sheet(db: sqlite3.Connection, account_id: str) -> AccountSheet:
    account = _need_account(db, account_id)
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
        _lines(db, account_id),
        usage,
        _credit(db, account_id),
        tuple(_to_charge(row) for row in charges),
    )


def _credit(db: sqlite3.Connection, account_id: str) -> Credit | None:
    row = db.execute("SELECT * FROM credits WHERE account_id = ?", (account_id,)).fetchone()
    return None if row is None else _to_credit(row)


# --- provisioning --------------------------------------------------------------------------------


def _add_account(db: sqlite3.Connection, account: Account) -> None:
    row = db.execute("SELECT * FROM accounts WHERE id = ?", (account.id,)).fetchone()
    if row is None:
        db.execute(
            "INSERT INTO accounts (id, name, policy, zone, standing, options) VALUES (?, ?, ?, ?, ?, ?)",
            (
                account.id,
                account.name,
                account.policy,
                account.zone,
                account.standing,
                _from_options(account.options),
            ),
        )
    elif replace(_to_account(row), standing=account.standing) != account:
        raise AlreadyExists(f"account {account.id!r} exists with other contents; choose another id")


def _add_line(db: sqlite3.Connection, line: Line, lines_max: int | None) -> None:
    _need_account(db, line.account_id)
    row = db.execute("SELECT * FROM lines WHERE id = ?", (line.id,)).fetchone()
    if row is None:
        query = "SELECT count(*) FROM lines WHERE account_id = ?"
        [held] = db.execute(query, (line.account_id,)).fetchone()
        if lines_max is not None and held >= lines_max:
            raise TooMany(
                f"account {line.account_id!r} holds {held} lines, and its policy allows {lines_max}"
            )
        db.execute(
            "INSERT INTO lines (id, account_id, standing, habit) VALUES (?, ?, ?, ?)",
            (line.id, line.account_id, line.standing, msgspec.json.encode(line.habit).decode()),
        )
    elif (row["account_id"], _to_habit(row["habit"])) != (line.account_id, line.habit):
        raise AlreadyExists(f"line {line.id!r} exists with other contents, at account {row['account_id']!r}")


def _set_standing(db: sqlite3.Connection, account_id: str, standing: Standing) -> Account:
    _need_account(db, account_id)
    db.execute("UPDATE accounts SET standing = ? WHERE id = ?", (standing, account_id))
    return _need_account(db, account_id)


def _subscribe(db: sqlite3.Connection, account_id: str, policy: str, options: Options) -> Account:
    _need_account(db, account_id)
    db.execute(
        "UPDATE accounts SET policy = ?, options = ? WHERE id = ?",
        (policy, _from_options(options), account_id),
    )
    return _need_account(db, account_id)


def _add_credit(
    db: sqlite3.Connection,
    account_id: str,
    currency: str,
    amount_micros: int,
    reference: str,
    at_ms: int,
    note: str,
) -> Credit:
    _need_account(db, account_id)
    currency_digits(currency)
    before = _credit(db, account_id)
    if before is not None and before.currency != currency:
        raise ValueError(
            f"account {account_id!r} holds {before.currency}; give the amount in that, not {currency}"
        )
    earlier = db.execute(
        "SELECT amount_micros FROM credit_entries WHERE account_id = ? AND origin = 'added' AND reference = ?",
        (account_id, reference),
    ).fetchone()
    if earlier is not None:
        if earlier["amount_micros"] != amount_micros or before is None:
            raise AlreadyExists(f"reference {reference!r} was used for another amount; choose another one")
        return before
    free_micros = 0 if before is None else before.free_micros
    if free_micros + amount_micros < 0:
        raise ConstraintViolated(
            f"account {account_id!r} has {decimal_text(free_micros)} {currency} that no call reserves; "
            "take back that much at most"
        )
    db.execute(
        "INSERT INTO credits (account_id, currency, balance_micros) VALUES (?, ?, 0) ON CONFLICT DO NOTHING",
        (account_id, currency),
    )
    db.execute(
        "UPDATE credits SET balance_micros = balance_micros + ? WHERE account_id = ?",
        (amount_micros, account_id),
    )
    _note_credit(db, account_id, "added", reference, amount_micros, at_ms, note)
    after = _credit(db, account_id)
    assert after is not None
    return after


def _load_card(db: sqlite3.Connection, card: LoadedCard, at_ms: int) -> None:
    db.execute(
        "INSERT INTO cards (name, currency, loaded_ms, text) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " currency = excluded.currency, loaded_ms = excluded.loaded_ms, text = excluded.text",
        (card.name, card.currency, at_ms, card.text),
    )


# --- rows to values ------------------------------------------------------------------------------


def _to_account(row: sqlite3.Row) -> Account:
    return Account(
        row["id"],
        row["policy"],
        row["zone"],
        row["name"],
        Standing(row["standing"]),
        msgspec.json.decode(row["options"], type=Options),
    )


def _from_options(options: Options) -> str:
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


def _to_habit(text: str) -> Habit:
    return msgspec.json.decode(text, type=Habit)


def _to_grant(row: sqlite3.Row) -> Grant:
    fields = list(row)
    fields[3], fields[7], fields[16] = Kind(row["kind"]), GrantState(row["state"]), bool(row["estimated"])
    fields[17] = _to_terms(row["terms"])
    return Grant(*fields)
