"""The steps of a call on SQLite: authorise, answered, renew, settle, release.

Each is one transaction of the writer. What each promises stands at the method of its name in contract.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter

import msgspec

from fairdial.ledger import crediting, messages, notices, reading, rooms
from fairdial.ledger.contract import (
    ConstraintViolated,
    Extend,
    Grant,
    GrantState,
    IdempotencyConflict,
    Judge,
    LimitsOf,
    Plan,
    PlanMore,
)
from fairdial.ledger.database import Database, Of, Row, lock
from fairdial.policy.account import (
    Dial,
    Kind,
    Room,
    Snapshot,
)
from fairdial.policy.decide import Allow, Decision, Refuse, Verdict
from fairdial.policy.numbers import Number
from fairdial.policy.outcomes import UNDECIDED, Reason
from fairdial.policy.periods import MS_PER_S, Window, fit_s, split_s
from fairdial.policy.prefixes import NumberClass
from fairdial.policy.sizing import Hold, Sized
from fairdial.policy.terms import Clause, Mode, Past, Terms, bill

_Stretch = tuple[int, int]
"""Seconds of a talk, counted from its answer: [from, until)."""


def authorise(db: Database, dial: Dial, plan: Plan, judge: Judge) -> Verdict:
    lock(db, Of.LINE, dial.line_id)
    earlier = db.execute("SELECT * FROM decisions WHERE call_id = ?", (dial.call_id,)).fetchone()
    if earlier is not None:
        return _repeat(db, earlier, dial)
    snapshot = reading.snapshot(db, dial.line_id, plan)
    verdict = judge(snapshot)
    _write_decision(db, dial, verdict)
    # An emergency call holds nothing, so it has no grant that could be lost or end it.
    if isinstance(verdict.decision, Allow) and verdict.decision.account_id is not None:
        _write_grant(db, dial, verdict.decision, snapshot.room)
        if snapshot.callees is not None:
            db.execute(
                "INSERT INTO callees (account_id, callee, last_ms) VALUES (?, ?, ?)"
                " ON CONFLICT (account_id, callee) DO UPDATE SET last_ms = max(callees.last_ms, excluded.last_ms)",
                (verdict.decision.account_id, snapshot.callees.callee, dial.at_ms),
            )
        if dial.kind is Kind.MESSAGE:
            _count_message(db, dial)
    return verdict


def keep_record(db: Database, dial: Dial, verdict: Verdict) -> None:
    if db.execute("SELECT 1 FROM decisions WHERE call_id = ?", (dial.call_id,)).fetchone() is None:
        _write_decision(db, dial, verdict)


def _repeat(db: Database, row: Row, dial: Dial) -> Verdict:
    if (row["line_id"], row["kind"], row["dialled"]) != (dial.line_id, dial.kind, dial.dialled):
        raise IdempotencyConflict(
            f"call {dial.call_id} was decided for {row['line_id']} dialling {row['dialled']!r} as {row['kind']};"
            " a new dial needs a new call id"
        )
    messages.need_same(db, dial, row["caller"])
    number = Number(row["dialled"], row["e164"], NumberClass(row["number_class"]), row["country"])
    clause = Clause(row["clause_policy"], row["clause_version"], row["clause_id"])
    if row["decision"] != "allow":
        return Verdict(number, Refuse(Reason(row["reason"]), clause, row["account_id"]), repeated=True)
    grant = reading.need_grant(db, dial.call_id) if row["account_id"] is not None else None
    if grant is not None and not grant.live and grant.kind is not Kind.MESSAGE:
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
                hold["limit_units"],
                hold["hold_units"],
                bool(hold["over"]),
                hold["weight"],
                bool(hold["room"]),
            )
            for hold in reading.holds_of(db, dial.call_id)
        ),
        grant.terms if grant else (),
        grant.credit_hold_micros if grant else 0,
        row["shown"],
        row["flag"],
        grant.bound_by if grant else "",
    )
    return Verdict(number, allow, repeated=True)


def _write_decision(db: Database, dial: Dial, verdict: Verdict) -> None:
    number, decision = verdict.number, verdict.decision
    db.execute(
        "INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
            *_allowed(decision),
            dial.verified,
            int(dial.video),
            dial.codec,
        ),
    )
    messages.write(db, dial, decision.account_id)


def _allowed(decision: Decision) -> tuple[int | None, int | None, str | None, str]:
    if isinstance(decision, Allow):
        return decision.granted_s, decision.limit_s, decision.caller, decision.flag
    return None, None, None, ""


def _word(decision: Decision) -> str:
    if isinstance(decision, Allow):
        return "allow"
    return "undecided" if decision.reason in UNDECIDED else "refuse"


def _write_grant(db: Database, dial: Dial, allow: Allow, joined: Room | None) -> None:
    """joined: the conference that the dial is for, None where it opens one."""
    room: str | None = None
    if dial.kind is Kind.CONFERENCE:
        room = dial.call_id if joined is None else joined.id
    # Who comes into a conference is in it; only a number that is called into one rings before.
    inside = room is not None and not dial.ring_s
    db.execute(
        "INSERT INTO grants (call_id, account_id, line_id, kind, bound_by, room, channel, ring_s, state, granted_s,"
        " authorised_ms, answered_ms, leg, terms, credit_hold_micros)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            dial.call_id,
            allow.account_id,
            dial.line_id,
            dial.kind,
            allow.bound_by,
            room,
            dial.channel,
            dial.ring_s,
            GrantState.TALKING if inside else GrantState.RINGING,
            allow.granted_s,
            dial.at_ms,
            dial.at_ms if inside else None,
            dial.channel if inside else None,
            msgspec.json.encode(allow.terms).decode() if allow.terms else None,
            allow.credit_hold_micros,
        ),
    )
    _reserve_credit(db, str(allow.account_id), allow.credit_hold_micros)
    _reserve(db, dial.call_id, str(allow.account_id), allow.holds)
    if inside and joined is not None:
        rooms.enter(db, dial.call_id, joined.id)


def _reserve_credit(db: Database, account_id: str, hold_micros: int) -> None:
    if hold_micros:
        db.execute(
            "UPDATE credits SET reserved_micros = reserved_micros + ? WHERE account_id = ?",
            (hold_micros, account_id),
        )


def _reserve(db: Database, call_id: str, account_id: str, holds: Sequence[Hold]) -> None:
    for hold in holds:
        # Nothing is held where a newer policy lowered the limit below what is used or held already, so
        # the limit stored is always that of the policy, and the check of the table holds it. Only a call
        # that goes on past the limit comes there too: it finds what is used as the limit, and no room.
        db.execute(
            "INSERT INTO meters (account_id, allowance, start_ms, end_ms, limit_units, reserved_units)"
            " VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (account_id, allowance, start_ms, end_ms) DO UPDATE SET"
            " reserved_units = meters.reserved_units + excluded.reserved_units, limit_units ="
            " CASE WHEN ? = 1 AND excluded.limit_units < meters.used_units + meters.reserved_units"
            " THEN meters.used_units + meters.reserved_units ELSE excluded.limit_units END",
            (
                account_id,
                hold.allowance,
                hold.window.start_ms,
                hold.window.end_ms,
                hold.limit_units,
                hold.hold_units,
                int(hold.over),
            ),
        )
        db.execute(
            "INSERT INTO holds (call_id, account_id, allowance, start_ms, end_ms, hold_units, over, weight, room)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (call_id, allowance, start_ms, end_ms) DO UPDATE SET"
            " hold_units = holds.hold_units + excluded.hold_units, over = max(holds.over, excluded.over)",
            (
                call_id,
                account_id,
                hold.allowance,
                hold.window.start_ms,
                hold.window.end_ms,
                hold.hold_units,
                int(hold.over),
                hold.weight,
                int(hold.room),
            ),
        )


def answered(db: Database, call_id: str, leg: str, at_ms: int) -> Grant:
    lock(db, Of.CALL, call_id)
    first = db.execute(
        "UPDATE grants SET state = 'talking', leg = ?, answered_ms = ? WHERE call_id = ? AND state = 'ringing'"
        " RETURNING call_id",
        (leg, at_ms, call_id),
    ).fetchone()
    if first is None:
        db.execute("UPDATE grants SET leg = ? WHERE call_id = ? AND state = 'talking'", (leg, call_id))
    grant = reading.need_grant(db, call_id)
    if first is not None and grant.room is not None:
        rooms.enter(db, call_id, grant.room)
        return reading.need_grant(db, call_id)
    return grant


def assume_answered(db: Database, call_id: str, at_ms: int) -> None:
    db.execute(
        "UPDATE grants SET assumed_ms = ? WHERE call_id = ? AND state = 'ringing' AND assumed_ms IS NULL",
        (at_ms, call_id),
    )


def renew(db: Database, call_id: str, plan: PlanMore, extend: Extend) -> Grant:
    lock(db, Of.CALL, call_id)
    grant = reading.need_grant(db, call_id)
    if not grant.live or grant.granted_s is None:
        return grant
    account = reading.need_account(db, grant.account_id)
    sized = extend(
        grant,
        Snapshot(
            None,
            account,
            reading.filled(db, account.id, plan(grant, account)),
            reading.credit_of(db, account.id),
            room=None if grant.room is None else reading.room_of(db, account.id, grant.dialled),
        ),
    )
    if not isinstance(sized, Sized) or not sized.granted_s:
        return grant
    _reserve(db, call_id, account.id, sized.holds)
    _reserve_credit(db, account.id, sized.credit_hold_micros)
    db.execute(
        "UPDATE grants SET granted_s = granted_s + ?, credit_hold_micros = credit_hold_micros + ?,"
        " bound_by = ? WHERE call_id = ?",
        (sized.granted_s, sized.credit_hold_micros, sized.bound_by, call_id),
    )
    return reading.need_grant(db, call_id)


def settle(
    db: Database,
    call_id: str,
    used_s: int,
    ended_ms: int,
    estimated: bool,
    answered_ms: int | None = None,
    limits: LimitsOf | None = None,
) -> Grant:
    lock(db, Of.CALL, call_id)
    grant = reading.need_grant(db, call_id)
    if not grant.live:
        return replace(grant, repeated=True)
    if answered_ms is not None and grant.answered_ms is None:
        grant = answered(db, call_id, grant.channel, answered_ms)
    if used_s < 0:
        raise ConstraintViolated(f"call {call_id} cannot have used {used_s} s; seconds begin at 0")
    if grant.granted_s is not None:
        used_s = min(used_s, grant.granted_s)
    start_ms = _talk_began_ms(grant, used_s, ended_ms, estimated)
    past = _meter(db, grant, start_ms, used_s, ended_ms, limits)
    if grant.room is not None:
        rooms.meter(db, grant, (start_ms, start_ms + used_s * MS_PER_S), ended_ms)
    charged_micros = _charge(db, grant, used_s, past, ended_ms)
    _close(db, grant, used_s, ended_ms, estimated)
    settled = replace(
        grant,
        state=GrantState.SETTLED,
        used_s=used_s,
        ended_ms=ended_ms,
        estimated=estimated,
        charged_micros=charged_micros,
    )
    if settled.cut:
        notices.of_cut(db, grant, ended_ms)
    return settled


def _count_message(db: Database, dial: Dial) -> None:
    """A message is one unit on each of its meters, and over at once."""
    grant = reading.need_grant(db, dial.call_id)
    past = _meter(db, grant, dial.at_ms, 1, dial.at_ms)
    _charge(db, grant, 1, past, dial.at_ms)
    _close(db, grant, 0, dial.at_ms, False)


def _close(db: Database, grant: Grant, used_s: int, ended_ms: int, estimated: bool) -> None:
    db.execute(
        "UPDATE grants SET state = 'settled', used_s = ?, ended_ms = ?, estimated = ? WHERE call_id = ?",
        (used_s, ended_ms, int(estimated), grant.call_id),
    )
    crediting.forfeit(db, grant.account_id, ended_ms)


def _talk_began_ms(grant: Grant, used_s: int, ended_ms: int, estimated: bool) -> int:
    if grant.answered_ms is not None:
        return grant.answered_ms
    if estimated:
        return grant.authorised_ms
    # The note of the answer was lost; the end was seen.
    return max(grant.authorised_ms, ended_ms - used_s * MS_PER_S)


@dataclass(frozen=True, slots=True)
class _Said:
    """Whose use it is and when it was written, for a notice of it."""

    line_id: str
    at_ms: int


def _meter(
    db: Database,
    grant: Grant,
    start_ms: int,
    used_s: int,
    ended_ms: int,
    limits: LimitsOf | None = None,
) -> Past:
    """Write `used_s` of use from `start_ms` on the meters that the grant holds, and release the rest."""
    said = _Said(grant.line_id, ended_ms)
    endless = grant.granted_s is None
    stretches: list[_Stretch] = []
    weight = 1
    own = (hold for hold in reading.holds_of(db, grant.call_id) if not hold["room"])
    for _, same in groupby(own, key=itemgetter("allowance")):
        holds = list(same)
        parts = split_s(start_ms, used_s, [Window(hold["start_ms"], hold["end_ms"]) for hold in holds])
        if any(hold["over"] for hold in holds):
            past = _use_past(db, holds, parts, _limits_of(db, grant, holds, limits), start_ms, said)
            stretches += past
            weight = max(weight, holds[0]["weight"]) if past else weight
            continue
        bounds = [
            None if endless or hold["limit_units"] is None else hold["hold_units"] // hold["weight"]
            for hold in holds
        ]
        for hold, part_s in zip(holds, fit_s(parts, bounds), strict=True):
            _use(db, hold, part_s * hold["weight"], endless, said)
    return Past(tuple(stretches), weight)


def _use(db: Database, hold: Row, used_units: int, endless: bool, said: _Said) -> None:
    if endless:
        # Granted without an end while the meter had no limit. If it has got one since, what was
        # talked is stored as that limit: nothing more is granted, and the check stays true.
        db.execute(
            "UPDATE meters SET limit_units = used_units + reserved_units + ?1"
            " WHERE account_id = ?2 AND allowance = ?3 AND start_ms = ?4 AND end_ms = ?5"
            " AND limit_units < used_units + reserved_units + ?1",
            (used_units, *_key(hold)),
        )
    _write_use(db, hold, used_units, 0, said)


def _write_use(db: Database, hold: Row, used_units: int, over_units: int, said: _Said) -> None:
    meter = db.execute(
        "UPDATE meters SET reserved_units = reserved_units - ?, used_units = used_units + ?,"
        " over_units = over_units + ?, calls = calls + ?"
        " WHERE account_id = ? AND allowance = ? AND start_ms = ? AND end_ms = ? RETURNING *",
        (hold["hold_units"], used_units, over_units, int(used_units + over_units > 0), *_key(hold)),
    ).fetchone()
    notices.of_meter(
        db,
        meter,
        (meter["used_units"] - used_units, meter["over_units"] - over_units),
        said.at_ms,
        said.line_id,
    )
    db.execute(
        "UPDATE holds SET used_units = ?, over_units = ?"
        " WHERE call_id = ? AND allowance = ? AND start_ms = ? AND end_ms = ?",
        (used_units, over_units if hold["over"] or over_units else None, hold["call_id"], *_key(hold)[1:]),
    )


def _key(hold: Row) -> tuple[str, str, int, int]:
    return hold["account_id"], hold["allowance"], hold["start_ms"], hold["end_ms"]


_Limits = Sequence[tuple[int, int | None]]
"""A limit as it changes: since when (UTC ms), and what it is; None: there is none."""


def _limits_of(db: Database, grant: Grant, holds: Sequence[Row], limits: LimitsOf | None) -> list[_Limits]:
    """The limit of each hold as it was while the call was up: the stored one is that of the latest dial."""
    stored: list[_Limits] = [((hold["start_ms"], hold["limit_units"]),) for hold in holds]
    if limits is None:
        return stored
    account = reading.need_account(db, grant.account_id)
    if not account.raises:
        # Only raises make a limit change: without them nothing is to be worked out.
        return stored
    return [
        limits(grant, account, hold["allowance"], Window(hold["start_ms"], hold["end_ms"])) or as_stored
        for hold, as_stored in zip(holds, stored, strict=True)
    ]


def _use_past(
    db: Database,
    holds: Sequence[Row],
    parts: Sequence[int],
    limits: Sequence[_Limits],
    start_ms: int,
    said: _Said,
) -> list[_Stretch]:
    """Use an allowance past which calls go on; returns the stretches of the talk that lie past it.

    start_ms: of the talk. Each second counts by the limit that held in it.
    """
    begin_s, past = 0, []
    for hold, part_s, steps in zip(holds, parts, limits, strict=True):
        weight, included_s, end_s = hold["weight"], 0, begin_s + part_s
        own: list[_Stretch] = []
        # Something is held here where the allowance began to be charged while the call was up.
        others_units = hold["meter_reserved_units"] - hold["hold_units"]
        taken_units = hold["meter_used_units"] + others_units
        for (_, limit_units), (from_s, until_s) in zip(
            steps, _stretches(steps, start_ms, begin_s, end_s), strict=True
        ):
            fits_s = until_s - from_s
            if limit_units is not None:
                room_units = max(0, limit_units - taken_units - included_s * weight)
                fits_s = min(fits_s, room_units // weight)
            included_s += fits_s
            if from_s + fits_s < until_s:
                own.append((from_s + fits_s, until_s))
        needed_units = taken_units + included_s * weight
        if hold["limit_units"] is not None and needed_units > hold["limit_units"]:
            # A limit that was raised after the latest dial is not stored yet.
            db.execute(
                "UPDATE meters SET limit_units = ?"
                " WHERE account_id = ? AND allowance = ? AND start_ms = ? AND end_ms = ?",
                (needed_units, *_key(hold)),
            )
        _write_use(db, hold, included_s * weight, (part_s - included_s) * weight, said)
        if own not in ([], [(begin_s + included_s, end_s)]):
            _write_past(db, hold, own)
        past += own
        begin_s = end_s
    return past


def _write_past(db: Database, hold: Row, past: Sequence[_Stretch]) -> None:
    db.execute(
        "UPDATE holds SET past = ? WHERE call_id = ? AND allowance = ? AND start_ms = ? AND end_ms = ?",
        (msgspec.json.encode(past).decode(), hold["call_id"], *_key(hold)[1:]),
    )


def _stretches(steps: _Limits, start_ms: int, begin_s: int, end_s: int) -> list[_Stretch]:
    """The seconds [begin_s, end_s) of a talk, divided where the limit changes; one stretch for each of its steps."""
    # The first limit holds from before the talk on, whenever a rounded boundary lets its part begin.
    starts_s = [begin_s]
    for at_ms, _ in steps[1:]:
        at_s = (at_ms - start_ms + MS_PER_S // 2) // MS_PER_S
        starts_s.append(min(end_s, max(begin_s, at_s)))
    return list(zip(starts_s, [*starts_s[1:], end_s], strict=True))


def _charge(db: Database, grant: Grant, used_s: int, past: Past, at_ms: int) -> int:
    """Write what it costs; all of it together."""
    total_micros = 0
    for terms in grant.terms:
        charged_units, amount_micros = bill(terms, used_s, past)
        if terms.mode is Mode.CREDIT:
            _pay_from_credit(db, grant, amount_micros, at_ms)
        _write_charge(db, grant, terms, charged_units, amount_micros, at_ms)
        total_micros += amount_micros
    return total_micros


def _write_charge(
    db: Database, grant: Grant, terms: Terms, charged_units: int, amount_micros: int, at_ms: int
) -> None:
    if not charged_units:
        return
    db.execute(
        "INSERT INTO charges VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            grant.call_id,
            terms.mode,
            grant.account_id,
            at_ms,
            charged_units,
            amount_micros,
            terms.currency,
            terms.rate,
            terms.clause.policy,
            terms.clause.version,
            terms.clause.id,
        ),
    )


def _pay_from_credit(db: Database, grant: Grant, amount_micros: int, at_ms: int) -> None:
    db.execute(
        "UPDATE credits SET reserved_micros = reserved_micros - ?, balance_micros = balance_micros - ?"
        " WHERE account_id = ?",
        (grant.credit_hold_micros, amount_micros, grant.account_id),
    )
    if amount_micros:
        crediting.note_credit(db, grant.account_id, "call", grant.call_id, -amount_micros, at_ms, "")
        notices.of_credit(db, grant.account_id, amount_micros, grant.call_id, at_ms)


def release(db: Database, call_id: str) -> Grant | None:
    lock(db, Of.CALL, call_id)
    grant = reading.find_grant(db, call_id)
    # Who came into a conference counts as in it at once; taken back, it never was.
    if grant is None or not (grant.state is GrantState.RINGING or grant.room is not None):
        return None
    return settle(db, call_id, 0, grant.authorised_ms, False)
