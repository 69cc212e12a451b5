"""The step_errors stage: what a reward model reads, what is measured of it, and against whom."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from ponderosa.artifacts import read_json, read_table, write_json
from ponderosa.config import parse_config
from ponderosa.data.rows import build_solution_row
from ponderosa.engines.codec import load_codec
from ponderosa.engines.scripted import ByteCodec
from ponderosa.errors import ConfigError
from ponderosa.evaluation.step_error_rows import ScoredSolution, describe_solution, summarise
from ponderosa.evaluation.step_errors import ScoredSteps, is_for_selection
from ponderosa.evaluation.summary import RowContext
from ponderosa.formats import CHAT_CODE, PLAIN_CODE, PLAIN_PROSE
from ponderosa.metrics import compute_wilson_interval
from ponderosa.model_directory import save_model
from ponderosa.planning import plan_runs
from ponderosa.progress import SILENT
from ponderosa.records import Cost, Problem, Step
from ponderosa.reward_model_directory import Calibration, RewardFile, load_reward_model, save_reward_file
from ponderosa.sandbox import Sandbox
from ponderosa.stages import step_errors
from ponderosa.stages.labelled_solutions import PlantedErrors, draw_planted, encode_prefixes
from ponderosa.stages.stage import Context, Outcome
from ponderosa.steps import render_steps
from ponderosa.summary import write_summary
from ponderosa.tasks.step_labels import LabelledSolution
from tiny_runs import FAMILY, GROWN, build_recipe
from tiny_training import TOKENIZER, build_tiny_model

PLANTED: dict[str, Any] = {"count": 40, "options": FAMILY}
CALIBRATION = Calibration(scores=(-100.0, 100.0), values=(-1.0, 1.0))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """A model this small computes slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two reward models of random weights, as their stages leave them."""
    root = tmp_path_factory.mktemp("step-errors")
    for seed, name in enumerate(("ppm", "orm")):
        config = build_tiny_model(context=1024).config
        config.num_labels, config.initializer_range = 1, 0.3
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = AutoModelForSequenceClassification.from_config(config)
        save_model(root / name / "model", model, TOKENIZER, PLAIN_CODE)
        save_reward_file(root / name / "model", RewardFile(kind=name, calibration=CALIBRATION))
        write_json(root / name / "manifest.json", {"ledger": {"train_flops": 5.0, "seconds": 7.0}})
    return root


def run_stage(root: Path, name: str, reward_model: str = "ppm", **changes: Any) -> Outcome:
    settings = {"reward_model": reward_model, "planted": PLANTED, **changes}
    config = parse_config(step_errors.Config, settings, where="test")
    inputs = {one.stage: root / one.stage for one in config.needs()}
    context = Context(name, root / name, inputs, root, 0, "cpu", "float32", 1, SILENT)
    write_json(root / name / "config.json", config.model_dump(mode="json"))
    return step_errors.run(config, context)


@pytest.fixture(scope="module")
def done(root: Path) -> tuple[Path, Outcome]:
    return root / "measured", run_stage(root, "measured")


def draw_solutions(count: int = 30) -> list[LabelledSolution]:
    with Sandbox(workers=1) as sandbox:
        return draw_planted(PlantedErrors(count=count, options=FAMILY), 0, sandbox).solutions


def test_prefixes_are_what_training_rows_of_the_same_steps_hold(root: Path) -> None:
    codec = load_codec(root / "ppm" / "model")
    for solution in draw_solutions():
        prefixes = encode_prefixes(solution, PLAIN_CODE, codec)
        assert len(prefixes) == len(solution.steps) + 1
        prompt_ids = tuple(codec.encode_prompt(PLAIN_CODE, solution.problem.question))
        assert prefixes[0] == prompt_ids
        for place in range(len(solution.steps)):
            segments = render_steps(solution.steps[: place + 1], PLAIN_CODE.delimiters)
            row = build_solution_row(prompt_ids, segments, codec.encode, eos_id=codec.eos_id)
            assert prefixes[place + 1] == row.token_ids[:-1]


def test_a_planted_solution_carries_what_its_code_printed() -> None:
    solutions = draw_solutions()
    assert {solution.is_answer_right for solution in solutions} == {True, False}
    for solution in solutions:
        assert solution.is_answer_right == (solution.first_error is None)
        printed = solution.steps[-1].observation
        assert printed is not None
        assert (printed == solution.problem.answer) == solution.is_answer_right


def test_prose_steps_are_comments_where_a_model_writes_code_and_lines_where_it_does_not() -> None:
    codec = ByteCodec()
    solution = LabelledSolution("x", Problem("2 + 2?"), (Step("Add.\nCarefully."), Step("It is 4.")), None)
    written = codec.decode(encode_prefixes(solution, PLAIN_CODE, codec)[-1])
    end = PLAIN_CODE.delimiters.end_of_step
    assert written.endswith(f"Solution:\n# Add.\n# Carefully.{end}# It is 4.{end}")
    assert codec.decode(encode_prefixes(solution, PLAIN_PROSE, codec)[-1]).endswith(
        "Solution:\nAdd.\nCarefully.\nIt is 4.\n"
    )
    fenced = PLAIN_CODE.model_copy(update={"delimiters": CHAT_CODE.delimiters})
    assert codec.decode(encode_prefixes(solution, fenced, codec)[1]).endswith(
        "```python\n# Add.\n# Carefully.\n```\n"
    )


def test_planted_code_is_not_put_to_a_model_that_reads_prose() -> None:
    solution = LabelledSolution("x", Problem("2 + 2?"), (Step("print(4)", "print(4)"),), None)
    with pytest.raises(ConfigError, match="set `planted: null`"):
        encode_prefixes(solution, PLAIN_PROSE, ByteCodec())


def test_every_score_is_that_of_a_whole_forward_pass(root: Path, done: tuple[Path, Outcome]) -> None:
    folder, outcome = done
    model, _, prompt_format, _ = load_reward_model(root / "ppm" / "model")
    codec = load_codec(root / "ppm" / "model")
    solutions = {solution.id: solution for solution in draw_solutions(40)}
    table = read_table(folder / step_errors.TABLE)
    assert {row["id"] for row in table} == solutions.keys()
    num_tokens = 0
    for row in table:
        prefixes = encode_prefixes(solutions[row["id"]], prompt_format, codec)
        num_tokens += len(prefixes[-1])
        with torch.inference_mode():
            expected = [float(model(torch.tensor([ids])).logits) / 100 for ids in prefixes]
        assert [row["prompt_score"], *row["step_scores"]] == pytest.approx(expected, abs=1e-5)
        assert row["first_error"] == solutions[row["id"]].first_error
    assert 0.5 * num_tokens < outcome.ledger.scored_tokens <= num_tokens
    assert outcome.ledger.eval_flops > outcome.ledger.scored_tokens


def test_rows_are_of_the_half_that_chose_no_threshold(done: tuple[Path, Outcome]) -> None:
    folder, outcome = done
    table = [row for row in read_table(folder / step_errors.TABLE) if not row["is_for_selection"]]
    rows = read_json(folder / "rows.json")["rows"]
    found = [row["found_drop"] for row in table if row["first_error"] is not None]
    (row,) = [
        row
        for row in rows
        if (row["slice"], row["strategy"], row["metric"]) == ("all", "drop", "erroneous_accuracy")
    ]
    assert (row["value"], row["n"]) == (pytest.approx(sum(found) / len(found)), len(found))
    assert (row["low"], row["high"]) == compute_wilson_interval(sum(found), len(found))
    assert (row["stage"], row["model"], row["suite"], row["train_flops"]) == ("ppm", "ppm", "planted", 5.0)
    assert {"all", "operations=1", "operations=2"} <= {row["slice"] for row in rows}
    assert outcome.facts["planted"]["solutions"] == outcome.kept == 40
    assert set(outcome.facts["planted"]["thresholds"]) == {"score", "drop"}
    assert read_json(folder / "tests.json") == []


def test_a_run_that_was_killed_goes_on_to_the_same_table(root: Path, done: tuple[Path, Outcome]) -> None:
    folder, outcome = done
    journal = root / "killed" / "journal.jsonl"
    journal.parent.mkdir()
    journal.write_bytes((folder / "journal.jsonl").read_bytes()[:-10])
    assert outcome.kept is not None
    assert outcome.kept > step_errors.UNIT_SOLUTIONS
    assert run_stage(root, "killed").ledger == outcome.ledger
    assert read_table(root / "killed" / step_errors.TABLE) == read_table(folder / step_errors.TABLE)


def test_a_runs_summary_holds_its_rows(done: tuple[Path, Outcome], tmp_path: Path) -> None:
    trees = {
        "name": "trees",
        "use": "search",
        "model": "base",
        "sources": [{"task": "quantities", "count": 9}],
    }
    reward = {"name": "ppm", "use": "reward_model", "model": "base", "trees": ["trees"]}
    measured = {"name": "measured", "use": "step_errors", "reward_model": "ppm", "planted": PLANTED}
    recipe = build_recipe(*GROWN, trees, reward, measured)
    stages = plan_runs(recipe, tmp_path)
    folder = tmp_path / "stages" / stages[-1].folder_name
    shutil.copytree(done[0], folder)
    (folder / "DONE").touch()
    summary = read_json(write_summary(tmp_path, recipe, stages))
    assert {(row["stage"], row["suite"], row["strategy"]) for row in summary["rows"]} == {
        ("ppm", "planted", "score"),
        ("ppm", "planted", "drop"),
    }
    assert {row["run"] for row in summary["rows"]} == {tmp_path.name}


def test_two_reward_models_are_compared_on_the_same_solutions(root: Path, done: tuple[Path, Outcome]) -> None:
    run_stage(root, "controls", reward_model="orm", compare_to="measured")
    tests = read_json(root / "controls" / "tests.json")
    assert [(test["a"], test["b"], test["strategy"]) for test in tests] == [
        ("ppm", "orm", "score"),
        ("ppm", "orm", "drop"),
    ]
    for test in tests:
        assert test["test"] == "mcnemar"
        assert 0 <= test["p_value"] <= test["p_holm"] <= 1
    with pytest.raises(ConfigError, match="not measured on the same solutions of 'planted'"):
        run_stage(root, "fewer", reward_model="orm", compare_to="measured", planted={**PLANTED, "count": 20})


def test_public_sets_are_scored_and_measured_where_they_are_large_enough(
    root: Path, benchmark_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PONDEROSA_DATA", str(benchmark_data))
    outcome = run_stage(root, "public", planted=None, sets=["big_bench_mistake", "prm800k"], limit=30)
    facts = outcome.facts
    assert set(facts["big_bench_mistake"]["thresholds"]) == {"score", "drop"}
    assert outcome.dropped["big_bench_mistake: there are no steps, or empty ones"] == 1
    too_long = outcome.dropped["big_bench_mistake: longer_than_context"]
    assert facts["big_bench_mistake"]["solutions"] == 30 - too_long > 10
    suites = {row["suite"] for row in read_json(root / "public" / "rows.json")["rows"]}
    assert suites == {name for name in facts if facts[name]["thresholds"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"planted": None}, "there is nothing to measure on"),
        ({"sets": ["prm8k"]}, "did you mean 'prm800k'"),
        ({"sets": ["prm800k", "prm800k"]}, "name one twice"),
        ({"planted": {"split": "train"}}, "is of split 'train', which is trained or selected on"),
        ({"planted": {"options": {"relations": ["mroe"]}}}, "no relation 'mroe'"),
    ],
)
def test_a_wrong_configuration_is_refused_before_anything_runs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(step_errors.Config, {"reward_model": "ppm", **changes}, where="test")


def test_another_training_seed_measures_on_the_same_problems() -> None:
    config = step_errors.Config(reward_model="ppm").keep_problems(3)
    assert config.planted is not None
    assert config.planted.seed == 3
    assert config.keep_problems(4) == config
    assert (
        step_errors.Config(reward_model="ppm", planted=None, sets=("prm800k",)).keep_problems(3).planted
        is None
    )


# Rows, from scores that are known


def score(name: str, scores: tuple[float, ...], first_error: int | None, kind: str = "") -> ScoredSolution:
    problem = Problem(name, "1", meta={"operations": 2})
    steps = tuple(Step(str(place)) for place in range(len(scores) - 1))
    labelled = LabelledSolution(name, problem, steps, first_error, kind)
    return ScoredSolution(labelled, ScoredSteps(name, scores, first_error), Cost(scored_tokens=3, flops=6.0))


def test_figures_of_known_scores_are_worked_out_by_hand() -> None:
    names = [name for name in map(str, range(60)) if not is_for_selection(ScoredSteps(name, (0.0,), None))]
    scored = [
        score(names[0], (0, 0.5, -0.5), 1, "operator"),
        score(names[1], (0, -0.5, -0.9), 1, "operand"),
        score(names[2], (0, 0.5, 0.6), None),
        score(names[3], (0, 0.4, 0.2), None),
    ]
    context = RowContext("ppm", "ppm", "id", "planted", "hash", "", 0)
    rows = {(row["slice"], row["metric"]): row for row in summarise(context, scored, {"score": 0.0})}
    assert rows["all", "erroneous_accuracy"]["value"] == 0.5
    assert rows["all", "correct_accuracy"]["value"] == 1
    assert rows["all", "first_error_f1"]["value"] == pytest.approx(2 / 3)
    assert rows["all", "first_error_accuracy"]["value"] == 0.75
    assert rows["all", "first_error_f1"]["eval_flops"] == 24
    assert rows["kind=operator", "erroneous_accuracy"]["value"] == 1
    assert rows["kind=operand", "erroneous_accuracy"]["value"] == 0
    assert ("kind=operand", "first_error_f1") not in rows
    described = describe_solution("planted", scored[1], {"score": 0.0})
    assert (described["said_score"], described["found_score"], described["found_drop"]) == (0, False, None)
