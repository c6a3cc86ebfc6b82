"""What `r1fleet bundle` has pyinfra run, dry: every host's needs, each written to a file."""

import json
import os
from pathlib import Path

from pyinfra import host

from r1fleet import fleet
from r1fleet.bundle.packing import needs_of

run = fleet.observe()
target = Path(os.environ["R1_BUNDLE_NEEDS"]) / f"{host.name}.json"
target.write_text(json.dumps(needs_of(run)))
