"""The JSON in which operations answer: one function for each thing that an operator can see.

Amounts of money are decimal texts, instants UTC milliseconds; what does not apply is null.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from typing import Any

from fairdial.ledger.contract import (
    AccountSheet,
    Case,
    CaseEntry,
    Charge,
    DecisionRecord,
    Difference,
    Token,
    Usage,
)
from fairdial.ledger.notice import Contact, Delivery, Notice
from fairdial.policy.account import Account, Agreement, Credit, Line, OwnNumber
from fairdial.policy.cards import RateCard
from fairdial.policy.numbers import Number
from fairdial.policy.rating import decimal_text
from fairdial.policy.requests import Request, RequestEntry

Json = dict[str, Any]


def flat_json(record: DecisionRecord | Difference) -> Json:
    """A record as it stands. Its values are plain, and lists of it are long: `asdict`, which copies each value, would
    hold up the loop for ten times as long.
    """
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def number_json(number: Number) -> Json:
    """A classified number."""
    return {
        "dialled": number.dialled,
        "e164": number.e164,
        "class": str(number.number_class),
        "country": number.country,
        "high_risk": number.high_risk,
        "source": number.source,
        "problem": number.problem,
    }


def account_json(account: Account) -> Json:
    """An account without its lines."""
    return {
        "account": account.id,
        "name": account.name,
        "policy": account.policy,
        "zone": account.zone,
        "standing": str(account.standing),
        "countries": sorted(account.options.countries),
        "until_ms": account.options.until_ms,
        "cycle_day": account.options.cycle_day,
        "plan": account.options.plan,
        "currency": account.options.currency,
        "estimate_s": account.options.estimate_s,
        "fraud": account.fraud,
        "restricted": sorted(account.restricted),
    }


def contact_json(contact: Contact) -> Json:
    """Where an account is told."""
    return {
        "account": contact.account_id,
        "language": contact.language,
        "email": contact.email or None,
        "line": contact.line_id or None,
    }


def notice_json(notice: Notice, deliveries: Sequence[Delivery]) -> Json:
    """A notice and what became of telling it."""
    return {
        "notice": notice.id,
        "account": notice.account_id,
        "topic": str(notice.topic),
        "at_ms": notice.at_ms,
        "line": notice.line_id or None,
        "clause": None if notice.clause is None else asdict(notice.clause),
        "facts": dict(notice.facts),
        "deliveries": [
            {
                "channel": str(each.channel),
                "state": str(each.state),
                "attempts": each.attempts,
                "next_ms": each.next_ms if each.done_ms is None else None,
                "done_ms": each.done_ms,
                "last": each.last,
            }
            for each in deliveries
        ],
    }


def case_json(case: Case) -> Json:
    """A case, without what was done about it."""
    return {
        "case": case.id,
        "account": case.account_id,
        "detector": case.detector,
        "clause": asdict(case.clause),
        "state": str(case.state),
        "shadow": case.shadow,
        "opened_ms": case.opened_ms,
        "seen_ms": case.seen_ms,
        "closed_ms": case.closed_ms,
        "value": case.value,
        "threshold": case.threshold,
        "hits": case.hits,
        "found": case.words,
        "calls": list(case.calls),
        "services": sorted(case.services),
        "step": case.step,
        "deadline_ms": case.deadline_ms,
    }


def case_entry_json(entry: CaseEntry) -> Json:
    """Something that was done about a case."""
    return {
        "at_ms": entry.at_ms,
        "what": entry.what,
        "by": entry.by,
        "enforced": entry.enforced,
        "rule": entry.rule,
        "clause": entry.clause_id,
        "services": sorted(entry.services),
        "note": entry.note,
    }


def token_json(token: Token) -> Json:
    """A token of the API, without what only its holder knows."""
    return {
        "name": token.name,
        "role": str(token.role),
        "created_ms": token.created_ms,
        "accounts": list(token.accounts),
    }


def credit_json(credit: Credit) -> Json:
    """Prepaid credit; amounts are decimal texts."""
    return {
        "currency": credit.currency,
        "balance": decimal_text(credit.balance_micros),
        "reserved": decimal_text(credit.reserved_micros),
        "free": decimal_text(credit.free_micros),
    }


def charge_json(charge: Charge) -> Json:
    """What a call cost, or a period of a minute plan: `call` is null then, and `request` the plan's."""
    return {
        "call": charge.call_id,
        "request": charge.request,
        "mode": str(charge.mode),
        "at_ms": charge.at_ms,
        "charged_units": charge.charged_units,
        "amount": decimal_text(charge.amount_micros),
        "currency": charge.currency,
        "rate": charge.rate,
        "clause": {"policy": charge.clause.policy, "version": charge.clause.version, "id": charge.clause.id},
    }


def card_json(card: RateCard) -> Json:
    """A rate card without its rows."""
    return {"card": card.name, "currency": card.currency, "rates": len(card), "version": card.version}


def line_json(line: Line) -> Json:
    """A line."""
    return {
        "line": line.id,
        "account": line.account_id,
        "standing": str(line.standing),
        "habit": asdict(line.habit),
    }


def own_number_json(number: OwnNumber) -> Json:
    """A number of an account; line: whose it is, None for the account as a whole."""
    return {"number": number.number, "account": number.account_id, "line": number.line_id}


def agreement_json(agreement: Agreement) -> Json:
    """An agreement; withdrawn_ms is null while it holds."""
    return {
        "account": agreement.account_id,
        "consent": str(agreement.consent),
        "agreed_by": agreement.agreed_by,
        "at_ms": agreement.at_ms,
        "note": agreement.note,
        "about": agreement.about,
        "recorded_by": agreement.recorded_by,
        "withdrawn_ms": agreement.withdrawn_ms,
        "withdrawn_by": agreement.withdrawn_by,
    }


def request_json(request: Request, unit: str) -> Json:
    """A request for a higher limit, or a minute plan. unit: "s", "messages" or "" for a number of something."""
    asked = request.asked
    plan = asked.plan
    return {
        "request": request.id,
        "account": asked.account_id,
        "kind": str(asked.kind),
        "state": str(request.state),
        "policy": asked.policy,
        "rule": asked.rule,
        "limit": asked.limit or None,
        "adds": asked.more or None,
        "unit": unit,
        "plan": None if plan is None else plan.name,
        "price": None if plan is None else decimal_text(plan.price_micros),
        "currency": None if plan is None else plan.currency,
        "period": None if plan is None else str(plan.period),
        "why": asked.why,
        "asked_by": asked.by,
        "asked_ms": asked.at_ms,
        "asked_until_ms": asked.until_ms,
        "clause": asdict(asked.clause),
        "changed_ms": request.changed_ms,
        "from_ms": request.from_ms,
        "until_ms": request.until_ms,
    }


def request_entry_json(entry: RequestEntry) -> Json:
    """Something that was done about a request."""
    return asdict(entry)


def usage_json(usage: Usage, unit: str, requests: Sequence[int] = ()) -> Json:
    """What was used of one allowance in one window; unit: "s" or "messages". left_units None: no limit.

    requests: those by which the limit is higher than the policy's own, which is `policy_units` then.
    """
    meter = usage.meter
    return {
        "allowance": meter.allowance,
        "start_ms": meter.window.start_ms,
        "end_ms": meter.window.end_ms,
        "limit_units": meter.limit_units,
        "used_units": meter.used_units,
        "reserved_units": meter.reserved_units,
        "left_units": meter.room_units,
        "over_units": meter.over_units,
        "unit": unit,
        "calls": usage.calls,
        "policy_units": meter.limit_units if meter.raised is None else meter.raised.base_units,
        "requests": list(requests),
    }


def sheet_json(
    sheet: AccountSheet,
    in_messages: Collection[str] = (),
    as_now: Callable[[Usage], tuple[Usage, Sequence[int]]] = lambda usage: (usage, ()),
) -> Json:
    """An account with all that it holds. in_messages: the allowances that count messages, not seconds; as_now: a use
    with the limit that holds now, and the requests behind it.
    """
    shown = [as_now(usage) for usage in sheet.usage]
    return account_json(sheet.account) | {
        "lines": [line_json(line) for line in sheet.lines],
        "numbers": [own_number_json(number) for number in sheet.numbers],
        "agreements": [agreement_json(agreement) for agreement in sheet.agreements],
        "usage": [
            usage_json(usage, "messages" if usage.meter.rule in in_messages else "s", requests)
            for usage, requests in shown
        ],
        "credit": None if sheet.credit is None else credit_json(sheet.credit),
        "charges": [charge_json(charge) for charge in sheet.charges],
    }
