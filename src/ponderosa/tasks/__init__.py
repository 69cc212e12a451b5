"""Problem families and adapters. `get_task` finds one by name; see `ponderosa.tasks.registry`."""

from ponderosa.tasks.registry import Task, get_task, list_tasks

__all__ = ["Task", "get_task", "list_tasks"]
