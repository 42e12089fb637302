"""Changes to files of the machine, all of them or none, each shown as a difference before and kept as a backup after.

Responsible for how files are written: beside their place first, with the owner and mode that they had, then renamed;
what was there stays as NAME.before-fairdial. Leaves what stands in them to its callers.
"""

import contextlib
import difflib
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BACKUPS_MAX: Final = 100
HIDDEN: Final = "********"


Owner = tuple[int, int]


class ChangeFailed(Exception):
    """A file could not be written; none was changed. The text says which, why, and how to mend it."""


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file's text as it is to be.

    before: as it was when this was planned, None: there was none. mode: of a new file; one that is there keeps its
    own. owner: user and group of a new file, as numbers; None: those of who writes it. secrets: what no difference
    shows.
    """

    path: Path
    before: str | None
    after: str
    mode: int = 0o640
    owner: Owner | None = None
    secrets: tuple[str, ...] = ()


def difference(change: FileChange, hide: bool = True) -> str:
    """What a change does, as `diff -u` shows it. hide: secrets are left out."""
    old = (change.before or "").splitlines(keepends=True)
    lines = difflib.unified_diff(
        old, change.after.splitlines(keepends=True), _name(change, old=True), _name(change), n=2
    )
    # A last line without its end is shown with one; it would run into the next.
    text = "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)
    if hide:
        for secret in change.secrets:
            text = text.replace(secret, HIDDEN)
    return text


def _name(change: FileChange, old: bool = False) -> str:
    return "/dev/null" if old and change.before is None else str(change.path)


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that must be there. owner: as in FileChange."""

    path: Path
    mode: int = 0o755
    owner: Owner | None = None


@dataclass(slots=True)
class _Staged:
    """path: the file itself; named: by which name it was asked for, where that is a link to it."""

    path: Path
    named: Path
    temporary: Path
    backup: Path | None = None
    replaced: bool = False


def carry_out(folders: Iterable[Folder], changes: Sequence[FileChange]) -> list[Path]:
    """Make the folders and write all files, or leave everything as it was; answers with the backups that were made.

    A file that is not as it was when the change was planned is not touched, and so is none. Raises ChangeFailed.
    """
    made: list[Path] = []
    staged: list[_Staged] = []
    at: Path | None = None
    try:
        for folder in folders:
            at = folder.path
            _make(folder, made)
        for change in changes:
            at = change.path
            _make(Folder(change.path.parent), made)
            staged.append(_stage(change))
        for each in staged:
            at = each.path
            _replace(each)
    except BaseException as error:
        _undo(staged, made)
        if isinstance(error, OSError):
            cure = "run this as root" if isinstance(error, PermissionError) else "mend that, and run again"
            raise ChangeFailed(
                f"{at}: cannot be written ({error.strerror}), and nothing was changed; {cure}"
            ) from error
        raise
    return [each.named.with_name(each.backup.name) for each in staged if each.backup is not None]


def text_of(path: Path) -> str | None:
    """A file's text, bytes that are no UTF-8 kept (surrogateescape); None: there is none. Raises OSError."""
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None


def _make(folder: Folder, made: list[Path]) -> None:
    missing = []
    path = folder.path
    while not path.exists():
        missing.append(path)
        path = path.parent
    for each in reversed(missing):
        each.mkdir(mode=folder.mode if each == folder.path else 0o755)
        made.append(each)
    if missing and folder.owner is not None:
        _own(folder.path, folder.owner)


def _stage(change: FileChange) -> _Staged:
    """The new text beside its place, with owner and mode."""
    # Of a symbolic link the file that it names is changed, and the link stays.
    path = change.path.resolve()
    if text_of(path) != change.before:
        raise ChangeFailed(
            f"{change.path}: was changed by somebody else meanwhile, and nothing was changed; run again"
        )
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".fairdial", dir=path.parent)
    staged = _Staged(path, change.path, Path(name))
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(change.after.encode("utf-8", "surrogateescape"))
            file.flush()
            os.fsync(file.fileno())
        there = None if change.before is None else path.stat()
        staged.temporary.chmod(change.mode if there is None else there.st_mode & 0o7777)
        owner = change.owner if there is None else (there.st_uid, there.st_gid)
        if owner is not None:
            _own(staged.temporary, owner)
    except BaseException:
        staged.temporary.unlink(missing_ok=True)
        raise
    return staged


def owner_of(path: Path) -> Owner:
    """User and group of a file. Raises OSError."""
    status = path.stat()
    return status.st_uid, status.st_gid


def _own(path: Path, owner: Owner) -> None:
    if owner_of(path) != owner:
        os.chown(path, *owner)


def _replace(staged: _Staged) -> None:
    if staged.path.exists():
        staged.backup = _backup(staged.path)
    staged.temporary.rename(staged.path)
    staged.replaced = True
    _sync(staged.path.parent)


def _backup(path: Path) -> Path:
    """The file under a second name: the same owner, mode and text."""
    for number in range(1, BACKUPS_MAX + 1):
        # Not .conf at the end: Asterisk's files include *.conf of whole folders.
        candidate = path.with_name(f"{path.name}.before-fairdial" + (f"-{number}" if number > 1 else ""))
        with contextlib.suppress(FileExistsError):
            os.link(path, candidate)
            return candidate
    raise ChangeFailed(
        f"{path}: has {BACKUPS_MAX} backups already, and nothing was changed; move {path.name}.before-fairdial* away"
    )


def _undo(staged: Iterable[_Staged], made: Iterable[Path]) -> None:
    for each in staged:
        if each.backup is not None:
            each.backup.replace(each.path)
        elif each.replaced:
            each.path.unlink()
        each.temporary.unlink(missing_ok=True)
    for folder in reversed(list(made)):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _sync(folder: Path) -> None:
    """So that the new name outlasts a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
