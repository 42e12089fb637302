"""Tallies: what is counted is told, under labels that cannot become many."""

import pytest

from fairdial.tallies import OTHER, Spread, Tally


def test_a_tally_tells_how_often_and_what_is_known_from_the_start() -> None:
    tally = Tally([("set",), ("not_set",)])
    tally.add("set")
    tally.add("set")
    assert tally.counts == {("set",): 2, ("not_set",): 0}
    assert (tally.of("set"), tally.of("never seen")) == (2, 0)


def test_labels_past_the_bound_are_counted_together_and_known_ones_on_their_own() -> None:
    tally = Tally(labels_max=2)
    for name in ("row", "night", "third", "fourth", "row"):
        tally.add(name)
    assert tally.counts == {("row",): 2, ("night",): 1, (OTHER,): 2}
    spread = Spread((1.0,), labels_max=1)
    for gate in ("stasis", "agi", "message"):
        spread.add(0.5, gate)
    assert [(labels, ranges) for labels, ranges, _ in spread] == [(("stasis",), (1, 0)), ((OTHER,), (2, 0))]


@pytest.mark.parametrize(
    ("took_s", "ranges", "sum_s"),
    [
        (0.0, (1, 0, 0), 0.0),
        (0.1, (1, 0, 0), 0.1),
        (0.100001, (0, 1, 0), 0.100001),
        (1.0, (0, 1, 0), 1.0),
        (60.0, (0, 0, 1), 60.0),
        # The wall clock was set back meanwhile.
        (-3.0, (1, 0, 0), 0.0),
    ],
)
def test_a_duration_is_in_the_first_range_that_holds_it(
    took_s: float, ranges: tuple[int, ...], sum_s: float
) -> None:
    spread = Spread((0.1, 1.0))
    spread.add(took_s)
    assert list(spread) == [((), ranges, sum_s)]
    assert spread.of() == 1


@pytest.mark.parametrize("bounds_s", [(1.0, 0.5), (0.5, 0.5)])
def test_bounds_that_do_not_rise_are_refused(bounds_s: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="rise"):
        Spread(bounds_s)
