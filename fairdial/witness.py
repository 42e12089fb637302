"""What Asterisk's call detail records prove of a call: whether it was answered, and from when until when it talked.

Responsible for keeping records by channel (`Witness`) and for reading them (`talk`). Leaves parsing to `cdr`, the
file to `cdr_file`, and what becomes of a grant to `reconcile`.

Measured on 22.10.1, with phones on both sides (tests/switch/test_cdr.py holds it):

- A record is of a channel and, as a rule, of one other that it rang or was bridged with. A dial that forks or is
  forwarded has one for each attempt; who goes on in the dialplan after `Dial()` has a further one.
- Who is transferred blindly by the caller goes on in records of its own id. Two who are brought together by an attended
  transfer have one record between them, under the id of one; the other is known there by its name alone.
- Parked, a channel has records of its own. `Local` channels have theirs, under ids that end in ;2.
- A channel that comes into a bridge with an older one in it has no record of its own from then on: the older's names
  it. Who stays behind alone, and in a conference who leaves before the oldest, may have no record of that time.
- A dialplan that answers before it dials has records with an answer time though nobody was reached; their
  disposition tells.
- An Asterisk that is killed writes nothing of the calls that it had; one that is told to end does.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from fairdial.cdr import Cdr
from fairdial.policy.periods import MS_PER_S

RECORDS_MAX: Final = 100_000
"""About a kilobyte each."""
_MIDDLE_MS: Final = MS_PER_S // 2
_MANY: Final = frozenset({"ConfBridge", "MeetMe", "Stasis", "BridgeWait"})
"""Applications that can leave a channel alone in a bridge, or with several others."""


class Shape(Enum):
    """How the parties of a call come together, which says what its records look like.

    DIALLED: a channel in `Dial()`. JOINED: two legs in a bridge of ours, which end together. ALONE: one channel that
    is metered by itself, as in a conference.
    """

    DIALLED = "dialled"
    JOINED = "joined"
    ALONE = "alone"


@dataclass(frozen=True, slots=True)
class Talk:
    """What the records prove. Instants are UTC milliseconds; without an answer they are those of the attempt.

    start_exact: false where the dialplan had answered the caller before it dialled, so that ringing is counted too:
    the talk is at most so long. end_exact: false where the records of a conference may stop before the channel did:
    it is at least so long. With both it is right within one second, within half a second where the ledger knew
    the answer.
    """

    answered: bool
    start_ms: int
    end_ms: int
    start_exact: bool = True
    end_exact: bool = True

    @property
    def talked_ms(self) -> int:
        """How long it talked, 0 without an answer."""
        return self.end_ms - self.start_ms if self.answered else 0


class Witness:
    """The newest records, found by channel. records_max: at most so many, then the oldest to come is dropped."""

    def __init__(self, records_max: int = RECORDS_MAX) -> None:
        if records_max < 1:
            raise ValueError(f"records_max {records_max}: at least 1")
        self._records_max = records_max
        self._records: dict[tuple[str, int, int, str], Cdr] = {}
        self._by_id: dict[str, list[Cdr]] = {}
        self._by_other: dict[str, list[Cdr]] = {}

    def __len__(self) -> int:
        return len(self._records)

    def note(self, cdr: Cdr) -> bool:
        """Keep a record; false for one that is of no use (no unique id) or known, as from the file and from AMI."""
        key = (cdr.unique_id, cdr.start_ms, cdr.end_ms, cdr.dst_channel)
        if not cdr.unique_id or key in self._records:
            return False
        if len(self._records) >= self._records_max:
            self._drop(self._records.pop(next(iter(self._records))))
        self._records[key] = cdr
        self._by_id.setdefault(cdr.unique_id, []).append(cdr)
        if cdr.dst_channel:
            self._by_other.setdefault(cdr.dst_channel, []).append(cdr)
        return True

    def of(self, channel_id: str, *leg_ids: str) -> tuple[Cdr, ...]:
        """The records of a call's channels by their ids, and those that name one of them as the other; for `talk`."""
        found = {id(cdr): cdr for one in (channel_id, *leg_ids) for cdr in self._by_id.get(one, ())}
        names = {cdr.channel for cdr in found.values()} | {
            cdr.dst_channel for cdr in self._by_id.get(channel_id, ())
        }
        found |= {id(cdr): cdr for name in names for cdr in self._by_other.get(name, ())}
        return tuple(sorted(found.values(), key=lambda cdr: (cdr.start_ms, cdr.end_ms)))

    def forget(self, before_ms: int, keep: Collection[str]) -> None:
        """Drop records of calls that ended before that (UTC), but for those of the channels in `keep`, by their ids."""
        names = {
            name
            for one in keep
            for cdr in self._by_id.get(one, ())
            for name in (cdr.channel, cdr.dst_channel)
        }
        old = []
        for key, cdr in self._records.items():
            if cdr.end_ms >= before_ms:
                break  # they come in the order of their ends, but for a few
            if cdr.unique_id not in keep and not names & {cdr.channel, cdr.dst_channel}:
                old.append(key)
        for key in old:
            self._drop(self._records.pop(key))

    def _drop(self, cdr: Cdr) -> None:
        for index, key in ((self._by_id, cdr.unique_id), (self._by_other, cdr.dst_channel)):
            if key:
                kept = index[key]
                kept.remove(cdr)
                if not kept:
                    del index[key]


def talk(
    cdrs: Sequence[Cdr],
    *,
    channel_id: str,
    leg_ids: Collection[str] = (),
    shape: Shape,
    from_ms: int,
    until_ms: int | None = None,
    answered_ms: int | None = None,
) -> Talk | None:
    """What the records of a call prove of it, None: nothing. Only of use once all its channels are gone.

    channel_id: of the channel that dialled, or of the first leg; leg_ids: of those that answered. from_ms: when it was
    authorised; until_ms: when the same channel's next dial was, None: it made none. answered_ms: as the ledger knows
    it, which is exact and is preferred to the record's.

    Asterisk cuts instants down to the second, so the middle of that second is taken: each is right within half
    a second, and of a start that is the ledger's and an end that is the record's the talk is.
    """
    counted = _counted(cdrs, channel_id, leg_ids, from_ms, until_ms)
    if not counted:
        return None
    talked = [cdr for cdr in counted if cdr.answered and _together(cdr, channel_id, shape)]
    if not talked:
        first_ms, last_ms = min(cdr.start_ms for cdr in counted), max(cdr.end_ms for cdr in counted)
        return Talk(False, max(first_ms, from_ms), max(last_ms + _MIDDLE_MS, from_ms))
    picked_up_ms = _answer_ms(counted if shape is Shape.JOINED else talked, shape)
    start_ms = max(picked_up_ms + _MIDDLE_MS, from_ms) if answered_ms is None else answered_ms
    end_ms = max(cdr.end_ms for cdr in talked) + _MIDDLE_MS
    return Talk(
        True,
        start_ms,
        max(start_ms, end_ms),
        start_exact=answered_ms is not None
        or (picked_up_ms > from_ms - MS_PER_S and not _was_up(cdrs, channel_id, picked_up_ms)),
        end_exact=shape is Shape.JOINED
        or (shape is Shape.DIALLED and not any(cdr.last_app in _MANY for cdr in talked)),
    )


def _counted(
    cdrs: Sequence[Cdr], channel_id: str, leg_ids: Collection[str], from_ms: int, until_ms: int | None
) -> list[Cdr]:
    """The records that are of this dial: by id, then those that name one of its channels and go on where one ended."""

    def is_later(cdr: Cdr) -> bool:
        return cdr.start_ms > from_ms - MS_PER_S or cdr.end_ms > from_ms

    def is_before_next(cdr: Cdr) -> bool:
        return until_ms is None or cdr.end_ms <= until_ms

    callers = [cdr for cdr in cdrs if cdr.unique_id == channel_id and is_before_next(cdr)]
    # One that began long before and ended in the second of the question is of an earlier dial, if this one has another.
    own = [cdr for cdr in callers if is_later(cdr)] or [
        cdr for cdr in callers if cdr.end_ms > from_ms - MS_PER_S
    ]
    ids = {channel_id, *leg_ids}
    legs = [cdr for cdr in cdrs if cdr.unique_id in ids and cdr.unique_id != channel_id and is_later(cdr)]
    counted = own + legs
    spans: dict[str, tuple[int, int]] = {}
    for cdr in counted:
        _widen(spans, cdr.channel, cdr)
    for cdr in own:
        if cdr.dst_channel:
            _widen(spans, cdr.dst_channel, cdr)
    caller = {cdr.channel for cdr in own}
    others = [
        cdr
        for cdr in cdrs
        if cdr.unique_id not in ids
        and is_later(cdr)
        and (cdr.dst_channel not in caller or is_before_next(cdr))
    ]
    while linked := [cdr for cdr in others if _goes_on(cdr, spans)]:
        others = [cdr for cdr in others if not _goes_on(cdr, spans)]
        for cdr in linked:
            _widen(spans, cdr.dst_channel, cdr)
        counted += linked
    return counted


def _widen(spans: dict[str, tuple[int, int]], name: str, cdr: Cdr) -> None:
    first_ms, last_ms = spans.get(name, (cdr.start_ms, cdr.end_ms))
    spans[name] = min(first_ms, cdr.start_ms), max(last_ms, cdr.end_ms)


def _goes_on(cdr: Cdr, spans: Mapping[str, tuple[int, int]]) -> bool:
    """Whether it names a channel of the call at a time at which that can be it: names begin anew with Asterisk."""
    if cdr.dst_channel not in spans:
        return False
    first_ms, last_ms = spans[cdr.dst_channel]
    return cdr.start_ms <= last_ms + MS_PER_S and cdr.end_ms >= first_ms


def _together(cdr: Cdr, channel_id: str, shape: Shape) -> bool:
    """Whether a record is of talk: with another channel, or of a called one that was parked meanwhile."""
    if cdr.dst_channel or shape is Shape.ALONE:
        return True
    return shape is Shape.DIALLED and cdr.unique_id != channel_id


def _was_up(cdrs: Sequence[Cdr], channel_id: str, picked_up_ms: int) -> bool:
    """Whether the caller was answered before it dialled: its record goes on from another, answered as it begins."""
    own = [cdr for cdr in cdrs if cdr.unique_id == channel_id]
    return any(
        cdr.answer_ms == cdr.start_ms == picked_up_ms
        # In the same second nothing tells which was first.
        and any(
            other.answer_ms is not None and other.start_ms < cdr.start_ms and other.end_ms <= cdr.start_ms
            for other in own
        )
        for cdr in own
    )


def _answer_ms(cdrs: Sequence[Cdr], shape: Shape) -> int:
    """The earliest answer; in a bridge of ours that of the leg that answered last."""
    by_channel: dict[str, int] = {}
    for cdr in cdrs:
        if cdr.answered and cdr.answer_ms is not None:
            by_channel[cdr.unique_id] = min(cdr.answer_ms, by_channel.get(cdr.unique_id, cdr.answer_ms))
    return (max if shape is Shape.JOINED else min)(by_channel.values())
