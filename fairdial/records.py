"""The switch's records of its calls, as they are followed while FairDial runs: the file, and the events of AMI.

Responsible for reading what is new, for keeping it where it is looked up, and for setting aside the calls that the
failure rule let through (`late.py`). What cannot be read now is read later; nobody waits for it.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Mapping
from datetime import tzinfo
from pathlib import Path

import structlog

from fairdial.cdr import LATE_MS, Cdr, MalformedCdr, cdr_of_event
from fairdial.cdr_file import CdrFile, CdrUnreadable
from fairdial.clock import Clock
from fairdial.late import LetThrough, let_through
from fairdial.witness import Witness

log = structlog.get_logger(__name__)

LET_THROUGH_MAX = 100_000
"""Calls that wait to be metered; past it the oldest is found again when FairDial is started next."""


class SwitchRecords:
    """Records of one switch. file: Master.csv, read as it grows; zone: of its times, and of those of AMI events."""

    def __init__(self, file: Path | None, zone: tzinfo, events_zone: tzinfo, clock: Clock) -> None:
        self._file = None if file is None else CdrFile(file, zone)
        self._events_zone = events_zone
        self._clock = clock
        self._witness = Witness()
        self._let_through: deque[tuple[Cdr, LetThrough]] = deque(maxlen=LET_THROUGH_MAX)
        self._reading = asyncio.Lock()
        self._unreadable = ""

    async def begin(self, since_ms: int) -> None:
        """Start with the records of calls that ended after `since_ms` (UTC)."""
        if self._file is None:
            return
        try:
            await self._file.begin(since_ms)
        except CdrUnreadable as error:
            self._tell(str(error))

    async def refresh(self) -> None:
        """Read what was written since."""
        if self._file is None:
            return
        async with self._reading:
            try:
                while True:
                    for cdr in await self._file.read_new():
                        self._note(cdr)
                    if not self._file.more:
                        break
            except CdrUnreadable as error:
                self._tell(str(error))
                return
        self._unreadable = ""

    def heard(self, headers: Mapping[str, str]) -> None:
        """An AMI event `Cdr` came."""
        try:
            after_ms = self._clock.now().wall_ms - LATE_MS
            self._note(cdr_of_event(headers, self._events_zone, after_ms=after_ms))
        except MalformedCdr as error:
            log.warning("cdr_malformed", error=str(error))

    def of(self, channel_id: str, *leg_ids: str) -> tuple[Cdr, ...]:
        """All that is known of a call's channels."""
        return self._witness.of(channel_id, *leg_ids)

    def forget(self, before_ms: int, keep: Collection[str]) -> None:
        """Records of calls that ended before that (UTC) are needed no more, but for those of these channels."""
        self._witness.forget(before_ms, keep)

    def next_let_through(self) -> tuple[Cdr, LetThrough] | None:
        """The first of the calls that were let through and have not been metered; None: there is none."""
        return self._let_through[0] if self._let_through else None

    def metered(self) -> None:
        """The first of them is done with."""
        self._let_through.popleft()

    async def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            await self._file.close()

    def _note(self, cdr: Cdr) -> None:
        if not self._witness.note(cdr):
            return
        dial = let_through(cdr)
        if dial is not None:
            self._let_through.append((cdr, dial))

    def _tell(self, fault: str) -> None:
        if fault != self._unreadable:
            log.error("cdrs_not_read", error=fault)
        self._unreadable = fault
