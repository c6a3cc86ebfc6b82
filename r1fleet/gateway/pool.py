"""What hosts that answer alike have in common."""

import hashlib

# A fleet gateway asks each host so often whether it may send requests there.
HEALTH_INTERVAL_S = 2


def pool_id(digest: str, context: int) -> str:
    """Name of the pool of a model: 12 hex digits from its manifest digest ("sha256:..." or the 64
    hex digits alone) and its context in tokens."""
    text = f"sha256:{digest.removeprefix('sha256:')} {context}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]
