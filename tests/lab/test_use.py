"""A model is used from the laptop, through SSH alone: `r1fleet ask` and `r1fleet tunnel`."""

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from r1fleet import probe
from tests.lab.conftest import ROOT, Lab, Run

R1FLEET = [sys.executable, "-m", "r1fleet.cli"]


def r1fleet(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*R1FLEET, *words], cwd=ROOT, input=stdin, capture_output=True, text=True, check=False
    )


def test_a_question_gets_an_answer_and_its_thought_stands_apart(lab: Lab, served: Run) -> None:
    done = r1fleet("ask", "inventories/lab.py", "Reply with one word")
    assert (done.returncode, done.stdout) == (0, "READY\n"), done.stderr
    assert "the prompt asks for one word" in done.stderr
    assert f"{lab.hosts[0]}, deepseek-r1:fleet" in done.stderr


def test_the_host_can_be_chosen_and_the_question_piped(lab: Lab, served: Run) -> None:
    # "duo" is entered as a user with sudo: forwarding needs no root.
    done = r1fleet("ask", "inventories/lab.py", "--host", "duo", "-", stdin="One word, please")
    assert (done.returncode, done.stdout) == (0, "READY\n"), done.stderr
    assert "duo, deepseek-r1:fleet" in done.stderr


def test_a_host_whose_engine_is_stopped_says_so_and_another_answers(lab: Lab, served: Run) -> None:
    first = lab.hosts[0]
    lab.on(first, "systemctl stop ollama")
    try:
        alone = r1fleet("ask", "inventories/lab.py", "--host", first, "Hello")
        assert (alone.returncode, alone.stdout) == (1, "")
        assert f"{first}: nothing listens at 127.0.0.1:11434, or its sshd" in alone.stderr
        any_host = r1fleet("ask", "inventories/lab.py", "Hello")
        assert (any_host.returncode, any_host.stdout) == (0, "READY\n"), any_host.stderr
    finally:
        lab.on(first, "systemctl start ollama r1fleet-preload")


def test_the_doctor_finds_a_served_host_sound_and_a_stopped_engine_not(
    lab: Lab, served: Run, tmp_path: Path
) -> None:
    record = tmp_path / "duo.txt"
    sound = r1fleet("doctor", "inventories/lab.py", "duo", "--record", str(record))
    assert sound.returncode == 0, sound.stdout + sound.stderr
    assert "100% on the GPUs" in sound.stdout
    again = probe.parse(record.read_text())
    assert [gpu.name for gpu in again.driver.gpus] == ["NVIDIA GeForce RTX 4090"] * 2
    assert lab.state.hosts["duo"].address not in record.read_text()
    lab.on("duo", "systemctl stop ollama")
    try:
        found = r1fleet("doctor", "inventories/lab.py", "duo", "--json")
    finally:
        lab.on("duo", "systemctl start ollama r1fleet-preload")
    assert found.returncode == 1
    bad = [check for check in json.loads(found.stdout)["checks"] if check["level"] == "bad"]
    assert "ollama.service is stopped" in {check["what"] for check in bad}


def test_the_api_of_a_host_stands_on_a_port_here_until_ctrl_c(lab: Lab, served: Run) -> None:
    argv = [*R1FLEET, "tunnel", "inventories/lab.py", "duo", "--port", "0"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        told = process.stdout.readline()
        base = told.split(" at ")[1].split()[0]
        with urllib.request.urlopen(f"{base}/api/tags", timeout=30) as response:
            through = json.load(response)["models"]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    assert base.startswith("http://127.0.0.1:")
    here = lab.api("duo", "/api/tags")["models"]
    assert [model["digest"] for model in through] == [model["digest"] for model in here]
