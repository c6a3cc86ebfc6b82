"""The mirror stage, and how a host comes to its models when the mirror answers, fails, is away."""

import functools
import hashlib
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from r1fleet import outcome, rollout
from r1fleet.fleet import HostRun
from r1fleet.hostfacts import ModelStore, Probe
from r1fleet.mirror import install as mirror
from r1fleet.mirror import plan, source
from r1fleet.model import pull
from r1fleet.model.manifest import ModelWanted, parse
from r1fleet.remote import is_refusal, title
from r1fleet.settings import Settings
from tests.operations.fakehost import FakeHost
from tests.unit.build import RUNNING, bare, working
from tests.unit.registry import BIG, Registry, serve, sha256

NAME = "deepseek-r1:14b"
WANTED = plan.wanted(Settings(), ["10.0.0.1"])


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "_outcomes", {})
    clock = SimpleNamespace(sleep=lambda _: None, monotonic=time.monotonic)
    monkeypatch.setattr(source, "time", clock)


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path, "gpu1")


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serve() as running:
        yield running


def titles(probe: Probe) -> list[str]:
    return [title(command) for command in mirror.install._inner(probe, WANTED)]


def a_mirror(**changes: Any) -> Probe:
    return bare(
        tools=frozenset({"curl", "tar", "apt-get", "systemd-run", "nginx"}),
        files={file.path: file.sha256 for file in WANTED.files},
        units={mirror.UNIT: RUNNING},
        **changes,
    )


def test_a_bare_host_becomes_a_mirror() -> None:
    assert titles(bare()) == [
        "mirror: installs nginx",
        "mirror: notes that a restart must follow",
        "mirror: writes /etc/r1fleet/mirror.conf",
        "mirror: writes /usr/local/lib/r1fleet/mirror-resolver",
        "mirror: writes /etc/systemd/system/r1fleet-mirror.service",
        "mirror: starts the mirror",
    ]


def test_a_mirror_as_wanted_is_left_alone() -> None:
    assert titles(a_mirror()) == []


def test_a_restart_follows_a_change_and_only_that() -> None:
    probe = a_mirror()
    probe.files[WANTED.files[0].path] = "0" * 64
    assert titles(probe) == [
        "mirror: notes that a restart must follow",
        "mirror: writes /etc/r1fleet/mirror.conf",
        "mirror: restarts the mirror",
    ]
    assert titles(a_mirror(mirror_restart_pending=True)) == ["mirror: restarts the mirror"]


def test_a_host_without_apt_needs_nginx() -> None:
    (first, *_) = mirror.install._inner(bare(tools=frozenset({"systemd-run"})), WANTED)
    assert is_refusal(first)


def test_the_hosts_own_nginx_is_switched_off_only_where_we_brought_it(host: FakeHost) -> None:
    for tool in ("apt-get", "systemctl"):
        asks = '[ "$1" != cat ] || [ -e "$ROOT/nginx.service" ]\n'
        host.tool(tool, f'#!/bin/sh\necho {tool} "$@" >>"$ROOT/log"\n{asks}')
    log = host.root / "log"
    for there in (True, False):
        log.unlink(missing_ok=True)
        (host.root / "nginx.service").touch() if there else (host.root / "nginx.service").unlink()
        host.run_shell_command(mirror._PACKAGE, False, False, _timeout=60)
        said = log.read_text()
        assert "install -y --no-install-recommends nginx" in said
        assert ("disable nginx.service" not in said) is there
        assert ("mask" not in said) is there


def test_an_installation_that_fails_leaves_no_mask(host: FakeHost) -> None:
    host.tool("apt-get", "#!/bin/sh\nexit 1\n")
    host.tool("systemctl", '#!/bin/sh\necho "$@" >>"$ROOT/log"\n[ "$1" != cat ]\n')
    ok, _ = host.run_shell_command(mirror._PACKAGE, False, False, _timeout=60)
    assert not ok
    assert (host.root / "log").read_text().splitlines()[-1] == "-q unmask --runtime nginx.service"


class Mirror:
    """Answers as a mirror to the question what it stands for."""

    def __init__(self, text: str, status: int = 200) -> None:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                self.send_response(status if self.path == plan.ABOUT else 404)
                self.end_headers()
                self.wfile.write(text.encode())

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))

    def __enter__(self) -> str:
        self.thread.start()
        return self.url

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def run_of(host: FakeHost, url: str, mirror_host: str | None = None, **data: Any) -> HostRun:
    settings = Settings(mirror_url=url, **data)
    anybody: Any = host
    return HostRun(anybody, settings, bare("T4"), mirror_host=mirror_host)


def ask(host: FakeHost, run: HostRun) -> str | None:
    host.play([source.ask("mirror", "asks", run)])
    return outcome.of(host.name).failure


ABOUT = "registry https://registry.ollama.ai\nengine https://elsewhere.example.org\n"


def test_only_what_the_mirror_stands_for_comes_from_it(host: FakeHost) -> None:
    with Mirror(ABOUT) as url:
        run = run_of(host, url)
        assert ask(host, run) is None
    assert (run.source.models, run.source.engine) == (url, None)
    assert run.source.settled
    assert outcome.of(host.name).warnings == []


def test_a_mirror_that_is_away(host: FakeHost) -> None:
    url = "http://127.0.0.1:9"
    run = run_of(host, url)
    assert ask(host, run) is None
    assert (run.source.models, run.source.engine, run.source.settled) == (None, None, True)
    (warning,) = outcome.of(host.name).warnings
    assert warning.startswith(f"the mirror {url} does not answer: ")
    run = run_of(host, url, mirror_fallback=False)
    failure = ask(host, run)
    assert failure
    assert failure.startswith(f"mirror: the mirror {url}: does not answer: ")
    assert failure.endswith("; put it right, or set mirror_fallback: True to fetch from the source")


def test_a_mirror_that_refuses_the_host(host: FakeHost) -> None:
    with Mirror("", status=403) as url:
        assert ask(host, run_of(host, url)) is None
    (warning,) = outcome.of(host.name).warnings
    assert "refuses this host (403): its address is not in mirror_allow" in warning


def test_a_mirror_that_this_run_makes_is_waited_for(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome.of("m").probe = bare()
    waits: list[float] = []

    def passes(seconds: float) -> None:
        waits.append(seconds)
        outcome.of("m").mirrors = len(waits) == 3

    monkeypatch.setattr(source.time, "sleep", passes)
    host.tool("curl", "#!/bin/sh\necho refused >&2\nexit 7\n")
    host.tool("sleep", "#!/bin/sh\n")
    run = run_of(host, "http://127.0.0.1:9", mirror_host="m")
    assert ask(host, run) is None
    assert len(waits) == 3  # then it was ready, and did still not answer


def test_a_mirror_that_still_stands_for_something_else_is_waited_for(host: FakeHost) -> None:
    outcome.of("m").probe = bare()
    log = host.root / "log"
    host.tool(
        "curl",
        '#!/bin/sh\necho asked >>"$ROOT/log"\n'
        f"echo registry {Settings().registry_url}\n"
        f'[ "$(wc -l <"$ROOT/log")" -lt 3 ] || echo engine {Settings().engine_url}\n',
    )
    run = run_of(host, "http://10.0.0.9:5080", mirror_host="m")
    assert ask(host, run) is None
    assert run.source.engine == run.source.models == "http://10.0.0.9:5080"
    assert len(log.read_text().split()) == 3


@pytest.mark.parametrize("change", [{"failure": "no"}, {"probe": None}, {"mirrors": True}])
def test_a_mirror_that_will_not_come_is_not_waited_for(change: dict[str, Any]) -> None:
    found = outcome.of("m")
    found.probe = bare()
    assert source.coming("m")
    for key, value in change.items():
        setattr(found, key, value)
    assert not source.coming("m")
    assert not source.coming(None)


def job(host: FakeHost, url: str, fallback: str | None) -> pull.Pull:
    models = str(host.at("/srv/models"))
    return pull.Pull(ModelWanted(NAME, url, models, mirrored=True, fallback_url=fallback))


def deliver(host: FakeHost, wanted: pull.Pull) -> str | None:
    if host.play(pull.start._inner(wanted, bare(models=ModelStore()))):
        host.play(pull.finish._inner(wanted))
    return outcome.of(host.name).failure


def test_a_mirror_that_lacks_a_blob_is_left_for_the_source(
    host: FakeHost, registry: Registry
) -> None:
    with serve() as lacking:
        del lacking.blobs[f"sha256:{sha256(BIG)}"]
        wanted = job(host, lacking.url, registry.url)
        assert deliver(host, wanted) is None
    assert wanted.installed == parse(registry.manifest)
    assert host.starts() == ["started", "started"]
    (warning,) = outcome.of(host.name).warnings
    assert warning.startswith("the mirror failed: registry answered 404 for blob sha256:")


def test_without_fallback_a_failing_mirror_ends_the_host(host: FakeHost) -> None:
    with serve() as lacking:
        del lacking.blobs[f"sha256:{sha256(BIG)}"]
        failure = deliver(host, job(host, lacking.url, None))
    assert failure
    assert "; see to the mirror, or set mirror_fallback: True; run again" in failure
    assert host.starts() == ["started"]


def test_a_blob_that_the_mirror_has_wrong_comes_from_the_source(
    host: FakeHost, registry: Registry
) -> None:
    with serve() as wrong:
        wrong.blobs[f"sha256:{sha256(BIG)}"] = BIG[:-1] + b"x"
        wanted = job(host, wrong.url, registry.url)
        assert deliver(host, wanted) is None
    assert wanted.installed == parse(registry.manifest)


def test_a_manifest_that_the_mirror_cannot_give_comes_from_the_source(
    host: FakeHost, registry: Registry
) -> None:
    wanted = job(host, "http://127.0.0.1:9", registry.url)
    assert deliver(host, wanted) is None
    assert wanted.installed == parse(registry.manifest)
    assert host.starts() == ["started"]


def engine(folder: Path) -> str:
    """A folder as below engine_url; returns the archive's SHA-256."""
    tree = folder / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/ollama").write_text("#!/bin/sh\n")
    (tree / "bin/ollama").chmod(0o755)
    (folder / "v1").mkdir()
    tar = ["tar", "--zstd", "-cf", str(folder / "v1/ollama.tar.zst"), "-C", str(tree), "."]
    subprocess.run(tar, check=True, timeout=60)
    return hashlib.sha256((folder / "v1/ollama.tar.zst").read_bytes()).hexdigest()


@pytest.mark.parametrize("trouble", ["away", "damaged"])
@pytest.mark.parametrize("fallback", [True, False])
def test_an_engine_that_the_mirror_cannot_give(
    tmp_path: Path, trouble: str, fallback: bool
) -> None:
    digest = engine(tmp_path / "source")
    if trouble == "damaged":
        (tmp_path / "mirror/v1").mkdir(parents=True)
        (tmp_path / "mirror/v1/ollama.tar.zst").write_bytes(b"cut")
    script = (resources.files("r1fleet.engine") / "install.sh").read_text(encoding="ascii")
    values = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "URL": f"file://{tmp_path}/mirror/v1/ollama.tar.zst",
        "SHA256": digest,
        "ROCM_URL": "",
        "MIRROR": f"file://{tmp_path}/mirror",
        "SOURCE": f"file://{tmp_path}/source" if fallback else "",
        "ROOT": str(tmp_path / "opt"),
        "KEY": "1",
    }
    done = subprocess.run(
        ["sh", "-c", script], env=values, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode == 0) is fallback, done.stderr
    assert (tmp_path / "opt/1/bin/ollama").exists() is fallback


@pytest.mark.parametrize("fallback", [True, False])
def test_a_mirror_cannot_vouch_for_its_own_archive(tmp_path: Path, fallback: bool) -> None:
    """By plain HTTP it could give another archive with a checksum that fits."""
    engine(tmp_path / "source")
    engine(tmp_path / "mirror")
    with (tmp_path / "mirror/v1/ollama.tar.zst").open("ab") as archive:
        archive.write(bytes.fromhex("502a4d1800000000"))  # an empty frame: unpacked it is the same
    for name in ("source", "mirror"):
        digest = hashlib.sha256((tmp_path / name / "v1/ollama.tar.zst").read_bytes()).hexdigest()
        sums = tmp_path / name / "v1/sha256sum.txt"
        sums.write_text(f"{digest}  ./ollama.tar.zst\n")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "mirror"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mirror = f"http://127.0.0.1:{server.server_address[1]}"
        values = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "no_proxy": "*",
            "URL": f"{mirror}/v1/ollama.tar.zst",
            "SHA256": "",
            "ROCM_URL": "",
            "MIRROR": mirror,
            "SOURCE": f"file://{tmp_path}/source" if fallback else "",
            "ROOT": str(tmp_path / "opt"),
            "KEY": "1",
        }
        script = (resources.files("r1fleet.engine") / "install.sh").read_text(encoding="ascii")
        command = ["sh", "-c", script]
        done = subprocess.run(
            command, env=values, capture_output=True, text=True, timeout=60, check=False
        )
        server.shutdown()
    assert (tmp_path / "opt/1/bin/ollama").exists() is fallback, done.stderr
    if fallback:
        assert "checksum of ollama.tar.zst" in done.stderr  # of the mirror's; the source's is right
    else:
        assert "set engine_sha256" in done.stderr


def preview(run: HostRun) -> list[str]:
    steps, refusal = rollout.preview(run)
    assert refusal is None
    return [step for step in steps if not step.startswith(" ")]


def stub(probe: Probe, **changes: Any) -> HostRun:
    settings = changes.pop("settings", Settings())
    anybody: Any = SimpleNamespace(name="h", data={}, state=SimpleNamespace(is_executing=False))
    return HostRun(anybody, settings, probe, **changes)


def test_a_host_that_is_only_a_mirror_serves_nothing_and_needs_no_gpu() -> None:
    run = stub(bare(), settings=Settings(serve=False), mirror=WANTED)
    steps = preview(run)
    assert steps == titles(bare())
    assert preview(stub(a_mirror(), settings=Settings(serve=False), mirror=WANTED)) == []


def test_a_gpu_host_is_a_mirror_before_anything_else_and_then_asks_it() -> None:
    settings = Settings(mirror_url="http://10.0.0.9:5080")
    steps = preview(stub(bare("T4", driver=working("T4")), settings=settings, mirror=WANTED))
    assert steps[: len(titles(bare()))] == titles(bare())
    asked = steps.index("mirror: asks the mirror http://10.0.0.9:5080")
    assert asked < next(place for place, step in enumerate(steps) if step.startswith("pull"))
