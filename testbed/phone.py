"""One SIPp process: started on ports of its own, always ended, its log and statistics read.

Left to others: what the process does (`testbed.scenarios`) and what its log means (`testbed.sipp`).
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import socket
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed.asterisk import Switch
from testbed.installation import TestbedError
from testbed.ports import LOOPBACK, free_ports

START_ATTEMPTS = 5
LISTEN_TIMEOUT_S = 15.0
POLL_S = 0.01

# SIPp's exit statuses, as far as calls may have been placed: all went as scripted; at least one did not.
EXIT_DONE = 0
EXIT_FAILED_CALLS = 1


@dataclass(frozen=True)
class Event:
    """One line of a phone's log: what happened in which call, when (Unix time in seconds), and details."""

    name: str
    call_id: str
    at: float
    rest: str


def events_in(text: str) -> list[Event]:
    """What a log says: `NAME CALL SECONDS MICROSECONDS REST` in each line that is complete."""
    found = []
    for line in text.splitlines(keepends=True):
        fields = line.rstrip("\n").split(" ", 4)
        if line.endswith("\n") and len(fields) >= 4:
            name, call_id, seconds, micros, *rest = fields
            # SIPp writes a variable that is zero as nothing at all: once in a million moments.
            at = float(seconds) + float(micros or 0) / 1e6
            found.append(Event(name, call_id, at, rest[0].strip() if rest else ""))
    return found


class Phone:
    """One SIPp process with its scenario, log and statistics in `directory`."""

    def __init__(
        self,
        switch: Switch,
        directory: Path,
        scenario: str,
        *,
        port: int | None = None,
        target: str | None = None,
        options: Sequence[str] = (),
    ) -> None:
        """`target`: host:port that it calls, by default the switch over UDP."""
        self._sipp = switch.installation.sipp
        self._target = target or f"{switch.sip_host}:{switch.sip_port}"
        self._directory = directory
        self._port = port
        self._options = options
        self._process: asyncio.subprocess.Process | None = None
        (directory / "scenario.xml").write_text(scenario)

    async def listen(self) -> None:
        """Start as a called phone and wait until its port is bound; raises `TestbedError` where it never is."""
        for _ in range(START_ATTEMPTS):
            process = await self._start()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LISTEN_TIMEOUT_S):
                    while process.returncode is None:
                        if self._port in _bound_udp_ports():
                            return
                        await asyncio.sleep(POLL_S)
            await self.end()
        raise TestbedError(f"SIPp does not listen on port {self._port}: {self.complaints()}")

    async def run(self, timeout_s: float, *options: str) -> int:
        """Start as a caller and wait for the end of all calls; answers with SIPp's exit status, 0 or 1.

        Raises `TestbedError` after `timeout_s` and where SIPp cannot work. The process is ended in any case.
        """
        status = EXIT_DONE
        for _ in range(START_ATTEMPTS):
            process = await self._start(*options)
            try:
                async with asyncio.timeout(timeout_s):
                    status = await process.wait()
            except TimeoutError:
                raise TestbedError(f"SIPp did not end within {timeout_s:g} s: {self.complaints()}") from None
            finally:
                await self.end()
            if status in (EXIT_DONE, EXIT_FAILED_CALLS):
                return status
            if self.events():
                break
            # Nothing was sent: another process may have taken one of its ports. Ask for others.
        raise TestbedError(f"SIPp ended with status {status}: {self.complaints()}")

    async def end(self) -> None:
        """End the process, whatever it does, and wait for it."""
        if self._process is not None:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
            await self._process.wait()

    async def event_when(self, name: str, call_id: str | None = None, *, timeout_s: float) -> Event:
        """Wait for an event in the log, of one call or of any; raises `TestbedError` after `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    for event in self.events():
                        if event.name == name and call_id in (None, event.call_id):
                            return event
                    await asyncio.sleep(POLL_S)
        raise TestbedError(
            f"no {name!r} in the phone's log within {timeout_s:g} s: {self.events()}; {self.complaints()}"
        )

    async def cue(self, call_id: str | None, what: str, *, timeout_s: float = 5.0) -> None:
        """Tell a steered phone what to do in one of its calls (`testbed.scenarios.CUES`), None: in its only one.

        Waits until it takes cues. The phone must have a port of the caller's choice.
        """
        assert self._port is not None
        call_id = (await self.event_when("ready", call_id, timeout_s=timeout_s)).call_id
        request = (
            f"INFO sip:{LOOPBACK}:{self._port} SIP/2.0\r\nVia: SIP/2.0/UDP {LOOPBACK}:9;branch=z9hG4bK-cue\r\n"
            f"From: <sip:test@{LOOPBACK}>;tag=test\r\nTo: <sip:phone@{LOOPBACK}>\r\nCall-ID: {call_id}\r\n"
            f"CSeq: 1 INFO\r\nCue: {what}\r\nContent-Length: 0\r\n\r\n"
        )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(request.encode(), (LOOPBACK, self._port))

    def events(self) -> list[Event]:
        """The log so far; a line that is still being written is left out."""
        path = self._directory / "log"
        return events_in(path.read_text(errors="replace")) if path.exists() else []

    def retransmissions(self) -> int:
        """How many messages SIPp sent again, over all calls, from its statistics at the end."""
        with (self._directory / "statistics").open(newline="") as statistics:
            rows = list(csv.DictReader(statistics, delimiter=";"))
        return int(rows[-1]["Retransmissions(C)"])

    def complaints(self) -> str:
        """SIPp's last words, for an error message."""
        lines: list[str] = []
        for name in ("errors", "screen"):
            with contextlib.suppress(OSError):
                text = (self._directory / name).read_text(errors="replace")
                lines += [line.strip() for line in text.splitlines() if line.strip()][-6:]
        return " / ".join(lines) or "it wrote nothing"

    async def _start(self, *options: str) -> asyncio.subprocess.Process:
        control, media = free_ports(2)
        port = () if self._port is None else ("-p", str(self._port))
        with (self._directory / "screen").open("wb") as screen:
            self._process = await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "KILL", self._sipp, self._target, "-sf", "scenario.xml"),
                *("-i", LOOPBACK, "-bind_local", "-mi", LOOPBACK, "-mp", str(media), "-cp", str(control)),
                *(*port, "-nostdin", "-aa", "-skip_rlimit", "-timer_resol", "1", "-trace_err"),
                # Whoever waits decides how long: a switch that is frozen is asked again until then.
                *("-max_invite_retrans", "12"),
                *(
                    "-error_file",
                    "errors",
                    "-trace_logs",
                    "-log_file",
                    "log",
                    "-trace_stat",
                    "-stf",
                    "statistics",
                ),
                *self._options,
                *options,
                cwd=self._directory,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=screen,
                stderr=screen,
            )
        return self._process


@asynccontextmanager
async def scratch_directory() -> AsyncIterator[Path]:
    """A directory for one process's files, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="fairdial-sipp-") as name:
        yield Path(name)


def _bound_udp_ports() -> frozenset[int]:
    """The UDP ports that are bound on this machine's IPv4 addresses."""
    lines = Path("/proc/net/udp").read_text().splitlines()[1:]
    return frozenset(int(line.split()[1].rpartition(":")[2], 16) for line in lines)
