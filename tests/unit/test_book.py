"""The version that is effective at the moment of the dial decides, in the account's own zone."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from fairdial.policy.book import PolicyBook
from fairdial.policy.document import Policy, parse_policy
from tests.samples import PLAN

LONDON, TOKYO = ZoneInfo("Europe/London"), ZoneInfo("Asia/Tokyo")


def version(name: str, *, effective: str | None = None, published: str | None = None) -> Policy:
    lines = f'version = "{name}"\n'
    lines += f"effective = {effective}\n" if effective else ""
    lines += f"published = {published}\n" if published else ""
    return parse_policy(PLAN.replace('version = "1"\n', lines), "plan.toml")


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1000)


def decides(book: PolicyBook, zone: ZoneInfo, at: str) -> str | None:
    policy = book.at("plan", zone, ms(at))
    return None if policy is None else policy.version


def test_a_dated_version_takes_effect_at_local_midnight() -> None:
    book = PolicyBook([version("old"), version("new", effective="2026-12-01")])
    assert decides(book, LONDON, "2026-11-30T23:59:59.999Z") == "old"
    assert decides(book, LONDON, "2026-12-01T00:00:00Z") == "new"
    # In Tokyo that day begins nine hours earlier.
    assert decides(book, TOKYO, "2026-11-30T14:59:59Z") == "old"
    assert decides(book, TOKYO, "2026-11-30T15:00:00Z") == "new"


def test_the_latest_that_is_effective_decides_in_whatever_order_they_were_read() -> None:
    dated = [version("1"), version("2", effective="2026-02-01"), version("3", effective="2026-03-01")]
    for book in (PolicyBook(dated), PolicyBook(reversed(dated))):
        assert decides(book, LONDON, "2026-01-31T12:00:00Z") == "1"
        assert decides(book, LONDON, "2026-02-15T12:00:00Z") == "2"
        assert decides(book, LONDON, "2026-03-15T12:00:00Z") == "3"


def test_a_version_effective_at_once_decides_from_the_day_it_was_published() -> None:
    book = PolicyBook([version("old"), version("new", effective='"at_once"', published="2026-06-01")])
    assert decides(book, LONDON, "2026-05-31T23:59:59Z") == "old"
    assert decides(book, LONDON, "2026-06-01T00:00:00Z") == "new"


def test_before_its_date_a_first_version_decides_nothing() -> None:
    book = PolicyBook([version("first", effective="2026-12-01")])
    assert decides(book, LONDON, "2026-11-30T12:00:00Z") is None
    assert book.at("nosuch", LONDON, 0) is None


def test_a_version_can_be_had_by_its_number_and_stands_once() -> None:
    old, new = version("old"), version("new", effective="2026-12-01")
    book = PolicyBook([old, new])
    assert (book.version("plan", "old"), book.version("plan", "nosuch")) == (old, None)
    assert (book.names, "plan" in book, "nosuch" in book) == (("plan",), True, False)
    with pytest.raises(ValueError, match="has version 'old' twice"):
        PolicyBook([old, new, old])


def test_publishing_makes_a_new_book_and_leaves_the_old_one_as_it_was() -> None:
    book = PolicyBook([version("old")])
    after = book.with_published(version("new", effective="2026-12-01"))
    assert decides(after, LONDON, "2026-11-30T12:00:00Z") == "old"
    assert decides(after, LONDON, "2026-12-01T12:00:00Z") == "new"
    assert decides(book, LONDON, "2026-12-01T12:00:00Z") == "old"


def test_a_version_published_at_once_decides_from_now() -> None:
    book = PolicyBook([version("old", effective="2026-01-01")])
    after = book.with_published(version("new", effective='"at_once"', published="2026-11-21"))
    for zone in (LONDON, TOKYO, ZoneInfo("Pacific/Honolulu")):
        assert decides(after, zone, "2026-11-21T00:00:01Z") == "new"
        assert decides(after, zone, "2026-11-20T23:59:59Z") == "old"


def test_publishing_a_first_version_adds_its_name() -> None:
    other = parse_policy(PLAN.replace('name = "plan"', 'name = "another"'), "another.toml")
    assert PolicyBook([version("old")]).with_published(other).names == ("another", "plan")


def test_publishing_again_changes_nothing_unless_the_contents_differ() -> None:
    book = PolicyBook([version("old"), version("new", effective="2026-12-01")])
    again = book.with_published(version("new", effective="2026-12-01"))
    assert again.versions("plan") == book.versions("plan")
    with pytest.raises(ValueError, match="policy 'plan' has version 'new' with other contents"):
        book.with_published(version("new", effective="2026-12-02"))
