"""The nodes of a shared ledger for operators: who looks after which switch, until when, and how many calls."""

from collections import Counter

from fairdial.console.shapes import Json
from fairdial.ledger.contract import Ledger, Node, NotNow
from fairdial.policy.periods import MS_PER_S
from fairdial.whose import is_of


class NodeList:
    """The operations `node_list` and `node_forget`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def __call__(self) -> list[Json]:
        """All nodes by their switch; none where the ledger is a file."""
        nodes = await self._ledger.nodes()
        if not nodes:
            return []
        calls = Counter(
            next((node.switch for node in nodes if is_of(node.switch, grant.call_id)), "")
            for grant in await self._ledger.live_grants()
        )
        return [_row(node, calls[node.switch]) for node in nodes]

    async def forget(self, switch: str) -> Json:
        """A switch is no more. Raises NotFound, NotNow (its FairDial holds it, or calls of it are not settled)."""
        live = [grant for grant in await self._ledger.live_grants() if is_of(switch, grant.call_id)]
        if switch and live:
            raise NotNow(f"{len(live)} calls of switch {switch!r} are not settled yet; see `fairdial nodes`")
        await self._ledger.forget_switch(switch)
        return {"switch": switch, "forgotten": True}


def _row(node: Node, calls: int) -> Json:
    return {
        "switch": node.switch,
        "place": node.place,
        "state": _state(node),
        "epoch": node.epoch,
        "until_ms": node.until_ms,
        "left_s": max(0, node.until_ms - node.now_ms) // MS_PER_S,
        "looked_after_by": node.taken_by or None,
        "skew_ms": node.skew_ms,
        "calls": calls,
    }


def _state(node: Node) -> str:
    if node.lapsed:
        return "lapsed"
    return "taken over" if node.taken_by else "serves"
