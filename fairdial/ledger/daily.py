"""What an account did day by day, added up by SQLite. Nothing here writes. What belongs to which day is as in a
statement (fairdial/statements.py): a call to where it began, its talk second by second, a charge to its `at_ms`.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Sequence

import msgspec

from fairdial.ledger import reading
from fairdial.ledger.contract import DayUse
from fairdial.policy.account import Kind
from fairdial.policy.periods import Window

# Talk until an instant, to the nearest second: what `_talk_until_s` of fairdial/statements.py says.
_UNTIL = "min(max(0, ({instant} - began_ms + 500) / 1000), used_s)"
_TALK = f"{_UNTIL.format(instant='d.end_ms')} - {_UNTIL.format(instant='d.start_ms')}"

_DAYS = "WITH d AS (SELECT key AS n, value ->> 0 AS start_ms, value ->> 1 AS end_ms FROM json_each(:days))"
# Dialled on the day before the first or later, or among those few that lasted longer than a day (settled_calls).
_CALLS = f"""
    {_DAYS},
    c AS MATERIALIZED (
        SELECT g.kind, coalesce(g.answered_ms, g.authorised_ms) AS began_ms, g.used_s
          FROM decisions x JOIN grants g USING (call_id)
         WHERE x.account_id = :account AND x.at_ms >= :start_ms - 86400000 AND x.at_ms < :end_ms
           AND g.state = 'settled' AND (g.used_s > 0 OR g.kind = 'message')
         UNION ALL
        SELECT kind, coalesce(answered_ms, authorised_ms), used_s
          FROM grants
         WHERE account_id = :account AND state = 'settled' AND ended_ms - authorised_ms > 86400000
           AND ended_ms >= :start_ms AND authorised_ms < :start_ms - 86400000 AND used_s > 0
    )
    SELECT d.n, c.kind, sum(c.began_ms >= d.start_ms AND c.began_ms < d.end_ms), sum({_TALK})
      FROM c JOIN d ON c.began_ms < d.end_ms AND c.began_ms + used_s * 1000 + 500 >= d.start_ms
     GROUP BY d.n, c.kind
"""  # noqa: S608
_CHARGES = f"""
    {_DAYS}
    SELECT d.n, c.currency, sum(c.amount_micros)
      FROM charges c JOIN d ON c.at_ms >= d.start_ms AND c.at_ms < d.end_ms
     WHERE c.account_id = :account AND c.at_ms >= :start_ms AND c.at_ms < :end_ms
     GROUP BY d.n, c.currency
"""  # noqa: S608
_REFUSED = f"""
    {_DAYS}
    SELECT d.n, count(*)
      FROM decisions x JOIN d ON x.at_ms >= d.start_ms AND x.at_ms < d.end_ms
     WHERE x.account_id = :account AND x.at_ms >= :start_ms AND x.at_ms < :end_ms AND x.decision = 'refuse'
     GROUP BY d.n
"""  # noqa: S608


def days(db: sqlite3.Connection, account_id: str, windows: Sequence[Window]) -> tuple[DayUse, ...]:
    reading.need_account(db, account_id)
    given = {
        "account": account_id,
        "start_ms": windows[0].start_ms,
        "end_ms": windows[-1].end_ms,
        "days": msgspec.json.encode([(each.start_ms, each.end_ms) for each in windows]).decode(),
    }
    kinds = defaultdict[int, dict[Kind, tuple[int, int]]](dict)
    for day, kind, calls, talk_s in db.execute(_CALLS, given):
        if calls or talk_s:
            kinds[day][Kind(kind)] = calls, talk_s
    charged = defaultdict[int, dict[str, int]](dict)
    for day, currency, micros in db.execute(_CHARGES, given):
        charged[day][currency] = micros
    refused = dict(db.execute(_REFUSED, given).fetchall())
    return tuple(
        DayUse(window, kinds[day], charged[day], refused.get(day, 0)) for day, window in enumerate(windows)
    )
