"""Dials of a line in the last second: what counts, and that what is remembered has a bound."""

from hypothesis import given
from hypothesis import strategies as st

from fairdial.attempts import DIALS_MAX, Attempts


def test_dials_of_the_last_second_count_and_older_ones_do_not() -> None:
    attempts = Attempts()
    assert [attempts.count("alice", at_ms) for at_ms in (0, 300, 600, 999)] == [1, 2, 3, 4]
    assert attempts.count("alice", 1_000) == 4  # the one at 0 is a second old
    assert attempts.count("bob", 1_000) == 1
    assert attempts.count("alice", 5_000) == 1


@given(st.lists(st.integers(0, 3_000), min_size=1, max_size=60).map(sorted))
def test_it_is_the_number_in_the_window(times_ms: list[int]) -> None:
    attempts = Attempts()
    for index, at_ms in enumerate(times_ms):
        window = [other for other in times_ms[: index + 1] if other > at_ms - 1_000]
        assert attempts.count("alice", at_ms) == len(window)


def test_neither_lines_nor_dials_grow_without_end() -> None:
    attempts = Attempts(lines_max=3)
    for number in range(50):
        attempts.count(f"line-{number}", 0)
    assert len(attempts) == 3
    assert {attempts.count("line-49", 1) for _ in range(5 * DIALS_MAX)} == set(range(2, DIALS_MAX + 1))
