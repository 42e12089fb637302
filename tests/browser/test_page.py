"""The page in a real browser, on a real switch: what is done in it happens, and what happens is seen in it."""

import asyncio
import re

import pytest
from playwright.async_api import expect

from testbed.server import PROJECT
from tests.browser.conftest import WITHIN_MS, Visitor
from tests.browser.stage import HOSTILE, HOSTILE_ID, LONDON, PREMIUM, Stage

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_token_lets_in_and_a_wrong_one_does_not(visitor: Visitor, stage: Stage) -> None:
    page = visitor.page
    await page.goto(stage.server.http_url)
    await page.get_by_label("Token").fill("fairdial_nobody-holds-this")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("alert")).to_contain_text("Nobody holds this token")
    visitor.forgive("401")
    await page.get_by_label("Token").fill(stage.tokens["viewer"])
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Calls", level=1)).to_be_visible()
    await page.reload()
    await expect(page.get_by_text("the viewer")).to_be_visible()
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_label("Token")).to_be_focused()
    await page.reload()
    await expect(page.get_by_label("Token")).to_be_visible()


async def test_a_call_appears_ticks_and_is_hung_up_here(visitor: Visitor, stage: Stage) -> None:
    page = visitor.page
    # A clock that is wrong by an hour changes nothing.
    await page.add_init_script("const right = Date.now; Date.now = () => right() + 3_600_000")
    await visitor.sign_in(stage.tokens["operator"])
    await expect(page.get_by_text("No call is in progress")).to_be_visible()
    phone = stage.call("carol")
    row = page.locator("tr[data-call]")
    await expect(row).to_contain_text("talking", timeout=WITHIN_MS)
    await expect(row).to_contain_text(LONDON)
    left = row.locator("[data-left]")
    seen = [await left.inner_text()]
    while len(seen) < 3:
        await expect(left).not_to_have_text(seen[-1])
        seen.append(await left.inner_text())
    # Four hours are allowed (K3); each second that is seen is less than the one before, and the last is the server's.
    assert all(re.fullmatch(r"3:59:\d\d|4:00:00", each) for each in seen), seen
    assert seen == sorted(seen, reverse=True)
    [told] = await stage.server.ask("calls")
    hours, minutes, seconds = map(int, (await left.inner_text()).split(":"))
    assert abs(hours * 3600 + minutes * 60 + seconds - told["left_s"]) <= 2

    await row.get_by_role("button", name="Hang up").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_role("button", name="Cancel").click()
    await expect(dialog).to_have_count(0)
    assert not phone.done()
    await row.get_by_role("button", name="Hang up").click()
    await dialog.get_by_role("button", name="Hang up").click()
    outcome = await asyncio.wait_for(asyncio.shield(phone), 10)
    assert outcome.ended_by == "far_end"
    await expect(row).to_have_count(0)
    await expect(page.get_by_text(f"Ended: carol to {LONDON}")).to_be_visible()


async def test_a_refused_call_appears_and_why_explains_it(visitor: Visitor, stage: Stage) -> None:
    page = visitor.page
    await visitor.sign_in(stage.tokens["viewer"])
    await visitor.look_at("decisions")
    await page.get_by_label("Which").select_option("refuse")
    assert (await stage.call("carol", PREMIUM)).final_status == 403
    row = page.locator("tr[data-decision]", has_text="carol").first
    await expect(row).to_contain_text("class not covered")
    await expect(row).to_contain_text("kryptotel K2")
    await expect(page.get_by_role("status")).to_contain_text("class not covered")
    await row.get_by_role("link", name="Why").click()
    why = page.locator("article.why")
    await expect(why).to_contain_text("Refused")
    await expect(why).to_contain_text("The plan does not cover this class of number.")
    await expect(why).to_contain_text("K2")
    await expect(why).to_contain_text("premium rate")
    await page.get_by_label("Number dialled").fill("0123")
    await page.get_by_role("button", name="Explain").click()
    await expect(page.get_by_text("No decision about 0123 is on record")).to_be_visible()
    await page.get_by_label("Number dialled").fill(PREMIUM)
    await page.get_by_role("button", name="Explain").click()
    await expect(why).to_contain_text("class of number")


async def test_a_pause_holds_the_list_still(visitor: Visitor, stage: Stage) -> None:
    page = visitor.page
    await visitor.sign_in(stage.tokens["viewer"])
    await visitor.look_at("decisions")
    await page.get_by_role("button", name="Pause").click()
    await page.get_by_label("Filter").fill("heidi")
    await stage.call("heidi", PREMIUM)
    await expect(page.get_by_role("button", name="Go on (1 new)")).to_be_visible()
    await expect(page.locator("tr[data-decision]")).to_have_count(0)
    await page.get_by_role("button", name="Go on").click()
    await expect(page.locator("tr[data-decision]")).to_have_count(1)


async def test_suspending_ends_the_call_and_restoring_lets_it_call_again(
    visitor: Visitor, stage: Stage
) -> None:
    page = visitor.page
    await visitor.sign_in(stage.tokens["operator"])
    phone = stage.call("dave")
    await stage.server.talking("dave")
    await visitor.look_at("account")
    await page.get_by_label("Account", exact=True).fill("dock")
    await page.get_by_role("link", name="dockside").click()
    await expect(page.get_by_role("heading", name="dockside")).to_contain_text("active")
    await expect(page.get_by_role("meter")).not_to_have_count(0)
    await page.get_by_role("button", name="Suspend").click()
    await page.get_by_role("dialog").get_by_role("button", name="Suspend").click()
    assert (await asyncio.wait_for(asyncio.shield(phone), 10)).ended_by == "far_end"
    await expect(page.get_by_role("heading", name="dockside")).to_contain_text("suspended")
    assert (await stage.call("dave")).final_status == 403
    await page.get_by_role("button", name="Restore").click()
    await page.get_by_role("dialog").get_by_role("button", name="Restore").click()
    await expect(page.get_by_role("heading", name="dockside")).to_contain_text("active")
    assert (await stage.call("dave", hang_up_after_s=0.5)).answered
    async with page.expect_download() as download:
        await page.get_by_role("button", name="Statement (CSV)").click()
    statement = (await (await download.value).path()).read_text()
    assert statement.count(",") > 20


async def test_a_viewer_has_no_buttons_and_no_rights(visitor: Visitor, stage: Stage) -> None:
    page = visitor.page
    await visitor.sign_in(stage.tokens["viewer"])
    phone = stage.call("erin")
    row = page.locator("tr[data-call]")
    await expect(row).to_contain_text("erin")
    await expect(row.get_by_role("link", name="Why")).to_be_visible()
    await expect(row.get_by_role("button")).to_have_count(0)
    call = await row.get_attribute("data-call")
    told = await page.evaluate(
        """async call => {
          const who = await (await fetch("/session")).json();
          const send = headers => fetch(`/v1/calls/${encodeURIComponent(call)}`, {method: "DELETE", headers});
          return [(await send({})).status, await (await send({"X-CSRF-Token": who.csrf})).json()];
        }""",
        call,
    )
    assert told[0] == 403
    assert told[1]["detail"] == "token 'the viewer' has role viewer; this needs operator"
    visitor.forgive("403")
    assert not phone.done()
    await stage.quiet()


async def test_a_change_without_the_csrf_token_is_refused(visitor: Visitor, stage: Stage) -> None:
    await visitor.sign_in(stage.tokens["operator"])
    send = """headers => fetch("/v1/check", {method: "POST", headers: {"Content-Type": "application/json", ...headers},
      body: JSON.stringify({line: "alice", number: "02079460123"})}).then(each => each.status)"""
    assert await visitor.page.evaluate(send, {}) == 403
    assert await visitor.page.evaluate(send, {"X-CSRF-Token": "guessed"}) == 403
    csrf = await visitor.page.evaluate("fetch('/session').then(each => each.json()).then(each => each.csrf)")
    assert await visitor.page.evaluate(send, {"X-CSRF-Token": csrf}) == 200
    visitor.forgive("403")


async def test_a_case_is_read_and_closed(visitor: Visitor, stage: Stage) -> None:
    page = visitor.page
    await visitor.sign_in(stage.tokens["operator"])
    await visitor.look_at("cases")
    await page.get_by_role("link", name="Case 1", exact=True).click()
    await expect(page.locator(".lead")).to_have_text("94 numbers called in a day")
    await expect(page.locator(".facts")).to_contain_text("Threshold80")
    await expect(page.get_by_role("region", name="Calls of the case").locator("tbody tr")).to_have_count(12)
    await expect(page.locator("figure.chart canvas")).to_be_visible()
    await page.get_by_role("link", name="All cases").click()
    opened = await stage.server.ask("case_flag", account="harbour", note=HOSTILE, by="ann")
    await page.get_by_role("link", name=f"Case {opened['case']}").click()
    await expect(page.locator(".lead")).to_have_text(HOSTILE)
    await expect(page.get_by_text("Opened by ann")).to_be_visible()
    await page.get_by_role("button", name="Close").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Note").fill("talked to them")
    await dialog.get_by_role("button", name="Close the case").click()
    await expect(page.get_by_role("heading", name=f"Case {opened['case']}")).to_contain_text("closed")
    await expect(page.get_by_text("Closed by the operator")).to_be_visible()


async def test_what_two_versions_of_a_policy_differ_in(visitor: Visitor, stage: Stage) -> None:
    page = visitor.page
    await visitor.sign_in(stage.tokens["viewer"])
    await visitor.look_at("policies")
    await page.get_by_role("link", name="quota 2").click()
    await page.get_by_label("What it changes against").select_option("1")
    await expect(page.locator(".difference")).to_contain_text("from 15 to 30 seconds (Q4)")


async def test_a_service_is_taken_and_given_back(visitor: Visitor, stage: Stage) -> None:
    page = visitor.page
    await visitor.sign_in(stage.tokens["operator"])
    phone = stage.call("dave")
    await stage.server.talking("dave")
    await visitor.look_at("account/dockside")
    await page.get_by_role("button", name="outbound").click()
    await page.get_by_role("dialog").get_by_role("button", name="Restrict").click()
    assert (await asyncio.wait_for(asyncio.shield(phone), 10)).ended_by == "far_end"
    await page.get_by_role("button", name="outbound: restricted", pressed=True).click()
    await expect(page.get_by_role("button", name="outbound", pressed=False)).to_be_visible()
    assert (await stage.call("dave", hang_up_after_s=0.5)).answered


async def test_an_admin_approves_a_request_and_an_operator_only_reads_it(
    visitor: Visitor, stage: Stage
) -> None:
    page = visitor.page
    await stage.server.ask(
        "request_add", account="dockside", rule="allowances.voice", limit=1_900_000, why="a fair", by="Ann"
    )
    row = page.get_by_role("region", name="Requests").get_by_role("row", name="a fair")
    await visitor.sign_in(stage.tokens["operator"])
    await visitor.look_at("account/dockside")
    await expect(row).to_contain_text("31,666 min")
    await expect(row.get_by_role("button")).to_have_count(0)
    await page.get_by_role("button", name="Sign out").click()
    await visitor.sign_in(stage.tokens["admin"])
    await visitor.look_at("account/dockside")
    await row.get_by_role("button", name="Approve").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_role("button", name="Approve").click()
    # The browser asks for the reason first.
    await expect(dialog).to_be_visible()
    await dialog.get_by_label("Reason").fill("a good customer")
    await dialog.get_by_role("button", name="Approve").click()
    await expect(row).to_contain_text("approved")
    await expect(page.locator(".allowances")).to_contain_text("31,666 min")


async def test_the_browser_complains_where_the_pages_policy_is_broken(visitor: Visitor, stage: Stage) -> None:
    # That no test finds a complaint is worth something only if there would be one.
    await visitor.page.goto(stage.server.http_url)
    await visitor.page.evaluate("document.body.setAttribute('style', 'color: red')")
    visitor.forgive("Content Security Policy")


async def test_call_records_are_replayed_and_their_report_is_read(visitor: Visitor, stage: Stage) -> None:
    page = visitor.page
    await visitor.sign_in(stage.tokens["admin"])
    await visitor.look_at("replay")
    await page.get_by_label("Call records").set_input_files(PROJECT / "tests" / "data" / "cdr" / "Master.csv")
    await page.get_by_label("Policy").select_option("kryptotel")
    await page.get_by_label("Against").select_option("redconnect")
    await page.get_by_role("button", name="Replay").click()
    report = page.frame_locator("iframe.report")
    await expect(report.locator("h1")).to_be_visible(timeout=30_000)
    await expect(page.get_by_role("region", name="Replays")).to_contain_text("kryptotel against redconnect")
    await expect(page.get_by_role("region", name="Replays")).to_contain_text("done")
    # The report is shut in: of no origin, so that it reads nothing of ours.
    origin = await page.frames[-1].evaluate("self.origin")
    assert origin == "null"
    await page.get_by_role("button", name="Remove").click()
    await page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    await expect(page.get_by_text("No replay yet")).to_be_visible()


async def test_what_looks_like_markup_is_text(visitor: Visitor, stage: Stage) -> None:
    page = visitor.page
    await visitor.sign_in(stage.tokens["viewer"])
    await visitor.look_at("account")
    await page.get_by_label("Account", exact=True).fill(HOSTILE_ID[:5])
    await page.get_by_role("link", name=HOSTILE_ID).click()
    await expect(page.get_by_role("heading", name=HOSTILE_ID)).to_be_visible()
    await expect(page.get_by_text(HOSTILE)).to_be_visible()
    await visitor.look_at(f"why?q={HOSTILE.replace('=', '%3D')}")
    await expect(page.get_by_text(f"No decision about {HOSTILE}")).to_be_visible()
    assert await page.evaluate("window.hacked") is None
    assert await page.locator("#app img, #app b, #app u").count() == 0


async def test_a_lost_stream_is_told_and_comes_back_by_itself(visitor: Visitor, stage: Stage) -> None:
    page = visitor.page
    rows = page.locator("tr[data-call]")
    await visitor.sign_in(stage.tokens["operator"])
    short = stage.call("grace", hang_up_after_s=6)
    await expect(rows).to_contain_text(["grace"])
    await stage.server.stop()
    await expect(page.locator("#connection")).to_contain_text("Connection lost")
    # Nobody tells of the end of a call that ends now.
    assert not short.done()
    assert (await asyncio.wait_for(asyncio.shield(short), 15)).ended_by == "caller"
    await stage.server.launch()
    await expect(page.locator("#connection")).to_have_text("Live", timeout=20_000)
    await expect(rows).to_have_count(0)
    # The session went with the process; the token that was typed in is good for another.
    phone = stage.call("frank")
    await expect(rows).to_contain_text(["frank"])
    await page.get_by_role("button", name="Hang up").click()
    await page.get_by_role("dialog").get_by_role("button", name="Hang up").click()
    assert (await asyncio.wait_for(asyncio.shield(phone), 10)).ended_by == "far_end"
    visitor.forgive("ERR_|401")


async def test_who_is_not_remembered_signs_in_again(visitor: Visitor, stage: Stage) -> None:
    page = visitor.page
    await visitor.sign_in(stage.tokens["viewer"])
    # A reload forgets the token; the cookie is all there is, and the session ends with the process.
    await page.reload()
    await expect(page.locator("#connection")).to_have_text("Live")
    await stage.server.stop()
    await stage.server.launch()
    await expect(page.get_by_text("Your session has ended")).to_be_visible(timeout=20_000)
    await expect(page.get_by_label("Token")).to_be_focused()
    visitor.forgive("ERR_|401")


async def test_a_portal_sees_its_own_account_alone(visitor: Visitor, stage: Stage) -> None:
    page = visitor.page
    both = await stage.token("two customers", "operator", "--account", "harbour", "--account", "dockside")
    await visitor.sign_in(both)
    menu = page.get_by_role("navigation", name="Views")
    assert await menu.get_by_role("link").all_inner_texts() == ["Calls", "Decisions", "Accounts"]
    phones = [stage.call(line) for line in ("alice", "carol", "dave")]
    rows = page.locator("tr[data-call]")
    await expect(rows).to_contain_text(["carol"])
    await page.get_by_label("Account").select_option("dockside")
    await expect(rows).to_contain_text(["dave"])
    await stage.server.talking("alice")
    await visitor.look_at("account")
    await expect(page.get_by_role("heading", name="dockside")).to_be_visible()
    await expect(page.get_by_role("searchbox")).to_have_count(0)
    await visitor.look_at("health")
    await expect(page.get_by_text("Your token sees single accounts alone")).to_be_visible()
    await visitor.look_at("calls")
    await expect(rows).to_have_count(1)
    await page.get_by_role("button", name="Hang up").click()
    await page.get_by_role("dialog").get_by_role("button", name="Hang up").click()
    assert (await asyncio.wait_for(asyncio.shield(phones[2]), 10)).ended_by == "far_end"
    assert not phones[0].done()
