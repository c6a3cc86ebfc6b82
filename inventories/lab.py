"""The simulated lab, as `r1fleet lab up` started it (docs/lab.md)."""

from lab.state import LabState as _LabState

_lab = _LabState.load()
if _lab is None:
    raise SystemExit("the lab is not running; start it with: r1fleet lab up")

lab = (
    [
        (
            _name,
            {
                "ssh_hostname": _host.address,
                "driver_keyring_sha256": _lab.driver_keyring_sha256[_host.release],
                # Both ways in are used: root, and a user with sudo.
                **({"ssh_user": "ops", "_sudo": True} if _name == "duo" else {}),
                **({"serve": False} if _name == "gateway" else {}),
                **({"no_gpu": "cpu", "cpu_largest_tag": "7b"} if not _host.gpus else {}),
            },
        )
        for _name, _host in _lab.hosts.items()
        if _host.listed
    ],
    {
        "ssh_user": "root",
        "ssh_key": str(_lab.key),
        "ssh_known_hosts_file": str(_lab.known_hosts),
        "ssh_strict_host_key_checking": "yes",
        "ssh_paramiko_connect_kwargs": {"channel_timeout": 30},
        # The lab's own servers stand in for the internet.
        "engine_version": _lab.engine_version,
        "engine_url": f"{_lab.artifact_url}/ollama",
        "engine_sha256": _lab.engine_sha256,
        "gateway_version": _lab.gateway_version,
        "gateway_url": f"{_lab.artifact_url}/caddy",
        "gateway_sha512": _lab.gateway_sha512,
        "registry_url": _lab.registry_url,
        "model_digests": _lab.model_digests,
        "driver_repository_url": _lab.driver_repository_url,
        # Of hosts that an inventory adds to these.
        "driver_keyring_sha256": _lab.driver_keyring_sha256["trixie"],
    },
)

# In lab/eight.yaml there is one that balances over the others (docs/fleet-gateway.md).
gateway = [_name for _name in _lab.hosts if _name == "gateway"]
