"""Notices on their way, with real receivers: what fails, hangs and comes back gets all of them, in order, none lost."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from email.message import EmailMessage, Message
from email.parser import BytesParser
from email.policy import default
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from aiosmtpd.controller import UnthreadedController
from aiosmtpd.smtp import SMTP, Envelope, Session
from pydantic import SecretStr

from fairdial.clock import SystemClock
from fairdial.config import Email, SipMessages, Webhook
from fairdial.ledger.contract import PublishedPolicy
from fairdial.ledger.notice import Channel, Contact, DeliveryState, NoticeRules
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.notice_text import Composer, Templates
from fairdial.notice_ways import EmailWay, SipWay, WebhookWay, signature
from fairdial.notices import Pace, Post, Unreachable, Way
from fairdial.policy.account import Account, Line, Standing
from fairdial.policy.book import PolicyBook
from fairdial.policy.document import parse_policy
from testbed.ports import LOOPBACK, free_ports
from testbed.receiver import SECRET, Receiver, is_signed
from tests.samples import NOON_MS, PLAN, provision

PACE = Pace(poll_s=0.02, first_s=0.02, longest_s=0.05, pause_longest_s=0.05, attempts_max=3, announce_s=0.05)
BOOK = PolicyBook(
    [
        parse_policy(PLAN, "plan.toml"),
        parse_policy(PLAN.replace('version = "1"', 'version = "2"\neffective = 2027-01-01'), "plan-2.toml"),
    ]
)
ACCOUNTS = ("acme", "other", "third")


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqliteLedger]:
    """With three accounts that write notices for all ways."""
    opened = await SqliteLedger.open(tmp_path / "ledger.sqlite")
    await opened.set_notice_rules(NoticeRules(channels=frozenset(Channel)))
    for account in ACCOUNTS:
        await provision(opened, account, f"line-of-{account}")
    yield opened
    await opened.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver.start() as running:
        yield running


def post_of(ledger: SqliteLedger, way: Way, channel: Channel = Channel.WEBHOOK, pace: Pace = PACE) -> Post:
    composer = Composer(Templates(), lambda: BOOK)
    return Post(ledger, composer, {channel: way}, SystemClock(), NoticeRules(), pace)


def webhook(url: str, secret: str = SECRET, timeout_s: float = 0.2) -> WebhookWay:
    return WebhookWay(Webhook(url=url, secret=SecretStr(secret), timeout_s=timeout_s), SystemClock())


async def cause(ledger: SqliteLedger, count: int, *accounts: str) -> None:
    """Notices for each account, by its standing going to and fro."""
    for number in range(count):
        for account in accounts or ACCOUNTS:
            standing = Standing.ACTIVE if number % 2 else Standing.SUSPENDED
            await ledger.set_standing(account, standing, NOON_MS + number)


async def ids(ledger: SqliteLedger, account: str) -> list[int]:
    """Its notices, in order."""
    return [notice.id for notice, _ in reversed(await ledger.notices(account, limit=1000))]


def first_times(taken: list[dict[str, Any]], account: str) -> list[int]:
    """The order in which an account's notices came first."""
    return list(dict.fromkeys(each["id"] for each in taken if each["account"] == account))


async def told_all(ledger: SqliteLedger, receiver: Receiver) -> None:
    """All that the ledger has came to the receiver, in order for each account, and waits no more."""
    for account in ACCOUNTS:
        wanted = await ids(ledger, account)
        await receiver.until(lambda wanted=wanted: set(wanted) <= {each["id"] for each in receiver.taken})  # type: ignore[misc]
        assert first_times(receiver.taken, account) == wanted
    async with asyncio.timeout(10):
        while (Channel.WEBHOOK, DeliveryState.WAITING) in await ledger.untold():
            await asyncio.sleep(0.01)


async def test_each_notice_comes_once_signed_and_in_order(ledger: SqliteLedger, receiver: Receiver) -> None:
    await cause(ledger, 5)
    post = post_of(ledger, webhook(receiver.url))
    await post.start()
    await told_all(ledger, receiver)
    await post.stop()
    assert len(receiver.seen) == 15
    assert receiver.forged == 0
    first = receiver.seen[0].notice
    assert (first["topic"], first["subject"], first["language"]) == (
        "standing",
        "Your account is suspended.",
        "en",
    )
    assert first["facts"] == {"before": "active", "standing": "suspended"}
    assert (first["at"], first["line"], first["clause"]) == ("2026-11-21T12:00:00.000+00:00", None, None)


async def test_what_is_written_later_comes_too(ledger: SqliteLedger, receiver: Receiver) -> None:
    post = post_of(ledger, webhook(receiver.url))
    await post.start()
    await cause(ledger, 2)
    await told_all(ledger, receiver)
    await cause(ledger, 3)
    await told_all(ledger, receiver)
    await post.stop()


async def test_a_receiver_that_fails_hangs_and_comes_back_gets_all_in_order(
    ledger: SqliteLedger, receiver: Receiver
) -> None:
    post = post_of(ledger, webhook(receiver.url))
    await post.start()
    await cause(ledger, 3)
    await told_all(ledger, receiver)
    for mode in ("fail", "hang"):
        receiver.mode = mode
        seen = len(receiver.seen)
        await cause(ledger, 3)
        await receiver.until(lambda seen=seen: len(receiver.seen) > seen + 4)  # type: ignore[misc]
        assert list(post.paused) == [Channel.WEBHOOK]
        receiver.mode = "take"
        await told_all(ledger, receiver)
    assert (Channel.WEBHOOK, DeliveryState.DEAD) not in await ledger.untold()
    async with asyncio.timeout(5):
        while post.paused:
            await asyncio.sleep(0.01)
    await post.stop()


async def test_a_receiver_that_is_not_there_gets_all_when_it_comes(ledger: SqliteLedger) -> None:
    [port] = free_ports(1)
    await cause(ledger, 4)
    post = post_of(ledger, webhook(f"http://{LOOPBACK}:{port}/notices"))
    await post.start()
    async with asyncio.timeout(10):
        while not post.paused:
            await asyncio.sleep(0.01)
    assert await ledger.untold() == {
        (Channel.WEBHOOK, DeliveryState.WAITING): 12,
    }
    async with Receiver.start(port) as receiver:
        await told_all(ledger, receiver)
        await post.stop()


async def test_who_stops_in_the_middle_tells_the_rest_after_the_next_start(
    ledger: SqliteLedger, receiver: Receiver
) -> None:
    """At least once: what was on its way may come again, and what was confirmed does not."""
    await cause(ledger, 10)
    for _ in range(6):
        post = post_of(ledger, webhook(receiver.url))
        await post.start()
        seen = len(receiver.seen)
        await receiver.until(lambda seen=seen: len(receiver.seen) > seen)  # type: ignore[misc]
        await post.stop()
        if (Channel.WEBHOOK, DeliveryState.WAITING) not in await ledger.untold():
            break
    post = post_of(ledger, webhook(receiver.url))
    await post.start()
    await told_all(ledger, receiver)
    await post.stop()
    assert len({each["id"] for each in receiver.taken}) == 30


async def test_one_that_is_refused_holds_up_its_own_account_and_is_given_up_at_last(
    ledger: SqliteLedger, receiver: Receiver
) -> None:
    await cause(ledger, 2)
    bad = (await ids(ledger, "acme"))[0]
    receiver.mode_of = lambda notice: "refuse" if notice["id"] == bad else None
    post = post_of(ledger, webhook(receiver.url))
    await post.start()
    later = (await ids(ledger, "acme"))[1]
    await receiver.until(lambda: later in {each["id"] for each in receiver.taken})
    tries = [each.notice["id"] for each in receiver.seen if each.notice["account"] == "acme"]
    assert tries == [bad, bad, bad, later]
    assert not post.paused
    [(dead, [delivery])] = await ledger.notices(state=DeliveryState.DEAD)
    assert (dead.id, delivery.attempts, delivery.last) == (bad, 3, "the receiver answered 422")
    receiver.mode_of = lambda _notice: None
    await ledger.retry_notice(bad, NOON_MS)
    await receiver.until(lambda: bad in {each["id"] for each in receiver.taken})
    await post.stop()


async def test_a_redirect_is_not_followed(ledger: SqliteLedger, receiver: Receiver) -> None:
    async def elsewhere(_request: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.Response(status=307, headers={"Location": receiver.url})

    [port] = free_ports(1)
    application = aiohttp.web.Application()
    application.router.add_post("/", elsewhere)
    runner = aiohttp.web.AppRunner(application)
    await runner.setup()
    await aiohttp.web.TCPSite(runner, LOOPBACK, port).start()
    await cause(ledger, 1)
    post = post_of(ledger, webhook(f"http://{LOOPBACK}:{port}/"))
    await post.start()
    async with asyncio.timeout(10):
        while not post.paused:
            await asyncio.sleep(0.01)
    await post.stop()
    await runner.cleanup()
    assert "307" in post.paused[Channel.WEBHOOK]
    assert receiver.seen == []


async def test_another_secret_is_noticed(ledger: SqliteLedger, receiver: Receiver) -> None:
    await cause(ledger, 1, "acme")
    post = post_of(ledger, webhook(receiver.url, "another"))
    await post.start()
    async with asyncio.timeout(10):
        while (Channel.WEBHOOK, DeliveryState.DEAD) not in await ledger.untold():
            await asyncio.sleep(0.01)
    await post.stop()
    assert (receiver.seen, receiver.forged) == ([], 3)


def test_a_signature_is_of_the_time_and_of_every_byte() -> None:
    made = signature(SECRET, 1_795_000_000, b'{"id":1}')
    assert is_signed(SECRET, made, b'{"id":1}')
    assert not is_signed(SECRET, made, b'{"id":2}')
    assert not is_signed(SECRET, made.replace("1795000000", "1795000001"), b'{"id":1}')
    assert not is_signed("another", made, b'{"id":1}')


def test_a_receiver_written_as_the_page_shows_lets_in_what_is_genuine_and_fresh() -> None:
    page = (Path(__file__).parents[2] / "docs/notices.md").read_text()
    [shown] = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(shown, names)
    is_genuine = names["is_genuine"]
    made = signature(SECRET, 1_795_000_000, b"{}")
    assert is_genuine(SECRET, made, b"{}", 1_795_000_010)
    assert not is_genuine(SECRET, made, b"{} ", 1_795_000_010)
    assert not is_genuine("another", made, b"{}", 1_795_000_010)
    assert not is_genuine(SECRET, made, b"{}", 1_795_000_310)


# --- policies --------------------------------------------------------------------------------------------


async def test_all_accounts_on_a_policy_are_told_of_its_new_version(
    ledger: SqliteLedger, receiver: Receiver
) -> None:
    for number in range(450):
        await ledger.add_account(Account(f"a{number:03}", "plan"))
    post = post_of(ledger, webhook(receiver.url))
    await post.start()
    await ledger.publish(PublishedPolicy("plan", "2", NOON_MS, "text"), "1")
    post.published()
    await receiver.until(lambda: len(receiver.taken) >= 453)
    await post.stop()
    assert len({each["account"] for each in receiver.taken}) == len(receiver.taken) == 453
    assert receiver.taken[0]["facts"]["effective"] == "2027-01-01"


async def test_a_version_that_stands_in_the_folder_is_told_of_once_however_often_it_is_looked_at(
    ledger: SqliteLedger, receiver: Receiver
) -> None:
    composer = Composer(Templates(), lambda: BOOK)

    async def run() -> None:
        ways = {Channel.WEBHOOK: webhook(receiver.url)}
        post = Post(
            ledger, composer, ways, SystemClock(), NoticeRules(), PACE, lambda _now_ms: [("plan", "2", "1")]
        )
        await post.start()
        await receiver.until(lambda: len(receiver.taken) >= len(ACCOUNTS))
        await ledger.set_standing("acme", Standing.SUSPENDED, NOON_MS)
        await receiver.until(lambda: receiver.taken[-1]["topic"] == "standing")
        await post.stop()
        await ledger.set_standing("acme", Standing.ACTIVE, NOON_MS)

    await run()
    await run()
    told = [each["account"] for each in receiver.taken if each["topic"] == "policy_change"]
    assert sorted(told) == sorted(ACCOUNTS)


# --- mail ------------------------------------------------------------------------------------------------


class Mailbox:
    """What a mail server got; refused: recipients that it does not know."""

    def __init__(self) -> None:
        self.got: list[tuple[list[str], Message]] = []
        self.refused: set[str] = set()
        self.broken = False

    async def handle_RCPT(  # noqa: N802 - named by aiosmtpd
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address in self.refused:
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.broken:
            return "451 try again later"
        content = cast(bytes, envelope.content)
        self.got.append((envelope.rcpt_tos, BytesParser(EmailMessage, policy=default).parsebytes(content)))
        return "250 OK"


@pytest.fixture
async def mail() -> AsyncIterator[tuple[Mailbox, Email]]:
    mailbox = Mailbox()
    [port] = free_ports(1)
    controller = UnthreadedController(mailbox, hostname=LOOPBACK, port=port, loop=asyncio.get_running_loop())
    server = await asyncio.get_running_loop().create_server(controller.factory, LOOPBACK, port)
    yield mailbox, Email(host=LOOPBACK, port=port, tls="none", sender="billing@example.com", timeout_s=2)
    server.close()
    await server.wait_closed()


async def test_mail_goes_to_the_contacts_address_in_its_language(
    ledger: SqliteLedger, mail: tuple[Mailbox, Email]
) -> None:
    mailbox, settings = mail
    await ledger.set_contact(Contact("acme", "de", "anna@example.com"))
    await cause(ledger, 2)
    post = post_of(ledger, EmailWay(settings), Channel.EMAIL)
    await post.start()
    async with asyncio.timeout(10):
        while len(mailbox.got) < 2:
            await asyncio.sleep(0.01)
    await post.stop()
    [(to, first), (_, second)] = mailbox.got
    assert (to, first["From"], first["Subject"]) == (
        ["anna@example.com"],
        "billing@example.com",
        "Ihr Konto ist gesperrt.",
    )
    assert (first["Auto-Submitted"], first["Content-Language"]) == ("auto-generated", "de")
    assert first["Message-ID"] != second["Message-ID"]
    assert "Konto: acme" in cast(EmailMessage, first).get_content()


async def test_a_mailbox_that_is_unknown_is_given_up_and_others_are_served(
    ledger: SqliteLedger, mail: tuple[Mailbox, Email]
) -> None:
    mailbox, settings = mail
    mailbox.refused = {"gone@example.com"}
    await ledger.set_contact(Contact("acme", email="gone@example.com"))
    await ledger.set_contact(Contact("other", email="kim@example.com"))
    await cause(ledger, 1)
    post = post_of(ledger, EmailWay(settings), Channel.EMAIL)
    await post.start()
    async with asyncio.timeout(10):
        while await ledger.due_notices(Channel.EMAIL, 2**53, 10):
            await asyncio.sleep(0.01)
    await post.stop()
    assert [to for to, _ in mailbox.got] == [["kim@example.com"]]
    [(_, deliveries)] = await ledger.notices(state=DeliveryState.DEAD)
    assert "no such mailbox" in next(each.last for each in deliveries if each.channel is Channel.EMAIL)


async def test_a_server_that_says_later_of_a_letter_is_asked_later(
    ledger: SqliteLedger, mail: tuple[Mailbox, Email]
) -> None:
    mailbox, settings = mail
    mailbox.broken = True
    await ledger.set_contact(Contact("acme", email="anna@example.com"))
    await cause(ledger, 1, "acme")
    post = post_of(ledger, EmailWay(settings), Channel.EMAIL, replace(PACE, attempts_max=1000))
    await post.start()
    async with asyncio.timeout(10):
        while not (await ledger.due_notices(Channel.EMAIL, 2**53, 1))[0].attempts:
            await asyncio.sleep(0.01)
    assert not post.paused
    mailbox.broken = False
    async with asyncio.timeout(10):
        while not mailbox.got:
            await asyncio.sleep(0.01)
    await post.stop()
    assert len(mailbox.got) == 1


# --- SIP -------------------------------------------------------------------------------------------------


async def test_a_sip_message_has_the_subject_and_goes_to_the_line(ledger: SqliteLedger) -> None:
    sent: list[tuple[str, str, str]] = []
    there, lost = True, True

    async def send(to: str, sender: str, text: str) -> bool:
        if lost:
            raise Unreachable("the switch did not answer")
        sent.append((to, sender, text))
        return there

    await ledger.add_line(Line("alice", "acme"))
    await ledger.set_contact(Contact("acme", line_id="alice"))
    await cause(ledger, 1, "acme")
    post = post_of(ledger, SipWay(SipMessages(sender="sip:billing@example.com"), send), Channel.SIP)
    await post.start()
    async with asyncio.timeout(10):
        while not post.paused:
            await asyncio.sleep(0.01)
    lost = False
    async with asyncio.timeout(10):
        while not sent:
            await asyncio.sleep(0.01)
    assert sent == [("pjsip:alice", "sip:billing@example.com", "Your account is suspended.")]
    there = False
    await cause(ledger, 2, "acme")
    async with asyncio.timeout(10):
        while (Channel.SIP, DeliveryState.DEAD) not in await ledger.untold():
            await asyncio.sleep(0.01)
    await post.stop()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "ftp://x", "secret": "s"}, "url"),
        ({"url": "http://x"}, "secret is missing"),
        ({"url": "http://x", "secret": "s", "secret_file": "f"}, "both set"),
    ],
)
def test_a_webhook_needs_a_secret_and_an_address(settings: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Webhook(**settings)  # type: ignore[arg-type]
