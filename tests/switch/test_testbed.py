"""The testbed itself: phones tell the truth about calls, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from testbed import sipp
from testbed.asterisk import Switch
from testbed.configuration import Line
from testbed.installation import Installation, TestbedError
from testbed.sipp import Carrier, place_call, place_calls

REPOSITORY = Path(__file__).parents[2]


async def test_answered_call_lasts_as_long_as_the_caller_wants(switch: Switch, carrier: Carrier) -> None:
    call = await place_call(switch, line="alice", number="0100", hang_up_after_s=1.5)

    assert (call.final_status, call.ended_by, call.retransmissions) == (200, "caller", 0)
    assert call.talk_s == pytest.approx(1.5, abs=0.5)
    assert call.setup_s < 0.5
    [seen] = carrier.calls_to("0100")
    assert (seen.caller, seen.status, seen.ended_by) == ("alice", 200, "switch")
    assert seen.ended_at is not None
    assert seen.answered_at is not None
    assert seen.ended_at - seen.answered_at == pytest.approx(call.talk_s, abs=0.5)


async def test_unknown_line_gets_no_call(switch: Switch, carrier: Carrier) -> None:
    call = await place_call(switch, line="mallory", number="0100")

    assert (call.final_status, call.answered) == (401, False)
    assert carrier.calls() == []


@pytest.mark.parametrize(
    ("ending", "status", "cause"),
    [
        (sipp.BUSY, 486, 17),
        # Asterisk passes a 603 on as cause 21, "call rejected", for which it says 403 to the caller.
        (sipp.DECLINES, 403, 21),
        (sipp.NO_ROUTE, 404, 1),
        (sipp.UNAVAILABLE, 503, 34),
    ],
)
async def test_refusal_reaches_the_caller(
    switch: Switch, carrier: Carrier, ending: str, status: int, cause: int
) -> None:
    call = await place_call(switch, line="alice", number=f"01{ending}")

    assert (call.final_status, call.reason_header) == (status, f"Q.850;cause={cause}")
    assert not call.answered
    assert len(carrier.calls_to(f"01{ending}")) == 1


@pytest.mark.parametrize(("ending", "ring_s"), [(sipp.RINGS_2_S, 2), (sipp.RINGS_4_S, 4)])
async def test_ringing_comes_before_the_answer(
    switch: Switch, carrier: Carrier, ending: str, ring_s: int
) -> None:
    call = await place_call(switch, line="alice", number=f"01{ending}", hang_up_after_s=0.5)

    assert call.rang
    assert call.setup_s == pytest.approx(ring_s, abs=1)
    assert call.talk_s == pytest.approx(0.5, abs=0.5)


async def test_far_end_hangs_up(switch: Switch, carrier: Carrier) -> None:
    call = await place_call(switch, line="alice", number=f"01{sipp.HANGS_UP_AFTER_2_S}")

    assert (call.ended_by, call.reason_header) == ("far_end", "Q.850;cause=16")
    assert call.talk_s == pytest.approx(2, abs=0.5)
    seen = await carrier.call_when(f"01{sipp.HANGS_UP_AFTER_2_S}", ended=True, timeout_s=5)
    assert seen.ended_by == "carrier"
    assert carrier.calls() == [seen]


async def test_caller_gives_up_before_the_answer(switch: Switch, carrier: Carrier) -> None:
    call = await place_call(switch, line="alice", number=f"01{sipp.NEVER_ANSWERS}", give_up_after_s=1)

    assert (call.final_status, call.rang, call.ended_by) == (487, True, "none")
    assert call.setup_s == pytest.approx(1, abs=1)
    seen = await carrier.call_when(f"01{sipp.NEVER_ANSWERS}", ended=True, timeout_s=5)
    assert (seen.status, seen.answered_at, seen.ended_by) == (487, None, "switch")
    assert carrier.calls() == [seen]


async def test_switch_cuts_the_call_in_time(switch: Switch, carrier: Carrier) -> None:
    call = await place_call(switch, line="alice", number="320")

    assert call.ended_by == "far_end"
    assert call.talk_s == pytest.approx(2, abs=0.5)


async def test_conversation_without_end_is_an_error_and_leaves_no_channel(
    switch: Switch, carrier: Carrier
) -> None:
    with pytest.raises(TestbedError, match="still up after 1 s"):
        await place_call(switch, line="alice", number="0100", timeout_s=1)

    assert await switch.no_channels() == []


async def test_call_from_the_carrier_reaches_a_line(switch: Switch, carrier: Carrier) -> None:
    call = await place_call(
        switch,
        line="carrier",
        number="0100",
        hang_up_after_s=0.3,
        extra_headers={"P-Asserted-Identity": "<sip:+441632960001@carrier.invalid>"},
    )

    assert call.answered
    [seen] = carrier.calls()
    assert (seen.number, seen.caller) == ("alice", "+441632960001")


async def test_fifty_callers_at_once(switch: Switch, carrier: Carrier) -> None:
    calls = await asyncio.gather(
        *(place_call(switch, line="alice", number=f"0{index}00", hang_up_after_s=2) for index in range(50))
    )

    assert [call.final_status for call in calls] == [200] * 50
    assert max(call.invited_at for call in calls) < min(call.ended_at for call in calls)
    assert len(carrier.calls()) == 50


async def test_load_counts_every_call(switch: Switch, carrier: Carrier) -> None:
    numbers = ["0100", "0101", "0102", f"01{sipp.BUSY}"]
    load = await place_calls(switch, line="alice", number=numbers, count=40, rate_per_s=40, hang_up_after_s=1)

    assert (load.answered, dict(load.failed), load.lost) == (30, {486: 10}, 0)
    assert dict(load.ended_by) == {"caller": 30}
    assert load.talk_total_s == pytest.approx(30, abs=1)
    assert load.setup_ms[0] <= load.setup_p50_ms <= load.setup_p99_ms <= load.setup_ms[-1]
    assert len(carrier.calls()) == 40


async def test_restart_keeps_ports_and_ends_calls(switch: Switch, carrier: Carrier) -> None:
    before = (switch.ari_url, switch.ami_port, switch.sip_port, switch.pid)
    switch.kill()
    await switch.restart()

    assert (switch.ari_url, switch.ami_port, switch.sip_port) == before[:3]
    assert switch.pid != before[3]
    call = await place_call(switch, line="bob", number="0100", hang_up_after_s=0.2)
    assert call.answered


async def test_frozen_switch_answers_nothing_until_thawed(switch: Switch, carrier: Carrier) -> None:
    switch.freeze()
    unheard = await place_call(switch, line="alice", number="0100", hang_up_after_s=0.2, timeout_s=1)
    switch.thaw()
    heard = await place_call(switch, line="bob", number="0101", hang_up_after_s=0.2)

    assert (unheard.final_status, heard.final_status) == (408, 200)
    # The thawed switch still takes the INVITEs that waited in its socket; their caller is gone.
    for channel in await switch.channels():
        await switch.cli(f"channel request hangup {channel}")


async def test_two_switches_do_not_meet(installation: Installation, switch: Switch, carrier: Carrier) -> None:
    async with Switch.start(installation, "[outbound]\nexten => _X.,1,Hangup(17)\n") as other:
        assert other.directory != switch.directory
        refused = await place_call(other, line="alice", number="0100")
        answered = await place_call(switch, line="alice", number="0100", hang_up_after_s=0.2)

    assert (refused.final_status, answered.final_status) == (486, 200)


async def test_dialplan_sees_files_and_ports(installation: Installation) -> None:
    dialplan = '[globals]\nMINE=1\n[outbound]\n#include "mine.conf"\n'
    files = {"mine.conf": "exten => 100,1,NoOp()\n"}
    async with Switch.start(installation, dialplan, files=files) as switch:
        shown = await switch.cli("dialplan show globals")
        assert f"FAIRDIAL_AGI_PORT={switch.agi_port}" in shown
        assert "MINE=1" in shown
        assert "'100'" in await switch.cli("dialplan show outbound")
        directory = switch.directory

    assert not directory.exists()


async def test_line_with_password_refuses_a_caller_without_it(installation: Installation) -> None:
    lines = [Line("alice", password="correct horse")]
    async with Switch.start(installation, "[outbound]\nexten => _X.,1,Answer()\n", lines=lines) as switch:
        call = await place_call(switch, line="alice", number="0100")
        assert "alice" in await switch.cli("pjsip show endpoints")

    assert call.final_status == 401


async def test_broken_start_names_the_reason(installation: Installation) -> None:
    with pytest.raises(TestbedError, match="ended while it started"):
        async with Switch.start(installation, "", files={"modules.conf": "[modules]\nrequire=no_such.so\n"}):
            pass


async def test_switch_dies_with_the_process_that_started_it(installation: Installation) -> None:
    program = (
        "import asyncio\n"
        "from testbed.asterisk import Switch\n"
        "from testbed.installation import obtain\n"
        "async def main():\n"
        "    async with Switch.start(obtain(), '') as switch:\n"
        "        print(switch.pid, switch.directory, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid, directory = (await parent.stdout.readline()).decode().split()
    ended = os.pidfd_open(int(pid))
    try:
        parent.send_signal(signal.SIGKILL)
        await parent.wait()
        await _readable(ended, timeout_s=5)
    finally:
        os.close(ended)
    assert Path(directory).exists()

    async with Switch.start(installation, ""):
        assert not Path(directory).exists(), "what a killed run left is removed by the next"


async def _readable(descriptor: int, *, timeout_s: float) -> None:
    """Wait until `descriptor` is readable; that of a process is when the process has ended."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        async with asyncio.timeout(timeout_s):
            await readable.wait()
    finally:
        loop.remove_reader(descriptor)
