"""Policies over HTTP: what each says, what is wrong with a text, what would change, and publishing it.

A policy is sent as the file that it is, TOML.
"""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, Field

from fairdial.console.callers import AnyViewer
from fairdial.console.http import Acts, Admin, Key, SmallText, Viewer, located, text_body
from fairdial.console.once import Once
from fairdial.console.operations import Operations

PolicyName = Annotated[str, Path(max_length=80, description="The policy's name.", examples=["redconnect"])]
Version = Annotated[str, Path(max_length=80, description="One of its versions.", examples=["2026-11"])]
Against = Annotated[
    str | None, Query(max_length=80, description="Version to compare with; the one in force if left out.")
]

WHERE = "policy.toml"
"""How faults call the text that was sent."""

EXAMPLE = """\
name = "small"
version = "1"
title = "A small plan"
kinds = { allow = ["outbound", "internal"], clause = "C0" }
classes = { allow = ["geographic", "mobile"], clause = "C1" }
countries = { allow = ["GB"], clause = "C2" }
longest_call = { clause = "C3", seconds = { outbound = 3600 } }
"""
NEXT_EXAMPLE = EXAMPLE.replace('"small"', '"redconnect"').replace('"1"', '"2"')
_TOML = text_body({"application/toml": EXAMPLE})
_NEXT_TOML = text_body({"application/toml": NEXT_EXAMPLE})


class PolicyVersion(BaseModel):
    """A version. published, effective: days, YYYY-MM-DD; effective also "at_once"."""

    version: str
    title: str
    published: str | None
    effective: str


class Policy(BaseModel):
    """A policy with its versions. version: the one that is in force in UTC; null before the first."""

    policy: str
    version: str | None
    versions: list[PolicyVersion]


class Rule(BaseModel):
    """A rule in words. section: the table of the file; clause: what it rests on."""

    section: str
    rule: str
    says: str
    clause: str


class Rules(BaseModel):
    """A version in words."""

    policy: str
    version: str
    title: str
    rules: list[Rule]


class Finding(BaseModel):
    """A fault of a policy file: line (from 1), key, what is wrong, and how to mend it."""

    file: str
    line: int
    key: str
    severity: str
    words: str
    cure: str


class Differences(BaseModel):
    """What changes for a customer from version `old` to `new`, in sentences."""

    policy: str
    old: str
    new: str
    changes: list[str]
    takes_effect: str


class Published(BaseModel):
    """A version that was published."""

    policy: str
    version: str
    effective: str = Field(description='Day from whose midnight it decides, or "at_once".')
    changes: list[str]
    takes_effect: str


def routes(operations: Operations, once: Once) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["policies"])
    acts = Acts(operations, once)

    @router.get("/policies", summary="Policies with their versions")
    async def policies(_by: AnyViewer) -> list[Policy]:
        return [Policy(**row) for row in await acts.look("policy_list")]

    @router.post("/policies", summary="Publish a version of a policy", status_code=201, openapi_extra=_TOML)
    async def publish(by: Admin, text: SmallText, response: Response, key: Key = None) -> Published:
        made = Published(**await acts.change(by, key, "policy_publish", text=text, where=WHERE))
        response.headers["Location"] = located("policies", made.policy, "versions", made.version)
        return made

    @router.post("/policies/lint", summary="Find what is wrong with a policy file", openapi_extra=_TOML)
    async def lint(_by: Viewer, text: SmallText) -> list[Finding]:
        return [Finding(**row) for row in await acts.look("policy_lint", text=text, where=WHERE)]

    @router.post(
        "/policies/diff", summary="What a policy file would change for a customer", openapi_extra=_NEXT_TOML
    )
    async def diff_of_text(_by: Viewer, text: SmallText, against: Against = None) -> Differences:
        return Differences(**await acts.look("policy_diff", text=text, where=WHERE, against=against))

    @router.get("/policies/{policy}/versions/{version}", summary="Say in words what a version means")
    async def rules(_by: AnyViewer, policy: PolicyName, version: Version) -> Rules:
        return Rules(**await acts.look("policy_show", policy=policy, version=version))

    @router.get("/policies/{policy}/versions/{version}/diff", summary="What a version changes for a customer")
    async def diff(
        _by: AnyViewer, policy: PolicyName, version: Version, against: Against = None
    ) -> Differences:
        return Differences(**await acts.look("policy_diff", policy=policy, version=version, against=against))

    return router
