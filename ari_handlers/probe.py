"""Is ARI usable here? Over plain HTTP, so that looking does not take the application over from a live server."""

import re
import ssl

import aiohttp
import msgspec

from ari_handlers.events import decode_version
from fairdial.doctor import Ailment
from fairdial.tls import explained

TIMEOUT_S = 5.0
REQUESTS_ON_SOCKET_SINCE = {20: (20, 14), 21: (21, 9), 22: (22, 4)}
"""First version of each branch that takes ARI requests on the event socket; later branches all do."""


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
            "use Asterisk 20.14, 21.9, 22.4 or later",
        )
    return f"{url}: Asterisk {version}, application {app}"


def is_recent(version: str) -> bool:
    """Whether this version takes requests on the event socket; one that cannot be read counts as recent."""
    match = re.match(r"(?:GIT-|certified[-/])?(\d+)(?:\.(\d+))?", version)
    if match is None:
        return True
    major = int(match[1])
    if major < min(REQUESTS_ON_SOCKET_SINCE):
        return False
    if match[2] is None:
        return True  # built from a branch, such as GIT-22-1a2b3c4
    return (major, int(match[2])) >= REQUESTS_ON_SOCKET_SINCE.get(major, (0, 0))
