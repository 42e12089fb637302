"""Conferences that the dialplan keeps (K5, V5): who gets in, what the room's clock counts, and when all are cut."""

import asyncio

import pytest

from testbed.sipp import place_calls
from tests.switch.conferences import LINES, in_room, in_use_s, join, meters
from tests.switch.conftest import Spine

ROOM = "8000"


@pytest.mark.parametrize("gate", ["stasis", "agi"])
@pytest.mark.clause("K5", "allowed")
@pytest.mark.clause("K5", "refused")
async def test_four_join_a_conference_and_a_fifth_when_one_has_left(spine: Spine, gate: str) -> None:
    await spine.ask_by(gate)
    await spine.server.account("acme", "kryptotel", *LINES, "pbx")
    first = await join(spine, "erin", 5, among=1, room=ROOM)
    others = [
        await join(spine, line, 12, among=among, room=ROOM) for among, line in enumerate(LINES[1:], start=2)
    ]

    assert (await spine.call("pbx", ROOM)).final_status == 486
    record = await spine.newest_decision()
    assert (record["reason"], record["clause_policy"], record["clause_id"]) == (
        "conference_full",
        "kryptotel",
        "K5",
    )
    # Another room of the account has its own seats.
    assert (await spine.call("pbx", "8001", hang_up_after_s=0.5)).final_status == 200

    assert (await first).ended_by == "caller"
    await in_room(spine, 3, ROOM)
    fifth = await join(spine, "pbx", 1, among=4, room=ROOM)
    assert [outcome.ended_by for outcome in await asyncio.gather(fifth, *others)] == ["caller"] * 4
    await meters(spine)


@pytest.mark.clause("K5", "refused")
async def test_of_ten_who_join_at_the_same_instant_exactly_four_get_in(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", *LINES)
    load = await place_calls(
        spine.switch, line=LINES, number=[ROOM], count=10, rate_per_s=1000, hang_up_after_s=3
    )
    assert (load.lost, load.answered, dict(load.failed)) == (0, 4, {486: 6})
    records = await spine.server.ask("decisions", limit=100)
    refused = [record["reason"] for record in records if record["decision"] == "refuse"]
    assert refused == ["conference_full"] * 6
    await meters(spine)


async def test_rooms_of_two_accounts_have_nothing_to_do_with_each_other(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", *LINES)
    await spine.server.account("other", "kryptotel", "alice")
    four = asyncio.create_task(
        place_calls(spine.switch, line=LINES, number=ROOM, count=4, rate_per_s=100, hang_up_after_s=3)
    )
    async with asyncio.timeout(5):
        while len(await spine.server.ask("calls")) < 4:
            await asyncio.sleep(0.02)
    alone = asyncio.create_task(spine.call("alice", ROOM, hang_up_after_s=1))
    await spine.server.talking("alice")
    assert "PJSIP/alice" not in await spine.switch.cli(f"confbridge list acme-{ROOM}")
    assert (await alone).final_status == 200
    assert (await four).answered == 4


@pytest.mark.clause("K5", "allowed")
async def test_the_clock_of_the_room_runs_once_for_all_who_are_in_it(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", *LINES)
    stays = await asyncio.gather(
        spine.call("erin", ROOM, hang_up_after_s=4),
        spine.call("frank", ROOM, hang_up_after_s=4),
        spine.call("grace", ROOM, hang_up_after_s=2),
    )
    assert sum(stay.talk_s for stay in stays) == pytest.approx(10, abs=0.5)
    found = await meters(spine)
    for name in ("conference-day", "conference-month"):
        assert found[name]["used_units"] == pytest.approx(in_use_s(stays), abs=1)
        assert found[name]["calls"] == 1


@pytest.mark.clause("V5", "allowed")
async def test_a_conference_counts_once_for_each_party_where_the_plan_says_so(spine: Spine) -> None:
    await spine.server.account("acme", "voxdirect", *LINES)
    stays = await asyncio.gather(
        spine.call("erin", ROOM, hang_up_after_s=4),
        spine.call("frank", ROOM, hang_up_after_s=4),
        spine.call("grace", ROOM, hang_up_after_s=2),
    )
    assert [stay.final_status for stay in stays] == [200] * 3
    found = (await meters(spine))["voice"]
    assert 10 <= found["used_units"] <= 12
    assert found["calls"] == 3
    record = await spine.newest_decision()
    assert (record["reason"], record["clause_policy"], record["clause_id"]) == (
        "within_allowance",
        "voxdirect",
        "V5",
    )


@pytest.mark.clause("V5", "charged")
async def test_the_parties_minutes_past_the_allowance_are_charged(spine: Spine) -> None:
    await spine.publish_variant(
        "voxdirect",
        "voxdirect-small",
        ("limit_s = 1800000", "limit_s = 6"),
        ("effective = 2026-11-01", 'effective = "at_once"'),
        ("notice_days = 14", "notice_days = 0"),
    )
    await spine.server.account("acme", "voxdirect-small", *LINES)
    await asyncio.gather(*(spine.call(line, ROOM, hang_up_after_s=4) for line in LINES[:3]))
    found = (await meters(spine))["voice"]
    assert found["used_units"] == 6
    assert 6 <= found["over_units"] <= 9
    charges = (await spine.server.ask("usage", account="acme"))["charges"]
    assert sum(charge["charged_units"] for charge in charges) == found["over_units"]
    # By the begun minute, for each party that talked past the allowance.
    assert {charge["amount"] for charge in charges} == {"0.02"}


async def test_all_are_cut_when_the_conference_has_lasted_its_longest(spine: Spine) -> None:
    await spine.server.account("acme", "conference", *LINES)
    first = asyncio.create_task(spine.call("erin", ROOM, timeout_s=10))
    await in_room(spine, 1, ROOM)
    await asyncio.sleep(1.5)
    second = asyncio.create_task(spine.call("frank", ROOM, timeout_s=10))
    stays = await asyncio.gather(first, second)
    assert [stay.ended_by for stay in stays] == ["far_end"] * 2
    assert 3.9 <= stays[0].talk_s <= 5
    # The room's longest counts from when it was opened, for whoever comes later too.
    assert stays[1].ended_at == pytest.approx(stays[0].ended_at, abs=1)
    found = await meters(spine)
    assert found["room"]["used_units"] == 4

    # Two seconds of the day are left; then none.
    rest = await spine.call("grace", ROOM, timeout_s=10)
    assert rest.ended_by == "far_end"
    assert 1.9 <= rest.talk_s <= 3
    assert (await meters(spine))["room"]["used_units"] == 6
    assert (await spine.call("erin", ROOM)).final_status == 403
    record = await spine.newest_decision()
    assert (record["reason"], record["clause_id"]) == ("allowance_used_up", "F3")


async def test_a_conference_is_cut_in_time_though_fairdial_was_killed(spine: Spine) -> None:
    await spine.server.account("acme", "conference", *LINES)
    stays = [asyncio.create_task(spine.call(line, ROOM, timeout_s=10)) for line in LINES[:3]]
    await in_room(spine, 3, ROOM)
    await spine.server.kill()
    for stay in await asyncio.gather(*stays):
        assert stay.ended_by == "far_end"
        assert 2.9 <= stay.talk_s <= 5
    # By the failure rule nobody gets in whose seat nobody counts.
    assert (await spine.call("heidi", ROOM)).final_status == 503
    await spine.server.launch()
    await spine.server.idle(timeout_s=20)
    assert (await meters(spine))["room"]["used_units"] == pytest.approx(4, abs=1)


async def test_a_restarted_fairdial_knows_who_is_in_the_conference(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", *LINES, "pbx")
    stays = [asyncio.create_task(spine.call(line, ROOM, hang_up_after_s=6)) for line in LINES]
    await in_room(spine, 4, ROOM)
    await spine.server.kill()
    await spine.server.launch()
    assert (await spine.call("pbx", ROOM)).final_status == 486
    ended = await asyncio.gather(*stays)
    assert [stay.ended_by for stay in ended] == ["caller"] * 4
    used_s = (await meters(spine))["conference-day"]["used_units"]
    assert used_s == pytest.approx(in_use_s(ended), abs=1)
    assert (await spine.call("pbx", ROOM, hang_up_after_s=0.5)).final_status == 200


async def test_who_finds_the_conference_full_is_told_without_an_answer(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", *LINES, "pbx")
    four = asyncio.create_task(
        place_calls(spine.switch, line=LINES, number=ROOM, count=4, rate_per_s=100, hang_up_after_s=8)
    )
    await in_room(spine, 4, ROOM)
    silent = await spine.call("pbx", ROOM)
    await spine.switch.set_global("FAIRDIAL_ANNOUNCE", "yes")
    told = await spine.call("pbx", ROOM)
    assert (silent.final_status, told.final_status) == (486, 486)
    # As early media, for as long as the sound of the packages lasts.
    assert silent.setup_s < 1 < told.setup_s
    assert "does not exist" not in spine.switch.log_path.read_text()
    assert (await four).answered == 4


async def test_an_operator_sends_one_out_of_a_conference_and_the_others_stay(spine: Spine) -> None:
    await spine.server.account("acme", "kryptotel", *LINES)
    first = await join(spine, "erin", 10, among=1, room=ROOM)
    second = await join(spine, "frank", 5, among=2, room=ROOM)
    call = (await spine.server.talking("erin"))["call"]
    assert (await spine.server.command("hangup", call)).status == 0
    assert (await first).ended_by == "far_end"
    await in_room(spine, 1, ROOM)
    assert (await second).ended_by == "caller"
    await meters(spine)
