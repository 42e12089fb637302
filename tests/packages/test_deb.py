"""The Debian package in a life on a clean machine: installed, used, upgraded, removed, purged."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from testbed.debian import Machine, fetch, unpacked
from testbed.images import PROJECT
from testbed.installation import apt_mirror, private_root
from tests.packages.conftest import commands_of

pytestmark = pytest.mark.timeout(900)  # the first of a file builds what it tests

HEADING = "The Debian package"
EXPOSURE_MAX = 1.5
"""Of 10, as tests/unit/test_service_unit.py has it; here of the unit that was installed."""
KEPT = "/etc/fairdial/fairdial.toml"
OURS = ("/etc/fairdial", "/var/lib/fairdial", "/run/fairdial", "/usr/lib/fairdial", "/usr/share/fairdial")

# Asterisk has a root of its own, as Debian 12 has none; all else is as where its package is installed.
ASTERISK = """[Service]
Type=exec
RootDirectory=/srv/asterisk
MountAPIVFS=yes
User=asterisk
RuntimeDirectory=asterisk
LoadCredential=ari-password:/etc/fairdial/ari-password
LoadCredential=ami-secret:/etc/fairdial/ami-secret
Environment=ARI_PASSWORD_FILE=%d/ari-password AMI_SECRET_FILE=%d/ami-secret
ExecStart=/usr/local/bin/start-asterisk
"""


def test_lintian_finds_no_fault(package: Path) -> None:
    done = subprocess.run(
        [
            "lintian",
            "--no-cfg",
            "--profile",
            "debian",
            "--allow-root",
            "--fail-on",
            "error,warning",
            str(package),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_it_holds_the_program_and_tells_nothing_of_where_it_was_made(package: Path, tmp_path: Path) -> None:
    subprocess.run(
        ["dpkg-deb", "--raw-extract", str(package), str(tmp_path / "root")], check=True, timeout=60
    )
    files = {
        f"/{file.relative_to(tmp_path / 'root')}": file
        for file in (tmp_path / "root").rglob("*")
        if file.is_file() and not file.is_symlink()
    }
    for wanted in (
        "/usr/bin/fairdial",
        "/usr/share/man/man1/fairdial.1.gz",
        "/usr/share/bash-completion/completions/fairdial",
        "/usr/share/zsh/vendor-completions/_fairdial",
        "/usr/share/fairdial/dialplan/fairdial.conf",
        "/usr/share/fairdial/dialplan/samples/outbound.conf",
        "/usr/share/doc/fairdial/changelog.Debian.gz",
    ):
        assert wanted in files
    policies = {f"/etc/fairdial/policies/{file.name}" for file in (PROJECT / "policies").glob("*.toml")}
    conffiles = (tmp_path / "root/DEBIAN/conffiles").read_text().split()
    assert set(conffiles) == {KEPT, *policies}
    mirror = apt_mirror().split("://")[1].split("/")[0]
    told = [
        f"{PROJECT}/fairdial".encode(),
        f"{PROJECT}/.venv".encode(),
        mirror.encode(),
        bytes(tmp_path.parent),
    ]
    assert [name for name, file in files.items() if any(word in file.read_bytes() for word in told)] == []


def newer(package: Path, folder: Path) -> Path:
    """The same package as the next release would be."""
    root = folder / "newer"
    subprocess.run(["dpkg-deb", "--raw-extract", str(package), str(root)], check=True, timeout=60)
    control = root / "DEBIAN" / "control"
    text = control.read_text()
    control.write_text(re.sub(r"(?m)^Version: .*$", r"\g<0>+1", text))
    done = folder / "newer.deb"
    subprocess.run(
        ["dpkg-deb", "-Znone", "--build", str(root), str(done)],
        check=True,
        timeout=60,
        stdout=subprocess.DEVNULL,
    )
    shutil.rmtree(root)
    return done


def lay_asterisk(root: Path, upper: Path) -> str:
    """Asterisk's root for the machine, its settings those of the image; what systemd-nspawn is to mount there."""
    lower = private_root(print)
    settings = upper / "etc" / "asterisk"
    settings.mkdir(parents=True)
    start = upper / "usr" / "local" / "bin" / "start-asterisk"
    start.parent.mkdir(parents=True)
    shutil.copy(PROJECT / "docker/asterisk/start", start)
    for folder in ("docker/asterisk/etc", "dialplan", "dialplan/samples"):
        for file in (PROJECT / folder).glob("*.conf"):
            shutil.copy(file, settings / file.name)
    names = {
        line.split(":")[0]: line.split(":")[2:4] for line in (lower / "etc/passwd").read_text().splitlines()
    }
    user, group = names["asterisk"]
    (root / "etc/systemd/system/asterisk.service").write_text(ASTERISK.format(user=user, group=group))
    for name in ("etc/passwd", "etc/group"):
        [asterisk] = re.findall(r"^asterisk:.*\n", (lower / name).read_text(), re.MULTILINE)
        with (root / name).open("a") as listed:
            listed.write(asterisk)
    (root / "etc/systemd/system/asterisk.service").write_text(ASTERISK)
    # Where the doctor looks for them.
    (root / "etc/asterisk").symlink_to("/srv/asterisk/etc/asterisk")
    (root / "srv/asterisk").mkdir()
    return f"--overlay={lower}:{upper}:/srv/asterisk"


def test_a_life_from_the_installation_to_the_purge(package: Path, tmp_path: Path) -> None:
    with unpacked(tmp_path / "root") as root:
        (root / "root/dist").mkdir()
        shutil.copy(package, root / "root/dist")
        shutil.copy(newer(package, tmp_path), root / "root/newer.deb")
        (root / "etc/apt/apt.conf.d/yes").write_text(
            # Nobody answers there; and what is recommended is systemd, which is there.
            'APT::Get::Assume-Yes "true";\nAPT::Install-Recommends "false";\n'
        )
        fetch(root, f"/root/dist/{package.name}")
        mount = lay_asterisk(root, tmp_path / "upper")
        before = set(passwd(root))
        with Machine.boot(root, mount) as machine:
            build, install, status, version, secrets, doctor, group, restart, backup, remove, purge = (
                commands_of("docs/packages.md", HEADING)
            )
            assert build == "make deb"
            it_is_installed(machine, install, status, version)
            the_doctor_says_what_is_missing_until_nothing_is(machine, secrets, doctor)
            say(machine, group)
            say(machine, restart)
            an_upgrade_keeps_what_is_the_owners(machine, backup)
            it_goes(machine, remove, purge)
            assert set(passwd(root)) == before


def say(machine: Machine, command: str) -> str:
    """A command as the documentation has it, in root's home."""
    return machine.run("sh", "-c", f"cd /root; {command}").stdout


def passwd(root: Path) -> list[str]:
    return (root / "etc/passwd").read_text().splitlines() + (root / "etc/group").read_text().splitlines()


def active(machine: Machine) -> str:
    return machine.run("systemctl", "is-active", "fairdial", check=False).stdout.strip()


def main_pid(machine: Machine) -> str:
    return machine.run("systemctl", "show", "--property=MainPID", "--value", "fairdial").stdout.strip()


def it_is_installed(machine: Machine, install: str, status: str, version: str) -> None:
    said = say(machine, install)
    assert "does not start" not in said
    assert "Active: active (running)" in say(machine, status)
    assert re.fullmatch(r"fairdial \d+\.\d+\.\d+\n", say(machine, version))
    assert machine.run("systemctl", "is-enabled", "fairdial").stdout.strip() == "enabled"
    process = Path("/proc", main_pid(machine))
    assert machine.run("stat", "--format=%U", str(process)).stdout.strip() == "fairdial"
    modes = machine.run(
        "stat", "--format=%U:%G %a %n", KEPT, "/etc/fairdial/ari-password", "/var/lib/fairdial"
    ).stdout
    assert modes.splitlines() == [
        f"root:fairdial 640 {KEPT}",
        "root:root 600 /etc/fairdial/ari-password",
        "fairdial:fairdial 700 /var/lib/fairdial",
    ]
    assert machine.run("systemd-analyze", "verify", "--man=no", "fairdial.service").stderr == ""
    secured = machine.run("systemd-analyze", "security", "--no-pager", "fairdial.service").stdout
    [level] = re.findall(r"exposure level for \S+: ([\d.]+)", secured)
    assert float(level) <= EXPOSURE_MAX


def the_doctor_says_what_is_missing_until_nothing_is(machine: Machine, secrets: str, doctor: str) -> None:
    assert len(say(machine, secrets).split()) == 2
    missing = machine.run(*doctor.split(), check=False)
    assert (missing.returncode, "http.conf" in missing.stdout) == (1, True), missing.stdout
    machine.run("systemctl", "start", "asterisk")
    # The service finds the switch by itself, within its pause between two tries.
    ready = machine.run(
        "sh", "-c", "for try in $(seq 60); do fairdial ready && exit 0; sleep 0.5; done; exit 1", check=False
    )
    assert ready.returncode == 0, (
        ready.stdout + machine.run("journalctl", "--no-pager", "-u", "asterisk").stdout
    )
    well = machine.run(*doctor.split(), check=False)
    assert well.returncode == 0, well.stdout
    assert "FAULT" not in well.stdout


def an_upgrade_keeps_what_is_the_owners(machine: Machine, backup: str) -> None:
    machine.run(
        "fairdial",
        "account",
        "add",
        "acme",
        "--policy",
        "kryptotel",
        "--zone",
        "Europe/London",
        "--country",
        "GB",
    )
    machine.run("sh", "-c", f"printf '\\n# ours\\n' >>{KEPT}")
    say(machine, backup)
    secrets = machine.run("sh", "-c", "sha256sum /etc/fairdial/a*").stdout
    before = main_pid(machine)
    machine.run("apt-get", "install", "/root/newer.deb")
    assert active(machine) == "active"
    assert main_pid(machine) != before
    assert "# ours" in machine.run("cat", KEPT).stdout
    assert machine.run("sh", "-c", "sha256sum /etc/fairdial/a*").stdout == secrets
    assert '"acme"' in machine.run("fairdial", "account", "list", "--json").stdout
    # Interrupted and run again, the configuration makes nothing anew.
    machine.run("dpkg", "--configure", "--pending")
    machine.run("/var/lib/dpkg/info/fairdial.postinst", "configure", "")
    assert machine.run("sh", "-c", "sha256sum /etc/fairdial/a*").stdout == secrets


def it_goes(machine: Machine, remove: str, purge: str) -> None:
    say(machine, remove)
    assert active(machine) != "active"
    assert machine.run("ls", "/var/lib/fairdial/ledger.sqlite", KEPT, check=False).returncode == 0
    assert machine.run("test", "-e", "/usr/lib/fairdial", check=False).returncode == 1
    machine.run("systemctl", "stop", "asterisk")
    say(machine, purge)
    assert [path for path in OURS if machine.run("test", "-e", path, check=False).returncode == 0] == []
    left = machine.run(
        "sh", "-c", "find /etc /var /run /usr -xdev -iname '*fairdial*' -not -path '/var/log/*'"
    ).stdout
    assert left == ""
    assert machine.run("systemctl", "list-unit-files", "fairdial.service", check=False).returncode != 0
