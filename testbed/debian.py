"""A clean Debian 12: made once with debootstrap, kept as an archive, and booted under systemd as a machine of its own.

What is packaged is tried there, where nothing of a developer's machine stands in for what a package forgot. `unpacked`
gives a copy of the system, `fetch` lays packages into it, `Machine` is one that runs: systemd is its first process,
in namespaces of its own, and its network is a loopback that it shares with nobody.

Left to others: Asterisk's own root, and how steps of an installation are run (`testbed.installation`).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from testbed.installation import (
    CHROOT,
    SYSTEM_PATH,
    Progress,
    TestbedError,
    Transcript,
    apt_mirror,
    apt_proxies,
    cache_directory,
    exclusive,
    program,
    remove_tree,
    run_step,
)

SUITE = "bookworm"
RECIPE_VERSION = 2
ADDED = ("ca-certificates", "systemd", "systemd-sysv")
BOOT_WITHIN_S = 60.0
STOP_WITHIN_S = 20.0
COMMAND_WITHIN_S = 120.0
POLL_S = 0.05


def obtain_archive(progress: Progress = print) -> Path:
    """The archive (tar) of a minimal Debian 12 with systemd, made now if there is none: a minute, once.

    No mirror is named in it. Raises `TestbedError` where it cannot be made.
    """
    cache = cache_directory()
    archive = cache / f"debian-{SUITE}-{RECIPE_VERSION}.tar"
    if archive.exists():
        return archive
    if os.geteuid() != 0:
        raise TestbedError(f"{archive} is missing, and only root can make it; run as root")
    cache.mkdir(parents=True, exist_ok=True)
    with exclusive(cache / "debian.lock", progress) as lock:
        if archive.exists():
            return archive
        debootstrap = program("debootstrap", "debootstrap", progress)
        progress(f"making a clean Debian in {archive} (about a minute, once)")
        root = Path(tempfile.mkdtemp(prefix="debian.making-", dir=cache))
        root.chmod(0o755)
        log = cache / "debian.log"
        try:
            with log.open("w") as output:
                transcript = Transcript(output.fileno(), log, lock)
                environment = _environment()
                including = f"--include={','.join(ADDED)}"
                run_step(
                    [debootstrap, "--variant=minbase", including, SUITE, str(root), apt_mirror()],
                    transcript,
                    environment,
                )
                _strip(root)
                partial = archive.with_suffix(".partial")
                run_step(
                    [
                        "tar",
                        "--create",
                        "--numeric-owner",
                        "--xattrs",
                        f"--file={partial}",
                        f"--directory={root}",
                        ".",
                    ],
                    transcript,
                    environment,
                )
            partial.rename(archive)
        finally:
            remove_tree(root)
    return archive


def _environment() -> dict[str, str]:
    proxies = {f"{scheme}_proxy": url for scheme, url in apt_proxies().items()}
    return {**os.environ, **proxies, "PATH": SYSTEM_PATH, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}


def _strip(root: Path) -> None:
    """Take out what tells of the machine and the mirror, and what can be fetched again."""
    (root / "etc/apt/sources.list").write_text("")
    for folder in ("var/lib/apt/lists", "var/cache/apt", "var/log"):
        for entry in (root / folder).iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    for name in ("etc/hostname", "etc/hosts", "etc/resolv.conf"):
        (root / name).unlink(missing_ok=True)
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    # What is tried here need not outlast a power cut; Debian's own images have the same.
    (root / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n")
    # Another for each machine that is booted.
    (root / "etc/machine-id").write_text("")


@contextmanager
def unpacked(folder: Path, progress: Progress = print) -> Iterator[Path]:
    """A copy of the clean Debian in `folder`, which must not exist; removed at the end."""
    archive = obtain_archive(progress)
    folder.mkdir()
    try:
        subprocess.run(
            ["tar", "--extract", "--numeric-owner", "--xattrs", f"--file={archive}", f"--directory={folder}"],
            check=True,
            timeout=COMMAND_WITHIN_S,
        )
        yield folder
    finally:
        remove_tree(folder)


def reach_of_apt(folder: Path) -> dict[Path, str]:
    """What lets apt in another root reach this machine's mirror: files (some made in `folder`) and their places."""
    sources = folder / "sources.list"
    sources.write_text(f"deb {apt_mirror()} {SUITE} main\n")
    options = folder / "99machine"
    options.write_text(
        "".join(f'Acquire::{scheme}::Proxy "{url}";\n' for scheme, url in apt_proxies().items())
    )
    given = {sources: "/etc/apt/sources.list", options: "/etc/apt/apt.conf.d/99machine"}
    # The machine may know its mirror by these alone, and trust it through an authority of its own.
    ours = ("/etc/hosts", "/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt")
    return given | {Path(place): place for place in ours if Path(place).exists()}


def fetch(root: Path, *packages: str) -> None:
    """Fetch the packages and what they depend on into a root, which from then on knows this machine's mirror.

    With them there it can install them without a network. Raises `TestbedError`.
    """
    with tempfile.TemporaryDirectory() as folder:
        for source, place in reach_of_apt(Path(folder)).items():
            target = root / place.lstrip("/")
            target.unlink(missing_ok=True)
            shutil.copyfile(source, target)
    inside(root, "apt-get", "update", "-q")
    inside(root, "apt-get", "install", "-q", "-y", "--no-install-recommends", "--download-only", *packages)


def inside(root: Path, *command: str) -> str:
    """What a command that must go well says in a chroot. Raises `TestbedError`."""
    done = subprocess.run(
        [CHROOT, str(root), *command],
        env=_environment() | {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_WITHIN_S,
        check=False,
    )
    if done.returncode != 0:
        raise TestbedError(f"`{' '.join(command)}` in {root} failed: {done.stdout}{done.stderr}")
    return done.stdout


class Machine:
    """A system that was booted from a root; make one with `with Machine.boot(…) as machine`."""

    def __init__(self, root: Path, first_process: int) -> None:
        """Use `boot`."""
        self.root = root
        self._first_process = first_process

    @classmethod
    @contextmanager
    def boot(cls, root: Path, *options: str, progress: Progress = print) -> Iterator[Machine]:
        """The root with systemd as its first process, until the block ends. `options` go to systemd-nspawn.

        Raises `TestbedError` where the kernel does not let us, or it is not up within `BOOT_WITHIN_S`.
        """
        nspawn = program("systemd-nspawn", "systemd-container", progress)
        log = root.parent / f"{root.name}.boot.log"
        command = [
            *(
                "setpriv",
                "--pdeathsig",
                "KILL",
                nspawn,
                "--quiet",
                "--register=no",
                "--keep-unit",
                "--settings=no",
            ),
            *(
                f"--directory={root}",
                "--machine=fairdial",
                "--private-network",
                "--resolv-conf=off",
                "--timezone=off",
            ),
            *(
                "--link-journal=no",
                "--console=pipe",
                *options,
                "--boot",
                "systemd.journald.forward_to_console=1",
            ),
        ]
        with log.open("w") as output:
            nspawned = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        try:
            machine = cls(root, _booted(nspawned, log))
            machine._wait_until_up(log)
            yield machine
        finally:
            nspawned.send_signal(signal.SIGTERM)
            try:
                nspawned.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                nspawned.kill()
                nspawned.wait()

    def _wait_until_up(self, log: Path) -> None:
        deadline = time.monotonic() + BOOT_WITHIN_S
        while time.monotonic() < deadline:
            state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
            if state in ("running", "degraded"):
                return
            time.sleep(POLL_S)
        raise TestbedError(f"systemd in {self.root} was not up after {BOOT_WITHIN_S:.0f} s; see {log}")

    def run(
        self, *command: str, check: bool = True, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine as its root. Raises `TestbedError` where it must go well and does not."""
        done = subprocess.run(
            [
                *(
                    "nsenter",
                    f"--target={self._first_process}",
                    "--mount",
                    "--uts",
                    "--ipc",
                    "--net",
                    "--pid",
                ),
                *(
                    "--cgroup",
                    f"--root=/proc/{self._first_process}/root",
                    f"--wd=/proc/{self._first_process}/root",
                    *command,
                ),
            ],
            env={
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "DEBIAN_FRONTEND": "noninteractive",
                "LC_ALL": "C.UTF-8",
                **(environment or {}),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_WITHIN_S,
            check=False,
        )
        if check and done.returncode != 0:
            raise TestbedError(
                f"`{' '.join(command)}` ended with {done.returncode}: {done.stdout}{done.stderr}"
            )
        return done


def _booted(nspawned: subprocess.Popen[bytes], log: Path) -> int:
    """The machine's first process, as this machine numbers it."""
    children = Path(f"/proc/{nspawned.pid}/task/{nspawned.pid}/children")
    deadline = time.monotonic() + BOOT_WITHIN_S
    while time.monotonic() < deadline and nspawned.poll() is None:
        for child in children.read_text().split():
            # Before it is in its own namespaces and root it is nspawn's copy of itself.
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return int(child)
        time.sleep(POLL_S)
    raise TestbedError(
        f"systemd cannot be booted in a container here: {log.read_text().strip() or 'it said nothing'}; run as root on "
        "a kernel with namespaces and cgroups, not in a container that withholds them"
    )
