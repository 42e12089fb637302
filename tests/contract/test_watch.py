"""The watch on a real store: what the desk writes is watched, found, answered, and known again after a restart."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fairdial import watch as watching
from fairdial.cases import Cases
from fairdial.desk import Asked, Desk, DeskRules
from fairdial.ledger.contract import Finding, Ledger, LedgerUnavailable
from fairdial.policy.account import Kind, Options, Standing
from fairdial.policy.book import PolicyBook
from fairdial.policy.crowd import Crowd
from fairdial.policy.decide import Allow, Verdict
from fairdial.policy.document import Policy, Step
from fairdial.policy.history import Event, Noted
from fairdial.policy.outcomes import Reason
from fairdial.policy.patterns import Hit
from fairdial.watch import Watch
from tests.charges import NUMBERING
from tests.samples import NOON_MS, RULES, SetClock, nothing_under_way, provision
from tests.watched import detector, rung, watched

SEQUENTIAL = watched(detector("row", "sequential_numbers", 5, step="suspend"))


class Counter:
    """A desk on a ledger, with a watch; its cuts are taken down."""

    def __init__(
        self,
        ledger: Ledger,
        policy: Policy,
        clock: SetClock,
        *,
        accounts_max: int = 100,
        compare_every_s: float = watching.COMPARE_EVERY_S,
        shared: bool = False,
    ) -> None:
        self.ledger, self.clock = ledger, clock
        # Patient: what is broken on purpose is told with long tracebacks, which take the loop their time.
        rules = DeskRules(answer_within_s=5, grants=RULES)
        self.desk = Desk(ledger, PolicyBook([policy]), NUMBERING, clock, rules)
        self.cuts: list[tuple[str | None, frozenset[Kind] | None]] = []
        self.cases = Cases(ledger, lambda: self.desk.policies, self._cut)
        self.watch = Watch(
            ledger,
            lambda: self.desk.policies,
            self.cases,
            clock,
            accounts_max=accounts_max,
            compare_every_s=compare_every_s,
            shared=shared,
            follow_every_s=0.02,
        )
        self.desk.listeners.append(self.watch)
        self._calls = 0

    async def _cut(
        self, *, account: str | None = None, line: str | None = None, kinds: Collection[Kind] | None = None
    ) -> int:
        self.cuts.append((account, None if kinds is None else frozenset(kinds)))
        return 0

    async def dial(self, number: int, line: str = "alice", *, talk_s: int | None = 3) -> Verdict:
        """A call of `talk_s` to a London number; None: it goes on."""
        self._calls += 1
        self.clock.forward(20_000)
        call_id = f"{line}-{self.clock.now().wall_ms}-{self._calls}"
        verdict = await self.desk.authorise(
            Asked(call_id, Kind.OUTBOUND, f"0207946{number:04}", line, f"channel-{call_id}", 30)
        )
        assert isinstance(verdict, Verdict)
        if isinstance(verdict.decision, Allow):
            await self.desk.answered(call_id, "leg", self.clock.now())
            if talk_s is not None:
                self.clock.forward(talk_s * 1000)
                await self.desk.settle(call_id, talk_s, self.clock.now())
        return verdict

    async def dealt_with(self) -> None:
        """Everything that was told has been watched, and what was found is written."""
        async with asyncio.timeout(5):
            while self.watch.waiting:
                await asyncio.sleep(0.005)
            # The last of it may be in the ledger's hands.
            await nothing_under_way(self.ledger)


@asynccontextmanager
async def counter(
    ledger: Ledger, policy: Policy = SEQUENTIAL, clock: SetClock | None = None, **settings: Any
) -> AsyncIterator[Counter]:
    made = Counter(ledger, policy, clock or SetClock(), **settings)
    await made.watch.start()
    try:
        yield made
    finally:
        await made.watch.stop()
        await made.desk.close()


@pytest.fixture
async def acme(ledger: Ledger) -> Ledger:
    await provision(ledger, "acme", "alice")
    await provision(ledger, "other", "carol")
    return ledger


async def standing(ledger: Ledger, account: str = "acme") -> Standing:
    return (await ledger.sheet(account)).account.standing


async def test_a_dialler_is_stopped_and_another_account_calls_on(acme: Ledger) -> None:
    async with counter(acme) as at:
        for n in range(5):
            await at.dial(100 + n)
            await at.dial(100 + 53 * n * n, "carol")
        await at.dealt_with()
        [case] = await acme.cases()
        assert (case.account_id, case.detector, case.step, len(case.calls)) == ("acme", "row", "suspend", 5)
        assert at.cuts == [("acme", None)]
        assert at.cases.hits.counts == at.cases.opened.counts == {("row",): 1}
        refused = await at.dial(105)
        assert refused.decision.reason is Reason.ACCOUNT_SUSPENDED
        assert isinstance((await at.dial(500, "carol")).decision, Allow)
        assert await standing(acme, "other") is Standing.ACTIVE


async def test_a_restart_forgets_no_pattern(acme: Ledger) -> None:
    clock = SetClock()
    async with counter(acme, clock=clock) as at:
        for n in range(3):
            await at.dial(100 + n)
        await at.dealt_with()
    async with counter(acme, clock=clock) as at:
        await at.dial(103)
        await at.dealt_with()
        assert await acme.cases() == ()
        await at.dial(104)
        await at.dealt_with()
        assert [case.detector for case in await acme.cases()] == ["row"]


async def test_a_call_that_a_restart_finds_up_is_in_progress_still(acme: Ledger) -> None:
    clock, policy = SetClock(), watched(detector("many", "simultaneous_calls", 3))
    async with counter(acme, policy, clock) as at:
        await at.dial(100, talk_s=None)
        await at.dial(300, talk_s=None)
        await at.dealt_with()
    async with counter(acme, policy, clock) as at:
        await at.dial(500)
        await at.dealt_with()
        [case] = await acme.cases()
        assert case.value == 3


async def test_the_same_evidence_reopens_nothing_not_even_after_a_restart(acme: Ledger) -> None:
    clock = SetClock()
    async with counter(acme, watched(detector("row", "sequential_numbers", 5)), clock) as at:
        for n in range(5):
            await at.dial(100 + n)
        await at.dealt_with()
        clock.forward(1000)
        now_ms = clock.now().wall_ms
        closed = await acme.close_case(1, now_ms, "ann", "a test", dismissed=True, undo=False)
        at.watch.judged("acme", closed.detector, now_ms)
        await at.dial(105)
        await at.dealt_with()
        assert len(await acme.cases()) == 1
    async with counter(acme, watched(detector("row", "sequential_numbers", 5)), clock) as at:
        for n in range(6, 9):
            await at.dial(100 + n)
        await at.dealt_with()
        assert len(await acme.cases()) == 1, "four in a row since"
        await at.dial(109)
        await at.dealt_with()
        assert len(await acme.cases()) == 2


async def test_a_shadow_case_is_written_and_nobody_is_barred(acme: Ledger) -> None:
    shadow = watched(detector("row", "sequential_numbers", 5, step="suspend", more="shadow = true"))
    async with counter(acme, shadow) as at:
        for n in range(6):
            assert isinstance((await at.dial(100 + n)).decision, Allow)
        await at.dealt_with()
        [case] = await acme.cases()
        assert (case.shadow, case.step) == (True, "suspend")
        assert await standing(acme) is Standing.ACTIVE
        assert at.cuts == []


async def test_a_restriction_cuts_only_what_it_takes(acme: Ledger) -> None:
    policy = watched(
        detector("row", "sequential_numbers", 5, step="restrict", more='services = ["outbound"]')
    )
    async with counter(acme, policy) as at:
        for n in range(5):
            await at.dial(100 + n)
        await at.dealt_with()
        assert at.cuts == [("acme", frozenset({Kind.OUTBOUND}))]
        assert (await at.dial(105)).decision.reason is Reason.SERVICE_RESTRICTED


async def test_while_the_store_cannot_take_a_case_it_waits(
    acme: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "AGAIN_S", 0.01)
    failures = 3

    async def report(finding: Finding) -> object:
        nonlocal failures
        if failures:
            failures -= 1
            raise LedgerUnavailable("the disk is full")
        return await taken(finding)

    taken = acme.report
    monkeypatch.setattr(acme, "report", report)
    async with counter(acme) as at:
        for n in range(5):
            await at.dial(100 + n)
        await at.dealt_with()
        assert (failures, len(await acme.cases())) == (0, 1)


async def test_what_is_too_much_is_not_watched_and_told(
    acme: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watching, "WAITING_MAX", 4)
    at = Counter(acme, SEQUENTIAL, SetClock())
    for n in range(5):  # it does not run, so nothing is taken off
        await at.dial(100 + n)
    assert at.watch.waiting == 4
    assert capsys.readouterr().out.count("not_watched") == 1
    await at.desk.close()


async def test_quiet_accounts_are_forgotten(acme: Ledger) -> None:
    for n in range(6):
        await provision(acme, f"more-{n}", f"line-{n}")
    async with counter(acme, accounts_max=3) as at:
        for n in range(6):
            await at.dial(100, f"line-{n}")
        await at.dealt_with()
        assert at.watch.accounts == 3
        at.clock.forward(2 * 3_600_000)
        for _ in range(2):
            await at.dial(100, "line-5")
        await at.dealt_with()
        assert at.watch.accounts == 1


async def test_complaints_lead_to_a_case(acme: Ledger) -> None:
    policy = watched(detector("told", "complaints", 3, window="month", step="suspend"))
    async with counter(acme, policy) as at:
        for n in range(3):
            count, cases = await at.cases.complain("acme", NOON_MS + n, "ann", f"spam {n}")
            assert (count, len(cases)) == (n + 1, int(n == 2))
        assert cases[0].words == "3 complaints in a month; 3 is a case; the latest: spam 2"
        assert await standing(acme) is Standing.SUSPENDED
        assert at.cuts == [("acme", None)]


async def test_a_person_flags_an_account(acme: Ledger) -> None:
    policy = watched(rung("end", 2, "suspend"))
    async with counter(acme, policy) as at:
        first = await at.cases.flag("acme", NOON_MS, "ann", "resold to others")
        assert (first.case.detector, first.case.clause.id, first.taken) == ("flag", "P9", ())
        again = await at.cases.flag("acme", NOON_MS + 1, "ann", "and again")
        assert (again.new, again.case.words) == (False, "resold to others; and again")
        assert await standing(acme) is Standing.ACTIVE
        other = await at.cases.flag("other", NOON_MS, "ann", "a stolen card", fraud=True)
        assert (other.case.clause.id, other.case.step) == ("P10", "terminate")
        assert (await acme.sheet("other")).account.fraud
        assert at.cuts == [("other", None)]


async def test_a_step_by_hand_follows_at_once(acme: Ledger) -> None:
    async with counter(acme, watched()) as at:
        await at.cases.flag("acme", NOON_MS, "ann", "note", step=Step.SUSPEND)
        assert await standing(acme) is Standing.SUSPENDED


async def test_past_a_deadline_the_ladder_goes_on(acme: Ledger) -> None:
    policy = watched(
        rung("ask", 1, "moderate", "deadline_days = 14"),
        rung("take", 9, "restrict", 'services = ["outbound"]'),
    )
    async with counter(acme, policy) as at:
        change = await at.cases.flag("acme", NOON_MS, "ann", "too much")
        due_ms = change.case.deadline_ms
        assert due_ms is not None
        assert await at.cases.after_deadlines(due_ms - 1) == 0
        assert await at.cases.after_deadlines(due_ms) == 1
        assert (await acme.sheet("acme")).account.restricted == {Kind.OUTBOUND}
        assert at.cuts == [("acme", frozenset({Kind.OUTBOUND}))]
        assert await at.cases.after_deadlines(due_ms + 1) == 0


async def test_an_account_is_held_against_the_others_on_its_plan(acme: Ledger) -> None:
    policy = watched(
        detector(
            "above", "times_median_of_cohort", 3, window="month", more='allowance = "voice"\ncohort = 5'
        ),
        detector("told", "times_declared_estimate", 2, window="month", more='allowance = "voice"'),
    )
    async with counter(acme, policy) as at:
        for n in range(5):
            await provision(acme, f"more-{n}", f"line-{n}")
            await at.dial(100, f"line-{n}", talk_s=60 + n)
        await at.dial(100, talk_s=500)
        await acme.subscribe("other", "plan", Options(estimate_s=60))
        await at.dial(100, "carol", talk_s=130)
        assert await at.cases.compare(at.clock.now().wall_ms) == 2
        found = {case.account_id: case.words for case in await acme.cases()}
        assert found == {
            "acme": "6.0 times the median of 7 accounts",
            "other": "2.2 times the declared estimate",
        }


async def test_what_the_switch_says_of_logins_is_watched(acme: Ledger) -> None:
    policy = watched(detector("shared", "networks_of_a_line", 2))
    async with counter(acme, policy) as at:
        account = (await acme.sheet("acme")).account
        for n in range(2):
            event = Noted("networks_of_a_line", NOON_MS + n, "acme", f"192.0.{n}.0/24", of="alice")
            at.watch.noted(event, account, policy)
        await at.dealt_with()
        assert [case.detector for case in await acme.cases()] == ["shared"]


async def test_an_emergency_call_is_not_watched(acme: Ledger) -> None:
    async with counter(acme, watched(detector("many", "attempts", 1))) as at:
        asked = Asked("e1", Kind.OUTBOUND, "999", "alice", "channel-e1", 30)
        await at.desk.authorise(asked)
        await at.dealt_with()
        assert await acme.cases() == ()
        await at.dial(100)
        await at.dealt_with()
        assert len(await acme.cases()) == 1


async def test_a_dial_that_is_taken_back_is_no_longer_in_progress(acme: Ledger) -> None:
    policy = watched(detector("many", "simultaneous_calls", 2))
    async with counter(acme, policy) as at:
        for n in range(4):
            asked = Asked(f"t{n}", Kind.OUTBOUND, "02079460123", "alice", f"channel-t{n}", 30)
            await at.desk.authorise(asked)
            at.desk.take_back(asked.call_id)
            await at.desk.close()
        await at.dealt_with()
        assert await acme.cases() == ()


async def test_what_one_event_brings_up_does_not_end_the_watch(
    acme: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    see = Crowd.see

    def failing(self: Crowd, event: Event, *others: Any) -> tuple[Hit, ...]:
        if event.account_id == "other":
            raise ZeroDivisionError("a measure that is broken")
        return see(self, event, *others)

    monkeypatch.setattr(Crowd, "see", failing)
    async with counter(acme) as at:
        for n in range(5):
            await at.dial(200 + n, "carol")
            await at.dial(100 + n)
        await at.dealt_with()
        assert [case.account_id for case in await acme.cases()] == ["acme"]
    assert "event_not_watched" in capsys.readouterr().out


async def test_only_the_latest_dials_are_passed_by_again(
    acme: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watching, "PAST_DIALS_MAX", 3)
    monkeypatch.setattr(watching, "PIECE", 2)
    clock = SetClock()
    async with counter(acme, clock=clock) as at:
        for n in range(4):
            await at.dial(100 + n)
        await at.dealt_with()
    async with counter(acme, clock=clock) as at:
        # Which are the latest is looked up beside the calls.
        async with asyncio.timeout(5):
            while not at.watch.accounts:
                await asyncio.sleep(0.005)
        await at.dial(104)
        await at.dealt_with()
        assert await acme.cases() == (), "the first of five is not known any more"
        await at.dial(105)
        await at.dealt_with()
        [case] = await acme.cases()
        assert case.value == 5
    assert capsys.readouterr().out.count("dials=3") == 1
