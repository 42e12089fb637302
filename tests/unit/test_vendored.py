"""The page's libraries are those that were fetched, and each is named with its version where people look."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.server import PROJECT

SCRIPT = Path("scripts", "vendor")
PAGES = Path("fairdial", "console", "pages")


def check(root: Path) -> tuple[int, str]:
    """Status and words of `scripts/vendor --check` in a copy of the project."""
    done = subprocess.run(
        [sys.executable, str(root / SCRIPT), "--check"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The script and the libraries."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(PROJECT / SCRIPT, tmp_path / SCRIPT)
    shutil.copytree(PROJECT / PAGES / "vendor", tmp_path / PAGES / "vendor")
    return tmp_path


def test_the_libraries_are_as_they_were_fetched(copy: Path) -> None:
    assert check(copy) == (0, "")


def test_one_that_was_changed_or_added_is_found(copy: Path) -> None:
    vendor = copy / PAGES / "vendor"
    with (vendor / "preact.js").open("a") as file:
        file.write("//")
    (vendor / "more.js").write_text("")
    status, words = check(copy)
    assert status == 1
    assert "more.js, preact.js" in words


def test_no_markup_has_a_style_and_no_module_makes_code_of_text() -> None:
    own = [*(PROJECT / PAGES).glob("*.*"), *(PROJECT / PAGES / "views").iterdir()]
    assert len(own) > 15
    for file in own:
        text = file.read_text()
        for forbidden in (
            " style=",
            "eval(",
            "new Function",
            "innerHTML",
            "dangerouslySetInnerHTML",
            "<script>",
        ):
            assert forbidden not in text, f"{file.name} has {forbidden}"
