"""From planned stages to finished stage folders, one after another.

A finished stage is not done again, so running a recipe again does only what changed, and a run killed anywhere
continues. What loads torch is imported where it is used: not every stage needs it.
"""

import logging
import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ponderosa.artifacts import lock_folder, read_json, spent_seconds, write_json, write_text
from ponderosa.config import suggest
from ponderosa.errors import ConfigError, DataError
from ponderosa.ledger import Ledger
from ponderosa.planning import PlannedStage, Recipe, label_stages, name_by_content, plan_runs
from ponderosa.progress import SILENT, Progress
from ponderosa.records import SCHEMA
from ponderosa.stages.stage import PRODUCTS, UNFINISHED, Context, Outcome
from ponderosa.tasks.jsonl import JsonlTask
from ponderosa.tasks.registry import get_task
from ponderosa.tracking import Tracker, track_stage

if TYPE_CHECKING:
    from ponderosa.stages.bounds import Estimate

log = logging.getLogger(__name__)

DTYPES = ("auto", "float32", "bfloat16")
PACKAGES = (
    "ponderosa",
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "pydantic-monty",
    "math-verify",
    "sympy",
)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run; none of it changes what comes out, beyond the rounding of the device."""

    device: str = "auto"
    dtype: str = "auto"
    workers: int = 2
    progress: Progress = SILENT
    trackers: tuple[Tracker, ...] = ()

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"no dtype {self.dtype!r}{suggest(self.dtype, DTYPES)}")


@dataclass(frozen=True, slots=True)
class Run:
    """A recipe on its way through its stages, in a folder that this process holds by the descriptor `lock`."""

    recipe: Recipe
    base: Path
    out: Path
    options: RunOptions
    stages: Sequence[PlannedStage]
    names: Mapping[str, str]
    """What each stage is called, by its folder, in the order of the plan."""
    lock: int

    def skip(self, stage: PlannedStage) -> bool:
        """Pass over a stage that was finished earlier; False if it is still to do."""
        log.debug(explain_stage(stage, self.out))
        folder = self.out / "stages" / stage.folder_name
        if not (folder / "DONE").exists():
            return False
        self._say(stage, ": finished earlier")
        _remove(folder, UNFINISHED)
        link_model(self.out, self.names[stage.folder_name], stage)
        return True

    def begin(self, stage: PlannedStage) -> None:
        self._say(stage, f" ({stage.kind})")

    def finish(self, stage: PlannedStage) -> None:
        """Let others see what a stage that has just been done leaves."""
        from ponderosa.summary import write_summary

        link_model(self.out, self.names[stage.folder_name], stage)
        write_summary(self.out, self.recipe, self.stages)

    def _say(self, stage: PlannedStage, what: str) -> None:
        number = list(self.names).index(stage.folder_name) + 1
        self.options.progress.say(f"[{number}/{len(self.names)}] {self.names[stage.folder_name]}{what}")


def run_in_turn(run: Run) -> None:
    """Every unfinished stage in this process, in the order of the plan."""
    for stage in run.stages:
        if not run.skip(stage):
            run.begin(stage)
            run_stage(stage, run.base, run.out, run.options)
            run.finish(stage)


def run_recipe(
    recipe: Recipe, base: Path, out: Path, options: RunOptions, run: Callable[[Run], None] = run_in_turn
) -> Path:
    """Run every unfinished stage of a recipe in `out`, for every seed and arm; the path of its summary.

    Raises before anything is written: RunLocked if another process is running in the same folder, ConfigError for an
    unknown device or what `find_missing` finds, DataError as `check_data` does.
    """
    from ponderosa.engines.loading import select_device
    from ponderosa.summary import compute_joint, write_summary

    stages = plan_runs(recipe, base)
    options = replace(options, device=select_device(options.device))
    if missing := find_missing(stages):
        raise ConfigError(f"{recipe.name!r} cannot run as it is: {'; '.join(missing)}")
    check_data(stages, base, out)
    names = {stage.folder_name: name for stage, name in zip(stages, label_stages(stages), strict=True)}
    with lock_folder(out) as lock:
        write_json(out / "recipe.json", describe_recipe(recipe, stages))
        run(Run(recipe, base, out, options, stages, names, lock))
        return write_summary(out, recipe, stages, compute_joint(out, recipe, base, stages))


def find_missing(stages: Sequence[PlannedStage]) -> list[str]:
    """What only the user can give and has not, stage by stage, in words."""
    wanted = {stage.name: stage.config.find_missing() for stage in stages}
    return [
        f"stage {name!r} needs --set stages.{name}.{assignment}"
        for name, assignment in wanted.items()
        if assignment
    ]


def check_data(stages: Sequence[PlannedStage], base: Path, out: Path) -> None:
    """Raises DataError unless the problem files of every stage still to do can be read, naming all that it takes."""
    to_do = [stage for stage in stages if not (out / "stages" / stage.folder_name / "DONE").exists()]
    draws = dict.fromkeys(draw for stage in to_do for draw in stage.config.draws())
    files = {draw: task for draw in draws if isinstance(task := get_task(draw.task, base), JsonlTask)}
    for draw, task in files.items():
        try:
            task.load(draw.split)
        except DataError as error:
            needed = ", ".join(f"{name} ({split})" for name, split in files)
            raise DataError(f"{error}; this run reads {needed}") from error


def link_model(out: Path, name: str, stage: PlannedStage) -> None:
    """`models/NAME` leads to the policy or reward model of a finished stage, whatever its key; the last run decides."""
    if PRODUCTS[stage.kind] not in ("model", "reward_model"):
        return
    link = out / "models" / name.replace(", ", "-").replace(" ", "-")
    link.parent.mkdir(exist_ok=True)
    temporary = link.with_name(f".{link.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(Path("..") / "stages" / stage.folder_name / "model")
    os.replace(temporary, link)


def estimate_stages(stages: Sequence[PlannedStage], base: Path, out: Path) -> "list[Estimate]":
    """What each stage costs at most, and a finished one did cost. Raises DataError for a problem file or a model
    directory that does not load."""
    from ponderosa.stages.estimates import estimate_stage

    found: dict[str, Estimate] = {}
    for stage in stages:
        upstream = {need: found[folder] for need, folder in stage.inputs.items()}
        estimate = estimate_stage(stage.kind, stage.config, upstream, base)
        folder = out / "stages" / stage.folder_name
        if (folder / "DONE").exists():
            estimate = estimate.settle(Ledger(**read_json(folder / "manifest.json")["ledger"]))
        found[stage.folder_name] = estimate
    return list(found.values())


def explain_stage(stage: PlannedStage, out: Path) -> str:
    """A stage's key, what it reads, and why it is run or skipped, in one line."""
    folder = out / "stages" / stage.folder_name
    others = [
        path.name
        for path in sorted(folder.parent.glob(f"{stage.name}-*"))
        if path != folder and path.name.rpartition("-")[0] == stage.name
    ]
    if (folder / "DONE").exists():
        state = "skipped: finished earlier"
    elif folder.exists():
        state = "to do: an earlier run was interrupted in it and is continued"
    elif others:
        state = f"to do: nothing has this key; other keys: {', '.join(others)}"
    else:
        state = "to do: never begun"
    files = [f"{name} ({content})" for name, content in sorted(stage.external.items())]
    reads = ", ".join([*stage.needs, *files]) or "nothing"
    return f"{stage.name}: key {stage.key}, version {stage.module.VERSION}, reads {reads}; {state}"


def run_stage(stage: PlannedStage, base: Path, out: Path, options: RunOptions) -> None:
    """Fill the folder of one stage; what it reads is finished, and the run's folder is held."""
    folder = out / "stages" / stage.folder_name
    folder.mkdir(parents=True, exist_ok=True)
    _remove(folder, ("**/.*.tmp",))
    config = name_by_content(stage.config.model_dump(mode="json"), _list_file_names(stage))
    write_json(folder / "config.json", {"use": stage.kind, **config})
    with (
        track_stage(options.trackers, folder) as observe,
        spent_seconds(folder / "seconds.json") as read_seconds,
    ):
        context = Context(
            name=stage.name,
            folder=folder,
            inputs={need: folder.parent / name for need, name in stage.inputs.items()},
            base=base,
            seed=stage.seed,
            device=options.device,
            dtype=options.dtype,
            workers=options.workers,
            progress=options.progress,
            observe=observe,
        )
        outcome = stage.module.run(stage.config, context)
        outcome.ledger.seconds = read_seconds()
    write_json(folder / "manifest.json", build_manifest(stage, context, outcome))
    write_text(folder / "DONE", "")
    _remove(folder, UNFINISHED)


def _remove(folder: Path, patterns: Sequence[str]) -> None:
    """Remove what a finished stage no longer needs, or what one that was killed left half-written."""
    for path in [path for pattern in patterns for path in folder.glob(pattern)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _list_file_names(stage: PlannedStage) -> dict[str, str]:
    """What the stage reads from outside, as told to others: without the folders it lies in here."""
    return {name: Path(name).name for name in stage.external if Path(name).is_absolute()}


def describe_recipe(recipe: Recipe, stages: Sequence[PlannedStage]) -> dict[str, Any]:
    """The recipe as it was resolved, absolute paths cut down to their last part."""
    names = {name: short for stage in stages for name, short in _list_file_names(stage).items()}
    imported = [entry["path"] for entry in recipe.stages if isinstance(entry.get("path"), str)]
    for path in (*imported, *([recipe.base] if recipe.base else [])):
        names[path] = Path(path).name
    unused = {"seed" if recipe.seeds else "seeds", *(() if recipe.sweep else ("sweep",))}
    described = name_by_content(recipe.model_dump(mode="json", exclude=unused), names)
    assert isinstance(described, dict)
    return described


def build_manifest(stage: PlannedStage, context: Context, outcome: Outcome) -> dict[str, Any]:
    """What a finished stage was made from, with, and at what cost. No host names, no absolute paths."""
    return {
        "schema": SCHEMA,
        "stage": stage.name,
        "kind": stage.kind,
        "key": stage.key,
        "stage_version": stage.module.VERSION,
        "inputs": dict(stage.inputs),
        "external": {_list_file_names(stage).get(name, name): hash for name, hash in stage.external.items()},
        "seed": context.seed,
        "versions": {package: version(package) for package in PACKAGES},
        "hardware": describe_hardware(),
        "device": context.device,
        "ledger": outcome.ledger.to_record(),
        "counts": {"kept": outcome.kept, "dropped": outcome.dropped},
        "facts": outcome.facts,
    }


def describe_hardware() -> dict[str, Any]:
    """The machine in words that do not identify it."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _read_processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def _read_processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text("utf-8", "replace").split("\n"):
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
