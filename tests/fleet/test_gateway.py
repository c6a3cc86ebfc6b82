"""Eight hosts behind one address: pools, upgrades without a lost request, hosts that fail."""

import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import services
from r1fleet.gateway.pool import HEALTH_INTERVAL_S
from tests.fleet.through import CHAT, PORT, Crowd, Door
from tests.lab.conftest import BIN, ROOT, Lab, Run, seen
from tests.lab.steady import LONG, busy
from tests.lab.test_alias import OTHER_TAG
from tests.lab.test_waves import waves
from tests.lab.variants import published

pytestmark = pytest.mark.lab

GATEWAY = "gateway"
CONFIG = "/etc/r1fleet/gateway/Caddyfile"
CA = "/var/lib/r1fleet-gateway/caddy/pki/authorities/local"
THREES = ("--data", "rollout_batch=3")
NOTICED_S = 2 * HEALTH_INTERVAL_S + 1


@dataclass(frozen=True)
class Shared:
    """The fleet behind its gateway; `flags` make the main job want that."""

    lab: Lab
    first: Run
    flags: tuple[str, ...]
    door: Door

    def deploy(self, *more: str) -> Run:
        return self.lab.deploy(*self.flags, *more)

    def reloads(self) -> int:
        """How often the gateway has read its Caddyfile again."""
        script = "journalctl --sync; journalctl -q -u r1fleet-gateway -o cat --no-pager -b"
        return int(self.lab.on(GATEWAY, f"{script} | grep -c '^Reloading' || :"))

    def since(self) -> str:
        """This moment, for `asked`."""
        return self.lab.on(GATEWAY, "date +%s.%N").strip()

    def asked(self, since: str, least: int = 0) -> Counter[str]:
        """Which host got how many requests from then on, by the gateway's log; it writes a line
        when the client has its answer already: at least so many are waited for."""
        script = "journalctl --sync; journalctl -q -u r1fleet-gateway -o cat --no-pager"
        names = {f"{host.address}:{PORT}": name for name, host in self.lab.state.hosts.items()}

        def count() -> Counter[str]:
            lines = self.lab.on(GATEWAY, f"{script} --since @{since}").splitlines()
            rows = [json.loads(line) for line in lines if line.startswith("{")]
            asked = [row["host"] for row in rows if row.get("path") == "/api/chat"]
            return Counter(names.get(host, host) for host in asked)

        return seen(count, lambda found: sum(found.values()) >= least)

    def serving(self) -> set[str]:
        """The hosts that are asked; one that is back is seen at the next health check."""
        since = self.since()

        def ask() -> set[str]:
            with ThreadPoolExecutor(8) as clients:
                assert set(clients.map(lambda _: self.door.word(), range(50))) == {"READY"}
            return set(self.asked(since))

        return seen(ask, lambda hosts: hosts >= set(self.lab.hosts))


@pytest.fixture(scope="module")
def shared(lab: Lab, served: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    store = tmp_path_factory.mktemp("tokens") / "tokens"
    made = subprocess.run(
        [BIN / "r1fleet", "token", "new", "ann", "--file", str(store)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    flags = ("--data", "expose=gateway", "--data", f"gateway_tokens=file:{store}")
    try:
        first = lab.deploy(*flags)
        assert first.code == 0, first.output
        address = lab.state.hosts[GATEWAY].address
        door = Door(address, lab.on(GATEWAY, f"cat {CA}/root.crt"), made.stdout.strip())
        yield Shared(lab, first, flags, door)
    finally:
        back = lab.deploy()
        assert back.code == 0, back.output
        for host in (*lab.hosts, GATEWAY):
            assert lab.on(host, "ls -d /etc/r1fleet/gateway", ok=False) == ""


def test_one_address_for_the_fleet_and_a_second_run_sends_nothing(shared: Shared) -> None:
    assert shared.first.row(GATEWAY)["verdict"] == "changed"
    since = shared.since()
    assert {shared.door.word(path) for path in ("/api/chat", "/14b/api/chat")} == {"READY"}
    assert sum(shared.asked(since, 1).values()) == 1  # the other one's path has the prefix
    again = shared.deploy()
    assert again.code == 0, again.output
    assert set(again.verdicts().values()) == {"as wanted"}
    assert len(re.findall(r"\[gateway\]\s+No changes", again.output)) == 3


def test_tokens_and_roles_are_those_of_the_hosts(shared: Shared) -> None:
    ask = shared.door.ask
    for token in ("", "r1f_" + "x" * 43):
        status, said = ask("/api/tags", token=token)
        assert (status, "a token is needed" in said["error"]) == (401, True)
    status, said = ask("/api/pull", {"model": "deepseek-r1:7b"})
    assert (status, "at each host's own" in said["error"]) == (403, True)
    assert ask("/api/delete", {"model": CHAT["model"]}, method="DELETE")[0] == 403
    for path in ("/32b/api/tags", "/14b//api/tags", "/14b/14b/api/tags", "/14b", "/r1fleet/x"):
        assert ask(path)[0] == 404, path
    assert ask("/14b/api/tags")[0] == ask("/v1/models")[0] == 200


def test_the_gateways_secrets_are_for_it_alone(shared: Shared) -> None:
    """Each host takes a token of its own; that of the health checks opens nothing."""
    lab = shared.lab
    tokens = lab.on(GATEWAY, "cat /etc/r1fleet/gateway/tokens")
    own = dict(re.findall(r"(?m)^\s*(198\S+) (r1f_\S+)$", tokens))
    health = re.findall(r'Authorization "Bearer (r1f_\S+)"', tokens)
    assert len(own) == len(set(own.values())) == len(lab.hosts)
    assert lab.on(GATEWAY, "stat -c '%a %U:%G' /etc/r1fleet/gateway/tokens") == (
        "640 root:r1fleet-gateway\n"
    )
    first, second = (f"{lab.state.hosts[host].address}:{PORT}" for host in lab.hosts[:2])
    pool = lab.on(lab.hosts[0], "ls /etc/r1fleet/gateway/pools").strip()

    def status(token: str, path: str) -> str:
        script = (
            f"curl -sk --noproxy '*' -o /dev/null -w '%{{http_code}}' -K - https://{first}{path}"
            f" <<'END'\nheader = \"Authorization: Bearer {token}\"\nEND"
        )
        return lab.on(GATEWAY, script)

    assert status(own[first], "/api/tags") == "200"
    assert status(own[second], "/api/tags") == "401"
    assert status(health[0], f"/r1fleet/health/{pool}") == "200"
    assert status(health[0], "/r1fleet/health/any") == "200"
    assert status(health[0], "/r1fleet/health/000000000000") == "503"
    assert status(health[0], "/api/tags") == "404"


def test_a_hundred_requests_answer_from_one_digest(shared: Shared, tmp_path: Path) -> None:
    """One host serves another digest, which the gateway was not told: the host itself says so."""
    lab, other = shared.lab, shared.lab.hosts[-1]
    with published(lab, tmp_path, OTHER_TAG, answer="READYX") as flags:
        limit = ("--limit", other, "--data", f"tag={OTHER_TAG}", *flags)
        config = lab.on(GATEWAY, f"cat {CONFIG}")
        with Crowd(shared.door, "one host of another digest") as crowd:
            run = shared.deploy(*limit)
        assert run.code == 0, run.output
        assert lab.on(GATEWAY, f"cat {CONFIG}") == config
        assert not crowd.failed, crowd.told
        assert {word for mine in crowd.words for word in mine} == {"READY"}

        since = shared.since()
        with ThreadPoolExecutor(8) as clients:
            words = Counter(clients.map(lambda _: shared.door.word(), range(100)))
        assert words == {"READY": 100}
        asked = shared.asked(since, 100)
    assert sum(asked.values()) == 100
    assert set(asked) == set(lab.hosts) - {other}
    alias = {host: lab.api(host, "/api/tags")["models"] for host in asked}
    digests = {
        row["digest"] for rows in alias.values() for row in rows if row["name"] == CHAT["model"]
    }
    assert len(digests) == 1
    back = shared.deploy()
    assert back.code == 0, back.output
    assert shared.serving() == set(lab.hosts)


def other_engine(lab: Lab) -> tuple[str, ...]:
    """The same engine in an archive of another checksum: the flags that make the main job want it.
    A frame that zstd skips is all that differs."""
    version = lab.state.engine_version
    before = services.www_dir() / "ollama" / f"v{version}" / services.ARCHIVE
    folder = services.www_dir() / "other" / f"v{version}"
    folder.mkdir(parents=True, exist_ok=True)
    data = before.read_bytes() + bytes.fromhex("502a4d1804000000") + b"next"
    (folder / services.ARCHIVE).write_bytes(data)
    digest = subprocess.run(
        ["sha256sum", folder / services.ARCHIVE], check=True, capture_output=True, text=True
    ).stdout.split()[0]
    url = f"{lab.state.artifact_url}/other"
    return ("--data", f"engine_url={url}", "--data", f"engine_sha256={digest}")


def test_a_rolling_engine_upgrade_fails_no_request(shared: Shared) -> None:
    lab, reloads = shared.lab, shared.reloads()
    stands = "readlink /opt/ollama/current; systemctl show -p InvocationID --value ollama"
    before = {host: lab.on(host, stands).split() for host in lab.hosts}
    with Crowd(shared.door, "an engine upgrade") as crowd:
        run = shared.deploy(*THREES, *other_engine(lab))
        crowd.wait_for(8)
    assert run.code == 0, run.output
    assert [len(wave) for wave in waves(run)] == [1, 3, 3, 1]
    for host in lab.hosts:
        after = lab.on(host, stands).split()
        assert all(one != other for one, other in zip(before[host], after, strict=True)), host
    assert not crowd.failed, (crowd.told, crowd.failed[:5])
    assert all(mine for mine in crowd.words)
    assert shared.reloads() == reloads


def test_a_new_tag_moves_every_client_once(shared: Shared, tmp_path: Path) -> None:
    """Both pools are known while the hosts go from one to the other."""
    lab, reloads = shared.lab, shared.reloads()
    with published(lab, tmp_path, OTHER_TAG, answer="READYX") as flags:
        with Crowd(shared.door, "a new tag") as crowd:
            run = shared.deploy(*THREES, "--data", f"tag={OTHER_TAG}", *flags)
            crowd.wait_for(8)
        assert run.code == 0, run.output
        assert [len(wave) for wave in waves(run)] == [1, 3, 3, 1]
    assert not crowd.failed, (crowd.told, crowd.failed[:5])
    for mine in crowd.words:
        assert mine == sorted(mine)  # READY, and READYX from one moment on
        assert set(mine) == {"READY", "READYX"}
    assert shared.reloads() == reloads


def test_the_way_back_by_hand_goes_on_behind_the_gateway(shared: Shared) -> None:
    """rollback.py takes one half of the hosts after the other."""
    lab, flags = shared.lab, ("-y", *shared.flags)
    with Crowd(shared.door, "rollback.py") as crowd:
        process = lab.start_deploy(*flags, job="rollback.py")
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
        crowd.wait_for(8)
    assert [mine[-1] for mine in crowd.words] == ["READY"] * len(crowd.words), crowd.told
    assert not crowd.failed, (crowd.told, crowd.failed[:5])
    # The engine, too, is the one of before, which is the settings' only where this test runs alone.
    other = other_engine(lab)
    served = {lab.on(host, "readlink /opt/ollama/current").strip() for host in lab.hosts}
    assert len(served) == 1
    digest = served.pop().rpartition("-")[2]
    is_other = other[-1].startswith(f"engine_sha256={digest}")
    settled = shared.deploy(*other if is_other else ())
    assert set(settled.verdicts().values()) == {"as wanted"}, settled.output
    assert shared.deploy().code == 0


def test_hosts_that_fail_are_passed_over(shared: Shared) -> None:
    """One loses its engine, one its gateway, one shows a certificate of nobody's."""
    lab = shared.lab
    engine, gateway, stranger = lab.hosts[:3]
    with Crowd(shared.door, "three hosts that fail") as crowd:
        crowd.wait_for(8)
        lab.on(engine, "systemctl stop ollama")
        lab.on(gateway, "systemctl stop r1fleet-gateway")
        lab.on(
            stranger,
            f"systemctl stop r1fleet-gateway; mv {CA}/root.crt /run/r1test-root;"
            f" rm -rf {CA} /var/lib/r1fleet-gateway/caddy/certificates;"
            " systemctl start r1fleet-gateway",
        )
        time.sleep(NOTICED_S)
        since = shared.since()
        crowd.wait_for(40)
        asked = shared.asked(since)
    assert not {engine, gateway, stranger} & set(asked), asked
    assert len(asked) == len(lab.hosts) - 3
    # What an engine had begun when it was stopped is lost; what it had not is asked elsewhere.
    assert len(crowd.failed) <= crowd.count, crowd.failed
    mended = shared.deploy()
    assert mended.code == 0, mended.output
    assert shared.serving() == set(lab.hosts)


def test_a_client_that_leaves_ends_its_generation(shared: Shared) -> None:
    lab = shared.lab
    with closing(shared.door.connect()) as connection:
        body = CHAT | {"stream": True, **LONG}
        headers = {"Authorization": f"Bearer {shared.door.token}"}
        connection.request("POST", "/api/chat", json.dumps(body), headers)
        reply = connection.getresponse()
        assert reply.status == 200
        assert json.loads(reply.readline())["done"] is False
        assert sum(busy(lab, host) for host in lab.hosts) == 1
    for _ in range(50):
        if not any(busy(lab, host) for host in lab.hosts):
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the engine goes on for nobody")


def test_a_host_is_taken_away_without_a_failed_request(shared: Shared) -> None:
    """The gateway is told first and stays, as the other hosts do; then the host is drained."""
    host = sorted(shared.lab.hosts)[-1]
    limits = ("--limit", host, "--limit", GATEWAY)
    with Crowd(shared.door, "a host taken away") as crowd:
        crowd.wait_for(10)
        process = shared.lab.start_deploy(
            "-y", *shared.flags, *limits, "--data", "remove=1", job="remove.py"
        )
        said, _ = process.communicate(timeout=600)
        crowd.wait_for(10)
    assert process.returncode == 0, said
    assert crowd.failed == []
    order = ["answers from the pools", "holds new requests back", "stops Ollama"]
    assert [said.index(words) for words in order] == sorted(said.index(words) for words in order)
    known = json.loads(shared.lab.on(GATEWAY, "cat /etc/r1fleet/gateway/fleet.json"))["hosts"]
    assert sorted(one["name"] for one in known) == sorted({*shared.lab.hosts} - {host})
    again = shared.deploy()
    assert again.code == 0, again.output
