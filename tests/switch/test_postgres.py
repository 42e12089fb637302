"""Two switches with a FairDial each, on one ledger in PostgreSQL: what is used at one counts at the other."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from testbed.installation import Installation
from testbed.postgres import shared_cluster
from tests.switch.conftest import Spine, running_spine

ANSWERED = "02079460100"
PREMIUM = "09098790000"


@contextmanager
def _store(kind: str) -> Iterator[str]:
    """`store.url` of an empty ledger on one server, or on two shards."""
    cluster = shared_cluster()
    if kind == "shards":
        with cluster.spread() as spread:
            yield spread.url
    else:
        with cluster.database() as database:
            yield cluster.url(database)


@pytest_asyncio.fixture
async def spines(
    request: pytest.FixtureRequest, installation: Installation, tmp_path: Path
) -> AsyncIterator[tuple[Spine, Spine]]:
    """East and west."""
    with _store(getattr(request, "param", "postgres")) as url:
        settings = {"store.url": url, "reconcile_every_s": 1}
        for name in ("east", "west"):
            (tmp_path / name).mkdir()
        async with (
            running_spine(installation, tmp_path / "east", settings, name="east") as east,
            running_spine(installation, tmp_path / "west", settings, name="west") as west,
        ):
            yield east, west


@pytest.mark.parametrize("spines", ["postgres", "shards"], indirect=True)
async def test_what_is_used_at_one_switch_counts_at_the_other_and_each_looks_after_its_own_calls(
    spines: tuple[Spine, Spine],
) -> None:
    east, west = spines
    await east.server.account("acme", "quota", "alice", "bob")
    talking = asyncio.create_task(east.call("alice", ANSWERED, hang_up_after_s=4))
    call_id = (await east.server.talking("alice"))["call"]
    assert call_id.startswith("east-")
    # West sees the grant, and passes by several times without taking it for a call that is gone.
    await asyncio.sleep(3)
    [grant] = await west.server.grants()
    assert grant["call"] == call_id
    refused = await west.call("bob", PREMIUM)
    assert refused.final_status == 403
    outcome = await talking
    assert (outcome.final_status, outcome.ended_by) == (200, "caller")
    await east.server.idle()
    settled = await west.server.ask("grant", call=call_id)
    assert settled["estimated"] is False
    assert abs(settled["used_s"] - outcome.talk_s) <= 1
    [usage] = (await west.server.ask("usage", account="acme"))["usage"]
    assert (usage["used_units"], usage["reserved_units"]) == (settled["used_s"], 0)
    decisions = await east.server.ask("decisions", limit=10)
    assert [each["decision"] for each in decisions] == ["refuse", "allow"]


async def test_doctor_and_ready_name_the_database_and_a_backup_is_pg_dumps(
    spines: tuple[Spine, Spine], tmp_path: Path
) -> None:
    east, _ = spines
    done = await east.server.command("ready", "--json")
    [store] = [part for part in done.json["parts"] if part["part"] == "store"]
    assert (done.status, store["well"]) == (0, True)
    assert store["text"].startswith("postgresql://")
    assert store["text"].endswith(": can be written")
    examined = (await east.server.command("doctor", "--json")).json
    [standby] = [part for part in examined if part["part"] == "standby"]
    # The testbed's server keeps what it is told from processes that die, and from nothing else.
    assert (standby["severity"], "fsync is off" in standby["text"]) == ("warning", True)
    refused = await east.server.command("backup", str(tmp_path / "copy"))
    assert refused.status == 2
    assert "pg_dump" in refused.error
    assert not (tmp_path / "copy").exists()
