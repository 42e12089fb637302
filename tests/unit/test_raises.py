"""What a limit is at a moment, whatever was raised: the highest approval, minutes of plans besides, never less."""

from hypothesis import example, given
from hypothesis import strategies as st

from fairdial.policy.raises import Limit, Raise, limit_at, limits_over

VOICE = "allowances.voice"


def one(
    limit: int = 0,
    more: int = 0,
    from_ms: int = 0,
    until_ms: int | None = None,
    rule: str = VOICE,
    number: int = 1,
) -> Raise:
    return Raise(number, "plan", rule, from_ms, until_ms, "R5", limit, more)


def test_without_raises_a_limit_is_the_policys() -> None:
    assert limit_at((), "plan", VOICE, 100, 5) == Limit(100)


def test_a_raise_holds_from_its_first_to_before_its_last_moment() -> None:
    raises = (one(300, from_ms=10, until_ms=20),)
    units = {at_ms: limit_at(raises, "plan", VOICE, 100, at_ms).units for at_ms in (9, 10, 19, 20)}
    assert units == {9: 100, 10: 300, 19: 300, 20: 100}


def test_it_says_what_the_limit_falls_to_and_when() -> None:
    raises = (one(300, until_ms=20), one(200, until_ms=50, number=2), one(150, until_ms=10, number=3))
    raised = limit_at(raises, "plan", VOICE, 100, 5).raised
    assert raised is not None
    assert (raised.base_units, raised.lower_units, raised.lower_from_ms) == (100, 200, 20)
    assert [each.request for each in raised.by] == [1]


def test_what_another_raise_takes_over_does_not_fall() -> None:
    raises = (one(300, until_ms=20), one(300, from_ms=20, number=2))
    raised = limit_at(raises, "plan", VOICE, 100, 5).raised
    assert raised is not None
    assert (raised.lower_units, raised.lower_from_ms) == (None, None)


def test_a_plan_adds_to_what_was_raised() -> None:
    raises = (one(300), one(more=60, number=2))
    limit = limit_at(raises, "plan", VOICE, 100, 5)
    assert limit.units == 360
    assert limit.raised is not None
    assert [each.request for each in limit.raised.by] == [1, 2]


def test_a_raise_is_of_its_policy_its_rule_and_its_line() -> None:
    raises = (one(300, rule=f"{VOICE}/alice"),)
    assert limit_at(raises, "plan", f"{VOICE}/alice", 100, 5).units == 300
    assert limit_at(raises, "plan", f"{VOICE}/bob", 100, 5).units == 100
    assert limit_at((one(300),), "plan", f"{VOICE}/bob", 100, 5).units == 300
    assert limit_at((one(300),), "other", VOICE, 100, 5).units == 100
    assert limit_at((one(300),), "plan", "allowances.voice-2", 100, 5).units == 100


def test_a_raise_to_less_than_the_policy_has_no_effect() -> None:
    assert limit_at((one(50),), "plan", VOICE, 100, 5) == Limit(100)


_RAISES = st.lists(
    st.builds(
        one,
        limit=st.integers(0, 400),
        more=st.integers(0, 50),
        from_ms=st.integers(0, 40),
        until_ms=st.none() | st.integers(0, 60),
    ),
    max_size=6,
)


@example([one(0, more=1, until_ms=1), one(0, more=1, from_ms=1, until_ms=2), one(1, until_ms=3)], 0, 0)
@given(_RAISES, st.integers(0, 60), st.integers(0, 200))
def test_a_limit_never_falls_below_the_policys_and_falls_when_it_says(
    raises: list[Raise], at_ms: int, base_units: int
) -> None:
    limit = limit_at(raises, "plan", VOICE, base_units, at_ms)
    assert limit.units >= base_units
    assert (limit.raised is None) == (limit.units == base_units)
    if limit.raised is not None and limit.raised.lower_from_ms is not None:
        end_ms, lower = limit.raised.lower_from_ms, limit.raised.lower_units
        assert end_ms > at_ms
        assert lower == limit_at(raises, "plan", VOICE, base_units, end_ms).units < limit.units
        # Until then it is at least what it is now.
        held = [limit_at(raises, "plan", VOICE, base_units, moment).units for moment in range(at_ms, end_ms)]
        assert min(held) >= limit.units


@given(_RAISES, st.integers(0, 30), st.integers(31, 60), st.integers(0, 200))
def test_the_limit_of_each_moment_of_a_stretch_is_that_of_the_moment(
    raises: list[Raise], from_ms: int, until_ms: int, base_units: int
) -> None:
    steps = limits_over(raises, "plan", VOICE, base_units, from_ms, until_ms)
    assert steps[0][0] == from_ms
    for moment in range(from_ms, until_ms):
        units = next(units for at_ms, units in reversed(steps) if at_ms <= moment)
        assert units == limit_at(raises, "plan", VOICE, base_units, moment).units
