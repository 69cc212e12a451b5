"""Search strategies as pure generators, and the driver that batches their requests over one engine."""

from ponderosa.search.registry import STRATEGIES, get_strategy

__all__ = ["STRATEGIES", "get_strategy"]
