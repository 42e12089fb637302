"""A terminal for a command that draws on one: what it wrote is awaited, what it is sent is typed."""

import asyncio
import fcntl
import os
import pty
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = Path(__file__).parents[1]
WITHIN_S = 90.0
"""A machine that is busy with other work takes half a minute to start a command."""
MAIN_SCREEN = "\x1b[?1049l"
"""What a terminal is sent to leave the alternate screen (xterm)."""


@dataclass
class Terminal:
    """A command on a terminal of 80 columns and 24 lines, and all that it wrote."""

    process: asyncio.subprocess.Process
    leader: int
    written: str = ""
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self) -> None:
        """Read what is there; called where there is something."""
        try:
            data = os.read(self.leader, 65_536)
        except OSError:
            data = b""  # nobody holds the other end any more
        if not data:
            asyncio.get_running_loop().remove_reader(self.leader)
        self.written += data.decode(errors="replace")
        self._more.set()

    async def shows(self, text: str, *, after: int = 0) -> int:
        """Return where in what was written the text ends, as soon as it is there."""
        async with asyncio.timeout(WITHIN_S):
            while (at := self.written.find(text, after)) < 0:
                self._more.clear()
                await self._more.wait()
        return at + len(text)

    async def ended(self) -> int:
        """The exit status, as soon as the command has ended."""
        async with asyncio.timeout(WITHIN_S):
            return await self.process.wait()


@asynccontextmanager
async def on_terminal(config: Path, *arguments: str) -> AsyncIterator[Terminal]:
    """Run a command of `fairdial` on a terminal of its own; it is killed at the end if it still runs."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fairdial.main", "--config", str(config), *arguments),
        cwd=PROJECT,
        env={**os.environ, "TERM": "xterm"},
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    terminal = Terminal(process, leader)
    loop = asyncio.get_running_loop()
    loop.add_reader(leader, terminal.take)
    try:
        yield terminal
    finally:
        loop.remove_reader(leader)
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(leader)
        os.close(follower)
