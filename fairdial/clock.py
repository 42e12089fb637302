"""The one place where time is read. Durations use the monotonic clock, records the wall clock."""

import time
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Moment:
    """The same instant on both clocks, in milliseconds. wall_ms: since the epoch, UTC."""

    wall_ms: int
    mono_ms: int


class Clock(Protocol):
    """Whoever needs the time is handed one of these."""

    def now(self) -> Moment:
        """The present moment."""
        ...


def monotonic_us() -> int:
    """CLOCK_MONOTONIC in microseconds: as exact as systemd compares it (sd_notify(3), MONOTONIC_USEC=)."""
    return time.monotonic_ns() // 1_000


class SystemClock:
    """The machine's clocks."""

    def now(self) -> Moment:
        return Moment(time.time_ns() // 1_000_000, time.monotonic_ns() // 1_000_000)
