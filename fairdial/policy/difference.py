"""What a new version of a policy changes for a customer, in plain sentences with their clauses.

For the notices that the policies promise (R7, V9). Titles and clause ids are no change for a customer.
Leaves to the caller who is told, and when; `takes_effect` has the sentence about the day.
"""

from collections.abc import Iterator
from datetime import date

from fairdial.policy.document import Allowance, Charges, Policy
from fairdial.policy.wording import (
    CAPS,
    CLASSES,
    FRAUD,
    KINDS,
    PAYS,
    PERIODS,
    PRICES,
    STANDING,
    amounts,
    caller_numbers,
    counted,
    countries_covered,
    duration,
    encryption,
    joined,
    kinds_counted,
    minute_plan,
    price,
    requests,
    sentence,
    size,
    times,
    titled,
    trigger,
    unverified_callers,
)

_Changes = Iterator[tuple[str, str]]
"""What is said, and the clause behind it: of the new version, or of the old one for what is gone."""


def difference(old: Policy, new: Policy) -> tuple[str, ...]:
    """Sentences that say what `new` changes against `old`; none where customers notice nothing."""
    changes = (
        *_coverage(old, new),
        *_countries(old, new),
        *_uncovered(old, new),
        *_longest(old, new),
        *_allowances(old, new),
        *_caps(old, new),
        *_charges(old.charges, new.charges),
        *_protection(old, new),
        *_requests(old, new),
        *_triggers(old, new),
        *_notice(old, new),
    )
    return tuple(sentence(f"{words} ({clause})" if clause else words) for words, clause in changes)


def takes_effect(policy: Policy) -> str:
    """The sentence that says from when a version holds."""
    day = policy.effective
    if isinstance(day, date):
        return f"This takes effect on {day.day} {day:%B %Y}, at midnight of your time zone."
    return "This takes effect at once."


def _coverage(old: Policy, new: Policy) -> _Changes:
    for kind in sorted(new.kinds.allow - old.kinds.allow):
        yield f"the plan now has {KINDS[kind]}", new.kinds.clause
    for kind in sorted(old.kinds.allow - new.kinds.allow):
        yield f"the plan no longer has {KINDS[kind]}", new.kinds.clause
    before, after, clause = old.classes.allow, new.classes.allow, new.classes.clause
    if gained := after - before:
        yield f"calls to {joined(CLASSES[one] for one in gained)} numbers are now covered", clause
    if lost := before - after:
        yield f"calls to {joined(CLASSES[one] for one in lost)} numbers are no longer covered", clause


def _countries(old: Policy, new: Policy) -> _Changes:
    before, after, clause = old.countries.allow, new.countries.allow, new.countries.clause
    if isinstance(before, frozenset) and isinstance(after, frozenset):
        if gained := after - before:
            yield f"calls to {joined(gained)} are now covered", clause
        if lost := before - after:
            yield f"calls to {joined(lost)} are no longer covered", clause
    elif before != after:
        words = f"the plan covers {countries_covered(after)} instead of {countries_covered(before)}"
        yield words, clause


def _uncovered(old: Policy, new: Policy) -> _Changes:
    changed = [one for one in CLASSES if old.pays_uncovered(one) is not new.pays_uncovered(one)]
    rule = new.uncovered or old.uncovered
    if rule is None:
        return
    for pay in sorted({new.pays_uncovered(one) for one in changed}):
        classes = [one for one in changed if new.pays_uncovered(one) is pay]
        which = "" if len(classes) == len(CLASSES) else f"{joined(CLASSES[one] for one in classes)} "
        yield f"calls to {which}numbers outside the plan are now {PAYS[pay]}", rule.clause


def _longest(old: Policy, new: Policy) -> _Changes:
    for kind in sorted(new.kinds.allow):
        before, after = old.longest_call_s(kind), new.longest_call_s(kind)
        if before == after:
            continue
        if after is None:
            yield f"{KINDS[kind]} no longer have a longest time", old.longest_call_clause(kind)
        else:
            instead = "" if before is None else f" instead of {duration(before)}"
            yield f"{KINDS[kind]} end after {duration(after)}{instead}", new.longest_call_clause(kind)


def _allowances(old: Policy, new: Policy) -> _Changes:
    # By what they measure as well, so that a name that was given anew is told as one gone and one new.
    before = {(allowance.name, allowance.meter): allowance for allowance in old.allowances}
    after = {(allowance.name, allowance.meter): allowance for allowance in new.allowances}
    for key, gone in before.items():
        if key not in after and gone.limit_units is not None:
            yield f"{_title(gone, old)} of {size(gone)} no longer applies", gone.clause
    for key, allowance in after.items():
        if key in before:
            yield from _allowance(before[key], allowance, _title(allowance, new))
        elif allowance.limit_units is not None:
            words = f"there is a new {titled(allowance)} of {size(allowance)} for {kinds_counted(allowance)}"
            yield words, allowance.clause


def _title(allowance: Allowance, policy: Policy) -> str:
    title = f"the {titled(allowance)}"
    alike = [other for other in policy.allowances if titled(other) == titled(allowance)]
    return title if len(alike) < 2 else f"{title} for {kinds_counted(allowance)}"


def _allowance(old: Allowance, new: Allowance, title: str) -> _Changes:
    if (old.period, old.scope) != (new.period, new.scope):
        words = f"the {titled(old)} ({size(old)}) becomes the {titled(new)} ({size(new)})"
        yield words, new.clause
    else:
        yield from _limit(old, new, title)
    if new.limit_units is not None and old.limit_units is not None and old.used_up is not new.used_up:
        use = "calls" if new.measures_talk else "messages"
        yield f"past {title}, {use} are {PAYS[new.used_up]} instead of {PAYS[old.used_up]}", new.clause
    for kind in sorted(new.counts - old.counts):
        yield f"{KINDS[kind]} now count in {title}", new.clause_for(kind)
    for kind in sorted(old.counts - new.counts):
        yield f"{KINDS[kind]} no longer count in {title}", old.clause_for(kind)
    for kind in sorted(new.counts & old.counts):
        if times(old, kind) != times(new, kind):
            clause = new.clause_for(kind)
            yield f"{KINDS[kind]} count {times(new, kind)} instead of {times(old, kind)} in {title}", clause


def _limit(old: Allowance, new: Allowance, title: str) -> _Changes:
    before, after = old.limit_units, new.limit_units
    if before == after:
        return
    if after is None:
        yield f"{title} no longer has a limit", new.clause
    elif before is None:
        yield f"{title} is now {size(new)} {PERIODS[new.period]}", new.clause
    else:
        (was, now), unit = amounts(new, before, after)
        yield f"{title} {'falls' if after < before else 'rises'} from {was} to {now} {unit}", new.clause


def _caps(old: Policy, new: Policy) -> _Changes:
    for name, noun in CAPS.items():
        before, after = getattr(old.caps, name), getattr(new.caps, name)
        if after is None and before is not None:
            yield f"the number of {noun} is no longer limited", before.clause
        elif after is not None and (before is None or before.limit != after.limit):
            instead = "" if before is None else f" instead of {before.limit:,}"
            yield f"at most {after.limit:,} {noun} are possible{instead}", after.clause


def _charges(old: Charges | None, new: Charges | None) -> _Changes:
    for key, subject in PRICES.items():
        before, after = price(old, key), price(new, key)
        if before == after:
            continue
        instead = "" if before is None else f" instead of {before}"
        charges = new if new is not None and after is not None else old
        yield f"{subject} {after or 'nothing'}{instead}", charges.clause_for(key) if charges else ""
    if old is not None and new is not None and old.increment != new.increment:
        yield f"charged seconds are billed by {new.increment} instead of {old.increment}", new.clause


def _protection(old: Policy, new: Policy) -> _Changes:
    if unverified_callers(old.identity) != unverified_callers(new.identity):
        rule = new.identity or old.identity
        yield f"from now on {unverified_callers(new.identity)}", rule.clause if rule else ""
    if caller_numbers(old.identity) != caller_numbers(new.identity):
        rule = new.identity or old.identity
        yield f"from now on {caller_numbers(new.identity)}", rule.clause if rule else ""
    if encryption(old.encryption) != encryption(new.encryption):
        encrypted = new.encryption or old.encryption
        yield f"from now on {encryption(new.encryption)}", encrypted.clause if encrypted else ""
    if (old.standing is None) != (new.standing is None):
        yield from _standing(old, new)


def _standing(old: Policy, new: Policy) -> _Changes:
    begins = "from now on" if new.standing is not None else "it no longer holds that"
    rule = new.standing or old.standing
    if rule is not None:
        yield f"{begins} {STANDING}", rule.clause
        yield f"{begins} {FRAUD}", rule.fraud_clause or rule.clause


def _requests(old: Policy, new: Policy) -> _Changes:
    if requests(old.requests) != requests(new.requests):
        rule = new.requests or old.requests
        yield f"from now on {requests(new.requests)}", rule.clause if rule else ""
    before = {plan.name: (minute_plan(old, plan), plan) for plan in old.plans}
    after = {plan.name: (minute_plan(new, plan), plan) for plan in new.plans}
    for name, (_, plan) in before.items():
        if name not in after:
            yield f"the plan {name} is no longer offered; who has it keeps it", plan.clause
    for name, (words, plan) in after.items():
        if name not in before or before[name][0] != words:
            yield f"the plan {name} {words}", plan.clause


def _triggers(old: Policy, new: Policy) -> _Changes:
    for section in ("detectors", "ladder"):
        before = {rule.name: rule for rule in getattr(old, section)}
        after = {rule.name: rule for rule in getattr(new, section)}
        for name, rule in before.items():
            if name not in after:
                yield f"it no longer holds that {trigger(rule)}", rule.clause
        for name, rule in after.items():
            if name not in before or trigger(before[name]) != trigger(rule):
                yield f"from now on, {trigger(rule)}", rule.clause


def _notice(old: Policy, new: Policy) -> _Changes:
    if old.notice_days != new.notice_days:
        words = f"changes are announced {counted(new.notice_days, 'day')} ahead"
        yield f"{words} instead of {counted(old.notice_days, 'day')}", new.changes_clause or ""
