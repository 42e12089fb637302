"""The SQLite file in real trouble: the loop runs on, dials have their failure rule in time, then all is well."""

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from fairdial.clock import SystemClock
from fairdial.desk import Asked, Desk, DeskRules, Failed
from fairdial.ledger import writer as writer_module
from fairdial.ledger.contract import LedgerDamaged, LedgerUnavailable
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.account import Kind
from fairdial.policy.book import PolicyBook
from fairdial.policy.decide import Verdict
from fairdial.policy.numbers import Numbering
from fairdial.policy.outcomes import Reason
from fairdial.policy.prefixes import PrefixTable
from tests.samples import plan, provision

NUMBERING = Numbering(PrefixTable.parse("prefix,class,country,risk,note,source,date\n"))
ANSWER_MAX_S = 0.6
"""The desk's half second, and what a busy machine adds."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


class Ticker:
    """Finds out whether something held the event loop up for 0.1 s, and not the whole machine.

    A thread ticks beside it.
    """

    EVERY_S, STILL_TICKS = 0.005, 20

    def __init__(self) -> None:
        self.stalls: list[str] = []
        self._loop_thread = threading.get_ident()
        self._ticks = 0
        self._over = threading.Event()

    def beside(self) -> None:
        """Where other programs have the machine, this thread does not get on either, and nothing is noted."""
        seen, still = -1, 0
        while not self._over.wait(self.EVERY_S):
            seen, still = self._ticks, still + 1 if seen == self._ticks else 0
            if still == self.STILL_TICKS:
                frame = sys._current_frames()[self._loop_thread]
                self.stalls.append("".join(traceback.format_stack(frame)[-5:]))

    async def run(self) -> None:
        while True:
            self._ticks += 1
            await asyncio.sleep(self.EVERY_S)

    def stop(self) -> None:
        self._over.set()


@contextlib.asynccontextmanager
async def ticking() -> AsyncIterator[Ticker]:
    ticker = Ticker()
    running = [asyncio.create_task(asyncio.to_thread(ticker.beside)), asyncio.create_task(ticker.run())]
    try:
        yield ticker
    finally:
        ticker.stop()
        running[1].cancel()
        await asyncio.gather(*running, return_exceptions=True)


@pytest.fixture
async def ticker() -> AsyncIterator[Ticker]:
    """Fails the test where the loop stood still."""
    # What is read only for the first dial is no trouble of the store's.
    NUMBERING.warm(("GB",))
    async with ticking() as ticker:
        yield ticker
    assert not ticker.stalls, "the loop stood still at\n" + "\n".join(ticker.stalls)


async def test_a_loop_that_stands_still_is_noticed() -> None:
    async with ticking() as ticker:
        await asyncio.sleep(0.05)
        time.sleep(0.5)
        await asyncio.sleep(0.05)
    assert "time.sleep(0.5)" in ticker.stalls[0]


@contextlib.asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Desk]:
    ledger = await SqliteLedger.open(path)
    desk = Desk(ledger, PolicyBook([plan()]), NUMBERING, SystemClock(), DeskRules())
    try:
        yield desk
    finally:
        await desk.close()
        await ledger.close()


@pytest.fixture
async def desk(path: Path) -> AsyncIterator[Desk]:
    async with opened(path) as desk:
        await provision(desk.ledger)
        yield desk


async def dial(desk: Desk, call_id: str, number: str = "02079460123") -> Verdict | Failed:
    """Dial, within the time that a dial has."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    outcome = await desk.authorise(Asked(call_id, Kind.OUTBOUND, number, "alice", f"channel-{call_id}", 60))
    assert loop.time() - begun < ANSWER_MAX_S
    return outcome


async def talk(desk: Desk, call_id: str) -> None:
    """A call that is up."""
    assert isinstance(await dial(desk, call_id), Verdict)
    assert await desk.note_answer(call_id, "leg", SystemClock().now())


async def end(desk: Desk, call_id: str, used_s: int) -> bool:
    return await desk.note_end(call_id, used_s, SystemClock().now())


async def used(desk: Desk, call_id: str) -> tuple[int | None, bool]:
    grant = await desk.ledger.grant(call_id)
    assert grant is not None
    return grant.used_s, grant.estimated


async def written(desk: Desk) -> None:
    async with asyncio.timeout(20):
        while desk.unwritten:
            await asyncio.sleep(0.01)


async def in_trouble(desk: Desk, *, told: str, call_up: str, dials: int = 5) -> None:
    """No dial is granted, emergencies go through, a call that ends is kept, and the probe says why."""
    outcomes = await asyncio.gather(*(dial(desk, f"refused-{call_up}-{number}") for number in range(dials)))
    assert {type(outcome) for outcome in outcomes} == {Failed}
    assert isinstance(await dial(desk, f"emergency-{call_up}", "999"), Verdict)
    assert not await end(desk, call_up, 7)
    assert desk.awaits(call_up)
    with pytest.raises(LedgerUnavailable, match=told) as caught:
        await desk.ledger.probe()
    assert caught.value.cure


async def well_again(desk: Desk, call_up: str) -> None:
    """All that was kept is written, no refused dial holds anything, and the next one is granted."""
    await written(desk)
    assert await used(desk, call_up) == (7, False)
    assert await desk.ledger.live_grants() == ()
    assert f"emergency-{call_up}" in {record.call_id for record in await desk.ledger.decisions()}
    await desk.ledger.probe()
    await talk(desk, "next")
    assert await end(desk, "next", 3)
    assert await used(desk, "next") == (3, False)


# --- locked --------------------------------------------------------------------------------------

HOLDS_THE_LOCK = """
import sqlite3, sys
raw = sqlite3.connect(sys.argv[1], isolation_level=None)
raw.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextlib.asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Another process holds the file's write lock."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        HOLDS_THE_LOCK,
        str(path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert await process.stdout.readline() == b"locked\n"
    try:
        yield
    finally:
        process.stdin.close()
        await process.wait()


async def test_a_lock_that_another_process_holds_and_lets_go(desk: Desk, path: Path, ticker: Ticker) -> None:
    await talk(desk, "up")
    async with locked(path):
        await in_trouble(
            desk, told=r"ledger\.sqlite: database is locked; another program holds it", call_up="up"
        )
        # Nothing but time goes by; it is not given up.
        for _ in range(3):
            await asyncio.sleep(1)
            assert isinstance(await dial(desk, "again"), Failed)
            assert await used(desk, "up") == (None, False)
        traffic = desk.ledger.traffic
        assert min(traffic.commits.of("failed"), traffic.steps.of("failed")) > 3
    await well_again(desk, "up")


async def test_a_lock_that_is_never_let_go_keeps_nobody_from_stopping(path: Path, ticker: Ticker) -> None:
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as lock:
        async with opened(path) as desk:
            await provision(desk.ledger)
            await talk(desk, "up")
            await lock.enter_async_context(locked(path))
            await in_trouble(desk, told="locked", call_up="up")
            begun = loop.time()
        assert loop.time() - begun < 1.5
        # Opened again, it is still so; the grant was handed over, not lost.
        with pytest.raises(LedgerUnavailable, match="locked"):
            async with opened(path) as desk:
                await desk.ledger.probe()
    async with opened(path) as desk:
        assert [grant.call_id for grant in await desk.ledger.live_grants()] == ["up"]


# --- slow ----------------------------------------------------------------------------------------


async def test_a_disk_that_takes_seconds_for_a_commit(
    desk: Desk, ticker: Ticker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await talk(desk, "up")
    commit = writer_module._in_transaction

    def slowly(connection: sqlite3.Connection, work: Any) -> Any:
        def then_wait() -> Any:
            result = work()
            time.sleep(1.5)
            return result

        return commit(connection, then_wait)

    with monkeypatch.context() as slow:
        slow.setattr(writer_module, "_in_transaction", slowly)
        outcomes = await asyncio.gather(*(dial(desk, f"late-{number}") for number in range(5)))
        assert set(outcomes) == {Failed(Reason.TOO_LATE)}
        assert not await end(desk, "up", 7)
        assert isinstance(await dial(desk, "emergency-up", "999"), Verdict)
    await well_again(desk, "up")


# --- full, and other refusals of the disk ---------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB of the test's own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Leave no room on it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65_536, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
    assert shutil.disk_usage(disk).free == 0
    return ballast


async def test_a_disk_that_is_full_and_has_room_again(small_disk: Path, ticker: Ticker) -> None:
    async with opened(small_disk / "ledger.sqlite") as desk:
        await provision(desk.ledger)
        await talk(desk, "up")
        ballast = await asyncio.to_thread(fill, small_disk)
        await in_trouble(desk, told=r"ledger\.sqlite: .*full; make room on its disk", call_up="up")
        ballast.unlink()
        await well_again(desk, "up")


async def test_a_disk_that_is_full_at_the_start_is_told(small_disk: Path) -> None:
    ballast = fill(small_disk)
    with pytest.raises(LedgerUnavailable, match=r"ledger\.sqlite.*"):
        await SqliteLedger.open(small_disk / "ledger.sqlite")
    ballast.unlink()
    await (await SqliteLedger.open(small_disk / "ledger.sqlite")).close()


REFUSED_WRITES = """
import asyncio, resource, sys
from pathlib import Path
from fairdial.ledger.contract import LedgerUnavailable
from fairdial.ledger.sqlite import SqliteLedger

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main():
    ledger = await SqliteLedger.open(Path(sys.argv[1]))
    await ledger.probe()
    limit(0)
    try:
        await ledger.probe()
    except LedgerUnavailable as error:
        print(error, file=sys.stderr)
    limit(resource.RLIM_INFINITY)
    await ledger.probe()
    await ledger.close()
    print("well again", file=sys.stderr)

asyncio.run(main())
"""


async def test_a_disk_that_refuses_every_write_as_one_that_became_read_only(path: Path) -> None:
    """By a limit of the process's own, whose error reaches SQLite as that of a disk does."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", REFUSED_WRITES, str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    told, after = done.stderr.splitlines()
    assert "ledger.sqlite: disk I/O error; see to its disk: whether it is mounted read-only" in told
    assert after == "well again"


async def test_a_file_that_is_moved_away_and_back(desk: Desk, path: Path, ticker: Ticker) -> None:
    await talk(desk, "up")
    away = path.with_name("away.sqlite")
    path.rename(away)
    await in_trouble(desk, told=r"ledger\.sqlite: the file was removed or replaced", call_up="up")
    path.write_bytes(b"another")
    with pytest.raises(LedgerUnavailable, match="removed or replaced"):
        await desk.ledger.probe()
    away.replace(path)
    await well_again(desk, "up")


async def test_a_file_that_is_deleted_is_told_and_no_other_is_made_in_its_place(
    path: Path, ticker: Ticker
) -> None:
    async with opened(path) as desk:
        await provision(desk.ledger)
        await talk(desk, "up")
        path.unlink()
        await in_trouble(
            desk, told="where it is gone, stop FairDial and `fairdial restore` a backup", call_up="up"
        )
    assert not path.exists()


# --- damaged -------------------------------------------------------------------------------------


async def large(path: Path) -> None:
    """A ledger with so many accounts that most of it is in no cache when it is opened."""
    async with opened(path) as desk:
        for number in range(400):
            await provision(desk.ledger, f"account-{number}", f"line-{number}")
        await provision(desk.ledger)


def spoil(path: Path) -> None:
    """Overwrite the middle of the file: the pages of its accounts, whatever they are."""
    with contextlib.closing(sqlite3.connect(path)) as raw:
        (root,) = raw.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'accounts'").fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)
        os.fsync(file.fileno())


async def test_a_file_that_was_damaged_before_the_start_is_found_and_never_written(
    path: Path, ticker: Ticker
) -> None:
    await large(path)
    await asyncio.to_thread(spoil, path)
    before = path.read_bytes()
    async with opened(path) as desk:
        assert await dial(desk, "call-1") == Failed(Reason.STORE_UNAVAILABLE)
        assert isinstance(await dial(desk, "call-2", "999"), Verdict)
        with pytest.raises(
            LedgerDamaged, match=r"ledger\.sqlite: the file is damaged .*`fairdial restore FILE`"
        ):
            await desk.ledger.probe()
        assert await desk.ledger.live_grants() == ()  # what can be read is
    assert path.read_bytes() == before


async def test_a_file_that_is_damaged_in_use_is_found_by_the_next_who_reads_there_and_not_written_again(
    path: Path, ticker: Ticker
) -> None:
    await large(path)
    async with opened(path) as desk:
        # Nothing of the accounts has been read since the start.
        await asyncio.to_thread(spoil, path)
        assert await dial(desk, "call-1") == Failed(Reason.STORE_UNAVAILABLE)
        before = path.read_bytes()
        with pytest.raises(LedgerDamaged, match=r"malformed.*`fairdial restore FILE`"):
            await desk.ledger.probe()
        with pytest.raises(LedgerUnavailable, match="malformed"):
            await desk.ledger.accounts()
    assert path.read_bytes() == before


async def test_a_file_that_is_whole_is_not_taken_for_damaged(path: Path, ticker: Ticker) -> None:
    await large(path)
    async with opened(path) as desk:
        await desk.ledger.probe()
        await talk(desk, "call-1")


async def test_looking_through_a_file_has_an_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await large(path)
    monkeypatch.setattr(writer_module, "CHECK_WITHIN_S", 0.0)
    async with opened(path) as desk:
        await talk(desk, "call-1")
    await asyncio.to_thread(spoil, path)
    async with opened(path) as desk:  # not seen in no time, but when it is read
        assert await dial(desk, "call-2") == Failed(Reason.STORE_UNAVAILABLE)


# --- killed in a commit --------------------------------------------------------------------------

COMMITS = """
import asyncio, os, sys, traceback
from pathlib import Path
from fairdial.ledger.sqlite import SqliteLedger
from tests.samples import NOON_MS, authorise, outbound, provision

async def main():
    ledger = await SqliteLedger.open(Path(sys.argv[1]))
    await provision(ledger)
    first = int(sys.argv[2])

    async def call(number):
        await authorise(ledger, outbound(f"call-{number}"))
        await ledger.answered(f"call-{number}", "leg", NOON_MS)
        await ledger.settle(f"call-{number}", 1, NOON_MS)
        print(number, flush=True)

    for batch in range(first, first + 100_000, 20):
        await asyncio.gather(*(call(number) for number in range(batch, batch + 20)))

try:
    asyncio.run(main())
except BaseException:
    traceback.print_exc()
    os._exit(1)  # without waiting for the ledger's threads
"""
KILLS = 20


async def test_a_process_that_is_killed_in_a_commit_leaves_no_half_step(path: Path) -> None:
    """Twenty times in a loop of commits: the file opens, holds all that was confirmed, and its books agree."""
    confirmed: set[int] = set()
    for kill in range(KILLS):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", COMMITS, str(path), str(kill * 1_000_000), stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        async with asyncio.timeout(60):
            for _ in range(5 + 7 * kill):
                line = await process.stdout.readline()
                assert line, "the process ended by itself; its words are on standard error"
                confirmed.add(int(line))
        process.kill()
        rest = await process.stdout.read()
        confirmed |= {int(line) for line in rest.splitlines(keepends=True) if line.endswith(b"\n")}
        await process.wait()
    ledger = await SqliteLedger.open(path)
    await ledger.close()
    with contextlib.closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert raw.execute("PRAGMA foreign_key_check").fetchall() == []
        settled = {
            int(row[0][5:]) for row in raw.execute("SELECT call_id FROM grants WHERE state = 'settled'")
        }
        assert confirmed <= settled
        assert len(confirmed) > KILLS
        [(used_s, reserved_s, calls)] = raw.execute(
            "SELECT sum(used_units), sum(reserved_units), sum(calls) FROM meters"
        ).fetchall()
        assert (used_s, calls) == (len(settled), len(settled))
        live = "SELECT coalesce(sum(hold_units), 0) FROM holds JOIN grants USING (call_id) WHERE state <> 'settled'"
        assert (reserved_s,) == raw.execute(live).fetchone()
        assert (
            raw.execute("SELECT count(*) FROM decisions").fetchone()
            == raw.execute("SELECT count(*) FROM grants").fetchone()
        )
