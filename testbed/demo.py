"""The demonstration: real calls through a real Asterisk, each held against what should become of it.

`python -m testbed.demo` places them for each voice clause of the published policies, prints a table for each account
and ends by itself; status 0 only if every call ended as it should. `--stay` leaves switch, carrier and FairDial up
instead, for a softphone. The accounts are those of `testbed.world`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import secrets
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fairdial.main import load_numbering
from fairdial.policy.numbers import Habit
from testbed import world
from testbed.asterisk import Switch
from testbed.configuration import LOOPBACK
from testbed.installation import TestbedError, obtain
from testbed.server import Server
from testbed.sipp import CallOutcome, Carrier, place_call
from testbed.switch import describe
from testbed.world import Expected, Scene

TOLERANCE_S = 1.0
CALL_WITHIN_S = 20.0
WIDTH = 190
# Columns of Asterisk's Master.csv (cdr_csv.c).
CDR_DST, CDR_CHANNEL, CDR_USERFIELD = 2, 5, 17


@dataclass(frozen=True)
class Seen:
    """What became of it: the phone's outcome, FairDial's decision, the ledger's seconds and charges."""

    outcome: CallOutcome
    number_class: str
    decision: str | None
    reason: str
    clause: str = ""
    metered: str = ""
    charge: str = ""

    @property
    def end(self) -> str:
        """The end in words."""
        talk_s = self.outcome.talk_s if self.outcome.answered else None
        return _end(self.outcome.final_status, talk_s, self.outcome.ended_by == "far_end")


Row = tuple[Expected, Seen]


def _end(status: int, talk_s: float | None, cut: bool) -> str:
    if talk_s is None:
        return f"refused {status}"
    return f"{'cut' if cut else 'hangs up'}, {talk_s:.1f} s"


def as_expected(expected: Expected, seen: Seen) -> bool:
    """Whether a call ended as it should."""
    outcome = seen.outcome
    told = (seen.decision, seen.reason, seen.clause, outcome.final_status, seen.metered, seen.charge)
    if told != (
        expected.decision,
        expected.reason,
        expected.clause,
        expected.status,
        expected.metered,
        expected.charge,
    ):
        return False
    if expected.talk_s is None:
        return not outcome.answered
    ended_by = "far_end" if expected.cut else "caller"
    return outcome.ended_by == ended_by and abs(outcome.talk_s - expected.talk_s) <= TOLERANCE_S


class Demonstration:
    """One run on a switch of its own."""

    def __init__(self, switch: Switch, server: Server, say: Callable[[str], None]) -> None:
        self._switch = switch
        self._server = server
        self._say = say
        self._numbering = load_numbering(None)
        self.tables: list[tuple[str, list[Row]]] = []

    async def run(self) -> bool:
        """Place all calls; whether each ended as it should."""
        await world.provision(self._switch, self._server)
        try:
            async with asyncio.TaskGroup() as group:
                running = [(scene, group.create_task(self._play(scene))) for scene in world.SCENES]
        except ExceptionGroup as failed:
            # What went wrong first ended the others.
            raise failed.exceptions[0] from failed
        self.tables += [(_title(scene.account), task.result()) for scene, task in running]
        await self._server.stop()
        self.tables.append(("FairDial is stopped: the dialplan decides", await self._play(world.STOPPED)))
        return all(as_expected(expected, seen) for _, rows in self.tables for expected, seen in rows)

    async def _play(self, scene: Scene) -> list[Row]:
        rows: list[Row] = []
        for expected in scene.calls:
            rows += await self._try(scene.account, expected)
        return rows

    async def _try(self, account: str, expected: Expected) -> list[Row]:
        """The call, and the one during it."""
        self._say(f"{expected.line}: {expected.what}")
        before = await self._known(account, expected.line)
        limit_s = None if expected.cut else expected.talk_s
        calling = asyncio.create_task(
            place_call(
                self._switch,
                line=expected.caller or expected.line,
                number=expected.number,
                hang_up_after_s=limit_s,
                timeout_s=CALL_WITHIN_S,
            )
        )
        try:
            others = await self._meanwhile(account, expected)
            outcome = await calling
        finally:
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)
        return [(expected, await self._seen(account, expected, outcome, before)), *others]

    async def _meanwhile(self, account: str, expected: Expected) -> list[Row]:
        if expected.suspend or expected.during:
            await self._server.talking(expected.line, CALL_WITHIN_S)
        if expected.suspend:
            await asyncio.sleep(expected.talk_s or 0)
            await self._server.ask("account_standing", account=account, standing="suspended")
        return await self._try(account, expected.during) if expected.during else []

    async def _seen(self, account: str, expected: Expected, outcome: CallOutcome, before: Known) -> Seen:
        record = await self._newest(account, expected.line)
        if record is None or record["call_id"] == before.call_id:
            # The dialplan decided by itself; the reason stands in the call's CDR.
            number = self._numbering.classify(expected.number, Habit(region="GB"))
            return Seen(outcome, number.number_class, None, await self._reason_in_cdr(expected, before.cdrs))
        decided = (record["number_class"], record["decision"], record["reason"], record["clause_id"])
        if record["decision"] != "allow":
            return Seen(outcome, *decided)
        used_s = await self._used_s(record["call_id"])
        sheet = await self._server.ask("usage", account=account)
        return Seen(
            outcome,
            *decided,
            metered=_metered(before.counted, _counted(sheet)) or str(used_s),
            charge=", ".join(
                f"{charge['amount']} {charge['currency']} {charge['clause']['id']}"
                for charge in sheet["charges"]
                if charge["call"] == record["call_id"]
            ),
        )

    async def _known(self, account: str, line: str) -> Known:
        if not self._server.running:
            return Known(None, {}, len(self._cdrs()))
        record = await self._newest(account, line)
        sheet = await self._server.ask("usage", account=account)
        return Known(record["call_id"] if record else None, _counted(sheet), len(self._cdrs()))

    async def _newest(self, account: str, line: str) -> dict[str, Any] | None:
        """The newest decision about a dial of that line."""
        if not self._server.running:
            return None
        rows = await self._server.ask("decisions", account=account)
        return next((row for row in rows if row["line_id"] == line), None)

    async def _reason_in_cdr(self, expected: Expected, before: int) -> str:
        """What the dialplan wrote into the userfield, once the record is there; "" if none comes.

        before: how many records there were when the call was placed.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                while True:
                    for row in self._cdrs()[before:]:
                        if (
                            row[CDR_CHANNEL].startswith(f"PJSIP/{expected.line}-")
                            and row[CDR_DST] == expected.number
                        ):
                            return row[CDR_USERFIELD]
                    await asyncio.sleep(0.02)
        return ""

    def _cdrs(self) -> list[list[str]]:
        path = self._switch.cdr_path
        return list(csv.reader(path.read_text().splitlines())) if path.exists() else []

    async def _used_s(self, call_id: str) -> int:
        """The settled seconds of a call, once they are settled."""
        async with asyncio.timeout(10):
            while True:
                grant = await self._server.ask("grant", call=call_id)
                if grant["used_s"] is not None:
                    return int(grant["used_s"])
                await asyncio.sleep(0.02)

    def show(self, console: Console) -> None:
        """All calls, expected beside seen; a table for each account, in columns of the same width."""
        shown = [(title, [_cells(expected, seen) for expected, seen in rows]) for title, rows in self.tables]
        every = [COLUMNS, *(cells for _, rows in shown for cells in rows)]
        widths = [
            max(len(part) for cell in column for part in cell.split("\n"))
            for column in zip(*every, strict=True)
        ]
        for index, (title, rows) in enumerate(shown):
            table = Table(title=title, title_justify="left", show_header=index == 0)
            for column, width in zip(COLUMNS, widths, strict=True):
                table.add_column(column, overflow="fold", width=width)
            for cells in rows:
                table.add_row(*map(Text, cells), style=None if cells[-1] == "ok" else "red")
            console.print(table)


@dataclass(frozen=True)
class Known:
    """What there was before a call: the line's newest decision, the account's seconds by allowance, the CDRs."""

    call_id: str | None
    counted: dict[str, int]
    cdrs: int


def _counted(sheet: dict[str, Any]) -> dict[str, int]:
    """Seconds by allowance, over all its lines and windows; "past" are those past any."""
    found: dict[str, int] = {}
    for entry in sheet["usage"]:
        name = entry["allowance"].partition("/")[0]
        for key, units in ((name, entry["used_units"]), ("past", entry["over_units"])):
            found[key] = found.get(key, 0) + units
    return found


def _metered(before: dict[str, int], after: dict[str, int]) -> str:
    grown = {name: units - before.get(name, 0) for name, units in after.items()}
    return ", ".join(f"{name} {units}" for name, units in grown.items() if units)


def _title(account: str) -> str:
    [policy] = [customer.policy for customer in world.customers() if customer.account == account]
    copy = world.SHRUNK.get(policy)
    if copy is None:
        return f"account {account}, policy {policy}"
    numbers = ", ".join(f"{new} (published: {old})" for old, new in copy.numbers.items())
    return f"account {account}, policy {copy.policy} with {numbers}"


COLUMNS = (
    "call",
    "dialled",
    "class",
    "decision",
    "reason",
    "clause",
    "expected end",
    "real end",
    "metered s",
    "charge",
    "",
)


def _cells(expected: Expected, seen: Seen) -> tuple[str, ...]:
    """A row of the table; what is not as expected says so in its cell."""

    def held(found: str | None, wanted: str | None) -> str:
        return found or "" if found == wanted else f"{found or 'none'}\nnot {wanted or 'none'}"

    return (
        f"{expected.line}: {expected.what}",
        expected.number,
        seen.number_class,
        held(seen.decision or "dialplan", expected.decision or "dialplan"),
        held(seen.reason, expected.reason),
        held(seen.clause, expected.clause),
        _end(expected.status, expected.talk_s, expected.cut),
        seen.end,
        held(seen.metered, expected.metered),
        held(seen.charge, expected.charge),
        "ok" if as_expected(expected, seen) else "WRONG",
    )


async def demonstrate() -> int:
    """Run it all; the exit status."""
    installation = await asyncio.to_thread(obtain, _say)
    extensions, files = world.plan()
    with tempfile.TemporaryDirectory(prefix="fairdial-demo-") as directory:
        async with (
            Switch.start(installation, extensions, files=files, lines=world.lines()) as switch,
            Carrier.start(switch),
            Server.start(switch, Path(directory), policies=world.policies()) as server,
        ):
            demonstration = Demonstration(switch, server, _say)
            well = await demonstration.run()
            left = await switch.no_channels()
    demonstration.show(Console(width=None if sys.stdout.isatty() else WIDTH))
    if left:
        print(f"channels left over: {', '.join(left)}")
    return 0 if well and not left else 1


async def stay(sip_host: str) -> int:
    """Keep switch, carrier and FairDial up until Ctrl-C."""
    installation = await asyncio.to_thread(obtain, _say)
    extensions, files = world.plan()
    names = [line.name for line in world.lines()]
    lines = world.lines({name: secrets.token_urlsafe(9) for name in names})
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    with tempfile.TemporaryDirectory(prefix="fairdial-") as directory:
        async with (
            Switch.start(installation, extensions, files=files, lines=lines, sip_host=sip_host) as switch,
            Carrier.start(switch),
            Server.start(switch, Path(directory), policies=world.policies()) as server,
        ):
            await world.provision(switch, server)
            print(describe(switch, lines))
            for customer in world.customers():
                print(
                    f"  account {customer.account} on policy {customer.policy}: {', '.join(customer.lines)}"
                )
            print(f"FairDial is up; its log is {server.log_path}. In another terminal:")
            print(f"  export FAIRDIAL_CONFIG={server.config_path}")
            print(
                "  .venv/bin/fairdial doctor ; .venv/bin/fairdial calls ; .venv/bin/fairdial decisions",
                flush=True,
            )
            await ended.wait()
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 all as expected, 1 not, or it cannot run here."""
    parser = argparse.ArgumentParser(prog="python -m testbed.demo", description=__doc__)
    parser.add_argument(
        "--stay", action="store_true", help="stay up for a softphone instead of placing calls"
    )
    parser.add_argument("--sip-host", default=LOOPBACK, help="with --stay: address for phones (%(default)s)")
    options = parser.parse_args(arguments)
    work: Awaitable[int] = stay(options.sip_host) if options.stay else demonstrate()
    try:
        return asyncio.run(_awaited(work))
    except TestbedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


async def _awaited(work: Awaitable[int]) -> int:
    return await work


if __name__ == "__main__":
    sys.exit(main())
