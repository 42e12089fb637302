"""A TCP relay before one port of a switch: a network that is lost, reset, frozen or slow when told to, alone.

What stands in the two sockets when it is frozen stays there; nothing is lost but by `cut` and `reset`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from testbed.ports import LOOPBACK

_CHUNK_BYTES = 65_536
_NO_LINGER = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends RST and drops what was not sent (socket(7))."""


class Relay:
    """Passes on what comes to `port` and back; make one with `async with Relay.to(port) as relay`."""

    def __init__(self, target: int) -> None:
        """Use `to`."""
        self.port = 0
        self._target = target
        self._is_cut = False
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._delay_s = 0.0
        self._bytes_per_s: float | None = None
        self._ends: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    @classmethod
    @asynccontextmanager
    async def to(cls, target: int) -> AsyncIterator[Relay]:
        """A relay to a port on loopback until the block ends."""
        relay = cls(target)
        server = await asyncio.start_server(relay._accept, LOOPBACK, 0)
        relay.port = int(server.sockets[0].getsockname()[1])
        try:
            yield relay
        finally:
            server.close()
            relay.cut()
            await asyncio.gather(*relay._ends, return_exceptions=True)

    @property
    def url(self) -> str:
        """ARI of a switch behind this relay."""
        return f"http://{LOOPBACK}:{self.port}/ari"

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._ends)

    def cut(self) -> None:
        """Lose all connections at once, without a farewell, and take no more until `mend`."""
        self._is_cut = True
        self._drop()

    def reset(self) -> None:
        """Send RST to both sides of all connections (RFC 9293 3.5.2); new ones are taken."""
        for writers in self._ends.values():
            for writer in writers:
                raw = writer.get_extra_info("socket")
                if raw is not None:
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._drop()

    def freeze(self) -> None:
        """Take no more bytes from either side and pass none on, until `mend`; no FIN and no RST.

        A new connection is made, as the kernel does for a program that hangs, and hears nothing.
        """
        self._flowing.clear()
        for writers in self._ends.values():
            for writer in writers:
                _pause(writer)

    def slow(self, delay_s: float, bytes_per_s: float | None = None) -> None:
        """From now on hold each piece for so long, either way, and pass on at most so much. `mend` ends it."""
        self._delay_s, self._bytes_per_s = delay_s, bytes_per_s

    def mend(self) -> None:
        """Take connections again, pass on at once, what was held up first."""
        self._is_cut = False
        self._delay_s, self._bytes_per_s = 0.0, None
        self._flowing.set()
        for writers in self._ends.values():
            for writer in writers:
                _resume(writer)

    def _drop(self) -> None:
        for task, writers in self._ends.items():
            for writer in writers:
                writer.transport.abort()
            task.cancel()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        if not self._flowing.is_set():
            _pause(writer)
        ends = [writer]
        task = asyncio.create_task(self._serve(reader, writer, ends))
        self._ends[task] = ends
        task.add_done_callback(lambda done: self._ends.pop(done, None))

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ends: list[asyncio.StreamWriter]
    ) -> None:
        with contextlib.suppress(OSError):
            await self._flowing.wait()
            there, back = await asyncio.open_connection(LOOPBACK, self._target)
            ends.append(back)
            ways = [asyncio.create_task(self._pass_on(*way)) for way in ((reader, back), (there, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
                back.transport.abort()
        writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(_CHUNK_BYTES):
                await self._flowing.wait()
                held_s = self._delay_s + (len(chunk) / self._bytes_per_s if self._bytes_per_s else 0.0)
                if held_s:
                    await asyncio.sleep(held_s)
                    await self._flowing.wait()
                writer.write(chunk)
                await writer.drain()


def _pause(writer: asyncio.StreamWriter) -> None:
    transport = writer.transport
    if isinstance(transport, asyncio.ReadTransport) and not transport.is_closing():
        transport.pause_reading()


def _resume(writer: asyncio.StreamWriter) -> None:
    transport = writer.transport
    if isinstance(transport, asyncio.ReadTransport) and not transport.is_closing():
        transport.resume_reading()
