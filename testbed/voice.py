"""A voice for phones of the testbed, which send no sound of their own: silence or a tone, packet by packet.

SIPp says in its SDP where a phone hears; where the switch hears, the switch is asked (`media_of`). What arrives at a
phone is `testbed.capture`'s.
"""

from __future__ import annotations

import asyncio
import cmath
import math
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agi_app.ami import AmiLink
from testbed.asterisk import Switch
from testbed.installation import TestbedError

TONE_HZ = 440
_RATE = 8_000
_FRAME = 160
"""Samples in 20 ms."""
_FRAME_S = 0.02
_SILENCE = b"\xff" * _FRAME
_AMPLITUDE = 8_000
_ATTEMPTS = 100


def _encoded(sample: int) -> int:
    """One linear sample in mu-law (ITU-T G.711)."""
    magnitude = min(abs(sample), 32_635) + 0x84
    exponent = magnitude.bit_length() - 8
    return ~((0x80 if sample < 0 else 0) | exponent << 4 | magnitude >> exponent + 3 & 0x0F) & 0xFF


def _decoded(code: int) -> int:
    """The linear sample of a mu-law one."""
    code = ~code
    magnitude = (((code & 0x0F) << 3) + 0x84 << (code >> 4 & 7)) - 0x84
    return -magnitude if code & 0x80 else magnitude


_TONE = bytes(
    _encoded(round(_AMPLITUDE * math.sin(2 * math.pi * TONE_HZ * n / _RATE))) for n in range(5 * _FRAME)
)


def tone_s(samples: bytes) -> float:
    """Seconds of mu-law samples that are the tone of a `Voice` and hardly anything else."""
    found = 0
    for start in range(0, len(samples) - _FRAME + 1, _FRAME):
        frame = [_decoded(code) for code in samples[start : start + _FRAME]]
        power = sum(sample * sample for sample in frame)
        turn = -2j * math.pi * TONE_HZ / _RATE
        at_tone = abs(sum(sample * cmath.exp(turn * n) for n, sample in enumerate(frame)))
        # A pure tone has all of its power at its frequency.
        found += power > _FRAME * 1_000**2 and 2 * at_tone**2 / (_FRAME * power) > 0.8
    return found * _FRAME_S


@dataclass(frozen=True)
class Media:
    """UDP ports of one channel: where the switch hears the phone, and where the phone hears the switch."""

    switch_port: int
    phone_port: int


async def media_of(switch: Switch, endpoint: str) -> Media:
    """The media of the only channel of an endpoint, once it has some. Raises TestbedError where it gets none."""
    link = AmiLink(switch.ami_host, switch.ami_port, switch.ami_user, switch.ami_secret)
    await link.start()
    try:
        await link.wait_connected(5)
        for _ in range(_ATTEMPTS):
            for name in await switch.channels():
                if name.startswith(f"PJSIP/{endpoint}-"):
                    ports = [await _port(link, name, end) for end in ("src", "dest")]
                    if all(ports):
                        return Media(*ports)
            await asyncio.sleep(0.05)
    finally:
        await link.stop()
    raise TestbedError(f"no channel of {endpoint} has media; does the phone ring or talk?")


async def _port(link: AmiLink, name: str, end: str) -> int:
    reply = await link.action("Getvar", {"Channel": name, "Variable": f"CHANNEL(rtp,{end})"})
    return int(reply.get("Value", "").rpartition(":")[2] or 0)


class Voice:
    """What one phone says; make one with `async with speaking(…) as voice`."""

    def __init__(self) -> None:
        """Use `speaking`."""
        self._loud_frames = 0

    def say(self, length_s: float) -> None:
        """Send the tone for so long, from now on."""
        self._loud_frames = round(length_s / _FRAME_S)

    async def _send(self, address: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        number = 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while True:
                start = number % 5 * _FRAME
                sound = _TONE[start : start + _FRAME] if self._loud_frames else _SILENCE
                self._loud_frames = max(0, self._loud_frames - 1)
                # RFC 3550, 5.1: version 2, payload type 0 (mu-law), and a source of its own.
                header = struct.pack("!BBHII", 0x80, 0, number & 0xFFFF, number * _FRAME, 1)
                sender.sendto(header + sound, address)
                number += 1
                await asyncio.sleep(max(0.0, begun_s + number * _FRAME_S - loop.time()))


@asynccontextmanager
async def speaking(switch: Switch, media: Media) -> AsyncIterator[Voice]:
    """Send what a phone says to the switch until the block ends: silence, unless it is told to say something."""
    voice = Voice()
    sending = asyncio.create_task(voice._send((switch.sip_host, media.switch_port)))
    try:
        yield voice
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
