"""What a call costs: the terms that are fixed when it is authorised, and its bill when it is over.

A call keeps the terms it started with, whatever is published or loaded while it is up. Leaves to
`rating.py` how seconds become money, to `decide.py` when which terms apply.
"""

from collections.abc import Iterable, Set
from dataclasses import dataclass, replace
from enum import StrEnum

from fairdial.policy.account import Consent
from fairdial.policy.cards import Rate
from fairdial.policy.document import ChargeKey, Charges, Policy
from fairdial.policy.rating import Tariff, charge_micros, overage_charge_micros

DEFAULT_CURRENCY = "EUR"


class Mode(StrEnum):
    """How use is paid. SURCHARGE comes on top of what is included or overage (S5); PLAN is for no call, but for each
    period in which a minute plan is held (R4).
    """

    OVERAGE = "overage"
    CREDIT = "credit"
    SURCHARGE = "surcharge"
    PLAN = "plan"


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


def overage_terms(policy: Policy, currency: str | None = None) -> Terms | None:
    """What use past an allowance costs on this policy; None where it names no price (R3, V2).

    currency: the account's, for a policy that names none.
    """
    charges = policy.charges
    if charges is None or charges.overage_tariff is None:
        return None
    return _terms(policy, charges, Mode.OVERAGE, "overage_per_min", charges.overage_tariff, currency)


def message_terms(policy: Policy, currency: str | None = None) -> Terms | None:
    """What a message past an allowance costs; None where the policy names no price (V2)."""
    charges = policy.charges
    if charges is None or charges.message_tariff is None:
        return None
    return _terms(policy, charges, Mode.OVERAGE, "overage_per_message", charges.message_tariff, currency)


def surcharge_terms(policy: Policy, currency: str | None, agreed: Set[Consent]) -> Terms | None:
    """What each minute costs besides, where that was agreed if it needs to be; None where nothing (S5)."""
    charges = policy.charges
    if charges is None or charges.surcharge_tariff is None:
        return None
    if charges.surcharge_needs_agreement and Consent.SURCHARGE not in agreed:
        return None
    return _terms(policy, charges, Mode.SURCHARGE, "surcharge_per_min", charges.surcharge_tariff, currency)


def _terms(
    policy: Policy, charges: Charges, mode: Mode, key: ChargeKey, tariff: Tariff, currency: str | None
) -> Terms:
    clause = Clause(policy.name, policy.version, charges.clause_for(key))
    return Terms(mode, charges.currency or currency or DEFAULT_CURRENCY, tariff, f"charges.{key}", clause)


def credit_terms(
    policy: Policy, clause_id: str, currency: str, rate: Rate, surcharge: Terms | None = None
) -> Terms:
    """What a call to a destination costs that is paid from credit (K4), a surcharge included."""
    clause = Clause(policy.name, policy.version, clause_id)
    tariff = rate.tariff
    if surcharge is not None:
        # One bill from one credit: what is reserved must pay for both.
        tariff = replace(tariff, surcharge_per_min_micros=surcharge.tariff.rate_per_min_micros)
    return Terms(Mode.CREDIT, currency, tariff, rate.label, clause)


@dataclass(frozen=True, slots=True)
class Past:
    """What of a call lies past its allowances. stretches: [from, until) in seconds of the talk, of any allowance.
    weight: how often each of its seconds is charged.
    """

    stretches: tuple[tuple[int, int], ...] = ()
    weight: int = 1


def bill(terms: Terms, used_s: int, past: Past) -> tuple[int, int]:
    """What a call of `used_s` seconds (a message: 1) costs by these terms: units charged, and micros."""
    if terms.mode is Mode.OVERAGE:
        charged_s, began_included = seconds_past(past.stretches)
        # A callback is two legs, and each is billed.
        amount_micros = overage_micros(terms, used_s, charged_s, began_included=began_included)
        return past.weight * charged_s, past.weight * amount_micros
    return used_s, whole_micros(terms, used_s)


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


def whole_micros(terms: Terms, used_s: int) -> int:
    """The bill of a call whose every second is charged: credit, surcharge. 0 if it was never answered."""
    return charge_micros(terms.tariff, used_s)
