"""Fixtures for tests on a real Asterisk: the installation, a switch with a plain dialplan, and its carrier."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from testbed.asterisk import Switch
from testbed.configuration import Line
from testbed.installation import Installation, obtain
from testbed.scenarios import Signalling
from testbed.server import PROJECT, Server, dialplan
from testbed.sipp import CallOutcome, Carrier, place_call

PLAIN_DIALPLAN = """[outbound]
exten => _X.,1,Dial(PJSIP/${EXTEN}@carrier)
same => n,Hangup(${HANGUPCAUSE})
exten => _3XX,1,Set(TIMEOUT(absolute)=${EXTEN:1:1})
same => n,Dial(PJSIP/${EXTEN}@carrier)
[inbound]
exten => _X.,1,Dial(PJSIP/alice)
"""


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make the installation before the first test: a machine's first takes longer than a test may."""
    wanted = any(
        "installation" in item.fixturenames for item in session.items if isinstance(item, pytest.Function)
    )
    if wanted and not session.config.option.collectonly:
        obtain()


@pytest.fixture(scope="session")
def installation() -> Installation:
    """An Asterisk to run; made on the first use on a machine, which takes about a minute."""
    return obtain()


@pytest_asyncio.fixture
async def switch(installation: Installation) -> AsyncIterator[Switch]:
    """A switch of the test's own; no channel may be left on it when the test is over."""
    async with Switch.start(installation, PLAIN_DIALPLAN) as switch:
        yield switch
        if switch.is_running:
            assert await switch.no_channels() == [], "the test left channels up"


@pytest_asyncio.fixture
async def carrier(switch: Switch) -> AsyncIterator[Carrier]:
    """The far network of `switch`."""
    async with Carrier.start(switch) as carrier:
        yield carrier
        # Before the carrier's phones vanish, their calls must be over.
        async with asyncio.timeout(10):
            if switch.is_running:
                await switch.no_channels()


@dataclass(frozen=True)
class Spine:
    """A switch with the project's own dialplan, its carrier, and FairDial as a process."""

    switch: Switch
    carrier: Carrier
    server: Server

    async def call(
        self,
        line: str,
        number: str,
        *,
        hang_up_after_s: float | None = None,
        give_up_after_s: float | None = None,
        timeout_s: float = 30.0,
        shows: str | None = None,
        signalling: Signalling = "clear",
        srtp: bool = False,
        video: bool = False,
    ) -> CallOutcome:
        """`place_call` on this switch. shows: the number that the phone says is its own (RFC 3325)."""
        identity = {} if shows is None else {"P-Asserted-Identity": f"<sip:{shows}@phone.invalid>"}
        return await place_call(
            self.switch,
            line=line,
            number=number,
            hang_up_after_s=hang_up_after_s,
            give_up_after_s=give_up_after_s,
            timeout_s=timeout_s,
            extra_headers=identity,
            signalling=signalling,
            srtp=srtp,
            video=video,
        )

    async def newest_decision(self) -> dict[str, Any]:
        """The record of the newest decision."""
        [record] = await self.server.ask("decisions", limit=1)
        return dict(record)

    async def ask_by(self, gate: str) -> None:
        """Let the dialplan ask over "stasis", as it does without this, or by "agi"."""
        if gate == "agi":
            await self.switch.set_global("FAIRDIAL_AGI", f"127.0.0.1:{self.switch.agi_port}")

    async def publish_variant(self, policy: str, name: str, *changes: tuple[str, str]) -> None:
        """Publish the shipped `policy` under another `name`, with some of its words changed."""
        text = (PROJECT / "policies" / f"{policy}.toml").read_text()
        for old, new in ((f'name = "{policy}"', f'name = "{name}"'), *changes):
            assert text.count(old) == 1, f"{old!r} is not once in {policy}.toml"
            text = text.replace(old, new)
        await self.server.ask("policy_publish", text=text, where=f"{name}.toml")


# What a phone's endpoint needs for TLS: the switch then goes by the connection, not by the phone's word.
_ENCRYPTING = {"rewrite_contact": "yes", "media_encryption": "sdes"}

LINES = (
    *(Line(name, accountcode=name, context="phones") for name in ("alice", "bob", "carol", "dave")),
    *(Line(name, accountcode="acme", context="phones") for name in ("erin", "frank", "grace", "heidi")),
    # A customer's own PBX, which may say from which of its numbers a call comes.
    Line("pbx", accountcode="acme", context="phones", options={"trust_id_inbound": "yes"}),
    Line("camera", accountcode="acme", context="phones", options={"allow": "ulaw,h264"}),
    Line("clear", accountcode="acme", context="phones", options={"rewrite_contact": "yes"}),
    Line("encrypted", accountcode="acme", context="phones", options=_ENCRYPTING),
    Line(
        "either",
        accountcode="acme",
        context="phones",
        options={**_ENCRYPTING, "media_encryption_optimistic": "yes"},
    ),
)


@asynccontextmanager
async def running_spine(
    installation: Installation,
    directory: Path,
    settings: Mapping[str, object] | None = None,
    plan: tuple[str, dict[str, str]] | None = None,
    *,
    tls: bool = False,
    name: str = "",
) -> AsyncIterator[Spine]:
    """The whole call path; nothing may be left over at its end: no channel, no grant, no followed call.

    `settings` are further lines of the configuration; `plan` replaces the project's own dialplan; with `tls`
    the switch takes calls over TLS too. `name`: of the switch, where it shares its ledger with others.
    """
    extensions, files = plan or dialplan()
    async with (
        Switch.start(installation, extensions, files=files, lines=LINES, tls=tls, name=name) as switch,
        Carrier.start(switch) as carrier,
        Server.start(switch, directory, {**(settings or {}), "switch": name}) as server,
    ):
        yield Spine(switch, carrier, server)
        if switch.is_running:
            assert await switch.no_channels() == [], "the test left channels up"
        if server.running:
            await server.idle()


@pytest_asyncio.fixture
async def spine(installation: Installation, tmp_path: Path) -> AsyncIterator[Spine]:
    """`running_spine` with the default configuration."""
    async with running_spine(installation, tmp_path) as spine:
        yield spine
