"""Replays over HTTP: recorded calls are sent, replayed beside those in progress, and looked at as JSON or as a page.

The file may be as large as `http.replay_mb_max`: it is written to disk as it comes, and never held in memory.
"""

import base64
import hashlib
import re
from importlib import resources
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from fairdial.console.bodies import allow_stream
from fairdial.console.http import Acts, Admin, Viewer, error_answer, located, text_body
from fairdial.console.once import Once
from fairdial.console.operations import OperationError, Operations
from fairdial.console.replays import REPORT, RESULT, Replays

ReplayId = Annotated[
    str, Path(pattern=r"^[0-9]{1,20}$", description="Which one.", examples=["1795262400000"])
]
PolicyName = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=120,
        description="NAME or NAME@VERSION for all accounts; each its own if left out.",
        examples=["kryptotel"],
    ),
]
Against = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=120,
        description="A second one, likewise: shows what it decides otherwise.",
        examples=["redconnect@2026-11"],
    ),
]
_RECORDS = text_body(
    {
        "text/csv": '"","100","02079460123","phones","100","PJSIP/alice-00000001","PJSIP/carrier-00000002","Dial",'
        '"PJSIP/02079460123@carrier","2026-11-21 12:00:00","2026-11-21 12:00:05","2026-11-21 12:01:05",65,60,'
        '"ANSWERED","DOCUMENTATION","1795262400.1",""\n'
    }
)
RESULT_SCHEMA = {"type": "object", "description": "As `fairdial replay --json` prints it (docs/replay.md)."}


class Replay(BaseModel):
    """A replay. rows: lines of its file; rows_done: how far it is, in as many; by: the token that asked for it."""

    replay: str
    state: Literal["running", "done", "failed", "cancelled"]
    policy: str | None = Field(description="Null: each account's own.")
    against: str | None
    rows: int
    rows_done: int
    error: str | None = Field(description="What went wrong, where it failed.")
    started_ms: int
    ended_ms: int | None
    by: str


def page_policy() -> str:
    """Content-Security-Policy of the report: its own style alone, no script, nothing fetched, in a frame of ours.

    CSP 3; sandboxed, it is of no origin and has no access to ours.
    """
    text = resources.files("fairdial.replay").joinpath("page.html").read_text("utf-8")
    styles = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    hashes = (base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() for style in styles)
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    return (
        f"sandbox; default-src 'none'; style-src {allowed}; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'self'"
    )


def routes(operations: Operations, once: Once) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["replays"])
    acts = Acts(operations, once)
    report_headers = {
        "Content-Security-Policy": page_policy(),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }

    @router.post(
        "/replays",
        summary="Replay recorded calls beside those in progress; the body is Asterisk's Master.csv",
        status_code=202,
        openapi_extra=_RECORDS,
        responses={
            415: error_answer("Not CSV"),
            503: error_answer("No room for it, or the ledger does not answer"),
        },
    )
    async def start(
        by: Admin, request: Request, response: Response, policy: PolicyName = None, against: Against = None
    ) -> Replay:
        sent = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if sent != "text/csv":
            raise HTTPException(415, f"Content-Type {sent!r:.80} is not text/csv; send Master.csv as that")
        replays = _here(operations)
        async with replays.receive(policy, against) as upload:
            allow_stream(request.scope, upload.bytes_max)
            try:
                async for piece in request.stream():
                    await upload.write(piece)
                await upload.end()
            except ClientDisconnect as error:
                raise HTTPException(400, "the body broke off; send it again") from error
            if not upload.rows:
                raise HTTPException(422, "the body is empty; send the rows of Master.csv")
            given = {"replay": upload.replay, "rows": upload.rows, "policy": policy, "against": against}
            made = Replay(**await acts.change(by, None, "replay_start", by=by.name, **given))
        response.headers["Location"] = located("replays", made.replay)
        return made

    @router.get("/replays", summary="The latest 20 replays of the last day, newest first")
    async def listed(_by: Viewer) -> list[Replay]:
        return [Replay(**row) for row in await acts.look("replay_list")]

    @router.get("/replays/{replay}", summary="How far a replay is")
    async def show(_by: Viewer, replay: ReplayId) -> Replay:
        return Replay(**await acts.look("replay_show", replay=replay))

    @router.get(
        "/replays/{replay}/result",
        summary="What would have been refused, cut and charged",
        response_class=FileResponse,
        responses={200: {"description": "It", "content": {"application/json": {"schema": RESULT_SCHEMA}}}},
    )
    async def result(_by: Viewer, replay: ReplayId) -> FileResponse:
        file = _here(operations).file(replay, RESULT)
        return FileResponse(file, media_type="application/json", headers={"Cache-Control": "no-store"})

    @router.get(
        "/replays/{replay}/report",
        summary="The same as a page for people",
        response_class=FileResponse,
        responses={200: {"description": "A page", "content": {"text/html": {"schema": {"type": "string"}}}}},
    )
    async def report(_by: Viewer, replay: ReplayId) -> FileResponse:
        file = _here(operations).file(replay, REPORT)
        return FileResponse(file, media_type="text/html; charset=utf-8", headers=report_headers)

    @router.delete(
        "/replays/{replay}", summary="Cancel a replay that runs; remove one that is over", status_code=204
    )
    async def remove(by: Admin, replay: ReplayId) -> None:
        await acts.change(by, None, "replay_remove", replay=replay)

    return router


def _here(operations: Operations) -> Replays:
    replays: Any = operations.replays
    if replays is None:
        raise OperationError("no FairDial is running here to replay anything; start `fairdial serve`")
    assert isinstance(replays, Replays)
    return replays
