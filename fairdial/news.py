"""News: what has just happened, for whoever looks on: pages, portals, terminals.

One ring holds the latest, each with a number that grows. A listener is no more than the number that it has read up to:
nothing is kept for it, so who publishes never waits, and who is too slow, or was away for too long, is told that it
missed some and reads on from the oldest that is left. Nothing here is a record: that is the ledger.
Leaves what is told to those who tell it, and how it travels to `console/api_events.py` and the command line.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

KEPT_MAX: Final = 4_096
"""The latest that can be read; some 4 MB. At 50 calls a second, which tell of 250 things, a quarter of a minute."""
WAITING_MAX: Final = 48
"""Who may wait for the next at once; fewer than the control socket has places, so that a command always gets one."""
PIECE_MAX: Final = 500
"""How many are read at once, at most."""
WAIT_S_MAX: Final = 20.0
"""How long one waits for the next, at most: less than a reply over the control socket may take."""
IDS_PER_MS: Final = 1_000
"""Numbers begin with the start of the process, so that none of before is taken for one of now. Below 2^53 for JSON."""


class TooManyListen(Exception):
    """No more may wait at once."""

    def __init__(self) -> None:
        super().__init__(f"{WAITING_MAX} wait for events already; end one of them, or try again later")


@dataclass(frozen=True, slots=True)
class Item:
    """Something that happened. at_ms: UTC. account: whose it is, None: of no single one. told: plain JSON."""

    id: int
    at_ms: int
    name: str
    account: str | None
    told: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Piece:
    """What was read. last: read on after this. missed: some before these are no longer there. closed: no more comes."""

    items: tuple[Item, ...]
    last: int
    missed: bool
    closed: bool


class News:
    """The latest events of one process. For use on one event loop."""

    def __init__(self, now_ms: Callable[[], int], kept_max: int = KEPT_MAX) -> None:
        """now_ms: the present, UTC."""
        self._now_ms = now_ms
        self._ring: list[Item | None] = [None] * kept_max
        self._first = now_ms() * IDS_PER_MS
        self._next = self._first
        self._waiting: set[asyncio.Future[None]] = set()
        self._closed = False

    @property
    def last(self) -> int:
        """Number of the newest: what is read after it has not happened yet."""
        return self._next - 1

    @property
    def waiting(self) -> int:
        """Who waits for the next now."""
        return len(self._waiting)

    def tell(self, name: str, account: str | None = None, /, **told: Any) -> None:
        """Something happened. Waits for nobody."""
        item = Item(self._next, self._now_ms(), name, account, told)
        self._ring[self._next % len(self._ring)] = item
        self._next += 1
        self._wake()

    def close(self) -> None:
        """No more is told: whoever waits goes home."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        for each in self._waiting:
            if not each.done():
                each.set_result(None)

    async def read(
        self, after: int | None = None, *, account: str | None = None, limit: int = 100, wait_s: float = 0.0
    ) -> Piece:
        """What came after that number, the oldest first; None: after now. Where there is nothing yet, wait so long.

        account: of this one alone. Raises TooManyListen.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + min(wait_s, WAIT_S_MAX)
        piece = self._piece(self.last if after is None else after, account, max(1, min(limit, PIECE_MAX)))
        while not (piece.items or piece.missed or piece.closed) and loop.time() < until:
            await self._wait(until)
            piece = self._piece(piece.last, account, max(1, min(limit, PIECE_MAX)))
        return piece

    async def _wait(self, until: float) -> None:
        if len(self._waiting) >= WAITING_MAX:
            raise TooManyListen
        told = asyncio.get_running_loop().create_future()
        self._waiting.add(told)
        try:
            async with asyncio.timeout_at(until):
                await told
        except TimeoutError:
            pass  # nothing happened
        finally:
            self._waiting.discard(told)

    def _piece(self, after: int, account: str | None, limit: int) -> Piece:
        oldest = max(self._first, self._next - len(self._ring))
        missed = not oldest - 1 <= after <= self.last
        at = oldest if missed else after + 1
        items: list[Item] = []
        while at < self._next and len(items) < limit:
            item = self._ring[at % len(self._ring)]
            assert item is not None
            if account is None or item.account == account:
                items.append(item)
            at += 1
        return Piece(tuple(items), at - 1, missed, self._closed)
