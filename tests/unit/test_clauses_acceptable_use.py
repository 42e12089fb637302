"""policies/acceptable-use.toml, clause by clause: what a dial on it is told."""

from datetime import date
from zoneinfo import ZoneInfo

import pytest

from fairdial.policy import publishing
from fairdial.policy.account import Encrypted, Identity, Kind, Standing
from fairdial.policy.book import PolicyBook
from fairdial.policy.decide import UNENCRYPTED
from fairdial.policy.document import Cap
from fairdial.policy.numbers import Number
from fairdial.policy.outcomes import Reason
from fairdial.policy.prefixes import NumberClass
from tests.samples import LONDON
from tests.shipped import COLLEAGUE, PARIS, POLICIES, PREMIUM, dialled, ms, number_of_class

USE = POLICIES["acceptable-use"]
CLEAR, SIGNALLING_ONLY, BOTH = Encrypted(False, False), Encrypted(True, False), Encrypted(True, True)


def or_refused(otherwise: str) -> dict[str, object]:
    """The change that an operator makes to the file."""
    assert USE.encryption is not None
    return {"encryption": USE.encryption.model_copy(update={"otherwise": otherwise})}


REFUSING = USE.model_copy(update=or_refused("refuse"))


# --- A1: ranges that draw fraud ------------------------------------------------------------------


@pytest.mark.parametrize("number", [LONDON, PARIS, number_of_class(NumberClass.SHARED_COST)])
def test_numbers_that_pay_nobody_for_being_called_are_let_through(number: Number) -> None:
    assert dialled(USE, number).told == (True, Reason.WITHIN_ALLOWANCE, "acceptable-use A8")


@pytest.mark.parametrize(
    "number",
    [
        PREMIUM,
        number_of_class(NumberClass.SATELLITE),
        number_of_class(NumberClass.GLOBAL_SERVICE),
        number_of_class(NumberClass.SHORT_CODE),
    ],
)
def test_ranges_that_draw_fraud_are_refused(number: Number) -> None:
    assert dialled(USE, number).told == (False, Reason.CLASS_NOT_COVERED, "acceptable-use A1")


# --- A4: nobody is impersonated ------------------------------------------------------------------


@pytest.mark.clause("A4", "allowed")
def test_a_number_of_the_account_may_be_shown() -> None:
    found = dialled(USE, LONDON, caller="+442079460001", identity=Identity(own=True, instead=None))
    assert found.told == (True, Reason.WITHIN_ALLOWANCE, "acceptable-use A8")
    assert found.allow.caller is None


@pytest.mark.clause("A4", "allowed")
@pytest.mark.parametrize("caller", ["", "anonymous", "alice"])
def test_who_shows_no_number_impersonates_nobody(caller: str) -> None:
    assert dialled(USE, LONDON, caller=caller, identity=Identity(own=False, instead=None)).told[0]


@pytest.mark.clause("A4", "refused")
@pytest.mark.parametrize("kind", [Kind.OUTBOUND, Kind.MESSAGE])
@pytest.mark.parametrize("identity", [Identity(own=False, instead="+442079460001"), None])
def test_another_number_is_refused(kind: Kind, identity: Identity | None) -> None:
    found = dialled(USE, LONDON, kind, caller="+442079460999", identity=identity)
    assert found.told == (False, Reason.CALLER_NOT_OWN, "acceptable-use A4")


@pytest.mark.clause("A4", "allowed")
@pytest.mark.parametrize("kind", [Kind.INBOUND, Kind.INTERNAL])
def test_a_caller_from_outside_or_a_colleague_is_asked_for_no_number_of_the_account(kind: Kind) -> None:
    found = dialled(USE, COLLEAGUE, kind, caller="+15550100", identity=Identity(own=False, instead=None))
    assert found.told[0]


# --- A7: encryption ------------------------------------------------------------------------------


@pytest.mark.clause("A7", "allowed")
def test_an_encrypted_call_passes_without_a_flag() -> None:
    for policy in (USE, REFUSING):
        found = dialled(policy, LONDON, encrypted=BOTH)
        assert (found.allow.flag, found.decision.reason) == ("", Reason.WITHIN_ALLOWANCE)


@pytest.mark.clause("A7", "allowed")
@pytest.mark.parametrize("encrypted", [CLEAR, SIGNALLING_ONLY, Encrypted(False, True), None])
def test_a_call_in_clear_is_flagged(encrypted: Encrypted | None) -> None:
    assert dialled(USE, LONDON, encrypted=encrypted).allow.flag == UNENCRYPTED


@pytest.mark.clause("A7", "refused")
@pytest.mark.parametrize("encrypted", [CLEAR, SIGNALLING_ONLY, Encrypted(False, True), None])
def test_a_call_in_clear_is_refused_where_the_policy_says_so(encrypted: Encrypted | None) -> None:
    found = dialled(REFUSING, LONDON, encrypted=encrypted)
    assert found.told == (False, Reason.NOT_ENCRYPTED, "acceptable-use A7")


@pytest.mark.clause("A7", "refused")
def test_a_message_needs_encrypted_signalling_and_has_no_media() -> None:
    assert dialled(REFUSING, LONDON, Kind.MESSAGE, encrypted=SIGNALLING_ONLY).told[0]
    found = dialled(REFUSING, LONDON, Kind.MESSAGE, encrypted=CLEAR)
    assert found.told == (False, Reason.NOT_ENCRYPTED, "acceptable-use A7")


# --- A8: no prolonged use ------------------------------------------------------------------------


@pytest.mark.clause("A8", "allowed")
def test_the_last_second_of_ten_hours_a_day_is_granted() -> None:
    found = dialled(USE, LONDON, used={"day": 35_999})
    assert found.told == (True, Reason.WITHIN_ALLOWANCE, "acceptable-use A8")
    assert found.allow.granted_s == 1


@pytest.mark.clause("A8", "refused")
@pytest.mark.parametrize("kind", [Kind.OUTBOUND, Kind.INBOUND])
def test_after_ten_hours_the_day_is_over(kind: Kind) -> None:
    found = dialled(USE, LONDON, kind, used={"day": 36_000})
    assert found.told == (False, Reason.ALLOWANCE_USED_UP, "acceptable-use A8")


@pytest.mark.clause("A8", "cut")
def test_one_call_lasts_four_hours_at_most() -> None:
    assert dialled(USE, LONDON).allow.granted_s == 14_400


@pytest.mark.clause("A8", "refused")
def test_the_eleventh_call_at_once_is_refused() -> None:
    assert dialled(USE, LONDON, live_calls=9).told[0]
    found = dialled(USE, LONDON, live_calls=10)
    assert found.told == (False, Reason.TOO_MANY_CALLS, "acceptable-use A8")


# --- A9: no hosting of servers -------------------------------------------------------------------


@pytest.mark.clause("A9", "allowed")
def test_a_line_takes_four_inbound_calls_at_once() -> None:
    assert dialled(USE, LONDON, Kind.INBOUND, live_inbound=3).told[0]


@pytest.mark.clause("A9", "refused")
def test_the_fifth_inbound_call_at_once_is_refused() -> None:
    found = dialled(USE, LONDON, Kind.INBOUND, live_inbound=4)
    assert found.told == (False, Reason.TOO_MANY_INBOUND, "acceptable-use A9")


@pytest.mark.clause("A9", "allowed")
def test_a_line_full_of_inbound_calls_may_still_call_out() -> None:
    assert dialled(USE, LONDON, live_inbound=4).told[0]


@pytest.mark.clause("A9", "allowed")
def test_a_plan_for_servers_leaves_the_limit_out() -> None:
    hosting = USE.model_copy(update={"caps": USE.caps.model_copy(update={"simultaneous_inbound": None})})
    assert dialled(hosting, LONDON, Kind.INBOUND, live_inbound=4).told[0]


# --- A10: standing -------------------------------------------------------------------------------


@pytest.mark.clause("A10", "refused")
@pytest.mark.parametrize(
    ("standing", "reason"),
    [
        (Standing.SUSPENDED, Reason.ACCOUNT_SUSPENDED),
        (Standing.TERMINATED, Reason.ACCOUNT_TERMINATED),
    ],
)
def test_the_service_of_who_does_harm_is_over(standing: Standing, reason: Reason) -> None:
    assert dialled(USE, LONDON, standing=standing).told == (False, reason, "acceptable-use A10")


@pytest.mark.clause("A10", "allowed")
def test_the_service_of_others_goes_on() -> None:
    assert dialled(USE, LONDON, standing=Standing.ACTIVE).told[0]


# --- A11: changes at once ------------------------------------------------------------------------

STRICTER = USE.model_copy(
    update={
        "version": "2026-12",
        "published": date(2026, 11, 21),
        "caps": USE.caps.model_copy(update={"simultaneous_calls": Cap(limit=1, clause="A8")}),
    }
)


@pytest.mark.clause("A11", "allowed")
@pytest.mark.clause("A11", "refused")
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "Pacific/Honolulu"])
def test_a_change_decides_from_the_day_it_is_posted_everywhere(zone: str) -> None:
    book = PolicyBook([USE, STRICTER])
    before_ms, after_ms = ms("2026-11-20T23:59:59Z"), ms("2026-11-21T00:00:00Z")
    before = book.at("acceptable-use", ZoneInfo(zone), before_ms)
    after = book.at("acceptable-use", ZoneInfo(zone), after_ms)
    assert before is not None
    assert after is not None
    assert dialled(before, LONDON, live_calls=1, at_ms=before_ms, zone=zone).told[0]
    found = dialled(after, LONDON, live_calls=1, at_ms=after_ms, zone=zone)
    assert found.told == (False, Reason.TOO_MANY_CALLS, "acceptable-use A8")
    assert found.decision.clause.version == "2026-12"


@pytest.mark.clause("A11", "allowed")
def test_a_change_may_be_posted_without_notice() -> None:
    assert publishing.faults(STRICTER, PolicyBook([USE]), date(2026, 11, 21)) == ()
