"""An Ollama that is there already: who it is, and how r1fleet takes its place."""
