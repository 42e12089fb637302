"""Conferences whose bridge FairDial holds (K5, V5): who comes in, what it counts, and how it ends."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from agi_app.ami import AmiLink
from ari_handlers.conference import NotAdded
from fairdial import config
from fairdial.main import Service, open_desk
from testbed import sipp
from testbed.installation import Installation
from testbed.server import dialplan
from testbed.sipp import CallOutcome, place_calls
from testbed.world import CARD, CURRENCY, RATES
from tests.switch.conftest import Spine, running_spine

ROOM = "7001"
ENDS_WITH_HOST = "7910"
WITH_PINS = "7911"
MALFORMED = "7912"
OUTSIDE = "442079460777"
"""Whoever calls this from outside comes into ROOM of erin's account."""

LINES = ("erin", "frank", "grace", "heidi")
GB = "0207946"
ANSWERED = f"{GB}0100"
KEY_EVERY_S = 0.15
"""A phone's pause between two keys; Asterisk takes faster ones for one."""

DIALPLAN = f"""
[phones](+)
exten => _7XXX,1,Goto(fairdial-rooms,${{EXTEN}},1)
exten => {ENDS_WITH_HOST},1,Stasis(fairdial,room,${{EXTEN}},end=host)
exten => {WITH_PINS},1,Stasis(fairdial,room,${{EXTEN}},pin=1234,host=98765,end=host)
exten => {MALFORMED},1,Stasis(fairdial,room,${{EXTEN}},pin=4711x)
[inbound](+)
exten => {OUTSIDE},1,Stasis(fairdial,room,{ROOM},line=erin)
"""


def plan() -> tuple[str, dict[str, str]]:
    extensions, files = dialplan()
    return f"{extensions}{DIALPLAN}", files


@asynccontextmanager
async def running(installation: Installation, directory: Path, **settings: object) -> AsyncIterator[Spine]:
    """`running_spine` with rooms; at the end no bridge is left either."""
    async with running_spine(installation, directory, settings, plan()) as spine:
        yield spine
        await no_bridges(spine)


@pytest_asyncio.fixture
async def spine(installation: Installation, tmp_path: Path) -> AsyncIterator[Spine]:
    async with running(installation, tmp_path) as spine:
        yield spine


async def no_bridges(spine: Spine, timeout_s: float = 5.0) -> None:
    """Wait until no bridge and no channel is left, sounds and music included."""
    async with asyncio.timeout(timeout_s):
        while "own-room" in await spine.switch.cli("bridge show all") or await spine.switch.channels():
            await asyncio.sleep(0.02)


async def inside(spine: Spine, room: str = ROOM, account: str = "acme") -> int:
    """How many are in the bridge."""
    shown = await spine.switch.cli(f"bridge show own-room-{account}-{room}")
    return shown.count("PJSIP/")


async def in_room(spine: Spine, count: int, room: str = ROOM, timeout_s: float = 10.0) -> None:
    """Wait until so many are in the bridge, and followed."""
    async with asyncio.timeout(timeout_s):
        while True:
            calls = [call for call in await spine.server.ask("calls") if call["dialled"] == room]
            if await inside(spine, room) == count == len(calls):
                return
            await asyncio.sleep(0.02)


async def join(
    spine: Spine, line: str, stay_s: float | None, *, among: int, room: str = ROOM
) -> "asyncio.Task[CallOutcome]":
    """A phone joins and stays, None: until it is cut; returns when it is in the room with `among` in all."""
    task = asyncio.create_task(spine.call(line, room, hang_up_after_s=stay_s, timeout_s=20))
    await in_room(spine, among, room)
    return task


async def all_join(spine: Spine, stay_s: float | None, room: str = ROOM) -> list["asyncio.Task[CallOutcome]"]:
    return [
        await join(spine, line, stay_s, among=among, room=room) for among, line in enumerate(LINES, start=1)
    ]


async def logged(spine: Spine, event: str, count: int = 1, timeout_s: float = 10.0) -> None:
    """Wait until the server has logged an event so many times."""
    async with asyncio.timeout(timeout_s):
        while spine.server.log_path.read_text().count(f'"event": "{event}"') < count:
            await asyncio.sleep(0.02)


async def meters(spine: Spine, account: str = "acme") -> dict[str, Any]:
    """The account's meters by name, once nothing is live."""
    await spine.server.idle()
    sheet = await spine.server.ask("usage", account=account)
    assert all(entry["reserved_units"] == 0 for entry in sheet["usage"]), sheet["usage"]
    return {entry["allowance"]: entry for entry in sheet["usage"]}


def in_use_s(stays: list[CallOutcome]) -> float:
    """For how long somebody was in a room, by the phones' clocks, where the stays overlap."""
    return max(stay.ended_at for stay in stays) - min(stay.ended_at - stay.talk_s for stay in stays)


def turned_away(outcome: CallOutcome, cause: int) -> bool:
    """Whether it was answered, told something, and hung up with the cause."""
    told = outcome.answered and outcome.ended_by == "far_end" and outcome.talk_s > 1
    return told and outcome.reason_header == f"Q.850;cause={cause}"


@pytest.mark.clause("K5", "allowed")
@pytest.mark.clause("K5", "refused")
async def test_four_join_a_room_and_a_fifth_when_one_has_hung_up(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", *LINES, "pbx")
    first = await join(spine, "erin", 6, among=1)
    others = [await join(spine, line, 9, among=among) for among, line in enumerate(LINES[1:], start=2)]

    refused = await spine.call("pbx", ROOM)
    # For as long as the sound lasts that says so, which is there.
    assert turned_away(refused, 17)
    assert "does not exist" not in spine.switch.log_path.read_text()
    record = await spine.newest_decision()
    assert (record["reason"], record["clause_policy"], record["clause_id"]) == (
        "conference_full",
        "kryptotel",
        "K5",
    )
    # Another room of the account has its own seats.
    assert (await spine.call("pbx", "7002", hang_up_after_s=0.5)).ended_by == "caller"

    assert (await first).ended_by == "caller"
    await in_room(spine, 3)
    fifth = await join(spine, "pbx", 1, among=4)
    assert [outcome.ended_by for outcome in await asyncio.gather(fifth, *others)] == ["caller"] * 4
    await meters(spine)


@pytest.mark.clause("K5", "refused")
async def test_of_twenty_who_join_at_the_same_instant_exactly_four_get_in(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", *LINES)
    load = asyncio.create_task(
        place_calls(spine.switch, line=LINES, number=[ROOM], count=20, rate_per_s=1000, hang_up_after_s=6)
    )
    await in_room(spine, 4)
    most = 4
    while not load.done():
        most = max(most, await inside(spine))
    outcome = await load
    assert (outcome.lost, outcome.answered, most) == (0, 20, 4)
    assert outcome.ended_by == {"caller": 4, "far_end": 16}
    assert sum(turned_away(call, 17) for call in outcome.calls) == 16
    records = await spine.server.ask("decisions", limit=100)
    refused = [record["reason"] for record in records if record["decision"] == "refuse"]
    assert refused == ["conference_full"] * 16
    await meters(spine)


async def test_ten_rooms_of_four_at_once_keep_their_seats_apart(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", *LINES)
    rooms = [f"71{number:02}" for number in range(10)]
    load = await place_calls(
        spine.switch, line="erin", number=rooms, count=50, rate_per_s=1000, hang_up_after_s=6
    )
    assert (load.lost, load.ended_by) == (0, {"caller": 40, "far_end": 10})
    found = await meters(spine)
    # Each room has a clock of its own.
    assert found["conference-day"]["calls"] == 10
    assert found["conference-day"]["used_units"] == pytest.approx(60, abs=5)


async def test_the_seat_of_a_phone_that_vanished_is_freed_by_its_lease(spine: Spine) -> None:
    """No media and no farewell: the switch cannot see that nobody is there."""
    await spine.server.account("acme", "room", *LINES)
    stays = [await join(spine, line, None, among=among) for among, line in enumerate(LINES[:3], start=1)]
    stays[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await stays[1]
    assert turned_away(await spine.call("heidi", ROOM), 17)
    for stay in (stays[0], stays[2]):
        assert (await stay).ended_by == "far_end"
    assert (await spine.call("heidi", ROOM, hang_up_after_s=0.5, timeout_s=10)).ended_by == "caller"
    await meters(spine)


@pytest.mark.clause("V5", "allowed")
async def test_the_parties_seconds_agree_with_when_they_came_and_went(spine: Spine) -> None:
    await spine.server.account("acme", "voxdirect", *LINES)
    stays = await asyncio.gather(
        spine.call("erin", ROOM, hang_up_after_s=4),
        spine.call("frank", ROOM, hang_up_after_s=4),
        spine.call("grace", ROOM, hang_up_after_s=2),
    )
    found = (await meters(spine))["voice"]
    assert found["used_units"] == pytest.approx(sum(stay.talk_s for stay in stays), abs=1)
    assert found["calls"] == 3
    record = await spine.newest_decision()
    assert (record["reason"], record["clause_id"]) == ("within_allowance", "V5")


async def test_who_is_alone_hears_music_and_who_is_not_does_not(spine: Spine) -> None:
    async def music() -> bool:
        return any("MOH" in name for name in await spine.switch.channels())

    async def until_music(plays: bool) -> None:
        async with asyncio.timeout(5):
            while await music() is not plays:
                await asyncio.sleep(0.02)

    await spine.server.account("acme", "kryptotel", *LINES)
    first = await join(spine, "erin", 6, among=1)
    await until_music(True)
    second = await join(spine, "frank", 2, among=2)
    await until_music(False)
    assert (await second).ended_by == "caller"
    await until_music(True)
    assert (await first).ended_by == "caller"
    await no_bridges(spine)


async def test_the_conference_ends_when_the_host_leaves_where_the_dialplan_says_so(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", *LINES)
    host = await join(spine, "erin", 3, among=1, room=ENDS_WITH_HOST)
    others = [
        await join(spine, line, None, among=among, room=ENDS_WITH_HOST)
        for among, line in enumerate(LINES[1:], start=2)
    ]
    left = await host
    for other in await asyncio.gather(*others):
        assert other.ended_by == "far_end"
        # They were told first.
        assert 1 < other.ended_at - left.ended_at < 2
    await no_bridges(spine)
    # The next conference of that name is a new one, with another host.
    again = await join(spine, "frank", 1, among=1, room=ENDS_WITH_HOST)
    guest = await join(spine, "erin", None, among=2, room=ENDS_WITH_HOST)
    assert ((await again).ended_by, (await guest).ended_by) == ("caller", "far_end")


async def test_a_guest_who_leaves_ends_nothing_and_without_the_option_nor_does_the_host(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", *LINES)
    host = await join(spine, "erin", 5, among=1, room=ENDS_WITH_HOST)
    guest = await join(spine, "frank", 1, among=2, room=ENDS_WITH_HOST)
    assert (await guest).ended_by == "caller"
    assert (await host).ended_by == "caller"

    host = await join(spine, "erin", 1, among=1)
    guest = await join(spine, "frank", 4, among=2)
    assert [(await host).ended_by, (await guest).ended_by] == ["caller", "caller"]


@asynccontextmanager
async def keypad(spine: Spine) -> AsyncIterator[AmiLink]:
    switch = spine.switch
    link = AmiLink(switch.ami_host, switch.ami_port, switch.ami_user, switch.ami_secret)
    await link.start()
    try:
        await link.wait_connected(5)
        yield link
    finally:
        await link.stop()


async def type_keys(spine: Spine, link: AmiLink, line: str, keys: str) -> None:
    """Keys, as if the phone had sent them."""
    [name] = [name for name in await spine.switch.channels() if name.startswith(f"PJSIP/{line}-")]
    for key in keys:
        await link.action("PlayDTMF", {"Channel": name, "Digit": key, "Receive": "true"})
        await asyncio.sleep(KEY_EVERY_S)


async def test_pins_let_in_as_guest_or_as_host_and_a_wrong_one_does_not(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", *LINES)
    async with keypad(spine) as link:
        guest = asyncio.create_task(spine.call("erin", WITH_PINS, timeout_s=60))
        await logged(spine, "pin_asked", 1)
        await type_keys(spine, link, "erin", "1234#")
        await in_room(spine, 1, WITH_PINS)

        stranger = asyncio.create_task(spine.call("grace", WITH_PINS, timeout_s=30))
        for tries in range(3):
            await logged(spine, "pin_asked", 2 + tries)
            await type_keys(spine, link, "grace", ("1111#", "#", "123456")[tries])
        assert turned_away(await stranger, 21)
        # Nobody who does not know the PIN takes a seat, or leaves a trace in the ledger.
        assert len(await spine.server.ask("decisions", limit=10)) == 1

        # The host needs no "#"; a try that went wrong spoils nothing.
        host = asyncio.create_task(spine.call("frank", WITH_PINS, hang_up_after_s=9))
        await logged(spine, "pin_asked", 5)
        await type_keys(spine, link, "frank", "98766")
        await logged(spine, "pin_asked", 6)
        await type_keys(spine, link, "frank", "98765")
        await in_room(spine, 2, WITH_PINS)
    assert (await host).ended_by == "caller"
    assert (await guest).ended_by == "far_end"
    found = await meters(spine)
    # Typing is not metered.
    assert found["conference-day"]["calls"] == 1


async def test_options_that_are_not_understood_leave_nobody_hanging(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", *LINES)
    outcome = await spine.call("erin", MALFORMED)
    assert (outcome.final_status, outcome.answered) == (503, False)
    assert "room_malformed" in spine.server.last_words()
    assert "write pin=1234" in spine.server.last_words()
    assert "4711" not in spine.server.last_words()


async def test_a_guest_from_outside_comes_into_the_room_of_the_line_that_pays(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", *LINES)
    await spine.server.account("other", "kryptotel", "alice")
    member = await join(spine, "erin", 4, among=1)
    guest = asyncio.create_task(spine.call("carrier", OUTSIDE, hang_up_after_s=1.5))
    await in_room(spine, 2)
    # The same name is another room for another account.
    alone = asyncio.create_task(spine.call("alice", ROOM, hang_up_after_s=0.5))
    await spine.server.talking("alice")
    assert await inside(spine, account="other") == 1
    assert await inside(spine) == 2
    assert [(await task).ended_by for task in (guest, alone, member)] == ["caller"] * 3
    assert (await meters(spine))["conference-day"]["used_units"] == 4
    assert (await meters(spine, "other"))["conference-day"]["used_units"] == 1


async def test_all_are_cut_when_the_conference_has_lasted_its_longest(spine: Spine) -> None:
    await spine.server.account("acme", "room", *LINES)
    first = await join(spine, "erin", None, among=1)
    second = await join(spine, "frank", None, among=2)
    third = await join(spine, "grace", None, among=3)
    stays = [await first, await second, await third]
    assert [stay.ended_by for stay in stays] == ["far_end"] * 3
    assert 4.9 <= stays[0].talk_s <= 6
    for stay in stays[1:]:
        assert stay.ended_at == pytest.approx(stays[0].ended_at, abs=1)
    # Whole seconds: who came late may have begun one more.
    assert (await meters(spine))["room"]["used_units"] in (5, 6)


async def test_a_suspended_account_is_out_of_its_rooms_within_a_second(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", *LINES)
    stays = await all_join(spine, None)
    began = asyncio.get_running_loop().time()
    told = await spine.server.ask("account_standing", account="acme", standing="suspended")
    outcomes = await asyncio.gather(*stays)
    assert told["calls_cut"] == 4
    assert [outcome.ended_by for outcome in outcomes] == ["far_end"] * 4
    assert max(outcome.ended_at for outcome in outcomes) - min(o.ended_at for o in outcomes) < 1
    assert asyncio.get_running_loop().time() - began < 2
    refused = await spine.call("erin", ROOM)
    assert turned_away(refused, 21)


async def test_a_conference_is_cut_in_time_though_fairdial_was_killed(spine: Spine) -> None:
    await spine.server.account("acme", "room", *LINES)
    stays = [await join(spine, line, None, among=among) for among, line in enumerate(LINES[:3], start=1)]
    await spine.server.kill()
    outcomes = [await stay for stay in stays]
    for outcome in outcomes:
        assert outcome.ended_by == "far_end"
        assert outcome.ended_at == pytest.approx(outcomes[0].ended_at, abs=1)
    assert 4.9 <= outcomes[0].talk_s <= 6
    # Who comes now is not left waiting.
    dead = await spine.call("heidi", ROOM)
    assert (dead.final_status, dead.answered) == (503, False)
    await spine.server.launch()
    await no_bridges(spine)
    assert (await meters(spine))["room"]["used_units"] == 5
    assert (await spine.call("heidi", ROOM, hang_up_after_s=0.5)).ended_by == "caller"


async def test_a_frozen_fairdial_leaves_nobody_waiting_before_a_room(spine: Spine) -> None:
    await spine.server.account("acme", "room", *LINES)
    os.kill(spine.server.pid, signal.SIGSTOP)
    try:
        outcome = await spine.call("erin", ROOM)
    finally:
        os.kill(spine.server.pid, signal.SIGCONT)
    assert (outcome.final_status, outcome.answered) == (503, False)
    assert outcome.setup_s < 2
    await spine.server.ready()
    assert (await spine.call("erin", ROOM, hang_up_after_s=0.5, timeout_s=10)).ended_by == "caller"


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_a_conference_goes_on_through_a_restart_of_fairdial(spine: Spine, how: str) -> None:
    await spine.server.account("acme", "kryptotel", *LINES, "pbx")
    host = await join(spine, "erin", 8, among=1, room=ENDS_WITH_HOST)
    leaver = await join(spine, "frank", 7, among=2, room=ENDS_WITH_HOST)
    others = [
        await join(spine, line, None, among=among, room=ENDS_WITH_HOST)
        for among, line in enumerate(LINES[2:], start=3)
    ]
    await (spine.server.kill() if how == "killed" else spine.server.stop())
    await spine.server.launch()
    await in_room(spine, 4, ENDS_WITH_HOST)
    assert turned_away(await spine.call("pbx", ENDS_WITH_HOST), 17)
    left = [await leaver, await host]
    ended = await asyncio.gather(*others)
    # The host was known again, and the others were told before they were hung up.
    for other in ended:
        assert other.ended_by == "far_end"
        assert 1 < other.ended_at - left[1].ended_at < 2
    used_s = (await meters(spine))["conference-day"]["used_units"]
    assert used_s == pytest.approx(in_use_s([*left, *ended]), abs=1)
    await no_bridges(spine)


async def test_a_bridge_that_nobody_is_in_any_more_goes_with_the_next_start(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", *LINES)
    stay = await join(spine, "erin", 2, among=1)
    await spine.server.kill()
    assert (await stay).ended_by == "caller"
    assert "own-room" in await spine.switch.cli("bridge show all")
    await spine.server.launch()
    await no_bridges(spine)
    assert (await meters(spine))["conference-day"]["used_units"] in (2, 3, 4, 5)


# --- somebody is called in -----------------------------------------------------------------------


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


async def open_account(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", *LINES, countries=["GB"])


async def test_a_number_is_called_into_a_room_and_metered_from_its_answer(
    installation: Installation, tmp_path: Path
) -> None:
    async with running(installation, tmp_path) as spine:
        await open_account(spine)
        async with service_of(spine) as service:
            member = await join(spine, "erin", 5, among=1)
            number = f"{GB}01{sipp.RINGS_2_S}"
            told = await service.rooms.add(ROOM, number, "erin")
            assert told["number"] == "+442079460182"
            await in_room(spine, 2)
            [row] = service.rooms.rows()
            assert (row["account"], row["room"], row["seats"]) == ("acme", ROOM, 2)
            assert (await member).ended_by == "caller"
            await in_room(spine, 1)
            [left] = await spine.server.ask("calls")
            await spine.server.ask("hangup", call=left["call"])
            called = await spine.carrier.call_when("+442079460182", ended=True, timeout_s=5)
            assert called.ended_by == "switch"
            await spine.server.idle()
            grant = await service.operations.call("grant", {"call": left["call"]})
            assert called.answered_at is not None
            assert called.ended_at is not None
            assert grant["used_s"] == pytest.approx(called.ended_at - called.answered_at, abs=1)
            assert service.rooms.rows() == []


@pytest.mark.parametrize("behaviour", [sipp.BUSY, sipp.NEVER_ANSWERS])
async def test_who_is_called_in_and_does_not_answer_takes_no_seat(
    installation: Installation, tmp_path: Path, behaviour: str
) -> None:
    async with running(installation, tmp_path, **{"calls.ring_s": 2}) as spine:
        await open_account(spine)
        async with service_of(spine) as service:
            await service.rooms.add(ROOM, f"{GB}01{behaviour}", "erin")
            called = await spine.carrier.call_when(f"+4420794601{behaviour}", ended=True, timeout_s=5)
            assert called.answered_at is None
            await spine.server.idle()
            assert (await spine.server.ask("usage", account="acme"))["usage"] == []


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


async def test_nobody_is_called_into_a_full_room_and_who_answers_too_late_is_told(spine: Spine) -> None:
    await open_account(spine)
    async with service_of(spine) as service:
        stays = [await join(spine, line, 7, among=among) for among, line in enumerate(LINES[:3], start=1)]
        number = f"{GB}01{sipp.RINGS_2_S}"
        await service.rooms.add(ROOM, number, "erin")
        await spine.carrier.call_when("+442079460182", timeout_s=5)
        stays.append(await join(spine, "heidi", 5, among=4))
        late = await spine.carrier.call_when("+442079460182", ended=True, timeout_s=8)
        assert late.answered_at is not None
        assert late.ended_at is not None
        assert late.ended_by == "switch"
        assert late.ended_at - late.answered_at > 1
        assert await inside(spine) == 4
        with pytest.raises(NotAdded, match="conference_full"):
            await service.rooms.add(ROOM, ANSWERED, "erin")
        assert spine.carrier.calls_to("+442079460100") == []
        assert [(await stay).ended_by for stay in stays] == ["caller"] * 4
        await spine.server.idle()


async def test_who_was_called_in_stays_in_through_a_restart(spine: Spine) -> None:
    await open_account(spine)
    async with service_of(spine) as service:
        member = await join(spine, "erin", 5, among=1)
        await service.rooms.add(ROOM, ANSWERED, "frank")
        await in_room(spine, 2)
    await spine.server.launch()
    await in_room(spine, 2)
    assert (await member).ended_by == "caller"
    await in_room(spine, 1)
    [left] = await spine.server.ask("calls")
    assert left["line"] == "frank"
    await spine.server.ask("hangup", call=left["call"])
    await no_bridges(spine)
    assert (await meters(spine))["conference-day"]["calls"] == 1


async def test_what_happened_while_the_link_was_down_is_made_up_for(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", *LINES)
    async with service_of(spine) as service:
        host = await join(spine, "erin", 2, among=1, room=ENDS_WITH_HOST)
        guest = await join(spine, "frank", None, among=2, room=ENDS_WITH_HOST)
        alone = await join(spine, "grace", 2, among=1)
        await service.client.stop()
        assert [(await host).ended_by, (await alone).ended_by] == ["caller"] * 2
        assert (await inside(spine, ENDS_WITH_HOST), await inside(spine)) == (1, 0)
        await service.client.start()
        assert (await guest).ended_by == "far_end"
        await no_bridges(spine)
        await meters(spine)
        assert service.rooms.rows() == []
