"""What policies say, for operators: the versions of each, one version in words, and what changes between two.

Used on the policies of a running FairDial; the command line uses the same rules on files.
"""

from dataclasses import asdict

from fairdial.console.shapes import Json
from fairdial.ledger.contract import NotFound
from fairdial.policy.book import PolicyBook
from fairdial.policy.difference import difference, takes_effect
from fairdial.policy.document import Policy
from fairdial.policy.periods import zone_named
from fairdial.policy.show import show


def policy_json(book: PolicyBook, name: str, at_ms: int) -> Json:
    """A policy with its versions. version: the one in force at `at_ms` in UTC, null before the first."""
    deciding = book.at(name, zone_named("UTC"), at_ms)
    return {
        "policy": name,
        "version": None if deciding is None else deciding.version,
        "versions": [
            {
                "version": each.version,
                "title": each.title,
                "published": None if each.published is None else str(each.published),
                "effective": str(each.effective),
            }
            for each in book.versions(name)
        ],
    }


def version_of(book: PolicyBook, name: str, version: str | None, at_ms: int) -> Policy:
    """That version of a policy; None: the one in force in UTC. Raises NotFound."""
    if name not in book:
        raise NotFound(f"no policy {name!r}; known are {', '.join(book.names)}")
    found = book.at(name, zone_named("UTC"), at_ms) if version is None else book.version(name, version)
    if found is None:
        what = "version in force" if version is None else f"version {version!r}"
        known = ", ".join(each.version for each in book.versions(name))
        raise NotFound(f"policy {name!r} has no {what}; known are {known}")
    return found


def rules_json(policy: Policy) -> Json:
    """A version in words."""
    return {
        "policy": policy.name,
        "version": policy.version,
        "title": policy.title,
        "rules": [asdict(row) for row in show(policy)],
    }


def difference_json(old: Policy, new: Policy) -> Json:
    """What changes for a customer, in sentences."""
    return {
        "policy": new.name,
        "old": old.version,
        "new": new.version,
        "changes": list(difference(old, new)),
        "takes_effect": takes_effect(new),
    }
