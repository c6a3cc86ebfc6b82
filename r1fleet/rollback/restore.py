"""Operations that bring a host back to what it served, and prove it again."""

import base64
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pyinfra.api import FunctionCommand, Host, operation

from r1fleet import outcome, paths, tags
from r1fleet.alias import wanted as alias
from r1fleet.alias.move import Alias, move
from r1fleet.alias.wanted import AliasWanted, Rendered
from r1fleet.drain import drain
from r1fleet.engine import install as engine
from r1fleet.fleet import HostRun
from r1fleet.gateway import exposure
from r1fleet.gateway import stage as gateway
from r1fleet.gateway.wanted import UNIT
from r1fleet.hostfacts import Probe
from r1fleet.model.manifest import manifest_path
from r1fleet.remote import HostFailure, changed, fail, host_task, run, say, step
from r1fleet.rollback.guard import end, guarded
from r1fleet.rollback.keep import script
from r1fleet.rollback.served import ENGINE_FILES, Served, from_json
from r1fleet.shell import assign
from r1fleet.verify import extras as beside
from r1fleet.verify import smoke
from r1fleet.verify.fingerprint import fingerprint, settings_stamp, verified_entry

Commands = Generator[FunctionCommand, None, None]

GONE = "bring the settings back to the former ones and run deploy.py, which fetches it again"


@dataclass
class Restoration:
    """A way back to the snapshot `name`. `done`: what restore.sh said, "" before it ran."""

    name: str
    what: Served | None = None
    done: str = ""

    @property
    def told(self) -> str:
        """What it is, for people."""
        assert self.what
        return f"{self.what.model} {self.what.digest[:19]} on engine {self.what.engine}"


def roll_back(host_run: HostRun, name: str, reason: str) -> Commands:
    """After a failed change: back to what was served, and the host fails with what happened."""
    back = Restoration(name)
    found = outcome.of(host_run.host.name)
    trouble = yield from guarded(host_run, restore._inner(host_run, back))
    if trouble:
        yield end(f"{reason}; the way back failed too: {trouble}")
    elif back.done == "same":
        yield end(reason)
    else:
        found.rolled_back = True
        yield end(f"{reason}; rolled back to {back.told}, which is proven again")


@operation()
def restore(host_run: HostRun, back: Restoration) -> Commands:
    """Put back files, engine, model and alias, restart what read them, and prove the host again.

    + host_run: the host of the run
    + back: names the snapshot; filled in with what it holds and what was done
    """
    yield read("rollback", f"reads what it served ({back.name})", back)
    if back.what and host_run.probe:
        proof = back.what.smoke
        yield from gateway.step_out(host_run, host_run.probe, proof.digest, proof.context)
    yield put_back("rollback", "puts back what it served", back)
    if back.done == "same" or back.what is None:  # None: only a rehearsal
        return
    proof = back.what.smoke
    if back.done == "restart":
        if host_run.probe:
            yield from drain._inner(host_run.probe, host_run.settings.drain_timeout_s)
        yield engine.restart("rollback", "restarts Ollama", proof.base_url, "Ollama restarted")
    # A restart of the engine has begun a load already, which is joined.
    verb = "start" if back.done == "restart" else "restart"
    yield step(
        "rollback",
        f"loads {proof.model}",
        engine.load_script(verb),
        "journalctl -u ollama -u r1fleet-preload on the host tells more",
        timeout_s=round(proof.load_time_max_s) + 240,
    )
    yield from smoke.smoke._inner(proof)
    yield from beside.extras._inner(proof, back.what.extras_wanted)
    probe = host_run.look()
    if probe is None:
        yield fail("probe", host_run.trouble, host_run.fix)
        return
    state = _state(host_run, back.what, probe)
    yield from _drop_names(back.what, state, probe)
    yield from smoke.write_state._inner(state, probe.state)
    if probe.unit(UNIT).active == "active":
        yield from gateway.open_up(host_run, probe, proof.digest, proof.context)
        if host_run.balancers:
            host_run.look()  # they are told in which pool it is again
    yield from exposure.check._inner(host_run, probe, state)
    stamp = (state["verified"] or {}).get("settings")
    yield note("rollback", f"back to {back.told}", proof.model, stamp)


def _drop_names(what: Served, state: Mapping[str, Any], probe: Probe) -> Commands:
    """Takes away names that came with what is left now, as that of another size."""
    want = AliasWanted(tuple(alias.record(state)["names"]), what.model, what.digest, what.weights)
    item = Alias(want, what.models_dir, probe.models.manifests, Rendered(b""))
    item.remove = alias.leftovers(want, probe.state, probe.models)
    if item.remove:
        item.want = replace(want, names=())
        yield from move._inner(item)


@host_task
def note(host: Host, stage: str, text: str, model: str, settings: str | None) -> None:
    """Tell that the host is back, what it serves, and the stamp of the settings that it had."""
    say(host, stage, text)
    changed(host, text)
    found = outcome.of(host.name)
    found.serves, found.settings = model, settings


@host_task
def read(host: Host, stage: str, title: str, back: Restoration) -> None:
    """Read meta.json of the snapshot."""
    say(host, stage, title)
    path = assign({"R1_META": f"{paths.SERVED_DIR}/{back.name}/meta.json"})
    answer = run(host, f'{path}base64 -w0 "$R1_META"')
    try:
        back.what = from_json(base64.b64decode(answer.stdout).decode())
    except ValueError as error:
        why = str(error) if answer.ok else answer.reason
        raise HostFailure(
            f"snapshot {back.name}", why, "run deploy.py with settings that work"
        ) from error


@host_task
def put_back(host: Host, stage: str, title: str, back: Restoration) -> None:
    """Run restore.sh."""
    say(host, stage, title)
    what = back.what
    assert what
    side = manifest_path(tags.side_name(what.model, what.digest))
    values = {
        "R1_DIR": f"{paths.SERVED_DIR}/{back.name}",
        "R1_FILES": " ".join(what.files),
        "R1_ENGINE_FILES": " ".join(ENGINE_FILES),
        "R1_ENGINE": what.engine,
        "R1_ROOT": paths.ENGINE_ROOT,
        "R1_MODELS": what.models_dir,
        "R1_WEIGHTS": what.weights,
        "R1_SIDE": f"{side} {what.digest.removeprefix('sha256:')}",
        "R1_MARK": paths.RESTART_MARK,
    }
    answer = run(host, assign(values) + script("restore.sh"))
    if not answer.ok:
        raise HostFailure(title, answer.reason, GONE)
    back.done = answer.stdout.strip().rpartition("\n")[2]


def _state(host_run: HostRun, what: Served, probe: Probe) -> dict[str, Any]:
    """state.json as it was, with the new proof, and what came since among the former tags."""
    found = outcome.of(host_run.host.name)
    figures = found.smoke
    stamp = fingerprint(probe, what.smoke, what.extras_wanted)
    settings = settings_stamp(probe, what.smoke, what.extras_wanted)
    then = {key: value for key, value in what.state.items() if key != "exposure"}
    return {
        **then,
        "alias": _alias(what, probe),
        "served": what.id,
        "verified": verified_entry(figures, stamp, what.model, settings) if figures else None,
        "former": tags.with_left_over(
            what.state, probe.state, found.brought, probe.models.manifests
        ),
    }


def _alias(what: Served, probe: Probe) -> dict[str, Any]:
    """The alias as it was then; what was made since stays known as ours."""
    then = alias.record(what.state)
    known = [*then["known"], *alias.record(probe.state)["known"]]
    once = [pair for at, pair in enumerate(known) if pair not in known[:at]]
    return {**then, "known": once[: alias.KNOWN_MOST]}
