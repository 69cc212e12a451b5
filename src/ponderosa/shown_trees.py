"""Trees as a reader is shown them: without their tokens, with what the reader wants to know beside them.

A stage that keeps trees leaves a file of a few of them beside its tables, and the report draws what is in it; a tree
that `solve` has grown is drawn in the same form. Reading checks everything, because drawing trusts it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter

from ponderosa.artifacts import read_json, write_json
from ponderosa.records import Tree, Verdict

SHOWN_FILE = "shown_trees.json"


@dataclass(frozen=True, slots=True)
class ShownTree:
    """A tree and its question.

    label: why it is shown. gold: None where no answer is known. verdicts: by the place of the node that ends the
    solution; none were asked for at test time. chosen: the place of the node that ends the chosen solution, if any.
    """

    question: str
    tree: Tree
    label: str = ""
    gold: str | None = None
    verdicts: Mapping[int, Verdict] = field(default_factory=dict)
    chosen: int | None = None

    def __post_init__(self) -> None:
        places = range(len(self.tree.nodes))
        assert self.chosen is None or self.chosen in places, self.chosen
        for place, node in enumerate(self.tree.nodes):
            assert node.parent is None or node.parent in places[:place], (place, node.parent)


def locate_ending(tree: Tree, token_ids: Sequence[int]) -> int | None:
    """Where the solution with these tokens ends in a tree; None if it is not in it."""
    whole = (*tree.prompt_ids, *token_ids)
    for place, node in enumerate(tree.nodes):
        if node.finish is not None and tree.join_tokens(place) == whole:
            return place
    return None


def strip_tokens(tree: Tree) -> Tree:
    """A tree without its token ids and log-probabilities, which are most of its size."""
    nodes = [
        replace(node, token_ids=(), sampled=(), model_logprobs=(), sampling_logprobs=())
        for node in tree.nodes
    ]
    return replace(tree, prompt_ids=(), nodes=tuple(nodes))


def save_shown(folder: Path, shown: Sequence[ShownTree]) -> None:
    """Write the file of a stage's shown trees."""
    write_json(folder / SHOWN_FILE, [asdict(replace(one, tree=strip_tokens(one.tree))) for one in shown])


def load_shown(path: Path) -> list[ShownTree]:
    """What `save_shown` wrote. Raises ValueError for anything else, and OSError."""
    return TypeAdapter(list[ShownTree]).validate_python(read_json(path))
