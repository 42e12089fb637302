"""The switch's own records of its calls, with the shapes that `fairdial/witness.py` tells of, and the file of them.

A record is of a caller and of each channel that it rang; a called leg that was transferred away has one of its own.
They are written when their channel is gone, times cut down to the second, and what is marked is marked in each
later record of the same channel too.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

from fairdial.cdr import Cdr
from fairdial.policy.periods import MS_PER_S

UNCERTAIN_MS = 3600 * MS_PER_S
"""`CdrFile` begins so much earlier than it is told, at least."""


@dataclass(slots=True)
class Attempt:
    """What one record will say. Instants are UTC milliseconds. reached: the other side answered."""

    other: str
    start_ms: int
    answer_ms: int | None = None
    end_ms: int | None = None
    reached: bool = False
    user_field: str = ""

    def end(self, now_ms: int) -> None:
        """It is over, unless it was before."""
        if self.end_ms is None:
            self.end_ms = now_ms


def written(channel_id: str, name: str, attempts: Sequence[Attempt]) -> list[Cdr]:
    """The records of a channel that is gone."""
    return [_cdr(channel_id, name, attempt) for attempt in attempts]


def _cdr(channel_id: str, name: str, attempt: Attempt) -> Cdr:
    assert attempt.end_ms is not None
    talks = attempt.reached or (not attempt.other and attempt.answer_ms is not None)
    return Cdr(
        unique_id=channel_id,
        channel=name,
        dst_channel=attempt.other,
        account_code="",
        src="",
        dst="",
        context="",
        last_app="Dial" if attempt.other else "Hangup",
        last_data="",
        start_ms=_whole(attempt.start_ms),
        answer_ms=None if attempt.answer_ms is None else _whole(attempt.answer_ms),
        end_ms=_whole(attempt.end_ms),
        duration_s=max(0, attempt.end_ms - attempt.start_ms) // MS_PER_S,
        bill_s=max(0, attempt.end_ms - (attempt.answer_ms or attempt.end_ms)) // MS_PER_S,
        disposition="ANSWERED" if talks else "NO ANSWER",
        user_field=attempt.user_field,
    )


def _whole(instant_ms: int) -> int:
    return instant_ms // MS_PER_S * MS_PER_S


class RecordFile:
    """Stands where `SwitchRecords` has its `CdrFile`. rows: what the switch has written so far."""

    def __init__(self, rows: Sequence[Cdr], chance: random.Random) -> None:
        self.more = False
        self._rows = rows
        self._chance = chance
        self._at = 0

    async def begin(self, since_ms: int) -> bool:
        """Leave out what ended long before."""
        await self._look()
        from_ms = since_ms - UNCERTAIN_MS
        self._at = next((at for at, row in enumerate(self._rows) if row.end_ms >= from_ms), len(self._rows))
        return True

    async def read_new(self) -> Sequence[Cdr]:
        """What was written since."""
        await self._look()
        found = self._rows[self._at :]
        self._at += len(found)
        return found

    async def close(self) -> None:
        """Nothing is held."""

    async def _look(self) -> None:
        await asyncio.sleep(self._chance.random() ** 4 * 0.05)
