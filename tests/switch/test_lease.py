"""The end of a call is the switch's: how exactly, on which legs, and how it is moved while the call is up."""

import asyncio
import math
from pathlib import Path

from testbed.installation import Installation
from testbed.server import dialplan
from testbed.sipp import RINGS_2_S, RINGS_4_S, place_call, place_calls
from tests.switch.conftest import Spine, running_spine

ANSWERED = "02079460100"
GRANTED_S = 3


async def test_no_leg_of_thirty_calls_outlives_its_grant_by_a_second(spine: Spine) -> None:
    """Answered at once and after ringing; measured by the caller and by the called phone."""
    await spine.server.account("acme", "short", "alice")
    numbers = [ANSWERED, f"020794601{RINGS_2_S}", f"020794601{RINGS_4_S}"]
    load = await place_calls(
        spine.switch, line="alice", number=numbers, count=30, rate_per_s=10, timeout_s=20
    )
    assert (load.lost, load.answered, load.ended_by) == (0, 30, {"far_end": 30})
    caller_over_s = [call.talk_s - GRANTED_S for call in load.calls]
    assert min(caller_over_s) >= -0.1
    assert max(caller_over_s) <= 1
    await spine.switch.no_channels()
    called = [call for call in spine.carrier.calls() if call.answered_at and call.ended_at]
    assert len(called) == 30
    assert max((call.ended_at or math.inf) - (call.answered_at or 0) for call in called) <= GRANTED_S + 1
    await spine.server.idle()
    assert await spine.server.usage("acme") == {"used_s": 30 * GRANTED_S, "reserved_s": 0}


async def test_without_the_dial_option_the_lease_is_set_at_the_answer(
    installation: Installation, tmp_path: Path
) -> None:
    extensions, files = dialplan()
    files["outbound.conf"] = files["outbound.conf"].replace(",${FAIRDIAL_DIAL}", "")
    async with running_spine(installation, tmp_path, plan=(extensions, files)) as spine:
        await spine.server.account("acme", "short", "alice")
        outcome = await place_call(spine.switch, line="alice", number=f"020794601{RINGS_2_S}", timeout_s=10)
        assert outcome.ended_by == "far_end"
        assert GRANTED_S - 0.1 <= outcome.talk_s <= GRANTED_S + 1


async def test_slices_are_renewed_while_there_is_more_and_then_the_call_is_cut(
    installation: Installation, tmp_path: Path
) -> None:
    settings = {"desk.useful_s": 2, "desk.slice_s": 4}
    async with running_spine(installation, tmp_path, settings) as spine:
        await spine.server.account("acme", "quota", "alice")
        talking = asyncio.create_task(place_call(spine.switch, line="alice", number=ANSWERED, timeout_s=30))
        row = await spine.server.talking("alice")
        assert row["granted_s"] <= 4
        outcome = await talking
        assert outcome.ended_by == "far_end"
        assert 14.5 <= outcome.talk_s <= 16
        await spine.server.idle()
        assert await spine.server.usage("acme") == {"used_s": 15, "reserved_s": 0}


async def test_a_second_dial_of_the_same_channel_gets_no_second_grant(
    installation: Installation, tmp_path: Path
) -> None:
    """Failover: the first number is busy, the dialplan asks again for another; only the second is metered."""
    extensions, files = dialplan()
    files["outbound.conf"] = FAILOVER
    async with running_spine(installation, tmp_path, plan=(extensions, files)) as spine:
        await spine.server.account("acme", "quota", "alice")
        outcome = await place_call(spine.switch, line="alice", number="02079460186", hang_up_after_s=2)
        assert outcome.final_status == 200
        await spine.server.idle()
        assert await spine.server.usage("acme") == {"used_s": 2, "reserved_s": 0}
        records = await spine.server.ask("decisions", account="acme")
        assert [row["dialled"] for row in records] == ["02079460100", "02079460186"]


FAILOVER = """[phones-outbound]
exten => _[0-9+*#]!,1,Gosub(fairdial,s,1(outbound,${EXTEN}))
 same => n,Dial(PJSIP/${FAIRDIAL_NUMBER}@carrier,60,${FAIRDIAL_DIAL})
 same => n,Gosub(fairdial,s,1(outbound,02079460100))
 same => n,Dial(PJSIP/${FAIRDIAL_NUMBER}@carrier,60,${FAIRDIAL_DIAL})
 same => n,Hangup()
"""


async def test_dialling_twice_on_one_grant_never_passes_it(
    installation: Installation, tmp_path: Path
) -> None:
    """A dialplan that goes on after the called party hung up and dials again without asking."""
    extensions, files = dialplan()
    files["outbound.conf"] = TWICE
    async with running_spine(installation, tmp_path, plan=(extensions, files)) as spine:
        await spine.server.account("acme", "short", "alice")
        outcome = await place_call(spine.switch, line="alice", number="02079460192", timeout_s=15)
        assert outcome.ended_by == "far_end"
        called = spine.carrier.calls()
        assert len(called) == 2
        assert sum((call.ended_at or math.inf) - (call.answered_at or 0) for call in called) <= GRANTED_S + 1
        await spine.server.idle()
        assert await spine.server.usage("acme") == {"used_s": GRANTED_S, "reserved_s": 0}


TWICE = """[phones-outbound]
exten => _[0-9+*#]!,1,Gosub(fairdial,s,1(outbound,${EXTEN}))
 same => n,Dial(PJSIP/${FAIRDIAL_NUMBER}@carrier,60,g${FAIRDIAL_DIAL})
 same => n,Dial(PJSIP/+442079460100@carrier,60,${FAIRDIAL_DIAL})
 same => n,Hangup()
"""


async def test_functions_of_the_dialplan_work_after_the_question(
    installation: Installation, tmp_path: Path
) -> None:
    """A variable set over ARI would keep DB() and others from the rest of the call."""
    extensions, files = dialplan()
    files["outbound.conf"] = READS_DATABASE
    async with running_spine(installation, tmp_path, plan=(extensions, files)) as spine:
        await spine.server.account("acme", "quota", "alice")
        await spine.switch.cli("database put route gb carrier")
        outcome = await place_call(spine.switch, line="alice", number=ANSWERED, hang_up_after_s=1)
        assert outcome.final_status == 200


READS_DATABASE = """[phones-outbound]
exten => _[0-9+*#]!,1,Gosub(fairdial,s,1(outbound,${EXTEN}))
 same => n,Dial(PJSIP/${FAIRDIAL_NUMBER}@${DB(route/gb)},60,${FAIRDIAL_DIAL})
 same => n,Hangup()
"""


async def test_a_caller_who_was_answered_by_the_dialplan_is_not_metered_while_it_rings(
    installation: Installation, tmp_path: Path
) -> None:
    """The switch is compared with the ledger each second meanwhile: a caller who is up is no answer."""
    extensions, files = dialplan()
    files["outbound.conf"] = ANSWERS_FIRST
    settings = {"reconcile_every_s": 1}
    async with running_spine(installation, tmp_path, settings, plan=(extensions, files)) as spine:
        await spine.server.account("acme", "quota", "alice")
        outcome = await spine.call("alice", f"020794601{RINGS_4_S}", hang_up_after_s=6)
        assert outcome.ended_by == "caller"
        await spine.server.idle()
        [called] = spine.carrier.calls()
        talk_s = (called.ended_at or math.inf) - (called.answered_at or 0)
        # Less than with the four seconds of ringing.
        assert talk_s < 5
        used = await spine.server.usage("acme")
        assert abs(used["used_s"] - talk_s) < 1
        assert used["reserved_s"] == 0


ANSWERS_FIRST = """[phones-outbound]
exten => _[0-9+*#]!,1,Gosub(fairdial,s,1(outbound,${EXTEN}))
 same => n,Answer()
 same => n,Dial(PJSIP/${FAIRDIAL_NUMBER}@carrier,60,${FAIRDIAL_DIAL})
 same => n,Hangup()
"""
