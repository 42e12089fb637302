"""Switch against ledger: which grants still have a call, and what becomes of the others.

Runs at start, after each reconnect and periodically. Rests only on a listing of channels that
succeeded, and on grants that were live before that listing was asked for: unknown is not absent.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

import structlog

from fairdial.clock import Clock, Moment
from fairdial.desk import Desk
from fairdial.ledger.contract import Grant
from fairdial.policy.periods import MS_PER_S, whole_seconds

log = structlog.get_logger(__name__)


Channel = TypeVar("Channel")


class Follower(Protocol[Channel]):
    """Whoever follows calls on the switch. What it knows of a channel is its own affair."""

    def follows(self, call_id: str) -> bool:
        """Whether this call is followed already."""
        ...

    async def channels(self) -> Mapping[str, Channel]:
        """All channels of the switch by id. Raises if they cannot be listed."""
        ...

    async def adopt(self, grant: Grant, up: Mapping[str, Channel]) -> None:
        """Follow a call again, of which at least one channel is up."""
        ...

    async def refresh(self, up: Mapping[str, Channel], listed: Moment) -> None:
        """Bring the calls that are followed into line with a listing."""
        ...


async def reconcile(
    desk: Desk, follower: Follower[Channel], clock: Clock, *, belongs: Callable[[Grant], bool]
) -> int:
    """One pass; returns how many grants it settled. `belongs`: whether a grant is of this switch.

    A grant whose channels are gone ended unseen. It is settled, marked as estimated, with the time that
    it can have talked at most: until its lease ended or until now, whichever came first.
    """
    before = clock.now()
    live = [grant for grant in await desk.ledger.live_grants() if belongs(grant)]
    up = await follower.channels()
    await follower.refresh(up, before)
    settled = 0
    for grant in live:
        if follower.follows(grant.call_id) or grant.authorised_ms > before.wall_ms:
            continue
        channels = [
            channel for channel in (grant.channel, grant.leg) if channel is not None and channel in up
        ]
        if channels:
            log.info("call_adopted", call=grant.call_id)
            await follower.adopt(grant, {channel: up[channel] for channel in channels})
        else:
            await _settle_unseen(desk, grant, clock.now())
            settled += 1
    return settled


async def _settle_unseen(desk: Desk, grant: Grant, now: Moment) -> None:
    start_ms = grant.answered_ms if grant.answered_ms is not None else grant.authorised_ms
    longest_ms = max(0, now.wall_ms - start_ms)
    if grant.granted_s is not None:
        longest_ms = min(longest_ms, grant.granted_s * MS_PER_S)
    settled = await desk.settle(grant.call_id, whole_seconds(longest_ms), now, estimated=True)
    log.warning(
        "settled_unseen", call=grant.call_id, used_s=settled.used_s, answered=grant.answered_ms is not None
    )
