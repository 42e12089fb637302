"""When a call ended that nobody of ours saw end: what is proven of it, and what is assumed where nothing is.

In this order: the switch's own records (CDRs) have its real times; one that died with the switch was up until the
last moment at which we know it was; else it talked until its lease ended, or until now. The last two are marked
as estimated. Pure but for what it remembers: who settles is `reconcile.py`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from fairdial.cdr import Cdr
from fairdial.clock import Moment
from fairdial.ledger.contract import Grant, Ledger
from fairdial.policy.account import Kind
from fairdial.policy.periods import MS_PER_S, whole_seconds
from fairdial.witness import Shape, talk

SETTLED_MS = 2_000
"""A call's records are all written so long after its end: a leg's may come later than the caller's."""


DIALS_LOOKED_AT = 4
"""Dials after one that are looked at for the next that was allowed."""


@dataclass(frozen=True, slots=True)
class Use:
    """What a call used, and when it ended. estimated: no record says so. answered_ms: where it is known now only.

    Instants are UTC milliseconds.
    """

    used_s: int
    ended_ms: int
    estimated: bool = False
    answered_ms: int | None = None


class Records(Protocol):
    """The switch's records of its calls."""

    async def refresh(self) -> None:
        """Read what was written meanwhile; what cannot be read is told in the log and is not there."""
        ...

    def of(self, channel_id: str, *leg_ids: str) -> tuple[Cdr, ...]:
        """All that is known of a call's channels."""
        ...


class NoRecords:
    """A switch whose records are not read."""

    async def refresh(self) -> None:
        return

    def of(self, channel_id: str, *leg_ids: str) -> tuple[Cdr, ...]:
        del channel_id, leg_ids
        return ()


class Evidence:
    """What there is to go by on one switch.

    wait_s: how long a record may take to be written; until then nothing is assumed of a call. proven_ms: the last
    moment at which the switch was heard with all live calls followed; restarted_ms: when the switch that runs
    now began, where that is not the one of before. Both UTC milliseconds, None where unknown.
    """

    def __init__(self, records: Records | None = None, wait_s: float = 0.0) -> None:
        self.records = records or NoRecords()
        self.proven_ms: int | None = None
        self.restarted_ms: int | None = None
        self._wait_ms = round(wait_s * MS_PER_S)
        self._missed_since: dict[str, int] = {}

    def keep(self, call_ids: Collection[str], now: Moment) -> None:
        """These calls are gone and not settled; of others nothing is remembered any more."""
        self._missed_since = {
            call_id: self._missed_since.get(call_id, now.mono_ms) for call_id in sorted(call_ids)
        }

    def proved(self, grant: Grant, *, placed: bool, until_ms: int | None = None) -> Use | None:
        """What is recorded; estimated: not all of it. placed: FairDial itself brings the two legs of the call together.

        until_ms: when the same channel's next dial was.
        """
        if grant.kind is Kind.CONFERENCE and grant.answered_ms is None:
            # Whatever its channel did: it was called in, and never was in.
            return Use(0, grant.authorised_ms)
        legs = () if grant.leg is None else (grant.leg,)
        found = self.records.of(grant.channel, *legs)
        # A channel's records of dials that the failure rule let through are of those alone.
        records = [cdr for cdr in found if cdr.let_through in (None, grant.call_id)]
        # What is known of the answer of such a dial is from the record itself.
        answered_ms = None if any(cdr.let_through for cdr in records) else grant.answered_ms
        recorded = talk(
            records,
            channel_id=grant.channel,
            leg_ids=legs,
            shape=_shape(grant, placed),
            from_ms=grant.authorised_ms,
            until_ms=until_ms,
            answered_ms=answered_ms,
        )
        if recorded is None:
            return None
        if not recorded.answered:
            return Use(0, recorded.end_ms)
        return Use(
            whole_seconds(recorded.talked_ms),
            recorded.end_ms,
            not (recorded.start_exact and recorded.end_exact)
            or (answered_ms is None and len(records) < len(found)),
            recorded.start_ms,
        )

    def outlived(self, grant: Grant, use: Use) -> bool:
        """Whether a call was up for longer than its records say: it died with the switch, and was proven up after.

        Such as a leg that was transferred away, of which a switch that is killed writes nothing. What the failure rule
        let through is granted when it is over.
        """
        if any(cdr.let_through == grant.call_id for cdr in self.records.of(grant.channel)):
            return False
        proven_ms = self.proven_ms or 0
        return self._died_with_switch(grant) and use.ended_ms + SETTLED_MS < proven_ms

    def is_overdue(self, grant: Grant, now: Moment, *, placed: bool) -> bool:
        """Whether no record will come any more: it took too long, or the switch died with the call."""
        if self._died_with_switch(grant):
            return True
        # Of a call that we were setting up there may never be one.
        wait_ms = min(self._wait_ms, SETTLED_MS) if placed and grant.answered_ms is None else self._wait_ms
        return now.mono_ms - self._missed_since.get(grant.call_id, now.mono_ms) >= wait_ms

    def assumed(self, grant: Grant, now: Moment, *, placed: bool, seen: Use | None = None) -> Use:
        """What counts where no record says otherwise. seen: what was seen of the call, if any."""
        if seen is not None:
            return seen
        if placed and grant.answered_ms is None:
            # Nobody but us could bring its legs together, and we had not noted it.
            return Use(0, grant.authorised_ms)
        if self._died_with_switch(grant):
            return self._until_proven(grant)
        start_ms = grant.authorised_ms if grant.answered_ms is None else grant.answered_ms
        longest_ms = max(0, now.wall_ms - start_ms)
        if grant.granted_s is not None:
            longest_ms = min(longest_ms, grant.granted_s * MS_PER_S)
        return Use(whole_seconds(longest_ms), start_ms + longest_ms, estimated=True)

    def _died_with_switch(self, grant: Grant) -> bool:
        return self.restarted_ms is not None and grant.authorised_ms < self.restarted_ms

    def _until_proven(self, grant: Grant) -> Use:
        if grant.answered_ms is None:
            # It rang when last seen.
            return Use(0, grant.authorised_ms, estimated=True)
        proven_ms = max(grant.answered_ms, self.proven_ms or 0)
        end_ms = min(proven_ms, self.restarted_ms or proven_ms)
        return Use(whole_seconds(max(0, end_ms - grant.answered_ms)), max(end_ms, grant.answered_ms), True)


def _shape(grant: Grant, placed: bool) -> Shape:
    if grant.kind is Kind.CONFERENCE:
        return Shape.ALONE
    return Shape.JOINED if placed else Shape.DIALLED


async def next_dial_ms(ledger: Ledger, grant: Grant) -> int | None:
    """When the channel of a grant dialled again (UTC milliseconds), whose records are not of this dial.

    The ids of a channel's dials end in a count. Raises LedgerError.
    """
    channel, _, count = grant.call_id.rpartition("-")
    if not count.isdecimal():
        return None
    # Those that were refused have no grant, and dialled nowhere.
    for following in range(int(count) + 1, int(count) + 1 + DIALS_LOOKED_AT):
        found = await ledger.grant(f"{channel}-{following}")
        if found is not None:
            return found.authorised_ms
    return None
