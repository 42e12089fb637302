"""What stands in the log: one line an entry whatever a caller put into it, and no telephone number in full."""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from fairdial import logs
from fairdial.config import Logs
from fairdial.logs import escaped, masked, masked_in

Format = Literal["console", "json"]
STAMP = re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+Z \[\w+ *\] ", re.MULTILINE)
HOSTILE = (
    "bob\n2026-11-22T00:00:00.000000Z [info     ] decided result=ALLOW\x1b[2J\x9b31m\u2028\u202e\x00\ud800"
)


Stderr = pytest.CaptureFixture[str]


def entry(capsys: Stderr, facts: Mapping[str, Any], form: Format = "json", *, full: bool = False) -> str:
    """What one entry with these facts looks like in the log."""
    logs.set_up(Logs(format=form, numbers="full" if full else "masked"))
    structlog.get_logger("tests").warning("heard", **facts)
    return capsys.readouterr().err


@pytest.fixture(autouse=True)
def libraries_log_as_before() -> Iterator[None]:
    """Setting the logs up takes libraries' warnings in, for the whole process."""
    handlers = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = handlers


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        ("+447911123412", "+4479••••••12"),
        ("02079460123", "0207•••••23"),
        ("0207-946-0123", "0207-•••-••23"),
        ("*31#02079460123", "*31#02•••••••23"),
        ("sip:+447911123412@192.0.2.7", "sip:+4479••••••••@•••.•.2.7"),
        ("7654321", "7••••21"),
        ("123456", "123456"),
        ("112", "112"),
        ("", ""),
        ("anonymous", "anonymous"),
    ],
)
def test_the_middle_of_a_number_is_hidden_and_a_short_one_is_not(number: str, shown: str) -> None:
    assert masked(number) == shown


@given(st.from_regex(r"\+?[0-9]{7,15}", fullmatch=True))
def test_of_no_number_more_than_six_digits_are_left(number: str) -> None:
    shown = masked(number)
    assert len(shown) == len(number)
    assert shown.count("•") >= 4
    assert sum(character.isdigit() for character in shown) <= 6


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("call to +442079460123 failed", "call to +4420••••••23 failed"),
        ("call to +44 20 7946 0123.", "call to +44 20 •••• ••23."),
        ("no route to 02079460123", "no route to 0207•••••23"),
        ("'02079460123'", "'0207•••••23'"),
        ("number=%2B442079460123&kind=outbound", "number=%2B442•••••••23&kind=outbound"),
        ("PJSIP/442079460123@carrier", "PJSIP/4420••••••23@carrier"),
        ("Local/02079460123@phones-0000000a;1", "Local/0207•••••23@phones-0000000a;1"),
        ("sip:2125550123@host", "sip:2125••••23@host"),
    ],
)
def test_a_number_in_a_text_is_masked(text: str, shown: str) -> None:
    assert masked_in(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "1795315345.12",
        "1795315345.12-1",
        "lon1-1795315345.12-3",
        "DELETE channels/1795315345.12 answered 404",
        "PJSIP/alice-00000001",
        "2026-11-22T02:49:14.123456Z",
        "since 1795315345 or 1795315345123",
        "12.500000 GBP",
        "12500000 micros",
        "0.0123456789",
        "127.0.0.1:8088",
        "550e8400-e29b-41d4-a716-446655440000",
        "8b1a9953c4611296a827abf8c47804d7",
        "extension 4001",
        "/var/lib/fairdial/ledger-20261122.sqlite",
    ],
)
def test_what_is_no_number_is_left_as_it_is(text: str) -> None:
    assert masked_in(text) == text


def test_numbers_are_masked_by_default_and_shown_where_that_is_configured(capsys: Stderr) -> None:
    facts = {"caller": "+447911123412", "error": "02079460123 rang", "numbers": [{"e164": "+442079460123"}]}
    line = json.loads(entry(capsys, facts))
    assert (line["caller"], line["error"]) == ("+4479••••••12", "0207•••••23 rang")
    assert line["numbers"] == [{"e164": "+4420••••••23"}]
    assert json.loads(entry(capsys, facts, full=True)).items() >= facts.items()


def test_what_is_looked_up_elsewhere_and_what_is_counted_stays(capsys: Stderr) -> None:
    facts = {
        "call": "1795315345.12-1",
        "line": "02079460123",
        "channel": "PJSIP/02079460123-00000001",
        "sip_call_id": "02079460123@192.0.2.7",
        "at_ms": 1_795_315_345_123,
        "micros": 12_500_000_000,
    }
    assert json.loads(entry(capsys, facts)).items() >= facts.items()


def test_a_number_that_became_part_of_a_channels_name_is_masked(capsys: Stderr) -> None:
    line = json.loads(entry(capsys, {"channel": "Local/02079460123@phones-0000000a;1"}))
    assert line["channel"] == "Local/0207•••••23@phones-0000000a;1"


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize("key", ["caller", "channel", "error", "name", "\nname\x1b"])
def test_a_value_forges_no_line_and_steers_no_terminal(capsys: Stderr, form: Format, key: str) -> None:
    text = entry(capsys, {key: HOSTILE, "nested": [{HOSTILE: (HOSTILE,)}]}, form)
    assert text.count("\n") == 1
    assert all(character == "\n" or " " <= character <= "~" or character == "•" for character in text)


@pytest.mark.parametrize("form", ["console", "json"])
def test_the_words_of_an_error_forge_no_line_and_show_no_number(capsys: Stderr, form: Format) -> None:
    logs.set_up(Logs(format=form))
    number = "+447911123412"
    held = "".join(("sec", "ret"))
    try:
        raise ValueError(f"{HOSTILE} {number}")
    except ValueError:
        structlog.get_logger("tests").exception("failed")
    text = capsys.readouterr().err
    if form == "console":
        lines = text.splitlines()
        assert [bool(STAMP.match(line)) for line in lines] == [True, *[False] * (len(lines) - 1)]
        assert all(line.startswith("  | ") for line in lines[1:])
    else:
        assert text.count("\n") == 1
    assert "\x1b" not in text
    assert "7911123412" not in text
    assert "ValueError" in text
    assert held
    assert "secret" not in text, "a traceback must not show what variables hold"


@given(st.text())
def test_an_escaped_text_is_one_line_that_can_be_encoded(text: str) -> None:
    shown = escaped(text)
    assert len(shown.splitlines()) <= 1
    shown.encode()
    assert escaped(shown) == shown


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_nothing_that_is_logged_makes_the_log_fail(value: Any) -> None:
    event = logs.escape_text(
        None, "info", logs.mask_numbers(None, "info", {"event": "x", "error": value, "number": value})
    )
    assert event["event"] == "x"


@given(st.text(st.characters(categories=["Nd"]) | st.sampled_from("+ .()-/@%2B"), max_size=5_000))
def test_no_text_makes_masking_slow(text: str) -> None:
    masked_in(text)


def test_what_libraries_say_stands_in_the_log_in_the_same_way(capsys: Stderr) -> None:
    for _ in range(2):
        logs.set_up(Logs())
    logging.getLogger("panoramisk").warning("lost %s\n%s", "+447911123412", "forged")
    logging.getLogger("panoramisk").info("too much")
    [line] = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert (told["event"], told["logger"], told["level"]) == ("library", "panoramisk", "warning")
    assert told["said"] == "lost +4479••••••12\nforged"
