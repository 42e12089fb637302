"""How often each line dialled in the last second (A3): counted in memory, so that a flood costs no store.

Bounded: the lines that dialled last are remembered, and of each its latest dials. Time is an argument.
"""

from collections import OrderedDict, deque

LINES_MAX = 10_000
"""Lines that are remembered; who has not dialled for longest is forgotten first."""

DIALS_MAX = 1_000
"""Dials of a line that are remembered: a limit above this many in a second is never reached."""

WINDOW_MS = 1_000


class Attempts:
    """Dials of lines in the last second."""

    def __init__(self, lines_max: int = LINES_MAX) -> None:
        self._lines_max = lines_max
        self._dials: OrderedDict[str, deque[int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._dials)

    def count(self, line_id: str, now_ms: int) -> int:
        """Note a dial at `now_ms` (monotonic); how many there were in the second up to it, this one counted."""
        dials = self._dials.setdefault(line_id, deque(maxlen=DIALS_MAX))
        self._dials.move_to_end(line_id)
        while dials and dials[0] <= now_ms - WINDOW_MS:
            dials.popleft()
        dials.append(now_ms)
        if len(self._dials) > self._lines_max:
            self._dials.popitem(last=False)
        return len(dials)
