"""Conferences in the ledger: seats, and the room's clock that runs once for all who are in it (K5, V5)."""

import asyncio
import random
from itertools import count

import pytest

from fairdial.ledger.contract import Grant, GrantState, Ledger
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
RING_S = 60
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


async def ring(counter: Counter, name: str, ring_s: int = RING_S) -> Allow:
    """Call a number into the room."""
    return await counter.allow(name, ROOM, line=name.partition("-")[0], kind=Kind.CONFERENCE, ring_s=ring_s)


async def answer(counter: Counter, name: str) -> Grant:
    """The number that was called into the room is in it now."""
    return await counter.desk.answered(name, f"channel-{name}", counter.clock.now())


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
async def test_of_twenty_who_join_or_are_called_at_once_four_get_a_seat(ledger: Ledger) -> None:
    chance = random.Random(1)
    counter = await opened(ledger, POLICIES["kryptotel"])
    verdicts = await asyncio.gather(
        *(
            counter.dial(
                f"call-{n}", ROOM, line=NAMES[n % 5], kind=Kind.CONFERENCE, ring_s=chance.choice((0, 60))
            )
            for n in range(20)
        )
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


@pytest.mark.clause("K5", "refused")
async def test_who_is_called_has_a_seat_before_it_answers(ledger: Ledger) -> None:
    counter = await opened(ledger, POLICIES["kryptotel"])
    for name in NAMES[:3]:
        await join(counter, name)
    await ring(counter, "dan")
    grant = await ledger.grant("dan")
    assert grant is not None
    assert (grant.state, grant.answered_ms) == (GrantState.RINGING, None)
    counter.clock.forward(30_000)
    assert await counter.refuse("eve", ROOM, line="eve", kind=Kind.CONFERENCE) == (
        Reason.CONFERENCE_FULL,
        "K5",
    )
    grant = await answer(counter, "dan")
    assert (grant.state, grant.answered_ms) == (GrantState.TALKING, counter.clock.now().wall_ms)
    for name in NAMES[:4]:
        await leave(counter, name, 0)


@pytest.mark.parametrize("policy", ["kryptotel", "voxdirect"])
@pytest.mark.parametrize("how", ["settled", "released"])
async def test_who_is_called_and_does_not_answer_gives_its_seat_back_and_costs_nothing(
    ledger: Ledger, how: str, policy: str
) -> None:
    counter = await opened(ledger, POLICIES[policy])
    granted = await ring(counter, "dan")
    assert {hold.room for hold in granted.holds} == {policy == "kryptotel"}
    counter.clock.forward(45_000)
    await (counter.settle("dan", 0) if how == "settled" else ledger.release("dan"))
    assert await counter.meters() == []
    assert {entry.calls for entry in (await ledger.sheet("acme")).usage} == {0}
    for name in NAMES[:4]:
        await join(counter, f"{name}-later")
    for name in NAMES[:4]:
        await leave(counter, f"{name}-later", 0)


@pytest.mark.clause("K5", "allowed")
async def test_the_clock_does_not_run_while_nobody_has_answered(ledger: Ledger) -> None:
    counter = await opened(ledger, POLICIES["kryptotel"])
    await ring(counter, "anna")
    counter.clock.forward(40_000)
    await ring(counter, "ben")
    await answer(counter, "anna")
    counter.clock.forward(20_000)
    await answer(counter, "ben")
    counter.clock.forward(100_000)
    await leave(counter, "anna", 120)
    await leave(counter, "ben", 100)
    assert sorted(await counter.meters()) == [("conference-day", 120, 0, 0), ("conference-month", 120, 0, 0)]
    assert {entry.calls for entry in (await ledger.sheet("acme")).usage} == {1}


@pytest.mark.clause("V5", "allowed")
async def test_the_seconds_of_a_called_party_count_from_its_answer(ledger: Ledger) -> None:
    counter = await opened(ledger, POLICIES["voxdirect"])
    await join(counter, "anna")
    await ring(counter, "ben")
    counter.clock.forward(50_000)
    await answer(counter, "ben")
    counter.clock.forward(30_000)
    await leave(counter, "anna", 80)
    await leave(counter, "ben", 30)
    assert await counter.meters() == [("voice", 110, 0, 0)]


async def test_who_rings_holds_nothing_of_the_clock_that_those_inside_hold(ledger: Ledger) -> None:
    counter = await opened(ledger, small(day_limit_s=HOUR_S, longest_s=1200))
    assert (await join(counter, "anna")).granted_s == 1200
    called = await ring(counter, "ben")
    # However late it answers, it is not in the room past what is held.
    assert (called.granted_s, sum(hold.hold_units for hold in called.holds)) == (1200 - RING_S, 0)
    counter.clock.forward(10_000)
    await leave(counter, "anna", 10)
    # What anna held is there for whoever is called.
    assert {meter[1:] for meter in await counter.meters()} == {(10, 1200 - RING_S, 0)}
    counter.clock.forward(30_000)
    await answer(counter, "ben")
    counter.clock.forward(100_000)
    await leave(counter, "ben", 100)
    assert {meter[1:] for meter in await counter.meters()} == {(110, 0, 0)}


async def test_what_was_held_for_who_rings_is_free_again_when_others_are_in(ledger: Ledger) -> None:
    counter = await opened(ledger, small(day_limit_s=HOUR_S, longest_s=1200))
    await ring(counter, "anna")
    assert {meter[2] for meter in await counter.meters()} == {1200 - RING_S}
    counter.clock.forward(10_000)
    assert (await join(counter, "ben")).granted_s == 1200
    assert {meter[2] for meter in await counter.meters()} == {1200}
    await ledger.release("anna")
    assert {meter[2] for meter in await counter.meters()} == {1200}
    await leave(counter, "ben", 0)
    assert await counter.meters() == []


@pytest.mark.clause("K5", "cut")
async def test_a_called_one_is_cut_with_the_conference_however_late_it_answered(ledger: Ledger) -> None:
    counter = await opened(ledger, POLICIES["kryptotel"])
    await join(counter, "anna")
    counter.clock.forward(3 * HOUR_S * 1000)
    assert (await ring(counter, "ben")).limit_s == HOUR_S
    counter.clock.forward(20_000)
    granted_s = (await answer(counter, "ben")).granted_s
    assert granted_s == HOUR_S - RING_S
    counter.clock.forward((granted_s - 5) * 1000)
    assert (await counter.desk.renew("ben", 5_000)).granted_s == HOUR_S - 20
    counter.clock.forward(40_000)
    assert (await counter.desk.renew("ben", 5_000)).granted_s == HOUR_S - 20


@pytest.mark.clause("K5", "allowed")
async def test_a_conference_is_not_open_before_somebody_is_in_it(ledger: Ledger) -> None:
    counter = await opened(ledger, POLICIES["kryptotel"])
    await ring(counter, "anna")
    counter.clock.forward(50_000)
    assert (await join(counter, "ben")).limit_s == 4 * HOUR_S
    await answer(counter, "anna")
    granted_s = (await ledger.grant("anna") or pytest.fail("no grant")).granted_s or 0
    counter.clock.forward((granted_s - 5) * 1000)
    # All of the four hours, which began when ben came in.
    assert (await counter.desk.renew("anna", 5_000)).granted_s == 4 * HOUR_S


async def test_a_number_is_called_in_while_seconds_are_left_and_not_when_none_are(ledger: Ledger) -> None:
    counter = await opened(ledger, small(day_limit_s=15))
    # Less than it may ring, and all of it is there for the talk.
    assert (await ring(counter, "anna")).granted_s == 15
    assert await counter.refuse("ben", ROOM, line="ben", kind=Kind.CONFERENCE) == (
        Reason.ALLOWANCE_RESERVED,
        "K5",
    )
    counter.clock.forward(50_000)
    await answer(counter, "anna")
    counter.clock.forward(5_000)
    # The same seconds are there for all who are inside.
    assert (await join(counter, "ben-again")).granted_s == 10
    counter.clock.forward(10_000)
    for name, used_s in (("anna", 15), ("ben-again", 10)):
        await leave(counter, name, used_s)
    assert ("conference-day", 15, 0, 0) in await counter.meters()


async def test_an_answer_whose_note_was_lost_is_metered_all_the_same(ledger: Ledger) -> None:
    counter = await opened(ledger, POLICIES["kryptotel"])
    await ring(counter, "anna")
    counter.clock.forward(70_000)
    await leave(counter, "anna", 50)
    await ring(counter, "ben")
    await answer(counter, "ben")
    counter.clock.forward(10_000)
    await leave(counter, "ben", 10)
    assert {meter[1:] for meter in await counter.meters()} == {(60, 0, 0)}


class Traffic:
    """One room of which people come and go, are called, answer or do not, all by chance."""

    def __init__(self, counter: Counter, chance: random.Random) -> None:
        self.counter, self.chance = counter, chance
        self.stays: dict[str, tuple[int, int]] = {}
        self.inside: dict[str, int] = {}
        self.ringing: dict[str, int] = {}
        self._names = count()

    @property
    def now_ms(self) -> int:
        return self.counter.clock.now().wall_ms

    async def step(self) -> None:
        """Some time goes by, then something happens."""
        self.counter.clock.forward(self.chance.choice((0, 1_000, 7_000, 30_000)))
        for name in [
            name for name, since_ms in self.ringing.items() if self.now_ms - since_ms > RING_S * 1000
        ]:
            await self.give_up(name)
        steps = [self.come, self.come]
        steps += [self.leave, self.leave, self.renew] if self.inside else []
        steps += [self.answer, self.answer, self.give_up] if self.ringing else []
        await self.chance.choice(steps)()
        await self.check()

    async def come(self) -> None:
        name = f"{self.chance.choice(NAMES)}-{next(self._names)}"
        ring_s = self.chance.choice((0, 0, RING_S))
        line = name.partition("-")[0]
        verdict = await self.counter.dial(name, ROOM, line=line, kind=Kind.CONFERENCE, ring_s=ring_s)
        if isinstance(verdict.decision, Allow):
            (self.ringing if ring_s else self.inside)[name] = self.now_ms

    async def answer(self) -> None:
        name = self.chance.choice(sorted(self.ringing))
        del self.ringing[name]
        await answer(self.counter, name)
        self.inside[name] = self.now_ms

    async def give_up(self, name: str | None = None) -> None:
        name = name or self.chance.choice(sorted(self.ringing))
        del self.ringing[name]
        if self.chance.random() < 0.5:
            await self.counter.ledger.release(name)
        else:
            await self.counter.settle(name, 0)

    async def renew(self) -> None:
        name = self.chance.choice(sorted(self.inside))
        left_ms = self.inside[name] + (await self.granted_s(name)) * 1000 - self.now_ms
        if left_ms >= 0:
            await self.counter.desk.renew(name, left_ms)

    async def leave(self) -> None:
        name = self.chance.choice(sorted(self.inside))
        used_s = min((self.now_ms - self.inside[name]) // 1000, await self.granted_s(name))
        self.stays[name] = (self.inside[name], self.inside.pop(name) + used_s * 1000)
        await leave(self.counter, name, used_s)

    async def granted_s(self, name: str) -> int:
        grant = await self.counter.ledger.grant(name)
        assert grant is not None
        assert grant.granted_s is not None
        return grant.granted_s

    async def check(self) -> None:
        """No meter is overspent, no seat given twice, and what is held lasts for those inside."""
        assert len(self.inside) + len(self.ringing) <= 4
        ends_ms = [since_ms + await self.granted_s(name) * 1000 for name, since_ms in self.inside.items()]
        need_ms = max(ends_ms, default=0) - self.now_ms
        usage = (await self.counter.ledger.sheet("acme")).usage
        for meter in (entry.meter for entry in usage):
            assert meter.limit_units is None or meter.used_units + meter.reserved_units <= meter.limit_units
            assert meter.reserved_units * 1000 >= need_ms
        assert usage or not self.inside


@pytest.mark.parametrize("seed", range(40))
async def test_in_whatever_order_stays_are_settled_they_add_up_to_the_rooms_clock(
    ledger: Ledger, seed: int
) -> None:
    counter = await opened(ledger, small(day_limit_s=2000, longest_s=900))
    traffic = Traffic(counter, random.Random(seed))
    start_ms = traffic.now_ms
    for _ in range(60):
        await traffic.step()
    for name in sorted(traffic.ringing):
        await traffic.give_up(name)
    while traffic.inside:
        await traffic.leave()
    clock_s = covered_ms(traffic.stays.values(), Window(start_ms, start_ms + 10**9)) // 1000
    assert clock_s > 0
    used = {usage.meter.allowance: usage.meter for usage in (await ledger.sheet("acme")).usage}
    assert {meter.used_units for meter in used.values()} == {clock_s}
    assert {meter.reserved_units for meter in used.values()} == {0}
