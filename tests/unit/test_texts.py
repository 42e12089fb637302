"""The fingerprint of a text: the same for what reads the same, another for what differs, and nothing to guess by."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairdial.policy.texts import fingerprint, normalised

SECRET = b"a secret of thirty-two bytes ...."


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("You have WON", "you have won"),
        ("two  words\r\n", " two words"),
        ("ﬁne", "fine"),  # a ligature
        ("Ｗｉｄｅ", "wide"),
        ("STRASSE", "straße"),
        ("e\u0301", "\u00e9"),
    ],
)
def test_what_reads_the_same_is_the_same(one: str, other: str) -> None:
    assert fingerprint(SECRET, one) == fingerprint(SECRET, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Your code is 123456", "Your code is 123457"),
        ("see https://a.example/x", "see https://a.example/y"),
        ("yes", "no"),
        ("two words", "twowords"),
    ],
)
def test_what_says_something_else_is_another(one: str, other: str) -> None:
    assert fingerprint(SECRET, one) != fingerprint(SECRET, other)


@pytest.mark.parametrize("text", ["", " \r\n\t", "\u3000"])
def test_what_says_nothing_has_none(text: str) -> None:
    assert fingerprint(SECRET, text) == ""


@given(st.text())
def test_a_fingerprint_is_32_digits_and_normalising_twice_changes_nothing(text: str) -> None:
    assert re.fullmatch("(?:[0-9a-f]{32})?", fingerprint(SECRET, text))
    assert normalised(normalised(text)) == normalised(text)


def test_without_the_secret_nothing_can_be_guessed() -> None:
    assert fingerprint(SECRET, "call me") != fingerprint(b"another secret", "call me")


def test_half_a_character_does_no_harm() -> None:
    assert fingerprint(SECRET, "a\ud800") != fingerprint(SECRET, "a")
