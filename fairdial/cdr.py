"""Asterisk's call detail records, as text: rows of `Master.csv` and AMI's `Cdr` events become `Cdr` values.

Responsible for columns, quoting and times. Leaves the file on disk to `cdr_file`, and what a record proves of a call
to `witness`.

The columns are those of `cdr_csv.c`: sixteen, then as cdr.conf says `uniqueid`, `userfield`, and with `newcdrcolumns`
`peeraccount`, `linkedid`, `sequence`. Measured on 22.10.1: text is quoted and its quotes are doubled, numbers and an
absent answer are bare, instants are cut down to the second, and `duration` and `billsec` are cut down by themselves,
so that a talk from 52.21 to 54.21 has `billsec` 1 or 2.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from itertools import product
from sys import intern
from typing import Final

import msgspec

from fairdial.policy.periods import MS_PER_S

MARK: Final = "fairdial-through"
"""Begins the user field of a call that the failure rule let through: MARK|decision|kind|number|line."""
ROW_BYTES_MAX: Final = 4096
"""Longer than any row: `cdr_csv.c` leaves a record away that does not fit into 1,024 bytes."""
LATE_MS: Final = 120 * MS_PER_S
"""How much earlier than the row before it a record can have ended: Asterisk writes the attempts of a dial, such as a
fork's and a forward's, together when the call is over."""

_FIXED: Final = 16
_COLUMNS: Final = frozenset({16, 17, 18, 19, 20, 21})
_INSTANT: Final = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2}) ([0-9]{2}):([0-9]{2}):([0-9]{2})")
_SECONDS: Final = re.compile(r"[0-9]{1,9}")
_UNIQUE_ID: Final = re.compile(r"(?:.*-)?(?:[0-9]+\.[0-9]+|own-[0-9a-f]+)(?:;[12])?")
"""Ids that Asterisk makes up (with `systemname` before it, `;2` after it) and those of calls that FairDial sets up."""

_Times = tuple[int, int | None, int]
"""Start, answer and end in UTC milliseconds."""


class MalformedCdr(ValueError):
    """A record that cannot be read. where: file and line, or the event; fault: what is wrong with it."""

    def __init__(self, where: str, fault: str) -> None:
        super().__init__(f"{where}: {fault}")
        self.where = where
        self.fault = fault


class Cdr(msgspec.Struct, frozen=True, gc=False):
    """One record. Instants are UTC milliseconds, whole seconds, cut down; answer_ms None: not answered.

    unique_id: of `channel`, "" where cdr.conf does not log it; channel, dst_channel: names such as
    "PJSIP/alice-0000002a". duration_s: start to end; bill_s: answer to end.
    """

    unique_id: str
    channel: str
    dst_channel: str
    account_code: str
    src: str
    dst: str
    context: str
    last_app: str
    last_data: str
    start_ms: int
    answer_ms: int | None
    end_ms: int
    duration_s: int
    bill_s: int
    disposition: str
    user_field: str

    @property
    def let_through(self) -> str | None:
        """The call that the failure rule let through, by the mark of fairdial.conf; None: it has none."""
        mark, _, rest = self.user_field.partition("|")
        return rest.partition("|")[0] if mark == MARK else None

    @property
    def answered(self) -> bool:
        """Whether the other side answered. A dialplan that answers before it dials has an answer time anyway."""
        return self.disposition == "ANSWERED" and self.answer_ms is not None


def cdr_of_row(text: str, zone: tzinfo, *, where: str, after_ms: int | None = None) -> Cdr:
    """The record of one row of `Master.csv`, its line end included or not. Raises MalformedCdr.

    zone: UTC with `usegmtime=yes`, else the switch's own. where: file and line, for the error. after_ms: the end of
    the row before. Where clocks are put back an hour comes twice: its times are read so that they are in order and as
    far apart as the record says; if both hours are, as the earlier one that is not long before after_ms.
    """
    try:
        [fields] = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as error:
        raise MalformedCdr(where, f"not one row of CSV ({error})") from None
    if len(fields) not in _COLUMNS:
        raise MalformedCdr(where, f"{len(fields)} columns; cdr_csv writes 16 to 21")
    unique_id, user_field = _optional(fields[_FIXED:])
    named = (fields[5], fields[6], fields[0], fields[1], fields[2], fields[3], fields[7], fields[8])
    return _cdr(unique_id, named, fields[9:15], user_field, zone, where, after_ms)


def cdr_of_event(headers: Mapping[str, str], zone: tzinfo, *, after_ms: int | None = None) -> Cdr:
    """The record of an AMI event `Cdr` (cdr_manager). Raises MalformedCdr.

    zone: the switch's own in any case, `usegmtime` does not hold here. after_ms: as for a row; an event is news, so
    the present moment less LATE_MS will do.
    """
    where = f"AMI event Cdr of {headers.get('UniqueID') or 'an unnamed channel'}"
    names = ("Channel", "DestinationChannel", "AccountCode", "Source", "Destination", "DestinationContext")
    named = tuple(headers.get(name, "") for name in (*names, "LastApplication", "LastData"))
    times = ("StartTime", "AnswerTime", "EndTime", "Duration", "BillableSeconds", "Disposition")
    timed = [headers.get(name, "") for name in times]
    return _cdr(
        headers.get("UniqueID", ""), named, timed, headers.get("UserField", ""), zone, where, after_ms
    )


def rows(data: bytes, *, final: bool) -> Iterator[tuple[int, int]]:
    """Where each complete row of `data` begins and ends; what is left after the last is the beginning of one.

    A row goes on over a line end that stands within quotes. Of a row that was broken off (a full disk, a power cut)
    only its own line is lost, though its quote stays open. final: no more has come since it was looked at before,
    so that lines whose quote is open are not waited for any longer.
    """
    start = 0
    while (end := _row_end(data, start, final)) is not None:
        yield start, end
        start = end


def _row_end(data: bytes, start: int, final: bool) -> int | None:
    first = stop = data.find(b"\n", start) + 1
    if not first:
        # Not text at all, or a line that nobody writes.
        return len(data) if len(data) - start > ROW_BYTES_MAX else None
    quotes = data.count(b'"', start, first)
    while quotes % 2:
        line = stop
        stop = data.find(b"\n", line) + 1
        if not stop:
            return first if final or len(data) - start > ROW_BYTES_MAX else None
        if stop - start > ROW_BYTES_MAX:
            return first
        quotes += data.count(b'"', line, stop)
    return stop if stop == first or _has_columns(data[start:stop]) else first


def _has_columns(row: bytes) -> bool:
    try:
        return [
            len(fields) in _COLUMNS for fields in csv.reader([row.decode(errors="replace")], strict=True)
        ] == [True]
    except csv.Error:
        return False


def _optional(fields: Sequence[str]) -> tuple[str, str]:
    """Unique id and user field, of the columns after the sixteenth."""
    logged = fields[: len(fields) - 3] if len(fields) >= 3 else fields
    if len(logged) == 2:
        return logged[0], logged[1]
    # One of both: `loguniqueid` and `loguserfield` tell nobody which of them it was.
    if not logged or _UNIQUE_ID.fullmatch(logged[0]) is None:
        return "", "".join(logged)
    return logged[0], ""


def _cdr(
    unique_id: str,
    named: Sequence[str],
    timed: Sequence[str],
    user_field: str,
    zone: tzinfo,
    where: str,
    after_ms: int | None,
) -> Cdr:
    """named: channels, account code, source, destination, context, application and its data; timed: the rest."""
    channel, dst_channel, account_code, src, dst, context, last_app, last_data = named
    start, answer, end, duration, bill, disposition = timed
    start_at, end_at = _instants("start", start, zone, where), _instants("end", end, zone, where)
    answer_at = _instants("answer", answer, zone, where) if answer else (None,)
    duration_s, bill_s = _seconds("duration", duration, where), _seconds("billsec", bill, where)
    fitting = _fitting(product(start_at, answer_at, end_at), duration_s, bill_s)
    if not fitting:
        raise MalformedCdr(
            where, f"start {start}, answer {answer or 'none'} and end {end} are not in this order"
        )
    start_ms, answer_ms, end_ms = _settled(fitting, after_ms)
    return Cdr(
        unique_id,
        channel,
        dst_channel,
        # A few values that thousands of records share.
        intern(account_code),
        src,
        dst,
        intern(context),
        intern(last_app),
        last_data,
        start_ms,
        answer_ms,
        end_ms,
        duration_s,
        bill_s,
        intern(disposition),
        user_field,
    )


def _instants(name: str, text: str, zone: tzinfo, where: str) -> tuple[int, ...]:
    try:
        return _meant(text, zone)
    except (ValueError, OverflowError) as error:
        raise MalformedCdr(where, f"{name} time {text[:40]!r}: {error}") from None


@lru_cache(maxsize=1024)
def _meant(text: str, zone: tzinfo) -> tuple[int, ...]:
    """The instants that a local time can mean: two where clocks were put back, the earlier first.

    Kept, as records that stand together share their seconds.
    """
    matched = _INSTANT.fullmatch(text)
    if matched is None:
        raise ValueError("not written as 2026-11-22 09:30:00")
    year, month, day, hour, minute, second = map(int, matched.groups())
    local = datetime(year, month, day, hour, minute, second, tzinfo=zone)
    folds = (local,) if zone is UTC else (local, local.replace(fold=1))
    return tuple(sorted({int(fold.timestamp()) * MS_PER_S for fold in folds}))


def _seconds(name: str, text: str, where: str) -> int:
    if _SECONDS.fullmatch(text) is None:
        raise MalformedCdr(where, f"{name} {text[:40]!r} is no number of seconds")
    return int(text)


def _fitting(possible: Iterable[_Times], duration_s: int, bill_s: int) -> list[_Times]:
    """Start, answer and end in this order; where some are as far apart as the record says, only those."""
    ordered = [times for times in possible if times[0] <= (times[1] or times[0]) <= times[2]]
    if len(ordered) < 2:
        return ordered

    def is_as_long(times: _Times) -> bool:
        start_ms, answer_ms, end_ms = times
        # Each instant is cut down by itself.
        billed = answer_ms is None or abs(end_ms - answer_ms - bill_s * MS_PER_S) <= MS_PER_S
        return billed and abs(end_ms - start_ms - duration_s * MS_PER_S) <= MS_PER_S

    return [times for times in ordered if is_as_long(times)] or ordered


def _settled(fitting: Sequence[_Times], after_ms: int | None) -> _Times:
    """Of two hours that fit the earlier, unless that is long before the row before."""
    late_enough = (times for times in fitting if after_ms is None or times[2] >= after_ms - LATE_MS)
    return next(late_enough, fitting[-1])
