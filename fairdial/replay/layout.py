"""Call records in other layouts than Asterisk's: a mapping file says which column is what.

Responsible for the mapping file (TOML) and for reading one row by it into a `Cdr`. Leaves the file of the records to
`source`.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from fairdial.cdr import Cdr, MalformedCdr
from fairdial.policy.account import Kind
from fairdial.policy.faults import Fault, NotToml, faults_of, toml_json
from fairdial.policy.periods import MS_PER_S, zone_named

Column = str | Annotated[int, Field(ge=1, le=1000)]
"""The name of a column in the header, or its place, counted from 1."""

Places = Mapping[str, int]
"""Where each of our columns stands in a row, counted from 0."""

_EPOCH_MOST_S: Final = 253_402_300_799
"""The last second of the year 9999."""


class MappingError(ValueError):
    """A mapping file cannot be used; one line for each fault: file, key, fault, cure."""


def _zone(name: str) -> str:
    zone_named(name)
    return name


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Columns(_Table):
    """`[columns]`: which column is what; those that a file does not have are left out.

    Needed are `start` and `dst`, one of `account_code` and `channel`, and one of `end` and `bill_s`. bill_s:
    seconds of talk; duration_s: from start to end. answer: empty where nobody answered; without this column whatever
    has seconds of talk was answered. disposition: whether it was answered, by the words of `answered`; kind: what the
    call was, by the words of `[kinds]`.
    """

    start: Column
    dst: Column
    unique_id: Column | None = None
    account_code: Column | None = None
    channel: Column | None = None
    dst_channel: Column | None = None
    src: Column | None = None
    last_app: Column | None = None
    answer: Column | None = None
    end: Column | None = None
    duration_s: Column | None = None
    bill_s: Column | None = None
    disposition: Column | None = None
    kind: Column | None = None

    @model_validator(mode="after")
    def _suffice(self) -> Self:
        if self.account_code is None and self.channel is None:
            raise ValueError("nothing tells whose call a row is of; name the column account_code or channel")
        if self.end is None and self.bill_s is None:
            raise ValueError("nothing tells how long a call was; name the column end or bill_s")
        return self

    def named(self) -> Iterator[tuple[str, Column]]:
        """Our columns that the file has."""
        for name in type(self).model_fields:
            column = getattr(self, name)
            if column is not None:
                yield name, column


class Layout(_Table):
    """The mapping as a whole.

    header: whether the first row has the columns' names. time: how instants are written: as Asterisk does
    (2026-11-22 09:30:00), in ISO 8601, or as seconds since 1970. zone: of times that name none; that of --cdr-zone if
    left out. answered: words in `disposition` that say so. kinds: words in `kind`, by what they mean.
    """

    columns: Columns
    delimiter: Annotated[str, Field(min_length=1, max_length=1, pattern=r'[^\r\n"]')] = ","
    header: bool = True
    time: Literal["asterisk", "iso8601", "epoch"] = "asterisk"
    zone: Annotated[str, AfterValidator(_zone)] | None = None
    answered: tuple[str, ...] = ("ANSWERED",)
    kinds: Mapping[Kind, tuple[str, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        unnamed = [name for name, column in self.columns.named() if isinstance(column, str)]
        if unnamed and not self.header:
            raise ValueError(
                f"column {unnamed[0]} has a name, and there is no header; write its place, counted from 1"
            )
        words = [word for several in self.kinds.values() for word in several]
        twice = sorted({word for word in words if words.count(word) > 1})
        if twice:
            raise ValueError(f"kinds: the word {twice[0]!r} means two kinds; write it once")
        return self

    def places(self, first: Sequence[str], where: str) -> Places:
        """Where the columns stand, by the first row. Raises MappingError for one that is not there."""
        names = [name.strip() for name in first] if self.header else []
        places = {}
        for name, column in self.columns.named():
            if isinstance(column, int):
                places[name] = column - 1
            elif column in names:
                places[name] = names.index(column)
            else:
                raise MappingError(
                    f"{where}: the header has no column {column!r}, which the mapping names for {name};"
                    f" it has {', '.join(names)[:200]}"
                )
        return places

    def record(
        self, fields: Sequence[str], places: Places, zone: tzinfo, where: str
    ) -> tuple[Cdr, Kind | None]:
        """The record of one row, and its kind where the row says it. Raises MalformedCdr."""
        if len(fields) <= max(places.values()):
            raise MalformedCdr(
                where, f"{len(fields)} columns, and the mapping reads column {max(places.values()) + 1}"
            )
        given = {name: fields[place].strip() for name, place in places.items()}
        zone = zone if self.zone is None else zone_named(self.zone)
        times = _Times(given, self, zone, where)
        start_ms, answer_ms, end_ms, bill_s = times.settled(self._is_answered(given))
        return Cdr(
            given.get("unique_id", ""),
            given.get("channel", ""),
            given.get("dst_channel", ""),
            given.get("account_code", ""),
            given.get("src", ""),
            given["dst"],
            "",
            given.get("last_app", ""),
            "",
            start_ms,
            answer_ms,
            end_ms,
            (end_ms - start_ms) // MS_PER_S,
            bill_s,
            "ANSWERED" if answer_ms is not None else "NO ANSWER",
            "",
        ), self._kind(given.get("kind", ""), where)

    def _is_answered(self, given: Mapping[str, str]) -> bool | None:
        return given["disposition"] in self.answered if "disposition" in given else None

    def _kind(self, word: str, where: str) -> Kind | None:
        if not word:
            return None
        for kind, words in self.kinds.items():
            if word in words:
                return kind
        if word in frozenset(Kind):
            return Kind(word)
        raise MalformedCdr(where, f"kind {word[:40]!r} is none of [kinds]; add it there")


class _Times:
    """The instants and lengths of one row. Raises MalformedCdr."""

    def __init__(self, given: Mapping[str, str], layout: Layout, zone: tzinfo, where: str) -> None:
        self._given = given
        self._layout = layout
        self._zone = zone
        self._where = where

    def settled(self, answered: bool | None) -> tuple[int, int | None, int, int]:
        """Start, answer (None: there was none) and end in UTC milliseconds, and seconds of talk."""
        start_ms = self._instant_ms("start")
        if start_ms is None:
            raise MalformedCdr(self._where, "start is empty")
        bill_s = self._seconds("bill_s")
        answer_ms, end_ms = self._instant_ms("answer"), self._instant_ms("end")
        if end_ms is None:
            end_ms = self._end_ms(answer_ms or start_ms, start_ms, bill_s)
        if answered is None:
            answered = answer_ms is not None if "answer" in self._given else bool(bill_s)
        if not answered:
            answer_ms = None
        elif answer_ms is None:
            answer_ms = start_ms if bill_s is None else max(start_ms, end_ms - bill_s * MS_PER_S)
        if not start_ms <= (answer_ms or start_ms) <= end_ms:
            raise MalformedCdr(self._where, "start, answer and end are not in this order")
        if answer_ms is None:
            return start_ms, None, end_ms, 0
        return start_ms, answer_ms, end_ms, (end_ms - answer_ms) // MS_PER_S if bill_s is None else bill_s

    def _end_ms(self, from_ms: int, start_ms: int, bill_s: int | None) -> int:
        duration_s = self._seconds("duration_s")
        if duration_s is not None:
            return start_ms + duration_s * MS_PER_S
        if bill_s is None:
            raise MalformedCdr(self._where, "neither end nor seconds of talk are there")
        return from_ms + bill_s * MS_PER_S

    def _seconds(self, name: str) -> int | None:
        text = self._given.get(name, "")
        if not text:
            return None
        if not (text.isascii() and text.isdigit() and len(text) <= 9):
            raise MalformedCdr(self._where, f"{name} {text[:40]!r} is no number of seconds")
        return int(text)

    def _instant_ms(self, name: str) -> int | None:
        text = self._given.get(name, "")
        if not text:
            return None
        try:
            if self._layout.time == "epoch":
                return _of_epoch_ms(text)
            if self._layout.time == "asterisk":
                moment = datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=self._zone)
            else:
                moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=self._zone)
            return int(moment.timestamp() * MS_PER_S)
        except (ValueError, OverflowError):
            raise MalformedCdr(
                self._where, f"{name} time {text[:40]!r} is not written as {_WRITTEN[self._layout.time]}"
            ) from None


_WRITTEN: Final = {
    "asterisk": "2026-11-22 09:30:00",
    "iso8601": "2026-11-22T09:30:00+01:00",
    "epoch": "seconds since 1970",
}


def _of_epoch_ms(text: str) -> int:
    seconds = float(text)
    if not 0 <= seconds <= _EPOCH_MOST_S:
        raise ValueError("no such instant")
    return round(seconds * MS_PER_S)


def parse_layout(text: str, where: str) -> Layout:
    """The layout in a mapping file's text. Raises MappingError."""
    try:
        return Layout.model_validate_json(toml_json(text))
    except NotToml as error:
        raise MappingError(f"{where}: {error.fault}") from error
    except ValidationError as error:
        found: Sequence[Fault] = faults_of(error, Layout)
        raise MappingError("\n".join(f"{where}: {fault}" for fault in found)) from error
