"""docs/architecture.md and its picture are true to the code: bounds, modules, tasks."""

import importlib
import inspect
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
PICTURE = PROJECT / "docs" / "images" / "a-calls-way.svg"
CODE = "".join(
    file.read_text(encoding="utf-8")
    for package in ("fairdial", "ari_handlers", "agi_app")
    for file in sorted((PROJECT / package).rglob("*.py"))
)
BOUNDS = re.findall(r"^\| `([\w.]+)` \| (\d+) \|", PAGE, re.MULTILINE)


def bound(path: str) -> Any:
    """What the code has: a constant of a module, or the default of what a class is made with."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError:
        module, _, owner = module.rpartition(".")
        made = getattr(importlib.import_module(module), owner)
        return inspect.signature(made).parameters[name].default


@pytest.mark.parametrize(("path", "most"), BOUNDS)
def test_a_bound_is_that_of_the_code(path: str, most: str) -> None:
    assert bound(path) == int(most)


def test_all_bounds_are_looked_at() -> None:
    assert len(BOUNDS) == 21


def test_each_module_that_is_named_is_there() -> None:
    named = re.findall(r"`((?:fairdial|ari_handlers|agi_app|dialplan|testbed|tests)(?:/[\w./]+)?)`", PAGE)
    assert len(named) > 15
    assert [path for path in named if not (PROJECT / path).exists()] == []
    beside = re.findall(r"`(\w+\.py)`", PAGE)
    assert [
        name for name in beside if not list(PROJECT.glob(f"*/{name}")) + list(PROJECT.glob(f"*/*/{name}"))
    ] == []


def test_each_task_that_is_named_is_started() -> None:
    [table] = re.findall(r"^## What runs\n(.*?)^## ", PAGE, re.DOTALL | re.MULTILINE)
    names = set(re.findall(r"`([a-z-]+)…?`", table))
    assert len(names) == 15
    missing = [name for name in names if f'name="{name}' not in CODE and f'name=f"{name}' not in CODE]
    assert missing == []


def test_the_picture_can_be_read_in_light_and_in_dark() -> None:
    root = ElementTree.fromstring(PICTURE.read_text(encoding="utf-8"))
    space = "{http://www.w3.org/2000/svg}"
    style = root.findtext(f"{space}style") or ""
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in style.split("@media")[:2])
    assert set(light) == set(dark)
    for colours in (light, dark):
        for ink in ("ink", "soft"):
            for ground in ("paper", "band", "box", "note"):
                # WCAG 2.2, 1.4.3: text on its ground.
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    assert "prefers-color-scheme: dark" in style
    assert root.findtext(f"{space}title")
    # It is shown as an image: nothing in it is fetched or run.
    assert not re.search(
        r"https?://(?!www\.w3\.org/2000/svg)|<script|@import|url\((?!#)", PICTURE.read_text()
    )


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
