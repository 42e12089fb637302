"""Every route of the HTTP API: in the table of docs/api.md, for whom it is, described in full, its examples work."""

import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from fairdial.clock import SystemClock
from fairdial.console.access import Gate
from fairdial.console.api import HttpServer, create_app
from fairdial.console.http import describe
from fairdial.console.operations import CallRow, Operations
from fairdial.desk import Asked, Desk, DeskRules
from fairdial.ledger.contract import Role
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.main import load_policies
from fairdial.policy.account import Kind
from tests.unit.test_api import Api, Switch
from tests.unit.test_desk import NUMBERING

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs" / "api.md").read_text()

CALL = "1795262400.17"
ROW = re.compile(r"^\| `([A-Z]+) (/v1/\S+)` \| (\w+) \| (\d{3}): .*\|$", re.MULTILINE)
Route = tuple[str, str]


def table() -> dict[Route, tuple[Role, int]]:
    """What docs/api.md says of each route: the role that it needs, and what it answers."""
    return {(method, path): (Role(role), int(status)) for method, path, role, status in ROW.findall(PAGE)}


TABLE = table()
RANK = [None, Role.VIEWER, Role.OPERATOR, Role.ADMIN]


def open_operations(desk: Desk, switch: Switch) -> Operations:
    """Operations on a stand-in for the switch, on which one call is up."""
    row = CallRow(CALL, "alice", "outbound", "02079460123", "talking", 60, 3, 57)

    async def hang_up(call: str) -> bool:
        return call == CALL

    return Operations(
        desk,
        calls=lambda: [row],
        hang_up=hang_up,
        callback=switch.callback,
        rooms=switch,
        status=lambda: {"ari": True},
    )


@pytest.fixture
async def operations(tmp_path: Path) -> AsyncIterator[Operations]:
    """On the shipped policies, with all that the examples speak of: acme with its line alice, and more."""
    ledger = await SqliteLedger.open(tmp_path / "ledger.sqlite")
    desk = Desk(ledger, load_policies(PROJECT / "policies"), NUMBERING, SystemClock(), DeskRules())
    made = open_operations(desk, Switch())
    for name, given in (
        (
            "account_add",
            {"account": "acme", "policy": "voxdirect", "zone": "Europe/London", "countries": ["GB"]},
        ),
        ("line_add", {"line": "alice", "account": "acme"}),
        ("number_add", {"number": "+442079460000", "account": "acme", "line": "alice"}),
        ("agreement_add", {"account": "acme", "consent": "surcharge", "agreed_by": "Ann Lee"}),
        ("account_restrict", {"account": "acme", "services": ["conference"]}),
        ("case_flag", {"account": "acme", "note": "sells minutes", "by": "ann"}),
        ("block_add", {"source": "192.0.2.1", "seconds": 600, "why": "by hand"}),
        ("token_add", {"name": "portal", "role": "viewer"}),
    ):
        await made.call(name, given)
    await desk.authorise(Asked(CALL, Kind.OUTBOUND, "02079460123", "alice", "PJSIP/alice-1", 60))
    yield made
    await desk.close()
    await ledger.close()


@pytest.fixture
async def api(operations: Operations) -> AsyncIterator[Api]:
    ledger = operations._ledger
    server = HttpServer(create_app(operations, Gate(ledger, SystemClock())), "127.0.0.1", 0)
    held = [
        (await operations.call("token_add", {"name": f"the {role}", "role": role}))["token"]
        for role in ("viewer", "admin")
    ]
    await server.start()
    yield Api(server, operations, Switch(), *held)
    await server.stop()


def described() -> Mapping[str, Any]:
    """The description of the API, with nothing behind it."""
    app = create_app(Operations.__new__(Operations), None)  # type: ignore[arg-type]
    return describe(app)


def operations_of(told: Mapping[str, Any]) -> Iterator[tuple[Route, Mapping[str, Any]]]:
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            if path.startswith("/v1/"):
                yield (method.upper(), path), operation


DESCRIBED = described()
OPERATIONS = dict(operations_of(DESCRIBED))
ROUTES = sorted(OPERATIONS)
SCHEMAS: Mapping[str, Mapping[str, Any]] = DESCRIBED["components"]["schemas"]


def example_path(path: str, operation: Mapping[str, Any]) -> str:
    """The route with the examples of its parameters in their places; of a query only what is required."""
    query = {}
    for parameter in operation.get("parameters", []):
        name, examples = parameter["name"], parameter["schema"].get("examples")
        if parameter["in"] == "path":
            assert examples, f"{path}: {name} has no example"
            path = path.replace(f"{{{name}}}", quote(str(examples[0]), safe="+"))
        elif parameter["in"] == "query" and parameter.get("required"):
            assert examples, f"{path}: {name} has no example"
            query[name] = str(examples[0])
    return f"{path}?{urlencode(query)}" if query else path


def example_bodies(operation: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """An example body for each media type that is taken; one that is empty where none is."""
    if "requestBody" not in operation:
        return [("", None)]
    found = []
    for media_type, content in operation["requestBody"]["content"].items():
        if media_type != "application/json":
            found.append((media_type, content["example"]))
            continue
        schema = SCHEMAS[content["schema"]["$ref"].rpartition("/")[2]]
        properties = schema["properties"].items()
        in_parts = {name: each["examples"][0] for name, each in properties if "examples" in each}
        found.append((media_type, schema.get("examples", [in_parts])[0]))
    return found


# --- the table ---------------------------------------------------------------------------------------


def test_the_table_has_every_route_and_no_other() -> None:
    assert sorted(TABLE) == ROUTES
    assert len(ROW.findall(PAGE)) == len(TABLE)


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
        status, told = await sent(api, method, shown, media_type, body, held[role])
        if role is None:
            assert status == 401
        elif RANK.index(role) < RANK.index(needed):
            assert (status, f"needs {needed}" in told["detail"]) == (403, True)
        else:
            # Of what is done once, such as a DELETE, who comes second hears that it is gone.
            assert status not in (401, 403), told


async def sent(
    api: Api, method: str, path: str, media_type: str, body: Any, token: str | None
) -> tuple[int, Any]:
    if media_type in ("", "application/json"):
        status, told, _ = await api.ask(method, path, body, token=token)
    else:
        headers = {"Content-Type": media_type}
        status, told, _ = await api.ask(method, path, token=token, data=body.encode(), headers=headers)
    return status, told


# --- the description -----------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
def test_a_route_is_described_in_full(route: Route) -> None:
    operation, (_, status) = OPERATIONS[route], TABLE[route]
    assert operation["summary"][0].isupper()
    assert operation["security"] == [{"HTTPBearer": []}]
    answers = operation["responses"]
    assert {"401", "403", "404", "409", "413", "422", "503"} <= set(answers)
    done = answers[str(status)]
    if status != 204:
        assert done["content"]["application/json"]["schema"], "no model of the answer"
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
async def test_the_examples_of_a_route_work(api: Api, route: Route) -> None:
    method, path = route
    admin = (await tokens(api.operations))[Role.ADMIN]
    for media_type, body in example_bodies(OPERATIONS[route]):
        headers = {"Content-Type": media_type} if media_type not in ("", "application/json") else {}
        raw = {"data": body.encode()} if headers else {"body": body}
        status, told, answered = await api.ask(
            method, example_path(path, OPERATIONS[route]), token=admin, headers=headers, **raw
        )
        assert status == TABLE[route][1], told
        assert ("Location" in answered) == (status == 201)
        if status == 201:
            where = answered["Location"]
            # Tokens are listed, and not shown one by one.
            found = "/v1/tokens" if where.startswith("/v1/tokens/") else where
            assert (await api.ask("GET", found, token=admin))[0] == 200


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
