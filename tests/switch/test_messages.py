"""SIP MESSAGE on the real switch: delivered or refused, counted once, charged past the plan, and harmless.

The sender and the far network are SIPp; what SIPp cannot send is written on a socket.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from fairdial.clock import SystemClock
from fairdial.desk import Asked, Desk, DeskRules
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.account import Kind, Medium, Message
from fairdial.policy.book import PolicyBook
from fairdial.policy.decide import Allow, Verdict
from testbed.asterisk import Switch
from testbed.configuration import LOOPBACK, Line
from testbed.installation import Installation
from testbed.server import Server, dialplan
from testbed.sipp import Carrier, Received, send_messages
from testbed.texting import send_message
from tests.charges import NUMBERING
from tests.shipped import POLICIES
from tests.switch.conftest import Spine

MOBILE, MOBILE_E164 = "07912345678", "+447912345678"
PREMIUM = "09098790000"
OWN = "+442079460001"
NAMES = ("alice", "bob", "carol")
SENDERS = tuple(
    Line(name, accountcode=name, context="phones", message_context=f"messages-{name}") for name in NAMES
)
PASSWORD = "correct-horse-battery"
# A customer's own PBX logs in by its name, and writes into From which of the customer's numbers it sends for.
PBX = Line(
    "pbx",
    accountcode="pbx",
    context="phones",
    password=PASSWORD,
    message_context="messages-pbx",
)
AS_EVER = 202
"""Asterisk answers before the dialplan begins: a refusal is no status."""


@asynccontextmanager
async def texting(
    installation: Installation, directory: Path, settings: Mapping[str, object] | None = None
) -> AsyncIterator[Spine]:
    """The whole way of a message, with the account acme on voxdirect."""
    extensions, files = dialplan()
    files["messages.conf"] = "".join(
        f"[messages-{name}]\ninclude => fairdial-messages\n" for name in (*NAMES, "pbx")
    )
    async with (
        Switch.start(installation, extensions, files=files, lines=(*SENDERS, PBX)) as switch,
        Carrier.start(switch) as carrier,
        Server.start(switch, directory, settings) as server,
    ):
        await switch.set_global("FAIRDIAL_MESSAGE_AGI", f"{LOOPBACK}:{switch.agi_port}")
        await switch.cli("database put extension 102 bob")
        yield Spine(switch, carrier, server)
        assert await switch.no_channels() == []
        if server.running:
            await server.idle()
            assert await server.ask("differences") == []


@pytest_asyncio.fixture
async def spine(installation: Installation, tmp_path: Path) -> AsyncIterator[Spine]:
    """`texting` with alice and bob on voxdirect in GB."""
    async with texting(installation, tmp_path) as spine:
        await spine.server.account("acme", "voxdirect", "alice", "bob", countries=["GB"])
        yield spine


async def decided(spine: Spine, count: int, timeout_s: float = 10.0) -> list[dict[str, Any]]:
    """The latest decisions, newest first, once there are so many."""
    async with asyncio.timeout(timeout_s):
        while True:
            found: list[dict[str, Any]] = await spine.server.ask("decisions", limit=10_000)
            if len(found) >= count:
                return found
            await asyncio.sleep(0.02)


async def used(spine: Spine, account: str = "acme", allowance: str = "messages") -> tuple[int, int]:
    """Messages within the allowance, and past it."""
    sheet = await spine.server.ask("usage", account=account)
    meters = [meter for meter in sheet["usage"] if meter["allowance"] == allowance]
    return (meters[0]["used_units"], meters[0]["over_units"]) if meters else (0, 0)


@pytest.mark.clause("V1", "allowed")
async def test_a_message_is_delivered_and_counted(spine: Spine) -> None:
    assert await send_messages(spine.switch, [("alice", MOBILE, "See you at eight (by the door).")]) == [
        AS_EVER
    ]
    [received] = await spine.carrier.messages_when(1)
    assert received == Received(MOBILE_E164, "alice", "See you at eight (by the door).")
    [record] = await decided(spine, 1)
    assert (record["kind"], record["medium"], record["line_id"]) == ("message", "sms", "alice")
    assert (record["decision"], record["reason"], record["clause_id"]) == ("allow", "within_allowance", "V1")
    assert await used(spine) == (1, 0)


@pytest.mark.clause("V1", "refused")
async def test_a_message_that_the_plan_does_not_cover_is_refused_and_not_counted(spine: Spine) -> None:
    await send_messages(spine.switch, [("alice", PREMIUM, "join"), ("alice", "0207", "no number")])
    reasons = [record["reason"] for record in await decided(spine, 2)]
    assert sorted(reasons) == ["class_not_covered", "number_invalid"]
    assert (await used(spine), spine.carrier.messages()) == ((0, 0), [])


async def test_a_sender_is_told_why_where_that_is_wanted(spine: Spine) -> None:
    await spine.switch.set_global("FAIRDIAL_ANNOUNCE", "yes")
    await send_messages(spine.switch, [("alice", PREMIUM, "join")])
    assert await spine.carrier.messages_when(1) == [Received("alice", PREMIUM, "Not sent: class_not_covered")]


async def test_a_message_to_a_line_of_the_switch_is_a_chat(spine: Spine) -> None:
    await spine.server.account("team", "spokephone", "carol", countries=["GB"])
    await send_messages(spine.switch, [("carol", "102", "Kaffee um drei? é漢")])
    assert await spine.carrier.messages_when(1) == [Received("bob", "carol", "Kaffee um drei? é漢")]
    [record] = await decided(spine, 1)
    assert (record["medium"], record["number_class"], record["clause_id"]) == ("chat", "internal", "S1")
    assert await used(spine, "team", "chats/carol") == (1, 0)
    assert await used(spine, "team", "messages/carol") == (0, 0)


async def test_the_same_message_again_is_counted_and_sent_once_and_another_one_is_another(
    spine: Spine,
) -> None:
    assert await send_messages(spine.switch, [("alice", MOBILE, "once")], times=3) == [AS_EVER] * 3
    await send_messages(spine.switch, [("alice", MOBILE, "once")])
    assert [each.text for each in await spine.carrier.messages_when(2)] == ["once", "once"]
    assert (await used(spine), len(await decided(spine, 2))) == ((2, 0), 2)


@pytest.mark.clause("V1", "allowed")
@pytest.mark.clause("V2", "charged")
async def test_thirty_thousand_messages_pass_and_the_next_is_charged(spine: Spine) -> None:
    """All but the last few go to the ledger by the same desk, without the switch."""
    await spine.server.stop()
    await _fill(spine.server.directory / "ledger.sqlite", 29_998)
    await spine.server.launch()
    for n in (1, 2, 3):
        await send_messages(spine.switch, [("alice", MOBILE, f"number {n} of the last")])
        await spine.carrier.messages_when(n)
    records = await decided(spine, 10_000)
    assert [record["reason"] for record in records[:3]] == [
        "past_allowance",
        "within_allowance",
        "within_allowance",
    ]
    assert await used(spine) == (30_000, 1)
    charges = (await spine.server.ask("usage", account="acme"))["charges"]
    assert [(each["charged_units"], each["amount"], each["clause"]["id"]) for each in charges] == [
        (1, "0.015", "V2")
    ]


async def _fill(path: Path, count: int) -> None:
    ledger = await SqliteLedger.open(path)
    try:
        desk = Desk(
            ledger,
            PolicyBook([POLICIES["voxdirect"]]),
            NUMBERING,
            SystemClock(),
            DeskRules(answer_within_s=60),
        )

        async def send(n: int) -> None:
            asked = Asked(f"msg-{n}", Kind.MESSAGE, MOBILE, "bob", "test", 0, message=Message(Medium.SMS, ""))
            verdict = await desk.authorise(asked)
            assert isinstance(verdict, Verdict)
            assert isinstance(verdict.decision, Allow)

        for first in range(0, count, 5_000):
            await asyncio.gather(*(send(n) for n in range(first, min(count, first + 5_000))))
        await desk.close()
    finally:
        await ledger.close()


@pytest.mark.clause("A2", "found")
@pytest.mark.clause("S8", "found")
@pytest.mark.parametrize(
    ("policy", "detector", "clause"),
    [("acceptable-use", "same-text", "A2"), ("spokephone", "blasting", "S8")],
)
async def test_two_hundred_messages_of_one_text_open_a_case_and_end_the_sending(
    spine: Spine, policy: str, detector: str, clause: str
) -> None:
    await spine.server.account("blaster", policy, "carol", countries=["GB"])
    every = [
        ("carol", f"07912345{n:03}", "You  have WON a prize" if n % 2 else "you have won a Prize")
        for n in range(200)
    ]
    others = [("alice", f"07912346{n:03}", f"Dear customer {n}, your parcel is here") for n in range(60)]
    # What is refused counts as well: who goes on is found by the text, even where the rate was found first.
    await asyncio.gather(
        send_messages(spine.switch, every, rate_per_s=20.0, timeout_s=60),
        send_messages(spine.switch, others, rate_per_s=20.0, timeout_s=60),
    )
    await decided(spine, 260)
    found = await spine.server.ask("case_list")
    assert {(case["account"], case["detector"], case["clause"]["id"]) for case in found} >= {
        ("blaster", detector, clause)
    }
    assert {case["account"] for case in found} == {"blaster"}
    last = (await spine.server.ask("decisions", account="blaster", limit=1))[0]
    assert last["reason"] == "service_restricted"
    assert len([each for each in spine.carrier.messages() if each.sender == "alice"]) == 60


async def test_without_fairdial_messages_are_refused_unless_the_rule_lets_them_through(spine: Spine) -> None:
    await spine.server.kill()
    await send_messages(spine.switch, [("alice", MOBILE, "nobody there"), ("alice", "999", "help")])
    assert await spine.carrier.messages_when(1) == [Received("999", "alice", "help")]
    await spine.switch.set_global("FAIRDIAL_ON_FAILURE_message", "through")
    await send_messages(spine.switch, [("alice", MOBILE, "nobody there"), ("alice", "102", "to a colleague")])
    assert (await spine.carrier.messages_when(2))[1] == Received("bob", "alice", "to a colleague")
    assert len(spine.carrier.messages()) == 2, "a number that [fairdial-on-failure] does not have stays out"


async def test_a_frozen_fairdial_holds_up_messages_for_a_second_and_counts_none_that_was_not_sent(
    spine: Spine,
) -> None:
    os.kill(spine.server.pid, signal.SIGSTOP)
    try:
        await spine.switch.set_global("FAIRDIAL_ANNOUNCE", "yes")
        began = time.monotonic()
        await send_messages(spine.switch, [("alice", MOBILE, "frozen")])
        assert await spine.carrier.messages_when(1) == [
            Received("alice", MOBILE, "Not sent: fairdial_unreachable")
        ]
        assert time.monotonic() - began < 10
    finally:
        os.kill(spine.server.pid, signal.SIGCONT)
    await spine.switch.set_global("FAIRDIAL_ANNOUNCE", "no")
    await send_messages(spine.switch, [("alice", MOBILE, "thawed")])
    assert (await spine.carrier.messages_when(2))[1] == Received(MOBILE_E164, "alice", "thawed")
    assert await used(spine) == (1, 0)


@pytest.mark.clause("A4", "refused")
@pytest.mark.clause("A4", "allowed")
async def test_a_sender_shows_a_number_of_its_own_or_is_refused(spine: Spine) -> None:
    await spine.server.account("own", "acceptable-use", "pbx", countries=["GB"])
    await spine.server.ask("number_add", number=OWN, account="own", line="pbx")
    for shown in (OWN, "+442079460002", "director", "pbx"):
        sender = f'"Your bank" <sip:{shown}@bank.example>'
        assert await send_message(
            spine.switch, MOBILE, shown.encode(), user="pbx", password=PASSWORD, sender=sender
        )
    received = await spine.carrier.messages_when(2)
    assert [(each.sender, each.text) for each in received] == [(OWN, OWN), ("pbx", "pbx")]
    records = await decided(spine, 4)
    assert [(each["line_id"], each["reason"]) for each in reversed(records)] == [
        ("pbx", "not_counted"),
        ("pbx", "caller_not_own"),
        ("pbx", "caller_not_own"),
        ("pbx", "not_counted"),
    ]


async def test_where_no_policy_looks_at_numbers_a_message_shows_its_line(spine: Spine) -> None:
    await spine.server.account("any", "voxdirect", "pbx", countries=["GB"])
    sender = '"Alice" <sip:alice2@bank.example>'
    assert await send_message(spine.switch, MOBILE, user="pbx", password=PASSWORD, sender=sender) == AS_EVER
    assert await spine.carrier.messages_when(1) == [Received(MOBILE_E164, "pbx", "hello")]


async def test_a_header_names_nobody_else(spine: Spine) -> None:
    forged = "PJSIP_ENDPOINT: bob\r\nPJSIP_RECVADDR: 192.0.2.1:5060\r\nFAIRDIAL_LINE: bob\r\nX-Evil: ${SHELL(id)}\r\n"
    sender = '"Bob" <sip:alice@bank.example>'
    status = await send_message(spine.switch, MOBILE, sender=sender, headers=forged)
    assert status == AS_EVER
    assert await spine.carrier.messages_when(1) == [Received(MOBILE_E164, "alice", "hello")]
    assert (await spine.newest_decision())["line_id"] == "alice"


@pytest.mark.parametrize(
    "number",
    [
        f"{MOBILE}&PJSIP%2Fcarrier",
        f"{MOBILE}%2C{MOBILE}",
        f"{MOBILE})",
        f"{MOBILE}@carrier",
        "$%7BSHELL(id)%7D",
        "T",
        "h",
        "i",
        "s",
        "9" * 200,
        "%00",
        "",
    ],
)
async def test_a_hostile_destination_lets_nothing_through(spine: Spine, number: str) -> None:
    await send_message(spine.switch, number, within_s=1.0)
    await send_message(spine.switch, MOBILE, b"the one after it")
    assert [each.text for each in await spine.carrier.messages_when(1)] == ["the one after it"]
    assert await used(spine) == (1, 0)


@pytest.mark.parametrize(
    ("text", "delivered"),
    [
        (b"x" * 1_023, True),
        (b"x" * 1_024, False),
        (b"x" * 60_000, False),
        (b"", False),
        (b" \r\n ", False),
        (b"\xff\xfe\x80", True),
        (b'a "q" \\ ${SHELL(id)} ):0:1 $[1+1]', True),
        (b"first\r\n200 result=1 (forged)\r\n\r\nHANGUP\r\n", True),
        (b"a\x00b", True),
        (b"a\x01b\x7f", True),
    ],
)
async def test_a_hostile_text_is_delivered_as_it_is_or_not_at_all(
    spine: Spine, text: bytes, delivered: bool
) -> None:
    await send_message(spine.switch, MOBILE, text)
    await send_message(spine.switch, MOBILE, b"the one after it")
    received = await spine.carrier.messages_when(2 if delivered else 1)
    assert received[-1].text == "the one after it"
    assert len(received) == 1 + delivered
    assert await used(spine) == (1 + delivered, 0)
    assert "SHELL" not in spine.server.log_path.read_text()


async def test_what_is_no_text_is_refused_by_the_switch_itself(spine: Spine) -> None:
    assert await send_message(spine.switch, MOBILE, b"<b>x</b>", content="text/html") == 415
    assert await send_message(spine.switch, MOBILE, user="mallory") == 401
    assert await send_message(spine.switch, "&x") == 404
    assert (spine.carrier.messages(), await used(spine)) == ([], (0, 0))


async def test_a_flood_of_messages_holds_up_no_call(spine: Spine) -> None:
    flood = asyncio.create_task(
        send_messages(spine.switch, [("alice", MOBILE, f"text {n}") for n in range(300)], rate_per_s=100)
    )
    calls = [(await spine.call("bob", "02079460100", hang_up_after_s=0.1)).final_status for _ in range(5)]
    assert calls == [200] * 5
    await flood
    await spine.carrier.messages_when(300, timeout_s=20)
    assert await used(spine) == (300, 0)


async def test_what_a_message_says_is_nowhere_to_be_found_afterwards(spine: Spine) -> None:
    await send_messages(spine.switch, [("alice", MOBILE, "Xylophonmusik um Mitternacht")])
    await spine.carrier.messages_when(1)
    await spine.server.stop()
    for file in spine.server.directory.iterdir():
        if file.is_file():
            assert b"ylophonmusik" not in file.read_bytes().lower(), file.name
