"""A host behind its gateway, tried from another host of the lab: who gets through, and to what."""

import json
import os
import re
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from r1fleet.gateway.pool import pool_id
from tests.lab.conftest import BIN, ROOT, Lab, Run, seen
from tests.pages_table import given_to

pytestmark = pytest.mark.lab

HOST, OTHER = "t4", "h100"
PORT = 11443
ROOT_FILE = "/tmp/r1-gateway-root.pem"
ORIGIN = "https://ui.example.org"
MODEL = "deepseek-r1:fleet"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
READ_CA = "cat /var/lib/r1fleet-gateway/caddy/pki/authorities/local/root.crt"


@dataclass
class Behind:
    """The host behind its gateway, and tokens for it."""

    lab: Lab
    store: Path
    first: Run
    tokens: dict[str, str]

    @property
    def address(self) -> str:
        return self.lab.state.hosts[HOST].address

    @property
    def url(self) -> str:
        return f"https://{self.address}:{PORT}"

    def new(self, name: str, role: str = "use") -> str:
        words = ["token", "new", name, "--role", role, "--file", str(self.store)]
        done = subprocess.run(
            [BIN / "r1fleet", *words], cwd=ROOT, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def revoke(self, *words: str) -> None:
        command = [BIN / "r1fleet", "token", "revoke", *words, "--file", str(self.store)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)

    def flags(self, **data: Any) -> list[str]:
        told = {
            "expose": "gateway",
            "gateway_tokens": f"file:{self.store}",
            "ollama_origins": ORIGIN,
            "watch": False,  # it asks the engine too, and the tests read what the engine was asked
            **data,
        }
        return [word for key, value in told.items() for word in ("--data", f"{key}={value}")]

    def deploy(self, *hosts: str, **data: Any) -> Run:
        limits = [word for host in hosts or (HOST,) for word in ("--limit", host)]
        return self.lab.deploy(*limits, *self.flags(**data))

    def ask(
        self,
        path: str,
        token: str | None = None,
        *words: str,
        body: Any = None,
        http: str = "http1.1",
    ) -> "Answer":
        """A request from the other host, with its token on curl's standard input."""
        lines = ["silent", "max-time = 60", "path-as-is", f'cacert = "{ROOT_FILE}"', "include"]
        lines += ['noproxy = "*"', f'url = "{self.url}{path}"', http]
        if token:
            lines.append(f'header = "Authorization: Bearer {token}"')
        if body is not None:
            lines.append("data = " + json.dumps(json.dumps(body)))
        return Answer(self.from_other(f"curl -K - {' '.join(words)}", "\n".join(lines)))

    def from_other(self, script: str, stdin: str = "") -> str:
        done = subprocess.run(
            [*self.lab.ssh(OTHER), script],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return done.stdout + done.stderr

    def raw(self, *requests: str) -> list[str]:
        """The status lines of requests that are sent as they are, each by a connection of its own;
        "" where none came."""
        script = RAW.replace("ADDRESS", repr(self.address)).replace("PORT", str(PORT))
        said = subprocess.run(
            ["python3", "-c", script],
            input=json.dumps(requests),
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        found: list[str] = json.loads(said.stdout)
        return found

    def engine_log(self) -> list[str]:
        """What the engine itself says that it was asked, as "METHOD path"."""
        text = self.lab.on(HOST, "journalctl --sync; journalctl -u ollama -o cat --no-pager")
        return [f"{method} {path}" for method, path in GIN.findall(text)]

    def mark(self) -> str:
        """Asks the engine for what nobody else does: in its log that stands behind all that it has
        answered before, whose lines may come late."""
        path = f"/r1test-{secrets.token_hex(4)}"
        self.lab.on(HOST, f"curl -s -o /dev/null -m 60 127.0.0.1:11434{path}")
        assert seen(lambda: f"GET {path}" in self.engine_log()), "the engine does not log it"
        return f"GET {path}"

    def asked_since(self, mark: str) -> list[str]:
        """What the engine has been asked from a mark until now."""
        end = self.mark()
        log = self.engine_log()
        return log[log.index(mark) + 1 : log.index(end)]

    def access_log(self) -> str:
        return self.lab.on(
            HOST, "journalctl --sync; journalctl -u r1fleet-gateway -o cat --no-pager"
        )


GIN = re.compile(r'\[GIN\].*\|\s*([A-Z]+)\s+"([^"]*)"')

# From this machine, where Python is: bare bytes in TLS.
RAW = """
import json, socket, ssl, sys
context = ssl._create_unverified_context()
found = []
for text in json.load(sys.stdin):
    with socket.create_connection((ADDRESS, PORT), 10) as plain:
        with context.wrap_socket(plain) as tls:
            tls.settimeout(10)
            try:
                tls.sendall(text.encode("latin-1"))
                found.append(tls.recv(4096).decode("latin-1").partition("\\r\\n")[0])
            except OSError:
                found.append("")
print(json.dumps(found))
"""


class Answer:
    """What curl showed: status, headers and body of the last answer."""

    def __init__(self, text: str) -> None:
        head, _, self.body = text.partition("\n\n")
        lines = head.split("\n")
        self.text = text
        self.status = int(lines[0].split()[1]) if lines[0].startswith("HTTP/") else 0
        self.headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:])
        }

    @property
    def error(self) -> str:
        return str(json.loads(self.body)["error"])


@pytest.fixture(scope="module")
def behind(lab: Lab, served: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    store = tmp_path_factory.mktemp("gateway") / "tokens"
    found = Behind(lab, store, served, {})
    found.tokens = {
        "use": found.new("alice"),
        "admin": found.new("root", "admin"),
        "gone": found.new("mallory"),
    }
    try:
        found.first = found.deploy()
        assert found.first.code == 0, found.first.output
        found.revoke("mallory")
        assert found.deploy().code == 0
        root = lab.on(HOST, READ_CA)
        found.from_other(f"cat >{ROOT_FILE}", root)
        yield found
    finally:
        lab.on(OTHER, f"rm -f {ROOT_FILE}")
        closed = lab.deploy("--limit", HOST, "--limit", OTHER)
        assert closed.code == 0, closed.output
        left = lab.on(
            HOST, "ls -d /etc/r1fleet/gateway /opt/r1fleet/gateway; id r1fleet-gateway", ok=False
        )
        assert left == ""
        lab.on(HOST, "! systemctl is-active -q r1fleet-gateway && ! ss -Hltn | grep -q :11443")


def test_the_gateway_opens_after_the_proof_and_a_second_run_sends_nothing(
    behind: Behind,
) -> None:
    said = behind.first.output
    assert said.index("writes /etc/r1fleet/gateway/Caddyfile") < said.index("opens the gateway")
    order = [said.index("loads deepseek-r1:14b"), said.index("opens the gateway")]
    assert order == sorted(order)
    assert "gateway: this machine reaches it by token alone" in said
    again = behind.deploy()
    assert again.row(HOST)["verdict"] == "as wanted", again.output
    assert re.search(r"\[t4\] +No changes", again.output.partition("Converge")[2])


def test_who_has_a_token_gets_through_and_nobody_else(behind: Behind) -> None:
    good = behind.ask("/api/version", behind.tokens["use"])
    assert (good.status, json.loads(good.body)) == (
        200,
        {"version": behind.lab.state.engine_version},
    )
    for token in (None, "r1f_" + "x" * 43, behind.tokens["gone"], behind.tokens["use"][:-1], "x"):
        bad = behind.ask("/api/version", token)
        assert bad.status == 401
        assert bad.headers["content-type"] == "application/json"
        assert "token" in bad.error
    assert behind.ask("/v1/models", behind.tokens["use"]).status == 200
    answer = behind.ask("/api/chat", behind.tokens["use"], body=CHAT | {"stream": False})
    assert json.loads(answer.body)["message"]["content"].strip() == "READY"


def test_the_engines_own_port_refuses(behind: Behind) -> None:
    said = behind.from_other(f"curl -sS -m 5 --noproxy '*' http://{behind.address}:11434/")
    assert "refused" in said or "Couldn't connect" in said or "Could not connect" in said


FORBIDDEN: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("POST", "/api/pull", {"model": "deepseek-r1:671b"}),
    ("POST", "/api/create", {"model": "evil", "from": MODEL}),
    ("POST", "/api/copy", {"source": MODEL, "destination": "evil"}),
    ("POST", "/api/push", {"model": "evil"}),
    ("DELETE", "/api/delete", {"model": MODEL}),
    ("POST", f"/api/blobs/sha256:{'0' * 64}", {}),
    ("POST", "/api/signout", {}),
    ("POST", "/api/me", {}),
)


def test_what_the_run_says_at_its_end_works_with_a_token(behind: Behind, tmp_path: Path) -> None:
    told = dict(re.findall(r"^  (curl|Python|OpenAI) +(.*)$", behind.first.output, re.M))
    (tmp_path / "root.crt").write_text(behind.lab.on(HOST, READ_CA))
    env = os.environ | {"TOKEN": behind.tokens["use"], "SSL_CERT_FILE": "root.crt"}
    typed = [["sh", "-c", f"{told['curl']} -s"]]
    typed += [[sys.executable, "-c", told[kind]] for kind in ("Python", "OpenAI")]
    for words in typed:
        done = subprocess.run(
            words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert "READY" in done.stdout, done.stderr


def test_a_use_token_changes_nothing(behind: Behind) -> None:
    before = behind.lab.api(HOST, "/api/tags")
    begin = behind.mark()
    for method, path, body in FORBIDDEN:
        answer = behind.ask(path, behind.tokens["use"], "-X", method, body=body)
        assert (answer.status, answer.error) == (404, "not found"), path
    assert set(behind.asked_since(begin)) <= {"GET /api/tags"}
    assert behind.lab.api(HOST, "/api/tags") == before


def test_an_admin_token_does(behind: Behind) -> None:
    admin = behind.tokens["admin"]
    copied = behind.ask("/api/copy", admin, body={"source": MODEL, "destination": "mine:x"})
    assert copied.status == 200
    assert "mine:x" in behind.ask("/api/tags", admin).body
    assert behind.ask("/api/delete", admin, "-X DELETE", body={"model": "mine:x"}).status == 200
    assert behind.ask("/api/signout", admin, "-X POST").status == 404


def test_tricks_with_the_request_line_reach_no_route(behind: Behind) -> None:
    use, admin = behind.tokens["use"], behind.tokens["admin"]
    begin = behind.mark()
    for path in (
        *("//api/pull", "/api//pull", "/api%2fpull", "/api/%70ull", "/api/tags/../pull"),
        *("/api/tags/%2e%2e/pull", "/api/pull.", "/api/pull/", "/API/PULL", "/Api/tags"),
        *("/api/tags;/../pull", "/api/tags%00/pull", "/api\\pull", "/./api/pull", "/api/tags/"),
        *("/v1/models/../../api/pull", "/v1/models/a/b", "/r1fleet/health/", "/api/chat/../pull"),
        *("/r1fleet/health/../../api/pull", "/r1fleet/health/000000000000/../x"),
    ):
        for method, http in (("GET", "http1.1"), ("POST", "http1.1"), ("POST", "http2")):
            answer = behind.ask(path, use, "-X", method, http=http)
            assert answer.status in (400, 404), (method, http, path, answer.text)
    token = f"Authorization: Bearer {use}\r\n"
    host, body = f"Host: {behind.address}\r\n", "Content-Length: 2\r\n\r\n{}"
    end = "Connection: close\r\n"
    said = behind.raw(
        f"POST https://{behind.address}/api/pull HTTP/1.1\r\n{host}{token}{end}{body}",
        f"POST http://127.0.0.1:11434/api/pull HTTP/1.1\r\n{host}{token}{end}{body}",
        f"POST /api/pull HTTP/1.0\r\n{token}{body}",
        f"POST /api/pull HTTP/1.1\r\n{token}{end}{body}",
        f"CONNECT 127.0.0.1:11434 HTTP/1.1\r\n{host}{token}\r\n",
        f"GET /api/pull HTTP/1.1\r\n{host}{token}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        f"POST /api/pull HTTP/1.1\r\n{host}X-HTTP-Method-Override: GET\r\n{token}{end}{body}",
        f"POST /api/tags HTTP/1.1\r\n{host}X-Original-URL: /api/pull\r\n{token}{end}{body}",
        f"POST /api/chat /api/pull HTTP/1.1\r\n{host}{token}{end}{body}",
        # Two tokens: neither counts. One whose role would do, behind one that would not.
        f"GET /api/tags HTTP/1.1\r\n{host}{token}Authorization: Bearer {admin}\r\n{end}\r\n",
        f"GET /api/tags HTTP/1.1\r\n{host}{token}{token}{end}\r\n",
        f"GET /api/tags HTTP/1.1\r\n{host}Authorization: Bearer {use}, Bearer x\r\n{end}\r\n",
        # A second request smuggled behind the first.
        f"POST /api/show HTTP/1.1\r\n{host}{token}Content-Length: 4\r\n"
        f"Transfer-Encoding: chunked\r\n{end}\r\n0\r\n\r\nPOST /api/pull HTTP/1.1\r\n{host}\r\n",
    )
    status = [line.split(" ", 2)[1] if " " in line else "" for line in said]
    assert status[:2] == ["404", "404"], said
    assert status[2:8] == ["404", "400", "404", "404", "404", "404"], said
    assert status[8] in ("400", "404"), said
    assert status[9:12] == ["401", "401", "401"], said
    reached = behind.asked_since(begin)
    assert not [line for line in reached if "pull" in line or "11434" in line], reached
    assert set(reached) <= {"POST /api/show"}, reached


def test_an_upgrade_is_an_ordinary_request(behind: Behind) -> None:
    words = '-H "Connection: Upgrade" -H "Upgrade: websocket" -H "Sec-WebSocket-Version: 13"'
    answer = behind.ask("/api/version", behind.tokens["use"], words)
    assert answer.status == 200
    assert "upgrade" not in answer.headers


def test_large_headers_and_bodies_are_refused(behind: Behind) -> None:
    begin = behind.mark()
    token = f"Authorization: Bearer {behind.tokens['use']}\r\n"
    (large,) = behind.raw(f"GET /api/tags HTTP/1.1\r\nHost: x\r\n{token}X: {'a' * 40000}\r\n\r\n")
    assert " 431 " in large
    words = "-X POST -T /tmp/r1-large"
    behind.from_other("head -c 40000000 /dev/zero >/tmp/r1-large")
    try:
        answer = behind.ask("/api/show", behind.tokens["use"], words, "-H 'Expect:'")
        assert " 413 " in answer.text
        assert "the request is too large" in answer.text
    finally:
        behind.from_other("rm -f /tmp/r1-large")
    assert behind.asked_since(begin) == []


SLOW = """
import socket, ssl, sys, time
context = ssl._create_unverified_context()
token = sys.stdin.buffer.readline().strip()
begun = b"POST /api/chat HTTP/1.1\\r\\nHost: x\\r\\nAuthorization: Bearer " + token + b"\\r\\n"
whole = begun + b"Content-Length: 100000\\r\\n\\r\\n{"
there = []
for number in range(200):
    tls = context.wrap_socket(socket.create_connection((ADDRESS, PORT), 10))
    tls.sendall(whole if number % 2 else begun)
    there.append(tls)
print("ready", flush=True)
sys.stdin.buffer.readline()
ended = 0
for tls in there:
    tls.settimeout(45)
    try:
        tls.recv(4096)  # what it is told, or its end
    except TimeoutError:
        continue
    except OSError:
        pass
    ended += 1
print(ended, flush=True)
"""


def test_two_hundred_slow_clients_keep_nobody_waiting(behind: Behind) -> None:
    script = SLOW.replace("ADDRESS", repr(behind.address)).replace("PORT", str(PORT))
    before = behind.mark()
    slow = subprocess.Popen(
        ["python3", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert slow.stdin
    assert slow.stdout
    try:
        slow.stdin.write(behind.tokens["use"] + "\n")
        slow.stdin.flush()
        assert slow.stdout.readline() == "ready\n"
        for _ in range(5):
            begin = time.monotonic()
            answer = behind.ask("/api/chat", behind.tokens["use"], body=CHAT | {"stream": False})
            assert answer.status == 200
            print(f"beside 200 slow clients: answered after {time.monotonic() - begin:.2f} s")
        out, _ = slow.communicate("\n", timeout=120)
        print(f"{out.strip()} of 200 slow requests were ended by the gateway")
        assert int(out) == 200
    finally:
        slow.kill()
        slow.wait()
    assert behind.asked_since(before).count("POST /api/chat") == 5


FIRST = """
begin=$(date +%s.%N)
curl -sN -K - | while read -r line; do echo "$(date +%s.%N) $line"; done | { echo "$begin"; cat; }
"""


def stream(run: Callable[[str, str], str], config: str) -> tuple[float, list[tuple[float, Any]]]:
    begin, *lines = run(FIRST, config).splitlines()
    parts = [line.split(" ", 1) for line in lines]
    found = [(float(at) - float(begin), json.loads(text)) for at, text in parts]
    return found[0][0], found


def test_a_stream_arrives_token_by_token(behind: Behind) -> None:
    body = "data = " + json.dumps(json.dumps(CHAT)) + '\nmax-time = 60\nnoproxy = "*"\n'

    def on_host(script: str, stdin: str) -> str:
        return subprocess.run(
            [*behind.lab.ssh(HOST), script], input=stdin, capture_output=True, text=True, check=True
        ).stdout

    direct, plain = stream(on_host, f'{body}url = "http://127.0.0.1:11434/api/chat"\n')
    through, passed = stream(
        behind.from_other,
        f'{body}url = "{behind.url}/api/chat"\ncacert = "{ROOT_FILE}"\n'
        f'header = "Authorization: Bearer {behind.tokens["use"]}"\n',
    )
    print(f"first byte: direct {direct:.3f} s, through the gateway {through:.3f} s")

    def words(rows: list[tuple[float, Any]]) -> list[str]:
        return [row["message"].get("thinking", "") + row["message"]["content"] for _, row in rows]

    assert words(passed) == words(plain)
    assert len(passed) > 3
    assert [row["done"] for _, row in passed] == [False] * (len(passed) - 1) + [True]


def test_browsers_may_come_from_named_pages(behind: Behind) -> None:
    preflight = (
        "-X OPTIONS",
        "-H 'Access-Control-Request-Method: POST'",
        "-H 'Access-Control-Request-Headers: authorization'",
    )
    named = behind.ask("/api/chat", None, f"-H 'Origin: {ORIGIN}'", *preflight)
    assert named.status == 204
    assert named.headers["access-control-allow-origin"] == ORIGIN
    assert named.headers["access-control-allow-headers"] == "authorization"
    evil = behind.ask("/api/chat", None, "-H 'Origin: https://evil.example.org'", *preflight)
    assert evil.status == 401
    assert "access-control-allow-origin" not in evil.headers
    get = behind.ask("/api/version", behind.tokens["use"], f"-H 'Origin: {ORIGIN}'")
    assert (get.status, get.headers["access-control-allow-origin"]) == (200, ORIGIN)
    foreign = behind.ask(
        "/api/version", behind.tokens["use"], "-H 'Origin: https://evil.example.org'"
    )
    assert "access-control-allow-origin" not in foreign.headers


def test_the_log_tells_who_asked_what_and_no_secret(behind: Behind) -> None:
    secret = "the-word-is-xylophone"
    body = {"model": MODEL, "stream": False, "messages": [{"role": "user", "content": secret}]}
    behind.ask(f"/api/chat?key={secret}", behind.tokens["use"], body=body)
    behind.ask(f"/nothing?key={secret}", behind.tokens["admin"])
    text = behind.access_log()
    rows = [json.loads(line) for line in text.splitlines() if "handled request" in line]
    chat = [row for row in rows if row["path"] == "/api/chat" and row["status"] == 200][-1]
    assert (chat["token"], chat["model"], chat["method"]) == ("alice", MODEL, "POST")
    assert chat["duration"] > 0
    assert chat["client"] != ""
    assert any(row["token"] == "root" and row["status"] == 404 for row in rows)
    for token in behind.tokens.values():
        assert token not in text
    assert secret not in text


def test_tokens_change_without_a_lost_request(behind: Behind) -> None:
    """Old and new are valid side by side; clients ask all the while, and one stream goes on."""
    old = behind.new("carol")
    assert behind.deploy().code == 0
    client = subprocess.Popen(
        [*behind.lab.ssh(OTHER), LOOP.replace("URL", behind.url)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdin
    client.stdin.write(f'header = "Authorization: Bearer {old}"\n')
    client.stdin.close()
    new = behind.new("carol")
    run = behind.deploy()
    assert "reloads the gateway" in run.output
    assert "restarts the gateway" not in run.output
    behind.from_other("touch /tmp/r1-stop")
    assert client.stdout
    codes = client.stdout.read().split()
    assert client.wait(timeout=60) == 0
    print(f"{len(codes)} requests while the tokens changed")
    assert len(codes) > 20
    assert set(codes) == {"200"}
    assert behind.ask("/api/version", new).status == 200
    behind.revoke("carol", "--old")
    assert behind.deploy().code == 0
    assert behind.ask("/api/version", old).status == 401
    assert behind.ask("/api/version", new).status == 200


LOOP = f"""
rm -f /tmp/r1-stop
cat >/tmp/r1-curl; chmod 600 /tmp/r1-curl
i=0
while [ ! -e /tmp/r1-stop ] && [ $i -lt 2000 ]; do
  curl -s -o /dev/null -m 20 --noproxy '*' --cacert {ROOT_FILE} -K /tmp/r1-curl \
    -w '%{{http_code}}\\n' URL/api/version; i=$((i + 1)); sleep 0.05
done
rm -f /tmp/r1-stop /tmp/r1-curl
"""


def test_health_speaks_for_one_pool_alone(behind: Behind) -> None:
    row = behind.first.row(HOST)
    pool = pool_id(row["digest"], row["context"])
    use = behind.tokens["use"]
    assert behind.ask(f"/r1fleet/health/{pool}", use).status == 200
    assert behind.ask(f"/r1fleet/health/{pool}").status == 401
    assert behind.ask(f"/r1fleet/health/{'0' * 12}", use).status == 503
    behind.lab.on(HOST, "systemctl stop ollama")
    try:
        down = behind.ask(f"/r1fleet/health/{pool}", use)
        assert (down.status, down.error) == (503, "the engine does not answer")
    finally:
        behind.lab.on(HOST, "systemctl start ollama r1fleet-preload")
    assert behind.deploy().code == 0


def test_a_changed_engine_refuses_until_it_is_proven(behind: Behind) -> None:
    """The marker fails the health check first, then requests; an interrupted run leaves it there,
    and the next one takes it away with the proof."""
    row = behind.first.row(HOST)
    pool, use = pool_id(row["digest"], row["context"]), behind.tokens["use"]
    run = behind.deploy(ollama_max_queue=500)
    said = run.output
    order = ["holds new requests back", "restarts Ollama", "loads deepseek", "takes requests again"]
    places = [said.index(words) for words in order]
    assert places == sorted(places), said
    behind.lab.on(HOST, "touch /run/r1fleet/draining")
    assert behind.ask(f"/r1fleet/health/{pool}", use).status == 503
    assert behind.ask("/api/version", use).status == 200
    behind.lab.on(HOST, "touch /run/r1fleet/refusing /var/lib/r1fleet/draining")
    refused = behind.ask("/api/version", use)
    assert (refused.status, refused.headers["retry-after"]) == (503, "5")
    assert "being changed" in refused.error
    behind.lab.on(HOST, "rm -rf /run/r1fleet && systemctl restart r1fleet-gateway")  # as a boot
    assert behind.ask("/api/version", use).status == 503
    assert "takes requests again" in behind.deploy().output
    assert behind.ask(f"/r1fleet/health/{pool}", use).status == 200


def test_a_way_back_takes_requests_again(behind: Behind) -> None:
    run = behind.deploy(ollama_max_queue=501, smoke_expect="nothing like it")
    assert run.row(HOST)["verdict"] == "rolled back", run.output
    assert "holds new requests back" in run.output
    assert "takes requests again" in run.output
    assert behind.ask("/api/version", behind.tokens["use"]).status == 200
    left = "ls /run/r1fleet/draining /run/r1fleet/refusing /var/lib/r1fleet/draining"
    assert behind.lab.on(HOST, left, ok=False) == ""


def test_a_run_that_is_killed_in_the_middle_leaves_the_host_out(behind: Behind) -> None:
    """Until the next run has proven it."""
    row = behind.first.row(HOST)
    health = f"/r1fleet/health/{pool_id(row['digest'], row['context'])}"
    flags = behind.flags(ollama_max_queue=502)
    process = behind.lab.start_deploy("-y", "--limit", HOST, *flags)
    assert process.stdout
    for line in process.stdout:
        if "holds new requests back" in line:
            break
    marked = (
        "for i in $(seq 50); do [ ! -e /run/r1fleet/draining ] || exit 0; sleep 0.1; done; exit 1"
    )
    behind.lab.on(HOST, marked)
    process.kill()
    process.communicate(timeout=60)
    assert behind.ask(health, behind.tokens["use"]).status == 503
    run = behind.deploy(steal="yes")
    assert run.code == 0, run.output
    assert "takes requests again" in run.output
    assert behind.ask(health, behind.tokens["use"]).status == 200


def test_a_bad_file_never_goes_live(behind: Behind) -> None:
    before = behind.lab.on(HOST, "cat /etc/r1fleet/gateway/Caddyfile")
    files = {"gateway_tls": "files", "gateway_certificate": "/etc/none.pem"}
    run = behind.deploy(**files, gateway_key="/etc/none.key")
    assert run.code == 1
    assert "gateway: validates its files: " in run.row(HOST)["reason"]
    assert "/etc/none.pem" in run.row(HOST)["reason"]
    assert "next" not in behind.lab.on(HOST, "ls /etc/r1fleet/gateway")
    assert behind.lab.on(HOST, "cat /etc/r1fleet/gateway/Caddyfile") == before
    assert behind.ask("/api/version", behind.tokens["use"]).status == 200
    assert behind.deploy().code == 0


def test_a_certificate_of_ones_own(behind: Behind) -> None:
    files = {"gateway_certificate": "/etc/r1-test.pem", "gateway_key": "/etc/r1-test.key"}
    made = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=gw.example.org "
        "-addext subjectAltName=DNS:gw.example.org -out /etc/r1-test.pem -keyout /etc/r1-test.key"
        " 2>/dev/null; chgrp r1fleet-gateway /etc/r1-test.key; chmod 640 /etc/r1-test.key"
    )
    behind.lab.on(HOST, made)
    try:
        name = "gw.example.org"
        run = behind.deploy(gateway_tls="files", gateway_name=name, **files)
        assert run.code == 0, run.output
        assert any("not trusted by this machine" in text for text in run.row(HOST)["warnings"])
        behind.from_other("cat >/tmp/r1-own.pem", behind.lab.on(HOST, "cat /etc/r1-test.pem"))
        told = behind.from_other(
            f"curl -s -o /dev/null -w '%{{http_code}}' --noproxy '*' --cacert /tmp/r1-own.pem "
            f"--resolve {name}:{PORT}:{behind.address} https://{name}:{PORT}/"
        )
        assert told == "401"
    finally:
        behind.from_other("rm -f /tmp/r1-own.pem")
        behind.lab.on(HOST, "rm -f /etc/r1-test.pem /etc/r1-test.key")
    assert behind.deploy().code == 0


def test_an_engine_that_is_reached_against_its_policy_fails_the_host(behind: Behind) -> None:
    """What forwards to it is found out by connecting, whatever the engine itself listens on."""
    address = f"ListenStream={behind.address}:11434"
    behind.lab.on(
        HOST,
        f"printf '[Socket]\\n{address}\\n' >/run/systemd/system/r1-leak.socket\n"
        "printf '[Service]\\nExecStart=/lib/systemd/systemd-socket-proxyd 127.0.0.1:11434\\n' "
        ">/run/systemd/system/r1-leak.service\nsystemctl daemon-reload; systemctl start "
        "r1-leak.socket",
    )
    try:
        run = behind.deploy(HOST, OTHER, verify_max_age_s=0, expose="local")
        assert run.code == 1, run.output
        reason = run.row(HOST)["reason"]
        assert "expose is local, and this machine reaches the engine at http://" in reason
    finally:
        behind.lab.on(
            HOST,
            "systemctl stop r1-leak.socket r1-leak.service; rm -f /run/systemd/system/r1-leak.*; "
            "systemctl daemon-reload",
        )
    assert behind.deploy().code == 0


def test_the_unit_and_the_files_keep_to_themselves(behind: Behind) -> None:
    lab = behind.lab
    for command in (
        "cat /etc/r1fleet/gateway/tokens",
        "ls /var/lib/r1fleet-gateway",
        "ls /run/r1fleet-gateway",
    ):
        assert lab.on(HOST, f"runuser -u nobody -- {command} 2>&1", ok=False).endswith(
            "Permission denied\n"
        )
    said = lab.on(HOST, "systemd-analyze security r1fleet-gateway --no-pager", ok=False)
    figure = re.search(r"exposure level for r1fleet-gateway.service: ([0-9.]+)", said)
    assert figure
    print(f"systemd-analyze security r1fleet-gateway: {figure[1]}")
    assert float(figure[1]) <= 1.5


def test_the_pages_commands_show_what_they_say(behind: Behind, tmp_path: Path) -> None:
    """Those of docs/gateway.md and docs/security.md, as they stand there."""
    run = behind.deploy()
    assert run.code == 0, run.output
    token, said = behind.new("dora"), {}
    assert behind.deploy().code == 0
    todo = given_to("tests/lab/test_gateway.py::test_the_pages_commands_show_what_they_say")
    for command in todo:
        program, _, rest = command.text.partition(" ")
        text = command.text.replace("HOST", behind.address).replace("gpu1:", f"{behind.address}:")
        if program == "ssh":  # root needs no sudo, and the lab's hosts may have none for it
            words = behind.lab.ssh(HOST)
            text = f"{shlex.join(words)} {rest.partition(' sudo ')[2]}"
        if program in ("ssh", "curl"):
            environment = {"TOKEN": token, "PATH": os.environ["PATH"], "no_proxy": "*"}
            done = subprocess.run(
                ["bash", "-c", text],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, text + done.stderr
            said[command.text] = done.stdout
        else:
            said[command.text] = behind.lab.on(HOST, text, ok=False)
    answers = [text for command, text in said.items() if command.startswith("curl")]
    assert sorted("deepseek-r1" in answer for answer in answers) == [False, True]
    assert "BEGIN CERTIFICATE" in (tmp_path / "root.crt").read_text()
    (count,) = (text for command, text in said.items() if command.startswith("journalctl"))
    assert count == "0\n"
    (rights,) = (text for command, text in said.items() if command.startswith("stat"))
    assert [line.split()[0] for line in rights.splitlines()] == ["640", "640", "700"]
    (figure,) = (text for command, text in said.items() if command.startswith("systemd-analyze"))
    assert "exposure level for r1fleet-gateway.service" in figure
