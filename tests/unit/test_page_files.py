"""The web page's files: served as they are and no others, kept by browsers while they stay the same, and shut in."""

import gzip
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from fastapi import Request, Response
from yarl import URL

from fairdial.clock import SystemClock
from fairdial.console.access import Gate
from fairdial.console.api import HttpServer, create_app
from fairdial.console.operations import Operations
from fairdial.console.page_files import HEADERS, MEDIA_TYPES, PageFile, page_file, read_files
from fairdial.desk import Desk
from tests.unit.test_readiness import desk as desk
from tests.unit.test_readiness import path as path

PAGES = Path(__file__).parents[2] / "fairdial" / "console" / "pages"
FILES = sorted(file.relative_to(PAGES).as_posix() for file in PAGES.rglob("*") if file.is_file())


@pytest.fixture
async def url(desk: Desk) -> AsyncIterator[str]:
    server = HttpServer(create_app(Operations(desk), Gate(desk.ledger, SystemClock())), "127.0.0.1", 0)
    await server.start()
    yield f"http://127.0.0.1:{server.port}"
    await server.stop()


async def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, bytes, aiohttp.ClientResponse]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=["Accept-Encoding"]) as session,
        # As it is, so that `..` is not taken out on the way.
        session.request(method, URL(url, encoded=True), headers=sent) as answer,
    ):
        return answer.status, await answer.read(), answer


async def test_each_file_is_served_as_it_is_with_its_type_and_shut_in(url: str) -> None:
    assert "index.html" in FILES
    for name in FILES:
        status, body, answer = await ask(f"{url}/page/{name}")
        assert (status, body) == (200, (PAGES / name).read_bytes())
        kind = MEDIA_TYPES.get(Path(name).suffix, "text/plain; charset=utf-8")
        assert answer.headers["Content-Type"] == kind
        assert {each: answer.headers[each] for each in HEADERS} == HEADERS


async def test_the_page_is_at_the_root_without_a_token(url: str) -> None:
    status, body, answer = await ask(f"{url}/")
    assert (status, body) == (200, (PAGES / "index.html").read_bytes())
    told = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in told
    assert "unsafe" not in told
    assert "frame-ancestors 'none'" in told
    head, nothing, answer = await ask(f"{url}/", "HEAD")
    assert (head, nothing, answer.headers["Content-Length"]) == (200, b"", str(len(body)))


async def test_a_file_that_is_the_same_is_not_sent_again(url: str) -> None:
    tag = (await ask(f"{url}/"))[2].headers["ETag"]
    for asked in (tag, f'"other", W/{tag}', "*"):
        status, body, answer = await ask(f"{url}/", If_None_Match=asked)
        assert (status, body, answer.headers["ETag"]) == (304, b"", tag)
    assert (await ask(f"{url}/", If_None_Match='"other"'))[0] == 200


LONG = b"page " * 100


@pytest.mark.parametrize(
    ("accepted", "zipped"),
    [
        *(("gzip", True), ("br, gzip;q=0.5", True), ("*", True), ("GZIP", True), ("gzip; q=1", True)),
        *(("", False), ("br", False), ("gzip;q=0", False), ("gzip;q=0.0, *", False), ("identity", False)),
    ],
)
def test_a_file_is_sent_smaller_to_who_takes_it_so(accepted: str, zipped: bool) -> None:
    answer = _answer(page_file("app.js", LONG), accepted)
    assert (answer.headers.get("Content-Encoding") == "gzip") is zipped
    body = bytes(answer.body)
    assert (gzip.decompress(body) if zipped else body) == LONG
    assert int(answer.headers["Content-Length"]) == len(body)
    other = _answer(page_file("app.js", LONG), "" if zipped else "gzip")
    assert other.headers["ETag"] != answer.headers["ETag"]


def test_a_file_that_would_not_be_smaller_is_sent_as_it_is() -> None:
    assert "Content-Encoding" not in _answer(page_file("a.txt", b"a"), "gzip").headers


@pytest.mark.parametrize(
    "name",
    [
        *("nothing.js", "", "../api.py", "..%2fapi.py", "%2e%2e/api.py", "/etc/passwd", "%2fetc%2fpasswd"),
        *("./index.html", "vendor/../index.html", "index.html/", "index.html%00", "INDEX.HTML"),
    ],
)
async def test_what_is_no_file_of_the_page_is_not_there(url: str, name: str) -> None:
    status, body, answer = await ask(f"{url}/page/{name}")
    assert (status, answer.headers["Content-Type"]) == (404, "application/problem+json")
    assert b"import" not in body


def test_files_of_folders_have_their_path_as_a_name(tmp_path: Path) -> None:
    (tmp_path / "vendor").mkdir()
    (tmp_path / "index.html").write_bytes(b"page")
    (tmp_path / "vendor" / "LICENSE").write_bytes(b"free")
    files = read_files(tmp_path)
    assert {name: each.body for name, each in files.items()} == {
        "index.html": b"page",
        "vendor/LICENSE": b"free",
    }
    assert files["vendor/LICENSE"].media_type.startswith("text/plain")


def test_each_file_has_a_type_that_is_known_and_names_no_other_host() -> None:
    for name in FILES:
        assert Path(name).suffix in {*MEDIA_TYPES, ""}, name
    shown = (PAGES / "index.html").read_text()
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", shown)


async def test_without_the_page_there_are_no_sessions_either(desk: Desk) -> None:
    app = create_app(Operations(desk), Gate(desk.ledger, SystemClock()), page=False)
    server = HttpServer(app, "127.0.0.1", 0)
    await server.start()
    url = f"http://127.0.0.1:{server.port}"
    for name in ("/", "/page/index.html", "/session"):
        assert (await ask(url + name))[0] == 404
    assert (await ask(f"{url}/healthz"))[0] == 200
    await server.stop()


def _answer(file: PageFile, accepted: str) -> Response:
    headers = [(b"accept-encoding", accepted.encode())]
    return file.answer(Request({"type": "http", "method": "GET", "headers": headers}))
