"""The pull stage of the main job alone, timed: bench/rollout.py has pyinfra run it.

R1_BENCH says what to do: `ready` brings mirror, programs and user; `pull` brings model and engine
and adds a line per host to R1_BENCH_TIMES.
"""

import os
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

from pyinfra.api import FunctionCommand, operation

from r1fleet import fleet
from r1fleet.engine import install as engine
from r1fleet.engine import wanted
from r1fleet.fleet import HostRun
from r1fleet.mirror import install as mirror
from r1fleet.mirror import source
from r1fleet.model import pull
from r1fleet.model.manifest import ModelWanted


@operation()
def deliver(run: HostRun) -> Generator[FunctionCommand, None, None]:
    """Mirror, programs, model and engine of one host, as the main job does it."""
    settings, probe = run.settings, run.probe
    assert probe
    if run.mirror:
        yield from mirror.install._inner(probe, run.mirror)
    if os.environ["R1_BENCH"] == "ready":
        yield from engine.tools._inner(probe, settings.proxies)
        yield from engine.prepare._inner(probe, settings.ollama_models)
        return
    begun = time.time()
    if settings.mirror_url:
        yield source.ask("mirror", f"asks the mirror {settings.mirror_url}", run)
    # The lab's model of this host is the only one that it pins.
    ((name, digest),) = settings.model_digests.items()
    want = ModelWanted(name, settings.registry_url, settings.ollama_models, digest)
    delivery = pull.Pull(run.source.model(want))
    yield from pull.start._inner(delivery, probe)
    archive = run.source.archive(wanted.archive(settings, probe.arch), settings)
    yield from engine.fetch._inner(replace(probe, engine_versions=frozenset()), archive, {})
    yield from pull.finish._inner(delivery)
    with Path(os.environ["R1_BENCH_TIMES"]).open("a") as times:
        times.write(f"{run.host.name} {begun} {time.time()}\n")


deliver(name="Deliver", run=fleet.observe())
