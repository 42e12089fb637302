"""The closed list of reasons: each is told to the switch in a way that fits what it means."""

import pytest

from fairdial.policy.outcomes import OUTCOMES, UNDECIDED, Reason

ALLOWED = {
    Reason.EMERGENCY,
    Reason.WITHIN_ALLOWANCE,
    Reason.COVERED,
    Reason.WITHIN_RAISED_LIMIT,
    Reason.NOT_COUNTED,
    Reason.PAST_ALLOWANCE,
    Reason.BY_CREDIT,
}


def test_every_reason_is_told() -> None:
    assert set(OUTCOMES) == set(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_only_what_is_allowed_goes_on(reason: Reason) -> None:
    outcome = OUTCOMES[reason]
    assert (outcome.cause == 0) == (reason in ALLOWED)
    assert (outcome.sip_status == 200) == (reason in ALLOWED)
    assert outcome.text.endswith(".")


@pytest.mark.parametrize("reason", Reason)
def test_what_was_not_decided_sounds_like_no_refusal(reason: Reason) -> None:
    outcome = OUTCOMES[reason]
    assert (outcome.cause == 34) == (reason in UNDECIDED)
    if reason in UNDECIDED:
        assert outcome.prompt == ""
    elif reason not in ALLOWED:
        assert outcome.prompt != ""


def test_a_slug_can_stand_in_an_extension_and_in_a_search() -> None:
    assert all(reason.value.replace("_", "").isalpha() and reason.value.islower() for reason in Reason)
