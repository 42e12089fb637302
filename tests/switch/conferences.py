"""What tests of conferences share: a switch with rooms, phones of one account that join and stay, what was counted.

Rooms 8… are `ConfBridge()`s that the dialplan keeps, all others are bridges that FairDial holds.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fairdial import config
from fairdial.loading import open_desk
from fairdial.serving import Service
from testbed.installation import Installation
from testbed.server import dialplan
from testbed.sipp import CallOutcome
from tests.switch.conftest import Spine, running_spine

# Phones of one account, which meet in one bridge of the switch.
LINES = ("erin", "frank", "grace", "heidi")

_OWN_ROOMS = """
[phones](+)
exten => _7XXX,1,Goto(fairdial-rooms,${EXTEN},1)
"""


@asynccontextmanager
async def running(
    installation: Installation,
    directory: Path,
    settings: Mapping[str, object] | None = None,
    *,
    more: str = "",
) -> AsyncIterator[Spine]:
    """`running_spine` whose phones reach rooms at 7XXX; at the end no bridge is left either. more: dialplan."""
    extensions, files = dialplan()
    plan = (f"{extensions}{_OWN_ROOMS}{more}", files)
    async with running_spine(installation, directory, settings, plan) as spine:
        yield spine
        await no_bridges(spine)


@asynccontextmanager
async def service_of(spine: Spine) -> AsyncIterator[Service]:
    """The server of the spine, in this process."""
    await spine.server.stop()
    settings = config.load(spine.server.config_path)
    async with open_desk(settings) as desk:
        service = Service(settings, desk)
        await service.start()
        try:
            await service.client.wait_connected(10)
            yield service
        finally:
            await service.stop()


async def no_bridges(spine: Spine, timeout_s: float = 5.0) -> None:
    """Wait until no bridge and no channel is left, sounds and music included."""
    async with asyncio.timeout(timeout_s):
        while "own-room" in await spine.switch.cli("bridge show all") or await spine.switch.channels():
            await asyncio.sleep(0.02)


async def inside(spine: Spine, room: str, account: str = "acme") -> int:
    """How many are in the bridge."""
    kept_by_dialplan = room.startswith("8")
    shown = (
        f"confbridge list {account}-{room}" if kept_by_dialplan else f"bridge show own-room-{account}-{room}"
    )
    return (await spine.switch.cli(shown)).count("PJSIP/")


async def in_room(spine: Spine, count: int, room: str, timeout_s: float = 10.0) -> None:
    """Wait until so many are in the bridge, and FairDial follows as many that are."""
    async with asyncio.timeout(timeout_s):
        while True:
            calls = await spine.server.ask("calls")
            talking = [call for call in calls if (call["dialled"], call["state"]) == (room, "talking")]
            if await inside(spine, room) == count == len(talking):
                return
            await asyncio.sleep(0.02)


async def join(
    spine: Spine, line: str, stay_s: float | None, *, among: int, room: str
) -> "asyncio.Task[CallOutcome]":
    """A phone joins and stays, None: until it is cut; returns when it is in the room with `among` in all."""
    task = asyncio.create_task(spine.call(line, room, hang_up_after_s=stay_s, timeout_s=20))
    await in_room(spine, among, room)
    return task


async def all_join(
    spine: Spine, stay_s: float | None, room: str, lines: Sequence[str] = LINES
) -> list["asyncio.Task[CallOutcome]"]:
    """Several join, one after the other."""
    return [
        await join(spine, line, stay_s, among=among, room=room) for among, line in enumerate(lines, start=1)
    ]


async def meters(spine: Spine, account: str = "acme") -> dict[str, Any]:
    """The account's meters by name, once nothing is live."""
    await spine.server.idle()
    sheet = await spine.server.ask("usage", account=account)
    assert all(entry["reserved_units"] == 0 for entry in sheet["usage"]), sheet["usage"]
    statement = await spine.server.ask("statement", account=account)
    assert statement["adds_up"] is True, statement["differences"]
    return {entry["allowance"]: entry for entry in sheet["usage"]}


def in_use_s(stays: Sequence[CallOutcome]) -> float:
    """For how long somebody was in a room, by the phones' clocks, where the stays overlap."""
    return max(stay.ended_at for stay in stays) - min(stay.ended_at - stay.talk_s for stay in stays)


def turned_away(outcome: CallOutcome, cause: int) -> bool:
    """Whether it was answered, told something, and hung up with the cause."""
    told = outcome.answered and outcome.ended_by == "far_end" and outcome.talk_s > 1
    return told and outcome.reason_header == f"Q.850;cause={cause}"
