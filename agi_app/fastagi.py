"""FastAGI server: reads the request that `AGI(agi://…)` sends, runs its route, always answers, closes.

Responsible for everything that a hostile or broken peer can do to the process: who may connect, how many
at once, how large and how slow a request may be, what goes into a command line. Leaves the meaning of a
request to its route.

FastAGI has no authentication, so the peer address is the only gate, and a value that a caller can choose
(caller ID, dialled number) is data in an `agi_*` line: a line that repeats or does not parse fails the whole
request, because it may be a forged `agi_accountcode` inside another value.
"""

import asyncio
import contextlib
import ipaddress
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote

import structlog

from fairdial.answer import failed
from fairdial.policy.outcomes import Reason

log = structlog.get_logger(__name__)

HEADER_LINES_MAX: Final = 256
"""Asterisk sends about 25 lines and at most 127 arguments (`MAX_ARGS` in res_agi.c)."""
QUERY_FIELDS_MAX: Final = 32
COMMAND_BYTES_MAX: Final = 2000
"""Asterisk reads a command into 2,048 bytes (`AGI_BUF_LEN` in res_agi.c); the rest is another command."""
USAGE_LINES_MAX: Final = 64
CLOSE_TIMEOUT_S: Final = 1.0

_HEADER_LINE: Final = re.compile(r"agi_([A-Za-z0-9_]+):(?: (.*))?")
_VARIABLE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\([A-Za-z0-9_.,/-]*\))?")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_LINE_BREAKS: Final = r"\\\\n\\\\r"
_RESULT: Final = re.compile(r"result=(-?\d*)(?: \((.*)\))?(?: .*)?")


class AgiError(Exception):
    """The session cannot go on as asked."""


class AgiClosed(AgiError):
    """The peer closed the connection: the call is gone, or Asterisk is."""


class AgiTimeout(AgiError):
    """A command was not answered in time. It may still take effect."""


class AgiRefused(AgiError):
    """Asterisk answered a command with something else than success; `code` is 200, 510, 511 or 520."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"AGI {code}: {text}")
        self.code = code


class AgiMalformed(AgiError):
    """The peer sent what no Asterisk sends."""


@dataclass(frozen=True, slots=True)
class AgiRequest:
    """What `AGI(agi://host/route?key=value,argument,…)` sent. Every string in it is untrusted.

    `route` has no leading slash. `query` keeps the first value of each key, percent-decoded; a plus sign
    stays a plus sign, as in `number=+441632960001`. `variables` are the `agi_*` lines without that prefix.
    Bytes that are not UTF-8 arrive as U+FFFD.
    """

    route: str
    query: Mapping[str, str]
    variables: Mapping[str, str]
    arguments: tuple[str, ...]

    @property
    def channel(self) -> str:
        return self._known("channel")

    @property
    def uniqueid(self) -> str:
        return self._known("uniqueid")

    @property
    def accountcode(self) -> str:
        return self._known("accountcode")

    @property
    def context(self) -> str:
        return self._known("context")

    @property
    def extension(self) -> str:
        return self._known("extension")

    @property
    def callerid(self) -> str:
        return self._known("callerid")

    def _known(self, name: str) -> str:
        value = self.variables.get(name, "")
        return "" if value == "unknown" else value


def parse_request(header: bytes) -> AgiRequest:
    """Parse the lines before the blank one.

    Raises `AgiMalformed` for a line that does not parse, that repeats, or that is one too many.
    """
    lines = header.decode("utf-8", "replace").rstrip("\n").split("\n")
    if len(lines) > HEADER_LINES_MAX:
        raise AgiMalformed(f"more than {HEADER_LINES_MAX} header lines")
    variables: dict[str, str] = {}
    for line in lines:
        match = _HEADER_LINE.fullmatch(line)
        if match is None:
            raise AgiMalformed(f"not an agi_ line: {line[:80]!r}")
        if match[1] in variables:
            raise AgiMalformed(f"agi_{match[1]} sent twice")
        variables[match[1]] = match[2] or ""
    # agi_network_script is the URL after the host; agi_request the whole URL as the dialplan wrote it.
    script = variables.get("network_script") or _script_of(variables.get("request", ""))
    path, _, query = script.partition("?")
    arguments: list[str] = []
    while (argument := variables.get(f"arg_{len(arguments) + 1}")) is not None:
        arguments.append(argument)
    return AgiRequest(
        route=unquote(path, errors="replace").strip("/"),
        query=MappingProxyType(_parse_query(query)),
        variables=MappingProxyType(variables),
        arguments=tuple(arguments),
    )


def _script_of(url: str) -> str:
    # Not urllib's urlsplit: a `#` in a dialled number is no fragment.
    scheme, _, rest = url.partition("://")
    return rest.partition("/")[2] if scheme in ("agi", "hagi") else ""


def _parse_query(query: str) -> dict[str, str]:
    # urllib's parse_qs would turn the plus of an E.164 number into a space.
    pairs = query.split("&", QUERY_FIELDS_MAX) if query else []
    if len(pairs) > QUERY_FIELDS_MAX:
        raise AgiMalformed(f"more than {QUERY_FIELDS_MAX} query fields")
    fields: dict[str, str] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        fields.setdefault(unquote(name, errors="replace"), unquote(value, errors="replace"))
    return fields


class AgiSession:
    """One request and the commands that answer it; a route gets it and keeps it no longer than it runs.

    Each command has a time limit. Errors: `ValueError` for a name or value that cannot be sent safely,
    `AgiTimeout`, `AgiRefused`, `AgiClosed`, `AgiMalformed`.
    """

    def __init__(
        self,
        request: AgiRequest,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        command_timeout_s: float,
    ) -> None:
        self.request = request
        self.hung_up = False
        """True once Asterisk has said `HANGUP`; variables can still be set."""
        self._reader = reader
        self._writer = writer
        self._command_timeout_s = command_timeout_s
        self._turn = asyncio.Lock()
        self._replies_owed = 0
        self._usage: list[str] = []

    async def set_variable(self, name: str, value: str) -> None:
        """Set a channel variable or function, such as `FAIRDIAL_RESULT` or `TIMEOUT(absolute)`."""
        await self._command(f"SET VARIABLE {_variable_name(name)} {_quoted(value, name)}")

    async def get_variable(self, name: str) -> str | None:
        """The value of a channel variable or function; None where it is not set.

        Asterisk cuts a value at 1,023 bytes without saying so.
        """
        result, value = await self._command(f"GET VARIABLE {_variable_name(name)}")
        return value if result == "1" else None

    async def get_on_one_line(self, name: str) -> str | None:
        """As `get_variable`, with each line break a space: one in the reply would be another reply, of the sender's
        choice.
        """
        # Each backslash is taken off twice, by the AGI command and by the arguments of REPLACE().
        text = f"REPLACE({_variable_name(name)},{_LINE_BREAKS}, )"
        result, value = await self._command(f'GET VARIABLE "{text}"')
        return value if result == "1" else None

    async def verbose(self, text: str) -> None:
        """Write a line to Asterisk's verbose log, cut to 500 characters and without control characters."""
        await self._command(f"VERBOSE {_quoted(_CONTROL.sub(' ', text[:500]), 'text')} 1")

    async def _command(self, line: str) -> tuple[str, str]:
        data = line.encode("utf-8") + b"\n"
        if len(data) > COMMAND_BYTES_MAX:
            raise ValueError(f"{line[:60]}…: {len(data)} bytes, Asterisk reads at most {COMMAND_BYTES_MAX}")
        try:
            async with self._turn, asyncio.timeout(self._command_timeout_s):
                self._replies_owed += 1
                self._writer.write(data)
                await self._writer.drain()
                # A command cut by its time limit or by cancellation left its reply behind: that comes first.
                while True:
                    code, text = await self._read_reply()
                    self._replies_owed -= 1
                    if self._replies_owed == 0:
                        break
        except TimeoutError:
            raise AgiTimeout(f"no reply to {line[:60]!r} within {self._command_timeout_s} s") from None
        except OSError as error:
            raise AgiClosed(str(error)) from error
        match = _RESULT.fullmatch(text) if code == 200 else None
        if match is None or match[1] == "-1":
            raise AgiRefused(code, text)
        return match[1], match[2] or ""

    async def _read_reply(self) -> tuple[int, str]:
        while True:
            line = await self._read_line()
            if self._usage:
                # Usage text runs from `520-…` to `520 End of proper usage.`; kept on self, so that a
                # cancellation between its lines leaves the next reader in step.
                self._usage.append(line)
                if line.startswith("520 "):
                    text, self._usage = self._usage[0], []
                    return 520, text.removeprefix("520-")
                if len(self._usage) > USAGE_LINES_MAX:
                    raise AgiMalformed("usage text without an end")
            elif line == "HANGUP":
                self.hung_up = True
            elif line.startswith("520-"):
                self._usage = [line]
            elif line.startswith(("200 ", "510 ", "511 ", "520 ")):
                code, _, text = line.partition(" ")
                return int(code), text
            elif not line.startswith("100 "):
                raise AgiMalformed(f"not an AGI reply: {line[:80]!r}")

    async def _read_line(self) -> str:
        try:
            line = await self._reader.readline()
        except ValueError:
            raise AgiMalformed("reply line too long") from None
        if not line.endswith(b"\n"):
            raise AgiClosed("the peer closed the connection")
        return line.decode("utf-8", "replace").rstrip("\r\n")


def _variable_name(name: str) -> str:
    if _VARIABLE_NAME.fullmatch(name) is None:
        raise ValueError(f"{name[:60]!r} is not the name of a channel variable or function")
    return name


def _quoted(value: str, name: str) -> str:
    if _CONTROL.search(value):
        raise ValueError(f"{name}: control character in {value[:60]!r}; it would end the AGI command")
    # parse_args() in res_agi.c: a backslash takes the next character as it is, also inside quotes.
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class Failure(StrEnum):
    """Why no route answered."""

    REQUEST_MALFORMED = Reason.REQUEST_MALFORMED.value
    """Forged or broken header, or a route that does not exist."""
    TOO_LATE = Reason.TOO_LATE.value
    STOPPING = Reason.STOPPING.value
    INTERNAL_ERROR = Reason.INTERNAL_ERROR.value
    """The route raised."""


Route = Callable[[AgiSession], Awaitable[None]]
OnFailure = Callable[[AgiSession, Failure], Awaitable[None]]


async def answer_failed(session: AgiSession, reason: Failure) -> None:
    """The answer where no route gave one: the dialplan's failure rule for this kind of call decides."""
    await session.set_variable("FAIRDIAL_ANSWER", failed(Reason(reason.value)).packed())


@dataclass(slots=True)
class FastAgiCounters:
    """How connections ended; each one is counted once it ended, except `accepted`."""

    accepted: int = 0
    answered: int = 0
    """A route ran to its end."""
    failed: dict[Failure, int] = field(default_factory=dict)
    """Answered by `on_failure`, by reason."""
    closed_by_peer: int = 0
    """Closed without a word, before the blank line, or while a route ran: normal."""
    header_too_large: int = 0
    header_timeout: int = 0
    refused_peer: int = 0
    refused_busy: int = 0


class FastAgiServer:
    """Serves `routes` (name without slashes -> coroutine function) until `stop`.

    Where a route does not exist, raises, exceeds `session_timeout_s` or is cut by `stop`, `on_failure`
    answers.
    `allowed_peers` are addresses or networks. `port` 0 takes a free one, then found in `port`.
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        *,
        host: str = "127.0.0.1",
        port: int = 4573,
        allowed_peers: Sequence[str] = ("127.0.0.1", "::1"),
        on_failure: OnFailure = answer_failed,
        header_timeout_s: float = 2.0,
        header_bytes_max: int = 16384,
        command_timeout_s: float = 1.0,
        session_timeout_s: float = 5.0,
        answer_timeout_s: float = 1.0,
        stop_timeout_s: float = 2.0,
        sessions_max: int = 1000,
    ) -> None:
        self._routes = dict(routes)
        self._host = host
        self.port = port
        self._allowed = tuple(_network(peer) for peer in allowed_peers)
        self._on_failure = on_failure
        self._header_timeout_s = header_timeout_s
        self._header_bytes_max = header_bytes_max
        self._command_timeout_s = command_timeout_s
        self._session_timeout_s = session_timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._sessions_max = sessions_max
        self._sessions: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.counters = FastAgiCounters()

    @property
    def sessions(self) -> int:
        """Connections open now."""
        return len(self._sessions)

    async def start(self) -> None:
        """Listen. Raises `OSError` where the address cannot be bound."""
        self._server = await asyncio.start_server(
            self._accept, self._host, self.port, limit=self._header_bytes_max, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]
        log.info("fastagi_listening", host=self._host, port=self.port)

    async def stop(self) -> None:
        """Listen no more; after `stop_timeout_s` end what is still open, with an answer; wait for all."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        await server.wait_closed()
        try:
            if self._sessions:
                await asyncio.wait(self._sessions, timeout=self._stop_timeout_s)
        finally:
            for session in self._sessions:
                session.cancel()
            if self._sessions:
                await asyncio.wait(self._sessions, timeout=self._answer_timeout_s + 2 * CLOSE_TIMEOUT_S)
            if self._sessions:
                log.error("fastagi_route_ignores_cancellation", sessions=len(self._sessions))

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Runs for every connection before anything is read: the cheap refusals, then a bounded task."""
        self.counters.accepted += 1
        peer = writer.get_extra_info("peername")
        if self._server is None or peer is None:
            self.counters.closed_by_peer += 1
        elif not self._is_allowed(peer[0]):
            self.counters.refused_peer += 1
            _warn_seldom(self.counters.refused_peer, "fastagi_peer_refused", peer=peer[0])
        elif len(self._sessions) >= self._sessions_max:
            self.counters.refused_busy += 1
            _warn_seldom(self.counters.refused_busy, "fastagi_busy", sessions_max=self._sessions_max)
        else:
            session = asyncio.create_task(self._serve(reader, writer), name="fastagi-session")
            self._sessions.add(session)
            session.add_done_callback(self._sessions.discard)
            return
        writer.transport.abort()

    def _is_allowed(self, peer: str) -> bool:
        address = ipaddress.ip_address(peer)
        return any(address in network for network in self._allowed)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            header = await self._read_header(reader)
            if header is not None:
                await self._answer(header, reader, writer)
        finally:
            await _close(writer)

    async def _read_header(self, reader: asyncio.StreamReader) -> bytes | None:
        """The request up to its blank line; None, counted, where there is nobody to answer."""
        try:
            async with asyncio.timeout(self._header_timeout_s):
                return await reader.readuntil(b"\n\n")
        except TimeoutError:  # an OSError, so it comes first
            self.counters.header_timeout += 1
            log.debug("fastagi_header_timeout", header_timeout_s=self._header_timeout_s)
        except (asyncio.IncompleteReadError, OSError) as error:
            self.counters.closed_by_peer += 1
            log.debug("fastagi_closed_before_request", error=str(error))
        except asyncio.LimitOverrunError:
            self.counters.header_too_large += 1
            count = self.counters.header_too_large
            _warn_seldom(count, "fastagi_header_too_large", header_bytes_max=self._header_bytes_max)
        return None

    async def _answer(
        self, header: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            request, malformed = parse_request(header), None
        except AgiMalformed as error:
            nothing: Mapping[str, str] = MappingProxyType({})
            request, malformed = AgiRequest("", nothing, nothing, ()), error
        session = AgiSession(request, reader, writer, command_timeout_s=self._command_timeout_s)
        route = self._routes.get(request.route)
        if malformed is not None:
            await self._fail(session, Failure.REQUEST_MALFORMED, error=str(malformed))
        elif route is None:
            await self._fail(session, Failure.REQUEST_MALFORMED, routes=sorted(self._routes))
        else:
            await self._run(session, route)

    async def _run(self, session: AgiSession, route: Route) -> None:
        limit = asyncio.timeout(self._session_timeout_s)
        try:
            async with limit:
                await route(session)
        except AgiClosed:
            self.counters.closed_by_peer += 1
            log.debug("fastagi_closed_in_session", route=session.request.route)
        except asyncio.CancelledError:
            await self._fail(session, Failure.STOPPING)
            raise
        except Exception as error:
            # A TimeoutError of the route's own is the route's fault, not the session's time limit.
            if limit.expired():
                await self._fail(session, Failure.TOO_LATE, session_timeout_s=self._session_timeout_s)
            else:
                await self._fail(session, Failure.INTERNAL_ERROR, error=repr(error), exc_info=error)
        else:
            self.counters.answered += 1

    async def _fail(self, session: AgiSession, reason: Failure, **details: object) -> None:
        self.counters.failed[reason] = self.counters.failed.get(reason, 0) + 1
        route, uniqueid = session.request.route[:80], session.request.uniqueid
        log.error("fastagi_failed", reason=str(reason), route=route, uniqueid=uniqueid, **details)
        try:
            async with asyncio.timeout(self._answer_timeout_s):
                await self._on_failure(session, reason)
        except AgiClosed:
            log.debug("fastagi_closed_in_session", route=route)
        except Exception as error:
            # Nothing can be told to the switch any more: its dialplan sees no FAIRDIAL_ANSWER.
            log.error("fastagi_failure_unanswered", reason=str(reason), error=repr(error))


def _network(peer: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(peer)
    except ValueError as error:
        raise ValueError(f"allowed_peers: {error}; write an address or a network like 192.0.2.0/24") from None


def _warn_seldom(count: int, event: str, **details: object) -> None:
    # At the 1st, 2nd, 4th, 8th … occurrence: a scan must not fill the disk with logs.
    if count & (count - 1) == 0:
        log.warning(event, count=count, **details)


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close with what was written flushed, or cut where the peer does not take it in time."""
    try:
        writer.close()
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    except TimeoutError:
        log.debug("fastagi_close_cut")
    finally:
        writer.transport.abort()
