"""`python -m tests.simulation SEED` repeats one run; `--seeds N` makes that many from SEED on."""

import argparse
import sys
import time

from tests.simulation import known
from tests.simulation.run import Failure, simulate
from tests.simulation.world import Faults


def main() -> int:
    """The exit status: 1 where a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--seeds", type=int, default=1, help="how many runs, from that seed on")
    parser.add_argument(
        "--trace", action="store_true", help="show every step that is noted, not the last alone"
    )
    parser.add_argument("--clock-jumps", action="store_true", help="set the wall clock during the runs")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failure")
    parser.add_argument(
        "--with", dest="known", action="append", default=[], help="a fault of known.py to let in"
    )
    given = parser.parse_args()
    for name in given.known:
        getattr(known, name)  # a name that is not there is refused
        setattr(known, name, False)
    began_s, broken, calls = time.monotonic(), 0, 0
    for seed in range(given.seed, given.seed + given.seeds):
        try:
            seen = simulate(seed, Faults(clock_jumps=given.clock_jumps), whole_trace=given.trace)
        except Failure as failure:
            broken += 1
            sys.stdout.write(f"{failure.brief if given.keep_going else failure}\n")
            if not given.keep_going:
                return 1
        else:
            calls += seen.calls
            if given.trace:
                sys.stdout.write(f"{seen.told}\n")
    took_s = time.monotonic() - began_s
    sys.stdout.write(
        f"{given.seeds} runs, {calls} answered calls, {broken} broken, {took_s / given.seeds * 1000:.1f} ms each\n"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
