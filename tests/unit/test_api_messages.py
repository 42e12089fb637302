"""Messages of gateways over HTTP: decided, charged, counted once for each key, also after a restart."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fairdial.clock import SystemClock
from fairdial.console.access import Gate
from fairdial.console.api import HttpServer, create_app
from fairdial.console.operations import Operations
from fairdial.desk import Desk, DeskRules
from fairdial.ledger.contract import Ledger, LedgerUnavailable
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.account import Account, Line, Options
from fairdial.policy.book import PolicyBook
from fairdial.policy.texts import fingerprint
from tests.charges import LONDON, NUMBERING, PREMIUM
from tests.contract.test_counting import limited
from tests.shipped import POLICIES
from tests.unit.test_api import Api, Switch

SMS = {"line": "alice", "to": LONDON, "kind": "sms", "text": "Your code is 123456"}
ONE_INCLUDED = limited("voxdirect", "messages", limit=1)


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Api]:
    """A server on the ledger at `path`: acme on voxdirect with one message included, own on acceptable-use."""
    ledger = await SqliteLedger.open(path)
    try:
        for account, policy, line in (("acme", "voxdirect", "alice"), ("own", "acceptable-use", "bob")):
            await ledger.add_account(Account(account, policy, options=Options(frozenset({"GB"}))))
            await ledger.add_line(Line(line, account))
        book = PolicyBook([ONE_INCLUDED, POLICIES["acceptable-use"]])
        desk = Desk(ledger, book, NUMBERING, SystemClock(), DeskRules(answer_within_s=10))
        desk.fingerprint = partial(fingerprint, await ledger.secret("texts", b"a secret"))
        operations = Operations(desk)
        server = HttpServer(create_app(operations, Gate(ledger, SystemClock())), "127.0.0.1", 0)
        tokens = await _tokens(operations, ledger)
        await server.start()
        try:
            yield Api(server, operations, Switch(), desk.ledger, *tokens)
        finally:
            await server.stop()
            await desk.close()
    finally:
        await ledger.close()


async def _tokens(operations: Operations, ledger: Ledger) -> list[str]:
    for each in await ledger.tokens():
        await ledger.remove_token(each.name)
    return [
        (await operations.call("token_add", {"name": role, "role": role}))["token"]
        for role in ("viewer", "operator")
    ]


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(tmp_path / "ledger.sqlite") as api:
        yield api


async def post(api: Api, key: str = "order-1", **other: object) -> tuple[int, Any]:
    status, told, _ = await api.ask(
        "POST", "/v1/messages", {**SMS, **other}, headers={"Idempotency-Key": key}
    )
    return status, told


async def counted(api: Api) -> tuple[int, int]:
    [meter] = (await api.operations.call("usage", {"account": "acme"}))["usage"]
    return meter["used_units"], meter["over_units"]


@pytest.mark.clause("V1", "allowed")
@pytest.mark.clause("V2", "charged")
async def test_a_message_is_included_and_the_next_is_charged(api: Api) -> None:
    status, told = await post(api)
    assert (status, told["decision"], told["reason"], told["clause"]["id"]) == (
        200,
        "allow",
        "within_allowance",
        "V1",
    )
    assert told["charge"] == {"mode": "included", "currency": None, "amount": "0"}
    assert (told["number"], told["sender"], told["repeated"]) == ("+442079460123", None, False)
    _, told = await post(api, "order-2")
    assert (told["decision"], told["reason"], told["clause"]["id"]) == ("allow", "past_allowance", "V2")
    assert told["charge"] == {"mode": "overage", "currency": "USD", "amount": "0.015"}
    assert await counted(api) == (1, 1)


async def test_a_refusal_is_an_answer_and_counts_nothing(api: Api) -> None:
    await post(api)
    status, told = await post(api, "order-2", to=PREMIUM)
    assert (status, told["decision"], told["reason"]) == (200, "refuse", "class_not_covered")
    status, told = await post(api, "order-3", line="nobody")
    assert (status, told["decision"], told["reason"]) == (200, "refuse", "line_unknown")
    assert await counted(api) == (1, 0)


@pytest.mark.clause("A4", "allowed")
@pytest.mark.clause("A4", "refused")
async def test_a_message_shows_a_number_of_its_account(api: Api) -> None:
    await api.operations.call("number_add", {"number": "+442079460000", "account": "own", "line": "bob"})
    for key, shown, reason in (("1", "02079460000", "not_counted"), ("2", "02079460001", "caller_not_own")):
        assert (await post(api, key, line="bob", **{"from": shown}))[1]["reason"] == reason


async def test_a_key_counts_once_also_for_many_at_once_and_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    async with serving(path) as api:
        answers = [told for _, told in await asyncio.gather(*(post(api) for _ in range(10)))]
        assert sorted(told.pop("repeated") for told in answers) == [False] + 9 * [True]
        assert all(told == answers[0] for told in answers)
        assert await counted(api) == (1, 0)
    async with serving(path) as api:
        status, told = await post(api)
        assert (status, told.pop("repeated"), told) == (200, True, answers[0])
        assert await counted(api) == (1, 0)


@pytest.mark.parametrize(
    "other", [{"to": "02079460124"}, {"kind": "mms"}, {"text": "another"}, {"line": "bob"}]
)
async def test_a_key_that_was_used_for_another_message_is_an_error(api: Api, other: dict[str, str]) -> None:
    await post(api)
    status, told = await post(api, **other)
    assert (status, told["title"]) == (422, "The key was used before")
    assert await counted(api) == (1, 0)


async def test_a_key_is_each_clients_own(api: Api) -> None:
    await post(api)
    other = (await api.operations.call("token_add", {"name": "other", "role": "operator"}))["token"]
    _, told, _ = await api.ask(
        "POST", "/v1/messages", SMS, token=other, headers={"Idempotency-Key": "order-1"}
    )
    assert told["repeated"] is False


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, SMS),
        ({"Idempotency-Key": "k" * 101}, SMS),
        ({"Idempotency-Key": "k"}, SMS | {"kind": "pigeon"}),
        ({"Idempotency-Key": "k"}, SMS | {"texts": "a field that is none"}),
        ({"Idempotency-Key": "k"}, {"line": "alice", "to": LONDON}),
        ({"Idempotency-Key": "k"}, SMS | {"text": "x" * 20_001}),
    ],
)
async def test_what_is_malformed_is_told_and_counts_nothing(
    api: Api, headers: dict[str, str], body: dict[str, str]
) -> None:
    status, _ = await api.problem("POST", "/v1/messages", body, headers=headers)
    assert status == 422
    assert (await api.operations.call("usage", {"account": "acme"}))["usage"] == []


async def test_without_the_store_the_same_key_may_be_tried_again(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise LedgerUnavailable("ledger.sqlite: database or disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(SqliteLedger, "authorise", fails)
        status, told = await post(api)
        assert (status, told["status"]) == (503, 503)
    status, told = await post(api)
    assert (status, told["repeated"]) == (200, False)


async def test_the_latest_messages_are_listed_without_what_they_say(api: Api) -> None:
    await post(api)
    await post(api, "order-2", kind="chat", to="102")
    status, told, _ = await api.ask("GET", "/v1/messages?account=acme", token=api.viewer)
    assert status == 200
    assert [(each["kind"], each["to"], each["decision"]) for each in told["items"]] == [
        ("chat", "102", "allow"),
        ("sms", LONDON, "allow"),
    ]
    assert "123456" not in str(told)
    assert (await api.ask("GET", "/v1/messages?account=own"))[1] == {"items": [], "next": None}
    assert len((await api.ask("GET", "/v1/messages?limit=1"))[1]["items"]) == 1
    assert (await api.problem("GET", "/v1/messages?account=nobody"))[0] == 404


async def test_what_a_message_says_is_not_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    async with serving(path) as api:
        await post(api, text="Xylophonmusik")
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"ylophon" not in kept.lower()
