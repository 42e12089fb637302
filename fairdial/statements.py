"""The statement of an account: what it used and owes in a period, call by call, and whether the ledger says the same.

What belongs to a period, so that each second, unit and micro is in exactly one of several that follow one another:
- what counts on an allowance: the period in which that part of the call begins; that is the call's answer, or the
  beginning of the window if that is later. Where periods and windows begin together, as billing cycles do, a call is
  split just where the ledger split it;
- a charge: the period in which the call ended, which is its `at_ms`;
- talk: second by second; the call itself: where it began, by its answer, or its dial where nobody saw the answer;
- a minute plan: the period in which its own begins;
- a change of credit: the period of its `at_ms`.

Each total is added up from the calls and then held against what the ledger keeps beside them: the meters, the sums of
the charges, the credit; and each charge against what the call's own terms make of what it used.
Leaves reading to the ledger, and how it is shown to `console`.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Final

from fairdial.ledger.contract import Books, Charge, Ledger, Part, PeriodOf, SettledCall, SettledPage
from fairdial.policy.account import Kind, MeterWindow
from fairdial.policy.periods import MS_PER_S, Window, cycle_named, zone_named
from fairdial.policy.rating import decimal_text
from fairdial.policy.terms import Mode, Past, bill

PAGE: Final = 250
"""Dials that are read at once."""

TRIES: Final = 5
"""How often a period is added up in which calls end meanwhile."""

DIFFERENCES_MAX: Final = 100
"""So many are told; one is enough to know that the statement is not to be sent."""

LONGEST_DAYS: Final = 400
"""Of the period of a statement."""

_DAY_MS: Final = 86_400_000
_FIRST_MS: Final = 0
_LAST_MS: Final = 7_258_118_400_000
"""2200-01-01 UTC."""


@dataclass(frozen=True, slots=True)
class Line:
    """What of a call or message belongs to the period. talk_s: seconds of its talk; began: whether that counts it."""

    call: SettledCall
    talk_s: int
    began: bool
    parts: tuple[Part, ...]
    charges: tuple[Charge, ...]


@dataclass(slots=True)
class KindSum:
    """All calls of a kind. micros: by currency."""

    calls: int = 0
    talk_s: int = 0
    micros: dict[str, int] = field(default_factory=lambda: defaultdict(int))


@dataclass(slots=True)
class ChargeSum:
    """All charges of a mode in a currency. Units are seconds of talk, or messages."""

    charges: int = 0
    seconds: int = 0
    messages: int = 0
    micros: int = 0


@dataclass(slots=True)
class WindowSum:
    """What counted on an allowance in a window: all of it, and what of that belongs to the period.

    messages: the units are messages, not seconds.
    """

    used_units: int = 0
    over_units: int = 0
    here_used_units: int = 0
    here_over_units: int = 0
    messages: bool = False


@dataclass(slots=True)
class PlanSum:
    """Calls that one version of a policy let through; first_ms, last_ms: when those were dialled."""

    first_ms: int
    last_ms: int
    calls: int = 0


@dataclass(frozen=True, slots=True)
class Difference:
    """Where the statement and the ledger disagree. what: the call, or the sum."""

    what: str
    statement: str
    ledger: str


_WindowKey = tuple[str, Window]


class Sums:
    """The totals of a period, added up call by call."""

    def __init__(self, period: Window) -> None:
        self.period = period
        self.lines = 0
        self.kinds: dict[Kind, KindSum] = defaultdict(KindSum)
        self.charges: dict[tuple[Mode, str], ChargeSum] = defaultdict(ChargeSum)
        self.windows: dict[_WindowKey, WindowSum] = defaultdict(WindowSum)
        self.plans: dict[tuple[str, str], PlanSum] = {}
        self.differences: list[Difference] = []

    def add_all(self, calls: Iterable[SettledCall]) -> None:
        """Add calls, and check what they cost."""
        for call in calls:
            self.add(call)
            self.check(call)

    def add(self, call: SettledCall) -> None:
        """Add a call that touches the period, or a window that does."""
        for part in call.parts:
            self._count(call, part)
        line = line_of(call, self.period)
        if line is None:
            return
        self.lines += 1
        kind = self.kinds[call.grant.kind]
        kind.calls += line.began
        kind.talk_s += line.talk_s
        for charge in line.charges:
            self._charge(call, charge)
            kind.micros[charge.currency] += charge.amount_micros
        if line.began:
            self._decided(call)

    def check(self, call: SettledCall) -> None:
        """Hold what a call costs against its own terms, and against what credit paid for it."""
        if not any(_within(self.period, at_ms) for at_ms in _charged_at_ms(call)):
            return
        what = f"call {call.grant.call_id}"
        try:
            owed = expected(call)
        except ValueError as error:
            self._differ(what, str(error), _charges_text(call.charges))
            return
        if owed != call.charges:
            self._differ(what, _charges_text(owed), _charges_text(call.charges))
        by_credit = sum(charge.amount_micros for charge in call.charges if charge.mode is Mode.CREDIT)
        self._compare(f"{what}, paid from credit", decimal_text(by_credit), decimal_text(call.paid_micros))

    def close(self, books: Books) -> None:
        """Hold the totals against the books of the same period."""
        known = {(meter.allowance, meter.window): meter for meter in books.meters}
        for key in sorted(known.keys() | self.windows.keys()):
            found, meter = self.windows.get(key, WindowSum()), known.get(key)
            self._compare(
                f"allowance {key[0]} from {key[1].start_ms} to {key[1].end_ms} (UTC milliseconds)",
                f"used {found.used_units}, over {found.over_units}",
                "no meter" if meter is None else f"used {meter.used_units}, over {meter.over_units}",
            )
        for mode, currency in sorted(self.charges.keys() | books.charges.keys()):
            summed = self.charges.get((mode, currency), ChargeSum())
            ours = _sum_text(summed.charges, summed.seconds + summed.messages, summed.micros)
            theirs = _sum_text(*books.charges.get((mode, currency), (0, 0, 0)))
            self._compare(f"charges by {mode} in {currency}", ours, theirs)
        self._close_credit(books)

    def _close_credit(self, books: Books) -> None:
        by_credit = {key[1]: each.micros for key, each in self.charges.items() if key[0] is Mode.CREDIT}
        moves = books.credit
        if moves is None:
            if any(by_credit.values()):
                self._differ("credit", "calls were paid from it", "no credit")
            return
        spent_micros = sum(by_credit.values())
        self._compare("credit taken for calls", decimal_text(spent_micros), decimal_text(-moves.calls_micros))
        self._compare(
            "balance of the credit now",
            decimal_text(moves.closing_micros + moves.later_micros),
            decimal_text(moves.balance_micros),
        )

    def _count(self, call: SettledCall, part: Part) -> None:
        window = part.window
        if window.end_ms <= self.period.start_ms or window.start_ms >= self.period.end_ms:
            return
        found = self.windows[part.allowance, window]
        found.messages = call.grant.kind is Kind.MESSAGE
        found.used_units += part.used_units
        found.over_units += part.over_units
        if _within(self.period, counts_ms(call, part)):
            found.here_used_units += part.used_units
            found.here_over_units += part.over_units

    def _charge(self, call: SettledCall, charge: Charge) -> None:
        found = self.charges[charge.mode, charge.currency]
        found.charges += 1
        found.micros += charge.amount_micros
        if call.grant.kind is Kind.MESSAGE:
            found.messages += charge.charged_units
        else:
            found.seconds += charge.charged_units

    def _decided(self, call: SettledCall) -> None:
        at_ms = call.grant.authorised_ms
        plan = self.plans.setdefault((call.clause.policy, call.clause.version), PlanSum(at_ms, at_ms))
        plan.first_ms, plan.last_ms = min(plan.first_ms, at_ms), max(plan.last_ms, at_ms)
        plan.calls += 1

    def _compare(self, what: str, ours: str, theirs: str) -> None:
        if ours != theirs:
            self._differ(what, ours, theirs)

    def _differ(self, what: str, ours: str, theirs: str) -> None:
        if len(self.differences) < DIFFERENCES_MAX:
            self.differences.append(Difference(what, ours, theirs))


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement without its lines. settled False: calls ended while it was added up, each time that was tried, so
    that nothing is known of whether it adds up.
    """

    sums: Sums
    books: Books
    settled: bool = True

    @property
    def adds_up(self) -> bool | None:
        """Whether the ledger says the same; None: see `settled`. A wrong charge is known to be one all the same."""
        if self.sums.differences:
            return False
        return True if self.settled else None

    @property
    def charges(self) -> Mapping[tuple[Mode, str], ChargeSum]:
        """All charges by mode and currency: those of calls, and what minute plans cost."""
        found = dict(self.sums.charges)
        for plan in self.books.plans:
            summed = found.setdefault((plan.mode, plan.currency), ChargeSum())
            summed.charges += 1
            summed.micros += plan.amount_micros
        return found

    @property
    def meters(self) -> Iterator[tuple[MeterWindow, WindowSum]]:
        """Windows in which something was used, reserved or charged, with what the calls make of it."""
        for meter in self.books.meters:
            found = self.sums.windows.get((meter.allowance, meter.window), WindowSum())
            if meter.used_units or meter.reserved_units or meter.over_units or found.used_units:
                yield meter, found


def period_of(
    now_ms: int, name: str | None = None, from_ms: int | None = None, until_ms: int | None = None
) -> PeriodOf:
    """The period asked for: a billing cycle of the account by its name (`cycle_named`), the running one if nothing is
    given, or what lies between two instants (UTC milliseconds), the second being now if left out.

    Raises ValueError with the cure.
    """
    if name is not None and (from_ms is not None or until_ms is not None):
        raise ValueError("name a period, or its beginning and end, not both")
    if from_ms is None and until_ms is not None:
        raise ValueError("the period has an end and no beginning; give `from` too")
    if from_ms is None:
        return lambda account: cycle_named(
            name or "current", zone_named(account.zone), now_ms, account.options.cycle_day
        )
    end_ms = now_ms if until_ms is None else until_ms
    if not _FIRST_MS <= from_ms < end_ms <= _LAST_MS or end_ms - from_ms > LONGEST_DAYS * _DAY_MS:
        raise ValueError(
            f"the period from {from_ms} to {end_ms} (UTC milliseconds) is none: it ends after it begins, has at most"
            f" {LONGEST_DAYS} days, and lies between 1970 and 2200"
        )
    period = Window(from_ms, end_ms)
    return lambda _account: period


async def add_up(ledger: Ledger, account_id: str, asked: PeriodOf) -> Statement:
    """The statement of an account. Raises NotFound, LedgerUnavailable, and what `asked` raises.

    Its calls are read page by page; where one ends meanwhile, which shows in the books, all is done again.
    """
    books = await ledger.books(account_id, asked)
    period = books.period
    tries = 0
    while True:
        tries += 1
        sums = Sums(period)
        async for page in _pages(ledger, account_id, _all_of(books, period)):
            # Some milliseconds for a page: not on the loop that answers calls.
            await asyncio.to_thread(sums.add_all, page.calls)
        before, books = books, await ledger.books(account_id, lambda _account: period)
        if _settled(before) == _settled(books):
            sums.close(books)
            return Statement(sums, books)
        if tries == TRIES:
            return Statement(sums, books, settled=False)


def _settled(books: Books) -> tuple[object, ...]:
    """What changes in the books of a period when a call of it ends, and only then."""
    meters = [(meter.allowance, meter.window, meter.used_units, meter.over_units) for meter in _used(books)]
    moves = books.credit
    credit = None if moves is None else (moves.opening_micros, moves.closing_micros)
    return meters, books.charges, credit, books.plans


def _used(books: Books) -> Iterator[MeterWindow]:
    return (meter for meter in books.meters if meter.used_units or meter.over_units)


async def _pages(ledger: Ledger, account_id: str, period: Window) -> AsyncIterator[SettledPage]:
    after: tuple[int, str] | None = None
    while True:
        page = await ledger.settled_calls(account_id, period, after, PAGE)
        yield page
        after = page.after
        if after is None:
            return


def _all_of(books: Books, period: Window) -> Window:
    """The period with all of the windows that it touches: only as a whole can they be held against their meters."""
    windows = [period, *(meter.window for meter in _used(books))]
    return Window(min(each.start_ms for each in windows), max(each.end_ms for each in windows))


def line_of(call: SettledCall, period: Window) -> Line | None:
    """What of a call belongs to the period; None: nothing, or nobody answered it."""
    parts = tuple(part for part in call.parts if _within(period, counts_ms(call, part)))
    charges = tuple(charge for charge in call.charges if _within(period, charge.at_ms))
    talk_s = _talk_until_s(call, period.end_ms) - _talk_until_s(call, period.start_ms)
    began = _happened(call) and _within(period, _began_ms(call))
    if not (parts or charges or talk_s or began):
        return None
    return Line(call, talk_s, began, parts, charges)


def counts_ms(call: SettledCall, part: Part) -> int:
    """When a part of a call begins, within the window that it was counted in."""
    return min(max(_began_ms(call), part.window.start_ms), part.window.end_ms - 1)


def expected(call: SettledCall) -> tuple[Charge, ...]:
    """The charges that a call's own terms make of what it used, by mode. Raises ValueError where it cannot have."""
    grant = call.grant
    used = 1 if grant.kind is Kind.MESSAGE else grant.used_s or 0
    past = past_of(call.parts)
    bills = ((terms, *bill(terms, used, past)) for terms in sorted(grant.terms, key=attrgetter("mode")))
    return tuple(
        Charge(
            grant.call_id,
            terms.mode,
            _ended_ms(call),
            charged_units,
            amount_micros,
            terms.currency,
            terms.rate,
            terms.clause,
        )
        for terms, charged_units, amount_micros in bills
        if charged_units
    )


def past_of(parts: Sequence[Part]) -> Past:
    """What of a call lies past its allowances, out of what it counted on them, by allowance, then by window."""
    stretches: list[tuple[int, int]] = []
    weight = 1
    for _, same in groupby((part for part in parts if not part.room), key=attrgetter("allowance")):
        begin_s = 0
        for part in same:
            included_s, over_s = part.used_units // part.weight, part.over_units // part.weight
            if over_s:
                last = ((begin_s + included_s, begin_s + included_s + over_s),)
                stretches += last if part.past is None else part.past
                weight = max(weight, part.weight)
            begin_s += included_s + over_s
    return Past(tuple(stretches), weight)


def _charges_text(charges: Sequence[Charge]) -> str:
    told = (
        f"{each.mode} {each.charged_units} units {decimal_text(each.amount_micros)} {each.currency} at {each.at_ms}"
        f" by {each.rate}, {each.clause.policy} {each.clause.version} {each.clause.id}"
        for each in charges
    )
    return "; ".join(told) or "no charge"


def _sum_text(charges: int, units: int, micros: int) -> str:
    return f"{charges} charges, {units} units, {decimal_text(micros)}"


def _within(period: Window, at_ms: int) -> bool:
    return period.start_ms <= at_ms < period.end_ms


def _charged_at_ms(call: SettledCall) -> Iterator[int]:
    """When it is to be charged, and when it was."""
    yield _ended_ms(call)
    yield from (charge.at_ms for charge in call.charges)


def _happened(call: SettledCall) -> bool:
    return call.grant.kind is Kind.MESSAGE or bool(call.grant.used_s)


def _began_ms(call: SettledCall) -> int:
    grant = call.grant
    return grant.authorised_ms if grant.answered_ms is None else grant.answered_ms


def _ended_ms(call: SettledCall) -> int:
    grant = call.grant
    return grant.authorised_ms if grant.ended_ms is None else grant.ended_ms


def _talk_until_s(call: SettledCall, until_ms: int) -> int:
    """Seconds of its talk before that, to the nearest one, as calls are split over windows."""
    return min(max(0, (until_ms - _began_ms(call) + MS_PER_S // 2) // MS_PER_S), call.grant.used_s or 0)
