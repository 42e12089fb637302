"""`python -m tests.browser.pictures [FOLDER]` takes the pictures of the README anew, of a system with calls on it.

FOLDER: docs/images if left out. They are taken by the browser that the tests use.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from playwright.async_api import async_playwright

from testbed.installation import obtain, obtain_chromium
from testbed.server import PROJECT
from tests.browser.conftest import ARGUMENTS, PHONE, WIDE, Visitor
from tests.browser.stage import on_stage

BYTES_MAX = 150_000
"""What a picture of the README may have."""


@dataclass(frozen=True)
class Picture:
    """A view as it is shown. view: with {call} and {case}."""

    name: str
    view: str
    scheme: str
    size: tuple[int, int]


PICTURES = (
    Picture("page-calls", "calls", "light", WIDE),
    Picture("page-account", "account/acme", "dark", (1280, 900)),
    Picture("page-why", "why?q={call}", "light", WIDE),
    Picture("page-phone", "calls", "dark", PHONE),
)


async def take(folder: Path) -> list[Path]:
    """All of them; the files."""
    taken = []
    installation = await asyncio.to_thread(obtain)
    with tempfile.TemporaryDirectory(prefix="fairdial-") as directory:
        async with on_stage(installation, Path(directory)) as stage, async_playwright() as playwright:
            facts = await stage.busy()
            browser = await playwright.chromium.launch(
                executable_path=obtain_chromium(), args=list(ARGUMENTS)
            )
            for picture in PICTURES:
                context = await browser.new_context(
                    viewport={"width": picture.size[0], "height": picture.size[1]},
                    color_scheme="dark" if picture.scheme == "dark" else "light",
                )
                visitor = Visitor(await context.new_page(), stage.server.http_url)
                await visitor.sign_in(stage.tokens["operator"])
                await visitor.look_at(picture.view.format(**facts))
                await visitor.page.wait_for_load_state("networkidle" if "account" in picture.view else "load")
                path = folder / f"{picture.name}.png"
                await visitor.page.screenshot(path=path)
                taken.append(path)
                await context.close()
            await browser.close()
    return taken


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 where a picture is too large."""
    parser = argparse.ArgumentParser(prog="python -m tests.browser.pictures", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=PROJECT / "docs" / "images")
    folder = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    large = 0
    for path in asyncio.run(take(folder)):
        size = path.stat().st_size
        large += size > BYTES_MAX
        sys.stdout.write(f"{path} {size} bytes{', too large' if size > BYTES_MAX else ''}\n")
    return int(large > 0)


if __name__ == "__main__":
    sys.exit(main())
