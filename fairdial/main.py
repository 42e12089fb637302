"""The composition root: the only module that knows every part and puts them together.

`Service` is a running FairDial: ledger, desk, ARI application, FastAGI server, AMI link, control socket.
Stopping it hands live calls over: the switch keeps their leases and the ledger their grants, and the
next start follows them again.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import traceback
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn, TypeVar

import structlog

from agi_app.ami import AmiError, AmiLink
from agi_app.authorise import authorise_route
from agi_app.fastagi import FastAgiServer
from agi_app.message import message_route
from agi_app.probe import clocks_agree, dialplan_is_loaded, logged_in, probe_ami, records_are_written
from ari_handlers.adoption import Adoption
from ari_handlers.callback import CallbackRefused, Callbacks
from ari_handlers.client import AriSettings, Client
from ari_handlers.collect import CollectRules, Collects
from ari_handlers.conference import Rooms
from ari_handlers.dial import CUT_CAUSE, DialRules, Dials
from ari_handlers.events import ChannelInfo
from ari_handlers.followed import DialCall
from ari_handlers.leases import LeaseNotSet, LeaseRules
from ari_handlers.orphans import Orphans
from ari_handlers.owned import Endpoints, OwnCalls, OwnRules
from ari_handlers.probe import probe_ari
from ari_handlers.queues import CallQueues
from ari_handlers.resources import AriError, AriRefused
from ari_handlers.whisper import Warnings
from fairdial import call_log, logs
from fairdial.cases import Cases
from fairdial.cdr_probe import file_is_readable
from fairdial.clock import SystemClock
from fairdial.config import Config, ConfigError, read_again, with_secrets
from fairdial.console import cli
from fairdial.console.access import Gate
from fairdial.console.api import HttpServer, create_app
from fairdial.console.control import ControlServer, NotRunning, ask
from fairdial.console.events import Pulse, Reporter
from fairdial.console.health import (
    Readiness,
    examine_ami,
    examine_ari,
    examine_policies,
    examine_store,
)
from fairdial.console.metrics import Metrics, alone
from fairdial.console.operations import CallRow, OperationError, Operations
from fairdial.console.proof import decision_is_given, server_runs
from fairdial.console.replays import Replays, Runner
from fairdial.cycles import Cycles
from fairdial.desk import Desk, DeskRules
from fairdial.doctor import Ailment, Finding, Probe, examine
from fairdial.evidence import Evidence
from fairdial.hardening import examine_files, exposed_secrets
from fairdial.ledger.backup import back_up, restore
from fairdial.ledger.contract import Ledger, LedgerError, LedgerUnavailable, LoadedCard, PublishedPolicy
from fairdial.ledger.database import Database
from fairdial.ledger.notice import Channel, NoticeRules
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.logins import EVENTS, LoginRules, Logins
from fairdial.news import News
from fairdial.notice_text import Composer, Templates
from fairdial.notice_ways import EmailWay, SipWay, WebhookWay
from fairdial.notices import Pace, Post, Unreachable, Way
from fairdial.policy import publishing
from fairdial.policy.account import Kind
from fairdial.policy.book import PolicyBook
from fairdial.policy.call import Ended
from fairdial.policy.cards import RateCard
from fairdial.policy.document import PolicyError, parse_policy
from fairdial.policy.numbers import DEFAULT_CACHE_SIZE, Numbering
from fairdial.policy.periods import MS_PER_S, zone_named
from fairdial.policy.prefixes import PrefixTable
from fairdial.policy.rating import parse_micros
from fairdial.policy.sizing import GrantRules
from fairdial.policy.texts import SECRET_BYTES, fingerprint
from fairdial.records import SwitchRecords
from fairdial.reload import Material, Reload
from fairdial.replay.detectors import look_on
from fairdial.replay.prepare import ReplayRefused, Site
from fairdial.replay.result import Outcome
from fairdial.replay.run import Result, Wanted, replay
from fairdial.replay.source import Progress
from fairdial.rounds import Hands, Rounds
from fairdial.shipped import dialplan_text, mark_of
from fairdial.switch_files import Needs
from fairdial.systemd import Systemd
from fairdial.tls import TlsError, ami_context, ari_context
from fairdial.watch import Watch

log = structlog.get_logger(__name__)

STOP_WITHIN_S = 1.5
"""SIGTERM hands over every live call within 2 s; this much of it is for work that is queued."""


REPLAY_NUMBERS = 65_536
"""Classified numbers that a replay keeps, some 400 bytes each: a day's calls come again and again to the same ones."""

NOT_HANDED_ON = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "FAIRDIAL_CONFIG"})
"""What a process of ours is not handed on."""

MISTAKE = os.EX_SOFTWARE
"""Exit status after an error that nobody foresaw."""


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


async def read_material(config: Config, ledger: Ledger) -> Material:
    """All that a reload replaces, read anew beside the loop. Raises ValueError, OSError or LedgerError."""

    def files(published: Iterable[PublishedPolicy], cards: Iterable[LoadedCard]) -> Material:
        changed = read_again(config)
        numbering = load_numbering(changed.prefixes)
        numbering.warm((config.desk.region,))
        return Material(
            changed,
            with_published(load_policies(changed.policies), published),
            rate_cards(cards),
            numbering,
            Templates(changed.notices.templates),
        )

    return await asyncio.to_thread(files, await ledger.published(), await ledger.cards())


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


def replay_site(config: Config) -> Site:
    """The configuration as a replay needs it. Raises TableError, StartError or OSError."""
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


def replaying(config: Config) -> tuple[Path, Runner]:
    """Where replays over HTTP have their files, and how they are run: as the command, on the same settings."""
    store = config.store.path.absolute()
    # The process runs in a folder of its own, and is told so what is relative to ours.
    paths = {"FAIRDIAL_STORE__PATH": store, "FAIRDIAL_POLICIES": config.policies.absolute()}
    if config.prefixes is not None:
        paths["FAIRDIAL_PREFIXES"] = config.prefixes.absolute()
    kept = {name: value for name, value in os.environ.items() if name not in NOT_HANDED_ON}
    # -P: what is sent lies in that folder, and no module is taken from there.
    named = () if config.read_from is None else ("--config", str(config.read_from.absolute()))
    command = (sys.executable, "-P", "-m", "fairdial.main", *named)
    return store.with_name(f"{store.name}.replays"), Runner(
        command, kept | {name: str(path) for name, path in paths.items()}
    )


@contextlib.contextmanager
def _read_server(config: Config) -> Iterator[Database]:
    from fairdial.ledger.postgres import reading

    store = with_secrets(config, only="store").store
    with reading(store.url, store.password.get_secret_value() or None) as database:
        yield database


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


class Service:
    """A running FairDial."""

    def __init__(self, config: Config, desk: Desk, systemd: Systemd | None = None) -> None:
        """systemd: is told of reloads; nobody, if left out."""
        self._config = config
        self._desk = desk
        self._systemd = systemd or Systemd()
        self._clock = SystemClock()
        self._queues = CallQueues()
        settings = AriSettings(
            config.ari.url,
            config.ari.user,
            config.ari.password.get_secret_value(),
            config.ari.app,
            config.ari.request_timeout_s,
            tls=ari_context(config.ari),
        )
        self.client = Client(settings, self._clock, self._queues)
        cdr = config.cdr
        self.records = SwitchRecords(
            cdr.file, zone_named(cdr.zone), zone_named(cdr.events_zone or "UTC"), self._clock
        )
        self.ami = AmiLink(
            config.ami.host,
            config.ami.port,
            config.ami.user,
            config.ami.secret.get_secret_value(),
            action_timeout_s=config.ami.action_timeout_s,
            tls=ami_context(config.ami),
            on_event=self._heard if cdr.events_zone or config.logins.watch else None,
            event_filter=(("Cdr",) if cdr.events_zone else ()) + (EVENTS if config.logins.watch else ()),
        )
        self.dials = Dials(
            self.client,
            desk,
            self._set_lease,
            self._clock,
            DialRules(LeaseRules(config.desk.renew_lead_s, config.calls.warn_at_s)),
        )
        self.own = OwnCalls(
            self.client,
            self.dials,
            self._clock,
            OwnRules(Endpoints(config.calls.public, config.calls.line), config.switch, config.calls.ring_s),
        )
        self.rooms = Rooms(self.own, desk)
        self.callbacks = Callbacks(self.own, desk, config.calls.callback_after_s)
        calls = config.calls
        self.collects = Collects(
            self.own,
            CollectRules(calls.collect_prompt, calls.collect_key_within_s, calls.collect_record_name),
        )
        self.warnings = Warnings(
            self.own, calls.warn_sounds, {str(rule): sounds for rule, sounds in calls.warn_sounds_for.items()}
        )
        self.agi = FastAgiServer(
            {
                "authorise": authorise_route(self.dials.begin, self.dials.answers),
                "message": message_route(desk.message, desk.not_sent, desk.fingerprint, self.dials.answers),
            },
            host=config.agi.host,
            port=config.agi.port,
            allowed_peers=config.agi.allowed_peers,
        )
        self.news = News(desk.now_ms)
        reporter = Reporter(self.news)
        desk.onlookers.append(reporter)
        self.dials.followed.on_change(self._tell_call, self._tell_gone)
        self.cases = Cases(desk.ledger, lambda: desk.policies, self._cut, reporter.case_changed)
        self.watch = Watch(desk.ledger, lambda: desk.policies, self.cases, self._clock)
        desk.listeners.append(self.watch)
        logins = config.logins
        self.logins = Logins(
            desk.ledger,
            lambda: desk.policies,
            self.watch.noted,
            self._ask_switch,
            self._clock,
            LoginRules(logins.failures, logins.window_s, logins.block_s, logins.pbx_agents),
        )
        desk.is_blocked = self.logins.blocks
        composer = Composer(Templates(config.notices.templates), lambda: desk.policies)
        self.post = self._post(composer)
        self.reload = Reload(
            config,
            desk,
            composer,
            lambda: read_material(config, desk.ledger),
            partial(logs.set_up, for_good=True),
        )
        self.post.told = reporter.notice
        self.pulse = Pulse(self.news, self._look)
        self.replays = Replays(
            *replaying(config), lambda: desk.policies, desk.now_ms, config.http.replay_mb_max
        )
        self.operations = Operations(
            desk,
            cases=self.cases,
            judged=self.watch.judged,
            logins=self.logins,
            composer=composer,
            published=self.post.published,
            calls=self._calls,
            hang_up=self._hang_up,
            cut=self._cut,
            status=self._status,
            callback=self._callback,
            rooms=self.rooms,
            ready=Readiness(self._examine),
            renew=self.dials.ask_again,
            reload=self._reload,
            news=self.news,
            replays=self.replays,
        )
        self.cycles = Cycles(desk.ledger, lambda: desk.policies, self._clock)
        self.metrics = self._metrics()
        metrics = self.metrics if config.http.metrics else None
        app = create_app(self.operations, Gate(desk.ledger, self._clock), metrics, page=config.http.page)
        self.http = HttpServer(app, config.http.host, config.http.port)
        self._control = ControlServer(config.control, self.operations)
        self.rounds = self._rounds()
        self.dials.unseen.on_unseen(self.rounds.soon)
        self.client.on_connected(self._on_connected)

    async def start(self) -> None:
        """Start all parts; connecting goes on in the background. Raises OSError where a port is taken."""
        async with contextlib.AsyncExitStack() as undo:
            await self._control.start()
            undo.push_async_callback(self._control.stop)
            if self._config.agi.enabled:
                await self.agi.start()
                undo.push_async_callback(self.agi.stop)
            await self.replays.open()
            undo.push_async_callback(self.replays.close)
            if self._config.http.enabled:
                await self.http.start()
                undo.push_async_callback(self.http.stop)
            await self.rounds.start()
            undo.push_async_callback(self.rounds.stop)
            await self.watch.start()
            undo.push_async_callback(self.watch.stop)
            await self.cycles.start()
            undo.push_async_callback(self.cycles.stop)
            await self.logins.start()
            undo.push_async_callback(self.logins.stop)
            await self.post.start()
            undo.push_async_callback(self.post.stop)
            await self.pulse.start()
            undo.push_async_callback(self.pulse.stop)
            await self.ami.start()
            await self.client.start()
            undo.pop_all()

    async def stop(self) -> None:
        """Grant nothing more, finish what is queued, hand live calls over, close everything."""
        self.dials.stop_granting()
        self.dials.stop_timers()
        self.news.close()
        await self.pulse.stop()
        await self.rounds.stop()
        await self.own.stop()
        await asyncio.gather(self._queues.stop(STOP_WITHIN_S), self.http.stop())
        await self.replays.close()
        await self.agi.stop()
        await self.client.stop()
        await self.ami.stop()
        await self._control.stop()
        await self.logins.stop()
        await self.post.stop()
        await self.cycles.stop()
        await self.watch.stop()
        log.info("stopped", calls_handed_over=len(self.dials.calls))

    async def until_fenced(self) -> None:
        """Return when another client has taken the application over."""
        await self.client.fenced.wait()

    async def _reload(self) -> dict[str, object]:
        await self._systemd.reloading()
        try:
            return asdict(await self.reload())
        finally:
            await self._systemd.ready(self.state_line())

    def state_line(self) -> str:
        """How it goes, on one line."""
        away = [name for name, link in (("ARI", self.client), ("AMI", self.ami)) if not link.connected]
        told = [f"{len(self.dials.calls)} calls in progress"]
        if away:
            told.append(f"not connected: {', '.join(away)}")
        if self._desk.unwritten:
            told.append(f"{self._desk.unwritten} steps wait for the store")
        if self.reload.failure:
            told.append(f"the last reload changed nothing: {self.reload.failure}")
        return "; ".join(told)

    async def _set_lease(self, channel_name: str, lease_ms: int) -> None:
        try:
            await self.ami.set_lease(channel_name, lease_ms)
        except AmiError as error:
            raise LeaseNotSet(str(error)) from error

    def _heard(self, headers: Mapping[str, str]) -> None:
        if headers.get("Event") == "Cdr":
            self.records.heard(headers)
        else:
            self.logins.heard(headers)

    async def _ask_switch(self, function: str) -> str:
        try:
            return (await self.ami.action("Getvar", {"Variable": function})).get("Value", "")
        except AmiError:
            return ""

    async def _hang_up(self, call_id: str) -> bool:
        call = self.dials.calls.get(call_id)
        if call is not None:
            call_log.speak_of(call_id, call.queue.sip_call_id)
        try:
            return await self.dials.hangup(call_id)
        except AriError as error:
            raise OperationError(
                f"the switch did not answer ({error}); try again, or hang up there"
            ) from error

    async def _cut(
        self, *, account: str | None = None, line: str | None = None, kinds: Collection[Kind] | None = None
    ) -> int:
        try:
            return await self.dials.cut(account, line, kinds)
        except AriError as error:
            raise OperationError(
                f"it is set, but the switch did not answer ({error}): calls in progress are ended as"
                " soon as it does"
            ) from error

    def _calls(self) -> list[CallRow]:
        return [self._row(call) for call in self.dials.calls.values()]

    def _row(self, call: DialCall) -> CallRow:
        now = self._clock.now()
        return CallRow.of(
            call.call_id, call.line_id, call.kind, call.dialled, call.state, call.since, now, call.account_id
        )

    def _tell_call(self, call: DialCall) -> None:
        if not isinstance(call.state, Ended):  # `call_gone` says so
            self.news.tell("call", call.account_id, **asdict(self._row(call)))

    def _tell_gone(self, call: DialCall) -> None:
        self.news.tell("call_gone", call.account_id, call=call.call_id, line=call.line_id)

    def _live_by_kind(self) -> dict[tuple[str, ...], int]:
        live = Counter(call.kind for call in self.dials.calls.values())
        return {(kind,): live[kind] for kind in Kind}

    async def _callback(self, line: str, number: str, first: str | None) -> dict[str, object]:
        placed = await self.callbacks.place(line, number, first=first)
        if isinstance(placed, CallbackRefused):
            told = {"reason": placed.reason, "cause": placed.cause, "text": placed.text}
            return {"call": None, "decision": "refuse", **told}
        return {"call": placed.call_id, "decision": "allow"}

    def _status(self) -> dict[str, object]:
        return {
            "ari": self.client.connected,
            "ami": self.ami.connected,
            "fenced": self.client.fenced.is_set(),
            "calls": len(self.dials.calls),
            "queues": len(self._queues),
            "unwritten": self._desk.unwritten,
            "unwatched": self.watch.waiting,
            "reload_failed": self.reload.failure or None,
            "notices_pause": {str(channel): said for channel, said in self.post.paused.items()},
            "tasks": len(asyncio.all_tasks()),
        }

    def _metrics(self) -> Metrics:
        desk, client, ami, traffic = self._desk, self.client, self.ami, self._desk.ledger.traffic
        running: dict[tuple[str, ...], float] = {(version("fairdial"),): 1}
        return Metrics(
            {
                "fairdial_build_info": lambda: running,
                "fairdial_decisions_total": desk.decisions,
                "fairdial_answer_seconds": self.dials.answers,
                "fairdial_calls_live": self._live_by_kind,
                "fairdial_calls_ended_total": desk.ends,
                "fairdial_settle_lag_seconds": desk.settled_after_s,
                "fairdial_renewals_total": self.dials.leases.renewals,
                "fairdial_lease_settings_total": self.dials.leases.settings,
                "fairdial_link_up": lambda: {("ari",): client.connected, ("ami",): ami.connected},
                "fairdial_link_connects_total": lambda: {("ari",): client.connects, ("ami",): ami.connects},
                "fairdial_ari_fenced": alone(client.fenced.is_set),
                "fairdial_ari_request_seconds": client.answers,
                "fairdial_ari_events_lost_total": lambda: {
                    ("unreadable",): client.unreadable,
                    ("no_room",): self._queues.dropped,
                },
                "fairdial_store_commit_seconds": traffic.commits,
                "fairdial_store_steps_total": traffic.steps,
                "fairdial_store_steps_waiting": alone(lambda: traffic.steps_waiting),
                "fairdial_store_reads_total": traffic.reads,
                "fairdial_store_reads_waiting": alone(lambda: traffic.reads_waiting),
                "fairdial_unwritten_steps": alone(lambda: desk.unwritten),
                "fairdial_unwritten_given_up_total": alone(lambda: desk.given_up),
                "fairdial_detector_hits_total": self.cases.hits,
                "fairdial_cases_opened_total": self.cases.opened,
                "fairdial_watch_waiting": alone(lambda: self.watch.waiting),
                "fairdial_notice_channel_paused": lambda: {
                    (channel,): channel in self.post.paused for channel in self.post.channels
                },
            },
            desk.ledger,
        )

    def _post(self, composer: Composer) -> Post:
        settings = self._config.notices
        ways: dict[Channel, Way] = {}
        if settings.webhook is not None:
            ways[Channel.WEBHOOK] = WebhookWay(settings.webhook, self._clock)
        if settings.email is not None:
            ways[Channel.EMAIL] = EmailWay(settings.email)
        if settings.sip is not None:
            ways[Channel.SIP] = SipWay(settings.sip, self._send_message)
        rules = NoticeRules(settings.used_percent, parse_micros(settings.low_credit))
        pace = Pace(attempts_max=settings.attempts_max)
        return Post(self._desk.ledger, composer, ways, self._clock, rules, pace, self._upcoming)

    def _upcoming(self, now_ms: int) -> list[tuple[str, str, str]]:
        today = datetime.fromtimestamp(now_ms / MS_PER_S, UTC).date()
        pairs = publishing.upcoming(self._desk.policies, today)
        return [(after.name, after.version, before.version) for after, before in pairs]

    async def _send_message(self, to: str, sender: str, text: str) -> bool:
        try:
            await self.client.endpoints.send_message(to, sender, text)
        except AriRefused:
            return False
        except AriError as error:
            raise Unreachable(f"the switch did not answer: {error}") from error
        return True

    async def _examine(self) -> list[Finding]:
        store = await examine_store(self._desk, self._config.store.shown)
        return [store, *self._links(), examine_policies(self._desk, self.reload.failure)]

    def _links(self) -> list[Finding]:
        ari, ami = self._config.ari, self._config.ami
        fenced = self.client.fenced.is_set()
        return [
            examine_ari(ari.url, ari.app, connected=self.client.connected, fenced=fenced),
            examine_ami(f"{ami.host}:{ami.port}", connected=self.ami.connected),
        ]

    def _look(self) -> list[Finding]:
        """As `_examine`, but of the store what shows: it is not written to for those who look on."""
        waiting = self._desk.unwritten
        text = f"{waiting} steps of calls wait in memory to be written" if waiting else "nothing waits"
        store = Finding(
            "store", not waiting, text, "`fairdial ready` says what is wrong with it" if waiting else ""
        )
        return [store, *self._links()]

    def _rounds(self) -> Rounds[ChannelInfo]:
        config = self._config
        adoption = Adoption(self.dials, self.client, self._desk, self._clock)
        orphans = Orphans(self.client, self.dials, adoption, self._desk, self._clock)
        hands = Hands(
            connected=lambda: self.client.connected,
            began_ms=lambda: self.client.switch_began_ms,
            ping=self.client.asterisk.ping,
            orphans=orphans.look,
            sweep=self.own.sweep,
            cut=lambda call_id: self.dials.hangup(call_id, CUT_CAUSE),
            failure=AriError,
        )
        return Rounds(
            self._desk,
            adoption,
            hands,
            self._clock,
            switch=config.switch,
            every_s=config.reconcile_every_s,
            evidence=Evidence(self.records, config.cdr.wait_s if config.cdr.wanted else 0.0),
            records=self.records,
        )

    async def _on_connected(self, restarted: bool) -> None:
        del restarted  # the listing shows it: no channel of before is up
        await self.rounds.make(after_gap=True)


async def serve(config: Config) -> int:
    """Run until SIGTERM, SIGINT or being fenced off; the exit status."""
    logs.set_up(config.logs, for_good=True)
    for exposed in exposed_secrets(config.secret_files):
        log.warning("secret_readable_by_all", file=exposed.where, cure=exposed.cure)
    stopping, hung_up = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    # From the first moment on: unhandled, it would end a FairDial that starts.
    loop.add_signal_handler(signal.SIGHUP, hung_up.set)
    systemd = Systemd.of(os.environ, os.getpid())
    try:
        async with open_desk(config) as desk:
            # Before the first call, not in it: libphonenumber reads a region's data when it is first asked.
            desk.numbering.warm((config.desk.region,))
            service = Service(with_secrets(config), desk, systemd)
            await service.start()
            log.info("started", version=version("fairdial"), store=config.store.shown)
            await systemd.ready(service.state_line())
            waits = {asyncio.create_task(stopping.wait()), asyncio.create_task(service.until_fenced())}
            beside = {
                asyncio.create_task(_reload_on(hung_up, service.operations)),
                asyncio.create_task(systemd.live(service.state_line)),
            }
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in (*waits, *beside):
                task.cancel()
            await asyncio.gather(*waits, *beside, return_exceptions=True)
            await systemd.stopping()
            await service.stop()
            return 0 if stopping.is_set() else 1
    except (LedgerError, StartError, ValueError, OSError) as error:
        sys.stderr.write(f"fairdial: {error}\n")
        return 2


async def _reload_on(hung_up: asyncio.Event, operations: Operations) -> NoReturn:
    """Reload after each SIGHUP; those that come during a reload are answered by one more."""
    while True:
        await hung_up.wait()
        hung_up.clear()
        try:
            await operations.call("reload", {})
        except ValueError:
            pass  # refused: it is in the log, in `status` and in `ready`
        except Exception:
            log.exception("reload_failed")


class Parts:
    """What the command line is given."""

    def open_desk(self, config: Config) -> contextlib.AbstractAsyncContextManager[Desk]:
        return open_desk(config)

    def numbering(self, config: Config) -> Numbering:
        return load_numbering(config.prefixes)

    async def serve(self, config: Config) -> int:
        return await serve(config)

    async def doctor(self, config: Config) -> list[Finding]:
        findings = await examine(probes(config))
        findings += exposed_secrets(config.secret_files)
        needs = Needs(
            config.ari.user,
            config.ami.user,
            config.ari.app,
            cdr_file=config.cdr.file is not None,
            logins=config.logins.watch,
        )
        return findings + await asyncio.to_thread(examine_files, config.asterisk_etc, needs)

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


def probes(config: Config) -> dict[str, Probe]:
    """How each part is examined by `fairdial doctor`."""

    async def policies() -> str:
        try:
            return "read: " + ", ".join(load_policies(config.policies).names)
        except (ValueError, OSError, StartError) as error:
            raise Ailment(str(error), "mend the file, or set `policies` to the right folder") from error

    async def numbers() -> str:
        try:
            load_numbering(config.prefixes)
        except (ValueError, OSError) as error:
            raise Ailment(
                str(error), "mend the table, or leave `prefixes` out for the shipped one"
            ) from error
        return "number table read"

    async def store() -> str:
        try:
            status, health = ask(config.control, "status", {}), ask(config.control, "ready", {})
        except NotRunning:
            try:
                async with open_desk(config) as desk:
                    await desk.ledger.probe()
                    return f"{config.store.shown}: {len(await desk.ledger.accounts())} accounts; no server is running"
            except (LedgerError, OSError, ValueError, StartError) as error:
                cure = error.cure if isinstance(error, LedgerUnavailable) else ""
                found = error.found if isinstance(error, LedgerUnavailable) else str(error)
                cure = cure or (
                    "see that `store.url` is right and its server runs"
                    if config.store.url
                    else "see that `store.path` is in a folder that FairDial can write"
                )
                raise Ailment(found, cure) from error
        except OperationError as error:
            raise Ailment(str(error), "look into the server's log") from error
        for each in health["parts"]:
            if each["part"] == "store" and not each["well"]:
                raise Ailment(each["text"], each["cure"])
        return f"{config.store.shown}: in use by the running server, {status['calls']} calls in progress"

    async def ari() -> str:
        usable = _usable(config)
        settings = usable.ari
        return await probe_ari(
            settings.url,
            settings.user,
            settings.password.get_secret_value(),
            settings.app,
            _for_probe(lambda config: ari_context(config.ari), usable),
        )

    shut_out: list[Ailment] = []

    async def ami() -> str:
        try:
            return await asked(logged_in)()
        except Ailment as ailment:
            shut_out.append(ailment)
            raise

    def asked(question: Callable[[AmiLink], Awaitable[str]]) -> Probe:
        async def probe() -> str:
            if shut_out:
                # Nobody waits again for what does not answer.
                raise Ailment(f"cannot be asked: {shut_out[0]}", shut_out[0].cure)
            tls = _for_probe(lambda config: ami_context(config.ami), config)
            return await probe_ami(_usable(config).ami, tls, question)

        return probe

    async def cdr() -> str:
        if not config.cdr.wanted:
            return "not read (cdr.file): calls that end while FairDial is away are settled by their lease"
        if config.cdr.file is not None:
            file_is_readable(config.cdr.file)
        return await asked(records_are_written)()

    async def server() -> str:
        return await asyncio.to_thread(server_runs, config)

    async def here(operation: str, arguments: Mapping[str, object]) -> object:
        async with open_desk(config) as desk:
            return await Operations(desk).call(operation, arguments)

    async def decision() -> str:
        return await decision_is_given(config, here)

    return {
        "policies": policies,
        "numbers": numbers,
        "store": store,
        "ari": ari,
        "ami": ami,
        "clock": asked(partial(clocks_agree, clock=SystemClock())),
        "dialplan": asked(partial(dialplan_is_loaded, mark=mark_of(dialplan_text()))),
        "cdr": cdr,
        "server": server,
        "decision": decision,
    }


def _usable(config: Config) -> Config:
    """With its secrets. Raises Ailment."""
    return _for_probe(with_secrets, config)


Made = TypeVar("Made")


def _for_probe(make: Callable[[Config], Made], config: Config) -> Made:
    """What `make` makes of the configuration; its errors are findings. Raises Ailment."""
    try:
        return make(config)
    except (ConfigError, TlsError) as error:
        finding, _, cure = str(error).partition("; ")
        raise Ailment(finding, cure) from error


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
