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

SET_UP_BY_FAIRDIAL = {"callback", "collect"}
"""Kinds whose legs are known to the ledger alone."""
BARRED_BY_HAND = {"dave"}
"""Suspended in the middle of the demonstration; no call record knows of that."""
AFTER_CALLBACKS = {"ines"}
"""Finds the minutes used up that the callbacks of its plan took."""


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
        options = ("--accounts", str(world.FILE), "--rates", f"{world.CARD}:{world.CURRENCY}:{world.RATES}")
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

    compared = {call_id: row for call_id, row in live.items() if row["kind"] not in SET_UP_BY_FAIRDIAL}
    assert compared.keys() <= found.keys()
    # Of people who join within one second nobody can say afterwards who had the last seat.
    plain = [call_id for call_id, row in compared.items() if row["kind"] != "conference"]
    others = {
        live[call_id]["line_id"]
        for call_id in plain
        if answer(live[call_id], "line_id", "clause_id") != answer(found[call_id], "line", "clause")
    }
    assert others <= BARRED_BY_HAND | AFTER_CALLBACKS
    alike = [call_id for call_id in plain if live[call_id]["line_id"] not in others]
    assert len(alike) > 30
    for call_id in alike:
        metered_s, used_s = int(found[call_id]["metered_s"]), live[call_id]["used_s"] or 0
        assert abs(metered_s - used_s) <= 1, live[call_id]
        if metered_s == used_s:
            assert Decimal(found[call_id]["charges"]) == paid[call_id], live[call_id]
    joined = [row for row in found.values() if row["kind"] == "conference" and row["decision"] == "allow"]
    assert len(joined) >= 5
