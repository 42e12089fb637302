"""Switch against ledger: which grants still have a call, and what becomes of the others.

Runs at start, after each reconnect and periodically. Rests only on a listing of channels that
succeeded, and on grants that were live before that listing was asked for: unknown is not absent.
A grant without a call is settled by what its evidence says (`evidence.py`), and noted as a difference.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import structlog
from msgspec import structs

from fairdial import call_log
from fairdial.clock import Clock, Moment
from fairdial.desk import Desk
from fairdial.evidence import SETTLED_MS, Evidence, Use, next_dial_ms
from fairdial.ledger.contract import Difference, DifferenceKind, Grant, Ledger, LedgerError

log = structlog.get_logger(__name__)

CLOCK_SET_MS = 10_000
"""A grant that is younger than the listing by more was made before the clock was set back."""

AT_ONCE = 64
"""Grants that are looked after at the same time: a restart with a thousand calls must not take them in
turn, nor flood the switch with requests."""

Channel = TypeVar("Channel")


class Follower(Protocol[Channel]):
    """Whoever follows calls on the switch. What it knows of a channel is its own affair."""

    def follows(self, call_id: str) -> bool:
        """Whether this call is followed already."""
        ...

    def places(self, call_id: str) -> bool:
        """Whether the follower itself sets this call up, so that its answer cannot have been missed."""
        ...

    def seen(self, call_id: str) -> Use | None:
        """What was seen of a call that is no longer followed, though not all of it; None: nothing."""
        ...

    def answered_ms(self, call_id: str) -> int | None:
        """When a call was answered (UTC) that the ledger knows as ringing, for all that was seen; None: it was not."""
        ...

    def forget(self, call_id: str) -> None:
        """The call is settled."""
        ...

    async def channels(self) -> Mapping[str, Channel]:
        """All channels of the switch by id. Raises if they cannot be listed."""
        ...

    async def adopt(self, grant: Grant, up: Mapping[str, Channel]) -> bool:
        """Follow a call again, of which at least one channel is up; False: that is up for another dial."""
        ...

    async def refresh(
        self,
        up: Mapping[str, Channel],
        listed: Moment,
        *,
        after_gap: bool,
        only: Collection[str] | None = None,
    ) -> None:
        """Bring the calls that are followed into line with a listing; `after_gap`: events were missed.

        only: these calls; None: all.
        """
        ...


@dataclass(frozen=True, slots=True)
class Pass:
    """What a pass did. settled: grants without a call; waiting: those left for a record that is to come."""

    settled: int = 0
    waiting: int = 0


async def reconcile(
    desk: Desk,
    follower: Follower[Channel],
    clock: Clock,
    *,
    belongs: Callable[[Grant], bool],
    after_gap: bool,
    evidence: Evidence | None = None,
) -> Pass:
    """One pass. `belongs`: whether a grant is of this switch.

    `after_gap`: events may have been missed since the last pass, as after a new connection. A grant that fails
    spoils no other; the first failure is raised when all were looked after.
    """
    evidence = evidence or Evidence()
    before = clock.now()
    live = [grant for grant in await desk.ledger.live_grants() if belongs(grant)]
    up = await follower.channels()
    await follower.refresh(up, before, after_gap=after_gap)
    loose = [
        grant
        for grant in live
        if not follower.follows(grant.call_id)
        and not desk.awaits(grant.call_id)
        and not before.wall_ms < grant.authorised_ms <= before.wall_ms + CLOCK_SET_MS
    ]
    gone = [grant for grant in loose if not _channels(grant, up)]
    adopted: list[str] = []
    failures = await _all(
        [partial(_adopt, follower, grant, up, adopted, gone) for grant in loose if _channels(grant, up)]
    )
    if adopted:
        # What was told between the listing and the adoption was told to nobody.
        again = clock.now()
        await follower.refresh(await follower.channels(), again, after_gap=True, only=frozenset(adopted))
    if gone:
        await evidence.records.refresh()
    evidence.keep([grant.call_id for grant in gone], before)
    ended = [(grant, await _use(desk, evidence, follower, grant, clock.now())) for grant in gone]
    due = [(grant, use) for grant, use in ended if use is not None]
    failures += await _all([partial(_settle, desk, follower, grant, use) for grant, use in due])
    _tell(failures)
    return Pass(len(due), len(ended) - len(due))


def _channels(grant: Grant, up: Mapping[str, Channel]) -> dict[str, Channel]:
    return {
        channel: up[channel]
        for channel in (grant.channel, grant.leg)
        if channel is not None and channel in up
    }


async def _all(work: Sequence[Callable[[], Awaitable[None]]]) -> list[BaseException]:
    """Do all of it, so much at once; what failed."""
    failures: list[BaseException] = []
    for first in range(0, len(work), AT_ONCE):
        results = await asyncio.gather(
            *(each() for each in work[first : first + AT_ONCE]), return_exceptions=True
        )
        failures += [result for result in results if isinstance(result, BaseException)]
    return failures


async def _adopt(
    follower: Follower[Channel],
    grant: Grant,
    up: Mapping[str, Channel],
    adopted: list[str],
    gone: list[Grant],
) -> None:
    if await follower.adopt(grant, _channels(grant, up)):
        log.info("call_adopted", call=grant.call_id)
        adopted.append(grant.call_id)
    else:
        gone.append(grant)


async def _use(
    desk: Desk, evidence: Evidence, follower: Follower[Channel], grant: Grant, now: Moment
) -> Use | None:
    """None: a record of it may still come."""
    placed = follower.places(grant.call_id)
    overdue = evidence.is_overdue(grant, now, placed=placed)
    proved = evidence.proved(grant, placed=placed)
    if proved is not None:
        proved = evidence.proved(grant, placed=placed, until_ms=await next_dial_ms(desk.ledger, grant))
    if proved is not None and evidence.outlived(grant, proved):
        proved = None
    if proved is not None and (overdue or now.wall_ms - proved.ended_ms >= SETTLED_MS):
        return proved
    if not overdue:
        return None
    known = grant
    if grant.answered_ms is None:
        seen_ms = follower.answered_ms(grant.call_id)
        known = structs.replace(grant, answered_ms=grant.assumed_ms if seen_ms is None else seen_ms)
    return evidence.assumed(known, now, placed=placed, seen=follower.seen(grant.call_id))


async def _speak_of(ledger: Ledger, call_id: str) -> None:
    """In a task of its own: the log is of that call. One that the ledger does not tell of has no Call-ID there."""
    try:
        sip_call_id = await ledger.sip_call_id(call_id)
    except LedgerError:
        sip_call_id = ""  # what is done for the call says what is wrong with the ledger
    call_log.speak_of(call_id, sip_call_id)


async def _settle(desk: Desk, follower: Follower[Channel], grant: Grant, use: Use) -> None:
    await _speak_of(desk.ledger, grant.call_id)
    settled = await desk.settle(
        grant.call_id,
        use.used_s,
        Moment(use.ended_ms, 0),
        estimated=use.estimated,
        # Its windows and its charge go by when it was answered.
        answered_ms=use.answered_ms,
    )
    follower.forget(grant.call_id)
    told = "estimated" if use.estimated else "by the switch's record"
    log.warning("settled_unseen", call=grant.call_id, used_s=settled.used_s, evidence=told)
    await desk.ledger.differ(
        Difference(
            grant.call_id,
            DifferenceKind.ORPHAN_GRANT,
            use.ended_ms,
            settled.used_s,
            None if use.estimated else use.used_s,
            f"settled, {told}",
        )
    )


def _tell(failures: Sequence[BaseException]) -> None:
    for failure in failures[1:]:
        log.error("reconcile_failed_further", error=str(failure))
    if failures:
        raise failures[0]
