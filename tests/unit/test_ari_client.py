"""The ARI client against a scripted peer, for the faults that a healthy Asterisk never shows."""

import asyncio
import base64
import gc
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import WSMsgType, web
from structlog.testing import capture_logs

from ari_handlers import events
from ari_handlers.client import AriSettings, Client
from ari_handlers.queues import CallQueues
from ari_handlers.resources import AriError, AriRefused, AriTimeout, AriUnavailable, AriUnreadable, Channel
from fairdial.clock import Moment, SystemClock

CALM: dict[str, Any] = {"request_timeout_s": 0.2, "heartbeat_s": 60.0, "backoff_s": (0.01, 0.05)}
GREETING = 3
"""Requests that the client sends by itself after each connect."""

Request = dict[str, Any]
Answer = tuple[int, str] | None
Reply = Callable[[Request], Answer]


def success(_request: Request) -> Answer:
    return 204, ""


def refusal(status: int) -> Reply:
    return lambda _request: (status, "")


def silence(_request: Request) -> Answer:
    return None


class Peer:
    """Speaks as much ARI as a test needs. `replies`: method and path -> answer; None is silence."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {}
        self.requests: list[Request] = []
        self.handshakes: list[web.Request] = []
        self.refuse_with: int | None = None
        self.startup_time = "2026-11-21T08:00:00.000+0000"
        self.answers_pings = True
        self.client_sockets_max = 0
        self.listening = asyncio.Event()
        self.listening.set()
        self.port = 0
        self._changed = asyncio.Condition()
        self._sockets: dict[web.WebSocketResponse, web.Request] = {}
        application = web.Application()
        application.router.add_get("/ari/events", self._accept)
        application.router.add_get("/ari/channels", self._fetch)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)

    async def open(self) -> None:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        self.listening.set()
        self.drop()
        await self._runner.cleanup()

    def drop(self) -> None:
        """Close every connection, as a dying Asterisk does."""
        for request in self._sockets.values():
            if request.transport is not None:
                request.transport.abort()

    def freeze(self) -> None:
        """Read nothing more, as a hung Asterisk does."""
        self.listening.clear()

    async def send(self, frame: object) -> None:
        """A dictionary as JSON; bytes as a text frame, whatever they hold."""
        data = frame if isinstance(frame, bytes) else msgspec.json.encode(frame)
        for socket in tuple(self._sockets):
            await socket.send_frame(data, WSMsgType.TEXT)

    async def send_binary(self, data: bytes) -> None:
        for socket in tuple(self._sockets):
            await socket.send_bytes(data)

    async def wait_for(self, count: int, name: str | None = None) -> list[Request]:
        """The first `count` requests of that method and path, once they have arrived."""
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(lambda: len(self.named(name)) >= count)
            return self.named(name)[:count]

    async def wait_for_handshakes(self, count: int) -> None:
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(lambda: len(self.handshakes) >= count)

    def named(self, name: str | None) -> list[Request]:
        return [request for request in self.requests if name in (None, _name(request))]

    def _reply(self, request: Request) -> Answer:
        reply = self.replies.get(_name(request))
        if reply is not None:
            return reply(request)
        if _name(request) == "GET asterisk/info":
            return 200, msgspec.json.encode({"status": {"startup_time": self.startup_time}}).decode()
        return success(request)

    async def _fetch(self, request: web.Request) -> web.StreamResponse:
        """An answer over plain HTTP; `silence` keeps it for longer than any limit."""
        answer = self._reply({"method": "GET", "uri": request.path.removeprefix("/ari/")})
        if answer is None:
            await asyncio.sleep(5)
            raise web.HTTPServiceUnavailable
        return web.Response(status=answer[0], text=answer[1])

    async def _accept(self, request: web.Request) -> web.StreamResponse:
        self.client_sockets_max = max(self.client_sockets_max, client_sockets(self.port))
        async with self._changed:
            self.handshakes.append(request)
            self._changed.notify_all()
        if self.refuse_with is not None:
            return web.Response(status=self.refuse_with)
        socket = web.WebSocketResponse(autoping=False, max_msg_size=0, compress=False)
        await socket.prepare(request)
        self._sockets[socket] = request
        try:
            while True:
                message = await socket.receive()
                await self.listening.wait()
                if message.type is WSMsgType.PING and self.answers_pings:
                    await socket.pong(message.data)
                elif message.type is WSMsgType.TEXT:
                    await self._take(socket, msgspec.json.decode(message.data))
                elif message.type not in (WSMsgType.PING, WSMsgType.PONG):
                    return socket
        except ConnectionError:
            return socket
        finally:
            del self._sockets[socket]

    async def _take(self, socket: web.WebSocketResponse, request: Request) -> None:
        async with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
        answer = self._reply(request)
        if answer is not None:
            await self.answer(request, *answer, socket)

    async def answer(
        self, request: Request, status: int, body: str, only: web.WebSocketResponse | None = None
    ) -> None:
        frame = {
            "type": "RESTResponse",
            "request_id": request["request_id"],
            "status_code": status,
            "reason_phrase": "because",
            "message_body": body,
        }
        for socket in (only,) if only is not None else tuple(self._sockets):
            await socket.send_frame(msgspec.json.encode(frame), WSMsgType.TEXT)


def _name(request: Request) -> str:
    return f"{request['method']} {request['uri']}"


def client_sockets(port: int) -> int:
    """Sockets to that port that a process still holds: local, remote and state are columns 1 to 3, inode is 9."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[9] != "0" for row in rows)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    scripted = Peer()
    await scripted.open()
    yield scripted
    await scripted.close()


def client_of(port: int, queues: CallQueues | None = None, **settings: Any) -> Client:
    url = f"http://127.0.0.1:{port}/ari"
    return Client(
        AriSettings(url, "fairdial", "s3cret", **{**CALM, **settings}),
        SystemClock(),
        CallQueues() if queues is None else queues,
    )


@asynccontextmanager
async def running(client: Client, *, wait: bool = True) -> AsyncIterator[Client]:
    await client.start()
    try:
        if wait:
            await client.wait_connected(5)
        yield client
    finally:
        await client.queues.stop(0.1)
        await client.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def elapsed_s(begun_s: float) -> float:
    return asyncio.get_running_loop().time() - begun_s


def channel(channel_id: str) -> dict[str, object]:
    return {"id": channel_id, "name": f"PJSIP/alice-{channel_id}"}


def stasis_start(channel_id: str, *args: str) -> dict[str, object]:
    return {"type": "StasisStart", "channel": channel(channel_id), "args": args}


def destroyed(channel_id: str, cause: int = 16) -> dict[str, object]:
    return {"type": "ChannelDestroyed", "channel": channel(channel_id), "cause": cause}


class Seen:
    """A handler that notes what it was given: type, channel, and the cause where there is one."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, int]] = []
        self._changed = asyncio.Condition()

    async def __call__(self, channel: Channel, event: events.CallEvent, _moment: Moment) -> None:
        async with self._changed:
            self.events.append((type(event).__name__, channel.id, getattr(event, "cause", 0)))
            self._changed.notify_all()

    async def wait_for(self, count: int) -> list[tuple[str, str, int]]:
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(lambda: len(self.events) >= count)
            return self.events


def follow(client: Client, handler: Any) -> None:
    for event_type in ("StasisStart", "StasisEnd", "Dial", "ChannelDestroyed"):
        client.on_channel_event(event_type, handler)


# Connecting


async def test_it_logs_in_by_header_and_lets_only_its_events_come(peer: Peer) -> None:
    async with running(client_of(peer.port)):
        handshake = peer.handshakes[0]
        installed, followed, _info = await peer.wait_for(GREETING)
    credentials = base64.b64encode(b"fairdial:s3cret").decode()
    assert handshake.headers["Authorization"] == f"Basic {credentials}"
    assert dict(handshake.query) == {"app": "fairdial", "subscribeAll": "false"}
    assert _name(installed) == "PUT applications/fairdial/eventFilter"
    assert _name(followed) == "POST applications/fairdial/subscription"
    assert followed["query_strings"] == [{"name": "eventSource", "value": "channel:"}]
    allowed = {entry["type"] for entry in msgspec.json.decode(installed["message_body"])["allowed"]}
    assert allowed == {
        "StasisStart",
        "StasisEnd",
        "Dial",
        "ChannelDestroyed",
        "ChannelDtmfReceived",
        "PlaybackFinished",
        "ChannelTalkingStarted",
        "ChannelTalkingFinished",
        "RecordingFinished",
        "RecordingFailed",
        "ApplicationReplaced",
        "RESTResponse",
    }


def test_password_is_not_shown() -> None:
    assert "s3cret" not in repr(AriSettings("http://127.0.0.1:1/ari", "fairdial", "s3cret"))


async def test_refused_log_in_is_tried_again_at_bounded_intervals(peer: Peer) -> None:
    peer.refuse_with = 401
    with capture_logs() as logs:
        async with running(client_of(peer.port, backoff_s=(0.02, 0.1)), wait=False) as client:
            await asyncio.sleep(1)
            assert not client.connected
            with pytest.raises(AriUnavailable, match="not connected"):
                await client.request("GET", "channels")
    # Each wait is 50 to 100 per cent of 20, 40, 80, 100, 100, … ms.
    assert 6 <= len(peer.handshakes) <= 23
    assert peer.client_sockets_max == 1
    assert "401" in logs[0]["error"]
    assert "s3cret" not in str(logs)


async def test_name_that_no_header_can_carry_is_reported(peer: Peer) -> None:
    client = Client(
        AriSettings(f"http://127.0.0.1:{peer.port}/ari", "fair:dial", "s3cret", **CALM),
        SystemClock(),
        CallQueues(),
    )
    with capture_logs() as logs:
        async with running(client, wait=False):
            await until(lambda: len(logs) > 1)
    assert {entry["event"] for entry in logs} == {"ari_connect_failed"}
    assert peer.handshakes == []


async def test_nothing_listens(peer: Peer) -> None:
    await peer.close()
    with capture_logs() as logs:
        async with running(client_of(peer.port, backoff_s=(0.02, 0.1)), wait=False) as client:
            with pytest.raises(AriUnavailable, match=r"within 0\.5 s"):
                await client.wait_connected(0.5)
    assert 3 <= len([entry for entry in logs if entry["event"] == "ari_connect_failed"]) <= 13


async def test_link_that_breaks_as_soon_as_it_is_made_is_no_tight_loop(peer: Peer) -> None:
    async def leave(_restarted: bool) -> None:
        peer.drop()

    client = client_of(peer.port, backoff_s=(0.02, 0.1))
    client.on_connected(leave)
    async with running(client):
        await asyncio.sleep(1)
    assert 6 <= len(peer.handshakes) <= 23
    assert peer.client_sockets_max == 1


async def test_link_that_held_for_a_heartbeat_is_made_again_soon(peer: Peer) -> None:
    peer.refuse_with = 503
    async with running(client_of(peer.port, backoff_s=(0.01, 60.0), heartbeat_s=0.1), wait=False) as client:
        await peer.wait_for_handshakes(8)
        peer.refuse_with = None
        await client.wait_connected(5)
        await asyncio.sleep(0.2)
        attempts = len(peer.handshakes)
        begun_s = asyncio.get_running_loop().time()
        peer.drop()
        await peer.wait_for_handshakes(attempts + 1)
        # Had the waits gone on doubling, the next one would be at least 0.64 s.
        assert elapsed_s(begun_s) < 0.5


@pytest.mark.parametrize(
    ("request_name", "reply", "told"),
    [
        ("PUT applications/fairdial/eventFilter", refusal(404), "404"),
        ("PUT applications/fairdial/eventFilter", silence, "no answer"),
        ("GET asterisk/info", lambda _request: (200, "{}"), "status"),
        ("GET asterisk/info", lambda _request: (200, "<html>"), "malformed"),
    ],
)
async def test_greeting_that_fails_is_tried_again_on_a_new_link(
    peer: Peer, request_name: str, reply: Reply, told: str
) -> None:
    peer.replies[request_name] = reply
    with capture_logs() as logs:
        async with running(client_of(peer.port), wait=False) as client:
            await peer.wait_for_handshakes(3)
            assert not client.connected
            del peer.replies[request_name]
            await client.wait_connected(5)
    assert peer.client_sockets_max == 1
    failures = [entry["error"] for entry in logs if entry["event"] == "ari_greeting_failed"]
    assert failures
    assert all(told in failure for failure in failures)


# Requests


async def test_answer_is_returned_and_refusal_raised(peer: Peer) -> None:
    peer.replies["GET channels"] = lambda _request: (200, '[{"id":"1.1","name":"PJSIP/alice-00000001"}]')
    peer.replies["POST channels/1.1/variable"] = refusal(409)
    async with running(client_of(peer.port)) as client:
        assert [info.endpoint for info in await client.channels.list()] == ["alice"]
        with pytest.raises(AriRefused, match=r"POST channels/1\.1/variable: 409 because") as refused:
            await client.channels.get("1.1").set_variable("A", "b")
    assert refused.value.status == 409
    assert peer.requests[-1]["query_strings"] == [
        {"name": "variable", "value": "A"},
        {"name": "value", "value": "b"},
    ]


async def test_requests_are_counted_by_what_became_of_them(peer: Peer) -> None:
    peer.replies |= {"DELETE channels/gone": refusal(404), "GET channels/mute": silence}
    client = client_of(peer.port, request_timeout_s=0.1)
    with pytest.raises(AriUnavailable):
        await client.request("GET", "asterisk/ping")
    async with running(client):
        with pytest.raises(AriRefused):
            await client.request("DELETE", "channels/gone")
        with pytest.raises(AriTimeout):
            await client.request("GET", "channels/mute")
        given_up = asyncio.ensure_future(client.send("GET", "channels/mute"))
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
    counts = {labels[0]: sum(ranges) for labels, ranges, _ in client.answers}
    assert counts == {"ok": GREETING, "refused": 1, "timeout": 1, "unavailable": 1, "given_up": 1}
    # One took a tenth of a second, and none longer.
    assert 0.1 <= sum(sum_s for _, _, sum_s in client.answers) < 1


async def test_connections_are_counted_the_first_included(peer: Peer) -> None:
    async with running(client_of(peer.port)) as client:
        assert client.connects == 1
        peer.drop()
        await until(lambda: client.connects == 2 and client.connected)


async def test_answer_of_another_shape_is_an_error_of_its_own(peer: Peer) -> None:
    peer.replies["GET channels"] = lambda _request: (200, '[{"id":1}]')
    async with running(client_of(peer.port)) as client:
        with pytest.raises(AriUnreadable, match="GET channels"):
            await client.channels.list()
        assert client.connected


@pytest.mark.parametrize("status", [204, 404])
async def test_hanging_up_may_be_repeated(peer: Peer, status: int) -> None:
    peer.replies["DELETE channels/1.1"] = refusal(status)
    async with running(client_of(peer.port)) as client:
        await client.channels.get("1.1").hangup(38)
    assert peer.requests[-1]["query_strings"] == [{"name": "reason_code", "value": "38"}]


async def test_hanging_up_that_failed_says_so(peer: Peer) -> None:
    peer.replies["DELETE channels/1.1"] = refusal(500)
    async with running(client_of(peer.port)) as client:
        with pytest.raises(AriRefused):
            await client.channels.get("1.1").hangup()


async def test_requests_sent_in_a_row_arrive_in_order_before_any_answer(peer: Peer) -> None:
    paths = [f"channels/{index}/continue" for index in range(200)]
    peer.replies = {f"POST {path}": silence for path in paths}
    async with running(client_of(peer.port, request_timeout_s=5.0)) as client:
        sent = [client.send("POST", path) for path in paths]
        arrived = (await peer.wait_for(GREETING + 200))[GREETING:]
        assert [request["uri"] for request in arrived] == paths
        for request in reversed(arrived):
            await peer.answer(request, 200, request["uri"])
        assert await asyncio.gather(*sent) == paths


async def test_request_without_an_answer_ends_in_time_and_a_late_answer_harms_nothing(peer: Peer) -> None:
    peer.replies["GET channels"] = silence
    async with running(client_of(peer.port, request_timeout_s=0.2)) as client:
        begun_s = asyncio.get_running_loop().time()
        with pytest.raises(AriTimeout, match=r"GET channels: no answer within 0\.2 s"):
            await client.request("GET", "channels")
        assert 0.19 < elapsed_s(begun_s) < 0.5
        [late] = await peer.wait_for(1, "GET channels")
        await peer.answer(late, 200, "[]")
        peer.replies["GET channels"] = lambda _request: (200, "[]")
        assert await client.request("GET", "channels") == "[]"
    assert len(peer.handshakes) == 1


async def test_listing_over_http_is_refused_or_ends_in_time(peer: Peer) -> None:
    async with running(client_of(peer.port, request_timeout_s=0.2)) as client:
        peer.replies["GET channels"] = silence
        with pytest.raises(AriTimeout, match=r"GET channels: no answer within 0\.2 s"):
            await client.channels.list()
        peer.replies["GET channels"] = refusal(403)
        with pytest.raises(AriRefused, match="GET channels: 403"):
            await client.channels.list()
        peer.replies["GET channels"] = lambda _request: (200, "[]")
        assert await client.channels.list() == ()
        # Not one request of these went over the event socket.
        assert peer.named("GET channels") == []
    with pytest.raises(AriUnavailable, match="not connected"):
        await client.channels.list()


async def test_dropped_link_fails_what_waits_at_once(peer: Peer) -> None:
    peer.replies["GET channels"] = silence
    async with running(client_of(peer.port, request_timeout_s=60.0)) as client:
        waiting = [client.send("GET", "channels") for _ in range(3)]
        await peer.wait_for(3, "GET channels")
        begun_s = asyncio.get_running_loop().time()
        peer.drop()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert elapsed_s(begun_s) < 0.5
        assert [type(result) for result in results] == [AriUnavailable] * 3
        await client.wait_connected(5)
        assert await client.asterisk.startup_time() == peer.startup_time


async def test_number_of_unanswered_requests_is_bounded(peer: Peer) -> None:
    peer.replies["GET channels"] = silence
    async with running(client_of(peer.port, requests_max=2, request_timeout_s=5.0)) as client:
        accepted = [client.send("GET", "channels") for _ in range(2)]
        with pytest.raises(AriUnavailable, match="2 requests are unanswered already"):
            await client.request("GET", "channels")
        for request in await peer.wait_for(2, "GET channels"):
            await peer.answer(request, 200, "[]")
        await asyncio.gather(*accepted)
        assert await client.request("POST", "channels/1.1/continue") == ""


async def test_cancelled_request_gives_its_place_back(peer: Peer) -> None:
    peer.replies["GET channels"] = silence
    async with running(client_of(peer.port, requests_max=1, request_timeout_s=60.0)) as client:
        task = asyncio.create_task(client.request("GET", "channels"))
        await peer.wait_for(1, "GET channels")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await client.request("POST", "channels/1.1/continue") == ""


async def test_request_given_up_before_it_left_is_not_sent(peer: Peer) -> None:
    async with running(client_of(peer.port)) as client:
        asyncio.ensure_future(client.send("DELETE", "channels/1.1")).cancel()
        await client.request("POST", "channels/1.1/continue")
    assert [_name(request) for request in peer.requests[GREETING:]] == ["POST channels/1.1/continue"]


@pytest.mark.parametrize("reply", [success, refusal(409), silence])
async def test_answer_that_nobody_awaits_costs_nothing(
    peer: Peer, reply: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    peer.replies["POST channels/1.1/continue"] = reply
    async with running(client_of(peer.port, requests_max=1)) as client:
        client.channels.get("1.1").send_continue()
        await peer.wait_for(1, "POST channels/1.1/continue")
        begun_s = asyncio.get_running_loop().time()
        while True:
            try:
                await client.asterisk.startup_time()
                break
            except AriUnavailable:  # its place is still taken
                assert elapsed_s(begun_s) < 1
                await asyncio.sleep(0.01)
    # Neither while connected nor without a connection.
    client.channels.get("1.1").send_continue()
    gc.collect()
    await asyncio.sleep(0)
    assert [entry for entry in caplog.records if entry.levelno >= logging.WARNING] == []


# Restarts of Asterisk


async def test_restart_of_asterisk_is_told_from_a_broken_link(peer: Peer) -> None:
    told: list[bool] = []
    client = client_of(peer.port)

    async def note(restarted: bool) -> None:
        told.append(restarted)

    client.on_connected(note)
    with capture_logs() as logs:
        async with running(client):
            await until(lambda: told == [False])
            peer.drop()
            await until(lambda: told == [False, False])
            peer.startup_time = "2026-11-21T09:00:00.000+0000"
            peer.drop()
            await until(lambda: told == [False, False, True])
            peer.drop()
            await until(lambda: told == [False, False, True, False])
    assert [entry["event"] for entry in logs].count("asterisk_restarted") == 1


async def test_restart_is_told_again_to_a_handler_that_did_not_finish(peer: Peer) -> None:
    told: list[bool] = []
    client = client_of(peer.port)

    async def fail_once(restarted: bool) -> None:
        told.append(restarted)
        if told == [False, True]:
            raise AriRefused(404, "POST channels/1.1", "Channel not found")

    client.on_connected(fail_once)
    with capture_logs() as logs:
        async with running(client):
            await until(lambda: told == [False])
            peer.startup_time = "2026-11-21T09:00:00.000+0000"
            peer.drop()
            await until(lambda: told == [False, True])
            await client.asterisk.startup_time()
            assert len(peer.handshakes) == 2  # the handler's fault did not cost the link
            peer.drop()
            await until(lambda: told == [False, True, True])
    assert [entry["event"] for entry in logs].count("ari_on_connected_failed") == 1


async def test_restart_is_told_although_the_first_connect_was_not_finished(peer: Peer) -> None:
    told: list[bool] = []
    client = client_of(peer.port)

    async def fail_once(restarted: bool) -> None:
        told.append(restarted)
        if told == [False]:
            raise AriUnavailable("the link broke")

    client.on_connected(fail_once)
    async with running(client):
        await until(lambda: told == [False])
        peer.startup_time = "2026-11-21T09:00:00.000+0000"
        peer.drop()
        await until(lambda: told == [False, True])


async def test_handler_that_takes_long_delays_neither_requests_nor_events_nor_the_end(peer: Peer) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def dawdle(_restarted: bool) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.3)  # as one that rolls a transaction back
            ended.set()

    seen = Seen()
    client = client_of(peer.port, request_timeout_s=60.0)
    client.on_connected(dawdle)
    follow(client, seen)
    peer.replies["GET channels"] = silence
    async with running(client):
        await asyncio.wait_for(begun.wait(), 5)
        await peer.send(stasis_start("1.1"))
        await seen.wait_for(1)
        waiting = asyncio.ensure_future(client.send("GET", "channels"))
        await peer.wait_for(1, "GET channels")
        peer.drop()
        with pytest.raises(AriUnavailable):
            await asyncio.wait_for(waiting, 0.2)
        assert not ended.is_set()
        assert not client.connected
        await client.wait_connected(5)
        assert ended.is_set()
    assert peer.client_sockets_max == 1


# Events


async def test_events_of_a_call_are_handled_in_order(peer: Peer) -> None:
    seen = Seen()
    client = client_of(peer.port)
    follow(client, seen)
    async with running(client):
        await peer.send(stasis_start("1.1"))
        for cause in range(1, 31):
            await peer.send(destroyed("1.1", cause))
        assert (await seen.wait_for(31))[1:] == [("ChannelDestroyed", "1.1", cause) for cause in range(1, 31)]


async def test_handler_that_hangs_holds_up_neither_another_call_nor_an_answer(peer: Peer) -> None:
    seen = Seen()
    release = asyncio.Event()

    async def handler(channel: Channel, event: events.CallEvent, moment: Moment) -> None:
        if channel.id == "1.1":
            await release.wait()
        await seen(channel, event, moment)

    client = client_of(peer.port)
    follow(client, handler)
    async with running(client):
        await peer.send(stasis_start("1.1"))
        await peer.send(stasis_start("2.2"))
        assert await seen.wait_for(1) == [("StasisStart", "2.2", 0)]
        assert await client.asterisk.startup_time() == peer.startup_time
        release.set()
        assert ("StasisStart", "1.1", 0) in await seen.wait_for(2)


async def test_handler_that_fails_costs_one_event(peer: Peer) -> None:
    seen = Seen()

    async def handler(channel: Channel, event: events.CallEvent, moment: Moment) -> None:
        await seen(channel, event, moment)
        if isinstance(event, events.StasisStart):
            raise RuntimeError("no such line")

    client = client_of(peer.port)
    follow(client, handler)
    with capture_logs() as logs:
        async with running(client):
            await peer.send(stasis_start("1.1"))
            await peer.send(destroyed("1.1"))
            await seen.wait_for(2)
    assert [entry["event"] for entry in logs].count("call_event_failed") == 1


async def test_events_past_the_bound_are_dropped_and_counted(peer: Peer) -> None:
    begun, release = asyncio.Event(), asyncio.Event()
    seen = Seen()

    async def handler(channel: Channel, event: events.CallEvent, moment: Moment) -> None:
        begun.set()
        await release.wait()
        await seen(channel, event, moment)

    client = client_of(peer.port, CallQueues(depth_max=2))
    follow(client, handler)
    async with running(client):
        await peer.send(stasis_start("1.1"))
        await asyncio.wait_for(begun.wait(), 5)
        for cause in range(1, 6):
            await peer.send(destroyed("1.1", cause))
        await until(lambda: client.queues.dropped == 3)
        release.set()
        assert [cause for _, _, cause in await seen.wait_for(3)] == [0, 1, 2]


async def test_channel_that_cannot_be_taken_goes_on_in_its_dialplan(peer: Peer) -> None:
    """Without it the caller would wait in Stasis, in silence, for an answer that nobody prepares."""
    seen = Seen()
    client = client_of(peer.port, CallQueues(calls_max=1))
    follow(client, seen)
    async with running(client):
        await peer.send(stasis_start("1.1"))
        await peer.send(stasis_start("2.2"))
        await peer.wait_for(1, "POST channels/2.2/continue")
        await peer.send(destroyed("2.2"))
        await client.asterisk.startup_time()
    assert seen.events == [("StasisStart", "1.1", 0)]
    assert peer.named("POST channels/1.1/continue") == []


async def test_event_that_is_not_followed_is_named(peer: Peer) -> None:
    with pytest.raises(ValueError, match="'ChannelVarset' is not followed; known are ChannelDestroyed"):
        client_of(peer.port).on_channel_event("ChannelVarset", Seen())


GARBAGE = [
    b"",
    b"\x00",
    b"not JSON",
    b"[]",
    b'{"type":"ChannelVarset","channel":{"id":"1.1","name":"x"}}',
    b'{"type":"StasisStart","channel":{"id":1,"name":"x"}}',
    b'{"type":"StasisStart","args":["\xff"],"channel":{"id":"1.1","name":"x"}}',
    b'{"type":"StasisStart","replaced":' + b"[" * 100_000,
    b'{"type":"RESTResponse","request_id":7}',
]


async def test_garbage_is_counted_and_the_link_stays(peer: Peer) -> None:
    seen = Seen()
    client = client_of(peer.port)
    follow(client, seen)
    with capture_logs() as logs:
        async with running(client):
            for frame in GARBAGE:
                await peer.send(frame)
            await peer.send_binary(msgspec.json.encode(stasis_start("9.9")))
            await peer.send({"type": "RESTResponse", "request_id": "no such request", "status_code": 200})
            await peer.send(stasis_start("1.1"))
            assert await seen.wait_for(1) == [("StasisStart", "1.1", 0)]
            assert client.unreadable == len(GARBAGE)
    assert len(peer.handshakes) == 1
    assert [entry["event"] for entry in logs].count("ari_event_unreadable") == len(GARBAGE)


async def test_frame_past_the_limit_breaks_the_link_and_one_within_does_not(peer: Peer) -> None:
    client = client_of(peer.port, event_bytes_max=10_000)
    with capture_logs() as logs:
        async with running(client):
            await peer.send(b" " * 9_000)
            await client.asterisk.startup_time()
            assert len(peer.handshakes) == 1
            await peer.send(b" " * 11_000)
            await peer.wait_for_handshakes(2)
            await client.wait_connected(5)
    assert "ari_link_broken" in [entry["event"] for entry in logs]
    assert peer.client_sockets_max == 1


# Taken over


async def test_replaced_client_is_fenced_for_good(peer: Peer) -> None:
    peer.replies["GET channels"] = silence
    client = client_of(peer.port, request_timeout_s=60.0)
    with capture_logs() as logs:
        async with running(client):
            waiting = asyncio.ensure_future(client.send("GET", "channels"))
            await peer.wait_for(1, "GET channels")
            await peer.send({"type": "ApplicationReplaced", "application": "fairdial"})
            with pytest.raises(AriUnavailable):
                await asyncio.wait_for(waiting, 1)
            assert client.fenced.is_set()
            with pytest.raises(AriUnavailable, match="not connected"):
                await client.request("GET", "channels")
            await asyncio.sleep(0.3)  # six of the longest waits between attempts
            assert not client.connected
            assert client_sockets(peer.port) == 0
    assert len(peer.handshakes) == 1
    assert [entry["event"] for entry in logs if entry["log_level"] == "critical"] == [
        "ari_application_replaced"
    ]


# Peers that go silent


async def test_peer_that_answers_no_ping_is_dropped_and_one_that_does_is_kept(peer: Peer) -> None:
    heartbeat_s = 0.2
    async with running(client_of(peer.port, heartbeat_s=heartbeat_s)) as client:
        await asyncio.sleep(5 * heartbeat_s)
        assert len(peer.handshakes) == 1
        peer.answers_pings = False
        await client.asterisk.startup_time()
        begun_s = asyncio.get_running_loop().time()
        await peer.wait_for_handshakes(2)
        assert heartbeat_s < elapsed_s(begun_s) < 2.5 * heartbeat_s
        peer.answers_pings = True
        await client.wait_connected(5)
    assert peer.client_sockets_max == 1


async def test_frozen_peer_with_full_buffers_leaves_no_socket_behind(peer: Peer) -> None:
    """What could not be written must not keep the old socket alive, nor what was not read."""
    large = "x" * 1_000_000
    async with running(
        client_of(peer.port, heartbeat_s=0.4, request_timeout_s=60.0, backoff_s=(0.2, 0.2))
    ) as client:
        peer.freeze()
        waiting = [client.send("GET", "channels", {"padding": large}) for _ in range(40)]
        results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
        assert all(isinstance(result, AriUnavailable) for result in results)
        await peer.wait_for_handshakes(2)
        assert peer.client_sockets_max == 1
        peer.listening.set()
        await client.wait_connected(5)


class Mute:
    """Takes connections and never says a word of ARI. `conduct`: listens, upgrades, or leaves (after upgrading)."""

    def __init__(self, conduct: str) -> None:
        self.conduct = conduct
        self.port = 0
        self.accepted = 0
        self.client_sockets_max = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Mute"]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self.client_sockets_max = max(self.client_sockets_max, client_sockets(self.port))
        try:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            key = next(line[19:] for line in lines if line.startswith("Sec-WebSocket-Key: "))
            digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
            if self.conduct != "listens":
                writer.write(
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
                )
            if self.conduct == "leaves":
                return
            while await reader.read(65536):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@pytest.mark.parametrize("conduct", ["listens", "upgrades", "leaves"])
async def test_mute_peer_is_tried_again_with_one_socket_at_a_time(conduct: str) -> None:
    async with Mute(conduct).open() as mute:
        begun_s = asyncio.get_running_loop().time()
        async with running(
            client_of(mute.port, request_timeout_s=0.1, backoff_s=(0.1, 0.1)), wait=False
        ) as client:
            await until(lambda: mute.accepted == 3)
            assert not client.connected
        assert elapsed_s(begun_s) > 0.1
        assert mute.client_sockets_max == 1


# Stopping


async def _is_connected(client: Client, peer: Peer) -> None:
    await client.wait_connected(5)


async def _is_frozen(client: Client, peer: Peer) -> None:
    await client.wait_connected(5)
    peer.freeze()
    client.send("GET", "channels", {"padding": "x" * 30_000_000})
    await asyncio.sleep(0.1)


async def _is_refused(client: Client, peer: Peer) -> None:
    peer.refuse_with = 401
    peer.drop()
    await peer.wait_for_handshakes(2)


async def _is_greeting(client: Client, peer: Peer) -> None:
    peer.replies["PUT applications/fairdial/eventFilter"] = silence
    peer.drop()
    await peer.wait_for(1)


async def _is_fenced(client: Client, peer: Peer) -> None:
    await client.wait_connected(5)
    await peer.send({"type": "ApplicationReplaced"})
    await asyncio.wait_for(client.fenced.wait(), 5)


@pytest.mark.parametrize("state", [_is_connected, _is_frozen, _is_refused, _is_greeting, _is_fenced])
async def test_stop_leaves_neither_task_nor_socket_nor_waiting_request(
    peer: Peer, state: Callable[[Client, Peer], Awaitable[None]]
) -> None:
    client = client_of(peer.port, request_timeout_s=60.0, backoff_s=(0.05, 60.0))
    await client.start()
    await state(client, peer)
    waiting = asyncio.ensure_future(client.send("GET", "channels"))
    begun_s = asyncio.get_running_loop().time()
    await client.stop()
    assert elapsed_s(begun_s) < 1.5
    with pytest.raises(AriError):
        await asyncio.wait_for(waiting, 1)
    await asyncio.sleep(0)
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("ari")] == []
    assert client_sockets(peer.port) == 0
    assert not client.connected
    gc.collect()  # an unclosed transport would warn here


async def test_stop_while_connecting_is_quick() -> None:
    async with Mute("listens").open() as mute:
        client = client_of(mute.port, request_timeout_s=60.0)
        await client.start()
        await until(lambda: mute.accepted == 1)
        await asyncio.wait_for(client.stop(), 1)
        assert client_sockets(mute.port) == 0


async def test_client_that_never_started_can_be_stopped(peer: Peer) -> None:
    client = client_of(peer.port)
    await client.stop()
    assert peer.handshakes == []
