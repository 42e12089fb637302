"""Since when each password has been what it is: a file that `fairdial audit` keeps from one run to the next.

A switch's file does not say when a password was set, so the day is noted on which each was first seen. The file holds
no password: a salt and a slow hash (scrypt) for each credential tell whether it is still the same. Leaves to `audit`
how old is too old.
"""

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

BYTES_MAX: Final = 64 * 1024 * 1024
FORGOTTEN_AFTER: Final = timedelta(days=1_100)
"""What was not seen for so long is forgotten. Not at once: a file that is not included today may be tomorrow."""
_SALT_BYTES: Final = 16
_SCRYPT: Final = {"n": 2**12, "r": 8, "p": 1, "dklen": 32}
"""About 10 ms and 4 MB for each try: a thousand credentials are looked at in seconds, and who has the file tries
passwords no faster than that."""


class AgesError(ValueError):
    """The file cannot be read, used or written. The text names it, the fault and the cure."""


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Noted(_Shape):
    """A credential. since: the day on which it was first seen; seen: the last."""

    salt: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    since: date
    seen: date


class _File(_Shape):
    format: Literal[1]
    credentials: dict[str, _Noted]


class PasswordAges:
    """The credentials of one switch by name, with the day on which each was first seen."""

    def __init__(self, path: Path, noted: dict[str, _Noted]) -> None:
        self._path = path
        self._noted = noted

    @classmethod
    def read(cls, path: Path) -> "PasswordAges":
        """What the file holds; nothing where there is no file yet. Raises AgesError."""
        try:
            with path.open("rb") as file:
                content = file.read(BYTES_MAX + 1)
        except FileNotFoundError:
            return cls(path, {})
        except OSError as error:
            raise AgesError(f"{path}: {error.strerror}; name a file that can be read and written") from error
        if len(content) > BYTES_MAX:
            raise AgesError(f"{path}: longer than {BYTES_MAX} bytes; name the file that `audit` keeps")
        try:
            return cls(path, _File.model_validate_json(content).credentials)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"][:1])
            raise AgesError(
                f"{path}: is not a file that `audit` keeps ({key or 'JSON'}: {first['type']}); name another,"
                " or put back a copy. It was left as it is"
            ) from None

    def age_days(self, name: str, secret: str, today: date) -> int:
        """For how many days the credential of that name has been this one, as far as is known; noted for the next."""
        noted = self._noted.get(name)
        if noted is None or not hmac.compare_digest(noted.hash, _hash(secret, noted.salt)):
            salt = secrets.token_hex(_SALT_BYTES)
            noted = _Noted(salt=salt, hash=_hash(secret, salt), since=today, seen=today)
        self._noted[name] = noted.model_copy(update={"seen": max(today, noted.seen)})
        return max(0, (today - noted.since).days)

    def write(self, today: date) -> None:
        """Replace the file, whole or not at all, readable by its owner alone. Raises AgesError."""
        kept = {
            name: {"salt": each.salt, "hash": each.hash, "since": str(each.since), "seen": str(each.seen)}
            for name, each in sorted(self._noted.items())
            if today - each.seen <= FORGOTTEN_AFTER
        }
        text = json.dumps({"format": 1, "credentials": kept}, indent=1) + "\n"
        try:
            with _replacing(Path(os.path.realpath(self._path))) as part:
                part.write_text(text, encoding="ascii")
        except OSError as error:
            raise AgesError(
                f"{self._path}: cannot be written ({error.strerror}); name a file in a folder that can be"
            ) from error


def _hash(secret: str, salt: str) -> str:
    return hashlib.scrypt(secret.encode(), salt=bytes.fromhex(salt), **_SCRYPT).hex()


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file to write into, mode 0600, that takes the place of `path` once it is on the disk."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    part = Path(name)
    try:
        yield part
        os.fsync(descriptor)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
