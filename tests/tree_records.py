"""Search trees from nodes with defaults, so that a test names only the values it is about."""

from typing import Any

from ponderosa.records import Cost, Node, Step, Tree, Verdict

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
        "num_simulations": 16,
    }
    return Tree(nodes=nodes, **{**values, **changes})
