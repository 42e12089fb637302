"""The policies in policies/, and dials on them as `decide` sees them: nothing of a ledger or a switch.

Each test of a clause says which use, credit and moment it means; what it leaves out is an account in good standing
on a line that shows no number, at noon, with nothing used.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from fairdial.policy.account import (
    Account,
    Consent,
    Credit,
    Dial,
    Encrypted,
    Identity,
    Kind,
    Line,
    Options,
    Snapshot,
    Standing,
)
from fairdial.policy.cards import RateCard
from fairdial.policy.decide import Allow, Decision, decide, meters_at
from fairdial.policy.document import Policy
from fairdial.policy.explain import Looked, explain
from fairdial.policy.numbers import Number
from fairdial.policy.outcomes import Reason
from fairdial.policy.prefixes import NumberClass
from tests.clauses import shipped_policies
from tests.samples import NOON_MS, RULES

POLICIES = shipped_policies()

GB_AND_DE = Options(frozenset({"GB", "DE"}))
MOBILE = Number("07400123456", "+447400123456", NumberClass.MOBILE, "GB")
EITHER = Number("0012125550123", "+12125550123", NumberClass.GEOGRAPHIC_OR_MOBILE, "US")
BERLIN = Number("00493012345678", "+493012345678", NumberClass.GEOGRAPHIC, "DE")
PARIS = Number("0033142685300", "+33142685300", NumberClass.GEOGRAPHIC, "FR")
PREMIUM = Number("09098790000", "+449098790000", NumberClass.PREMIUM_RATE, "GB")
COLLEAGUE = Number("101", None, NumberClass.INTERNAL, None)

CARD = RateCard.parse(
    "prefix,destination,rate_per_min,connect_fee,increment,minimum,effective\n"
    "+44,United Kingdom,0.02,0.05,60/60,,2026-01-01\n"
    "+4490,United Kingdom premium,1.50,0.05,60/60,,2026-01-01\n"
    "+33,France,0.02,0.05,60/60,,2026-01-01\n"
    "+1,North America,0.02,0.05,60/60,,2026-01-01\n",
    "kryptotel",
    "EUR",
)
"""Two cents a begun minute after five cents to connect."""


def eur(micros: int) -> Credit:
    """Prepaid credit of which nothing is reserved."""
    return Credit("EUR", micros)


def ms(text: str) -> int:
    """Milliseconds of an instant with its zone."""
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def number_of_class(number_class: NumberClass) -> Number:
    """A number in Great Britain of any class."""
    return Number("0800", "+44800", number_class, "GB")


@dataclass(frozen=True)
class Dialled:
    """A dial on a policy with what was decided."""

    policy: Policy
    number: Number
    dial: Dial
    snapshot: Snapshot
    decision: Decision

    @property
    def told(self) -> tuple[bool, Reason, str]:
        """Whether it is allowed, the reason, and policy and clause behind it."""
        clause = self.decision.clause
        return isinstance(self.decision, Allow), self.decision.reason, f"{clause.policy} {clause.id}"

    @property
    def allow(self) -> Allow:
        """The decision, which must be an allowance."""
        assert isinstance(self.decision, Allow), self.decision
        return self.decision

    @property
    def explained(self) -> tuple[Looked, ...]:
        """The rules that were looked at."""
        return explain(self.dial, self.number, self.snapshot, self.policy, self.decision)


def dialled(
    policy: Policy,
    number: Number,
    kind: Kind = Kind.OUTBOUND,
    *,
    used: Mapping[str, int] | None = None,
    at_ms: int = NOON_MS,
    zone: str = "UTC",
    options: Options = GB_AND_DE,
    standing: Standing = Standing.ACTIVE,
    fraud: bool = False,
    restricted: frozenset[Kind] = frozenset(),
    credit: Credit | None = None,
    live_calls: int = 0,
    live_inbound: int = 0,
    agreed: frozenset[Consent] = frozenset(),
    caller: str = "",
    identity: Identity | None = None,
    encrypted: Encrypted | None = None,
) -> Dialled:
    """A dial and its decision. used: units of each allowance by its name, in the window of `at_ms`."""
    account = Account(
        "acme", policy.name, zone, standing=standing, options=options, fraud=fraud, restricted=restricted
    )
    dial = Dial("call-1", kind, number.dialled, "alice", "PJSIP/alice-1", at_ms, 60, caller, "", encrypted)
    meters = tuple(
        replace(meter, used_units=(used or {}).get(meter.rule, 0))
        if meter.window.start_ms <= at_ms
        else meter
        for meter in meters_at(account, policy, dial, number.number_class)
    )
    snapshot = Snapshot(
        Line("alice", "acme"), account, meters, credit, live_calls, live_inbound, agreed, identity
    )
    decision = decide(dial, number, snapshot, policy, RULES, {CARD.name: CARD})
    return Dialled(policy, number, dial, snapshot, decision)
