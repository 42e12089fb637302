"""When an event happened, told from when it was read.

A call's length must not depend on how long its events waited to be read: a process that was held up
reads the answer and the end of a call in the same millisecond. Each event carries the switch's wall
clock; its age is our wall clock less that. The age is taken off the moment of reading, on both clocks.
A clock that is set on the machine of both cancels out, as the age is not changed by it; of an event that was under way
just then it is, but none is older than the last that was read without delay. Where the switch is another machine, the
smallest age of the last minutes is how far the two clocks are apart.

A new connection has no such age yet, and may begin with a process that is held up, to which all ages are large alike.
But nothing on it is older than the connection, and no answer than its request: where that allows that the two clocks
are one, they are taken for one.
"""

from datetime import datetime

from fairdial.clock import Moment

BUCKET_MS = 60_000
PROMPT_MS = 1_000
"""A delay below this counts as none."""


def unix_ms(timestamp: str) -> int | None:
    """Milliseconds since the epoch of a timestamp of the switch (ISO 8601 with offset); None: it is none."""
    try:
        return round(datetime.fromisoformat(timestamp).timestamp() * 1000)
    except ValueError:
        return None


class EventTime:
    """Translates timestamps of one switch. Make a new one for each connection, `begun` at that moment."""

    def __init__(self, begun: Moment) -> None:
        self._begun_ms: int | None = begun.mono_ms
        self._bucket_began_ms: int | None = None
        self._smallest_ms = 0
        self._smallest_before_ms: int | None = None
        self._least_apart_ms: int | None = None
        self._prompt_ms = begun.mono_ms

    def happened(self, timestamp: str, read: Moment, asked: Moment | None = None) -> Moment:
        """The moment of an event with that timestamp (ISO 8601 with offset), read at `read`.

        asked: of an answer, when it was asked for. Never later than `read`. A timestamp that cannot be understood
        counts as "now".
        """
        stamped_ms = unix_ms(timestamp)
        if stamped_ms is None:
            return read
        age_ms = read.wall_ms - stamped_ms
        self._not_before(age_ms, read, self._begun_ms if asked is None else asked.mono_ms)
        delay_ms = age_ms - self._apart_ms(age_ms, read.mono_ms)
        if delay_ms > read.mono_ms - self._prompt_ms + PROMPT_MS:
            # Events come in order: this is a clock that was set, and what was known of it is void.
            self._begin(age_ms, read.mono_ms)
            return read
        if delay_ms < PROMPT_MS:
            self._prompt_ms = read.mono_ms
        return Moment(read.wall_ms - delay_ms, read.mono_ms - delay_ms)

    def _begin(self, age_ms: int, mono_ms: int) -> None:
        self._bucket_began_ms = self._prompt_ms = mono_ms
        self._smallest_ms, self._smallest_before_ms = age_ms, None
        # Of a clock that was set, only an answer tells how far it is from ours.
        self._least_apart_ms = self._begun_ms = None

    def _not_before(self, age_ms: int, read: Moment, earliest_ms: int | None) -> None:
        """It did not happen before `earliest_ms` (monotonic): the clocks are at least so far apart."""
        if earliest_ms is not None:
            apart_ms = age_ms - (read.mono_ms - earliest_ms)
            least_ms = apart_ms if self._least_apart_ms is None else self._least_apart_ms
            self._least_apart_ms = max(apart_ms, least_ms)

    def _apart_ms(self, age_ms: int, mono_ms: int) -> int:
        """How far the clocks are apart: not at all where that can be, else as far as anything says."""
        most_ms = self._smallest_age_ms(age_ms, mono_ms)
        one = self._least_apart_ms is not None and self._least_apart_ms <= 0 <= most_ms
        return 0 if one else most_ms

    def _smallest_age_ms(self, age_ms: int, mono_ms: int) -> int:
        """The smallest age in this and the last bucket of time."""
        if self._bucket_began_ms is None:
            self._bucket_began_ms, self._smallest_ms = mono_ms, age_ms
        elif mono_ms - self._bucket_began_ms >= BUCKET_MS:
            # A smallest age that is for ever would follow clocks that drift apart only in one direction.
            self._smallest_before_ms = self._smallest_ms
            self._bucket_began_ms, self._smallest_ms = mono_ms, age_ms
        self._smallest_ms = min(self._smallest_ms, age_ms)
        before_ms = self._smallest_ms if self._smallest_before_ms is None else self._smallest_before_ms
        return min(self._smallest_ms, before_ms)
