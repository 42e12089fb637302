"""Recorded calls through the desk once more: refused and allowed, cut and not, charged and included."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, date
from pathlib import Path

import pytest

from fairdial.clock import Moment
from fairdial.desk import Asked, Desk, DeskRules
from fairdial.ledger.contract import Usage
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.account import Kind, Line
from fairdial.policy.book import PolicyBook
from fairdial.policy.decide import Allow, Verdict
from fairdial.policy.document import Policy, parse_policy
from fairdial.policy.numbers import Habit
from fairdial.policy.terms import Clause
from fairdial.replay.calls import GROUP_ROWS
from fairdial.replay.detectors import look_on
from fairdial.replay.prepare import Assumed, Grounds, ReplayRefused
from fairdial.replay.result import Flag
from fairdial.replay.run import Wanted, replay
from tests.cdrs import CUSTOMERS, LEAD_S, NUMBERING, PREMIUM, call_of, replayed, row, site
from tests.samples import MONTH_END_MS, NOON_MS, PLAN, SetClock, plan, provision
from tests.watched import detector, watched

PROJECT = Path(__file__).parents[2]
DATA = PROJECT / "tests/data/cdr"
TO_MONTH_END_S = (MONTH_END_MS - NOON_MS) // 1000
CHARGED = (
    PLAN.replace('clause = "P4"', 'clause = "P4"\nused_up = "overage"')
    + '[charges]\noverage_per_min = "0.60"\nincrement = "60/60"\ncurrency = "GBP"\nclause = "P6"\n'
)


def overage(limit_s: int) -> Policy:
    """The sample plan, past whose allowance calls are charged."""
    return parse_policy(CHARGED.replace("limit_s = 6000", f"limit_s = {limit_s}"), "plan.toml")


def refusing(limit_s: int, version: str = "1", **others: int | None) -> Policy:
    """The sample plan with another limit, under that version."""
    return plan(limit_s=limit_s, **others).model_copy(update={"version": version})


async def test_a_call_that_the_plan_covers_is_allowed_and_metered(tmp_path: Path) -> None:
    found = await replayed(tmp_path, [row(1, 0, 60)], plan())
    outcome = found.of(1)
    assert (outcome.decision, outcome.reason, outcome.clause) == (
        "allow",
        "within_allowance",
        Clause("plan", "1", "P4"),
    )
    assert (outcome.account_id, outcome.line_id, outcome.kind) == ("acme", "alice", Kind.OUTBOUND)
    assert (outcome.talk_s, outcome.metered_s, outcome.cut) == (60, 60, None)
    assert found.used_units == {"acme": 60}
    assert not found.result.found


async def test_a_call_of_a_class_outside_the_plan_is_refused_and_meters_nothing(tmp_path: Path) -> None:
    found = await replayed(tmp_path, [row(1, 0, 60, dst=PREMIUM)], plan())
    outcome = found.of(1)
    assert (outcome.decision, outcome.reason, outcome.clause.id) == ("refuse", "class_not_covered", "P1")
    assert (outcome.talk_s, outcome.metered_s) == (60, 0)
    assert found.used_units == {}
    assert found.result.found


async def test_a_call_that_nobody_answered_uses_nothing(tmp_path: Path) -> None:
    found = await replayed(tmp_path, [row(1, 0, None)], plan())
    assert (found.of(1).decision, found.of(1).metered_s) == ("allow", 0)
    assert found.used_units == {"acme": 0}


@pytest.mark.parametrize(
    ("between_s", "bill_s", "talk_s"), [(3, 2, 3), (3, 3, 3), (4, 2, 3), (2, 3, 3), (0, 0, 1)]
)
async def test_talk_is_from_answer_to_end_within_a_second_of_billsec(
    tmp_path: Path, between_s: int, bill_s: int, talk_s: int
) -> None:
    """Asterisk cuts each of them down by itself."""
    found = await replayed(tmp_path, [row(1, 0, between_s, bill_s=bill_s)], plan())
    assert found.of(1).metered_s == talk_s


async def test_a_call_past_the_longest_is_cut_there_and_a_shorter_one_is_not(tmp_path: Path) -> None:
    rows = [row(1, 0, 50), row(2, 100, 200)]
    found = await replayed(tmp_path, rows, plan(limit_s=None, longest_s=90))
    assert (found.of(1).metered_s, found.of(1).cut) == (50, None)
    assert (found.of(2).talk_s, found.of(2).metered_s) == (200, 90)
    assert found.of(2).cut == Clause("plan", "1", "P3")
    assert found.result.tally.overall.cut == 1
    assert found.result.tally.by_clause[Clause("plan", "1", "P3")].cut == 1


async def test_a_call_is_renewed_up_to_the_allowance_and_cut_there_and_the_next_is_refused(
    tmp_path: Path,
) -> None:
    rows = [row(1, 0, 500), row(2, 1000, 10)]
    found = await replayed(tmp_path, rows, plan(limit_s=300))
    assert (found.of(1).metered_s, found.of(1).cut) == (300, Clause("plan", "1", "P4"))
    assert (found.of(2).decision, found.of(2).reason) == ("refuse", "allowance_used_up")
    assert found.used_units == {"acme": 300}


async def test_past_an_allowance_seconds_are_charged_and_within_it_they_are_included(
    tmp_path: Path,
) -> None:
    rows = [row(1, 0, 80), row(2, 1000, 100), row(3, 2000, 30)]
    found = await replayed(tmp_path, rows, overage(120))
    assert [found.of(number).owed for number in (1, 2, 3)] == [
        {},
        {"GBP": 600_000},
        {"GBP": 600_000},
    ]
    assert [found.of(number).reason for number in (1, 2, 3)] == [
        "within_allowance",
        "within_allowance",
        "past_allowance",
    ]
    assert found.result.tally.overall.charges == {"GBP": 1_200_000}
    assert found.result.tally.by_clause[Clause("plan", "1", "P6")].charges == {"GBP": 1_200_000}
    assert [usage.meter.over_units for _, usage in found.result.usage] == [90]
    assert not found.result.found


async def test_a_call_over_the_end_of_a_month_is_split(tmp_path: Path) -> None:
    found = await replayed(tmp_path, [row(1, TO_MONTH_END_S - 35, 100, ring_s=5)], plan())
    assert [usage.meter.used_units for _, usage in found.result.usage] == [30, 70]
    assert found.of(1).metered_s == 100


async def test_a_new_month_begins_with_an_empty_allowance(tmp_path: Path) -> None:
    rows = [row(1, 0, 400), row(2, 1000, 60), row(3, TO_MONTH_END_S + 60, 60)]
    found = await replayed(tmp_path, rows, plan(limit_s=300))
    assert [found.of(number).decision for number in (1, 2, 3)] == ["allow", "refuse", "allow"]


async def test_calls_at_once_share_the_last_minute_and_never_use_more_than_it(tmp_path: Path) -> None:
    rows = [row(1, 0, 100), row(2, 3, 100), row(3, 6, 100), row(4, 9, 100)]
    found = await replayed(tmp_path, rows, plan(limit_s=60))
    assert found.used_units == {"acme": 60}
    metered = [found.of(number).metered_s for number in (1, 2, 3, 4)]
    assert sum(metered) == 60
    assert sorted(metered)[1] > 0, "none got it all"


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_calls_overlap_no_limit_is_passed_and_nothing_stays_reserved(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    rows = [
        row(
            number,
            chance.randrange(600),
            chance.choice([None, 1, 30, 90, 200]),
            ring_s=chance.randrange(30),
            line=chance.choice(["alice", "bob"]),
        )
        for number in range(40)
    ]
    limit_s = chance.choice([0, 50, 300, 900])
    found = await replayed(tmp_path, rows, plan(limit_s=limit_s, day_limit_s=limit_s * 2 // 3))
    for _, usage in found.result.usage:
        assert usage.meter.limit_units is not None
        assert usage.meter.used_units <= usage.meter.limit_units
        assert usage.meter.reserved_units == 0
    assert len(found.calls) == 40
    assert all(outcome.metered_s <= outcome.talk_s for outcome in found.calls.values())


async def test_records_are_replayed_in_the_order_of_their_starts_not_of_their_ends(tmp_path: Path) -> None:
    rows = [row(2, 500, 20), row(1, 0, 1000)]
    found = await replayed(tmp_path, rows, plan(limit_s=1000))
    # The first call, which ends last, holds most when the second asks.
    assert found.of(2).decision == "allow"
    assert found.of(1).metered_s == 980
    assert found.of(1).cut is not None


async def test_an_inbound_call_counts_for_the_line_that_is_called(tmp_path: Path) -> None:
    inbound = row(
        1,
        0,
        60,
        line="trunk",
        code="",
        dst="442079460000",
        src="+442079460200",
        dst_channel="PJSIP/alice-00000077",
    )
    found = await replayed(tmp_path, [inbound], plan())
    assert (found.of(1).kind, found.of(1).line_id, found.of(1).dialled) == (
        Kind.INBOUND,
        "alice",
        "442079460000",
    )
    assert found.used_units == {"acme": 60}


@pytest.mark.parametrize("dst", ["442079460000", "+442079460000", "02079460000"])
async def test_an_inbound_call_that_rang_nobody_is_known_by_the_number(tmp_path: Path, dst: str) -> None:
    customers = CUSTOMERS + '[[number]]\nnumber = "+442079460000"\naccount = "acme"\nline = "alice"\n'
    rows = [
        row(1, 0, None, line="trunk", code="", dst=dst, dst_channel="", last_app="Hangup"),
        row(2, 9, None, line="trunk", code="", dst="442079460001", dst_channel="", last_app="Hangup"),
    ]
    found = await replayed(tmp_path, rows, plan(), customers=customers)
    assert (found.of(1).kind, found.of(1).line_id) == (Kind.INBOUND, "alice")
    assert found.result.strangers.calls == 1


async def test_who_came_into_a_room_of_ours_has_the_id_that_the_ledger_has(tmp_path: Path) -> None:
    records = [
        row(1, 0, dst="7001", last_app="Stasis", last_data="fairdial,room,7001"),
        row(2, 100, dst="7001", last_app="ConfBridge"),
    ]
    found = await replayed(tmp_path, records, plan())
    assert list(found.calls) == ["1795262400.1-room", call_of(2)]


async def test_a_call_of_no_known_line_is_counted_and_not_decided(tmp_path: Path) -> None:
    rows = [row(1, 0, 60, line="nobody"), row(2, 10, 60, line="nobody"), row(3, 20, 60)]
    found = await replayed(tmp_path, rows, plan())
    assert list(found.calls) == [call_of(3)]
    assert (found.result.calls, found.result.strangers.calls) == (1, 2)
    assert list(found.result.strangers.most(5)) == [("nobody", 2)]


async def test_the_endpoint_says_whose_call_it_is_where_the_account_code_does_not(tmp_path: Path) -> None:
    found = await replayed(tmp_path, [row(1, 0, line="carol", code="department-7")], plan())
    assert (found.of(1).line_id, found.of(1).account_id) == ("carol", "other")


@pytest.mark.parametrize(
    ("changes", "kind", "decision"),
    [
        ({"dst": "101"}, Kind.INTERNAL, "allow"),
        ({"dst": "carol"}, Kind.INTERNAL, "allow"),
        ({"dst": "8101", "dst_channel": "PJSIP/carol-00000099"}, Kind.INTERNAL, "allow"),
        ({"dst": "8101"}, Kind.OUTBOUND, "refuse"),
        ({"dst": "*97", "last_app": "VoiceMailMain", "dst_channel": ""}, Kind.VOICEMAIL, "allow"),
        ({"dst": "7001", "last_app": "ConfBridge", "dst_channel": ""}, Kind.CONFERENCE, "refuse"),
        ({"dst": "7001", "last_app": "Stasis", "last_data": "fairdial,room,7001"}, Kind.CONFERENCE, "refuse"),
        ({"dst": "112"}, Kind.EMERGENCY, "allow"),
        ({"dst": PREMIUM}, Kind.OUTBOUND, "refuse"),
    ],
)
async def test_a_record_tells_what_kind_of_call_it_was(
    tmp_path: Path, changes: dict[str, str], kind: Kind, decision: str
) -> None:
    found = await replayed(tmp_path, [row(1, 0, 30, **changes)], plan())  # type: ignore[arg-type]
    [outcome] = found.calls.values()
    assert (outcome.kind, outcome.decision) == (kind, decision)


async def test_an_emergency_call_needs_no_account_and_is_not_metered(tmp_path: Path) -> None:
    found = await replayed(tmp_path, [row(1, 0, 30, dst="112")], plan(limit_s=0))
    assert (found.of(1).reason, found.of(1).account_id, found.of(1).metered_s) == ("emergency", None, 0)


# --- calls that FairDial set up -----------------------------------------------------------------------

OWN = "own-0123456789abcdef"
LEGS = parse_policy(
    PLAN.replace('"voicemail"]', '"voicemail", "callback", "collect", "conference"]').replace(
        'counts = ["outbound", "inbound"]',
        'counts = ["outbound", "inbound", "callback", "collect", "conference"]\nweights = { callback = 2 }',
    ),
    "plan.toml",
)


def first_leg(talk_s: int | None, joined: bool = True, words: str = "callback,02079460123,alice") -> str:
    """Of a callback: rung from the start on, answered after five seconds."""
    return row(
        1,
        0,
        talk_s,
        dst="s",
        dst_channel=None if joined else "",
        unique_id=OWN,
        last_app="Stasis",
        last_data=f"fairdial,own,{words}",
    )


def second_leg(at_s: int, talk_s: int | None, channel_id: str = OWN) -> str:
    """The other one, answered five seconds after `at_s`."""
    return row(
        2,
        at_s,
        talk_s,
        dst="s",
        channel="PJSIP/carrier-00000001",
        dst_channel="",
        unique_id=f"{channel_id}-own-second",
        last_app="Stasis",
        last_data="fairdial,own",
    )


async def test_a_callback_counts_from_the_answer_of_its_second_leg_and_twice(tmp_path: Path) -> None:
    # Written in the order of their ends; the first leg is up from second 5 to 48, the second answers at 18.
    found = await replayed(tmp_path, [second_leg(13, 0), first_leg(43)], LEGS)
    [outcome] = found.calls.values()
    assert (outcome.call_id, outcome.kind, outcome.line_id) == (f"{OWN}-own", Kind.CALLBACK, "alice")
    assert (outcome.dialled, outcome.decision, outcome.metered_s) == ("02079460123", "allow", 30)
    assert found.used_units == {"acme": 60}


async def test_a_callback_whose_second_leg_never_answered_uses_nothing(tmp_path: Path) -> None:
    found = await replayed(tmp_path, [second_leg(13, None), first_leg(20, joined=False)], LEGS)
    [outcome] = found.calls.values()
    assert (outcome.decision, outcome.metered_s) == ("allow", 0)
    assert found.used_units == {"acme": 0}


async def test_a_callback_that_the_policy_refuses_is_refused(tmp_path: Path) -> None:
    rows = [second_leg(13, 0), first_leg(43, words=f"callback,{PREMIUM},alice")]
    found = await replayed(tmp_path, rows, LEGS)
    [outcome] = found.calls.values()
    assert (outcome.decision, outcome.metered_s) == ("refuse", 0)


@pytest.mark.parametrize(("talk_s", "used_s"), [(20, 20), (None, 0)])
async def test_a_reverse_charge_call_is_the_called_lines_from_its_acceptance_on(
    tmp_path: Path, talk_s: int | None, used_s: int
) -> None:
    words = "fairdial,place-collect,02079460123,alice"
    asks = row(3, 0, talk_s, line="carol", last_app="Stasis", last_data=words, ring_s=9)
    found = await replayed(tmp_path, [asks, second_leg(1, 0, call_of(3)[:-2])], LEGS)
    [outcome] = found.calls.values()
    assert (outcome.call_id, outcome.kind) == (f"{call_of(3)[:-2]}-own", Kind.COLLECT)
    assert (outcome.account_id, outcome.metered_s) == ("acme", used_s)


async def test_who_was_called_into_a_room_is_in_the_conference(tmp_path: Path) -> None:
    found = await replayed(tmp_path, [first_leg(25, joined=False, words="conference,600,alice")], LEGS)
    [outcome] = found.calls.values()
    assert (outcome.call_id, outcome.kind, outcome.metered_s) == (f"{OWN}-own", Kind.CONFERENCE, 25)


async def test_requests_for_a_callback_and_legs_without_their_call_are_no_calls(tmp_path: Path) -> None:
    rows = [
        second_leg(0, 30),
        row(2, 5, 30, last_app="Stasis", last_data="fairdial,place-callback,02079460123,"),
        row(3, 9, 30),
    ]
    found = await replayed(tmp_path, rows, LEGS)
    assert (list(found.calls), found.result.no_calls) == ([call_of(3)], 2)


async def test_a_code_before_the_number_says_what_is_asked_about(tmp_path: Path) -> None:
    rows = [row(1, 0, 30, dst="*7702079460123"), row(2, 100, 30, dst="*7802079460123")]
    found = await replayed(tmp_path, rows, LEGS, codes={"*77": Kind.CALLBACK, "*7": Kind.INTERNAL})
    assert (found.of(1).kind, found.of(1).dialled) == (Kind.CALLBACK, "02079460123")
    assert found.of(2).kind is Kind.INTERNAL
    assert found.used_units == {"acme": 60}


# --- calls with several records ---------------------------------------------------------------------


async def test_a_fork_is_one_call(tmp_path: Path) -> None:
    rows = [
        row(1, 0, None, dst_channel="PJSIP/carrier-00000091"),
        row(1, 0, 60, dst_channel="PJSIP/carrier-00000092"),
    ]
    found = await replayed(tmp_path, rows, plan())
    assert (found.result.calls, found.of(1).talk_s, found.used_units) == (1, 60, {"acme": 60})


async def test_a_dial_after_one_that_nobody_answered_is_of_the_same_call(tmp_path: Path) -> None:
    rows = [
        row(1, 0, None, ring_s=20, dst_channel="PJSIP/one-00000091"),
        row(1, 20, 60, dst_channel="PJSIP/two-00000092"),
    ]
    found = await replayed(tmp_path, rows, plan())
    assert (found.result.calls, found.of(1).talk_s) == (1, 60)


async def test_a_leg_that_is_transferred_keeps_its_call_up(tmp_path: Path) -> None:
    first = row(1, 0, 40, ring_s=5, dst_channel="PJSIP/carrier-00000091")
    onward = row(
        2,
        45,
        50,
        line="carrier",
        code="",
        ring_s=0,
        channel="PJSIP/carrier-00000091",
        dst_channel="PJSIP/carrier-00000092",
    )
    found = await replayed(tmp_path, [first, onward], plan())
    assert (found.result.calls, found.result.went_on) == (1, 1)
    assert (found.of(1).talk_s, found.used_units) == (90, {"acme": 90})


async def test_a_later_call_over_a_channel_of_that_name_is_another(tmp_path: Path) -> None:
    first = row(1, 0, 40, dst_channel="PJSIP/bob-00000091")
    later = row(2, 500, 50, line="bob", channel="PJSIP/bob-00000091")
    found = await replayed(tmp_path, [first, later], plan())
    assert (found.result.calls, found.result.went_on) == (2, 0)


@pytest.mark.parametrize("talk_s", [60, None])
async def test_the_far_end_of_a_local_channel_is_no_call_of_its_own(
    tmp_path: Path, talk_s: int | None
) -> None:
    first = row(1, 0, talk_s, dst_channel="Local/02079460123@route-00000009;1")
    far = row(2, 0, talk_s, channel="Local/02079460123@route-00000009;2")
    found = await replayed(tmp_path, [first, far], plan())
    assert (found.result.calls, found.result.went_on, found.used_units) == (1, 1, {"acme": talk_s or 0})


async def test_who_is_in_a_conference_is_in_a_call_of_his_own_and_the_rooms_clock_runs_once(
    tmp_path: Path,
) -> None:
    """Who was there before has the record of both; a newcomer's own ends as he meets him."""

    def seat(number: int, line: str, at_s: int, stay_s: int, other: str) -> str:
        return row(
            number, at_s, stay_s, line=line, dst="7001", ring_s=0, last_app="ConfBridge", dst_channel=other
        )

    rows = [
        seat(2, "bob", 20, 1, ""),
        seat(1, "alice", 0, 60, "PJSIP/bob-00000002"),
        seat(1, "alice", 50, 50, "PJSIP/dora-00000003"),
        seat(3, "dora", 50, 80, ""),
    ]
    customers = '[[account]]\naccount = "acme"\npolicy = "kryptotel"\n' + "".join(
        f'[[line]]\nline = "{line}"\naccount = "acme"\n' for line in ("alice", "bob", "dora")
    )
    kryptotel = parse_policy((PROJECT / "policies/kryptotel.toml").read_text(), "kryptotel.toml")
    found = await replayed(tmp_path, rows, kryptotel, customers=customers)
    assert (found.result.calls, found.result.went_on) == (3, 0)
    assert [found.of(number).metered_s for number in (1, 2, 3)] == [100, 40, 80]
    used = {usage.meter.allowance: usage.meter.used_units for _, usage in found.result.usage}
    assert used == {"conference-month": 130, "conference-day": 130}


async def test_the_fifth_in_a_conference_is_refused(tmp_path: Path) -> None:
    rows = [
        row(number, number, 60, dst="7001", ring_s=0, last_app="ConfBridge", dst_channel="")
        for number in range(1, 6)
    ]
    kryptotel = parse_policy((PROJECT / "policies/kryptotel.toml").read_text(), "kryptotel.toml")
    customers = (
        '[[account]]\naccount = "acme"\npolicy = "kryptotel"\n[[line]]\nline = "alice"\naccount = "acme"\n'
    )
    found = await replayed(tmp_path, rows, kryptotel, customers=customers)
    assert [found.of(number).reason for number in (1, 4, 5)] == [
        "within_allowance",
        "within_allowance",
        "conference_full",
    ]


async def test_a_record_that_stands_twice_counts_once(tmp_path: Path) -> None:
    found = await replayed(tmp_path, [row(1, 0), row(1, 0)], plan())
    assert found.used_units == {"acme": 60}


async def test_a_file_that_is_given_twice_counts_once(tmp_path: Path) -> None:
    file = tmp_path / "Master.csv"
    # So far apart that they are not taken for records of one channel.
    others = [row(number, number, None, line="nobody") for number in range(3, GROUP_ROWS + 3)]
    file.write_text("\n".join([row(1, 0, 60), row(2, 100, 60), *others]) + "\n")
    customers = tmp_path / "customers.toml"
    customers.write_text(CUSTOMERS)
    wanted = Wanted((file, file), UTC, grounds=Grounds((customers,)))
    result = await replay(site(plan()), wanted, lambda *_told: None)
    assert (result.calls, result.strangers.calls, result.tally.overall.metered_s) == (2, GROUP_ROWS, 120)
    assert result.repeated == GROUP_ROWS + 2


async def test_detectors_are_given_the_desk_before_the_first_call_and_asked_after_the_last(
    tmp_path: Path,
) -> None:
    file = tmp_path / "Master.csv"
    file.write_text(row(1, 0, 60) + "\n")
    customers = tmp_path / "customers.toml"
    customers.write_text(CUSTOMERS)
    flag = Flag("acme", "short-calls", Clause("plan", "1", "P9"), NOON_MS, 0.7, 0.6, "notice", (call_of(1),))
    given: list[Desk] = []

    def watch(desk: Desk) -> Callable[[int | None], Awaitable[tuple[Flag, ...]]]:
        given.append(desk)

        async def saw(end_ms: int | None) -> tuple[Flag, ...]:
            assert end_ms == NOON_MS + 65_000
            return (flag,)

        return saw

    wanted = Wanted((file,), UTC, grounds=Grounds((customers,)))
    result = await replay(site(plan()), wanted, lambda *_told: None, watch=watch)
    assert len(given) == 1
    assert (result.flagged, result.found) == ((flag,), True)


async def test_the_detectors_of_the_policy_say_what_they_would_have_found(tmp_path: Path) -> None:
    policy = watched(
        detector("row", "sequential_numbers", 5, step="suspend"),
        detector("long", "talk_s", 100_000, window="day"),
    )
    rows = [row(n, 40 * n, 10, dst=f"02079460{100 + n}") for n in range(7)]
    file = tmp_path / "Master.csv"
    file.write_text("\n".join(rows) + "\n")
    customers = tmp_path / "customers.toml"
    customers.write_text(CUSTOMERS)
    wanted = Wanted((file,), UTC, grounds=Grounds((customers,)))
    result = await replay(site(policy), wanted, lambda *_told: None, watch=look_on)
    [flag] = result.flagged
    assert (flag.account_id, flag.detector, flag.clause) == ("acme", "row", Clause("plan", "1", "P7"))
    assert (flag.at_ms, flag.threshold, flag.step) == (NOON_MS + 160_000, 5, "suspend")
    assert (flag.value, flag.calls) == (7, tuple(call_of(n) for n in range(5)))
    assert result.tally.overall.allowed == 7, "nothing follows in the replay itself"


async def test_a_replay_holds_accounts_against_what_they_declared(tmp_path: Path) -> None:
    policy = watched(
        detector("above", "times_declared_estimate", 2, window="month", more='allowance = "voice"')
    )
    file = tmp_path / "Master.csv"
    file.write_text(row(1, 0, 250) + "\n")
    customers = tmp_path / "customers.toml"
    for declared_min, flagged in ((1, ["acme"]), (3, [])):
        declared = f'account = "acme"\npolicy = "plan"\nestimate_s = {declared_min * 60}\n'
        customers.write_text(CUSTOMERS.replace('account = "acme"\npolicy = "plan"\n', declared))
        wanted = Wanted((file,), UTC, grounds=Grounds((customers,)))
        result = await replay(site(policy), wanted, lambda *_told: None, watch=look_on)
        assert [flag.account_id for flag in result.flagged] == flagged


# --- which policy ------------------------------------------------------------------------------------


async def test_every_account_can_be_put_on_a_version_of_a_policy(tmp_path: Path) -> None:
    policies = (refusing(30, "1"), refusing(90, "2"))
    for version, metered_s in (("1", 30), ("2", 60)):
        found = await replayed(tmp_path, [row(1, 0, 60)], *policies, policy=f"plan@{version}")
        assert (found.of(1).metered_s, found.result.policy) == (metered_s, f"plan {version}")


async def test_every_account_can_be_put_on_the_policy_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "draft.toml"
    file.write_text(PLAN.replace('name = "plan"', 'name = "draft"').replace("6000", "20"))
    found = await replayed(tmp_path, [row(1, 0, 60)], plan(), policy=str(file))
    assert (found.of(1).metered_s, found.of(1).cut) == (20, Clause("draft", "1", "P4"))


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("nosuch", "policy 'nosuch' is not loaded; known are plan"),
        ("plan@7", "policy 'plan' has no version '7'; known are 1"),
        ("/nowhere.toml", "nowhere.toml"),
    ],
)
async def test_a_policy_that_is_not_there_is_told_of(tmp_path: Path, policy: str, words: str) -> None:
    with pytest.raises(ReplayRefused, match=words.replace("(", r"\(")):
        await replayed(tmp_path, [row(1, 0)], plan(), policy=policy)


async def test_an_account_whose_policy_is_not_loaded_is_undecided(tmp_path: Path) -> None:
    later = plan().model_copy(update={"effective": date(2027, 1, 1)})
    found = await replayed(tmp_path, [row(1, 0)], later)
    assert (found.of(1).decision, found.of(1).reason) == ("undecided", "policy_missing")
    assert found.result.found


async def test_a_named_policy_decides_about_calls_of_before_it_came_into_force(tmp_path: Path) -> None:
    later = plan().model_copy(update={"effective": date(2027, 1, 1)})
    found = await replayed(tmp_path, [row(1, 0)], later, policy="plan")
    assert found.of(1).decision == "allow"


async def test_two_policies_are_compared_call_by_call(tmp_path: Path) -> None:
    policies = (refusing(100, "1"), refusing(1000, "2"))
    rows = [row(1, 0, 60), row(2, 200, 60), row(3, 400, 60, dst=PREMIUM), row(4, 600, 10)]
    found = await replayed(tmp_path, rows, *policies, policy="plan@1", against="plan@2")
    differences, second = found.result.differences, found.result.second
    assert differences is not None
    assert second is not None
    assert (differences.calls, differences.decisions, differences.cuts) == (2, 1, 1)
    assert [each.first.call_id for each in differences.examples] == [call_of(2), call_of(4)]
    assert differences.by_account == {"acme": 2}
    assert (found.result.tally.overall.refused, second.overall.refused) == (2, 1)


async def test_the_same_policy_twice_differs_nowhere(tmp_path: Path) -> None:
    rows = [row(1, 0, 60), row(2, 200, 60), row(3, 400, 60, dst=PREMIUM)]
    found = await replayed(tmp_path, rows, refusing(100), policy="plan", against="plan@1")
    assert found.result.differences is not None
    assert found.result.differences.calls == 0


async def test_a_charge_that_differs_is_a_difference(tmp_path: Path) -> None:
    dear = CHARGED.replace("0.60", "1.20").replace('version = "1"', 'version = "2"').replace("6000", "30")
    policies = (overage(30), parse_policy(dear, "plan.toml"))
    found = await replayed(tmp_path, [row(1, 0, 60)], *policies, policy="plan@1", against="plan@2")
    assert found.result.differences is not None
    assert (found.result.differences.charges, found.result.differences.decisions) == (1, 0)


# --- who is there --------------------------------------------------------------------------------------


async def test_accounts_can_be_made_up_from_the_account_codes(tmp_path: Path) -> None:
    grounds = Grounds(assumed=Assumed("Europe/London", "GB", frozenset()))
    rows = [row(1, 0, line="x1"), row(2, 5, line="x2", dst=PREMIUM), row(3, 9, line="y", code="")]
    found = await replayed(tmp_path, rows, plan(), policy="plan", grounds=grounds)
    assert [(found.of(n).account_id, found.of(n).decision) for n in (1, 2)] == [
        ("x1", "allow"),
        ("x2", "refuse"),
    ]
    assert found.result.strangers.calls == 1


async def test_making_accounts_up_needs_a_policy(tmp_path: Path) -> None:
    grounds = Grounds(assumed=Assumed("UTC", "GB", frozenset()))
    with pytest.raises(ReplayRefused, match="--assume-account needs --policy"):
        await replayed(tmp_path, [row(1, 0)], plan(), grounds=grounds)


async def test_without_a_ledger_or_accounts_nothing_is_replayed(tmp_path: Path) -> None:
    with pytest.raises(ReplayRefused, match=r"there is no ledger; set `store\.path`, or give --accounts"):
        await replayed(tmp_path, [row(1, 0)], plan(), grounds=Grounds())


async def test_a_ledger_in_use_gives_its_accounts_and_credit_and_keeps_its_meters(tmp_path: Path) -> None:
    """The real one is open, holds a live call, and has used some of its allowance."""
    ledger = await SqliteLedger.open(tmp_path / "ledger.sqlite")
    await provision(ledger)
    await ledger.add_credit("acme", "GBP", 5_000_000, "payment-1", NOON_MS)
    desk = Desk(ledger, PolicyBook([plan(limit_s=600)]), NUMBERING, SetClock(), DeskRules())
    verdict = await desk.authorise(Asked("live-1", Kind.OUTBOUND, "02079460123", "alice", "c", 5))
    assert isinstance(verdict, Verdict)
    before = await ledger.sheet("acme")
    file = tmp_path / "Master.csv"
    file.write_text(row(1, 0, 590) + "\n")
    here = site(plan(limit_s=600))
    result = await replay(
        replace(here, store=tmp_path / "ledger.sqlite"), Wanted((file,), UTC), lambda *_told: None
    )
    assert result.tally.overall.metered_s == 590
    assert result.tally.overall.cut == 0
    assert await ledger.sheet("acme") == before
    await desk.close()
    await ledger.close()


# --- as live --------------------------------------------------------------------------------------------


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[SqliteLedger]:
    ledger = await SqliteLedger.open(tmp_path / "live.sqlite")
    await provision(ledger)
    await ledger.add_line(Line("bob", "acme", Habit()))
    yield ledger
    await ledger.close()


@pytest.mark.parametrize("policy", [plan(limit_s=900), overage(900), plan(limit_s=None, longest_s=100)])
async def test_a_replay_decides_meters_and_charges_as_a_live_ledger_did(
    tmp_path: Path, live: SqliteLedger, policy: Policy
) -> None:
    """Forty calls one after the other on a live ledger, each followed by hand; then their records."""
    chance = random.Random(7)
    clock = SetClock()
    desk = Desk(live, PolicyBook([policy]), NUMBERING, clock, DeskRules())
    decided: dict[str, tuple[str, str, int]] = {}
    rows, at_s = [], 0
    for number in range(1, 41):
        talk_s = chance.choice([None, 5, 30, 90, 150])
        dialled = PREMIUM if chance.random() < 0.1 else "02079460123"
        rows.append(row(number, at_s, talk_s, dst=dialled))
        clock.moment = Moment(NOON_MS + at_s * 1000, NOON_MS + at_s * 1000)
        asked = Asked(call_of(number), Kind.OUTBOUND, dialled, "alice", f"c{number}", 120)
        verdict = await desk.authorise(asked)
        assert isinstance(verdict, Verdict)
        decision = verdict.decision
        metered_s = 0
        if isinstance(decision, Allow):
            metered_s = await _follow(desk, clock, call_of(number), talk_s)
        decided[call_of(number)] = (str(decision.reason), decision.clause.id, metered_s)
        at_s += 5 + (talk_s or 0) + chance.choice([1, 40])
    customers = '[[account]]\naccount = "acme"\npolicy = "plan"\n[[line]]\nline = "alice"\naccount = "acme"\n'
    found = await replayed(tmp_path, rows, policy, customers=customers)
    assert {
        call_id: (outcome.reason, outcome.clause.id, outcome.metered_s)
        for call_id, outcome in found.calls.items()
    } == decided
    sheet = await live.sheet("acme")
    assert sorted(_use(usage) for _, usage in found.result.usage) == sorted(map(_use, sheet.usage))
    replayed_charges = {
        (charge.call_id, charge.amount_micros, charge.charged_units)
        for outcome in found.calls.values()
        for charge in outcome.charges
    }
    assert replayed_charges == {
        (charge.call_id, charge.amount_micros, charge.charged_units) for charge in sheet.charges
    }
    cut = {record.call_id for record in await live.decisions(limit=100) if record.cut_by}
    assert {call_id for call_id, outcome in found.calls.items() if outcome.cut} == cut
    await desk.close()


async def _follow(desk: Desk, clock: SetClock, call_id: str, talk_s: int | None) -> int:
    """What leases.py does of a call of its own; the seconds that it used."""
    clock.forward(5_000)
    if talk_s is None:
        return (await desk.settle(call_id, 0, clock.now())).used_s or 0
    grant = await desk.answered(call_id, "leg", clock.now())
    since_ms = clock.now().wall_ms
    while grant.granted_s is not None and grant.granted_s != grant.longest_s:
        renew_s = grant.granted_s - min(LEAD_S, max(1, grant.granted_s // 2))
        if renew_s >= talk_s:
            break
        clock.moment = Moment(since_ms + renew_s * 1000, since_ms + renew_s * 1000)
        before_s = grant.granted_s
        grant = await desk.renew(call_id, (grant.granted_s - renew_s) * 1000)
        if grant.granted_s == before_s:
            break
    used_s = talk_s if grant.granted_s is None else min(talk_s, grant.granted_s)
    clock.moment = Moment(since_ms + used_s * 1000, since_ms + used_s * 1000)
    return (await desk.settle(call_id, used_s, clock.now())).used_s or 0


def _use(usage: Usage) -> tuple[str, int, int, int, int, int]:
    meter = usage.meter
    return (
        meter.allowance,
        meter.window.start_ms,
        meter.used_units,
        meter.over_units,
        meter.reserved_units,
        usage.calls,
    )


# --- the sample files ---------------------------------------------------------------------------------


async def test_the_sample_of_asterisks_layout_is_replayed(tmp_path: Path) -> None:
    rows = (DATA / "Master.csv").read_text().splitlines()
    found = await replayed(tmp_path, rows, plan())
    assert [
        (outcome.call_id, outcome.kind, outcome.reason, outcome.metered_s)
        for outcome in sorted(found.calls.values(), key=lambda outcome: outcome.at_ms)
    ] == [
        ("1795262400.1-1", Kind.OUTBOUND, "within_allowance", 120),
        ("1795262700.3-1", Kind.OUTBOUND, "class_not_covered", 0),
        ("1795263000.4-1", Kind.INBOUND, "within_allowance", 60),
        ("1795263600.6-1", Kind.INTERNAL, "not_counted", 0),
        ("1795263900.8-1", Kind.VOICEMAIL, "not_counted", 60),
        ("1795264200.9-1", Kind.EMERGENCY, "emergency", 0),
    ]
    assert list(found.result.strangers.most(3)) == [("nobody", 1)]


async def test_records_without_unique_ids_are_calls_by_themselves(tmp_path: Path) -> None:
    rows = (DATA / "sixteen-columns.csv").read_text().splitlines()
    found = await replayed(tmp_path, rows, plan())
    assert {outcome.call_id: outcome.metered_s for outcome in found.calls.values()} == {
        "row-1-1": 120,
        "row-2-1": 0,
    }
