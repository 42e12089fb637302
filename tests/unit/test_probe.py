"""Looking whether ARI is usable: what is well, and a cure for each thing that is not."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from ari_handlers import probe
from ari_handlers.probe import probe_ari
from fairdial.asterisk_version import is_recent
from fairdial.doctor import Ailment

CREDENTIALS = "Basic " + base64.b64encode(b"fairdial:s3cret").decode()
INFO = '{"system":{"version":"%s","entity_id":"52:54:00:12:34:56"}}'


@asynccontextmanager
async def answering(status: int, body: str | bytes, *, delay_s: float = 0.0) -> AsyncIterator[str]:
    """An HTTP server that gives this answer to fairdial:s3cret, and 401 to anyone else; its ARI address."""

    async def info(request: web.Request) -> web.Response:
        await asyncio.sleep(delay_s)
        if request.headers.get("Authorization") != CREDENTIALS:
            return web.Response(status=401)
        return web.Response(status=status, body=body)

    application = web.Application()
    application.router.add_get("/ari/asterisk/info", info)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/ari"
    finally:
        await runner.cleanup()


async def test_what_is_well_is_described() -> None:
    async with answering(200, INFO % "22.10.1") as url:
        assert (
            await probe_ari(url, "fairdial", "s3cret", "gate") == f"{url}: Asterisk 22.10.1, application gate"
        )


@pytest.mark.parametrize(
    ("status", "body", "finding", "cure"),
    [
        (200, INFO % "20.13.0", "Asterisk 20.13.0 takes no requests", "22.4 or later"),
        (200, "<html>", "not Asterisk's ARI", "/ari at the end"),
        (200, b"\xff\xfe", "not Asterisk's ARI", "/ari at the end"),
        (200, "{}", "not Asterisk's ARI", "/ari at the end"),
        (404, "", "answers 404", "res_ari"),
        (500, "", "answers 500", "res_ari"),
    ],
)
async def test_what_is_not_well_comes_with_a_cure(
    status: int, body: str | bytes, finding: str, cure: str
) -> None:
    async with answering(status, body) as url:
        with pytest.raises(Ailment, match=finding) as ailment:
            await probe_ari(url, "fairdial", "s3cret", "fairdial")
    assert cure in ailment.value.cure


async def test_wrong_password_is_told_apart_and_not_repeated() -> None:
    async with answering(200, INFO % "22.10.1") as url:
        with pytest.raises(Ailment, match="user 'fairdial' is refused") as ailment:
            await probe_ari(url, "fairdial", "wrong", "fairdial")
    assert "ari.conf" in ailment.value.cure
    assert "wrong" not in str(ailment.value)


async def test_nothing_listens() -> None:
    async with answering(200, "") as url:
        pass
    with pytest.raises(Ailment, match=url) as ailment:
        await probe_ari(url, "fairdial", "s3cret", "fairdial")
    assert "http.conf" in ailment.value.cure


async def test_address_that_is_none() -> None:
    with pytest.raises(Ailment):
        await probe_ari("127.0.0.1:8088/ari", "fairdial", "s3cret", "fairdial")


async def test_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "TIMEOUT_S", 0.1)
    async with answering(200, INFO % "22.10.1", delay_s=0.5) as url:
        begun_s = asyncio.get_running_loop().time()
        with pytest.raises(Ailment):
            await probe_ari(url, "fairdial", "s3cret", "fairdial")
        assert asyncio.get_running_loop().time() - begun_s < 0.4


@pytest.mark.parametrize(
    ("too_old", "recent"),
    [
        ("20.13.9", "20.14.0"),
        ("21.8.0", "21.9.0"),
        ("22.3.0", "22.4.0"),
        ("22.3.0-rc1", "22.4.0-rc1"),
        ("20.9.3~dfsg", "22.10.1+dfsg+~cs6.17.60671434-1"),
        ("18.26.4", "23.0.0"),
        ("16.28.0", "24"),
        ("GIT-18-1a2b3c4", "GIT-22-1a2b3c4"),
        ("certified/20.7-cert5", "certified-22.8-cert1"),
        ("1.8.32", "GIT-master-1a2b3c4"),
    ],
)
def test_versions_of_each_branch(too_old: str, recent: str) -> None:
    assert not is_recent(too_old)
    assert is_recent(recent)
