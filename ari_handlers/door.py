"""A conference room as the dialplan tells of it: `Stasis(fairdial,room,NAME,option,...)` (dialplan/samples/rooms.conf).

Pure: reads the arguments and says who a PIN lets in. What happens in the room is `conference.py`'s.
"""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from fairdial.answer import MalformedRequest

Role = Literal["host", "guest", "called"]
"""called: rung by us; it never is the host."""

_NAME = re.compile(r"[0-9A-Za-z+*#._]{1,40}")
_PIN = re.compile(r"[0-9]{1,16}")


@dataclass(frozen=True, slots=True)
class Door:
    """A room as the dialplan tells of it. pin, host_pin: "" for none. line: whose account owns the room, "" for
    that of the channel's own endpoint.
    """

    room: str
    pin: str = field(default="", repr=False)
    host_pin: str = field(default="", repr=False)
    ends_with_host: bool = False
    line: str = ""
    quiet: bool = False

    @classmethod
    def of(cls, words: Sequence[str]) -> "Door":
        """A door out of the arguments after "room": NAME, then options. Raises MalformedRequest."""
        name, *options = words or ("",)
        if not _NAME.fullmatch(name):
            raise MalformedRequest(
                f"room {name[:40]!r} is no name; write 1 to 40 letters, digits and + * # . _, as in room,7001"
            )
        found: dict[str, str] = {}
        for option in options:
            key, equals, value = option.partition("=")
            if key in found:
                raise MalformedRequest(f"room {name}: option {key} is there twice; write it once")
            if key not in _OPTIONS:
                raise MalformedRequest(
                    f"room {name}: option {key[:40]!r} is unknown; write {', '.join(_OPTIONS.values())}"
                )
            # Never the value itself: it may be a PIN.
            if bool(equals) is not ("=" in _OPTIONS[key]) or not _VALUES[key].fullmatch(value):
                raise MalformedRequest(f"room {name}: option {key} is not understood; write {_OPTIONS[key]}")
            found[key] = value
        if "pin" in found and found["pin"] == found.get("host"):
            raise MalformedRequest(f"room {name}: pin and host are the same; give the host a PIN of its own")
        return cls(
            name,
            found.get("pin", ""),
            found.get("host", ""),
            "end" in found,
            found.get("line", ""),
            "quiet" in found,
        )

    @property
    def keys_max(self) -> int:
        """Keys of the longest PIN; 0 where none is asked for."""
        return max(len(self.pin), len(self.host_pin))

    def role(self, typed: str) -> Role | None:
        """As what those keys let in; None: not at all. Without a guests' PIN, no keys are a guest's."""
        if self.host_pin and secrets.compare_digest(typed, self.host_pin):
            return "host"
        return "guest" if secrets.compare_digest(typed, self.pin) else None


_OPTIONS = {"pin": "pin=1234", "host": "host=9876", "end": "end=host", "line": "line=alice", "quiet": "quiet"}
_VALUES = {
    "pin": _PIN,
    "host": _PIN,
    "end": re.compile("host"),
    "line": re.compile(r"[^\s,]{1,80}"),
    "quiet": re.compile(""),
}
