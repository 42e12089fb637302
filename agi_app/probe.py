"""Is AMI usable here, is our dialplan loaded, and does the switch's clock agree with ours?"""

import ssl
from collections.abc import Awaitable, Callable

from agi_app.ami import AmiError, AmiLink, AmiRefused
from fairdial.clock import Clock
from fairdial.config import Ami
from fairdial.doctor import PROBE_WITHIN_S, Ailment

APART_MS_MAX = 2_000
"""Further apart, periods begin at another moment for us than in the switch's records."""


async def probe_ami(
    settings: Ami, tls: ssl.SSLContext | None, question: Callable[[AmiLink], Awaitable[str]]
) -> str:
    """Log in with these settings, secrets and all, and ask; what was seen, in words. Raises Ailment."""
    link = AmiLink(settings.host, settings.port, settings.user, settings.secret.get_secret_value(), tls=tls)
    await link.start()
    try:
        await link.wait_connected(PROBE_WITHIN_S)
        seen = await question(link)
    except AmiError as error:
        raise Ailment(
            str(error),
            "compare [ami] with the switch's manager.conf; the user needs write=call,reporting",
        ) from error
    finally:
        await link.stop()
    return f"{settings.host}:{settings.port}: {seen}"


async def logged_in(link: AmiLink) -> str:
    """It answers at all."""
    await link.action("Ping")
    return "logged in"


async def dialplan_is_loaded(link: AmiLink, mark: str) -> str:
    """Our dialplan is loaded, and it is this release's. mark: the extension by which that names itself."""
    try:
        await link.action("ShowDialPlan", {"Context": "fairdial"})
    except AmiRefused as error:
        raise Ailment(
            f"context [fairdial] is not loaded ({error})",
            "`fairdial init --write --reload`, or put `#include fairdial.conf` into extensions.conf, then"
            " `asterisk -rx 'dialplan reload'`",
        ) from error
    try:
        await link.action("ShowDialPlan", {"Context": "fairdial", "Extension": mark})
    except AmiRefused as error:
        raise Ailment(
            "the fairdial.conf that is loaded is not that of this FairDial: another release's, or one that was changed",
            "`fairdial init --write --reload` says what to do",
        ) from error
    return "context [fairdial] is loaded, that of this FairDial"


async def clocks_agree(link: AmiLink, clock: Clock) -> str:
    """The switch's clock says what ours does, to APART_MS_MAX."""
    before_ms = clock.now().wall_ms
    answer = await link.action("Ping")
    after_ms = clock.now().wall_ms
    try:
        theirs_ms = int(float(answer["Timestamp"]) * 1000)
    except (KeyError, ValueError) as error:
        raise Ailment("the switch does not say what time it is", "see that it is Asterisk's AMI") from error
    apart_ms = max(before_ms - theirs_ms, theirs_ms - after_ms, 0)
    if apart_ms > APART_MS_MAX:
        ahead = "ahead" if theirs_ms > after_ms else "behind"
        raise Ailment(
            f"the switch's clock is {apart_ms / 1000:.0f} s {ahead}",
            "have both machines keep time by NTP (systemd-timesyncd or chrony)",
        )
    return "its clock agrees with ours"


async def records_are_written(link: AmiLink) -> str:
    """The switch makes call records at all."""
    answer = await link.action("CoreSettings")
    if answer.get("CoreCDRenabled", "Yes").casefold() != "yes":
        raise Ailment(
            "the switch makes no call records",
            "set enable=yes under [general] of cdr.conf, then `asterisk -rx 'module reload cdr'`",
        )
    return "the switch makes call records"
