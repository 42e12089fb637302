"""What a call costs: the terms that are fixed when it is authorised, and its bill when it is over.

A call keeps the terms it started with, whatever is published or loaded while it is up. Leaves to
`rating.py` how seconds become money, to `decide.py` when which terms apply.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from fairdial.policy.cards import Rate
from fairdial.policy.document import Charges, Policy
from fairdial.policy.rating import Increment, Tariff, charge_micros, overage_charge_micros, parse_micros

DEFAULT_CURRENCY = "EUR"


class Mode(StrEnum):
    """How a call is paid."""

    OVERAGE = "overage"
    CREDIT = "credit"


@dataclass(frozen=True, slots=True)
class Clause:
    """Where a rule comes from. `policy` is "fairdial" for rules that hold under every policy."""

    policy: str
    version: str
    id: str


@dataclass(frozen=True, slots=True)
class Terms:
    """The price of a call. rate: which row of which card, or which key of the policy, it comes from."""

    mode: Mode
    currency: str
    tariff: Tariff
    rate: str
    clause: Clause


def overage_terms(policy: Policy) -> Terms | None:
    """What use past an allowance costs on this policy; None where it names no price (R3, V2)."""
    charges = policy.charges
    if charges is None or charges.overage_per_min is None:
        return None
    tariff = Tariff(
        rate_per_min_micros=parse_micros(charges.overage_per_min),
        connect_fee_micros=parse_micros(charges.connect_fee or "0"),
        increment=Increment.parse(charges.increment),
        minimum_micros=parse_micros(charges.minimum or "0"),
    )
    clause = Clause(policy.name, policy.version, charges.clause_for("overage_per_min"))
    return Terms(Mode.OVERAGE, _currency(charges), tariff, "charges.overage_per_min", clause)


def credit_terms(policy: Policy, clause_id: str, currency: str, rate: Rate) -> Terms:
    """What a call to a destination costs that is paid from credit (K4)."""
    clause = Clause(policy.name, policy.version, clause_id)
    return Terms(Mode.CREDIT, currency, rate.tariff, rate.label, clause)


def seconds_past(stretches: Iterable[tuple[int, int]]) -> tuple[int, bool]:
    """The seconds of a call that lie past one allowance or several, and whether its first is not among them.

    stretches: [from, until) in seconds of the talk, of any allowance; a second past two of them counts once.
    """
    past_s = until_s = 0
    began_included = True
    for first_s, end_s in sorted(stretches):
        began_included = began_included and first_s > 0
        past_s += max(0, end_s - max(first_s, until_s))
        until_s = max(until_s, end_s)
    return past_s, began_included


def overage_micros(terms: Terms, used_s: int, over_s: int, *, began_included: bool) -> int:
    """The bill of a call of `used_s` seconds, `over_s` of them past the allowance. 0 where none is."""
    if over_s == 0:
        return 0
    return overage_charge_micros(terms.tariff, over_s, used_s=used_s, began_included=began_included)


def credit_micros(terms: Terms, used_s: int) -> int:
    """The bill of a call that is paid from credit. 0 if it was never answered."""
    return charge_micros(terms.tariff, used_s)


def _currency(charges: Charges) -> str:
    return charges.currency or DEFAULT_CURRENCY
