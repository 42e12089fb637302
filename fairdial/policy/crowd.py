"""The patterns of many accounts: each event goes to its account's detectors, and who is quiet is forgotten.

Pure, and bounded by `accounts_max`. Leaves to `patterns.py` what is found of one account.
"""

from collections import OrderedDict
from collections.abc import Mapping

from fairdial.policy.account import Account
from fairdial.policy.document import Policy
from fairdial.policy.history import Event
from fairdial.policy.patterns import AccountPatterns, Hit
from fairdial.policy.periods import zone_named

ACCOUNTS_MAX = 10_000
"""Accounts that are remembered, at some 25 KB each; who has been quiet for longest is forgotten first."""


class Crowd:
    """The patterns of all accounts that were active lately."""

    def __init__(self, accounts_max: int = ACCOUNTS_MAX) -> None:
        self._accounts_max = accounts_max
        self._patterns: OrderedDict[str, AccountPatterns] = OrderedDict()

    def __len__(self) -> int:
        return len(self._patterns)

    def see(
        self,
        event: Event,
        account: Account | None = None,
        policy: Policy | None = None,
        judged: Mapping[str, int] | None = None,
    ) -> tuple[Hit, ...]:
        """What the event completes. account, policy: None where they are those of before; an event of an account that
        nobody knows is let go. judged: by detector, up to when a person has judged, for an account that is new here.
        """
        patterns = self._patterns.get(event.account_id)
        if account is not None and policy is not None:
            if patterns is None or patterns.policy is not policy:
                zone = zone_named(account.zone)
                patterns = AccountPatterns(account.id, policy, zone, judged, patterns)
                self._patterns[account.id] = patterns
            self._patterns.move_to_end(account.id)
            self._forget(patterns, event.at_ms)
        return () if patterns is None else patterns.see(event)

    def judged(self, account_id: str, detector: str, at_ms: int) -> None:
        """A person has judged a case of that account: the same evidence counts no more."""
        patterns = self._patterns.get(account_id)
        if patterns is not None:
            patterns.judged(detector, at_ms)

    def _forget(self, active: AccountPatterns, now_ms: int) -> None:
        """Who has been quiet for longer than any window; and past the bound who has been for longest."""
        for _ in range(2):
            quiet = next(iter(self._patterns.values()))
            if quiet is active:
                return
            idle = not quiet.busy and now_ms - quiet.last_ms > quiet.longest_ms
            if len(self._patterns) <= self._accounts_max and not idle:
                return
            del self._patterns[quiet.account_id]
