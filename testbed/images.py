"""Container images, built and run with buildah as this project's Dockerfiles say, without a daemon or a registry.

The base images come from the private root of Asterisk and from the clean Debian; what a build must know of this machine
to reach its mirror and index is mounted for the build alone. A container is a chroot in which the image's command runs
as the image's user; it shares the caller's network.

Left to others: the roots themselves (`testbed.debian`, `testbed.installation`).
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed.debian import obtain_archive, reach_of_apt
from testbed.installation import SYSTEM_PATH, Progress, TestbedError, private_root, program

PROJECT = Path(__file__).resolve().parent.parent
BUILD_WITHIN_S = 600.0
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


class Images:
    """A store of images in `folder`, which is the caller's to remove."""

    def __init__(self, folder: Path, progress: Progress = print) -> None:
        """Make the store. Raises `TestbedError` where buildah cannot be had."""
        self._folder = folder
        self._progress = progress
        store = ("--root", str(folder / "root"), "--runroot", str(folder / "run"))
        buildah = program("buildah", "buildah", progress)
        # Copies of whole roots, as vfs makes them, only where the file system bears no overlay.
        self._buildah = (buildah, *store, "--storage-driver", "overlay")
        try:
            self.buildah("info")
        except TestbedError:
            self._buildah = (buildah, *store, "--storage-driver", "vfs")
            self.buildah("info")

    def buildah(self, *arguments: str, timeout_s: float = BUILD_WITHIN_S) -> str:
        """What a subcommand prints. Raises `TestbedError` where it fails."""
        done = subprocess.run(
            [*self._buildah, *arguments],
            cwd=PROJECT,
            env=image_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if done.returncode != 0:
            last = (done.stdout + done.stderr)[-3000:]
            raise TestbedError(f"`buildah {shlex.join(arguments)}` ended with {done.returncode}: {last}")
        return done.stdout.strip()

    def debian(self) -> str:
        """The name of a base image: the clean Debian 12."""
        return self._base("debian", ["cat", str(obtain_archive(self._progress))])

    def asterisk(self) -> str:
        """The name of a base image: the Debian in which Asterisk is installed, as its package leaves it."""
        # In srv are the switches that run at this moment; the list of sources names the mirror.
        left_out = [
            f"--exclude=./{name}" for name in ("srv/*", "proc/*", "sys/*", "dev/*", "etc/apt/sources.list")
        ]
        return self._base("asterisk", ["tar", "-C", str(private_root(self._progress)), *left_out, "-c", "."])

    def _base(self, name: str, archive: Sequence[str]) -> str:
        container = self.buildah("from", "scratch")
        try:
            mounted = self.buildah("mount", container)
            with subprocess.Popen(archive, stdout=subprocess.PIPE) as writing:
                subprocess.run(
                    ["tar", "-x", "--numeric-owner", "-C", mounted],
                    stdin=writing.stdout,
                    check=True,
                    timeout=120,
                )
            self.buildah("commit", "--quiet", container, f"localhost/base-{name}")
        finally:
            self.buildah("rm", container)
        return f"localhost/base-{name}"

    def build(self, dockerfile: str, base: str, **arguments: str) -> str:
        """Build one of the project's Dockerfiles on `base`; the name of the image."""
        folder = self._folder / "reach"
        folder.mkdir(exist_ok=True)
        given: list[str] = []
        for source, place in reach_of_apt(folder).items():
            given += ["--volume", f"{source}:{place}:ro"]
        pip = folder / "pip.conf"
        pip.write_text(_pip_settings(), encoding="utf-8")
        given += ["--secret", f"id=pip.conf,src={pip}"]
        if AUTHORITIES.exists():
            given += ["--secret", f"id=authorities,src={AUTHORITIES}"]
        for key, value in {"BASE": base, **arguments}.items():
            given += ["--build-arg", f"{key}={value}"]
        name = f"localhost/{Path(dockerfile).parent.name}"
        self.buildah(
            "build", "--layers=false", "--pull-never", *given, "--file", dockerfile, "--tag", name, "."
        )
        return name

    @contextmanager
    def container(self, image: str) -> Iterator[Container]:
        """A container of the image, removed at the end."""
        name = self.buildah("from", "--pull-never", image)
        try:
            yield Container(self._buildah, name, Path(self.buildah("mount", name)))
        finally:
            self.buildah("rm", name)


@dataclass(frozen=True)
class Container:
    """What is made of an image. root: its files, as this machine sees them."""

    buildah: tuple[str, ...]
    name: str
    root: Path

    def command(
        self, *arguments: str, volumes: Mapping[Path, str], environment: Mapping[str, str]
    ) -> list[str]:
        """The argument list that runs a command in it, in the caller's network."""
        given = [part for key, value in environment.items() for part in ("--env", f"{key}={value}")]
        given += [part for source, place in volumes.items() for part in ("--volume", f"{source}:{place}:ro")]
        return [*self.buildah, "run", *given, self.name, "--", *arguments]


def image_environment() -> dict[str, str]:
    """The environment in which `Container.command` runs."""
    return {**os.environ, "PATH": SYSTEM_PATH, "BUILDAH_ISOLATION": "chroot", "BUILDAH_FORMAT": "docker"}


def _pip_settings() -> str:
    """pip's settings on this machine, of files and environment, as one file; its authorities are mounted beside it."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stdout
    kept: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        key = name.rpartition(".")[2]
        # Folders of this machine are not in the image.
        if key in ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout"):
            kept[key.removeprefix("default-")] = value.strip("'")
    if AUTHORITIES.exists():
        kept["cert"] = "/run/authorities.crt"
    return "[global]\n" + "".join(f"{key} = {value}\n" for key, value in kept.items())
