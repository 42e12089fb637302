"""Callback on a real switch (V6): both legs rung by FairDial, joined, metered once for the two, and never left over."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from testbed import sipp
from testbed.asterisk import Switch
from testbed.configuration import Line
from testbed.installation import Installation
from testbed.server import Completed, Server, dialplan
from testbed.sipp import Carrier, CarrierCall
from tests.switch.conftest import Spine

LONDON, LONDON_E164 = "02079460100", "+442079460100"
MOBILE, MOBILE_E164 = "07400123456", "+447400123456"
RINGS, RINGS_E164 = f"020794601{sipp.NEVER_ANSWERS}"[:11], "+442079460187"
BUSY, BUSY_E164 = "02079460186", "+442079460186"
ENDS, ENDS_E164 = "02079460192", "+442079460192"
PREMIUM = "09098790000"

# What a phone does when it is rung says the end of its name, as for any called phone of the testbed.
ANN, BUSY_LINE, QUIET_LINE = "ann", f"busy{sipp.BUSY}", f"quiet{sipp.NEVER_ANSWERS}"
ENDS_LINE = f"ends{sipp.HANGS_UP_AFTER_2_S}"
LINES = tuple(
    Line(name, accountcode="acme", context="phones") for name in (ANN, BUSY_LINE, QUIET_LINE, ENDS_LINE)
)
RING_S = 3


@pytest_asyncio.fixture
async def spine(installation: Installation, tmp_path: Path) -> AsyncIterator[Spine]:
    """The whole call path; nothing may be left over at its end: no channel, bridge, grant or followed call."""
    extensions, files = dialplan()
    settings = {"calls.ring_s": RING_S, "calls.callback_after_s": 0.5}
    async with (
        Switch.start(installation, extensions, files=files, lines=LINES) as switch,
        Carrier.start(switch) as carrier,
        Server.start(switch, tmp_path, settings) as server,
    ):
        yield Spine(switch, carrier, server)
        await nothing_is_left(switch, server)


async def nothing_is_left(switch: Switch, server: Server) -> None:
    """No channel, no bridge, no grant, no call that is followed."""
    assert await switch.no_channels() == [], "the test left channels up"
    await server.idle()
    async with asyncio.timeout(5):
        while await bridges(switch):
            await asyncio.sleep(0.02)


async def bridges(switch: Switch) -> list[str]:
    """The bridges that are there."""
    listed = await switch.cli("bridge show all")
    return [line for line in listed.splitlines()[1:] if line.strip()]


async def provision(spine: Spine, policy: str = "voxdirect", *lines: str) -> None:
    await spine.server.account("acme", policy, *(lines or (ANN,)), countries=["GB"])


async def place(spine: Spine, number: str = LONDON, *, line: str = ANN, first: str | None = None) -> str:
    """Ask for a callback that is placed; its call id."""
    told = await spine.server.ask("callback", number=number, line=line, first=first)
    assert told["decision"] == "allow", told
    return str(told["call"])


async def rung(spine: Spine, number: str, *, answered: bool = False, ended: bool = False) -> CarrierCall:
    """The leg to a number or line, as its phone saw it."""
    return await spine.carrier.call_when(number, answered=answered, ended=ended, timeout_s=10)


async def used(spine: Spine) -> int:
    """Units counted, once nothing is live; none may be reserved."""
    await spine.server.idle()
    found = await spine.server.usage("acme")
    assert found["reserved_s"] == 0
    return found["used_s"]


async def test_smoke(spine: Spine) -> None:
    await provision(spine)
    call = await place(spine)
    row = await spine.server.talking(ANN)
    assert row["call"] == call
    print(await spine.switch.cli("core show channels verbose"), await bridges(spine.switch))
    await asyncio.sleep(2)
    await spine.server.command("hangup", call)
    a, b = await rung(spine, ANN, ended=True), await rung(spine, LONDON_E164, ended=True)
    print(a, b, await used(spine))
    print(spine.server.last_words())
