"""The scripts that take r1fleet away, on a folder: what is somebody else's stays, and what was cut
off can be gone on with."""

import os
import subprocess
from pathlib import Path

import pytest

from r1fleet import brought, outcome, paths
from r1fleet.bundle import packages as from_bundle
from r1fleet.remove import away, scripts
from tests.operations.fakehost import FakeHost

ROOT = Path(__file__).parents[2]
MOVED = ("/opt/ollama", "/usr/local", "/etc/systemd", "/etc/r1fleet", "/run/r1fleet")
# Accounts are lines of the file users; what is there to fail fails once.
TOOLS = {
    "systemctl": '[ "$1" != is-active ]',
    "chown": 'echo "$*" >>"$ROOT/chowned"',
    "id": 'echo "${ID:-54321}"',
    "getent": 'grep -qx "$1 $2" "$ROOT/users"',
    "userdel": '[ ! -e "$ROOT/cut" ] || { rm "$ROOT/cut"; exit 8; }\n: >"$ROOT/users"',
    "groupdel": ":",
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "_outcomes", {})


def run(root: Path, script: str, **values: str) -> int:
    for name, body in TOOLS.items():
        tool = root / "bin" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f"#!/bin/sh\n{body}\n")
        tool.chmod(0o755)
    for path in MOVED:
        script = script.replace(path, f"{root}{path}")
    env = {"PATH": f"{root / 'bin'}:{os.environ['PATH']}", "ROOT": str(root), **values}
    return subprocess.run(["sh", "-c", script], env=env, check=False, timeout=30).returncode


def made(root: Path, *names: str) -> None:
    for name in names:
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")


def left(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


DRIVER = (ROOT / "r1fleet/driver/install.sh").read_text()


@pytest.mark.parametrize(
    "begin",
    ["", from_bundle.FROM_BUNDLE, DRIVER, DRIVER + from_bundle.ALSO_FROM_BUNDLE],
    ids=["tools", "tools of a bundle", "driver", "driver of a bundle"],
)
def test_every_apt_of_ours_tells_what_it_unpacks(tmp_path: Path, begin: str) -> None:
    host = FakeHost(tmp_path, "h")
    host.tool("dpkg-query", "#!/bin/sh\n")
    (tmp_path / "apt.conf").write_text("Bundle;\n")
    begin = f"OUT=/dev/null STAGED={tmp_path}\n{begin}"
    script = brought.noting("tool", begin + '\ncat "$APT_CONFIG"\n')
    ok, output = host.run_shell_command(script, False, False, _timeout=30)
    assert ok, output.stderr
    assert "DPkg::Pre-Install-Pkgs" in output.stdout
    assert ("Bundle;" in output.stdout) == ("$STAGED" in begin)
    assert ("DPkg::Lock::Timeout" in output.stdout) == (DRIVER in begin)


@pytest.mark.parametrize("theirs", [True, False])
def test_somebodys_archive_beside_our_versions_stays(tmp_path: Path, theirs: bool) -> None:
    home = tmp_path / "opt/ollama"
    made(home, "0.32.15-882e7180e766/bin/ollama", ".new-0.33.0/x", "0.31.0/bin/ollama")
    (home / "current").symlink_to("0.32.15-882e7180e766")
    link = tmp_path / "usr/local/bin/ollama"
    link.parent.mkdir(parents=True)
    if theirs:
        made(home, "bin/ollama", "lib/ollama/x.so")
        link.symlink_to(home / "bin/ollama")
    else:
        link.symlink_to(home / "current/bin/ollama")
    for _ in range(2):
        assert run(tmp_path, scripts.ENGINE) == 0
    assert link.is_symlink() == theirs
    assert home.exists() == theirs
    if theirs:
        assert left(home) == {"bin/ollama", "lib/ollama/x.so"}


def test_a_user_goes_after_all_that_was_the_users(tmp_path: Path) -> None:
    """By the user the next run sees that it is to be done."""
    home = tmp_path / "ollama"
    made(home, ".ollama/id_ed25519", "models/blobs/x")
    made(tmp_path, "cut")
    (tmp_path / "users").write_text("passwd ollama\n")
    values = {"ACCOUNT": "ollama", "DIR": str(home), "MODELS": str(home / "models")}
    assert run(tmp_path, scripts.USER, **values) != 0
    assert left(home) == {"models/blobs/x"}
    assert run(tmp_path, scripts.USER, **values) == 0
    assert (tmp_path / "users").read_text() == ""


@pytest.mark.parametrize("is_the_users", [True, False])
def test_of_models_that_stay_only_the_users_become_roots(
    tmp_path: Path, is_the_users: bool
) -> None:
    home = tmp_path / "ollama"
    made(home, "models/blobs/x")
    (tmp_path / "users").write_text("passwd ollama\n")
    values = {"ACCOUNT": "ollama", "DIR": str(home), "MODELS": str(home / "models")}
    values["ID"] = str(os.getuid()) if is_the_users else "54321"
    assert run(tmp_path, scripts.USER, **values) == 0
    given = (tmp_path / "chowned").read_text()
    assert (str(home / "models/blobs/x") in given) == is_the_users


def test_a_mirror_whose_removal_is_cut_off_is_seen_again(tmp_path: Path) -> None:
    made(tmp_path, paths.MIRROR_CONF, paths.MIRROR_UNIT, "mirror/cache/x", "cut")
    (tmp_path / "users").write_text("passwd mirror\n")
    values = {"ACCOUNT": "mirror", "DIR": str(tmp_path / "mirror"), "UNIT": "m.service"}
    conf = tmp_path / paths.MIRROR_CONF.lstrip("/")
    assert run(tmp_path, scripts.MIRROR, **values) != 0
    assert conf.exists()
    assert run(tmp_path, scripts.MIRROR, **values) == 0
    assert not conf.exists()
    assert not (tmp_path / "mirror").exists()


@pytest.mark.parametrize("state", ["is-enabled", "is-active", "neither"])
def test_an_nginx_that_somebody_uses_stays_with_its_sites(tmp_path: Path, state: str) -> None:
    host = FakeHost(tmp_path, "h")
    host.tool("dpkg-query", '#!/bin/sh\nprintf "ii "\n')
    host.tool("systemctl", f'#!/bin/sh\n[ "$1 $3" = "{state} nginx.service" ]\n')
    host.tool("apt-get", '#!/bin/sh\necho "$*" >>"$ROOT/apt"\n')
    assert host.play([away.purge("remove", "removes", ("nginx", "nginx-common"))])
    purged = "purge -y nginx" in (tmp_path / "apt").read_text()
    assert purged == (state == "neither")
    if not purged:
        (line,) = outcome.of("h").warnings
        assert "nginx, nginx-common stay: nginx.service would go with them" in line
