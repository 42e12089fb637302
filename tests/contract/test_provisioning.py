"""What the ledger promises about provisioning: numbers, agreements, standing, batches, published policies."""

import re
from dataclasses import replace

import pytest

from fairdial.ledger.contract import (
    AlreadyExists,
    BatchRefused,
    Entry,
    Ledger,
    NotFound,
    NotNow,
    Payment,
    Provision,
    PublishedPolicy,
    Role,
    Subscribing,
    Token,
    TooMany,
)
from fairdial.policy.account import (
    Account,
    Agreement,
    Consent,
    Credit,
    Line,
    Options,
    OwnNumber,
    Standing,
)
from fairdial.policy.numbers import Habit
from fairdial.policy.outcomes import Reason
from tests.charges import FEE, PARIS, PER_S, UNIT, Counter, priced_plan
from tests.contract.conftest import Store
from tests.samples import NOON_MS, provision

LONDON, PARIS_OFFICE = "+442079460000", "+33142685300"
SURCHARGE = Agreement("acme", Consent.SURCHARGE, "Ann Lee", NOON_MS, "by phone")
LATER_MS = NOON_MS + 1_000
ON_CREDIT = priced_plan(countries='["GB"]', longest_s=600)
"""Paris is paid from credit."""


@pytest.fixture
async def acme(ledger: Ledger) -> Ledger:
    """With acme, that has alice and bob, and other, that has carol."""
    await provision(ledger, "acme", "alice", "bob")
    await provision(ledger, "other", "carol")
    return ledger


async def numbers_of(ledger: Ledger, account: str = "acme") -> list[tuple[str, str | None]]:
    return [(number.number, number.line_id) for number in (await ledger.sheet(account)).numbers]


async def agreements_of(ledger: Ledger) -> tuple[Agreement, ...]:
    return (await ledger.sheet("acme")).agreements


# --- numbers -------------------------------------------------------------------------------------


async def test_a_number_belongs_to_an_account_or_to_one_of_its_lines(acme: Ledger) -> None:
    await acme.add_number(OwnNumber(LONDON, "acme", "alice"))
    await acme.add_number(OwnNumber(PARIS_OFFICE, "acme"))
    assert await numbers_of(acme) == [(PARIS_OFFICE, None), (LONDON, "alice")]
    assert await numbers_of(acme, "other") == []


async def test_a_number_is_given_again_and_moved_between_lines(acme: Ledger) -> None:
    for line in ("alice", "alice", "bob", None):
        await acme.add_number(OwnNumber(LONDON, "acme", line))
        assert await numbers_of(acme) == [(LONDON, line)]


async def test_a_number_of_another_account_is_refused_until_it_is_removed(acme: Ledger) -> None:
    await acme.add_number(OwnNumber(LONDON, "other"))
    with pytest.raises(AlreadyExists, match="belongs to account 'other'; take it from there with"):
        await acme.add_number(OwnNumber(LONDON, "acme"))
    assert (await numbers_of(acme), await numbers_of(acme, "other")) == ([], [(LONDON, None)])
    await acme.remove_number(LONDON)
    await acme.add_number(OwnNumber(LONDON, "acme"))
    assert (await numbers_of(acme), await numbers_of(acme, "other")) == ([(LONDON, None)], [])


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (OwnNumber(LONDON, "nosuch"), "no account 'nosuch'"),
        (
            OwnNumber(LONDON, "acme", "nosuch"),
            "account 'acme' has no line 'nosuch'; `fairdial line list acme`",
        ),
        (OwnNumber(LONDON, "acme", "carol"), "account 'acme' has no line 'carol'"),
    ],
)
async def test_a_number_needs_its_account_and_a_line_of_it(
    acme: Ledger, number: OwnNumber, words: str
) -> None:
    with pytest.raises(NotFound, match=re.escape(words)):
        await acme.add_number(number)
    assert await numbers_of(acme) == []


async def test_a_number_that_nobody_has_cannot_be_removed(acme: Ledger) -> None:
    await acme.add_number(OwnNumber(LONDON, "acme"))
    with pytest.raises(NotFound, match="'442079460000' belongs to no account; write it"):
        await acme.remove_number("442079460000")
    assert await numbers_of(acme) == [(LONDON, None)]


# --- agreements ----------------------------------------------------------------------------------


async def test_an_agreement_is_recorded_once_and_holds(acme: Ledger) -> None:
    await acme.agree(SURCHARGE)
    await acme.agree(replace(SURCHARGE, agreed_by="Somebody Else", at_ms=LATER_MS))
    assert await agreements_of(acme) == (SURCHARGE,)
    assert (await acme.sheet("other")).agreements == ()


async def test_an_agreement_that_was_withdrawn_holds_no_more_and_can_be_given_anew(acme: Ledger) -> None:
    await acme.agree(SURCHARGE)
    await acme.withdraw("acme", Consent.SURCHARGE, LATER_MS)
    assert await agreements_of(acme) == ()
    anew = replace(SURCHARGE, at_ms=LATER_MS + 1, note="by letter")
    await acme.agree(anew)
    assert await agreements_of(acme) == (anew,)


async def test_an_agreement_ends_though_the_clock_was_set_back(acme: Ledger) -> None:
    await acme.agree(SURCHARGE)
    await acme.withdraw("acme", Consent.SURCHARGE, NOON_MS - 60_000)
    assert await agreements_of(acme) == ()


async def test_only_what_holds_can_be_withdrawn(acme: Ledger) -> None:
    with pytest.raises(NotFound, match="'acme' has not agreed to surcharge"):
        await acme.withdraw("acme", Consent.SURCHARGE, NOON_MS)
    await acme.agree(SURCHARGE)
    await acme.withdraw("acme", Consent.SURCHARGE, LATER_MS)
    with pytest.raises(NotFound, match="'acme' has not agreed to surcharge"):
        await acme.withdraw("acme", Consent.SURCHARGE, LATER_MS)


async def test_an_agreement_needs_an_account(ledger: Ledger) -> None:
    with pytest.raises(NotFound, match="no account 'acme'"):
        await ledger.agree(SURCHARGE)
    with pytest.raises(NotFound, match="no account 'acme'"):
        await ledger.withdraw("acme", Consent.SURCHARGE, NOON_MS)


# --- lines: how many, and their standing ---------------------------------------------------------


async def test_a_line_past_the_bound_is_refused_and_one_that_is_there_is_not(acme: Ledger) -> None:
    for _ in range(2):
        await acme.add_line(Line("dave", "acme"), lambda _account: 3)
    with pytest.raises(TooMany, match="account 'acme' holds 3 lines, and its policy allows 3"):
        await acme.add_line(Line("eve", "acme"), lambda _account: 3)
    assert [line.id for line in await acme.lines("acme")] == ["alice", "bob", "dave"]
    await acme.add_line(Line("eve", "acme"), lambda _account: None)
    await acme.add_line(Line("frank", "acme"))
    assert len(await acme.lines("acme")) == 5


async def test_the_bound_is_asked_of_the_account_that_gets_the_line(acme: Ledger) -> None:
    asked: list[Account] = []

    def lines_max(account: Account) -> int:
        asked.append(account)
        return 9

    await acme.add_line(Line("dave", "other"), lines_max)
    # A step may run twice.
    assert set(asked) == {Account("other", "plan")}


async def test_one_line_is_suspended_and_restored(ledger: Ledger) -> None:
    counter = Counter(ledger, ON_CREDIT)
    await counter.open_account("alice", "bob")
    suspended = await ledger.set_line_standing("alice", Standing.SUSPENDED)
    assert suspended == Line("alice", "acme", standing=Standing.SUSPENDED)
    assert await ledger.lines("acme") == (suspended, Line("bob", "acme"))
    assert (await counter.dial("call-1")).decision.reason is Reason.LINE_SUSPENDED
    await counter.allow("call-2", line="bob")
    assert (await ledger.set_line_standing("alice", Standing.ACTIVE)).standing is Standing.ACTIVE
    await counter.allow("call-3")


async def test_a_line_that_is_not_there_has_no_standing(acme: Ledger) -> None:
    with pytest.raises(NotFound, match="no line 'nosuch'; `fairdial line list` shows all"):
        await acme.set_line_standing("nosuch", Standing.SUSPENDED)


# --- termination for fraud (V8) ------------------------------------------------------------------


@pytest.fixture
async def counter(ledger: Ledger) -> Counter:
    """The account acme, with 10 EUR of credit."""
    counter = Counter(ledger, ON_CREDIT)
    await counter.open_account()
    await counter.pay_in(10 * UNIT)
    return counter


async def test_fraud_forfeits_the_credit_and_keeps_the_charges(counter: Counter, ledger: Ledger) -> None:
    await counter.talk("call-1", 60, PARIS)
    charged = await counter.charged()
    account = await ledger.set_standing("acme", Standing.TERMINATED, NOON_MS, fraud=True)
    assert (account.standing, account.fraud) == (Standing.TERMINATED, True)
    assert await ledger.accounts() == (account,)
    assert await counter.credit() == (0, 0)
    assert await counter.charged() == charged == {"call-1": (60, FEE + 60 * PER_S)}


async def test_a_termination_without_fraud_forfeits_nothing(counter: Counter, ledger: Ledger) -> None:
    account = await ledger.set_standing("acme", Standing.TERMINATED, NOON_MS)
    assert (account.standing, account.fraud) == (Standing.TERMINATED, False)
    assert await counter.credit() == (10 * UNIT, 0)


async def test_what_calls_reserve_is_forfeited_as_they_end(counter: Counter, ledger: Ledger) -> None:
    for call_id in ("call-1", "call-2", "call-3"):
        await counter.allow(call_id, PARIS)
    _, reserved_micros = await counter.credit()
    assert reserved_micros > 0
    await ledger.set_standing("acme", Standing.TERMINATED, NOON_MS, fraud=True)
    assert await counter.credit() == (reserved_micros, reserved_micros)
    await counter.settle("call-1", 60)
    balance_micros, still_reserved_micros = await counter.credit()
    assert balance_micros == still_reserved_micros < reserved_micros
    # In the same millisecond, which must not be in the way.
    await counter.settle("call-2", 0)
    await ledger.release("call-3")
    assert await counter.credit() == (0, 0)
    # What was talked is charged before the rest is taken.
    assert await counter.charged() == {"call-1": (60, FEE + 60 * PER_S)}


async def test_terminating_again_for_fraud_takes_what_came_in_meanwhile(
    counter: Counter, ledger: Ledger
) -> None:
    for _ in range(2):
        await ledger.set_standing("acme", Standing.TERMINATED, NOON_MS, fraud=True)
        assert await counter.credit() == (0, 0)
    await counter.pay_in(UNIT, "payment-2")
    await ledger.set_standing("acme", Standing.TERMINATED, NOON_MS, fraud=True)
    assert await counter.credit() == (0, 0)
    # The payment itself was taken: it is not added again under its reference.
    assert await counter.pay_in(10 * UNIT) == Credit("EUR", 0)


async def test_terminating_again_without_a_word_of_fraud_does_not_take_it_back(
    counter: Counter, ledger: Ledger
) -> None:
    await ledger.set_standing("acme", Standing.TERMINATED, NOON_MS, fraud=True)
    assert (await ledger.set_standing("acme", Standing.TERMINATED, LATER_MS)).fraud


async def test_restoring_ends_the_forfeiting_and_gives_nothing_back(counter: Counter, ledger: Ledger) -> None:
    await ledger.set_standing("acme", Standing.TERMINATED, NOON_MS, fraud=True)
    account = await ledger.set_standing("acme", Standing.ACTIVE, LATER_MS)
    assert (account.standing, account.fraud) == (Standing.ACTIVE, False)
    assert await counter.credit() == (0, 0)
    await counter.pay_in(5 * UNIT, "payment-2")
    await counter.talk("call-1", 60, PARIS)
    assert await counter.credit() == (5 * UNIT - FEE - 60 * PER_S, 0)


@pytest.mark.parametrize("standing", [Standing.ACTIVE, Standing.SUSPENDED])
async def test_only_a_termination_is_for_fraud(counter: Counter, ledger: Ledger, standing: Standing) -> None:
    with pytest.raises(ValueError, match="terminated for fraud"):
        await ledger.set_standing("acme", standing, NOON_MS, fraud=True)
    assert await counter.credit() == (10 * UNIT, 0)


async def test_fraud_without_credit_is_terminated_as_well(acme: Ledger) -> None:
    assert (await acme.set_standing("acme", Standing.TERMINATED, NOON_MS, fraud=True)).fraud
    assert (await acme.sheet("acme")).credit is None


# --- batches -------------------------------------------------------------------------------------


BOUGHT = Options(frozenset({"GB"}), plan="Gold")
ALL_KINDS: tuple[Provision, ...] = (
    Account("new", "plan", "Europe/London", "New"),
    Line("nina", "new"),
    OwnNumber(LONDON, "new", "nina"),
    Subscribing("new", "other-plan", BOUGHT),
    Payment("new", "EUR", UNIT, "payment-1", "by card"),
    Agreement("new", Consent.SURCHARGE, "Ann Lee", NOON_MS),
)


def batch(*things: Provision) -> list[Entry]:
    return [Entry(f"customers.toml, line {line}", thing) for line, thing in enumerate(things, 1)]


async def test_what_was_withdrawn_is_agreed_to_again_in_the_same_moment(acme: Ledger) -> None:
    """Or in one before it, where the clock was set back."""
    for n in range(3):
        await acme.agree(replace(SURCHARGE, at_ms=NOON_MS - n, note=str(n)))
        [held] = await agreements_of(acme)
        assert (held.note, held.at_ms) == (str(n), NOON_MS + n)
        await acme.withdraw("acme", Consent.SURCHARGE, NOON_MS - n)
    assert await agreements_of(acme) == ()


async def test_a_batch_provisions_all_kinds(ledger: Ledger) -> None:
    assert await ledger.provision(batch(*ALL_KINDS), NOON_MS) == (6, 0)
    sheet = await ledger.sheet("new")
    assert sheet.account == Account("new", "other-plan", "Europe/London", "New", options=BOUGHT)
    assert (sheet.lines, sheet.credit) == ((Line("nina", "new"),), Credit("EUR", UNIT))
    assert sheet.numbers == (OwnNumber(LONDON, "new", "nina"),)
    assert [agreement.agreed_by for agreement in sheet.agreements] == ["Ann Lee"]


async def test_a_batch_that_is_repeated_changes_nothing(ledger: Ledger) -> None:
    await ledger.provision(batch(*ALL_KINDS), NOON_MS)
    await ledger.set_standing("new", Standing.SUSPENDED, NOON_MS)
    before = await ledger.sheet("new")
    assert await ledger.provision(batch(*ALL_KINDS), LATER_MS) == (0, 6)
    assert await ledger.sheet("new") == before


async def test_a_batch_adds_what_is_missing(ledger: Ledger) -> None:
    await ledger.provision(batch(*ALL_KINDS), NOON_MS)
    assert await ledger.provision(batch(*ALL_KINDS, Line("nora", "new")), LATER_MS) == (1, 6)
    assert [line.id for line in await ledger.lines("new")] == ["nina", "nora"]


async def test_an_account_that_exists_keeps_its_policy_and_options_in_a_batch(acme: Ledger) -> None:
    again = Account("acme", "other-plan", options=BOUGHT)
    assert await acme.provision(batch(again), NOON_MS) == (0, 1)
    assert (await acme.sheet("acme")).account == Account("acme", "plan")
    with pytest.raises(BatchRefused, match="'acme' exists with other contents"):
        await acme.provision(batch(replace(again, zone="Europe/Paris")), NOON_MS)
    # By itself the step is strict.
    with pytest.raises(AlreadyExists):
        await acme.add_account(again)


async def test_a_batch_is_kept_whole_or_not_at_all_and_tells_every_fault(acme: Ledger) -> None:
    await acme.add_number(OwnNumber(PARIS_OFFICE, "other"))
    await acme.add_credit("acme", "EUR", UNIT, "payment-1", NOON_MS)
    faulty = batch(
        *ALL_KINDS,
        Line("alice", "acme", Habit("DE")),
        Line("zoe", "nosuch"),
        OwnNumber(PARIS_OFFICE, "acme"),
        Subscribing("nosuch", "plan", Options()),
        Payment("acme", "EUR", 2 * UNIT, "payment-1"),
        Payment("acme", "USD", UNIT, "payment-2"),
        Payment("acme", "EUR", -2 * UNIT, "back-1"),
        Agreement("nosuch", Consent.SURCHARGE, "Ann Lee", NOON_MS),
        Line("dave", "acme"),
    )
    with pytest.raises(BatchRefused) as refused:
        await acme.provision(faulty, NOON_MS)
    found = refused.value.faults
    words = (
        "line 7: line 'alice' exists with other contents",
        "line 8: no account 'nosuch'",
        f"line 9: number {PARIS_OFFICE} belongs to account 'other'",
        "line 10: no account 'nosuch'",
        "line 11: reference 'payment-1' was used for another amount",
        "line 12: account 'acme' holds EUR",
        "line 13: account 'acme' has 1 EUR that no call reserves",
        "line 14: no account 'nosuch'",
    )
    assert len(found) == len(words)
    assert all(fault.startswith(f"customers.toml, {word}") for fault, word in zip(found, words, strict=True))
    assert str(refused.value) == "\n".join(found)
    assert {account.id for account in await acme.accounts()} == {"acme", "other"}
    assert {line.id for line in await acme.lines()} == {"alice", "bob", "carol"}
    assert (await acme.sheet("acme")).credit == Credit("EUR", UNIT)


async def test_the_hundred_and_first_line_in_a_batch_is_refused(acme: Ledger) -> None:
    """V3, with the two lines that are there already."""

    def lines(count: int) -> list[Entry]:
        return batch(*(Line(f"line-{number}", "acme") for number in range(count)))

    with pytest.raises(BatchRefused) as refused:
        await acme.provision(lines(100), NOON_MS, lambda _account: 100)
    assert refused.value.faults == (
        "customers.toml, line 99: account 'acme' holds 100 lines, and its policy allows 100",
        "customers.toml, line 100: account 'acme' holds 100 lines, and its policy allows 100",
    )
    assert len(await acme.lines("acme")) == 2
    assert await acme.provision(lines(98), NOON_MS, lambda _account: 100) == (98, 0)
    assert await acme.provision(lines(98), NOON_MS, lambda _account: 100) == (0, 98)
    assert len(await acme.lines("acme")) == 100


async def test_the_bound_on_lines_is_that_of_the_policy_at_that_place_in_the_batch(acme: Ledger) -> None:
    def lines_max(account: Account) -> int | None:
        return 2 if account.policy == "plan" else None

    dave = Line("dave", "acme")
    with pytest.raises(BatchRefused, match="line 1: account 'acme' holds 2 lines"):
        await acme.provision(batch(dave, Subscribing("acme", "large", Options())), NOON_MS, lines_max)
    assert (await acme.sheet("acme")).account.policy == "plan"
    large_first = batch(Subscribing("acme", "large", Options()), dave)
    assert await acme.provision(large_first, NOON_MS, lines_max) == (2, 0)


async def test_a_trial_of_a_batch_tells_all_and_keeps_nothing(acme: Ledger) -> None:
    assert await acme.provision(batch(*ALL_KINDS, Line("alice", "acme")), NOON_MS, keep=False) == (6, 1)
    assert {account.id for account in await acme.accounts()} == {"acme", "other"}
    with pytest.raises(BatchRefused, match="line 1: no account 'nosuch'"):
        await acme.provision(batch(Line("zoe", "nosuch")), NOON_MS, keep=False)
    assert await acme.provision(batch(*ALL_KINDS), NOON_MS) == (6, 0)


async def test_an_empty_batch_is_no_fault(ledger: Ledger) -> None:
    assert await ledger.provision([], NOON_MS) == (0, 0)


# --- published policies --------------------------------------------------------------------------


PLAN_1 = PublishedPolicy("plan", "1", NOON_MS, 'name = "plan"')


async def test_versions_are_kept_by_name_in_the_order_of_publishing(ledger: Ledger) -> None:
    assert await ledger.published() == ()
    plan_0 = PublishedPolicy("plan", "0", LATER_MS, "…")
    abroad = PublishedPolicy("abroad", "1", LATER_MS, "# for ever as it was\r\n")
    for policy in (PLAN_1, plan_0, abroad):
        await ledger.publish(policy)
    assert await ledger.published() == (abroad, PLAN_1, plan_0)


async def test_a_version_is_published_once_and_never_changed(ledger: Ledger) -> None:
    await ledger.publish(PLAN_1)
    await ledger.publish(replace(PLAN_1, published_ms=LATER_MS))
    with pytest.raises(AlreadyExists, match="version '1' of policy 'plan' was published with another text"):
        await ledger.publish(replace(PLAN_1, text='name = "plan" # changed'))
    assert await ledger.published() == (PLAN_1,)


# --- durability ----------------------------------------------------------------------------------


async def test_what_was_provisioned_is_there_after_opening_again(store: Store) -> None:
    ledger = await store.open()
    await ledger.provision(batch(*ALL_KINDS), NOON_MS)
    await ledger.publish(PLAN_1)
    await ledger.set_standing("new", Standing.TERMINATED, NOON_MS, fraud=True)
    before = await ledger.sheet("new")
    assert (before.account.fraud, before.credit) == (True, Credit("EUR", 0))
    await ledger.close()
    again = await store.open()
    assert (await again.sheet("new"), await again.published()) == (before, (PLAN_1,))
    await again.close()


# --- tokens of the API ---------------------------------------------------------------------------


async def test_a_token_is_known_by_its_digest_until_it_is_removed(ledger: Ledger) -> None:
    portal = Token("portal", "a" * 64, Role.OPERATOR, NOON_MS)
    page = Token("page", "b" * 64, Role.VIEWER, LATER_MS)
    for token in (portal, page):
        await ledger.add_token(token)
    assert await ledger.tokens() == (page, portal)
    assert await ledger.token("a" * 64) == portal
    assert await ledger.token("c" * 64) is None
    await ledger.remove_token("portal")
    assert await ledger.token("a" * 64) is None
    assert await ledger.tokens() == (page,)
    with pytest.raises(NotFound, match="no token 'portal'"):
        await ledger.remove_token("portal")


async def test_a_token_takes_nobody_elses_name(ledger: Ledger) -> None:
    await ledger.add_token(Token("portal", "a" * 64, Role.VIEWER, NOON_MS))
    with pytest.raises(AlreadyExists, match="token 'portal' exists"):
        await ledger.add_token(Token("portal", "b" * 64, Role.ADMIN, NOON_MS))
    assert [token.role for token in await ledger.tokens()] == [Role.VIEWER]


@pytest.mark.parametrize("name", ["", " ", "x" * 81, "a\nb"])
def test_a_token_has_a_name(name: str) -> None:
    with pytest.raises(ValueError, match="token name"):
        Token(name, "a" * 64, Role.VIEWER, NOON_MS)


async def test_a_standing_that_is_to_be_harder_never_becomes_milder(ledger: Ledger) -> None:
    await provision(ledger)

    async def account(standing: Standing) -> None:
        await ledger.set_standing("acme", standing, NOON_MS, harder=True)

    async def line(standing: Standing) -> None:
        await ledger.set_line_standing("alice", standing, harder=True)

    for step, shown in ((account, ledger.account("acme")), (line, ledger.line("alice"))):
        await step(Standing.SUSPENDED)
        await step(Standing.SUSPENDED)
        with pytest.raises(NotNow, match="is suspended"):
            await step(Standing.ACTIVE)
        await step(Standing.TERMINATED)
        with pytest.raises(NotNow, match="is terminated"):
            await step(Standing.SUSPENDED)
        assert (await shown).standing is Standing.TERMINATED
