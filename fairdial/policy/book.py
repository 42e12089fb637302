"""All policies in all their versions: which one decides for an account at a moment.

A version with a date takes effect at the midnight that begins it, in the account's zone (R7, V9); one
that is effective at once, from the day on which it was published (A11), or always if it names none.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import chain
from zoneinfo import ZoneInfo

from fairdial.policy.document import Policy
from fairdial.policy.periods import MS_PER_S, Period

ALWAYS_MS = -(2**62)


class PolicyBook:
    """Policies by name and version. Never changed: a reload makes a new one."""

    def __init__(self, policies: Iterable[Policy] = ()) -> None:
        """Raises ValueError for a version that stands twice."""
        self._versions: dict[str, tuple[Policy, ...]] = {}
        for policy in policies:
            known = self._versions.get(policy.name, ())
            if any(other.version == policy.version for other in known):
                raise ValueError(
                    f"policy {policy.name!r} has version {policy.version!r} twice; give each its own version"
                )
            self._versions[policy.name] = (*known, policy)

    def __contains__(self, name: str) -> bool:
        return name in self._versions

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._versions))

    def versions(self, name: str) -> tuple[Policy, ...]:
        """All versions of a policy, as they were read; none where there is no such policy."""
        return self._versions.get(name, ())

    def at(self, name: str, zone: ZoneInfo, at_ms: int) -> Policy | None:
        """The version that decides at `at_ms` for an account in `zone`; None where none has taken effect."""
        best: tuple[int, Policy] | None = None
        for policy in self._versions.get(name, ()):
            from_ms = _from_ms(policy, zone)
            if from_ms <= at_ms and (best is None or from_ms >= best[0]):
                best = (from_ms, policy)
        return None if best is None else best[1]

    def version(self, name: str, version: str) -> Policy | None:
        """One version."""
        return next((policy for policy in self.versions(name) if policy.version == version), None)

    def windows_of(self, measure: str) -> frozenset[Period]:
        """The windows of all detectors that watch a measure, in any policy and version."""
        policies = chain.from_iterable(self._versions.values())
        detectors = chain.from_iterable(policy.detectors for policy in policies)
        return frozenset(each.window for each in detectors if each.measure == measure)

    def with_published(self, policy: Policy) -> "PolicyBook":
        """A book that has this version too; the same book where it has it already.

        Raises ValueError for a version that is known with other contents. Whether it may be published at all
        is for `publishing.faults` to say.
        """
        known = self.version(policy.name, policy.version)
        if known == policy:
            return self
        if known is not None:
            raise ValueError(
                f"policy {policy.name!r} has version {policy.version!r} with other contents; "
                "give the new text its own version"
            )
        return PolicyBook((*chain.from_iterable(self._versions.values()), policy))


def _from_ms(policy: Policy, zone: ZoneInfo) -> int:
    effective_ms = policy.effective_ms(zone)
    if effective_ms is not None:
        return effective_ms
    if policy.published is None:
        return ALWAYS_MS
    day = policy.published
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * MS_PER_S
