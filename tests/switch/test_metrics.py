"""`/metrics` on the real path: calls that were allowed, refused and cut, as Prometheus reads them."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from prometheus_client import generate_latest

from testbed.sipp import place_calls
from tests.switch.conferences import service_of
from tests.switch.conftest import Spine
from tests.unit.test_metrics import Found, parsed, value

LONDON, PREMIUM = "02079460100", "09098790000"


async def scraped(spine: Spine, seen: Callable[[Found], bool]) -> Found:
    """What is told as soon as `seen` says yes: an answer may be a second old."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(10):
        while True:
            async with session.get(f"{spine.server.http_url}/metrics") as answer:
                found = parsed(await answer.text())
            if seen(found):
                return found
            await asyncio.sleep(0.1)


def decided(found: Found, decision: str, reason: str) -> float | None:
    labels = {"kind": "outbound", "decision": decision, "reason": reason}
    return value(found, "fairdial_decisions_total", **labels)


@pytest.mark.parametrize("gate", ["stasis", "agi"])
async def test_a_call_allowed_one_refused_and_one_cut_are_counted(spine: Spine, gate: str) -> None:
    await spine.ask_by(gate)
    await spine.server.account("acme", "short", "alice")
    talking = asyncio.create_task(spine.call("alice", LONDON))
    await spine.server.talking("alice")
    during = await scraped(spine, lambda found: value(found, "fairdial_calls_live", kind="outbound") == 1)
    assert value(during, "fairdial_grants_live") == 1
    assert value(during, "fairdial_link_up", link="ari") == value(during, "fairdial_link_up", link="ami") == 1
    assert (await talking).ended_by == "far_end"
    assert (await spine.call("alice", LONDON, hang_up_after_s=1)).ended_by == "caller"
    refused = await spine.call("alice", PREMIUM)
    assert not refused.answered
    await spine.server.idle()
    refusal, *allowed = await spine.server.ask("decisions", limit=3)
    assert {record["decision"] for record in allowed} == {"allow"}

    def ends(found: Found) -> list[float | None]:
        return [
            value(found, "fairdial_calls_ended_total", kind="outbound", end=end) for end in ("cut", "talked")
        ]

    found = await scraped(spine, lambda found: ends(found) == [1, 1])
    assert decided(found, "allow", allowed[0]["reason"]) == 2
    assert decided(found, "refuse", refusal["reason"]) == 1
    assert value(found, "fairdial_calls_live", kind="outbound") == value(found, "fairdial_grants_live") == 0
    waited = {
        result: value(found, "fairdial_answer_seconds_count", gate=gate, result=result)
        for result in ("allow", "refuse", "failed", "undelivered")
    }
    assert waited == {"allow": 2, "refuse": 1, "failed": 0, "undelivered": 0}
    other = "agi" if gate == "stasis" else "stasis"
    assert value(found, "fairdial_answer_seconds_count", gate=other, result="allow") == 0
    assert value(found, "fairdial_settle_lag_seconds_count") == 2
    assert (value(found, "fairdial_ari_request_seconds_count", outcome="ok") or 0) > 0
    assert (value(found, "fairdial_store_commit_seconds_count", outcome="ok") or 0) > 0
    assert value(found, "fairdial_link_connects_total", link="ari") == 1


async def test_a_scrape_during_load_does_not_hold_up_the_loop(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In processor time of the loop's thread: what else the machine does meanwhile is not the scrape's."""
    took_s: list[float] = []

    def timed(*given: Any) -> bytes:
        began_s = time.thread_time()
        text = generate_latest(*given)
        took_s.append(time.thread_time() - began_s)
        return text

    monkeypatch.setattr("fairdial.console.metrics.generate_latest", timed)
    await spine.server.account("acme", "kryptotel-in-shadow", "alice", countries=("GB",))
    async with service_of(spine) as service:
        service.metrics._fresh_s = 0.0
        load = asyncio.create_task(
            place_calls(
                spine.switch, line="alice", number=[LONDON], count=150, rate_per_s=50, hang_up_after_s=2
            )
        )
        live = 0.0
        while not load.done():
            found = parsed((await service.metrics()).decode())
            live = max(live, value(found, "fairdial_calls_live", kind="outbound") or 0)
            await asyncio.wait({load}, timeout=0.05)
        outcome = await load
        assert (outcome.lost, outcome.answered) == (0, 150)
        assert live > 30
        assert len(took_s) > 30
        assert max(took_s) < 0.05
