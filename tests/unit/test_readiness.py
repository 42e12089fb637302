"""Whether FairDial is ready, told to operators and over HTTP: part by part, with the cure, in time."""

import asyncio
import contextlib
import json
import signal
import socket
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from typer.testing import CliRunner, Result

from fairdial.clock import SystemClock
from fairdial.console import health as health_module
from fairdial.console.access import Gate
from fairdial.console.api import HttpServer, create_app
from fairdial.console.cli import app
from fairdial.console.control import ControlServer
from fairdial.console.health import (
    Readiness,
    examine_ami,
    examine_ari,
    examine_policies,
    examine_store,
)
from fairdial.console.operations import Operations
from fairdial.desk import Desk, DeskRules
from fairdial.doctor import Finding
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.main import Parts
from fairdial.policy.book import PolicyBook
from tests.samples import plan, provision
from tests.unit.test_cli import Run
from tests.unit.test_cli import run as run
from tests.unit.test_desk import NUMBERING

WELL = Finding("store", True, "ledger.sqlite: can be written")
FULL = Finding("store", False, "ledger.sqlite: database or disk is full", "make room on its disk")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
async def desk(path: Path) -> AsyncIterator[Desk]:
    ledger = await SqliteLedger.open(path)
    await provision(ledger)
    desk = Desk(ledger, PolicyBook([plan()]), NUMBERING, SystemClock(), DeskRules())
    yield desk
    await desk.close()
    await ledger.close()


class Examined:
    """Parts as the test sets them, and how often they were looked at."""

    def __init__(self, *findings: Finding) -> None:
        self.findings: Sequence[Finding] = findings
        self.times = 0

    async def __call__(self) -> Sequence[Finding]:
        self.times += 1
        await asyncio.sleep(0)
        return self.findings


# --- the parts -----------------------------------------------------------------------------------


async def test_a_store_that_can_be_written_is_well_and_a_locked_one_is_told_with_its_cure(
    desk: Desk, path: Path
) -> None:
    assert await examine_store(desk, path) == Finding("store", True, f"{path}: can be written")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        found = await examine_store(desk, path)
        assert (found.well, found.text) == (False, f"{path}: database is locked")
        assert found.cure.startswith("another program holds it")
    assert (await examine_store(desk, path)).well


async def test_a_store_that_does_not_answer_is_told_in_time(
    desk: Desk, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = asyncio.Event()

    async def stuck() -> None:
        await never.wait()

    monkeypatch.setattr(health_module, "STORE_WITHIN_S", 0.05)
    monkeypatch.setattr(desk.ledger, "probe", stuck)
    found = await examine_store(desk, path)
    assert (found.well, found.text) == (False, f"{path}: not written within 0.05 s")
    assert found.cure


async def test_what_waits_to_be_written_is_told(desk: Desk, path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await desk.note_end("call-1", 5, SystemClock().now())
        found = await examine_store(desk, path)
        assert found.text.endswith("database is locked; 1 steps of calls wait in memory to be written")


@pytest.mark.parametrize(
    ("found", "well", "told"),
    [
        (
            examine_ari("http://a/ari", "fairdial", connected=True, fenced=False),
            True,
            "http://a/ari: connected",
        ),
        (examine_ari("http://a/ari", "fairdial", connected=False, fenced=False), False, "not connected"),
        (examine_ari("http://a/ari", "fairdial", connected=True, fenced=True), False, "another FairDial"),
        (examine_ami("127.0.0.1:5038", connected=True), True, "127.0.0.1:5038: connected"),
        (examine_ami("127.0.0.1:5038", connected=False), False, "127.0.0.1:5038: not connected"),
    ],
)
def test_a_link_is_well_or_told_with_its_cure(found: Finding, well: bool, told: str) -> None:
    assert found.well == well
    assert told in found.text
    assert bool(found.cure) != well


async def test_policies_are_named_or_missed(desk: Desk) -> None:
    assert examine_policies(desk) == Finding("policies", True, "in force: plan")
    desk.policies = PolicyBook()
    assert not examine_policies(desk).well


# --- together ------------------------------------------------------------------------------------


async def test_ready_is_who_has_no_part_that_is_unwell() -> None:
    link = examine_ami("127.0.0.1:5038", connected=True)
    assert (await Readiness(Examined(WELL, link))())["ready"] is True
    told = await Readiness(Examined(FULL, link))()
    assert told["ready"] is False
    assert told["parts"][0] == {
        "part": "store",
        "well": False,
        "text": "ledger.sqlite: database or disk is full",
        "cure": "make room on its disk",
    }


async def test_many_who_ask_at_once_cost_one_look_and_later_ones_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    examined = Examined(WELL)
    readiness = Readiness(examined)
    await asyncio.gather(*(readiness() for _ in range(50)))
    assert examined.times == 1
    examined.findings = (FULL,)
    monkeypatch.setattr(health_module, "FRESH_S", 0.0)
    readiness = Readiness(examined)
    await readiness()
    assert (await readiness())["ready"] is False
    assert examined.times == 3


# --- over HTTP -----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def served(desk: Desk, operations: Operations) -> AsyncIterator[HttpServer]:
    server = HttpServer(create_app(operations, Gate(desk.ledger, SystemClock())), "127.0.0.1", 0)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def get(server: HttpServer, path: str) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{server.port}{path}") as answer,
    ):
        return answer.status, await answer.json()


async def test_healthz_says_that_the_process_lives_whatever_else_is_wrong(desk: Desk) -> None:
    async with served(desk, Operations(desk, ready=Readiness(Examined(FULL)))) as server:
        assert await get(server, "/healthz") == (200, {"status": "alive"})


@pytest.mark.parametrize(("finding", "status"), [(WELL, 200), (FULL, 503)])
async def test_readyz_is_200_or_503_with_the_parts(desk: Desk, finding: Finding, status: int) -> None:
    async with served(desk, Operations(desk, ready=Readiness(Examined(finding)))) as server:
        code, told = await get(server, "/readyz")
        assert (code, told["ready"], told["parts"][0]["text"]) == (status, status == 200, finding.text)
        assert told["parts"][0]["cure"] == finding.cure


async def test_what_is_not_there_is_404(desk: Desk) -> None:
    async with served(desk, Operations(desk)) as server:
        assert (await get(server, "/nothing"))[0] == 404
        assert (await get(server, "/openapi.json"))[0] == 200


async def test_the_web_server_leaves_signals_alone_and_no_task_or_socket_behind(desk: Desk) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with served(desk, Operations(desk)) as server:
        await get(server, "/healthz")
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "http"]
    with pytest.raises(aiohttp.ClientConnectionError):
        await get(server, "/healthz")


async def test_stopping_waits_for_no_answer_and_no_peer_for_long(desk: Desk) -> None:
    asked = asyncio.Event()

    async def never() -> dict[str, Any]:
        asked.set()
        await asyncio.Event().wait()
        return {}

    server = HttpServer(
        create_app(Operations(desk, ready=never), Gate(desk.ledger, SystemClock())), "127.0.0.1", 0
    )
    await server.start()
    waiting = asyncio.create_task(get(server, "/readyz"))
    await asked.wait()
    _, idle = await asyncio.open_connection("127.0.0.1", server.port)
    # Twice half a second, and what a busy machine adds.
    async with asyncio.timeout(3.0):
        await server.stop()
    with pytest.raises((aiohttp.ClientError, AssertionError)):
        await waiting
    idle.close()
    with contextlib.suppress(OSError):
        await idle.wait_closed()


async def test_a_port_that_is_taken_is_told_with_its_settings(desk: Desk) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = HttpServer(create_app(Operations(desk), Gate(desk.ledger, SystemClock())), "127.0.0.1", port)
        with pytest.raises(
            OSError, match=rf"127\.0\.0\.1 port {port}: Address already in use; set http\.host"
        ):
            await server.start()
        await server.stop()


# --- on the command line -------------------------------------------------------------------------


class Running:
    """A control socket in a thread of its own, as a FairDial beside the command has it."""

    def __init__(self, path: Path, ready: Callable[[], Awaitable[dict[str, Any]]], desk: Any) -> None:
        self._path, self._ready, self._desk = path, ready, desk
        self._listening = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._stop: Callable[[], object] = lambda: None

    async def _serve(self) -> None:
        stopping, loop = asyncio.Event(), asyncio.get_running_loop()
        self._stop = lambda: loop.call_soon_threadsafe(stopping.set)
        server = ControlServer(self._path, Operations(self._desk, ready=self._ready))
        await server.start()
        self._listening.set()
        await stopping.wait()
        await server.stop()

    def __enter__(self) -> None:
        self._thread.start()
        assert self._listening.wait(10)

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._thread.join(10)


@pytest.mark.parametrize(("finding", "status"), [(WELL, 0), (FULL, 1)])
async def test_ready_ends_with_0_or_1_and_names_what_is_wrong(
    run: Run, tmp_path: Path, desk: Desk, finding: Finding, status: int
) -> None:
    with Running(tmp_path / "control.sock", Readiness(Examined(finding)), desk):
        result = await asyncio.to_thread(run, "ready", "--json")
        shown = await asyncio.to_thread(run, "ready")
    assert result.exit_code == shown.exit_code == status
    assert json.loads(result.stdout)["ready"] is finding.well
    assert finding.text in shown.stdout
    assert finding.cure in shown.stdout


def test_ready_without_a_server_is_1_and_touches_no_ledger(run: Run, tmp_path: Path) -> None:
    result = run("ready", "--json")
    assert result.exit_code == 1
    [part] = json.loads(result.stdout)["parts"]
    assert (part["part"], part["well"]) == ("server", False)
    assert "no FairDial listens there" in part["text"]
    assert "fairdial serve" in part["cure"]
    assert not (tmp_path / "ledger.sqlite").exists()


def test_backup_and_restore_on_the_command_line(run: Run, tmp_path: Path) -> None:
    def accounts() -> list[str]:
        return [row["account"] for row in json.loads(run("account", "list", "--json").stdout)]

    copy, ledger = tmp_path / "monday.sqlite", tmp_path / "ledger.sqlite"
    assert run("account", "add", "acme", "--policy", "kryptotel").exit_code == 0
    made = json.loads(run("backup", str(copy), "--json").stdout)
    assert (made["file"], made["live_grants"]) == (str(copy), 0)
    assert run("account", "add", "later", "--policy", "kryptotel").exit_code == 0
    again = run("backup", str(copy))
    assert (again.exit_code, "this file exists; name another" in again.stderr) == (2, True)
    restored = json.loads(run("restore", str(copy), "--json").stdout)
    assert restored["ledger"] == str(ledger)
    assert Path(restored["replaced"]).is_file()
    assert accounts() == ["acme"]
    refused = run("restore", str(tmp_path / "nothing.sqlite"))
    assert (refused.exit_code, "there is no such file" in refused.stderr) == (2, True)
    assert accounts() == ["acme"]


def test_doctor_finds_a_damaged_ledger_and_says_how_to_mend_it(run: Run, tmp_path: Path) -> None:
    def store() -> dict[str, Any]:
        findings = json.loads(run("doctor", "--json").stdout)
        return next(dict(finding) for finding in findings if finding["part"] == "store")

    config = tmp_path / "fairdial.toml"
    config.write_text(config.read_text() + 'ari.url = "http://127.0.0.1:1/ari"\nami.port = 1\n')
    for number in range(30):
        run("account", "add", f"account-{number}", "--policy", "kryptotel")
    assert store()["well"]
    ledger = tmp_path / "ledger.sqlite"
    with contextlib.closing(sqlite3.connect(ledger)) as raw:
        (root,) = raw.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'meters'").fetchone()
    with ledger.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)
    found = store()
    assert not found["well"]
    assert f"{ledger}: the file is damaged" in found["text"]
    assert "fairdial restore FILE" in found["cure"]


def test_parts_are_those_of_the_composition_root() -> None:
    result: Result = CliRunner().invoke(app, ["--help"], obj=Parts())
    assert result.exit_code == 0
    for command in ("ready", "backup", "restore"):
        assert command in result.stdout
