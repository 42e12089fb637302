"""How fast recorded calls are replayed on one core, and how much memory that takes: no switch.

A seeded file of Asterisk's layout: a thousand accounts on the shipped policy redconnect, three days, calls out, calls
in, some to premium numbers, some that nobody answers; nine of ten numbers are ones that their account calls again and
again. The replay runs in a process of its own, whose peak of memory is what is shown.
"""

import argparse
import asyncio
import heapq
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.measure import Outcome, Sheet, parser, program
from fairdial.config import Config, Store
from fairdial.main import replay_site
from fairdial.replay.detectors import look_on
from fairdial.replay.prepare import Assumed, Grounds
from fairdial.replay.run import Wanted, replay

TARGET_PER_S = 20_000
PEAK_MB_MAX = 300
FROM_S = 1_795_262_400
"""2026-11-21 12:00:00 UTC."""
DAYS_S = 3 * 86_400
ACCOUNTS = 1_000
CIRCLE = 40
"""Numbers that an account calls again and again."""
POLICY = Path(__file__).parents[1] / "policies/redconnect.toml"


def rows(count: int, seed: int) -> Iterator[str]:
    """The rows in the order in which the calls end, as Asterisk writes them."""
    chance = random.Random(seed)
    up: list[tuple[int, int, str]] = []
    for number in range(count):
        start_s = FROM_S + number * DAYS_S // count
        end_s, row = _call(chance, number, start_s)
        while up and up[0][0] < start_s:
            yield heapq.heappop(up)[2]
        heapq.heappush(up, (end_s, number, row))
    while up:
        yield heapq.heappop(up)[2]


def _call(chance: random.Random, number: int, start_s: int) -> tuple[int, str]:
    account = f"customer{chance.randrange(ACCOUNTS)}"
    answered, ring_s = chance.random() < 0.7, chance.randint(1, 25)
    talk_s = 1 + int(chance.expovariate(1 / 120)) if answered else 0
    end_s = start_s + ring_s + talk_s
    line, trunk = f"PJSIP/{account}-{2 * number:08x}", f"PJSIP/carrier-{2 * number + 1:08x}"
    inbound = chance.random() < 0.25
    code, src, dst = account, account, _number(chance, account)
    if inbound:
        code, src, dst, line, trunk = "", dst, "442079460000", trunk, line
    answer = f'"{_instant(start_s + ring_s)}"' if answered else ""
    return end_s, (
        f'"{code}","{src}","{dst}","phones","""{src}"" <{src}>","{line}","{trunk}","Dial","PJSIP/{dst}@carrier,60",'
        f'"{_instant(start_s)}",{answer},"{_instant(end_s)}",{end_s - start_s},{talk_s},'
        f'"{"ANSWERED" if answered else "NO ANSWER"}","DOCUMENTATION","{start_s}.{number}",""\n'
    )


def _number(chance: random.Random, account: str) -> str:
    if chance.random() < 0.02:
        return "09098790000"
    circle = chance.randrange(CIRCLE) if chance.random() < 0.9 else chance.randrange(10**6)
    digits = (int(account.removeprefix("customer")) * 7919 + circle * 104_729) % 10**6
    return f"07400{digits:06}" if circle % 2 else f"020794{digits % 10**5:05}"


def _instant(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S")


def replayed(file: Path) -> dict[str, float]:
    """Replay the file in this process: rows, seconds, those of the CPU, calls refused, and the peak of memory in MB."""
    config = Config(store=Store(path=file.with_name("none.sqlite")))
    site = replay_site(config)
    grounds = Grounds(assumed=Assumed("Europe/London", "GB", frozenset()))
    wanted = Wanted((file,), UTC, policy=str(POLICY), grounds=grounds)
    began_s, cpu_began_s = time.perf_counter(), time.process_time()
    result = asyncio.run(replay(site, wanted, lambda _step, _done, _total: None, watch=look_on))
    taken_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_began_s
    overall = result.tally.overall
    assert result.reading.malformed == 0
    # An account that has not called out has no account code in the file: calls to it are of no known line.
    assert overall.calls + result.strangers.calls == result.reading.rows
    return {
        "rows": result.reading.rows,
        "taken_s": taken_s,
        "cpu_s": cpu_s,
        "refused": overall.refused,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measure(count: int, seed: int) -> Outcome:
    """Make a file and replay it in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "Master.csv")
        with file.open("w", encoding="utf-8") as opened:
            opened.writelines(rows(count, seed))
        size_mb = file.stat().st_size / 1024**2
        command = [sys.executable, "-m", "benchmarks.replay", "--file", str(file)]
        environment = {**os.environ, "TMPDIR": folder}
        output = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=environment
        ).stdout
    found = json.loads(output)
    per_cpu_s = found["rows"] / found["cpu_s"]
    figures = {
        "rows": f"{found['rows']:,}",
        "file": f"{size_mb:,.0f} MB",
        "refused": f"{found['refused']:,}",
        "seconds": f"{found['taken_s']:.1f}",
        "rows a second": f"{found['rows'] / found['taken_s']:,.0f}",
        "a CPU second": f"{per_cpu_s:,.0f}",
        "target": f"{TARGET_PER_S:,}",
        "peak memory": f"{found['peak_mb']:,.0f} MB",
        "at most": f"{PEAK_MB_MAX} MB",
    }
    outcome = Outcome(
        [Sheet("Replay on one core", tuple(figures), [tuple(figures.values())], words=0)],
        {"replay": per_cpu_s},
    )
    if found["peak_mb"] > PEAK_MB_MAX:
        outcome.wrong.append(f"{found['peak_mb']:,.0f} MB at the peak, where {PEAK_MB_MAX} are allowed")
    return outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the file, replay it, print; the exit status."""
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=100_000, help="rows (100000; the long form is 1000000)")
    options.add_argument("--seed", type=int, default=1, help="of the file (1)")
    options.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    file = options.parse_args(arguments).file
    if file is not None:
        print(json.dumps(replayed(file)))
        return 0

    def run(given: argparse.Namespace) -> Outcome:
        return measure(given.rows, given.seed)

    return program("replay", options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
