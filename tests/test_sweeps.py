"""Training seeds and sweeps: what is planned, that it is run once, and the joint results of a run."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ponderosa.arms import name_arms
from ponderosa.artifacts import read_json, write_json
from ponderosa.errors import ConfigError, WorkError
from ponderosa.evaluation.summary import RowContext, build_results, summarise
from ponderosa.identity import content_hash
from ponderosa.metrics import adjust_holm, compute_mcnemar_p, compute_sign_flip_p
from ponderosa.planning import (
    PlannedStage,
    find_base,
    find_recipe,
    label_stages,
    load_recipe,
    plan_recipe,
    plan_runs,
)
from ponderosa.report import write_report
from ponderosa.report.terminal import render_run_table
from ponderosa.stages.attempt_tables import save_graded
from ponderosa.stages.suite_config import draw_problems
from ponderosa.summary import compute_joint, write_summary
from test_evaluation import grade
from tiny_runs import (
    EVALUATE_BASE,
    EVALUATE_SFT,
    FAMILY,
    GROWN,
    MIDTRAINED,
    PROBLEMS,
    SFT,
    WHOLE,
    build_recipe,
    run_tiny,
)

LONG = {"arm": "long", "set": {"stages.sft.epochs": 2}}
PLAIN = {"arm": "plain"}
COINS = """
from pathlib import Path
from ponderosa.records import Problem, Step
from ponderosa.tasks.worked import WorkedSolution

class Coins:
    def generate(self, count, seed, split):
        allowed = Path(__file__).with_name("allowed")
        if allowed.exists():
            used = len(allowed.read_text())
            assert used < 3, "killed"
            allowed.write_text("x" * (used + 1))
        for n in range(count):
            yield Problem(question=f"Double {n}", answer=str(2 * n))
    def work_out(self, problem):
        code = f"print({problem.answer})"
        return WorkedSolution((Step(text=code, code=code),), f" #### {problem.answer}")

coins = Coins()
"""


def plan(*stages: Mapping[str, Any], **changes: Any) -> list[PlannedStage]:
    return plan_runs(build_recipe(*stages, **changes), Path())


def pick(stages: Sequence[PlannedStage], **wanted: Any) -> list[str]:
    """Folder names of the stages with this seed, or of this arm."""
    return [
        stage.folder_name
        for stage in stages
        if wanted.get("seed", stage.seed) == stage.seed and wanted.get("arm", "") in (*stage.arms, "")
    ]


# Seeds


def test_one_seed_and_no_sweep_is_the_recipe_itself() -> None:
    recipe = build_recipe(*WHOLE, seed=4)

    assert plan_runs(recipe, Path()) == plan_recipe(recipe, Path())
    assert plan(*WHOLE, seeds=[4]) == plan_recipe(recipe, Path())


def test_every_seed_is_the_whole_recipe_again() -> None:
    stages = plan(*WHOLE, seeds=[3, 0])

    assert [(stage.seed, stage.name) for stage in stages] == [
        (seed, entry["name"]) for seed in (3, 0) for entry in WHOLE
    ]
    assert pick(stages, seed=3) == pick(plan(*WHOLE, seed=3))
    assert all(set(stage.inputs.values()) <= set(pick(stages, seed=stage.seed)) for stage in stages)


def test_every_seed_answers_the_problems_the_first_one_draws() -> None:
    stages = plan(*WHOLE, seeds=[3, 0])
    drawn = {stage.seed: stage.config.suites[0].seed for stage in stages if stage.name == "evaluate-sft"}  # type: ignore[attr-defined]

    assert drawn == {3: None, 0: 3}
    fixed = {**EVALUATE_BASE, "suites": [{"suite": "quantities", "seed": 7}]}
    alone, together = plan(*GROWN, fixed, seed=0), plan(*GROWN, fixed, seeds=[3, 0])
    assert pick(together, seed=0) == pick(alone)


def test_seeds_may_be_set_on_a_recipe_with_one_and_one_seed_picked_of_several(tmp_path: Path) -> None:
    path = find_recipe("quickstart-tiny")
    (tmp_path / "several.yaml").write_text("name: s\nextends: quickstart-tiny\nseeds: [5, 6]\n")
    (tmp_path / "one.yaml").write_text("name: o\nextends: several.yaml\nseed: 9\n")

    assert load_recipe(path, ["seeds=[1, 2]"]).training_seeds == (1, 2)
    assert load_recipe(path, ["seed=3"]).training_seeds == (3,)
    assert load_recipe(tmp_path / "several.yaml").training_seeds == (5, 6)
    assert load_recipe(tmp_path / "several.yaml", ["seeds=[6]"]).training_seeds == (6,)
    assert load_recipe(tmp_path / "one.yaml").training_seeds == (9,)
    with pytest.raises(ConfigError, match=re.escape("seed: 6 and seeds: [5, 6] are both given; keep one")):
        load_recipe(tmp_path / "several.yaml", ["seed=6"])


# Arms


def test_arms_share_what_they_do_not_change() -> None:
    stages = plan(*WHOLE, sweep=[PLAIN, LONG])
    shared = [stage.name for stage in stages if stage.arms == ("plain", "long")]

    assert pick(stages, arm="plain") == pick(plan(*WHOLE))
    assert set(shared) == {entry["name"] for entry in WHOLE} - {"sft", "evaluate-sft"}
    assert [stage.name for stage in stages if stage.arms == ("long",)] == ["sft", "evaluate-sft"]


def test_an_arm_until_a_stage_is_that_stage_and_what_it_reads() -> None:
    names = {
        arm: [stage.name for stage in plan(*WHOLE, sweep=[{"arm": "a", "until": arm}])]
        for arm in ("midtrained", "evaluate-sft")
    }
    both = plan(*WHOLE, sweep=[{"arm": "a", "until": ["tokenizer", "evaluate-base"]}])

    assert names["midtrained"] == ["problems", "textbook", "tokenizer", "base", "midtrained"]
    assert names["evaluate-sft"] == [entry["name"] for entry in WHOLE]
    assert [stage.name for stage in both] == ["problems", "textbook", "tokenizer", "base", "evaluate-base"]


def test_an_arm_sets_values_of_any_kind_and_leaves_the_other_arms_alone() -> None:
    parts = [{"kind": "arithmetic", "documents": 3}]
    arms = [PLAIN, {"arm": "sums", "set": {"stages.textbook.chapters.0.parts": parts}}, LONG]
    stages = plan(*WHOLE, sweep=arms, seeds=[0, 1])
    chapters = {arm: _find(stages, "textbook", arm).chapters for arm in ("plain", "sums", "long")}

    assert [part.kind for part in chapters["sums"][0].parts] == ["arithmetic"]
    assert chapters["plain"] == chapters["long"]
    assert _find(stages, "sft", "sums").epochs == 1


def _find(stages: Sequence[PlannedStage], name: str, arm: str) -> Any:
    return next(stage.config for stage in stages if stage.name == name and arm in stage.arms)


def test_stages_are_labelled_by_what_tells_them_apart() -> None:
    assert set(label_stages(plan(PROBLEMS))) == {"problems"}
    assert label_stages(plan(PROBLEMS, seeds=[0, 1])) == ["problems, seed 0", "problems, seed 1"]
    labels = label_stages(plan(*WHOLE, sweep=[PLAIN, LONG]))
    assert {"base", "sft, plain", "sft, long"} < set(labels)


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (
            [{"arm": "a", "set": {"stages.stf.epochs": 2}}],
            "arm 'a' sets 'stages.stf.epochs': nothing is named",
        ),
        ([{"arm": "a", "set": {"stages.stf.epochs": 2}}], "did you mean 'sft'"),
        (
            [{"arm": "a", "set": {"stages.sft.epocs": 2}}],
            "arm 'a': stage 'sft': unknown key 'epocs'; did you",
        ),
        (
            [{"arm": "a", "set": {"stages.problems.sources.4.count": 2}}],
            "arm 'a' sets 'stages.problems.sources.4.count': '4' is no place in a list of 1",
        ),
        ([{"arm": "a", "set": {"seed": 2}}], "arm 'a' sets 'seed'; allowed: base and stages.NAME.KEY"),
        ([{"arm": "a", "set": {"stages": []}}], "arm 'a' sets 'stages'; allowed"),
        ([{"arm": "a", "until": "evalute-sft"}], "is no stage; did you mean 'evaluate-sft'"),
        ([{"arm": "a", "untill": "sft"}], "unknown key 'sweep.0.untill'; did you mean 'until'"),
        ([PLAIN, PLAIN], "the arms ['plain', 'plain'] name one twice"),
        ([PLAIN, {"arm": "same"}], "arms 'plain' and 'same' run the same stages"),
        (
            [{**PLAIN, "against": "plain"}, LONG],
            "arm 'plain' is the first, the baseline; leave out its against",
        ),
        (
            [PLAIN, {**LONG, "against": "plane"}],
            "arm 'long' is against 'plane', which is no arm before it; did you mean 'plain'? (allowed: plain)",
        ),
        (
            [PLAIN, {**LONG, "against": ["plain", "long"]}],
            "arm 'long' is against 'long', which is no arm before",
        ),
        ([PLAIN, {**LONG, "against": "wide"}, {"arm": "wide"}], "'wide', which is no arm before it (allowed"),
        (
            [PLAIN, {**LONG, "against": ["plain"] * 2}],
            "arm 'long': against ['plain', 'plain'] name one twice",
        ),
        (
            [{**PLAIN, "until": "evaluate-base"}, {**LONG, "until": "evaluate-sft", "against": "plain"}],
            "runs until evaluate-sft and 'plain', which it is against, until evaluate-base; arms are tested in",
        ),
        (
            [{**PLAIN, "until": "base"}, {**LONG, "until": "base"}],
            "arms 'plain' and 'long' run the same stages",
        ),
    ],
)
def test_a_wrong_arm_is_refused_with_the_remedy(arms: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        plan(*WHOLE, sweep=arms)


def test_what_an_arm_is_tested_against_changes_no_folder() -> None:
    wide = {"arm": "wide", "set": {"stages.sft.epochs": 3}}
    compared = plan(*WHOLE, sweep=[PLAIN, LONG, {**wide, "against": ["plain", "long"]}])

    assert [stage.folder_name for stage in compared] == pick(plan(*WHOLE, sweep=[PLAIN, LONG, wide]))


@pytest.mark.parametrize(
    ("seeds", "said"), [([1, 1], "the seeds [1, 1] name one twice"), ([], "seeds: [] holds no seed")]
)
def test_a_seed_named_twice_and_no_seed_are_refused(seeds: list[int], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        plan(PROBLEMS, seeds=seeds)


def test_more_than_three_arms_that_share_a_stage_are_counted() -> None:
    assert name_arms(["plain", "long", "wide"]) == "plain + long + wide"
    assert name_arms(["plain", "long", "wide", "deep"]) == "4 arms"


def test_the_arms_of_the_copying_ablation_differ_in_the_copying_alone() -> None:
    path = find_recipe("copying-ablation")
    recipe = load_recipe(path)
    stages = plan_runs(recipe, find_base(path))
    chapters = {
        arm: _find(stages, "textbook", arm).model_dump()["chapters"] for arm in ("copying", "no-copying")
    }

    assert recipe.training_seeds == (0, 1, 2)
    assert {stage.kind for stage in stages} == {
        *("solutions", "textbook", "tokenizer", "pretrain", "midtrain", "evaluate")
    }
    kinds = [[{part["kind"] for part in chapter["parts"]} for chapter in own] for own in chapters.values()]
    assert kinds == [[{"copying"}, {"copying"}, {"pages", "arithmetic"}], [{"pages", "arithmetic"}] * 3]
    assert chapters["copying"][2] == chapters["no-copying"][2]
    (own,) = {content_hash(_find(stages, "base", arm).model_dump(mode="json")) for arm in chapters}
    assert own
    assert {suite.seed for suite in _find(stages, "evaluate-midtrained", "copying").suites} == {4711}


def test_the_ablations_ask_what_else_an_arm_is_tested_against() -> None:
    path = find_recipe("phi4-mini-ablations")
    recipe = load_recipe(path)
    stages = plan_runs(recipe, find_base(path))
    small = _find(stages, "evaluate-sft", "small SFT alone")

    assert {arm.arm: arm.baselines for arm in recipe.sweep if arm.baselines} == {
        "DAPO": ("recipe", "Dr. GRPO"),
        "cosine length reward": ("recipe", "plateaued length reward"),
    }
    assert _find(stages, "sft", "small SFT alone").model == _find(stages, "evaluate-base", "recipe").model
    assert small.compare_to == "evaluate-base"


# Running


def test_a_sweep_that_was_killed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    (tmp_path / "coins.py").write_text(COINS)
    (tmp_path / "allowed").touch()
    source = {"task": "coins.py:coins", "count": 2}
    arms = [PLAIN, {"arm": "more", "set": {"stages.problems.sources.0.count": 3}}]
    out = tmp_path / "run"

    def run() -> None:
        run_tiny(out, {**PROBLEMS, "sources": [source]}, base=tmp_path, sweep=arms, seeds=[0, 1])

    with pytest.raises(AssertionError, match="killed"):
        run()
    before = {path: path.stat().st_mtime_ns for path in out.glob("stages/*/*")}
    assert len(list(out.glob("stages/*/DONE"))) == 3
    (tmp_path / "allowed").unlink()
    run()

    assert len(list(out.glob("stages/*/DONE"))) == 4
    kept = {path for path in before if (path.parent / "DONE") in before}
    assert {path: path.stat().st_mtime_ns for path in kept} == {path: before[path] for path in kept}


def test_the_recipe_and_the_summary_name_seeds_and_arms(tmp_path: Path) -> None:
    arms = [PLAIN, {"arm": "few", "set": {"stages.problems.sources.0.count": 3}}]
    run_tiny(tmp_path / "run", PROBLEMS, sweep=arms, seeds=[0, 1])
    recipe, summary = (read_json(tmp_path / "run" / f"{name}.json") for name in ("recipe", "summary"))

    assert "seed" not in recipe
    assert (recipe["seeds"], [arm["arm"] for arm in recipe["sweep"]]) == ([0, 1], ["plain", "few"])
    assert [arm["arm"] for arm in summary["sweep"]["arms"]] == ["plain", "few"]
    assert sorted(name for arm in summary["sweep"]["arms"] for name in arm["stages"]) == sorted(
        summary["stages"]
    )


def test_a_recipe_with_one_seed_leaves_what_it_always_left(tmp_path: Path) -> None:
    run_tiny(tmp_path / "run", PROBLEMS)

    assert read_json(tmp_path / "run" / "summary.json").keys() == {"schema", "rows", "tests", "stages"}
    assert {"seeds", "sweep"}.isdisjoint(read_json(tmp_path / "run" / "recipe.json"))


# Joint results

SUITE = {"suite": "quantities", "limit": 12, "options": FAMILY}
EVALUATED = (
    *GROWN,
    MIDTRAINED,
    SFT,
    {**EVALUATE_BASE, "suites": [SUITE]},
    {**EVALUATE_SFT, "suites": [SUITE]},
)
Rule = Callable[[str, str, int, int], bool]
"""Arm, model, seed and place of a problem to whether it is answered right."""


def is_right(arm: str, model: str, seed: int, place: int) -> bool:
    return place < {"base": 2, "midtrained": 3, "sft": 6}[model] + (4 if arm == "long" else 0) + seed


def fake_run(
    out: Path, rule: Rule = is_right, stages: Sequence[Mapping[str, Any]] = EVALUATED, **changes: Any
) -> dict[str, Any]:
    """The summary of a run whose models answer by rule: evaluate stages are written, nothing is trained."""
    recipe = build_recipe(*stages, **changes)
    planned = plan_runs(recipe, out)
    for stage in planned:
        if stage.kind == "evaluate":
            fake_evaluation(out / "stages" / stage.folder_name, stage, rule, recipe.training_seeds[0])
    write_summary(out, recipe, planned, compute_joint(out, recipe, out, planned))
    summary: dict[str, Any] = read_json(out / "summary.json")
    return summary


def fake_evaluation(folder: Path, stage: PlannedStage, rule: Rule, first_seed: int) -> None:
    config: Any = stage.config
    item = config.suites[0]
    suite = draw_problems(item, first_seed, folder)
    arm = stage.arms[0] if stage.arms else ""
    is_right_P = [rule(arm, config.model, stage.seed, place) for place in range(len(suite.problems))]
    graded = grade(suite.problems, "".join("r" if right else "w" for right in is_right_P))
    context = RowContext(
        config.model,
        config.model,
        stage.key,
        item.name,
        suite.content_hash,
        "greedy",
        stage.seed,
        stage_s=2.0,
    )
    write_json(
        folder / "rows.json", build_results(summarise(context, suite.problems, graded, suite.slice_keys))
    )
    write_json(folder / "tests.json", [])
    save_graded(
        folder / "attempts" / f"{item.file_name}.parquet",
        folder / "verdicts" / f"{item.file_name}.parquet",
        graded,
    )
    (folder / "DONE").touch()


def find(rows: Sequence[Mapping[str, Any]], **wanted: Any) -> list[Mapping[str, Any]]:
    wanted = {"slice": "all", "metric": "pass@1", **wanted}
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def test_a_run_from_several_seeds_has_their_rows_then_joint_rows_and_tests(tmp_path: Path) -> None:
    summary = fake_run(tmp_path, seeds=[0, 1, 2])

    alone = [row["value"] for row in find(summary["rows"], stage="sft") if "seeds" not in row]
    [joint] = find(summary["rows"], stage="sft", seeds=[0, 1, 2])
    assert alone == [6 / 12, 7 / 12, 8 / 12]
    assert joint["value"] == pytest.approx(7 / 12)
    assert (joint["n"], joint["stage_s"], joint["run"]) == (12, 6.0, tmp_path.name)
    assert find(summary["rows"], stage="sft", seeds=[0, 1, 2], slice="operations=2")

    [test] = find(summary["tests"], a="base", b="sft", seeds=[0, 1, 2])
    base = [[float(is_right("", "base", seed, i)) for seed in range(3)] for i in range(12)]
    sft = [[float(is_right("", "sft", seed, i)) for seed in range(3)] for i in range(12)]
    means = [[sum(values) / 3 for values in model] for model in (base, sft)]
    assert test["p_value"] == pytest.approx(compute_sign_flip_p(*means))
    assert [one["p_value"] for one in test["by_seed"]] == [compute_mcnemar_p(0, 4)] * 3
    assert test["p_holm"] >= test["p_value"]


def test_a_sweep_tests_each_arm_against_the_first(tmp_path: Path) -> None:
    summary = fake_run(tmp_path, seeds=[0, 1], sweep=[PLAIN, LONG])

    assert [row["arm"] for row in find(summary["rows"], stage="sft", seeds=[0, 1])] == ["plain", "long"]
    base = find(summary["rows"], stage="base", seeds=[0, 1])
    assert [row["arm"] for row in base] == ["plain", "long"]
    assert {**base[0], "arm": ""} == {**base[1], "arm": ""}
    [test] = summary["sweep"]["tests"]
    assert (test["stage"], test["a"], test["b"], test["seeds"]) == ("sft", "plain", "long", [0, 1])
    assert (test["value_a"], test["value_b"]) == (pytest.approx(6.5 / 12), pytest.approx(10.5 / 12))
    assert [one["p_value"] for one in test["by_seed"]] == [compute_mcnemar_p(0, 4)] * 2


def test_an_arm_is_tested_against_every_arm_it_names_and_tables_say_which(tmp_path: Path) -> None:
    wide = {"arm": "wide", "set": {"stages.sft.epochs": 3}, "against": ["plain", "long"]}
    summary = fake_run(tmp_path, seeds=[0, 1], sweep=[PLAIN, LONG, wide])

    tests = summary["sweep"]["tests"]
    assert [(test["a"], test["b"]) for test in tests] == [
        ("plain", "long"),
        ("plain", "wide"),
        ("long", "wide"),
    ]
    assert [test["p_holm"] for test in tests] == adjust_holm([test["p_value"] for test in tests])
    lines = render_run_table(tmp_path).split("\n")[3:]
    assert [line.split()[0] for line in lines] == ["plain", "long", "wide", "wide"]
    assert [re.findall(r"vs \w+", line) for line in lines] == [[], ["vs plain"], ["vs plain"], ["vs long"]]
    page = write_report(tmp_path).read_text("utf-8")
    assert "against another arm" in page
    assert "vs long" in page


def test_an_arm_that_starts_elsewhere_is_tested_against_its_own_start(tmp_path: Path) -> None:
    middle = {"name": "evaluate-middle", "use": "evaluate", "model": "midtrained", "suites": [SUITE]}
    alone = {"stages.sft.model": "base", "stages.evaluate-sft.compare_to": "evaluate-base"}
    sweep = [PLAIN, {"arm": "alone", "until": "evaluate-sft", "set": alone}]
    stages = (
        *GROWN,
        MIDTRAINED,
        SFT,
        EVALUATED[-2],
        middle,
        {**EVALUATED[-1], "compare_to": "evaluate-middle"},
    )
    summary = fake_run(tmp_path, stages=stages, seeds=[0, 1], sweep=sweep)

    assert [(test["arm"], test["a"], test["b"]) for test in find(summary["tests"])] == [
        ("plain", "midtrained", "sft"),
        ("alone", "base", "sft"),
    ]
    page = write_report(tmp_path).read_text("utf-8")
    assert page.count("vs base") == 1
    assert page.count("vs midtrained") == 1


def test_a_sweep_at_one_seed_has_tests_and_no_joint_rows(tmp_path: Path) -> None:
    summary = fake_run(tmp_path, sweep=[PLAIN, LONG])

    assert [test["test"] for test in summary["sweep"]["tests"]] == ["mcnemar"]
    assert not any("seeds" in row for row in summary["rows"])


def test_a_suite_that_is_no_longer_what_was_answered_stops_the_summary(tmp_path: Path) -> None:
    fake_run(tmp_path, seeds=[0, 1])
    recipe = build_recipe(*EVALUATED, seeds=[0, 1])
    stages = plan_runs(recipe, tmp_path)
    for path in tmp_path.glob("stages/evaluate-sft-*/rows.json"):
        rows = [{**row, "suite_hash": "another"} for row in read_json(path)["rows"]]
        write_json(path, {"schema": 1, "rows": rows})

    with pytest.raises(WorkError, match="suite 'quantities' is no longer drawn as when evaluate-sft-"):
        compute_joint(tmp_path, recipe, tmp_path, stages)


@pytest.mark.slow
def test_a_tiny_sweep_runs_every_stage_once_and_does_nothing_twice(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_tiny(out, *WHOLE, seeds=[0, 1], sweep=[PLAIN, LONG])
    before = {path: path.stat().st_mtime_ns for path in out.glob("stages/*/*")}
    first = read_json(out / "summary.json")
    run_tiny(out, *WHOLE, seeds=[0, 1], sweep=[PLAIN, LONG])

    assert len(list(out.glob("stages/*"))) == 2 * (len(WHOLE) + 2)
    assert {path: path.stat().st_mtime_ns for path in out.glob("stages/*/*")} == before
    assert read_json(out / "summary.json") == first
    assert [test["b"] for test in first["sweep"]["tests"]] == ["long"]
