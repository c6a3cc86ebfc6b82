"""The main job, for a deploy.py: every host in its wave, behind its gate."""

from pyinfra import host

from r1fleet import fleet, gate, rollout
from r1fleet.gateway import balance


def main() -> None:
    """The host whose deploy.py this is, from whatever it is to serving what it should, proven.

    The stages and their order: r1fleet/rollout.py; the waves: docs/rollout.md.
    """
    run = fleet.observe()

    for step in host.loop(gate.steps()):  # type: ignore[no-untyped-call]
        gate.gate(name=f"Gate: {step}", run=run, step=step)
        if host.name in step.hosts:
            name = f"Converge {run.settings.model}: {step}"
            rollout.converge(name=name, run=run, _if=step.open_to(run))

    if run.balancers:
        balance.settle(name="Fleet gateways", run=run)
