"""Asterisk's `Master.csv`, followed as it grows: where to begin, what came since, what became of the file.

Responsible for reading off the event loop in bounded pieces, for rotation and truncation, and for saying once what
is wrong with the file. Leaves the rows to `cdr` and what they prove to `witness`.
"""

import asyncio
import contextlib
import os
import stat
import threading
from collections.abc import Sequence
from datetime import tzinfo
from pathlib import Path
from typing import Final

import structlog

from fairdial.cdr import ROW_BYTES_MAX, Cdr, MalformedCdr, cdr_of_row, rows

log = structlog.get_logger(__name__)

PASS_BYTES: Final = 1024 * 1024
"""About 6,000 rows, a tenth of a second of work in another thread."""
SEARCH_BYTES: Final = 256 * 1024 * 1024
"""More than a million rows."""
_STEP_BYTES: Final = 1024 * 1024
_WINDOW_BYTES: Final = 64 * 1024
_MARK_BYTES: Final = 64
_UNCERTAIN_MS: Final = 3600 * 1000
"""By so much an end can be read too early where clocks are put back."""


class CdrUnreadable(Exception):
    """The file is there and cannot be read; the text says what to do."""


class CdrFile:
    """A `Master.csv` that Asterisk writes to, or will.

    zone: UTC with `usegmtime=yes` in cdr.conf, else the switch's own. pass_bytes: read at most in one `read_new`;
    search_bytes: looked back over at most in `begin`. Of a file that is rotated twice between two passes the one in
    the middle is not read.
    """

    def __init__(
        self, path: Path, zone: tzinfo, *, pass_bytes: int = PASS_BYTES, search_bytes: int = SEARCH_BYTES
    ) -> None:
        if pass_bytes < 2 * ROW_BYTES_MAX:
            raise ValueError(
                f"pass_bytes {pass_bytes}: at least {2 * ROW_BYTES_MAX}, two of the longest rows"
            )
        self.path = path
        self.more = False
        """Whether the last pass left something to read at once."""
        self.malformed = 0
        """Rows so far that could not be read."""
        self.without_unique_id = 0
        """Rows so far that say nothing, as they do not name their channel."""
        self._zone = zone
        self._pass_bytes = pass_bytes
        self._search_bytes = search_bytes
        # Held by the thread that looks at the file: one whose caller was cancelled is not stopped by that.
        self._looking = threading.Lock()
        self._unclaimed: list[Cdr] = []
        self._file: int | None = None
        self._offset = 0
        self._mark = b""
        self._size = -1
        self._after_ms: int | None = None

    async def begin(self, since_ms: int) -> bool:
        """Go to where rows of calls that ended since then (UTC milliseconds) can begin; the next pass reads from there.

        Rows from before come too. False: the search ended at `search_bytes`, so that some may be missing. Raises
        CdrUnreadable. A file that is not there yet will be read from its start.
        """
        return await asyncio.to_thread(self._begin, since_ms)

    async def read_new(self) -> Sequence[Cdr]:
        """The records of the complete rows that were appended since the last call; `more` says whether to go on.

        A row that cannot be read is left out, counted, and logged once a pass. A file that is not there has no rows.
        Raises CdrUnreadable, and may then be called again. What a cancelled call read, the next one returns.
        """
        await asyncio.to_thread(self._read)
        claimed, self._unclaimed = self._unclaimed, []
        return claimed

    async def close(self) -> None:
        """Let go of the file, after a look that may be under way."""
        await asyncio.to_thread(self._close)

    def _begin(self, since_ms: int) -> bool:
        with self._looking:
            self._unclaimed.clear()
            file = self._opened()
            if file is None:
                return True
            size = os.fstat(file).st_size
            offset, complete = self._search(file, size, since_ms - _UNCERTAIN_MS)
            self._stand_at(file, offset)
            self._size, self._after_ms = -1, None
            if not complete:
                log.warning("cdr_search_ended", file=str(self.path), searched_bytes=size - offset)
            return complete

    def _search(self, file: int, size: int, since_ms: int) -> tuple[int, bool]:
        """An offset before which no call ended since then. The rows stand nearly in the order of their ends."""
        back = _STEP_BYTES
        while (at := size - back) > 0:
            lines = self._rows_from(file, at)
            if lines and all(end_ms < since_ms for _, end_ms in lines):
                return lines[0][0], True
            if back >= self._search_bytes:
                return lines[0][0] if lines else at, False
            back += _STEP_BYTES
        return 0, True

    def _rows_from(self, file: int, at: int) -> list[tuple[int, int]]:
        """Offset and end (UTC milliseconds) of the rows that stand on one line each, in the window from `at` on."""
        found = []
        offset = at
        for number, line in enumerate(os.pread(file, _WINDOW_BYTES, at).splitlines(keepends=True)):
            # The window may begin within a line.
            if number > 0 and line.endswith(b"\n"):
                with contextlib.suppress(MalformedCdr):
                    found.append((offset, self._parsed(line).end_ms))
            offset += len(line)
        return found

    def _read(self) -> None:
        with self._looking:
            if self._unclaimed:
                return
            self.more = False
            file = self._opened()
            if file is None:
                return
            try:
                self._look(file)
            except OSError as error:
                self._leave()
                raise CdrUnreadable(
                    f"{self.path} cannot be read: {error.strerror}; look at its disk"
                ) from None

    def _look(self, file: int) -> None:
        # First whether it was rotated: what Asterisk had still written to the old one is then there.
        rotated = self._is_rotated(file)
        size = os.fstat(file).st_size
        if (
            size < self._offset
            or os.pread(file, len(self._mark), self._offset - len(self._mark)) != self._mark
        ):
            log.warning("cdr_file_truncated", file=str(self.path), was_at=self._offset, size=size)
            self._stand_at(file, 0)
        data = os.pread(file, self._pass_bytes, self._offset)
        at_end = self._offset + len(data) >= size
        quiet = at_end and size == self._size
        taken = self._take(file, data, final=quiet)
        self._size, self.more = size, rotated or not at_end
        if rotated and quiet:
            if data[taken:].strip():
                self._tell_malformed(file, [(self._offset + taken, "the file ends within this row")])
            log.info("cdr_file_rotated", file=str(self.path))
            self._leave()
        else:
            self._stand_at(file, self._offset + taken)

    def _take(self, file: int, data: bytes, *, final: bool) -> int:
        """Read the complete rows of `data`; how many bytes they are."""
        taken, nameless = 0, 0
        faults: list[tuple[int, str]] = []
        for start, taken in rows(data, final=final):
            line = data[start:taken]
            if not line.strip():
                continue
            try:
                cdr = self._parsed(line)
            except MalformedCdr as malformed:
                faults.append((self._offset + start, malformed.fault))
                continue
            self._after_ms = cdr.end_ms
            if cdr.unique_id:
                self._unclaimed.append(cdr)
            else:
                nameless += 1
        self._tell_malformed(file, faults)
        self._tell_nameless(nameless)
        return taken

    def _parsed(self, row: bytes) -> Cdr:
        text = row.decode("utf-8", errors="replace")
        return cdr_of_row(text, self._zone, where=str(self.path), after_ms=self._after_ms)

    def _tell_malformed(self, file: int, faults: Sequence[tuple[int, str]]) -> None:
        if not faults:
            return
        self.malformed += len(faults)
        offset, fault = faults[0]
        error = MalformedCdr(f"{self.path}, {self._place(file, offset)}", fault)
        log.warning("cdr_rows_malformed", rows=len(faults), first=str(error))

    def _tell_nameless(self, nameless: int) -> None:
        if nameless and not self.without_unique_id:
            log.error(
                "cdr_without_unique_id",
                file=str(self.path),
                cure="in cdr.conf write loguniqueid=yes under [csv] and reload cdr_csv.so",
            )
        self.without_unique_id += nameless

    def _place(self, file: int, offset: int) -> str:
        """For people: the line, where it does not take too long to count."""
        if offset > self._search_bytes:
            return f"byte {offset + 1}"
        lines = sum(
            os.pread(file, min(_STEP_BYTES, offset - at), at).count(b"\n")
            for at in range(0, offset, _STEP_BYTES)
        )
        return f"line {lines + 1}"

    def _opened(self) -> int | None:
        """The file, None while it is not there."""
        if self._file is None:
            try:
                # Not to wait where somebody made a pipe of it.
                file = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            except PermissionError:
                raise CdrUnreadable(
                    f"{self.path} may not be read by this user; let it into the group that owns the file (asterisk), "
                    "and let the group read the file and enter its directories"
                ) from None
            except OSError as error:
                raise CdrUnreadable(
                    f"{self.path} cannot be opened: {error.strerror}; mend the path"
                ) from None
            if not stat.S_ISREG(os.fstat(file).st_mode):
                os.close(file)
                raise CdrUnreadable(f"{self.path} is no file; name the Master.csv that Asterisk writes")
            self._file = file
        return self._file

    def _is_rotated(self, file: int) -> bool:
        """Whether the path means another file by now. While it means none, Asterisk has written nothing since."""
        try:
            now, ours = self.path.stat(), os.fstat(file)
        except OSError:
            return False
        return (now.st_dev, now.st_ino) != (ours.st_dev, ours.st_ino)

    def _stand_at(self, file: int, offset: int) -> None:
        """Go on reading there. What stands before it shows later whether the file is still the same."""
        length = min(_MARK_BYTES, offset)
        self._offset, self._mark = offset, os.pread(file, length, offset - length)

    def _leave(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file, self._offset, self._mark, self._size = None, 0, b"", -1

    def _close(self) -> None:
        with self._looking:
            self._leave()
