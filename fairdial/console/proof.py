"""The last steps of the doctor: a FairDial runs here, and a dial would get a decision. Nothing is written by it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fairdial.config import Config
from fairdial.console.control import NotRunning, ask
from fairdial.console.operations import OperationError
from fairdial.doctor import Ailment
from fairdial.ledger.contract import LedgerError
from fairdial.policy.numbers import example_number
from fairdial.policy.outcomes import UNDECIDED

LINES_LOOKED_AT = 100
"""The doctor looks for a line that may call among so many."""

Operate = Callable[[str, Mapping[str, Any]], Awaitable[Any]]


def server_runs(config: Config) -> str:
    """A FairDial runs and has its links to the switch. Raises Ailment."""
    try:
        parts = ask(config.control, "ready", {})["parts"]
    except NotRunning as error:
        raise Ailment(
            f"no FairDial is running ({config.control})", "systemctl start fairdial, or `fairdial serve`"
        ) from error
    except OperationError as error:
        raise Ailment(str(error), "run the doctor as root or as FairDial's own user") from error
    for part in parts:
        if not part["well"]:
            raise Ailment(f"{part['part']}: {part['text']}", part["cure"])
    return "runs, and can decide about calls"


async def decision_is_given(config: Config, here: Operate) -> str:
    """What a dial would get now. here: carries an operation out where no FairDial runs. Raises Ailment."""
    try:
        lines = await _operate(config, here, "line_list", {"limit": LINES_LOOKED_AT})
        able = [line for line in lines if line["standing"] == "active"]
        if not able:
            raise Ailment(
                "no line may call: each dial would be refused as line_unknown"
                if not lines
                else "the first lines are all suspended or terminated",
                "fairdial account add ACCOUNT --policy POLICY, then fairdial line add ENDPOINT --account ACCOUNT",
                grave=False,
            )
        line, number = able[0]["line"], example_number(able[0]["habit"]["region"])
        value = await _operate(config, here, "check", {"number": number, "line": line})
    except (OperationError, LedgerError, ValueError, OSError) as error:
        raise Ailment(str(error), "mend what is found above, and ask again") from error
    clause = value["clause"]
    if value["reason"] in UNDECIDED:
        raise Ailment(
            f"{line} would get no decision: {value['reason']}",
            "see the policy of its account: fairdial account show, fairdial policy list",
        )
    limit = "" if value["limit_s"] is None else f", at most {value['limit_s']} s"
    return (
        f"{line} dials {number}: {value['decision']}{limit}, {value['reason']}"
        f" ({clause['policy']} {clause['id']})"
    )


async def _operate(config: Config, here: Operate, name: str, arguments: Mapping[str, Any]) -> Any:
    try:
        return ask(config.control, name, arguments)
    except NotRunning:
        return await here(name, arguments)
