"""The words of notices: each topic in each language, the operator's own templates, and what is wrong with them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fairdial.ledger.notice import Contact, Notice, Topic
from fairdial.notice_text import Composer, NotWritten, Templates
from fairdial.policy.account import Account
from fairdial.policy.book import PolicyBook
from fairdial.policy.document import parse_policy
from fairdial.policy.terms import Clause
from tests.charges import priced_plan
from tests.samples import NOON_MS, PLAN

BOOK = PolicyBook(
    [
        parse_policy(PLAN, "plan.toml"),
        parse_policy(
            PLAN.replace(
                'version = "1"', 'version = "2"\npublished = 2026-11-01\neffective = 2026-12-01'
            ).replace("limit_s = 6000", "limit_s = 3000"),
            "plan-2.toml",
        ),
    ]
)
WINDOW = {"start_ms": 1_793_487_600_000, "end_ms": 1_796_079_600_000}  # November 2026 in Berlin
FACTS: dict[Topic, dict[str, Any]] = {
    Topic.USED: {"allowance": "voice", "percent": 80, "used": 4800, "limit": 6000, **WINDOW},
    Topic.OVERAGE: {"allowance": "voice", "used": 6000, "limit": 6000, **WINDOW},
    Topic.LOW_CREDIT: {"balance_micros": 4_600_000, "low_micros": 5_000_000, "currency": "EUR"},
    Topic.CUT: {
        "call": "c-1",
        "number": "+442079460123",
        "kind": "outbound",
        "used_s": 14_400,
        "rule": "longest_call",
        "policy": "plan",
        "version": "1",
    },
    Topic.CASE: {
        "case": 7,
        "step": "restrict",
        "deadline_ms": NOON_MS,
        "services": ["outbound"],
        "words": "31 different numbers called in an hour",
    },
    Topic.STANDING: {"before": "active", "standing": "suspended"},
    Topic.SERVICES: {"services": ["callback", "outbound"], "lifted": False},
    Topic.REQUEST: {
        "request": 4,
        "what": "approved",
        "rule": "allowances.voice",
        "policy": "plan",
        "limit": 9_000,
        "more": None,
        "from_ms": NOON_MS,
        "until_ms": None,
        "note": "a good customer",
        "plan": None,
    },
    Topic.POLICY: {"policy": "plan", "before": "1", "version": "2"},
}


def notice(topic: Topic, facts: Mapping[str, Any] | None = None) -> Notice:
    clause = Clause("plan", "1", "P7") if topic is Topic.CASE else None
    return Notice(1, "acme", topic, "x", NOON_MS, "alice", clause, FACTS[topic] if facts is None else facts)


def words(
    topic: Topic, language: str = "en", facts: Mapping[str, Any] | None = None, folder: Path | None = None
) -> tuple[str, str]:
    composer = Composer(Templates(folder), lambda: BOOK)
    account = Account("acme", "plan", "Europe/Berlin", "Acme Ltd")
    found = composer.compose(notice(topic, facts), account, Contact("acme", language))
    return found.subject, found.text


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize("topic", list(Topic))
def test_each_topic_has_words_in_each_language(topic: Topic, language: str) -> None:
    subject, text = words(topic, language)
    assert subject.endswith((".", "Minuten.")) or ":" in subject
    assert "Acme Ltd" in text
    assert "{" not in subject + text


def test_they_tell_amounts_days_and_the_clause() -> None:
    assert words(Topic.USED)[0] == '80 % of your allowance "voice" is used: 80 of 100 minutes.'
    assert "from 2026-11-01 to 2026-11-30" in words(Topic.USED)[1]
    assert words(Topic.LOW_CREDIT)[0] == "Your credit is low: 4.60 EUR is left."
    subject, text = words(Topic.CUT)
    assert subject == (
        "A call to +442079460123 ended after 4 hours: it reached the longest that a call may last."
    )
    assert "plan 1, P3" in text
    assert words(Topic.CASE)[0] == "Services were taken from your account: outbound calls."
    assert "plan 1, P7" in words(Topic.CASE)[1]


def test_a_policy_change_has_its_day_and_what_changes() -> None:
    subject, text = words(Topic.POLICY)
    assert subject == "The terms of your plan change on 2026-12-01."
    assert "- The monthly allowance falls from 100 to 50 minutes (P4)." in text
    with pytest.raises(NotWritten, match="version 9"):
        words(Topic.POLICY, facts={"policy": "plan", "before": "9", "version": "2"})


def test_messages_are_counted_as_messages() -> None:
    messages = """
[[allowances]]
name = "texts"
meter = "messages"
limit = 30000
period = "month"
counts = ["message"]
clause = "C8"
"""
    book = PolicyBook([priced_plan(more=messages)])
    facts = {"allowance": "texts", "percent": 80, "used": 24_000, "limit": 30_000, **WINDOW}
    composer = Composer(Templates(), lambda: book)
    found = composer.compose(notice(Topic.USED, facts), Account("acme", "plan"), Contact("acme"))
    assert found.subject == '80 % of your allowance "texts" is used: 24,000 of 30,000 messages.'


def test_a_language_that_is_not_there_is_told_in_english() -> None:
    assert words(Topic.LOW_CREDIT, "fr") == words(Topic.LOW_CREDIT)


def test_the_operators_templates_stand_in_for_the_shipped_ones(tmp_path: Path) -> None:
    (tmp_path / "en").mkdir()
    (tmp_path / "en/low_credit.txt").write_text("Top up, {{ account }}\n\nSoon.\n")
    (tmp_path / "fr").mkdir()
    (tmp_path / "fr/low_credit.txt").write_text("Il reste {{ balance }}\n")
    assert words(Topic.LOW_CREDIT, folder=tmp_path) == ("Top up, Acme Ltd", "Soon.\n")
    assert words(Topic.LOW_CREDIT, "fr", folder=tmp_path)[0] == "Il reste 4.60 EUR"
    assert words(Topic.STANDING, folder=tmp_path)[0] == "Your account is suspended."


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("en/low_credit.txt", "{{ balance", "low_credit.txt"),
        ("en/low_credits.txt", "x", "low_credit.txt"),
        ("en/low_credit.md", "x", "there is no such notice"),
    ],
)
def test_a_template_that_cannot_be_is_found_at_the_start(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / "en").mkdir()
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=said):
        Templates(tmp_path)


def test_a_folder_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"notices\.templates"):
        Templates(tmp_path / "nothing")


def test_a_template_that_speaks_of_what_is_not_there_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "en").mkdir()
    (tmp_path / "en/low_credit.txt").write_text("{{ nothing }}")
    with pytest.raises(NotWritten, match=r"en/low_credit\.txt"):
        words(Topic.LOW_CREDIT, folder=tmp_path)


def test_a_template_reaches_nothing_but_its_fields(tmp_path: Path) -> None:
    (tmp_path / "en").mkdir()
    (tmp_path / "en/low_credit.txt").write_text("{{ balance.__class__.__mro__ }}")
    with pytest.raises(NotWritten):
        words(Topic.LOW_CREDIT, folder=tmp_path)


def test_what_a_caller_dialled_makes_no_second_header() -> None:
    facts = {**FACTS[Topic.CUT], "number": "1\nBcc: all@example.com"}
    subject, _ = words(Topic.CUT, facts=facts)
    assert "\n" not in subject
