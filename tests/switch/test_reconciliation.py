"""What ended while nobody watched, settled by the switch's own records; what is up without a grant, taken in."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from testbed.installation import Installation
from testbed.sipp import NEVER_ANSWERS
from tests.switch.conftest import Spine, running_spine

ANSWERED = "02079460100"
UNANSWERED = f"020794601{NEVER_ANSWERS}"
LINE_NUMBER = "442079460123"


@pytest_asyncio.fixture
async def unwitnessed(installation: Installation, tmp_path: Path) -> AsyncIterator[Spine]:
    """A FairDial that does not read the switch's records."""
    async with running_spine(installation, tmp_path, {"cdr.file": "nowhere.csv", "cdr.wait_s": 0}) as spine:
        yield spine


async def only_grant(spine: Spine) -> dict[str, Any]:
    [record] = await spine.server.ask("decisions", limit=1)
    return dict(await spine.server.ask("grant", call=record["call_id"]))


async def differences(spine: Spine, kind: str) -> list[dict[str, Any]]:
    return [row for row in await spine.server.ask("differences") if row["kind"] == kind]


async def test_a_call_that_ended_while_fairdial_was_away_is_settled_with_its_real_time(spine: Spine) -> None:
    await spine.server.account("acme", "quota", "alice")
    talking = asyncio.create_task(spine.call("alice", ANSWERED, hang_up_after_s=4))
    await spine.server.talking("alice")
    await spine.server.kill()
    outcome = await talking
    await spine.switch.no_channels()
    # Long enough that an estimate would be another figure.
    await asyncio.sleep(4)
    await spine.server.launch()
    await spine.server.idle(timeout_s=20)
    grant = await only_grant(spine)
    assert not grant["estimated"]
    assert abs(grant["used_s"] - outcome.talk_s) <= 1
    assert [row["done"] for row in await differences(spine, "orphan_grant")] == [
        "settled, by the switch's record"
    ]
    listed = await spine.server.command("differences")
    assert listed.status == 1
    assert "orphan_grant" in listed.output


async def test_without_a_record_it_is_settled_at_its_leases_end_and_marked(unwitnessed: Spine) -> None:
    spine = unwitnessed
    await spine.server.account("acme", "quota", "alice")
    talking = asyncio.create_task(spine.call("alice", ANSWERED, hang_up_after_s=2))
    await spine.server.talking("alice")
    await spine.server.kill()
    await talking
    await asyncio.sleep(3)
    await spine.server.launch()
    await spine.server.idle(timeout_s=20)
    grant = await only_grant(spine)
    assert grant["estimated"]
    assert 5 <= grant["used_s"] <= 60
    assert [row["done"] for row in await differences(spine, "orphan_grant")] == ["settled, estimated"]


async def test_a_dial_that_nobody_answered_meanwhile_is_not_metered(spine: Spine) -> None:
    await spine.server.account("acme", "quota", "alice")
    ringing = asyncio.create_task(spine.call("alice", UNANSWERED, give_up_after_s=3))
    async with asyncio.timeout(5):
        while not await spine.server.grants():
            await asyncio.sleep(0.02)
    await spine.server.kill()
    await ringing
    await spine.switch.no_channels()
    await spine.server.launch()
    await spine.server.idle(timeout_s=20)
    grant = await only_grant(spine)
    assert (grant["used_s"], grant["estimated"]) == (0, False)


async def test_a_call_that_died_with_both_is_settled_at_the_last_moment_that_is_proven(spine: Spine) -> None:
    await spine.server.account("acme", "quota", "alice")
    talking = asyncio.create_task(spine.call("alice", ANSWERED, timeout_s=14))
    await spine.server.talking("alice")
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.sleep(5)
    spine.switch.kill()
    await spine.server.kill()
    lived_s = loop.time() - began
    # Time in which it did not talk, and which an estimate by the clock would count.
    await asyncio.sleep(4)
    await spine.switch.restart()
    await spine.server.launch()
    await spine.server.idle(timeout_s=20)
    grant = await only_grant(spine)
    assert grant["estimated"]
    assert lived_s - 3 <= grant["used_s"] <= lived_s + 1
    with pytest.raises(Exception, match="still up"):
        await talking


async def test_calls_that_the_failure_rule_let_through_are_metered_later(spine: Spine) -> None:
    await spine.server.account("acme", "acceptable-use", "alice")
    await spine.switch.cli(f"database put did {LINE_NUMBER} alice")
    await spine.server.kill()
    through, refused = await asyncio.gather(
        spine.call("carrier", LINE_NUMBER, hang_up_after_s=3), spine.call("alice", ANSWERED)
    )
    assert (through.final_status, refused.final_status) == (200, 503)
    await spine.switch.no_channels()
    await spine.server.launch()
    async with asyncio.timeout(20):
        while not await spine.server.ask("decisions"):
            await asyncio.sleep(0.05)
    await spine.server.idle(timeout_s=20)
    records = await spine.server.ask("decisions")
    [record] = records
    assert (record["kind"], record["line_id"], record["decision"]) == ("inbound", "alice", "allow")
    grant = await only_grant(spine)
    assert abs(grant["used_s"] - through.talk_s) <= 1
    # Once: a further start does not meter it again.
    await spine.server.stop()
    await spine.server.launch()
    await asyncio.sleep(2)
    assert await spine.server.ask("decisions") == records


@pytest.mark.parametrize("may_go_on", [True, False])
async def test_a_call_that_a_restored_ledger_does_not_know_is_taken_in_or_ended(
    installation: Installation, tmp_path: Path, may_go_on: bool
) -> None:
    async with running_spine(installation, tmp_path, {"reconcile_every_s": 1}) as spine:
        await spine.server.account("acme", "quota", "alice")
        if not may_go_on:
            await spine.server.ask("account_standing", account="acme", standing="suspended")
        await spine.server.stop()
        shutil.copy(tmp_path / "ledger.sqlite", tmp_path / "backup.sqlite")
        await spine.server.launch()
        if not may_go_on:
            await spine.server.ask("account_standing", account="acme", standing="active")
        talking = asyncio.create_task(spine.call("alice", ANSWERED, hang_up_after_s=12))
        await spine.server.talking("alice")
        await spine.server.kill()
        for file in tmp_path.glob("ledger.sqlite*"):
            file.unlink()
        shutil.copy(tmp_path / "backup.sqlite", tmp_path / "ledger.sqlite")
        await spine.server.launch()
        async with asyncio.timeout(10):
            while not (found := await differences(spine, "orphan_channel")):
                await asyncio.sleep(0.05)
        outcome = await talking
        assert outcome.ended_by == ("caller" if may_go_on else "far_end")
        assert found[0]["done"].startswith("followed again" if may_go_on else "hung up: account_suspended")
        await spine.server.idle(timeout_s=20)
        if may_go_on:
            grant = await only_grant(spine)
            assert abs(grant["used_s"] - outcome.talk_s) <= 1
            assert not grant["estimated"]
