"""The shipped policies find each kind of abuse that their clauses name, within so many calls, and leave others alone.

Traffic is made up (`benchmarks/traffic.py`). The figures for a thousand customers and a month stand in
docs/detection.md, with the command that makes them.
"""

from functools import cache

import pytest

from benchmarks.detection import ZONE, compared, false_alarms, first_hits, shipped
from benchmarks.traffic import ABUSER, ABUSES, BEGIN_MS
from fairdial.policy.history import Noted
from fairdial.policy.ladder import first_step, rung_for
from fairdial.policy.patterns import AccountPatterns
from fairdial.policy.peers import Use

POLICIES = {policy.name: policy for policy in shipped()}
SEED = 7


@pytest.mark.parametrize(
    ("policy", "abuse", "detector", "calls"),
    [
        ("kryptotel", "telemarketing", "many-numbers", 30),
        ("kryptotel", "telemarketing", "telemarketing", 80),
        ("kryptotel", "predictive", "predictive-dialling", 80),
        ("kryptotel", "shared", "sharing", 20),
        ("kryptotel", "sequential", "sequential-dialling", 10),
        ("kryptotel", "shuffled", "number-blocks", 20),
        ("kryptotel", "robo", "automatic-dialling", 30),
        ("kryptotel", "income", "income", 20),
        ("kryptotel", "stolen", "new-countries", 30),
        ("kryptotel", "short_calls", "short-calls", 45),
        ("voxdirect", "telemarketing", "many-numbers", 30),
        ("voxdirect", "predictive", "predictive-dialling", 80),
        ("voxdirect", "sequential", "sequential-dialling", 10),
        ("voxdirect", "shuffled", "number-blocks", 20),
        ("voxdirect", "robo", "automatic-dialling", 30),
        ("voxdirect", "income", "income", 20),
        ("voxdirect", "stolen", "new-countries", 30),
        ("voxdirect", "short_calls", "short-calls", 45),
        ("spokephone", "robo", "robo-dialling", 30),
        ("spokephone", "sequential", "sequential-dialling", 10),
        ("spokephone", "predictive", "predictive-dialling", 80),
        ("spokephone", "forwarded", "trunking", 6),
        ("spokephone", "call_in", "call-in-line", 6),
        ("acceptable-use", "spam", "message-rate", 60),
        ("acceptable-use", "blasting", "same-text", 50),
        ("spokephone", "blasting", "blasting", 50),
        ("voxdirect", "blasting", "same-text", 50),
    ],
)
@pytest.mark.clause("K7", "found")
@pytest.mark.clause("K8", "found")
@pytest.mark.clause("K9", "found")
@pytest.mark.clause("K10", "found")
@pytest.mark.clause("V7", "found")
@pytest.mark.clause("S6", "found")
@pytest.mark.clause("S7", "found")
@pytest.mark.clause("S8", "found")
@pytest.mark.clause("A2", "found")
def test_abuse_is_found_within_so_many_calls(policy: str, abuse: str, detector: str, calls: int) -> None:
    for seed in range(SEED, SEED + 3):
        hits = first_hits(POLICIES[policy], ABUSES[abuse], seed, 2 * calls)
        assert hits.get(detector, 0) in range(1, calls + 1), hits


@cache
def alarms() -> dict[str, dict[str, set[str]]]:
    """Of two hundred ordinary customers in ten days."""
    return false_alarms(list(POLICIES.values()), SEED, 200, 10)[0]


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.clause("K7", "allowed")
@pytest.mark.clause("K8", "allowed")
@pytest.mark.clause("K9", "allowed")
@pytest.mark.clause("K10", "allowed")
@pytest.mark.clause("V7", "allowed")
@pytest.mark.clause("S2", "allowed")
@pytest.mark.clause("S6", "allowed")
@pytest.mark.clause("S7", "allowed")
@pytest.mark.clause("S8", "allowed")
@pytest.mark.clause("A2", "allowed")
def test_ordinary_customers_are_left_alone(policy: str) -> None:
    assert {detector: found for detector, found in alarms()[policy].items() if found} == {}


def networks(policy: str, count: int) -> list[str]:
    """The detectors that find a line on so many networks within an hour."""
    patterns = AccountPatterns(ABUSER, POLICIES[policy], ZONE)
    return [
        hit.detector.name
        for n in range(count)
        for hit in patterns.see(
            Noted("networks_of_a_line", BEGIN_MS + n * 60_000, ABUSER, f"192.0.{n}.0/24", of="abuser-0")
        )
    ]


@pytest.mark.clause("A6", "found")
@pytest.mark.clause("A6", "allowed")
@pytest.mark.clause("V4", "found")
@pytest.mark.clause("V4", "allowed")
@pytest.mark.parametrize(
    ("policy", "detector"),
    [("acceptable-use", "shared-credentials"), ("voxdirect", "sharing"), ("kryptotel", "shared-credentials")],
)
def test_a_line_on_several_networks_is_found_and_one_that_moves_is_not(policy: str, detector: str) -> None:
    assert networks(policy, 2) == [], "from the office home"
    assert networks(policy, 3) == [detector]


def accounts(of_one: float) -> list[Use]:
    return [Use(f"a{n}", 1000 + 7 * n, 1000) for n in range(40)] + [Use("one", of_one, 4000)]


@pytest.mark.clause("S2", "found")
def test_use_far_above_the_average_and_the_estimate_is_found() -> None:
    policy = POLICIES["spokephone"]

    def found(of_one: float) -> dict[str, list[str]]:
        return {
            detector.name: [hit.account_id for hit in compared(policy, detector, accounts(of_one))]
            for detector in policy.detectors
            if detector.allowance
        }

    assert found(7000) == {"above-average": [], "above-estimate": []}
    assert found(10_000) == {"above-average": ["one"], "above-estimate": ["one"]}


@pytest.mark.clause("S3", "found")
@pytest.mark.clause("S4", "refused")
def test_first_the_customer_is_asked_and_then_the_service_is_limited() -> None:
    policy = POLICIES["spokephone"]
    above = next(detector for detector in policy.detectors if detector.name == "above-average")
    first = first_step(above, BEGIN_MS)
    assert (first.step, first.clause_id) == ("moderate", "S2")
    assert first.deadline_ms == BEGIN_MS + 14 * 86_400_000
    steps = [rung_for(policy.ladder, [BEGIN_MS] * count, above.restricts, BEGIN_MS) for count in (1, 2, 3)]
    assert [(taken.step, taken.clause_id) for taken in steps if taken] == [
        ("moderate", "S3"),
        ("agree_to_pay", "S3"),
        ("restrict", "S4"),
    ]
