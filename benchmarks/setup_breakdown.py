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
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from ari_handlers import events
from ari_handlers.client import AriSettings, Client
from ari_handlers.queues import CallQueues
from ari_handlers.resources import Channel
from benchmarks.setup_time import NUMBER, TALK_S, CallPath
from fairdial.answer import CONTEXT, Answer
from fairdial.clock import Moment, SystemClock
from testbed.asterisk import Switch
from testbed.configuration import Line
from testbed.installation import obtain
from testbed.server import Server, dialplan
from testbed.sipp import Carrier, LoadOutcome, place_calls

APP: Final = "trivial"
PATHS: Final = {
    "Dial() alone": "bare",
    "45 Set(), Dial()": "sets",
    "the question, a trivial application": "trivial",
    "FairDial": "phones",
}
"""The lines that dial on each path; each is named as its context is, and has an endpoint of that name."""

_SETS: Final = "\n".join(f" same => n,Set(LOCAL(x{n})=${{EXTEN}})" for n in range(45))
DIALPLAN: Final = f"""
[bare]
exten => _X.,1,Dial(PJSIP/+44${{EXTEN:1}}@carrier,60)
 same => n,Hangup(${{HANGUPCAUSE}})
[sets]
exten => _X.,1,NoOp()
{_SETS}
 same => n,Goto(bare,${{EXTEN}},1)
[trivial]
exten => _X.,1,Set(FAIRDIAL_APP={APP})
 same => n,Goto(phones,${{EXTEN}},1)
"""
ALLOWED: Final = Answer("ALLOW", "covered", 0, f"+44{NUMBER[1:]}", 14_400, 14_520)


@dataclass
class Spent(CallPath):
    """What one path showed over all rounds. cpu_s: of Asterisk and of FairDial, over all its calls."""

    cpu_s: list[tuple[float, float]] = field(default_factory=list)

    def cpu_ms_a_call(self) -> tuple[float, float]:
        """Milliseconds of Asterisk and of FairDial for each call."""
        calls = len(self.all.calls)
        asterisk, ours = (1000 * sum(each) / calls for each in zip(*self.cpu_s, strict=True))
        return asterisk, ours


def cpu_s(pid: int) -> float:
    """Seconds that a process has had of the processors, by proc(5): utime and stime."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(rate_per_s: int, seconds: int, rounds: int) -> list[Spent]:
    """Run all paths, `rounds` times in turn, `seconds` in all for each."""
    extensions, files = dialplan()
    installation = obtain(progress=lambda text: print(text, file=sys.stderr))
    lines = [Line(name, accountcode=name, context=name) for name in PATHS.values()]
    paths = [Spent(name) for name in PATHS]
    with tempfile.TemporaryDirectory() as directory:
        async with (
            Switch.start(installation, extensions + DIALPLAN, files=files, lines=lines) as switch,
            Carrier.start(switch, logged=False),
            Server.start(switch, Path(directory), {"logs.level": "error"}) as server,
        ):
            await server.account("bench", "kryptotel-in-shadow", PATHS["FairDial"], countries=("GB",))
            application = await _answering(switch)
            try:
                for path in paths:  # warm each once
                    await _load(switch, path.name, rate_per_s, rate_per_s)
                for _ in range(rounds):
                    for path in paths:
                        before = cpu_s(switch.pid), cpu_s(server.pid)
                        path.outcomes.append(
                            await _load(switch, path.name, rate_per_s * seconds // rounds, rate_per_s)
                        )
                        await server.idle(timeout_s=30)
                        path.cpu_s.append((cpu_s(switch.pid) - before[0], cpu_s(server.pid) - before[1]))
            finally:
                await application.stop()
    return paths


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


async def _load(switch: Switch, path: str, count: int, rate_per_s: int) -> LoadOutcome:
    return await place_calls(
        switch,
        line=PATHS[path],
        number=NUMBER,
        count=count,
        rate_per_s=rate_per_s,
        hang_up_after_s=TALK_S,
        timeout_s=30,
    )


def report(paths: list[Spent], rate_per_s: int, seconds: int) -> Table:
    """The table of a run."""
    table = Table(title=f"Set-up time and CPU time a call, {rate_per_s} calls/s for {seconds} s, in ms")
    for column in ("path", "calls", "failed", "mean", "median", "p99", "Asterisk CPU", "FairDial CPU"):
        table.add_column(column, justify="left" if column == "path" else "right")
    for path in paths:
        found = path.all
        table.add_row(
            path.name,
            str(len(found.calls) + found.lost),
            str(_failed(found)),
            *(f"{ms:.1f}" for ms in (found.setup_mean_ms, found.setup_p50_ms, found.setup_p99_ms)),
            *(f"{ms:.1f}" for ms in path.cpu_ms_a_call()),
        )
    return table


def _failed(found: LoadOutcome) -> int:
    return found.lost + sum(found.failed.values())


def main() -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=int, default=50, help="calls a second (50)")
    parser.add_argument("--seconds", type=int, default=20, help="seconds of load on each path (20)")
    parser.add_argument("--rounds", type=int, default=4, help="turns among the paths (4)")
    options = parser.parse_args()
    paths = asyncio.run(measure(options.rate, options.seconds, options.rounds))
    Console(width=None if sys.stdout.isatty() else 140).print(report(paths, options.rate, options.seconds))
    return int(any(_failed(path.all) for path in paths))


if __name__ == "__main__":
    sys.exit(main())
