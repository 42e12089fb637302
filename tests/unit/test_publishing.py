"""A version may be published where the notice that customers were promised is kept, and nowhere else."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairdial.policy.book import PolicyBook
from fairdial.policy.document import Policy, parse_policy
from fairdial.policy.publishing import faults, upcoming
from tests.samples import PLAN

TODAY = date(2026, 11, 21)
YESTERDAY, TOMORROW = date(2026, 11, 20), date(2026, 11, 22)


def version(
    name: str,
    effective: date | None = None,
    *,
    notice_days: int = 0,
    published: date | None = None,
    policy: str = "plan",
    title: str = "A plan for tests",
) -> Policy:
    """A version of the sample plan; `effective` None is at once."""
    head = f'name = "{policy}"\nversion = "{name}"\ntitle = "{title}"\nnotice_days = {notice_days}\n'
    head += 'changes_clause = "R7"\n' if notice_days else ""
    head += f"effective = {effective}\n" if effective else ""
    head += f"published = {published}\n" if published else ""
    return parse_policy(head + PLAN[PLAN.index("[kinds]") :], "plan.toml")


def said(new: Policy, *known: Policy, today: date = TODAY) -> list[str]:
    return [str(fault) for fault in faults(new, PolicyBook(known), today)]


OLD = version("1")
PROMISED = version("1", notice_days=30)


def test_with_thirty_days_promised_thirty_days_are_enough_and_twenty_nine_are_not() -> None:
    assert said(version("2", date(2026, 12, 21), notice_days=30), PROMISED) == []
    assert said(version("2", date(2026, 12, 20), notice_days=30), PROMISED) == [
        "effective: 2026-12-20 leaves no time for 30 days of notice from today, 2026-11-21 (version 1, R7); "
        "write 2026-12-21 or later"
    ]


def test_a_new_version_cannot_shorten_what_the_old_one_promised() -> None:
    assert said(version("2", date(2026, 12, 21)), PROMISED) == []
    for shorter in (version("2", TOMORROW), version("2", date(2026, 12, 20), notice_days=1)):
        assert "30 days of notice" in said(shorter, PROMISED)[0]


def test_a_longer_promise_of_the_new_version_holds_for_itself() -> None:
    known = version("1", notice_days=14)
    assert said(version("2", date(2026, 12, 21), notice_days=30), known) == []
    assert (
        "30 days of notice from today, 2026-11-21 (version 2, R7)"
        in said(version("2", date(2026, 12, 5), notice_days=30), known)[0]
    )


def test_what_was_published_for_later_binds_and_what_is_over_does_not() -> None:
    later = version("2", date(2027, 3, 1), notice_days=60)
    assert said(version("3", date(2027, 1, 20)), OLD, later) == []
    assert "60 days of notice" in said(version("3", date(2027, 1, 19)), OLD, later)[0]
    # Version 2 promises nothing and is in force: the promise of version 1 has been kept and is over.
    in_force = version("2", YESTERDAY)
    assert said(version("3", TODAY), PROMISED, in_force) == []
    assert "30 days of notice" in said(version("3", TOMORROW), PROMISED, version("2", TOMORROW))[0]


def test_a_file_cannot_backdate_its_own_notice() -> None:
    backdated = version("2", date(2026, 12, 1), notice_days=30, published=date(2026, 10, 1))
    assert "from today, 2026-11-21" in said(backdated, PROMISED)[0]
    kept = version("2", date(2026, 12, 21), notice_days=30, published=date(2026, 10, 1))
    assert said(kept, PROMISED) == []


def test_a_file_cannot_have_been_published_tomorrow() -> None:
    assert said(version("2", date(2026, 12, 1), published=TODAY), OLD) == []
    assert said(version("2", date(2026, 12, 1), published=TOMORROW), OLD) == [
        "published: 2026-11-22 is after today, 2026-11-21; write 2026-11-21"
    ]
    assert said(version("1", published=TOMORROW)) == [
        "published: 2026-11-22 is after today, 2026-11-21; write 2026-11-21"
    ]


def test_at_once_is_for_policies_that_promise_no_notice() -> None:
    at_once = version("2", published=TODAY)
    assert said(at_once, OLD) == []
    assert said(at_once, PROMISED) == [
        "effective: at once leaves no time for 30 days of notice from today, 2026-11-21 (version 1, R7); "
        "write 2026-12-21 or later"
    ]


@pytest.mark.parametrize(("published", "written"), [(None, "no day"), (YESTERDAY, "2026-11-20")])
def test_at_once_is_from_today_on_where_another_version_was_in_force(
    published: date | None, written: str
) -> None:
    assert said(version("2", published=published), OLD) == [
        'published: with effective = "at_once" it is the day from which the version decides, and '
        f"{written} is written; write 2026-11-21"
    ]


def test_a_day_in_the_past_is_refused_and_today_is_not() -> None:
    assert said(version("2", TODAY), OLD) == []
    assert said(version("2", YESTERDAY), OLD) == [
        'effective: 2026-11-20 is in the past; write 2026-11-21 or later, or "at_once"'
    ]
    assert said(version("1", YESTERDAY)) != []


def test_a_first_version_has_nobody_to_notify() -> None:
    other = version("1", notice_days=30, policy="other")
    for first in (
        version("1", TODAY, notice_days=30),
        version("1", notice_days=30),
        version("1", notice_days=30, published=YESTERDAY),
    ):
        assert said(first, other) == []
        assert said(first, version("0", notice_days=30)) != []


def test_the_same_version_again_is_fine_and_with_other_contents_it_is_not() -> None:
    # Its day has passed since, which makes no difference to what is published already.
    again = version("2", YESTERDAY)
    assert said(again, OLD, version("2", YESTERDAY)) == []
    assert said(version("2", TOMORROW, title="Another"), OLD, again) == [
        "version: '2' is published already, with other contents; give the new text its own version"
    ]


def test_two_versions_cannot_take_effect_on_one_day() -> None:
    known = version("2", date(2026, 12, 1))
    assert said(version("3", date(2026, 12, 2)), OLD, known) == []
    assert said(version("3", date(2026, 11, 30)), OLD, known) == []
    assert said(version("3", date(2026, 12, 1)), OLD, known) == [
        "effective: version 2 takes effect on 2026-12-01 too, and one of the two would never decide; "
        "write another day"
    ]


def test_a_second_version_at_once_waits_for_the_next_day() -> None:
    first = version("2", published=TODAY)
    second = version("3", published=TODAY)
    assert "version 2 takes effect on 2026-11-21 too" in said(second, OLD, first)[0]
    assert said(version("3", published=TOMORROW), OLD, first, today=TOMORROW) == []


def test_all_faults_are_told_at_once_with_their_keys() -> None:
    broken = version("1", YESTERDAY, published=TOMORROW, title="Another")
    found = faults(broken, PolicyBook([OLD]), TODAY)
    assert [fault.key for fault in found] == ["version", "published", "effective"]
    assert all(fault.words and fault.cure for fault in found)


days = st.dates(date(2000, 1, 1), date(2100, 1, 1))
notices = st.integers(0, 366)


@given(notices, notices, days, st.integers(-400, 800))
def test_a_date_is_accepted_from_the_end_of_the_longer_notice_on(
    promised: int, own: int, today: date, ahead: int
) -> None:
    effective = today + timedelta(days=ahead)
    known = version("1", notice_days=promised)
    accepted = said(version("2", effective, notice_days=own), known, today=today) == []
    assert accepted == (effective >= today + timedelta(days=max(promised, own)))


@given(notices, days, st.integers(0, 400))
def test_what_may_be_published_decides_from_its_day_on(notice: int, today: date, spare: int) -> None:
    day = today + timedelta(days=notice + spare)
    old, new = version("1", notice_days=notice), version("2", day, notice_days=notice)
    book = PolicyBook([old])
    assert faults(new, book, today) == ()
    after = book.with_published(new)
    midnight_ms = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000
    assert after.at("plan", ZoneInfo("UTC"), midnight_ms - 1) == old
    assert after.at("plan", ZoneInfo("UTC"), midnight_ms) == new
    assert faults(new, after, day + timedelta(days=1)) == ()


def test_versions_that_are_to_come_are_known_with_those_whose_place_they_take() -> None:
    in_force, soon, later = version("2", TODAY), version("3", TOMORROW), version("4", date(2027, 1, 1))
    book = PolicyBook([later, OLD, soon, in_force, version("1", TOMORROW, policy="first")])
    found = [(after.name, after.version, before.version) for after, before in upcoming(book, TODAY)]
    assert found == [("plan", "3", "2"), ("plan", "4", "3")]
    assert upcoming(book, date(2027, 1, 1)) == ()
