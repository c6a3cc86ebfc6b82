"""Where the lab keeps its files, and the fixed addresses of its network."""

import os
from ipaddress import IPv4Network
from pathlib import Path

# A second lab on one machine, each with addresses of its own: R1_LAB_NUMBER, 0 to 9.
NUMBER = int(os.environ.get("R1_LAB_NUMBER", "0"))
# What carries the lab's name on this machine: bridge, cables, control groups, folder, lock.
NAME = f"r1lab{NUMBER}-" if NUMBER else "r1lab"

# 198.18.0.0/15 is set aside for benchmarks (RFC 2544): no office network uses it.
NETWORK = IPv4Network(f"198.18.{77 + NUMBER}.0/24")
GATEWAY = str(NETWORK[1])
CDN = str(NETWORK[2])  # this machine too: where the public registry's blobs lie
FIRST_HOST = 11
BRIDGE = f"br-{NAME.rstrip('-')}"

REGISTRY_PORT = 5000
PUBLIC_REGISTRY_PORT = 5001
ARTIFACT_PORT = 8080
APT_PROXY_PORT = 3142

SOURCE = Path(__file__).parent


def lab_dir() -> Path:
    """The running lab: hosts, keys, services, `lab.json`. Wiped by `lab down`."""
    return Path(os.environ.get("R1_LAB_DIR", f"/var/lib/{NAME.rstrip('-')}"))


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


def public_registry_url() -> str:
    """The same registry as the public one shows itself: it redirects blobs to another host."""
    return f"http://{GATEWAY}:{PUBLIC_REGISTRY_PORT}"


def overlay_dir() -> Path:
    """What the public registry has beside the registry's own models: files by their URLs."""
    return lab_dir() / "www" / "public"
