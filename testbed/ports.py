"""Free loopback ports for the switches and phones of the testbed.

A port is only known to be free at the moment of asking; whoever binds it later must be ready to ask again.
"""

from __future__ import annotations

import random
import socket
from collections import deque
from pathlib import Path

from testbed.installation import TestbedError

LOOPBACK = "127.0.0.1"

# Above Asterisk's RTP range, and below the kernel's range of ports for outgoing connections, from which any
# program may be given one at any moment.
FIRST_PORT = 20_000
ATTEMPTS = 200

_random = random.SystemRandom()
# Given out lately and perhaps not bound yet; the same process does not give them out again so soon.
_given: deque[int] = deque(maxlen=2_048)


def free_ports(count: int) -> list[int]:
    """`count` different ports that are free on loopback for UDP and TCP at this moment."""
    last = _first_ephemeral_port() - 1
    found: list[int] = []
    for _ in range(ATTEMPTS * count):
        port = _random.randint(FIRST_PORT, last) if last - FIRST_PORT >= 1_000 else _given_by_the_kernel()
        if port not in _given and _is_free(port):
            _given.append(port)
            found.append(port)
            if len(found) == count:
                return found
    raise TestbedError(
        f"{count} free ports were not found on {LOOPBACK} between {FIRST_PORT} and {last}; end the programs that "
        "hold them (`ss -lntu` shows them)"
    )


def _first_ephemeral_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return FIRST_PORT


def _given_by_the_kernel() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp:
        tcp.bind((LOOPBACK, 0))
        return int(tcp.getsockname()[1])


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
