"""Rollouts on booted hosts: the canary first, the rest only after its proof."""

import json
import signal

import pytest

from tests.lab.conftest import Lab, Run, seen

pytestmark = pytest.mark.lab

STANDS = "systemctl show -p InvocationID,MainPID ollama; sha256sum /var/lib/r1fleet/*.json*"
LEASE = "/var/lib/r1fleet/lease.json"


def stands(lab: Lab, but: str) -> dict[str, str]:
    return {host: lab.on(host, STANDS) for host in lab.hosts if host != but}


def proven_at(lab: Lab) -> dict[str, float]:
    """When each host's proof was written down; the lab's hosts share one clock."""
    state = "stat -c %.9Y /var/lib/r1fleet/state.json"
    return {host: float(lab.on(host, state)) for host in lab.hosts}


def waves(run: Run) -> list[list[str]]:
    return [wave["hosts"] for wave in run.report["rollout"]["waves"]]


def in_journal(lab: Lab, host: str, last: str) -> str:
    """The journal's last line of a run: what `last` is, as soon as systemd-cat's has come."""
    script = "journalctl --sync; journalctl -q -t r1fleet -o cat -n 1"
    return seen(lambda: lab.on(host, script).strip(), lambda line: line == last)


def test_a_wrong_change_stops_at_the_canary(lab: Lab, served: Run) -> None:
    before = stands(lab, "t4")
    wrong = ("--data", "smoke_expect=NEVER", "--data", "rollout_canary=t4")
    plan = lab.deploy(*wrong, dry=True)
    assert waves(plan)[0] == ["t4"]
    assert "wave 1 (canaries): t4" in plan.output
    run = lab.deploy(*wrong)
    assert run.code == 1
    assert "Traceback" not in run.output
    assert waves(run) == waves(plan)
    assert run.verdicts() == dict.fromkeys(lab.hosts, "untouched") | {"t4": "failed"}
    assert "t4 failed" in run.report["rollout"]["stopped"]
    assert run.row("duo")["reason"] == run.report["rollout"]["stopped"]
    assert stands(lab, "t4") == before
    last = json.loads(lab.on("t4", "tail -n 1 /var/lib/r1fleet/history.jsonl"))
    assert last["verdict"] == "failed"
    assert "NEVER" in last["reason"]
    assert last["from"]["settings"] != last["to"]["settings"]
    assert lab.on("t4", f"ls {LEASE}", ok=False) == ""
    again = lab.deploy()
    assert again.code == 0, again.output
    assert set(again.verdicts().values()) == {"as wanted"}


def test_a_good_change_is_interrupted_and_goes_on_in_waves(lab: Lab, served: Run) -> None:
    good = ("--data", "smoke_expect=READ", "--data", "rollout_canary=t4")
    process = lab.start_deploy("-y", *good, "--data", "rollout_pause_s=300")
    assert process.stdout
    for line in process.stdout:
        if "[t4]" in line and "Success" in line:
            process.send_signal(signal.SIGINT)
            break
    output = process.stdout.read()
    assert process.wait(timeout=60) == 130
    assert "Traceback" not in output
    before = proven_at(lab)

    run = lab.deploy(*good, "--data", "rollout_batch=2")
    assert run.code == 0, run.output
    after = proven_at(lab)
    assert run.row("t4")["wave"] == 0  # it is as wanted since the run before
    assert after["t4"] == before["t4"]
    assert [len(hosts) for hosts in waves(run)] == [2, 2, 1]
    for first, then in zip(waves(run), waves(run)[1:], strict=False):
        assert max(after[host] for host in first) < min(after[host] for host in then)
    for host in lab.hosts:
        assert after[host] > before[host] or host == "t4"
        last = json.loads(lab.on(host, "tail -n 1 /var/lib/r1fleet/history.jsonl"))
        assert last["verdict"] == "changed"
        assert lab.on(host, f"ls {LEASE}", ok=False) == ""
        assert in_journal(lab, host, json.dumps(last)) == json.dumps(last)
    back = lab.deploy()
    assert back.code == 0, back.output
    assert [len(hosts) for hosts in waves(back)] == [len(lab.hosts)]  # each has its own GPU model


def test_a_host_in_maintenance_is_left_alone_until_its_time_is_over(lab: Lab, served: Run) -> None:
    before = lab.on("cpu", STANDS)
    until = {"until": "2999-01-01", "reason": "new PSU"}
    flags = ("--limit", "cpu", "--data", "smoke_expect=READ", "--data")
    run = lab.deploy(*flags, f"maintenance={json.dumps(until)}")
    assert run.code == 0, run.output
    assert run.verdicts() == {"cpu": "maintenance"}
    assert "new PSU" in run.row("cpu")["reason"]
    assert lab.on("cpu", STANDS) == before
    over = {"until": "2020-01-01", "reason": "new PSU"}
    run = lab.deploy("--limit", "cpu", "--data", f"maintenance={json.dumps(over)}")
    assert run.verdicts() == {"cpu": "as wanted"}
    assert "takes part again" in run.row("cpu")["warnings"][0]
