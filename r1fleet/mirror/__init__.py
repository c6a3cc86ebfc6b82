"""The mirror stage: a cache on the LAN for models and engine archives, and the way through it."""
