"""Inbound calls at once (A9): a line that takes more than its plan allows is a server, not a phone."""

import asyncio

import pytest

from tests.switch.conftest import Spine

LINE_NUMBER, OTHER_NUMBER = "442079460123", "442079460124"


@pytest.mark.parametrize("gate", ["stasis", "agi"])
@pytest.mark.clause("A9", "allowed")
@pytest.mark.clause("A9", "refused")
async def test_a_line_takes_so_many_inbound_calls_at_once_and_no_more(spine: Spine, gate: str) -> None:
    await spine.ask_by(gate)
    await spine.server.account("acme", "acceptable-use", "alice", "bob")
    await spine.switch.cli(f"database put did {LINE_NUMBER} alice")
    await spine.switch.cli(f"database put did {OTHER_NUMBER} bob")
    four = [asyncio.create_task(spine.call("carrier", LINE_NUMBER, hang_up_after_s=6)) for _ in range(4)]
    async with asyncio.timeout(5):
        while [row["state"] for row in await spine.server.ask("calls")] != ["talking"] * 4:
            await asyncio.sleep(0.02)
    assert (await spine.call("carrier", LINE_NUMBER)).final_status == 486
    record = await spine.newest_decision()
    assert (record["reason"], record["clause_id"], record["line_id"]) == ("too_many_inbound", "A9", "alice")
    # It counts by line, and the line's own calls are not inbound.
    for line, number in (("carrier", OTHER_NUMBER), ("alice", "02079460100")):
        assert (await spine.call(line, number, hang_up_after_s=0.5)).final_status == 200
    assert [(outcome.final_status, outcome.ended_by) for outcome in await asyncio.gather(*four)] == [
        (200, "caller")
    ] * 4
    await spine.server.idle()
    assert (await spine.call("carrier", LINE_NUMBER, hang_up_after_s=0.5)).final_status == 200
