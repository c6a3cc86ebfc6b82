"""Two hosts that no inventory has, as a new user meets them: three commands to answers of both."""

import json
import os
import re
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.odd import PASSWORD, PORT, USER
from tests.lab import typed
from tests.lab.conftest import BIN, Lab
from tests.lab.newcomer import ODD, User, move_in, use_servers_of
from tests.lab.test_secrets import FILES, HERE, SAMPLE, put

pytestmark = pytest.mark.lab

SAID_BY_SHELL = ("Willkommen", "kein Postfach", "Mitarbeiter", "Guten Tag")
SUDOERS = f"/etc/sudoers.d/{USER}"
DEPLOY = ("pyinfra", "inventory.py", "deploy.py", "-y")


@contextmanager
def watched(lab: Lab, *hosts: str) -> Iterator[list[str]]:
    """Somebody looks at the process lists and files of the hosts all the while, and at the list of
    this machine: its lines with the password, or with deploy.py, are what comes back."""
    here: list[str] = []
    over = threading.Event()
    local = threading.Thread(target=_look_here, args=(here, over))
    local.start()
    watchers = []
    for host in hosts:
        lab.on(host, f"rm -rf {HERE}; mkdir -m 700 {HERE}")
        put(lab, host, f"{HERE}/secrets", f"{PASSWORD}\n")
        put(lab, host, f"{HERE}/patterns", f"{PASSWORD}\n@@r1fleet\n")
        watchers.append(subprocess.Popen([*lab.ssh(host), SAMPLE], stdin=subprocess.DEVNULL))
    try:
        yield here
    finally:
        over.set()
        local.join()
        for host, watcher in zip(hosts, watchers, strict=True):
            lab.on(host, f"touch {HERE}/stop")
            watcher.wait(180)  # on a loaded machine a look takes its time


def _look_here(found: list[str], over: threading.Event) -> None:
    while not over.wait(0.1):
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                text = path.read_bytes().decode(errors="replace").replace("\0", " ")
                found += [text] if PASSWORD in text or DEPLOY[2] in text else []


@dataclass(frozen=True)
class Trial:
    """What a new user did and saw, and what stood in the process list meanwhile."""

    user: User
    processes: list[str]
    init: typed.Typed
    deploy: typed.Typed
    answers: dict[str, typed.Typed]

    @property
    def all(self) -> tuple[typed.Typed, ...]:
        return (self.init, self.deploy, *self.answers.values())


@pytest.fixture(scope="module")
def trial(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    user = move_in(lab, tmp_path_factory.mktemp("home"))
    words = ("r1fleet", "init", "--sudo-password", "ask", "--dir", "fleet", f"root@{user.pc}", ODD)
    init = user.type(*words, cwd=user.home)
    try:
        use_servers_of(lab, user)
        with watched(lab, "pc1", "odd") as processes:
            deploy = user.type(*DEPLOY)
        ask = ("r1fleet", "ask", "inventory.py", "Reply with one word", "--host")
        answers = {host: user.type(*ask, host) for host in (user.pc, ODD)}
        found = Trial(user, processes, init, deploy, answers)
        _write_transcript(found, words, ask)
        yield found
    finally:
        for host in ("pc1", "odd"):
            lab.cli("reset", host)


def _write_transcript(trial: Trial, init: tuple[str, ...], ask: tuple[str, ...]) -> None:
    path = os.environ.get("R1_TRANSCRIPT")
    if not path:
        return
    shown = [("~", init, trial.init), ("~/fleet", DEPLOY, trial.deploy)]
    shown += [("~/fleet", (*ask, host), said) for host, said in trial.answers.items()]
    parts = [f"{cwd}$ {' '.join(words)}\n{said.output}" for cwd, words, said in shown]
    Path(path).write_text("\n".join(parts), encoding="utf-8")


def test_the_host_is_as_odd_as_can_be(lab: Lab) -> None:
    entry = lab.on("odd", f"getent passwd {USER}")
    assert entry.strip().endswith("/usr/bin/fish")
    assert "noexec" in lab.on("odd", "findmnt -no OPTIONS /tmp || grep ' /tmp ' /proc/mounts")
    assert "de_DE.UTF-8" in lab.on("odd", "cat /etc/default/locale")
    straight = ["ssh", *lab.ssh("odd")[1:-1], "-p", str(PORT), f"{USER}@{lab.ssh('odd')[-1][5:]}"]
    straight[1:1] = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    done = subprocess.run([*straight, "true"], capture_output=True, text=True, check=False)
    assert done.returncode == 255
    assert "Mitarbeiter" in done.stderr  # the banner


def test_three_commands_lead_to_an_answer_of_both(trial: Trial) -> None:
    assert [said.code for said in trial.all] == [0, 0, 0, 0], trial.deploy.output
    assert "chosen: 14b" in trial.init.output
    assert "chosen: 32b" in trial.init.output
    for host, said in trial.answers.items():
        assert "READY" in said.output.splitlines()
        assert f"{host}, deepseek-r1:fleet" in said.output


def test_the_password_is_asked_for_once_by_who_needs_it_and_stands_nowhere(trial: Trial) -> None:
    assert [said.asked for said in trial.all] == [1, 1, 0, 0]
    assert not any(PASSWORD in said.output for said in trial.all)
    assert any(DEPLOY[2] in text for text in trial.processes)  # it looked
    assert not any(PASSWORD in text for text in trial.processes)
    here = [path for path in trial.user.home.rglob("*") if path.is_file()]
    assert [path for path in here if PASSWORD.encode() in path.read_bytes()] == []


def test_nothing_that_a_login_prints_is_taken_for_an_answer(trial: Trial) -> None:
    assert not any(word in said.output for said in trial.all for word in SAID_BY_SHELL)


@pytest.mark.parametrize("host", ["pc1", "odd"])
def test_no_process_and_no_file_of_a_host_has_shown_it(lab: Lab, trial: Trial, host: str) -> None:
    seen = lab.on(host, f"cat {HERE}/commands")
    assert "@@r1fleet" in seen  # it looked while there was something to see
    assert PASSWORD not in seen
    assert lab.on(host, f"cat {HERE}/files 2>/dev/null; true") == ""
    assert lab.on(host, FILES) == ""
    lab.on(host, "journalctl --sync")
    assert PASSWORD not in lab.on(host, "journalctl -a -o export --no-pager")


def commands(output: str) -> dict[str, int]:
    names = re.findall(r"Running command on (\S+):", output)
    return {name: names.count(name) for name in names}


def test_a_second_run_is_one_command_and_the_loudest_says_no_password(trial: Trial) -> None:
    for flags in (("-vvv", "--debug", "--diff"), ("-vvv", "--debug", "--json")):
        done = trial.user.run(*DEPLOY, *flags)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert commands(said) == {trial.user.pc: 1, ODD: 1}
        assert PASSWORD not in said
        assert "Grüße" not in said


def test_status_doctor_and_why_look_at_it(trial: Trial) -> None:
    status = trial.user.run("r1fleet", "status", "inventory.py")
    assert (status.returncode, "2 as wanted" in status.stdout) == (0, True), status.stdout
    doctor = trial.user.run("r1fleet", "doctor", "inventory.py", ODD)
    assert (doctor.returncode, "100% on the GPUs" in doctor.stdout) == (0, True), doctor.stdout
    why = trial.user.run("r1fleet", "why", "inventory.py", ODD)
    assert (why.returncode, "engine unknown -> " in why.stdout) == (0, True), why.stdout


def test_its_api_comes_through_the_jump_host(trial: Trial) -> None:
    argv = [BIN / "r1fleet", "tunnel", "inventory.py", ODD, "--port", "0"]
    environment, out = trial.user.environment(), subprocess.PIPE
    with subprocess.Popen(
        argv, cwd=trial.user.folder, env=environment, stdout=out, text=True
    ) as process:
        assert process.stdout
        base = process.stdout.readline().split(" at ")[1].split()[0]
        with urllib.request.urlopen(f"{base}/api/tags", timeout=30) as response:
            names = {model["name"] for model in json.load(response)["models"]}
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    assert "deepseek-r1:fleet" in names


def test_a_wrong_password_is_one_line_and_the_other_host_gets_its_change(
    lab: Lab, trial: Trial
) -> None:
    lab.on("pc1", "rm /usr/local/lib/r1fleet/preload")
    done = trial.user.run(*DEPLOY, password="not this one")
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert "Traceback" not in said
    refused = "probe: sudo refused the password; check sudo_password"
    told = [" ".join(line.split()) for line in said.splitlines() if "password" in line]
    assert sorted(told) == [
        f"[{ODD}] {refused}",
        f"{ODD}: {refused}",
    ]
    assert lab.on("pc1", "test -x /usr/local/lib/r1fleet/preload && echo there")
    assert "not this one" not in said
    tried = lab.on("odd", "journalctl --sync; journalctl -q -t sudo -g 'incorrect password'")
    assert "1 incorrect password attempt" in tried
    assert "3 incorrect" not in tried
    status = trial.user.run("r1fleet", "status", "inventory.py", password="not this one")
    assert f"{ODD}: failed: sudo refused the password; check sudo_password" in status.stdout
    assert "1 as wanted, 1 failed" in status.stdout


@pytest.mark.parametrize(
    ("script", "mend", "line"),
    [
        (
            f"echo 'Defaults:{USER} requiretty' >/etc/sudoers.d/tty",
            "rm /etc/sudoers.d/tty",
            "sudo wants a terminal (requiretty); put `Defaults:USER !requiretty`",
        ),
        (
            f"mv {SUDOERS} /root/{USER}",
            f"mv /root/{USER} {SUDOERS}",
            "sudo allows this user no such command; put `USER ALL=(ALL) ALL`",
        ),
        (
            "mv /usr/bin/sudo /root/sudo",
            "mv /root/sudo /usr/bin/sudo",
            "there is no sudo; install sudo there, or enter as root with a key",
        ),
    ],
    ids=["requiretty", "no entry", "no sudo"],
)
def test_each_refusal_of_sudo_is_a_line(
    trial: Trial, broken: Callable[[str, str, str], None], script: str, mend: str, line: str
) -> None:
    broken("odd", script, mend)
    status = trial.user.run("r1fleet", "status", "inventory.py")
    assert status.returncode == 1
    assert f"{ODD}: failed: {line}" in status.stdout
    assert "1 as wanted, 1 failed" in status.stdout


def test_where_sudo_asks_for_none_its_line_reaches_no_script(
    lab: Lab, trial: Trial, broken: Callable[[str, str, str], None]
) -> None:
    nopasswd = f"sed -i 's/ALL$/NOPASSWD: ALL/' {SUDOERS}; rm /usr/local/lib/r1fleet/preload"
    before = lab.on("odd", "sha256sum /usr/local/lib/r1fleet/preload")
    broken("odd", nopasswd, f"sed -i 's/NOPASSWD: //' {SUDOERS}")
    done = trial.user.run(*DEPLOY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert lab.on("odd", "sha256sum /usr/local/lib/r1fleet/preload") == before
    assert lab.on("odd", FILES) == ""


def test_a_jump_host_whose_key_is_not_known_is_a_line_and_no_question(trial: Trial) -> None:
    known = trial.user.home / ".ssh" / "known_hosts"
    before = known.read_text()
    rows = before.splitlines(keepends=True)
    known.write_text("".join(row for row in rows if not row.startswith(f"{trial.user.pc},")))
    try:
        done = trial.user.type("r1fleet", "status", "inventory.py", "--limit", ODD)
    finally:
        known.write_text(before)
    assert done.code == 3
    assert f"{ODD}: unreachable: " in done.output
    assert f"No host key for {trial.user.pc} found in known_hosts" in done.output
    assert "do you want to continue" not in done.output


def test_the_way_back_works_there(lab: Lab, trial: Trial) -> None:
    change = trial.user.run(*DEPLOY, "--limit", ODD, "--data", "tag=14b")
    assert change.returncode == 0, change.stdout + change.stderr
    assert "deepseek-r1:14b" in lab.on("odd", "curl -s 127.0.0.1:11434/api/ps")
    back = trial.user.run("pyinfra", "inventory.py", "rollback.py", "-y", "--limit", ODD)
    assert back.returncode == 0, back.stdout + back.stderr
    assert "deepseek-r1:32b" in lab.on("odd", "curl -s 127.0.0.1:11434/api/ps")
