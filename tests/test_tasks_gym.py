"""reasoning-gym: every task's gold answer scores, nothing else does, and scorers run confined."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("reasoning_gym.version_manager", reason="needs ponderosa[gym]")

from ponderosa.errors import DataError, RequestError
from ponderosa.records import Problem, to_record
from ponderosa.sandbox import tiers_available
from ponderosa.sandbox.cpython import ForkServer
from ponderosa.sandbox.execution import Limits
from ponderosa.tasks import get_task, list_tasks
from ponderosa.tasks.gym_catalogue import (
    ANSWER_SHAPES,
    GYM_TASKS,
    REFUSED,
    SEEDED_BY_DATASET,
    VERIFY_ONLY,
    is_well_formed,
)
from ponderosa.tasks.gym_sandboxed import decode, encode
from ponderosa.tasks.reasoning_gym import SOURCE, score_answer
from ponderosa.verify import Grader, get_verifier

pytestmark = pytest.mark.skipif(
    tiers_available()["cpython"] is not None, reason=f"needs the cpython tier: {tiers_available()['cpython']}"
)

NUM_GROUPS = 4
SEEDS = [1, 3]
SLOW_SCORERS = {"codeio", "intermediate_integration"}
"""They spend seconds on a wrong answer, looking for partial credit."""

CONTRACT = """
def candidates(gold, other):
    digits = [index for index, character in enumerate(gold) if character.isdigit()]
    if digits:  # the first digit becomes 99, so that no tolerance forgives it
        yield gold[: digits[0]] + "99" + gold[digits[0] + 1 :]
    yield from ["", " ", "banana", "[]", "{}", "None"]
    if other != gold:
        yield from [other, f"{other} or {gold}", f"{gold} or {other}", f"{other}\\n{gold}", f"{gold}\\n{other}"]

def check(name, seeds, by_dataset, is_scored):
    items = generate(name, {}, seeds, by_dataset)
    again = generate(name, {}, seeds[:1], by_dataset)
    report = {"questions": [item[0] for item in items], "again": again[0] == items[0], "gold": [], "right": []}
    report["answers"] = [item[1] for item in items]
    for item, following in zip(items, [*items[1:], items[0]]):
        if item[1] is None:
            continue
        report["gold"].append(score(name, {}, item, item[1]))
        if is_scored:
            wrong = [text for text in candidates(item[1], following[1]) if score(name, {}, item, text) >= 1]
            report["right"] += [[text, item[1]] for text in wrong]
    return report

import sys
with contextlib.redirect_stdout(io.StringIO()):
    reports = {name: check(name, *arguments) for name, arguments in TASKS.items()}
print(json.dumps(reports))
"""

ALSO_RIGHT = {
    "n_queens": "a different board may solve the same puzzle",
    "complex_arithmetic": "a tolerance",
    "jugs": "a plan may solve more than one puzzle",
}


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    """A confined process with room for many tasks at once."""
    server = ForkServer(Limits(wall_s=60.0, memory_bytes=1 << 30, max_output_bytes=16 << 20))
    yield server
    server.close()


@pytest.mark.parametrize("group", range(NUM_GROUPS))
def test_every_task_scores_its_gold_answer_and_nothing_else(group: int, server: ForkServer) -> None:
    names = [name for name in GYM_TASKS if name not in REFUSED][group::NUM_GROUPS]
    tasks = {name: [SEEDS, name in SEEDED_BY_DATASET, name not in SLOW_SCORERS] for name in names}
    run = server.run([SOURCE.read_text("utf-8"), f"TASKS = {tasks!r}\n" + CONTRACT], ["reasoning_gym"])[-1]
    assert run.outcome == "ok", run.error
    for name, report in json.loads(run.output).items():
        assert report["again"], f"{name}: the same seed gave another problem"
        assert len(set(report["questions"])) > 1, f"{name}: different seeds gave one problem"
        assert (set(report["answers"]) == {None}) == (name in VERIFY_ONLY), name
        assert set(report["gold"]) <= {1.0}, f"{name}: a gold answer scored {report['gold']}"
        readable = [is_well_formed(name, gold, gold) for gold in report["answers"] if gold]
        assert name in VERIFY_ONLY or any(readable), name
        wrong = [text for text, gold in report["right"] if is_well_formed(name, text, gold)]
        assert not wrong or name in ALSO_RIGHT, f"{name}: {wrong} scored 1.0"


def test_the_catalogue_is_what_is_installed(server: ForkServer) -> None:
    listing = "import json, reasoning_gym.factory as f\nprint(json.dumps(sorted(f.DATASETS)))"
    installed = json.loads(server.run([listing], ["reasoning_gym"])[-1].output)
    assert sorted([*GYM_TASKS, "composite"]) == installed
    assert {f"gym/{name}" for name in GYM_TASKS} <= set(list_tasks())


def test_splits_are_disjoint_and_seeds_share_nothing() -> None:
    task = get_task("gym/chain_sum")
    drawn = {
        (seed, split): [p.question for p in task.generate(12, seed, split)]
        for seed in (42, 43)
        for split in ("train", "test")
    }
    assert drawn[42, "train"] == [p.question for p in task.generate(12, 42, "train")]
    everything = [question for questions in drawn.values() for question in questions]
    assert len(set(everything)) == 48


def test_a_refused_task_says_why() -> None:
    for name, reason in REFUSED.items():
        with pytest.raises(RequestError, match=reason[:30]):
            get_task(f"gym/{name}")
    with pytest.raises(RequestError, match="did you mean 'chain_sum'"):
        get_task("gym/chain_sums")


def test_a_space_too_small_is_an_error_not_an_endless_search() -> None:
    with pytest.raises(DataError, match=r"too few different train problems: \d+ of 500"):
        list(get_task("gym/coin_flip").generate(500, 1, "train", min_trials=3, max_trials=4))


def test_an_unknown_option_is_the_request_s_fault() -> None:
    with pytest.raises(RequestError, match="no_such_option"):
        list(get_task("gym/chain_sum").generate(1, 1, "train", no_such_option=3))


def test_problems_are_plain_json_and_verify_by_name() -> None:
    (problem,) = get_task("gym/graph_color").generate(1, 1, "test")
    problem = Problem(**json.loads(json.dumps(to_record(problem))))
    assert problem.answer is None
    solution = json.dumps(problem.meta["metadata"]["possible_answer"]["items"])
    right = json.dumps({str(vertex): color for vertex, color in json.loads(solution)})
    verifier = get_verifier("reasoning_gym")
    with Grader() as grader:
        assert verifier.verify(problem, right, grader).reason == "correct"
        assert verifier.verify(problem, "{}", grader).reason == "wrong_answer"
        assert verifier.verify(problem, None, grader).reason == "no_answer"


def test_metadata_keeps_its_types_across_the_border() -> None:
    value = {"grid": ((1, 2), (3, 4)), "by_number": {1: "a"}, "set": {3}, "plain": [None, 1.5, True]}
    assert decode(json.loads(json.dumps(encode(value)))) == value


HOSTILE = "__import__('os').system('id') or 1"


@pytest.mark.parametrize("task", ["countdown", "simple_integration", "n_queens", "string_insertion"])
def test_code_in_an_answer_never_reaches_a_scorer_that_evaluates_it(task: str) -> None:
    (problem,) = get_task(f"gym/{task}").generate(1, 1, "test")
    assert score_answer(problem, problem.answer or "").value == 1.0
    for text in (HOSTILE, "9**9**9", "().__class__", "lambda: 1", "a.b", "[print(1)]"):
        assert not is_well_formed(task, text, problem.answer) or text == "9**9**9"


def test_an_answer_of_any_length_is_refused_at_once() -> None:
    assert not is_well_formed("simple_integration", "1" * 50_000 + "!", None)
    assert not is_well_formed("countdown", "1" * 50_000 + "!", None)


def test_the_documents_list_what_is_refused_screened_and_verify_only() -> None:
    text = (Path(__file__).resolve().parents[1] / "docs" / "tasks.md").read_text("utf-8")
    assert [
        f"| `{name}` | {reason} |"
        for name, reason in REFUSED.items()
        if f"| `{name}` | {reason} |" not in text
    ] == []
    assert [name for name in [*VERIFY_ONLY, *ANSWER_SHAPES] if f"`{name}`" not in text] == []
