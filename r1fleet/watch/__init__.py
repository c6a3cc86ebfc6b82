"""The watch: a timer on each host that looks after it between two runs (docs/monitoring)."""
