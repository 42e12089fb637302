"""Tallies: how often things happened and how long they took, counted where they happen, in plain memory.

An increment is a look-up in a small dictionary: it costs the call nothing worth mentioning and does no I/O. Who keeps a
tally owns it; who shows tallies reads them when asked (`console/metrics.py`). Nothing here knows of Prometheus.
Labels are words of a closed list, never an account, a number or a line; where a list is an operator's own (detectors),
the bound holds: past it new words are counted together.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

Labels = tuple[str, ...]
"""The values of a tally's labels, in the order of their names."""

LABELS_MAX: Final = 1_000
"""Combinations of labels that one tally tells apart."""
OTHER: Final = "other"
"""Stands for each label of what came past that."""

QUICK_S: Final = (0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Bounds for what a caller waits for: the budget is 3 ms on average and 10 ms at the 99th percentile."""
LATE_S: Final = (0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 1_800.0, 7_200.0)
"""Bounds for what is caught up with when the store or the switch is back."""


class Tally:
    """How often something happened, by its labels. known: combinations that are told from the start, as 0."""

    def __init__(self, known: Iterable[Labels] = (), *, labels_max: int = LABELS_MAX) -> None:
        self._counts: dict[Labels, int] = dict.fromkeys(known, 0)
        self._labels_max = labels_max

    def add(self, *labels: str) -> None:
        """It happened once more."""
        labels = _bounded(labels, self._counts, self._labels_max)
        self._counts[labels] = self._counts.get(labels, 0) + 1

    def of(self, *labels: str) -> int:
        """How often it happened with these labels."""
        return self._counts.get(labels, 0)

    @property
    def counts(self) -> Mapping[Labels, int]:
        """By labels."""
        return self._counts


class Spread:
    """How long something took, by its labels: a count for each range of seconds, and their sum.

    bounds_s: upper bounds of the ranges, rising; what is longer is in the last range, without a bound.
    """

    def __init__(
        self,
        bounds_s: tuple[float, ...] = QUICK_S,
        known: Iterable[Labels] = (),
        *,
        labels_max: int = LABELS_MAX,
    ) -> None:
        if list(bounds_s) != sorted(set(bounds_s)):
            raise ValueError(f"bounds must rise: {bounds_s}")
        self.bounds_s = bounds_s
        self._labels_max = labels_max
        self._ranges: dict[Labels, list[int]] = {labels: self._none() for labels in known}
        self._sums_s: dict[Labels, float] = dict.fromkeys(self._ranges, 0.0)

    def add(self, took_s: float, *labels: str) -> None:
        """It took so long. Less than nothing, where clocks were set meanwhile, counts as nothing."""
        labels = _bounded(labels, self._ranges, self._labels_max)
        ranges = self._ranges.get(labels)
        if ranges is None:
            ranges = self._ranges[labels] = self._none()
            self._sums_s[labels] = 0.0
        took_s = max(0.0, took_s)
        ranges[bisect_left(self.bounds_s, took_s)] += 1
        self._sums_s[labels] += took_s

    def of(self, *labels: str) -> int:
        """How often it happened with these labels."""
        return sum(self._ranges.get(labels, ()))

    def __iter__(self) -> Iterator[tuple[Labels, tuple[int, ...], float]]:
        """Labels, the count of each range (one more than there are bounds), and the sum in seconds."""
        for labels, ranges in self._ranges.items():
            yield labels, tuple(ranges), self._sums_s[labels]

    def _none(self) -> list[int]:
        return [0] * (len(self.bounds_s) + 1)


def _bounded(labels: Labels, kept: Mapping[Labels, object], labels_max: int) -> Labels:
    if labels in kept or len(kept) < labels_max:
        return labels
    return (OTHER,) * len(labels)
