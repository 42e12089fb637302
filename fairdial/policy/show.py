"""A policy as rows for people: what each rule says, and on which clause it rests.

`show` gives structure; a table or a page makes it visible. Leaves the words to `wording.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from fairdial.policy.document import Allowance, Charges, Pay, Policy
from fairdial.policy.wording import (
    CAPS,
    CLASSES,
    FRAUD,
    KINDS,
    METERS,
    PAYS,
    PERIODS,
    PRICES,
    SCOPES,
    STANDING,
    caller_numbers,
    countries_covered,
    duration,
    encryption,
    joined,
    kinds_counted,
    minute_plan,
    price,
    requests,
    size,
    times,
    trigger,
    unverified_callers,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One rule. section: the table of the file; clause: "" where none is behind it (name, dates)."""

    section: str
    rule: str
    says: str
    clause: str = ""


def show(policy: Policy) -> tuple[Row, ...]:
    """All rules of a policy, in the file's order."""
    return (
        *_head(policy),
        *_coverage(policy),
        *_longest(policy),
        *(row for allowance in policy.allowances for row in _allowance(allowance)),
        *_caps(policy),
        *(_charges(policy.charges) if policy.charges is not None else ()),
        *_protection(policy),
        *_triggers(policy),
        *(Row("elsewhere", entry.clause, entry.where, entry.clause) for entry in policy.elsewhere),
    )


def _head(policy: Policy) -> Iterator[Row]:
    clause = policy.changes_clause or ""
    yield Row("policy", "name", f"{policy.name} {policy.version}: {policy.title}")
    if policy.published is not None:
        yield Row("policy", "published", policy.published.isoformat())
    at_once = policy.effective == "at_once"
    effective = "at once" if at_once else f"from {policy.effective}, local midnight"
    yield Row("policy", "effective", effective, clause)
    if policy.notice_days:
        yield Row("policy", "notice", f"{policy.notice_days} days before a change", clause)


def _coverage(policy: Policy) -> Iterator[Row]:
    kinds, classes = policy.kinds, policy.classes
    yield Row("kinds", "allowed", joined(KINDS[kind] for kind in kinds.allow) or "none", kinds.clause)
    numbers = joined(CLASSES[number_class] for number_class in classes.allow) or "no"
    yield Row("classes", "covered", f"{numbers} numbers", classes.clause)
    yield Row("countries", "covered", countries_covered(policy.countries.allow), policy.countries.clause)
    rule = policy.uncovered
    if rule is not None:
        says = PAYS[rule.pay]
        if rule.pay is Pay.CREDIT and rule.classes != "any":
            says += f": {joined(CLASSES[number_class] for number_class in rule.classes)} numbers"
        yield Row("uncovered", "numbers outside the plan", says, rule.clause)


def _longest(policy: Policy) -> Iterator[Row]:
    for kind, seconds in policy.longest_call.seconds.items():
        yield Row("longest_call", KINDS[kind], duration(seconds), policy.longest_call_clause(kind))


def _allowance(allowance: Allowance) -> Iterator[Row]:
    rule = f"{allowance.name} ({METERS[allowance.meter]}, {SCOPES[allowance.scope]})"
    says = f"{kinds_counted(allowance)}: {size(allowance)} {PERIODS[allowance.period]}"
    if allowance.limit_units is not None:
        says += f", then {PAYS[allowance.used_up]}"
    yield Row("allowances", rule, says, allowance.clause)
    for kind in allowance.weights:
        counting = f"{KINDS[kind]} count {times(allowance, kind)}"
        yield Row("allowances", allowance.name, counting, allowance.clause_for(kind))


def _caps(policy: Policy) -> Iterator[Row]:
    for name, cap in policy.caps:
        if cap is not None:
            yield Row("caps", name, f"at most {cap.limit:,} {CAPS[name]}", cap.clause)


def _charges(charges: Charges) -> Iterator[Row]:
    for key, subject in PRICES.items():
        shown = price(charges, key)
        if shown is not None:
            agreed = key == "surcharge_per_min" and charges.surcharge_needs_agreement
            says = f"{subject} {shown}{', where it was agreed' if agreed else ''}"
            yield Row("charges", key, says, charges.clause_for(key))
    yield Row("charges", "increment", f"seconds are billed by {charges.increment}", charges.clause)


def _protection(policy: Policy) -> Iterator[Row]:
    if policy.identity is not None:
        yield Row("identity", "caller_number", caller_numbers(policy.identity), policy.identity.clause)
        if policy.identity.unverified != "any":
            yield Row("identity", "unverified", unverified_callers(policy.identity), policy.identity.clause)
    if policy.encryption is not None:
        yield Row("encryption", "calls", encryption(policy.encryption), policy.encryption.clause)
    if policy.standing is not None:
        yield Row("standing", "at once", STANDING, policy.standing.clause)
        yield Row("standing", "fraud", FRAUD, policy.standing.fraud_clause or policy.standing.clause)


def _triggers(policy: Policy) -> Iterator[Row]:
    if policy.requests is not None:
        yield Row("requests", "higher limits", requests(policy.requests), policy.requests.clause)
    for plan in policy.plans:
        yield Row("plans", plan.name, minute_plan(policy, plan), plan.clause)
    for section, rules in (("detectors", policy.detectors), ("ladder", policy.ladder)):
        for rule in rules:
            yield Row(section, rule.name, trigger(rule), rule.clause)
