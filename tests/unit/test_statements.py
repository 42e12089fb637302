"""Statements: which period what belongs to, in figures by hand; the command, the request, and docs/statements.md."""

import asyncio
import csv
import io
import json
import re
import shlex
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fairdial import statements
from fairdial.clock import Moment
from fairdial.console import api_statements
from fairdial.console.statements import CSV_COLUMNS, csv_beginning, csv_page, statement_json
from fairdial.ledger.contract import (
    Grant,
    GrantState,
    Ledger,
    LedgerUnavailable,
    Part,
    SettledCall,
    SettledPage,
)
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.account import Account, Kind, Line, Options
from fairdial.policy.periods import Window, zone_named
from fairdial.policy.terms import Clause
from fairdial.statements import TRIES, add_up, line_of, period_of
from tests.charges import LONDON, PARIS, PER_S, UNIT, Counter, priced_plan
from tests.samples import NOON_MS
from tests.unit.test_api import Api
from tests.unit.test_api import api as api
from tests.unit.test_cli import Run, read
from tests.unit.test_cli import run as run
from tests.unit.test_readiness import desk as desk
from tests.unit.test_readiness import path as path

PAGE = (Path(__file__).parents[2] / "docs/statements.md").read_text(encoding="utf-8")
CYCLE = priced_plan(
    limit_s=100, period="cycle", countries='["GB"]', charges='connect_fee = "0.10"', longest_s=600
)
BEGIN_MS, MIDDLE_MS, END_MS = 1_792_018_800_000, 1_794_700_800_000, 1_797_292_800_000
"""Midnight of 15 October (summer time), November and December 2026 in London."""
SECOND, LAST = "2026-11", "2026-10"


@pytest.fixture
async def counter(tmp_path: Path) -> AsyncIterator[Counter]:
    """An account in London whose cycle begins on the 15th: 100 seconds, then 0.01 EUR a second; Paris on credit."""
    ledger = await SqliteLedger.open(tmp_path / "own.sqlite")
    counter = Counter(ledger, CYCLE)
    await ledger.add_account(Account("acme", "plan", "Europe/London", options=Options(cycle_day=15)))
    await ledger.add_line(Line("alice", "acme"))
    yield counter
    await counter.desk.close()
    await ledger.close()


async def shown(counter: Counter, period: str) -> dict[str, Any]:
    return statement_json(await add_up(counter.ledger, "acme", period_of(NOON_MS, period)))


async def lines(ledger: Ledger, period: Window) -> list[statements.Line]:
    page = await ledger.settled_calls("acme", period, None, 1_000)
    return [line for call in page.calls if (line := line_of(call, period)) is not None]


async def test_a_call_over_the_end_of_a_period_is_split_and_charged_where_it_ends(counter: Counter) -> None:
    counter.at(MIDDLE_MS - 200_000)
    await counter.talk("filled", 90)
    counter.at(MIDDLE_MS - 30_000)
    await counter.talk(
        "over-the-end", 150
    )  # 10 s are left before it, 100 s after it: 20 s and 20 s past them
    first, second = await shown(counter, LAST), await shown(counter, SECOND)
    assert (first["from"], first["to"]) == ("2026-10-15T00:00:00+01:00", "2026-11-15T00:00:00+00:00")
    assert (first["from_ms"], first["until_ms"], second["until_ms"]) == (BEGIN_MS, MIDDLE_MS, END_MS)
    assert (first["zone"], first["cycle_day"]) == ("Europe/London", 15)
    for found, window, calls, talk_s in ((first, (100, 20), 2, 120), (second, (100, 20), 0, 120)):
        [allowance] = found["allowances"]
        assert (allowance["used_units"], allowance["over_units"]) == window
        assert (allowance["here_used_units"], allowance["here_over_units"]) == window
        [kind] = found["kinds"]
        assert (kind["calls"], kind["talk_s"]) == (calls, talk_s)
        assert found["adds_up"] is True
    assert (first["charges"], first["owed"]) == ([], {})
    assert second["charges"] == [
        {"mode": "overage", "currency": "EUR", "charges": 1, "seconds": 40, "messages": 0, "amount": "0.4"}
    ]
    assert second["owed"] == {"EUR": "0.4"}
    [line] = await lines(counter.ledger, Window(MIDDLE_MS, END_MS))
    assert (line.talk_s, line.began, [charge.amount_micros for charge in line.charges]) == (
        120,
        False,
        [40 * PER_S],
    )


async def test_periods_that_are_none_of_the_windows_share_a_window_without_loss(counter: Counter) -> None:
    counter.at(MIDDLE_MS - 30_000)
    await counter.talk("over-the-end", 90)
    cut_ms = MIDDLE_MS + 30_000
    found = [
        statement_json(await add_up(counter.ledger, "acme", period_of(NOON_MS, None, *each)))
        for each in ((BEGIN_MS, cut_ms), (cut_ms, END_MS))
    ]
    assert [each["adds_up"] for each in found] == [True, True]
    assert [row["talk_s"] for each in found for row in each["kinds"]] == [60, 30]
    # Both parts on the allowance begin in the first period; the second names the window, and nothing in it.
    rows = [[(row["used_units"], row["here_used_units"]) for row in each["allowances"]] for each in found]
    assert rows == [[(30, 30), (60, 60)], [(60, 0)]]


async def test_credit_opens_moves_and_closes(counter: Counter) -> None:
    counter.at(BEGIN_MS + 1_000)
    await counter.ledger.add_credit("acme", "EUR", 5 * UNIT, "first", BEGIN_MS)
    await counter.talk("paris", 60, PARIS)  # 0.10 and a minute at 0.60
    await counter.ledger.add_credit("acme", "EUR", 2 * UNIT, "second", MIDDLE_MS)
    assert (await shown(counter, LAST))["credit"] == {
        "currency": "EUR",
        "opening": "0",
        "added": "5",
        "used": "0.7",
        "forfeited": "0",
        "closing": "4.3",
    }
    credit = (await shown(counter, SECOND))["credit"]
    assert (credit["opening"], credit["added"], credit["used"], credit["closing"]) == ("4.3", "2", "0", "6.3")
    # What credit paid is not owed.
    assert (await shown(counter, LAST))["owed"] == {}


async def test_who_has_no_credit_and_did_nothing_gets_an_empty_statement(counter: Counter) -> None:
    found = await shown(counter, "current")
    assert found["credit"] is None
    assert (found["count"], found["adds_up"], found["differences"]) == (0, True, [])
    assert [found[key] for key in ("plans", "kinds", "allowances", "charges")] == [[], [], [], []]


async def test_an_unanswered_call_has_no_line_and_one_in_progress_is_told_of(counter: Counter) -> None:
    await counter.allow("nobody")
    await counter.settle("nobody", 0)
    await counter.allow("talking")
    found = await shown(counter, "current")
    assert (found["count"], found["in_progress"], found["adds_up"]) == (0, 1, True)


class Moving:
    """A ledger in which a call ends while its pages are read, `times` times."""

    def __init__(self, counter: Counter, times: int) -> None:
        self._ledger, self._counter, self._times = counter.ledger, counter, times
        self.read = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def settled_calls(self, *asked: Any) -> SettledPage:
        page = await self._ledger.settled_calls(*asked)
        self.read += 1
        if self.read <= self._times:
            await self._counter.talk(f"late-{self.read}", 10)
        return page


@pytest.mark.parametrize(("times", "adds_up"), [(1, True), (TRIES - 1, True), (TRIES, None)])
async def test_a_call_that_ends_meanwhile_is_in_it_and_makes_no_false_alarm(
    counter: Counter, times: int, adds_up: bool | None
) -> None:
    await counter.talk("call-1", 30)
    moving = Moving(counter, times)
    found = await add_up(moving, "acme", period_of(NOON_MS))
    assert (found.adds_up, found.sums.differences) == (adds_up, [])
    if adds_up:
        assert found.sums.lines == 1 + times
    assert moving.read == min(TRIES, times + 1)


async def test_what_a_call_costs_is_known_to_be_wrong_also_while_calls_end(
    counter: Counter, tmp_path: Path
) -> None:
    await counter.talk("call-1", 130)
    with closing(sqlite3.connect(tmp_path / "own.sqlite", isolation_level=None)) as raw:
        assert raw.execute("UPDATE charges SET amount_micros = amount_micros - 1").rowcount == 1
    found = await add_up(Moving(counter, TRIES), "acme", period_of(NOON_MS))
    assert (found.settled, found.adds_up) == (False, False)
    assert [each.what for each in found.sums.differences] == ["call call-1"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("2026-13", None, None), "write current, last, a month such as 2026-11"),
        (("yesterday", None, None), "'yesterday' is none"),
        (("last", 0, None), "name a period, or its beginning and end, not both"),
        ((None, None, 5), "an end and no beginning"),
        ((None, 5, 5), "ends after it begins"),
        ((None, 0, 401 * 86_400_000), "at most 400 days"),
        ((None, -1, 5), "between 1970 and 2200"),
        ((None, NOON_MS + 1, None), "ends after it begins"),
    ],
)
async def test_a_period_that_is_none_says_how_to_write_one(
    counter: Counter, asked: tuple[str | None, int | None, int | None], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        await add_up(counter.ledger, "acme", period_of(NOON_MS, *asked))


def test_no_cell_of_the_csv_is_a_formula_and_a_number_stays_one() -> None:
    clause = {"policy": "@plan", "version": "-1", "id": "=1+1"}
    line = {
        "call": "=cmd",
        "kind": "outbound",
        "line": "+alice",
        "number": "+442079460100",
        "dialled_ms": NOON_MS,
        "answered_ms": None,
        "ended_ms": None,
        "duration_s": 1,
        "talk_s": 1,
        "counted": True,
        "estimated": False,
        "reason": 'a "b", c',
        "clause": clause,
        "parts": [],
        "charges": [],
    }
    text = csv_beginning() + csv_page([line], zone_named("Asia/Kolkata"))
    assert text.count("\r\n") == 2
    [row] = csv.DictReader(io.StringIO(text, newline=""))
    assert tuple(row) == CSV_COLUMNS
    assert [row[key] for key in ("call", "line", "number", "policy", "version", "clause")] == [
        *("'=cmd", "'+alice", "+442079460100", "'@plan", "'-1", "'=1+1"),
    ]
    assert (row["reason"], row["dialled"], row["answered"]) == ('a "b", c', "2026-11-21T17:30:00+05:30", "")


def test_the_page_names_each_column_of_the_csv() -> None:
    rows = [row for row in PAGE.split("| column |")[1].splitlines()[2:] if row.startswith("|")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(CSV_COLUMNS)


# --- the command -------------------------------------------------------------------------------------


@pytest.fixture
def used(run: Run, tmp_path: Path) -> Path:
    """The ledger of the command line, with an account that called on credit and on its allowance."""
    run("account", "add", "acme", "--policy", "kryptotel", "--zone", "Europe/London", "--country", "GB")
    run("line", "add", "alice", "--account", "acme")

    async def call() -> None:
        ledger = await SqliteLedger.open(tmp_path / "ledger.sqlite")
        counter = Counter(ledger, priced_plan(name="kryptotel", limit_s=30))
        await counter.talk("call-1", 40)
        await counter.desk.close()
        await ledger.close()

    asyncio.run(call())
    return tmp_path / "ledger.sqlite"


ON_DAY = ("--period", "2026-11-21")


def test_the_command_shows_a_statement_as_tables_json_and_csv(run: Run, used: Path) -> None:
    shown = run("statement", "acme", *ON_DAY)
    assert shown.exit_code == 0, shown.output
    for words in (
        "Europe/London",
        "adds up to the ledger",
        "voice 30+10 over",
        "0.1 EUR overage",
        "+4420••••••23",
    ):
        assert words in shown.stdout
    assert "+442079460123" not in shown.stdout
    found = read(run("statement", "acme", *ON_DAY, "--json", "--numbers", "full"))
    assert (found["from"], found["count"], found["adds_up"]) == ("2026-11-01T00:00:00+00:00", 1, True)
    [line] = found["lines"]
    assert (line["call"], line["number"], line["duration_s"]) == ("call-1", "+442079460123", 40)
    rows = list(csv.DictReader(io.StringIO(run("statement", "acme", *ON_DAY, "--csv").stdout)))
    assert [(row["record"], row["used_units"], row["over_units"], row["amount"]) for row in rows] == [
        ("call", "", "", ""),
        ("usage", "30", "10", ""),
        ("charge", "", "", "0.1"),
    ]
    assert {row["number"] for row in rows} == {"+4420••••••23"}


def test_the_command_ends_with_1_and_names_what_does_not_add_up(run: Run, used: Path) -> None:
    with closing(sqlite3.connect(used, isolation_level=None)) as raw:
        assert raw.execute("DELETE FROM charges").rowcount == 1
    for how in ("--json", "--csv"):
        result = run("statement", "acme", *ON_DAY, how)
        assert result.exit_code == 1
        assert "does not add up to the ledger" in result.stderr
        assert "call call-1: overage 10 units 0.1 EUR" in result.stderr
        assert "in the ledger no charge" in result.stderr
    assert json.loads(run("statement", "acme", *ON_DAY, "--json").stdout)["adds_up"] is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nosuch",), "no account 'nosuch'"),
        (("acme", "--period", "soon"), "period 'soon' is none"),
        (("acme", "--period", "last", "--from", "2026-11-01T00:00Z"), "not both"),
        (("acme", "--to", "2026-11-01T00:00Z"), "an end and no beginning"),
        (("acme", "--from", "2026-11-01"), "--from '2026-11-01' has no time zone"),
        (("acme", "--csv", "--json"), "give --csv or --json, not both"),
        (("acme", "--numbers", "some"), "'some' is not one of"),
    ],
)
def test_what_the_command_cannot_do_is_said(run: Run, arguments: tuple[str, ...], words: str) -> None:
    run("account", "add", "acme", "--policy", "kryptotel")
    result = run("statement", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stdout == ""


@pytest.mark.usefixtures("used")
def test_the_commands_of_the_page_run_as_they_are_shown(run: Run) -> None:
    commands = re.findall(r"^\$ fairdial (.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        result = run(*shlex.split(command))
        assert result.exit_code == 0, (command, result.output)


# --- over HTTP ---------------------------------------------------------------------------------------

ROUTE = "/v1/accounts/acme/statement"
OF_NOVEMBER = "from=2026-11-01T00:00:00Z&to=2026-12-01T00:00:00Z"


async def talk(api: Api, count: int = 1, used_s: int = 10) -> None:
    """Calls of the account, at noon of 21 November 2026."""
    ledger = api.ledger
    counter = Counter(ledger, priced_plan(limit_s=4))
    for n in range(count):
        await counter.allow(f"call-{n}", LONDON, kind=Kind.OUTBOUND)
        await counter.desk.settle(f"call-{n}", used_s, Moment(NOON_MS + 60_000, 0))
    await counter.desk.close()


async def text_of(api: Api, query: str, **headers: str) -> tuple[int, str, str]:
    """Status, media type and body, for the viewer."""
    sent = {"Authorization": f"Bearer {api.viewer}", **headers}
    url = f"http://127.0.0.1:{api.server.port}{ROUTE}?{query}"
    async with aiohttp.ClientSession() as session, session.get(url, headers=sent) as answer:
        assert answer.headers["FairDial-Adds-Up"] == "true"
        return answer.status, answer.content_type, await answer.text()


async def test_a_viewer_reads_a_statement_and_nobody_without_a_token_does(api: Api) -> None:
    await talk(api)
    code, found, headers = await api.ask("GET", f"{ROUTE}?{OF_NOVEMBER}", token=api.viewer)
    assert (code, found["adds_up"], headers["FairDial-Adds-Up"]) == (200, True, "true")
    assert (found["zone"], found["owed"]) == ("UTC", {"EUR": "0.06"})
    [line] = found["lines"]
    assert (line["number"], line["parts"][0]["over_units"], line["charges"][0]["rate"]) == (
        *("+4420••••••23", 6),
        "charges.overage_per_min",
    )
    code, found, _ = await api.ask("GET", f"{ROUTE}?{OF_NOVEMBER}&numbers=full", token=api.viewer)
    assert found["lines"][0]["number"] == "+442079460123"
    assert (await api.problem("GET", ROUTE, token=None))[0] == 401


@pytest.mark.parametrize(
    ("query", "headers", "media"),
    [
        ("", {}, "application/json"),
        ("", {"Accept": "text/csv"}, "text/csv"),
        ("&format=csv", {}, "text/csv"),
        ("&format=json", {"Accept": "text/csv"}, "application/json"),
    ],
)
async def test_it_is_json_or_csv_as_is_asked(
    api: Api, query: str, headers: dict[str, str], media: str
) -> None:
    await talk(api, 3)
    code, found, text = await text_of(api, OF_NOVEMBER + query, **headers)
    assert (code, found) == (200, media)
    if media == "text/csv":
        assert [row["record"] for row in csv.DictReader(io.StringIO(text))].count("call") == 3
    else:
        assert len(json.loads(text)["lines"]) == 3


@pytest.mark.parametrize(
    ("query", "code", "words"),
    [
        ("period=soon", 422, "period 'soon' is none"),
        ("period=last&from=2026-11-01T00:00:00Z", 422, "not both"),
        ("from=2026-11-01T00:00:00", 422, "query.from"),
        ("to=2026-11-01T00:00:00Z", 422, "an end and no beginning"),
        ("from=2020-01-01T00:00:00Z&to=2026-01-01T00:00:00Z", 422, "at most 400 days"),
        ("format=xml", 422, "query.format"),
    ],
)
async def test_what_cannot_be_answered_is_a_problem(api: Api, query: str, code: int, words: str) -> None:
    told = await api.problem("GET", f"{ROUTE}?{query}", token=api.viewer)
    assert told[0] == code
    assert words in told[1]
    unknown = await api.problem("GET", "/v1/accounts/nosuch/statement", token=api.viewer)
    assert unknown == (404, "no account 'nosuch'; `fairdial account list` shows all")


async def test_a_long_statement_comes_page_by_page_and_whole(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_statements, "PAGE", 4)
    await talk(api, 10)
    sizes = watch_pages(api, monkeypatch)
    rows = list(csv.DictReader(io.StringIO((await text_of(api, OF_NOVEMBER + "&format=csv"))[2])))
    assert sorted({row["call"] for row in rows}) == [f"call-{n}" for n in range(10)]
    assert sizes[-3:] == [4, 4, 2]
    found = json.loads((await text_of(api, OF_NOVEMBER))[2])
    assert [line["call"] for line in found["lines"]] == [f"call-{n}" for n in range(10)]


async def test_a_ledger_that_fails_half_way_is_no_whole_answer(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_statements, "PAGE", 4)
    await talk(api, 10)
    sizes = watch_pages(api, monkeypatch, fail_at=3)
    with pytest.raises(aiohttp.ClientPayloadError):
        await text_of(api, OF_NOVEMBER + "&format=csv")
    assert len(sizes) == 3
    # Before the first word it is told as what it is.
    watch_pages(api, monkeypatch, fail_at=1)
    code, words = await api.problem("GET", f"{ROUTE}?{OF_NOVEMBER}", token=api.viewer)
    assert (code, words) == (503, "away")


def watch_pages(api: Api, monkeypatch: pytest.MonkeyPatch, fail_at: int = 1_000) -> list[int]:
    """How many calls each page has that is read from now on; the one of that number fails."""
    ledger, sizes = api.ledger, []
    read = SqliteLedger.settled_calls

    async def settled_calls(self: SqliteLedger, *asked: Any) -> SettledPage:
        page = await read(self, *asked)
        sizes.append(len(page.calls))
        if len(sizes) == fail_at:
            raise LedgerUnavailable("away")
        return page

    assert isinstance(ledger, SqliteLedger)
    monkeypatch.setattr(SqliteLedger, "settled_calls", settled_calls)
    return sizes


def test_a_line_knows_where_its_parts_begin() -> None:
    """Literal instants: before, in, and past the window that the ledger counted a part in."""
    grant = Grant(
        *("call-1", "acme", "alice", Kind.OUTBOUND, LONDON, None, "channel", GrantState.SETTLED),
        *(60, None, 60, 1_000, 5_000, "leg", 65_000, 60),
    )
    for window, counts_ms in (((0, 10_000), 5_000), ((10_000, 90_000), 10_000), ((0, 3_000), 2_999)):
        part = Part("voice", Window(*window), 1, 0)
        call = SettledCall(grant, "covered", Clause("plan", "1", "C1"), (part,), (), 0)
        assert statements.counts_ms(call, part) == counts_ms
        assert line_of(call, Window(counts_ms, counts_ms + 1)) is not None
    no_part = replace(call, parts=())
    assert [line_of(no_part, Window(*each)) is None for each in ((0, 4_000), (66_000, 70_000))] == [
        True,
        True,
    ]
    middle = line_of(no_part, Window(30_000, 40_000))
    assert middle is not None
    assert (middle.talk_s, middle.began) == (10, False)
