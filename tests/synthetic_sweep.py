"""A realistic folder of a sweep made from nothing: three arms that share their base, each trained from three seeds."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ponderosa.evaluation.joint import (
    Evaluation,
    Scores,
    compare_arms,
    compare_stages,
    summarise_evaluations,
)
from ponderosa.evaluation.summary import RowContext
from ponderosa.records import Cost, Problem
from synthetic_run import RECIPE, TRAINING, build_manifest, list_steps, write_json

SEEDS = (0, 1, 2)
ARMS = {"copying": 0.81, "no-copying": 0.62, "copying, twice as long and from fewer words": 0.83}
STAGES = {
    "pretrain": "pretrain",
    "evaluate-base": "evaluate",
    "midtrain": "midtrain",
    "evaluate-midtrain": "evaluate",
}
SHARED = ("pretrain", "evaluate-base")
PROBLEMS = [Problem(f"Question {i}?", "1", meta={"operations": 1 + i % 3}) for i in range(300)]


def build_sweep(folder: Path) -> Path:
    """Write the run and return its folder."""
    evaluations = [one for arm in ARMS for one in _list_evaluations(arm)]
    alone = [one for seed in range(len(SEEDS)) for one in (_pick_seed(e, seed) for e in evaluations)]
    sweep = {
        "arms": [
            {"arm": arm, "stages": [_name(stage, arm, s) for s in SEEDS for stage in STAGES]} for arm in ARMS
        ],
        "tests": compare_arms(evaluations),
    }
    summary = {
        "schema": 1,
        "rows": _list_seed_rows(alone) + summarise_evaluations(evaluations),
        "tests": compare_stages(evaluations),
        "stages": list(dict.fromkeys(name for arm in sweep["arms"] for name in arm["stages"])),
        "sweep": sweep,
    }
    stages = [{"name": name, "use": kind} for name, kind in STAGES.items()]
    write_json(folder / "recipe.json", {**RECIPE, "name": "ablation", "seeds": SEEDS, "stages": stages})
    write_json(folder / "summary.json", summary)
    for arm in ARMS:
        for seed in SEEDS:
            for stage in STAGES:
                _write_stage(folder, stage, arm, seed)
    return folder


def _list_evaluations(arm: str) -> list[Evaluation]:
    base = Evaluation(
        arm, "evaluate-base", None, "pass@1", False, PROBLEMS, ["operations"], _score("base", "", 0.2)
    )
    scores = _score("midtrain", arm, ARMS[arm])
    return [
        base,
        Evaluation(
            arm, "evaluate-midtrain", "evaluate-base", "pass@1", True, PROBLEMS, ["operations"], scores
        ),
    ]


def _score(model: str, arm: str, share: float) -> list[Scores]:
    rng = np.random.default_rng(len(arm))
    ids = [problem.id for problem in PROBLEMS]
    scores = []
    for seed in SEEDS:
        right = rng.random(len(ids)) < share + 0.04 * (seed - 1)
        values = {
            "pass@1": right.astype(float),
            "mean_generated_tokens": rng.choice([50.0, 60.0], len(ids)),
            "truncated_frac": np.zeros(len(ids)),
            "no_answer_frac": np.zeros(len(ids)),
        }
        context = RowContext(
            model, model, f"{model}{arm}{seed}", "quantities", "5d0c", "greedy", seed, stage_s=92.0 + seed
        )
        cost = Cost(prompt_tokens=70, generated_tokens=60)
        per_problem = {
            metric: dict(zip(ids, map(float, column), strict=True)) for metric, column in values.items()
        }
        scores.append(Scores(context, 1, per_problem, dict.fromkeys(ids, cost)))
    return scores


def _pick_seed(evaluation: Evaluation, seed: int) -> Evaluation:
    return Evaluation(
        evaluation.arm,
        evaluation.stage,
        None,
        "pass@1",
        evaluation.is_end,
        PROBLEMS,
        ["operations"],
        [evaluation.scores[seed]],
    )


def _list_seed_rows(alone: list[Evaluation]) -> list[dict[str, Any]]:
    rows = []
    for one in alone:
        for row in summarise_evaluations([one]):
            del row["seeds"]
            rows.append({**row, "seed": one.context.seed, "model_id": one.context.model_id})
    return rows


def _name(stage: str, arm: str, seed: int) -> str:
    place = 0 if stage in SHARED else list(ARMS).index(arm)
    return f"{stage}-{place:02x}{seed:02x}beef"


def _write_stage(run: Path, stage: str, arm: str, seed: int) -> None:
    name = _name(stage, arm, seed)
    folder = run / "stages" / name
    key = name.rpartition("-")[2]
    write_json(folder / "config.json", {"use": STAGES[stage]})
    write_json(folder / "manifest.json", {**build_manifest(stage, STAGES[stage], key), "seed": seed})
    if stage in TRAINING:
        (folder / "metrics.jsonl").write_text(
            "".join(json.dumps(step) + "\n" for step in list_steps(stage)[::4])
        )
    (folder / "DONE").touch()
