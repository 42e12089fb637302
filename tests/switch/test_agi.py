"""Dialplans that ask by AGI get the same; peers that misbehave cost calls nothing."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from testbed.installation import Installation
from testbed.sipp import place_call, place_calls
from tests.switch.conftest import Spine, running_spine

ANSWERED = "02079460100"


@pytest_asyncio.fixture
async def agi(installation: Installation, tmp_path: Path) -> AsyncIterator[Spine]:
    """The whole call path, with a dialplan that asks by AGI."""
    async with running_spine(installation, tmp_path) as spine:
        await spine.switch.set_global("FAIRDIAL_AGI", f"127.0.0.1:{spine.switch.agi_port}")
        yield spine


async def test_calls_are_allowed_refused_cut_and_metered_as_over_stasis(agi: Spine) -> None:
    await agi.server.account("acme", "short", "alice")
    await agi.server.account("other", "quota", "bob")
    cut, refused, invalid, hung_up = await asyncio.gather(
        place_call(agi.switch, line="alice", number=ANSWERED, timeout_s=10),
        place_call(agi.switch, line="alice", number="09098790000"),
        place_call(agi.switch, line="alice", number="0207"),
        place_call(agi.switch, line="bob", number=ANSWERED, hang_up_after_s=2),
    )
    assert cut.ended_by == "far_end"
    assert 2.9 <= cut.talk_s <= 4
    assert (refused.final_status, invalid.final_status) == (403, 484)
    assert hung_up.ended_by == "caller"
    await agi.server.idle()
    assert await agi.server.usage("acme") == {"used_s": 3, "reserved_s": 0}
    assert await agi.server.usage("other") == {"used_s": 2, "reserved_s": 0}


async def test_without_fairdial_the_failure_rule_holds(agi: Spine) -> None:
    await agi.server.account("acme", "quota", "alice")
    await agi.server.kill()
    outbound, emergency = await asyncio.gather(
        place_call(agi.switch, line="alice", number=ANSWERED),
        place_call(agi.switch, line="alice", number="999", hang_up_after_s=0.5),
    )
    assert (outbound.final_status, emergency.final_status) == (503, 200)


async def test_a_frozen_fairdial_leaves_calls_to_the_failure_rule(agi: Spine) -> None:
    await agi.server.account("acme", "quota", "alice")
    os.kill(agi.server.pid, signal.SIGSTOP)
    try:
        outbound, emergency = await asyncio.gather(
            agi.call("alice", ANSWERED), agi.call("alice", "999", hang_up_after_s=0.5)
        )
    finally:
        os.kill(agi.server.pid, signal.SIGCONT)
    assert (outbound.final_status, emergency.final_status) == (503, 200)
    assert outbound.setup_s < 2


@contextlib.asynccontextmanager
async def peers(port: int, count: int, first_words: bytes) -> AsyncIterator[None]:
    """So many connections to the FastAGI server that say `first_words` and then stay."""
    writers: list[asyncio.StreamWriter] = []
    try:
        for _ in range(count):
            _reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(writer)
            writer.write(first_words)
        yield
    finally:
        for writer in writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@pytest.mark.parametrize(
    ("count", "first_words"),
    [
        (50, b""),
        (50, b"agi_network: yes\n"),
        (20, b"agi_network: " + b"x" * 1_000_000),
    ],
    ids=["silent", "half-open", "one-megabyte"],
)
async def test_calls_are_not_delayed_by_peers_that_misbehave(
    agi: Spine, count: int, first_words: bytes
) -> None:
    await agi.server.account("acme", "minute", "alice")
    async with peers(agi.switch.agi_port, count, first_words):
        load = await place_calls(
            agi.switch, line="alice", number="09098790000", count=20, rate_per_s=20, timeout_s=20
        )
    assert (load.lost, dict(load.failed)) == (0, {403: 20})
    slowest_s = max(call.setup_s for call in load.calls)
    assert slowest_s < 0.5, "past that the failure rule would apply"


async def test_connections_that_close_at_once_do_not_disturb(agi: Spine) -> None:
    await agi.server.account("acme", "minute", "alice")
    for _ in range(200):
        async with peers(agi.switch.agi_port, 1, b""):
            pass
    outcome = await place_call(agi.switch, line="alice", number=ANSWERED, hang_up_after_s=1)
    assert outcome.final_status == 200
