"""What the simulation found in FairDial and is not mended: each is kept out of the runs by a constant.

A constant is removed, with what it keeps out, when its fault is mended. Until then
`python -m tests.simulation SEED --with KNOWN_…` shows the fault.
"""

KNOWN_LEG_OF_MISSED_ANSWER: bool = True
"""A leg whose answer the ledger does not know (nobody saw it, or it could not be written yet), and which its caller
transfers away before FairDial finds it in the caller's bridge, is found by what
the dialplan wrote on it, one or two rounds after its grant was settled by the caller's end. What it talks from that
end on is metered, and its lease holds all the time; but in between it talks past what its grant was settled with."""
