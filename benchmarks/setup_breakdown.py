"""Where the set-up time goes: each path adds one thing to the one before, with the CPU time of Asterisk and FairDial.

1. `Dial()` alone. 2. The same after 45 lines `Set()`: what a long dialplan costs. 3. The question of fairdial.conf, to
an application that answers ALLOW without a look: our dialplan, and the hop over the event socket. 4. FairDial.
One switch and one FairDial serve all in turn, in rounds, so that noise of the machine falls on each alike. FairDial
and the trivial application both hear of the channels of every path, as FairDial does of all calls of a switch: some
2 ms of Asterisk's CPU time a call for each of the two are in every row. Where other work is done beside it, look at the
CPU time and not at the clock. Status 1 if a call failed.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from functools import partial
from typing import Final

from ari_handlers import events
from ari_handlers.client import AriSettings, Client
from ari_handlers.queues import CallQueues
from ari_handlers.resources import Channel
from benchmarks.measure import (
    BARE,
    BARE_DIALPLAN,
    Outcome,
    Process,
    Sheet,
    Site,
    failures,
    in_turn,
    parser,
    program,
    site,
    together,
)
from benchmarks.setup_time import NUMBER, QUIET, load
from fairdial.answer import CONTEXT, Answer
from fairdial.clock import Moment, SystemClock
from testbed.asterisk import Switch
from testbed.configuration import Line
from testbed.sipp import LoadOutcome

APP: Final = "trivial"
PATHS: Final = {
    BARE: "bench-bare",
    "45 Set(), Dial()": "sets",
    "the question, a trivial application": "trivial",
    "FairDial": "phones",
}
"""The line that calls on each path; each is named as its context is."""

_SETS: Final = "\n".join(f" same => n,Set(LOCAL(x{n})=${{EXTEN}})" for n in range(45))
DIALPLAN: Final = f"""{BARE_DIALPLAN}
[sets]
exten => _X.,1,NoOp()
{_SETS}
 same => n,Goto(bench-bare,${{EXTEN}},1)
[trivial]
exten => _X.,1,Set(FAIRDIAL_APP={APP})
 same => n,Goto(phones,${{EXTEN}},1)
"""
ALLOWED: Final = Answer("ALLOW", "covered", 0, f"+44{NUMBER[1:]}", 14_400, 14_520)


async def measure(rate_per_s: int, seconds: int, rounds: int) -> Outcome:
    """Run all paths, `rounds` times in turn, `seconds` in all for each."""
    lines = [Line(name, accountcode=name, context=name) for name in PATHS.values()]
    async with site(DIALPLAN, lines=lines, settings=QUIET) as at:
        await at.server.account("bench", "kryptotel-in-shadow", PATHS["FairDial"], countries=("GB",))
        application = await _answering(at.switch)
        try:
            for line in PATHS.values():
                await load(at.switch, line, rate_per_s, rate_per_s)  # warm
            count = max(1, rate_per_s * seconds // rounds)
            works = {path: partial(_spent, at, line, count, rate_per_s) for path, line in PATHS.items()}
            done = await in_turn(rounds, works)
        finally:
            await application.stop()
        return report(done, rate_per_s, seconds, at.versions)


async def _spent(at: Site, line: str, count: int, rate_per_s: int) -> tuple[LoadOutcome, float, float]:
    """One load of one line, and the CPU seconds of Asterisk and of FairDial for it."""
    before = Process.of(at.switch.pid), Process.of(at.server.pid)
    outcome = await load(at.switch, line, count, rate_per_s)
    await at.server.idle(timeout_s=30)
    after = Process.of(at.switch.pid), Process.of(at.server.pid)
    asterisk_s, ours_s = (late.cpu_s - early.cpu_s for early, late in zip(before, after, strict=True))
    return outcome, asterisk_s, ours_s


async def _answering(switch: Switch) -> Client:
    """An application on our own client that lets every call through, connected."""
    settings = AriSettings(switch.ari_url, switch.ari_user, switch.ari_password, APP)
    client = Client(settings, SystemClock(), CallQueues())

    async def answer(channel: Channel, _event: events.CallEvent, _moment: Moment) -> None:
        await channel.continue_in_dialplan(CONTEXT, ALLOWED.packed())
        queue = client.queues.find(channel.id)
        if queue is not None:
            queue.close()

    client.on_channel_event("StasisStart", answer)
    await client.start()
    await client.wait_connected(10)
    return client


def report(
    done: dict[str, list[tuple[LoadOutcome, float, float]]],
    rate_per_s: int,
    seconds: int,
    versions: dict[str, str],
) -> Outcome:
    """The table of a run; calls that failed are wrong on each path."""
    rows: list[Sequence[str]] = []
    outcome = Outcome(versions=versions)
    for path, spent in done.items():
        loads, asterisk_s, ours_s = zip(*spent, strict=True)
        found = together(loads)
        calls = len(found.calls) + found.lost
        took_ms = (found.setup_mean_ms, found.setup_p50_ms, found.setup_p99_ms)
        cpu_ms = (1000 * sum(asterisk_s) / calls, 1000 * sum(ours_s) / calls)
        rows.append((path, str(calls), str(failures(found)), *(f"{ms:.1f}" for ms in (*took_ms, *cpu_ms))))
        if failures(found):
            outcome.wrong.append(f"{path}: {failures(found)} calls failed")
    title = f"Set-up time and CPU time a call in ms, {rate_per_s} calls/s for {seconds} s"
    columns = ("path", "calls", "failed", "mean", "median", "p99", "Asterisk CPU", "FairDial CPU")
    outcome.sheets.append(Sheet(title, columns, rows))
    return outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status."""
    options = parser(__doc__)
    options.add_argument("--rate", type=int, default=50, help="calls a second (50)")
    options.add_argument("--seconds", type=int, default=20, help="seconds of load on each path (20)")
    options.add_argument("--rounds", type=int, default=4, help="turns among the paths (4)")

    def run(given: argparse.Namespace) -> Outcome:
        return asyncio.run(measure(given.rate, given.seconds, given.rounds))

    return program("setup_breakdown", options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
