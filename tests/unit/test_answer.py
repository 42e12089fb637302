"""What the dialplan asks, and what it is told."""

import re

import pytest

from fairdial.answer import EXTENSION_CHARS_MAX, MalformedRequest, answer_to, asked_from
from fairdial.desk import Asked, Failed
from fairdial.policy.account import Kind
from fairdial.policy.decide import EMERGENCY, Allow, Refuse, Verdict
from fairdial.policy.numbers import Number
from fairdial.policy.outcomes import OUTCOMES, UNDECIDED, Reason
from fairdial.policy.prefixes import NumberClass
from fairdial.policy.terms import Clause
from tests.samples import LONDON

CLAUSE = Clause("plan", "1", "P4")
EXTENSION = Number("100", None, NumberClass.INTERNAL, None)


def asked(**words: str) -> Asked:
    given = {"channel_id": "1795262400.7", "endpoint": "alice", "kind": "outbound", "number": "02079460123"}
    return asked_from(**(given | words))


def test_a_request_is_read() -> None:
    assert asked(ring_s="45", caller="100", sip_call_id="abc@host") == Asked(
        call_id="1795262400.7-1",
        kind=Kind.OUTBOUND,
        dialled="02079460123",
        line_id="alice",
        channel="1795262400.7",
        ring_s=45,
        caller="100",
        sip_call_id="abc@host",
        source="alice",
    )


def test_each_ask_of_a_channel_is_a_dial_of_its_own() -> None:
    assert asked(attempt="1").call_id != asked(attempt="2").call_id
    assert asked(attempt="2").channel == asked().channel


def test_the_line_is_the_endpoint_unless_the_dialplan_names_another() -> None:
    assert asked(line="").line_id == "alice"
    assert asked(line="trunk-7").line_id == "trunk-7"
    assert asked(caller="bob").line_id == "alice"


@pytest.mark.parametrize(
    ("told", "source"),
    [
        ("192.0.2.7:5060", "192.0.2.7"),
        ("192.0.2.7", "192.0.2.7"),
        ("[2001:db8::7]:5060", "2001:db8::7"),
        ("2001:db8::7", "2001:db8::7"),
        ("", "alice"),
        (":5060", "alice"),
        ("9" * 500, "9" * 60),
    ],
)
def test_the_source_is_the_address_without_its_port_and_else_the_endpoint(told: str, source: str) -> None:
    assert asked(source=told).source == source


def test_a_number_that_is_too_long_is_cut_as_it_must_be_recorded() -> None:
    assert asked(number="1" * 500).dialled == "1" * 80


@pytest.mark.parametrize("ring_s", ["1", "600", "0045"])
def test_a_ring_time_within_bounds_is_taken(ring_s: str) -> None:
    assert asked(ring_s=ring_s).ring_s == int(ring_s)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"kind": "outgoing"}, "kind 'outgoing' is unknown; write one of outbound, inbound"),
        ({"kind": ""}, "kind '' is unknown"),
        ({"attempt": "x"}, "attempt 'x' is not a count"),
        ({"attempt": ""}, "attempt '' is not a count"),
        ({"attempt": "²"}, "attempt '²' is not a count"),
        ({"attempt": "1234567"}, "is not a count"),
        ({"ring_s": "0"}, "FAIRDIAL_RING '0' is not 1 to 600 seconds"),
        ({"ring_s": "601"}, "is not 1 to 600 seconds"),
        ({"ring_s": "-5"}, "is not 1 to 600 seconds"),
        ({"ring_s": "٣"}, "is not 1 to 600 seconds"),
        ({"ring_s": "0000000019999999"}, "is not 1 to 600 seconds"),
        ({"channel_id": ""}, "the channel has no usable id"),
        ({"channel_id": "x" * 151}, "the channel has no usable id"),
        # Cut to 80 characters it could be another line's name.
        ({"line": "a" * 81}, "is longer than 80 characters"),
        ({"endpoint": "a" * 81}, "is longer than 80 characters"),
    ],
)
def test_a_malformed_request_is_told_what_is_wrong(words: dict[str, str], told: str) -> None:
    with pytest.raises(MalformedRequest, match=re.escape(told)):
        asked(**words)


def test_an_allowed_dial_is_told_its_number_and_end() -> None:
    allow = Allow(Reason.WITHIN_ALLOWANCE, CLAUSE, "acme", 60, 14_400)
    answer = answer_to(asked(ring_s="30"), Verdict(LONDON, allow))
    assert answer.packed() == "ALLOW*within_allowance*0*+442079460123*60*90**"


def test_a_dial_without_an_end_is_told_none() -> None:
    allow = Allow(Reason.NOT_COUNTED, CLAUSE, "acme")
    assert answer_to(asked(), Verdict(EXTENSION, allow)).packed() == "ALLOW*not_counted*0*****"


def test_a_refused_dial_is_told_cause_and_prompt() -> None:
    refuse = Refuse(Reason.CLASS_NOT_COVERED, CLAUSE, "acme")
    answer = answer_to(asked(), Verdict(LONDON, refuse))
    assert answer.packed() == "REFUSE*class_not_covered*21*+442079460123***ss-noservice*"


def test_an_emergency_call_is_allowed_without_an_end() -> None:
    police = Number("112", None, NumberClass.EMERGENCY, "GB")
    assert answer_to(asked(number="112"), Verdict(police, EMERGENCY)).packed() == "ALLOW*emergency*0*****"


@pytest.mark.parametrize("reason", sorted(UNDECIDED))
def test_where_nothing_was_decided_the_failure_rule_is_called_for(reason: Reason) -> None:
    assert answer_to(asked(), Failed(reason)).packed() == f"FAILED*{reason}*34*****"


@pytest.mark.parametrize("reason", sorted(set(Reason) - UNDECIDED))
def test_what_was_dialled_never_steers_the_answer(reason: Reason) -> None:
    hostile = Number("1*ALLOW*&PJSIP/x", None, NumberClass.INTERNAL, None)
    allowed = OUTCOMES[reason].cause == 0
    decision = Allow(reason, CLAUSE, "acme", 60, 60) if allowed else Refuse(reason, CLAUSE, "acme")
    packed = answer_to(asked(number=hostile.dialled), Verdict(hostile, decision)).packed()
    assert packed.count("*") == 7
    assert re.fullmatch(r"[A-Za-z0-9_+*-]+", packed)


@pytest.mark.parametrize("reason", Reason)
def test_the_longest_answer_fits_into_an_extension(reason: Reason) -> None:
    longest = Number("0", "+" + "9" * 15, NumberClass.GEOGRAPHIC, "GB")
    clause = Clause("p" * 40, "v" * 40, "c" * 40)
    shown = "+" + "9" * 15
    for decision in (
        Allow(reason, clause, "a" * 80, 86_400, None, caller=shown),
        Refuse(reason, clause, "a" * 80),
    ):
        packed = answer_to(asked(ring_s="600"), Verdict(longest, decision)).packed()
        assert len(packed) <= EXTENSION_CHARS_MAX
