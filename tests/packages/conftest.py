"""What the tests of packages share; what a machine's first test would wait for is made before it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from compose_spec import PyCompose

from testbed.debian import obtain_archive
from testbed.images import PROJECT, Images
from testbed.installation import private_root, program, remove_tree

COMPOSE = PROJECT / "docker" / "compose.yaml"
DEB_WITHIN_S = 600


def pytest_collection_finish(session: pytest.Session) -> None:
    """Roots and programs, which take minutes on a machine's first run."""
    if any("packages" in item.path.parts for item in session.items) and not session.config.option.collectonly:
        obtain_archive()
        private_root(print)
        for name, package in (
            *(("systemd-nspawn", "systemd-container"), ("buildah", "buildah"), ("lintian", "lintian")),
            ("dpkg-deb", "dpkg"),
        ):
            program(name, package, print)


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Debian package, built of this checkout as the documentation says."""
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        ["scripts/deb", str(folder)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=DEB_WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    """A store of images that is gone when the tests are over."""
    folder = tmp_path_factory.mktemp("images")
    yield Images(folder)
    remove_tree(folder)


def compose_services() -> dict[str, Any]:
    """The services of compose.yaml."""
    return dict(PyCompose.from_yaml(COMPOSE.read_text(encoding="utf-8")).to_dict()["services"])


def commands_of(document: str, heading: str) -> list[str]:
    """The commands in the console blocks below a heading of a file in the project's folder."""
    text = (PROJECT / document).read_text(encoding="utf-8")
    [section] = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^```console\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return [re.sub(r"^[#$] ", "", line) for block in blocks for line in block.splitlines()]
