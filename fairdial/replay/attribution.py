"""Whose call a record is of, and what was dialled: the question that a live FairDial would have been asked.

A record names the channel and its account code; which of them is a line of ours says who is asked about. Leaves to
the desk what becomes of the question, and to `calls` what the records add up to.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from fairdial.answer import RING_S, endpoint_of
from fairdial.desk import Asked
from fairdial.policy.account import Kind, Line
from fairdial.policy.numbers import Habit, Numbering
from fairdial.policy.prefixes import NumberClass
from fairdial.replay.calls import COLLECT, CONFERENCE, OWN, ROOM, Recorded

_DIALLED_MAX: Final = 80
_CALLER_MAX: Final = 80
_APPLICATIONS: Final = {
    "VoiceMail": Kind.VOICEMAIL,
    "VoiceMailMain": Kind.VOICEMAIL,
    CONFERENCE: Kind.CONFERENCE,
}
_STASIS: Final = {ROOM: Kind.CONFERENCE, **{str(kind): kind for kind in Kind}}
"""What a channel in our Stasis application asked for: to come into a room of ours, or about a dial (fairdial.conf)."""
_ASKS: Final = "place-callback"
"""What a channel says that dialled the code of a callback, and is hung up before that is placed."""


_SET_UP: Final = frozenset({Kind.CALLBACK, Kind.COLLECT, Kind.CONFERENCE})
"""What FairDial sets up: it rings both legs, or asks the called party first, or calls somebody into a room."""


class Aside(StrEnum):
    """Why a call is not put to the desk."""

    UNKNOWN = "unknown"
    """It belongs to no line that is known."""
    NO_CALL = "no_call"
    """It asked for a callback, which has a record of its own, or is a leg of a call whose own record is missing."""


@dataclass(frozen=True, slots=True)
class Attribution:
    """lines: by id. numbers: the lines of numbers of ours, by E.164. outside: how a carrier writes the numbers that it
    calls. ring_s: how long a dial may ring, as the dialplan sets it; a record does not say. codes: by what the dialplan
    has dialled before a number, the kind of call that it then asks about.
    """

    lines: Mapping[str, Line]
    numbers: Mapping[str, str]
    numbering: Numbering
    outside: Habit
    ring_s: int = RING_S
    codes: Mapping[str, Kind] = field(default_factory=dict)

    def asked(self, call: Recorded) -> Asked | Aside:
        """The question about a call, or why there is none."""
        words = call.words
        if words[:1] in ((OWN,), (COLLECT,)):
            return self._set_up(call, words)
        if words[:1] == (_ASKS,):
            return Aside.NO_CALL
        own = self._line(call)
        line_id = own or self._called(call)
        if line_id is None:
            return Aside.UNKNOWN
        dialled = (words[1] if len(words) > 1 else call.dst)[:_DIALLED_MAX]
        code = self._code(dialled) if own and not call.kind else ""
        dialled = dialled.removeprefix(code)
        if not own:
            kind = Kind.INBOUND
        else:
            kind = self.codes[code] if code else self._kind(call, words, dialled, self.lines[line_id].habit)
        return Asked(
            call_id=f"{call.unique_id}-{ROOM if words[:1] == (ROOM,) else 1}",
            kind=kind,
            dialled=dialled,
            line_id=line_id,
            channel=call.unique_id,
            ring_s=0 if kind is Kind.CONFERENCE else self.ring_s,
            caller=call.src[:_CALLER_MAX],
        )

    def _set_up(self, call: Recorded, words: tuple[str, ...]) -> Asked | Aside:
        """A call that FairDial set up, out of what its channel came with: kind, number or room, and who pays."""
        kind, dialled, line_id, *_ = ((Kind.COLLECT, *words[1:]) if words[0] == COLLECT else words[1:]) + (
            "",
        ) * 3
        if kind not in _SET_UP:
            return Aside.NO_CALL
        if line_id not in self.lines:
            return Aside.UNKNOWN
        return Asked(
            call_id=f"{call.unique_id}-{OWN}",
            kind=Kind(kind),
            dialled=dialled[:_DIALLED_MAX],
            line_id=line_id,
            channel=call.unique_id,
            ring_s=self.ring_s,
        )

    def _code(self, dialled: str) -> str:
        """The longest code that it begins with."""
        if not self.codes:
            return ""
        return max((code for code in self.codes if dialled.startswith(code)), key=len, default="")

    def _line(self, call: Recorded) -> str | None:
        """The line that dialled."""
        if call.kind == Kind.INBOUND:
            return None
        if call.account_code in self.lines:
            return call.account_code
        endpoint = endpoint_of(call.channel)
        return endpoint if endpoint in self.lines else None

    def _called(self, call: Recorded) -> str | None:
        """The line that was called from outside; the first, where several were."""
        names = [endpoint_of(leg) for leg in call.legs]
        if call.kind == Kind.INBOUND:
            # The file says so itself, so that the account code is the called line's.
            names = [*names, call.account_code]
        found = next((name for name in names if name in self.lines), None)
        if found is None and self.numbers:
            # It was refused, or rang somewhere else than at the line: the number still says whose it is.
            return self.numbers.get(self.numbering.classify(call.dst, self.outside).e164 or "")
        return found

    def _kind(self, call: Recorded, words: tuple[str, ...], dialled: str, habit: Habit) -> Kind:
        if call.kind:
            return Kind(call.kind)
        if words and words[0] in _STASIS:
            return _STASIS[words[0]]
        if call.last_app in _APPLICATIONS:
            return _APPLICATIONS[call.last_app]
        found = self.numbering.classify(dialled, habit).number_class
        if found is NumberClass.EMERGENCY:
            return Kind.EMERGENCY
        # Where the dialplan asked about an extension, the record shows the phone that rang.
        rang_ours = any(endpoint_of(leg) in self.lines for leg in call.legs)
        internal = found is NumberClass.INTERNAL or dialled in self.lines or rang_ours
        return Kind.INTERNAL if internal else Kind.OUTBOUND
