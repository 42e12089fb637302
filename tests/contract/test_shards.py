"""What is so on shards alone: one that is down, accounts that move while calls go on, and how shards are set up.

The contract itself is held by all other tests here, each of which runs on two shards too (`-k shards`).
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest

from benchmarks.shards import children
from fairdial.ledger import resharding
from fairdial.ledger.contract import AlreadyExists, Entry, Ledger, LedgerUnavailable
from fairdial.ledger.postgres import PostgresLedger
from fairdial.ledger.resharding import _ROWS, init, move
from fairdial.ledger.spread import GLOBAL, SLOTS, slot_of
from fairdial.policy.account import Account, Line, OwnNumber
from fairdial.policy.decide import Allow
from testbed.postgres import Cluster, Spread, shared_cluster
from tests.contract.conftest import ShardStore
from tests.samples import NOON_MS, authorise, outbound, plan, provision

pytestmark = pytest.mark.shards

FIRST, SECOND = (
    next(name for name in ("acme", "zenith", "corp", "delta", "umbra") if slot_of(name) * 2 // SLOTS == shard)
    for shard in (0, 1)
)
"""An account on each shard."""


@pytest.fixture
def spread() -> Iterator[Spread]:
    """Two empty shards."""
    with shared_cluster().spread() as empty:
        yield empty


@pytest.fixture
async def ledger(spread: Spread) -> AsyncIterator[Ledger]:
    opened = await ShardStore(spread).open()
    await provision(opened, FIRST, "alice")
    await provision(opened, SECOND, "bob")
    yield opened
    await opened.close()


def held(spread: Spread, table: str) -> list[int]:
    """How many rows of it each shard has."""
    return [
        cluster.admin(f"SELECT count(*) FROM {table}", database)[0][0] for cluster, database in spread.shards
    ]


@contextmanager
def frozen(cluster: Cluster) -> Iterator[None]:
    """A server that answers nothing, and whose connections stay."""
    processes = [cluster.process, *children(cluster.process)]
    for each in processes:
        os.kill(each, signal.SIGSTOP)
    try:
        yield
    finally:
        for each in processes:
            os.kill(each, signal.SIGCONT)


async def _calls(ledger: Ledger, line: str, until: asyncio.Event) -> int:
    """Calls of 10 s, one after the other, each step repeated as the desk repeats it; how many."""
    count = 0
    while not until.is_set():
        dial = outbound(f"{line}-{count}", line_id=line)
        for step in (
            lambda dial=dial: authorise(ledger, dial, plan(limit_s=None)),
            lambda dial=dial: ledger.settle(dial.call_id, 10, NOON_MS + 10_000),
        ):
            async with asyncio.timeout(30):
                while True:
                    try:
                        await step()
                    except LedgerUnavailable:
                        await asyncio.sleep(0.02)
                    else:
                        break
        count += 1
    return count


async def test_accounts_are_on_their_shards_and_what_is_nobodys_is_before_them(
    spread: Spread, ledger: Ledger
) -> None:
    for line in ("alice", "bob"):
        assert isinstance((await authorise(ledger, outbound(f"{line}-1", line_id=line))).decision, Allow)
    assert held(spread, "accounts") == held(spread, "grants") == [1, 1]
    assert [account.id for account in await ledger.accounts()] == sorted([FIRST, SECOND])
    assert {record.call_id for record in await ledger.decisions()} == {"alice-1", "bob-1"}


async def test_a_line_or_number_of_another_shards_account_is_refused(ledger: Ledger) -> None:
    await ledger.add_number(OwnNumber("+442079460001", FIRST, "alice"))
    with pytest.raises(AlreadyExists, match=f"belongs to account {FIRST!r}"):
        await ledger.add_number(OwnNumber("+442079460001", SECOND, "bob"))
    with pytest.raises(AlreadyExists, match=f"at account {FIRST!r}"):
        await ledger.add_line(Line("alice", SECOND))
    await ledger.remove_number("+442079460001")
    await ledger.add_number(OwnNumber("+442079460001", SECOND, "bob"))
    assert (await ledger.number("+442079460001")).account_id == SECOND


async def test_a_batch_that_one_shard_refuses_is_on_neither_and_can_be_repeated(
    spread: Spread, ledger: Ledger
) -> None:
    entries = [Entry(f"line {n}", Account(f"new-{n}", "plan")) for n in range(8)]
    assert {slot_of(f"new-{n}") * 2 // SLOTS for n in range(8)} == {0, 1}
    assert await ledger.provision(entries, NOON_MS, keep=False) == (8, 0)
    assert held(spread, "accounts") == [1, 1]
    assert await ledger.provision(entries, NOON_MS) == (8, 0)
    assert await ledger.provision(entries, NOON_MS) == (0, 8)
    assert sum(held(spread, "accounts")) == 10


async def test_with_one_shard_down_the_accounts_of_the_other_go_on() -> None:
    other = Cluster(shared_cluster().programs)
    other.start()
    try:
        with shared_cluster().spread(shared_cluster(), other) as spread:
            ledger = await PostgresLedger.open(spread.url, connections=4)
            await provision(ledger, FIRST, "alice")
            await provision(ledger, SECOND, "bob")
            await authorise(ledger, outbound("before", line_id="bob"), plan(limit_s=None))
            with frozen(other):
                with pytest.raises(LedgerUnavailable, match="see that this shard's server runs"):
                    await authorise(ledger, outbound("b-frozen", line_id="bob"), plan(limit_s=None))
                for n in range(5):
                    await authorise(ledger, outbound(f"a-frozen-{n}"), plan(limit_s=None))
                    await ledger.release(f"a-frozen-{n}")
            await asyncio.to_thread(other.stop)
            began_s = time.monotonic()
            for n in range(20):
                # Where the directory says whose a call is, is on either shard.
                assert isinstance(
                    (await authorise(ledger, outbound(f"a-{n}"), plan(limit_s=None))).decision, Allow
                )
                await ledger.settle(f"a-{n}", 5, NOON_MS + 5_000)
                with pytest.raises(LedgerUnavailable, match=r"see that (this shard's|the) server runs"):
                    await authorise(ledger, outbound(f"b-{n}", line_id="bob"), plan(limit_s=None))
            assert time.monotonic() - began_s < 20, "each dial hears in time"
            with pytest.raises(LedgerUnavailable, match="see that this shard's server runs"):
                await ledger.live_grants()
            with pytest.raises(LedgerUnavailable):
                await ledger.probe()
            # One that starts meanwhile starts.
            await (await PostgresLedger.open(spread.url, connections=1)).close()
            await asyncio.to_thread(other.start)
            async with asyncio.timeout(20):
                while True:
                    try:
                        await ledger.settle("before", 5, NOON_MS + 5_000)
                        break
                    except LedgerUnavailable:
                        await asyncio.sleep(0.05)
            for account, count in ((FIRST, 20), (SECOND, 1)):
                [usage] = (await ledger.sheet(account)).usage
                assert (usage.meter.used_units, usage.meter.reserved_units) == (5 * count, 0)
            await ledger.close()
    finally:
        other.remove()


async def test_accounts_move_to_another_shard_while_they_call_and_nothing_is_lost_or_doubled(
    spread: Spread, ledger: Ledger
) -> None:
    over = asyncio.Event()
    calls = [asyncio.create_task(_calls(ledger, line, over)) for line in ("alice", "bob")]
    keys = [FIRST, "alice", "bob", *(f"{line}-{n}" for line in ("alice", "bob") for n in range(4))]
    slots = sorted({slot for slot in map(slot_of, keys) if slot < SLOTS // 2})
    assert len(slots) > 2, "the account, and parts of the directory"
    try:
        # There, back, and there again, each time to a FairDial that believes it elsewhere.
        for to in (1, 0, 1):
            await asyncio.to_thread(move, spread.url, None, spread.urls[to], slots)
            await asyncio.sleep(0.1)  # of calls there
    finally:
        over.set()
        counts = await asyncio.gather(*calls)
    try:
        assert held(spread, "accounts") == [0, 2]
        assert held(spread, "decisions") == held(spread, "grants") == [0, sum(counts)]
        for account, count in zip((FIRST, SECOND), counts, strict=True):
            [usage] = (await ledger.sheet(account)).usage
            assert (usage.meter.used_units, usage.meter.reserved_units, usage.calls) == (10 * count, 0, count)
        assert len(await ledger.decisions(limit=10_000)) == sum(counts)
        assert await ledger.live_grants() == ()
    finally:
        await asyncio.to_thread(move, spread.url, None, spread.urls[0], slots)


def test_setting_up_again_changes_nothing_and_a_shard_that_is_added_has_no_accounts_yet(
    spread: Spread,
) -> None:
    before = init(spread.url, None, spread.urls)
    assert [shard.slots for shard in before] == [512, 512]
    cluster = spread.proxy
    name = f"{spread.name}_more"
    cluster.make(name)
    try:
        assert [shard.slots for shard in init(spread.url, None, [cluster.url(name)])] == [512, 512, 0]
        moved = move(spread.url, None, cluster.url(name), [0, 1])
        assert (moved.slots, moved.owners) == (2, 0)
        assert [shard.slots for shard in init(spread.url, None, [])] == [2, 510, 512]
        assert move(spread.url, None, spread.urls[0], [0, 1]).slots == 2
    finally:
        cluster.admin(f"DROP DATABASE {name} WITH (FORCE)")
    with pytest.raises(LedgerUnavailable, match="does not exist"):
        move(spread.url, None, cluster.url(name), [0])


def test_all_that_is_an_accounts_moves_with_it(spread: Spread) -> None:
    cluster, database = spread.shards[0]
    tables = {
        name
        for (name,) in cluster.admin("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", database)
    }
    assert {name for name in _ROWS if "." not in name} == tables - GLOBAL


async def test_shards_are_set_up_and_moved_from_the_command_line(tmp_path: Path) -> None:
    cluster = shared_cluster()
    names = [f"command_{n}" for n in range(3)]
    for name in names:
        cluster.make(name)
    proxy, first, second = map(cluster.url, names)
    settings = tmp_path / "fairdial.toml"
    settings.write_text(f'switch = "east"\n[store]\nurl = "{proxy}"\n')

    async def command(*words: str) -> tuple[int, str, str]:
        running = await asyncio.create_subprocess_exec(
            *(str(Path(sys.executable).with_name("fairdial")), "--config", str(settings), "shards", *words),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await running.communicate()
        return running.returncode or 0, out.decode(), err.decode()

    try:
        status, _, said = await command("init")
        assert (status, "name them: --shard URL" in said) == (2, True)
        status, out, _ = await command("init", "--shard", first, "--shard", second, "--json")
        assert (status, [each["slots"] for each in json.loads(out)]) == (0, [512, 512])
        status, out, _ = await command("move", "0-3", "--to", second, "--json")
        assert (status, json.loads(out)) == (0, {"slots": 4, "owners": 0, "rows": 0})
        status, _, said = await command("move", "5-1024", "--to", second)
        assert (status, "names no slots" in said) == (2, True)
        status, _, said = await command("move", "0", "--to", proxy)
        assert (status, "is no shard yet" in said) == (2, True)
    finally:
        for name in names:
            cluster.admin(f"DROP DATABASE {name} WITH (FORCE)")


async def test_a_name_with_quotes_and_places_of_parameters_in_it_is_kept_as_it_is(ledger: Ledger) -> None:
    name = "O'Brien \\ $1 ?2 é;--"
    await ledger.add_account(Account("third", "plan", "UTC", name))
    assert (await ledger.account("third")).name == name


async def test_a_move_that_breaks_off_is_taken_up_where_it_was(
    spread: Spread, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await authorise(ledger, outbound("up"), plan(limit_s=None))
    slot = slot_of(FIRST)
    for part in ("_sums", "_drop"):  # before the map is switched, and after
        with monkeypatch.context() as broken:
            broken.setattr(resharding, part, Mock(side_effect=InterruptedError))
            with pytest.raises(InterruptedError):
                move(spread.url, None, spread.urls[1], [slot])
        if part == "_sums":
            assert (await ledger.account(FIRST)).id == FIRST
            assert await ledger.settle("up", 5, NOON_MS + 5_000)
    move(spread.url, None, spread.urls[1], [slot])
    try:
        assert held(spread, "accounts") == [0, 2]
        assert [account.id for account in await ledger.accounts()] == sorted([FIRST, SECOND])
        assert isinstance((await authorise(ledger, outbound("after"))).decision, Allow)
    finally:
        move(spread.url, None, spread.urls[0], [slot])
