"""Calls while somebody attacks: set-up time through FairDial beside bare `Dial()`, and what FairDial answers meanwhile.

One switch, one FairDial and one attacker on the same cores. While each attack goes on, calls are placed on both paths
at once, so that what the attacker takes from the machine falls on both alike; what a path has beyond that is its own.
Attacks: none; SIPVicious' svmap, svwar and svcrack; 10,000 malformed SIP and FastAGI messages, as fast as the machine
sends them. Status 1 where anything was let through, more calls failed through FairDial than on the bare switch, or
its slowest took more than 100 ms longer.
"""

import argparse
import asyncio
import os
import platform
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from testbed.asterisk import Switch
from testbed.configuration import Line
from testbed.hostile import Probe, probing, scan_all, send_malformed
from testbed.installation import obtain, obtain_sipvicious
from testbed.server import Server, dialplan
from testbed.sipp import Carrier, LoadOutcome, place_calls
from testbed.tls import tunnel

NUMBER, NUMBER_E164 = "02079460100", "+442079460100"
PREMIUM = "09098790000"
RATE_PER_S = 5
TALK_S = 0.5
STALL_MS = 100.0
ATTACK_WITHIN_S = 300.0
PASSWORDS = ("secret", "1234", "7001", "admin", "password") * 20

BARE = """
[bench-bare]
exten => _X.,1,Dial(PJSIP/+44${EXTEN:1}@carrier,60)
 same => n,Hangup(${HANGUPCAUSE})
"""
LINES = (
    Line("bare", accountcode="bare", context="bench-bare"),
    Line("gated", accountcode="gated", context="phones"),
    Line("7001", accountcode="acme", context="phones", password="not to be guessed"),
    *(Line(name, accountcode="acme", context="phones") for name in ("bob", "dave", "probe")),
)


@dataclass(frozen=True)
class Seen:
    """What one attack showed."""

    attack: str
    bare: LoadOutcome
    gated: LoadOutcome
    probe: Probe

    @property
    def held_up_ms(self) -> float:
        """By how much the slowest call through FairDial took longer than the slowest on the bare switch."""
        return self.gated.setup_ms[-1] - self.bare.setup_ms[-1]


async def measure(seconds: int) -> tuple[list[Seen], set[str]]:
    """All attacks in turn; what was seen, and the numbers that reached the carrier."""
    installation = obtain(progress=lambda text: print(text, file=sys.stderr))
    programs = obtain_sipvicious(progress=lambda text: print(text, file=sys.stderr))
    extensions, files = dialplan()
    seen = []
    with tempfile.TemporaryDirectory() as directory:
        async with (
            Switch.start(installation, extensions + BARE, files=files, lines=LINES, tls=True) as switch,
            tunnel(switch) as stream_port,
            Carrier.start(switch) as carrier,
            # With the guard as it is by default; the attacker has an address of its own.
            Server.start(
                switch, Path(directory), {"logs.level": "error", "desk.attempts_per_s_source": 50}
            ) as server,
        ):
            print(
                f"Asterisk {installation.version}, Python {platform.python_version()}, {os.cpu_count()} cores"
            )
            await server.account("good", "kryptotel-in-shadow", "gated", countries=("GB",))
            await server.account("acme", "voxdirect-in-shadow", "bob", "7001", "probe", countries=("GB",))
            attacks: dict[str, Callable[[], Awaitable[object]]] = {
                "none": lambda: asyncio.sleep(seconds),
                "scanner": lambda: scan_all(programs, switch, "7001", PASSWORDS),
                "10,000 malformed": lambda: send_malformed(switch, stream_port, "bob", PREMIUM),
            }
            await load(switch, "gated", 10)  # warm
            for name, attack in attacks.items():
                seen.append(await under(switch, name, attack))
                await switch.no_channels(40)
            await server.idle(timeout_s=30)
            return seen, {call.number for call in carrier.calls()}


async def under(switch: Switch, name: str, attack: Callable[[], Awaitable[object]]) -> Seen:
    """Calls on both paths, side by side, until an attack is over."""
    bare: list[LoadOutcome] = []
    gated: list[LoadOutcome] = []
    async with probing(switch.agi_port, "probe", PREMIUM) as probe:
        attacking = asyncio.ensure_future(asyncio.wait_for(attack(), ATTACK_WITHIN_S))
        while not attacking.done() or not bare:
            # A few seconds at a time, so that the last begin while it goes on.
            outcomes = await asyncio.gather(
                load(switch, "bare", 3 * RATE_PER_S), load(switch, "gated", 3 * RATE_PER_S)
            )
            bare.append(outcomes[0])
            gated.append(outcomes[1])
        await attacking
    return Seen(name, together(bare), together(gated), probe)


async def load(switch: Switch, line: str, count: int) -> LoadOutcome:
    """Calls of one line."""
    return await place_calls(
        switch,
        line=line,
        number=NUMBER,
        count=count,
        rate_per_s=RATE_PER_S,
        hang_up_after_s=TALK_S,
        timeout_s=30,
    )


def together(outcomes: list[LoadOutcome]) -> LoadOutcome:
    """All of one path."""
    return LoadOutcome(
        tuple(call for outcome in outcomes for call in outcome.calls),
        sum(outcome.lost for outcome in outcomes),
        sum(outcome.retransmissions for outcome in outcomes),
    )


def failures(outcome: LoadOutcome) -> int:
    """Calls that came to no conversation."""
    return outcome.lost + sum(outcome.failed.values())


def report(seen: list[Seen]) -> Table:
    """The table of a run."""
    table = Table(title=f"Set-up time in ms, {RATE_PER_S} calls/s on each path, while somebody attacks")
    for column in ("attack", "path", "calls", "failed", "median", "p99", "slowest"):
        table.add_column(column, justify="left" if column in ("attack", "path") else "right")
    for each in seen:
        for path, found in (("Dial() alone", each.bare), ("FairDial", each.gated)):
            values = (found.setup_p50_ms, found.setup_p99_ms, found.setup_ms[-1])
            counts = (str(len(found.calls) + found.lost), str(failures(found)))
            table.add_row(each.attack, path, *counts, *(f"{value:.1f}" for value in values))
        asked = tuple(each.probe.percentile_s(share) * 1000 for share in (0.5, 0.99, 1.0))
        answers = str(len(each.probe.took_s))
        late = str(each.probe.answers.get("FAILED*too_late", 0))
        table.add_row(each.attack, "question by AGI", answers, late, *(f"{value:.1f}" for value in asked))
    return table


def main() -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=20, help="seconds without an attack (20)")
    options = parser.parse_args()
    seen, reached = asyncio.run(measure(options.seconds))
    Console(width=None if sys.stdout.isatty() else 140).print(report(seen))
    wrong = [f"{number} was let through" for number in sorted(reached - {NUMBER_E164})]
    for each in seen:
        if failures(each.gated) > failures(each.bare):
            wrong.append(
                f"{each.attack}: {failures(each.gated)} calls failed, {failures(each.bare)} without us"
            )
        if each.held_up_ms > STALL_MS:
            wrong.append(f"{each.attack}: a call was held up for {each.held_up_ms:.0f} ms longer")
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
