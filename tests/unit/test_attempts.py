"""Dials in the last second: what counts, who is past a limit, and that what is remembered has a bound."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairdial.attempts import DIALS_MAX, OTHERS, TOLD_MAX, Attempts, By, Counted, Guard, Refusals


def test_dials_of_the_last_second_count_and_older_ones_do_not() -> None:
    attempts = Attempts()
    assert [attempts.count("alice", at_ms) for at_ms in (0, 300, 600, 999)] == [1, 2, 3, 4]
    assert attempts.count("alice", 1_000) == 4  # the one at 0 is a second old
    assert attempts.count("bob", 1_000) == 1
    assert attempts.count("alice", 5_000) == 1


@given(
    st.lists(st.tuples(st.integers(0, 3_000), st.sampled_from("abc")), min_size=1, max_size=60).map(sorted)
)
def test_it_is_the_number_in_the_window_of_each_line(dials: list[tuple[int, str]]) -> None:
    attempts = Attempts()
    for index, (at_ms, line) in enumerate(dials):
        window = [at for at, other in dials[: index + 1] if other == line and at > at_ms - 1_000]
        assert attempts.count(line, at_ms) == len(window)


def test_neither_lines_nor_dials_grow_without_end() -> None:
    attempts = Attempts(lines_max=3)
    for number in range(50):
        attempts.count(f"line-{number}", 0)
    assert len(attempts) == 3
    assert {attempts.count("line-49", 1) for _ in range(5 * DIALS_MAX)} == set(range(2, DIALS_MAX + 1))


def test_who_has_not_dialled_for_a_second_is_forgotten_and_who_has_is_not() -> None:
    attempts = Attempts()
    for number in range(500):
        attempts.count(f"line-{number}", 0)
    attempts.count("alice", 400)
    attempts.count("bob", 1_001)
    assert len(attempts) == 2
    assert attempts.count("alice", 1_002) == 2


def test_a_line_is_stopped_past_its_limit_until_it_slows_down() -> None:
    guard = Guard(line_per_s=3)
    flood = [guard.count("alice", "192.0.2.7", at_ms).too_fast for at_ms in range(0, 1_000, 100)]
    assert flood == [None, None, None, *["line"] * 7]
    assert guard.count("alice", "192.0.2.7", 1_050).too_fast == "line"
    assert guard.count("bob", "192.0.2.7", 1_050) == Counted(1)
    assert guard.count("alice", "192.0.2.7", 2_050) == Counted(1)


def test_a_source_is_stopped_whatever_lines_it_speaks_for() -> None:
    guard = Guard(source_per_s=3)
    verdicts = [guard.count(f"line-{number}", "192.0.2.7", 0).too_fast for number in range(5)]
    assert verdicts == [None, None, None, "source", "source"]
    assert guard.count("line-0", "192.0.2.8", 0) == Counted(2)


def test_a_call_that_comes_in_counts_for_its_source_and_not_for_the_line_that_it_calls() -> None:
    guard = Guard(line_per_s=1, source_per_s=3)
    assert [guard.count(None, "192.0.2.7", 0) for _ in range(3)] == [Counted(0)] * 3
    assert guard.count("alice", "", 0) == Counted(1)
    assert guard.count(None, "192.0.2.7", 0) == Counted(0, "source")


def test_a_limit_of_nothing_stops_nobody_and_a_dial_without_a_source_has_no_limit() -> None:
    off, unknown = Guard(), Guard(source_per_s=1)
    assert off.count("alice", "192.0.2.7", 0) == Counted(1)
    assert {off.count("alice", "192.0.2.7", 0).too_fast for _ in range(500)} == {None}
    assert {unknown.count("alice", "", 0).too_fast for _ in range(500)} == {None}


@pytest.fixture
def told() -> list[tuple[By, str, int]]:
    return []


async def test_refusals_are_told_once_a_second_for_each_line_with_their_count(
    told: list[tuple[By, str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairdial.attempts.TELL_EVERY_S", 0.01)
    done = asyncio.Event()

    def tell(by: By, name: str, count: int) -> None:
        told.append((by, name, count))
        done.set()

    refusals = Refusals(tell)
    for _ in range(500):
        refusals.add("line", "alice")
    refusals.add("source", "192.0.2.7")
    assert told == []
    await asyncio.wait_for(done.wait(), 5)
    assert told == [("line", "alice", 500), ("source", "192.0.2.7", 1)]
    done.clear()
    refusals.add("line", "alice")
    await asyncio.wait_for(done.wait(), 5)
    assert told[2:] == [("line", "alice", 1)]
    assert refusals.total == 502


async def test_a_flood_by_many_names_is_told_of_in_a_bounded_number_of_lines(
    told: list[tuple[By, str, int]],
) -> None:
    refusals = Refusals(lambda by, name, count: told.append((by, name, count)))
    for number in range(5_000):
        refusals.add("line", f"line-{number}")
    refusals.tell_now()
    assert len(told) == TOLD_MAX + 1
    assert told[-1] == ("line", OTHERS, 5_000 - TOLD_MAX)
    refusals.tell_now()
    assert len(told) == TOLD_MAX + 1
