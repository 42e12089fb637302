"""The rounds that keep switch and ledger in line: at each connection, periodically, and when an end was not seen.

One round at a time: reconcile, end calls that were barred meanwhile, look for calls without a grant, compare with the
switch's own records, meter what the failure rule let through. A round that fails is told in the log and made again,
soon at first, and still knows that events were missed. Between them the switch is asked for a sign of life, which
proves that calls were up until then.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic

import structlog

from fairdial.clock import Clock
from fairdial.desk import Desk
from fairdial.differences import compare
from fairdial.evidence import Evidence
from fairdial.late import meter
from fairdial.ledger.contract import Grant, LedgerError
from fairdial.policy.periods import MS_PER_S
from fairdial.reconcile import Channel, Follower, reconcile
from fairdial.records import SwitchRecords
from fairdial.whose import is_of

log = structlog.get_logger(__name__)

PROVE_EVERY_S = 2.0
"""How much of a call may be unproven when FairDial and the switch die together."""

SOON_S = 1.0
"""Until the next round where a record is waited for, or one failed; doubled with each further failure."""

FAILURES_COUNTED = 12
"""Doubled so often, SOON_S is past the longest time between two rounds."""

LATE_IN_A_ROUND = 500

RECORDS_KEPT_MS = 300_000
"""So long after its call was compared a record is kept: one of a leg that was transferred may tell of its caller's."""


@dataclass(frozen=True, slots=True)
class Hands:
    """What is done on the switch. All raise `failure` where it does not answer.

    orphans: look for calls without a grant. sweep: remove what nobody follows. cut: end a call, false where it is not
    live. ping: a sign of life that comes after all events of before. began_ms: when this Asterisk was started.
    """

    connected: Callable[[], bool]
    began_ms: Callable[[], int | None]
    ping: Callable[[], Awaitable[None]]
    orphans: Callable[[], Awaitable[int]]
    sweep: Callable[[], Awaitable[None]]
    cut: Callable[[str], Awaitable[bool]]
    failure: type[Exception]


class Rounds(Generic[Channel]):
    """All rounds of one switch. switch: its name in the ledger, with which its calls begin."""

    def __init__(
        self,
        desk: Desk,
        follower: Follower[Channel],
        hands: Hands,
        clock: Clock,
        *,
        switch: str,
        every_s: float,
        evidence: Evidence,
        records: SwitchRecords,
        prove_every_s: float = PROVE_EVERY_S,
    ) -> None:
        self._desk = desk
        self._follower = follower
        self._hands = hands
        self._clock = clock
        self._switch = switch
        self._every_s = every_s
        self._evidence = evidence
        self._records = records
        self._prove_every_s = prove_every_s
        self._making = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._missed_events = False
        self._failures = 0
        self._again: asyncio.TimerHandle | None = None
        self._proves_since_ms: int | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin. Raises LedgerError."""
        await self._find_place()
        self._tasks = [
            asyncio.create_task(self._make_periodically(), name="rounds"),
            asyncio.create_task(self._prove_periodically(), name="proofs"),
        ]

    async def stop(self) -> None:
        """End; a round that is under way is given up."""
        self._cancel_again()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self._records.close()

    def soon(self) -> None:
        """Make a round without waiting for its time."""
        self._wanted.set()

    async def make(self, *, after_gap: bool) -> None:
        """One round. after_gap: events may have been missed since the last."""
        self._missed_events = self._missed_events or after_gap
        async with self._making:
            self._cancel_again()
            try:
                waiting = await self._make()
            except (self._hands.failure, LedgerError) as error:
                log.error("reconcile_failed", error=str(error))
                self._make_again_in(min(SOON_S * 2**self._failures, self._every_s))
                self._failures = min(self._failures + 1, FAILURES_COUNTED)
                return
            self._failures = 0
            if waiting:
                self._make_again_in(min(SOON_S, self._every_s))

    def _make_again_in(self, wait_s: float) -> None:
        self._cancel_again()
        self._again = asyncio.get_running_loop().call_later(wait_s, self.soon)

    def _cancel_again(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None

    async def _make(self) -> bool:
        """Whether a record is waited for."""
        began_ms = self._hands.began_ms()
        self._evidence.restarted_ms = began_ms
        after_gap, self._missed_events = self._missed_events, False
        try:
            made = await reconcile(
                self._desk,
                self._follower,
                self._clock,
                belongs=self._is_ours,
                after_gap=after_gap,
                evidence=self._evidence,
            )
            if after_gap:
                await self._hands.sweep()
        except BaseException:
            # What was missed is still to be made good.
            self._missed_events = self._missed_events or after_gap
            raise
        # Only now: calls that died with an earlier Asterisk were settled by what was known of that one.
        self._proves_since_ms = began_ms
        await self.end_barred()
        await self._hands.orphans()
        await self._records.refresh()
        await self._meter_late()
        await compare(
            self._desk.ledger,
            self._evidence,
            self._switch,
            self._clock.now(),
            belongs=self._is_ours,
            placed=self._follower.places,
        )
        await self._forget_records()
        return made.waiting > 0

    async def end_barred(self) -> None:
        """End calls whose account or line was suspended while the switch could not be told (K12)."""
        for call_id in await self._desk.ledger.barred_grants():
            if await self._hands.cut(call_id):
                sip_call_id = await self._desk.ledger.sip_call_id(call_id)
                log.warning("barred_call_ended", call=call_id, sip_call_id=sip_call_id)

    async def _forget_records(self) -> None:
        """Of calls that were compared nothing more is wanted, except where a channel of theirs is in a call."""
        seen = await self._desk.ledger.seen(self._switch)
        if seen is not None:
            live = await self._desk.ledger.live_grants()
            keep = {
                channel for grant in live for channel in (grant.channel, grant.leg) if channel is not None
            }
            self._records.forget(seen.compared_ms - RECORDS_KEPT_MS, keep)

    async def _meter_late(self) -> None:
        for _ in range(LATE_IN_A_ROUND):
            waiting = self._records.next_let_through()
            if waiting is None:
                return
            cdr, dial = waiting
            if self._belongs(dial.call_id):
                earlier = self._records.of(cdr.unique_id)
                was_up = any(each.answered and each.end_ms <= cdr.start_ms for each in earlier)
                await meter(self._desk, cdr, dial, was_up=was_up)
            self._records.metered()
        self.soon()

    async def _find_place(self) -> None:
        """Where in the switch's records to begin."""
        ledger = self._desk.ledger
        now_ms = self._clock.now().wall_ms
        seen = await ledger.seen(self._switch)
        if seen is None:
            # Nothing is known of it yet, and calls of before are nobody's business.
            await ledger.saw(self._switch, now_ms)
            await ledger.compared(self._switch, now_ms, ())
        else:
            self._evidence.proven_ms = seen.proven_ms
        since_ms = now_ms if seen is None else seen.compared_ms
        live = (grant.authorised_ms for grant in await ledger.live_grants() if self._is_ours(grant))
        await self._records.begin(min(since_ms, min(live, default=since_ms)) - 2 * MS_PER_S)

    async def _make_periodically(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await self._wanted.wait()
            self._wanted.clear()
            if self._hands.connected():
                await self.make(after_gap=False)

    async def _prove_periodically(self) -> None:
        while True:
            await asyncio.sleep(self._prove_every_s)
            began_ms = self._hands.began_ms()
            if not self._hands.connected() or self._proves_since_ms != began_ms:
                continue
            now = self._clock.now()
            try:
                await self._hands.ping()
                if self._hands.began_ms() == began_ms:
                    self._evidence.proven_ms = now.wall_ms
                    if not self._desk.unwritten:
                        # For who comes after us: the ledger knows all that we know of the calls.
                        await self._desk.ledger.saw(self._switch, now.wall_ms)
            except (self._hands.failure, LedgerError) as error:
                log.warning("not_proven", error=str(error))

    def _is_ours(self, grant: Grant) -> bool:
        return self._belongs(grant.call_id)

    def _belongs(self, call_id: str) -> bool:
        return is_of(self._switch, call_id)
