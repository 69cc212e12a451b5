"""Strategies measured on a real tiny model: from the command line, by a stage, and in a run's summary and report."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoConfig, AutoModelForSequenceClassification

from ponderosa.adapter_directory import save_adapter
from ponderosa.artifacts import read_json, read_table
from ponderosa.config import parse_config
from ponderosa.errors import ConfigError
from ponderosa.formats import CHAT_CODE, load_format
from ponderosa.model_directory import load_model, load_tokenizer, save_model
from ponderosa.report.page import write_report
from ponderosa.report.table import list_stage_lines
from ponderosa.reward_model_directory import Calibration, RewardFile, save_reward_file
from ponderosa.search.driver import build_context as build_search_context
from ponderosa.search.registry import CLASSES
from ponderosa.search.solution import Limits
from ponderosa.stages import evaluate, measuring
from ponderosa.training.output_head import build_shared_reward_model
from test_cli import Cli, cli, model
from test_stages import build_context
from tiny_runs import EVALUATE_BASE, EVALUATE_SFT, GROWN, SFT, SUITES, run_tiny

__all__ = ["cli", "model"]
QUESTION = "Tom has 3 apples. How many apples has Tom?"
SMALL = ("--samples", "4", "--max-tokens", "12")
SCORED = [name for name, cls in CLASSES.items() if cls.reward_model != "none"]


@pytest.fixture(scope="module")
def reward_model(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model of the policy's shape and tokenizer, with random weights."""
    folder = tmp_path_factory.mktemp("reward_model") / "model"
    config = AutoConfig.from_pretrained(model)
    config.num_labels, config.initializer_range = 1, 0.5
    classifier = AutoModelForSequenceClassification.from_config(config)
    save_model(folder, classifier, load_tokenizer(model), load_format(model))
    calibration = Calibration(scores=(-4.0, 4.0), values=(-1.0, 1.0))
    save_reward_file(folder, RewardFile(kind="ppm", calibration=calibration))
    return folder


@pytest.mark.parametrize("strategy", SCORED)
def test_every_strategy_that_takes_a_reward_model_is_measured_with_one(
    strategy: str, model: Path, reward_model: Path, cli: Cli, tmp_path: Path
) -> None:
    out = tmp_path / "rows.json"
    arguments = [
        "--suite",
        "quantities",
        "--limit",
        "2",
        "--strategy",
        strategy,
        "--reward-model",
        reward_model,
    ]

    code, output, errors = cli("evaluate", model, *arguments, *SMALL, "--json", out, "-q")

    assert (code, errors) == (0, "")
    assert "accuracy" in output
    rows = json.loads(out.read_text())["rows"]
    assert {row["metric"] for row in rows} >= {"accuracy", "mean_computed_tokens"}
    for row in rows:
        assert (row["strategy"], row["reward_model"]) == (strategy, "model")
        assert row["samples"] >= 4
        assert row["eval_flops"] > 0
    whole = next(row for row in rows if row["slice"] == "all" and row["metric"] == "mean_computed_tokens")
    counted = whole["prefill_tokens"] + whole["generated_tokens"] + whole["scored_tokens"]
    assert whole["value"] == counted / whole["n"]


def test_solve_takes_the_parameters_of_a_strategy(model: Path, reward_model: Path, cli: Cli) -> None:
    options = ["--strategy", "mcts", "--search", "simulations=2", "--search", "selection.rule=puct"]

    code, output, errors = cli("solve", model, QUESTION, *SMALL, *options, "--reward-model", reward_model)

    assert (code, errors) == (0, "")
    assert output.splitlines()[-1].startswith("answer: ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--strategy", "best_of_n"], ["'best_of_n' needs a reward model", "--reward-model DIR", "majority"]),
        (
            ["--strategy", "majority", "--reward-model", "x"],
            ["'majority' does not use a reward model", "mcts"],
        ),
        (["--strategy", "beam", "--search", "widht=2"], ["unknown key 'widht'", "did you mean 'width'"]),
        (["--strategy", "beam", "--search", "width"], ["--search 'width'", "write path=value"]),
        (["--strategy", "beams"], ["unknown strategy 'beams'", "did you mean 'beam'"]),
    ],
)
def test_what_does_not_go_together_is_refused_before_a_model_is_loaded(
    options: list[str], said: list[str], cli: Cli
) -> None:
    for command in (["solve", "nowhere", QUESTION], ["evaluate", "nowhere", "--suite", "quantities"]):
        code, output, errors = cli(*command, *options)

        assert (code, output) == (2, "")
        for words in said:
            assert words in errors


def test_a_directory_that_is_no_reward_model_is_named(model: Path, cli: Cli) -> None:
    code, _, errors = cli("solve", model, QUESTION, "--strategy", "best_of_n", "--reward-model", model)
    assert code == 2
    assert "is no reward model directory" in errors


def test_a_reward_model_of_another_prompt_format_is_refused(
    model: Path, reward_model: Path, cli: Cli, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    config = AutoConfig.from_pretrained(reward_model)
    save_model(
        other, AutoModelForSequenceClassification.from_config(config), load_tokenizer(model), CHAT_CODE
    )
    save_reward_file(other, RewardFile(kind="orm", calibration=Calibration(scores=(0.0,), values=(0.0,))))

    code, _, errors = cli("solve", model, QUESTION, "--strategy", "best_of_n", "--reward-model", other)

    assert code == 2
    assert "has another" in errors


def test_an_adapter_scores_for_the_policy_it_was_trained_on_and_is_refused_where_that_is_gone(
    model: Path, cli: Cli, tmp_path: Path
) -> None:
    copied, folder, other = (tmp_path / name for name in ("copied", "adapter", "other"))
    shutil.copytree(model, copied)
    adapted = build_shared_reward_model(load_model(model), rank=2, alpha=4.0, pad_token_id=0, seed=0)
    save_adapter(folder, adapted, copied, rank=2, alpha=4.0)
    save_reward_file(folder, RewardFile(kind="ppm", calibration=Calibration(scores=(0.0,), values=(0.0,))))
    shutil.rmtree(copied)
    options = [QUESTION, "--strategy", "best_of_n", *SMALL, "--reward-model", folder]
    assert cli("solve", model, *options)[0] == 0

    save_model(other, load_model(model), load_tokenizer(model), CHAT_CODE)
    code, _, errors = cli("solve", other, *options)
    assert code == 2
    assert "is an adapter on a policy whose content has hash" in errors
    assert "copied does not exist" in errors


# The stage


def parse(*suites: dict[str, Any], **values: Any) -> evaluate.Config:
    values = {"model": "base", "suites": [{**SUITES[0], **suite} for suite in suites], **values}
    return parse_config(evaluate.Config, values, where="stage")


def test_a_stage_measures_strategies_with_reward_models_of_other_stages(
    model: Path, reward_model: Path, tmp_path: Path
) -> None:
    config = parse(
        {"strategy": "best_of_n", "samples": 2, "reward_model": "ppm"},
        {"strategy": "beam", "samples": 4, "search": {"width": 2, "token_budget": 60}},
        {"strategy": "beam", "samples": 4, "reward_model": "ppm", "label": "scored"},
        {},
        max_tokens=12,
        num_slots=4,
    )
    assert [need.product for need in config.needs()] == ["model", "reward_model", "reward_model"]
    inputs = {"base": model.parent, "ppm": reward_model.parent}

    outcome = evaluate.run(config, build_context(tmp_path / "stage", inputs))

    rows = [row for row in read_json(tmp_path / "stage" / "rows.json")["rows"] if row["slice"] == "all"]
    shown = {(row["suite"], row["strategy"]): row for row in rows if row["metric"] in ("accuracy", "pass@1")}
    assert [(key, row["metric"], row["samples"], row["reward_model"]) for key, row in shown.items()] == [
        (("quantities", "best_of_n"), "accuracy", 2, "ppm"),
        (("quantities", "beam"), "accuracy", 4, None),
        (("scored", "beam"), "accuracy", 4, "ppm"),
        (("quantities", "greedy"), "pass@1", 1, None),
    ]
    assert outcome.ledger.scored_tokens == sum(row["scored_tokens"] for row in shown.values())
    assert outcome.ledger.eval_flops == pytest.approx(sum(row["eval_flops"] for row in shown.values()))
    attempts = read_table(tmp_path / "stage" / "attempts" / "quantities-best_of_n.parquet")
    assert len({attempt["problem_id"] for attempt in attempts}) == len(attempts) == SUITES[0]["limit"]


def test_a_stage_bounds_the_steps_of_a_solution(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Limits] = []

    def note(*arguments: Any, **options: Any) -> Any:
        seen.append(options["limits"])
        return build_search_context(*arguments, **options)

    monkeypatch.setattr(measuring, "build_context", note)
    config = parse({}, max_tokens=12, max_steps=3, num_slots=4)
    evaluate.run(config, build_context(tmp_path / "stage", {"base": model.parent}))
    assert seen == [Limits(max_tokens=12, max_steps=3)]


def test_the_stage_in_the_documentation_is_one() -> None:
    page = (Path(__file__).parents[1] / "docs" / "search.md").read_text("utf-8")
    text, _ = re.findall(r"^```yaml\n(.*?)^```", page, re.S | re.M)
    (stage,) = yaml.safe_load(text)
    values = {key: stage[key] for key in ("model", "suites")}
    config = parse_config(evaluate.Config, values, where="search.md")
    assert [item.settled_from for item in config.suites] == [64, 64, 16, 16]


@pytest.mark.parametrize(
    ("suite", "said"),
    [
        ({"strategy": "best_of_n"}, "needs a reward model"),
        ({"strategy": "greedy", "reward_model": "ppm"}, "does not use a reward model"),
        ({"strategy": "beam", "search": {"widht": 2}}, "did you mean 'width'"),
    ],
)
def test_a_stage_refuses_what_does_not_go_together(suite: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(suite)


def test_what_strategies_settle_on_is_tested_over_seeds_and_reported(tmp_path: Path) -> None:
    budgeted = [{**SUITES[0], "strategy": "majority", "samples": 4, "search": {"token_budget": 60}}]
    stages = [{**stage, "suites": budgeted} for stage in (EVALUATE_BASE, EVALUATE_SFT)]
    summary = read_json(run_tiny(tmp_path / "run", *GROWN, {**SFT, "model": "base"}, *stages, seeds=[0, 1]))

    assert {test["metric"] for test in summary["tests"]} == {"accuracy"}
    joint = [row for row in summary["rows"] if row.get("seeds") and row["slice"] == "all"]
    assert {row["metric"] for row in joint} >= {"accuracy", "mean_computed_tokens"}
    lines = list_stage_lines(summary["rows"], summary["tests"])
    assert [(line.stage, line.row["metric"], line.test is None) for line in lines] == [
        ("base", "accuracy", True),
        ("sft", "accuracy", False),
    ]
    assert "accuracy" in write_report(tmp_path / "run").read_text()
