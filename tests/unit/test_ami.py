"""The AMI link against a scripted peer, for the faults that a healthy Asterisk never shows."""

import asyncio
import contextlib
import gc
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from panoramisk.actions import Action
from structlog.testing import capture_logs

from agi_app.ami import (
    HEADER_LINE_BYTES_MAX,
    LEASE_MS_MAX,
    MESSAGE_BYTES_MAX,
    AmiLink,
    AmiLoginRefused,
    AmiNoSuchChannel,
    AmiRefused,
    AmiTimeout,
    AmiUnavailable,
)

FAST: dict[str, Any] = {
    "action_timeout_s": 0.2,
    "ping_interval_s": 0.05,
    "pong_timeout_s": 0.1,
    "reconnect_backoff_s": (0.01, 0.05),
    "refused_backoff_s": (0.2, 0.4),
}
CALM: dict[str, Any] = {**FAST, "ping_interval_s": 60.0}

Headers = dict[str, str]
Reply = Callable[[Headers], str | None]


def success(_action: Headers) -> str:
    return "Response: Success"


def error(message: str) -> Reply:
    return lambda _action: f"Response: Error\r\nMessage: {message}"


def silence(_action: Headers) -> None:
    return None


class Peer:
    """Speaks as much AMI as a test needs. `replies`: name of an action -> its answer; None is silence."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {}
        self.received: list[Headers] = []
        self.logins = 0
        self.port = 0
        self._arrival = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.drop()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def drop(self) -> None:
        """Close every connection, as a dying Asterisk does."""
        for writer in self._writers:
            writer.transport.abort()

    def send(self, text: str | bytes) -> None:
        for writer in self._writers:
            writer.write(text if isinstance(text, bytes) else text.encode() + b"\r\n\r\n")

    async def wait_for(self, name: str, count: int = 1) -> list[Headers]:
        """The first `count` actions of that name, once they have arrived."""
        async with asyncio.timeout(5), self._arrival:
            await self._arrival.wait_for(lambda: len(self.actions(name)) >= count)
            return self.actions(name)[:count]

    def actions(self, name: str) -> list[Headers]:
        return [action for action in self.received if action["Action"] == name]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        writer.write(b"Asterisk Call Manager/11.0.0\r\n")
        try:
            while True:
                text = (await reader.readuntil(b"\r\n\r\n")).decode()
                action = dict(line.split(": ", 1) for line in text.strip().split("\r\n"))
                reply = self.replies.get(action["Action"], success)(action)
                if reply is not None:
                    writer.write(f"{reply}\r\nActionID: {action['ActionID']}\r\n\r\n".encode())
                async with self._arrival:
                    self.received.append(action)
                    self._arrival.notify_all()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    scripted = Peer()
    await scripted.listen()
    yield scripted
    await scripted.close()


@asynccontextmanager
async def linked(peer: Peer, *, wait: bool = True, **options: Any) -> AsyncIterator[AmiLink]:
    link = AmiLink("127.0.0.1", peer.port, "fairdial", "s3cret", **{**CALM, **options})
    await link.start()
    try:
        if wait:
            await link.wait_connected(5)
        yield link
    finally:
        await link.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


# Logging in


async def test_link_logs_in_with_events_off_and_carries_actions(peer: Peer) -> None:
    peer.replies["Getvar"] = lambda _: "Response: Success\r\nVariable: X\r\nValue: Zoë: 1"
    async with linked(peer) as link:
        assert link.connected
        answer = await link.action("Getvar", Channel="PJSIP/a-1", Variable="X")
    assert {name: answer[name] for name in ("Response", "Variable", "Value")} == {
        "Response": "Success",
        "Variable": "X",
        "Value": "Zoë: 1",
    }
    login = peer.actions("Login")[0]
    assert (login["Username"], login["Secret"], login["Events"]) == ("fairdial", "s3cret", "off")
    assert peer.actions("Getvar")[0]["Channel"] == "PJSIP/a-1"


async def test_refused_login_is_said_loudly_and_tried_again_slowly(peer: Peer) -> None:
    peer.replies["Login"] = error("Authentication failed")
    with capture_logs() as logs:
        async with linked(peer, wait=False, refused_backoff_s=(0.2, 0.2)) as link:
            with pytest.raises(AmiLoginRefused, match=r"'fairdial'.*Authentication failed.*manager\.conf"):
                await link.wait_connected(5)
            assert (link.connected, link.login_refused, link.connects) == (False, True, 0)
            with pytest.raises(AmiUnavailable, match="Authentication failed"):
                await link.action("Ping")
            await asyncio.sleep(0.1)
            assert len(peer.actions("Login")) == 1
            del peer.replies["Login"]
            await peer.wait_for("Login", 2)
            await until(lambda: link.connected)
            assert not link.login_refused
    errors = [entry for entry in logs if entry["log_level"] == "error"]
    assert [entry["event"] for entry in errors] == ["ami_login_refused"]
    assert "s3cret" not in repr(logs)


async def test_login_without_an_answer_is_given_up_and_tried_again(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agi_app.ami.LOGIN_TIMEOUT_S", 0.05)
    peer.replies["Login"] = silence
    async with linked(peer, wait=False) as link:
        await peer.wait_for("Login", 2)
        assert not link.connected


# Connecting again


async def test_link_starts_before_asterisk_does() -> None:
    peer = Peer()
    await peer.listen()
    await peer.close()
    async with linked(peer, wait=False) as link:
        with pytest.raises(AmiUnavailable, match=r"no AMI connection to 127\.0\.0\.1"):
            await link.wait_connected(0.05)
        await peer.listen()
        await link.wait_connected(5)
    await peer.close()


async def test_attempts_back_off_to_the_longest_wait(peer: Peer) -> None:
    """A peer that closes every connection right after the login is tried at 10, 20, 40, 80, 80 … ms."""
    times: list[float] = []

    def close(_action: Headers) -> None:
        times.append(asyncio.get_running_loop().time())
        asyncio.get_running_loop().call_soon(peer.drop)

    peer.replies["Login"] = close
    async with linked(peer, wait=False, reconnect_backoff_s=(0.01, 0.08)):
        await until(lambda: len(times) >= 6)
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(wait >= least for wait, least in zip(waits, (0.01, 0.02, 0.04, 0.08, 0.08), strict=False))


async def test_backoff_starts_anew_after_a_link_that_was_good(peer: Peer) -> None:
    def close(_action: Headers) -> None:
        asyncio.get_running_loop().call_soon(peer.drop)

    peer.replies["Login"] = close
    async with linked(peer, wait=False, **{**FAST, "reconnect_backoff_s": (0.02, 10.0)}) as link:
        await peer.wait_for("Login", 5)
        del peer.replies["Login"]
        await peer.wait_for("Ping", 2)
        peer.drop()
        # The next wait would be 0.64 s or more.
        await until(lambda: not link.connected)
        async with asyncio.timeout(0.4):
            await link.wait_connected(5)


async def test_refusal_is_forgotten_once_the_address_stops_answering(peer: Peer) -> None:
    peer.replies["Login"] = error("Authentication failed")
    async with linked(peer, wait=False, refused_backoff_s=(0.05, 0.05)) as link:
        await peer.wait_for("Login")
        await until(lambda: link.login_refused)
        await peer.close()
        await until(lambda: not link.login_refused)
        with pytest.raises(AmiUnavailable):
            await link.wait_connected(0.01)


async def test_lost_link_is_made_again_once(peer: Peer) -> None:
    async with linked(peer) as link:
        for count in range(2, 5):
            peer.drop()
            await peer.wait_for("Login", count)
            await link.wait_connected(5)
        await link.action("Ping")
        assert len(peer.actions("Login")) == link.connects == 4


@pytest.mark.parametrize("announced", [True, False])
async def test_stop_is_final(peer: Peer, announced: bool) -> None:
    before = asyncio.all_tasks()
    async with linked(peer) as link:
        if announced:
            peer.send("Event: Shutdown\r\nShutdown: Cleanly")
            await peer.wait_for("Login", 2)
    logins = len(peer.actions("Login"))
    await asyncio.sleep(0.1)
    assert len(peer.actions("Login")) == logins
    assert not link.connected
    with pytest.raises(AmiUnavailable):
        await link.action("Ping")
    await until(lambda: asyncio.all_tasks() == before)


async def test_stop_while_connecting_and_without_start_ends_at_once(peer: Peer) -> None:
    peer.replies["Login"] = silence
    async with asyncio.timeout(1):
        async with linked(peer, wait=False):
            await peer.wait_for("Login")
        link = AmiLink("127.0.0.1", peer.port, "fairdial", "s3cret")
        await link.stop()


# The watchdog


async def test_link_with_pongs_stays_up(peer: Peer) -> None:
    async with linked(peer, **FAST) as link:
        await peer.wait_for("Ping", 5)
        assert link.connected
        assert len(peer.actions("Login")) == 1


async def test_link_without_a_pong_is_dropped_and_made_again(peer: Peer) -> None:
    peer.replies["Ping"] = silence
    async with linked(peer, **FAST) as link:
        await peer.wait_for("Login", 2)
        peer.replies["Ping"] = success
        await link.wait_connected(5)
        logins = len(peer.actions("Login"))
        await peer.wait_for("Ping", len(peer.actions("Ping")) + 3)
        assert (link.connected, len(peer.actions("Login"))) == (True, logins)


# Actions that fail


async def test_action_without_an_answer_ends_by_its_time_limit_and_the_link_stays(peer: Peer) -> None:
    peer.replies["Setvar"] = silence
    async with linked(peer) as link:
        with pytest.raises(AmiTimeout, match=r"Setvar: no answer within 0\.2 s"):
            await link.set_lease("PJSIP/a-1", 60_000)
        late = peer.actions("Setvar")[0]["ActionID"]
        peer.send(f"Response: Success\r\nActionID: {late}")
        await link.action("Ping")
        assert link.connected


async def test_unanswered_actions_do_not_pile_up_on_a_link_that_stays(peer: Peer) -> None:
    def kept() -> int:
        return sum(isinstance(thing, Action) for thing in gc.get_objects())

    peer.replies["Setvar"] = silence
    async with linked(peer, action_timeout_s=0.05) as link:
        before = kept()
        leases = (link.set_lease(f"PJSIP/a-{n}", 60_000) for n in range(50))
        results = await asyncio.gather(*leases, return_exceptions=True)
        assert [type(result) for result in results] == [AmiTimeout] * 50
        del results
        await link.action("Ping")
        gc.collect()
        assert kept() <= before


async def test_pending_action_fails_when_the_link_drops_and_is_never_sent_again(peer: Peer) -> None:
    peer.replies["Setvar"] = silence
    async with linked(peer, action_timeout_s=5.0) as link:
        lease = asyncio.create_task(link.set_lease("PJSIP/a-1", 60_000))
        await peer.wait_for("Setvar")
        peer.drop()
        async with asyncio.timeout(1):
            with pytest.raises(AmiUnavailable, match="lost before the answer"):
                await lease
        await peer.wait_for("Login", 2)
        await link.wait_connected(5)
        peer.send("Event: FullyBooted\r\nStatus: Fully Booted")
        await link.action("Ping")
        assert len(peer.actions("Setvar")) == 1


async def test_action_pending_at_the_event_shutdown_is_never_sent_again(peer: Peer) -> None:
    peer.replies["Setvar"] = silence
    async with linked(peer, action_timeout_s=5.0) as link:
        lease = asyncio.create_task(link.set_lease("PJSIP/a-1", 60_000))
        await peer.wait_for("Setvar")
        peer.send("Event: Shutdown\r\nShutdown: Cleanly")
        with pytest.raises(AmiUnavailable):
            await lease
        await peer.wait_for("Login", 2)
        await link.wait_connected(5)
        await link.action("Ping")
        assert len(peer.actions("Setvar")) == 1


async def test_stop_ends_a_pending_action(peer: Peer) -> None:
    peer.replies["Setvar"] = silence
    async with linked(peer, action_timeout_s=5.0) as link:
        lease = asyncio.create_task(link.set_lease("PJSIP/a-1", 60_000))
        await peer.wait_for("Setvar")
        await link.stop()
        with pytest.raises(AmiUnavailable):
            await lease


async def test_cancelled_action_frees_its_place(peer: Peer) -> None:
    peer.replies["Setvar"] = silence
    async with linked(peer, action_timeout_s=5.0, actions_max=1) as link:
        lease = asyncio.create_task(link.set_lease("PJSIP/a-1", 60_000))
        await peer.wait_for("Setvar")
        with pytest.raises(AmiUnavailable, match="1 AMI actions are under way"):
            await link.action("Ping")
        lease.cancel()
        with pytest.raises(asyncio.CancelledError):
            await lease
        await link.action("Ping")


async def test_refusal_carries_asterisks_own_words(peer: Peer) -> None:
    peer.replies["Originate"] = error("Permission denied")
    peer.replies["Setvar"] = error("No such channel")
    async with linked(peer) as link:
        with pytest.raises(AmiRefused, match="Originate: Permission denied"):
            await link.action("Originate", Channel="Local/s@x")
        with pytest.raises(AmiNoSuchChannel, match="Setvar: No such channel"):
            await link.set_lease("PJSIP/gone-1", 60_000)
        assert link.connected


# What may be sent


@pytest.mark.parametrize(
    ("name", "headers", "named"),
    [
        ("Setvar", {"Channel": "a\r\nAction: Originate"}, "control character in header Channel"),
        ("Setvar", {"Channel": "a\n"}, "control character in header Channel"),
        ("Setvar", {"Channel": "a\x00"}, "control character in header Channel"),
        ("Setvar", {"Value\r\nAction: Originate\r\nX": "1"}, "cannot be the name of a header"),
        ("Setvar", {"Channel: a": "1"}, "cannot be the name of a header"),
        ("Setvar", {"Channel": "a", "channel": "b"}, "header channel .* twice"),
        ("Setvar", {"ActionID": "1"}, "header ActionID is the link's own"),
        ("Setvar", {"action": "Originate"}, "header action .* twice"),
        ("Setvar\r\nX: 1", {}, "control character in header Action"),
        ("Setvar", {"Value": "\udcff"}, "header Value is not valid Unicode"),
        ("Setvar", {"Value": "x" * HEADER_LINE_BYTES_MAX}, "header Value has 1029 bytes"),
    ],
)
async def test_header_that_could_be_another_action_is_refused_by_name(
    peer: Peer, name: str, headers: Mapping[str, str], named: str
) -> None:
    async with linked(peer) as link:
        with pytest.raises(ValueError, match=named):
            await link.action(name, headers)
        await link.action("Ping")
    assert [action["Action"] for action in peer.received] == ["Login", "Ping"]


async def test_longest_header_and_plain_punctuation_pass(peer: Peer) -> None:
    value = "x" * (HEADER_LINE_BYTES_MAX - len("Value: "))
    async with linked(peer) as link:
        await link.action(
            "Setvar", {"Channel": "Local/1@a-00;2", "Variable": "TIMEOUT(absolute)", "Value": value}
        )
    assert peer.actions("Setvar")[0]["Value"] == value


@pytest.mark.parametrize("secret", ["hunter\r\n2", "hunter\x002"])
def test_secret_with_a_control_character_is_refused_without_showing_it(secret: str) -> None:
    with pytest.raises(ValueError, match="header Secret") as caught:
        AmiLink("127.0.0.1", 5038, "fairdial", secret)
    assert "hunter" not in str(caught.value)


async def test_lease_is_set_on_the_channel(peer: Peer) -> None:
    async with linked(peer) as link:
        await link.set_lease("1795292472.9", 90_050)
    sent = peer.actions("Setvar")[0]
    assert (sent["Channel"], sent["Variable"], sent["Value"]) == (
        "1795292472.9",
        "TIMEOUT(absolute)",
        "90.050",
    )


@pytest.mark.parametrize(
    ("channel", "lease_ms"),
    [("", 60_000), ("PJSIP/a-1", 0), ("PJSIP/a-1", -1), ("PJSIP/a-1", True), ("PJSIP/a-1", LEASE_MS_MAX + 1)],
)
async def test_lease_that_asterisk_would_take_for_no_limit_is_never_sent(
    peer: Peer, channel: str, lease_ms: int
) -> None:
    async with linked(peer) as link:
        with pytest.raises(ValueError, match="set_lease"):
            await link.set_lease(channel, lease_ms)
        await link.action("Ping")
    assert peer.actions("Setvar") == []


# Events


async def test_only_named_events_are_delivered_in_order_and_as_plain_mappings(peer: Peer) -> None:
    events: list[Mapping[str, str]] = []
    async with linked(peer, on_event=events.append, event_filter=("Hangup", "DialEnd")) as link:
        assert peer.actions("Filter")[0]["Filter"] == "Event: (DialEnd|Hangup)"
        assert [action["Action"] for action in peer.received] == ["Login", "Filter", "Events"]
        peer.send("Event: DialEnd\r\nChannel: PJSIP/a-1\r\nVariable: x\r\nVariable: y")
        peer.send("Event: HangupRequest\r\nChannel: PJSIP/a-1")
        peer.send("Event: Hangup\r\nChannel: PJSIP/a-1")
        await link.action("Ping")
    assert events == [
        {"Event": "DialEnd", "Channel": "PJSIP/a-1", "Variable": "x\ny"},
        {"Event": "Hangup", "Channel": "PJSIP/a-1"},
    ]
    assert all(type(event) is dict for event in events)


async def test_link_without_the_class_system_filters_by_itself_and_says_so(peer: Peer) -> None:
    peer.replies["Filter"] = error("Permission denied")
    events: list[Mapping[str, str]] = []
    with capture_logs() as logs:
        async with linked(peer, on_event=events.append, event_filter=("Hangup",)) as link:
            peer.send("Event: Newchannel\r\nChannel: PJSIP/a-1")
            peer.send("Event: Hangup\r\nChannel: PJSIP/a-1")
            await link.action("Ping")
    assert [event["Event"] for event in events] == ["Hangup"]
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["ami_filter_refused"]


async def test_raising_event_handler_costs_neither_the_link_nor_the_next_event(peer: Peer) -> None:
    seen: list[str] = []

    def on_event(event: Mapping[str, str]) -> None:
        seen.append(event["Channel"])
        raise RuntimeError("handler")

    with capture_logs() as logs:
        async with linked(peer, on_event=on_event, event_filter=("Hangup",)) as link:
            peer.send("Event: Hangup\r\nChannel: a")
            peer.send("Event: Hangup\r\nChannel: b")
            await link.action("Ping")
            assert link.connected
    assert seen == ["a", "b"]
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["ami_event_failed"] * 2


async def test_event_cut_inside_a_character_arrives_whole(peer: Peer) -> None:
    events: list[Mapping[str, str]] = []
    async with linked(peer, on_event=events.append, event_filter=("Hangup",)) as link:
        whole = "Event: Hangup\r\nCallerIDName: Zoë\r\n\r\n".encode()
        cut = whole.index(b"\xab")
        peer.send(whole[:cut])
        # Nothing tells that the first half was read; the outcome must be the same with and without it.
        await asyncio.sleep(0.02)
        peer.send(whole[cut:])
        await link.action("Ping")
    assert [event["CallerIDName"] for event in events] == ["Zoë"]


async def test_message_without_an_end_is_cut_at_the_bound(peer: Peer) -> None:
    with capture_logs() as logs:
        async with linked(peer, on_event=lambda _: None, event_filter=("Hangup",)) as link:
            peer.send(b"Event: Hangup\r\nX: " + b"x" * (2 * MESSAGE_BYTES_MAX))
            await peer.wait_for("Login", 2)
            await link.wait_connected(5)
    assert "ami_message_too_long" in [entry["event"] for entry in logs]


@pytest.mark.parametrize("names", [("Hangup|.*",), ("Hangup$",), ("",)])
def test_event_name_that_is_a_pattern_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="event_filter"):
        AmiLink("127.0.0.1", 5038, "u", "s", on_event=lambda _: None, event_filter=names)


def test_events_need_a_filter_and_a_filter_a_receiver() -> None:
    with pytest.raises(ValueError, match="go together"):
        AmiLink("127.0.0.1", 5038, "u", "s", on_event=lambda _: None)
    with pytest.raises(ValueError, match="go together"):
        AmiLink("127.0.0.1", 5038, "u", "s", event_filter=("Hangup",))


@pytest.mark.parametrize("backoff_s", [(0.0, 5.0), (2.0, 1.0), (-1.0, 1.0)])
def test_backoff_that_would_be_a_busy_loop_is_refused(backoff_s: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="backoff"):
        AmiLink("127.0.0.1", 5038, "u", "s", reconnect_backoff_s=backoff_s)
