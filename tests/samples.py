"""Plans, accounts and dials that tests of the policy core, the desk and the ledger share."""

import asyncio
from dataclasses import replace

from fairdial.clock import Moment
from fairdial.ledger.contract import Ledger
from fairdial.policy.account import Account, Dial, Kind, Line, Needs
from fairdial.policy.decide import Verdict, decide, meters_at
from fairdial.policy.document import Allowance, Policy, parse_policy
from fairdial.policy.numbers import Number
from fairdial.policy.periods import Period
from fairdial.policy.prefixes import NumberClass
from fairdial.policy.sizing import GrantRules

NOON_MS = 1_795_262_400_000
"""2026-11-21 12:00:00 UTC."""
MONTH_END_MS = 1_796_083_200_000
"""2026-12-01 00:00:00 UTC."""

LONDON = Number("02079460123", "+442079460123", NumberClass.GEOGRAPHIC, "GB")
RULES = GrantRules(useful_s=10, slice_s=60)

PLAN = """
name = "plan"
version = "1"
title = "A plan for tests"
[kinds]
allow = ["outbound", "inbound", "internal", "voicemail"]
clause = "P0"
[classes]
allow = ["geographic", "mobile"]
clause = "P1"
[countries]
allow = ["GB", "DE"]
clause = "P2"
[longest_call]
clause = "P3"
seconds = { outbound = 14400, internal = 3600 }
[[allowances]]
name = "voice"
limit_s = 6000
period = "month"
counts = ["outbound", "inbound"]
clause = "P4"
"""


def plan(
    *, limit_s: int | None = 6000, longest_s: int | None = 14_400, day_limit_s: int | None = None
) -> Policy:
    """The sample plan, with other limits; `day_limit_s` adds a second allowance, by day."""
    policy = parse_policy(PLAN, "plan.toml")
    monthly = policy.allowances[0].model_copy(update={"limit_s": limit_s})
    allowances: tuple[Allowance, ...] = (monthly,)
    if day_limit_s is not None:
        daily = {"name": "daily", "limit_s": day_limit_s, "period": Period.DAY, "clause": "P5"}
        allowances += (monthly.model_copy(update=daily),)
    seconds = {Kind.INTERNAL: 3600} | ({} if longest_s is None else {Kind.OUTBOUND: longest_s})
    longest = policy.longest_call.model_copy(update={"seconds": seconds})
    return policy.model_copy(update={"allowances": allowances, "longest_call": longest})


def outbound(
    call_id: str = "call-1",
    *,
    line_id: str = "alice",
    kind: Kind = Kind.OUTBOUND,
    at_ms: int = NOON_MS,
    ring_s: int = 60,
    dialled: str = LONDON.dialled,
) -> Dial:
    """A dial of a London number by a line of the account acme."""
    return Dial(call_id, kind, dialled, line_id, f"channel-{call_id}", at_ms, ring_s)


async def provision(
    ledger: Ledger, account: str = "acme", *lines: str, policy: str = "plan", zone: str = "UTC"
) -> None:
    """An account with its lines."""
    await ledger.add_account(Account(account, policy, zone))
    for line in lines or ("alice",):
        await ledger.add_line(Line(line, account))


async def authorise(
    ledger: Ledger, dial: Dial, policy: Policy | None = None, rules: GrantRules = RULES
) -> Verdict:
    """What the desk does, without a clock and with a number that is classified already."""
    deciding = policy or plan()
    number = replace(LONDON, dialled=dial.dialled)
    return await ledger.authorise(
        dial,
        lambda _line, account: Needs(meters_at(account, deciding, dial)),
        lambda snapshot: Verdict(number, decide(dial, number, snapshot, deciding, rules)),
    )


class SetClock:
    """A clock that stands where the test sets it."""

    def __init__(self, wall_ms: int = NOON_MS, mono_ms: int = 1_000_000) -> None:
        self.moment = Moment(wall_ms, mono_ms)

    def now(self) -> Moment:
        return self.moment

    def forward(self, ms: int) -> None:
        """Let `ms` pass on both clocks."""
        self.moment = Moment(self.moment.wall_ms + ms, self.moment.mono_ms + ms)


async def nothing_under_way(ledger: Ledger) -> None:
    """Wait until the store has nothing to do, nor who asked of it anything to ask next."""
    idle = 0
    while idle < 3:
        busy = ledger.traffic.steps_waiting or ledger.traffic.reads_waiting
        idle = 0 if busy else idle + 1
        await asyncio.sleep(0.002)
