"""What customers are told of calls on the real switch, over a webhook, also when FairDial or the receiver dies."""

import asyncio
import re
import shlex
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest_asyncio

from fairdial.ledger.notice import Channel
from fairdial.ledger.sqlite import SqliteLedger
from testbed.installation import Installation
from testbed.ports import LOOPBACK, free_ports
from testbed.receiver import SECRET, Receiver
from testbed.server import PROJECT
from testbed.sipp import Received
from tests.switch.conftest import Spine, running_spine

LONDON = "02079460100"


@pytest_asyncio.fixture
async def port() -> int:
    """Where the receiver listens, or will."""
    [port] = free_ports(1)
    return port


@pytest_asyncio.fixture
async def told(installation: Installation, tmp_path: Path, port: int) -> AsyncIterator[Spine]:
    """A FairDial that tells its customers."""
    settings = {
        "notices.webhook.url": f"http://{LOOPBACK}:{port}/notices",
        "notices.webhook.secret": SECRET,
    }
    async with running_spine(installation, tmp_path, settings) as spine:
        yield spine


async def written(spine: Spine, account: str, count: int) -> list[dict[str, Any]]:
    """The account's notices as the ledger has them, in order, once there are so many."""
    async with asyncio.timeout(10):
        while len(found := await spine.server.ask("notice_list", account=account)) < count:
            await asyncio.sleep(0.02)
    return list(reversed(found))


def of(receiver: Receiver, account: str) -> list[tuple[int, str]]:
    """What came for an account, in order; what came twice stands once."""
    return list(
        dict.fromkeys((each["id"], each["topic"]) for each in receiver.taken if each["account"] == account)
    )


async def test_a_call_that_was_cut_is_told_of_at_once_and_one_that_was_hung_up_is_not(
    told: Spine, port: int
) -> None:
    await told.server.account("acme", "quota", "alice", countries=["GB"])
    await told.server.account("other", "quota", "carol", countries=["GB"])
    async with Receiver.start(port) as receiver:
        cut, hung_up = await asyncio.gather(
            told.call("alice", LONDON, timeout_s=40), told.call("carol", LONDON, hang_up_after_s=3)
        )
        assert abs(cut.talk_s - 15) <= 1
        assert hung_up.talk_s < 5
        await receiver.until(lambda: len(of(receiver, "acme")) >= 2)
    assert [topic for _, topic in of(receiver, "acme")] == ["allowance_used", "call_cut"]
    assert of(receiver, "other") == []
    [used, ended] = receiver.taken
    assert (used["facts"]["percent"], used["facts"]["allowance"]) == (100, "voice")
    assert (ended["line"], ended["facts"]["number"], ended["facts"]["used_s"]) == (
        "alice",
        "+442079460100",
        15,
    )
    assert ended["facts"]["clause"].startswith("quota")


async def test_a_killed_fairdial_loses_no_notice(told: Spine, port: int) -> None:
    """Killed again and again while nobody listens, while notices are written, and while they are delivered."""
    server = told.server
    await server.account("acme", "metered", "alice", "bob", countries=["GB"])
    await server.account("other", "metered", "carol", countries=["GB"])
    await asyncio.gather(*(told.call(line, LONDON, hang_up_after_s=4.5) for line in ("alice", "carol")))
    await written(told, "acme", 1)
    await server.kill()
    await server.launch()
    await told.call("bob", LONDON, hang_up_after_s=3)
    # What the call causes is written when it is settled, a moment after its end.
    await server.idle()
    await server.ask("account_standing", account="acme", standing="suspended")
    await server.ask("account_standing", account="acme", standing="active")
    before = [notice["topic"] for notice in await written(told, "acme", 4)]
    assert before[0] == "allowance_used"
    assert "overage_began" in before
    assert before[-2:] == ["standing", "standing"]
    await server.kill()
    await server.launch()
    async with Receiver.start(port) as receiver:
        await receiver.until(lambda: len(receiver.taken) >= 1)
        await server.kill()
        receiver.mode = "hang"
        await server.launch()
        receiver.mode = "take"
        wanted = {
            account: [(notice["notice"], notice["topic"]) for notice in await written(told, account, 1)]
            for account in ("acme", "other")
        }
        await receiver.until(
            lambda: all(set(each) <= set(of(receiver, name)) for name, each in wanted.items())
        )
    assert wanted == {account: of(receiver, account) for account in wanted}
    assert [topic for _, topic in wanted["acme"]] == before


async def test_a_published_policy_is_told_to_each_account_on_it_once(told: Spine, port: int) -> None:
    """With 30 days of notice (R7), and it changes decisions at its local moment."""
    server = told.server
    day = (datetime.now(UTC) + timedelta(days=31)).date()
    for account, line, zone in (
        ("acme", "alice", "Europe/London"),
        ("far", "carol", "Pacific/Auckland"),
        ("other", "dave", "Europe/London"),
    ):
        policy = "kryptotel" if account == "other" else "redconnect"
        await server.ask("account_add", account=account, policy=policy, zone=zone, countries=["GB"])
        await server.ask("line_add", line=line, account=account)
    later = _redconnect(day)
    async with Receiver.start(port) as receiver:
        done = await server.ask("policy_publish", text=later, where="later.toml")
        assert done["changes"], done
        await receiver.until(lambda: len(receiver.taken) >= 2)
        await server.kill()
        await server.launch()
        # Published again, as by somebody who does not know whether it was.
        await server.ask("policy_publish", text=later, where="later.toml")
        await server.ask("account_standing", account="other", standing="suspended")
        await receiver.until(lambda: len(of(receiver, "other")) == 1)
    assert [topic for _, topic in of(receiver, "acme")] == ["policy_change"]
    assert [topic for _, topic in of(receiver, "far")] == ["policy_change"]
    assert [topic for _, topic in of(receiver, "other")] == ["standing"]
    told_of = receiver.taken[0]
    assert told_of["facts"]["effective"] == str(day)
    assert told_of["facts"]["changes"] == done["changes"]
    # Toll-free numbers are left out from that day on, each account's own midnight.
    for account, zone in (("acme", "Europe/London"), ("far", "Pacific/Auckland")):
        midnight = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone))
        at_ms = round(midnight.timestamp() * 1000)
        decided = [
            (await server.ask("check", number="08001111111", account=account, at_ms=at_ms + off))["decision"]
            for off in (-1, 0)
        ]
        assert decided == ["allow", "refuse"], account


def _redconnect(day: date) -> str:
    """The shipped policy without toll-free numbers, published today and in force from `day` on."""
    text = (PROJECT / "policies/redconnect.toml").read_text()
    for pattern, new in (
        (r"^version = .*$", 'version = "later"'),
        (r"^published = .*$", f"published = {datetime.now(UTC).date()}"),
        (r"^effective = .*$", f"effective = {day}"),
        (r'"toll_free", ', ""),
    ):
        text, count = re.subn(pattern, new, text, count=1, flags=re.MULTILINE)
        assert count == 1, pattern
    return text


async def test_a_line_gets_a_message_of_the_switch_and_a_line_that_is_not_there_none(
    installation: Installation, tmp_path: Path
) -> None:
    """SIP MESSAGE (RFC 3428), which the phone takes."""
    async with running_spine(
        installation, tmp_path, {"notices.sip.sender": "sip:billing@example.com"}
    ) as spine:
        await spine.server.account("acme", "quota", "alice", countries=["GB"])
        await spine.server.account("other", "quota", "nowhere", countries=["GB"])
        for account, line in (("acme", "alice"), ("other", "nowhere")):
            await spine.server.ask("contact_set", account=account, line=line)
            await spine.server.ask("account_standing", account=account, standing="suspended")
        [received] = await spine.carrier.messages_when(1)
        assert received == Received("alice", "billing", "Your account is suspended.")
        async with asyncio.timeout(10):
            while True:
                [refused] = await spine.server.ask("notice_list", account="other")
                if refused["deliveries"][0]["attempts"]:
                    break
                await asyncio.sleep(0.05)
        [told_of] = await spine.server.ask("notice_list", account="acme")
    assert (told_of["deliveries"][0]["channel"], told_of["deliveries"][0]["state"]) == ("sip", "delivered")
    assert "no endpoint pjsip:nowhere" in refused["deliveries"][0]["last"]


async def test_each_command_of_the_page_does_what_it_says(told: Spine, port: int) -> None:
    server = told.server
    await server.account("acme", "quota", "alice", countries=["GB"])
    for standing in ("suspended", "active"):
        await server.ask("account_standing", account="acme", standing=standing)
    dead = (await written(told, "acme", 2))[0]["notice"]
    async with Receiver.start(port) as receiver:
        receiver.mode_of = lambda notice: "refuse" if notice["id"] == dead else None
        async with asyncio.timeout(20):
            # The last attempt comes after hours; this one is given up by hand.
            while not (await server.ask("notice_show", notice=dead))["deliveries"][0]["attempts"]:
                await asyncio.sleep(0.05)
        await server.stop()
        ledger = await SqliteLedger.open(server.directory / "ledger.sqlite")
        await ledger.not_delivered(dead, Channel.WEBHOOK, 1, "given up", None)
        await ledger.close()
        await server.launch()
        receiver.mode_of = lambda _notice: None
        page = (PROJECT / "docs/notices.md").read_text()
        commands = re.findall(r"^\$ fairdial (.*)$", page, re.MULTILINE)
        assert len(commands) == 6
        for command in commands:
            assert dead == 1 or " 1" not in command
            done = await server.command(*shlex.split(command))
            assert done.status == 0, f"{command}: {done.error}"
        await receiver.until(lambda: dead in {each["id"] for each in receiver.taken})
    shown = await server.ask("contact_show", account="acme")
    assert (shown["language"], shown["email"], shown["line"]) == ("de", "anna@example.com", "alice")
