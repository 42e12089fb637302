"""Master.csv on disk: what is appended, rotated, cut off, broken, or not there."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from fairdial.cdr import ROW_BYTES_MAX, Cdr
from fairdial.cdr_file import CdrFile, CdrUnreadable

BEGUN_S = 1_790_000_000
MANY = 20_000


def row(number: int, *, unique_id: str | None = None, user_field: str = "") -> bytes:
    """The record of call `number`, which ended `number` seconds after the first."""
    at = datetime.fromtimestamp(BEGUN_S + number, UTC).strftime("%Y-%m-%d %H:%M:%S")
    unique_id = f"{BEGUN_S}.{number}" if unique_id is None else unique_id
    return (
        f'"acme","alice","0100","outbound","""A, B"" <1>","PJSIP/alice-{number:08x}","PJSIP/carrier-{number:08x}",'
        f'"Dial","PJSIP/0100@carrier","{at}","{at}","{at}",0,0,"ANSWERED","DOCUMENTATION","{unique_id}",'
        f'"{user_field}"\n'
    ).encode()


def end_ms(number: int) -> int:
    return (BEGUN_S + number) * 1000


def numbers(cdrs: Sequence[Cdr]) -> list[int]:
    """Which calls those are."""
    return [int(cdr.unique_id.partition(".")[2]) for cdr in cdrs]


def events(logs: Sequence[Any], name: str) -> list[Any]:
    return [entry for entry in logs if entry["event"] == name]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "Master.csv"


@pytest.fixture
async def file(path: Path) -> AsyncIterator[CdrFile]:
    followed = CdrFile(path, UTC)
    yield followed
    await followed.close()


def append(path: Path, *rows: bytes) -> None:
    with path.open("ab") as master:
        master.write(b"".join(rows))


async def drained(file: CdrFile) -> list[int]:
    """All that is there, as a caller reads it."""
    found = numbers(await file.read_new())
    while file.more:
        found += numbers(await file.read_new())
    return found


async def test_what_is_appended_comes_once(path: Path, file: CdrFile) -> None:
    append(path, row(1), row(2))
    assert numbers(await file.read_new()) == [1, 2]
    assert numbers(await file.read_new()) == []
    append(path, row(3))
    assert numbers(await file.read_new()) == [3]
    assert not file.more


async def test_a_file_that_is_not_there_comes_later(path: Path, file: CdrFile) -> None:
    assert await file.begin(end_ms(0))
    assert await file.read_new() == []
    assert not file.more
    append(path, row(1))
    assert numbers(await file.read_new()) == [1]


async def test_half_a_row_is_kept_for_later(path: Path, file: CdrFile) -> None:
    append(path, row(1), row(2)[:40])
    assert numbers(await file.read_new()) == [1]
    assert numbers(await file.read_new()) == []
    append(path, row(2)[40:], row(3))
    assert numbers(await file.read_new()) == [2, 3]
    assert file.malformed == 0


async def test_a_row_over_several_lines_is_one(path: Path, file: CdrFile) -> None:
    long = row(1, user_field="a\nb\n\nc")
    append(path, long[: long.index(b"\n") + 1])
    assert await file.read_new() == []
    append(path, long[long.index(b"\n") + 1 :], row(2))
    found = await file.read_new()
    assert [cdr.user_field for cdr in found] == ["a\nb\n\nc", ""]


async def test_broken_rows_spoil_no_other_and_are_told_once_a_pass(path: Path, file: CdrFile) -> None:
    append(path, row(1), b"what is this\n", b"\n", row(2), b"\xff\xfe\x00\n", row(3))
    with capture_logs() as logs:
        assert numbers(await file.read_new()) == [1, 2, 3]
        assert numbers(await file.read_new()) == []
    assert file.malformed == 2
    [told] = events(logs, "cdr_rows_malformed")
    assert told["rows"] == 2
    assert told["first"] == f"{path}, line 2: 1 columns; cdr_csv writes 16 to 21"


async def test_a_row_that_was_broken_off_is_given_up_when_nothing_follows(path: Path, file: CdrFile) -> None:
    """Its quote stays open over the rows after it, which could be its continuation until no more comes."""
    append(path, row(1), b'"acme","ali\n', row(2), row(3))
    with capture_logs() as logs:
        assert await drained(file) == [1]
        assert await drained(file) == [2, 3]
    assert file.malformed == 1
    [told] = events(logs, "cdr_rows_malformed")
    assert ", line 2: " in told["first"]


async def test_a_line_without_an_end_is_not_kept_in_memory(path: Path, file: CdrFile) -> None:
    append(path, b"x" * (ROW_BYTES_MAX + 1))
    assert await file.read_new() == []
    assert file.malformed == 1
    append(path, b"\n", row(1))
    assert numbers(await file.read_new()) == [1]


async def test_rows_without_unique_id_are_told_once_with_the_cure(path: Path, file: CdrFile) -> None:
    append(path, row(1, unique_id=""), row(2), row(3, unique_id=""))
    with capture_logs() as logs:
        assert numbers(await file.read_new()) == [2]
        append(path, row(4, unique_id=""))
        assert await file.read_new() == []
    assert file.without_unique_id == 3
    [told] = events(logs, "cdr_without_unique_id")
    assert "loguniqueid=yes" in told["cure"]


async def test_a_rotated_file_is_read_to_its_end_first(path: Path, file: CdrFile) -> None:
    append(path, row(1))
    assert numbers(await file.read_new()) == [1]
    old = path.rename(path.with_suffix(".1"))
    append(old, row(2))
    # Asterisk makes the new one with its next record.
    assert await drained(file) == [2]
    append(old, row(3))
    append(path, row(4))
    with capture_logs() as logs:
        assert await drained(file) == [3, 4]
    assert len(events(logs, "cdr_file_rotated")) == 1
    append(path, row(5))
    assert await drained(file) == [5]


async def test_half_a_row_at_the_end_of_a_rotated_file_is_told(path: Path, file: CdrFile) -> None:
    append(path, row(1), row(2)[:50])
    assert await drained(file) == [1]
    path.rename(path.with_suffix(".1"))
    append(path, row(3))
    assert await drained(file) == [3]
    assert file.malformed == 1


@pytest.mark.parametrize("kept", [0, 1, 5])
async def test_a_truncated_file_is_read_from_its_start(path: Path, file: CdrFile, kept: int) -> None:
    """Also where more was written since than there was before, as after `copytruncate`."""
    append(path, row(1), row(2))
    assert await drained(file) == [1, 2]
    os.truncate(path, 0)
    new = range(10, 10 + kept)
    append(path, *(row(number) for number in new))
    with capture_logs() as logs:
        assert await drained(file) == list(new)
    assert len(events(logs, "cdr_file_truncated")) == 1


async def test_a_file_of_many_rows_comes_in_bounded_passes(path: Path) -> None:
    path.write_bytes(b"".join(row(number) for number in range(MANY)))
    pass_bytes = 256 * 1024
    file = CdrFile(path, UTC, pass_bytes=pass_bytes)
    found: list[int] = []
    passes = 0
    while passes == 0 or file.more:
        cdrs = await file.read_new()
        assert len(cdrs) <= pass_bytes / len(row(0)) + 1
        found += numbers(cdrs)
        passes += 1
    await file.close()
    assert found == list(range(MANY))
    assert passes == path.stat().st_size // pass_bytes + 1


async def test_it_begins_where_rows_can_have_ended_since(path: Path, file: CdrFile) -> None:
    path.write_bytes(b"".join(row(number) for number in range(MANY)))
    since = MANY - 100
    assert await file.begin(end_ms(since))
    found = await drained(file)
    assert found[-1] == MANY - 1
    assert 0 < found[0] <= since
    assert found == list(range(found[0], MANY))


@pytest.mark.parametrize(("since", "first"), [(2 * MANY, range(MANY // 2, MANY)), (-MANY, range(1))])
async def test_it_begins_though_all_are_older_or_newer(
    path: Path, file: CdrFile, since: int, first: range
) -> None:
    path.write_bytes(b"".join(row(number) for number in range(MANY)))
    assert await file.begin(end_ms(since))
    assert numbers(await file.read_new())[0] in first


async def test_the_search_for_the_beginning_is_bounded(path: Path) -> None:
    path.write_bytes(b"".join(row(number) for number in range(MANY)))
    file = CdrFile(path, UTC, search_bytes=1024 * 1024)
    with capture_logs() as logs:
        assert not await file.begin(end_ms(0))
    assert len(events(logs, "cdr_search_ended")) == 1
    found = await drained(file)
    assert found == list(range(found[0], MANY))
    assert len(found) * len(row(0)) < 1.1 * 1024 * 1024
    await file.close()


async def test_a_place_far_into_the_file_is_told_in_bytes(path: Path) -> None:
    file = CdrFile(path, UTC, search_bytes=1024)
    head = b"".join(row(number) for number in range(5))
    append(path, head, b"broken\n")
    with capture_logs() as logs:
        await file.read_new()
    [told] = events(logs, "cdr_rows_malformed")
    assert f", byte {len(head) + 1}: " in told["first"]
    await file.close()


async def test_a_directory_is_no_file_and_says_so(tmp_path: Path) -> None:
    file = CdrFile(tmp_path, UTC)
    for ask in (file.begin(0), file.read_new()):
        with pytest.raises(CdrUnreadable, match=r"is no file; name the Master\.csv"):
            await ask
    await file.close()


async def test_what_may_not_be_read_says_what_to_do_and_is_asked_again(
    path: Path, file: CdrFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(path, row(1))

    def refused(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refused)
        with pytest.raises(CdrUnreadable, match=r"group that owns the file \(asterisk\)"):
            await file.read_new()
    assert numbers(await file.read_new()) == [1]


async def test_a_disk_that_fails_is_told_and_asked_again(
    path: Path, file: CdrFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(path, row(1))

    def broken(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", broken)
        with pytest.raises(CdrUnreadable, match="Input/output error"):
            await file.read_new()
    assert numbers(await file.read_new()) == [1]


async def test_what_a_cancelled_call_read_is_not_lost(path: Path, file: CdrFile) -> None:
    append(path, row(1), row(2))
    reading = asyncio.create_task(file.read_new())
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    append(path, row(3))
    assert await drained(file) + await drained(file) == [1, 2, 3]


def test_a_pass_holds_at_least_two_rows(path: Path) -> None:
    CdrFile(path, UTC, pass_bytes=2 * ROW_BYTES_MAX)
    with pytest.raises(ValueError, match="pass_bytes 8191: at least 8192"):
        CdrFile(path, UTC, pass_bytes=2 * ROW_BYTES_MAX - 1)
