"""Three FairDials on three switches over one ledger: limits hold over all, and one that dies is missed by nobody."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from testbed.asterisk import Switch
from testbed.books import PLAN, PROVEN_WITHIN_S, RECORDED_WITHIN_S
from testbed.installation import Installation
from testbed.ports import LOOPBACK
from testbed.postgres import shared_cluster
from testbed.relay import Relay
from testbed.server import Server, dialplan
from testbed.sipp import Carrier, LoadOutcome, place_calls
from tests.switch.conftest import LINES, Spine

NAMES = ("east", "east-2", "west")
"""The first begins the second: none may take the other's calls for its own."""
ANSWERED = "02079460100"
LONGEST_S = 10
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]
LEASE_S = 4
SETTLE_AFTER_S = 1


@dataclass(frozen=True)
class Three:
    """The nodes by their switches. to_store: the way that west has to the database."""

    spines: Mapping[str, Spine]
    to_store: Relay

    def __getitem__(self, name: str) -> Spine:
        return self.spines[name]

    async def node(self, name: str, asked: str) -> dict[str, Any]:
        """What node `asked` says of `name`."""
        rows = await self[asked].server.ask("node_list")
        return next(row for row in rows if row["switch"] == name)

    async def until(self, name: str, asked: str, timeout_s: float = 20.0, **wanted: object) -> dict[str, Any]:
        """Wait until node `asked` says so of `name`."""
        async with asyncio.timeout(timeout_s):
            while True:
                row = await self.node(name, asked)
                if wanted.items() <= row.items():
                    return row
                await asyncio.sleep(0.1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def three(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Three]:
    """east, east-2 and west; the records of the first can be read by the others, as over a network's disk.

    One set for all tests here, as it takes longer to start than each of them: they have accounts of their own.
    """
    cluster = shared_cluster()
    extensions, files = dialplan()
    async with AsyncExitStack() as undo:
        database = undo.enter_context(cluster.database())
        switches = await asyncio.gather(
            *(
                undo.enter_async_context(
                    Switch.start(installation, extensions, files=files, lines=LINES, name=name)
                )
                for name in NAMES
            )
        )
        settings: dict[str, object] = {
            "store.url": cluster.url(database),
            "reconcile_every_s": 1,
            "nodes.lease_s": LEASE_S,
            "nodes.settle_after_s": SETTLE_AFTER_S,
        }
        to_store = await undo.enter_async_context(Relay.to(cluster.port))
        ways = {"west": f"postgresql://fairdial@{LOOPBACK}:{to_store.port}/{database}"}
        policy = {"ten.toml": PLAN.format(name="ten", longest_s=LONGEST_S, limit_s=100_000)}

        async def started(switch: Switch, name: str) -> Spine:
            carrier = await undo.enter_async_context(Carrier.start(switch))
            own = {"switch": name} | ({} if name == "east" else {"nodes.cdr.east": str(switches[0].cdr_path)})
            own |= {"store.url": ways[name]} if name in ways else {}
            folder = tmp_path_factory.mktemp(name)
            server = await undo.enter_async_context(Server.start(switch, folder, settings | own, policy))
            return Spine(switch, carrier, server)

        spines = {name: await started(switch, name) for name, switch in zip(NAMES, switches, strict=True)}
        yield Three(spines, to_store)
        for spine in spines.values():
            if spine.switch.is_running:
                assert await spine.switch.no_channels() == []
            if spine.server.running:
                await spine.server.idle()


async def load(spine: Spine, line: str | tuple[str, ...], count: int, **how: Any) -> LoadOutcome:
    """So many calls at once."""
    number = how.pop("number", ANSWERED)
    return await place_calls(spine.switch, line=line, number=number, count=count, rate_per_s=100, **how)


async def talking(spine: Spine, count: int) -> list[str]:
    """Wait until so many calls talk there; their ids."""
    async with asyncio.timeout(15):
        while True:
            rows = await spine.server.ask("calls")
            if len(up := [row["call"] for row in rows if row["state"] == "talking"]) >= count:
                return up
            await asyncio.sleep(0.05)


async def settled(server: Server, calls: list[str], timeout_s: float = 30.0) -> list[dict[str, Any]]:
    """The grants of these calls, once they are settled."""
    async with asyncio.timeout(timeout_s):
        while any(grant["call"] in calls for grant in await server.grants()):
            await asyncio.sleep(0.1)
    return [await server.ask("grant", call=call) for call in calls]


async def test_a_frozen_node_wakes_up_fenced_and_orders_reach_calls_on_other_switches(three: Three) -> None:
    east, west = three["east"], three["west"]
    await west.server.account("frozen", "ten", "dave")
    await west.server.account("other", "ten", "heidi")
    calls = asyncio.create_task(load(east, "dave", 2))
    other = asyncio.create_task(load(east, "heidi", 1))
    await talking(east, 3)
    [call, *_] = [row["call"] for row in await east.server.ask("calls") if row["line"] == "dave"]
    hung_up = await west.server.command("hangup", call)
    assert (hung_up.status, hung_up.error) == (0, "")
    began = time.monotonic()
    await west.server.ask("account_standing", account="other", standing="suspended")
    [cut] = (await other).calls
    assert (cut.ended_by, time.monotonic() - began < 3) == ("far_end", True)
    await calls

    calls = asyncio.create_task(load(east, "dave", 3))
    ids = await talking(east, 3)
    before = await three.node("east", "west")
    os.kill(east.server.pid, signal.SIGSTOP)
    try:
        await three.until("east", "west", state="taken over")
        refused = await west.server.command("hangup", ids[0])
        assert refused.status == 2
        assert "is on switch east, and its FairDial" in refused.error
        kept = await settled(west.server, ids)
        await calls
    finally:
        os.kill(east.server.pid, signal.SIGCONT)
    row = await three.until("east", "west", state="serves")
    assert row["epoch"] == before["epoch"] + 2
    assert "fenced" in east.server.log_path.read_text()
    # What it still had to say of them is said by its new epoch, and changes nothing.
    async with asyncio.timeout(15):
        while (await east.server.ask("status"))["unwritten"]:
            await asyncio.sleep(0.1)
    assert [await west.server.ask("grant", call=call) for call in ids] == kept
    [usage] = (await west.server.ask("usage", account="frozen"))["usage"]
    assert usage["reserved_units"] == 0
    again = await east.call("dave", ANSWERED, hang_up_after_s=1)
    assert (again.final_status, again.ended_by) == (200, "caller")


async def test_a_node_that_is_cut_off_from_the_store_has_its_failure_rules_and_the_others_go_on(
    three: Three,
) -> None:
    east, west = three["east"], three["west"]
    await east.server.account("cut", "ten", "pbx")
    before = await three.node("west", "east")
    three.to_store.cut()
    try:
        refused, emergency, elsewhere = await asyncio.gather(
            west.call("pbx", ANSWERED),
            west.call("pbx", "112", hang_up_after_s=0.5),
            east.call("pbx", ANSWERED, hang_up_after_s=0.5),
        )
        assert (refused.final_status, emergency.final_status, elsewhere.final_status) == (503, 200, 200)
        assert (await three.until("west", "east", state="taken over"))["epoch"] == before["epoch"] + 1
        said = await west.server.command("ready", "--json")
        parts = {part["part"]: part["well"] for part in said.json["parts"]}
        assert (said.status, parts["node"], parts["store"], parts["ari"]) == (1, False, False, True)
    finally:
        three.to_store.mend()
    assert (await three.until("west", "east", state="serves"))["epoch"] == before["epoch"] + 2
    again = await west.call("pbx", ANSWERED, hang_up_after_s=0.5)
    assert (again.final_status, again.ended_by) == (200, "caller")
    [node] = [part for part in (await west.server.ask("ready"))["parts"] if part["part"] == "node"]
    assert node["well"]
    assert node["text"].startswith("west: held for")


async def test_a_last_minute_and_a_conferences_seats_are_shared_by_the_phones_of_three_switches(
    three: Three,
) -> None:
    east = three["east"].server
    await east.account("acme", "minute", "alice")
    loads = await asyncio.gather(*(load(three[name], "alice", 100) for name in NAMES))
    answered = [call for each in loads for call in each.calls if call.answered]
    refused = sum(count for each in loads for count in each.failed.values())
    assert (sum(each.lost for each in loads), len(answered) + refused) == (0, 300)
    for name in NAMES:
        await three[name].server.idle(20)
    [usage] = (await east.ask("usage", account="acme"))["usage"]
    assert usage["reserved_units"] == 0
    assert usage["used_units"] <= 60
    talked_s = sum(call.talk_s for call in answered)
    # A phone hears the end of its call after the switch has cut it.
    assert 50 < talked_s <= 60 + 0.5 * len(answered)

    await east.account("room", "kryptotel", "erin")
    joins = await asyncio.gather(
        *(
            load(three[name], "erin", count, number="8000", hang_up_after_s=8)
            for name, count in zip(NAMES, (7, 7, 6), strict=True)
        )
    )
    assert sum(each.answered for each in joins) == 4
    # Who was not heard in time, as on a busy machine, has the failure rule.
    assert sum(count for each in joins for count in each.failed.values()) == 16
    records = await three["west"].server.ask("decisions", limit=20, account="room")
    refused_for = [record["reason"] for record in records if record["decision"] == "refuse"]
    assert 0 < sum(each.failed.get(486, 0) for each in joins) <= len(refused_for)
    assert set(refused_for) == {"conference_full"}


async def test_calls_of_a_node_that_is_killed_are_settled_once_each_by_another(three: Three) -> None:
    """East loses its FairDial, west its Asterisk too; east-2 is left."""
    left = three["east-2"].server
    await left.account("missed", "ten", "bob")
    tasks = [
        asyncio.create_task(load(three["east"], "bob", 5)),
        asyncio.create_task(load(three["west"], "bob", 5, timeout_s=15)),
    ]
    easts, wests = await asyncio.gather(talking(three["east"], 5), talking(three["west"], 5))
    own = asyncio.create_task(load(three["east-2"], "bob", 2, hang_up_after_s=9, timeout_s=20))
    # Long enough for a sign of life that proves the calls of west.
    await asyncio.sleep(3)
    await three["west"].server.kill()
    three["west"].switch.kill()
    died_ms = time.time() * 1000
    await three["east"].server.kill()
    for name in ("east", "west"):
        row = await three.until(name, "east-2", state="taken over")
        assert row["looked_after_by"] == "east-2"

    kept = await settled(left, easts)
    outcome = await tasks[0]
    assert [call.ended_by for call in outcome.calls] == ["far_end"] * 5, (
        "the switch cuts them by their leases"
    )
    longest_s = max(call.talk_s for call in outcome.calls)
    assert abs(longest_s - LONGEST_S) <= 1
    for grant in kept:
        assert not grant["estimated"], "east's records say how long it talked"
        assert abs(grant["used_s"] - longest_s) <= RECORDED_WITHIN_S

    for grant in await settled(left, wests):
        lived_s = (died_ms - grant["answered_ms"]) / 1000
        assert grant["estimated"]
        assert lived_s - PROVEN_WITHIN_S - 1 <= grant["used_s"] <= lived_s + 1

    await own
    await left.idle()
    [usage] = (await left.ask("usage", account="missed"))["usage"]
    assert (usage["calls"], usage["reserved_units"]) == (12, 0)
    differences = await left.ask("differences")
    told = [each["call_id"] for each in differences if each["kind"] == "orphan_grant"]
    assert {told.count(call) for call in [*easts, *wests]} == {1}
    used = [(await left.ask("grant", call=call))["used_s"] for call in [*easts, *wests]]
    assert usage["used_units"] >= sum(used)
    # Back, it takes its switch again, and finds nothing to do.
    await three["east"].server.launch()
    row = await three.until("east", "east-2", state="serves", looked_after_by=None)
    assert row["calls"] == 0
    assert [(await left.ask("grant", call=call))["used_s"] for call in [*easts, *wests]] == used
    await tasks[1]
