"""Tokens that are bound to accounts: of each route there is, what it tells and changes for their holders.

Acme's portal asks, with an admin's token, for what is acme's, for what is globex's, and for what nobody has. Of
globex, which has one of everything, nothing may be told or changed, and it must look as if it were not there.
"""

import json
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from fairdial.console.operations import CallRow, Operations
from fairdial.desk import Asked
from fairdial.ledger.contract import Role
from fairdial.policy.account import Kind
from tests.api_examples import CALL, OPERATIONS, Route, example_bodies, prepared, sent, served
from tests.unit.test_api import Api, Switch
from tests.unit.test_cli import Run, read
from tests.unit.test_cli import run as run

OWN: Final[Mapping[str, Any]] = {
    "account": "acme",
    "line": "alice",
    "number": "+442079460000",
    "call": CALL,
    "decision": CALL,
    "case": 1,
    "request": 1,
    "notice": 1,
}
"""One of each thing that has an account; as path parameters and keys of bodies name it."""
OTHERS: Final[Mapping[str, Any]] = {
    "account": "globex",
    "line": "gina",
    "number": "+442079460999",
    "call": "globex-call",
    "decision": "globex-call",
    "case": 2,
    "request": 4,
    "notice": 6,
}
ABSENT: Final[Mapping[str, Any]] = {
    "account": "nosuch",
    "line": "nobody",
    "number": "+442079460888",
    "call": "no-call",
    "decision": "no-call",
    "case": 98,
    "request": 98,
    "notice": 98,
}
MARKS: Final = ("globex", "gina", "0999", "Globex", "sells to Bob")
"""What each answer about globex would have in it."""

PROVIDER: Final = "for tokens that are not bound"
LIST: Final = "a list, or stream, of what is the account's"
ANYBODY: Final = "about no account, and for all"

TIED: Final[Mapping[Route, str | tuple[str, ...]]] = {
    ("GET", "/v1/accounts"): LIST,
    ("POST", "/v1/accounts"): PROVIDER,
    ("GET", "/v1/accounts/{account}"): ("account",),
    ("GET", "/v1/accounts/{account}/agreements"): ("account",),
    ("PUT", "/v1/accounts/{account}/agreements/{consent}"): ("account", "body case", "body request"),
    ("DELETE", "/v1/accounts/{account}/agreements/{consent}"): ("account",),
    ("POST", "/v1/accounts/{account}/complaints"): PROVIDER,
    ("GET", "/v1/accounts/{account}/contact"): ("account",),
    ("PUT", "/v1/accounts/{account}/contact"): ("account",),
    ("POST", "/v1/accounts/{account}/credit"): PROVIDER,
    ("GET", "/v1/accounts/{account}/days"): ("account",),
    ("PUT", "/v1/accounts/{account}/restrictions/{service}"): ("account",),
    ("DELETE", "/v1/accounts/{account}/restrictions/{service}"): PROVIDER,
    ("PUT", "/v1/accounts/{account}/standing"): ("account",),
    ("GET", "/v1/accounts/{account}/statement"): ("account",),
    ("PUT", "/v1/accounts/{account}/subscription"): PROVIDER,
    ("GET", "/v1/accounts/{account}/usage"): ("account",),
    ("GET", "/v1/blocks"): PROVIDER,
    ("GET", "/v1/nodes"): PROVIDER,
    ("DELETE", "/v1/nodes/{switch}"): PROVIDER,
    ("PUT", "/v1/blocks/{source}"): PROVIDER,
    ("DELETE", "/v1/blocks/{source}"): PROVIDER,
    ("POST", "/v1/callbacks"): ("body line",),
    ("GET", "/v1/calls"): LIST,
    ("DELETE", "/v1/calls/{call}"): ("call",),
    ("GET", "/v1/cases"): LIST,
    ("POST", "/v1/cases"): PROVIDER,
    ("GET", "/v1/cases/{case}"): ("case",),
    ("POST", "/v1/cases/{case}/close"): PROVIDER,
    ("PUT", "/v1/cases/{case}/deadline"): PROVIDER,
    ("POST", "/v1/cases/{case}/dismiss"): PROVIDER,
    ("POST", "/v1/check"): ("body line", "body account"),
    ("POST", "/v1/classify"): ANYBODY,
    ("GET", "/v1/conferences"): LIST,
    ("POST", "/v1/conferences/{room}/participants"): ("body line",),
    ("GET", "/v1/decisions"): LIST,
    ("GET", "/v1/decisions/{decision}"): ("decision",),
    ("GET", "/v1/differences"): PROVIDER,
    ("GET", "/v1/events"): LIST,
    ("GET", "/v1/grants"): LIST,
    ("GET", "/v1/grants/{call}"): ("call",),
    ("POST", "/v1/imports"): PROVIDER,
    ("GET", "/v1/lines"): LIST,
    ("POST", "/v1/lines"): PROVIDER,
    ("GET", "/v1/lines/{line}"): ("line",),
    ("PUT", "/v1/lines/{line}/standing"): ("line",),
    ("GET", "/v1/messages"): LIST,
    ("POST", "/v1/messages"): ("body line",),
    ("GET", "/v1/notices"): LIST,
    ("GET", "/v1/notices/{notice}"): ("notice",),
    ("POST", "/v1/notices/{notice}/retry"): ("notice",),
    ("GET", "/v1/numbers"): LIST,
    ("GET", "/v1/numbers/{number}"): ("number",),
    ("PUT", "/v1/numbers/{number}"): PROVIDER,
    ("DELETE", "/v1/numbers/{number}"): PROVIDER,
    ("GET", "/v1/policies"): ANYBODY,
    ("POST", "/v1/policies"): PROVIDER,
    ("POST", "/v1/policies/diff"): PROVIDER,
    ("POST", "/v1/policies/lint"): PROVIDER,
    ("GET", "/v1/policies/{policy}/versions/{version}"): ANYBODY,
    ("GET", "/v1/policies/{policy}/versions/{version}/diff"): ANYBODY,
    ("GET", "/v1/rates"): PROVIDER,
    ("PUT", "/v1/rates/{card}"): PROVIDER,
    ("POST", "/v1/reload"): PROVIDER,
    ("GET", "/v1/replays"): PROVIDER,
    ("POST", "/v1/replays"): PROVIDER,
    ("GET", "/v1/replays/{replay}"): PROVIDER,
    ("DELETE", "/v1/replays/{replay}"): PROVIDER,
    ("GET", "/v1/replays/{replay}/report"): PROVIDER,
    ("GET", "/v1/replays/{replay}/result"): PROVIDER,
    ("GET", "/v1/requests"): LIST,
    ("POST", "/v1/requests"): ("body account", "body line"),
    ("GET", "/v1/requests/{request}"): ("request",),
    ("POST", "/v1/requests/{request}/answer"): ("request",),
    ("POST", "/v1/requests/{request}/approve"): PROVIDER,
    ("POST", "/v1/requests/{request}/decline"): PROVIDER,
    ("POST", "/v1/requests/{request}/revoke"): PROVIDER,
    ("POST", "/v1/requests/{request}/withdraw"): ("request",),
    ("GET", "/v1/status"): PROVIDER,
    ("GET", "/v1/tokens"): PROVIDER,
    ("POST", "/v1/tokens"): PROVIDER,
    ("DELETE", "/v1/tokens/{name}"): PROVIDER,
    ("GET", "/v1/why"): LIST,
}
"""How each route is tied to an account: to one of each thing named, in its path or body."""


@dataclass
class Bound:
    """A server, the file of its ledger, and the token of acme's portal."""

    api: Api
    path: Path
    token: str

    async def ask(
        self,
        route: Route,
        things: Mapping[str, Any],
        *,
        body: Mapping[str, Any] | None = None,
        query: str = "",
    ) -> tuple[int, str, str]:
        """Status and text of what is answered about these things, and what was sent; body: keys of it that differ."""
        method, template = route
        operation = OPERATIONS[route]
        path = template
        for parameter in operation.get("parameters", []):
            name = parameter["name"]
            if parameter["in"] == "path":
                path = path.replace(
                    f"{{{name}}}", str(things.get(name, parameter["schema"].get("examples", [""])[0]))
                )
            elif parameter["in"] == "query" and parameter.get("required"):
                query += f"&{name}={parameter['schema']['examples'][0]}"
        [(media_type, example), *_] = example_bodies(operation)
        if media_type == "application/json":
            example = {**example, **{key: things[key] for key in example if key in things}, **(body or {})}
        headers = {"Idempotency-Key": "sms-1"} if route == ("POST", "/v1/messages") else None
        where = f"{path}?{query.lstrip('&')}" if query else path
        status, told, _ = await sent(self.api, method, where, media_type, example, self.token, headers)
        return status, json.dumps(told), f"{where} {json.dumps(example)}"

    def kept(self) -> dict[str, list[tuple[object, ...]]]:
        """All that the ledger holds."""
        with closing(sqlite3.connect(self.path)) as raw:
            tables = [name for (name,) in raw.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            return {table: sorted(raw.execute(f"SELECT * FROM {table}"), key=repr) for table in tables}


class TwoRooms(Switch):
    """Stands for a switch on which both accounts confer."""

    def rows(self) -> list[dict[str, object]]:
        [own] = super().rows()
        return [own, {**own, "account": "globex", "room": "7999"}]


async def _globex(operations: Operations) -> None:
    """One of everything."""
    row = CallRow("globex-call", "gina", "outbound", "0999", "talking", 60, 3, 57, "globex")
    own = operations._calls
    assert own is not None
    operations._calls = lambda: [*own(), row]
    operations._rooms = TwoRooms()
    named = {"account": "globex", "policy": "voxdirect", "name": "Globex Ltd", "countries": ["GB"]}
    for name, given in (
        ("account_add", named),
        ("line_add", {"line": "gina", "account": "globex"}),
        ("number_add", {"number": "+442079460999", "account": "globex", "line": "gina"}),
        ("agreement_add", {"account": "globex", "consent": "surcharge", "agreed_by": "Gina"}),
        ("account_restrict", {"account": "globex", "services": ["conference"]}),
        ("case_flag", {"account": "globex", "note": "sells to Bob", "by": "ann"}),
        (
            "request_add",
            {
                "account": "globex",
                "rule": "allowances.voice",
                "limit": 2_000_000,
                "why": "Globex",
                "by": "Gina",
            },
        ),
        ("message", {"line": "alice", "to": "07912345678", "medium": "sms", "key": "a", "by": "a"}),
        ("message", {"line": "gina", "to": "07912345678", "medium": "sms", "key": "g", "by": "g"}),
    ):
        await operations.call(name, given)
    await operations._desk.authorise(
        Asked("globex-call", Kind.OUTBOUND, "02079460123", "gina", "PJSIP/g-1", 60)
    )


@pytest.fixture
async def bound(tmp_path: Path) -> AsyncIterator[Bound]:
    async with prepared(tmp_path) as operations, served(operations) as api:
        await _globex(operations)
        asked = {"name": "acme's portal", "role": "admin", "accounts": ["acme"]}
        token = (await operations.call("token_add", asked))["token"]
        yield Bound(api, tmp_path / "ledger.sqlite", token)


def test_each_route_there_is_says_how_it_is_tied_to_an_account() -> None:
    assert set(TIED) == set(OPERATIONS)


async def test_the_others_have_one_of_everything(bound: Bound) -> None:
    """Else the tests below would show little."""
    free = Bound(bound.api, bound.path, bound.api.operator)
    things = [name for name in OTHERS if ("GET", f"/v1/{name}s/{{{name}}}") in TIED]
    assert len(things) >= 7
    for name in things:
        status, told, _ = await free.ask(("GET", f"/v1/{name}s/{{{name}}}"), OTHERS)
        assert (status, any(mark in told for mark in MARKS)) == (200, True), name
    for route, tie in TIED.items():
        if tie == LIST and route[1] != "/v1/events":
            status, told, _ = await free.ask(route, OTHERS, query="account=globex&")
            assert (status, any(mark in told for mark in MARKS)) == (200, True), route


async def test_of_others_nothing_is_told_or_changed_and_it_looks_as_if_it_were_not_there(
    bound: Bound,
) -> None:
    before = bound.kept()
    for route, tie in TIED.items():
        if isinstance(tie, str):
            continue
        for name in tie:
            thing = name.removeprefix("body ")
            answers = []
            for wanted in (OTHERS, ABSENT):
                # All else in the request is the portal's own.
                by_body = {thing: wanted[thing]} if name.startswith("body ") else None
                things = OWN if by_body else {**OWN, thing: wanted[thing]}
                status, told, asked = await bound.ask(route, things, body=by_body)
                assert status == 404, (route, name, told)
                assert not [mark for mark in MARKS if mark in told and mark not in asked], (route, told)
                answers.append(json.loads(told)["detail"].replace(repr(wanted[thing]), "…"))
            assert answers[0] == answers[1], (route, name)
    assert bound.kept() == before


async def test_lists_and_what_is_about_nobody_tell_of_no_other(bound: Bound) -> None:
    for route, tie in TIED.items():
        if tie not in (LIST, ANYBODY):
            continue
        status, told, _ = await bound.ask(route, OWN)
        assert (status, tie == LIST and told in ("[]", '{"items": [], "next": null}')) == (200, False), route
        assert not [mark for mark in MARKS if mark in told], (route, told)
        if tie == LIST and route != ("GET", "/v1/accounts"):
            other = await bound.ask(route, OWN, query="account=globex&")
            absent = await bound.ask(route, OWN, query="account=nosuch&")
            assert (other[0], other[1].replace("globex", "nosuch")) == (404, absent[1]), route
    for query in ("starts=g", "after=b"):
        assert json.loads((await bound.ask(("GET", "/v1/accounts"), OWN, query=query))[1])["items"] == []


async def test_what_a_list_is_read_on_from_is_not_a_way_to_find_others(bound: Bound) -> None:
    for route, thing in (
        ("/v1/decisions", "decision"),
        ("/v1/cases", "case"),
        ("/v1/messages", "decision"),
    ):
        answers = [
            await bound.ask(("GET", route), OWN, query=f"after={things[thing]}")
            for things in (OTHERS, ABSENT)
        ]
        other, absent = answers
        assert (other[0], absent[0]) == (404, 404), route
        assert other[1].replace(str(OTHERS[thing]), "…") == absent[1].replace(str(ABSENT[thing]), "…")
    for query in ("line=gina", "call=globex-call", "number=02079460123&line=gina", "line=nobody"):
        assert json.loads((await bound.ask(("GET", "/v1/decisions"), OWN, query=query))[1])["items"] == []


async def test_a_body_that_cannot_be_read_rings_nobody(bound: Bound) -> None:
    for body in (b"{", b"[" * 60_000, b'["gina"]', b'{"line": ["gina"]}', b"\xff", b""):
        for media_type in ("application/json", "text/plain"):
            headers = {"Content-Type": media_type}
            status, _ = await bound.api.problem(
                "POST", "/v1/callbacks", token=bound.token, data=body, headers=headers
            )
            assert status in (400, 404, 422), (body[:20], media_type)


async def test_what_is_the_providers_is_refused_for_the_own_account_too(bound: Bound) -> None:
    before = bound.kept()
    for route, tie in TIED.items():
        if tie == PROVIDER:
            for things in (OWN, OTHERS):
                status, told, asked = await bound.ask(route, things)
                assert (status, "is bound to accounts" in told) == (403, True), (route, told)
                assert not [mark for mark in MARKS if mark in told and mark not in asked]
    assert bound.kept() == before


async def test_what_is_its_own_a_portal_sees_and_changes(bound: Bound) -> None:
    # What ends or takes away comes last.
    order = sorted(TIED, key=lambda route: (route[0] in ("DELETE", "PUT"), "standing" in route[1], route))
    for route in order:
        if not isinstance(TIED[route], str):
            things = {**OWN, "request": 3} if route[1].endswith("/answer") else OWN
            status, told, _ = await bound.ask(route, things)
            assert 200 <= status < 300, (route, told)
    assert (await bound.api.operations.call("account_show", {"account": "acme"}))["standing"] == "suspended"


STANDINGS: Final = (("PUT", "/v1/accounts/{account}/standing"), ("PUT", "/v1/lines/{line}/standing"))


@pytest.mark.parametrize("route", STANDINGS, ids=["account", "line"])
async def test_a_portal_suspends_its_own_and_takes_back_nothing(bound: Bound, route: Route) -> None:
    assert (await bound.ask(route, OWN, body={"standing": "active"}))[0] == 403
    assert (await bound.ask(route, OWN, body={"standing": "suspended"}))[0] == 200
    assert (await bound.ask(route, OWN, body={"standing": "active"}))[0] == 403
    assert (await bound.ask(route, OWN, body={"standing": "terminated"}))[0] == 200
    status, told, _ = await bound.ask(route, OWN, body={"standing": "suspended"})
    assert (status, "is terminated" in told) == (409, True)
    free = Bound(bound.api, bound.path, bound.api.operator)
    assert (await free.ask(route, OWN, body={"standing": "active"}))[0] == 200


async def test_a_portal_says_of_nobody_that_it_was_fraud(bound: Bound) -> None:
    body = {"standing": "terminated", "fraud": True}
    assert (await bound.ask(STANDINGS[0], OWN, body=body))[0] == 403


async def test_a_role_holds_within_the_account(bound: Bound) -> None:
    operations = bound.api.operations
    asked = {"name": "a look", "role": str(Role.VIEWER), "accounts": ["acme"]}
    viewer = Bound(bound.api, bound.path, (await operations.call("token_add", asked))["token"])
    assert (await viewer.ask(("GET", "/v1/accounts/{account}"), OWN))[0] == 200
    status, told, _ = await viewer.ask(("DELETE", "/v1/calls/{call}"), OWN)
    assert (status, "needs operator" in told) == (403, True)


async def test_a_token_of_several_accounts_names_one_of_them_for_a_list(bound: Bound) -> None:
    asked = {"name": "both", "role": "viewer", "accounts": ["acme", "globex"]}
    token = (await bound.api.operations.call("token_add", asked))["token"]
    both = Bound(bound.api, bound.path, token)
    lines = ("GET", "/v1/lines")
    status, told, _ = await both.ask(lines, OWN)
    assert (status, "?account=acme" in told) == (422, True)
    told = (await both.ask(lines, OWN, query="account=globex"))[1]
    assert [row["line"] for row in json.loads(told)["items"]] == ["gina"]
    told = (await both.ask(("GET", "/v1/accounts"), OWN, query="limit=1"))[1]
    assert [row["account"] for row in json.loads(told)["items"]] == ["acme"]
    assert json.loads(told)["next"] == "acme"
    assert (await both.ask(("GET", "/v1/accounts/{account}"), OTHERS))[0] == 200


async def test_a_stream_tells_a_portal_of_its_own_account_alone(bound: Bound) -> None:
    url = f"http://127.0.0.1:{bound.api.server.port}/v1/events"
    headers = {"Authorization": f"Bearer {bound.token}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.get(url) as stream:
        await stream.content.readuntil(b"\n\n")
        for account in ("globex", "acme"):
            given = {"account": account, "standing": "suspended"}
            await bound.api.operations.call("account_standing", given)
        assert b'"account": "acme"' in await stream.content.readuntil(b"\n\n")


async def test_a_browser_is_told_to_which_account_it_is_bound(bound: Bound) -> None:
    status, told, _ = await bound.api.ask("POST", "/session", {"token": bound.token}, token=None)
    assert (status, told["account"], told["accounts"]) == (200, "acme", ["acme"])


def test_the_command_line_binds_a_token_to_accounts_that_there_are(run: Run) -> None:
    for account in ("acme", "globex"):
        read(run("account", "add", account, "--policy", "voxdirect", "--json"))
    made = read(run("token", "add", "portal", "--account", "acme", "--account", "globex", "--json"))
    assert made["accounts"] == ["acme", "globex"]
    assert "acme, globex" in run("token", "list").stdout
    refused = run("token", "add", "other", "--account", "nosuch")
    assert (refused.exit_code, "no account 'nosuch'" in refused.stderr) == (2, True)
    assert [row["name"] for row in read(run("token", "list", "--json"))] == ["portal"]
