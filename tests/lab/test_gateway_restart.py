"""A gateway whose new Caddy is broken: what ran before answers on, with the same tokens."""

import io
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from hashlib import sha512
from pathlib import Path

import pytest

from lab import services
from r1fleet.gateway import knock
from r1fleet.gateway.tokens import read
from tests.lab.conftest import BIN, ROOT, Lab, Run

pytestmark = pytest.mark.lab

HOST, PORT = "t4", 11443
READ_CA = "cat /var/lib/r1fleet-gateway/caddy/pki/authorities/local/root.crt"
BEGINS = "#!/bin/sh\necho 'Error: this one does not start' >&2\n"
REFUSES = f"{BEGINS}exit 1\n"
ENDS = f"{BEGINS}[ $1 = validate ]\n"  # it finds no fault with the files


class Shared:
    """The host behind its gateway, and a token for it."""

    def __init__(self, lab: Lab, store: Path) -> None:
        self.lab, self.store = lab, store
        self.address = lab.state.hosts[HOST].address
        words = [BIN / "r1fleet", "token", "new", "alice", "--file", str(store)]
        subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
        (self.token,) = (one.secret for one in read(f"file:{store}").tokens)

    def deploy(self, *flags: str) -> Run:
        data = ("expose=gateway", f"gateway_tokens=file:{self.store}")
        words = [word for pair in data for word in ("--data", pair)]
        return self.lab.deploy("--limit", HOST, *words, *flags)

    def answers(self) -> tuple[int, int]:
        """The statuses without and with the token, by the certificate that the host had."""
        root = self.lab.on(HOST, READ_CA)
        return knock.gateway(self.address, PORT, "internal", self.address, root, self.token)

    def live(self) -> str:
        """All that runs and that it would be restarted with."""
        return self.lab.on(
            HOST,
            "readlink /opt/r1fleet/gateway/current; find /etc/r1fleet/gateway | sort;"
            " sha256sum /etc/r1fleet/gateway/Caddyfile /etc/r1fleet/gateway/tokens"
            " /etc/systemd/system/r1fleet-gateway.service; systemctl is-active r1fleet-gateway;"
            " ls /run/r1fleet/draining /run/r1fleet/refusing /run/r1fleet/gateway-restart 2>&1",
            ok=False,
        )


@pytest.fixture(scope="module")
def shared(lab: Lab, served: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    found = Shared(lab, tmp_path_factory.mktemp("gateway") / "tokens")
    try:
        first = found.deploy()
        assert first.code == 0, first.output
        yield found
    finally:
        closed = lab.deploy("--limit", HOST)
        assert closed.code == 0, closed.output


def published(version: str, program: bytes) -> Iterator[tuple[str, ...]]:
    """Puts a Caddy on the lab's artifact server; yields the flags that make a run want it."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        entry = tarfile.TarInfo("caddy")
        entry.mode, entry.size = 0o755, len(program)
        tar.addfile(entry, io.BytesIO(program))
    folder = services.www_dir() / "caddy" / f"v{version}"
    folder.mkdir()
    (folder / f"caddy_{version}_linux_amd64.tar.gz").write_bytes(content.getvalue())
    digest = sha512(content.getvalue()).hexdigest()
    yield ("--data", f"gateway_version={version}", "--data", f"gateway_sha512={digest}")
    shutil.rmtree(folder)


@pytest.fixture(params=[REFUSES, ENDS], ids=["refuses", "ends"])
def broken(request: pytest.FixtureRequest) -> Iterator[tuple[str, ...]]:
    yield from published("2.99.0", request.param.encode())


@pytest.fixture
def newer(lab: Lab) -> Iterator[tuple[str, ...]]:
    """A good one, under another number: the same program."""
    version = lab.state.gateway_version
    archive = services.www_dir() / f"caddy/v{version}/caddy_{version}_linux_amd64.tar.gz"
    with tarfile.open(archive) as tar:
        program = tar.extractfile("caddy")
        assert program
        yield from published("2.99.1", program.read())


def test_a_broken_caddy_leaves_what_ran(
    shared: Shared, broken: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    before = shared.live()
    # With another port as well: the files belong together.
    run = shared.deploy(*broken, "--data", "gateway_listen=0.0.0.0:11444")
    assert run.code == 1, run.output
    reason = run.row(HOST)["reason"]
    assert "Error: this one does not start" in reason
    came_to_the_restart = "restarts the gateway" in run.output
    assert came_to_the_restart is ("[ends]" in request.node.name), run.output
    assert ("was put back and answers" in reason) is came_to_the_restart
    assert "\n" not in reason
    # Once when it happens, and once more at the end of the way back: the same line.
    told = {line for line in run.output.splitlines() if re.search(rf"\[{HOST}\] +gateway: ", line)}
    assert len(told) == 1, run.output
    assert shared.live() == before
    assert shared.answers() == (401, 200)


def test_a_good_one_is_drained_before_its_restart_and_answers(
    shared: Shared, newer: tuple[str, ...]
) -> None:
    run = shared.deploy(*newer)
    assert run.code == 0, run.output
    order = ["holds new requests back", "restarts the gateway", "takes requests again"]
    places = [run.output.index(words) for words in order]
    assert places == sorted(places), run.output
    assert shared.live().startswith("2.99.1-")
    assert shared.answers() == (401, 200)
    again = shared.deploy(*newer)
    assert again.row(HOST)["verdict"] == "as wanted", again.output
