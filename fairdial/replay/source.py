"""Files of call records, row by row: Asterisk's `Master.csv`, or another layout that a mapping describes.

Responsible for opening them (also gzip), for rows that cannot be read, and for how far the reading has come. Leaves
Asterisk's own rows to `cdr`, other layouts to `layout`, and what the rows are of to `calls`.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from pathlib import Path
from typing import IO, Final, Protocol, cast

from fairdial.cdr import Cdr, MalformedCdr, cdr_of_row, rows
from fairdial.policy.account import Kind
from fairdial.replay.layout import Layout

FAULTS_MAX: Final = 20
"""Malformed rows that are told of one by one."""
TELL_EVERY: Final = 10_000
"""Lines, after which the progress is told."""
_CHUNK_BYTES: Final = 1024 * 1024

Progress = Callable[[str, int, int], None]
"""Told now and then: what is being done, how much of it is done, and how much there is."""

Row = tuple[Cdr, Kind | None]
"""A record, with its kind where the file says it."""


class SourceUnreadable(Exception):
    """A file of call records cannot be used; the text says which and what to do."""


@dataclass(slots=True)
class Reading:
    """How the reading went. malformed: rows that could not be read; faults: the first FAULTS_MAX of them, in words."""

    rows: int = 0
    malformed: int = 0
    faults: list[str] = field(default_factory=list)

    def note(self, error: MalformedCdr) -> None:
        """A row could not be read."""
        self.malformed += 1
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(str(error))


def read(
    files: Sequence[Path], zone: tzinfo, layout: Layout | None, reading: Reading, progress: Progress
) -> Iterator[Row]:
    """The records of the files, one after the other, as they stand there. Raises SourceUnreadable.

    zone: of times that name none. layout: of the columns, None for Asterisk's.
    """
    sizes = [_size(file) for file in files]
    total, before = sum(sizes), 0
    for file, size in zip(files, sizes, strict=True):
        found_before = reading.rows
        try:
            with file.open("rb") as raw:

                def told(before: int = before, raw: IO[bytes] = raw) -> None:
                    progress("reading", before + raw.tell(), total)

                unpacked = gzip.GzipFile(fileobj=raw) if file.suffix == ".gz" else raw
                opened = cast(IO[bytes], unpacked)
                found = (
                    _asterisk(opened, zone, str(file), reading, told)
                    if layout is None
                    else _mapped(opened, zone, layout, str(file), reading, told)
                )
                for row in found:
                    reading.rows += 1
                    yield row
        except (OSError, EOFError, zlib.error) as error:
            said = getattr(error, "strerror", None) or str(error)
            raise SourceUnreadable(f"{file}: cannot be read ({said}); name a file of call records") from error
        if reading.rows == found_before:
            first = f"; {reading.faults[-1]}" if reading.faults else ""
            raise SourceUnreadable(
                f"{file}: no row of it is a call record{first}; for another layout than Asterisk's Master.csv"
                " give --mapping FILE"
            )
        before += size
        progress("reading", before, total)


def _size(file: Path) -> int:
    try:
        if not file.is_file():
            raise SourceUnreadable(f"{file}: there is no such file; name a file of call records")
        return file.stat().st_size
    except OSError as error:
        raise SourceUnreadable(f"{file}: cannot be read ({error.strerror}); see its path and mode") from error


def _asterisk(
    opened: IO[bytes], zone: tzinfo, where: str, reading: Reading, told: Callable[[], None]
) -> Iterator[Row]:
    left, line, after_ms = b"", 1, None
    while True:
        chunk = opened.read(_CHUNK_BYTES)
        data, taken = left + chunk, 0
        if not chunk and data and not data.endswith(b"\n"):
            data += b"\n"
        for start, taken in rows(data, final=not chunk):
            row = data[start:taken]
            if row.strip():
                try:
                    text = row.decode("utf-8", errors="replace")
                    cdr = cdr_of_row(text, zone, where="", after_ms=after_ms)
                except MalformedCdr as error:
                    reading.note(MalformedCdr(f"{where}, line {line}", error.fault))
                else:
                    after_ms = cdr.end_ms
                    yield cdr, None
            line += row.count(b"\n")
        left = data[taken:]
        told()
        if not chunk:
            return


def _mapped(
    opened: IO[bytes], zone: tzinfo, layout: Layout, where: str, reading: Reading, told: Callable[[], None]
) -> Iterator[Row]:
    text = io.TextIOWrapper(opened, encoding="utf-8-sig", errors="replace", newline="")
    try:
        yield from _mapped_rows(
            csv.reader(text, delimiter=layout.delimiter), zone, layout, where, reading, told
        )
    finally:
        text.detach()  # whoever opened the file closes it


def _mapped_rows(
    lines: "_Lines", zone: tzinfo, layout: Layout, where: str, reading: Reading, told: Callable[[], None]
) -> Iterator[Row]:
    columns = None
    while True:
        number = lines.line_num + 1
        try:
            fields = next(lines)
            if columns is None:
                columns = layout.places(fields, f"{where}, line {number}")
                if layout.header:
                    continue
            if not any(fields):
                continue
            row = layout.record(fields, columns, zone, f"{where}, line {number}")
        except StopIteration:
            return
        except MalformedCdr as error:
            reading.note(error)
        except csv.Error as error:
            reading.note(MalformedCdr(f"{where}, line {number}", f"not one row of CSV ({error})"))
        else:
            yield row
        if number % TELL_EVERY == 0:
            told()


class _Lines(Protocol):
    """What `csv.reader` gives."""

    line_num: int

    def __next__(self) -> list[str]: ...
