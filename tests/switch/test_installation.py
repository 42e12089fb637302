"""Where Asterisk comes from: what is used, what is refused, and what is thrown away."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from testbed import installation as subject
from testbed.installation import Installation, TestbedError, is_usable, obtain, parse_version


@pytest.mark.parametrize(
    ("text", "usable"),
    [
        ("Asterisk 20.14.0", True),
        ("Asterisk 20.13.9", False),
        ("Asterisk 21.9.1", True),
        ("Asterisk 21.8.0", False),
        ("Asterisk 22.4.0", True),
        ("Asterisk 22.3.0", False),
        ("Asterisk 22.10.1~dfsg+~cs6.17", True),
        ("Asterisk 23.0.0", True),
        ("Asterisk 18.26.4", False),
    ],
)
def test_release_is_usable_if_it_takes_requests_on_the_event_socket(text: str, usable: bool) -> None:
    version = parse_version(text)

    assert version is not None
    assert is_usable(version) is usable


def test_second_use_takes_no_time_and_says_nothing(installation: Installation) -> None:
    said: list[str] = []
    began = time.monotonic()
    again = obtain(said.append)

    assert again == installation
    assert said == []
    assert time.monotonic() - began < 2
    assert "app_stasis.so" in again.modules()


def test_broken_root_is_thrown_away_and_the_missing_mirror_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = tmp_path / "fairdial"
    left = [cache / f"asterisk-{subject.SUITE}", cache / f"asterisk-{subject.SUITE}.partial-x"]
    for directory in left:
        (directory / "etc").mkdir(parents=True)
    said: list[str] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # Neither an installed Asterisk nor apt is to be found.
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(subject, "SYSTEM_PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    with pytest.raises(TestbedError, match="apt configuration cannot be read"):
        obtain(said.append)

    assert not any(directory.exists() for directory in left)
    assert any("unfinished" in line for line in said)


def test_without_root_the_error_names_the_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(subject, "SYSTEM_PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(TestbedError, match="run as root, or install Asterisk"):
        obtain(lambda _: None)


def test_full_disk_is_told_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(subject, "SYSTEM_PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(subject, "ROOT_SIZE_BYTES", 10**18)

    with pytest.raises(TestbedError, match="MB free and the private root for Asterisk needs"):
        obtain(lambda _: None)


def test_too_old_asterisk_is_named_and_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, installation: Installation
) -> None:
    old = tmp_path / "asterisk"
    old.write_text("#!/bin/sh\necho Asterisk 18.26.4\n")
    old.chmod(0o755)
    monkeypatch.setattr(subject, "SYSTEM_PATH", f"{tmp_path}:{subject.SYSTEM_PATH}")
    said: list[str] = []

    assert obtain(said.append).version != "18.26.4"
    assert any("Asterisk 18.26.4, but 20.14, 21.9, 22.4 or later is needed" in line for line in said)
