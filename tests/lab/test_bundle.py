"""Hosts with no way out, from bare to proven with what a bundle holds."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.conftest import BIN, ROOT, Lab, Run
from tests.lab.test_mirror import Crossing

pytestmark = pytest.mark.lab

# A Debian 12 that is entered as a user with sudo, and a Debian 13 as root.
HOSTS = ("duo", "h100")
PLACES = (
    "/opt/ollama /usr/local/bin/ollama /etc/r1fleet /var/lib/r1fleet /usr/local/lib/r1fleet"
    " /var/lib/ollama /etc/systemd/system/ollama.service* /var/lib/apt/lists/*"
    " /etc/systemd/system/r1fleet-preload.service"
)
BARE = f"""
systemctl disable -q --now r1fleet-preload ollama
systemctl stop nvidia-persistenced
rmmod nvidia_uvm nvidia
export DEBIAN_FRONTEND=noninteractive
dpkg-query -W -f '${{Package}}\\n' |
  grep -E 'nvidia|^(libcuda1|cuda-keyring|aria2|zstd|dkms|linux-headers-.*)$' |
  xargs apt-get -qq purge -y --auto-remove >/dev/null
rm -rf {PLACES} /etc/modprobe.d/r1fleet-nvidia.conf
systemctl daemon-reload
userdel ollama
! command -v aria2c && ! command -v zstd && ! command -v nvidia-smi && ! [ -e /sys/module/nvidia ]
"""
# Nothing leaves the host but SSH's answers: every other way fails at once.
CUT = """
ip rule add pref 100 ipproto 6 sport 22 lookup main || exit 1
ip rule add pref 101 to 198.18.0.0/15 unreachable
! curl -s -m 5 -o /dev/null "$1"
"""
UNCUT = "ip rule del pref 100; ip rule del pref 101"
# What a driver from NVIDIA's repository has brought along, and one from a bundle has not.
KEYRING = """
curl -fsS -o /run/keyring.deb "$1/debian$(cut -d. -f1 /etc/debian_version)/x86_64/$2" &&
  dpkg -i /run/keyring.deb >/dev/null && apt-get -qq update
"""
LIMITS = [word for host in HOSTS for word in ("--limit", host)]


@pytest.fixture(scope="module")
def bundle(lab: Lab, served: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Made while the hosts serve; then they are bare, and on their own."""
    out = tmp_path_factory.mktemp("bundle") / "r1"
    subprocess.run(
        [BIN / "r1fleet", "bundle", "inventories/lab.py", out, *LIMITS], cwd=ROOT, check=True
    )
    try:
        for host in HOSTS:
            lab.on(host, BARE)
            lab.on(host, f"set -- {lab.state.artifact_url}/\n{CUT}")
        yield out
    finally:
        for host in HOSTS:
            lab.on(host, UNCUT, ok=False)
            url = f"{lab.state.driver_repository_url} cuda-keyring_1.1-1_all.deb"
            lab.on(host, f"set -- {url}\n{KEYRING}")
        assert lab.deploy().code == 0


def deploy(lab: Lab, bundle: Path, *data: str) -> Run:
    pairs = [word for pair in (f"bundle={bundle}", *data) for word in ("--data", pair)]
    return lab.deploy(*LIMITS, *pairs)


def test_what_a_bundle_lacks_is_told_before_any_change(lab: Lab, bundle: Path) -> None:
    run = deploy(lab, bundle, "tag=1.5b", "driver_branch=595")
    assert run.code == 1
    for host in HOSTS:
        row = run.row(host)
        assert (row["verdict"], row["changes"]) == ("failed", []), run.output
        assert (
            "nvidia-driver-pinning-595, the model deepseek-r1:1.5b; make it anew" in row["reason"]
        )
        assert lab.on(host, "ls -d /opt/ollama /var/lib/r1fleet 2>/dev/null", ok=False) == ""


def test_a_cut_file_stops_the_run_before_any_host_is_asked(
    lab: Lab, bundle: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(bundle, damaged)
    blob = max((damaged / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(blob.read_bytes()[:-1])
    process = lab.start_deploy("-y", "--data", f"bundle={damaged}", *LIMITS)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert f"is damaged: blobs/{blob.name} has" in output
    assert "nothing was touched" in output


def test_bare_to_proven_with_not_one_byte_from_outside(lab: Lab, bundle: Path) -> None:
    with Crossing() as crossing:
        run = deploy(lab, bundle)
    assert run.code == 0, run.output
    addresses = {lab.state.hosts[host].address for host in HOSTS}
    assert not [line for line in crossing.lines if line[0] in addresses]
    whole = json.loads((bundle / "bundle.json").read_text())
    for host in HOSTS:
        assert run.row(host)["verdict"] == "changed"
        (loaded,) = lab.api(host, "/api/ps")["models"]
        assert loaded["size_vram"] == loaded["size"] > 0
        rows = lab.api(host, "/api/tags")["models"]
        digests = {row["name"]: f"sha256:{row['digest']}" for row in rows}
        name = f"deepseek-r1:{run.row(host)['tag']}"
        assert digests[name] == whole["models"][name]["digest"]
        assert lab.on(host, "cat /sys/module/nvidia/version").startswith("580.")
        assert lab.on(host, "ls /var/lib/r1fleet/bundle 2>/dev/null", ok=False) == ""
        assert lab.on(host, "ls -A /var/lib/ollama/models/.r1fleet-upload") == ""
        assert "bundle" not in lab.on(host, "ls /var/lib/apt/lists /etc/apt/sources.list.d")


def test_a_second_run_changes_nothing(lab: Lab, bundle: Path) -> None:
    run = deploy(lab, bundle)
    assert {host: run.row(host)["verdict"] for host in HOSTS} == dict.fromkeys(HOSTS, "as wanted")
    assert all(run.row(host)["changes"] == [] for host in HOSTS)
