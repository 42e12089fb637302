"""Logins on a real store: networks and phones of a line become a case, guessing blocks its source for a while."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from fairdial import logins as following
from fairdial.desk import Asked, Desk, DeskRules
from fairdial.ledger.contract import Block, Ledger, NotFound
from fairdial.logins import LoginRules, Logins, network_of, source_of
from fairdial.policy.account import Account, Kind
from fairdial.policy.book import PolicyBook
from fairdial.policy.decide import Allow, Verdict
from fairdial.policy.document import Policy
from fairdial.policy.history import Noted
from fairdial.policy.outcomes import Reason
from tests.charges import NUMBERING
from tests.samples import NOON_MS, RULES, SetClock, nothing_under_way, provision
from tests.watched import detector, watched

PLAN = watched(detector("shared", "networks_of_a_line", 3))
LOGIN = LoginRules(failures=3, window_s=60, block_s=600, pbx_agents=("freepbx", "3cx"))


class Office:
    """Logins on a ledger. noted: what the watch was told; agents: by line, what its phones say that they are."""

    def __init__(self, ledger: Ledger, rules: LoginRules = LOGIN) -> None:
        self.ledger, self.clock = ledger, SetClock()
        self.noted: list[Noted] = []
        self.agents: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.desk = Desk(ledger, PolicyBook([PLAN]), NUMBERING, self.clock, DeskRules(grants=RULES))
        self.logins = Logins(ledger, lambda: self.desk.policies, self._told, self._ask, self.clock, rules)
        self.desk.is_blocked = self.logins.blocks

    def _told(self, noted: Noted, account: Account, policy: Policy) -> None:
        assert (account.id, policy) == (noted.account_id, PLAN)
        self.noted.append(noted)

    async def _ask(self, function: str) -> str:
        self.asked.append(function)
        name, _, rest = function.partition("(")
        about = rest.split(",")[0]
        if name == "PJSIP_ENDPOINT":
            return about
        if name == "PJSIP_AOR":
            return ",".join(f"{about};@{n}" for n in range(len(self.agents.get(about, ()))))
        line, _, index = about.partition(";@")
        return self.agents[line][int(index)]

    def hear(self, event: str, line: str, source: str, **more: str) -> None:
        headers = {
            "Event": event,
            "Service": "PJSIP",
            "AccountID": line,
            "RemoteAddress": f"IPV4/UDP/{source}/5060",
            "UsingPassword": "1",
        }
        self.logins.heard(headers | more)

    async def dealt_with(self) -> None:
        async with asyncio.timeout(5):
            while not self.logins._queue.empty():
                await asyncio.sleep(0.005)
            await nothing_under_way(self.ledger)

    async def dial(self, source: str, number: str = "02079460123") -> Verdict:
        self.clock.forward(1000)
        call = f"d{self.clock.now().wall_ms}"
        verdict = await self.desk.authorise(
            Asked(call, Kind.OUTBOUND, number, "alice", f"channel-{call}", 30, source=source)
        )
        assert isinstance(verdict, Verdict)
        return verdict


@asynccontextmanager
async def office(ledger: Ledger, rules: LoginRules = LOGIN) -> AsyncIterator[Office]:
    made = Office(ledger, rules)
    await made.logins.start()
    try:
        yield made
    finally:
        await made.logins.stop()
        await made.desk.close()


@pytest.fixture
async def acme(ledger: Ledger) -> Ledger:
    await provision(ledger, "acme", "alice")
    return ledger


@pytest.mark.parametrize(
    ("remote", "source"),
    [
        ("IPV4/UDP/192.0.2.1/5060", "192.0.2.1"),
        ("IPV6/TLS/2001:db8::1/5061", "2001:db8::1"),
        ("IPV6/TLS/[2001:db8::1]/5061", "2001:db8::1"),
        ("IPV4/UDP/192.0.2.1", ""),
        ("IPV4/UDP/elsewhere/5060", ""),
        ("", ""),
    ],
)
def test_the_source_of_an_event(remote: str, source: str) -> None:
    assert source_of(remote) == source


def test_networks() -> None:
    assert network_of("192.0.2.77") == "192.0.2.0/24"
    assert network_of("2001:db8:1:2::3") == "2001:db8:1::/48"


async def test_networks_of_a_line_are_told(acme: Ledger) -> None:
    async with office(acme) as at:
        for source in ("192.0.2.1", "192.0.2.9", "198.51.100.1"):
            at.hear("SuccessfulAuth", "alice", source)
        await at.dealt_with()
        assert [(noted.key, noted.of) for noted in at.noted] == [
            ("192.0.2.0/24", "alice"),
            ("192.0.2.0/24", "alice"),
            ("198.51.100.0/24", "alice"),
        ]


async def test_what_is_no_login_of_a_line_here_is_not_told(acme: Ledger) -> None:
    async with office(acme) as at:
        at.hear("SuccessfulAuth", "nobody", "192.0.2.1")
        at.hear("SuccessfulAuth", "alice", "192.0.2.1", UsingPassword="0")
        at.hear("SuccessfulAuth", "alice", "192.0.2.1", Service="AMI")
        at.hear("SuccessfulAuth", "alice", "192.0.2.1", RemoteAddress="")
        at.hear("SuccessfulAuth", "alice)&SHELL(id", "192.0.2.1")
        await at.dealt_with()
        assert (at.noted, at.asked) == ([], [])


async def test_a_line_that_calls_often_is_told_once_in_a_while(acme: Ledger) -> None:
    async with office(acme) as at:
        for _ in range(5):
            at.hear("SuccessfulAuth", "alice", "192.0.2.1")
        await at.dealt_with()
        assert len(at.noted) == 1
        at.clock.forward(following.TELL_AGAIN_MS)
        at.hear("SuccessfulAuth", "alice", "192.0.2.1")
        await at.dealt_with()
        assert len(at.noted) == 2


async def test_phones_are_asked_for_and_a_pbx_is_known(acme: Ledger) -> None:
    async with office(acme) as at:
        at.agents["alice"] = ["Zoiper 5", "FreePBX-16(18.2)"]
        at.hear("SuccessfulAuth", "alice", "192.0.2.1")
        await at.dealt_with()
        told = [(noted.measure, noted.key) for noted in at.noted]
        assert told == [
            ("networks_of_a_line", "192.0.2.0/24"),
            ("agents_of_a_line", "Zoiper 5"),
            ("agents_of_a_line", "FreePBX-16(18.2)"),
            ("pbx_agents", "alice: FreePBX-16(18.2)"),
        ]


async def test_guessing_blocks_its_source_for_a_while(acme: Ledger) -> None:
    async with office(acme) as at:
        for _ in range(2):
            at.hear("ChallengeResponseFailed", "alice", "203.0.113.9")
        await at.dealt_with()
        assert isinstance((await at.dial("203.0.113.9")).decision, Allow)
        at.hear("InvalidPassword", "<unknown>", "203.0.113.9")
        await at.dealt_with()
        refused = await at.dial("203.0.113.9")
        assert refused.decision.reason is Reason.SOURCE_BLOCKED
        assert isinstance((await at.dial("203.0.113.10")).decision, Allow)
        assert (await at.dial("203.0.113.9", "999")).decision.reason is Reason.EMERGENCY
        assert [noted.measure for noted in at.noted] == ["failed_logins", "failed_logins"]
        [block] = await acme.blocks(at.clock.now().wall_ms)
        assert (block.source, block.until_ms - block.since_ms) == ("203.0.113.9", 600_000)
        at.clock.forward(600_000)
        assert isinstance((await at.dial("203.0.113.9")).decision, Allow)
        assert await acme.blocks(at.clock.now().wall_ms) == ()


async def test_a_login_between_shows_that_it_is_no_guessing(acme: Ledger) -> None:
    async with office(acme) as at:
        for event in (
            "InvalidPassword",
            "InvalidPassword",
            "SuccessfulAuth",
            "InvalidPassword",
            "InvalidPassword",
        ):
            at.hear(event, "alice", "203.0.113.9")
        await at.dealt_with()
        assert await acme.blocks(NOON_MS) == ()


async def test_failures_far_apart_are_no_guessing(acme: Ledger) -> None:
    async with office(acme) as at:
        for _ in range(5):
            at.hear("InvalidPassword", "alice", "203.0.113.9")
            at.clock.forward(31_000)
        await at.dealt_with()
        assert await acme.blocks(NOON_MS) == ()


async def test_where_nothing_is_to_be_blocked_nothing_is(acme: Ledger) -> None:
    async with office(acme, LoginRules(failures=2, block_s=0)) as at:
        for _ in range(5):
            at.hear("InvalidPassword", "alice", "203.0.113.9")
        await at.dealt_with()
        assert await acme.blocks(NOON_MS) == ()


async def test_a_block_outlives_a_restart(acme: Ledger) -> None:
    await acme.block(Block("203.0.113.9", NOON_MS, NOON_MS + 60_000, "by hand"))
    async with office(acme) as at:
        assert (await at.dial("203.0.113.9")).decision.reason is Reason.SOURCE_BLOCKED
        await acme.unblock("203.0.113.9")
        at.logins.unblock("203.0.113.9")
        assert isinstance((await at.dial("203.0.113.9")).decision, Allow)
    with pytest.raises(NotFound, match="is not blocked"):
        await acme.unblock("203.0.113.9")


async def test_a_longer_block_is_not_shortened(acme: Ledger) -> None:
    await acme.block(Block("203.0.113.9", NOON_MS, NOON_MS + 60_000, "by hand"))
    await acme.block(Block("203.0.113.9", NOON_MS + 1, NOON_MS + 30_000, "again"))
    assert [block.until_ms for block in await acme.blocks(NOON_MS + 2)] == [NOON_MS + 60_000]


async def test_a_flood_of_events_is_bounded(
    acme: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(following, "WAITING_MAX", 10)
    at = Office(acme)
    for n in range(50):
        at.hear("InvalidPassword", "alice", f"203.0.113.{n}")
    assert at.logins._queue.qsize() == 10
    assert capsys.readouterr().out.count("logins_not_watched") == 1
    await at.desk.close()
