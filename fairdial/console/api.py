"""FairDial over HTTP: the server, whether FairDial lives, whether it is ready, and what it counts. `/v1` is that of
modules `api_*.py`.

`/healthz` answers where the process lives and its event loop runs: restart it where that is missing. `/readyz` says
whether calls can be decided, and what is wrong: do not restart for it, the cure stands in the answer.
Served by uvicorn inside FairDial's own loop; signals stay with the composition root.
"""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Iterator
from importlib.metadata import version

import uvicorn
from fastapi import FastAPI, Response, status
from fastapi.responses import JSONResponse

from fairdial.console import (
    api_access,
    api_accounts,
    api_calls,
    api_cases,
    api_decisions,
    api_events,
    api_files,
    api_lines,
    api_messages,
    api_nodes,
    api_notices,
    api_policies,
    api_replays,
    api_requests,
    api_session,
    api_statements,
    http,
)
from fairdial.console.access import Gate
from fairdial.console.bodies import Bounded, Protocol
from fairdial.console.metrics import CONTENT_TYPE, Metrics
from fairdial.console.once import Once
from fairdial.console.operations import Operations
from fairdial.console.page_files import serve_files

PEERS_MAX = 64
"""Connections at once; more are answered 503."""

STOP_WITHIN_S = 0.5
"""For answers that are under way when FairDial stops."""


ROUTES = (
    api_accounts.routes,
    api_lines.routes,
    api_policies.routes,
    api_files.routes,
    api_calls.routes,
    api_events.routes,
    api_decisions.routes,
    api_cases.routes,
    api_messages.routes,
    api_notices.routes,
    api_statements.routes,
    api_requests.routes,
    api_replays.routes,
    api_nodes.routes,
    api_access.routes,
)
"""In the order in which they are described."""


class _Description:
    """`/openapi.json`. Making it takes half a second: once, and not on the loop that answers calls."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._made: asyncio.Future[bytes] | None = None

    async def __call__(self) -> Response:
        """The answer to whoever asks."""
        if self._made is None:
            self._made = asyncio.ensure_future(asyncio.to_thread(self._make))
        # Shielded: who gives up takes it from nobody else.
        return Response(await asyncio.shield(self._made), media_type="application/json")

    def _make(self) -> bytes:
        return json.dumps(http.describe(self._app)).encode()


def create_app(
    operations: Operations, gate: Gate, metrics: Metrics | None = None, *, page: bool = True
) -> FastAPI:
    """The application, on the operations of a running FairDial. metrics: None where they are not wanted; page: whether
    there is the web page, and the sessions of who uses it.
    """
    app = FastAPI(
        title="FairDial", version=version("fairdial"), docs_url=None, redoc_url=None, openapi_url=None
    )
    app.add_middleware(Bounded)
    http.tell_errors(app, gate, operations)
    once = Once()
    for routes in ROUTES:
        app.include_router(routes(operations, once), prefix="/v1", responses=http.ERRORS)

    app.add_api_route("/openapi.json", _Description(app).__call__, include_in_schema=False)

    @app.get("/healthz", summary="Whether the process lives")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", summary="Whether calls can be decided", responses={503: {"description": "Not ready"}})
    async def readyz() -> Response:
        found = await operations.call("ready", {})
        code = status.HTTP_200_OK if found["ready"] else status.HTTP_503_SERVICE_UNAVAILABLE
        return JSONResponse(found, code, headers={"Cache-Control": "no-store"})

    if page:
        app.include_router(api_session.routes())
        serve_files(app)

    if metrics is not None:

        @app.get("/metrics", include_in_schema=False)
        async def told() -> Response:
            return Response(await metrics(), headers={"Content-Type": CONTENT_TYPE})

    return app


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT are FairDial's, not the web server's."""
        yield


class HttpServer:
    """Serves an application at an address until stopped."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        self._address = host, port
        self.port = port
        settings = uvicorn.Config(
            app,
            loop="none",
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=PEERS_MAX,
            timeout_keep_alive=5,
            # A proxy on this machine says over which scheme, and from where, it was asked (X-Forwarded-…).
            forwarded_allow_ips=["127.0.0.1", "::1"],
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(settings)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen. Raises OSError that names the address and the settings."""
        host, port = self._address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, port), family=family)
        except OSError as error:
            told = os.strerror(error.errno) if error.errno else str(error)
            raise OSError(
                error.errno,
                f"{host} port {port}: {told}; set http.host and http.port to a free address of this machine,"
                " or http.enabled to false",
            ) from error
        # Taken over by what is accepted. asyncio sets it only where a socket's protocol is named, which it is not here;
        # without it the second part of each answer waits 40 ms for the first to be acknowledged.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = listener.getsockname()[1]
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="http")

    async def stop(self) -> None:
        """Close the socket and every connection; answers that are under way have STOP_WITHIN_S."""
        if self._task is None:
            return
        self._server.should_exit = True
        _, late = await asyncio.wait({self._task}, timeout=STOP_WITHIN_S)
        if late:
            self._server.force_exit = True
            answering = tuple(self._server.server_state.tasks)
            for each in answering:
                each.cancel()
            await asyncio.gather(*answering, return_exceptions=True)
            await asyncio.wait({self._task}, timeout=STOP_WITHIN_S)
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
