"""What the end of a run and docs/clients.md tell people to type is typed."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab.conftest import BIN, ROOT, Lab, Run

pytestmark = pytest.mark.lab

HOST = "t4"
ADDRESS = "127.0.0.1:11434"
CLIENTS = (ROOT / "docs/clients.md").read_text()


@dataclass
class Typed:
    """Runs what people would type, against a tunnel in place of the loopback address."""

    port: str

    def shell(self, text: str) -> str:
        return self._run(["sh", "-c", text])

    def python(self, text: str) -> str:
        return self._run([sys.executable, "-c", text])

    def _run(self, words: list[str]) -> str:
        words[-1] = words[-1].replace(ADDRESS, f"127.0.0.1:{self.port}")
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def typed(lab: Lab, served: Run) -> Iterator[Typed]:
    argv = [BIN / "r1fleet", "tunnel", "inventories/lab.py", HOST, "--port", "0"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        told = process.stdout.readline()
        yield Typed(told.split(" at http://127.0.0.1:")[1].split()[0])
        process.send_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def told(lab: Lab, served: Run) -> dict[str, str]:
    """The last lines of a run, by their first word."""
    output = lab.deploy("--limit", HOST).output.partition("Use it: ")[2]
    return dict(re.findall(r"^  (base URL|model|curl|Python|OpenAI) +(.*)$", output, re.M))


def test_a_run_ends_with_what_to_type(typed: Typed, told: dict[str, str]) -> None:
    assert told["base URL"].startswith(f"http://{ADDRESS} ")
    assert told["model"] == "deepseek-r1:fleet"
    assert '"content":"READY"' in typed.shell(f"{told['curl']} -s")
    assert typed.python(told["Python"]) == "READY\n"
    assert typed.python(told["OpenAI"]) == "READY\n"


def test_the_page_about_clients_says_what_works(typed: Typed) -> None:
    python = re.findall(r"```python\n(.*?)```", CLIENTS, re.S)
    assert len(python) == 2
    assert [typed.python(text) for text in python] == ["READY\n", "READY\n"]
    first, *others = re.findall(r"```sh\n(.*?)```", CLIENTS, re.S)
    assert '"content":"READY"' in typed.shell(first)
    assert all(text.startswith("# not run by tests\n") for text in others)
