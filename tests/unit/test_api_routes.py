"""Every route of the HTTP API: in the table of docs/api.md, for whom it is, described in full, its examples work."""

import json
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fairdial.console.operations import Operations
from fairdial.ledger.contract import Role
from tests.api_examples import (
    OPERATIONS,
    SCHEMAS,
    Route,
    answers,
    example_bodies,
    example_path,
    prepared,
    sent,
    served,
)
from tests.unit.test_api import Api

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs" / "api.md").read_text()

ROW = re.compile(r"^\| `([A-Z]+) (/v1/\S+)` \| (\w+) \| (\d{3}): .*\|$", re.MULTILINE)


def table() -> dict[Route, tuple[Role, int]]:
    """What docs/api.md says of each route: the role that it needs, and what it answers."""
    return {(method, path): (Role(role), int(status)) for method, path, role, status in ROW.findall(PAGE)}


TABLE = table()
ROUTES = sorted(OPERATIONS)
RANK = [None, Role.VIEWER, Role.OPERATOR, Role.ADMIN]


# --- the table ---------------------------------------------------------------------------------------


def test_the_table_has_every_route_and_no_other() -> None:
    assert sorted(TABLE) == ROUTES
    assert len(ROW.findall(PAGE)) == len(TABLE)


@pytest.fixture
async def operations(tmp_path: Path) -> AsyncIterator[Operations]:
    """On the shipped policies, with all that the examples speak of."""
    async with prepared(tmp_path) as made:
        yield made


@pytest.fixture
async def api(operations: Operations) -> AsyncIterator[Api]:
    async with served(operations) as api:
        yield api


async def tokens(operations: Operations) -> dict[Role | None, str | None]:
    given = [(role, {"name": f"a {role}", "role": role}) for role in Role]
    return {None: None} | {role: (await operations.call("token_add", each))["token"] for role, each in given}


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
async def test_a_route_is_for_the_role_of_the_table_and_those_above(api: Api, route: Route) -> None:
    method, path = route
    needed = TABLE[route][0]
    held = await tokens(api.operations)
    shown = example_path(path, OPERATIONS[route])
    [(media_type, body), *_] = example_bodies(OPERATIONS[route])
    for role in RANK:
        status, told, _ = await sent(api, method, shown, media_type, body, held[role])
        if role is None:
            assert status == 401
        elif RANK.index(role) < RANK.index(needed):
            assert (status, f"needs {needed}" in told["detail"]) == (403, True)
        else:
            # Of what is done once, such as a DELETE, who comes second hears that it is gone.
            assert status not in (401, 403), told


def is_stream(operation: Mapping[str, Any]) -> bool:
    """Whether it answers with Server-Sent Events, of which there is no model and no example: they do not end."""
    done = operation["responses"].get("200", {})
    return list(done.get("content", {})) == ["text/event-stream"]


def test_events_are_a_stream_and_calls_are_not() -> None:
    assert [route for route in ROUTES if is_stream(OPERATIONS[route])] == [("GET", "/v1/events")]


# --- the description -----------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
def test_a_route_is_described_in_full(route: Route) -> None:
    operation, (_, status) = OPERATIONS[route], TABLE[route]
    assert operation["summary"][0].isupper()
    assert operation["security"] == [{"HTTPBearer": []}]
    answers = operation["responses"]
    assert {"401", "403", "404", "409", "413", "422", "503"} <= set(answers)
    done = answers[str(status)]
    if status != 204 and not is_stream(operation):
        assert all(each["schema"] for each in done["content"].values()), "no model of the answer"
    errors = {code: each for code, each in answers.items() if int(code) >= 400}
    assert all(list(each["content"]) == ["application/problem+json"] for each in errors.values())


def request_schemas() -> list[str]:
    bodies = [operation.get("requestBody", {"content": {}})["content"] for operation in OPERATIONS.values()]
    named = (content["application/json"]["schema"] for content in bodies if "application/json" in content)
    return sorted({schema["$ref"].rpartition("/")[2] for schema in named})


@pytest.mark.parametrize("name", request_schemas())
def test_a_body_takes_no_field_that_is_not_known_and_has_an_example(name: str) -> None:
    schema = SCHEMAS[name]
    assert schema["additionalProperties"] is False
    assert schema["description"]
    assert schema.get("examples") or all(
        "examples" in schema["properties"][each] for each in schema["required"]
    )


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
async def test_the_examples_of_a_route_are_asked_and_answered_as_described(api: Api, route: Route) -> None:
    """After a change of what is answered: `python -m tests.api_examples`."""
    status = TABLE[route][1]
    found = await answers(api, route)
    for code, told, headers in found:
        assert code == status, told
        assert ("Location" in headers) == (status == 201 or route == ("POST", "/v1/replays"))
        if status == 201:
            where = headers["Location"]
            # Tokens are listed, and not shown one by one.
            shown = "/v1/tokens" if where.startswith("/v1/tokens/") else where
            assert (await api.ask("GET", shown))[0] == 200
    content = OPERATIONS[route]["responses"][str(status)].get("content", {})
    json_alone = [content[each]["example"] for each in content if each == "application/json"]
    assert json_alone == [found[0][1] for _ in json_alone]
    assert json_alone or not content or is_stream(OPERATIONS[route]) or list(content) == ["text/html"]


# --- what is answered -------------------------------------------------------------------------------


def as_json(value: Any) -> Any:
    """As a client reads it: a list is a list."""
    return json.loads(json.dumps(value))


LOOKS = {
    "/v1/accounts/acme": "account_show",
    "/v1/lines/alice": "line_show",
    "/v1/cases/1": "case_show",
    "/v1/policies/redconnect/versions/2026-11": "policy_show",
}


@pytest.mark.parametrize("path", sorted(LOOKS))
async def test_an_answer_has_all_that_the_operation_tells(api: Api, path: str) -> None:
    """A model that lacks a key would leave it out without a word."""
    given = {"account": "acme", "line": "alice", "case": 1, "policy": "redconnect"}
    name = LOOKS[path]
    wanted = next(key for key in given if name.startswith(key))
    found = await api.operations.call(name, {wanted: given[wanted]})
    assert (await api.ask("GET", path))[1] == as_json(found)


@pytest.mark.parametrize(
    ("path", "name", "arguments"),
    [
        ("/v1/decisions", "decisions", {}),
        ("/v1/cases", "case_list", {}),
        ("/v1/accounts", "account_list", {}),
        ("/v1/lines", "line_list", {}),
        ("/v1/numbers", "number_list", {}),
    ],
)
async def test_a_page_has_all_that_the_operation_tells(
    api: Api, path: str, name: str, arguments: dict[str, Any]
) -> None:
    found = await api.operations.call(name, arguments)
    assert found
    assert (await api.ask("GET", path))[1] == {"items": as_json(found), "next": None}
    for query in ("?limit=0", "?limit=1001", "?limit=x"):
        assert (await api.problem("GET", path + query))[0] == 422


# --- what there is ------------------------------------------------------------------------------------


WITHOUT_A_ROUTE = {"ready"}
"""`/readyz` asks that, without a token."""


async def test_each_operation_has_a_route(operations: Operations) -> None:
    """What the command line can ask a running FairDial for, a billing system can."""
    modules = (PROJECT / "fairdial" / "console").glob("api_*.py")
    asked = {name for file in modules for name in re.findall(r'"([a-z_]+)"', file.read_text())}
    assert set(operations._by_name) - asked == WITHOUT_A_ROUTE
