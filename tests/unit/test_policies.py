"""The shipped policies: each clause of the published texts is in a rule or has its place elsewhere."""

from datetime import date
from pathlib import Path

import pytest

from fairdial.policy.account import Kind
from fairdial.policy.document import Allowance, Pay, Policy, Scope, Step, parse_policy
from fairdial.policy.lint import PUBLISHED, Severity, lint
from fairdial.policy.periods import Period
from fairdial.policy.prefixes import NumberClass

FOLDER = Path(__file__).parents[2] / "policies"
TEXTS = {file.stem: file.read_text(encoding="utf-8") for file in sorted(FOLDER.glob("*.toml"))}
POLICIES = {name: parse_policy(text, f"{name}.toml") for name, text in TEXTS.items()}
HOUR_S = 3600


def test_the_five_policies_are_shipped_under_their_names() -> None:
    assert set(POLICIES) == {"kryptotel", "acceptable-use", "redconnect", "voxdirect", "spokephone"}
    assert all(policy.name == name for name, policy in POLICIES.items())


@pytest.mark.parametrize(
    ("name", "clauses"),
    [
        ("kryptotel", "K1 K2 K3 K4 K5 K6 K7 K8 K9 K10 K11 K12"),
        ("acceptable-use", "A1 A2 A3 A4 A5 A6 A7 A8 A9 A10 A11"),
        ("redconnect", "R1 R2 R3 R4 R5 R6 R7"),
        ("voxdirect", "V1 V2 V3 V4 V5 V6 V7 V8 V9"),
        ("spokephone", "S1 S2 S3 S4 S5 S6 S7 S8"),
    ],
)
def test_each_clause_has_its_place(name: str, clauses: str) -> None:
    assert POLICIES[name].clause_ids() == set(clauses.split()) == PUBLISHED[name]


@pytest.mark.parametrize("name", POLICIES)
def test_the_rules_of_a_policy_agree(name: str) -> None:
    told = lint(TEXTS[name], f"{name}.toml")
    assert told == ()


@pytest.mark.parametrize("name", POLICIES)
def test_a_clause_taken_out_is_missed(name: str) -> None:
    gone = max(PUBLISHED[name])
    told = lint(TEXTS[name].replace(f'"{gone}"', '"X1"'), f"{name}.toml")
    errors = [finding.words for finding in told if finding.severity is Severity.ERROR]
    assert errors == [f"clause {gone} of the published text is in no rule"]


def allowance(policy: Policy, name: str) -> Allowance:
    (found,) = [one for one in policy.allowances if one.name == name]
    return found


def test_kryptotel_is_flat_to_normal_numbers_with_four_hours_a_call() -> None:
    policy = POLICIES["kryptotel"]
    assert policy.version == "2026-11"
    normal = frozenset({NumberClass.GEOGRAPHIC, NumberClass.MOBILE, NumberClass.GEOGRAPHIC_OR_MOBILE})
    assert (policy.classes.allow, policy.classes.clause) == (normal, "K2")
    voice = allowance(policy, "voice")
    assert (voice.limit_s, voice.counts, voice.clause) == (None, frozenset({Kind.OUTBOUND}), "K1")
    # Credit is for normal numbers too.
    assert {one for one in NumberClass if policy.pays_uncovered(one) is Pay.CREDIT} == normal
    assert policy.uncovered is not None
    assert (policy.uncovered.clause, policy.countries.allow) == ("K4", "subscription")
    assert policy.charges is not None
    assert (policy.charges.card, policy.charges.clause) == ("kryptotel", "K4")


@pytest.mark.parametrize(
    ("kind", "limit_s", "clause"),
    [
        (Kind.OUTBOUND, 4 * HOUR_S, "K3"),
        (Kind.INBOUND, 4 * HOUR_S, "K3"),
        (Kind.CONFERENCE, 4 * HOUR_S, "K5"),
        (Kind.COLLECT, HOUR_S, "K6"),
    ],
)
def test_kryptotels_longest_calls(kind: Kind, limit_s: int, clause: str) -> None:
    policy = POLICIES["kryptotel"]
    assert kind in policy.kinds.allow
    assert (policy.longest_call_s(kind), policy.longest_call_clause(kind)) == (limit_s, clause)


def test_kryptotels_conferences_have_a_hundred_hours_a_month_and_ten_a_day_for_four() -> None:
    policy = POLICIES["kryptotel"]
    limits = {(one.period, one.limit_s, one.clause) for one in policy.meters_for(Kind.CONFERENCE)}
    assert limits == {(Period.MONTH, 100 * HOUR_S, "K5"), (Period.DAY, 10 * HOUR_S, "K5")}
    assert policy.caps.participants is not None
    assert (policy.caps.participants.limit, policy.caps.participants.clause) == (4, "K5")


def test_redconnect_gives_each_user_2400_minutes_both_ways_and_charges_the_rest() -> None:
    policy = POLICIES["redconnect"]
    voice = allowance(policy, "voice")
    assert (voice.limit_s, voice.period, voice.scope) == (2400 * 60, Period.MONTH, Scope.LINE)
    assert (voice.counts, voice.clause) == (frozenset({Kind.OUTBOUND, Kind.INBOUND}), "R1")
    assert policy.countries.allow == "any"
    assert voice.used_up is Pay.OVERAGE
    assert policy.charges is not None
    assert policy.charges.overage_per_min is not None
    assert policy.charges.clause_for("overage_per_min") == "R3"
    assert Kind.VOICEMAIL in policy.kinds.allow
    assert (policy.meters_for(Kind.VOICEMAIL), policy.kinds.clause) == ((), "R2")
    (minute_plan,) = [rung for rung in policy.ladder if rung.clause == "R4"]
    (offered,) = policy.plans
    assert (minute_plan.plan, offered.clause, offered.added) == (offered.name, "R4", "by_itself")
    assert policy.requests is not None
    assert (policy.requests.clause, policy.requests.hard) == ("R5", frozenset())


@pytest.mark.parametrize(("name", "clause"), [("redconnect", "R7"), ("voxdirect", "V9")])
def test_where_changes_are_announced_the_version_kept_the_notice(name: str, clause: str) -> None:
    policy = POLICIES[name]
    assert policy.changes_clause == clause
    assert policy.published is not None
    assert isinstance(policy.effective, date)
    assert (policy.effective - policy.published).days >= policy.notice_days > 0


def test_voxdirect_shares_minutes_and_messages_over_the_whole_plan() -> None:
    policy = POLICIES["voxdirect"]
    voice, messages = allowance(policy, "voice"), allowance(policy, "messages")
    assert (voice.limit_s, voice.scope, voice.used_up) == (30_000 * 60, Scope.PLAN, Pay.OVERAGE)
    assert (messages.limit, messages.scope, messages.used_up) == (30_000, Scope.PLAN, Pay.OVERAGE)
    assert (voice.weight(Kind.CALLBACK), voice.clause_for(Kind.CALLBACK)) == (2, "V6")
    assert (voice.counts_parties(Kind.CONFERENCE), voice.clause_for(Kind.CONFERENCE)) == (True, "V5")
    assert (voice.weight(Kind.OUTBOUND), voice.clause_for(Kind.OUTBOUND)) == (1, "V1")
    assert policy.charges is not None
    assert None not in (policy.charges.overage_per_min, policy.charges.overage_per_message)
    assert policy.charges.clause == "V2"
    assert policy.caps.lines is not None
    assert (policy.caps.lines.limit, policy.caps.lines.clause) == (100, "V3")


def test_spokephone_meters_each_user_without_a_limit() -> None:
    policy = POLICIES["spokephone"]
    assert {one.name for one in policy.allowances} == {"outbound", "inbound", "internal", "messages", "chats"}
    for one in policy.allowances:
        assert (one.limit_units, one.scope, one.period) == (None, Scope.LINE, Period.MONTH)
    assert NumberClass.PREMIUM_RATE not in policy.classes.allow
    assert policy.charges is not None
    assert policy.charges.surcharge_per_min is not None
    assert policy.charges.surcharge_needs_agreement
    steps = [(rung.step, rung.clause) for rung in policy.ladder]
    assert steps == [(Step.MODERATE, "S3"), (Step.AGREE_TO_PAY, "S3"), (Step.RESTRICT, "S4")]


def test_acceptable_use_protects_identity_media_and_network_at_once() -> None:
    policy = POLICIES["acceptable-use"]
    assert (policy.effective, policy.changes_clause) == ("at_once", "A11")
    assert policy.identity is not None
    assert (policy.identity.caller_number, policy.identity.clause) == ("own", "A4")
    assert policy.encryption is not None
    assert (policy.encryption.signalling, policy.encryption.media) == ("required", "required")
    caps = {name: cap.clause for name, cap in policy.caps if cap is not None}
    assert caps == {"simultaneous_calls": "A8", "simultaneous_inbound": "A9", "attempts_per_s": "A3"}
