"""The search stage: what it keeps, that a killed one continues to the same tables, and what is made of its trees."""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planted_trees import SeededPolicy
from ponderosa.artifacts import Journal, read_json, read_jsonl, read_table, write_json
from ponderosa.config import parse_config
from ponderosa.data.packing import build_batches
from ponderosa.data.tree_advantages import build_advantage_rows
from ponderosa.data.tree_outcomes import is_held_out
from ponderosa.engines.codec import HFCodec, load_codec
from ponderosa.engines.protocol import Sampling
from ponderosa.errors import ConfigError
from ponderosa.formats import PLAIN_CODE, PLAIN_PROSE, load_format
from ponderosa.identity import derive_seed
from ponderosa.model_directory import load_model
from ponderosa.progress import SILENT
from ponderosa.records import GradedTree, Problem, Row, Verdict
from ponderosa.search.driver import build_context as build_search_context
from ponderosa.shown_trees import SHOWN_FILE, load_shown
from ponderosa.stages import pairs, reward_model, search
from ponderosa.stages.attempt_tables import load_problems
from ponderosa.stages.pairs import pair_stages
from ponderosa.stages.policy import check_reads, describe_policy
from ponderosa.stages.problem_sources import draw_problems
from ponderosa.stages.scoring import build_scorer, score_rows
from ponderosa.stages.search import compute_occupancy, grow_trees
from ponderosa.stages.training_data import SolutionData, build_training_rows
from ponderosa.stages.training_stage import load_learner
from ponderosa.stages.tree_rl import read_advantages, read_temperature
from ponderosa.stages.tree_tables import load_trajectories, load_trees, save_trees
from search_fakes import FakeScorer
from test_rollouts import POLICY, SEVENS, TASK, TRAIN, WORKED
from test_stages import build_context
from tiny_runs import GROWN, find_stage, run_tiny, save_foreign_model

PROBLEMS = [Problem(f"q{i}", str(i % 3), id=f"p{i}") for i in range(8)]
SEARCH = {"simulations": 4, "candidates": 4}


class HalfBusy(SeededPolicy):
    """A policy that is a function of the request's seed, on an engine that never has more than half to do."""

    occupancy = 0.5  # type: ignore[assignment]


def parse(**values: Any) -> search.Config:
    return parse_config(
        search.Config,
        {"model": "policy", "sources": [{**TASK, "count": 8}], "search": SEARCH, **values},
        where="x",
    )


def grow(
    folder: Path,
    problems: Sequence[Problem] = PROBLEMS,
    *,
    unit_trees: int = 3,
    scorer: Any = None,
    **values: Any,
) -> float:
    engine = HalfBusy(num_texts=3)
    search_context = build_search_context(engine, PLAIN_CODE, sampling=Sampling(), scorer=scorer)
    return grow_trees(
        engine,
        scorer,
        problems,
        parse(**values),
        search_context,
        build_context(folder),
        unit_trees=unit_trees,
    )


def read_tables(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {str(path.relative_to(folder)): read_table(path) for path in folder.rglob("*.parquet")}


# Growing


def test_trees_are_stored_by_problem_with_a_verdict_on_every_solution(tmp_path: Path) -> None:
    grow(tmp_path)
    trees = load_trees(tmp_path)
    assert [graded.tree.problem_id for graded in trees] == [problem.id for problem in PROBLEMS]
    for tree, verdicts in trees:
        ended = {place for place, node in enumerate(tree.nodes) if node.finish is not None}
        assert set(verdicts) == ended
        assert tree.num_simulations == 4
    assert {verdict.correct for graded in trees for verdict in graded.verdicts.values()} == {True, False}


@pytest.mark.parametrize("share", [0.0, 0.4, 0.99])
@pytest.mark.parametrize("leftover", [None, b"half written"])
def test_a_search_killed_anywhere_continues_to_the_same_tables(
    share: float, leftover: bytes | None, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    occupancy = grow(whole)
    journal = (whole / "journal.jsonl").read_bytes()
    shutil.copytree(whole, killed)
    (killed / "journal.jsonl").write_bytes(journal[: int(share * len(journal))])
    with Journal(killed / "journal.jsonl") as found:
        num_committed = len(found.units)
    for part in killed.rglob("*.parquet"):
        if int(part.stem) >= 3 * num_committed:
            part.unlink() if leftover is None else part.write_bytes(leftover)

    assert grow(killed) == occupancy
    assert read_tables(killed) == read_tables(whole)
    assert (killed / "journal.jsonl").read_bytes() == journal


def test_units_do_not_decide_what_is_grown(tmp_path: Path) -> None:
    grow(tmp_path / "one", unit_trees=1)
    grow(tmp_path / "all", unit_trees=99)
    assert len(list((tmp_path / "one" / "trees").iterdir())) == 8
    assert load_trees(tmp_path / "one") == load_trees(tmp_path / "all")


def test_several_trees_of_a_problem_are_drawn_apart_and_the_first_is_the_single_one(tmp_path: Path) -> None:
    grow(tmp_path / "one")
    grow(tmp_path / "two", trees=2)
    single, double = load_trees(tmp_path / "one"), load_trees(tmp_path / "two")
    assert double[::2] == single
    assert all(a.tree.nodes != b.tree.nodes for a, b in zip(double[::2], double[1::2], strict=True))


def test_a_reward_model_scores_the_steps_and_is_named(tmp_path: Path) -> None:
    grow(tmp_path, scorer=FakeScorer(lambda text: 0.25))
    trees = load_trees(tmp_path)
    assert {graded.tree.scorer_id for graded in trees} == {"fake-scorer"}
    open_nodes = [node for graded in trees for node in graded.tree.nodes if node.finish is None]
    assert {node.score for node in open_nodes} == {0.25}


def test_occupancy_is_of_all_units_together() -> None:
    units = [{"generated_tokens": 90, "occupancy": 0.9}, {"generated_tokens": 50, "occupancy": 0.25}]
    assert compute_occupancy(units) == pytest.approx(140 / 300)
    assert compute_occupancy([]) == 0.0


def test_the_steps_in_which_all_trees_wait_for_their_code_count_as_idle(tmp_path: Path) -> None:
    """The engine, which counts its own ticks alone, says half; a lone tree's steps are run while it has nothing to do."""
    assert 0 < grow(tmp_path, PROBLEMS[:1]) < HalfBusy.occupancy


def test_trees_that_keep_few_slots_busy_are_more_to_a_unit() -> None:
    def count(**values: Any) -> int:
        return parse(**values).unit_trees

    assert count(search={"candidates": 1}) == 8 * 128
    assert count(search={"candidates": 1, "leaves": 2}) == count(search={"candidates": 2}) == 4 * 128
    assert count(search={"candidates": 8}) == 2 * 128
    assert count(search={"candidates": 8}, num_slots=16) == 64


# The stage


SEARCHED = {
    "name": "trees",
    "use": "search",
    "model": "policy",
    "sources": [{**TASK, "count": 12}],
    "search": {**SEARCH, "extra_simulations": 4},
    "temperature": 1.7,
    "max_tokens": 14,
    "num_slots": 16,
}
LEARNED = {
    "name": "learned",
    "use": "sft",
    "model": "base",
    "data": {"trees": ["trees"]},
    "epochs": 1,
    "tokens_per_step": 600,
    "train": TRAIN,
}
PAIRED = {"name": "paired", "use": "pairs", "trees": ["trees"], "reference": "policy"}
PPM = {
    "name": "ppm",
    "use": "reward_model",
    "model": "policy",
    "trees": ["trees"],
    "kind": "q_regression",
    "held_out_frac": 0.4,
}
GUIDED = {**SEARCHED, "name": "guided", "reward_model": "ppm", "sources": [{**TASK, "count": 4}]}
REINFORCED = {
    "name": "reinforced",
    "use": "tree_rl",
    "model": "policy",
    "trees": ["trees"],
    "train": {"optimizer": {"name": "adamw", "learning_rate": 0.001}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    (folder / "sevens.py").write_text(SEVENS)
    run_tiny(
        folder / "run",
        *GROWN,
        WORKED,
        {**POLICY, "epochs": 12},
        SEARCHED,
        LEARNED,
        PAIRED,
        PPM,
        GUIDED,
        REINFORCED,
    )
    return folder / "run"


def test_the_manifest_says_what_was_solved_what_it_cost_and_how_busy_the_engine_was(run: Path) -> None:
    manifest = read_json(find_stage(run, "trees") / "manifest.json")
    facts = manifest["facts"]
    trees = load_trees(find_stage(run, "trees"))
    assert facts["problems"] == facts["trees"] == manifest["counts"]["kept"] == 12
    assert facts["nodes"] == sum(len(graded.tree.nodes) for graded in trees)
    assert facts["coverage"]["all"]["value"] == sum(map(is_solved, trees)) / 12
    assert facts["coverage"]["all"]["value"] >= facts["coverage_without_extra"]["all"]["value"]
    assert sum(facts["ends"].values()) == 12
    assert facts["false_positives"] is None
    assert 0 < facts["occupancy"] <= 1
    assert manifest["ledger"]["generated_tokens"] == sum(tree.cost.generated_tokens for tree, _ in trees) > 0
    assert manifest["ledger"]["eval_flops"] == pytest.approx(sum(tree.cost.flops for tree, _ in trees))


def test_a_runs_summary_holds_what_each_search_solved_by_the_policy_that_searched(run: Path) -> None:
    rows = [row for row in read_json(run / "summary.json")["rows"] if row["metric"] == "coverage"]
    whole = {row["suite"]: row for row in rows if row["slice"] == "all"}
    assert whole.keys() == {"trees", "guided"}
    assert [whole[name]["reward_model"] for name in whole] == [None, "ppm"]
    assert {row["stage"] for row in rows} == {"policy"}
    for name, row in whole.items():
        manifest = read_json(find_stage(run, name) / "manifest.json")
        assert row["value"] == manifest["facts"]["coverage"]["all"]["value"]
        assert row["eval_flops"] == pytest.approx(manifest["ledger"]["eval_flops"])
        assert 0 < row["eval_s"] <= manifest["ledger"]["seconds"]


def test_a_stages_reward_model_guides_the_search(run: Path) -> None:
    trees = load_trees(find_stage(run, "guided"))
    assert len({graded.tree.scorer_id for graded in trees} - {None}) == 1
    assert all(
        node.score is not None for graded in trees for node in graded.tree.nodes if node.finish is None
    )
    assert read_json(find_stage(run, "guided") / "manifest.json")["ledger"]["scored_tokens"] > 0


@pytest.mark.parametrize("rank", [0, 2])
def test_a_reward_model_on_the_policys_own_tensors_guides_a_search(
    rank: int, run: Path, tmp_path: Path
) -> None:
    inputs = {name: find_stage(run, name) for name in ("policy", "trees")}
    learned = {key: value for key, value in PPM.items() if key not in ("name", "use")}
    config = reward_model.Config(**learned, trunk="shared", lora_rank=rank)
    reward_model.run(config, build_context(tmp_path / "ppm", inputs))
    searched = {key: value for key, value in GUIDED.items() if key not in ("name", "use")}
    guided = parse_config(search.Config, searched, where="guided")
    context = build_context(tmp_path / "guided", {**inputs, "ppm": tmp_path / "ppm"}, base=run.parent)
    engine, scorer, _ = search.load_search(guided, context, 0)
    engines = {parameter.data_ptr() for parameter in engine._model.parameters()}
    scorers = {parameter.data_ptr() for parameter in scorer._model.parameters()}
    assert len(scorers - engines) == (2 * 7 * engine._model.config.num_hidden_layers if rank else 0) + 1
    search.run(guided, context)
    trees = load_trees(tmp_path / "guided")
    assert {graded.tree.scorer_id for graded in trees} == {scorer.model_id}
    assert all(
        node.score is not None for graded in trees for node in graded.tree.nodes if node.finish is None
    )


def test_a_few_trees_are_left_for_readers(run: Path) -> None:
    folder = find_stage(run, "trees")
    shown = load_shown(folder / SHOWN_FILE)
    assert 1 <= len(shown) <= 3
    assert {one.question for one in shown} <= {
        problem.question for problem in load_problems(folder / "problems.parquet")
    }


def is_solved(graded: GradedTree) -> bool:
    return any(verdict.correct for verdict in graded.verdicts.values())


def test_a_stage_killed_after_its_tables_writes_the_same_ones(run: Path, tmp_path: Path) -> None:
    config = parse_config(
        search.Config, {k: v for k, v in SEARCHED.items() if k not in ("name", "use")}, where="x"
    )
    context = build_context(tmp_path, {"policy": find_stage(run, "policy")}, base=run.parent)
    first = search.run(config, context)
    tables = read_tables(tmp_path)

    assert search.run(config, context) == first
    assert read_tables(tmp_path) == tables
    assert {path.name for path in tmp_path.iterdir()} >= {"problems.parquet", "policy.json", "trees", "nodes"}


def test_a_scored_search_killed_between_a_units_tables_and_its_commit_writes_the_same_ones(
    run: Path, tmp_path: Path
) -> None:
    """The second unit is grown again by a reward model that has not read the first."""
    config = parse_config(
        search.Config, {k: v for k, v in GUIDED.items() if k not in ("name", "use")}, where="x"
    )
    inputs = {name: find_stage(run, name) for name in ("policy", "ppm")}

    def grow_units(folder: Path) -> float:
        context = build_context(folder, inputs, base=run.parent)
        problems, _ = draw_problems(config, context, purpose="search", seed=0)
        engine, scorer, search_context = search.load_search(config, context, 0)
        return grow_trees(engine, scorer, problems, config, search_context, context, unit_trees=2)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    occupancy = grow_units(whole)
    tables, journal = read_tables(whole), (whole / "journal.jsonl").read_bytes()
    shutil.copytree(whole, killed)
    (killed / "journal.jsonl").write_bytes(journal[:-5])
    with Journal(killed / "journal.jsonl") as found:
        assert len(found.units) == 1

    assert grow_units(killed) == occupancy
    assert read_tables(killed) == tables
    assert (killed / "journal.jsonl").read_bytes() == journal
    assert all(graded.tree.cost.scored_tokens > 0 for graded in load_trees(killed))


def doubt(graded: GradedTree) -> GradedTree:
    """The tree as if its solutions agreed on a wrong answer."""
    wrong = {place: Verdict(False, "wrong_answer", "numeric") for place in graded.verdicts}
    return GradedTree(replace(graded.tree, end="suspicious"), wrong)


def test_nothing_is_trained_on_of_problems_that_are_held_out_or_doubted(run: Path, tmp_path: Path) -> None:
    folder, base = find_stage(run, "trees"), find_stage(run, "base")
    doubted = load_trees(folder)[0].tree.problem_id
    shutil.copytree(folder, tmp_path / "trees")
    for name in ("trees", "nodes", "verdicts"):
        shutil.rmtree(tmp_path / "trees" / name)
    trees = [doubt(one) if one.tree.problem_id == doubted else one for one in load_trees(folder)]
    save_trees(tmp_path / "trees", trees)
    held_out = {one.tree.problem_id for one in trees if is_held_out(one.tree.problem_id, 0.5)}
    of_problem = Counter(one.graded.attempt.problem_id for one in load_trajectories(tmp_path / "trees"))
    context = build_context(tmp_path, {"trees": tmp_path / "trees", "base": base})

    model_dir = base / "model"
    data = SolutionData(trees=("trees",), held_out_frac=0.5)
    _, dropped = build_training_rows(data, load_format(model_dir), load_codec(model_dir), context)

    assert held_out - {doubted}
    assert dropped["trees: suspicious"] == of_problem[doubted]
    assert dropped["trees: held_out"] == sum(of_problem[name] for name in held_out - {doubted})
    selection = pair_stages(
        pairs.Config(trees=("trees",), reference="base"), context, load_learner("base", context)
    )
    assert selection.unpaired["suspicious"] == 1
    assert doubted not in {pair.problem_id for pair in selection.pairs}


def test_rows_made_of_trees_are_the_ids_of_their_right_trajectories(run: Path) -> None:
    folder, model_dir = find_stage(run, "trees"), find_stage(run, "base") / "model"
    codec = load_codec(model_dir)

    rows, dropped = build_training_rows(
        SolutionData(trees=("trees",)), load_format(model_dir), codec, build_context(run, {"trees": folder})
    )

    trajectories = [one.graded for one in load_trajectories(folder)]
    right = {one.attempt.prompt_ids + one.attempt.token_ids for one in trajectories if one.verdict.correct}
    assert rows
    assert {row.token_ids for row in rows} <= right
    assert len(rows) + sum(dropped.values()) == len(trajectories)
    assert all(name.startswith("trees: ") for name in dropped)
    assert all(row.token_ids[-1] in codec.eos_ids for row in rows)
    assert read_json(find_stage(run, "learned") / "manifest.json")["counts"]["dropped"] == dropped


def test_rewritten_trees_are_the_same_solutions_in_the_tokens_of_the_model_that_is_trained(run: Path) -> None:
    folder, model_dir = find_stage(run, "trees"), find_stage(run, "base") / "model"
    codec, prompt_format = load_codec(model_dir), load_format(model_dir)
    context = build_context(run, {"trees": folder})
    taken = SolutionData(trees=("trees",))
    foreign = load_codec(save_foreign_model(run.parent / "foreign"))

    sampled, _ = build_training_rows(taken, prompt_format, codec, context)
    rewritten, _ = build_training_rows(
        taken.model_copy(update={"rewrite_trees": True}), prompt_format, foreign, context
    )

    def read(row: Row, by: HFCodec) -> str:
        return (
            by.decode(row.token_ids).replace(" ", "").replace("\n", "").removesuffix(by.decode([by.eos_id]))
        )

    assert [read(row, codec) for row in sampled] == [read(row, foreign) for row in rewritten]
    with pytest.raises(ConfigError, match="written with another tokenizer"):
        build_training_rows(taken, prompt_format, foreign, context)
    with pytest.raises(ConfigError, match="written in another prompt format"):
        build_training_rows(taken.model_copy(update={"rewrite_trees": True}), PLAIN_PROSE, codec, context)


def test_a_policy_gradient_on_trees_starts_from_what_was_sampled_and_moves_towards_the_better_steps(
    run: Path,
) -> None:
    metrics = read_jsonl(find_stage(run, "reinforced") / "metrics.jsonl")
    assert metrics[0]["engine_gap"] < 1e-3
    assert metrics[0]["ratio"] == pytest.approx(1.0, abs=1e-3)
    rows = build_advantage_rows(load_trees(find_stage(run, "trees")), temperature=1.7).rows
    first = build_batches(rows, tokens_per_step=8192, seed=derive_seed("tree_rl", 0))[0]
    drawn = [
        (weight, advantage)
        for row in first
        for weight, advantage in zip(row.loss_weights, row.columns["advantages"], strict=True)
    ]
    mean = sum(weight * advantage for weight, advantage in drawn) / sum(weight for weight, _ in drawn)
    assert metrics[0]["loss"] == pytest.approx(-mean, rel=1e-2, abs=1e-4)
    gains = []
    for name in ("policy", "reinforced"):
        model = load_model(find_stage(run, name) / "model", device="cpu")
        scorer = build_scorer(model, "float32", None)
        scores = score_rows(scorer, rows, label="score", progress=SILENT)
        gains.append(
            sum(
                weight * advantage * score
                for row, row_scores in zip(rows, scores, strict=True)
                for weight, advantage, score in zip(
                    row.loss_weights, row.columns["advantages"], row_scores, strict=True
                )
            )
        )
    assert gains[1] > gains[0]


def test_trees_of_another_model_or_sampled_with_tokens_left_out_are_refused(
    run: Path, tmp_path: Path
) -> None:
    learner = load_learner("base", build_context(run, {"base": find_stage(run, "base")}))
    context = build_context(run, {"base": find_stage(run, "base"), "trees": find_stage(run, "trees")})
    with pytest.raises(ConfigError, match=r"were grown by model .* name the model that grew them"):
        read_advantages("trees", "base", learner, context)
    write_json(tmp_path / "config.json", {"temperature": 1.0, "top_p": 0.9})
    with pytest.raises(ConfigError, match=r"sampled with top_p 0\.9"):
        read_temperature(tmp_path, "trees")


def test_pairs_made_of_trees_set_a_right_solution_of_a_problem_against_a_wrong_one(run: Path) -> None:
    verdicts = {
        (one.graded.attempt.problem_id, one.graded.attempt.token_ids): one.graded.verdict.correct
        for one in load_trajectories(find_stage(run, "trees"))
    }
    table = read_table(find_stage(run, "paired") / "pairs.parquet")
    assert table
    for pair in table:
        assert verdicts[pair["problem_id"], tuple(pair["chosen_ids"])]
        assert not verdicts[pair["problem_id"], tuple(pair["rejected_ids"])]


# What is refused


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sources": []}, "nothing to ask"),
        ({"search": {"simulation": 3}}, "unknown key 'search.simulation'; did you mean 'simulations'"),
        ({"trees": 0}, "greater than or equal to 1"),
        ({"temperature": 0}, "greater than 0"),
        ({"sources": [{**TASK, "split": "test"}]}, "'train' or 'selection'"),
    ],
)
def test_a_request_that_cannot_be_meant_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(**values)


def test_a_reward_model_of_another_tokenizer_or_format_is_refused(run: Path) -> None:
    codec = load_codec(find_stage(run, "base") / "model")
    policy = describe_policy(codec, PLAIN_CODE, "m")
    check_reads(policy, codec, PLAIN_CODE, where="ppm")
    with pytest.raises(ConfigError, match="reward model of ppm has another prompt format"):
        check_reads(policy, codec, PLAIN_PROSE, where="ppm")


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (SolutionData, {}, "give `solutions`, `rollouts` or `trees`"),
        (SolutionData, {"solutions": ["a"], "trajectories": {"per_problem": 1}}, "none are named"),
        (SolutionData, {"solutions": ["a"], "rewrite_trees": True}, "none are named"),
        (pairs.Config, {"reference": "policy"}, "give `rollouts` or `trees`"),
    ],
)
def test_training_data_and_pairs_must_name_what_they_read(
    model: type[Any], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(model, values, where="data")
