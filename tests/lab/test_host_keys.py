"""SSH host keys: another one fails its host alone, and none is replaced without a word."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.conftest import BIN, ROOT, Lab, Run

pytestmark = pytest.mark.lab

HOST, OTHER = "cpu", "duo"

# A host's keys are replaced between two questions of one process.
ASK_TWICE = """
import subprocess, sys
from r1fleet import reach

fleet = reach.load(sys.argv[1])
def ask():
    (answer,) = fleet.ask(lambda host: host.name).values()
    return answer
print("first", ask())
for host in fleet.hosts:
    host.connector.client.close()
    host.connected = False
print("again", ask())
for host in fleet.hosts:
    host.connector.client.close()
    host.connected = False
subprocess.run(sys.argv[2:], check=True, stdout=subprocess.DEVNULL)
print("other", ask())
"""
# They are read anew at each connection.
REPLACE = (
    "cd /etc/ssh && mkdir -p /run/r1test-keys && cp -p ssh_host_* /run/r1test-keys/"
    " && rm ssh_host_* && ssh-keygen -qA && systemctl restart ssh"
)
PUT_BACK = (
    "cd /etc/ssh && rm ssh_host_* && cp -p /run/r1test-keys/* . && rm -r /run/r1test-keys"
    " && systemctl restart ssh"
)


def inventory(lab: Lab, folder: Path, checking: str, known: str, *hosts: str) -> Path:
    (folder / "known_hosts").write_text(known)
    path = folder / "keys.py"
    path.write_text(
        f"""
import runpy
_hosts, _data = runpy.run_path({str(ROOT / "inventories" / "lab.py")!r})["lab"]
keys = (
    [one for one in _hosts if one[0] in {hosts!r}],
    _data
    | {{
        "ssh_known_hosts_file": {str(folder / "known_hosts")!r},
        "ssh_strict_host_key_checking": {checking!r},
    }},
)
"""
    )
    return path


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


def known_keys(lab: Lab) -> dict[str, str]:
    rows = [line.split() for line in lab.state.known_hosts.read_text().splitlines()]
    of_address = {name: f"{kind} {key}" for names, kind, key in rows for name in names.split(",")}
    return {host: of_address[lab.state.hosts[host].address] for host in (HOST, OTHER)}


@pytest.mark.parametrize("checking", ["yes", "accept-new", "no"])
def test_another_key_fails_that_host_and_no_other(
    lab: Lab, served: Run, tmp_path: Path, checking: str
) -> None:
    keys, address = known_keys(lab), {name: host.address for name, host in lab.state.hosts.items()}
    # The one has the other's: as if another machine answered at its address.
    known = f"{address[HOST]} {keys[OTHER]}\n{address[OTHER]} {keys[OTHER]}\n"
    path = inventory(lab, tmp_path, checking, known, HOST, OTHER)
    done = run(BIN / "pyinfra", path, "deploy.py", "-y")
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert f"[{HOST}] SSH host key error (Host key for {address[HOST]} does not match.)" in said
    assert f"ssh-keygen -R {address[HOST]}" in said
    assert f"[{OTHER}] SSH" not in said
    assert "Traceback" not in said
    assert any(OTHER in line and "as wanted" in line for line in said.splitlines())
    status = run(BIN / "r1fleet", "status", path)
    assert f"{HOST}: unreachable: SSH host key error" in status.stdout
    assert "1 as wanted, 1 unreachable" in status.stdout
    assert (tmp_path / "known_hosts").read_text() == known


def test_an_unknown_key_is_refused_where_the_inventory_says_strict(
    lab: Lab, tmp_path: Path
) -> None:
    done = run(BIN / "r1fleet", "status", inventory(lab, tmp_path, "yes", "", HOST))
    assert done.returncode == 3
    assert "No host key for" in done.stdout
    assert (tmp_path / "known_hosts").read_text() == ""


def test_a_key_that_was_accepted_is_not_replaced_within_the_run(lab: Lab, tmp_path: Path) -> None:
    path = inventory(lab, tmp_path, "accept-new", "", HOST)
    known = tmp_path / "known_hosts"
    try:
        done = run(sys.executable, "-c", ASK_TWICE, path, *lab.ssh(HOST), REPLACE)
    finally:
        # ssh takes the first of two: the host is entered whatever its key is now.
        whatever = ["-o", "UserKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=no"]
        subprocess.run(["ssh", *whatever, *lab.ssh(HOST)[1:], PUT_BACK], check=True)
    first, again, other = done.stdout.splitlines()
    assert "value='cpu'" in first
    assert "value='cpu'" in again
    assert "SSH host key error" in other
    assert known.read_text().count(known_keys(lab)[HOST]) == 1
    assert len(known.read_text().splitlines()) == 1
