"""The FastAGI server against real sockets: good requests answered, bad peers bounded."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from agi_app.fastagi import (
    COMMAND_BYTES_MAX,
    AgiClosed,
    AgiMalformed,
    AgiRefused,
    AgiSession,
    AgiTimeout,
    Failure,
    FastAgiServer,
    Route,
    parse_request,
)

FAILED_MALFORMED = {"FAIRDIAL_ANSWER": "FAILED*request_malformed*34*****"}


def header(script: str = "authorise", *lines: str) -> bytes:
    """A request as Asterisk 22 sends it."""
    start = ["agi_network: yes", f"agi_network_script: {script}", f"agi_request: agi://127.0.0.1/{script}"]
    call = ["agi_channel: PJSIP/alice-00000001", "agi_uniqueid: 1795292472.9", "agi_extension: 01632960001"]
    return ("\n".join([*start, *call, *lines]) + "\n\n").encode("utf-8", "surrogateescape")


class Peer:
    """Plays Asterisk: sends a request, carries out `SET VARIABLE`, keeps every command line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.commands: list[str] = []
        self.variables: dict[str, str] = {}

    async def run(self, request: bytes, replies: Mapping[str, bytes] | None = None) -> dict[str, str]:
        """Send the request and answer until the server closes; `replies`: start of a command -> its reply."""
        self.writer.write(request)
        async with asyncio.timeout(10):
            while line := (await self.reader.readline()).decode():
                self.commands.append(line.rstrip("\n"))
                verb, _, rest = line.rstrip("\n").partition(" ")
                if verb == "SET":
                    _, name, value = rest.split(" ", 2)
                    self.variables[name] = value[1:-1].replace('\\"', '"').replace("\\\\", "\\")
                reply = b"200 result=1\n"
                for start, other in (replies or {}).items():
                    reply = other if line.startswith(start) else reply
                self.writer.write(reply)
        return self.variables

    async def until_closed(self) -> bytes:
        """What the server still says before it closes or resets the connection."""
        async with asyncio.timeout(10):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@asynccontextmanager
async def connect(server: FastAgiServer) -> AsyncIterator[Peer]:
    peer = Peer(*await asyncio.open_connection("127.0.0.1", server.port))
    try:
        yield peer
    finally:
        await peer.close()


@asynccontextmanager
async def serving(routes: Mapping[str, Route], **options: Any) -> AsyncIterator[FastAgiServer]:
    server = FastAgiServer(routes, port=0, **{"stop_timeout_s": 0.1, **options})
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def allow(session: AgiSession) -> None:
    await session.set_variable("FAIRDIAL_RESULT", "ALLOW")


async def ask(
    route: Route, request: bytes, replies: Mapping[str, bytes] | None = None, **options: Any
) -> Peer:
    """One request to one route named authorise."""
    async with serving({"authorise": route}, **options) as server, connect(server) as peer:
        await peer.run(request, replies)
        return peer


# What a request says


def test_request_is_parsed_with_query_arguments_and_variables() -> None:
    script = "authorise?kind=outbound&number=%2B441632960001&kind=emergency&note="
    lines = ("agi_callerid: unknown", "agi_accountcode: A1", "agi_arg_1: one", "agi_arg_2: two: words")
    request = parse_request(header(script, *lines).rstrip(b"\n") + b"\n")
    assert request.route == "authorise"
    assert request.query == {"kind": "outbound", "number": "+441632960001", "note": ""}
    assert request.arguments == ("one", "two: words")
    assert (request.channel, request.uniqueid) == ("PJSIP/alice-00000001", "1795292472.9")
    assert (request.accountcode, request.extension, request.callerid) == ("A1", "01632960001", "")


@pytest.mark.parametrize(
    ("script", "number"),
    [("authorise?number=+441632960001", "+441632960001"), ("authorise?number=*31%23", "*31#")],
)
def test_number_survives_the_query_undamaged(script: str, number: str) -> None:
    assert parse_request(header(script).rstrip(b"\n")).query["number"] == number


def test_route_is_read_from_agi_request_where_there_is_no_script_line() -> None:
    request = parse_request(b"agi_request: agi://127.0.0.1:4573/authorise?number=%2A31#\nagi_channel: X")
    assert (request.route, request.query) == ("authorise", {"number": "*31#"})


def test_bytes_that_are_not_utf8_become_replacement_characters() -> None:
    request = parse_request(header("authorise", "agi_calleridname: J\udcff").rstrip(b"\n"))
    assert request.variables["calleridname"] == "J\ufffd"


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (
            ["agi_calleridname: x", "agi_accountcode: stolen", "agi_accountcode: A1"],
            "agi_accountcode sent twice",
        ),
        (["agi_calleridname: x", "loose text"], "loose text"),
        ([f"agi_arg_{n}: x" for n in range(300)], "more than 256 header lines"),
    ],
)
def test_forged_header_is_refused_by_name(lines: Sequence[str], named: str) -> None:
    with pytest.raises(AgiMalformed, match=named):
        parse_request(header("authorise", *lines).rstrip(b"\n"))


@pytest.mark.parametrize(("fields", "refused"), [(32, False), (33, True)])
def test_query_fields_are_bounded(fields: int, refused: bool) -> None:
    request = header("authorise?" + "&".join(f"k{n}=v" for n in range(fields))).rstrip(b"\n")
    if refused:
        with pytest.raises(AgiMalformed, match="more than 32 query fields"):
            parse_request(request)
    else:
        assert len(parse_request(request).query) == fields


# What a route can do


async def test_route_answers_and_the_connection_is_closed() -> None:
    seen = []

    async def route(session: AgiSession) -> None:
        seen.append(session.request.query["kind"])
        await allow(session)

    peer = await ask(route, header("authorise?kind=outbound"))
    assert (seen, peer.variables) == (["outbound"], {"FAIRDIAL_RESULT": "ALLOW"})


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ('say "hi"', r'SET VARIABLE X "say \"hi\""'),
        ("back\\slash", r'SET VARIABLE X "back\\slash"'),
        ("", 'SET VARIABLE X ""'),
        ("Zoë", 'SET VARIABLE X "Zoë"'),
    ],
)
async def test_value_is_quoted_for_asterisk(value: str, sent: str) -> None:
    peer = await ask(lambda session: session.set_variable("X", value), header())
    assert peer.commands == [sent]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X", "1\nSET VARIABLE FAIRDIAL_RESULT ALLOW"),
        ("X", "1\r2"),
        ("X", "1\x002"),
        ("X Y", "1"),
        ('X"', "1"),
        ("X\n", "1"),
        ("X", "1" * COMMAND_BYTES_MAX),
        ("X", "\udcff"),
    ],
)
async def test_name_or_value_that_could_be_a_command_is_never_sent(name: str, value: str) -> None:
    caught: list[ValueError] = []

    async def route(session: AgiSession) -> None:
        try:
            await session.set_variable(name, value)
        except ValueError as error:
            caught.append(error)
        await session.set_variable("TIMEOUT(absolute)", "60")

    peer = await ask(route, header())
    assert len(caught) == 1
    assert peer.commands == ['SET VARIABLE TIMEOUT(absolute) "60"']


async def test_verbose_loses_control_characters_instead_of_failing() -> None:
    peer = await ask(lambda session: session.verbose('a\nb "c"'), header())
    assert peer.commands == [r'VERBOSE "a b \"c\"" 1']


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        (b"200 result=1 (+44 (0)1632)\n", "+44 (0)1632"),
        (b"200 result=1 ()\n", ""),
        (b"200 result=0\n", None),
        (b"100 result=0 Trying...\n200 result=1 (x)\n", "x"),
        (b"HANGUP\n200 result=1 (x)\n", "x"),
    ],
)
async def test_variable_is_read_from_the_reply(reply: bytes, value: str | None) -> None:
    got = []

    async def route(session: AgiSession) -> None:
        got.append((await session.get_variable("X"), session.hung_up))

    await ask(route, header(), {"GET VARIABLE X": reply})
    assert got == [(value, reply.startswith(b"HANGUP"))]


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (b"200 result=-1\n", 200),
        (b"510 Invalid or unknown command\n", 510),
        (b"511 Command Not Permitted on a dead channel or intercept routine\n", 511),
        (b"520 Invalid command syntax.\n", 520),
        (b"520-Invalid command syntax.  Proper usage follows:\nUsage: GET\n520 End of proper usage.\n", 520),
    ],
)
async def test_refused_command_names_its_code_and_the_next_one_works(reply: bytes, code: int) -> None:
    got = []

    async def route(session: AgiSession) -> None:
        with pytest.raises(AgiRefused) as error:
            await session.get_variable("X")
        got.append(error.value.code)
        await allow(session)

    peer = await ask(route, header(), {"GET VARIABLE X": reply})
    assert (got, peer.variables) == ([code], {"FAIRDIAL_RESULT": "ALLOW"})


async def test_late_reply_is_not_taken_for_the_next_commands_answer() -> None:
    got = []

    async def route(session: AgiSession) -> None:
        with pytest.raises(AgiTimeout, match="GET VARIABLE X"):
            await session.get_variable("X")
        got.append(await session.get_variable("Y"))

    replies = {"GET VARIABLE X": b"", "GET VARIABLE Y": b"200 result=1 (x)\n200 result=1 (y)\n"}
    await ask(route, header(), replies, command_timeout_s=0.05)
    assert got == ["y"]


async def test_commands_of_one_session_take_turns() -> None:
    async def route(session: AgiSession) -> None:
        await asyncio.gather(*(session.set_variable(f"V{n}", str(n)) for n in range(20)))

    peer = await ask(route, header())
    assert peer.variables == {f"V{n}": str(n) for n in range(20)}


# Where no route answers, the server does


@pytest.mark.parametrize("script", ["nowhere", "", "authorise/more"])
async def test_unknown_route_is_answered(script: str) -> None:
    peer = await ask(allow, header(script))
    assert peer.variables == FAILED_MALFORMED


async def test_forged_header_is_answered_and_never_reaches_the_route() -> None:
    peer = await ask(allow, header("authorise", "agi_accountcode: A1", "agi_accountcode: A2"))
    assert peer.variables == FAILED_MALFORMED


async def test_raising_route_is_answered_and_logged_once() -> None:
    async def route(session: AgiSession) -> None:
        raise TimeoutError("the ledger's own time limit")

    with capture_logs() as logs:
        peer = await ask(route, header())
    assert peer.variables == {"FAIRDIAL_ANSWER": "FAILED*internal_error*34*****"}
    assert [entry["reason"] for entry in logs if entry["log_level"] == "error"] == ["internal_error"]


async def test_route_over_its_time_is_answered_although_a_reply_is_owed() -> None:
    async def route(session: AgiSession) -> None:
        await session.get_variable("SLOW")

    replies = {
        "GET VARIABLE SLOW": b"",
        "SET VARIABLE FAIRDIAL_RESULT": b"200 result=1 (late)\n200 result=1\n",
    }
    peer = await ask(route, header(), replies, session_timeout_s=0.05)
    assert peer.variables == {"FAIRDIAL_ANSWER": "FAILED*too_late*34*****"}


async def test_on_failure_can_be_replaced_and_may_fail_itself() -> None:
    reasons = []

    async def on_failure(session: AgiSession, reason: Failure) -> None:
        reasons.append(reason)
        raise RuntimeError("no answer to give")

    async with serving({"authorise": allow}, on_failure=on_failure) as server:
        async with connect(server) as peer:
            assert await peer.run(header("nowhere")) == {}
        async with connect(server) as peer:
            assert await peer.run(header()) == {"FAIRDIAL_RESULT": "ALLOW"}
    assert reasons == [Failure.REQUEST_MALFORMED]


# Peers that mean no good, or nothing


@pytest.mark.parametrize("first", [b"", b"agi_network: yes\n", b"\x16\x03\x01"])
async def test_peer_that_leaves_before_the_blank_line_is_no_error(first: bytes) -> None:
    with capture_logs() as logs:
        async with serving({}) as server:
            async with connect(server) as peer:
                peer.writer.write(first)
            await until(lambda: server.counters.closed_by_peer == 1)
    assert {entry["log_level"] for entry in logs} <= {"debug", "info"}


async def test_peer_that_leaves_during_the_route_ends_it_without_error() -> None:
    ended = asyncio.Event()

    async def route(session: AgiSession) -> None:
        try:
            await session.get_variable("X")
        except AgiClosed:
            ended.set()
            raise

    with capture_logs() as logs:
        async with serving({"authorise": route}) as server:
            async with connect(server) as peer:
                peer.writer.write(header())
                await peer.reader.readline()
            await asyncio.wait_for(ended.wait(), 5)
            await until(lambda: server.counters.closed_by_peer == 1)
    assert {entry["log_level"] for entry in logs} <= {"debug", "info"}


@pytest.mark.parametrize("first", [b"", b"agi_network: yes\nagi_ch"])
async def test_silent_or_half_open_peer_is_closed_after_the_time_limit(first: bytes) -> None:
    async with serving({}, header_timeout_s=0.05) as server, connect(server) as peer:
        peer.writer.write(first)
        assert await peer.until_closed() == b""
        await until(lambda: server.sessions == 0)
        assert server.counters.header_timeout == 1


async def test_trickling_peer_gets_no_more_time_than_a_silent_one() -> None:
    async with serving({}, header_timeout_s=0.2) as server, connect(server) as peer:
        begun = time.monotonic()
        closed = asyncio.create_task(peer.until_closed())
        while not closed.done():
            peer.writer.write(b"a")
            await asyncio.wait([closed], timeout=0.02)
        assert time.monotonic() - begun < 1
        assert server.counters.header_timeout == 1


@pytest.mark.parametrize(("value_bytes", "answered"), [(15_000, True), (1_000_000, False)])
async def test_header_is_cut_at_the_limit(value_bytes: int, answered: bool) -> None:
    async with serving({"authorise": allow}) as server, connect(server) as peer:
        request = header("authorise", "agi_calleridname: " + "x" * value_bytes)
        if answered:
            assert await peer.run(request) == {"FAIRDIAL_RESULT": "ALLOW"}
        else:
            peer.writer.write(request)
            assert await peer.until_closed() == b""
        assert server.counters.header_too_large == (0 if answered else 1)


async def test_endless_header_is_not_buffered() -> None:
    """The peer never ends its header; what the server took of it stays far below what was offered."""
    async with serving({}, header_timeout_s=5.0) as server, connect(server) as peer:
        chunk, offered = b"x" * 65536, 0
        with contextlib.suppress(ConnectionError):
            while offered < 64 * 2**20:
                peer.writer.write(chunk)
                await peer.writer.drain()
                offered += len(chunk)
        assert offered < 64 * 2**20
        assert server.counters.header_too_large == 1
        assert server.counters.header_timeout == 0


@pytest.mark.parametrize(
    ("allowed", "served"),
    [(("127.0.0.1",), True), (("127.0.0.0/8",), True), (("192.0.2.1", "::1"), False), ((), False)],
)
async def test_only_named_peers_are_served(allowed: tuple[str, ...], served: bool) -> None:
    async with serving({"authorise": allow}, allowed_peers=allowed) as server, connect(server) as peer:
        if served:
            assert await peer.run(header()) == {"FAIRDIAL_RESULT": "ALLOW"}
        else:
            assert await peer.until_closed() == b""
        assert server.counters.refused_peer == (0 if served else 1)


def test_peer_that_is_no_address_is_named() -> None:
    with pytest.raises(ValueError, match=r"allowed_peers: 'pbx\.example' .*write an address"):
        FastAgiServer({}, allowed_peers=("pbx.example",))


async def test_one_session_over_the_bound_is_closed_at_once_and_the_others_go_on() -> None:
    async with serving({"authorise": allow}, sessions_max=2) as server:
        async with connect(server) as first, connect(server) as second:
            await until(lambda: server.sessions == 2)
            async with connect(server) as third:
                assert await third.until_closed() == b""
            assert server.counters.refused_busy == 1
            assert await first.run(header()) == {"FAIRDIAL_RESULT": "ALLOW"}
            assert await second.run(header()) == {"FAIRDIAL_RESULT": "ALLOW"}
        async with connect(server) as fourth:
            assert await fourth.run(header()) == {"FAIRDIAL_RESULT": "ALLOW"}


async def test_500_peers_that_connect_and_close_keep_no_call_from_its_answer() -> None:
    async def come_and_go(server: FastAgiServer) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.close()
        await writer.wait_closed()

    async with serving({"authorise": allow}) as server, connect(server) as peer:
        scan = asyncio.gather(*(come_and_go(server) for _ in range(500)))
        assert await peer.run(header()) == {"FAIRDIAL_RESULT": "ALLOW"}
        await scan
        await until(lambda: server.counters.closed_by_peer == 500 and server.sessions == 0)
        assert server.counters.answered == 1


# Stop


async def test_stop_lets_a_session_finish() -> None:
    started, may_end = asyncio.Event(), asyncio.Event()

    async def route(session: AgiSession) -> None:
        started.set()
        await may_end.wait()
        await allow(session)

    async with serving({"authorise": route}, stop_timeout_s=5.0) as server, connect(server) as peer:
        call = asyncio.create_task(peer.run(header()))
        await started.wait()
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        may_end.set()
        assert await call == {"FAIRDIAL_RESULT": "ALLOW"}
        await stopping


async def test_stop_answers_what_it_cuts_and_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    started = asyncio.Event()

    async def route(session: AgiSession) -> None:
        started.set()
        await asyncio.Event().wait()

    server = FastAgiServer({"authorise": route}, port=0, stop_timeout_s=0.05)
    await server.start()
    async with connect(server) as silent, connect(server) as peer:
        call = asyncio.create_task(peer.run(header()))
        await started.wait()
        await server.stop()
        assert await call == {"FAIRDIAL_ANSWER": "FAILED*stopping*34*****"}
        assert await silent.until_closed() == b""
    assert asyncio.all_tasks() == before
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.port)


async def test_stop_is_bounded_where_a_route_or_its_peer_never_ends() -> None:
    started = asyncio.Event()

    async def route(session: AgiSession) -> None:
        started.set()
        await asyncio.Event().wait()

    server = FastAgiServer({"authorise": route}, port=0, stop_timeout_s=0.05, answer_timeout_s=0.05)
    await server.start()
    async with connect(server) as mute:
        mute.writer.write(header())
        await started.wait()
        async with asyncio.timeout(0.8):  # below one command's time limit
            await server.stop()
        assert server.sessions == 0
