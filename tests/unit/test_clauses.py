"""Each published clause has its rule, and the enforced ones their tests: one that passes, one that does not."""

import pytest

from fairdial.policy.lint import PUBLISHED
from tests.clauses import (
    ASKS,
    PAGE,
    PASSES,
    STOPS,
    Shown,
    places,
    render,
    shipped_policies,
    shown_by_tests,
    shown_in,
)

IDS = frozenset().union(*PUBLISHED.values())


def ids(letter: str, *numbers: int) -> tuple[str, ...]:
    return tuple(f"{letter}{number}" for number in numbers)


IN_PAIRS = (
    *ids("K", 1, 2, 3, 4, 5, 6, 12),
    *ids("A", 4, 5, 7, 9, 11),
    *ids("R", 1, 2, 3, 4, 5, 7),
    *ids("V", 1, 2, 3, 5, 6, 8, 9),
    *ids("S", 1, 4, 5, 7, 8),
)
# Versions take effect (A11, R7, V9), lines are set up (V3), passwords are judged (A5) and months end (R4) with no call;
# nothing watches forwarded calls (S7) yet.
ON_THE_SWITCH = tuple(clause for clause in IN_PAIRS if clause not in ("A5", "A11", "R4", "R7", "V3", "V9"))

POLICIES, TESTS = shipped_policies(), shown_by_tests()


def test_the_page_is_what_the_policies_and_the_tests_say() -> None:
    written = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    assert written == render(POLICIES, TESTS), "docs/clauses.md is old: run `python -m tests.clauses`"


def test_each_published_clause_is_told_and_has_its_place_in_its_own_policy() -> None:
    assert ASKS.keys() == IDS
    for name, policy in POLICIES.items():
        assert PUBLISHED[name] <= places(policy).keys(), name


@pytest.mark.parametrize("name", POLICIES)
def test_no_clause_of_a_policy_file_is_overlooked(name: str) -> None:
    assert places(POLICIES[name]).keys() == POLICIES[name].clause_ids()


def test_marks_name_published_clauses_and_known_words() -> None:
    assert [shown for shown in TESTS if shown.clause not in IDS] == []
    assert [shown for shown in TESTS if shown.shows not in PASSES | STOPS] == []


@pytest.mark.parametrize("clause", IN_PAIRS)
def test_a_clause_is_shown_to_let_pass_and_to_stop_or_cost(clause: str) -> None:
    words = {shown.shows for shown in TESTS if shown.clause == clause}
    assert words & PASSES, f"no test marked {clause} shows what it allows"
    assert words & STOPS, f"no test marked {clause} shows what it stops or charges"


@pytest.mark.parametrize("clause", ON_THE_SWITCH)
def test_a_clause_of_calls_is_shown_on_the_switch(clause: str) -> None:
    assert any(shown.on_switch for shown in TESTS if shown.clause == clause), (
        f"no test under tests/switch is marked {clause}"
    )


# --- the page and the marks themselves -----------------------------------------------------------

SOURCE = """
import pytest
pytestmark = pytest.mark.clause("K9", "refused")
CASES = [pytest.param(1, marks=[pytest.mark.clause("K2", "refused"), pytest.mark.clause("K1", "free")])]

@pytest.mark.clause("K3", "allowed")
@pytest.mark.clause("K3", "cut")
@pytest.mark.parametrize("case", [2, pytest.param(3, marks=pytest.mark.clause("K4", "charged")), *CASES])
async def test_one(case): ...

class TestsTogether:
    @pytest.mark.parametrize("case", CASES)
    def test_two(self, case): ...
"""


def test_marks_are_read_from_decorators_cases_and_the_whole_module() -> None:
    found = shown_in(SOURCE, "switch/test_it.py")
    assert [(shown.clause, shown.test, shown.shows) for shown in found] == [
        ("K1", "test_one", "free"),
        ("K1", "test_two", "free"),
        ("K2", "test_one", "refused"),
        ("K2", "test_two", "refused"),
        ("K3", "test_one", "allowed"),
        ("K3", "test_one", "cut"),
        ("K4", "test_one", "charged"),
        ("K9", "test_one", "refused"),
        ("K9", "test_two", "refused"),
    ]
    assert {shown.on_switch for shown in found} == {True}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ('@pytest.mark.clause("K3")\ndef test_it(): ...', "two texts written out"),
        ('@pytest.mark.clause("K3", shows="cut")\ndef test_it(): ...', "two texts written out"),
        ('K3 = "K3"\n@pytest.mark.clause(K3, "cut")\ndef test_it(): ...', "two texts written out"),
        ('@pytest.mark.clause("K3", "cut")\ndef a_fixture(): ...', "is on no test"),
        ('CASES = [pytest.param(1, marks=pytest.mark.clause("K3", "cut"))]', "is on no test"),
    ],
)
def test_a_mark_that_would_be_lost_is_an_error(source: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"^tests/unit/test_it.py:[12]: .*{words}"):
        shown_in(source, "unit/test_it.py")


def test_the_page_tells_rules_and_tests_and_what_is_not_enforced() -> None:
    policies = {"voxdirect": POLICIES["voxdirect"]}
    lines = render(
        policies,
        [
            Shown("V6", "unit/test_it.py", "test_free", "free"),
            Shown("V6", "switch/test_it.py", "test_charged", "charged"),
        ],
    ).splitlines()
    [callback] = [line for line in lines if line.startswith("| V6 |")]
    assert "`allowances.voice` for callback" in callback
    assert callback.endswith(
        "| free: `unit/test_it.py::test_free` | **charged: `switch/test_it.py::test_charged`** |"
    )
    [sharing] = [line for line in lines if line.startswith("| V4 |")]
    assert sharing.endswith("| `detectors.sharing` | not enforced yet | not enforced yet |")
    [numbers] = [line for line in lines if line.startswith("| V8 |")]
    assert "`standing.fraud_clause`" in numbers
