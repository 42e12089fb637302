"""The control socket: how the command line reaches the one process that writes the ledger.

A Unix socket that only its owner can open; one JSON object a line in each direction:
`{"operation": name, "arguments": {…}}` → `{"result": …}` or `{"error": text}`.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from fairdial.console.operations import OperationError, Operations
from fairdial.ledger.contract import LedgerError

log = structlog.get_logger(__name__)

LINE_BYTES_MAX = 8 * 1024 * 1024
"""A rate card of 40,000 rows is about 2 MB."""
REPLY_BYTES_MAX = 64 * 1024 * 1024
READ_WITHIN_S = 5.0
REPLY_WITHIN_S = 30.0
PEERS_MAX = 64


class NotRunning(Exception):
    """No FairDial listens on the control socket."""


class HungUp(OperationError):
    """FairDial took the request and gave no answer: it stops, or has died."""


class ControlServer:
    """Serves operations on the Unix socket at `path`, which is made with mode 0600."""

    def __init__(self, path: Path, operations: Operations) -> None:
        self._path = path
        self._operations = operations
        self._server: asyncio.Server | None = None
        self._peers: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Raises OSError; a socket that a dead process left behind is replaced."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Whoever holds the ledger's lock is the only FairDial here: what lies in the way is stale.
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(self._path))
            self._path.chmod(0o600)
            self._server = await asyncio.start_unix_server(self._accept, sock=listener, limit=LINE_BYTES_MAX)
        except BaseException:
            listener.close()
            raise

    async def stop(self) -> None:
        """Close the socket and every connection."""
        if self._server is None:
            return
        self._server.close()
        for task in self._peers:
            task.cancel()
        await asyncio.gather(*self._peers, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None
        self._path.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._peers.add(task)
        try:
            if len(self._peers) <= PEERS_MAX:
                async with asyncio.timeout(READ_WITHIN_S):
                    line = await reader.readline()
                if line:
                    reply = await self._reply(line)
                    writer.write(json.dumps(reply).encode() + b"\n")
                    async with asyncio.timeout(REPLY_WITHIN_S):
                        await writer.drain()
        except (OSError, ValueError, TimeoutError) as error:
            log.debug("control_peer_failed", error=repr(error))
        except asyncio.CancelledError:
            pass  # only `stop` cancels, and it waits for this task
        finally:
            self._peers.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _reply(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            name, arguments = str(request["operation"]), dict(request.get("arguments", {}))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            return {"error": f"not a request: {error}"}
        try:
            return {"result": await self._operations.call(name, arguments)}
        except (OperationError, LedgerError, ValueError) as error:
            return {"error": str(error)}
        except Exception:
            # Whoever asked must hear of it, and not wait for a reply that never comes.
            log.exception("control_operation_failed", operation=name[:80])
            return {"error": "FairDial made a mistake; its log has the details"}


def ask(
    path: Path, operation: str, arguments: Mapping[str, Any], *, reply_within_s: float = REPLY_WITHIN_S
) -> Any:
    """Ask a running FairDial. Raises NotRunning, HungUp, or OperationError with its words."""
    line = json.dumps({"operation": operation, "arguments": dict(arguments)}).encode() + b"\n"
    if len(line) > LINE_BYTES_MAX:
        raise OperationError(f"the request is longer than {LINE_BYTES_MAX} bytes")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(reply_within_s)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotRunning(f"{path}: no FairDial listens there") from error
        except OSError as error:
            raise OperationError(
                f"{path}: {error.strerror}; run the command as FairDial's own user"
            ) from error
        try:
            connection.sendall(line)
            received = bytearray()
            while chunk := connection.recv(65536):
                received += chunk
                if len(received) > REPLY_BYTES_MAX:
                    raise OperationError(f"{path}: the reply is longer than {REPLY_BYTES_MAX} bytes")
        except TimeoutError as error:
            raise OperationError(f"{path}: no reply within {reply_within_s} s") from error
        except ConnectionError:
            received = bytearray()
    if not received.endswith(b"\n"):
        raise HungUp(f"{path}: FairDial closed the connection without a reply; its log says why")
    reply = json.loads(received)
    if "error" in reply:
        raise OperationError(str(reply["error"]))
    return reply["result"]
