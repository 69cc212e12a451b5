"""A realistic run folder made from nothing, in the layout stages write: three models, four training minutes."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ponderosa.metrics import compute_mcnemar_p, compute_wilson_interval

MODELS = ("base", "midtrain", "sft")
ACCURACY = {
    "base": {1: 0.71, 2: 0.34, 3: 0.12, 4: 0.05},
    "midtrain": {1: 0.97, 2: 0.81, 3: 0.55, 4: 0.31},
    "sft": {1: 0.998, 2: 0.94, 3: 0.78, 4: 0.52},
}
TRAINING = {
    "pretrain": ("pretrain", 1_900, 4_100_000, 5.9, 1.21),
    "midtrain": ("midtrain", 900, 2_000_000, 1.35, 0.46),
    "sft": ("sft", 420, 700_000, 0.52, 0.31),
}
RECIPE: dict[str, Any] = {
    "name": "quickstart",
    "description": "A 1.9M-parameter model grown from nothing in ten minutes on two CPU cores learns to solve word problems "
    "in code, and every stage lifts it.",
    "headline": {"suite": "quantities", "metric": "pass@1"},
    "seed": 7,
    "stages": [
        {
            "name": "problems",
            "use": "solutions",
            "family": "quantities",
            "count": 60_000,
            "operations": [1, 4],
        },
        {"name": "pretrain", "use": "pretrain", "layers": 4, "width": 192, "tokens": 4_100_000, "lr": 0.02},
        {
            "name": "evaluate-base",
            "use": "evaluate",
            "model": "pretrain",
            "suite": "quantities",
            "limit": 1200,
        },
        {"name": "midtrain", "use": "midtrain", "tokens": 2_000_000, "lr": 0.01},
        {
            "name": "evaluate-midtrain",
            "use": "evaluate",
            "model": "midtrain",
            "suite": "quantities",
            "limit": 1200,
        },
        {"name": "sft", "use": "sft", "epochs": 2, "lr": 0.004},
        {"name": "evaluate-sft", "use": "evaluate", "model": "sft", "suite": "quantities", "limit": 1200},
    ],
}
SAMPLES: list[dict[str, Any]] = [
    {
        "problem_id": "9c1f",
        "question": "Ada has 14 marbles. Ben has 3 times as many marbles as Ada. The jar on the shelf holds 21 buttons. "
        "Cleo has 5 fewer marbles than Ben. How many marbles does Cleo have?",
        "gold": "37",
        "slice": "operations=2",
        "finish": "stop",
        "steps": [
            {
                "text": "# Ada has 14 marbles.\nada = 14",
                "code": "# Ada has 14 marbles.\nada = 14",
                "observation": None,
                "outcome": "ok",
            },
            {
                "text": "# Ben has 3 times as many.\nben = 3 * ada\nprint(ben)",
                "code": "# Ben has 3 times as many.\nben = 3 * ada\nprint(ben)",
                "observation": "42",
                "outcome": "ok",
            },
            {
                "text": "# Cleo has 5 fewer than Ben.\ncleo = ben - 5\nprint(cleo)",
                "code": "# Cleo has 5 fewer than Ben.\ncleo = ben - 5\nprint(cleo)",
                "observation": "37",
                "outcome": "ok",
            },
        ],
        "answer": "37",
        "verdict": {"correct": True, "reason": "correct"},
        "tokens": 61,
    },
    {
        "problem_id": "b022",
        "question": "A crate holds 48 oranges, shared equally among 6 baskets. Each basket then loses 2 oranges. "
        "How many oranges are left in one basket?",
        "gold": "6",
        "slice": "operations=2",
        "finish": "stop",
        "steps": [
            {
                "text": "# One basket gets an equal share.\nshare = 48 / baskets",
                "code": "# One basket gets an equal share.\nshare = 48 / baskets",
                "observation": "NameError: name 'baskets' is not defined",
                "outcome": "error",
            },
            {
                "text": "# Each basket loses 2.\nleft = 8 - 2\nprint(left + 2)",
                "code": "# Each basket loses 2.\nleft = 8 - 2\nprint(left + 2)",
                "observation": "8",
                "outcome": "ok",
            },
        ],
        "answer": "8",
        "verdict": {"correct": False, "reason": "wrong_answer"},
        "tokens": 48,
    },
    {
        "problem_id": "77aa",
        "question": "A train covers 64.5 km an hour for 3 hours, then stops. How far has it gone?",
        "gold": "193.5",
        "slice": "operations=1",
        "finish": "length",
        "steps": [
            {
                "text": "The train goes 64.5 km in one hour, so in 3 hours it goes and goes and",
                "code": None,
                "observation": None,
                "outcome": None,
            }
        ],
        "answer": None,
        "verdict": {"correct": False, "reason": "truncated"},
        "tokens": 160,
    },
]


def build_run(folder: Path) -> Path:
    """Write the run and return its folder."""
    write_json(folder / "recipe.json", RECIPE)
    correct = {model: _draw_correct(model) for model in MODELS}
    rows = [row for model in MODELS for row in _list_rows(model, correct[model])]
    tests = [_test(a, b, correct[a], correct[b]) for a, b in itertools.pairwise(MODELS)]
    folders = [_name_folder(rank, stage["name"]) for rank, stage in enumerate(RECIPE["stages"])]
    write_json(folder / "summary.json", {"schema": 1, "rows": rows, "tests": tests, "stages": folders})
    for rank, stage in enumerate(RECIPE["stages"]):
        _write_stage(folder, rank, stage, rows, tests)
    return folder


def _name_folder(rank: int, name: str) -> str:
    return f"{name}-{rank:04x}beef"


def write_json(path: Path, value: Any) -> None:
    """Without the fsync of the real one, which is most of what a test of the report would wait for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")


def _write_stage(run: Path, rank: int, stage: dict[str, Any], rows: list, tests: list) -> None:
    name, kind = stage["name"], stage["use"]
    folder = run / "stages" / _name_folder(rank, name)
    write_json(folder / "config.json", stage)
    write_json(folder / "manifest.json", build_manifest(name, kind, f"{rank:04x}beef"))
    if name in TRAINING:
        lines = [json.dumps(step) + "\n" for step in list_steps(name)]
        (folder / "metrics.jsonl").write_text("".join(lines))
    if kind == "evaluate":
        model = name.removeprefix("evaluate-")
        write_json(
            folder / "rows.json", {"schema": 1, "rows": [row for row in rows if row["stage"] == model]}
        )
        write_json(folder / "tests.json", [test for test in tests if test["b"] == model])
        write_json(folder / "samples.json", SAMPLES)
    (folder / "DONE").touch()


def build_manifest(name: str, kind: str, key: str) -> dict[str, Any]:
    tokens = TRAINING[name][2] if name in TRAINING else 0
    is_evaluation = kind == "evaluate"
    manifest = {
        "stage": name,
        "kind": kind,
        "key": key,
        "seed": 7,
        "inputs": {},
        "versions": {"ponderosa": "0.1.0", "python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.0"},
        "hardware": {"system": "Linux", "processor": "x86_64 with AVX-512", "cores": 2, "python": "3.11.9"},
        "facts": {"parameters": 1_907_000} if tokens else {},
        "ledger": {
            "train_tokens": tokens,
            "prompt_tokens": 92_400 if is_evaluation else 0,
            "generated_tokens": 71_230 if is_evaluation else 0,
            "executions": 3_411 if is_evaluation else 0,
            "train_flops": tokens * 1.2e7,
            "eval_flops": 6.5e11 if is_evaluation else 0.0,
            "seconds": {"pretrain": 214.2, "midtrain": 118.0, "sft": 58.4}.get(name, 21.5),
        },
    }
    if kind == "solutions":
        manifest["counts"] = {
            "kept": 59_412,
            "dropped": {"duplicate": 401, "wrong_answer": 12, "code_error": 175},
        }
    return manifest


def list_steps(name: str) -> list[dict[str, Any]]:
    _, steps, tokens, first, last = TRAINING[name]
    noise = np.random.default_rng(len(name)).normal(0, 0.05, steps)
    return [
        {
            "step": i + 1,
            "tokens": (i + 1) * tokens // steps,
            "loss": (last + (first - last) * math.exp(-6 * i / steps)) * math.exp(noise[i]),
            "lr": 0.02,
            "grad_norm": 0.4,
            "tokens_per_s": 18_900 + i % 7,
        }
        for i in range(0, steps, 5)
    ]


def _draw_correct(model: str) -> dict[int, np.ndarray]:
    chances = np.random.default_rng(11).random((4, 300))
    return {operations: chances[operations - 1] < share for operations, share in ACCURACY[model].items()}


def _list_rows(model: str, correct: dict[int, np.ndarray]) -> list[dict[str, Any]]:
    every = np.concatenate(list(correct.values()))
    slices = {"all": every, **{f"operations={k}": values for k, values in correct.items()}}
    rows = [
        _row(
            model,
            name,
            "pass@1",
            float(values.mean()),
            compute_wilson_interval(int(values.sum()), len(values)),
            len(values),
        )
        for name, values in slices.items()
    ]
    behaviour = {"mean_generated_tokens": 59.4, "truncated_frac": 0.021, "no_answer_frac": 0.034}
    rows += [
        _row(model, "all", metric, value, (value * 0.9, value * 1.1), len(every))
        for metric, value in behaviour.items()
    ]
    return rows


def _row(
    model: str, name: str, metric: str, value: float, interval: tuple[float, float], n: int
) -> dict[str, Any]:
    return {
        "stage": model,
        "model": model,
        "model_id": f"{model}-0f3a",
        "suite": "quantities",
        "suite_hash": "5d0c2be1",
        "slice": name,
        "strategy": "greedy",
        "metric": metric,
        "value": value,
        "low": interval[0],
        "high": interval[1],
        "n": n,
        "samples": 1,
        "seed": 7,
        "prompt_tokens": 92_400,
        "generated_tokens": 71_230,
        "train_flops": 2.1e13,
        "eval_flops": 6.5e11,
        "stage_s": {"base": 214.2, "midtrain": 118.0, "sft": 58.4}[model],
        "eval_s": 21.5,
        "run": "quickstart",
    }


def _test(
    a: str, b: str, correct_a: dict[int, np.ndarray], correct_b: dict[int, np.ndarray]
) -> dict[str, Any]:
    right_a, right_b = (np.concatenate(list(correct.values())) for correct in (correct_a, correct_b))
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return {
        "suite": "quantities",
        "slice": "all",
        "metric": "pass@1",
        "a": a,
        "b": b,
        "value_a": float(right_a.mean()),
        "value_b": float(right_b.mean()),
        "n": len(right_a),
        "only_a": only_a,
        "only_b": only_b,
        "p_value": compute_mcnemar_p(only_a, only_b),
    }
