"""A run folder as values. Nothing in it is trusted to be there: what is missing or unreadable becomes a note."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ponderosa.arms import name_arms
from ponderosa.artifacts import read_json
from ponderosa.shown_trees import SHOWN_FILE, ShownTree, load_shown

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StageFolder:
    """What one stage left behind. `metrics` are training steps, `margins` those of preference pairs; `held_out` what a
    reward model was measured on; `rows`, `tests`, `samples` an evaluation's; `trees` a few of a search's.

    model_name: the name, with its arms where not all of a sweep's arms have it. label: with its seed too, where a run
    has several.
    """

    name: str
    kind: str
    key: str
    is_done: bool
    config: Record
    manifest: Record
    metrics: list[Record]
    rows: list[Record]
    tests: list[Record]
    samples: list[Record]
    model_name: str = ""
    label: str = ""
    margins: Record = field(default_factory=dict)
    held_out: Record = field(default_factory=dict)
    trees: list[ShownTree] = field(default_factory=list)

    @property
    def ledger(self) -> Record:
        return as_record(self.manifest.get("ledger"))

    @property
    def counts(self) -> Record:
        return as_record(self.manifest.get("counts"))

    @property
    def is_reinforcement(self) -> bool:
        """Whether it learned from rewards; a stage that is unfinished has no manifest to say its kind."""
        return any("flat_frac" in step for step in self.metrics)


@dataclass(frozen=True, slots=True)
class Run:
    """A whole run: the resolved recipe, every stage in the order of the recipe, all result rows and tests; of a
    sweep, its arms and the tests between them."""

    name: str
    recipe: Record
    rows: list[Record]
    tests: list[Record]
    stages: list[StageFolder]
    notes: list[str] = field(default_factory=list)
    sweep: Record = field(default_factory=dict)


def load_run(run_dir: Path) -> Run:
    """Read a run folder. Result rows come from summary.json, or from the evaluate stages while there is none."""
    notes: list[str] = []
    recipe = as_record(_read(run_dir, "recipe.json", read_json, notes))
    summary = as_record(_read(run_dir, "summary.json", read_json, notes))
    sweep = as_record(summary.get("sweep"))
    stages = [_load_stage(run_dir, folder, notes) for folder in _list_folders(run_dir, summary, notes)]
    stages = _label_stages(stages, sweep)
    order = {name: rank for rank, name in enumerate(list_stage_names(recipe))}
    stages.sort(key=lambda stage: order.get(stage.name, len(order)))
    rows = as_records(summary.get("rows")) or [row for stage in stages for row in stage.rows]
    tests = as_records(summary.get("tests")) or [test for stage in stages for test in stage.tests]
    return Run(str(recipe.get("name") or run_dir.name), recipe, rows, tests, stages, notes, sweep)


def list_stage_names(recipe: Mapping[str, Any]) -> list[str]:
    """The recipe's stages in order; a stage without a name goes by its kind."""
    named = [stage.get("name") or stage.get("use") for stage in as_records(recipe.get("stages"))]
    return [str(name) for name in named if name]


def as_record(value: Any) -> Record:
    return value if isinstance(value, dict) else {}


def as_records(value: Any) -> list[Record]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _label_stages(stages: list[StageFolder], sweep: Record) -> list[StageFolder]:
    arms = {str(arm.get("arm")): as_list(arm.get("stages")) for arm in as_records(sweep.get("arms"))}
    seeds = {str(stage.manifest.get("seed")) for stage in stages if stage.manifest}
    labelled = []
    for stage in stages:
        mine = [arm for arm, folders in arms.items() if f"{stage.name}-{stage.key}" in folders]
        name = f"{stage.name}, {name_arms(mine)}" if mine and len(mine) < len(arms) else stage.name
        label = f"{name}, seed {stage.manifest.get('seed')}" if len(seeds) > 1 else name
        labelled.append(replace(stage, model_name=name, label=label))
    return labelled


def _list_folders(run_dir: Path, summary: Record, notes: list[str]) -> list[Path]:
    """The stage folders this run is made of. Without a summary to say, all there are, earlier settings' included."""
    there = {path.name: path for path in sorted((run_dir / "stages").glob("*")) if path.is_dir()}
    named = summary.get("stages")
    if not isinstance(named, list):
        return list(there.values())
    names = [str(name) for name in named]
    notes += [f"stage {name} has not run" for name in names if name not in there]
    return [there[name] for name in names if name in there]


def _load_stage(run_dir: Path, folder: Path, notes: list[str]) -> StageFolder:
    def read(name: str, reader: Callable[[Path], Any] = read_json, *, is_needed: bool = False) -> Any:
        relative = str((folder / name).relative_to(run_dir))
        return _read(run_dir, relative, reader, notes) if is_needed or (folder / name).exists() else None

    name, _, key = folder.name.rpartition("-")
    manifest = as_record(read("manifest.json", is_needed=True))
    is_done = (folder / "DONE").exists()
    if not is_done:
        notes.append(f"stage {name or folder.name} is unfinished")
    return StageFolder(
        name=str(manifest.get("stage") or name or folder.name),
        kind=str(manifest.get("kind") or ""),
        key=str(manifest.get("key") or key),
        is_done=is_done,
        config=as_record(read("config.json")),
        manifest=manifest,
        metrics=read("metrics.jsonl", _read_whole_lines) or [],
        rows=as_records(as_record(read("rows.json")).get("rows")),
        tests=as_records(read("tests.json")),
        samples=as_records(read("samples.json")),
        margins=as_record(read("margins.json")),
        held_out=as_record(read("held_out.json")),
        trees=read(SHOWN_FILE, load_shown) or [],
    )


def _read(run_dir: Path, relative: str, reader: Callable[[Path], Any], notes: list[str]) -> Any:
    """The parsed file, or None and a note. Damaged files are a reason to say so, not to show nothing."""
    try:
        return reader(run_dir / relative)
    except FileNotFoundError:
        notes.append(f"{relative} is missing")
    except (OSError, ValueError) as error:
        notes.append(f"{relative} cannot be read ({type(error).__name__})")
    return None


def _read_whole_lines(path: Path) -> list[Record]:
    """Records of a JSON Lines file that may still be growing: lines that do not parse are skipped."""
    records: list[Record] = []
    for line in path.read_text("utf-8", errors="replace").split("\n"):
        try:
            records += as_records([json.loads(line)])
        except ValueError:
            continue
    return records
