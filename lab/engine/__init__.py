"""The lab's engine: the real Ollama and llama.cpp above simulated GPUs, and tiny models."""

from lab.engine.binaries import EngineError, Progress
from lab.engine.build import EngineDir, ensure
from lab.engine.registry import PublishError
from lab.engine.registry import publish as _publish

__all__ = ["EngineDir", "EngineError", "Progress", "PublishError", "ensure", "publish"]


def publish(engine: EngineDir, registry: str) -> dict[str, str]:
    """Upload every tag to the registry at base URL `registry`; what is there is not sent again.

    Returns {"deepseek-r1:14b": "sha256:<manifest digest>", ...}. Raises PublishError.
    """
    return _publish(engine.models, registry)
