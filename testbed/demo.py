"""The demonstration: real calls through a real Asterisk, each held against what should become of it.

`python -m testbed.demo` places them, prints one table and ends by itself; status 0 only if every call ended
as it should. `--stay` leaves switch, carrier and FairDial up instead, for a softphone.
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

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fairdial.main import load_numbering
from fairdial.policy.numbers import Habit
from testbed.asterisk import Switch
from testbed.configuration import LOOPBACK, Line
from testbed.installation import TestbedError, obtain
from testbed.server import Server, dialplan
from testbed.sipp import CallOutcome, Carrier, place_call
from testbed.switch import describe

ANSWERED = "02079460100"
TOLERANCE_S = 1.0
# Columns of Asterisk's Master.csv (cdr_csv.c).
CDR_DST, CDR_CHANNEL, CDR_USERFIELD = 2, 5, 17

ACCOUNTS = {
    "flat": ("kryptotel", ("alice",)),
    "scarce": ("quota", ("bob", "carol")),
    "brief": ("short", ("dave",)),
}


@dataclass(frozen=True)
class Expected:
    """What should become of a call. talk_s None: it is not answered. decision None: FairDial is not asked."""

    what: str
    line: str
    number: str
    decision: str | None
    reason: str
    status: int
    talk_s: float | None = None
    ended_by: str = "none"
    metered_s: int | None = None

    @property
    def end(self) -> str:
        """The end in words."""
        return _end(self.status, self.talk_s, self.ended_by)


@dataclass(frozen=True)
class Seen:
    """What became of it: the phone's outcome, FairDial's decision and the ledger's seconds."""

    outcome: CallOutcome
    number_class: str
    decision: str | None
    reason: str
    metered_s: int | None

    @property
    def end(self) -> str:
        """The end in words."""
        talk_s = self.outcome.talk_s if self.outcome.answered else None
        return _end(self.outcome.final_status, talk_s, self.outcome.ended_by)


def _end(status: int, talk_s: float | None, ended_by: str) -> str:
    if talk_s is None:
        return f"refused {status}"
    who = {"caller": "caller hangs up", "far_end": "cut by the switch"}.get(ended_by, ended_by)
    return f"{who}, {talk_s:.1f} s"


def as_expected(expected: Expected, seen: Seen) -> bool:
    """Whether a call ended as it should."""
    outcome = seen.outcome
    if (seen.decision, seen.reason, outcome.final_status) != (
        expected.decision,
        expected.reason,
        expected.status,
    ):
        return False
    if outcome.answered != (expected.talk_s is not None) or seen.metered_s != expected.metered_s:
        return False
    if expected.talk_s is None:
        return True
    return outcome.ended_by == expected.ended_by and abs(outcome.talk_s - expected.talk_s) <= TOLERANCE_S


ALLOWED = (
    Expected("a normal number", "alice", ANSWERED, "allow", "covered", 200, 2, "caller", metered_s=2),
    Expected("a premium number", "alice", "09098790000", "refuse", "class_not_covered", 403),
    Expected("a non-geographic number", "alice", "03001234567", "refuse", "class_not_covered", 403),
    Expected("a country outside the plan", "alice", "0081312345678", "refuse", "country_not_covered", 403),
    Expected("an invalid number", "alice", "0207", "refuse", "number_invalid", 484),
    Expected("an emergency number", "alice", "999", None, "emergency", 200, 2, "caller"),
    Expected(
        "a call with a limit of 3 s", "dave", ANSWERED, "allow", "covered", 200, 3, "far_end", metered_s=3
    ),
)
HOLDER = Expected(
    "the quota's last 15 s", "bob", ANSWERED, "allow", "within_allowance", 200, 3, "caller", metered_s=3
)
WHILE_HELD = Expected("a second call meanwhile", "carol", "02079460101", "refuse", "allowance_reserved", 403)
STOPPED = (
    Expected("FairDial stopped: a number", "alice", "02079460102", None, "fairdial_unreachable", 503),
    Expected("FairDial stopped: emergency", "alice", "112", None, "emergency", 200, 2, "caller"),
)


class Demonstration:
    """One run on a switch of its own."""

    def __init__(self, switch: Switch, carrier: Carrier, server: Server, say: Callable[[str], None]) -> None:
        self._switch = switch
        self._carrier = carrier
        self._server = server
        self._say = say
        self._numbering = load_numbering(None)
        self.rows: list[tuple[Expected, Seen]] = []

    async def run(self) -> bool:
        """Place all calls; whether each ended as it should."""
        await provision(self._server)
        for expected in ALLOWED:
            await self._try(expected)
        holder = asyncio.create_task(self._try(HOLDER))
        await self._carrier.call_when("+442079460100", answered=True, timeout_s=10)
        await self._until_reserved()
        await self._try(WHILE_HELD)
        await holder
        await self._server.stop()
        for expected in STOPPED:
            await self._try(expected)
        return all(as_expected(expected, seen) for expected, seen in self.rows)

    async def _until_reserved(self) -> None:
        async with asyncio.timeout(10):
            while not (await self._server.usage("scarce"))["reserved_s"]:
                await asyncio.sleep(0.02)

    async def _try(self, expected: Expected) -> None:
        self._say(f"{expected.line} dials {expected.number}: {expected.what}")
        limit_s = expected.talk_s if expected.ended_by == "caller" else None
        outcome = await place_call(
            self._switch, line=expected.line, number=expected.number, hang_up_after_s=limit_s, timeout_s=20
        )
        self.rows.append((expected, await self._seen(expected, outcome)))

    async def _seen(self, expected: Expected, outcome: CallOutcome) -> Seen:
        record = await self._record(expected) if self._server.running else None
        if record is None:
            # The dialplan decided by itself; the reason stands in the call's CDR.
            number = self._numbering.classify(expected.number, Habit(region="GB"))
            return Seen(outcome, number.number_class, None, await self._reason_in_cdr(expected), None)
        return Seen(
            outcome,
            str(record["number_class"]),
            str(record["decision"]),
            str(record["reason"]),
            await self._metered_s(str(record["call_id"])) if record["decision"] == "allow" else None,
        )

    async def _record(self, expected: Expected) -> dict[str, object] | None:
        rows = await self._server.ask("decisions", limit=100)
        found = (r for r in rows if (r["line_id"], r["dialled"]) == (expected.line, expected.number))
        return next(found, None)

    async def _reason_in_cdr(self, expected: Expected) -> str:
        """What the dialplan wrote into the userfield, once the record is there; "" if none comes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                while True:
                    for row in csv.reader(self._switch.cdr_path.read_text().splitlines()):
                        if (
                            row[CDR_CHANNEL].startswith(f"PJSIP/{expected.line}-")
                            and row[CDR_DST] == expected.number
                        ):
                            return row[CDR_USERFIELD]
                    await asyncio.sleep(0.02)
        return ""

    async def _metered_s(self, call_id: str) -> int | None:
        """The settled seconds of a call, once they are settled."""
        async with asyncio.timeout(10):
            while True:
                grant = await self._server.ask("grant", call=call_id)
                if grant["used_s"] is not None:
                    return int(grant["used_s"])
                await asyncio.sleep(0.02)

    def table(self) -> Table:
        """All calls, expected beside seen."""
        table = Table(title="Calls through Asterisk and FairDial", title_justify="left")
        columns = (
            "call",
            "dialled",
            "class",
            "decision",
            "reason",
            "expected end",
            "real end",
            "metered s",
            "",
        )
        for column in columns:
            table.add_column(column, overflow="fold")
        for expected, seen in self.rows:
            well = as_expected(expected, seen)
            cells = (
                f"{expected.line}: {expected.what}",
                expected.number,
                seen.number_class,
                seen.decision or "(dialplan)",
                seen.reason,
                expected.end,
                seen.end,
                "" if seen.metered_s is None else str(seen.metered_s),
                "ok" if well else "WRONG",
            )
            table.add_row(*(Text(cell) for cell in cells), style=None if well else "red")
        return table


async def provision(server: Server) -> None:
    """The accounts of the demonstration."""
    for account, (policy, lines) in ACCOUNTS.items():
        await server.account(account, policy, *lines)


def _lines(with_passwords: bool) -> list[Line]:
    return [
        Line(
            name,
            accountcode=account,
            context="phones",
            password=secrets.token_urlsafe(9) if with_passwords else None,
        )
        for account, (_policy, names) in ACCOUNTS.items()
        for name in names
    ]


async def demonstrate() -> int:
    """Run it all; the exit status."""
    installation = await asyncio.to_thread(obtain, _say)
    extensions, files = dialplan()
    with tempfile.TemporaryDirectory(prefix="fairdial-demo-") as directory:
        async with (
            Switch.start(installation, extensions, files=files, lines=_lines(False)) as switch,
            Carrier.start(switch) as carrier,
            Server.start(switch, Path(directory)) as server,
        ):
            demonstration = Demonstration(switch, carrier, server, _say)
            well = await demonstration.run()
            left = await switch.no_channels()
    Console(width=None if sys.stdout.isatty() else 190).print(demonstration.table())
    if left:
        print(f"channels left over: {', '.join(left)}")
    return 0 if well and not left else 1


async def stay(sip_host: str) -> int:
    """Keep switch, carrier and FairDial up until Ctrl-C."""
    installation = await asyncio.to_thread(obtain, _say)
    extensions, files = dialplan()
    lines = _lines(True)
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    with tempfile.TemporaryDirectory(prefix="fairdial-") as directory:
        async with (
            Switch.start(installation, extensions, files=files, lines=lines, sip_host=sip_host) as switch,
            Carrier.start(switch),
            Server.start(switch, Path(directory)) as server,
        ):
            await provision(server)
            print(describe(switch, lines))
            for account, (policy, names) in ACCOUNTS.items():
                print(f"  account {account} on policy {policy}: {', '.join(names)}")
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
