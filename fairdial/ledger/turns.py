"""Turns of one process's threads at the same thing, in the order in which they came.

`threading.Lock` gives no order: whoever lets it go often has it again before those who wait.
"""

import threading
from collections import deque
from collections.abc import Hashable


class Turns:
    """Who has which thing, and who waits for it. There are no more waiting than there are threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[Hashable, deque[threading.Event]] = {}

    def take(self, thing: Hashable, within_s: float) -> bool:
        """Wait for one's turn; False: it did not come in time."""
        mine = threading.Event()
        with self._lock:
            waiting = self._waiting.get(thing)
            if waiting is None:
                self._waiting[thing] = deque()
                return True
            waiting.append(mine)
        if mine.wait(within_s):
            return True
        with self._lock:
            if mine.is_set():
                return True  # it came at that moment
            self._waiting[thing].remove(mine)
        return False

    def leave(self, thing: Hashable) -> None:
        """Give it to who has waited longest."""
        with self._lock:
            waiting = self._waiting[thing]
            if waiting:
                waiting.popleft().set()
            else:
                del self._waiting[thing]
