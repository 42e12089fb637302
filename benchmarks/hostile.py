"""Calls while somebody attacks: set-up time through FairDial beside bare `Dial()`, and what FairDial answers meanwhile.

One switch, one FairDial and one attacker on the same cores. While each attack goes on, calls are placed on both paths
at once, so that what the attacker takes from the machine falls on both alike; what a path has beyond that is its own.
Attacks: none; SIPVicious' svmap, svwar and svcrack; 10,000 malformed SIP and FastAGI messages, as fast as the machine
sends them. Status 1 where anything was let through, more calls failed through FairDial than on the bare switch, or
its slowest took more than 100 ms longer.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from benchmarks.measure import (
    BARE,
    BARE_DIALPLAN,
    Outcome,
    Sheet,
    failures,
    parser,
    program,
    progress,
    site,
    together,
)
from testbed.asterisk import Switch
from testbed.configuration import Line
from testbed.hostile import Probe, probing, scan_all, send_malformed
from testbed.installation import obtain_sipvicious
from testbed.sipp import LoadOutcome, place_calls
from testbed.tls import tunnel

NUMBER, NUMBER_E164 = "02079460100", "+442079460100"
PREMIUM = "09098790000"
RATE_PER_S = 5
TALK_S = 0.5
STALL_MS = 100.0
ATTACK_WITHIN_S = 300.0
PASSWORDS = ("secret", "1234", "7001", "admin", "password") * 20

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


async def measure(seconds: int) -> Outcome:
    """All attacks in turn."""
    programs = obtain_sipvicious(progress=progress)
    seen = []
    # With the guard as it is by default; the attacker has an address of its own.
    settings = {"logs.level": "error", "desk.attempts_per_s_source": 50}
    async with (
        site(BARE_DIALPLAN, lines=LINES, settings=settings, logged=True, tls=True) as at,
        tunnel(at.switch) as stream_port,
    ):
        switch = at.switch
        await at.server.account("good", "kryptotel-in-shadow", "gated", countries=("GB",))
        await at.server.account("acme", "voxdirect-in-shadow", "bob", "7001", "probe", countries=("GB",))
        attacks: dict[str, Callable[[], Awaitable[object]]] = {
            "none": lambda: asyncio.sleep(seconds),
            "scanner": lambda: scan_all(programs, switch, "7001", PASSWORDS),
            "10,000 malformed": lambda: send_malformed(switch, stream_port, "bob", PREMIUM),
        }
        await load(switch, "gated", 10)  # warm
        for name, attack in attacks.items():
            seen.append(await under(switch, name, attack))
            await switch.no_channels(40)
        await at.server.idle(timeout_s=30)
        reached = {call.number for call in at.carrier.calls()}
    return Outcome([report(seen)], wrong=faults(seen, reached), versions=at.versions)


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


def report(seen: list[Seen]) -> Sheet:
    """The table of a run."""
    rows: list[Sequence[str]] = []
    for each in seen:
        for path, found in ((BARE, each.bare), ("FairDial", each.gated)):
            values = (found.setup_p50_ms, found.setup_p99_ms, found.setup_ms[-1])
            counts = (str(len(found.calls) + found.lost), str(failures(found)))
            rows.append((each.attack, path, *counts, *(f"{value:.1f}" for value in values)))
        asked = tuple(each.probe.percentile_s(share) * 1000 for share in (0.5, 0.99, 1.0))
        answers = str(len(each.probe.took_s))
        late = str(each.probe.answers.get("FAILED*too_late", 0))
        rows.append((each.attack, "question by AGI", answers, late, *(f"{value:.1f}" for value in asked)))
    title = f"Set-up time in ms, {RATE_PER_S} calls/s on each path, while somebody attacks"
    return Sheet(title, ("attack", "path", "calls", "failed", "median", "p99", "slowest"), rows, words=2)


def faults(seen: list[Seen], reached: set[str]) -> list[str]:
    """What an attacker came to. reached: the numbers that reached the carrier."""
    wrong = [f"{number} was let through" for number in sorted(reached - {NUMBER_E164})]
    for each in seen:
        if failures(each.gated) > failures(each.bare):
            wrong.append(
                f"{each.attack}: {failures(each.gated)} calls failed, {failures(each.bare)} without us"
            )
        if each.held_up_ms > STALL_MS:
            wrong.append(f"{each.attack}: a call was held up for {each.held_up_ms:.0f} ms longer")
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status."""
    options = parser(__doc__)
    options.add_argument("--seconds", type=int, default=20, help="seconds without an attack (20)")

    def run(given: argparse.Namespace) -> Outcome:
        return asyncio.run(measure(given.seconds))

    return program("hostile", options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
