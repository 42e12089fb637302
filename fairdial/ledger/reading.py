"""What the database holds, read into the values of contract.py. Nothing here writes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from fairdial.ledger.contract import (
    AccountSheet,
    Charge,
    DecisionRecord,
    Grant,
    GrantState,
    NotFound,
    Plan,
    PublishedPolicy,
    Role,
    Token,
    Usage,
)
from fairdial.ledger.database import Cursor, Database, Reads, Row, read
from fairdial.ledger.notice import NoticeRules
from fairdial.policy.account import (
    Account,
    Agreement,
    Callees,
    Consent,
    Credit,
    Identity,
    Kind,
    Line,
    MeterWindow,
    Needs,
    Options,
    OwnNumber,
    Room,
    Snapshot,
    Standing,
)
from fairdial.policy.numbers import Habit
from fairdial.policy.periods import Window
from fairdial.policy.raises import Raise
from fairdial.policy.terms import Clause, Mode, Terms

# The columns are the fields of Grant, in order.
_GRANT_COLUMNS = """
    g.call_id, g.account_id, g.line_id, g.kind, d.dialled, d.e164, g.channel, g.state, g.granted_s,
    d.limit_s, g.ring_s, g.authorised_ms, g.answered_ms, g.leg, g.ended_ms, g.used_s, g.estimated,
    g.terms, g.credit_hold_micros, d.clause_policy, d.clause_version, g.room, g.bound_by, g.assumed_ms
"""
_GRANT = f"SELECT {_GRANT_COLUMNS} FROM grants g JOIN decisions d USING (call_id)"  # noqa: S608
_HERE: Final = _GRANT_COLUMNS.count(",") + 1
_HOLD: Final = _HERE + 6
"""Columns of `_FOLLOWED`: where those of the grant end, and where those of its holds begin."""

KINDS: Final = {kind.value: kind for kind in Kind}
STATES: Final = {state.value: state for state in GrantState}
STANDINGS: Final = {standing.value: standing for standing in Standing}
"""By what stands in the store: each step of a call looks some up, and the enumerations take ten times as long."""

_NOTHING_AGREED: Final[frozenset[Consent]] = frozenset()

TEXTS_KEPT = 1024
"""Values that are kept, by the texts that they were read from: accounts, and habits, options and terms, of which many
lines, accounts and calls have the same. None of them can be changed.
"""

LAST_CHARACTER = chr(0x10FFFF)
"""Behind every other in the order of texts; no id has it."""

ALL = 2**63 - 1
"""Of rows: a limit that is none."""
ALL = 2**63 - 1
"""Of rows: a limit that is none."""

CHARGES_SHOWN = 1000
"""The latest charges that a sheet has."""

# Those of DecisionRecord.
_RECORD = """
    SELECT d.call_id, d.at_ms, d.kind, d.line_id, d.account_id, d.dialled, d.e164, d.number_class, d.country,
           d.decision, d.reason, d.clause_policy, d.clause_version, d.clause_id, d.granted_s, d.limit_s, d.flag,
           g.used_s, CASE WHEN g.used_s = g.granted_s THEN g.bound_by END, d.verified, coalesce(m.medium, ''),
           d.caller, d.shown, d.sip_call_id
"""
_DECISION = f"""
    {_RECORD}
      FROM decisions d LEFT JOIN grants g USING (call_id) LEFT JOIN messages m USING (call_id)
"""
_MESSAGE = f"""
    {_RECORD}
      FROM messages m JOIN decisions d USING (call_id) LEFT JOIN grants g USING (call_id)
"""


_DIALLING = """
    SELECT EXISTS (SELECT 1 FROM decisions WHERE call_id = ?2), l.standing, l.habit,
           c.currency, c.balance_micros, c.reserved_micros,
           (SELECT count(*) FROM grants g WHERE g.account_id = a.id AND g.state <> 'settled'),
           (SELECT count(*) FROM grants g
             WHERE g.line_id = l.id AND g.kind = 'inbound' AND g.state <> 'settled'),
           (SELECT group_concat(consent, ' ') FROM agreements
             WHERE account_id = a.id AND withdrawn_ms IS NULL),
           a.id, a.policy, a.zone, a.name, a.standing, a.options, a.fraud, a.restricted, a.raises
      FROM lines l JOIN accounts a ON a.id = l.account_id LEFT JOIN credits c ON c.account_id = a.id
     WHERE l.id = ?1
"""
_DECIDED = "SELECT 1 FROM decisions WHERE call_id = ?"


def snapshot(db: Database, line_id: str, plan: Plan) -> Snapshot:
    """What is known of the payer of a dial."""
    return read(db, dialling(line_id, plan, "")) or Snapshot(None, None)


def is_decided(db: Database, call_id: str) -> bool:
    """Whether a dial under that id was decided before."""
    return db.execute(_DECIDED, (call_id,)).fetchone() is not None


def dialling(line_id: str, plan: Plan, call_id: str) -> Reads[Snapshot | None]:
    """What is known of the payer of a dial; None where that call was decided already."""
    rows = yield _DIALLING, (line_id, call_id)
    if not rows:
        decided_before = yield _DECIDED, (call_id,)
        return None if decided_before else Snapshot(None, None)
    decided, standing, habit, currency, balance, reserved, calls, inbound, agreed, *of_account = rows[0]
    if decided:
        return None
    account = _account(*of_account)
    line = Line(line_id, account.id, to_habit(habit), STANDINGS[standing])
    needs = plan(line, account)
    return Snapshot(
        line,
        account,
        (yield from filled(account.id, needs.meters)),
        None if currency is None else Credit(currency, balance, reserved),
        calls,
        inbound,
        _NOTHING_AGREED if agreed is None else frozenset(map(Consent, agreed.split())),
        (yield from _identity(line, needs)) if needs.identity else None,
        (yield from room_of(account.id, needs.room)) if needs.room is not None else None,
        None
        if needs.callee is None
        else (yield from _callees(account.id, needs.callee, needs.callees_since_ms)),
    )


def _callees(account_id: str, callee: str, since_ms: int) -> Reads[Callees]:
    [(known, count)] = yield (
        "SELECT EXISTS (SELECT 1 FROM callees WHERE account_id = ?1 AND callee = ?2) AS known,"
        " (SELECT count(*) FROM callees WHERE account_id = ?1 AND last_ms > ?3) AS count",
        (account_id, callee, since_ms),
    )
    return Callees(callee, bool(known), count)


def _identity(line: Line, needs: Needs) -> Reads[Identity]:
    own = yield "SELECT 1 FROM numbers WHERE number = ? AND account_id = ?", (needs.shown, line.account_id)
    # The line's own number first, then one of no line in particular.
    instead = yield (
        "SELECT number FROM numbers WHERE account_id = ? AND (line_id IS NULL OR line_id = ?)"
        " ORDER BY line_id IS NULL, number LIMIT 1",
        (line.account_id, line.id),
    )
    return Identity(bool(own), instead[0][0] if instead else None)


def room_of(account_id: str, name: str) -> Reads[Room | None]:
    """The conference of that name in which somebody of the account is, or into which somebody is called.

    Who is called has a seat. While nobody is in it, its clock is held up to no time, and it opens at the latest
    when the last one called answers.
    """
    [(room, seats, endless, until_ms, opened_ms, bound_by)] = yield (
        "SELECT r.id, r.seats, r.endless, r.until_ms,"
        " CASE WHEN r.answered_ms IS NULL THEN r.rings_until_ms"
        "   ELSE (SELECT min(first.answered_ms) FROM grants first WHERE first.room = r.id) END AS opened_ms,"
        " (SELECT last.bound_by FROM grants last WHERE last.room = r.id AND last.state <> 'settled'"
        "   ORDER BY last.answered_ms + last.granted_s * 1000 DESC NULLS LAST LIMIT 1) AS bound_by"
        " FROM (SELECT min(g.room) AS id, count(*) AS seats,"
        "   max(CASE WHEN g.granted_s IS NULL THEN 1 ELSE 0 END) AS endless,"
        "   coalesce(max(g.answered_ms + g.granted_s * 1000), min(g.authorised_ms)) AS until_ms,"
        "   max(g.answered_ms) AS answered_ms, max(g.authorised_ms + g.ring_s * 1000) AS rings_until_ms"
        "   FROM grants g JOIN decisions d USING (call_id)"
        "   WHERE g.account_id = ? AND g.state <> 'settled' AND g.room IS NOT NULL AND d.dialled = ?) r",
        (account_id, name),
    )
    return Room(room, seats, opened_ms, None if endless else until_ms, bound_by) if seats else None


def agreements_of(db: Database, account_id: str) -> tuple[Agreement, ...]:
    rows = db.execute(
        "SELECT * FROM agreements WHERE account_id = ? AND withdrawn_ms IS NULL ORDER BY consent",
        (account_id,),
    )
    return tuple(_to_agreement(row) for row in rows)


def all_agreements(db: Database, account_id: str) -> tuple[Agreement, ...]:
    need_account(db, account_id)
    rows = db.execute("SELECT * FROM agreements WHERE account_id = ? ORDER BY at_ms DESC", (account_id,))
    return tuple(_to_agreement(row) for row in rows)


def _to_agreement(row: Row) -> Agreement:
    return Agreement(
        row["account_id"],
        Consent(row["consent"]),
        row["agreed_by"],
        row["at_ms"],
        row["note"],
        row["about"],
        row["recorded_by"],
        row["withdrawn_ms"],
        row["withdrawn_by"],
    )


def numbers_of(
    db: Database, account_id: str | None, after: str = "", limit: int | None = None
) -> tuple[OwnNumber, ...]:
    rows = _page(db, "numbers", "number", account_id, after, limit)
    return tuple(to_own_number(row) for row in rows)


def need_number(db: Database, number: str) -> OwnNumber:
    row = db.execute("SELECT * FROM numbers WHERE number = ?", (number,)).fetchone()
    if row is None:
        raise NotFound(
            f"number {number!r} belongs to no account; write it in E.164, as `fairdial number list` shows it"
        )
    return to_own_number(row)


def to_own_number(row: Row) -> OwnNumber:
    return OwnNumber(row["number"], row["account_id"], row["line_id"])


def _page(
    db: Database, table: str, key: str, account_id: str | None, after: str, limit: int | None
) -> Cursor:
    """Rows of a table of ours by its key, those behind `after`, of one account or of all. Raises NotFound (account)."""
    if account_id is not None:
        need_account(db, account_id)
    # Two statements, so that each runs along an index and stops at the limit.
    of_account = "" if account_id is None else "account_id = ? AND "
    given = () if account_id is None else (account_id,)
    return db.execute(
        f"SELECT * FROM {table} WHERE {of_account}{key} > ? ORDER BY {key} LIMIT ?",  # noqa: S608
        (*given, after, ALL if limit is None else limit),
    )


def published(db: Database) -> tuple[PublishedPolicy, ...]:
    rows = db.execute("SELECT name, version, published_ms, text FROM policies ORDER BY name, published_ms")
    return tuple(PublishedPolicy(*row) for row in rows)


def filled(account_id: str, meters: Sequence[MeterWindow]) -> Reads[tuple[MeterWindow, ...]]:
    """These meters as they stand: the empty ones that a plan names, with what is in the store."""
    if not meters:
        return ()
    keys: list[str | int] = []
    for meter in meters:
        keys += (account_id, meter.allowance, meter.window.start_ms, meter.window.end_ms)
    filled = list(meters)
    for place, used_units, reserved_units, over_units in (yield _meters(len(meters)), keys):
        meter = meters[place]
        # Every dial comes by here, and `replace` takes four times as long.
        filled[place] = MeterWindow(
            meter.allowance,
            meter.window,
            meter.limit_units,
            used_units,
            reserved_units,
            over_units,
            meter.over,
            meter.weight,
            meter.room,
            meter.raised,
        )
    return tuple(filled)


@lru_cache(maxsize=32)
def _meters(count: int) -> str:
    """One statement for several meters, each along the primary key."""
    return " UNION ALL ".join(
        f"SELECT {place}, used_units, reserved_units, over_units FROM meters"  # noqa: S608
        " WHERE account_id = ? AND allowance = ? AND start_ms = ? AND end_ms = ?"
        for place in range(count)
    )


class Held(NamedTuple):
    """What a grant holds of a meter, and that meter as it stands. over, room: flags, as stored."""

    allowance: str
    start_ms: int
    end_ms: int
    hold_units: int
    over: int
    weight: int
    room: int
    limit_units: int | None
    used_units: int
    reserved_units: int
    over_units: int

    @property
    def window(self) -> Window:
        return Window(self.start_ms, self.end_ms)


class Used(NamedTuple):
    """What becomes of what is held: units used, units past the limit, the limit where it changes with them, and the
    seconds of the talk that are past it, [from, until), where these are not its last.
    """

    used_units: int
    over_units: int = 0
    limit_units: int | None = None
    past: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True, slots=True)
class Followed:
    """A grant, and what its next step needs to know. holds: by allowance, then by window.

    fraud: its account was terminated for it. raised: that account has limits of its own. rules: what is told of.
    """

    grant: Grant
    holds: tuple[Held, ...]
    fraud: bool
    raised: bool
    credit: Credit | None
    rules: NoticeRules | None


_FOLLOWED = f"""
    SELECT {_GRANT_COLUMNS}, a.fraud, a.raises <> '[]', c.currency, c.balance_micros, c.reserved_micros,
           (SELECT rules FROM notice_rules WHERE id = 1),
           h.allowance, h.start_ms, h.end_ms, h.hold_units, h.over, h.weight, h.room,
           m.limit_units, m.used_units, m.reserved_units, m.over_units
      FROM grants g JOIN decisions d ON d.call_id = g.call_id JOIN accounts a ON a.id = g.account_id
      LEFT JOIN credits c ON c.account_id = g.account_id
      LEFT JOIN holds h ON h.call_id = g.call_id
      LEFT JOIN meters m ON m.account_id = h.account_id AND m.allowance = h.allowance
       AND m.start_ms = h.start_ms AND m.end_ms = h.end_ms
     WHERE g.call_id = ? ORDER BY h.allowance, h.start_ms, h.end_ms
"""  # noqa: S608


def follow(call_id: str) -> Reads[Followed]:
    """Raises NotFound."""
    rows = yield _FOLLOWED, (call_id,)
    if not rows:
        raise NotFound(f"no grant for call {call_id}")
    fields = tuple(rows[0])
    fraud, raised, currency, balance_micros, reserved_micros, rules = fields[_HERE:_HOLD]
    return Followed(
        _to_grant(fields[:_HERE]),
        () if fields[_HOLD] is None else tuple([Held(*tuple(row)[_HOLD:]) for row in rows]),
        bool(fraud),
        bool(raised),
        None if currency is None else Credit(currency, balance_micros, reserved_micros),
        None if rules is None else to_rules(rules),
    )


@lru_cache(maxsize=8)
def to_rules(text: str) -> NoticeRules:
    return msgspec.json.decode(text, type=NoticeRules)


def notice_rules(db: Database) -> NoticeRules | None:
    """What is told of; None where nobody is to be told of anything."""
    row = db.execute("SELECT rules FROM notice_rules WHERE id = 1").fetchone()
    return None if row is None else to_rules(row[0])


def live_grants(db: Database) -> tuple[Grant, ...]:
    return grants_where(db, "g.state <> 'settled' ORDER BY g.authorised_ms, g.call_id")


def live_grant_count(db: Database) -> int:
    [count] = db.execute("SELECT count(*) FROM grants WHERE state <> 'settled'").fetchone()
    return int(count)


def barred_grants(db: Database) -> tuple[str, ...]:
    rows = db.execute(
        "SELECT g.call_id FROM grants g JOIN accounts a ON a.id = g.account_id JOIN lines l ON l.id = g.line_id"
        " WHERE g.state <> 'settled' AND (a.standing <> 'active' OR l.standing <> 'active'"
        "   OR g.kind IN (SELECT value FROM json_each(a.restricted)))"
        " ORDER BY g.call_id"
    )
    return tuple(row["call_id"] for row in rows)


def find_grant(db: Database, call_id: str) -> Grant | None:
    row = db.execute(f"{_GRANT} WHERE call_id = ?", (call_id,)).fetchone()
    return None if row is None else _to_grant(row)


def grants_where(db: Database, condition: str, parameters: Sequence[object] = ()) -> tuple[Grant, ...]:
    """Grants by a condition of our own on `g`, their table."""
    return tuple(_to_grant(row) for row in db.execute(f"{_GRANT} WHERE {condition}", parameters))


def need_grant(db: Database, call_id: str) -> Grant:
    grant = find_grant(db, call_id)
    if grant is None:
        raise NotFound(f"no grant for call {call_id}")
    return grant


def need_account(db: Database, account_id: str) -> Account:
    row = db.execute("SELECT * FROM accounts WHERE id = ?", (account_id,)).fetchone()
    if row is None:
        raise NotFound(f"no account {account_id!r}; `fairdial account list` shows all")
    return to_account(row)


@dataclass(frozen=True, slots=True)
class Sought:
    """Which decisions or messages are wanted; what is None or False does not matter (contract.py, `decisions`)."""

    account_id: str | None = None
    line_id: str | None = None
    number: str | None = None
    call: str | None = None
    refused: bool = False

    def conditions(self, db: Database, of: str) -> Iterator[tuple[str, tuple[object, ...]]]:
        """Conditions, each with its values, of which each runs along an index. of: the table with the account and
        the instant; `d` are the decisions.
        """
        # A call has few decisions: its own indexes are the ones to go along. What is made of a column is in no index.
        no_index = "" if self.call is None else " || ''"
        if self.account_id is not None:
            yield f"{of}.account_id{no_index} = ?", (self.account_id,)
        if self.line_id is not None:
            yield "d.line_id = ?", (self.line_id,)
            if self.account_id is None and self.number is None and self.call is None:
                # Along the index of the account that has the line; of no account is what an unknown line dialled.
                owner = db.execute("SELECT account_id FROM lines WHERE id = ?", (self.line_id,)).fetchone()
                if owner is None:
                    yield "d.account_id IS NULL", ()
                else:
                    yield "d.account_id = ?", (owner["account_id"],)
        if self.number is not None:
            yield f"coalesce(d.e164, d.dialled){no_index} = ?", (self.number,)
        if self.call is not None:
            by_sip = "d.sip_call_id = ? AND d.sip_call_id <> ''"
            yield f"(d.call_id = ? OR ({by_sip}))", (self.call, self.call)
        if self.refused:
            yield "d.decision <> 'allow'", ()


def sip_call_id(db: Database, call_id: str) -> str:
    row = db.execute("SELECT sip_call_id FROM decisions WHERE call_id = ?", (call_id,)).fetchone()
    return "" if row is None else str(row["sip_call_id"])


def latest_decisions(
    db: Database, sought: Sought, limit: int, after: str | None = None
) -> tuple[DecisionRecord, ...]:
    return _latest(db, _DECISION, "d", sought, limit, after)


def latest_messages(
    db: Database, account_id: str | None, limit: int, after: str | None = None
) -> tuple[DecisionRecord, ...]:
    if account_id is not None:
        need_account(db, account_id)
    return _latest(db, _MESSAGE, "m", Sought(account_id), limit, after)


def _latest(
    db: Database, select: str, of: str, sought: Sought, limit: int, after: str | None
) -> tuple[DecisionRecord, ...]:
    """The newest first. of: the table in `select` along whose index it goes."""
    # A statement for each case, so that each runs along an index and stops at the limit.
    conditions, given = ["TRUE"], list[object]()
    for condition, values in sought.conditions(db, of):
        conditions.append(condition)
        given.extend(values)
    if after is not None:
        of_account = "" if sought.account_id is None else " AND account_id = ?"
        last = db.execute(
            f"SELECT at_ms, call_id FROM decisions WHERE call_id = ?{of_account}",  # noqa: S608
            (after,) if sought.account_id is None else (after, sought.account_id),
        ).fetchone()
        if last is None:
            raise NotFound(f"no decision of call {after!r}; go on after one that was listed")
        conditions.append(f"({of}.at_ms, {of}.call_id) < (?, ?)")
        given.extend(last)
    rows = db.execute(
        f"{select} WHERE {' AND '.join(conditions)} ORDER BY {of}.at_ms DESC, {of}.call_id DESC LIMIT ?",
        (*given, limit),
    )
    return tuple(_to_record(row) for row in rows)


def need_decision(db: Database, call_id: str) -> DecisionRecord:
    row = db.execute(f"{_DECISION} WHERE d.call_id = ?", (call_id,)).fetchone()
    if row is None:
        raise NotFound(f"no decision {call_id!r}; `fairdial decisions` shows the latest")
    return _to_record(row)


def _to_record(row: Row) -> DecisionRecord:
    call_id, at_ms, kind, *others = row
    return DecisionRecord(call_id, at_ms, Kind(kind), *others)


def accounts_by_id(
    db: Database, after: str = "", limit: int | None = None, starts: str = ""
) -> tuple[Account, ...]:
    if not starts:
        return tuple(to_account(row) for row in _page(db, "accounts", "id", None, after, limit))
    # One bound on each side, as an index has it: `after` lies within what begins so, or before all of it.
    past = "id > ?" if after >= starts else "id >= ?"
    rows = db.execute(
        f"SELECT * FROM accounts WHERE {past} AND id < ? ORDER BY id LIMIT ?",  # noqa: S608
        (max(after, starts), starts + LAST_CHARACTER, ALL if limit is None else limit),
    )
    return tuple(to_account(row) for row in rows)


def lines_of(
    db: Database, account_id: str | None, after: str = "", limit: int | None = None
) -> tuple[Line, ...]:
    return tuple(to_line(row) for row in _page(db, "lines", "id", account_id, after, limit))


def need_line(db: Database, line_id: str) -> Line:
    row = db.execute("SELECT * FROM lines WHERE id = ?", (line_id,)).fetchone()
    if row is None:
        raise NotFound(f"no line {line_id!r}; `fairdial line list` shows all")
    return to_line(row)


def to_line(row: Row) -> Line:
    return Line(row["id"], row["account_id"], to_habit(row["habit"]), Standing(row["standing"]))


def sheet_of(db: Database, account_id: str) -> AccountSheet:
    account = need_account(db, account_id)
    rows = db.execute(
        "SELECT * FROM meters WHERE account_id = ? ORDER BY start_ms DESC, allowance", (account_id,)
    )
    usage = tuple(Usage(to_meter(row), row["calls"]) for row in rows)
    charges = db.execute(
        "SELECT * FROM charges WHERE account_id = ? ORDER BY at_ms DESC, call_id LIMIT ?",
        (account_id, CHARGES_SHOWN),
    )
    of_plans = "c.account_id = ? ORDER BY c.start_ms DESC, c.request_id LIMIT ?"
    charged = [
        *(to_charge(row) for row in charges),
        *plan_charges_where(db, of_plans, (account_id, CHARGES_SHOWN)),
    ]
    charged.sort(key=lambda charge: -charge.at_ms)
    return AccountSheet(
        account,
        lines_of(db, account_id),
        usage,
        credit_of(db, account_id),
        tuple(charged[:CHARGES_SHOWN]),
        numbers_of(db, account_id),
        agreements_of(db, account_id),
    )


def to_meter(row: Row) -> MeterWindow:
    """A row of `meters`."""
    return MeterWindow(
        row["allowance"],
        Window(row["start_ms"], row["end_ms"]),
        row["limit_units"],
        row["used_units"],
        row["reserved_units"],
        row["over_units"],
    )


def credit_of(db: Database, account_id: str) -> Credit | None:
    row = db.execute("SELECT * FROM credits WHERE account_id = ?", (account_id,)).fetchone()
    return None if row is None else _to_credit(row)


def to_account(row: Row) -> Account:
    return _account(
        row["id"],
        row["policy"],
        row["zone"],
        row["name"],
        row["standing"],
        row["options"],
        row["fraud"],
        row["restricted"],
        row["raises"],
    )


@lru_cache(maxsize=TEXTS_KEPT)
def _account(
    id: str,
    policy: str,
    zone: str,
    name: str,
    standing: str,
    options: str,
    fraud: int,
    restricted: str,
    raises: str,
) -> Account:
    return Account(
        id,
        policy,
        zone,
        name,
        Standing(standing),
        to_options(options),
        bool(fraud),
        to_services(restricted),
        # Of nearly every account: not worth a parser.
        () if raises == "[]" else msgspec.json.decode(raises, type=tuple[Raise, ...]),
    )


@lru_cache(maxsize=TEXTS_KEPT)
def to_options(text: str) -> Options:
    return msgspec.json.decode(text, type=Options)


def to_services(text: str) -> frozenset[Kind]:
    # Of nearly every account: not worth a parser.
    return frozenset() if text == "[]" else msgspec.json.decode(text, type=frozenset[Kind])


def from_services(services: Iterable[Kind]) -> str:
    return msgspec.json.encode(sorted(services)).decode()


def from_options(options: Options) -> str:
    return msgspec.json.encode(options, order="sorted").decode()


def tokens_where(db: Database, condition: str, *values: str) -> tuple[Token, ...]:
    rows = db.execute(
        f"SELECT name, digest, role, created_ms, accounts FROM tokens WHERE {condition} ORDER BY name",  # noqa: S608
        values,
    )
    return tuple(
        Token(
            row["name"],
            row["digest"],
            Role(row["role"]),
            row["created_ms"],
            msgspec.json.decode(row["accounts"], type=tuple[str, ...]),
        )
        for row in rows
    )


def _to_credit(row: Row) -> Credit | None:
    if row["currency"] is None:
        return None
    return Credit(row["currency"], row["balance_micros"], row["reserved_micros"])


@lru_cache(maxsize=TEXTS_KEPT)
def _to_terms(text: str) -> tuple[Terms, ...]:
    return msgspec.json.decode(text, type=tuple[Terms, ...])


def to_charge(row: Row) -> Charge:
    return Charge(
        row["call_id"],
        Mode(row["mode"]),
        row["at_ms"],
        row["charged_units"],
        row["amount_micros"],
        row["currency"],
        row["rate"],
        Clause(row["clause_policy"], row["clause_version"], row["clause_id"]),
    )


def plan_charges_where(db: Database, condition: str, parameters: Sequence[object]) -> tuple[Charge, ...]:
    """What minute plans cost, by a condition of our own on `c`, their table."""
    rows = db.execute(
        "SELECT c.*, r.plan, r.clause_policy, r.clause_version, r.clause_id"  # noqa: S608
        f" FROM plan_charges c JOIN requests r ON r.id = c.request_id WHERE {condition}",
        parameters,
    )
    return tuple(
        Charge(
            None,
            Mode.PLAN,
            row["start_ms"],
            row["added_units"],
            row["amount_micros"],
            row["currency"],
            f"plans.{row['plan']}",
            Clause(row["clause_policy"], row["clause_version"], row["clause_id"]),
            row["request_id"],
        )
        for row in rows
    )


@lru_cache(maxsize=TEXTS_KEPT)
def to_habit(text: str) -> Habit:
    return msgspec.json.decode(text, type=Habit)


def _to_grant(row: Iterable[Any]) -> Grant:
    fields = list(row)
    fields[3], fields[7], fields[16] = KINDS[fields[3]], STATES[fields[7]], bool(fields[16])
    fields[17] = () if fields[17] is None else _to_terms(fields[17])
    return Grant(*fields)
