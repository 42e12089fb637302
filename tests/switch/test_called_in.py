"""Numbers that are called into a conference whose bridge FairDial holds (K5, V5): a seat from the first ring on, and
nothing metered before the answer."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ari_handlers.conference import NotAdded
from testbed import sipp
from testbed.installation import Installation
from testbed.world import CARD, CURRENCY, RATES
from tests.switch.conferences import (
    LINES,
    all_join,
    in_room,
    inside,
    join,
    meters,
    no_bridges,
    running,
    service_of,
    turned_away,
)
from tests.switch.conftest import Spine

ROOM = "7001"
E164 = "+4420794601"
"""What the carrier sees of a number, before the two digits that say how it behaves."""

ANSWERED = "02079460100"


@pytest_asyncio.fixture
async def spine(installation: Installation, tmp_path: Path) -> AsyncIterator[Spine]:
    async with running(installation, tmp_path) as spine:
        yield spine


async def open_account(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", *LINES, countries=["GB"])


async def call_in(spine: Spine, behaviour: str) -> None:
    """Call a number that behaves like that into the room; rings when this returns."""
    await spine.server.ask("conference_add", room=ROOM, number=f"0{E164[3:]}{behaviour}", line="erin")


async def seats_taken(spine: Spine, count: int) -> None:
    """Wait until so many hold a seat."""
    async with asyncio.timeout(5):
        while len(await spine.server.grants()) != count:
            await asyncio.sleep(0.02)


async def counted(spine: Spine) -> set[int]:
    """Everything that the account's meters show, once nothing is live."""
    found = (await meters(spine)).values()
    return {entry[name] for entry in found for name in ("used_units", "over_units", "calls")} or {0}


async def hang_up_the_last(spine: Spine) -> None:
    """Hang up the only one who is left in the room."""
    left = await the_last(spine)
    await spine.server.ask("hangup", call=left["call"])


async def the_last(spine: Spine) -> dict[str, Any]:
    """The call of the only one who is left in the room; another's may just be ending."""
    await in_room(spine, 1, ROOM)
    [left] = [row for row in await spine.server.ask("calls") if row["state"] == "talking"]
    return dict(left)


async def test_a_number_is_called_into_a_room_and_metered_from_its_answer(
    installation: Installation, tmp_path: Path
) -> None:
    async with running(installation, tmp_path) as spine:
        await open_account(spine)
        async with service_of(spine) as service:
            member = await join(spine, "erin", 5, among=1, room=ROOM)
            number = f"0{E164[3:]}{sipp.RINGS_2_S}"
            told = await service.rooms.add(ROOM, number, "erin")
            assert told["number"] == "+442079460182"
            await in_room(spine, 2, ROOM)
            [row] = service.rooms.rows()
            assert (row["account"], row["room"], row["seats"]) == ("acme", ROOM, 2)
            assert (await member).ended_by == "caller"
            left = await the_last(spine)
            await spine.server.ask("hangup", call=left["call"])
            called = await spine.carrier.call_when("+442079460182", ended=True, timeout_s=5)
            assert called.ended_by == "switch"
            await spine.server.idle()
            grant = await service.operations.call("grant", {"call": left["call"]})
            assert called.answered_at is not None
            assert called.ended_at is not None
            assert grant["used_s"] == pytest.approx(called.ended_at - called.answered_at, abs=1)
            assert service.rooms.rows() == []


@pytest.mark.parametrize("behaviour", [sipp.BUSY, sipp.DECLINES, sipp.NO_ROUTE])
async def test_who_is_called_in_and_refuses_takes_no_seat(spine: Spine, behaviour: str) -> None:
    await open_account(spine)
    stays = await all_join(spine, 6, ROOM, LINES[:3])
    await call_in(spine, behaviour)
    called = await spine.carrier.call_when(f"{E164}{behaviour}", ended=True, timeout_s=5)
    assert called.answered_at is None
    await seats_taken(spine, 3)
    stays.append(await join(spine, "heidi", 2, among=4, room=ROOM))
    assert [(await stay).ended_by for stay in stays] == ["caller"] * 4
    assert (await meters(spine))["conference-day"]["calls"] == 1


async def test_who_is_called_in_and_does_not_answer_holds_a_seat_only_while_it_rings(
    installation: Installation, tmp_path: Path
) -> None:
    async with running(installation, tmp_path, {"calls.ring_s": 4}) as spine:
        await open_account(spine)
        stays = await all_join(spine, 12, ROOM, LINES[:3])
        await call_in(spine, sipp.NEVER_ANSWERS)
        await spine.carrier.call_when(f"{E164}{sipp.NEVER_ANSWERS}", timeout_s=5)
        assert turned_away(await spine.call("heidi", ROOM), 17)
        called = await spine.carrier.call_when(f"{E164}{sipp.NEVER_ANSWERS}", ended=True, timeout_s=8)
        assert called.answered_at is None
        await seats_taken(spine, 3)
        stays.append(await join(spine, "heidi", 2, among=4, room=ROOM))
        assert [(await stay).ended_by for stay in stays] == ["caller"] * 4
        await spine.server.idle()


@pytest.mark.parametrize("policy", ["kryptotel", "voxdirect"])
@pytest.mark.parametrize("behaviour", [sipp.BUSY, sipp.NEVER_ANSWERS])
async def test_nothing_is_metered_for_a_number_that_did_not_answer(
    installation: Installation, tmp_path: Path, behaviour: str, policy: str
) -> None:
    async with running(installation, tmp_path, {"calls.ring_s": 2}) as spine:
        await spine.server.account("acme", policy, *LINES, countries=["GB"])
        await call_in(spine, behaviour)
        await spine.carrier.call_when(f"{E164}{behaviour}", ended=True, timeout_s=5)
        assert await counted(spine) == {0}


async def test_an_operator_takes_back_a_number_that_still_rings(spine: Spine) -> None:
    await open_account(spine)
    stays = await all_join(spine, 6, ROOM, LINES[:3])
    await call_in(spine, sipp.NEVER_ANSWERS)
    await spine.carrier.call_when(f"{E164}{sipp.NEVER_ANSWERS}", timeout_s=5)
    [ringing] = [call for call in await spine.server.ask("calls") if call["state"] == "ringing"]
    await spine.server.ask("hangup", call=ringing["call"])
    called = await spine.carrier.call_when(f"{E164}{sipp.NEVER_ANSWERS}", ended=True, timeout_s=5)
    assert (called.status, called.ended_by) == (487, "switch")
    stays.append(await join(spine, "heidi", 2, among=4, room=ROOM))
    assert [(await stay).ended_by for stay in stays] == ["caller"] * 4
    await spine.server.idle()


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_a_number_that_rings_when_fairdial_ends_gives_its_seat_back(spine: Spine, how: str) -> None:
    await open_account(spine)
    await call_in(spine, sipp.NEVER_ANSWERS)
    await spine.carrier.call_when(f"{E164}{sipp.NEVER_ANSWERS}", timeout_s=5)
    await (spine.server.kill() if how == "killed" else spine.server.stop())
    await spine.server.launch()
    called = await spine.carrier.call_when(f"{E164}{sipp.NEVER_ANSWERS}", ended=True, timeout_s=5)
    assert (called.status, called.ended_by) == (487, "switch")
    await no_bridges(spine)
    assert await counted(spine) == {0}
    load = await sipp.place_calls(
        spine.switch, line=LINES, number=[ROOM], count=5, rate_per_s=100, hang_up_after_s=3
    )
    assert load.ended_by == {"caller": 4, "far_end": 1}
    await spine.server.idle()


async def test_a_number_that_answers_while_fairdial_is_dead_is_hung_up_and_not_metered(spine: Spine) -> None:
    await open_account(spine)
    await call_in(spine, sipp.RINGS_2_S)
    await spine.carrier.call_when(f"{E164}{sipp.RINGS_2_S}", timeout_s=5)
    await spine.server.kill()
    called = await spine.carrier.call_when(f"{E164}{sipp.RINGS_2_S}", ended=True, timeout_s=10)
    assert called.ended_by == "switch"
    await spine.server.launch()
    assert await counted(spine) == {0}


@pytest.mark.parametrize(
    ("number", "why"),
    [
        ("09098790000", "class_not_covered"),
        ("0033142685300", "no_rate"),
        # Paid from credit, which a seat does not touch.
        ("0034912345678", "within the plan"),
        ("0207", "number_invalid"),
        ("112", "public network"),
    ],
)
async def test_a_number_that_the_plan_does_not_cover_is_not_called_into_a_room(
    spine: Spine, number: str, why: str
) -> None:
    await open_account(spine)
    await spine.server.ask("rates_load", card=CARD, currency=CURRENCY, text=RATES.read_text())
    await spine.server.ask("credit_add", account="acme", amount="10", currency=CURRENCY, reference="t1")
    async with service_of(spine) as service:
        with pytest.raises(NotAdded, match=why):
            await service.rooms.add(ROOM, number, "erin")
        with pytest.raises(NotAdded, match="line_unknown"):
            await service.rooms.add(ROOM, ANSWERED, "nobody")
        with pytest.raises(ValueError, match="is no name"):
            await service.rooms.add("a-b", ANSWERED, "erin")
    assert spine.carrier.calls() == []


@pytest.mark.clause("K5", "refused")
async def test_a_number_that_rings_has_the_last_seat(spine: Spine) -> None:
    await open_account(spine)
    stays = await all_join(spine, 9, ROOM, LINES[:3])
    await call_in(spine, sipp.RINGS_4_S)
    await spine.carrier.call_when(f"{E164}{sipp.RINGS_4_S}", timeout_s=5)
    assert await inside(spine, ROOM) == 3
    assert turned_away(await spine.call("heidi", ROOM), 17)
    refused = await spine.server.command("conference", "add", ROOM, ANSWERED, "--line", "erin")
    assert refused.status != 0
    assert "conference_full" in refused.error
    assert spine.carrier.calls_to(f"{E164}00") == []

    await in_room(spine, 4, ROOM)
    called = await spine.carrier.call_when(f"{E164}{sipp.RINGS_4_S}", answered=True, timeout_s=1)
    assert called.ended_by == "none"
    assert [(await stay).ended_by for stay in stays] == ["caller"] * 3
    await hang_up_the_last(spine)
    await spine.server.idle()


async def test_who_was_called_in_stays_in_through_a_restart(spine: Spine) -> None:
    await open_account(spine)
    async with service_of(spine) as service:
        member = await join(spine, "erin", 5, among=1, room=ROOM)
        await service.rooms.add(ROOM, ANSWERED, "frank")
        await in_room(spine, 2, ROOM)
    await spine.server.launch()
    await in_room(spine, 2, ROOM)
    assert (await member).ended_by == "caller"
    left = await the_last(spine)
    assert left["line"] == "frank"
    await spine.server.ask("hangup", call=left["call"])
    await no_bridges(spine)
    assert (await meters(spine))["conference-day"]["calls"] == 1
