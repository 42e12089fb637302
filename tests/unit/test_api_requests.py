"""Requests over HTTP: what a portal may ask, who decides, and that a key asks once, also after a restart."""

from typing import Any

import pytest

from fairdial.console.once import Once
from tests.unit.test_api import Api
from tests.unit.test_api import api as api
from tests.unit.test_readiness import desk as desk
from tests.unit.test_readiness import path as path

ASKED = {"account": "acme", "rule": "allowances.voice", "limit": 9_000, "why": "a fair", "by": "Ann"}
REASON = {"reason": "a good customer"}


@pytest.fixture
async def admin(api: Api) -> str:
    """A token of an admin."""
    token: str = (await api.operations.call("token_add", {"name": "boss", "role": "admin"}))["token"]
    return token


async def ask(api: Api, **more: Any) -> dict[str, Any]:
    status, told, _ = await api.ask("POST", "/v1/requests", {**ASKED, **more})
    assert status == 201, told
    return dict(told)


async def test_a_portal_asks_and_sees_what_became_of_it(api: Api, admin: str) -> None:
    asked = await ask(api)
    number = asked["request"]
    assert (asked["state"], asked["asked_by"], asked["unit"]) == ("open", "Ann (operator)", "s")
    status, approved, _ = await api.ask("POST", f"/v1/requests/{number}/approve", REASON, token=admin)
    assert (status, approved["state"]) == (200, "approved")
    status, shown, _ = await api.ask("GET", f"/v1/requests/{number}", token=api.viewer)
    assert [(entry["what"], entry["by"]) for entry in shown["entries"]] == [
        ("asked", "Ann (operator)"),
        ("approved", "boss"),
    ]
    status, listed, _ = await api.ask("GET", "/v1/requests?account=acme&state=approved")
    assert [row["request"] for row in listed["items"]] == [number]
    assert (await api.ask("GET", "/v1/requests?state=open"))[1]["items"] == []


@pytest.mark.parametrize("step", ["approve", "decline", "revoke"])
async def test_who_asks_does_not_decide(api: Api, admin: str, step: str) -> None:
    number = (await ask(api))["request"]
    if step == "revoke":
        await api.ask("POST", f"/v1/requests/{number}/approve", REASON, token=admin)
    route = f"/v1/requests/{number}/{step}"
    assert (await api.problem("POST", route, REASON))[0] == 403
    assert (await api.ask("POST", route, REASON, token=admin))[0] == 200


async def test_a_viewer_only_looks(api: Api) -> None:
    assert (await api.problem("POST", "/v1/requests", ASKED, token=api.viewer))[0] == 403
    assert (await api.problem("GET", "/v1/requests", token=None))[0] == 401
    assert (await api.ask("GET", "/v1/requests", token=api.viewer))[1]["items"] == []


async def test_what_nobody_has_answered_is_taken_back(api: Api, admin: str) -> None:
    number = (await ask(api))["request"]
    assert (await api.ask("POST", f"/v1/requests/{number}/withdraw", {}))[1]["state"] == "withdrawn"
    status, detail = await api.problem("POST", f"/v1/requests/{number}/approve", REASON, token=admin)
    assert (status, "cannot be approved" in detail) == (409, True)


async def test_a_limit_is_no_plan_to_be_answered(api: Api) -> None:
    number = (await ask(api))["request"]
    status, detail = await api.problem("POST", f"/v1/requests/{number}/answer", {"accept": True})
    assert (status, "no plan that was proposed" in detail) == (422, True)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({**ASKED, "limit": 0}, 422, "limit"),
        ({**ASKED, "limit": 6_000}, 422, "is 6000 for account 'acme' already"),
        ({**ASKED, "rule": "caps.lines"}, 422, "it has allowances.voice"),
        ({**ASKED, "account": "other"}, 404, "no account 'other'"),
        ({**ASKED, "why": ""}, 422, "why"),
        ({**ASKED, "until": 5}, 422, "until"),
        ({**ASKED, "line": "nobody"}, 422, "has no line 'nobody'"),
    ],
)
async def test_what_cannot_be_asked_is_said(api: Api, body: dict[str, Any], status: int, words: str) -> None:
    told = await api.problem("POST", "/v1/requests", body)
    assert (told[0], words in told[1]) == (status, True)
    assert (await api.ask("GET", "/v1/requests"))[1]["items"] == []


async def test_an_unknown_request_is_not_there(api: Api) -> None:
    assert (await api.problem("GET", "/v1/requests/7"))[0] == 404
    assert (await api.problem("POST", "/v1/requests/7/withdraw", {}))[0] == 404


async def test_a_key_asks_once_also_after_a_restart(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    key = {"Idempotency-Key": "order-1"}

    async def forgetful(_self: Once, _who: str, _key: object, _asked: object, work: Any) -> Any:
        return await work()

    first = (await api.ask("POST", "/v1/requests", ASKED, headers=key))[1]["request"]
    assert (await api.ask("POST", "/v1/requests", ASKED, headers=key))[1]["request"] == first
    # What a restart forgets, the ledger knows.
    monkeypatch.setattr(Once, "do_for", forgetful)
    assert (await api.ask("POST", "/v1/requests", ASKED, headers=key))[1]["request"] == first
    status, detail = await api.problem("POST", "/v1/requests", {**ASKED, "limit": 9_001}, headers=key)
    assert (status, "was used for another request" in detail) == (409, True)
    assert (await ask(api))["request"] != first
