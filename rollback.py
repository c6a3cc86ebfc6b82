"""The way back by hand: pyinfra inventories/prod.py rollback.py -y [--data to=2026-11-24]

Every host goes back to what it served before its last change (or at that date), and proves it.
What is kept for it, and how: docs/alias.md.
"""

from r1fleet.job import back

back()
