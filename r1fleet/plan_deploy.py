"""What `r1fleet plan` has pyinfra run, dry: the main job, of which only the report is wanted."""

from r1fleet import fleet, gate, rollout

run = fleet.observe()

gate.steps()
rollout.converge(name="Plan", run=run)
