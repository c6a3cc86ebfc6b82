"""The way out: pyinfra inventories/prod.py remove.py --dry; then -y --data remove=1 --limit gpu1

Takes r1fleet away from hosts again: --dry says what goes and what stays. `remove` is the number of
hosts that are meant; with another number nothing is touched. docs/remove.md.
"""

from r1fleet.job import remove

remove()
