"""What is missing for FairDial to work here, and how to mend it. How each part is probed is handed in."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

PROBE_WITHIN_S = 3.0


class Severity(StrEnum):
    """How bad a finding is: a failure keeps FairDial from working, a warning is a risk or an open door."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


class Ailment(Exception):
    """A probe found something; `cure` says how to mend it. grave: as in Finding."""

    def __init__(self, finding: str, cure: str, *, grave: bool = True) -> None:
        super().__init__(finding)
        self.cure = cure
        self.grave = grave


@dataclass(frozen=True, slots=True)
class Finding:
    """Outcome of one examination. cure is "" where all is well. grave: where it is not, FairDial does not work so."""

    part: str
    well: bool
    text: str
    cure: str = ""
    grave: bool = True

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        if self.well:
            return Severity.OK
        return Severity.FAILURE if self.grave else Severity.WARNING

    @property
    def where(self) -> str:
        """The file, and its line after a colon, that the cure changes; "" where it is no file."""
        return ""


@dataclass(frozen=True, slots=True)
class FileFinding(Finding):
    """What is not well in a file. place: the file, and its line after a colon.

    sections: names of those that are meant, () where it is the whole file.
    """

    well: bool = field(default=False, init=False)
    grave: bool = False
    place: str = ""
    sections: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """Its place."""
        return self.place


Probe = Callable[[], Awaitable[str]]
"""Returns what it saw, in words; raises Ailment."""


async def examine(probes: Mapping[str, Probe]) -> list[Finding]:
    """Run all probes in order; one that fails keeps none of the others from running."""
    findings = []
    for part, probe in probes.items():
        try:
            findings.append(Finding(part, True, await probe()))
        except Ailment as ailment:
            findings.append(Finding(part, False, str(ailment), ailment.cure, ailment.grave))
    return findings
