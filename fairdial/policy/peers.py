"""An account against the others on its plan, and against what it declared (S2).

Taken for all accounts at once, now and then, from what each used of one allowance in its running month: a call costs
nothing for it. The middle of the others is their median, their spread the median distance from it (MAD), so that one
account, however large, moves neither. Among fewer accounts than the detector's `cohort` nobody is compared.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from fairdial.policy.document import Detector, Policy
from fairdial.policy.patterns import Hit, hit_of, reaches

COHORT_MIN: Final = 30
"""Accounts on a plan below which nobody is compared, where the detector sets nothing."""
SPREADS: Final = 3.0
"""An account stands out only if it is so many spreads above the middle: where all differ much, many times the middle is
nothing unusual."""
NORMAL: Final = 1.4826
"""The spread of normally distributed values, as a multiple of their median distance from the middle."""


@dataclass(frozen=True, slots=True)
class Use:
    """What an account used of an allowance in its running month: units of a line in the mean, where each line has its
    own. estimate_units: what it declared, None where it did not.
    """

    account_id: str
    units: float
    estimate_units: float | None = None


@dataclass(frozen=True, slots=True)
class Cohort:
    """The accounts on a plan that used anything."""

    size: int
    median: float
    spread: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Cohort":
        """Of at least one value."""
        middle = float(median(values))
        return cls(len(values), middle, NORMAL * float(median(abs(value - middle) for value in values)))

    def stands_out(self, value: float) -> bool:
        """Whether a value lies outside of what is usual here."""
        return value > self.median + SPREADS * self.spread


def cohort_of(detector: Detector, values: Sequence[float]) -> Cohort | None:
    """The accounts on a plan, by what each used; None: too few have used anything to compare."""
    active = [value for value in values if value > 0]
    return Cohort.of(active) if len(active) >= (detector.cohort or COHORT_MIN) else None


def above_cohort(
    policy: Policy, detector: Detector, cohort: Cohort, uses: Iterable[Use], now_ms: int
) -> tuple[Hit, ...]:
    """Those of the accounts whose use reaches `threshold` times the median of all on the plan."""
    hits = []
    for use in uses:
        times = use.units / cohort.median
        if reaches(detector, times) and cohort.stands_out(use.units):
            words = f"{times:.1f} times the median of {cohort.size} accounts"
            hits.append(hit_of(use.account_id, policy, detector, now_ms, times, (), words))
    return tuple(hits)


def above_estimate(policy: Policy, detector: Detector, uses: Iterable[Use], now_ms: int) -> tuple[Hit, ...]:
    """Those of the accounts whose use reaches `threshold` times what they declared."""
    hits = []
    for use in uses:
        if use.estimate_units:
            times = use.units / use.estimate_units
            if reaches(detector, times):
                words = f"{times:.1f} times the declared estimate"
                hits.append(hit_of(use.account_id, policy, detector, now_ms, times, (), words))
    return tuple(hits)
