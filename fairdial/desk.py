"""The desk: what happens to a dial, one ledger transaction each, around the pure core.

`authorise` decides and grants, `answered`, `renew` and `settle` follow the call. The desk knows
nothing of the switch: who asks (a Stasis application, an AGI script) turns the verdict into variables
and leases. It leaves the failure rule to the dialplan: where no decision can be made in time, it says
so with a reason and takes back whatever was granted.

What a call owes the ledger while the store cannot take it (its answer, its end, what is taken back) is kept here
in memory, within a bound, and written in its order when the store is back.
"""

import asyncio
import copy
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import structlog

from fairdial.attempts import By, Guard, Refusals
from fairdial.clock import Clock, Moment
from fairdial.ledger.contract import (
    Difference,
    DifferenceKind,
    Grant,
    IdempotencyConflict,
    Ledger,
    LedgerSlow,
    LedgerUnavailable,
)
from fairdial.policy.account import (
    Account,
    Dial,
    Encrypted,
    Kind,
    Line,
    Message,
    MeterWindow,
    Needs,
    Room,
    Snapshot,
    Verified,
)
from fairdial.policy.book import PolicyBook
from fairdial.policy.cards import RateCard
from fairdial.policy.decide import (
    ALWAYS,
    CALLEES_MS,
    EMERGENCY,
    FROM_OUTSIDE,
    Allow,
    Refuse,
    Verdict,
    asks_callees,
    asks_identity,
    cap_limit,
    decide,
    is_emergency,
    meters_at,
    number_for,
    refuses_leg,
)
from fairdial.policy.document import Allowance, Policy
from fairdial.policy.explain import Looked, explain
from fairdial.policy.history import Answer, Attempt, End
from fairdial.policy.numbers import Habit, Number, Numbering
from fairdial.policy.outcomes import OUTCOMES, UNDECIDED, Reason
from fairdial.policy.periods import MS_PER_S, Window, zone_named
from fairdial.policy.raises import limits_over
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
from fairdial.tallies import LATE_S, Spread, Tally
from fairdial.unwritten import Unwritten

log = structlog.get_logger(__name__)

UNDOING_MAX = 10_000
"""Takings-back that may be under way at once; past it a grant stays until its call is reconciled."""

CLOSE_WITHIN_S = 5.0
"""For the takings-back that are under way when the desk closes; what is left stays until reconciled."""

RENEW_WITHIN_S = 1.0
"""For more seconds in mid-call; who asks must be able to ask again before the lease ends."""

_SHOWABLE = re.compile(r"[0-9A-Za-z+._-]+")
"""What may be handed on as a sender: nothing that means something to the dialplan."""

HABITS_MAX = 256
"""Dialling habits of lines that are remembered, to know their emergency numbers when the store is down."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A dial as the switch tells of it. `call_id` is one per dial; `channel` the caller's channel id; `source` the
    address that the dial came from, "" where nobody knows it.
    """

    call_id: str
    kind: Kind
    dialled: str
    line_id: str
    channel: str
    ring_s: int
    caller: str = ""
    sip_call_id: str = ""
    encrypted: Encrypted | None = None
    source: str = ""
    verified: Verified = ""
    video: bool = False
    codec: str = ""
    message: Message | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """No decision was made; the dialplan's failure rule applies."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Sending:
    """A message that was asked about at `at_ms` (UTC). shown: as who its sender writes, "" where it is not sent."""

    call_id: str
    at_ms: int
    outcome: Verdict | Failed
    shown: str


@dataclass(frozen=True, slots=True)
class DeskRules:
    """answer_within_s: a dial is answered within this or by the failure rule (DESIGN.md: 500 ms).

    region: how lines dial that are not known yet, and whose emergency numbers need no store. attempts_per_s,
    attempts_per_s_source: how fast a line and an address may dial before they are refused unasked; 0: any rate.
    """

    answer_within_s: float = 0.5
    region: str = "GB"
    grants: GrantRules = field(default_factory=GrantRules)
    attempts_per_s: int = 0
    attempts_per_s_source: int = 0


class Listener(Protocol):
    """Is told of what was written about calls, and holds nobody up."""

    def dialled(self, attempt: Attempt, account: Account, policy: Policy) -> None:
        """A dial of a known line was decided."""
        ...

    def went_on(self, event: Answer | End) -> None:
        """A call was answered, or is over."""
        ...


class Onlooker(Protocol):
    """Is told of all that the desk did, in full, and holds nobody up."""

    def decided(self, dial: Dial, outcome: "Verdict | Failed", account_id: str | None) -> None:
        """A dial or a message was decided, or could not be. Not one that is refused unasked: a flood costs nothing."""
        ...

    def answered(self, grant: Grant) -> None:
        """A call was answered."""
        ...

    def renewed(self, grant: Grant) -> None:
        """A call got more seconds."""
        ...

    def settled(self, grant: Grant) -> None:
        """A call is over, or its grant was taken back."""
        ...


class Desk:
    """Decides about dials and follows their grants. `policies` and `cards` are replaced whole on reload.

    fingerprint: what is kept of a message's text (`policy/texts.py`); nothing, until the ledger's secret is known.

    decisions: answers by kind, "allow", "refuse" or "failed", and reason. ends: grants that are over by kind and "cut",
    "talked", "unanswered", "estimated" or "released". settled_after_s: from the end of a call until it was settled.
    """

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
        self.listeners: list[Listener] = []
        self.onlookers: list[Onlooker] = []
        self.is_blocked: Callable[[str], bool] = lambda _source: False
        self.fingerprint: Callable[[str], str] = lambda _text: ""
        self.decisions = Tally()
        self.ends = Tally()
        self.settled_after_s = Spread(LATE_S, ((),))
        self._clock = clock
        self._rules = rules
        self._habit = Habit(region=rules.region)
        self._habits = {self._habit}
        self._guard = Guard(rules.attempts_per_s, rules.attempts_per_s_source)
        self._refusals = Refusals(_tell_of_refusals)
        self._undoing: set[asyncio.Task[Any]] = set()
        self._unwritten = Unwritten()

    def on_behalf(self, ledger: Ledger) -> "Desk":
        """The same desk, which writes to that ledger what it is told from now on."""
        other = copy.copy(self)
        other.ledger = ledger
        return other

    @property
    def unwritten(self) -> int:
        """Steps of calls that are kept until the store can take them."""
        return len(self._unwritten)

    @property
    def given_up(self) -> int:
        """Steps of calls that were never written; reconciliation settles these calls."""
        return self._unwritten.given_up

    def awaits(self, call_id: str) -> bool:
        """Whether the ledger does not know yet all that is known of that call: it must not be estimated."""
        return self._unwritten.awaits(call_id)

    def limit_attempts(self, line_per_s: int, source_per_s: int) -> None:
        """How fast a line and an address may dial from now on; 0: any rate."""
        self._guard.limit(line_per_s, source_per_s)

    @property
    def region(self) -> str:
        """How lines dial that name no region."""
        return self._rules.region

    def now_ms(self) -> int:
        """The present, in milliseconds since the epoch (UTC)."""
        return self._clock.now().wall_ms

    def lines_max(self, account: Account) -> int | None:
        """The most lines that the account's policy allows now; None: any number (V3)."""
        now_ms = self.now_ms()
        policy = self.policies.at(account.policy, zone_named(account.zone), now_ms)
        return None if policy is None else cap_limit(account, policy, "lines", now_ms)

    async def authorise(self, asked: Asked) -> Verdict | Failed:
        """The verdict on a dial, or Failed, within the time limit. Repeating a call id repeats the verdict, except
        where the line or the source dials too fast.
        """
        return await self._answer(asked, self._clock.now())

    async def _answer(self, asked: Asked, now: Moment) -> Verdict | Failed:
        outcome = await self._decided(asked, now)
        match outcome:
            case Failed(reason):
                self.decisions.add(asked.kind, "failed", reason)
            case Verdict(_, decision):
                said = "allow" if isinstance(decision, Allow) else "refuse"
                self.decisions.add(asked.kind, said, decision.reason)
        return outcome

    async def _decided(self, asked: Asked, now: Moment) -> Verdict | Failed:
        number = self.numbering.classify(asked.dialled, self._habit)
        if is_emergency(asked.kind, number):
            return self._let_through(self._dial(asked, now, 0), number)
        # A line is not answerable for who calls it.
        dials = asked.kind not in FROM_OUTSIDE
        counted = self._guard.count(asked.line_id if dials else None, asked.source, now.mono_ms)
        dial = self._dial(asked, now, counted.attempts)
        if counted.too_fast is not None:
            return self._refuse_unasked(dial, number, counted.too_fast, asked.source)
        if asked.source and self.is_blocked(asked.source):
            return self._refuse_unasked(dial, number, "blocked", asked.source)
        try:
            async with asyncio.timeout(self._rules.answer_within_s):
                verdict = await self._granted(dial)
        except TimeoutError:
            self._take_back_late(dial)
            return self._failed(Reason.TOO_LATE, dial)
        except asyncio.CancelledError:
            self._take_back_late(dial)
            raise
        except LedgerUnavailable as error:
            if isinstance(error, LedgerSlow):
                # The grant may have been written.
                self._take_back_late(dial)
            return self._failed(Reason.STORE_UNAVAILABLE, dial, error=str(error))
        except IdempotencyConflict as error:
            return self._failed(Reason.REQUEST_MALFORMED, dial, error=str(error))
        except Exception as error:
            # A decision that fails on its data must end in the failure rule, not in a call that waits.
            return self._failed(Reason.INTERNAL_ERROR, dial, error=repr(error))
        if verdict.decision.reason in UNDECIDED:
            return self._failed(verdict.decision.reason, dial, account=verdict.decision.account_id)
        return verdict

    async def authorise_late(self, asked: Asked, at_ms: int) -> Verdict:
        """The verdict on a dial that was placed at `at_ms` without one. Raises LedgerError."""
        dial = self._dial(asked, Moment(at_ms, 0))
        return await self._granted(dial)

    async def _granted(self, dial: Dial) -> Verdict:
        # One set of policies for the whole decision, also if they are replaced meanwhile.
        policies = self.policies
        payers: list[Account | None] = []

        def judge(snapshot: Snapshot) -> Verdict:
            payers.append(snapshot.account)
            return self._judge(policies, dial, snapshot)

        verdict = await self.ledger.authorise(
            dial, lambda line, account: self._needs(policies, line, account, dial), judge
        )
        # A verdict that is repeated was not judged again, and was told of.
        if payers:
            account = payers[-1]
            if account is not None:
                self._tell_dialled(dial, verdict, account, policies)
            if verdict.decision.reason not in UNDECIDED:
                self._tell_decided(dial, verdict, None if account is None else account.id)
        return verdict

    async def check(self, asked: Asked, at_ms: int | None = None) -> Verdict:
        """The verdict that a dial would get at `at_ms` (now if None), without one. Raises LedgerError."""
        return (await self.explain(asked, at_ms))[0]

    async def explain(self, asked: Asked, at_ms: int | None = None) -> tuple[Verdict, tuple[Looked, ...]]:
        """As `check`, with each rule that was looked at for it. Raises LedgerError."""
        now = self._clock.now()
        if asked.kind is Kind.CONFERENCE:
            # About one who comes in: only a number that is called into a conference rings before.
            asked = replace(asked, ring_s=0)
        dial = self._dial(asked, now if at_ms is None else Moment(at_ms, now.mono_ms))
        policies = self.policies
        snapshot = await self.ledger.snapshot(
            dial.line_id, lambda line, account: self._needs(policies, line, account, dial)
        )
        verdict = self._judge(policies, dial, snapshot)
        policy = _policy_for(policies, snapshot.account, dial) if snapshot.account else None
        return verdict, explain(dial, verdict.number, snapshot, policy, verdict.decision)

    async def refuses_leg(self, line_id: str, kind: Kind, encrypted: Encrypted | None) -> bool:
        """Whether the plan of that line refuses a leg of its own that is encrypted only so. Raises LedgerError."""
        account = (await self.ledger.snapshot(line_id, lambda _line, _account: Needs())).account
        if account is None:
            return True
        policy = self.policies.at(account.policy, zone_named(account.zone), self.now_ms())
        return policy is None or refuses_leg(policy, encrypted, kind)

    async def answered(self, call_id: str, leg: str, at: Moment) -> Grant:
        """Note that `leg` answered. Raises LedgerError."""
        grant = await self.ledger.answered(call_id, leg, at.wall_ms)
        if grant.answered_ms is not None:
            for listener in self.listeners:
                listener.went_on(Answer(call_id, grant.answered_ms, grant.account_id))
            for onlooker in self.onlookers:
                onlooker.answered(grant)
        return grant

    async def note_answer(self, call_id: str, leg: str, at: Moment) -> bool:
        """`leg` answered: written now, or kept until the store can; whether it is written."""
        return await self._unwritten.write(call_id, "answer", lambda: self.answered(call_id, leg, at))

    async def note_assumed(self, call_id: str, since_ms: int) -> None:
        """Nobody saw the call answered, but it was seen up: it counts as answered since then (UTC)."""
        await self._unwritten.write(
            call_id, "assumed answer", lambda: self.ledger.assume_answered(call_id, since_ms)
        )

    async def note_end(self, call_id: str, used_s: int, ended: Moment, *, estimated: bool = False) -> bool:
        """The call is over and used `used_s`: written now, or kept until the store can; whether it is written."""

        async def write() -> None:
            grant = await self.settle(call_id, used_s, ended, estimated=estimated)
            if grant.repeated and grant.estimated and grant.used_s is not None:
                await self._differ(grant, used_s)
            log.info("settled", call=call_id, used_s=grant.used_s, granted_s=grant.granted_s)

        return await self._unwritten.write(call_id, "end", write)

    async def _differ(self, grant: Grant, used_s: int) -> None:
        """Another node took the call for over, and settled it by what it knew; by how much it erred is told."""
        if grant.ended_ms is not None and grant.used_s is not None and abs(grant.used_s - used_s) > 1:
            await self.ledger.differ(
                Difference(
                    grant.call_id,
                    DifferenceKind.USAGE,
                    grant.ended_ms,
                    grant.used_s,
                    used_s,
                    "left as settled",
                )
            )

    async def renew(self, call_id: str, lease_left_ms: int) -> Grant:
        """Ask for more seconds for a call whose lease still holds for `lease_left_ms`. Raises LedgerError.

        Within RENEW_WITHIN_S. Asked again after that was too short, the call has what both gave it.

        The grant stays as it is where nothing is left, and where the account is no longer active.
        """
        lease_end_ms = self._clock.now().wall_ms + lease_left_ms
        policies = self.policies
        before_s: list[int | None] = []

        def extend(grant: Grant, payer: Snapshot) -> Sized | Short | None:
            before_s.append(grant.granted_s)
            return self._extend(grant, payer, lease_end_ms)

        try:
            async with asyncio.timeout(RENEW_WITHIN_S):
                grant = await self.ledger.renew(
                    call_id,
                    lambda grant, account: _plan_rest(policies, grant, account, lease_end_ms),
                    extend,
                )
        except TimeoutError:
            raise LedgerSlow(f"call {call_id}: not renewed within {RENEW_WITHIN_S} s") from None
        if before_s and grant.granted_s != before_s[-1]:
            for onlooker in self.onlookers:
                onlooker.renewed(grant)
        return grant

    async def settle(
        self,
        call_id: str,
        used_s: int,
        ended: Moment,
        *,
        estimated: bool = False,
        answered_ms: int | None = None,
    ) -> Grant:
        """The call is over and used `used_s`; answered_ms (UTC): of an answer known only now. Raises LedgerError."""
        policies = self.policies
        grant = await self.ledger.settle(
            call_id,
            used_s,
            ended.wall_ms,
            estimated=estimated,
            answered_ms=answered_ms,
            limits=lambda grant, account, allowance, window: _limits_of(
                policies, grant, account, allowance, window
            ),
        )
        if not grant.repeated:
            self.ends.add(grant.kind, _how_ended(grant))
            self.settled_after_s.add((self._clock.now().wall_ms - ended.wall_ms) / MS_PER_S)
        self._tell_end(grant)
        return grant

    def take_back(self, call_id: str) -> None:
        """Release a grant whose dial will not be placed; done in the background, bounded."""

        async def release() -> None:
            grant = await self.ledger.release(call_id)
            if grant is not None:
                self.ends.add(grant.kind, "released")
                self._tell_end(grant)

        work = self._unwritten.write(call_id, "release", release)
        self._in_background(work, call_id)

    async def message(self, asked: Asked) -> Sending:
        """The verdict on a message, as `authorise`. Allowed, it is counted; who does not send it tells `not_sent`."""
        now = self._clock.now()
        outcome = await self._answer(asked, now)
        shown = ""
        if isinstance(outcome, Verdict) and isinstance(outcome.decision, Allow):
            shown = outcome.decision.caller or self._shown(asked, outcome.decision)
        return Sending(asked.call_id, now.wall_ms, outcome, shown)

    def _shown(self, asked: Asked, allow: Allow) -> str:
        """As who the sender writes: the number that it shows where the policy has looked at that, else its line."""
        policy = self.policies.version(allow.clause.policy, allow.clause.version)
        looked_at = policy is not None and asks_identity(policy, asked.kind)
        return asked.caller if looked_at and _SHOWABLE.fullmatch(asked.caller) else asked.line_id

    def not_sent(self, sending: Sending) -> None:
        """A message that was allowed was not sent: it is not counted. Done in the background, bounded.

        One that was allowed before stays counted.
        """
        if isinstance(sending.outcome, Verdict) and not sending.outcome.repeated:
            self._unsend(sending.call_id, sending.at_ms)

    def _take_back_late(self, dial: Dial) -> None:
        if dial.kind is Kind.MESSAGE:
            self._unsend(dial.call_id, dial.at_ms)
        else:
            self.take_back(dial.call_id)

    def _unsend(self, call_id: str, at_ms: int) -> None:
        work = self._unwritten.write(call_id, "release", lambda: self.ledger.unsend(call_id, at_ms))
        self._in_background(work, call_id)

    async def close(self) -> None:
        """Wait for what is being taken back or recorded, at most CLOSE_WITHIN_S, and try once more what is kept."""
        self._refusals.tell_now()
        loop = asyncio.get_running_loop()
        until = loop.time() + CLOSE_WITHIN_S
        while self._undoing and (left_s := until - loop.time()) > 0:
            await asyncio.wait(self._undoing, timeout=left_s)
        for task in self._undoing:
            task.cancel()
        await asyncio.gather(*self._undoing, return_exceptions=True)
        await self._unwritten.close()

    def _tell_dialled(self, dial: Dial, verdict: Verdict, account: Account, policies: PolicyBook) -> None:
        policy = _policy_for(policies, account, dial)
        if not self.listeners or policy is None or is_emergency(dial.kind, verdict.number):
            return
        number, decision = verdict.number, verdict.decision
        attempt = Attempt(
            dial.call_id,
            dial.at_ms,
            account.id,
            dial.line_id,
            dial.kind,
            number.e164 or dial.dialled,
            dial.caller,
            number.country,
            number.number_class,
            isinstance(decision, Allow),
            dial.video,
            dial.codec,
            dial.message.text if dial.message is not None else "",
        )
        for listener in self.listeners:
            listener.dialled(attempt, account, policy)

    def _tell_decided(self, dial: Dial, outcome: Verdict | Failed, account_id: str | None) -> None:
        for onlooker in self.onlookers:
            onlooker.decided(dial, outcome, account_id)

    def _tell_end(self, grant: Grant) -> None:
        if grant.ended_ms is None:
            return
        end = End(grant.call_id, grant.ended_ms, grant.account_id, grant.used_s or 0, grant.charged_micros)
        for listener in self.listeners:
            listener.went_on(end)
        for onlooker in self.onlookers:
            onlooker.settled(grant)

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
            asked.verified,
            asked.video,
            asked.codec,
            asked.message,
        )

    def _needs(self, policies: PolicyBook, line: Line, account: Account, dial: Dial) -> Needs:
        policy = _policy_for(policies, account, dial)
        if policy is None:
            return Needs()
        number = number_for(dial.kind, self.numbering.classify(dial.dialled, line.habit), dial.message)
        identity = asks_identity(policy, dial.kind)
        shown = self.numbering.classify(dial.caller, line.habit).e164 if identity and dial.caller else None
        return Needs(
            meters_at(account, policy, dial, number.number_class),
            identity,
            shown,
            room=dial.dialled if dial.kind is Kind.CONFERENCE else None,
            callee=asks_callees(policy, dial.kind, number),
            callees_since_ms=dial.at_ms - CALLEES_MS,
        )

    def _judge(self, policies: PolicyBook, dial: Dial, snapshot: Snapshot) -> Verdict:
        habit = snapshot.line.habit if snapshot.line else self._habit
        if len(self._habits) < HABITS_MAX:
            self._habits.add(habit)
        number = number_for(dial.kind, self.numbering.classify(dial.dialled, habit), dial.message)
        policy = _policy_for(policies, snapshot.account, dial) if snapshot.account else None
        return Verdict(number, decide(dial, number, snapshot, policy, self._rules.grants, self.cards))

    def _extend(self, grant: Grant, payer: Snapshot, lease_end_ms: int) -> Sized | Short | None:
        if payer.account is None or payer.account.bars(grant.kind):
            return None
        granted_s = grant.granted_s or 0
        rest_s = LONGEST_HORIZON_S
        if grant.longest_s is not None:
            rest_s = grant.longest_s - granted_s - _late_s(grant, payer.room)
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
            return size_seat(payer.room, lease_end_ms, 0, rest_s, payer.meters, self._rules.grants)
        return size_grant(lease_end_ms, 0, rest_s, payer.meters, self._rules.grants)

    def _failed(self, reason: Reason, dial: Dial, **facts: object) -> Verdict | Failed:
        log.error("no_decision", reason=reason, call=dial.call_id, line=dial.line_id, kind=dial.kind, **facts)
        emergency = self._through_if_emergency(dial)
        if emergency is not None:
            return emergency
        failed = Failed(reason)
        self._tell_decided(dial, failed, None)
        return failed

    def _refuse_unasked(self, dial: Dial, number: Number, by: By, source: str) -> Verdict:
        """Without the store, and without a record or a line in the log of each: a flood must cost nothing."""
        emergency = self._through_if_emergency(dial)
        if emergency is not None:
            return emergency
        self._refusals.add(by, dial.line_id if by == "line" else source)
        reason = Reason.SOURCE_BLOCKED if by == "blocked" else Reason.DIALS_TOO_FAST
        return Verdict(number, Refuse(reason, ALWAYS))

    def _through_if_emergency(self, dial: Dial) -> Verdict | None:
        """The line may dial by another region's rules than the desk's, and nobody looks that up now: what is an
        emergency number for any line that was seen goes through.
        """
        for habit in tuple(self._habits):
            if self.numbering.is_emergency(dial.dialled, habit):
                return self._let_through(dial, self.numbering.classify(dial.dialled, habit))
        return None

    def _let_through(self, dial: Dial, number: Number) -> Verdict:
        verdict = Verdict(number, EMERGENCY)
        self._tell_decided(dial, verdict, None)
        work = self._unwritten.write(dial.call_id, "decision", lambda: self.ledger.record(dial, verdict))
        self._in_background(work, dial.call_id)
        return verdict

    def _in_background(self, work: Coroutine[Any, Any, object], call_id: str) -> None:
        if len(self._undoing) >= UNDOING_MAX:
            work.close()
            log.error("background_work_refused", call=call_id, waiting=len(self._undoing))
            return
        task: asyncio.Task[Any] = asyncio.create_task(work)
        self._undoing.add(task)
        task.add_done_callback(self._undoing.discard)


def _tell_of_refusals(by: By, name: str, count: int) -> None:
    if by == "blocked":
        log.warning("source_turned_away", source=name, refused=count)
        return
    log.warning("dials_too_fast", by=by, refused=count, **{by: name})


def _policy_for(policies: PolicyBook, account: Account, dial: Dial) -> Policy | None:
    return policies.at(account.policy, zone_named(account.zone), dial.at_ms)


def _plan_rest(
    policies: PolicyBook, grant: Grant, account: Account, lease_end_ms: int
) -> tuple[MeterWindow, ...]:
    """By the version with which the call started: a call in progress keeps it."""
    policy = policies.version(grant.policy, grant.policy_version)
    return () if policy is None else meters_at(account, policy, _rest_of(grant, lease_end_ms))


def _limits_of(
    policies: PolicyBook, grant: Grant, account: Account, allowance: str, window: Window
) -> tuple[tuple[int, int], ...]:
    """By the version with which the call started, as `_plan_rest`."""
    policy = policies.version(grant.policy, grant.policy_version)
    found = None if policy is None else policy.limit_rule(f"allowances.{allowance.partition('/')[0]}")
    if policy is None or not isinstance(found, Allowance) or found.limit_units is None:
        return ()
    return limits_over(
        account.raises,
        policy.name,
        f"allowances.{allowance}",
        found.limit_units,
        window.start_ms,
        window.end_ms,
    )


def _how_ended(grant: Grant) -> str:
    if grant.estimated:
        return "estimated"
    if grant.cut:
        return "cut"
    return "talked" if grant.used_s else "unanswered"


def _late_s(grant: Grant, room: Room | None) -> int:
    """How long a conference had lasted, of what the grant may last, when the number called into it answered."""
    if room is None or grant.answered_ms is None:
        return 0
    since_ms = max(grant.authorised_ms, room.opened_ms)
    return max(0, -((since_ms - grant.answered_ms) // MS_PER_S))


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
