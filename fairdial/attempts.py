"""How often each line and each source dialled in the last second: counted in memory, so that a flood costs no store.

`Attempts` counts, for a policy's own rule (A3) and for the guard. `Guard` says at once, before anything is looked
up, which dials come too fast. `Refusals` tells of those that it turned away, added up. All are bounded: only who
dialled in the last second is remembered, and of them so many. Leaves to the desk what a refusal is called, and that
emergency calls are neither counted nor refused.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fairdial import call_log

LINES_MAX = 10_000
"""Lines that are remembered; who has not dialled for longest is forgotten first."""

DIALS_MAX = 1_000
"""Dials of a line that are remembered: a limit above this many in a second is never reached."""

WINDOW_MS = 1_000

TELL_EVERY_S = 1.0
TOLD_MAX = 100
"""Lines and sources that are told of one by one in a second; further ones are added up under OTHERS."""
OTHERS = "others"

By = Literal["line", "source", "blocked"]
"""Why a dial was turned away unasked: its line or its source dials too fast, or its source is blocked."""


class Attempts:
    """Dials of lines (or of sources) in the last second. Time is an argument, monotonic, in milliseconds."""

    def __init__(self, lines_max: int = LINES_MAX) -> None:
        self._lines_max = lines_max
        self._dials: OrderedDict[str, deque[int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._dials)

    def count(self, line_id: str, now_ms: int) -> int:
        """Note a dial at `now_ms`; how many there were in the second up to it, this one counted."""
        dials = self._dials.setdefault(line_id, deque(maxlen=DIALS_MAX))
        self._dials.move_to_end(line_id)
        while dials and dials[0] <= now_ms - WINDOW_MS:
            dials.popleft()
        dials.append(now_ms)
        self._forget(now_ms)
        return len(dials)

    def _forget(self, now_ms: int) -> None:
        """Those that dialled last come last, so nothing but what is due is looked at."""
        while len(self._dials) > 1:
            longest_ago = next(iter(self._dials))
            if len(self._dials) <= self._lines_max and self._dials[longest_ago][-1] > now_ms - WINDOW_MS:
                return
            del self._dials[longest_ago]


@dataclass(frozen=True, slots=True)
class Counted:
    """A dial that was counted. attempts: of its line in the last second, this one among them, 0 where the line is
    not answerable for it. too_fast: whose limit it is past; None: it may be asked about.
    """

    attempts: int
    too_fast: By | None = None


class Guard:
    """Which dials come faster than `line_per_s` from one line or `source_per_s` from one source; 0: any rate.

    Every dial counts, refused ones too: whoever goes on at that rate gets through only when it slows down.
    """

    def __init__(self, line_per_s: int = 0, source_per_s: int = 0) -> None:
        self.limit(line_per_s, source_per_s)
        self._lines = Attempts()
        self._sources = Attempts()

    def limit(self, line_per_s: int, source_per_s: int) -> None:
        """Other rates from the next dial on; what was counted stays counted."""
        self._line_per_s = line_per_s
        self._source_per_s = source_per_s

    def count(self, line_id: str | None, source: str, now_ms: int) -> Counted:
        """Count a dial. line_id None: the line did not dial, it is called; source "": nobody knows it."""
        attempts = 0 if line_id is None else self._lines.count(line_id, now_ms)
        of_source = self._sources.count(source, now_ms) if source and self._source_per_s else 0
        if 0 < self._line_per_s < attempts:
            return Counted(attempts, "line")
        return Counted(attempts, "source" if of_source > self._source_per_s else None)


class Refusals:
    """Dials that the guard turned away, told to `tell(by, name, count)` once a second for each line and source."""

    def __init__(self, tell: Callable[[By, str, int], None]) -> None:
        self._tell = tell
        self._waiting: dict[tuple[By, str], int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.total = 0

    def add(self, by: By, name: str) -> None:
        """One more; told within TELL_EVERY_S. Needs a running event loop."""
        self.total += 1
        whose = (by, name)
        if whose not in self._waiting and len(self._waiting) >= TOLD_MAX:
            whose = (by, OTHERS)
        self._waiting[whose] = self._waiting.get(whose, 0) + 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(
                TELL_EVERY_S, self.tell_now, context=call_log.nobody()
            )

    def tell_now(self) -> None:
        """Tell of what waits, and wait for nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, {}
        for (by, name), count in waiting.items():
            self._tell(by, name, count)
