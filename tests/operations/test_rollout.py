"""The whole order of a host's stages, read from the generator without any host."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from r1fleet import outcome, rollout
from r1fleet.fleet import HostRun
from r1fleet.hostfacts import ModelStore, Probe, Unit
from r1fleet.model.manifest import Blob, ModelManifest, manifest_path, state_entry
from r1fleet.remote import title
from r1fleet.settings import Settings
from tests.unit.build import RUNNING, bare, working
from tests.unit.served import DIGEST, served
from tests.unit.test_amd import amd_host


@pytest.fixture(autouse=True)
def fresh_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "_outcomes", {})


def run_of(probe: Probe | None, **settings: Any) -> HostRun:
    host: Any = SimpleNamespace(name="h", data={}, state=SimpleNamespace(is_executing=False))
    return HostRun(host, Settings(**settings), probe)


def plan(probe: Probe | None, **settings: Any) -> list[str]:
    steps, refusal = rollout.preview(run_of(probe, **settings))
    return steps if refusal is None else [*steps, refusal]


def stages(steps: list[str]) -> list[str]:
    found: list[str] = []
    for step in steps:
        if step.startswith(" "):  # a command of the step before
            continue
        stage = step.partition(":")[0]
        if stage not in found:
            found.append(stage)
    return found


def test_a_bare_host_goes_through_all_stages_in_order() -> None:
    steps = plan(bare("T4"))
    assert stages(steps) == [
        *("tools", "driver", "engine", "pull", "sizing", "model", "verify", "alias", "watch"),
    ]
    assert "driver: installs branch 580, open modules" in steps
    assert any("deepseek-r1:14b" in step for step in steps if step.startswith("pull"))


def test_somebodys_model_under_our_name_is_refused_before_the_driver_is_touched() -> None:
    """With the size that the PCI ids promise: the VRAM is not known yet."""
    path = manifest_path("deepseek-r1:fleet")
    (only,) = plan(bare("T4", models=ModelStore("directory", manifests={path: "0" * 64})))
    assert "r1fleet did not make it" in only


def test_a_dry_run_sizes_by_the_pci_ids_and_says_estimated() -> None:
    plan(bare("T4"))
    sizing = outcome.of("h").sizing
    assert sizing is not None
    assert sizing.hardware.estimated
    assert sizing.chosen.tag == "14b"


def test_the_model_is_pulled_beside_the_engines_installation() -> None:
    steps = plan(bare("T4", driver=working("T4")))
    pull = next(i for i, step in enumerate(steps) if step.startswith("pull"))
    engine = next(i for i, step in enumerate(steps) if "downloads and checks Ollama" in step)
    assert pull < engine


def test_extra_models_are_delivered_after_r1_one_by_one_and_proven_after_it() -> None:
    names = ("nomic-embed-text", "all-minilm")
    steps = plan(bare("T4", driver=working("T4")), extra_models=names)
    pulls = [step for step in steps if step.startswith("pull: follows")]
    assert [step.rpartition(" ")[2] for step in pulls] == [
        "deepseek-r1:14b",
        "nomic-embed-text:latest",
        "all-minilm:latest",
    ]
    begun = [i for i, step in enumerate(steps) if step.startswith("pull: brings")]
    followed = [steps.index(step) for step in pulls]
    assert followed[0] < begun[1] < followed[1] < begun[2] < followed[2]
    asked = "verify: asks nomic-embed-text:latest, all-minilm:latest beside deepseek-r1:14b"
    assert steps.index(asked) > followed[2]


def test_a_host_without_a_gpu_is_refused_or_served_by_policy() -> None:
    refused = plan(bare())
    assert len(refused) == 1
    assert "no_gpu" in refused[0]
    steps = plan(bare(), no_gpu="cpu", cpu_largest_tag="7b")
    assert not any(step.startswith("driver") for step in steps)
    assert any("deepseek-r1:7b" in step for step in steps)


def test_a_model_directory_that_is_a_file_is_refused_before_anything() -> None:
    steps = plan(bare("T4", models=ModelStore(kind="regular file")))
    assert len(steps) == 1
    assert "regular file" in steps[0]


def test_a_host_without_an_answer_fails_alone() -> None:
    assert len(plan(None)) == 1


def test_a_dry_run_shows_the_very_commands() -> None:
    steps = plan(bare("T4"))
    assert any(line.strip() == "apt-get update" for line in steps)
    assert any("nvidia-kernel-open-dkms" in line for line in steps)


def test_a_login_without_roots_rights_is_told_what_to_set() -> None:
    (told,) = plan(bare("T4", is_root=False))
    assert "_sudo = True" in told


def test_a_mac_is_told_what_it_is_and_not_what_it_lacks() -> None:
    mac = bare(ram_mib=0, arch="arm64", distro="unknown", is_root=False, tools=frozenset({"curl"}))
    (told,) = plan(mac)
    assert "it does not run Linux; serve from a Linux host" in told


def test_a_model_directory_whose_mount_is_gone_is_refused() -> None:
    state = {"models_mount": ["/var/lib/ollama/models", "/var/lib/ollama/models"]}
    (told,) = plan(bare("T4", state=state))
    assert "is not there now" in told
    assert len(plan(bare("T4", state=state), ollama_models="/data/models")) > 1


def test_a_plan_that_cannot_be_made_is_this_hosts_failure_alone() -> None:
    run = run_of(bare("T4", driver=working("T4")))
    run.settings = run.settings.model_copy(update={"registry_url": "file:///etc/passwd"})
    _, refusal = rollout.preview(run)
    assert refusal is not None
    assert "registry_url" in refusal


@pytest.mark.parametrize("mount", [5, "x", ["/var/lib/ollama/models"], [[1], 2], {"a": 1}])
def test_a_damaged_record_of_the_mount_counts_as_none(mount: object) -> None:
    probe = bare("T4", driver=working("T4"))
    assert plan(replace(probe, state={"models_mount": mount})) == plan(probe)


def test_whatever_planning_raises_is_this_hosts_failure_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def strange(*_: object) -> None:
        raise TypeError("a strange host")

    monkeypatch.setattr(rollout.decide, "refusals", strange)
    assert plan(bare("T4")) == ["plan: TypeError: a strange host; see the settings of this host"]


def test_the_archive_of_an_amd_host_is_fetched_once() -> None:
    steps = plan(amd_host())
    assert len([step for step in steps if "downloads and checks Ollama" in step]) == 1


def test_a_former_tag_that_is_wanted_beside_r1_is_not_removed() -> None:
    probe = served()
    former = {**probe.state["models"][NAME], "name": "all-minilm:latest", "brought": True}
    path = "registry.ollama.ai/library/all-minilm/latest"
    models = replace(probe.models, manifests={**probe.models.manifests, path: DIGEST})
    probe = replace(probe, models=models, state={**probe.state, "former": [former]})
    removes = "model: removes the former all-minilm:latest"
    assert removes in plan(probe, keep_tags=0)
    assert removes not in plan(probe, keep_tags=0, extra_models=("all-minilm",))


def test_an_unchanged_engine_is_not_touched() -> None:
    from r1fleet import decide  # noqa: PLC0415
    from r1fleet.engine import install, wanted  # noqa: PLC0415

    settings = Settings()
    probe = bare("T4", driver=working("T4"), units={"ollama.service": RUNNING})
    found = wanted.engine(settings, decide.size(settings, probe).sizing.chosen, probe)
    probe = replace(
        probe,
        engine_current=found.archive.key,
        engine_versions=frozenset({found.archive.key}),
        files={file.path: file.sha256 for file in found.files},
        engine_version=found.archive.version,
    )
    assert list(install.install._inner(probe, found)) == []
    changed = replace(probe, files={**probe.files, found.files[0].path: "0" * 64})
    titles = [title(command) for command in install.install._inner(changed, found)]
    assert titles == [
        "engine: notes that a restart must follow",
        "engine: writes /etc/r1fleet/ollama.env",
        "engine: restarts Ollama",
    ]
    interrupted = replace(probe, restart_pending=True)
    titles = [title(command) for command in install.install._inner(interrupted, found)]
    assert titles == ["engine: restarts Ollama"]
    silent = replace(probe, engine_version=None)
    titles = [title(command) for command in install.install._inner(silent, found)]
    assert titles == ["engine: restarts Ollama"]


NAME = "deepseek-r1:14b"
MANIFEST = ModelManifest("sha256:" + "a" * 64, (Blob("sha256:" + "b" * 64, 1000),))


def delivered(models_dir: str, **changes: Any) -> Probe:
    """A T4 host that has 14b whole in /var/lib/ollama/models; its record names `models_dir`."""
    path = f"registry.ollama.ai/library/{NAME.replace(':', '/')}"
    there = ModelStore(
        "directory",
        "ollama:ollama",
        10**12,
        9 * 10**11,
        "/",
        {path: "a" * 64},
        {MANIFEST.blobs[0].file_name: 1000},
    )
    state = {"models_mount": [models_dir, "/"], "models": {NAME: state_entry(MANIFEST)}}
    return bare("T4", driver=working("T4"), state=state, **{"models": there} | changes)


def test_a_dry_run_of_a_moved_directory_plans_no_download() -> None:
    probe = delivered("/srv/old", models=ModelStore(disk_size_bytes=10**12, mount="/"))
    steps = plan(probe, model_digests={NAME: MANIFEST.digest})
    assert "pull: takes the models of /srv/old along to /var/lib/ollama/models" in steps
    assert "pull: leaves /srv/old" in steps
    assert not any("brings" in step or "compares" in step for step in steps)


def test_a_directory_that_stays_is_not_moved() -> None:
    steps = plan(delivered("/var/lib/ollama/models"))
    assert not any("takes the models" in step or "leaves" in step for step in steps)


def test_a_pinned_digest_is_compared_before_anything_else_is_done() -> None:
    steps = plan(bare("T4"), model_digests={NAME: MANIFEST.digest})
    assert steps[0] == f"lock: compares the digest of {NAME}"


def test_a_fetch_that_nobody_wants_any_more_is_ended() -> None:
    fetching = {"r1fleet-pull.service": Unit(active="active")}
    here = "/var/lib/ollama/models"
    assert "pull: ends the fetch" in plan(delivered(here, units=fetching))
    bringing = plan(bare("T4", driver=working("T4"), units=fetching))
    assert "pull: ends the fetch" not in bringing


def test_others_models_go_only_when_told() -> None:
    probe = delivered("/var/lib/ollama/models")
    probe.models.manifests["registry.ollama.ai/library/mine/latest"] = "c" * 64
    assert "prune: removes mine:latest" not in plan(probe)
    assert plan(probe, prune="all")[-1] == "prune: removes mine:latest"


def test_a_deep_check_reads_what_is_there() -> None:
    steps = plan(delivered("/var/lib/ollama/models"), deep_check=True)
    assert f"pull: brings {NAME}, by its checksums" in steps
