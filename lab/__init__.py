"""The simulated lab: real hosts (systemd, sshd, apt), simulated GPUs. See docs/lab.md."""
