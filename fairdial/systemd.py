"""What FairDial tells systemd of itself, as sd_notify(3) has it: ready, reloading, stopping, alive, and a status line.

A datagram of `KEY=value` lines to the socket that systemd names in NOTIFY_SOCKET; nothing at all where it names none.
The sign of life comes from a task of the event loop, so that it stays away where the loop hangs, and systemd starts
FairDial anew. That systemd does not listen stops nothing. No library: of the protocol this is all there is.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import NoReturn

import structlog

from fairdial.clock import monotonic_us

log = structlog.get_logger(__name__)

SEND_WITHIN_S = 1.0
STATUS_EVERY_S = 5.0
"""How often the status is told where systemd watches for no sign of life, or rarely."""
STATUS_CHARS_MAX = 200


class Systemd:
    """The manager that started this process, or none."""

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        """address: a path, or a name in the abstract namespace as "@name"; "": nobody listens. watchdog_s: how long
        systemd waits for a sign of life; None: it waits for none.
        """
        if address and address[0] not in "/@":
            log.warning("systemd_not_told", address=address, error="neither a path nor an abstract socket")
            address = ""
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog = watchdog_s is not None
        self._every_s = STATUS_EVERY_S if watchdog_s is None else min(watchdog_s / 2, STATUS_EVERY_S)
        self._failed = False

    @classmethod
    def of(cls, environment: Mapping[str, str], pid: int) -> "Systemd":
        """As NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID say to the process `pid` (sd_watchdog_enabled(3))."""
        text = environment.get("WATCHDOG_USEC", "")
        watched = text.isdecimal() and int(text) > 0
        ours = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
        return cls(environment.get("NOTIFY_SOCKET", ""), int(text) / 1_000_000 if watched and ours else None)

    async def ready(self, status: str) -> None:
        """All parts serve: after the start, and after each reload."""
        await self._tell("READY=1", _status(status))

    async def reloading(self) -> None:
        """A reload begins; `ready` ends it, whether it went well or not."""
        await self._tell("RELOADING=1", f"MONOTONIC_USEC={monotonic_us()}", _status("reloading"))

    async def stopping(self) -> None:
        """FairDial ends."""
        await self._tell("STOPPING=1", _status("handing calls over"))

    async def live(self, status: Callable[[], str]) -> NoReturn:
        """Until cancelled: the sign of life, at least twice within the time that systemd waits, and the status."""
        while True:
            await self._tell(*(["WATCHDOG=1"] if self._watchdog else []), _status(status()))
            await asyncio.sleep(self._every_s)

    async def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                # Connected: only then does the loop know when a full queue has room again.
                sender.connect(self._address)
                async with asyncio.timeout(SEND_WITHIN_S):
                    await asyncio.get_running_loop().sock_sendall(sender, "\n".join(lines).encode())
        except (OSError, TimeoutError) as error:
            if not self._failed:
                log.warning("systemd_not_told", error=repr(error))
            self._failed = True
        else:
            self._failed = False


def _status(text: str) -> str:
    """One line, whatever an error's text holds."""
    return "STATUS=" + " ".join(text.split())[:STATUS_CHARS_MAX]
