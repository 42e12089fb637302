"""What a real switch recorded of calls, replayed: decisions, lengths, cuts and charges as the live ledger has them."""

import asyncio
import csv
from pathlib import Path
from typing import Any

from testbed.sipp import NEVER_ANSWERS
from tests.switch.conftest import Spine

LONDON = "02079460100"
UNANSWERED = f"020794600{NEVER_ANSWERS}"
PREMIUM = "09098790000"
ABROAD = "0033142685300"
FIVE_SECONDS = "five-seconds"


async def over(spine: Spine, account: str) -> None:
    """Wait until all calls of an account are settled."""
    async with asyncio.timeout(10):
        while any(
            row["decision"] == "allow" and row["used_s"] is None
            for row in await spine.server.ask("decisions", account=account, limit=100)
        ):
            await asyncio.sleep(0.05)


async def acme(spine: Spine) -> None:
    """Within an allowance, past it and charged, nobody answers, and a number that the plan does not cover."""
    for talk_s in (3.2, 4.2, 2.2):
        await spine.call("alice", LONDON, hang_up_after_s=talk_s)
        await over(spine, "acme")
    await spine.call("alice", UNANSWERED, give_up_after_s=1.5)
    await spine.call("alice", PREMIUM)


async def bobs(spine: Spine) -> None:
    """Hung up in time, cut by the longest call, and a country that the plan does not cover."""
    await spine.call("bob", LONDON, hang_up_after_s=1.2)
    await spine.call("bob", LONDON, timeout_s=15)
    await spine.call("bob", ABROAD)


async def carols(spine: Spine) -> None:
    """Cut at the end of an allowance, and refused after it."""
    await spine.call("carol", LONDON, timeout_s=30)
    await over(spine, "carol-ltd")
    await spine.call("carol", LONDON)


async def recorded(spine: Spine, calls: int) -> Path:
    """The switch's Master.csv once it has a record of so many channels."""
    file = spine.switch.cdr_path
    async with asyncio.timeout(10):
        while True:
            rows = list(csv.reader(file.read_text().splitlines())) if file.exists() else []
            if len({row[16] for row in rows}) >= calls:
                return file
            await asyncio.sleep(0.1)


async def charges(spine: Spine, *accounts: str) -> dict[str, str]:
    """What each call cost live, as decimal texts."""
    sheets = [await spine.server.ask("usage", account=account) for account in accounts]
    return {charge["call"]: charge["amount"] for sheet in sheets for charge in sheet["charges"]}


async def replayed(spine: Spine, file: Path, *options: str) -> dict[str, dict[str, str]]:
    """The calls of a replay by id, beside the running server."""
    calls = spine.server.directory / "calls.csv"
    done = await spine.server.command("replay", str(file), "--csv", str(calls), "--json", *options)
    assert done.status == 1, done.error
    assert done.json["malformed"] == 0
    with calls.open(encoding="utf-8", newline="") as opened:
        return {row["call_id"]: row for row in csv.DictReader(opened)}


def decided(row: dict[str, Any]) -> tuple[str, str, str, str, str]:
    """Who asked, and the answer, as the ledger has them."""
    return row["line_id"], row["dialled"], row["decision"], row["reason"], row["clause_id"]


async def test_a_replay_of_the_switchs_records_says_what_was_decided_metered_cut_and_charged(
    spine: Spine,
) -> None:
    at_once = (("effective = 2026-11-01", 'effective = "at_once"'), ("notice_days = 30", "notice_days = 0"))
    await spine.publish_variant("redconnect", FIVE_SECONDS, ("limit_s = 144000", "limit_s = 5"), *at_once)
    await spine.server.account("acme", FIVE_SECONDS, "alice")
    await spine.server.account("bob-ltd", "short", "bob")
    await spine.server.account("carol-ltd", "quota", "carol")
    await asyncio.gather(acme(spine), bobs(spine), carols(spine))
    await spine.server.idle()

    live = {row["call_id"]: row for row in await spine.server.ask("decisions", limit=100)}
    assert len(live) == 10
    assert [row["decision"] for row in live.values()].count("refuse") == 3
    found = await replayed(spine, await recorded(spine, len(live)))
    assert {
        call_id: (row["line"], row["dialled"], row["decision"], row["reason"], row["clause"])
        for call_id, row in found.items()
    } == {call_id: decided(row) for call_id, row in live.items()}
    for call_id, row in live.items():
        assert abs(int(found[call_id]["metered_s"]) - (row["used_s"] or 0)) <= 1, call_id
    assert {call_id: row["cut_clause"] for call_id, row in found.items() if row["cut"] == "1"} == {
        call_id: row["cut_clause"] for call_id, row in live.items() if row["cut_by"]
    }
    paid = await charges(spine, "acme", "bob-ltd", "carol-ltd")
    assert len(paid) == 2
    assert {call_id: row["charges"] for call_id, row in found.items() if row["charges"] != "0"} == paid
    await another_policy(spine, spine.switch.cdr_path)


async def another_policy(spine: Spine, file: Path) -> None:
    """The same records, all accounts on another plan: that one decides, and the live ledger stays as it is."""
    before = await spine.server.ask("usage", account="acme")
    found = await replayed(spine, file, "--policy", "short")
    assert {row["policy"] for row in found.values()} == {"short"}
    assert max(int(row["metered_s"]) for row in found.values()) == 3
    assert await spine.server.ask("usage", account="acme") == before


async def test_calls_of_other_kinds_are_replayed_as_what_they_were(spine: Spine) -> None:
    """In, between phones, emergency; the number says whose a refused call from outside was."""
    await spine.server.account("bob-ltd", "short", "bob")
    await spine.server.account("dave-ltd", "metered", "dave")
    for number, line in (("442079460123", "bob"), ("442079460124", "dave")):
        await spine.switch.cli(f"database put did {number} {line}")
        await spine.server.ask("number_add", number=f"+{number}", account=f"{line}-ltd", line=line)
    await spine.switch.cli("database put extension 101 dave")
    await spine.call("carrier", "442079460123", hang_up_after_s=2.2)
    await spine.call("carrier", "442079460124")
    await spine.call("bob", "101", hang_up_after_s=1.2)
    await spine.call("bob", "999", hang_up_after_s=1.2)
    await spine.server.idle()
    live = {row["call_id"]: row for row in await spine.server.ask("decisions", limit=100)}
    assert sorted(row["kind"] for row in live.values()) == ["inbound", "inbound", "internal"]
    found = await replayed(spine, await recorded(spine, 4))
    emergency = [row for call_id, row in found.items() if call_id not in live]
    assert [(row["kind"], row["reason"]) for row in emergency] == [("emergency", "emergency")]
    for call_id, row in live.items():
        again = found[call_id]
        assert (
            again["line"],
            again["dialled"],
            again["decision"],
            again["reason"],
            again["clause"],
        ) == decided(row)
        assert again["kind"] == row["kind"]
        assert abs(int(again["metered_s"]) - (row["used_s"] or 0)) <= 1
