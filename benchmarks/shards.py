"""How many steps a second two shards do against one, where the shards are what is short.

Proxy and shards are servers of their own on this machine. Each shard may use so much of one core and no more
(`--share`, by a control group of the kernel), as it would on a machine of its own that is at its end; proxy and client
may use what is left. One and two shards take turns, each with an empty ledger; told is the median of the rounds.
"""

import argparse
import asyncio
import contextlib
import os
import resource
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.ledger_steps import measure
from fairdial.ledger.postgres import PostgresLedger
from testbed.postgres import Cluster, Spread, obtain_plproxy, obtain_postgres

GROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 20_000
CALLERS = 16


@dataclass(frozen=True, slots=True)
class Figure:
    """Of one round. client_s, proxy_s, shards_s: of processors; late_ms: the 99th of 100 authorisations."""

    shards: int
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


async def round_of(proxy: Cluster, shards: tuple[Cluster, ...], name: str, seconds: float) -> Figure:
    """One round on an empty ledger."""
    spread = Spread(proxy, shards, name)
    ledger = await PostgresLedger.open(spread.url, connections=CALLERS, locked_ms=2_000)
    try:
        # Each connection prepares its statements first.
        await measure(name, ledger, CALLERS - 1, seconds / 2)
        before = sum(used_s(shard.process) for shard in shards)
        client, before_s = _client_s(), used_s(proxy.process)
        found = await measure(name, ledger, CALLERS, seconds)
        return Figure(
            len(shards),
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
        spread.remove()


def _client_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def figures(share: float, seconds: float, rounds: int) -> list[Figure]:
    """One and two shards in turns."""
    programs = obtain_postgres()
    obtain_plproxy(programs)
    proxy, first, second = (Cluster(programs, disk=True) for _ in range(3))
    found = []
    try:
        for cluster in (proxy, first, second):
            cluster.start()
        with bounded(first, share), bounded(second, share):
            for n in range(rounds):
                for shards in ((first,), (first, second)):
                    found.append(await round_of(proxy, shards, f"round_{n}_{len(shards)}", seconds))
    finally:
        for cluster in (proxy, first, second):
            cluster.remove()
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=0.2, help="of one core, for each shard (default 0.2)")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each round (default 10)")
    parser.add_argument("--rounds", type=int, default=3, help="of each (default 3)")
    given = parser.parse_args(arguments)
    began_s = time.monotonic()
    found = asyncio.run(figures(given.share, given.seconds, given.rounds))
    table = Table("shards", "steps/s", "authorise ms, median", "99 of 100", "client", "proxy", "each shard")
    medians = {}
    for count in (1, 2):
        of = [figure for figure in found if figure.shards == count]
        medians[count] = statistics.median(figure.steps_per_s for figure in of)
        table.add_row(
            str(count),
            f"{medians[count]:,.0f}  ({', '.join(f'{figure.steps_per_s:,.0f}' for figure in of)})",
            f"{statistics.median(figure.median_ms for figure in of):.0f}",
            f"{statistics.median(figure.late_ms for figure in of):.0f}",
            f"{statistics.median(figure.client_s / figure.lasted_s for figure in of):.2f}",
            f"{statistics.median(figure.proxy_s / figure.lasted_s for figure in of):.2f}",
            f"{statistics.median(figure.shards_s / figure.lasted_s / count for figure in of):.2f}",
        )
    console = Console(width=120)
    console.print(table)
    console.print(
        f"two shards do {medians[2] / medians[1]:.2f} times what one does; {CALLERS} callers, {given.share:g} of a core"
        f" for each shard; processors are told in cores, of which there are {os.cpu_count()};"
        f" {time.monotonic() - began_s:.0f} s"
    )


if __name__ == "__main__":
    main()
