"""What the ledger promises about decisions that are looked for, and about days; of the sums of days see also
test_statements.py.
"""

from dataclasses import replace

import pytest

from fairdial.ledger.contract import AlreadyExists, Ledger, NotFound, Role, Token
from fairdial.policy.account import Account, Kind
from fairdial.policy.periods import Window
from tests.samples import NOON_MS, authorise, outbound, plan, provision

DAY_MS = 86_400_000
MIDNIGHT_MS = NOON_MS - NOON_MS % DAY_MS
SIP = "a84b4c76e66710@pc33.atlanta.example"


@pytest.fixture
async def acme(ledger: Ledger) -> Ledger:
    """Acme's alice dialled London twice, as calls 1 and 3, and an extension, other's carol London, as call 2."""
    await provision(ledger, "acme", "alice", "bob")
    await provision(ledger, "other", "carol")
    await authorise(ledger, replace(outbound("call-1", at_ms=NOON_MS), sip_call_id=SIP))
    await authorise(ledger, outbound("call-2", line_id="carol", at_ms=NOON_MS + 1))
    await authorise(ledger, outbound("call-3", at_ms=NOON_MS + 2), plan(limit_s=0))
    return ledger


async def ids(ledger: Ledger, account: str | None = None, **sought: object) -> list[str]:
    return [each.call_id for each in await ledger.decisions(account, **sought)]  # type: ignore[arg-type]


async def test_decisions_are_found_by_number_line_and_call(acme: Ledger) -> None:
    (first,) = await acme.decisions(call="call-1")
    assert first.sip_call_id == SIP
    number = first.e164
    assert await ids(acme, number=number) == ["call-3", "call-2", "call-1"]
    assert await ids(acme, "acme", number=number) == ["call-3", "call-1"]
    assert await ids(acme, number=number, limit=1, after="call-3") == ["call-2"]
    assert await ids(acme, number="+442079460999") == []
    # As it was dialled, only where that is all there is.
    assert await ids(acme, number=first.dialled) == []
    assert await ids(acme, line_id="carol") == ["call-2"]
    assert await ids(acme, "acme", line_id="carol") == []
    await authorise(acme, outbound("call-0", line_id="nobody", at_ms=NOON_MS - 1))
    assert await ids(acme, line_id="nobody") == ["call-0"]
    assert await ids(acme, line_id="bob") == []
    assert await ids(acme, call=SIP) == ["call-1"]
    assert await ids(acme, "other", call=SIP) == []
    assert await ids(acme, number=number, refused=True) == ["call-3", "call-0"]


async def test_a_call_without_a_sip_call_id_is_not_found_by_none(acme: Ledger) -> None:
    assert await ids(acme, call="") == []


async def test_one_decision_is_found_by_its_call_and_by_nothing_else(acme: Ledger) -> None:
    # What a phone writes into its Call-ID is its own choice.
    await authorise(acme, replace(outbound("call-4", at_ms=NOON_MS + 9), sip_call_id="call-1"))
    assert (await acme.decision("call-1")).at_ms == NOON_MS
    for wrong in (SIP, "nosuch", ""):
        with pytest.raises(NotFound, match="no decision"):
            await acme.decision(wrong)


async def test_days_have_what_began_on_them_what_was_refused_and_nothing_of_others(acme: Ledger) -> None:
    await acme.answered("call-1", "leg", MIDNIGHT_MS + DAY_MS - 10_000)
    await acme.settle("call-1", 25, MIDNIGHT_MS + DAY_MS + 15_000)
    windows = [Window(MIDNIGHT_MS + n * DAY_MS, MIDNIGHT_MS + (n + 1) * DAY_MS) for n in (-1, 0, 1)]
    before, day, after = await acme.days("acme", windows)
    assert (before.kinds, before.charged, before.refused) == ({}, {}, 0)
    assert (day.kinds, day.refused) == ({Kind.OUTBOUND: (1, 10)}, 1)
    assert (after.kinds, after.refused) == ({Kind.OUTBOUND: (0, 15)}, 0)
    assert [each.refused for each in await acme.days("other", windows)] == [0, 0, 0]
    with pytest.raises(NotFound, match="nosuch"):
        await acme.days("nosuch", windows)


async def test_accounts_are_found_by_how_their_id_begins(ledger: Ledger) -> None:
    for name in ("a", "ab", "ab-1", "ab-2", "abc", "ac", "Ab", "ab~"):
        await ledger.add_account(Account(name, "plan"))
    whole = [each.id for each in await ledger.accounts(starts="ab")]
    assert whole == ["ab", "ab-1", "ab-2", "abc", "ab~"]
    assert [each.id for each in await ledger.accounts("ab", 2, "ab")] == whole[1:3]
    assert [each.id for each in await ledger.accounts("a", 2, "ab")] == whole[:2]
    assert await ledger.accounts("ac", 2, "ab") == ()
    assert await ledger.accounts(starts="x") == ()


async def test_a_token_keeps_the_accounts_that_it_is_bound_to(acme: Ledger) -> None:
    bound = Token("portal", "a" * 64, Role.VIEWER, NOON_MS, ("other", "acme"))
    await acme.add_token(bound)
    await acme.add_token(Token("free", "b" * 64, Role.VIEWER, NOON_MS))
    assert await acme.token("a" * 64) == bound
    assert [each.accounts for each in await acme.tokens()] == [(), ("other", "acme")]
    with pytest.raises(NotFound, match="no account 'nosuch'"):
        await acme.add_token(Token("wrong", "c" * 64, Role.VIEWER, NOON_MS, ("acme", "nosuch")))
    with pytest.raises(AlreadyExists):
        await acme.add_token(Token("portal", "c" * 64, Role.VIEWER, NOON_MS, ("nosuch",)))
    assert [each.name for each in await acme.tokens()] == ["free", "portal"]


@pytest.mark.parametrize("accounts", [("acme", "acme"), tuple(str(n) for n in range(101))])
def test_a_token_is_bound_to_so_many_accounts_each_once(accounts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="at most 100 accounts, each named once"):
        Token("portal", "a" * 64, Role.VIEWER, NOON_MS, accounts)
