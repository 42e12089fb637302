"""The HTTP API under requests made up from its own description: right ones, and ones with something wrong.

Whatever is sent, the answer is one that the description has, and never a mistake of FairDial's.
"""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from fairdial.clock import SystemClock
from fairdial.console.access import Gate
from fairdial.console.api import HttpServer, create_app
from fairdial.console.operations import Operations
from fairdial.desk import Desk, DeskRules
from fairdial.ledger.sqlite import SqliteLedger
from fairdial.policy.book import PolicyBook
from tests.samples import plan, provision
from tests.unit.test_api import CALL, Switch
from tests.unit.test_desk import NUMBERING

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)


@schemathesis.serializer("application/toml", "text/csv")
def _as_written(_context: object, value: object) -> bytes:
    """A body that is a text is sent as it is."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


class Serving:
    """A FairDial without a switch, in a thread of its own."""

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger
        self._listening = threading.Event()
        self._stop: Any = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self.switch = Switch()
        self.port, self.token = 0, ""

    async def _serve(self) -> None:
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()
        self._stop = lambda: loop.call_soon_threadsafe(stopping.set)
        ledger = await SqliteLedger.open(self._ledger)
        await provision(ledger)
        desk = Desk(ledger, PolicyBook([plan()]), NUMBERING, SystemClock(), DeskRules())
        operations = Operations(
            desk,
            calls=lambda: [CALL],
            hang_up=self.switch.hang_up,
            callback=self.switch.callback,
            rooms=self.switch,
        )
        server = HttpServer(create_app(operations, Gate(ledger, SystemClock())), "127.0.0.1", 0)
        await server.start()
        made = await operations.call("token_add", {"name": "fuzz", "role": "admin"})
        self.port, self.token = server.port, made["token"]
        self._listening.set()
        await stopping.wait()
        await server.stop()
        await desk.close()
        await ledger.close()

    def __enter__(self) -> "Serving":
        self._thread.start()
        assert self._listening.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._thread.join(20)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with Serving(tmp_path_factory.mktemp("api") / "ledger.sqlite") as served:
        yield served


@pytest.mark.timeout(300)  # some 2,400 requests: on a busy machine more than two minutes
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_whatever_is_asked_gets_an_answer_of_the_description(serving: Serving, mode: GenerationMode) -> None:
    described = schemathesis.openapi.from_url(f"http://127.0.0.1:{serving.port}/openapi.json")
    answered = dict[str, set[int]]()
    # The stream of events does not end, and what is not read to its end is no answer; test_api_events.py asks for it.
    asked = described.include(path_regex="^/v1/").exclude(path="/v1/events")
    for found in asked.get_all_operations():
        assert isinstance(found, Ok)
        answered[found.ok().label] = ask(serving, found.ok().as_strategy(generation_mode=mode))
    # Requests that were all refused, or all taken, would show nothing.
    assert mode is not GenerationMode.POSITIVE or len(serving.switch.rung) > 20
    sought = {200, 201, 202, 204} if mode is GenerationMode.POSITIVE else {422}
    assert sum(bool(sought & statuses) for statuses in answered.values()) > len(answered) / 2


def ask(serving: Serving, cases: st.SearchStrategy[Case[Any]]) -> set[int]:
    """Send such requests, and hold each answer against the description; the statuses that there were."""
    statuses = set()

    @given(cases)
    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    def asked(case: Case[Any]) -> None:
        answer = case.call(headers={"Authorization": f"Bearer {serving.token}"})
        case.validate_response(answer, checks=list(CHECKS))
        statuses.add(answer.status_code)

    asked()
    return statuses
