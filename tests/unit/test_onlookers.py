"""Who looks on hears of all that is done, once, and of nothing that is not: of the desk, calls and notices."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from ari_handlers.followed import DialCall, FollowedCalls
from ari_handlers.queues import CallQueues
from fairdial.clock import Moment
from fairdial.desk import Desk, DeskRules, Failed
from fairdial.ledger.contract import Grant, LedgerUnavailable
from fairdial.ledger.notice import Channel
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.account import Dial, Kind, Standing
from fairdial.policy.call import Answered, CallerEnded, LegEnded, Ringing
from fairdial.policy.decide import Allow, Verdict
from fairdial.policy.outcomes import Reason
from testbed.receiver import Receiver
from tests.samples import NOON_MS, SetClock
from tests.unit.test_desk import NUMBERING, Store, allowed, asked
from tests.unit.test_desk import clock as clock
from tests.unit.test_desk import desk as desk
from tests.unit.test_desk import store as store
from tests.unit.test_notices import ACCOUNTS, cause, post_of, webhook
from tests.unit.test_notices import ledger as ledger
from tests.unit.test_notices import receiver as receiver


@dataclass
class Noted:
    """An onlooker, and an observer of calls, that notes what it hears."""

    heard: list[tuple[Any, ...]] = field(default_factory=list)

    def decided(self, dial: Dial, outcome: Verdict | Failed, account_id: str | None) -> None:
        reason = outcome.reason if isinstance(outcome, Failed) else outcome.decision.reason
        allows = isinstance(outcome, Verdict) and isinstance(outcome.decision, Allow)
        self.heard.append((dial.call_id, allows, reason, account_id))

    def answered(self, grant: Grant) -> None:
        self.heard.append(("answered", grant.call_id, grant.answered_ms))

    def renewed(self, grant: Grant) -> None:
        self.heard.append(("renewed", grant.call_id, grant.granted_s))

    def settled(self, grant: Grant) -> None:
        self.heard.append(("settled", grant.call_id, grant.used_s))


@pytest.fixture
def noted(desk: Desk) -> Noted:
    noted = Noted()
    desk.onlookers.append(noted)
    return noted


# --- the desk ----------------------------------------------------------------------------------------


async def test_several_hear_the_same(desk: Desk, noted: Noted) -> None:
    second = Noted()
    desk.onlookers.append(second)
    await desk.authorise(asked())
    await desk.authorise(asked())  # the same call asks again: nothing new was decided
    assert second.heard == noted.heard
    assert [(heard[0], heard[1], heard[3]) for heard in noted.heard] == [("call-1", True, "acme")]


async def test_a_dial_that_could_not_be_decided_is_told_and_an_emergency_call_is_not_held_up(
    desk: Desk, store: Store, noted: Noted
) -> None:
    store.error = LedgerUnavailable("disk full")
    await desk.authorise(asked())
    await desk.authorise(asked("call-2", "999", kind=Kind.EMERGENCY))
    assert noted.heard == [
        ("call-1", False, Reason.STORE_UNAVAILABLE, None),
        ("call-2", True, Reason.EMERGENCY, None),
    ]
    store.error = None


async def test_what_is_refused_unasked_is_told_to_nobody(store: Store, clock: SetClock, desk: Desk) -> None:
    noted = Noted()
    strict = Desk(store, desk.policies, NUMBERING, clock, DeskRules(attempts_per_s=1))
    strict.onlookers.append(noted)
    reasons = []
    for n in range(5):
        outcome = await strict.authorise(asked(f"call-{n}"))
        assert isinstance(outcome, Verdict)
        reasons.append(outcome.decision.reason)
    assert reasons[-1] is Reason.DIALS_TOO_FAST
    assert len(noted.heard) == len([each for each in reasons if each is not Reason.DIALS_TOO_FAST])
    await strict.close()


async def test_a_renewal_is_told_where_it_gave_more_and_not_where_it_did_not(
    desk: Desk, store: Store, noted: Noted
) -> None:
    before_s = allowed(await desk.authorise(asked())).granted_s
    await store.set_standing("acme", Standing.SUSPENDED, NOON_MS)
    await desk.renew("call-1", 5_000)
    assert len(noted.heard) == 1
    await store.set_standing("acme", Standing.ACTIVE, NOON_MS)
    grant = await desk.renew("call-1", 5_000)
    assert noted.heard[1:] == [("renewed", "call-1", grant.granted_s)]
    assert (grant.granted_s or 0) > (before_s or 0)


async def test_an_answer_and_an_end_are_told_when_they_are_written(desk: Desk, noted: Noted) -> None:
    await desk.authorise(asked())
    await desk.answered("call-1", "leg", Moment(NOON_MS + 5_000, 0))
    await desk.settle("call-1", 7, Moment(NOON_MS + 12_000, 0))
    assert noted.heard[1:] == [("answered", "call-1", NOON_MS + 5_000), ("settled", "call-1", 7)]


# --- calls that are followed -----------------------------------------------------------------------------


async def test_a_followed_call_is_told_with_each_move_and_once_that_it_is_gone() -> None:
    queues = CallQueues()
    followed = FollowedCalls(queues)
    heard: list[str] = []
    followed.on_change(
        lambda call: heard.append(type(call.state).__name__),
        lambda call: heard.append(f"gone {call.call_id}"),
    )
    queue = queues.open("channel")
    assert queue is not None
    now = Moment(NOON_MS, 1_000)
    call = DialCall("call-1", "channel", queue, Ringing(60), Kind.OUTBOUND, "acme", "alice", "1", now, 60)
    followed.drop(call)
    assert heard == []  # it was not followed yet
    followed.take(call)
    assert call.advance(Answered("leg", 2_000))
    assert not call.advance(LegEnded("other", 3_000))
    assert call.advance(LegEnded("leg", 4_000))
    followed.drop(call)
    followed.drop(call)
    assert call.advance(CallerEnded(5_000))
    assert heard == ["Ringing", "Talking", "Paused", "gone call-1"]
    await queues.stop(1.0)


# --- notices -----------------------------------------------------------------------------------------


async def test_what_becomes_of_a_notice_is_told(ledger: SqliteLedger, receiver: Receiver) -> None:
    heard: list[tuple[str, str]] = []
    more = asyncio.Event()

    def told(account: str, notice: int, channel: str, topic: str, state: str, said: str) -> None:
        del notice, topic, said
        assert channel == Channel.WEBHOOK
        heard.append((account, state))
        more.set()

    good, bad = ACCOUNTS[:2]
    receiver.mode_of = lambda notice: "refuse" if notice["account"] == bad else None
    post = post_of(ledger, webhook(receiver.url))
    post.told = told
    await cause(ledger, 1, good, bad)
    await post.start()
    async with asyncio.timeout(10):
        while len(heard) < 4:
            more.clear()
            await more.wait()
    await post.stop()
    assert [state for account, state in heard if account == good] == ["delivered"]
    assert [state for account, state in heard if account == bad] == ["refused", "refused", "given_up"]
