"""What FairDial works with, read as the configuration says: policies, rate cards, numbers, the ledger, a desk on it.

Part of the composition (main.py), and apart from it because every command needs it and only `serve` needs a server.
"""

import contextlib
import secrets
from collections.abc import AsyncIterator, Iterable
from functools import partial
from importlib import resources
from pathlib import Path

import structlog

from fairdial.clock import SystemClock
from fairdial.config import Config, with_secrets
from fairdial.desk import Desk, DeskRules
from fairdial.ledger.contract import Ledger, LedgerError, LoadedCard, PublishedPolicy
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.book import PolicyBook
from fairdial.policy.cards import RateCard
from fairdial.policy.document import PolicyError, parse_policy
from fairdial.policy.numbers import DEFAULT_CACHE_SIZE, Numbering
from fairdial.policy.prefixes import PrefixTable
from fairdial.policy.sizing import GrantRules
from fairdial.policy.texts import SECRET_BYTES, fingerprint

log = structlog.get_logger(__name__)


class StartError(ValueError):
    """FairDial cannot start with this configuration; the text says what is wrong and how to mend it."""


def _text_of(file: Path) -> str:
    """Raises StartError or OSError."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StartError(f"{file}: byte {error.start} is no UTF-8 text; convert the file") from error


def load_policies(folder: Path) -> PolicyBook:
    """All policies of a folder, in all their versions. Raises PolicyError or StartError."""
    files = sorted(folder.glob("*.toml")) if folder.is_dir() else []
    if not files:
        raise StartError(f"{folder}: no policy files (*.toml); put at least one there or set `policies`")
    try:
        return PolicyBook(parse_policy(_text_of(file), str(file)) for file in files)
    except (PolicyError, StartError):
        raise
    except ValueError as error:
        raise StartError(f"{folder}: {error}") from error


def with_published(book: PolicyBook, published: Iterable[PublishedPolicy]) -> PolicyBook:
    """The folder's policies and those that were published. Raises StartError where they contradict."""
    for each in published:
        try:
            book = book.with_published(parse_policy(each.text, f"published {each.name}"))
        except ValueError as error:
            raise StartError(
                f"policy {each.name} {each.version} was published, and the folder says otherwise: {error}"
            ) from error
    return book


def rate_cards(loaded: Iterable[LoadedCard]) -> dict[str, RateCard]:
    """The cards of the ledger. Raises RateCardError."""
    return {
        card.name: RateCard.parse(card.text, card.name, card.currency, f"card {card.name}") for card in loaded
    }


def load_numbering(prefixes: Path | None, cache_size: int = DEFAULT_CACHE_SIZE) -> Numbering:
    """Numbers with the operator's table, or the shipped one. Raises TableError, StartError or OSError."""
    if prefixes is not None:
        return Numbering(PrefixTable.parse(_text_of(prefixes), str(prefixes)), cache_size)
    shipped = resources.files("fairdial.policy").joinpath("data/prefixes.csv")
    return Numbering(PrefixTable.parse(shipped.read_text(encoding="utf-8")), cache_size)


def desk_rules(config: Config) -> DeskRules:
    """The desk's part of the configuration."""
    return DeskRules(
        config.desk.answer_within_s,
        config.desk.region,
        GrantRules(config.desk.useful_s, config.desk.slice_s),
        config.desk.attempts_per_s,
        config.desk.attempts_per_s_source,
    )


async def open_ledger(config: Config) -> Ledger:
    """The configured ledger. Raises LedgerUnavailable or ConfigError."""
    if not config.store.url:
        return await SqliteLedger.open(config.store.path)
    # Here, so that who has a file does not load another database's client at each command.
    from fairdial.ledger.postgres import PostgresLedger

    store = with_secrets(config, only="store").store
    password = store.password.get_secret_value() or None
    return await PostgresLedger.open(store.url, password, connections=store.connections)


@contextlib.asynccontextmanager
async def open_desk(config: Config) -> AsyncIterator[Desk]:
    """A desk on the configured ledger, for as long as the block runs. Raises LedgerUnavailable."""
    policies, numbering = load_policies(config.policies), load_numbering(config.prefixes)
    ledger = await open_ledger(config)
    desk = Desk(ledger, policies, numbering, SystemClock(), desk_rules(config))
    try:
        desk.policies = with_published(policies, await ledger.published())
        desk.cards = rate_cards(await ledger.cards())
        try:
            secret = await ledger.secret("texts", secrets.token_bytes(SECRET_BYTES))
            desk.fingerprint = partial(fingerprint, secret)
        except LedgerError as error:
            # Messages are decided all the same.
            log.error("texts_not_told_apart", error=str(error))
        yield desk
    finally:
        await desk.close()
        await ledger.close()
