"""fetch.sh as it runs on a host, against a small registry on 127.0.0.1, without systemd."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from r1fleet.model import job, made
from r1fleet.model.manifest import (
    STAGING,
    ModelManifest,
    ModelSource,
    ModelWanted,
    parse,
)
from tests.unit.registry import BIG, SMALL, Registry, serve, sha256

WAITS = "0.05 0.05 0.05 0.05"
TOOLS = (
    *("sh", "cat", "mv", "rm", "mkdir", "cp", "stat", "id", "chown", "sync", "sha256sum"),
    *("grep", "sed", "awk", "df", "sleep", "tail", "cut", "curl", "touch", "tr"),
)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serve() as running:
        yield running


@dataclass
class Site:
    """A host's folders below a temporary directory, and a job for its model."""

    root: Path
    want: ModelWanted
    manifest: ModelManifest
    raw: bytes
    path: str
    deep: bool = False
    auth: str = ""

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def stage(self) -> Path:
        return self.models / STAGING

    @property
    def job(self) -> Path:
        return self.root / "pull" / self.manifest.digest[7:19]

    def blob(self, data: bytes) -> Path:
        return self.models / "blobs" / f"sha256-{sha256(data)}"

    @property
    def script(self) -> Path:
        return self.root / "fetch"

    def prepare(self) -> None:
        self.job.mkdir(parents=True, exist_ok=True)
        (self.job / "job").write_text(job.lines(self.want, self.manifest, deep=self.deep))
        (self.job / "manifest").write_bytes(self.raw)

    def fetch(self, *mode: str) -> subprocess.CompletedProcess[str]:
        self.prepare()
        return self.run(*mode)

    def run(self, *mode: str) -> subprocess.CompletedProcess[str]:
        self.script.write_text(job.script())
        return subprocess.run(
            ["sh", self.script, self.job, *mode],
            env={"PATH": self.path, "R1_RUN": str(self.root / "run"), "R1_WAITS": WAITS}
            | ({"R1_AUTH": self.auth} if self.auth else {}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def status(self) -> dict[str, str]:
        return dict(line.split(" ", 1) for line in self.run("status").stdout.splitlines())

    def assert_installed(self) -> None:
        files = sorted(str(path.relative_to(self.models)) for path in self.models.rglob("*"))
        assert [name for name in files if not (self.models / name).is_dir()] == sorted(
            [
                f"blobs/sha256-{sha256(BIG)}",
                f"blobs/sha256-{sha256(SMALL)}",
                "manifests/registry.ollama.ai/library/deepseek-r1/14b",
            ]
        )
        assert self.blob(BIG).read_bytes() == BIG
        assert self.blob(SMALL).read_bytes() == SMALL
        installed = self.models / "manifests" / self.want.manifest_path
        assert installed.read_bytes() == self.raw
        assert not self.stage.exists()
        status = self.status()
        assert status["state"] == "complete"
        assert status["digest"] == self.manifest.digest
        assert status["done"] == status["total"] == str(len(BIG) + len(SMALL))


@pytest.fixture(params=["aria2c", "curl"])
def site(request: pytest.FixtureRequest, tmp_path: Path, registry: Registry) -> Site:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in [*TOOLS, request.param]:
        if not (tools / name).exists():
            found = shutil.which(name)
            assert found, f"{name} is needed for this test"
            (tools / name).symlink_to(found)
    want = ModelWanted(
        "deepseek-r1:14b", registry.url, str(tmp_path / "models"), engine_url=registry.url
    )
    return Site(tmp_path, want, parse(registry.manifest), registry.manifest, str(tools))


def test_installs_a_model_as_ollama_keeps_it(site: Site, registry: Registry) -> None:
    result = site.fetch()
    assert result.returncode == 0, result.stderr
    site.assert_installed()
    assert registry.requests[0][0].startswith("/v2/library/deepseek-r1/blobs/sha256:")


def test_blobs_that_are_there_are_not_fetched(site: Site, registry: Registry) -> None:
    (site.models / "blobs").mkdir(parents=True)
    site.blob(BIG).write_bytes(BIG)
    site.blob(SMALL).write_bytes(SMALL)
    assert site.fetch().returncode == 0
    assert registry.requests == []
    site.assert_installed()


def test_a_truncated_final_blob_is_replaced(site: Site) -> None:
    (site.models / "blobs").mkdir(parents=True)
    site.blob(BIG).write_bytes(BIG[:1000])
    assert site.fetch().returncode == 0
    site.assert_installed()


def test_goes_on_to_the_byte_where_the_staged_file_ends(site: Site, registry: Registry) -> None:
    site.stage.mkdir(parents=True)
    (site.stage / sha256(BIG)).write_bytes(BIG[:4_000_000])
    assert site.fetch().returncode == 0
    site.assert_installed()
    starts = [int(wanted[6:].partition("-")[0]) for path, wanted in registry.requests if wanted]
    # aria2c works in pieces of 1 MiB: the last whole one that was here ends at 3 MiB.
    assert starts
    assert min(starts) >= 3 << 20


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_goes_on_after_it_was_ended_in_the_middle(
    site: Site, registry: Registry, how: signal.Signals
) -> None:
    registry.pause_s = 0.03
    site.prepare()
    # A session of its own, so that the signal reaches the downloader too, as systemd's does.
    site.status()  # puts the script there
    running = subprocess.Popen(
        ["sh", site.script, site.job],
        env={"PATH": site.path, "R1_RUN": str(site.root / "run")},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 10
    while int(site.status().get("done", 0)) < 1_500_000 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(running.pid, how)
    running.wait(10)
    status = site.status()
    assert 1_500_000 <= int(status["done"]) < len(BIG)
    registry.pause_s = 0.0
    assert status["state"] == ("stopped" if how == signal.SIGTERM else "downloading")
    assert site.fetch().returncode == 0
    site.assert_installed()


def test_a_line_that_drops_again_and_again_still_brings_it_all(
    site: Site, registry: Registry
) -> None:
    registry.break_after = 1_500_000
    result = site.fetch()
    assert result.returncode == 0, result.stderr
    site.assert_installed()


@pytest.mark.parametrize("staged", [bytes(4_000_000), bytes(len(BIG)), BIG + b"more"])
def test_a_staged_file_that_is_no_use_is_fetched_anew(site: Site, staged: bytes) -> None:
    site.stage.mkdir(parents=True)
    (site.stage / sha256(BIG)).write_bytes(staged)
    assert site.fetch().returncode == 0
    site.assert_installed()


@pytest.mark.parametrize("control", [b"", b"\0" * 50, b"\0\1garbage" * 20])
def test_a_damaged_note_of_the_downloader_is_no_obstacle(site: Site, control: bytes) -> None:
    site.stage.mkdir(parents=True)
    (site.stage / sha256(BIG)).write_bytes(BIG[:2_000_000])
    (site.stage / f"{sha256(BIG)}.aria2").write_bytes(control)
    result = site.fetch()
    assert result.returncode == 0, result.stderr
    site.assert_installed()


def test_what_other_jobs_left_is_dropped(site: Site) -> None:
    site.stage.mkdir(parents=True)
    (site.stage / ("a" * 64)).write_bytes(b"old")
    (site.stage / ("a" * 64 + ".aria2")).write_bytes(b"old")
    assert site.fetch().returncode == 0
    site.assert_installed()


def test_a_wrong_blob_is_named_with_both_sums(site: Site, registry: Registry) -> None:
    wrong = bytes(len(BIG))
    registry.blobs[f"sha256:{sha256(BIG)}"] = wrong
    assert site.fetch().returncode == 1
    status = site.status()
    assert status["state"] == "failed"
    assert status["reason"] == f"blob sha256:{sha256(BIG)} came as sha256:{sha256(wrong)}"
    assert not site.blob(BIG).exists()
    assert not (site.stage / sha256(BIG)).exists()
    assert not (site.models / "manifests" / "registry.ollama.ai").exists()
    registry.blobs[f"sha256:{sha256(BIG)}"] = BIG
    assert site.fetch().returncode == 0
    site.assert_installed()


def test_a_registry_that_answers_500(site: Site, registry: Registry) -> None:
    registry.status = 500
    assert site.fetch().returncode == 1
    assert site.status()["reason"] == (
        f"registry answered 500 for blob sha256:{sha256(BIG)[:12]}, 5 tries"
    )
    registry.status = 200
    assert site.fetch().returncode == 0
    site.assert_installed()


def test_a_missing_blob_is_not_asked_for_again_and_again(site: Site, registry: Registry) -> None:
    del registry.blobs[f"sha256:{sha256(BIG)}"]
    assert site.fetch().returncode == 1
    assert site.status()["reason"] == f"registry answered 404 for blob sha256:{sha256(BIG)[:12]}"
    assert len(registry.requests) <= 2


def test_a_blob_shorter_than_its_manifest_says(site: Site, registry: Registry) -> None:
    registry.blobs[f"sha256:{sha256(BIG)}"] = BIG[:1_000_000]
    assert site.fetch().returncode == 1
    assert "than 1000000 of 5000000 bytes" in site.status()["reason"]


def test_a_blob_longer_than_its_manifest_says(site: Site, registry: Registry) -> None:
    registry.blobs[f"sha256:{sha256(BIG)}"] = BIG + b"more"
    assert site.fetch().returncode == 1
    assert "is longer than the 5000000 bytes" in site.status()["reason"]


def test_a_server_without_ranges(site: Site, registry: Registry) -> None:
    registry.ranges = False
    site.stage.mkdir(parents=True)
    (site.stage / sha256(BIG)).write_bytes(BIG[:1000])
    result = site.fetch()
    assert result.returncode == 0, result.stderr + result.stdout
    site.assert_installed()


def test_no_registry_at_all(site: Site) -> None:
    site.want = ModelWanted(site.want.name, "http://127.0.0.1:9", site.want.models_dir)
    assert site.fetch().returncode == 1
    assert "no answer from the registry for blob" in site.status()["reason"]


def test_a_model_directory_that_cannot_be_made(site: Site) -> None:
    site.models.write_text("a file")
    assert site.fetch().returncode == 1
    assert site.status()["reason"] == f"cannot make {site.models}"


def test_done_counts_what_is_on_the_disk(site: Site) -> None:
    site.stage.mkdir(parents=True)
    site.job.mkdir(parents=True)
    (site.job / "job").write_text(job.lines(site.want, site.manifest))
    with (site.stage / sha256(BIG)).open("wb") as staged:
        staged.write(bytes(range(256)) * 4096)
        staged.truncate(len(BIG))
        os.fsync(staged.fileno())
    status = site.status()
    assert status["total"] == str(len(BIG) + len(SMALL))
    assert status["done"] == str(1 << 20)


def test_ollamas_own_pull_by_way_of_a_mirror(site: Site, registry: Registry) -> None:
    registry.pull_lines = '{"status":"pulling manifest"}\n{"status":"success"}\n'
    installed = site.models / "manifests" / site.want.manifest_path
    installed.parent.mkdir(parents=True)
    installed.write_bytes(site.raw)
    result = site.fetch("api")
    assert result.returncode == 0, result.stderr
    source = f"{registry.url.removeprefix('http://')}/library/deepseek-r1:14b"
    assert registry.posts == [
        ("POST", "/api/pull", {"model": source, "insecure": True}),
        ("POST", "/api/copy", {"source": source, "destination": "deepseek-r1:14b"}),
        ("DELETE", "/api/delete", {"model": source}),
    ]
    assert site.status()["state"] == "complete"


def test_ollamas_pull_that_fails_after_its_first_line(site: Site, registry: Registry) -> None:
    registry.pull_lines = '{"status":"pulling manifest"}\n{"error":"max retries exceeded: EOF"}\n'
    assert site.fetch("api").returncode == 1
    assert site.status()["reason"] == "Ollama's pull: max retries exceeded: EOF"


def test_a_corrupted_final_blob_is_found_by_its_sum_when_asked(
    site: Site, registry: Registry
) -> None:
    (site.models / "blobs").mkdir(parents=True)
    site.blob(BIG).write_bytes(bytes(len(BIG)))
    site.blob(SMALL).write_bytes(SMALL)
    site.deep = True
    assert site.fetch().returncode == 0
    site.assert_installed()
    assert site.status()["placed"] == "2"  # the blob and the manifest
    # What the engine has in memory came from the bad one.
    assert registry.posts == [
        ("POST", "/api/generate", {"model": "deepseek-r1:14b", "keep_alive": 0})
    ]
    registry.requests.clear()
    assert site.fetch().returncode == 0
    assert site.status()["placed"] == "0"
    assert registry.requests == []


def test_no_blob_is_in_place_before_all_have_come(site: Site, registry: Registry) -> None:
    del registry.blobs[f"sha256:{sha256(SMALL)}"]
    assert site.fetch().returncode == 1
    assert list((site.models / "blobs").iterdir()) == []
    assert (site.stage / sha256(BIG)).read_bytes() == BIG
    registry.blobs[f"sha256:{sha256(SMALL)}"] = SMALL
    registry.requests.clear()
    assert site.fetch().returncode == 0
    site.assert_installed()
    assert not any(sha256(BIG) in path for path, _ in registry.requests)


def test_a_registry_that_fails_for_a_while_is_asked_until_it_answers(
    site: Site, registry: Registry
) -> None:
    registry.failures = 3
    assert site.fetch().returncode == 0
    site.assert_installed()


@pytest.mark.parametrize("bearer", [False, True])
def test_a_login_goes_to_the_registry_and_to_nobody_else(
    site: Site, registry: Registry, bearer: bool
) -> None:
    registry.login, registry.gives_tokens = "Basic bWU6c2VjcmV0", bearer
    assert site.fetch().returncode == 1
    assert "answered 401" in site.status()["reason"]
    site.auth = registry.login
    result = site.fetch()
    assert result.returncode == 0, result.stderr
    site.assert_installed()
    assert registry.elsewhere_logins == {None}
    assert "c2VjcmV0" not in result.stdout + result.stderr


def parts(site: Site, *numbers: int) -> list[Path]:
    """What the engine's own pull leaves: the sparse file, and a note for each part."""
    (site.models / "blobs").mkdir(parents=True)
    partial = site.models / "blobs" / f"sha256-{sha256(BIG)}-partial"
    files = [partial, *(partial.with_name(f"{partial.name}-{number}") for number in numbers)]
    for file in files:
        file.write_text("{}")
    return files


@pytest.mark.parametrize(("numbers", "kept"), [((0, 1, 2), True), ((0, 2), False), ((), False)])
def test_parts_with_a_gap_are_dropped_before_the_engine_looks(
    site: Site, registry: Registry, numbers: tuple[int, ...], kept: bool
) -> None:
    registry.pull_lines = '{"error":"file does not exist"}\n'
    files = parts(site, *numbers)
    assert site.fetch("api").returncode == 1
    assert [file.exists() for file in files] == [kept] * len(files)


def test_parts_that_the_engine_cannot_remove_are_dropped_and_it_is_asked_again(
    site: Site, registry: Registry
) -> None:
    files = parts(site, 0, 1)
    registry.pull_lines = '{"error":"remove x-partial-1: no such file or directory"}\n'
    assert site.fetch("api").returncode == 1
    assert not any(file.exists() for file in files)
    assert [path for _, path, _ in registry.posts] == ["/api/pull"] * 5


def test_a_bad_final_blob_goes_before_the_engine_trusts_it(site: Site, registry: Registry) -> None:
    (site.models / "blobs").mkdir(parents=True)
    site.blob(BIG).write_bytes(BIG[:10])
    site.blob(SMALL).write_bytes(SMALL)
    registry.pull_lines = '{"error":"file does not exist"}\n'
    assert site.fetch("api").returncode == 1
    assert not site.blob(BIG).exists()
    assert site.blob(SMALL).exists()


def sourced(site: Site, content: bytes) -> ModelSource:
    """Have the site want a model of a file that should hold BIG, and holds `content`."""
    file = site.root / "x.gguf"
    file.write_bytes(content)
    source = ModelSource("path", str(file), sha256(BIG))
    site.want = replace(site.want, source=source)
    site.raw = made.manifest(source, len(BIG))
    site.manifest = parse(site.raw)
    site.prepare()
    (site.job / f"sent-{made.config_hex(source)}").write_text(made.config(source))
    return source


def test_a_model_of_a_file(site: Site, registry: Registry) -> None:
    source = sourced(site, BIG)
    result = site.fetch()
    assert result.returncode == 0, result.stderr
    assert site.blob(BIG).read_bytes() == BIG
    config = made.config(source).encode()
    assert site.blob(config).read_bytes() == config
    assert (site.models / "manifests" / site.want.manifest_path).read_bytes() == site.raw
    assert registry.requests == []


def test_a_file_that_was_sent_is_taken_from_there(site: Site) -> None:
    sourced(site, b"not asked for")
    uploads = site.models / ".r1fleet-upload"
    uploads.mkdir(parents=True)
    (uploads / sha256(BIG)).write_bytes(BIG)
    assert site.fetch().returncode == 0
    assert site.blob(BIG).read_bytes() == BIG
    assert list(uploads.iterdir()) == []


def test_from_a_bundle_nothing_is_fetched(site: Site, registry: Registry) -> None:
    site.want = replace(site.want, bundle="/media/stick")
    uploads = site.models / ".r1fleet-upload"
    uploads.mkdir(parents=True)
    (uploads / sha256(BIG)).write_bytes(BIG)
    (uploads / sha256(b"of another model")).write_bytes(b"of another")
    assert site.fetch().returncode == 1
    assert site.status()["reason"] == f"not sent yet: {sha256(SMALL)}"
    assert list(uploads.iterdir()) == []
    (uploads / sha256(SMALL)).write_bytes(SMALL)
    assert site.fetch().returncode == 0
    assert site.blob(BIG).read_bytes() == BIG
    assert site.blob(SMALL).read_bytes() == SMALL
    assert registry.requests == []


def test_a_file_with_another_checksum(site: Site) -> None:
    sourced(site, bytes(len(BIG)))
    assert site.fetch().returncode == 1
    wrong = sha256(bytes(len(BIG)))
    assert site.status()["reason"] == f"the file's checksum is {wrong}, expected {sha256(BIG)}"
    assert not site.blob(BIG).exists()
    (site.root / "x.gguf").write_bytes(BIG)
    assert site.fetch().returncode == 0
