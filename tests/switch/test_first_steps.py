"""From a switch as a distribution installs it to the first enforced call, by the commands of the README's quick start;
and what the doctor says when any one piece of that is taken away.
"""

import asyncio
import os
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fairdial.asterisk_conf import read_conf
from fairdial.config import load
from fairdial.console.control import ask
from fairdial.doctor import Finding, Severity
from fairdial.first_steps import RELOADS
from fairdial.main import Parts
from fairdial.switch_access import AMI_READ, AMI_WRITE
from testbed.installation import Installation
from testbed.ports import free_ports
from testbed.sipp import Carrier, place_call
from testbed.stock import StockSwitch
from tests.switch.test_readme import BIN, QUICK_START, blocks, commands, run, staying

WITHIN_S = 30.0


@dataclass
class Shell:
    """A person's shell on the machine of that switch."""

    switch: StockSwitch
    folder: Path
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.environment = {
            # The switch's own `asterisk`, and the project's `fairdial`.
            "PATH": f"{self.switch.program_folder}:{BIN}:{os.environ['PATH']}",
            # Others may be at the usual places of this machine.
            "FAIRDIAL_CONFIG": str(self.config),
            "FAIRDIAL_AGI__PORT": str(self.switch.agi_port),
            "FAIRDIAL_HTTP__PORT": str(free_ports(1)[0]),
        }

    @property
    def config(self) -> Path:
        return self.folder / "fairdial.toml"

    async def run(self, command: str, status: int = 0) -> str:
        """Its output; it must end with this status."""
        program, *arguments = shlex.split(command)
        path = {"asterisk": self.switch.program_folder, "fairdial": BIN}[program] / program
        ended, output = await run(str(path), *arguments, **self.environment)
        assert ended == status, f"{command}: {ended}: {output}"
        return output

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with staying(str(BIN / "fairdial"), "serve", until="ari_connected", **self.environment):
            yield

    async def doctor(self) -> list[Finding]:
        return await Parts().doctor(load(self.config, self.environment))


def dialplan_of_the_page() -> tuple[str, str]:
    """The line that was there, and what becomes of it."""
    [was, becomes] = blocks("", QUICK_START)
    return was, becomes


Files = dict[Path, tuple[bytes, int, int]]
"""Text, mode and owner of each."""


def snapshot(*places: Path) -> Files:
    """Of these files, and of all in these folders."""
    files = (path for place in places for path in (place, *place.rglob("*")) if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mode, path.stat().st_uid) for path in files}


@pytest.mark.timeout(180)
async def test_six_commands_lead_to_the_first_enforced_call(
    installation: Installation, tmp_path: Path
) -> None:
    shown = commands(QUICK_START)
    assert len(shown) <= 6
    before_serve, after_serve = (
        shown[: shown.index("fairdial serve")],
        shown[shown.index("fairdial serve") + 1 :],
    )
    was, becomes = dialplan_of_the_page()
    async with StockSwitch.installed(installation) as switch, Carrier.start(switch) as carrier:
        shell = Shell(switch, tmp_path)
        assert (
            await place_call(switch, line="alice", number="09098790000", hang_up_after_s=1)
        ).final_status == 200
        for command in before_serve:
            await shell.run(command)
        async with shell.serving():
            # Where the page says so: between `line add` and the reload.
            extensions = switch.etc / "extensions.conf"
            assert was in extensions.read_text()
            extensions.write_text(extensions.read_text().replace(was, becomes))
            for command in after_serve:
                await shell.run(command)
            let_through = await place_call(switch, line="alice", number="02079460100", hang_up_after_s=1)
            assert let_through.final_status == 200
            assert carrier.calls()[-1].number == "+442079460100"
            assert (await place_call(switch, line="alice", number="09098790000")).final_status == 403
            refused, allowed = ask(tmp_path / "control.sock", "decisions", {"account": "acme"})
            assert (allowed["decision"], allowed["clause_id"], allowed["limit_s"]) == ("allow", "K1", 14_400)
            assert (refused["decision"], refused["clause_id"]) == ("refuse", "K2")
            assert await switch.no_channels() == []


@pytest.mark.timeout(120)
async def test_init_shows_first_then_writes_and_the_second_time_changes_nothing(
    installation: Installation, tmp_path: Path
) -> None:
    ours = tmp_path / "fairdial"
    ours.mkdir()
    async with StockSwitch.installed(installation) as switch:
        shell = Shell(switch, ours)
        untouched = snapshot(switch.etc, ours)
        assert "nothing was written" in await shell.run("fairdial init")
        assert snapshot(switch.etc, ours) == untouched
        written = await shell.run("fairdial init --policy voxdirect --region DE --write --reload")
        done = snapshot(switch.etc, ours)
        # Beside their own line at the end, and with their owner and mode, the switch's files are as they were.
        for path, (text, mode, owner) in untouched.items():
            now, now_mode, now_owner = done[path]
            assert (now_mode, now_owner) == (mode, owner)
            assert now.startswith(text.rstrip())
            assert now == text or path.with_name(f"{path.name}.before-fairdial").read_bytes() == text
        assert (switch.etc / "ari_fairdial.conf").stat().st_uid == (switch.etc / "ari.conf").stat().st_uid
        secret = (ours / "ari-password").read_text().strip()
        assert len(secret) >= 24
        assert secret not in written
        assert [oct(file.stat().st_mode & 0o777) for file in (ours / "ari-password", shell.config)] == [
            "0o600"
        ] * 2
        [user] = read_conf(switch.etc / "manager.conf").named("fairdial")
        assert set(user.value("write").split(",")) == AMI_WRITE
        assert set(user.value("read").split(",")) == AMI_READ
        config = load(shell.config)
        assert (config.desk.region, [file.stem for file in config.policies.iterdir()]) == (
            "DE",
            ["voxdirect"],
        )
        assert "nothing was changed" in await shell.run("fairdial init --write --reload")
        assert snapshot(switch.etc, ours) == done
        well = {finding.part for finding in await shell.doctor() if finding.well}
        assert {"ari", "ami", "dialplan", "cdr", "clock"} <= well


Act = Callable[[Shell], Awaitable[object]]


def without(name: str, *reload: str) -> Act:
    """The switch's file is gone, and the switch knows."""

    async def taken_away(shell: Shell) -> None:
        (shell.switch.etc / name).unlink()
        for command in reload:
            await shell.switch.cli(command)

    return taken_away


def with_other(name: str, old: str, new: str, *reload: str) -> Act:
    async def changed(shell: Shell) -> None:
        file = shell.switch.etc / name
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
        for command in reload:
            await shell.switch.cli(command)

    return changed


async def without_policies(shell: Shell) -> None:
    (shell.folder / "policies" / "kryptotel.toml").unlink()


async def without_the_line(shell: Shell) -> None:
    await asyncio.to_thread(
        ask, shell.folder / "control.sock", "line_standing", {"line": "alice", "standing": "suspended"}
    )


async def without_the_records_folder(shell: Shell) -> None:
    text = shell.config.read_text()
    shell.config.write_text(text.replace("cdr-csv/Master.csv", "nowhere/Master.csv"))


PIECES: dict[str, tuple[Act, str, str]] = {
    "http": (
        without("http_fairdial.conf", "module reload http"),
        "ari",
        "set enabled=yes in http.conf and ari.conf",
    ),
    "the ARI user": (without("ari_fairdial.conf", "module reload res_ari.so"), "ari", "compare [ari] with"),
    "the AMI user": (without("manager.d/fairdial.conf", "manager reload"), "ami", "compare [ami] with"),
    "the dialplan": (
        without("fairdial.conf", "dialplan reload"),
        "dialplan",
        "fairdial init --write --reload",
    ),
    "this release's dialplan": (
        with_other("fairdial.conf", "version", "version0", "dialplan reload"),
        "dialplan",
        "fairdial init --write --reload",
    ),
    "the question": (
        with_other("extensions.conf", "Gosub(fairdial,s", "NoOp(nobody,s", "dialplan reload"),
        "extensions.conf",
        "put Gosub(fairdial,s,1(outbound,${EXTEN})) before your Dial()",
    ),
    "records": (
        with_other("cdr.conf", "[general]", "[general]\nenable=no", "module reload cdr"),
        "cdr",
        "set enable=yes under [general] of cdr.conf",
    ),
    "the folder of records": (
        without_the_records_folder,
        "cdr",
        "set cdr.file to the switch's log directory",
    ),
    "policies": (without_policies, "policies", "set `policies` to the right folder"),
    "a line": (without_the_line, "decision", "fairdial line add"),
}
"""What is taken away, the part that must not be well then, and words of its cure."""


@pytest.mark.timeout(240)
async def test_the_doctor_is_well_and_names_the_cure_of_each_piece_that_is_taken_away(
    installation: Installation, tmp_path: Path
) -> None:
    _, becomes = dialplan_of_the_page()
    dialplan = f"\n[phones]\n{becomes}"
    async with StockSwitch.installed(installation, dialplan=dialplan) as switch:
        shell = Shell(switch, tmp_path)
        await shell.run("fairdial init --policy kryptotel --write --reload")
        [finding] = [each for each in await shell.doctor() if each.part == "server"]
        assert "fairdial serve" in finding.cure
        async with shell.serving():
            control = tmp_path / "control.sock"
            account = {"account": "acme", "policy": "kryptotel", "zone": "UTC", "countries": ["GB"]}
            await asyncio.to_thread(ask, control, "account_add", account)
            await asyncio.to_thread(ask, control, "line_add", {"line": "alice", "account": "acme"})
            wrong = {}
            for piece, (take_away, part, cure) in PIECES.items():
                assert await red(shell) == [], f"before {piece} was taken away"
                kept = snapshot(switch.etc, tmp_path / "policies", shell.config)
                await take_away(shell)
                found = [each for each in await shell.doctor() if each.part == part and not each.well]
                if not any(cure in each.cure for each in found):
                    wrong[piece] = found
                await put_back(shell, kept)
            assert await red(shell) == []
    assert wrong == {}


async def put_back(shell: Shell, kept: Files) -> None:
    for path, (text, mode, _) in kept.items():
        if not path.exists() or path.read_bytes() != text:
            path.write_bytes(text)
            path.chmod(mode)
    for command in (*RELOADS, "module reload cdr"):
        await shell.switch.cli(command)
    await asyncio.to_thread(
        ask, shell.folder / "control.sock", "line_standing", {"line": "alice", "standing": "active"}
    )


async def red(shell: Shell) -> list[str]:
    """What is not well, once FairDial had time to connect again; warnings of the sample files left out."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            found = [str(each) for each in await shell.doctor() if each.severity is Severity.FAILURE]
            if not any("server" in each for each in found):
                return found
            await asyncio.sleep(0.1)
