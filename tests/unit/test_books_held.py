"""What `testbed.books` finds: each way in which the books can be wrong is listed, and books that are right are not."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from fairdial.cdr import Cdr
from testbed.books import Made, Placed, Rules, _Books, _Judge, numbers
from testbed.sipp import CallOutcome, CarrierCall

NUMBER = "02079000100"
RULES = Rules(limit_s=1_000)
CALL = CallOutcome("1-1@x", 200, None, 0.1, 8.0, "caller", 0, 100.0, 100.1, 108.1, rang=False)
GRANT = {"call_id": "1.1-1", "channel": "1.1", "granted_s": 60, "used_s": 8, "estimated": False}
RECORD = Cdr(
    *("1.1", "PJSIP/alice-1", "PJSIP/carrier-1", "alice", "alice", NUMBER, "phones", "Dial", ""),
    *(100_000, 100_000, 108_000, 8, 8, "ANSWERED", ""),
)
CALLED = CarrierCall("c", NUMBER, "alice", 100.0, 200, 100.05, 108.15, "switch")


def found(
    call: CallOutcome | None = CALL,
    grants: tuple[dict[str, Any], ...] = (GRANT,),
    records: tuple[Cdr, ...] = (RECORD,),
    called: CarrierCall = CALLED,
    rules: Rules = RULES,
    by_record: frozenset[str] = frozenset(),
) -> list[str]:
    books = _Books({NUMBER: list(grants)} if grants else {}, by_record)
    for record in records:
        books.records.setdefault(record.unique_id, []).append(record)
    judge = _Judge(books, {NUMBER: called}, rules)
    placed = Placed(() if call is None else (Made(NUMBER, call),))
    for made in placed.calls:
        judge.look_at(made)
    judge.look_for_others(placed)
    return judge.wrong


def test_books_that_are_right() -> None:
    assert found() == []


def test_a_refused_call_that_holds_a_grant_of_no_seconds_is_right_and_one_that_was_metered_is_not() -> None:
    refused = replace(CALL, final_status=503, answered_at=None, talk_s=0.0, ended_by="none")
    assert found(refused, (GRANT | {"used_s": 0},), ()) == []
    assert "metered with 8 s" in found(refused, records=())[0]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"grants": ()}, "with 0 grants"),
        ({"grants": (GRANT, GRANT | {"call_id": "1.2-1"})}, "with 2 grants"),
        ({"call": None}, "no phone called it"),
        ({"grants": (GRANT | {"used_s": None},)}, "not settled"),
        ({"grants": (GRANT | {"used_s": 10},)}, "metered 10 s"),
        ({"grants": (GRANT | {"used_s": 6},)}, "metered 6 s"),
        ({"grants": (GRANT | {"estimated": True},)}, "estimated"),
        ({"grants": (GRANT | {"granted_s": 6},)}, "the caller leg was up 8.00 s on 6 s"),
        ({"called": replace(CALLED, ended_at=190.0)}, "the called leg was up 89.95 s on 60 s"),
        ({"records": ()}, "has no record"),
        ({"records": (msgspec.structs.replace(RECORD, bill_s=4),)}, "recorded 4 s"),
        (
            {"records": (RECORD, msgspec.structs.replace(RECORD, unique_id="1.7"))},
            "1.7: answered by the switch's record",
        ),
        ({"call": replace(CALL, setup_s=6.0)}, "after 6.00 s"),
        ({"call": replace(CALL, final_status=408, answered_at=None)}, "answered with 408"),
    ],
)
def test_what_is_wrong_is_told(wrong: dict[str, Any], words: str) -> None:
    assert any(words in line for line in found(**wrong))


def test_by_the_switchs_record_a_call_may_be_two_seconds_off_and_no_more() -> None:
    grants = (GRANT | {"used_s": 10},)
    assert found(grants=grants, by_record=frozenset({"1.1-1"})) == []
    assert found(grants=(GRANT | {"used_s": 11},), by_record=frozenset({"1.1-1"}))


@pytest.mark.parametrize(("used_s", "right"), [(5, True), (6, True), (1, True), (0, False), (7, False)])
def test_a_call_that_died_with_asterisk_may_be_short_of_what_was_proven_and_never_long(
    used_s: int, right: bool
) -> None:
    died = Rules(limit_s=1_000, died_at=105.1)
    grants = (GRANT | {"used_s": used_s, "estimated": True},)
    assert (found(grants=grants, records=(), rules=died) == []) is right


def test_a_switch_that_hung_counts_until_it_came_back() -> None:
    grants, records = (GRANT | {"used_s": 12},), (msgspec.structs.replace(RECORD, bill_s=12),)
    assert found(grants=grants, records=records, rules=Rules(1_000, hung=(106.0, 112.1))) == []
    assert found(grants=grants, records=records)


def test_no_number_is_dialled_twice_and_none_has_a_special_ending() -> None:
    made = numbers(0, 500)
    assert len(set(made)) == 500
    assert not any(int(number[-2:]) in range(80, 100) for number in made)
