"""The gateway stage: what is sent, in which order, and that no secret is in a command."""

import hashlib
import io
import json
import subprocess
import tarfile
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from r1fleet import decide, drain, fleet, handover, outcome, rollout
from r1fleet.fleet import HostRun
from r1fleet.gateway import exposure, install, knock, stage, wanted
from r1fleet.gateway.tokens import TokensError
from r1fleet.hostfacts import Gateway, LoadedModel, Probe, Unit
from r1fleet.model.pull import Pull
from r1fleet.remote import title
from r1fleet.settings import Settings
from tests.operations.fakehost import FakeHost
from tests.unit.build import RUNNING, bare, working
from tests.unit.served import choice_of, served

SECRET = f"r1f_{'a' * 43}"
STORE = f"key {'k' * 43}\nalice use {SECRET}\n"
DIGEST = "0" * 64


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "_outcomes", {})


@pytest.fixture
def tokens(tmp_path: Path) -> str:
    path = tmp_path / "tokens"
    path.write_text(STORE)
    path.chmod(0o600)
    return f"file:{path}"


@pytest.fixture
def want(tokens: str) -> wanted.GatewayWanted:
    settings = Settings(expose="gateway", gateway_tokens=tokens)
    return wanted.gateway(settings, settings.gateway_store, "h", "10.0.0.7", "x86_64")


def as_wanted(want: wanted.GatewayWanted, **changes: Any) -> Probe:
    files = {file.path: file.sha256 for file in (*want.files, want.unit)}
    gateway = Gateway(current=want.archive.key, versions=frozenset({want.archive.key}))
    return bare("T4", files=files, units={wanted.UNIT: RUNNING}, gateway=gateway, **changes)


def titles(probe: Probe, want: wanted.GatewayWanted) -> list[str]:
    return [title(command) for command in install.install._inner(probe, want, {}, 60)]


def test_a_bare_host_is_made_ready_and_not_opened(want: wanted.GatewayWanted) -> None:
    assert titles(bare("T4"), want) == [
        "gateway: downloads and checks Caddy 2.11.9",
        "gateway: prepares its account and folders",
        "gateway: writes /etc/r1fleet/gateway/Caddyfile",
        "gateway: writes /etc/r1fleet/gateway/tokens",
        "gateway: validates its files and switches to Caddy 2.11.9",
        "gateway: writes /etc/systemd/system/r1fleet-gateway.service",
    ]


def test_a_gateway_as_wanted_is_left_alone(want: wanted.GatewayWanted) -> None:
    assert titles(as_wanted(want), want) == []
    assert list(install.start._inner(as_wanted(want))) == []


def test_other_tokens_mean_a_reload_and_another_unit_a_restart(want: wanted.GatewayWanted) -> None:
    probe = as_wanted(want)
    probe.files[want.files[1].path] = "0" * 64
    assert titles(probe, want) == [
        "gateway: prepares its account and folders",
        "gateway: writes /etc/r1fleet/gateway/tokens",
        "gateway: validates its files",
        "gateway: reloads the gateway",
    ]
    probe = as_wanted(want)
    probe.files[want.unit.path] = "0" * 64
    assert titles(probe, want) == [
        "gateway: prepares its account and folders",
        "gateway: validates its files",
        "gateway: writes /etc/systemd/system/r1fleet-gateway.service",
        "gateway: holds new requests back",
        "gateway: restarts the gateway",
    ]


def test_a_restart_waits_for_requests_and_that_of_a_fleet_gateway_says_what_it_cuts(
    want: wanted.GatewayWanted,
) -> None:
    loaded = LoadedModel("deepseek-r1:14b", DIGEST, 1, 1, 32768)
    probe = as_wanted(want, loaded=(loaded,))
    other = replace(probe, gateway=replace(probe.gateway, current="2.10.0"))
    assert titles(other, want)[1:] == [
        "gateway: validates its files and switches to Caddy 2.11.9",
        "gateway: holds new requests back",
        "engine: waits for running requests",
        "gateway: restarts the gateway",
    ]
    fleet_gateway = replace(other, gateway=replace(other.gateway, knows="{}"))
    assert titles(fleet_gateway, want)[2:] == [
        "gateway: restarts the gateway: connections through it are cut"
    ]


@pytest.mark.parametrize("verb", ["reload", "restart"])
def test_a_run_that_was_cut_off_is_made_good(want: wanted.GatewayWanted, verb: str) -> None:
    probe = as_wanted(want)
    probe = replace(probe, gateway=replace(probe.gateway, pending=verb))
    assert titles(probe, want)[-1] == f"gateway: {verb}s the gateway"
    assert ("gateway: holds new requests back" in titles(probe, want)) is (verb == "restart")


def test_no_secret_is_in_any_command(want: wanted.GatewayWanted) -> None:
    commands = list(install.install._inner(bare("T4"), want, {}, 60))
    scripts = [str(arg) for command in commands for arg in command.args]
    assert sum(SECRET in str(command.kwargs.get("stdin")) for command in commands) == 1
    assert not [script for script in scripts if "r1f_a" in script]


@pytest.mark.parametrize("versions", [frozenset(), frozenset({"2.11.9"})])
def test_a_gateway_that_is_not_wanted_goes(versions: frozenset[str]) -> None:
    probe = bare("T4", gateway=Gateway(versions=versions))
    steps = [title(command) for command in install.remove._inner(probe)]
    assert steps == ["gateway: closes and removes the gateway"][: len(versions)]
    left = bare("T4", units={wanted.UNIT: Unit(load="loaded")})
    assert len(list(install.remove._inner(left))) == 1


def run_of(probe: Probe, **settings: Any) -> HostRun:
    host: Any = SimpleNamespace(
        name="h", data={"ssh_hostname": "10.0.0.7"}, state=SimpleNamespace(is_executing=False)
    )
    return HostRun(host, Settings(**settings), probe)


def test_it_is_ready_before_the_proof_and_opened_after_it(tokens: str) -> None:
    run = run_of(bare("T4", driver=working("T4")), expose="gateway", gateway_tokens=tokens)
    steps, refusal = rollout.preview(run)
    assert refusal is None
    order = [
        "gateway: writes /etc/r1fleet/gateway/tokens",
        "verify: loads deepseek-r1:14b and asks it the smoke prompt",
        "gateway: opens the gateway",
        "verify: connects to 10.0.0.7, from here and from another host",
    ]
    places = [steps.index(step) for step in order]
    assert places == sorted(places)


def test_without_tokens_the_host_is_refused(tmp_path: Path) -> None:
    settings = Settings(expose="gateway", gateway_tokens=f"file:{tmp_path}/none")
    with pytest.raises(TokensError, match="r1fleet token new NAME"):
        _ = settings.gateway_store


def test_a_host_is_opened_with_its_pool_and_takes_requests_again() -> None:
    run = run_of(bare("T4"), expose="gateway")
    probe = bare("T4", gateway=Gateway(pools=frozenset({"a" * 12}), drained=True))
    steps = [title(command) for command in stage.open_up(run, probe, DIGEST, 32768)]
    assert steps[0].startswith("gateway: joins the pool ")
    assert steps[1:] == ["gateway: opens the gateway", "gateway: takes requests again"]
    assert list(stage.open_up(run_of(bare("T4")), probe, DIGEST, 32768)) == []


def test_requests_are_held_back_before_they_are_waited_for() -> None:
    loaded = LoadedModel("deepseek-r1:14b", DIGEST, 1, 1, 32768)
    probe = bare("T4", units={wanted.UNIT: RUNNING}, loaded=(loaded,))
    steps = [title(command) for command in drain.drain._inner(probe, 60)]
    assert steps == [
        "gateway: holds new requests back",
        "engine: waits for running requests",
    ]
    closed = bare("T4", loaded=(loaded,))
    assert len(list(drain.drain._inner(closed, 60))) == 1


def test_the_health_check_fails_before_requests_are_refused(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, "h")
    host.tool("sleep", '#!/bin/sh\necho "$1" >>"$ROOT/slept"; ls "$ROOT/marks" >"$ROOT/seen"\n')
    marks = tmp_path / "marks"
    script = drain._HOLD_BACK.replace("/run/r1fleet", str(marks))
    # A restart of the gateway alone, one of the engine, and what may follow in the same run.
    for whose, said in (("gateway", "gateway"), ("engine", "engine"), ("gateway", "engine")):
        ok, _ = host.run_shell_command(f"WHOSE={whose}\n{script}", False, False, _timeout=30)
        assert ok
        assert (marks / "refusing").read_text() == f"{said}\n"
    assert (tmp_path / "seen").read_text() == "draining\n"
    (slept,) = (tmp_path / "slept").read_text().split()  # once: later there is nobody to wait for
    assert int(slept) > 2 * 2
    assert {path.name for path in marks.iterdir()} == {"draining", "refusing"}
    assert host.at("/var/lib/r1fleet/draining").exists()


def archive(folder: Path, name: str = "caddy") -> str:
    """A release's folder; returns the archive's SHA-512."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        entry = tarfile.TarInfo(name)
        entry.mode, entry.size = 0o755, 10
        tar.addfile(entry, io.BytesIO(b"#!/bin/sh\n"))
    folder.mkdir()
    (folder / "caddy_1_linux_amd64.tar.gz").write_bytes(content.getvalue())
    digest = hashlib.sha512(content.getvalue()).hexdigest()
    lines = f"{'1' * 128}  caddy_1_linux_arm64.tar.gz\n{digest}  caddy_1_linux_amd64.tar.gz\n"
    (folder / "caddy_1_checksums.txt").write_text(lines)
    return digest


def fetch(folder: Path, sha512: str) -> subprocess.CompletedProcess[str]:
    script = (resources.files("r1fleet.gateway") / "install.sh").read_text(encoding="ascii")
    values = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "URL": f"file://{folder}/caddy_1_linux_amd64.tar.gz",
        "SUMS_URL": f"file://{folder}/caddy_1_checksums.txt",
        "SHA512": sha512,
        "ROOT": str(folder / "opt"),
        "KEY": "1",
    }
    return subprocess.run(
        ["sh", "-c", script], env=values, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("pinned", [True, False])
def test_the_archive_is_checked_and_unpacked(tmp_path: Path, pinned: bool) -> None:
    folder = tmp_path / "v1"
    digest = archive(folder)
    for _ in range(2):
        done = fetch(folder, digest if pinned else "")
        assert done.returncode == 0, done.stderr
    binary = folder / "opt/1/caddy"
    assert binary.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in (folder / "opt").iterdir()] == ["1"]


@pytest.mark.parametrize("trouble", ["pin", "sums", "no line", "no sums", "no caddy"])
def test_an_archive_that_is_not_as_it_should_be(tmp_path: Path, trouble: str) -> None:
    folder = tmp_path / "v1"
    archive(folder, "other" if trouble == "no caddy" else "caddy")
    sums = folder / "caddy_1_checksums.txt"
    if trouble == "sums":
        sums.write_text(f"{'0' * 128}  caddy_1_linux_amd64.tar.gz\n")
    elif trouble == "no line":
        sums.write_text("")
    elif trouble == "no sums":
        sums.unlink()
    done = fetch(folder, "0" * 128 if trouble == "pin" else "")
    assert done.returncode == 1
    said = {"pin": "expected 0000", "sums": "expected 0000", "no line": "has no line for"}
    assert said.get(trouble, "") in done.stderr
    assert list((folder / "opt").iterdir()) == []


class Service:
    """Something that speaks HTTP; with a token it answers otherwise than without."""

    def __init__(self, without: int, with_token: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                told = "Authorization" in self.headers
                self.send_response(with_token if told else without)
                self.end_headers()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))

    def __enter__(self) -> int:
        self.thread.start()
        return self.server.server_port

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def closed() -> int:
    """A port where nobody listens."""
    with Service(200, 200) as port:
        return port


def tried(tmp_path: Path, tokens: str, policy: str, **ports: Any) -> str | None:
    """The failure of a host after the check, from here; there is no other host."""
    host = FakeHost(tmp_path, "h")
    settings = Settings(gateway_tokens=tokens)
    anybody: Any = host
    want = exposure.Exposure(
        policy, "127.0.0.1", ports["engine"], ports.get("gateway"), "off", "127.0.0.1"
    )
    run = HostRun(anybody, settings)
    host.play([exposure.try_it("verify", "connects", want, run, exposure.Tried())])
    return outcome.of("h").failure


@pytest.mark.parametrize("policy", ["local", "gateway"])
@pytest.mark.parametrize("status", [200, 403])
def test_an_engine_that_answers_others_fails_its_host(
    tmp_path: Path, tokens: str, policy: str, status: int
) -> None:
    with Service(status, status) as port:
        failure = tried(tmp_path, tokens, policy, engine=port)
    assert failure
    assert f"expose is {policy}, and this machine reaches the engine at http://127." in failure


def test_an_engine_that_nobody_reaches_is_local(tmp_path: Path, tokens: str, closed: int) -> None:
    assert tried(tmp_path, tokens, "local", engine=closed) is None
    assert outcome.of("h").warnings == []


def test_open_is_open(tmp_path: Path, tokens: str, closed: int) -> None:
    with Service(200, 200) as port:
        assert tried(tmp_path, tokens, "open", engine=port) is None
    assert outcome.of("h").warnings == []
    assert tried(tmp_path, tokens, "open", engine=closed) is None
    assert "does not reach the engine" in outcome.of("h").warnings[0]


@pytest.mark.parametrize(
    ("without", "with_token", "words"),
    [(401, 200, None), (200, 200, "200 without a token"), (401, 401, "401 with one")],
)
def test_a_gateway_asks_for_a_token(
    tmp_path: Path, tokens: str, closed: int, without: int, with_token: int, words: str | None
) -> None:
    with Service(without, with_token) as port:
        failure = tried(tmp_path, tokens, "gateway", engine=closed, gateway=port)
    assert (failure is None) is (words is None)
    assert words is None or words in str(failure)


def test_a_gateway_that_is_not_reached_is_told(tmp_path: Path, tokens: str, closed: int) -> None:
    assert tried(tmp_path, tokens, "gateway", engine=closed, gateway=closed + 1) is None
    assert any("is not reached from this machine" in text for text in outcome.of("h").warnings)


@pytest.mark.parametrize("policy", ["gateway", "open"])
def test_what_nobody_reaches_is_warned_of_in_each_run_until_somebody_does(
    tmp_path: Path, tokens: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"reached": False}
    monkeypatch.setattr(exposure.knock, "answers", lambda *_: found["reached"] and policy == "open")

    def gateway(*_: object) -> tuple[int, int]:
        if not found["reached"]:
            raise OSError("no route")
        return (401, 200)

    monkeypatch.setattr(exposure.knock, "gateway", gateway)
    host: Any = FakeHost(tmp_path, "h")
    host.data, host.state = {"ssh_hostname": "10.0.0.7"}, SimpleNamespace(is_executing=True)
    more: Any = {"ollama_host": "0.0.0.0:1", "expose_unauthenticated": "yes-i-know"}
    run = HostRun(
        host, Settings(expose=policy, gateway_tokens=tokens, **(more if policy == "open" else {}))
    )
    state: dict[str, Any] = {}

    def checked(rehearsing: bool = False) -> list[str]:
        """The warnings of a run, which keeps what it writes."""
        outcome.forget("h")
        commands = exposure.check._inner(replace(run, rehearsing=rehearsing), bare("T4"), state)
        if rehearsing:
            assert list(commands) == []
        else:
            assert host.play(commands)
            kept = host.at("/var/lib/r1fleet/state.json")
            state.update(json.loads(kept.read_text()) if kept.exists() else {})
        return outcome.of("h").warnings

    assert len(checked()) == 1
    assert "reached from nowhere" in checked(rehearsing=True)[0]
    assert len(checked()) == 1  # tried again
    found["reached"] = True
    assert checked() == []
    found["reached"] = False
    assert checked() == []  # it stands
    assert checked(rehearsing=True) == []


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "@local"])
def test_a_host_behind_a_forwarded_port_is_not_taken_for_open(tmp_path: Path, address: str) -> None:
    """Another host that asks there asks itself, and finds its own engine."""
    host: Any = FakeHost(tmp_path, "h")
    host.data = {"ssh_hostname": address}
    run = HostRun(host, Settings())
    assert list(exposure.check._inner(run, bare("T4"), {"verified": {"at": "now"}})) == []
    assert "whether others reach it was not tried" in outcome.of("h").notes[0]


def test_another_host_tries_as_well(
    tmp_path: Path, tokens: str, closed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = FakeHost(tmp_path, "o")
    other.tool("curl", '#!/bin/sh\necho "$@" >>"$ROOT/asked"; printf "200 "\n')
    anybody: Any = other
    monkeypatch.setattr(fleet._fleet, "runs", {"o": HostRun(anybody, Settings(), bare("T4"))})

    def no_transport(*_: Any, **__: Any) -> None:
        raise AttributeError("'NoneType' object has no attribute 'open_session'")

    with monkeypatch.context() as rebooting:
        rebooting.setattr(other, "run_shell_command", no_transport)
        assert tried(tmp_path, tokens, "local", engine=closed) is None
    outcome.of("o").stage = "driver"  # it may be in a reboot
    assert tried(tmp_path, tokens, "local", engine=closed) is None
    outcome.of("o").stage = "verify"
    failure = tried(tmp_path, tokens, "local", engine=closed)
    assert failure
    assert "expose is local, and o reaches the engine" in failure
    assert SECRET not in (tmp_path / "asked").read_text()


def test_a_proof_of_exposure_stands_as_long_as_nothing_of_it_changes() -> None:
    want = exposure.exposure(Settings(expose="gateway"), "10.0.0.7", "")
    now = exposure.stamp(want, bare("T4"))
    state = {"verified": {"at": "then"}, "exposure": {"stamp": now}}
    assert exposure.is_proven(state, now)
    assert not exposure.is_proven(state, exposure.stamp(want, bare(boot_id="b1")))
    elsewhere = exposure.exposure(Settings(expose="gateway"), "gpu1", "")
    assert exposure.is_proven(state, exposure.stamp(elsewhere, bare("T4")))
    # A new proof of the host, or a check that failed, leaves no entry.
    assert not exposure.is_proven({"verified": {"at": "then"}}, now)


def test_a_reached_engine_fails_again_in_the_next_run(tmp_path: Path, tokens: str) -> None:
    """The host's own proof was written before the check failed: that must not count for it."""
    host: Any = FakeHost(tmp_path, "h")
    host.data = {"ssh_hostname": "10.0.0.7"}
    run = HostRun(host, Settings(gateway_tokens=tokens))
    state = {"verified": {"at": "now"}}
    probe = bare("T4", state=state)
    assert next(title(one) for one in exposure.check._inner(run, probe, state)).startswith(
        "verify: connects to 10.0.0.7"
    )


def test_a_new_proof_asks_who_reaches_the_host_again() -> None:
    found = served()
    run = HostRun(Any, Settings(), found)
    assert "exposure" in found.state
    for verified, stays in ((found.state["verified"], True), ({"at": "now"}, False)):
        state = _finished(run, found, verified)
        assert ("exposure" in state) is stays


def _finished(run: HostRun, probe: Probe, verified: Any) -> dict[str, Any]:
    """state.json as the last stage writes it, with this proof."""
    choice = choice_of(probe)
    assert choice
    proof = decide.proof_wanted(run.settings, choice, f"sha256:{DIGEST}", probe)
    delivery = Pull(decide.model_wanted(run.settings, choice))
    made = handover.finish(
        run, probe, proof, (), choice, delivery, lambda more: {**more, "verified": verified}
    )
    while True:
        try:
            next(made)
        except StopIteration as end:
            return dict(end.value)


def test_knocking_where_nobody_is_raises_nothing_else_than_os_errors(closed: int) -> None:
    assert not knock.answers("127.0.0.1", closed)
    with pytest.raises(OSError, match="refused"):
        knock.gateway("127.0.0.1", closed, "off", "x", "", SECRET)


def test_with_a_bundle_caddy_is_sent(tokens: str) -> None:
    settings = Settings(expose="gateway", gateway_tokens=tokens, bundle="/media/r1")
    found = wanted.archive(settings, "x86_64")
    home = "file:///var/lib/r1fleet/bundle/gateway"
    assert found.url == f"{home}/caddy_2.11.9_linux_amd64.tar.gz"
    assert found.sums_url == f"{home}/x86_64-caddy_2.11.9_checksums.txt"
    assert [title(one) for one in install.fetch._inner(bare("T4"), found, {})] == [
        "gateway: takes Caddy 2.11.9 from the bundle",
        "gateway: unpacks Caddy 2.11.9",
    ]
