"""The ledger in one SQLite file, which one FairDial writes."""

from pathlib import Path

from fairdial.ledger.stepped import SteppedLedger
from fairdial.ledger.writer import Writer


class SqliteLedger(SteppedLedger):
    """`Ledger` (contract.py) on one SQLite file."""

    @classmethod
    async def open(cls, path: Path, *, waiting_max: int = 10_000) -> "SqliteLedger":
        """Open or make the file at `path`. Raises LedgerUnavailable."""
        writer = Writer(path, waiting_max=waiting_max)
        await writer.open()
        return cls(writer)
