"""What a replay runs on: accounts and lines, the policies that decide, rate cards, and credit to begin with.

Accounts come as a copy of the configured ledger, which may be in use, or from files as `fairdial import` takes them, or
are made up from the account codes of the records. Each run has a ledger of its own, with empty meters.
"""

from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fairdial.desk import Desk, DeskRules
from fairdial.ledger.contract import LedgerError, PublishedPolicy
from fairdial.ledger.database import Database
from fairdial.ledger.direct import DirectWriter
from fairdial.ledger.working import WorkingLedger
from fairdial.policy.account import Account, Line, Options
from fairdial.policy.book import PolicyBook
from fairdial.policy.cards import RateCard
from fairdial.policy.document import Policy, PolicyError, parse_policy
from fairdial.policy.numbers import Habit, Numbering
from fairdial.policy.terms import DEFAULT_CURRENCY
from fairdial.provision import Known, ProvisionError, read_entries
from fairdial.replay.engine import ReplayClock

OWN_POLICIES: Final = "each account's own policy"


class ReplayRefused(Exception):
    """A replay cannot be made with these options; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Site:
    """What is configured: the ledger's file, how dials are decided, and the policies of the folder together with those
    that were published. lead_s: how long before its end a grant is renewed. server: opens the ledger where it is no
    file; raises LedgerUnavailable.
    """

    store: Path
    numbering: Numbering
    rules: DeskRules
    lead_s: int
    policies: Callable[[Iterable[PublishedPolicy]], PolicyBook]
    server: Callable[[], AbstractContextManager[Database]] | None = None


@dataclass(frozen=True, slots=True)
class Assumed:
    """Accounts are made up: one for each account code that is no line.

    zone, region: theirs; countries: those that were bought with the plan, none: their own region.
    """

    zone: str
    region: str
    countries: frozenset[str]


@dataclass(frozen=True, slots=True)
class Grounds:
    """Who is there. accounts: files in place of the ledger; assumed: None where nobody is made up.

    credit_micros: what each account begins with, None: what it has. cards: in place of the ledger's of the same name.
    """

    accounts: tuple[Path, ...] = ()
    assumed: Assumed | None = None
    credit_micros: int | None = None
    cards: tuple[RateCard, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A desk on a ledger of its own. label: which policy decides, in words; who: the accounts and lines there."""

    label: str
    desk: Desk
    clock: ReplayClock
    ledger: WorkingLedger
    who: DirectWriter


async def prepare(site: Site, grounds: Grounds, policy: str | None, codes: Collection[str] = ()) -> Prepared:
    """Make everything ready for one run. policy: NAME, NAME@VERSION or a file for all accounts, None: each its own.

    codes: account codes of the records, for accounts that are made up. Raises ReplayRefused.
    """
    if grounds.assumed is not None and policy is None:
        raise ReplayRefused("--assume-account needs --policy: nothing else says what those accounts bought")
    writer = DirectWriter()
    try:
        _copy(writer, site, grounds)
        label, book, name = _chosen(site, policy, writer)
        _provide(writer, grounds, frozenset(book.names) if name is None else _Any(), site.rules.region)
        if name is not None:
            writer.put_all_on(name)
        if grounds.assumed is not None and name is not None:
            _assume(writer, grounds.assumed, name, codes)
        if grounds.credit_micros is not None:
            _give_credit(writer, book, grounds.credit_micros)
        clock, ledger = ReplayClock(), WorkingLedger(writer)
        desk = Desk(ledger, book, site.numbering, clock, site.rules)
        desk.cards = {
            card.name: RateCard.parse(card.text, card.name, card.currency, f"card {card.name}")
            for card in await ledger.cards()
        } | {card.name: card for card in grounds.cards}
    except (LedgerError, ProvisionError, PolicyError, OSError, UnicodeDecodeError) as error:
        await writer.close()
        raise ReplayRefused(str(error)) from error
    except BaseException:
        await writer.close()
        raise
    return Prepared(label, desk, clock, ledger, writer)


def _copy(writer: DirectWriter, site: Site, grounds: Grounds) -> None:
    if site.server is not None:
        with site.server() as source:
            writer.copy_rows(source, customers=not grounds.accounts)
        return
    needed = not grounds.accounts and grounds.assumed is None
    if needed or site.store.is_file():
        writer.copy_from(site.store, customers=not grounds.accounts)


def _chosen(site: Site, policy: str | None, writer: DirectWriter) -> tuple[str, PolicyBook, str | None]:
    """What decides, in words; the policies; and the one on which all accounts are put."""
    if policy is not None and policy.endswith(".toml"):
        text = Path(policy).read_text(encoding="utf-8")
        found = parse_policy(text, policy)
        return f"{found.name} {found.version} ({policy})", PolicyBook([_always(found)]), found.name
    book = site.policies(writer.published())
    if policy is None:
        return OWN_POLICIES, book, None
    name, _, version = policy.partition("@")
    versions = book.versions(name)
    if not versions:
        raise ReplayRefused(
            f"policy {name!r} is not loaded; known are {', '.join(book.names)}, and a file's name ends in .toml"
        )
    if version:
        exact = book.version(name, version)
        if exact is None:
            known = ", ".join(each.version for each in versions)
            raise ReplayRefused(f"policy {name!r} has no version {version!r}; known are {known}")
        return f"{name} {version}", PolicyBook([_always(exact)]), name
    # What is asked is what it would do, also with calls of before it came into force.
    first = min(versions, key=lambda each: str(each.effective) if each.effective != "at_once" else "")
    others = [each for each in versions if each is not first]
    label = f"{name}, each version from its day on" if others else f"{name} {first.version}"
    return label, PolicyBook([_always(first), *others]), name


def _always(policy: Policy) -> Policy:
    """The policy, in force at any time."""
    return policy.model_copy(update={"effective": "at_once", "published": None})


class _Any(frozenset[str]):
    """Names of policies, any at all: where all accounts are put on one, it matters not which they name."""

    def __contains__(self, name: object) -> bool:
        return True


def _provide(writer: DirectWriter, grounds: Grounds, policies: Collection[str], region: str) -> None:
    known = Known(policies, region, now_ms=0)
    for file in grounds.accounts:
        text = file.read_text(encoding="utf-8")
        writer.provision(read_entries(text, str(file), known), at_ms=0)


def _assume(writer: DirectWriter, assumed: Assumed, policy: str, codes: Collection[str]) -> None:
    lines = {line.id for line in writer.lines()}
    options = Options(assumed.countries or frozenset({assumed.region}))
    for code in sorted(codes):
        if code in lines:
            continue
        try:
            account = Account(code, policy, assumed.zone, options=options)
            line = Line(code, code, Habit(assumed.region))
        except ValueError:
            continue  # a code that no account can be called by: its calls are shown as unknown
        writer.add(account, line)


def _give_credit(writer: DirectWriter, book: PolicyBook, amount_micros: int) -> None:
    """To each account, in the currency that it has, or that its plan charges in."""

    def currency_of(account: Account) -> str:
        versions = book.versions(account.policy)
        named = next((each.charges.currency for each in versions if each.charges is not None), None)
        return named or account.options.currency or DEFAULT_CURRENCY

    writer.set_credits((account.id, currency_of(account), amount_micros) for account in writer.accounts())
