"""Reward models from trees: what the stage learns, measures, writes and refuses, and that a killed one continues."""

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForSequenceClassification

from ponderosa.artifacts import read_json, write_json
from ponderosa.data.step_pairs import StepPairRules
from ponderosa.data.tree_outcomes import compute_success
from ponderosa.engines.codec import load_codec
from ponderosa.errors import ConfigError, DataError
from ponderosa.formats import PLAIN_CODE, PLAIN_PROSE
from ponderosa.identity import content_hash, hash_directory
from ponderosa.planning import plan_recipe
from ponderosa.progress import SILENT, Task
from ponderosa.records import GradedTree
from ponderosa.reward_model_directory import load_reward_file, load_reward_model
from ponderosa.stages import reward_model
from ponderosa.stages.policy import describe_policy
from ponderosa.stages.reward_model import HELD_OUT, RewardOptimizer, RewardTraining
from ponderosa.stages.rollout import POLICY
from ponderosa.stages.stage import Context, Outcome
from ponderosa.stages.tree_tables import save_trees
from tiny_pairs import save_tiny_model
from tiny_runs import build_recipe
from tiny_trees import Line, build_tree

TRAIN = RewardTraining(optimizer=RewardOptimizer(learning_rate=1e-2), dtype="float32")
RULES = StepPairRules(min_edit_distance=0)
NUM_TREES = 40


def draw_tree(number: int) -> GradedTree:
    """Solutions through a first step with a 7 end right."""
    source = random.Random(number)
    lines: list[Line] = []
    for is_good in (True, False):
        digits = source.choices("01234568", k=3)
        digits[source.randrange(3)] = "7" if is_good else "1"
        parent, value = len(lines), 0.9 if is_good else -0.9
        lines.append(Line(None, "".join(digits), value))
        for text in source.sample("abcdef", 2):
            lines.append(Line(parent, text, value, "correct" if is_good else "wrong_answer"))
    return build_tree(lines, content_hash(number))


def save_tree_stage(folder: Path, model: Path, trees: list[GradedTree]) -> Path:
    save_trees(folder, trees)
    policy = describe_policy(load_codec(model / "model"), PLAIN_CODE, "m")
    write_json(folder / POLICY, asdict(policy))
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A policy and the trees that it grew, one of them with a doubtful label."""
    root = tmp_path_factory.mktemp("reward")
    folders = {"sft": save_tiny_model(root / "sft")}
    doubtful = build_tree([Line(None, "?", -1.0, "wrong_answer")], "doubtful", "suspicious")
    trees = [*map(draw_tree, range(NUM_TREES)), doubtful]
    folders["trees"] = save_tree_stage(root / "trees", folders["sft"], trees)
    return folders


def run_stage(folder: Path, inputs: dict[str, Path], **changes: Any) -> Outcome:
    context = Context("ppm", folder, inputs, folder, 0, "cpu", "float32", 1, changes.pop("progress", SILENT))
    values = {
        "trees": ("trees",),
        "rules": RULES,
        "held_out_frac": 0.3,
        "train": TRAIN,
        "tokens_per_step": 300,
        "epochs": 4,
    }
    return reward_model.run(reward_model.Config(**{**values, **changes}), context)


def read_log(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "tokens_per_s"} for line in lines]


@pytest.mark.parametrize("kind", ["ppm", "orm", "q_regression"])
def test_every_kind_learns_the_planted_rule_and_reads_it_as_success(
    kind: str, inputs: dict[str, Path], tmp_path: Path
) -> None:
    outcome = run_stage(tmp_path, inputs, kind=kind, **({} if kind == "ppm" else {"epochs": 8}))
    measured = read_json(tmp_path / HELD_OUT)
    accuracy = outcome.facts["pair_accuracy"]
    assert accuracy == measured["pairs"]["all"]
    assert accuracy["low"] <= accuracy["accuracy"] <= accuracy["high"]
    assert accuracy["low"] < 1.0, "a few pairs that are all ranked rightly are no certainty"
    assert accuracy["accuracy"] > 0.9
    assert measured["calibration"]["squared_error"] < 0.3 * measured["calibration"]["baseline"]
    assert {"loss"} <= read_log(tmp_path)[0].keys()
    assert outcome.dropped == {"suspicious": 1}
    assert outcome.ledger.train_tokens > 0
    assert outcome.ledger.scored_tokens > 0

    model, _, prompt_format, calibration = load_reward_model(tmp_path / "model")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    tree = draw_tree(1000)
    errors = []
    for place, success in compute_success(tree).items():
        ids = torch.tensor([tree.tree.join_tokens(place)])
        with torch.no_grad():
            score = stock(ids).logits[0, 0].item()
            assert score == model(ids).logits[0, 0].item()
        errors.append(abs(calibration.apply([score])[0] - success))
    assert len(errors) == 6
    assert sum(errors) / len(errors) < 0.5
    assert prompt_format == PLAIN_CODE


def test_q_regression_learns_from_steps_that_a_solution_goes_through_alone() -> None:
    """The other step's only value is that of the model which scored it."""
    lines = [Line(None, "good", 1.0), Line(None, "never tried", 0.37), Line(0, "end", 1.0, "correct")]
    examples = reward_model.build_examples(
        [build_tree(lines)], reward_model.Config(kind="q_regression", trees=("trees",)), max_length=99
    )
    assert examples.facts == {"steps": 2}


def test_the_manifest_says_what_was_learned_from_and_the_directory_how(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    """Two first steps give one pair; two right and two wrong solutions give four."""
    facts = run_stage(tmp_path, inputs, beta=2.0, epochs=1).facts
    num_seen = NUM_TREES - facts["held_out_problems"]
    assert 5 < facts["held_out_problems"] < 20
    assert (facts["problems"], facts["pairs"]) == (num_seen, 5 * num_seen)
    assert facts["nodes_without_pair"] == {"all_right": num_seen, "all_wrong": num_seen}
    assert facts["problems_without_pair_of_solutions"] == {}
    file = load_reward_file(tmp_path / "model")
    assert (file.kind, file.comparison, file.beta) == ("ppm", "tanh", 2.0)


@pytest.mark.parametrize("kind", ["ppm", "orm"])
def test_adapters_on_the_frozen_policy_learn_the_planted_rule_and_leave_it_as_it_is(
    kind: str, inputs: dict[str, Path], tmp_path: Path
) -> None:
    before = hash_directory(inputs["sft"] / "model")
    shared = run_stage(tmp_path / "shared", inputs, kind=kind, trunk="shared", epochs=8)
    assert hash_directory(inputs["sft"] / "model") == before
    assert shared.facts["pair_accuracy"]["accuracy"] > 0.9
    measured = read_json(tmp_path / "shared" / HELD_OUT)["calibration"]
    assert measured["squared_error"] < 0.3 * measured["baseline"]

    num_trained = shared.facts["trained_parameters"]
    (folder,) = (tmp_path / "shared").glob("model")
    weights = (folder / "adapter_model.safetensors").stat().st_size
    assert 4 * num_trained < weights < 4 * num_trained + 10_000
    separate = run_stage(tmp_path / "separate", inputs, kind=kind, epochs=8)
    assert "trained_parameters" not in separate.facts
    assert shared.facts["parameters"] == separate.facts["parameters"] + num_trained - 32
    assert shared.ledger.train_tokens == separate.ledger.train_tokens
    assert load_reward_file(folder).kind == kind


def test_what_is_held_out_does_not_depend_on_the_seed_or_the_kind(inputs: dict[str, Path]) -> None:
    trees = [draw_tree(number) for number in range(NUM_TREES)]
    held_out, seen = reward_model.split_trees(trees, 0.3)
    again, _ = reward_model.split_trees(trees[::-1], 0.3)
    assert sorted(one.tree.problem_id for one in held_out) == sorted(one.tree.problem_id for one in again)
    assert not {one.tree.problem_id for one in held_out} & {one.tree.problem_id for one in seen}


class KilledTask:
    """Raises once it has been advanced so often."""

    def __init__(self, advances: int) -> None:
        self.left = advances

    def advance(self, count: float = 1, **fields: float | int | str) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


class KilledProgress:
    """Ends the run in the middle of the bar of this name."""

    def __init__(self, label: str, advances: int) -> None:
        self.label, self.advances = label, advances

    def start(self, label: str, total: float | None, unit: str, done: float) -> Task:
        return KilledTask(self.advances if label == self.label else -1)

    def finish(self, task: Task, *, completed: bool = True) -> None:
        pass

    def say(self, line: str) -> None:
        pass


@pytest.mark.parametrize(
    ("kind", "trunk", "label", "advances"),
    [
        ("ppm", "separate", "train", 3),
        ("ppm", "shared", "train", 3),
        ("q_regression", "separate", "score held-out nodes", 1),
    ],
)
def test_a_killed_run_continues_to_the_same_model_log_and_calibration(
    kind: str, trunk: str, label: str, advances: int, inputs: dict[str, Path], tmp_path: Path
) -> None:
    train = TRAIN.model_copy(update={"checkpoint_every_s": 0.0})
    options = {"kind": kind, "trunk": trunk, "epochs": 1, "train": train}
    whole = run_stage(tmp_path / "whole", inputs, **options)
    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path / "killed", inputs, progress=KilledProgress(label, advances), **options)
    with pytest.raises(DataError):
        load_reward_model(tmp_path / "killed" / "model")
    continued = run_stage(tmp_path / "killed", inputs, **options)

    def read(name: str) -> Iterator[bytes]:
        return ((tmp_path / run / name).read_bytes() for run in ("whole", "killed"))

    weights = "model.safetensors" if trunk == "separate" else "adapter_model.safetensors"
    for name in (f"model/{weights}", "model/reward_model.json", HELD_OUT):
        ours, theirs = read(name)
        assert ours == theirs
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "killed")
    assert continued.facts == whole.facts
    assert replace(continued.ledger, seconds=0.0) == replace(whole.ledger, seconds=0.0)


def test_trees_that_teach_nothing_say_why(inputs: dict[str, Path], tmp_path: Path) -> None:
    easy = [build_tree([Line(None, "7", 1.0, "correct")], content_hash(number)) for number in range(20)]
    folder = save_tree_stage(tmp_path / "trees", inputs["sft"], easy)
    with pytest.raises(ConfigError, match=r"nothing for a reward model of kind 'ppm'.*'all_right'"):
        run_stage(tmp_path, {**inputs, "trees": folder})


def test_too_few_problems_to_hold_some_out_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="of 40 problems that may be learned from, 0 are held out"):
        run_stage(tmp_path, inputs, held_out_frac=1e-9)


def test_trees_in_another_prompt_format_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    folder = save_tree_stage(tmp_path / "trees", inputs["sft"], [draw_tree(0)])
    policy = describe_policy(load_codec(inputs["sft"] / "model"), PLAIN_PROSE, "m")
    write_json(folder / POLICY, asdict(policy))
    with pytest.raises(ConfigError, match="another prompt format"):
        run_stage(tmp_path, {**inputs, "trees": folder})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "orm", "beta": 2.0}, "kind 'orm' makes no use of beta"),
        ({"kind": "q_regression", "comparison": "logits"}, "makes no use of comparison"),
        ({"train": {"z_loss_weight": 1e-4}}, "z_loss_weight goes with cross-entropy"),
        ({"kind": "vote"}, "ppm"),
        ({"lora_rank": 4}, "a separate trunk makes no use of lora_rank; set trunk: shared"),
        ({"trunk": "shared", "lora_rank": -1}, "lora_rank"),
        ({"trunk": "merged"}, "separate"),
        ({"held_out_frac": 0}, "held_out_frac"),
        ({"trees": ()}, "trees"),
    ],
)
def test_options_that_would_do_nothing_or_make_no_sense_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, ValidationError), match=message):
        reward_model.Config(**{"trees": ("trees",), **options})


def test_the_stage_plans_as_a_recipe(inputs: dict[str, Path]) -> None:
    sft = {"name": "sft", "use": "import_model", "path": str(inputs["sft"] / "model")}
    search = {
        "name": "trees",
        "use": "search",
        "model": "sft",
        "sources": [{"task": "quantities", "count": 4}],
    }
    trained = {"name": "ppm", "use": "reward_model", "model": "sft", "trees": ["trees"]}
    stages = plan_recipe(build_recipe(sft, search, trained), Path())
    assert stages[-1].needs == ("sft", "trees")
