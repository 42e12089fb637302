"""What the ledger promises about listings that are read in pages, and about one thing that is asked for by its id."""

from dataclasses import replace

import pytest

from fairdial.ledger.contract import CaseState, Finding, Ledger, NotFound, NotOpen
from fairdial.policy.account import Line, OwnNumber, Standing
from fairdial.policy.terms import Clause
from tests.samples import NOON_MS, authorise, outbound, provision

FOUND = Finding("acme", "d0", Clause("plan", "1", "P7"), NOON_MS, 30, 30, "30 numbers")


@pytest.fixture
async def acme(ledger: Ledger) -> Ledger:
    """With acme, that has alice, bob and dave, and other, that has carol; two numbers of acme's, one of other's."""
    await provision(ledger, "acme", "alice", "bob", "dave")
    await provision(ledger, "other", "carol")
    for number, account in (("+4420", "acme"), ("+4430", "other"), ("+4440", "acme")):
        await ledger.add_number(OwnNumber(f"{number}79460000", account))
    return ledger


async def test_accounts_lines_and_numbers_come_in_pages_that_miss_nothing_and_repeat_nothing(
    acme: Ledger,
) -> None:
    assert [each.id for each in await acme.accounts(limit=1)] == ["acme"]
    assert [each.id for each in await acme.accounts("acme", 1)] == ["other"]
    assert await acme.accounts("other", 1) == ()
    assert [each.id for each in await acme.lines(limit=3)] == ["alice", "bob", "carol"]
    assert [each.id for each in await acme.lines(after="carol", limit=3)] == ["dave"]
    assert [each.id for each in await acme.lines("acme", "bob", 5)] == ["dave"]
    assert [each.number for each in await acme.numbers(limit=2)] == ["+442079460000", "+443079460000"]
    assert [each.number for each in await acme.numbers("acme", "+442079460000", 2)] == ["+444079460000"]
    # What the last page ended with may be gone by now.
    assert [each.id for each in await acme.lines(after="bobby")] == ["carol", "dave"]


async def test_all_of_an_account_that_is_not_there_is_no_empty_page(acme: Ledger) -> None:
    for listing in (acme.lines("nosuch"), acme.numbers("nosuch"), acme.account("nosuch")):
        with pytest.raises(NotFound, match="nosuch"):
            await listing


async def test_one_account_line_and_number_are_found_as_they_stand_now(acme: Ledger) -> None:
    await acme.set_standing("acme", Standing.SUSPENDED, NOON_MS)
    await acme.set_line_standing("bob", Standing.TERMINATED)
    assert (await acme.account("acme")).standing is Standing.SUSPENDED
    assert await acme.line("bob") == Line("bob", "acme", standing=Standing.TERMINATED)
    assert await acme.number("+443079460000") == OwnNumber("+443079460000", "other")
    with pytest.raises(NotFound, match="no line 'nosuch'"):
        await acme.line("nosuch")
    with pytest.raises(NotFound, match="belongs to no account"):
        await acme.number("+445079460000")


async def test_decisions_come_in_pages_also_where_many_are_of_one_moment(acme: Ledger) -> None:
    for n in range(7):
        line = "carol" if n == 3 else "alice"
        await authorise(acme, outbound(f"call-{n}", line_id=line, at_ms=NOON_MS + n // 4))
    whole = [each.call_id for each in await acme.decisions()]
    assert whole == [f"call-{n}" for n in (6, 5, 4, 3, 2, 1, 0)]
    pages, after = list[list[str]](), None
    while page := await acme.decisions(limit=3, after=after):
        pages.append([each.call_id for each in page])
        after = page[-1].call_id
    assert pages == [whole[:3], whole[3:6], whole[6:]]
    of_acme = [each.call_id for each in await acme.decisions("acme", 10, "call-4")]
    assert of_acme == ["call-2", "call-1", "call-0"]
    with pytest.raises(NotFound, match="no decision of call 'nosuch'"):
        await acme.decisions(after="nosuch")


async def test_cases_come_in_pages_also_where_many_are_of_one_moment(acme: Ledger) -> None:
    for n in range(5):
        await acme.report(replace(FOUND, detector=f"d{n}", at_ms=NOON_MS + n // 3))
    whole = [case.detector for case in await acme.cases()]
    assert whole == ["d4", "d3", "d2", "d1", "d0"]
    first = await acme.cases(limit=2)
    rest = await acme.cases(after=first[-1].id)
    assert [case.detector for case in (*first, *rest)] == whole
    assert await acme.cases(state=CaseState.CLOSED, after=first[-1].id) == ()
    with pytest.raises(NotFound, match="no case 99"):
        await acme.cases(after=99)


async def test_a_case_is_judged_once(acme: Ledger) -> None:
    change = await acme.report(FOUND)
    assert change is not None
    number = change.case.id
    await acme.close_case(number, NOON_MS + 1, "ann", "", dismissed=False, undo=False)
    with pytest.raises(NotOpen):
        await acme.close_case(number, NOON_MS + 2, "bob", "", dismissed=True, undo=False)
    with pytest.raises(NotOpen):
        await acme.set_deadline(number, NOON_MS + 9, NOON_MS + 2, "bob")
    with pytest.raises(NotFound, match="no case 99"):
        await acme.close_case(99, NOON_MS + 1, "ann", "", dismissed=False, undo=False)
    assert (await acme.case(number))[0].state is CaseState.CLOSED
