"""Who calls in a simulation: accounts with small allowances, on a limit, on overage, on credit; their policies."""

import sqlite3
from dataclasses import dataclass
from functools import cache

from fairdial.ledger import provisioning
from fairdial.ledger.contract import Payment
from fairdial.policy.account import Account, Line
from fairdial.policy.book import PolicyBook
from fairdial.policy.document import Policy
from fairdial.policy.numbers import Numbering
from fairdial.policy.prefixes import PrefixTable
from tests.charges import CARD, LONDON, PARIS, UNIT, priced_plan
from tests.samples import NOON_MS
from tests.simulation.store import image_of

NUMBERING = Numbering(PrefixTable.parse("prefix,class,country,risk,note,source,date\n"))
CARDS = {CARD.name: CARD}

LIMITS_S = (60, 150, 300, 600)
PAID_MICROS = 3 * UNIT
"""Prepaid by each account: 290 seconds to London at its tariff, after the fee of one call."""
CALLS_AT_ONCE = 3

_CAP = f'[caps]\nsimultaneous_calls = {{ limit = {CALLS_AT_ONCE}, clause = "C8" }}'


@dataclass(frozen=True, slots=True)
class Customer:
    """An account with two lines. numbers: what it dials."""

    account: str
    policy: Policy
    lines: tuple[str, ...]
    numbers: tuple[str, ...]


def _customers() -> dict[str, Customer]:
    found = {}
    for limit_s in LIMITS_S:
        for kind, used_up, period, longest_s in (
            ("limit", "refuse", "month", 200),
            # One without an end of its own: its calls can fall into the windows of a whole day.
            ("hourly", "refuse", "hour", None if limit_s == 150 else 300),
            ("overage", "overage", "hour", 240),
            ("credit", "credit", "month", 240),
        ):
            name = f"{kind}{limit_s}"
            plan = priced_plan(
                limit_s,
                used_up,
                name=name,
                period=period,
                countries='["GB"]',
                longest_s=longest_s,
                more=_CAP if kind in ("limit", "credit") else "",
            )
            numbers = (LONDON, LONDON, PARIS) if kind == "credit" else (LONDON,)
            found[name] = Customer(name, plan, (f"{name}-a", f"{name}-b"), numbers)
    return found


CUSTOMERS = _customers()
BOOK = PolicyBook(customer.policy for customer in CUSTOMERS.values())


@cache
def image() -> bytes:
    """A ledger with all customers, before their first call."""

    def fill(db: sqlite3.Connection) -> None:
        for customer in CUSTOMERS.values():
            provisioning.add_account(db, Account(customer.account, customer.policy.name))
            for line in customer.lines:
                provisioning.add_line(db, Line(line, customer.account), None)
            payment = Payment(customer.account, "EUR", PAID_MICROS, "payment-1")
            provisioning.credit_after(db, payment, NOON_MS)

    return image_of(fill)
