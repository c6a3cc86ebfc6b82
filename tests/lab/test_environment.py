"""Values of the engine's environment against a real systemd: they arrive exactly, or are refused.

The values go through the product's own check and template, and a process that systemd starts with
that file shows what it got.
"""

import base64
import subprocess

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from r1fleet import paths
from r1fleet.engine import wanted
from r1fleet.settings import SettingsError, read
from tests.lab.conftest import Lab
from tests.unit.test_engine_wanted import T4, choice

pytestmark = pytest.mark.lab

FOLDER = "/run/r1test-environment"
SHOW = (
    f"umask 077; mkdir -p {FOLDER}; cat >{FOLDER}/env"
    f" && systemd-run -q --wait --collect --pipe -p EnvironmentFile={FOLDER}/env"
    " /bin/cat /proc/self/environ </dev/null | base64 -w0"
    f"; rm -r {FOLDER}"
)

# What a shell, systemd or a parser of lines might take for something else.
TROUBLE = [
    *("", " ", "  both ends  ", "\ttab", "new\nline", "carriage\rreturn", "unit\x1fseparator"),
    *('"', "'", '"whole"', "'whole'", 'one"', "it's", '\\"', "\\'", '"" ""', "``", "`id`"),
    *("\\", "\\\\", "ends\\", "\\n", "\\x41", "\\u0041", "\\$", "a\\ b", "c:\\new\\table"),
    *("$", "$$", "$HOME", "${HOME}", "$(id)", "%", "%%", "%n", "%h", "%i%", "100 %"),
    *(
        "#",
        "# no comment",
        "a # b",
        ";",
        "; no comment",
        "a;b",
        "=",
        "A=b",
        "export A=b",
        "[Service]",
    ),
    *("é", "日本語", "🙂", "e\u0301", "\u200b", "\u202e", "\u00a0", "\u2028", "\ufeff", "\ufffd"),
    *("\ud800", "\ufffe", "\x00", "\x7f", "\x85", "\x1b[31m", "\U0010ffff", "\ue000", "x" * 30_000),
]
VALUES = st.one_of(
    st.text(st.sampled_from(" \t\n\"'`$%\\#;=&|<>(){}*?!~\x1f\x7fnuxh0aé🙂"), max_size=8),
    st.text(max_size=12),
    st.sampled_from(TROUBLE),
)
AT_ONCE, TIMES = 50, 10  # 500 values on each host
Taken = dict[str, str]


def one_of_each_release(lab: Lab) -> list[str]:
    found = {host.release: name for name, host in lab.state.hosts.items() if host.listed}
    assert set(found) == {"bookworm", "trixie"}
    return list(found.values())


def taken(values: list[str]) -> Taken:
    """Those that the settings do not refuse, each under a name of its own."""
    found: Taken = {}
    for number, value in enumerate(values):
        try:
            found |= read("host", {"extra_env": {f"R1TEST_{number}": value}}).extra_env
        except SettingsError:
            # Refused is what cannot stand on a line, and nothing else.
            assert not value.isprintable()
    return found


def shown(lab: Lab, host: str, environment: Taken) -> dict[bytes, bytes]:
    """The environment of a process that systemd started with the engine's file."""
    files = wanted.engine(read("host", {"extra_env": environment}), choice(), T4).files
    (file,) = (file for file in files if file.path == paths.ENGINE_ENV)
    done = subprocess.run(
        [*lab.ssh(host), SHOW], input=file.content.encode(), capture_output=True, check=True
    )
    rows = base64.b64decode(done.stdout).split(b"\0")
    return dict(row.split(b"=", 1) for row in rows if row)


def check(lab: Lab, values: list[str]) -> Taken:
    environment = taken(values)
    for host in one_of_each_release(lab):
        found = shown(lab, host, environment)
        # The file itself was read, whatever is in it.
        assert found[b"OLLAMA_HOST"] == b"127.0.0.1:11434"
        ours = {name: value for name, value in found.items() if name.startswith(b"R1TEST_")}
        assert ours == {name.encode(): value.encode() for name, value in environment.items()}, host
    return environment


def test_what_looks_like_something_else_arrives_or_is_refused(lab: Lab) -> None:
    environment = check(lab, TROUBLE)
    assert len(environment) == sum(value.isprintable() for value in TROUBLE) > len(TROUBLE) / 2


@settings(
    max_examples=TIMES,
    deadline=None,
    database=None,
    # A failure tells its values as they are: each smaller try would start a unit on two hosts.
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
@given(values=st.lists(VALUES, min_size=AT_ONCE, max_size=AT_ONCE))
def test_generated_values_arrive_or_are_refused(lab: Lab, values: list[str]) -> None:
    check(lab, values)
