"""What a replay found: one `Outcome` a call, and what they add up to by account, clause, reason and hour.

Sums alone are kept, so memory grows with the number of accounts and not with that of calls. Leaves to others where the
outcomes come from (`engine`) and how they are shown (`report`, `written`).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from fairdial.ledger.contract import Charge
from fairdial.policy.account import Kind
from fairdial.policy.terms import Clause

Decided = Literal["allow", "refuse", "undecided"]

HOUR_MS: Final = 3_600_000
HOURS_MAX: Final = 20_000
"""More than two years; records that claim to be of any other hour are in the other sums alone."""
EXAMPLES_MAX: Final = 200
"""Calls that differ between two policies and are told of one by one."""
STRANGERS_MAX: Final = 1_000
"""Account codes and endpoints that belong to no line and are counted one by one."""


class Outcome(msgspec.Struct, frozen=True):
    """What would have become of one call. number: of the call, in the order in which they began.

    talk_s: recorded; metered_s: what the ledger would have counted; cut: the clause at whose end it would have been
    cut, None where it was not. charges: one for each way of paying.
    """

    number: int
    call_id: str
    at_ms: int
    account_id: str | None
    line_id: str
    kind: Kind
    dialled: str
    decision: Decided
    reason: str
    clause: Clause
    talk_s: int
    metered_s: int = 0
    cut: Clause | None = None
    charges: tuple[Charge, ...] = ()

    @property
    def owed(self) -> Mapping[str, int]:
        """What it would have cost, in micros by currency."""
        owed: dict[str, int] = {}
        for charge in self.charges:
            owed[charge.currency] = owed.get(charge.currency, 0) + charge.amount_micros
        return owed


@dataclass(frozen=True, slots=True)
class Flag:
    """Suspected abuse that a detector would have seen. value, threshold: in the detector's own measure.

    step: what the policy does about it. calls: the evidence, by their ids.
    """

    account_id: str
    detector: str
    clause: Clause
    at_ms: int
    value: float
    threshold: float
    step: str
    calls: tuple[str, ...]


@dataclass(slots=True)
class Totals:
    """Sums over calls; seconds, and micros by currency."""

    calls: int = 0
    allowed: int = 0
    refused: int = 0
    undecided: int = 0
    cut: int = 0
    talk_s: int = 0
    metered_s: int = 0
    charges: dict[str, int] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """One more call."""
        self.calls += 1
        self.count_decision(outcome)
        self.cut += outcome.cut is not None
        self.talk_s += outcome.talk_s
        self.metered_s += outcome.metered_s
        for charge in outcome.charges:
            self.owe(charge)

    def count_decision(self, outcome: Outcome) -> None:
        """Its decision alone."""
        if outcome.decision == "allow":
            self.allowed += 1
        elif outcome.decision == "refuse":
            self.refused += 1
        else:
            self.undecided += 1

    def owe(self, charge: Charge) -> None:
        """One more charge."""
        if charge.amount_micros:
            self.charges[charge.currency] = self.charges.get(charge.currency, 0) + charge.amount_micros


NOBODY: Final = ""
"""The account of calls that need none, such as emergency calls."""


@dataclass(slots=True)
class Tally:
    """All sums of a replay.

    by_clause: what was decided on a clause, what was cut at it and what was charged by it, each at its own. by_hour:
    by the start of the hour, UTC milliseconds.
    """

    overall: Totals = field(default_factory=Totals)
    by_account: dict[str, Totals] = field(default_factory=dict)
    by_clause: dict[Clause, Totals] = field(default_factory=dict)
    by_reason: dict[str, Totals] = field(default_factory=dict)
    by_hour: dict[int, Totals] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """One more call."""
        self.overall.add(outcome)
        self.by_account.setdefault(outcome.account_id or NOBODY, Totals()).add(outcome)
        self.by_reason.setdefault(outcome.reason, Totals()).add(outcome)
        hour_ms = outcome.at_ms // HOUR_MS * HOUR_MS
        if hour_ms in self.by_hour or len(self.by_hour) < HOURS_MAX:
            self.by_hour.setdefault(hour_ms, Totals()).add(outcome)
        decided = self.by_clause.setdefault(outcome.clause, Totals())
        decided.calls += 1
        decided.count_decision(outcome)
        decided.talk_s += outcome.talk_s
        decided.metered_s += outcome.metered_s
        if outcome.cut is not None:
            self.by_clause.setdefault(outcome.cut, Totals()).cut += 1
        for charge in outcome.charges:
            self.by_clause.setdefault(charge.clause, Totals()).owe(charge)

    @property
    def found(self) -> bool:
        """Whether anything would have been refused or cut, or could not be decided."""
        overall = self.overall
        return bool(overall.refused or overall.undecided or overall.cut)


def in_order(clauses: Mapping[Clause, Totals]) -> Iterator[tuple[Clause, Totals]]:
    """Clauses by policy, version and id, "K2" before "K10"."""

    def key(clause: Clause) -> tuple[str, str, str, int, str]:
        letters = clause.id.rstrip("0123456789")
        digits = clause.id[len(letters) :]
        return clause.policy, clause.version, letters, int(digits or 0), clause.id

    return ((clause, clauses[clause]) for clause in sorted(clauses, key=key))


@dataclass(frozen=True, slots=True)
class Difference:
    """One call of which two policies think differently."""

    first: Outcome
    second: Outcome


@dataclass(slots=True)
class Differences:
    """How a second policy differs. by_account, by_clause: calls whose decision, cut or charge is another one; by
    clause: of the first's and of the second's decision on them. examples: the first EXAMPLES_MAX.
    """

    calls: int = 0
    decisions: int = 0
    cuts: int = 0
    charges: int = 0
    by_account: dict[str, int] = field(default_factory=dict)
    by_clause: dict[tuple[Clause, Clause], int] = field(default_factory=dict)
    examples: list[Difference] = field(default_factory=list)

    def compare(self, first: Outcome, second: Outcome) -> None:
        """The same call under both."""
        decision = first.decision != second.decision
        cut = (first.cut is None, first.metered_s) != (second.cut is None, second.metered_s) and not decision
        charge = first.owed != second.owed
        if not (decision or cut or charge):
            return
        self.calls += 1
        self.decisions += decision
        self.cuts += cut
        self.charges += charge
        account = first.account_id or second.account_id or NOBODY
        self.by_account[account] = self.by_account.get(account, 0) + 1
        pair = (first.cut or first.clause, second.cut or second.clause)
        self.by_clause[pair] = self.by_clause.get(pair, 0) + 1
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append(Difference(first, second))


@dataclass(slots=True)
class Strangers:
    """Calls that belong to no known line, by what they name: the account code, or else the channel's endpoint."""

    calls: int = 0
    by_name: dict[str, int] = field(default_factory=dict)

    def add(self, name: str) -> None:
        """One more."""
        self.calls += 1
        if name in self.by_name or len(self.by_name) < STRANGERS_MAX:
            self.by_name[name] = self.by_name.get(name, 0) + 1

    def most(self, count: int) -> Iterable[tuple[str, int]]:
        """Those with the most calls."""
        return sorted(self.by_name.items(), key=lambda named: (-named[1], named[0]))[:count]
