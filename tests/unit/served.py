"""A probe of a host on which nothing is left to do, and the settings that it fits."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from r1fleet import decide, sticky
from r1fleet.alias import wanted as alias
from r1fleet.engine import wanted
from r1fleet.gateway import exposure
from r1fleet.hostfacts import ComputeProcess, LoadedModel, ModelStore, Probe, Unit
from r1fleet.model.manifest import Blob, ModelManifest, state_entry
from r1fleet.rollback import served as ways_back
from r1fleet.settings import Settings
from r1fleet.sizing import Choice, policy
from r1fleet.verify.fingerprint import fingerprint, settings_stamp
from r1fleet.verify.fingerprint import state as new_state
from r1fleet.watch.wanted import TIMER
from r1fleet.watch.wanted import watch as watch_wanted
from tests.unit.build import RUNNING, bare, working

DIGEST = "c7" * 32
BLOB = "ab" * 32
NAME = "deepseek-r1:14b"
ALIAS_PATH = "registry.ollama.ai/library/deepseek-r1/fleet"
PATH = "registry.ollama.ai/library/deepseek-r1/14b"
LOADED_ONCE = Unit(load="loaded", active="active", sub="exited", enabled=True, invocation="i1")


def served(**changes: Any) -> Probe:
    """A T4 that serves 14b as it should; `changes` are fields of the probe."""
    settings = Settings()
    llama = ComputeProcess(7, "/opt/ollama/current/lib/ollama/llama-server", 9000)
    probe = bare(
        "T4",
        driver=working("T4", processes=(llama,)),
        tools=frozenset({"aria2c", "zstd", "curl", "tar", "apt-get", "systemd-run"}),
        user_groups=frozenset({"ollama", "video"}),
        units={
            "ollama.service": RUNNING,
            "r1fleet-preload.service": LOADED_ONCE,
            TIMER: RUNNING,
        },
        models=ModelStore(
            "directory",
            "ollama:ollama",
            10**12,
            9 * 10**11,
            "/",
            {PATH: DIGEST, ALIAS_PATH: DIGEST},
            {f"sha256-{BLOB}": 1000},
        ),
        engine_version=settings.engine_version,
    )
    sizing = decide.size(settings, probe).sizing
    choice = sizing.chosen
    engine = wanted.engine(settings, choice, probe)
    watch = watch_wanted(settings, choice, probe)
    files = (*engine.files, *wanted.preload(settings, NAME).files, *watch.files)
    probe = replace(
        probe,
        engine_current=engine.archive.key,
        engine_versions=frozenset({engine.archive.key}),
        files={file.path: file.sha256 for file in files},
        loaded=(LoadedModel(NAME, DIGEST, 10**10, 10**10, choice.context),),
    )
    manifest = ModelManifest(f"sha256:{DIGEST}", (Blob(f"sha256:{BLOB}", 1000),))
    models = {NAME: state_entry(manifest) | {"brought": False}}
    named = {
        "names": [settings.alias],
        "source": NAME,
        "of": manifest.digest,
        "rendering": alias.wanted(settings, choice, NAME, manifest).rendering,
        "digest": manifest.digest,
        "blobs": {},
        "known": [[manifest.digest, f"sha256:{BLOB}"]],
    }
    probe = replace(probe, state={"models": models, "alias": named})
    proof = decide.proof_wanted(settings, choice, manifest.digest, probe, f"sha256:{BLOB}")
    verified = {
        "fingerprint": fingerprint(probe, proof),
        "model": NAME,
        "settings": settings_stamp(probe, proof),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "answer": "READY",
        "thinking": "one word",
        "load_s": 1.0,
        "tokens_per_s": 42.0,
        "residency": 1.0,
        "context": choice.context,
        "digest": f"sha256:{DIGEST}",
    }
    record = sticky.record(sizing, policy(settings), {"projected_mib": [9000]})
    kept = ways_back.served(
        probe, proof, (), manifest, [str(settings.alias)], (), settings.ollama_models, {}
    )
    # The host is called "h" where it matters.
    reached = {"stamp": exposure.stamp(exposure.exposure(settings, "h", ""), probe)}
    more = {"former": [], "alias": named, "served": kept.id, "exposure": reached}
    state = new_state(record, models, verified, (settings.ollama_models, "/"), more)
    folder = ways_back.name_of(kept, datetime.now(UTC))
    return replace(probe, **{"state": state, "served": frozenset({folder}), **changes})


def choice_of(probe: Probe) -> Choice | None:
    return decide.size(Settings(), probe).sizing.choice
