"""Calls as they were settled against the switch's own records of them.

Two witnesses of the same call: where they disagree by more than a second, it is noted for people to look at.
What was settled stays: both can be right about different things, as where a caller talks on in the dialplan.
"""

from collections.abc import Callable, Iterable

import structlog

from fairdial.clock import Moment
from fairdial.evidence import Evidence, next_dial_ms
from fairdial.ledger.contract import Difference, DifferenceKind, Grant, Ledger
from fairdial.policy.account import Kind

log = structlog.get_logger(__name__)

AT_ONCE = 200
"""Calls that are compared in one go: a few milliseconds, in which nobody else is served."""

GOES_MAX = 100
"""Of one round. With a round a minute that keeps up with 300 calls a second; what is left waits for the next."""

TOLERATED_S = 1
"""Records of the switch count whole seconds."""

LATEST_MS = 15_000
"""Calls that ended less than this ago are left for the next time: their record may not be written yet."""

_NOT_COMPARED = frozenset({Kind.CONFERENCE, Kind.MESSAGE})
"""A seat ends when somebody leaves the conference, its channel may live on; a message has no length."""


async def compare(
    ledger: Ledger,
    evidence: Evidence,
    switch: str,
    now: Moment,
    *,
    belongs: Callable[[Grant], bool],
    placed: Callable[[str], bool],
) -> int:
    """Compare calls that are over with the records of the switch; how many differ. Raises LedgerError."""
    seen = await ledger.seen(switch)
    until_ms = now.wall_ms - LATEST_MS
    if seen is None or until_ms <= seen.compared_ms:
        return 0
    await evidence.records.refresh()
    from_ms, differ = seen.compared_ms, 0
    for _ in range(GOES_MAX):
        grants = await ledger.settled_between(from_ms, until_ms, AT_ONCE)
        reached_ms = until_ms
        if len(grants) == AT_ONCE and (last_ms := grants[-1].ended_ms) is not None:
            # Others may have ended in the very same millisecond: those are seen twice rather than never.
            reached_ms = max(from_ms + 1, last_ms - 1)
        found = await _differences(ledger, evidence, filter(belongs, grants), placed)
        await ledger.compared(switch, reached_ms, found)
        differ += len(found)
        if reached_ms == until_ms:
            break
        from_ms = reached_ms
    return differ


async def _differences(
    ledger: Ledger, evidence: Evidence, grants: Iterable[Grant], placed: Callable[[str], bool]
) -> list[Difference]:
    found = []
    for grant in grants:
        difference = _difference(evidence, grant, placed(grant.call_id))
        if difference is not None:
            # Records of the same channel's next dial are not of this one.
            next_ms = await next_dial_ms(ledger, grant)
            difference = _difference(evidence, grant, placed(grant.call_id), next_ms)
        if difference is not None:
            found.append(difference)
    for difference in found:
        log.warning(
            "usage_differs",
            call=difference.call_id,
            sip_call_id=await ledger.sip_call_id(difference.call_id),
            ours_s=difference.ours_s,
            theirs_s=difference.theirs_s,
        )
    return found


def _difference(
    evidence: Evidence, grant: Grant, placed: bool, until_ms: int | None = None
) -> Difference | None:
    if grant.kind in _NOT_COMPARED or grant.used_s is None or grant.ended_ms is None:
        return None
    theirs = evidence.proved(grant, placed=placed, until_ms=until_ms)
    if theirs is None or theirs.estimated or abs(theirs.used_s - grant.used_s) <= TOLERATED_S:
        return None
    return Difference(
        grant.call_id, DifferenceKind.USAGE, grant.ended_ms, grant.used_s, theirs.used_s, "left as settled"
    )
