"""How many steps a second two shards do against one, where the shards are what is short.

Proxy and shards are servers of their own on this machine. Each shard may use so much of one core and no more
(`--share`, by a control group of the kernel), as it would on a machine of its own that is at its end; proxy and client
may use what is left. A plain server held to the same, one shard and two take turns, each with an empty ledger; told are
medians of the rounds.
"""

import argparse
import asyncio
import contextlib
import os
import resource
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ledger_steps import measure
from benchmarks.measure import Outcome, Sheet, parser, postgres_version, program, progress
from fairdial.ledger.postgres import PostgresLedger
from testbed.postgres import Cluster, Spread, obtain_plproxy, obtain_postgres

GROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 20_000
CALLERS = 16
PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Figure:
    """Of one round. shards: 0 for a plain server. client_s, proxy_s, shards_s: of processors."""

    shards: int
    steps: int
    steps_per_s: float
    median_ms: float
    late_ms: float
    client_s: float
    proxy_s: float
    shards_s: float
    lasted_s: float


@contextlib.contextmanager
def bounded(cluster: Cluster, share: float) -> Iterator[Path]:
    """Let a server and its processes use so much of one core. Raises SystemExit where the kernel does not let us."""
    v1 = (GROUPS / "cpu").is_dir()
    group = (GROUPS / "cpu" if v1 else GROUPS) / f"fairdial-shard-{cluster.port}"
    try:
        group.mkdir()
        quota_us = max(1_000, round(PERIOD_US * share))
        if v1:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        else:
            (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
        for process in [cluster.process, *children(cluster.process)]:
            (group / "cgroup.procs").write_text(str(process))
    except OSError as error:
        raise SystemExit(
            f"{group}: {error.strerror}; run as root on a kernel with the cpu controller"
        ) from error
    try:
        yield group
    finally:
        cluster.stop()
        group.rmdir()


def children(process: int) -> list[int]:
    """Of a process, as they are now."""
    return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def used_s(process: int) -> float:
    """Seconds of processors that a server and its processes, those that have ended among them, have used."""
    ticks = 0
    for each in [process, *children(process)]:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(int(field) for field in fields[11 : 15 if each == process else 13])
    return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def empty_ledger(proxy: Cluster, servers: tuple[Cluster, ...], name: str) -> Iterator[str]:
    """`store.url` of one on those shards; without a proxy before it, on that server."""
    if PLAIN in name:
        with servers[0].database() as database:
            yield servers[0].url(database)
        return
    spread = Spread(proxy, servers, name)
    try:
        yield spread.url
    finally:
        spread.remove()


async def round_of(proxy: Cluster, shards: tuple[Cluster, ...], name: str, seconds: float) -> Figure:
    """One round on an empty ledger."""
    with empty_ledger(proxy, shards, name) as url:
        return await _round_at(url, proxy, shards, name, seconds)


async def _round_at(
    url: str, proxy: Cluster, shards: tuple[Cluster, ...], name: str, seconds: float
) -> Figure:
    ledger = await PostgresLedger.open(url, connections=CALLERS, locked_ms=2_000)
    try:
        # Each connection prepares its statements first.
        await measure(name, ledger, CALLERS - 1, seconds / 2)
        before = sum(used_s(shard.process) for shard in shards)
        client, before_s = _client_s(), used_s(proxy.process)
        found = await measure(name, ledger, CALLERS, seconds)
        return Figure(
            0 if PLAIN in name else len(shards),
            2 * found.calls,
            found.steps_per_s,
            statistics.median(found.took_ms),
            found.took_ms[int(len(found.took_ms) * 0.99)],
            _client_s() - client,
            used_s(proxy.process) - before_s,
            sum(used_s(shard.process) for shard in shards) - before,
            found.lasted_s,
        )
    finally:
        await ledger.close()


def _client_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def figures(share: float, seconds: float, rounds: int) -> list[Figure]:
    """A plain server, one shard and two, in turns."""
    programs = obtain_postgres()
    obtain_plproxy(programs)
    proxy, first, second = (Cluster(programs, disk=True) for _ in range(3))
    found = []
    try:
        for cluster in (proxy, first, second):
            cluster.start()
        with bounded(first, share), bounded(second, share):
            for n in range(rounds):
                for kind, servers in ((PLAIN, (first,)), ("one", (first,)), ("two", (first, second))):
                    found.append(await round_of(proxy, servers, f"round_{n}_{kind}", seconds))
    finally:
        for cluster in (proxy, first, second):
            cluster.remove()
    return found


def _a_step(of: list[Figure], used: list[float]) -> float:
    """Milliseconds of processors, in the median round."""
    return statistics.median(1000 * each / figure.steps for figure, each in zip(of, used, strict=True))


def report(found: Sequence[Figure], share: float, versions: dict[str, str]) -> Outcome:
    """The table of a run."""
    rows: list[Sequence[str]] = []
    medians = {}
    for count, what in enumerate(("a plain server", "one shard", "two shards")):
        of = [figure for figure in found if figure.shards == count]
        medians[count] = statistics.median(figure.steps_per_s for figure in of)
        rows.append(
            (
                what,
                f"{medians[count]:,.0f}",
                ", ".join(f"{figure.steps_per_s:,.0f}" for figure in of),
                f"{statistics.median(figure.median_ms for figure in of):.0f}",
                f"{statistics.median(figure.late_ms for figure in of):.0f}",
                f"{_a_step(of, [figure.client_s for figure in of]):.2f}",
                f"{_a_step(of, [figure.proxy_s for figure in of]):.2f}",
                f"{_a_step(of, [figure.shards_s for figure in of]):.2f}",
            )
        )
    columns = ("", "steps/s", "rounds", "authorise ms", "99 of 100", "client", "before", "database")
    times = medians[2] / medians[1]
    caption = f"two shards do {times:.2f} times what one does; the last three are ms of processor a step"
    title = f"Steps on shards, {CALLERS} callers, {share:g} of a core for each server"
    return Outcome([Sheet(title, columns, rows, caption=caption)], versions=versions)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status."""
    options = parser(__doc__)
    options.add_argument("--share", type=float, default=0.5, help="of one core, for each shard (0.5)")
    options.add_argument("--seconds", type=float, default=10.0, help="for each round (10)")
    options.add_argument("--rounds", type=int, default=3, help="of each (3)")

    def run(given: argparse.Namespace) -> Outcome:
        versions = {"PostgreSQL": postgres_version(obtain_postgres(progress))}
        return report(asyncio.run(figures(given.share, given.seconds, given.rounds)), given.share, versions)

    return program("shards", options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
