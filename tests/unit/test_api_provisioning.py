"""Provisioning over HTTP: what each route does, and what it refuses; as on the command line, and in its words."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from fairdial.console.api_policies import EXAMPLE
from fairdial.logs import mask_numbers
from fairdial.policy.account import Kind
from tests.api_examples import CALL
from tests.unit.test_api import Api
from tests.unit.test_api_routes import api as api
from tests.unit.test_api_routes import operations as operations

ACCOUNT = {"account": "globex", "policy": "kryptotel", "countries": ["GB"]}
CREDIT = {"amount": "20.00", "currency": "EUR", "reference": "invoice-1"}
CSV, TOML = ({"Content-Type": each} for each in ("text/csv", "application/toml"))


async def done(api: Api, method: str, path: str, body: object = None, **how: Any) -> Any:
    """The body of an answer that must not be a refusal."""
    status, told, _ = await api.ask(method, path, body, **how)
    assert status < 300, told
    return told


async def refused(api: Api, method: str, path: str, body: object = None, **how: Any) -> tuple[int, str]:
    return await api.problem(method, path, body, **how)


def bare(status_and_detail: tuple[int, str], words: str) -> int:
    """The status of a refusal that has these words."""
    status, detail = status_and_detail
    assert words in detail
    return status


# --- accounts ----------------------------------------------------------------------------------------


async def test_an_account_is_added_once_and_told_as_it_stands(api: Api) -> None:
    status, made, headers = await api.ask("POST", "/v1/accounts", ACCOUNT)
    assert (status, headers["Location"], made["standing"]) == (201, "/v1/accounts/globex", "active")
    await done(api, "PUT", "/v1/accounts/globex/standing", {"standing": "suspended"})
    again = await done(api, "POST", "/v1/accounts", ACCOUNT)
    assert again == {**made, "standing": "suspended"}
    assert (
        bare(await refused(api, "POST", "/v1/accounts", {**ACCOUNT, "zone": "Europe/Paris"}), "exists") == 409
    )
    assert [each["account"] for each in (await done(api, "GET", "/v1/accounts"))["items"]] == [
        "acme",
        "globex",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"policy": "nosuch"}, "policy 'nosuch' is not loaded; known are"),
        ({"zone": "Nowhere/Here"}, "Nowhere/Here"),
        ({"account": "two words"}, "without spaces"),
        ({"countries": ["XX"]}, "country 'XX'"),
        ({"countries": ["gb"]}, "body.countries.0"),
        ({"cycle_day": 32}, "body.cycle_day"),
        ({"currency": "XXY"}, "XXY"),
        ({"until_ms": 10**30}, "body.until_ms"),
        ({"standing": "active"}, "body.standing: Extra inputs"),
    ],
)
async def test_an_account_that_cannot_be_is_refused_with_the_place(
    api: Api, change: dict[str, object], words: str
) -> None:
    assert bare(await refused(api, "POST", "/v1/accounts", ACCOUNT | change), words) == 422
    assert (await refused(api, "GET", "/v1/accounts/globex"))[0] == 404


async def test_accounts_are_read_in_pages(api: Api) -> None:
    for n in range(5):
        await done(api, "POST", "/v1/accounts", {**ACCOUNT, "account": f"a&b-{n}"})
    found, after, pages = [], None, 0
    while pages == 0 or after is not None:
        query = "" if after is None else f"&after={after.replace('&', '%26')}"
        page = await done(api, "GET", f"/v1/accounts?limit=2{query}")
        found += [each["account"] for each in page["items"]]
        after, pages = page["next"], pages + 1
    assert (found, pages) == (["a&b-0", "a&b-1", "a&b-2", "a&b-3", "a&b-4", "acme"], 3)


async def test_standing_is_set_as_often_as_one_likes_and_known_ones_alone(api: Api) -> None:
    path = "/v1/accounts/acme/standing"
    for standing in ("suspended", "suspended", "active", "terminated"):
        told = await done(api, "PUT", path, {"standing": standing})
        assert (told["standing"], told["calls_cut"]) == (standing, 0)
    assert bare(await refused(api, "PUT", path, {"standing": "gone"}), "body.standing") == 422
    fraud = {"standing": "suspended", "fraud": True}
    assert bare(await refused(api, "PUT", path, fraud), "terminated for fraud, not suspended") == 422
    assert (await refused(api, "PUT", "/v1/accounts/nosuch/standing", {"standing": "active"}))[0] == 404
    assert (await done(api, "PUT", path, {"standing": "terminated", "fraud": True}))["fraud"] is True


async def test_a_service_is_taken_and_given_back_and_emergency_calls_never(api: Api) -> None:
    path = "/v1/accounts/acme/restrictions"
    for _ in range(2):
        told = await done(api, "PUT", f"{path}/callback")
        assert told["restricted"] == ["callback", "conference"]
    for _ in range(2):
        assert (await done(api, "DELETE", f"{path}/callback"))["restricted"] == ["conference"]
    assert bare(await refused(api, "PUT", f"{path}/emergency"), "emergency calls cannot") == 422
    assert bare(await refused(api, "PUT", f"{path}/fax"), "path.service") == 422


async def test_a_subscription_is_what_was_asked_for_last(api: Api) -> None:
    path = "/v1/accounts/acme/subscription"
    told = await done(api, "PUT", path, {"policy": "redconnect", "cycle_day": 15, "plan": "office"})
    assert (told["policy"], told["cycle_day"], told["plan"], told["countries"]) == (
        "redconnect",
        15,
        "office",
        [],
    )
    assert bare(await refused(api, "PUT", path, {"policy": "nosuch"}), "not loaded") == 422
    assert (await refused(api, "PUT", "/v1/accounts/nosuch/subscription", {"policy": "redconnect"}))[0] == 404
    assert (await done(api, "GET", "/v1/accounts/acme"))["policy"] == "redconnect"


async def test_credit_is_added_once_for_each_reference(api: Api) -> None:
    path = "/v1/accounts/acme/credit"
    for _ in range(2):
        assert (await done(api, "POST", path, CREDIT))["balance"] == "20"
    assert bare(await refused(api, "POST", path, {**CREDIT, "amount": "30"}), "another amount") == 409
    back = {**CREDIT, "amount": "-20.01", "reference": "back"}
    assert bare(await refused(api, "POST", path, back), "take back that much at most") == 409
    for change in ({"currency": "GBP", "reference": "2"}, {"amount": "1,5", "reference": "3"}):
        assert (await refused(api, "POST", path, CREDIT | change))[0] == 422
    assert bare(await refused(api, "POST", path, {"amount": "1", "currency": "EUR"}), "body.reference") == 422
    assert (await done(api, "GET", "/v1/accounts/acme/usage"))["credit"]["free"] == "20"


async def test_an_agreement_holds_until_it_is_withdrawn(api: Api) -> None:
    path = "/v1/accounts/acme/agreements"
    [first] = await done(api, "GET", path)
    held = await done(api, "PUT", f"{path}/surcharge", {"agreed_by": "Bo Low"})
    assert held == first
    await done(api, "DELETE", f"{path}/surcharge")
    assert await done(api, "GET", path) == []
    assert bare(await refused(api, "DELETE", f"{path}/surcharge"), "has not agreed") == 404
    assert (await refused(api, "PUT", f"{path}/everything", {"agreed_by": "Bo Low"}))[0] == 422
    assert (await refused(api, "PUT", f"{path}/surcharge", {"agreed_by": " "}))[0] == 422
    assert (await done(api, "PUT", f"{path}/surcharge", {"agreed_by": "Bo Low"}))["agreed_by"] == "Bo Low"


# --- lines and numbers -------------------------------------------------------------------------------


async def test_a_line_is_added_once_in_the_habit_of_fairdials_region(api: Api) -> None:
    line = {"line": "bob", "account": "acme", "habit": {"internal": "_1XX"}}
    status, made, headers = await api.ask("POST", "/v1/lines", line)
    assert (status, headers["Location"], made["habit"]["region"]) == (201, "/v1/lines/bob", "GB")
    suspended = await done(api, "PUT", "/v1/lines/bob/standing", {"standing": "suspended"})
    assert suspended == {**made, "standing": "suspended", "calls_cut": 0}
    assert (await done(api, "POST", "/v1/lines", line))["standing"] == "suspended"
    assert (await done(api, "GET", "/v1/lines/bob"))["habit"]["internal"] == "_1XX"
    other = {**line, "habit": {"internal": "_2XX"}}
    assert bare(await refused(api, "POST", "/v1/lines", other), "exists with other contents") == 409
    for change, status in (
        ({"account": "nosuch"}, 404),
        ({"habit": {"internal": "_X."}}, 422),
        ({"habit": {"regoin": "GB"}}, 422),
        ({"habit": {"region": "ZZ"}}, 422),
    ):
        assert (await refused(api, "POST", "/v1/lines", {**line, "line": "new"} | change))[0] == status
    assert (await refused(api, "GET", "/v1/lines/new"))[0] == 404
    assert (await refused(api, "PUT", "/v1/lines/new/standing", {"standing": "active"}))[0] == 404


async def test_a_line_too_many_is_a_conflict(api: Api) -> None:
    """V3."""
    lines = "line,account\n" + "".join(f"office-{n},acme\n" for n in range(99))
    await done(api, "POST", "/v1/imports", data=lines.encode(), headers=CSV)
    told = await refused(api, "POST", "/v1/lines", {"line": "one-more", "account": "acme"})
    assert bare(told, "its policy allows 100") == 409


async def test_a_number_belongs_to_one_account(api: Api) -> None:
    path = "/v1/numbers/+442079460001"
    for _ in range(2):
        assert (await done(api, "PUT", path, {"account": "acme"}))["line"] is None
    assert (await done(api, "PUT", path, {"account": "acme", "line": "alice"}))["line"] == "alice"
    await done(api, "POST", "/v1/accounts", ACCOUNT)
    assert bare(await refused(api, "PUT", path, {"account": "globex"}), "belongs to account 'acme'") == 409
    assert bare(await refused(api, "PUT", path, {"account": "acme", "line": "bob"}), "has no line") == 404
    assert bare(await refused(api, "PUT", "/v1/numbers/0207", {"account": "acme"}), "not in E.164") == 422
    assert [each["number"] for each in (await done(api, "GET", "/v1/numbers?account=acme"))["items"]] == [
        "+442079460000",
        "+442079460001",
    ]
    assert (await done(api, "GET", "/v1/numbers?account=globex"))["items"] == []
    await done(api, "DELETE", path)
    assert (await refused(api, "DELETE", path))[0] == 404
    assert (await refused(api, "GET", path))[0] == 404


# --- policies and files ------------------------------------------------------------------------------


async def test_a_policy_is_looked_through_compared_and_published(api: Api) -> None:
    text, worse = EXAMPLE.encode(), EXAMPLE.replace('clause = "C1"', 'claus = "C1"').encode()
    assert not [
        each
        for each in await done(api, "POST", "/v1/policies/lint", data=text, headers=TOML)
        if each["severity"] == "error"
    ]
    faults = await done(api, "POST", "/v1/policies/lint", data=worse, headers=TOML)
    assert any("claus" in each["key"] for each in faults)
    assert bare(await refused(api, "POST", "/v1/policies", data=worse, headers=TOML), "claus") == 422
    assert "small" not in [each["policy"] for each in await done(api, "GET", "/v1/policies")]
    for _ in range(2):
        status, made, headers = await api.ask("POST", "/v1/policies", data=text, headers=TOML)
        assert (status, made["version"], headers["Location"]) == (201, "1", "/v1/policies/small/versions/1")
    other = EXAMPLE.replace("3600", "1800").encode()
    assert bare(await refused(api, "POST", "/v1/policies", data=other, headers=TOML), "version") == 422
    told = await done(api, "POST", "/v1/policies/diff", data=other, headers=TOML)
    assert (told["old"], told["new"], len(told["changes"])) == ("1", "1", 1)
    assert any("hour" in each["says"] for each in (await done(api, "GET", headers["Location"]))["rules"])
    assert (await done(api, "GET", f"{headers['Location']}/diff?against=1"))["changes"] == []
    for path in ("/v1/policies/small/versions/2", "/v1/policies/none/versions/1"):
        assert (await refused(api, "GET", path))[0] == 404
    assert (await refused(api, "GET", f"{headers['Location']}/diff?against=0"))[0] == 404
    await done(api, "POST", "/v1/accounts", {**ACCOUNT, "policy": "small"})


async def test_a_text_that_is_none_is_refused(api: Api) -> None:
    told = await refused(api, "POST", "/v1/policies/lint", data=b"name = \xff", headers=TOML)
    assert bare(told, "no UTF-8 text: byte 7") == 400
    assert (await done(api, "POST", "/v1/policies/lint", data=b"", headers=TOML))[0]["severity"] == "error"


async def test_an_import_is_taken_whole_or_not_at_all(api: Api) -> None:
    text = b"account,policy\nglobex,voxdirect\ninitech,nosuch\n"
    told = await refused(api, "POST", "/v1/imports", data=text, headers=CSV)
    assert bare(told, "import.csv, line 3, column policy") == 422
    assert (await refused(api, "GET", "/v1/accounts/globex"))[0] == 404
    taken = await done(api, "POST", "/v1/imports", data=text.replace(b"nosuch", b"redconnect"), headers=CSV)
    assert taken == {"new": 2, "there_already": 0, "dry_run": False}
    lines = b'[[line]]\nline = "carol"\naccount = "globex"\n'
    await done(api, "POST", "/v1/imports?region=DE", data=lines, headers=TOML)
    assert (await done(api, "GET", "/v1/lines/carol"))["habit"]["region"] == "DE"
    word = {"Content-Type": "application/msword"}
    assert (await refused(api, "POST", "/v1/imports", data=text, headers=word))[0] == 415


async def test_a_card_replaces_one_of_its_name_and_a_faulty_one_nothing(api: Api) -> None:
    head, path = "prefix,destination,rate_per_min,connect_fee,increment,minimum,effective\n", "/v1/rates/a"
    first, second = (f"{head}+33,France,{rate},0,60/60,,2026-01-01\n".encode() for rate in ("0.02", "0.03"))
    cards = [
        await done(api, "PUT", f"{path}?currency=EUR", data=each, headers=CSV)
        for each in (first, first, second)
    ]
    assert cards[0] == cards[1] != cards[2]
    for query, data in (("?currency=XXY", first), ("?currency=EUR", first + b"+44,x\n"), ("", first)):
        assert (await refused(api, "PUT", path + query, data=data, headers=CSV))[0] == 422
    assert await done(api, "GET", "/v1/rates") == [cards[2]]


# --- decisions ---------------------------------------------------------------------------------------


async def test_a_dial_is_looked_at_without_a_call(api: Api) -> None:
    wanted = {"number": "02079460100", "line": "alice"}
    allowed = await done(api, "POST", "/v1/check", wanted)
    assert (allowed["decision"], allowed["number"]["class"], "rules" in allowed) == (
        "allow",
        "geographic",
        False,
    )
    dear = await done(api, "POST", "/v1/check", {**wanted, "number": "09098790000", "explain": True})
    assert (dear["decision"], dear["reason"]) == ("refuse", "class_not_covered")
    assert dear["rules"][-1]["clause"] == dear["clause"]["id"]
    of_account = await done(api, "POST", "/v1/check", {"number": "02079460100", "account": "acme"})
    assert of_account["decision"] == "allow"
    for change in ({"line": None}, {"account": "nosuch"}, {"kind": "fax"}, {"at_ms": -1}):
        assert (await refused(api, "POST", "/v1/check", wanted | change))[0] in (404, 422)
    assert len((await done(api, "GET", "/v1/decisions"))["items"]) == 1


async def test_a_number_is_classified(api: Api) -> None:
    told = await done(api, "POST", "/v1/classify", {"number": "02079460100"})
    assert (told["e164"], told["class"], told["problem"]) == ("+442079460100", "geographic", None)
    assert (await done(api, "POST", "/v1/classify", {"number": "1"}))["problem"]
    assert (await refused(api, "POST", "/v1/classify", {"number": "1", "region": "ZZ"}))[0] == 422


async def test_decisions_and_grants_are_told(api: Api) -> None:
    [decision] = (await done(api, "GET", "/v1/decisions?account=acme&limit=1"))["items"]
    assert (decision["call_id"], decision["decision"]) == (CALL, "allow")
    assert (await refused(api, "GET", "/v1/decisions?after=nosuch"))[0] == 404
    assert (await refused(api, "GET", "/v1/lines?account=nosuch"))[0] == 404
    [row] = await done(api, "GET", "/v1/grants")
    assert (row["call"], row["state"]) == (CALL, "ringing")
    assert (await done(api, "GET", f"/v1/grants/{CALL}"))["kind"] == Kind.OUTBOUND
    assert (await refused(api, "GET", "/v1/grants/nosuch"))[0] == 404
    assert await done(api, "GET", "/v1/differences") == []
    assert (await done(api, "GET", "/v1/status"))["serving"] is True


# --- cases -------------------------------------------------------------------------------------------


async def test_a_case_is_opened_and_judged_by_the_holder_of_the_token(api: Api) -> None:
    await done(api, "POST", "/v1/accounts", ACCOUNT)
    flagged = {"account": "globex", "note": "resells", "step": "suspend"}
    status, made, headers = await api.ask("POST", "/v1/cases", flagged)
    assert (status, made["step"], headers["Location"]) == (201, "suspend", f"/v1/cases/{made['case']}")
    path = headers["Location"]
    assert (await done(api, "GET", "/v1/accounts/globex"))["standing"] == "suspended"
    deadline = await done(api, "PUT", f"{path}/deadline", {"deadline_ms": 1_900_000_000_000})
    assert deadline["deadline_ms"] == 1_900_000_000_000
    whole = await done(api, "POST", f"{path}/close", {"undo": True, "agreed_by": "Ann Lee"})
    assert (whole["state"], {entry["by"] for entry in whole["entries"]}) == ("closed", {"the admin"})
    account = await done(api, "GET", "/v1/accounts/globex")
    assert (account["standing"], account["agreements"][0]["agreed_by"]) == ("active", "Ann Lee")
    for route in ("close", "dismiss"):
        assert bare(await refused(api, "POST", f"{path}/{route}", {}), "is closed") == 409
    assert (await refused(api, "PUT", f"{path}/deadline", {"deadline_ms": 1}))[0] == 409
    assert (await refused(api, "POST", "/v1/cases/99/dismiss", {}))[0] == 404
    assert (await done(api, "POST", "/v1/cases/1/dismiss", {"note": "ours"}))["state"] == "dismissed"
    states = [each["state"] for each in (await done(api, "GET", "/v1/cases"))["items"]]
    assert states == ["closed", "dismissed"]
    assert (await done(api, "GET", "/v1/cases?state=open"))["items"] == []
    for bad in ({"account": "nosuch", "note": "x"}, {"account": "acme", "note": " "}, {"account": "acme"}):
        assert (await refused(api, "POST", "/v1/cases", bad))[0] in (404, 422)


async def test_cases_are_read_in_pages(api: Api) -> None:
    for n in range(4):
        await done(api, "POST", "/v1/accounts", {**ACCOUNT, "account": f"a{n}"})
        await done(api, "POST", "/v1/cases", {"account": f"a{n}", "note": "x"})
    first = await done(api, "GET", "/v1/cases?limit=3")
    second = await done(api, "GET", f"/v1/cases?limit=3&after={first['next']}")
    assert [each["account"] for each in first["items"] + second["items"]] == ["a3", "a2", "a1", "a0", "acme"]
    assert second["next"] is None


async def test_complaints_are_counted(api: Api) -> None:
    path = "/v1/accounts/acme/complaints"
    assert (await done(api, "POST", path, {"note": "Mr Low"}))["complaints"] == 1
    key = {"Idempotency-Key": "letter-7"}
    counts = [(await done(api, "POST", path, {"note": "Ms Lee"}, headers=key))["complaints"] for _ in "ab"]
    assert counts == [2, 2]
    assert (await refused(api, "POST", path, {"note": ""}))[0] == 422
    assert (await refused(api, "POST", "/v1/accounts/nosuch/complaints", {"note": "x"}))[0] == 404


async def test_an_address_is_turned_away_until_it_is_let_in(api: Api) -> None:
    path = "/v1/blocks/2001:db8::1"
    for _ in range(2):
        told = await done(api, "PUT", path, {"seconds": 120, "why": "guesses"})
        assert (told["source"], told["until_ms"] - told["since_ms"]) == ("2001:db8::1", 120_000)
    assert {each["source"] for each in await done(api, "GET", "/v1/blocks")} == {"2001:db8::1", "192.0.2.1"}
    await done(api, "DELETE", path)
    assert (await refused(api, "DELETE", path))[0] == 404
    assert bare(await refused(api, "PUT", "/v1/blocks/here", {}), "no IP address") == 422
    assert (await refused(api, "PUT", path, {"seconds": 1}))[0] == 422
    assert [each["source"] for each in await done(api, "GET", "/v1/blocks")] == ["192.0.2.1"]


# --- tokens, and who did it --------------------------------------------------------------------------


async def test_a_token_lets_in_from_its_making_to_its_removal(api: Api) -> None:
    status, made, headers = await api.ask("POST", "/v1/tokens", {"name": "shop", "role": "operator"})
    assert (status, headers["Cache-Control"]) == (201, "no-store")
    held = {"token": made["token"]}
    assert (await api.ask("GET", "/v1/calls", **held))[0] == 200
    assert (await refused(api, "GET", "/v1/tokens", **held))[0] == 403
    listed = await done(api, "GET", "/v1/tokens")
    assert "shop" in [each["name"] for each in listed]
    assert not any("token" in each for each in listed)
    assert bare(await refused(api, "POST", "/v1/tokens", {"name": "shop"}), "exists") == 409
    await done(api, "DELETE", "/v1/tokens/shop")
    assert (await refused(api, "GET", "/v1/calls", **held))[0] == 401
    assert (await refused(api, "DELETE", "/v1/tokens/shop"))[0] == 404


async def test_with_a_key_a_token_is_made_once_though_its_answer_was_lost(api: Api) -> None:
    key = {"Idempotency-Key": "shop-1"}
    made = [await done(api, "POST", "/v1/tokens", {"name": "shop"}, headers=key) for _ in "ab"]
    assert made[0] == made[1]
    other = {"name": "shop", "role": "admin"}
    assert (await refused(api, "POST", "/v1/tokens", other, headers=key))[0] == 422


async def test_the_log_says_who_changed_what_and_no_secret(api: Api) -> None:
    with capture_logs() as entries:
        made = await done(api, "POST", "/v1/tokens", {"name": "shop", "role": "operator"})
        given = {"account": "acme", "line": "alice"}
        await done(api, "PUT", "/v1/numbers/+442079460001", given)
        await done(api, "POST", "/v1/accounts/acme/complaints", {"note": "Mr Low"}, token=made["token"])
        await done(api, "GET", "/v1/accounts")
        await refused(api, "DELETE", "/v1/numbers/+442079460002")
    changes = [
        {key: value for key, value in each.items() if key not in ("event", "log_level")}
        for each in entries
        if each["event"] == "changed"
    ]
    assert changes == [
        {"by": "the admin", "operation": "token_add", "of": "shop", "role": "operator"},
        {"by": "the admin", "operation": "number_add", "number": "+442079460001", **given},
        {"by": "shop", "operation": "complaint_add", "account": "acme"},
    ]
    assert "79460001" not in str(mask_numbers(None, "info", dict(changes[1])))
    assert made["token"] not in str(entries)
