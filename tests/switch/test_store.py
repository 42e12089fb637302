"""The store in trouble under a real call: who dials has the failure rule, who talks goes on, and nothing is lost."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from testbed.installation import Installation
from testbed.sipp import CallOutcome
from tests.contract.test_store_trouble import fill, locked, spoil
from tests.contract.test_store_trouble import small_disk as small_disk
from tests.switch.conftest import Spine, running_spine

ANSWERED = "02079460100"
OFTEN = {"reconcile_every_s": 1}
"""So that reconciliation passes by while something waits to be written."""


@pytest_asyncio.fixture
async def spine(installation: Installation, tmp_path: Path) -> AsyncIterator[Spine]:
    async with running_spine(installation, tmp_path, OFTEN) as spine:
        yield spine


def ledger_of(spine: Spine) -> Path:
    return spine.server.directory / "ledger.sqlite"


async def over_http(spine: Spine, path: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"{spine.server.http_url}{path}") as answer:
        return answer.status, await answer.json()


async def up(spine: Spine, hang_up_after_s: float) -> tuple[str, "asyncio.Task[CallOutcome]"]:
    """A call of alice that is answered: its id, and its end to wait for."""
    talking = asyncio.create_task(spine.call("alice", ANSWERED, hang_up_after_s=hang_up_after_s))
    return (await spine.server.talking("alice"))["call"], talking


async def ready(spine: Spine) -> tuple[int, dict[str, Any]]:
    """Exit status of `fairdial ready`, and its part about the store."""
    done = await spine.server.command("ready", "--json")
    return done.status, next(part for part in done.json["parts"] if part["part"] == "store")


async def refused_but_for_emergencies(spine: Spine) -> None:
    outbound, emergency = await asyncio.gather(
        spine.call("alice", ANSWERED), spine.call("bob", "112", hang_up_after_s=0.5)
    )
    assert (outbound.final_status, emergency.final_status) == (503, 200)
    assert outbound.setup_s < 2
    assert emergency.setup_s < 2


async def told(spine: Spine, ledger: Path, what: str) -> None:
    """On the command line and over HTTP, by the file's name and with a cure."""
    status, store = await ready(spine)
    assert (status, store["well"]) == (1, False)
    assert store["text"].startswith(f"{ledger}: ")
    assert what in store["text"]
    assert store["cure"]
    code, over_the_web = await over_http(spine, "/readyz")
    assert (code, over_the_web["ready"]) == (503, False)
    assert await over_http(spine, "/healthz") == (200, {"status": "alive"})


async def settled_in_full(spine: Spine, call_id: str, talk_s: float) -> None:
    """What was kept is written, with the real time; and FairDial is well, without a restart."""
    pid = spine.server.pid
    await spine.server.idle(timeout_s=20)
    grant = await spine.server.ask("grant", call=call_id)
    assert grant["estimated"] is False
    assert abs(grant["used_s"] - talk_s) <= 1
    assert (await ready(spine))[0] == 0
    assert (await over_http(spine, "/readyz"))[0] == 200
    assert (await spine.call("alice", ANSWERED, hang_up_after_s=0.5)).final_status == 200
    assert spine.server.pid == pid


async def test_a_call_that_ends_while_the_store_is_locked_is_settled_with_its_real_time(spine: Spine) -> None:
    await spine.server.account("acme", "quota", "alice", "bob")
    assert (await ready(spine))[0] == 0
    call_id, talking = await up(spine, 4)
    async with locked(ledger_of(spine)):
        outcome = await talking
        assert outcome.ended_by == "caller"
        await refused_but_for_emergencies(spine)
        await told(spine, ledger_of(spine), "database is locked")
        # Several reconciliations go by: they leave it alone.
        await asyncio.sleep(3)
        [grant] = await spine.server.grants()
        assert grant["call"] == call_id
    await settled_in_full(spine, call_id, outcome.talk_s)


async def test_a_call_that_is_answered_and_ends_while_the_disk_is_full_is_settled_with_its_real_time(
    installation: Installation, tmp_path: Path, small_disk: Path
) -> None:
    ledger = small_disk / "ledger.sqlite"
    async with running_spine(installation, tmp_path, {**OFTEN, "store.path": str(ledger)}) as spine:
        await spine.server.account("acme", "quota", "alice", "bob")
        call_id, talking = await up(spine, 3)
        ballast = await asyncio.to_thread(fill, small_disk)
        outcome = await talking
        assert outcome.ended_by == "caller"
        await refused_but_for_emergencies(spine)
        await told(spine, ledger, "full")
        ballast.unlink()
        await settled_in_full(spine, call_id, outcome.talk_s)


async def test_a_store_that_stays_locked_lets_fairdial_stop_in_time_and_the_next_start_settles(
    spine: Spine,
) -> None:
    await spine.server.account("acme", "quota", "alice")
    call_id, talking = await up(spine, 2)
    async with locked(ledger_of(spine)):
        await talking
        assert await spine.server.stop() < 2
        assert spine.server.status == 0
        assert "given_up_unwritten" in spine.server.last_words()
    await spine.server.launch()
    await spine.server.idle(timeout_s=20)
    grant = await spine.server.ask("grant", call=call_id)
    assert grant["used_s"] >= 2


async def test_a_damaged_ledger_is_named_calls_have_their_failure_rule_and_a_backup_cures_it(
    spine: Spine, tmp_path: Path
) -> None:
    """The backup is made in mid-call, and what it knows of that call reconciles after the restoring."""
    copy, ledger = tmp_path / "monday.sqlite", ledger_of(spine)
    await spine.server.account("acme", "quota", "alice", "bob")
    call_id, talking = await up(spine, 3)
    made = await spine.server.command("backup", str(copy), "--json")
    assert (made.status, made.json["live_grants"]) == (0, 1)
    refused = await spine.server.command("restore", str(copy))
    assert refused.status == 2
    assert "another FairDial writes this ledger" in refused.error
    assert (await talking).ended_by == "caller"
    await spine.server.idle()
    await spine.server.stop()
    await asyncio.to_thread(spoil, ledger)
    await spine.server.launch()
    await refused_but_for_emergencies(spine)
    await told(spine, ledger, "the file is damaged")
    await spine.server.stop()
    restored = await spine.server.command("restore", str(copy), "--json")
    assert (restored.status, restored.json["live_grants"]) == (0, 1)
    assert Path(restored.json["replaced"]).is_file()
    await spine.server.launch()
    await spine.server.idle(timeout_s=20)
    grant = await spine.server.ask("grant", call=call_id)
    assert grant["state"] == "settled"
    assert (await ready(spine))[0] == 0
    assert (await spine.call("alice", ANSWERED, hang_up_after_s=0.5)).final_status == 200


async def test_a_switch_that_is_gone_makes_fairdial_unready_by_both_links(spine: Spine) -> None:
    spine.switch.kill()
    async with asyncio.timeout(20):
        while (await over_http(spine, "/readyz"))[0] == 200:
            await asyncio.sleep(0.2)
    told = await spine.server.command("ready")
    assert told.status == 1
    await spine.switch.restart()
    await spine.server.ready()
    async with asyncio.timeout(20):
        while (await over_http(spine, "/readyz"))[0] != 200:
            await asyncio.sleep(0.2)


@pytest.mark.parametrize("enabled", [True, False])
async def test_http_can_be_turned_off(installation: Installation, tmp_path: Path, enabled: bool) -> None:
    async with running_spine(installation, tmp_path, {"http.enabled": enabled}) as spine:
        if enabled:
            assert (await over_http(spine, "/healthz"))[0] == 200
        else:
            with pytest.raises(aiohttp.ClientConnectionError):
                await over_http(spine, "/healthz")
