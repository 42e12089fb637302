"""Numbers that callers show and numbers that they call: verified by the network (A4), and so many a day (K10)."""

from dataclasses import replace

import pytest

from fairdial.answer import MalformedRequest, asked_from
from fairdial.policy.account import Account, Callees, Dial, Kind, Line, Snapshot, Verified
from fairdial.policy.decide import Allow, Decision, Refuse, decide
from fairdial.policy.document import Policy, parse_policy
from fairdial.policy.numbers import Number
from fairdial.policy.outcomes import Reason
from fairdial.policy.prefixes import NumberClass
from tests.samples import LONDON, NOON_MS, PLAN, RULES

IDENTITY = '[identity]\ncaller_number = "any"\nunverified = "{unverified}"\nclause = "P5"\n'
CAP = '[caps]\ncallees_per_day = {{ limit = {limit}, clause = "P6" }}\n'
EMERGENCY = Number("112", None, NumberClass.EMERGENCY, "GB")


def verifying(unverified: str) -> Policy:
    return parse_policy(PLAN + IDENTITY.format(unverified=unverified), "plan.toml")


def decided(
    policy: Policy, dial: Dial, *, callees: Callees | None = None, number: Number = LONDON
) -> Decision:
    snapshot = Snapshot(Line("alice", "acme"), Account("acme", "plan"), callees=callees)
    return decide(dial, number, snapshot, policy, RULES)


def inbound(verified: Verified, kind: Kind = Kind.INBOUND) -> Dial:
    return Dial(
        "c1", kind, LONDON.dialled, "alice", "channel", NOON_MS, 30, "+447700900123", verified=verified
    )


@pytest.mark.parametrize(
    ("unverified", "verified", "reason", "flag"),
    [
        ("refuse", "passed", None, ""),
        ("refuse", "failed", Reason.CALLER_NOT_VERIFIED, ""),
        ("refuse", "", Reason.CALLER_NOT_VERIFIED, ""),
        ("flag", "passed", None, ""),
        ("flag", "failed", None, "unverified"),
        ("flag", "", None, "unverified"),
        ("any", "failed", None, ""),
    ],
)
@pytest.mark.clause("A4", "allowed")
@pytest.mark.clause("A4", "refused")
def test_a_call_whose_number_nobody_vouches_for(
    unverified: str, verified: Verified, reason: Reason | None, flag: str
) -> None:
    decision = decided(verifying(unverified), inbound(verified))
    if reason is None:
        assert isinstance(decision, Allow)
        assert decision.flag == flag
    else:
        assert isinstance(decision, Refuse)
        assert (decision.reason, decision.clause.id) == (reason, "P5")


def test_only_calls_that_come_in_are_asked_for_it() -> None:
    assert isinstance(decided(verifying("refuse"), inbound("", Kind.OUTBOUND)), Allow)
    assert decided(verifying("refuse"), inbound(""), number=EMERGENCY).reason is Reason.EMERGENCY


@pytest.mark.parametrize("verified", ["passed", "failed", ""])
def test_what_the_dialplan_says_of_it_is_passed_on(verified: str) -> None:
    asked = asked_from(channel_id="1.1", endpoint="carrier", kind="inbound", number="1", verified=verified)
    assert asked.verified == verified


def test_another_word_is_refused() -> None:
    with pytest.raises(MalformedRequest, match="FAIRDIAL_VERIFIED 'yes' is neither"):
        asked_from(channel_id="1.1", endpoint="carrier", kind="inbound", number="1", verified="yes")


@pytest.mark.parametrize(
    ("known", "count", "reason"),
    [
        (False, 2, None),
        (False, 3, Reason.TOO_MANY_NUMBERS),
        (False, 4, Reason.TOO_MANY_NUMBERS),
        (True, 3, None),
        (True, 400, None),
    ],
)
@pytest.mark.clause("K10", "allowed")
@pytest.mark.clause("K10", "refused")
def test_past_so_many_numbers_a_day_only_known_ones_are_called(
    known: bool, count: int, reason: Reason | None
) -> None:
    policy = parse_policy(PLAN + CAP.format(limit=3), "plan.toml")
    dial = inbound("", Kind.OUTBOUND)
    callees = Callees(LONDON.e164 or "", known, count)
    decision = decided(policy, dial, callees=callees)
    assert (decision.reason if isinstance(decision, Refuse) else None) is reason
    assert isinstance(decided(policy, replace(dial, kind=Kind.INBOUND)), Allow)
