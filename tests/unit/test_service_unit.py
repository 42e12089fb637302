"""The systemd unit: what it says, and where systemd's tools are at hand, what they say of it."""

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fairdial.config import load, with_secrets

PROJECT = Path(__file__).parents[2]
UNIT = PROJECT / "packaging" / "systemd" / "fairdial.service"
EXPOSURE_MAX = 1.5
"""Of 10, by `systemd-analyze security`; what is left is the network that FairDial is for."""
PR_SET_MDWE, MDWE_REFUSE_EXEC_GAIN = 65, 1

SECTIONS = {"Unit", "Service", "Install"}


def directives() -> dict[str, list[str]]:
    """Each setting of the unit with its values in order."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if not line or line.startswith(("#", "[")):
            continue
        key, equals, value = line.partition("=")
        assert equals, line
        found.setdefault(key, []).append(value)
    return found


def test_it_runs_without_rights_and_writes_nothing_but_its_own() -> None:
    unit = directives()
    assert {line[1:-1] for line in UNIT.read_text().splitlines() if line.startswith("[")} == SECTIONS
    assert (unit["Type"], unit["User"], unit["Restart"]) == (["notify"], ["fairdial"], ["on-failure"])
    assert int(unit["WatchdogSec"][0]) >= 2
    # The watchdog ends with SIGABRT: its stack is wanted, a core with secrets is not.
    assert ("PYTHONFAULTHANDLER=1" in unit["Environment"], unit["LimitCORE"]) == (True, ["0"])
    # Status 1 of `serve`: fenced off by another.
    assert unit["RestartPreventExitStatus"] == ["1"]
    assert (unit["CapabilityBoundingSet"], unit["NoNewPrivileges"]) == ([""], ["yes"])
    assert (unit["ProtectSystem"], unit["StateDirectory"], unit["RuntimeDirectory"]) == (
        ["strict"],
        ["fairdial"],
        ["fairdial"],
    )
    assert unit["RestrictAddressFamilies"] == ["AF_INET AF_INET6 AF_UNIX"]
    assert unit["SystemCallFilter"][0] == "@system-service"
    assert int(unit["TimeoutStopSec"][0]) >= 2


def test_its_folders_are_those_of_the_defaults() -> None:
    unit, defaults = directives(), load(None, {})
    assert defaults.store.path.parent == Path("/var/lib", *unit["StateDirectory"])
    assert defaults.control.parent == Path("/run", *unit["RuntimeDirectory"])


def test_its_secrets_arrive(tmp_path: Path) -> None:
    """What `LoadCredential=` puts into the folder is what the settings in `Environment=` name."""
    unit = directives()
    for name in (value.split(":")[0] for value in unit["LoadCredential"]):
        (tmp_path / name).write_text(f"{name}-secret\n")
    given = (value.partition("=") for value in unit["Environment"])
    environment = {key: value.replace("%d", str(tmp_path)) for key, _, value in given}
    config = with_secrets(load(None, environment), environment)
    assert config.ari.password.get_secret_value() == "ari-password-secret"
    assert config.ami.secret.get_secret_value() == "ami-secret-secret"


@pytest.mark.parametrize(
    ("key", "says"), [("ExecStart", "Run FairDial"), ("ExecReload", "read its files anew")]
)
def test_its_commands_are_some_that_fairdial_has(key: str, says: str) -> None:
    [command] = directives()[key]
    program, *arguments = command.split()
    assert Path(program).name == "fairdial"
    shown = subprocess.run(
        [sys.executable, "-m", "fairdial.main", *arguments, "--help"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (shown.returncode, says in shown.stdout) == (0, True), shown.stderr


def analysed(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str] | None:
    """systemd-analyze on the unit, with a program that exists here; None where there is no systemd."""
    if shutil.which("systemd-analyze") is None:
        return None
    copy = folder / UNIT.name
    copy.write_text(re.sub(r"(?m)^(Exec\w+)=\S+", rf"\1={sys.executable}", UNIT.read_text()))
    return subprocess.run(
        ["systemd-analyze", *arguments, str(copy)], capture_output=True, text=True, timeout=60, check=False
    )


def test_systemd_finds_no_fault_in_it(tmp_path: Path) -> None:
    """Without systemd on the machine: each line at least has the form that systemd wants."""
    verified = analysed(tmp_path, "verify")
    if verified is not None:
        assert (verified.returncode, verified.stderr) == (0, "")
    assert all(re.fullmatch(r"[A-Z][A-Za-z0-9]+", key) for key in directives())


def test_systemd_sees_little_exposed(tmp_path: Path) -> None:
    """Without systemd on the machine: what it looks for is there."""
    secured = analysed(tmp_path, "security", "--offline=true", "--no-pager")
    if secured is not None:
        [level] = re.findall(r"exposure level for \S+: ([\d.]+)", secured.stdout)
        assert float(level) <= EXPOSURE_MAX
    assert {key for key, values in directives().items() if values == ["yes"]} >= {
        *(
            "NoNewPrivileges",
            "PrivateDevices",
            "PrivateTmp",
            "ProtectHome",
            "ProtectClock",
            "LockPersonality",
        ),
        *("ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups"),
        *("MemoryDenyWriteExecute", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID"),
    }


def _no_writable_code() -> None:
    ctypes.CDLL(None).prctl(PR_SET_MDWE, MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)


def test_fairdial_works_without_memory_that_is_written_and_run(tmp_path: Path) -> None:
    """As under MemoryDenyWriteExecute; a kernel before 6.3 cannot be asked for it, and then it runs as ever."""
    (tmp_path / "policies").symlink_to(PROJECT / "policies")
    config = tmp_path / "fairdial.toml"
    config.write_text('policies = "policies"\ncontrol = "control.sock"\nstore.path = "ledger.sqlite"\n')
    done = subprocess.run(
        [sys.executable, "-m", "fairdial.main", "--config", str(config), "account", "list", "--json"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=_no_writable_code,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
