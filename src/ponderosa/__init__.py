"""Ponderosa grows small language models that reason.

`load`, `solve`, `evaluate` and `run` are the library; they are imported when first used, so that `import ponderosa`
costs nothing.
"""

from importlib import import_module
from typing import Any

__all__ = ["evaluate", "load", "run", "solve"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("ponderosa.api"), name)
    raise AttributeError(f"module 'ponderosa' has no attribute {name!r}")
