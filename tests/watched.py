"""Policies with detectors and a ladder that tests of patterns, cases and the watch share."""

from fairdial.policy.document import Policy, parse_policy
from tests.samples import PLAN


def detector(
    name: str = "many",
    measure: str = "distinct_callees",
    threshold: float = 3,
    *,
    window: str = "hour",
    step: str = "notice",
    more: str = "",
) -> str:
    """A detector's table."""
    return (
        f'[[detectors]]\nname = "{name}"\nmeasure = "{measure}"\nthreshold = {threshold}\nwindow = "{window}"\n'
        f'step = "{step}"\nclause = "P7"\n{more}\n'
    )


def rung(name: str, threshold: int, step: str, more: str = "") -> str:
    """A rung of the ladder, by open cases in a month."""
    return (
        f'[[ladder]]\nname = "{name}"\nmeasure = "open_cases"\nthreshold = {threshold}\nwindow = "month"\n'
        f'step = "{step}"\nclause = "P8"\n{more}\n'
    )


STANDING = '[standing]\nclause = "P9"\nfraud_clause = "P10"\n'


def watched(*tables: str, version: str = "1") -> Policy:
    """The sample plan with these tables."""
    text = PLAN.replace('version = "1"', f'version = "{version}"') + STANDING + "".join(tables)
    return parse_policy(text, "plan.toml")
