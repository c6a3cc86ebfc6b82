"""The main job, the way back and the way out, for deploy.py, rollback.py and remove.py.

The hosts are asked first: what plans for them is imported while they answer (fleet.py).
"""

from pyinfra import host

from r1fleet import fleet


def main() -> None:
    """The host whose deploy.py this is, from whatever it is to serving what it should, proven.

    The stages and their order: r1fleet/rollout.py; the waves: docs/rollout.md.
    """
    run = fleet.observe()
    from r1fleet import gate, rollout  # noqa: PLC0415

    for step in host.loop(gate.steps()):  # type: ignore[no-untyped-call]
        gate.gate(name=f"Gate: {step}", run=run, step=step)
        if host.name in step.hosts:
            name = f"Converge {run.settings.model}: {step}"
            rollout.converge(name=name, run=run, _if=step.open_to(run))

    if run.balancers:
        from r1fleet.gateway import balance  # noqa: PLC0415

        balance.settle(name="Fleet gateways", run=run)


def back() -> None:
    """The host whose rollback.py this is, back to what it served (docs/alias.md)."""
    run = fleet.observe()
    from r1fleet.rollback import by_hand  # noqa: PLC0415

    for turn in host.loop(by_hand.turns(fleet.everyone())):  # type: ignore[no-untyped-call]
        if host.name in turn.hosts:
            by_hand.back(name=f"Roll back {turn}", run=run)

        if run.balancers:
            from r1fleet.gateway import balance  # noqa: PLC0415

            balance.settle(name=f"Fleet gateways after {turn}", run=run)


def remove() -> None:
    """The host whose remove.py this is, without r1fleet (docs/remove.md)."""
    run = fleet.observe()
    from r1fleet.remove import away  # noqa: PLC0415

    if run.balancers:
        away.farewell(name="Fleet gateways", host_run=run)

    away.take_away(name="Remove r1fleet", host_run=run)
