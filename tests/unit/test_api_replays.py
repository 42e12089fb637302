"""Replays over HTTP: `fairdial serve` without a switch, real requests, and a real process for each replay.

The outcome is what a client gets, and what is left on disk and of processes.
"""

import asyncio
import base64
import contextlib
import hashlib
import io
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fairdial.config import load
from fairdial.console import bodies as bodies_module
from fairdial.console import replays as replays_module
from fairdial.console.operations import Operations
from fairdial.console.replays import KEPT_MAX, Replays, ReplayUnknown, Runner
from fairdial.loading import open_desk
from fairdial.policy.book import PolicyBook
from testbed.ports import free_ports
from testbed.postgres import shared_cluster
from tests.api_examples import prepared
from tests.api_examples import served as api_of
from tests.samples import NOON_MS, plan

PROJECT = Path(__file__).parents[2]
RECORDS = (PROJECT / "tests" / "data" / "cdr" / "Master.csv").read_bytes()
CSV = {"Content-Type": "text/csv"}


ROW_BYTES = 223


def many(rows: int) -> bytes:
    """So many records of alice's, a minute each, one after the other."""
    day = (
        '"alice","100","02079460123","phones","100","PJSIP/alice-{n:08x}","PJSIP/carrier-{n:08x}","Dial","",'
    )
    at = '"2026-11-{d:02d} {h:02d}:{m:02d}:{s:02d}"'
    rest = ',65,60,"ANSWERED","DOCUMENTATION","1795262400.{n:06d}",""\n'
    lines = []
    for n in range(rows):
        when = {"d": 1 + n // 86_400 % 28, "h": n // 3_600 % 24, "m": n // 60 % 60, "s": n % 60}
        start = at.format(**when)
        lines.append(day.format(n=n) + ",".join((start, start, start)) + rest.format(n=n))
    return "".join(lines).encode()


@dataclass
class Served:
    """A running `fairdial serve` in a folder, and the token of an admin."""

    folder: Path
    process: asyncio.subprocess.Process
    port: int
    token: str
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/replays"

    @property
    def files(self) -> set[str]:
        """What there is of replays on disk."""
        kept = self.folder / "ledger.sqlite.replays"
        return {str(file.relative_to(kept)) for file in kept.rglob("*") if file.is_file()}

    async def ask(self, method: str, path: str = "", **how: Any) -> tuple[int, Any]:
        async with self.session.request(method, self.url + path, **how) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text[:1] in ("{", "[") else text

    async def send(self, data: Any, query: str = "?policy=kryptotel") -> tuple[int, Any]:
        return await self.ask("POST", query, data=data, headers=CSV)

    async def until(self, replay: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Ask until it is so."""
        async with asyncio.timeout(60):
            while True:
                status, told = await self.ask("GET", f"/{replay}")
                assert status == 200, told
                if wanted(told):
                    return dict(told)
                await asyncio.sleep(0.05)

    async def over(self, replay: str) -> dict[str, Any]:
        return await self.until(replay, lambda told: told["state"] != "running")

    async def child(self) -> int:
        """The process of the replay that runs."""
        pid = self.process.pid
        async with asyncio.timeout(10):
            while True:
                found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                if found:
                    [child] = found
                    return int(child)
                await asyncio.sleep(0.02)

    def memory_kb(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1])


def write_settings(folder: Path, more: str = "") -> int:
    """Settings of a server in that folder; its port of HTTP."""
    ports = free_ports(4)
    (folder / "policies").mkdir()
    for name in ("kryptotel", "redconnect"):
        (folder / "policies" / f"{name}.toml").write_text((PROJECT / "policies" / f"{name}.toml").read_text())
    (folder / "fairdial.toml").write_text(
        'policies = "policies"\ncontrol = "control.sock"\nstore.path = "ledger.sqlite"\n'
        f'ari.url = "http://127.0.0.1:{ports[0]}/ari"\nami.port = {ports[1]}\n'
        f"agi.port = {ports[2]}\nhttp.port = {ports[3]}\n{more}"
    )
    return ports[3]


@asynccontextmanager
async def serving(folder: Path, port: int, token: str) -> AsyncIterator[Served]:
    with (folder / "log").open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fairdial.main", "--config", str(folder / "fairdial.toml"), "serve"),
            stdout=output,
            stderr=output,
        )
    try:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:
            served = Served(folder, process, port, token, session)
            async with asyncio.timeout(30):
                while True:
                    with contextlib.suppress(aiohttp.ClientError):
                        await served.ask("GET")
                        break
                    await asyncio.sleep(0.05)
            yield served
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def customers(folder: Path, more: str = "") -> AsyncIterator[Served]:
    """With acme and its lines alice and bob, of whom the records tell."""
    port = write_settings(folder, more)
    entries = (
        '[[account]]\naccount = "acme"\npolicy = "kryptotel"\nzone = "Europe/London"\ncountries = ["GB"]\n'
        '[[line]]\nline = "alice"\naccount = "acme"\n[[line]]\nline = "bob"\naccount = "acme"\n'
    )
    async with open_desk(load(folder / "fairdial.toml", {})) as desk:
        operations = Operations(desk)
        await operations.call("import", {"text": entries, "where": "customers.toml"})
        token = (await operations.call("token_add", {"name": "ann", "role": "admin"}))["token"]
    async with serving(folder, port, token) as served:
        yield served


def gone(pid: int) -> bool:
    """Whether a process is over; one that nobody has waited for is."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(10):
        while not gone(pid):
            await asyncio.sleep(0.02)


async def test_a_replay_from_the_file_to_the_report(tmp_path: Path) -> None:
    async with customers(tmp_path, "http.replay_mb_max = 1\n") as served:
        status, begun = await served.send(RECORDS, "?policy=kryptotel&against=redconnect@2026-11")
        assert (status, begun["state"], begun["rows"], begun["by"]) == (202, "running", 8, "ann")
        replay = begun["replay"]
        assert (await served.ask("GET", f"/{replay}/result"))[0] == 409

        done = await served.over(replay)
        assert (done["state"], done["rows_done"], done["error"]) == ("done", 8, None)
        assert (done["policy"], done["against"]) == ("kryptotel", "redconnect@2026-11")
        assert (await served.ask("GET"))[1] == [done]

        # As the command prints it.
        _, result = await served.ask("GET", f"/{replay}/result")
        file = PROJECT / "tests" / "data" / "cdr" / "Master.csv"
        options = ("--policy", "kryptotel", "--against", "redconnect@2026-11", "--json")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fairdial.main", "--config", str(tmp_path / "fairdial.toml")),
            *("replay", str(file), *options),
            stdout=asyncio.subprocess.PIPE,
        )
        printed = json.loads((await process.communicate())[0])
        assert result == {**printed, "files": ["Master.csv"]}
        assert result["calls"] > 0

        async with served.session.get(f"{served.url}/{replay}/report") as answer:
            page, csp = await answer.text(), answer.headers["Content-Security-Policy"]
        assert "Replay of Master.csv" in page
        [style] = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert f"style-src 'sha256-{digest}';" in csp
        assert csp.startswith("sandbox; default-src 'none';")
        assert "script-src" not in csp
        assert not re.search(r"<script|\sstyle=|\son\w+=", page)

        # The records themselves are kept no longer than they are read.
        assert served.files == {f"{replay}/result.json", f"{replay}/report.html"}
        assert (await served.ask("DELETE", f"/{replay}"))[0] == 204
        assert (await served.ask("GET", f"/{replay}"))[0] == 404
        assert served.files == set()

        # What is refused leaves nothing, and is no replay.
        for data, query, headers, wanted, said in (
            (b"x" * 1_000_001, "?policy=kryptotel", CSV, 413, "1000000 bytes"),
            (RECORDS, "?policy=nobodys", CSV, 422, "kryptotel, redconnect"),
            (RECORDS, "?policy=kryptotel&against=redconnect@1", CSV, 422, "2026-11"),
            (RECORDS, "?policy=../../policies/kryptotel.toml", CSV, 422, "not loaded"),
            (b"{}", "?policy=kryptotel", {"Content-Type": "application/json"}, 415, "text/csv"),
            (b"", "?policy=kryptotel", CSV, 422, "empty"),
        ):
            status, told = await served.ask("POST", query, data=io.BytesIO(data), headers=headers)
            assert (status, said in told["detail"]) == (wanted, True), told
        assert (await served.ask("GET"))[1] == []
        assert served.files == set()

        # Not records: the process says so.
        _, begun = await served.send(b"\x00\x01nothing like it\n" * 3)
        failed = await served.over(begun["replay"])
        assert (failed["state"], "no row of it is a call record" in failed["error"]) == ("failed", True)
        assert failed["error"].startswith("Master.csv: ")
        status, told = await served.ask("GET", f"/{begun['replay']}/report")
        assert (status, "failed" in told["detail"]) == (409, True)
        assert served.files == set()

        # Broken off, the connection closed in the middle of it; then the place is free again.
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(
            f"POST /v1/replays?policy=kryptotel HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {served.token}\r\n"
            f"Content-Type: text/csv\r\nContent-Length: 500000\r\n\r\n".encode()
            + RECORDS * 200
        )
        await writer.drain()
        async with asyncio.timeout(10):
            while not served.files:
                await asyncio.sleep(0.02)
        status, told = await served.send(RECORDS)
        assert (status, "is coming in" in told["detail"]) == (409, True)
        writer.close()
        async with asyncio.timeout(10):
            while served.files:
                await asyncio.sleep(0.02)
        assert (await served.send(RECORDS))[0] == 202


async def test_a_replay_finds_the_customers_of_a_shared_ledger(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("asked for by nobody here\n")
    cluster = shared_cluster()
    with cluster.database() as name:
        url = f'switch = "east"\nstore.url = "{cluster.url(name)}"\nstore.password_file = "password"\n'
        async with customers(tmp_path, url) as served:
            replay = (await served.send(RECORDS))[1]["replay"]
            done = await served.over(replay)
            assert (done["state"], done["error"]) == ("done", None)
            _, result = await served.ask("GET", f"/{replay}/result")
            assert result["calls"] > 0
    assert not (tmp_path / "ledger.sqlite").exists()


@pytest.mark.timeout(300)
async def test_a_large_file_runs_beside_and_ends_when_it_is_to(tmp_path: Path) -> None:
    large = many(100_000)
    assert len(large) == 100_000 * ROW_BYTES > 20_000_000
    async with customers(tmp_path) as served:

        async def sent(rows: int = 20_000) -> str:
            status, begun = await served.send(io.BytesIO(large[: ROW_BYTES * rows]))
            assert (status, begun["rows"]) == (202, rows), begun
            return str(begun["replay"])

        await served.over((await served.send(RECORDS))[1]["replay"])
        before_kb = served.memory_kb()
        replay = await sent(100_000)
        assert served.memory_kb() - before_kb < 6_000

        # It is seen to go on, behind all else, and alone.
        child = await served.child()
        told = await served.until(replay, lambda told: 0 < told["rows_done"] < 100_000)
        assert told["state"] == "running"
        assert os.getpriority(os.PRIO_PROCESS, child) == 19
        assert Path(f"/proc/{child}/oom_score_adj").read_text().strip() == "1000"
        status, busy = await served.send(RECORDS)
        assert (status, f"replay {replay} is running" in busy["detail"]) == (409, True)

        # Cancelled, it is over at once and leaves nothing.
        assert (await served.ask("DELETE", f"/{replay}"))[0] == 204
        assert gone(child)
        assert (await served.until(replay, lambda told: True))["state"] == "cancelled"
        assert {name for name in served.files if name.startswith(replay)} == set()

        # Killed from outside, it failed, and says so.
        replay = await sent()
        os.kill(await served.child(), signal.SIGKILL)
        failed = await served.over(replay)
        assert (failed["state"], "killed by signal 9" in failed["error"]) == ("failed", True)

        # FairDial stops: in time, and nothing is left.
        await sent()
        child = await served.child()
        served.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(4):
            assert await served.process.wait() == 0
        assert gone(child)
        assert not (tmp_path / "ledger.sqlite.replays").exists()

    # FairDial is killed: the process ends with it, and the next start removes what it left.
    async with serving(tmp_path, served.port, served.token) as served:
        replay = await sent()
        child = await served.child()
        await served.until(replay, lambda told: told["rows_done"] > 0)
        served.process.kill()
        await until_gone(child)
        assert served.files
    async with serving(tmp_path, served.port, served.token) as served:
        assert (await served.ask("GET"))[1] == []
        assert served.files == set()


async def test_a_body_that_stalls_is_given_up_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies_module, "STREAM_PIECE_WITHIN_S", 0.2)

    async def stalling() -> AsyncIterator[bytes]:
        yield RECORDS
        await asyncio.Event().wait()

    async def slow() -> AsyncIterator[bytes]:
        for line in RECORDS.splitlines(keepends=True):
            yield line
            await asyncio.sleep(0.05)

    async with prepared(tmp_path) as operations, api_of(operations) as api:
        before = await operations.call("replay_list", {})
        how: dict[str, Any] = {"headers": CSV, "token": api.operator}
        status, said = await api.problem("POST", "/v1/replays", data=stalling(), **how)
        assert (status, "stalled for 0.2 s" in said) == (408, True)
        assert await operations.call("replay_list", {}) == before
        assert len(list((tmp_path / "replays").iterdir())) == len(before)
        # Slow is not stalled, and longer than a body that is held in memory may take.
        monkeypatch.setattr(bodies_module, "BODY_WITHIN_S", 0.1)
        assert (await api.ask("POST", "/v1/replays", data=slow(), **how))[0] == 202


# --- what is kept, without a server ------------------------------------------------------------------

AT_ONCE = Runner(("/bin/sh", "-c", "echo '{}'; echo > report.html"))


@asynccontextmanager
async def replays_of(folder: Path, runner: Runner = AT_ONCE) -> AsyncIterator[Replays]:
    replays = Replays(folder / "replays", runner, lambda: PolicyBook([plan()]), lambda: NOON_MS)
    await replays.open()
    yield replays
    await replays.close()
    assert not (folder / "replays").exists()


async def replayed(replays: Replays) -> dict[str, Any]:
    async with replays.receive("plan", None) as upload:
        given = {"replay": upload.replay, "rows": 1, "by": "ann", "policy": "plan"}
        await replays.by_name["replay_start"](**given)
    task = replays._kept[upload.replay].task
    assert task is not None
    await task
    return dict(await replays.by_name["replay_show"](replay=upload.replay))


async def test_the_latest_are_kept_and_older_ones_go_with_their_files(tmp_path: Path) -> None:
    async with replays_of(tmp_path) as replays:
        made = [(await replayed(replays))["replay"] for _ in range(KEPT_MAX + 2)]
        listed = [each["replay"] for each in await replays.by_name["replay_list"]()]
        assert listed == made[:1:-1]
        assert {file.name for file in (tmp_path / "replays").iterdir()} == set(listed)
        with pytest.raises(ReplayUnknown):
            replays.file(made[0], "result.json")


async def test_after_its_day_a_replay_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays_module, "KEPT_S", 0.01)
    async with replays_of(tmp_path) as replays:
        folder = tmp_path / "replays" / (await replayed(replays))["replay"]
        async with asyncio.timeout(5):
            while folder.exists():
                await asyncio.sleep(0.01)
        assert await replays.by_name["replay_list"]() == []


async def test_one_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays_module, "WITHIN_S", 0.2)
    async with replays_of(tmp_path, Runner(("/bin/sh", "-c", "exec sleep 60"))) as replays:
        failed = await replayed(replays)
        assert (failed["state"], "not done within" in failed["error"]) == ("failed", True)


async def test_a_process_that_cannot_be_started_is_told_of(tmp_path: Path) -> None:
    async with replays_of(tmp_path, Runner(("/nowhere/fairdial",))) as replays:
        failed = await replayed(replays)
        assert (failed["state"], "no process can be started" in failed["error"]) == ("failed", True)
