"""Switch against ledger: what is gone is settled, what is up is followed, what is unknown is left alone."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fairdial import reconcile as reconcile_module
from fairdial.clock import Moment
from fairdial.desk import Desk, DeskRules
from fairdial.ledger.contract import Grant
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.book import PolicyBook
from fairdial.policy.numbers import Numbering
from fairdial.policy.prefixes import PrefixTable
from fairdial.reconcile import reconcile
from tests.samples import NOON_MS, SetClock, authorise, outbound, plan, provision

NUMBERING = Numbering(PrefixTable.parse("prefix,class,country,risk,note,source,date\n"))


class Unlisted(Exception):
    """The switch does not answer."""


@dataclass(slots=True)
class Switch:
    """What is up, and what was asked of whoever follows it."""

    up: dict[str, str] = field(default_factory=dict)
    followed: set[str] = field(default_factory=set)
    adopted: dict[str, set[str]] = field(default_factory=dict)
    refreshed: Moment | None = None
    broken: bool = False
    vanishing: set[str] = field(default_factory=set)
    adopting: int = 0
    most: int = 0

    def follows(self, call_id: str) -> bool:
        return call_id in self.followed

    def places(self, call_id: str) -> bool:
        return call_id.startswith("placed")

    async def channels(self) -> Mapping[str, str]:
        if self.broken:
            raise Unlisted
        return self.up

    async def adopt(self, grant: Grant, up: Mapping[str, str]) -> None:
        self.adopting += 1
        self.most = max(self.most, self.adopting)
        await asyncio.sleep(0)
        self.adopting -= 1
        if grant.channel in self.vanishing:
            raise Unlisted
        self.adopted[grant.call_id] = set(up)

    async def refresh(self, up: Mapping[str, str], listed: Moment, *, after_gap: bool) -> None:
        self.refreshed = listed


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
async def desk(tmp_path: Path, clock: SetClock) -> AsyncIterator[Desk]:
    ledger = await SqliteLedger.open(tmp_path / "ledger.sqlite")
    await provision(ledger)
    yield Desk(ledger, PolicyBook([plan()]), NUMBERING, clock, DeskRules())
    await ledger.close()


async def calls(desk: Desk, *call_ids: str, at_ms: int = NOON_MS) -> None:
    for call_id in call_ids:
        await authorise(desk.ledger, outbound(call_id, at_ms=at_ms), plan(longest_s=100))


async def run(desk: Desk, switch: Switch, clock: SetClock) -> int:
    return await reconcile(
        desk,
        switch,
        clock,
        belongs=lambda grant: not grant.call_id.startswith("other"),
        after_gap=True,
    )


async def used(desk: Desk) -> dict[str, int | None]:
    found = {}
    for record in await desk.ledger.decisions():
        grant = await desk.ledger.grant(record.call_id)
        assert grant is not None
        assert grant.estimated == (grant.used_s is not None)
        found[record.call_id] = grant.used_s
    return found


async def test_a_call_that_is_gone_is_settled_and_one_that_is_up_is_followed(
    desk: Desk, clock: SetClock
) -> None:
    await calls(desk, "gone", "up", "leg-up", "followed", "other-1")
    await desk.answered("leg-up", "the-leg", Moment(NOON_MS, 0))
    clock.forward(30_000)
    switch = Switch({"channel-up": "", "the-leg": ""}, followed={"followed"})
    assert await run(desk, switch, clock) == 1
    assert await used(desk) == {"gone": 30, "up": None, "leg-up": None, "followed": None, "other-1": None}
    assert switch.adopted == {"up": {"channel-up"}, "leg-up": {"the-leg"}}
    assert switch.refreshed == clock.now()


async def test_a_call_that_only_we_could_have_put_through_was_not_answered_unless_it_was_noted(
    desk: Desk, clock: SetClock
) -> None:
    await calls(desk, "placed-1", "placed-2", "dialled")
    await desk.answered("placed-2", "leg", Moment(NOON_MS, 0))
    clock.forward(30_000)
    assert await run(desk, Switch(), clock) == 3
    grants = [await desk.ledger.grant(call) for call in ("placed-1", "placed-2", "dialled")]
    assert [grant and (grant.used_s, grant.estimated) for grant in grants] == [
        (0, False),
        (30, True),
        (30, True),
    ]


async def test_an_unseen_end_is_estimated_from_the_answer_and_never_above_the_grant(
    desk: Desk, clock: SetClock
) -> None:
    await calls(desk, "short", "long", "rang")
    await desk.answered("short", "leg", Moment(NOON_MS + 50_000, 0))
    await desk.answered("long", "leg", Moment(NOON_MS + 1_000, 0))
    clock.forward(70_000)
    assert await run(desk, Switch(), clock) == 3
    assert await used(desk) == {"short": 20, "long": 69, "rang": 70}
    await calls(desk, "late", at_ms=NOON_MS + 70_000)
    clock.forward(999_000)
    assert await run(desk, Switch(), clock) == 1
    assert (await used(desk))["late"] == 100


async def test_without_a_listing_nothing_is_settled(desk: Desk, clock: SetClock) -> None:
    await calls(desk, "unknown")
    with pytest.raises(Unlisted):
        await run(desk, Switch(broken=True), clock)
    assert await used(desk) == {"unknown": None}


async def test_a_grant_that_is_younger_than_the_listing_is_left_alone(desk: Desk, clock: SetClock) -> None:
    await calls(desk, "young", at_ms=NOON_MS + 1)
    assert await run(desk, Switch(), clock) == 0
    clock.forward(1)
    assert await run(desk, Switch(), clock) == 1


async def test_a_call_that_fails_spoils_no_other(desk: Desk, clock: SetClock) -> None:
    await calls(desk, "a-vanishing", "b-gone", "c-up", "d-vanishing")
    switch = Switch({f"channel-{name}": "" for name in ("a-vanishing", "c-up", "d-vanishing")})
    switch.vanishing = {"channel-a-vanishing", "channel-d-vanishing"}
    with pytest.raises(Unlisted):
        await run(desk, switch, clock)
    assert (await used(desk))["b-gone"] == 1
    assert set(switch.adopted) == {"c-up"}


async def test_calls_are_looked_after_side_by_side_within_a_bound(
    desk: Desk, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile_module, "AT_ONCE", 4)
    names = [f"call-{number}" for number in range(10)]
    await calls(desk, *names)
    switch = Switch({f"channel-{name}": "" for name in names})
    assert await run(desk, switch, clock) == 0
    assert set(switch.adopted) == set(names)
    assert switch.most == 4
