"""The commands about cases, complaints and blocked sources, without a server; those of docs/detection.md too."""

import re
import shlex

import pytest

from tests.unit.test_cli import PROJECT, Run, read
from tests.unit.test_cli import run as run

PAGE = (PROJECT / "docs" / "detection.md").read_text(encoding="utf-8")


def account(run: Run, policy: str = "kryptotel") -> None:
    assert run("account", "add", "acme", "--policy", policy).exit_code == 0


def standing(run: Run) -> str:
    return str(read(run("account", "show", "acme", "--json"))["standing"])


def test_the_commands_of_the_page_work_in_their_order(run: Run) -> None:
    account(run)
    shown = re.findall(r"^# fairdial (.*)$", PAGE, re.MULTILINE)
    assert len(shown) > 5
    # The first shows what the third writes.
    for command in sorted(shown, key=lambda command: not command.startswith("case flag")):
        result = run(*shlex.split(command))
        assert result.exit_code == 0, f"{command}: {result.output}"


def test_a_case_is_flagged_shown_and_closed(run: Run) -> None:
    account(run)
    flagged = read(run("case", "flag", "acme", "--note", "resold", "--by", "ann", "--json"))
    assert (flagged["case"], flagged["state"], flagged["found"]) == (1, "open", "resold")
    assert "resold" in run("case", "list").stdout
    assert [
        row["case"] for row in read(run("case", "list", "--account", "acme", "--state", "open", "--json"))
    ] == [1]
    assert read(run("case", "list", "--state", "closed", "--json")) == []
    shown = run("case", "show", "1").stdout
    assert "opened by ann" in shown
    closed = read(run("case", "close", "1", "--note", "settled", "--by", "bea", "--json"))
    assert (closed["state"], closed["entries"][-1]["by"]) == ("closed", "bea")


def test_a_step_by_hand_is_taken_and_undone(run: Run) -> None:
    account(run)
    assert run("case", "flag", "acme", "--note", "x", "--step", "suspend").exit_code == 0
    assert standing(run) == "suspended"
    assert run("case", "close", "1", "--dismiss", "--undo").exit_code == 0
    assert standing(run) == "active"


def test_an_agreement_closes_a_case_and_is_recorded(run: Run) -> None:
    account(run, "spokephone")
    assert run("case", "flag", "acme", "--note", "five times the others").exit_code == 0
    assert run("case", "close", "1", "--agreed-by", "Ann Lee").exit_code == 0
    [agreement] = read(run("agreement", "list", "acme", "--json"))
    assert (agreement["consent"], agreement["agreed_by"]) == ("surcharge", "Ann Lee")


def test_a_deadline_is_set(run: Run) -> None:
    account(run)
    assert run("case", "flag", "acme", "--note", "x").exit_code == 0
    found = read(run("case", "deadline", "1", "2026-12-01T12:00Z", "--json"))
    assert found["deadline_ms"] == 1_796_126_400_000


def test_complaints_add_up_to_a_case(run: Run) -> None:
    account(run, "acceptable-use")
    told = [read(run("complaint", "add", "acme", "--note", f"letter {n}", "--json")) for n in range(3)]
    assert [(value["complaints"], len(value["cases"])) for value in told] == [(1, 0), (2, 0), (3, 1)]
    assert standing(run) == "suspended"


def test_sources_are_blocked_listed_and_let_in(run: Run) -> None:
    assert run("block", "add", "192.0.2.1", "--minutes", "5").exit_code == 0
    [block] = read(run("block", "list", "--json"))
    assert (block["source"], block["until_ms"] - block["since_ms"]) == ("192.0.2.1", 300_000)
    assert run("block", "remove", "192.0.2.1").exit_code == 0
    assert read(run("block", "list", "--json")) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("case", "show", "7"), "no case 7; `fairdial case list` shows all"),
        (("case", "close", "7"), "no case 7"),
        (("case", "flag", "nobody", "--note", "x"), "no account 'nobody'"),
        (("case", "flag", "acme", "--note", " "), "a case needs a note"),
        (("complaint", "add", "acme", "--note", ""), "a complaint needs a note"),
        (("block", "add", "somewhere"), "is no IP address; write it like 192.0.2.1"),
        (("block", "remove", "192.0.2.9"), "is not blocked"),
    ],
)
def test_what_cannot_be_done_is_told(run: Run, arguments: tuple[str, ...], words: str) -> None:
    account(run)
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
