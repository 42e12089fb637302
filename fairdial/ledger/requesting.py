"""Requests for higher limits and minute plans on SQLite: asked, ruled, over, and what plans cost (R4, R5).

What each step promises stands at the method of its name in contract.py. Every change of a request ends in `_enter`, in
the same transaction, which tells the customer of it. `_keep_raises` writes what follows for
the account, where each dial reads it.
"""

from collections.abc import Iterable

import msgspec

from fairdial.ledger import notices, reading
from fairdial.ledger.contract import AlreadyExists, Charge, NotFound, NotNow, PlanDue, Rule, TooMany
from fairdial.ledger.database import Database, Of, Row, alone, lock
from fairdial.policy.account import Account, Standing
from fairdial.policy.periods import MS_PER_S, Period
from fairdial.policy.raises import Raise
from fairdial.policy.requests import (
    MOVES,
    OPEN_MAX,
    RAISES_MAX,
    Asked,
    PlanTerms,
    Request,
    RequestEntry,
    RequestKind,
    RequestState,
    Ruling,
    plan_window,
)
from fairdial.policy.terms import Clause

BY_ITSELF = "fairdial"

RAISES_KEPT_MS = 62 * 86_400 * MS_PER_S
"""How long a raise that is over stays with its account: a replay of two months' records sees the limits of then."""
RAISES_KEPT_MAX = 3 * RAISES_MAX


def ask(db: Database, asked: Asked) -> Request:
    lock(db, Of.ACCOUNT, asked.account_id)
    reading.need_account(db, asked.account_id)
    earlier = None if asked.key is None else _by_key(db, asked.account_id, asked.key)
    if earlier is not None:
        if _wanted(earlier.asked) != _wanted(asked):
            raise AlreadyExists(f"key {asked.key!r} was used for another request; choose another one")
        return earlier
    if asked.kind is RequestKind.LIMIT:
        _need_room(db, asked.account_id, RequestState.OPEN, OPEN_MAX)
    return _opened(db, asked)


def _wanted(asked: Asked) -> tuple[object, ...]:
    return asked.kind, asked.policy, asked.rule, asked.limit, asked.more, asked.until_ms


def _by_key(db: Database, account_id: str, key: str) -> Request | None:
    row = db.execute("SELECT * FROM requests WHERE account_id = ? AND key = ?", (account_id, key)).fetchone()
    return None if row is None else to_request(row)


def _need_room(db: Database, account_id: str, state: RequestState, most: int) -> None:
    [count] = db.execute(
        "SELECT count(*) FROM requests WHERE account_id = ? AND state = ? AND kind = 'limit'",
        (account_id, state),
    ).fetchone()
    if count >= most:
        raise TooMany(f"account {account_id!r} has {count} requests that are {state}, which is the most")


def _opened(db: Database, asked: Asked) -> Request:
    plan, from_ms = asked.plan, asked.approved_from_ms
    state = RequestState.OPEN if from_ms is None else RequestState.APPROVED
    row = db.execute(
        "INSERT INTO requests (account_id, kind, state, policy, rule, limit_units, more_units, why, asked_by, asked_ms,"
        " asked_until_ms, key, clause_policy, clause_version, clause_id, plan, price_micros, currency, period,"
        " changed_ms, from_ms, charged_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " RETURNING id",
        (
            *(asked.account_id, asked.kind, state, asked.policy, asked.rule, asked.limit, asked.more),
            *(asked.why, asked.by, asked.at_ms, asked.until_ms, asked.key),
            *(asked.clause.policy, asked.clause.version, asked.clause.id),
            *((None,) * 4 if plan is None else (plan.name, plan.price_micros, plan.currency, plan.period)),
            *(asked.at_ms, from_ms, from_ms),
        ),
    ).fetchone()
    request = need(db, row["id"])
    what = "asked" if asked.kind is RequestKind.LIMIT else "proposed"
    _enter(db, request, asked.at_ms, what if from_ms is None else "added", asked.by, asked.why)
    if from_ms is not None:
        _keep_raises(db, asked.account_id, asked.at_ms)
    return request


def rule(db: Database, request_id: int, rule: Rule) -> Request:
    lock(db, Of.REQUEST, request_id)
    request = need(db, request_id)
    return _ruled(db, request, rule(request, reading.need_account(db, request.asked.account_id)))


def _ruled(db: Database, request: Request, ruling: Ruling) -> Request:
    if ruling.state not in MOVES.get(request.state, frozenset()):
        raise NotNow(
            f"request {request.id} is {request.state} and cannot be {ruling.state};"
            " `fairdial request list` shows those that are open"
        )
    from_ms, until_ms, charged_ms = request.from_ms, request.until_ms, None
    if ruling.state is RequestState.APPROVED:
        _need_room(db, request.asked.account_id, RequestState.APPROVED, RAISES_MAX)
        from_ms, until_ms = ruling.from_ms, ruling.until_ms
        charged_ms = from_ms if request.asked.plan is not None else None
    elif ruling.state is RequestState.REVOKED and from_ms is not None:
        # One that has not begun has no time at all.
        until_ms = max(from_ms, ruling.at_ms if ruling.until_ms is None else ruling.until_ms)
    if ruling.state is not RequestState.APPROVED and until_ms is not None:
        charged_ms = _still_to_charge(db, request, until_ms)
    db.execute(
        "UPDATE requests SET state = ?, changed_ms = ?, from_ms = ?, until_ms = ?, charged_ms = ? WHERE id = ?",
        (ruling.state, ruling.at_ms, from_ms, until_ms, charged_ms, request.id),
    )
    request = need(db, request.id)
    _enter(db, request, ruling.at_ms, str(ruling.state), ruling.by, ruling.note)
    _keep_raises(db, request.asked.account_id, ruling.at_ms)
    return request


def _still_to_charge(db: Database, request: Request, until_ms: int) -> int | None:
    """Periods that began before its end are owed, also where they are not charged yet."""
    row = db.execute("SELECT charged_ms FROM requests WHERE id = ?", (request.id,)).fetchone()
    charged_ms: int | None = row["charged_ms"]
    return charged_ms if charged_ms is not None and charged_ms < until_ms else None


def over(db: Database, now_ms: int, limit: int) -> tuple[int, ...]:
    """Requests that `end` would end."""
    rows = db.execute(
        "SELECT id FROM requests WHERE state = 'approved' AND until_ms <= ?1"
        " UNION SELECT id FROM requests WHERE state = 'open' AND asked_until_ms <= ?1"
        " UNION SELECT r.id FROM requests r JOIN accounts a ON a.id = r.account_id"
        "   WHERE r.state = 'approved' AND (a.standing = 'terminated' OR a.policy <> r.policy)"
        " ORDER BY 1 LIMIT ?2",
        (now_ms, limit),
    )
    return tuple(row["id"] for row in rows)


def end(db: Database, ids: Iterable[int], now_ms: int) -> tuple[Request, ...]:
    alone(db)
    ended = []
    for request_id in ids:
        lock(db, Of.REQUEST, request_id)
        request = need(db, request_id)
        account = reading.need_account(db, request.asked.account_id)
        ruling = _ending(request, account, now_ms)
        # Somebody else may have been faster.
        if ruling is not None and ruling.state in MOVES.get(request.state, frozenset()):
            ended.append(_ruled(db, request, ruling))
    return tuple(ended)


def _ending(request: Request, account: Account, now_ms: int) -> Ruling | None:
    until_ms = request.asked.until_ms if request.state is RequestState.OPEN else request.until_ms
    if until_ms is not None and until_ms <= now_ms:
        return Ruling(RequestState.EXPIRED, BY_ITSELF, now_ms, "its time is over")
    if account.standing is Standing.TERMINATED:
        return Ruling(RequestState.REVOKED, BY_ITSELF, now_ms, "the account is terminated")
    if account.policy != request.asked.policy:
        return Ruling(RequestState.REVOKED, BY_ITSELF, now_ms, f"the account is on policy {account.policy}")
    return None


def plans_due(
    db: Database, now_ms: int, due: PlanDue, windows_max: int, limit: int
) -> tuple[int, tuple[Request, ...]]:
    alone(db)
    rows = db.execute(
        "SELECT * FROM meters WHERE over_units > 0 AND judged = 0 AND end_ms <= ?"
        " ORDER BY end_ms, account_id, allowance LIMIT ?",
        (now_ms, limit),
    ).fetchall()
    followed = []
    for row in rows:
        lock(db, Of.ACCOUNT, row["account_id"])
        account = reading.need_account(db, row["account_id"])
        asked = _due(db, account, row, due, windows_max)
        if asked is not None:
            followed.append(ask(db, asked))
        db.execute(
            "UPDATE meters SET judged = 1 WHERE account_id = ? AND allowance = ? AND start_ms = ? AND end_ms = ?",
            (row["account_id"], row["allowance"], row["start_ms"], row["end_ms"]),
        )
    return len(rows), tuple(followed)


def _due(db: Database, account: Account, row: Row, due: PlanDue, windows_max: int) -> Asked | None:
    before = db.execute(
        "SELECT coalesce(max(asked_ms), 0) AS since_ms,"
        " max(CASE WHEN state = 'open' OR (state = 'approved' AND (until_ms > ?3 OR until_ms IS NULL))"
        "   THEN 1 ELSE 0 END) AS held"
        " FROM requests WHERE account_id = ?1 AND kind = 'plan' AND rule = ?2",
        (account.id, f"allowances.{row['allowance']}", row["end_ms"]),
    ).fetchone()
    if before["held"] or account.standing is Standing.TERMINATED:
        return None
    earlier = db.execute(
        "SELECT * FROM meters WHERE account_id = ? AND allowance = ? AND start_ms < ?"
        " ORDER BY start_ms DESC LIMIT ?",
        (account.id, row["allowance"], row["start_ms"], windows_max),
    )
    return due(account, reading.to_meter(row), [reading.to_meter(one) for one in earlier], before["since_ms"])


def charge_plans(db: Database, now_ms: int, limit: int) -> tuple[int, tuple[Charge, ...]]:
    alone(db)
    rows = db.execute(
        "SELECT id, charged_ms FROM requests WHERE charged_ms <= ? ORDER BY charged_ms, id LIMIT ?",
        (now_ms, limit),
    ).fetchall()
    charged = (_charge(db, row["id"], now_ms) for row in rows)
    return len(rows), tuple(charge for charge in charged if charge is not None)


def _charge(db: Database, request_id: int, now_ms: int) -> Charge | None:
    lock(db, Of.REQUEST, request_id)
    row = db.execute(
        "SELECT * FROM requests WHERE id = ? AND charged_ms <= ?", (request_id, now_ms)
    ).fetchone()
    if row is None:
        # It was revoked meanwhile.
        return None
    account = reading.need_account(db, row["account_id"])
    start_ms = row["charged_ms"]
    window = plan_window(account, Period(row["period"]), start_ms)
    ended = row["until_ms"] is not None and row["until_ms"] <= start_ms
    on_it = account.standing is not Standing.TERMINATED and account.policy == row["policy"]
    next_ms = window.end_ms if on_it and not ended else None
    db.execute("UPDATE requests SET charged_ms = ? WHERE id = ?", (next_ms, row["id"]))
    # Where the account's billing day was changed, what lies between two periods is no period, and costs nothing.
    if next_ms is None or window.start_ms != start_ms:
        return None
    db.execute(
        "INSERT INTO plan_charges (request_id, start_ms, end_ms, account_id, at_ms, added_units, amount_micros,"
        " currency) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(row["id"], window.start_ms, window.end_ms, account.id, now_ms),
            *(row["more_units"], row["price_micros"], row["currency"]),
        ),
    )
    [charge] = reading.plan_charges_where(
        db, "c.request_id = ? AND c.start_ms = ?", (row["id"], window.start_ms)
    )
    return charge


def latest(
    db: Database,
    account_id: str | None,
    state: RequestState | None,
    limit: int,
    after_id: int | None = None,
) -> tuple[Request, ...]:
    rows = db.execute(
        "SELECT * FROM requests WHERE (account_id = ?1 OR ?1 IS NULL) AND (state = ?2 OR ?2 IS NULL)"
        " AND (id < ?4 OR ?4 IS NULL) ORDER BY id DESC LIMIT ?3",
        (account_id, state, limit, after_id),
    )
    return tuple(to_request(row) for row in rows)


def with_entries(db: Database, request_id: int) -> tuple[Request, tuple[RequestEntry, ...]]:
    rows = db.execute("SELECT * FROM request_entries WHERE request_id = ? ORDER BY n", (request_id,))
    return need(db, request_id), tuple(
        RequestEntry(row["at_ms"], row["what"], row["by"], row["note"]) for row in rows
    )


def need(db: Database, request_id: int) -> Request:
    row = db.execute("SELECT * FROM requests WHERE id = ?", (request_id,)).fetchone()
    if row is None:
        raise NotFound(f"no request {request_id}; `fairdial request list` shows all")
    return to_request(row)


def to_request(row: Row) -> Request:
    plan = None
    if row["plan"] is not None:
        plan = PlanTerms(row["plan"], row["price_micros"], row["currency"], Period(row["period"]))
    asked = Asked(
        row["account_id"],
        RequestKind(row["kind"]),
        row["policy"],
        row["rule"],
        Clause(row["clause_policy"], row["clause_version"], row["clause_id"]),
        row["why"],
        row["asked_by"],
        row["asked_ms"],
        row["limit_units"],
        row["more_units"],
        row["asked_until_ms"],
        plan,
        row["key"],
    )
    return Request(
        row["id"], asked, RequestState(row["state"]), row["changed_ms"], row["from_ms"], row["until_ms"]
    )


def _keep_raises(db: Database, account_id: str, now_ms: int) -> None:
    """Write what is, was lately or will be higher for the account, those that still hold before those that are over."""
    rows = db.execute(
        "SELECT * FROM requests WHERE account_id = ?1 AND from_ms IS NOT NULL AND (until_ms IS NULL OR until_ms > ?2)"
        " ORDER BY CASE WHEN until_ms <= ?3 THEN 1 ELSE 0 END, until_ms DESC NULLS LAST, id LIMIT ?4",
        (account_id, now_ms - RAISES_KEPT_MS, now_ms, RAISES_KEPT_MAX),
    )
    found = (to_request(row).raises for row in rows)
    raises: tuple[Raise, ...] = tuple(one for one in found if one is not None)
    db.execute(
        "UPDATE accounts SET raises = ? WHERE id = ?", (msgspec.json.encode(raises).decode(), account_id)
    )


def _enter(db: Database, request: Request, at_ms: int, what: str, by: str, note: str) -> None:
    """Write down what was done: "asked", "proposed", "added" or the state that it has got, and tell the customer."""
    db.execute(
        "INSERT INTO request_entries (request_id, n, at_ms, what, by, note)"
        " SELECT ?1, coalesce(max(n), 0) + 1, ?2, ?3, ?4, ?5 FROM request_entries WHERE request_id = ?1",
        (request.id, at_ms, what, by, note),
    )
    notices.of_request(db, request, what, at_ms, note)
