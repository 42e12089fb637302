"""Python's collector of cycles, set for a process that lives long and answers quickly.

A full collection looks at every object that can be part of a cycle, with the event loop standing still meanwhile. Most
of what a running FairDial has was made at its start and stays to its end: code, policies, the table of numbers. Leaves
everything else to reference counting, which frees what has no cycle at once.
"""

import gc
from typing import Final

YOUNG_MAX: Final = 10_000
"""New objects until the youngest are looked at (Python's own: 700): most of a dial's soon go by themselves."""


def settle() -> None:
    """What is there now is never looked at again (gc.freeze). For the moment between starting and serving."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, *gc.get_threshold()[1:])
