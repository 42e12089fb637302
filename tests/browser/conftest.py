"""Fixtures for tests of the page in a real browser: one running system for all of them, and a visitor for each."""

import re
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright, expect

from testbed.installation import Installation, obtain, obtain_chromium
from tests.browser.stage import Stage, on_stage

WITHIN_MS = 10_000
ARGUMENTS = ("--no-sandbox", "--disable-dev-shm-usage")
"""Tests run as root in containers, where Chromium's own sandbox cannot be had."""
WIDE, PHONE = (1280, 800), (360, 740)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make the installation and get the browser before the first test: that takes longer than a test may."""
    if not session.config.option.collectonly and any(
        "stage" in item.fixturenames for item in session.items if isinstance(item, pytest.Function)
    ):
        obtain()
        obtain_chromium()


@pytest.fixture(scope="session")
def installation() -> Installation:
    """An Asterisk to run."""
    return obtain()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stage(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """The running system."""
    async with on_stage(installation, tmp_path_factory.mktemp("stage")) as stage:
        yield stage


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Debian's Chromium."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=obtain_chromium(), args=list(ARGUMENTS))
        yield browser
        await browser.close()


class Visitor:
    """Somebody with a browser. faults: what the browser complained of: errors, refused loads, broken rules."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.faults: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"{message.type}: {message.text} {message.location.get('url', '')}")

    def forgive(self, pattern: str) -> None:
        """What a test brought about itself: there is at least one such fault, and it is none."""
        kept = [each for each in self.faults if not re.search(pattern, each)]
        assert len(kept) < len(self.faults), f"no fault like {pattern}: {self.faults}"
        self.faults[:] = kept

    async def sign_in(self, token: str) -> None:
        """Show a token, and wait until the page is live."""
        await self.page.goto(self.url)
        await self.page.get_by_label("Token").fill(token)
        await self.page.get_by_role("button", name="Sign in").click()
        await expect(self.page.locator("#connection")).to_have_text("Live", timeout=WITHIN_MS)

    async def look_at(self, view: str) -> None:
        """Go to a view, by its address, and wait until it is there."""
        await self.page.evaluate("place => { location.hash = place }", f"#/{view}")
        await expect(self.page.locator("[aria-busy=true]")).to_have_count(0, timeout=WITHIN_MS)

    async def width(self) -> int:
        """How wide the page is."""
        return int(await self.page.evaluate("document.documentElement.scrollWidth"))

    async def barriers(self) -> list[str]:
        """What axe finds that keeps people out: serious and critical."""
        if not await self.page.evaluate("'axe' in window"):
            # By the debugger, not as a script of the page: its policy allows none that is not its own.
            await self.page.evaluate(AXE)
        found: dict[str, Any] = await self.page.evaluate(
            "() => axe.run(document, {resultTypes: ['violations']})"
        )
        return [
            f"{each['id']} ({each['impact']}): {[node['target'] for node in each['nodes']][:4]}"
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
        ]


AXE = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(browser: Browser, stage: Stage) -> AsyncIterator[Visitor]:
    """Somebody with a browser of their own, who must have nothing to complain of at the end."""
    context = await browser.new_context(
        viewport={"width": WIDE[0], "height": WIDE[1]}, reduced_motion="reduce"
    )
    context.set_default_timeout(WITHIN_MS)
    page = await context.new_page()
    visitor = Visitor(page, stage.server.http_url)
    yield visitor
    await context.close()
    await stage.quiet()
    assert visitor.faults == []


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures of the views are put."""
    return tmp_path_factory.mktemp("pictures")
