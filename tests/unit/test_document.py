"""Policy files: what is read, and what an operator is told of a faulty one."""

import pytest

from fairdial.policy.account import Kind
from fairdial.policy.document import PolicyError, parse_policy
from fairdial.policy.periods import Period
from fairdial.policy.prefixes import NumberClass
from tests.samples import PLAN


def faults(text: str) -> tuple[str, ...]:
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, "plan.toml")
    assert all(line.startswith("plan.toml: ") for line in str(caught.value).splitlines())
    return caught.value.faults


def test_a_policy_is_read() -> None:
    policy = parse_policy(PLAN, "plan.toml")
    assert policy.classes.allow == {NumberClass.GEOGRAPHIC, NumberClass.MOBILE}
    assert policy.countries.allow == frozenset({"GB", "DE"})
    assert (policy.longest_call_s(Kind.OUTBOUND), policy.longest_call_s(Kind.INBOUND)) == (14_400, None)
    (voice,) = policy.meters_for(Kind.OUTBOUND)
    assert (voice.name, voice.limit_s, voice.period) == ("voice", 6000, Period.MONTH)
    assert policy.meters_for(Kind.INTERNAL) == ()


def test_any_country_may_be_covered() -> None:
    assert parse_policy(PLAN.replace('["GB", "DE"]', '"any"'), "plan.toml").countries.allow == "any"


def test_a_date_may_stand_as_version() -> None:
    assert parse_policy(PLAN.replace('version = "1"', "version = 2026-11-01"), "p").version == "2026-11-01"


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('clause = "P1"', "", "classes.clause: missing; write it"),
        ('clause = "P1"', 'clause = "P1"\nclauze = 1', "classes.clauze: no such key; remove it"),
        ('clause = "P1"', 'clause = ""', "classes.clause: String should have at least 1 character"),
        ('"geographic"', '"landline"', "classes.allow.0: Input should be 'geographic', 'mobile'"),
        ('["GB", "DE"]', '["gb"]', "countries.allow.0: not an ISO 3166-1 alpha-2 code"),
        ('["GB", "DE"]', '["UK"]', "countries.allow.0: not an ISO 3166-1 alpha-2 code"),
        ('["GB", "DE"]', '"all"', "countries.allow: Input should be 'any' (found 'all')"),
        (
            "outbound = 14400",
            "outbound = true",
            "longest_call.seconds.outbound: Input should be a valid integer",
        ),
        (
            "outbound = 14400",
            'outbound = "1h"',
            "longest_call.seconds.outbound: Input should be a valid integer",
        ),
        ("outbound = 14400", "outbound = 0", "longest_call.seconds.outbound: Input should be greater than"),
        ("outbound = 14400", "outgoing = 1", "longest_call.seconds.outgoing: Input should be 'outbound'"),
        (
            "limit_s = 6000",
            "limit_s = -1",
            "allowances.0.limit_s: Input should be greater than or equal to 0",
        ),
        ("limit_s = 6000", "limit_s = 1.5", "allowances.0.limit_s: Input should be a valid integer"),
        ("limit_s = 6000", "limit_s = true", "allowances.0.limit_s: Input should be a valid integer"),
        ('"month"', '"year"', "allowances.0.period: Input should be 'day' or 'month' (found 'year')"),
        ('name = "plan"', 'name = "The Plan"', "name: String should match pattern"),
        ("[kinds]", "[kinds", "not TOML: "),
    ],
)
def test_a_fault_names_key_and_cure(old: str, new: str, fault: str) -> None:
    assert old in PLAN
    assert any(found.startswith(fault) for found in faults(PLAN.replace(old, new, 1)))


def test_two_allowances_of_one_name_are_told_shortly() -> None:
    text = PLAN + PLAN[PLAN.index("[[allowances]]") :]
    assert faults(text) == ("document: allowance 'voice' stands twice; give each its own name",)


def test_all_faults_are_told_at_once() -> None:
    text = PLAN.replace('clause = "P1"', "").replace('"month"', '"year"').replace('"DE"', '"de"')
    assert len(faults(text)) == 3


def test_a_long_value_is_cut_in_the_message() -> None:
    assert max(len(fault) for fault in faults(PLAN.replace('"month"', f'"{"x" * 5000}"'))) < 250
