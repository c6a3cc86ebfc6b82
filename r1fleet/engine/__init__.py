"""The engine: Ollama from a pinned archive, its unit, its environment, its preload."""
