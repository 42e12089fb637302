"""Cases of suspected abuse on SQLite: opened, fed, answered and judged, the ladder's steps in the same transaction.

What each step promises stands at the method of its name in contract.py.
"""

from collections.abc import Iterable, Sequence

import msgspec

from fairdial.ledger import notices, provisioning, reading
from fairdial.ledger.contract import (
    FLAG,
    Block,
    Case,
    CaseChange,
    CaseEntry,
    CaseState,
    Finding,
    NotFound,
    NotOpen,
    Past,
)
from fairdial.ledger.database import Database, Of, Row, lock
from fairdial.policy.account import Kind, Standing
from fairdial.policy.document import Step
from fairdial.policy.history import Answer, Attempt, End, Event
from fairdial.policy.ladder import Taken, is_harder, rung_for
from fairdial.policy.patterns import GROWN
from fairdial.policy.peers import Use
from fairdial.policy.periods import MS_PER_S
from fairdial.policy.prefixes import NumberClass
from fairdial.policy.terms import Clause

_BARS = {Step.SUSPEND: Standing.SUSPENDED, Step.TERMINATE: Standing.TERMINATED}
_HARDER = tuple(Standing)
_REMEMBERED_MS = 30 * 86_400 * MS_PER_S
"""How long a judgement about a period as a whole holds."""


def report(db: Database, finding: Finding) -> CaseChange | None:
    lock(db, Of.ACCOUNT, finding.account_id)
    reading.need_account(db, finding.account_id)
    key = (finding.account_id, finding.detector)
    row = db.execute(
        "SELECT * FROM cases WHERE account_id = ? AND detector = ? AND state = 'open'", key
    ).fetchone()
    if row is not None:
        return CaseChange(_fed(db, to_case(row), finding), new=False)
    judged = db.execute(
        "SELECT * FROM cases WHERE account_id = ? AND detector = ? ORDER BY closed_ms DESC LIMIT 1", key
    ).fetchone()
    if judged is not None and _is_old_news(judged, finding):
        return None
    case = _opened(db, finding)
    taken = _steps(db, case, finding)
    for step in taken:
        _take(db, case.id, step, finding.at_ms, finding.by)
    return CaseChange(need_case(db, case.id), new=True, taken=taken)


def _is_old_news(judged: Row, finding: Finding) -> bool:
    if finding.at_ms <= judged["closed_ms"]:
        return True
    recent = finding.at_ms - judged["closed_ms"] < _REMEMBERED_MS
    return finding.cumulative and recent and finding.value < GROWN * judged["value"]


def _fed(db: Database, case: Case, finding: Finding) -> Case:
    if finding.at_ms <= case.seen_ms:
        return case
    words = finding.words if finding.detector != FLAG else f"{case.words}; {finding.words}"
    db.execute(
        "UPDATE cases SET seen_ms = ?, value = ?, hits = hits + 1, words = ?, calls = ? WHERE id = ?",
        (finding.at_ms, finding.value, words[-WORDS_MAX:], _json(finding.calls), case.id),
    )
    return need_case(db, case.id)


def _opened(db: Database, finding: Finding) -> Case:
    clause = finding.clause
    row = db.execute(
        "INSERT INTO cases (account_id, detector, clause_policy, clause_version, clause_id, state, shadow, opened_ms,"
        " seen_ms, value, threshold, hits, words, calls, services, step, cumulative)"
        " VALUES (?, ?, ?, ?, ?, 'open', ?, ?, ?, ?, ?, 1, ?, ?, ?, '', ?) RETURNING id",
        (
            *(finding.account_id, finding.detector, clause.policy, clause.version, clause.id),
            *(int(finding.shadow), finding.at_ms, finding.at_ms, finding.value, finding.threshold),
            *(finding.words[-WORDS_MAX:], _json(finding.calls), reading.from_services(finding.services)),
            int(finding.cumulative),
        ),
    ).fetchone()
    case = need_case(db, row["id"])
    _enter(db, case.id, finding.at_ms, "opened", finding.by, clause_id=clause.id, note=finding.words)
    return case


def _steps(db: Database, case: Case, finding: Finding) -> tuple[Taken, ...]:
    first = () if finding.first is None else (finding.first,)
    if finding.shadow:
        return first
    rows = db.execute(
        "SELECT opened_ms FROM cases WHERE account_id = ? AND state = 'open' AND shadow = 0",
        (finding.account_id,),
    )
    rung = rung_for(finding.rungs, [row["opened_ms"] for row in rows], finding.services, finding.at_ms)
    reached = "" if finding.first is None else finding.first.step
    return first if rung is None or not is_harder(rung.step, reached) else (*first, rung)


def _take(db: Database, case_id: int, taken: Taken, at_ms: int, by: str) -> None:
    case = need_case(db, case_id)
    account = reading.need_account(db, case.account_id)
    before = str(account.standing)
    if taken.step is Step.RESTRICT:
        before = reading.from_services(account.restricted)
        if taken.enforced:
            provisioning.restrict(db, account.id, taken.services, at_ms, False, told=False)
    elif taken.step in _BARS and taken.enforced:
        standing = _BARS[taken.step]
        # Never back from a harder one.
        if _HARDER.index(standing) >= _HARDER.index(account.standing):
            provisioning.set_standing(db, account.id, standing, at_ms, taken.fraud, told=False)
    db.execute(
        "UPDATE cases SET step = ?, deadline_ms = ? WHERE id = ?", (taken.step, taken.deadline_ms, case_id)
    )
    _enter(db, case_id, at_ms, str(taken.step), by, taken=taken, before=before)
    notices.of_step(db, case_id, account.id, taken, at_ms, case.clause, case.words)


def follow_up(db: Database, case_id: int, taken: Taken | None, at_ms: int) -> CaseChange:
    case = _need_open(db, case_id)
    if case.deadline_ms is None or case.deadline_ms > at_ms:
        return CaseChange(case, new=False)
    _enter(db, case_id, at_ms, "deadline passed", BY_ITSELF)
    db.execute("UPDATE cases SET deadline_ms = NULL WHERE id = ?", (case_id,))
    if taken is not None:
        _take(db, case_id, taken, at_ms, BY_ITSELF)
    return CaseChange(need_case(db, case_id), new=False, taken=() if taken is None else (taken,))


def close(db: Database, case_id: int, at_ms: int, by: str, note: str, dismissed: bool, undo: bool) -> Case:
    case = _need_open(db, case_id)
    state = CaseState.DISMISSED if dismissed else CaseState.CLOSED
    db.execute(
        "UPDATE cases SET state = ?, closed_ms = max(?, seen_ms), deadline_ms = NULL WHERE id = ?",
        (state, at_ms, case_id),
    )
    _enter(db, case_id, at_ms, str(state), by, clause_id=case.clause.id, note=note)
    if undo:
        _undo(db, case, at_ms, by)
    return need_case(db, case_id)


def _undo(db: Database, case: Case, at_ms: int, by: str) -> None:
    """The latest step first, so that the account is again what it was before the first."""
    rows = db.execute(
        "SELECT * FROM case_entries WHERE case_id = ? AND enforced = 1 ORDER BY n DESC", (case.id,)
    ).fetchall()
    wanted, standing = _wanted_by_others(db, case)
    for row in rows:
        account = reading.need_account(db, case.account_id)
        if row["what"] == Step.RESTRICT:
            took = reading.to_services(row["services"]) - reading.to_services(row["before"]) - wanted
            provisioning.restrict(db, account.id, took, at_ms, True)
            _enter(db, case.id, at_ms, "undone", by, services=took, note=f"restriction {row['rule']}")
        elif row["what"] in _BARS and account.standing == _BARS[Step(row["what"])]:
            back = max(Standing(row["before"]), standing, key=_HARDER.index)
            provisioning.set_standing(db, account.id, back, at_ms, False)
            _enter(db, case.id, at_ms, "undone", by, note=f"account is {back} again")


def _wanted_by_others(db: Database, case: Case) -> tuple[frozenset[Kind], Standing]:
    """What other open cases have taken from the account, and what it is for them."""
    rows = db.execute(
        "SELECT e.what, e.services FROM case_entries e JOIN cases c ON c.id = e.case_id"
        " WHERE c.account_id = ? AND c.state = 'open' AND c.id <> ? AND e.enforced = 1",
        (case.account_id, case.id),
    ).fetchall()
    services = [reading.to_services(row["services"]) for row in rows if row["what"] == Step.RESTRICT]
    standings = [_BARS[Step(row["what"])] for row in rows if row["what"] in _BARS]
    return frozenset[Kind]().union(*services), max(standings, key=_HARDER.index, default=Standing.ACTIVE)


def set_deadline(db: Database, case_id: int, deadline_ms: int, at_ms: int, by: str) -> Case:
    _need_open(db, case_id)
    db.execute("UPDATE cases SET deadline_ms = ? WHERE id = ?", (deadline_ms, case_id))
    _enter(db, case_id, at_ms, "deadline set", by)
    return need_case(db, case_id)


def latest(
    db: Database,
    account_id: str | None,
    state: CaseState | None,
    limit: int,
    after: int | None = None,
) -> tuple[Case, ...]:
    last = None if after is None else need_case(db, after, account_id)
    rows = db.execute(
        "SELECT * FROM cases WHERE (account_id = ?1 OR ?1 IS NULL) AND (state = ?2 OR ?2 IS NULL)"
        " AND ((opened_ms, id) < (?4, ?5) OR ?4 IS NULL)"
        " ORDER BY opened_ms DESC, id DESC LIMIT ?3",
        (account_id, state, limit, None if last is None else last.opened_ms, after),
    )
    return tuple(to_case(row) for row in rows)


def with_entries(db: Database, case_id: int) -> tuple[Case, tuple[CaseEntry, ...]]:
    rows = db.execute("SELECT * FROM case_entries WHERE case_id = ? ORDER BY n", (case_id,))
    return need_case(db, case_id), tuple(
        CaseEntry(
            row["at_ms"],
            row["what"],
            row["by"],
            bool(row["enforced"]),
            row["rule"],
            row["clause_id"],
            reading.to_services(row["services"]),
            row["note"],
        )
        for row in rows
    )


def overdue(db: Database, now_ms: int, limit: int) -> tuple[Case, ...]:
    rows = db.execute(
        "SELECT * FROM cases WHERE state = 'open' AND deadline_ms <= ? ORDER BY deadline_ms, id LIMIT ?",
        (now_ms, limit),
    )
    return tuple(to_case(row) for row in rows)


def judged(db: Database, since_ms: int) -> tuple[tuple[str, str, int], ...]:
    rows = db.execute(
        "SELECT account_id, detector, closed_ms FROM cases WHERE state <> 'open' AND closed_ms >= ? ORDER BY closed_ms",
        (since_ms,),
    )
    return tuple((row["account_id"], row["detector"], row["closed_ms"]) for row in rows)


def complain(db: Database, account_id: str, at_ms: int, by: str, note: str, since_ms: int) -> int:
    reading.need_account(db, account_id)
    db.execute(
        "INSERT INTO complaints (account_id, at_ms, by, note) VALUES (?, ?, ?, ?)",
        (account_id, at_ms, by, note),
    )
    [count] = db.execute(
        "SELECT count(*) FROM complaints WHERE account_id = ? AND at_ms > ?", (account_id, since_ms)
    ).fetchone()
    return int(count)


def dialled_since(db: Database, count: int) -> int:
    row = db.execute(
        "SELECT at_ms FROM decisions ORDER BY at_ms DESC LIMIT 1 OFFSET ?", (count - 1,)
    ).fetchone()
    return 0 if row is None else int(row["at_ms"])


_DIALS = (
    "SELECT d.*, g.state, g.answered_ms, g.ended_ms, g.used_s,"
    " (SELECT sum(c.amount_micros) FROM charges c WHERE c.call_id = d.call_id) AS cost_micros, m.text"
    " FROM decisions d LEFT JOIN grants g USING (call_id) LEFT JOIN messages m USING (call_id)"
    " WHERE d.account_id IS NOT NULL AND "
)


def past(db: Database, since_ms: int, after: tuple[int, str] | None, limit: int) -> Past:
    after_ms, after_id = after or (since_ms - 1, "\U0010ffff")
    rows = db.execute(
        f"{_DIALS} (d.at_ms, d.call_id) > (?, ?) ORDER BY d.at_ms, d.call_id LIMIT ?",
        (after_ms, after_id, limit),
    ).fetchall()
    last = (rows[-1]["at_ms"], rows[-1]["call_id"]) if len(rows) == limit else None
    return _past(db, rows, last)


def happened(db: Database, after_ms: int, until_ms: int) -> Past:
    rows = db.execute(
        f"{_DIALS} d.call_id IN (SELECT call_id FROM decisions WHERE at_ms > ?1 AND at_ms <= ?2"  # noqa: S608
        " UNION SELECT call_id FROM grants WHERE state <> 'settled' AND answered_ms > ?1 AND answered_ms <= ?2"
        " UNION SELECT call_id FROM grants WHERE state = 'settled' AND ended_ms > ?1 AND ended_ms <= ?2)"
        " ORDER BY d.at_ms, d.call_id",
        (after_ms, until_ms),
    ).fetchall()
    return _past(db, rows, None)


def what_became(db: Database, call_ids: Sequence[str]) -> Past:
    places = ", ".join("?" for _ in call_ids)
    rows = db.execute(f"{_DIALS} d.call_id IN ({places}) ORDER BY d.at_ms, d.call_id", call_ids).fetchall()
    return _past(db, rows, None)


def _past(db: Database, rows: Sequence[Row], last: tuple[int, str] | None) -> Past:
    accounts = {row["account_id"] for row in rows}
    return Past(
        tuple(tuple(_events(row)) for row in rows),
        {account_id: reading.need_account(db, account_id) for account_id in accounts},
        last,
    )


def _events(row: Row) -> Iterable[Event]:
    call_id, account_id = row["call_id"], row["account_id"]
    yield Attempt(
        call_id,
        row["at_ms"],
        account_id,
        row["line_id"],
        Kind(row["kind"]),
        row["e164"] or row["dialled"],
        row["caller"],
        row["country"],
        NumberClass(row["number_class"]),
        row["state"] is not None,
        bool(row["video"]),
        row["codec"],
        row["text"] or "",
    )
    if row["answered_ms"] is not None:
        yield Answer(call_id, row["answered_ms"], account_id)
    if row["ended_ms"] is not None:
        yield End(call_id, row["ended_ms"], account_id, row["used_s"], row["cost_micros"] or 0)


def uses(db: Database, policy: str, allowance: str, now_ms: int, after: str, limit: int) -> tuple[Use, ...]:
    rows = db.execute(
        "SELECT a.id, a.options, sum(m.used_units) * 1.0 / count(*) AS units"
        " FROM accounts a JOIN meters m ON m.account_id = a.id"
        " WHERE a.id > ? AND a.policy = ? AND a.standing <> 'terminated' AND m.start_ms <= ? AND m.end_ms > ?"
        " AND (m.allowance = ? OR m.allowance LIKE ? ESCAPE '\\') GROUP BY a.id ORDER BY a.id LIMIT ?",
        (after, policy, now_ms, now_ms, allowance, f"{_literal(allowance)}/%", limit),
    )
    return tuple(Use(row["id"], row["units"], reading.to_options(row["options"]).estimate_s) for row in rows)


def _literal(text: str) -> str:
    """Of LIKE."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def block(db: Database, block: Block) -> None:
    db.execute("DELETE FROM blocks WHERE until_ms <= ?", (block.since_ms,))
    db.execute(
        "INSERT INTO blocks (source, since_ms, until_ms, why) VALUES (?, ?, ?, ?) ON CONFLICT (source) DO UPDATE SET"
        " until_ms = max(blocks.until_ms, excluded.until_ms), why = excluded.why",
        (block.source, block.since_ms, block.until_ms, block.why),
    )


def unblock(db: Database, source: str) -> None:
    if db.execute("DELETE FROM blocks WHERE source = ? RETURNING source", (source,)).fetchone() is None:
        raise NotFound(f"source {source!r} is not blocked; `fairdial block list` shows those that are")


def blocks(db: Database, now_ms: int) -> tuple[Block, ...]:
    rows = db.execute(
        "SELECT source, since_ms, until_ms, why FROM blocks WHERE until_ms > ? ORDER BY until_ms", (now_ms,)
    )
    return tuple(Block(*row) for row in rows)


def need_case(db: Database, case_id: int, account_id: str | None = None) -> Case:
    """account_id: it must be of that account, where one is given."""
    row = db.execute("SELECT * FROM cases WHERE id = ?", (case_id,)).fetchone()
    if row is None or account_id not in (None, row["account_id"]):
        raise NotFound(f"no case {case_id}; `fairdial case list` shows all")
    return to_case(row)


def _need_open(db: Database, case_id: int) -> Case:
    """For a step that changes it."""
    lock(db, Of.CASE, case_id)
    case = need_case(db, case_id)
    if case.state is not CaseState.OPEN:
        raise NotOpen(f"case {case_id} is {case.state}; `fairdial case list` shows those that are open")
    return case


def to_case(row: Row) -> Case:
    return Case(
        row["id"],
        row["account_id"],
        row["detector"],
        Clause(row["clause_policy"], row["clause_version"], row["clause_id"]),
        CaseState(row["state"]),
        bool(row["shadow"]),
        row["opened_ms"],
        row["seen_ms"],
        row["closed_ms"],
        row["value"],
        row["threshold"],
        row["hits"],
        row["words"],
        tuple(msgspec.json.decode(row["calls"], type=list[str])),
        reading.to_services(row["services"]),
        row["step"],
        row["deadline_ms"],
    )


def _enter(
    db: Database,
    case_id: int,
    at_ms: int,
    what: str,
    by: str,
    *,
    taken: Taken | None = None,
    clause_id: str = "",
    services: frozenset[Kind] = frozenset(),
    before: str = "",
    note: str = "",
) -> None:
    """Write down what was done. taken: the step that it was."""
    if taken is not None:
        clause_id, services = taken.clause_id, taken.services
        note = "for fraud" if taken.fraud else ""
    db.execute(
        "INSERT INTO case_entries (case_id, n, at_ms, what, by, enforced, rule, clause_id, services, before, note)"
        " SELECT ?1, coalesce(max(n), 0) + 1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10 FROM case_entries WHERE case_id = ?1",
        (
            *(case_id, at_ms, what, by, int(taken is not None and taken.enforced)),
            *("" if taken is None else taken.rule, clause_id, reading.from_services(services), before),
            note[-WORDS_MAX:],
        ),
    )


def _json(calls: Sequence[str]) -> str:
    return msgspec.json.encode(calls).decode()


BY_ITSELF = "fairdial"
WORDS_MAX = 2_000
"""Characters that are kept of what is said of a case."""
