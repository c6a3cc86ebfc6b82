"""Where the lab keeps its files, and the fixed addresses of its network."""

import os
from ipaddress import IPv4Network
from pathlib import Path

# 198.18.0.0/15 is set aside for benchmarks (RFC 2544): no office network uses it.
NETWORK = IPv4Network("198.18.77.0/24")
GATEWAY = "198.18.77.1"
FIRST_HOST = 11
BRIDGE = "br-r1lab"

REGISTRY_PORT = 5000
ARTIFACT_PORT = 8080
APT_PROXY_PORT = 3142

SOURCE = Path(__file__).parent


def lab_dir() -> Path:
    """The running lab: hosts, keys, services, `lab.json`. Wiped by `lab down`."""
    return Path(os.environ.get("R1_LAB_DIR", "/var/lib/r1lab"))


def cache_dir() -> Path:
    """What is slow to build (base images, engine, package cache): survives `lab down`."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "r1fleet"
    return Path(os.environ.get("R1_CACHE_DIR", default))


def host_dir(name: str) -> Path:
    """Everything of one host: upper, work, root (overlay), sim (simulated kernel files)."""
    return lab_dir() / "hosts" / name


def artifact_url() -> str:
    """Base URL of the artifact server as hosts see it."""
    return f"http://{GATEWAY}:{ARTIFACT_PORT}"


def registry_url() -> str:
    """Base URL of the model registry as hosts see it."""
    return f"http://{GATEWAY}:{REGISTRY_PORT}"
