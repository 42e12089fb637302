"""One policy's run over the calls: what was recorded is put to the desk as if it happened now.

The desk, the decision, the meters and the rating are those of a live FairDial, on a ledger of the run's own. The
engine does what the switch's side does live: it asks as a call begins, tells of the answer, asks for more seconds
shortly before a grant ends (`policy.call.renew_at_ms`) and settles at the end, which is the recorded one or that of
the grant. Leaves to `run` the order of the calls, and to `result` what the outcomes add up to.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from fairdial.clock import Moment
from fairdial.desk import Asked, Desk
from fairdial.ledger.contract import Charge, Grant, IdempotencyConflict
from fairdial.ledger.working import WorkingLedger
from fairdial.policy.call import Talking, renew_at_ms
from fairdial.policy.decide import Allow, Decision, Verdict
from fairdial.policy.outcomes import UNDECIDED
from fairdial.policy.periods import MS_PER_S
from fairdial.policy.terms import Clause
from fairdial.replay.calls import Recorded
from fairdial.replay.result import Decided, Outcome

FORGET_EVERY: Final = 20_000
"""Calls, after which those that are over are dropped from the run's ledger."""
_DAY_MS: Final = 86_400 * MS_PER_S
_ASK_AGAIN_UNTIL_MS: Final = 2_000
"""As live: with less left than that nobody asks for more again."""


class ReplayClock:
    """The clock of a run: it stands where the run has come to."""

    def __init__(self) -> None:
        self._now = Moment(0, 0)

    def now(self) -> Moment:
        """The moment that is replayed."""
        return self._now

    def set(self, at_ms: int) -> None:
        """Go there; both clocks show the same."""
        self._now = Moment(at_ms, at_ms)


class _Due(IntEnum):
    """What comes next for a call; within one second in this order, and all of it before new calls begin."""

    END = 0
    RENEW = 1
    ANSWER = 2


@dataclass(slots=True)
class _Live:
    """A call that holds a grant. since_ms: when it was answered, once it was; granted_s: as it is now."""

    number: int
    asked: Asked
    verdict: Verdict
    at_ms: int
    answer_ms: int | None
    end_ms: int
    talk_s: int
    leg: str
    granted_s: int | None
    limit_s: int | None
    since_ms: int | None = None

    @property
    def used_s(self) -> int:
        """What it uses if it gets no more."""
        return self.talk_s if self.granted_s is None else min(self.talk_s, self.granted_s)


class Engine:
    """A run. lead_s: how long before its end a grant is renewed, as the live configuration has it.

    told: hears the outcome of each call once it is over.
    """

    def __init__(
        self,
        desk: Desk,
        clock: ReplayClock,
        ledger: WorkingLedger,
        lead_s: int,
        told: Callable[[Outcome], None],
    ) -> None:
        self._desk = desk
        self._clock = clock
        self._ledger = ledger
        self._lead_s = lead_s
        self._told = told
        self._due: list[tuple[int, _Due, int]] = []
        self._live: dict[int, _Live] = {}
        self._over = 0
        self.repeated = 0
        """Calls whose id was another's before, and which were left out."""

    async def begin(self, number: int, asked: Asked, call: Recorded) -> None:
        """A call begins; everything that was due before has happened."""
        self._clock.set(call.start_ms)
        try:
            verdict = await self._desk.authorise_late(asked, call.start_ms)
        except IdempotencyConflict:
            self.repeated += 1
            return
        decision = verdict.decision
        if not isinstance(decision, Allow) or decision.account_id is None:
            self._told(_outcome(number, asked, verdict, call.start_ms, call.talk_s))
            self._forget_some(call.start_ms)
            return
        leg = call.legs[0] if call.legs else call.channel
        live = _Live(
            number,
            asked,
            verdict,
            call.start_ms,
            call.answer_ms,
            call.end_ms,
            call.talk_s,
            leg,
            decision.granted_s,
            decision.limit_s,
        )
        self._live[number] = live
        if live.answer_ms is None:
            self._push(live.end_ms, _Due.END, number)
        else:
            self._push(live.answer_ms, _Due.ANSWER, number)

    def extend(self, number: int, end_ms: int) -> None:
        """A call goes on with another channel until then, if it is still up."""
        live = self._live.get(number)
        if live is not None and live.answer_ms is not None and end_ms > live.end_ms:
            live.talk_s += (end_ms - live.end_ms) // MS_PER_S
            live.end_ms = end_ms

    async def until(self, at_ms: int | None) -> None:
        """Let happen what is due up to then; None: all that is left."""
        while self._due and (at_ms is None or self._due[0][0] <= at_ms):
            due_ms, due, number = heapq.heappop(self._due)
            self._clock.set(due_ms)
            live = self._live[number]
            match due:
                case _Due.ANSWER:
                    await self._answered(live, due_ms)
                case _Due.RENEW:
                    await self._renew(live, due_ms)
                case _Due.END:
                    await self._end(live, due_ms)

    def _push(self, at_ms: int, due: _Due, number: int) -> None:
        heapq.heappush(self._due, (at_ms, due, number))

    async def _answered(self, live: _Live, at_ms: int) -> None:
        grant = await self._desk.answered(live.asked.call_id, live.leg, self._clock.now())
        # Who comes into a conference is in it from the question on.
        live.since_ms = at_ms if grant.answered_ms is None else grant.answered_ms
        live.granted_s = grant.granted_s
        self._plan(live, at_ms)

    def _plan(self, live: _Live, now_ms: int, ask_again_ms: int | None = None) -> None:
        """What is due next for a call that talks: the renewal of its grant, or its end."""
        since_ms = now_ms if live.since_ms is None else live.since_ms
        end_ms = since_ms + live.used_s * MS_PER_S
        # A grant that is all that the call may last is never renewed.
        if live.granted_s is not None and live.granted_s != live.limit_s:
            renew_ms = ask_again_ms
            if renew_ms is None:
                talking = Talking(live.granted_s, frozenset({live.leg}), since_ms)
                renew_ms = renew_at_ms(talking, self._lead_s)
            if renew_ms is not None and max(renew_ms, now_ms) < end_ms:
                self._push(max(renew_ms, now_ms), _Due.RENEW, live.number)
                return
        self._push(max(end_ms, now_ms), _Due.END, live.number)

    async def _renew(self, live: _Live, now_ms: int) -> None:
        assert live.since_ms is not None
        assert live.granted_s is not None
        left_ms = live.since_ms + live.granted_s * MS_PER_S - now_ms
        grant = await self._desk.renew(live.asked.call_id, max(0, left_ms))
        if grant.granted_s is not None and grant.granted_s > live.granted_s:
            live.granted_s = grant.granted_s
            self._plan(live, now_ms)
        elif left_ms > _ASK_AGAIN_UNTIL_MS:
            # As live: others may give seconds back before this call is cut.
            self._plan(live, now_ms, now_ms + left_ms // 2)
        else:
            self._plan(live, now_ms, now_ms + left_ms)

    async def _end(self, live: _Live, now_ms: int) -> None:
        if live.since_ms is not None and live.since_ms + live.used_s * MS_PER_S > now_ms:
            self._plan(live, now_ms)  # it went on with another channel meanwhile
            return
        used_s = 0 if live.since_ms is None else live.used_s
        grant = await self._desk.settle(live.asked.call_id, used_s, self._clock.now())
        del self._live[live.number]
        self._told(self._ended(live, grant))
        self._forget_some(now_ms)

    def _forget_some(self, now_ms: int) -> None:
        """One more call is over, or was refused."""
        self._over += 1
        if self._over % FORGET_EVERY == 0:
            self._ledger.forget(now_ms - _DAY_MS)

    def _ended(self, live: _Live, grant: Grant) -> Outcome:
        used_s = grant.used_s or 0
        # The charges of a call are read only where there can be any.
        charges = self._ledger.charges_of(grant.call_id) if grant.terms and used_s else ()
        cut = self._cut_at(grant) if used_s and used_s == grant.granted_s else None
        return _outcome(live.number, live.asked, live.verdict, live.at_ms, live.talk_s, used_s, cut, charges)

    def _cut_at(self, grant: Grant) -> Clause | None:
        """The clause at whose end the call was cut, as `fairdial decisions` names it."""
        policy = self._desk.policies.version(grant.policy, grant.policy_version)
        clause_id = "" if policy is None else policy.rule_clause(grant.bound_by, grant.kind)
        return Clause(grant.policy, grant.policy_version, clause_id)


def _outcome(
    number: int,
    asked: Asked,
    verdict: Verdict,
    at_ms: int,
    talk_s: int,
    metered_s: int = 0,
    cut: Clause | None = None,
    charges: tuple[Charge, ...] = (),
) -> Outcome:
    decision = verdict.decision
    return Outcome(
        number,
        asked.call_id,
        at_ms,
        decision.account_id,
        asked.line_id,
        asked.kind,
        verdict.number.dialled,
        _word(decision),
        str(decision.reason),
        decision.clause,
        talk_s,
        metered_s,
        cut,
        charges,
    )


def _word(decision: Decision) -> Decided:
    if isinstance(decision, Allow):
        return "allow"
    return "undecided" if decision.reason in UNDECIDED else "refuse"
