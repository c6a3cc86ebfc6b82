"""r1fleet: turns a list of SSH hosts into a fleet that serves DeepSeek-R1 through Ollama."""
