"""The composition root: the only module that knows every part and puts them together.

Here stands what commands are given, on what `loading` reads. What a server is made of stands in `serving`, and what the
doctor looks at in `examining`; both are loaded by the command that needs them, so that no other waits for a web server
and the clients of a switch.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from fairdial.config import Config, with_secrets
from fairdial.console import cli
from fairdial.desk import Desk
from fairdial.doctor import Finding
from fairdial.ledger.backup import back_up, restore
from fairdial.ledger.contract import LedgerUnavailable
from fairdial.ledger.database import Database
from fairdial.loading import StartError, desk_rules, load_numbering, load_policies, open_desk, with_published
from fairdial.policy.numbers import Numbering
from fairdial.replay.detectors import look_on
from fairdial.replay.prepare import ReplayRefused, Site
from fairdial.replay.result import Outcome
from fairdial.replay.run import Result, Wanted, replay
from fairdial.replay.source import Progress

REPLAY_NUMBERS = 65_536
"""Classified numbers that a replay keeps, some 400 bytes each: a day's calls come again and again to the same ones."""

MISTAKE = os.EX_SOFTWARE
"""Exit status after an error that nobody foresaw."""


def replay_site(config: Config) -> Site:
    """The configuration as a replay needs it. Raises TableError, StartError or OSError."""
    # Here, as what holds leases knows the events of a switch.
    from ari_handlers.leases import LeaseRules

    numbering = load_numbering(config.prefixes, REPLAY_NUMBERS)
    numbering.warm((config.desk.region,))
    rules = LeaseRules(config.desk.renew_lead_s, config.calls.warn_at_s)
    return Site(
        config.store.path,
        numbering,
        desk_rules(config),
        rules.lead_s,
        lambda published: with_published(load_policies(config.policies), published),
        partial(_read_server, config) if config.store.url else None,
    )


@contextlib.contextmanager
def _read_server(config: Config) -> Iterator[Database]:
    from fairdial.ledger.postgres import reading

    store = with_secrets(config, only="store").store
    with reading(store.url, store.password.get_secret_value() or None) as database:
        yield database


class Parts:
    """What the command line is given."""

    def open_desk(self, config: Config) -> contextlib.AbstractAsyncContextManager[Desk]:
        return open_desk(config)

    def numbering(self, config: Config) -> Numbering:
        return load_numbering(config.prefixes)

    async def serve(self, config: Config) -> int:
        from fairdial.serving import serve

        return await serve(config)

    async def doctor(self, config: Config) -> list[Finding]:
        from fairdial.examining import look

        return await look(config)

    def back_up(self, config: Config, file: Path) -> Mapping[str, object]:
        _need_file(config)
        return _plain(asdict(back_up(config.store.path, file)))

    def restore(self, config: Config, file: Path) -> Mapping[str, object]:
        _need_file(config)
        return _plain(asdict(restore(config.store.path, file)))

    def init_shards(self, config: Config, shards: Sequence[str]) -> Sequence[Mapping[str, object]]:
        from fairdial.ledger.resharding import init

        return [asdict(each) for each in init(*_server(config), shards)]

    def move_slots(self, config: Config, to: str, slots: Sequence[int]) -> Mapping[str, object]:
        from fairdial.ledger.resharding import move

        return asdict(move(*_server(config), to, slots))

    async def replay(
        self, config: Config, wanted: Wanted, progress: Progress, told: Callable[[Outcome], None] | None
    ) -> Result:
        try:
            return await replay(replay_site(config), wanted, progress, told, look_on)
        except StartError as error:
            raise ReplayRefused(str(error)) from error


def _need_file(config: Config) -> None:
    if config.store.url:
        raise LedgerUnavailable(
            f"the ledger is the PostgreSQL database {config.store.shown}",
            "back it up with `pg_dump` and restore it with `pg_restore`: docs/postgresql.md",
        )


def _server(config: Config) -> tuple[str, str | None]:
    """Address and password of the server. Raises LedgerUnavailable."""
    if not config.store.url:
        raise LedgerUnavailable("the ledger is a file", "set `store.url` to the database before the shards")
    store = with_secrets(config, only="store").store
    return store.url, store.password.get_secret_value() or None


def _plain(fields: Mapping[str, object]) -> Mapping[str, object]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in fields.items()}


def command_line(parts: Parts | None = None) -> None:
    """Entry point of the `fairdial` command."""
    try:
        cli.app(obj=parts or Parts())
    except Exception:
        # Told apart from a refusal, which is 1: whoever looks after `serve` starts it again after this alone.
        traceback.print_exc()
        sys.exit(MISTAKE)


if __name__ == "__main__":
    command_line()
