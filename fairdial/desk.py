"""The desk: what happens to a dial, one ledger transaction each, around the pure core.

`authorise` decides and grants, `answered`, `renew` and `settle` follow the call. The desk knows
nothing of the switch: who asks (a Stasis application, an AGI script) turns the verdict into variables
and leases. It leaves the failure rule to the dialplan: where no decision can be made in time, it says
so with a reason and takes back whatever was granted.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import structlog

from fairdial.attempts import Attempts
from fairdial.clock import Clock, Moment
from fairdial.ledger.contract import Grant, IdempotencyConflict, Ledger, LedgerError, LedgerUnavailable
from fairdial.policy.account import (
    Account,
    Dial,
    Encrypted,
    Kind,
    Line,
    MeterWindow,
    Needs,
    Snapshot,
    Standing,
)
from fairdial.policy.book import PolicyBook
from fairdial.policy.cards import RateCard
from fairdial.policy.decide import (
    EMERGENCY,
    FROM_OUTSIDE,
    Allow,
    Refuse,
    Verdict,
    asks_identity,
    decide,
    is_emergency,
    meters_at,
    number_for,
)
from fairdial.policy.document import Policy
from fairdial.policy.explain import Looked, explain
from fairdial.policy.numbers import Habit, Number, Numbering
from fairdial.policy.outcomes import OUTCOMES, UNDECIDED, Reason
from fairdial.policy.periods import zone_named
from fairdial.policy.rating import decimal_text
from fairdial.policy.sizing import (
    LONGEST_HORIZON_S,
    GrantRules,
    Short,
    Sized,
    size_grant,
    size_on_credit,
    size_seat,
)
from fairdial.policy.terms import Mode

log = structlog.get_logger(__name__)

UNDOING_MAX = 10_000
"""Takings-back that may be under way at once; past it a grant stays until its call is reconciled."""

CLOSE_WITHIN_S = 5.0
"""For the takings-back that are under way when the desk closes; what is left stays until reconciled."""

HABITS_MAX = 256
"""Dialling habits of lines that are remembered, to know their emergency numbers when the store is down."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A dial as the switch tells of it. `call_id` is one per dial; `channel` the caller's channel id."""

    call_id: str
    kind: Kind
    dialled: str
    line_id: str
    channel: str
    ring_s: int
    caller: str = ""
    sip_call_id: str = ""
    encrypted: Encrypted | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """No decision was made; the dialplan's failure rule applies."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class DeskRules:
    """answer_within_s: a dial is answered within this or by the failure rule (DESIGN.md: 500 ms).

    region: how lines dial that are not known yet, and whose emergency numbers need no store.
    """

    answer_within_s: float = 0.5
    region: str = "GB"
    grants: GrantRules = field(default_factory=GrantRules)


class Desk:
    """Decides about dials and follows their grants. `policies` and `cards` are replaced whole on reload."""

    def __init__(
        self,
        ledger: Ledger,
        policies: PolicyBook,
        numbering: Numbering,
        clock: Clock,
        rules: DeskRules,
    ) -> None:
        self.ledger = ledger
        self.policies = policies
        self.numbering = numbering
        self.cards: Mapping[str, RateCard] = {}
        self._clock = clock
        self._rules = rules
        self._habit = Habit(region=rules.region)
        self._habits = {self._habit}
        self._attempts = Attempts()
        self._undoing: set[asyncio.Task[None]] = set()

    def now_ms(self) -> int:
        """The present, in milliseconds since the epoch (UTC)."""
        return self._clock.now().wall_ms

    def lines_max(self, account: Account) -> int | None:
        """The most lines that the account's policy allows now; None: any number (V3)."""
        policy = self.policies.at(account.policy, zone_named(account.zone), self.now_ms())
        return policy.caps.lines.limit if policy is not None and policy.caps.lines is not None else None

    async def authorise(self, asked: Asked) -> Verdict | Failed:
        """The verdict on a dial, or Failed, within the time limit. Repeating a call id repeats the verdict."""
        now = self._clock.now()
        # A line is not answerable for who calls it.
        dials = asked.kind not in FROM_OUTSIDE
        dial = self._dial(asked, now, self._attempts.count(asked.line_id, now.mono_ms) if dials else 0)
        number = self.numbering.classify(asked.dialled, self._habit)
        if is_emergency(asked.kind, number):
            return self._let_through(dial, number)
        # One set of policies for the whole decision, also if they are replaced meanwhile.
        policies = self.policies
        try:
            async with asyncio.timeout(self._rules.answer_within_s):
                verdict = await self.ledger.authorise(
                    dial,
                    lambda line, account: self._needs(policies, line, account, dial),
                    lambda snapshot: self._judge(policies, dial, snapshot),
                )
        except TimeoutError:
            self.take_back(dial.call_id)
            return self._failed(Reason.TOO_LATE, dial)
        except asyncio.CancelledError:
            self.take_back(dial.call_id)
            raise
        except LedgerUnavailable as error:
            return self._failed(Reason.STORE_UNAVAILABLE, dial, error=str(error))
        except IdempotencyConflict as error:
            return self._failed(Reason.REQUEST_MALFORMED, dial, error=str(error))
        except Exception as error:
            # A decision that fails on its data must end in the failure rule, not in a call that waits.
            return self._failed(Reason.INTERNAL_ERROR, dial, error=repr(error))
        if verdict.decision.reason in UNDECIDED:
            return self._failed(verdict.decision.reason, dial, account=verdict.decision.account_id)
        return verdict

    async def check(self, asked: Asked, at_ms: int | None = None) -> Verdict:
        """The verdict that a dial would get at `at_ms` (now if None), without one. Raises LedgerError."""
        return (await self.explain(asked, at_ms))[0]

    async def explain(self, asked: Asked, at_ms: int | None = None) -> tuple[Verdict, tuple[Looked, ...]]:
        """As `check`, with each rule that was looked at for it. Raises LedgerError."""
        now = self._clock.now()
        dial = self._dial(asked, now if at_ms is None else Moment(at_ms, now.mono_ms))
        policies = self.policies
        snapshot = await self.ledger.snapshot(
            dial.line_id, lambda line, account: self._needs(policies, line, account, dial)
        )
        verdict = self._judge(policies, dial, snapshot)
        policy = _policy_for(policies, snapshot.account, dial) if snapshot.account else None
        return verdict, explain(dial, verdict.number, snapshot, policy, verdict.decision)

    async def answered(self, call_id: str, leg: str, at: Moment) -> Grant:
        """Note that `leg` answered. Raises LedgerError."""
        return await self.ledger.answered(call_id, leg, at.wall_ms)

    async def renew(self, call_id: str, lease_left_ms: int) -> Grant:
        """Ask for more seconds for a call whose lease still holds for `lease_left_ms`. Raises LedgerError.

        The grant stays as it is where nothing is left, and where the account is no longer active.
        """
        lease_end_ms = self._clock.now().wall_ms + lease_left_ms
        policies = self.policies
        return await self.ledger.renew(
            call_id,
            lambda grant, account: _plan_rest(policies, grant, account, lease_end_ms),
            lambda grant, payer: self._extend(grant, payer, lease_end_ms),
        )

    async def settle(self, call_id: str, used_s: int, ended: Moment, *, estimated: bool = False) -> Grant:
        """The call is over and used `used_s`. Raises LedgerError."""
        return await self.ledger.settle(call_id, used_s, ended.wall_ms, estimated=estimated)

    def take_back(self, call_id: str) -> None:
        """Release a grant whose dial will not be placed; done in the background, bounded."""
        self._in_background(self.ledger.release(call_id), call_id)

    async def close(self) -> None:
        """Wait for what is being taken back or recorded, at most CLOSE_WITHIN_S."""
        loop = asyncio.get_running_loop()
        until = loop.time() + CLOSE_WITHIN_S
        while self._undoing and (left_s := until - loop.time()) > 0:
            await asyncio.wait(self._undoing, timeout=left_s)
        for task in self._undoing:
            task.cancel()
        await asyncio.gather(*self._undoing, return_exceptions=True)

    def _dial(self, asked: Asked, at: Moment, attempts: int = 1) -> Dial:
        return Dial(
            asked.call_id,
            asked.kind,
            asked.dialled,
            asked.line_id,
            asked.channel,
            at.wall_ms,
            asked.ring_s,
            asked.caller,
            asked.sip_call_id,
            asked.encrypted,
            attempts,
        )

    def _needs(self, policies: PolicyBook, line: Line, account: Account, dial: Dial) -> Needs:
        policy = _policy_for(policies, account, dial)
        if policy is None:
            return Needs()
        number = number_for(dial.kind, self.numbering.classify(dial.dialled, line.habit))
        meters = meters_at(account, policy, dial, number.number_class)
        if not asks_identity(policy, dial.kind):
            return Needs(meters, room=dial.dialled if dial.kind is Kind.CONFERENCE else None)
        shown = self.numbering.classify(dial.caller, line.habit).e164 if dial.caller else None
        return Needs(meters, True, shown)

    def _judge(self, policies: PolicyBook, dial: Dial, snapshot: Snapshot) -> Verdict:
        habit = snapshot.line.habit if snapshot.line else self._habit
        if len(self._habits) < HABITS_MAX:
            self._habits.add(habit)
        number = number_for(dial.kind, self.numbering.classify(dial.dialled, habit))
        policy = _policy_for(policies, snapshot.account, dial) if snapshot.account else None
        return Verdict(number, decide(dial, number, snapshot, policy, self._rules.grants, self.cards))

    def _extend(self, grant: Grant, payer: Snapshot, lease_end_ms: int) -> Sized | Short | None:
        if payer.account is None or payer.account.standing is not Standing.ACTIVE:
            return None
        granted_s = grant.granted_s or 0
        rest_s = LONGEST_HORIZON_S if grant.longest_s is None else grant.longest_s - granted_s
        if grant.credit_terms is not None:
            free_micros = 0 if payer.credit is None else payer.credit.free_micros
            return size_on_credit(
                grant.credit_terms,
                free_micros,
                granted_s,
                grant.credit_hold_micros,
                rest_s,
                self._rules.grants,
            )
        if rest_s <= 0 or not payer.meters:
            # What no meter counts was granted whole at the start: no meters now means no right to more.
            return None
        if grant.room is not None:
            return size_seat(payer.room, lease_end_ms, rest_s, payer.meters, self._rules.grants)
        return size_grant(lease_end_ms, 0, rest_s, payer.meters, self._rules.grants)

    def _failed(self, reason: Reason, dial: Dial, **facts: object) -> Verdict | Failed:
        log.error("no_decision", reason=reason, call=dial.call_id, line=dial.line_id, kind=dial.kind, **facts)
        # The line may dial by another region's rules than the desk's, and nobody can look that up now:
        # what is an emergency number for any line that was seen goes through.
        for habit in tuple(self._habits):
            number = self.numbering.classify(dial.dialled, habit)
            if is_emergency(dial.kind, number):
                return self._let_through(dial, number)
        return Failed(reason)

    def _let_through(self, dial: Dial, number: Number) -> Verdict:
        verdict = Verdict(number, EMERGENCY)
        self._in_background(self.ledger.record(dial, verdict), dial.call_id)
        return verdict

    def _in_background(self, work: Coroutine[Any, Any, None], call_id: str) -> None:
        if len(self._undoing) >= UNDOING_MAX:
            work.close()
            log.error("background_work_refused", call=call_id, waiting=len(self._undoing))
            return
        task = asyncio.create_task(self._guarded(work, call_id))
        self._undoing.add(task)
        task.add_done_callback(self._undoing.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None], call_id: str) -> None:
        try:
            await work
        except LedgerError as error:
            log.error("background_work_failed", call=call_id, error=str(error))


def _policy_for(policies: PolicyBook, account: Account, dial: Dial) -> Policy | None:
    return policies.at(account.policy, zone_named(account.zone), dial.at_ms)


def _plan_rest(
    policies: PolicyBook, grant: Grant, account: Account, lease_end_ms: int
) -> tuple[MeterWindow, ...]:
    """By the version with which the call started: a call in progress keeps it."""
    policy = policies.version(grant.policy, grant.policy_version)
    return () if policy is None else meters_at(account, policy, _rest_of(grant, lease_end_ms))


def _rest_of(grant: Grant, from_ms: int) -> Dial:
    """What is left of a call, seen as a dial that is answered at once."""
    return Dial(grant.call_id, grant.kind, grant.dialled, grant.line_id, grant.channel, from_ms, ring_s=0)


def _charge_json(decision: Allow | Refuse) -> dict[str, Any]:
    """What the call costs from its first second; amounts are decimal texts."""
    every = decision.terms if isinstance(decision, Allow) else ()
    surcharges = [terms for terms in every if terms.mode is Mode.SURCHARGE]
    paid = [terms for terms in every if terms.mode is not Mode.SURCHARGE]
    added = {"surcharge_per_min": decimal_text(sum(each.tariff.rate_per_min_micros for each in surcharges))}
    if not paid or decision.reason not in (Reason.PAST_ALLOWANCE, Reason.BY_CREDIT):
        counted = isinstance(decision, Allow) and decision.holds
        mode = "included" if counted else "free"
        currency = surcharges[0].currency if surcharges else None
        return {"mode": mode, "currency": currency, "connect_fee": "0", "rate_per_min": "0"} | added
    [terms] = paid
    if terms.tariff.surcharge_per_min_micros:
        added = {"surcharge_per_min": decimal_text(terms.tariff.surcharge_per_min_micros)}
    return {
        "mode": str(terms.mode),
        "currency": terms.currency,
        "connect_fee": decimal_text(terms.tariff.connect_fee_micros),
        "rate_per_min": decimal_text(terms.tariff.rate_per_min_micros),
    } | added


def decision_json(call_id: str, verdict: Verdict, looked: Sequence[Looked] | None = None) -> dict[str, Any]:
    """The decision as the contract's JSON (README, "Read a refusal"); `looked`: the rules, for `--explain`."""
    number, decision = verdict.number, verdict.decision
    clause = decision.clause
    rules = {} if looked is None else {"rules": [asdict(each) for each in looked]}
    return {
        "decision": "allow" if isinstance(decision, Allow) else "refuse",
        "reason": str(decision.reason),
        "clause": {"policy": clause.policy, "version": clause.version, "id": clause.id},
        "number": {
            "dialled": number.dialled,
            "e164": number.e164,
            "class": str(number.number_class),
            "country": number.country,
        },
        "limit_s": decision.granted_s if isinstance(decision, Allow) else None,
        "charge": _charge_json(decision),
        "cause": OUTCOMES[decision.reason].cause,
        "id": call_id,
    } | rules
