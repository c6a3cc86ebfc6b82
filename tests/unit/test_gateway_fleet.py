"""The files of a fleet gateway, from the hosts behind it."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from r1fleet.gateway import fleet, pool
from r1fleet.gateway.pool import Stand, pool_id
from r1fleet.gateway.tokens import Store, Token
from r1fleet.settings import Settings, SettingsError, read

STORE = Store((Token("ann", "use", f"r1f_{'a' * 43}"),), "k" * 43)
OLD, NEW = pool_id("a" * 64, 16384), pool_id("b" * 64, 16384)
DER = "MIIBpDCCAUqgAwIBAgIRAOLhE0bws4Ld\nRfVmOzZGoOIwCgYIKoZIzj0E=="
PEM = f"-----BEGIN CERTIFICATE-----\n{DER}\n-----END CERTIFICATE-----\n"


def stand(number: int, *classes: str, **changes: Any) -> Stand:
    address = f"10.0.0.{number}:11443"
    found = Stand(f"n{number}", address, classes or ("14b",), OLD, OLD, "internal", PEM)
    return replace(found, **changes)


def text(*stands: Stand, **settings: Any) -> str:
    own = Settings(**settings)
    routes = pool.routes(stands, mixed=own.pool_mixed)
    return fleet.caddyfile(own, "10.0.0.9", stands, routes)


def ways(config: str) -> dict[str, tuple[str, str]]:
    """Of each way to hosts its upstreams and its slot, by the name of its snippet."""
    rows = re.findall(r"\(to_(\S+)\) \{\s+reverse_proxy \{\s+to (.*)\s+import alike (\S+)", config)
    return {name: (hosts, slot) for name, hosts, slot in rows}


def slots(*stands: Stand, mixed: bool = False) -> dict[str, str]:
    return fleet.slots(pool.routes(stands, mixed=mixed))


def test_a_class_is_balanced_over_its_hosts() -> None:
    stands = (stand(1), stand(2), stand(3, "32b", now=NEW, soon=NEW))
    config, two = text(*stands), "https://10.0.0.1:11443 https://10.0.0.2:11443"
    assert ways(config) == {
        "14b_1": (two, "14b-1"),
        "14b_2": (two, "14b-2"),
        "32b_1": ("https://10.0.0.3:11443", "32b-1"),
        "32b_2": ("https://10.0.0.3:11443", "32b-2"),
    }
    assert slots(*stands) == {"14b-1": OLD, "14b-2": OLD, "32b-1": NEW, "32b-2": NEW}
    assert "lb_policy least_conn" in config
    assert config.count("R1fleet-Pool {file./etc/r1fleet/gateway/slots/{args[0]}}") == 2
    assert "https://10.0.0.9:11443, https://:11443 {" in config
    after = config[config.index("handle_errors") :]
    assert "import to_14b_2" in after
    assert "import to_14b_1" not in after


def test_a_rollout_changes_the_slots_and_never_the_file() -> None:
    """A reload may drop a connection that is being opened in that moment."""
    before = (stand(1, soon=NEW), stand(2, soon=NEW), stand(3, now=NEW, soon=NEW))
    after = (stand(1, soon=NEW), *(stand(number, now=NEW, soon=NEW) for number in (2, 3)))
    assert slots(*before) == {"14b-1": OLD, "14b-2": NEW}
    assert slots(*after) == {"14b-1": NEW, "14b-2": OLD}
    settled = tuple(stand(number) for number in (1, 2, 3))
    assert text(*before) == text(*after) == text(*settled)


def test_the_prefix_is_the_class_and_the_default_is_that_of_most_hosts() -> None:
    config = text(stand(1), stand(2), stand(3, "1.5b"))
    assert "r1_class 14b\n" in config
    assert "r1_class 1.5b\n" in text(stand(1), stand(2), stand(3, "1.5b"), pool_default="1.5b")
    # A class that is nowhere is none.
    assert "r1_class 14b\n" in text(stand(1), pool_default="70b")
    found = re.search(r"@class vars_regexp class r1_asked `(.*)`", config)
    assert found
    prefix = re.compile(found[1])
    assert prefix.match("POST /1.5b/api/chat")
    for asked in ("POST /1x5b/api/chat", "POST /14bx/api/chat", "POST /70b/api/chat", "GET /14b"):
        assert not prefix.match(asked), asked


def test_host_names_in_place_of_prefixes_are_in_the_certificate() -> None:
    names = {"14b": "r1-14b.example.org", "32b": "r1-32b.example.org"}
    config = text(stand(1), pool_names=names)
    assert "https://10.0.0.9:11443, https://r1-14b.example.org:11443, https://:11443 {" in config
    assert "@name1 host r1-14b.example.org" in config
    assert "r1-32b" not in config  # no host has that


def test_a_mixed_pool_asks_for_whatever_a_host_serves() -> None:
    stands = (stand(1), stand(2, now=NEW, soon=NEW))
    assert slots(*stands, mixed=True) == {"14b-1": pool.ANY, "14b-2": pool.ANY}


def test_hosts_are_believed_by_their_own_certificates() -> None:
    config = text(stand(1), stand(2, root=PEM.replace("MII", "XII")))
    roots = re.findall(r"trust_der (\S+)", config)
    assert roots == [DER.replace("\n", ""), DER.replace("\n", "").replace("MII", "XII")]
    by_authority = text(stand(1, tls="acme", root=""))
    assert "trust_pool" not in by_authority
    assert "to https://10.0.0.1:11443" in by_authority
    assert "to http://10.0.0.1:11443" in text(stand(1, tls="off", root=""))


def test_secrets_are_in_the_file_of_tokens_alone() -> None:
    stands = [stand(1), stand(2)]
    want = fleet.gateway(
        Settings(), STORE, "10.0.0.9", "x86_64", stands, pool.routes(stands, mixed=False)
    )
    config, tokens = want.files
    assert (tokens.mode, tokens.owner) == ("640", "root:r1fleet-gateway")
    own = [STORE.for_host(name).secret for name in ("n1", "n2")]
    assert f"\n10.0.0.1:11443 {own[0]}\n10.0.0.2:11443 {own[1]}\n" in tokens.content
    assert f'Authorization "Bearer {STORE.health.secret}"' in tokens.content
    assert f"{STORE.tokens[0].secret} ann use\n" in tokens.content
    assert not re.search(r"r1f_[A-Za-z0-9_-]{20}", config.content + want.unit.content)


def test_what_it_knows_can_be_read_again() -> None:
    stands = (stand(1, "14b", "32b"), stand(2, now=None))
    line = fleet.knows(stands, pool.routes(stands, mixed=False))
    assert "\n" not in line
    assert fleet.read_known(line) == stands
    for damaged in ("", "{}", "[1]", '{"hosts": [{"name": "n1"}]}', "[", json.dumps(None)):
        assert fleet.read_known(damaged) == ()


def test_settings_that_cannot_be_meant_are_refused() -> None:
    for key, value, what in (
        ("pool_default", "large", "is not a size"),
        ("pool_names", {"32b": "Not A Name"}, "no host name for 32b"),
        ("pool_names", {"32b": "a.example", "14b": "a.example"}, "a name twice"),
        ("pool_names", {"big": "a.example"}, "is not a size"),
    ):
        with pytest.raises(SettingsError, match=what):
            read("gw", {key: value})


def test_a_size_that_no_host_has_is_warned_of() -> None:
    routes = pool.routes((stand(1), stand(2)), mixed=False)
    own = Settings(pool_default="32b", pool_names={"70b": "r1-70b.example.org"})
    assert fleet.unserved(own, routes) == [
        "pool_default: no host has 32b, so 14b answers without a prefix",
        "pool_names: no host has 70b, so r1-70b.example.org is not served",
    ]
    assert fleet.unserved(Settings(pool_default="14b"), routes) == []
