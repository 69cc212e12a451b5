"""Suites: drawn by name, hashed by content, and kept apart by what they are for."""

import json

import pytest

from ponderosa.errors import ConfigError, DataError, RequestError
from ponderosa.evaluation.suites import SUITES, Suite, load_suite
from ponderosa.planning import find_recipe, load_recipe
from ponderosa.records import Problem


def write_problems(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path.name


def test_a_suite_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    first, again, other = (load_suite("quantities", seed=seed, limit=30) for seed in (1, 1, 2))
    assert first.content_hash == again.content_hash != other.content_hash
    assert len({problem.id for problem in first.problems}) == 30
    assert first.slice_keys == ("operations",)


def test_a_larger_limit_only_adds_problems() -> None:
    small, large = (load_suite("quantities", seed=4, limit=limit).problems for limit in (10, 25))
    assert large[:10] == small


def test_reports_and_selections_share_no_problem_even_under_one_seed() -> None:
    report = load_suite("quantities", seed=1, limit=80, options={"max_operations": 2})
    selection = load_suite("quantities", seed=1, limit=80, purpose="selection", options={"max_operations": 2})
    assert {p.split for p in report.problems} == {"test"}
    assert {p.split for p in selection.problems} == {"selection"}
    assert {p.id for p in report.problems}.isdisjoint(p.id for p in selection.problems)


@pytest.mark.parametrize("split", ["selection", "train"])
def test_reporting_on_what_was_trained_or_selected_on_is_refused(split) -> None:
    with pytest.raises(ConfigError, match=f"split '{split}', which is trained or selected on"):
        load_suite("quantities", seed=1, limit=5, split=split)
    with pytest.raises(ConfigError, match="trained or selected on"):
        Suite("mine", "report", (Problem("q", "1", split=split),))


@pytest.mark.parametrize("split", ["test", "structural"])
def test_selecting_on_what_is_reported_is_refused(split) -> None:
    with pytest.raises(ConfigError, match="kept for reports"):
        load_suite("quantities", seed=1, limit=5, purpose="selection", split=split)


def test_the_structural_suite_holds_shapes_of_its_own() -> None:
    suite = load_suite("quantities-structural", seed=1, limit=10)
    assert {problem.split for problem in suite.problems} == {"structural"}
    assert min(problem.meta["operations"] for problem in suite.problems) >= 2


def test_a_file_is_a_suite_and_its_refused_rows_are_kept_with_their_reason(tmp_path) -> None:
    rows = [{"question": "1+1?", "answer": "2"}, {"question": "2+2?", "answer": 4}, {"answer": "no question"}]
    name = write_problems(tmp_path / "mine.jsonl", rows)
    suite = load_suite(name, seed=1, base=tmp_path)
    assert {problem.answer for problem in suite.problems} == {"2", "4"}
    assert [(row.file, row.line) for row in suite.quarantined] == [("mine.jsonl", 3)]
    assert len(load_suite(name, seed=1, base=tmp_path, limit=1).problems) == 1


def test_rows_of_other_splits_are_counted_and_said_beside_the_refused_ones(tmp_path) -> None:
    splits = ["train", None, "train", "selection", "test", "train"]
    rows = [{"question": f"{n}?", "answer": n, "split": split} for n, split in enumerate(splits)]
    name = write_problems(tmp_path / "mine.jsonl", [*rows, {"answer": "no question"}])
    assert load_suite(name, seed=1, base=tmp_path).left_out == [
        "mine.jsonl:7: 'question' is missing or empty",
        "1 malformed in all; the figures are of 2 problems",
        "mine.jsonl: 3 of 7 rows are of split train, not test",
        "mine.jsonl: 1 of 7 rows are of split selection, not test",
    ]
    chosen = load_suite(name, seed=1, base=tmp_path, purpose="selection")
    assert chosen.left_out[-1] == "mine.jsonl: 2 of 7 rows are of split test, not selection"


def test_the_hash_is_of_what_is_asked_and_not_of_names(tmp_path) -> None:
    rows = [{"question": "1+1?", "answer": "2"}]
    one = load_suite(write_problems(tmp_path / "a.jsonl", rows), seed=1, base=tmp_path)
    two = load_suite(write_problems(tmp_path / "b.jsonl", rows), seed=9, base=tmp_path)
    assert one.content_hash == two.content_hash
    rows[0]["answer"] = "3"
    assert (
        load_suite(write_problems(tmp_path / "a.jsonl", rows), seed=1, base=tmp_path).content_hash
        != one.content_hash
    )


def test_a_problem_twice_and_an_empty_suite_are_refused() -> None:
    problem = Problem("q", "1")
    with pytest.raises(DataError, match="holds a problem twice"):
        Suite("mine", "report", (problem, problem))
    with pytest.raises(DataError, match="no problems"):
        Suite("mine", "report", ())


def test_an_unknown_suite_names_the_nearest() -> None:
    with pytest.raises(RequestError, match="quantities"):
        load_suite("quantites", seed=1)
    with pytest.raises(RequestError, match="limit=0"):
        load_suite("quantities", seed=1, limit=0)


@pytest.mark.parametrize(("name", "count"), [("gsm8k", 1319), ("svamp", 1000), ("math500", 500)])
def test_benchmarks_load_whole(name, count, benchmark_data, monkeypatch) -> None:
    monkeypatch.setenv("PONDEROSA_DATA", str(benchmark_data))
    suite = load_suite(name, seed=1)
    assert len(suite.problems) == count
    assert suite.quarantined == ()


@pytest.mark.parametrize("name", ["quickstart", "quickstart-structural"])
def test_the_quickstarts_suites_are_what_its_recipe_measures(name: str) -> None:
    recipe = load_recipe(find_recipe("quickstart"))
    (stage,) = (one for one in recipe.stages if one["name"] == "evaluate-sft")
    measured = {
        suite["suite"].replace("quantities", "quickstart"): suite["options"] for suite in stage["suites"]
    }
    assert dict(SUITES[name].options) == measured[name]
