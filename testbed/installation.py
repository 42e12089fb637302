"""Where Asterisk, SIPp and SIPVicious come from: the machine's own, or a private root made once and reused.

`obtain` answers with an `Installation` that says how to run Asterisk and where it keeps its modules and
data; `obtain_sipvicious` finds the scanner, `obtain_promtool` the checker of alert rules, `obtain_chromium`
the browser.
An Asterisk that is installed already and is new enough is used as it is. Otherwise a private root is made with
debootstrap below the user's cache directory, because the Debian releases that FairDial runs on ship no Asterisk.
Missing system packages (debootstrap, sip-tester, sipvicious, chromium) are installed with apt-get.

Left to others: configuring and running a switch (`testbed.asterisk`), and the phones (`testbed.sipp`).
"""

from __future__ import annotations

import contextlib
import ctypes.util
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SUITE = "forky"
# Debian 12's debootstrap knows no script of the suite's name; every Debian suite is built like sid.
DEBOOTSTRAP_SCRIPT = Path("/usr/share/debootstrap/scripts/sid")
PACKAGES = ("asterisk", "asterisk-core-sounds-en-gsm")

# Raise it whenever the steps below change, so that a root of the older recipe is rebuilt.
RECIPE_VERSION = 1
STAMP_NAME = "fairdial-root.json"

ROOT_SIZE_BYTES = 1_500_000_000
LOCK_TIMEOUT_S = 900.0
COMMAND_TIMEOUT_S = 900.0

# Another process may be installing something: the machine itself, or another worker of the same tests.
WAIT_FOR_APT = "-oDPkg::Lock::Timeout=300"

# First releases of each branch that take ARI requests on the event socket.
FIRST_USABLE_MINOR = {20: 14, 21: 9, 22: 4}

SYSTEM_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/local/sbin"))

# A plain user's PATH has no sbin, and neither has root's after some kinds of login.
CHROOT = shutil.which("chroot", path=SYSTEM_PATH) or "/usr/sbin/chroot"

Progress = Callable[[str], object]


class TestbedError(Exception):
    """The testbed cannot go on; the message says what, where and how to mend it."""

    __test__ = False  # the name starts as pytest's test classes do


@dataclass(frozen=True)
class Installation:
    """A usable Asterisk, installed on the machine (`root` is None) or in a private root.

    `asterisk`, `module_directory` and `data_directory` are paths as Asterisk itself sees them, that is, inside
    `root` if there is one. `sipp` is a path of the machine.
    """

    root: Path | None
    asterisk: str
    version: str
    module_directory: str
    data_directory: str
    sipp: str

    @property
    def instances(self) -> Path:
        """The machine's directory in which each running switch has a directory of its own."""
        if self.root is not None:
            return self.root / "srv" / "fairdial"
        # Short on purpose: Asterisk's control socket lies below it and may have 107 characters at most.
        return Path(tempfile.gettempdir()) / f"fairdial-{os.getuid()}"

    @property
    def rest_api(self) -> Path:
        """The machine's directory with the ARI description (`*.json`), where the package brings one."""
        return self.outside(self.data_directory) / "rest-api"

    def command(self, *arguments: str) -> list[str]:
        """The argument list that runs Asterisk with `arguments`."""
        enter = [] if self.root is None else [CHROOT, str(self.root)]
        return [*enter, self.asterisk, *arguments]

    def inside(self, path: Path) -> str:
        """`path` of the machine as Asterisk sees it."""
        return str(path) if self.root is None else f"/{path.relative_to(self.root)}"

    def outside(self, path: str) -> Path:
        """A path that Asterisk sees, as the machine sees it."""
        return Path(path) if self.root is None else self.root / path.lstrip("/")

    def modules(self) -> frozenset[str]:
        """Names of the loadable modules that this build of Asterisk has (`app_dial.so`, …)."""
        return frozenset(entry.name for entry in self.outside(self.module_directory).glob("*.so"))


def obtain(progress: Progress = print) -> Installation:
    """Find or make an Asterisk, and see to it that SIPp is there.

    The first call on a fresh machine takes about a minute and needs root and the machine's apt mirror; later
    ones take milliseconds. Raises `TestbedError` where that is impossible.
    """
    root = None
    if not _installed_is_usable(progress):
        root = private_root(progress)
    return _describe(root, program("sipp", "sip-tester", progress))


def obtain_sipvicious(progress: Progress = print) -> Mapping[str, str]:
    """The paths of svmap, svwar and svcrack by name: they look for switches, extensions and passwords.

    Installed if need be. Raises `TestbedError` where that is impossible.
    """
    return {name: program(name, "sipvicious", progress) for name in ("svmap", "svwar", "svcrack")}


def obtain_curl(progress: Progress = print) -> str:
    """The path of curl, installed if need be. Raises `TestbedError` where that is impossible."""
    return program("curl", "curl", progress)


def obtain_chromium(progress: Progress = print) -> str:
    """The path of Debian's Chromium, installed if need be, and with it what Playwright's driver is linked to.

    Raises `TestbedError` where that is impossible.
    """
    chromium = program("chromium", "chromium", progress)
    if ctypes.util.find_library("atomic") is None:
        install_packages("libatomic1", progress=progress)
    return chromium


def obtain_promtool(progress: Progress = print) -> str:
    """The path of Prometheus' `promtool`, fetched if need be. Raises `TestbedError` where that is impossible.

    The package is unpacked into the cache and not installed: it would start a server.
    """
    installed = shutil.which("promtool", path=SYSTEM_PATH)
    if installed is not None:
        return installed
    return str(unpacked("prometheus", progress=progress) / "usr" / "bin" / "promtool")


def unpacked(*packages: str, progress: Progress = print) -> Path:
    """The folder of Debian packages that are unpacked into the cache, not installed. Raises `TestbedError`."""
    made = cache_directory() / packages[0]
    if made.exists():
        return made
    progress(f"fetching Debian's package {packages[0]}")
    cache_directory().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_directory(), prefix=f"{packages[0]}-") as name:
        folder = Path(name)
        extract = 'for package in *.deb; do dpkg-deb --extract "$package" unpacked || exit; done'
        try:
            for command in (["apt-get", "-q", "download", *packages], ["sh", "-c", extract]):
                subprocess.run(
                    command, cwd=folder, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=True
                )
        except (OSError, subprocess.SubprocessError) as error:
            raise TestbedError(
                f"Debian's package {packages[0]} cannot be fetched ({error}); run `apt-get update`, or install it"
            ) from error
        # Where another process was quicker, its copy is as good.
        with contextlib.suppress(OSError):
            (folder / "unpacked").rename(made)
    return made


def program(name: str, package: str, progress: Progress) -> str:
    """The path of a program of a system package, which is installed where it is missing."""
    found = shutil.which(name, path=SYSTEM_PATH)
    if found is None:
        install_packages(package, progress=progress)
        found = shutil.which(name, path=SYSTEM_PATH)
    if found is None:
        raise TestbedError(f"{package} is installed but `{name}` is not on PATH; add its directory to PATH")
    return found


def parse_version(text: str) -> tuple[int, int] | None:
    """`(22, 10)` from "Asterisk 22.10.1~dfsg…"; None where `text` does not look like that."""
    found = re.search(r"Asterisk (?:certified[/-])?(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def is_usable(version: tuple[int, int]) -> bool:
    """Whether this release takes ARI requests on the event socket (20.14, 21.9, 22.4 and later)."""
    major, minor = version
    if major in FIRST_USABLE_MINOR:
        return minor >= FIRST_USABLE_MINOR[major]
    return major > max(FIRST_USABLE_MINOR)


def cache_directory() -> Path:
    """Where private roots are kept: `fairdial` below the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "fairdial"


def apt_mirror() -> str:
    """The first non-security mirror of the machine's own apt configuration."""
    try:
        listed = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout.split()
    except (OSError, subprocess.SubprocessError) as error:
        raise TestbedError(
            f"the machine's apt configuration cannot be read ({error}); the private root for Asterisk needs a "
            "Debian machine with apt, or install Asterisk 22.4 or later yourself"
        ) from error
    mirrors = [site for site in listed if "security" not in site]
    if not mirrors:
        raise TestbedError(
            "apt is configured with no package mirror; add a Debian mirror to /etc/apt/sources.list and run "
            "`apt-get update`, or install Asterisk 22.4 or later yourself"
        )
    return mirrors[0]


def _describe(root: Path | None, sipp: str) -> Installation:
    """Find binary, version, modules and data of an Asterisk that is known to be there."""
    asterisk = "/usr/sbin/asterisk" if root is not None else shutil.which("asterisk", path=SYSTEM_PATH)
    if asterisk is None:
        raise TestbedError("asterisk has vanished from PATH while it was being examined; run again")
    base = root or Path("/")
    modules = _first_existing(
        base,
        tuple(
            f"{place}/asterisk/modules" for place in ("usr/lib/*", "usr/lib", "usr/lib64", "usr/local/lib*")
        ),
        "app_dial.so",
    )
    # Asterisk refuses to load most modules without its XML documentation, so that marks the data directory.
    data = _first_existing(
        base, ("usr/share/asterisk", "var/lib/asterisk", "usr/local/share/asterisk"), "documentation"
    )
    version = _asterisk_version(root, asterisk) or ""
    found = re.search(r"\d+\.[\d.]*\d", version)
    return Installation(
        root=root,
        asterisk=asterisk,
        version=found[0] if found else version,
        module_directory=f"/{modules.relative_to(base)}",
        data_directory=f"/{data.relative_to(base)}",
        sipp=sipp,
    )


def _first_existing(base: Path, patterns: Sequence[str], content: str) -> Path:
    for pattern in patterns:
        for directory in sorted(base.glob(pattern)):
            if (directory / content).exists():
                return directory
    raise TestbedError(
        f"Asterisk's {content} is in none of {', '.join(patterns)} below {base}; install Asterisk's packages "
        "completely, or remove it so that a private root is made"
    )


def _asterisk_version(root: Path | None, asterisk: str = "/usr/sbin/asterisk") -> str | None:
    """What `asterisk -V` says, or None where it does not run."""
    command = [asterisk, "-V"] if root is None else [CHROOT, str(root), asterisk, "-V"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _installed_is_usable(progress: Progress) -> bool:
    installed = shutil.which("asterisk", path=SYSTEM_PATH)
    if installed is None:
        return False
    text = _asterisk_version(None, installed)
    version = parse_version(text or "")
    if version is not None and is_usable(version):
        return True
    progress(
        f"{installed} is {text or 'not running'}, but 20.14, 21.9, 22.4 or later is needed: "
        "using a private root instead"
    )
    return False


def private_root(progress: Progress) -> Path:
    """The private root, made now if there is none or the one found is broken or of an older recipe."""
    cache = cache_directory()
    root = cache / f"asterisk-{SUITE}"
    if os.geteuid() != 0:
        raise TestbedError(
            f"no usable Asterisk is installed and a private root ({root}) can only be entered by root; run as "
            "root, or install Asterisk 22.4 or later"
        )
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TestbedError(
            f"{cache} cannot be made ({error.strerror}); set XDG_CACHE_HOME to a directory on a writable disk"
        ) from error
    with exclusive(cache / "lock", progress) as lock:
        for partial in cache.glob("*.partial-*"):
            progress(f"removing {partial}, left by an unfinished run")
            remove_tree(partial)
        if root.exists():
            fault = _fault_of(root)
            if fault is None:
                return root
            progress(f"rebuilding {root}: {fault}")
            remove_tree(root)
        _build(root, lock, progress)
    return root


def _fault_of(root: Path) -> str | None:
    """Why the private root `root` cannot be used, or None where it can."""
    try:
        stamp = json.loads((root / STAMP_NAME).read_text())
    except (OSError, ValueError):
        return "it is unfinished (no readable stamp)"
    if not isinstance(stamp, dict) or stamp.get("recipe") != RECIPE_VERSION:
        return "it was made by another recipe"
    if _asterisk_version(root) != stamp.get("asterisk"):
        return "its Asterisk does not run"
    return None


def _build(root: Path, lock: int, progress: Progress) -> None:
    """Make the root beside its place and rename it there when it is complete."""
    began = time.monotonic()
    free_bytes = shutil.disk_usage(root.parent).free
    if free_bytes < ROOT_SIZE_BYTES:
        raise TestbedError(
            f"{root.parent} has {free_bytes // 1_000_000} MB free and the private root for Asterisk needs "
            f"{ROOT_SIZE_BYTES // 1_000_000} MB; free some, or set XDG_CACHE_HOME to a larger disk"
        )
    mirror = apt_mirror()
    if shutil.which("debootstrap", path=SYSTEM_PATH) is None:
        install_packages("debootstrap", progress=progress)
    partial = Path(tempfile.mkdtemp(prefix=f"{root.name}.partial-", dir=root.parent))
    partial.chmod(0o755)
    log = root.parent / "build.log"
    try:
        progress(f"making a private root for Asterisk in {root} (about a minute, once)")
        with log.open("w") as output:
            _fill(partial, mirror, Transcript(output.fileno(), log, lock), progress)
        version = _asterisk_version(partial)
        parsed = parse_version(version or "")
        if parsed is None or not is_usable(parsed):
            raise TestbedError(
                f"the mirror {_without_password(mirror)} gave {version or 'an Asterisk that does not run'}, but "
                f"22.4 or later is needed; see {log}"
            )
        (partial / STAMP_NAME).write_text(json.dumps({"recipe": RECIPE_VERSION, "asterisk": version}))
        partial.rename(root)
    except OSError as error:
        raise TestbedError(
            f"the private root {partial} could not be made: {error.strerror or error}"
            + ("; free some space, or set XDG_CACHE_HOME" if error.errno == errno.ENOSPC else f"; see {log}")
        ) from error
    finally:
        if partial.exists():
            remove_tree(partial)
    progress(f"private root ready after {time.monotonic() - began:.0f} s: {version}")


def _fill(partial: Path, mirror: str, transcript: Transcript, progress: Progress) -> None:
    proxies = apt_proxies()
    environment = {
        **os.environ,
        **{f"{scheme}_proxy": url for scheme, url in proxies.items()},
        "PATH": SYSTEM_PATH,
        "DEBIAN_FRONTEND": "noninteractive",
        "LC_ALL": "C",
    }
    debootstrap = [
        "debootstrap",
        "--variant=minbase",
        "--include=ca-certificates",
        SUITE,
        str(partial),
        mirror,
    ]
    run_step([*debootstrap, str(DEBOOTSTRAP_SCRIPT)], transcript, environment)
    progress(f"base system of {SUITE} is there, adding {' and '.join(PACKAGES)}")
    # Without it the package would start its Asterisk at once, on the machine's own ports.
    policy = partial / "usr" / "sbin" / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    hosts = partial / "etc" / "hosts"
    shutil.copyfile("/etc/hosts", hosts)  # the mirror's address may come from there
    authorities = Path("/etc/ssl/certs/ca-certificates.crt")
    if authorities.exists():  # the machine may trust its mirror or proxy through an authority of its own
        shutil.copyfile(authorities, partial / authorities.relative_to("/"))
    options = [f"-oAcquire::{scheme}::Proxy={url}" for scheme, url in proxies.items()]
    install = ["apt-get", *options, "install", "-y", "--no-install-recommends", *PACKAGES]
    run_step([CHROOT, str(partial), *install], transcript, environment)
    (partial / "var" / "cache" / "apt" / "pkgcache.bin").unlink(missing_ok=True)
    for package in (partial / "var" / "cache" / "apt" / "archives").glob("*.deb"):
        package.unlink()
    # Look-ups must answer at once or not at all: a hanging one delays every call by seconds.
    names = ("localhost", socket.gethostname(), "A.ROOT-SERVERS.NET")
    hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in names))
    resolver = partial / "etc" / "resolv.conf"
    resolver.unlink(missing_ok=True)
    resolver.write_text("")


def apt_proxies() -> dict[str, str]:
    """The proxies of apt's own configuration by scheme; those of the environment are inherited anyway."""
    done = subprocess.run(
        ["apt-config", "shell", "http", "Acquire::http::Proxy", "https", "Acquire::https::Proxy"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = dict(re.findall(r"^(https?)='(.*)'$", done.stdout, re.MULTILINE))
    return {scheme: url for scheme, url in found.items() if url and url != "DIRECT"}


def install_packages(*packages: str, progress: Progress) -> None:
    """Install system packages; fetch the package lists first only if they turn out to be too old."""
    if os.geteuid() != 0:
        raise TestbedError(
            f"{', '.join(packages)} is missing; run `apt-get install {' '.join(packages)}` as root"
        )
    progress(f"installing {', '.join(packages)} with apt-get")
    environment = {**os.environ, "PATH": SYSTEM_PATH, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    install = ["apt-get", WAIT_FOR_APT, "install", "-y", "--no-install-recommends", *packages]
    with tempfile.NamedTemporaryFile("w", prefix="fairdial-apt-", suffix=".log", delete=False) as output:
        log = Path(output.name)
        try:
            run_step(install, Transcript(output.fileno(), log), environment)
        except TestbedError:
            # Its own result does not count: with one list of several unreachable the package may still come.
            subprocess.run(
                ["apt-get", "update"],
                stdout=output,
                stderr=output,
                env=environment,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
            run_step(install, Transcript(output.fileno(), log), environment)
    log.unlink()


@dataclass(frozen=True)
class Transcript:
    """Where the output of installation steps goes, and the lock that they keep until the last of them has ended.

    When we are killed, what a step has started may go on for a moment; nobody else may begin before it is over.
    """

    output: int
    path: Path
    lock: int | None = None


def run_step(command: Sequence[str], transcript: Transcript, environment: Mapping[str, str]) -> None:
    """Run one step of the installation in a process group of its own, so that all of it ends with us."""
    with subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *command],
        stdin=subprocess.DEVNULL,
        stdout=transcript.output,
        stderr=transcript.output,
        env=dict(environment),
        start_new_session=True,
        pass_fds=() if transcript.lock is None else (transcript.lock,),
    ) as process:
        try:
            status = process.wait(COMMAND_TIMEOUT_S)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise TestbedError(
                    f"`{command[0]}` took longer than {COMMAND_TIMEOUT_S:.0f} s; see {transcript.path}, "
                    "check the network"
                ) from error
            raise
    if status != 0:
        last = [line for line in transcript.path.read_text(errors="replace").splitlines() if line.strip()][
            -5:
        ]
        step = _without_password(" ".join(command))
        raise TestbedError(
            f"`{step}` failed with status {status}: {_without_password(' / '.join(last))}; see "
            f"{transcript.path}, check the network and the mirror in /etc/apt, then run again"
        )


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]+@", "//", text)


def remove_tree(directory: Path) -> None:
    """Remove `directory`; file systems mounted below it are detached first, never emptied.

    Raises `TestbedError` where a mount cannot be detached or a file cannot be removed.
    """
    place = str(directory.resolve())
    mounts = [
        re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split()[4])
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
    ]
    for mount in reversed([mount for mount in mounts if mount == place or mount.startswith(f"{place}/")]):
        done = subprocess.run(["umount", mount], capture_output=True, text=True, timeout=30, check=False)
        if done.returncode != 0:
            raise TestbedError(
                f"{mount} is mounted below {directory} and cannot be unmounted ({done.stderr.strip()}); unmount it "
                "and run again"
            )
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise TestbedError(f"{directory} cannot be removed: {error}; remove it and run again") from error


@contextmanager
def exclusive(path: Path, progress: Progress) -> Iterator[int]:
    """Hold the lock file `path`, answering with its descriptor; wait for another holder, at most `LOCK_TIMEOUT_S`."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    told = False
    with path.open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    progress(f"another run is making the private root (it holds {path}), waiting")
                    told = True
                if time.monotonic() > deadline:
                    raise TestbedError(
                        f"{path} was held by another run for {LOCK_TIMEOUT_S:.0f} s; end that run, then run again"
                    ) from None
                time.sleep(0.2)
        try:
            yield lock.fileno()
        finally:
            # For all who have the descriptor.
            fcntl.flock(lock, fcntl.LOCK_UN)
