"""The files that come with FairDial: the dialplan to include, and the published policies.

Responsible for finding them, and for telling one text of `fairdial.conf` from another. It names itself by an extension
of its own, `version` and a digest of all other lines, so that the switch can be asked which text it has loaded.
"""

import hashlib
import re
from pathlib import Path
from typing import Final, Literal

_HERE: Final = Path(__file__).parent
_MARK_LINE: Final = re.compile(r"^exten => (version[0-9a-f]{12}),1,.*\n", re.MULTILINE)


def folder(name: Literal["dialplan", "policies"]) -> Path:
    """Where these files lie: in the installed package, or beside it in a checkout."""
    packaged = _HERE / "share" / name
    return packaged if packaged.is_dir() else _HERE.parent / name


def dialplan_text() -> str:
    """`fairdial.conf` of this release."""
    return (folder("dialplan") / "fairdial.conf").read_text(encoding="utf-8")


def policy_names() -> tuple[str, ...]:
    """The published policies, by name."""
    return tuple(sorted(file.stem for file in folder("policies").glob("*.toml")))


def mark_in(text: str) -> str:
    """The extension by which a text of `fairdial.conf` names itself; "" where it has none."""
    found = _MARK_LINE.search(text)
    return "" if found is None else found[1]


def mark_of(text: str) -> str:
    """The extension by which it should name itself."""
    rest = _MARK_LINE.sub("", text)
    return f"version{hashlib.sha256(rest.encode()).hexdigest()[:12]}"


def is_unchanged(text: str) -> bool:
    """Whether a text of `fairdial.conf` is as some release shipped it: nobody edited it by hand."""
    return mark_in(text) == mark_of(text)
