"""The numbers that an account calls in a day: so many, and those that it has called before (K10)."""

import asyncio
from dataclasses import replace

from fairdial.ledger.contract import Ledger
from fairdial.policy.account import Dial, Needs
from fairdial.policy.decide import CALLEES_MS, Allow, Verdict, asks_callees, decide, meters_at
from fairdial.policy.document import parse_policy
from fairdial.policy.outcomes import Reason
from tests.samples import LONDON, NOON_MS, PLAN, RULES, outbound, provision

DAILY = parse_policy(PLAN + '[caps]\ncallees_per_day = { limit = 2, clause = "P6" }\n', "plan.toml")


async def dialled(ledger: Ledger, dial: Dial, callee: str) -> Verdict:
    """A dial as the desk decides it, where the plan counts the numbers that an account calls."""
    number = replace(LONDON, dialled=dial.dialled, e164=callee)
    return await ledger.authorise(
        dial,
        lambda _line, account: Needs(
            meters_at(account, DAILY, dial),
            callee=asks_callees(DAILY, dial.kind, number),
            callees_since_ms=dial.at_ms - CALLEES_MS,
        ),
        lambda snapshot: Verdict(number, decide(dial, number, snapshot, DAILY, RULES)),
    )


async def test_the_numbers_of_a_day_are_counted_and_known_ones_stay_open(ledger: Ledger) -> None:
    await provision(ledger, "acme", "alice", "bob")
    await provision(ledger, "other", "carol")

    async def reason(n: int, callee: str, at_ms: int = NOON_MS, line: str = "alice") -> Reason:
        dial = outbound(f"c{n}", at_ms=at_ms + n, line_id=line)
        return (await dialled(ledger, dial, callee)).decision.reason

    assert await reason(1, "+441") is Reason.WITHIN_ALLOWANCE
    assert await reason(2, "+442", line="bob") is Reason.WITHIN_ALLOWANCE
    assert await reason(3, "+443") is Reason.TOO_MANY_NUMBERS
    assert await reason(4, "+442") is Reason.WITHIN_ALLOWANCE
    assert await reason(5, "+443", line="carol") is Reason.WITHIN_ALLOWANCE
    assert await reason(6, "+443") is Reason.TOO_MANY_NUMBERS, "a refused number is not known"
    tomorrow_ms = NOON_MS + CALLEES_MS
    assert await reason(7, "+443", tomorrow_ms) is Reason.WITHIN_ALLOWANCE


async def test_of_many_at_once_no_more_numbers_are_called_than_allowed(ledger: Ledger) -> None:
    await provision(ledger)
    verdicts = await asyncio.gather(
        *(dialled(ledger, outbound(f"c{n}"), f"+4420794600{n:02}") for n in range(20))
    )
    assert sum(isinstance(verdict.decision, Allow) for verdict in verdicts) == 2
