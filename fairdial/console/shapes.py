"""The JSON in which operations answer: one function for each thing that an operator can see.

Amounts of money are decimal texts, instants UTC milliseconds; what does not apply is null.
"""

from collections.abc import Collection, Sequence
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
    return {"name": token.name, "role": str(token.role), "created_ms": token.created_ms}


def credit_json(credit: Credit) -> Json:
    """Prepaid credit; amounts are decimal texts."""
    return {
        "currency": credit.currency,
        "balance": decimal_text(credit.balance_micros),
        "reserved": decimal_text(credit.reserved_micros),
        "free": decimal_text(credit.free_micros),
    }


def charge_json(charge: Charge) -> Json:
    """What a call cost."""
    return {
        "call": charge.call_id,
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
    """An agreement that holds."""
    return {
        "account": agreement.account_id,
        "consent": str(agreement.consent),
        "agreed_by": agreement.agreed_by,
        "at_ms": agreement.at_ms,
        "note": agreement.note,
    }


def usage_json(usage: Usage, unit: str) -> Json:
    """What was used of one allowance in one window; unit: "s" or "messages". left_units None: no limit."""
    meter = usage.meter
    left_units = meter.limit_units
    if left_units is not None:
        left_units -= meter.used_units + meter.reserved_units
    return {
        "allowance": meter.allowance,
        "start_ms": meter.window.start_ms,
        "end_ms": meter.window.end_ms,
        "limit_units": meter.limit_units,
        "used_units": meter.used_units,
        "reserved_units": meter.reserved_units,
        "left_units": left_units,
        "over_units": meter.over_units,
        "unit": unit,
        "calls": usage.calls,
    }


def sheet_json(sheet: AccountSheet, in_messages: Collection[str] = ()) -> Json:
    """An account with all that it holds. in_messages: the allowances that count messages, not seconds."""
    return account_json(sheet.account) | {
        "lines": [line_json(line) for line in sheet.lines],
        "numbers": [own_number_json(number) for number in sheet.numbers],
        "agreements": [agreement_json(agreement) for agreement in sheet.agreements],
        "usage": [
            usage_json(usage, "messages" if usage.meter.rule in in_messages else "s") for usage in sheet.usage
        ],
        "credit": None if sheet.credit is None else credit_json(sheet.credit),
        "charges": [charge_json(charge) for charge in sheet.charges],
    }
