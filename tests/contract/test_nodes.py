"""Who looks after a switch: the lease, and what a node that was thought dead may no longer do."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from fairdial.console.nodes import NodeList
from fairdial.ledger.contract import (
    Difference,
    DifferenceKind,
    Fenced,
    Grant,
    Ledger,
    NotFound,
    NotNow,
    OrderKind,
    Seen,
    Tenure,
)
from fairdial.ledger.schema import files
from fairdial.policy.account import Kind, Standing
from fairdial.policy.decide import Allow, Refuse
from fairdial.policy.document import parse_policy
from fairdial.policy.outcomes import Reason
from fairdial.watch import OPEN_EVERY, _Follower
from testbed.postgres import shared_cluster
from tests.contract.conftest import PostgresStore
from tests.contract.test_watch import Counter
from tests.samples import NOON_MS, PLAN, SetClock, authorise, outbound, plan, provision
from tests.watched import detector, watched

HOUR_MS = 3_600_000
PAST_MS = -1
"""A lease that has run out when it begins."""


async def take(ledger: Ledger, switch: str, owner: str, lease_ms: int = HOUR_MS, **how: bool) -> Tenure:
    tenure = await ledger.take_switch(switch, owner, f"{owner}.example:1", lease_ms, NOON_MS, **how)
    assert tenure is not None
    return tenure


def nothing(*_: object) -> Any:
    """No meters, and no more seconds."""
    return None


STEPS: dict[str, Callable[[Ledger], Awaitable[object]]] = {
    "authorise": lambda ledger: authorise(ledger, outbound("new")),
    "answered": lambda ledger: ledger.answered("ringing", "leg", NOON_MS + 1000),
    "assume_answered": lambda ledger: ledger.assume_answered("ringing", NOON_MS),
    "renew": lambda ledger: ledger.renew("talking", lambda _grant, _account: (), nothing),
    "settle": lambda ledger: ledger.settle("talking", 9, NOON_MS + 9000),
    "release": lambda ledger: ledger.release("ringing"),
    "unsend": lambda ledger: ledger.unsend("ringing", NOON_MS),
    "saw": lambda ledger: ledger.saw("east", NOON_MS + 5000),
    "compared": lambda ledger: ledger.compared("east", NOON_MS + 5000, ()),
    "differ": lambda ledger: ledger.differ(
        Difference("talking", DifferenceKind.USAGE, NOON_MS, 1, 2, "left as settled")
    ),
    "renew_switch": lambda ledger: ledger.renew_switch(HOUR_MS, NOON_MS),
}
"""All that a node does to calls and its switch."""


async def two_calls(ledger: Ledger) -> None:
    """One that rings and one that talks."""
    await provision(ledger)
    for call_id in ("ringing", "talking"):
        await authorise(ledger, outbound(call_id))
    await ledger.answered("talking", "leg", NOON_MS)
    await ledger.saw("east", NOON_MS)


async def picture(
    ledger: Ledger,
) -> tuple[tuple[Grant, ...], object, Seen | None, tuple[Difference, ...], int]:
    """What those steps could have changed."""
    return (
        await ledger.live_grants(),
        (await ledger.sheet("acme")).usage,
        await ledger.seen("east"),
        await ledger.differences(),
        len(await ledger.decisions()),
    )


@pytest.mark.parametrize("step", STEPS)
async def test_by_an_epoch_that_is_over_nothing_is_changed_and_by_the_one_that_holds_it_is(
    ledger: Ledger, step: str
) -> None:
    await two_calls(ledger)
    old = ledger.on_behalf(await take(ledger, "east", "first"))
    new = await take(ledger, "east", "second")
    before = await picture(ledger)
    with pytest.raises(Fenced, match="it takes them back by itself"):
        await STEPS[step](old)
    assert await picture(ledger) == before
    await STEPS[step](ledger.on_behalf(new))


async def test_a_ledger_that_looks_after_no_switch_is_never_fenced(ledger: Ledger) -> None:
    await two_calls(ledger)
    for step in STEPS.values():
        await step(ledger)


async def test_a_switch_is_taken_over_once_its_lease_has_run_out_and_not_before(ledger: Ledger) -> None:
    held = await take(ledger, "east", "first")
    assert await ledger.take_over("east", "west", HOUR_MS) is None
    await ledger.renew_switch(PAST_MS, NOON_MS)
    [lapsed] = await ledger.nodes()
    assert lapsed.lapsed
    assert await ledger.take_over("east", "east", HOUR_MS) is None, "nobody takes over from itself"
    taken = await ledger.take_over("east", "west", HOUR_MS)
    assert taken is not None
    assert taken.epoch == held.epoch + 1
    [node] = await ledger.nodes()
    assert (node.taken_by, node.lapsed, node.lapsed_ms) == ("west", False, lapsed.until_ms)
    assert await ledger.take_over("east", "north", HOUR_MS) is None
    # Who took it over can die too.
    await ledger.hold_over(taken, PAST_MS)
    assert await ledger.take_over("east", "north", HOUR_MS) is not None
    with pytest.raises(Fenced):
        await ledger.hold_over(taken, HOUR_MS)
    [node] = await ledger.nodes()
    assert (node.taken_by, node.lapsed_ms) == ("north", lapsed.until_ms)


async def test_who_served_it_takes_it_back_unless_another_serves_it_now(ledger: Ledger) -> None:
    await take(ledger, "east", "first", PAST_MS)
    taken = await ledger.take_over("east", "west", HOUR_MS)
    assert taken is not None
    back = await take(ledger, "east", "first", again=True)
    assert back.epoch == taken.epoch + 1
    [node] = await ledger.nodes()
    assert (node.owner, node.taken_by, node.lapsed_ms) == ("first", "", None)
    with pytest.raises(Fenced):
        await ledger.on_behalf(taken).settle("none", 1, NOON_MS)
    await take(ledger, "east", "second")
    assert await ledger.take_switch("east", "first", "here", HOUR_MS, NOON_MS, again=True) is None
    [node] = await ledger.nodes()
    assert (node.owner, node.epoch) == ("second", back.epoch + 1)


async def test_time_is_the_stores_and_a_nodes_own_is_kept_as_its_difference(ledger: Ledger) -> None:
    await ledger.take_switch("east", "first", "here", 60_000, NOON_MS)
    [node] = await ledger.nodes()
    assert abs(node.until_ms - node.now_ms - 60_000) < 30_000
    assert abs(node.now_ms + node.skew_ms - NOON_MS) < 30_000
    await ledger.renew_switch(60_000, NOON_MS + HOUR_MS)
    [later] = await ledger.nodes()
    assert abs(later.skew_ms - node.skew_ms - HOUR_MS) < 30_000
    assert not later.lapsed, "a clock that is wrong by an hour makes no lease longer or shorter"


async def test_what_was_bought_and_barred_needs_no_lease(ledger: Ledger) -> None:
    await provision(ledger)
    old = ledger.on_behalf(await take(ledger, "east", "first"))
    await take(ledger, "east", "second")
    assert (await old.set_standing("acme", Standing.SUSPENDED, NOON_MS)).standing is Standing.SUSPENDED
    assert len(await old.accounts()) == 1


async def test_an_order_is_seen_and_what_became_of_it_is_what_was_said_first(ledger: Ledger) -> None:
    first = await ledger.order(OrderKind.HANGUP, "east-1.1-1")
    await ledger.order(OrderKind.LOOK)
    await ledger.carried_out(first, "hung up")
    await ledger.carried_out(first, "not live")
    await ledger.forget_orders()
    found = {(order.what, order.call_id, order.outcome) for order in await ledger.orders()}
    assert (OrderKind.HANGUP, "east-1.1-1", "hung up") in found
    assert (OrderKind.LOOK, None, None) in found


async def test_nodes_are_listed_with_who_looks_after_whose_calls(ledger: Ledger) -> None:
    listed = NodeList(ledger)
    assert await listed() == []
    await provision(ledger)
    await take(ledger, "west", "third")
    await take(ledger, "east-2", "second", PAST_MS)
    await take(ledger, "east", "first", PAST_MS)
    assert await ledger.take_over("east", "west", HOUR_MS) is not None
    for call_id in ("east-1.1-1", "east-2-1.2-1", "east-2-1.3-1"):
        await authorise(ledger.on_behalf(await take(ledger, "other", "fourth")), outbound(call_id))
    rows = {row["switch"]: (row["state"], row["looked_after_by"], row["calls"]) for row in await listed()}
    assert rows == {
        "east": ("taken over", "west", 1),
        "east-2": ("lapsed", None, 2),
        "other": ("serves", None, 0),
        "west": ("serves", None, 0),
    }


async def test_a_switch_that_is_no_more_is_forgotten_once_its_calls_are_settled_and_not_while_it_is_served(
    ledger: Ledger,
) -> None:
    await provision(ledger)
    await authorise(ledger, outbound("east-1.1-1"))
    forget = NodeList(ledger).forget
    with pytest.raises(NotNow, match="1 calls of switch 'east' are not settled yet"):
        await forget("east")
    await ledger.settle("east-1.1-1", 1, NOON_MS + 1_000)
    with pytest.raises(NotFound, match="no switch 'east' is served"):
        await forget("east")
    await take(ledger, "east", "first")
    with pytest.raises(NotNow, match="is served by its FairDial"):
        await forget("east")
    await ledger.renew_switch(PAST_MS, NOON_MS)
    taken = await ledger.take_over("east", "west", HOUR_MS)
    assert taken is not None
    await forget("east")
    assert await ledger.nodes() == ()
    with pytest.raises(Fenced):
        await ledger.hold_over(taken, HOUR_MS)
    assert await ledger.take_over("east", "west", HOUR_MS) is None
    with pytest.raises(NotFound):
        await forget("east")
    assert (await take(ledger, "east", "second")).epoch > taken.epoch


# --- several nodes -----------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[PostgresStore]:
    """An empty database."""
    cluster = shared_cluster()
    with cluster.database() as name:
        yield PostgresStore(cluster, name)


@pytest.fixture
async def three(server: PostgresStore) -> AsyncIterator[list[Ledger]]:
    """Three ledgers on one database."""
    opened: list[Ledger] = [await server.open() for _ in range(3)]
    yield opened
    for each in opened:
        await each.close()


async def test_of_nodes_that_take_over_at_once_one_does(three: list[Ledger]) -> None:
    for n in range(10):
        await take(three[0], "east", f"start-{n}", PAST_MS)
        found = await asyncio.gather(
            *(node.take_over("east", f"node-{k}", HOUR_MS) for k, node in enumerate(three))
        )
        [taken] = [tenure for tenure in found if tenure is not None]
        assert taken.epoch == 2 * n + 2


async def test_what_waited_for_the_account_while_the_switch_was_taken_is_refused(
    server: PostgresStore, three: list[Ledger]
) -> None:
    """Looked at before the account is locked, a renewal would slip in behind a settlement of who took over."""
    await two_calls(three[0])
    await take(three[0], "east", "first", PAST_MS)
    held = server.cluster.admin
    with server.connected() as theirs:
        theirs.execute("BEGIN")
        theirs.execute("SELECT 1 FROM accounts WHERE id = 'acme' FOR NO KEY UPDATE")
        waiting = asyncio.create_task(three[0].answered("ringing", "leg", NOON_MS + 1000))
        async with asyncio.timeout(10):
            while not held("SELECT 1 FROM pg_locks WHERE NOT granted", server.database):
                await asyncio.sleep(0.01)
        assert await three[1].take_over("east", "west", HOUR_MS) is not None
        theirs.execute("COMMIT")
        with pytest.raises(Fenced):
            await waiting
    assert {grant.answered_ms for grant in await three[1].live_grants()} == {None, NOON_MS}


async def test_an_old_node_fenced_in_a_flood_grants_nothing_more(three: list[Ledger]) -> None:
    await provision(three[0])
    await take(three[0], "east", "first", PAST_MS)

    async def dial(n: int) -> bool:
        try:
            verdict = await authorise(three[0], outbound(f"east-{n}"), plan(limit_s=None))
        except Fenced:
            return False
        return isinstance(verdict.decision, Allow)

    flood = [asyncio.create_task(dial(n)) for n in range(60)]
    await asyncio.wait(flood[:10], return_when=asyncio.FIRST_COMPLETED)
    assert await three[1].take_over("east", "west", HOUR_MS) is not None
    granted = sum(await asyncio.gather(*flood))
    assert len(await three[1].live_grants()) == granted
    assert not await dial(99)


async def test_one_node_alone_does_a_task_and_another_once_it_is_heard_of_no_more(
    server: PostgresStore, three: list[Ledger]
) -> None:
    found = [await node.leads("watch") for node in three]
    assert found == [True, False, False]
    assert await three[1].leads("another")
    server.cluster.admin("UPDATE leases SET until_ms = 0 WHERE task = 'watch'", server.database)
    assert await three[2].leads("watch")
    assert not await three[0].leads("watch")
    await three[2].close()
    assert await three[0].leads("watch")


async def test_who_bars_an_account_through_one_node_asks_the_others_to_look(three: list[Ledger]) -> None:
    await provision(three[0])
    await three[0].set_standing("acme", Standing.ACTIVE, NOON_MS)
    await three[0].restrict("acme", {Kind.OUTBOUND}, NOON_MS, lift=True)
    assert await three[1].orders() == ()
    await three[0].set_standing("acme", Standing.SUSPENDED, NOON_MS)
    await three[0].restrict("acme", {Kind.OUTBOUND}, NOON_MS)
    await three[0].set_line_standing("alice", Standing.SUSPENDED)
    assert [order.what for order in await three[1].orders()] == [OrderKind.LOOK] * 3


async def test_calls_through_several_nodes_are_watched_by_one_and_by_another_once_that_is_gone(
    server: PostgresStore, three: list[Ledger]
) -> None:
    await provision(three[0])
    policy, clock = watched(detector("many", "attempts", 6)), SetClock()
    at = [Counter(node, policy, clock, shared=True) for node in three]
    await at[0].watch.start()
    async with asyncio.timeout(20):
        while not await at_work(server):
            await asyncio.sleep(0.01)
    await at[1].watch.start()
    await at[2].watch.start()
    try:
        for n in range(5):
            await at[n % 3].dial(100 + 7 * n)
        clock.forward(10_000)
        await watched_on(at)
        assert await three[0].cases() == (), "five are no six, whoever sees them"
        assert [each.watch.accounts for each in at] == [1, 0, 0]
        await at[0].watch.stop()
        server.cluster.admin("UPDATE leases SET until_ms = 0", server.database)
        await at[2].dial(150)
        clock.forward(10_000)
        async with asyncio.timeout(20):
            while not await three[0].cases():
                await asyncio.sleep(0.02)
        [case] = await three[0].cases()
        assert (case.value, case.hits, len(case.calls)) == (6, 1, 6)
        await watched_on(at[1:])
        assert sum(each.cases.hits.counts.get(("many",), 0) for each in at) == 1
    finally:
        for each in at:
            await each.watch.stop()
            await each.desk.close()


async def at_work(server: PostgresStore) -> bool:
    """Whether some node watches."""
    return bool(server.cluster.admin("SELECT 1 FROM leases WHERE task = 'watch'", server.database))


async def watched_on(at: list[Counter], looks: int = 5) -> None:
    """Until the watches have looked at the ledger so many times more."""
    for each in at:
        before = each.ledger.traffic.steps.counts[("ok",)]
        async with asyncio.timeout(20):
            while each.ledger.traffic.steps.counts[("ok",)] < before + looks:
                await asyncio.sleep(0.01)


async def test_nodes_of_two_versions_go_on_side_by_side_and_the_old_one_is_replaced_with_calls_up(
    server: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{server.database}_upgraded"
    server.cluster.admin(f"CREATE DATABASE {name}")
    store = PostgresStore(server.cluster, name)
    try:
        with monkeypatch.context() as before:
            known = {version: file for version, file in files().items() if version < 14}
            before.setattr("fairdial.ledger.postgres.files", lambda: known)
            old = await store.open()
        await provision(old)
        # Prepared often enough to be kept by the connections that the change of the tables meets.
        for n in range(8):
            await authorise(old, outbound(f"east-1.{n}-1"), plan(limit_s=None))
        new = await store.open()
        await take(new, "west", "west of today")
        await authorise(new, outbound("west-1.1-1"), plan(limit_s=None))
        for n in range(4):
            await old.answered(f"east-1.{n}-1", "leg", NOON_MS)
            assert (await old.settle(f"east-1.{n}-1", 5, NOON_MS + 5_000)).used_s == 5
        assert [node.switch for node in await new.nodes()] == ["west"], "nobody takes from who has no lease"
        await old.close()
        replaced = await store.open()
        await take(replaced, "east", "east of today")
        left = {grant.call_id for grant in await replaced.live_grants()}
        assert left == {f"east-1.{n}-1" for n in range(4, 8)} | {"west-1.1-1"}
        assert (await replaced.settle("east-1.4-1", 9, NOON_MS + 9_000)).repeated is False
        await new.close()
        await replaced.close()
    finally:
        server.cluster.admin(f"DROP DATABASE {name} WITH (FORCE)")


async def test_calls_at_once_are_counted_over_all_nodes(three: list[Ledger]) -> None:
    await provision(three[0])
    cap = "[caps]\nsimultaneous_calls = { limit = 2, clause = 'P9' }\n"
    policy = parse_policy(PLAN + cap, "plan.toml")
    verdicts = await asyncio.gather(
        *(authorise(three[n % 3], outbound(f"call-{n}"), policy) for n in range(9))
    )
    reasons = [verdict.decision.reason for verdict in verdicts if isinstance(verdict.decision, Refuse)]
    assert reasons == [Reason.TOO_MANY_CALLS] * 7
    assert len(await three[1].live_grants()) == 2


async def test_an_end_that_is_written_late_is_seen_all_the_same(ledger: Ledger) -> None:
    await provision(ledger)
    follower = _Follower(ledger, NOON_MS - 1)
    await authorise(ledger, outbound("late"))
    await authorise(ledger, outbound("early"))
    await ledger.answered("early", "leg", NOON_MS + 1000)
    await ledger.settle("early", 2, NOON_MS + 3000)
    first = [event async for event, _ in follower.until(NOON_MS + 60_000)]
    assert [(type(event).__name__, event.at_ms - NOON_MS) for event in first] == [
        ("Attempt", 0),
        ("Attempt", 0),
        ("Answer", 1000),
        ("End", 3000),
    ]
    await ledger.settle("late", 5, NOON_MS + 9000, answered_ms=NOON_MS + 4000)
    found: list[tuple[str, int]] = []
    for _ in range(2 * OPEN_EVERY):
        found += [
            (type(event).__name__, event.at_ms - NOON_MS)
            async for event, _ in follower.until(NOON_MS + 60_000)
        ]
    assert found == [("Answer", 4000), ("End", 9000)]
