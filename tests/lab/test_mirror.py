"""A host of the group `mirror` between the fleet and the registry: what crosses the WAN, and what
happens when it is away."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import paths
from tests.lab.conftest import BIN, ROOT, Lab, Run, seen

pytestmark = pytest.mark.lab

MIRROR, CLIENTS = "cpu", ("t4", "h100")
TAG = "1.5b"  # no host has it otherwise
MODEL = f"deepseek-r1:{TAG}"
PAYLOAD_MB = 40

INVENTORY = """
import runpy
_hosts, _data = runpy.run_path({lab!r})["lab"]
_digests = {{**_data["model_digests"], {model!r}: {digest!r}}}
lab = (_hosts, {{**_data, "registry_url": {registry!r}, "model_digests": _digests, "tag": {tag!r}}})
mirror = [{mirror!r}]
"""

# The mirror with all its traces; what others may have had before it stays.
REMOVE = """
systemctl disable -q --now r1fleet-mirror
rm -rf /etc/systemd/system/r1fleet-mirror.service /etc/r1fleet/mirror.conf /var/lib/r1fleet-mirror \
  /usr/local/lib/r1fleet/mirror-resolver
systemctl daemon-reload
userdel r1fleet-mirror
DEBIAN_FRONTEND=noninteractive apt-get -qq purge -y nginx nginx-common >/dev/null
"""
# The alias and a former tag's side name hold the same files: these stay as long as one is there.
FORGET = """curl -sS 127.0.0.1:11434/api/tags |
  grep -o '"name":"deepseek-r1:[^"]*' | cut -d'"' -f4 |
  grep -E ':(1.5b|fleet)' | while read -r model; do
    curl -sS -X DELETE 127.0.0.1:11434/api/delete -d '{"model": "'$model'"}'
  done"""


@dataclass
class Mirrored:
    """The fleet with a mirror, and a cold model of known size in its registry."""

    lab: Lab
    inventory: Path
    size_bytes: int
    url: str
    first: Run
    crossing: "Crossing"

    def start(self, *flags: str) -> subprocess.Popen[str]:
        report = self.lab.folder / "report.json"
        report.unlink(missing_ok=True)
        return subprocess.Popen(
            [BIN / "pyinfra", self.inventory, "deploy.py", "-y", "--data", f"report={report}"]
            + list(flags),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finished(self, process: subprocess.Popen[str], before: str = "") -> Run:
        output, _ = process.communicate(timeout=300)
        report = json.loads((self.lab.folder / "report.json").read_text())
        return Run(process.returncode, before + output, report)

    def deploy(self, *hosts: str, **data: Any) -> Run:
        limits = [word for host in hosts for word in ("--limit", host)]
        pairs = [word for key, value in data.items() for word in ("--data", f"{key}={value}")]
        return self.finished(self.start(*limits, *pairs))

    def models(self, host: str) -> list[str]:
        return [row["name"] for row in self.lab.api(host, "/api/tags")["models"]]


class Crossing:
    """The bytes that the registry and the artifact server send while it is entered, by path."""

    log = paths.lab_dir() / "services" / "nginx-access.log"

    def __enter__(self) -> "Crossing":
        self.begin = self.log.stat().st_size
        return self

    def __exit__(self, *_: object) -> None:
        self.lines = []
        with self.log.open() as stream:
            stream.seek(self.begin)
            for line in stream:
                address, _, rest = line.partition(" ")
                _, request, answer, *_ = rest.split('"')
                self.lines.append((address, request.split()[1], int(answer.split()[1])))

    def of(self, prefix: str) -> int:
        return sum(size for _, path, size in self.lines if path.startswith(prefix))

    def askers(self, prefix: str) -> set[str]:
        return {address for address, path, _ in self.lines if path.startswith(prefix)}


@pytest.fixture(scope="module")
def mirrored(lab: Lab, served: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirrored]:
    """Three hosts at once from cold: no engine of the wanted version, no such model."""
    told = subprocess.run(
        [BIN / "r1fleet", "lab", "publish", MODEL, "--mb", str(PAYLOAD_MB)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    model = json.loads(told.stdout)
    inventory = tmp_path_factory.mktemp("mirror") / "mirrored.py"
    inventory.write_text(
        INVENTORY.format(
            lab=str(ROOT / "inventories" / "lab.py"),
            model=MODEL,
            digest=model["digest"],
            registry=paths.public_registry_url(),
            tag=TAG,
            mirror=MIRROR,
        )
    )
    url = f"http://{lab.state.hosts[MIRROR].address}:5080"
    found = Mirrored(lab, inventory, model["size_bytes"], url, served, Crossing())
    for host in (MIRROR, *CLIENTS):
        lab.on(host, FORGET, ok=False)
    for host in CLIENTS:
        lab.on(host, "rm -rf /opt/ollama/[0-9]*")
    try:
        with found.crossing:
            found.first = found.deploy(MIRROR, *CLIENTS)
        yield found
    finally:
        lab.on(MIRROR, REMOVE, ok=False)
        for host in (MIRROR, *CLIENTS):
            lab.on(host, FORGET, ok=False)
        lab.cli("publish")
        assert lab.deploy().code == 0


def test_a_cold_model_and_the_engine_cross_once_for_all(lab: Lab, mirrored: Mirrored) -> None:
    run, crossing = mirrored.first, mirrored.crossing
    assert run.code == 0, run.output
    assert run.row(MIRROR)["warnings"] == []
    assert mirrored.size_bytes <= crossing.of("/v2/") <= 1.03 * mirrored.size_bytes
    archive = paths.lab_dir() / "www/ollama" / f"v{lab.state.engine_version}"
    whole = (archive / "ollama-linux-amd64.tar.zst").stat().st_size
    assert whole <= crossing.of("/ollama/") <= 1.03 * whole
    mirror_only = {lab.state.hosts[MIRROR].address}
    assert crossing.askers("/v2/") == crossing.askers("/ollama/") == mirror_only
    for host in (MIRROR, *CLIENTS):
        assert MODEL in mirrored.models(host)
        assert lab.on(host, "cd /var/lib/ollama/models/manifests; ls") == "registry.ollama.ai\n"


def test_a_second_run_changes_nothing(lab: Lab, mirrored: Mirrored) -> None:
    unit = "systemctl show -p InvocationID r1fleet-mirror"
    before = lab.on(MIRROR, unit)
    with Crossing() as crossing:
        run = mirrored.deploy(MIRROR, *CLIENTS)
    assert {host: run.row(host)["verdict"] for host in (MIRROR, *CLIENTS)} == dict.fromkeys(
        (MIRROR, *CLIENTS), "as wanted"
    )
    assert lab.on(MIRROR, unit) == before
    assert crossing.lines == []


def test_only_what_is_needed_is_answered_and_only_to_the_fleet(
    lab: Lab, mirrored: Mirrored
) -> None:
    (blob,) = json.loads(
        lab.on("t4", f"cat /var/lib/ollama/models/manifests/*/library/deepseek-r1/{TAG}")
    )["layers"][:1]
    good = f"/v2/library/deepseek-r1/blobs/{blob['digest']}"
    ask = "curl -s --path-as-is -o /dev/null -w '%{http_code}' -r 0-9 "

    def answer(path: str, flags: str = "") -> str:
        return lab.on("t4", f"{ask} {flags} '{mirrored.url}{path}'")

    assert answer(good) == "206"
    assert answer("/v2/library/deepseek-r1/manifests/none") == "404"
    for path in ("/", "/etc/passwd", "/v2/", "/v2/_catalog", "/engine/v1/x", good[:-1]):
        assert answer(path) == "404", path
    for path in ("/engine/../../x", "/v2/a/../../manifests/b", "/v2/a/..%2f..%2fb/manifests/c"):
        assert answer(path) in ("400", "404"), path
    for method in ("POST", "PUT", "DELETE", "CONNECT"):
        assert answer(good, f"-X {method}") in ("400", "405"), method
    # This machine is none of the inventory's hosts.
    outside = subprocess.run(
        ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--noproxy", "*"]
        + [mirrored.url + good],
        capture_output=True,
        text=True,
        check=True,
    )
    assert outside.stdout == "403"


def test_the_hosts_own_site_is_not_there(lab: Lab, mirrored: Mirrored) -> None:
    assert lab.on(MIRROR, "systemctl is-active nginx", ok=False) == "inactive\n"
    assert lab.on(MIRROR, "ss -Hltn sport = :80") == ""


def test_ollamas_own_pull_works_through_it(lab: Lab, mirrored: Mirrored) -> None:
    lab.on("h100", FORGET)
    with Crossing() as crossing:
        run = mirrored.deploy("h100", pull_via="api")
    assert run.code == 0, run.output
    assert MODEL in mirrored.models("h100")
    assert all(name.startswith("deepseek-r1:") for name in mirrored.models("h100"))
    assert crossing.of("/v2/library/deepseek-r1/blobs/") == 0  # all of it was there


def test_a_mirror_that_goes_away_in_the_middle(lab: Lab, mirrored: Mirrored) -> None:
    lab.on("t4", FORGET)
    process = mirrored.start("--limit", "t4", "--data", "pull_rate_limit=2M")
    assert process.stdout
    said = ""
    for line in process.stdout:
        said += line
        if "fetches" in line:
            break
    staged = "du -sm /var/lib/ollama/models/.r1fleet-staging 2>/dev/null || echo 0"
    megabytes = seen(lambda: int(lab.on("t4", staged).split()[0]), lambda mb: mb >= 4, 120)
    assert 4 <= megabytes < PAYLOAD_MB
    lab.on(MIRROR, "systemctl stop r1fleet-mirror")
    with Crossing() as crossing:
        run = mirrored.finished(process, said)
    assert run.code == 0, run.output
    assert any("the mirror failed" in text for text in run.row("t4")["warnings"]), run.output
    assert crossing.askers("/v2/") == {lab.state.hosts["t4"].address}
    assert 0 < crossing.of("/v2/") < mirrored.size_bytes  # it went on where it was
    assert MODEL in mirrored.models("t4")


def test_a_mirror_that_is_away_ends_the_host_where_there_is_no_fallback(
    lab: Lab, mirrored: Mirrored
) -> None:
    lab.on(MIRROR, "systemctl stop r1fleet-mirror")
    lab.on("t4", FORGET)
    with Crossing() as crossing:
        run = mirrored.deploy("t4", mirror_fallback=False)
    assert run.code == 1
    assert f"the mirror {mirrored.url}: does not answer" in run.row("t4")["reason"]
    assert "mirror_fallback" in run.row("t4")["reason"]
    assert crossing.lines == []
    run = mirrored.deploy("t4", "cpu")  # the mirror is put right, and used
    assert run.code == 0, run.output
    assert run.row("t4")["warnings"] == []
