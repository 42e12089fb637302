"""FairDial, Asterisk, the links between them and the store fail under load; the books still agree with the phones.

After each fault `testbed.books` holds every call against the phones' own clocks and the switch's records. Single
calls that meet a failure are in `test_failure.py`, where a second FairDial is fenced off, and `test_reconciliation.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.asterisk import Switch
from testbed.books import Placed, Plan, Rules, Tally, hold_against, open_account, place
from testbed.installation import Installation, TestbedError
from testbed.relay import Relay
from testbed.server import Server, dialplan
from testbed.sipp import Carrier
from tests.switch.conftest import LINES, Spine, running_spine

log = logging.getLogger(__name__)

FOLLOWED_WITHIN_S = 2.0
"""After a restart all calls are followed, leased and metered again within this."""

ACCOUNT, LINE = "acme", "alice"


def short_and_long(short: int, long: int) -> list[object]:
    """Sizes of a test: one for every run, one for `make soak`."""
    return [short, pytest.param(long, marks=pytest.mark.soak)]


async def agree(spine: Spine, placed: Placed, rules: Rules, account: str = ACCOUNT) -> Tally:
    """The books are those of these calls, and of no others."""
    tally = await hold_against(spine.server, spine.switch, spine.carrier, account, placed, rules)
    log.info("%s", tally)
    return tally


async def talking(server: Server, count: int, timeout_s: float = 60.0) -> float:
    """Wait until so many calls are followed, metered and held by a lease; the seconds that it took."""
    began = time.monotonic()
    up = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while (up := await calls_up(server)) < count:
                await asyncio.sleep(0.05)
            return time.monotonic() - began
    raise TestbedError(f"{up} of {count} calls are followed after {timeout_s} s:\n{server.last_words()}")


async def calls_up(server: Server) -> int:
    """Calls that are followed, metered and held by a lease."""
    rows = await server.ask("calls")
    return sum(row["state"] == "talking" and row["left_s"] is not None for row in rows)


async def all_up(server: Server, count: int) -> int:
    """Wait until no more calls come; how many are up, which is most of `count` also where the machine is busy."""
    up = 0
    await talking(server, count * 8 // 10)
    while (now := await calls_up(server)) > up:
        up = now
        await asyncio.sleep(0.5)
    return up


async def help_is_called_at_once(spine: Spine) -> None:
    """An emergency call waits for nobody: a question to a FairDial that does not answer would take a second."""
    emergency = await spine.call("bob", "112", hang_up_after_s=0.5)
    assert (emergency.final_status, emergency.setup_s < 1) == (200, True)


# --- FairDial dies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", short_and_long(200, 1000))
@pytest.mark.timeout(240)
async def test_after_a_crash_all_calls_are_followed_leased_and_metered_again(
    installation: Installation, tmp_path: Path, count: int
) -> None:
    plan = Plan()
    async with running_spine(installation, tmp_path) as spine:
        await open_account(spine.server, ACCOUNT, plan, LINE)
        load = asyncio.create_task(
            place(spine.switch, LINE, count, 60, hang_up_after_s=count / 40 + 8, timeout_s=120)
        )
        up = await all_up(spine.server, count)
        await spine.server.kill()
        await asyncio.sleep(2)
        began = time.monotonic()
        await spine.server.launch()
        ready_s = time.monotonic() - began
        again_s = await talking(spine.server, up, timeout_s=20)
        log.info("%d calls up: ready %.2f s after the start, all followed %.2f s later", up, ready_s, again_s)
        tally = await agree(spine, await load, Rules(plan.limit_s))
        assert again_s <= FOLLOWED_WITHIN_S
        assert tally.answered >= up


@pytest.mark.parametrize("count", short_and_long(150, 1000))
@pytest.mark.timeout(240)
async def test_without_fairdial_every_leg_ends_with_its_lease(
    installation: Installation, tmp_path: Path, count: int
) -> None:
    """It comes back only when all is over, and settles from the switch's records."""
    plan = Plan(longest_s=count // 50 + 8)
    async with running_spine(installation, tmp_path) as spine:
        await open_account(spine.server, ACCOUNT, plan, LINE)
        load = asyncio.create_task(place(spine.switch, LINE, count, 60, timeout_s=120))
        up = await all_up(spine.server, count)
        await spine.server.kill()
        placed = await load
        assert {made.outcome.ended_by for made in placed.calls if made.outcome.answered} == {"far_end"}
        await spine.server.launch()
        tally = await agree(spine, placed, Rules(plan.limit_s))
        assert (tally.by_record > up * 9 // 10, tally.estimated) == (True, 0)


@pytest.mark.parametrize("kills", short_and_long(12, 200))
@pytest.mark.timeout(1800)
async def test_killed_again_and_again_it_neither_loses_nor_doubles_a_call(
    installation: Installation, tmp_path: Path, kills: int
) -> None:
    """At random points, also while it starts; calls come and go all the time, some on the last of an allowance."""
    chance = random.Random(kills)
    plenty, scarce = Plan(), Plan(limit_s=60)
    async with running_spine(installation, tmp_path) as spine:
        await open_account(spine.server, ACCOUNT, plenty, LINE)
        await open_account(spine.server, "scarce", scarce, "bob")
        stop = asyncio.Event()
        loads = [
            asyncio.create_task(calls_until(stop, spine.switch, LINE, 8, 0)),
            asyncio.create_task(calls_until(stop, spine.switch, "bob", 1, 500_000)),
        ]
        await talking(spine.server, 5)
        await spine.server.kill()
        for _ in range(kills - 1):
            launching = asyncio.create_task(spine.server.launch())
            if chance.random() < 0.3:
                await asyncio.wait([launching], timeout=chance.uniform(0.2, 1.2))
            else:
                await launching
                await asyncio.sleep(chance.uniform(0.0, 1.5))
            launching.cancel()
            await asyncio.gather(launching, return_exceptions=True)
            await spine.server.kill()
        stop.set()
        await spine.server.launch()
        many, few = await asyncio.gather(*loads)
        tally = await agree(spine, many, Rules(plenty.limit_s))
        await agree(spine, few, Rules(scarce.limit_s), "scarce")
        assert tally.answered > kills
        assert tally.by_record > 0


async def calls_until(stop: asyncio.Event, switch: Switch, line: str, rate_per_s: int, first: int) -> Placed:
    """Short calls all the time, a phone for each five seconds of them."""
    placing: list[asyncio.Task[Placed]] = []
    batch = rate_per_s * 5
    while not stop.is_set():
        number = first + len(placing) * (2 * batch + 100)
        placing.append(
            asyncio.create_task(place(switch, line, batch, rate_per_s, first=number, hang_up_after_s=2))
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await stop.wait()
    return sum(await asyncio.gather(*placing), Placed(()))


# --- Asterisk dies, or hangs -----------------------------------------------------------------------


@pytest.mark.parametrize("both", [False, True], ids=["alone", "with FairDial"])
async def test_calls_that_die_with_asterisk_are_settled_at_the_last_proven_moment(
    installation: Installation, tmp_path: Path, both: bool
) -> None:
    count, plan = 50, Plan()
    async with running_spine(installation, tmp_path) as spine:
        await open_account(spine.server, ACCOUNT, plan, LINE)
        # Some are over before, and have their records.
        over = await place(spine.switch, LINE, 20, 40, first=900_000, hang_up_after_s=1)
        load = asyncio.create_task(place(spine.switch, LINE, count, 60, hang_up_after_s=10))
        up = await all_up(spine.server, count)
        await asyncio.sleep(3)
        died_at = time.time()
        spine.switch.kill()
        if both:
            await spine.server.kill()
        # Time in which nobody talked.
        await asyncio.sleep(3)
        await spine.switch.restart()
        if both:
            await spine.server.launch()
        await spine.server.ready()
        placed = over + await load
        tally = await agree(spine, placed, Rules(plan.limit_s, died_at))
        assert tally.estimated == up
        assert (await spine.call(LINE, "02079469999", hang_up_after_s=1)).final_status == 200


async def test_a_switch_that_hangs_and_comes_back_costs_no_call(
    installation: Installation, tmp_path: Path
) -> None:
    plan = Plan()
    async with running_spine(installation, tmp_path) as spine:
        await open_account(spine.server, ACCOUNT, plan, LINE)
        load = asyncio.create_task(steady(spine.switch))
        await talking(spine.server, 12)
        froze_at = time.time()
        spine.switch.freeze()
        try:
            await asyncio.sleep(7)
        finally:
            spine.switch.thaw()
            hung = froze_at, time.time()
        placed = await load
        await spine.server.ready()
        tally = await agree(spine, placed, Rules(plan.limit_s, hung=hung, set_up_within_s=None))
        assert tally.answered >= 12


async def steady(switch: Switch, count: int = 60) -> Placed:
    """Calls that begin and end all the time for some twelve seconds."""
    return await place(switch, LINE, count, 6, hang_up_after_s=3, timeout_s=40)


# --- the links -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Linked:
    """A spine whose FairDial reaches the switch through relays."""

    spine: Spine
    ari: Relay
    ami: Relay


@asynccontextmanager
async def linked(installation: Installation, directory: Path) -> AsyncIterator[Linked]:
    """As `running_spine`, with relays before ARI and AMI."""
    extensions, files = dialplan()
    async with (
        Switch.start(installation, extensions, files=files, lines=LINES) as switch,
        Carrier.start(switch) as carrier,
        Relay.to(switch.settings.ports.http) as ari,
        Relay.to(switch.ami_port) as ami,
        Server.start(switch, directory, {"ari.url": ari.url, "ami.port": ami.port}) as server,
    ):
        yield Linked(Spine(switch, carrier, server), ari, ami)


def cut_both(at: Linked) -> None:
    """Lose ARI and AMI at once."""
    at.ari.cut()
    at.ami.cut()


LINK_FAULTS: dict[str, tuple[Callable[[Linked], None], str]] = {
    "ARI reset": (lambda at: at.ari.reset(), "ari"),
    "ARI frozen": (lambda at: at.ari.freeze(), "ari"),
    "ARI slow": (lambda at: at.ari.slow(0.3), ""),
    "AMI reset": (lambda at: at.ami.reset(), "ami"),
    "AMI frozen": (lambda at: at.ami.freeze(), "ami"),
    "both cut": (cut_both, "ari"),
}
"""What happens to a link, and the connection that FairDial loses by it."""


@pytest.mark.parametrize("fault", LINK_FAULTS)
async def test_a_link_that_fails_under_load_costs_no_call(
    installation: Installation, tmp_path: Path, fault: str
) -> None:
    plan = Plan()
    fail, lost = LINK_FAULTS[fault]
    async with linked(installation, tmp_path) as at:
        spine = at.spine
        await open_account(spine.server, ACCOUNT, plan, LINE)
        load = asyncio.create_task(steady(spine.switch))
        await talking(spine.server, 12)
        fail(at)
        if lost:
            await connection(spine.server, lost, is_up=False)
        await help_is_called_at_once(spine)
        await asyncio.sleep(2)
        at.ari.mend()
        at.ami.mend()
        placed = await load
        await spine.server.ready()
        tally = await agree(spine, placed, Rules(plan.limit_s))
        assert tally.answered >= 12


async def connection(server: Server, name: str, *, is_up: bool, timeout_s: float = 15.0) -> None:
    """Wait until FairDial has, or has lost, that connection."""
    async with asyncio.timeout(timeout_s):
        while (await server.ask("status"))[name] is not is_up:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("part", "file", "words"),
    [
        ("ari", "ari.conf", ("ari_connect_failed", "401")),
        ("ami", "manager.conf", ("ami_login_refused", "secret")),
    ],
)
async def test_wrong_credentials_are_named_and_right_ones_taken_without_a_restart(
    installation: Installation, tmp_path: Path, part: str, file: str, words: tuple[str, str]
) -> None:
    async with linked(installation, tmp_path) as at:
        switch, server = at.spine.switch, at.spine.server
        path = switch.directory / "etc" / file
        right = path.read_text()
        secret = switch.ari_password if part == "ari" else switch.ami_secret
        reload = "module reload res_ari.so" if part == "ari" else "manager reload"
        assert right.count(secret) == 1
        path.write_text(right.replace(secret, "another"))
        await switch.cli(reload)
        (at.ari if part == "ari" else at.ami).reset()
        await connection(server, part, is_up=False)
        async with asyncio.timeout(10):
            while not all(word in server.last_words() for word in words):
                await asyncio.sleep(0.05)
        asked = await server.command("ready", "--json")
        assert asked.status == 1
        [unwell] = [each for each in asked.json["parts"] if not each["well"]]
        assert (unwell["part"], file in unwell["cure"]) == (part, True)
        path.write_text(right)
        await switch.cli(reload)
        await connection(server, part, is_up=True)
        assert (await server.command("ready")).status == 0


# --- the store -------------------------------------------------------------------------------------


@contextmanager
def locked(ledger: Path) -> Iterator[None]:
    """Another program holds the ledger's file."""
    held = sqlite3.connect(ledger, isolation_level=None)
    try:
        held.execute("BEGIN IMMEDIATE")
        yield
        held.execute("ROLLBACK")
    finally:
        held.close()


@contextmanager
def filled(ledger: Path) -> Iterator[None]:
    """The disk of the ledger has no room."""
    ballast = ledger.with_name("ballast")
    with ballast.open("wb", buffering=0) as file:
        for size in (65_536, 512, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
    try:
        yield
    finally:
        ballast.unlink()


STORE_FAULTS: dict[str, Callable[[Path], AbstractContextManager[None]]] = {"locked": locked, "full": filled}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB of the test's own: the ledger's log of writes alone takes 4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("fault", STORE_FAULTS)
async def test_a_store_that_cannot_be_written_under_load_costs_no_call(
    installation: Installation, tmp_path: Path, small_disk: Path, fault: str
) -> None:
    plan = Plan()
    ledger = small_disk / "ledger.sqlite"
    async with running_spine(installation, tmp_path, {"store.path": str(ledger)}) as spine:
        await open_account(spine.server, ACCOUNT, plan, LINE)
        load = asyncio.create_task(place(spine.switch, LINE, 60, 60, hang_up_after_s=9))
        up = await all_up(spine.server, 60)
        with STORE_FAULTS[fault](ledger):
            # A full disk has room within the files that are there already, for some of them.
            during = asyncio.create_task(place(spine.switch, LINE, 100, 25, first=10_000, hang_up_after_s=1))
            await help_is_called_at_once(spine)
            then = await during
            assert 503 in {made.outcome.final_status for made in then.calls}
            ended = await load
        tally = await agree(spine, ended + then, Rules(plan.limit_s))
        assert tally.answered >= up
