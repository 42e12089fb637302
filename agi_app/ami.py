"""The AMI link: one guarded connection to Asterisk's manager interface, kept up for as long as it is started.

Responsible for connecting, logging in, noticing that Asterisk went silent, and for the promise that each
action is sent at most once and ends in bounded time. Leaves what to do about a call to its callers.

panoramisk reads and writes the protocol (`AMIProtocol`, `Action`). Its `Manager` is not used: what that adds
(reconnecting after `close`, pings whose answer nobody checks, a login that may fail in silence, sending
unanswered actions again) is what a lease cannot live with. A `TIMEOUT(absolute)` that arrives after a
reconnect would count from the wrong moment.
"""

import asyncio
import contextlib
import re
import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog
from panoramisk.actions import Action
from panoramisk.ami_protocol import AMIProtocol
from panoramisk.message import Message

from fairdial.tls import explained

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT_S: Final = 5.0
LOGIN_TIMEOUT_S: Final = 5.0
"""Asterisk sleeps one second before it says that a login failed (`action_login` in manager.c)."""
HEADER_LINE_BYTES_MAX: Final = 1022
"""Measured on 22.10.1: a longer line is refused, "line too long", and its rest read as another action."""
MESSAGE_BYTES_MAX: Final = 256 * 1024
LEASE_MS_MAX: Final = 7 * 24 * 3600 * 1000

_HEADER_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_EVENT_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_END: Final = b"\r\n\r\n"

OnEvent = Callable[[Mapping[str, str]], None]


class AmiError(Exception):
    """An action was not carried out, or it is not known whether it was."""


class AmiUnavailable(AmiError):
    """No connection, or lost before the answer, or too many actions wait. The link sends nothing again."""


class AmiTimeout(AmiError):
    """No answer in time. The action may still take effect."""


class AmiRefused(AmiError):
    """Asterisk answered with an error; the text is its own."""


class AmiNoSuchChannel(AmiRefused):
    """The channel does not exist (any more)."""


class AmiLoginRefused(AmiError):
    """Asterisk refused user name, secret or address; see its manager.conf."""


class AmiLink:
    """A connection to Asterisk's manager interface that heals itself.

    host, port, username, secret: as in manager.conf.
    action_timeout_s: limit for one action, answer included.
    ping_interval_s, pong_timeout_s: a ping goes out at this interval; without a pong in time the link is
        dropped and made again, so a frozen Asterisk is noticed after the sum of both.
    reconnect_backoff_s: first and longest wait before the next attempt; doubled in between, and starting
        from the first again only after a link that was good for one pong.
    refused_backoff_s: the same after a refused login, which mends itself only when someone edits a file.
    on_event: called for each event named in `event_filter`, in order; must not block. What it raises is
        logged.
    event_filter: event names such as `DialEnd`. Empty: the link logs in with events off.
    actions_max: actions under way at once; one more fails with `AmiUnavailable`.
    tls: speak TLS, with this context (manager.conf: tlsenable, tlsbindaddr).
    """

    def __init__(
        self,
        host: str,
        port: int,
        username: str,
        secret: str,
        *,
        action_timeout_s: float = 1.0,
        ping_interval_s: float = 5.0,
        pong_timeout_s: float = 2.0,
        reconnect_backoff_s: tuple[float, float] = (0.1, 5.0),
        refused_backoff_s: tuple[float, float] = (5.0, 60.0),
        on_event: OnEvent | None = None,
        event_filter: Sequence[str] = (),
        actions_max: int = 256,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if (on_event is None) != (len(event_filter) == 0):
            raise ValueError("on_event and event_filter go together: name the events that on_event wants")
        for name in event_filter:
            if _EVENT_NAME.fullmatch(name) is None:
                raise ValueError(f"event_filter: {name!r} is not the name of an AMI event, such as DialEnd")
        self._login = _checked("Login", {"Username": username, "Secret": secret, "Events": "off"})
        self._host = host
        self._port = port
        self._action_timeout_s = action_timeout_s
        self._ping_interval_s = ping_interval_s
        self._pong_timeout_s = pong_timeout_s
        self._backoff = _Backoff(*reconnect_backoff_s)
        self._refused_backoff = _Backoff(*refused_backoff_s)
        self._on_event = on_event
        self._event_filter = frozenset(event_filter)
        self._actions_max = actions_max
        self._tls = tls
        self._actions = 0
        self.connects = 0
        """Logins that were accepted."""
        self._connection: _Connection | None = None
        self._settled = asyncio.Event()
        self._refusal: str | None = None
        self._last_error = "not started"
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """True while logged in."""
        return self._connection is not None and not self._connection.lost.is_set()

    @property
    def login_refused(self) -> bool:
        """True from a refused login until one is accepted or the address stops answering."""
        return self._refusal is not None

    async def start(self) -> None:
        """Connect, and stay connected, in a task of its own. Returns at once; a second start does nothing."""
        if self._task is None:
            self._task = asyncio.create_task(self._stay_connected(), name="ami-link")

    async def stop(self) -> None:
        """Drop the connection and connect no more. Actions under way fail with `AmiUnavailable`."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def wait_connected(self, timeout_s: float) -> None:
        """Return once logged in. Raises `AmiLoginRefused` as soon as that is known, else `AmiUnavailable`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._settled.wait()
        except TimeoutError:
            raise AmiUnavailable(
                f"no AMI connection to {self._address} within {timeout_s} s: {self._last_error}"
            ) from None
        if self._refusal is not None:
            raise AmiLoginRefused(self._refusal)

    async def action(
        self, name: str, headers: Mapping[str, str] | None = None, /, **more: str
    ) -> Mapping[str, str]:
        """Send one action and return the headers of its answer, named as Asterisk spells them.

        Raises `ValueError` naming a header that cannot be sent, `AmiUnavailable` at once while not connected,
        `AmiTimeout`, `AmiRefused`. A header that the answer repeats has its values joined by newlines.
        """
        message = _checked(name, {**(headers or {}), **more})
        connection = self._connection
        if connection is None or connection.lost.is_set():
            raise AmiUnavailable(f"{name}: no AMI connection to {self._address}: {self._last_error}")
        if self._actions >= self._actions_max:
            raise AmiUnavailable(f"{name}: {self._actions_max} AMI actions are under way already")
        self._actions += 1
        try:
            return await connection.request(message, self._action_timeout_s)
        finally:
            self._actions -= 1

    async def set_lease(self, channel: str, lease_ms: int) -> None:
        """Have the switch end `channel` in `lease_ms` milliseconds from now, with or without us.

        `channel` is a channel name or a uniqueid; Asterisk looks for the name first, by hash, then walks all
        channels for the uniqueid (`ast_channel_get_by_name` in channel.c). Raises `AmiNoSuchChannel` for a
        call that is over, and what `action` raises. After `AmiTimeout` the lease may or may not be set;
        setting it again is safe.
        """
        # Without a channel Setvar means a global; with a value that is no positive number Asterisk 22 answers
        # "Variable Set" and cancels the time limit (func_timeout.c).
        if not channel:
            raise ValueError("set_lease: the channel is empty; pass a channel name or uniqueid")
        if isinstance(lease_ms, bool) or not isinstance(lease_ms, int) or not 1 <= lease_ms <= LEASE_MS_MAX:
            raise ValueError(f"set_lease: {lease_ms!r} ms; pass a whole number from 1 to {LEASE_MS_MAX}")
        await self.action(
            "Setvar", {"Channel": channel, "Variable": "TIMEOUT(absolute)", "Value": f"{lease_ms / 1000:.3f}"}
        )

    @property
    def _address(self) -> str:
        return f"{self._host}:{self._port}"

    async def _stay_connected(self) -> None:
        """The only place that connects, so there is never a second attempt under way."""
        while True:
            try:
                await self._one_connection()
            except AmiLoginRefused as refused:
                self._refusal = self._last_error = str(refused)
                self._settled.set()
                delay_s = self._refused_backoff.next_s()
                log.error("ami_login_refused", address=self._address, error=str(refused), retry_in_s=delay_s)
            except (OSError, TimeoutError, AmiError) as error:
                self._refusal, self._last_error = None, _told(error)
                self._settled.clear()
                delay_s = self._backoff.next_s()
                log.warning(
                    "ami_not_connected", address=self._address, error=self._last_error, retry_in_s=delay_s
                )
            await asyncio.sleep(delay_s)

    async def _one_connection(self) -> None:
        """Connect, log in, watch until the link is bad. Ends by raising why, with the socket closed."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await loop.create_connection(
                lambda: _Connection(self._deliver), self._host, self._port, ssl=self._tls
            )
        try:
            await self._log_in(connection)
            self._connection, self._refusal = connection, None
            self._settled.set()
            self.connects += 1
            log.info("ami_connected", address=self._address)
            await self._watch(connection)
        finally:
            self._connection = None
            self._settled.clear()
            await connection.drop()

    async def _log_in(self, connection: "_Connection") -> None:
        try:
            await connection.request(self._login, LOGIN_TIMEOUT_S)
        except AmiRefused as refused:
            raise AmiLoginRefused(
                f"user {self._login['Username']!r}: {refused}; mend secret, permit or deny in manager.conf"
            ) from None
        if not self._event_filter:
            return
        names = "|".join(sorted(self._event_filter))
        try:
            # No `$` at the end: the expression is matched against the whole event, not its first line.
            chosen = {"Action": "Filter", "Operation": "Add", "Filter": f"Event: ({names})"}
            await connection.request(chosen, self._action_timeout_s)
        except AmiRefused as refused:
            # `Filter` wants the class system, which a user should not have. Then every event of the user's
            # classes comes here to be thrown away, unless manager.conf filters.
            log.warning(
                "ami_filter_refused",
                error=str(refused),
                cure=f"in manager.conf give the user: eventfilter=Event: ({names})",
            )
        await connection.request({"Action": "Events", "EventMask": "on"}, self._action_timeout_s)

    async def _watch(self, connection: "_Connection") -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._ping_interval_s):
                    await connection.lost.wait()
                    raise AmiUnavailable("Asterisk closed the connection")
            await connection.request({"Action": "Ping"}, self._pong_timeout_s)
            self._backoff.reset()
            self._refused_backoff.reset()

    def _deliver(self, event: Mapping[str, str]) -> None:
        # The server's filter matches a prefix (Hangup, HangupRequest) or may have been refused.
        if self._on_event is None or event.get("Event") not in self._event_filter:
            return
        try:
            self._on_event(event)
        except Exception as error:
            log.error("ami_event_failed", ami_event=event.get("Event"), error=repr(error), exc_info=error)


class _Connection(asyncio.Protocol):
    """One TCP connection, between the transport and panoramisk's protocol.

    It hands on whole messages only. panoramisk decodes each chunk by itself, which loses a character that
    is cut in two, and keeps the rest without a bound.
    """

    def __init__(self, deliver: Callable[[Mapping[str, str]], None]) -> None:
        self.lost = asyncio.Event()
        """Set once the connection is of no more use; nothing is sent from then on."""
        self._closed = asyncio.Event()
        self._received = bytearray()
        self._pending: set[asyncio.Future[Message]] = set()
        self._protocol = AMIProtocol()
        self._factory = _Factory(deliver, self._lose)
        self._transport: asyncio.Transport | None = None

    async def request(self, headers: Mapping[str, str], timeout_s: float) -> Mapping[str, str]:
        """Send checked headers once and return the answer's."""
        name = headers["Action"]
        if self.lost.is_set():
            raise AmiUnavailable(f"{name}: the AMI connection was lost")
        action = Action(headers)
        future: asyncio.Future[Message] = self._protocol.send(action, as_list=False)
        self._pending.add(future)
        try:
            async with asyncio.timeout(timeout_s):
                message = await future
        except TimeoutError:
            raise AmiTimeout(f"{name}: no answer within {timeout_s} s") from None
        finally:
            self._pending.discard(future)
            # panoramisk would keep an action that nobody answers for ever.
            self._protocol.responses.pop(action.id, None)
        if message.success:
            return _plain(message)
        text = str(message.message)
        refusal = AmiNoSuchChannel if text == "No such channel" else AmiRefused
        raise refusal(f"{name}: {text}")

    async def drop(self) -> None:
        """Close at once, without waiting for a peer that may be frozen; returns when the socket is closed."""
        self._lose()
        await self._closed.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._protocol.connection_made(transport)
        self._protocol.factory = self._factory
        self._protocol.encoding = "utf-8"

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.rfind(_END)
        if end >= 0:
            whole = bytes(self._received[: end + len(_END)])
            del self._received[: end + len(_END)]
            try:
                self._protocol.data_received(whole)
            except Exception as error:
                log.error("ami_message_unreadable", error=repr(error))
                self._lose()
        if len(self._received) > MESSAGE_BYTES_MAX:
            log.error("ami_message_too_long", message_bytes_max=MESSAGE_BYTES_MAX)
            self._lose()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose()
        self._closed.set()

    def _lose(self) -> None:
        self.lost.set()
        for future in self._pending:
            if not future.done():
                future.set_exception(AmiUnavailable("the AMI connection was lost before the answer"))
        if self._transport is not None:
            self._transport.abort()


class _Factory:
    """What panoramisk's protocol asks of its `factory`, elsewhere a `Manager`."""

    forgetable_actions: tuple[str, ...] = ()

    def __init__(self, deliver: Callable[[Mapping[str, str]], None], lose: Callable[[], None]) -> None:
        # Here panoramisk puts what it would send again after a reconnect; with no room it is forgotten.
        self.awaiting_actions: deque[Action] = deque(maxlen=0)
        self._deliver = deliver
        self._lose = lose

    def dispatch(self, event: Message) -> None:
        self._deliver(_plain(event))

    def connection_lost(self, _event: Message) -> None:
        """Asterisk announced its end with the event `Shutdown`."""
        self._lose()


class _Backoff:
    def __init__(self, first_s: float, longest_s: float) -> None:
        if not 0 < first_s <= longest_s:
            raise ValueError(f"backoff ({first_s}, {longest_s}): first and longest wait, both above 0 s")
        self._first_s = self._next_s = first_s
        self._longest_s = longest_s

    def next_s(self) -> float:
        delay_s = self._next_s
        self._next_s = min(delay_s * 2, self._longest_s)
        return delay_s

    def reset(self) -> None:
        self._next_s = self._first_s


def _checked(action: str, headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of an action, safe to send; `ValueError` names the one that is not, without its value."""
    message: dict[str, str] = {}
    seen = {"actionid"}
    for name, value in (("Action", action), *headers.items()):
        if _HEADER_NAME.fullmatch(name) is None:
            raise ValueError(f"AMI {action[:40]!r}: {name[:40]!r} cannot be the name of a header")
        if name.lower() in seen:
            raise ValueError(f"AMI {action[:40]!r}: header {name} is the link's own or is there twice")
        if _CONTROL.search(value):
            raise ValueError(f"AMI {action[:40]!r}: control character in header {name}; remove it")
        try:
            line = f"{name}: {value}".encode()
        except UnicodeEncodeError:
            raise ValueError(f"AMI {action[:40]!r}: header {name} is not valid Unicode text") from None
        if len(line) > HEADER_LINE_BYTES_MAX:
            raise ValueError(
                f"AMI {action[:40]!r}: header {name} has {len(line)} bytes, more than {HEADER_LINE_BYTES_MAX}"
            )
        seen.add(name.lower())
        message[name] = value
    return message


def _told(error: BaseException) -> str:
    handshake = explained(error, "ami", "manager.conf")
    return "; ".join(handshake) if handshake is not None else str(error) or type(error).__name__


def _plain(message: Message) -> Mapping[str, str]:
    """panoramisk's message as a plain mapping: header as spelled by Asterisk -> value."""
    return {
        name: "\n".join(value) if isinstance(value, list) else value
        for name, value in message.items()
        if value or name != "content"
    }
