"""What was settled against the switch's records: all of it in one round, however much that is, and within a bound."""

import pytest

from fairdial import differences as differences_module
from fairdial.clock import Moment
from fairdial.desk import Desk
from fairdial.differences import LATEST_MS, compare
from fairdial.evidence import Evidence
from tests.samples import NOON_MS, SetClock
from tests.unit.test_reconcile import Book, calls, record
from tests.unit.test_reconcile import clock as clock
from tests.unit.test_reconcile import desk as desk

CALLS = 35


async def settled(desk: Desk) -> Evidence:
    """Calls of 5 s, one a second, all with their records; the last was settled with 9 s."""
    await desk.ledger.compared("", NOON_MS, ())
    await desk.ledger.saw("", NOON_MS)
    book = Book()
    for number in range(CALLS):
        call = f"call-{number}"
        await calls(desk, call, at_ms=NOON_MS + number * 1000)
        await desk.answered(call, "leg", Moment(NOON_MS + number * 1000, 0))
        used_s = 9 if number == CALLS - 1 else 5
        await desk.settle(call, used_s, Moment(NOON_MS + (number + 5) * 1000, 0))
        book.coming.append(record(call, number, number + 5, answer_s=number))
    return Evidence(book)


async def compared(desk: Desk, evidence: Evidence, now: Moment) -> tuple[int, int]:
    """How many differ, and up to when all were compared."""
    found = await compare(desk.ledger, evidence, "", now, belongs=lambda _: True, placed=lambda _: False)
    seen = await desk.ledger.seen("")
    assert seen is not None
    return found, seen.compared_ms


async def test_a_round_compares_all_that_is_over(
    desk: Desk, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(differences_module, "AT_ONCE", 10)
    evidence = await settled(desk)
    now = Moment(NOON_MS + 120_000, 0)
    assert await compared(desk, evidence, now) == (1, now.wall_ms - LATEST_MS)
    [difference] = await desk.ledger.differences()
    # Records have whole seconds.
    assert (difference.call_id, difference.ours_s) == (f"call-{CALLS - 1}", 9)
    assert difference.theirs_s in (5, 6)
    assert await compared(desk, evidence, now) == (0, now.wall_ms - LATEST_MS)


async def test_what_is_too_much_for_one_round_is_compared_in_the_next(
    desk: Desk, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(differences_module, "AT_ONCE", 10)
    monkeypatch.setattr(differences_module, "GOES_MAX", 2)
    evidence = await settled(desk)
    now = Moment(NOON_MS + 120_000, 0)
    found, until_ms = await compared(desk, evidence, now)
    assert (found, until_ms < NOON_MS + 30_000) == (0, True)
    assert await compared(desk, evidence, now) == (1, now.wall_ms - LATEST_MS)
