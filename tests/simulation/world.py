"""One simulation: who calls when, what fails when, and the steps until all is over; all of it from one seed."""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from fairdial.clock import Moment
from fairdial.rounds import PROVE_EVERY_S
from tests.samples import MONTH_END_MS, NOON_MS
from tests.simulation import known
from tests.simulation.customers import CUSTOMERS, image
from tests.simulation.loop import US_PER_MS, US_PER_S, SimulatedLoop, Timeline
from tests.simulation.network import Network
from tests.simulation.promises import Broken, Promises
from tests.simulation.server import Server, Settings
from tests.simulation.store import SLOWEST_STEP_S, Disk
from tests.simulation.switch import Asking, Switch

TRACE_LINES = 40
DIALS_WITHIN_S = 240
"""All calls are dialled within so long from the start."""
FAULTS_WITHIN_S = 420
"""Faults happen until then; after that, all goes well, so that what is still open comes to its end."""
QUIET_S = 400
"""After the last call: long enough for settlements that are tried again and for reconciliation."""
LAST_LOOK_S = 25
"""For the last start: one round, and whatever it waits for."""
SELDOM_S = (8.0, 12.0, 12.0)
STEPS_MAX = 60_000
"""A run of more steps is one that goes in circles."""


@dataclass(frozen=True, slots=True)
class Faults:
    """Which faults there may be.

    deaths: FairDial dies at any await, is stopped in order, or is held up. links: the event socket breaks, answers are
    lost. store: fails, is slow, is away. restarts: of the switch. twice: events come twice. clock_jumps: the wall
    clock is set.
    """

    deaths: bool = True
    links: bool = True
    store: bool = True
    restarts: bool = True
    twice: bool = True
    clock_jumps: bool = False


class WorldClock:
    """The clocks of the machine that FairDial and the switch run on."""

    def __init__(self, timeline: Timeline, start_ms: int) -> None:
        self._timeline = timeline
        self._offset_ms = start_ms - timeline.now_us // US_PER_MS

    def now(self) -> Moment:
        mono_ms = self._timeline.now_us // US_PER_MS
        return Moment(mono_ms + self._offset_ms, mono_ms)

    def wall_ms(self) -> int:
        """The wall clock alone, which the switch reads too."""
        return self.now().wall_ms

    def since_us(self, wall_ms: int) -> int:
        """When the wall clock said that."""
        return (wall_ms - self._offset_ms) * US_PER_MS

    def jump(self, by_ms: int) -> None:
        """Somebody sets the wall clock."""
        self._offset_ms += by_ms


@dataclass(slots=True)
class Seen:
    """What a run came through, so that one can tell that it came through something. calls: answered."""

    seed: int
    steps: int = 0
    dials: int = 0
    calls: int = 0
    grants: int = 0
    estimated: int = 0
    deaths: int = 0
    commits: int = 0
    told: str = ""


class World:
    """Everything of one seed. `run` once."""

    def __init__(
        self, seed: int, faults: Faults, unforeseen: list[str], *, whole_trace: bool = False
    ) -> None:
        self.seen = Seen(seed)
        self.lines: deque[tuple[int, tuple[object, ...]]] = deque(maxlen=None if whole_trace else TRACE_LINES)
        self._chance = chance = random.Random(seed)
        self._faults = faults
        self._unforeseen = unforeseen
        self._timeline = timeline = Timeline()
        self._start_us = timeline.now_us
        # Noon, or shortly before an hour and a month end.
        start_ms = chance.choice((NOON_MS, MONTH_END_MS - chance.randrange(300_000)))
        self._clock = WorldClock(timeline, start_ms)
        self._disk = Disk(chance, image())
        self._disk.on_commit = self._on_commit
        self._switch = Switch(timeline, chance, self._clock.wall_ms, self.trace)
        self._network = Network(timeline, chance, self._switch)
        self._promises = Promises(self._disk.raw, self._switch, self.trace, self._clock.since_us)
        self._switch.lease_cuts = self._promises.not_early
        if known.KNOWN_LEG_OF_MISSED_ANSWER:
            self._switch.may_transfer = self._promises.knows_leg
        slice_s = chance.choice((15, 30, 60))
        self._settings = Settings(
            min(10, slice_s),
            slice_s,
            chance.choice((2, 5, 10)),
            chance.choice((20.0, 60.0, 60.0)),
            records=chance.random() < 0.5,
            # Half of what there is to simulate are these signs: most runs have fewer of them than there really are.
            prove_every_s=PROVE_EVERY_S if faults.clock_jumps else chance.choice((PROVE_EVERY_S, *SELDOM_S)),
        )
        self._promises.prove_every_us = int(self._settings.prove_every_s * US_PER_S)
        self._option = chance.random() < 0.85
        self._in_order = chance.random() < 0.5
        self._dead_loops: list[SimulatedLoop] = []
        self._server: Server | None = None
        self._held_until_us = 0
        # When, from the start, something is to happen to a call.
        self._moments: list[int] = []
        self._death_at_step: int | None = None
        self._committed = False
        self._faults_over = False

    # --- tracing -----------------------------------------------------------------------------------

    def trace(self, *what: object) -> None:
        """Note what happens; put into words only when somebody reads it."""
        self.lines.append((self._timeline.now_us, what))

    def told(self) -> str:
        """The last of the notes, to be read."""
        return "\n".join(
            f"{(now_us - self._start_us) / US_PER_S:11.6f} s  {' '.join(map(str, what))}"
            for now_us, what in self.lines
        )

    # --- what will happen ----------------------------------------------------------------------------

    def _plan_calls(self) -> None:
        chance = self._chance
        customers = chance.sample(sorted(CUSTOMERS), chance.choice((1, 1, 2, 3)))
        lines = [(CUSTOMERS[name], line) for name in customers for line in CUSTOMERS[name].lines]
        agi, on_failure = chance.random() < 0.3, chance.choice(("refuse", "refuse", "lease"))
        within_us = chance.choice((30, DIALS_WITHIN_S, DIALS_WITHIN_S)) * US_PER_S
        for _ in range(2 + int(chance.random() ** 1.5 * 11)):
            customer, line = chance.choice(lines)
            ring_s = chance.choice((10, 30))
            asking = Asking(
                line=line,
                kind=chance.choice(("outbound", "outbound", "outbound", "inbound")),
                number=chance.choice(customer.numbers),
                ring_s=ring_s,
                option=self._option,
                forks=chance.choice((1, 1, 2)),
                answer_us=chance.randrange(ring_s * US_PER_S) if chance.random() < 0.85 else None,
                hang_up_us=self._length_us(),
                by_caller=chance.random() < 0.5,
                leave_us=chance.randrange(60 * US_PER_S) if chance.random() < 0.12 else None,
                give_up_us=chance.randrange(12 * US_PER_S) if chance.random() < 0.12 else None,
                again=chance.random() < 0.12,
                agi=agi and chance.random() < 0.7,
                on_failure=on_failure,
            )
            dialled_us = chance.randrange(within_us)
            self._timeline.after(dialled_us, partial(self._switch.dial_in, asking))
            answered_us = dialled_us + (asking.answer_us or 0)
            self._moments += (dialled_us, answered_us, answered_us + asking.hang_up_us)

    def _length_us(self) -> int:
        chance = self._chance
        return chance.choice(
            (
                chance.randrange(1, 3 * US_PER_S),
                chance.randrange(1, 60 * US_PER_S),
                chance.randrange(30 * US_PER_S, 400 * US_PER_S),
            )
        )

    def _plan_faults(self) -> None:
        chance, faults = self._chance, self._faults
        if faults.deaths:
            self._sometimes(0.5, self._die_soon)
            self._sometimes(0.3, self._die_soon)
            self._sometimes(0.15, self._stop_server)
            self._sometimes(0.3, self._hold_up)
        if faults.links:
            self._network.ami_lost = chance.choice((0.0, 0.0, 0.1, 0.5))
            self._network.http_lost = chance.choice((0.0, 0.0, 0.3))
            self._sometimes(0.5, self._break_link)
            self._sometimes(0.3, self._break_link)
        if faults.store:
            self._disk.fails = chance.choice((0.0, 0.0, 0.02, 0.15))
            self._disk.slow = chance.choice((0.0, 0.0, 0.05, 0.3))
            self._disk.slowest_s = chance.choice((0.3, 1.5, SLOWEST_STEP_S))
            self._sometimes(0.25, self._store_away)
        if faults.restarts:
            self._sometimes(0.1, self._restart_switch)
        if faults.twice:
            self._switch.twice = chance.choice((0.0, 0.0, 0.2))
        if faults.clock_jumps:
            for _ in range(chance.randint(1, 3)):
                self._sometimes(1.0, self._jump)

        self._promises.steady = not faults.clock_jumps
        self._promises.recorded = self._settings.records and not faults.clock_jumps
        network, disk = self._network, self._disk
        self._promises.calm = not any((network.ami_lost, network.http_lost, disk.fails, disk.slow))

    def _sometimes(self, share: float, happen: Callable[[], None]) -> None:
        """At any time, but mostly when something happens to a call."""
        chance = self._chance
        if chance.random() >= share:
            return
        when_us = chance.randrange(FAULTS_WITHIN_S * US_PER_S)
        if chance.random() < 0.75:
            when_us = chance.choice(self._moments) + int((chance.random() ** 3 * 6 - 0.5) * US_PER_S)
        if 0 <= when_us < FAULTS_WITHIN_S * US_PER_S:
            self._timeline.after(when_us, lambda: self._fail(happen))

    def _fail(self, happen: Callable[[], None]) -> None:
        self._promises.calm = False
        happen()

    # --- faults ----------------------------------------------------------------------------------------

    def _start_server(self) -> None:
        if self._server is not None:
            return
        self._server = Server(
            self._network, self._disk, self._clock, self._chance, self._settings, in_order=self._in_order
        )
        self.trace("FAIRDIAL starts")
        self._server.start()

    def _kill_server(self, away_us: int) -> None:
        server = self._server
        if server is None:
            return
        self.trace("FAIRDIAL is killed")
        self._promises.calm = False
        self.seen.deaths += 1
        self._server = None
        server.kill()
        self._dead_loops.append(server.loop)
        for failure in server.loop.failures:
            raise Broken(f"FairDial did not expect: {failure}")
        self._timeline.after(away_us, self._start_server)

    def _die(self) -> None:
        chance = self._chance
        self._kill_server(int(chance.random() ** 4 * 90 * US_PER_S) + US_PER_MS)
        # And now and then once more while it starts.
        if chance.random() < 0.3 and not self._faults_over:
            self._death_at_step = self.seen.steps + int(chance.random() ** 2 * 200)

    def _die_soon(self) -> None:
        """At one of the next awaits, whichever that is."""
        if self._server is not None:
            self._death_at_step = self.seen.steps + int(self._chance.random() ** 2 * 60)

    def _stop_server(self) -> None:
        if self._server is not None:
            self.trace("FAIRDIAL is told to stop")
            self._server.begin_stop()

    def _hold_up(self) -> None:
        for_us = int(self._chance.random() ** 2 * 8 * US_PER_S)
        self.trace("FAIRDIAL is held up for", for_us, "us")
        self._held_until_us = self._timeline.now_us + for_us
        self._timeline.at(self._held_until_us, lambda: None)

    def _break_link(self) -> None:
        self.trace("LINK breaks")
        self._network.break_link(int(self._chance.random() ** 3 * 4 * US_PER_S))

    def _store_away(self) -> None:
        self.trace("STORE is away")
        self._disk.away = True
        self._timeline.after(int(self._chance.random() ** 2 * 40 * US_PER_S), self._store_back)

    def _store_back(self) -> None:
        self.trace("STORE is back")
        self._disk.away = False

    def _restart_switch(self) -> None:
        self._network.switch_is_up = False
        self._promises.switch_dies()
        self._network.break_link(int(self._chance.random() * US_PER_S))
        self._switch.restart()
        self._timeline.after(int(self._chance.random() * 5 * US_PER_S), self._switch_back)

    def _switch_back(self) -> None:
        self._network.switch_is_up = True
        self._switch.is_back()

    def _jump(self) -> None:
        by_ms = self._chance.choice((-1, 1)) * self._chance.randrange(600_000)
        self.trace("CLOCK is set by", by_ms, "ms")
        self._clock.jump(by_ms)

    def _end_faults(self) -> None:
        self._faults_over = True
        self._death_at_step = None
        self._disk.fails = self._disk.slow = 0.0
        self._network.ami_lost = self._network.http_lost = 0.0

    # --- running -----------------------------------------------------------------------------------------

    def run(self) -> Seen:
        """Until all calls are over and FairDial was started once more. Raises Broken."""
        try:
            self._plan_calls()
            self._plan_faults()
            self._start_server()
            self._go_on_until(self._is_over, FAULTS_WITHIN_S)
            self._end_faults()
            self._go_on_until(lambda: not self._switch.channels, QUIET_S * 3)
            self._go_on_until(lambda: self._server is not None, QUIET_S)
            rounds_s = self._settings.reconcile_every_s * 3 + 15
            self._go_on_until(lambda: not self._promises.has_live, rounds_s)
            self._promises.all_settled("though FairDial runs and no call is up")
            self._kill_server(US_PER_MS)
            self._timeline.after(US_PER_MS, self._start_server)
            self._go_on_until(lambda: False, LAST_LOOK_S)
            self._promises.finished()
        finally:
            self._clean_up()
        return self._count()

    def _count(self) -> Seen:
        grants = self._promises.grants
        return replace(
            self.seen,
            dials=self._switch.dials,
            calls=len(self._switch.talks),
            grants=len(grants),
            estimated=sum(grant.estimated for grant in grants.values()),
        )

    def _is_over(self) -> bool:
        """Nobody calls any more, and nothing of any call is left to do."""
        settled = not self._promises.has_live and not self._switch.channels
        return settled and self._timeline.now_us - self._start_us > DIALS_WITHIN_S * US_PER_S

    def _go_on_until(self, over: Callable[[], bool], within_s: float) -> None:
        until_us = self._timeline.now_us + int(within_s * US_PER_S)
        self._timeline.at(until_us, lambda: None)
        while self._timeline.now_us < until_us and not over():
            self._step()

    def _step(self) -> None:
        """The smallest thing that can happen: one entry of the world, one handle of FairDial, or time goes on."""
        if self._timeline.happen_next():
            return self._check()
        server = self._server
        awake = server is not None and self._timeline.now_us >= self._held_until_us
        if server is not None and awake:
            server.loop.collect_due()
            if server.loop.run_one():
                self.seen.steps += 1
                return self._after_handle(server)
        self._pass_time(server if awake else None)
        return self._promises.legs()

    def _after_handle(self, server: Server) -> None:
        for failure in self._unforeseen or server.loop.failures:
            raise Broken(f"FairDial did not expect: {failure}")
        if self.seen.steps > STEPS_MAX:
            raise Broken(f"no end after {STEPS_MAX} steps")
        if server.stopped or (self._death_at_step is not None and self.seen.steps >= self._death_at_step):
            self._death_at_step = None if not server.stopped else self._death_at_step
            self._die()
        self._check()

    def _check(self) -> None:
        if self._committed:
            self._committed = False
            self._promises.committed()
            self._promises.legs()

    def _on_commit(self) -> None:
        self.seen.commits += 1
        self._committed = True

    def _pass_time(self, server: Server | None) -> None:
        moments = [self._timeline.next_us(), server.loop.next_us() if server is not None else None]
        due = [moment for moment in moments if moment is not None]
        assert due, "somebody always waits for something"
        self._timeline.now_us = max(self._timeline.now_us, min(due))

    def _clean_up(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._dead_loops.append(self._server.loop)
        for loop in self._dead_loops:
            loop.bury()
        asyncio._set_running_loop(None)
        self._disk.close()
