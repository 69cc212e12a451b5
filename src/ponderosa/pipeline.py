"""From a recipe to finished stage folders.

A recipe is an ordered list of stages; each has a name, a kind (`use`) and its configuration, and names the earlier
stages it reads. A stage's folder is `<name>-<key>`, the key a hash of its kind and version, its resolved
configuration, the keys of what it reads, the content of what it reads from outside, and the seed: not of paths,
seconds or worker counts. So running again does only what changed, and a run killed anywhere continues.
"""

import platform
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field

from ponderosa.artifacts import lock_folder, read_json, write_json, write_text
from ponderosa.config import Config, load_yaml, parse_config, set_path, suggest
from ponderosa.errors import ConfigError
from ponderosa.identity import content_hash
from ponderosa.progress import SILENT, Progress
from ponderosa.records import SCHEMA
from ponderosa.stages.stage import (
    PRODUCTS,
    UNFINISHED,
    Context,
    Outcome,
    Stage,
    StageConfig,
    get_stage,
)

RECIPES = Path(__file__).parent / "recipes"
SAVE_SECONDS_EVERY_S = 2.0
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


class Recipe(Config):
    """A named sequence of stages."""

    name: str
    description: str = ""
    seed: int = 0
    headline: dict[str, Any] = Field(default_factory=dict)
    """What the recipe set out to show, named before it ran: suite, metric, the order of the models, alpha."""
    base: str | None = None
    """A local checkpoint to start from; it takes the place of the stage named `base`."""
    stages: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class PlannedStage:
    """A stage with everything its key depends on resolved."""

    name: str
    kind: str
    module: Stage
    config: StageConfig
    key: str
    needs: tuple[str, ...]
    external: Mapping[str, str]
    """Content hash of everything it reads from outside the run, by name."""

    @property
    def folder_name(self) -> str:
        return f"{self.name}-{self.key}"


def list_recipes() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def find_recipe(name: str) -> Path:
    """A recipe file: a path, or the name of a shipped one. Raises ConfigError listing them."""
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        return path
    if name not in list_recipes():
        raise ConfigError(f"no recipe {name!r}{suggest(name, list_recipes())}; or give a .yaml file")
    return RECIPES / f"{name}.yaml"


def find_base(path: Path) -> Path:
    """The folder a recipe's file names are relative to: its own, or where we are for a shipped recipe."""
    return Path() if path.parent == RECIPES else path.parent


def load_recipe(path: Path, assignments: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply `--set path=value` assignments. `base=DIR` set so is relative to where we are."""
    values = _load_values(path)
    for assignment in assignments:
        set_path(values, assignment)
        if assignment.startswith("base=") and values["base"] is not None:
            values["base"] = str(Path(str(values["base"])).expanduser().absolute())
    return parse_config(Recipe, values, where=path.name)


def _load_values(path: Path) -> dict[str, Any]:
    """A recipe file's values. With `extends: RECIPE` its stages follow that recipe's; one of the same name
    changes only the values it gives."""
    values = load_yaml(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path.name}: a recipe is a mapping with name and stages")
    if "extends" not in values:
        return values
    parent = _load_values(_find_parent(path, values.pop("extends")))
    stages = {stage.get("name"): stage for stage in parent.get("stages", ())}
    for stage in values.pop("stages", ()):
        stages[stage.get("name")] = {**stages.get(stage.get("name"), {}), **stage}
    return {**parent, **values, "stages": list(stages.values())}


def _find_parent(path: Path, name: str) -> Path:
    beside = path.parent / name
    return beside if beside.suffix in {".yaml", ".yml"} and beside.exists() else find_recipe(name)


def plan_recipe(recipe: Recipe, base: Path) -> list[PlannedStage]:
    """Every stage with its configuration checked and its key computed; nothing is run.

    base: the recipe's folder, which user files are relative to. Raises ConfigError for anything that is wrong.
    """
    planned: dict[str, PlannedStage] = {}
    for entry in _place_base(recipe):
        stage = _plan_stage(entry, planned, recipe.seed, base)
        planned[stage.name] = stage
    return _prune(planned, recipe)


def _place_base(recipe: Recipe) -> Iterator[dict[str, Any]]:
    names = [entry.get("name") for entry in recipe.stages]
    if recipe.base is not None and "base" not in names:
        raise ConfigError(
            f"recipe {recipe.name!r} has no stage named 'base' for base={recipe.base} to replace"
        )
    for entry in recipe.stages:
        is_replaced = recipe.base is not None and entry.get("name") == "base"
        yield {"name": "base", "use": "import_model", "path": recipe.base} if is_replaced else entry


def _plan_stage(
    entry: Mapping[str, Any], planned: Mapping[str, PlannedStage], seed: int, base: Path
) -> PlannedStage:
    values = dict(entry)
    kind = values.pop("use", None)
    name = values.pop("name", kind)
    if not isinstance(kind, str) or not isinstance(name, str):
        raise ConfigError(f"a stage needs `use: KIND` (and a `name`), seen {dict(entry)!r}")
    if name in planned:
        raise ConfigError(f"two stages are named {name!r}; give each its own name")
    module = get_stage(kind)
    config = parse_config(module.Config, values, where=f"stage {name!r}")
    for need, product in config.needs():
        if need not in planned:
            raise ConfigError(
                f"stage {name!r} reads {need!r}, which no earlier stage is named{suggest(need, planned)}"
            )
        if PRODUCTS[planned[need].kind] != product:
            raise ConfigError(
                f"stage {name!r} looks for a {product} in {need!r}, a stage of kind {planned[need].kind!r}; "
                f"allowed kinds: {', '.join(kind for kind, made in PRODUCTS.items() if made == product)}"
            )
    needs = tuple(dict.fromkeys(need.stage for need in config.needs()))
    inputs = {need: planned[need].key for need in needs}
    external = config.hash_inputs(base)
    content = name_by_content(config.model_dump(mode="json"), external)
    key = content_hash(
        [kind, module.VERSION, content, inputs, sorted(external.values()), seed],
        length=12,
    )
    return PlannedStage(name, kind, module, config, key, needs, external)


def name_by_content(value: Any, names: Mapping[str, str]) -> Any:
    """A configuration in which everything outside the run goes by another name: the hash of its content (for the
    key), or a name without its folders."""
    if isinstance(value, dict):
        return {key: name_by_content(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [name_by_content(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


def _prune(planned: Mapping[str, PlannedStage], recipe: Recipe) -> list[PlannedStage]:
    """Drop what only served to grow the base that a checkpoint replaced."""
    stages = list(planned.values())
    if recipe.base is None:
        return stages
    while True:
        read = {need for stage in stages for need in stage.needs}
        kept = [
            stage for stage in stages if stage.name in read or stage.kind not in {"textbook", "tokenizer"}
        ]
        if len(kept) == len(stages):
            return stages
        stages = kept


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run; none of it changes what comes out, beyond the rounding of the device."""

    device: str = "auto"
    dtype: str = "auto"
    workers: int = 2
    progress: Progress = SILENT

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"no dtype {self.dtype!r}{suggest(self.dtype, DTYPES)}")


def run_recipe(recipe: Recipe, base: Path, out: Path, options: RunOptions) -> Path:
    """Run every unfinished stage of a recipe in `out`; the path of its summary.

    Raises RunLocked if another process is running in the same folder, ConfigError for an unknown device.
    """
    from ponderosa.engines.loading import select_device

    stages = plan_recipe(recipe, base)
    options = replace(options, device=select_device(options.device))
    with lock_folder(out):
        write_json(out / "recipe.json", describe_recipe(recipe, stages))
        folders: dict[str, Path] = {}
        for number, stage in enumerate(stages, 1):
            folder = out / "stages" / stage.folder_name
            folders[stage.name] = folder
            label = f"[{number}/{len(stages)}] {stage.name}"
            if (folder / "DONE").exists():
                options.progress.say(f"{label}: finished earlier")
                _remove(folder, UNFINISHED)
                continue
            options.progress.say(f"{label} ({stage.kind})")
            _run_stage(stage, folder, folders, recipe, base, options)
            write_summary(out, stages)
        return write_summary(out, stages)


def _run_stage(
    stage: PlannedStage,
    folder: Path,
    folders: Mapping[str, Path],
    recipe: Recipe,
    base: Path,
    options: RunOptions,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _remove(folder, ("**/.*.tmp",))
    config = name_by_content(stage.config.model_dump(mode="json"), _list_file_names(stage))
    write_json(folder / "config.json", {"use": stage.kind, **config})
    context = Context(
        name=stage.name,
        folder=folder,
        inputs={need: folders[need] for need in stage.needs},
        base=base,
        seed=recipe.seed,
        device=options.device,
        dtype=options.dtype,
        workers=options.workers,
        progress=options.progress,
    )
    with _spent_seconds(folder) as earlier_s:
        started_at = time.monotonic()
        outcome = stage.module.run(stage.config, context)
        outcome.ledger.seconds = earlier_s + time.monotonic() - started_at
    write_json(folder / "manifest.json", build_manifest(stage, context, outcome, folders))
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
    described = name_by_content(recipe.model_dump(mode="json"), names)
    assert isinstance(described, dict)
    return described


@contextmanager
def _spent_seconds(folder: Path) -> Iterator[float]:
    """Seconds that interrupted runs of this stage had spent; this one's are saved as it goes, for when it is killed."""
    path = folder / "seconds.json"
    earlier_s = float(read_json(path)) if path.exists() else 0.0
    started_at = time.monotonic()
    is_over = threading.Event()

    def save() -> None:
        write_json(path, earlier_s + time.monotonic() - started_at)

    def keep_saving() -> None:
        while not is_over.wait(SAVE_SECONDS_EVERY_S):
            save()

    saver = threading.Thread(target=keep_saving, name="seconds", daemon=True)
    saver.start()
    try:
        yield earlier_s
    finally:
        is_over.set()
        saver.join()
        save()


def build_manifest(
    stage: PlannedStage, context: Context, outcome: Outcome, folders: Mapping[str, Path]
) -> dict[str, Any]:
    """What a finished stage was made from, with, and at what cost. No host names, no absolute paths."""
    return {
        "schema": SCHEMA,
        "stage": stage.name,
        "kind": stage.kind,
        "key": stage.key,
        "stage_version": stage.module.VERSION,
        "inputs": {need: folders[need].name for need in stage.needs},
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
    import os

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


def write_summary(out: Path, stages: Sequence[PlannedStage]) -> Path:
    """Collect the rows and paired tests of every finished evaluation into `summary.json`."""
    rows: list[dict[str, Any]] = []
    tests: list[dict[str, Any]] = []
    for stage in stages:
        folder = out / "stages" / stage.folder_name
        if stage.kind != "evaluate" or not (folder / "DONE").exists():
            continue
        rows += [{**row, "run": out.resolve().name} for row in read_json(folder / "rows.json")["rows"]]
        tests += read_json(folder / "tests.json")
    path = out / "summary.json"
    write_json(
        path, {"schema": SCHEMA, "rows": rows, "tests": tests, "stages": [s.folder_name for s in stages]}
    )
    return path
