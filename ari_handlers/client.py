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
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

import aiohttp
import msgspec
import structlog

from ari_handlers import events
from ari_handlers.queues import CallQueues
from fairdial.clock import Clock, Moment

log = structlog.get_logger(__name__)

Handler = Callable[["Channel", events.CallEvent, Moment], Awaitable[None]]
"""Runs on its call's queue. The moment is when the event was read from the socket."""


class AriError(Exception):
    """Base of what the client raises."""


class AriUnavailable(AriError):
    """There is no connection, or it broke before the answer; the request may or may not have been done."""


class AriTimeout(AriUnavailable):
    """No answer within the time limit."""


class AriRefused(AriError):
    """Asterisk answered with an error. `status` is the HTTP status: 404 no such channel, 409 not in Stasis."""

    def __init__(self, status: int, request: str, reason: str) -> None:
        self.status = status
        super().__init__(f"{request}: {status} {reason}")


@dataclass(frozen=True, slots=True)
class AriSettings:
    """url: e.g. "http://127.0.0.1:8088/ari".

    request_timeout_s: for each request. heartbeat_s: a socket that does not answer a ping in half of it
    is dropped. backoff_s: first and longest wait before the next attempt. requests_max: unanswered
    requests. event_bytes_max: a longer frame breaks the connection.
    """

    url: str
    user: str
    password: str
    app: str = "fairdial"
    request_timeout_s: float = 2.0
    heartbeat_s: float = 4.0
    backoff_s: tuple[float, float] = (0.05, 5.0)
    requests_max: int = 20_000
    event_bytes_max: int = 16 * 1024 * 1024


class Client:
    """Connects, keeps connected, sends requests, hands out events. `start` and `stop` once each."""

    def __init__(self, settings: AriSettings, clock: Clock, queues: CallQueues) -> None:
        self.settings = settings
        self.channels = Channels(self)
        self.applications = Applications(self)
        self.asterisk = AsteriskInfo(self)
        self.queues = queues
        self.fenced = asyncio.Event()
        self._clock = clock
        self._handlers: dict[type[events.CallEvent], Handler] = {}
        self._on_connected: Callable[[bool], Awaitable[None]] | None = None
        self._connected = asyncio.Event()
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._pending: dict[str, asyncio.Future[events.RestResponse]] = {}
        self._last_request = 0
        self._startup_time: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._unreadable = 0

    # --- life ------------------------------------------------------------------------------------

    def on_channel_event(self, event_type: str, handler: Handler) -> None:
        """Run `handler(channel, event, moment)` for each event of that type, one at a time per call."""
        known: dict[str, type[events.CallEvent]] = {
            "StasisStart": events.StasisStart,
            "StasisEnd": events.StasisEnd,
            "Dial": events.Dial,
            "ChannelDestroyed": events.ChannelDestroyed,
        }
        if event_type not in known:
            raise ValueError(f"event {event_type!r} is not followed; known are {', '.join(sorted(known))}")
        self._handlers[known[event_type]] = handler

    def on_connected(self, handler: Callable[[bool], Awaitable[None]]) -> None:
        """Run `handler(restarted)` after each connect; `restarted`: Asterisk is not the one of before."""
        self._on_connected = handler

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
        shortest_s, longest_s = self.settings.backoff_s
        wait_s = shortest_s
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.settings.request_timeout_s)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while not self.fenced.is_set():
                try:
                    async with asyncio.timeout(self.settings.request_timeout_s * 2):
                        socket = await self._connect(session)
                except (aiohttp.ClientError, OSError, TimeoutError) as error:
                    log.warning(
                        "ari_connect_failed", url=self.settings.url, error=_told(error), retry_s=wait_s
                    )
                    # Spread, so that many applications do not fall on a restarted switch at once.
                    await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311
                    wait_s = min(longest_s, wait_s * 2)
                    continue
                wait_s = shortest_s
                try:
                    await self._serve(socket)
                finally:
                    self._disconnect()
                    await socket.close()
                await asyncio.sleep(shortest_s)

    async def _connect(self, session: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
        return await session.ws_connect(
            f"{self.settings.url}/events",
            params={"app": self.settings.app, "subscribeAll": "false"},
            # In a header, not in the address: addresses end up in logs.
            headers={"Authorization": aiohttp.encode_basic_auth(self.settings.user, self.settings.password)},
            heartbeat=self.settings.heartbeat_s,
            max_msg_size=self.settings.event_bytes_max,
            compress=0,
        )

    async def _serve(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        greeting = asyncio.create_task(self._greet(), name="ari-greeting")
        try:
            await self._read(socket)
        finally:
            greeting.cancel()
            await asyncio.gather(greeting, return_exceptions=True)

    async def _greet(self) -> None:
        """Filter events, learn whether this is still the same Asterisk, tell the handlers."""
        try:
            await self.applications.set_event_filter(events.EVENT_TYPES)
            startup_time = await self.asterisk.startup_time()
            restarted = self._startup_time not in (None, startup_time)
            self._startup_time = startup_time
            self._connected.set()
            log.info(
                "ari_connected", url=self.settings.url, app=self.settings.app, asterisk_since=startup_time
            )
            if restarted:
                log.error("asterisk_restarted", asterisk_since=startup_time)
            if self._on_connected is not None:
                await self._on_connected(restarted)
        except AriError as error:
            log.error("ari_greeting_failed", error=str(error))
            if self._socket is not None:
                await self._socket.close()

    def _disconnect(self) -> None:
        self._connected.clear()
        self._socket = None
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(AriUnavailable("the connection to Asterisk broke"))
        log.warning("ari_disconnected", unanswered=len(pending))

    # --- reading: waits for nothing but the socket -------------------------------------------------

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            try:
                event = events.decode(message.data)
            except msgspec.DecodeError as error:
                # Its length, not its text: events carry who calls whom.
                self._unreadable += 1
                log.warning("ari_event_unreadable", error=str(error), length=len(message.data))
                continue
            match event:
                case events.RestResponse():
                    future = self._pending.pop(event.request_id, None)
                    if future is not None and not future.done():
                        future.set_result(event)
                case events.ApplicationReplaced():
                    log.critical(
                        "ari_application_replaced",
                        app=self.settings.app,
                        meaning="another client serves this application; this one grants nothing from now on",
                    )
                    self.fenced.set()
                    return
                case _:
                    self._dispatch(event)

    def _dispatch(self, event: events.CallEvent) -> None:
        handler = self._handlers.get(type(event))
        if handler is None:
            return
        moment = self._clock.now()
        ids = events.channel_ids(event)
        channel = Channel(self, ids[0])
        opens = isinstance(event, events.StasisStart)
        self.queues.put(ids, lambda: handler(channel, event, moment), opens=opens)

    # --- requests --------------------------------------------------------------------------------

    async def request(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: object = None
    ) -> str:
        """Send one request, return the body of its answer. Raises AriRefused, AriTimeout, AriUnavailable."""
        return await self.send(method, path, query, body)

    def send(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: object = None
    ) -> Awaitable[str]:
        """Like `request`, but on its way as soon as this returns: several sent in a row are one round trip."""
        request = f"{method} {path}"
        if self._socket is None or self.fenced.is_set():
            return _failing(AriUnavailable(f"{request}: not connected to Asterisk"))
        if len(self._pending) >= self.settings.requests_max:
            return _failing(
                AriUnavailable(f"{request}: {len(self._pending)} requests are unanswered already")
            )
        self._last_request += 1
        request_id = str(self._last_request)
        frame: dict[str, object] = {
            "type": "RESTRequest",
            "request_id": request_id,
            "method": method,
            "uri": path,
            "query_strings": [{"name": name, "value": value} for name, value in (query or {}).items()],
        }
        if body is not None:
            frame |= {"content_type": "application/json", "message_body": msgspec.json.encode(body).decode()}
        future = asyncio.get_running_loop().create_future()
        self._pending[request_id] = future
        sending = asyncio.ensure_future(self._socket.send_str(msgspec.json.encode(frame).decode()))
        return self._answer(request, request_id, future, sending)

    async def _answer(
        self,
        request: str,
        request_id: str,
        future: "asyncio.Future[events.RestResponse]",
        sending: "asyncio.Future[None]",
    ) -> str:
        try:
            async with asyncio.timeout(self.settings.request_timeout_s):
                await sending
                response = await future
        except TimeoutError:
            raise AriTimeout(f"{request}: no answer within {self.settings.request_timeout_s} s") from None
        except (OSError, aiohttp.ClientError) as error:
            raise AriUnavailable(f"{request}: {_told(error)}") from error
        finally:
            sending.cancel()
            self._pending.pop(request_id, None)
        if response.status_code >= 300:
            raise AriRefused(response.status_code, request, response.reason_phrase)
        return response.message_body


async def _failing(error: AriError) -> str:
    raise error


def _told(error: BaseException) -> str:
    return str(error) or type(error).__name__


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel by id; whether it exists, the switch knows."""

    client: Client
    id: str

    async def set_variable(self, variable: str, value: str) -> None:
        """Only while it is in Stasis; elsewhere Asterisk answers 409."""
        await self.send_variable(variable, value)

    def send_variable(self, variable: str, value: str) -> Awaitable[str]:
        """`set_variable` as a request on its way."""
        return self.client.send("POST", f"{self._path}/variable", {"variable": variable, "value": value})

    def send_continue(self) -> Awaitable[str]:
        """`continue_in_dialplan` as a request on its way."""
        return self.client.send("POST", f"{self._path}/continue")

    async def continue_in_dialplan(self) -> None:
        """Leave Stasis; the dialplan goes on at the next priority."""
        await self.send_continue()

    async def hangup(self, reason_code: int = 16) -> None:
        """Hang up with a Q.850 cause. A channel that is gone already is no error, so it may be repeated."""
        try:
            await self.client.request("DELETE", self._path, {"reason_code": str(reason_code)})
        except AriRefused as error:
            if error.status != 404:
                raise

    @property
    def _path(self) -> str:
        return f"channels/{quote(self.id, safe='')}"


@dataclass(frozen=True, slots=True)
class Channels:
    """`/channels`."""

    client: Client

    def get(self, channel_id: str) -> Channel:
        """A handle; sends nothing."""
        return Channel(self.client, channel_id)

    async def list(self) -> tuple[events.ChannelInfo, ...]:
        """All channels of the switch."""
        return events.decode_channels(await self.client.request("GET", "channels"))


@dataclass(frozen=True, slots=True)
class Applications:
    """`/applications/{app}` of our own application."""

    client: Client

    def send_follow(self, channel_id: str) -> Awaitable[str]:
        """Subscribe to a channel, in Stasis or not; its events keep coming after it left."""
        return self.client.send(
            "POST", f"{self._path}/subscription", {"eventSource": f"channel:{channel_id}"}
        )

    async def follow(self, channel_id: str) -> None:
        """Subscribe and wait for the answer."""
        await self.send_follow(channel_id)

    async def set_event_filter(self, types: tuple[str, ...]) -> None:
        """Let only events of these types come."""
        await self.client.request(
            "PUT", f"{self._path}/eventFilter", body={"allowed": [{"type": name} for name in types]}
        )

    @property
    def _path(self) -> str:
        return f"applications/{quote(self.client.settings.app, safe='')}"


@dataclass(frozen=True, slots=True)
class AsteriskInfo:
    """`/asterisk/info`."""

    client: Client

    async def startup_time(self) -> str:
        """When this Asterisk was started; another value means another process."""
        body = await self.client.request("GET", "asterisk/info", {"only": "status"})
        return str(events.decode_object(body)["status"]["startup_time"])

    async def version(self) -> str:
        """Version of Asterisk, such as "22.10.1"."""
        body = await self.client.request("GET", "asterisk/info", {"only": "system"})
        return str(events.decode_object(body)["system"]["version"])
