"""The decision about a dial, in pairs: what is allowed, and what is refused on which clause."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairdial.policy.account import Account, Kind, Line, MeterWindow, Room, Snapshot, Standing
from fairdial.policy.decide import (
    Allow,
    Decision,
    Refuse,
    asks_identity,
    decide,
    is_emergency,
    meters_at,
    number_for,
)
from fairdial.policy.document import Cap, Caps, IdentityRule, Meter, Policy
from fairdial.policy.numbers import Number
from fairdial.policy.outcomes import Reason
from fairdial.policy.periods import Window
from fairdial.policy.prefixes import NumberClass
from fairdial.policy.sizing import LONGEST_HORIZON_S, GrantRules, Short, Sized, size_grant
from tests.samples import LONDON, MONTH_END_MS, NOON_MS, RULES, outbound, plan

ACCOUNT, LINE = Account("acme", "plan"), Line("alice", "acme")
PREMIUM = Number("09098790000", "+449098790000", NumberClass.PREMIUM_RATE, "GB")
PARIS = Number("0033142685300", "+33142685300", NumberClass.GEOGRAPHIC, "FR")
INVALID = Number("123", None, NumberClass.INVALID, None, problem="too short")
POLICE = Number("112", None, NumberClass.EMERGENCY, "GB")


def decision(
    number: Number = LONDON,
    *,
    kind: Kind = Kind.OUTBOUND,
    line: Line | None = LINE,
    account: Account | None = ACCOUNT,
    policy: Policy | None = None,
    used_s: int = 0,
    reserved_s: int = 0,
    at_ms: int = NOON_MS,
    dialled: str | None = None,
) -> Decision:
    """The decision on a dial; every meter of its first window holds what is given."""
    deciding = policy or plan()
    dial = outbound(kind=kind, dialled=number.dialled if dialled is None else dialled, at_ms=at_ms)
    planned = meters_at(account, deciding, dial) if account else ()
    meters = tuple(
        replace(meter, used_units=used_s, reserved_units=reserved_s)
        if meter.window.start_ms <= at_ms
        else meter
        for meter in planned
    )
    return decide(dial, number, Snapshot(line, account, meters), deciding, RULES)


def told(found: Decision) -> tuple[bool, Reason, str]:
    return isinstance(found, Allow), found.reason, found.clause.id


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (decision(), (True, Reason.WITHIN_ALLOWANCE, "P4")),
        (decision(policy=plan(limit_s=None)), (True, Reason.COVERED, "P4")),
        (decision(kind=Kind.INTERNAL), (True, Reason.NOT_COUNTED, "P0")),
        (decision(kind=Kind.INBOUND, number=PARIS), (True, Reason.WITHIN_ALLOWANCE, "P4")),
        (decision(PREMIUM), (False, Reason.CLASS_NOT_COVERED, "P1")),
        (decision(PARIS), (False, Reason.COUNTRY_NOT_COVERED, "P2")),
        (decision(kind=Kind.CALLBACK), (False, Reason.KIND_NOT_COVERED, "P0")),
        (decision(INVALID), (False, Reason.NUMBER_INVALID, "always")),
        (decision(line=None, account=None), (False, Reason.LINE_UNKNOWN, "always")),
        (
            decision(account=replace(ACCOUNT, standing=Standing.SUSPENDED)),
            (False, Reason.ACCOUNT_SUSPENDED, "always"),
        ),
        (
            decision(account=replace(ACCOUNT, standing=Standing.TERMINATED)),
            (False, Reason.ACCOUNT_TERMINATED, "always"),
        ),
        (decision(line=replace(LINE, standing=Standing.SUSPENDED)), (False, Reason.LINE_SUSPENDED, "always")),
        (decision(used_s=5999), (True, Reason.WITHIN_ALLOWANCE, "P4")),
        (decision(used_s=6000), (False, Reason.ALLOWANCE_USED_UP, "P4")),
        (decision(used_s=5000, reserved_s=1000), (False, Reason.ALLOWANCE_RESERVED, "P4")),
        # A lowered limit: calls in progress may hold something, but their end would free nothing.
        (decision(used_s=6500, reserved_s=10), (False, Reason.ALLOWANCE_USED_UP, "P4")),
        (decision(policy=plan(limit_s=0)), (False, Reason.ALLOWANCE_USED_UP, "P4")),
        (decision(policy=plan(day_limit_s=0)), (False, Reason.ALLOWANCE_USED_UP, "P5")),
    ],
)
def test_a_dial_is_decided_on_its_clause(found: Decision, expected: tuple[bool, Reason, str]) -> None:
    assert told(found) == expected


def test_without_its_policy_nothing_is_decided() -> None:
    found = decide(outbound(), LONDON, Snapshot(LINE, ACCOUNT), None, RULES)
    assert told(found) == (False, Reason.POLICY_MISSING, "always")


@pytest.mark.parametrize(
    "found",
    [
        decision(POLICE),
        decision(POLICE, line=None, account=None),
        decision(POLICE, account=replace(ACCOUNT, standing=Standing.TERMINATED), used_s=6000),
        decision(POLICE, kind=Kind.INTERNAL),
        decision(INVALID, kind=Kind.EMERGENCY, line=None, account=None),
    ],
)
def test_nothing_stands_in_the_way_of_an_emergency_call(found: Decision) -> None:
    assert told(found) == (True, Reason.EMERGENCY, "always")
    assert isinstance(found, Allow)
    assert (found.granted_s, found.account_id, found.holds) == (None, None, ())


@pytest.mark.parametrize("kind", [Kind.OUTBOUND, Kind.INBOUND, Kind.INTERNAL, Kind.VOICEMAIL])
def test_what_could_end_a_dial_string_is_no_number_for_any_kind(kind: Kind) -> None:
    for dialled in ("100&PJSIP/101", "100@carrier", "100,30", "1 00", "", "100\n", "é"):
        assert told(decision(kind=kind, dialled=dialled)) == (False, Reason.NUMBER_INVALID, "always")
    assert told(decision(kind=kind, dialled="+*97#a.b-c_d"))[0]


def test_an_extension_is_internal_and_112_stays_112() -> None:
    assert number_for(Kind.INTERNAL, INVALID).number_class is NumberClass.INTERNAL
    assert number_for(Kind.OUTBOUND, INVALID) is INVALID
    assert number_for(Kind.INTERNAL, POLICE) is POLICE
    assert is_emergency(Kind.EMERGENCY, INVALID)
    assert not is_emergency(Kind.OUTBOUND, INVALID)


def test_an_internal_number_of_an_outbound_dial_is_covered_by_no_country() -> None:
    extension = Number("100", None, NumberClass.INTERNAL, None)
    assert told(decision(extension))[0]


# --- grants --------------------------------------------------------------------------------------

MONTH = Window(NOON_MS - 86_400_000, NOON_MS + 30 * 86_400_000)


def meter(room_s: int | None, *, window: Window = MONTH, used_s: int = 0, name: str = "voice") -> MeterWindow:
    return MeterWindow(name, window, None if room_s is None else room_s + used_s, used_s)


def granted(room_s: int, wanted_s: int | None = 14_400, rules: GrantRules = RULES) -> int | None:
    sized = size_grant(NOON_MS, 60, wanted_s, (meter(room_s),), rules)
    return sized.granted_s if isinstance(sized, Sized) else 0


@pytest.mark.parametrize(
    ("room_s", "granted_s"),
    [
        (20_000, 14_400),  # plenty: all that the call may want
        (14_460, 14_400),
        (14_459, 903),  # a sixteenth of what is left, while that is more than a slice
        (960, 60),
        (400, 60),  # slices
        (200, 50),  # a quarter of the last minutes
        (60, 15),
        (40, 10),  # at least what is useful
        (20, 10),
        (19, 19),  # no useless rest stays behind
        (10, 10),
        (9, 9),
        (1, 1),
        (0, 0),
    ],
)
def test_a_grant_is_large_while_plenty_is_left_and_shared_at_the_end(room_s: int, granted_s: int) -> None:
    assert granted(room_s) == granted_s


def test_a_call_without_a_limit_of_its_own_is_granted_a_day_at_most() -> None:
    assert granted(1_000_000, None) == LONGEST_HORIZON_S
    assert granted(57_600, None) == 3600


RULES_OF_ANY_SIZE = st.builds(
    lambda useful_s, more_s: GrantRules(useful_s, useful_s + more_s), st.integers(1, 60), st.integers(0, 300)
)


@given(st.integers(0, 200_000), st.one_of(st.none(), st.integers(1, 20_000)), RULES_OF_ANY_SIZE)
def test_the_rules_of_a_grant(room_s: int, wanted_s: int | None, rules: GrantRules) -> None:
    grant_s = granted(room_s, wanted_s, rules) or 0
    most_s = wanted_s or LONGEST_HORIZON_S
    rest_s = room_s - grant_s
    assert (grant_s > 0) == (room_s > 0)
    assert grant_s <= min(room_s, most_s)
    assert grant_s >= min(rules.useful_s, room_s, most_s)
    assert rest_s == 0 or rest_s >= rules.useful_s or grant_s == most_s


@given(st.integers(1, 20_000), RULES_OF_ANY_SIZE, st.integers(0, 300))
def test_calls_are_refused_only_when_nothing_unreserved_is_left(
    limit_s: int, rules: GrantRules, extra: int
) -> None:
    left_s, grants = limit_s, []
    while left_s:
        grant_s = granted(left_s, 14_400, rules)
        assert grant_s
        grants.append(grant_s)
        left_s -= grant_s
        assert len(grants) <= limit_s
    assert sum(grants) == limit_s
    assert granted(0, 14_400, rules) == 0
    # None gets less than is useful while that much is left: at most the whole allowance is smaller.
    assert min(grants) >= min(rules.useful_s, limit_s)


def test_many_calls_share_the_last_minutes() -> None:
    left_s, calls = 600, 0
    while left_s:
        left_s -= granted(left_s) or left_s
        calls += 1
    assert calls >= 15


def test_all_meters_agree_on_a_grant() -> None:
    sized = size_grant(NOON_MS, 60, 3600, (meter(100_000), meter(15, name="daily"), meter(None)), RULES)
    assert isinstance(sized, Sized)
    assert sized.granted_s == 15
    assert [(hold.allowance, hold.hold_units) for hold in sized.holds] == [
        ("voice", 15),
        ("daily", 15),
        ("voice", 15),
    ]
    full = meter(0, name="daily", used_s=5)
    assert size_grant(NOON_MS, 60, 3600, (meter(100_000), full), RULES) == Short(full)


def test_nothing_limited_means_no_end() -> None:
    sized = size_grant(NOON_MS, 60, None, (meter(None),), RULES)
    assert isinstance(sized, Sized)
    assert sized.granted_s is None
    assert [hold.hold_units for hold in sized.holds] == [0]


def test_near_a_boundary_both_periods_are_reserved_for_a_call_that_may_be_answered_in_either() -> None:
    at_ms = MONTH_END_MS - 30_000
    found = decision(at_ms=at_ms, policy=plan(longest_s=120))
    assert isinstance(found, Allow)
    assert found.granted_s == 120
    assert [hold.hold_units for hold in found.holds] == [30, 120]
    assert found.holds[0].window.end_ms == found.holds[1].window.start_ms == MONTH_END_MS


def test_a_full_month_ends_a_call_before_it_begins_and_an_empty_one_lets_it_in() -> None:
    before = Window(NOON_MS, MONTH_END_MS)
    after = Window(MONTH_END_MS, MONTH_END_MS + 86_400_000)
    at_ms = MONTH_END_MS - 100_000
    sized = size_grant(at_ms, 20, 3600, (meter(5000, window=before), meter(0, window=after)), RULES)
    assert isinstance(sized, Sized)
    assert sized.granted_s == 80  # answered after 20 s of ringing it ends at midnight
    assert [hold.hold_units for hold in sized.holds] == [80]  # nothing is held where nothing can be used
    spent = (meter(0, window=before, used_s=9), meter(5000, window=after))
    assert isinstance(size_grant(at_ms, 20, 3600, spent, RULES), Short)


@given(
    rooms=st.tuples(st.integers(0, 500), st.integers(0, 500)),
    before_s=st.integers(0, 300),
    ring_s=st.integers(0, 120),
    wanted_s=st.integers(1, 600),
)
def test_no_window_is_overdrawn(rooms: tuple[int, int], before_s: int, ring_s: int, wanted_s: int) -> None:
    first, second = Window(0, 1_000_000), Window(1_000_000, 9_000_000)
    meters = (meter(rooms[0], window=first), meter(rooms[1], window=second))
    sized = size_grant(1_000_000 - before_s * 1000 - 1, ring_s, wanted_s, meters, RULES)
    if isinstance(sized, Sized):
        room_of = {first: rooms[0], second: rooms[1]}
        assert all(0 < hold.hold_units <= room_of[hold.window] for hold in sized.holds)
        assert sum(hold.hold_units for hold in sized.holds) >= (sized.granted_s or 0) > 0
    else:
        assert sized.meter.room_units == 0


def test_rules_that_contradict_each_other_cannot_be_made() -> None:
    assert GrantRules(10, 10).slice_s == 10
    for useful_s, slice_s in ((0, 10), (11, 10)):
        with pytest.raises(ValueError, match="must be at least 1 and at most slice_s"):
            GrantRules(useful_s, slice_s)


def test_equal_inputs_give_equal_decisions() -> None:
    assert decision() == decision()
    assert isinstance(decision(used_s=6000), Refuse)


def conference(room: Room | None, *, participants: int = 4) -> Decision:
    """The decision about joining a conference room in which somebody is, or nobody."""
    everything = plan(day_limit_s=36_000)
    policy = everything.model_copy(
        update={
            "kinds": everything.kinds.model_copy(update={"allow": frozenset(Kind)}),
            "caps": Caps(participants=Cap(limit=participants, clause="P8")),
            "longest_call": everything.longest_call.model_copy(update={"seconds": {Kind.CONFERENCE: 14_400}}),
            "allowances": tuple(
                one.model_copy(update={"meter": Meter.CONFERENCE, "counts": frozenset({Kind.CONFERENCE})})
                for one in everything.allowances
            ),
        }
    )
    dial = outbound(kind=Kind.CONFERENCE, ring_s=0, dialled="8000")
    snapshot = Snapshot(LINE, ACCOUNT, meters_at(ACCOUNT, policy, dial), room=room)
    return decide(dial, Number("8000", None, NumberClass.INTERNAL, None), snapshot, policy, RULES)


def room(seats: int, *, opened_ms: int = NOON_MS, left_s: int | None = 3600) -> Room:
    return Room("first", seats, opened_ms, None if left_s is None else NOON_MS + left_s * 1000)


def test_the_fifth_is_not_let_into_a_conference_of_four() -> None:
    assert isinstance(conference(None), Allow)
    assert isinstance(conference(room(3)), Allow)
    refused = conference(room(4))
    assert (refused.reason, refused.clause.id) == (Reason.CONFERENCE_FULL, "P8")
    assert isinstance(conference(room(4), participants=5), Allow)


def test_a_further_participant_holds_none_of_the_time_that_the_room_holds_already() -> None:
    first, second = conference(None), conference(room(1, left_s=300))
    assert isinstance(first, Allow)
    assert isinstance(second, Allow)
    assert [hold.room for hold in first.holds] == [True, True]
    assert (first.granted_s, second.granted_s, second.holds) == (375, 300, ())


def test_a_room_has_its_four_hours_from_when_it_was_opened() -> None:
    found = conference(room(1, opened_ms=NOON_MS - 14_000_000, left_s=400))
    assert isinstance(found, Allow)
    assert (found.limit_s, found.granted_s) == (400, 400)
    over = conference(room(1, opened_ms=NOON_MS - 20_000_000, left_s=400))
    assert isinstance(over, Allow)
    assert over.granted_s == 1


def test_it_matters_what_who_pays_shows_not_what_a_stranger_does() -> None:
    own = plan().model_copy(update={"identity": IdentityRule(caller_number="own", clause="P9")})
    asked = {kind for kind in Kind if asks_identity(own, kind)}
    assert asked == {Kind.OUTBOUND, Kind.CALLBACK, Kind.MESSAGE}
    assert not any(asks_identity(plan(), kind) for kind in Kind)
