"""Your own hosts: copy this file, change the names, then: pyinfra inventories/NAME.py deploy.py -y

A name is anything that `ssh NAME` understands (~/.ssh/config is read). Settings can be given per
host here, per group in group_data/GROUP.py, for all in group_data/all.py, or for one run with
--data key=value. The group named after this file wins over the others.
"""

# Keepalives and a limit for dead connections; host keys are checked against known_hosts.
SSH = {
    "ssh_strict_host_key_checking": "yes",
    "ssh_paramiko_connect_kwargs": {"channel_timeout": 60, "banner_timeout": 30},
}

gpu_hosts = (
    [
        # The tag that fits the GPUs is chosen by itself:
        ("gpu1.example.org", {}),
        # A user with sudo instead of root, and a model directory on a disk of its own:
        ("gpu2.example.org", {"ssh_user": "ops", "_sudo": True, "ollama_models": "/data/models"}),
        # A forced tag; it fails with the reason if it does not fit:
        # ("gpu3.example.org", {"tag": "14b"}),
    ],
    SSH,
)

# A host of this group caches models and engine archives for all the others (docs/mirror.md). It may
# be one of the above, named alone, or one that serves no model:
# mirror = ["gpu1.example.org"]
# mirror = ([("cache1.example.org", {"serve": False})], SSH)

# Hosts without a GPU are refused unless they are told to use the CPU:
cpu_hosts = (
    [
        # ("pc1.example.org", {"no_gpu": "cpu", "cpu_largest_tag": "7b"}),
    ],
    SSH,
)
