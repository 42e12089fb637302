"""Conferences in the ledger: seats, and the room's clock that runs once for all who are in it (K5, V5)."""

import asyncio
import random

import pytest

from fairdial.ledger.contract import Ledger
from fairdial.policy.account import Kind, Options
from fairdial.policy.decide import Allow
from fairdial.policy.document import Policy
from fairdial.policy.outcomes import Reason
from fairdial.policy.periods import Window, covered_ms
from tests.charges import Counter
from tests.samples import MONTH_END_MS, NOON_MS
from tests.shipped import POLICIES

ROOM = "8000"
HOUR_S = 3600
NAMES = ("anna", "ben", "cleo", "dan", "eve")


def small(day_limit_s: int, longest_s: int = 14_400) -> Policy:
    """Kryptotel with another daily limit on conferences and another longest one."""
    policy = POLICIES["kryptotel"]
    allowances = tuple(
        one.model_copy(update={"limit_s": day_limit_s}) if one.name == "conference-day" else one
        for one in policy.allowances
    )
    longest = policy.longest_call.model_copy(
        update={"seconds": {**policy.longest_call.seconds, Kind.CONFERENCE: longest_s}}
    )
    return policy.model_copy(update={"allowances": allowances, "longest_call": longest})


async def opened(ledger: Ledger, policy: Policy) -> Counter:
    """A desk on that policy, and an account with five lines."""
    counter = Counter(ledger, policy)
    await counter.open_account(*NAMES, options=Options(frozenset({"GB"})), policy=policy.name)
    return counter


async def join(counter: Counter, name: str, room: str = ROOM) -> Allow:
    return await counter.allow(name, room, line=name.partition("-")[0], kind=Kind.CONFERENCE, ring_s=0)


async def leave(counter: Counter, name: str, used_s: int) -> None:
    await counter.settle(name, used_s)


@pytest.mark.clause("K5", "allowed")
async def test_the_rooms_clock_runs_once_for_all_who_are_in_it(ledger: Ledger) -> None:
    counter = await opened(ledger, POLICIES["kryptotel"])
    for name in NAMES[:3]:
        await join(counter, name)
    counter.clock.forward(240_000)
    await leave(counter, "ben", 240)
    counter.clock.forward(360_000)
    for name in ("anna", "cleo"):
        await leave(counter, name, 600)
    # Ten minutes by the room's clock, whoever was there.
    assert sorted(await counter.meters()) == [("conference-day", 600, 0, 0), ("conference-month", 600, 0, 0)]


@pytest.mark.clause("V5", "charged")
async def test_three_parties_of_whom_one_leaves_after_4_of_10_minutes_are_24_party_minutes(
    ledger: Ledger,
) -> None:
    counter = await opened(ledger, POLICIES["voxdirect"])
    for name in NAMES[:3]:
        await join(counter, name)
    counter.clock.forward(240_000)
    await leave(counter, "ben", 240)
    counter.clock.forward(360_000)
    for name in ("anna", "cleo"):
        await leave(counter, name, 600)
    # 10 + 10 + 4 minutes.
    assert await counter.meters() == [("voice", 24 * 60, 0, 0)]


@pytest.mark.clause("V5", "allowed")
async def test_one_party_alone_counts_once(ledger: Ledger) -> None:
    counter = await opened(ledger, POLICIES["voxdirect"])
    await join(counter, "anna")
    counter.clock.forward(60_000)
    await leave(counter, "anna", 60)
    assert await counter.meters() == [("voice", 60, 0, 0)]


@pytest.mark.clause("K5", "refused")
async def test_a_fifth_participant_is_refused_until_one_leaves(ledger: Ledger) -> None:
    counter = await opened(ledger, POLICIES["kryptotel"])
    for name in NAMES[:4]:
        await join(counter, name)
    assert await counter.refuse("eve", ROOM, line="eve", kind=Kind.CONFERENCE) == (
        Reason.CONFERENCE_FULL,
        "K5",
    )
    await leave(counter, "dan", 0)
    await join(counter, "eve-again")


@pytest.mark.clause("K5", "refused")
async def test_of_twenty_who_join_at_once_four_get_in(ledger: Ledger) -> None:
    counter = await opened(ledger, POLICIES["kryptotel"])
    verdicts = await asyncio.gather(
        *(counter.dial(f"call-{n}", ROOM, line=NAMES[n % 5], kind=Kind.CONFERENCE) for n in range(20))
    )
    assert sum(isinstance(verdict.decision, Allow) for verdict in verdicts) == 4
    reasons = {verdict.decision.reason for verdict in verdicts}
    assert reasons == {Reason.WITHIN_ALLOWANCE, Reason.CONFERENCE_FULL}


async def test_two_rooms_have_seats_and_clocks_of_their_own(ledger: Ledger) -> None:
    counter = await opened(ledger, POLICIES["kryptotel"])
    for name in NAMES[:4]:
        await join(counter, name)
    await join(counter, "eve", "8001")
    counter.clock.forward(60_000)
    for name in NAMES:
        await leave(counter, name, 60)
    assert sorted(await counter.meters()) == [("conference-day", 120, 0, 0), ("conference-month", 120, 0, 0)]


async def test_who_stays_keeps_the_time_that_the_first_one_held(ledger: Ledger) -> None:
    counter = await opened(ledger, small(day_limit_s=HOUR_S, longest_s=1200))
    first = await join(counter, "anna")
    counter.clock.forward(10_000)
    second = await join(counter, "ben")
    assert (first.granted_s, second.granted_s) == (1200, 1190)
    assert sum(hold.hold_units for hold in second.holds) == 0
    counter.clock.forward(50_000)
    await leave(counter, "anna", 60)
    reserved = {meter[0]: meter[2] for meter in await counter.meters()}
    assert reserved == {"conference-day": 1140, "conference-month": 1140}
    counter.clock.forward(1_140_000)
    await leave(counter, "ben", 1190)
    assert sorted(await counter.meters()) == [
        ("conference-day", 1200, 0, 0),
        ("conference-month", 1200, 0, 0),
    ]


@pytest.mark.clause("K5", "cut")
async def test_a_conference_ends_four_hours_after_it_was_opened_whoever_joined_late(ledger: Ledger) -> None:
    counter = await opened(ledger, POLICIES["kryptotel"])
    assert (await join(counter, "anna")).granted_s == 4 * HOUR_S
    counter.clock.forward(3 * HOUR_S * 1000)
    late = await join(counter, "ben")
    assert (late.granted_s, late.limit_s) == (HOUR_S, HOUR_S)
    counter.clock.forward((HOUR_S - 5) * 1000)
    assert (await counter.desk.renew("ben", 5_000)).granted_s == HOUR_S


async def test_the_last_hours_of_a_day_are_renewed_by_one_and_used_by_all(ledger: Ledger) -> None:
    counter = await opened(ledger, small(day_limit_s=400))
    first = await join(counter, "anna")
    second = await join(counter, "ben")
    assert first.granted_s == second.granted_s == 60
    counter.clock.forward(55_000)
    assert (await counter.desk.renew("anna", 5_000)).granted_s == 120
    # What one holds is there for all: the other is carried to the same end and holds nothing.
    assert (await counter.desk.renew("ben", 5_000)).granted_s == 120
    assert {meter[2] for meter in await counter.meters()} == {120}
    counter.clock.forward(65_000)
    for name in ("anna", "ben"):
        await leave(counter, name, 120)
    assert {meter[1:] for meter in await counter.meters()} == {(120, 0, 0)}
    assert (await join(counter, "cleo")).granted_s == 60
    counter.clock.forward(60_000)
    await leave(counter, "cleo", 60)


@pytest.mark.clause("K5", "refused")
async def test_ten_hours_a_day_are_enough(ledger: Ledger) -> None:
    counter = await opened(ledger, POLICIES["kryptotel"])
    # 02:00 to 12:00 in three conferences, the last of two hours.
    counter.at(NOON_MS - 10 * HOUR_S * 1000)
    for name, hours in (("anna", 4), ("ben", 4), ("cleo", 2)):
        granted_s = (await join(counter, name)).granted_s or 0
        counter.clock.forward(granted_s * 1000)
        while granted_s < hours * HOUR_S:
            before_s, granted_s = granted_s, (await counter.desk.renew(name, 0)).granted_s or 0
            assert granted_s > before_s
            counter.clock.forward((granted_s - before_s) * 1000)
        await leave(counter, name, hours * HOUR_S)
    assert ("conference-day", 10 * HOUR_S, 0, 0) in await counter.meters()
    assert await counter.refuse("dan", ROOM, line="dan", kind=Kind.CONFERENCE) == (
        Reason.ALLOWANCE_USED_UP,
        "K5",
    )
    counter.at(NOON_MS + 12 * HOUR_S * 1000)
    await join(counter, "dan-next-day")


async def test_who_was_taken_back_was_never_there(ledger: Ledger) -> None:
    counter = await opened(ledger, POLICIES["kryptotel"])
    await join(counter, "anna")
    await ledger.release("anna")
    grant = await ledger.grant("anna")
    assert grant is not None
    assert (grant.used_s, grant.live) == (0, False)
    assert await counter.meters() == []


async def test_a_conference_over_the_months_end_is_split(ledger: Ledger) -> None:
    counter = await opened(ledger, POLICIES["kryptotel"])
    counter.at(MONTH_END_MS - 100_000)
    await join(counter, "anna")
    counter.clock.forward(40_000)
    await join(counter, "ben")
    counter.clock.forward(140_000)
    await leave(counter, "anna", 180)
    await leave(counter, "ben", 140)
    used = sorted((name, units) for name, units, _, _ in await counter.meters())
    assert used == [
        ("conference-day", 80),
        ("conference-day", 100),
        ("conference-month", 80),
        ("conference-month", 100),
    ]


@pytest.mark.parametrize("seed", range(25))
async def test_in_whatever_order_stays_are_settled_they_add_up_to_the_rooms_clock(
    ledger: Ledger, seed: int
) -> None:
    chance = random.Random(seed)
    counter = await opened(ledger, small(day_limit_s=2000, longest_s=900))
    stays: dict[str, tuple[int, int]] = {}
    live: dict[str, int] = {}
    start_ms = counter.clock.now().wall_ms
    for turn in range(40):
        counter.clock.forward(chance.choice((0, 1_000, 7_000, 30_000)))
        now_ms = counter.clock.now().wall_ms
        if live and chance.random() < 0.5:
            name = chance.choice(sorted(live))
            grant = await ledger.grant(name)
            assert grant is not None
            assert grant.granted_s is not None
            used_s = min((now_ms - live[name]) // 1000, grant.granted_s)
            stays[name] = (live[name], live.pop(name) + used_s * 1000)
            await leave(counter, name, used_s)
        else:
            name = f"{chance.choice(NAMES)}-{turn}"
            verdict = await counter.dial(name, ROOM, line=name.partition("-")[0], kind=Kind.CONFERENCE)
            if isinstance(verdict.decision, Allow):
                live[name] = now_ms
        for usage in (await ledger.sheet("acme")).usage:
            meter = usage.meter
            assert meter.limit_units is None or meter.used_units + meter.reserved_units <= meter.limit_units
        assert len(live) <= 4
    for name, since_ms in sorted(live.items()):
        stays[name] = (since_ms, since_ms)
        await leave(counter, name, 0)
    clock_s = covered_ms(stays.values(), Window(start_ms, start_ms + 10**9)) // 1000
    assert clock_s > 0
    used = {usage.meter.allowance: usage.meter for usage in (await ledger.sheet("acme")).usage}
    assert {meter.used_units for meter in used.values()} == {clock_s}
    assert {meter.reserved_units for meter in used.values()} == {0}
