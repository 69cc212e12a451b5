"""Search trees in Parquet: the round trip is exact and parts add up."""

import re
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ponderosa.data.trajectories import list_trajectories
from ponderosa.records import GradedTree, Step, TreeEnd, Verdict, to_record
from ponderosa.stages.tree_tables import load_doubted, load_trees, save_trees
from tree_records import RIGHT, WRONG, build_node, build_tree

DOCS = Path(__file__).parents[1] / "docs" / "trees.md"
ENDED = {"finish": "stop", "answer": "7", "answer_key": "7"}
FORKED = GradedTree(
    build_tree(
        build_node(),
        build_node(0, step=Step("print(7)", "print(7)", "7", "ok"), **ENDED),
        build_node(0, step=Step("Ünïcode \x00 🙂\r\n"), score=-0.75, finish="length"),
        build_node(2, token_ids=(), sampled=(), model_logprobs=(), sampling_logprobs=(), finish="error"),
    ),
    {1: RIGHT, 2: WRONG},
)
BARE = GradedTree(build_tree(problem_id="q", end="hopeless", scorer_id="s", prompt_ids=()), {})


def test_trees_come_back_as_they_were(tmp_path: Path) -> None:
    save_trees(tmp_path, [FORKED, BARE])
    assert load_trees(tmp_path) == [FORKED, BARE]


def test_a_folder_without_trees_gives_none(tmp_path: Path) -> None:
    save_trees(tmp_path, [])
    assert load_trees(tmp_path) == []


def test_parts_are_one_numbered_sequence_with_one_set_of_types(tmp_path: Path) -> None:
    save_trees(tmp_path, [BARE, FORKED], first=1)
    save_trees(tmp_path, [FORKED], first=0)
    assert load_trees(tmp_path) == [FORKED, BARE, FORKED]
    for name in ("trees", "nodes", "verdicts"):
        parts = sorted((tmp_path / name).glob("*.parquet"))
        assert len(parts) == 2
        assert pq.read_schema(parts[0]) == pq.read_schema(parts[1])
    numbers = [row["tree"] for row in pq.read_table(tmp_path / "nodes").to_pylist()]
    assert numbers == [0, 0, 0, 0, 2, 2, 2, 2]


def test_every_field_of_a_record_has_a_column_with_its_value(tmp_path: Path) -> None:
    save_trees(tmp_path, [FORKED])
    for table, record in (("trees", FORKED.tree), ("nodes", FORKED.tree.nodes[0])):
        row = pq.read_table(tmp_path / table).to_pylist()[0]
        for name, value in to_record(record).items():
            if name not in ("nodes", "step"):
                assert row[name] == (list(value) if isinstance(value, tuple) else value), name


def test_depth_counts_the_steps_to_a_node(tmp_path: Path) -> None:
    save_trees(tmp_path, [FORKED])
    assert pq.read_table(tmp_path / "nodes").column("depth").to_pylist() == [1, 2, 2, 3]


def test_a_label_is_doubted_unless_a_tree_of_any_search_found_it(tmp_path: Path) -> None:
    def save(name: str, problem_id: str, verdict: Verdict, end: TreeEnd) -> Path:
        tree = build_tree(build_node(), problem_id=problem_id, end=end)
        save_trees(tmp_path / name, [GradedTree(tree, {0: verdict})])
        return tmp_path / name

    found = save("found", "p", RIGHT, "solved")
    missed = save("missed", "p", WRONG, "suspicious")
    other = save("other", "q", WRONG, "suspicious")
    assert load_doubted([missed, other]) == {"p", "q"}
    assert load_doubted([missed, other, found]) == {"q"}
    assert load_doubted([]) == set()


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@settings(deadline=None, max_examples=40)
@given(
    token_ids=st.lists(st.integers(0, 2**31 - 1), max_size=5),
    number=FLOATS,
    text=TEXTS,
    answer=st.none() | TEXTS,
    seed=st.integers(0, 2**63 - 1),
)
def test_every_value_survives_exactly(
    tmp_path_factory: pytest.TempPathFactory,
    token_ids: list[int],
    number: float,
    text: str,
    answer: str | None,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    node = build_node(
        token_ids=tuple(token_ids),
        sampled=(True,) * len(token_ids),
        model_logprobs=(number,) * len(token_ids),
        sampling_logprobs=(0.0,) * len(token_ids),
        step=Step(text, None, answer, None),
        value=number,
        answer=answer,
    )
    graded = GradedTree(build_tree(node, seed=seed), {0: RIGHT})
    save_trees(folder, [graded])
    assert load_trees(folder) == [graded]


# Questions to the tables


QUERIES = re.findall(r"^```sql\n(.*?)^```", DOCS.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def test_documented_queries_run_and_the_paths_they_find_are_the_trajectories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_trees(tmp_path, [FORKED, BARE])
    monkeypatch.chdir(tmp_path)
    answers = [duckdb.sql(query) for query in QUERIES]
    assert len(answers) == 5
    found = [
        (row["tree"], row["ending"], row["mean_q"], row["least_q"], row["program"])
        for answer in answers
        if "mean_q" in answer.columns
        for row in answer.to_arrow_table().to_pylist()
    ]
    (trajectory,) = (one for one in list_trajectories(FORKED) if one.graded.verdict.correct)
    program = "\n".join(step.code or "" for step in trajectory.graded.attempt.steps)
    assert found == [(0, 1, *trajectory.rank, program)]
