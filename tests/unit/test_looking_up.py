"""Decisions looked up: found by what is at hand, told in words with their clause and cure; and an account's days."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.main import get_command

from fairdial.clock import Moment
from fairdial.console.cli import app
from fairdial.console.operations import Operations
from fairdial.desk import Asked, Desk, DeskRules
from fairdial.ledger.contract import NotFound
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.loading import load_policies
from fairdial.policy.account import Kind
from fairdial.policy.cures import CURES
from fairdial.policy.outcomes import OUTCOMES, UNDECIDED, Reason
from tests.api_examples import prepared, served
from tests.samples import NOON_MS, SetClock
from tests.unit.test_api import Api
from tests.unit.test_cli import Run, read
from tests.unit.test_cli import run as run
from tests.unit.test_desk import NUMBERING

PROJECT = Path(__file__).parents[2]
CALL = "1795262400.17"
SIP = "a84b4c76e66710@pc33.atlanta.example"
PREMIUM = "09098790123"


@pytest.fixture
async def operations(tmp_path: Path) -> AsyncIterator[Operations]:
    """On the shipped policies; acme's alice has a call up, to London, and was refused a premium number."""
    async with prepared(tmp_path) as made:
        asked = Asked("premium", Kind.OUTBOUND, PREMIUM, "alice", "PJSIP/alice-2", 60, sip_call_id=SIP)
        await made._desk.authorise(asked)
        yield made


@pytest.fixture
async def api(operations: Operations) -> AsyncIterator[Api]:
    async with served(operations) as api:
        yield api


# --- decisions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("number=02079460123", [CALL]),
        ("number=%2B442079460123", [CALL]),
        ("number=00442079460123&line=alice", [CALL]),
        ("number=02079460199", []),
        ("call=premium", ["premium"]),
        (f"call={SIP}", ["premium"]),
        ("line=alice", ["premium", CALL]),
        ("line=alice&account=acme&call=premium", ["premium"]),
        ("account=nobody&call=premium", []),
    ],
)
async def test_decisions_are_found_by_number_call_and_line(api: Api, query: str, found: list[str]) -> None:
    status, told, _ = await api.ask("GET", f"/v1/decisions?{query}")
    assert (status, [row["call_id"] for row in told["items"]]) == (200, found)


async def test_a_refusal_is_told_in_words_with_its_clause_and_its_cure(api: Api) -> None:
    status, told, _ = await api.ask("GET", "/v1/decisions/premium")
    assert (status, told["decision"], told["reason"]) == (200, "refuse", "class_not_covered")
    assert told["text"] == OUTCOMES[Reason.CLASS_NOT_COVERED].text
    assert told["cure"] == CURES[Reason.CLASS_NOT_COVERED]
    assert (told["kind_text"], told["class_text"]) == ("outbound calls", "premium rate number")
    assert (told["cause"], told["sip_call_id"]) == (21, SIP)
    # Of the version that decided, what stands under the clause.
    version = load_policies(PROJECT / "policies").version(told["clause_policy"], told["clause_version"])
    assert version is not None
    assert version.classes.clause == told["clause_id"]
    assert any(rule["section"] == "classes" for rule in told["rules"])
    assert all(rule["says"] for rule in told["rules"])


async def test_what_was_allowed_has_no_cure_and_tells_of_its_call(api: Api, operations: Operations) -> None:
    await operations._desk.answered(CALL, "leg", Moment(NOON_MS + 2_000, 1_002_000))
    await operations._desk.settle(CALL, 5, Moment(NOON_MS + 7_000, 1_007_000))
    told = (await api.ask("GET", f"/v1/decisions/{CALL}"))[1]
    assert (told["decision"], told["cure"], told["cut_rules"]) == ("allow", None, [])
    assert (told["answered_ms"], told["ended_ms"], told["used_s"]) == (NOON_MS + 2_000, NOON_MS + 7_000, 5)
    assert (await api.problem("GET", "/v1/decisions/nosuch"))[0] == 404


@pytest.mark.parametrize("what", ["premium", SIP, PREMIUM, "+449098790123"])
async def test_why_finds_the_refusal_by_call_sip_call_id_and_number(
    operations: Operations, what: str
) -> None:
    assert (await operations.call("why", {"what": what}))["call_id"] == "premium"


async def test_why_tells_the_refusal_of_a_number_before_a_later_call_and_else_the_latest(
    operations: Operations,
) -> None:
    assert (await operations.call("why", {"what": "02079460123"}))["decision"] == "allow"
    await operations.call("account_standing", {"account": "acme", "standing": "suspended"})
    dial = Asked("barred", Kind.OUTBOUND, "02079460123", "alice", "PJSIP/alice-3", 60)
    await operations._desk.authorise(dial)
    await operations.call("account_standing", {"account": "acme", "standing": "active"})
    again = Asked("later", Kind.OUTBOUND, "02079460123", "alice", "PJSIP/alice-4", 60)
    await operations._desk.authorise(again)
    assert (await operations.call("why", {"what": "02079460123"}))["call_id"] == "barred"
    assert (await operations.call("why", {"what": "later"}))["decision"] == "allow"
    with pytest.raises(NotFound, match="neither a call's id, nor a SIP Call-ID, nor a number"):
        await operations.call("why", {"what": "nosuch"})


def test_each_reason_that_stops_a_call_has_a_cure_and_no_other() -> None:
    stops = {reason for reason in Reason if OUTCOMES[reason].cause} | UNDECIDED
    assert set(CURES) == stops
    assert all(cure.endswith(".") for cure in CURES.values())


def test_a_cure_names_commands_that_there_are() -> None:
    named = {command for cure in CURES.values() for command in re.findall(r"`fairdial ([a-z ]+)`", cure)}
    assert len(named) > 10
    for command in named:
        found = get_command(app)
        for word in command.split():
            found = getattr(found, "commands", {})[word]


# --- days --------------------------------------------------------------------------------------------------


async def test_days_are_the_accounts_own_the_oldest_first_with_those_without_use(api: Api) -> None:
    status, told, _ = await api.ask("GET", "/v1/accounts/acme/days?days=3")
    assert (status, told["zone"]) == (200, "Europe/London")
    assert [day["date"] for day in told["days"]] == ["2026-11-19", "2026-11-20", "2026-11-21"]
    assert [day["refused"] for day in told["days"]] == [0, 0, 1]
    assert told["days"][0] == {"date": "2026-11-19", "kinds": {}, "charged": {}, "refused": 0}
    assert len((await api.ask("GET", "/v1/accounts/acme/days"))[1]["days"]) == 31
    for wrong in ("0", "93"):
        assert (await api.problem("GET", f"/v1/accounts/acme/days?days={wrong}"))[0] == 422
    assert (await api.problem("GET", "/v1/accounts/nosuch/days"))[0] == 404


async def test_accounts_are_listed_by_how_they_begin(api: Api, operations: Operations) -> None:
    await operations.call("account_add", {"account": "globex", "policy": "kryptotel"})
    for starts, found in (("ac", ["acme"]), ("g", ["globex"]), ("x", []), ("", ["acme", "globex"])):
        told = (await api.ask("GET", f"/v1/accounts?starts={starts}"))[1]
        assert [row["account"] for row in told["items"]] == found


# --- the command line -----------------------------------------------------------------------------------------


async def _made(path: Path) -> None:
    ledger = await SqliteLedger.open(path)
    desk = Desk(ledger, load_policies(PROJECT / "policies"), NUMBERING, SetClock(), DeskRules())
    operations = Operations(desk)
    await operations.call("account_add", {"account": "acme", "policy": "voxdirect"})
    await operations.call("line_add", {"line": "alice", "account": "acme"})
    await desk.authorise(Asked("premium", Kind.OUTBOUND, PREMIUM, "alice", "PJSIP/a", 60, sip_call_id=SIP))
    await desk.close()
    await ledger.close()


def test_the_command_line_says_why(run: Run, tmp_path: Path) -> None:
    asyncio.run(_made(tmp_path / "ledger.sqlite"))
    for what in ("premium", SIP, PREMIUM):
        told = run("why", what)
        assert told.exit_code == 0, told.output
        for part in (
            "class_not_covered",
            "premium rate number",
            OUTCOMES[Reason.CLASS_NOT_COVERED].text,
            SIP,
        ):
            assert part in told.stdout
        # Words are broken over lines of a table.
        assert CURES[Reason.CLASS_NOT_COVERED].split(";")[0] in " ".join(told.stdout.split())
    assert read(run("why", PREMIUM, "--json"))["call_id"] == "premium"
    assert run("why", "nosuch").exit_code == 2
    for option, value in (("--number", PREMIUM), ("--call", SIP), ("--line", "alice")):
        assert [row["call_id"] for row in read(run("decisions", option, value, "--json"))] == ["premium"]
    assert read(run("decisions", "--number", "02079460123", "--json")) == []


def test_the_command_line_shows_days_and_accounts_that_begin_so(run: Run, tmp_path: Path) -> None:
    asyncio.run(_made(tmp_path / "ledger.sqlite"))
    shown = read(run("usage", "acme", "--days", "2", "--json"))
    assert len(shown["days"]) == 2
    lines = run("usage", "acme", "--days", "2").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [day["date"] for day in shown["days"]]
    assert run("usage", "acme", "--days", "93").exit_code == 2
    assert [row["account"] for row in read(run("account", "list", "--starts", "ac", "--json"))] == ["acme"]
    assert read(run("account", "list", "--starts", "b", "--json")) == []
