"""The AGI route of messages: what is asked of the desk, and what becomes of a message that the switch gave up on."""

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from agi_app.fastagi import FastAgiServer
from agi_app.message import message_route
from fairdial.desk import Asked, Failed, Sending
from fairdial.policy.account import Kind, Medium, Message
from fairdial.policy.decide import Allow, Refuse, Verdict
from fairdial.policy.outcomes import Reason
from fairdial.policy.terms import Clause
from fairdial.tallies import Spread
from tests.samples import LONDON, NOON_MS
from tests.unit.test_fastagi import connect, header

CLAUSE = Clause("plan", "1", "P4")
ALLOWED = Allow(Reason.WITHIN_ALLOWANCE, CLAUSE, "acme")
SCRIPT = "message?line=alice&number=02079460123&medium=sms"


@dataclass
class Desk:
    """Notes what it is asked, and answers as it is told."""

    answer: Verdict | Failed = field(default_factory=lambda: Verdict(LONDON, ALLOWED))
    asked: list[Asked] = field(default_factory=list)
    undone: list[Sending] = field(default_factory=list)
    answers: Spread = field(default_factory=Spread)

    async def message(self, asked: Asked) -> Sending:
        self.asked.append(asked)
        return Sending(asked.call_id, NOON_MS, self.answer, "alice")


def replies(
    text: bytes = b"hello", sender: str = "<sip:alice@host>;tag=1", sip_id: str = "a@b"
) -> dict[str, bytes]:
    """What the switch says of a message, by the start of the command."""
    values = {
        "MESSAGE(body)": text,
        "MESSAGE_DATA(From)": sender.encode(),
        "MESSAGE_DATA(Call-ID)": sip_id.encode(),
        "MESSAGE_DATA(CSeq)": b"1 MESSAGE",
    }
    return {
        f'GET VARIABLE "REPLACE({name},': b"200 result=1 (" + value + b")\n" for name, value in values.items()
    }


@asynccontextmanager
async def serving(desk: Desk) -> AsyncIterator[FastAgiServer]:
    route = message_route(
        desk.message,
        desk.undone.append,
        lambda text: base64.b64encode(text.encode()).decode(),
        desk.answers,
    )
    server = FastAgiServer({"message": route}, port=0)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def told(desk: Desk, switch: Mapping[str, bytes] | None = None, script: str = SCRIPT) -> str:
    """The answer to one message."""
    async with serving(desk) as server, connect(server) as peer:
        variables = await peer.run(header(script), replies() if switch is None else switch)
    return variables["FAIRDIAL_ANSWER"]


async def test_a_message_is_asked_about_by_its_line_and_the_answer_names_the_sender() -> None:
    desk = Desk()
    assert await told(desk) == "ALLOW*within_allowance*0*+442079460123****alice"
    assert [(labels, sum(ranges)) for labels, ranges, _ in desk.answers] == [(("message", "allow"), 1)]
    [asked] = desk.asked
    assert (asked.kind, asked.line_id, asked.dialled) == (Kind.MESSAGE, "alice", "02079460123")
    assert (asked.caller, asked.sip_call_id, asked.source) == ("alice", "a@b", "alice")
    assert asked.message == Message(Medium.SMS, "aGVsbG8=")
    assert desk.undone == []


@pytest.mark.parametrize(
    ("sender", "caller"),
    [
        ('"Bank, Inc." <sip:+442079460000@bank.example>;tag=1', "+442079460000"),
        ("sips:bob@host;tag=1", "bob"),
        ("<tel:+442079460000>;tag=1", ""),
        ("<sip:host>;tag=1", ""),
        ("", ""),
    ],
)
async def test_the_number_that_a_sender_shows_is_read_and_pays_nothing(sender: str, caller: str) -> None:
    desk = Desk()
    await told(desk, replies(sender=sender))
    assert [(asked.caller, asked.line_id) for asked in desk.asked] == [(caller, "alice")]


async def test_each_thing_that_makes_a_message_another_makes_another_id() -> None:
    desk = Desk()
    await told(desk)
    await told(desk)
    for switch in (replies(b"other"), replies(sip_id="c@d"), replies(sender="<sip:alice@host>;tag=2")):
        await told(desk, switch)
    for script in (
        SCRIPT.replace("alice", "bob"),
        SCRIPT.replace("0123", "0124"),
        SCRIPT.replace("sms", "chat"),
    ):
        await told(desk, script=script)
    ids = [asked.call_id for asked in desk.asked]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 7


async def test_the_same_again_is_not_sent_again() -> None:
    desk = Desk(Verdict(LONDON, ALLOWED, repeated=True))
    assert await told(desk) == "REFUSE*message_repeated*21****ss-noservice*"
    desk = Desk(Verdict(LONDON, Refuse(Reason.CLASS_NOT_COVERED, CLAUSE, "acme"), repeated=True))
    assert (await told(desk)).startswith("REFUSE*class_not_covered*21*")


@pytest.mark.parametrize("text", [b"", b"   "])
async def test_without_a_text_nothing_is_asked(text: bytes) -> None:
    desk = Desk()
    assert await told(desk, replies(text)) == "REFUSE*message_unreadable*21****ss-noservice*"
    assert desk.asked == []


async def test_a_medium_that_is_none_is_left_to_the_failure_rule() -> None:
    desk = Desk()
    assert await told(desk, script=SCRIPT.replace("sms", "pigeon")) == "FAILED*request_malformed*34*****"
    assert desk.asked == []


async def test_no_decision_is_left_to_the_failure_rule_and_nothing_is_undone() -> None:
    desk = Desk(Failed(Reason.STORE_UNAVAILABLE))
    assert await told(desk) == "FAILED*store_unavailable*34*****"
    assert desk.undone == []


@pytest.mark.parametrize(
    "reply",
    [
        b"HANGUP\n200 result=1\n",
        b"510 Invalid or unknown command\n",
        b"511 Command Not Permitted on a dead channel\n",
    ],
)
async def test_what_the_switch_gave_up_on_is_not_counted(reply: bytes) -> None:
    desk = Desk()
    async with serving(desk) as server, connect(server) as peer:
        await peer.run(header(SCRIPT), {**replies(), "SET VARIABLE FAIRDIAL_ANSWER": reply})
    assert [each.call_id for each in desk.undone] == [desk.asked[0].call_id]
    assert [labels for labels, _, _ in desk.answers] == [("message", "undelivered")]


async def test_what_the_switch_closed_on_is_not_counted() -> None:
    desk = Desk()
    async with serving(desk) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(header(SCRIPT))
        while not (line := await reader.readline()).startswith(b"SET VARIABLE"):
            writer.write(next(value for start, value in replies().items() if line.decode().startswith(start)))
        writer.close()
        async with asyncio.timeout(5):
            while not desk.undone:
                await asyncio.sleep(0.005)
    assert [each.call_id for each in desk.undone] == [desk.asked[0].call_id]
