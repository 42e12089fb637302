"""A line or an address that floods the desk: refused from memory, told of once, and never at an emergency's cost."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from fairdial.desk import Asked, Desk, DeskRules, Failed
from fairdial.ledger.contract import Judge, Plan
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.account import Dial, Kind, Line
from fairdial.policy.book import PolicyBook
from fairdial.policy.decide import Verdict
from fairdial.policy.numbers import Habit, Numbering
from fairdial.policy.outcomes import Reason
from fairdial.policy.prefixes import PrefixTable
from tests.samples import SetClock, plan, provision

NUMBERING = Numbering(PrefixTable.parse("prefix,class,country,risk,note,source,date\n"))
RULES = DeskRules(attempts_per_s=3, attempts_per_s_source=10)


class Counting(SqliteLedger):
    """The real ledger, which counts what it is asked."""

    asked = 0
    recorded = 0

    async def authorise(self, dial: Dial, plan: Plan, judge: Judge) -> Verdict:
        self.asked += 1
        return await super().authorise(dial, plan, judge)

    async def record(self, dial: Dial, verdict: Verdict) -> None:
        self.recorded += 1
        await super().record(dial, verdict)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Counting]:
    opened = await Counting.open(tmp_path / "ledger.sqlite")
    assert isinstance(opened, Counting)
    await provision(opened)
    yield opened
    await opened.close()


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
async def desk(ledger: Counting, clock: SetClock) -> AsyncIterator[Desk]:
    desk = Desk(ledger, PolicyBook([plan()]), NUMBERING, clock, RULES)
    yield desk
    await desk.close()


async def dial(
    desk: Desk,
    call_id: str,
    *,
    line_id: str = "alice",
    dialled: str = "02079460123",
    kind: Kind = Kind.OUTBOUND,
    source: str = "192.0.2.7",
) -> Reason:
    outcome = await desk.authorise(Asked(call_id, kind, dialled, line_id, call_id, 60, source=source))
    return outcome.reason if isinstance(outcome, Failed) else outcome.decision.reason


async def flood(desk: Desk, count: int = 20) -> set[Reason]:
    """So many dials of alice at once; the reasons after the first three."""
    reasons = [await dial(desk, f"flood-{number}") for number in range(count)]
    assert Reason.DIALS_TOO_FAST not in reasons[:3]
    return set(reasons[3:])


async def test_a_line_past_its_rate_is_refused_without_the_store_and_others_are_not(
    desk: Desk, ledger: Counting, clock: SetClock
) -> None:
    await ledger.add_line(Line("bob", "acme"), lambda account: None)
    assert await flood(desk) == {Reason.DIALS_TOO_FAST}
    assert (ledger.asked, ledger.recorded) == (3, 0)
    assert await dial(desk, "bob", line_id="bob", source="192.0.2.8") is not Reason.DIALS_TOO_FAST
    clock.forward(1_000)
    assert await dial(desk, "later") is not Reason.DIALS_TOO_FAST
    assert ledger.asked == 5


async def test_an_address_past_its_rate_is_refused_whatever_line_it_names(
    desk: Desk, ledger: Counting
) -> None:
    reasons = [await dial(desk, f"call-{number}", line_id=f"guess-{number}") for number in range(15)]
    assert reasons == [Reason.LINE_UNKNOWN] * 10 + [Reason.DIALS_TOO_FAST] * 5
    assert await dial(desk, "other", source="192.0.2.8") is not Reason.DIALS_TOO_FAST
    assert ledger.asked == 11


async def test_an_emergency_call_is_neither_counted_nor_refused(desk: Desk, ledger: Counting) -> None:
    for number in range(30):
        assert await dial(desk, f"help-{number}", dialled="999") is Reason.EMERGENCY
        assert await dial(desk, f"kind-{number}", kind=Kind.EMERGENCY, dialled="555") is Reason.EMERGENCY
    assert await flood(desk) == {Reason.DIALS_TOO_FAST}, "the first three are looked at: no help was counted"
    assert await dial(desk, "help-in-flood", dialled="112") is Reason.EMERGENCY


async def test_an_emergency_number_of_the_lines_own_region_passes_in_a_flood_too(
    desk: Desk, ledger: Counting
) -> None:
    await ledger.add_line(Line("tokyo", "acme", Habit(region="JP")), lambda account: None)
    assert not desk.numbering.is_emergency("119", Habit(region="GB"))
    reasons = [await dial(desk, f"tokyo-{number}", line_id="tokyo") for number in range(5)]
    assert reasons[3:] == [Reason.DIALS_TOO_FAST] * 2
    assert await dial(desk, "fire", line_id="tokyo", dialled="119") is Reason.EMERGENCY


async def test_a_flood_writes_one_line_into_the_log(desk: Desk) -> None:
    with capture_logs() as logs:
        await flood(desk, 203)
        await desk.close()
    told = [(line["event"], line["by"], line["line"], line["refused"]) for line in logs]
    assert told == [("dials_too_fast", "line", "alice", 200)]


async def test_a_refused_dial_costs_far_less_than_a_decided_one(desk: Desk, clock: SetClock) -> None:
    async def cost_s(rounds: int) -> float:
        began = time.process_time()
        for number in range(rounds):
            await dial(desk, f"cost-{clock.now().mono_ms}-{number}")
        return (time.process_time() - began) / rounds

    await flood(desk)
    refused_s = min([await cost_s(500) for _ in range(3)])
    clock.forward(5_000)
    decided_s = min([await cost_s(1) for _ in range(3)])
    # About an eighth on an idle machine.
    assert refused_s < decided_s / 3
