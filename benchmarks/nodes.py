"""How many steps a second several nodes do over one PostgreSQL, against one node: authorise and settle, on the disk.

A node is a process with its own ledger over the same database; the callers, each with an account of their own, are
shared out among the nodes. All nodes and the server are on this machine: what they take of its cores is shown, which
tells whether more nodes could do more here. Status 1 where a node does not finish.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ledger_steps
from benchmarks.measure import Outcome, Sheet, parser, percentile, postgres_version, program
from fairdial.ledger.postgres import PostgresLedger
from testbed.installation import TestbedError
from testbed.postgres import Cluster, obtain_postgres

NODES = (1, 2, 4)
CALLERS = 64
START_WITHIN_S = 60.0
IDLE = 0.1
"""Where no more of the cores is idle, they are what holds the nodes up."""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Figure:
    """Of so many nodes. nodes_cores, server_cores: how many cores they kept busy; idle_cores: how many did nothing."""

    nodes: int
    steps_per_s: float
    took_ms: Sequence[float]
    nodes_cores: float
    server_cores: float
    idle_cores: float


async def node(url: str, name: str, callers: int, seconds: float) -> None:
    """Be a node: open the ledger, say so, begin when told, tell what was done, and stay until stdin ends."""
    ledger = await PostgresLedger.open(url, locked_ms=2_000)
    try:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        began_s, cpu_s = time.perf_counter(), time.process_time()
        figure = await ledger_steps.measure("PostgreSQL", ledger, callers, seconds, f"{name}-")
        told = {
            "calls": figure.calls,
            "lasted_s": figure.lasted_s,
            "cores": (time.process_time() - cpu_s) / (time.perf_counter() - began_s),
            "took_ms": figure.took_ms,
        }
        print(json.dumps(told), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
    finally:
        await ledger.close()


@asynccontextmanager
async def started(
    url: str, name: str, callers: int, seconds: float
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A node of its own process, ended with the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.nodes", "--node", url, "--name", name),
        *("--callers", str(callers), "--seconds", str(seconds)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**26,  # it tells of each call in one line
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _said(process: asyncio.subprocess.Process, within_s: float) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(within_s):
        line = await process.stdout.readline()
    if not line:
        raise TestbedError(f"a node ended with status {await process.wait()}; what it said stands above")
    return line.decode()


async def figure(cluster: Cluster, count: int, callers: int, seconds: float) -> Figure:
    """So many nodes over a database that is empty before."""
    with cluster.database() as name:
        async with contextlib.AsyncExitStack() as running:
            nodes = [
                await running.enter_async_context(
                    started(cluster.url(name), f"node{number}", max(1, callers // count), seconds)
                )
                for number in range(count)
            ]
            for process in nodes:
                await _said(process, START_WITHIN_S)
            began_s, cpu_s, idle_s = time.perf_counter(), server_cpu_s(cluster), idle_cpu_s()
            for process in nodes:
                assert process.stdin is not None
                process.stdin.write(b"go\n")
            told = [json.loads(await _said(process, seconds + START_WITHIN_S)) for process in nodes]
            lasted_s = time.perf_counter() - began_s
            server_cores = (server_cpu_s(cluster) - cpu_s) / lasted_s
            idle_cores = (idle_cpu_s() - idle_s) / lasted_s
    return Figure(
        count,
        sum(2 * each["calls"] / each["lasted_s"] for each in told),
        [took_ms for each in told for took_ms in each["took_ms"]],
        sum(each["cores"] for each in told),
        server_cores,
        idle_cores,
    )


def idle_cpu_s() -> float:
    """Seconds in which the machine's cores did nothing, so far; waiting for the disk is nothing."""
    return sum(map(int, Path("/proc/stat").read_text().split(maxsplit=6)[4:6])) / TICKS_PER_S


def server_cpu_s(cluster: Cluster) -> float:
    """CPU seconds of the server and of all that it started, so far."""
    main = int((cluster.folder / "data" / "postmaster.pid").read_text().split()[0])
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            fields = stat.read_text().rpartition(")")[2].split()
            if int(stat.parent.name) == main:
                ticks += sum(map(int, fields[11:15]))  # with those of its children that ended
            elif int(fields[1]) == main:
                ticks += sum(map(int, fields[11:13]))
    return ticks / TICKS_PER_S


async def measure(counts: Sequence[int], callers: int, seconds: float, rounds: int) -> Outcome:
    """Each number of nodes in turn."""
    programs = obtain_postgres()
    cluster = Cluster(programs, disk=True)
    found: dict[int, list[Figure]] = {count: [] for count in counts}
    try:
        cluster.start()
        for _ in range(rounds):
            for count in counts:
                found[count].append(await figure(cluster, count, callers, seconds))
    finally:
        cluster.remove()
    outcome = report(found, callers)
    outcome.versions["PostgreSQL"] = postgres_version(programs)
    return outcome


def report(found: dict[int, list[Figure]], callers: int) -> Outcome:
    """The table of a run: medians of the rounds."""
    cores = len(os.sched_getaffinity(0))
    rows: list[Sequence[str]] = []
    first = 0.0
    idlest = 0.0
    for count, figures in found.items():
        steps_per_s, nodes, server, idle = (
            statistics.median(values)
            for values in zip(
                *(
                    (each.steps_per_s, each.nodes_cores, each.server_cores, each.idle_cores)
                    for each in figures
                ),
                strict=True,
            )
        )
        first = first or steps_per_s
        idlest = idle / cores
        took_ms = [took for each in figures for took in each.took_ms]
        times = (statistics.median(took_ms), percentile(took_ms, 99))
        rows.append(
            (
                *(str(count), f"{steps_per_s:,.0f}", f"{steps_per_s / first:.2f}"),
                *(f"{each:.1f}" for each in (*times, nodes, server, idle)),
            )
        )
    what = (
        f"all {cores} cores are busy with the most nodes: more do more on machines of their own"
        if idlest <= IDLE
        else f"{100 * idlest:.0f} % of the cores are idle with the most nodes: steps wait for the disk or each other"
    )
    columns = (
        *("nodes", "steps/s", "of one", "authorise ms, median", "p99"),
        *("cores busy: nodes", "PostgreSQL", "idle"),
    )
    title = f"Nodes over one PostgreSQL, {callers} callers in all"
    return Outcome([Sheet(title, columns, rows, words=0, caption=what)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status."""
    options = parser(__doc__)
    options.add_argument("--nodes", type=int, nargs="+", default=NODES, help="how many (1 2 4)")
    options.add_argument("--callers", type=int, default=CALLERS, help=f"in all ({CALLERS})")
    options.add_argument("--seconds", type=float, default=3, help="of each figure (3)")
    options.add_argument("--rounds", type=int, default=3, help="of which the median is taken (3)")
    options.add_argument("--node", metavar="URL", help=argparse.SUPPRESS)
    options.add_argument("--name", help=argparse.SUPPRESS)
    given = options.parse_args(arguments)
    if given.node is not None:
        asyncio.run(node(given.node, given.name, given.callers, given.seconds))
        return 0

    def run(given: argparse.Namespace) -> Outcome:
        return asyncio.run(measure(given.nodes, given.callers, given.seconds, given.rounds))

    return program("nodes", options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
