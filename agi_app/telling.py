"""How a dialplan that asked over AGI is told: one variable, and a note of how long it waited for that."""

import asyncio

from agi_app.fastagi import AgiSession
from fairdial.answer import Answer
from fairdial.tallies import Spread


class Teller:
    """Tells one answer. Made when the question comes; answers: how long each took, by gate and result."""

    def __init__(self, session: AgiSession, gate: str, answers: Spread) -> None:
        self._session = session
        self._gate = gate
        self._answers = answers
        self._asked_s = asyncio.get_running_loop().time()

    async def tell(self, answer: Answer) -> None:
        """Set FAIRDIAL_ANSWER. Raises AgiError where the switch does not take it."""
        result = "undelivered"
        try:
            await self._session.set_variable("FAIRDIAL_ANSWER", answer.packed())
            if not self._session.hung_up:
                result = answer.result.lower()
        finally:
            self._answers.add(asyncio.get_running_loop().time() - self._asked_s, self._gate, result)
