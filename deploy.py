"""The main job: pyinfra inventories/lab.py deploy.py -y

Every host goes from whatever it is to serving the DeepSeek-R1 that fits it, and proves it.
A change goes through the fleet in waves (docs/rollout.md).
Observe, then per wave gate and converge: r1fleet/job.py; the stages: r1fleet/rollout.py.
"""

from r1fleet.job import main

main()
