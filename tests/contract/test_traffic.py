"""What a store tells of its own work, for every store; and how many grants it holds."""

import asyncio

import pytest

from fairdial.ledger.contract import AlreadyExists, Ledger, LedgerUnavailable, NotFound
from tests.samples import NOON_MS, authorise, outbound, provision


async def test_steps_and_readings_are_counted_and_none_waits_when_all_are_done(ledger: Ledger) -> None:
    traffic = ledger.traffic
    steps, reads, commits = traffic.steps.of("ok"), traffic.reads.of("ok"), traffic.commits.of("ok")
    writing = [asyncio.ensure_future(ledger.probe()) for _ in range(10)]
    reading = asyncio.ensure_future(ledger.live_grant_count())
    await asyncio.sleep(0)
    assert (traffic.steps_waiting, traffic.reads_waiting) == (10, 1)
    await asyncio.gather(*writing, reading)
    assert traffic.steps.of("ok") - steps == 10
    assert traffic.reads.of("ok") - reads == 1
    assert 1 <= traffic.commits.of("ok") - commits <= 10
    assert (traffic.steps_waiting, traffic.reads_waiting) == (0, 0)


async def test_a_step_that_is_refused_for_what_it_asks_is_no_failure_of_the_store(ledger: Ledger) -> None:
    await provision(ledger)
    with pytest.raises(AlreadyExists):
        await provision(ledger, policy="other")
    with pytest.raises(NotFound):
        await ledger.account("nobody")
    traffic = ledger.traffic
    assert [each.of("failed") for each in (traffic.steps, traffic.commits, traffic.reads)] == [0, 0, 0]


async def test_live_grants_are_counted_until_they_are_settled(ledger: Ledger) -> None:
    await provision(ledger, "acme", "alice", "bob")
    assert await ledger.live_grant_count() == 0
    await authorise(ledger, outbound("call-1"))
    await authorise(ledger, outbound("call-2", line_id="bob"))
    assert await ledger.live_grant_count() == len(await ledger.live_grants()) == 2
    await ledger.settle("call-1", 0, NOON_MS)
    assert await ledger.live_grant_count() == 1


@pytest.mark.parametrize(
    ("used_s", "estimated", "cut"), [(375, False, True), (374, False, False), (375, True, False)]
)
async def test_a_grant_says_whether_its_call_was_cut_and_whether_it_was_settled_before(
    ledger: Ledger, used_s: int, estimated: bool, cut: bool
) -> None:
    await provision(ledger)
    await authorise(ledger, outbound())
    await ledger.answered("call-1", "leg", NOON_MS)
    first = await ledger.settle("call-1", used_s, NOON_MS + 1000 * used_s, estimated=estimated)
    again = await ledger.settle("call-1", used_s, NOON_MS + 1000 * used_s, estimated=estimated)
    assert (first.cut, first.repeated) == (cut, False)
    assert (again.cut, again.repeated) == (cut, True)


async def test_a_closed_store_counts_no_more(ledger: Ledger) -> None:
    await ledger.close()
    before = ledger.traffic.steps.of("ok")
    with pytest.raises(LedgerUnavailable):
        await ledger.probe()
    assert (ledger.traffic.steps.of("ok"), ledger.traffic.steps_waiting) == (before, 0)
