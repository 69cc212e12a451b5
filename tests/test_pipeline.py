"""Recipes to stage folders: what a key depends on, what runs again, and what is refused before anything runs."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ponderosa import artifacts
from ponderosa.artifacts import lock_folder, read_json
from ponderosa.errors import ConfigError, DataError, RequestError, RunLocked
from ponderosa.pipeline import RunOptions, explain_stage, link_model, run_recipe
from ponderosa.planning import (
    RECIPES,
    find_base,
    find_recipe,
    list_recipes,
    load_recipe,
    plan_recipe,
)
from ponderosa.stages import textbook
from tiny_runs import (
    BASE,
    EVALUATE_BASE,
    EVALUATE_SFT,
    GROWN,
    PROBLEMS,
    SFT,
    TEXTBOOK,
    TOKENIZER,
    WHOLE,
    build_recipe,
    find_stage,
    run_tiny,
    save_foreign_model,
)

COLUMNS = (
    "stage model model_id suite suite_hash slice strategy metric value low high n samples seed prompt_tokens "
    "generated_tokens train_flops eval_flops stage_s eval_s run"
).split()
ROWS = [{"question": f"What is {n} + 1?", "answer": str(n + 1), "split": "test"} for n in range(5)]
OTHER = {**PROBLEMS, "name": "other"}
COINS = """
from ponderosa.records import Problem, Step
from ponderosa.tasks.worked import WorkedSolution

class Coins:
    def generate(self, count, seed, split):
        for n in range(count):
            yield Problem(question=f"Double {n}", answer=str(2 * n))
    def work_out(self, problem):
        code = f"print({problem.answer})"
        return WorkedSolution((Step(text=code, code=code),), f" #### {problem.answer}")

coins = Coins()
"""


def plan_keys(*stages: Mapping[str, Any], base: Path = Path(), **changes: Any) -> dict[str, str]:
    return {stage.name: stage.key for stage in plan_recipe(build_recipe(*stages, **changes), base)}


def write_rows(path: Path, rows: list[dict[str, str]] = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def evaluate_file(path: Path | str) -> dict[str, Any]:
    return {**EVALUATE_BASE, "suites": [{"suite": str(path)}]}


def grow(count: int = 40) -> dict[str, Any]:
    return {**PROBLEMS, "sources": [{"task": "quantities", "count": count}]}


# Keys


def test_keys_are_the_same_for_the_same_recipe() -> None:
    assert plan_keys(*WHOLE) == plan_keys(*WHOLE)


def test_a_key_depends_on_the_configuration_and_on_what_is_upstream() -> None:
    before = plan_keys(*WHOLE)
    after = plan_keys(*(grow(41) if stage is PROBLEMS else stage for stage in WHOLE))

    assert all(before[name] != after[name] for name in before)


def test_a_changed_stage_leaves_the_keys_of_what_does_not_read_it() -> None:
    changed = {**SFT, "epochs": 2}
    before = plan_keys(*WHOLE)
    after = plan_keys(*(changed if stage is SFT else stage for stage in WHOLE))

    assert {name for name in before if before[name] != after[name]} == {"sft", "evaluate-sft"}


def test_spelling_out_a_default_changes_no_key() -> None:
    assert plan_keys(PROBLEMS, {**TEXTBOOK}) == plan_keys(
        {**PROBLEMS, "sources": [{**PROBLEMS["sources"][0], "split": "train"}]}, TEXTBOOK
    )


def test_a_key_depends_on_the_seed() -> None:
    assert plan_keys(PROBLEMS, seed=0) != plan_keys(PROBLEMS, seed=1)


def test_a_key_depends_on_the_version_of_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan_keys(PROBLEMS, TEXTBOOK)
    monkeypatch.setattr(textbook, "VERSION", textbook.VERSION + 1)
    after = plan_keys(PROBLEMS, TEXTBOOK)

    assert before["problems"] == after["problems"]
    assert before["textbook"] != after["textbook"]


def test_a_key_depends_on_the_content_of_a_file_and_not_on_where_it_lies(tmp_path: Path) -> None:
    one = write_rows(tmp_path / "one" / "exam.jsonl")
    two = write_rows(tmp_path / "two" / "renamed.jsonl")
    grown = (PROBLEMS, TEXTBOOK, TOKENIZER, BASE)

    relative = plan_keys(*grown, evaluate_file("exam.jsonl"), base=one.parent)
    assert plan_keys(*grown, evaluate_file(one)) == relative
    assert plan_keys(*grown, evaluate_file(two)) == relative
    write_rows(one, ROWS[:-1])
    assert plan_keys(*grown, evaluate_file(one)) != relative


def test_a_key_depends_on_the_source_of_a_checker_that_a_file_names(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "exam.jsonl", [{"question": "2 or 3?", "verifier": "check.py:is_fine", "split": "test"}]
    )
    keys = []
    for source in ("return True", "return answer == '2'"):
        (tmp_path / "check.py").write_text(f"def is_fine(problem, answer):\n    {source}\n")
        keys.append(plan_keys(PROBLEMS, TEXTBOOK, TOKENIZER, BASE, evaluate_file(path))["evaluate-base"])

    assert keys[0] != keys[1]


def test_a_problem_file_that_is_not_there_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"exam\.jsonl"):
        plan_keys(PROBLEMS, TEXTBOOK, TOKENIZER, BASE, evaluate_file("exam.jsonl"), base=tmp_path)


def test_a_key_depends_on_the_source_of_a_users_task(tmp_path: Path) -> None:
    stage = {**PROBLEMS, "sources": [{"task": "coins.py:coins", "count": 3}]}
    keys = []
    for name, source in (("a", COINS), ("b", COINS), ("c", COINS + "\n# another\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "coins.py").write_text(source)
        keys.append(plan_keys(stage, base=tmp_path / name)["problems"])

    assert keys[0] == keys[1] != keys[2]


def test_a_key_depends_on_the_content_of_a_checkpoint_and_not_on_where_it_lies(tmp_path: Path) -> None:
    one = save_foreign_model(tmp_path / "one")
    two = save_foreign_model(tmp_path / "elsewhere" / "two")

    before = plan_keys({"name": "base", "use": "import_model", "path": str(one)})
    moved = plan_keys({"name": "base", "use": "import_model", "path": str(two)})
    (two / "generation_config.json").write_text("{}")
    changed = plan_keys({"name": "base", "use": "import_model", "path": str(two)})

    assert before == moved != changed


def test_how_often_a_checkpoint_is_saved_changes_no_key() -> None:
    often = {**BASE, "train": {"checkpoint_every_s": 1}}

    assert plan_keys(PROBLEMS, TEXTBOOK, TOKENIZER, often) == plan_keys(PROBLEMS, TEXTBOOK, TOKENIZER, BASE)


# What is refused before anything runs


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"name": "x", "use": "solutoins"}, "did you mean 'solutions'"),
        ({"name": "x"}, "use: KIND"),
        ({**OTHER, "cuont": 3}, "unknown key 'cuont'"),
        ({**OTHER, "sources": [{"task": "quantities", "cuont": 3}]}, "did you mean 'count'"),
        ({**OTHER, "sources": [{"task": "quantites", "count": 3}]}, "did you mean 'quantities'"),
        ({**OTHER, "sources": [{"task": "quantities"}]}, "has no end"),
        ({**OTHER, "sources": [{"task": "svamp", "count": 3}]}, "no work_out method"),
        (
            {**OTHER, "sources": [{"task": "quantities", "count": 3, "options": {"relation": []}}]},
            "did you mean 'relations'",
        ),
        ({**TEXTBOOK, "name": "problems"}, "two stages are named 'problems'"),
        (
            {**SFT, "model": "problems"},
            "looks for a model in 'problems', a stage of kind 'solutions'; allowed kinds: import_model",
        ),
        ({**TOKENIZER, "textbook": None, "solutions": ["problem"]}, "did you mean 'problems'"),
        (
            {**EVALUATE_BASE, "suites": [{"suite": "quantities", "strategy": "greddy"}]},
            "unknown strategy 'greddy'; did you mean 'greedy'?",
        ),
        (
            {**EVALUATE_BASE, "suites": [{"suite": "quantities"}, {"suite": "quantities", "limit": 3}]},
            "measured twice: quantities-greedy",
        ),
        ({**EVALUATE_BASE, "suites": [{"suite": "quantities", "split": "train"}]}, "a report takes test or"),
        ({**EVALUATE_SFT, "metric": "pas@1"}, "did you mean 'pass@1'"),
    ],
)
def test_a_wrong_stage_is_refused_with_the_remedy(stage: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        plan_keys(PROBLEMS, stage)


def test_a_stage_may_only_read_earlier_ones() -> None:
    with pytest.raises(ConfigError, match="'textbook' reads 'problems', which no earlier stage is named"):
        plan_keys(TEXTBOOK, PROBLEMS)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        find_recipe("quickstrat")


@pytest.mark.parametrize("content", ["- a list", "stages: [", "\x00"])
def test_a_recipe_that_does_not_parse_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)

    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_recipe(path)


def test_a_recipe_that_extends_another_changes_only_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "name: own\nextends: quickstart-tiny\nstages:\n- {name: sft, epochs: 3}\n- {name: more, use: tokenizer}\n"
    )
    parent = load_recipe(find_recipe("quickstart-tiny"))
    child = load_recipe(tmp_path / "own.yaml")

    assert child.name == "own"
    assert [entry["name"] for entry in child.stages] == [*(entry["name"] for entry in parent.stages), "more"]
    changed = [dict(new) for old, new in zip(parent.stages, child.stages, strict=False) if old != new]
    assert [(entry["name"], entry["epochs"]) for entry in changed] == [("sft", 3)]


def test_a_recipe_that_extends_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: a\nextends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("name: b\nextends: a.yaml\n")

    with pytest.raises(ConfigError, match=r"a\.yaml extends itself"):
        load_recipe(tmp_path / "a.yaml")


def test_an_unknown_device_or_dtype_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no device 'tpu'; allowed: auto, cpu, cuda, mps"):
        run_recipe(build_recipe(PROBLEMS), tmp_path, tmp_path / "run", RunOptions(device="tpu"))
    with pytest.raises(ConfigError, match="did you mean 'float32'"):
        RunOptions(dtype="flaot32")
    assert not (tmp_path / "run").exists()


# Shipped recipes


@pytest.mark.parametrize("name", list_recipes())
def test_every_shipped_recipe_is_planned(name: str) -> None:
    path = find_recipe(name)

    assert load_recipe(path).name == name
    assert plan_recipe(load_recipe(path), find_base(path))


def test_the_tiny_quickstart_has_the_stages_of_the_quickstart() -> None:
    stages = [
        [(entry["name"], entry["use"]) for entry in load_recipe(RECIPES / f"{name}.yaml").stages]
        for name in ("quickstart", "quickstart-tiny")
    ]

    assert stages[0] == stages[1]


def test_files_of_a_shipped_recipe_are_looked_for_where_we_are() -> None:
    assert find_base(find_recipe("quickstart")) == Path()
    assert find_base(find_recipe("mine/own.yaml")) == Path("mine")


# Running


def test_a_run_does_again_only_what_changed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_tiny(out, PROBLEMS, TEXTBOOK, TOKENIZER)
    before = {path: path.stat().st_mtime_ns for path in out.glob("stages/*/*")}

    run_tiny(out, PROBLEMS, TEXTBOOK, TOKENIZER)
    assert {path: path.stat().st_mtime_ns for path in out.glob("stages/*/*")} == before

    run_tiny(out, PROBLEMS, TEXTBOOK, {**TOKENIZER, "vocab_size": 400})
    after = {path: path.stat().st_mtime_ns for path in out.glob("stages/*/*")}
    assert {path: after[path] for path in before} == before
    assert {path.parent.name.rpartition("-")[0] for path in after.keys() - before.keys()} == {"tokenizer"}


def test_done_is_written_last_and_a_failed_stage_has_none(tmp_path: Path) -> None:
    (tmp_path / "coins.py").write_text(
        COINS.replace(
            "        code = f", "        open(__file__.replace('coins.py', 'flag')).close()\n        code = f"
        )
    )
    stage = {**PROBLEMS, "sources": [{"task": "coins.py:coins", "count": 3}]}
    with pytest.raises(FileNotFoundError):
        run_tiny(tmp_path / "run", stage, base=tmp_path)
    folder = find_stage(tmp_path / "run", "problems")
    assert not (folder / "DONE").exists()

    (tmp_path / "flag").touch()
    run_tiny(tmp_path / "run", stage, base=tmp_path)

    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert written["DONE"] == max(written.values())
    assert written.keys() == {"DONE", "config.json", "manifest.json", "solutions.parquet", "dropped.jsonl"}
    assert read_json(folder / "manifest.json")["counts"] == {"kept": 3, "dropped": {}}


def test_seconds_of_an_interrupted_stage_are_counted(tmp_path: Path) -> None:
    run_tiny(tmp_path / "run", PROBLEMS)
    folder = find_stage(tmp_path / "run", "problems")
    (folder / "DONE").unlink()
    (folder / "seconds.json").write_text("1000.0")

    run_tiny(tmp_path / "run", PROBLEMS)

    assert 1000 < read_json(folder / "manifest.json")["ledger"]["seconds"] < 1060


def test_a_stage_is_explained_by_its_key_what_it_reads_and_why_it_is_run_or_skipped(tmp_path: Path) -> None:
    out = tmp_path / "run"
    coins = {**PROBLEMS, "sources": [{"task": "coins.py:coins", "count": 1}]}
    (tmp_path / "coins.py").write_text(COINS)

    def explain() -> list[str]:
        return [explain_stage(s, out) for s in plan_recipe(build_recipe(coins, TEXTBOOK), tmp_path)]

    (first, second) = plan_recipe(build_recipe(coins, TEXTBOOK), tmp_path)
    assert explain() == [
        f"problems: key {first.key}, version {first.module.VERSION}, "
        f"reads coins.py:coins ({first.external['coins.py:coins']}); to do: never begun",
        f"textbook: key {second.key}, version {second.module.VERSION}, reads problems; to do: never begun",
    ]
    (out / "stages" / "problems-0123").mkdir(parents=True)
    (out / "stages" / "problems-too-4567").mkdir()
    assert explain()[0].endswith("; to do: nothing has this key; other keys: problems-0123")
    (out / "stages" / first.folder_name).mkdir()
    assert "interrupted in it and is continued" in explain()[0]
    (out / "stages" / first.folder_name / "DONE").touch()
    assert explain()[0].endswith("; skipped: finished earlier")


def test_seconds_are_saved_while_a_stage_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait = (
        "        import pathlib, time\n        saved = pathlib.Path(__file__).parent / 'run' / 'stages'\n"
        "        until = time.monotonic() + 20\n"
        "        while not list(saved.glob('*/seconds.json')):\n"
        "            assert time.monotonic() < until\n            time.sleep(0.01)\n"
    )
    (tmp_path / "coins.py").write_text(COINS.replace("        code = f", wait + "        code = f"))
    monkeypatch.setattr(artifacts, "SAVE_SECONDS_EVERY_S", 0.05)

    run_tiny(
        tmp_path / "run",
        {**PROBLEMS, "sources": [{"task": "coins.py:coins", "count": 1}]},
        base=tmp_path,
    )

    assert not list((tmp_path / "run").glob("stages/*/seconds.json"))


def test_what_a_killed_stage_left_half_written_is_removed(tmp_path: Path) -> None:
    run_tiny(tmp_path / "run", PROBLEMS)
    folder = find_stage(tmp_path / "run", "problems")
    (folder / "DONE").unlink()
    (folder / ".solutions.parquet.1.tmp").write_bytes(b"half")
    (folder / ".model.1.tmp").mkdir()

    run_tiny(tmp_path / "run", PROBLEMS)

    assert not list(folder.glob(".*"))


def test_two_runs_in_one_folder_at_once_are_refused(tmp_path: Path) -> None:
    with lock_folder(tmp_path / "run"), pytest.raises(RunLocked, match="another process is running in"):
        run_tiny(tmp_path / "run", PROBLEMS)


def test_the_lock_of_a_dead_process_blocks_nobody(tmp_path: Path) -> None:
    hold = "import sys; from ponderosa.artifacts import lock_folder; from pathlib import Path\n"
    hold += "with lock_folder(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(RunLocked), lock_folder(tmp_path):
        pass

    holder.kill()
    holder.wait()
    holder.stdout.close()
    holder.stdin.close()

    with lock_folder(tmp_path):
        pass


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    run_tiny(out, *WHOLE)
    return out


def test_summary_rows_carry_every_column(whole_run: Path) -> None:
    summary = read_json(whole_run / "summary.json")

    assert summary["schema"] == 1
    assert {row["model"] for row in summary["rows"]} == {"base", "sft"}
    for row in summary["rows"]:
        assert set(COLUMNS) <= set(row)
        assert row["run"] == "whole"
        assert row["train_flops"] > 0
        assert row["eval_flops"] > 0
        assert row["stage_s"] > 0
        assert row["eval_s"] > 0
        assert row["low"] <= row["value"] <= row["high"]
    assert [test["suite"] for test in summary["tests"] if test["slice"] == "all"] == ["quantities"]


def test_shown_attempts_say_the_slice_they_belong_to(whole_run: Path) -> None:
    shown = read_json(find_stage(whole_run, "evaluate-sft") / "samples.json")

    assert {sample["slice"].partition("=")[0] for sample in shown} == {"operations"}


def test_only_finished_work_is_left_behind(whole_run: Path) -> None:
    names = {path.name for path in whole_run.glob("stages/*/*")}

    assert names.isdisjoint({"journal.jsonl", "checkpoint.safetensors"})
    assert not [name for name in names if name.startswith("seconds")]
    assert all((folder / "DONE").exists() for folder in whole_run.glob("stages/*"))


@pytest.mark.parametrize("name", ["base", "sft", "evaluate-base", "evaluate-sft"])
def test_a_stage_done_again_gives_the_same_table(name: str, whole_run: Path) -> None:
    before = read_json(whole_run / "summary.json")
    (find_stage(whole_run, name) / "DONE").unlink()

    run_tiny(whole_run, *WHOLE)

    after = read_json(whole_run / "summary.json")
    for row in (*before["rows"], *after["rows"]):
        del row["stage_s"], row["eval_s"]
    assert before == after


def test_manifests_say_what_a_stage_was_made_from(whole_run: Path) -> None:
    manifest = read_json(find_stage(whole_run, "sft") / "manifest.json")

    assert set(manifest["inputs"]) == {"midtrained", "problems"}
    assert manifest["ledger"]["train_tokens"] > 0
    assert manifest["device"] == "cpu"
    assert set(manifest["versions"]) >= {"ponderosa", "torch", "transformers"}


def test_no_absolute_path_or_host_name_is_written(whole_run: Path, tmp_path: Path) -> None:
    exam = write_rows(tmp_path / "exam.jsonl")
    run_tiny(whole_run, *WHOLE[:4], evaluate_file(exam))
    written = [*whole_run.glob("*.json"), *whole_run.glob("stages/*/*.json")]
    assert written
    for path in written:
        text = path.read_text()
        assert str(tmp_path) not in text, path
        assert str(whole_run.parent) not in text, path
        assert os.uname().nodename not in text, path
    assert "exam.jsonl" in (whole_run / "recipe.json").read_text()


# A checkpoint in place of a grown base


def test_a_base_of_ones_own_takes_the_place_of_the_grown_one(tmp_path: Path) -> None:
    folder = save_foreign_model(tmp_path / "model")

    stages = plan_recipe(build_recipe(*WHOLE, base="model"), tmp_path)

    assert [(stage.name, stage.kind) for stage in stages][:2] == [
        ("problems", "solutions"),
        ("base", "import_model"),
    ]
    assert {stage.name for stage in stages} == {entry["name"] for entry in WHOLE} - {"textbook", "tokenizer"}
    assert str(folder) not in json.dumps(plan_keys(*WHOLE, base=tmp_path))


def test_a_base_given_on_the_command_line_is_looked_for_where_we_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_foreign_model(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    path = find_recipe("quickstart-tiny")

    stages = plan_recipe(load_recipe(path, ["base=model"]), find_base(path))

    assert "import_model" in {stage.kind for stage in stages}


def test_a_base_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such model directory: .*nowhere"):
        plan_recipe(build_recipe(*WHOLE, base="nowhere"), tmp_path)


def test_a_recipe_without_a_stage_named_base_cannot_replace_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no stage named 'base'"):
        plan_recipe(build_recipe(PROBLEMS, base="model"), tmp_path)


def test_the_name_of_a_recipe_changes_no_key() -> None:
    assert plan_keys(PROBLEMS) == plan_keys(PROBLEMS, name="other")


def test_the_second_evaluation_is_tested_against_the_first(whole_run: Path) -> None:
    tests = read_json(find_stage(whole_run, "evaluate-sft") / "tests.json")

    assert tests
    assert EVALUATE_SFT["compare_to"] == "evaluate-base"


def test_models_are_found_by_their_stages_name_whatever_its_key(tmp_path: Path) -> None:
    out = tmp_path / "run"
    for epochs in (1, 2):
        stages = (*GROWN, {**SFT, "model": "base", "epochs": epochs})
        run_tiny(out, *stages)
        *_, sft = plan_recipe(build_recipe(*stages), tmp_path)
        assert (out / "models" / "sft").resolve() == (out / "stages" / sft.folder_name / "model").resolve()
    assert (out / "models" / "base" / "config.json").is_file()


def test_reward_models_are_linked_as_policies_are(tmp_path: Path) -> None:
    stages = plan_recipe(load_recipe(RECIPES / "self-evolution-tiny.yaml"), RECIPES)
    ppm = next(stage for stage in stages if stage.kind == "reward_model")
    link_model(tmp_path, "ppm-1, seed 3", ppm)
    assert (tmp_path / "models" / "ppm-1-seed-3").readlink() == Path("..", "stages", ppm.folder_name, "model")
