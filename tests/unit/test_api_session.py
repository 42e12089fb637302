"""Browsers: let in by a token, known by a cookie, held to its page's own word for each change, and let in no more."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from fairdial.console import api_events
from fairdial.console.access import FAILED_PER_S_MAX, Gate
from fairdial.console.api import HttpServer, create_app
from fairdial.console.browser import IDLE_MS, LASTS_MS, OF_ONE_TOKEN_MAX, SESSIONS_MAX, Sessions
from fairdial.console.callers import COOKIE
from fairdial.console.operations import CallRow, Operations
from fairdial.desk import Desk
from tests.samples import SetClock
from tests.unit.test_readiness import desk as desk
from tests.unit.test_readiness import path as path

CALL = CallRow("call-1", "alice", "outbound", "02079460100", "talking", 60, 3, 57)
SUSPEND = {"standing": "suspended"}
STANDING = "/v1/accounts/acme/standing"


@dataclass
class Answer:
    status: int
    body: Any
    headers: Mapping[str, str]
    cookie: str


class Browser:
    """Keeps its cookie, as a browser does, and sends what it is told."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self.cookie = ""
        self.csrf = ""

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookie:
            sent["Cookie"] = f"{COOKIE}={self.cookie}"
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.request(method, self._url + path, json=body, headers=sent) as answer,
        ):
            told = await answer.json(content_type=None) if await answer.read() else None
            return Answer(answer.status, told, answer.headers, answer.headers.get("Set-Cookie", ""))

    async def log_in(self, token: str, **headers: str) -> Answer:
        answer = await self.ask("POST", "/session", {"token": token}, **headers)
        if answer.status == 200:
            self.cookie = answer.cookie.partition(";")[0].partition("=")[2]
            self.csrf = answer.body["csrf"]
        return answer


@dataclass
class Served:
    operations: Operations
    clock: SetClock
    port: int
    token: str

    def browser(self) -> Browser:
        return Browser(self.port)


@pytest.fixture
async def served(desk: Desk) -> AsyncIterator[Served]:
    clock = SetClock()
    operations = Operations(desk, calls=lambda: [CALL])
    server = HttpServer(create_app(operations, Gate(desk.ledger, clock)), "127.0.0.1", 0)
    token = (await operations.call("token_add", {"name": "ann", "role": "operator"}))["token"]
    await server.start()
    yield Served(operations, clock, server.port, token)
    await server.stop()


@pytest.fixture
async def browser(served: Served) -> Browser:
    """One that is logged in."""
    browser = served.browser()
    assert (await browser.log_in(served.token)).status == 200
    return browser


# --- in and out ----------------------------------------------------------------------------------------


async def test_a_token_is_shown_once_and_a_cookie_lets_in_from_then_on(served: Served) -> None:
    browser = served.browser()
    assert (await browser.ask("GET", "/session")).status == 401
    assert (await browser.ask("GET", "/v1/calls")).status == 401
    answer = await browser.log_in(served.token)
    who: dict[str, Any] = {
        "name": "ann",
        "role": "operator",
        "account": None,
        "accounts": [],
        "csrf": browser.csrf,
    }
    assert (answer.status, answer.body) == (200, who)
    assert served.token not in answer.cookie
    assert {each.strip() for each in answer.cookie.split(";")[1:]} == {
        "HttpOnly",
        "SameSite=strict",
        "Path=/",
        f"Max-Age={LASTS_MS // 1000}",
    }
    again = await browser.ask("GET", "/session")
    assert (again.status, again.body) == (200, who)
    assert (await browser.ask("GET", "/v1/calls")).status == 200


@pytest.mark.parametrize(("scheme", "secure"), [("https", True), ("http", False)])
async def test_behind_a_proxy_with_tls_the_cookie_is_for_tls_alone(
    served: Served, scheme: str, secure: bool
) -> None:
    answer = await served.browser().log_in(served.token, X_Forwarded_Proto=scheme)
    assert ("Secure" in answer.cookie) is secure


async def test_a_wrong_token_is_refused_and_who_guesses_is_to_wait(served: Served) -> None:
    answers = [await served.browser().log_in(f"fairdial_{n}") for n in range(FAILED_PER_S_MAX + 1)]
    assert [each.status for each in answers] == [401] * FAILED_PER_S_MAX + [429]
    assert answers[-1].headers["Retry-After"] == "1"
    assert all(
        each.cookie == "" and each.headers["Content-Type"].endswith("problem+json") for each in answers
    )
    # Bearer tokens are counted in the same place; the right one still lets in.
    assert (await served.browser().ask("GET", "/v1/calls", Authorization="Bearer wrong")).status == 429
    assert (await served.browser().log_in(served.token)).status == 200


async def test_who_logs_out_is_out_and_others_are_not(served: Served, browser: Browser) -> None:
    other = served.browser()
    await other.log_in(served.token)
    answer = await browser.ask("DELETE", "/session")
    assert (answer.status, "Max-Age=0" in answer.cookie) == (204, True)
    assert (await browser.ask("GET", "/v1/calls")).status == 401
    assert (await other.ask("GET", "/v1/calls")).status == 200


async def test_a_token_that_is_removed_ends_its_sessions_at_once(served: Served, browser: Browser) -> None:
    await served.operations.call("token_remove", {"name": "ann"})
    assert (await browser.ask("GET", "/session")).status == 401
    # Even where one of that name is there again.
    await served.operations.call("token_add", {"name": "ann", "role": "operator"})
    assert (await browser.ask("GET", "/v1/calls")).status == 401


async def test_a_session_that_nobody_uses_ends_and_one_in_use_lasts_its_time(
    served: Served, browser: Browser
) -> None:
    idle = served.browser()
    await idle.log_in(served.token)
    for _ in range(LASTS_MS // IDLE_MS):
        served.clock.forward(IDLE_MS - 1)
        assert (await browser.ask("GET", "/session")).status == 200
    assert (await idle.ask("GET", "/session")).status == 401
    served.clock.forward(LASTS_MS // IDLE_MS)
    assert (await browser.ask("GET", "/session")).status == 401


async def test_who_reads_a_stream_is_not_idle(
    served: Served, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_events, "HEARTBEAT_S", 0.02)
    url, headers = f"http://127.0.0.1:{served.port}/v1/events", {"Cookie": f"{COOKIE}={browser.cookie}"}
    async with (
        asyncio.timeout(5),
        aiohttp.ClientSession(headers=headers) as session,
        session.get(url) as stream,
    ):
        for _ in range(2):
            served.clock.forward(IDLE_MS - 1)
            # Two pieces, so that the later one was looked for after the clock was set.
            for _ in range(2):
                await stream.content.readuntil(b"nothing happened")
    assert (await browser.ask("GET", "/session")).status == 200


def test_sessions_are_so_many_and_those_used_the_longest_ago_go() -> None:
    sessions = Sessions()
    first, second = (sessions.begin("ann", 0)[0] for _ in range(2))
    assert sessions.find(first, 1) is not None
    for n in range(OF_ONE_TOKEN_MAX - 1):
        sessions.begin("ann", 2 + n)
    # One token has its own bound: `second` was used less lately than `first`.
    assert (len(sessions), sessions.find(second, 50)) == (OF_ONE_TOKEN_MAX, None)
    assert sessions.find(first, 50) is not None
    for n in range(SESSIONS_MAX):
        sessions.begin(f"token {n}", 100)
    assert len(sessions) == SESSIONS_MAX
    assert sessions.find(first, 100) is None


# --- changes -------------------------------------------------------------------------------------------


async def test_a_change_needs_the_word_of_the_page_and_has_an_author(
    served: Served, browser: Browser
) -> None:
    for headers in ({}, {"X_CSRF_Token": "guess"}, {"X_CSRF_Token": ""}):
        refused = await browser.ask("PUT", STANDING, SUSPEND, **headers)
        assert (refused.status, "X-CSRF-Token" in refused.body["detail"]) == (403, True)
    other = served.browser()
    await other.log_in(served.token)
    assert (await browser.ask("PUT", STANDING, SUSPEND, X_CSRF_Token=other.csrf)).status == 403
    assert (await served.operations.call("account_show", {"account": "acme"}))["standing"] == "active"
    done = await browser.ask("PUT", STANDING, SUSPEND, X_CSRF_Token=browser.csrf)
    assert (done.status, done.body["standing"]) == (200, "suspended")
    flag = {"account": "acme", "note": "resells"}
    case = await browser.ask("POST", "/v1/cases", flag, X_CSRF_Token=browser.csrf)
    shown = await browser.ask("GET", f"/v1/cases/{case.body['case']}")
    assert {entry["by"] for entry in shown.body["entries"]} >= {"ann"}


async def test_what_another_site_has_a_browser_send_is_refused(served: Served, browser: Browser) -> None:
    for site in ("cross-site", "same-site", "none"):
        headers = {"X_CSRF_Token": browser.csrf, "Sec_Fetch_Site": site}
        assert (await browser.ask("PUT", STANDING, SUSPEND, **headers)).status == 403
        assert (await served.browser().log_in(served.token, Sec_Fetch_Site=site)).status == 403
        assert (await browser.ask("DELETE", "/session", Sec_Fetch_Site=site)).status == 403
    own = {"X_CSRF_Token": browser.csrf, "Sec_Fetch_Site": "same-origin"}
    assert (await browser.ask("PUT", STANDING, SUSPEND, **own)).status == 200


async def test_a_bearer_token_needs_no_word_and_goes_before_a_cookie(
    served: Served, browser: Browser
) -> None:
    bearer = {"Authorization": f"Bearer {served.token}"}
    assert (await browser.ask("PUT", STANDING, SUSPEND, **bearer)).status == 200
    assert (await browser.ask("GET", "/v1/calls", Authorization="Bearer wrong")).status == 401


async def test_a_role_is_the_same_by_cookie(served: Served) -> None:
    token = (await served.operations.call("token_add", {"name": "eve", "role": "viewer"}))["token"]
    browser = served.browser()
    await browser.log_in(token)
    refused = await browser.ask("PUT", STANDING, SUSPEND, X_CSRF_Token=browser.csrf)
    assert (refused.status, "needs operator" in refused.body["detail"]) == (403, True)


# --- the event stream ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["logged out", "token removed", "over"])
async def test_a_stream_ends_with_its_session(
    served: Served, browser: Browser, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_events, "HEARTBEAT_S", 0.02)
    url, headers = f"http://127.0.0.1:{served.port}/v1/events", {"Cookie": f"{COOKIE}={browser.cookie}"}
    async with (
        asyncio.timeout(5),
        aiohttp.ClientSession(headers=headers) as session,
        session.get(url) as stream,
    ):
        assert (await stream.content.readuntil(b"\n\n")).startswith(b"retry: ")
        # It goes on: by itself it would not end.
        assert b"nothing happened" in await stream.content.readuntil(b"\n\n")
        if how == "logged out":
            await browser.ask("DELETE", "/session")
        elif how == "token removed":
            await served.operations.call("token_remove", {"name": "ann"})
        else:
            served.clock.forward(LASTS_MS)
        await stream.content.read()
