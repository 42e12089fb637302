"""A replay from the files to the report: the records in order, through one policy or through two side by side.

Two policies see each call at the same moment, so that what they think of it is compared at once and nothing has to
be kept for later. Leaves to `engine` what becomes of a call, and to `report` how the result is shown.
"""

import heapq
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import tzinfo
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import Final

import msgspec

from fairdial.answer import endpoint_of
from fairdial.desk import Desk
from fairdial.ledger.contract import Usage
from fairdial.policy.account import Kind
from fairdial.policy.numbers import Habit
from fairdial.policy.periods import MS_PER_S
from fairdial.replay.attribution import Aside, Attribution
from fairdial.replay.calls import CONFERENCE, Grouping, Recorded, Sorter
from fairdial.replay.engine import Engine
from fairdial.replay.layout import Layout
from fairdial.replay.prepare import Grounds, Prepared, Site, prepare
from fairdial.replay.result import Differences, Flag, Outcome, Strangers, Tally
from fairdial.replay.source import Progress, Reading, read

TELL_EVERY: Final = 1_000
"""Calls, after which the progress is told."""
USAGE_MAX: Final = 100_000
SHARED: Final = frozenset({CONFERENCE, "Stasis"})
"""Applications whose records name others in the same bridge, each of whom is in a call of its own."""

Watch = Callable[[Desk], Callable[[int | None], Awaitable[tuple[Flag, ...]]]]
"""Abuse detectors: given the desk before the first call, they say after the last one what they saw up to its end."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to replay. zone: of the records' times; policy, against: as `prepare` takes them, against None: one run.

    codes: by what is dialled before a number, the kind of call that the dialplan then asks about.
    """

    files: tuple[Path, ...]
    zone: tzinfo
    layout: Layout | None = None
    policy: str | None = None
    against: str | None = None
    grounds: Grounds = field(default_factory=Grounds)
    codes: Mapping[str, Kind] = field(default_factory=dict)


@dataclass(slots=True)
class Result:
    """All that a replay found. policy, against: the labels of what decided.

    went_on: records that go on with another call, such as that of a leg which was transferred; no_calls: channels that
    asked for a callback, which has records of its own, and legs of calls whose own record is missing; repeated: calls
    with the id of another. from_ms, to_ms: the first start and the last end, None without a call. second: the sums
    under `against`. usage: the first USAGE_MAX meters as they stand at the end, by account; usage_left: how many more
    there are.
    """

    files: tuple[Path, ...]
    reading: Reading
    policy: str
    against: str | None
    tally: Tally
    second: Tally | None
    differences: Differences | None
    usage: tuple[tuple[str, Usage], ...] = ()
    usage_left: int = 0
    strangers: Strangers = field(default_factory=Strangers)
    calls: int = 0
    went_on: int = 0
    no_calls: int = 0
    repeated: int = 0
    from_ms: int | None = None
    to_ms: int | None = None
    flagged: tuple[Flag, ...] = ()

    @property
    def found(self) -> bool:
        """Whether anything would have been refused, cut or flagged, or is decided otherwise by the second policy."""
        others = self.differences is not None and self.differences.calls > 0
        return self.tally.found or bool(self.flagged) or others


async def replay(
    site: Site,
    wanted: Wanted,
    progress: Progress,
    told: Callable[[Outcome], None] | None = None,
    watch: Watch | None = None,
) -> Result:
    """Replay the files. told: hears each call's outcome under the (first) policy once it is over; watch: detectors that
    look on. Raises ReplayRefused, SourceUnreadable, MappingError.
    """
    reading = Reading()
    sorter = Sorter()
    runs: list[Prepared] = []
    try:
        codes = _read_in(wanted, reading, sorter, progress)
        for policy in [wanted.policy] if wanted.against is None else [wanted.policy, wanted.against]:
            runs.append(await prepare(site, wanted.grounds, policy, codes))
        gathered = _Gathered(told, two=wanted.against is not None)
        result = Result(
            wanted.files,
            reading,
            runs[0].label,
            runs[1].label if len(runs) > 1 else None,
            gathered.tally,
            gathered.second,
            gathered.differences,
        )
        flagged = None if watch is None else watch(runs[0].desk)
        await _Replay(site, runs, gathered, result, wanted.codes).through(sorter, progress)
        meters = iter(runs[0].ledger.usage())
        result.usage = tuple(islice(meters, USAGE_MAX))
        result.usage_left = sum(1 for _ in meters)
        result.flagged = () if flagged is None else await flagged(result.to_ms)
        return result
    finally:
        sorter.close()
        for run in runs:
            await run.ledger.close()


def _read_in(wanted: Wanted, reading: Reading, sorter: Sorter, progress: Progress) -> set[str]:
    """Sort all calls of the files; the account codes in them, where accounts are made up from these."""
    grouping, codes = Grouping(), set()
    for cdr, kind in read(wanted.files, wanted.zone, wanted.layout, reading, progress):
        if wanted.grounds.assumed is not None and cdr.account_code:
            codes.add(cdr.account_code)
        for call in grouping.add(cdr, kind):
            sorter.add(call)
    for call in grouping.rest():
        sorter.add(call)
    return codes


class _Gathered:
    """Outcomes as they come, from one policy or from two."""

    def __init__(self, told: Callable[[Outcome], None] | None, *, two: bool) -> None:
        self.tally = Tally()
        self.second = Tally() if two else None
        self.differences = Differences() if two else None
        self._told = told
        self._waiting: dict[int, Outcome] = {}

    def first(self, outcome: Outcome) -> None:
        """Under the first policy."""
        self.tally.add(outcome)
        if self._told is not None:
            self._told(outcome)
        if self.differences is not None:
            self._compare(outcome, is_first=True)

    def other(self, outcome: Outcome) -> None:
        """Under the second."""
        assert self.second is not None
        self.second.add(outcome)
        self._compare(outcome, is_first=False)

    def _compare(self, outcome: Outcome, *, is_first: bool) -> None:
        assert self.differences is not None
        waiting = self._waiting.pop(outcome.number, None)
        if waiting is None:
            self._waiting[outcome.number] = outcome
        elif is_first:
            self.differences.compare(outcome, waiting)
        else:
            self.differences.compare(waiting, outcome)


class _Replay:
    """The calls in their order, through every run."""

    def __init__(
        self, site: Site, runs: list[Prepared], gathered: _Gathered, result: Result, codes: Mapping[str, Kind]
    ) -> None:
        who = runs[0].who
        lines = {line.id: line for line in who.lines()}
        self._attribution = Attribution(
            lines, who.line_numbers(), site.numbering, Habit(site.rules.region), codes=codes
        )
        self._engines = [
            Engine(run.desk, run.clock, run.ledger, site.lead_s, told)
            for run, told in zip(runs, (gathered.first, gathered.other), strict=False)
        ]
        self._result = result
        self._up = _Up()
        self._rooms = _Rooms()

    async def through(self, sorter: Sorter, progress: Progress) -> None:
        """Replay all of them."""
        result, seen = self._result, 0
        for at_ms, second in groupby(sorter.calls(), key=attrgetter("start_ms")):
            new: list[tuple[int, Recorded]] = []
            ids: set[str] = set()
            for call in second:
                seen += 1
                if call.unique_id in ids:
                    result.repeated += 1  # a record that stands in two of the files
                    continue
                ids.add(call.unique_id)
                if seen % TELL_EVERY == 0:
                    progress("replaying", seen, sorter.count)
                if not self._goes_on(call):
                    new.append((seen, call))
                    self._up.add(seen, call)
                    self._rooms.add(call)
            for engine in self._engines:
                await engine.until(at_ms)
            for number, call in new:
                await self._begin(number, self._rooms.whole(call))
        for engine in self._engines:
            await engine.until(None)
        result.repeated += self._engines[0].repeated
        progress("replaying", seen, sorter.count)

    def _goes_on(self, call: Recorded) -> bool:
        """Whether it is of a leg of another call that is up, which then lasts until this ends."""
        numbers = self._up.numbers(call)
        if not numbers or call.last_app in SHARED:
            return False
        self._result.went_on += 1
        if call.answer_ms is not None:
            for number in numbers:
                for engine in self._engines:
                    engine.extend(number, call.end_ms)
            self._up.extend(numbers, call)
        return True

    async def _begin(self, number: int, call: Recorded) -> None:
        result = self._result
        asked = self._attribution.asked(call)
        if asked is Aside.NO_CALL:
            result.no_calls += 1
        elif asked is Aside.UNKNOWN:
            result.strangers.add(call.account_code or endpoint_of(call.channel) or call.channel)
        else:
            result.calls += 1
            result.from_ms = call.start_ms if result.from_ms is None else result.from_ms
            result.to_ms = max(call.end_ms, result.to_ms or call.end_ms)
            for engine in self._engines:
                await engine.begin(number, asked, call)


class _Up:
    """The channels of calls that talk, as they were recorded, whatever a policy says of the calls."""

    def __init__(self) -> None:
        self._numbers: dict[str, tuple[int, int]] = {}
        self._ends: list[tuple[int, int, tuple[str, ...]]] = []

    def add(self, number: int, call: Recorded) -> None:
        """A call begins. One that nobody answered goes on with nobody, but at the far end of a Local channel."""
        local = any(leg.startswith("Local/") for leg in call.legs)
        if (call.answer_ms is None and not local) or call.last_app in SHARED:
            return
        # A name that is not of one channel alone would make strangers' calls one.
        names = tuple(_half(name) for name in (call.channel, *call.legs) if _CHANNEL.search(name))
        for name in names:
            self._numbers[name] = (number, call.end_ms)
        heapq.heappush(self._ends, (call.end_ms, number, names))

    def extend(self, numbers: Iterable[int], call: Recorded) -> None:
        """Calls go on with further channels."""
        for number in numbers:
            self.add(number, call)

    def numbers(self, call: Recorded) -> tuple[int, ...]:
        """The calls that a record goes on with."""
        # An end and the start that follows on it can be cut down to different seconds.
        while self._ends and self._ends[0][0] < call.start_ms - MS_PER_S:
            end_ms, _, names = heapq.heappop(self._ends)
            for name in names:
                if name in self._numbers and self._numbers[name][1] <= end_ms:
                    del self._numbers[name]
        found = [self._numbers.get(_half(name)) for name in (call.channel, *call.legs)]
        return tuple(dict.fromkeys(known[0] for known in found if known is not None))


class _Rooms:
    """Until when people were in a conference: who came in later has no record from then on, the others' name it."""

    def __init__(self) -> None:
        self._until_ms: dict[str, int] = {}
        self._ends: list[tuple[int, str]] = []

    def add(self, call: Recorded) -> None:
        """A call begins, which says of others until when they were there."""
        while self._ends and self._ends[0][0] < call.start_ms - MS_PER_S:
            end_ms, name = heapq.heappop(self._ends)
            if self._until_ms.get(name) == end_ms:
                del self._until_ms[name]
        for name, end_ms in zip(call.legs, call.leg_ends_ms, strict=True) if call.in_room else ():
            if _CHANNEL.search(name) and end_ms > self._until_ms.get(name, 0):
                self._until_ms[name] = end_ms
                heapq.heappush(self._ends, (end_ms, name))

    def whole(self, call: Recorded) -> Recorded:
        """A call with all its time in the conference that is known."""
        more_ms = self._until_ms.get(call.channel, 0) - call.end_ms
        if not call.in_room or call.answer_ms is None or more_ms <= 0:
            return call
        return msgspec.structs.replace(
            call, end_ms=call.end_ms + more_ms, talk_s=call.talk_s + more_ms // MS_PER_S
        )


_CHANNEL: Final = re.compile(r"-[0-9a-f]{8}(;[12])?$")


def _half(name: str) -> str:
    """Both ends of a Local channel under one name."""
    return name[:-2] if name.endswith((";1", ";2")) else name
