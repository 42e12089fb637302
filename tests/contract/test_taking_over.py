"""A node that is gone, and the others: which evidence settles its calls, when, and what it finds when it is back."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from fairdial.desk import Desk, DeskRules
from fairdial.ledger.contract import Grant, GrantState, Ledger, Node, OrderKind
from fairdial.nodes import ENDLESS_MS, NodeHands, NodeRules, Nodes, OutOfReach, surely_over
from fairdial.policy.account import Kind
from fairdial.policy.book import PolicyBook
from tests.charges import NUMBERING
from tests.contract.test_nodes import HOUR_MS, PAST_MS, take
from tests.contract.test_nodes import server as server
from tests.contract.test_nodes import three as three
from tests.samples import NOON_MS, SetClock, authorise, outbound, plan, provision

GRANTED_S = 100


class Unanswered(Exception):
    """The switch does not answer."""


@dataclass
class Switch:
    """What is up there, and what was asked of it."""

    up: set[str] = field(default_factory=set)
    done: list[str] = field(default_factory=list)

    async def end(self, call_id: str) -> bool:
        self.done.append(f"end {call_id}")
        return call_id in self.up

    async def compare(self) -> None:
        self.done.append("compare")

    async def end_barred(self) -> None:
        self.done.append("end barred")


def node(ledger: Ledger, name: str, clock: SetClock, switch: Switch, lease_s: float = 0.3) -> Nodes:
    """A node that looks ten times a second."""
    desk = Desk(ledger, PolicyBook([plan()]), NUMBERING, clock, DeskRules())
    hands = NodeHands(
        lambda: switch.up,
        lambda _call: False,
        switch.end,
        switch.end,
        switch.compare,
        switch.end_barred,
        Unanswered,
    )
    return Nodes(desk, hands, clock, NodeRules(name, f"owner of {name}", f"{name}.example:1", lease_s, 1.0))


async def until(told: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not told():
            await asyncio.sleep(0.02)


async def used(ledger: Ledger, call_id: str) -> tuple[int | None, bool]:
    grant = await ledger.grant(call_id)
    assert grant is not None
    return grant.used_s, grant.estimated


# --- when, by literal times ----------------------------------------------------------------------------


def grant(answered_ms: int | None = NOON_MS, granted_s: int | None = 60) -> Grant:
    state = GrantState.RINGING if answered_ms is None else GrantState.TALKING
    return Grant(
        *("call", "acme", "alice", Kind.OUTBOUND, "1", None, "channel", state, granted_s, None, 30, NOON_MS),
        answered_ms=answered_ms,
    )


def at(after_s: float, skew_ms: int = 0) -> Node:
    """A node so long after noon by the store's clock, whose lease ran out at noon."""
    return Node("east", 1, "", "", NOON_MS, skew_ms, "", NOON_MS, NOON_MS + round(after_s * 1000))


@pytest.mark.parametrize(
    ("held", "over_s"),
    [
        (grant(), 60 + 5),
        (grant(NOON_MS + 7_000), 7 + 60 + 5),
        # It may have been answered at the end of its ringing, unseen.
        (grant(None), 30 + 60 + 5),
        (grant(granted_s=None), ENDLESS_MS // 1000),
    ],
)
def test_a_call_is_over_once_its_own_lease_must_have_cut_it_and_not_before(held: Grant, over_s: int) -> None:
    assert not surely_over(held, at(over_s - 0.001), 5_000)
    assert surely_over(held, at(over_s), 5_000)


def test_a_clock_that_was_off_is_reckoned_with() -> None:
    # Noon by a clock that was ten seconds ahead was ten seconds before noon; by one behind, after it.
    assert surely_over(grant(), at(55, skew_ms=10_000), 5_000)
    assert not surely_over(grant(), at(54.9, skew_ms=10_000), 5_000)
    assert surely_over(grant(), at(75, skew_ms=-10_000), 5_000)
    assert not surely_over(grant(), at(74.9, skew_ms=-10_000), 5_000)


# --- what is settled -----------------------------------------------------------------------------------


@pytest.fixture
async def gone(three: list[Ledger]) -> list[Ledger]:
    """East had calls and is gone: their leases have passed, but for one, and one has no end."""
    east = three[0]
    await provision(east)
    tenure_clock_ms = NOON_MS + GRANTED_S * 1000 + 70_000
    tenure = await east.take_switch("east", "first", "east.example:1", PAST_MS, tenure_clock_ms)
    assert tenure is not None
    for call_id in ("east-1.1-1", "east-1.2-1", "east-1.3-1", "east-2-1.4-1"):
        await authorise(east, outbound(call_id), plan(longest_s=GRANTED_S))
    await authorise(east, outbound("east-1.5-1"), plan(limit_s=None, longest_s=None))
    later = outbound("east-1.6-1", at_ms=NOON_MS + 60_000)
    await authorise(east, later, plan(longest_s=GRANTED_S))
    await east.answered("east-1.1-1", "leg", NOON_MS + 2_000)
    await east.answered("east-1.2-1", "leg", NOON_MS + 50_000)
    await east.answered("east-1.5-1", "leg", NOON_MS)
    await east.answered("east-1.6-1", "leg", NOON_MS + 160_000)
    await east.saw("east", NOON_MS + 42_500)
    return three


async def test_calls_are_settled_by_what_is_proven_and_those_of_others_and_those_that_may_be_up_are_left(
    gone: list[Ledger],
) -> None:
    east, west, north = gone
    clock = SetClock(NOON_MS + 170_000)
    nodes = [node(west, "west", clock, Switch()), node(north, "north", clock, Switch())]
    for each in nodes:
        await each.start()
    try:
        await until(lambda: any(each.taken for each in nodes))
        async with asyncio.timeout(20):
            while len(await east.live_grants()) > 3:
                await asyncio.sleep(0.05)
        assert await used(west, "east-1.1-1") == (41, True), "from its answer to the last proven moment"
        assert await used(west, "east-1.2-1") == (1, True), "answered after it, and so for a moment"
        assert await used(west, "east-1.3-1") == (0, True), "it rang"
        left = {grant.call_id for grant in await east.live_grants()}
        assert left == {"east-2-1.4-1", "east-1.5-1", "east-1.6-1"}
        [usage, *_] = (await west.sheet("acme")).usage
        assert usage.meter.used_units == 42
        assert [each.done for each in await west.differences()] == ["settled, estimated"] * 3
    finally:
        for each in nodes:
            await each.stop()


async def test_who_was_fenced_takes_its_switch_back_compares_and_ends_what_was_settled_meanwhile(
    three: list[Ledger],
) -> None:
    east, west, _ = three
    await provision(east)
    clock, switch = SetClock(), Switch({"east-1.1-1", "east-1.2-1"})
    back = node(east, "east", clock, switch)
    await back.start()
    try:
        for call_id in sorted(switch.up):
            await authorise(east, outbound(call_id))
        await west.settle("east-1.1-1", 5, NOON_MS + 5_000, estimated=True)
        # As if it had been frozen.
        await take(west, "east", "owner of east")
        taken = await west.take_over("east", "west", HOUR_MS)
        assert taken is None
        await until(lambda: len(switch.done) >= 2)
        assert switch.done[:2] == ["compare", "end east-1.1-1"]
        assert not back.replaced.is_set()
        [row] = await west.nodes()
        assert (row.owner, row.epoch) == ("owner of east", 3)
        assert back.lease_left_s > 0
    finally:
        await back.stop()


async def test_who_another_has_replaced_stays_fenced_and_says_so(three: list[Ledger]) -> None:
    east, newer, _ = three
    switch = Switch()
    older = node(east, "east", SetClock(), switch)
    await older.start()
    try:
        await take(newer, "east", "newer")
        async with asyncio.timeout(20):
            await older.replaced.wait()
        assert switch.done == []
        [row] = await newer.nodes()
        assert (row.owner, row.epoch) == ("newer", 2)
    finally:
        await older.stop()


async def test_a_node_that_never_had_a_lease_is_left_alone(three: list[Ledger]) -> None:
    """One of before it was known of nodes: its calls are its own, however long it takes."""
    old, west, _ = three
    await provision(old)
    await authorise(old, outbound("east-1.1-1"), plan(longest_s=GRANTED_S))
    clock = SetClock(NOON_MS + 10 * HOUR_MS)
    newer = node(west, "west", clock, Switch())
    await newer.start()
    try:
        before = west.traffic.steps.counts[("ok",)]
        await west.leads("a task")
        await asyncio.sleep(0.5)
        assert west.traffic.steps.counts[("ok",)] > before
        assert newer.taken == ()
        assert (await old.settle("east-1.1-1", 9, NOON_MS + 9_000)).repeated is False
    finally:
        await newer.stop()


async def test_a_hang_up_is_carried_out_by_the_calls_own_node_or_names_it(three: list[Ledger]) -> None:
    east, west, _ = three
    await provision(east)
    clock, switch = SetClock(), Switch({"east-1.1-1"})
    await authorise(east, outbound("east-1.1-1"))
    await authorise(east, outbound("east-1.2-1"))
    asking = node(west, "west", clock, Switch(), lease_s=5)
    with pytest.raises(OutOfReach, match="on a switch that this FairDial does not know"):
        await asking.hang_up("east-1.1-1")
    owner = node(east, "east", clock, switch, lease_s=5)
    await owner.start()
    try:
        assert await asking.hang_up("east-1.1-1")
        assert not await asking.hang_up("east-1.2-1"), "its node does not follow it"
        assert not await asking.hang_up("east-1.3-1"), "nobody knows it"
        assert switch.done == ["end east-1.1-1", "end east-1.2-1"]
        await west.order(OrderKind.LOOK)
        await until(lambda: "end barred" in switch.done)
    finally:
        await owner.stop()
    with pytest.raises(OutOfReach, match=r"east\.example:1\) did not answer within 4 s; ask there"):
        await asking.hang_up("east-1.2-1")
    await east.renew_switch(PAST_MS, NOON_MS)
    with pytest.raises(OutOfReach, match=r"east\.example:1\) has not been heard of since"):
        await asking.hang_up("east-1.2-1")
