"""Copies of the ledger's file: one made while it is in use, and one put in its place.

A copy is looked through whole before it counts as one. FairDial need not run for a backup and must not for a restore;
what a restored ledger does not know of calls, and knows of calls that are over, is for reconciliation.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fairdial.ledger.contract import LedgerError, LedgerUnavailable
from fairdial.ledger.writer import connect_reading, lock, make_file, migrate

PAGES_AT_ONCE = 256
"""One MB of a file with pages of 4 KB."""

PAUSE_S = 0.002
"""After each step: the disk belongs to calls first."""


class CopyFailed(LedgerError):
    """The backup or restore was not done, and the ledger is as it was. The text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of a ledger. live_grants: calls that were in progress, as far as it knows."""

    file: Path
    size_bytes: int
    schema_version: int
    live_grants: int


@dataclass(frozen=True, slots=True)
class Restored:
    """A ledger that was put in place. replaced: what was there before, None for nothing."""

    ledger: Path
    replaced: Path | None
    schema_version: int
    live_grants: int


def back_up(ledger: Path, target: Path) -> Copy:
    """Copy the ledger as it stands now to a file that does not exist yet. Blocks; dials go on meanwhile.

    Raises CopyFailed, after which `target` does not exist.
    """
    if not ledger.is_file():
        raise CopyFailed(f"{ledger}: there is no ledger; set `store.path` to the one that you mean")
    with _reserved(target) as part:
        _copy(ledger, part)
        copy = _examined(part, part)
        _sync(part)
        part.replace(target)
        _sync(target.parent)
    return Copy(target, copy.size_bytes, copy.schema_version, copy.live_grants)


def restore(ledger: Path, source: Path) -> Restored:
    """Put a backup in the ledger's place, brought to the newest schema; what was there is kept beside it. Blocks.

    Raises CopyFailed, and LedgerUnavailable where a FairDial has the ledger open.
    """
    if not source.is_file():
        raise CopyFailed(f"{source}: there is no such file; name a file that `fairdial backup` made")
    lock_fd = lock(ledger)
    part = ledger.with_name(f"{ledger.name}.restoring")
    try:
        with _told(source), _removed_on_failure(part):
            _remove(part)
            make_file(part)
            _copy(source, part)
            _examined(part, source)
            with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as opened:
                opened.row_factory = sqlite3.Row
                migrate(opened)
            copy = _examined(part, source)
            _give_to_owner_of(ledger if ledger.exists() else ledger.parent, part)
            _sync(part)
            replaced = _set_aside(ledger)
            part.replace(ledger)
            _sync(ledger.parent)
    finally:
        os.close(lock_fd)
    return Restored(ledger, replaced, copy.schema_version, copy.live_grants)


def _copy(source: Path, target: Path) -> None:
    with (
        contextlib.closing(connect_reading(source)) as reading,
        contextlib.closing(sqlite3.connect(target, isolation_level=None)) as writing,
    ):
        # One transaction over all steps: else each commit of a call would start the copy anew.
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        reading.backup(writing, pages=PAGES_AT_ONCE, progress=_pause)
        # One file, not one with a -wal that is forgotten when it is moved.
        writing.execute("PRAGMA journal_mode=DELETE")


def _pause(_status: int, remaining: int, _total: int) -> None:
    if remaining:
        time.sleep(PAUSE_S)


def _examined(path: Path, source: Path) -> Copy:
    """What that file holds, looked through whole. `source`: where it came from, for the error's text."""
    with contextlib.closing(connect_reading(path)) as reading:
        try:
            (found,) = reading.execute("PRAGMA integrity_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            found = error
        if found != "ok":
            raise CopyFailed(f"{source}: the file is damaged ({found}); take an older backup")
        try:
            (version,) = reading.execute("SELECT max(version) FROM schema_version").fetchone()
            (live,) = reading.execute("SELECT count(*) FROM grants WHERE state <> 'settled'").fetchone()
        except sqlite3.Error as error:
            raise CopyFailed(f"{source}: this is no ledger of FairDial ({error})") from error
    return Copy(path, path.stat().st_size, version or 0, live)


@contextlib.contextmanager
def _reserved(target: Path) -> Iterator[Path]:
    """A file to write into; `target` stays empty until that is put in its place, and vanishes where it is not."""
    try:
        make_file(target)
    except FileExistsError:
        raise CopyFailed(f"{target}: this file exists; name another, a backup is never overwritten") from None
    except OSError as error:
        raise CopyFailed(f"{target}: {error.strerror}; name a file that can be written") from error
    part = target.with_name(f"{target.name}.part")
    with _told(target), _removed_on_failure(target), _removed_on_failure(part):
        _remove(part)
        make_file(part)
        yield part


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Errors of the system become CopyFailed, naming the file."""
    try:
        yield
    except sqlite3.Error as error:
        raise CopyFailed(f"{path}: {error}; see that its disk has room and can be read") from error
    except LedgerUnavailable as error:
        raise CopyFailed(f"{path}: {error}") from error
    except OSError as error:
        raise CopyFailed(
            f"{path}: {error.strerror}; see that its disk has room and can be written"
        ) from error


@contextlib.contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        _remove(path)
        raise


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _give_to_owner_of(like: Path, path: Path) -> None:
    """Root restores, and FairDial's own user writes."""
    if os.geteuid() == 0:
        owner = like.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def _set_aside(ledger: Path) -> Path | None:
    """Keep the present file under another name, with its -wal, which would spoil the file that comes.

    The ledger itself stays until the other replaces it: broken off here, it is at most without its last commits,
    which are in what was set aside; but it is never missing, which the next start would take for a new one.
    """
    if not ledger.exists():
        return None
    aside = ledger.with_name(f"{ledger.name}.replaced-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    os.link(ledger, aside)
    with contextlib.suppress(FileNotFoundError):
        ledger.with_name(f"{ledger.name}-wal").rename(f"{aside}-wal")
    ledger.with_name(f"{ledger.name}-shm").unlink(missing_ok=True)
    return aside
