"""The detectors of one account: they are fed with its calls, and say when a pattern is there (K7 to K11, S6, S7, V7).

Pure and incremental; bounded by what each measure keeps (`measures.py`), by LIVE_MAX calls in progress and by
EVIDENCE_MAX calls as evidence. A pattern that lasts is told again only once it has grown, or has lasted a while.
Leaves to `ladder.py` what follows, and to the ledger that a case is open already.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from zoneinfo import ZoneInfo

from fairdial.policy.account import Kind
from fairdial.policy.document import Detector, Policy
from fairdial.policy.history import Attempt, Calls, Event
from fairdial.policy.measures import MEASURES, WINDOW_MS, Measure, Setting
from fairdial.policy.terms import Clause
from fairdial.policy.wording import measured

EVIDENCE_MAX: Final = 20
"""Calls that are remembered, and named with a pattern: the latest."""
GROWN: Final = 1.25
"""A pattern is told again once its measure is so many times what it was."""
AGAIN_MS: Final = 900_000
"""... or after so long."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A pattern was found. value: of the measure; calls: ids of the latest that make it up; words: the finding."""

    account_id: str
    detector: Detector
    clause: Clause
    at_ms: int
    value: float
    calls: tuple[str, ...]
    words: str


def reaches(detector: Detector, value: float) -> bool:
    """Whether a value of the measure is one at which the step follows."""
    return value <= detector.threshold if detector.below else value >= detector.threshold


def hit_of(
    account_id: str,
    policy: Policy,
    detector: Detector,
    at_ms: int,
    value: float,
    calls: Iterable[str],
    words: str,
) -> Hit:
    """A hit under that version of the policy."""
    clause = Clause(policy.name, policy.version, detector.clause)
    return Hit(account_id, detector, clause, at_ms, value, tuple(calls), words)


def measure_of(detector: Detector, zone: ZoneInfo) -> Measure | None:
    """What a detector watches of one account; None where that is not taken from its calls alone."""
    known = MEASURES[detector.measure]
    if known.make is None:
        return None
    seconds = known.seconds if detector.seconds is None else detector.seconds
    at_least = known.at_least if detector.at_least is None else detector.at_least
    return known.make(Setting(WINDOW_MS[detector.window], seconds, at_least, zone))


_Recent = tuple[str, int, Kind]
"""Id, moment and kind of a call."""


class _Watched:
    """One detector on one account. since_ms: what happened up to then was judged by a person, and counts no more."""

    def __init__(self, detector: Detector, measure: Measure, zone: ZoneInfo, since_ms: int | None) -> None:
        self.detector = detector
        self.measure = measure
        self.since_ms = since_ms
        self._zone = zone
        self._told: tuple[int, float] | None = None

    def start_again(self, at_ms: int) -> None:
        measure = measure_of(self.detector, self._zone)
        assert measure is not None
        self.measure, self.since_ms, self._told = measure, at_ms, None

    def counts(self, event: Event) -> bool:
        return self.since_ms is None or event.at_ms > self.since_ms

    def found(self, now_ms: int) -> float | None:
        """The value, where it is worth telling."""
        value = self.measure.value(now_ms)
        if value is None or not reaches(self.detector, value):
            self._told = None
            return None
        if self._told is not None:
            told_ms, told = self._told
            grown = value <= told / GROWN if self.detector.below else value >= told * GROWN
            if not grown and now_ms - told_ms < AGAIN_MS:
                return None
        self._told = now_ms, value
        return value


class AccountPatterns:
    """All detectors of an account's policy. since_ms: by detector, up to when a person has judged.

    Feed it in the order of time; two events of one moment in either order.
    """

    def __init__(
        self,
        account_id: str,
        policy: Policy,
        zone: ZoneInfo,
        since_ms: Mapping[str, int] | None = None,
        earlier: "AccountPatterns | None" = None,
    ) -> None:
        """earlier: under another policy, or another version of it; what both watch in the same way goes on."""
        judged = since_ms or {}
        self.account_id = account_id
        self.policy = policy
        self.last_ms: int = 0 if earlier is None else earlier.last_ms
        self._calls: Calls = Calls() if earlier is None else earlier._calls
        self._recent: deque[_Recent] = deque(maxlen=EVIDENCE_MAX) if earlier is None else earlier._recent
        known: Sequence[_Watched] = () if earlier is None else earlier._watched
        self._watched: list[_Watched] = [
            next((each for each in known if each.detector == detector), None)
            or _Watched(detector, measure, zone, judged.get(detector.name))
            for detector in policy.detectors
            if (measure := measure_of(detector, zone)) is not None
        ]

    @property
    def busy(self) -> bool:
        """Whether calls are in progress."""
        return bool(self._calls.live)

    @property
    def longest_ms(self) -> int:
        """The longest window: what happened before counts no more."""
        return max((WINDOW_MS[each.detector.window] for each in self._watched), default=0)

    def see(self, event: Event) -> tuple[Hit, ...]:
        """Take an event in; the patterns that are there now and worth telling."""
        self.last_ms = max(self.last_ms, event.at_ms)
        call = self._calls.take(event)
        if isinstance(event, Attempt):
            self._recent.append((event.call_id, event.at_ms, event.kind))
        hits = []
        for each in self._watched:
            if not each.counts(event):
                continue
            each.measure.see(event, call)
            value = each.found(event.at_ms)
            if value is not None:
                hits.append(self._hit(each.detector, event.at_ms, value))
        return tuple(hits)

    def values(self, now_ms: int) -> dict[str, float | None]:
        """What each detector's measure amounts to now, by the detector's name."""
        return {each.detector.name: each.measure.value(now_ms) for each in self._watched}

    def judged(self, detector: str, at_ms: int) -> None:
        """A person has judged what that detector found: the same evidence counts no more."""
        for each in self._watched:
            if each.detector.name == detector:
                each.start_again(at_ms)

    def _hit(self, detector: Detector, at_ms: int, value: float) -> Hit:
        kinds, since_ms = MEASURES[detector.measure].services, at_ms - WINDOW_MS[detector.window]
        calls = [
            call_id for call_id, dialled_ms, kind in self._recent if kind in kinds and dialled_ms > since_ms
        ]
        words = measured(detector, value)
        return hit_of(self.account_id, self.policy, detector, at_ms, value, calls, words)
