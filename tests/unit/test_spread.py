"""Where statements belong when accounts are on shards, and how listings of several shards become one."""

import pytest

from fairdial.ledger.database import Of
from fairdial.ledger.pool import NamedRow
from fairdial.ledger.shards import _literal, _rows
from fairdial.ledger.spread import SLOTS, Key, looked_through, merged, slot_of


@pytest.mark.parametrize(("key", "slot"), [("", 29), ("acme", 956), ("line-1", 853), ("Ä 'x'", 522)])
def test_a_key_falls_into_the_same_slot_for_ever(key: str, slot: int) -> None:
    """What is stored is found by it."""
    assert slot_of(key) == slot < SLOTS


@pytest.mark.parametrize(
    ("sql", "keys"),
    [
        ("SELECT * FROM accounts WHERE id = ?", [Key(Of.ACCOUNT, 0)]),
        ("UPDATE accounts SET standing = ?, fraud = ? WHERE id = ?", [Key(Of.ACCOUNT, 2)]),
        ("SELECT id FROM accounts WHERE policy = ? AND id > ? ORDER BY id LIMIT ?", []),
        ("SELECT 1 FROM lines WHERE id = ? AND account_id = ?", [Key(Of.ACCOUNT, 1), Key(Of.LINE, 0)]),
        ("UPDATE lines SET standing = ? WHERE id = ?", [Key(Of.LINE, 1)]),
        ("DELETE FROM numbers WHERE number = ?", [Key(Of.NUMBER, 0)]),
        ("INSERT INTO charges VALUES (?, ?, ?, ?)", [Key(Of.ACCOUNT, 2)]),
        (
            "INSERT INTO messages (call_id, account_id) VALUES (?, ?)",
            [Key(Of.ACCOUNT, 1), Key(Of.CALL, 0)],
        ),
        ("SELECT * FROM requests WHERE (account_id = ?1 OR ?1 IS NULL) LIMIT ?2", [Key(Of.ACCOUNT, 0)]),
        ("SELECT 1 FROM decisions d WHERE (d.call_id = ? OR (d.sip_call_id = ? AND TRUE))", []),
        ("SELECT 1 FROM grants WHERE room = ? AND state = 'talking' AND call_id <> ?", []),
    ],
)
def test_a_statement_says_whose_it_is(sql: str, keys: list[Key]) -> None:
    assert list(looked_through(sql).keys) == keys


@pytest.mark.parametrize(
    ("sql", "is_global"),
    [
        ("INSERT INTO tokens (name) VALUES (?)", True),
        ("SELECT rules FROM notice_rules", True),
        (
            "INSERT INTO blocks (source) VALUES (?) ON CONFLICT (source) DO UPDATE SET why = excluded.why",
            True,
        ),
        ("INSERT INTO notices (account_id) VALUES (?)", False),
        ("SELECT value FROM json_each(?)", False),
    ],
)
def test_what_is_nobodys_is_before_the_shards(sql: str, is_global: bool) -> None:
    assert looked_through(sql).is_global is is_global


def rows(*values: int) -> list[NamedRow]:
    return _rows([(("id", value), ("name", chr(64 + value))) for value in values])


@pytest.mark.parametrize(
    ("tail", "given", "ids"),
    [
        ("ORDER BY id", (), [1, 2, 3, 4, 5]),
        ("ORDER BY t.name DESC LIMIT ?", (2,), [5, 4]),
        ("ORDER BY 1 LIMIT 1 OFFSET ?", (3,), [4]),
        ("WHERE TRUE", (), [1, 4, 2, 3, 5]),
    ],
)
def test_listings_of_shards_are_one_in_their_own_order(
    tail: str, given: tuple[int, ...], ids: list[int]
) -> None:
    statement = looked_through(f"SELECT id, name FROM things t {tail}")
    assert [row["id"] for row in merged(statement, given, [rows(1, 4), rows(2, 3, 5)])] == ids


def test_counts_of_shards_are_added_up_by_group() -> None:
    statement = looked_through("SELECT state, count(*) AS n FROM things GROUP BY state")
    of_each = [
        _rows([(("state", "a"), ("n", 2)), (("state", "b"), ("n", 1))]),
        _rows([(("state", "a"), ("n", 3))]),
    ]
    assert [tuple(row) for row in merged(statement, (), of_each)] == [("a", 5), ("b", 1)]


def test_a_listing_whose_order_is_not_in_it_is_refused() -> None:
    with pytest.raises(ValueError, match="has to have its order 'at_ms' in it"):
        merged(looked_through("SELECT id FROM things ORDER BY at_ms"), (), [rows(1), rows(2)])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "NULL"),
        (True, "True"),
        (2**70, f"int8 '{2**70}'"),
        (-1, "int8 '-1'"),
        ("it's \\ $1", "'it''s \\ $1'"),
        (Of.CALL, "'call'"),
        (0.1, "float8 '0.1'"),
    ],
)
def test_a_value_is_written_so_that_it_is_nothing_else(value: object, text: str) -> None:
    assert _literal(value) == text


def test_what_cannot_be_written_exactly_is_refused() -> None:
    with pytest.raises(TypeError, match="bytes"):
        _literal(b"x")


def test_what_is_asked_of_a_table_before_the_shards_is_asked_aside() -> None:
    rules = "(SELECT rules FROM notice_rules WHERE id = 1)"
    found = looked_through("SELECT g.call_id, " + rules + " FROM grants g WHERE g.call_id = ?")
    assert found.aside == rules[1:-1]
    assert found.text == "SELECT g.call_id, CAST($2 AS text) FROM grants g WHERE g.call_id = $1"
    assert "notice_rules" not in found.tables
    alone = looked_through("SELECT rules FROM notice_rules WHERE id = 1")
    assert (alone.aside, alone.is_global) == ("", True)
