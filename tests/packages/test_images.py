"""The container images: built as the Dockerfiles say, run beside each other, and what lies in their layers."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from testbed.images import Images, image_environment
from testbed.installation import apt_mirror, program
from tests.packages.conftest import commands_of, compose_services

pytestmark = pytest.mark.timeout(900)  # the first of a file builds what it tests

FAIRDIAL = "4573"
RUNS_WITHIN_S = 90.0


@pytest.fixture(scope="module")
def fairdial(images: Images) -> str:
    """FairDial's image."""
    return images.build("docker/fairdial/Dockerfile", images.debian(), VERSION="0.0.0-test")


@pytest.fixture(scope="module")
def asterisk(images: Images) -> str:
    """The switch's image."""
    return images.build("docker/asterisk/Dockerfile", images.asterisk())


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The folder with the secrets, made by the commands of docker/README.md."""
    for command in commands_of("docker/README.md", "Start"):
        if not command.startswith("docker "):
            subprocess.run(["sh", "-ec", command], cwd=tmp_path, check=True, timeout=10)
    return tmp_path / "secrets"


@pytest.fixture
def loopback() -> Iterator[int]:
    """The process that holds a network of nothing but a loopback."""
    ip = program("ip", "iproute2", print)
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-ec", f"{ip} link set lo up; echo up; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holding:
        assert holding.stdout is not None
        assert holding.stdout.readline() == b"up\n"
        yield holding.pid
        holding.kill()


def in_network(of: int, command: list[str]) -> list[str]:
    """Both containers see the same loopback, and nothing of what listens on this machine."""
    return ["setpriv", "--pdeathsig", "TERM", "nsenter", f"--net=/proc/{of}/ns/net", *command]


@contextmanager
def staying(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command in the background, ended with the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=image_environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=image_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUNS_WITHIN_S,
        check=False,
    )


def written(root: Path, since: float, own: tuple[str, ...]) -> list[str]:
    """Files that were made or changed in a container outside its volumes and what it may write to."""
    # What is mounted.
    others = ("etc/hosts", "etc/resolv.conf", "run/.containerenv", "run/secrets", "proc", "sys", "dev")
    found = []
    for folder, folders, files in os.walk(root):
        place = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if str(place / name) not in (*own, *others)]
        for name in files:
            if str(place / name) not in others and (Path(folder) / name).lstat().st_mtime > since:
                found.append(str(place / name))
    return found


def test_the_two_run_beside_each_other(
    images: Images, fairdial: str, asterisk: str, secrets: Path, loopback: int, tmp_path: Path
) -> None:
    """As compose.yaml starts them, but that they are on one loopback in place of two addresses."""
    services = compose_services()
    settings = {
        name: value.replace(services["asterisk"]["environment"]["SWITCH_ADDRESS"], "127.0.0.1")
        for name, value in services["fairdial"]["environment"].items()
    }
    # One by one, as compose mounts them.
    volumes = {secrets / name: f"/run/secrets/{name}" for name in services["fairdial"]["secrets"]}
    # Of the volumes the one that both have.
    [records] = [
        each.split(":")[1] for each in services["fairdial"]["volumes"] if each.startswith("call-records:")
    ]
    (tmp_path / "call-records").mkdir(mode=0o755)
    ours_too = volumes | {tmp_path / "call-records": records}
    began = time.time()
    with images.container(fairdial) as ours, images.container(asterisk) as switch:

        def say(*arguments: str) -> subprocess.CompletedProcess[str]:
            return run(in_network(loopback, ours.command(*arguments, volumes=ours_too, environment=settings)))

        said = say("fairdial", "--version")
        assert (said.returncode, said.stdout[:9]) == (0, "fairdial "), said.stderr
        assert say("id", "-u").stdout.strip() == FAIRDIAL
        assert say("fairdial", "doctor").returncode == 1
        no_secret = run(switch.command("start-asterisk", volumes={}, environment={}))
        assert (no_secret.returncode, "/run/secrets/ari-password cannot be read" in no_secret.stderr) == (
            1,
            True,
        )
        with (
            staying(
                in_network(
                    loopback,
                    switch.command("start-asterisk", volumes=volumes, environment={"SWITCH_NAME": "east"}),
                ),
                tmp_path / "asterisk.log",
            ) as switching,
            staying(
                in_network(
                    loopback, ours.command("fairdial", "serve", volumes=ours_too, environment=settings)
                ),
                tmp_path / "fairdial.log",
            ) as serving,
        ):
            deadline = time.monotonic() + RUNS_WITHIN_S
            while (ready := say("fairdial", "ready")).returncode != 0:
                logs = "".join(file.read_text() for file in tmp_path.glob("*.log"))
                assert (switching.poll(), serving.poll()) == (None, None), logs
                assert time.monotonic() < deadline, ready.stdout + logs
                time.sleep(0.5)
            well = say("fairdial", "doctor")
            assert (well.returncode, "FAULT" in well.stdout) == (0, False), well.stdout
            asking = switch.command("asterisk", "-rx", "core show settings", volumes={}, environment={})
            assert re.search(r"System name: +east\n", run(in_network(loopback, asking)).stdout)
            for command in commands_of("docker/README.md", "Start"):
                if command.startswith("docker compose exec fairdial "):
                    done = say(*command.split()[4:])
                    assert done.returncode == 0, done.stderr
        assert users_of(loopback, "asterisk") == users_of(loopback, "fairdial") == set()
        # Fit for a root file system that nobody can write to.
        assert written(ours.root, began, ("var/lib/fairdial", "run/fairdial", "tmp")) == []
        volumes_of_the_switch = ("var/lib/asterisk", "var/spool/asterisk", "var/log/asterisk", "run/asterisk")
        assert written(switch.root, began, (*volumes_of_the_switch, "tmp")) == []


def users_of(network: int, program_name: str) -> set[str]:
    """Owners of the programs of that name that still run in a network."""
    inode = Path(f"/proc/{network}/ns/net").readlink()
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "ns/net").readlink() == inode and (
                process / "comm"
            ).read_text().strip() == program_name:
                found.add(str(process.stat().st_uid))
    return found


@pytest.mark.parametrize(("image", "user"), [("fairdial", "4573:4573"), ("asterisk", "5060:5060")])
def test_what_an_image_says_and_holds(
    images: Images, image: str, user: str, request: pytest.FixtureRequest
) -> None:
    name = request.getfixturevalue(image)
    told = json.loads(images.buildah("inspect", "--type", "image", name))
    service = compose_services()[image]
    assert told["Docker"]["config"]["User"] == user == service["user"]
    assert told["Docker"]["config"]["Healthcheck"]["Test"] == service["healthcheck"]["test"]
    # The base, and one layer of ours: what is not in the files that are seen below is in no layer.
    assert len(told["OCIv1"]["rootfs"]["diff_ids"]) == 2
    mirror = apt_mirror().split("://")[1].split("/")[0]
    assert mirror not in json.dumps(told)
    with images.container(name) as container:
        root = container.root
        for empty in (
            "var/lib/apt/lists",
            "var/cache/apt",
            "var/cache/debconf",
            "root/.cache",
            "run/secrets",
        ):
            assert not (root / empty).exists() or list((root / empty).iterdir()) == []
        assert not (root / "etc/pip.conf").exists()
        assert not (root / "source").exists()
        settings = (
            file
            for folder in ("etc/fairdial", "etc/apt", "etc/asterisk")
            for file in (root / folder).rglob("*")
        )
        for file in settings:
            if file.is_file() and not file.is_symlink():
                assert mirror.encode() not in file.read_bytes(), file
        if image == "asterisk":
            # Secrets are named in these only by the files that the start makes.
            for conf in ("ari.conf", "manager.conf"):
                assert (
                    re.findall(r"(?m)^(?:password|secret) *=.*", (root / "etc/asterisk" / conf).read_text())
                    == []
                )
