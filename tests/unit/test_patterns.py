"""When detectors speak: from the threshold on, again once it has grown, and no more of what people have judged."""

from collections.abc import Sequence

import pytest

from fairdial.policy.account import Kind
from fairdial.policy.document import Policy, Step
from fairdial.policy.history import Answer, End, Event, InOrder
from fairdial.policy.ladder import DAY_MS, after_deadline, first_step, rung_for
from fairdial.policy.patterns import AGAIN_MS, EVIDENCE_MAX, AccountPatterns, Hit
from fairdial.policy.peers import Use, above_cohort, above_estimate, cohort_of
from tests.unit.test_measures import HOUR_MS, LONDON, NOON_MS, attempt
from tests.watched import detector, rung, watched

MIN_MS = 60_000


def seen(policy: Policy, events: Sequence[Event], since_ms: dict[str, int] | None = None) -> list[Hit]:
    """All hits of these events."""
    patterns = AccountPatterns("acme", policy, LONDON, since_ms)
    return [hit for event in events for hit in patterns.see(event)]


def dials(count: int, begin_ms: int = NOON_MS, gap_ms: int = MIN_MS, first: int = 0) -> list[Event]:
    return [attempt(n, begin_ms + (n - first) * gap_ms, f"+4420{n:08}") for n in range(first, first + count)]


def test_a_pattern_is_told_from_the_threshold_on() -> None:
    policy = watched(detector(threshold=3))
    assert seen(policy, dials(2)) == []
    [hit] = seen(policy, dials(3))
    assert (hit.account_id, hit.detector.name, hit.value, hit.at_ms) == (
        "acme",
        "many",
        3,
        NOON_MS + 2 * MIN_MS,
    )
    assert (hit.clause.policy, hit.clause.version, hit.clause.id) == ("plan", "1", "P7")
    assert hit.calls == ("c0", "c1", "c2")
    assert hit.words == "3 different numbers called by one line in an hour; 3 is a case"


def test_it_is_told_again_once_it_has_grown_or_lasted() -> None:
    policy = watched(detector(threshold=4))
    assert [hit.value for hit in seen(policy, dials(8, gap_ms=1000))] == [4, 5, 7]
    steady = [*dials(4, gap_ms=1000), attempt(1, NOON_MS + AGAIN_MS + 4000, "+442000000001")]
    assert [hit.value for hit in seen(policy, steady)] == [4, 4]


def test_it_is_told_anew_after_it_was_gone() -> None:
    policy = watched(detector(threshold=3))
    later = dials(3, NOON_MS + 3 * HOUR_MS, first=10)
    assert [hit.at_ms for hit in seen(policy, [*dials(3), *later])] == [
        NOON_MS + 2 * MIN_MS,
        NOON_MS + 3 * HOUR_MS + 2 * MIN_MS,
    ]


def test_a_measure_that_falls_is_told_where_it_has_fallen() -> None:
    policy = watched(detector("silent", "answer_ratio", 0.25, more="below = true\nat_least = 4"))

    def answered(share: Sequence[bool]) -> list[Event]:
        order, events = InOrder(), list[Event]()
        for n, is_answered in enumerate(share):
            made = attempt(n, NOON_MS + n * MIN_MS)
            later: list[Event] = [End(made.call_id, made.at_ms + 9000, "acme", 5 if is_answered else 0)]
            if is_answered:
                later.insert(0, Answer(made.call_id, made.at_ms + 4000, "acme"))
            events += order.take([made, *later])
        return [*events, *order.rest()]

    assert [hit.value for hit in seen(policy, answered([True, False, False, False]))] == [0.25]
    assert seen(policy, answered([True, True, False, False])) == []
    assert seen(policy, answered([False, False, False])) == [], "too few to say"


def test_what_people_have_judged_counts_no_more() -> None:
    policy = watched(detector(threshold=3))
    patterns = AccountPatterns("acme", policy, LONDON)
    first = [hit for event in dials(3) for hit in patterns.see(event)]
    assert len(first) == 1
    patterns.judged("many", NOON_MS + 2 * MIN_MS)
    assert patterns.values(NOON_MS + 2 * MIN_MS) == {"many": 0}
    two_more = dials(2, NOON_MS + 3 * MIN_MS, first=3)
    assert [hit for event in two_more for hit in patterns.see(event)] == []
    [again] = [hit for event in dials(1, NOON_MS + 5 * MIN_MS, first=5) for hit in patterns.see(event)]
    assert again.value == 3
    # The same where it was judged before a restart.
    assert seen(policy, [*dials(3), *two_more], {"many": NOON_MS + 2 * MIN_MS}) == []


def test_a_new_version_goes_on_where_it_watches_the_same() -> None:
    old = AccountPatterns("acme", watched(detector(threshold=3)), LONDON)
    for event in dials(2):
        old.see(event)
    same = AccountPatterns("acme", watched(detector(threshold=3), version="2"), LONDON, earlier=old)
    [hit] = [hit for event in dials(1, first=2) for hit in same.see(event)]
    assert (hit.value, hit.clause.version) == (3, "2")
    other = AccountPatterns("acme", watched(detector(threshold=4), version="3"), LONDON, earlier=same)
    assert other.values(NOON_MS) == {"many": 0}


def test_evidence_is_the_latest_calls_in_the_window_and_of_that_kind() -> None:
    policy = watched(detector(threshold=25))
    [hit] = seen(policy, [attempt(99, NOON_MS, kind=Kind.INBOUND), *dials(25, gap_ms=1000)])
    assert hit.calls == tuple(f"c{n}" for n in range(25 - EVIDENCE_MAX, 25))


# --- peers ---------------------------------------------------------------------------------------

COHORT = 'allowance = "voice"\ncohort = {cohort}'


def peers(*units: float, cohort: int = 10, threshold: float = 3) -> list[Hit]:
    tables = detector(
        "above", "times_median_of_cohort", threshold, window="month", more=COHORT.format(cohort=cohort)
    )
    policy = watched(tables)
    uses = [Use(f"a{n}", value) for n, value in enumerate(units)]
    [found] = policy.detectors
    compared = cohort_of(found, units)
    return [] if compared is None else list(above_cohort(policy, found, compared, uses, NOON_MS))


def test_an_account_stands_out_by_the_median_of_the_others() -> None:
    ordinary = [100.0, 110, 90, 105, 95, 100, 120, 80, 100, 100, 99]
    [hit] = peers(*ordinary, 420)
    assert (hit.account_id, hit.value) == ("a11", 4.2)
    assert hit.words == "4.2 times the median of 12 accounts"
    assert peers(*ordinary, 290) == []


def test_among_few_accounts_nobody_is_compared() -> None:
    ordinary = [100.0] * 9
    assert peers(*ordinary, 1000, cohort=11) == []
    assert len(peers(*ordinary, 1000, cohort=10)) == 1
    assert peers(*ordinary, 1000, 0, 0, cohort=11) == [], "who used nothing is no measure of others"


def test_one_account_never_moves_the_middle() -> None:
    ordinary = [100.0, 110, 90, 105, 95, 100, 120, 80, 100, 100, 99]
    assert [hit.account_id for hit in peers(*ordinary, 420, 10**12)] == ["a11", "a12"]


def test_where_all_differ_much_many_times_the_middle_is_usual() -> None:
    assert peers(*[10.0, 400] * 10, threshold=1.5) == []


def test_an_account_is_held_against_what_it_declared() -> None:
    policy = watched(
        detector("above", "times_declared_estimate", 2, window="month", more='allowance = "voice"')
    )
    uses = [Use("a", 250, 100), Use("b", 199, 100), Use("c", 900)]
    [hit] = above_estimate(policy, policy.detectors[0], uses, NOON_MS)
    assert (hit.account_id, hit.words) == ("a", "2.5 times the declared estimate")


# --- the ladder ----------------------------------------------------------------------------------

LADDER = watched(
    detector("talk", "talk_s", 100, step="restrict"),
    rung("ask", 1, "moderate", "deadline_days = 14"),
    rung("take", 2, "restrict", 'services = ["outbound"]'),
    rung("end", 3, "suspend", "shadow = true"),
).ladder
OUT = frozenset({Kind.OUTBOUND})


def test_a_detectors_own_step_restricts_what_it_is_about() -> None:
    about_calls = watched(detector("talk", "attempts", 100, step="restrict")).detectors[0]
    assert first_step(about_calls, NOON_MS).services == {Kind.OUTBOUND, Kind.CALLBACK, Kind.COLLECT}
    named = watched(
        detector("talk", "attempts", 9, step="restrict", more='services = ["message"]')
    ).detectors[0]
    assert first_step(named, NOON_MS).services == {Kind.MESSAGE}
    shadow = first_step(watched(detector(step="suspend", more="shadow = true")).detectors[0], NOON_MS)
    assert (shadow.step, shadow.enforced) == (Step.SUSPEND, False)


@pytest.mark.parametrize(
    ("opened", "step"),
    [(0, None), (1, Step.MODERATE), (2, Step.RESTRICT), (3, Step.SUSPEND), (9, Step.SUSPEND)],
)
def test_the_hardest_rung_that_is_reached_is_taken(opened: int, step: Step | None) -> None:
    taken = rung_for(LADDER, [NOON_MS - n for n in range(opened)], OUT, NOON_MS)
    assert (taken.step if taken else None) is step
    assert taken is None or taken.enforced is (step is not Step.SUSPEND)


def test_cases_of_long_ago_count_no_more() -> None:
    assert rung_for(LADDER, [NOON_MS - 30 * DAY_MS], OUT, NOON_MS) is None


def test_past_the_deadline_the_next_harder_rung_follows() -> None:
    moderate = rung_for(LADDER, [NOON_MS], OUT, NOON_MS)
    assert moderate is not None
    assert moderate.deadline_ms == NOON_MS + 14 * DAY_MS
    after = after_deadline(LADDER, Step.MODERATE, OUT, NOON_MS)
    assert after is not None
    assert (after.step, after.services) == (Step.RESTRICT, OUT)
    assert after_deadline(LADDER, Step.SUSPEND, OUT, NOON_MS) is None
