"""The unit's sandbox on booted hosts: what it is rated, what it denies, what still works in it, and
the lesser one where the GPUs are hidden from inside.

The acts (acts.pl) run as ExecStartPre of the unit itself, by a drop-in in /run: as the service's
user, and as root with all but the user of the sandbox ("!"). What is denied there was first done
outside; what cannot be done outside either, or is done inside as well, is NOT_PROVABLE on these
hosts (docs/security-unit.md) and asserted to be just that.
"""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from r1fleet import paths
from tests.lab.conftest import READY, Lab, Run, seen

pytestmark = pytest.mark.lab

HOSTS = ("t4", "h100")  # Debian 12, Debian 13
MOST_EXPOSED = 1.5
FORBIDDEN = (
    *("write-outside", "read-home", "read-root", "load-module", "raw-socket", "ptrace", "mount"),
    *("set-clock", "namespace", "setuid-file", "kernel-log", "other-device", "other-processes"),
    *("write-and-execute", "connect-elsewhere"),
)
# The first three nobody can do in a container; the other two rest on control groups, which a
# host of the lab may not set.
NOT_PROVABLE = {"load-module", "set-clock", "kernel-log", "other-device", "connect-elsewhere"}
# For root, whose processes are those of the host's root: the service is never root.
USER_ALONE = {"other-processes"}

PREPARE = """
install -d -m 1777 /opt/acts
install -d -m 755 /home/acts
echo secret >/home/acts/secret
echo secret >/root/acts-secret
mknod -m 666 /dev/acts c 1 8
"""
DROP_IN = "/run/systemd/system/ollama.service.d/zz-acts.conf"
CLEAN_UP = f"""
rm -rf /opt/acts /home/acts /root/acts-secret /dev/acts /usr/local/lib/acts.pl {DROP_IN}
systemctl daemon-reload
"""
SEEN = """journalctl --sync; journalctl -q -o cat --no-pager \
  "_SYSTEMD_INVOCATION_ID=$(systemctl show -p InvocationID --value ollama)" """
LAST_ACTS = {("ollama", FORBIDDEN[-1]), ("root", FORBIDDEN[-1])}


@pytest.fixture(scope="module", params=HOSTS)
def host(request: pytest.FixtureRequest, served: Run) -> str:
    return str(request.param)


Acts = dict[tuple[str, str], str]  # (who, act) -> "done" or "denied ..."


@pytest.fixture(scope="module")
def acts(lab: Lab, host: str) -> tuple[Acts, Acts]:
    """What was done outside and inside; the unit is its own again afterwards."""
    text = (Path(__file__).parent / "acts.pl").read_text()
    lab.on(host, f"cat >/usr/local/lib/acts.pl <<'END'\n{text}\nEND\n{PREPARE}")
    there = urlsplit(lab.state.artifact_url)
    does = {
        who: f"/usr/bin/perl /usr/local/lib/acts.pl {who} {there.hostname} {there.port}"
        for who in ("ollama", "root")
    }
    lines = f"ExecStartPre=-{does['ollama']}\\nExecStartPre=-!{does['root']}\\n"
    try:
        outside = "".join(
            lab.on(host, f"systemd-run -q --pipe --wait -p User={who} {command}")
            for who, command in does.items()
        )
        since = lab.on(
            host,
            f"install -d {Path(DROP_IN).parent}; printf '[Service]\\n{lines}' >{DROP_IN}\n"
            f"date +%s.%N; systemctl daemon-reload; systemctl restart ollama; {READY}",
        ).strip()
        # Who has ended when the journal reads its lines is not known as one of the unit.
        acts = f"{SEEN} + SYSLOG_IDENTIFIER=perl --since @{since}"
        inside = seen(lambda: read(lab.on(host, acts)), lambda found: set(found) >= LAST_ACTS)
        return read(outside), inside
    finally:
        lab.on(host, f"{CLEAN_UP}systemctl restart ollama; {READY}")


def read(text: str) -> Acts:
    found = re.findall(r"^ACT (\w+) ([\w-]+) (.+)$", text, re.MULTILINE)
    return {(who, act): how for who, act, how in found}


def test_it_is_rated_as_little_exposed(lab: Lab, host: str) -> None:
    told = lab.on(host, "systemd-analyze security --no-pager ollama.service")
    (score,) = re.findall(r"Overall exposure level for ollama.service: ([\d.]+)", told)
    release = lab.state.hosts[host].release
    print(f"\n{host} ({release}): exposure {score}, at most {MOST_EXPOSED}")
    print("\n".join(line for line in told.splitlines() if line.startswith("\u2717")))
    assert float(score) <= MOST_EXPOSED


def test_forbidden_acts_fail_inside_and_are_done_outside(
    lab: Lab, host: str, acts: tuple[Acts, Acts]
) -> None:
    outside, inside = acts
    assert set(inside) == {(who, act) for who in ("ollama", "root") for act in FORBIDDEN}
    print()
    unproven = set()
    for act in FORBIDDEN:
        by = next((w for w in ("ollama", "root") if outside[w, act] == "done"), None)
        whos = ("ollama",) if act in USER_ALONE else ("ollama", "root")
        denied = all(inside[who, act] != "done" for who in whos)
        print(
            f"{host} {act}: outside done by {by or 'nobody'};"
            f" inside ollama {inside['ollama', act]}, root {inside['root', act]}"
        )
        if by is None or not denied:
            unproven.add(act)
    assert unproven == NOT_PROVABLE


def test_what_the_lab_cannot_deny_is_in_the_unit(lab: Lab, host: str) -> None:
    names = "DevicePolicy,DeviceAllow,IPAddressDeny,IPAddressAllow,ProtectClock,ProtectProc"
    shown = lab.on(host, f"systemctl show ollama -p {names},ProtectKernelModules,ProtectKernelLogs")
    for line in (
        "DevicePolicy=closed",
        "DeviceAllow=char-nvidia* rw",
        "ProtectClock=yes",
        "ProtectProc=invisible",
        "ProtectKernelModules=yes",
        "ProtectKernelLogs=yes",
    ):
        assert line in shown.splitlines()
    assert "0.0.0.0/0" in shown
    assert "::/0" in shown
    assert "127.0.0.0/8" in shown


def test_what_it_needs_works_load_generate_pull_restart_reboot(lab: Lab, host: str) -> None:
    run = lab.deploy("--limit", host)  # loads it; the acts had the engine restarted
    assert run.code == 0, run.output
    name = lab.api(host, "/api/ps")["models"][0]["name"]
    ask = {"model": name, "prompt": "Reply with one word", "stream": False}
    assert "READY" in lab.api(host, "/api/generate", ask)["response"]
    # Pull: a blob is gone.
    tag = run.row(host)["tag"]
    store = "/var/lib/ollama/models"
    manifest = f"{store}/manifests/registry.ollama.ai/library/deepseek-r1/{tag}"
    layers = json.loads(lab.on(host, f"cat {manifest}"))["layers"]
    heavy = max(layers, key=lambda layer: layer["size"])["digest"].replace(":", "-")
    lab.on(host, f"rm {store}/blobs/{heavy}")
    run = lab.deploy("--limit", host)
    assert run.code == 0, run.output
    assert "fetches" in run.output
    lab.on(host, f"systemctl restart ollama; {READY}")
    assert "library=CUDA" in lab.on(host, SEEN)
    boot = lab.on(host, "cat /proc/sys/kernel/random/boot_id")
    lab.on(host, "systemctl reboot", ok=False)
    wait_for_another_boot(lab, host, boot)
    run = lab.deploy("--limit", host)
    assert run.code == 0, run.output
    assert run.row(host)["warnings"] == []
    assert "library=CUDA" in lab.on(host, SEEN)
    assert lab.api(host, "/api/ps")["models"][0]["size_vram"] > 0


def wait_for_another_boot(lab: Lab, host: str, before: str) -> None:
    for _ in range(120):
        now = lab.on(host, "cat /proc/sys/kernel/random/boot_id", ok=False)
        if now and now != before:
            lab.on(host, "systemctl is-system-running --wait >/dev/null; true")
            return
        time.sleep(0.5)
    pytest.fail(f"{host} did not boot again")


def test_gpus_hidden_from_the_unit_alone_mean_the_lesser_profile_loudly_and_once(
    lab: Lab, host: str, fault: Callable[[str, str], None]
) -> None:
    here = ("--limit", host)
    other = (*here, "--data", "unit_tasks_max=8192")  # another drop-in, and so a restart
    fault(host, "gpu-behind-tmp")
    run = lab.deploy(*other)
    assert run.code == 0, run.output
    (warning,) = run.row(host)["warnings"]
    assert "lesser hardening" in warning
    assert "sees 0 of 1 GPUs from inside" in run.output
    assert lab.api(host, "/api/ps")["models"][0]["size_vram"] > 0
    start = lab.on(host, "systemctl show -p InvocationID ollama")
    again = lab.deploy(*other)
    assert again.row(host)["verdict"] == "as wanted", again.output
    assert again.row(host)["warnings"] == [warning]
    assert lab.on(host, "systemctl show -p InvocationID ollama") == start
    lab.fault(host, "gpu-behind-tmp", "off")
    back = lab.deploy(*here)
    assert back.code == 0, back.output
    assert back.row(host)["warnings"] == []
    assert "LESSER" not in lab.on(host, f"cat {paths.ENGINE_HARDENING}")
    assert lab.deploy(*here).row(host)["verdict"] == "as wanted"


def test_a_hardening_that_was_not_proven_is_put_back(lab: Lab, host: str) -> None:
    kept = f"sha256sum {paths.ENGINE_HARDENING}"
    before = lab.on(host, kept)
    flags = ("--data", "unit_tasks_max=9000", "--data", "smoke_expect=NOSUCHWORD")
    run = lab.deploy("--limit", host, *flags)
    assert run.verdicts() == {host: "rolled back"}, run.output
    assert lab.on(host, kept) == before
    assert lab.on(host, "systemctl show -p TasksMax --value ollama") != "9000\n"
    assert lab.deploy("--limit", host).row(host)["verdict"] == "as wanted"


def test_a_drop_in_of_the_user_wins_and_is_left_alone(lab: Lab, host: str) -> None:
    mine = "/etc/systemd/system/ollama.service.d/override.conf"
    try:
        lab.on(host, f"printf '[Service]\\nProtectHome=read-only\\n' >{mine}")
        lab.on(host, "systemctl daemon-reload")
        assert lab.on(host, "systemctl show -p ProtectHome --value ollama") == "read-only\n"
        run = lab.deploy("--limit", host)
        assert run.code == 0, run.output
        assert lab.on(host, f"cat {mine}").startswith("[Service]")
    finally:
        lab.on(host, f"rm -f {mine}; systemctl daemon-reload; systemctl restart ollama; {READY}")
        assert lab.deploy("--limit", host).code == 0


def test_versions_with_holes_are_refused_or_told_of_before_anything(lab: Lab, host: str) -> None:
    here = ("--limit", host, "--data")
    run = lab.deploy(*here, "engine_version=0.17.0", dry=True)
    assert run.code == 2
    assert "CVE-2026-7482" in run.output
    assert "nothing was touched" in run.output
    run = lab.deploy(*here, "engine_version=0.20.2", dry=True)
    (warning,) = run.row(host)["warnings"]
    assert "CVE-2026-7020" in warning
    assert lab.deploy("--limit", host, dry=True).row(host)["warnings"] == []
