"""The composition of a running FairDial. Apart from main.py, which loads it for `serve` alone: what it puts together
takes longer to load than most commands take to run.

`Service` is a running FairDial: ledger, desk, ARI application, FastAGI server, AMI link, control socket.
Stopping it hands live calls over: the switch keeps their leases and the ledger their grants, and the
next start follows them again.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import structlog

from agi_app.ami import AmiError, AmiLink
from agi_app.authorise import authorise_route
from agi_app.fastagi import FastAgiServer
from agi_app.message import message_route
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
from ari_handlers.queues import CallQueues
from ari_handlers.resources import AriError, AriRefused
from ari_handlers.whisper import Warnings
from fairdial import call_log, garbage, logs
from fairdial.cases import Cases
from fairdial.clock import SystemClock
from fairdial.config import Config, by_systemd, read_again, with_secrets
from fairdial.console.access import Gate
from fairdial.console.api import HttpServer, create_app
from fairdial.console.control import ControlServer
from fairdial.console.events import Pulse, Reporter
from fairdial.console.health import (
    Readiness,
    examine_ami,
    examine_ari,
    examine_node,
    examine_policies,
    examine_store,
)
from fairdial.console.metrics import Metrics, alone
from fairdial.console.operations import CallRow, OperationError, Operations
from fairdial.console.replays import Replays, Runner
from fairdial.cycles import Cycles
from fairdial.desk import Desk
from fairdial.doctor import Finding
from fairdial.evidence import Evidence
from fairdial.hardening import exposed_secrets
from fairdial.ledger.contract import Ledger, LedgerError, LoadedCard, PublishedPolicy
from fairdial.ledger.notice import Channel, NoticeRules
from fairdial.loading import (
    StartError,
    load_numbering,
    load_policies,
    open_desk,
    rate_cards,
    with_published,
)
from fairdial.logins import EVENTS, LoginRules, Logins
from fairdial.news import News
from fairdial.nodes import NodeHands, NodeRules, Nodes, OutOfReach
from fairdial.notice_text import Composer, Templates
from fairdial.notice_ways import EmailWay, SipWay, WebhookWay
from fairdial.notices import Pace, Post, Unreachable, Way
from fairdial.policy import publishing
from fairdial.policy.account import Kind
from fairdial.policy.call import Ended
from fairdial.policy.periods import MS_PER_S, zone_named
from fairdial.policy.rating import parse_micros
from fairdial.records import SwitchRecords
from fairdial.reload import Material, Reload
from fairdial.rounds import Hands, Rounds
from fairdial.systemd import Systemd
from fairdial.tls import ami_context, ari_context
from fairdial.watch import Watch
from fairdial.whose import is_of

log = structlog.get_logger(__name__)

STOP_WITHIN_S = 1.5
"""SIGTERM hands over every live call within 2 s; this much of it is for work that is queued."""

NOT_HANDED_ON = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "FAIRDIAL_CONFIG"})
"""What a process of ours is not handed on."""


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


def replaying(config: Config) -> tuple[Path, Runner]:
    """Where replays over HTTP have their files, and how they are run: as the command, on the same settings."""
    store = config.store.path.absolute()
    # The process runs in a folder of its own, and is told so what is relative to ours.
    paths = {"FAIRDIAL_STORE__PATH": store, "FAIRDIAL_POLICIES": config.policies.absolute()}
    if config.store.password_file is not None and not by_systemd(config.store.password_file):
        paths["FAIRDIAL_STORE__PASSWORD_FILE"] = config.store.password_file.absolute()
    if config.prefixes is not None:
        paths["FAIRDIAL_PREFIXES"] = config.prefixes.absolute()
    kept = {name: value for name, value in os.environ.items() if name not in NOT_HANDED_ON}
    # -P: what is sent lies in that folder, and no module is taken from there.
    named = () if config.read_from is None else ("--config", str(config.read_from.absolute()))
    command = (sys.executable, "-P", "-m", "fairdial.main", *named)
    return store.with_name(f"{store.name}.replays"), Runner(
        command, kept | {name: str(path) for name, path in paths.items()}
    )


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
        self.watch = Watch(
            desk.ledger, lambda: desk.policies, self.cases, self._clock, shared=bool(config.store.url)
        )
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
        self.nodes = self._nodes() if config.store.url else None
        self.dials.unseen.on_unseen(self.rounds.soon)
        self.client.on_connected(self._on_connected)

    async def start(self) -> None:
        """Start all parts; connecting goes on in the background. Raises OSError where a port is taken."""
        async with contextlib.AsyncExitStack() as undo:
            # Before anything is asked of it: from here on its steps are by its epoch.
            if self.nodes is not None:
                await self.nodes.start()
                undo.push_async_callback(self.nodes.stop)
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
        if self.nodes is not None:
            await self.nodes.stop()
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
        """Return when another FairDial has taken the application or the switch over."""
        fenced = [self.client.fenced] if self.nodes is None else [self.client.fenced, self.nodes.replaced]
        waits = [asyncio.create_task(event.wait()) for event in fenced]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

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
            if await self.dials.hangup(call_id):
                return True
            return self.nodes is not None and await self.nodes.hang_up(call_id)
        except OutOfReach as error:
            raise OperationError(str(error)) from error
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
                "fairdial_node_holds": alone(lambda: self.nodes is None or self.nodes.lease_left_s > 0),
                "fairdial_nodes_looked_after": alone(lambda: len(self.nodes.taken) if self.nodes else 0),
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
            is_ours=partial(is_of, self._config.switch) if self._config.store.url else None,
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
        return [store, *self._node(), *self._links(), examine_policies(self._desk, self.reload.failure)]

    def _node(self) -> list[Finding]:
        nodes = self.nodes
        if nodes is None:
            return []
        return [
            examine_node(
                self._config.switch,
                left_s=nodes.lease_left_s,
                taken=nodes.taken,
                skew_ms=nodes.skew_ms,
                replaced=nodes.replaced.is_set(),
            )
        ]

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

    def _nodes(self) -> Nodes:
        config, rules = self._config, self._config.nodes
        hands = NodeHands(
            live=lambda: tuple(self.dials.calls),
            places=self.dials.places,
            cut=lambda call_id: self.dials.hangup(call_id, CUT_CAUSE),
            hang_up=self.dials.hangup,
            compare=partial(self.rounds.make, after_gap=True),
            end_barred=self.rounds.end_barred,
            failure=AriError,
        )
        place = f"{socket.gethostname()}:{os.getpid()}"
        made = NodeRules(config.switch, secrets.token_hex(8), place, rules.lease_s, rules.settle_after_s)
        return Nodes(self._desk, hands, self._clock, made, self._records_of)

    def _records_of(self, switch: str) -> SwitchRecords | None:
        file, utc = self._config.nodes.cdr.get(switch), zone_named("UTC")
        return None if file is None else SwitchRecords(file, utc, utc, self._clock)

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
            garbage.settle()
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
