"""Higher limits on request, for every store: asked, approved, at work in calls, and over (A11, R5)."""

import asyncio
import contextlib
from typing import Any

import pytest

from fairdial.console.operations import Operations
from fairdial.ledger.contract import AlreadyExists, Ledger, NotFound, NotNow, TooMany
from fairdial.policy.account import Consent, Kind, Line, Options, Standing
from fairdial.policy.document import Policy
from fairdial.policy.outcomes import Reason
from fairdial.policy.requests import OPEN_MAX
from fairdial.policy.sizing import GrantRules
from tests.charges import FEE, PER_S, Counter, priced_plan
from tests.contract.conftest import Store
from tests.samples import MONTH_END_MS, NOON_MS

REQUESTS = '[requests]\nclause = "R5"\nhard = ["caps.participants"]'
CAPS = (
    "[caps]\nsimultaneous_calls = { limit = 1, clause = 'C8' }\nlines = { limit = 2, clause = 'C9' }\n"
    "participants = { limit = 4, clause = 'C10' }\n"
)
MINUTE_MS = 60_000
WHOLE = GrantRules(useful_s=10_000, slice_s=10_000)
"""A call gets all that is left, so that figures are those of the limit."""


def plan(used_up: str = "refuse", *, limit_s: int = 100, more: str = REQUESTS, **changes: Any) -> Policy:
    """100 seconds a month, past which calls are refused, or as told."""
    return priced_plan(limit_s, used_up, uncovered="refuse", more=more, **changes)


class Desk:
    """A counter with the operations of its desk."""

    def __init__(self, counter: Counter) -> None:
        self.counter = counter
        self.operations = Operations(counter.desk)

    async def ask(self, rule: str = "allowances.voice", limit: int = 300, **more: Any) -> int:
        asked = await self.operations.call(
            "request_add",
            {"account": "acme", "rule": rule, "limit": limit, "why": "a fair", "by": "Ann", **more},
        )
        return int(asked["request"])

    async def approve(self, request: int, **more: Any) -> dict[str, Any]:
        given = {"request": request, "by": "Olga", "note": "a good customer", **more}
        return dict(await self.operations.call("request_approve", given))

    async def raised(self, rule: str = "allowances.voice", limit: int = 300, **more: Any) -> int:
        """Asked and approved."""
        request = await self.ask(rule, limit)
        await self.approve(request, **more)
        return request

    async def tell(self, operation: str, request: int) -> dict[str, Any]:
        given = {"request": request, "by": "Olga", "note": "too much"}
        return dict(await self.operations.call(operation, given))

    async def state(self, request: int) -> str:
        return str((await self.operations.call("request_show", {"request": request}))["state"])

    async def usage(self) -> list[dict[str, Any]]:
        return list((await self.operations.call("usage", {"account": "acme"}))["usage"])


@pytest.fixture
async def counter(ledger: Ledger) -> Counter:
    counter = Counter(ledger, plan(), rules=WHOLE)
    await counter.open_account("alice", "bob")
    return counter


@pytest.fixture
def desk(counter: Counter) -> Desk:
    return Desk(counter)


# --- the record ----------------------------------------------------------------------------------


async def test_a_request_is_on_record_with_who_why_and_when(desk: Desk) -> None:
    request = await desk.ask(until_ms=NOON_MS + MINUTE_MS)
    desk.counter.clock.forward(5_000)
    approved = await desk.approve(request)
    assert (approved["state"], approved["rule"], approved["limit"], approved["unit"]) == (
        "approved",
        "allowances.voice",
        300,
        "s",
    )
    assert (approved["from_ms"], approved["until_ms"]) == (NOON_MS + 5_000, NOON_MS + MINUTE_MS)
    assert approved["clause"] == {"policy": "plan", "version": "1", "id": "R5"}
    entries = (await desk.operations.call("request_show", {"request": request}))["entries"]
    assert entries == [
        {"at_ms": NOON_MS, "what": "asked", "by": "Ann", "note": "a fair"},
        {"at_ms": NOON_MS + 5_000, "what": "approved", "by": "Olga", "note": "a good customer"},
    ]


@pytest.mark.clause("R5", "allowed")
@pytest.mark.clause("R5", "refused")
async def test_a_request_alone_changes_nothing(desk: Desk) -> None:
    await desk.counter.talk("first", 100)
    request = await desk.ask()
    assert await desk.counter.refuse("second") == (Reason.ALLOWANCE_USED_UP, "C5")
    await desk.approve(request)
    allow = await desk.counter.allow("third")
    assert (allow.reason, allow.clause.id, allow.granted_s) == (Reason.WITHIN_RAISED_LIMIT, "R5", 200)


@pytest.mark.parametrize("operation", ["request_decline", "request_withdraw"])
async def test_what_was_declined_or_withdrawn_raises_nothing(desk: Desk, operation: str) -> None:
    request = await desk.ask()
    told = await desk.tell(operation, request)
    assert told["state"] == {"request_decline": "declined", "request_withdraw": "withdrawn"}[operation]
    assert (await desk.counter.allow()).granted_s == 100
    with pytest.raises(NotNow, match=f"request {request} is {told['state']} and cannot be approved"):
        await desk.approve(request)


@pytest.mark.parametrize("operation", ["request_decline", "request_withdraw"])
async def test_what_was_approved_is_no_longer_open(desk: Desk, operation: str) -> None:
    request = await desk.raised()
    with pytest.raises(NotNow):
        await desk.tell(operation, request)
    assert await desk.state(request) == "approved"


async def test_what_is_open_cannot_be_revoked_and_nothing_is_approved_twice(desk: Desk) -> None:
    request = await desk.ask()
    with pytest.raises(NotNow):
        await desk.tell("request_revoke", request)
    await desk.approve(request)
    with pytest.raises(NotNow):
        await desk.approve(request)


async def test_of_two_who_decide_at_once_one_does(desk: Desk) -> None:
    request = await desk.ask()
    told = await asyncio.gather(
        desk.approve(request), desk.tell("request_decline", request), return_exceptions=True
    )
    assert [isinstance(each, NotNow) for each in told].count(True) == 1


@pytest.mark.parametrize(
    ("rule", "limit", "more", "words"),
    [
        (
            "allowances.texts",
            5,
            {},
            "is no limit of policy 'plan'; it has allowances.voice, caps.simultaneous_calls",
        ),
        ("caps.participants", 9, {}, r"lets nobody raise caps.participants \(clause C10\)"),
        ("longest_call", 9, {}, "is no limit"),
        ("allowances.voice", 100, {}, "allowances.voice is 100 for account 'acme' already"),
        ("allowances.voice", 99, {}, "ask for more than that"),
        ("allowances.voice", 300, {"line": "alice"}, "is not each line's own"),
        ("allowances.voice", 300, {"line": "carol"}, "has no line 'carol'"),
        ("allowances.voice", 300, {"plain": True}, "is time of talk; write it like 3000min"),
        ("caps.lines", 300, {"plain": False}, "is a number; write it like 5"),
        ("allowances.voice", 300, {"why": " "}, "needs a reason"),
        ("allowances.voice", 300, {"by": ""}, "needs a name"),
        ("allowances.voice", 300, {"until_ms": NOON_MS}, "has passed"),
    ],
)
async def test_what_cannot_be_raised_is_said(
    desk: Desk, rule: str, limit: int, more: dict[str, Any], words: str
) -> None:
    desk.counter.use(plan(more=CAPS + REQUESTS))
    with pytest.raises(ValueError, match=words):
        await desk.ask(rule, limit, **more)
    assert await desk.operations.call("request_list", {}) == []


async def test_an_approval_needs_a_reason_and_an_end_that_is_to_come(desk: Desk) -> None:
    request = await desk.ask()
    for given, words in (
        ({"note": " "}, "needs a reason"),
        ({"until_ms": NOON_MS}, "ends after it begins"),
        ({"until_ms": NOON_MS + 1, "cycles": 1}, "give one of them"),
        ({"until_ms": NOON_MS + 1, "endless": True}, "leave the end out"),
        ({"starts": "later"}, "write at_once or next_cycle"),
        ({"by": ""}, "needs a name"),
    ):
        with pytest.raises(ValueError, match=words):
            await desk.approve(request, **given)
    assert await desk.state(request) == "open"


async def test_a_key_asks_once_and_for_one_thing(desk: Desk, ledger: Ledger) -> None:
    first = await desk.ask(key="portal 1")
    assert await desk.ask(key="portal 1") == first
    assert await desk.ask(key="portal 2") != first
    with pytest.raises(AlreadyExists, match="was used for another request"):
        await desk.ask(limit=400, key="portal 1")
    assert len(await ledger.requests("acme")) == 2


async def test_open_requests_of_an_account_are_bounded(desk: Desk) -> None:
    requests = [await desk.ask() for _ in range(OPEN_MAX)]
    with pytest.raises(TooMany):
        await desk.ask()
    await desk.tell("request_withdraw", requests[0])
    await desk.ask()


async def test_unknown_requests_and_accounts_are_said(desk: Desk, ledger: Ledger) -> None:
    with pytest.raises(NotFound, match="no request 7"):
        await desk.approve(7)
    with pytest.raises(NotFound):
        await ledger.request(7)
    with pytest.raises(NotFound, match="no account 'other'"):
        await desk.ask(account="other")


async def test_requests_are_listed_by_account_and_state(desk: Desk, ledger: Ledger) -> None:
    first, second = await desk.ask(), await desk.raised(limit=400)
    listed = await desk.operations.call("request_list", {"account": "acme"})
    assert [row["request"] for row in listed] == [second, first]
    opened = await desk.operations.call("request_list", {"state": "open"})
    assert [row["request"] for row in opened] == [first]
    assert await ledger.requests("other") == ()


# --- at work -------------------------------------------------------------------------------------


@pytest.mark.clause("R5", "allowed")
@pytest.mark.clause("A11", "allowed")
async def test_a_live_call_goes_on_past_the_old_limit(desk: Desk) -> None:
    counter = desk.counter
    await counter.allow("live")
    await counter.desk.answered("live", "leg", counter.clock.now())
    counter.clock.forward(95_000)
    assert (await counter.desk.renew("live", 5_000)).granted_s == 100
    await desk.raised()
    grant = await counter.desk.renew("live", 5_000)
    assert grant.granted_s == 300
    counter.clock.forward(150_000)
    await counter.settle("live", 245)
    assert await counter.meters() == [("voice", 245, 0, 0)]


@pytest.mark.clause("R5", "cut")
async def test_a_raise_ends_to_the_second_and_what_was_used_stays(desk: Desk) -> None:
    counter = desk.counter
    await desk.raised(until_ms=NOON_MS + 150_000)
    allow = await counter.allow("live", ring_s=0)
    assert allow.granted_s == 150
    await counter.desk.answered("live", "leg", counter.clock.now())
    counter.clock.forward(145_000)
    assert (await counter.desk.renew("live", 5_000)).granted_s == 150
    counter.clock.forward(5_000)
    await counter.settle("live", 150)
    assert await counter.refuse("after") == (Reason.ALLOWANCE_USED_UP, "C5")
    [usage] = await desk.usage()
    assert (usage["limit_units"], usage["used_units"], usage["left_units"], usage["requests"]) == (
        100,
        150,
        0,
        [],
    )


async def test_what_the_policy_itself_allows_outlasts_the_raise(desk: Desk) -> None:
    await desk.raised(until_ms=NOON_MS + 30_000)
    assert (await desk.counter.allow("live", ring_s=0)).granted_s == 100


async def test_a_revoked_raise_grants_nothing_more_and_breaks_nothing(desk: Desk) -> None:
    counter = desk.counter
    request = await desk.raised()
    await counter.allow("live", ring_s=0)
    await counter.desk.answered("live", "leg", counter.clock.now())
    assert (await desk.tell("request_revoke", request))["state"] == "revoked"
    assert await counter.refuse("other", line="bob") == (Reason.ALLOWANCE_RESERVED, "C5")
    counter.clock.forward(200_000)
    granted_s = (await counter.desk.renew("live", 100_000)).granted_s
    assert granted_s == 300  # what it has it keeps
    await counter.settle("live", 220)
    assert await counter.meters() == [("voice", 220, 0, 0)]
    assert await counter.refuse("after") == (Reason.ALLOWANCE_USED_UP, "C5")
    counter.at(MONTH_END_MS)
    assert (await counter.allow("next-month")).granted_s == 100


async def test_usage_says_the_limit_and_whose_it_is(desk: Desk) -> None:
    await desk.counter.talk("first", 40)
    [before] = await desk.usage()
    assert (before["limit_units"], before["policy_units"], before["requests"]) == (100, 100, [])
    request = await desk.raised()
    [after] = await desk.usage()
    assert (after["limit_units"], after["policy_units"], after["requests"]) == (300, 100, [request])
    assert after["left_units"] == 260


async def test_check_explains_the_raise(desk: Desk) -> None:
    asked = {"number": "02079460123", "line": "alice", "explain": True}
    await desk.counter.talk("first", 100)
    refused = await desk.operations.call("check", asked)
    assert [row for row in refused["rules"] if row["rule"].startswith("request")] == []
    request = await desk.raised(until_ms=NOON_MS + 3_600_000)
    allowed = await desk.operations.call("check", asked)
    assert (allowed["decision"], allowed["reason"], allowed["clause"]["id"]) == (
        "allow",
        "within_raised_limit",
        "R5",
    )
    rows = {row["rule"]: row for row in allowed["rules"]}
    assert rows[f"request {request}"]["saw"] == "raises allowances.voice to 300"
    assert f"limit 300 s by request {request} instead of 100" in rows["allowances.voice"]["saw"]


async def test_the_clause_is_that_of_changes_where_no_rule_speaks_of_requests(desk: Desk) -> None:
    policy = plan(more="").model_copy(update={"changes_clause": "A11"})
    desk.counter.use(policy)
    await desk.counter.talk("first", 100)
    await desk.raised()
    assert (await desk.counter.allow("second")).clause.id == "A11"


@pytest.mark.parametrize("raised", [False, True])
async def test_calls_at_once(desk: Desk, raised: bool) -> None:
    desk.counter.use(plan(limit_s=100_000, longest_s=600, more=CAPS + REQUESTS))
    if raised:
        await desk.raised("caps.simultaneous_calls", 2)
    assert (await desk.counter.allow("one")).reason is Reason.WITHIN_ALLOWANCE
    if raised:
        assert (await desk.counter.allow("two", line="bob")).reason is Reason.WITHIN_RAISED_LIMIT
    assert await desk.counter.refuse("three", line="bob") == (Reason.TOO_MANY_CALLS, "C8")


@pytest.mark.parametrize("raised", [False, True])
async def test_lines_of_an_account(desk: Desk, ledger: Ledger, raised: bool) -> None:
    desk.counter.use(plan(more=CAPS + REQUESTS))
    if raised:
        await desk.raised("caps.lines", 3)
        await ledger.add_line(Line("carol", "acme"), desk.counter.desk.lines_max)
    with pytest.raises(TooMany):
        await ledger.add_line(Line("dora", "acme"), desk.counter.desk.lines_max)


async def test_a_raise_of_one_line_is_that_lines_alone(desk: Desk) -> None:
    desk.counter.use(plan(scope="line"))
    request = await desk.ask(line="alice")
    await desk.approve(request)
    assert (await desk.counter.allow("a", line="alice")).granted_s == 300
    assert (await desk.counter.allow("b", line="bob")).granted_s == 100


async def test_emergency_calls_are_what_they_were(desk: Desk) -> None:
    await desk.raised()
    allow = await desk.counter.allow("help", "999", kind=Kind.EMERGENCY)
    assert (allow.reason, allow.granted_s) == (Reason.EMERGENCY, None)


async def test_a_raise_never_lowers_what_a_new_version_allows(desk: Desk) -> None:
    await desk.raised()
    desk.counter.use(plan(limit_s=1_000))
    assert (await desk.counter.allow()).granted_s == 1_000


async def test_the_highest_of_several_decides(desk: Desk) -> None:
    high = await desk.ask(limit=400)
    await desk.raised(limit=200, until_ms=NOON_MS + 3_600_000)
    await desk.approve(high)
    assert (await desk.counter.allow()).granted_s == 400
    await desk.tell("request_revoke", high)
    await desk.counter.ledger.release("call-1")
    assert (await desk.counter.allow("again")).granted_s == 200


async def test_another_policy_has_its_own_limits(desk: Desk, ledger: Ledger) -> None:
    desk.counter.use(plan(), plan(name="other"))
    request = await desk.raised()
    await ledger.subscribe("acme", "other", Options())
    assert (await desk.counter.allow()).granted_s == 100
    [ended] = await ledger.end_requests(NOON_MS)
    assert (ended.id, await desk.state(request)) == (request, "revoked")


async def test_a_request_that_the_policy_has_outgrown_is_not_approved(desk: Desk, ledger: Ledger) -> None:
    request = await desk.ask()
    desk.counter.use(plan(limit_s=300))
    with pytest.raises(ValueError, match="is 300 for account 'acme' already"):
        await desk.approve(request)
    desk.counter.use(plan(), plan(name="other"))
    await ledger.subscribe("acme", "other", Options())
    with pytest.raises(ValueError, match="no longer on policy 'plan'"):
        await desk.approve(request)
    assert await desk.state(request) == "open"


# --- from when, until when -----------------------------------------------------------------------


async def test_from_the_next_cycle_for_two_of_them(desk: Desk) -> None:
    counter = desk.counter
    request = await desk.ask()
    approved = await desk.approve(request, starts="next_cycle", cycles=2)
    two_months_ms = (31 + 31) * 86_400_000
    assert (approved["from_ms"], approved["until_ms"]) == (MONTH_END_MS, MONTH_END_MS + two_months_ms)
    for at_ms, granted_s in (
        (NOON_MS, 100),
        (MONTH_END_MS, 300),
        (MONTH_END_MS + 32 * 86_400_000, 300),
        (MONTH_END_MS + two_months_ms, 100),
    ):
        counter.at(at_ms)
        assert (await counter.allow(f"call-{at_ms}")).granted_s == granted_s


async def test_a_call_over_the_cycles_end_has_both_limits(desk: Desk) -> None:
    """Asked at 20 s before the end: 20 of this month's 100 s, and up to 300 of the next one's."""
    await desk.approve(await desk.ask(), starts="next_cycle")
    desk.counter.at(MONTH_END_MS - 20_000)
    assert (await desk.counter.allow("over", ring_s=0)).granted_s == 320


async def test_a_raise_to_the_end_of_the_cycle_lets_calls_begin_to_the_end(desk: Desk) -> None:
    """The next month has an allowance of its own, however long it rings."""
    await desk.approve(await desk.ask(), cycles=1)
    await desk.counter.talk("first", 150)
    desk.counter.at(MONTH_END_MS - 30_000)
    assert (await desk.counter.allow("last", ring_s=60)).granted_s == 100


@pytest.mark.parametrize("opened", [True, False])
async def test_what_is_over_is_written_down_once(desk: Desk, ledger: Ledger, opened: bool) -> None:
    end_ms = NOON_MS + MINUTE_MS
    request = await desk.ask(until_ms=end_ms)
    if not opened:
        await desk.approve(request)
    assert await ledger.end_requests(end_ms - 1) == ()
    [ended] = await ledger.end_requests(end_ms)
    assert (ended.id, await desk.state(request)) == (request, "expired")
    assert await ledger.end_requests(end_ms) == ()
    entries = (await ledger.request(request))[1]
    assert (entries[-1].what, entries[-1].by, entries[-1].at_ms) == ("expired", "fairdial", end_ms)


async def test_a_terminated_account_has_no_raises(desk: Desk, ledger: Ledger) -> None:
    request = await desk.raised()
    await ledger.set_standing("acme", Standing.TERMINATED, NOON_MS)
    await ledger.end_requests(NOON_MS)
    assert await desk.state(request) == "revoked"


async def test_all_of_it_is_there_after_a_restart(store: Store) -> None:
    ledger = await store.open()
    async with contextlib.AsyncExitStack() as undo:
        undo.push_async_callback(ledger.close)
        counter = Counter(ledger, plan(), rules=WHOLE)
        await counter.open_account()
        request = await Desk(counter).raised()
    async with contextlib.AsyncExitStack() as undo:
        again = await store.open()
        undo.push_async_callback(again.close)
        counter = Counter(again, plan(), rules=WHOLE)
        assert (await counter.allow()).granted_s == 300
        assert await Desk(counter).state(request) == "approved"


# --- past an allowance that is charged -----------------------------------------------------------


@pytest.mark.parametrize(
    ("from_s", "until_s", "charged_s"),
    [
        (None, None, 150),  # 250 s talked, 100 of them included
        (200, None, 100),  # 100 included, 100 charged, then what is more is included
        (0, 150, 100),  # included until the raise ends, then nothing is left of the 100
        (0, None, 0),
    ],
)
async def test_each_second_counts_by_the_limit_that_held_in_it(
    counter: Counter, from_s: int | None, until_s: int | None, charged_s: int
) -> None:
    counter.use(plan("overage"))
    desk = Desk(counter)
    if from_s == 0:
        until_ms = None if until_s is None else NOON_MS + until_s * 1000
        await desk.raised(until_ms=until_ms)
    await counter.allow("live")
    await counter.desk.answered("live", "leg", counter.clock.now())
    if from_s:
        counter.clock.forward(from_s * 1000)
        await desk.raised()
    counter.clock.forward((250 - (from_s or 0)) * 1000)
    await counter.settle("live", 250)
    assert await counter.meters() == [("voice", 250 - charged_s, 0, charged_s)]
    charged = await counter.charged()
    assert charged == ({"live": (charged_s, charged_s * PER_S)} if charged_s else {})
    assert (await desk.operations.call("statement", {"account": "acme"}))["adds_up"] is True


async def test_a_call_that_begins_past_the_limit_pays_its_connection_though_the_limit_rises(
    counter: Counter,
) -> None:
    """Its first seconds are charged and its last included, which its statement must know."""
    charged = plan("overage")
    assert charged.charges is not None
    fee = charged.charges.model_copy(update={"connect_fee": "0.10"})
    counter.use(charged.model_copy(update={"charges": fee}))
    desk = Desk(counter)
    await counter.talk("earlier", 100)
    await counter.allow("live")
    await counter.desk.answered("live", "leg", counter.clock.now())
    counter.clock.forward(50_000)
    await desk.raised()
    counter.clock.forward(50_000)
    await counter.settle("live", 100)
    assert await counter.charged() == {"live": (50, 50 * PER_S + FEE)}
    assert await counter.meters() == [("voice", 150, 0, 50)]
    assert (await desk.operations.call("statement", {"account": "acme"}))["adds_up"] is True


async def test_past_a_raised_limit_calls_are_charged_as_ever(desk: Desk) -> None:
    desk.counter.use(plan("overage"))
    await desk.raised()
    await desk.counter.talk("first", 290)
    assert (await desk.counter.allow("second")).reason is Reason.WITHIN_RAISED_LIMIT
    await desk.counter.settle("second", 30)
    assert (await desk.counter.allow("third")).reason is Reason.PAST_ALLOWANCE
    assert await desk.counter.charged() == {"second": (20, 20 * PER_S)}


# --- agreements ----------------------------------------------------------------------------------


async def test_an_agreement_says_what_it_answers_and_who_wrote_it_down(desk: Desk) -> None:
    request = await desk.ask()
    given = {"account": "acme", "consent": "surcharge", "agreed_by": "Ann", "by": "Olga", "request": request}
    [row] = await desk.operations.call("agreement_add", given)
    assert (row["about"], row["recorded_by"], row["withdrawn_ms"]) == (f"request {request}", "Olga", None)


async def test_what_was_withdrawn_stays_in_the_history(desk: Desk, ledger: Ledger) -> None:
    for by in ("Ann", "Bea"):
        await desk.operations.call(
            "agreement_add", {"account": "acme", "consent": "surcharge", "agreed_by": by}
        )
        desk.counter.clock.forward(1_000)
        if by == "Ann":
            await desk.operations.call(
                "agreement_withdraw", {"account": "acme", "consent": "surcharge", "by": "Olga"}
            )
            desk.counter.clock.forward(1_000)
    holding = await desk.operations.call("agreement_list", {"account": "acme"})
    assert [row["agreed_by"] for row in holding] == ["Bea"]
    every = await desk.operations.call("agreement_list", {"account": "acme", "withdrawn": True})
    assert [(row["agreed_by"], row["withdrawn_ms"], row["withdrawn_by"]) for row in every] == [
        ("Bea", None, ""),
        ("Ann", NOON_MS + 1_000, "Olga"),
    ]
    with pytest.raises(NotFound):
        await ledger.agreements("other")


async def test_an_agreement_answers_nothing_of_another_account(desk: Desk) -> None:
    with pytest.raises(NotFound):
        await desk.operations.call(
            "agreement_add",
            {"account": "acme", "consent": str(Consent.SURCHARGE), "agreed_by": "A", "case": 9},
        )
    assert await desk.operations.call("agreement_list", {"account": "acme"}) == []
