"""Models on their way to a host, and what is found of them there. Looks at the host `cpu`."""

import hashlib
import json
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest

from lab import network
from lab.engine import tiny
from lab.engine.registry import MANIFEST_TYPE, REPOSITORY, Tag, add_model, publish
from lab.engine.shapes import file_name
from lab.paths import lab_dir
from lab.shell import run as machine
from r1fleet import lock
from tests.lab.conftest import BIN, ROOT, Lab, Run

pytestmark = pytest.mark.lab

HOST = "cpu"
TAG = "1.5b-qwen-distill-q8_0"
NAME = f"deepseek-r1:{TAG}"
PAYLOAD_BYTES = 64 << 20
MODELS = "/var/lib/ollama/models"
MANIFEST = f"{MODELS}/manifests/registry.ollama.ai/{REPOSITORY}/{TAG}"
STAGING = f"{MODELS}/.r1fleet-staging"
SLOW = ("--data", "pull_rate_limit=4M")
ONE_PART_BYTES = 16 << 20


class Heavy:
    """A tag of the registry with some tens of megabytes, in place of what it was."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.usual = lab.state.model_digests[NAME]
        raw = add_model(folder, Tag(TAG, "1.5b", "q8_0"), payload_bytes=PAYLOAD_BYTES)
        (folder / "manifests").mkdir()
        (folder / "manifests" / TAG).write_bytes(raw)
        self.digest = publish(folder, lab.state.registry_url)[NAME]
        layers = json.loads(raw)["layers"]
        self.blob, self.size = max(
            ((one["digest"], one["size"]) for one in layers), key=lambda x: x[1]
        )
        self.pin = (
            "--data",
            f"tag={TAG}",
            "--data",
            f'model_digests={{"{NAME}": "{self.digest}"}}',
        )

    def put_back(self) -> None:
        url = f"{self.lab.state.registry_url}/v2/{REPOSITORY}/manifests/"
        request = urllib.request.Request(url + self.usual, headers={"Accept": MANIFEST_TYPE})
        with urllib.request.urlopen(request, timeout=30) as answer:
            (self.folder / "manifests" / TAG).write_bytes(answer.read())
        publish(self.folder, self.lab.state.registry_url)
        for place in (f"manifests/{self.digest}", f"blobs/{self.blob}"):
            there = f"{self.lab.state.registry_url}/v2/{REPOSITORY}/{place}"
            urllib.request.urlopen(
                urllib.request.Request(there, method="DELETE"), timeout=30
            ).close()

    @property
    def final(self) -> str:
        return f"{MODELS}/blobs/{self.blob.replace(':', '-')}"

    def staged_bytes(self) -> int:
        script = f"stat -c '%b' {STAGING}/{self.blob[7:]} 2>/dev/null || echo 0"
        return int(self.lab.on(HOST, script)) * 512

    def wait_for(self, size: int) -> None:
        deadline = time.monotonic() + 120
        while self.staged_bytes() < size:
            assert time.monotonic() < deadline, "the fetch brings nothing"
            time.sleep(0.2)

    def forget(self) -> None:
        """The host as if it had never had it, a fetch that goes on included."""
        self.lab.on(
            HOST,
            f"systemctl stop r1fleet-pull; rm -rf {STAGING} {self.final}* {MANIFEST}; true",
        )


@pytest.fixture(scope="module")
def heavy(lab: Lab, served: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Heavy]:
    found = Heavy(lab, tmp_path_factory.mktemp("heavy"))
    yield found
    found.forget()
    found.put_back()
    lab.on(HOST, f"ollama rm {NAME}; true")
    run = lab.deploy()
    assert run.code == 0, run.output


@pytest.fixture(autouse=True)
def forgotten(heavy: Heavy) -> None:
    heavy.forget()


def sent(lab: Lab, since: int, blob: str = "") -> int:
    """Bytes of blobs that the registry has sent to the host since a place in its log."""
    log = (lab_dir() / "services" / "nginx-access.log").read_bytes()[since:].decode()
    address = re.escape(lab.state.hosts[HOST].address)
    form = rf'^{address} .*"GET /v2/\S+/blobs/{blob or "sha256"}\S* HTTP/1.1" 20[06] (\d+)'
    return sum(int(size) for size in re.findall(form, log, re.MULTILINE))


def log_end() -> int:
    return (lab_dir() / "services" / "nginx-access.log").stat().st_size


def installed(lab: Lab) -> str:
    return "sha256:" + lab.on(HOST, f"sha256sum {MANIFEST}").split()[0]


def assert_whole(lab: Lab, heavy: Heavy) -> None:
    assert lab.on(HOST, f"sha256sum {heavy.final}").split()[0] == heavy.blob[7:]
    assert installed(lab) == heavy.digest


def test_a_fetch_survives_the_laptop_the_engine_and_the_power(lab: Lab, heavy: Heavy) -> None:
    slower = ("--data", "pull_rate_limit=2M")  # much happens before it is whole
    process = lab.start_deploy("-y", "--limit", HOST, *heavy.pin, *slower)
    heavy.wait_for(8 << 20)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert process.stdout
    process.stdout.close()
    at_kill = heavy.staged_bytes()
    heavy.wait_for(at_kill + (2 << 20))  # it goes on without the laptop
    lab.on(HOST, "systemctl restart ollama")
    heavy.wait_for(at_kill + (4 << 20))  # and without the engine
    lab.cli("cycle", HOST)
    staged, at_cut = heavy.staged_bytes(), log_end()
    assert at_kill < staged < heavy.size
    run = lab.deploy("--limit", HOST, *heavy.pin)
    assert run.code == 0, run.output
    assert_whole(lab, heavy)
    assert 0 < sent(lab, at_cut, heavy.blob) <= heavy.size - staged + ONE_PART_BYTES


def test_a_registry_that_fails_and_a_cable_that_is_cut_meanwhile(lab: Lab, heavy: Heavy) -> None:
    cable = network.interface(lab.state.hosts[HOST].address)
    process = lab.start_deploy("-y", "--limit", HOST, *heavy.pin, *SLOW)
    heavy.wait_for(4 << 20)
    lab.cli("fault", "registry-500", "on")
    try:
        lab.on(HOST, "pkill -x aria2c")  # the transfers that run are not touched by the fault
        time.sleep(5)
    finally:
        lab.cli("fault", "registry-500", "off")
    heavy.wait_for(12 << 20)
    machine("ip", "link", "set", cable, "down")
    try:
        time.sleep(6)
    finally:
        machine("ip", "link", "set", cable, "up")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert_whole(lab, heavy)


def test_broken_blobs_are_found_and_mended(lab: Lab, heavy: Heavy) -> None:
    assert lab.deploy("--limit", HOST, *heavy.pin).code == 0
    lab.on(HOST, f"printf x | dd of={heavy.final} bs=1 seek={heavy.size - 9} conv=notrunc")
    quiet = lab.deploy("--limit", HOST, *heavy.pin)
    assert quiet.verdicts() == {HOST: "as wanted"}  # its size is right, and nobody asked for more
    run = lab.deploy("--limit", HOST, *heavy.pin, "--data", "deep_check=true")
    assert run.code == 0, run.output
    assert any("mended" in change for change in run.row(HOST)["changes"])
    assert_whole(lab, heavy)
    lab.on(HOST, f"truncate -s -1 {heavy.final}")
    run = lab.deploy("--limit", HOST, *heavy.pin)
    assert run.code == 0, run.output
    assert_whole(lab, heavy)


def test_parts_that_the_engine_cannot_go_on_from(lab: Lab, heavy: Heavy) -> None:
    part = '{"N":%d,"Offset":%d,"Size":1000,"Completed":0}'
    partial = f"{heavy.final}-partial"
    lab.on(
        HOST,
        f"truncate -s {heavy.size} {partial}; echo '{part % (0, 0)}' >{partial}-0;"
        f" echo '{part % (2, 2000)}' >{partial}-2; chown ollama:ollama {partial}*",
    )
    run = lab.deploy("--limit", HOST, *heavy.pin, "--data", "pull_via=api")
    assert run.code == 0, run.output
    assert_whole(lab, heavy)
    assert lab.on(HOST, f"find {MODELS}/blobs -name '*-partial*'") == ""


def test_a_moved_model_directory_downloads_nothing(lab: Lab, heavy: Heavy) -> None:
    elsewhere = "/var/lib/ollama/elsewhere"
    (blob,) = lab.on(
        HOST, f"find {MODELS}/blobs -size +1M -printf '%f %i\\n' | head -1"
    ).splitlines()
    before = lab.on(HOST, f"ls {MODELS}/blobs")
    since = log_end()
    run = lab.deploy("--limit", HOST, "--data", f"ollama_models={elsewhere}")
    assert run.code == 0, run.output
    name, inode = blob.split()
    assert lab.on(HOST, f"stat -c '%i %h' {elsewhere}/blobs/{name}").split() == [inode, "1"]
    assert lab.on(HOST, f"ls {elsewhere}/blobs") == before
    assert lab.on(HOST, f"ls -d {MODELS}/blobs", ok=False) == ""
    again = lab.deploy("--limit", HOST, "--data", f"ollama_models={elsewhere}")
    assert again.verdicts() == {HOST: "as wanted"}
    back = lab.deploy("--limit", HOST)
    assert back.code == 0, back.output
    assert lab.on(HOST, f"ls {MODELS}/blobs") == before
    assert sent(lab, since) == 0


def test_others_models_stay_unless_they_are_told_to_go(lab: Lab, heavy: Heavy) -> None:
    usual = f"deepseek-r1:{lab.deploy('--limit', HOST).row(HOST)['tag']}"

    def names() -> set[str]:
        return {row["name"] for row in lab.api(HOST, "/api/tags")["models"]}

    for name in ("mine:latest", "deepseek-r1:fleet"):
        lab.on(HOST, f"ollama cp {usual} {name}")
    run = lab.deploy("--limit", HOST)
    assert run.verdicts() == {HOST: "as wanted"}
    assert {"mine:latest", "deepseek-r1:fleet"} <= names()
    run = lab.deploy("--limit", HOST, "--data", "prune=all")
    assert "mine:latest removed" in run.row(HOST)["changes"]
    assert names() == {usual, "deepseek-r1:fleet"}
    lab.on(HOST, "ollama rm deepseek-r1:fleet")


def in_folder(lab: Lab, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of ours in another folder, where a lock file of its own lies."""
    return subprocess.run(
        [BIN / words[0], *words[1:]], cwd=folder, capture_output=True, text=True, check=False
    )


def test_a_lock_refuses_before_any_change_and_finds_what_was_retagged(
    lab: Lab, heavy: Heavy, tmp_path: Path
) -> None:
    inventory, deploy = str(ROOT / "inventories/lab.py"), str(ROOT / "deploy.py")
    flags = ("--limit", HOST, "--data", f"tag={TAG}")
    made = in_folder(lab, tmp_path, "r1fleet", "lock", inventory, *flags)
    assert made.returncode == 0, made.stderr
    path = tmp_path / lock.FILE
    assert lock.read(path)[NAME].digest == heavy.digest
    same = in_folder(lab, tmp_path, "r1fleet", "lock", inventory, *flags)
    assert "as it was" in same.stdout

    def deployed(digest: str) -> tuple[int, dict[str, object]]:
        shutil.copy(path, tmp_path / "kept")
        path.write_text(path.read_text().replace(heavy.digest, digest))
        report = ("--data", f"report={tmp_path / 'report.json'}", "--data", "model_digests={}")
        done = in_folder(lab, tmp_path, "pyinfra", inventory, deploy, "-y", *flags, *report)
        shutil.copy(tmp_path / "kept", path)
        return done.returncode, json.loads((tmp_path / "report.json").read_text())["hosts"][HOST]

    lab.on(HOST, "touch /run/r1test-mark; sleep 0.1")
    code, row = deployed("sha256:" + "0" * 64)
    assert code == 1
    assert "pinned is sha256:000" in str(row["reason"])
    changed = "find /etc /opt /usr/local /var/lib -newer /run/r1test-mark -type f"
    others = "-not -path '/var/lib/systemd/*' -not -path '/var/lib/r1fleet/watch/*'"
    assert lab.on(HOST, f"{changed} {others}") == ""
    code, row = deployed(heavy.usual)  # which is not the tag's any more
    assert code == 0, row
    assert installed(lab) == heavy.usual
    assert any("fetched by its digest" in note for note in row["notes"])  # type: ignore[attr-defined]
    made = in_folder(lab, tmp_path, "r1fleet", "lock", inventory, *flags, "--from-host", HOST)
    assert made.returncode == 0, made.stderr
    assert lock.read(path)[NAME].digest == heavy.usual


class WithTemplate(gguf.GGUFWriter):
    """Writes the chat template that real files carry and the tiny ones of the registry lack."""

    def write_header_to_file(self, *args: Any) -> None:
        thought = "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
        self.add_chat_template(
            "{% for m in messages %}{% if m.role == 'user' %}"
            + tiny.USER
            + "{{ m.content }}{% elif m.role == 'assistant' %}"
            + tiny.ASSISTANT
            + thought
            + "{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}"
            + tiny.ASSISTANT
            + "{% endif %}"
        )
        super().write_header_to_file(*args)


def test_a_file_of_the_laptop_becomes_a_model(
    lab: Lab,
    heavy: Heavy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken: Callable[[str, str, str], None],
) -> None:
    monkeypatch.setattr(tiny.gguf, "GGUFWriter", WithTemplate)
    file = tmp_path / "own.gguf"
    tiny.write(file, "own", file_name("1.5b", "q4_K_M"))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    name = "deepseek-r1:1.5b"
    source = {name: {"file": str(file), "sha256": digest}}
    flags = ("--limit", HOST, "--data", "tag=1.5b", "--data", f"model_sources={json.dumps(source)}")
    broken(HOST, "true", f"ollama rm {name}; true")
    run = lab.deploy(*flags)
    assert run.code == 0, run.output
    assert lab.on(HOST, f"sha256sum {MODELS}/blobs/sha256-{digest}").split()[0] == digest
    assert lab.on(HOST, f"ls {MODELS}/.r1fleet-upload") == ""
    again = lab.deploy(*flags)
    assert again.verdicts() == {HOST: "as wanted"}
