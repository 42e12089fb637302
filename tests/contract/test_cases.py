"""What the ledger promises about cases: one open case each, the steps with it, judgements, and undoing."""

from dataclasses import replace

import pytest

from fairdial.ledger.contract import CaseState, Finding, Ledger, NotFound
from fairdial.policy.account import Account, Kind, Line, Options, Standing
from fairdial.policy.document import Rung, Step
from fairdial.policy.history import Answer, Attempt, End
from fairdial.policy.ladder import DAY_MS, Taken
from fairdial.policy.peers import Use
from fairdial.policy.terms import Clause
from tests.samples import NOON_MS, authorise, outbound, plan, provision
from tests.watched import rung, watched

CLAUSE = Clause("plan", "1", "P7")
OUT = frozenset({Kind.OUTBOUND})
FOUND = Finding("acme", "many", CLAUSE, NOON_MS, 30, 30, "30 numbers", ("c1", "c2"), OUT)
RESTRICT = Taken(Step.RESTRICT, "many", "P7", OUT)
SUSPEND = Taken(Step.SUSPEND, "many", "P7")
FRAUD = Taken(Step.TERMINATE, "flag", "P10", fraud=True)


@pytest.fixture
async def acme(ledger: Ledger) -> Ledger:
    """With acme, that has alice, and other, that has carol."""
    await provision(ledger, "acme", "alice")
    await provision(ledger, "other", "carol")
    return ledger


async def account(ledger: Ledger, account_id: str = "acme") -> Account:
    return (await ledger.sheet(account_id)).account


async def case_of(ledger: Ledger, finding: Finding = FOUND) -> int:
    change = await ledger.report(finding)
    assert change is not None
    return change.case.id


def rungs(*tables: str) -> tuple[Rung, ...]:
    return watched(*tables).ladder


async def test_a_finding_opens_a_case_with_its_evidence(acme: Ledger) -> None:
    change = await acme.report(FOUND)
    assert change is not None
    assert (change.new, change.taken) == (True, ())
    [case] = await acme.cases()
    assert case == change.case
    assert (case.account_id, case.detector, case.clause, case.state) == ("acme", "many", CLAUSE, "open")
    assert (case.value, case.threshold, case.words, case.calls) == (30, 30, "30 numbers", ("c1", "c2"))
    _, [entry] = await acme.case(case.id)
    assert (entry.what, entry.by, entry.at_ms, entry.note) == ("opened", "fairdial", NOON_MS, "30 numbers")


async def test_the_same_again_feeds_the_open_case(acme: Ledger) -> None:
    first = await case_of(acme)
    later = replace(FOUND, at_ms=NOON_MS + 60_000, value=40, words="40 numbers", calls=("c9",))
    change = await acme.report(later)
    assert change is not None
    assert (change.new, change.case.id, change.case.hits) == (False, first, 2)
    assert (change.case.value, change.case.words, change.case.calls) == (40, "40 numbers", ("c9",))
    assert change.case.opened_ms == NOON_MS
    # The same step once more, as after a crash.
    again = await acme.report(later)
    assert again is not None
    assert again.case == change.case
    assert len(await acme.cases()) == 1


async def test_another_detector_and_another_account_have_cases_of_their_own(acme: Ledger) -> None:
    for finding in (FOUND, replace(FOUND, detector="long"), replace(FOUND, account_id="other")):
        await case_of(acme, finding)
    assert [case.account_id for case in await acme.cases()] == ["other", "acme", "acme"]
    assert len(await acme.cases("acme")) == 2
    assert await acme.cases("acme", CaseState.CLOSED) == ()
    with pytest.raises(NotFound, match="nobody"):
        await acme.report(replace(FOUND, account_id="nobody"))


async def test_its_step_is_taken_with_it(acme: Ledger) -> None:
    change = await acme.report(replace(FOUND, first=RESTRICT))
    assert change is not None
    assert (change.taken, change.case.step) == ((RESTRICT,), "restrict")
    assert (await account(acme)).restricted == OUT
    assert (await account(acme)).standing is Standing.ACTIVE
    assert (await account(acme, "other")).restricted == frozenset()
    # What has been done is not done again by feeding it.
    await acme.restrict("acme", OUT, NOON_MS, lift=True)
    await acme.report(replace(FOUND, first=RESTRICT, at_ms=NOON_MS + 1))
    assert (await account(acme)).restricted == frozenset()


async def test_in_shadow_nothing_is_done(acme: Ledger) -> None:
    steps = rungs(rung("end", 1, "suspend"))
    case = await case_of(
        acme, replace(FOUND, first=replace(SUSPEND, enforced=False), shadow=True, rungs=steps)
    )
    assert (await account(acme)).standing is Standing.ACTIVE
    _, entries = await acme.case(case)
    assert [(entry.what, entry.enforced) for entry in entries] == [("opened", False), ("suspend", False)]
    # Nor does it count for the ladder of others.
    change = await acme.report(replace(FOUND, detector="long", rungs=rungs(rung("end", 2, "suspend"))))
    assert change is not None
    assert change.taken == ()


async def test_the_ladder_follows_by_open_cases(acme: Ledger) -> None:
    steps = rungs(rung("ask", 1, "moderate", "deadline_days = 14"), rung("end", 2, "suspend"))
    first = await acme.report(replace(FOUND, rungs=steps))
    assert first is not None
    assert [taken.step for taken in first.taken] == [Step.MODERATE]
    assert first.case.deadline_ms == NOON_MS + 14 * DAY_MS
    second = await acme.report(
        replace(FOUND, detector="long", rungs=steps, first=replace(SUSPEND, step=Step.NOTICE))
    )
    assert second is not None
    assert [taken.step for taken in second.taken] == [Step.NOTICE, Step.SUSPEND]
    assert (await account(acme)).standing is Standing.SUSPENDED


async def test_a_rung_that_is_no_harder_than_the_detectors_step_is_left_out(acme: Ledger) -> None:
    change = await acme.report(replace(FOUND, first=SUSPEND, rungs=rungs(rung("ask", 1, "moderate"))))
    assert change is not None
    assert change.taken == (SUSPEND,)


async def test_a_terminated_account_is_not_suspended(acme: Ledger) -> None:
    await acme.set_standing("acme", Standing.TERMINATED, NOON_MS)
    await case_of(acme, replace(FOUND, first=SUSPEND))
    assert (await account(acme)).standing is Standing.TERMINATED


async def test_fraud_forfeits_the_credit_and_keeps_the_charges(acme: Ledger) -> None:
    await acme.add_credit("acme", "EUR", 5_000_000, "p1", NOON_MS)
    await case_of(acme, replace(FOUND, detector="flag", first=FRAUD))
    entry = await account(acme)
    assert (entry.standing, entry.fraud) == (Standing.TERMINATED, True)
    credit = (await acme.sheet("acme")).credit
    assert credit is not None
    assert credit.balance_micros == 0


async def test_what_was_dismissed_does_not_come_back_by_the_same_evidence(acme: Ledger) -> None:
    case = await case_of(acme)
    closed = await acme.close_case(case, NOON_MS + 5, "ann", "a school", dismissed=True, undo=False)
    assert (closed.state, closed.closed_ms) == (CaseState.DISMISSED, NOON_MS + 5)
    assert await acme.report(FOUND) is None
    assert await acme.report(replace(FOUND, at_ms=NOON_MS + 5)) is None
    assert [case.state for case in await acme.cases()] == ["dismissed"]
    newer = await acme.report(replace(FOUND, at_ms=NOON_MS + 6))
    assert newer is not None
    assert newer.new
    assert await acme.judged(NOON_MS) == (("acme", "many", NOON_MS + 5),)
    assert await acme.judged(NOON_MS + 6) == ()


async def test_over_a_period_as_a_whole_it_comes_back_only_grown(acme: Ledger) -> None:
    month = replace(FOUND, value=4.0, threshold=3, cumulative=True)
    case = await case_of(acme, month)
    await acme.close_case(case, NOON_MS + 5, "ann", "", dismissed=True, undo=False)
    later = replace(month, at_ms=NOON_MS + DAY_MS)
    assert await acme.report(replace(later, value=4.9)) is None
    assert await acme.report(replace(later, value=5.0)) is not None


async def test_a_closed_case_is_judged_once(acme: Ledger) -> None:
    case = await case_of(acme)
    await acme.close_case(case, NOON_MS + 5, "ann", "", dismissed=False, undo=False)
    with pytest.raises(NotFound, match="is closed"):
        await acme.close_case(case, NOON_MS + 6, "ann", "", dismissed=True, undo=True)
    with pytest.raises(NotFound, match="no case 99"):
        await acme.case(99)


async def test_undoing_gives_back_what_the_case_took(acme: Ledger) -> None:
    await acme.restrict("acme", [Kind.CALLBACK], NOON_MS)
    both = replace(RESTRICT, services=frozenset({Kind.OUTBOUND, Kind.CALLBACK}))
    steps = rungs(rung("end", 1, "suspend"))
    case = await case_of(acme, replace(FOUND, first=both, rungs=steps))
    assert (await account(acme)).standing is Standing.SUSPENDED
    await acme.close_case(case, NOON_MS + 5, "ann", "a mistake", dismissed=True, undo=True)
    entry = await account(acme)
    assert entry.standing is Standing.ACTIVE
    assert entry.restricted == {Kind.CALLBACK}, "an operator took this one by hand, before"
    _, entries = await acme.case(case)
    assert [each.what for each in entries] == [
        "opened",
        "restrict",
        "suspend",
        "dismissed",
        "undone",
        "undone",
    ]


async def test_undoing_leaves_what_other_open_cases_want(acme: Ledger) -> None:
    first = await case_of(acme, replace(FOUND, first=RESTRICT))
    second = await case_of(acme, replace(FOUND, detector="long", first=SUSPEND))
    third = await case_of(acme, replace(FOUND, detector="odd", first=RESTRICT))
    await acme.close_case(first, NOON_MS + 5, "ann", "", dismissed=True, undo=True)
    assert (await account(acme)).restricted == OUT
    await acme.close_case(second, NOON_MS + 6, "ann", "", dismissed=True, undo=True)
    assert (await account(acme)).standing is Standing.ACTIVE
    await acme.close_case(third, NOON_MS + 7, "ann", "", dismissed=True, undo=False)
    assert (await account(acme)).restricted == OUT, "closed without undoing"


async def test_a_deadline_that_passes_leads_to_the_next_step(acme: Ledger) -> None:
    steps = rungs(rung("ask", 1, "moderate", "deadline_days = 14"))
    case = await case_of(acme, replace(FOUND, rungs=steps))
    due_ms = NOON_MS + 14 * DAY_MS
    assert await acme.overdue_cases(due_ms - 1) == ()
    assert [each.id for each in await acme.overdue_cases(due_ms)] == [case]
    early = await acme.follow_up(case, RESTRICT, due_ms - 1)
    assert early.taken == ()
    assert (await account(acme)).restricted == frozenset()
    change = await acme.follow_up(case, RESTRICT, due_ms)
    assert (change.taken, change.case.step, change.case.deadline_ms) == ((RESTRICT,), "restrict", None)
    assert (await account(acme)).restricted == OUT
    # Once: another that looks at the same time finds it done.
    assert (await acme.follow_up(case, RESTRICT, due_ms)).taken == ()
    assert await acme.overdue_cases(due_ms) == ()


async def test_a_deadline_is_shortened(acme: Ledger) -> None:
    case = await case_of(acme, replace(FOUND, rungs=rungs(rung("ask", 1, "moderate", "deadline_days = 14"))))
    assert (await acme.set_deadline(case, NOON_MS + 7, NOON_MS + 1, "ann")).deadline_ms == NOON_MS + 7
    assert [each.id for each in await acme.overdue_cases(NOON_MS + 7)] == [case]


async def test_complaints_are_counted_in_their_window(acme: Ledger) -> None:
    assert await acme.complain("acme", NOON_MS, "ann", "spam from +44…", NOON_MS - DAY_MS) == 1
    assert await acme.complain("acme", NOON_MS + 5, "ann", "again", NOON_MS - DAY_MS) == 2
    assert await acme.complain("other", NOON_MS + 6, "ann", "noise", NOON_MS - DAY_MS) == 1
    assert await acme.complain("acme", NOON_MS + 2 * DAY_MS, "ann", "again", NOON_MS + DAY_MS) == 1
    with pytest.raises(NotFound):
        await acme.complain("nobody", NOON_MS, "ann", "noise", 0)


async def test_the_past_is_told_by_dials_and_in_pieces(acme: Ledger) -> None:
    for n in range(5):
        await authorise(acme, outbound(f"c{n}", at_ms=NOON_MS + n))
    await acme.answered("c1", "leg", NOON_MS + 10)
    await acme.settle("c1", 7, NOON_MS + 7_010)
    first = await acme.past(NOON_MS + 1, None, 3)
    rest = await acme.past(NOON_MS + 1, first.next_at, 3)
    dials = [*first.dials, *rest.dials]
    assert (len(first.dials), rest.next_at) == (3, None)
    assert [(*first.accounts,), (*rest.accounts,)] == [("acme",), ("acme",)]
    assert [await acme.dialled_since(count) - NOON_MS for count in (1, 5)] == [4, 0]
    assert await acme.dialled_since(6) == 0
    assert [dial[0].at_ms - NOON_MS for dial in dials] == [1, 2, 3, 4]
    made, answer, end = dials[0]
    assert isinstance(made, Attempt)
    assert (made.call_id, made.account_id, made.callee, made.allowed) == ("c1", "acme", "+442079460123", True)
    assert answer == Answer("c1", NOON_MS + 10, "acme")
    assert end == End("c1", NOON_MS + 7_010, "acme", 7, 0)


async def test_use_is_told_for_all_accounts_of_a_plan(acme: Ledger) -> None:
    await acme.add_account(Account("third", "another"))
    await acme.add_line(Line("dave", "third"))
    await acme.subscribe("acme", "plan", Options(estimate_s=600))
    for call, line, used_s in (("c1", "alice", 70), ("c2", "carol", 30), ("c3", "dave", 99)):
        await authorise(acme, outbound(call, line_id=line), plan())
        await acme.answered(call, "leg", NOON_MS)
        await acme.settle(call, used_s, NOON_MS + used_s * 1000)
    assert await acme.uses("plan", "voice", NOON_MS) == (Use("acme", 70, 600), Use("other", 30))
    assert await acme.uses("plan", "voice", NOON_MS, "", 1) == (Use("acme", 70, 600),)
    assert await acme.uses("plan", "voice", NOON_MS, "acme", 1) == (Use("other", 30),)
    assert await acme.uses("plan", "voic_", NOON_MS) == ()
    assert await acme.uses("plan", "voice", NOON_MS + 40 * DAY_MS) == ()


async def test_the_bars_of_a_case_end_calls_in_progress(acme: Ledger) -> None:
    await authorise(acme, outbound("c1"))
    assert await acme.barred_grants() == ()
    await case_of(acme, replace(FOUND, first=RESTRICT))
    assert await acme.barred_grants() == ("c1",)
