"""The records of the demonstration's calls, replayed: the decisions, usage and charges are those of the live ledger."""

import csv
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

from testbed import world
from testbed.asterisk import Switch
from testbed.demo import Demonstration
from testbed.installation import Installation
from testbed.server import Server
from testbed.sipp import Carrier

SUSPENDED = "account_suspended"
"""An operator does that in the middle of the demonstration; no call record knows of it."""

LAST_IN_ROOM = "nora"
"""Who stays in a conference when all others have left has no record of that time."""


def answer(row: dict[str, Any], line: str, clause: str) -> tuple[str, str, str, str]:
    return row[line], row["decision"], row["reason"], row[clause]


async def test_the_records_of_the_demonstration_say_what_the_live_ledger_says(
    installation: Installation, tmp_path: Path
) -> None:
    extensions, files = world.plan()
    async with (
        Switch.start(installation, extensions, files=files, lines=world.lines()) as switch,
        Carrier.start(switch) as carrier,
        Server.start(switch, tmp_path, policies=world.policies()) as server,
    ):
        assert await Demonstration(switch, carrier, server, lambda _text: None).run()
        assert await switch.no_channels() == []
        await server.launch()
        live = {row["call_id"]: row for row in await server.ask("decisions", limit=1000)}
        accounts = {customer.account for customer in world.customers()}
        sheets = [await server.ask("usage", account=account) for account in sorted(accounts)]
        replayed = tmp_path / "calls.csv"
        # As it was before the first call: the accounts and prices that the demonstration begins with.
        options = (
            *("--accounts", str(world.FILE), "--rates", f"{world.CARD}:{world.CURRENCY}:{world.RATES}"),
            *("--code", f"{world.CALLBACK}=callback"),
        )
        done = await server.command(
            "replay", str(switch.cdr_path), *options, "--csv", str(replayed), "--json"
        )
        assert done.status == 1, done.error
        assert done.json["malformed"] == 0
        with replayed.open(encoding="utf-8", newline="") as opened:
            found = {row["call_id"]: row for row in csv.DictReader(opened)}
        paid: defaultdict[str, Decimal] = defaultdict(Decimal)
        for charge in (charge for sheet in sheets for charge in sheet["charges"]):
            paid[charge["call"]] += Decimal(charge["amount"])

    assert live.keys() <= found.keys()
    assert {row["kind"] for row in live.values()} >= {
        "callback",
        "collect",
        "conference",
        "voicemail",
        "inbound",
    }
    for call_id, row in live.items():
        replay = found[call_id]
        if row["reason"] == SUSPENDED:
            continue
        assert answer(row, "line_id", "clause_id") == answer(replay, "line", "clause")
        metered_s, used_s = int(replay["metered_s"]), row["used_s"] or 0
        if row["line_id"] == LAST_IN_ROOM:
            assert metered_s <= used_s, row
            continue
        assert abs(metered_s - used_s) <= 1, row
        if metered_s == used_s:
            assert Decimal(replay["charges"]) == paid[call_id], row
    assert sum(row["reason"] == SUSPENDED for row in live.values()) == 1
