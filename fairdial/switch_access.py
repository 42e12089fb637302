"""Who can reach the switch over HTTP and AMI, and what our two users may do there: http.conf, ari.conf, manager.conf.

Which rights suffice was measured on Asterisk 22.10.1, and tests/switch/test_doctor.py holds it.
"""

import ipaddress
from collections.abc import Iterator
from typing import Final

from fairdial.asterisk_conf import Conf, Section, Setting
from fairdial.doctor import FileFinding
from fairdial.switch_files import Needs, SwitchFiles, failure, is_yes, warning

AMI_WRITE: Final = frozenset({"call", "reporting"})
"""Setvar, by which a lease is renewed in mid-call, needs call; ShowDialPlan, which the doctor asks, reporting."""
AMI_READ: Final = frozenset({"cdr", "security"})
"""Records of calls, and logins."""
"""Cdr events. No other event is wanted."""
AMI_SHELL: Final = frozenset({"all", "command", "config", "originate", "system"})
"""Classes with which a user can run programs on the switch, or calls past FairDial."""
SESSIONS_MIN: Final = 20
"""One is held for events, one is taken by a listing, one by the doctor; the others are for a socket that died and is
not yet noticed, and for whoever else uses HTTP."""
WRITE_TIMEOUT_MS: Final = range(100, 1_001)


def _loopback(address: str) -> bool:
    host = address.rsplit(":", 1)[0] if address.count(":") == 1 or "]:" in address else address
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.casefold() == "localhost"


def http(files: SwitchFiles, _needs: Needs) -> Iterator[FileFinding]:
    conf = files.conf("http.conf")
    if conf is None or not is_yes(conf.last("general", "enabled")):
        return
    bound = conf.last("general", "bindaddr")
    # Without an address Asterisk does not listen in clear at all.
    if bound is not None and not _loopback(bound.value):
        yield warning(
            "http.conf",
            bound.place,
            f"ARI is open in clear on {bound.value}: its password and its events can be read on the way",
            "set bindaddr=127.0.0.1; for a FairDial on another machine set tlsenable=yes and tlsbindaddr besides,"
            " and in fairdial.toml an https address as ari.url",
        )
    limit = conf.last("general", "sessionlimit")
    if limit is not None and limit.value.isdecimal() and int(limit.value) < SESSIONS_MIN:
        yield warning(
            "http.conf",
            limit.place,
            f"sessionlimit={limit.value}: the switch hangs up on whoever connects past it, without an answer, and"
            " FairDial's event socket counts for as long as it is open",
            "leave it out (100), or set more than all clients hold at once",
        )


def ari(files: SwitchFiles, needs: Needs) -> Iterator[FileFinding]:
    conf = files.conf("ari.conf")
    if conf is None:
        return
    patience = conf.last("general", "websocket_write_timeout")
    if patience is not None and patience.value.isdecimal() and int(patience.value) not in WRITE_TIMEOUT_MS:
        yield warning(
            "ari.conf",
            patience.place,
            f"websocket_write_timeout={patience.value} ms: short, a busy moment costs the event socket; long, a slow"
            " reader holds up the switch",
            f"leave it out (100), or set {WRITE_TIMEOUT_MS.start} to {WRITE_TIMEOUT_MS.stop - 1}",
        )
    origins = conf.last("general", "allowed_origins")
    if origins is not None and "*" in origins.value:
        yield warning(
            "ari.conf",
            origins.place,
            "allowed_origins=*: a page of any site may use ARI from the browser of somebody who is logged in to it",
            "leave allowed_origins out: FairDial is no web page",
        )
    for user in conf.named(needs.ari_user):
        read_only = user.last("read_only")
        if read_only is not None and is_yes(read_only):
            yield failure(
                "ari.conf",
                read_only.place,
                f"[{user.name}] may only look: no call can be let through or ended",
                "set read_only=no",
            )
    yield from _subscriptions(conf, needs)


def _subscriptions(conf: Conf, needs: Needs) -> Iterator[FileFinding]:
    """Connections that Asterisk makes itself (20.15, 21.10, 22.5)."""
    for outbound in conf.of_type("outbound_websocket"):
        everything = outbound.last("subscribe_all")
        apps = {app.strip() for app in outbound.value("apps").split(",")}
        if everything is not None and is_yes(everything) and needs.app in apps:
            yield warning(
                "ari.conf",
                everything.place,
                f"[{outbound.name}] has every event of the switch sent to {needs.app}: a reader that is slow then"
                " wedges ARI (asterisk#2170)",
                "set subscribe_all=no: FairDial subscribes to the calls that it follows",
            )


def _classes(setting: Setting | None) -> frozenset[str]:
    return frozenset(filter(None, (part.strip().casefold() for part in _value(setting).split(","))))


def _value(setting: Setting | None) -> str:
    return "" if setting is None else setting.value


def ami(files: SwitchFiles, needs: Needs) -> Iterator[FileFinding]:
    conf = files.conf("manager.conf")
    if conf is None or not is_yes(enabled := conf.last("general", "enabled")):
        return
    assert enabled is not None
    bound = conf.last("general", "bindaddr")
    if bound is None or not _loopback(bound.value):
        address = "all addresses" if bound is None else bound.value
        yield warning(
            "manager.conf",
            (bound or enabled).place,
            f"AMI is open in clear on {address}: secrets can be read on the way, and tried from anywhere",
            "set bindaddr=127.0.0.1; for a FairDial on another machine set tlsenable=yes and tlsbindaddr besides,"
            " and ami.tls = true in fairdial.toml",
        )
    over_http = conf.last("general", "webenabled")
    if over_http is not None and is_yes(over_http):
        yield warning(
            "manager.conf",
            over_http.place,
            "webenabled: AMI can be used over HTTP too",
            "set webenabled=no unless another program needs it",
        )
    for user in conf.named(needs.ami_user):
        yield from _ami_user(user, needs)


def _ami_user(user: Section, needs: Needs) -> Iterator[FileFinding]:
    write, read = user.last("write"), user.last("read")
    writes = _classes(write)
    if not writes & {"call", "all"}:
        yield failure(
            "manager.conf",
            (write or user).place,
            f"[{user.name}] lacks write=call: a lease cannot be renewed in mid-call",
            "set write=call,reporting",
        )
    elif not writes & {"reporting", "config", "all"}:
        yield warning(
            "manager.conf",
            (write or user).place,
            f"[{user.name}] lacks write=reporting: the doctor cannot see whether the dialplan is loaded",
            "set write=call,reporting",
        )
    if needs.logins and not _classes(read) & {"security", "all"}:
        yield warning(
            "manager.conf",
            (read or user).place,
            f"[{user.name}] lacks read=security: logins are not watched (A5, A6)",
            "set read=cdr,security, or logins.watch = false in fairdial.toml",
        )
    for key, setting, least in (("write", write, AMI_WRITE), ("read", read, AMI_READ)):
        more = _classes(setting) - least
        if setting is not None and more:
            grave = key == "write" and more & AMI_SHELL
            can = "; with these the secret is as good as a shell, or calls past FairDial" if grave else ""
            yield warning(
                "manager.conf",
                setting.place,
                f"[{user.name}] has {key} classes that FairDial never uses: {', '.join(sorted(more))}{can}",
                f"set {key}={','.join(sorted(least))}",
            )
    if not user.all("acl") and not (user.all("permit") and user.all("deny")):
        yield warning(
            "manager.conf",
            user.place,
            f"[{user.name}] may log in from any address",
            "set deny=0.0.0.0/0.0.0.0 and permit=127.0.0.1/255.255.255.255, or FairDial's own address",
        )
