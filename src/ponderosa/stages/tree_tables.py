"""Search trees as Parquet tables that DuckDB can query: one row per tree, one per node, one per verdict.

    trees/N.parquet      the search: problem, prompt, how it ended, its cost
    nodes/N.parquet      every step of every tree, numbered by its `place`
    verdicts/N.parquet   the verdict on each solution, by the place of the node that ends it

A tree has one number in all three, from 0. N is the number of a part's first tree, so that a long search can be saved
unit by unit. Verdicts lie apart, so that a better grader can grade the stored trees again.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ponderosa.artifacts import read_table, write_table
from ponderosa.data.trajectories import Trajectory, list_trajectories
from ponderosa.records import Cost, GradedTree, Node, Step, Tree, Verdict

TREES, NODES, VERDICTS = "trees", "nodes", "verdicts"


def save_trees(folder: Path, graded: Sequence[GradedTree], *, first: int = 0) -> None:
    """Write the part of these trees, the first of which has number `first`."""
    part = f"{first:08}.parquet"
    numbered = list(enumerate(graded, first))
    tables = {
        TREES: [describe_tree(number, one.tree) for number, one in numbered],
        NODES: [row for number, one in numbered for row in describe_nodes(number, one.tree)],
        VERDICTS: [row for number, one in numbered for row in describe_verdicts(number, one)],
    }
    for name, rows in tables.items():
        write_table(folder / name / part, rows, schema=_build_schema(name))


def load_trees(folder: Path) -> list[GradedTree]:
    """Everything that `save_trees` wrote, in order."""
    return list(iterate_trees(folder))


def iterate_trees(folder: Path) -> Iterator[GradedTree]:
    """What `load_trees` gives, with one part in memory at a time."""
    for path in sorted((folder / TREES).glob("*.parquet")):
        nodes: defaultdict[int, list[Node]] = defaultdict(list)
        for row in read_table(folder / NODES / path.name):
            nodes[row["tree"]].append(parse_node(row))
        verdicts: defaultdict[int, dict[int, Verdict]] = defaultdict(dict)
        for row in read_table(folder / VERDICTS / path.name):
            verdict = Verdict(row["correct"], row["reason"], row["verifier"])
            verdicts[row["tree"]][row["place"]] = verdict
        for row in read_table(path):
            number = row.pop("tree")
            record = {**row, "prompt_ids": tuple(row["prompt_ids"]), "cost": Cost(**row["cost"])}
            yield GradedTree(Tree(**record, nodes=tuple(nodes[number])), verdicts[number])


def load_trajectories(folder: Path) -> list[Trajectory]:
    """The ways that ended, through every tree in turn; the rest of the trees is let go."""
    return [trajectory for graded in iterate_trees(folder) for trajectory in list_trajectories(graded)]


def load_costs(folder: Path) -> dict[str, Cost]:
    """What the trees of each problem cost together, by problem id."""
    costs: defaultdict[str, Cost] = defaultdict(Cost)
    for row in read_table(folder / TREES):
        costs[row["problem_id"]] += Cost(**row["cost"])
    return dict(costs)


def load_doubted(folders: Iterable[Path]) -> frozenset[str]:
    """The ids of the problems whose gold answer some search came to doubt and none of them found, in all these folders."""
    folders = tuple(folders)
    rows = [row for folder in folders for row in read_table(folder / TREES)]
    suspicious = {row["problem_id"] for row in rows if row["end"] == "suspicious"}
    return frozenset(suspicious.difference(*map(load_solved, folders)))


def load_solved(folder: Path) -> frozenset[str]:
    """The ids of the problems with a right solution."""
    return frozenset(row["problem_id"] for row in read_table(folder / VERDICTS) if row["correct"])


def describe_tree(number: int, tree: Tree) -> dict[str, Any]:
    """A tree's row: all but its nodes."""
    values = {field.name: getattr(tree, field.name) for field in fields(Tree) if field.name != "nodes"}
    return {"tree": number, **values, "cost": asdict(tree.cost)}


def describe_nodes(number: int, tree: Tree) -> Iterator[dict[str, Any]]:
    """A row for each node. depth: how many steps lead to it, itself included."""
    depths: list[int] = []
    for place, node in enumerate(tree.nodes):
        depths.append(1 if node.parent is None else depths[node.parent] + 1)
        values = {field.name: getattr(node, field.name) for field in fields(Node) if field.name != "step"}
        key = {"tree": number, "problem_id": tree.problem_id, "place": place, "depth": depths[place]}
        yield {**key, **asdict(node.step), **values}


def describe_verdicts(number: int, graded: GradedTree) -> Iterator[dict[str, Any]]:
    """A row for each verdict, by place."""
    for place, verdict in sorted(graded.verdicts.items()):
        key = {"tree": number, "problem_id": graded.tree.problem_id, "place": place}
        yield {**key, **asdict(verdict)}


def parse_node(row: dict[str, Any]) -> Node:
    """What `describe_nodes` made a row of."""
    values = {field.name: row[field.name] for field in fields(Node) if field.name != "step"}
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    step = Step(**{field.name: row[field.name] for field in fields(Step)})
    return Node(**{**values, **lists}, step=step)


def _build_schema(table: str) -> Any:
    """The same columns and types in every part, whether or not it has a value of each."""
    import pyarrow as pa

    key = {"tree": pa.int64(), "problem_id": pa.string()}
    cost = {field.name: pa.float64() if field.name == "flops" else pa.int64() for field in fields(Cost)}
    ids, numbers = pa.list_(pa.int32()), pa.list_(pa.float64())
    columns = {
        TREES: {
            "prompt_ids": ids,
            "end": pa.string(),
            "cost": pa.struct(cost.items()),
            "strategy": pa.string(),
            "model_id": pa.string(),
            "scorer_id": pa.string(),
            "seed": pa.int64(),
            "num_simulations": pa.int32(),
        },
        NODES: {
            "place": pa.int32(),
            "parent": pa.int32(),
            "depth": pa.int32(),
            "text": pa.string(),
            "code": pa.string(),
            "observation": pa.string(),
            "outcome": pa.string(),
            "multiplicity": pa.int32(),
            "prior": pa.float64(),
            "visits": pa.int32(),
            "value": pa.float64(),
            "score": pa.float64(),
            "finish": pa.string(),
            "answer": pa.string(),
            "answer_key": pa.string(),
            "token_ids": ids,
            "sampled": pa.list_(pa.bool_()),
            "model_logprobs": numbers,
            "sampling_logprobs": numbers,
        },
        VERDICTS: {
            "place": pa.int32(),
            "correct": pa.bool_(),
            "reason": pa.string(),
            "verifier": pa.string(),
        },
    }
    return pa.schema([*key.items(), *columns[table].items()])
