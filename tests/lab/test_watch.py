"""The watch on a booted host: it tells, it repairs what it may, and it keeps its hands off else.

The GPU is taken away as in the tests of trouble: the card is gone from the driver and its node from
/dev, and the engine's own wait for GPUs is put aside, so that it starts on the CPU.
"""

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.lab.conftest import BIN, ROOT, Lab, Run, seen

pytestmark = pytest.mark.lab

HOST = "t4"
FOUND_S = 90  # of the GPU's coming back
MOST_EXPOSED = 3.0
COLLECTOR = "/var/lib/prometheus/node-exporter"
HOOK = "/usr/local/bin/r1test-hook"
WAIT = "/usr/local/lib/r1fleet/wait-for-gpus"
ON_THE_CPU = f"""
mv /dev/nvidia0 /dev/r1test-nvidia0
mount --bind /bin/true {WAIT}
systemctl restart ollama && systemctl start r1fleet-preload
umount {WAIT}
"""
GIVE_BACK = "[ ! -e /dev/r1test-nvidia0 ] || mv /dev/r1test-nvidia0 /dev/nvidia0"
LOOK = "systemctl start r1fleet-watch.service"
FORGET = "rm -f /var/lib/r1fleet/watch/state"
# The first half of a question; its end comes with the file, or after a minute.
HALF = r"""
rm -f /run/r1test-over
nohup sh -c '{ printf "{\"model\":"
  for i in $(seq 300); do [ ! -e /run/r1test-over ] || break; sleep 0.2; done
} | curl -s -T - -X POST 127.0.0.1:11434/api/chat' >/run/r1test-log 2>&1 </dev/null &
"""
ASKED = "ss -HOtni state established sport = :11434"


def said(lab: Lab, since: str = "-1h") -> list[str]:
    """All that the journal has of the watch and of systemd about it."""
    script = (
        "journalctl --sync; journalctl -q --no-pager -o cat -u r1fleet-watch.service"
        f" --since '{since}'"
    )
    return lab.on(HOST, script).splitlines()


def in_vram(lab: Lab) -> bool:
    (loaded,) = lab.api(HOST, "/api/ps")["models"]
    return bool(loaded["size_vram"] == loaded["size"])


def wait_for(lab: Lab, text: str, limit_s: float) -> float:
    """Seconds until the newest line of the watch has this text."""
    begin = time.monotonic()
    while time.monotonic() - begin < limit_s:
        if text in "".join(said(lab)[-1:]):
            return time.monotonic() - begin
        time.sleep(1)
    raise AssertionError(f"not told within {limit_s} s: {text}; said was {said(lab)[-3:]}")


@contextmanager
def by_hand(lab: Lab) -> Iterator[None]:
    """The timer looks not; afterwards the host is as it was."""
    # Both: a look that is in progress would go on, and one by hand would join it.
    lab.on(HOST, "systemctl stop r1fleet-watch.timer r1fleet-watch.service")
    try:
        yield
    finally:
        lab.on(HOST, f"{GIVE_BACK}; rm -f /var/lib/r1fleet/maintenance; {FORGET}")
        if not in_vram(lab):
            lab.on(HOST, "systemctl restart ollama; systemctl start r1fleet-preload")
        lab.on(HOST, "systemctl start r1fleet-watch.timer")


@pytest.fixture(scope="module", autouse=True)
def watched(lab: Lab, served: Run) -> Iterator[None]:
    """A collector's folder and a hook are there; the host is as it was afterwards."""
    hook = """#!/bin/sh\\necho "$1 by $(id -u): $2 [$R1FLEET_FAULTS] [$R1FLEET_MODEL]"\\n"""
    lab.on(HOST, f"install -d {COLLECTOR}; printf '{hook}' >{HOOK}; chmod 755 {HOOK}; {FORGET}")
    run = lab.deploy("--limit", HOST, "--data", f"watch_hook={HOOK}")
    assert run.code == 0, run.output
    yield
    run = lab.deploy("--limit", HOST)
    assert run.code == 0, run.output
    lab.on(HOST, f"rm -rf {HOOK} /var/lib/prometheus; {FORGET}")
    assert lab.deploy("--limit", HOST).verdicts() == {HOST: "as wanted"}


def test_a_gpu_that_was_away_is_found_mended_and_told_within_90_s(
    lab: Lab, fault: Callable[[str, str], None]
) -> None:
    wait_for(lab, "well: ", 60)
    begun = lab.on(HOST, "date '+%F %T'").strip()
    fault(HOST, "gpu-lost")
    try:
        lab.on(HOST, ON_THE_CPU)
        assert not in_vram(lab)
        waited_s = wait_for(lab, "GPUs are listed; deepseek-r1:14b is on the CPU", 60)
        assert not in_vram(lab)  # nothing is tried without the GPU
    finally:
        lab.on(HOST, GIVE_BACK)
    lab.fault(HOST, "gpu-lost", "off")
    mended_s = wait_for(lab, "well: mended in ", FOUND_S)
    assert in_vram(lab)
    print(f"\ntold {waited_s:.0f} s after its loss, mended {mended_s:.0f} s after its coming back")
    lab.on(
        HOST,
        f"timeout 60 sh -c 'until grep -q result=.mended.*1$ {COLLECTOR}/*.prom; do sleep 1; done'",
    )
    hook = f"journalctl -q --no-pager -o cat -t r1fleet-watch-hook --since '{begun}'"
    # The watch tells of it first, and calls the hook then.
    told = seen(
        lambda: lab.on(HOST, f"journalctl --sync; {hook}").splitlines(),
        lambda lines: lines and lines[-1].startswith("well "),
    )
    # A look between the loss of the card and the engine's start has told of the card alone.
    assert [line.split()[0] for line in told[-2:]] == ["failing", "well"]
    assert "[gpus cpu] [deepseek-r1:14b]" in told[-2]
    assert " by 0:" not in "".join(told)


def test_no_look_leaves_a_line_by_itself(lab: Lab) -> None:
    with by_hand(lab):
        lab.on(HOST, f"{LOOK}; sleep 1")
        begun = lab.on(HOST, "date '+%F %T'").strip()
        lab.on(HOST, f"{LOOK}; {LOOK}; {FORGET}; {LOOK}; {LOOK}")
        assert said(lab, begun) == ["well: deepseek-r1:14b is served as planned"]


def test_it_keeps_its_hands_off_under_a_request_and_in_maintenance(lab: Lab) -> None:
    with by_hand(lab):
        lab.on(HOST, f"{FORGET}; {ON_THE_CPU} {GIVE_BACK}")
        lab.on(HOST, "touch /var/lib/r1fleet/maintenance")
        lab.on(HOST, LOOK)
        assert not in_vram(lab)
        lab.on(HOST, "rm /var/lib/r1fleet/maintenance")
        # Half of a question: what its client waits for, the engine cannot begin.
        lab.on(HOST, HALF)
        assert seen(lambda: "bytes_received" in lab.on(HOST, ASKED))
        lab.on(HOST, LOOK)
        assert not in_vram(lab)
        lab.on(HOST, "touch /run/r1test-over")
        # It had its answer: an error, and no cut.
        assert seen(lambda: lab.on(HOST, "cat /run/r1test-log"))
        assert seen(lambda: lab.on(HOST, ASKED) == "")
        lab.on(HOST, LOOK)
        assert in_vram(lab)
        lab.on(HOST, "rm /run/r1test-over")


def test_the_metrics_are_the_collectors_to_read(lab: Lab) -> None:
    with by_hand(lab):  # what is being written has another name
        lab.on(HOST, LOOK)
        assert lab.on(HOST, f"cd {COLLECTOR} && stat -c '%a %U %n' *") == "644 root r1fleet.prom\n"
        text = lab.on(HOST, f"cat {COLLECTOR}/r1fleet.prom")
    assert "\nr1fleet_engine_up 1\n" in text
    assert re.search(r'\nr1fleet_model_vram_bytes\{model="deepseek-r1:14b"\} [1-9]\d{9,}\n', text)


def test_status_and_doctor_tell_what_it_found(lab: Lab) -> None:
    with by_hand(lab):
        lab.on(
            HOST,
            f"sed -i s/^disk_min_mib=.*/disk_min_mib=999999999/ /etc/r1fleet/watch.conf; {LOOK}",
        )
        try:
            told = look(lab, "doctor")
            assert "MiB are free for /var/lib/ollama/models" in told
            assert f"{HOST}: watch: failing for" in look(lab, "status", "--limit")
        finally:
            lab.deploy("--limit", HOST, "--data", f"watch_hook={HOOK}")


def look(lab: Lab, command: str, *words: str) -> str:
    line = [BIN / "r1fleet", command, "inventories/lab.py", *words, HOST]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False).stdout


def test_its_unit_is_little_exposed(lab: Lab) -> None:
    told = lab.on(HOST, "systemd-analyze security --no-pager r1fleet-watch.service")
    (score,) = re.findall(r"Overall exposure level for r1fleet-watch.service: ([\d.]+)", told)
    print(f"\nexposure {score}, at most {MOST_EXPOSED}")
    assert float(score) <= MOST_EXPOSED


def test_one_setting_takes_it_away_and_a_run_without_it_brings_it_back(lab: Lab) -> None:
    run = lab.deploy("--limit", HOST, "--data", "watch=false")
    assert run.code == 0, run.output
    left = lab.on(
        HOST,
        "ls /etc/systemd/system /etc/r1fleet /usr/local/lib/r1fleet"
        f" /var/lib/r1fleet {COLLECTOR}; systemctl list-units --all 'r1fleet-watch*'",
    )
    assert "watch" not in left
    assert "r1fleet.prom" not in left
    assert lab.deploy("--limit", HOST, "--data", "watch=false").verdicts() == {HOST: "as wanted"}
    run = lab.deploy("--limit", HOST, "--data", f"watch_hook={HOOK}")
    assert run.row(HOST)["changes"][-1] == "watch started"
