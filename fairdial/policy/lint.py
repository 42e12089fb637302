"""What is wrong with a policy although each of its keys can be read.

An error: the policy cannot mean what it says, or a clause of its published text is missing. A warning: it
works, and a part of it has no effect. `lint` also tells what `parse_policy` refuses, so that an operator
sees everything in one form, with the line in the file.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

from fairdial.policy.account import Kind
from fairdial.policy.document import (
    PARTIES,
    Allowance,
    Detector,
    Meter,
    Pay,
    Policy,
    PolicyError,
    parse_policy,
)
from fairdial.policy.faults import Fault, KeyPath
from fairdial.policy.measures import MEASURES
from fairdial.policy.periods import Period
from fairdial.policy.prefixes import NumberClass
from fairdial.policy.source import key_lines, line_of
from fairdial.policy.wording import KINDS, PERIODS, duration


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault of a policy file. line: from 1, where `key` or the nearest table around it stands."""

    file: str
    line: int
    key: str
    severity: Severity
    words: str
    cure: str

    def __str__(self) -> str:
        said = f"{self.words}; {self.cure}" if self.cure else self.words
        return f"{self.file}:{self.line}: {self.severity}: {self.key}: {said}"


def _numbered(letter: str, last: int) -> frozenset[str]:
    return frozenset(f"{letter}{number}" for number in range(1, last + 1))


PUBLISHED = {
    "kryptotel": _numbered("K", 12),
    "acceptable-use": _numbered("A", 11),
    "redconnect": _numbered("R", 7),
    "voxdirect": _numbered("V", 9),
    "spokephone": _numbered("S", 8),
}
"""The clauses of the published policies by the policy's name (CLAUSES.md)."""

_DIALS_OUT = frozenset({Kind.OUTBOUND, Kind.CALLBACK, Kind.COLLECT})
_DECIDED_BEFORE = frozenset({NumberClass.EMERGENCY, NumberClass.INTERNAL, NumberClass.INVALID})
_Found = Iterator[tuple[Severity, Fault]]


def lint(text: str, where: str, expected: Iterable[str] | None = None) -> tuple[Finding, ...]:
    """All findings in a policy's TOML text, in the order of its lines; `where` names the file.

    expected: ids of which each must stand in a rule or in `[[elsewhere]]`; None: those of PUBLISHED.
    """
    lines = key_lines(text)
    try:
        policy = parse_policy(text, where)
    except PolicyError as error:
        found = [(Severity.ERROR, fault) for fault in error.found]
    else:
        found = list(findings(policy, expected))
    told = (
        Finding(where, _line(fault, lines), fault.key, severity, fault.words, fault.cure)
        for severity, fault in found
    )
    return tuple(sorted(told, key=lambda finding: (finding.line, finding.key)))


def _line(fault: Fault, lines: dict[KeyPath, int]) -> int:
    written = re.search(r"\(at line ([0-9]+)", fault.words) if fault.path == ("toml",) else None
    return int(written[1]) if written else line_of(lines, fault.path)


def findings(policy: Policy, expected: Iterable[str] | None = None) -> _Found:
    """What is wrong with a policy that could be read."""
    yield from _coverage(policy)
    yield from _longest(policy)
    for index, allowance in enumerate(policy.allowances):
        path: KeyPath = ("allowances", index)
        yield from _counting(policy, allowance, path)
        yield from _paying(policy, allowance, path)
        yield from _twin(policy, index, path)
    yield from _prices(policy)
    yield from _protection(policy)
    yield from _watching(policy)
    yield from _dates(policy)
    yield from _clauses(policy, PUBLISHED.get(policy.name, frozenset()) if expected is None else expected)


def _error(path: KeyPath, words: str, cure: str) -> tuple[Severity, Fault]:
    return Severity.ERROR, Fault(path, words, cure)


def _warning(path: KeyPath, words: str, cure: str) -> tuple[Severity, Fault]:
    return Severity.WARNING, Fault(path, words, cure)


def _coverage(policy: Policy) -> _Found:
    countries, classes = policy.countries.allow, policy.classes.allow
    if not policy.kinds.allow:
        yield _error(("kinds", "allow"), "no kind of call is allowed", "name those that the plan has")
    dials_out = policy.kinds.allow & _DIALS_OUT
    if countries not in ("any", "subscription") and not dials_out:
        yield _warning(
            ("countries", "allow"),
            "countries are listed, but no kind of call goes out to a number",
            'add "outbound" to kinds.allow, or write allow = "any"',
        )
    if not countries and classes:
        yield _error(
            ("countries", "allow"), "classes are covered, but in no country", 'name countries, or write "any"'
        )
    if dials_out and not classes:
        yield _error(
            ("classes", "allow"), "calls go out, but no class of number is covered", "name the classes"
        )
    for number_class in sorted(classes & _DECIDED_BEFORE):
        yield _warning(
            ("classes", "allow"),
            f'"{number_class}" is decided before any policy is looked at',
            "remove it",
        )
    rule = policy.uncovered
    if rule is not None and rule.pay is Pay.CREDIT and not _has_card(policy):
        yield _error(("uncovered", "pay"), "credit has no prices", "name a rate card in charges.card")
    if rule is not None and rule.pay is Pay.REFUSE and rule.classes != "any":
        yield _warning(
            ("uncovered", "classes"), "classes are named, but nothing is paid", 'write pay = "credit"'
        )


def _longest(policy: Policy) -> _Found:
    for kind in sorted(policy.longest_call.seconds):
        if kind not in policy.kinds.allow:
            yield _warning(
                ("longest_call", "seconds", kind),
                f"limits {KINDS[kind]}, which are not allowed",
                f'add "{kind}" to kinds.allow or remove it here',
            )
    for kind in sorted(policy.longest_call.clauses.keys() - policy.longest_call.seconds.keys()):
        yield _warning(
            ("longest_call", "clauses", kind),
            f"names a clause for {KINDS[kind]}, which have no limit",
            f"write seconds for {kind} or remove it here",
        )


def _counting(policy: Policy, allowance: Allowance, path: KeyPath) -> _Found:
    counts = allowance.counts
    missing = sorted(counts - policy.kinds.allow - {Kind.EMERGENCY})
    names = ", ".join(missing)
    if missing and counts <= set(missing):
        yield _error((*path, "counts"), f"counts only what is not allowed ({names})", "allow it in kinds")
    elif missing:
        yield _warning((*path, "counts"), f"counts {names}, not allowed by kinds", "allow or remove it")
    if not counts:
        yield _error((*path, "counts"), "counts no kind of call", "name the kinds")
    if Kind.EMERGENCY in counts:
        yield _warning((*path, "counts"), "emergency calls are never counted", "remove it")
    for table in ("weights", "clauses"):
        for kind in sorted(getattr(allowance, table).keys() - counts):
            yield _warning(
                (*path, table, kind), f"{kind} is not counted here", "add it to counts or remove it"
            )
    for kind in sorted(kind for kind, weight in allowance.weights.items() if weight == PARTIES):
        if kind is not Kind.CONFERENCE or allowance.meter is not Meter.VOICE:
            yield _error(
                (*path, "weights", kind),
                "only conferences on a voice meter have parties to count; the conference meter is a room's time",
                "write a number",
            )
    if allowance.meter is Meter.CONFERENCE and allowance.used_up is not Pay.REFUSE:
        yield _error(
            (*path, "used_up"),
            "the room's clock is everybody's, so nobody is charged for it",
            'write "refuse", or count the talk with a voice meter',
        )
    if allowance.meter is Meter.CONFERENCE and counts - {Kind.CONFERENCE}:
        yield _error(
            (*path, "counts"), "a conference meter counts conferences alone", 'write counts = ["conference"]'
        )


def _paying(policy: Policy, allowance: Allowance, path: KeyPath) -> _Found:
    limit, charges = allowance.limit_units, policy.charges
    key = "overage_per_min" if allowance.measures_talk else "overage_per_message"
    if allowance.used_up is Pay.OVERAGE and (charges is None or getattr(charges, key) is None):
        yield _error((*path, "used_up"), "overage has no price", f"write charges.{key}")
    if allowance.used_up is Pay.CREDIT and not allowance.measures_talk:
        yield _error((*path, "used_up"), "credit pays for talk alone", 'write "refuse" or "overage"')
    elif allowance.used_up is Pay.CREDIT and not _has_card(policy):
        yield _error((*path, "used_up"), "credit has no prices", "name a rate card in charges.card")
    if limit is None and allowance.used_up is not Pay.REFUSE:
        yield _warning(
            (*path, "used_up"), "is never used up, as it has no limit", "write a limit or remove it"
        )
    if limit is None or not allowance.measures_talk or allowance.used_up is not Pay.REFUSE:
        return
    for kind in sorted(allowance.counts):
        longest_s = policy.longest_call_s(kind)
        if longest_s is not None and longest_s * allowance.weight(kind) > limit:
            yield _warning(
                ("longest_call", "seconds", kind),
                f"{KINDS[kind]} of {duration(longest_s)} do not fit into allowance {allowance.name!r},"
                f" which has {duration(limit)} {PERIODS[allowance.period]}",
                "shorten it or raise the allowance",
            )


def _twin(policy: Policy, index: int, path: KeyPath) -> _Found:
    def identity(allowance: Allowance) -> tuple[object, ...]:
        return allowance.meter, allowance.period, allowance.scope, allowance.counts

    this = policy.allowances[index]
    for other in policy.allowances[:index]:
        if identity(other) == identity(this):
            yield _error(
                path,
                f"measures the same as allowance {other.name!r}: meter, period, scope and kinds",
                "keep one of them",
            )


def _prices(policy: Policy) -> _Found:
    charges = policy.charges
    if charges is None:
        return
    overage = {allowance.measures_talk for allowance in policy.allowances if allowance.used_up is Pay.OVERAGE}
    for key, talk in (("overage_per_min", True), ("overage_per_message", False)):
        if getattr(charges, key) is not None and talk not in overage:
            yield _warning(
                ("charges", key), "no allowance is charged past its limit", 'write used_up = "overage" there'
            )
    for key in sorted(charges.clauses):
        if getattr(charges, key) is None:
            yield _warning(("charges", "clauses", key), f"{key} is not set", "set it or remove its clause")


def _protection(policy: Policy) -> _Found:
    if policy.caps.participants is not None and Kind.CONFERENCE not in policy.kinds.allow:
        yield _warning(
            ("caps", "participants"), "there are no conferences", 'add "conference" to kinds.allow'
        )
    encryption = policy.encryption
    if encryption is not None and (encryption.signalling, encryption.media) == ("any", "any"):
        yield _warning(("encryption",), "requires nothing", 'write "required" for signalling or media')


def _watching(policy: Policy) -> _Found:
    for index, detector in enumerate(policy.detectors):
        yield from _detector(policy, detector, ("detectors", index))
    yield from _requests(policy)


def _requests(policy: Policy) -> _Found:
    for key in sorted(policy.requests.hard) if policy.requests is not None else ():
        if policy.limit_rule(key) is None:
            yield _error(("requests", "hard"), f"{key} is no limit of this policy", "name one that is")
    by_name = {allowance.name: allowance for allowance in policy.allowances}
    for index, plan in enumerate(policy.plans):
        path: KeyPath = ("plans", index)
        allowance = by_name.get(plan.allowance)
        if allowance is None:
            known = ", ".join(by_name) or "none"
            yield _error((*path, "allowance"), f"{plan.allowance!r} is no allowance", f"known are {known}")
            continue
        if allowance.limit_units is None or allowance.period not in (Period.MONTH, Period.CYCLE):
            yield _error(
                (*path, "allowance"),
                "a plan adds to a monthly limit",
                "name one with a limit and a monthly period",
            )
        if allowance.measures_talk != (plan.adds_s is not None):
            wanted = "adds_s" if allowance.measures_talk else "adds"
            yield _error(path, "adds in another unit than its allowance has", f"write {wanted}")
        if allowance.used_up is not Pay.OVERAGE:
            yield _warning(
                (*path, "allowance"), "nothing is ever charged past it", 'write used_up = "overage" there'
            )
    for index, rung in enumerate(policy.ladder):
        if rung.plan is not None and rung.plan not in {plan.name for plan in policy.plans}:
            yield _error(("ladder", index, "plan"), f"{rung.plan!r} is no plan", "name one of [[plans]]")


def _detector(policy: Policy, detector: Detector, path: KeyPath) -> _Found:
    name, threshold = detector.measure, detector.threshold
    most = MEASURES[name].most
    if threshold > most:
        yield _error(
            (*path, "threshold"),
            f"is never reached: the measure is {most:g} at most",
            f"write {most:g} or less",
        )
    if detector.allowance is not None:
        named = next((each for each in policy.allowances if each.name == detector.allowance), None)
        if named is None:
            known = ", ".join(each.name for each in policy.allowances) or "none"
            yield _error(
                (*path, "allowance"),
                f"{detector.allowance!r} is no allowance of this policy",
                f"known are {known}",
            )
        elif named.period not in (Period.MONTH, Period.CYCLE):
            yield _error(
                (*path, "allowance"),
                "is counted by the day, and months are compared",
                "name one with a monthly period",
            )


def _dates(policy: Policy) -> _Found:
    if not policy.notice_days:
        earliest = policy.published
    elif policy.effective == "at_once":
        yield _error(
            ("effective",),
            f"at once leaves no time for {policy.notice_days} days of notice",
            "write a date, or notice_days = 0",
        )
        return
    elif policy.published is None:
        yield _error(("notice_days",), "notice is counted from a day that is not written", "write published")
        return
    else:
        earliest = policy.published + timedelta(days=policy.notice_days)
    if earliest is not None and isinstance(policy.effective, date) and policy.effective < earliest:
        yield _error(
            ("effective",),
            f"is before {earliest}, the day of publication and {policy.notice_days} days of notice",
            f"write {earliest} or later",
        )


def _clauses(policy: Policy, expected: Iterable[str]) -> _Found:
    wanted, written = frozenset(expected), policy.clause_ids()
    for clause in sorted(wanted - written, key=lambda clause: (len(clause), clause)):
        yield _error(
            (),
            f"clause {clause} of the published text is in no rule",
            f'name it in the rule that expresses it, or in [[elsewhere]] with clause = "{clause}"',
        )
    for clause in sorted(written - wanted) if wanted else ():
        yield _warning((), f"clause {clause} is not one of the published text", "correct the id")


def _has_card(policy: Policy) -> bool:
    return policy.charges is not None and policy.charges.card is not None
