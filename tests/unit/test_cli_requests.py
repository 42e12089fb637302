"""The commands about requests and agreements, without a server; those of docs/requests.md too."""

import re
import shlex

import pytest

from tests.unit.test_cli import PROJECT, Run, read
from tests.unit.test_cli import run as run

PAGE = (PROJECT / "docs" / "requests.md").read_text(encoding="utf-8")


def account(run: Run, policy: str = "redconnect") -> None:
    assert run("account", "add", "acme", "--policy", policy).exit_code == 0
    assert run("line", "add", "alice", "--account", "acme").exit_code == 0


def test_the_commands_of_the_page_work_in_their_order(run: Run) -> None:
    shown = re.findall(r"^\$ fairdial (.*)$", PAGE, re.MULTILINE)
    assert len(shown) > 10
    for command in shown:
        result = run(*shlex.split(command))
        assert result.exit_code == 0, f"{command}: {result.output}"


def test_a_request_is_asked_approved_shown_and_revoked(run: Run) -> None:
    account(run)
    asked = read(
        run("request", "open", "acme", "allowances.voice", "--to", "3000min", "--why", "a fair", "--json")
    )
    assert (asked["request"], asked["state"], asked["limit"], asked["unit"]) == (1, "open", 180_000, "s")
    assert asked["clause"]["id"] == "R5"
    assert "allowances.voice to 3,000 min" in run("request", "list").stdout
    approved = read(
        run("request", "approve", "1", "--reason", "good", "--by", "olga", "--cycles", "1", "--json")
    )
    assert approved["state"] == "approved"
    assert approved["until_ms"] > approved["from_ms"]
    shown = run("request", "show", "1").stdout
    assert "approved by olga: good" in shown
    assert read(run("request", "list", "--state", "open", "--json")) == []
    assert run("request", "revoke", "1", "--reason", "off", "--by", "olga").exit_code == 0
    again = run("request", "revoke", "1", "--reason", "off")
    assert again.exit_code == 2
    assert "request 1 is revoked and cannot be revoked" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("allowances.voice", "--to", "3000", "--why", "w"), "write it like 3000min"),
        (("allowances.voice", "--to", "many", "--why", "w"), "is no limit; write 3000min"),
        (("allowances.voice", "--to", "3min", "--why", "w"), "is 144000 for account 'acme' already"),
        (("allowances.texts", "--to", "3", "--why", "w"), "it has allowances.voice"),
        (("caps.lines", "--to", "3", "--why", "w"), "is no limit of policy 'redconnect'"),
        (("allowances.voice", "--to", "50h", "--why", " "), "say why"),
        (("allowances.voice", "--to", "50h", "--why", "w", "--line", "bob"), "has no line 'bob'"),
        (("allowances.voice", "--to", "50h", "--why", "w", "--until", "2020-01-01T00:00Z"), "has passed"),
    ],
)
def test_bad_input_says_what_and_how_to_mend_it(run: Run, arguments: tuple[str, ...], words: str) -> None:
    account(run)
    result = run("request", "open", "acme", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert read(run("request", "list", "--json")) == []


def test_what_a_policy_calls_hard_is_raised_for_nobody(run: Run) -> None:
    account(run, "voxdirect")
    result = run("request", "open", "acme", "caps.lines", "--to", "200", "--why", "w")
    assert result.exit_code == 2
    assert "lets nobody raise caps.lines (clause V3)" in result.stderr
    added = run("request", "open", "acme", "allowances.messages", "--to", "40000", "--why", "w", "--json")
    assert read(added)["unit"] == "messages"


def test_usage_says_whose_limit_it_is(run: Run) -> None:
    account(run)
    assert "limit of" in run("usage", "acme").stdout


def test_an_agreement_of_a_case_names_it_and_stays_when_withdrawn(run: Run) -> None:
    account(run, "spokephone")
    assert run("case", "flag", "acme", "--note", "five times the others").exit_code == 0
    assert run("case", "close", "1", "--agreed-by", "Ann Lee", "--by", "olga").exit_code == 0
    [agreement] = read(run("agreement", "list", "acme", "--json"))
    assert (agreement["about"], agreement["agreed_by"], agreement["recorded_by"]) == (
        "case 1",
        "Ann Lee",
        "olga",
    )
    assert run("agreement", "withdraw", "acme", "--consent", "surcharge").exit_code == 0
    assert read(run("agreement", "list", "acme", "--json")) == []
    [gone] = read(run("agreement", "list", "acme", "--all", "--json"))
    assert gone["withdrawn_ms"] is not None
    assert "case 1" in run("agreement", "list", "acme", "--all").stdout


def test_an_agreement_answers_one_thing_of_its_own_account(run: Run) -> None:
    account(run, "spokephone")
    assert run("account", "add", "other", "--policy", "spokephone").exit_code == 0
    assert run("case", "flag", "other", "--note", "x").exit_code == 0
    add = ("agreement", "add", "acme", "--consent", "surcharge", "--by", "Ann")
    for more, words in (
        (("--case", "1"), "case 1 is of account 'other'"),
        (("--case", "1", "--request", "1"), "name one of them"),
        (("--request", "1"), "no request 1"),
    ):
        result = run(*add, *more)
        assert result.exit_code == 2
        assert words in result.stderr
    assert run(*add).exit_code == 0
