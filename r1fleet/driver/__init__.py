"""The NVIDIA driver: what a host needs, how it gets there, and the proof."""
