"""Calls that the failure rule let through while nobody answered, metered afterwards from the switch's records.

The dialplan marks the record of such a call (fairdial.conf, `CDR(userfield)`), so nothing that was answered goes
unmetered though FairDial was away. What no allowance can take in any more is noted as a difference: limits hold.
"""

from dataclasses import dataclass

import structlog

from fairdial.cdr import MARK, Cdr
from fairdial.clock import Moment
from fairdial.desk import Asked, Desk
from fairdial.ledger.contract import Difference, DifferenceKind, Grant, IdempotencyConflict
from fairdial.policy.account import Kind
from fairdial.policy.decide import Allow
from fairdial.policy.periods import MS_PER_S, whole_seconds

log = structlog.get_logger(__name__)

RENEWALS_MAX = 2_000
"""A grant is given in slices where little is left; so many of them at most."""


@dataclass(frozen=True, slots=True)
class LetThrough:
    """A dial that was let through without an answer."""

    call_id: str
    kind: Kind
    number: str
    line_id: str


def let_through(cdr: Cdr) -> LetThrough | None:
    """What the record says of itself; None: it is of another call, or its mark was tampered with."""
    mark, *words = cdr.user_field.split("|", 4)
    if mark != MARK or len(words) != 4:
        return None
    call_id, kind, number, line_id = words
    if kind not in frozenset(Kind) or not call_id.startswith(f"{cdr.unique_id}-"):
        return None
    return LetThrough(call_id, Kind(kind), number, line_id)


async def meter(desk: Desk, cdr: Cdr, dial: LetThrough, *, was_up: bool = False) -> bool:
    """Meter a call that is over, once; False where there is nothing to meter. Raises LedgerError.

    was_up: the caller was answered before it dialled, so that its record counts ringing as talk.
    """
    if not cdr.answered or cdr.answer_ms is None:
        return False
    talked_s = whole_seconds(max(0, cdr.end_ms - cdr.answer_ms))
    asked = Asked(dial.call_id, dial.kind, dial.number, dial.line_id, cdr.unique_id, ring_s=0, caller=cdr.src)
    try:
        verdict = await desk.authorise_late(asked, cdr.answer_ms)
    except IdempotencyConflict:
        return False
    metered_s = 0
    if isinstance(verdict.decision, Allow) and verdict.decision.account_id is not None:
        grant = await desk.answered(dial.call_id, cdr.unique_id, Moment(cdr.answer_ms, 0))
        metered_s = await _use(desk, grant, cdr, talked_s, was_up)
    log.warning("metered_later", call=dial.call_id, used_s=metered_s, talked_s=talked_s)
    if metered_s < talked_s:
        await desk.ledger.differ(
            Difference(
                dial.call_id,
                DifferenceKind.UNMETERED,
                cdr.end_ms,
                metered_s,
                talked_s,
                f"{verdict.decision.reason}: let through without an answer, and past what its plan allows",
            )
        )
    return True


async def cover(desk: Desk, grant: Grant, since_ms: int, talked_s: int) -> Grant:
    """Renew a grant until it covers what was talked since then, as far as there is any. Raises LedgerError."""
    for _ in range(RENEWALS_MAX):
        granted_s = grant.granted_s
        if granted_s is None or granted_s >= talked_s:
            break
        lease_end_ms = since_ms + granted_s * MS_PER_S
        grant = await desk.renew(grant.call_id, lease_end_ms - desk.now_ms())
        if grant.granted_s is None or grant.granted_s <= granted_s:
            break
    return grant


async def _use(desk: Desk, grant: Grant, cdr: Cdr, talked_s: int, estimated: bool) -> int:
    """Grant as much as it took, as far as there is any, and settle; what was metered."""
    await cover(desk, grant, cdr.answer_ms or 0, talked_s)
    settled = await desk.settle(grant.call_id, talked_s, Moment(cdr.end_ms, 0), estimated=estimated)
    return settled.used_s or 0
