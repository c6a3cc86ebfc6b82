"""What a choice is warned about: less than advised, forced against the better, pinned. Pure."""

from collections.abc import Iterator

from r1fleet.sizing_types import Choice, Hardware, Policy

MIB_PER_GB = 1e9 / 2**20


def warnings(
    choice: Choice, hardware: Hardware, policy: Policy, unforced: str | None
) -> tuple[str, ...]:
    """Each a line. `unforced` is the tag that would be chosen if none were forced."""
    return (
        *_forced(choice, policy, unforced),
        *_pinned(choice, policy),
        *_off_the_gpus(choice, policy),
        *_slow(choice, policy),
        *_advised(choice, hardware),
    )


def _forced(choice: Choice, policy: Policy, unforced: str | None) -> Iterator[str]:
    if policy.tag and policy.tag not in (unforced, choice.model.long_name):
        better = f"{unforced} would be chosen" if unforced else "none would be chosen"
        yield f"the tag {policy.tag} is forced; without that {better}"


def _pinned(choice: Choice, policy: Policy) -> Iterator[str]:
    name = f"{policy.model}:{choice.tag}"
    pinned = dict(policy.digests).get(name)
    known = (choice.model.digest, *choice.model.former)
    if pinned and not any(digest and pinned.startswith(digest) for digest in known):
        yield (
            f"{name} is pinned to {pinned[:19]}, which the catalogue does not know: the sizes are "
            f"those of {choice.model.long_name}"
        )


def _off_the_gpus(choice: Choice, policy: Policy) -> Iterator[str]:
    percent = 100 * choice.layers_on_gpu // choice.layers
    if choice.placement == "offload" and percent < policy.offload_min_percent:
        yield (
            f"only {choice.layers_on_gpu} of {choice.layers} layers ({percent} %) go on the GPUs, "
            f"offload_min_percent is {policy.offload_min_percent}"
        )


def _slow(choice: Choice, policy: Policy) -> Iterator[str]:
    expected = choice.expected_tokens_per_s
    if expected is not None and expected < policy.tokens_per_s_min:
        smaller = f"; a smaller tag is {choice.next_smaller}" if choice.next_smaller else ""
        yield (
            f"about {expected:.1f} tokens/s expected, tokens_per_s_min is "
            f"{policy.tokens_per_s_min:g}{smaller}"
        )


def _advised(choice: Choice, hardware: Hardware) -> Iterator[str]:
    free_mib, advised = hardware.disk_free_mib, choice.model.advised
    download_mib = choice.model.size_bytes // 2**20
    if free_mib is not None and free_mib < download_mib:
        yield f"the download is {download_mib} MiB, {free_mib} MiB of disk are free"
    if advised is None:
        return
    if hardware.ram_mib < advised.ram_gb * MIB_PER_GB:
        yield f"{_gb(hardware.ram_mib)} GB of RAM, advised for {choice.tag} are {advised.ram_gb}"
    if free_mib is not None and free_mib < advised.disk_gb * MIB_PER_GB:
        yield f"{_gb(free_mib)} GB of disk free, advised for {choice.tag} are {advised.disk_gb}"
    if hardware.cores < advised.cores:
        yield f"{hardware.cores} CPU cores, advised for {choice.tag} are {advised.cores}"


def _gb(mib: int) -> int:
    return round(mib / MIB_PER_GB)
