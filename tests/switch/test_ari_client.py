"""The ARI client against a real Asterisk, and the facts about Asterisk that the client and its users rely on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from ari_handlers import events
from ari_handlers.client import AriSettings, Client
from ari_handlers.queues import CallQueues
from ari_handlers.resources import AriRefused, AriTimeout, AriUnavailable, Channel
from fairdial.clock import Moment, SystemClock
from testbed.asterisk import Switch
from testbed.installation import Installation

EXTENSIONS = """
[calls]
exten => far,1,Answer()
 same => n,Wait(60)
exten => asking,1,Stasis(fairdial,outbound,${EXTEN})
 same => n,Set(GLOBAL(LEFT)=${STASISSTATUS}:${ANSWER})
 same => n,Dial(Local/far@calls)
"""
Seen = tuple[str, str, str]


@pytest.fixture
async def switch(installation: Installation) -> AsyncIterator[Switch]:
    async with Switch.start(installation, EXTENSIONS) as running:
        yield running


class Followed:
    """Notes each event as type, channel and dial status; the channel is the one that the call is known by."""

    def __init__(self, client: Client) -> None:
        self.events: list[Seen] = []
        self._changed = asyncio.Condition()
        for event_type in ("StasisStart", "StasisEnd", "Dial", "ChannelDestroyed"):
            client.on_channel_event(event_type, self._note)

    async def _note(self, channel: Channel, event: events.CallEvent, _moment: Moment) -> None:
        async with self._changed:
            self.events.append((type(event).__name__, channel.id, getattr(event, "dialstatus", "")))
            self._changed.notify_all()

    async def wait_for(self, *seen: Seen) -> None:
        """Return once those events came, in whatever order."""
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(lambda: set(seen) <= set(self.events))


def client_of(switch: Switch, queues: CallQueues | None = None, **settings: Any) -> Client:
    ari = AriSettings(switch.ari_url, switch.ari_user, switch.ari_password, **settings)
    return Client(ari, SystemClock(), CallQueues() if queues is None else queues)


@asynccontextmanager
async def running(client: Client) -> AsyncIterator[Client]:
    await client.start()
    try:
        await client.wait_connected(5)
        yield client
    finally:
        await client.queues.stop(0.1)
        await client.stop()


async def ask(client: Client, extension: str = "asking", name: str = "call") -> Channel:
    """Begin a call at that extension and return its channel, the second half of a Local channel."""
    await client.request(
        "POST",
        "channels",
        {
            "endpoint": f"Local/{extension}@calls",
            "extension": "far",
            "context": "calls",
            "priority": "1",
            "channelId": name,
        },
    )
    return client.channels.get(f"{name};2")


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


ALL_CHANNELS = "__AST_CHANNEL_ALL_TOPIC"


async def listed(client: Client) -> frozenset[str]:
    """What the application is subscribed to."""
    body = await client.request("GET", "applications/fairdial")
    return frozenset(msgspec.json.decode(body)["channel_ids"])


async def dialplan_went_on(switch: Switch) -> str:
    """STASISSTATUS and ANSWER as the dialplan saw them after Stasis()."""
    async with asyncio.timeout(5):
        while True:
            for line in (await switch.cli("dialplan show globals")).splitlines():
                name, _, value = line.strip().partition("=")
                if name == "LEFT":
                    return value
            await asyncio.sleep(0.02)


async def test_it_connects_and_knows_the_switch(switch: Switch) -> None:
    async with running(client_of(switch)) as client:
        assert (await client.asterisk.version()).startswith("22.")
        assert (await client.asterisk.startup_time()).startswith("20")
        assert await client.channels.list() == ()


async def test_wrong_password_never_connects(switch: Switch) -> None:
    ari = AriSettings(switch.ari_url, switch.ari_user, "wrong")
    client = Client(ari, SystemClock(), CallQueues())
    await client.start()
    try:
        with pytest.raises(AriUnavailable):
            await client.wait_connected(0.5)
    finally:
        await client.stop()


async def test_requests_sent_in_one_go_are_done_in_order(switch: Switch) -> None:
    client = client_of(switch)
    followed = Followed(client)
    async with running(client):
        channel = await ask(client)
        await followed.wait_for(("StasisStart", channel.id, ""))
        sent = [channel.send_variable("ANSWER", str(index)) for index in range(100)]
        sent.append(channel.send_continue())
        await asyncio.gather(*sent)
        assert await dialplan_went_on(switch) == "SUCCESS:99"


async def test_channels_are_heard_of_that_left_stasis_and_that_never_were_in_it(switch: Switch) -> None:
    client = client_of(switch)
    followed = Followed(client)
    async with running(client):
        channel = await ask(client)
        await followed.wait_for(("StasisStart", channel.id, ""))
        await channel.continue_in_dialplan()
        await dialplan_went_on(switch)
        await followed.wait_for(("StasisEnd", channel.id, ""))
        await followed.wait_for(("Dial", channel.id, "ANSWER"))
        await channel.hangup()
        await followed.wait_for(("ChannelDestroyed", channel.id, ""))
        assert await switch.no_channels() == []
    # Once each: the subscription to all channels does not double what the application gets of its own.
    assert followed.events.count(("StasisStart", channel.id, "")) == 1
    assert followed.events.count(("Dial", channel.id, "ANSWER")) == 1


async def test_refusals_have_the_documented_status(switch: Switch) -> None:
    client = client_of(switch)
    followed = Followed(client)
    async with running(client):
        channel = await ask(client)
        await followed.wait_for(("StasisStart", channel.id, ""))
        await channel.set_variable("ANSWER", "yes")
        await channel.continue_in_dialplan()
        assert await dialplan_went_on(switch) == "SUCCESS:yes"
        statuses = []
        for request in (
            channel.send_variable("ANSWER", "late"),
            channel.send_continue(),
            client.channels.get("none").send_variable("ANSWER", "late"),
        ):
            with pytest.raises(AriRefused) as refused:
                await request
            statuses.append(refused.value.status)
        assert statuses == [409, 409, 404]
        await channel.hangup()
        assert await switch.no_channels() == []
        await channel.hangup()  # 404, which is no error


@pytest.mark.parametrize("value", ["a%20b+c&d=e;f", "ü\"'\\ ${CHANNEL} ,", "x" * 9_000, ""])
async def test_values_and_ids_arrive_as_they_are(switch: Switch, value: str) -> None:
    client = client_of(switch)
    followed = Followed(client)
    async with running(client):
        channel = await ask(client, name="a b%2/ü?x=y")
        await followed.wait_for(("StasisStart", channel.id, ""))
        await channel.set_variable("ANSWER", value)
        body = await client.request("GET", f"{channel._path}/variable", {"variable": "ANSWER"})
        assert msgspec.json.decode(body) == {"value": value}


@pytest.mark.parametrize("filtered", [True, False])
async def test_only_events_that_are_wanted_are_sent(switch: Switch, filtered: bool) -> None:
    client = client_of(switch)
    followed = Followed(client)
    async with running(client):
        if not filtered:
            await client.applications.set_event_filter(())
        channel = await ask(client)
        await followed.wait_for(("StasisStart", channel.id, ""))
        await channel.set_variable("ANSWER", "yes")
        await channel.continue_in_dialplan()
        await followed.wait_for(("StasisEnd", channel.id, ""))
        await client.asterisk.startup_time()
        # ChannelVarset is not among the events that the client can read.
        assert (client.unreadable == 0) is filtered


async def test_answers_to_requests_pass_the_event_filter_too(switch: Switch) -> None:
    """Why RESTResponse must be among the types."""
    async with running(client_of(switch, request_timeout_s=0.5)) as client:
        assert await client.asterisk.startup_time()
        with pytest.raises(AriTimeout):
            await client.applications.set_event_filter(("StasisStart",))
        with pytest.raises(AriTimeout):
            await client.asterisk.startup_time()


async def test_second_client_fences_the_first_for_good(switch: Switch) -> None:
    async with running(client_of(switch)) as first, running(client_of(switch)) as second:
        await asyncio.wait_for(first.fenced.wait(), 5)
        with pytest.raises(AriUnavailable):
            await first.channels.list()
        await asyncio.sleep(0.5)  # several times the first wait before a reconnect
        assert not first.connected
        assert not second.fenced.is_set()
        assert await second.channels.list() == ()


async def test_channel_past_the_bound_goes_on_without_an_answer(switch: Switch) -> None:
    client = client_of(switch, CallQueues(calls_max=0))
    followed = Followed(client)
    async with running(client):
        await ask(client)
        assert await dialplan_went_on(switch) == "SUCCESS:"
    assert followed.events == []


async def test_restart_of_asterisk_is_noticed_and_channels_are_followed_anew(switch: Switch) -> None:
    told: asyncio.Queue[bool] = asyncio.Queue()
    client = client_of(switch)
    followed = Followed(client)
    client.on_connected(told.put)
    async with running(client):
        assert await asyncio.wait_for(told.get(), 5) is False
        channel = await ask(client)
        await followed.wait_for(("StasisStart", channel.id, ""))
        assert await listed(client) == {ALL_CHANNELS}
        switch.kill()
        await until(lambda: not client.connected)
        await switch.restart()
        assert await asyncio.wait_for(told.get(), 10) is True
        assert await listed(client) == {ALL_CHANNELS}
        assert await client.channels.list() == ()


async def test_channels_in_stasis_outlive_the_socket(switch: Switch) -> None:
    """A caller who is in Stasis when the link breaks stays there until somebody continues the channel."""
    first = client_of(switch)
    followed = Followed(first)
    async with running(first):
        waiting = await ask(first, name="waiting")
        await followed.wait_for(("StasisStart", waiting.id, ""))
    second = client_of(switch)
    followed = Followed(second)
    async with running(second):
        [info] = [info for info in await second.channels.list() if info.id == waiting.id]
        assert (info.dialplan.app_name, info.dialplan.app_data) == ("Stasis", "fairdial,outbound,asking")
        await second.channels.get(waiting.id).continue_in_dialplan()
        async with asyncio.timeout(5):
            while waiting.id in {
                info.id for info in await second.channels.list() if info.dialplan.app_name == "Stasis"
            }:
                await asyncio.sleep(0.02)
    announced = [event for event in followed.events if event[0] == "StasisStart"]
    assert announced == [], "a channel that was in Stasis before is not announced again"


async def test_frozen_switch_is_noticed_within_the_heartbeat_and_found_again(switch: Switch) -> None:
    heartbeat_s = 0.6
    told: asyncio.Queue[bool] = asyncio.Queue()
    client = client_of(switch, heartbeat_s=heartbeat_s, request_timeout_s=5.0)
    client.on_connected(told.put)
    async with running(client):
        assert await asyncio.wait_for(told.get(), 5) is False
        await asyncio.sleep(3 * heartbeat_s)
        assert told.empty(), "the link was kept: Asterisk answers pings"
        switch.freeze()
        try:
            begun_s = asyncio.get_running_loop().time()
            with pytest.raises(AriUnavailable, match="broke"):
                await client.request("GET", "channels")
            assert asyncio.get_running_loop().time() - begun_s < 2.5 * heartbeat_s
            assert not client.connected
        finally:
            switch.thaw()
        assert await asyncio.wait_for(told.get(), 10) is False
        assert await client.channels.list() == ()
