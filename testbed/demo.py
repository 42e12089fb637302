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
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fairdial.loading import load_numbering
from fairdial.policy.numbers import Habit
from testbed import world
from testbed.asterisk import Switch
from testbed.configuration import LOOPBACK
from testbed.installation import TestbedError, obtain
from testbed.server import Server
from testbed.sipp import CallOutcome, Carrier, CarrierCall, place_call
from testbed.switch import describe
from testbed.world import Expected, Scene

TOLERANCE_S = 1.0
CALL_WITHIN_S = 20.0
LISTENS_S = 0.5
"""For so long the called party of a reverse-charge call hears the question before it presses a key."""
WIDTH = 190
# What the Reason header of a hang-up begins with (RFC 3326).
Q850 = "Q.850;cause="
# Columns of Asterisk's Master.csv (cdr_csv.c).
CDR_DST, CDR_CHANNEL, CDR_USERFIELD = 2, 5, 17


@dataclass(frozen=True)
class Seen:
    """What became of it: the phone's outcome, FairDial's decision, the ledger's seconds and charges.

    legs: the two that FairDial rang for a callback, as their phones saw them.
    """

    outcome: CallOutcome
    number_class: str
    decision: str | None
    reason: str
    clause: str = ""
    metered: str = ""
    charge: str = ""
    legs: tuple[CarrierCall, ...] = ()

    @property
    def cause(self) -> int | None:
        """The Q.850 cause of a refusal that was told in an answered call."""
        reason = self.outcome.reason_header or ""
        told = self.outcome.answered and self.decision == "refuse" and reason.startswith(Q850)
        return int(reason.removeprefix(Q850).partition(";")[0]) if told else None

    @property
    def end(self) -> str:
        """The end in words."""
        outcome = self.outcome
        if self.legs:
            return _called_back(outcome.final_status, *map(_length_s, self.legs))
        if self.cause is not None:
            return _told(self.cause)
        talk_s = outcome.talk_s if outcome.answered else None
        return _end(outcome.final_status, talk_s, outcome.ended_by == "far_end")


Row = tuple[Expected, Seen]


def _length_s(leg: CarrierCall) -> float:
    """How long a leg that has ended talked."""
    assert leg.answered_at is not None
    assert leg.ended_at is not None
    return leg.ended_at - leg.answered_at


def _wanted_end(expected: Expected) -> str:
    if expected.cause is not None:
        return _told(expected.cause)
    if expected.called_back is not None and expected.talk_s is not None:
        return _called_back(expected.status, expected.talk_s, expected.talk_s)
    return _end(expected.status, expected.talk_s, expected.cut)


def _told(cause: int) -> str:
    return f"told, cause {cause}"


def _called_back(status: int, *lengths_s: float) -> str:
    return f"{status}, {'+'.join(f'{length_s:.1f}' for length_s in lengths_s)} s"


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
    if expected.cause is not None:
        return seen.cause == expected.cause and outcome.ended_by == "far_end"
    if expected.talk_s is None:
        return not outcome.answered
    if expected.called_back is not None:
        lengths_s = [_length_s(leg) for leg in seen.legs]
        together = all(abs(length_s - expected.talk_s) <= TOLERANCE_S for length_s in lengths_s)
        return not outcome.answered and len(lengths_s) == 2 and together
    ended_by = "far_end" if expected.cut else "caller"
    return outcome.ended_by == ended_by and abs(outcome.talk_s - expected.talk_s) <= TOLERANCE_S


class Demonstration:
    """One run on a switch of its own."""

    def __init__(self, switch: Switch, carrier: Carrier, server: Server, say: Callable[[str], None]) -> None:
        self._switch = switch
        self._carrier = carrier
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
        began_at = time.time()
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
            others = await self._meanwhile(account, expected, began_at)
            outcome = await calling
            legs = await self._called_back(expected, began_at)
        finally:
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)
        seen = await self._seen(account, expected, outcome, before)
        return [(expected, replace(seen, legs=legs)), *others]

    async def _called_back(self, expected: Expected, began_at: float) -> tuple[CarrierCall, ...]:
        """The legs of the callback that was asked for, as far as they came, once they have ended."""
        legs: list[CarrierCall] = []
        if expected.called_back is not None:
            with contextlib.suppress(TestbedError):
                for number in (world.rung(expected.line), expected.called_back):
                    legs.append(
                        await self._carrier.call_when(
                            number, answered=True, ended=True, since=began_at, timeout_s=CALL_WITHIN_S
                        )
                    )
        return tuple(legs)

    async def _meanwhile(self, account: str, expected: Expected, began_at: float) -> list[Row]:
        if expected.key:
            # Where nobody is rung the outcome of the call says so.
            with contextlib.suppress(TestbedError):
                called = await self._carrier.call_when(
                    world.rung(expected.line), answered=True, since=began_at, timeout_s=CALL_WITHIN_S / 4
                )
                await asyncio.sleep(LISTENS_S)
                await self._carrier.cue(called, f"press {expected.key}")
        if expected.suspend or expected.during:
            await self._server.talking(expected.line, CALL_WITHIN_S)
        if expected.suspend:
            await asyncio.sleep(expected.talk_s or 0)
            await self._server.ask("account_standing", account=account, standing="suspended")
        return await self._try(account, expected.during) if expected.during else []

    async def _seen(self, account: str, expected: Expected, outcome: CallOutcome, before: Known) -> Seen:
        record = await self._newest(account, expected.line)
        if record is None or record["call_id"] == before.call_id:
            if expected.number.startswith(world.CALL_ME_BACK):
                return await self._not_called_back(expected, outcome)
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
            metered=(not expected.own_clock and _metered(before.counted, _counted(sheet))) or str(used_s),
            charge=", ".join(
                f"{charge['amount']} {charge['currency']} {charge['clause']['id']}"
                for charge in sheet["charges"]
                if charge["call"] == record["call_id"]
            ),
        )

    async def _not_called_back(self, expected: Expected, outcome: CallOutcome) -> Seen:
        """A callback that is refused leaves no record, as nothing rang; FairDial is asked why."""
        number = expected.number.removeprefix(world.CALL_ME_BACK)
        told = await self._server.ask("check", number=number, line=expected.line, kind="callback")
        return Seen(outcome, told["number"]["class"], told["decision"], told["reason"], told["clause"]["id"])

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
    """What each allowance grew by. Those alike but for their last word, day and month, share the seconds."""
    alike: dict[tuple[str, int], list[str]] = {}
    for name, units in after.items():
        if grown := units - before.get(name, 0):
            alike.setdefault((name.partition("-")[0], grown), []).append(name)
    return ", ".join(
        "/".join((names[0], *(name.rpartition("-")[2] for name in names[1:]))) + f" {grown}"
        for (_, grown), names in alike.items()
    )


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
        _wanted_end(expected),
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
            Carrier.start(switch) as carrier,
            Server.start(switch, Path(directory), policies=world.policies()) as server,
        ):
            demonstration = Demonstration(switch, carrier, server, _say)
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
            print(world.CODES)
            print(
                f"FairDial is up; its page is {server.http_url}/, its log {server.log_path}. In another terminal:"
            )
            print(f"  export FAIRDIAL_CONFIG={server.config_path}")
            print("  .venv/bin/fairdial token add ann --role admin      # what the page asks for")
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
