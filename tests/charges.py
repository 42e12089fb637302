"""Plans with prices, a rate card and a desk that tests of charging share.

Past the allowance a second costs 10,000 micros (0.60 a minute); on credit London does too, after a
connection fee of 0.10.
"""

from fairdial.clock import Moment
from fairdial.desk import Asked, Desk, DeskRules, Failed
from fairdial.ledger.contract import Charge, Ledger
from fairdial.policy.account import Account, Credit, Kind, Line, Options
from fairdial.policy.book import PolicyBook
from fairdial.policy.cards import RateCard
from fairdial.policy.decide import Allow, Refuse, Verdict
from fairdial.policy.document import Policy, parse_policy
from fairdial.policy.numbers import Numbering
from fairdial.policy.outcomes import Reason
from fairdial.policy.prefixes import PrefixTable
from fairdial.policy.sizing import GrantRules
from tests.samples import NOON_MS, RULES, SetClock

PER_S, FEE, UNIT = 10_000, 100_000, 1_000_000
"""Micros: a second, the connection fee, and one EUR."""

LONDON, PARIS, PREMIUM, BERLIN = "02079460123", "0033142685300", "09098790000", "00493012345678"
NUMBERING = Numbering(PrefixTable.parse("prefix,class,country,risk,note,source,date\n"))

CARD_TEXT = """\
prefix,destination,rate_per_min,connect_fee,increment,minimum,effective
+44,United Kingdom,0.60,0.10,,,2026-01-01
+4490,United Kingdom premium,6.00,1.00,60/60,,2026-01-01
+33,France,0.60,0.10,60/60,,2026-01-01
"""
CARD = RateCard.parse(CARD_TEXT, "rates", "EUR")

PLAN = """
name = "{name}"
version = "1"
title = "A plan with prices, for tests"
kinds = {{ allow = ["outbound", "inbound"], clause = "C0" }}
classes = {{ allow = ["geographic", "mobile"], clause = "C1" }}
countries = {{ allow = {countries}, clause = "C2" }}
uncovered = {{ pay = "{uncovered}", classes = {classes}, clause = "C3" }}
longest_call = {{ clause = "C4", seconds = {seconds} }}
[[allowances]]
name = "voice"
limit_s = {limit_s}
period = "{period}"
scope = "{scope}"
counts = ["outbound", "inbound"]
used_up = "{used_up}"
clause = "C5"
{more}
[charges]
card = "rates"
overage_per_min = "0.60"
currency = "EUR"
clause = "C6"
clauses = {{ overage_per_min = "C7" }}
{charges}
"""


def priced_plan(
    limit_s: int = 144_000,
    used_up: str = "overage",
    *,
    name: str = "plan",
    scope: str = "account",
    period: str = "month",
    countries: str = '"any"',
    uncovered: str = "credit",
    classes: str = '"any"',
    longest_s: int | None = None,
    charges: str = "",
    more: str = "",
) -> Policy:
    """A plan of 2,400 minutes past which calls are charged, or as told. `charges`, `more`: TOML."""
    seconds = "{}" if longest_s is None else f"{{ outbound = {longest_s} }}"
    text = PLAN.format(
        name=name,
        limit_s=limit_s,
        used_up=used_up,
        scope=scope,
        period=period,
        countries=countries,
        uncovered=uncovered,
        classes=classes,
        seconds=seconds,
        charges=charges,
        more=more,
    )
    return parse_policy(text, "plan.toml")


class Counter:
    """A desk with a clock that the test sets, and what is asked of it again and again."""

    def __init__(self, ledger: Ledger, *policies: Policy, rules: GrantRules = RULES) -> None:
        self.ledger, self.clock = ledger, SetClock()
        # Decisions under test wait for their turn, however slow the machine is.
        desk_rules = DeskRules(answer_within_s=60, grants=rules)
        self.desk = Desk(ledger, PolicyBook(policies), NUMBERING, self.clock, desk_rules)
        self.desk.cards = {CARD.name: CARD}

    def use(self, *policies: Policy) -> None:
        """Replace the policies."""
        self.desk.policies = PolicyBook(policies)

    async def open_account(self, *lines: str, options: Options | None = None, policy: str = "plan") -> None:
        """The account acme with its lines."""
        await self.ledger.add_account(Account("acme", policy, options=options or Options()))
        for line in lines or ("alice",):
            await self.ledger.add_line(Line(line, "acme"))

    async def pay_in(self, amount_micros: int, reference: str = "payment-1", currency: str = "EUR") -> Credit:
        """Add credit to acme."""
        return await self.ledger.add_credit("acme", currency, amount_micros, reference, NOON_MS)

    async def dial(
        self,
        call_id: str = "call-1",
        number: str = LONDON,
        *,
        line: str = "alice",
        ring_s: int = 60,
        kind: Kind = Kind.OUTBOUND,
    ) -> Verdict:
        """The verdict on a dial now."""
        outcome = await self.desk.authorise(Asked(call_id, kind, number, line, f"channel-{call_id}", ring_s))
        assert not isinstance(outcome, Failed), outcome
        return outcome

    async def allow(
        self,
        call_id: str = "call-1",
        number: str = LONDON,
        *,
        line: str = "alice",
        ring_s: int = 60,
        kind: Kind = Kind.OUTBOUND,
    ) -> Allow:
        """A dial that must be allowed."""
        verdict = await self.dial(call_id, number, line=line, ring_s=ring_s, kind=kind)
        assert isinstance(verdict.decision, Allow), verdict
        return verdict.decision

    async def refuse(
        self, call_id: str, number: str = LONDON, *, line: str = "alice", kind: Kind = Kind.OUTBOUND
    ) -> tuple[Reason, str]:
        """A dial that must be refused: its reason and clause."""
        decision = (await self.dial(call_id, number, line=line, kind=kind)).decision
        assert isinstance(decision, Refuse), decision
        return decision.reason, decision.clause.id

    async def talk(
        self,
        call_id: str,
        used_s: int,
        number: str = LONDON,
        *,
        line: str = "alice",
        kind: Kind = Kind.OUTBOUND,
    ) -> None:
        """A call from dial to settlement, answered at once; the clock goes on by its length."""
        await self.allow(call_id, number, line=line, kind=kind)
        await self.desk.answered(call_id, "leg", self.clock.now())
        self.clock.forward(used_s * 1000)
        await self.settle(call_id, used_s)

    async def settle(self, call_id: str, used_s: int) -> None:
        """The call is over now."""
        await self.desk.settle(call_id, used_s, self.clock.now())

    def at(self, wall_ms: int) -> None:
        """Set the clock."""
        self.clock.moment = Moment(wall_ms, self.clock.moment.mono_ms)

    async def credit(self) -> tuple[int, int]:
        """Balance and reserve of acme."""
        credit = (await self.ledger.sheet("acme")).credit
        assert credit is not None
        return credit.balance_micros, credit.reserved_micros

    async def charges(self) -> dict[str, Charge]:
        """Charges of acme by call."""
        charges = (await self.ledger.sheet("acme")).charges
        return {charge.call_id: charge for charge in charges if charge.call_id is not None}

    async def charged(self) -> dict[str, tuple[int, int]]:
        """Seconds and micros that acme was charged for, by call."""
        return {
            call: (charge.charged_units, charge.amount_micros)
            for call, charge in (await self.charges()).items()
        }

    async def meters(self) -> list[tuple[str, int, int, int]]:
        """(allowance, used, reserved, past it) of acme that are not empty, oldest first."""
        usage = sorted(
            (entry.meter for entry in (await self.ledger.sheet("acme")).usage),
            key=lambda meter: (meter.window, meter.allowance),
        )
        rows = [
            (meter.allowance, meter.used_units, meter.reserved_units, meter.over_units) for meter in usage
        ]
        return [row for row in rows if any(row[1:])]
