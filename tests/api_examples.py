"""The examples of the HTTP API: each request of the description, asked, and what it answers.

`python -m tests.api_examples` writes fairdial/console/answers.json, the examples of answers in `/openapi.json`, from a
FairDial without a switch on which all is there that the requests speak of, at a moment that stands still.
"""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from fairdial.clock import SystemClock
from fairdial.console.access import Gate
from fairdial.console.api import HttpServer, create_app
from fairdial.console.http import ANSWERS, describe
from fairdial.console.operations import CallRow, Operations
from fairdial.console.replays import Replays, Runner
from fairdial.desk import Asked, Desk, DeskRules
from fairdial.ledger.notice import Channel, NoticeRules
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.loading import load_policies
from fairdial.policy.account import Kind
from fairdial.policy.periods import Period
from fairdial.policy.requests import Asked as Wish
from fairdial.policy.requests import PlanTerms, RequestKind
from fairdial.policy.terms import Clause
from fairdial.reload import Reloaded
from tests.samples import NOON_MS, SetClock
from tests.unit.test_api import Api, Switch
from tests.unit.test_desk import NUMBERING

PROJECT = Path(__file__).parents[1]
FILE = PROJECT / "fairdial" / "console" / ANSWERS
CALL = "1795262400.17"
Route = tuple[str, str]


REPLAYS = Runner(
    ("/bin/sh", "-c", 'echo "{\\"policy\\": \\"kryptotel 2026-11\\"}"; echo "<p>It</p>" > report.html')
)
"""Stands in for the process of a replay, which takes seconds."""


def open_operations(desk: Desk, switch: Switch, replays: Replays) -> Operations:
    """Operations on a stand-in for the switch, on which one call is up."""
    row = CallRow(CALL, "alice", "outbound", "02079460123", "talking", 60, 3, 57, "acme")

    async def hang_up(call: str) -> bool:
        return call == CALL

    async def reload() -> dict[str, Any]:
        return asdict(
            Reloaded(["redconnect 2027-01"], [], ["europe"], False, False, ["logs.level"], ["ari.url"])
        )

    return Operations(
        desk,
        reload=reload,
        calls=lambda: [row],
        hang_up=hang_up,
        callback=switch.callback,
        rooms=switch,
        status=lambda: {"ari": True},
        replays=replays,
    )


async def _replayed(operations: Operations, replays: Replays) -> None:
    """A replay that is over."""
    async with replays.receive("kryptotel", None) as upload:
        given = {"replay": upload.replay, "rows": 1, "by": "ann", "policy": "kryptotel"}
        await operations.call("replay_start", given)
    task = replays._kept[upload.replay].task
    assert task is not None
    await task


@asynccontextmanager
async def prepared(folder: Path) -> AsyncIterator[Operations]:
    """On the shipped policies, with all that the examples speak of: acme with its line alice, and more."""
    ledger = await SqliteLedger.open(folder / "ledger.sqlite")
    desk = Desk(ledger, load_policies(PROJECT / "policies"), NUMBERING, SetClock(), DeskRules())
    await ledger.set_notice_rules(NoticeRules(channels=frozenset({Channel.WEBHOOK})))
    replays = Replays(folder / "replays", REPLAYS, lambda: desk.policies, desk.now_ms)
    made = open_operations(desk, Switch(), replays)
    for name, given in (
        (
            "account_add",
            {"account": "acme", "policy": "voxdirect", "zone": "Europe/London", "countries": ["GB"]},
        ),
        ("line_add", {"line": "alice", "account": "acme"}),
        ("number_add", {"number": "+442079460000", "account": "acme", "line": "alice"}),
        ("agreement_add", {"account": "acme", "consent": "surcharge", "agreed_by": "Ann Lee"}),
        ("account_restrict", {"account": "acme", "services": ["conference"]}),
        ("account_standing", {"account": "acme", "standing": "suspended"}),
        ("account_standing", {"account": "acme", "standing": "active"}),
        ("case_flag", {"account": "acme", "note": "sells minutes", "by": "ann"}),
        ("block_add", {"source": "192.0.2.1", "seconds": 600, "why": "by hand"}),
        ("token_add", {"name": "portal", "role": "viewer"}),
    ):
        await made.call(name, given)
    await ledger.not_delivered(1, Channel.WEBHOOK, NOON_MS, "the receiver answered 422", None)
    await _asked_for(ledger, made)
    await ledger.take_switch("west", "one", "west.example:4711", -1, NOON_MS)
    await desk.authorise(Asked(CALL, Kind.OUTBOUND, "02079460123", "alice", "PJSIP/alice-1", 60))
    await _replayed(made, replays)
    yield made
    await replays.close()
    await desk.close()
    await ledger.close()


async def _asked_for(ledger: SqliteLedger, operations: Operations) -> None:
    """Request 1 is open, 2 approved, 3 a minute plan that was proposed."""
    clause, voice = Clause("voxdirect", "2026-11", "V9"), "allowances.voice"
    for limit, why in ((2_000_000, "a fair in May"), (1_900_000, "a fair in April")):
        given = {"account": "acme", "rule": voice, "limit": limit, "why": why, "by": "Ann Lee"}
        await operations.call("request_add", given)
    await operations.call("request_approve", {"request": 2, "by": "kim", "note": "a good customer"})
    terms = PlanTerms("600 minutes", 20_000_000, "USD", Period.MONTH)
    words = "three months of charged use in a row"
    plan = ("acme", RequestKind.PLAN, "voxdirect", voice, clause, words, "fairdial", NOON_MS)
    await ledger.ask(Wish(*plan, more=36_000, plan=terms))


@asynccontextmanager
async def served(operations: Operations) -> AsyncIterator[Api]:
    """A server of them; unless another token is given, an admin asks."""
    ledger = operations._ledger
    server = HttpServer(create_app(operations, Gate(ledger, SystemClock())), "127.0.0.1", 0)
    held = [
        (await operations.call("token_add", {"name": f"the {role}", "role": role}))["token"]
        for role in ("viewer", "admin")
    ]
    await server.start()
    yield Api(server, operations, Switch(), ledger, *held)
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


def example_headers(operation: Mapping[str, Any]) -> dict[str, str]:
    """The headers that a route cannot do without."""
    return {
        each["name"]: str(each["schema"]["examples"][0])
        for each in operation.get("parameters", [])
        if each["in"] == "header" and each.get("required")
    }


async def sent(
    api: Api,
    method: str,
    path: str,
    media_type: str,
    body: Any,
    token: str | None = "",
    headers: Mapping[str, str] | None = None,
) -> tuple[int, Any, Mapping[str, str]]:
    """Status, body and headers of the answer to a request with a body of that type, "" for none."""
    if media_type in ("", "application/json"):
        return await api.ask(method, path, body, token=token, headers=headers)
    headers = {**(headers or {}), "Content-Type": media_type}
    return await api.ask(method, path, token=token, data=body.encode(), headers=headers)


async def answers(api: Api, route: Route) -> list[tuple[int, Any, Mapping[str, str]]]:
    """What the examples of a route are answered; a secret is no example."""
    method, path = route
    operation = OPERATIONS[route]
    found = []
    for media_type, body in example_bodies(operation):
        where, sends = example_path(path, operation), example_headers(operation)
        status, told, headers = await sent(api, method, where, media_type, body, headers=sends)
        if isinstance(told, dict) and "token" in told:
            told = {**told, "token": "fairdial_and-43-characters"}
        if path == "/v1/nodes":
            # By the store's own clock.
            told = [{**node, "until_ms": NOON_MS, "skew_ms": 0} for node in told]
        found.append((status, told, headers))
    return found


async def _write() -> None:
    found = {}
    for route in sorted(OPERATIONS):
        with tempfile.TemporaryDirectory() as folder:
            async with prepared(Path(folder)) as operations, served(operations) as api:
                [(_, told, _), *_] = await answers(api, route)
        if isinstance(told, dict | list):
            found[" ".join(route)] = told
    FILE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    asyncio.run(_write())
