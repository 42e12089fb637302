"""ARI client: one socket for events and requests, made again whenever it breaks.

Works like ari-py where it can (`client.channels.get(id)`, `channel.hangup()`,
`client.on_channel_event("StasisStart", handler)`), with what ari-py lacks: asyncio, a time limit on
each request, a reader that waits for nothing, a bounded queue for each call with one consumer, the
event filter, a heartbeat, reconnects with backoff, and notice of two facts that a caller must know:
that Asterisk was restarted, and that another client took the application over.

Requests travel on the event socket (Asterisk 20.14, 21.9, 22.4 and later): half the cost of HTTP, and
answers and events come in one order. Which calls there are and what becomes of them is the handlers'.
"""

import asyncio
import contextlib
import random
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import aiohttp
import msgspec
import structlog

from ari_handlers import events
from ari_handlers.event_time import EventTime, unix_ms
from ari_handlers.queues import CallQueues
from ari_handlers.resources import (
    Applications,
    AriError,
    AriRefused,
    AriTimeout,
    AriUnavailable,
    AsteriskInfo,
    Bridges,
    Channel,
    Channels,
    Endpoints,
    Playbacks,
    Recordings,
)
from fairdial.clock import Clock, Moment
from fairdial.tallies import Spread
from fairdial.tls import explained

log = structlog.get_logger(__name__)

CLOSE_TIMEOUT_S: Final = 1.0
"""For the farewell of a socket that is closed in order; a broken one gets none."""

Socket = aiohttp.ClientWebSocketResponse[Literal[False]]
"""Frames are left as bytes: text that is not UTF-8 then costs one event, not the connection."""

OUTCOMES: Final = ("ok", "refused", "timeout", "unavailable", "given_up")
"""What becomes of a request; refused: by the switch (a channel that is gone), given_up: by who asked."""

Handler = Callable[[Channel, events.CallEvent, Moment], Awaitable[None]]
"""Runs on its call's queue. The moment is when the event happened (event_time.py)."""


@dataclass(frozen=True, slots=True)
class AriSettings:
    """url: e.g. "http://127.0.0.1:8088/ari".

    request_timeout_s: for each request. heartbeat_s: a socket that does not answer a ping in half of it
    is dropped. backoff_s: first and longest wait before the next attempt; from the first again only after
    a link that held for heartbeat_s. requests_max: unanswered requests. event_bytes_max: a longer frame
    breaks the connection. tls: for an https address; None verifies with the machine's certificates.
    """

    url: str
    user: str
    password: str = field(repr=False)
    app: str = "fairdial"
    request_timeout_s: float = 2.0
    heartbeat_s: float = 4.0
    backoff_s: tuple[float, float] = (0.05, 5.0)
    requests_max: int = 20_000
    event_bytes_max: int = 16 * 1024 * 1024
    tls: ssl.SSLContext | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Request:
    """A request that waits for its answer."""

    name: str
    answer: "asyncio.Future[str]"
    sent: Moment


class Client:
    """Connects, keeps connected, sends requests, hands out events. `start` and `stop` once each.

    `switch_began_ms` is when the Asterisk that is connected was started (UTC milliseconds), None if unknown.
    `unreadable` counts frames that were no event; `queues.dropped` those that their call had no room for; `connects`
    connections that served. `answers`: how long requests on the socket took, by outcome (`OUTCOMES`).
    """

    def __init__(self, settings: AriSettings, clock: Clock, queues: CallQueues) -> None:
        self.settings = settings
        self.channels = Channels(self)
        self.bridges = Bridges(self)
        self.playbacks = Playbacks()
        self.recordings = Recordings(self)
        self.applications = Applications(self)
        self.asterisk = AsteriskInfo(self)
        self.endpoints = Endpoints(self)
        self.queues = queues
        self.fenced = asyncio.Event()
        self.unreadable = 0
        self.connects = 0
        self.answers = Spread(known=((outcome,) for outcome in OUTCOMES))
        self._clock = clock
        self._event_time = EventTime(clock.now())
        self._handlers: dict[type[events.CallEvent], Handler] = {}
        self._on_connected: Callable[[bool], Awaitable[None]] | None = None
        self._on_disconnected: Callable[[], None] | None = None
        self._connected = asyncio.Event()
        self._session: aiohttp.ClientSession | None = None
        self._socket: Socket | None = None
        self._pending: dict[str, _Request] = {}
        self._outbox: deque[tuple[asyncio.Future[str], bytes]] = deque()
        self._outgoing = asyncio.Event()
        self._last_request = 0
        self._startup_time: str | None = None
        self.switch_began_ms: int | None = None
        self._task: asyncio.Task[None] | None = None

    # --- life ------------------------------------------------------------------------------------

    def on_channel_event(self, event_type: str, handler: Handler) -> None:
        """Run `handler(channel, event, moment)` for each event of that type, one at a time per call."""
        known: dict[str, type[events.CallEvent]] = {
            "StasisStart": events.StasisStart,
            "StasisEnd": events.StasisEnd,
            "Dial": events.Dial,
            "ChannelDestroyed": events.ChannelDestroyed,
            "ChannelDtmfReceived": events.ChannelDtmfReceived,
        }
        if event_type not in known:
            raise ValueError(f"event {event_type!r} is not followed; known are {', '.join(sorted(known))}")
        self._handlers[known[event_type]] = handler

    def on_connected(self, handler: Callable[[bool], Awaitable[None]]) -> None:
        """Run `handler(restarted)` after each connect; `restarted`: Asterisk is not the one of before."""
        self._on_connected = handler

    def on_disconnected(self, handler: Callable[[], None]) -> None:
        """Run `handler` when the connection breaks, before anything else is done about it."""
        self._on_disconnected = handler

    async def start(self) -> None:
        """Begin to connect, in the background."""
        self._task = asyncio.create_task(self._stay_connected(), name="ari")

    async def stop(self) -> None:
        """Close the socket and wait for the reader."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    @property
    def connected(self) -> bool:
        """Whether requests can be sent."""
        return self._connected.is_set()

    async def wait_connected(self, timeout_s: float) -> None:
        """Raises AriUnavailable if it takes longer."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._connected.wait()
        except TimeoutError:
            raise AriUnavailable(f"no connection to {self.settings.url} within {timeout_s} s") from None

    async def _stay_connected(self) -> None:
        """The only place that connects, so that there is never a second socket."""
        shortest_s, longest_s = self.settings.backoff_s
        wait_s = shortest_s
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.settings.request_timeout_s)
        connector = aiohttp.TCPConnector(ssl=self.settings.tls or True)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            self._session = session
            while True:
                held = await self._one_connection(session)
                if self.fenced.is_set():
                    return
                wait_s = shortest_s if held else wait_s
                # Spread, so that many applications do not fall on a restarted switch at once.
                await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311
                wait_s = min(longest_s, wait_s * 2)

    async def _one_connection(self, session: aiohttp.ClientSession) -> bool:
        """Connect and serve until the link breaks. False where it never was good for a heartbeat."""
        # Whatever is told on it happens from now on.
        self._event_time = EventTime(self._clock.now())
        try:
            async with asyncio.timeout(self.settings.request_timeout_s * 2):
                connection = await self._connect(session)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            log.warning("ari_connect_failed", url=self.settings.url, error=_told(error))
            return False
        begun_s = asyncio.get_running_loop().time()
        raw = connection.get_extra_info("socket")
        try:
            await self._serve(connection)
        except Exception:
            # Whatever it was, a client that gives up for ever would be worse.
            log.exception("ari_link_failed")
        finally:
            try:
                await connection.close()
            finally:
                # A frozen peer takes no more bytes, and asyncio would keep the socket until it did.
                if raw is not None:
                    with contextlib.suppress(OSError):
                        raw.shutdown(socket.SHUT_RDWR)
        return asyncio.get_running_loop().time() - begun_s >= self.settings.heartbeat_s

    async def _connect(self, session: aiohttp.ClientSession) -> Socket:
        return await session.ws_connect(
            f"{self.settings.url}/events",
            params={"app": self.settings.app, "subscribeAll": "false"},
            headers=self._authorization(),
            timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
            heartbeat=self.settings.heartbeat_s,
            max_msg_size=self.settings.event_bytes_max,
            compress=0,
            decode_text=False,
        )

    async def _serve(self, connection: Socket) -> None:
        self._socket = connection
        async with asyncio.TaskGroup() as tasks:
            others = (
                tasks.create_task(self._write(connection), name="ari-writer"),
                tasks.create_task(self._greet(connection), name="ari-greeting"),
            )
            try:
                await self._read(connection)
            finally:
                # At once: who waits for an answer must not wait for a handler that is slow to end.
                self._disconnect()
                for other in others:
                    other.cancel()

    async def _greet(self, connection: Socket) -> None:
        """Filter events, learn whether this is still the same Asterisk, tell the handlers."""
        try:
            await self.applications.set_event_filter(events.EVENT_TYPES)
            await self.applications.follow_all_channels()
            startup_time = await self.asterisk.startup_time()
        except AriError as error:
            log.error("ari_greeting_failed", error=str(error))
            await connection.close()
            return
        self.switch_began_ms = unix_ms(startup_time)
        if self._startup_time is None:
            self._startup_time = startup_time
        restarted = self._startup_time != startup_time
        self._connected.set()
        self.connects += 1
        log.info("ari_connected", url=self.settings.url, app=self.settings.app, asterisk_since=startup_time)
        if restarted:
            log.error("asterisk_restarted", asterisk_since=startup_time)
        if self._on_connected is not None:
            try:
                await self._on_connected(restarted)
            except Exception:
                log.exception("ari_on_connected_failed", restarted=restarted)
                return
        # Only now: a handler that did not finish is told of the restart again.
        self._startup_time = startup_time

    def _disconnect(self) -> None:
        self._connected.clear()
        self._socket = None
        self._outbox.clear()
        log.warning("ari_disconnected", unanswered=len(self._pending))
        if self._on_disconnected is not None:
            self._on_disconnected()
        for request in self._pending.values():
            _fail(request.answer, AriUnavailable(f"{request.name}: the connection to Asterisk broke"))

    # --- reading: waits for nothing but the socket -------------------------------------------------

    async def _read(self, connection: Socket) -> None:
        async for message in connection:
            if message.type is aiohttp.WSMsgType.ERROR:
                log.warning("ari_link_broken", error=_told(message.data))
                return
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            try:
                event = events.decode(message.data)
            except msgspec.DecodeError as error:
                # Its length, not its text: events carry who calls whom.
                self.unreadable += 1
                log.warning("ari_event_unreadable", error=str(error), length=len(message.data))
                continue
            match event:
                case events.RestResponse():
                    self._take_answer(event)
                case events.ApplicationReplaced():
                    log.critical(
                        "ari_application_replaced",
                        app=self.settings.app,
                        meaning="another client serves this application; this one grants nothing from now on",
                    )
                    self.fenced.set()
                    return
                case events.PlaybackFinished():
                    self.playbacks.finished(event.playback.id)
                case events.ChannelTalkingStarted():
                    self.recordings.speaks(event.channel.id)
                case events.ChannelTalkingFinished():
                    self.recordings.fell_silent(event.channel.id, event.duration)
                case events.RecordingFinished() | events.RecordingFailed():
                    self.recordings.over(event.recording.name)
                case _:
                    self._dispatch(event)

    def _take_answer(self, response: events.RestResponse) -> None:
        # Answers come without delay, so they tell best how far our clock is from the switch's.
        request = self._pending.get(response.request_id)
        asked = None if request is None else request.sent
        self._event_time.happened(response.timestamp, self._clock.now(), asked)
        if request is None or request.answer.done():
            return  # its caller gave up
        if response.status_code >= 300:
            _fail(request.answer, AriRefused(response.status_code, request.name, response.reason_phrase))
        else:
            request.answer.set_result(response.message_body)

    def _dispatch(self, event: events.CallEvent) -> None:
        handler = self._handlers.get(type(event))
        if handler is None:
            return
        moment = self._event_time.happened(event.timestamp, self._clock.now())
        ids = events.channel_ids(event)
        channel = Channel(self, ids[0])
        opens = isinstance(event, events.StasisStart)
        sip_call_id = event.channel.protocol_id if isinstance(event, events.StasisStart) else ""
        taken = self.queues.put(
            ids, lambda: handler(channel, event, moment), opens=opens, sip_call_id=sip_call_id
        )
        if opens and not taken:
            # Nobody will look after it: its dialplan goes on, without an answer, and holds the failure rule.
            channel.send_continue()

    # --- requests --------------------------------------------------------------------------------

    @property
    def app(self) -> str:
        """Name of the application."""
        return self.settings.app

    async def request(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: object = None
    ) -> str:
        """Send one request, return the body of its answer. Raises AriRefused, AriTimeout, AriUnavailable."""
        return await self.send(method, path, query, body)

    async def fetch(self, path: str) -> str:
        """The body of `GET path`, over HTTP, for answers that may be large. Raises as `request` does."""
        session = self._session
        if session is None or self._socket is None:
            raise AriUnavailable(f"GET {path}: not connected to Asterisk")
        try:
            async with (
                asyncio.timeout(self.settings.request_timeout_s),
                session.get(f"{self.settings.url}/{path}", headers=self._authorization()) as response,
            ):
                body = await response.text()
        except TimeoutError:
            raise AriTimeout(f"GET {path}: no answer within {self.settings.request_timeout_s} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise AriUnavailable(f"GET {path}: {_told(error)}") from error
        if response.status >= 300:
            raise AriRefused(response.status, f"GET {path}", response.reason or "")
        return body

    def _authorization(self) -> dict[str, str]:
        # In a header, not in the address: addresses end up in logs.
        return {"Authorization": aiohttp.encode_basic_auth(self.settings.user, self.settings.password)}

    def send(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: object = None
    ) -> Awaitable[str]:
        """Like `request`, but under way as soon as this returns: several sent in a row are one round trip.

        They reach Asterisk in the order of the calls. The time limit runs from now, awaited or not; an
        answer that nobody wants need not be awaited. A request that is given up before it left is not sent.
        """
        name = f"{method} {path}"
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()
        waiting = max(len(self._pending), len(self._outbox))
        began_s = loop.time()
        answer.add_done_callback(lambda done: self.answers.add(loop.time() - began_s, _outcome(done)))
        if self._socket is None or self.fenced.is_set():
            _fail(answer, AriUnavailable(f"{name}: not connected to Asterisk"))
            return answer
        if waiting >= self.settings.requests_max:
            _fail(answer, AriUnavailable(f"{name}: {waiting} requests are unanswered already"))
            return answer
        self._last_request += 1
        request_id = str(self._last_request)
        self._pending[request_id] = _Request(name, answer, self._clock.now())
        limit = loop.call_later(self.settings.request_timeout_s, self._time_out, request_id)

        def forget(_answer: "asyncio.Future[str]") -> None:
            limit.cancel()
            self._pending.pop(request_id, None)

        answer.add_done_callback(forget)
        self._outbox.append((answer, _frame(request_id, method, path, query or {}, body)))
        self._outgoing.set()
        return answer

    def _time_out(self, request_id: str) -> None:
        request = self._pending.get(request_id)
        if request is not None:
            limit_s = self.settings.request_timeout_s
            _fail(request.answer, AriTimeout(f"{request.name}: no answer within {limit_s} s"))

    async def _write(self, connection: Socket) -> None:
        """The only one that writes requests: in order, and no faster than Asterisk takes them."""
        while True:
            while self._outbox:
                answer, frame = self._outbox.popleft()
                if answer.done():
                    continue  # given up
                try:
                    await connection.send_frame(frame, aiohttp.WSMsgType.TEXT)
                except (OSError, aiohttp.ClientError) as error:
                    log.warning("ari_link_broken", error=_told(error))
                    return  # the reader sees the end of the socket too
            self._outgoing.clear()
            await self._outgoing.wait()


def _frame(request_id: str, method: str, path: str, query: Mapping[str, str], body: object) -> bytes:
    frame: dict[str, object] = {
        "type": "RESTRequest",
        "request_id": request_id,
        "method": method,
        "uri": path,
        "query_strings": [{"name": name, "value": value} for name, value in query.items()],
    }
    if body is not None:
        frame |= {"content_type": "application/json", "message_body": msgspec.json.encode(body).decode()}
    return msgspec.json.encode(frame)


def _outcome(answer: "asyncio.Future[str]") -> str:
    if answer.cancelled():
        return "given_up"
    match answer.exception():
        case None:
            return "ok"
        case AriRefused():
            return "refused"
        case AriTimeout():
            return "timeout"
        case _:
            return "unavailable"


def _fail(answer: "asyncio.Future[str]", error: AriError) -> None:
    if not answer.done():
        answer.set_exception(error)
        answer.exception()  # counts as seen: who sent it need not look


def _told(error: BaseException) -> str:
    handshake = explained(error, "ari", "http.conf")
    return "; ".join(handshake) if handshake is not None else str(error) or type(error).__name__
