"""A wall clock that is set in mid-call, a clock change, the end of a month: what is metered is what was talked."""

import ast
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ari_handlers.event_time import EventTime
from fairdial.clock import Moment, SystemClock
from fairdial.policy.call import Answered, CallerEnded, Ended, LegEnded, Renewed, Ringing, State, advance
from fairdial.policy.periods import Period, split_s, windows_over
from fairdial.rounds import PROVE_EVERY_S
from tests.unit.test_architecture import SOURCES, is_within

NOON_MS = int(datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp() * 1000)
HOUR_MS = 3_600_000
PING_EVERY_MS = round(PROVE_EVERY_S * 1000)
JUMPS_MS = st.sampled_from([HOUR_MS, -HOUR_MS, HOUR_MS // 2, -HOUR_MS // 2]) | st.integers(-HOUR_MS, HOUR_MS)


def stamp(wall_ms: int) -> str:
    at = datetime.fromtimestamp(wall_ms / 1000, UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}+0000"


class Machine:
    """A machine with switch and FairDial, whose wall clock is set by `jump_ms` at `at_ms` of the real time."""

    def __init__(self, at_ms: int, jump_ms: int) -> None:
        self._at_ms, self._jump_ms = at_ms, jump_ms
        self.times = EventTime(self.moment(0))

    def moment(self, real_ms: int) -> Moment:
        set_by_ms = self._jump_ms if real_ms >= self._at_ms else 0
        return Moment(NOON_MS + real_ms + set_by_ms, 7_000 + real_ms)

    def heard(self, happened_ms: int, read_ms: int) -> Moment:
        """An event, with the switch's timestamp of then, that is read now."""
        return self.times.happened(stamp(self.moment(happened_ms).wall_ms), self.moment(read_ms))


@given(
    calls=st.lists(st.tuples(st.integers(0, 20_000), st.integers(100, 20_000)), min_size=1, max_size=12),
    delays_ms=st.lists(st.integers(0, 40), min_size=25, max_size=25),
    at_ms=st.integers(0, 41_000),
    jump_ms=JUMPS_MS,
)
@example(calls=[(0, 10_000), (9_000, 5_000)], delays_ms=[0] + [5] * 24, at_ms=9_003, jump_ms=-HOUR_MS)
@example(calls=[(0, 10_000), (9_000, 5_000)], delays_ms=[0] + [5] * 24, at_ms=9_003, jump_ms=HOUR_MS)
def test_a_wall_clock_that_is_set_in_mid_call_changes_nothing_that_is_metered(
    calls: list[tuple[int, int]], delays_ms: list[int], at_ms: int, jump_ms: int
) -> None:
    """Also where the event of an answer or an end is under way just then."""
    machine = Machine(at_ms, jump_ms)
    events = sorted(
        [(start_ms, number, False) for number, (start_ms, _) in enumerate(calls)]
        + [(start_ms + talk_ms, number, True) for number, (start_ms, talk_ms) in enumerate(calls)]
    )
    states: dict[int, State] = {number: Ringing(600) for number in range(len(calls))}
    read_ms = pinged_ms = 0
    for (happened_ms, number, is_end), delay_ms in zip(events, delays_ms, strict=False):
        # The answer to a ping comes every two seconds (rounds.py).
        while pinged_ms <= happened_ms:
            machine.heard(pinged_ms, pinged_ms)
            pinged_ms += PING_EVERY_MS
        read_ms = max(read_ms, happened_ms + delay_ms)
        mono_ms = machine.heard(happened_ms, read_ms).mono_ms
        if is_end:
            states[number] = advance(advance(states[number], LegEnded("leg", mono_ms)), CallerEnded(mono_ms))
        else:
            states[number] = advance(states[number], Answered("leg", mono_ms))
    for number, (_, talk_ms) in enumerate(calls):
        ended = states[number]
        assert isinstance(ended, Ended)
        # Set by less than the time between two pings, a clock cannot be told from a delay.
        assert abs(ended.used_s - max(1, talk_ms / 1000)) <= PING_EVERY_MS / 1000 + 2


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS])
def test_a_lease_runs_by_the_clock_that_nobody_sets(jump_ms: int) -> None:
    machine = Machine(5_000, jump_ms)
    state = advance(Ringing(60), Answered("leg", machine.moment(0).mono_ms))
    state = advance(state, Renewed(90))
    state = advance(state, LegEnded("leg", machine.moment(90_000).mono_ms))
    ended = advance(state, CallerEnded(machine.moment(90_000).mono_ms))
    assert ended == Ended(90)


@pytest.mark.parametrize(
    ("zone", "period", "answered", "used_s", "parts"),
    [
        # The clocks go forward at 01:00, and back at 02:00: a call of two hours stays one of two hours.
        ("Europe/London", Period.DAY, "2026-03-29 00:30", 7_200, (7_200,)),
        ("Europe/London", Period.DAY, "2026-10-25 00:30", 7_200, (7_200,)),
        # Into the day that begins after 23, and after 25 hours.
        ("Europe/London", Period.DAY, "2026-03-29 22:30", 3_600, (1_800, 1_800)),
        ("Europe/London", Period.DAY, "2026-10-25 23:30", 3_600, (1_800, 1_800)),
        # The end of a month whose first midnight is summer time's.
        ("Europe/London", Period.MONTH, "2026-03-31 22:59", 120, (60, 60)),
        ("UTC", Period.MONTH, "2026-11-30 23:59", 121, (60, 61)),
        # February of a year without a 29th.
        ("Asia/Kolkata", Period.MONTH, "2026-02-28 18:29", 90, (60, 30)),
    ],
)
def test_a_call_over_a_clock_change_or_the_end_of_a_month_is_split_there(
    zone: str, period: Period, answered: str, used_s: int, parts: tuple[int, ...]
) -> None:
    start_ms = int(datetime.fromisoformat(answered).replace(tzinfo=UTC).timestamp() * 1000)
    windows = windows_over(period, ZoneInfo(zone), start_ms, start_ms + used_s * 1000)
    assert split_s(start_ms, used_s, windows) == parts


# --- time is read in one place -----------------------------------------------------------------------

MAY_READ = {
    "fairdial.clock": ["time"],
    # How long one statement may take.
    "fairdial.ledger.writer": ["time"],
    # How long a step took, a pause before its next run, and how long nobody tries to connect.
    "fairdial.ledger.pool": ["time"],
    # How long a server, or a shard, says nothing.
    "fairdial.ledger.heard": ["time"],
    "fairdial.ledger.shards": ["time"],
    # A pause, and the name of a file that is put aside.
    "fairdial.ledger.backup": ["time", "datetime.now"],
}
"""Modules that ask the machine, and what for. Waits by the clock of the event loop are
no readings: nothing of them is written down."""
OF_DATES = frozenset({"now", "utcnow", "today"})


def clock_readings(source: str) -> list[str]:
    """Where a source asks the machine for the time, by whatever name."""
    tree, found = ast.parse(source), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] == "time"]
        elif isinstance(node, ast.ImportFrom) and node.module == "time" and not node.level:
            found += [f"time.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute) and node.attr in OF_DATES:
            named = ast.unparse(node.value)
            if named.rpartition(".")[2] in {"datetime", "date"}:
                found.append(f"{named}.{node.attr}")
    return found


@pytest.mark.parametrize(
    "module",
    [name for name in SOURCES if not is_within(name, "testbed") and not is_within(name, "benchmarks")],
)
def test_time_is_read_in_one_place(module: str) -> None:
    assert clock_readings(SOURCES[module]) == MAY_READ.get(module, [])


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.time()",
        "from time import monotonic as tick",
        "from datetime import datetime\ndatetime.now()",
        "import datetime as d\nd.datetime.utcnow()",
        "from datetime import date\ndate.today()",
    ],
)
def test_a_reading_of_the_clock_is_found(source: str) -> None:
    assert clock_readings(source)


def test_a_clock_that_is_handed_in_may_be_asked() -> None:
    assert clock_readings("def age(clock):\n    return clock.now().wall_ms") == []
    before, after = SystemClock().now(), SystemClock().now()
    assert (before.mono_ms, before.wall_ms) <= (after.mono_ms, after.wall_ms)
