"""Records put together into calls, and the calls in the order in which they began, however many there are.

A file has its records in the order in which calls ended; a decision needs them in the order in which they began.
What one channel recorded is one call, or what both legs of a call did that FairDial set up (`Grouping`; what records
add up to says `witness.talk`). `Sorter` keeps the calls in a file of its own, sorted piece by piece, so that memory
does not grow with their number. Leaves to `attribution` whose they are, and to `run` which of them go on with another.
"""

import heapq
import os
import re
import struct
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

import msgspec

from fairdial.cdr import Cdr
from fairdial.policy.account import Kind
from fairdial.policy.periods import MS_PER_S, whole_seconds
from fairdial.witness import Shape, talk

GROUP_ROWS: Final = 2_000
"""Asterisk writes the records of a channel together when it is gone; those that stand further apart are two calls."""
RUN_CALLS: Final = 50_000
"""Calls that are sorted in memory at once, each some 400 bytes."""
CONFERENCE: Final = "ConfBridge"
"""The application whose channels are metered one by one, whoever else is in the bridge."""
ROOM: Final = "room"
"""What a channel came to our Stasis application with that came into a room of ours."""
OWN: Final = "own"
"""What a leg came with that FairDial rang itself; words that say what was asked may follow."""
COLLECT: Final = "place-collect"
"""What a caller came with whose call the called line is to pay for."""
_STASIS: Final = "Stasis"
_SECOND: Final = "-own-second"
"""Ends the id of the leg that FairDial rings for another channel, whose id is the rest."""
_OWN_ID: Final = re.compile(r"(.*-)?own-[0-9a-f]{16}")
_READ_BYTES: Final = 64 * 1024
_HEAD: Final = struct.Struct(">qII")


class Recorded(msgspec.Struct, array_like=True, frozen=True):
    """What the records of one channel say. Instants are UTC milliseconds.

    unique_id: of the channel, of the first of two that FairDial rang, or made up where none is recorded. channel, legs:
    names of the channel and of those that it was with; leg_ends_ms: until when it was with each. answer_ms None: nobody
    answered. talk_s: seconds of talk, at least 1 for what was answered. kind: where the file says it, "" otherwise.
    """

    start_ms: int
    answer_ms: int | None
    end_ms: int
    talk_s: int
    unique_id: str
    channel: str
    legs: tuple[str, ...]
    leg_ends_ms: tuple[int, ...]
    account_code: str
    src: str
    dst: str
    last_app: str
    last_data: str
    kind: str

    @property
    def words(self) -> tuple[str, ...]:
        """What the channel came to our Stasis application with, where it was still there when it ended."""
        return _words(self.last_app, self.last_data)

    @property
    def in_room(self) -> bool:
        """Whether it was in a conference, where each is metered by itself."""
        return _in_room(self.last_app, self.words)


class Grouping:
    """Puts the records of each channel together as they come."""

    def __init__(self, group_rows: int = GROUP_ROWS) -> None:
        self._group_rows = group_rows
        self._rows = 0
        # Not a dict: the first of one from which the first was taken many times is slow to find.
        self._open: OrderedDict[str, tuple[int, list[Cdr], str]] = OrderedDict()

    def add(self, cdr: Cdr, kind: Kind | None) -> Iterator[Recorded]:
        """Take one more record; the calls that are complete now."""
        self._rows += 1
        word = "" if kind is None else str(kind)
        # The two legs of a call that FairDial set up have each a record of its own.
        channel = cdr.unique_id.removesuffix(_SECOND)
        if not cdr.unique_id:
            yield _recorded([cdr], f"row-{self._rows}", word)
        elif (known := self._open.get(channel)) is None:
            self._open[channel] = (self._rows, [cdr], word)
        elif not any(_is_same(cdr, other) for other in known[1]):
            known[1].append(cdr)
        yield from self._complete(self._rows - self._group_rows)

    def rest(self) -> Iterator[Recorded]:
        """The calls that are left at the end."""
        yield from self._complete(self._rows)

    def _complete(self, up_to_row: int) -> Iterator[Recorded]:
        while self._open:
            unique_id, (row, cdrs, word) = next(iter(self._open.items()))
            if row > up_to_row:
                return
            del self._open[unique_id]
            yield _recorded(cdrs, unique_id, word)


def _is_same(cdr: Cdr, other: Cdr) -> bool:
    return (cdr.unique_id, cdr.start_ms, cdr.end_ms, cdr.dst_channel) == (
        *(other.unique_id, other.start_ms, other.end_ms, other.dst_channel),
    )


def _recorded(cdrs: list[Cdr], unique_id: str, kind: str) -> Recorded:
    first = (
        cdrs[0] if len(cdrs) == 1 else min(cdrs, key=lambda cdr: (cdr.unique_id != unique_id, cdr.start_ms))
    )
    shape = _shape(cdrs, first)
    if len(cdrs) == 1 and shape is not Shape.JOINED:
        answer_ms = first.answer_ms if first.answered else None
        end_ms, talk_s = first.end_ms, _talk_s(first)
        legs = {first.dst_channel: first.end_ms} if first.dst_channel else {}
    else:
        answer_ms, end_ms, talk_s = _together(cdrs, unique_id, shape, first.start_ms)
        legs = {}
        for cdr in cdrs:
            if cdr.dst_channel:
                legs[cdr.dst_channel] = max(cdr.end_ms, legs.get(cdr.dst_channel, cdr.end_ms))
    return Recorded(
        first.start_ms,
        answer_ms,
        end_ms,
        talk_s,
        unique_id,
        first.channel,
        tuple(legs),
        tuple(legs.values()),
        first.account_code,
        first.src,
        first.dst,
        first.last_app,
        first.last_data,
        kind,
    )


def _talk_s(cdr: Cdr) -> int:
    """Seconds of talk of a record, as near as it tells to what is metered live, which is rounded to the nearest second.

    `billsec` is cut down and so half a second too short on average; answer and end are cut down both, and so as often
    too near as too far apart. The talk is at least `billsec` and shorter than a second more.
    """
    if cdr.answer_ms is None or not cdr.answered:
        return 0
    between_s = whole_seconds(cdr.end_ms - cdr.answer_ms)
    return max(1, cdr.bill_s, min(between_s, cdr.bill_s + 1))


def _shape(cdrs: list[Cdr], first: Cdr) -> Shape:
    words = _words(first.last_app, first.last_data)
    if _in_room(first.last_app, words) or any(cdr.last_app == CONFERENCE for cdr in cdrs):
        return Shape.ALONE
    ours = words[:1] == (COLLECT,) or _OWN_ID.fullmatch(first.unique_id) or first.unique_id.endswith(_SECOND)
    if ours:
        return Shape.JOINED
    return Shape.DIALLED if any(cdr.dst_channel for cdr in cdrs) else Shape.ALONE


def _words(last_app: str, last_data: str) -> tuple[str, ...]:
    return tuple(last_data.split(",")[1:]) if last_app == _STASIS else ()


def _in_room(last_app: str, words: tuple[str, ...]) -> bool:
    return last_app == CONFERENCE or words[:1] == (ROOM,) or words[:2] == (OWN, Kind.CONFERENCE)


def _together(cdrs: list[Cdr], unique_id: str, shape: Shape, start_ms: int) -> tuple[int | None, int, int]:
    """Answer, end and seconds of talk of a channel with several records, or of two legs of one call."""
    leg_ids = (f"{unique_id}{_SECOND}",) if shape is Shape.JOINED else ()
    found = talk(cdrs, channel_id=unique_id, leg_ids=leg_ids, shape=shape, from_ms=start_ms)
    if found is None or not found.answered:
        return None, max(cdr.end_ms for cdr in cdrs), 0
    # `talk` reckons with the middle of each second; records and their order here with its beginning.
    return _second(found.start_ms), _second(found.end_ms), whole_seconds(found.talked_ms)


def _second(at_ms: int) -> int:
    return at_ms // MS_PER_S * MS_PER_S


class Sorter:
    """Calls in, calls out in the order of their starts; those of one second in the order of their channels' ids."""

    def __init__(self, run_calls: int = RUN_CALLS) -> None:
        self._run_calls = run_calls
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Recorded).decode
        self._run: list[tuple[int, int, bytes]] = []
        self._bounds: list[tuple[int, int]] = []
        self._end = 0
        self.count = 0

    def add(self, call: Recorded) -> None:
        """Take one more."""
        self._run.append((call.start_ms, _serial(call.unique_id), self._encode(call)))
        self.count += 1
        if len(self._run) >= self._run_calls:
            self._write()

    def calls(self) -> Iterator[Recorded]:
        """All of them in order; to be read once."""
        self._write()
        for _, _, data in heapq.merge(*(self._read(*bounds) for bounds in self._bounds)):
            yield self._decode(data)

    def close(self) -> None:
        """Let the file vanish."""
        self._file.close()

    def _write(self) -> None:
        if not self._run:
            return
        self._run.sort()
        begin = self._end
        for start_ms, serial, data in self._run:
            self._file.write(_HEAD.pack(start_ms, serial, len(data)))
            self._file.write(data)
            self._end += _HEAD.size + len(data)
        self._file.flush()
        self._bounds.append((begin, self._end))
        self._run.clear()

    def _read(self, at: int, end: int) -> Iterator[tuple[int, int, bytes]]:
        """One sorted piece, read a little at a time: all pieces are open at once."""
        held, offset = b"", 0
        while at < end or offset < len(held):
            if (
                len(held) - offset < _HEAD.size
                or len(held) - offset < _HEAD.size + _HEAD.unpack_from(held, offset)[2]
            ):
                more = os.pread(self._file.fileno(), min(_READ_BYTES, end - at), at)
                at += len(more)
                held, offset = held[offset:] + more, 0
                continue
            start_ms, serial, length = _HEAD.unpack_from(held, offset)
            offset += _HEAD.size
            yield start_ms, serial, held[offset : offset + length]
            offset += length


def _serial(unique_id: str) -> int:
    """The order in which Asterisk made channels within a second: the number after the last point of the id."""
    digits = unique_id.rpartition(".")[2].partition(";")[0]
    return int(digits) % 2**32 if digits.isascii() and digits.isdigit() and len(digits) < 18 else 0
