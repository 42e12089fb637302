"""What is missing for FairDial to work here, and how to mend it. How each part is probed is handed in."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

PROBE_WITHIN_S = 3.0


class Ailment(Exception):
    """A probe found something; `cure` says how to mend it."""

    def __init__(self, finding: str, cure: str) -> None:
        super().__init__(finding)
        self.cure = cure


@dataclass(frozen=True, slots=True)
class Finding:
    """Outcome of one probe. cure is "" where all is well."""

    part: str
    well: bool
    text: str
    cure: str = ""


Probe = Callable[[], Awaitable[str]]
"""Returns what it saw, in words; raises Ailment."""


async def examine(probes: Mapping[str, Probe]) -> list[Finding]:
    """Run all probes in order; one that fails keeps none of the others from running."""
    findings = []
    for part, probe in probes.items():
        try:
            findings.append(Finding(part, True, await probe()))
        except Ailment as ailment:
            findings.append(Finding(part, False, str(ailment), ailment.cure))
    return findings
