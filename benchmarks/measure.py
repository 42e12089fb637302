"""What the benchmarks share: the command line, tables, the record of a run, the machine, and the place where calls go.

A benchmark measures and answers with an `Outcome`; `program` prints it and, with `--record FOLDER`, writes it down as
FOLDER/NAME.json, which `benchmarks.results` puts together. What is measured, and how, is each benchmark's own.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import re
import shlex
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from testbed.asterisk import Switch
from testbed.configuration import DEFAULT_LINES, Line
from testbed.installation import obtain
from testbed.server import Server, dialplan
from testbed.sipp import Carrier, LoadOutcome

RECORD = "BENCH_RECORD"
"""The folder of `--record`, for who runs all benchmarks alike."""
BARE = "Dial() alone"
BARE_DIALPLAN = """
[bench-bare]
exten => _X.,1,Dial(PJSIP/+44${EXTEN:1}@carrier,60)
 same => n,Hangup(${HANGUPCAUSE})
"""
"""What every path is held against: the same call, with nobody asked."""

T = TypeVar("T")


@dataclass(frozen=True)
class Sheet:
    """A table. Its first `words` columns are words, the others figures; all cells are text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    caption: str = ""


@dataclass
class Outcome:
    """What a benchmark found.

    budgets: the measured figure by the budget's name (`benchmarks/budgets.py`), where it was measured at the size
    that the budget speaks of. wrong: what is not as it must be, a line each; the exit status is then 1. versions: of
    the programs that took part, beside Python and SQLite.
    """

    sheets: list[Sheet] = field(default_factory=list)
    budgets: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)


def parser(text: str | None) -> argparse.ArgumentParser:
    """A command line whose help is the benchmark's docstring, and which can record."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--record",
        type=Path,
        metavar="FOLDER",
        default=os.environ.get(RECORD),
        help="write what was found there, as JSON",
    )
    return made


def program(
    name: str,
    options: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace], Outcome],
    arguments: Sequence[str] | None = None,
) -> int:
    """Measure, print, record; the exit status. name: the benchmark's, as in `python -m benchmarks.NAME`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parsed = options.parse_args(given)
    began_s = time.monotonic()
    outcome = measure(parsed)
    show(outcome)
    if parsed.record is not None:
        write(parsed.record, name, given, outcome, time.monotonic() - began_s)
    return int(bool(outcome.wrong))


def show(outcome: Outcome) -> None:
    """Print what was found."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    for sheet in outcome.sheets:
        table = Table(title=sheet.title, caption=sheet.caption or None)
        for index, column in enumerate(sheet.columns):
            table.add_column(column, justify="left" if index < sheet.words else "right")
        for row in sheet.rows:
            table.add_row(*row)
        console.print(table)
    for each in outcome.wrong:
        print(f"wrong: {each}")


def write(folder: Path, name: str, arguments: Sequence[str], outcome: Outcome, took_s: float) -> None:
    """The record of a run. Without `--record` itself in the command, which is the reader's to choose."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "benchmark": name,
        "command": command_of(name, arguments),
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "took_s": round(took_s, 1),
        "machine": machine(),
        **asdict(outcome),
    }
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def command_of(name: str, arguments: Sequence[str]) -> str:
    """The command line that measures the same again."""
    kept, skip = [], False
    for argument in arguments:
        if not skip and not argument.startswith("--record"):
            kept.append(argument)
        skip = argument == "--record"
    return shlex.join(["python", "-m", f"benchmarks.{name}", *kept])


def machine() -> dict[str, str]:
    """What was measured on."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    release = re.search(r'^PRETTY_NAME="?([^"\n]+)', _read("/etc/os-release"), re.MULTILINE)
    return {
        "processor": cpu[1] if cpu else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{int(memory[1]) / 1024**2:.1f} GiB" if memory else "unknown",
        "kernel": f"{platform.system()} {platform.release()}",
        "system": release[1] if release else "unknown",
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def postgres_version(programs: Path) -> str:
    """Of the server whose programs lie there, as 15.13."""
    said = subprocess.run(
        [str(programs / "postgres"), "--version"], capture_output=True, text=True, timeout=10
    ).stdout
    found = re.search(r"\d+(\.\d+)*", said)
    return found[0] if found else "unknown"


def percentile(values: Sequence[float], percent: float) -> float:
    """The least value that `percent` of them do not exceed (nearest rank). Raises ValueError where there is none."""
    if not values:
        raise ValueError("nothing was measured, so there is no percentile")
    return sorted(values)[max(0, -int(-len(values) * percent // 100) - 1)]


def rates_per_s(works: Mapping[str, Callable[[], object]], count: int, rounds: int) -> dict[str, list[float]]:
    """How often a second each work, which does `count` things, does one of them: once a round, in turn."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            gc.collect()
            began_s = time.perf_counter()
            work()
            found[name].append(count / (time.perf_counter() - began_s))
    return found


async def in_turn(rounds: int, works: Mapping[str, Callable[[], Awaitable[T]]]) -> dict[str, list[T]]:
    """Do each work `rounds` times, one after the other in turn, so that the machine's moods fall on all alike."""
    done: dict[str, list[T]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            done[name].append(await work())
    return done


def together(outcomes: Sequence[LoadOutcome]) -> LoadOutcome:
    """Several loads as one."""
    return LoadOutcome(
        tuple(call for outcome in outcomes for call in outcome.calls),
        sum(outcome.lost for outcome in outcomes),
        sum(outcome.retransmissions for outcome in outcomes),
    )


def failures(outcome: LoadOutcome) -> int:
    """Calls that came to no conversation."""
    return outcome.lost + sum(outcome.failed.values())


@dataclass(frozen=True)
class Process:
    """What a process had taken at one moment."""

    rss_kib: int
    cpu_s: float
    files: int

    @classmethod
    def of(cls, pid: int) -> Process:
        """Of that process now: its resident memory, the CPU seconds of all its threads, the files it has open."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        ticks = int(fields[11]) + int(fields[12])
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        return cls(pages * os.sysconf("SC_PAGE_SIZE") // 1024, ticks / os.sysconf("SC_CLK_TCK"), files)


@dataclass(frozen=True)
class Site:
    """A switch, the phones that it calls, and a FairDial beside it."""

    switch: Switch
    carrier: Carrier
    server: Server

    @property
    def versions(self) -> dict[str, str]:
        """For `Outcome.versions`."""
        return {"Asterisk": self.switch.installation.version}


@asynccontextmanager
async def site(
    extra: str = "",
    *,
    lines: Sequence[Line] = DEFAULT_LINES,
    settings: Mapping[str, object] | None = None,
    files: Mapping[str, str] | None = None,
    logged: bool = False,
    tls: bool = False,
    launch: bool = True,
) -> AsyncIterator[Site]:
    """A switch with the project's dialplan and `extra` behind it, its carrier, and FairDial, until the block ends.

    settings: FairDial's. files: of the switch, beside the project's. logged: the carrier's phones write down what
    they see. Without `launch` FairDial is only made ready: `site.server.launch()`.
    """
    installation = await asyncio.to_thread(obtain, progress)
    extensions, shipped = dialplan()
    with tempfile.TemporaryDirectory() as directory:
        async with (
            Switch.start(
                installation,
                extensions + extra,
                files={**shipped, **(files or {})},
                lines=lines,
                tls=tls,
            ) as switch,
            Carrier.start(switch, logged=logged) as carrier,
        ):
            server = Server(switch, Path(directory), settings or {})
            try:
                if launch:
                    await server.launch()
                yield Site(switch, carrier, server)
            finally:
                await server.stop()


def progress(text: str) -> None:
    """What is being done, beside the tables."""
    print(text, file=sys.stderr, flush=True)


@asynccontextmanager
async def going_on(work: Awaitable[Any]) -> AsyncIterator[asyncio.Future[Any]]:
    """Something that goes on meanwhile, and is ended with the block."""
    running = asyncio.ensure_future(work)
    try:
        yield running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
