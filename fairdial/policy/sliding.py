"""What slides over time: sums, and groups of what was seen, of the last so many milliseconds.

Each is as large as its window is full, and bounded by KEPT_MAX. Nothing is counted again from the start. Time is an
argument; what is added later is not earlier.
"""

from collections import Counter, OrderedDict, deque
from typing import Final

KEPT_MAX: Final = 10_000
"""Of what is counted so many are remembered, the latest: a threshold above it is never reached."""


class Sum:
    """The sum of amounts in a window."""

    __slots__ = ("_kept", "_window_ms", "total")

    def __init__(self, window_ms: int) -> None:
        self._window_ms = window_ms
        self._kept: deque[tuple[int, float]] = deque()
        self.total: float = 0

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, at_ms: int, amount: float) -> None:
        if len(self._kept) == KEPT_MAX:
            self.total -= self._kept.popleft()[1]
        self._kept.append((at_ms, amount))
        self.total += amount

    def slide(self, now_ms: int) -> None:
        while self._kept and self._kept[0][0] <= now_ms - self._window_ms:
            self.total -= self._kept.popleft()[1]


class Sizes:
    """How large groups are whose members come and go one by one, and how large the largest is."""

    __slots__ = ("_of_size", "_sizes", "largest")

    def __init__(self) -> None:
        self._sizes: Counter[str] = Counter()
        self._of_size: Counter[int] = Counter()
        self.largest = 0

    def __getitem__(self, group: str) -> int:
        return self._sizes[group]

    def change(self, group: str, by: int) -> None:
        """by: 1 or -1."""
        before = self._sizes[group]
        size = before + by
        if before:
            self._of_size[before] -= 1
        if size:
            self._sizes[group] = size
            self._of_size[size] += 1
        else:
            del self._sizes[group]
        if size > self.largest:
            self.largest = size
        elif self.largest and not self._of_size[self.largest]:
            # It was the only one of that size, and has become one smaller.
            del self._of_size[self.largest]
            self.largest -= 1


class Groups:
    """What was seen in a window, each once in its group; how many the largest group has."""

    __slots__ = ("_last_ms", "_sizes", "_window_ms")

    def __init__(self, window_ms: int) -> None:
        self._window_ms = window_ms
        self._last_ms: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._sizes = Sizes()

    @property
    def largest(self) -> int:
        return self._sizes.largest

    def add(self, at_ms: int, group: str, key: str) -> None:
        if (group, key) not in self._last_ms:
            self._sizes.change(group, +1)
        self._last_ms[group, key] = at_ms
        self._last_ms.move_to_end((group, key))
        if len(self._last_ms) > KEPT_MAX:
            self._drop()

    def slide(self, now_ms: int) -> None:
        while self._last_ms and next(iter(self._last_ms.values())) <= now_ms - self._window_ms:
            self._drop()

    def _drop(self) -> None:
        (group, _), _ = self._last_ms.popitem(last=False)
        self._sizes.change(group, -1)
