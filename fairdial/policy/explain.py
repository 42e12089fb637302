"""Why a decision is what it is: each rule that was looked at, with the facts that it saw.

Asks the very checks that `decide.py` asks, in its order, so the two cannot part. Words for people and for
`check --explain`; nothing is decided here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from fairdial.policy.account import Account, Dial, MeterWindow, Snapshot
from fairdial.policy.decide import (
    ALWAYS,
    CHECKS,
    COVERAGE,
    Allow,
    Check,
    Decision,
    Question,
    Refuse,
    first_refusal,
    is_emergency,
    pays_outside,
)
from fairdial.policy.document import Allowance, Pay, Policy
from fairdial.policy.numbers import Number
from fairdial.policy.outcomes import Reason
from fairdial.policy.rating import format_micros
from fairdial.policy.terms import Clause, Mode


@dataclass(frozen=True, slots=True)
class Looked:
    """One rule that was looked at. rule: its key in the policy file. result: what came of it."""

    rule: str
    clause: str
    saw: str
    result: str


def explain(
    dial: Dial, number: Number, snapshot: Snapshot, policy: Policy | None, decision: Decision
) -> tuple[Looked, ...]:
    """The rules that led to `decision`, in the order in which they were asked; the last one is the outcome."""
    return (*_looked(dial, number, snapshot, policy, decision), _outcome(decision))


def _looked(
    dial: Dial, number: Number, snapshot: Snapshot, policy: Policy | None, decision: Decision
) -> Iterator[Looked]:
    emergency = is_emergency(dial.kind, number)
    saw = f"{dial.kind}, {number.dialled} is {number.number_class}"
    yield Looked("emergency", ALWAYS.id, saw, "goes through" if emergency else "is none")
    if emergency:
        return
    account, line = snapshot.account, snapshot.line
    if account is None or line is None:
        yield Looked("line", ALWAYS.id, f"line {dial.line_id} is unknown", "refuses")
        return
    yield Looked("line", ALWAYS.id, f"line {line.id} of account {account.id}", "known")
    if policy is None:
        yield Looked("policy", ALWAYS.id, f"policy {account.policy} is not loaded", "no decision")
        return
    yield Looked("policy", policy.changes_clause or "", f"{policy.name} {policy.version}", "in force")
    yield from _raises(account, policy, dial)
    question = Question(dial, number, line, account, snapshot, policy)
    yield from _checked(CHECKS, question)
    if first_refusal(CHECKS, question) is not None:
        return
    yield from _checked(COVERAGE, question)
    if first_refusal(COVERAGE, question) is not None:
        if pays_outside(question):
            yield from _credit(question, decision)
            yield from _longest(question)
        return
    for meter in snapshot.meters:
        yield _meter(question, meter)
    if _by_credit(decision):
        yield from _credit(question, decision)
    yield from _prices(decision)
    yield from _longest(question)


def _raises(account: Account, policy: Policy, dial: Dial) -> Iterator[Looked]:
    for one in account.raises:
        if one.policy == policy.name and one.holds_at(dial.at_ms):
            by = f"by {one.more}" if one.more else f"to {one.limit}"
            until = "without end" if one.until_ms is None else f"until {_utc(one.until_ms)}"
            yield Looked(f"request {one.request}", one.clause, f"raises {one.rule} {by}", until)


def _checked(checks: tuple[Check, ...], question: Question) -> Iterator[Looked]:
    for check in checks:
        clause = check.clause(question)
        if clause is None:
            continue
        reason = check.refuses(question)
        result = "passes" if reason is None else f"refuses: {reason}"
        yield Looked(check.name, clause.id, check.saw(question), result)
        if reason is not None:
            return


def _meter(question: Question, meter: MeterWindow) -> Looked:
    [rule] = (rule for rule in question.policy.allowances if rule.name == meter.rule)
    unit = "s" if rule.measures_talk else "messages"
    start, end = _utc(meter.window.start_ms), _utc(meter.window.end_ms)
    limit = "no limit" if meter.limit_units is None else f"limit {meter.limit_units} {unit}"
    if meter.raised is not None:
        numbers = ", ".join(str(one.request) for one in meter.raised.by)
        limit += f" by request {numbers} instead of {meter.raised.base_units}"
    counts = "" if meter.weight == 1 else f", each second counts {meter.weight} times"
    saw = (
        f"{limit}, used {meter.used_units}, reserved {meter.reserved_units}, past it {meter.over_units}{counts};"
        f" {start} to {end}"
    )
    clause = rule.clause_for(question.dial.kind)
    return Looked(f"allowances.{meter.allowance}", clause, saw, _room(meter, rule, unit))


def _utc(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="minutes")


def _room(meter: MeterWindow, rule: Allowance, unit: str) -> str:
    room_units = meter.room_units
    if room_units is None:
        return "only counts"
    if room_units >= meter.weight:
        return f"has room for {room_units} {unit}"
    return {
        Pay.OVERAGE: "used up: charged past it",
        Pay.CREDIT: "used up: credit pays",
        Pay.REFUSE: "has no room",
    }[rule.used_up]


def _by_credit(decision: Decision) -> bool:
    if isinstance(decision, Refuse):
        return decision.reason in (Reason.NO_RATE, Reason.CREDIT_TOO_LOW)
    return isinstance(decision, Allow) and any(terms.mode is Mode.CREDIT for terms in decision.terms)


def _credit(question: Question, decision: Decision) -> Iterator[Looked]:
    credit = question.snapshot.credit
    have = "no credit" if credit is None else f"{format_micros(credit.free_micros, credit.currency)} free"
    clause = decision.clause.id
    if isinstance(decision, Refuse):
        yield Looked("credit", clause, have, f"refuses: {decision.reason}")
        return
    for terms in decision.terms:
        per_min = format_micros(terms.tariff.rate_per_min_micros, terms.currency)
        fee = format_micros(terms.tariff.connect_fee_micros, terms.currency)
        saw = f"{have}; {terms.rate}: {per_min} a minute, {fee} to connect, {terms.tariff.increment}"
        yield Looked("credit", clause, saw, f"pays for {decision.granted_s} s")


def _prices(decision: Decision) -> Iterator[Looked]:
    """What is charged beside an allowance: overage, and a surcharge on each minute."""
    for terms in decision.terms if isinstance(decision, Allow) else ():
        if terms.mode is Mode.CREDIT:
            continue
        per_min = format_micros(terms.tariff.rate_per_min_micros, terms.currency)
        result = "on every minute" if terms.mode is Mode.SURCHARGE else "past the allowance"
        yield Looked(terms.rate, terms.clause.id, f"{per_min} a minute, {terms.tariff.increment}", result)


def _longest(question: Question) -> Iterator[Looked]:
    longest_s = question.policy.longest_call_s(question.dial.kind)
    if longest_s is not None:
        clause = question.policy.longest_call_clause(question.dial.kind)
        yield Looked("longest_call", clause, f"{question.dial.kind}: {longest_s} s", f"at most {longest_s} s")


def _outcome(decision: Decision) -> Looked:
    clause: Clause = decision.clause
    if isinstance(decision, Refuse):
        return Looked("decision", clause.id, str(decision.reason), "refused")
    granted = "no end is held" if decision.granted_s is None else f"{decision.granted_s} s granted"
    notes = [granted, *([decision.flag] if decision.flag else [])]
    if decision.caller is not None:
        notes.append(f"shows {decision.caller}")
    return Looked("decision", clause.id, str(decision.reason), f"allowed: {', '.join(notes)}")
