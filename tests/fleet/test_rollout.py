"""A new tag on eight hosts of one kind: one canary, then waves, and clients all the while."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest

from tests.fleet.clients import Clients
from tests.lab.conftest import Lab, Run
from tests.lab.test_alias import ALIAS, OTHER_TAG
from tests.lab.test_main_job import UNTOUCHED
from tests.lab.test_status import hosts as all_status
from tests.lab.test_waves import STANDS, waves
from tests.lab.variants import published

pytestmark = pytest.mark.lab

CANARY, *OTHERS = [f"n{number}" for number in range(1, 9)]
OLD, NEW = "deepseek-r1:14b", f"deepseek-r1:{OTHER_TAG}"
THREES = ("--data", "rollout_batch=3")
IN_THREES = [[CANARY], OTHERS[:3], OTHERS[3:6], OTHERS[6:]]


@dataclass(frozen=True)
class Rollout:
    """A new tag with a right answer, READYX in place of READY: the run, and its clients."""

    run: Run
    clients: Clients


def verdicts(run: Run) -> dict[str, str]:
    """Of the hosts that serve."""
    return {host: verdict for host, verdict in run.verdicts().items() if host != "gateway"}


def status(*flags: str, code: int) -> dict[str, dict[str, Any]]:
    return {host: row for host, row in all_status(*flags, code=code).items() if host != "gateway"}


def digests(lab: Lab, host: str) -> dict[str, str]:
    return {row["name"]: row["digest"] for row in lab.api(host, "/api/tags")["models"]}


def history(lab: Lab, host: str) -> list[dict[str, Any]]:
    lines = lab.on(host, "cat /var/lib/r1fleet/history.jsonl").splitlines()
    return [json.loads(line) for line in lines]


def in_order(lab: Lab, groups: list[list[str]]) -> bool:
    """Whether each group's last change is over before the next one's first, by the hosts' own
    histories; the lab's hosts share one clock."""
    times = [[str(history(lab, host)[-1]["at"]) for host in group] for group in groups]
    return all(max(first) < min(then) for first, then in pairwise(times))


@pytest.fixture(scope="module")
def rollout(lab: Lab, served: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rollout]:
    folder = tmp_path_factory.mktemp("good")
    with published(lab, folder, OTHER_TAG, answer="READYX") as flags:
        with Clients(lab, ALIAS, "a good tag") as clients:
            run = lab.deploy(*THREES, "--data", f"tag={OTHER_TAG}", *flags)
            clients.wait_for(2)  # one may have been asked before the end
        yield Rollout(run, clients)
    back = lab.deploy()
    assert back.code == 0, back.output


def test_a_tag_with_a_wrong_answer_reaches_the_canary_alone(
    lab: Lab, served: Run, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = {host: lab.on(host, STANDS) for host in lab.hosts}
    alias = digests(lab, CANARY)[ALIAS]
    for host in OTHERS:
        lab.on(host, "touch /run/r1test-mark; sleep 0.1")
    folder = tmp_path_factory.mktemp("wrong")
    with published(lab, folder, OTHER_TAG, answer="WRONG") as flags:
        tag = ("--data", f"tag={OTHER_TAG}", *flags)
        with Clients(lab, ALIAS, "a wrong tag") as clients:
            run = lab.deploy(*tag)
        pending = status(*tag, code=4)
    assert run.code == 1
    assert "Traceback" not in run.output
    assert verdicts(run) == dict.fromkeys(OTHERS, "untouched") | {CANARY: "rolled back"}
    assert (waves(run)[0], len(waves(run))) == ([CANARY], 5)
    assert "'WRONG'" in run.row(CANARY)["reason"]
    assert f"{CANARY} failed" in run.report["rollout"]["stopped"]

    assert digests(lab, CANARY)[ALIAS] == alias
    assert not clients.failed, clients.told
    assert {word for host in lab.hosts for word in clients.words(host)} == {"READY"}
    for host in OTHERS:
        assert lab.on(host, UNTOUCHED) == ""
        assert lab.on(host, STANDS) == before[host]
    last = history(lab, CANARY)[-1]
    assert (last["verdict"], last["to"]["model"]) == ("rolled back", last["from"]["model"])
    assert NEW in last["reason"]

    # Between the stop and what the operator does next: all serve the old one, all lack the new.
    for host, row in pending.items():
        assert (row["verdict"], row["tag"], row["lease"]) == ("drift", "14b", None), host
    assert {row["alias"][ALIAS] for row in status(code=0).values()} == {f"sha256:{alias}"}
    body = json.dumps({"model": NEW})
    lab.on(CANARY, f"curl -sS -X DELETE -d '{body}' 127.0.0.1:11434/api/delete")
    assert set(lab.deploy().verdicts().values()) == {"as wanted"}


def test_a_good_tag_reaches_all_without_one_failed_request(lab: Lab, rollout: Rollout) -> None:
    run, clients = rollout.run, rollout.clients
    assert run.code == 0, run.output
    assert set(verdicts(run).values()) == {"changed"}
    assert waves(run) == IN_THREES
    assert in_order(lab, IN_THREES)
    assert not clients.failed, clients.told
    for host in lab.hosts:
        words = [word for word in clients.words(host) if word]
        assert words == sorted(words)  # READY, and READYX from one moment on
        assert set(words) == {"READY", "READYX"}
        assert digests(lab, host)[ALIAS] == digests(lab, host)[NEW]
        last = history(lab, host)[-1]
        assert last["verdict"] == "changed"
        assert (last["from"]["model"], last["to"]["model"]) == (OLD, NEW)


def test_a_rollout_whose_machine_died_goes_on_behind_the_canary(lab: Lab, rollout: Rollout) -> None:
    """The way back to the old tag; SIGKILL while the first batch loads it."""
    lines = {host: len(history(lab, host)) for host in lab.hosts}
    with Clients(lab, ALIAS, "killed and run again") as clients:
        process = lab.start_deploy("-y", *THREES)
        assert process.stdout
        for line in process.stdout:
            if f"loads {OLD}" in line and f"[{CANARY}]" not in line:
                process.kill()
        process.wait(timeout=60)
        assert len(history(lab, CANARY)) == lines[CANARY] + 1
        found = status(code=4)  # the dead run holds nobody
        assert found[CANARY]["verdict"] == "as wanted"
        assert {found[host]["verdict"] for host in OTHERS} == {"drift"}
        run = lab.deploy(*THREES)
    assert run.code == 0, run.output
    assert verdicts(run) == dict.fromkeys(OTHERS, "changed") | {CANARY: "as wanted"}
    assert run.row(CANARY)["wave"] == 0
    assert waves(run) == IN_THREES[1:]
    assert in_order(lab, IN_THREES)
    assert len(history(lab, CANARY)) == lines[CANARY] + 1
    # What the killed run had written may ask for a restart, which cuts what comes in that moment
    # (docs/alias.md); whoever was answered was answered by a model that is proven.
    for host in lab.hosts:
        words = [word for word in clients.words(host) if word]
        assert words == sorted(words, reverse=True)
        assert digests(lab, host)[ALIAS] == digests(lab, host)[OLD]
        assert lab.on(host, "ls /var/lib/r1fleet/lease.json", ok=False) == ""
