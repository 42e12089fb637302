"""Callback and reverse charge in a dialplan that places the legs itself (V6, K6): how they count and when they end."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from testbed.installation import Installation
from testbed.server import dialplan
from tests.switch.conftest import Spine, running_spine

LONDON = "02079460100"
ASKING = """exten => _*6[67]X.,1,Gosub(fairdial,s,1(${IF($["${EXTEN:2:1}" = "6"]?callback:collect)},${EXTEN:3}))
 same => n,GotoIf($["${FAIRDIAL_RESULT}" = "ALLOW"]?dial)
 same => n,Hangup(${FAIRDIAL_CAUSE})
 same => n(dial),Dial(PJSIP/${FAIRDIAL_NUMBER}@carrier,60,${FAIRDIAL_DIAL})
 same => n,Hangup(${HANGUPCAUSE})
"""
CALLBACK, COLLECT = f"*66{LONDON}", f"*67{LONDON}"


@pytest_asyncio.fixture
async def asking(installation: Installation, tmp_path: Path) -> AsyncIterator[Spine]:
    """The whole call path, with a dialplan that asks about those kinds too."""
    extensions, files = dialplan()
    async with running_spine(installation, tmp_path, plan=(extensions + ASKING, files)) as spine:
        yield spine


async def provision(spine: Spine, policy: str) -> None:
    await spine.server.ask(
        "account_add", account="acme", policy=policy, zone="Europe/London", countries=["GB"]
    )
    await spine.server.ask("line_add", line="alice", account="acme")


@pytest.mark.clause("V6", "allowed")
async def test_a_callback_counts_twice(asking: Spine) -> None:
    await provision(asking, "voxdirect")
    assert (await asking.call("alice", CALLBACK, hang_up_after_s=2)).ended_by == "caller"
    record = await asking.newest_decision()
    assert (record["kind"], record["clause_id"]) == ("callback", "V6")
    await asking.server.idle()
    assert await asking.server.usage("acme") == {"used_s": 4, "reserved_s": 0}


@pytest.mark.clause("K6", "allowed")
@pytest.mark.clause("K6", "cut")
async def test_a_reverse_charge_call_ends_after_its_own_longest(asking: Spine) -> None:
    await provision(asking, "kryptotel")
    assert (await asking.call("alice", COLLECT, hang_up_after_s=1)).ended_by == "caller"
    [row] = [row for row in await asking.server.ask("decisions", limit=10) if row["kind"] == "collect"]
    assert (row["decision"], row["limit_s"]) == ("allow", 3600)
    await asking.publish_variant("kryptotel", "hasty", ("collect = 3600", "collect = 3"))
    await asking.server.ask("subscribe", account="acme", policy="hasty", countries=["GB"])
    cut = await asking.call("alice", COLLECT, timeout_s=10)
    assert cut.ended_by == "far_end"
    assert 2.9 <= cut.talk_s <= 4


async def test_a_plan_without_them_refuses_them(asking: Spine) -> None:
    await provision(asking, "quota")
    for number in (CALLBACK, COLLECT):
        assert (await asking.call("alice", number)).final_status == 403
        assert (await asking.newest_decision())["reason"] == "kind_not_covered"
