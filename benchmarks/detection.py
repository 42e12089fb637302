"""What the detectors of the shipped policies find: each kind of abuse, by its how manieth call, and ordinary customers.

Traffic is made up from a seed (`benchmarks/traffic.py`). Status 1 where a kind of abuse that a policy has a detector
for is not found within CALLS_MAX calls in half of the runs, or where a policy's detectors take more than one in 500
ordinary customers for abusers in a month.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import Final

from benchmarks.measure import Outcome, Sheet, parser, program
from benchmarks.traffic import (
    ABUSER,
    ABUSES,
    BEGIN_MS,
    HOUR_MS,
    SMALL_OFFICE,
    Abuse,
    Call,
    Customer,
    events,
    number_of,
    ordinary,
)
from fairdial.policy.document import Detector, Policy, parse_policy
from fairdial.policy.history import MESSAGES, Attempt, End
from fairdial.policy.measures import COHORT, PEERS
from fairdial.policy.patterns import AccountPatterns, Hit
from fairdial.policy.peers import Use, above_cohort, above_estimate, cohort_of
from fairdial.policy.periods import zone_named

FALSE_ALARMS: Final = 500
"""One in so many ordinary customers in a month is too many."""
CALLS_MAX: Final = 400
RUNS: Final = 20
ZONE: Final = zone_named("Europe/London")
POLICIES: Final = Path(__file__).parents[1] / "policies"

_DIALLERS: Final = frozenset({"sequential", "shuffled", "robo", "predictive", "telemarketing", "short_calls"})
_FLAT: Final = _DIALLERS | {"shared", "income", "stolen"}
EXPECTED: Final[Mapping[str, frozenset[str]]] = {
    "kryptotel": _FLAT,
    "voxdirect": _FLAT | {"blasting"},
    "spokephone": frozenset({"robo", "predictive", "forwarded", "call_in", "sequential", "blasting"}),
    "acceptable-use": frozenset({"spam", "blasting"}),
}
"""Kinds of abuse that a policy's clauses name."""


def shipped() -> list[Policy]:
    """The shipped policies that have detectors."""
    read = [
        parse_policy(file.read_text(encoding="utf-8"), str(file)) for file in sorted(POLICIES.glob("*.toml"))
    ]
    return [policy for policy in read if policy.detectors]


def first_hits(policy: Policy, abuse: Abuse, seed: int, most: int = CALLS_MAX) -> dict[str, int]:
    """By detector: at the how manieth call of the abuse it first found something.

    A stolen account is an ordinary customer's for two weeks before.
    """
    patterns = AccountPatterns(ABUSER, policy, ZONE)
    begin_ms = BEGIN_MS + 10 * HOUR_MS
    if abuse.__name__ == "stolen":
        begin_ms = BEGIN_MS + 15 * 24 * HOUR_MS
        for event in events(victim(seed)):
            patterns.see(event)
    hits: dict[str, int] = {}
    for event in events(islice(abuse(Random(seed), begin_ms), most)):
        for hit in patterns.see(event):
            hits.setdefault(hit.detector.name, number_of(event))
    return hits


def victim(seed: int) -> Iterator[Call]:
    """Two weeks of an ordinary customer."""
    return Customer(ABUSER, SMALL_OFFICE, Random(seed)).calls(14)


def false_alarms(
    policies: Sequence[Policy], seed: int, accounts: int, days: int
) -> tuple[dict[str, dict[str, set[str]]], int, int]:
    """By policy and detector: the ordinary customers that were taken for abusers; how many calls they made, and how
    many messages they sent.
    """
    alarms: dict[str, dict[str, set[str]]] = {policy.name: defaultdict(set) for policy in policies}
    talked_s: dict[str, float] = {}
    calls = messages = 0
    for customer in ordinary(seed, accounts):
        watched = [AccountPatterns(customer.account_id, policy, ZONE) for policy in policies]
        used_s = 0
        for event in events(customer.traffic(days)):
            if isinstance(event, Attempt):
                messages += event.kind in MESSAGES
                calls += event.kind not in MESSAGES
            used_s += event.used_s if isinstance(event, End) else 0
            for patterns in watched:
                for hit in patterns.see(event):
                    alarms[patterns.policy.name][hit.detector.name].add(customer.account_id)
        # What is compared is the use of one user: of a line, in the mean.
        talked_s[customer.account_id] = used_s / len(customer.lines)
    uses = [Use(account, used_s) for account, used_s in talked_s.items()]
    for policy in policies:
        for detector in policy.detectors:
            if detector.measure in PEERS:
                for hit in compared(policy, detector, uses):
                    alarms[policy.name][detector.name].add(hit.account_id)
    return alarms, calls, messages


def compared(policy: Policy, detector: Detector, uses: Sequence[Use]) -> tuple[Hit, ...]:
    """What a detector finds that holds accounts against each other."""
    if detector.measure != COHORT:
        return above_estimate(policy, detector, uses, BEGIN_MS)
    cohort = cohort_of(detector, [use.units for use in uses])
    return () if cohort is None else above_cohort(policy, detector, cohort, uses, BEGIN_MS)


def found(policies: Sequence[Policy], seed: int, runs: int) -> dict[str, dict[str, dict[str, list[int]]]]:
    """By policy, abuse and detector: at which call it was found, of each run in which it was."""
    result: dict[str, dict[str, dict[str, list[int]]]] = {}
    for policy in policies:
        by_abuse = result[policy.name] = {}
        for name, abuse in ABUSES.items():
            by_detector = by_abuse[name] = defaultdict(list)
            for run in range(runs):
                for detector, call in first_hits(policy, abuse, seed + run).items():
                    by_detector[detector].append(call)
    return result


def measure(seed: int, runs: int, accounts: int, days: int) -> Outcome:
    """Abuse and ordinary customers, under all shipped policies."""
    policies, outcome = shipped(), Outcome()
    hits = found(policies, seed, runs)
    rows: list[Sequence[str]] = []
    for name, by_abuse in hits.items():
        for abuse, by_detector in by_abuse.items():
            for detector, at in sorted(by_detector.items(), key=lambda item: statistics.median(item[1])):
                share = f"{len(at)} of {runs}"
                rows.append((name, abuse, detector, share, f"{statistics.median(at):g} ({max(at)})"))
            if abuse in EXPECTED.get(name, ()) and 2 * max(map(len, by_detector.values()), default=0) < runs:
                outcome.wrong.append(f"{name} does not find {abuse}")
    title = f"Abuse, by the call at which it is found: median (latest) of {runs} runs, seed {seed}"
    outcome.sheets.append(Sheet(title, ("policy", "abuse", "detector", "found", "at call"), rows, words=3))
    alarms, calls, messages = false_alarms(policies, seed, accounts, days)
    rows = []
    for policy in policies:
        by_name = alarms[policy.name]
        rows += [(policy.name, rule.name, str(len(by_name[rule.name]))) for rule in policy.detectors]
        taken = set().union(*by_name.values())
        rows.append((policy.name, "any", str(len(taken))))
        if len(taken) * FALSE_ALARMS >= accounts:
            outcome.wrong.append(
                f"{policy.name} takes {len(taken)} of {accounts} ordinary customers for abusers"
            )
    title = (
        f"Ordinary customers taken for abusers: {accounts} for {days} days,"
        f" {calls:,} calls, {messages:,} messages, seed {seed}"
    )
    outcome.sheets.append(Sheet(title, ("policy", "detector", "customers"), rows, words=2))
    return outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status."""
    options = parser(__doc__)
    options.add_argument("--seed", type=int, default=1, help="of the traffic (1)")
    options.add_argument("--accounts", type=int, default=1000, help="ordinary customers (1000)")
    options.add_argument("--days", type=int, default=30, help="of theirs (30)")
    options.add_argument("--runs", type=int, default=RUNS, help=f"of each kind of abuse ({RUNS})")

    def run(given: argparse.Namespace) -> Outcome:
        return measure(given.seed, given.runs, given.accounts, given.days)

    return program("detection", options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
