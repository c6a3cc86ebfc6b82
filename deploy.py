"""The main job: pyinfra inventories/lab.py deploy.py -y

Every host goes from whatever it is to serving the DeepSeek-R1 that fits it, and proves it.
The stages and their order: r1fleet/rollout.py.
"""

from r1fleet import fleet, rollout

run = fleet.observe()

rollout.converge(name=f"Converge {run.settings.model}", run=run)
