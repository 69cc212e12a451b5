"""The rollout stage: what it keeps, that a killed one continues to the same tables, and training on what it kept."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ponderosa.artifacts import read_json, read_table
from ponderosa.config import parse_config
from ponderosa.data.rollouts import RolloutRules
from ponderosa.data.rows import build_attempt_row
from ponderosa.engines.codec import load_codec
from ponderosa.engines.loading import load_engine
from ponderosa.engines.protocol import Sampling
from ponderosa.errors import ConfigError
from ponderosa.formats import PLAIN_CODE, PLAIN_PROSE, load_format
from ponderosa.model_directory import load_tokenizer
from ponderosa.records import GradedAttempt, Problem
from ponderosa.search.budgets import Budget
from ponderosa.search.driver import build_context as build_search_context
from ponderosa.search.solution import Limits
from ponderosa.stages import rollout
from ponderosa.stages.policy import check_same_ids, describe_policy
from ponderosa.stages.rollout import load_rollouts, sample_rollouts
from ponderosa.stages.training_data import SolutionData, build_training_rows
from test_stages import build_context
from tiny_pairs import save_tiny_model, save_tiny_rollouts
from tiny_runs import FAMILY, GROWN, find_stage, run_tiny, save_foreign_model

SEVENS = '''
"""Problems that a very small model can learn: the answer is always 7."""

from ponderosa.records import Problem, Step
from ponderosa.tasks.worked import WorkedSolution


class Sevens:
    def generate(self, count, seed, split):
        for i in range(count):
            yield Problem(f"Say seven, {split} {seed % 1000}{i}.", "7")

    def work_out(self, problem):
        return WorkedSolution((Step("print(7)", "print(7)"),), "It is 7. #### 7")


SEVENS = Sevens()
'''
TASK = {"task": "sevens.py:SEVENS"}
TRAIN = {"optimizer": {"name": "adamw", "learning_rate": 0.02}, "schedule": {"warmup_frac": 0.1}}
ASKED = {"strategy": "greedy", "max_tokens": 40, "num_slots": 16}
WORKED = {"name": "sevens", "use": "solutions", "sources": [{**TASK, "count": 60}]}
POLICY = {
    "name": "policy",
    "use": "sft",
    "model": "base",
    "data": {"solutions": ["sevens"], "few_shot_frac": 0},
    "epochs": 20,
    "tokens_per_step": 600,
    "train": TRAIN,
}
ROLLED = {"name": "rolled", "use": "rollout", "model": "policy", "sources": [{**TASK, "count": 40}], **ASKED}
REDISTILLED = {
    "name": "redistilled",
    "use": "sft",
    "model": "base",
    "data": {"rollouts": ["rolled"], "select": {"per_problem": 1}},
    "epochs": 30,
    "tokens_per_step": 600,
    "train": TRAIN,
}
FRESH = [{**TASK, "count": 20, "split": "selection"}]
BEFORE = {"name": "before", "use": "rollout", "model": "base", "sources": FRESH, **ASKED}
AFTER = {"name": "after", "use": "rollout", "model": "redistilled", "sources": FRESH, **ASKED}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rollouts")
    (folder / "sevens.py").write_text(SEVENS)
    run_tiny(folder / "run", *GROWN, WORKED, POLICY, ROLLED, REDISTILLED, BEFORE, AFTER)
    return folder / "run"


def parse(values: Mapping[str, Any]) -> rollout.Config:
    return parse_config(
        rollout.Config, {"model": "policy", "sources": [{**TASK, "count": 8}], **values}, where="x"
    )


def read_tables(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {path.name: read_table(path) for path in folder.glob("*.parquet")}


def test_a_base_trained_on_the_greedy_solutions_of_a_policy_solves_what_the_policy_does(run: Path) -> None:
    rates = {
        name: read_json(find_stage(run, name) / "manifest.json")["facts"]["solve_rate"]["value"]
        for name in ("before", "rolled", "after")
    }
    assert rates["before"] == 0.0
    assert rates["rolled"] >= 0.95
    assert rates["after"] >= 0.95
    asked = [
        {problem.id for problem, _ in load_rollouts(find_stage(run, name))} for name in ("rolled", "after")
    ]
    assert asked[0].isdisjoint(asked[1])


def test_rows_made_of_rollouts_are_the_ids_that_were_sampled(run: Path) -> None:
    groups = load_rollouts(find_stage(run, "rolled"))
    model_dir = find_stage(run, "base") / "model"
    context = build_context(run, {"rolled": find_stage(run, "rolled")})

    rows, dropped = build_training_rows(
        SolutionData(rollouts=("rolled",)), load_format(model_dir), load_codec(model_dir), context
    )

    correct = [
        build_attempt_row(one.attempt) for group in groups for one in group.graded if one.verdict.correct
    ]
    assert sorted(row.token_ids for row in rows) == sorted(row.token_ids for row in correct)
    assert all(set(row.loss_weights) == {0.0, 1.0} for row in rows)
    assert dropped == {}


def test_every_rollout_is_a_row_or_in_the_table_of_those_rejected_with_its_reason(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "sft")
    folder = save_tiny_rollouts(tmp_path / "rolled", model)
    data = SolutionData(rollouts=("rolled",), select=RolloutRules(per_problem=1))

    rows, dropped = build_training_rows(
        data, PLAIN_CODE, load_codec(model / "model"), build_context(tmp_path / "stage", {"rolled": folder})
    )

    table = read_table(tmp_path / "stage" / "rejected.parquet")
    assert Counter(f"{row['stage']}: {row['reason']}" for row in table) == dropped
    reasons = {(row["problem_id"], row["sample"]): row["reason"] for row in table}
    attempts = [one for group in load_rollouts(folder) for one in group.graded]
    assert len(reasons) + len(rows) == len(attempts) == 48
    for attempt, verdict in attempts:
        reason = reasons.get((attempt.problem_id, attempt.sample))
        assert (reason == "wrong_answer") == (not verdict.correct)
        assert reason != "over_limit" or attempt.sample == 3
        assert reason is not None or attempt.prompt_ids + attempt.token_ids in {row.token_ids for row in rows}


@pytest.mark.parametrize("budget", [Budget("fixed", 4, wave=4), Budget("pass_until", 5, target=2)])
def test_a_rollout_killed_anywhere_continues_to_the_same_attempts(
    budget: Budget, run: Path, tmp_path: Path
) -> None:
    model_dir = find_stage(run, "policy") / "model"
    engine = load_engine(model_dir, device="cpu", num_slots=8)
    search_context = build_search_context(
        engine, load_format(model_dir), sampling=Sampling(1.7), limits=Limits(max_tokens=14)
    )
    problems = [Problem(f"Say seven, train {i}.", "7") for i in range(12)]

    def roll_out(name: str) -> list[GradedAttempt]:
        context = build_context(tmp_path / name)
        return sample_rollouts(
            engine, problems, budget, search_context, context, unit_attempts=4 * budget.wave
        )

    whole = roll_out("whole")
    journal = (tmp_path / "whole" / "journal.jsonl").read_bytes()
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "journal.jsonl").write_bytes(journal[: len(journal) // 2])

    assert roll_out("killed") == whole
    assert {one.verdict.correct for one in whole} == {True, False}
    assert (tmp_path / "killed" / "journal.jsonl").read_bytes() == journal


def test_a_stage_killed_after_its_tables_writes_the_same_ones(run: Path, tmp_path: Path) -> None:
    config = parse({"samples": 3, "max_tokens": 14, "num_slots": 8, "temperature": 1.5})
    context = build_context(tmp_path, {"policy": find_stage(run, "policy")}, base=run.parent)
    first = rollout.run(config, context)
    tables = read_tables(tmp_path)

    assert rollout.run(config, context) == first
    assert read_tables(tmp_path) == tables
    assert {name: len(rows) for name, rows in tables.items()} == {
        "problems.parquet": 8,
        "attempts.parquet": 24,
        "verdicts.parquet": 24,
        "solve_rates.parquet": 8,
    }


def test_attempts_keep_ids_both_logprobs_verdict_and_cost(run: Path) -> None:
    (problem, graded), *_ = load_rollouts(find_stage(run, "rolled"))
    (attempt, verdict), *_ = graded
    assert problem.answer == "7"
    assert verdict.verifier.startswith("answer@")
    assert len(attempt.token_ids) == len(attempt.model_logprobs) == len(attempt.sampling_logprobs)
    assert attempt.sampled.count(False) > 0
    assert attempt.cost.generated_tokens == attempt.sampled.count(True)
    rate = read_table(find_stage(run, "rolled") / "solve_rates.parquet")[0]
    assert rate["problem_id"] == problem.id
    assert rate["low"] < rate["posterior_mean"] < rate["high"]


def test_the_ledger_holds_what_all_attempts_cost(run: Path) -> None:
    ledger = read_json(find_stage(run, "rolled") / "manifest.json")["ledger"]
    rates = read_table(find_stage(run, "rolled") / "solve_rates.parquet")
    assert ledger["generated_tokens"] == sum(row["generated_tokens"] for row in rates) > 0
    assert ledger["eval_flops"] == pytest.approx(sum(row["flops"] for row in rates))
    assert ledger["executions"] == 40


# What is refused


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sources": [{**TASK, "split": "test"}]}, "'train' or 'selection'"),
        ({"sources": []}, "nothing to ask"),
        ({"limit": 3}, "for the problems of `solutions`"),
        ({"strategy": "greedy", "budget": "stop_on_success"}, "greedy gives the same again"),
        ({"budget": "pass_until"}, "give both or neither"),
        ({"target": 2}, "give both or neither"),
        ({"budget": "pass_until", "target": 9}, "can never be met in 8"),
        ({"wave": 2}, "a fixed one draws all"),
        ({"temperature": 0}, "greater than 0"),
    ],
)
def test_a_request_that_cannot_be_meant_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(values)


def test_problems_kept_for_reports_are_not_rolled_out(run: Path, tmp_path: Path) -> None:
    kept = {
        **WORKED,
        "name": "kept",
        "sources": [{"task": "quantities", "split": "test", "count": 3, "options": FAMILY}],
    }
    rolled = {"use": "rollout", "model": "base", "solutions": ["kept"], **ASKED}
    with pytest.raises(ConfigError, match="split 'test', which is kept for reports"):
        run_tiny(run, *GROWN, kept, rolled)


def test_a_problem_asked_twice_and_a_row_that_is_none_are_counted(run: Path, tmp_path: Path) -> None:
    row = '{"question": "1 + 1?", "answer": "2", "split": "train"}\n'
    (tmp_path / "one.jsonl").write_text(row + '{"answer": 3}\n')
    (tmp_path / "two.jsonl").write_text(row)
    config = parse({"sources": [{"task": "one.jsonl"}, {"task": "two.jsonl"}], **ASKED})

    outcome = rollout.run(
        config, build_context(tmp_path / "stage", {"policy": find_stage(run, "policy")}, base=tmp_path)
    )

    assert outcome.facts["problems"] == 1
    assert outcome.dropped == {"one.jsonl: 'question' is missing or empty": 1, "two.jsonl: asked already": 1}


def test_data_of_which_nothing_is_correct_is_refused_with_the_reasons(run: Path) -> None:
    model_dir = find_stage(run, "base") / "model"
    context = build_context(run, {"before": find_stage(run, "before")})
    with pytest.raises(ConfigError, match=r"no solution of before .* rejected were before: \w+ \d+"):
        build_training_rows(
            SolutionData(rollouts=("before",)), load_format(model_dir), load_codec(model_dir), context
        )


@pytest.mark.parametrize(
    ("values", "message"),
    [({}, "nothing to train on"), ({"solutions": ("a",), "select": {"per_problem": 1}}, "none are named")],
)
def test_training_data_must_name_what_it_reads(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(SolutionData, values, where="data")


def test_ids_of_another_tokenizer_or_format_are_refused(run: Path, tmp_path: Path) -> None:
    codec = load_codec(find_stage(run, "base") / "model")
    policy = describe_policy(codec, PLAIN_CODE, "m")
    check_same_ids(policy, codec, PLAIN_CODE, where="rolled")
    with pytest.raises(ConfigError, match="of rolled were written with another prompt format"):
        check_same_ids(policy, codec, PLAIN_PROSE, where="rolled")
    foreign = load_codec(save_foreign_model(tmp_path / "foreign"))
    with pytest.raises(ConfigError, match="of rolled were written with another tokenizer"):
        check_same_ids(policy, foreign, PLAIN_CODE, where="rolled")


def test_a_tokenizer_saved_again_is_the_same_and_its_template_counts_in_a_chat_alone(tmp_path: Path) -> None:
    source = save_foreign_model(tmp_path / "foreign")
    tokenizer = load_tokenizer(source)
    tokenizer.save_pretrained(tmp_path / "again")
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(tmp_path / "other")
    codecs = {name: load_codec(tmp_path / name) for name in ("foreign", "again", "other")}
    assert codecs["again"].hash_content("chat") == codecs["foreign"].hash_content("chat")
    assert codecs["other"].hash_content("chat") != codecs["foreign"].hash_content("chat")
    assert codecs["other"].hash_content("plain") == codecs["foreign"].hash_content("plain")
