"""The watch over texts: one text to many is found, over a restart too, and what nobody looks at is forgotten."""

import asyncio

from fairdial.desk import Asked
from fairdial.ledger.contract import Ledger
from fairdial.policy.account import Kind, Medium, Message
from fairdial.policy.document import Policy
from fairdial.policy.history import Attempt
from tests.contract.test_watch import Counter, acme, counter
from tests.samples import NOON_MS, SetClock
from tests.watched import detector, watched

__all__ = ["acme"]

HOURS_MS = 3_600_000
BLASTING = watched(detector("blast", "same_text_recipients", 5))
OVER_A_MONTH = watched(detector("blast", "same_text_recipients", 5, window="month"))


async def send(at: Counter, n: int, text: str, line: str = "alice") -> None:
    at.clock.forward(1000)
    message = Message(Medium.SMS, text)
    await at.desk.message(
        Asked(
            f"{line}-{at.clock.now().wall_ms}",
            Kind.MESSAGE,
            f"0791234{n:04}",
            line,
            "test",
            0,
            message=message,
        )
    )


async def test_one_text_to_many_opens_a_case_and_other_texts_do_not(acme: Ledger) -> None:
    async with counter(acme, BLASTING) as at:
        for n in range(10):
            await send(at, n, f"text-{n}", "carol")
            await send(at, n % 4, f"round-{n // 4}", "carol")
        for n in range(5):
            await send(at, n, "prize")
        await at.dealt_with()
        [case] = await acme.cases()
        assert (case.account_id, case.detector, case.value, len(case.calls)) == ("acme", "blast", 5, 5)
        assert "prize" not in str(case)


async def test_a_restart_forgets_no_text(acme: Ledger) -> None:
    clock = SetClock()
    for first in (0, 3):
        async with counter(acme, BLASTING, clock) as at:
            for n in range(first, first + 3 - first // 3):
                await send(at, n, "prize")
            await at.dealt_with()
    assert [case.value for case in await acme.cases()] == [5]


async def texts(ledger: Ledger) -> set[str]:
    return {first.text for first, *_ in (await ledger.past(0, None, 100)).dials if isinstance(first, Attempt)}


async def kept_after(ledger: Ledger, policy: Policy, hours: int) -> set[str]:
    """The texts that are kept so long after the first of two, the second being new then."""
    clock = SetClock(NOON_MS)
    async with counter(ledger, policy, clock, compare_every_s=0.01) as at:
        await send(at, 0, "old")
        clock.forward(hours * HOURS_MS)
        await send(at, 1, "new")
        await at.dealt_with()
        kept = await texts(ledger)
        for _ in range(200):
            if "old" not in kept:
                break
            await asyncio.sleep(0.005)
            kept = await texts(ledger)
    return kept


async def test_a_text_is_forgotten_once_a_day_and_the_longest_window_are_over(acme: Ledger) -> None:
    assert await kept_after(acme, BLASTING, 25) == {"", "new"}


async def test_a_text_is_kept_for_a_day_and_for_as_long_as_a_detector_looks_at_it(acme: Ledger) -> None:
    assert await kept_after(acme, BLASTING, 23) == {"old", "new"}


async def test_a_longer_window_keeps_it_longer(acme: Ledger) -> None:
    assert await kept_after(acme, OVER_A_MONTH, 24 * 29) == {"old", "new"}
