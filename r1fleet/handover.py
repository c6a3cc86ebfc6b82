"""From the model that served to the one that was proven: golden prompts, alias, former tags, and
what is kept for a way back."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from typing import Any

from pyinfra.api import FunctionCommand

from r1fleet import decide, golden, tags
from r1fleet.adopt import install as adopt
from r1fleet.alias import move
from r1fleet.alias import wanted as alias
from r1fleet.alias.wanted import AliasWanted, Rendered
from r1fleet.fleet import HostRun
from r1fleet.golden import play
from r1fleet.golden.play import Game
from r1fleet.hostfacts import Probe
from r1fleet.model.manifest import manifest_path
from r1fleet.model.pull import Pull
from r1fleet.remote import fail
from r1fleet.rollback import keep, served
from r1fleet.sizing import Choice
from r1fleet.verify import smoke
from r1fleet.verify.extras import ExtraWanted
from r1fleet.verify.judge import SmokeWanted, keep_alive_json

Commands = Generator[FunctionCommand, None, None]
State = dict[str, Any]


def check_name(run: HostRun, choice: Choice, probe: Probe) -> Commands:
    """Fails a host on which somebody else keeps a model under a name of ours."""
    if name := alias.foreign(run.settings, choice, probe):
        why = "a model of that name is there, and r1fleet did not make it"
        yield fail(f"the alias {name}", why, f"remove it with `ollama rm {name}` or set alias")


def begin(
    run: HostRun, probe: Probe, choice: Choice, delivery: Pull
) -> Generator[FunctionCommand, None, Game | None]:
    """Play the team's prompts on the model that serves, if another one is about to."""
    settings = run.settings
    before = tags.replaced(probe.state, delivery.want.name, delivery.digest)
    if not settings.golden or before is None or not play.is_canary(run.host.name):
        return None
    if not tags.can_answer(probe):
        return None
    game = Game(golden.load(settings.golden))
    proof = decide.proof_wanted(settings, choice, before["digest"], probe)
    yield from play.old._inner(game, replace(proof, model=before["name"]))
    return game


def finish(
    run: HostRun,
    probe: Probe,
    proof: SmokeWanted,
    extras: tuple[ExtraWanted, ...],
    choice: Choice,
    delivery: Pull,
    state_with: Callable[[Mapping[str, Any]], State],
) -> Generator[FunctionCommand, None, State]:
    """Move the alias to what was proven, let former tags go, and keep what serves now.

    + state_with: makes state.json of what is recorded here

    Returns state.json as it is now.
    """
    settings, found = run.settings, probe.state
    beside = [extra.model for extra in extras]
    former = tags.former(found, proof.model, proof.digest, probe.models.manifests, beside)
    more: State = {"former": former, "alias": found.get("alias"), "served": found.get("served")}
    if adopted := adopt.finished(found):
        more["adopted"] = adopted
    # Who reaches the host is tried again with each proof.
    if "exposure" in found and state_with({})["verified"] == found.get("verified"):
        more["exposure"] = found["exposure"]
    want = _wanted(run, choice, proof, delivery)
    if not alias.is_settled(want, probe):
        item = move.Alias(want, settings.ollama_models, probe.models.manifests)
        item.remove = alias.leftovers(want, found, probe.models)
        if want.names:
            yield from move.read._inner(item)
        else:
            item.rendered = Rendered(b"")
        if item.rendered:  # not in a rehearsal
            more["alias"] = alias.entry(want, item.rendered, found)
            # First what is ours is noted: a run that is cut off here leaves no stranger behind.
            state = state_with(more)
            yield from smoke.write_state._inner(state, found)
            found = state
            probe = _with_alias(probe, want, item.rendered)
        yield from move.move._inner(item)
        keep_alive = keep_alive_json(settings.ollama_keep_alive)
        yield from move.answer._inner(item, settings.base_url, keep_alive)
    more["former"], gone = former[: settings.keep_tags], former[settings.keep_tags :]
    yield from tags.tidy._inner(gone, settings.base_url, settings.ollama_models)
    if delivery.installed:
        blobs = alias.record(more)["blobs"]
        what = served.served(
            probe, proof, extras, delivery.installed, want.names, blobs, settings.ollama_models, {}
        )
        more["served"] = what.id
        yield from keep.keep._inner(replace(what, state=state_with(more)), probe)
    yield from smoke.write_state._inner(state_with(more), found)
    return state_with(more)


def _wanted(run: HostRun, choice: Choice, proof: SmokeWanted, delivery: Pull) -> AliasWanted:
    if delivery.installed:
        return alias.wanted(run.settings, choice, proof.model, delivery.installed)
    # In a rehearsal, before anything is there.
    return AliasWanted(alias.names(run.settings, choice), proof.model, proof.digest, "")


def _with_alias(probe: Probe, want: AliasWanted, rendered: Rendered) -> Probe:
    """The probe as it will be, without asking again."""
    digest = rendered.digest.removeprefix("sha256:")
    moved = {manifest_path(name): digest for name in want.names}
    models = replace(probe.models, manifests={**probe.models.manifests, **moved})
    return replace(probe, models=models)
