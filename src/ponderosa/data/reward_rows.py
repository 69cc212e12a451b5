"""Rows that a reward model reads: trees of documents whose weighted tokens are those at which a score is read.

A comparison is a row of its prefix and, beside one another, its continuations. The nodes of a search tree are read
along solutions that share the prompt, each node once, so all the steps of a solution cost one pass. A score stands at
the last token of a step and of what it showed, where the search reads it too.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ponderosa.data.step_pairs import Comparison
from ponderosa.records import Row, Tree

IS_CHOSEN = "is_chosen"
"""Column of a comparison's row: 1 for the continuations that are preferred, 0 for those they are preferred to."""
TARGET = "target"
"""Column of a tree's row: what the score of a node should say (1 or 0 for an outcome, or a Q value)."""

MAX_ROW_TOKENS = 1024
"""The solutions of a tree go on in a new row, with the prompt again, where a row would hold more than this."""


class NodeRow(NamedTuple):
    """A row, and the nodes whose scores are read in it, in their order."""

    row: Row
    places: tuple[int, ...]


class _Document(NamedTuple):
    """Token ids, the nodes that are read in them, and at each index where one is read the column's value."""

    token_ids: tuple[int, ...]
    places: tuple[int, ...]
    values: Mapping[int, float]


def build_comparison_row(comparison: Comparison) -> Row:
    """A comparison's row: the scores read are those of the chosen continuations, then those of the rejected ones."""
    sides = ((comparison.chosen, 1.0), (comparison.rejected, 0.0))
    documents = [
        _Document(ids, (), {len(ids) - 1: is_chosen})
        for continuations, is_chosen in sides
        for ids in continuations
    ]
    return _build_row(comparison.prefix_ids, documents, IS_CHOSEN)


def build_node_rows(tree: Tree, targets: Mapping[int, float], *, max_length: int) -> list[NodeRow]:
    """Rows in which the score of every node that has a target is read once.

    Nodes that end behind `max_length` tokens, the prompt included, are left out.
    """
    fitting = {
        place: target for place, target in targets.items() if len(tree.join_tokens(place)) <= max_length
    }
    documents = _build_documents(tree, fitting)
    return [
        NodeRow(
            _build_row(tree.prompt_ids, members, TARGET),
            tuple(place for document in members for place in document.places),
        )
        for members in _fill_rows(documents, len(tree.prompt_ids))
    ]


def list_readings(row: Row, scores: Sequence[float]) -> list[float]:
    """Of a row's scores, one for each token, those that were read."""
    return [score for score, weight in zip(scores, row.loss_weights, strict=True) if weight]


def _build_documents(tree: Tree, targets: Mapping[int, float]) -> Iterator[_Document]:
    """As few solutions as all nodes with a target lie on; a node is read in the first that goes through it."""
    unread = dict(targets)
    for last in _list_last(tree, targets):
        token_ids: list[int] = []
        values: dict[int, float] = {}
        places: list[int] = []
        for place in tree.list_path(last):
            token_ids += tree.nodes[place].token_ids
            if place in unread:
                values[len(token_ids) - 1] = unread.pop(place)
                places.append(place)
        yield _Document(tuple(token_ids), tuple(places), values)


def _list_last(tree: Tree, targets: Mapping[int, float]) -> list[int]:
    """The nodes with a target that no other node with one continues."""
    last: list[int] = []
    passed: set[int | None] = set()
    for place in reversed(range(len(tree.nodes))):
        if place in targets and place not in passed:
            last.append(place)
        if place in targets or place in passed:
            passed.add(tree.nodes[place].parent)
    return last[::-1]


def _fill_rows(documents: Iterator[_Document], num_prompt: int) -> Iterator[list[_Document]]:
    members: list[_Document] = []
    num_tokens = num_prompt
    for document in documents:
        if members and num_tokens + len(document.token_ids) > MAX_ROW_TOKENS:
            yield members
            members, num_tokens = [], num_prompt
        members.append(document)
        num_tokens += len(document.token_ids)
    if members:
        yield members


def _build_row(prefix_ids: tuple[int, ...], documents: Sequence[_Document], column: str) -> Row:
    """A tree of the prefix and its continuations. Scores are read, with weight 1, where a document has a value."""
    assert all(document.token_ids for document in documents)
    token_ids, weights, values = list(prefix_ids), [0.0] * len(prefix_ids), [0.0] * len(prefix_ids)
    document_ids = [0] * len(prefix_ids)
    for number, document in enumerate(documents, 1):
        indices = range(len(document.token_ids))
        token_ids += document.token_ids
        weights += [float(index in document.values) for index in indices]
        values += [document.values.get(index, 0.0) for index in indices]
        document_ids += [number] * len(document.token_ids)
    return Row(tuple(token_ids), tuple(weights), tuple(document_ids), True, {column: tuple(values)})
