"""A receiver of webhooks, as an operator would write one: checks the signature, keeps what came, fails on request."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

from testbed.ports import LOOPBACK, free_ports

SECRET = "a secret of the receiver"
Mode = Literal["take", "fail", "refuse", "hang"]


@dataclass(frozen=True)
class Received:
    """One request: the notice in it, and how it was answered."""

    notice: dict[str, Any]
    mode: Mode


@dataclass
class Receiver:
    """url: where it listens. mode: what becomes of a request: taken (204), failed (500), refused (422), or never
    answered. mode_of: for a notice by itself.
    """

    url: str
    mode: Mode = "take"
    mode_of: Callable[[dict[str, Any]], Mode | None] = lambda _notice: None
    seen: list[Received] = field(default_factory=list)
    forged: int = 0
    _came: asyncio.Event = field(default_factory=asyncio.Event)
    _hung: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    @asynccontextmanager
    async def start(cls, port: int | None = None) -> AsyncIterator[Receiver]:
        """Listen while the block runs."""
        [given] = free_ports(1) if port is None else [port]
        receiver = cls(f"http://{LOOPBACK}:{given}/notices")
        application = web.Application()
        application.router.add_post("/notices", receiver._post)
        runner = web.AppRunner(application, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, LOOPBACK, given).start()
        try:
            yield receiver
        finally:
            receiver._hung.set()
            await runner.cleanup()

    @property
    def taken(self) -> list[dict[str, Any]]:
        """The notices that were taken, in order; one that came twice stands twice."""
        return [each.notice for each in self.seen if each.mode == "take"]

    async def until(self, true: Callable[[], bool], within_s: float = 20.0) -> None:
        """Wait until `true` is, looked at after each request. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while not true():
                self._came.clear()
                await self._came.wait()

    async def _post(self, request: web.Request) -> web.Response:
        body = await request.read()
        if not is_signed(SECRET, request.headers.get("FairDial-Signature", ""), body):
            self.forged += 1
            return web.Response(status=403)
        notice = json.loads(body)
        mode = self.mode_of(notice) or self.mode
        self.seen.append(Received(notice, mode))
        self._came.set()
        if mode == "hang":
            await self._hung.wait()
        return web.Response(status={"take": 204, "fail": 500, "refuse": 422, "hang": 500}[mode])


def is_signed(secret: str, header: str, body: bytes) -> bool:
    """Whether a webhook comes from who knows the secret; written as docs/notices.md tells receivers to."""
    fields = dict(part.partition("=")[::2] for part in header.split(","))
    expected = hmac.new(secret.encode(), f"{fields.get('t')}.".encode() + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, fields.get("v1", ""))
