"""Rows of Master.csv and AMI's events, as Asterisk writes them and as nobody should."""

import csv
import io
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairdial.cdr import ROW_BYTES_MAX, Cdr, MalformedCdr, cdr_of_event, cdr_of_row, rows

LONDON = ZoneInfo("Europe/London")
ROW = (
    '"acme","alice","0182","outbound",""""" <alice>","PJSIP/alice-00000002","PJSIP/carrier-00000003","Dial",'
    '"PJSIP/0182@carrier","2026-11-22 02:51:42","2026-11-22 02:51:44","2026-11-22 02:51:45",3,1,"ANSWERED",'
    '"DOCUMENTATION"'
)
WITH_ID = f'{ROW},"1795315902.2"'
START_MS = 1_795_315_902_000
PARSED = Cdr(
    unique_id="1795315902.2",
    channel="PJSIP/alice-00000002",
    dst_channel="PJSIP/carrier-00000003",
    account_code="acme",
    src="alice",
    dst="0182",
    context="outbound",
    last_app="Dial",
    last_data="PJSIP/0182@carrier",
    start_ms=START_MS,
    answer_ms=START_MS + 2000,
    end_ms=START_MS + 3000,
    duration_s=3,
    bill_s=1,
    disposition="ANSWERED",
    user_field="",
)
EVENT = {
    "Event": "Cdr",
    "AccountCode": "acme",
    "Source": "alice",
    "Destination": "0182",
    "DestinationContext": "outbound",
    "CallerID": '"" <alice>',
    "Channel": "PJSIP/alice-00000002",
    "DestinationChannel": "PJSIP/carrier-00000003",
    "LastApplication": "Dial",
    "LastData": "PJSIP/0182@carrier",
    "StartTime": "2026-11-22 02:51:42",
    "AnswerTime": "2026-11-22 02:51:44",
    "EndTime": "2026-11-22 02:51:45",
    "Duration": "3",
    "BillableSeconds": "1",
    "Disposition": "ANSWERED",
    "AMAFlags": "DOCUMENTATION",
    "UniqueID": "1795315902.2",
}


def parsed(row: str, zone: ZoneInfo | None = None, after_ms: int | None = None) -> Cdr:
    return cdr_of_row(row, zone or UTC, where="Master.csv, line 7", after_ms=after_ms)


def utc(cdr: Cdr) -> list[str]:
    """Start, answer and end, as times of the day in UTC."""
    instants = (cdr.start_ms, cdr.answer_ms, cdr.end_ms)
    return [f"{datetime.fromtimestamp(ms / 1000, UTC):%H:%M:%S}" for ms in instants if ms is not None]


def local_row(start: str, answer: str, end: str, duration_s: int, bill_s: int) -> str:
    """A row of 25 October 2026, when London puts its clocks back from 02:00 to 01:00 (01:00 UTC)."""
    times = ",".join(f'"2026-10-25 {time}"' if time else "" for time in (start, answer, end))
    disposition = "ANSWERED" if answer else "NO ANSWER"
    return (
        f'"","a","1","c","","PJSIP/a-1","","Dial","",{times},{duration_s},{bill_s},"{disposition}","","1.1"'
    )


def test_a_row_and_an_event_say_the_same() -> None:
    assert parsed(WITH_ID) == PARSED == cdr_of_event(EVENT, UTC)
    assert parsed(f"{WITH_ID}\n") == PARSED
    assert PARSED.answered


@pytest.mark.parametrize(
    ("more", "unique_id", "user_field"),
    [
        ("", "", ""),
        (',"1795315902.2"', "1795315902.2", ""),
        (',"pbx-1795315902.2;2"', "pbx-1795315902.2;2", ""),
        (',"own-00ff00ff00ff00ff"', "own-00ff00ff00ff00ff", ""),
        (',"a customer\'s note"', "", "a customer's note"),
        (',"anything","a note"', "anything", "a note"),
        (',"peer","1795315902.2",4', "", ""),
        (',"1795315902.2","peer","1795315902.2",4', "1795315902.2", ""),
        (',"note","peer","1795315902.2",4', "", "note"),
        (',"1795315902.2","note","peer","1795315902.2",4', "1795315902.2", "note"),
    ],
)
def test_the_columns_that_cdr_conf_adds(more: str, unique_id: str, user_field: str) -> None:
    cdr = parsed(f"{ROW}{more}")
    assert (cdr.unique_id, cdr.user_field) == (unique_id, user_field)
    assert cdr.end_ms == PARSED.end_ms


def test_an_attempt_without_an_answer() -> None:
    row = WITH_ID.replace('"2026-11-22 02:51:44"', "").replace("3,1,", "3,0,").replace("ANSWERED", "BUSY")
    cdr = parsed(row)
    assert (cdr.answer_ms, cdr.answered) == (None, False)
    event = {**EVENT, "AnswerTime": "", "BillableSeconds": "0", "Disposition": "BUSY"}
    assert cdr_of_event(event, UTC) == cdr


def test_a_caller_whom_only_the_dialplan_answered() -> None:
    assert not parsed(WITH_ID.replace("ANSWERED", "BUSY")).answered


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (ROW.replace(',"DOCUMENTATION"', ""), "15 columns"),
        (f'{ROW},"1","2","3","4","5","6"', "22 columns"),
        (WITH_ID.replace("02:51:42", "02:51:62"), "start time '2026-11-22 02:51:62': second"),
        (WITH_ID.replace("02:51:45", "2:51:45"), "end time '2026-11-22 2:51:45': not written as"),
        (WITH_ID.replace("2026-11-22 02:51:44", "yesterday"), "answer time 'yesterday': not"),
        (WITH_ID.replace('"2026-11-22 02:51:42"', ""), "start time '': not"),
        (WITH_ID.replace("02:51:45", "02:51:41"), "are not in this order"),
        (WITH_ID.replace("02:51:44", "02:51:46"), "are not in this order"),
        (WITH_ID.replace(",3,1,", ",3.0,1,"), "duration '3.0' is no number"),
        (WITH_ID.replace(",3,1,", ",3,-1,"), "billsec '-1' is no number"),
        (WITH_ID.replace(",3,1,", ",٣,1,"), "duration '٣' is no number"),
        (WITH_ID.replace('"Dial"', '"Di"al"'), "not one row of CSV"),
        (WITH_ID[:-1], "not one row of CSV"),
        (f"{WITH_ID}\n{WITH_ID}", "not one row of CSV"),
        ("", "0 columns"),
        ("\x00" * 20, "columns"),
    ],
)
def test_a_row_that_nobody_can_read_is_named(row: str, fault: str) -> None:
    with pytest.raises(MalformedCdr) as caught:
        parsed(row)
    assert str(caught.value).startswith("Master.csv, line 7: ")
    assert fault in caught.value.fault


@pytest.mark.parametrize(
    ("headers", "fault"),
    [
        ({"StartTime": ""}, "start time ''"),
        ({"Duration": "3 s"}, "duration '3 s'"),
        ({"EndTime": "now"}, "end time"),
    ],
)
def test_an_event_that_nobody_can_read_is_named(headers: dict[str, str], fault: str) -> None:
    with pytest.raises(MalformedCdr, match=f"AMI event Cdr of 1795315902.2: {fault}"):
        cdr_of_event({**EVENT, **headers}, UTC)
    with pytest.raises(MalformedCdr, match="an unnamed channel"):
        cdr_of_event({}, UTC)


def test_times_are_those_of_the_zone() -> None:
    summer = WITH_ID.replace("2026-11-22", "2026-07-22")
    assert parsed(summer).start_ms - parsed(summer, LONDON).start_ms == 3_600_000
    assert parsed(WITH_ID, LONDON) == PARSED


@pytest.mark.parametrize(
    ("row", "after", "expected"),
    [
        # As far apart as the record says: over the change, and twice the same hour.
        (local_row("01:58:00", "01:58:10", "01:01:00", 180, 170), None, ["00:58:00", "00:58:10", "01:01:00"]),
        (
            local_row("01:10:00", "01:10:05", "01:20:00", 4200, 4195),
            None,
            ["00:10:00", "00:10:05", "01:20:00"],
        ),
        (
            local_row("01:10:00", "01:20:00", "01:30:00", 4800, 600),
            None,
            ["00:10:00", "01:20:00", "01:30:00"],
        ),
        (
            local_row("00:50:00", "00:50:10", "01:10:00", 4800, 4790),
            None,
            ["23:50:00", "23:50:10", "01:10:00"],
        ),
        # Both hours fit: the earlier, or the one that the row before leaves.
        (local_row("01:10:00", "01:10:05", "01:20:00", 600, 595), None, ["00:10:00", "00:10:05", "00:20:00"]),
        (
            local_row("01:10:00", "01:10:05", "01:20:00", 600, 595),
            "00:15",
            ["00:10:00", "00:10:05", "00:20:00"],
        ),
        (
            local_row("01:10:00", "01:10:05", "01:20:00", 600, 595),
            "00:21",
            ["00:10:00", "00:10:05", "00:20:00"],
        ),
        (
            local_row("01:10:00", "01:10:05", "01:20:00", 600, 595),
            "00:50",
            ["01:10:00", "01:10:05", "01:20:00"],
        ),
        (local_row("01:10:00", "", "01:20:00", 600, 0), "05:00", ["01:10:00", "01:20:00"]),
    ],
)
def test_an_hour_that_comes_twice(row: str, after: str | None, expected: list[str]) -> None:
    after_ms = None
    if after is not None:
        after_ms = int(datetime.fromisoformat(f"2026-10-25 {after}+00:00").timestamp() * 1000)
    assert utc(parsed(row, LONDON, after_ms)) == expected


def test_a_record_whose_duration_agrees_with_nothing_is_read_by_its_order() -> None:
    assert utc(parsed(local_row("01:10:00", "", "01:20:00", 77, 0), LONDON)) == ["00:10:00", "00:20:00"]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def written(fields: list[str]) -> str:
    """As cdr_csv does: text in quotes, which are doubled; numbers and absent times bare."""
    bare = (12, 13)
    quoted = ['"' + field.replace('"', '""') + '"' for field in fields]
    return (
        ",".join(
            fields[at] if at in bare or (at == 10 and not fields[at]) else quoted[at] for at in range(18)
        )
        + "\n"
    )


@st.composite
def hostile_rows(draw: st.DrawFn) -> tuple[str, Cdr]:
    texts = [draw(TEXT) for _ in range(11)]
    start_s = draw(st.integers(946_684_800, 4_102_444_800))
    rung_s, talked_s = draw(st.integers(0, 300)), draw(st.integers(0, 100_000))
    answered = draw(st.booleans())

    def instant(second: int) -> str:
        return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M:%S}"

    end_s = start_s + rung_s + talked_s
    answer = instant(start_s + rung_s) if answered else ""
    bill_s = talked_s if answered else 0
    times = [instant(start_s), answer, instant(end_s), str(end_s - start_s), str(bill_s)]
    row = written([*texts[:9], *times, "ANSWERED", "DOCUMENTATION", texts[9], texts[10]])
    account, src, dst, context, _, channel, dst_channel, app, data, unique_id, user_field = texts
    return row, Cdr(
        unique_id,
        channel,
        dst_channel,
        account,
        src,
        dst,
        context,
        app,
        data,
        start_s * 1000,
        (start_s + rung_s) * 1000 if answered else None,
        end_s * 1000,
        end_s - start_s,
        bill_s,
        "ANSWERED",
        user_field,
    )


@given(st.lists(hostile_rows(), max_size=5), st.integers(0, 3000))
def test_whatever_a_caller_calls_himself_comes_back(many: list[tuple[str, Cdr]], cut: int) -> None:
    """Quotes, commas and line ends in names and dialled strings; also where the file is read in two pieces."""
    data = "".join(row for row, _ in many).encode()
    head = data[:cut]
    taken = max((end for _, end in rows(head, final=False)), default=0)
    rest = data[taken:]
    texts = [head[start:end] for start, end in rows(head, final=False)]
    texts += [rest[start:end] for start, end in rows(rest, final=True)]
    assert [parsed(text.decode()) for text in texts] == [cdr for _, cdr in many]
    assert sum(map(len, texts)) == len(data)
    # Python's own reader sees the same rows.
    assert len(list(csv.reader(io.StringIO(data.decode(), newline="")))) == len(many)


@given(st.binary(max_size=3 * ROW_BYTES_MAX), st.booleans())
def test_no_bytes_hold_the_reader_up(data: bytes, final: bool) -> None:
    """Rows lie end to end, and what is left over is never longer than a row can be."""
    at = 0
    for start, end in rows(data, final=final):
        assert start == at < end
        at = end
    assert len(data) - at <= ROW_BYTES_MAX
    assert not (final and b"\n" in data[at:])


def split(data: bytes, *, final: bool = False) -> list[bytes]:
    return [data[start:end] for start, end in rows(data, final=final)]


def test_a_row_that_was_broken_off_takes_no_other_with_it() -> None:
    good, broken = f"{WITH_ID}\n".encode(), b'"acme","ali\n'
    assert split(good + broken + good + good, final=True) == [good, broken, good, good]
    # More may come, until there is too much for one row.
    assert split(good + broken + good) == [good]
    many = good * (ROW_BYTES_MAX // len(good) + 1)
    assert b"".join(split(broken + many)) == broken + many
    assert split(broken + many)[1] == good


def test_the_beginning_of_a_row_waits_for_its_end() -> None:
    row = WITH_ID.encode()
    assert split(row, final=True) == []
    assert split(row + b"\n") == [row + b"\n"]
    over_two_lines = row.replace(b"alice>", b"ali\nce>") + b"\n"
    assert split(over_two_lines) == [over_two_lines]
    assert split(over_two_lines[: over_two_lines.index(b"\n") + 1]) == []
