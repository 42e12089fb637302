"""Limits that were raised for one account: what a limit is at a moment, and on whose approval.

A policy names a limit; an approved request (`requests.py`) raises it for one account and for a while, and a minute plan
adds to it. Everything that asks for a limit asks here: the decision, the renewal of a live call, its settlement, what
operators see, and a replay. Leaves to `decide.py` what follows from a limit. Never below the policy's own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Raise:
    """A limit of one policy is higher in [from_ms, until_ms), UTC; until_ms None: without end.

    request: its number. rule: the limit by its key in the policy file, such as "caps.lines" or "allowances.voice";
    "allowances.voice/alice" is that of one line, where each line has its own. limit: so much at least; more: so much
    besides, of a minute plan (R4). Both in the unit of the limit: seconds of talk, messages, or a number. clause:
    behind it, of the policy.
    """

    request: int
    policy: str
    rule: str
    from_ms: int
    until_ms: int | None
    clause: str
    limit: int = 0
    more: int = 0

    def holds_at(self, at_ms: int) -> bool:
        """Whether it is in force at that moment."""
        return self.from_ms <= at_ms and (self.until_ms is None or at_ms < self.until_ms)


@dataclass(frozen=True, slots=True)
class Raised:
    """What raised a limit. base_units: what the policy says. by: the raises in force, the one behind the limit first.

    lower_units, lower_from_ms: what the limit falls to, and when; None: it stays.
    """

    base_units: int
    by: tuple[Raise, ...]
    lower_units: int | None = None
    lower_from_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit at a moment. raised: None where it is the policy's own."""

    units: int
    raised: Raised | None = None


def limit_at(raises: Sequence[Raise], policy: str, rule: str, base_units: int, at_ms: int) -> Limit:
    """The limit `rule` of an account on `policy` at that moment; base_units: what the policy says."""
    about = _about(raises, policy, rule) if raises else ()
    in_force = [one for one in about if one.holds_at(at_ms)]
    units = _units(base_units, in_force)
    if units <= base_units:
        return Limit(base_units)
    # Those that make no difference beside others are not behind it.
    highest = max((one.limit for one in in_force), default=0)
    by = tuple(one for one in in_force if one.more or (one.limit == highest and one.limit > base_units))
    # Also of those that begin later: they may be all that holds it up by then.
    for end_ms in sorted(
        {one.until_ms for one in about if one.until_ms is not None and one.until_ms > at_ms}
    ):
        then = _units(base_units, [one for one in about if one.holds_at(end_ms)])
        if then < units:
            return Limit(units, Raised(base_units, by, then, end_ms))
    return Limit(units, Raised(base_units, by))


def limits_over(
    raises: Sequence[Raise], policy: str, rule: str, base_units: int, from_ms: int, until_ms: int
) -> tuple[tuple[int, int], ...]:
    """The limit as it changes in [from_ms, until_ms): since when (UTC ms), and what it is from then on."""
    about = _about(raises, policy, rule)
    changes = {from_ms}
    for one in about:
        changes |= {at_ms for at_ms in (one.from_ms, one.until_ms) if at_ms and from_ms < at_ms < until_ms}
    return tuple(
        (at_ms, _units(base_units, [one for one in about if one.holds_at(at_ms)]))
        for at_ms in sorted(changes)
    )


def _about(raises: Sequence[Raise], policy: str, rule: str) -> tuple[Raise, ...]:
    names = set(_names(rule))
    return tuple(one for one in raises if one.policy == policy and one.rule in names)


def _names(rule: str) -> Iterator[str]:
    """A line's own limit is raised by what raises that of all lines, too."""
    yield rule
    if "/" in rule:
        yield rule.partition("/")[0]


def _units(base_units: int, in_force: Sequence[Raise]) -> int:
    highest = max((one.limit for one in in_force), default=0)
    return max(base_units, highest) + sum(one.more for one in in_force)
