"""Read by pyinfra before it connects."""

import logging

# Its tracebacks about a host that hangs up say nothing that pyinfra's one line does not.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)
