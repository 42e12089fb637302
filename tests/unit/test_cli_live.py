"""The commands that look on, on a terminal of their own: what they draw, and how they end."""

import asyncio
import io
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fairdial.console.cli_live import DECISIONS_MAX, NOT_HERE, STOPPED, Board
from fairdial.console.control import ControlServer
from fairdial.console.events import Reporter
from fairdial.console.operations import CallRow, Operations
from fairdial.desk import Asked, Desk
from fairdial.news import News
from fairdial.policy.account import Kind
from tests.terminal import MAIN_SCREEN, PROJECT, WITHIN_S, Terminal, on_terminal
from tests.unit.test_readiness import desk as desk
from tests.unit.test_readiness import path as path

LONDON = "02079460100"


def row(number: int, left_s: int | None = 57) -> CallRow:
    return CallRow(f"call-{number}", "alice", "outbound", LONDON, "talking", 60, 63, left_s)


@dataclass
class Running:
    """A FairDial with a control socket, and its configuration."""

    config: Path
    desk: Desk
    news: News
    calls: list[CallRow]
    status: dict[str, Any]
    server: ControlServer

    async def looked_on(self) -> None:
        """Return when the command waits for what happens: one that is just being let in as the loop goes on without
        its process would wait for a server that is gone.
        """
        async with asyncio.timeout(WITHIN_S):
            while not self.news.waiting:
                await asyncio.sleep(0.01)

    def terminal(self, *arguments: str) -> AbstractAsyncContextManager[Terminal]:
        """Run a command on a terminal."""
        return on_terminal(self.config, *arguments)


@pytest.fixture
async def running(desk: Desk, tmp_path: Path) -> AsyncIterator[Running]:
    config = tmp_path / "fairdial.toml"
    config.write_text('policies = "policies"\ncontrol = "control.sock"\nstore.path = "other.sqlite"\n')
    news = News(desk.now_ms)
    desk.onlookers.append(Reporter(news))
    calls = [row(1)]

    status: dict[str, Any] = {"ari": True, "ami": True, "unwritten": 0}
    status["notices_pause"] = {"email": "no route"}
    operations = Operations(
        desk,
        calls=lambda: calls,
        news=news,
        status=lambda: status,
    )
    server = ControlServer(tmp_path / "control.sock", operations)
    await server.start()
    yield Running(config, desk, news, calls, status, server)
    await server.stop()


def asked(call_id: str, line: str = "alice") -> Asked:
    return Asked(call_id, Kind.OUTBOUND, LONDON, line, f"channel-{call_id}", 30)


# --- on a terminal -------------------------------------------------------------------------------------


async def test_top_shows_calls_decisions_and_parts_and_ends_by_ctrl_c(running: Running) -> None:
    async with running.terminal("top") as terminal:
        await terminal.shows("0:57")
        assert "store ok  ari ok  ami ok" in terminal.written
        assert "notices by email pause: no route" in terminal.written
        assert "FAULT" not in terminal.written
        assert "line_unknown" not in terminal.written
        await running.desk.authorise(asked("call-7", "mallory"))
        await terminal.shows("line_unknown 1")
        await terminal.shows("mallory")
        running.calls.clear()
        running.status |= {"ami": False, "unwritten": 3}
        at = await terminal.shows("3 steps of calls wait")
        assert "ami " in terminal.written[:at]
        assert terminal.written.count("FAULT") >= 2
        await terminal.shows("calls 0", after=at)
        os.write(terminal.leader, b"\x03")
        # Ctrl-C of the terminal goes to its foreground group, which this test's session does not have.
        terminal.process.send_signal(signal.SIGINT)
        assert await terminal.ended() == 0
        await terminal.shows(MAIN_SCREEN)
        assert "Traceback" not in terminal.written


async def test_a_watched_list_of_calls_is_drawn_again_and_ends_by_sigterm(running: Running) -> None:
    async with running.terminal("calls", "--watch") as terminal:
        at = await terminal.shows("call-1")
        assert "reason" not in terminal.written
        running.calls[:] = [row(2)]
        await terminal.shows("call-2", after=at)
        terminal.process.send_signal(signal.SIGTERM)
        assert await terminal.ended() == 0
        await terminal.shows(MAIN_SCREEN)


@pytest.mark.parametrize("command", [("top",), ("calls", "--watch"), ("calls", "--watch", "--json")])
async def test_where_fairdial_stops_they_say_so_and_end(running: Running, command: tuple[str, ...]) -> None:
    async with running.terminal(*command) as terminal:
        await terminal.shows("call-1")
        await running.looked_on()
        running.news.close()
        await running.server.stop()
        assert await terminal.ended() == 2
        await terminal.shows(STOPPED)
        assert "Traceback" not in terminal.written


async def test_a_fairdial_that_dies_is_told_too(running: Running) -> None:
    async with running.terminal("top") as terminal:
        await terminal.shows("call-1")
        await running.looked_on()
        await running.server.stop()  # without a word to who listens
        assert await terminal.ended() == 2
        await terminal.shows(STOPPED)


@pytest.mark.parametrize("command", [("top",), ("calls", "--watch")])
async def test_where_none_runs_they_say_so(running: Running, command: tuple[str, ...]) -> None:
    await running.server.stop()
    async with running.terminal(*command) as terminal:
        assert await terminal.ended() == 2
        await terminal.shows(NOT_HERE)
        assert MAIN_SCREEN not in terminal.written


async def test_events_of_calls_come_as_lines_of_json(running: Running) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fairdial.main", "--config", str(running.config)),
        *("calls", "--watch", "--json"),
        cwd=PROJECT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(WITHIN_S):
            first = json.loads(await process.stdout.readline())
            assert (first["event"], first["call"], first["left_s"]) == ("call", "call-1", 57)
            running.news.tell("standing", "acme")  # which is of no call
            running.news.tell("call_gone", "acme", call="call-1")
            gone = json.loads(await process.stdout.readline())
            assert (gone["event"], gone["call"], gone["id"]) == ("call_gone", "call-1", running.news.last)
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("command", [("top",), ("calls", "--watch")])
async def test_off_a_terminal_nothing_is_drawn(running: Running, command: tuple[str, ...]) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fairdial.main", "--config", str(running.config), *command),
        cwd=PROJECT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        output, error = await process.communicate()
    assert (process.returncode, output) == (2, b"")
    assert b"--json" in error


# --- what is drawn ---------------------------------------------------------------------------------------


def drawn(board: Board, calls: int, columns: int = 80, lines: int = 24) -> list[str]:
    """The lines of a screen, without colours."""
    rows = [asdict(row(n, n)) for n in range(calls)]
    console = Console(file=io.StringIO(), width=columns, height=lines, force_terminal=False)
    with console.capture() as capture:
        console.print(board.drawn(rows, columns, lines))
    return [line.rstrip() for line in capture.get().splitlines()]


def decision(dialled: str = LONDON, line: str = "alice") -> dict[str, Any]:
    return {
        "event": "decision",
        "at_ms": 1_795_262_400_000,
        "line": line,
        "dialled": dialled,
        "decision": "refuse",
        "reason": "allowance_used_up",
        "clause": {"policy": "voxdirect", "version": "2026-11", "id": "V9"},
    }


def piece(*events: dict[str, Any]) -> dict[str, Any]:
    return {"events": list(events), "missed": False}


@pytest.mark.parametrize(("calls", "decisions"), [(0, 0), (3, 2), (500, 0), (0, 500), (500, 500)])
def test_a_screen_of_80_columns_and_24_lines_is_not_left(calls: int, decisions: int) -> None:
    board = Board()
    for _ in range(decisions):
        board.take(piece(decision("0" * 90, "l" * 60)))
    shown = drawn(board, calls)
    assert len(shown) <= 24
    assert max(map(len, shown)) <= 80
    assert len(board.decisions) == min(decisions, DECISIONS_MAX)
    text = "\n".join(shown)
    assert (f"calls {calls}" in text, "more calls" in text) == (True, calls == 500)
    assert ("V9" in text) == (decisions > 0)
    assert (f"refused {decisions}" in text, f"allowance_used_up {decisions}" in text) == (True, decisions > 0)


def test_calls_that_end_soonest_stand_first() -> None:
    text = "\n".join(drawn(Board(), 500))
    assert "call-0 " in text
    assert "call-499" not in text


def test_what_a_caller_dialled_does_not_steer_the_terminal() -> None:
    board = Board()
    board.take(piece(decision("\x1b[2J123")))
    text = "\n".join(drawn(board, 0))
    assert "\x1b" not in text
    assert "?[2J123" in text


def test_what_was_missed_is_told() -> None:
    board = Board()
    assert "missed" not in "\n".join(drawn(board, 0))
    board.take({"events": [], "missed": True})
    assert "some were missed" in "\n".join(drawn(board, 0))
