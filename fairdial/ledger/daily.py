"""What an account did day by day, added up by the database. Nothing here writes. What belongs to which day is as in a
statement (fairdial/statements.py): a call to where it began, its talk second by second, a charge to its `at_ms`.
"""

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from fairdial.ledger import reading
from fairdial.ledger.contract import DayUse
from fairdial.ledger.database import Database
from fairdial.policy.account import Kind
from fairdial.policy.periods import Window

# Talk until an instant, to the nearest second: what `_talk_until_s` of fairdial/statements.py says.
_UNTIL = "min(used_s, max(0, ({instant} - began_ms + 500) / 1000))"
_TALK = f"{_UNTIL.format(instant='d.end_ms')} - {_UNTIL.format(instant='d.start_ms')}"

# ?1: the account; ?2: where the first day begins; ?3: where the last ends; ?4: where each begins, as JSON. A day is
# known by where it begins, and ends where the next does.
_DAYS = """
    WITH d AS (
        SELECT start_ms, lead(start_ms, 1, ?3) OVER (ORDER BY start_ms) AS end_ms
          FROM (SELECT CAST(value AS BIGINT) AS start_ms FROM json_each(?4)) starts
    )
"""
# Dialled on the day before the first or later, or among those few that lasted longer than a day (settled_calls).
_CALLS = f"""
    {_DAYS},
    c AS MATERIALIZED (
        SELECT g.kind, coalesce(g.answered_ms, g.authorised_ms) AS began_ms, g.used_s
          FROM decisions x JOIN grants g USING (call_id)
         WHERE x.account_id = ?1 AND x.at_ms >= ?2 - 86400000 AND x.at_ms < ?3
           AND g.state = 'settled' AND (g.used_s > 0 OR g.kind = 'message')
         UNION ALL
        SELECT kind, coalesce(answered_ms, authorised_ms), used_s
          FROM grants
         WHERE account_id = ?1 AND state = 'settled' AND ended_ms - authorised_ms > 86400000
           AND ended_ms >= ?2 AND authorised_ms < ?2 - 86400000 AND used_s > 0
    )
    SELECT d.start_ms, c.kind, count(*) FILTER (WHERE c.began_ms >= d.start_ms AND c.began_ms < d.end_ms), sum({_TALK})
      FROM c JOIN d ON c.began_ms < d.end_ms AND c.began_ms + used_s * 1000 + 500 >= d.start_ms
     GROUP BY d.start_ms, c.kind
"""  # noqa: S608
_CHARGES = f"""
    {_DAYS}
    SELECT d.start_ms, c.currency, sum(c.amount_micros)
      FROM charges c JOIN d ON c.at_ms >= d.start_ms AND c.at_ms < d.end_ms
     WHERE c.account_id = ?1 AND c.at_ms >= ?2 AND c.at_ms < ?3
     GROUP BY d.start_ms, c.currency
"""  # noqa: S608
_REFUSED = f"""
    {_DAYS}
    SELECT d.start_ms, count(*)
      FROM decisions x JOIN d ON x.at_ms >= d.start_ms AND x.at_ms < d.end_ms
     WHERE x.account_id = ?1 AND x.at_ms >= ?2 AND x.at_ms < ?3 AND x.decision = 'refuse'
     GROUP BY d.start_ms
"""  # noqa: S608


def days(db: Database, account_id: str, windows: Sequence[Window]) -> tuple[DayUse, ...]:
    """The windows follow each other without a gap (contract.py)."""
    reading.need_account(db, account_id)
    starts = [each.start_ms for each in windows]
    given = (account_id, starts[0], windows[-1].end_ms, msgspec.json.encode(starts).decode())
    kinds = defaultdict[int, dict[Kind, tuple[int, int]]](dict)
    for start_ms, kind, calls, talk_s in db.execute(_CALLS, given):
        if calls or talk_s:
            kinds[start_ms][Kind(kind)] = calls, talk_s
    charged = defaultdict[int, dict[str, int]](dict)
    for start_ms, currency, micros in db.execute(_CHARGES, given):
        charged[start_ms][currency] = micros
    refused: dict[int, int] = dict(db.execute(_REFUSED, given).fetchall())
    return tuple(
        DayUse(each, kinds[each.start_ms], charged[each.start_ms], refused.get(each.start_ms, 0))
        for each in windows
    )
