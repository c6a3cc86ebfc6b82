"""An Ollama that is there already, of each kind: taken over with its models, or refused by name.

Real are the engine, its units, a package made here, dockerd with its proxy and volume. Simulated:
the snap (a unit of its name and a stand-in for `snap`), and Docker's containers have no control
groups, which hosts of the lab may not make.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import BIN, ROOT, Lab, Run
from tests.lab.steady import Steady

pytestmark = pytest.mark.lab

HOST, MODEL = "pc1", "deepseek-r1:1.5b"
NEW = "/var/lib/ollama/models"
INVENTORY = """
import runpy as _runpy
_lab = _runpy.run_path("inventories/lab.py")["lab"]
hosts = ([("pc1", {"ssh_hostname": %r})], {**_lab[1], "tag": "1.5b", "drain_timeout_s": 600})
"""

# What a person who had never heard of r1fleet would have: engine, models, a unit.
ENGINE = """
set -e
command -v zstd >/dev/null || { apt-get -qq update; apt-get -qq install -y zstd curl; } >/dev/null
[ -e /root/engine.tar.zst ] ||
  curl -fsS -o /root/engine.tar.zst %s/ollama/v%s/ollama-linux-amd64.tar.zst
unpack() { mkdir -p "$1" && tar -C "$1" -xf /root/engine.tar.zst; }
fill() { # DIR OWNER: two models, one of them another name of the other's files
  set -- "$1" "$2" "$1/manifests/registry.ollama.ai/library"
  mkdir -p "$1/blobs" "$3/deepseek-r1" "$3/other"
  from=%s/v2/library/deepseek-r1
  curl -fsS -o "$3/deepseek-r1/1.5b" $from/manifests/1.5b \\
    -H 'Accept: application/vnd.docker.distribution.manifest.v2+json'
  cp "$3/deepseek-r1/1.5b" "$3/other/latest"
  for d in $(grep -o 'sha256:[0-9a-f]*' "$3/deepseek-r1/1.5b" | sort -u); do
    curl -fsS -o "$1/blobs/sha256-${d#*:}" "$from/blobs/$d"
  done
  chown -R "$2" "${1%%/models}"
}
"""
ANSWERS = """
answers() { # until it does
  for i in $(seq 300); do
    ! curl -fs -o /dev/null 127.0.0.1:11434/api/version || return 0
    sleep 0.2
  done
  exit 1
}
"""
INSTALL_SH = """
unpack /usr/local
id ollama >/dev/null 2>&1 || useradd -r -s /bin/false -U -m -d /usr/share/ollama ollama
cat >/etc/systemd/system/ollama.service <<'END'
[Unit]
Description=Ollama Service
After=network-online.target

[Service]
ExecStart=/usr/local/bin/ollama serve
User=ollama
Group=ollama
Restart=always
RestartSec=3
Environment="PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

[Install]
WantedBy=default.target
END
fill /usr/share/ollama/.ollama/models ollama:ollama
mkdir -p /etc/systemd/system/ollama.service.d
printf '[Service]\\nEnvironment="OLLAMA_KEEP_ALIVE=7m"\\nEnvironment="R1TEST=kept"\\nNice=3\\n' \\
  >/etc/systemd/system/ollama.service.d/override.conf
systemctl daemon-reload
systemctl enable -q --now ollama
answers
"""
# A unit of another name; the engine lies where its owner put it.
SERVICE = """
unpack /srv/llm
cat >/etc/systemd/system/my-llm.service <<'END'
[Service]
User=alice
Environment=OLLAMA_MODELS=/srv/llm/models
ExecStart=/srv/llm/bin/ollama serve
Restart=always

[Install]
WantedBy=multi-user.target
END
fill /srv/llm/models alice:alice
systemctl daemon-reload
systemctl enable -q --now my-llm
answers
"""
PROCESS = """
unpack /home/alice/ollama
fill /home/alice/.ollama/models alice:alice
chown alice: /home/alice && chmod 700 /home/alice
setsid runuser -u alice -- env HOME=/home/alice /home/alice/ollama/bin/ollama serve \
  >/dev/null 2>&1 </dev/null &
answers
"""
# As Arch's package has it: the models are in the home itself.
PACKAGE = """
d=/root/package
rm -rf $d
unpack $d/usr
mkdir -p $d/DEBIAN $d/usr/lib/systemd/system
printf '%s\n' 'Package: ollama' 'Version: 1' 'Architecture: amd64' 'Maintainer: a <a@b.c>' \
  'Description: x' >$d/DEBIAN/control
cat >$d/usr/lib/systemd/system/ollama.service <<'END'
[Service]
ExecStart=/usr/bin/ollama serve
WorkingDirectory=/var/lib/ollama
Environment="HOME=/var/lib/ollama"
Environment="OLLAMA_MODELS=/var/lib/ollama"
User=ollama
Group=ollama

[Install]
WantedBy=multi-user.target
END
dpkg-deb --build -Znone $d /root/ollama.deb >/dev/null
useradd -r -U -m -d /var/lib/ollama -s /usr/sbin/nologin ollama
dpkg -i /root/ollama.deb >/dev/null
fill /var/lib/ollama ollama:ollama
systemctl enable -q --now ollama
answers
"""
# Simulated: snapd itself does not run in the hosts of the lab.
SNAP = """
unpack /snap/ollama/1
ln -sfn 1 /snap/ollama/current
cat >/usr/local/bin/snap <<'END'
#!/bin/sh
case "$*" in
  'get ollama models') echo /var/snap/ollama/common/models ;;
  'stop --disable ollama') systemctl disable -q --now snap.ollama.listener ;;
  *) exit 64 ;;
esac
END
chmod 755 /usr/local/bin/snap
cat >/etc/systemd/system/snap.ollama.listener.service <<'END'
[Service]
Environment=HOME=/root OLLAMA_MODELS=/var/snap/ollama/common/models
ExecStart=/snap/ollama/current/bin/ollama serve

[Install]
WantedBy=multi-user.target
END
fill /var/snap/ollama/common/models root:root
systemctl daemon-reload
systemctl enable -q --now snap.ollama.listener
answers
"""
# dockerd, its proxy, network and volumes are real; the containers get no control groups.
DOCKER = """
command -v docker crun >/dev/null ||
  apt-get -qq install -y --no-install-recommends docker.io docker-cli crun >/dev/null 2>&1
cat >/usr/local/bin/r1test-runtime <<'END'
#!/bin/bash
words=()
for word in "$@"; do
  words+=("$word")
  [ "$word" != create ] || words+=(--no-new-keyring)
done
exec /usr/bin/crun --cgroup-manager=disabled "${words[@]}"
END
chmod 755 /usr/local/bin/r1test-runtime
echo '{"default-runtime":"x","runtimes":{"x":{"path":"/usr/local/bin/r1test-runtime"}}}' \
  >/etc/docker/daemon.json
systemctl restart docker
d=/root/image
rm -rf $d
unpack $d
for l in $(ldd $d/bin/ollama | grep -o '/[^ ]*'); do
  mkdir -p "$d${l%/*}"
  cp -L "$l" "$d$l"
done
mkdir -p $d/etc $d/tmp $d/root
echo root:x:0:0::/root:/bin/sh >$d/etc/passwd
tar -C $d -c . | docker import --change 'ENTRYPOINT ["/bin/ollama"]' --change 'CMD ["serve"]' \
  --change 'ENV OLLAMA_HOST=0.0.0.0:11434' - ollama/ollama >/dev/null
docker volume create ollama >/dev/null
fill /var/lib/docker/volumes/ollama/_data/models root:root
docker run -d --name ollama --restart always -p 11434:11434 -v ollama:/root/.ollama \
  ollama/ollama >/dev/null
answers
"""
BARE = """
systemctl disable -q --now my-llm snap.ollama.listener 2>/dev/null
systemctl stop r1test-holder 2>/dev/null
pkill -u alice 2>/dev/null
! command -v docker >/dev/null || { docker rm -f ollama; docker volume rm ollama; } >/dev/null 2>&1
dpkg -P ollama >/dev/null 2>&1
rm -rf /srv/llm /snap /var/snap /usr/local/bin/snap /etc/systemd/system/my-llm.service
rm -f /etc/systemd/system/snap.ollama.listener.service
systemctl disable -q --now ollama r1fleet-preload r1fleet-pull r1fleet-watch.timer 2>/dev/null
rm -rf /opt/ollama /opt/r1fleet /var/lib/r1fleet /etc/r1fleet /run/r1fleet /usr/local/lib/r1fleet
rm -rf /etc/systemd/system/ollama.service* /etc/systemd/system/r1fleet-* /usr/local/bin/ollama
rm -rf /usr/local/lib/ollama /var/lib/ollama /usr/share/ollama
systemctl daemon-reload
systemctl reset-failed 2>/dev/null
userdel ollama 2>/dev/null
id alice >/dev/null 2>&1 || useradd -m alice
rm -rf /home/alice/* /home/alice/.ollama
exit 0
"""


@pytest.fixture(scope="module")
def inventory(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adopt") / "inventory.py"
    path.write_text(INVENTORY % lab.state.hosts[HOST].address)
    return path


@pytest.fixture(scope="module", autouse=True)
def as_found(lab: Lab) -> Iterator[None]:
    yield
    lab.cli("reset", HOST)


@pytest.fixture(autouse=True)
def bare(lab: Lab, as_found: None) -> None:
    lab.on(HOST, BARE)


def taken_over(lab: Lab, inventory: Path, old: str) -> dict[str, Any]:
    """Run on a host that has its models in a folder; they are there afterwards, the same files."""
    before, asked = blobs(lab, old), fetches(lab)
    assert len(before) == 5
    run = deploy(lab, inventory)
    assert run.code == 0
    serves(lab)
    assert blobs(lab, NEW) == before
    assert fetches(lab) == asked
    return noted(lab)


def prepare(lab: Lab, script: str) -> None:
    state = lab.state
    engine = ENGINE % (state.artifact_url, state.engine_version, state.registry_url)
    lab.on(HOST, engine + ANSWERS + script)


def command(inventory: Path, report: Path, *words: str) -> list[str]:
    return [str(BIN / "pyinfra"), str(inventory), "deploy.py", "--data", f"report={report}", *words]


def deploy(lab: Lab, inventory: Path, *words: str) -> Run:
    report = lab.folder / "adopt.json"
    report.unlink(missing_ok=True)
    done = subprocess.run(
        command(inventory, report, *(words or ("-y",))),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    print(done.stdout)
    return Run(done.returncode, done.stdout, json.loads(report.read_text()))


def blobs(lab: Lab, folder: str) -> dict[str, str]:
    """Inode and time of the last writing, by the file's name: what is fetched anew has others."""
    rows = lab.on(HOST, f"cd {folder}/blobs && stat -c '%n %i %Y' sha256-*").splitlines()
    return {name: rest for name, _, rest in (row.partition(" ") for row in rows)}


def fetches(lab: Lab) -> int:
    """How often the registry was asked for a file by now."""
    (log,) = (Path(str(lab.state.known_hosts)).parents[1] / "services").glob("nginx-access.log")
    return sum("/blobs/" in line for line in log.read_text().splitlines())


def serves(lab: Lab) -> None:
    """The models of before are served, and the main one answers."""
    names = {row["name"] for row in lab.api(HOST, "/api/tags")["models"]}
    assert {MODEL, "other:latest"} <= names
    body = {"model": MODEL, "prompt": "Reply with READY", "stream": False}
    assert lab.api(HOST, "/api/generate", body)["response"]
    main = lab.on(HOST, "systemctl show ollama -p ExecStart --value")
    assert "/opt/ollama/current/bin/ollama" in main


def noted(lab: Lab) -> dict[str, Any]:
    (row,) = json.loads(lab.on(HOST, "cat /var/lib/r1fleet/state.json"))["adopted"]
    assert row["at"]
    return dict(row)


def test_what_install_sh_made(lab: Lab, inventory: Path) -> None:
    prepare(lab, INSTALL_SH)
    old = "/usr/share/ollama/.ollama/models"
    before = blobs(lab, old)

    dry = deploy(lab, inventory, "--dry")
    assert "Ollama by install.sh, ollama.service is there" in dry.output
    assert "its OLLAMA_KEEP_ALIVE was '7m': the setting ollama_keep_alive rules now" in dry.output
    assert "override.conf stays in force (OLLAMA_KEEP_ALIVE, R1TEST, Nice)" in dry.output
    assert f"takes the models of {old}" in dry.output
    assert "takes the place of Ollama by install.sh" in dry.output
    assert blobs(lab, old) == before
    assert lab.on(HOST, "systemctl show ollama -p ExecStart --value").count("/usr/local/bin")

    row = taken_over(lab, inventory, old)
    assert lab.on(HOST, f"ls -d {old}/blobs 2>/dev/null", ok=False) == ""
    kept = lab.on(HOST, "cd /var/lib/r1fleet/adopted && find . -type f | sort").split()
    assert kept == ["./etc/systemd/system/ollama.service", "./usr/local/bin/ollama"]
    assert "R1TEST=kept" in lab.on(HOST, "systemctl show ollama -p Environment")
    assert (row["kind"], row["models"]) == ("install.sh", old)

    again = deploy(lab, inventory)
    assert (again.code, again.row(HOST)["changes"]) == (0, [])

    words = [BIN / "pyinfra", inventory, "remove.py", "-y", "--data", "remove=1"]
    gone = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert gone.returncode == 0, gone.stdout + gone.stderr
    assert "Ollama by install.sh, ollama.service comes back" in gone.stdout
    lab.on(HOST, f"{ANSWERS}answers")
    assert blobs(lab, old) == before
    main = lab.on(HOST, "systemctl show ollama -p ExecStart --value; systemctl is-enabled ollama")
    assert "/usr/local/bin/ollama serve" in main
    assert main.endswith("enabled\n")
    names = {row["name"] for row in lab.api(HOST, "/api/tags")["models"]}
    assert {MODEL, "other:latest"} <= names
    assert lab.on(HOST, "ls /var/lib/r1fleet/adopted 2>/dev/null", ok=False) == ""


def test_a_package_of_the_distribution(lab: Lab, inventory: Path) -> None:
    prepare(lab, PACKAGE)
    row = taken_over(lab, inventory, "/var/lib/ollama")
    assert (row["kind"], row["name"]) == ("package", "ollama")
    assert lab.on(HOST, "dpkg -V ollama") == ""  # nothing of the package was touched


def test_what_a_person_runs_by_hand_ends_when_it_has_answered(lab: Lab, inventory: Path) -> None:
    prepare(lab, PROCESS)
    before = blobs(lab, "/home/alice/.ollama/models")
    words = command(inventory, lab.folder / "adopt.json", "-y")
    output, waited = "", False
    # Asked all the while: whenever its place is taken, requests run.
    with (
        Steady(lab, HOST, MODEL, num_ctx=32768) as clients,
        subprocess.Popen(
            words, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as run,
    ):
        assert run.stdout
        for line in run.stdout:
            output += line
            if "waits for requests to `ollama serve` of the user alice" in line:
                waited = True
                assert lab.on(HOST, "pgrep -u alice -x ollama")
                clients.let_go()
    assert run.returncode == 0, output
    assert waited, output
    assert "were cut off" not in output
    assert {status for status, _ in clients.answers} == {"200"}
    assert all(json.loads(text)["done"] for _, text in clients.answers)
    serves(lab)
    assert lab.on(HOST, "pgrep -u alice", ok=False) == ""
    # They take no room twice, and the person still has them.
    assert blobs(lab, NEW) == blobs(lab, "/home/alice/.ollama/models") == before
    assert noted(lab)["name"] == "alice"


def test_a_run_that_is_cut_off_is_gone_on_with(lab: Lab, inventory: Path) -> None:
    prepare(lab, SERVICE)
    refused = deploy(lab, inventory, "--dry", "--data", "adopt=refuse")
    assert "Ollama of the unit my-llm.service is there, and adopt is refuse" in refused.output

    before, asked = blobs(lab, "/srv/llm/models"), fetches(lab)
    words = command(inventory, lab.folder / "adopt.json", "-y")
    with subprocess.Popen(
        words, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as run:
        assert run.stdout
        for line in run.stdout:
            if "takes the place of Ollama of the unit my-llm.service" in line:
                run.kill()
    assert run.returncode < 0
    again = deploy(lab, inventory, "-y", "--data", "steal=True")
    assert again.code == 0
    serves(lab)
    assert blobs(lab, NEW) == before
    assert fetches(lab) == asked
    assert noted(lab)["kind"] == "service"
    assert lab.on(HOST, "systemctl is-enabled my-llm", ok=False).strip() == "disabled"


def test_a_snap(lab: Lab, inventory: Path) -> None:
    prepare(lab, SNAP)
    row = taken_over(lab, inventory, "/var/snap/ollama/common/models")
    assert row["kind"] == "snap"
    assert lab.on(HOST, "systemctl is-active snap.ollama.listener", ok=False) == "inactive\n"


def test_a_container(lab: Lab, inventory: Path) -> None:
    prepare(lab, DOCKER)
    old = "/var/lib/docker/volumes/ollama/_data/models"
    row = taken_over(lab, inventory, old)
    assert (row["kind"], row["name"], row["restart"]) == ("docker", "ollama", "always")
    how = "{{.State.Running}} {{.HostConfig.RestartPolicy.Name}}"
    assert lab.on(HOST, f"docker inspect -f '{how}' ollama").split() == ["false", "no"]
    assert blobs(lab, old) == blobs(lab, NEW)


def test_anything_else_is_named_and_left_alone(lab: Lab, inventory: Path) -> None:
    socket = "IO::Socket::INET->new(LocalAddr => '127.0.0.1:11434', Listen => 1)"
    listen = f"our @s = {socket}; sleep 600"
    lab.on(HOST, f'systemd-run -q --unit r1test-holder perl -MIO::Socket -e "{listen}"; sleep 1')
    run = deploy(lab, inventory)
    assert run.code == 1
    pid = lab.on(HOST, "systemctl show r1test-holder -p MainPID --value").strip()
    who = f"perl (pid {pid}, user root, r1test-holder.service)"
    assert f"127.0.0.1:11434 is held by {who}; stop it, or set another port" in run.output
    assert lab.on(HOST, "systemctl is-active r1test-holder") == "active\n"
    assert lab.on(HOST, "ls -d /opt/ollama /var/lib/ollama 2>/dev/null", ok=False) == ""


def test_a_drop_in_that_would_make_it_another_service_is_refused(lab: Lab, inventory: Path) -> None:
    folder = "/etc/systemd/system/ollama.service"
    lab.on(
        HOST,
        f"mkdir -p {folder}.d; printf '[Service]\\nExecStart=/usr/local/bin/ollama serve\\n'"
        f" >{folder}; printf '[Service]\\nUser=bob\\n' >{folder}.d/mine.conf",
    )
    run = deploy(lab, inventory)
    assert run.code == 1
    assert f"{folder}.d/mine.conf sets User, which is r1fleet's to set" in run.output
    assert "User=bob" in lab.on(HOST, f"cat {folder}.d/mine.conf")
