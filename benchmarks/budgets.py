"""What FairDial may cost: the budgets, which the benchmarks' figures are held against in RESULTS.md.

A budget that is missed has its profile and its reason in `benchmarks/reasons/REASON.md`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """One line of the table. limit: in `unit`, at most so much, or at least where `is_least`."""

    name: str
    what: str
    limit: float
    unit: str
    reason: str
    is_least: bool = False

    def is_kept(self, figure: float) -> bool:
        """Whether a measured figure is within it."""
        return figure >= self.limit if self.is_least else figure <= self.limit


_SETUP = "set-up time added at 100 calls/s, SQLite,"
BUDGETS = (
    Budget("setup-mean-ari", f"{_SETUP} asked over ARI: mean", 3, "ms", "setup-time"),
    Budget("setup-p99-ari", f"{_SETUP} asked over ARI: 99 of 100", 10, "ms", "setup-time"),
    Budget("setup-mean-agi", f"{_SETUP} asked by AGI: mean", 3, "ms", "setup-time"),
    Budget("setup-p99-agi", f"{_SETUP} asked by AGI: 99 of 100", 10, "ms", "setup-time"),
    Budget(
        "held-ari", "calls/s held, of those that Dial() alone holds, over ARI", 85, "%", "calls-held", True
    ),
    Budget("held-agi", "calls/s held, of those that Dial() alone holds, by AGI", 85, "%", "calls-held", True),
    Budget("steps-sqlite", "authorise and settle, SQLite", 20_000, "steps/s", "ledger", True),
    Budget("steps-postgresql", "authorise and settle, PostgreSQL", 4_000, "steps/s", "ledger", True),
    Budget("memory-1000", "memory of FairDial, with 1,000 calls up", 20, "KB a call", "live-calls"),
    Budget("restart-1000", "start of FairDial until 1,000 calls are reconciled", 2, "s", "live-calls"),
    Budget("accounts", "a call's cost with 1,000,000 accounts, against 1,000", 1.2, "times", "accounts"),
    Budget("replay", "recorded calls replayed on a core", 20_000, "a second", "replay", True),
)
