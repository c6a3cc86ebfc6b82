"""`r1fleet init`: a directory that pyinfra reads, or one line that says why not."""

import ast
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1fleet.init import FIRST, Target, TargetError, files, target
from r1fleet.settings import Settings, read

ROOT = Path(__file__).parents[2]


def command(cwd: Path, *words: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "r1fleet.cli", *words]
    environment = os.environ | ({"HOME": str(home)} if home else {})
    return subprocess.run(
        argv, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("text", "name", "data"),
    [
        ("pc1", "pc1", {}),
        ("root@pc1", "pc1", {"ssh_user": "root"}),
        ("ops@10.0.0.7:2222", "10.0.0.7", {"ssh_user": "ops", "ssh_port": 2222, "_sudo": True}),
        ("@local", "@local", {}),
    ],
)
def test_hosts_are_given_as_for_ssh(text: str, name: str, data: dict[str, object]) -> None:
    assert (target(text).name, target(text).data) == (name, data)


@pytest.mark.parametrize("text", ["", "a b", "root@", "pc1:0", "pc1:x", "pc;1", "o'x@pc1", "-oX"])
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(TargetError, match=r"give it as user@host"):
        target(text)


@given(st.text())
def test_whatever_is_taken_is_safe_python(text: str) -> None:
    try:
        found = target(text)
    except TargetError:
        return
    scope: dict[str, object] = {}
    exec(files([found])["inventory.py"], scope)  # as pyinfra does
    hosts, _ = scope["hosts"]
    assert hosts == [(found.name, found.data)]


def test_the_directory_is_one_of_a_fleet(tmp_path: Path) -> None:
    done = command(tmp_path, "init", "--no-plan", "--dir", "fleet", "root@pc1", "ops@pc2")
    assert done.returncode == 0, done.stderr
    assert "Next: cd fleet && pyinfra inventory.py deploy.py -y" in done.stdout
    shown = command(tmp_path / "fleet", "settings", "inventory.py", "pc2", "--json")
    assert shown.returncode == 0, shown.stderr
    found = json.loads(shown.stdout)["settings"]
    assert {row["source"] for row in found.values()} == {"default"}


def hosts_of(folder: Path) -> dict[str, dict[str, object]]:
    return dict(runpy.run_path(str(folder / "inventory.py"))["hosts"][0])


def test_who_enters_a_name_of_ssh_config_stands_there(tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text(
        "Host pc1\n  User anna\nHost *\n  User root\n", encoding="utf-8"
    )
    done = command(tmp_path, "init", "--no-plan", "pc1", "pc2", "bert@pc3", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert hosts_of(tmp_path) == {
        "pc1": {"_sudo": True},
        "pc2": {},
        "pc3": {"ssh_user": "bert", "_sudo": True},
    }


def test_where_sudo_gets_its_password_is_set_at_once_and_the_password_itself_is_refused(
    tmp_path: Path,
) -> None:
    wrong = command(tmp_path, "init", "--no-plan", "--sudo-password", "hunter2", "anna@pc1")
    assert wrong.returncode == 2
    assert "--sudo-password takes ask, env:NAME" in wrong.stderr
    assert "hunter2" not in wrong.stderr
    assert list(tmp_path.iterdir()) == []
    done = command(tmp_path, "init", "--no-plan", "--sudo-password", "env:PW", "anna@pc1")
    assert done.returncode == 0, done.stderr
    assert runpy.run_path(str(tmp_path / "group_data" / "all.py"))["sudo_password"] == "env:PW"


def test_each_line_of_the_settings_is_right_once_its_sign_is_taken_away(tmp_path: Path) -> None:
    text = files([Target("pc1")])["group_data/all.py"]
    lines = [line[2:] for line in text.splitlines() if line.startswith("# ") and " = " in line]
    (tmp_path / "all.py").write_text("\n".join(lines))
    values = {k: v for k, v in runpy.run_path(str(tmp_path / "all.py")).items() if k[0] != "_"}
    assert list(values) == [name for names in FIRST.values() for name in names]
    assert read("pc1", values) == Settings()


@pytest.mark.parametrize("name", ["deploy.py", "rollback.py", "remove.py", "config.py"])
def test_it_runs_what_a_checkout_runs(name: str) -> None:
    own, checkout = files([Target("pc1")])[name], (ROOT / name).read_text()
    assert _code(own) == _code(checkout)


def _code(text: str) -> str:
    return ast.unparse(ast.Module(ast.parse(text).body[1:], []))


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "deploy.py").write_text("mine")
    done = command(tmp_path, "init", "--no-plan", "pc1")
    assert (done.returncode, done.stdout) == (2, "")
    said = "deploy.py is there already: edit it, or delete it; nothing was written"
    assert done.stderr.strip() == said
    assert [path.name for path in tmp_path.iterdir()] == ["deploy.py"]


def test_the_same_host_twice_is_refused(tmp_path: Path) -> None:
    done = command(tmp_path, "init", "--no-plan", "root@pc1", "ops@pc1")
    assert done.returncode == 2
    assert "pc1 is named more than once; nothing was written" in done.stderr
