"""What it takes to publish a new version of a policy: the notice that was promised, kept in whole days.

The promise is that of the version in force, not that of the new one alone, and it counts from the day of
publishing, whatever the file says: no file shortens its own notice (R7, V9). Leaves to `lint.py` whether the
rules make sense, to `difference.py` what customers are told, to `book.py` which version decides.
"""

from collections.abc import Iterator
from datetime import date, timedelta
from itertools import pairwise

from fairdial.policy.book import PolicyBook
from fairdial.policy.document import Policy
from fairdial.policy.faults import Fault


def faults(policy: Policy, book: PolicyBook, today: date) -> tuple[Fault, ...]:
    """Why `policy` may not be published on `today`, the UTC day; () where it may.

    The longest notice of the new version, the version in force and those already published for later binds
    (R7, V9); "at_once" is for policies that promise none (A11). Publishing again what is in the book is no
    fault. The first version of a name has nobody to notify.
    """
    known = book.versions(policy.name)
    if policy in known:
        return ()
    # Also one that was taken away: calls that began under it may still be in progress.
    before = book.version(policy.name, policy.version)
    return tuple(_faults(policy, known, taken=before is not None and before != policy, today=today))


def _faults(policy: Policy, known: tuple[Policy, ...], *, taken: bool, today: date) -> Iterator[Fault]:
    if taken:
        yield Fault(
            ("version",),
            f"{policy.version!r} is published already, with other contents",
            "give the new text its own version",
        )
    if policy.published is not None and policy.published > today:
        yield Fault(("published",), f"{policy.published} is after today, {today}", f"write {today}")
    bound = _binding(policy, known, today)
    if bound is not None:
        yield from _notice(policy, bound, today)
    elif policy.effective == "at_once":
        yield from _at_once(policy, known, today)
    elif policy.effective < today:
        yield Fault(
            ("effective",), f"{policy.effective} is in the past", f'write {today} or later, or "at_once"'
        )
    yield from _same_day(policy, known)


def _binding(policy: Policy, known: tuple[Policy, ...], today: date) -> Policy | None:
    """The version whose notice binds: the longest of those that customers can rely on; None: no notice does."""
    if not known:
        return None
    in_force = max((_first_day(other) for other in known if _first_day(other) <= today), default=date.min)
    relied_on = [other for other in known if _first_day(other) >= in_force]
    longest = max((*relied_on, policy), key=lambda version: version.notice_days)
    return longest if longest.notice_days else None


def _notice(policy: Policy, bound: Policy, today: date) -> Iterator[Fault]:
    earliest = today + timedelta(days=bound.notice_days)
    if isinstance(policy.effective, date) and policy.effective >= earliest:
        return
    clause = f", {bound.changes_clause}" if bound.changes_clause else ""
    day = "at once" if policy.effective == "at_once" else policy.effective
    yield Fault(
        ("effective",),
        f"{day} leaves no time for {bound.notice_days} days of notice from today, {today}"
        f" (version {bound.version}{clause})",
        f"write {earliest} or later",
    )


def _at_once(policy: Policy, known: tuple[Policy, ...], today: date) -> Iterator[Fault]:
    # It decides from the midnight of `published`: without that day, or with an earlier one, it would be taken for
    # older than the version in force, or for the one that decided in the past.
    if known and (policy.published is None or policy.published < today):
        written = "no day" if policy.published is None else str(policy.published)
        yield Fault(
            ("published",),
            f'with effective = "at_once" it is the day from which the version decides, and {written} is written',
            f"write {today}",
        )


def _same_day(policy: Policy, known: tuple[Policy, ...]) -> Iterator[Fault]:
    day = _first_day(policy)
    for other in known:
        if day != date.min and _first_day(other) == day and other.version != policy.version:
            yield Fault(
                ("effective",),
                f"version {other.version} takes effect on {day} too, and one of the two would never decide",
                "write another day",
            )


def upcoming(book: PolicyBook, today: date) -> tuple[tuple[Policy, Policy], ...]:
    """Versions that take effect after `today`, each with the one whose place it takes, also those that nobody published
    but that stand in the folder. A first version takes nobody's place.
    """
    pairs = []
    for name in book.names:
        versions = sorted(book.versions(name), key=_first_day)
        pairs += [(after, before) for before, after in pairwise(versions) if _first_day(after) > today]
    return tuple(pairs)


def _first_day(policy: Policy) -> date:
    """The day from which a version decides. Dates order versions the same way in all zones."""
    if isinstance(policy.effective, date):
        return policy.effective
    return policy.published or date.min
