"""policies/spokephone.toml, clause by clause: what a dial on it is told, and what it costs."""

import pytest

from fairdial.policy.account import Consent, Kind, Standing
from fairdial.policy.document import Cap
from fairdial.policy.numbers import Number
from fairdial.policy.outcomes import Reason
from fairdial.policy.prefixes import NumberClass
from fairdial.policy.terms import Mode, whole_micros
from tests.samples import LONDON
from tests.shipped import BERLIN, COLLEAGUE, MOBILE, PARIS, POLICIES, PREMIUM, dialled, number_of_class

SPOKE = POLICIES["spokephone"]
AGREED = frozenset({Consent.SURCHARGE})
MONTH_S = 30 * 86_400


# --- S1: a meter for each kind of use ------------------------------------------------------------


@pytest.mark.clause("S1", "free")
@pytest.mark.parametrize(
    ("kind", "number", "meter"),
    [
        (Kind.OUTBOUND, LONDON, "outbound/alice"),
        (Kind.INBOUND, LONDON, "inbound/alice"),
        (Kind.INTERNAL, COLLEAGUE, "internal/alice"),
        (Kind.MESSAGE, MOBILE, "messages/alice"),
        (Kind.MESSAGE, COLLEAGUE, "chats/alice"),
    ],
)
def test_each_kind_of_use_of_a_user_counts_on_its_own_meter_without_a_limit(
    kind: Kind, number: Number, meter: str
) -> None:
    used = {meter.partition("/")[0]: MONTH_S}
    found = dialled(SPOKE, number, kind, used=used)
    assert found.told == (True, Reason.COVERED, "spokephone S1")
    assert {one.allowance for one in found.snapshot.meters} == {meter}
    assert found.allow.terms == ()


@pytest.mark.clause("S1", "refused")
@pytest.mark.parametrize("kind", [Kind.CALLBACK, Kind.COLLECT])
def test_kinds_that_have_no_meter_are_refused(kind: Kind) -> None:
    assert dialled(SPOKE, LONDON, kind).told == (False, Reason.KIND_NOT_COVERED, "spokephone S1")


@pytest.mark.clause("S1", "allowed")
@pytest.mark.clause("S1", "refused")
def test_the_countries_are_those_of_the_plan_that_was_bought() -> None:
    assert dialled(SPOKE, BERLIN).told == (True, Reason.COVERED, "spokephone S1")
    assert dialled(SPOKE, PARIS).told == (False, Reason.COUNTRY_NOT_COVERED, "spokephone S1")


# --- S4: standing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("standing", "reason"),
    [
        (Standing.SUSPENDED, Reason.ACCOUNT_SUSPENDED),
        (Standing.TERMINATED, Reason.ACCOUNT_TERMINATED),
    ],
)
def test_a_service_that_was_taken_away_is_refused(standing: Standing, reason: Reason) -> None:
    assert dialled(SPOKE, LONDON, standing=standing).told == (False, reason, "spokephone S4")


@pytest.mark.clause("S4", "refused")
@pytest.mark.parametrize("kind", [Kind.OUTBOUND, Kind.INBOUND, Kind.INTERNAL, Kind.VOICEMAIL, Kind.MESSAGE])
def test_one_service_alone_can_be_taken_away(kind: Kind) -> None:
    found = dialled(SPOKE, LONDON, kind, restricted=frozenset({kind}))
    assert found.told == (False, Reason.SERVICE_RESTRICTED, "spokephone S4")


@pytest.mark.clause("S4", "allowed")
def test_a_service_that_was_not_is_there() -> None:
    assert dialled(SPOKE, LONDON, standing=Standing.ACTIVE).told[0]
    others = frozenset(Kind) - {Kind.OUTBOUND, Kind.EMERGENCY}
    assert dialled(SPOKE, LONDON, restricted=others).told[0]


@pytest.mark.clause("S4", "allowed")
def test_an_emergency_call_goes_through_whatever_was_taken_away() -> None:
    every = frozenset(Kind) - {Kind.EMERGENCY}
    police = Number("112", None, NumberClass.EMERGENCY, "GB")
    assert dialled(SPOKE, police, restricted=every).told[:2] == (True, Reason.EMERGENCY)


# --- S5: the surcharge ---------------------------------------------------------------------------


@pytest.mark.clause("S5", "charged")
@pytest.mark.parametrize("kind", [Kind.OUTBOUND, Kind.INBOUND])
def test_once_agreed_every_minute_in_and_out_has_its_surcharge(kind: Kind) -> None:
    found = dialled(SPOKE, LONDON, kind, agreed=AGREED)
    [terms] = found.allow.terms
    assert (terms.mode, terms.currency, terms.clause.id) == (Mode.SURCHARGE, "USD", "S5")
    # By the second: 0.01 a minute is 0.015 for 90 s.
    assert whole_micros(terms, 90) == 15_000


@pytest.mark.clause("S5", "free")
@pytest.mark.parametrize("kind", [Kind.OUTBOUND, Kind.INBOUND])
def test_without_an_agreement_there_is_no_surcharge(kind: Kind) -> None:
    assert dialled(SPOKE, LONDON, kind).allow.terms == ()


@pytest.mark.clause("S5", "free")
@pytest.mark.parametrize("kind", [Kind.INTERNAL, Kind.VOICEMAIL, Kind.MESSAGE])
def test_what_is_no_call_in_or_out_has_no_surcharge(kind: Kind) -> None:
    assert dialled(SPOKE, COLLEAGUE, kind, agreed=AGREED).allow.terms == ()


# --- S7: several calls at once -------------------------------------------------------------------

ONE_AT_ONCE = SPOKE.model_copy(
    update={"caps": SPOKE.caps.model_copy(update={"simultaneous_calls": Cap(limit=1, clause="S7")})}
)


@pytest.mark.clause("S7", "allowed")
def test_a_call_is_allowed_while_fewer_than_the_limit_are_up() -> None:
    assert dialled(SPOKE, LONDON, live_calls=9).told[0]
    assert dialled(ONE_AT_ONCE, LONDON, live_calls=0).told[0]


@pytest.mark.clause("S7", "refused")
@pytest.mark.parametrize("kind", [Kind.OUTBOUND, Kind.INBOUND, Kind.INTERNAL])
def test_one_more_at_once_is_refused(kind: Kind) -> None:
    for policy, live in ((SPOKE, 10), (ONE_AT_ONCE, 1)):
        found = dialled(policy, LONDON, kind, live_calls=live)
        assert found.told == (False, Reason.TOO_MANY_CALLS, "spokephone S7")


# --- S8: 900 numbers and call-in lines -----------------------------------------------------------


@pytest.mark.clause("S8", "allowed")
@pytest.mark.parametrize("number", [LONDON, MOBILE, number_of_class(NumberClass.TOLL_FREE)])
def test_ordinary_numbers_are_covered(number: Number) -> None:
    assert dialled(SPOKE, number).told == (True, Reason.COVERED, "spokephone S1")


@pytest.mark.clause("S8", "refused")
@pytest.mark.parametrize(
    "number",
    [
        PREMIUM,
        Number("0019002345678", "+19002345678", NumberClass.PREMIUM_RATE, "US"),
        number_of_class(NumberClass.SHARED_COST),
        number_of_class(NumberClass.UAN),
        number_of_class(NumberClass.SHORT_CODE),
    ],
)
@pytest.mark.parametrize("kind", [Kind.OUTBOUND, Kind.MESSAGE])
def test_premium_and_call_in_numbers_are_refused(number: Number, kind: Kind) -> None:
    assert dialled(SPOKE, number, kind).told == (False, Reason.CLASS_NOT_COVERED, "spokephone S8")
