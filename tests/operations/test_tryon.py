"""Trying a size on: the script against a llama-server that says this or that, and what follows."""

import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api import FunctionCommand

from r1fleet import decide, outcome, stages, sticky
from r1fleet.engine import tryon
from r1fleet.engine.tryon import TryOn
from r1fleet.hostfacts import LoadedModel, Probe
from r1fleet.settings import Settings
from r1fleet.sizing import policy
from tests.operations.fakehost import FakeHost
from tests.operations.test_rollout import run_of
from tests.unit.build import bare, working

SAYS = "echo 'common_params_fit_impl: projected to use {} MiB of device memory vs. 0 MiB' >&2"


@pytest.fixture(autouse=True)
def fresh_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "_outcomes", {})


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    (tmp_path / "var/lib/r1fleet").mkdir(parents=True)
    return FakeHost(tmp_path, "h")


def trial_for(probe: Probe, settings: Settings) -> TryOn:
    sizing = decide.size(settings, probe).sizing
    trial = tryon.prepare(sizing, policy(settings), probe)
    assert trial
    return trial


def server(host: FakeHost, script: str, variant: str = "") -> str:
    """A llama-server that runs a script; returns its folder."""
    folder = host.root / "lib/ollama"
    folder.mkdir(parents=True)
    path = folder / "llama-server"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    if variant:
        (folder / variant).mkdir()
        (folder / variant / "libggml-cuda.so").touch()
    return str(folder)


def tried(host: FakeHost, script: str, **more: Any) -> TryOn:
    trial = trial_for(bare("T4", driver=working("T4")), Settings())
    assert host.play(tryon.try_on._inner(trial, server(host, script, **more)))
    return trial


def test_its_figure_is_held_against_the_total_memory(host: FakeHost) -> None:
    trial = tried(host, SAYS.format(13856))
    assert trial.projected_mib == 13856
    assert trial.offer_mib == 15360 - 457 - 1024
    assert trial.excess_mib == 0
    assert outcome.of("h").warnings == []


def test_a_server_that_goes_on_to_load_is_ended(host: FakeHost) -> None:
    mark = host.root / "loaded"
    tried(host, f"{SAYS.format(9000)}; sleep 0.5; touch {mark}")
    assert not mark.exists()
    assert list(host.at("/var/lib/r1fleet").iterdir()) == []


def test_it_gets_a_file_of_full_length_and_the_paths_that_ollama_gives(host: FakeHost) -> None:
    seen = host.root / "seen"
    script = (
        f'{{ stat -c %s "$2"; head -c 4 "$2"; echo; echo "$LD_LIBRARY_PATH" "$GGML_BACKEND_PATH" '
        f'"$CUDA_VISIBLE_DEVICES" "$@"; }} >{seen}; {SAYS.format(1)}'
    )
    trial = tried(host, script, variant="cuda_v12")
    size, magic, rest = seen.read_text().splitlines()
    assert int(size) == trial.head.size_bytes > 8_000_000_000
    assert magic == "GGUF"
    library = host.root / "lib/ollama"
    assert rest.startswith(f"{library}:{library}/cuda_v12 {library}/cuda_v12/libggml-cuda.so GPU-0")
    assert f"-c {trial.choice.context} -np 1" in rest


@pytest.mark.parametrize("script", ["exit 3", "echo 'error: no such device' >&2; exit 1"])
def test_without_a_figure_the_plan_stands_with_a_warning(host: FakeHost, script: str) -> None:
    trial = tried(host, script)
    assert trial.projected_mib is None
    assert trial.excess_mib == 0
    (warning,) = outcome.of("h").warnings
    assert "gave no figure" in warning


def asked(command: FunctionCommand) -> TryOn:
    """What a command tries on."""
    return next(arg for arg in command.args if isinstance(arg, TryOn))


def test_too_much_gives_a_smaller_size_before_the_download() -> None:
    probe = bare("T4", driver=working("T4"))
    run = run_of(probe)
    sizing = decide.size(run.settings, probe).sizing
    steps = stages.try_on(run, probe, sizing)
    trial = asked(next(steps))
    trial.projected_mib = trial.offer_mib + 500
    again = asked(next(steps))
    assert again.choice.tag == "14b"
    assert again.choice.context < trial.choice.context
    again.projected_mib = again.offer_mib
    with pytest.raises(StopIteration) as end:
        next(steps)
    smaller, told = end.value.value
    assert smaller.chosen == again.choice
    assert told == {"projected_mib": again.offer_mib}


def test_what_was_tried_is_not_tried_again() -> None:
    settings = Settings()
    probe = bare("T4", driver=working("T4"))
    sizing = decide.size(settings, probe).sizing
    record = sticky.record(sizing, policy(settings), {"projected_mib": 13856})
    known = replace(probe, state={"decision": record})
    assert list(stages.try_on(run_of(known), known, sizing)) == []


def test_a_host_without_gpu_has_nothing_to_try() -> None:
    settings = Settings(no_gpu="cpu")
    sizing = decide.size(settings, bare()).sizing
    assert tryon.prepare(sizing, policy(settings), bare()) is None


def test_the_download_waits_only_where_the_tag_is_in_doubt() -> None:
    settings = Settings()
    probe = bare("T4", driver=working("T4"))
    roomy = decide.size(settings, probe).sizing.chosen
    assert decide.is_certain(settings, probe, roomy)
    tight = Settings(context_min=roomy.context, kv_cache_types=("f16",))
    assert not decide.is_certain(tight, probe, decide.size(tight, probe).sizing.chosen)


def test_a_loaded_model_that_takes_another_amount_is_a_warning() -> None:
    probe = bare("T4", driver=working("T4"))
    choice = decide.size(Settings(), probe).sizing.chosen
    planned = sum(choice.needed_mib)

    def told(loaded_mib: int) -> list[str]:
        row = LoadedModel("m", "ab", loaded_mib * 2**20, loaded_mib * 2**20, choice.context)
        found = replace(probe, loaded=(row,))
        known = {"projected_mib": planned}
        return list(tryon.disagreements(found, "sha256:ab", choice, known))

    assert told(planned) == told(planned - 100) == []
    (warning,) = told(planned - 2000)
    assert str(planned) in warning
    assert str(planned - 2000) in warning
