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

TOLERANCE_S = 1.0
CALL_WITHIN_S = 20.0
WIDTH = 190
# Columns of Asterisk's Master.csv (cdr_csv.c).
CDR_DST, CDR_CHANNEL, CDR_USERFIELD = 2, 5, 17

LONDON, BERLIN, MADRID, TOKYO = "02079460100", "00493012345678", "0034911234567", "0081312345678"
PREMIUM, NON_GEOGRAPHIC, INVALID, VOICEMAIL = "09098790000", "03001234567", "0207", "*97"


@dataclass(frozen=True)
class Expected:
    """What should become of a call.

    line: the one that pays. decision None: FairDial is not asked. talk_s None: the call is not answered. metered:
    seconds by allowance, or in all where no allowance counts them. charge: amount, currency and clause. caller: who
    calls where it is not the line. during: a call while this one is up. suspend: the account is suspended after talk_s.
    """

    what: str
    line: str
    number: str
    decision: str | None
    reason: str
    clause: str = ""
    status: int = 200
    talk_s: float | None = None
    cut: bool = False
    metered: str = ""
    charge: str = ""
    caller: str | None = None
    during: Expected | None = None
    suspend: bool = False

    @property
    def end(self) -> str:
        """The end in words."""
        return _end(self.status, self.talk_s, self.cut)


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
    if expected.talk_s is None or not outcome.answered:
        return (expected.talk_s is None) is not outcome.answered
    ended_by = "far_end" if expected.cut else "caller"
    return outcome.ended_by == ended_by and abs(outcome.talk_s - expected.talk_s) <= TOLERANCE_S


def _talk(
    what: str,
    line: str,
    number: str,
    reason: str,
    clause: str,
    talk_s: float,
    metered: str,
    charge: str = "",
    *,
    cut: bool = False,
    caller: str | None = None,
    during: Expected | None = None,
    suspend: bool = False,
) -> Expected:
    return Expected(
        what,
        line,
        number,
        "allow",
        reason,
        clause,
        talk_s=talk_s,
        cut=cut,
        metered=metered,
        charge=charge,
        caller=caller,
        during=during,
        suspend=suspend,
    )


def _refused(what: str, line: str, number: str, reason: str, clause: str, status: int = 403) -> Expected:
    return Expected(what, line, number, "refuse", reason, clause, status)


def _emergency(line: str, number: str = "999", what: str = "emergency") -> Expected:
    return Expected(what, line, number, None, "emergency", talk_s=1)


@dataclass(frozen=True)
class Scene:
    """Calls of one account, one after the other. Scenes run at the same time: no account is in two of them."""

    account: str
    calls: tuple[Expected, ...]


SCENES = (
    Scene(
        "kryptotel",
        (
            _talk("K1 a country bought", "alice", LONDON, "covered", "K1", 2, "voice 2"),
            _talk("K1 another one", "alice", BERLIN, "covered", "K1", 2, "voice 2"),
            _refused("K2 premium", "alice", PREMIUM, "class_not_covered", "K2"),
            _refused("K2 non-geographic", "alice", NON_GEOGRAPHIC, "class_not_covered", "K2"),
            _refused("an invalid number", "alice", INVALID, "number_invalid", "always", 484),
            _talk("K4 on credit", "alice", MADRID, "by_credit", "K4", 3, "3", "0.08 EUR K4"),
            _talk("K4 dialled again", "alice", MADRID, "by_credit", "K4", 3, "3", "0.08 EUR K4"),
            _talk("K4 to the last cent", "alice", MADRID, "by_credit", "K4", 2, "2", "0.07 EUR K4", cut=True),
            _refused("K4 no credit left", "alice", MADRID, "credit_too_low", "K4"),
            _emergency("alice"),
        ),
    ),
    Scene(
        "kryptotel-small",
        (
            _talk("K3 the longest call", "dave", LONDON, "covered", "K1", 3, "voice 3", cut=True),
            _talk("K3 dialled again", "dave", LONDON, "covered", "K1", 2, "voice 2"),
            _talk("K12 suspended", "dave", LONDON, "covered", "K1", 1, "voice 1", cut=True, suspend=True),
            _refused("K12 is suspended", "dave", LONDON, "account_suspended", "K12"),
            _emergency("dave", "112", "suspended, emergency"),
        ),
    ),
    Scene(
        "acceptable-use",
        (
            _talk("A4 shows its number", "erin", LONDON, "within_allowance", "A8", 1, "day 1"),
            _refused("A4 shows another's", "eve", LONDON, "caller_not_own", "A4"),
            _refused("A1 premium", "erin", PREMIUM, "class_not_covered", "A1"),
            _emergency("eve", what="another's, emergency"),
        ),
    ),
    Scene(
        "acceptable-use-small",
        (
            _talk("A8 the longest call", "frank", LONDON, "within_allowance", "A8", 3, "day 3", cut=True),
            _talk("A8 a shorter one", "frank", LONDON, "within_allowance", "A8", 1, "day 1"),
            _emergency("frank"),
        ),
    ),
    Scene(
        "redconnect",
        (
            _talk("R1 local", "grace", LONDON, "within_allowance", "R1", 2, "voice 2"),
            _talk("R1 international", "grace", TOKYO, "within_allowance", "R1", 2, "voice 2"),
            _refused("R1 premium", "grace", PREMIUM, "class_not_covered", "R1"),
            _emergency("grace"),
        ),
    ),
    Scene(
        "redconnect-small",
        (
            _talk(
                "R1 inbound",
                "henry",
                "442079460203",
                "within_allowance",
                "R1",
                2,
                "voice 2",
                caller="carrier",
            ),
            _talk("R1 outbound", "henry", LONDON, "within_allowance", "R1", 2, "voice 2"),
            _talk("R2 voicemail", "henry", VOICEMAIL, "not_counted", "R2", 1, "0"),
            _talk(
                "R3 passes the limit",
                "henry",
                LONDON,
                "within_allowance",
                "R1",
                4,
                "voice 1, past 3",
                "0.04 USD R3",
            ),
            _talk("R3 past it", "henry", LONDON, "past_allowance", "R3", 2, "past 2", "0.04 USD R3"),
            _emergency("henry"),
        ),
    ),
    Scene(
        "voxdirect",
        (
            _talk("V1 a country of the plan", "iris", LONDON, "within_allowance", "V1", 2, "voice 2"),
            _talk("V1 another one", "iris", BERLIN, "within_allowance", "V1", 2, "voice 2"),
            _refused("V1 outside the plan", "iris", TOKYO, "country_not_covered", "V1"),
            _emergency("iris"),
        ),
    ),
    Scene(
        "voxdirect-small",
        (
            _talk("V6 callback", "ivan", world.CALLBACK + LONDON, "within_allowance", "V6", 2, "voice 4"),
            _talk(
                "V1 a second line",
                "ines",
                LONDON,
                "within_allowance",
                "V1",
                4,
                "voice 2, past 2",
                "0.02 USD V2",
            ),
            _talk("V2 past the limit", "ines", BERLIN, "past_allowance", "V2", 2, "past 2", "0.02 USD V2"),
            _talk(
                "V6 callback past it",
                "ivan",
                world.CALLBACK + LONDON,
                "past_allowance",
                "V2",
                2,
                "past 4",
                "0.04 USD V2",
            ),
            _emergency("ivan"),
        ),
    ),
    Scene(
        "spokephone",
        (
            _talk("S1 outbound", "judy", LONDON, "covered", "S1", 2, "outbound 2"),
            _talk("S1 inbound", "judy", "442079460204", "covered", "S1", 2, "inbound 2", caller="carrier"),
            _talk("S1 internal", "judy", "101", "covered", "S1", 2, "internal 2"),
            _refused("S8 premium", "judy", PREMIUM, "class_not_covered", "S8"),
            _refused("S1 outside the plan", "judy", TOKYO, "country_not_covered", "S1"),
            _emergency("judy"),
        ),
    ),
    Scene(
        "contact-centre",
        (
            _talk("S5 surcharge agreed", "leo", LONDON, "covered", "S1", 3, "outbound 3", "0.0005 USD S5"),
            _emergency("leo"),
        ),
    ),
    Scene(
        "scarce",
        (
            _talk(
                "the last 15 s",
                "bob",
                LONDON,
                "within_allowance",
                "Q4",
                3,
                "voice 3",
                during=_refused("meanwhile", "carol", LONDON, "allowance_reserved", "Q4"),
            ),
            _emergency("carol"),
        ),
    ),
)
STOPPED = Scene(
    "kryptotel",
    (
        Expected("a number", "alice", LONDON, None, "fairdial_unreachable", status=503),
        _emergency("alice", "112"),
    ),
)


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
        async with asyncio.TaskGroup() as group:
            running = [(scene, group.create_task(self._play(scene))) for scene in SCENES]
        self.tables += [(_title(scene.account), task.result()) for scene, task in running]
        await self._server.stop()
        self.tables.append(("FairDial is stopped: the dialplan decides", await self._play(STOPPED)))
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
            return Seen(outcome, number.number_class, None, await self._reason_in_cdr(expected))
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
            return Known(None, {})
        record = await self._newest(account, line)
        sheet = await self._server.ask("usage", account=account)
        return Known(record["call_id"] if record else None, _counted(sheet))

    async def _newest(self, account: str, line: str) -> dict[str, Any] | None:
        """The newest decision about a dial of that line."""
        if not self._server.running:
            return None
        rows = await self._server.ask("decisions", account=account)
        return next((row for row in rows if row["line_id"] == line), None)

    async def _reason_in_cdr(self, expected: Expected) -> str:
        """What the dialplan wrote into the userfield, once the record is there; "" if none comes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                while True:
                    for row in reversed(list(csv.reader(self._switch.cdr_path.read_text().splitlines()))):
                        if (
                            row[CDR_CHANNEL].startswith(f"PJSIP/{expected.line}-")
                            and row[CDR_DST] == expected.number
                        ):
                            return row[CDR_USERFIELD]
                    await asyncio.sleep(0.02)
        return ""

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
        widths = [max(map(len, column)) for column in zip(*every, strict=True)]
        for index, (title, rows) in enumerate(shown):
            table = Table(title=title, title_justify="left", show_header=index == 0)
            for column, width in zip(COLUMNS, widths, strict=True):
                table.add_column(column, overflow="fold", width=width)
            for cells in rows:
                table.add_row(*map(Text, cells), style=None if cells[-1] == "ok" else "red")
            console.print(table)


@dataclass(frozen=True)
class Known:
    """What stood in the ledger before a call: the line's newest decision, the account's seconds by allowance."""

    call_id: str | None
    counted: dict[str, int]


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
        return found or "" if found == wanted else f"{found or 'none'}, not {wanted or 'none'}"

    return (
        f"{expected.line}: {expected.what}",
        expected.number,
        seen.number_class,
        held(seen.decision or "dialplan", expected.decision or "dialplan"),
        held(seen.reason, expected.reason),
        held(seen.clause, expected.clause),
        expected.end,
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
