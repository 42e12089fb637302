"""What holds for the SQLite store alone: its schema, its one writer, and its file in trouble."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol, cast

import pytest

from fairdial.ledger import reading
from fairdial.ledger import writer as writer_module
from fairdial.ledger.contract import (
    ConstraintViolated,
    Ledger,
    LedgerBusy,
    LedgerSlow,
    LedgerUnavailable,
    NotFound,
)
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.ledger.writer import Writer, migrate
from fairdial.policy.account import Line
from tests.contract.reads_first import watched
from tests.samples import NOON_MS, authorise, outbound, provision

DB = sqlite3.Connection


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


class Opener(Protocol):
    """Opens a writer of the test's file, or of another; it is closed when the test ends, however it ends."""

    async def __call__(self, other: Path | None = None, **bounds: Any) -> Writer: ...


@pytest.fixture
async def open_writer(path: Path) -> AsyncIterator[Opener]:
    opened: list[Writer] = []

    async def open_one(other: Path | None = None, **bounds: Any) -> Writer:
        writer = Writer(other or path, **bounds)
        await writer.open()
        opened.append(writer)
        return writer

    yield open_one
    for writer in opened:
        await writer.close()


@pytest.fixture
async def writer(open_writer: Opener) -> Writer:
    writer = await open_writer(waiting_max=50, group_max=20)
    await writer.do(lambda db: db.execute("CREATE TABLE notes (text TEXT NOT NULL UNIQUE)") and None)
    return writer


def note(text: str) -> Callable[[DB], str]:
    def step(db: DB) -> str:
        db.execute("INSERT INTO notes VALUES (?)", (text,))
        return text

    return step


async def notes(writer: Writer) -> list[str]:
    return await writer.read(
        lambda db: [row[0] for row in db.execute("SELECT text FROM notes ORDER BY text")]
    )


class Blocker:
    """A step that keeps the writer's thread busy until it is let go."""

    def __init__(self) -> None:
        self.begun, self._gone = threading.Event(), threading.Event()

    def __call__(self, _db: DB) -> None:
        self.begun.set()
        assert self._gone.wait(30)

    async def wait_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, 30)

    def let_go(self) -> None:
        self._gone.set()


# --- the schema ----------------------------------------------------------------------------------


@pytest.fixture
async def books(path: Path) -> DB:
    """A raw connection to a file with one live grant of 375 s and an allowance of 6000 s."""
    ledger: Ledger = await SqliteLedger.open(path)
    await provision(ledger)
    await authorise(ledger, outbound())
    await ledger.close()
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("PRAGMA foreign_keys=ON")
    return raw


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE meters SET reserved_units = 6001",
        "UPDATE meters SET used_units = 5626",
        "UPDATE meters SET used_units = used_units + 5700, reserved_units = reserved_units - 1",
        "UPDATE meters SET limit_units = 374",
        "UPDATE meters SET reserved_units = -1",
        "UPDATE meters SET used_units = -1, limit_units = NULL",
        "UPDATE meters SET used_units = 'much'",
        "UPDATE meters SET end_ms = start_ms",
        "INSERT INTO meters VALUES ('acme', 'x', 0, 1, 5, 6, 0, 0, 0, 0)",
        "INSERT INTO meters (account_id, allowance, start_ms, end_ms) VALUES ('nobody', 'x', 0, 1)",
        "UPDATE grants SET state = 'settled'",
        "UPDATE grants SET state = 'settled', used_s = 5, ended_ms = NULL",
        "UPDATE grants SET state = 'settled', used_s = 376, ended_ms = 1",
        "UPDATE grants SET used_s = 5",
        "UPDATE grants SET state = 'talking'",
        "UPDATE grants SET state = 'gone'",
        "UPDATE grants SET granted_s = 0",
        "INSERT INTO grants SELECT * FROM grants",
        "UPDATE holds SET hold_units = -1",
        "UPDATE holds SET start_ms = 5",
        "UPDATE decisions SET decision = 'perhaps'",
        "UPDATE accounts SET standing = 'odd'",
        "DELETE FROM accounts",
        "DELETE FROM meters",
        "DELETE FROM decisions",
    ],
)
def test_no_statement_can_store_what_must_never_be(books: DB, statement: str) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        books.execute(statement)
    books.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE meters SET used_units = 5625",
        "UPDATE meters SET limit_units = NULL, used_units = 99999",
        "UPDATE grants SET state = 'settled', used_s = 375, ended_ms = 1",
        "UPDATE grants SET state = 'talking', answered_ms = 1",
    ],
)
def test_what_may_be_is_stored(books: DB, statement: str) -> None:
    assert books.execute(statement).rowcount == 1
    books.close()


PLANS = {
    "SELECT * FROM decisions ORDER BY at_ms DESC, call_id DESC LIMIT 9": "decisions_by_time",
    "SELECT * FROM decisions WHERE account_id = 'a' ORDER BY at_ms DESC, call_id DESC LIMIT 9": "decisions_of_account",
    "SELECT * FROM grants WHERE state <> 'settled' ORDER BY authorised_ms, call_id": "grants_live",
    "SELECT * FROM lines WHERE account_id = 'a' ORDER BY id": "lines_of_account",
}


@pytest.mark.parametrize(("query", "index"), PLANS.items(), ids=PLANS.values())
def test_indexes_serve_the_listings(books: DB, query: str, index: str) -> None:
    plan = " ".join(row[3] for row in books.execute(f"EXPLAIN QUERY PLAN {query}"))
    books.close()
    assert index in plan
    assert "TEMP B-TREE" not in plan


async def test_no_step_of_a_call_or_listing_scans_or_sorts_a_table(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    connect = writer_module._connect

    def traced(path: Path, pragmas: tuple[str, ...]) -> DB:
        connection = connect(path, pragmas)
        connection.set_trace_callback(seen.add)
        return connection

    monkeypatch.setattr(writer_module, "_connect", traced)
    ledger = await SqliteLedger.open(path)
    await provision(ledger)
    seen.clear()
    await authorise(ledger, outbound())
    await ledger.answered("call-1", "leg", NOON_MS)
    await ledger.settle("call-1", 5, NOON_MS)
    await ledger.live_grants()
    await ledger.decisions()
    await ledger.decisions("acme")
    await ledger.lines("acme")
    await ledger.sheet("acme")
    await ledger.close()
    raw = sqlite3.connect(path)
    statements = [text for text in seen if text.split()[0] in {"SELECT", "UPDATE", "INSERT"}]
    assert len(statements) > 12
    for statement in statements:
        for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}"):
            in_order = "USING INDEX" in row[3]  # walking an index up to the limit
            assert not row[3].startswith("SCAN") or in_order, (statement, row[3])
    raw.close()


def test_a_step_that_reads_after_it_wrote_is_found(books: DB) -> None:
    once = "UPDATE meters SET calls = 1"
    look = "SELECT calls FROM meters"
    watched(lambda db: [*db.execute(look), db.execute(once)])(books)
    with pytest.raises(AssertionError, match="is read after"):
        watched(lambda db: [db.execute(once), db.execute(look)])(books)
    with pytest.raises(AssertionError, match="rowcount"):
        watched(lambda db: db.execute(once).rowcount)(books)
    with pytest.raises(AssertionError, match="RETURNING"):
        watched(lambda db: db.execute(f"{once} RETURNING calls"))(books)
    books.close()


# --- the writer ----------------------------------------------------------------------------------


async def test_steps_that_wait_are_committed_together(writer: Writer, path: Path) -> None:
    commits: list[str] = []
    await writer.do(
        lambda db: db.set_trace_callback(lambda text: commits.append(text) if text == "COMMIT" else None)
    )
    commits.clear()
    blocker = Blocker()
    held = asyncio.create_task(writer.do(blocker))
    await blocker.wait_begun()
    waiting = [asyncio.create_task(writer.do(note(f"{number:02}"))) for number in range(20)]
    await asyncio.sleep(0)
    blocker.let_go()
    await asyncio.gather(held, *waiting)
    assert len(commits) == 2  # the blocker's, and one for all twenty
    assert len(await notes(writer)) == 20


async def test_a_step_is_confirmed_only_after_its_commit(writer: Writer, path: Path) -> None:
    await writer.do(note("kept"))
    raw = sqlite3.connect(path)
    assert raw.execute("SELECT text FROM notes").fetchall() == [("kept",)]
    raw.close()


async def test_a_step_that_fails_spoils_no_other(writer: Writer) -> None:
    def half(db: DB) -> None:
        db.execute("INSERT INTO notes VALUES ('half')")
        raise NotFound("half way")

    results = await asyncio.gather(
        writer.do(note("one")),
        writer.do(half),
        writer.do(note("two")),
        writer.do(note("one")),
        writer.do(lambda db: db.execute("SELECT * FROM missing") and None),
        writer.do(note("three")),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [
        str,
        NotFound,
        str,
        ConstraintViolated,
        sqlite3.OperationalError,
        str,
    ]
    assert await notes(writer) == ["one", "three", "two"]


async def test_a_step_that_is_cancelled_while_it_waits_is_not_run(writer: Writer) -> None:
    blocker = Blocker()
    held = asyncio.create_task(writer.do(blocker))
    await blocker.wait_begun()
    waiting = asyncio.create_task(writer.do(note("cancelled")))
    await asyncio.sleep(0)
    waiting.cancel()
    blocker.let_go()
    await held
    await writer.do(note("next"))
    assert await notes(writer) == ["next"]
    assert waiting.cancelled()


async def test_a_step_that_is_cancelled_while_it_runs_is_kept_whole(writer: Writer) -> None:
    blocker = Blocker()

    def step(db: DB) -> None:
        db.execute("INSERT INTO notes VALUES ('kept')")
        blocker(db)

    running = asyncio.create_task(writer.do(step))
    await blocker.wait_begun()
    running.cancel()
    blocker.let_go()
    await asyncio.gather(running, return_exceptions=True)
    await writer.do(note("next"))
    assert await notes(writer) == ["kept", "next"]
    assert running.cancelled()


async def test_more_steps_than_may_wait_are_refused(writer: Writer) -> None:
    blocker = Blocker()
    held = asyncio.create_task(writer.do(blocker))
    await blocker.wait_begun()
    waiting = [asyncio.create_task(writer.do(note(f"{number:02}"))) for number in range(50)]
    await asyncio.sleep(0)
    with pytest.raises(LedgerBusy, match="50 steps wait already"):
        await writer.do(note("too many"))
    assert (writer.traffic.steps.of("failed"), writer.traffic.steps_waiting) == (1, 51)
    blocker.let_go()
    await asyncio.gather(held, *waiting)
    assert len(await notes(writer)) == 50
    assert await writer.do(note("after")) == "after"


async def test_a_step_that_is_not_done_in_time_is_told(open_writer: Opener) -> None:
    writer = await open_writer(within_s=0.05)
    blocker = Blocker()
    with pytest.raises(LedgerSlow, match="not written within"):
        await writer.do(blocker)
    blocker.let_go()
    assert await writer.do(lambda _db: "on again") == "on again"


async def test_reading_does_not_wait_for_the_writer(writer: Writer) -> None:
    await writer.do(note("kept"))
    blocker = Blocker()
    held = asyncio.create_task(writer.do(blocker))
    await blocker.wait_begun()
    async with asyncio.timeout(10):
        assert await notes(writer) == ["kept"]
    blocker.let_go()
    await held


async def test_the_writer_does_not_wait_for_reading(writer: Writer) -> None:
    blocker = Blocker()
    reading = asyncio.create_task(writer.read(blocker))
    await blocker.wait_begun()
    async with asyncio.timeout(10):
        await writer.do(note("meanwhile"))
    blocker.let_go()
    await reading
    assert await notes(writer) == ["meanwhile"]


async def test_a_reader_cannot_write_and_reads_on(writer: Writer) -> None:
    with pytest.raises(LedgerUnavailable, match="readonly"):
        await writer.read(note("by a reader"))
    assert await notes(writer) == []


async def test_more_readings_than_may_wait_are_refused(open_writer: Opener) -> None:
    writer = await open_writer(reading_max=1)
    blocker = Blocker()
    reading = asyncio.create_task(writer.read(blocker))
    await blocker.wait_begun()
    with pytest.raises(LedgerBusy, match="1 readings wait already"):
        await writer.read(lambda _db: None)
    assert (writer.traffic.reads.of("failed"), writer.traffic.reads_waiting) == (1, 1)
    blocker.let_go()
    await reading
    assert await writer.read(lambda _db: 5) == 5


async def test_closing_commits_what_waits_and_leaves_no_thread(path: Path, open_writer: Opener) -> None:
    threads = set(threading.enumerate())
    writer = await open_writer()
    await writer.do(lambda db: db.execute("CREATE TABLE notes (text TEXT)") and None)
    waiting = [asyncio.create_task(writer.do(note(str(number)))) for number in range(500)]
    await asyncio.sleep(0)
    await writer.close()
    assert len(await asyncio.gather(*waiting)) == 500
    with pytest.raises(LedgerUnavailable, match="closed"):
        await writer.do(note("late"))
    with pytest.raises(LedgerUnavailable, match="closed"):
        await writer.read(lambda _db: None)
    for thread in set(threading.enumerate()) - threads:
        if not thread.name.startswith("asyncio"):
            thread.join(5)
            assert not thread.is_alive()
    raw = sqlite3.connect(path)
    assert raw.execute("SELECT count(*) FROM notes").fetchone() == (500,)
    raw.close()
    assert not path.with_name(path.name + "-wal").exists()


async def test_closing_that_is_cancelled_is_carried_through(open_writer: Opener) -> None:
    writer = await open_writer()
    blocker = Blocker()
    held = asyncio.create_task(writer.do(blocker))
    await blocker.wait_begun()
    closing = asyncio.create_task(writer.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    blocker.let_go()
    await held
    await writer.close()
    await open_writer()


# --- the file in trouble -------------------------------------------------------------------------


async def test_a_second_writer_is_kept_out_and_let_in_after_the_first(
    writer: Writer, open_writer: Opener
) -> None:
    with pytest.raises(
        LedgerUnavailable, match=r"ledger\.sqlite: another FairDial writes this ledger; stop it"
    ):
        await open_writer()
    assert await writer.do(note("the first goes on")) == "the first goes on"
    await writer.close()
    await open_writer()


OTHER_PROCESS = """
import asyncio, sys
from pathlib import Path
from fairdial.ledger.contract import LedgerUnavailable
from fairdial.ledger.writer import Writer, migrate

async def main():
    writer = Writer(Path(sys.argv[1]))
    try:
        await writer.open()
    except LedgerUnavailable as error:
        return str(error)
    await writer.close()
    return "opened"

print(asyncio.run(main()))
"""


async def test_another_process_is_kept_out(writer: Writer, path: Path) -> None:
    async def other() -> str:
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", OTHER_PROCESS, str(path)],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout.strip()

    assert "another FairDial writes this ledger" in await other()
    await writer.close()
    assert await other() == "opened"


async def test_a_file_of_a_newer_version_is_left_alone(
    writer: Writer, path: Path, open_writer: Opener
) -> None:
    await writer.do(lambda db: db.execute("INSERT INTO schema_version VALUES (9999, 'future', '')") and None)
    await writer.close()
    with pytest.raises(
        LedgerUnavailable, match=r"ledger\.sqlite: .*schema version 9999 was written by a newer FairDial"
    ):
        await open_writer()
    raw = sqlite3.connect(path)
    raw.execute("DELETE FROM schema_version WHERE version = 9999")
    raw.commit()
    raw.close()
    await open_writer()


@pytest.mark.parametrize(
    "content", [b"not a database, and long enough to be looked at" * 99, b"SQLite format 3\0" * 512]
)
async def test_what_is_no_ledger_is_told_and_left_alone(
    path: Path, open_writer: Opener, content: bytes
) -> None:
    threads = set(threading.enumerate())
    path.write_bytes(content)
    with pytest.raises(LedgerUnavailable, match=r"ledger\.sqlite: cannot be opened as a ledger: "):
        await open_writer()
    assert path.read_bytes() == content
    assert not [
        one for one in threading.enumerate() if one not in threads and not one.name.startswith("asyncio")
    ]


async def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, open_writer: Opener) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LedgerUnavailable, match="put the ledger into a folder that FairDial can write"):
        await open_writer(tmp_path / "file" / "ledger.sqlite")


async def test_a_damaged_page_makes_the_ledger_unavailable(path: Path) -> None:
    ledger = await SqliteLedger.open(path)
    for number in range(200):
        await provision(ledger, f"account-{number}", f"line-{number}")
    await ledger.close()
    content = bytearray(path.read_bytes())
    raw = sqlite3.connect(path)
    (root,) = raw.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'accounts'").fetchone()
    raw.close()
    content[(root - 1) * 4096 : root * 4096] = b"\xff" * 4096
    path.write_bytes(content)
    damaged = await SqliteLedger.open(path)
    with pytest.raises(LedgerUnavailable, match="malformed"):
        await damaged.add_line(Line("line-x", "account-5"))
    with pytest.raises(LedgerUnavailable, match="malformed"):
        await damaged.accounts()
    assert await damaged.live_grants() == ()
    await damaged.close()


async def test_a_full_disk_fails_the_step_and_the_writer_goes_on(writer: Writer) -> None:
    def limit(pages: int) -> Callable[[DB], None]:
        return lambda db: db.execute(f"PRAGMA max_page_count={pages}").fetchone() and None

    await writer.do(limit(1))  # as small as it is now
    with pytest.raises(LedgerUnavailable, match="full"):
        await writer.do(note("x" * 100_000))
    assert await notes(writer) == []
    await writer.do(limit(1_000_000))
    assert await writer.do(note("room again")) == "room again"


async def test_a_file_that_cannot_be_written_fails_the_step_and_the_writer_goes_on(writer: Writer) -> None:
    def step(db: DB) -> None:
        db.execute("INSERT INTO notes VALUES ('before')")
        db.execute("PRAGMA query_only=ON")
        try:
            db.execute("INSERT INTO notes VALUES ('x')")
        finally:
            db.execute("PRAGMA query_only=OFF")

    with pytest.raises(LedgerUnavailable, match="readonly"):
        await writer.do(step)
    assert await writer.do(note("y")) == "y"
    assert await notes(writer) == ["y"]


async def test_a_file_that_is_locked_from_outside_fails_the_step_and_the_writer_goes_on(
    writer: Writer, path: Path
) -> None:
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerUnavailable, match="locked"):
        await writer.do(note("x"))
    raw.execute("ROLLBACK")
    raw.close()
    assert await writer.do(note("y")) == "y"
    assert await notes(writer) == ["y"]


class Planned:
    """A connection that notes how each statement is carried out."""

    def __init__(self) -> None:
        self._db = sqlite3.connect(":memory:", isolation_level=None)
        self._db.row_factory = sqlite3.Row
        migrate(self._db)
        self.steps: list[str] = []

    def execute(self, sql: str, given: tuple[object, ...] = ()) -> sqlite3.Cursor:
        self.steps += [row["detail"] for row in self._db.execute(f"EXPLAIN QUERY PLAN {sql}", given)]
        return self._db.execute(sql, given)


@pytest.mark.parametrize(
    "sought",
    [
        reading.Sought(number="+442079460100"),
        reading.Sought("acme", number="+442079460100", refused=True),
        reading.Sought(line_id="alice"),
        reading.Sought("acme", "alice", "+442079460100"),
        reading.Sought(call="call-1"),
        reading.Sought("acme", call="call-1"),
    ],
)
def test_what_is_looked_for_among_decisions_is_found_along_an_index(sought: reading.Sought) -> None:
    db = Planned()
    reading.latest_decisions(cast(sqlite3.Connection, db), sought, 100)
    assert not [step for step in db.steps if step.startswith("SCAN")]
    # Only of one call all are sorted, as they are few.
    assert any("ORDER BY" in step for step in db.steps) is (sought.call is not None)
    if sought.call is not None:
        assert not any("decisions_of_account" in step for step in db.steps)


def test_accounts_are_found_by_how_they_begin_along_an_index() -> None:
    db = Planned()
    reading.accounts_by_id(cast(sqlite3.Connection, db), "", 10, "ac")
    assert db.steps == ["SEARCH accounts USING PRIMARY KEY (id>? AND id<?)"]


OTHER = 65_534
"""A user who is not root; where the tests are not run by root, all files are the tester's own."""


@pytest.mark.parametrize("owner", [0, OTHER] if os.geteuid() == 0 else [os.geteuid()])
async def test_new_files_belong_to_who_owns_the_folder(
    open_writer: Opener, tmp_path: Path, owner: int
) -> None:
    """The service's, where root gives a command before its first start."""
    folder = tmp_path / "folder"
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, owner, owner)
    await open_writer(folder / "ledger.sqlite")
    made = {file.name: (file.stat().st_uid, file.stat().st_mode & 0o077) for file in folder.iterdir()}
    assert {"ledger.sqlite", "ledger.sqlite.lock", "ledger.sqlite-wal"} <= made.keys()
    assert set(made.values()) == {(owner, 0)}


async def test_a_link_in_the_folder_gives_no_file_away(open_writer: Opener, tmp_path: Path) -> None:
    """Whoever owns the folder may lay one there; what it leads to stays whose it was."""
    folder, target = tmp_path / "folder", tmp_path / "target"
    folder.mkdir()
    target.touch(0o600)
    if os.geteuid() == 0:
        os.chown(folder, OTHER, OTHER)
    (folder / "ledger.sqlite.lock").symlink_to(target)
    await open_writer(folder / "ledger.sqlite")
    assert (target.stat().st_uid, target.stat().st_size) == (os.geteuid(), 0)
