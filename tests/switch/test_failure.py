"""What calls see when FairDial is dead, slow, restarted or stopped; the switch holds what was promised."""

import asyncio
import csv
import os
import re
import signal
from pathlib import Path

import pytest

from testbed.asterisk import Switch
from testbed.installation import Installation
from testbed.server import Server, dialplan
from testbed.sipp import place_calls
from tests.switch.conftest import Spine, running_spine

ANSWERED = "02079460100"


async def provision(spine: Spine) -> None:
    await spine.server.account("acme", "quota", "alice", "bob")
    await spine.switch.cli("database put extension 101 bob")


async def failure_rules_hold(spine: Spine) -> None:
    """The defaults: emergency and internal calls go through, all else is refused."""
    emergency, internal, outbound, premium = await asyncio.gather(
        spine.call("alice", "112", hang_up_after_s=0.5),
        spine.call("alice", "101", hang_up_after_s=0.5),
        spine.call("alice", ANSWERED),
        spine.call("alice", "09098790000"),
    )
    assert emergency.final_status == 200
    assert internal.final_status == 200
    assert outbound.final_status == 503
    assert premium.final_status == 503
    for outcome in (emergency, outbound, premium):
        assert outcome.setup_s < 2


async def test_a_dead_fairdial_leaves_each_kind_of_call_to_its_failure_rule(spine: Spine) -> None:
    await provision(spine)
    await spine.server.kill()
    await failure_rules_hold(spine)


async def test_a_frozen_fairdial_leaves_each_kind_of_call_to_its_failure_rule(spine: Spine) -> None:
    await provision(spine)
    os.kill(spine.server.pid, signal.SIGSTOP)
    try:
        await failure_rules_hold(spine)
    finally:
        os.kill(spine.server.pid, signal.SIGCONT)
    await spine.server.idle(timeout_s=20)
    await spine.server.ready()
    assert (await spine.call("alice", ANSWERED, hang_up_after_s=1)).final_status == 200


async def test_a_failure_rule_of_lease_lets_normal_numbers_through_for_so_long(spine: Spine) -> None:
    await provision(spine)
    await spine.server.kill()
    await spine.switch.set_global("FAIRDIAL_ON_FAILURE_outbound", "lease")
    await spine.switch.set_global("FAIRDIAL_FAILURE_LEASE", "2")
    await spine.switch.cli(f"dialplan add extension {ANSWERED},1,NoOp into fairdial-on-failure")
    normal, other = await asyncio.gather(
        spine.call("alice", ANSWERED, timeout_s=10), spine.call("alice", "02079460101")
    )
    assert (normal.final_status, normal.ended_by) == (200, "far_end")
    assert 1.9 <= normal.talk_s <= 3
    assert other.final_status == 503


FAILS_THEN_ASKS = f"""
exten => _70[0-2],1,Set(FAIRDIAL_APP=nobody)
 same => n,Gosub(fairdial,s,1(internal,101))
 same => n,ExecIf($["${{EXTEN}}" = "702"]?Hangup(17))
 same => n,ExecIf($["${{EXTEN}}" = "701"]?Set(CDR(userfield)=mine))
 same => n,Set(FAIRDIAL_APP=fairdial)
 same => n,Gosub(fairdial,s,1(outbound,{ANSWERED}))
 same => n,Hangup(17)
"""


@pytest.mark.parametrize(
    ("dialled", "mark"),
    [("702", r"fairdial-through\|.*\|internal\|101\|alice"), ("700", ""), ("701", "mine")],
)
async def test_only_a_dial_that_the_rule_let_through_has_its_mark_in_the_record(
    installation: Installation, tmp_path: Path, dialled: str, mark: str
) -> None:
    extensions, files = dialplan()
    plan = extensions.replace("[phones]\n", f"[phones]\n{FAILS_THEN_ASKS}", 1), files
    async with running_spine(installation, tmp_path, plan=plan) as spine:
        await provision(spine)
        assert (await spine.call("alice", dialled)).final_status == 486
        assert await spine.switch.no_channels() == []
        async with asyncio.timeout(5):
            while not (records := spine.switch.cdr_path.read_text().splitlines()):
                await asyncio.sleep(0.02)
        [fields] = csv.reader(records[:1])
        assert re.fullmatch(mark, fields[17]), fields


async def test_a_call_is_cut_in_time_though_fairdial_was_killed(spine: Spine) -> None:
    await spine.server.account("acme", "short", "alice")
    talking = asyncio.create_task(spine.call("alice", ANSWERED, timeout_s=10))
    await spine.server.talking("alice")
    await spine.server.kill()
    outcome = await talking
    assert outcome.ended_by == "far_end"
    assert 2.9 <= outcome.talk_s <= 4
    # The next start finds that it ended unseen and settles what it can have used at most.
    await spine.server.launch()
    await spine.server.idle()
    assert await spine.server.usage("acme") == {"used_s": 3, "reserved_s": 0}


async def test_a_restarted_fairdial_follows_the_calls_that_are_up(spine: Spine) -> None:
    await spine.server.account("acme", "quota", "alice")
    talking = asyncio.create_task(spine.call("alice", ANSWERED, hang_up_after_s=5))
    await spine.server.talking("alice")
    await spine.server.kill()
    assert len(await spine.switch.channels()) == 2
    await spine.server.launch()
    assert (await spine.server.talking("alice"))["line"] == "alice"
    assert (await talking).ended_by == "caller"
    await spine.server.idle()
    assert await spine.server.usage("acme") == {"used_s": 5, "reserved_s": 0}


async def test_stopping_hands_calls_over_within_two_seconds(spine: Spine) -> None:
    await spine.server.account("acme", "quota", "alice")
    talking = asyncio.create_task(spine.call("alice", ANSWERED, hang_up_after_s=5))
    await spine.server.talking("alice")
    assert await spine.server.stop() < 2
    assert spine.server.status == 0
    assert len(await spine.switch.channels()) == 2
    # No server runs: the command line reads the ledger itself.
    listed = await spine.server.command("calls", "--json")
    assert [(row["line"], row["state"]) for row in listed.json] == [("alice", "talking")]
    await spine.server.launch()
    assert (await talking).ended_by == "caller"
    await spine.server.idle()
    assert await spine.server.usage("acme") == {"used_s": 5, "reserved_s": 0}


async def test_hundreds_of_calls_are_handed_over_and_followed_again(spine: Spine) -> None:
    """No call is lost or cut, and each is metered once, though FairDial was away in the middle of all."""
    # Hundreds of dials by one phone in a second are what detectors are there to stop.
    await spine.server.account("acme", "kryptotel-in-shadow", "alice", countries=("GB",))
    count, talk_s = 350, 15
    load = asyncio.create_task(
        place_calls(
            spine.switch,
            line="alice",
            number=ANSWERED,
            count=count,
            rate_per_s=60,
            hang_up_after_s=talk_s,
            timeout_s=60,
        )
    )
    async with asyncio.timeout(30):
        while sum(row["state"] == "talking" for row in await spine.server.ask("calls")) < count:
            await asyncio.sleep(0.1)
    assert await spine.server.stop() < 2
    await spine.server.launch()
    async with asyncio.timeout(5):
        while (await spine.server.ask("status"))["calls"] < count:
            await asyncio.sleep(0.05)
    outcome = await load
    assert (outcome.lost, outcome.ended_by) == (0, {"caller": count})
    assert spine.switch.is_running
    await spine.server.idle(timeout_s=20)
    used = await spine.server.usage("acme")
    # Answers are told to the millisecond; a second is rounded either way in each call at most.
    assert abs(used["used_s"] - count * talk_s) <= count // 10
    assert used["reserved_s"] == 0


async def test_a_lost_ari_connection_ends_no_call_and_its_end_is_not_lost(spine: Spine) -> None:
    """The socket is closed by Asterisk (module reload); the call ends while nobody listens."""
    await spine.server.account("acme", "quota", "alice")
    talking = asyncio.create_task(spine.call("alice", ANSWERED, hang_up_after_s=3))
    await spine.server.talking("alice")
    os.kill(spine.server.pid, signal.SIGSTOP)
    try:
        assert (await talking).ended_by == "caller"
        await spine.switch.no_channels()
    finally:
        os.kill(spine.server.pid, signal.SIGCONT)
    await spine.server.idle(timeout_s=20)
    used = await spine.server.usage("acme")
    assert used["reserved_s"] == 0
    assert 3 <= used["used_s"] <= 15


async def test_an_asterisk_restart_settles_the_calls_that_died_with_it(spine: Spine) -> None:
    await spine.server.account("acme", "quota", "alice")
    talking = asyncio.create_task(spine.call("alice", ANSWERED, timeout_s=5))
    await spine.server.talking("alice")
    spine.switch.kill()
    await spine.switch.restart()
    await spine.server.ready()
    await spine.server.idle(timeout_s=20)
    used = await spine.server.usage("acme")
    assert used["reserved_s"] == 0
    assert 1 <= used["used_s"] <= 15
    with pytest.raises(Exception, match="still up"):
        await talking
    assert (await spine.call("alice", ANSWERED, hang_up_after_s=1)).final_status == 200


async def test_a_second_fairdial_on_the_same_ledger_is_kept_out(spine: Spine) -> None:
    second = await spine.server.command("serve")
    assert second.status == 2
    assert "another FairDial writes this ledger" in second.error
    await spine.server.account("acme", "quota", "alice")
    assert (await spine.call("alice", ANSWERED, hang_up_after_s=0.5)).final_status == 200


async def test_a_fairdial_whose_application_was_taken_over_stops_and_says_so(
    installation: Installation, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    async with running_spine(installation, first) as spine:
        other = Server(spine.switch, second, {"agi.enabled": False})
        await other.launch()
        try:
            assert await spine.server.ended() == 1
            assert "ari_application_replaced" in spine.server.last_words()
        finally:
            await other.stop()


async def test_the_caller_inside_the_question_is_not_left_hanging_when_fairdial_dies(spine: Spine) -> None:
    """Killed between question and answer: the switch's own patience ends the wait."""
    await provision(spine)
    os.kill(spine.server.pid, signal.SIGSTOP)
    waiting = asyncio.create_task(spine.call("alice", ANSWERED))
    await channel_in_stasis(spine.switch)
    await spine.server.kill()
    outcome = await waiting
    assert outcome.final_status == 503
    assert outcome.setup_s < 2


async def channel_in_stasis(switch: Switch) -> None:
    """Wait until a channel is asking."""
    async with asyncio.timeout(5):
        while "Stasis" not in await switch.cli("core show channels concise"):
            await asyncio.sleep(0.02)
