"""Leases whose renewal finds the store in trouble: the lease stays, more is asked for soon, and to the end."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import structs

from ari_handlers import leases as leases_module
from ari_handlers.followed import DialCall
from ari_handlers.leases import LeaseNotSet, LeaseRules, Leases
from ari_handlers.queues import CallQueue
from fairdial.clock import SystemClock
from fairdial.desk import Desk, DeskRules
from fairdial.ledger.contract import Grant, LedgerError, LedgerUnavailable, NotFound
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.account import Kind
from fairdial.policy.book import PolicyBook
from fairdial.policy.call import Answered, Ringing, Talking
from tests.samples import authorise, outbound, plan, provision
from tests.unit.test_desk import NUMBERING

CLOCK = SystemClock()


class Failing(Desk):
    """The real desk, whose renewals fail as often as it is set."""

    error: LedgerError = LedgerUnavailable("disk full")
    failures = 0
    asked = 0

    async def renew(self, call_id: str, lease_left_ms: int) -> Grant:
        self.asked += 1
        if self.asked <= self.failures:
            raise self.error
        return await super().renew(call_id, lease_left_ms)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Failing]:
    ledger = await SqliteLedger.open(tmp_path / "ledger.sqlite")
    await provision(ledger)
    await authorise(ledger, outbound())
    desk = Failing(ledger, PolicyBook([plan()]), NUMBERING, CLOCK, DeskRules())
    yield desk
    await desk.close()
    await ledger.close()


@pytest.fixture
async def call(desk: Failing) -> AsyncIterator[DialCall]:
    """A call that talks, with 2 s of its 375 s left."""
    queue = CallQueue("channel", 64)
    queue.task = asyncio.create_task(queue.consume())
    now = CLOCK.now()
    call = DialCall(
        "call-1", "channel", queue, Ringing(375), Kind.OUTBOUND, "acme", "alice", "1", now, limit_s=14_400
    )
    assert call.advance(Answered("leg", now.mono_ms - 373_000))
    yield call
    queue.task.cancel()
    await asyncio.gather(queue.task, return_exceptions=True)


class Switch:
    """Hears each lease that is set."""

    def __init__(self) -> None:
        self.lease_set = asyncio.Event()

    async def set_lease(self, channel_name: str, lease_ms: int) -> None:
        assert channel_name
        assert lease_ms > 10_000
        self.lease_set.set()


async def renewed(desk: Failing, call: DialCall, within_s: float) -> bool:
    """Whether the call's lease is set anew before it ends."""
    switch = Switch()
    leases = Leases(desk, switch.set_lease, CLOCK, LeaseRules(renew_lead_s=5))
    leases.arm(call)
    try:
        async with asyncio.timeout(within_s):
            await switch.lease_set.wait()
    except TimeoutError:
        return False
    finally:
        leases.disarm(call)
    return True


async def test_a_renewal_that_the_store_cannot_take_is_asked_for_again_soon(
    desk: Failing, call: DialCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "ASK_AGAIN_MS", 100)
    desk.failures = 5
    assert await renewed(desk, call, within_s=1.9)
    assert desk.asked == 6


async def test_a_store_that_stays_away_is_asked_to_the_end_and_no_longer(
    desk: Failing, call: DialCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "ASK_AGAIN_MS", 200)
    desk.failures = 1_000_000
    assert not await renewed(desk, call, within_s=2.6)
    # Every 0.2 s, a little more often at the very end.
    assert 8 <= desk.asked <= 20
    assert call.last


async def test_a_call_that_the_ledger_does_not_know_is_not_asked_for_over_and_over(
    desk: Failing, call: DialCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "ASK_AGAIN_MS", 100)
    desk.error, desk.failures = NotFound("no grant for call call-1"), 1_000_000
    assert not await renewed(desk, call, within_s=1.0)
    assert desk.asked == 1


@pytest.mark.parametrize("told_that_there_is_no_more", [True, False])
async def test_a_call_that_was_told_there_is_no_more_asks_at_once_when_its_limit_is_raised(
    desk: Failing, call: DialCall, told_that_there_is_no_more: bool
) -> None:
    switch = Switch()
    leases = Leases(desk, switch.set_lease, CLOCK, LeaseRules())
    call.last = told_that_there_is_no_more
    assert leases.ask_again(call) is told_that_there_is_no_more
    if told_that_there_is_no_more:
        async with asyncio.timeout(5):
            await switch.lease_set.wait()
    # Who was not told asks by itself, at its time.
    assert desk.asked == int(told_that_there_is_no_more)
    leases.disarm(call)


def counts(leases: Leases) -> dict[str, int]:
    return {labels[0]: count for labels, count in leases.renewals.counts.items()}


async def test_renewals_are_counted_by_what_came_of_them(
    desk: Failing, call: DialCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = Switch()
    leases = Leases(desk, switch.set_lease, CLOCK, LeaseRules())
    desk.failures = 1
    await leases._renew(call)
    assert (counts(leases), leases.settings.of("set")) == ({"granted": 0, "none_left": 0, "failed": 1}, 0)
    await leases._renew(call)
    assert (counts(leases), leases.settings.of("set")) == ({"granted": 1, "none_left": 0, "failed": 1}, 2)
    grant = await desk.ledger.grant("call-1")
    assert grant is not None

    async def no_more(_call_id: str, _lease_left_ms: int) -> Grant:
        assert isinstance(call.state, Talking)
        return structs.replace(grant, granted_s=call.state.granted_s)

    monkeypatch.setattr(desk, "renew", no_more)
    await leases._renew(call)
    assert counts(leases) == {"granted": 1, "none_left": 1, "failed": 1}
    leases.disarm(call)


async def test_a_lease_that_the_switch_does_not_take_is_counted(desk: Failing, call: DialCall) -> None:
    async def refuse(channel_name: str, lease_ms: int) -> None:
        raise LeaseNotSet(f"{channel_name}: {lease_ms}")

    leases = Leases(desk, refuse, CLOCK, LeaseRules())
    await leases.hold(call)
    leases.stopped = True
    assert (leases.settings.of("not_set"), leases.settings.of("set")) == (len(call.channels), 0)


async def test_a_call_at_its_longest_asks_no_more(desk: Failing, call: DialCall) -> None:
    call.last, call.limit_s = True, 375
    leases = Leases(desk, Switch().set_lease, CLOCK, LeaseRules())
    assert not leases.ask_again(call)
