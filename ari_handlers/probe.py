"""Is ARI usable here? Over plain HTTP, so that looking does not take the application over from a live server."""

import ssl

import aiohttp
import msgspec

from ari_handlers.events import decode_version
from fairdial.asterisk_version import USABLE, is_recent
from fairdial.doctor import Ailment
from fairdial.tls import explained

TIMEOUT_S = 5.0


async def probe_ari(url: str, user: str, password: str, app: str, tls: ssl.SSLContext | None = None) -> str:
    """What answers at `url`. tls: for an https address; None: the machine's certificates. Raises Ailment."""
    headers = {"Authorization": aiohttp.encode_basic_auth(user, password)}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(
                timeout=timeout, headers=headers, connector=aiohttp.TCPConnector(ssl=tls or True)
            ) as session,
            session.get(f"{url}/asterisk/info", params={"only": "system"}) as response,
        ):
            status, body = response.status, await response.read()
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        handshake = explained(error, "ari", "http.conf")
        if handshake is not None:
            raise Ailment(f"{url}: {handshake[0]}", handshake[1]) from error
        raise Ailment(
            f"{url}: {str(error) or type(error).__name__}",
            "set enabled=yes in http.conf and ari.conf, and ari.url to that bindaddr and bindport",
        ) from error
    if status == 401:
        raise Ailment(f"{url}: user {user!r} is refused", "compare [ari] with the switch's ari.conf")
    if status != 200:
        raise Ailment(
            f"{url}: answers {status}", "see that res_ari is loaded: asterisk -rx 'module show like res_ari'"
        )
    try:
        version = decode_version(body)
    except msgspec.DecodeError as error:
        raise Ailment(
            f"{url}: what answers there is not Asterisk's ARI ({error})",
            "set ari.url to http.conf's bindaddr and bindport, with /ari at the end",
        ) from error
    if not is_recent(version):
        raise Ailment(
            f"Asterisk {version} takes no requests on the event socket",
            f"use {USABLE}",
        )
    return f"{url}: Asterisk {version}, application {app}"
