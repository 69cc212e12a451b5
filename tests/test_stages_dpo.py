"""Pairs and rollout DPO: what the stages read, write and refuse, and that a killed one continues to the same model."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ponderosa.artifacts import Journal, read_json, read_table, write_json
from ponderosa.data.pair_rows import build_pair_row
from ponderosa.data.preferences import PairRules
from ponderosa.errors import ConfigError
from ponderosa.hash_cache import hash_directory
from ponderosa.model_directory import load_model
from ponderosa.planning import plan_recipe
from ponderosa.progress import SILENT, Task
from ponderosa.stages import dpo, pairs
from ponderosa.stages.scoring import build_scorer, score_rows
from ponderosa.stages.stage import Context, Outcome
from tiny_pairs import save_tiny_model, save_tiny_rollouts
from tiny_runs import build_recipe

TRAIN = dpo.DPOTraining(
    optimizer=dpo.DPOOptimizer(learning_rate=1e-2), dtype="float32", checkpoint_every_s=0.0
)


def build_context(folder: Path, inputs: dict[str, Path], **changes: Any) -> Context:
    context = Context("stage", folder, inputs, folder, 0, "cpu", "float32", 1, SILENT)
    return replace(context, **changes)


def run_pairs(folder: Path, inputs: dict[str, Path], **changes: Any) -> Outcome:
    """The stage as the pipeline runs it, its facts where later stages look for them."""
    config = pairs.Config(**{"rollouts": ("rollouts",), "reference": "sft", **changes})
    outcome = pairs.run(config, build_context(folder, inputs))
    write_json(folder / "manifest.json", {"facts": outcome.facts})
    return outcome


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model, rollouts it made, and the pairs of these."""
    root = tmp_path_factory.mktemp("dpo")
    folders = {"sft": save_tiny_model(root / "sft")}
    folders["rollouts"] = save_tiny_rollouts(root / "rollouts", folders["sft"])
    folders["pairs"] = root / "pairs"
    run_pairs(folders["pairs"], folders)
    return folders


# Pairs


def test_pairs_hold_what_the_reference_makes_of_every_sampled_token(inputs: dict[str, Path]) -> None:
    model = load_model(inputs["sft"] / "model")
    loaded = pairs.load_pairs(inputs["pairs"])
    assert len(loaded) == 8 * 4
    for one in loaded[:6]:
        for ids, weights, logprobs in (
            (one.pair.chosen_ids, one.pair.chosen_weights, one.chosen_logprobs),
            (one.pair.rejected_ids, one.pair.rejected_weights, one.rejected_logprobs),
        ):
            begin = len(one.pair.prompt_ids) - 1
            with torch.no_grad():
                logits_TV = model(torch.tensor([one.pair.prompt_ids + ids])).logits[0, begin:-1]
            expected_T = logits_TV.log_softmax(-1)[torch.arange(len(ids)), list(ids)]
            expected_T = torch.where(torch.tensor(weights) > 0, expected_T, 0.0)
            assert logprobs == pytest.approx(expected_T.tolist(), abs=1e-5)


def test_every_attempt_is_counted_and_the_reference_is_named(inputs: dict[str, Path], tmp_path: Path) -> None:
    outcome = run_pairs(tmp_path, inputs, rules=PairRules(pairs_per_problem=1))
    assert outcome.kept == 16
    assert outcome.kept + sum(outcome.dropped.values()) == 8 * 6
    assert outcome.facts["pairs"] == 8
    assert outcome.facts["problems_without_pair"] == {}
    assert outcome.facts["reference"] == hash_directory(inputs["sft"] / "model")
    assert outcome.ledger.scored_tokens > 0
    assert outcome.ledger.eval_flops > 0


def test_scores_found_in_the_journal_are_not_computed_again(inputs: dict[str, Path], tmp_path: Path) -> None:
    rows = [build_pair_row(one.pair) for one in pairs.load_pairs(inputs["pairs"])][:12]
    scorer = build_scorer(load_model(inputs["sft"] / "model"), "float32", None)

    def score(journal: Journal) -> list[tuple[float, ...]]:
        return score_rows(scorer, rows, label="score", progress=SILENT, journal=journal, unit_rows=5)

    with Journal(tmp_path / "journal.jsonl") as journal:
        whole = score(journal)
        assert [len(unit) for unit in journal.units.values()] == [5, 5, 2]
    lines = (tmp_path / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "journal.jsonl").write_bytes(b"".join(lines[:9]))
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.units["score 0"][0]["scores"][-1] = 1.0
        again = score(journal)
    assert again[0] == (*whole[0][:-1], 1.0)
    assert again[1:] == whole[1:]


def test_a_stage_killed_anywhere_continues_to_the_same_pairs_and_outcome(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    many = {**inputs, "rollouts": save_tiny_rollouts(tmp_path / "many", inputs["sft"], num_problems=75)}

    def pair(folder: Path) -> Outcome:
        return run_pairs(folder, many, rules=PairRules(pairs_per_problem=8, rejected="random"))

    whole = pair(tmp_path / "whole")
    journal = (tmp_path / "whole" / "journal.jsonl").read_bytes()
    ends = [found.end() for found in re.finditer(rb'"unit":.*\n', journal)]
    assert len(ends) == 3
    for cut in (ends[0] - 1, (ends[0] + ends[1]) // 2, ends[2]):
        folder = tmp_path / f"cut-{cut}"
        folder.mkdir()
        (folder / "journal.jsonl").write_bytes(journal[:cut])
        assert pair(folder) == whole
        assert pairs.load_pairs(folder) == pairs.load_pairs(tmp_path / "whole")
        assert read_table(folder / pairs.TABLE) == read_table(tmp_path / "whole" / pairs.TABLE)
        assert (folder / "journal.jsonl").read_bytes() == journal


def test_rollouts_without_a_pair_say_why(inputs: dict[str, Path], tmp_path: Path) -> None:
    one_each = {**inputs, "rollouts": save_tiny_rollouts(tmp_path / "one", inputs["sft"], samples=1)}
    with pytest.raises(ConfigError, match=r"give no pair.*'all_correct': 8"):
        run_pairs(tmp_path / "pairs", one_each)


def test_attempts_longer_than_the_references_context_are_counted(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    longest = max(
        len(one.pair.prompt_ids) + len(ids)
        for one in pairs.load_pairs(inputs["pairs"])
        for ids in (one.pair.chosen_ids, one.pair.rejected_ids)
    )
    short = {**inputs, "sft": save_tiny_model(tmp_path / "short", context=longest - 1)}
    outcome = run_pairs(tmp_path / "pairs", short)
    assert outcome.dropped["longer_than_context"] > 0
    assert outcome.kept + sum(outcome.dropped.values()) == 8 * 6


# DPO


def run_dpo(folder: Path, inputs: dict[str, Path], **changes: Any) -> Outcome:
    how = {name: changes.pop(name) for name in ("progress", "dtype") if name in changes}
    config = dpo.Config(**{"pairs": ("pairs",), "train": TRAIN, "tokens_per_step": 300, **changes})
    return dpo.run(config, build_context(folder, inputs, **how))


def read_log(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "tokens_per_s"} for line in lines]


@pytest.mark.parametrize("options", [{"sft_weight": 0.1}, {"loss": "kto"}])
def test_training_on_pairs_makes_their_margins_positive(
    options: dict[str, Any], inputs: dict[str, Path], tmp_path: Path
) -> None:
    outcome = run_dpo(tmp_path, inputs, epochs=4, **options)
    log, margins = read_log(tmp_path), read_json(tmp_path / dpo.MARGINS)

    assert abs(log[0]["margin"]) < 1e-5
    assert margins["trained"]["margin"] > 0.1
    assert margins["trained"]["accuracy"] == outcome.facts["accuracy"] > 0.7
    assert {"loss", "accuracy", "chosen_reward", "rejected_reward"} <= log[0].keys()
    assert ("kl_baseline" in log[0]) == ("loss" in options)
    assert sum(one["pairs"] for one in margins["trained"]["bins"]) == outcome.facts["pairs"] == 32
    assert outcome.kept == 4 * 32
    load_model(tmp_path / "model")


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


@pytest.mark.parametrize("loss", ["sigmoid", "kto"])
@pytest.mark.parametrize(("label", "advances"), [("train", 3), ("score margins", 1)])
def test_a_killed_run_continues_to_the_same_model_log_and_margins(
    loss: str, label: str, advances: int, inputs: dict[str, Path], tmp_path: Path
) -> None:
    whole = run_dpo(tmp_path / "whole", inputs, loss=loss)
    with pytest.raises(KeyboardInterrupt):
        run_dpo(tmp_path / "killed", inputs, loss=loss, progress=KilledProgress(label, advances))
    continued = run_dpo(tmp_path / "killed", inputs, loss=loss)

    def read(name: str) -> Iterator[bytes]:
        return ((tmp_path / run / name).read_bytes() for run in ("whole", "killed"))

    for name in ("model/model.safetensors", dpo.MARGINS):
        ours, theirs = read(name)
        assert ours == theirs
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "killed")
    assert continued.facts == whole.facts
    assert continued.ledger.train_flops == whole.ledger.train_flops


def test_pairs_scored_by_another_model_are_refused_with_the_remedy(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    others = {**inputs, "sft": save_tiny_model(tmp_path / "other", seed=1)}
    with pytest.raises(ConfigError, match="give stage 'pairs' `reference: sft`"):
        run_dpo(tmp_path / "run", others)


@pytest.mark.parametrize(
    "how", [{"dtype": "bfloat16"}, {"dtype": "auto", "train": dpo.DPOTraining(dtype="bfloat16")}]
)
def test_pairs_scored_in_another_dtype_are_refused_with_the_remedy(
    how: dict[str, Any], inputs: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"scored in float32, .* compute in bfloat16, .* --dtype float32"):
        run_dpo(tmp_path / "run", inputs, **how)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "kto", "sft_weight": 0.1}, "loss 'kto' makes no use of sft_weight"),
        ({"desirable_weight": 2.0}, "loss 'sigmoid' makes no use of desirable_weight"),
        ({"train": {"z_loss_weight": 1e-4}}, "z_loss_weight goes with cross-entropy"),
        ({"loss": "ipo"}, "sigmoid"),
        ({"beta": 0}, "beta"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
    ],
)
def test_options_that_would_do_nothing_or_make_no_sense_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, ValidationError), match=message):
        dpo.Config(pairs=("pairs",), **options)


def test_a_recipe_may_change_one_value_of_training_and_keeps_the_small_steps() -> None:
    config = dpo.Config.model_validate({"pairs": ["pairs"], "train": {"optimizer": {"beta2": 0.99}}})
    assert (config.train.optimizer.name, config.train.optimizer.learning_rate) == ("adamw", 5e-7)


def test_the_stages_plan_as_a_recipe(inputs: dict[str, Path]) -> None:
    sft = {"name": "sft", "use": "import_model", "path": str(inputs["sft"] / "model")}
    rollout = {
        "name": "rollouts",
        "use": "rollout",
        "model": "sft",
        "sources": [{"task": "quantities", "count": 4}],
    }
    paired = {"name": "pairs", "use": "pairs", "rollouts": ["rollouts"], "reference": "sft"}
    trained = {"name": "dpo", "use": "dpo", "model": "sft", "pairs": ["pairs"]}
    stages = plan_recipe(build_recipe(sft, rollout, paired, trained), Path())
    assert [stage.needs for stage in stages[2:]] == [("rollouts", "sft"), ("sft", "pairs")]
