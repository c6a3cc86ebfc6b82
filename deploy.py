"""The main job: pyinfra inventories/lab.py deploy.py -y

Every host goes from whatever it is to serving the DeepSeek-R1 that fits it, and proves it.
A change goes through the fleet in waves (docs/rollout.md).
The stages and their order: r1fleet/rollout.py.
"""

from pyinfra import host

from r1fleet import fleet, gate, rollout
from r1fleet.gateway import balance

run = fleet.observe()

for step in host.loop(gate.steps()):
    gate.gate(name=f"Gate: {step}", run=run, step=step)
    if host.name in step.hosts:
        name = f"Converge {run.settings.model}: {step}"
        rollout.converge(name=name, run=run, _if=step.open_to(run))

if run.balancers:
    balance.settle(name="Fleet gateways", run=run)
