"""Conferences whose bridge FairDial holds (K5, V5): who comes in, what it counts, and how it ends."""

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from agi_app.ami import AmiLink
from testbed.installation import Installation
from testbed.sipp import place_calls
from tests.switch.conferences import (
    LINES,
    all_join,
    in_room,
    in_use_s,
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
ENDS_WITH_HOST = "7910"
WITH_PINS = "7911"
QUIET = "7920"
"""Into ROOM without a sound."""
OUTSIDE = "442079460777"
"""Whoever calls this from outside comes into ROOM of erin's account."""

KEY_EVERY_S = 0.15
"""A phone's pause between two keys; Asterisk takes faster ones for one."""

DIALPLAN = f"""
exten => {ENDS_WITH_HOST},1,Stasis(fairdial,room,${{EXTEN}},end=host)
exten => {WITH_PINS},1,Stasis(fairdial,room,${{EXTEN}},pin=1234,host=98765,end=host)
exten => {QUIET},1,Stasis(fairdial,room,{ROOM},quiet)
exten => 7912,1,Stasis(fairdial,room,${{EXTEN}},pin=4711x)
exten => 7913,1,Stasis(fairdial,room,${{EXTEN}},pin=4711,pin=4711)
exten => 7914,1,Stasis(fairdial,room,${{EXTEN}},pin=4711,host=4711)
exten => 7915,1,Stasis(fairdial,room,${{EXTEN}},loud)
exten => 7916,1,Stasis(fairdial,room,room-${{EXTEN}})
exten => 7917,1,Stasis(fairdial,room)
[inbound](+)
exten => {OUTSIDE},1,Stasis(fairdial,room,{ROOM},line=erin)
"""


@pytest_asyncio.fixture
async def spine(installation: Installation, tmp_path: Path) -> AsyncIterator[Spine]:
    async with running(installation, tmp_path, more=DIALPLAN) as spine:
        yield spine


async def logged(spine: Spine, event: str, count: int = 1, timeout_s: float = 10.0) -> None:
    """Wait until the server has logged an event so many times."""
    async with asyncio.timeout(timeout_s):
        while spine.server.log_path.read_text().count(f'"event": "{event}"') < count:
            await asyncio.sleep(0.02)


@pytest.mark.clause("K5", "allowed")
@pytest.mark.clause("K5", "refused")
async def test_four_join_a_room_and_a_fifth_when_one_has_hung_up(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", *LINES, "pbx")
    first = await join(spine, "erin", 6, among=1, room=ROOM)
    others = [
        await join(spine, line, 9, among=among, room=ROOM) for among, line in enumerate(LINES[1:], start=2)
    ]

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
    await in_room(spine, 3, ROOM)
    fifth = await join(spine, "pbx", 1, among=4, room=ROOM)
    assert [outcome.ended_by for outcome in await asyncio.gather(fifth, *others)] == ["caller"] * 4
    await meters(spine)


@pytest.mark.clause("K5", "refused")
async def test_of_twenty_who_join_at_the_same_instant_exactly_four_get_in(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", *LINES)
    load = asyncio.create_task(
        place_calls(spine.switch, line=LINES, number=[ROOM], count=20, rate_per_s=1000, hang_up_after_s=6)
    )
    await in_room(spine, 4, ROOM)
    most = 4
    while not load.done():
        most = max(most, await inside(spine, ROOM))
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
    stays = [
        await join(spine, line, None, among=among, room=ROOM) for among, line in enumerate(LINES[:3], start=1)
    ]
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
    first = await join(spine, "erin", 6, among=1, room=ROOM)
    await until_music(True)
    second = await join(spine, "frank", 2, among=2, room=ROOM)
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
        assert 1 < other.ended_at - left.ended_at < 3
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

    host = await join(spine, "erin", 1, among=1, room=ROOM)
    guest = await join(spine, "frank", 4, among=2, room=ROOM)
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


@pytest.mark.parametrize(
    ("room", "cure"),
    [
        ("7912", "write pin=1234"),
        ("7913", "option pin is there twice; write it once"),
        ("7914", "give the host a PIN of its own"),
        ("7915", "option 'loud' is unknown; write pin=1234, host=9876"),
        ("7916", "'room-7916' is no name; write 1 to 40 letters"),
        ("7917", "'' is no name; write 1 to 40 letters"),
    ],
)
async def test_options_that_are_not_understood_leave_nobody_hanging(
    spine: Spine, room: str, cure: str
) -> None:
    await spine.server.account("acme", "kryptotel", *LINES)
    outcome = await spine.call("erin", room)
    assert (outcome.final_status, outcome.answered) == (503, False)
    assert "room_malformed" in spine.server.last_words()
    assert cure in spine.server.last_words()
    # A moment may have these digits too.
    told = re.sub(r'"timestamp": *"[^"]*"', "", spine.server.last_words())
    assert "4711" not in told
    # Others come in as ever.
    assert (await spine.call("erin", ROOM, hang_up_after_s=0.5)).ended_by == "caller"


async def test_a_quiet_one_comes_and_goes_without_a_sound_and_others_are_heard(spine: Spine) -> None:
    await spine.switch.cli("logger add channel sounds verbose(3)")

    def played() -> list[str]:
        text = (spine.switch.log_path.parent / "sounds").read_text()
        return re.findall(r"Playing 'confbridge-(\w+)", text)

    async def until_played(*sounds: str) -> None:
        async with asyncio.timeout(5):
            while played() != list(sounds):
                await asyncio.sleep(0.02)

    await spine.server.account("acme", "kryptotel", *LINES)
    member = await join(spine, "erin", 8, among=1, room=ROOM)
    quiet = asyncio.create_task(spine.call("frank", QUIET, hang_up_after_s=1))
    await in_room(spine, 2, ROOM)
    assert (await quiet).ended_by == "caller"
    await in_room(spine, 1, ROOM)
    heard = await join(spine, "grace", 1.5, among=2, room=ROOM)
    # Sounds are played in order: had there been any for the quiet one, they would come first.
    await until_played("join")
    assert (await heard).ended_by == "caller"
    await until_played("join", "leave")
    assert (await member).ended_by == "caller"


async def test_a_guest_from_outside_comes_into_the_room_of_the_line_that_pays(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", *LINES)
    await spine.server.account("other", "kryptotel", "alice")
    member = await join(spine, "erin", 4, among=1, room=ROOM)
    guest = asyncio.create_task(spine.call("carrier", OUTSIDE, hang_up_after_s=1.5))
    await in_room(spine, 2, ROOM)
    # The same name is another room for another account.
    alone = asyncio.create_task(spine.call("alice", ROOM, hang_up_after_s=0.5))
    await spine.server.talking("alice")
    assert await inside(spine, ROOM, "other") == 1
    assert await inside(spine, ROOM) == 2
    assert [(await task).ended_by for task in (guest, alone, member)] == ["caller"] * 3
    assert (await meters(spine))["conference-day"]["used_units"] == 4
    assert (await meters(spine, "other"))["conference-day"]["used_units"] == 1


async def test_all_are_cut_when_the_conference_has_lasted_its_longest(spine: Spine) -> None:
    await spine.server.account("acme", "room", *LINES)
    first = await join(spine, "erin", None, among=1, room=ROOM)
    second = await join(spine, "frank", None, among=2, room=ROOM)
    third = await join(spine, "grace", None, among=3, room=ROOM)
    stays = [await first, await second, await third]
    assert [stay.ended_by for stay in stays] == ["far_end"] * 3
    assert 4.9 <= stays[0].talk_s <= 6
    for stay in stays[1:]:
        assert stay.ended_at == pytest.approx(stays[0].ended_at, abs=1)
    # Whole seconds: who came late may have begun one more.
    assert (await meters(spine))["room"]["used_units"] in (5, 6)


async def test_a_suspended_account_is_out_of_its_rooms_within_a_second(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", *LINES)
    stays = await all_join(spine, None, ROOM)
    told_at = time.time()
    told = await spine.server.ask("account_standing", account="acme", standing="suspended")
    outcomes = await asyncio.gather(*stays)
    assert told["calls_cut"] == 4
    assert [outcome.ended_by for outcome in outcomes] == ["far_end"] * 4
    assert max(outcome.ended_at for outcome in outcomes) - told_at < 1
    refused = await spine.call("erin", ROOM)
    assert turned_away(refused, 21)


async def test_a_conference_is_cut_in_time_though_fairdial_was_killed(spine: Spine) -> None:
    await spine.server.account("acme", "room", *LINES)
    stays = [
        await join(spine, line, None, among=among, room=ROOM) for among, line in enumerate(LINES[:3], start=1)
    ]
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
    stay = await join(spine, "erin", 2, among=1, room=ROOM)
    await spine.server.kill()
    assert (await stay).ended_by == "caller"
    assert "own-room" in await spine.switch.cli("bridge show all")
    await spine.server.launch()
    await no_bridges(spine)
    assert (await meters(spine))["conference-day"]["used_units"] in (2, 3, 4, 5)


async def test_what_happened_while_the_link_was_down_is_made_up_for(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", *LINES)
    async with service_of(spine) as service:
        host = await join(spine, "erin", 2, among=1, room=ENDS_WITH_HOST)
        guest = await join(spine, "frank", None, among=2, room=ENDS_WITH_HOST)
        alone = await join(spine, "grace", 2, among=1, room=ROOM)
        await service.client.stop()
        assert [(await host).ended_by, (await alone).ended_by] == ["caller"] * 2
        assert (await inside(spine, ENDS_WITH_HOST), await inside(spine, ROOM)) == (1, 0)
        await service.client.start()
        assert (await guest).ended_by == "far_end"
        await no_bridges(spine)
        await meters(spine)
        assert service.rooms.rows() == []
