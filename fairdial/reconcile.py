"""Switch against ledger: which grants still have a call, and what becomes of the others.

Runs at start, after each reconnect and periodically. Rests only on a listing of channels that
succeeded, and on grants that were live before that listing was asked for: unknown is not absent.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import structlog

from fairdial.clock import Clock, Moment
from fairdial.desk import Desk
from fairdial.ledger.contract import Grant
from fairdial.policy.periods import MS_PER_S, whole_seconds

log = structlog.get_logger(__name__)

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

    async def channels(self) -> Mapping[str, Channel]:
        """All channels of the switch by id. Raises if they cannot be listed."""
        ...

    async def adopt(self, grant: Grant, up: Mapping[str, Channel]) -> None:
        """Follow a call again, of which at least one channel is up."""
        ...

    async def refresh(self, up: Mapping[str, Channel], listed: Moment, *, after_gap: bool) -> None:
        """Bring the calls that are followed into line with a listing; `after_gap`: events were missed."""
        ...


async def reconcile(
    desk: Desk,
    follower: Follower[Channel],
    clock: Clock,
    *,
    belongs: Callable[[Grant], bool],
    after_gap: bool,
) -> int:
    """One pass; returns how many grants it settled. `belongs`: whether a grant is of this switch.

    `after_gap`: events may have been missed since the last pass, as after a new connection.

    A grant whose channels are gone ended unseen. It is settled, marked as estimated, with the time that
    it can have talked at most: until its lease ended or until now, whichever came first. A grant that
    fails spoils no other; the first failure is raised when all were looked after.
    """
    before = clock.now()
    live = [grant for grant in await desk.ledger.live_grants() if belongs(grant)]
    up = await follower.channels()
    await follower.refresh(up, before, after_gap=after_gap)
    loose = [
        grant
        for grant in live
        if not follower.follows(grant.call_id) and grant.authorised_ms <= before.wall_ms
    ]
    settled = 0
    failures: list[BaseException] = []
    for first in range(0, len(loose), AT_ONCE):
        results = await asyncio.gather(
            *(_look_after(desk, follower, clock, grant, up) for grant in loose[first : first + AT_ONCE]),
            return_exceptions=True,
        )
        settled += sum(result is True for result in results)
        failures += [result for result in results if isinstance(result, BaseException)]
    _tell(failures)
    return settled


async def _look_after(
    desk: Desk, follower: Follower[Channel], clock: Clock, grant: Grant, up: Mapping[str, Channel]
) -> bool:
    """Whether the grant was settled."""
    channels = [channel for channel in (grant.channel, grant.leg) if channel is not None and channel in up]
    if not channels:
        await _settle_unseen(desk, grant, clock.now(), placed=follower.places(grant.call_id))
        return True
    log.info("call_adopted", call=grant.call_id)
    await follower.adopt(grant, {channel: up[channel] for channel in channels})
    return False


def _tell(failures: Sequence[BaseException]) -> None:
    for failure in failures[1:]:
        log.error("reconcile_failed_further", error=str(failure))
    if failures:
        raise failures[0]


async def _settle_unseen(desk: Desk, grant: Grant, now: Moment, *, placed: bool) -> None:
    if placed and grant.answered_ms is None:
        # Nobody but us could bring its legs together, and we had not.
        await desk.settle(grant.call_id, 0, now)
        return
    start_ms = grant.answered_ms if grant.answered_ms is not None else grant.authorised_ms
    longest_ms = max(0, now.wall_ms - start_ms)
    if grant.granted_s is not None:
        longest_ms = min(longest_ms, grant.granted_s * MS_PER_S)
    settled = await desk.settle(grant.call_id, whole_seconds(longest_ms), now, estimated=True)
    log.warning(
        "settled_unseen", call=grant.call_id, used_s=settled.used_s, answered=grant.answered_ms is not None
    )
