"""From a recipe to planned stages: everything checked and every key known before anything runs.

A recipe is an ordered list of stages; each has a name, a kind (`use`) and its configuration, and names the earlier
stages it reads. A stage's folder is `<name>-<key>`, the key a hash of its kind and version, its resolved
configuration, the keys of what it reads, the content of what it reads from outside, and the seed: not of paths,
seconds or worker counts.

Another seed, or another arm of a sweep, is the whole recipe planned again: stages that come out in the same folder
are one stage, done once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from ponderosa.arms import Arm, check_arms, name_arms
from ponderosa.config import Config, load_yaml, parse_config, set_path, set_value, suggest
from ponderosa.errors import ConfigError, RequestError
from ponderosa.identity import content_hash
from ponderosa.rounds import expand_rounds
from ponderosa.stages.stage import PRODUCTS, Stage, StageConfig, get_stage

RECIPES = Path(__file__).parent / "recipes"


class Recipe(Config):
    """A named sequence of stages."""

    name: str
    description: str = ""
    seed: int = 0
    seeds: tuple[int, ...] = ()
    """Training seeds, each the whole recipe again; unset takes `seed` alone."""
    sweep: tuple[Arm, ...] = ()
    headline: dict[str, Any] = Field(default_factory=dict)
    """What the recipe set out to show, named before it ran: suite, metric, the order of the models, alpha."""
    base: str | None = None
    """A local checkpoint to start from; it takes the place of the stage named `base`."""
    stages: tuple[dict[str, Any], ...]

    @property
    def training_seeds(self) -> tuple[int, ...]:
        return self.seeds or (self.seed,)

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        if self.seeds and "seed" in self.model_fields_set:
            raise ConfigError(
                f"seed: {self.seed} and seeds: {list(self.seeds)} are both given; keep one "
                f"(--set seeds=[{self.seed}] picks one of a recipe's seeds)"
            )
        if not self.seeds and "seeds" in self.model_fields_set:
            raise ConfigError(
                "seeds: [] holds no seed; allowed: one or more, or leave it out to train at `seed`"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"the seeds {list(self.seeds)} name one twice")
        check_arms(self.sweep)
        return self


@dataclass(frozen=True)
class PlannedStage:
    """A stage with everything its key depends on resolved."""

    name: str
    kind: str
    module: Stage
    config: StageConfig
    key: str
    seed: int
    inputs: Mapping[str, str]
    """Folder name of every stage it reads, by name."""
    external: Mapping[str, str]
    """Content hash of everything it reads from outside the run, by name."""
    arms: tuple[str, ...] = ()
    """The arms it belongs to; none without a sweep."""

    @property
    def folder_name(self) -> str:
        return f"{self.name}-{self.key}"

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(self.inputs)


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
    if any(assignment.startswith("seeds=") for assignment in assignments):
        values.pop("seed", None)
    for assignment in assignments:
        set_path(values, assignment)
        if assignment.startswith("base=") and values["base"] is not None:
            values["base"] = str(Path(str(values["base"])).expanduser().absolute())
    return parse_config(Recipe, values, where=path.name)


def _load_values(path: Path, children: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe file's values, its rounds written out. With `extends: RECIPE` its stages follow that recipe's; one
    of the same name changes only the values it gives."""
    values = load_yaml(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path.name}: a recipe is a mapping with name and stages")
    if isinstance(values.get("stages"), list):
        values["stages"] = expand_rounds(values["stages"], where=path.name)
    if "extends" not in values:
        return values
    if path in children:
        raise ConfigError(f"{path.name} extends itself")
    parent = _load_values(_find_parent(path, str(values.pop("extends"))), (*children, path))
    if {"seed", "seeds"} & values.keys():
        parent = {key: value for key, value in parent.items() if key not in ("seed", "seeds")}
    stages = {stage.get("name"): stage for stage in parent.get("stages", ())}
    for stage in values.pop("stages", ()):
        stages[stage.get("name")] = {**stages.get(stage.get("name"), {}), **stage}
    return {**parent, **values, "stages": list(stages.values())}


def _find_parent(path: Path, name: str) -> Path:
    beside = path.parent / name
    return beside if beside.suffix in {".yaml", ".yml"} and beside.exists() else find_recipe(name)


def plan_recipe(recipe: Recipe, base: Path) -> list[PlannedStage]:
    """Every stage at the first seed, arms aside, with its configuration checked and its key computed; nothing is run.

    base: the recipe's folder, which user files are relative to. Raises ConfigError for anything that is wrong.
    """
    return _plan_stages(recipe.model_copy(update={"seed": recipe.training_seeds[0]}), base)


def plan_runs(recipe: Recipe, base: Path) -> list[PlannedStage]:
    """Every stage of every arm at every seed, each once, in an order they can be run in: all arms at the first seed,
    then at the next. Raises ConfigError as `plan_recipe` does, naming the arm."""
    planned: dict[str, PlannedStage] = {}
    for seed in recipe.training_seeds:
        seeded = recipe.model_copy(update={"seed": seed})
        if not recipe.sweep:
            planned |= {stage.folder_name: stage for stage in _plan_stages(seeded, base)}
        for arm in recipe.sweep:
            for stage in _plan_arm(seeded, arm, base):
                known = planned.get(stage.folder_name, stage)
                planned[stage.folder_name] = replace(known, arms=(*known.arms, arm.arm))
    _check_arms_differ(recipe, list(planned.values()))
    return list(planned.values())


def label_stages(stages: Sequence[PlannedStage]) -> list[str]:
    """Each stage's name, with its arms where not all have it, and its seed where there are several."""
    seeds = {stage.seed for stage in stages}
    arms = {arm for stage in stages for arm in stage.arms}
    labels = []
    for stage in stages:
        arm = name_arms(stage.arms) if len(stage.arms) < len(arms) else ""
        seed = f"seed {stage.seed}" if len(seeds) > 1 else ""
        labels.append(", ".join(part for part in (stage.name, arm, seed) if part))
    return labels


def _plan_arm(recipe: Recipe, arm: Arm, base: Path) -> list[PlannedStage]:
    values = recipe.model_dump(mode="json", include={"stages", "base"})
    for path, value in arm.set.items():
        top, dot, _ = path.partition(".")
        if path != "base" and not (top == "stages" and dot):
            raise ConfigError(f"arm {arm.arm!r} sets {path!r}; allowed: base and stages.NAME.KEY")
        set_value(values, path, value, where=f"arm {arm.arm!r} sets {path!r}")
    try:
        stages = _plan_stages(recipe.model_copy(update=values), base)
    except RequestError as error:
        raise type(error)(f"arm {arm.arm!r}: {error}") from None
    names = [stage.name for stage in stages]
    for end in arm.ends:
        if end not in names:
            raise ConfigError(f"arm {arm.arm!r} runs until {end!r}, which is no stage{suggest(end, names)}")
    kept = set(arm.ends or names)
    for stage in reversed(stages):
        kept |= set(stage.needs) if stage.name in kept else set()
    return [stage for stage in stages if stage.name in kept]


def _check_arms_differ(recipe: Recipe, stages: Sequence[PlannedStage]) -> None:
    seen: dict[tuple[str, ...], str] = {}
    for arm in recipe.sweep:
        folders = tuple(stage.folder_name for stage in stages if arm.arm in stage.arms)
        if (twin := seen.setdefault(folders, arm.arm)) != arm.arm:
            raise ConfigError(
                f"arms {twin!r} and {arm.arm!r} run the same stages; `set` must change one of them"
            )


def _plan_stages(recipe: Recipe, base: Path) -> list[PlannedStage]:
    planned: dict[str, PlannedStage] = {}
    for entry in _place_base(recipe):
        stage = _plan_stage(entry, planned, recipe, base)
        planned[stage.name] = stage
    return _prune(planned, recipe)


def _place_base(recipe: Recipe) -> Iterator[dict[str, Any]]:
    names = [entry.get("name") for entry in recipe.stages]
    if recipe.base is not None and "base" not in names:
        raise ConfigError(
            f"recipe {recipe.name!r} has no stage named 'base' for base={recipe.base} to replace"
        )
    for entry in recipe.stages:
        if recipe.base is not None and entry.get("name") == "base":
            kept = entry if entry.get("use") == "import_model" else {"name": "base", "use": "import_model"}
            entry = {**kept, "path": recipe.base}
        yield entry


def _plan_stage(
    entry: Mapping[str, Any], planned: Mapping[str, PlannedStage], recipe: Recipe, base: Path
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
    if recipe.seed != recipe.training_seeds[0]:
        config = config.keep_problems(recipe.training_seeds[0])
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
        [kind, module.VERSION, content, inputs, sorted(external.values()), recipe.seed],
        length=12,
    )
    folders = {need: planned[need].folder_name for need in needs}
    return PlannedStage(name, kind, module, config, key, recipe.seed, folders, external)


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
