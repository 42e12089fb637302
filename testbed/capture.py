"""What is heard on a phone: the audio that a switch sends over loopback, packet by packet.

A raw socket sees what the phones of the testbed, which play no sound, throw away. Root only, and on loopback only.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from testbed.configuration import RTP_FIRST_PORT, RTP_LAST_PORT

_ETH_P_IP = 0x0800
_ETHERNET_BYTES, _UDP_BYTES, _RTP_BYTES = 14, 8, 12
_UDP = 17
_EVENT_BYTES = 4
"""A telephone event (RFC 4733, 2.3)."""
_LOUD = 0x1F
"""Steps of a mu-law sample (ITU-T G.711) from silence, past which it can be heard."""


def is_audible(sound: bytes | bytearray) -> bool:
    """Whether any of these mu-law samples is more than silence."""
    return any(~sample & 0x7F > _LOUD for sample in sound)


def _udp_ports_of(pid: int) -> frozenset[int]:
    """The UDP ports that a process has open on IPv4."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(str(descriptor.readlink()))
    rows = (row.split() for row in Path("/proc/net/udp").read_text().splitlines()[1:])
    return frozenset(int(row[1].rpartition(":")[2], 16) for row in rows if f"socket:[{row[9]}]" in inodes)


@dataclass
class Heard:
    """Sound that one switch sent: packets in all, those that are more than silence, and the mu-law samples by the
    UDP port that they were sent to."""

    pid: int
    packets: int = 0
    audible: int = 0
    samples_to: defaultdict[int, bytearray] = field(default_factory=lambda: defaultdict(bytearray))
    _own: dict[int, bool] = field(default_factory=dict)

    def take(self, frame: bytes) -> None:
        """One frame from the wire; whatever is not mu-law audio of a switch is passed over."""
        header_bytes = (frame[_ETHERNET_BYTES] & 0x0F) * 4
        udp = frame[_ETHERNET_BYTES + header_bytes :]
        if frame[_ETHERNET_BYTES + 9] != _UDP or len(udp) < _UDP_BYTES + _RTP_BYTES:
            return
        source = int.from_bytes(udp[0:2])
        rtp = udp[_UDP_BYTES:]
        if len(rtp) == _RTP_BYTES + _EVENT_BYTES:
            return  # a key, which Asterisk sends as the payload type of sound to phones that take no other
        if not RTP_FIRST_PORT <= source <= RTP_LAST_PORT or rtp[0] >> 6 != 2 or rtp[1] & 0x7F:
            return
        if source not in self._own:
            self._own[source] = source in _udp_ports_of(self.pid)
        if self._own[source]:
            self.packets += 1
            self.audible += is_audible(rtp[_RTP_BYTES:])
            self.samples_to[int.from_bytes(udp[2:4])] += rtp[_RTP_BYTES:]


@contextlib.contextmanager
def listening(pid: int) -> Iterator[Heard]:
    """Listen to the audio that the switch of that process sends over loopback while the block runs."""
    heard = Heard(pid)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_IP)) as wire:
        wire.bind(("lo", 0))
        wire.setblocking(False)

        def read() -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    frame, address = wire.recvfrom(2048)
                    # Loopback shows each packet twice, going out and coming in.
                    if address[2] == socket.PACKET_HOST:
                        heard.take(frame)

        loop.add_reader(wire, read)
        try:
            yield heard
        finally:
            loop.remove_reader(wire)
