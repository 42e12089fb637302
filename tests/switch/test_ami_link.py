"""The AMI link against a real Asterisk: leases that the switch keeps, and a switch that freezes or dies."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from agi_app.ami import (
    HEADER_LINE_BYTES_MAX,
    AmiError,
    AmiLink,
    AmiLoginRefused,
    AmiNoSuchChannel,
    AmiRefused,
    AmiUnavailable,
)
from testbed.asterisk import Switch
from testbed.installation import Installation, obtain

EXTENSIONS = """
[calls]
exten => far,1,Answer()
 same => n,Wait(60)
exten => dialling,1,Answer()
 same => n,Dial(Local/far@calls)
"""


@pytest.fixture(scope="module")
def installation() -> Installation:
    return obtain()


@pytest.fixture
async def switch(installation: Installation) -> AsyncIterator[Switch]:
    async with Switch.start(installation, EXTENSIONS) as running:
        await running.cli("module load res_clioriginate.so")
        # Hangup, by which these tests see a lease end, is an event of the class call; FairDial has no use for it.
        configuration = running.directory / "etc" / "manager.conf"
        text = re.sub(r"^eventfilter=.*\n", "", configuration.read_text(), flags=re.MULTILINE)
        assert "read=cdr,security\n" in text
        configuration.write_text(text.replace("read=cdr,security\n", "read=call\n"))
        await running.cli("manager reload")
        yield running


class Hangups:
    """Collects `Hangup` events: channel name -> loop time."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self.uniqueids: dict[str, str] = {}
        self._changed = asyncio.Event()

    def __call__(self, event: Mapping[str, str]) -> None:
        self.at[event["Channel"]] = asyncio.get_running_loop().time()
        self.uniqueids[event["Channel"]] = event["Uniqueid"]
        self._changed.set()

    async def of(self, channel: str) -> float:
        async with asyncio.timeout(10):
            while channel not in self.at:
                self._changed.clear()
                await self._changed.wait()
        return self.at[channel]


@asynccontextmanager
async def linked(switch: Switch, **options: Any) -> AsyncIterator[AmiLink]:
    link = AmiLink(switch.ami_host, switch.ami_port, switch.ami_user, switch.ami_secret, **options)
    await link.start()
    try:
        await link.wait_connected(5)
        yield link
    finally:
        await link.stop()


async def call(switch: Switch, extension: str) -> list[list[str]]:
    """Start a call and return its channels, as `core show channels concise` gives them, once all are up."""
    legs = 4 if extension == "dialling" else 2
    await switch.cli(f"channel originate Local/{extension}@calls application Wait 60")
    async with asyncio.timeout(5):
        while True:
            listed = (await switch.cli("core show channels concise")).splitlines()
            channels = [line.split("!") for line in listed if line.startswith("Local/")]
            if len(channels) == legs and all(channel[4] == "Up" for channel in channels):
                return channels
            await asyncio.sleep(0.02)


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("by", "lease_ms"), [("name", 1_000), ("uniqueid", 1_000), ("name", 400)])
async def test_lease_set_in_mid_call_ends_the_channel_inside_dial(
    switch: Switch, by: str, lease_ms: int
) -> None:
    hangups = Hangups()
    async with linked(switch, on_event=hangups, event_filter=("Hangup",)) as link:
        channels = await call(switch, "dialling")
        dialling = next(channel for channel in channels if channel[5] == "Dial")
        await link.set_lease(dialling[0] if by == "name" else dialling[-1], lease_ms)
        begun = asyncio.get_running_loop().time()
        lasted_ms = (await hangups.of(dialling[0]) - begun) * 1000
    assert lease_ms - 100 < lasted_ms < lease_ms + 400
    assert hangups.uniqueids[dialling[0]] == dialling[-1]


async def test_lease_can_be_prolonged(switch: Switch) -> None:
    hangups = Hangups()
    async with linked(switch, on_event=hangups, event_filter=("Hangup",)) as link:
        (channel, *_), _ = await call(switch, "far")
        await link.set_lease(channel, 1_000)
        begun = asyncio.get_running_loop().time()
        await link.set_lease(channel, 3_000)
        lasted_s = await hangups.of(channel) - begun
    assert 2.8 < lasted_s < 3.5


async def test_value_that_is_no_number_would_cancel_a_lease_in_silence(switch: Switch) -> None:
    """Why `set_lease` checks its argument: the switch answers Success and takes the limit away."""
    async with linked(switch) as link:
        (channel, *_), _ = await call(switch, "far")
        where = {"Channel": channel, "Variable": "TIMEOUT(absolute)"}
        await link.set_lease(channel, 30_000)
        assert 28 < float((await link.action("Getvar", where))["Value"]) <= 30
        answer = await link.action("Setvar", {**where, "Value": "soon"})
        assert answer["Message"] == "Variable Set"
        assert (await link.action("Getvar", where))["Value"] == "0"


async def test_lease_on_a_channel_that_is_gone_says_so(switch: Switch) -> None:
    async with linked(switch) as link:
        with pytest.raises(AmiNoSuchChannel):
            await link.set_lease("PJSIP/alice-00000099", 60_000)


async def test_action_outside_the_users_classes_is_refused(switch: Switch) -> None:
    async with linked(switch) as link:
        with pytest.raises(AmiRefused, match="Permission denied"):
            await link.action("Originate", Channel="Local/far@calls", Application="Wait", Data="1")
        assert (await link.action("Ping"))["Ping"] == "Pong"


async def test_longest_header_is_read_whole(switch: Switch) -> None:
    async with linked(switch) as link:
        (channel, *_), _ = await call(switch, "far")
        value = "x" * (HEADER_LINE_BYTES_MAX - len("Value: "))
        await link.action("Setvar", Channel=channel, Variable="FAIRDIAL_TEST", Value=value)
        assert (await link.action("Getvar", Channel=channel, Variable="FAIRDIAL_TEST"))["Value"] == value


async def test_wrong_secret_is_refused(switch: Switch) -> None:
    link = AmiLink(switch.ami_host, switch.ami_port, switch.ami_user, "wrong")
    await link.start()
    try:
        with pytest.raises(AmiLoginRefused, match="Authentication failed"):
            await link.wait_connected(5)
    finally:
        await link.stop()


@pytest.mark.parametrize(("classes", "refused"), [("call", ["ami_filter_refused"]), ("call,system", [])])
async def test_only_named_events_arrive_with_and_without_the_right_to_filter(
    switch: Switch, classes: str, refused: list[str]
) -> None:
    """`Filter` wants the class system; without it the link filters what arrives."""
    configuration = switch.directory / "etc" / "manager.conf"
    user = f"[limited]\nsecret=s3cret\nread=call\nwrite={classes}\n"
    configuration.write_text(configuration.read_text() + user)
    await switch.cli("manager reload")
    events: list[str] = []
    ended = asyncio.Event()

    def on_event(event: Mapping[str, str]) -> None:
        events.append(event["Event"])
        if len(events) == 2:
            ended.set()

    link = AmiLink(
        switch.ami_host, switch.ami_port, "limited", "s3cret", on_event=on_event, event_filter=("Hangup",)
    )
    with capture_logs() as logs:
        await link.start()
        try:
            await link.wait_connected(5)
            (channel, *_), _ = await call(switch, "far")
            await link.set_lease(channel, 1_000)
            await asyncio.wait_for(ended.wait(), 5)
        finally:
            await link.stop()
    assert events == ["Hangup", "Hangup"]
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == refused


async def test_frozen_switch_is_noticed_and_found_again(switch: Switch) -> None:
    async with linked(switch, ping_interval_s=0.2, pong_timeout_s=0.3, action_timeout_s=0.3) as link:
        switch.freeze()
        try:
            await until(lambda: not link.connected, 2)
            with pytest.raises(AmiUnavailable):
                await link.action("Ping")
        finally:
            switch.thaw()
        await link.wait_connected(10)
        assert (await link.action("Ping"))["Ping"] == "Pong"


async def test_switch_that_dies_fails_what_is_under_way_and_is_found_again(switch: Switch) -> None:
    async with linked(switch) as link:
        switch.freeze()
        lease = asyncio.create_task(link.set_lease("PJSIP/alice-00000001", 60_000))
        await asyncio.sleep(0)
        switch.kill()
        with pytest.raises(AmiError):
            await lease
        await until(lambda: not link.connected)
        await switch.restart()
        await link.wait_connected(10)
        assert (await link.action("Ping"))["Ping"] == "Pong"
