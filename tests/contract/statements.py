"""Three months of two accounts, made up from a seed and put through the desk, and what they cost by another count."""

import asyncio
import heapq
import random
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from fairdial.clock import Moment
from fairdial.desk import Asked, Desk, DeskRules
from fairdial.ledger.contract import Ledger
from fairdial.policy.account import Account, Agreement, Consent, Kind, Line, Options, Standing
from fairdial.policy.book import PolicyBook
from fairdial.policy.decide import Allow, Verdict
from fairdial.policy.document import Policy, parse_policy
from tests.charges import CARD, LONDON, NUMBERING, PARIS, PREMIUM
from tests.samples import RULES, SetClock

PLAN: Final = """
name = "{name}"
version = "{version}"
title = "All that is counted and charged"
{effective}
kinds = {{ allow = ["outbound", "inbound", "internal", "conference", "callback", "message"], clause = "T0" }}
classes = {{ allow = ["geographic", "mobile"], clause = "T1" }}
countries = {{ allow = ["GB"], clause = "T2" }}
uncovered = {{ pay = "credit", classes = "any", clause = "T3" }}
longest_call = {{ clause = "T4", seconds = {{ outbound = 14400, conference = 7200 }} }}
[[allowances]]
name = "voice"
limit_s = {voice_s}
period = "cycle"
counts = ["outbound", "inbound", "callback", "conference"]
weights = {{ callback = 2, conference = "parties" }}
used_up = "overage"
clause = "T5"
clauses = {{ callback = "T6" }}
[[allowances]]
name = "room"
meter = "conference"
limit_s = 18000
period = "day"
counts = ["conference"]
clause = "T7"
[[allowances]]
name = "hours"
limit_s = {hours_s}
period = "month"
scope = "line"
counts = ["outbound"]
used_up = "overage"
clause = "T8"
[[allowances]]
name = "inside"
period = "day"
counts = ["internal"]
clause = "T8"
[[allowances]]
name = "texts"
meter = "messages"
limit = {texts}
period = "month"
counts = ["message"]
used_up = "overage"
clause = "T9"
[charges]
card = "rates"
overage_per_min = "0.0317"
overage_per_message = "0.0151"
connect_fee = "0.011"
increment = "{increment}"
surcharge_per_min = "0.0007"
surcharge_needs_agreement = true
currency = "EUR"
clause = "T10"
"""


WHOLE: Final = 10_000
"""Calls for which the limits below are made; for fewer they are less."""


def policies(count: int = WHOLE) -> tuple[Policy, ...]:
    """Those of the three months: a version that takes effect in the middle of them, and another to change to."""

    def policy(name: str, version: str, effective: str, voice_s: int, hours_s: int, increment: str) -> Policy:
        text = PLAN.format(
            name=name,
            version=version,
            effective=effective,
            voice_s=voice_s * count // WHOLE,
            hours_s=hours_s * count // WHOLE,
            texts=300 * count // WHOLE,
            increment=increment,
        )
        return parse_policy(text, f"{name}.toml")

    return (
        policy("plan", "1", "", 150_000, 90_000, "1/1"),
        policy("plan", "2", 'effective = "2026-03-22"', 90_000, 40_000, "30/6"),
        policy("other", "1", "", 120_000, 60_000, "60/60"),
    )


@dataclass(frozen=True, slots=True)
class Customer:
    """An account; cycle_day: the one that it has in the end, the second half of the time."""

    account: str
    zone: str
    first_cycle_day: int
    cycle_day: int
    lines: tuple[str, ...]


CUSTOMERS: Final = (
    # Clocks go forward on 29 March 2026 in London, on 8 March in New York.
    Customer("acme", "Europe/London", 1, 15, ("alice", "anna", "ann")),
    Customer("zeta", "America/New_York", 31, 16, ("zoe", "zack", "zed")),
)
MONTHS: Final = ("2026-02", "2026-03", "2026-04")
BEGIN, END = datetime(2026, 2, 18, tzinfo=ZoneInfo("UTC")), datetime(2026, 5, 9, tzinfo=ZoneInfo("UTC"))
BEGIN_MS, END_MS = int(BEGIN.timestamp() * 1000), int(END.timestamp() * 1000)
NOW_MS: Final = END_MS + 100 * 3_600_000
AT_ONCE: Final = 40

KINDS: Final = (
    *((Kind.OUTBOUND, LONDON),) * 30,
    *((Kind.OUTBOUND, PARIS),) * 3,
    (Kind.OUTBOUND, PREMIUM),
    *((Kind.INBOUND, LONDON),) * 10,
    *((Kind.INTERNAL, LONDON),) * 5,
    *((Kind.CALLBACK, LONDON),) * 8,
    *((Kind.CONFERENCE, "8000"),) * 10,
    *((Kind.MESSAGE, LONDON),) * 20,
)


def boundaries_ms() -> list[int]:
    """Where cycles begin in the time that is made up: calls are to cross all of them."""
    return sorted(
        int(datetime(2026, month, customer.cycle_day, tzinfo=ZoneInfo(customer.zone)).timestamp() * 1000)
        for customer in CUSTOMERS
        for month in (3, 4)
    )


@dataclass(slots=True)
class Made:
    """What was made, counted apart from the ledger: what each settlement said it cost."""

    count: int = 0
    messages: int = 0
    refused: int = 0
    charged_micros: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    talk_s: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    paid_in_micros: dict[str, int] = field(default_factory=lambda: defaultdict(int))


class Months:
    """Makes the three months up."""

    def __init__(self, ledger: Ledger, seed: int, count: int = WHOLE) -> None:
        """count: at least so many dials."""
        self.clock = SetClock(BEGIN_MS)
        self.desk = Desk(
            ledger,
            PolicyBook(policies(count)),
            NUMBERING,
            self.clock,
            DeskRules(answer_within_s=60, grants=RULES),
        )
        self.desk.cards = {CARD.name: CARD}
        self.made = Made()
        self._count = count
        self._ledger, self._chance = ledger, random.Random(seed)
        # When calls in progress end: that, the call, its account, when it was answered (None: nobody did).
        self._ends: list[tuple[int, str, str, int | None]] = []

    async def make(self) -> Made:
        """All of it."""
        for customer in CUSTOMERS:
            await self._ledger.add_account(
                Account(
                    customer.account,
                    "plan",
                    customer.zone,
                    options=Options(cycle_day=customer.first_cycle_day),
                )
            )
            for line in customer.lines:
                await self._ledger.add_line(Line(line, customer.account))
        rounds = self._count // AT_ONCE * 5 // 4
        step_ms = (END_MS - BEGIN_MS) // rounds
        starts = [BEGIN_MS + n * step_ms + self._chance.randrange(step_ms // 2) for n in range(rounds)]
        starts += [at_ms - self._chance.randrange(60_000, 600_000) for at_ms in boundaries_ms() for _ in "12"]
        changes = [(rounds // 4, self._pay), (rounds // 3, self._agree), (rounds // 2, self._subscribe)]
        for n, start_ms in enumerate(sorted(starts)):
            await self._settle_until(start_ms)
            self._set(start_ms)
            for _, change in (each for each in changes if each[0] == n):
                await change()
            if n % 20 == 0:
                await self._pay()
            await self._round(start_ms)
        await self._settle_until(NOW_MS)
        self._set(NOW_MS)
        # What is left of one's credit is forfeited (V8).
        await self._ledger.set_standing("zeta", Standing.TERMINATED, END_MS, fraud=True)
        await self.desk.close()
        return self.made

    def _set(self, wall_ms: int) -> None:
        # Time passes on both clocks.
        self.clock.forward(max(0, wall_ms - self.clock.moment.wall_ms))

    async def _pay(self) -> None:
        for customer in CUSTOMERS:
            amount_micros = self._chance.randrange(1_000_000, 9_000_000)
            reference = f"payment-{self.clock.moment.wall_ms}"
            await self._ledger.add_credit(
                customer.account, "EUR", amount_micros, reference, self.clock.moment.wall_ms
            )
            if self.made.paid_in_micros[f"{customer.account} {reference}"] == 0:
                self.made.paid_in_micros[customer.account] += amount_micros
                self.made.paid_in_micros[f"{customer.account} {reference}"] = amount_micros

    async def _agree(self) -> None:
        await self._ledger.agree(
            Agreement("acme", Consent.SURCHARGE, "Ann", self.clock.moment.wall_ms, "at a desk")
        )

    async def _subscribe(self) -> None:
        for customer, plan in zip(CUSTOMERS, ("plan", "other"), strict=True):
            await self._ledger.subscribe(customer.account, plan, Options(cycle_day=customer.cycle_day))

    async def _round(self, start_ms: int) -> None:
        """Some dials one after the other, decided at once; calls follow, messages are over."""
        asking: list[tuple[Asked, str, int, asyncio.Task[object]]] = []
        for _ in range(AT_ONCE):
            self.clock.forward(self._chance.randrange(1, 20_000))
            customer = self._chance.choice(CUSTOMERS)
            kind, number = self._chance.choice(KINDS)
            self.made.count += 1
            call_id = f"{kind}-{self.made.count}"
            ring_s = 0 if kind is Kind.CONFERENCE else 60
            asked = Asked(call_id, kind, number, self._chance.choice(customer.lines), call_id, ring_s)
            at_ms = self.clock.moment.wall_ms
            asking.append((asked, customer.account, at_ms, asyncio.create_task(self.desk.authorise(asked))))
            # It reads the clock now.
            await asyncio.sleep(0)
        for asked, account, at_ms, task in asking:
            outcome = await task
            assert isinstance(outcome, Verdict), outcome
            if not isinstance(outcome.decision, Allow):
                self.made.refused += 1
            elif asked.kind is Kind.MESSAGE:
                self.made.messages += 1
                self.made.calls[account] += 1
            else:
                self._place(asked, account, at_ms, outcome.decision)

    def _place(self, asked: Asked, account: str, at_ms: int, allow: Allow) -> None:
        chance = self._chance
        answered_ms: int | None = at_ms + (0 if asked.kind is Kind.CONFERENCE else chance.randrange(15_000))
        talk_ms = chance.choice((chance.randrange(1, 90_000), chance.randrange(900_000)))
        if asked.kind is Kind.INTERNAL and chance.random() < 0.02:
            talk_ms = 90_000_000 + chance.randrange(9_000_000)  # more than a day
        if chance.random() < 0.1:
            answered_ms = None
        if allow.granted_s is not None:
            talk_ms = min(talk_ms, allow.granted_s * 1000)
        end_ms = at_ms + 20_000 if answered_ms is None else answered_ms + talk_ms
        heapq.heappush(self._ends, (end_ms, asked.call_id, account, answered_ms))

    async def _settle_until(self, until_ms: int) -> None:
        """All calls that are over by then, each answer before any end, as the store would have it too."""
        due = []
        while self._ends and self._ends[0][0] <= until_ms:
            due.append(heapq.heappop(self._ends))
        answers = [(call_id, answered_ms) for _, call_id, _, answered_ms in due if answered_ms is not None]
        # Some answers are never noted, though the end is seen.
        noted = [each for each in answers if self._chance.random() > 0.03]
        await asyncio.gather(
            *(self.desk.answered(call_id, f"leg-{call_id}", Moment(at_ms, 0)) for call_id, at_ms in noted)
        )
        await asyncio.gather(*(self._settle(*each) for each in due))

    async def _settle(self, end_ms: int, call_id: str, account: str, answered_ms: int | None) -> None:
        used_s = 0 if answered_ms is None else max(1, (end_ms - answered_ms + 500) // 1000)
        grant = await self.desk.settle(call_id, used_s, Moment(end_ms, 0), estimated=used_s > 890)
        assert grant.used_s is not None
        self.made.charged_micros[account] += grant.charged_micros
        self.made.talk_s[account] += grant.used_s
        self.made.calls[account] += bool(grant.used_s)
