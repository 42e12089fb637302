"""Switch against ledger: what is gone is settled, what is up is followed, what is unknown is left alone."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from fairdial import reconcile as reconcile_module
from fairdial.cdr import Cdr
from fairdial.clock import Moment
from fairdial.desk import Desk, DeskRules
from fairdial.evidence import Evidence, Use
from fairdial.ledger.contract import Grant
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.book import PolicyBook
from fairdial.policy.numbers import Numbering
from fairdial.policy.prefixes import PrefixTable
from fairdial.reconcile import Pass, reconcile
from fairdial.witness import Witness
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
    glimpsed: dict[str, Use] = field(default_factory=dict)
    forgotten: set[str] = field(default_factory=set)
    answers_ms: dict[str, int] = field(default_factory=dict)
    dialled_again: set[str] = field(default_factory=set)
    looked_at_again: set[str] = field(default_factory=set)
    most: int = 0

    def follows(self, call_id: str) -> bool:
        return call_id in self.followed

    def places(self, call_id: str) -> bool:
        return call_id.startswith("placed")

    def seen(self, call_id: str) -> Use | None:
        return self.glimpsed.get(call_id)

    def answered_ms(self, call_id: str) -> int | None:
        return self.answers_ms.get(call_id)

    def forget(self, call_id: str) -> None:
        self.forgotten.add(call_id)

    async def channels(self) -> Mapping[str, str]:
        if self.broken:
            raise Unlisted
        return self.up

    async def adopt(self, grant: Grant, up: Mapping[str, str]) -> bool:
        self.adopting += 1
        self.most = max(self.most, self.adopting)
        await asyncio.sleep(0)
        self.adopting -= 1
        if grant.channel in self.vanishing:
            raise Unlisted
        if grant.call_id in self.dialled_again:
            return False
        self.adopted[grant.call_id] = set(up)
        return True

    async def refresh(
        self,
        up: Mapping[str, str],
        listed: Moment,
        *,
        after_gap: bool,
        only: Collection[str] | None = None,
    ) -> None:
        self.refreshed = listed
        self.looked_at_again |= set(only or ())


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


async def run(desk: Desk, switch: Switch, clock: SetClock, evidence: Evidence | None = None) -> Pass:
    return await reconcile(
        desk,
        switch,
        clock,
        belongs=lambda grant: not grant.call_id.startswith("other"),
        after_gap=True,
        evidence=evidence,
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
    assert await run(desk, switch, clock) == Pass(1)
    assert await used(desk) == {"gone": 30, "up": None, "leg-up": None, "followed": None, "other-1": None}
    assert switch.adopted == {"up": {"channel-up"}, "leg-up": {"the-leg"}}
    assert switch.refreshed == clock.now()
    assert switch.looked_at_again == {"up", "leg-up"}


async def test_a_dial_is_over_whose_channel_is_up_for_another(desk: Desk, clock: SetClock) -> None:
    await calls(desk, "first", "second")
    clock.forward(30_000)
    switch = Switch({"channel-first": "", "channel-second": ""}, dialled_again={"first"})
    assert await run(desk, switch, clock) == Pass(1)
    assert await used(desk) == {"first": 30, "second": None}


async def test_a_grant_from_before_the_clock_was_set_back_is_looked_after(
    desk: Desk, clock: SetClock
) -> None:
    await calls(desk, "from-the-future", at_ms=NOON_MS + 3_600_000)
    assert await run(desk, Switch(), clock) == Pass(1)


async def test_a_call_that_only_we_could_have_put_through_was_not_answered_unless_it_was_noted(
    desk: Desk, clock: SetClock
) -> None:
    await calls(desk, "placed-1", "placed-2", "dialled")
    await desk.answered("placed-2", "leg", Moment(NOON_MS, 0))
    clock.forward(30_000)
    assert await run(desk, Switch(), clock) == Pass(3)
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
    assert await run(desk, Switch(), clock) == Pass(3)
    assert await used(desk) == {"short": 20, "long": 69, "rang": 70}
    await calls(desk, "late", at_ms=NOON_MS + 70_000)
    clock.forward(999_000)
    assert await run(desk, Switch(), clock) == Pass(1)
    assert (await used(desk))["late"] == 100


async def test_without_a_listing_nothing_is_settled(desk: Desk, clock: SetClock) -> None:
    await calls(desk, "unknown")
    with pytest.raises(Unlisted):
        await run(desk, Switch(broken=True), clock)
    assert await used(desk) == {"unknown": None}


async def test_a_grant_that_is_younger_than_the_listing_is_left_alone(desk: Desk, clock: SetClock) -> None:
    await calls(desk, "young", at_ms=NOON_MS + 1)
    assert await run(desk, Switch(), clock) == Pass(0)
    clock.forward(1)
    assert await run(desk, Switch(), clock) == Pass(1)


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
    assert await run(desk, switch, clock) == Pass(0)
    assert set(switch.adopted) == set(names)
    assert switch.most == 4


class Book:
    """Records of the switch, which come when the test lets them."""

    def __init__(self) -> None:
        self.coming: list[Cdr] = []
        self.witness = Witness()

    async def refresh(self) -> None:
        for cdr in self.coming:
            self.witness.note(cdr)

    def of(self, channel_id: str, *leg_ids: str) -> tuple[Cdr, ...]:
        return self.witness.of(channel_id, *leg_ids)


def record(call: str, from_s: int, until_s: int, *, answer_s: int | None) -> Cdr:
    """A record of a dial from `from_s` to `until_s` after noon, by the channel of that call."""
    answer_ms = None if answer_s is None else NOON_MS + answer_s * 1000
    return Cdr(
        unique_id=f"channel-{call}",
        channel=f"PJSIP/alice-{call}",
        dst_channel=f"PJSIP/carrier-{call}",
        account_code="acme",
        src="alice",
        dst="02079460123",
        context="phones",
        last_app="Dial",
        last_data="",
        start_ms=NOON_MS + from_s * 1000,
        answer_ms=answer_ms,
        end_ms=NOON_MS + until_s * 1000,
        duration_s=until_s - from_s,
        bill_s=0 if answer_s is None else until_s - answer_s,
        disposition="NO ANSWER" if answer_s is None else "ANSWERED",
        user_field="",
    )


async def settled(desk: Desk, call: str) -> tuple[int | None, bool]:
    grant = await desk.ledger.grant(call)
    assert grant is not None
    return grant.used_s, grant.estimated


async def test_the_switchs_record_says_how_long_a_call_was_that_ended_unseen(
    desk: Desk, clock: SetClock
) -> None:
    await calls(desk, "talked", "rang", "unknown")
    await desk.answered("talked", "leg", Moment(NOON_MS + 2_000, 0))
    book = Book()
    book.coming = [record("talked", 0, 9, answer_s=2), record("rang", 0, 9, answer_s=None)]
    clock.forward(60_000)
    evidence = Evidence(book, wait_s=10)
    assert await run(desk, Switch(), clock, evidence) == Pass(2, 1)
    assert await settled(desk, "talked") in ((7, False), (8, False))
    assert await settled(desk, "rang") == (0, False)
    found = {each.call_id: each.done for each in await desk.ledger.differences()}
    assert found == dict.fromkeys(("talked", "rang"), "settled, by the switch's record")


async def test_a_record_is_waited_for_and_then_the_end_is_assumed(desk: Desk, clock: SetClock) -> None:
    await calls(desk, "late", "never")
    book = Book()
    evidence = Evidence(book, wait_s=10)
    clock.forward(60_000)
    assert await run(desk, Switch(), clock, evidence) == Pass(0, 2)
    clock.forward(9_000)
    book.coming = [record("late", 0, 30, answer_s=10)]
    assert await run(desk, Switch(), clock, evidence) == Pass(1, 1)
    assert await settled(desk, "late") == (20, False)
    clock.forward(1_000)
    assert await run(desk, Switch(), clock, evidence) == Pass(1)
    assert await settled(desk, "never") == (70, True)


async def test_a_call_that_came_back_is_waited_for_anew(desk: Desk, clock: SetClock) -> None:
    await calls(desk, "flickers")
    evidence = Evidence(Book(), wait_s=10)
    assert await run(desk, Switch(), clock, evidence) == Pass(0, 1)
    clock.forward(10_000)
    assert await run(desk, Switch(up={"channel-flickers": ""}), clock, evidence) == Pass()
    assert await run(desk, Switch(), clock, evidence) == Pass(0, 1)


async def test_a_call_that_died_with_the_switch_is_settled_at_the_last_moment_that_is_proven(
    desk: Desk, clock: SetClock
) -> None:
    await calls(desk, "talked", "rang", "answered-since", "answered-unseen")
    await desk.answered("talked", "leg", Moment(NOON_MS + 1_000, 0))
    await desk.answered("answered-since", "leg", Moment(NOON_MS + 26_000, 0))
    clock.forward(90_000)
    evidence = Evidence(Book(), wait_s=10)
    evidence.proven_ms, evidence.restarted_ms = NOON_MS + 25_000, NOON_MS + 40_000
    switch = Switch(answers_ms={"answered-unseen": NOON_MS + 5_000})
    assert await run(desk, switch, clock, evidence) == Pass(4)
    died = ("talked", "rang", "answered-since", "answered-unseen")
    assert [await settled(desk, call) for call in died] == [
        (24, True),
        (0, True),
        (1, True),  # an answered call counts a second at least
        (20, True),
    ]


@pytest.mark.parametrize(
    ("user_field", "used_s"),
    [("fairdial-through|call|outbound|02079460123|alice", 4), ("", 24)],
    ids=["the failure rule let it through", "it was transferred away"],
)
async def test_a_record_that_ends_before_the_proof_is_all_there_was_of_a_call_that_was_let_through(
    desk: Desk, clock: SetClock, user_field: str, used_s: int
) -> None:
    """The switch died after the record was written, and before its grant was settled."""
    await calls(desk, "call")
    await desk.answered("call", "channel-call", Moment(NOON_MS + 1_000, 0))
    book = Book()
    book.coming = [msgspec.structs.replace(record("call", 0, 5, answer_s=1), user_field=user_field)]
    clock.forward(90_000)
    evidence = Evidence(book, wait_s=10)
    evidence.proven_ms, evidence.restarted_ms = NOON_MS + 25_000, NOON_MS + 40_000
    assert await run(desk, Switch(), clock, evidence) == Pass(1)
    assert (await settled(desk, "call"))[0] == used_s


async def test_what_was_seen_of_a_call_counts_where_no_record_comes(desk: Desk, clock: SetClock) -> None:
    await calls(desk, "glimpsed")
    clock.forward(60_000)
    switch = Switch(glimpsed={"glimpsed": Use(17, NOON_MS + 30_000, estimated=True)})
    assert await run(desk, switch, clock) == Pass(1)
    assert await settled(desk, "glimpsed") == (17, True)
    assert switch.forgotten == {"glimpsed"}
