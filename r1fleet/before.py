"""What a run needs before it connects; the config.py beside deploy.py imports it."""

import atexit
import gc
import logging
import os
import signal

from r1fleet import hostkeys, passwords, silent, sshconfig

passwords.hide()
hostkeys.hold()
sshconfig.hold()
silent.hold()

# Its tracebacks about a host that hangs up say nothing that pyinfra's one line does not.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)

# Ctrl-C until deploy.py is read (r1fleet/fleet.py): pyinfra itself would end with 0.
signal.signal(signal.SIGINT, lambda *_: os._exit(130))

# A short process: what a run makes it needs to its end. Looking through all of it again and again,
# and once more while Python ends, is an eighth of a run that changes nothing.
gc.freeze()
gc.set_threshold(100_000, 50, 100)
atexit.register(gc.freeze)
