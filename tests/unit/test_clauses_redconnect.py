"""policies/redconnect.toml, clause by clause: what a dial on it is told, and what it costs."""

from datetime import date
from zoneinfo import ZoneInfo

import pytest

from fairdial.policy import publishing
from fairdial.policy.account import Kind, Options, Standing
from fairdial.policy.book import PolicyBook
from fairdial.policy.numbers import Number
from fairdial.policy.outcomes import Reason
from fairdial.policy.terms import Mode, overage_micros, seconds_past
from tests.samples import LONDON
from tests.shipped import COLLEAGUE, EITHER, PARIS, POLICIES, PREMIUM, dialled, ms

RED = POLICIES["redconnect"]
LIMIT_S = 2400 * 60


# --- R1: 2,400 minutes for each user -------------------------------------------------------------


@pytest.mark.clause("R1", "allowed")
@pytest.mark.parametrize("number", [LONDON, PARIS, EITHER])
@pytest.mark.parametrize("kind", [Kind.OUTBOUND, Kind.INBOUND])
def test_calls_in_and_out_anywhere_are_within_the_minutes(number: Number, kind: Kind) -> None:
    found = dialled(RED, number, kind, used={"voice": LIMIT_S - 1}, options=Options())
    assert found.told == (True, Reason.WITHIN_ALLOWANCE, "redconnect R1")


@pytest.mark.clause("R1", "charged")
@pytest.mark.parametrize("kind", [Kind.OUTBOUND, Kind.INBOUND])
def test_after_2400_minutes_calls_in_and_out_are_past_them(kind: Kind) -> None:
    found = dialled(RED, LONDON, kind, used={"voice": LIMIT_S})
    assert found.told == (True, Reason.PAST_ALLOWANCE, "redconnect R3")


@pytest.mark.clause("R1", "allowed")
def test_each_user_has_minutes_of_their_own() -> None:
    found = dialled(RED, LONDON)
    [hold] = found.allow.holds
    assert (hold.allowance, hold.limit_units) == ("voice/alice", LIMIT_S)


@pytest.mark.clause("R1", "refused")
def test_a_number_with_a_price_of_its_own_is_refused() -> None:
    assert dialled(RED, PREMIUM).told == (False, Reason.CLASS_NOT_COVERED, "redconnect R1")


# --- R2: calendar months, and what does not count ------------------------------------------------


@pytest.mark.clause("R2", "free")
@pytest.mark.parametrize(("kind", "number"), [(Kind.VOICEMAIL, COLLEAGUE), (Kind.INTERNAL, COLLEAGUE)])
def test_voicemail_and_colleagues_count_nowhere_and_cost_nothing(kind: Kind, number: Number) -> None:
    found = dialled(RED, number, kind, used={"voice": LIMIT_S})
    assert found.told == (True, Reason.NOT_COUNTED, "redconnect R2")
    assert (found.allow.holds, found.allow.terms, found.snapshot.meters) == ((), (), ())


@pytest.mark.clause("R2", "charged")
@pytest.mark.parametrize(
    ("zone", "last", "first"),
    [
        ("Europe/London", "2026-11-30T23:59:59Z", "2026-12-01T00:00:00Z"),
        ("Asia/Tokyo", "2026-11-30T14:59:59Z", "2026-11-30T15:00:00Z"),
        ("America/New_York", "2026-12-01T04:59:59Z", "2026-12-01T05:00:00Z"),
    ],
)
def test_a_used_up_month_ends_at_local_midnight(zone: str, last: str, first: str) -> None:
    past = dialled(RED, LONDON, used={"voice": LIMIT_S}, at_ms=ms(last), zone=zone)
    assert past.told == (True, Reason.PAST_ALLOWANCE, "redconnect R3")
    # The window that a dial one second later falls into is the next one: the old month's use is not in it.
    [ended, begun] = past.snapshot.meters
    assert (ended.window.end_ms, begun.window.start_ms) == (ms(first), ms(first))
    later = dialled(RED, LONDON, at_ms=ms(first), zone=zone)
    assert later.snapshot.meters[0].window == begun.window
    assert later.told == (True, Reason.WITHIN_ALLOWANCE, "redconnect R1")


@pytest.mark.clause("R2", "refused")
def test_kinds_that_the_plan_does_not_have_are_refused() -> None:
    assert dialled(RED, LONDON, Kind.CALLBACK).told == (False, Reason.KIND_NOT_COVERED, "redconnect R2")


# --- R3: the charge past the minutes -------------------------------------------------------------


@pytest.mark.clause("R3", "free")
@pytest.mark.clause("R3", "charged")
@pytest.mark.parametrize(
    ("used_before_s", "call_s", "past_s", "micros"),
    [
        # 2,399 min 30 s were used: of 90 s, 30 are included and 60 charged, one minute of 0.04.
        (2399 * 60 + 30, 90, 60, 40_000),
        # 61 s past: two begun minutes, 2 x 0.04.
        (2399 * 60 + 30, 91, 61, 80_000),
        # To the last second: nothing.
        (2399 * 60 + 30, 30, 0, 0),
        # All of it past: 10 minutes of 0.04.
        (2400 * 60, 600, 600, 400_000),
        (2400 * 60, 0, 0, 0),
    ],
)
def test_the_seconds_past_the_minutes_are_charged(
    used_before_s: int, call_s: int, past_s: int, micros: int
) -> None:
    found = dialled(RED, LONDON, used={"voice": used_before_s})
    [terms] = found.allow.terms
    assert (terms.mode, terms.currency, terms.clause.id) == (Mode.OVERAGE, "USD", "R3")
    stretches = [(LIMIT_S - used_before_s, call_s)] if call_s > LIMIT_S - used_before_s else []
    assert seconds_past(stretches)[0] == past_s
    began_included = used_before_s < LIMIT_S
    assert overage_micros(terms, call_s, past_s, began_included=began_included) == micros


@pytest.mark.clause("R3", "charged")
def test_a_call_in_progress_is_not_ended_by_the_limit() -> None:
    for used_s in (LIMIT_S - 1, LIMIT_S, 2 * LIMIT_S):
        assert dialled(RED, LONDON, used={"voice": used_s}).allow.granted_s is None


# --- R6: standing --------------------------------------------------------------------------------


@pytest.mark.clause("R6", "refused")
@pytest.mark.parametrize(
    ("standing", "reason"),
    [
        (Standing.SUSPENDED, Reason.ACCOUNT_SUSPENDED),
        (Standing.TERMINATED, Reason.ACCOUNT_TERMINATED),
    ],
)
def test_abuse_suspends_or_terminates(standing: Standing, reason: Reason) -> None:
    assert dialled(RED, LONDON, standing=standing).told == (False, reason, "redconnect R6")


@pytest.mark.clause("R6", "allowed")
def test_in_good_standing_calls_go_on() -> None:
    assert dialled(RED, LONDON, standing=Standing.ACTIVE).told[0]


# --- R7: changes in advance ----------------------------------------------------------------------

HALVED = RED.model_copy(
    update={
        "version": "2027-01",
        "published": date(2026, 11, 21),
        "effective": date(2027, 1, 1),
        "allowances": (RED.allowances[0].model_copy(update={"limit_s": LIMIT_S // 2}),),
    }
)


@pytest.mark.clause("R7", "allowed")
@pytest.mark.clause("R7", "charged")
@pytest.mark.parametrize(
    ("zone", "last", "first"),
    [
        ("UTC", "2026-12-31T23:59:59Z", "2027-01-01T00:00:00Z"),
        ("Asia/Tokyo", "2026-12-31T14:59:59Z", "2026-12-31T15:00:00Z"),
        ("America/New_York", "2027-01-01T04:59:59Z", "2027-01-01T05:00:00Z"),
    ],
)
def test_the_old_version_decides_until_local_midnight(zone: str, last: str, first: str) -> None:
    book = PolicyBook([RED, HALVED])
    old = book.at("redconnect", ZoneInfo(zone), ms(last))
    new = book.at("redconnect", ZoneInfo(zone), ms(first))
    assert old is not None
    assert new is not None
    used = {"voice": LIMIT_S // 2}
    before = dialled(old, LONDON, used=used, at_ms=ms(last), zone=zone)
    after = dialled(new, LONDON, used=used, at_ms=ms(first), zone=zone)
    assert (before.told, before.decision.clause.version) == (
        (True, Reason.WITHIN_ALLOWANCE, "redconnect R1"),
        "2026-11",
    )
    assert (after.told, after.decision.clause.version) == (
        (True, Reason.PAST_ALLOWANCE, "redconnect R3"),
        "2027-01",
    )


@pytest.mark.clause("R7", "allowed")
@pytest.mark.clause("R7", "refused")
def test_thirty_days_of_notice_are_needed_to_publish() -> None:
    book = PolicyBook([RED])
    # From 21 November, thirty days end on 21 December.
    in_time = HALVED.model_copy(update={"effective": date(2026, 12, 21)})
    too_early = HALVED.model_copy(update={"effective": date(2026, 12, 20)})
    assert publishing.faults(in_time, book, date(2026, 11, 21)) == ()
    [fault] = publishing.faults(too_early, book, date(2026, 11, 21))
    assert (fault.key, "30 days of notice" in fault.words, "R7" in fault.words) == ("effective", True, True)
