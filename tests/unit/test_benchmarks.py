"""The frame of the benchmarks: what is recorded, how it is put together, and what a failure does to the rest.

That each benchmark itself runs is shown by `make bench BENCH=--quick`, in tests/switch/test_readme.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results, run
from benchmarks.budgets import BUDGETS
from benchmarks.held import Search, is_held, seek
from benchmarks.measure import Outcome, Sheet, parser, percentile, program
from testbed.sipp import CallOutcome, LoadOutcome

PACKAGE = Path(run.__file__).parent
FRAME = {"measure", "budgets", "results", "run", "traffic"}
OTHERS = {"detection", "hostile", "soak"}
"""Programs that answer other questions than what FairDial costs."""
KEPT = {budget.name: budget.limit for budget in BUDGETS}
WHY = {budget.reason: "Because." for budget in BUDGETS}


def record(**parts: Any) -> dict[str, Any]:
    return {"benchmark": "replay", "command": "python -m benchmarks.replay", **parts}


# --- what is recorded ------------------------------------------------------------------------------


@pytest.mark.parametrize(("wrong", "status"), [([], 0), (["a call was lost"], 1)])
def test_a_benchmark_prints_records_and_tells_by_its_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str], status: int
) -> None:
    options = parser("A benchmark.")
    options.add_argument("--rows", type=int)

    def measure(given: Any) -> Outcome:
        return Outcome(
            [Sheet("A title", ("case", "a second"), [("one", str(given.rows))])], {"replay": 1.5}, wrong
        )

    given = ["--rows", "7", "--record", str(tmp_path)]
    assert program("replay", options, measure, given) == status
    printed = capsys.readouterr().out
    assert all(each in printed for each in ("A title", "one", "7", *wrong))
    [kept] = results.read(tmp_path)
    assert kept["command"] == "python -m benchmarks.replay --rows 7"
    assert (kept["budgets"], kept["wrong"]) == ({"replay": 1.5}, wrong)
    assert {"processor", "cores", "memory", "kernel", "Python", "SQLite"} <= set(kept["machine"])


def test_percentiles_are_by_nearest_rank() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0, 50, 99, 100)] == [1, 50, 99, 100]
    with pytest.raises(ValueError, match="nothing was measured"):
        percentile([], 50)


# --- the search for the highest rate ---------------------------------------------------------------


@pytest.mark.parametrize("holds", [1, 79, 80, 81, 237, 1000])
async def test_the_highest_rate_that_is_held_is_found(holds: int) -> None:
    tried: list[int] = []

    async def probe(_path: str, rate: int) -> bool:
        tried.append(rate)
        return rate <= holds

    search = Search(first=80)
    await seek({"bare": search}, probe, lambda: False)
    assert holds - max(1, 0.05 * holds) <= search.held <= holds
    assert search.is_known is (holds >= 20)  # below, whole calls a second lie too far apart
    assert len(tried) < 16


async def test_a_path_that_holds_nothing_ends_the_search_too() -> None:
    async def probe(_path: str, _rate: int) -> bool:
        return False

    search = Search(first=80)
    await seek({"bare": search}, probe, lambda: False)
    assert (search.held, search.is_known) == (0, False)


async def test_when_the_time_is_over_all_paths_had_as_many_tries() -> None:
    tried: list[str] = []

    async def probe(path: str, _rate: int) -> bool:
        tried.append(path)
        return True

    search = Search(80)
    await seek({"bare": search, "ARI": Search(80)}, probe, lambda: len(tried) >= 3)
    assert tried == ["bare", "ARI", "bare", "ARI"]
    assert not search.is_known


def load(*, pace_per_s: float = 10.0, refused: int = 0, lost: int = 0, again: int = 0) -> LoadOutcome:
    calls = tuple(
        CallOutcome(
            call_id=str(number),
            final_status=503 if number < refused else 200,
            reason_header=None,
            setup_s=0.01,
            talk_s=1.0,
            ended_by="caller",
            retransmissions=0,
            invited_at=number / pace_per_s,
            answered_at=None if number < refused else number / pace_per_s,
            ended_at=number / pace_per_s + 1,
            rang=False,
        )
        for number in range(20)
    )
    return LoadOutcome(calls, lost, again)


@pytest.mark.parametrize(
    ("outcome", "held"),
    [
        (load(), True),
        (load(refused=1), False),
        (load(lost=1), False),
        (load(again=1), False),
        (load(pace_per_s=5), False),
    ],
    ids=["all answered", "one refused", "one lost", "one message sent again", "phones too slow"],
)
def test_a_rate_is_held_when_all_are_answered_at_that_pace(outcome: LoadOutcome, held: bool) -> None:
    assert is_held(outcome, 10) is held


# --- put together ----------------------------------------------------------------------------------


def test_budgets_that_are_kept_need_no_reason() -> None:
    records = [record(budgets=KEPT)]
    assert results.gaps(records, {}) == []
    text = results.page(records, WHY)
    assert "**missed**" not in text
    assert "Because." not in text


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda budget: budget.name)
def test_a_budget_that_is_missed_says_why(budget: Any) -> None:
    worse = budget.limit / 2 if budget.is_least else budget.limit * 2
    records = [record(budgets=KEPT | {budget.name: worse})]
    assert results.gaps(records, WHY) == []
    [line] = [line for line in results.page(records, WHY).splitlines() if "**missed**" in line]
    assert budget.what in line
    assert "0.50" in line or "2.00" in line
    assert "Because." in results.page(records, WHY)
    [complaint] = results.gaps(records, {})
    assert f"benchmarks/reasons/{budget.reason}.md" in complaint


def test_a_budget_without_a_figure_is_told_and_shown() -> None:
    records = [record(budgets={name: value for name, value in KEPT.items() if name != "replay"})]
    [complaint] = results.gaps(records, WHY)
    assert "replay" in complaint
    assert results.page(records, WHY).count("not measured") == 1
    assert results.page(records, {"replay": "Not yet."}).count("Not yet.") == 1


def test_a_file_that_is_no_record_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "replay.json").write_text("{")
    assert results.main(["--results", str(tmp_path), "--page", str(tmp_path / "page.md")]) == 2
    assert "replay.json" in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()


# --- all of them -----------------------------------------------------------------------------------


def test_one_that_fails_says_so_in_the_table_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = (
        run.Benchmark("replay", 60, quick="--rows many"),
        run.Benchmark("decisions", 60, quick="--count 10 --rounds 1"),
    )
    monkeypatch.setattr(run, "PLAN", plan)
    assert run.main(["--quick", "--results", str(tmp_path)]) == 1
    assert "wrong: replay failed" in capfd.readouterr().out
    text = (tmp_path / "RESULTS.md").read_text()
    assert "**Failed:** it ended with status 2" in text
    assert "invalid int value: 'many'" in text
    assert "Decisions a second on one core" in text


def test_one_alone_is_measured_with_arguments_of_ones_own(tmp_path: Path) -> None:
    given = ["--quick", "--only", "decisions", "--decisions", "--count 12 --rounds 1"]
    assert run.main([*given, "--results", str(tmp_path)]) == 0
    [kept] = results.read(tmp_path)
    assert kept["command"] == "python -m benchmarks.decisions --count 12 --rounds 1"


def test_one_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    slow = run.Benchmark("replay", 0.1)
    assert not run.run(slow, [], tmp_path, slow.within_s)
    assert "took longer than 0.1 s" in json.loads((tmp_path / "replay.json").read_text())["failed"]


def test_every_benchmark_is_in_the_plan() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert modules == {each.name for each in run.PLAN} | FRAME | OTHERS
    page = (PACKAGE.parent / "docs" / "benchmarks.md").read_text()
    assert [each.name for each in run.PLAN if f"\n| `{each.name}` |" not in page] == []


def test_there_is_a_budget_for_each_reason() -> None:
    assert set(results.reasons()) <= {budget.reason for budget in BUDGETS}


def test_results_are_what_was_recorded_and_explain_each_budget_that_is_not_kept() -> None:
    """Else measure what is missing, or write `benchmarks/reasons`; then `python -m benchmarks.results`."""
    records, why = results.read(results.RESULTS), results.reasons()
    assert results.PAGE.read_text() == results.page(records, why)
    found = results.figures(records)
    open_ones = {each for each in BUDGETS if each.name not in found or not each.is_kept(found[each.name][0])}
    assert [each.name for each in open_ones if each.reason not in why] == []
    assert [each["benchmark"] for each in records if each.get("failed")] == []
