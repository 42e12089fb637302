"""Taking changed files in while calls go on: policies, rate cards, the table of numbers, templates of notices, and
those settings that can change in flight.

All of it is read first, away from the event loop; then it is put in place at once, with nothing between that could fail
or be interrupted. So a file that cannot be used changes nothing. Calls in progress keep the version of the policy under
which they began: the book that is put in place still knows it. Leaves to `fairdial/serving.py` how each part is read,
and to the operation `reload` that nothing is published or loaded meanwhile.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Final

import structlog

from fairdial.config import Config, Logs, settings_of
from fairdial.desk import Desk
from fairdial.ledger.contract import LedgerError
from fairdial.notice_text import Composer, Templates
from fairdial.policy.book import PolicyBook
from fairdial.policy.cards import RateCard
from fairdial.policy.numbers import Numbering

log = structlog.get_logger(__name__)

IN_FLIGHT: Final = frozenset(
    {
        *("policies", "prefixes", "notices.templates"),
        *("logs.level", "logs.format", "logs.numbers"),
        *("desk.attempts_per_s", "desk.attempts_per_s_source"),
    }
)
"""Settings that a reload puts into force; the others need a restart."""


class ReloadRefused(ValueError):
    """Nothing was changed; the text says what cannot be used, where, and the cure."""


@dataclass(frozen=True, slots=True)
class Material:
    """What FairDial goes by, as files and ledger have it. config: with its secrets."""

    config: Config
    policies: PolicyBook
    cards: Mapping[str, RateCard]
    numbering: Numbering
    templates: Templates


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload changed. policies_…: "NAME VERSION". rates: names of cards. numbers, templates: whether the table
    or any template differs. settings: keys that are in force now; needs_restart: keys that differ and are not.
    """

    policies_added: list[str]
    policies_removed: list[str]
    rates: list[str]
    numbers: bool
    templates: bool
    settings: list[str]
    needs_restart: list[str]


class Reload:
    """Reloads a running FairDial. `failure`: why the last reload changed nothing, "" where it went well."""

    def __init__(
        self,
        config: Config,
        desk: Desk,
        composer: Composer,
        read: Callable[[], Awaitable[Material]],
        set_logs: Callable[[Logs], None],
    ) -> None:
        """config: that which is in force, with its secrets. read: all anew; raises ValueError, OSError or LedgerError.
        set_logs: logs as these settings say from now on.
        """
        self.failure = ""
        self._in_force = settings_of(config)
        self._desk = desk
        self._composer = composer
        self._read = read
        self._set_logs = set_logs

    async def __call__(self) -> Reloaded:
        """Raises ReloadRefused. One at a time."""
        try:
            fresh = await self._read()
            policies = fresh.policies.in_place_of(self._desk.policies)
        except (ValueError, OSError, LedgerError) as error:
            self.failure = str(error)
            log.error("reload_refused", error=self.failure)
            raise ReloadRefused(f"nothing was changed: {error}") from error
        changed = self._compared(fresh)
        self._put_in_place(fresh, policies)
        self.failure = ""
        log.info("reloaded", **asdict(changed))
        for key in changed.needs_restart:
            log.warning("setting_needs_restart", key=key)
        return changed

    def _compared(self, fresh: Material) -> Reloaded:
        desk, before, after = self._desk, self._in_force, settings_of(fresh.config)
        # A section that comes or goes brings or takes its keys.
        differ = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        cards = {name: card.digest for name, card in desk.cards.items()}
        return Reloaded(
            policies_added=sorted(fresh.policies.labels - desk.policies.labels),
            policies_removed=sorted(desk.policies.labels - fresh.policies.labels),
            rates=sorted(name for name, card in fresh.cards.items() if cards.get(name) != card.digest),
            numbers=fresh.numbering.digest != desk.numbering.digest,
            templates=fresh.templates.sources != self._composer.templates.sources,
            settings=sorted(differ & IN_FLIGHT),
            needs_restart=sorted(differ - IN_FLIGHT),
        )

    def _put_in_place(self, fresh: Material, policies: PolicyBook) -> None:
        """Without an await: no dial is decided by half of it."""
        config, desk = fresh.config, self._desk
        desk.policies, desk.cards = policies, fresh.cards
        if fresh.numbering.digest != desk.numbering.digest:
            # Else the old one stays, with the numbers that it has read already.
            desk.numbering = fresh.numbering
        desk.limit_attempts(config.desk.attempts_per_s, config.desk.attempts_per_s_source)
        self._composer.templates = fresh.templates
        self._set_logs(config.logs)
        self._in_force |= {key: value for key, value in settings_of(config).items() if key in IN_FLIGHT}
