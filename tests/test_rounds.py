"""Rounds in a recipe: what a `repeat` block is written out to, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from ponderosa.errors import ConfigError
from ponderosa.planning import PlannedStage, find_recipe, load_recipe, plan_recipe, plan_runs
from ponderosa.rounds import expand_rounds
from ponderosa.stages import search, solutions
from tiny_runs import FAMILY, GROWN

ASKED = {
    "name": "rolled-{round}",
    "use": "rollout",
    "model": "policy-{previous}",
    "sources": [{"task": "quantities", "count": 8, "options": FAMILY}],
}
TRAINED = {"name": "policy-{round}", "use": "sft", "model": "base", "data": {"rollouts": ["rolled-{round}"]}}
START = {"name": "policy-start", "use": "sft", "model": "base", "data": {"solutions": ["problems"]}}
ROUNDS: dict[str, Any] = {
    "rounds": 3,
    "previous": "start",
    "set": {1: {"stages.rolled-{round}.samples": 2, "stages.policy-1.data.select": {"per_problem": 1}}},
    "stages": [ASKED, TRAINED],
}


def write_recipe(folder: Path, repeat: dict[str, Any] = ROUNDS, **values: Any) -> Path:
    path = folder / "recipe.yaml"
    recipe = {"name": "evolved", "stages": [*GROWN, START, {"repeat": repeat}], **values}
    path.write_text(yaml.safe_dump(recipe))
    return path


def plan(folder: Path, *assignments: str, **values: Any) -> dict[str, PlannedStage]:
    path = write_recipe(folder, **values)
    return {stage.name: stage for stage in plan_recipe(load_recipe(path, assignments), folder)}


def test_each_round_reads_the_round_before_it_and_the_first_what_is_named() -> None:
    stages = expand_rounds([START, {"repeat": {**ROUNDS, "set": {}}}], where="test")
    assert [stage["name"] for stage in stages] == [
        "policy-start",
        *("rolled-1", "policy-1", "rolled-2", "policy-2", "rolled-3", "policy-3"),
    ]
    assert [stage["model"] for stage in stages[1::2]] == ["policy-start", "policy-1", "policy-2"]
    assert [stage["data"]["rollouts"] for stage in stages[2::2]] == [["rolled-1"], ["rolled-2"], ["rolled-3"]]


def test_rounds_may_begin_at_another_number() -> None:
    block = {**ROUNDS, "first": 2, "rounds": 2, "previous": "1", "set": {3: {"stages.rolled-3.samples": 5}}}
    stages = expand_rounds([{"repeat": block}], where="test")
    assert [stage["name"] for stage in stages] == ["rolled-2", "policy-2", "rolled-3", "policy-3"]
    assert [stage["model"] for stage in stages[::2]] == ["policy-1", "policy-2"]
    assert stages[2]["samples"] == 5


def test_other_braces_and_values_that_are_no_text_stay_as_they_are() -> None:
    stage = {
        "name": "s-{round}",
        "a": "{other} {} {round}{round}",
        "b": 1.5,
        "c": None,
        "d": {"k{round}": [True]},
    }
    (written,) = expand_rounds([{"repeat": {"rounds": 1, "previous": "x", "stages": [stage]}}], where="test")
    assert written == {"name": "s-1", "a": "{other} {} 11", "b": 1.5, "c": None, "d": {"k1": [True]}}


def test_a_round_changes_its_own_stages_alone() -> None:
    stages = {stage["name"]: stage for stage in expand_rounds([{"repeat": ROUNDS}], where="test")}
    assert stages["rolled-1"]["samples"] == 2
    assert stages["policy-1"]["data"] == {"rollouts": ["rolled-1"], "select": {"per_problem": 1}}
    assert "samples" not in stages["rolled-2"]
    assert stages["policy-2"]["data"] == {"rollouts": ["rolled-2"]}


def test_rounds_are_keyed_one_by_one(tmp_path: Path) -> None:
    before = plan(tmp_path)
    after = plan(tmp_path, "stages.rolled-2.samples=5")
    changed = {name for name in before if before[name].key != after[name].key}
    assert changed == {"rolled-2", "policy-2", "rolled-3", "policy-3"}


def test_another_round_leaves_the_keys_of_the_earlier_ones(tmp_path: Path) -> None:
    before = plan(tmp_path)
    after = plan(tmp_path, repeat={**ROUNDS, "rounds": 4})
    assert {name: stage.key for name, stage in before.items()}.items() <= {
        name: stage.key for name, stage in after.items()
    }.items()
    assert after["rolled-4"].needs == ("policy-3",)


def test_arms_and_extensions_speak_of_the_written_out_stages(tmp_path: Path) -> None:
    arms = [
        {"arm": "two", "until": "policy-2"},
        {"arm": "wider", "until": "policy-2", "set": {"stages.rolled-2.samples": 9}},
    ]
    path = write_recipe(tmp_path, sweep=arms)
    swept = {(stage.name, stage.arms) for stage in plan_runs(load_recipe(path), tmp_path)}
    assert ("rolled-1", ("two", "wider")) in swept
    assert ("rolled-2", ("wider",)) in swept
    assert not any(name == "policy-3" for name, _ in swept)
    child = tmp_path / "child.yaml"
    child.write_text("extends: recipe.yaml\nname: child\nstages: [{name: rolled-3, samples: 7}]\n")
    assert [stage for stage in load_recipe(child).stages if stage.get("samples") == 7] == [
        {**load_recipe(path).stages[-2], "samples": 7}
    ]


@pytest.mark.parametrize("name", ["self-evolution", "self-evolution-tiny"])
def test_shipped_rounds_search_with_what_the_round_before_left_and_train_from_one_start(name: str) -> None:
    needs = {stage.name: stage.needs for stage in plan_recipe(load_recipe(find_recipe(name)), Path())}
    assert needs["trees-1"] == ("policy-0",)
    assert needs["trees-2"] == ("policy-1", "ppm-1")
    assert needs["policy-2"][:2] == ("midtrained", "primer")
    assert needs["policy-2"][-1] == needs["ppm-2"][-1] == "trees-2"
    assert needs["ppm-2"][0] == "policy-2"
    assert needs["evaluate-2"] == ("policy-2", "evaluate-1")


def test_countdown_is_shown_to_the_model_in_at_most_500_solutions_of_its_easiest_level() -> None:
    stages = {
        stage.name: stage.config
        for stage in plan_recipe(load_recipe(find_recipe("countdown-evolution")), Path())
    }
    worked = [
        source
        for config in stages.values()
        if isinstance(config, solutions.Config)
        for source in config.sources
        if source.task == "gym/countdown"
    ]
    searched = [
        source.options["max_value"]
        for name, config in stages.items()
        if isinstance(config, search.Config) and name.startswith("trees-")
        for source in config.sources
    ]
    assert [(source.count, source.options["max_value"]) for source in worked] == [(500, 10)]
    assert searched == [20, 50, 50]
    assert {need.stage for need in stages["textbook"].needs()} == {"problems"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "recipe.yaml: repeat: 'rounds' .*greater than or equal to 1"),
        ({"round": 3}, "unknown key 'round'; did you mean 'rounds'"),
        ({"previous": None}, "'previous'"),
        ({"stages": [{**ASKED, "name": "rolled"}]}, r"write \{round\} into it, .*seen 'rolled'"),
        ({"stages": [{"use": "sft"}]}, "seen None"),
        ({"set": {4: {}}}, "sets values of round 4; its rounds are 1, 2, 3"),
        ({"set": {2: {"seed": 1}}}, "round 2 sets 'seed'; allowed: stages.NAME.KEY"),
        (
            {"set": {2: {"stages.rolled-1.samples": 1}}},
            "round 2 sets .*nothing is named 'rolled-1'.*rolled-2",
        ),
    ],
)
def test_a_wrong_block_is_refused_with_the_remedy(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(write_recipe(tmp_path, {**ROUNDS, **changes}))


def test_a_block_holds_nothing_beside_repeat(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stands alone"):
        expand_rounds([{"repeat": 3, "stages": [ASKED]}], where="test")


def test_what_is_wrong_with_a_stage_names_its_round(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'rolled-1' reads 'policy-nowhere', which no earlier stage"):
        plan(tmp_path, repeat={**ROUNDS, "previous": "nowhere"})
