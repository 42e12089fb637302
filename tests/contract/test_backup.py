"""A copy of a ledger in use, and putting it in place: whole, private, never over something else, and then worked on."""

import asyncio
import contextlib
import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fairdial.desk import Desk, DeskRules
from fairdial.ledger import backup as backup_module
from fairdial.ledger.backup import CopyFailed, back_up, restore
from fairdial.ledger.contract import LedgerUnavailable
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.book import PolicyBook
from tests.samples import NOON_MS, SetClock, authorise, outbound, plan, provision
from tests.unit.test_desk import NUMBERING
from tests.unit.test_reconcile import Switch, run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "copies" / "monday.sqlite"


@pytest.fixture
async def ledger(path: Path, copy: Path) -> AsyncIterator[SqliteLedger]:
    copy.parent.mkdir()
    opened = await SqliteLedger.open(path)
    await provision(opened)
    yield opened
    await opened.close()


async def call(ledger: SqliteLedger, call_id: str, used_s: int | None = None) -> None:
    await authorise(ledger, outbound(call_id), plan(longest_s=100))
    if used_s is not None:
        await ledger.answered(call_id, "leg", NOON_MS)
        await ledger.settle(call_id, used_s, NOON_MS + used_s * 1000)


def calls_in(path: Path) -> dict[str, int | None]:
    with contextlib.closing(sqlite3.connect(path)) as raw:
        return dict(raw.execute("SELECT call_id, used_s FROM grants ORDER BY call_id").fetchall())


def left_over(copy: Path) -> list[str]:
    return sorted(file.name for file in copy.parent.iterdir())


async def test_a_backup_has_all_that_was_committed_and_is_one_private_file(
    ledger: SqliteLedger, path: Path, copy: Path
) -> None:
    await call(ledger, "over", 5)
    await call(ledger, "live")
    made = await asyncio.to_thread(back_up, path, copy)
    assert (made.file, made.size_bytes, made.live_grants) == (copy, copy.stat().st_size, 1)
    assert calls_in(copy) == {"over": 5, "live": None}
    assert left_over(copy) == ["monday.sqlite"]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    await call(ledger, "later", 1)
    assert "later" not in calls_in(copy)


async def test_dials_go_on_during_a_backup_which_is_of_one_moment(
    ledger: SqliteLedger, path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(300):
        await provision(ledger, f"account-{number}", f"line-{number}")
    monkeypatch.setattr(backup_module, "PAGES_AT_ONCE", 4)
    monkeypatch.setattr(backup_module, "PAUSE_S", 0.01)
    await call(ledger, "before", 5)
    making = asyncio.create_task(asyncio.to_thread(back_up, path, copy))
    during = 0
    while not making.done():
        await call(ledger, f"during-{during}", 1)
        during += 1
    await making
    assert during > 10
    kept = calls_in(copy)
    assert kept.pop("before") == 5
    # Those of one moment, the first ones, each whole.
    assert len(kept) < during
    assert [f"during-{number}" in kept for number in range(during)] == [
        number < len(kept) for number in range(during)
    ]
    assert set(kept.values()) <= {1, None}


async def test_a_backup_of_a_ledger_that_nobody_has_open(
    ledger: SqliteLedger, path: Path, copy: Path
) -> None:
    await call(ledger, "over", 5)
    await ledger.close()
    before = path.read_bytes()
    assert (await asyncio.to_thread(back_up, path, copy)).live_grants == 0
    assert calls_in(copy) == {"over": 5}
    assert path.read_bytes() == before


async def test_a_backup_overwrites_nothing(ledger: SqliteLedger, path: Path, copy: Path) -> None:
    copy.write_text("something else")
    with pytest.raises(CopyFailed, match=r"monday\.sqlite: this file exists; name another"):
        back_up(path, copy)
    assert copy.read_text() == "something else"
    copy.unlink()
    back_up(path, copy)
    with pytest.raises(CopyFailed, match="exists"):
        back_up(path, copy)
    assert left_over(copy) == ["monday.sqlite"]


async def test_a_backup_that_cannot_be_made_leaves_nothing_and_says_why(
    ledger: SqliteLedger, path: Path, copy: Path
) -> None:
    with pytest.raises(CopyFailed, match="No such file or directory; name a file that can be written"):
        back_up(path, copy.parent / "no" / "monday.sqlite")
    with pytest.raises(CopyFailed, match=r"other\.sqlite: there is no ledger; set `store\.path`"):
        back_up(path.with_name("other.sqlite"), copy)
    await ledger.close()
    with path.open("r+b") as file:
        file.seek(4096 * 5)
        file.write(b"\xff" * 4096)
    with pytest.raises(CopyFailed, match="the file is damaged"):
        back_up(path, copy)
    assert left_over(copy) == []


async def test_a_backup_is_not_taken_for_one_before_it_is_whole(
    ledger: SqliteLedger, path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(_status: int, _remaining: int, _total: int) -> None:
        assert copy.stat().st_size == 0
        raise Killed

    with monkeypatch.context() as broken:
        broken.setattr(backup_module, "_pause", killed)
        with pytest.raises(Killed):
            back_up(path, copy)
    assert left_over(copy) == []
    copy.touch()  # as a kill leaves it
    with pytest.raises(CopyFailed, match="no ledger of FairDial"):
        restore(path.with_name("elsewhere.sqlite"), copy)


# --- restoring -----------------------------------------------------------------------------------


async def test_a_restored_backup_is_the_ledger_and_what_was_there_is_kept(
    ledger: SqliteLedger, path: Path, copy: Path
) -> None:
    await call(ledger, "over", 5)
    back_up(path, copy)
    await call(ledger, "later", 7)
    await ledger.close()
    restored = restore(path, copy)
    assert restored.ledger == path
    assert calls_in(path) == {"over": 5}
    assert restored.replaced is not None
    assert calls_in(restored.replaced) == {"later": 7, "over": 5}
    assert calls_in(copy) == {"over": 5}
    again = await SqliteLedger.open(path)
    await call(again, "new", 3)
    await again.close()
    assert calls_in(path) == {"new": 3, "over": 5}


async def test_what_a_killed_fairdial_left_in_its_log_goes_with_the_old_ledger_not_with_the_new(
    ledger: SqliteLedger, path: Path, copy: Path
) -> None:
    back_up(path, copy)
    await call(ledger, "later", 7)
    # As SIGKILL leaves it: the last commits are in the -wal alone.
    dead = path.with_name("dead") / path.name
    dead.parent.mkdir()
    for suffix in ("", "-wal", "-shm"):
        content = path.with_name(path.name + suffix).read_bytes()
        dead.with_name(dead.name + suffix).write_bytes(content)
    assert dead.with_name(dead.name + "-wal").stat().st_size > 0
    restored = restore(dead, copy)
    assert calls_in(dead) == {}
    assert restored.replaced is not None
    assert calls_in(restored.replaced) == {"later": 7}


async def test_nothing_is_restored_under_a_fairdial_that_runs(
    ledger: SqliteLedger, path: Path, copy: Path
) -> None:
    back_up(path, copy)
    await call(ledger, "later", 7)
    with pytest.raises(LedgerUnavailable, match="another FairDial writes this ledger; stop it"):
        restore(path, copy)
    assert calls_in(path) == {"later": 7}
    await ledger.close()
    restore(path, copy)
    assert calls_in(path) == {}


async def test_where_no_ledger_was_a_backup_becomes_the_first(
    ledger: SqliteLedger, path: Path, copy: Path
) -> None:
    await call(ledger, "over", 5)
    back_up(path, copy)
    elsewhere = path.with_name("elsewhere.sqlite")
    assert restore(elsewhere, copy).replaced is None
    assert calls_in(elsewhere) == {"over": 5}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no ledger of FairDial"),
        (b"not a database, and long enough to be looked at" * 99, "not a database"),
        (None, "there is no such file"),
    ],
)
async def test_what_is_no_backup_replaces_nothing(
    ledger: SqliteLedger, path: Path, copy: Path, content: bytes | None, told: str
) -> None:
    await call(ledger, "over", 5)
    await ledger.close()
    if content is not None:
        copy.write_bytes(content)
    with pytest.raises(CopyFailed, match=told):
        restore(path, copy)
    assert calls_in(path) == {"over": 5}
    assert [file.name for file in path.parent.glob("ledger.sqlite.re*")] == []


async def test_a_backup_of_an_older_fairdial_is_migrated_and_of_a_newer_one_refused(
    ledger: SqliteLedger, path: Path, copy: Path
) -> None:
    back_up(path, copy)
    newest = restore(path.with_name("newest.sqlite"), copy).schema_version
    await ledger.close()
    with contextlib.closing(sqlite3.connect(copy)) as raw:
        raw.execute("INSERT INTO schema_version VALUES (9999, 'future', '')")
        raw.commit()
    with pytest.raises(
        CopyFailed, match=r"monday\.sqlite: schema version 9999 was written by a newer FairDial"
    ):
        restore(path, copy)
    older = copy.with_name("older.sqlite")
    with contextlib.closing(sqlite3.connect(older)) as raw:
        raw.row_factory = sqlite3.Row
        schema = sorted(Path(backup_module.__file__).with_name("schema").glob("*.sql"))
        raw.execute(
            "CREATE TABLE schema_version"
            " (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at TEXT NOT NULL) STRICT"
        )
        raw.executescript(schema[0].read_text())
        raw.execute("INSERT INTO schema_version VALUES (?, ?, '')", (int(schema[0].name[:4]), schema[0].name))
        raw.commit()
    assert len(schema) > 1
    assert restore(path, older).schema_version == newest
    await provision(opened := await SqliteLedger.open(path))
    await opened.close()


async def test_a_restored_backup_reconciles(ledger: SqliteLedger, path: Path, copy: Path) -> None:
    """A call that was live in it and is long over is settled as estimated; one that is still up is followed."""
    clock = SetClock()
    await call(ledger, "gone")
    await call(ledger, "up")
    await ledger.answered("gone", "leg", NOON_MS)
    back_up(path, copy)
    await ledger.settle("gone", 20, NOON_MS + 20_000)
    await ledger.close()
    assert restore(path, copy).live_grants == 2
    again = await SqliteLedger.open(path)
    desk = Desk(again, PolicyBook([plan()]), NUMBERING, clock, DeskRules())
    clock.forward(3_600_000)
    switch = Switch({"channel-up": ""})
    await run(desk, switch, clock)
    gone = await again.grant("gone")
    assert gone is not None
    assert (gone.used_s, gone.estimated) == (100, True)  # at most what was granted
    assert switch.adopted == {"up": {"channel-up"}}
    assert [grant.call_id for grant in await again.live_grants()] == ["up"]
    await desk.close()
    await again.close()
