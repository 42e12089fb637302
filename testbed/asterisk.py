"""One running Asterisk: started, asked, stopped, and crashed or frozen on purpose.

`Switch.start` writes a configuration of its own on free loopback ports, waits until the switch is fully up, and
removes everything at the end. The switch dies with the process that started it, also when that is killed.

Left to others: where Asterisk comes from (`testbed.installation`), what its files say
(`testbed.configuration`), and the phones (`testbed.sipp`).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import os
import re
import secrets
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO

from testbed.configuration import DEFAULT_LINES, LOOPBACK, Line, Ports, Settings, write
from testbed.installation import Installation, TestbedError, remove_tree
from testbed.ports import free_ports
from testbed.tls import certificate_path, make_certificate

START_ATTEMPTS = 3
READY_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0
CLI_TIMEOUT_S = 10.0
POLL_S = 0.02


class Switch:
    """A running Asterisk on loopback; make one with `async with Switch.start(…) as switch`."""

    ami_host = LOOPBACK
    ari_user = "fairdial"
    ami_user = "fairdial"

    def __init__(self, installation: Installation, directory: Path, settings: Settings) -> None:
        """Use `start`; this one only takes over a directory that is configured already."""
        self.installation = installation
        self.directory = directory
        self.settings = settings
        self.ari_password = settings.ari_password
        self.ami_secret = settings.ami_secret
        self.sip_host = settings.sip_host
        ports = settings.ports
        self.ami_port, self.sip_port, self.sip_tls_port = ports.ami, ports.sip, ports.sip_tls
        self.carrier_port, self.agi_port = ports.carrier, ports.agi
        self.ari_url = f"http://{LOOPBACK}:{ports.http}/ari"
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        installation: Installation,
        extensions: str,
        *,
        files: Mapping[str, str] | None = None,
        lines: Sequence[Line] = DEFAULT_LINES,
        carrier_context: str = "inbound",
        sip_host: str = LOOPBACK,
        log_levels: str = "notice,warning,error",
        agi_global: str = "FAIRDIAL_AGI_PORT",
        tls: bool = False,
        name: str = "",
        ready_timeout_s: float = READY_TIMEOUT_S,
    ) -> AsyncIterator[Switch]:
        """Run a switch with the dialplan `extensions` until the block ends.

        `files` (name to content) are written beside extensions.conf, for `#include`, and replace any other
        configuration file of the same name. Calls from `lines` start in their contexts, calls from the carrier in
        `carrier_context`. The dialplan finds the reserved AGI port in the global variable `agi_global`, and the
        carrier's in `TESTBED_CARRIER_PORT`. `sip_host` is the address that phones use; with `tls` it
        takes calls over TLS too, on `sip_tls_port`. `name` is its systemname. The switch ends when the calling
        process does, and when the calling thread does.
        Raises `TestbedError` where the switch is not up after `ready_timeout_s`.
        """
        for attempt in range(1, START_ATTEMPTS + 1):
            settings = Settings(
                ports=Ports(*free_ports(6)),
                extensions=extensions,
                lines=tuple(lines),
                files=dict(files or {}),
                ari_user=cls.ari_user,
                ari_password=secrets.token_urlsafe(18),
                ami_user=cls.ami_user,
                ami_secret=secrets.token_urlsafe(18),
                carrier_context=carrier_context,
                sip_host=sip_host,
                log_levels=log_levels,
                agi_global=agi_global,
                tls=tls,
                name=name,
            )
            with own_directory(installation) as directory:
                write(installation, directory, settings)
                if tls:
                    await make_certificate(certificate_path(directory), sip_host)
                switch = cls(installation, directory, settings)
                try:
                    await switch._launch(ready_timeout_s)
                except TestbedError:
                    await switch._end()
                    if attempt < START_ATTEMPTS and switch._lost_a_port():
                        continue
                    raise
                except BaseException:
                    await switch._end()
                    raise
                try:
                    yield switch
                finally:
                    # Nothing that it could still write down is kept.
                    await switch._end()
                return

    @property
    def pid(self) -> int:
        """The process id of Asterisk itself; raises `TestbedError` where it is not running."""
        if self._process is None or self._process.returncode is not None:
            raise TestbedError(f"the switch in {self.directory} is not running; start it with restart()")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is there (frozen counts)."""
        return self._process is not None and self._process.returncode is None

    @property
    def log_path(self) -> Path:
        """Asterisk's log of notices, warnings and errors."""
        return self.directory / "log" / "messages"

    @property
    def cdr_path(self) -> Path:
        """`Master.csv`: 18 columns, the default ones with uniqueid and userfield, times in UTC."""
        return self.directory / "log" / "cdr-csv" / "Master.csv"

    async def cli(self, command: str) -> str:
        """What Asterisk's command line answers to `command`.

        Raises `TestbedError` where it does not answer within `CLI_TIMEOUT_S`, as when stopped or frozen.
        """
        status, output = await self._remote(command)
        if status != 0:
            raise TestbedError(f"`{command}` on the switch in {self.directory} failed: {output.strip()}")
        return output

    async def channels(self) -> list[str]:
        """Names of the channels that are up, such as `PJSIP/alice-00000001`.

        Without the one by which Asterisk takes all messages: it stays from the first on.
        """
        listed = await self.cli("core show channels concise")
        names = [line.split("!", 1)[0] for line in listed.splitlines() if "!" in line]
        return [name for name in names if not name.startswith("Message/")]

    async def no_channels(self, timeout_s: float = 5.0) -> list[str]:
        """Wait until no channel is up, at most `timeout_s`; answers with those that still are."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while names := await self.channels():
            if asyncio.get_running_loop().time() > deadline:
                return names
            await asyncio.sleep(POLL_S)
        return []

    async def parked(self, space: int, timeout_s: float = 5.0) -> None:
        """Wait until a call is parked there. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            # The lot's own lines name a range, which has the number of each of its spaces.
            while not re.search(
                rf"^\s*Space\s*:\s*{space}\b", await self.cli("parking show default"), re.MULTILINE
            ):
                await asyncio.sleep(POLL_S)

    async def set_global(self, name: str, value: str) -> None:
        """Set a global dialplan variable."""
        await self.cli(f"dialplan set global {name} {value}")

    def kill(self) -> None:
        """End the switch as a crash does, at once; calls get no farewell. `restart` brings it back."""
        os.kill(self.pid, signal.SIGKILL)

    def freeze(self) -> None:
        """Stop the switch from running without ending it, as a hung machine would. Back when every thread stands."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """Let a frozen switch go on."""
        os.kill(self.pid, signal.SIGCONT)

    async def restart(self, ready_timeout_s: float = READY_TIMEOUT_S) -> None:
        """End the switch if it runs and start it again with the same ports, secrets and files."""
        await self.stop()
        await self._launch(ready_timeout_s)

    async def stop(self) -> None:
        """End the switch: politely, and by force after `STOP_TIMEOUT_S`. Safe to repeat."""
        process = self._process
        if process is None:
            return
        try:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
                    process.send_signal(signal.SIGCONT)
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await process.wait()
        except TimeoutError:
            pass
        finally:
            await self._end()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await process.wait()

    async def _launch(self, ready_timeout_s: float) -> None:
        configuration = self.installation.inside(self.directory / "etc" / "asterisk.conf")
        with (self.directory / "log" / "console").open("ab") as console:
            self._process = await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "KILL"),
                *self.installation.command("-f", "-q", "-C", configuration),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(ready_timeout_s):
                await self._control_socket()
                await self._fully_booted()
                await self._ari_answers()
        except TimeoutError:
            raise TestbedError(
                f"the switch in {self.directory} was not up after {ready_timeout_s:g} s: {self._last_words()}"
            ) from None

    async def _control_socket(self) -> None:
        path = self.directory / "run" / "ctl"
        while not path.exists():
            await self._pause_while_alive()

    async def _fully_booted(self) -> None:
        while True:
            status, output = await self._remote("core waitfullybooted")
            if status == 0 and "fully booted" in output:
                return
            await self._pause_while_alive()

    async def _ari_answers(self) -> None:
        credentials = base64.b64encode(f"{self.ari_user}:{self.ari_password}".encode()).decode()
        request = (
            f"GET /ari/asterisk/ping HTTP/1.1\r\nHost: {LOOPBACK}\r\nConnection: close\r\n"
            f"Authorization: Basic {credentials}\r\n\r\n"
        )
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection(LOOPBACK, self.settings.ports.http)
                try:
                    writer.write(request.encode())
                    if (await reader.readline()).startswith(b"HTTP/1.1 200"):
                        return
                finally:
                    writer.close()
                    with contextlib.suppress(OSError):
                        await writer.wait_closed()
            await self._pause_while_alive()

    async def _pause_while_alive(self) -> None:
        if not self.is_running:
            raise TestbedError(f"Asterisk ended while it started in {self.directory}: {self._last_words()}")
        await asyncio.sleep(POLL_S)

    async def _remote(self, command: str) -> tuple[int, str]:
        configuration = self.installation.inside(self.directory / "etc" / "asterisk.conf")
        process = await asyncio.create_subprocess_exec(
            *self.installation.command("-C", configuration, "-rx", command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(CLI_TIMEOUT_S):
                output, _ = await process.communicate()
        except TimeoutError:
            raise TestbedError(
                f"`{command}` got no answer from the switch in {self.directory} within {CLI_TIMEOUT_S:g} s; is it "
                "frozen?"
            ) from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return process.returncode or 0, output.decode(errors="replace")

    def _last_words(self) -> str:
        lines: list[str] = []
        for path in (self.directory / "log" / "console", self.log_path):
            with contextlib.suppress(OSError):
                lines += [line for line in path.read_text(errors="replace").splitlines() if line.strip()][-8:]
        return " / ".join(lines) or "it wrote nothing"

    def _lost_a_port(self) -> bool:
        """Whether another program took one of the ports between the asking and the binding."""
        return "ddress already in use" in self._last_words()


@contextmanager
def own_directory(installation: Installation) -> Iterator[Path]:
    """A directory for one switch, removed at the end; those of runs that died are removed on the way.

    Its owner holds a lock on it as long as it lives, which tells a dead owner from a living one for certain.
    """
    instances = installation.instances
    instances.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (instances / "lock").open("a") as listing:
        fcntl.flock(listing, fcntl.LOCK_EX)
        for stale in instances.iterdir():
            if stale.is_dir() and not _is_held(stale):
                remove_tree(stale)
        directory = Path(tempfile.mkdtemp(dir=instances))
        held = _hold(directory)
    try:
        yield directory
    finally:
        remove_tree(directory)
        held.close()


def _hold(directory: Path) -> IO[str]:
    handle = (directory / "owner").open("w")
    fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def _is_held(directory: Path) -> bool:
    try:
        with (directory / "owner").open() as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
