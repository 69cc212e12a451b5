"""What there is to choose from, and what this machine can do: `ponderosa list` and `ponderosa doctor`."""

import importlib.util
from collections.abc import Callable, Mapping


def list_tasks() -> dict[str, str]:
    from ponderosa.tasks.registry import list_tasks

    return dict.fromkeys(list_tasks(), "")


def list_suites() -> dict[str, str]:
    from ponderosa.evaluation.suites import SUITES

    return {name: f"{suite.task}, split {suite.split}" for name, suite in SUITES.items()}


def list_strategies() -> dict[str, str]:
    from ponderosa.search import STRATEGIES

    return dict(STRATEGIES)


def list_engines() -> dict[str, str]:
    return {
        "native": "continuous batching over an unchanged transformers model, in this process",
        "scripted": "plays a fixed script; for tests",
    }


def list_stages() -> dict[str, str]:
    from ponderosa.stages.stage import STAGES

    return dict(STAGES)


def list_recipes() -> dict[str, str]:
    from ponderosa.planning import RECIPES, list_recipes, load_recipe

    return {name: load_recipe(RECIPES / f"{name}.yaml").description for name in list_recipes()}


CATALOGUES: Mapping[str, Callable[[], dict[str, str]]] = {
    "tasks": list_tasks,
    "suites": list_suites,
    "strategies": list_strategies,
    "engines": list_engines,
    "stages": list_stages,
    "recipes": list_recipes,
}


def examine_machine() -> dict[str, str]:
    """Findings by name, in words a person can act on."""
    import torch

    from ponderosa.pipeline import describe_hardware
    from ponderosa.sandbox import tiers_available
    from ponderosa.tasks.jsonl import find_data_file
    from ponderosa.tasks.registry import list_data_files
    from ponderosa.training.loop import choose_dtype

    hardware = describe_hardware()
    findings = {
        "machine": f"{hardware['system']} {hardware['machine']}, {hardware['processor']}, {hardware['cores']} cores",
        "python": hardware["python"],
        "torch": torch.__version__,
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "mps": "yes" if torch.backends.mps.is_available() else "none",
        "training dtype": str(choose_dtype("auto", torch.device("cpu"))).removeprefix("torch.") + " on cpu",
    }
    for tier, finding in tiers_available().items():
        findings[f"sandbox {tier}"] = "works" if finding is None else f"does not work: {finding}"
    trackers = (("tensorboard", "track"), ("wandb", "track"), ("trackio", "track"))
    for package, extra in (("reasoning_gym", "gym"), ("datasets", "hub"), ("trl", "bench"), *trackers):
        is_here = importlib.util.find_spec(package) is not None
        findings[package] = (
            "installed" if is_here else f"not installed (in a clone: pip install -e '.[{extra}]')"
        )
    found = [stem for stem in list_data_files() if find_data_file(stem)]
    findings["benchmark data"] = ", ".join(found) or (
        f"none: set PONDEROSA_DATA to a folder of {', '.join(list_data_files())} (.jsonl or .jsonl.gz)"
    )
    return findings
