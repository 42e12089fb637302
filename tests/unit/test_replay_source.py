"""Files of call records: what cannot be read, other layouts by a mapping, and calls in order within bounded memory."""

import gzip
import random
import tempfile
import tracemalloc
from collections.abc import Sequence
from datetime import UTC
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairdial.policy.account import Kind
from fairdial.replay.calls import Grouping, Recorded, Sorter
from fairdial.replay.layout import MappingError, parse_layout
from fairdial.replay.source import FAULTS_MAX, Reading, Row, SourceUnreadable, read
from tests.cdrs import PREMIUM, call_of, replayed, row
from tests.samples import NOON_MS, plan

MAPPING = """
delimiter = ";"
time = "iso8601"
zone = "Europe/Berlin"
answered = ["completed"]
[kinds]
inbound = ["in"]
outbound = ["out"]
[columns]
unique_id = "id"
account_code = "customer"
src = "from"
dst = "to"
start = "begin"
end = "finish"
bill_s = "seconds"
disposition = "status"
kind = "direction"
"""
MAPPED = """id;customer;from;to;begin;finish;seconds;status;direction
a1;alice;alice;02079460123;2026-11-21T13:00:00;2026-11-21T13:01:10;60;completed;out
a2;alice;alice;09098790000;2026-11-21T12:10:00Z;2026-11-21T12:10:10Z;5;completed;out
a3;alice;+442079460200;442079460000;2026-11-21T13:20:00+01:00;2026-11-21T13:21:00+01:00;50;completed;in
a4;alice;alice;02079460123;2026-11-21T13:30:00;2026-11-21T13:30:20;0;failed;out
"""


def rows_of(file: Path, text: str | None = None, mapping: str | None = None) -> tuple[list[Row], Reading]:
    """What is read of a file."""
    if text is not None:
        file.write_text(text)
    reading = Reading()
    layout = None if mapping is None else parse_layout(mapping, "mapping.toml")
    return list(read([file], UTC, layout, reading, lambda _step, _done, _total: None)), reading


def test_rows_that_cannot_be_read_are_counted_and_the_first_told_with_their_lines(tmp_path: Path) -> None:
    good = [row(number, number * 10) for number in range(3)]
    bad = ["half a row"] * 30
    found, reading = rows_of(tmp_path / "Master.csv", "\n".join([good[0], *bad, *good[1:]]) + "\n")
    assert [cdr.unique_id for cdr, _ in found] == [call_of(number)[:-2] for number in range(3)]
    assert (reading.rows, reading.malformed, len(reading.faults)) == (3, 30, FAULTS_MAX)
    assert reading.faults[0].startswith(f"{tmp_path}/Master.csv, line 2: 1 columns")


def test_a_last_row_without_a_line_end_is_read(tmp_path: Path) -> None:
    found, reading = rows_of(tmp_path / "Master.csv", row(1, 0))
    assert (len(found), reading.malformed) == (1, 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "no row of it is a call record"), ("a,b\nc,d\n", "line 2: 2 columns"), (None, "no such file")],
)
def test_a_file_without_a_record_is_an_error(tmp_path: Path, text: str | None, words: str) -> None:
    with pytest.raises(SourceUnreadable, match=words):
        rows_of(tmp_path / "Master.csv", text)


def test_what_is_packed_is_unpacked_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "Master.csv.gz"
    file.write_bytes(gzip.compress((row(1, 0) + "\n").encode()))
    found, _ = rows_of(file)
    assert [cdr.unique_id for cdr, _ in found] == [call_of(1)[:-2]]
    file.write_bytes(b"no gzip")
    with pytest.raises(SourceUnreadable, match="cannot be read"):
        rows_of(file)


@given(
    st.lists(
        st.sampled_from(
            [row(1, 0).encode(), b'"', b",", b"\n", b"\0", b"\xff", b'"a""b"', b"=1", b"x" * 5000]
        )
    )
)
def test_whatever_bytes_a_file_has_it_is_read_or_told_of(pieces: list[bytes]) -> None:
    for layout in (None, parse_layout(MAPPING, "mapping.toml")):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "calls.csv")
            file.write_bytes(b"".join(pieces))
            reading = Reading()
            try:
                found = list(read([file], UTC, layout, reading, lambda *_told: None))
            except (SourceUnreadable, MappingError):
                found = []
            assert len(found) == reading.rows


# --- other layouts -------------------------------------------------------------------------------------


def test_a_mapping_reads_another_layout(tmp_path: Path) -> None:
    found, reading = rows_of(tmp_path / "calls.csv", MAPPED, MAPPING)
    assert reading.malformed == 0
    first, first_kind = found[0]
    assert (first.start_ms, first.answer_ms, first.end_ms) == (NOON_MS, NOON_MS + 10_000, NOON_MS + 70_000)
    assert (first.account_code, first.src, first.dst, first.bill_s) == ("alice", "alice", "02079460123", 60)
    assert [kind for _, kind in found] == [Kind.OUTBOUND, Kind.OUTBOUND, Kind.INBOUND, Kind.OUTBOUND]
    assert first_kind is Kind.OUTBOUND
    assert [cdr.answered for cdr, _ in found] == [True, True, True, False]


async def test_calls_of_another_layout_are_decided_as_asterisks_are(tmp_path: Path) -> None:
    found = await replayed(
        tmp_path, MAPPED.splitlines(), plan(), layout=parse_layout(MAPPING, "mapping.toml")
    )
    assert {
        outcome.call_id: (outcome.kind, outcome.reason, outcome.metered_s) for outcome in found.calls.values()
    } == {
        "a1-1": (Kind.OUTBOUND, "within_allowance", 60),
        "a2-1": (Kind.OUTBOUND, "class_not_covered", 0),
        "a3-1": (Kind.INBOUND, "within_allowance", 50),
        "a4-1": (Kind.OUTBOUND, "within_allowance", 0),
    }


def test_columns_can_be_named_by_their_places(tmp_path: Path) -> None:
    mapping = "header = false\ntime = 'epoch'\n[columns]\nstart = 1\naccount_code = 2\ndst = 3\nanswer = 4\nend = 5\n"
    text = "1795262400,alice,02079460123,1795262405.5,1795262465\n1795262500,alice,02079460123,,1795262520\n"
    found, _ = rows_of(tmp_path / "calls.csv", text, mapping)
    assert [(cdr.answer_ms, cdr.bill_s) for cdr, _ in found] == [(NOON_MS + 5500, 59), (None, 0)]


def test_without_an_end_it_is_reckoned_from_the_seconds_of_talk(tmp_path: Path) -> None:
    mapping = "[columns]\nstart = 'start'\nchannel = 'channel'\ndst = 'dst'\nbill_s = 'billsec'\n"
    text = "start,channel,dst,billsec\n2026-11-21 12:00:00,PJSIP/alice-00000001,02079460123,30\n"
    [(cdr, _)], _ = rows_of(tmp_path / "calls.csv", text, mapping)
    assert (cdr.answer_ms, cdr.end_ms, cdr.bill_s) == (NOON_MS, NOON_MS + 30_000, 30)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (("2026-11-21T13:00:00", "noon"), "line 2: start time 'noon' is not written as 2026-11-22T09:30:00"),
        (
            ("2026-11-21T13:01:10", "2020-11-21T13:01:10"),
            "line 2: start, answer and end are not in this order",
        ),
        ((";60;", ";sixty;"), "line 2: bill_s 'sixty' is no number of seconds"),
        (("completed;out\na2", "completed;sideways\na2"), "line 2: kind 'sideways' is none of"),
        (("a1;alice;alice;", "a1;"), "line 2: 7 columns, and the mapping reads column 9"),
    ],
)
def test_a_row_that_the_mapping_cannot_read_is_told_with_its_line(
    tmp_path: Path, changed: tuple[str, str], words: str
) -> None:
    found, reading = rows_of(tmp_path / "calls.csv", MAPPED.replace(*changed, 1), MAPPING)
    assert (len(found), reading.malformed) == (3, 1)
    assert words in reading.faults[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[columns]\nstart = 'a'\n", "mapping.toml: columns.dst: missing"),
        ("[columns]\nstart = 'a'\ndst = 'b'\nend = 'c'\n", "nothing tells whose call a row is of"),
        ("[columns]\nstart = 'a'\ndst = 'b'\nchannel = 'c'\n", "nothing tells how long a call was"),
        (MAPPING.replace("delimiter", "delimeter"), "write delimiter"),
        (MAPPING.replace("Europe/Berlin", "Mars/Base"), "time zone 'Mars/Base' is unknown"),
        (
            MAPPING.replace("[kinds]", "header = false\n[kinds]"),
            "column start has a name, and there is no header",
        ),
        (MAPPING.replace('["out"]', '["out", "in"]'), "the word 'in' means two kinds"),
        ("x = [", "not TOML"),
    ],
)
def test_a_faulty_mapping_is_told_with_its_key_and_cure(text: str, words: str) -> None:
    with pytest.raises(MappingError, match=r"mapping\.toml") as error:
        parse_layout(text, "mapping.toml")
    assert words in str(error.value)


def test_a_column_that_the_header_does_not_have_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match="the header has no column 'customer'"):
        rows_of(tmp_path / "calls.csv", MAPPED.replace("customer", "client"), MAPPING)


def test_times_of_records_are_those_of_their_zone(tmp_path: Path) -> None:
    file = tmp_path / "Master.csv"
    file.write_text(row(1, 3600) + "\n")
    [(cdr, _)] = read([file], ZoneInfo("Europe/Berlin"), None, Reading(), lambda *_told: None)
    assert cdr.start_ms == NOON_MS


# --- calls in order --------------------------------------------------------------------------------------


def recorded(number: int, start_ms: int) -> Recorded:
    """A call with nothing of interest but its start."""
    name = f"PJSIP/alice-{number:08x}"
    return Recorded(
        start_ms,
        None,
        start_ms,
        0,
        f"1795262400.{number}",
        name,
        (),
        (),
        "alice",
        "alice",
        PREMIUM,
        "Dial",
        "",
        "",
    )


def in_order(starts: Sequence[int], run_calls: int) -> list[tuple[int, str]]:
    """Calls with these starts, sorted in pieces of that many."""
    sorter = Sorter(run_calls)
    for number, start_ms in enumerate(starts):
        sorter.add(recorded(number, start_ms))
    found = [(call.start_ms, call.unique_id) for call in sorter.calls()]
    sorter.close()
    return found


@pytest.mark.parametrize("run_calls", [1, 7, 1000])
def test_calls_come_in_the_order_of_their_starts_in_however_many_pieces_they_were_sorted(
    run_calls: int,
) -> None:
    chance = random.Random(3)
    starts = [chance.randrange(0, 50_000, 1000) for _ in range(100)]
    expected = sorted((start, number) for number, start in enumerate(starts))
    assert in_order(starts, run_calls) == [(start, f"1795262400.{number}") for start, number in expected]


def test_no_call_is_no_order() -> None:
    assert in_order([], 10) == []


def test_sorting_many_calls_takes_no_more_memory_than_sorting_some() -> None:
    def peak_of(count: int) -> int:
        tracemalloc.start()
        sorter = Sorter(run_calls=500)
        for number in range(count):
            sorter.add(recorded(number, (number * 7919) % 100_000 * 1000))
        seen = sum(1 for _ in sorter.calls())
        sorter.close()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert seen == count
        return peak

    # What grows is the part of each piece that is read ahead, up to 64 KB of some 80 KB.
    assert peak_of(8_000) < 16 * 80_000 + 4 * peak_of(1_000)


def test_records_of_a_channel_that_stand_far_apart_are_not_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "Master.csv"
    file.write_text("".join(row(number, number) + "\n" for number in range(1, 30)))
    grouping, complete = Grouping(group_rows=5), 0
    for cdr, kind in read([file], UTC, None, Reading(), lambda *_told: None):
        complete += len(list(grouping.add(cdr, kind)))
    assert complete == 24
    assert len(list(grouping.rest())) == 5
