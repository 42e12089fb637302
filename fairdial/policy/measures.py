"""Measures of how an account uses the service: what a detector of the policy file can watch.

Each is fed with what happens to the account's calls, one after the other, and says at any time what it amounts to in
its window. Nothing is counted again from the start; what is kept of an account is bounded by KEPT_MAX for each
measure. Time is an argument (UTC milliseconds). Windows slide: an hour is the last sixty minutes, a month thirty days.

Leaves to `patterns.py` which detector watches what and when it speaks, to `peers.py` what needs other accounts.
"""

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from statistics import fmean
from typing import Final, Protocol
from zoneinfo import ZoneInfo

from fairdial.policy.account import Kind
from fairdial.policy.history import (
    CALLS,
    INCOMING,
    LIVE_MAX,
    MESSAGES,
    OUTGOING,
    Answer,
    Attempt,
    End,
    Event,
    Live,
    Noted,
)
from fairdial.policy.periods import MS_PER_S, Period, hour_of_day
from fairdial.policy.sliding import KEPT_MAX, Groups, Sizes, Sum

KNOWN_MAX: Final = 5_000
"""Numbers and countries that an account is known to call; the one called longest ago is forgotten first."""

WINDOW_MS: Final[Mapping[Period, int]] = {
    Period.MINUTE: 60 * MS_PER_S,
    Period.HOUR: 3600 * MS_PER_S,
    Period.DAY: 86_400 * MS_PER_S,
    Period.MONTH: 30 * 86_400 * MS_PER_S,
    Period.CYCLE: 30 * 86_400 * MS_PER_S,
}
"""How long a window slides over."""


class Measure(Protocol):
    """Something that is measured of one account."""

    def see(self, event: Event, call: Live | None) -> None:
        """Take an event in. call: the one that it belongs to, where that is followed."""
        ...

    def value(self, now_ms: int) -> float | None:
        """What it amounts to now; None: too little is known to say."""
        ...


@dataclass(frozen=True, slots=True)
class Setting:
    """How a detector sets its measure. at_least: fewer calls say nothing; seconds: what is short, or long."""

    window_ms: int
    seconds: int
    at_least: int
    zone: ZoneInfo


# --- the measures --------------------------------------------------------------------------------


class _Counted:
    """How many events of a kind there were, or the sum of what they amount to."""

    __slots__ = ("_amount", "_sum")

    def __init__(self, setting: Setting, amount: Callable[[Event, Live | None], float]) -> None:
        self._sum = Sum(setting.window_ms)
        self._amount = amount

    def see(self, event: Event, call: Live | None) -> None:
        amount = self._amount(event, call)
        if amount:
            self._sum.add(event.at_ms, amount)

    def value(self, now_ms: int) -> float | None:
        self._sum.slide(now_ms)
        return self._sum.total


class _Share:
    """Of the calls that are looked at, the share for which something holds. None of the call: it is not looked at."""

    __slots__ = ("_at_least", "_holds", "_sum")

    def __init__(self, setting: Setting, holds: Callable[[Event, Live | None], bool | None]) -> None:
        self._sum = Sum(setting.window_ms)
        self._at_least = setting.at_least
        self._holds = holds

    def see(self, event: Event, call: Live | None) -> None:
        holds = self._holds(event, call)
        if holds is not None:
            self._sum.add(event.at_ms, int(holds))

    def value(self, now_ms: int) -> float | None:
        self._sum.slide(now_ms)
        if not len(self._sum) or len(self._sum) < self._at_least:
            return None
        return self._sum.total / len(self._sum)


class _Length:
    """The mean or median length of answered outgoing calls, in seconds."""

    __slots__ = ("_at_least", "_kept", "_median", "_sorted", "_window_ms")

    def __init__(self, setting: Setting, *, median: bool) -> None:
        self._window_ms = setting.window_ms
        self._at_least = max(1, setting.at_least)
        self._median = median
        self._kept: deque[tuple[int, int]] = deque()
        self._sorted: list[int] = []

    def see(self, event: Event, call: Live | None) -> None:
        used_s = _talked_s(event, call)
        if used_s is None:
            return
        if len(self._kept) == KEPT_MAX:
            self._drop()
        self._kept.append((event.at_ms, used_s))
        insort(self._sorted, used_s)

    def value(self, now_ms: int) -> float | None:
        while self._kept and self._kept[0][0] <= now_ms - self._window_ms:
            self._drop()
        if len(self._sorted) < self._at_least:
            return None
        if not self._median:
            return fmean(self._sorted)
        middle = len(self._sorted) // 2
        return (self._sorted[middle] + self._sorted[-middle - 1]) / 2

    def _drop(self) -> None:
        _, used_s = self._kept.popleft()
        del self._sorted[bisect_left(self._sorted, used_s)]


class _DistinctKeys:
    """How many different numbers, callers or networks there were; by line, the most of one line."""

    __slots__ = ("_groups", "_key")

    def __init__(self, setting: Setting, key: Callable[[Event], tuple[str, str] | None]) -> None:
        self._groups = Groups(setting.window_ms)
        self._key = key

    def see(self, event: Event, call: Live | None) -> None:
        key = self._key(event)
        if key is not None:
            self._groups.add(event.at_ms, *key)

    def value(self, now_ms: int) -> float | None:
        self._groups.slide(now_ms)
        return self._groups.largest


class _FirstSeen:
    """How many numbers or countries were called in the window that the account had never called before.

    An account says nothing before it was seen for a whole window and has placed `at_least` calls before it.
    """

    __slots__ = ("_attempts", "_key", "_known", "_new", "_setting", "_since_ms")

    def __init__(self, setting: Setting, key: Callable[[Attempt], str | None]) -> None:
        self._setting = setting
        self._key = key
        self._known: OrderedDict[str, None] = OrderedDict()
        self._new = Groups(setting.window_ms)
        self._since_ms: int | None = None
        self._attempts = 0

    def see(self, event: Event, call: Live | None) -> None:
        if not isinstance(event, Attempt) or event.kind not in OUTGOING:
            return
        key = self._key(event)
        if key is None:
            return
        since_ms = self._since_ms if self._since_ms is not None else event.at_ms
        self._since_ms = since_ms
        learned = event.at_ms - since_ms >= self._setting.window_ms
        if key not in self._known and learned and self._attempts >= self._setting.at_least:
            self._new.add(event.at_ms, "", key)
        self._attempts += 1
        self._known[key] = None
        self._known.move_to_end(key)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    def value(self, now_ms: int) -> float | None:
        self._new.slide(now_ms)
        return self._new.largest


class _Sequence:
    """How many numbers in a row were dialled one after the other by their digits: up or down in small steps, or in
    equal ones. The same number again neither counts nor ends it.
    """

    __slots__ = ("_last", "_step", "_times", "_window_ms")

    CLOSE: Final = 10

    def __init__(self, setting: Setting) -> None:
        self._window_ms = setting.window_ms
        self._last: int | None = None
        self._step = 0
        self._times: deque[int] = deque(maxlen=KEPT_MAX)

    def see(self, event: Event, call: Live | None) -> None:
        if not isinstance(event, Attempt) or event.kind not in OUTGOING:
            return
        digits = event.callee.lstrip("+")
        number = int(digits) if digits.isascii() and digits.isdigit() else None
        if number is None or self._last is None or not self._times:
            self._last, self._step = number, 0
            self._times.clear()
            if number is not None:
                self._times.append(event.at_ms)
            return
        step = number - self._last
        if not step:
            return
        goes_on = step == self._step or (0 < abs(step) <= self.CLOSE and step * self._step >= 0)
        if not goes_on:
            # The step to here may be the first of another row.
            last_ms = self._times[-1]
            self._times.clear()
            self._times.append(last_ms)
        self._step, self._last = step, number
        self._times.append(event.at_ms)

    def value(self, now_ms: int) -> float | None:
        while self._times and self._times[0] <= now_ms - self._window_ms:
            self._times.popleft()
        # Any two numbers are a step apart.
        return len(self._times) if len(self._times) > 2 else 0


class _Regular:
    """How many dials in a row came as regularly as a machine's: each as long after the one before as those before it,
    to a tenth of that, or a quarter of a second.
    """

    __slots__ = ("_mean_ms", "_times", "_window_ms")

    SHARE: Final = 0.1
    NEAR_MS: Final = 250

    def __init__(self, setting: Setting) -> None:
        self._window_ms = setting.window_ms
        self._times: deque[int] = deque(maxlen=KEPT_MAX)
        self._mean_ms = 0.0

    def see(self, event: Event, call: Live | None) -> None:
        if not isinstance(event, Attempt) or event.kind not in OUTGOING:
            return
        if len(self._times) < 2:
            self._times.append(event.at_ms)
            self._mean_ms = self._times[-1] - self._times[0]
            return
        gap_ms = event.at_ms - self._times[-1]
        if abs(gap_ms - self._mean_ms) <= max(self.NEAR_MS, self.SHARE * self._mean_ms):
            gaps = len(self._times) - 1
            self._mean_ms += (gap_ms - self._mean_ms) / (gaps + 1)
        else:
            last_ms = self._times[-1]
            self._times.clear()
            self._times.append(last_ms)
            self._mean_ms = gap_ms
        self._times.append(event.at_ms)

    def value(self, now_ms: int) -> float | None:
        while self._times and self._times[0] <= now_ms - self._window_ms:
            self._times.popleft()
        # Two gaps can be alike by chance, one always is.
        return len(self._times) if len(self._times) > 3 else 0


class _AtOnce:
    """How many calls of a group are in progress at once: the largest group. None: the call is in no group."""

    __slots__ = ("_counted", "_group", "_sizes")

    def __init__(self, group: Callable[[Attempt], str | None]) -> None:
        self._group = group
        self._sizes = Sizes()
        self._counted: dict[str, str] = {}

    def see(self, event: Event, call: Live | None) -> None:
        if isinstance(event, Attempt):
            group = None if call is None else self._group(event)
            if group is not None and event.call_id not in self._counted:
                self._counted[event.call_id] = group
                self._sizes.change(group, +1)
        elif isinstance(event, End):
            group = self._counted.pop(event.call_id, None)
            if group is not None:
                self._sizes.change(group, -1)

    def value(self, now_ms: int) -> float | None:
        return self._sizes.largest


class _Forwarded:
    """How many calls of one line go on to one number at once: as many as came in for the line and go out to it."""

    __slots__ = ("_came_in", "_counted", "_goes_out", "_latest")

    def __init__(self) -> None:
        self._came_in = Sizes()
        self._goes_out = Sizes()
        self._latest: Attempt | None = None
        self._counted: dict[str, tuple[Sizes, str]] = {}

    def see(self, event: Event, call: Live | None) -> None:
        if isinstance(event, Attempt) and call is not None and event.call_id not in self._counted:
            if event.kind in INCOMING:
                self._take(event, self._came_in, event.line_id)
            elif event.kind in OUTGOING:
                self._latest = event
                self._take(event, self._goes_out, _line_and_callee(event))
        elif isinstance(event, End) and event.call_id in self._counted:
            sizes, group = self._counted.pop(event.call_id)
            sizes.change(group, -1)

    def value(self, now_ms: int) -> float | None:
        latest = self._latest
        if latest is None:
            return 0
        return min(self._came_in[latest.line_id], self._goes_out[_line_and_callee(latest)])

    def _take(self, attempt: Attempt, sizes: Sizes, group: str) -> None:
        self._counted[attempt.call_id] = sizes, group
        sizes.change(group, +1)


class _OddHours:
    """How many calls were placed at hours of the day at which the account hardly ever calls."""

    __slots__ = ("_at_least", "_by_hour", "_odd", "_zone")

    RARE: Final = 0.01

    def __init__(self, setting: Setting) -> None:
        self._zone = setting.zone
        self._at_least = max(100, setting.at_least)
        self._by_hour = [0] * 24
        self._odd = Sum(setting.window_ms)

    def see(self, event: Event, call: Live | None) -> None:
        if not isinstance(event, Attempt) or event.kind not in OUTGOING:
            return
        hour = hour_of_day(self._zone, event.at_ms)
        known = sum(self._by_hour)
        # The hours around count too: nobody keeps to the minute.
        near = self._by_hour[hour - 1] + self._by_hour[hour] + self._by_hour[(hour + 1) % 24]
        if known >= self._at_least and near < self.RARE * known:
            self._odd.add(event.at_ms, 1)
        self._by_hour[hour] += 1
        if known >= KEPT_MAX:
            # What was long ago counts less and less.
            self._by_hour = [count // 2 for count in self._by_hour]

    def value(self, now_ms: int) -> float | None:
        self._odd.slide(now_ms)
        return self._odd.total


# --- what each looks at --------------------------------------------------------------------------


def _is_attempt(kinds: frozenset[Kind]) -> Callable[[Event, Live | None], float]:
    return lambda event, _: isinstance(event, Attempt) and event.kind in kinds


def _is_video(event: Event, _: Live | None) -> float:
    return isinstance(event, Attempt) and event.video and event.kind in CALLS


def _is_answer(event: Event, call: Live | None) -> float:
    return isinstance(event, Answer) and call is not None and call.attempt.kind in OUTGOING


def _used_s(event: Event, call: Live | None) -> float:
    return event.used_s if isinstance(event, End) and call is not None else 0


def _cost(event: Event, call: Live | None) -> float:
    return event.cost_micros / 1_000_000 if isinstance(event, End) and call is not None else 0


def _talked_s(event: Event, call: Live | None) -> int | None:
    """Length of an answered outgoing call that has just ended."""
    if not isinstance(event, End) or call is None or call.answered_ms is None:
        return None
    return event.used_s if call.attempt.kind in OUTGOING else None


def _was_answered(event: Event, call: Live | None) -> bool | None:
    if not isinstance(event, End) or call is None or call.attempt.kind not in OUTGOING:
        return None
    return call.answered_ms is not None


def _came_in(event: Event, call: Live | None) -> bool | None:
    if not isinstance(event, Answer) or call is None:
        return None
    return call.attempt.kind in INCOMING


def _codec(event: Event) -> tuple[str, str] | None:
    if not isinstance(event, Attempt) or not event.codec or event.kind not in OUTGOING:
        return None
    return event.line_id, event.codec


def _callee(event: Event) -> tuple[str, str] | None:
    return (event.line_id, event.callee) if isinstance(event, Attempt) and event.kind in OUTGOING else None


def _block(event: Event) -> tuple[str, str] | None:
    """Numbers that differ in their last two digits alone."""
    return (
        (event.callee[:-2], event.callee) if isinstance(event, Attempt) and event.kind in OUTGOING else None
    )


def _caller(event: Event) -> tuple[str, str] | None:
    return (event.line_id, event.caller) if isinstance(event, Attempt) and event.kind in INCOMING else None


def _recipient(event: Event) -> tuple[str, str] | None:
    return (event.line_id, event.callee) if isinstance(event, Attempt) and event.kind in MESSAGES else None


def _text_and_recipient(event: Event) -> tuple[str, str] | None:
    """A text is one whichever line sends it."""
    return (event.text, event.callee) if isinstance(event, Attempt) and event.text else None


def _line_and_callee(attempt: Attempt) -> str:
    return f"{attempt.line_id} {attempt.callee}"


def _noted(measure: str) -> Callable[[Event], tuple[str, str] | None]:
    def key(event: Event) -> tuple[str, str] | None:
        return (event.of, event.key) if isinstance(event, Noted) and event.measure == measure else None

    return key


class _LongCalls:
    """How many long calls went to one range: numbers that differ in their last four digits alone."""

    __slots__ = ("_groups", "_seconds")

    def __init__(self, setting: Setting) -> None:
        self._seconds = setting.seconds
        self._groups = Groups(setting.window_ms)

    def see(self, event: Event, call: Live | None) -> None:
        used_s = _talked_s(event, call)
        if used_s is not None and used_s >= self._seconds and call is not None:
            callee = call.attempt.callee
            if callee.startswith("+"):
                self._groups.add(event.at_ms, callee[:-4], call.attempt.call_id)

    def value(self, now_ms: int) -> float | None:
        self._groups.slide(now_ms)
        return self._groups.largest


def _short(setting: Setting) -> Measure:
    def is_short(event: Event, call: Live | None) -> bool | None:
        used_s = _talked_s(event, call)
        return None if used_s is None else used_s < setting.seconds

    return _Share(setting, is_short)


def _failed_login(event: Event, _: Live | None) -> float:
    return isinstance(event, Noted) and event.measure == "failed_logins"


@dataclass(frozen=True, slots=True)
class Measured:
    """A measure as the policy file names it.

    make: one for an account, None where something else watches (`peers.py`, or nothing yet). services: what it is
    about, and what a restriction takes where the file names nothing else. seconds, at_least: where the file sets none.
    most: more it never is.
    """

    what: str
    make: Callable[[Setting], Measure] | None
    services: frozenset[Kind]
    seconds: int = 0
    at_least: int = 0
    most: float = KEPT_MAX


SAME_TEXT: Final = "same_text_recipients"
"""The measure for which fingerprints of texts are kept."""

_OUT = OUTGOING
MEASURES: Final[Mapping[str, Measured]] = {
    "attempts": Measured("dials", lambda s: _Counted(s, _is_attempt(_OUT)), _OUT),
    "answers": Measured("answered calls", lambda s: _Counted(s, _is_answer), _OUT),
    "video_calls": Measured("calls with a picture", lambda s: _Counted(s, _is_video), CALLS),
    "codecs_of_a_line": Measured("codecs of one line", lambda s: _DistinctKeys(s, _codec), _OUT),
    "answer_ratio": Measured(
        "share of dials that are answered", lambda s: _Share(s, _was_answered), _OUT, at_least=30, most=1
    ),
    "mean_talk_s": Measured(
        "mean length in seconds", lambda s: _Length(s, median=False), _OUT, at_least=30, most=inf
    ),
    "median_talk_s": Measured(
        "median length in seconds", lambda s: _Length(s, median=True), _OUT, at_least=30, most=inf
    ),
    "short_call_ratio": Measured("share of short calls", _short, _OUT, seconds=10, at_least=30, most=1),
    "talk_s": Measured("seconds of talk", lambda s: _Counted(s, _used_s), CALLS, most=inf),
    "cost": Measured("cost of calls", lambda s: _Counted(s, _cost), _OUT, most=inf),
    "distinct_callees": Measured(
        "different numbers called by one line", lambda s: _DistinctKeys(s, _callee), _OUT
    ),
    "new_callees": Measured(
        "numbers never called before", lambda s: _FirstSeen(s, lambda a: a.callee), _OUT, at_least=20
    ),
    "new_countries": Measured(
        "countries never called before", lambda s: _FirstSeen(s, lambda a: a.country), _OUT, at_least=20
    ),
    "sequential_numbers": Measured("numbers in sequence", _Sequence, _OUT),
    "dense_numbers": Measured("numbers of one hundred", lambda s: _DistinctKeys(s, _block), _OUT),
    "regular_attempts": Measured("dials at machine-regular intervals", _Regular, _OUT),
    "simultaneous_calls": Measured("calls at once", lambda _: _AtOnce(lambda a: ""), CALLS, most=LIVE_MAX),
    "simultaneous_to_one": Measured(
        "calls at once to one number",
        lambda _: _AtOnce(lambda a: a.callee if a.kind in OUTGOING else None),
        _OUT,
        most=LIVE_MAX,
    ),
    "simultaneous_forwarded_calls": Measured(
        "calls forwarded at once to one number", lambda _: _Forwarded(), _OUT, most=LIVE_MAX
    ),
    "simultaneous_callers": Measured(
        "callers of one line at once",
        lambda _: _AtOnce(lambda a: a.line_id if a.kind in INCOMING else None),
        INCOMING,
        most=LIVE_MAX,
    ),
    "distinct_callers": Measured(
        "different callers of one line", lambda s: _DistinctKeys(s, _caller), INCOMING
    ),
    "long_calls_to_range": Measured("long calls to one range of numbers", _LongCalls, _OUT, seconds=300),
    "odd_hour_calls": Measured("calls at unusual hours", _OddHours, _OUT),
    "inbound_share": Measured(
        "share of answered calls that came in", lambda s: _Share(s, _came_in), INCOMING, at_least=30, most=1
    ),
    "messages": Measured("messages", lambda s: _Counted(s, _is_attempt(MESSAGES)), MESSAGES),
    "message_recipients": Measured(
        "different recipients of one line's messages", lambda s: _DistinctKeys(s, _recipient), MESSAGES
    ),
    "complaints": Measured("complaints", None, CALLS | MESSAGES),
    "failed_logins": Measured("failed logins", lambda s: _Counted(s, _failed_login), CALLS | MESSAGES),
    "networks_of_a_line": Measured(
        "networks of one line", lambda s: _DistinctKeys(s, _noted("networks_of_a_line")), CALLS | MESSAGES
    ),
    "agents_of_a_line": Measured(
        "user agents of one line", lambda s: _DistinctKeys(s, _noted("agents_of_a_line")), CALLS | MESSAGES
    ),
    "pbx_agents": Measured(
        "lines of a PBX or dialler", lambda s: _DistinctKeys(s, _noted("pbx_agents")), CALLS | MESSAGES
    ),
    "times_median_of_cohort": Measured(
        "times the median of the accounts on the plan", None, CALLS | MESSAGES, most=inf
    ),
    "times_declared_estimate": Measured("times the declared estimate", None, CALLS | MESSAGES, most=inf),
    SAME_TEXT: Measured("recipients of one text", lambda s: _DistinctKeys(s, _text_and_recipient), MESSAGES),
}
"""What a detector can watch, by the name in the policy file."""

COHORT: Final = "times_median_of_cohort"
PEERS: Final = frozenset({COHORT, "times_declared_estimate"})
"""Measures that need other accounts, or a whole month: taken for all accounts at once (`peers.py`)."""
COMPLAINTS: Final = "complaints"
"""The measure that is counted where complaints are taken down."""

OVERAGE_MONTHS: Final = "overage_months_in_a_row"
LADDER_MEASURES: Final[Mapping[str, str]] = {
    "open_cases": "open cases",
    OVERAGE_MONTHS: "months in a row with use past the allowance",
}
"""What a rung of the ladder can look at, by the name in the policy file."""
