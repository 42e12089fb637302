"""A call is followed from its SIP trace into the log and back: each record of it has its Call-ID, none of another's."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from testbed.installation import Installation
from testbed.server import PROJECT
from tests.switch.conferences import LINES, in_room, join
from tests.switch.conferences import running as running_rooms
from tests.switch.conftest import Spine, running_spine
from tests.switch.test_callback import ANN, running

PAGE = (PROJECT / "docs" / "operations.md").read_text()
CUT, ENDS = "02079460100", "02079460192"
PREMIUM = "09098790000"


def records(spine: Spine) -> list[dict[str, Any]]:
    return [json.loads(line) for line in spine.server.log_path.read_text().splitlines() if line[:1] == "{"]


def of_calls(spine: Spine) -> list[dict[str, Any]]:
    """All that speak of a call."""
    return [record for record in records(spine) if "call" in record or "sip_call_id" in record]


async def searched(spine: Spine, sip_call_id: str) -> list[str]:
    """What the command of docs/operations.md finds, in the log of this server."""
    [shown] = re.findall(r"^```sh\n(.*)\n```$", PAGE, re.MULTILINE)
    shown = shown.replace("3848276298220188511@192.0.2.7", sip_call_id)
    shown = shown.replace("journalctl -u fairdial -o cat", f"cat {spine.server.log_path}")
    process = await asyncio.create_subprocess_shell(shown, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(10):
        output, _ = await process.communicate()
    return output.decode().splitlines()


@pytest.mark.parametrize("gate", ["stasis", "agi"])
async def test_each_record_of_a_call_has_its_call_id_and_no_record_of_another(
    installation: Installation, tmp_path: Path, gate: str
) -> None:
    """Calls at once: one that is warned and cut, one that its caller ends, one that is refused."""
    async with running_spine(installation, tmp_path, {"calls.warn_at_s": [1]}) as spine:
        await spine.ask_by(gate)
        await spine.server.account("acme", "short", "alice")
        await spine.server.account("other", "quota", "bob", "carol")
        calls = await asyncio.gather(
            spine.call("alice", CUT, timeout_s=10),
            spine.call("bob", ENDS, hang_up_after_s=1),
            spine.call("carol", PREMIUM),
        )
        await spine.server.idle()
        known = {call.call_id: call for call in calls}
        assert len(known) == 3
        decisions = await spine.server.ask("decisions")
        call_ids = {record["call_id"]: record["sip_call_id"] for record in decisions}
        assert sorted(call_ids.values()) == sorted(known)

        found: dict[str, set[str]] = {sip_call_id: set() for sip_call_id in known}
        for record in of_calls(spine):
            channel = record["call"].rpartition("-")[0] if record["call"] in call_ids else record["call"]
            [sip_call_id] = {sip for call, sip in call_ids.items() if call.startswith(f"{channel}-")}
            assert record["sip_call_id"] == sip_call_id, record
            found[sip_call_id].add(record["event"])
        cut, ended, refused = (found[call.call_id] for call in calls)
        assert cut >= {"decided", "answered", "warned_of_cut", "settled"}
        assert ended >= {"decided", "answered", "settled"}
        assert refused == {"decided"}

        # The way on to the other side's trace.
        legs = {record["leg_sip_call_id"] for record in records(spine) if record["event"] == "answered"}
        assert legs == {call.call_id for call in spine.carrier.calls()}
        assert legs.isdisjoint(known)
        for call in calls:
            told = await searched(spine, call.call_id)
            assert {json.loads(line)["event"] for line in told} == found[call.call_id]


async def test_a_callback_has_the_call_id_of_the_call_that_asked_for_it(
    installation: Installation, tmp_path: Path
) -> None:
    async with running(installation, tmp_path) as (spine, _):
        await spine.server.account("acme", "voxdirect", ANN, countries=["GB"])
        asked = await spine.call(ANN, f"*55{ENDS}")
        async with asyncio.timeout(15):
            while not any(record["event"] == "settled" for record in records(spine)):
                await asyncio.sleep(0.05)
        record = await spine.newest_decision()
        assert record["sip_call_id"] == asked.call_id
        told = [
            each
            for each in of_calls(spine)
            if each["call"].startswith(record["call_id"].removesuffix("-own"))
        ]
        assert {each["sip_call_id"] for each in told} == {asked.call_id}
        assert {each["event"] for each in told} >= {
            "decided",
            "leg_answered",
            "callback_connected",
            "settled",
        }
        legs = {each["leg_sip_call_id"] for each in told if each["event"] == "leg_answered"}
        assert legs == {each.call_id for each in spine.carrier.calls()}
        assert len(legs) == 2


async def test_a_call_that_is_followed_again_is_known_by_its_call_id(
    installation: Installation, tmp_path: Path
) -> None:
    async with running_spine(installation, tmp_path) as spine:
        await spine.server.account("acme", "quota", "alice")
        calling = asyncio.create_task(spine.call("alice", CUT, hang_up_after_s=4))
        await spine.server.talking("alice")
        await spine.server.kill()
        spine.server.log_path.write_text("")
        await spine.server.launch()
        call = await calling
        await spine.server.idle()
        told = of_calls(spine)
        assert {each["event"] for each in told} >= {"call_adopted", "settled"}
        assert {each["sip_call_id"] for each in told} == {call.call_id}


async def test_in_a_room_each_has_its_own_and_who_is_called_in_that_of_its_leg(
    installation: Installation, tmp_path: Path
) -> None:
    async with running_rooms(installation, tmp_path) as spine:
        await spine.server.account("acme", "kryptotel", *LINES, countries=["GB"])
        joined = await join(spine, "erin", 6, among=1, room="7001")
        called = await spine.server.ask("conference_add", room="7001", number=CUT, line="erin")
        await in_room(spine, 2, "7001")
        outcome = await joined
        await in_room(spine, 1, "7001")
        assert await spine.server.ask("hangup", call=called["call"])
        await spine.server.idle()
        [leg] = [call.call_id for call in spine.carrier.calls()]

        found: dict[str, set[str]] = {outcome.call_id: set(), leg: set(), "": set()}
        for record in of_calls(spine):
            mine = record["call"].startswith(called["channel"])
            assert record["sip_call_id"] in (("", leg) if mine else (outcome.call_id,)), record
            found[record["sip_call_id"]].add(record["event"])
        assert found[outcome.call_id] >= {"decided", "room_joined", "room_left", "settled"}
        assert found[leg] >= {"leg_answered", "room_joined", "room_left", "settled"}
        # Before it was rung there was no dialog.
        assert found[""] == {"decided"}
