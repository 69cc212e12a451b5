"""Search trees in Parquet: the round trip is exact and parts add up."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponderosa.records import Cost, GradedTree, Node, Step, Tree, Verdict
from ponderosa.stages.tree_tables import load_trees, save_trees

DOCS = Path(__file__).parents[1] / "docs" / "trees.md"
RIGHT = Verdict(True, "correct", "answer@1")
WRONG = Verdict(False, "wrong_answer", "answer@1")


def build_node(parent: int | None = None, **changes: Any) -> Node:
    values: dict[str, Any] = {
        "parent": parent,
        "token_ids": (5, 6, 7),
        "sampled": (True, True, False),
        "model_logprobs": (-0.1, -1.5, 0.0),
        "sampling_logprobs": (-0.2, -1.25, 0.0),
        "step": Step("x = 1", "x = 1", None, "ok"),
        "multiplicity": 1,
        "prior": 0.5,
        "visits": 3,
        "value": 1 / 3,
        "score": None,
        "finish": None,
        "answer": None,
        "answer_key": None,
    }
    return Node(**{**values, **changes})


def build_tree(*nodes: Node, **changes: Any) -> Tree:
    values: dict[str, Any] = {
        "problem_id": "p",
        "prompt_ids": (1, 2, 3),
        "end": "budget",
        "cost": Cost(3, 9, 20, 4, 5, 1.5e9),
        "strategy": "mcts",
        "model_id": "m",
        "scorer_id": None,
        "seed": 2**62 + 1,
    }
    return Tree(nodes=nodes, **{**values, **changes})


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


def test_depth_counts_the_steps_to_a_node(tmp_path: Path) -> None:
    save_trees(tmp_path, [FORKED])
    assert pq.read_table(tmp_path / "nodes").column("depth").to_pylist() == [1, 2, 2, 3]


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


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
