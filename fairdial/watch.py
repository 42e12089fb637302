"""The watch: the calls of all accounts pass by the detectors of their policies, and what is found becomes a case.

Told of each dial, answer and end (`Desk.listeners`) and of what the switch says of logins, it puts them on a queue and
goes on: no call waits for it. What the detectors know is in memory, bounded, and taken from the ledger again at the
start, so that a restart forgets no pattern. Now and then it holds accounts against each other and looks at deadlines.

Where several nodes share a ledger, one of them watches the calls of all, and another takes over when it is gone: calls
are then read from the ledger as they happen there, some seconds later (`_Follower`). Only what a switch says of logins,
which no ledger has, each node watches itself.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from fairdial.cases import Cases
from fairdial.clock import Clock
from fairdial.ledger.contract import Ledger, LedgerError, NotFound
from fairdial.policy.account import Account
from fairdial.policy.book import PolicyBook
from fairdial.policy.crowd import ACCOUNTS_MAX, Crowd
from fairdial.policy.document import Policy
from fairdial.policy.history import CALLS, Answer, Attempt, End, Event, InOrder, Noted
from fairdial.policy.measures import SAME_TEXT, WINDOW_MS
from fairdial.policy.patterns import Hit
from fairdial.policy.periods import Period, zone_named

log = structlog.get_logger(__name__)

WAITING_MAX = 20_000
"""Events that may wait; what comes when they are as many is not watched, and told."""
PAST_DIALS_MAX = 200_000
"""Dials that are read again at the start, the latest ones."""
PAST_MS = WINDOW_MS[Period.DAY]
"""How far back that goes. A longer window knows at the start what this holds."""
JUDGED_MS = WINDOW_MS[Period.MONTH]
"""How long it is remembered that people have judged a case: as long as the longest window."""
PIECE = 100
"""Dials that are passed by at a time: some milliseconds of work."""
HITS_MAX = 1_000
"""Findings that wait for a store that cannot take them."""
AGAIN_S = 1.0
DEADLINES_EVERY_S = 30.0
COMPARE_EVERY_S = 3600.0
FOLLOW_EVERY_S = 1.0
LATE_MS = 2_000
"""After so long what happened is in the ledger, whichever node wrote it, and however its clock is off by."""
STRETCH_MS = 5_000
"""Of what happened is read at a time."""
OPEN_MAX = 20_000
"""Calls in progress whose end is looked for where it was written late."""
OPEN_EVERY = 30
"""Times that was read, until that is asked."""
OPEN_AT_ONCE = 200
JUDGED_ANEW_MS = 60_000
TASK = "watch"


@dataclass(frozen=True, slots=True)
class _Seen:
    """Something that happened to an account. account, policy: None where they are those of before."""

    event: Event
    account: Account | None = None
    policy: Policy | None = None


class Watch:
    """Watches all accounts of a ledger. `start` before use, `stop` after."""

    def __init__(
        self,
        ledger: Ledger,
        policies: Callable[[], PolicyBook],
        cases: Cases,
        clock: Clock,
        *,
        accounts_max: int = ACCOUNTS_MAX,
        deadlines_every_s: float = DEADLINES_EVERY_S,
        compare_every_s: float = COMPARE_EVERY_S,
        shared: bool = False,
        follow_every_s: float = FOLLOW_EVERY_S,
    ) -> None:
        """shared: other nodes write calls to that ledger too."""
        self._ledger = ledger
        self._shared = shared
        self._follow_every_s = follow_every_s
        self._leads = not shared
        self._telling = asyncio.Lock()
        self._accounts_max = accounts_max
        self._policies = policies
        self._cases = cases
        self._clock = clock
        self._every_s = {self._look_at_deadlines: deadlines_every_s, self._compare: compare_every_s}
        self._queue: asyncio.Queue[_Seen] = asyncio.Queue(WAITING_MAX)
        self._crowd = Crowd(accounts_max)
        self._judged: dict[str, dict[str, int]] = {}
        self._hits: deque[Hit] = deque(maxlen=HITS_MAX)
        self._unseen = 0
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def waiting(self) -> int:
        """Events and findings that are not dealt with yet."""
        return self._queue.qsize() + len(self._hits)

    @property
    def accounts(self) -> int:
        """Accounts whose patterns are remembered."""
        return len(self._crowd)

    async def start(self) -> None:
        """Begin: first with what the ledger knows, in the background."""
        loops = [self._watch(), *(self._repeat(work, every_s) for work, every_s in self._every_s.items())]
        if self._shared:
            loops.append(self._follow())
        self._tasks = [asyncio.create_task(loop, name="watch") for loop in loops]

    async def stop(self) -> None:
        """End. What was not dealt with is found again at the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    # --- told ------------------------------------------------------------------------------------

    def dialled(self, attempt: Attempt, account: Account, policy: Policy) -> None:
        """A dial of a known line was decided."""
        if not self._shared:
            self._put(_Seen(attempt, account, policy))

    def went_on(self, event: Answer | End) -> None:
        """A call was answered, or is over."""
        if not self._shared:
            self._put(_Seen(event))

    def noted(self, event: Noted, account: Account, policy: Policy) -> None:
        """Something else came up about an account."""
        self._put(_Seen(event, account, policy))

    def judged(self, account_id: str, detector: str, at_ms: int) -> None:
        """A person has judged a case of that account: the same evidence counts no more."""
        self._judged.setdefault(account_id, {})[detector] = at_ms
        self._crowd.judged(account_id, detector, at_ms)

    def _put(self, seen: _Seen) -> None:
        try:
            self._queue.put_nowait(seen)
        except asyncio.QueueFull:
            if not self._unseen:
                log.error(
                    "not_watched", waiting=WAITING_MAX, cure="the machine is overloaded, or the store is slow"
                )
            self._unseen += 1

    # --- watching --------------------------------------------------------------------------------

    async def _watch(self) -> None:
        if not self._shared:
            await self._remember(self._clock.now().wall_ms)
        while True:
            self._see(await self._queue.get())
            if self._unseen and self._queue.empty():
                log.warning("watched_again", not_watched=self._unseen)
                self._unseen = 0
            await self._tell()

    async def _remember(self, now_ms: int) -> None:
        """Pass the ledger's recent calls by the detectors, those dialled before now, a few at a time: calls are
        answered meanwhile.
        """
        order, read = InOrder(), 0
        after: tuple[int, str] | None = None
        try:
            for account_id, detector, at_ms in await self._ledger.judged(now_ms - JUDGED_MS):
                self._judged.setdefault(account_id, {})[detector] = at_ms
            since_ms = max(now_ms - PAST_MS, await self._ledger.dialled_since(PAST_DIALS_MAX))
            more = True
            while more:
                past = await self._ledger.past(since_ms, after, PIECE)
                # What was dialled since is told by itself.
                dials = [dial for dial in past.dials if dial[0].at_ms < now_ms]
                for dial in dials:
                    for event in order.take(dial):
                        self._see(self._as_told(event, past.accounts))
                await self._tell()
                read += len(dials)
                after = past.next_at
                more = after is not None and len(dials) == len(past.dials)
            for event in order.rest():
                self._see(_Seen(event))
            await self._tell()
        except LedgerError as error:
            log.error("past_not_remembered", error=str(error))
        log.info("watching", accounts=len(self._crowd), dials=read)

    def _as_told(self, event: Event, accounts: Mapping[str, Account]) -> _Seen:
        account = accounts.get(event.account_id) if isinstance(event, Attempt) else None
        if account is None:
            return _Seen(event)
        return _Seen(
            event, account, self._policies().at(account.policy, zone_named(account.zone), event.at_ms)
        )

    def _see(self, seen: _Seen) -> None:
        account_id = seen.event.account_id
        judged = self._judged.get(account_id)
        try:
            self._hits.extend(self._crowd.see(seen.event, seen.account, seen.policy, judged))
        except Exception as error:
            # What one account's calls bring up must not end the watch over all.
            log.error("event_not_watched", account=account_id, error=repr(error), exc_info=error)

    async def _follow(self) -> None:
        """Watch the calls of all nodes, while no other does."""
        follower: _Follower | None = None
        while True:
            await asyncio.sleep(self._follow_every_s)
            try:
                self._leads = await self._ledger.leads(TASK)
                if not self._leads:
                    if follower is not None:
                        log.info("watched_by_another")
                        follower, self._crowd = None, Crowd(self._accounts_max)
                    continue
                now_ms = self._clock.now().wall_ms
                if follower is None:
                    await self._remember(now_ms - LATE_MS)
                    follower = _Follower(self._ledger, now_ms - LATE_MS - 1)
                # Through whichever node people judged them.
                for judged in await self._ledger.judged(now_ms - JUDGED_ANEW_MS):
                    self.judged(*judged)
                async for event, accounts in follower.until(now_ms - LATE_MS):
                    self._see(self._as_told(event, accounts))
                await self._tell()
            except LedgerError as error:
                log.error("not_watched", error=str(error))
            except Exception as error:
                log.error("not_watched", error=repr(error), exc_info=error)

    async def _tell(self) -> None:
        async with self._telling:
            await self._tell_all()

    async def _tell_all(self) -> None:
        while self._hits:
            hit = self._hits[0]
            try:
                change = await self._cases.found(hit)
            except NotFound:
                # The account is gone: nobody is left to answer for it.
                change = None
            except LedgerError as error:
                log.error(
                    "case_not_written", account=hit.account_id, detector=hit.detector.name, error=str(error)
                )
                await asyncio.sleep(AGAIN_S)
                continue
            if change is None:
                log.info("found_again", account=hit.account_id, detector=hit.detector.name)
            if self._hits and self._hits[0] is hit:
                self._hits.popleft()

    # --- now and then ----------------------------------------------------------------------------

    async def _repeat(self, work: Callable[[int], Awaitable[None]], every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await work(self._clock.now().wall_ms)
            except LedgerError as error:
                log.error("cases_not_looked_at", error=str(error))
            except Exception as error:
                log.error("cases_not_looked_at", error=repr(error), exc_info=error)

    async def _look_at_deadlines(self, now_ms: int) -> None:
        if not self._leads:
            return
        await self._cases.after_deadlines(now_ms)

    async def _compare(self, now_ms: int) -> None:
        if not self._leads:
            return
        await self._forget_texts(now_ms)
        self._judged = {
            account_id: kept
            for account_id, judged in self._judged.items()
            if (kept := {name: at_ms for name, at_ms in judged.items() if at_ms > now_ms - JUDGED_MS})
        }
        found = await self._cases.compare(now_ms)
        log.info("accounts_compared", stand_out=found)

    async def _forget_texts(self, now_ms: int) -> None:
        """What no detector looks at any more, nor this watch after a restart, is kept no longer."""
        windows = self._policies().windows_of(SAME_TEXT)
        before_ms = now_ms - max((WINDOW_MS[each] for each in windows), default=0)
        forgotten = 0
        while count := await self._ledger.forget_texts(min(before_ms, now_ms - PAST_MS)):
            forgotten += count
        log.info("texts_forgotten", messages=forgotten)


class _Follower:
    """Reads what happened to calls from a ledger that others write, each thing once, in the order of time.

    An end that was written late, as by a node that had no store, is missed when its time has passed: of calls that seem
    to go on it is asked now and then what became of them.
    """

    def __init__(self, ledger: Ledger, after_ms: int) -> None:
        self._ledger = ledger
        self._after_ms = after_ms
        self._open: dict[str, None] = {}
        self._rounds = 0

    async def until(self, until_ms: int) -> AsyncIterator[tuple[Event, Mapping[str, Account]]]:
        """What happened since, up to then (UTC milliseconds). Raises LedgerError."""
        while self._after_ms < until_ms:
            end_ms = min(until_ms, self._after_ms + STRETCH_MS)
            past = await self._ledger.happened(self._after_ms, end_ms)
            events = [
                event for dial in past.dials for event in dial if self._after_ms < event.at_ms <= end_ms
            ]
            for event in sorted(events, key=lambda event: event.at_ms):
                self._note(event)
                yield event, past.accounts
            self._after_ms = end_ms
        self._rounds += 1
        if self._rounds % OPEN_EVERY == 0:
            async for event in self._late():
                yield event, {}

    def _note(self, event: Event) -> None:
        match event:
            case Attempt(call_id=call_id, allowed=True) if event.kind in CALLS:
                if len(self._open) < OPEN_MAX:
                    self._open[call_id] = None
            case End(call_id=call_id):
                self._open.pop(call_id, None)

    async def _late(self) -> AsyncIterator[Event]:
        live = {grant.call_id for grant in await self._ledger.live_grants()}
        gone = [call_id for call_id in self._open if call_id not in live]
        for first in range(0, len(gone), OPEN_AT_ONCE):
            past = await self._ledger.what_became(gone[first : first + OPEN_AT_ONCE])
            for dial in past.dials:
                for event in dial[1:]:
                    if event.at_ms <= self._after_ms:
                        self._note(event)
                        yield event
