"""Requests for higher limits (R5) and minute plans (R4): what can be asked for, what follows, from when until when.

A request is asked, then approved or declined, withdrawn by who asked, revoked, over. `MOVES` is the table of that; a
move that is not in it raises and changes nothing. Pure: the ledger keeps requests, `raises.py` says what an approved
one does to a limit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from fairdial.policy.account import Account, MeterWindow
from fairdial.policy.document import Allowance, MinutePlan, Policy, Rung, Scope
from fairdial.policy.measures import OVERAGE_MONTHS
from fairdial.policy.periods import Period, Window, window_at, zone_named
from fairdial.policy.raises import Raise, limit_at
from fairdial.policy.rating import parse_micros
from fairdial.policy.terms import DEFAULT_CURRENCY, Clause

OPEN_MAX = 20
"""Open requests of an account at once."""
RAISES_MAX = 20
"""Approved requests of an account that are not over."""
CYCLES_MAX = 120
LIMIT_MAX = 10**12
WORDS_MAX = 2_000
"""Characters of a reason."""

Starts = Literal["at_once", "next_cycle"]


class RequestKind(StrEnum):
    """LIMIT: a higher limit is asked for. PLAN: a minute plan is offered, or was added by itself."""

    LIMIT = "limit"
    PLAN = "plan"


class RequestState(StrEnum):
    """OPEN waits for an answer; APPROVED holds from its beginning to its end, which EXPIRED is past."""

    OPEN = "open"
    APPROVED = "approved"
    DECLINED = "declined"
    WITHDRAWN = "withdrawn"
    REVOKED = "revoked"
    EXPIRED = "expired"


MOVES: dict[RequestState, frozenset[RequestState]] = {
    RequestState.OPEN: frozenset(RequestState) - {RequestState.OPEN, RequestState.REVOKED},
    RequestState.APPROVED: frozenset({RequestState.REVOKED, RequestState.EXPIRED}),
}
"""What may become of a request; of a state that is not named, nothing."""


@dataclass(frozen=True, slots=True)
class PlanTerms:
    """A minute plan as it was offered: a new version of the policy changes neither its price nor what it adds.

    price_micros: for each `period`, month or cycle, of the account.
    """

    name: str
    price_micros: int
    currency: str
    period: Period


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for. policy, rule: the limit by its key, as in `Raise`. limit, more: as there, one of them 0.

    until_ms: how long it is wanted, None: without end. why, by: for people, never empty. key: of who asks; one that was
    used before is not asked again. approved_from_ms: added by itself, from then on; None: somebody is to answer.
    """

    account_id: str
    kind: RequestKind
    policy: str
    rule: str
    clause: Clause
    why: str
    by: str
    at_ms: int
    limit: int = 0
    more: int = 0
    until_ms: int | None = None
    plan: PlanTerms | None = None
    key: str | None = None
    approved_from_ms: int | None = None

    def __post_init__(self) -> None:
        for what, words in (("a reason: say why", self.why), ("a name: say who asks", self.by)):
            if not words.strip():
                raise ValueError(f"a request needs {what}")
            if len(words) > WORDS_MAX:
                raise ValueError(f"a request has at most {WORDS_MAX} characters of words")
        if (self.kind is RequestKind.PLAN) != (self.plan is not None) or bool(self.limit) == bool(self.more):
            raise ValueError("a request is for a higher limit, or for a plan that adds to one")


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it stands. from_ms, until_ms: for which time it holds, once approved. changed_ms: of its state."""

    id: int
    asked: Asked
    state: RequestState
    changed_ms: int
    from_ms: int | None = None
    until_ms: int | None = None

    @property
    def raises(self) -> Raise | None:
        """What it does to the limit; None where it never was approved, or was revoked before it began."""
        if self.from_ms is None or (self.until_ms is not None and self.until_ms <= self.from_ms):
            return None
        asked = self.asked
        return Raise(
            self.id,
            asked.policy,
            asked.rule,
            self.from_ms,
            self.until_ms,
            asked.clause.id,
            asked.limit,
            asked.more,
        )


@dataclass(frozen=True, slots=True)
class RequestEntry:
    """Something that was done about a request: by whom, when (UTC ms), and what was said."""

    at_ms: int
    what: str
    by: str
    note: str


@dataclass(frozen=True, slots=True)
class Ruling:
    """What becomes of a request. from_ms, until_ms: as in `Request`, for APPROVED; until_ms for REVOKED: its end."""

    state: RequestState
    by: str
    at_ms: int
    note: str = ""
    from_ms: int | None = None
    until_ms: int | None = None

    def __post_init__(self) -> None:
        if not self.by.strip():
            raise ValueError("a decision needs a name: say who decides")
        if len(self.note) > WORDS_MAX:
            raise ValueError(f"a reason has at most {WORDS_MAX} characters")
        if self.state is RequestState.APPROVED:
            if self.from_ms is None:
                raise ValueError("an approval needs a beginning")
            if self.until_ms is not None and self.until_ms <= max(self.at_ms, self.from_ms):
                raise ValueError("an approval ends after it begins; give a later end")


def limit_asked(
    account: Account, policy: Policy, rule: str, line: str | None, limit: int, now_ms: int
) -> tuple[str, Clause]:
    """The key of the limit that is to be raised to `limit`, that of one line included, and the clause behind it.

    Raises ValueError where it is no limit of the policy, a hard one, or not below `limit`.
    """
    found = policy.limit_rule(rule)
    if found is None:
        raise ValueError(f"{rule!r} is no limit of policy {policy.name!r}; {_known(policy)}")
    if policy.requests is not None and rule in policy.requests.hard:
        raise ValueError(
            f"policy {policy.name!r} lets nobody raise {rule} (clause {found.clause}); change the policy instead"
        )
    if not 1 <= limit <= LIMIT_MAX:
        raise ValueError(f"a limit of {limit} is none; write 1 to {LIMIT_MAX}")
    if line is not None and not (isinstance(found, Allowance) and found.scope is Scope.LINE):
        raise ValueError(f"{rule} is not each line's own; leave the line out")
    key = rule if line is None else f"{rule}/{line}"
    base_units = found.limit_units if isinstance(found, Allowance) else found.limit
    now = limit_at(account.raises, policy.name, key, base_units or 0, now_ms).units
    if limit <= now:
        raise ValueError(f"{key} is {now} for account {account.id!r} already; ask for more than that")
    return key, Clause(policy.name, policy.version, policy.raise_clause(rule))


def unit_of(policy: Policy, rule: str) -> str:
    """In what a limit counts: "s", "messages", or "" for a number of something."""
    found = policy.limit_rule(rule.partition("/")[0])
    if not isinstance(found, Allowance):
        return ""
    return "s" if found.measures_talk else "messages"


def _known(policy: Policy) -> str:
    keys = [f"allowances.{one.name}" for one in policy.allowances if one.limit_units is not None]
    keys += [f"caps.{name}" for name, cap in policy.caps if cap is not None]
    hard = policy.requests.hard if policy.requests is not None else frozenset()
    return f"it has {', '.join(key for key in keys if key not in hard) or 'none that can be raised'}"


def cycle_at(account: Account, policy: Policy | None, rule: str, at_ms: int) -> Window:
    """The billing cycle of the account at that moment, by which a limit is told: the allowance's month or cycle."""
    found = None if policy is None else policy.limit_rule(rule.partition("/")[0])
    by_month = isinstance(found, Allowance) and found.period is Period.MONTH
    period = Period.MONTH if by_month else Period.CYCLE
    return window_at(period, zone_named(account.zone), at_ms, account.options.cycle_day)


def validity(
    account: Account,
    policy: Policy | None,
    rule: str,
    now_ms: int,
    starts: Starts,
    until_ms: int | None,
    cycles: int | None,
) -> tuple[int, int | None]:
    """From when until when an approval holds. cycles: to the end of so many, that in which it begins counted.

    Raises ValueError.
    """
    if until_ms is not None and cycles is not None:
        raise ValueError("an approval ends at a time or after so many cycles; give one of them")
    from_ms = now_ms if starts == "at_once" else cycle_at(account, policy, rule, now_ms).end_ms
    if cycles is None:
        return from_ms, until_ms
    if not 1 <= cycles <= CYCLES_MAX:
        raise ValueError(f"{cycles} cycles are none; give 1 to {CYCLES_MAX}")
    end_ms = from_ms
    for _ in range(cycles):
        end_ms = cycle_at(account, policy, rule, end_ms).end_ms
    return from_ms, end_ms


def plan_window(account: Account, period: Period, at_ms: int) -> Window:
    """The period of a plan at that moment, for which it is charged."""
    return window_at(period, zone_named(account.zone), at_ms, account.options.cycle_day)


def plan_due(
    account: Account,
    policy: Policy,
    meter: MeterWindow,
    earlier: Sequence[MeterWindow],
    since_ms: int,
    now_ms: int,
) -> Asked | None:
    """The minute plan to which a window with overage leads that is over now (R4); None: to none.

    earlier: windows of the same meter before it, the latest first. since_ms: windows that ended up to then led to a
    plan already and do not count again.
    """
    row = _in_a_row((meter, *earlier), since_ms)
    reached = [
        (rung, plan)
        for rung in policy.ladder
        for plan in policy.plans
        if rung.measure == OVERAGE_MONTHS and rung.plan == plan.name and plan.allowance == meter.rule
        if row >= rung.threshold
    ]
    if not reached:
        return None
    rung, plan = max(reached, key=lambda each: each[0].threshold)
    return _plan_asked(account, policy, meter, rung, plan, row, now_ms)


def streak_max(policy: Policy) -> int:
    """How many windows `plan_due` looks at."""
    return max((int(rung.threshold) + 1 for rung in policy.ladder if rung.plan is not None), default=1)


def _in_a_row(meters: Sequence[MeterWindow], since_ms: int) -> int:
    count, begins_ms = 0, meters[0].window.end_ms
    for meter in meters:
        follows = meter.window.end_ms == begins_ms and meter.window.end_ms > since_ms
        if not meter.over_units or not follows:
            break
        count, begins_ms = count + 1, meter.window.start_ms
    return count


def _plan_asked(
    account: Account, policy: Policy, meter: MeterWindow, rung: Rung, plan: MinutePlan, row: int, now_ms: int
) -> Asked:
    [allowance] = (one for one in policy.allowances if one.name == plan.allowance)
    currency = policy.charges.currency if policy.charges is not None else None
    terms = PlanTerms(
        plan.name,
        parse_micros(plan.price),
        currency or account.options.currency or DEFAULT_CURRENCY,
        allowance.period,
    )
    at_once = plan.added == "by_itself"
    return Asked(
        account.id,
        RequestKind.PLAN,
        policy.name,
        f"allowances.{meter.allowance}",
        Clause(policy.name, policy.version, plan.clause),
        f"use past {meter.allowance} for {row} {allowance.period}s in a row ({rung.name})",
        "fairdial",
        now_ms,
        more=plan.units,
        plan=terms,
        key=f"plan {plan.name} {meter.allowance} {meter.window.end_ms}",
        approved_from_ms=plan_window(account, allowance.period, now_ms).end_ms if at_once else None,
    )
