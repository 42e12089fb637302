"""The desk around a real ledger: in time or by the failure rule, and nothing granted stays lost."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from fairdial import desk as desk_module
from fairdial.clock import Moment
from fairdial.desk import Asked, Desk, DeskRules, Failed, decision_json
from fairdial.ledger.contract import (
    Grant,
    GrantState,
    Judge,
    LedgerBusy,
    LedgerSlow,
    LedgerUnavailable,
    NotFound,
    Plan,
)
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.account import Dial, Kind, Line, Standing
from fairdial.policy.book import PolicyBook
from fairdial.policy.decide import Allow, Refuse, Verdict
from fairdial.policy.document import Cap, Caps, Policy
from fairdial.policy.numbers import Habit, Numbering
from fairdial.policy.outcomes import Reason
from fairdial.policy.prefixes import PrefixTable
from tests.samples import NOON_MS, SetClock, plan, provision

NUMBERING = Numbering(PrefixTable.parse("prefix,class,country,risk,note,source,date\n"))
PREMIUM = "09098790000"


class Store(SqliteLedger):
    """The real ledger with switches: it can be down, be stopped before or after a decision, or not confirm it."""

    error: Exception | None = None
    unknown: LedgerSlow | None = None
    before: asyncio.Event | None = None
    after: asyncio.Event | None = None
    decided: asyncio.Event | None = None

    async def authorise(self, dial: Dial, plan: Plan, judge: Judge) -> Verdict:
        if self.error is not None:
            raise self.error
        if self.before is not None:
            await self.before.wait()
        verdict = await super().authorise(dial, plan, judge)
        if self.decided is not None:
            self.decided.set()
        if self.after is not None:
            await self.after.wait()
        if self.unknown is not None:
            raise self.unknown
        return verdict

    async def record(self, dial: Dial, verdict: Verdict) -> None:
        if self.error is not None:
            raise self.error
        await super().record(dial, verdict)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    ledger = await Store.open(tmp_path / "ledger.sqlite")
    assert isinstance(ledger, Store)
    await provision(ledger)
    yield ledger
    await ledger.close()


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
async def desk(store: Store, clock: SetClock) -> AsyncIterator[Desk]:
    desk = Desk(store, PolicyBook([plan()]), NUMBERING, clock, DeskRules())
    yield desk
    await desk.close()


def asked(
    call_id: str = "call-1", number: str = "02079460123", *, kind: Kind = Kind.OUTBOUND, line: str = "alice"
) -> Asked:
    return Asked(call_id, kind, number, line, f"channel-{call_id}", 60)


def allowed(outcome: Verdict | Failed) -> Allow:
    assert isinstance(outcome, Verdict), outcome
    assert isinstance(outcome.decision, Allow), outcome
    return outcome.decision


def quick(desk: Desk, answer_within_s: float = 0.05) -> Desk:
    return Desk(desk.ledger, desk.policies, NUMBERING, SetClock(), DeskRules(answer_within_s))


async def reserved_s(store: Store) -> int:
    return sum(usage.meter.reserved_units for usage in (await store.sheet("acme")).usage)


async def used_s(store: Store) -> int:
    return sum(usage.meter.used_units for usage in (await store.sheet("acme")).usage)


async def grant_of(store: Store, call_id: str = "call-1") -> Grant:
    grant = await store.grant(call_id)
    assert grant is not None
    return grant


# --- deciding ------------------------------------------------------------------------------------


async def test_an_allowed_dial_holds_its_seconds_and_a_refused_one_none(desk: Desk, store: Store) -> None:
    assert allowed(await desk.authorise(asked())).granted_s == 375
    assert await reserved_s(store) == 375
    refused = await desk.authorise(asked("call-2", PREMIUM))
    assert isinstance(refused, Verdict)
    assert refused.decision == Refuse(Reason.CLASS_NOT_COVERED, refused.decision.clause, "acme")
    assert await reserved_s(store) == 375
    records = {record.call_id: record.decision for record in await store.decisions()}
    assert records == {"call-1": "allow", "call-2": "refuse"}


async def test_a_repeated_dial_gets_the_first_verdict_and_holds_nothing_more(
    desk: Desk, store: Store
) -> None:
    first = await desk.authorise(asked())
    again = await desk.authorise(asked())
    assert allowed(again) == allowed(first)
    assert await reserved_s(store) == 375


async def test_a_repeated_dial_of_another_number_is_not_decided(desk: Desk, store: Store) -> None:
    allowed(await desk.authorise(asked()))
    assert await desk.authorise(asked(number="02079460999")) == Failed(Reason.REQUEST_MALFORMED)
    assert await reserved_s(store) == 375


async def test_a_dial_whose_call_is_over_is_not_allowed_once_more(
    desk: Desk, store: Store, clock: SetClock
) -> None:
    allowed(await desk.authorise(asked()))
    await desk.settle("call-1", 5, clock.now())
    assert await desk.authorise(asked()) == Failed(Reason.REQUEST_MALFORMED)
    assert (await reserved_s(store), await used_s(store)) == (0, 5)


async def test_a_line_dials_by_its_own_habit(desk: Desk, store: Store) -> None:
    await store.add_line(Line("berlin", "acme", Habit(region="DE")))
    verdict = await desk.authorise(asked(number="030303986300", line="berlin"))
    assert isinstance(verdict, Verdict)
    assert (verdict.number.e164, verdict.number.country) == ("+4930303986300", "DE")
    assert isinstance(verdict.decision, Allow)


async def test_a_check_decides_and_writes_nothing(desk: Desk, store: Store) -> None:
    assert isinstance((await desk.check(asked())).decision, Allow)
    assert isinstance((await desk.check(asked(number=PREMIUM))).decision, Refuse)
    assert await store.decisions() == ()
    assert await reserved_s(store) == 0


async def test_a_check_sees_the_period_of_the_time_it_is_given(
    desk: Desk, store: Store, clock: SetClock
) -> None:
    desk.policies = PolicyBook([plan(limit_s=5)])
    allowed(await desk.authorise(asked()))
    await desk.settle("call-1", 5, clock.now())
    assert (await desk.check(asked("other"))).decision.reason is Reason.ALLOWANCE_USED_UP
    next_month = await desk.check(asked("other"), NOON_MS + 30 * 86_400_000)
    assert next_month.decision.reason is Reason.WITHIN_ALLOWANCE


# --- no decision ---------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [LedgerUnavailable("disk full"), LedgerBusy("10000 steps wait")])
async def test_without_the_store_the_failure_rule_applies(desk: Desk, store: Store, error: Exception) -> None:
    store.error = error
    assert await desk.authorise(asked()) == Failed(Reason.STORE_UNAVAILABLE)
    store.error = None
    allowed(await desk.authorise(asked()))


async def test_a_decision_that_breaks_ends_in_the_failure_rule(desk: Desk, store: Store) -> None:
    store.error = ZeroDivisionError("a fault")
    assert await desk.authorise(asked()) == Failed(Reason.INTERNAL_ERROR)


async def test_a_missing_policy_is_neither_a_refusal_nor_recorded_as_one(desk: Desk, store: Store) -> None:
    desk.policies = PolicyBook()
    assert await desk.authorise(asked()) == Failed(Reason.POLICY_MISSING)
    (record,) = await store.decisions("acme")
    assert (record.decision, record.reason) == ("undecided", "policy_missing")
    assert await desk.authorise(asked()) == Failed(Reason.POLICY_MISSING)
    desk.policies = PolicyBook([plan()])
    allowed(await desk.authorise(asked("call-2")))


async def test_policies_that_are_replaced_in_mid_decision_are_not_mixed(desk: Desk, store: Store) -> None:
    class Swapping(PolicyBook):
        def at(self, name: str, zone: ZoneInfo, at_ms: int) -> Policy | None:
            desk.policies = PolicyBook()
            return super().at(name, zone, at_ms)

    desk.policies = Swapping([plan(limit_s=100)])
    assert allowed(await desk.authorise(asked())).granted_s == 25
    assert await desk.authorise(asked("call-2")) == Failed(Reason.POLICY_MISSING)


async def test_a_late_decision_is_taken_back(desk: Desk, store: Store) -> None:
    store.after = asyncio.Event()
    late = quick(desk)
    assert await late.authorise(asked()) == Failed(Reason.TOO_LATE)
    await late.close()
    assert (await grant_of(store)).used_s == 0
    assert await reserved_s(store) == 0


async def test_a_decision_of_which_nobody_knows_whether_it_was_written_is_taken_back(
    desk: Desk, store: Store
) -> None:
    store.unknown = LedgerSlow("the connection was lost while it committed")
    assert await desk.authorise(asked()) == Failed(Reason.STORE_UNAVAILABLE)
    await desk.close()
    assert (await grant_of(store)).used_s == 0
    assert await reserved_s(store) == 0


async def test_a_decision_that_was_never_begun_leaves_nothing(desk: Desk, store: Store) -> None:
    store.before = asyncio.Event()
    late = quick(desk)
    assert await late.authorise(asked()) == Failed(Reason.TOO_LATE)
    await late.close()
    assert await store.grant("call-1") is None


async def test_a_decision_within_the_limit_is_given(desk: Desk, store: Store) -> None:
    store.after = asyncio.Event()
    asking = asyncio.create_task(quick(desk, 5.0).authorise(asked()))
    store.after.set()
    allowed(await asking)
    assert await reserved_s(store) == 375


async def test_a_cancelled_asker_keeps_no_grant(desk: Desk, store: Store) -> None:
    store.decided, store.after = asyncio.Event(), asyncio.Event()
    asking = asyncio.create_task(desk.authorise(asked()))
    await store.decided.wait()
    assert await reserved_s(store) == 375
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await desk.close()
    assert await reserved_s(store) == 0


async def test_what_cannot_be_taken_back_stays_for_reconciliation(
    desk: Desk, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed(await desk.authorise(asked()))
    monkeypatch.setattr(desk_module, "UNDOING_MAX", 0)
    desk.take_back("call-1")
    await desk.close()
    assert (await grant_of(store)).live


async def test_closing_does_not_wait_for_ever(
    desk: Desk, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stuck(_call_id: str) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(store, "release", stuck)
    monkeypatch.setattr(desk_module, "CLOSE_WITHIN_S", 0.02)
    desk.take_back("call-1")
    async with asyncio.timeout(2):
        await desk.close()


# --- emergency -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "kind", "line"),
    [("999", Kind.OUTBOUND, "alice"), ("112", Kind.INTERNAL, "nobody"), ("5", Kind.EMERGENCY, "alice")],
)
async def test_an_emergency_call_goes_through_with_the_store_down(
    desk: Desk, store: Store, number: str, kind: Kind, line: str
) -> None:
    store.error = LedgerUnavailable("disk full")
    assert (
        allowed(await desk.authorise(asked(number=number, kind=kind, line=line))).reason is Reason.EMERGENCY
    )


async def test_an_emergency_call_does_not_wait_for_the_store(desk: Desk, store: Store) -> None:
    store.before = asyncio.Event()
    async with asyncio.timeout(2):
        assert allowed(await desk.authorise(asked(number="999"))).granted_s is None


async def test_an_emergency_call_is_recorded_and_holds_nothing(desk: Desk, store: Store) -> None:
    allowed(await desk.authorise(asked(number="999")))
    await desk.close()
    (record,) = await store.decisions()
    assert (record.decision, record.reason, record.dialled) == ("allow", "emergency", "999")
    assert await store.live_grants() == ()


async def test_a_suspended_account_can_call_for_help_and_nobody_else(desk: Desk, store: Store) -> None:
    await store.set_standing("acme", Standing.TERMINATED, NOON_MS)
    allowed(await desk.authorise(asked(number="999")))
    refused = await desk.authorise(asked("call-2"))
    assert isinstance(refused, Verdict)
    assert refused.decision.reason is Reason.ACCOUNT_TERMINATED


async def test_the_emergency_numbers_of_a_line_abroad_are_known_with_the_store_down(
    desk: Desk, store: Store
) -> None:
    await store.add_line(Line("tokyo", "acme", Habit(region="JP")))
    store.error = LedgerUnavailable("disk full")
    assert await desk.authorise(asked("call-1", "119", line="tokyo")) == Failed(Reason.STORE_UNAVAILABLE)
    store.error = None
    allowed(await desk.authorise(asked("call-2", "119", line="tokyo")))  # the line was seen
    store.error = LedgerUnavailable("disk full")
    assert allowed(await desk.authorise(asked("call-3", "119", line="tokyo"))).reason is Reason.EMERGENCY
    assert await desk.authorise(asked("call-4", line="tokyo")) == Failed(Reason.STORE_UNAVAILABLE)


# --- following -----------------------------------------------------------------------------------


async def test_a_call_is_followed_to_its_settlement(desk: Desk, store: Store, clock: SetClock) -> None:
    allowed(await desk.authorise(asked()))
    clock.forward(4_000)
    answered = await desk.answered("call-1", "leg-1", clock.now())
    assert (answered.state, answered.answered_ms, answered.leg) == (
        GrantState.TALKING,
        NOON_MS + 4_000,
        "leg-1",
    )
    clock.forward(30_000)
    settled = await desk.settle("call-1", 30, clock.now())
    assert (settled.state, settled.used_s, settled.ended_ms) == (GrantState.SETTLED, 30, NOON_MS + 34_000)
    assert (await reserved_s(store), await used_s(store)) == (0, 30)


async def test_a_lone_call_can_talk_its_whole_allowance_away(
    desk: Desk, store: Store, clock: SetClock
) -> None:
    granted_s, times = allowed(await desk.authorise(asked())).granted_s or 0, 0
    await desk.answered("call-1", "leg-1", clock.now())
    while True:
        grant = await desk.renew("call-1", 5_000)
        if grant.granted_s == granted_s:
            break
        granted_s, times = grant.granted_s or 0, times + 1
        assert times < 200
    assert granted_s == 6000
    assert await reserved_s(store) == 6000


async def test_a_call_is_not_renewed_past_its_longest(desk: Desk, store: Store, clock: SetClock) -> None:
    desk.policies = PolicyBook([plan(longest_s=400)])
    grant = allowed(await desk.authorise(asked()))
    assert (grant.granted_s, grant.limit_s) == (400, 400)
    assert (await desk.renew("call-1", 5_000)).granted_s == 400


@pytest.mark.parametrize("standing", [Standing.SUSPENDED, Standing.TERMINATED])
async def test_a_call_of_an_inactive_account_is_not_prolonged(
    desk: Desk, store: Store, standing: Standing
) -> None:
    before_s = allowed(await desk.authorise(asked())).granted_s
    await store.set_standing("acme", standing, NOON_MS)
    assert (await desk.renew("call-1", 5_000)).granted_s == before_s
    await store.set_standing("acme", Standing.ACTIVE, NOON_MS)
    assert ((await desk.renew("call-1", 5_000)).granted_s or 0) > (before_s or 0)


@pytest.mark.parametrize(
    "policies", [PolicyBook(), PolicyBook([plan().model_copy(update={"allowances": ()})])]
)
async def test_without_policy_or_meter_nothing_is_given_away(
    desk: Desk, store: Store, policies: PolicyBook
) -> None:
    before_s = allowed(await desk.authorise(asked())).granted_s
    desk.policies = policies
    assert (await desk.renew("call-1", 5_000)).granted_s == before_s


async def test_a_call_goes_on_where_its_limit_was_lifted(desk: Desk, store: Store) -> None:
    desk.policies = PolicyBook([plan(longest_s=None)])
    before_s = allowed(await desk.authorise(asked())).granted_s
    desk.policies = PolicyBook([plan(limit_s=None, longest_s=None)])
    assert (await desk.renew("call-1", 5_000)).granted_s == (before_s or 0) + 86_400


async def test_following_a_call_that_never_was_is_an_error(desk: Desk, clock: SetClock) -> None:
    for step in (
        desk.answered("nobody", "leg", clock.now()),
        desk.renew("nobody", 1),
        desk.settle("nobody", 1, clock.now()),
    ):
        with pytest.raises(NotFound, match="no grant for call nobody"):
            await step


# --- the decision as JSON ------------------------------------------------------------------------


async def test_a_decision_as_json(desk: Desk) -> None:
    assert decision_json("id-1", await desk.check(asked())) == {
        "decision": "allow",
        "reason": "within_allowance",
        "clause": {"policy": "plan", "version": "1", "id": "P4"},
        "number": {
            "dialled": "02079460123",
            "e164": "+442079460123",
            "class": "geographic",
            "country": "GB",
        },
        "limit_s": 375,
        "charge": {
            "mode": "included",
            "currency": None,
            "connect_fee": "0",
            "rate_per_min": "0",
            "surcharge_per_min": "0",
        },
        "cause": 0,
        "id": "id-1",
    }
    refused = decision_json("id-2", await desk.check(asked(number=PREMIUM)))
    assert (refused["decision"], refused["limit_s"], refused["cause"]) == ("refuse", None, 21)
    assert refused["charge"]["mode"] == "free"


def test_a_moment_is_one_instant_on_both_clocks() -> None:
    clock = SetClock()
    before = clock.now()
    clock.forward(5)
    assert clock.now() == replace(before, wall_ms=before.wall_ms + 5, mono_ms=before.mono_ms + 5)
    assert isinstance(before, Moment)


@pytest.mark.clause("A3", "refused")
async def test_a_line_that_dials_too_often_is_refused_and_an_emergency_is_not(
    desk: Desk, clock: SetClock
) -> None:
    capped = plan().model_copy(update={"caps": Caps(attempts_per_s=Cap(limit=2, clause="P8"))})
    desk.policies = PolicyBook([capped])
    for number in range(2):
        allowed(await desk.authorise(asked(f"call-{number}")))
        clock.forward(100)
    third = await desk.authorise(asked("call-2"))
    assert isinstance(third, Verdict)
    assert (third.decision.reason, third.decision.clause.id) == (Reason.TOO_MANY_ATTEMPTS, "P8")
    allowed(await desk.authorise(asked("in", kind=Kind.INBOUND)))
    emergency = await desk.authorise(asked("call-3", number="112"))
    assert isinstance(emergency, Verdict)
    assert emergency.decision.reason is Reason.EMERGENCY
    clock.forward(1_000)
    allowed(await desk.authorise(asked("call-4")))
