"""Free loopback ports for the switches and phones of the testbed.

A port is only known to be free at the moment of asking, and whoever was told of it binds it later. So that no other
process is told of the same one meanwhile, each gives out ports of a block that is its own: it holds the block's first
port for as long as it runs, and nobody else takes that.
"""

from __future__ import annotations

import atexit
import functools
import socket
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from testbed.installation import TestbedError

LOOPBACK = "127.0.0.1"

# Above Asterisk's RTP range, and below the kernel's range of ports for outgoing connections, from which any
# program may be given one at any moment.
FIRST_PORT = 20_000
BLOCKS_MIN = 20
BLOCK = 500
"""Ports in a block. One is given out again once all others were, and by then was bound or is not needed."""
STEP = 7
"""From one port to the next, not beside each other: SIPp takes the one after the next to its own for video, unasked."""


def free_ports(count: int) -> list[int]:
    """`count` different ports that are free on loopback for UDP and TCP at this moment."""
    ports = _ports()
    found: list[int] = []
    for _ in range(BLOCK):
        port = next(ports)
        if _is_free(port):
            found.append(port)
            if len(found) == count:
                return found
    raise TestbedError(
        f"{count} free ports were not found on {LOOPBACK} among {BLOCK}; end the programs that hold them "
        "(`ss -lntu` shows them)"
    )


@functools.cache
def _ports() -> Iterator[int]:
    """The ports of this process, over and over."""
    # Where the kernel gives out ports from lower on, a port of ours is less surely free; that is better than none.
    last = max(_first_ephemeral_port() - 1, FIRST_PORT + BLOCKS_MIN * BLOCK)
    for first in range(FIRST_PORT, last - BLOCK + 2, BLOCK):
        if _holds(first):
            return cycle(first + 1 + index * STEP % (BLOCK - 1) for index in range(BLOCK - 1))
    raise TestbedError(
        f"every block of {BLOCK} ports between {FIRST_PORT} and {last} on {LOOPBACK} is taken; end the programs "
        "that hold them (`ss -lnu` shows them)"
    )


def _holds(port: int) -> bool:
    """Whether this process now holds `port`, until it ends."""
    held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        held.bind((LOOPBACK, port))
    except OSError:
        held.close()
        return False
    atexit.register(held.close)
    return True


def _first_ephemeral_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return FIRST_PORT


def _is_free(port: int) -> bool:
    try:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        ):
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind((LOOPBACK, port))
            udp.bind((LOOPBACK, port))
    except OSError:
        return False
    return True
