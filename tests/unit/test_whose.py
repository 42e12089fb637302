"""Which calls are of which switch, also where the name of one begins that of another."""

import pytest

from fairdial.whose import is_of


@pytest.mark.parametrize(
    ("switch", "call_id"),
    [
        ("a", "a-1795262400.7-1"),
        ("a-b", "a-b-1795262400.7-1"),
        ("a", "a-1795262400.7-1-again"),
        ("a", "a-own-0123456789abcdef-own"),
        ("a", "a-1795262400.7"),
        ("a", "a-1795262400.7;2"),
        ("pbx.1", "pbx.1-1795262400.7-1"),
        ("", "1795262400.7-1"),
        ("", "whatever"),
    ],
)
def test_a_call_is_of_the_switch_with_whose_name_its_channel_begins(switch: str, call_id: str) -> None:
    assert is_of(switch, call_id)


@pytest.mark.parametrize(
    ("switch", "call_id"),
    [
        ("a", "a-b-1795262400.7-1"),
        ("a-b", "a-1795262400.7-1"),
        ("a", "ab-1795262400.7-1"),
        ("a", "a-2-1795262400.7-1"),
        ("a", "a-2-own-0123456789abcdef-own"),
        ("a", "1795262400.7-1"),
        ("a.b", "axb-1795262400.7-1"),
    ],
)
def test_a_call_of_another_switch_is_not(switch: str, call_id: str) -> None:
    assert not is_of(switch, call_id)
