"""TLS for phones that have none: the switch's certificate, and a tunnel that carries a phone's TCP to it.

Debian's SIPp is built without TLS. It speaks TCP to the tunnel on loopback, and the tunnel speaks TLS to the
switch, so that the switch sees a phone that encrypts its signalling.

Left to others: the transport on the switch (`testbed.configuration`) and what the phone says
(`testbed.scenarios`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from testbed.installation import TestbedError
from testbed.ports import LOOPBACK

CERTIFICATE_DAYS = 2
OPENSSL_WITHIN_S = 30.0
CONNECT_WITHIN_S = 10.0
_CHUNK_BYTES = 65_536


class TlsSwitch(Protocol):
    """What the tunnel must know of a switch."""

    directory: Path
    sip_host: str
    sip_tls_port: int


def certificate_path(directory: Path) -> Path:
    """Where the certificate of the switch in `directory` lies, with its key in the same file."""
    return directory / "keys" / "switch.pem"


async def make_certificate(path: Path, host: str) -> None:
    """Write a certificate for `host`, signed by its own key, and that key to `path`.

    Raises `TestbedError` where openssl is missing or fails.
    """
    request = (
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-days", str(CERTIFICATE_DAYS), "-subj", "/CN=switch", "-addext", f"subjectAltName=IP:{host}"),
        *("-keyout", "-", "-out", "-"),
    )
    try:
        process = await asyncio.create_subprocess_exec(
            *request,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError:
        raise TestbedError("openssl is missing; run `apt-get install openssl` as root") from None
    try:
        async with asyncio.timeout(OPENSSL_WITHIN_S):
            made, complaint = await process.communicate()
    except TimeoutError:
        raise TestbedError(f"openssl made no certificate within {OPENSSL_WITHIN_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise TestbedError(f"openssl made no certificate: {complaint.decode(errors='replace').strip()}")
    path.touch(mode=0o600)
    path.write_bytes(made)


@asynccontextmanager
async def tunnel(switch: TlsSwitch) -> AsyncIterator[int]:
    """A port on loopback whose connections are carried to the switch's TLS transport until the block ends.

    A connection that the switch does not take is closed, as a phone would see it.
    """
    context = ssl.create_default_context(cafile=certificate_path(switch.directory))
    carried: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        carried.add(task)
        try:
            # Only the end of the block cancels, and it waits for this task.
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await _carry(switch, context, reader, writer)
        finally:
            carried.discard(task)
            await _close(writer)

    server = await asyncio.start_server(carry, LOOPBACK, 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in carried:
            task.cancel()
        await asyncio.gather(*carried, return_exceptions=True)
        await server.wait_closed()


async def _carry(
    switch: TlsSwitch, context: ssl.SSLContext, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    async with asyncio.timeout(CONNECT_WITHIN_S):
        from_switch, to_switch = await asyncio.open_connection(
            switch.sip_host, switch.sip_tls_port, ssl=context, server_hostname=switch.sip_host
        )
    try:
        ways = [
            asyncio.create_task(_pass(reader, to_switch)),
            asyncio.create_task(_pass(from_switch, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
    finally:
        await _close(to_switch)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
