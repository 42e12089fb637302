"""All benchmarks, one after the other, and RESULTS.md from what they found. This is `make bench`.

Each runs in a process of its own with a time limit. One that fails, or takes too long, says so in RESULTS.md, and the
others go on; the status is then 1. The full form takes about twenty minutes on two cores and writes
`benchmarks/results/` and `benchmarks/RESULTS.md`; `--quick` takes small numbers and a few minutes, shows that all of it
works, and keeps its figures, which say little, out of those files.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import results
from benchmarks.measure import RECORD, command_of, machine, progress

HERE = Path(__file__).parent
QUICK_WITHIN_S = 120.0


@dataclass(frozen=True)
class Benchmark:
    """A module of this package. full, quick: its arguments; within_s: of the full form, several times what it takes."""

    name: str
    within_s: float
    full: str = ""
    quick: str = ""


PLAN = (
    Benchmark("setup_time", 600, quick="--rate 20 --seconds 2 --rounds 1"),
    Benchmark("setup_breakdown", 600, quick="--rate 20 --seconds 2 --rounds 1"),
    Benchmark("held", 1200, quick="--first 20 --seconds 1 --minutes 0.1"),
    Benchmark("conferences", 300, quick="--conferences 5 --rate 10 --rounds 1"),
    Benchmark("live", 900, quick="--calls 20 --rate 20 --seconds 1"),
    Benchmark("cut_off", 180, quick="--calls 6"),
    Benchmark("ledger_steps", 300, quick="--seconds 0.2"),
    Benchmark("accounts", 480, quick="--rounds 1 --calls 512 --accounts 2000"),
    Benchmark("nodes", 300, quick="--nodes 1 2 --callers 8 --seconds 0.5 --rounds 1"),
    Benchmark("shards", 600, quick="--seconds 0.5 --rounds 1"),
    Benchmark("decisions", 600, full="--rounds 5", quick="--count 1000 --rounds 1"),
    Benchmark("replay", 480, quick="--rows 1000"),
    Benchmark("page", 480, quick="--accounts 100 --calls 5 --rounds 2"),
)
"""In this order. Others that the package has (detection, hostile, soak) answer other questions than what it costs."""


def run(benchmark: Benchmark, arguments: Sequence[str], folder: Path, within_s: float) -> bool:
    """Run one and see to it that the folder has a record of it; whether all went well."""
    command = command_of(benchmark.name, arguments)
    progress(f"{command}")
    record = folder / f"{benchmark.name}.json"
    record.unlink(missing_ok=True)
    began = datetime.now(UTC)
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{benchmark.name}", *arguments],
            cwd=HERE.parent,
            env={**os.environ, RECORD: str(folder.resolve())},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        failed = ""
        try:
            status = process.wait(within_s)
        except subprocess.TimeoutExpired:
            failed, status = f"it took longer than {within_s:g} s and was ended", -1
        finally:
            _end(process)
        output.seek(0)
        printed = output.read()
    print(printed, end="", flush=True)
    if status and not record.exists() and not failed:
        failed = f"it ended with status {status}"
    if failed or not record.exists():
        said = printed.strip()[-results.LAST_WORDS :]
        told = {
            "benchmark": benchmark.name,
            "command": command,
            "at": began.strftime("%Y-%m-%d %H:%M UTC"),
            "took_s": round((datetime.now(UTC) - began).total_seconds(), 1),
            "machine": machine(),
        }
        told |= {"failed": f"{failed}\n{said}"} if failed else {"printed": said}
        record.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
        if failed:
            progress(f"{benchmark.name}: {failed}")
    return status == 0


def _end(process: subprocess.Popen[str]) -> None:
    """End all that a benchmark started and has not ended itself; switches and phones end with who started them."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the plan; the exit status."""
    names = [each.name for each in PLAN]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="small numbers, which show only that all of it works"
    )
    parser.add_argument("--only", choices=names, action="append", help="this one; may be given several times")
    for each in PLAN:
        option = f"--{each.name.replace('_', '-')}"
        parser.add_argument(option, metavar="ARGUMENTS", help=f"those of benchmarks.{each.name}")
    parser.add_argument("--results", type=Path, help="folder for the records (benchmarks/results)")
    options = parser.parse_args(arguments)
    kept = options.results or (None if options.quick else results.RESULTS)
    folder = kept or Path(tempfile.mkdtemp(prefix="fairdial-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        good = True
        for each in PLAN:
            if options.only and each.name not in options.only:
                continue
            given = getattr(options, each.name)
            if given is None:
                given = each.quick if options.quick else each.full
            within_s = QUICK_WITHIN_S if options.quick else each.within_s
            good = run(each, shlex.split(given), folder, within_s) and good
        page = results.PAGE if kept == results.RESULTS else folder / "RESULTS.md"
        # Small numbers, or some of the benchmarks, have no figure for every budget.
        wrong = results.put_together(folder, page, whole=not (options.quick or options.only))
        print(page if kept else "no figure is kept; name a folder with --results for that")
        for line in wrong:
            print(f"wrong: {line}")
        return int(not good or bool(wrong))
    finally:
        if kept is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
