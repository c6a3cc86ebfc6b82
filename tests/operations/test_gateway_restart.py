"""What becomes of a gateway that does not come up: the real scripts, in a folder."""

import subprocess
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pytest

from r1fleet.gateway.caddyfile import caddyfile
from r1fleet.settings import Settings

# Caddy is a script that refuses files with "bad" in them, or everything.
CADDY = """#!/bin/sh
[ "$1" = validate ] || exit 1
! grep -q bad "$3" || { echo "Error: bad file with r1f_secret" >&2; exit 1; }
"""
TOOLS = {
    # Answers "up" where the version that `current` names is a good one.
    "systemctl": """#!/bin/sh
case $1 in is-active|restart) ;; *) exit 0 ;; esac
case $(readlink "$ROOT/current") in *good*) ;; *) exit 1 ;; esac
""",
    "curl": """#!/bin/sh
for url; do :; done
echo "$url" >>"$ROOT/../asked"
case $(readlink "$ROOT/current") in *mute*) printf 502 ;; *) printf 401 ;; esac
""",
    # Without its unit, as what it says late is there.
    "journalctl": """#!/bin/sh
case $* in *SYSLOG_IDENTIFIER=gateway*) echo "Error: no such directive r1f_secret" ;; esac
""",
    "runuser": '#!/bin/sh\nshift 3; exec "$@"\n',
    "chown": "#!/bin/sh\n",
    "sleep": "#!/bin/sh\n",
}


@dataclass
class Here:
    """A host as far as the scripts see it."""

    folder: Path

    @property
    def etc(self) -> Path:
        return self.folder / "etc"

    @property
    def mark(self) -> Path:
        return self.folder / "run" / "mark"

    @property
    def current(self) -> str:
        return str((self.folder / "opt/current").readlink())

    def live(self) -> list[str]:
        """What is live, without what is kept for a way back."""
        files = (self.etc / "Caddyfile", self.etc / "tokens", self.folder / "unit")
        return [self.current, *(file.read_text() for file in files)]

    def version(self, key: str, caddy: str = CADDY) -> None:
        program = self.folder / "opt" / key / "caddy"
        program.parent.mkdir(parents=True)
        program.write_text(caddy)
        program.chmod(0o755)

    def send(self, **files: str) -> None:
        for name, content in files.items():
            (self.etc / "next").mkdir(exist_ok=True)
            (self.etc / "next" / name).write_text(content)

    def run(self, script: str, key: str, verb: str = "restart") -> subprocess.CompletedProcess[str]:
        package = resources.files("r1fleet.gateway")
        names = ("../lastwords.sh", "said.sh", script)
        text = "".join((package / name).read_text("ascii") for name in names)
        values = {
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
            "DIR": str(self.etc),
            "ROOT": str(self.folder / "opt"),
            "KEY": key,
            "UNIT": "gateway.service",
            "UNIT_FILE": str(self.folder / "unit"),
            "BEFORE": str(self.etc / "before"),
            "ACCOUNT": "nobody",
            "HOME_DIR": "/",
            "MARK": str(self.mark),
            "MARKS": f"{self.folder}/run/refusing {self.folder}/run/draining",
            "ANSWER_S": "3",
            "VERB": verb,
        }
        return subprocess.run(
            ["sh", "-c", text], env=values, capture_output=True, text=True, timeout=60, check=False
        )


@pytest.fixture
def here(tmp_path: Path) -> Here:
    """A gateway that runs: version 1-good with its files."""
    found = Here(tmp_path)
    for folder in ("bin", "etc", "run"):
        (tmp_path / folder).mkdir()
    for name, text in TOOLS.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    found.version("1-good")
    (tmp_path / "opt/current").symlink_to("1-good")
    (tmp_path / "unit").write_text("old unit")
    (found.etc / "Caddyfile").write_text("old")
    (found.etc / "tokens").write_text("old tokens")
    return found


def test_each_is_asked_where_its_own_file_has_it_listen(here: Here) -> None:
    for listen, tls in (
        ("127.0.0.1:9", "off"),
        ("[::1]:99", "internal"),
        ("0.0.0.0:9", "internal"),
    ):
        settings = Settings(expose="gateway", gateway_listen=listen, gateway_tls=tls)
        (here.etc / "Caddyfile").write_text(caddyfile(settings, "10.0.0.7"))
        assert here.run("restart.sh", "1-good").returncode == 0
    asked = (here.folder / "asked").read_text().split()
    assert asked == ["http://127.0.0.1:9/", "https://[::1]:99/", "https://127.0.0.1:9/"]


OLD = ["1-good", "old", "old tokens", "old unit"]


def test_what_the_new_caddy_refuses_switches_nothing(here: Here) -> None:
    here.version("2-good", "#!/bin/sh\nexit 1\n")
    here.send(tokens="new")
    done = here.run("apply.sh", "2-good")
    assert done.returncode == 1
    assert done.stderr.endswith("2-good/caddy ended with an error and said nothing\n")
    assert here.live() == OLD
    here.send(Caddyfile="bad")
    done = here.run("apply.sh", "1-good", "reload")
    assert done.stderr == "Error: bad file with r1f_...\n"
    assert here.live() == OLD
    assert not here.mark.exists()
    assert {path.name for path in here.etc.iterdir()} == {"Caddyfile", "tokens"}


def test_a_good_one_is_switched_to_and_nothing_is_kept(here: Here) -> None:
    here.version("2-good")
    here.send(tokens="new")
    assert here.run("apply.sh", "2-good").returncode == 0
    assert here.live() == ["2-good", "old", "new", "old unit"]
    assert here.mark.read_text() == "restart\n"
    assert (here.etc / "before").stat().st_mode & 0o77 == 0
    assert here.run("restart.sh", "2-good").returncode == 0
    assert not here.mark.exists()
    assert {path.name for path in here.etc.iterdir()} == {"Caddyfile", "tokens"}


@pytest.mark.parametrize("key", ["2-broken", "2-good-mute"])
@pytest.mark.parametrize("whose", ["gateway", "engine"])
def test_one_that_does_not_come_up_or_not_answer_is_put_back(
    here: Here, key: str, whose: str
) -> None:
    here.version(key)
    here.send(Caddyfile="new", tokens="new tokens")
    assert here.run("apply.sh", key).returncode == 0
    (here.folder / "unit").write_text("new unit")
    for mark in ("refusing", "draining"):
        (here.folder / "run" / mark).write_text(f"{whose}\n")
    done = here.run("restart.sh", key)
    assert done.returncode == 1
    assert done.stderr == (
        f"{key} does not come up: Error: no such directive r1f_...; 1-good with its files was put"
        " back and answers\n"
    )
    assert here.live() == OLD
    assert not here.mark.exists()
    assert not (here.etc / "before").exists()
    # What was held back for the gateway alone is taken again; an engine has still to be proven.
    assert (here.folder / "run/refusing").exists() is (whose == "engine")


def test_a_run_that_was_cut_off_does_not_take_the_new_one_for_what_ran(here: Here) -> None:
    for key in ("2-broken", "3-broken"):
        here.version(key)
        here.run("apply.sh", key)
    assert here.run("restart.sh", "3-broken").returncode == 1
    assert here.live() == OLD


def test_last_words_that_the_journal_gets_late_are_waited_for(here: Here) -> None:
    late = TOOLS["journalctl"].replace(
        "#!/bin/sh\n",
        f'#!/bin/sh\n[ "$1" = --sync ] && {{ echo >>{here.folder}/asked; exit; }}\n'
        f"[ $(wc -l <{here.folder}/asked) -ge 3 ] || exit 0\n",
    )
    (here.folder / "bin/journalctl").write_text(late)
    here.version("2-broken")
    assert here.run("apply.sh", "2-broken").returncode == 0
    assert "2-broken does not come up: Error: no such" in here.run("restart.sh", "2-broken").stderr


def test_where_no_error_is_told_systemctls_own_words_are(here: Here) -> None:
    (here.folder / "bin/journalctl").write_text("#!/bin/sh\n")
    (here.folder / "bin/systemctl").write_text(
        TOOLS["systemctl"].replace("*) exit 1", "*) echo 'Unit x is masked.' >&2; exit 1")
    )
    here.version("2-broken")
    assert here.run("apply.sh", "2-broken").returncode == 0
    assert "2-broken does not come up: Unit x is masked.; 1-good" in (
        here.run("restart.sh", "2-broken").stderr
    )


def test_without_a_gateway_that_ran_there_is_nothing_to_put_back(here: Here) -> None:
    for key in ("0-broken", "2-broken"):
        here.version(key)
    (here.folder / "opt/current").unlink()
    (here.folder / "opt/current").symlink_to("0-broken")
    assert here.run("apply.sh", "2-broken").returncode == 0
    done = here.run("restart.sh", "2-broken")
    assert done.stderr == "2-broken does not come up: Error: no such directive r1f_...\n"
    assert here.current == "2-broken"
