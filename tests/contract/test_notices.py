"""What every store writes down for customers, in the step that causes it, and the order in which it hands it out."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from fairdial.ledger.contract import (
    ConstraintViolated,
    Finding,
    Ledger,
    NotFound,
    PublishedPolicy,
)
from fairdial.ledger.notice import Channel, Contact, Delivery, DeliveryState, Notice, NoticeRules, Topic
from fairdial.policy.account import Account, Kind, Line, Standing
from fairdial.policy.document import Step
from fairdial.policy.ladder import Taken
from fairdial.policy.terms import Clause
from tests.charges import FEE, PARIS, PER_S, UNIT, Counter, priced_plan
from tests.contract.conftest import Store
from tests.samples import NOON_MS, provision

RULES = NoticeRules((80, 100), 5 * UNIT, frozenset({Channel.WEBHOOK}))
ALL = NoticeRules((80, 100), 5 * UNIT, frozenset(Channel))
CLAUSE = Clause("plan", "1", "P7")


@pytest.fixture
async def told(ledger: Ledger) -> Ledger:
    """A ledger that writes notices."""
    await ledger.set_notice_rules(RULES)
    return ledger


@pytest.fixture
async def counter(told: Ledger) -> Counter:
    """acme on a plan of 100 seconds past which calls are charged."""
    counter = Counter(told, priced_plan(limit_s=100))
    await counter.open_account()
    return counter


async def topics(ledger: Ledger, account: str = "acme") -> list[Topic]:
    """What the account is told, in order."""
    return [notice.topic for notice in await notices(ledger, account)]


async def notices(ledger: Ledger, account: str = "acme") -> list[Notice]:
    return [notice for notice, _ in reversed(await ledger.notices(account))]


async def facts(ledger: Ledger, topic: Topic) -> Mapping[str, Any]:
    """Those of the one notice of that topic."""
    [found] = [notice for notice in await notices(ledger) if notice.topic is topic]
    return found.facts


# --- allowances and money --------------------------------------------------------------------------------


async def test_eighty_percent_is_told_once_and_not_before(counter: Counter, told: Ledger) -> None:
    await counter.talk("first", 79)
    assert await notices(told) == []
    await counter.talk("second", 1)
    await counter.talk("third", 5)
    assert await topics(told) == [Topic.USED]
    said = await facts(told, Topic.USED)
    assert (said["allowance"], said["percent"], said["used"], said["limit"]) == ("voice", 80, 80, 100)
    assert said["start_ms"] < NOON_MS < said["end_ms"]


async def test_who_passes_several_marks_at_once_is_told_of_the_last(counter: Counter, told: Ledger) -> None:
    await counter.talk("first", 100)
    assert await topics(told) == [Topic.USED]
    assert (await facts(told, Topic.USED))["percent"] == 100


async def test_the_first_second_past_an_allowance_is_told_and_no_later_one(
    counter: Counter, told: Ledger
) -> None:
    await counter.talk("first", 101)
    await counter.talk("second", 50)
    assert await topics(told) == [Topic.USED, Topic.OVERAGE]
    assert (await notices(told))[1].line_id == "alice"


async def test_a_new_period_is_told_of_anew(counter: Counter, told: Ledger) -> None:
    await counter.talk("first", 80)
    counter.clock.forward(31 * 86_400_000)
    await counter.talk("second", 80)
    assert await topics(told) == [Topic.USED, Topic.USED]


async def test_an_allowance_of_each_line_is_told_of_with_its_line(told: Ledger) -> None:
    counter = Counter(told, priced_plan(limit_s=100, scope="line"))
    await counter.open_account("alice", "bob")
    await counter.talk("first", 79, line="alice")
    await counter.talk("second", 90, line="bob")
    [notice] = await notices(told)
    assert (notice.facts["allowance"], notice.line_id) == ("voice/bob", "bob")


async def test_a_callback_counts_twice_towards_it(told: Ledger) -> None:
    plan = priced_plan(limit_s=100)
    kinds = plan.kinds.model_copy(update={"allow": plan.kinds.allow | {Kind.CALLBACK}})
    weighed = plan.allowances[0].model_copy(
        update={"counts": plan.allowances[0].counts | {Kind.CALLBACK}, "weights": {Kind.CALLBACK: 2}}
    )
    counter = Counter(told, plan.model_copy(update={"kinds": kinds, "allowances": (weighed,)}))
    await counter.open_account()
    await counter.talk("first", 39, kind=Kind.CALLBACK)
    assert await notices(told) == []
    await counter.talk("second", 1, kind=Kind.CALLBACK)
    assert await topics(told) == [Topic.USED]


async def test_a_message_counts_towards_it(told: Ledger) -> None:
    messages = """
[[allowances]]
name = "messages"
meter = "messages"
limit = 5
period = "month"
counts = ["message"]
used_up = "overage"
clause = "C8"
"""
    plan = priced_plan(more=messages, charges='overage_per_message = "0.10"')
    kinds = plan.kinds.model_copy(update={"allow": plan.kinds.allow | {Kind.MESSAGE}})
    counter = Counter(told, plan.model_copy(update={"kinds": kinds}))
    await counter.open_account()
    for number in range(3):
        await counter.allow(f"message-{number}", kind=Kind.MESSAGE)
    assert await notices(told) == []
    for number in range(3, 7):
        await counter.allow(f"message-{number}", kind=Kind.MESSAGE)
    assert await topics(told) == [Topic.USED, Topic.USED, Topic.OVERAGE]
    assert [notice.facts.get("percent") for notice in await notices(told)] == [80, 100, None]


async def test_low_credit_is_told_when_it_gets_low_and_again_after_more_was_paid_in(told: Ledger) -> None:
    counter = Counter(told, priced_plan(countries='["GB"]', longest_s=14_400))
    await counter.open_account()
    await counter.pay_in(6 * UNIT)
    await counter.talk("first", 59, PARIS)  # a whole minute of 0.60, and the fee of 0.10
    assert await notices(told) == []
    await counter.talk("second", 59, PARIS)
    await counter.talk("third", 59, PARIS)
    assert await topics(told) == [Topic.LOW_CREDIT]
    said = await facts(told, Topic.LOW_CREDIT)
    assert (said["balance_micros"], said["currency"]) == (6 * UNIT - 2 * (60 * PER_S + FEE), "EUR")
    await counter.pay_in(2 * UNIT, "payment-2")
    for number in range(3):
        await counter.talk(f"later-{number}", 59, PARIS)
    assert await topics(told) == [Topic.LOW_CREDIT, Topic.LOW_CREDIT]


async def test_a_call_that_was_cut_is_told_of_and_one_that_people_ended_is_not(told: Ledger) -> None:
    counter = Counter(told, priced_plan(limit_s=10_000, longest_s=90))
    await counter.open_account()
    await counter.talk("short", 89)
    assert await notices(told) == []
    await counter.talk("long", 90)
    [cut] = await notices(told)
    assert (cut.topic, cut.reference, cut.line_id) == (Topic.CUT, "long", "alice")
    assert (cut.facts["number"], cut.facts["used_s"]) == ("+442079460123", 90)
    assert cut.facts["rule"].startswith("longest_call")


async def test_settling_again_tells_nothing_twice(counter: Counter, told: Ledger) -> None:
    await counter.talk("first", 101)
    await told.settle("first", 101, NOON_MS + 101_000)
    assert await topics(told) == [Topic.USED, Topic.OVERAGE]


async def test_a_call_that_was_never_answered_tells_nothing(counter: Counter, told: Ledger) -> None:
    await counter.allow("first")
    await told.release("first")
    assert await notices(told) == []


async def test_without_rules_nothing_is_told(ledger: Ledger) -> None:
    counter = Counter(ledger, priced_plan(limit_s=100))
    await counter.open_account()
    await counter.talk("first", 101)
    await ledger.set_standing("acme", Standing.SUSPENDED, NOON_MS)
    assert await ledger.notices() == ()


# --- cases and standing ----------------------------------------------------------------------------------


async def test_a_step_that_was_taken_is_told_with_its_clause_and_one_in_shadow_is_not(told: Ledger) -> None:
    await provision(told)
    step = Taken(Step.RESTRICT, "many", "P7", frozenset({Kind.OUTBOUND}), deadline_ms=NOON_MS + 1_000)
    shadow = Taken(Step.SUSPEND, "long", "P8", enforced=False)
    finding = Finding("acme", "many", CLAUSE, NOON_MS, 30, 30, "30 numbers", first=step)
    await told.report(finding)
    await told.report(Finding("acme", "long", CLAUSE, NOON_MS, 9, 9, "long", first=shadow, shadow=True))
    [notice] = await notices(told)
    assert (notice.topic, notice.clause) == (Topic.CASE, CLAUSE)
    assert (notice.facts["step"], notice.facts["services"]) == ("restrict", ["outbound"])
    assert (notice.facts["deadline_ms"], notice.facts["words"]) == (NOON_MS + 1_000, "30 numbers")


async def test_a_suspension_for_a_case_is_told_once_and_its_end_too(told: Ledger) -> None:
    await provision(told)
    change = await told.report(
        Finding("acme", "many", CLAUSE, NOON_MS, 1, 1, "x", first=Taken(Step.SUSPEND, "many", "P7"))
    )
    assert change is not None
    assert await topics(told) == [Topic.CASE]
    await told.close_case(change.case.id, NOON_MS + 5, "kim", "", dismissed=True, undo=True)
    assert await topics(told) == [Topic.CASE, Topic.STANDING]
    assert (await facts(told, Topic.STANDING))["standing"] == "active"


async def test_what_people_do_to_an_account_is_told_where_it_changes_something(told: Ledger) -> None:
    await provision(told)
    await told.set_standing("acme", Standing.ACTIVE, NOON_MS)
    await told.restrict("acme", {Kind.OUTBOUND}, NOON_MS, lift=True)
    assert await notices(told) == []
    await told.set_standing("acme", Standing.SUSPENDED, NOON_MS)
    await told.restrict("acme", {Kind.OUTBOUND, Kind.CALLBACK}, NOON_MS)
    await told.restrict("acme", {Kind.OUTBOUND}, NOON_MS + 1)
    assert await topics(told) == [Topic.STANDING, Topic.SERVICES]
    assert (await facts(told, Topic.SERVICES)) == {"services": ["callback", "outbound"], "lifted": False}


# --- to all on a policy ----------------------------------------------------------------------------------


async def test_all_on_a_policy_are_told_of_a_new_version_once_page_by_page(
    told: Ledger, store: Store
) -> None:
    for number in range(7):
        await told.add_account(Account(f"a{number}", "plan"))
    await told.add_account(Account("other", "another"))
    await told.set_standing("a3", Standing.TERMINATED, NOON_MS)
    await told.publish(PublishedPolicy("plan", "2", NOON_MS, "text"), "1")
    assert await told.announce_next(3) == 3
    await told.close()
    again = await store.open()
    assert [await again.announce_next(3) for _ in range(3)] == [3, 0, 0]
    await again.publish(PublishedPolicy("plan", "2", NOON_MS, "text"), "1")
    assert await again.announce_next(3) == 0
    found = [notice for notice, _ in await again.notices() if notice.topic is Topic.POLICY]
    assert sorted(notice.account_id for notice in found) == ["a0", "a1", "a2", "a4", "a5", "a6"]
    assert found[0].facts == {"policy": "plan", "before": "1", "version": "2"}
    await again.close()


async def test_the_first_version_has_nobody_to_tell(told: Ledger) -> None:
    await provision(told)
    await told.publish(PublishedPolicy("plan", "1", NOON_MS, "text"))
    assert await told.announce_next(10) == 0


# --- ways and order --------------------------------------------------------------------------------------


async def ways(ledger: Ledger) -> list[tuple[Channel, ...]]:
    return [tuple(each.channel for each in deliveries) for _, deliveries in reversed(await ledger.notices())]


async def test_it_goes_every_way_on_which_the_account_can_be_reached(ledger: Ledger) -> None:
    await ledger.set_notice_rules(ALL)
    await provision(ledger, "acme", "alice")
    await ledger.set_standing("acme", Standing.SUSPENDED, NOON_MS)
    await ledger.set_contact(Contact("acme", "de", "a@example.com"))
    await ledger.set_standing("acme", Standing.ACTIVE, NOON_MS + 1)
    await ledger.set_contact(Contact("acme", "de", "a@example.com", "alice"))
    await ledger.set_standing("acme", Standing.SUSPENDED, NOON_MS + 2)
    assert await ways(ledger) == [
        (Channel.WEBHOOK,),
        (Channel.EMAIL, Channel.WEBHOOK),
        (Channel.EMAIL, Channel.SIP, Channel.WEBHOOK),
    ]
    assert (await ledger.addressee("acme"))[1] == Contact("acme", "de", "a@example.com", "alice")


async def test_a_notice_about_a_line_can_go_to_that_line(ledger: Ledger) -> None:
    await ledger.set_notice_rules(ALL)
    counter = Counter(ledger, priced_plan(limit_s=10_000, longest_s=90))
    await counter.open_account()
    await counter.talk("long", 90)
    assert await ways(ledger) == [(Channel.SIP, Channel.WEBHOOK)]


async def test_a_contact_is_of_an_account_that_exists_and_of_its_own_line(told: Ledger) -> None:
    await provision(told, "acme", "alice")
    await provision(told, "other", "carol")
    with pytest.raises(NotFound, match="nobody"):
        await told.set_contact(Contact("nobody"))
    with pytest.raises(NotFound, match="carol"):
        await told.set_contact(Contact("acme", line_id="carol"))
    assert (await told.addressee("acme"))[1] == Contact("acme")
    with pytest.raises(NotFound, match="nobody"):
        await told.addressee("nobody")


@pytest.fixture
async def waiting(told: Ledger) -> Ledger:
    """acme has three notices, other has one, written between the first two."""
    await provision(told, "acme", "alice")
    await provision(told, "other", "carol")
    for account, standing in (
        ("acme", Standing.SUSPENDED),
        ("other", Standing.SUSPENDED),
        ("acme", Standing.ACTIVE),
        ("acme", Standing.SUSPENDED),
    ):
        await told.set_standing(account, standing, NOON_MS)
    return told


async def due(ledger: Ledger, now_ms: int = NOON_MS, limit: int = 10) -> list[Delivery]:
    return list(await ledger.due_notices(Channel.WEBHOOK, now_ms, limit))


async def test_each_account_is_told_in_order(waiting: Ledger) -> None:
    order: list[tuple[str, str]] = []
    while heads := await due(waiting):
        assert len({each.notice.account_id for each in heads}) == len(heads)
        for head in heads:
            order.append((head.notice.account_id, head.notice.facts["standing"]))
            await waiting.delivered(head.notice.id, Channel.WEBHOOK, NOON_MS + 5)
    assert [standing for account, standing in order if account == "acme"] == [
        "suspended",
        "active",
        "suspended",
    ]
    assert ("other", "suspended") in order[:2]
    assert await waiting.untold() == {}


async def test_what_was_refused_waits_and_holds_up_its_own_account_alone(waiting: Ledger) -> None:
    [acme, other] = await due(waiting)
    assert (acme.notice.account_id, other.notice.account_id) == ("acme", "other")
    await waiting.not_delivered(acme.notice.id, Channel.WEBHOOK, NOON_MS, "no", NOON_MS + 60_000)
    await waiting.delivered(other.notice.id, Channel.WEBHOOK, NOON_MS)
    assert await due(waiting) == []
    [again] = await due(waiting, NOON_MS + 60_000)
    assert (again.notice.id, again.attempts, again.last) == (acme.notice.id, 1, "no")
    assert await waiting.untold() == {(Channel.WEBHOOK, DeliveryState.WAITING): 3}


async def test_what_was_given_up_lets_the_next_go_on_and_can_be_tried_again(waiting: Ledger) -> None:
    first = (await due(waiting))[0]
    await waiting.not_delivered(first.notice.id, Channel.WEBHOOK, NOON_MS, "gone", None)
    later = next(each for each in await due(waiting) if each.notice.account_id == "acme")
    assert later.notice.id > first.notice.id
    [(dead, [delivery])] = await waiting.notices(state=DeliveryState.DEAD)
    assert (dead.id, delivery.last, delivery.done_ms) == (first.notice.id, "gone", NOON_MS)
    with pytest.raises(ConstraintViolated, match="waiting"):
        await waiting.retry_notice(later.notice.id, NOON_MS)
    with pytest.raises(NotFound, match="999"):
        await waiting.retry_notice(999, NOON_MS)
    [revived] = await waiting.retry_notice(first.notice.id, NOON_MS + 9)
    assert (revived.state, revived.attempts) == (DeliveryState.WAITING, 0)
    assert first.notice.id in {each.notice.id for each in await due(waiting, NOON_MS + 9)}


async def test_told_is_told_for_good(waiting: Ledger) -> None:
    first = (await due(waiting))[0]
    await waiting.delivered(first.notice.id, Channel.WEBHOOK, NOON_MS)
    await waiting.not_delivered(first.notice.id, Channel.WEBHOOK, NOON_MS, "late", NOON_MS + 1)
    await waiting.delivered(first.notice.id, Channel.WEBHOOK, NOON_MS + 7)
    _, [delivery] = await waiting.notice(first.notice.id)
    assert (delivery.state, delivery.done_ms, delivery.attempts) == (DeliveryState.DELIVERED, NOON_MS, 0)


async def test_what_waits_is_still_there_after_a_restart(waiting: Ledger, store: Store) -> None:
    before = [each.notice for each in await due(waiting)]
    await waiting.close()
    again = await store.open()
    assert [each.notice for each in await due(again)] == before
    await again.close()


async def test_notices_are_read_by_account_and_page(waiting: Ledger) -> None:
    pages: list[int] = []
    before = None
    while found := await waiting.notices("acme", after_id=before, limit=2):
        pages += [notice.id for notice, _ in found]
        before = pages[-1]
    assert len(pages) == 3
    assert pages == sorted(pages, reverse=True)


async def test_many_settlements_at_once_tell_of_each_mark_once(told: Ledger) -> None:
    counter = Counter(told, priced_plan(limit_s=1_000))
    await told.add_account(Account("acme", "plan"))
    for number in range(20):
        await told.add_line(Line(f"line-{number}", "acme"))
        await counter.allow(f"call-{number}", line=f"line-{number}")
    await asyncio.gather(*(told.settle(f"call-{n}", 55, NOON_MS + 55_000) for n in range(20)))
    assert sorted(await topics(told)) == [Topic.USED, Topic.USED, Topic.OVERAGE]
