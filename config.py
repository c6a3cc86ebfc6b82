"""Read by pyinfra before it connects."""

import logging
import os
import signal

from r1fleet import hostkeys, passwords

passwords.hide()
hostkeys.hold()

# Its tracebacks about a host that hangs up say nothing that pyinfra's one line does not.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)

# Ctrl-C until deploy.py is read (r1fleet/fleet.py): pyinfra itself would end with 0.
signal.signal(signal.SIGINT, lambda *_: os._exit(130))
