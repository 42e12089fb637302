"""The detectors of the policies look on at a replay: what they would have found of yesterday's calls.

They are those of a live FairDial and are told of the same events. Nothing follows in the replay itself: an account that
would have been suspended calls on, so that all that would have been found is. Bounded by the accounts that are
remembered at once and by FLAGS_MAX findings.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from fairdial.cases import standing_out
from fairdial.desk import Desk
from fairdial.policy.account import Account
from fairdial.policy.crowd import Crowd
from fairdial.policy.document import Policy
from fairdial.policy.history import Answer, Attempt, End
from fairdial.policy.measures import PEERS
from fairdial.policy.patterns import Hit
from fairdial.policy.periods import zone_named
from fairdial.replay.result import Flag

FLAGS_MAX: Final = 10_000
"""Findings that are kept, one for each account and detector; further ones are counted in the first alone."""


class Detectors:
    """Listens to a replay's desk. One finding for each account and detector: the first, with the largest value."""

    def __init__(self) -> None:
        self._crowd = Crowd()
        self._flags: dict[tuple[str, str], Flag] = {}

    @property
    def flags(self) -> tuple[Flag, ...]:
        """What was found, the earliest first."""
        return tuple(sorted(self._flags.values(), key=lambda flag: flag.at_ms))

    def dialled(self, attempt: Attempt, account: Account, policy: Policy) -> None:
        """A dial was decided."""
        for hit in self._crowd.see(attempt, account, policy):
            self.note(hit)

    def went_on(self, event: Answer | End) -> None:
        """A call was answered, or is over."""
        for hit in self._crowd.see(event):
            self.note(hit)

    def note(self, hit: Hit) -> None:
        """Something was found."""
        key = (hit.account_id, hit.detector.name)
        earlier = self._flags.get(key)
        if earlier is None and len(self._flags) >= FLAGS_MAX:
            return
        worse = max if not hit.detector.below else min
        self._flags[key] = Flag(
            hit.account_id,
            hit.detector.name,
            hit.clause,
            hit.at_ms if earlier is None else earlier.at_ms,
            hit.value if earlier is None else worse(earlier.value, hit.value),
            hit.detector.threshold,
            str(hit.detector.step),
            hit.calls if earlier is None else earlier.calls,
        )


def look_on(desk: Desk) -> Callable[[int | None], Awaitable[tuple[Flag, ...]]]:
    """Let the detectors look on at that desk. What is returned tells at the end (UTC milliseconds) what they saw."""
    detectors = Detectors()
    desk.listeners.append(detectors)

    async def saw(end_ms: int | None) -> tuple[Flag, ...]:
        for name in desk.policies.names if end_ms is not None else ():
            assert end_ms is not None
            policy = desk.policies.at(name, zone_named("UTC"), end_ms)
            for detector in () if policy is None else policy.detectors:
                if policy is not None and detector.measure in PEERS:
                    async for hit in standing_out(desk.ledger, policy, detector, end_ms):
                        detectors.note(hit)
        return detectors.flags

    return saw
