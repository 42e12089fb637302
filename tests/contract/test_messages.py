"""What a store keeps of messages: how they went, fingerprints for a while, and nothing of one that was not sent."""

import asyncio
from dataclasses import replace

import pytest

from fairdial.desk import Asked, Desk, DeskRules, Failed
from fairdial.ledger.contract import IdempotencyConflict, Judge, Ledger, NotFound, Plan
from fairdial.policy.account import Account, Dial, Kind, Line, Medium, Message, Options
from fairdial.policy.decide import Allow, Verdict
from fairdial.policy.history import Attempt
from fairdial.policy.outcomes import Reason
from tests.charges import LONDON, NUMBERING, PREMIUM, Counter
from tests.contract.conftest import Store
from tests.contract.test_counting import limited, opened
from tests.samples import NOON_MS, authorise, outbound, provision
from tests.shipped import POLICIES

DAY_MS = 86_400_000
SECRETS = (("texts", b"first"), ("texts", b"second"), ("other", b"third"))
TEXT = Message(Medium.SMS, "ab" * 16)


def asked(
    message_id: str = "msg-1",
    number: str = LONDON,
    message: Message = TEXT,
    *,
    sender: str = "",
    line: str = "alice",
) -> Asked:
    return Asked(message_id, Kind.MESSAGE, number, line, "test", 0, sender, message=message)


async def sent(counter: Counter, which: Asked) -> Verdict:
    sending = await counter.desk.message(which)
    assert isinstance(sending.outcome, Verdict)
    return sending.outcome


def dial(message_id: str, at_ms: int = NOON_MS, message: Message = TEXT) -> Dial:
    return replace(outbound(message_id, kind=Kind.MESSAGE, at_ms=at_ms), message=message)


async def test_how_a_message_went_is_in_its_record_and_its_text_is_not(ledger: Ledger) -> None:
    counter = await opened(ledger, POLICIES["voxdirect"])
    for n, medium in enumerate(Medium):
        counter.clock.forward(1000)
        await sent(
            counter, asked(f"msg-{n}", "101" if medium is Medium.CHAT else LONDON, Message(medium, "cd" * 16))
        )
    await counter.talk("call-1", 10)
    messages = await ledger.messages("acme")
    assert [each.medium for each in messages] == [str(medium) for medium in reversed(Medium)]
    assert await ledger.messages() == messages
    assert [each.call_id for each in await ledger.messages("acme", 1)] == ["msg-3"]
    decisions = await ledger.decisions("acme")
    assert {each.call_id: each.medium for each in decisions} == {
        **{each.call_id: each.medium for each in messages},
        "call-1": "",
    }
    assert "cdcd" not in str(decisions)


async def test_messages_of_an_account_that_nobody_knows_are_no_empty_list(ledger: Ledger) -> None:
    with pytest.raises(NotFound):
        await ledger.messages("nobody")


@pytest.mark.clause("S1", "allowed")
async def test_a_chat_counts_as_one_and_any_other_medium_as_a_message(ledger: Ledger) -> None:
    counter = Counter(ledger, POLICIES["spokephone"])
    await ledger.add_account(Account("acme", "spokephone", options=Options(frozenset({"GB"}))))
    await ledger.add_line(Line("alice", "acme"))
    for n, medium in enumerate(Medium):
        number = "bob" if medium is Medium.CHAT else LONDON
        assert isinstance((await sent(counter, asked(f"msg-{n}", number, Message(medium)))).decision, Allow)
    used = {name: used for name, used, _, _ in await counter.meters()}
    assert used == {"chats/alice": 1, "messages/alice": 3}


async def test_a_name_is_no_number_unless_it_is_for_a_chat(ledger: Ledger) -> None:
    counter = await opened(ledger, POLICIES["voxdirect"])
    assert (await sent(counter, asked(number="bob"))).decision.reason is Reason.NUMBER_INVALID


# --- the same again ------------------------------------------------------------------------------


async def test_the_same_message_again_is_marked_as_repeated_also_after_a_restart(store: Store) -> None:
    ledger = await store.open()
    counter = await opened(ledger, limited("voxdirect", "messages", limit=0))
    first = await sent(counter, asked())
    await ledger.close()
    ledger = await store.open()
    counter.desk.ledger = counter.ledger = ledger
    try:
        again = await sent(counter, asked())
        assert (again.decision, first.repeated, again.repeated) == (first.decision, False, True)
        assert await counter.charged() == {"msg-1": (1, 15_000)}
    finally:
        await ledger.close()


async def test_a_refusal_is_repeated_too(ledger: Ledger) -> None:
    counter = await opened(ledger, POLICIES["voxdirect"])
    refusals = [await sent(counter, asked(number=PREMIUM)) for _ in range(2)]
    assert [(each.decision.reason, each.repeated) for each in refusals] == [
        (Reason.CLASS_NOT_COVERED, False),
        (Reason.CLASS_NOT_COVERED, True),
    ]


@pytest.mark.parametrize(
    "other",
    [
        asked(number="02079460124"),
        asked(line="bob"),
        asked(message=Message(Medium.MMS, TEXT.text)),
        asked(message=Message(Medium.SMS, "cd" * 16)),
        asked(message=Message(Medium.SMS)),
        asked(sender="+442079460000"),
    ],
)
async def test_one_id_for_two_messages_is_an_error_that_counts_nothing(ledger: Ledger, other: Asked) -> None:
    counter = await opened(ledger, POLICIES["voxdirect"])
    await sent(counter, asked())
    assert (await counter.desk.message(other)).outcome == Failed(Reason.REQUEST_MALFORMED)
    assert await counter.meters() == [("messages", 1, 0, 0)]


# --- not sent ------------------------------------------------------------------------------------


async def test_a_message_that_was_not_sent_is_neither_counted_nor_charged(ledger: Ledger) -> None:
    counter = await opened(ledger, limited("voxdirect", "messages", limit=1))
    kept = await counter.desk.message(asked("msg-1"))
    counter.clock.forward(1)
    charged = await counter.desk.message(asked("msg-2"))
    assert await counter.meters() == [("messages", 1, 0, 1)]
    assert await ledger.unsend("msg-2", charged.at_ms)
    assert (await counter.meters(), await counter.charged()) == ([("messages", 1, 0, 0)], {})
    assert await ledger.unsend("msg-1", kept.at_ms)
    assert await counter.meters() == []
    assert (await ledger.messages(), await ledger.decisions()) == ((), ())
    again = await counter.desk.message(asked("msg-1"))
    assert isinstance(again.outcome, Verdict)
    assert (again.outcome.decision.reason, again.outcome.repeated) == (Reason.WITHIN_ALLOWANCE, False)


async def test_who_asks_again_and_gives_up_takes_nothing_back(ledger: Ledger) -> None:
    counter = await opened(ledger, POLICIES["voxdirect"])
    first = await counter.desk.message(asked())
    counter.clock.forward(1)
    again = await counter.desk.message(asked())
    counter.desk.not_sent(again)
    assert not await ledger.unsend("msg-1", again.at_ms)
    await counter.desk.close()
    assert await counter.meters() == [("messages", 1, 0, 0)]
    assert await ledger.unsend("msg-1", first.at_ms)
    assert not await ledger.unsend("msg-1", first.at_ms), "once"


async def test_a_decision_that_comes_too_late_counts_nothing_and_one_that_was_made_before_stays(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = await opened(ledger, POLICIES["voxdirect"])
    await sent(counter, asked("in-time"))
    counter.clock.forward(1)
    decide = ledger.authorise

    async def late(dial: Dial, plan: Plan, judge: Judge) -> Verdict:
        await decide(dial, plan, judge)
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(ledger, "authorise", late)
    hasty = Desk(ledger, counter.desk.policies, NUMBERING, counter.clock, DeskRules(answer_within_s=0.2))
    for message_id in ("in-time", "too-late"):
        assert (await hasty.message(asked(message_id))).outcome == Failed(Reason.TOO_LATE)
    await hasty.close()
    assert await counter.meters() == [("messages", 1, 0, 0)]
    assert [each.call_id for each in await ledger.messages()] == ["in-time"]


async def test_a_call_is_no_message_that_could_be_taken_out(ledger: Ledger) -> None:
    counter = await opened(ledger, POLICIES["voxdirect"])
    await counter.allow("call-1")
    assert not await ledger.unsend("call-1", NOON_MS)
    assert await ledger.grant("call-1") is not None


# --- texts ---------------------------------------------------------------------------------------


async def texts(ledger: Ledger) -> dict[str, str]:
    """The fingerprints that the detectors would be told of at a start."""
    dials = (await ledger.past(0, None, 100)).dials
    return {first.call_id: first.text for first, *_ in dials if isinstance(first, Attempt)}


async def test_a_text_is_known_for_a_while_and_then_forgotten(ledger: Ledger) -> None:
    await provision(ledger)
    await authorise(ledger, dial("old", NOON_MS - DAY_MS))
    await authorise(ledger, dial("new"))
    await authorise(ledger, dial("bare", message=Message(Medium.SMS)))
    assert await texts(ledger) == {"old": TEXT.text, "new": TEXT.text, "bare": ""}
    assert await ledger.forget_texts(NOON_MS) == 1
    assert await ledger.forget_texts(NOON_MS) == 0
    assert await texts(ledger) == {"old": "", "new": TEXT.text, "bare": ""}
    # What is forgotten cannot be compared; the rest of it can.
    await authorise(ledger, dial("old", message=Message(Medium.SMS, "cd" * 16)))
    with pytest.raises(IdempotencyConflict):
        await authorise(ledger, dial("old", message=Message(Medium.MMS, TEXT.text)))


async def test_a_secret_is_made_once_and_stays(store: Store) -> None:
    ledger = await store.open()
    try:
        made = [await ledger.secret(name, value) for name, value in SECRETS]
    finally:
        await ledger.close()
    assert made == [b"first", b"first", b"third"]
    ledger = await store.open()
    try:
        assert await ledger.secret("texts", b"fourth") == b"first"
    finally:
        await ledger.close()
