"""Problem families and adapters. `get_task` finds one by name; see `ponderosa.tasks.registry`."""

from importlib import import_module

from ponderosa.tasks.registry import Task, get_task, list_tasks
from ponderosa.verify.verifiers import Verifier, register_verifier

__all__ = ["Task", "get_task", "list_tasks"]


def _build_gym_verifier() -> Verifier:
    verifier: Verifier = import_module("ponderosa.tasks.reasoning_gym").GymVerifier()
    return verifier


# Here, so that problems read back from a file find their verifier though no gym task was asked for.
register_verifier("reasoning_gym", _build_gym_verifier)
