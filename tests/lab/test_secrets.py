"""Secrets planted everywhere they can be given: looked for in all that a run says and leaves.

Looks at `cpu`, entered as root, at `duo`, where sudo logs every command, and at `t4`, which is made
the fleet gateway of both meanwhile.
"""

import base64
import json
import os
import re
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from r1fleet import paths
from r1fleet.gateway import tokens
from tests.lab.conftest import BIN, ROOT, Lab, Run

pytestmark = pytest.mark.lab

HOSTS, FRONT = ("cpu", "duo"), "t4"
ALL = (*HOSTS, FRONT)
HERE = "/run/r1test"  # what this test has on a host
LOUD = ("-vvv", "--debug", "--diff")
WHERE = "/tmp /var/tmp /run /dev/shm /var/lib/r1fleet"

# What every user sees in the process list, and files with a secret as long as they are there.
# R1_JOB is in the command of every fetch: it shows that this would see one.
SAMPLE = f"""
exec >/dev/null 2>&1
n=0
while [ ! -e {HERE}/stop ]; do
  cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -aFf {HERE}/patterns >>{HERE}/commands
  if [ $((n % 20)) = 0 ]; then
    find {WHERE} -xdev -path {HERE} -prune -o -type f -size -2000k -print0 |
      xargs -0r grep -laFf {HERE}/secrets | xargs -r -d '\\n' stat -c '%a %n' >>{HERE}/files
  fi
  n=$((n + 1))
done
"""
FILES = f"""
find / {WHERE} -xdev -path {HERE} -prune -o -type f -size -20000k -print0 |
  xargs -0r grep -laFf {HERE}/secrets 2>/dev/null | sort -u |
  xargs -r -d '\\n' stat -c '%a %U:%G %n'
"""

MODELS = "/var/lib/ollama/models"


@dataclass
class Planted:
    """An inventory with secrets, and what they look like wherever they are written."""

    inventory: Path
    texts: dict[str, str]  # what it is -> its text
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            cwd=ROOT,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def deploy(self, *flags: str) -> subprocess.CompletedProcess[str]:
        report = f"report={self.report}"
        return self.run(BIN / "pyinfra", self.inventory, "deploy.py", "--data", report, *flags)

    @property
    def report(self) -> Path:
        return self.inventory.with_name("report.json")

    def assert_unseen(self, text: str, where: str) -> None:
        for what, secret in self.texts.items():
            assert secret not in text, f"{what} in {where}"


def new(what: str) -> str:
    return f"{what}-{secrets.token_hex(8)}"


def in_inventory(lab: Lab, folder: Path, data: dict[str, object]) -> Path:
    """The lab's inventory with more data for all three."""
    path = folder / "planted.py"
    path.write_text(
        f"""
import runpy
_hosts, _data = runpy.run_path({str(ROOT / "inventories" / "lab.py")!r})["lab"]
planted = (
    [(name, own | {{"serve": name != {FRONT!r}}}) for name, own in _hosts if name in {ALL!r}],
    _data | {data!r},
)
gateway = [{FRONT!r}]
"""
    )
    return path


def plant(lab: Lab, folder: Path) -> Planted:
    login, proxy, variable, password = (new(what) for what in ("login", "proxy", "env", "ssh"))
    (folder / "login").write_text(f"robot:{login}\n")
    store = (
        f"{tokens.new_key()}\nalice use {tokens.new_secret()}\nbob admin {tokens.new_secret()}\n"
    )
    (folder / "tokens").write_text(store)
    (folder / "tokens").chmod(0o600)
    read = tokens.parse(store)
    urls = (lab.state.registry_url, lab.state.artifact_url, lab.state.driver_repository_url)
    data = {
        "registry_login_command": f"cat {folder}/login",
        # Of no use: nothing here needs it, because everything is on the list without it.
        "https_proxy": f"http://robot:{proxy}@198.51.100.1:3128",
        "no_proxy": ",".join(sorted({urlsplit(url).hostname or "" for url in urls})),
        "extra_env": {"R1TEST_API_TOKEN": f"{variable} \"'$HOME%h\\ #"},
        "ollama_debug": 2,
        "ssh_password": password,
        "expose": "gateway",  # of the two; the third has no engine for it
        "gateway_tokens": f"file:{folder}/tokens",
    }
    assert read.key
    texts = {
        "the registry's login": login,
        "the login as it is sent": base64.b64encode(f"robot:{login}".encode()).decode(),
        "the proxy's password": proxy,
        "a further variable": variable,
        "the SSH password": password,
        "the key of the tokens": read.key,
        **{f"the token of {token.name}": token.secret for token in read.tokens},
        **{f"the gateway's token for {host}": read.for_host(host).secret for host in HOSTS},
        "the token for health checks": read.health.secret,
    }
    return Planted(in_inventory(lab, folder, data), texts)


def break_down(lab: Lab, host: str) -> None:
    """A run then has to bring packages, the engine and its model, all with proxy and login."""
    (loaded,) = lab.api(host, "/api/ps")["models"]
    model, _, tag = loaded["name"].partition(":")
    place = f"{MODELS}/manifests/registry.ollama.ai/library/{model}/{tag}"
    layers = json.loads(lab.on(host, f"cat {place}"))["layers"]
    weights = max(layers, key=lambda layer: layer["size"])["digest"].replace(":", "-")
    lab.on(
        host,
        "dpkg --purge --force-all aria2 >/dev/null; rm -rf /opt/ollama/*/;"
        f" truncate -s +3 {MODELS}/blobs/{weights}",
    )


def put(lab: Lab, host: str, path: str, text: str) -> None:
    subprocess.run([*lab.ssh(host), f"cat >{path}"], input=text, text=True, check=True)


@pytest.fixture(scope="module")
def planted(lab: Lab, served: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    """The hosts after a run that had to do much, and while it ran somebody looked on."""
    found = plant(lab, tmp_path_factory.mktemp("planted"))
    watchers = []
    for host in ALL:
        lab.on(host, f"rm -rf {HERE}; mkdir -m 700 {HERE}")
        if host in HOSTS:
            break_down(lab, host)
        listed = "".join(f"{text}\n" for text in found.texts.values())
        put(lab, host, f"{HERE}/secrets", listed)
        put(lab, host, f"{HERE}/patterns", f"{listed}R1_JOB\n")
        watchers.append(subprocess.Popen([*lab.ssh(host), SAMPLE], stdin=subprocess.DEVNULL))
    try:
        done = found.deploy("-y", *LOUD)
        for host in ALL:
            lab.on(host, f"touch {HERE}/stop")
        for watcher in watchers:
            watcher.wait(180)
        (found.inventory.parent / "output").write_text(done.stdout + done.stderr)
        assert done.returncode == 0, done.stdout + done.stderr
        yield found
    finally:
        for watcher in watchers:
            watcher.kill()
        for host in ALL:
            lab.on(host, f"rm -rf {HERE}")
        back = lab.deploy(*(word for host in ALL for word in ("--limit", host)))
        assert back.code == 0, back.output


def test_the_loudest_run_says_none_of_them(planted: Planted) -> None:
    output = (planted.inventory.parent / "output").read_text()
    assert "Running command on" in output  # --debug
    assert "downloads and checks Ollama" in output
    assert "the password" not in output
    planted.assert_unseen(output, "the output of the run")
    planted.assert_unseen(planted.report.read_text(), "its report")


@pytest.mark.parametrize(
    "flags", [("-y", "--json", *LOUD), ("--dry", *LOUD), ("--dry", "--json", *LOUD)]
)
def test_nor_does_any_other_run(planted: Planted, flags: tuple[str, ...]) -> None:
    planted.report.unlink(missing_ok=True)
    done = planted.deploy(*flags)
    assert done.returncode == 0, done.stderr
    planted.assert_unseen(done.stdout + done.stderr, " ".join(flags))
    planted.assert_unseen(planted.report.read_text(), "the report")


@pytest.mark.parametrize(
    "words",
    [("plan", "-v"), ("plan", "--json"), ("status",), ("status", "--json")]
    + [("why",), ("settings",), ("settings", "--all"), ("settings", "--json")],
    ids=" ".join,
)
def test_nor_does_a_command_that_looks(planted: Planted, words: tuple[str, ...]) -> None:
    command, *flags = words
    rest = [HOSTS[0]] if command in ("why", "settings") else []
    done = planted.run(BIN / "r1fleet", command, planted.inventory, *rest, *flags)
    assert done.returncode == 0, done.stderr
    assert HOSTS[0] in done.stdout or command in ("why", "settings")
    assert command != "settings" or "https_proxy" in done.stdout
    planted.assert_unseen(done.stdout + done.stderr, " ".join(words))


@pytest.mark.parametrize("host", ALL)
def test_no_process_list_has_shown_one(lab: Lab, planted: Planted, host: str) -> None:
    seen = lab.on(host, f"touch {HERE}/commands; cat {HERE}/commands")
    assert host == FRONT or "R1_JOB" in seen  # it looked while there was something to see
    planted.assert_unseen(seen, f"the process list of {host}")


@pytest.mark.parametrize("host", ALL)
def test_no_file_that_others_read_had_one_meanwhile(lab: Lab, planted: Planted, host: str) -> None:
    rows = {tuple(row.split(" ", 1)) for row in lab.on(host, f"sort -u {HERE}/files").splitlines()}
    assert host == FRONT or any(
        path.startswith(f"{paths.PULL_DIR}/") for _, path in rows
    )  # the login came there
    closed = (f"{paths.SERVED_DIR}/", "/run/credentials/")  # folders of root's alone
    assert [row for row in rows if int(row[0], 8) & 0o007 and not row[1].startswith(closed)] == []


def must_have(host: str) -> dict[str, set[str]]:
    """What each file of a host has to hold, by the names of Planted.texts."""
    clients = {"the token of alice", "the token of bob", "the token for health checks"}
    if host == FRONT:
        return {paths.GATEWAY_TOKENS: clients | {f"the gateway's token for {one}" for one in HOSTS}}
    return {
        paths.ENGINE_ENV: {"a further variable"},
        paths.GATEWAY_TOKENS: clients | {f"the gateway's token for {host}"},
    }


@pytest.mark.parametrize("host", ALL)
def test_what_is_left_are_the_files_that_must_have_them(
    lab: Lab, planted: Planted, host: str
) -> None:
    rows = [row.split(" ", 2) for row in lab.on(host, FILES).splitlines()]
    assert lab.on(host, f"stat -c %a:%U {paths.SERVED_DIR}").strip() == "700:root"
    found = {path: (mode, owner) for mode, owner, path in rows}
    kept = [path for path in found if path.startswith(f"{paths.SERVED_DIR}/")]
    assert {Path(path).name for path in kept} <= {"ollama.env"}
    rights = {
        paths.ENGINE_ENV: ("640", "root:ollama"),
        paths.GATEWAY_TOKENS: ("640", "root:r1fleet-gateway"),
    }
    wanted = must_have(host)
    assert {path: found[path] for path in found if path not in kept} == {
        path: rights[path] for path in wanted
    }
    for path, names in wanted.items():
        text = lab.on(host, f"cat {path}")
        assert {name for name, secret in planted.texts.items() if secret in text} == names, path


@pytest.mark.parametrize("host", ALL)
def test_the_journal_has_none(lab: Lab, planted: Planted, host: str) -> None:
    """The engine writes its environment there, sudo every command, the gateway every request."""
    store = tokens.parse((planted.inventory.parent / "tokens").read_text())
    url = f"https://{lab.state.hosts[host].address}:11443/api/tags"
    for secret in (store.tokens[0].secret, store.tokens[0].secret[:-1] + "."):
        heads = f'header = "Authorization: Bearer {secret}"\n'
        ask = ["curl", "-sk", "-m", "20", "-w", "%{http_code}", "-o", "/dev/null", "-K", "-", url]
        code = subprocess.run(ask, input=heads, capture_output=True, text=True, check=True).stdout
        assert code == ("200" if secret == store.tokens[0].secret else "401")
    lab.on(host, "journalctl --sync")
    journal = lab.on(host, "journalctl -a -o export --no-pager | tr -cd '\\11\\12\\40-\\176'")
    assert host == FRONT or "OLLAMA_DEBUG" in journal
    assert host != "duo" or "COMMAND=" in journal
    assert re.search(r'"token":\s*"alice"', journal)
    planted.assert_unseen(journal, f"the journal of {host}")


@pytest.mark.parametrize("host", HOSTS)
def test_the_engine_has_its_variable_exactly(lab: Lab, planted: Planted, host: str) -> None:
    pid = lab.on(host, "systemctl show -p MainPID --value ollama").strip()
    rows = lab.on(host, f"cat /proc/{pid}/environ").split("\0")
    wanted = planted.texts["a further variable"] + " \"'$HOME%h\\ #"
    assert f"R1TEST_API_TOKEN={wanted}" in rows
    assert not any(row.startswith("HTTPS_PROXY=") for row in rows)  # it has a login
    others = lab.on(host, f"runuser -u nobody -- cat /proc/{pid}/environ 2>&1", ok=False)
    assert "Permission denied" in others


@pytest.mark.parametrize(
    "data",
    [
        {"_sudo_password": "SECRET"},
        {"registry_url": "http://robot:SECRET@198.51.100.1:5000"},
        {"gateway_tokens": "r1f_SECRET"},
        {"model_sources": {"deepseek-r1:7b": {"url": "https://h/x?t=SECRET", "sha256": "ab" * 32}}},
        {"extra_env": {"A": "SECRET\n"}},
        {"https_proxy": "http://robot:SECRET@198.51.100.1:3128", "pull_via": "api"},
    ],
    ids=lambda data: next(iter(data)),
)
def test_what_cannot_be_kept_is_refused_and_not_repeated(
    lab: Lab, tmp_path: Path, data: dict[str, object]
) -> None:
    secret = new("refused")
    planted = Planted(
        in_inventory(lab, tmp_path, json.loads(json.dumps(data).replace("SECRET", secret))),
        {"what was refused": secret},
    )
    for words in (("-y", *LOUD), ("--dry", "--json", *LOUD)):
        done = planted.deploy(*words)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "nothing was touched" in done.stdout + done.stderr
        planted.assert_unseen(done.stdout + done.stderr, " ".join(words))
    done = planted.run(BIN / "r1fleet", "status", planted.inventory)
    assert done.returncode == 2
    planted.assert_unseen(done.stdout + done.stderr, "status")
