"""One of eight equal hosts that is slower: status names it, and what differs about it."""

import json
from collections.abc import Callable

import pytest

from tests.lab.conftest import Lab, Run
from tests.lab.test_status import hosts

pytestmark = pytest.mark.lab

SLOW = "n5"
STATE = "/var/lib/r1fleet/state.json"


def put(lab: Lab, host: str, text: str) -> None:
    lab.on(host, f"cat >{STATE} <<'END'\n{text}\nEND")


def test_the_slower_sister_is_named_with_what_differs(
    lab: Lab, served: Run, fault: Callable[[str, str], None]
) -> None:
    before = {host: lab.on(host, f"cat {STATE}") for host in lab.hosts}
    try:
        for host in lab.hosts:
            # Tokens per second say nothing in the lab, so those of the proofs are set.
            state = json.loads(before[host])
            state["verified"]["tokens_per_s"] = 20.0 if host == SLOW else 40.0
            put(lab, host, json.dumps(state))
        fault(SLOW, "slow-slot")
        rows = hosts(code=0)
        said = {host: row["slower"] for host, row in rows.items() if row["slower"]}
        assert list(said) == [SLOW]
        assert said[SLOW].startswith("20.0 tokens/s, 50% of ")
        assert said[SLOW].endswith(": PCIe x4, not x16; power limit 150 W, not 250 W")
        # It is as wanted all the same: a run could not make it faster.
        assert rows[SLOW]["verdict"] == "as wanted"
    finally:
        for host, text in before.items():
            put(lab, host, text.rstrip())
