"""How many decisions a second one core makes, and how many numbers it classifies: no switch, no store.

A policy of more than forty rules, a rate card of 40,000 prefixes, and dials of all sorts: included, past an allowance,
on credit, refused by the class, refused by an allowance. The target stands beside the figure.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import resources

import phonenumbers

from benchmarks.measure import Outcome, Sheet, parser, program, rates_per_s
from fairdial.policy.account import (
    Account,
    Credit,
    Dial,
    Encrypted,
    Identity,
    Kind,
    Line,
    Options,
    Snapshot,
)
from fairdial.policy.cards import COLUMNS, RateCard
from fairdial.policy.decide import decide, meters_at
from fairdial.policy.document import Policy, parse_policy
from fairdial.policy.numbers import Habit, Number, Numbering
from fairdial.policy.outcomes import Reason
from fairdial.policy.prefixes import PrefixTable
from fairdial.policy.sizing import GrantRules

TARGET_PER_S = 20_000
AT_MS = 1_795_262_400_000
"""2026-11-21 12:00:00 UTC."""
CARD_PREFIXES = 40_000
PREFIXES = resources.files("fairdial.policy").joinpath("data/prefixes.csv").read_text(encoding="utf-8")
KINDS = ("outbound", "inbound", "internal", "callback", "message")

HEAD = """
name = "bench"
version = "1"
title = "A policy of many rules"
kinds = { allow = ["outbound", "inbound", "internal", "voicemail", "callback", "message"], clause = "B1" }
classes = { allow = ["geographic", "mobile", "geographic_or_mobile", "toll_free"], clause = "B2" }
countries = { allow = "subscription", clause = "B3" }
uncovered = { pay = "credit", classes = ["geographic", "mobile"], clause = "B4" }
longest_call = { clause = "B5", seconds = { outbound = 14400, inbound = 14400, internal = 7200, callback = 3600 } }
charges = { card = "bench", currency = "EUR", overage_per_min = "0.04", increment = "60/60", clause = "B6" }
identity = { caller_number = "own", clause = "B7" }
encryption = { signalling = "required", media = "required", otherwise = "flag", clause = "B8" }
standing = { clause = "B9" }
[caps]
simultaneous_calls = { limit = 10, clause = "B10" }
simultaneous_inbound = { limit = 4, clause = "B11" }
lines = { limit = 100, clause = "B12" }
attempts_per_s = { limit = 5, clause = "B13" }
"""
ALLOWANCE = """
[[allowances]]
name = "{name}"
{limit}
period = "{period}"
scope = "{scope}"
counts = ["{kind}"]
used_up = "{used_up}"
clause = "B14"
meter = "{meter}"
"""
DETECTOR = """
[[detectors]]
name = "watch-{number}"
measure = "distinct_callees"
threshold = {number}
window = "day"
step = "notice"
clause = "B15"
"""


def policy_text() -> str:
    """Thirteen rules that stand once, twelve allowances and twenty detectors.

    A call out counts in four allowances: the account's month, past which it is charged, and its cycle, its line's day
    and hour, which refuse. Other kinds have two.
    """
    every = (("month", "account", "overage"), ("day", "line", "refuse"))
    more = (("cycle", "account", "refuse"), ("hour", "line", "refuse"))
    allowances = [
        ALLOWANCE.format(
            name=f"{kind}-{period}",
            limit="limit = 30000" if kind == "message" else "limit_s = 144000",
            period=period,
            scope=scope,
            kind=kind,
            used_up="refuse" if kind == "message" else used_up,
            meter="messages" if kind == "message" else "voice",
        )
        for kind in KINDS
        for period, scope, used_up in (every + more if kind == "outbound" else every)
    ]
    return "".join((HEAD, *allowances, *(DETECTOR.format(number=number) for number in range(1, 21))))


def rules_in(policy: Policy) -> int:
    """How many rules a policy has, as a file counts them: each table, cap, allowance and detector is one."""
    tables = ("kinds", "classes", "countries", "uncovered", "longest_call", "charges", "identity")
    single = sum(getattr(policy, table) is not None for table in (*tables, "encryption", "standing"))
    caps = sum(cap is not None for _, cap in policy.caps)
    return single + caps + len(policy.allowances) + len(policy.detectors)


def card_text() -> str:
    """Prefixes of five and six digits below +33, one for the country, each with its price."""
    rows = [",".join(COLUMNS), "+33,France,0.02,0.05,60/60,,2026-01-01"]
    rows += [
        f"+33{number:0{5 + number % 2}},area {number},0.0{1 + number % 9},0.05,60/60,,2026-01-01"
        for number in range(CARD_PREFIXES - 1)
    ]
    return "\n".join(rows) + "\n"


@dataclass(frozen=True)
class Case:
    """A dial whose number is classified, with all that the decision sees, and the reason that must come of it."""

    dial: Dial
    number: Number
    snapshot: Snapshot
    reason: Reason


def cases(policy: Policy, numbering: Numbering) -> list[Case]:
    """One dial of each sort."""
    account = Account("acme", "bench", "Europe/London", options=Options(frozenset({"GB"})))
    return [
        _case(policy, numbering, account, "02079460123", {}, Reason.WITHIN_ALLOWANCE),
        _case(policy, numbering, account, "02079460123", {"outbound-month": 144_000}, Reason.PAST_ALLOWANCE),
        _case(policy, numbering, account, "0033142685300", {}, Reason.BY_CREDIT),
        _case(policy, numbering, account, "09098790000", {}, Reason.CLASS_NOT_COVERED),
        _case(policy, numbering, account, "07400123456", {"outbound-day": 144_000}, Reason.ALLOWANCE_USED_UP),
    ]


def _case(
    policy: Policy,
    numbering: Numbering,
    account: Account,
    dialled: str,
    used: dict[str, int],
    reason: Reason,
) -> Case:
    number = numbering.classify(dialled, Habit(region="GB"))
    encrypted = Encrypted(signalling=True, media=False)
    dial = Dial(
        "call-1",
        Kind.OUTBOUND,
        dialled,
        "alice",
        "PJSIP/alice-1",
        AT_MS,
        60,
        "+442079460001",
        "",
        encrypted,
    )
    meters = tuple(
        replace(meter, used_units=used.get(meter.rule, 3600)) for meter in meters_at(account, policy, dial)
    )
    snapshot = Snapshot(
        Line("alice", "acme"),
        account,
        meters,
        Credit("EUR", 25_000_000),
        live_calls=1,
        identity=Identity(own=True, instead=None),
    )
    return Case(dial, number, snapshot, reason)


def decisions(count: int, rounds: int) -> tuple[dict[str, list[float]], str]:
    """Decisions a second: of all sorts in turn, of each sort alone, and with the windows of its meters found first;
    and what was decided about.
    """
    policy = parse_policy(policy_text(), "bench.toml")
    card = RateCard.parse(card_text(), "bench", "EUR")
    numbering = Numbering(prefixes())
    rules, cards = GrantRules(), {card.name: card}
    all_cases = cases(policy, numbering)
    about = (
        f"{rules_in(policy)} rules, a card of {len(card):,} prefixes,"
        f" {len(all_cases[0].snapshot.meters)} meters of a call out"
    )
    for case in all_cases:
        found = decide(case.dial, case.number, case.snapshot, policy, rules, cards)
        assert found.reason is case.reason, found

    def deciding(some: list[Case], planned: bool = False) -> Callable[[], None]:
        def work() -> None:
            for _ in range(count // len(some)):
                for case in some:
                    if planned and case.snapshot.account is not None:
                        meters_at(case.snapshot.account, policy, case.dial)
                    decide(case.dial, case.number, case.snapshot, policy, rules, cards)

        return work

    count -= count % len(all_cases)
    works = {"all sorts in turn": deciding(all_cases)}
    works |= {case.reason: deciding([case]) for case in all_cases}
    works["all sorts, windows found first"] = deciding(all_cases, True)
    return rates_per_s(works, count, rounds), about


def prefixes() -> PrefixTable:
    """The shipped prefix table."""
    return PrefixTable.parse(PREFIXES)


def many_prefixes() -> PrefixTable:
    """The shipped table, and as many prefixes besides as a carrier's has."""
    rows = "".join(
        f"+33{number:0{5 + number % 2}},,FR,,bench,bench,2026-01-01\n" for number in range(CARD_PREFIXES)
    )
    return PrefixTable.parse(PREFIXES + rows)


def classified(count: int, rounds: int) -> dict[str, list[float]]:
    """Numbers classified a second: seen for the first time, and seen before; and what the library alone does, which
    knows no satellite phones, short codes or ranges that pay for being called.
    """
    habit, table = Habit(region="GB"), prefixes()
    numbers = [
        pattern.format(number)
        for number in range(count // 4)
        for pattern in ("020794{:05}", "07400{:06}", "003314268{:04}", "004930{:06}")
    ]
    Numbering(table).warm(["GB", "FR", "DE"])
    large = many_prefixes()
    unseen = iter([Numbering(table) for _ in range(rounds)])
    unseen_large = iter([Numbering(large) for _ in range(rounds)])
    seen = Numbering(table, cache_size=len(numbers))

    def classify(numbering: Numbering) -> None:
        for number in numbers:
            numbering.classify(number, habit)

    def by_library() -> None:
        for number in numbers:
            parsed = phonenumbers.parse(number, "GB")
            phonenumbers.is_valid_number(parsed)
            phonenumbers.number_type(parsed)
            phonenumbers.region_code_for_number(parsed)

    classify(seen)
    by_library()
    works = {
        "seen for the first time": lambda: classify(next(unseen)),
        f"the same, with {len(large):,} prefixes": lambda: classify(next(unseen_large)),
        "seen before": lambda: classify(seen),
        "phonenumbers alone": by_library,
    }
    return rates_per_s(works, len(numbers), rounds)


def report(
    title: str, measured: dict[str, list[float]], target_per_s: int | None = None, caption: str = ""
) -> Sheet:
    """The table of a run."""
    rows: list[Sequence[str]] = []
    for index, (name, rates) in enumerate(measured.items()):
        figures = (min(rates), statistics.median(rates), max(rates))
        target = f"{target_per_s:,}" if target_per_s and index == 0 else ""
        rows.append((name, *(f"{rate:,.0f}" for rate in figures), target))
    return Sheet(title, ("case", "least", "median", "most", "target"), rows, caption=caption)


def measure(count: int, rounds: int) -> Outcome:
    """Both, one after the other."""
    decided, about = decisions(count, rounds)
    return Outcome(
        [
            report("Decisions a second on one core, number known", decided, TARGET_PER_S, about),
            report(
                "Numbers classified a second on one core",
                classified(count, rounds),
                caption=f"the shipped table has {len(prefixes()):,} prefixes",
            ),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status."""
    options = parser(__doc__)
    options.add_argument("--count", type=int, default=20_000, help="decisions, and numbers, a round (20000)")
    options.add_argument("--rounds", type=int, default=7, help="rounds of which the median is taken (7)")

    def run(given: argparse.Namespace) -> Outcome:
        return measure(given.count, given.rounds)

    return program("decisions", options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
