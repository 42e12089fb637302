"""What `fairdial/ledger/contract.py` promises, for every store."""

import asyncio
from dataclasses import replace
from itertools import permutations

import pytest

from fairdial.ledger.contract import (
    AlreadyExists,
    ConstraintViolated,
    Extend,
    Grant,
    GrantState,
    IdempotencyConflict,
    Ledger,
    LedgerUnavailable,
    NotFound,
)
from fairdial.policy.account import Account, Dial, Kind, Line, Needs, Snapshot, Standing
from fairdial.policy.decide import EMERGENCY, Allow, Refuse, Verdict, meters_at
from fairdial.policy.numbers import Habit, Number
from fairdial.policy.outcomes import Reason
from fairdial.policy.prefixes import NumberClass
from fairdial.policy.sizing import Hold, Sized, size_grant
from tests.contract.conftest import Store
from tests.samples import LONDON, MONTH_END_MS, NOON_MS, RULES, authorise, outbound, plan, provision


def grant_in(verdict: Verdict) -> Allow:
    assert isinstance(verdict.decision, Allow), verdict
    return verdict.decision


def refusal_in(verdict: Verdict) -> Reason:
    assert isinstance(verdict.decision, Refuse), verdict
    return verdict.decision.reason


async def usage(ledger: Ledger, account: str = "acme") -> list[tuple[str, int | None, int, int, int]]:
    """(allowance, limit, used, reserved, calls) of each window, oldest first."""
    sheet = await ledger.sheet(account)
    entries = sorted(sheet.usage, key=lambda entry: (entry.meter.window, entry.meter.allowance))
    return [
        (
            entry.meter.allowance,
            entry.meter.limit_units,
            entry.meter.used_units,
            entry.meter.reserved_units,
            entry.calls,
        )
        for entry in entries
    ]


def more(s: int) -> Extend:
    """Give a live grant `s` more, held in the first window that is planned."""
    return lambda _grant, payer: Sized(
        s, (Hold(payer.meters[0].allowance, payer.meters[0].window, payer.meters[0].limit_units, s),)
    )


async def renew(ledger: Ledger, call_id: str, extend: Extend, at_ms: int = NOON_MS) -> Grant:
    return await ledger.renew(
        call_id, lambda _grant, account: meters_at(account, plan(), outbound(at_ms=at_ms, ring_s=0)), extend
    )


# --- authorise -----------------------------------------------------------------------------------


async def test_an_allowed_dial_is_granted_held_and_recorded(ledger: Ledger) -> None:
    await provision(ledger)
    allow = grant_in(await authorise(ledger, outbound(), plan(limit_s=20_000)))
    assert (allow.granted_s, allow.limit_s) == (14_400, 14_400)
    assert await usage(ledger) == [("voice", 20_000, 0, 14_400, 0)]
    assert await ledger.grant("call-1") == Grant(
        call_id="call-1",
        account_id="acme",
        line_id="alice",
        kind=Kind.OUTBOUND,
        dialled="02079460123",
        e164="+442079460123",
        channel="channel-call-1",
        state=GrantState.RINGING,
        granted_s=14_400,
        longest_s=14_400,
        ring_s=60,
        authorised_ms=NOON_MS,
        policy="plan",
        policy_version="1",
        bound_by="longest_call",
    )
    (record,) = await ledger.decisions()
    assert (record.call_id, record.decision, record.reason) == ("call-1", "allow", "within_allowance")
    assert (record.clause_policy, record.clause_version, record.clause_id) == ("plan", "1", "P4")
    assert (record.number_class, record.country, record.granted_s) == ("geographic", "GB", 14_400)


async def test_a_record_names_the_rule_that_cut_a_call_and_none_where_people_hung_up(ledger: Ledger) -> None:
    await provision(ledger)
    longest, scarce = plan(limit_s=20_000, longest_s=60), plan(limit_s=90)
    await authorise(ledger, outbound("longest"), longest)
    await ledger.settle("longest", 60, NOON_MS)
    await authorise(ledger, outbound("hung-up"), longest)
    await ledger.settle("hung-up", 5, NOON_MS)
    await authorise(ledger, outbound("used-up"), scarce)
    await ledger.settle("used-up", 25, NOON_MS)
    await authorise(ledger, outbound("live"), longest)
    cut = {record.call_id: (record.used_s, record.cut_by) for record in await ledger.decisions()}
    assert cut == {
        "longest": (60, "longest_call"),
        "hung-up": (5, None),
        "used-up": (10, "allowances.voice"),
        "live": (None, None),
    }
    assert longest.rule_clause("longest_call", Kind.OUTBOUND) == "P3"
    assert scarce.rule_clause("allowances.voice", Kind.OUTBOUND) == "P4"


async def test_calls_of_who_is_no_longer_active_are_told(ledger: Ledger) -> None:
    await provision(ledger, "acme", "alice", "anna")
    await provision(ledger, "other", "bob")
    for line in ("alice", "anna", "bob"):
        await authorise(ledger, outbound(line, line_id=line))
    assert await ledger.barred_grants() == ()
    await ledger.set_line_standing("anna", Standing.SUSPENDED)
    assert await ledger.barred_grants() == ("anna",)
    await ledger.set_standing("acme", Standing.TERMINATED, NOON_MS)
    assert await ledger.barred_grants() == ("alice", "anna")
    await ledger.settle("alice", 1, NOON_MS)
    assert await ledger.barred_grants() == ("anna",)


async def test_calls_of_a_kind_that_is_restricted_are_told(ledger: Ledger) -> None:
    await provision(ledger)
    await provision(ledger, "other", "bob")
    await authorise(ledger, outbound("out"))
    await authorise(ledger, outbound("within", kind=Kind.INTERNAL, dialled="101"))
    await authorise(ledger, outbound("others", line_id="bob"))
    await ledger.restrict("acme", {Kind.OUTBOUND}, NOON_MS)
    assert await ledger.barred_grants() == ("out",)
    await ledger.restrict("acme", {Kind.INTERNAL, Kind.MESSAGE}, NOON_MS)
    assert await ledger.barred_grants() == ("out", "within")
    await ledger.restrict("acme", {Kind.OUTBOUND}, NOON_MS, lift=True)
    assert await ledger.barred_grants() == ("within",)


async def test_a_restriction_is_seen_by_the_next_dial_and_kept_until_it_is_lifted(ledger: Ledger) -> None:
    await provision(ledger)
    account = await ledger.restrict("acme", {Kind.OUTBOUND}, NOON_MS)
    assert account.restricted == {Kind.OUTBOUND}
    assert refusal_in(await authorise(ledger, outbound("one"))) is Reason.SERVICE_RESTRICTED
    # Neither its own contents again nor a standing lifts it.
    await ledger.add_account(Account("acme", "plan"))
    await ledger.set_standing("acme", Standing.SUSPENDED, NOON_MS)
    await ledger.set_standing("acme", Standing.ACTIVE, NOON_MS)
    assert refusal_in(await authorise(ledger, outbound("two"))) is Reason.SERVICE_RESTRICTED
    within = outbound("three", kind=Kind.INTERNAL, dialled="101")
    assert isinstance((await authorise(ledger, within)).decision, Allow)
    assert (await ledger.restrict("acme", {Kind.OUTBOUND}, NOON_MS, lift=True)).restricted == frozenset()
    assert isinstance((await authorise(ledger, outbound("four"))).decision, Allow)
    with pytest.raises(NotFound):
        await ledger.restrict("nosuch", {Kind.OUTBOUND}, NOON_MS)
    with pytest.raises(ValueError, match="emergency calls cannot be restricted"):
        await ledger.restrict("acme", {Kind.EMERGENCY}, NOON_MS)


async def test_an_answer_that_is_known_only_with_the_end_is_noted_with_it(ledger: Ledger) -> None:
    await provision(ledger)
    for call_id in ("unseen", "seen"):
        await authorise(ledger, outbound(call_id))
    await ledger.answered("seen", "leg", NOON_MS + 3_000)
    for call_id in ("unseen", "seen"):
        settled = await ledger.settle(
            call_id, 5, NOON_MS + 9_000, estimated=True, answered_ms=NOON_MS + 4_000
        )
        assert settled == await ledger.grant(call_id)
    unseen, seen = await ledger.grant("unseen"), await ledger.grant("seen")
    assert unseen is not None
    assert seen is not None
    assert (unseen.answered_ms, unseen.leg) == (NOON_MS + 4_000, unseen.channel)
    # What was seen counts for more.
    assert (seen.answered_ms, seen.leg) == (NOON_MS + 3_000, "leg")


async def test_a_refused_dial_is_recorded_and_holds_nothing(ledger: Ledger) -> None:
    await provision(ledger)
    assert refusal_in(await authorise(ledger, outbound(), plan(limit_s=0))) is Reason.ALLOWANCE_USED_UP
    assert await ledger.grant("call-1") is None
    assert await usage(ledger) == []
    (record,) = await ledger.decisions("acme")
    assert (record.decision, record.reason, record.granted_s) == ("refuse", "allowance_used_up", None)


async def test_an_unknown_line_is_judged_without_an_account(ledger: Ledger) -> None:
    assert refusal_in(await authorise(ledger, outbound())) is Reason.LINE_UNKNOWN
    (record,) = await ledger.decisions()
    assert (record.account_id, record.line_id) == (None, "alice")


async def test_a_judge_that_fails_leaves_nothing(ledger: Ledger) -> None:
    def judge(_snapshot: Snapshot) -> Verdict:
        raise ZeroDivisionError

    await provision(ledger)
    with pytest.raises(ZeroDivisionError):
        await ledger.authorise(outbound(), lambda _line, _account: Needs(), judge)
    assert await ledger.decisions() == ()
    grant_in(await authorise(ledger, outbound()))


async def test_the_same_dial_again_gets_the_first_verdict(ledger: Ledger) -> None:
    await provision(ledger)
    first = await authorise(ledger, outbound())
    later = replace(outbound(), at_ms=NOON_MS + 5_000)
    assert await authorise(ledger, later, plan(limit_s=0)) == first
    refused = await authorise(ledger, outbound("call-2"), plan(limit_s=0))
    assert await authorise(ledger, outbound("call-2")) == refused
    assert await usage(ledger) == [("voice", 6000, 0, 375, 0)]
    assert len(await ledger.decisions()) == 2


@pytest.mark.parametrize(
    "other",
    [
        replace(outbound(), dialled="02079460124"),
        replace(outbound(), line_id="bob"),
        replace(outbound(), kind=Kind.INBOUND),
    ],
    ids=["number", "line", "kind"],
)
async def test_another_dial_of_the_same_id_is_a_conflict(ledger: Ledger, other: Dial) -> None:
    await provision(ledger, "acme", "alice", "bob")
    await authorise(ledger, outbound())
    with pytest.raises(IdempotencyConflict, match="call-1 was decided for alice"):
        await authorise(ledger, other)
    assert len(await ledger.live_grants()) == 1


@pytest.mark.parametrize("ending", ["settled", "released"])
async def test_a_dial_whose_grant_is_gone_is_not_allowed_again(ledger: Ledger, ending: str) -> None:
    await provision(ledger)
    await authorise(ledger, outbound())
    if ending == "settled":
        await ledger.settle("call-1", 3, NOON_MS + 3_000)
    else:
        await ledger.release("call-1")
    with pytest.raises(IdempotencyConflict, match="call-1 is over"):
        await authorise(ledger, outbound())


async def test_simultaneous_repeats_hold_once(ledger: Ledger) -> None:
    await provision(ledger)
    verdicts = await asyncio.gather(*(authorise(ledger, outbound()) for _ in range(20)))
    assert all(verdict == verdicts[0] for verdict in verdicts)
    assert await usage(ledger) == [("voice", 6000, 0, 375, 0)]


async def test_an_undecided_dial_is_recorded_as_such(ledger: Ledger) -> None:
    await provision(ledger)
    refuse = Refuse(Reason.POLICY_MISSING, EMERGENCY.clause, "acme")
    for _ in range(2):
        verdict = await ledger.authorise(
            outbound(), lambda _l, _a: Needs(), lambda _s: Verdict(LONDON, refuse)
        )
        assert refusal_in(verdict) is Reason.POLICY_MISSING
    (record,) = await ledger.decisions()
    assert record.decision == "undecided"


async def test_an_emergency_call_is_recorded_once_and_holds_nothing(ledger: Ledger) -> None:
    verdict = Verdict(Number("112", None, NumberClass.EMERGENCY, "GB"), EMERGENCY)
    dial = outbound(dialled="112", line_id="nobody")
    await ledger.record(dial, verdict)
    await ledger.record(dial, verdict)
    (record,) = await ledger.decisions()
    assert (record.decision, record.reason, record.account_id) == ("allow", "emergency", None)
    assert await ledger.live_grants() == ()
    again = await ledger.authorise(dial, lambda _l, _a: Needs(), lambda _s: verdict)
    assert grant_in(again).reason is Reason.EMERGENCY


# --- the life of a grant -------------------------------------------------------------------------


async def test_the_first_answer_counts_and_the_last_leg(ledger: Ledger) -> None:
    await provision(ledger)
    await authorise(ledger, outbound())
    first = await ledger.answered("call-1", "leg-1", NOON_MS + 4_000)
    assert (first.state, first.leg, first.answered_ms) == (GrantState.TALKING, "leg-1", NOON_MS + 4_000)
    second = await ledger.answered("call-1", "leg-2", NOON_MS + 9_000)
    assert (second.leg, second.answered_ms) == ("leg-2", NOON_MS + 4_000)


async def test_settling_uses_what_was_talked_and_frees_the_rest(ledger: Ledger) -> None:
    await provision(ledger)
    await authorise(ledger, outbound())
    await ledger.answered("call-1", "leg-1", NOON_MS + 4_000)
    settled = await ledger.settle("call-1", 30, NOON_MS + 34_000)
    assert (settled.state, settled.used_s, settled.ended_ms) == (GrantState.SETTLED, 30, NOON_MS + 34_000)
    assert not settled.estimated
    assert await ledger.grant("call-1") == settled
    assert await usage(ledger) == [("voice", 6000, 30, 0, 1)]
    assert await ledger.live_grants() == ()


async def test_a_dial_that_was_not_answered_uses_nothing(ledger: Ledger) -> None:
    await provision(ledger)
    await authorise(ledger, outbound())
    assert (await ledger.settle("call-1", 0, NOON_MS + 9_000)).used_s == 0
    assert await usage(ledger) == [("voice", 6000, 0, 0, 0)]


async def test_an_estimated_settlement_is_marked(ledger: Ledger) -> None:
    await provision(ledger)
    await authorise(ledger, outbound())
    await ledger.settle("call-1", 30, NOON_MS + 34_000, estimated=True)
    grant = await ledger.grant("call-1")
    assert grant is not None
    assert grant.estimated


async def test_no_more_is_used_than_was_granted(ledger: Ledger) -> None:
    await provision(ledger)
    granted_s = grant_in(await authorise(ledger, outbound())).granted_s
    assert (await ledger.settle("call-1", 99_999, NOON_MS)).used_s == granted_s == 375
    assert await usage(ledger) == [("voice", 6000, 375, 0, 1)]


async def test_a_negative_use_is_refused_and_changes_nothing(ledger: Ledger) -> None:
    await provision(ledger)
    await authorise(ledger, outbound())
    with pytest.raises(ConstraintViolated):
        await ledger.settle("call-1", -1, NOON_MS)
    assert await usage(ledger) == [("voice", 6000, 0, 375, 0)]
    assert (await ledger.settle("call-1", 1, NOON_MS)).used_s == 1


STEPS = ("answered", "settle", "settle-more", "release", "renew")


async def _step(ledger: Ledger, step: str) -> None:
    if step == "answered":
        await ledger.answered("call-1", "leg-9", NOON_MS + 50_000)
    elif step == "settle":
        await ledger.settle("call-1", 40, NOON_MS + 40_000)
    elif step == "settle-more":
        await ledger.settle("call-1", 90, NOON_MS + 90_000, estimated=True)
    elif step == "release":
        await ledger.release("call-1")
    else:
        await renew(ledger, "call-1", more(60))


@pytest.mark.parametrize("steps", list(permutations(STEPS, 3)), ids=lambda steps: "-".join(steps))
async def test_a_settlement_is_for_ever(ledger: Ledger, steps: tuple[str, ...]) -> None:
    await provision(ledger)
    await authorise(ledger, outbound())
    await ledger.answered("call-1", "leg-1", NOON_MS + 4_000)
    settled = await ledger.settle("call-1", 30, NOON_MS + 34_000)
    for step in steps:
        await _step(ledger, step)
    assert await ledger.grant("call-1") == settled
    assert await usage(ledger) == [("voice", 6000, 30, 0, 1)]


async def test_simultaneous_settlements_count_once(ledger: Ledger) -> None:
    await provision(ledger)
    await authorise(ledger, outbound())
    grants = await asyncio.gather(*(ledger.settle("call-1", s, NOON_MS + s) for s in range(30, 50)))
    [used_s] = {grant.used_s for grant in grants}
    assert await usage(ledger) == [("voice", 6000, used_s, 0, 1)]


async def test_only_a_call_that_never_came_to_be_is_released(ledger: Ledger) -> None:
    await provision(ledger)
    await authorise(ledger, outbound("ringing"))
    await authorise(ledger, outbound("talking"))
    await ledger.answered("talking", "leg", NOON_MS)
    for call_id in ("ringing", "talking", "unknown"):
        await ledger.release(call_id)
    assert [grant.call_id for grant in await ledger.live_grants()] == ["talking"]
    released = await ledger.grant("ringing")
    assert released is not None
    assert (released.state, released.used_s) == (GrantState.SETTLED, 0)


async def test_live_grants_are_oldest_first_and_end_with_settlement(ledger: Ledger) -> None:
    await provision(ledger)
    for age, call_id in enumerate(("new", "middle", "old")):
        await authorise(ledger, outbound(call_id, at_ms=NOON_MS - age * 1000))
    assert [grant.call_id for grant in await ledger.live_grants()] == ["old", "middle", "new"]
    await ledger.settle("middle", 0, NOON_MS)
    assert [grant.call_id for grant in await ledger.live_grants()] == ["old", "new"]


@pytest.mark.parametrize("step", ["answered", "settle", "renew"])
async def test_a_grant_that_is_not_there_is_not_found(ledger: Ledger, step: str) -> None:
    with pytest.raises(NotFound, match="no grant for call call-1"):
        await _step(ledger, step)
    assert await ledger.grant("call-1") is None


# --- renewal -------------------------------------------------------------------------------------


async def test_a_renewal_adds_to_grant_and_hold(ledger: Ledger) -> None:
    await provision(ledger)
    await authorise(ledger, outbound())
    assert (await renew(ledger, "call-1", more(60))).granted_s == 435
    assert await usage(ledger) == [("voice", 6000, 0, 435, 0)]
    assert (await ledger.settle("call-1", 400, NOON_MS)).used_s == 400
    assert await usage(ledger) == [("voice", 6000, 400, 0, 1)]


async def test_a_renewal_that_is_declined_changes_nothing(ledger: Ledger) -> None:
    await provision(ledger)
    await authorise(ledger, outbound())
    before = await ledger.grant("call-1")
    assert await renew(ledger, "call-1", lambda _grant, _payer: None) == before
    assert await usage(ledger) == [("voice", 6000, 0, 375, 0)]


async def test_a_renewal_sees_what_all_calls_hold(ledger: Ledger) -> None:
    await provision(ledger)
    await authorise(ledger, outbound("call-1"))
    await authorise(ledger, outbound("call-2"))
    seen: list[tuple[int, int]] = []

    def extend(_grant: Grant, payer: Snapshot) -> None:
        seen.append((payer.meters[0].used_units, payer.meters[0].reserved_units))

    await renew(ledger, "call-1", extend)
    assert seen == [(0, 375 + 351)]


async def test_a_renewal_past_the_limit_is_refused_whole(ledger: Ledger) -> None:
    await provision(ledger)
    await authorise(ledger, outbound())
    with pytest.raises(ConstraintViolated):
        await renew(ledger, "call-1", more(5_626))
    assert await usage(ledger) == [("voice", 6000, 0, 375, 0)]
    assert (await renew(ledger, "call-1", more(5_625))).granted_s == 6000


# --- periods -------------------------------------------------------------------------------------


async def test_a_call_over_a_boundary_is_split(ledger: Ledger) -> None:
    await provision(ledger)
    at_ms = MONTH_END_MS - 20_000
    allow = grant_in(await authorise(ledger, outbound(at_ms=at_ms), plan(longest_s=300)))
    assert [hold.hold_units for hold in allow.holds] == [20, 300]
    assert await usage(ledger) == [("voice", 6000, 0, 20, 0), ("voice", 6000, 0, 300, 0)]
    await ledger.answered("call-1", "leg", at_ms + 5_000)
    await ledger.settle("call-1", 100, at_ms + 105_000)
    assert await usage(ledger) == [("voice", 6000, 15, 0, 1), ("voice", 6000, 85, 0, 1)]


async def test_a_call_that_is_answered_later_than_foreseen_loses_no_second(ledger: Ledger) -> None:
    await provision(ledger)
    at_ms = MONTH_END_MS - 400_000
    # 300 s of talk after at most 60 s of ringing would end in November: nothing is held in December.
    await authorise(ledger, outbound(at_ms=at_ms), plan(longest_s=300))
    await ledger.answered("call-1", "leg", at_ms + 250_000)
    await ledger.settle("call-1", 300, at_ms + 550_000)
    assert await usage(ledger) == [("voice", 6000, 300, 0, 1)]


async def test_what_falls_where_too_little_is_held_counts_where_it_was_held(ledger: Ledger) -> None:
    await provision(ledger)
    at_ms = MONTH_END_MS - 400_000
    await authorise(
        ledger, outbound(at_ms=at_ms), plan(longest_s=360)
    )  # 360 held in November, 20 in December
    await ledger.answered("call-1", "leg", at_ms + 300_000)
    await ledger.settle("call-1", 360, at_ms + 660_000)
    assert await usage(ledger) == [("voice", 6000, 340, 0, 1), ("voice", 6000, 20, 0, 1)]


async def test_a_call_whose_answer_was_not_noted_is_split_from_its_end(ledger: Ledger) -> None:
    await provision(ledger)
    at_ms = MONTH_END_MS - 50_000
    await authorise(ledger, outbound(at_ms=at_ms), plan(longest_s=300))
    await ledger.settle("call-1", 100, at_ms + 140_000)
    assert await usage(ledger) == [("voice", 6000, 10, 0, 1), ("voice", 6000, 90, 0, 1)]


async def test_days_and_months_are_held_side_by_side(ledger: Ledger) -> None:
    await provision(ledger)
    policy = plan(limit_s=20_000, day_limit_s=3600)
    await authorise(ledger, outbound(), policy)
    assert await usage(ledger) == [("voice", 20_000, 0, 225, 0), ("daily", 3600, 0, 225, 0)]
    await ledger.settle("call-1", 100, NOON_MS + 100_000)
    assert await usage(ledger) == [("voice", 20_000, 100, 0, 1), ("daily", 3600, 100, 0, 1)]


async def test_periods_that_begin_together_are_metered_apart(ledger: Ledger) -> None:
    await provision(ledger)
    by_month = plan(limit_s=100)
    daily = by_month.allowances[0].model_copy(update={"period": plan(day_limit_s=1).allowances[1].period})
    by_day = by_month.model_copy(update={"allowances": (daily,)})
    await authorise(ledger, outbound("call-1", at_ms=MONTH_END_MS), by_month)
    await ledger.settle("call-1", 25, MONTH_END_MS + 25_000)
    await authorise(ledger, outbound("call-2", at_ms=MONTH_END_MS + 60_000), by_day)
    assert sorted(await usage(ledger)) == [("voice", 100, 0, 25, 0), ("voice", 100, 25, 0, 1)]


# --- limits --------------------------------------------------------------------------------------


async def test_two_hundred_simultaneous_dials_share_one_minute(ledger: Ledger) -> None:
    await provision(ledger)
    policy = plan(limit_s=60)
    verdicts = await asyncio.gather(
        *(authorise(ledger, outbound(f"call-{number}"), policy) for number in range(200))
    )
    grants = [verdict.decision.granted_s or 0 for verdict in verdicts if isinstance(verdict.decision, Allow)]
    assert sum(grants) == 60  # not one second more, and none refused while one was left
    assert min(grants) >= RULES.useful_s
    reasons = {refusal_in(verdict) for verdict in verdicts if isinstance(verdict.decision, Refuse)}
    assert reasons == {Reason.ALLOWANCE_RESERVED}
    assert await usage(ledger) == [("voice", 60, 0, 60, 0)]


async def test_what_ends_early_is_there_for_the_next(ledger: Ledger) -> None:
    await provision(ledger)
    policy = plan(limit_s=15)
    grant_in(await authorise(ledger, outbound("call-1"), policy))
    assert refusal_in(await authorise(ledger, outbound("call-2"), policy)) is Reason.ALLOWANCE_RESERVED
    await ledger.settle("call-1", 5, NOON_MS)
    assert grant_in(await authorise(ledger, outbound("call-3"), policy)).granted_s == 10


async def test_a_lowered_limit_stops_new_calls_and_spares_what_was_granted(ledger: Ledger) -> None:
    await provision(ledger)
    await authorise(ledger, outbound("call-1"))
    assert (
        refusal_in(await authorise(ledger, outbound("call-2"), plan(limit_s=50))) is Reason.ALLOWANCE_RESERVED
    )
    settled = await ledger.settle("call-1", 375, NOON_MS)
    assert settled.used_s == 375
    assert (
        refusal_in(await authorise(ledger, outbound("call-3"), plan(limit_s=375))) is Reason.ALLOWANCE_USED_UP
    )
    assert grant_in(await authorise(ledger, outbound("call-4"), plan(limit_s=380))).granted_s == 5
    assert await usage(ledger) == [("voice", 380, 375, 5, 1)]


async def test_a_raised_limit_is_there_at_once(ledger: Ledger) -> None:
    await provision(ledger)
    grant_in(await authorise(ledger, outbound("call-1"), plan(limit_s=10)))
    assert grant_in(await authorise(ledger, outbound("call-2"), plan(limit_s=25))).granted_s == 15


async def test_a_call_without_an_end_is_metered_in_full(ledger: Ledger) -> None:
    await provision(ledger)
    endless = plan(limit_s=None, longest_s=None)
    assert grant_in(await authorise(ledger, outbound(), endless)).granted_s is None
    await ledger.settle("call-1", 200_000, NOON_MS + 200_000_000)
    assert [used_s for _, _, used_s, _, _ in await usage(ledger)] == [200_000]


async def test_an_endless_call_is_metered_in_full_though_a_limit_came_meanwhile(ledger: Ledger) -> None:
    await provision(ledger)
    await authorise(ledger, outbound("endless"), plan(limit_s=None, longest_s=None))
    grant_in(await authorise(ledger, outbound("limited"), plan(limit_s=100)))
    await ledger.settle("endless", 500, NOON_MS + 500_000)
    assert await usage(ledger) == [("voice", 525, 500, 25, 1)]
    assert (
        refusal_in(await authorise(ledger, outbound("late"), plan(limit_s=100))) is Reason.ALLOWANCE_USED_UP
    )


async def test_accounts_do_not_share(ledger: Ledger) -> None:
    await provision(ledger, "acme", "alice")
    await provision(ledger, "other", "bob")
    policy = plan(limit_s=15)
    grant_in(await authorise(ledger, outbound("call-1"), policy))
    grant_in(await authorise(ledger, outbound("call-2", line_id="bob"), policy))
    assert await usage(ledger, "acme") == await usage(ledger, "other") == [("voice", 15, 0, 15, 0)]


# --- reading -------------------------------------------------------------------------------------


async def test_decisions_are_newest_first_by_account_and_limited(ledger: Ledger) -> None:
    await provision(ledger, "acme", "alice")
    await provision(ledger, "other", "bob")
    for number, line in enumerate(("alice", "bob", "alice", "bob", "nobody")):
        await authorise(ledger, outbound(f"call-{number}", line_id=line, at_ms=NOON_MS + number))
    ids = [record.call_id for record in await ledger.decisions()]
    assert ids == ["call-4", "call-3", "call-2", "call-1", "call-0"]
    assert [record.call_id for record in await ledger.decisions("acme")] == ["call-2", "call-0"]
    assert [record.call_id for record in await ledger.decisions("acme", 1)] == ["call-2"]
    assert [record.call_id for record in await ledger.decisions(limit=2)] == ids[:2]
    assert await ledger.decisions("missing") == ()


async def test_a_snapshot_shows_what_a_decision_would_see(ledger: Ledger) -> None:
    await provision(ledger)
    await authorise(ledger, outbound())
    later = outbound("call-2")
    snapshot = await ledger.snapshot("alice", lambda _line, account: Needs(meters_at(account, plan(), later)))
    assert (snapshot.line, snapshot.account) == (Line("alice", "acme"), Account("acme", "plan"))
    assert [(meter.used_units, meter.reserved_units, meter.limit_units) for meter in snapshot.meters] == [
        (0, 375, 6000)
    ]
    assert isinstance(size_grant(NOON_MS, 60, 3600, snapshot.meters, RULES), Sized)
    assert await ledger.snapshot("nobody", lambda _line, _account: Needs()) == Snapshot(None, None)
    assert len(await ledger.decisions()) == 1


# --- provisioning --------------------------------------------------------------------------------


async def test_accounts_and_lines_are_kept_as_given(ledger: Ledger) -> None:
    acme = Account("acme", "plan", "Europe/London", "Acme & Söhne", Standing.SUSPENDED)
    line = Line("alice", "acme", Habit("DE", ("00",), "", ("9",), "_1XX"), Standing.SUSPENDED)
    await ledger.add_account(acme)
    await ledger.add_account(Account("abc", "plan"))
    await ledger.add_line(line)
    await ledger.add_line(Line("bob", "abc"))
    assert await ledger.accounts() == (Account("abc", "plan"), acme)
    assert await ledger.lines() == (line, Line("bob", "abc"))
    assert await ledger.lines("acme") == (line,)
    sheet = await ledger.sheet("acme")
    assert (sheet.account, sheet.lines, sheet.usage) == (acme, (line,), ())


async def test_adding_again_changes_nothing_not_even_a_standing(ledger: Ledger) -> None:
    await provision(ledger)
    await ledger.set_standing("acme", Standing.TERMINATED, NOON_MS)
    await provision(ledger)
    (account,) = await ledger.accounts()
    assert account.standing is Standing.TERMINATED
    assert len(await ledger.lines()) == 1


async def test_an_id_that_is_taken_is_refused(ledger: Ledger) -> None:
    await provision(ledger)
    await provision(ledger, "other", "bob")
    with pytest.raises(AlreadyExists, match="'acme' exists with other contents"):
        await ledger.add_account(Account("acme", "plan", "Europe/Paris"))
    with pytest.raises(AlreadyExists, match="'alice' exists with other contents, at account 'acme'"):
        await ledger.add_line(Line("alice", "other"))
    with pytest.raises(AlreadyExists, match="'alice' exists"):
        await ledger.add_line(Line("alice", "acme", Habit("US")))
    assert {account.zone for account in await ledger.accounts()} == {"UTC"}


async def test_a_standing_is_set_and_seen_by_the_next_dial(ledger: Ledger) -> None:
    await provision(ledger)
    assert (await ledger.set_standing("acme", Standing.SUSPENDED, NOON_MS)).standing is Standing.SUSPENDED
    assert refusal_in(await authorise(ledger, outbound("call-1"))) is Reason.ACCOUNT_SUSPENDED
    await ledger.set_standing("acme", Standing.ACTIVE, NOON_MS)
    grant_in(await authorise(ledger, outbound("call-2")))


async def test_an_account_that_is_not_there_is_told_with_the_cure(ledger: Ledger) -> None:
    for step in (
        ledger.add_line(Line("alice", "acme")),
        ledger.set_standing("acme", Standing.SUSPENDED, NOON_MS),
        ledger.lines("acme"),
        ledger.sheet("acme"),
    ):
        with pytest.raises(NotFound, match="no account 'acme'; `fairdial account list` shows all"):
            await step


# --- durability ----------------------------------------------------------------------------------


async def test_what_was_confirmed_is_there_after_opening_again(store: Store) -> None:
    ledger = await store.open()
    await provision(ledger)
    await authorise(ledger, outbound("call-1"))
    await authorise(ledger, outbound("call-2"))
    await ledger.answered("call-1", "leg", NOON_MS + 1_000)
    await ledger.settle("call-2", 7, NOON_MS + 7_000)
    before = (await usage(ledger), await ledger.live_grants(), await ledger.decisions())
    await ledger.close()
    again = await store.open()
    assert (await usage(again), await again.live_grants(), await again.decisions()) == before
    await again.close()


async def test_a_closed_ledger_says_so(store: Store) -> None:
    ledger = await store.open()
    await ledger.close()
    await ledger.close()
    for step in (ledger.accounts(), ledger.settle("call-1", 1, 1), authorise(ledger, outbound())):
        with pytest.raises(LedgerUnavailable, match="closed"):
            await step
