"""The tables of a ledger: numbered files, each applied once, in order. They are SQLite's; dialect.py says them in
PostgreSQL. A file adds tables, columns and indexes and takes none away: nodes of before run on beside it. shard/ and
proxy/ have what accounts on several servers need besides (shards.py).
"""

from importlib import resources
from importlib.resources.abc import Traversable


def files() -> dict[int, Traversable]:
    """All files, by their number."""
    folder = resources.files(__name__)
    return {int(file.name[:4]): file for file in folder.iterdir() if file.name.endswith(".sql")}
