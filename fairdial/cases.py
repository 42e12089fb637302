"""Cases: what was found, and what people say, becomes a case in the ledger; what follows from it is done.

Responsible for turning a hit into the ledger's step, for ending calls that the step bars, and for deadlines. Used by
the running FairDial and by the command line alike. Leaves to `watch.py` how patterns are found.
"""

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Protocol

import structlog

from fairdial.ledger.contract import FLAG, Case, CaseChange, Finding, Ledger
from fairdial.policy.account import Account, Kind
from fairdial.policy.book import PolicyBook
from fairdial.policy.document import Detector, Policy, Step
from fairdial.policy.history import CALLS, MESSAGES
from fairdial.policy.ladder import Taken, after_deadline, first_step
from fairdial.policy.measures import COHORT, COMPLAINTS, PEERS, WINDOW_MS
from fairdial.policy.patterns import Hit, hit_of, reaches
from fairdial.policy.peers import Cohort, Use, above_cohort, above_estimate, cohort_of
from fairdial.policy.periods import Period, zone_named
from fairdial.policy.terms import Clause
from fairdial.policy.wording import measured
from fairdial.tallies import Tally

log = structlog.get_logger(__name__)

PIECE = 2_000
"""Accounts that are read at a time."""
DETECTORS_MAX = 200
"""Detectors that are counted by name; of all versions of all policies."""
BARS = frozenset({Step.RESTRICT, Step.SUSPEND, Step.TERMINATE})
"""Steps after which calls in progress are to end."""


class Cut(Protocol):
    """Ends calls in progress."""

    async def __call__(
        self, *, account: str | None = None, line: str | None = None, kinds: Collection[Kind] | None = None
    ) -> int:
        """Those of an account or of a line, of these kinds (None: all); how many were told to end."""
        ...


class Cases:
    """Cases of all accounts. cut: None where no server runs here, which ends calls when it looks next.

    hits: findings of detectors, by name; opened: the cases that came of them, and of people (`FLAG`).
    """

    def __init__(
        self,
        ledger: Ledger,
        policies: Callable[[], PolicyBook],
        cut: Cut | None = None,
        changed: Callable[[CaseChange], None] | None = None,
    ) -> None:
        """changed: hears of each case that is opened, and of each step that follows from one."""
        self._ledger = ledger
        self._policies = policies
        self._cut = cut
        self.hits = Tally(labels_max=DETECTORS_MAX)
        self.opened = Tally(labels_max=DETECTORS_MAX)
        self._changed = changed

    async def found(self, hit: Hit) -> CaseChange | None:
        """A pattern was found. None: it is of what people have judged already. Raises LedgerError."""
        detector = hit.detector
        self.hits.add(detector.name)
        policy = self._policies().version(hit.clause.policy, hit.clause.version)
        return await self._report(
            Finding(
                hit.account_id,
                detector.name,
                hit.clause,
                hit.at_ms,
                hit.value,
                detector.threshold,
                hit.words,
                hit.calls,
                detector.restricts,
                first_step(detector, hit.at_ms),
                () if policy is None else policy.ladder,
                detector.shadow,
                cumulative=detector.measure in PEERS or detector.measure == COMPLAINTS,
            )
        )

    async def flag(
        self,
        account_id: str,
        at_ms: int,
        by: str,
        note: str,
        *,
        step: Step | None = None,
        fraud: bool = False,
    ) -> CaseChange:
        """A person found something (K11). step: what is to follow at once, besides the ladder; fraud: the account is
        terminated for fraud (V8). Raises LedgerError.
        """
        account, policy = await self._account(account_id, at_ms)
        clause_id = _flag_clause(policy, fraud)
        step = Step.TERMINATE if fraud else step
        services = CALLS | MESSAGES
        first = None
        if step is not None:
            taken = services if step is Step.RESTRICT else frozenset[Kind]()
            first = Taken(step, FLAG, clause_id, taken, fraud=fraud)
        clause = Clause(account.policy, "" if policy is None else policy.version, clause_id)
        rungs = () if policy is None else policy.ladder
        finding = Finding(account_id, FLAG, clause, at_ms, 1, 1, note, (), services, first, rungs, by=by)
        change = await self._report(finding)
        assert change is not None
        return change

    async def complain(self, account_id: str, at_ms: int, by: str, note: str) -> tuple[int, tuple[Case, ...]]:
        """Take down a complaint (A1): how many there are now, and the cases that it leads to. Raises LedgerError."""
        _, policy = await self._account(account_id, at_ms)
        detectors = (
            [] if policy is None else [each for each in policy.detectors if each.measure == COMPLAINTS]
        )
        longest_ms = max((WINDOW_MS[each.window] for each in detectors), default=WINDOW_MS[Period.MONTH])
        count = await self._ledger.complain(account_id, at_ms, by, note, at_ms - longest_ms)
        cases = []
        for detector in detectors:
            if policy is not None and reaches(detector, count):
                words = f"{measured(detector, count)}; the latest: {note}"
                change = await self.found(hit_of(account_id, policy, detector, at_ms, count, (), words))
                cases += [] if change is None else [change.case]
        return count, tuple(cases)

    async def compare(self, now_ms: int) -> int:
        """Hold all accounts against the others on their plan (S2); how many stand out. Raises LedgerError."""
        found = 0
        for name in self._policies().names:
            policy = self._policies().at(name, zone_named("UTC"), now_ms)
            for detector in () if policy is None else policy.detectors:
                if policy is None or detector.measure not in PEERS:
                    continue
                async for hit in standing_out(self._ledger, policy, detector, now_ms):
                    found += await self.found(hit) is not None
        return found

    async def after_deadlines(self, now_ms: int) -> int:
        """Take what follows where a customer did not answer in time (S4); how many cases. Raises LedgerError."""
        overdue = await self._ledger.overdue_cases(now_ms)
        for case in overdue:
            policy = self._policies().version(case.clause.policy, case.clause.version)
            rungs = () if policy is None else policy.ladder
            taken = after_deadline(rungs, case.step, case.services, now_ms)
            change = await self._ledger.follow_up(case.id, taken, now_ms)
            log.warning(
                "case_deadline_passed", case=case.id, account=case.account_id, steps=_names(change.taken)
            )
            self._tell(change)
            await self._end_barred(change)
        return len(overdue)

    async def _account(self, account_id: str, at_ms: int) -> tuple[Account, Policy | None]:
        account = (await self._ledger.sheet(account_id)).account
        return account, self._policies().at(account.policy, zone_named(account.zone), at_ms)

    async def _report(self, finding: Finding) -> CaseChange | None:
        change = await self._ledger.report(finding)
        if change is not None and change.new:
            self.opened.add(finding.detector)
            log.warning(
                "case_opened",
                case=change.case.id,
                account=finding.account_id,
                detector=finding.detector,
                clause=f"{finding.clause.policy}/{finding.clause.version}/{finding.clause.id}",
                found=finding.words,
                steps=_names(change.taken),
                shadow=finding.shadow,
            )
            self._tell(change)
            await self._end_barred(change)
        return change

    def _tell(self, change: CaseChange) -> None:
        if self._changed is not None:
            self._changed(change)

    async def _end_barred(self, change: CaseChange) -> None:
        """After the ledger's step, so that no dial slips in between (K12, S4)."""
        if self._cut is None:
            return
        for taken in change.taken:
            if taken.enforced and taken.step in BARS:
                kinds = taken.services if taken.step is Step.RESTRICT else None
                try:
                    await self._cut(account=change.case.account_id, kinds=kinds)
                except Exception as error:
                    # The switch did not answer: who is barred is looked for again as soon as it does.
                    log.warning("calls_not_cut_yet", account=change.case.account_id, error=str(error))


def _names(taken: Sequence[Taken]) -> str:
    return ", ".join(f"{each.step}{'' if each.enforced else ' (not enforced)'}" for each in taken)


def _flag_clause(policy: Policy | None, fraud: bool) -> str:
    if policy is None or policy.standing is None:
        return ""
    return (fraud and policy.standing.fraud_clause) or policy.standing.clause


async def standing_out(ledger: Ledger, policy: Policy, detector: Detector, now_ms: int) -> AsyncIterator[Hit]:
    """The accounts on a plan that use far more than the others, or than they declared (S2). Raises LedgerError.

    Twice through all of them, in pieces, so that of a million only their numbers are kept.
    """
    cohort: Cohort | None = None
    if detector.measure == COHORT:
        values = array("d")
        async for uses in _uses(ledger, policy, detector, now_ms):
            values.extend(use.units for use in uses)
        # A second of work for a million: not on the loop that answers calls.
        cohort = await asyncio.to_thread(cohort_of, detector, values)
        if cohort is None:
            return
    async for uses in _uses(ledger, policy, detector, now_ms):
        found = (
            above_estimate(policy, detector, uses, now_ms)
            if cohort is None
            else above_cohort(policy, detector, cohort, uses, now_ms)
        )
        for hit in found:
            yield hit


async def _uses(
    ledger: Ledger, policy: Policy, detector: Detector, now_ms: int
) -> AsyncIterator[tuple[Use, ...]]:
    after, allowance = "", detector.allowance or ""
    while uses := await ledger.uses(policy.name, allowance, now_ms, after, PIECE):
        yield uses
        after = uses[-1].account_id
