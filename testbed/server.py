"""A FairDial of its own process beside a switch of the testbed: started, asked, killed, started again.

Everything goes through what an operator has: the configuration file, `fairdial serve`, the command line.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairdial.console.control import NotRunning, ask
from testbed.asterisk import Switch
from testbed.installation import TestbedError
from testbed.ports import LOOPBACK, free_ports

PROJECT = Path(__file__).resolve().parent.parent
READY_WITHIN_S = 20.0
COMMAND_WITHIN_S = 30.0
STOP_WITHIN_S = 10.0
POLL_S = 0.02


def dialplan() -> tuple[str, dict[str, str]]:
    """extensions.conf and the files that it includes: what the project ships, unchanged."""
    samples = PROJECT / "dialplan" / "samples"
    files = {file.name: file.read_text() for file in samples.glob("*.conf") if file.name != "extensions.conf"}
    files |= {file.name: file.read_text() for file in (PROJECT / "dialplan").glob("*.conf")}
    return (samples / "extensions.conf").read_text(), files


def in_shadow(policy: str) -> dict[str, str]:
    """A shipped policy under the name "POLICY-in-shadow", whose detectors watch and stop nobody: a steady load from one
    phone is what they are there to stop.
    """
    text = (PROJECT / "policies" / f"{policy}.toml").read_text(encoding="utf-8")
    named = text.replace(f'name = "{policy}"', f'name = "{policy}-in-shadow"', 1)
    detectors = re.sub(r"^step = .*$", r"\g<0>\nshadow = true", named, flags=re.MULTILINE)
    return {f"{policy}-in-shadow.toml": detectors}


@dataclass(frozen=True)
class Completed:
    """A command of the command line that ended."""

    status: int
    output: str
    error: str

    @property
    def json(self) -> Any:
        """The output, read as JSON."""
        return json.loads(self.output)


class Server:
    """`fairdial serve` in `directory`, for one switch. Make one with `async with Server.start(…)`."""

    def __init__(
        self,
        switch: Switch,
        directory: Path,
        settings: Mapping[str, object],
        policies: Mapping[str, str] | None = None,
    ) -> None:
        """Use `start`."""
        self.switch = switch
        self.directory = directory
        self.config_path = directory / "fairdial.toml"
        self.control_path = directory / "control.sock"
        self.log_path = directory / "fairdial.log"
        self._http_port = free_ports(1)[0]
        self.http_url = f"http://{LOOPBACK}:{self._http_port}"
        self._process: asyncio.subprocess.Process | None = None
        self._write_policies(policies or {})
        self._write_config(settings)

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        switch: Switch,
        directory: Path,
        settings: Mapping[str, object] | None = None,
        policies: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Server]:
        """A running server until the block ends.

        `settings` are further lines of the configuration, `policies` further policy files (name to text) beside
        those of the project and of the testbed; see also `in_shadow`.
        """
        server = cls(switch, directory, settings or {}, policies)
        try:
            await server.launch()
            yield server
        finally:
            await server.stop()

    def _write_policies(self, policies: Mapping[str, str]) -> None:
        directory = self.directory / "policies"
        directory.mkdir(exist_ok=True)
        for folder in (PROJECT / "policies", PROJECT / "testbed" / "policies"):
            for file in folder.glob("*.toml"):
                (directory / file.name).write_text(file.read_text())
        for name, text in {**in_shadow("kryptotel"), **in_shadow("voxdirect"), **policies}.items():
            (directory / f"{name}.toml").write_text(text)

    def _write_config(self, settings: Mapping[str, object]) -> None:
        values: dict[str, object] = {
            "policies": "policies",
            "control": self.control_path.name,
            "ari.url": self.switch.ari_url,
            "ari.user": self.switch.ari_user,
            "ari.password": self.switch.ari_password,
            "ami.host": self.switch.ami_host,
            "ami.port": self.switch.ami_port,
            "ami.user": self.switch.ami_user,
            "ami.secret": self.switch.ami_secret,
            "agi.port": self.switch.agi_port,
            "http.port": self._http_port,
            "store.path": "ledger.sqlite",
            "cdr.file": str(self.switch.cdr_path),
            # All phones of the testbed share an address, and one line may stand for the load of many.
            "desk.attempts_per_s": 0,
            "desk.attempts_per_s_source": 0,
            **settings,
        }
        # A JSON string, number or array is TOML as well.
        self.config_path.write_text(
            "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        )

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Exit status of the last run; None while it lives."""
        return None if self._process is None else self._process.returncode

    async def ended(self) -> int:
        """Wait until the process ends by itself; its exit status."""
        assert self._process is not None
        async with asyncio.timeout(STOP_WITHIN_S):
            return await self._process.wait()

    async def launch(self) -> None:
        """Start the process and wait until it serves calls. Raises TestbedError with its last words."""
        with self.log_path.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._command("serve"), stdout=output, stderr=output, stdin=asyncio.subprocess.DEVNULL
            )
        await self.ready()

    async def ready(self) -> None:
        """Wait until ARI and AMI are connected."""
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                while not (await self._state()):
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise TestbedError(
                f"fairdial is not ready after {READY_WITHIN_S} s:\n{self.last_words()}"
            ) from None

    async def _state(self) -> bool:
        if not self.running:
            raise TestbedError(f"fairdial ended while starting:\n{self.last_words()}")
        try:
            status = await self.ask("status")
        except NotRunning:
            return False
        return bool(status["ari"] and status["ami"])

    async def ask(self, operation: str, **arguments: Any) -> Any:
        """An operation, over the control socket."""
        return await asyncio.to_thread(ask, self.control_path, operation, arguments)

    async def command(self, *arguments: str) -> Completed:
        """Run the command line as an operator does."""
        process = await asyncio.create_subprocess_exec(
            *self._command(*arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(COMMAND_WITHIN_S):
                output, error = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return Completed(process.returncode or 0, output.decode(), error.decode())

    def _command(self, *arguments: str) -> Sequence[str]:
        return [sys.executable, "-m", "fairdial.main", "--config", str(self.config_path), *arguments]

    async def stop(self) -> float:
        """SIGTERM, then wait; the seconds that it took. Raises TestbedError if it does not end."""
        return await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """SIGKILL."""
        await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> float:
        process = self._process
        if process is None or process.returncode is not None:
            return 0.0
        began = asyncio.get_running_loop().time()
        os.kill(process.pid, number)
        try:
            async with asyncio.timeout(STOP_WITHIN_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise TestbedError(
                f"fairdial did not end within {STOP_WITHIN_S} s:\n{self.last_words()}"
            ) from None
        return asyncio.get_running_loop().time() - began

    async def idle(self, timeout_s: float = 5.0) -> None:
        """Wait until no call is followed and no grant is live. Raises TestbedError naming what is left."""
        left: object = None
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    status = await self.ask("status")
                    left = {"status": status, "grants": await self.ask("grants")}
                    if not status["calls"] and not status["queues"] and not left["grants"]:
                        return
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise TestbedError(f"left over after {timeout_s} s: {left}") from None

    async def talking(self, line: str, timeout_s: float = 10.0) -> dict[str, Any]:
        """The live call of that line, once FairDial knows that it was answered."""
        async with asyncio.timeout(timeout_s):
            while True:
                for row in await self.ask("calls"):
                    if (row["line"], row["state"]) == (line, "talking"):
                        return dict(row)
                await asyncio.sleep(POLL_S)

    async def grants(self) -> list[dict[str, Any]]:
        """Live grants."""
        found: list[dict[str, Any]] = await self.ask("grants")
        return found

    async def usage(self, account: str) -> dict[str, int]:
        """Used and reserved seconds of an account's newest voice window."""
        entries = (await self.ask("usage", account=account))["usage"]
        now = [entry for entry in entries if entry["used_units"] or entry["reserved_units"]] or entries
        if not now:
            return {"used_s": 0, "reserved_s": 0}
        return {"used_s": now[0]["used_units"], "reserved_s": now[0]["reserved_units"]}

    async def account(self, account: str, policy: str, *lines: str, countries: Sequence[str] = ()) -> None:
        """Provision an account with lines and the countries that it bought."""
        zone = "Europe/London"
        await self.ask("account_add", account=account, policy=policy, zone=zone, countries=countries)
        for line in lines:
            await self.ask("line_add", line=line, account=account)

    def last_words(self) -> str:
        """End of the log."""
        return self.log_path.read_text(errors="replace")[-4000:] if self.log_path.exists() else ""
