"""policies/voxdirect.toml, clause by clause: what a dial on it is told, and what it costs."""

from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from fairdial.desk import Desk, DeskRules
from fairdial.ledger.contract import TooMany
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy import publishing
from fairdial.policy.account import Account, Kind, Line, Standing
from fairdial.policy.book import PolicyBook
from fairdial.policy.numbers import Number
from fairdial.policy.outcomes import Reason
from fairdial.policy.terms import Mode, overage_micros, whole_micros
from tests.charges import NUMBERING
from tests.samples import LONDON, SetClock
from tests.shipped import BERLIN, COLLEAGUE, PARIS, POLICIES, PREMIUM, dialled, eur, ms

VOX = POLICIES["voxdirect"]
LIMIT_S = 30_000 * 60


# --- V1: 30,000 minutes and messages for the whole plan ------------------------------------------


@pytest.mark.clause("V1", "allowed")
@pytest.mark.parametrize("number", [LONDON, BERLIN])
@pytest.mark.parametrize("kind", [Kind.OUTBOUND, Kind.INBOUND])
def test_countries_of_the_plan_share_its_minutes(number: Number, kind: Kind) -> None:
    found = dialled(VOX, number, kind, used={"voice": LIMIT_S - 1})
    assert found.told == (True, Reason.WITHIN_ALLOWANCE, "voxdirect V1")
    # One meter, whatever the country and the line.
    assert [(hold.allowance, hold.limit_units) for hold in found.allow.holds] == [("voice", LIMIT_S)]


@pytest.mark.clause("V1", "charged")
@pytest.mark.parametrize("number", [LONDON, BERLIN])
def test_minutes_used_up_in_one_country_are_used_up_in_all(number: Number) -> None:
    found = dialled(VOX, number, used={"voice": LIMIT_S})
    assert found.told == (True, Reason.PAST_ALLOWANCE, "voxdirect V2")


@pytest.mark.clause("V1", "allowed")
def test_the_thirty_thousandth_message_is_within_the_plan() -> None:
    found = dialled(VOX, LONDON, Kind.MESSAGE, used={"messages": 29_999, "voice": LIMIT_S})
    assert found.told == (True, Reason.WITHIN_ALLOWANCE, "voxdirect V1")


@pytest.mark.clause("V1", "charged")
def test_the_message_after_it_is_past_the_plan() -> None:
    found = dialled(VOX, LONDON, Kind.MESSAGE, used={"messages": 30_000})
    assert found.told == (True, Reason.PAST_ALLOWANCE, "voxdirect V2")


@pytest.mark.clause("V1", "refused")
def test_countries_and_classes_outside_the_plan_are_refused() -> None:
    assert dialled(VOX, PARIS).told == (False, Reason.COUNTRY_NOT_COVERED, "voxdirect V1")
    assert dialled(VOX, PREMIUM).told == (False, Reason.CLASS_NOT_COVERED, "voxdirect V1")


# --- V2: the published rates past them -----------------------------------------------------------


@pytest.mark.clause("V2", "charged")
def test_minutes_past_the_plan_cost_two_cents_each() -> None:
    [terms] = dialled(VOX, LONDON, used={"voice": LIMIT_S}).allow.terms
    assert (terms.mode, terms.currency, terms.clause.id) == (Mode.OVERAGE, "USD", "V2")
    # 61 s: two begun minutes of 0.02.
    assert overage_micros(terms, 61, 61, began_included=False) == 40_000
    # 100 s of which the last 40 are past the plan: one begun minute.
    assert overage_micros(terms, 100, 40, began_included=True) == 20_000


@pytest.mark.clause("V2", "charged")
def test_a_message_past_the_plan_costs_a_cent_and_a_half() -> None:
    [terms] = dialled(VOX, LONDON, Kind.MESSAGE, used={"messages": 30_000}).allow.terms
    assert (terms.mode, terms.currency, terms.clause.id) == (Mode.OVERAGE, "USD", "V2")
    # A message is billed as a call of its shortest length, at the fee alone.
    assert whole_micros(terms, 1) == 15_000


@pytest.mark.clause("V2", "free")
def test_within_the_plan_nothing_is_charged() -> None:
    [terms] = dialled(VOX, LONDON, used={"voice": LIMIT_S - 100}).allow.terms
    assert overage_micros(terms, 100, 0, began_included=True) == 0


@pytest.mark.clause("V2", "free")
def test_calls_that_do_not_count_cost_nothing_past_the_plan_either() -> None:
    for kind in (Kind.INTERNAL, Kind.VOICEMAIL):
        found = dialled(VOX, COLLEAGUE, kind, used={"voice": LIMIT_S})
        assert (found.decision.reason, found.allow.terms) == (Reason.NOT_COUNTED, ())


# --- V3: a hundred extensions --------------------------------------------------------------------


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqliteLedger]:
    """A ledger with an account on the plan that holds 99 lines."""
    ledger = await SqliteLedger.open(tmp_path / "ledger.sqlite")
    for account in ("acme", "second"):
        await ledger.add_account(Account(account, "voxdirect"))
    for number in range(1, 100):
        await ledger.add_line(Line(f"line-{number}", "acme"))
    yield ledger
    await ledger.close()


@pytest.fixture
def desk(ledger: SqliteLedger) -> Desk:
    """The desk that knows how many lines the plan allows."""
    return Desk(ledger, PolicyBook([VOX]), NUMBERING, SetClock(), DeskRules())


@pytest.mark.clause("V3", "allowed")
async def test_the_hundredth_line_is_set_up(ledger: SqliteLedger, desk: Desk) -> None:
    await ledger.add_line(Line("line-100", "acme"), desk.lines_max)
    assert len(await ledger.lines("acme")) == 100


@pytest.mark.clause("V3", "refused")
async def test_the_line_after_it_needs_another_account(ledger: SqliteLedger, desk: Desk) -> None:
    await ledger.add_line(Line("line-100", "acme"), desk.lines_max)
    with pytest.raises(TooMany, match="account 'acme' holds 100 lines, and its policy allows 100"):
        await ledger.add_line(Line("line-101", "acme"), desk.lines_max)
    await ledger.add_line(Line("line-101", "second"), desk.lines_max)


# --- V6: callback --------------------------------------------------------------------------------


@pytest.mark.clause("V6", "allowed")
def test_a_callback_fits_into_two_seconds_of_the_plan_for_each_of_its_own() -> None:
    found = dialled(VOX, LONDON, Kind.CALLBACK, used={"voice": LIMIT_S - 2})
    assert found.told == (True, Reason.WITHIN_ALLOWANCE, "voxdirect V6")
    assert [hold.weight for hold in found.allow.holds] == [2]


@pytest.mark.clause("V6", "charged")
def test_a_callback_is_past_the_plan_where_one_second_is_left() -> None:
    used = {"voice": LIMIT_S - 1}
    found = dialled(VOX, LONDON, Kind.CALLBACK, used=used)
    assert found.told == (True, Reason.PAST_ALLOWANCE, "voxdirect V2")
    # A plain call of one leg still has that second.
    assert dialled(VOX, LONDON, used=used).told == (True, Reason.WITHIN_ALLOWANCE, "voxdirect V1")


# --- V8: fraud -----------------------------------------------------------------------------------


@pytest.mark.clause("V8", "refused")
@pytest.mark.parametrize("kind", [Kind.OUTBOUND, Kind.INBOUND, Kind.CALLBACK, Kind.MESSAGE])
def test_after_fraud_nothing_goes_whatever_credit_there_is(kind: Kind) -> None:
    found = dialled(VOX, LONDON, kind, standing=Standing.TERMINATED, fraud=True, credit=eur(10**9))
    assert found.told == (False, Reason.ACCOUNT_TERMINATED, "voxdirect V8")


@pytest.mark.clause("V8", "allowed")
@pytest.mark.parametrize("kind", [Kind.OUTBOUND, Kind.INBOUND, Kind.CALLBACK, Kind.MESSAGE])
def test_without_fraud_the_account_has_its_calls(kind: Kind) -> None:
    assert dialled(VOX, LONDON, kind, standing=Standing.ACTIVE).told[0]


def test_who_is_terminated_for_another_reason_is_not_told_of_fraud() -> None:
    found = dialled(VOX, LONDON, standing=Standing.TERMINATED)
    assert found.told == (False, Reason.ACCOUNT_TERMINATED, "voxdirect V7")


# --- V9: changes with notice ---------------------------------------------------------------------

WITHOUT_CALLBACK = VOX.model_copy(
    update={
        "version": "2026-12",
        "published": date(2026, 11, 21),
        "effective": date(2026, 12, 5),
        "kinds": VOX.kinds.model_copy(update={"allow": VOX.kinds.allow - {Kind.CALLBACK}}),
    }
)


@pytest.mark.clause("V9", "allowed")
@pytest.mark.clause("V9", "refused")
@pytest.mark.parametrize(
    ("zone", "last", "first"),
    [
        ("UTC", "2026-12-04T23:59:59Z", "2026-12-05T00:00:00Z"),
        ("Asia/Tokyo", "2026-12-04T14:59:59Z", "2026-12-04T15:00:00Z"),
        ("America/New_York", "2026-12-05T04:59:59Z", "2026-12-05T05:00:00Z"),
    ],
)
def test_a_kind_taken_out_is_there_until_local_midnight(zone: str, last: str, first: str) -> None:
    book = PolicyBook([VOX, WITHOUT_CALLBACK])
    old = book.at("voxdirect", ZoneInfo(zone), ms(last))
    new = book.at("voxdirect", ZoneInfo(zone), ms(first))
    assert old is not None
    assert new is not None
    before = dialled(old, LONDON, Kind.CALLBACK, at_ms=ms(last), zone=zone)
    after = dialled(new, LONDON, Kind.CALLBACK, at_ms=ms(first), zone=zone)
    assert before.told == (True, Reason.WITHIN_ALLOWANCE, "voxdirect V6")
    assert after.told == (False, Reason.KIND_NOT_COVERED, "voxdirect V1")


@pytest.mark.clause("V9", "allowed")
@pytest.mark.clause("V9", "refused")
def test_fourteen_days_of_notice_are_needed_to_publish() -> None:
    book = PolicyBook([VOX])
    too_early = WITHOUT_CALLBACK.model_copy(update={"effective": date(2026, 12, 4)})
    # From 21 November, fourteen days end on 5 December.
    assert publishing.faults(WITHOUT_CALLBACK, book, date(2026, 11, 21)) == ()
    [fault] = publishing.faults(too_early, book, date(2026, 11, 21))
    assert (fault.key, "14 days of notice" in fault.words, "V9" in fault.words) == ("effective", True, True)
