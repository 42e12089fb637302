"""What systemd hears of FairDial, on a real datagram socket in systemd's place."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fairdial import systemd as systemd_module
from fairdial.clock import monotonic_us
from fairdial.systemd import STATUS_CHARS_MAX, Systemd
from testbed.ports import free_ports

PROJECT = Path(__file__).parents[2]
PID = os.getpid()


class Manager:
    """Listens where systemd would."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    async def heard(self, within_s: float = 20.0) -> dict[str, str]:
        """The next message, by key."""
        async with asyncio.timeout(within_s):
            message = (await asyncio.get_running_loop().sock_recv(self.socket, 65_536)).decode()
        return dict(line.split("=", 1) for line in message.split("\n"))

    async def heard_with(self, key: str) -> dict[str, str]:
        """The next message that has that key; signs of life between are passed over."""
        while True:
            told = await self.heard()
            if key in told:
                return told
            assert set(told) <= {"WATCHDOG", "STATUS"}, told

    def waiting(self) -> int:
        """How many messages came that were not read; they are read now."""
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.recv(65_536)
                count += 1
        return count


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    with contextlib.closing(manager.socket):
        yield manager


async def test_start_reload_and_end_are_told(manager: Manager) -> None:
    systemd = Systemd(manager.address)
    await systemd.ready("0 calls in progress")
    assert await manager.heard() == {"READY": "1", "STATUS": "0 calls in progress"}
    before = monotonic_us()
    await systemd.reloading()
    told = await manager.heard()
    # systemd holds it against the moment at which it asked: an earlier one is taken for another reload's.
    assert before <= int(told["MONOTONIC_USEC"]) <= monotonic_us()
    assert (told["RELOADING"], told["STATUS"]) == ("1", "reloading")
    await systemd.stopping()
    assert (await manager.heard())["STOPPING"] == "1"


async def test_an_abstract_socket_is_one_too() -> None:
    manager = Manager(f"@fairdial-test-{PID}")
    with contextlib.closing(manager.socket):
        await Systemd(manager.address).ready("well")
        assert (await manager.heard())["READY"] == "1"


async def test_a_status_is_one_line_whatever_it_holds(manager: Manager) -> None:
    await Systemd(manager.address).ready("bad file:\nREADY=0\nSTOPPING=1 " + "x" * 1_000)
    told = await manager.heard()
    assert set(told) == {"READY", "STATUS"}
    assert told["STATUS"].startswith("bad file: READY=0 STOPPING=1 x")
    assert len(told["STATUS"]) == STATUS_CHARS_MAX


@asynccontextmanager
async def living(systemd: Systemd) -> AsyncIterator[None]:
    task = asyncio.create_task(systemd.live(lambda: "well"))
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_sign_of_life_comes_twice_in_the_time_that_systemd_waits(manager: Manager) -> None:
    async with living(Systemd(manager.address, watchdog_s=0.5)):
        assert await manager.heard() == {"WATCHDOG": "1", "STATUS": "well"}
        began = time.monotonic()
        assert (await manager.heard())["WATCHDOG"] == "1"
        assert 0.2 < time.monotonic() - began < 0.5


async def test_no_sign_of_life_comes_while_the_loop_hangs(manager: Manager) -> None:
    async with living(Systemd(manager.address, watchdog_s=0.1)):
        await manager.heard()
        await manager.heard()
        manager.waiting()
        time.sleep(0.5)  # A loop that hangs, ten times as long as from one sign to the next
        assert manager.waiting() == 0
        assert (await manager.heard())["WATCHDOG"] == "1"


async def test_without_a_watchdog_the_status_alone_is_told(manager: Manager) -> None:
    async with living(Systemd(manager.address)):
        assert await manager.heard() == {"STATUS": "well"}


@pytest.mark.parametrize(
    ("environment", "watched"),
    [
        ({"WATCHDOG_USEC": "400000", "WATCHDOG_PID": str(PID)}, True),
        ({"WATCHDOG_USEC": "400000"}, True),
        ({"WATCHDOG_USEC": "400000", "WATCHDOG_PID": str(PID + 1)}, False),
        ({"WATCHDOG_USEC": "0"}, False),
        ({"WATCHDOG_USEC": "soon"}, False),
        ({}, False),
    ],
)
async def test_the_environment_says_where_and_how_often(
    manager: Manager, environment: dict[str, str], watched: bool
) -> None:
    async with living(Systemd.of({"NOTIFY_SOCKET": manager.address, **environment}, PID)):
        assert ("WATCHDOG" in await manager.heard()) == watched


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "vsock:2:1234", "@nobody-listens-there"])
async def test_where_nobody_listens_nothing_fails(address: str) -> None:
    systemd = Systemd(address, watchdog_s=0.1)
    async with asyncio.timeout(5):
        await systemd.ready("well")
        await systemd.stopping()


async def test_a_manager_that_does_not_read_is_waited_for_and_not_for_long(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        other.connect(manager.address)
        with contextlib.suppress(BlockingIOError):
            while True:
                other.send(b"X=1")
    systemd = Systemd(manager.address)
    monkeypatch.setattr(systemd_module, "SEND_WITHIN_S", 0.05)
    async with asyncio.timeout(5):
        await systemd.ready("given up")
    monkeypatch.setattr(systemd_module, "SEND_WITHIN_S", 20.0)
    telling = asyncio.create_task(systemd.ready("waited"))
    await asyncio.sleep(0)
    assert not telling.done()
    queued = manager.waiting()
    assert queued > 1
    await telling
    assert await manager.heard() == {"READY": "1", "STATUS": "waited"}


# --- `fairdial serve` ------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(folder: Path, manager: Manager) -> AsyncIterator[asyncio.subprocess.Process]:
    """`fairdial serve` as systemd starts it, without a switch: it waits for that, and serves."""
    ports = free_ports(4)
    (folder / "policies").mkdir()
    for file in (PROJECT / "policies").glob("*.toml"):
        (folder / "policies" / file.name).write_text(file.read_text())
    (folder / "fairdial.toml").write_text(
        'policies = "policies"\ncontrol = "control.sock"\nstore.path = "ledger.sqlite"\n'
        f'ari.url = "http://127.0.0.1:{ports[0]}/ari"\nami.port = {ports[1]}\n'
        f"agi.port = {ports[2]}\nhttp.port = {ports[3]}\n"
    )
    with (folder / "log").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command(folder, "serve"),
            env={**os.environ, "NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "2000000"},
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "fairdial.main", "--config", str(folder / "fairdial.toml"), *arguments]


async def run(folder: Path, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command(folder, *arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_a_service_from_its_start_to_its_end(tmp_path: Path, manager: Manager) -> None:
    async with serving(tmp_path, manager) as process:
        told = await manager.heard_with("READY")
        # All parts serve by then, though the switch is not there.
        assert told["STATUS"] == "0 calls in progress; not connected: ARI, AMI"
        assert (tmp_path / "control.sock").exists()
        assert (await manager.heard_with("WATCHDOG"))["WATCHDOG"] == "1"

        process.send_signal(signal.SIGHUP)
        assert int((await manager.heard_with("RELOADING"))["MONOTONIC_USEC"]) > 0
        assert "the last reload" not in (await manager.heard_with("READY"))["STATUS"]

        # By the command, as the unit has it; a bad file fails it, and FairDial goes on.
        bad = tmp_path / "policies" / "bad.toml"
        bad.write_text("name = \n")
        status, output = await run(tmp_path, "reload")
        assert (status, "nothing was changed" in output, str(bad) in output) == (2, True, True)
        await manager.heard_with("RELOADING")
        assert "the last reload changed nothing" in (await manager.heard_with("READY"))["STATUS"]
        bad.unlink()
        assert (await run(tmp_path, "reload"))[0] == 0

        process.send_signal(signal.SIGTERM)
        await manager.heard_with("RELOADING")
        await manager.heard_with("READY")
        await manager.heard_with("STOPPING")
        assert await process.wait() == 0
    status, output = await run(tmp_path, "reload")
    assert (status, "no FairDial listens there" in output) == (2, True)
