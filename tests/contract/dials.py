"""Another FairDial's dials, as a process of its own: `python -m tests.contract.dials URL PREFIX COUNT`.

Dials so many times at once on the ledger at URL and prints the seconds that each allowed one got.
"""

import asyncio
import sys

from fairdial import logs
from fairdial.config import Logs
from fairdial.ledger.contract import Ledger
from fairdial.ledger.postgres import PostgresLedger
from fairdial.policy.decide import Allow
from tests.samples import authorise, outbound, plan

LEFT_S = 60


async def dial_at_once(ledger: Ledger, prefix: str, count: int) -> list[int]:
    """The seconds that each of those got that were allowed."""
    calls = (outbound(f"{prefix}-{n}") for n in range(count))
    verdicts = await asyncio.gather(*(authorise(ledger, call, plan(limit_s=LEFT_S)) for call in calls))
    return [verdict.decision.granted_s or 0 for verdict in verdicts if isinstance(verdict.decision, Allow)]


async def main(url: str, prefix: str, count: int) -> None:
    # On stdout there are the seconds alone.
    logs.set_up(Logs(level="error", format="console"))
    ledger = await PostgresLedger.open(url, connections=4, locked_ms=2_000)
    try:
        sys.stdout.write(" ".join(map(str, await dial_at_once(ledger, prefix, count))))
    finally:
        await ledger.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
