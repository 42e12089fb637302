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


RETIRED_MAX = 1_000
"""Versions that are remembered after they were taken away; the first that went is forgotten first."""


IN_TURN_MAX = 10_000
"""Names and zones whose order of versions is remembered: every dial asks for it, several times."""


class PolicyBook:
    """Policies by name and version. Never changed: a reload makes a new one.

    A version that a reload took away is retired: it decides about no dial and is listed nowhere, but `version` still
    finds it, for the calls that began under it.
    """

    def __init__(self, policies: Iterable[Policy] = (), retired: Iterable[Policy] = ()) -> None:
        """Raises ValueError for a version that stands twice."""
        self._in_turn: dict[tuple[str, ZoneInfo], tuple[tuple[int, Policy], ...]] = {}
        """The versions of a name by when they take effect in a zone, the latest first; bounded by IN_TURN_MAX."""
        self._retired = tuple(retired)[-RETIRED_MAX:]
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
        in_turn = self._in_turn.get((name, zone))
        if in_turn is None:
            # Of those that take effect at once, the one that stands last.
            timed = [(_from_ms(policy, zone), policy) for policy in reversed(self.versions(name))]
            in_turn = tuple(sorted(timed, key=lambda each: -each[0]))
            if len(self._in_turn) < IN_TURN_MAX:
                self._in_turn[name, zone] = in_turn
        for from_ms, policy in in_turn:
            if from_ms <= at_ms:
                return policy
        return None

    def version(self, name: str, version: str) -> Policy | None:
        """One version, also one that is retired."""
        known = chain(self.versions(name), (policy for policy in self._retired if policy.name == name))
        return next((policy for policy in known if policy.version == version), None)

    @property
    def labels(self) -> frozenset[str]:
        """ "NAME VERSION" of all that are not retired."""
        return frozenset(f"{policy.name} {policy.version}" for policy in self._all())

    def _all(self) -> Iterable[Policy]:
        return chain.from_iterable(self._versions.values())

    def windows_of(self, measure: str) -> frozenset[Period]:
        """The windows of all detectors that watch a measure, in any policy and version."""
        detectors = chain.from_iterable(policy.detectors for policy in self._all())
        return frozenset(each.window for each in detectors if each.measure == measure)

    def with_published(self, policy: Policy) -> "PolicyBook":
        """A book that has this version too; the same book where it has it already.

        Raises ValueError for a version that is known with other contents. Whether it may be published at all
        is for `publishing.faults` to say.
        """
        if policy in self.versions(policy.name):
            return self
        _same(policy, self.version(policy.name, policy.version))
        retired = (each for each in self._retired if each != policy)
        return PolicyBook((*self._all(), policy), retired)

    def in_place_of(self, before: "PolicyBook") -> "PolicyBook":
        """This book for what comes, with those of `before` that it has not as retired ones.

        Raises ValueError for a version that `before` knows with other contents: calls in progress go by it.
        """
        for policy in self._all():
            _same(policy, before.version(policy.name, policy.version))
        gone = (
            policy
            for policy in chain(before._retired, before._all())
            if policy not in self.versions(policy.name)
        )
        return PolicyBook(self._all(), gone)


def _same(policy: Policy, known: Policy | None) -> None:
    """Raises ValueError where the version is known with other contents."""
    if known is not None and known != policy:
        raise ValueError(
            f"policy {policy.name!r} has version {policy.version!r} with other contents; "
            "give the new text its own version"
        )


def _from_ms(policy: Policy, zone: ZoneInfo) -> int:
    effective_ms = policy.effective_ms(zone)
    if effective_ms is not None:
        return effective_ms
    if policy.published is None:
        return ALWAYS_MS
    day = policy.published
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * MS_PER_S
