"""Notices on SQLite: written in the step that causes them, delivered in order, told to whole policies page by page.

What each step promises stands at the method of its name in contract.py. A step that causes a notice calls `write` or
one of the functions that look whether there is something to tell.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from fairdial.ledger import database, reading
from fairdial.ledger.contract import ConstraintViolated, Grant, NotFound
from fairdial.ledger.database import Database, Row, Write, alone
from fairdial.ledger.notice import (
    Channel,
    Contact,
    Delivery,
    DeliveryState,
    Notice,
    NoticeRules,
    Topic,
)
from fairdial.ledger.reading import Held, Used
from fairdial.policy.account import Account, Credit, Kind, Standing
from fairdial.policy.document import Step
from fairdial.policy.ladder import Taken
from fairdial.policy.requests import Request, RequestState
from fairdial.policy.terms import Clause

LAST_MAX = 500
"""Characters that are kept of what was said of an attempt."""

# The columns are the fields of Notice, but for the clause and the facts.
_NOTICE = (
    "n.id, n.account_id, n.topic, n.reference, n.at_ms, n.line_id, n.clause_policy, n.clause_version, n.clause_id,"
    " n.facts"
)
_DELIVERY = (
    f"SELECT {_NOTICE}, d.channel, d.state, d.attempts, d.next_ms, d.done_ms, d.last, d.notice_id"  # noqa: S608
    " FROM deliveries d JOIN notices n ON n.id = d.notice_id"
)


def set_rules(db: Database, rules: NoticeRules) -> None:
    db.execute(
        "INSERT INTO notice_rules (id, rules) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET rules = excluded.rules",
        (msgspec.json.encode(rules, order="deterministic").decode(),),
    )


# --- what causes them ----------------------------------------------------------------------------------


def write(
    db: Database,
    account_id: str,
    topic: Topic,
    reference: str,
    at_ms: int,
    facts: Mapping[str, Any],
    *,
    clause: Clause | None = None,
    line_id: str = "",
) -> None:
    """Write a notice, unless one of that topic and reference was, or nobody is to be told of anything."""
    rules = reading.notice_rules(db)
    if rules is not None:
        draft = Draft(account_id, topic, reference, at_ms, facts, clause, line_id)
        database.write(db, drafted(db, rules, [draft]))


class Draft(NamedTuple):
    """A notice that is due, unless one of that topic and reference was written."""

    account_id: str
    topic: Topic
    reference: str
    at_ms: int
    facts: Mapping[str, Any]
    clause: Clause | None = None
    line_id: str = ""


def drafted(db: Database, rules: NoticeRules | None, drafts: Iterable[Draft]) -> list[Write]:
    """What is to be written of these; rules None: nothing, as nobody is to be told. Reads, and writes nothing."""
    return [] if rules is None else [each for draft in drafts for each in _drafted(db, rules, draft)]


def _drafted(db: Database, rules: NoticeRules, draft: Draft) -> Iterator[Write]:
    key = (draft.account_id, draft.topic, draft.reference)
    known = "SELECT 1 FROM notices WHERE account_id = ? AND topic = ? AND reference = ?"
    if db.execute(known, key).fetchone() is not None:
        return
    where = contact(db, draft.account_id)
    clause = draft.clause
    behind = ("", "", "") if clause is None else (clause.policy, clause.version, clause.id)
    yield (
        "INSERT INTO notices (account_id, topic, reference, at_ms, line_id, clause_policy, clause_version, clause_id,"
        " facts) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*key, draft.at_ms, draft.line_id, *behind, msgspec.json.encode(draft.facts).decode()),
    )
    reached = {
        Channel.WEBHOOK: True,
        Channel.EMAIL: where.email != "",
        Channel.SIP: _line(where, draft.line_id) != "",
    }
    for channel in sorted(rules.channels):
        if reached[channel]:
            yield (
                "INSERT INTO deliveries (notice_id, channel, account_id, state, next_ms)"
                " SELECT id, ?, account_id, 'waiting', at_ms FROM notices"
                " WHERE account_id = ? AND topic = ? AND reference = ?",
                (channel, *key),
            )


def _line(where: Contact, line_id: str) -> str:
    """To which line the switch sends it: the account's own choice, else the line that it is about."""
    return where.line_id or line_id


def of_meter(
    rules: NoticeRules | None, account_id: str, held: Held, use: Used, at_ms: int, line_id: str
) -> list[Draft]:
    """What is to be told of a meter that is used. held: as it was until then; line_id: whose use it is."""
    limit_units = held.limit_units if use.limit_units is None else use.limit_units
    used_units = held.used_units + use.used_units
    # Most settlements end here.
    if rules is None or not limit_units or (2 * used_units < limit_units and not use.over_units):
        return []
    window = {"start_ms": held.start_ms, "end_ms": held.end_ms}
    facts = {"allowance": held.allowance, "used": used_units, "limit": limit_units, **window}
    reference = f"{held.allowance}@{held.start_ms}-{held.end_ms}"
    drafts = []
    passed = [
        each for each in rules.used_percents if 100 * held.used_units < each * limit_units <= 100 * used_units
    ]
    if passed:
        # One long call can pass several: the customer is told of the last. A raised limit is told of anew.
        percent = max(passed)
        # "voice/alice" is the allowance of one line.
        of_line = held.allowance.partition("/")[2]
        told = f"{reference}:{percent}/{limit_units}"
        with_percent = facts | {"percent": percent}
        drafts.append(Draft(account_id, Topic.USED, told, at_ms, with_percent, None, of_line))
    if use.over_units and not held.over_units:
        drafts.append(Draft(account_id, Topic.OVERAGE, reference, at_ms, facts, None, line_id))
    return drafts


def of_credit(
    rules: NoticeRules | None, account_id: str, credit: Credit, paid_micros: int, call_id: str, at_ms: int
) -> list[Draft]:
    """What is to be told of a balance from which `paid_micros` are taken. credit: what is left."""
    if rules is None or not paid_micros:
        return []
    low_micros = rules.low_credit_micros
    if not credit.balance_micros < low_micros <= credit.balance_micros + paid_micros:
        return []
    facts = {
        "balance_micros": credit.balance_micros,
        "low_micros": low_micros,
        "currency": credit.currency,
    }
    return [Draft(account_id, Topic.LOW_CREDIT, call_id, at_ms, facts)]


def of_cut(grant: Grant, at_ms: int) -> Draft:
    """A call ended because it had no more time. The clause is that of the rule, which the policy knows."""
    facts = {
        "call": grant.call_id,
        "number": grant.e164 or grant.dialled,
        "kind": grant.kind,
        "used_s": grant.granted_s,
        "rule": grant.bound_by,
        "policy": grant.policy,
        "version": grant.policy_version,
    }
    return Draft(grant.account_id, Topic.CUT, grant.call_id, at_ms, facts, None, grant.line_id)


def of_step(
    db: Database,
    case_id: int,
    account_id: str,
    taken: Taken,
    at_ms: int,
    policy: Clause,
    words: str,
) -> None:
    """A step of the ladder; one in shadow is nobody's business. policy: of the case, whose clause the step names."""
    if not taken.enforced:
        return
    facts = {
        "case": case_id,
        "step": taken.step,
        "deadline_ms": taken.deadline_ms,
        "services": sorted(taken.services) if taken.step is Step.RESTRICT else [],
        "words": words,
    }
    clause = Clause(policy.policy, policy.version, taken.clause_id)
    write(db, account_id, Topic.CASE, _another(db, account_id, Topic.CASE), at_ms, facts, clause=clause)


def of_standing(db: Database, account_id: str, before: Standing, after: Standing, at_ms: int) -> None:
    """An account is suspended, restored or terminated by people."""
    if before is not after:
        facts = {"before": before, "standing": after}
        write(db, account_id, Topic.STANDING, _another(db, account_id, Topic.STANDING), at_ms, facts)


def of_services(
    db: Database, account_id: str, changed: Collection[Kind], at_ms: int, *, lifted: bool
) -> None:
    """Services are taken from an account by people, or given back."""
    if changed:
        facts = {"services": sorted(changed), "lifted": lifted}
        write(db, account_id, Topic.SERVICES, _another(db, account_id, Topic.SERVICES), at_ms, facts)


def _another(db: Database, account_id: str, topic: Topic) -> str:
    """A reference for what can happen any number of times."""
    [count] = db.execute(
        "SELECT count(*) FROM notices WHERE account_id = ? AND topic = ?", (account_id, topic)
    ).fetchone()
    return f"{topic}-{count + 1}"


_BY_THE_CUSTOMER = frozenset({"asked", RequestState.WITHDRAWN})


def of_request(db: Database, request: Request, what: str, at_ms: int, note: str) -> None:
    """What became of a request; not what its customer did. what: as in its entries."""
    if what in _BY_THE_CUSTOMER:
        return
    asked = request.asked
    facts = {
        "request": request.id,
        "what": what,
        "rule": asked.rule,
        "policy": asked.policy,
        "limit": asked.limit or None,
        "more": asked.more or None,
        "from_ms": request.from_ms,
        "until_ms": request.until_ms,
        "note": note,
        "plan": None
        if asked.plan is None
        else {
            "name": asked.plan.name,
            "price_micros": asked.plan.price_micros,
            "currency": asked.plan.currency,
            "period": asked.plan.period,
        },
    }
    write(db, asked.account_id, Topic.REQUEST, f"{request.id}:{what}", at_ms, facts, clause=asked.clause)


# --- to all on a policy --------------------------------------------------------------------------------


def announce(db: Database, policy: str, version: str, before: str, at_ms: int) -> None:
    db.execute(
        "INSERT INTO announcements (policy, version, before, at_ms) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (policy, version, before, at_ms),
    )


def announce_next(db: Database, limit: int) -> int:
    alone(db)
    row = db.execute("SELECT * FROM announcements WHERE done = 0 ORDER BY at_ms LIMIT 1").fetchone()
    if row is None:
        return 0
    accounts = db.execute(
        "SELECT id FROM accounts WHERE policy = ? AND id > ? AND standing <> 'terminated' ORDER BY id LIMIT ?",
        (row["policy"], row["told"], limit),
    ).fetchall()
    facts = {"policy": row["policy"], "before": row["before"], "version": row["version"]}
    for account in accounts:
        reference = f"{row['policy']}@{row['version']}"
        write(db, account["id"], Topic.POLICY, reference, row["at_ms"], facts)
    db.execute(
        "UPDATE announcements SET told = ?, done = ? WHERE policy = ? AND version = ?",
        (
            accounts[-1]["id"] if accounts else row["told"],
            int(len(accounts) < limit),
            row["policy"],
            row["version"],
        ),
    )
    return len(accounts)


# --- contacts ------------------------------------------------------------------------------------------


def set_contact(db: Database, where: Contact) -> None:
    reading.need_account(db, where.account_id)
    if where.line_id:
        row = db.execute("SELECT account_id FROM lines WHERE id = ?", (where.line_id,)).fetchone()
        if row is None or row["account_id"] != where.account_id:
            raise NotFound(
                f"account {where.account_id!r} has no line {where.line_id!r}; name one of its lines"
            )
    db.execute(
        "INSERT INTO contacts (account_id, language, email, line_id) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (account_id) DO UPDATE SET"
        " language = excluded.language, email = excluded.email, line_id = excluded.line_id",
        (where.account_id, where.language, where.email, where.line_id),
    )


def addressee(db: Database, account_id: str) -> tuple[Account, Contact]:
    return reading.need_account(db, account_id), contact(db, account_id)


def contact(db: Database, account_id: str) -> Contact:
    row = db.execute(
        "SELECT account_id, language, email, line_id FROM contacts WHERE account_id = ?", (account_id,)
    ).fetchone()
    return Contact(account_id) if row is None else Contact(*row)


# --- delivery ------------------------------------------------------------------------------------------


def due(db: Database, channel: Channel, now_ms: int, limit: int) -> tuple[Delivery, ...]:
    rows = db.execute(
        f"{_DELIVERY} WHERE d.channel = ?1 AND d.state = 'waiting' AND d.next_ms <= ?2 AND d.notice_id ="  # noqa: S608
        " (SELECT min(e.notice_id) FROM deliveries e WHERE e.channel = ?1 AND e.account_id = d.account_id"
        " AND e.state = 'waiting') ORDER BY d.next_ms, d.notice_id LIMIT ?3",
        (channel, now_ms, limit),
    )
    return tuple(_delivery(row) for row in rows)


def delivered(db: Database, notice_id: int, channel: Channel, at_ms: int) -> None:
    db.execute(
        "UPDATE deliveries SET state = 'delivered', done_ms = ?, last = '' WHERE notice_id = ? AND channel = ?"
        " AND state = 'waiting'",
        (at_ms, notice_id, channel),
    )


def not_delivered(
    db: Database, notice_id: int, channel: Channel, at_ms: int, said: str, next_ms: int | None
) -> None:
    db.execute(
        "UPDATE deliveries SET attempts = attempts + 1, last = ?1, next_ms = coalesce(?2, next_ms),"
        " state = CASE WHEN ?2 IS NULL THEN 'dead' ELSE state END,"
        " done_ms = CASE WHEN ?2 IS NULL THEN ?3 END WHERE notice_id = ?4 AND channel = ?5 AND state = 'waiting'",
        (said[:LAST_MAX], next_ms, at_ms, notice_id, channel),
    )


def retry(db: Database, notice_id: int, at_ms: int) -> tuple[Delivery, ...]:
    found = one(db, notice_id)[1]
    if not any(each.state is DeliveryState.DEAD for each in found):
        states = ", ".join(f"{each.channel} {each.state}" for each in found) or "told in no way"
        raise ConstraintViolated(f"notice {notice_id} has no delivery that was given up ({states})")
    db.execute(
        "UPDATE deliveries SET state = 'waiting', done_ms = NULL, attempts = 0, next_ms = ?"
        " WHERE notice_id = ? AND state = 'dead'",
        (at_ms, notice_id),
    )
    return one(db, notice_id)[1]


def latest(
    db: Database,
    account_id: str | None,
    state: DeliveryState | None,
    after_id: int | None,
    limit: int,
) -> tuple[tuple[Notice, tuple[Delivery, ...]], ...]:
    rows = db.execute(
        f"SELECT {_NOTICE} FROM notices n WHERE (n.account_id = ?1 OR ?1 IS NULL) AND (n.id < ?3 OR ?3 IS NULL)"  # noqa: S608
        " AND (EXISTS (SELECT 1 FROM deliveries d WHERE d.notice_id = n.id AND d.state = ?2) OR ?2 IS NULL)"
        " ORDER BY n.id DESC LIMIT ?4",
        (account_id, state, after_id, limit),
    ).fetchall()
    return tuple((_notice(row), _deliveries(db, row["id"])) for row in rows)


def one(db: Database, notice_id: int) -> tuple[Notice, tuple[Delivery, ...]]:
    row = db.execute(f"SELECT {_NOTICE} FROM notices n WHERE n.id = ?", (notice_id,)).fetchone()  # noqa: S608
    if row is None:
        raise NotFound(f"no notice {notice_id}; `fairdial notice list` shows the latest")
    return _notice(row), _deliveries(db, notice_id)


def counts(db: Database) -> Mapping[tuple[Channel, DeliveryState], int]:
    rows = db.execute(
        "SELECT channel, state, count(*) AS n FROM deliveries WHERE state IN ('waiting', 'dead')"
        " GROUP BY channel, state"
    )
    return {(Channel(row["channel"]), DeliveryState(row["state"])): row["n"] for row in rows}


def _deliveries(db: Database, notice_id: int) -> tuple[Delivery, ...]:
    rows = db.execute(f"{_DELIVERY} WHERE d.notice_id = ? ORDER BY d.channel", (notice_id,))
    return tuple(_delivery(row) for row in rows)


def _notice(row: Row) -> Notice:
    clause = Clause(row["clause_policy"], row["clause_version"], row["clause_id"])
    return Notice(
        row["id"],
        row["account_id"],
        Topic(row["topic"]),
        row["reference"],
        row["at_ms"],
        row["line_id"],
        clause if clause.id else None,
        msgspec.json.decode(row["facts"]),
    )


def _delivery(row: Row) -> Delivery:
    return Delivery(
        _notice(row),
        Channel(row["channel"]),
        DeliveryState(row["state"]),
        row["attempts"],
        row["next_ms"],
        row["done_ms"],
        row["last"],
    )
