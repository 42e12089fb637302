"""A running system to look at in a browser: a real switch with phones, FairDial as a process, accounts with a past.

`on_stage` starts it. The past is written into the ledger before FairDial is started, by the desk that serves calls.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fairdial.clock import Moment, SystemClock
from fairdial.console.operations import OperationError
from fairdial.desk import Asked, Desk, DeskRules
from fairdial.ledger.contract import Finding
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.loading import load_numbering
from fairdial.policy.account import Account, Kind, Line, Options
from fairdial.policy.book import PolicyBook
from fairdial.policy.decide import Allow, Verdict
from fairdial.policy.document import parse_policy
from fairdial.policy.terms import Clause
from testbed.asterisk import Switch
from testbed.installation import Installation, TestbedError
from testbed.server import PROJECT, Server, dialplan
from testbed.sipp import CallOutcome, Carrier, place_call
from tests.samples import RULES, SetClock
from tests.switch.conftest import LINES

LONDON, PREMIUM, ROOM = "02079460123", "09098790000", "7001"
STAYS_S: Final = 600.0
"""For so long a phone talks if nobody ends its call."""
DAY_MS: Final = 86_400_000
DAYS: Final = 26
"""How long the past is."""

HOSTILE: Final = "<img src=x onerror=window.hacked=1>"
HOSTILE_ID: Final = "<b>bold<u>"
"""An account's name, what is written into a case, and an account's id: text, whatever they look like."""


@dataclass(frozen=True)
class Plan:
    """An account; past: calls a day that it made in the last month."""

    account: str
    policy: str
    lines: tuple[str, ...]
    name: str
    past: int = 0


PLANS: Final = (
    Plan("acme", "redconnect", ("alice", "bob"), "Acme Office Supplies", past=9),
    Plan("harbour", "kryptotel", ("carol", "erin", "frank", "grace", "heidi"), "Harbour Logistics"),
    Plan("dockside", "voxdirect", ("dave",), "Dockside Repairs", past=4),
    Plan("quayside", "voxdirect", (), "Quayside Call Centre"),
    Plan(HOSTILE_ID, "kryptotel", (), HOSTILE),
)


@dataclass
class Stage:
    """The system. tokens: by role."""

    switch: Switch
    carrier: Carrier
    server: Server
    tokens: dict[str, str] = field(default_factory=dict)
    _phones: set[asyncio.Task[CallOutcome]] = field(default_factory=set)

    def call(
        self, line: str, number: str = LONDON, hang_up_after_s: float = STAYS_S
    ) -> asyncio.Task[CallOutcome]:
        """A phone that calls, and stays until the other side ends it."""
        calling = place_call(
            self.switch,
            line=line,
            number=number,
            hang_up_after_s=hang_up_after_s,
            timeout_s=hang_up_after_s + 20,
        )
        phone = asyncio.create_task(calling)
        self._phones.add(phone)
        phone.add_done_callback(self._phones.discard)
        return phone

    async def quiet(self) -> None:
        """End all calls, by FairDial, and wait until nothing is left of them."""
        while phones := set(self._phones):
            for row in await self.server.ask("calls"):
                with suppress(OperationError):
                    await self.server.ask("hangup", call=row["call"])
            # A call that is only being set up is met in the next round.
            await asyncio.wait(phones, timeout=0.5)
        await self.server.idle(10)

    async def busy(self) -> dict[str, str]:
        """Fill it: calls, a full room, a refusal, a case, a request. call: the refused one; case: its number."""
        for line in ("erin", "frank", "grace", "heidi"):
            self.call(line, ROOM)
        for line in ("carol", "alice", "dave"):
            self.call(line)
        for line in ("erin", "frank", "grace", "heidi", "carol", "alice", "dave"):
            await self.server.talking(line, 20)
        await self.call("carol", ROOM)
        await self.call("alice", PREMIUM)
        [refused] = await self.server.ask("decisions", limit=1)
        case = await self.server.ask("case_flag", account="quayside", note="sells minutes", by="ann")
        if not await self.server.ask("request_list", account="acme"):
            asked = {"rule": "allowances.voice", "limit": 180_000, "why": "a fair in May", "by": "Ann Lee"}
            await self.server.ask("request_add", account="acme", **asked)
        return {"call": refused["call_id"], "case": str(case["case"])}

    async def token(self, name: str, role: str, *more: str) -> str:
        """A new token."""
        made = await self.server.command("token", "add", name, "--role", role, *more, "--json")
        if made.status:
            raise TestbedError(made.error)
        return str(made.json["token"])


@asynccontextmanager
async def on_stage(installation: Installation, directory: Path) -> AsyncIterator[Stage]:
    """The system, until the block ends; nothing may be left over then."""
    extensions, files = dialplan()
    async with (
        Switch.start(installation, extensions, files=files, lines=LINES) as switch,
        Carrier.start(switch) as carrier,
    ):
        server = Server(switch, directory, {}, policies={"quota-2": _later_quota()})
        await _live_through(directory / "ledger.sqlite")
        try:
            await server.launch()
            stage = Stage(switch, carrier, server)
            for role in ("viewer", "operator", "admin"):
                stage.tokens[role] = await stage.token(f"the {role}", role)
            yield stage
            await stage.quiet()
            assert await switch.no_channels() == []
        finally:
            await server.stop()


def _later_quota() -> str:
    """A second version of a policy of the testbed."""
    text = (PROJECT / "testbed" / "policies" / "quota.toml").read_text()
    later = text.replace('version = "1"', 'version = "2"\npublished = "2026-11-02"').replace(
        "limit_s = 15", "limit_s = 30"
    )
    assert later.count("30") == text.count("30") + 1
    return later


async def _live_through(path: Path) -> None:
    """The accounts and their last month, up to now."""
    chance = random.Random(22)
    ledger = await SqliteLedger.open(path)
    try:
        now_ms = SystemClock().now().wall_ms
        clock = SetClock(now_ms - DAYS * DAY_MS)
        book = PolicyBook(
            [
                parse_policy((PROJECT / "policies" / f"{name}.toml").read_text(), f"{name}.toml")
                for name in sorted({plan.policy for plan in PLANS})
            ]
        )
        desk = Desk(ledger, book, load_numbering(None), clock, DeskRules(answer_within_s=60, grants=RULES))
        for plan in PLANS:
            options = Options(countries=frozenset({"GB"}))
            await ledger.add_account(
                Account(plan.account, plan.policy, "Europe/London", name=plan.name, options=options)
            )
            for line in plan.lines:
                await ledger.add_line(Line(line, plan.account))
        dials = sorted(
            (now_ms - day * DAY_MS - chance.randrange(3_600_000, 9 * 3_600_000), chance.choice(plan.lines))
            for day in range(1, DAYS)
            for plan in PLANS
            for _ in range(plan.past * (1 + chance.randrange(6)) // (8 if day % 7 > 4 else 3))
        )
        for number, (at_ms, line) in enumerate(dials):
            await _past_call(desk, clock, chance, f"past-{number}", at_ms, line)
        await desk.close()
        await ledger.report(await _found(ledger))
    finally:
        await ledger.close()


async def _found(ledger: SqliteLedger) -> Finding:
    """What a detector found of the latest calls of one of the accounts."""
    records = await ledger.decisions("dockside", 12)
    return Finding(
        "dockside",
        "telemarketing",
        Clause("voxdirect", "2026-11", "V7"),
        records[0].at_ms,
        94,
        80,
        "94 numbers called in a day",
        calls=tuple(each.call_id for each in reversed(records)),
        services=frozenset({Kind.OUTBOUND}),
    )


async def _past_call(
    desk: Desk, clock: SetClock, chance: random.Random, call: str, at_ms: int, line: str
) -> None:
    """A dial of then, and its call's end."""
    clock.forward(at_ms - clock.now().wall_ms)
    kind = chance.choice((Kind.OUTBOUND, Kind.OUTBOUND, Kind.OUTBOUND, Kind.INBOUND))
    number = chance.choice((LONDON, LONDON, "07400123456", "02079460188", PREMIUM))
    verdict = await desk.authorise(Asked(call, kind, number, line, call, 60))
    if not (isinstance(verdict, Verdict) and isinstance(verdict.decision, Allow)):
        return
    answered_ms = at_ms + chance.randrange(2_000, 15_000)
    used_s = min(chance.randrange(20, 2_400), verdict.decision.granted_s or 2_400)
    await desk.answered(call, f"{call}-leg", Moment(answered_ms, 0))
    await desk.settle(call, used_s, Moment(answered_ms + used_s * 1_000, 0))
