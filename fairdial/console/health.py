"""Whether FairDial can decide about calls now and, where not, what is wrong and how to mend it, part by part.

The same answer for `fairdial ready` and `/readyz`. It looks at what runs; what is missing before that is `doctor`'s.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path

from fairdial.console.shapes import Json
from fairdial.desk import Desk
from fairdial.doctor import Finding
from fairdial.ledger.contract import LedgerUnavailable

STORE_WITHIN_S = 1.0
FRESH_S = 1.0
"""How long an answer is good for: the store is written to be sure of it, not once for each who asks."""

SKEW_TOLD_MS = 1_000
"""By so much a node's clock may be off before it is told: past two seconds its calls are watched late."""

Examine = Callable[[], Awaitable[Sequence[Finding]]]


class Readiness:
    """Examines on demand, once for all who ask within FRESH_S."""

    def __init__(self, examine: Examine) -> None:
        self._examine = examine
        self._asking = asyncio.Lock()
        self._findings: Sequence[Finding] = ()
        self._fresh_until_s = 0.0

    async def __call__(self) -> Json:
        """{"ready": bool, "parts": [{"part", "well", "text", "cure"}, …]}."""
        loop = asyncio.get_running_loop()
        async with self._asking:
            if loop.time() >= self._fresh_until_s:
                self._findings = await self._examine()
                self._fresh_until_s = loop.time() + FRESH_S
            return readiness_json(self._findings)


def readiness_json(findings: Sequence[Finding]) -> Json:
    """Ready is who has no part that is unwell."""
    return {
        "ready": all(finding.well for finding in findings),
        "parts": [
            {"part": each.part, "well": each.well, "text": each.text, "cure": each.cure} for each in findings
        ],
    }


def not_serving(found: str) -> Json:
    """Where no FairDial answers."""
    cure = "start it with `fairdial serve`; where it runs and does not answer, its log says why"
    return readiness_json([Finding("server", False, found, cure)])


async def examine_store(desk: Desk, where: Path | str) -> Finding:
    """Whether the ledger can be written now, and what waits to be. where: it is."""
    found, cure = "", ""
    try:
        async with asyncio.timeout(STORE_WITHIN_S):
            await desk.ledger.probe()
    except TimeoutError:
        found = f"{where}: not written within {STORE_WITHIN_S} s"
        cure = "see to its disk or its server: something keeps it busy"
    except LedgerUnavailable as error:
        found, cure = error.found, error.cure
    kept = f"; {desk.unwritten} steps of calls wait in memory to be written" if desk.unwritten else ""
    return Finding("store", not found, (found or f"{where}: can be written") + kept, cure)


def examine_ari(url: str, app: str, *, connected: bool, fenced: bool) -> Finding:
    """The link on which calls ask, and are followed."""
    if fenced:
        cure = "stop one of the two, or give each a name of its own in `ari.app`"
        return Finding("ari", False, f"{url}: another FairDial took over the application {app}", cure)
    return _link("ari", url, connected, "[ari] fits its http.conf and ari.conf")


def examine_ami(address: str, *, connected: bool) -> Finding:
    """The link on which leases are renewed."""
    return _link("ami", address, connected, "[ami] fits its manager.conf")


def examine_node(
    switch: str, *, left_s: float, taken: Collection[str], skew_ms: int, replaced: bool
) -> Finding:
    """Whether this node looks after its switch's calls. taken: switches of others that it looks after as well."""
    if replaced:
        cure = "stop one of the two; `fairdial nodes` says where the newer runs"
        return Finding("node", False, f"{switch}: another FairDial serves this switch now", cure)
    if not left_s:
        found = f"{switch}: its lease has run out, and another node may look after its calls"
        return Finding("node", False, found, "see that the store can be reached: it is taken back by itself")
    text = f"{switch}: held for {left_s:.0f} s more"
    if taken:
        text += f"; looks after the calls of {', '.join(sorted(taken))} too"
    if abs(skew_ms) > SKEW_TOLD_MS:
        text += f"; its clock is {abs(skew_ms) / 1000:.1f} s {'ahead of' if skew_ms > 0 else 'behind'} the store's"
    return Finding("node", True, text)


def _link(part: str, where: str, connected: bool, fits: str) -> Finding:
    if connected:
        return Finding(part, True, f"{where}: connected")
    cure = f"see that Asterisk runs and that {fits}: `fairdial doctor` says which"
    return Finding(part, False, f"{where}: not connected", cure)


def examine_policies(desk: Desk, reload_failure: str = "") -> Finding:
    """By what dials are decided. reload_failure: why the last reload changed nothing; what was in force decides on."""
    names = desk.policies.names
    if names:
        text, cure = "in force: " + ", ".join(names), ""
        if reload_failure:
            text += f"; the last reload changed nothing: {reload_failure}"
            cure = "mend what it names, then `fairdial reload`"
        return Finding("policies", True, text, cure)
    return Finding("policies", False, "no policy is in force", "publish one with `fairdial policy publish`")
