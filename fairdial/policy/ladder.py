"""What follows a case: the steps of the policy's ladder, mildest first (S3, S4, R4, R6, A10, V8).

A detector names the step that its own case leads to; the rungs of the ladder add what follows from how many cases are
open. Pure: the ledger takes the steps, in the transaction that writes the case.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fairdial.policy.account import Kind
from fairdial.policy.document import Detector, Rung, Step
from fairdial.policy.history import CALLS, MESSAGES
from fairdial.policy.measures import WINDOW_MS
from fairdial.policy.periods import MS_PER_S

DAY_MS = 86_400 * MS_PER_S
ORDER = tuple(Step)
"""Mildest first."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A step to take. rule: the detector or rung that says so; services: of a restriction; enforced: in shadow it is
    written down alone.
    """

    step: Step
    rule: str
    clause_id: str
    services: frozenset[Kind] = frozenset()
    deadline_ms: int | None = None
    fraud: bool = False
    enforced: bool = True


def first_step(detector: Detector, now_ms: int) -> Taken:
    """What a detector's new case leads to by itself."""
    return _taken(detector, detector.restricts, now_ms, enforced=not detector.shadow)


def rung_for(
    rungs: Sequence[Rung], opened_ms: Sequence[int], services: frozenset[Kind], now_ms: int
) -> Taken | None:
    """The hardest rung that the open cases reach; None: none. opened_ms: when each was opened, the newest included;
    services: what that one is about.
    """
    reached = [
        rung
        for rung in rungs
        if rung.measure == "open_cases"
        and sum(at_ms > now_ms - WINDOW_MS[rung.window] for at_ms in opened_ms) >= rung.threshold
    ]
    if not reached:
        return None
    rung = max(reached, key=lambda each: ORDER.index(each.step))
    return _taken(rung, rung.services or services, now_ms, enforced=not rung.shadow)


def is_harder(step: Step, than: str) -> bool:
    """Whether a step is harder than the one reached; "" is none."""
    return not than or ORDER.index(step) > ORDER.index(Step(than))


def after_deadline(rungs: Sequence[Rung], step: str, services: frozenset[Kind], now_ms: int) -> Taken | None:
    """What follows where nobody moderated or agreed in time: the next harder rung, whatever it counts (S4)."""
    harder = [rung for rung in rungs if rung.plan is None and ORDER.index(rung.step) > ORDER.index(step)]
    if not harder:
        return None
    rung = min(harder, key=lambda each: ORDER.index(each.step))
    return _taken(rung, rung.services or services, now_ms, enforced=not rung.shadow)


def _taken(rule: Detector | Rung, services: frozenset[Kind], now_ms: int, *, enforced: bool) -> Taken:
    deadline_ms = None if rule.deadline_days is None else now_ms + rule.deadline_days * DAY_MS
    restricts = (services or CALLS | MESSAGES) if rule.step is Step.RESTRICT else frozenset[Kind]()
    return Taken(rule.step, rule.name, rule.clause, restricts, deadline_ms, rule.fraud, enforced)
