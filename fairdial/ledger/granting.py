"""The steps of a call: authorise, answered, renew, settle, release.

Each is one transaction. What each promises stands at the method of its name in contract.py. Each first reads all that
it needs, then works out what is to be written, and writes it last: nothing is read after a write.
"""

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace as with_fields
from typing import Final

import msgspec
from msgspec.structs import replace

from fairdial.ledger import crediting, messages, metering, notices, reading, rooms
from fairdial.ledger.contract import (
    ConstraintViolated,
    Extend,
    Grant,
    GrantState,
    IdempotencyConflict,
    Judge,
    LimitsOf,
    NotFound,
    Plan,
    PlanMore,
)
from fairdial.ledger.database import Database, Of, Write, lock, read, write
from fairdial.ledger.notices import Draft
from fairdial.ledger.reading import Followed, Held
from fairdial.ledger.rooms import Seat, Session
from fairdial.policy.account import (
    Credit,
    Dial,
    Kind,
    MeterWindow,
    Room,
    Snapshot,
)
from fairdial.policy.decide import Allow, Decision, Refuse, Verdict
from fairdial.policy.numbers import Number
from fairdial.policy.outcomes import UNDECIDED, Reason
from fairdial.policy.periods import MS_PER_S
from fairdial.policy.prefixes import NumberClass
from fairdial.policy.sizing import Hold, Sized
from fairdial.policy.terms import Clause, Mode, Terms, bill

_DECIDE: Final = (
    "INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_GRANT: Final = (
    "INSERT INTO grants (call_id, account_id, line_id, kind, bound_by, room, channel, ring_s, state, granted_s,"
    " authorised_ms, answered_ms, leg, terms, credit_hold_micros)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_CALLED: Final = (
    "INSERT INTO callees (account_id, callee, last_ms) VALUES (?, ?, ?)"
    " ON CONFLICT (account_id, callee) DO UPDATE SET last_ms = max(callees.last_ms, excluded.last_ms)"
)
_ANSWER: Final = "UPDATE grants SET state = 'talking', leg = ?, answered_ms = ? WHERE call_id = ?"
_EXTEND: Final = (
    "UPDATE grants SET granted_s = granted_s + ?, credit_hold_micros = credit_hold_micros + ?, bound_by = ?"
    " WHERE call_id = ?"
)
_CLOSE: Final = (
    "UPDATE grants SET state = 'settled', leg = ?, answered_ms = ?, used_s = ?, ended_ms = ?, estimated = ?"
    " WHERE call_id = ?"
)
_CHARGE: Final = "INSERT INTO charges VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def authorise(db: Database, dial: Dial, plan: Plan, judge: Judge, *known: Snapshot | None) -> Verdict:
    """known: what `reading.dialling` found of it; else it is read here."""
    if not known:
        lock(db, Of.LINE, dial.line_id)
        known = (read(db, reading.dialling(dial.line_id, plan, dial.call_id)),)
    [snapshot] = known
    if snapshot is None:
        return _repeat(db, dial)
    verdict = judge(snapshot)
    writes = _decided(dial, verdict)
    # An emergency call holds nothing, so it has no grant that could be lost or end it.
    if isinstance(verdict.decision, Allow) and verdict.decision.account_id is not None:
        account_id, allow = verdict.decision.account_id, verdict.decision
        writes += _granted(db, dial, account_id, allow, snapshot.room)
        if snapshot.callees is not None:
            writes.append((_CALLED, (account_id, snapshot.callees.callee, dial.at_ms)))
        if dial.kind is Kind.MESSAGE:
            writes += _counted_message(db, dial, account_id, allow, snapshot)
    write(db, writes)
    return verdict


def keep_record(db: Database, dial: Dial, verdict: Verdict) -> None:
    if not reading.is_decided(db, dial.call_id):
        write(db, _decided(dial, verdict))


def _repeat(db: Database, dial: Dial) -> Verdict:
    row = db.execute("SELECT * FROM decisions WHERE call_id = ?", (dial.call_id,)).fetchone()
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
    followed = read(db, reading.follow(dial.call_id)) if row["account_id"] is not None else None
    grant = None if followed is None else followed.grant
    if grant is not None and not grant.live and grant.kind is not Kind.MESSAGE:
        # Nothing is held for it any more, so it cannot be allowed once again.
        raise IdempotencyConflict(f"call {dial.call_id} is over; a new dial needs a new call id")
    allow = Allow(
        Reason(row["reason"]),
        clause,
        row["account_id"],
        row["granted_s"],
        row["limit_s"],
        () if followed is None else tuple(map(_as_hold, followed.holds)),
        grant.terms if grant else (),
        grant.credit_hold_micros if grant else 0,
        row["shown"],
        row["flag"],
        grant.bound_by if grant else "",
    )
    return Verdict(number, allow, repeated=True)


def _as_hold(held: Held) -> Hold:
    return Hold(
        held.allowance,
        held.window,
        held.limit_units,
        held.hold_units,
        bool(held.over),
        held.weight,
        bool(held.room),
    )


def _decided(dial: Dial, verdict: Verdict) -> list[Write]:
    number, decision = verdict.number, verdict.decision
    row = (
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
    )
    return [(_DECIDE, row), *messages.kept(dial, decision.account_id)]


def _allowed(decision: Decision) -> tuple[int | None, int | None, str | None, str]:
    if isinstance(decision, Allow):
        return decision.granted_s, decision.limit_s, decision.caller, decision.flag
    return None, None, None, ""


def _word(decision: Decision) -> str:
    if isinstance(decision, Allow):
        return "allow"
    return "undecided" if decision.reason in UNDECIDED else "refuse"


def _granted(db: Database, dial: Dial, account_id: str, allow: Allow, joined: Room | None) -> list[Write]:
    """joined: the conference that the dial is for, None where it opens one."""
    room: str | None = None
    if dial.kind is Kind.CONFERENCE:
        room = dial.call_id if joined is None else joined.id
    # Who comes into a conference is in it; only a number that is called into one rings before.
    inside = room is not None and not dial.ring_s
    state = GrantState.TALKING if inside else GrantState.RINGING
    row = (
        dial.call_id,
        account_id,
        dial.line_id,
        dial.kind,
        allow.bound_by,
        room,
        dial.channel,
        dial.ring_s,
        state,
        allow.granted_s,
        dial.at_ms,
        dial.at_ms if inside else None,
        dial.channel if inside else None,
        msgspec.json.encode(allow.terms).decode() if allow.terms else None,
        allow.credit_hold_micros,
    )
    writes: list[Write] = [
        (_GRANT, row),
        *_reserved_credit(account_id, allow.credit_hold_micros),
        *metering.reserved(dial.call_id, account_id, allow.holds),
    ]
    if inside and joined is not None:
        seat = Seat(dial.call_id, state, dial.at_ms, dial.ring_s, dial.at_ms, allow.granted_s)
        session = rooms.session_of(db, joined.id, account_id).with_seat(seat, allow.holds)
        writes += rooms.enter(session, dial.call_id)[1]
    return writes


def _reserved_credit(account_id: str, hold_micros: int) -> list[Write]:
    if not hold_micros:
        return []
    reserve = "UPDATE credits SET reserved_micros = reserved_micros + ? WHERE account_id = ?"
    return [(reserve, (hold_micros, account_id))]


def answered(db: Database, call_id: str, leg: str, at_ms: int, known: Followed | None = None) -> Grant:
    """known: what `reading.follow` found of it; else it is read here."""
    if known is None:
        lock(db, Of.CALL, call_id)
        known = read(db, reading.follow(call_id))
    grant = known.grant
    if not grant.live:
        return grant
    first = grant.answered_ms is None
    grant = replace(
        grant, state=GrantState.TALKING, leg=leg, answered_ms=at_ms if first else grant.answered_ms
    )
    writes: list[Write] = [(_ANSWER, (leg, grant.answered_ms, call_id))]
    if first and grant.room is not None:
        session, entered = _entered(db, grant)
        writes += entered
        grant = replace(grant, room=session.room)
    write(db, writes)
    return grant


def _entered(db: Database, grant: Grant) -> tuple[Session, list[Write]]:
    """The session of the room that a grant, as it is now, just entered, and what is to be written of that."""
    seat = Seat(
        grant.call_id, grant.state, grant.authorised_ms, grant.ring_s, grant.answered_ms, grant.granted_s
    )
    session = rooms.session_of(db, str(grant.room), grant.account_id).with_seat(seat)
    return rooms.enter(session, grant.call_id)


def assume_answered(db: Database, call_id: str, at_ms: int) -> None:
    db.execute(
        "UPDATE grants SET assumed_ms = ? WHERE call_id = ? AND state = 'ringing' AND assumed_ms IS NULL",
        (at_ms, call_id),
    )


def renew(db: Database, call_id: str, plan: PlanMore, extend: Extend) -> Grant:
    lock(db, Of.CALL, call_id)
    followed = read(db, reading.follow(call_id))
    grant = followed.grant
    if not grant.live or grant.granted_s is None:
        return grant
    account = reading.need_account(db, grant.account_id)
    sized = extend(
        grant,
        Snapshot(
            None,
            account,
            read(db, reading.filled(account.id, plan(grant, account))),
            followed.credit,
            room=None if grant.room is None else read(db, reading.room_of(account.id, grant.dialled)),
        ),
    )
    if not isinstance(sized, Sized) or not sized.granted_s:
        return grant
    hold_micros = sized.credit_hold_micros
    write(
        db,
        [
            *metering.reserved(call_id, account.id, sized.holds),
            *_reserved_credit(account.id, hold_micros),
            (_EXTEND, (sized.granted_s, hold_micros, sized.bound_by, call_id)),
        ],
    )
    return replace(
        grant,
        granted_s=grant.granted_s + sized.granted_s,
        credit_hold_micros=grant.credit_hold_micros + hold_micros,
        bound_by=sized.bound_by,
    )


def settle(
    db: Database,
    call_id: str,
    used_s: int,
    ended_ms: int,
    estimated: bool,
    answered_ms: int | None = None,
    limits: LimitsOf | None = None,
    known: Followed | None = None,
) -> Grant:
    """known: what `reading.follow` found of it; else it is read here."""
    if known is None:
        lock(db, Of.CALL, call_id)
        known = read(db, reading.follow(call_id))
    if not known.grant.live:
        return replace(known.grant, repeated=True)
    return _settled(db, known, used_s, ended_ms, estimated, answered_ms, limits)


def _settled(
    db: Database,
    followed: Followed,
    used_s: int,
    ended_ms: int,
    estimated: bool,
    answered_ms: int | None = None,
    limits: LimitsOf | None = None,
) -> Grant:
    grant, call_id = followed.grant, followed.grant.call_id
    if used_s < 0:
        raise ConstraintViolated(f"call {call_id} cannot have used {used_s} s; seconds begin at 0")
    if grant.granted_s is not None:
        used_s = min(used_s, grant.granted_s)
    session: Session | None = None
    writes: list[Write] = []
    if answered_ms is not None and grant.answered_ms is None:
        grant = replace(grant, state=GrantState.TALKING, leg=grant.channel, answered_ms=answered_ms)
        if grant.room is not None:
            session, writes = _entered(db, grant)
            grant = replace(grant, room=session.room)
    elif grant.room is not None:
        session = rooms.session_of(db, grant.room, grant.account_id)
    start_ms = _talk_began_ms(grant, used_s, ended_ms, estimated)
    limits_of = _limits_of(db, followed, limits)
    counted = _counted(followed, start_ms, used_s, ended_ms, limits_of)
    writes += counted.writes
    drafts = counted.drafts
    answered_at_ms = grant.answered_ms
    if session is not None:
        stay = (start_ms, start_ms + used_s * MS_PER_S)
        of_room, told = rooms.meter(session, grant, stay, ended_ms, followed.rules)
        writes += of_room
        drafts += told
        # Also where the note of its answer was lost.
        answered_at_ms = start_ms if used_s else answered_at_ms
    settled = replace(
        grant,
        state=GrantState.SETTLED,
        used_s=used_s,
        ended_ms=ended_ms,
        estimated=estimated,
        charged_micros=counted.charged_micros,
    )
    if settled.cut:
        drafts.append(notices.of_cut(grant, ended_ms))
    writes.append((_CLOSE, (grant.leg, answered_at_ms, used_s, ended_ms, int(estimated), call_id)))
    if followed.fraud and counted.credit is not None:
        writes += crediting.forfeited(db, grant.account_id, counted.credit, ended_ms)
    writes += notices.drafted(db, followed.rules, drafts)
    write(db, writes)
    return settled


def _counted_message(
    db: Database, dial: Dial, account_id: str, allow: Allow, snapshot: Snapshot
) -> list[Write]:
    """A message is one unit on each of its meters, and over at once. What is written after its grant."""
    grant = Grant(
        *(dial.call_id, account_id, dial.line_id, dial.kind, dial.dialled, None, dial.channel),
        *(GrantState.RINGING, allow.granted_s, allow.limit_s, dial.ring_s, dial.at_ms),
        terms=allow.terms,
        credit_hold_micros=allow.credit_hold_micros,
    )
    meters = {(meter.allowance, meter.window): meter for meter in snapshot.meters}
    holds = tuple([_as_held(hold, meters.get((hold.allowance, hold.window))) for hold in allow.holds])
    credit = snapshot.credit
    if credit is not None:
        credit = with_fields(credit, reserved_micros=credit.reserved_micros + allow.credit_hold_micros)
    fraud = snapshot.account is not None and snapshot.account.fraud
    rules = reading.notice_rules(db)
    counted = _counted(Followed(grant, holds, fraud, False, credit, rules), dial.at_ms, 1, dial.at_ms)
    writes = [*counted.writes, (_CLOSE, (None, None, 0, dial.at_ms, 0, dial.call_id))]
    if fraud and counted.credit is not None:
        writes += crediting.forfeited(db, account_id, counted.credit, dial.at_ms)
    return [*writes, *notices.drafted(db, rules, counted.drafts)]


def _as_held(hold: Hold, meter: MeterWindow | None) -> Held:
    """What is held and its meter, as they will be when `metering.reserved` is written. meter: as it was read."""
    window = hold.window
    used_units, reserved_units, over_units = (
        (0, 0, 0) if meter is None else (meter.used_units, meter.reserved_units, meter.over_units)
    )
    limit_units = hold.limit_units
    if hold.over and limit_units is not None:
        limit_units = max(limit_units, used_units + reserved_units)
    return Held(
        *(hold.allowance, window.start_ms, window.end_ms, hold.hold_units, int(hold.over), hold.weight),
        *(int(hold.room), limit_units, used_units, reserved_units + hold.hold_units, over_units),
    )


@dataclass(frozen=True, slots=True)
class _Counted:
    """What a talk or a message comes to. credit: as it is then, None for none."""

    charged_micros: int
    credit: Credit | None
    writes: list[Write]
    drafts: list[Draft]


def _counted(
    followed: Followed,
    start_ms: int,
    used_s: int,
    at_ms: int,
    limits_of: Callable[[Held], metering.Limits] | None = None,
) -> _Counted:
    """Count `used_s` from `start_ms` on the meters that are held, charge it, and release the rest."""
    grant, rules, credit = followed.grant, followed.rules, followed.credit
    account_id = grant.account_id
    uses, past = metering.count(
        followed.holds, start_ms, used_s, endless=grant.granted_s is None, limits_of=limits_of
    )
    writes = list(metering.used(grant.call_id, account_id, uses))
    drafts: list[Draft] = []
    for held, use in uses:
        drafts += notices.of_meter(rules, account_id, held, use, at_ms, grant.line_id)
    total_micros = 0
    for terms in grant.terms:
        charged_units, amount_micros = bill(terms, used_s, past)
        total_micros += amount_micros
        if terms.mode is Mode.CREDIT:
            writes += crediting.paid(
                account_id, grant.call_id, grant.credit_hold_micros, amount_micros, at_ms
            )
            if credit is not None:
                credit = with_fields(
                    credit,
                    balance_micros=credit.balance_micros - amount_micros,
                    reserved_micros=credit.reserved_micros - grant.credit_hold_micros,
                )
                drafts += notices.of_credit(rules, account_id, credit, amount_micros, grant.call_id, at_ms)
        if charged_units:
            writes.append(_charge(grant, terms, charged_units, amount_micros, at_ms))
    return _Counted(total_micros, credit, writes, drafts)


def _talk_began_ms(grant: Grant, used_s: int, ended_ms: int, estimated: bool) -> int:
    if grant.answered_ms is not None:
        return grant.answered_ms
    if estimated:
        return grant.authorised_ms
    # The note of the answer was lost; the end was seen.
    return max(grant.authorised_ms, ended_ms - used_s * MS_PER_S)


def _limits_of(
    db: Database, followed: Followed, limits: LimitsOf | None
) -> Callable[[Held], metering.Limits] | None:
    """The limit of an allowance as it was while the call was up; None: that which is stored, of the latest dial."""
    # Only raises make a limit change: without them nothing is to be worked out.
    if limits is None or not followed.raised or not any(held.over for held in followed.holds):
        return None
    account = reading.need_account(db, followed.grant.account_id)
    return lambda held: limits(followed.grant, account, held.allowance, held.window)


def _charge(grant: Grant, terms: Terms, charged_units: int, amount_micros: int, at_ms: int) -> Write:
    clause = terms.clause
    return _CHARGE, (
        *(grant.call_id, terms.mode, grant.account_id, at_ms, charged_units, amount_micros),
        *(terms.currency, terms.rate, clause.policy, clause.version, clause.id),
    )


def release(db: Database, call_id: str) -> Grant | None:
    lock(db, Of.CALL, call_id)
    try:
        followed = read(db, reading.follow(call_id))
    except NotFound:
        return None
    grant = followed.grant
    # Who came into a conference counts as in it at once; taken back, it never was.
    if not (grant.state is GrantState.RINGING or grant.room is not None):
        return None
    if not grant.live:
        return replace(grant, repeated=True)
    return _settled(db, followed, 0, grant.authorised_ms, False)
