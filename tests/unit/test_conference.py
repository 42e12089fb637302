"""How a room's options in the dialplan are read: what is understood, and what is an error that says the cure."""

import pytest

from ari_handlers.door import Door
from fairdial.answer import MalformedRequest


@pytest.mark.parametrize(
    ("words", "door"),
    [
        (("7001",), Door("7001")),
        (("sales+eu.1",), Door("sales+eu.1")),
        (("7001", "pin=1234"), Door("7001", pin="1234")),
        (("7001", "host=9876", "end=host"), Door("7001", host_pin="9876", ends_with_host=True)),
        (("7001", "line=alice", "quiet"), Door("7001", line="alice", quiet=True)),
        (
            ("7001", "quiet", "line=a-b", "end=host", "host=98765", "pin=1"),
            Door("7001", "1", "98765", True, "a-b", True),
        ),
    ],
)
def test_options_are_understood_in_any_order(words: tuple[str, ...], door: Door) -> None:
    assert Door.of(words) == door


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "is no name"),
        (("",), "is no name"),
        (("70 01",), "is no name"),
        (("x" * 41,), "is no name"),
        # Two accounts and their rooms could otherwise be one bridge.
        (("sales-eu",), "is no name"),
        (("7001", "pin="), "write pin=1234"),
        (("7001", "pin"), "write pin=1234"),
        (("7001", "pin=12a4"), "write pin=1234"),
        (("7001", "pin=12345678901234567"), "write pin=1234"),
        (("7001", "host=*"), "write host=9876"),
        (("7001", "end=guest"), "write end=host"),
        (("7001", "end"), "write end=host"),
        (("7001", "line="), "write line=alice"),
        (("7001", "quiet=yes"), "write quiet"),
        (("7001", "quiet="), "write quiet"),
        (("7001", ""), "option '' is unknown"),
        (
            ("7001", "mute"),
            "option 'mute' is unknown; write pin=1234, host=9876, end=host, line=alice, quiet",
        ),
        (("7001", "pin=1", "pin=2"), "option pin is there twice"),
        (("7001", "pin=1234", "host=1234"), "pin and host are the same"),
    ],
)
def test_what_is_not_understood_is_an_error_with_its_cure(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(MalformedRequest) as caught:
        Door.of(words)
    assert says in str(caught.value)


@pytest.mark.parametrize("words", [("7001", "pin=1234x"), ("7001", "pin=5678", "host=5678")])
def test_no_error_and_no_text_of_a_door_shows_a_pin(words: tuple[str, ...]) -> None:
    with pytest.raises(MalformedRequest) as caught:
        Door.of(words)
    assert "5678" not in str(caught.value)
    assert "1234x" not in str(caught.value)
    assert "5678" not in repr(Door("7001", "5678", "56789"))


GUESTS = Door("7001", pin="1234")
BOTH = Door("7001", pin="1234", host_pin="98765")
HOSTS = Door("7001", host_pin="98765")


@pytest.mark.parametrize(
    ("door", "typed", "role"),
    [
        (GUESTS, "1234", "guest"),
        (GUESTS, "", None),
        (GUESTS, "123", None),
        (GUESTS, "12345", None),
        (BOTH, "1234", "guest"),
        (BOTH, "98765", "host"),
        (BOTH, "", None),
        (BOTH, "9876", None),
        (HOSTS, "98765", "host"),
        (HOSTS, "", "guest"),
        (HOSTS, "1", None),
    ],
)
def test_keys_let_in_as_host_or_guest_or_not_at_all(door: Door, typed: str, role: str | None) -> None:
    assert door.role(typed) == role


def test_a_door_without_a_pin_asks_for_none() -> None:
    assert (Door("7001").keys_max, GUESTS.keys_max, BOTH.keys_max) == (0, 4, 5)
