"""The sandbox of the engine's unit: its two profiles, and whether the GPUs are seen from inside.

Under the full profile an engine that finds fewer GPUs than the host has is started again under a
lesser one. That is remembered by the drop-in itself: the lesser one names what it was found with,
so that another driver, kernel, engine or full profile makes another file of it, and the full one is
wanted again.
"""

from collections.abc import Generator
from dataclasses import dataclass

from pyinfra.api import FunctionCommand, Host

from r1fleet import outcome
from r1fleet.engine import install as engine
from r1fleet.engine.wanted import NO_GPUS, EngineWanted
from r1fleet.fleet import HostRun
from r1fleet.hostfacts import Probe
from r1fleet.managed import ManagedFile, write
from r1fleet.remote import HostFailure, changed, host_task, run, say, warn

Commands = Generator[FunctionCommand, None, None]

LESSER = (
    "the engine's unit has the lesser hardening: under the full one the engine does not see all"
    " GPUs of the host (docs/security.md)"
)

# What the engine found at this start, of how many lines that tell of devices.
_COUNT = """
for wait in 0 1 2 3; do # it answers as soon as it has said so: the journal may come later
  sleep $wait
  journalctl --sync
  said=$(journalctl -q --no-pager -o cat \
    "_SYSTEMD_INVOCATION_ID=$(systemctl show -p InvocationID --value ollama.service)" |
    head -n 400 | grep 'msg="inference compute"')
  [ -z "$said" ] || break
done
echo "found $(printf '%s\\n' "$said" | grep -c .)" \
  "$(printf '%s\\n' "$said" | grep -Ec 'library=(CUDA|ROCm)')"
"""

# The same outside: NVIDIA's by its tool, AMD's by their nodes.
_OUTSIDE = """
count=$(timeout -k 5 30 nvidia-smi -L 2>/dev/null | grep -c '^GPU ')
[ "$count" -gt 0 ] || count=$(ls /sys/class/kfd/kfd/topology/nodes/*/mem_banks/0 2>/dev/null |
  grep -c .)
echo "$count"
"""


@dataclass
class Trial:
    """A start under a profile. `gpus` have to be found; `hidden` says why they were not, and is
    None as long as nothing speaks against the profile."""

    gpus: int
    hidden: str | None = None

    def start(
        self, stage: str, title: str, base_url: str, change: str, *, verb: str = "restart"
    ) -> FunctionCommand:
        """As engine.restart, but a start that the GPUs alone are missing for fails nothing."""
        return _attempt(stage, title, engine.restart_script(base_url, verb), change, self)


def install(host_run: HostRun, probe: Probe, want: EngineWanted) -> Commands:
    """The engine as engine.install does it, under the profile that its GPUs allow."""
    box = want.sandbox
    trial = Trial(box.gpus)
    if box.lesser in want.files:
        outcome.of(host_run.host.name).note([LESSER])
        # A restart that is due is that of a run which was cut off in its trial: it is still one.
        start = trial.start if probe.restart_pending else engine.restart
        yield from engine.install._inner(probe, want, start)
        if trial.hidden is None:
            return
    else:
        yield from engine.install._inner(probe, want, trial.start)
        if trial.hidden is None:
            return
        lesser = Trial(box.gpus)
        title = f"{trial.hidden}: starts Ollama under the lesser hardening"
        yield from _under(box.lesser)
        yield lesser.start("engine", title, want.base_url, "hardening: the lesser profile")
        if lesser.hidden is None:
            yield told("engine", LESSER)
            return
    yield from _under(box.full)  # it was not the profile; the proof tells what it is
    yield engine.restart("engine", "starts Ollama as it was", want.base_url, "Ollama restarted")


def _under(profile: ManagedFile) -> Commands:
    yield engine.mark()
    yield from write("engine", [profile])


@host_task
def told(host: Host, stage: str, text: str) -> None:
    """Warn of what was found."""
    warn(host, text)


@host_task
def _attempt(host: Host, stage: str, title: str, script: str, change: str, trial: Trial) -> None:
    """Start the engine and count what it found."""
    say(host, stage, title)
    result = run(host, script + _COUNT, timeout_s=600)
    lines, found = _counted(result.stdout)
    if not result.ok:
        short = NO_GPUS in result.reason
    else:
        changed(host, change)
        short = lines > 0 and found < trial.gpus  # without a line the journal does not say
    if short and _outside(host) >= trial.gpus:
        trial.hidden = f"the engine sees {found} of {trial.gpus} GPUs from inside its unit"
    elif not result.ok:
        raise HostFailure(title, result.reason, engine.LOOK)


def _counted(output: str) -> tuple[int, int]:
    """Lines of devices, and GPUs among them."""
    words = output.strip().rpartition("\n")[2].split()
    return (int(words[1]), int(words[2])) if words[:1] == ["found"] else (0, 0)


def _outside(host: Host) -> int:
    text = run(host, _OUTSIDE).stdout.strip()
    return int(text) if text.isdigit() else 0
