"""A replay as people and programs get it: the command, JSON, CSV and the page, also with hostile text in records."""

import csv
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fairdial.console.cli import app
from fairdial.csv_cells import cell
from fairdial.main import Parts
from fairdial.policy.terms import Clause
from fairdial.replay.page import bars, page
from fairdial.replay.report import report
from fairdial.replay.result import Flag
from tests.cdrs import PREMIUM, call_of, replayed, row
from tests.samples import NOON_MS, PLAN, plan

Run = Callable[..., Result]
PROJECT = Path(__file__).parents[2]
HOSTILE = "<script>alert(1)</script>"
ROWS = (row(1, 0, 60), row(2, 100, 60, dst=PREMIUM), row(3, 200, 500), row(4, 900, 60, line=HOSTILE))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs `fairdial replay` on ROWS, or on those given, with a configuration of the test's own."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/plan.toml").write_text(PLAN.replace("6000", "300"))
    config = tmp_path / "fairdial.toml"
    config.write_text('policies = "policies"\ncontrol = "control.sock"\nstore.path = "ledger.sqlite"\n')
    cdrs = tmp_path / "Master.csv"

    def invoke(*arguments: str, rows: tuple[str, ...] = ROWS) -> Result:
        cdrs.write_text("".join(f"{each}\n" for each in rows))
        return CliRunner().invoke(
            app, ["--config", str(config), "replay", str(cdrs), *arguments], obj=Parts()
        )

    return invoke


def read(result: Result) -> Any:
    """The JSON that a command printed."""
    return json.loads(result.stdout)


ASSUMED = ("--policy", "plan", "--assume-account", "--zone", "Europe/London")


def test_json_has_the_whole_result_and_the_status_says_that_something_was_found(run: Run) -> None:
    result = run(*ASSUMED, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["totals"] == {
        "calls": 4,
        "allowed": 3,
        "refused": 1,
        "undecided": 0,
        "cut": 1,
        "talk_s": 680,
        "metered_s": 360,
        "charges": {},
    }
    assert [row["account"] for row in found["accounts"]] == [HOSTILE, "alice"]
    assert [(row["clause"], row["calls"], row["cut"]) for row in found["clauses"]] == [
        ("P1", 1, 0),
        ("P4", 3, 1),
    ]
    assert (found["from"], found["policy"]) == ("2026-11-21T12:00:00Z", "plan 1")
    assert found["differences"] is None
    assert found["notes"]


def test_nothing_found_is_status_0(run: Run) -> None:
    assert run(*ASSUMED, rows=ROWS[:1]).exit_code == 0
    assert run(*ASSUMED, "--against", "plan@1", rows=ROWS[:1]).exit_code == 0


def test_the_tables_name_what_was_refused_and_cut_and_what_records_cannot_tell(run: Run) -> None:
    result = run(*ASSUMED)
    assert result.exit_code == 1
    for words in ("class_not_covered", "plan 1 P4", "alice", "What call records cannot tell"):
        assert words in result.stdout


def test_a_second_policy_is_compared(run: Run, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(PLAN.replace('version = "1"', 'version = "2"'))
    result = run(*ASSUMED, "--against", str(other), "--json")
    assert result.exit_code == 1
    differ = json.loads(result.stdout)["differences"]
    assert (differ["calls"], differ["cuts"], differ["decisions"]) == (1, 1, 0)
    [alice] = differ["accounts"]
    assert (alice["account"], alice["calls"]) == ("alice", 1)
    assert (alice["first"]["metered_s"], alice["second"]["metered_s"]) == (300, 560)
    assert (alice["first"]["cut"], alice["second"]["cut"]) == (1, 0)
    assert [example["call_id"] for example in differ["examples"]] == [call_of(3)]
    shown = run(*ASSUMED, "--against", str(other)).stdout
    assert "Calls that differ" in shown
    assert "300 -> 560" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "there is no ledger; set `store.path`, or give --accounts FILE or --assume-account"),
        (("--assume-account",), "--assume-account needs --policy"),
        (("--policy", "nosuch", "--assume-account"), "policy 'nosuch' is not loaded; known are plan"),
        ((*ASSUMED[:3], "--zone", "Mars/Base"), "--zone: time zone 'Mars/Base' is unknown"),
        ((*ASSUMED, "--region", "ZZ"), "region 'ZZ'"),
        ((*ASSUMED, "--country", "UK"), "country 'UK' is not an ISO"),
        ((*ASSUMED, "--credit", "much"), "--credit: "),
        ((*ASSUMED, "--rates", "standard:rates.csv"), "write CARD:CURRENCY:FILE"),
        ((*ASSUMED, "--rates", f"standard:EURO:{PROJECT}/testbed/rates.csv"), "--rates: "),
        ((*ASSUMED, "--rates", "standard:EUR:/nowhere.csv"), "/nowhere.csv: cannot be read"),
        ((*ASSUMED, "--cdr-zone", "Mars/Base"), "--cdr-zone: time zone"),
        ((*ASSUMED, "--mapping", "/nowhere.toml"), "/nowhere.toml: cannot be read"),
        ((*ASSUMED, "--html", "/nowhere/page.html"), "/nowhere/page.html: No such file"),
        ((*ASSUMED, "--csv", "/nowhere/calls.csv"), "/nowhere/calls.csv"),
        (("--accounts", "/nowhere.toml"), "/nowhere.toml"),
    ],
)
def test_what_cannot_be_done_is_told_with_status_2(run: Run, arguments: tuple[str, ...], words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert words in result.stderr


def test_a_file_without_a_record_is_status_2(run: Run) -> None:
    result = run(*ASSUMED, rows=("no,record",))
    assert result.exit_code == 2
    assert "no row of it is a call record" in result.stderr


@pytest.mark.parametrize("option", ["--csv", "--html"])
def test_the_records_are_never_written_over(run: Run, tmp_path: Path, option: str) -> None:
    result = run(*ASSUMED, option, str(tmp_path / "Master.csv"))
    assert result.exit_code == 2
    assert "this file is to be read; write to another" in result.stderr
    assert (tmp_path / "Master.csv").read_text().startswith('"alice"')


def test_calls_of_no_known_line_alone_are_shown_and_are_status_2(run: Run, tmp_path: Path) -> None:
    accounts = tmp_path / "customers.toml"
    accounts.write_text('[[account]]\naccount = "a"\npolicy = "plan"\n')
    result = run("--accounts", str(accounts), "--json", rows=(row(1, 0, line="nobody\x1b[31m"),))
    assert result.exit_code == 2
    assert json.loads(result.stdout)["unknown"] == {
        "calls": 1,
        "names": [{"name": "nobody\\x1b[31m", "calls": 1}],
    }
    assert (
        "none of the 1 calls belongs to a known line; they name nobody\\x1b[31m: add these" in result.stderr
    )


@pytest.mark.parametrize(
    ("credit", "reason", "status", "charges"),
    [("5", "by_credit", 0, {"EUR": "0.61"}), ("0.001", "credit_too_low", 1, {})],
)
def test_credit_and_prices_can_be_given(
    run: Run, tmp_path: Path, credit: str, reason: str, status: int, charges: dict[str, str]
) -> None:
    accounts = tmp_path / "customers.toml"
    accounts.write_text(
        '[[account]]\naccount = "a"\npolicy = "prepaid"\n[[line]]\nline = "alice"\naccount = "a"\n'
    )
    options = ("--accounts", str(accounts), "--policy", str(PROJECT / "testbed/policies/prepaid.toml"))
    prices = ("--credit", credit, "--rates", f"standard:EUR:{PROJECT}/testbed/rates.csv")
    result = run(*options, *prices, "--json", rows=(row(1, 0, 60, dst=PREMIUM),))
    assert result.exit_code == status, result.output
    found = read(result)
    assert [each["reason"] for each in found["reasons"]] == [reason]
    assert found["totals"]["charges"] == charges


# --- CSV -----------------------------------------------------------------------------------------------


def lines_of(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def test_csv_has_one_line_a_call(run: Run, tmp_path: Path) -> None:
    run(*ASSUMED, "--csv", str(tmp_path / "calls.csv"))
    found = {each["call_id"]: each for each in lines_of(tmp_path / "calls.csv")}
    assert len(found) == 4
    assert found[call_of(3)] == {
        "call_id": call_of(3),
        "at": "2026-11-21T12:03:20Z",
        "account": "alice",
        "line": "alice",
        "kind": "outbound",
        "dialled": "02079460123",
        "decision": "allow",
        "reason": "within_allowance",
        "policy": "plan",
        "version": "1",
        "clause": "P4",
        "talk_s": "500",
        "metered_s": "240",
        "cut": "1",
        "cut_clause": "P4",
        "charges": "0",
        "currency": "",
    }
    assert (found[call_of(2)]["decision"], found[call_of(2)]["cut"]) == ("refuse", "0")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+1+1", "'+1+1"),
        ("-2", "'-2"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("+442079460000", "+442079460000"),
        ("+4420•••••00", "+4420•••••00"),
        ("02079460123", "02079460123"),
        ("alice", "alice"),
        ("", ""),
    ],
)
def test_no_cell_is_a_formula_and_a_number_stays_one(text: str, written: str) -> None:
    assert cell(text) == written


def test_what_a_caller_dialled_is_no_formula_in_the_file(run: Run, tmp_path: Path) -> None:
    run(*ASSUMED, "--csv", str(tmp_path / "calls.csv"), rows=(row(1, 0, dst="=cmd|' /C calc'!A1"),))
    [found] = lines_of(tmp_path / "calls.csv")
    assert found["dialled"].startswith("'=cmd")
    assert found["decision"] == "refuse"


# --- the page ---------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The tags of a page, and whether what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.refers: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.refers += [value or "" for name, value in attrs if name in ("src", "href", "action")]
        if tag not in ("meta", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "rect":
            assert self.open.pop() == tag


async def test_the_page_escapes_what_records_say_and_refers_to_nothing_outside(tmp_path: Path) -> None:
    rows = [
        *ROWS,
        row(5, 1000, dst=HOSTILE),
        "<b>no record",
        row(6, 1100, line="x", code='"><img src=x onerror=alert(1)>'),
    ]
    found = await replayed(tmp_path, rows, plan(limit_s=300), policy="plan", against="plan@1")
    shown = page(report(found.result))
    assert HOSTILE not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    read = Page(shown)
    assert "script" not in read.tags
    assert "img" not in read.tags
    assert read.refers == []
    assert read.open == []
    assert "prefers-color-scheme: dark" in shown
    assert "http" not in shown


async def test_the_page_shows_what_was_flagged_and_a_replay_without_a_call(tmp_path: Path) -> None:
    found = await replayed(tmp_path, [row(1, 0, line="nobody")], plan())
    result = found.result
    assert "Nothing." in page(report(result))
    clause = Clause("plan", "1", "P9")
    result.flagged = (Flag("acme", "short-calls", clause, NOON_MS, 0.7, 0.6, "notice", (call_of(1),)),)
    assert result.found
    assert report(result)["flagged"] == [
        {
            "account": "acme",
            "detector": "short-calls",
            "policy": "plan",
            "version": "1",
            "clause": "P9",
            "at": "2026-11-21T12:00:00Z",
            "value": 0.7,
            "threshold": 0.6,
            "step": "notice",
            "calls": [call_of(1)],
        }
    ]
    assert "short-calls" in page(report(result))


def test_the_longest_bar_is_as_wide_as_the_chart_and_parts_stand_side_by_side() -> None:
    long, short, none = bars([("a", {"x": 30, "y": 10}), ("b", {"x": 10}), ("c", {})], ("x", "y"), width=100)
    assert [(part.begin, part.width) for part in long.parts] == [(0, 75), (75, 25)]
    assert [(part.begin, part.width) for part in short.parts] == [(0, 25)]
    assert (none.parts, none.said) == ((), "none")


# --- numbers ------------------------------------------------------------------------------------------------


def test_numbers_are_masked_where_that_is_asked_for(run: Run, tmp_path: Path) -> None:
    trunk = row(9, 2000, line="trunk", code="", channel="SIP/+442079460777-1", dst="02079460123")
    outputs: dict[bool, str] = {}
    for masked in (False, True):
        files = ("--csv", str(tmp_path / "calls.csv"), "--html", str(tmp_path / "page.html"))
        more = ("--mask",) if masked else ()
        result = run(*ASSUMED, "--json", *files, *more, rows=(*ROWS, trunk))
        outputs[masked] = "".join(
            (result.stdout, (tmp_path / "calls.csv").read_text(), (tmp_path / "page.html").read_text())
        )
    for number in ("02079460123", "442079460777"):
        assert number in outputs[False]
        assert number not in outputs[True]


def test_the_other_kinds_of_places_are_read_too(run: Run, tmp_path: Path) -> None:
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(
        'time = "epoch"\n[columns]\nstart = "t"\naccount_code = "who"\ndst = "to"\nbill_s = "s"\n'
    )
    rows = ("t,who,to,s", f"{NOON_MS // 1000},alice,02079460123,30")
    found = read(run(*ASSUMED, "--mapping", str(mapping), "--json", rows=rows))
    assert (found["rows"], found["totals"]["metered_s"]) == (1, 30)
