"""The command line without a running server: on a ledger of its own, with its exit status and its words."""

import asyncio
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fairdial.config import Config
from fairdial.console.cli import app
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.main import Parts, command_line
from fairdial.policy.decide import EMERGENCY, Allow, Verdict
from tests.samples import LONDON, outbound

PROJECT = Path(__file__).resolve().parents[2]
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a command with a configuration of the test's own."""
    (tmp_path / "policies").symlink_to(PROJECT / "policies")
    config = tmp_path / "fairdial.toml"
    config.write_text('policies = "policies"\ncontrol = "control.sock"\nstore.path = "ledger.sqlite"\n')

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["--config", str(config), *arguments], obj=Parts())

    return invoke


def read(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_policies_are_listed_with_the_version_in_force(run: Run) -> None:
    listed = {row["policy"]: row for row in read(run("policy", "list", "--json"))}
    assert set(listed) == {file.stem for file in (PROJECT / "policies").glob("*.toml")}
    assert listed["redconnect"]["version"] == "2026-11"
    [only] = listed["redconnect"]["versions"]
    assert (only["version"], only["effective"]) == ("2026-11", "2026-11-01")
    assert "redconnect" in run("policy", "list").stdout


def test_accounts_and_lines_are_added_listed_and_shown(run: Run) -> None:
    added = read(run("account", "add", "acme", "--policy", "kryptotel", "--zone", "Europe/London", "--json"))
    assert added == {
        "account": "acme",
        "name": "",
        "policy": "kryptotel",
        "zone": "Europe/London",
        "standing": "active",
        "countries": [],
        "until_ms": None,
        "cycle_day": 1,
        "plan": "",
        "currency": None,
        "estimate_s": None,
        "fraud": False,
        "restricted": [],
    }
    read(run("line", "add", "alice", "--account", "acme", "--region", "GB", "--internal", "_1XX", "--json"))
    assert [row["account"] for row in read(run("account", "list", "--json"))] == ["acme"]
    assert [row["line"] for row in read(run("line", "list", "acme", "--json"))] == ["alice"]
    shown = read(run("account", "show", "acme", "--json"))
    assert shown["lines"][0]["habit"]["internal"] == "_1XX"
    assert "alice" in run("account", "show", "acme").stdout


def test_adding_twice_is_harmless_and_adding_otherwise_is_refused(run: Run) -> None:
    add = ("account", "add", "acme", "--policy", "kryptotel")
    assert run(*add).exit_code == 0
    assert run(*add).exit_code == 0
    other = run(*add, "--zone", "Europe/Paris")
    assert other.exit_code == 2
    assert "exists with other contents" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("account", "add", "acme", "--policy", "nosuch"),
            "policy 'nosuch' is not loaded; known are",
        ),
        (("account", "add", "a b", "--policy", "kryptotel"), "1 to 80 printable ASCII characters"),
        (("account", "add", "acme", "--policy", "kryptotel", "--zone", "Mars/Base"), "IANA name such as"),
        (("line", "add", "alice", "--account", "nosuch"), "no account 'nosuch'"),
        (("usage", "nosuch"), "no account 'nosuch'"),
        (("account", "suspend", "nosuch"), "no account 'nosuch'"),
        (("check", "02079460100"), "name a line with --line"),
        (("check", "02079460100", "--line", "x", "--at", "noon"), "is not an ISO 8601 time"),
        (("check", "02079460100", "--line", "x", "--at", "2026-11-21T12:00:00"), "has no time zone"),
        (("classify", "02079460100", "--region", "ZZ"), "region 'ZZ'"),
        (("hangup", "1.1-1"), "no FairDial is running here"),
        (
            ("account", "add", "acme", "--policy", "kryptotel", "--country", "UK"),
            "country 'UK' is not an ISO",
        ),
        (
            ("account", "add", "acme", "--policy", "kryptotel", "--until", "2027"),
            "--until '2027' is not an ISO",
        ),
        (("account", "add", "acme", "--policy", "kryptotel", "--currency", "EURO"), "not an ISO 4217 code"),
        (("account", "show", "nosuch"), "no account 'nosuch'"),
        (("account", "terminate", "nosuch", "--fraud"), "no account 'nosuch'"),
        (("line", "suspend", "nosuch"), "no line 'nosuch'; `fairdial line list` shows all"),
        (
            ("number", "add", "02079460000", "--account", "acme"),
            "is not in E.164; write it like +442079460000",
        ),
        (("number", "add", "+442079460000", "--account", "nosuch"), "no account 'nosuch'"),
        (("number", "list", "nosuch"), "no account 'nosuch'"),
        (("number", "remove", "+442079460000"), "belongs to no account"),
        (("agreement", "add", "nosuch", "--consent", "surcharge", "--by", "Ann"), "no account 'nosuch'"),
        (("agreement", "add", "nosuch", "--consent", "surcharge", "--by", " "), "an agreement needs a name"),
        (("agreement", "list", "nosuch"), "no account 'nosuch'"),
        (("agreement", "withdraw", "nosuch", "--consent", "surcharge"), "no account 'nosuch'"),
        (("import", "/nowhere.csv"), "/nowhere.csv: cannot be read"),
        (("policy", "publish", "/nowhere.toml"), "/nowhere.toml: cannot be read"),
        (("subscribe", "nosuch", "--policy", "kryptotel"), "no account 'nosuch'"),
        (("credit", "add", "nosuch", "5", "--currency", "EUR", "--reference", "1"), "no account 'nosuch'"),
        (
            ("credit", "add", "acme", "5,00", "--currency", "EUR", "--reference", "1"),
            "'5,00' is not an amount",
        ),
        (("credit", "add", "acme", "5", "--currency", "EURO", "--reference", "1"), "not an ISO 4217 code"),
        (
            ("rates", "load", "/nowhere.csv", "--card", "c", "--currency", "EUR"),
            "/nowhere.csv: cannot be read",
        ),
        (("policy", "show", "/nowhere.toml"), "/nowhere.toml: cannot be read"),
        (("callback", "02079460100", "--line", "alice"), "no FairDial is running here to ring anybody"),
        (("conference", "add", "7001", "02079460100", "--line", "alice"), "no FairDial is running here"),
    ],
)
def test_bad_input_says_what_and_how_to_mend_it(run: Run, arguments: tuple[str, ...], words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stdout == ""


def test_check_gives_the_decision_of_the_contract(run: Run) -> None:
    run("account", "add", "acme", "--policy", "kryptotel", "--country", "GB")
    run("line", "add", "alice", "--account", "acme")
    allowed = run("check", "02079460100", "--line", "alice", "--json")
    assert allowed.exit_code == 0
    assert json.loads(allowed.stdout) == {
        "decision": "allow",
        "reason": "covered",
        "clause": {"policy": "kryptotel", "version": "2026-11", "id": "K1"},
        "number": {"dialled": "02079460100", "e164": "+442079460100", "class": "geographic", "country": "GB"},
        "limit_s": 14400,
        "charge": {
            "mode": "included",
            "currency": None,
            "connect_fee": "0",
            "rate_per_min": "0",
            "surcharge_per_min": "0",
        },
        "cause": 0,
        "id": "check",
    }
    refused = run("check", "09098790000", "--account", "acme", "--json")
    assert refused.exit_code == 1
    decision = json.loads(refused.stdout)
    assert (decision["decision"], decision["reason"], decision["clause"]["id"]) == (
        "refuse",
        "class_not_covered",
        "K2",
    )
    # It asked; it did not dial.
    assert read(run("decisions", "--json")) == []
    assert read(run("calls", "--json")) == []


def test_an_emergency_number_needs_no_account(run: Run) -> None:
    run("account", "add", "acme", "--policy", "kryptotel")
    run("line", "add", "alice", "--account", "acme")
    run("account", "terminate", "acme")
    assert run("check", "999", "--line", "alice").exit_code == 0
    assert run("check", "02079460100", "--line", "alice").exit_code == 1


def test_standing_is_changed_and_restored(run: Run) -> None:
    run("account", "add", "acme", "--policy", "kryptotel")
    assert read(run("account", "suspend", "acme", "--json"))["standing"] == "suspended"
    assert read(run("account", "restore", "acme", "--json"))["standing"] == "active"
    assert read(run("account", "terminate", "acme", "--json"))["standing"] == "terminated"


def test_classify_says_what_a_number_is(run: Run) -> None:
    found = read(run("classify", "+442079460100", "--json"))
    assert (found["e164"], found["class"], found["country"]) == ("+442079460100", "geographic", "GB")
    invalid = run("classify", "0207")
    assert invalid.exit_code == 1
    assert "invalid" in invalid.stdout


def test_doctor_names_each_fault_and_its_cure(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "fairdial.toml"
    # Nothing listens on port 1.
    config.write_text(config.read_text() + 'ari.url = "http://127.0.0.1:1/ari"\nami.port = 1\n')
    result = run("doctor", "--json")
    assert result.exit_code == 1
    findings = {finding["part"]: finding for finding in json.loads(result.stdout)}
    well = [part for part, finding in findings.items() if finding["well"]]
    assert well == ["policies", "numbers", "store", "cdr"]
    faults = ("ari", "ami", "clock", "dialplan", "server", "decision")
    assert all(findings[part]["cure"] for part in faults)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("polices = 1\n", "polices: no such setting"),
        ("desk.useful_s = 0\n", "desk.useful_s"),
        ("desk = 1\ndesk = 2\n", "not TOML"),
        ('desk.region = "england"\n', "desk.region"),
    ],
)
def test_a_faulty_configuration_is_named_by_file_and_key(
    run: Run, tmp_path: Path, text: str, words: str
) -> None:
    config = tmp_path / "fairdial.toml"
    config.write_text(text)
    result = run("account", "list")
    assert result.exit_code == 2
    assert str(config) in result.stderr
    assert words in result.stderr


def test_a_missing_configuration_file_is_named() -> None:
    result = CliRunner().invoke(app, ["--config", "/nowhere/fairdial.toml", "calls"], obj=Parts())
    assert result.exit_code == 2
    assert "/nowhere/fairdial.toml: cannot be read" in result.stderr


def test_a_file_that_is_no_ledger_is_refused_unharmed(run: Run, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.sqlite"
    ledger.write_text("not a database, but somebody's letters " * 100)
    before = ledger.read_bytes()
    result = run("account", "list")
    assert result.exit_code == 2
    assert str(ledger) in result.stderr
    assert ledger.read_bytes() == before


def test_a_ledger_of_a_newer_fairdial_is_refused(run: Run, tmp_path: Path) -> None:
    assert run("account", "list").exit_code == 0
    with sqlite3.connect(tmp_path / "ledger.sqlite") as connection:
        connection.execute("INSERT INTO schema_version VALUES (9999, '9999_future.sql', datetime('now'))")
    connection.close()
    result = run("account", "list")
    assert result.exit_code == 2
    assert "newer FairDial" in result.stderr


def test_the_hundred_and_first_line_of_a_plan_is_refused(run: Run) -> None:
    """V3: more than 100 extensions need a further account."""
    run("account", "add", "acme", "--policy", "voxdirect")
    run("account", "add", "other", "--policy", "voxdirect")
    for number in range(100):
        assert run("line", "add", f"line-{number}", "--account", "acme").exit_code == 0
    refused = run("line", "add", "line-100", "--account", "acme")
    assert refused.exit_code == 2
    assert "holds 100 lines, and its policy allows 100" in refused.stderr
    # Repeating one that is there is no further line, and another account has room.
    assert run("line", "add", "line-99", "--account", "acme").exit_code == 0
    assert run("line", "add", "line-100", "--account", "other").exit_code == 0


def test_credit_is_added_once_for_each_reference(run: Run) -> None:
    run("account", "add", "acme", "--policy", "kryptotel")
    add = ("credit", "add", "acme", "12.50", "--currency", "EUR", "--reference", "payment-1", "--json")
    assert read(run(*add)) == {"currency": "EUR", "balance": "12.5", "reserved": "0", "free": "12.5"}
    assert read(run(*add))["balance"] == "12.5"
    other = run("credit", "add", "acme", "1", "--currency", "EUR", "--reference", "payment-1")
    assert other.exit_code == 2
    assert "was used for another amount" in other.stderr
    dollars = run("credit", "add", "acme", "1", "--currency", "USD", "--reference", "payment-2")
    assert "holds EUR" in dollars.stderr
    assert read(run("usage", "acme", "--json"))["credit"]["balance"] == "12.5"
    assert "12.5" in run("usage", "acme").stdout


def test_a_rate_card_is_loaded_whole_or_not_at_all(run: Run, tmp_path: Path) -> None:
    header = "prefix,destination,rate_per_min,connect_fee,increment,minimum,effective\n"
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_text(header + "+44,UK,0.01,,60/60,,2026-01-01\n")
    bad.write_text(good.read_text() + "+49,Germany,cheap,,60/60,,2026-01-01\n")
    faulty = run("rates", "load", str(bad), "--card", "standard", "--currency", "EUR")
    assert faulty.exit_code == 2
    assert f"{bad}, line 3, column rate_per_min" in faulty.stderr
    assert read(run("rates", "list", "--json")) == []
    load = ("rates", "load", str(good), "--card", "standard", "--currency", "EUR", "--json")
    assert read(run(*load))["rates"] == 1
    assert [card["card"] for card in read(run("rates", "list", "--json"))] == ["standard"]


def test_policies_are_linted_shown_and_compared(run: Run, tmp_path: Path) -> None:
    shipped = PROJECT / "policies" / "redconnect.toml"
    assert run("policy", "lint", str(shipped)).exit_code == 0
    assert "2,400 minutes a month" in run("policy", "show", str(shipped)).stdout
    newer = tmp_path / "newer.toml"
    newer.write_text(shipped.read_text().replace("limit_s = 144000", "limit_s = 120000"))
    assert newer.read_text() != shipped.read_text()
    changed = run("policy", "diff", str(shipped), str(newer))
    assert changed.exit_code == 1
    assert "falls from 2,400 to 2,000 minutes" in changed.stdout
    assert run("policy", "diff", str(shipped), str(shipped)).exit_code == 0
    newer.write_text(shipped.read_text().replace("[kinds]", "[kind]"))
    faulty = run("policy", "lint", str(newer), "--json")
    assert faulty.exit_code == 1
    assert any(finding["key"] == "kind" for finding in json.loads(faulty.stdout))


def test_a_subscription_holds_what_was_bought(run: Run) -> None:
    run("account", "add", "acme", "--policy", "kryptotel")
    bought = read(
        run(
            "subscribe", "acme", "--policy", "kryptotel", "--country", "GB", "--country", "DE",
            "--until", "2027-01-01T00:00:00Z", "--cycle-day", "15", "--json",
        )
    )  # fmt: skip
    assert (bought["countries"], bought["cycle_day"]) == (["DE", "GB"], 15)
    assert bought["until_ms"] == 1_798_761_600_000
    assert run("subscribe", "acme", "--policy", "kryptotel", "--country", "UK").exit_code == 2


def test_an_account_is_added_with_what_was_bought_and_shown_with_all_it_holds(run: Run) -> None:
    bought = ("--country", "GB", "--country", "DE", "--until", "2027-01-01T00:00:00Z", "--cycle-day", "15")
    plan = ("--plan", "Gold", "--currency", "GBP", "--estimate-min", "100")
    add = ("account", "add", "acme", "--policy", "kryptotel", *bought, *plan, "--json")
    assert read(run(*add)) == read(run(*add))
    read(run("line", "add", "alice", "--account", "acme", "--json"))
    read(run("number", "add", "+442079460000", "--account", "acme", "--line", "alice", "--json"))
    agree = ("--consent", "surcharge", "--by", "Ann Lee", "--note", "by phone")
    read(run("agreement", "add", "acme", *agree, "--json"))
    shown = read(run("account", "show", "acme", "--json"))
    assert (shown["countries"], shown["until_ms"], shown["cycle_day"]) == (
        ["DE", "GB"],
        1_798_761_600_000,
        15,
    )
    assert (shown["plan"], shown["currency"], shown["estimate_s"]) == ("Gold", "GBP", 6000)
    assert shown["numbers"] == [{"number": "+442079460000", "account": "acme", "line": "alice"}]
    assert [agreement["note"] for agreement in shown["agreements"]] == ["by phone"]
    text = run("account", "show", "acme").stdout
    for words in (
        "DE GB",
        "2027-01-01T00:00:00+00:00",
        "Gold",
        "GBP",
        "100",
        "+442079460000 of line alice",
        "surcharge by Ann Lee",
        "by phone",
    ):
        assert words in text


def test_numbers_are_given_listed_and_taken(run: Run) -> None:
    run("account", "add", "acme", "--policy", "kryptotel")
    run("account", "add", "other", "--policy", "kryptotel")
    add = ("number", "add", "+442079460000", "--account")
    row = {"number": "+442079460000", "account": "acme", "line": None}
    assert read(run(*add, "acme", "--json")) == read(run(*add, "acme", "--json")) == row
    taken = run(*add, "other")
    assert taken.exit_code == 2
    assert "belongs to account 'acme'; take it from there with `fairdial number remove" in taken.stderr
    assert read(run("number", "list", "acme", "--json")) == [row]
    assert read(run("number", "list", "other", "--json")) == []
    assert run("number", "remove", "+442079460000").exit_code == 0
    assert read(run("number", "list", "acme", "--json")) == []
    assert run(*add, "other").exit_code == 0


def test_an_agreement_is_recorded_listed_and_withdrawn(run: Run) -> None:
    run("account", "add", "acme", "--policy", "spokephone")
    add = ("agreement", "add", "acme", "--consent", "surcharge", "--by", "Ann Lee", "--json")
    recorded = read(run(*add))
    assert [row["agreed_by"] for row in recorded] == ["Ann Lee"]
    assert read(run(*add)) == read(run("agreement", "list", "acme", "--json")) == recorded
    assert "Ann Lee" in run("agreement", "list", "acme").stdout
    withdraw = ("agreement", "withdraw", "acme", "--consent", "surcharge")
    assert run(*withdraw).exit_code == 0
    assert read(run("agreement", "list", "acme", "--json")) == []
    again = run(*withdraw)
    assert again.exit_code == 2
    assert "has not agreed to surcharge" in again.stderr
    assert run("agreement", "add", "acme", "--consent", "all", "--by", "Ann").exit_code == 2


def test_a_line_is_suspended_restored_and_terminated(run: Run) -> None:
    run("account", "add", "acme", "--policy", "kryptotel", "--country", "GB")
    run("line", "add", "alice", "--account", "acme")
    run("line", "add", "bob", "--account", "acme")
    for command, standing, status in (
        ("suspend", "suspended", 1),
        ("restore", "active", 0),
        ("terminate", "terminated", 1),
    ):
        row = read(run("line", command, "alice", "--json"))
        # No server runs here, so there was nothing that could cut a call.
        assert (row["standing"], row["calls_cut"]) == (standing, 0)
        assert run("check", "02079460100", "--line", "alice").exit_code == status
        assert run("check", "02079460100", "--line", "bob").exit_code == 0


def test_services_are_taken_from_an_account_and_given_back(run: Run) -> None:
    run("account", "add", "acme", "--policy", "kryptotel", "--country", "GB")
    run("line", "add", "alice", "--account", "acme")
    check = ("check", "02079460100", "--line", "alice")
    row = read(run("account", "restrict", "acme", "outbound", "conference", "--json"))
    # No server runs here, so there was nothing that could cut a call.
    assert (row["restricted"], row["calls_cut"]) == (["conference", "outbound"], 0)
    assert "conference outbound" in run("account", "show", "acme").stdout
    refused = run(*check, "--explain", "--json")
    assert refused.exit_code == 1
    told = json.loads(refused.stdout)
    assert (told["reason"], told["clause"]["id"], told["cause"]) == ("service_restricted", "K12", 21)
    assert "restricted are conference, outbound" in [rule["saw"] for rule in told["rules"]][-2]
    assert run(*check, "--kind", "inbound").exit_code == 0
    lifted = run("account", "lift", "acme", "outbound")
    assert "conference" in lifted.stdout
    assert run(*check).exit_code == 0
    assert run("account", "restrict", "acme", "fax").exit_code == 2
    emergency = run("account", "restrict", "acme", "emergency")
    assert (emergency.exit_code, "cannot be restricted" in emergency.stderr) == (2, True)
    assert run("account", "restrict", "acme").exit_code == 2


def test_tokens_are_made_shown_once_listed_and_removed(run: Run) -> None:
    made = read(run("token", "add", "portal", "--role", "operator", "--json"))
    assert made["token"].startswith("fairdial_")
    assert read(run("token", "add", "page", "--json"))["role"] == "viewer"
    listed = run("token", "list")
    assert "portal" in listed.stdout
    assert made["token"] not in listed.stdout
    assert [row["name"] for row in read(run("token", "list", "--json"))] == ["page", "portal"]
    again = run("token", "add", "portal")
    assert (again.exit_code, "token 'portal' exists" in again.stderr) == (2, True)
    assert run("token", "remove", "portal").exit_code == 0
    assert run("token", "remove", "portal").exit_code == 2
    assert run("token", "add", "x", "--role", "king").exit_code == 2


def test_only_a_termination_for_fraud_forfeits_credit(run: Run) -> None:
    for account in ("acme", "other"):
        run("account", "add", account, "--policy", "kryptotel")
        run("credit", "add", account, "5", "--currency", "EUR", "--reference", "1")
    assert read(run("account", "terminate", "acme", "--fraud", "--json"))["fraud"]
    assert not read(run("account", "terminate", "other", "--json"))["fraud"]
    assert read(run("usage", "acme", "--json"))["credit"]["balance"] == "0"
    assert read(run("usage", "other", "--json"))["credit"]["balance"] == "5"
    assert "forfeited" in run("account", "show", "acme").stdout
    assert "forfeited" not in run("account", "show", "other").stdout


def test_check_explains_itself_where_it_is_asked_to(run: Run) -> None:
    run("account", "add", "acme", "--policy", "kryptotel", "--country", "GB")
    run("line", "add", "alice", "--account", "acme")
    plain = ("check", "02079460100", "--line", "alice")
    assert "rules" not in read(run(*plain, "--json"))
    rules = read(run(*plain, "--explain", "--json"))["rules"]
    assert all(set(rule) == {"rule", "clause", "saw", "result"} for rule in rules)
    assert ("countries", "K1") in [(rule["rule"], rule["clause"]) for rule in rules]
    explained = run(*plain, "--explain").stdout
    assert explained.startswith(run(*plain).stdout)
    assert "longest_call" in explained
    assert "longest_call" not in run(*plain).stdout


CUSTOMERS = """\
[[account]]
account = "acme"
policy = "redconnect"
[[account]]
account = "abc"
policy = "kryptotel"
countries = ["GB"]
[[line]]
line = "alice"
account = "acme"
[[number]]
number = "+442079460000"
account = "acme"
[[credit]]
account = "abc"
amount = "12.50"
currency = "EUR"
reference = "payment-1"
"""


def test_a_file_is_imported_whole_and_may_be_repeated(run: Run, tmp_path: Path) -> None:
    customers = tmp_path / "customers.toml"
    customers.write_text(CUSTOMERS)
    trial = read(run("import", str(customers), "--dry-run", "--json"))
    assert trial == {"new": 5, "there_already": 0, "dry_run": True}
    assert read(run("account", "list", "--json")) == []
    imported = read(run("import", str(customers), "--json"))
    assert imported == {"new": 5, "there_already": 0, "dry_run": False}
    assert [row["account"] for row in read(run("account", "list", "--json"))] == ["abc", "acme"]
    assert read(run("usage", "abc", "--json"))["credit"]["balance"] == "12.5"
    lines = tmp_path / "lines.csv"
    lines.write_text("line,account\nalice,acme\nbob,abc\n")
    assert read(run("import", str(lines), "--json"))["new"] == 1
    assert read(run("import", str(customers), "--json"))["there_already"] == 5
    assert run("import", str(lines)).stdout.split()[-3:] == ["0", "2", "yes"]


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_file_with_faults_is_refused_with_all_of_them(
    run: Run, tmp_path: Path, options: tuple[str, ...]
) -> None:
    customers = tmp_path / "customers.csv"
    customers.write_text("account,policy,zone\nacme,redconect,\nabc,kryptotel,Mars/Base\ngood,kryptotel,\n")
    unread = run("import", str(customers), *options)
    assert (unread.exit_code, unread.stdout) == (2, "")
    assert f"{customers}, line 2, column policy: policy 'redconect' is not loaded; write" in unread.stderr
    assert f"{customers}, line 3, column zone: time zone 'Mars/Base'" in unread.stderr
    lines = tmp_path / "lines.csv"
    lines.write_text("line,account\nalice,good\nbob,nosuch\ncarol,neither\n")
    run("account", "add", "good", "--policy", "kryptotel")
    refused = run("import", str(lines), *options)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert f"{lines}, line 3: no account 'nosuch'" in refused.stderr
    assert f"{lines}, line 4: no account 'neither'" in refused.stderr
    assert read(run("line", "list", "--json")) == []
    assert [row["account"] for row in read(run("account", "list", "--json"))] == ["good"]


def test_the_hundred_and_first_line_of_an_import_is_refused(run: Run, tmp_path: Path) -> None:
    """V3, also where account and lines come in one file."""
    run("account", "add", "acme", "--policy", "voxdirect")
    lines = tmp_path / "lines.csv"
    lines.write_text("line,account\n" + "".join(f"line-{number},acme\n" for number in range(101)))
    refused = run("import", str(lines))
    assert refused.exit_code == 2
    assert f"{lines}, line 102: account 'acme' holds 100 lines, and its policy allows 100" in refused.stderr
    lines.write_text("line,account\n" + "".join(f"line-{number},acme\n" for number in range(100)))
    assert read(run("import", str(lines), "--json"))["new"] == 100


def test_a_policy_is_published_once_and_never_changed(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    text = (PROJECT / "policies" / "redconnect.toml").read_text().replace('"redconnect"', '"own"')
    file.write_text(re.sub(r"(?m)^(published|effective|notice_days) = .*\n", "", text))
    published = read(run("policy", "publish", str(file), "--json"))
    assert (published["policy"], published["version"]) == ("own", "2026-11")
    assert (published["effective"], published["changes"]) == ("at_once", [])
    assert published["takes_effect"] == "This takes effect at once."
    # It decides from now on, also for who opens the ledger later.
    assert run("account", "add", "later", "--policy", "own").exit_code == 0
    again = run("policy", "publish", str(file))
    assert again.exit_code == 0
    assert "This takes effect at once." in again.stdout
    file.write_text(file.read_text().replace("limit_s = 144000", "limit_s = 120000"))
    changed = run("policy", "publish", str(file))
    assert (changed.exit_code, changed.stdout) == (2, "")
    assert "its own" in changed.stderr


def test_a_policy_with_errors_is_not_published(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text((PROJECT / "policies" / "redconnect.toml").read_text().replace("[kinds]", "[kind]"))
    refused = run("policy", "publish", str(file))
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert f"{file}:" in refused.stderr
    assert "error: kind: no such key; write kinds" in refused.stderr


def test_a_flag_of_a_decision_is_shown_where_there_is_one(run: Run, tmp_path: Path) -> None:
    """A7: a call that was let through unencrypted, and noted."""

    def record(call_id: str, decision: Allow) -> None:
        async def into_the_ledger() -> None:
            ledger = await SqliteLedger.open(tmp_path / "ledger.sqlite")
            await ledger.record(outbound(call_id), Verdict(LONDON, decision))
            await ledger.close()

        asyncio.run(into_the_ledger())

    record("call-1", EMERGENCY)
    assert "flag" not in run("decisions").stdout
    record("call-2", replace(EMERGENCY, flag="unencrypted"))
    shown = run("decisions").stdout
    assert "flag" in shown
    assert "unencrypted" in shown
    assert {row["call_id"]: row["flag"] for row in read(run("decisions", "--json"))} == {
        "call-1": "",
        "call-2": "unencrypted",
    }


def test_without_a_server_no_conference_is_there(run: Run) -> None:
    assert read(run("conference", "list", "--json")) == []


@pytest.mark.parametrize(("error", "status"), [(RuntimeError("unforeseen"), 70), (None, 1)])
def test_a_mistake_is_told_apart_from_being_fenced_off(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    error: Exception | None,
    status: int,
) -> None:
    class Serving(Parts):
        async def serve(self, config: Config) -> int:
            if error is not None:
                raise error
            return 1

    (tmp_path / "fairdial.toml").write_text("")
    monkeypatch.setattr(sys, "argv", ["fairdial", "--config", str(tmp_path / "fairdial.toml"), "serve"])
    with pytest.raises(SystemExit) as ended:
        command_line(Serving())
    assert ended.value.code == status
    assert ("RuntimeError: unforeseen" in capsys.readouterr().err) is (error is not None)


def test_a_shell_completes_commands_once_it_was_told_how(tmp_path: Path) -> None:
    fairdial = Path(sys.executable).parent / "fairdial"
    environment = {"HOME": str(tmp_path), "PATH": f"{fairdial.parent}:/usr/bin:/bin"}

    def bash(script: str) -> str:
        done = subprocess.run(
            ["bash", "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout

    completing = (
        "source ~/.bashrc; COMP_WORDS=(fairdial {0}); COMP_CWORD=1; _fairdial_completion fairdial;"
        ' echo "${{COMPREPLY[@]}}"'
    )
    # The command asks which shell it was called from: one that stays, for it has more to do.
    bash("fairdial --install-completion && true")
    assert bash(completing.format("cal")).split() == ["calls", "callback"]
    assert bash(completing.format("nosuch")).split() == []


def test_a_ledger_in_a_file_has_no_nodes(run: Run) -> None:
    assert read(run("nodes", "--json")) == []
    refused = run("nodes", "--forget", "east")
    assert (refused.exit_code, "no switch 'east' is served" in refused.output) == (2, True)
