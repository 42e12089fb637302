"""Policy files: what is read, and what an operator is told of a faulty one."""

from datetime import date
from zoneinfo import ZoneInfo

import pytest

from fairdial.policy.account import Kind
from fairdial.policy.document import Meter, Pay, Policy, PolicyError, Scope, Step, parse_policy
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


def test_what_is_not_written_limits_and_charges_nothing() -> None:
    policy = parse_policy(PLAN, "plan.toml")
    (voice,) = policy.allowances
    assert (voice.meter, voice.scope, voice.used_up) == (Meter.VOICE, Scope.ACCOUNT, Pay.REFUSE)
    assert (voice.weight(Kind.OUTBOUND), voice.counts_parties(Kind.OUTBOUND)) == (1, False)
    assert {name: cap for name, cap in policy.caps if cap is not None} == {}
    assert (policy.charges, policy.identity, policy.encryption) == (None, None, None)
    assert policy.pays_uncovered(NumberClass.PREMIUM_RATE) is Pay.REFUSE
    assert policy.effective_ms(ZoneInfo("UTC")) is None


FULL = (
    PLAN.replace(
        'title = "A plan for tests"',
        """
title = "A plan for tests"
published = 2026-11-01
effective = 2026-12-01
notice_days = 30
changes_clause = "P20"
""",
    )
    .replace('"voicemail"]', '"voicemail", "conference", "callback", "message"]')
    .replace('["GB", "DE"]', '"subscription"')
    .replace('clause = "P3"', 'clause = "P3"\nclauses = { internal = "P6" }')
    .replace(
        'counts = ["outbound", "inbound"]',
        """
scope = "line"
counts = ["outbound", "conference", "callback"]
weights = { conference = "parties", callback = 2 }
clauses = { callback = "P7" }
used_up = "overage"
""",
    )
    + """
[[allowances]]
name = "texts"
meter = "messages"
limit = 100
period = "minute"
scope = "plan"
counts = ["message"]
clause = "P8"
[uncovered]
pay = "credit"
classes = ["geographic"]
clause = "P9"
[caps]
participants = { limit = 4, clause = "P10" }
lines = { limit = 100, clause = "P11" }
[charges]
clause = "P12"
card = "standard"
currency = "EUR"
overage_per_min = "0.02"
surcharge_per_min = "0.000001"
clauses = { surcharge_per_min = "P13" }
[identity]
caller_number = "replace"
clause = "P14"
[encryption]
signalling = "required"
media = "any"
otherwise = "flag"
clause = "P15"
[[detectors]]
name = "short-calls"
measure = "short_call_ratio"
threshold = 0.5
window = "hour"
step = "notice"
clause = "P16"
[[ladder]]
name = "end"
measure = "open_cases"
threshold = 3
window = "cycle"
step = "terminate"
clause = "P17"
[[elsewhere]]
clause = "P18"
where = "by hand"
"""
)


@pytest.fixture
def full() -> Policy:
    return parse_policy(FULL, "full.toml")


def test_the_clause_of_a_rule_may_differ_by_kind(full: Policy) -> None:
    assert [full.longest_call_clause(kind) for kind in (Kind.OUTBOUND, Kind.INTERNAL)] == ["P3", "P6"]
    voice = full.allowances[0]
    assert [voice.clause_for(kind) for kind in (Kind.OUTBOUND, Kind.CALLBACK)] == ["P4", "P7"]
    assert full.charges is not None
    assert full.charges.clause_for("overage_per_min") == "P12"
    assert full.charges.clause_for("surcharge_per_min") == "P13"


def test_allowances_weigh_count_and_are_shared(full: Policy) -> None:
    voice, texts = full.allowances
    assert (voice.limit_units, voice.scope, voice.used_up) == (6000, Scope.LINE, Pay.OVERAGE)
    assert (voice.weight(Kind.CALLBACK), voice.weight(Kind.OUTBOUND)) == (2, 1)
    assert (voice.counts_parties(Kind.CONFERENCE), voice.weight(Kind.CONFERENCE)) == (True, 1)
    assert (texts.limit_units, texts.period, texts.scope) == (100, Period.MINUTE, Scope.PLAN)
    assert full.meters_for(Kind.MESSAGE) == (texts,)


def test_coverage_may_be_left_to_the_subscription_and_to_credit(full: Policy) -> None:
    assert full.countries.allow == "subscription"
    assert full.pays_uncovered(NumberClass.GEOGRAPHIC) is Pay.CREDIT
    assert full.pays_uncovered(NumberClass.PREMIUM_RATE) is Pay.REFUSE
    anything = parse_policy(FULL.replace('classes = ["geographic"]\n', ""), "p")
    assert anything.pays_uncovered(NumberClass.PREMIUM_RATE) is Pay.CREDIT


def test_caps_charges_and_protection_are_read(full: Policy) -> None:
    assert full.caps.participants is not None
    assert (full.caps.participants.limit, full.caps.participants.clause) == (4, "P10")
    assert full.caps.simultaneous_calls is None
    assert full.charges is not None
    assert (full.charges.overage_per_min, full.charges.surcharge_per_min) == ("0.02", "0.000001")
    assert full.charges.surcharge_needs_agreement
    assert full.identity is not None
    assert full.identity.caller_number == "replace"
    assert full.encryption is not None
    assert (full.encryption.signalling, full.encryption.otherwise) == ("required", "flag")
    (detector,), (rung,) = full.detectors, full.ladder
    assert (detector.threshold, detector.window, detector.step) == (0.5, Period.HOUR, Step.NOTICE)
    assert (rung.threshold, rung.window, rung.step) == (3, Period.CYCLE, Step.TERMINATE)


def test_all_clauses_are_known(full: Policy) -> None:
    assert full.clause_ids() == {f"P{number}" for number in range(19)} - {"P5"} | {"P20"}


def test_a_version_takes_effect_at_local_midnight(full: Policy) -> None:
    assert (full.published, full.effective) == (date(2026, 11, 1), date(2026, 12, 1))
    # 2026-12-01 00:00 in New York is 05:00 UTC.
    assert full.effective_ms(ZoneInfo("America/New_York")) == 1_796_101_200_000
    at_once = parse_policy(FULL.replace("effective = 2026-12-01", 'effective = "at_once"'), "p")
    assert at_once.effective_ms(ZoneInfo("America/New_York")) is None


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (
            "limit_s = 6000",
            "limit_min = 100",
            "allowances.0.limit_min: no such key; write limit_s (minutes x 60)",
        ),
        (
            "limit_s = 6000",
            "limit_hours = 1",
            "allowances.0.limit_hours: no such key; write limit_s (hours x",
        ),
        (
            "limit_s = 6000",
            f"limit_s = {10**13}",
            "allowances.0.limit_s: Input should be less than or equal to",
        ),
        ("limit_s = 6000", "limits = 6000", "allowances.0.limits: no such key; write limit"),
        ("limit_s = 6000", "limit = 6000", "allowances.0: meter voice has no `limit`; write `limit_s`"),
        ("limit = 100", "limit_s = 100", "allowances.1: meter messages has no `limit_s`; write `limit`"),
        ('["message"]', '["outbound"]', "allowances.1: meter messages counts messages alone; write"),
        (
            '"conference", "callback"]\nweights',
            '"message"]\nweights',
            "allowances.0: meter voice cannot count",
        ),
        (
            'period = "month"',
            'period = "minute"',
            "allowances.0: talk has no allowance by the minute; write hour",
        ),
        (
            "callback = 2",
            "callback = 1.5",
            "allowances.0.weights.callback: not a weight; write a whole number",
        ),
        ("callback = 2", "callback = true", "allowances.0.weights.callback: not a weight; write"),
        ("callback = 2", "callback = 0", "allowances.0.weights.callback: not a weight; write"),
        ("callback = 2", 'callback = "double"', "allowances.0.weights.callback: not a weight; write"),
        ("2026-12-01", '"soon"', 'effective: neither a date nor "at_once"; write a date such as 2026-12-01'),
        ("2026-12-01", "20261301", 'effective: neither a date nor "at_once"; write a date'),
        ("published = 2026-11-01", "published = 0", "published: not a date; write it like 2026-12-01"),
        ("2026-12-01", "20261201", 'effective: neither a date nor "at_once"; write a date'),
        ('"0.02"', "0.02", "charges.overage_per_min: an amount is a text; write it in quotes"),
        ('"0.02"', '"0.0200001"', "charges.overage_per_min: '0.0200001' has 7 decimals; write 6 at most"),
        ('"0.02"', '"-1"', "charges.overage_per_min: '-1' is not an amount; write plain digits"),
        ('"0.02"', '"1e3"', "charges.overage_per_min: '1e3' is not an amount; write plain digits"),
        (
            '"EUR"',
            '"euro"',
            "charges.currency: currency 'euro' is not an ISO 4217 code in use; write it like",
        ),
        (
            'card = "standard"',
            'increment = "60"',
            "charges.increment: '60' is not an increment; write the first",
        ),
        (
            'card = "standard"',
            "increment = 60",
            "charges.increment: an increment is a text; write it in quotes",
        ),
        ('surcharge_per_min = "P13"', 'tax = "P13"', "charges.clauses.tax: Input should be 'card'"),
        ('pay = "credit"', 'pay = "overage"', "uncovered.pay: Input should be "),
        ("participants = {", "partisipants = {", "caps.partisipants: no such key; write participants"),
        (
            "participants = { limit = 4",
            "participants = { limit = 0",
            "caps.participants.limit: Input should be",
        ),
        (
            "participants = { limit = 4, ",
            "participants = { limit = 4 } #",
            "caps.participants.clause: missing",
        ),
        (
            'caller_number = "replace"',
            'caller_number = "hide"',
            "identity.caller_number: Input should be 'own'",
        ),
        ("threshold = 0.5", "threshold = nan", "detectors.0.threshold: "),
        ("threshold = 0.5", 'threshold = "0.5"', "detectors.0.threshold: Input should be a valid number"),
        ('step = "terminate"', 'step = "shout"', "ladder.0.step: Input should be 'notice', 'moderate'"),
        ('where = "by hand"', "", "elsewhere.0.where: missing; write it"),
        ("notice_days = 30", "notice = 30", "notice: no such key; write notice_days"),
        (
            "notice_days = 30",
            "colour = 1",
            "colour: no such key; remove it or correct its spelling; known here: name",
        ),
    ],
)
def test_a_fault_in_the_other_tables_names_key_and_cure(old: str, new: str, fault: str) -> None:
    assert old in FULL
    told = faults(FULL.replace(old, new, 1))
    assert any(found.startswith(fault) for found in told), told


def test_a_name_may_stand_once_in_each_list() -> None:
    for table in ("[[detectors]]", "[[ladder]]"):
        rule = FULL[FULL.index(table) :]
        rule = rule[: rule.index("[[", 2)]
        assert parse_policy(FULL + rule.replace('name = "', 'name = "other-'), "p")
        (fault,) = faults(FULL + rule)
        assert fault.endswith("stands twice; give each its own name")


def test_any_country_may_be_covered() -> None:
    assert parse_policy(PLAN.replace('["GB", "DE"]', '"any"'), "plan.toml").countries.allow == "any"


def test_a_date_may_stand_as_version() -> None:
    assert parse_policy(PLAN.replace('version = "1"', "version = 2026-11-01"), "p").version == "2026-11-01"


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('clause = "P1"', "", "classes.clause: missing; write it"),
        ('clause = "P1"', 'clause = "P1"\nclauze = 1', "classes.clauze: no such key; write clause"),
        ('clause = "P1"', 'clause = ""', "classes.clause: String should have at least 1 character"),
        ('"geographic"', '"landline"', "classes.allow.0: Input should be 'geographic', 'mobile'"),
        ('["GB", "DE"]', '["gb"]', "countries.allow.0: not an ISO 3166-1 alpha-2 code"),
        ('["GB", "DE"]', '["UK"]', "countries.allow.0: not an ISO 3166-1 alpha-2 code"),
        ('["GB", "DE"]', '"all"', "countries.allow: Input should be 'any' or 'subscription' (found"),
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
        ('"month"', '"year"', "allowances.0.period: Input should be 'minute', 'hour', 'day'"),
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
