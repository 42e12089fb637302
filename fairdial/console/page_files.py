"""The files of the web page, as they are served: read once at the start, so that a name that is asked for is looked up
among those there are, and never in a file system.

The page comes from here alone: its policy (Content-Security-Policy) lets it load and ask nothing else, and nobody may
frame it. Browsers ask each time whether a file is still the same (ETag, RFC 9110 section 8.8.3), which is cheap.
"""

import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

from fastapi import FastAPI, HTTPException, Request, Response

INDEX: Final = "index.html"

MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
"""By the end of a name; of files without one, such as LICENSE, the type of a text."""

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self';"
        " connect-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file. zipped: the same by gzip, None where that is no smaller. tag: of its bytes, as ETag has it."""

    body: bytes
    zipped: bytes | None
    media_type: str
    tag: str

    def answer(self, request: Request) -> Response:
        """The file, or that the browser has it already."""
        takes_gzip = self.zipped is not None and _takes_gzip(request.headers.get("accept-encoding", ""))
        # Each form of a file has a tag of its own (RFC 9110 section 8.8.3.3).
        tag = f'"{self.tag}-gzip"' if takes_gzip else f'"{self.tag}"'
        headers = {**HEADERS, "ETag": tag}
        if _matches(request.headers.get("if-none-match", ""), tag):
            return Response(status_code=304, headers=headers)
        if takes_gzip:
            headers["Content-Encoding"] = "gzip"
        return Response(self.zipped if takes_gzip else self.body, media_type=self.media_type, headers=headers)


def _takes_gzip(accepted: str) -> bool:
    """Whether a header Accept-Encoding allows gzip: named, or by `*`, and not with the weight 0."""
    weights = {}
    for each in accepted.lower().split(","):
        coding, _, weight = each.replace(" ", "").partition(";q=")
        weights[coding] = weight
    told = weights.get("gzip", weights.get("*", "0"))
    return told.strip("0.") != "" or told == ""


def _matches(asked: str, tag: str) -> bool:
    """Whether a header If-None-Match names a tag; compared weakly, as that header is (RFC 9110 section 13.1.2)."""
    named = [each.strip().removeprefix("W/") for each in asked.split(",")]
    return tag in named or named == ["*"]


def page_file(name: str, body: bytes) -> PageFile:
    """A file as it is served."""
    end = name[name.rfind(".") :] if "." in name else ".txt"
    # The same bytes each time: without the time, which gzip would write into it.
    zipped = gzip.compress(body, mtime=0)
    return PageFile(
        body,
        zipped if len(zipped) < len(body) else None,
        MEDIA_TYPES.get(end, "application/octet-stream"),
        hashlib.sha256(body).hexdigest()[:32],
    )


def read_files(folder: Traversable) -> dict[str, PageFile]:
    """All files in a folder and in those within it, by their path from there, such as `vendor/chart.js`."""
    return {name: page_file(name, file.read_bytes()) for name, file in _files(folder, "")}


def _files(folder: Traversable, path: str) -> Iterator[tuple[str, Traversable]]:
    for each in folder.iterdir():
        if each.is_dir():
            yield from _files(each, f"{path}{each.name}/")
        else:
            yield path + each.name, each


def serve_files(app: FastAPI) -> None:
    """Serve the page at `/` and its files at `/page/…`."""
    files = read_files(resources.files("fairdial.console").joinpath("pages"))

    async def index(request: Request) -> Response:
        return files[INDEX].answer(request)

    async def file(name: str, request: Request) -> Response:
        found = files.get(name)
        if found is None:
            raise HTTPException(404, f"the page has no file {name[:80]!r}")
        return found.answer(request)

    methods = ["GET", "HEAD"]
    app.add_api_route("/", index, methods=methods, include_in_schema=False)
    app.add_api_route("/page/{name:path}", file, methods=methods, include_in_schema=False)
