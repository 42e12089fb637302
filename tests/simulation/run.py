"""Runs seeds, silently, and tells of one that fails so that it can be repeated."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import structlog

from tests.simulation.promises import Broken
from tests.simulation.world import Faults, Seen, World


class Failure(AssertionError):
    """A seed that breaks a promise. brief: in one line."""

    def __init__(self, seed: int, broken: BaseException, trace: str, faults: Faults) -> None:
        self.brief = f"seed {seed}: {broken}"
        jumps = " --clock-jumps" if faults.clock_jumps else ""
        super().__init__(
            f"{self.brief}\n{trace}\nrepeat it with: python -m tests.simulation {seed} --trace{jumps}"
        )


@dataclass(slots=True)
class Logs:
    """What FairDial logs. unforeseen: exceptions that it logs as such. note: hears of everything, if anybody does."""

    unforeseen: list[str] = field(default_factory=list)
    note: Callable[..., None] | None = None


class _Logger:
    """Says nothing, at little cost."""

    def __init__(self, logger: Logs, processors: object, context: object) -> None:
        del processors, context
        self._logs = logger

    def debug(self, event: str, **facts: object) -> None:
        """Any level."""
        if self._logs.note is not None:
            self._logs.note("log:", event, " ".join(f"{name}={value}" for name, value in facts.items()))

    info = warning = error = critical = debug

    def exception(self, event: str, **facts: object) -> None:
        """What FairDial did not foresee."""
        self._logs.unforeseen.append(f"{event}: {sys.exc_info()[1]!r} {facts}")

    def bind(self, **_facts: object) -> "_Logger":
        """structlog's own way to a logger."""
        return self

    new = bind


@contextmanager
def hushed() -> Iterator[Logs]:
    """Nothing is logged within."""
    logs, before = Logs(), structlog.get_config()
    structlog.configure(
        wrapper_class=cast(Any, _Logger), logger_factory=lambda *_: logs, cache_logger_on_first_use=False
    )
    try:
        yield logs
    finally:
        structlog.configure(**before)


def simulate(seed: int, faults: Faults | None = None, *, whole_trace: bool = False) -> Seen:
    """One run. Raises Failure."""
    faults = faults or Faults()
    with hushed() as logs:
        world = World(seed, faults, logs.unforeseen, whole_trace=whole_trace)
        logs.note = world.trace if whole_trace else None
        try:
            seen = world.run()
        except Broken as broken:
            raise Failure(seed, broken, world.told(), faults) from None
    if whole_trace:
        seen.told = world.told()
    return seen
