"""Every view, full of things, in light and dark, on a desk and on a phone: nothing keeps people out of it."""

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import Browser, Route, expect

from tests.browser.conftest import PHONE, WIDE, WITHIN_MS, Visitor
from tests.browser.stage import PREMIUM, ROOM, Stage

pytestmark = pytest.mark.asyncio(loop_scope="session")

SEEN = {
    "calls": "carol",
    "decisions": "class not covered",
    "why?q={call}": "The plan does not cover this class of number.",
    "account": "dockside",
    "account/acme": "Minutes of talk a day",
    "conferences": "4 of 4",
    "cases": "sells minutes",
    "cases/{case}": "Opened by ann",
    "cases/1": "Evidence: 12 calls",
    "policies": "redconnect",
    "policies/quota/2": "Fifteen seconds",
    "replay": "Replay",
    "health": "Calls can be decided.",
}
"""Each view, and what is in it then."""


@pytest.mark.parametrize(("scheme", "size"), [("light", WIDE), ("dark", PHONE)])
async def test_each_view_is_sound(
    scheme: str, size: tuple[int, int], browser: Browser, stage: Stage, pictures: Path
) -> None:
    facts = await stage.busy()
    context = await browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    )
    context.set_default_timeout(WITHIN_MS)
    visitor = Visitor(await context.new_page(), stage.server.http_url)
    page = visitor.page
    found: dict[str, list[str]] = {}
    try:
        await page.goto(visitor.url)
        await expect(page.get_by_label("Token")).to_be_visible()
        found["sign-in"] = await visitor.barriers()
        await visitor.sign_in(stage.tokens["admin"])
        for view, words in SEEN.items():
            await visitor.look_at(view.format(**facts))
            await expect(page.get_by_text(words).locator("visible=true").first).to_be_visible()
            found[view] = await visitor.barriers()
            for width, height in (WIDE, PHONE, size):
                await page.set_viewport_size({"width": width, "height": height})
                if await visitor.width() > width:
                    found[view].append(f"scrolls sideways at {width}: {await visitor.width()}")
            name = view.partition("?")[0].replace("/", "-").replace("{case}", "one")
            await page.screenshot(path=pictures / f"{name}-{scheme}.png")
        # A question, as any other change has one.
        await visitor.look_at("calls")
        await page.get_by_role("button", name="Hang up").first.click()
        await expect(page.get_by_role("dialog")).to_be_visible()
        found["dialog"] = await visitor.barriers()
    finally:
        await context.close()
        await stage.quiet()
    assert {view: faults for view, faults in found.items() if faults} == {}
    assert visitor.faults == []


async def test_it_works_by_keyboard_alone(visitor: Visitor, stage: Stage) -> None:
    page = visitor.page
    await page.goto(visitor.url)
    await expect(page.get_by_label("Token")).to_be_focused()
    await page.keyboard.type(stage.tokens["operator"])
    await page.keyboard.press("Enter")
    await expect(page.locator("#connection")).to_have_text("Live")
    phone = stage.call("carol")
    await expect(page.locator("tr[data-call]")).to_contain_text("talking")

    async def tab_to(name: str) -> None:
        for _ in range(60):
            await page.keyboard.press("Tab")
            if name in await page.evaluate(
                "document.activeElement.textContent + document.activeElement.ariaLabel"
            ):
                outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", f"nobody sees that {name} has the focus"
                return
        pytest.fail(f"{name} is not reached by Tab")

    await page.evaluate("document.activeElement.blur()")
    await tab_to("Skip to content")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_be_focused()
    await tab_to("Hang up")
    await page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_be_visible()
    for _ in range(6):
        # It holds the focus; the browser's own bar is all there is besides.
        await page.keyboard.press("Tab")
        assert await page.evaluate(
            "document.activeElement.closest('dialog') !== null || document.activeElement === document.body"
        )
    await page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    assert not phone.done()
    await page.evaluate("document.activeElement.blur()")
    await tab_to("Hang up")
    await page.keyboard.press("Enter")
    await expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    assert (await asyncio.wait_for(asyncio.shield(phone), 10)).ended_by == "far_end"
    await tab_to("Decisions")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Decisions", level=1)).to_be_focused()


async def test_of_a_thousand_calls_a_second_changes_the_times_that_are_seen(
    visitor: Visitor, stage: Stage
) -> None:
    page = visitor.page
    call = {
        "line": "alice",
        "kind": "outbound",
        "dialled": "02079460123",
        "state": "talking",
        "account": "acme",
    }
    times = {"granted_s": 3600, "up_s": 5, "left_s": 3595}
    rows = [{"call": f"made-up-{number}", **call, **times} for number in range(1_000)]

    async def many(route: Route) -> None:
        answer = await route.fetch()
        await route.fulfill(response=answer, json=rows)

    await page.route("**/v1/calls", many)
    await visitor.sign_in(stage.tokens["viewer"])
    await expect(page.locator("tr[data-call]")).to_have_count(1_000)
    left = page.locator("[data-left]")
    before = await left.first.inner_text()
    await page.evaluate(
        """() => {
          window.seen = {rows: 0, times: 0};
          new MutationObserver(all => all.forEach(each =>
            each.type === "characterData" ? window.seen.times++ : window.seen.rows++
          )).observe(document.querySelector("table.calls"),
            {subtree: true, childList: true, characterData: true, attributes: true});
        }"""
    )
    await expect(left.first).not_to_have_text(before)
    seen = await page.evaluate("window.seen")
    # Two times a row, how long it is up and what is left, of some forty rows; for a few seconds on a busy machine.
    assert seen["rows"] == 0
    assert 20 <= seen["times"] <= 600
    # What is scrolled to is right at once, and ticks.
    await left.last.scroll_into_view_if_needed()
    await expect(left.last).not_to_have_text(before)
    at_sight = await left.last.inner_text()
    await expect(left.last).not_to_have_text(at_sight)
    # A call that comes is one row more, and no other is drawn anew.
    await page.evaluate("window.seen.rows = 0")
    phone = stage.call("carol")
    await expect(page.locator("tr[data-call]")).to_have_count(1_001)
    assert await page.evaluate("window.seen.rows") < 20
    await page.get_by_label("Filter").fill("carol")
    await expect(page.locator("tr[data-call]")).to_have_count(1)
    assert not phone.done()


async def test_light_and_dark_can_be_chosen_and_stay(visitor: Visitor, stage: Stage) -> None:
    page = visitor.page
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    await visitor.sign_in(stage.tokens["viewer"])
    light = await page.evaluate(ground)
    await page.emulate_media(color_scheme="dark")
    dark = await page.evaluate(ground)
    assert light != dark
    await page.get_by_role("button", name="Theme: system").click()
    assert await page.evaluate(ground) == light
    await page.reload()
    await expect(page.get_by_role("button", name="Theme: light")).to_be_visible()
    assert await page.evaluate(ground) == light
    await page.get_by_role("button", name="Theme: light").click()
    await page.emulate_media(color_scheme="light")
    assert await page.evaluate(ground) == dark
    await page.get_by_role("button", name="Theme: dark").click()
    await expect(page.get_by_role("button", name="Theme: system")).to_be_visible()
    assert await page.evaluate(ground) == light


async def test_refused_calls_are_read_aloud(visitor: Visitor, stage: Stage) -> None:
    await visitor.sign_in(stage.tokens["viewer"])
    aloud = visitor.page.locator("[aria-live=polite]")
    await stage.call("carol", PREMIUM)
    await expect(aloud).to_have_text(f"Refused: carol to {PREMIUM}, class not covered.")
    assert ROOM not in await aloud.inner_text()
